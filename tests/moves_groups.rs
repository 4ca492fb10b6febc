//! Live moves of groups: the file is edited, and groups of real clients change their coordinator while they read; it is edited back, and they come back.
//!
//! Two clusters of one broker, a proxy and a mirror that share the log of decisions on the new cluster.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::{Cluster, Commit, Listener};
use harness::mirror::Mirror;
use harness::process::Process;
use harness::proxy::{Proxy, Routes};
use harness::{ports, run};
use serde_json::Value;

/// How long something may take, on a loaded machine.
const LIMIT: Duration = Duration::from_mins(2);

/// Of each topic.
const PARTITIONS: usize = 4;

/// Moves each way, of each client.
const MOVES: usize = 2;

/// Records of each partition between two moves.
const GOES_ON: u64 = 30;

/// How the members of a group share the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shares {
    /// As the library does by itself: Java and librdkafka are eager, franz-go is cooperative.
    ByDefault,
    Cooperatively,
    /// By the consumer protocol (KIP-848), which the brokers must know.
    ByTheBrokers,
}

const CLIENTS: [(Client, Shares); 6] = [
    (Client::Rdkafka, Shares::ByDefault),
    (Client::Rdkafka, Shares::Cooperatively),
    (Client::Java4, Shares::ByDefault),
    (Client::Java4, Shares::Cooperatively),
    (Client::Java28, Shares::ByDefault),
    (Client::FranzGo, Shares::ByDefault),
];

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

struct Stage {
    clusters: [Cluster; 2],
    base: Routes,
    proxy: Proxy,
    mirror: Mirror,
    _mirroring: Process,
}

impl Stage {
    fn set(legacy: &str) -> Result<Self> {
        let builders = [(legacy, "legacy"), ("4.3.0", "new")]
            .map(|(version, name)| Cluster::version(version).name(name).set("group.initial.rebalance.delay.ms", "0"));
        let clusters: [Cluster; 2] = Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
        let [legacy, new] = &clusters;
        let base = Routes::new()?.kafka("legacy", legacy, Listener::Plaintext, None)?.kafka("new", new, Listener::Plaintext, None)?;
        let routes = with_home(&base, "legacy");
        let admin = ports::take(1)?;
        let text = routes.text().replacen("[admin]\n", &format!("[admin]\nmirror_bind = \"127.0.0.1:{}\"\n", admin.start), 1);
        let config = run::folder("moves-groups")?.join("routes.toml");
        fs::write(&config, &text)?;
        let proxy = Proxy::start_with(&routes, &config, &[])?;
        let mut mirror = Mirror::of(&text)?;
        let mirroring = mirror.start(&[])?;
        Ok(Self { clusters, base, proxy, mirror, _mirroring: mirroring })
    }

    fn cluster(&self, name: &str) -> &Cluster {
        let [legacy, new] = &self.clusters;
        if name == "legacy" { legacy } else { new }
    }

    fn moves(&self) -> Result<Value> {
        let answer = self.proxy.get("/moves")?;
        serde_json::from_str(&answer.body).context(answer.body)
    }

