//! `make bench-relay`: what a relayed client pays. CPU per GB of one connection that fetches, beside the floor (a bare C program that splices) and
//! HAProxy; of one connection that produces in a view of two clusters, to the cluster that leads its topic (also after a move, when ids are stamped) and to the other one; throughput and latency of
//! Kafka's own tools, beside the same without a proxy; memory of connections that rest. What is compared takes turns, round by round: the machine's mood
//! changes within seconds.
//!
//! `bench-relay --only bodies,produces,tools,paced,resting` runs some of it. `KFERRY_BENCH=quick` runs it with less of everything, to see that it works.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use harness::fetcher::{Fetched, MAX_BYTES, fetch, leader, name};
use harness::kafka::{Cluster, Listener, Record};
use harness::measure::{Spread, cpu_time, machine, parts, resting};
use harness::mirror::Mirror;
use harness::ordinary::OrdinaryUser;
use harness::process::{self, Process};
use harness::proxy::{Proxy, Routes, executable};
use harness::raw::{self, Raw, until};
use harness::{ports, run};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, ProduceRequest, ProduceResponse, ResponseHeader};
use kafka_protocol::protocol::Decodable as _;
use kferry_wire::batch::{self, Codec, Sequence};
use serde_json::Value;

const KAFKA: &str = "4.3.0";
const CLIENT_ID: &str = "bench";

/// Fetched through one connection.
const BODIES: &str = "bodies";
/// Produced and consumed by Kafka's tools.
const ORDERS: &str = "orders";
/// Produced to as fast as it goes, on one connection.
const PRODUCED: &str = "produced";
/// The same, and it has moved.
const MOVED: &str = "moved";
/// Requests ahead of their answers, as clients have them.
const AHEAD: usize = 5;
/// One record a millisecond.
const PACED: &str = "paced";

/// Of [`BODIES`]: ten of them, with what is around them, fill a batch of `batch.size` 1,000,000.
const BODY: usize = 99_000;
/// Of a record of [`ORDERS`], in bytes.
const ORDER: usize = 236;
const RESTING: usize = 4_000;

const GB: f64 = 1e9;

/// How much of everything.
struct Size {
    /// Bytes of the topic that is fetched, and bytes fetched in a round.
    topic: u64,
    fetched: u64,
    fetch_rounds: usize,
    /// Bytes produced on one connection in a round.
    sent: u64,
    sent_rounds: usize,
    /// Records of Kafka's tools in a round; the first of those produced are not counted.
    warm_up: u64,
    produced: u64,
    consumed: u64,
    tool_rounds: usize,
    /// Seconds of 1,000 records each.
    paced_seconds: u64,
    paced_rounds: usize,
}

const FULL: Size = Size {
    topic: 1_000_000_000,
    fetched: 4_000_000_000,
    fetch_rounds: 5,
    sent: 1_000_000_000,
    sent_rounds: 5,
    warm_up: 1_000_000,
    produced: 3_000_000,
    consumed: 6_000_000,
    tool_rounds: 5,
    paced_seconds: 9,
    paced_rounds: 5,
};

const QUICK: Size = Size {
    topic: 200_000_000,
    fetched: 400_000_000,
    fetch_rounds: 2,
    sent: 20_000_000,
    sent_rounds: 2,
    warm_up: 200_000,
    produced: 400_000,
    consumed: 500_000,
    tool_rounds: 2,
    paced_seconds: 4,
    paced_rounds: 2,
};

const PARTS: [&str; 5] = ["bodies", "produces", "tools", "paced", "resting"];

