//! `make bench-mirror`: what it costs to copy topics between two real clusters, beside MirrorMaker 2 in the same run, for small batches, for a log
//! that starts late, and for many partitions in which little happens; and where groups go on, beside MirrorMaker 2 too.
//! `bench-mirror --only copy,mm2,cold,small,padding,idle,groups` runs some of it.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use harness::kafka::{Cluster, Commit, Fill, Listener, Stored};
use harness::measure::{self, Memory, Spread, cpu_time, memory};
use harness::process::Process;
use harness::proxy::{Routes, executable};
use harness::{jars, raw, run};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const LARGE_TOPIC: &str = "bench-large";
const SMALL_TOPIC: &str = "bench-small";
const SOURCE: &str = "3.9.1";
const TARGET: &str = "4.3.0";
/// MirrorMaker 2's own, which is what a company that moves to the target's version would run.
const MIRROR_MAKER: &str = TARGET;

const PARTITIONS: i32 = 4;
/// About what an order or a page view is.
const VALUE_LEN: usize = 236;
/// 64 KiB, with this data and lz4.
const LARGE: Fill = Fill { records: 5_000_000, records_per_batch: 768, compression: "lz4" };
/// 0.9 KB of values, 1 KiB with headers: what producers with `linger.ms=0` send.
const SMALL: Fill = Fill { records: 1_000_000, records_per_batch: 4, compression: "none" };
/// Both brokers' compilers have seen records before anything is measured.
const WARM_UP: Fill = Fill { records: 1_000_000, records_per_batch: 768, compression: "lz4" };
const ROUNDS: usize = 3;

const LOG_START: i64 = 100_000_000;
const AFTER_THE_START: Fill = Fill { records: 10_000, records_per_batch: 100, compression: "lz4" };

const IDLE_TOPICS: usize = 200;
const IDLE_PARTITIONS: i32 = 10;
/// Topics that get a record in each second.
const IDLE_RECORDS: usize = 20;
const IDLE_TIME: Duration = Duration::from_mins(1);

const GROUPS_TOPIC: &str = "bench-groups";
const GROUPS: [&str; 3] = ["bench-billing", "bench-search", "bench-reports"];
/// 100,000 in each partition.
const OF_GROUPS: Fill = Fill { records: 400_000, records_per_batch: 768, compression: "lz4" };
/// How long MirrorMaker 2 has for the groups once the records are there, and how often it copies their offsets (`mm2.properties`).
const FOR_GROUPS: Duration = Duration::from_mins(1);

/// The mirror has this share of MirrorMaker 2's CPU time after its start, for all that it does.
const CPU_GOAL: f64 = 20.0;
/// The mirror takes this share of its time from the first record to the last.
const WALL_GOAL: f64 = 3.0;
/// The mirror's memory, in bytes.
const MEMORY_GOAL: f64 = 80e6;

/// What one copy may take.
const LIMIT: Duration = Duration::from_mins(10);
/// How often the target is asked how far it is: each look costs it five short connections.
const LOOK: Duration = Duration::from_millis(50);

const PARTS: [&str; 7] = ["copy", "mm2", "cold", "small", "padding", "idle", "groups"];