    /// Edits the file, and waits until the topics and groups of the route are there. Returns how long that took for the topics, and for the groups.
    fn move_to(&self, home: &str, groups: &[String]) -> Result<[Duration; 2]> {
        self.proxy.edit(&with_home(&self.base, home))?;
        let (began, mut led) = (Instant::now(), None);
        loop {
            let moves = self.moves()?;
            if moves["homes"]["orders"] == home {
                led.get_or_insert(began.elapsed());
            }
            let live = groups.iter().all(|group| moves["groups"][group] == home || home == "legacy" && moves["groups"][group].is_null());
            if let Some(led) = led.filter(|_| live && moves["open"].is_null()) {
                return Ok([led, began.elapsed()]);
            }
            ensure!(
                began.elapsed() < LIMIT,
                "not all have moved to {home}: {moves:#}\nthe proxy:\n{}\nthe mirror:\n{}",
                self.proxy.log_text(),
                self.mirror.logs()?
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn comes(&self, what: &str, look: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match look() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("waited until {what}; the mirror says\n{}", self.mirror.logs()?)));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn copied_topic(&self, topic: &str) -> Result<()> {
        self.cluster("legacy").create_topic(topic, PARTITIONS as i32, &[])?;
        self.comes(&format!("there is a copy of {topic}"), || self.cluster("new").log_ends(topic).map(drop))
    }
}

fn with_home(base: &Routes, home: &str) -> Routes {
    base.clone().relay("orders", "orders-*", home, "topics = [\"orders.*\"]\ngroups = [\"orders-*\"]\n").section(MIRRORS)
}

/// Every partition of every client: records are acknowledged and read.
fn go_on(soaks: &[Soak]) -> Result<()> {
    soak::go_on(soaks, PARTITIONS, GOES_ON, LIMIT)
}

#[test]
fn groups_move_there_and_back_while_clients_read() -> Result<()> {
    there_and_back("3.9.1", &CLIENTS)
}

#[test]
fn groups_of_the_consumer_protocol_move_there_and_back() -> Result<()> {
    there_and_back("4.3.0", &[(Client::Rdkafka, Shares::ByTheBrokers), (Client::Java4, Shares::ByTheBrokers)])
}

fn there_and_back(legacy: &str, clients: &[(Client, Shares)]) -> Result<()> {
    let stage = Stage::set(legacy)?;
    let (mut soaks, mut groups) = (Vec::new(), Vec::new());
    let only = std::env::var("CLIENTS").ok();
    for &(client, shares) in clients {
        let name = match shares {
            Shares::ByDefault => client.name().to_owned(),
            Shares::Cooperatively => format!("{}-cooperative", client.name()),
            Shares::ByTheBrokers => format!("{}-consumer", client.name()),
        };
        if only.as_ref().is_some_and(|only| !only.split(',').any(|only| only == name)) {
            continue;
        }
        let topic = format!("orders.{name}");
        stage.copied_topic(&topic)?;
        let job = soak::Job::plain(stage.proxy.bootstrap_servers(), format!("orders-{name}"), &topic, PARTITIONS, LIMIT);
        groups.push(job.group_id.clone());
        let group_protocol = (shares == Shares::ByTheBrokers).then_some("consumer");
        soaks.push(Soak::start(client, &soak::Job { cooperative: shares == Shares::Cooperatively, group_protocol, ..job })?);
    }
    // A group without members, whose offsets are all that there is of it.
    stage.copied_topic("orders.nobody")?;
    stage.cluster("legacy").commit("orders-nobody", "orders.nobody", [(0, Commit::at(0)), (3, Commit::at(0))])?;
    groups.push("orders-nobody".to_owned());
    go_on(&soaks)?;
    for soak in &soaks {
        soak.seen();
    }
    go_on(&soaks)?;
    let still: Vec<_> = soaks.iter().map(Soak::seen).collect();
    let mut wrong = Vec::new();
    for n in 0..MOVES {
        for (old, home) in [("legacy", "new"), ("new", "legacy")] {
            let [led, took] = stage.move_to(home, &groups).with_context(|| format!("move {n} to {home}"))?;
            go_on(&soaks).with_context(|| format!("after move {n} to {home}: {}", stage.proxy.log_text()))?;
            println!("move {n} to {home}: topics {led:.2?} after the edit, groups {took:.2?}");
            for ((soak, still), group) in soaks.iter().zip(&still).zip(&groups) {
                let seen = soak.seen();
                println!(
                    "  {}: {:.2?} without reads ({:.2?} without a move), read once more {}, {:?}, {:?}",
                    soak.name(),
                    seen.longest_consume_pause,
                    still.longest_consume_pause,
                    seen.again,
                    seen.errors,
                    seen.notices
                );
                if !seen.errors.is_empty() || seen.again > 0 {
                    wrong.push(format!("{} at move {n} to {home}: {seen:?}", soak.name()));
                }
                let [here, there] = [home, old].map(|cluster| stage.cluster(cluster).group(group));
                let (here, there) = (here?, there?);
                let is_classic = !group.ends_with("-consumer");
                if is_classic && here.client_ids.len() != 2 || !there.client_ids.is_empty() {
                    wrong.push(format!("group {group} after move {n} to {home}: on {home} {here:?}, on {old} {there:?}"));
                }
            }
            let offsets: Vec<_> = stage.cluster(home).committed_offsets("orders-nobody")?.into_values().collect();
            ensure!(offsets == [0, 0], "the group without members has {offsets:?} on {home}");
        }
    }
    for soak in soaks {
        soak.stop()?;
    }
    ensure!(wrong.is_empty(), "{}\nthe proxy:\n{}", wrong.join("\n"), stage.proxy.log_text());
    Ok(())
}
