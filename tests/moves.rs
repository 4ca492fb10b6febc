//! Live moves: the file is edited, and topics change their leader while producers and consumers run; it is edited back, and they come back, whatever fails
//! meanwhile.
//!
//! Two clusters of three brokers, one or two proxies and a mirror that share the log of decisions on the new cluster. Groups stay where they are.

#[path = "moves/born.rs"]
mod born;
#[path = "moves/brokers.rs"]
mod brokers;
#[path = "moves/by_hand.rs"]
mod by_hand;
#[path = "moves/decisions.rs"]
mod decisions;
#[path = "moves/edits.rs"]
mod edits;
#[path = "moves/many.rs"]
mod many;
#[path = "moves/mirrors.rs"]
mod mirrors;
#[path = "moves/past.rs"]
mod past;
#[path = "moves/proxies.rs"]
mod proxies;
#[path = "moves/random.rs"]
mod random;
#[path = "moves/rights.rs"]
mod rights;
#[path = "moves/there_and_back.rs"]
mod there_and_back;
#[path = "moves/transactions.rs"]
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::LIMIT;
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::Cluster;
use harness::mirror::Mirror;
use harness::ports;
use harness::process::Process;
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw};
use harness::scenario::{comes, identical};
use harness::stage::{self, Side};
use serde_json::Value;

use self::decisions::{Decisions, Phase};

/// How long what a killed proxy has sent may still arrive.
const LATE: Duration = Duration::from_secs(30);

/// The route that the edits move, and the one that they leave alone. Each owns the topics that begin with its name.
const ORDERS: &str = "orders";
const STAYS: &str = "stays";

/// Of each topic.
const PARTITIONS: usize = 4;

/// Records of each partition between two moves.
const GOES_ON: u64 = 30;

const MIRRORS: &str = r#"
[state]
cluster = "new"

[moves]
hold_ms = 5000

[[mirrors]]
name = "over"
source = "legacy"
target = "new"
topics_regex = ["orders.*", "stays.*"]
groups_regex = ["orders-.*"]
"#;

/// What all tests share, one after the other: they edit one file.
struct Stage {
    clusters: [Cluster; 2],
    /// What the files of the first and of the second proxy say, without the route.
    files: [Routes; 2],
    proxies: Vec<Proxy>,
    mirror: Mirror,
    mirroring: Process,
    decisions: Decisions,
}

impl Stage {
    fn set() -> Result<Self> {
        let clusters = stage::clusters(&[("group.initial.rebalance.delay.ms", "0")])?;
        let files = [stage::routes(&clusters)?, stage::routes(&clusters)?];
        let routes = with_home(&files[0], Side::Legacy);
        let (config, text) = stage::shared(&routes, ports::take(1)?.start)?;
        let proxies = vec![Proxy::start_with(&routes, &config, &[])?];
        let mut mirror = Mirror::of(&text)?;
        let mirroring = mirror.start(&[])?;
        let decisions = Decisions::follow(Side::New.of(&clusters))?;
        Ok(Self { clusters, files, proxies, mirror, mirroring, decisions })
    }

    fn cluster(&self, side: Side) -> &Cluster {
        side.of(&self.clusters)
    }

    /// Starts or stops the second proxy.
    fn has_proxies(&mut self, count: usize) -> Result<()> {
        if self.proxies.len() < count {
            self.proxies.push(Proxy::start(&with_home(&self.files[1], Side::Legacy))?);
        }
        while self.proxies.len() > count {
            self.proxies[1].stop()?;
            self.proxies.pop();
        }
        self.have_joined(count, LIMIT)
    }

    fn have_joined(&self, count: usize, limit: Duration) -> Result<()> {
        self.decisions.says(&format!("that {count} proxies have joined"), limit, |state| (state.joined().len() == count).then_some(()))
    }

    /// What a proxy shows of moves.
    fn moves(&self, proxy: usize) -> Result<Value> {
        let answer = self.proxies[proxy].get("/moves")?;
        serde_json::from_str(&answer.body).context(answer.body)
    }

    /// Edits all files. Returns the last decision before that.
    fn edit(&self, home: Side) -> Result<i64> {
        let after = self.decisions.state()?.last_decision();
        (0..self.proxies.len()).try_for_each(|proxy| self.edit_one(proxy, home))?;
        Ok(after)
    }

    fn edit_one(&self, proxy: usize, home: Side) -> Result<()> {
        self.proxies[proxy].edit(&with_home(&self.files[proxy], home))
    }

    /// Edits the files, and waits until what the route owns leads there. Returns how long that took.
    fn move_to(&self, home: Side, going: &[Going]) -> Result<Duration> {
        self.edit(home)?;
        self.leads(home, going)
    }

