//! Live moves: the file is edited, and topics change their leader while producers and consumers run; it is edited back, and they come back.
//!
//! Two clusters of three brokers, a proxy and a mirror that share the log of decisions on the new cluster. Groups stay where they are.

#[path = "moves/by_hand.rs"]
mod by_hand;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::{Cluster, Listener};
use harness::mirror::Mirror;
use harness::process::Process;
use harness::proxy::{Proxy, Routes};
use harness::scenario::identical;
use harness::{ports, run};
use jiff::Timestamp;
use serde_json::Value;

/// How long something may take, on a loaded machine.
const LIMIT: Duration = Duration::from_mins(2);

/// Of each topic.
const PARTITIONS: usize = 4;

/// Moves each way, of each client.
const MOVES: usize = 2;

/// Records of each partition between two moves.
const GOES_ON: u64 = 30;

const CLIENTS: [Client; 4] = [Client::Rdkafka, Client::Java4, Client::Java28, Client::FranzGo];

const MIRRORS: &str = r#"
[state]
cluster = "new"

[moves]
hold_ms = 10000

[[mirrors]]
name = "over"
source = "legacy"
target = "new"
topics_regex = ["orders.*"]
groups_regex = ["orders-.*"]
"#;

/// What all tests share. It ends with the program.
struct Stage {
    clusters: [Cluster; 2],
    base: Routes,
    proxy: Proxy,
    mirror: Mutex<(Mirror, Option<Process>)>,
}

impl Stage {
    fn set() -> Result<Self> {
        let builders = [("3.9.1", "legacy"), ("4.3.0", "new")].map(|(version, name)| {
            let cluster = Cluster::version(version).name(name).brokers(3).set("min.insync.replicas", "2");
            // A busy machine is no reason to lose a broker that nobody has killed, or to elect controllers over and over.
            let cluster = cluster.set("broker.session.timeout.ms", "8000").set("group.initial.rebalance.delay.ms", "0");
            cluster.set("controller.quorum.fetch.timeout.ms", "6000").set("controller.quorum.election.timeout.ms", "2000")
        });
        let clusters: [Cluster; 2] = Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
        let [legacy, new] = &clusters;
        let base = Routes::new()?.kafka("legacy", legacy, Listener::Plaintext, None)?.kafka("new", new, Listener::Plaintext, None)?;
        let routes = with_home(&base, "legacy");
        let admin = ports::take(1)?;
        let text = routes.text().replacen("[admin]\n", &format!("[admin]\nmirror_bind = \"127.0.0.1:{}\"\n", admin.start), 1);
        let config = run::folder("moves")?.join("routes.toml");
        fs::write(&config, &text)?;
        let proxy = Proxy::start_with(&routes, &config, &[])?;
        let mut mirror = Mirror::of(&text)?;
        let mirroring = mirror.start(&[])?;
        Ok(Self { clusters, base, proxy, mirror: Mutex::new((mirror, Some(mirroring))) })
    }