fn main() -> Result<()> {
    let start = Instant::now();
    let parts = parts(&PARTS)?;
    let wanted = |part: &str| parts.iter().any(|wanted| wanted == part);
    let size = match std::env::var("KFERRY_BENCH").as_deref() {
        Err(_) => FULL,
        Ok("quick") => QUICK,
        Ok(other) => bail!("KFERRY_BENCH={other}: there is only quick"),
    };
    raw::open_many_files()?;
    let user = OrdinaryUser::new()?;
    println!("machine:  {}", machine()?);
    let haproxy = if wanted("bodies") { format!("{}; ", first_line(&haproxy()?, "-v")?) } else { String::new() };
    println!("versions: {}; {haproxy}Kafka {KAFKA}", first_line(&executable("kferry-proxy")?, "--version")?);
    println!("proxies:  release build, run by {user}; all on 127.0.0.1; figures are the median of all rounds (least to most)");

    // What was produced goes within seconds, where its topic says so: a disk need not hold all of it.
    let cluster = Cluster::version(KAFKA).name("bench").perf().set("log.retention.check.interval.ms", "1000").start()?;
    let routes = Routes::new()?
        .kafka("new", &cluster, Listener::Plaintext, None)?
        .relay("everybody", "*", "new", "")
        .limit("max_connections_per_ip", 10_000);
    let mut proxy = Proxy::start_as(&user, &routes)?;
    if wanted("bodies") {
        bodies(&size, &cluster, &proxy, &user)?;
    }
    if wanted("produces") {
        produces(&size, &cluster, &user)?;
    }
    if wanted("tools") {
        tools(&size, &cluster, &proxy)?;
    }
    if wanted("paced") {
        paced(&size, &cluster, &proxy)?;
    }
    proxy.stop()?;

    if wanted("resting") {
        let mut proxy = Proxy::start_as(&user, &routes)?;
        println!("\n{RESTING} relayed connections at rest: {}", resting(&proxy, RESTING, Some(CLIENT_ID))?);
        proxy.stop()?;
    }
    println!("\n{} took {:.0} s", parts.join(", "), start.elapsed().as_secs_f64());
    Ok(())
}

fn first_line(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| program.display().to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

/// Every other round in the other order: what comes first may have it warmer, or colder.
fn in_turns<T>(round: usize, ways: &[T]) -> impl Iterator<Item = &T> {
    let count = ways.len();
    (0..count).map(move |at| &ways[if round.is_multiple_of(2) { at } else { count - 1 - at }])
}

// One connection that fetches.

/// Who is between the fetcher and the broker.
struct Way<'a> {
    name: String,
    port: u16,
    /// None: nobody.
    process_id: Option<u32>,
    spliced: Box<dyn Fn() -> Result<String> + 'a>,
    rounds: Vec<Round>,
}

struct Round {
    fetched: Fetched,
    /// Of the proxy.
    cpu: Duration,
}

impl Round {
    fn gb(&self) -> f64 {
        self.fetched.bytes as f64 / GB
    }

    fn cpu_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / self.gb()
    }
}

