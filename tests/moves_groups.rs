//! Live moves of groups: the file is edited, and groups of real clients change their coordinator while they read; it is edited back, and they come back.
//!
//! Two clusters, proxies and a mirror that share the log of decisions on the new cluster.

#[path = "moves/decisions.rs"]
mod decisions;
#[path = "moves_groups/failures.rs"]
mod failures;
#[path = "moves_groups/many.rs"]
mod many;
#[path = "moves_groups/systems.rs"]
mod systems;
#[path = "moves_groups/three.rs"]
mod three;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::LIMIT;
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::{Cluster, Commit};
use harness::kferry::File;
use harness::mirror::Mirror;
use harness::ports;
use harness::process::Process;
use harness::proxy::{Proxy, Routes};
use harness::run;
use harness::scenario::comes;
use harness::stage::{self, Side};
use serde_json::Value;

use self::decisions::Decisions;
use self::failures::Step;

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
    /// Each member has a `group.instance.id`.
    Statically,
    /// It has no members: consumers assign their partitions themselves, and commit.
    Assigned,
    /// By the consumer protocol (KIP-848), which the brokers must know.
    ByTheBrokers,
    /// The same, and each member has a `group.instance.id`.
    StaticallyByTheBrokers,
}

const CLIENTS: [(Client, Shares); 9] = [
    (Client::Rdkafka, Shares::ByDefault),
    (Client::Rdkafka, Shares::Cooperatively),
    (Client::Rdkafka, Shares::Statically),
    (Client::Rdkafka, Shares::Assigned),
    (Client::Java4, Shares::ByDefault),
    (Client::Java4, Shares::Cooperatively),
    (Client::Java4, Shares::Statically),
    (Client::Java28, Shares::ByDefault),
    (Client::FranzGo, Shares::ByDefault),
];

const MIRRORS: &str = r#"
[state]
cluster = "new"

[moves]
hold_ms = 5000

[[mirrors]]
name = "over"
source = "legacy"
target = "new"
topics_regex = ["orders.*"]
groups_regex = ["orders[-.].*"]
"#;

struct Stage {
    clusters: [Cluster; 2],
    /// What the files of the proxies say, without the route.
    files: Vec<Routes>,
    proxies: Vec<Proxy>,
    mirror: Mirror,
    mirroring: Process,
    decisions: Decisions,
}

impl Stage {
    fn on(clusters: [Cluster; 2], proxies: usize) -> Result<Self> {
        let files = (0..proxies).map(|_| stage::routes(&clusters)).collect::<Result<Vec<_>>>()?;
        let all: Vec<_> = files.iter().map(|file| with_home(file, Side::Legacy)).collect();
        let (config, text) = stage::shared(&all[0], ports::take(1)?.start)?;
        let first = Proxy::start_with(&all[0], &config, &[])?;
        let others = all[1..].iter().map(Proxy::start);
        let proxies = std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>>>()?;
        let mut mirror = Mirror::of(&text)?;
        let mirroring = mirror.start(&[])?;
        let decisions = Decisions::follow(Side::New.of(&clusters))?;
        Ok(Self { clusters, files, proxies, mirror, mirroring, decisions })
    }

    /// Of one broker each. `delay`: for so many milliseconds a coordinator waits for more members before the first of a group is given anything.
    fn small(legacy: &str, delay: &str) -> Result<Self> {
        let builders = [(legacy, Side::Legacy), ("4.3.0", Side::New)]
            .map(|(version, side)| Cluster::version(version).name(side.name()).set("group.initial.rebalance.delay.ms", delay));
        let clusters = Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
        Self::on(clusters, 1)
    }

    fn cluster(&self, side: Side) -> &Cluster {
        side.of(&self.clusters)
    }

    fn logs(&self) -> Result<String> {
        let proxies: Vec<_> = self.proxies.iter().map(|proxy| format!("a proxy:\n{}", proxy.log_text())).collect();
        Ok(format!("{}the mirror:\n{}", proxies.concat(), self.mirror.logs()?))
    }

    fn edit(&self, home: Side) -> Result<()> {
        self.proxies.iter().zip(&self.files).try_for_each(|(proxy, file)| proxy.edit(&with_home(file, home)))
    }

