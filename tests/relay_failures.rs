//! Relay mode when a broker is killed, frozen or moved, and when the proxy is: what real clients see of it, with the settings that they come with.
//!
//! All clients run through every event together: each produces numbers to the four partitions of a topic of its own, and reads them in a group of two.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use harness::clients::soak::{Counts, Job, Seen, Soak};
use harness::clients::{self, Client, Security};
use harness::kafka::{ADMIN, ALICE, Cluster, Listener};
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw};
use harness::{pki, ports};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rustix::process::Signal;

const CLIENTS: [Client; 3] = [Client::Rdkafka, Client::Java4, Client::FranzGo];
const PARTITIONS: usize = 4;
const RECORDS_PER_SECOND: u32 = 200;
/// Of one partition, until it counts as going on.
const GOES_ON: u64 = 20;
/// How long clients may stand still, on a loaded machine. What they do is in the table.
const LIMIT: Duration = Duration::from_secs(45);
/// Longer than `broker.session.timeout.ms`, so the others elect new leaders meanwhile.
const FROZEN: Duration = Duration::from_secs(6);

#[test]
fn a_broker_that_is_away_shows_as_a_reset() -> Result<()> {
    let (nowhere, brokers) = (ports::take(1)?.start, ports::take(1)?.start);
    let lines = format!("node_ids = \"1-1\"\nbroker_ports = \"{brokers}-{brokers}\"\n");
    let routes = Routes::new()?.cluster_with("away", &format!("127.0.0.1:{nowhere}"), &lines).relay("all", "*", "away", "");
    let proxy = Proxy::start(&routes)?;
    for (port, cause) in [(proxy.port(), "cluster_unreachable"), (brokers, "unknown_broker")] {
        let mut client = Raw::connect(port)?;
        client.send(&raw::api_versions(1, Some("c")))?;
        let ended = client.read(&mut [0]).expect_err("there is nobody to answer");
        assert_eq!(ended.downcast_ref().map(io::Error::kind), Some(ErrorKind::ConnectionReset), "{cause}: {ended:#}");
        assert_eq!(proxy.closed(&client)?["cause"], cause);
    }
    Ok(())
}

/// The broker is gone for good and still named as a replica: nobody connects to it, so nobody is cut off.
#[test]
fn a_dead_replica_outside_of_node_ids_cuts_nobody_off() -> Result<()> {
    let cluster = Cluster::version("4.3.0").name("outside").brokers(3).start()?;
    let servers = cluster.bootstrap_servers(Listener::Plaintext)?;
    let create = ["--bootstrap-server", &servers, "--create", "--if-not-exists", "--topic", "outside", "--replica-assignment", "2:3"];
    cluster.tool("org.apache.kafka.tools.TopicCommand", &create)?;
    cluster.kill(3)?;
    let until = Instant::now() + LIMIT;
    while cluster.partitions("outside")?[0].isr != [2] {
        ensure!(Instant::now() < until, "broker 3 is still in sync");
        thread::sleep(Duration::from_millis(100));
    }
    let ports = ports::take(2)?;
    let lines = format!("node_ids = \"1-2\"\nbroker_ports = \"{}-{}\"\n", ports.start, ports.start + 1);
    let servers = [1, 2].map(|node_id| cluster.address(node_id, Listener::Plaintext)).into_iter().collect::<Result<Vec<_>>>()?.join(",");
    let routes = Routes::new()?.cluster_with("few", &servers, &lines).relay("all", "*", "few", "");
    let proxy = Proxy::start(&routes)?;
    let client: BaseConsumer = rdkafka::ClientConfig::new().set("bootstrap.servers", proxy.bootstrap_servers()).create()?;
    for topic in [None, Some("outside")] {
        let metadata = client.fetch_metadata(topic, LIMIT)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == "outside").context("the topic is not told of")?;
        let partition = &topic.partitions()[0];
        let is_broker = |id: i32| metadata.brokers().iter().any(|broker| broker.id() == id);
        let replicas: Vec<_> = partition.replicas().iter().map(|id| is_broker(*id)).collect();
        ensure!(replicas == [true, false] && is_broker(partition.leader()), "{:?} led by {}", partition.replicas(), partition.leader());
    }
    ensure!(proxy.closed_count("not_rewritten")? == 0, "clients were cut off:\n{}", proxy.log_text());
    Ok(())
}

/// Everything that a test has running.
struct Running {
    cluster: Cluster,
    routes: Routes,
    proxy: Proxy,
    clients: Vec<Soak>,
    table: Table,
}