fn bodies(size: &Size, cluster: &Cluster, proxy: &Proxy, user: &OrdinaryUser) -> Result<()> {
    fill(cluster, size.topic)?;
    let broker = cluster.bootstrap_servers(Listener::Plaintext)?;
    let direct = leader(port_of(&broker)?, BODIES)?;
    let virtual_broker = leader(proxy.port(), BODIES)?;
    ensure!(virtual_broker != direct, "the relay has named the real broker: port {direct}");
    // `splice-auto` decides by the speed of the stream, and often against it; `splice-response` always splices.
    let haproxies =
        ["splice-auto", "splice-response"].map(|option| Haproxy::start(&broker, option, user)).into_iter().collect::<Result<Vec<_>>>()?;

    let floor = Floor::start(direct, user)?;

    let way = |name: &str, port, process_id| Way {
        name: name.to_owned(),
        port,
        process_id,
        spliced: Box::new(|| Ok(String::new())),
        rounds: Vec::new(),
    };
    let mut ways = vec![Way {
        spliced: Box::new(|| Ok(format!("its pipes: {}", pipes(proxy.id())?))),
        ..way("kferry, relay mode", virtual_broker, Some(proxy.id()))
    }];
    ways.push(Way {
        spliced: Box::new(|| Ok("all".to_owned())),
        ..way("the floor, a bare C program", floor.port, Some(floor.process.id()))
    });
    ways.extend(haproxies.iter().map(|haproxy| Way {
        spliced: Box::new(|| Ok(format!("{:.1} %", 100.0 * haproxy.spliced()?))),
        ..way(&format!("HAProxy, option {}", haproxy.option), haproxy.port, Some(haproxy.process.id()))
    }));
    ways.push(way("direct", direct, None));

    for way in &ways {
        fetch(way.port, BODIES, size.topic)?;
    }
    for round in 0..size.fetch_rounds {
        for &at in in_turns(round, &[0, 1, 2, 3, 4]) {
            let way = &mut ways[at];
            let cpu = || way.process_id.map_or(Ok(Duration::ZERO), cpu_time);
            let before = cpu()?;
            let fetched = fetch(way.port, BODIES, size.fetched)?;
            let cpu = cpu()?.saturating_sub(before);
            way.rounds.push(Round { fetched, cpu });
        }
    }

    let Fetched { bytes, batches, .. } = ways[0].rounds[0].fetched;
    println!(
        "\nOne connection fetches {:.1} GB a round, {} rounds; batches of {} bytes, answers of up to {} MiB",
        size.fetched as f64 / GB,
        size.fetch_rounds,
        bytes / batches,
        MAX_BYTES / 1024 / 1024
    );
    let mut rows = table(&["", "CPU seconds of the proxy for a GB", "kferry's beside that", "GB/s", "spliced"]);
    for way in &ways {
        let speed = Spread::of(way.rounds.iter().map(|round| round.gb() / round.fetched.took.as_secs_f64()))?;
        let mut cpu = [String::new(), String::new()];
        if way.process_id.is_some() {
            cpu[0] = format!("{:.3}", Spread::of(way.rounds.iter().map(Round::cpu_per_gb))?);
            let pairs = ways[0].rounds.iter().zip(&way.rounds);
            cpu[1] = format!("{:.2}", Spread::of(pairs.map(|(kferry, other)| kferry.cpu_per_gb() / other.cpu_per_gb()))?);
        }
        let [cpu, share] = cpu;
        rows.add_row([way.name.clone(), cpu, share, format!("{speed:.2}"), (way.spliced)()?]);
    }
    println!("{rows}\nThe goal is at most 1.15 of the floor's.");
    Ok(())
}

// One connection that produces.