    /// Waits until all topics that move lead there, no move is open, and no proxy holds. What stays has stayed.
    fn leads(&self, home: Side, going: &[Going]) -> Result<Duration> {
        let began = Instant::now();
        let name = home.name();
        let is_led = |moves: &Value, topic: &str| {
            let home = if topic.starts_with(STAYS) { Side::Legacy } else { home };
            match &moves["leaders"][topic]["cluster"] {
                Value::Null => home == Side::Legacy,
                leader => leader == home.name(),
            }
        };
        loop {
            let all = (0..self.proxies.len()).map(|proxy| self.moves(proxy)).collect::<Result<Vec<_>>>()?;
            let is_there = |moves: &Value| {
                going.iter().all(|going| is_led(moves, &going.topic)) && moves["homes"]["orders"] == name && moves["open"].is_null()
            };
            if all.iter().all(is_there) {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < LIMIT, "nothing has moved to {name}: {all:#?}\n{}", self.logs()?);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn logs(&self) -> Result<String> {
        let proxies: Vec<_> = self.proxies.iter().map(|proxy| format!("a proxy:\n{}", proxy.log_text())).collect();
        Ok(format!("{}the mirror:\n{}", proxies.concat(), self.mirror.logs()?))
    }

    fn mirror_runs(&mut self) -> Result<()> {
        self.mirroring = self.mirror.start(&[])?;
        Ok(())
    }

    fn comes(&self, what: &str, look: impl Fn() -> Result<()>) -> Result<()> {
        comes(LIMIT, &self.mirror, look).with_context(|| format!("waited until {what}"))
    }

    /// A topic that is copied.
    fn create(&self, topic: &str) -> Result<()> {
        self.cluster(Side::Legacy).create_topic(topic, PARTITIONS as i32, &[])?;
        self.comes(&format!("there is a copy of {topic}"), || self.cluster(Side::New).log_ends(topic).map(drop))
    }

    /// A client that speaks to the virtual broker of the broker that leads a topic's first partition.
    fn at_leader(&self, proxy: usize, side: Side, topic: &str) -> Result<Raw> {
        let leader = self.cluster(side).partitions(topic)?[0].leader;
        let mut client = Raw::connect(self.files[proxy].virtual_broker(side.name(), leader)?.1)?;
        client.ask(&raw::api_versions(0, Some("orders-ahead")))?;
        Ok(client)
    }

    /// A client that comes by a proxy, produces to and reads from a topic of its own, which is copied.
    fn going(&self, proxy: usize, client: Client, name: &str) -> Result<Going> {
        self.going_with(proxy, client, ORDERS, name, |_| ())
    }

    /// A producer without idempotence, with one request at a time: what is sent again stays in order; of librdkafka while no other leader is elected
    /// (docs/wire-quirks.md).
    fn plain(&self, proxy: usize, client: Client, route: &str, name: &str) -> Result<Going> {
        self.going_with(proxy, client, route, name, |job| (job.idempotent, job.max_in_flight) = (false, Some(1)))
    }

    fn going_with(&self, proxy: usize, client: Client, route: &str, name: &str, change: impl FnOnce(&mut soak::Job)) -> Result<Going> {
        let topic = format!("{route}.{name}");
        self.create(&topic)?;
        let client_id = format!("{route}-{name}");
        let mut job = soak::Job::plain(self.proxies[proxy].bootstrap_servers(), client_id, &topic, PARTITIONS, LIMIT);
        change(&mut job);
        Ok(Going { soak: Soak::start(client, &job)?, topic, is_plain: !job.idempotent })
    }

    /// Stops the clients. Each record is in both logs and was read, in order; once, unless `strikes` say that a plain producer may have had to send it again.
    fn ends(&self, going: Vec<Going>, strikes: bool) -> Result<Figures> {
        let mut figures = Figures::default();
        for Going { soak, topic, is_plain } in going {
            let seen = soak.seen();
            ensure!(seen.errors.is_empty(), "{}: {seen:?}", soak.name());
            let so_far = soak.counts()?.acked;
            // What a consumer misses may be in the log, or not.
            let stopped = soak.stop().with_context(|| format!("the log of {topic}: {:?}", self.numbers(&topic, &so_far)));
            let acked = stopped?.acked;
            self.is_copied(&topic)?;
            let Numbers { doubled, batches, .. } = self.in_order(&topic, &acked)?;
            ensure!(doubled == 0 || strikes && is_plain, "{topic}: {doubled} records came twice");
            figures.records += acked.iter().sum::<u64>();
            figures.doubled += doubled;
            figures.batches += batches;
        }
        println!("{figures}");
        Ok(figures)
    }

    /// Both logs are the same.
    fn is_copied(&self, topic: &str) -> Result<()> {
        let (legacy, new) = (self.cluster(Side::Legacy), self.cluster(Side::New));
        self.comes(&format!("{topic} is copied"), || {
            let (legacy, new) = (legacy.log_ends(topic)?, new.log_ends(topic)?);
            ensure!(legacy == new, "{topic} ends at {legacy:?} on legacy, at {new:?} on new");
            Ok(())
        })?;
        identical(legacy, new, topic)
    }

    /// Every number is in the log, in order. Returns what came again.
    fn in_order(&self, topic: &str, acked: &[u64]) -> Result<Numbers> {
        let log = self.numbers(topic, acked)?;
        ensure!(log.lost == 0 && log.reordered == 0, "{topic}, {acked:?} acknowledged: {log:?}");
        Ok(log)
    }

    /// The numbers in the log beside how many of each partition were acknowledged.
    fn numbers(&self, topic: &str, acked: &[u64]) -> Result<Numbers> {
        let mut numbers = Numbers::default();
        let mut seen = vec![BTreeSet::new(); acked.len()];
        // The last record of each partition, if it was one that came again.
        let mut again = vec![None; acked.len()];
        for record in self.cluster(Side::New).read_all(topic)? {
            let (seen, again) = (&mut seen[record.partition as usize], &mut again[record.partition as usize]);
            let number = str::from_utf8(&record.value.context("a value")?)?.parse::<u64>()?;
            if let Some(last) = seen.last().filter(|last| number < **last && !seen.contains(&number)) {
                println!("{topic}-{}: {number} comes behind {last}", record.partition);
                numbers.reordered += 1;
            }
            let comes_again = (!seen.insert(number)).then_some(number);
            numbers.doubled += u64::from(comes_again.is_some());
            if comes_again.is_some() && again.is_none_or(|last| number <= last) {
                println!("{topic}-{}: {number}, made at {:?}, came again, and maybe what is behind it", record.partition, record.timestamp);
                numbers.batches += 1;
            }
            *again = comes_again;
        }
        numbers.lost = seen.iter().zip(acked).map(|(seen, acked)| (0..*acked).filter(|number| !seen.contains(number)).count() as u64).sum();
        Ok(numbers)
    }
}

/// What is wrong with the numbers in a log.
#[derive(Debug, Default)]
struct Numbers {
    lost: u64,
    doubled: u64,
    /// In how many rows of records those stand. While a topic is held more records wait, and so more come in each.
    batches: u64,
    /// Came behind a higher one, for the first time.
    reordered: u64,
}

fn with_home(base: &Routes, home: Side) -> Routes {
    let owner = |routes: Routes, name: &str, cluster: Side| {
        routes.relay(name, &format!("{name}-*"), cluster.name(), &format!("topics = [\"{name}.*\"]\n"))
    };
    let moving = owner(base.clone().limit("drain_timeout_ms", 2_000), ORDERS, home);
    owner(moving, STAYS, Side::Legacy).section(MIRRORS)
}

/// A client that runs.
struct Going {
    soak: Soak,
    topic: String,
    is_plain: bool,
}

/// Every partition of every client: records are acknowledged and read.
fn go_on(going: &[Going]) -> Result<()> {
    soak::go_on(going.iter().map(|going| &going.soak), PARTITIONS, GOES_ON, LIMIT)
}

/// What came of it.
#[derive(Debug, Default)]
struct Figures {
    records: u64,
    doubled: u64,
    batches: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, doubled, batches } = self;
        write!(to, "{records} records: 0 lost, 0 out of order, {doubled} sent again by plain producers in {batches} batches")
    }
}