#[test]
fn clients_go_on_through_killed_frozen_and_moved_brokers_and_a_killed_proxy() -> Result<()> {
    let mut running = Running::start()?;
    running.event("nothing", |_| {
        thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    // It leads a part of every topic and coordinates every group.
    let broker = running.cluster.partitions("__consumer_offsets")?[0].leader;
    running.event("broker killed and restarted", |running| {
        running.cluster.kill(broker)?;
        running.go_on()?;
        running.cluster.restart(broker)?;
        running.lead_again()
    })?;
    running.event("broker frozen for 6 s", |running| {
        running.cluster.freeze(broker)?;
        thread::sleep(FROZEN);
        running.cluster.thaw(broker)?;
        running.lead_again()
    })?;
    running.event("broker moved to other ports", |running| {
        let before = running.cluster.address(broker, Listener::Plaintext)?;
        running.cluster.restart_elsewhere(broker)?;
        ensure!(running.cluster.address(broker, Listener::Plaintext)? != before, "it has not moved");
        running.lead_again()?;
        running.has_followed(broker)
    })?;
    running.event("proxy killed and restarted", |running| {
        // Until nobody is about to connect. In one run without this wait franz-go took the end of a connection that was just being made for wrong
        // settings, as it does with an orderly end, and its group began anew.
        thread::sleep(Duration::from_secs(2));
        running.proxy.signal(Signal::KILL)?;
        running.proxy.wait()?;
        let config = running.proxy.config().to_owned();
        running.proxy = Proxy::start_with(&running.routes, &config, &[])?;
        Ok(())
    })?;
    running.end()
}

impl Running {
    /// A cluster with two doors, the proxy in front of both, and each client through each of them.
    fn start() -> Result<Self> {
        CLIENTS.into_iter().try_for_each(clients::prepare)?;
        let cluster = Cluster::version("4.3.0").name("failing").brokers(3).listen(Listener::SaslSsl);
        let cluster = cluster.set("min.insync.replicas", "2").set("offsets.topic.num.partitions", "1");
        // A broker that comes back leads its partitions again: only then do clients come to it.
        let cluster = cluster.set("leader.imbalance.check.interval.seconds", "1").start()?;
        let routes = Routes::new()?
            .tls_listener(&pki::authority()?.server(&[])?)?
            .kafka("plain", &cluster, Listener::Plaintext, None)?
            .kafka("secure", &cluster, Listener::SaslSsl, Some(ADMIN))?
            .relay("plain", "plain-*", "plain", "")
            .relay("secure", "secure-*", "secure", "");
        let proxy = Proxy::start(&routes)?;
        let mut clients = Vec::new();
        for client in CLIENTS {
            let plain = (proxy.bootstrap_servers(), None);
            let login = Security::sasl_ssl(&pki::authority()?.ca_path, "SCRAM-SHA-512", ALICE);
            let secure = (format!("localhost:{}", proxy.tls_port()?), Some(login));
            for (name, (bootstrap_servers, security)) in [("plain", plain), ("secure", secure)] {
                let client_id = format!("{name}-{}", client.name());
                cluster.create_topic(&client_id, PARTITIONS as i32, &[])?;
                let job = Job::plain(bootstrap_servers, client_id.clone(), &client_id, PARTITIONS, LIMIT);
                let job = Job { records_per_second: RECORDS_PER_SECOND, security, ..job };
                clients.push(Soak::start(client, &job)?);
            }
        }
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(["what failed", "client", "acks paused", "reads paused", "read again", "notices"]);
        let running = Self { cluster, routes, proxy, clients, table };
        running.go_on()?;
        for client in &running.clients {
            client.seen();
        }
        Ok(running)
    }

    /// Something fails; afterwards all clients go on, and what they saw until then is in the table.
    fn event(&mut self, what: &str, event: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let began = Instant::now();
        let seen = event(self).and_then(|()| self.go_on());
        println!("{what}: all over in {:.1} s", began.elapsed().as_secs_f64());
        for client in &self.clients {
            let seen = client.seen();
            self.table.add_row(row(what, client.name(), &seen));
            for (notice, count) in &seen.notices {
                println!("{what}: {}: {count} × {notice}", client.name());
            }
            ensure!(seen.errors.is_empty(), "{what}: {}: {seen:?}\n{}", client.name(), self.proxy.log_text());
            let longest = seen.longest_ack_pause.max(seen.longest_consume_pause);
            ensure!(longest < LIMIT, "{what}: {} stood still for {longest:?}", client.name());
        }
        seen.with_context(|| format!("{what}\n{}\n{}", self.table, self.proxy.log_text()))
    }

    /// Every partition of every client: records are acknowledged and read, as things are now.
    fn go_on(&self) -> Result<()> {
        let counts = || self.clients.iter().map(Soak::counts).collect::<Result<Vec<_>>>();
        let before = counts()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = counts()?;
            let mut still = Vec::new();
            for (client, (before, now)) in self.clients.iter().zip(before.iter().zip(&now)) {
                still.extend(stands_still(before, now).map(|what| format!("{}: {what}", client.name())));
            }
            if still.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{LIMIT:?} without going on: {}", still.join("; "));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every broker leads the partitions that are its by preference, then until clients go on there.
    fn lead_again(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let topics = self.clients.iter().map(Soak::client_id).chain(["__consumer_offsets"]);
        for topic in topics {
            while self.cluster.partitions(topic)?.iter().any(|partition| partition.leader != partition.replicas[0]) {
                ensure!(Instant::now() < deadline, "{topic} is not led as it is meant to be: {:?}", self.cluster.partitions(topic)?);
                thread::sleep(Duration::from_millis(50));
            }
        }
        self.go_on()
    }

    /// The proxy knows where the broker is now, by both of its listeners.
    fn has_followed(&self, broker: i32) -> Result<()> {
        for listener in [Listener::Plaintext, Listener::SaslSsl] {
            let address = self.cluster.address(broker, listener)?;
            let is_told =
                |line: &serde_json::Value| line["message"] == "broker" && line["node_id"] == broker && line["address"] == *address;
            ensure!(self.proxy.log()?.iter().any(is_told), "broker {broker} at {address} is not in the log:\n{}", self.proxy.log_text());
        }
        Ok(())
    }

    /// Stops the producers, and compares what was acknowledged with what the cluster has.
    fn end(self) -> Result<()> {
        for client in &self.clients {
            let group = self.cluster.group(client.client_id())?;
            ensure!(group.client_ids.len() == 2, "{}: no group of two: {group:?}", client.name());
        }
        println!("{}", self.table);
        let stopping: Vec<_> =
            self.clients.into_iter().map(|client| thread::spawn(|| (client.client_id().to_owned(), client.stop()))).collect();
        for stopping in stopping {
            let (topic, counts) = stopping.join().expect("a stop returns its errors");
            let counts = counts?;
            let mut log: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
            for record in self.cluster.read_all(&topic)? {
                log.entry(record.partition as usize).or_default().push(str::from_utf8(&record.value.context("a value")?)?.parse()?);
            }
            let mut twice = 0;
            for (partition, &acked) in counts.acked.iter().enumerate() {
                let mut log = log.remove(&partition).unwrap_or_default();
                if topic.ends_with(Client::Rdkafka.name()) {
                    // librdkafka itself sends a record twice now and then when its leader dies, under a new epoch so that no broker can tell,
                    // with or without a proxy: its issue 4953. It is still neither lost nor out of order.
                    let (all, mut next) = (log.len(), 0);
                    log.retain(|&n| {
                        let is_new = n >= next;
                        next = next.max(n + 1);
                        is_new
                    });
                    twice += all - log.len();
                }
                let wrong = (0..acked.max(log.len() as u64)).find(|&n| log.get(n as usize) != Some(&n));
                ensure!(wrong.is_none(), "{topic}-{partition}: {acked} acknowledged, {} in the log, wrong at {wrong:?}", log.len());
            }
            if twice > 0 {
                println!("{topic}: {twice} records sent twice by librdkafka");
            }
            println!("{topic}: {} records, none lost, doubled or out of order", counts.acked.iter().sum::<u64>());
        }
        Ok(())
    }
}

fn stands_still(before: &Counts, now: &Counts) -> Option<String> {
    let still = |before: &[u64], now: &[u64]| -> Vec<usize> {
        (0..PARTITIONS)
            .filter(|&n| now.get(n).copied().unwrap_or_default() < before.get(n).copied().unwrap_or_default() + GOES_ON)
            .collect()
    };
    let (acks, reads) = (still(&before.acked, &now.acked), still(&before.consumed, &now.consumed));
    (!acks.is_empty() || !reads.is_empty()).then(|| format!("partitions without acks {acks:?}, without reads {reads:?}"))
}

fn row(what: &str, client: &str, seen: &Seen) -> Vec<String> {
    let seconds = |pause: Duration| format!("{:.1} s", pause.as_secs_f64());
    vec![
        what.to_owned(),
        client.to_owned(),
        seconds(seen.longest_ack_pause),
        seconds(seen.longest_consume_pause),
        seen.again.to_string(),
        seen.notices.values().sum::<usize>().to_string(),
    ]
}