/// Batches to the cluster that leads their topic, in its first term and in its second, and to another cluster, which carries them: in a view of both.
fn produces(size: &Size, cluster: &Cluster, user: &OrdinaryUser) -> Result<()> {
    /// Its place among the ways.
    const FLOOR: usize = 3;
    let other = Cluster::version(KAFKA).name("other").start()?;
    let brief = [("segment.bytes", "67108864"), ("retention.bytes", "67108864"), ("file.delete.delay.ms", "0")];
    let settings = [&brief[..], &[("max.message.bytes", "2097152")]].concat();
    cluster.create_topic(PRODUCED, 1, &settings)?;
    other.create_topic(MOVED, 1, &settings)?;
    let base = Routes::new()?.kafka("new", cluster, Listener::Plaintext, None)?.kafka("other", &other, Listener::Plaintext, None)?;
    let routes = |home: &str| base.clone().relay("everybody", "*", home, &format!("topics = [\"{MOVED}\"]\n")).section(&view());
    let mut proxy = Proxy::start_as(user, &routes("other"))?;
    move_over(&proxy, &routes("new"))?;

    let direct = port_of(&cluster.bootstrap_servers(Listener::Plaintext)?)?;
    let mut floor = Floor::start(direct, user)?;
    let at = |name: &str, cluster: &Cluster| -> Result<u16> {
        let node_id = *cluster.node_ids().first().context("a cluster has a broker")?;
        Ok(base.virtual_broker(name, node_id)?.1)
    };
    let (here, elsewhere) = (at("new", cluster)?, at("other", &other)?);
    let ways = [
        ("kferry, passed", PRODUCED, here, Some(proxy.id())),
        ("kferry, stamped", MOVED, here, Some(proxy.id())),
        ("kferry, carried", PRODUCED, elsewhere, Some(proxy.id())),
        ("the floor, a bare C program", PRODUCED, floor.port, Some(floor.process.id())),
        ("direct", PRODUCED, direct, None),
    ];
    for (what, value, timed) in [("1 MB", 990_000, 200), ("16 KB", 16_000, 1_000), ("1 KB", 1_000, 2_000)] {
        let value = noise(&mut 0x9e37_79b9_7f4a_7c15, value);
        let count = (size.sent / value.len() as u64).min(20_000);
        let mut cpu: [Vec<f64>; 5] = Default::default();
        let mut speed: [Vec<f64>; 5] = Default::default();
        let mut took: [Vec<f64>; 5] = Default::default();
        for round in 0..=size.sent_rounds {
            for &way in in_turns(round, &[0, 1, 2, 3, 4]) {
                let (_, topic, port, process_id) = ways[way];
                let cpu_now = || process_id.map_or(Ok(Duration::ZERO), cpu_time);
                let mut producer = Producer::new(port, topic, &value)?;
                // Connects where it has to.
                producer.send_on(1)?;
                let (before, began) = (cpu_now()?, Instant::now());
                producer.send_on(count)?;
                let (cpu_used, elapsed) = (cpu_now()?.saturating_sub(before), began.elapsed());
                let mut single = Vec::new();
                for _ in 0..timed {
                    let sent = Instant::now();
                    producer.send_on(1)?;
                    single.push(sent.elapsed().as_secs_f64() * 1e6);
                }
                // The first round is to warm up.
                if round > 0 {
                    let gb = (count * producer.request.len() as u64) as f64 / GB;
                    cpu[way].push(cpu_used.as_secs_f64() / gb);
                    speed[way].push(gb / elapsed.as_secs_f64());
                    took[way].append(&mut single);
                }
            }
        }
        println!(
            "\nOne idempotent producer sends {count} batches of {what} a round, {AHEAD} ahead, {} rounds; and {timed} more one by one",
            size.sent_rounds
        );
        let mut rows = table(&["", "CPU seconds of the proxy for a GB", "beside the floor", "GB/s", "one by one: p50, p99 in µs"]);
        for (way, (name, _, _, process_id)) in ways.iter().enumerate() {
            took[way].sort_by(f64::total_cmp);
            let percentile = |percent: usize| took[way][took[way].len() * percent / 100];
            let mut cells = [String::new(), String::new()];
            if process_id.is_some() {
                let share = Spread::of(cpu[way].iter().zip(&cpu[FLOOR]).map(|(way, floor)| way / floor))?;
                cells = [format!("{:.3}", Spread::of(cpu[way].iter().copied())?), format!("{share:.2}")];
            }
            let [cpu, share] = cells;
            let speed = format!("{:.2}", Spread::of(speed[way].iter().copied())?);
            rows.add_row([(*name).to_owned(), cpu, share, speed, format!("{:.0}, {:.0}", percentile(50), percentile(99))]);
        }
        println!("{rows}");
    }
    println!("The goals for batches of 1 MB: passed at most 1.2 of the floor's, stamped at most 1.3.");
    floor.process.kill();
    proxy.stop()
}

/// [`PRODUCED`] leads on the one cluster, [`MOVED`] on the other, at first.
fn view() -> String {
    format!(
        r#"
[state]
cluster = "new"

[[mirrors]]
name = "stays"
source = "new"
target = "other"
topics = ["{PRODUCED}"]

[[mirrors]]
name = "moves"
source = "other"
target = "new"
topics = ["{MOVED}"]
"#
    )
}

/// Has [`MOVED`] move by an edit of the file. No mirror runs after that.
fn move_over(proxy: &Proxy, routes: &Routes) -> Result<()> {
    let admin = format!("[admin]\nmirror_bind = \"127.0.0.1:{}\"\n", ports::take(1)?.start);
    let mut mirror = Mirror::of(&fs::read_to_string(proxy.config())?.replacen("[admin]\n", &admin, 1))?;
    let mut mirroring = mirror.start(&[])?;
    proxy.edit(routes)?;
    let began = Instant::now();
    until("a topic has moved", || {
        let moves: Value = serde_json::from_str(&proxy.get("/moves")?.body)?;
        Ok(moves["leaders"][MOVED]["cluster"] == "new" && moves["open"].is_null())
    })
    .with_context(|| format!("the proxy:\n{}\nthe mirror:\n{}", proxy.log_text(), mirror.logs().unwrap_or_default()))?;
    println!("\nA topic moved to the cluster, and is in its second term there: {:.1} s after the edit", began.elapsed().as_secs_f64());
    mirroring.kill();
    Ok(())
}