/// What was struck, in which phase of a move, and how often.
#[derive(Debug, Default)]
struct Strikes(BTreeMap<(&'static str, Phase), usize>);

impl Strikes {
    fn count(&mut self, what: &'static str, phase: Phase) {
        *self.0.entry((what, phase)).or_default() += 1;
    }
}

impl fmt::Display for Strikes {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|((what, phase), count)| writeln!(to, "  {what}, {phase:?}: {count}"))
    }
}

fn on_stage(test: impl FnOnce(&mut Stage) -> Result<()>) -> Result<()> {
    static STAGE: Mutex<Option<Stage>> = Mutex::new(None);
    let mut stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let set = match stage.take() {
        Some(set) => set,
        None => Stage::set()?,
    };
    // What a test leaves that has failed is for nobody.
    let (set, began) = (stage.insert(set), Instant::now());
    ensure!(set.moves(0)?["homes"]["orders"] != Side::New.name(), "the test before this one has left the route on new");
    let tested = test(set);
    println!("{} took {:.0?}", thread::current().name().unwrap_or_default(), began.elapsed());
    let panicked = set.proxies.iter().any(|proxy| proxy.log_text().contains("panicked at"));
    if panicked || tested.is_err() {
        let logs = set.logs()?;
        *stage = None;
        ensure!(!panicked, "kferry-proxy panicked:\n{logs}");
    }
    tested
}