    fn mirror(&self) -> MutexGuard<'_, (Mirror, Option<Process>)> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror_says(&self) -> Result<String> {
        self.mirror().0.logs()
    }

    fn cluster(&self, name: &str) -> &Cluster {
        let [legacy, new] = &self.clusters;
        if name == "legacy" { legacy } else { new }
    }

    /// What the proxy shows of moves.
    fn moves(&self) -> Result<Value> {
        let answer = self.proxy.get("/moves")?;
        serde_json::from_str(&answer.body).context(answer.body)
    }

    /// Edits the file, and waits until what the route owns leads there. Returns how long that took.
    fn move_to(&self, home: &str, topics: &[String]) -> Result<Duration> {
        self.proxy.edit(&with_home(&self.base, home))?;
        self.leads(home, topics)
    }

    fn leads(&self, home: &str, topics: &[String]) -> Result<Duration> {
        let began = Instant::now();
        let leads = |moves: &Value| {
            let led = topics
                .iter()
                .all(|topic| moves["leaders"][topic]["cluster"] == home || home == "legacy" && moves["leaders"][topic].is_null());
            led && moves["homes"]["orders"] == home && moves["open"].is_null()
        };
        loop {
            let moves = self.moves()?;
            if leads(&moves) {
                return Ok(began.elapsed());
            }
            ensure!(
                began.elapsed() < LIMIT,
                "nothing has moved to {home}: {moves:#}\nthe proxy:\n{}\nthe mirror:\n{}",
                self.proxy.log_text(),
                self.mirror_says()?
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// How long the last move held, by the proxy's log.
    fn held(&self) -> Result<Duration> {
        let log = self.proxy.log()?;
        let at = |message: &str| -> Result<Timestamp> {
            let line = log.iter().rfind(|line| line["message"] == message).with_context(|| format!("no line says {message:?}"))?;
            Ok(line["timestamp"].as_str().context("a timestamp")?.parse()?)
        };
        let held = at("a move: the other cluster leads")? - at("a move: what is produced to its topics waits")?;
        Ok(held.try_into()?)
    }

    fn comes(&self, what: &str, look: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + 2 * LIMIT;
        loop {
            match look() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("waited until {what}; the mirror says\n{}", self.mirror_says()?)));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn with_home(base: &Routes, home: &str) -> Routes {
    base.clone().relay("orders", "orders-*", home, "topics = [\"orders.*\"]\n").section(MIRRORS)
}

static STAGE: OnceLock<Result<Stage, String>> = OnceLock::new();
/// One test at a time: they edit one file.
static TURN: Mutex<()> = Mutex::new(());

fn on_stage(test: impl FnOnce(&'static Stage) -> Result<()>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = STAGE.get_or_init(|| Stage::set().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow!("{error}"))?;
    test(stage)?;
    let log = stage.proxy.log_text();
    ensure!(!log.contains("panicked at"), "kferry-proxy panicked:\n{log}");
    Ok(())
}

/// Every partition of every client: records are acknowledged and read.
fn go_on(soaks: &[Soak]) -> Result<()> {
    soak::go_on(soaks, PARTITIONS, GOES_ON, LIMIT)
}

/// All of a client's records are in both logs, once and in order.
fn in_order(stage: &Stage, topic: &str, acked: &[u64]) -> Result<()> {
    stage.comes(&format!("{topic} is copied"), || {
        let (legacy, new) = (stage.cluster("legacy").log_ends(topic)?, stage.cluster("new").log_ends(topic)?);
        ensure!(legacy == new, "{topic} ends at {legacy:?} on legacy, at {new:?} on new");
        Ok(())
    })?;
    identical(stage.cluster("legacy"), stage.cluster("new"), topic)?;
    let mut log = BTreeMap::<usize, Vec<u64>>::new();
    for record in stage.cluster("new").read_all(topic)? {
        log.entry(record.partition as usize).or_default().push(str::from_utf8(&record.value.context("a value")?)?.parse()?);
    }
    for (partition, acked) in acked.iter().enumerate() {
        let numbers = log.remove(&partition).unwrap_or_default();
        ensure!(numbers.iter().copied().eq(0..*acked), "{topic}-{partition}: {acked} acknowledged, in the log {numbers:?}");
    }
    Ok(())
}

/// A client that produces to and reads from a topic of its own, which is copied.
fn soak(stage: &Stage, client: Client, name: &str) -> Result<(Soak, String)> {
    let topic = format!("orders.{name}");
    stage.cluster("legacy").create_topic(&topic, PARTITIONS as i32, &[])?;
    stage.comes(&format!("there is a copy of {topic}"), || stage.cluster("new").log_ends(&topic).map(drop))?;
    let client_id = format!("orders-{name}");
    let job = soak::Job::plain(stage.proxy.bootstrap_servers(), client_id, &topic, PARTITIONS, LIMIT);
    Ok((Soak::start(client, &job)?, topic))
}

#[test]
fn a_move_that_the_mirror_does_not_follow_is_given_up_and_comes_when_it_does() -> Result<()> {
    on_stage(|stage| {
        let (soak, topic) = soak(stage, Client::Rdkafka, "given-up")?;
        let (soaks, topics) = ([soak], [topic]);
        go_on(&soaks)?;
        // Killed: nobody else of the mirror's processes is there to say anything.
        stage.mirror().1.take();
        stage.proxy.edit(&with_home(&stage.base, "new"))?;
        stage.comes("the move is given up", || {
            ensure!(stage.proxy.log_text().contains("a move was given up"), "it is not");
            Ok(())
        })?;
        ensure!(stage.moves()?["leaders"][&topics[0]].is_null(), "it has moved: {}", stage.moves()?);
        go_on(&soaks).context("after the move was given up")?;
        {
            let mut mirror = stage.mirror();
            let mirroring = mirror.0.start(&[])?;
            mirror.1 = Some(mirroring);
        }
        stage.leads("new", &topics).context("once the mirror runs again")?;
        go_on(&soaks)?;
        stage.move_to("legacy", &topics)?;
        go_on(&soaks)?;
        let ([soak], [topic]) = (soaks, topics);
        let seen = soak.seen();
        println!(
            "{}: {:.2?} without acknowledgements, {:.2?} without reads",
            soak.name(),
            seen.longest_ack_pause,
            seen.longest_consume_pause
        );
        ensure!(seen.errors.is_empty() && seen.again == 0, "{seen:?}");
        in_order(stage, &topic, &soak.stop()?.acked)
    })
}

#[test]
fn topics_move_there_and_back_while_clients_run() -> Result<()> {
    on_stage(|stage| {
        let (mut soaks, mut topics) = (Vec::new(), Vec::new());
        for client in CLIENTS {
            let (soak, topic) = soak(stage, client, client.name())?;
            soaks.push(soak);
            topics.push(topic);
        }
        go_on(&soaks)?;
        // How long each stands still without a move.
        for soak in &soaks {
            soak.seen();
        }
        go_on(&soaks)?;
        let still: Vec<_> = soaks.iter().map(Soak::seen).collect();
        for n in 0..MOVES {
            for home in ["new", "legacy"] {
                let took = stage.move_to(home, &topics).with_context(|| format!("move {n} to {home}"))?;
                go_on(&soaks).with_context(|| format!("after move {n} to {home}"))?;
                println!("move {n} to {home}: {took:.2?} after the edit, held for {:.2?}", stage.held()?);
                for (soak, still) in soaks.iter().zip(&still) {
                    let seen = soak.seen();
                    println!(
                        "  {}: {:.2?} without acknowledgements ({:.2?} without a move), {:.2?} without reads ({:.2?})",
                        soak.name(),
                        seen.longest_ack_pause,
                        still.longest_ack_pause,
                        seen.longest_consume_pause,
                        still.longest_consume_pause
                    );
                    ensure!(seen.errors.is_empty() && seen.again == 0, "{}: {seen:?}", soak.name());
                }
            }
        }
        for (soak, topic) in soaks.into_iter().zip(&topics) {
            let counts = soak.stop()?;
            in_order(stage, topic, &counts.acked)?;
        }
        Ok(())
    })
}