/// An idempotent producer of batches of one record, acks=1.
struct Producer {
    client: Raw,
    /// The batch is at its end.
    request: Vec<u8>,
    batch_at: usize,
    next: i32,
}

impl Producer {
    fn new(port: u16, topic: &str, value: &[u8]) -> Result<Self> {
        let mut client = Raw::connect(port)?;
        client.ask(&raw::api_versions(0, Some(CLIENT_ID)))?;
        let mut producer_id = -1;
        // A broker that has just started may not have any yet.
        until("there is a producer id", || {
            let answer = raw::ask(&mut client, 4, CLIENT_ID, &InitProducerIdRequest::default().with_transactional_id(None))?;
            producer_id = answer.producer_id.0;
            Ok(answer.error_code == 0)
        })?;
        let batch = batch_of(value, Sequence { producer_id, producer_epoch: 0, base_sequence: 0 })?;
        let request = produce_request(topic, 1, batch.clone());
        let batch_at = request.len() - batch.len();
        ensure!(request[batch_at..] == batch, "something is behind the batch");
        Ok(Self { client, request, batch_at, next: 0 })
    }

    /// Sends so many batches, some of them ahead of their answers.
    fn send_on(&mut self, count: u64) -> Result<()> {
        for n in 0..count + AHEAD as u64 {
            if n < count {
                self.number();
                self.client.send(&self.request)?;
            }
            if n >= AHEAD as u64 {
                acknowledged(self.client.frame()?)?;
            }
        }
        Ok(())
    }

    /// Gives the batch the next sequence.
    fn number(&mut self) {
        const CRC: usize = 17;
        const ATTRIBUTES: usize = 21;
        const BASE_SEQUENCE: usize = 53;
        let batch = &mut self.request[self.batch_at..];
        batch[BASE_SEQUENCE..BASE_SEQUENCE + 4].copy_from_slice(&self.next.to_be_bytes());
        let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
        batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        self.next += 1;
    }
}

/// Incompressible, and left in the page cache.
fn fill(cluster: &Cluster, bytes: u64) -> Result<()> {
    cluster.create_topic(BODIES, 1, &[])?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let records: Vec<_> = (0..100).map(|_| Record::new("", noise(&mut random, BODY)).to_partition(0)).collect();
    for _ in 0..bytes / (BODY as u64 * 100) {
        cluster.produce(BODIES, &records)?;
    }
    Ok(())
}

/// Marsaglia's xorshift.
fn noise(state: &mut u64, len: usize) -> Vec<u8> {
    let words = std::iter::repeat_with(|| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

fn port_of(address: &str) -> Result<u16> {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).with_context(|| format!("no address: {address}"))
}

/// Pipes that a process has open.
fn pipes(process_id: u32) -> Result<usize> {
    let files = fs::read_dir(format!("/proc/{process_id}/fd"))?;
    let is_pipe = |file: &fs::DirEntry| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
    // Two ends each.
    Ok(files.flatten().filter(is_pipe).count() / 2)
}

/// `tests/floor/splice.c`, which says what it is.
struct Floor {
    process: Process,
    port: u16,
}

impl Floor {
    fn start(broker: u16, user: &OrdinaryUser) -> Result<Self> {
        let program = built(&run::workspace().join("tests/floor/splice.c"))?;
        let port = ports::take(1)?.start;
        let mut command = user.command(&program)?;
        command.args([port.to_string(), broker.to_string()]);
        let log = run::folder("floor")?.join("log");
        let process = Process::spawn("the floor", &command, &log)?;
        until("the floor listens", || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())).with_context(|| process.log_tail(30))?;
        Ok(Self { process, port })
    }
}

