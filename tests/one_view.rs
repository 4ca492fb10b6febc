//! One view: relayed clients see one cluster that is made of both. Topics lead on one of the two, groups live on one of the two, clients with different
//! homes work side by side, and nobody writes to a copy.
//!
//! All tests share two clusters of three brokers, whose node ids are the same on purpose, one proxy, and mirrors in both directions. Tests that kill
//! brokers have them to themselves.

#[path = "one_view/behind.rs"]
mod behind;
#[path = "one_view/carried.rs"]
mod carried;
#[path = "one_view/deleted.rs"]
mod deleted;
#[path = "one_view/failures.rs"]
mod failures;
#[path = "one_view/groups.rs"]
mod groups;
#[path = "one_view/many.rs"]
mod many;
#[path = "one_view/matrix.rs"]
mod matrix;
#[path = "one_view/operators.rs"]
mod operators;
#[path = "one_view/reload.rs"]
mod reload;
#[path = "one_view/sends.rs"]
mod sends;
#[path = "one_view/transactions.rs"]
mod transactions;
#[path = "one_view/versions.rs"]
mod versions;
#[path = "one_view/writes.rs"]
mod writes;
#[path = "one_view/writes_matrix.rs"]
mod writes_matrix;

use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::LIMIT;
use harness::kafka::{Cluster, Listener};
use harness::mirror::Mirror;
use harness::ports;
use harness::process::Process;
use harness::proxy::{Proxy, Routes};
use harness::raw::{Raw, ask, until};
use harness::scenario::{comes, identical};
use harness::stage::{self, Side};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{GroupId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use rdkafka::ClientConfig;
use serde_json::Value;

/// How long a copy may take: after an interruption the mirror waits up to 15 s for each attempt.
const COPIED: Duration = Duration::from_mins(2);

/// Kafka's errors, as its protocol guide has them.
const LEADER_NOT_AVAILABLE: i16 = 5;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// `FindCoordinatorRequest.CoordinatorType`
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// The first two mirrors run all the time, the others when a test says so: what they copy is behind otherwise.
const MIRRORS: &str = r"
[[mirrors]]
name = 'orders'
source = 'legacy'
target = 'new'
topics_regex = ['orders.*']
groups_regex = ['orders-.*']

[[mirrors]]
name = 'payments'
source = 'new'
target = 'legacy'
topics_regex = ['payments.*']
groups_regex = ['payments-.*']

[[mirrors]]
name = 'still'
source = 'legacy'
target = 'new'
topics_regex = ['still.*']
groups_regex = ['still-.*']

[[mirrors]]
name = 'renamed'
source = 'legacy'
target = 'new'
topics_regex = ['plain\..*']

[[mirrors.rename_regex]]
match = '(.*)'
to = 'renamed.$1'
";

/// What clients, topics and groups are called, by where they are.
trait Names {
    /// The `client.id` of a client whose home it is.
    fn client(self, what: &str) -> String;

    /// A topic that leads there and is copied to the other one.
    fn leads(self, what: &str) -> String;

    /// A group that lives there, and whose offsets are copied to the other one.
    fn lives(self, what: &str) -> String;

    /// The mirror that copies from there.
    fn mirror(self) -> &'static str;
}

impl Names for Side {
    fn client(self, what: &str) -> String {
        format!("at-{}-{what}", self.name())
    }

    fn leads(self, what: &str) -> String {
        format!("{}.{what}", self.mirror())
    }

    fn lives(self, what: &str) -> String {
        format!("{}-{what}", self.mirror())
    }

    fn mirror(self) -> &'static str {
        match self {
            Self::Legacy => "orders",
            Self::New => "payments",
        }
    }
}

/// What all tests share. It ends with the program.
struct Stage {
    clusters: [Cluster; 2],
    routes: Routes,
    proxy: Proxy,
    mirror: Mirror,
    _mirroring: Process,
    still: Mutex<Mirror>,
}

/// Both clusters, the routes for both homes, and the mirrors.
fn routes(clusters: &[Cluster; 2]) -> Result<Routes> {
    let routes = stage::routes(clusters)?.relay("at-legacy", "at-legacy-*", "legacy", "").relay("at-new", "at-new-*", "new", "");
    Ok(routes.section(MIRRORS))
}

