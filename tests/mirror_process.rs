//! The mirror as a guest: of the network, of a host that it shares, and of a cluster that has its own rules.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use harness::LIMIT;
use harness::kafka::{Cluster, Fill, Listener};
use harness::mirror::Mirror;
use harness::ports;
use harness::proxy::{Proxy, Routes, http};
use harness::run;
use harness::scenario::{comes, identical, mirror_of, records};

/// A broker of 2.8 writes nothing where there are fewer replicas than `min.insync.replicas`, which is the cluster's own where the source does not
/// set it. The source has one replica of everything.
#[test]
fn a_bound_of_bytes_per_second_holds_and_one_replica_is_enough() -> Result<()> {
    const BYTES_PER_SECOND: u64 = 2_000_000;
    const RECORD: usize = 1_000;
    let clusters = Cluster::start_all(vec![
        Cluster::version("3.9.1").name("source"),
        Cluster::version("2.8.2").name("target").first_node_id(11).brokers(2).set("min.insync.replicas", "2"),
    ])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("rate.all", 4, &[])?;
    let fill = Fill { records: 20_000, records_per_batch: 50, compression: "none" };
    source.fill("rate.all", fill, |_, value| value.resize(RECORD, b'x'))?;
    let stored = source.stored("rate.all")?;
    let expected = stored.bytes as f64 / BYTES_PER_SECOND as f64;
    let bytes = |records: i64| records as f64 * stored.bytes as f64 / stored.records as f64;

    let mut mirror = mirror_of(source, target, "rate", &format!("max_bytes_per_second = {BYTES_PER_SECOND}"))?;
    let running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || target.partitions("rate.all").map(drop))?;
    let began = Instant::now();
    let mut copied = 0;
    while copied < 20_000 {
        ensure!(began.elapsed() < LIMIT, "{copied} records were copied; {}", mirror.logs()?);
        thread::sleep(Duration::from_millis(100));
        copied = target.log_ends("rate.all")?.iter().sum();
        let (seconds, allowed) = (began.elapsed().as_secs_f64(), BYTES_PER_SECOND as f64 * (began.elapsed().as_secs_f64() + 2.0));
        ensure!(bytes(copied) <= allowed, "{} bytes after {seconds:.1} s", bytes(copied));
    }
    let took = began.elapsed().as_secs_f64();
    println!("{} bytes at {BYTES_PER_SECOND} a second in {took:.1} s", stored.bytes);
    // The last answer is not waited for, and the topic may have been there a moment before its first record.
    ensure!((expected - 1.5..expected * 1.5).contains(&took), "{took:.1} s, and {expected:.1} s were expected");
    identical(source, target, "rate.all")?;
    ensure!(target.partitions("rate.all")?[0].replicas.len() == 1, "it has {:?}", target.partitions("rate.all")?);
    // The mirror's own topic is as the target's cluster wants it.
    let own = target.partitions("__kferry.mirror.rate")?;
    ensure!(own.iter().all(|partition| partition.replicas.len() == 2), "it has {own:?}");
    drop(running);
    Ok(())
}

/// The first line of an answer of an admin address.
fn status(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_proxy_and_two_mirrors_share_a_host_and_a_file() -> Result<()> {
    let clusters =
        Cluster::start_all(vec![Cluster::version("3.9.1").name("old"), Cluster::version("4.3.0").name("new").first_node_id(11)])?;
    let [old, new] = &clusters[..] else { bail!("two clusters were asked for") };
    let ports: Vec<_> = ports::take(2)?.collect();
    let (first, second) = (ports[0], ports[1]);
    let mirrors = ["one", "two"].map(|name| {
        format!(
            "[[mirrors]]\nname = \"{name}\"\nsource = \"old\"\ntarget = \"new\"\ntopics = [\"t.{name}\"]\n[mirrors.rename]\n\"t.{name}\" = \"copy.t.{name}\"\n"
        )
    });
    let routes = Routes::new()?
        .kafka("old", old, Listener::Plaintext, None)?
        .kafka("new", new, Listener::Plaintext, None)?
        .route("all", "*", "old")
        .section(&mirrors.concat());
    let text = routes.text().replacen("[admin]\n", &format!("[admin]\nmirror_bind = \"127.0.0.1:{first}\"\n"), 1);
    for topic in ["t.one", "t.two"] {
        old.create_topic(topic, 1, &[])?;
        old.produce(topic, &records(0, 10, "first"))?;
    }
    let config = run::folder("shared")?.join("routes.toml");
    fs::write(&config, &text)?;
    let proxy = Proxy::start_with(&routes, &config, &[])?;
    let mut one = Mirror::of(&text)?;
    let mut two = Mirror::of(&text)?;
    let _running = [one.start(&["--mirror", "one"])?, two.start(&["--mirror", "two", "--admin-bind", &format!("127.0.0.1:{second}")])?];
    for (mirror, port, topic) in [(&one, first, "copy.t.one"), (&two, second, "copy.t.two")] {
        comes(LIMIT, mirror, || {
            let status = status(port, "/readyz")?;
            ensure!(status.ends_with("200 OK"), "/readyz answers {status}");
            // Whoever is ready has its partitions, whatever the order in which it came to know topics and shards.
            let known = http(port, "GET", "/partitions")?.body;
            assert!(known.contains("\"topic\""), "it was ready before it had a partition: {known}");
            ensure!(new.record_count(topic)? == 10, "{topic} is not copied");
            Ok(())
        })?;
    }
    ensure!(proxy.get("/readyz")?.status == 200, "the proxy is not ready");

    // Without it a further one says what to do.
    let mut third = Mirror::of(&text)?;
    let mut process = third.start(&["--mirror", "two"])?;
    let ended = process.wait(LIMIT)?;
    let logs = third.logs()?;
    ensure!(ended.code() == Some(1) && logs.contains("--admin-bind"), "it ended with {ended}: {logs}");
    Ok(())
}