/// Of one C file, beside this program.
fn built(source: &Path) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("floor");
    let mut cc = Command::new(process::require("cc", "install a C compiler (`apt install build-essential`)")?);
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
    let output = cc.output()?;
    ensure!(output.status.success(), "{cc:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}

struct Haproxy {
    process: Process,
    option: &'static str,
    port: u16,
    stats_port: u16,
}

impl Haproxy {
    /// In TCP mode before one broker; all else is HAProxy's default.
    fn start(broker: &str, option: &'static str, user: &OrdinaryUser) -> Result<Self> {
        let ports = ports::take(2)?;
        let (port, stats_port) = (ports.start, ports.start + 1);
        let config = user.file(
            &format!("haproxy-{option}.cfg"),
            &format!(
                "global\n  maxconn 1000\n  stats socket ipv4@127.0.0.1:{stats_port} level user\n\
                 defaults\n  mode tcp\n  option {option}\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
                 listen kafka\n  bind 127.0.0.1:{port}\n  server broker {broker}\n"
            ),
        )?;
        let mut command = user.command(&haproxy()?)?;
        // In the foreground.
        command.args(["-db", "-f"]).arg(config);
        let log = run::folder("haproxy")?.join("log");
        let process = Process::spawn("haproxy", &command, &log)?;
        until("HAProxy listens", || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, stats_port)).is_ok()))
            .with_context(|| process.log_tail(30))?;
        Ok(Self { process, option, port, stats_port })
    }

    /// Of all bytes that it has sent so far, the part that was spliced.
    fn spliced(&self) -> Result<f64> {
        let mut stats = TcpStream::connect((Ipv4Addr::LOCALHOST, self.stats_port))?;
        stats.set_read_timeout(Some(harness::LIMIT))?;
        stats.write_all(b"show info\n")?;
        let mut info = String::new();
        stats.read_to_string(&mut info)?;
        let total = |names: &[&str]| {
            let values = names.iter().find_map(|name| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")));
            values.and_then(|bytes| bytes.parse::<f64>().ok()).with_context(|| format!("HAProxy does not tell {names:?}:\n{info}"))
        };
        // 2.6 spells it so.
        Ok(total(&["TotalSplicedBytesOut", "TotalSplicdedBytesOut"])? / total(&["TotalBytesOut"])?)
    }
}

/// Debian has it where only root's PATH leads.
fn haproxy() -> Result<PathBuf> {
    let debian = PathBuf::from("/usr/sbin/haproxy");
    if debian.is_file() { Ok(debian) } else { process::require("haproxy", "install it (`apt install haproxy`)") }
}

// Kafka's own tools.

/// Direct first: what the relay is measured by.
fn tools(size: &Size, cluster: &Cluster, proxy: &Proxy) -> Result<()> {
    cluster.create_topic(ORDERS, 4, &[])?;
    let payload = run::folder("payload")?.join("orders.json");
    fs::write(&payload, orders())?;
    let ways = [cluster.bootstrap_servers(Listener::Plaintext)?, proxy.bootstrap_servers()];
    let mut produced: [Vec<f64>; 2] = Default::default();
    let mut consumed: [Vec<f64>; 2] = Default::default();
    let mut avg: [Vec<f64>; 2] = Default::default();
    let mut p99: [Vec<f64>; 2] = Default::default();
    for round in 0..size.tool_rounds {
        for &way in in_turns(round, &[0, 1]) {
            let bulk = ["compression.type=lz4", "batch.size=65536"];
            let line = produce(cluster, &ways[way], &payload, size.warm_up, size.produced, "-1", &bulk)?;
            produced[way].push(number_before(&line, " records/sec")?);
        }
    }
    for round in 0..size.tool_rounds {
        for &way in in_turns(round, &[0, 1]) {
            consumed[way].push(consume(cluster, &ways[way], size.consumed)?);
        }
    }
    for round in 0..size.paced_rounds {
        for &way in in_turns(round, &[0, 1]) {
            let line =
                produce(cluster, &ways[way], &payload, 1000 * size.paced_seconds / 3, 1000 * size.paced_seconds, "1000", &["linger.ms=0"])?;
            avg[way].push(number_before(&line, " ms avg latency")?);
            p99[way].push(number_before(&line, " ms 99th")?);
        }
    }
    println!(
        "\nKafka's ProducerPerformance and ConsumerPerformance, one after the other; {ORDER}-byte JSON, 4 partitions, acks=all, lz4, batch.size 64 KiB;\n\
         {} rounds of {:.1} million records each (produced: after {:.1} million to warm up). At 1,000 records a second: linger.ms=0, {} rounds of\n\
         {} s after {} s; the tool tells percentiles in whole ms",
        size.tool_rounds,
        size.produced as f64 / 1e6,
        size.warm_up as f64 / 1e6,
        size.paced_rounds,
        size.paced_seconds - size.paced_seconds / 3,
        size.paced_seconds / 3,
    );
    let mut rows = table(&["", "direct", "through the relay", "relay beside direct, round by round", "goal"]);
    for (what, figures) in [("produced, records/s", &produced), ("consumed, records/s", &consumed)] {
        let share = Spread::of(figures[0].iter().zip(&figures[1]).map(|(direct, relay)| 100.0 * relay / direct))?;
        let [direct, relay] = figures.each_ref().map(|figures| Spread::of(figures.iter().copied()));
        rows.add_row([what.to_owned(), format!("{:.0}", direct?), format!("{:.0}", relay?), format!("{share:.1} %"), "95 %".to_owned()]);
    }
    for (what, figures) in [("at 1,000/s: average latency, ms", &avg), ("at 1,000/s: p99 latency, ms", &p99)] {
        let added = Spread::of(figures[0].iter().zip(&figures[1]).map(|(direct, relay)| relay - direct))?;
        let [direct, relay] = figures.each_ref().map(|figures| Spread::of(figures.iter().copied()));
        rows.add_row([what.to_owned(), format!("{:.2}", direct?), format!("{:.2}", relay?), format!("{added:+.2} added"), String::new()]);
    }
    println!("{rows}");
    Ok(())
}