impl Stage {
    fn set() -> Result<Self> {
        // Brokers that create a topic when somebody asks for it: a question at the wrong one would be seen.
        let clusters = stage::clusters(&[("auto.create.topics.enable", "true")])?;
        let routes = routes(&clusters)?;
        let admin = ports::take(2)?;
        let (config, text) = stage::shared(&routes, admin.start)?;
        let proxy = Proxy::start_with(&routes, &config, &[])?;
        let mut mirror = Mirror::of(&text)?;
        let mirroring = mirror.start(&["--mirror", "orders", "--mirror", "payments"])?;
        let mut still = Mirror::of(&text)?;
        still.arguments(&["--mirror", "still", "--admin-bind", &format!("127.0.0.1:{}", admin.start + 1)]);
        Ok(Self { clusters, routes, proxy, mirror, _mirroring: mirroring, still: Mutex::new(still) })
    }

    fn cluster(&self, side: Side) -> &Cluster {
        side.of(&self.clusters)
    }

    /// The node id under which clients know a broker, and its port.
    fn virtual_broker(&self, side: Side, node_id: i32) -> Result<(i32, u16)> {
        self.routes.virtual_broker(side.name(), node_id)
    }

    /// A connection to a broker through the proxy.
    fn at(&self, side: Side, node_id: i32) -> Result<Raw> {
        Raw::connect(self.virtual_broker(side, node_id)?.1)
    }

    /// A connection to a broker itself.
    fn directly_at(&self, side: Side, node_id: i32) -> Result<Raw> {
        Raw::connect(port_of(&self.cluster(side).address(node_id, Listener::Plaintext)?)?)
    }

    /// Where clients begin, and all virtual brokers of both clusters.
    fn doors(&self) -> Result<Vec<u16>> {
        let mut doors = vec![self.proxy.port()];
        for side in Side::BOTH {
            for node_id in self.cluster(side).node_ids() {
                doors.push(self.virtual_broker(side, node_id)?.1);
            }
        }
        Ok(doors)
    }

    /// A librdkafka client.
    fn client(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.proxy.bootstrap_servers()).set("client.id", client_id);
        config.set("message.timeout.ms", LIMIT.as_millis().to_string());
        config
    }

    /// Creates a topic where it leads, and waits until there is a copy.
    fn create_copied(&self, side: Side, topic: &str, partitions: i32) -> Result<()> {
        self.cluster(side).create_topic(topic, partitions, &[])?;
        self.has_copy(side, topic)
    }

    fn has_copy(&self, side: Side, topic: &str) -> Result<()> {
        let partitions = self.cluster(side).partitions(topic)?.len();
        self.comes(&format!("there is a copy of {topic}"), || {
            let copy = self.cluster(side.other()).partitions(topic)?;
            ensure!(copy.len() == partitions && copy.iter().all(|partition| partition.leader > 0), "{copy:?}");
            // Its leaders know that they are: whoever is let through could write there.
            self.cluster(side.other()).log_ends(topic)?;
            Ok(())
        })
    }

    /// Waits until the copy is what the leader has.
    fn is_copied(&self, side: Side, topic: &str) -> Result<()> {
        let (leader, follower) = (self.cluster(side), self.cluster(side.other()));
        self.comes(&format!("{topic} is copied"), || {
            let (expected, actual) = (leader.log_ends(topic)?, follower.log_ends(topic)?);
            ensure!(expected == actual, "{topic} ends at {expected:?} where it leads, its copy at {actual:?}");
            Ok(())
        })?;
        identical(leader, follower, topic)
    }

    /// Waits until there is nothing wrong any more.
    fn comes<T>(&self, what: &str, look: impl Fn() -> Result<T>) -> Result<T> {
        comes(COPIED, &self.mirror, look).with_context(|| format!("waited until {what}"))
    }

    /// Waits until the offsets of a group are on the other cluster, too: its mirror may not have found the group's topics yet.
    fn group_is_copied(&self, side: Side, group: &str) -> Result<()> {
        self.comes(&format!("the offsets of {group} are copied"), || {
            self.mirror.http("POST", "/groups/sync")?;
            let (expected, copied) = (self.cluster(side).committed_offsets(group)?, self.cluster(side.other()).committed_offsets(group)?);
            ensure!(expected == copied && !copied.is_empty(), "{expected:?} where it lives, {copied:?} on the other cluster");
            Ok(())
        })
    }

    /// The mirror has found no copy that differs from its leader, among those of topics with this part in their names.
    fn no_copy_has_diverged(&self, part: &str) -> Result<()> {
        let answer = self.mirror.http("GET", "/partitions")?;
        let all: Value = serde_json::from_str(&answer.body).context(answer.body)?;
        let rows = all["partitions"].as_array().context("partitions")?.iter();
        let rows: Vec<&Value> = rows.filter(|row| row["topic"].as_str().is_some_and(|topic| topic.contains(part))).collect();
        let wrong: Vec<&&Value> = rows.iter().filter(|row| row["phase"] == "diverged" || row["phase"] == "failed").collect();
        ensure!(!rows.is_empty() && wrong.is_empty(), "of {} partitions: {wrong:#?}", rows.len());
        Ok(())
    }
}