fn main() -> Result<()> {
    let parts = measure::parts(&PARTS)?;
    let wanted = |part: &str| parts.iter().any(|wanted| wanted == part);
    if parts.iter().any(|part| part != "mm2") {
        executable("kferry-mirror")?;
    }
    raw::open_many_files()?;
    println!("{}; source Kafka {SOURCE}, target Kafka {TARGET}, one broker each", measure::machine()?);
    let mut stage = Stage::set()?;

    if wanted("copy") || wanted("mm2") || wanted("cold") {
        let topic = LARGE_TOPIC;
        stage.source.create_topic(topic, PARTITIONS, &[])?;
        let stored = stage.fill(topic, LARGE)?;
        let mut kferry = Vec::new();
        if wanted("copy") {
            for _ in 0..ROUNDS {
                kferry.push(stage.kferry(topic, Coalesce::Yes)?);
                stage.target.delete_topic(topic)?;
            }
        }
        // Last, so that it has the brokers at their warmest.
        let mirror_maker = if wanted("mm2") { Some(stage.mirror_maker(topic)?) } else { None };
        println!("\n{}", describe(LARGE, stored));
        if !kferry.is_empty() || mirror_maker.is_some() {
            compare(&kferry, mirror_maker.as_ref())?;
        }
        if wanted("cold") {
            let cold = (0..ROUNDS).map(|_| stage.kferry_onto_a_cold_broker(topic)).collect::<Result<Vec<_>>>()?;
            println!("\nthe same onto a broker that has just started");
            compare(&cold, None)?;
        }
    }
    if wanted("small") {
        small_batches(&stage)?;
    }
    if wanted("padding") {
        padding(&stage)?;
    }
    if wanted("idle") {
        idle(&stage)?;
    }
    if wanted("groups") {
        groups(&stage)?;
    }
    Ok(())
}

/// The two clusters.
struct Stage {
    source: Cluster,
    target: Cluster,
}

/// Whether kferry-mirror makes large batches of small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coalesce {
    Yes,
    No,
}

/// What one copy of a topic cost; times in seconds.
#[derive(Debug)]
struct Cost {
    /// CPU time of the mirror's process, all of it.
    cpu: f64,
    /// Of that, before the first record was on the target.
    cpu_of_start: f64,
    /// From the first record on the target to the last.
    copying: f64,
    /// From the start of the process: to its end, or to the last record where it never ends.
    whole: f64,
    /// The most memory it had in RAM, in bytes.
    peak: u64,
    /// CPU time of the target's broker meanwhile.
    target_cpu: f64,
}

impl Stage {
    fn set() -> Result<Self> {
        let source = Cluster::version(SOURCE).name("source").perf();
        let target = Cluster::version(TARGET).name("target").perf();
        let mut clusters = Cluster::start_all(vec![source, target])?;
        let (target, source) = (clusters.pop().context("two clusters")?, clusters.pop().context("two clusters")?);
        for cluster in [&source, &target] {
            cluster.create_topic("warm-up", PARTITIONS, &[])?;
            cluster.fill("warm-up", WARM_UP, order)?;
            cluster.delete_topic("warm-up")?;
        }
        Ok(Self { source, target })
    }

    fn fill(&self, topic: &str, fill: Fill) -> Result<Stored> {
        let start = Instant::now();
        self.source.fill(topic, fill, order)?;
        println!("{topic}: {} records in {:.1} s", fill.records, seconds(start.elapsed()));
        self.source.stored(topic)
    }

    /// Copies topics that match, as a job that ends with the last record.
    fn kferry(&self, topic: &str, coalesce: Coalesce) -> Result<Cost> {
        let mut command = kferry_mirror(&self.routes(topic, "")?, coalesce)?;
        // The target's topics are deleted between the rounds: the mirror is told that this was meant.
        let process = spawn("kferry-mirror", command.args(["--once", "--accept", topic]))?;
        self.watch(process, topic, Ends::Itself)
    }

    /// The same, onto a target that has done nothing yet: its code is still interpreted.
    fn kferry_onto_a_cold_broker(&mut self, topic: &str) -> Result<Cost> {
        let cold = Cluster::version(TARGET).name("cold").perf().start()?;
        let warm = std::mem::replace(&mut self.target, cold);
        let cost = self.kferry(topic, Coalesce::Yes);
        self.target = warm;
        cost
    }

    /// `lines` are more lines of the mirror.
    fn routes(&self, topics_regex: &str, lines: &str) -> Result<Routes> {
        let mirror = format!(
            "[[mirrors]]\nname = \"bench\"\nsource = \"source\"\ntarget = \"target\"\ntopics_regex = [\"{topics_regex}\"]\n{lines}"
        );
        let routes = Routes::new()?
            .cluster("source", &self.source.bootstrap_servers(Listener::Plaintext)?)
            .cluster("target", &self.target.bootstrap_servers(Listener::Plaintext)?);
        Ok(routes.route("all", "*", "source").section(&mirror))
    }