/// Ten thousand lines, each a JSON object of [`ORDER`] bytes.
fn orders() -> String {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut lines = String::new();
    for n in 0..10_000 {
        let bytes = noise(&mut random, 24);
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let order = format!(
            r#"{{"order_id":{n},"customer_id":{},"created_at":"2025-03-{:02}T{:02}:{:02}:00Z","status":"{}","currency":"EUR","total_cents":{},"token":"{:08x}{:08x}","note":""#,
            number(0) % 1_000_000,
            1 + number(4) % 28,
            number(8) % 24,
            number(12) % 60,
            ["created", "paid", "shipped", "returned"][number(16) as usize % 4],
            number(20) % 100_000,
            number(1),
            number(5),
        );
        let note = "please leave the parcel with the neighbours if nobody is at home when you ring the bell ".chars().cycle();
        lines.extend(order.chars().chain(note).take(ORDER - 2));
        lines.push_str("\"}\n");
    }
    lines
}

/// The line of the steady state, which is of the records after the first `warm_up`.
fn produce(
    cluster: &Cluster,
    servers: &str,
    payload: &Path,
    warm_up: u64,
    records: u64,
    rate: &str,
    properties: &[&str],
) -> Result<String> {
    let client_id = format!("client.id={CLIENT_ID}");
    let payload = payload.to_string_lossy();
    let (warm_up, records) = (warm_up.to_string(), records.to_string());
    let mut args = vec!["--bootstrap-server", servers, "--topic", ORDERS, "--num-records", &records, "--warmup-records", &warm_up];
    args.extend(["--throughput", rate, "--payload-file", &payload, "--command-property", "acks=all", &client_id]);
    args.extend(properties);
    let printed = cluster.tool("org.apache.kafka.tools.ProducerPerformance", &args)?;
    let line = printed.lines().rfind(|line| line.contains("steady state records sent"));
    Ok(line.with_context(|| format!("no steady state:\n{printed}"))?.to_owned())
}

/// Records a second, without the time that joining its group took.
fn consume(cluster: &Cluster, servers: &str, records: u64) -> Result<f64> {
    let (records, client_id) = (records.to_string(), format!("client.id={CLIENT_ID}"));
    let args = ["--bootstrap-server", servers, "--topic", ORDERS, "--num-records", &records, "--command-property", &client_id];
    let printed = cluster.tool("org.apache.kafka.tools.ConsumerPerformance", &args)?;
    let mut lines = printed.lines().skip_while(|line| !line.starts_with("start.time"));
    let columns = lines.next().map(|header| header.split(", ").position(|column| column == "fetch.nMsg.sec"));
    let line = lines.next().unwrap_or_default();
    let figure = columns.flatten().and_then(|at| line.split(", ").nth(at)?.trim().parse().ok());
    figure.with_context(|| format!("no fetch.nMsg.sec:\n{printed}"))
}

