//! `make demo`: two real Kafka clusters, kferry-proxy in front of them, kferry-mirror between them, real clients, and a route that is edited
//! while they run.
//!
//! Every record is looked up on both clusters afterwards. Exit code 1 if one went astray.

#[path = "demo/mirrored.rs"]
mod mirrored;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, Color, Table};
use console::style;
use harness::jars;
use harness::kafka::{Cluster, Listener};
use harness::proxy::{Proxy, Routes};
use mirrored::{Copying, Reader, Writer};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const LEGACY: &str = "3.9.1";
const NEW: &str = "4.3.0";

/// What a client produces each time it runs.
const RECORDS: usize = 100;

/// What a client may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Each runs once a round and ends.
const PRODUCERS: [Producer; 5] = [
    Producer { client_id: "orders-java", topic: "orders", kind: Kind::Java },
    Producer { client_id: "orders-rust", topic: "orders", kind: Kind::Librdkafka },
    Producer { client_id: "payments-rust", topic: "payments", kind: Kind::Librdkafka },
    Producer { client_id: "reports-rust", topic: "reports", kind: Kind::Librdkafka },
    Producer { client_id: "invoices-rust", topic: RELAYED, kind: Kind::Librdkafka },
];

/// The topic and the route of the client in relay mode.
const RELAYED: &str = "invoices";

/// A consumer group of the topic `orders`.
const READER: &str = "orders-reader";

/// A producer that stays connected while the route changes: the edit reaches its next instance. Its topic has the same name.
const STEADY: &str = "orders-steady";

/// What the routes `orders` and `shipments` say: at first, after the edit, after its reversal.
const ROUNDS: [(&str, &str); 3] = [("as it was", "legacy"), ("edited", "new"), ("reverted", "legacy")];

#[derive(Debug, Clone, Copy)]
struct Producer {
    client_id: &'static str,
    topic: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Kafka's own `VerifiableProducer`.
    Java,
    Librdkafka,
}