static STAGE: OnceLock<Result<Stage, String>> = OnceLock::new();
/// Held for reading by tests that need all brokers, for writing by those that kill some.
static CALM: RwLock<()> = RwLock::new(());

fn stage() -> Result<&'static Stage> {
    STAGE.get_or_init(|| Stage::set().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow!("{error}"))
}

/// Beside other tests.
fn calm(test: impl FnOnce(&'static Stage) -> Result<()>) -> Result<()> {
    let stage = stage()?;
    let _calm = CALM.read().unwrap_or_else(PoisonError::into_inner);
    test(stage)?;
    no_panic(stage)
}

/// Without any other test.
fn alone(test: impl FnOnce(&'static Stage) -> Result<()>) -> Result<()> {
    let stage = stage()?;
    let _alone = CALM.write().unwrap_or_else(PoisonError::into_inner);
    test(stage)?;
    no_panic(stage)
}

/// A task that panics is caught by its runtime: from outside it looks like a closed connection.
fn no_panic(stage: &Stage) -> Result<()> {
    ensure!(!stage.proxy.log_text().contains("panicked at"), "kferry-proxy panicked:\n{}", stage.proxy.log_text());
    Ok(())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

fn port_of(address: &str) -> Result<u16> {
    Ok(address.rsplit(':').next().context("an address has a port")?.parse()?)
}

/// All of these topics, or all that there are. Nothing is created: before version 4 a client could not say so, and names only what there is.
fn metadata(client: &mut Raw, version: i16, client_id: &str, topics: Option<&[&str]>) -> Result<MetadataResponse> {
    let topics = topics.map(|names| names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect());
    ask(client, version, client_id, &MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(version < 4))
}

fn named<'a>(answer: &'a MetadataResponse, topic: &str) -> Option<&'a MetadataResponseTopic> {
    answer.topics.iter().find(|known| known.name.as_ref().is_some_and(|name| name.as_str() == topic))
}

/// What a client is told of a topic: the error, and for each partition its leader and its replicas.
type Shown = (i16, Vec<(i32, Vec<i32>)>);

fn shown(topic: &MetadataResponseTopic) -> Shown {
    let mut partitions: Vec<_> = topic.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition_index);
    let ids = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    (topic.error_code, partitions.iter().map(|partition| (partition.leader_id.0, ids(&partition.replica_nodes))).collect())
}

impl Stage {
    /// A topic as clients are to be shown it, when it leads there.
    fn to_be_shown(&self, side: Side, topic: &str) -> Result<Shown> {
        let virtual_id = |node_id: i32| Ok(self.virtual_broker(side, node_id)?.0);
        let partitions = self.cluster(side).partitions(topic)?.into_iter().map(|partition| {
            let replicas = partition.replicas.into_iter().map(virtual_id).collect::<Result<Vec<_>>>()?;
            Ok((virtual_id(partition.leader)?, replicas))
        });
        Ok((0, partitions.collect::<Result<_>>()?))
    }

    /// A route's clients are shown it so at every door.
    fn is_shown(&self, home: Side, side: Side, topic: &str) -> Result<()> {
        for door in self.doors()? {
            let mut client = Raw::connect(door)?;
            let mut last = None;
            let seen = until("the topic is shown where it leads", || {
                let answer = metadata(&mut client, 9, &home.client("looking"), Some(&[topic]))?;
                let is = named(&answer, topic).map(shown);
                // A broker that is asked directly may not have heard of it yet, either.
                let expected = self.to_be_shown(side, topic).ok();
                let is_right = expected.is_some() && is == expected;
                last = Some((is, expected));
                Ok(is_right)
            });
            seen.with_context(|| format!("{topic}, which leads on {side:?}, to {home:?} at port {door}: is and should be {last:?}"))?;
        }
        Ok(())
    }
}