fn number_before(line: &str, unit: &str) -> Result<f64> {
    let number = line.split_once(unit).and_then(|(before, _)| before.rsplit([' ', '(']).next()?.parse().ok());
    number.with_context(|| format!("no number before {unit:?}: {line}"))
}

// One record a millisecond, by microseconds.

/// Both ways in turn, record by record: whatever the broker is busy with hits both.
fn paced(size: &Size, cluster: &Cluster, proxy: &Proxy) -> Result<()> {
    cluster.create_topic(PACED, 1, &[])?;
    let request = produce_request(PACED, -1, batch_of(&orders().as_bytes()[..ORDER], Sequence::NONE)?);
    let mut ways = [port_of(&cluster.bootstrap_servers(Listener::Plaintext)?)?, proxy.port()]
        .map(Raw::connect)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let mut p50: [Vec<f64>; 2] = Default::default();
    let mut p99: [Vec<f64>; 2] = Default::default();
    for way in &mut ways {
        way.ask(&raw::api_versions(0, Some(CLIENT_ID)))?;
    }
    for round in 0..=size.paced_rounds {
        let mut took: [Vec<f64>; 2] = Default::default();
        let start = Instant::now();
        for n in 0..1000 * size.paced_seconds as u32 / 2 {
            for (half, &way) in in_turns(n as usize, &[0, 1]).enumerate() {
                let due = start + Duration::from_millis(1) * n + Duration::from_micros(500) * half as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let sent = Instant::now();
                let answer = ways[way].ask(&request)?;
                took[way].push(sent.elapsed().as_secs_f64() * 1e6);
                acknowledged(answer)?;
            }
        }
        // The first round is to warm up.
        for (way, mut took) in took.into_iter().enumerate().filter(|_| round > 0) {
            took.sort_by(f64::total_cmp);
            p50[way].push(took[took.len() / 2]);
            p99[way].push(took[took.len() * 99 / 100]);
        }
    }
    println!(
        "\nOne record a millisecond on a connection, acks=all, and the same on another, each in a request of its own;\n\
         {} rounds of {} s, from the request to its answer in µs",
        size.paced_rounds,
        size.paced_seconds / 2
    );
    let mut rows = table(&["", "direct", "through the relay", "added, round by round"]);
    for (what, figures) in [("p50", &p50), ("p99", &p99)] {
        let added = Spread::of(figures[0].iter().zip(&figures[1]).map(|(direct, relay)| relay - direct))?;
        let [direct, relay] = figures.each_ref().map(|figures| Spread::of(figures.iter().copied()));
        rows.add_row([what.to_owned(), format!("{:.0}", direct?), format!("{:.0}", relay?), format!("{added:.0}")]);
    }
    println!("{rows}");
    Ok(())
}

/// Without tagged fields.
const PRODUCE_VERSION: i16 = 8;

fn acknowledged(answer: Vec<u8>) -> Result<()> {
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, 0)?;
    let answer = ProduceResponse::decode(&mut answer, PRODUCE_VERSION)?;
    let error = answer.responses.first().and_then(|topic| topic.partition_responses.first()).context("no partition")?.error_code;
    ensure!(error == 0, "Produce: error {error}");
    Ok(())
}

/// One record in one batch.
fn batch_of(value: &[u8], sequence: Sequence) -> Result<Bytes> {
    let record = batch::Record { offset: 0, timestamp: 0, key: None, value: Some(Bytes::copy_from_slice(value)), headers: Vec::new() };
    Ok(batch::encode(&[record], Codec::None, sequence)?)
}

fn produce_request(topic: &str, acks: i16, batch: Bytes) -> Vec<u8> {
    let partition = PartitionProduceData::default().with_index(0).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![topic]);
    raw::request_frame(ApiKey::Produce, PRODUCE_VERSION, 8, Some(CLIENT_ID), &request)
}