fn main() -> ExitCode {
    match demo() {
        Ok(()) => {
            let done = style("✔").green().bold();
            println!("{done} every other record is where routes.toml sent its client when it connected: once, and nowhere else");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\n{} {error:#}", style("✘").red().bold());
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let start = Instant::now();
    let say = |text: &str| println!("{} {text}", style(format!("{:5.1} s ", start.elapsed().as_secs_f64())).dim());

    for version in [LEGACY, NEW] {
        jars::kafka(version)?;
    }
    say(&format!("starting a legacy cluster (Kafka {LEGACY}) and a new one (Kafka {NEW})"));
    let stage = Stage::set()?;
    say(&format!("kferry-proxy is every client's bootstrap.servers: {}", stage.proxy.bootstrap_servers()));

    let mut copying = Copying::start(&stage.legacy, &stage.new)?;
    say(&format!("kferry-mirror copies {} from legacy to new, where there is no such topic yet", mirrored::TOPIC));
    let mut writer = Some(Writer::start(&stage));
    let mut shipments = Reader::new(&stage.legacy)?;
    let mut billing = Reader::group(&stage.legacy)?;

    let mut rows: Vec<Vec<Cell>> =
        PRODUCERS.iter().map(|producer| vec![Cell::new(producer.client_id), Cell::new(producer.software())]).collect();
    let mut reader = vec![Cell::new(READER), Cell::new("librdkafka, a group")];
    let mut steady_row = vec![Cell::new(STEADY), Cell::new("librdkafka, stays connected")];
    let mut shipments_row = vec![Cell::new(mirrored::READER), Cell::new("librdkafka, its own offsets")];
    let mut billing_row = vec![Cell::new(mirrored::GROUP), Cell::new("librdkafka, a group")];
    let mut steady: Option<Steady> = None;

    for (round, (name, orders)) in ROUNDS.into_iter().enumerate() {
        if round > 0 {
            stage.proxy.edit(&stage.routes(round))?;
        }
        say(&format!("routes.toml: {}", style(format!("orders-* and {}  →  {orders}", mirrored::READER)).cyan().bold()));
        say(&format!("    {} producers connect and send {RECORDS} records each, {READER} reads", PRODUCERS.len()));
        let stage = &stage;
        thread::scope(|scope| {
            let running = PRODUCERS.map(|producer| scope.spawn(move || producer.run(stage, round)));
            running.into_iter().try_for_each(|running| running.join().map_err(|_| anyhow!("a producer panicked"))?)
        })?;
        for (producer, row) in PRODUCERS.iter().zip(&mut rows) {
            let cluster = producer.cluster(orders);
            stage
                .holds(producer.topic, &producer.prefix(round), RECORDS, cluster)
                .with_context(|| format!("{}, {name}", producer.client_id))?;
            row.push(landed(cluster, RECORDS));
        }
        let expected = PRODUCERS.iter().filter(|producer| producer.topic == "orders").count() * RECORDS;
        reader.push(landed(orders, stage.read_as_group(expected).with_context(|| format!("{READER}, {name}"))?));

        copying.reaches(&stage.new, shipments.offsets())?;
        let stopped = if round == 0 { "reads from where the topic begins:" } else { "is started again, where it was stopped:" };
        say(&format!(
            "    {} {stopped} offsets {}",
            mirrored::READER,
            shipments.offsets().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
        // The last time to the end of what there is, else they are stopped in the middle.
        let last = writer.take_if(|_| round + 1 == ROUNDS.len()).map(Writer::stop).transpose()?;
        let count = last.map_or(mirrored::READ, |all| all - shipments.count());
        shipments.run(stage, orders, count).with_context(|| format!("{}, {name}", mirrored::READER))?;
        shipments_row.push(landed(orders, count));

        let cluster = mirrored::GROUP_ROUNDS[round];
        if round > 0 && cluster != mirrored::GROUP_ROUNDS[round - 1] {
            let offsets = copying.syncs_the_group()?.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            say(&format!(
                "    {} was stopped on legacy and is started on {cluster}: its committed offsets are {offsets} there",
                mirrored::GROUP
            ));
        }
        let count = last.map_or(mirrored::READ, |all| all - billing.count());
        billing.run(stage, cluster, count).with_context(|| format!("{}, {name}", mirrored::GROUP))?;
        billing_row.push(landed(cluster, count));
        if orders == "new" {
            say("    kferry-mirror is killed (kill -9) and started again");
            copying.kill_and_restart()?;
        }

        if let Some(steady) = steady.take() {
            say(&format!("    {STEADY} was connected all the time and stayed where it was; now it is started again"));
            steady_row.push(steady.stop(stage)?);
        }
        steady = Some(Steady::start(stage, round, orders));
    }
    if let Some(steady) = steady {
        steady_row.push(steady.stop(&stage)?);
    }

    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["client.id", "client"].into_iter().chain(ROUNDS.map(|(name, _)| name)));
    table.add_rows(rows).add_row(reader).add_row(steady_row).add_row(shipments_row).add_row(billing_row);
    println!("\n{table}");
    let bytes = |route| stage.proxy.metric("kferry_proxy_request_bytes_total", &[("route", route)]);
    let (relayed, bootstrap) = (bytes(RELAYED)?, bytes("payments")?);
    println!(
        "Through the proxy: {relayed:.0} bytes of invoices-rust (mode = \"relay\"), {bootstrap:.0} of payments-rust (mode = \"bootstrap\")"
    );
    ensure!(relayed > bootstrap, "the relayed client's records did not pass through the proxy");

    copying.reaches(&stage.new, &stage.legacy.log_ends(mirrored::TOPIC)?)?;
    let (count, (lost, twice)) = (shipments.count(), shipments.lost_and_twice(&stage)?);
    ensure!((lost, twice) == (0, 0), "{} lost {lost} records and read {twice} twice", mirrored::READER);
    let (billed, (unbilled, billed_twice)) = (billing.count(), billing.lost_and_twice(&stage)?);
    ensure!((unbilled, billed_twice) == (0, 0), "{} lost {unbilled} records and read {billed_twice} twice", mirrored::GROUP);
    let done = style("✔").green().bold();
    println!("\n{done} {} has the same {count} records on both clusters: offset, timestamp, key and value", mirrored::TOPIC);
    println!("{done} {} changed the cluster twice with nothing but its offsets: {lost} lost, {twice} twice", mirrored::READER);
    println!(
        "{done} {}, a group, was stopped on legacy and started on new: {billed} records, {unbilled} lost, {billed_twice} twice",
        mirrored::GROUP
    );
    Ok(())
}

fn landed(cluster: &str, records: usize) -> Cell {
    Cell::new(format!("{cluster} {records}")).fg(if cluster == "new" { Color::Green } else { Color::Yellow })
}

/// The clusters, and the proxy in front of them.
struct Stage {
    legacy: Cluster,
    new: Cluster,
    clusters: Routes,
    proxy: Proxy,
}

impl Stage {
    fn set() -> Result<Self> {
        let builders = vec![Cluster::version(LEGACY).name("legacy").first_node_id(1001), Cluster::version(NEW).name("new")];
        let [legacy, new] = Cluster::start_all(builders)?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
        for cluster in [&legacy, &new] {
            for topic in ["orders", "payments", "reports", RELAYED, STEADY] {
                cluster.create_topic(topic, 4, &[])?;
            }
        }
        mirrored::create(&legacy)?;
        let clusters = Routes::new()?.kafka("legacy", &legacy, Listener::Plaintext, None)?.kafka("new", &new, Listener::Plaintext, None)?;
        let proxy = Proxy::start(&routes(&clusters, 0))?;
        Ok(Self { legacy, new, clusters, proxy })
    }

    fn routes(&self, round: usize) -> Routes {
        routes(&self.clusters, round)
    }

    fn cluster(&self, name: &str) -> &Cluster {
        if name == "new" { &self.new } else { &self.legacy }
    }

    /// A client's settings: where the proxy is and who it is, nothing else.
    fn client(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.proxy.bootstrap_servers()).set("client.id", client_id);
        config
    }

    /// Checks that the records whose values are `prefix` and a number are `0..count`, each once, on `cluster`, and not on the other.
    fn holds(&self, topic: &str, prefix: &str, count: usize, cluster: &str) -> Result<()> {
        for (name, real) in [("legacy", &self.legacy), ("new", &self.new)] {
            let mut found = Vec::new();
            for record in real.read_all(topic)? {
                let value = String::from_utf8(record.value.unwrap_or_default())?;
                if let Some(number) = value.strip_prefix(prefix) {
                    found.push(number.parse::<usize>().with_context(|| format!("the value {value:?}"))?);
                }
            }
            found.sort_unstable();
            let expected: Vec<usize> = if name == cluster { (0..count).collect() } else { Vec::new() };
            ensure!(found == expected, "topic {topic} on {name}: {} records, {} expected, each once", found.len(), expected.len());
        }
        Ok(())
    }

    /// Reads what is new in `orders` as the group [`READER`], commits, and returns how many records came: `expected`, or it is an error.
    fn read_as_group(&self, expected: usize) -> Result<usize> {
        let consumer: BaseConsumer = self
            .client(READER)
            .set("group.id", READER)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "true")
            .create()?;
        consumer.subscribe(&["orders"])?;
        let deadline = Instant::now() + LIMIT;
        let mut read = 0;
        let mut quiet = false;
        // A moment longer than needed: one record too many would be as wrong as one too few.
        while !(quiet && read >= expected) {
            ensure!(Instant::now() < deadline, "{read} of {expected} records came within {} s", LIMIT.as_secs());
            match consumer.poll(Duration::from_millis(300)) {
                Some(message) => {
                    message?.payload().context("a record without a value")?;
                    read += 1;
                }
                None => quiet = true,
            }
        }
        ensure!(read == expected, "{read} records came, {expected} were produced");
        consumer.commit_consumer_state(rdkafka::consumer::CommitMode::Sync)?;
        Ok(read)
    }
}

fn routes(clusters: &Routes, round: usize) -> Routes {
    let orders = ROUNDS[round].1;
    clusters
        .clone()
        .route("orders", "orders-*", orders)
        .route(mirrored::TOPIC, mirrored::READER, orders)
        .route(mirrored::GROUP, mirrored::GROUP, mirrored::GROUP_ROUNDS[round])
        .route("payments", "payments-*", "new")
        .relay(RELAYED, "invoices-*", "new", "")
        .route("everybody-else", "*", "legacy")
}

impl Producer {
    fn software(self) -> String {
        match self.kind {
            Kind::Java => format!("Java {NEW}"),
            Kind::Librdkafka if self.topic == RELAYED => "librdkafka, relayed".to_owned(),
            Kind::Librdkafka => "librdkafka".to_owned(),
        }
    }

    /// Where the file sends it.
    fn cluster(self, orders: &'static str) -> &'static str {
        match self.topic {
            "orders" => orders,
            "payments" | RELAYED => "new",
            _ => "legacy",
        }
    }

    /// What its values of a round begin with; a number follows.
    fn prefix(self, round: usize) -> String {
        match self.kind {
            Kind::Java => format!("{round}."),
            Kind::Librdkafka => format!("{} {round} #", self.client_id),
        }
    }

    fn run(self, stage: &Stage, round: usize) -> Result<()> {
        match self.kind {
            Kind::Java => self.run_java(stage, round),
            Kind::Librdkafka => self.run_librdkafka(stage, round),
        }
        .with_context(|| self.client_id)
    }

    fn run_java(self, stage: &Stage, round: usize) -> Result<()> {
        let config = stage.new.folder().join(format!("{}.properties", self.client_id));
        std::fs::write(&config, format!("client.id={}\n", self.client_id))?;
        let (records, round, config) = (RECORDS.to_string(), round.to_string(), config.display().to_string());
        let bootstrap_servers = stage.proxy.bootstrap_servers();
        let connection = ["--bootstrap-server", &bootstrap_servers, "--topic", self.topic, "--producer.config", &config];
        let what = ["--max-messages", &records, "--value-prefix", &round];
        stage.new.tool("org.apache.kafka.tools.VerifiableProducer", &[&connection[..], &what[..]].concat())?;
        Ok(())
    }

    fn run_librdkafka(self, stage: &Stage, round: usize) -> Result<()> {
        let producer: BaseProducer = stage.client(self.client_id).create()?;
        for number in 0..RECORDS {
            let value = format!("{}{number}", self.prefix(round));
            producer.send(BaseRecord::<(), _>::to(self.topic).payload(&value)).map_err(|(error, _)| error)?;
        }
        producer.flush(LIMIT)?;
        Ok(())
    }
}

/// An instance of [`STEADY`], sending a record each 20 ms.
struct Steady {
    round: usize,
    cluster: &'static str,
    stop: Arc<AtomicBool>,
    sending: JoinHandle<Result<usize>>,
}

impl Steady {
    fn start(stage: &Stage, round: usize, cluster: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (config, stopped) = (stage.client(STEADY), stop.clone());
        let sending = thread::spawn(move || {
            let producer: BaseProducer = config.create()?;
            let mut sent = 0;
            // Some each, however soon it is stopped.
            while sent < RECORDS || !stopped.load(Ordering::Relaxed) {
                let value = format!("{round} #{sent}");
                producer.send(BaseRecord::<(), _>::to(STEADY).payload(&value)).map_err(|(error, _)| error)?;
                producer.poll(Duration::from_millis(20));
                sent += 1;
            }
            producer.flush(LIMIT)?;
            Ok(sent)
        });
        Self { round, cluster, stop, sending }
    }

    /// Stops it, and checks that all of its records are on the cluster where it connected.
    fn stop(self, stage: &Stage) -> Result<Cell> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().map_err(|_| anyhow!("{STEADY} panicked"))?.context(STEADY)?;
        stage.holds(STEADY, &format!("{} #", self.round), sent, self.cluster).context(STEADY)?;
        Ok(landed(self.cluster, sent))
    }
}