    fn mirror_maker(&self, topic: &str) -> Result<Cost> {
        self.watch(self.start_mirror_maker(topic)?, topic, Ends::Never)
    }

    /// As `connect-mirror-maker.sh` and `kafka-run-class.sh` start it.
    fn start_mirror_maker(&self, topic: &str) -> Result<Process> {
        let folder = run::folder("mirror-maker")?;
        let properties = folder.join("mm2.properties");
        let text = include_str!("kafka/mm2.properties")
            .replace("=SOURCE\n", &format!("={}\n", self.source.bootstrap_servers(Listener::Plaintext)?))
            .replace("=TARGET\n", &format!("={}\n", self.target.bootstrap_servers(Listener::Plaintext)?))
            .replace("=TOPICS\n", &format!("={topic}\n"));
        std::fs::write(&properties, text)?;
        let mut command = jars::java()?;
        command.args(["-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]);
        command.args(["-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true"]);
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn").arg("-cp").arg(jars::kafka(MIRROR_MAKER)?.join("*"));
        command.arg("org.apache.kafka.connect.mirror.MirrorMaker").arg(&properties);
        spawn("MirrorMaker 2", &command)
    }

    /// Measures a copy from the start of its process on, and checks that it is whole.
    fn watch(&self, mut process: Process, topic: &str, ends: Ends) -> Result<Cost> {
        let start = Instant::now();
        let records: i64 = self.source.log_ends(topic)?.iter().sum();
        let target_cpu = seconds(cpu_time(self.target.process_id(1)?)?);
        let mut first = None;
        let mut last = None;
        let mut peak = 0;
        let (cpu, whole) = loop {
            // Its end is looked at before the target is: what an ended process has not copied will not come.
            let running = memory(process.id())?;
            let arrived = self.arrived(topic);
            let (cpu, now) = (seconds(cpu_time(process.id())?), seconds(start.elapsed()));
            peak = peak.max(running.map_or(0, |memory| memory.peak));
            if arrived > 0 {
                first.get_or_insert((cpu, now));
            }
            if arrived >= records {
                last.get_or_insert(now);
            }
            match (running, ends, last) {
                (Some(_), Ends::Never, Some(_)) => break (cpu, now),
                (None, Ends::Itself, Some(_)) => {
                    let status = process.wait(LIMIT)?;
                    ensure!(status.success(), "it ended with {status}:\n{}", process.log_tail(30));
                    break (cpu, now);
                }
                (None, _, _) => bail!("it ended after {arrived} of {records} records of {topic}:\n{}", process.log_tail(30)),
                (Some(_), _, _) => {}
            }
            ensure!(start.elapsed() < LIMIT, "{arrived} of {records} records of {topic} after {now:.0} s:\n{}", process.log_tail(30));
            std::thread::sleep(LOOK);
        };
        let ((cpu_of_start, first), last) = first.zip(last).context("a topic without records")?;
        let target_cpu = seconds(cpu_time(self.target.process_id(1)?)?) - target_cpu;
        process.kill();
        let (source, target) = (self.source.log_ends(topic)?, self.target.log_ends(topic)?);
        ensure!(source == target, "the logs of {topic} end at {source:?} and at {target:?}");
        Ok(Cost { cpu, cpu_of_start, copying: last - first, whole, peak, target_cpu })
    }

    /// Records of a topic on the target, which may not have it yet.
    fn arrived(&self, topic: &str) -> i64 {
        self.target.log_ends(topic).map_or(0, |ends| ends.iter().sum())
    }
}

/// How the copying ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// With the process.
    Itself,
    /// By whoever measures.
    Never,
}

/// The program with a file, to be completed.
fn kferry_mirror(routes: &Routes, coalesce: Coalesce) -> Result<Command> {
    let config = run::folder("kferry-mirror")?.join("routes.toml");
    std::fs::write(&config, routes.text())?;
    let mut command = Command::new(executable("kferry-mirror")?);
    command.arg("--config").arg(config).env_remove("KFERRY_CONFIG");
    command.args(["--admin-bind", &format!("127.0.0.1:{}", routes.admin_port())]);
    if coalesce == Coalesce::No {
        command.arg("--no-coalesce");
    }
    Ok(command)
}

fn spawn(name: &str, command: &Command) -> Result<Process> {
    Process::spawn(name, command, &run::folder("log")?.join("log"))
}

/// The nth order: JSON of [`VALUE_LEN`] bytes. About half of it is the same in all of them, as with most JSON.
fn order(n: u64, value: &mut Vec<u8>) {
    // Weyl's sequence and the finalizer of MurmurHash3: bits that no codec can guess.
    let mixed = |salt: u64| {
        let mut bits = n.wrapping_mul(2).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        bits ^ (bits >> 33)
    };
    let (one, other) = (mixed(0), mixed(1));
    let status = ["created", "settled", "shipped", "refused"][(one % 4) as usize];
    let city = ["berlin", "london", "madrid", "vienna"][(other % 4) as usize];
    let _ = write!(
        value,
        r#"{{"order_id":"o-{n:09}","customer_id":"c-{:08}","status":"{status}","currency":"EUR","amount":"{:06}.{:02}","items":{},"warehouse":"{city}-{:02}","created_at":"2025-06-01T{:02}:{:02}:{:02}.{:03}Z","trace_id":"{one:016x}{other:016x}","v":1}}"#,
        one % 10_000_000,
        other % 100_000,
        one % 100,
        other % 9 + 1,
        one % 20,
        n / 3_600_000 % 24,
        n / 60_000 % 60,
        n / 1_000 % 60,
        n % 1_000,
    );
}

fn describe(fill: Fill, stored: Stored) -> String {
    format!(
        "{} records of {VALUE_LEN} bytes JSON in {PARTITIONS} partitions; {}: {:.1} KiB and {:.1} records a batch, {:.0} MB in all",
        fill.records,
        fill.compression,
        stored.bytes_per_batch() / 1024.0,
        stored.records_per_batch(),
        stored.bytes as f64 / 1e6
    )
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// One figure of a copy, and what the mirror is to reach with it.
struct Figure {
    what: &'static str,
    unit: &'static str,
    of_kferry: fn(&Cost) -> f64,
    of_mirror_maker: fn(&Cost) -> f64,
    goal: Option<Goal>,
}

#[derive(Clone, Copy)]
enum Goal {
    /// MirrorMaker 2's figure is so many times the mirror's.
    Times(f64),
    /// The mirror's figure is at most this.
    AtMost(f64),
}

const FIGURES: [Figure; 6] = [
    Figure {
        what: "CPU time, MirrorMaker 2's without its start",
        unit: "s",
        of_kferry: |cost| cost.cpu,
        of_mirror_maker: |cost| cost.cpu - cost.cpu_of_start,
        goal: Some(Goal::Times(CPU_GOAL)),
    },
    Figure { what: "CPU time, with the start", unit: "s", of_kferry: |cost| cost.cpu, of_mirror_maker: |cost| cost.cpu, goal: None },
    Figure {
        what: "first record to last",
        unit: "s",
        of_kferry: |cost| cost.copying,
        of_mirror_maker: |cost| cost.copying,
        goal: Some(Goal::Times(WALL_GOAL)),
    },
    Figure {
        what: "start of the process to the last record, kferry-mirror to its end",
        unit: "s",
        of_kferry: |cost| cost.whole,
        of_mirror_maker: |cost| cost.whole,
        goal: None,
    },
    Figure {
        what: "most memory",
        unit: "MB",
        of_kferry: |cost| cost.peak as f64 / 1e6,
        of_mirror_maker: |cost| cost.peak as f64 / 1e6,
        goal: Some(Goal::AtMost(MEMORY_GOAL / 1e6)),
    },
    Figure {
        what: "CPU time of the target's broker meanwhile",
        unit: "s",
        of_kferry: |cost| cost.target_cpu,
        of_mirror_maker: |cost| cost.target_cpu,
        goal: None,
    },
];

fn compare(kferry: &[Cost], mirror_maker: Option<&Cost>) -> Result<()> {
    let mirror = format!("kferry-mirror, median of {ROUNDS}");
    let mut table = table(["", &format!("MirrorMaker 2 {MIRROR_MAKER}"), &mirror, "times less", "goal"]);
    for figure in &FIGURES {
        let theirs = mirror_maker.map(figure.of_mirror_maker);
        let ours = if kferry.is_empty() { None } else { Some(Spread::of(kferry.iter().map(figure.of_kferry))?) };
        let times = theirs.zip(ours).map(|(theirs, ours)| theirs / ours.median);
        let goal = figure.goal.map(|goal| {
            let (text, met) = match goal {
                Goal::Times(least) => (format!("{least:.0} times less"), times.map(|times| times >= least)),
                Goal::AtMost(most) => (format!("at most {most:.0} {}", figure.unit), ours.map(|ours| ours.median <= most)),
            };
            met.map_or(text.clone(), |met| format!("{text}: {}", if met { "met" } else { "MISSED" }))
        });
        let cell = |text: Option<String>| text.unwrap_or_default();
        table.add_row([
            format!("{}, {}", figure.what, figure.unit),
            cell(theirs.map(|theirs| format!("{theirs:.2}"))),
            cell(ours.map(|ours| format!("{ours:.2}"))),
            cell(times.map(|times| format!("{times:.1}"))),
            cell(goal),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Each batch costs the target's broker about the same, whatever is in it.
fn small_batches(stage: &Stage) -> Result<()> {
    let topic = SMALL_TOPIC;
    stage.source.create_topic(topic, PARTITIONS, &[])?;
    let stored = stage.fill(topic, SMALL)?;
    let mut ways = [(Coalesce::Yes, "coalesced", Vec::new(), stored), (Coalesce::No, "as they are", Vec::new(), stored)];
    for _ in 0..ROUNDS {
        for (coalesce, _, costs, copied) in &mut ways {
            costs.push(stage.kferry(topic, *coalesce)?);
            *copied = stage.target.stored(topic)?;
            stage.target.delete_topic(topic)?;
        }
    }
    println!("\n{}", describe(SMALL, stored));
    let mut table = table([
        "batches, medians of 3",
        "KiB each on the target",
        "first to last, s",
        "CPU of kferry-mirror, s",
        "CPU of the target's broker, s",
        "of that a GB of the source's, s",
    ]);
    for (_, name, costs, copied) in &ways {
        let target_cpu = Spread::of(costs.iter().map(|cost| cost.target_cpu))?;
        table.add_row([
            (*name).to_owned(),
            format!("{:.1}", copied.bytes_per_batch() / 1024.0),
            format!("{:.2}", Spread::of(costs.iter().map(|cost| cost.copying))?),
            format!("{:.2}", Spread::of(costs.iter().map(|cost| cost.cpu))?),
            format!("{target_cpu:.2}"),
            format!("{:.1}", target_cpu.median / (stored.bytes as f64 / 1e9)),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// A fresh partition gets the source's log start before its records.
fn padding(stage: &Stage) -> Result<()> {
    let topic = "bench-late";
    stage.source.create_topic(topic, 1, &[])?;
    let start = Instant::now();
    stage.source.start_log_at(topic, LOG_START)?;
    println!("{topic}: its log starts at {LOG_START} after {:.1} s", seconds(start.elapsed()));
    stage.fill(topic, AFTER_THE_START)?;
    let cost = stage.kferry(topic, Coalesce::Yes)?;
    let (source, target) = (stage.source.log_starts(topic)?, stage.target.log_starts(topic)?);
    ensure!(source == target, "the logs of {topic} start at {source:?} and at {target:?}");
    println!(
        "\na partition whose log starts at {LOG_START}, and {} records: {:.2} s from the start of kferry-mirror to its end, {:.2} s CPU of the \
         target's broker, {:.2} s of kferry-mirror, {:.0} MB on the target before they are deleted",
        AFTER_THE_START.records,
        cost.whole,
        cost.target_cpu,
        cost.cpu,
        stage.target.stored(topic)?.bytes as f64 / 1e6
    );
    Ok(())
}

/// Where groups that were stopped on the source would go on on the target.
fn groups(stage: &Stage) -> Result<()> {
    let topic = GROUPS_TOPIC;
    stage.source.create_topic(topic, PARTITIONS, &[])?;
    stage.fill(topic, OF_GROUPS)?;
    let each = OF_GROUPS.records as i64 / i64::from(PARTITIONS);
    for (group, n) in GROUPS.iter().zip(1..) {
        // Anywhere in the log.
        let at = |partition: i32| (n * 31_337 + i64::from(partition) * 27_183) % each;
        stage.source.commit(group, topic, (0..PARTITIONS).map(|partition| (partition, Commit::at(at(partition)))))?;
    }

    let lines = format!("groups = {GROUPS:?}\n");
    let mut command = kferry_mirror(&stage.routes(topic, &lines)?, Coalesce::Yes)?;
    let start = Instant::now();
    let mut process = spawn("kferry-mirror", command.arg("--once"))?;
    let status = process.wait(LIMIT)?;
    ensure!(status.success(), "it ended with {status}:\n{}", process.log_tail(30));
    let ours = (GoesOn::of(stage)?, seconds(start.elapsed()));
    stage.target.delete_topic(topic)?;
    for group in GROUPS {
        stage.target.delete_group(group)?;
    }

    // That it is there already is no matter to it, and can be asked about.
    stage.target.create_topic(topic, PARTITIONS, &[])?;
    let start = Instant::now();
    let mut mirror_maker = stage.start_mirror_maker(topic)?;
    stage.target.await_log_ends(topic, OF_GROUPS.records as i64, LIMIT)?;
    let copied = Instant::now();
    let mut theirs = (GoesOn::of(stage)?, seconds(start.elapsed()));
    while copied.elapsed() < FOR_GROUPS {
        std::thread::sleep(Duration::from_secs(1));
        let now = GoesOn::of(stage)?;
        if now != theirs.0 {
            theirs = (now, seconds(start.elapsed()));
        }
    }
    mirror_maker.kill();

    println!("\n{} groups that were stopped somewhere in {PARTITIONS} partitions of {each} records", GROUPS.len());
    let mut table = table(["", "exact", "without an offset", "records to be read again", "so after its start, s"]);
    for (name, (goes_on, after)) in [(format!("MirrorMaker 2 {MIRROR_MAKER}"), theirs), ("kferry-mirror --once".to_owned(), ours)] {
        let GoesOn { exact, missing, again } = goes_on;
        let of = GROUPS.len() * PARTITIONS as usize;
        table.add_row([name, format!("{exact} of {of}"), missing.to_string(), again.to_string(), format!("{after:.1}")]);
    }
    println!("{table}");
    ensure!(ours.0.missing == 0 && ours.0.again == 0, "{ours:?}");
    Ok(())
}

/// Where groups go on on the target, beside where they were stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct GoesOn {
    /// Offsets that are the source's.
    exact: usize,
    /// Those that are not there: all is read again, or nothing, as `auto.offset.reset` says.
    missing: usize,
    /// Records between those that are there and the source's.
    again: i64,
}

impl GoesOn {
    fn of(stage: &Stage) -> Result<Self> {
        let mut goes_on = Self::default();
        for group in GROUPS {
            let there = stage.target.committed_offsets(group)?;
            for (partition, offset) in stage.source.committed_offsets(group)? {
                match there.get(&partition) {
                    Some(there) if *there == offset => goes_on.exact += 1,
                    Some(there) => goes_on.again += (offset - there).abs(),
                    None => goes_on.missing += 1,
                }
            }
        }
        Ok(goes_on)
    }
}

/// A daemon for many partitions.
fn idle(stage: &Stage) -> Result<()> {
    let topics: Vec<_> = (0..IDLE_TOPICS).map(|n| format!("idle-{n:03}")).collect();
    for topic in &topics {
        stage.source.create_topic(topic, IDLE_PARTITIONS, &[])?;
    }
    let mut mirror = spawn("kferry-mirror", &kferry_mirror(&stage.routes("idle-.*", "")?, Coalesce::Yes)?)?;
    let start = Instant::now();
    while stage.target.list_topics()?.iter().filter(|topic| topic.starts_with("idle-")).count() < IDLE_TOPICS {
        still_running(&mut mirror)?;
        ensure!(start.elapsed() < LIMIT, "not all topics are on the target after {LIMIT:?}:\n{}", mirror.log_tail(30));
        std::thread::sleep(Duration::from_secs(1));
    }
    let ready = start.elapsed();

    let producer: BaseProducer = stage.source.client_config(Listener::Plaintext)?.create()?;
    let mut sent = 0;
    let mut before = None;
    let mut second = Instant::now();
    // What its start leaves to do is done after a quarter of the time.
    let from = second + IDLE_TIME / 4;
    while second < from + IDLE_TIME {
        if second >= from && before.is_none() {
            before = Some((seconds(cpu_time(mirror.id())?), Instant::now()));
        }
        for topic in topics.iter().cycle().skip(sent).take(IDLE_RECORDS) {
            let record = BaseRecord::<(), _>::to(topic).payload("a record now and then").partition(sent as i32 % IDLE_PARTITIONS);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        sent += IDLE_RECORDS;
        producer.flush(LIMIT)?;
        second += Duration::from_secs(1);
        std::thread::sleep(second.saturating_duration_since(Instant::now()));
        still_running(&mut mirror)?;
    }
    let (cpu, since) = before.context("it is longer than a quarter of itself")?;
    let minutes = seconds(since.elapsed()) / 60.0;
    let cpu = seconds(cpu_time(mirror.id())?) - cpu;
    let Memory { resident, peak } = memory(mirror.id())?.context("kferry-mirror has ended")?;
    for topic in &topics {
        stage.target.await_log_ends(topic, stage.source.log_ends(topic)?.iter().sum(), harness::LIMIT)?;
    }
    println!(
        "\n{} partitions in {IDLE_TOPICS} topics, {IDLE_RECORDS} records a second in all: {:.0} MB of memory (at most {:.0}), {:.2} s CPU a \
         minute; all topics were on the target after {:.1} s, all {sent} records arrived",
        IDLE_TOPICS * IDLE_PARTITIONS as usize,
        resident as f64 / 1e6,
        peak as f64 / 1e6,
        cpu / minutes,
        seconds(ready)
    );
    mirror.terminate(harness::LIMIT)?;
    Ok(())
}

fn still_running(mirror: &mut Process) -> Result<()> {
    match mirror.exited() {
        None => Ok(()),
        Some(status) => bail!("kferry-mirror ended ({status}):\n{}", mirror.log_tail(30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_the_same_length() {
        for n in (0..LARGE.records).step_by(997).chain([LARGE.records - 1]) {
            let mut value = Vec::new();
            order(n, &mut value);
            assert_eq!(value.len(), VALUE_LEN, "{}", String::from_utf8_lossy(&value));
            assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok());
        }
    }
}
