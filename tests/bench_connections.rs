//! `make bench-connections`: what the proxy costs before a record has moved: from its start to the first routed byte, and the memory of 4,000
//! connections that say nothing, and of 4,000 in each mode that were routed to a real broker and then rest.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::kafka::{Cluster, Listener};
use harness::measure::{Spread, resting};
use harness::proxy::{Proxy, Routes};
use harness::raw::{Raw, api_versions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 4_000;
const STARTS: usize = 21;

fn main() -> Result<()> {
    let files = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
    ensure!(files.is_none_or(|files| files > 3 * CONNECTIONS as u64), "the limit of open files is {files:?}: raise it (ulimit -Hn)");

    let cluster = Cluster::version("4.3.0").heap_mib(1024).start()?;
    let routes = Routes::new()?
        .kafka("new", &cluster, Listener::Plaintext, None)?
        .relay("relayed", "relayed", "new", "")
        .route("everybody-else", "*", "new")
        .limit("max_connections_per_ip", 10_000)
        .limit("handshake_timeout_ms", 600_000);

    let config = harness::run::folder("first-byte")?.join("routes.toml");
    std::fs::write(&config, routes.text())?;
    let starts = (0..STARTS).map(|_| Ok(first_routed_byte(&routes, &config)?.as_secs_f64() * 1000.0)).collect::<Result<Vec<_>>>()?;
    println!("start to first routed byte, ms: {:.1}; {STARTS} starts", Spread::of(starts)?);

    for (what, client_id) in [("silent", None), ("bootstrap, then idle", Some("bootstrap")), ("relayed, then idle", Some("relayed"))] {
        let mut proxy = Proxy::start(&routes)?;
        println!("{CONNECTIONS} connections, {what}: {}", resting(&proxy, CONNECTIONS, client_id)?);
        proxy.stop()?;
    }
    Ok(())
}

/// From the start of the process to the first byte of a broker's answer, for a client that knocks all the time.
fn first_routed_byte(routes: &Routes, config: &Path) -> Result<Duration> {
    let start = Instant::now();
    let mut proxy = Proxy::launch(routes, config, &["--log-format", "text"])?;
    loop {
        ensure!(start.elapsed() < Duration::from_secs(10), "no answer within 10 s:\n{}", proxy.log_text());
        if let Ok(mut connection) = Raw::connect(proxy.port()) {
            connection.ask(&api_versions(1, Some("first")))?;
            let took = start.elapsed();
            proxy.stop()?;
            return Ok(took);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