    /// Waits until the topics and groups of the route are there, by all proxies. Returns how long that took for the topics, and for the groups.
    fn live(&self, home: Side, groups: &[String]) -> Result<[Duration; 2]> {
        let (began, mut led, name) = (Instant::now(), None, home.name());
        loop {
            let all = self.proxies.iter().map(moves).collect::<Result<Vec<_>>>()?;
            if all.iter().all(|moves| moves["homes"]["orders"] == name) {
                led.get_or_insert(began.elapsed());
            }
            let lives = |lives: &Value| *lives == name || home == Side::Legacy && lives.is_null();
            let are_there = |moves: &Value| moves["open"].is_null() && groups.iter().all(|group| lives(&moves["groups"][group]));
            if let Some(led) = led.filter(|_| all.iter().all(are_there)) {
                return Ok([led, began.elapsed()]);
            }
            ensure!(began.elapsed() < LIMIT, "not all have moved to {name}: {all:#?}\n{}", self.logs()?);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn comes(&self, what: &str, look: impl Fn() -> Result<()>) -> Result<()> {
        comes(LIMIT, &self.mirror, look).with_context(|| format!("waited until {what}"))
    }

    /// With the route's home on a cluster, as an operator has it.
    fn file(&self, home: Side) -> Result<File> {
        let text = fs::read_to_string(self.mirror.config())?;
        let path = run::folder("file")?.join("routes.toml");
        let wished = format!("cluster = \"{}\"\nmode = \"relay\"", home.name());
        fs::write(&path, text.replacen("cluster = \"legacy\"\nmode = \"relay\"", &wished, 1))?;
        Ok(File(path))
    }

    fn copied_topic(&self, topic: &str) -> Result<()> {
        self.cluster(Side::Legacy).create_topic(topic, PARTITIONS as i32, &[])?;
        self.comes(&format!("there is a copy of {topic}"), || self.cluster(Side::New).log_ends(topic).map(drop))
    }
}

/// What a proxy shows of moves.
fn moves(proxy: &Proxy) -> Result<Value> {
    let answer = proxy.get("/moves")?;
    serde_json::from_str(&answer.body).context(answer.body)
}

/// The second route owns nothing: its clients stay at home, and read and are members elsewhere.
fn with_home(base: &Routes, home: Side) -> Routes {
    let owns = "topics = [\"orders.*\"]\ngroups = [\"orders-*\", \"orders.*\"]\n";
    let owner = base.clone().relay("orders", "{orders-*,connector-*-orders-*}", home.name(), owns);
    owner.relay("guests", "guests-*", Side::Legacy.name(), "").section(MIRRORS)
}

/// A client that runs.
struct Going {
    soak: Soak,
    group: String,
    /// How many members the group has.
    members: usize,
}

impl Going {
    /// Whether it is told of as a group of the classic protocol.
    fn is_classic(&self) -> bool {
        !self.group.ends_with("-consumer")
    }
}

/// Every partition of every client: records are acknowledged and read.
fn go_on(going: &[Going]) -> Result<()> {
    soak::go_on(going.iter().map(|going| &going.soak), PARTITIONS, GOES_ON, LIMIT)
}

#[test]
fn groups_move_there_and_back_while_clients_read() -> Result<()> {
    there_and_back("3.9.1", "0", &CLIENTS)
}

#[test]
#[ignore = "`make soak` runs it: the same with Kafka's own delay"]
fn groups_move_to_a_coordinator_that_waits_for_more_members() -> Result<()> {
    there_and_back("3.9.1", "3000", &CLIENTS)
}

#[test]
fn groups_of_the_consumer_protocol_move_there_and_back() -> Result<()> {
    const CLIENTS: [(Client, Shares); 3] =
        [(Client::Rdkafka, Shares::ByTheBrokers), (Client::Java4, Shares::ByTheBrokers), (Client::Java4, Shares::StaticallyByTheBrokers)];
    there_and_back("4.3.0", "0", &CLIENTS)
}

/// What an operator is told before the edit. Returns a group that cannot move, which keeps nobody else back.
fn seen_before(stage: &Stage) -> Result<&'static str> {
    let stays = "orders-stays";
    stage.cluster(Side::Legacy).create_topic("elsewhere", 1, &[])?;
    stage.cluster(Side::Legacy).commit(stays, "elsewhere", [(0, Commit::at(0))])?;
    let plan = stage.file(Side::New)?.kferry(&["move", "--dry-run"])?;
    let told = plan.ends_with(1)?.says(" groups: ")?;
    told.says(&format!("group {stays}: it has committed offsets of topic elsewhere, which mirror over does not copy"))?;
    Ok(stays)
}

fn there_and_back(legacy: &str, delay: &str, clients: &[(Client, Shares)]) -> Result<()> {
    let mut stage = Stage::small(legacy, delay)?;
    let (mut going, mut groups) = (Vec::new(), Vec::new());
    let only = std::env::var("CLIENTS").ok();
    for &(client, shares) in clients {
        let name = match shares {
            Shares::ByDefault => client.name().to_owned(),
            Shares::Cooperatively => format!("{}-cooperative", client.name()),
            Shares::Statically => format!("{}-static", client.name()),
            Shares::Assigned => format!("{}-assigned", client.name()),
            Shares::ByTheBrokers => format!("{}-consumer", client.name()),
            Shares::StaticallyByTheBrokers => format!("{}-static-consumer", client.name()),
        };
        if only.as_ref().is_some_and(|only| !only.split(',').any(|only| only == name)) {
            continue;
        }
        let topic = format!("orders.{name}");
        stage.copied_topic(&topic)?;
        let job = soak::Job::plain(stage.proxies[0].bootstrap_servers(), format!("orders-{name}"), &topic, PARTITIONS, LIMIT);
        let group = job.client_id.clone();
        groups.push(group.clone());
        let job = match shares {
            Shares::ByDefault => job,
            Shares::Cooperatively => soak::Job { cooperative: true, ..job },
            Shares::Statically => soak::Job { is_static: true, ..job },
            Shares::Assigned => soak::Job { assigns: true, ..job },
            Shares::ByTheBrokers => soak::Job { group_protocol: Some("consumer"), ..job },
            Shares::StaticallyByTheBrokers => soak::Job { group_protocol: Some("consumer"), is_static: true, ..job },
        };
        let members = if shares == Shares::Assigned { 0 } else { 2 };
        going.push(Going { soak: Soak::start(client, &job)?, group, members });
    }
    // A group without members, whose offsets are all that there is of it.
    stage.copied_topic("orders.nobody")?;
    let mut nobodys = vec![0, 1, 3];
    stage.cluster(Side::Legacy).commit("orders-nobody", "orders.nobody", nobodys.iter().map(|partition| (*partition, Commit::at(0))))?;
    groups.push("orders-nobody".to_owned());
    go_on(&going)?;
    let stays = seen_before(&stage)?;
    for Going { soak, .. } in &going {
        soak.seen();
    }
    go_on(&going)?;
    let still: Vec<_> = going.iter().map(|going| going.soak.seen()).collect();
    let mut wrong = Vec::new();
    for n in 0..MOVES {
        for side in [Side::New, Side::Legacy] {
            let (old, home) = (side.other(), side.name());
            stage.edit(side)?;
            let [led, took] = stage.live(side, &groups).with_context(|| format!("move {n} to {home}"))?;
            go_on(&going).with_context(|| format!("after move {n} to {home}: {}", stage.logs().unwrap_or_default()))?;
            println!("move {n} to {home}: topics {led:.2?} after the edit, groups {took:.2?}");
            if n == 0 && side == Side::New {
                let told = format!("group {stays}: it has committed offsets of topic elsewhere");
                stage.file(Side::New)?.kferry(&["status"])?.ends_with(1)?.says(&told)?;
            }
            for (going @ Going { soak, group, members }, still) in going.iter().zip(&still) {
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
                let [here, there] = [side, old].map(|cluster| stage.cluster(cluster).group(group));
                let (here, there) = (here?, there?);
                if going.is_classic() && here.client_ids.len() != *members || !there.client_ids.is_empty() {
                    wrong.push(format!("group {group} after move {n} to {home}: on {home} {here:?}, on {} {there:?}", old.name()));
                }
            }
            let offsets = stage.cluster(side).committed_offsets("orders-nobody")?;
            let expected = nobodys.iter().map(|partition| (("orders.nobody".to_owned(), *partition), 0)).collect();
            ensure!(offsets == expected, "the group without members has {offsets:?} on {home}, not {expected:?}");
            // What it has not any more where it lives it must not find where it has lived before, nor where it comes to.
            if let Some(deleted) = (nobodys.len() > 1).then(|| nobodys.pop()).flatten() {
                stage.cluster(side).delete_offset("orders-nobody", "orders.nobody", deleted)?;
            }
        }
    }
    failures::given_up(&mut stage, &going, &[Step::Parked]).with_context(|| stage.logs().unwrap_or_default())?;
    for Going { soak, .. } in going {
        soak.stop()?;
    }
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), stage.logs()?);
    Ok(())
}
