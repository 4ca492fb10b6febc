//! What the clusters, the proxies and the mirror say. All are asked at the same time, and who does not answer is told of: that is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::join_all;
use kferry_config::{Cluster, Config, Mode, is_internal};
use kferry_mirror::partition::Phase;
use kferry_wire::admin::groups::GroupFilter;
use kferry_wire::client::{ClientError, Topics};
use kferry_wire::decisions::{Joined, Member, Place, State};
use kferry_wire::log::{Whose, whose};
use kferry_wire::places::{Decisions, Exists, Led, Places, copies_as};
use serde::{Deserialize, Serialize};

use super::client;
use crate::http::{self, NoAnswer, reachable};

/// What a partition does that stands still.
const STANDS: [Phase; 2] = [Phase::Failed, Phase::Diverged];

/// What `GET /moves` of a proxy answers, as far as it is read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Moves {
    proxy: String,
    incarnation: String,
    /// Why it has not joined.
    pub(super) not_joined: Option<String>,
    /// Why a route does not move, by its name.
    pub(super) waits: BTreeMap<String, Vec<String>>,
}

/// What is known of a proxy's process by its admin address.
#[derive(Debug)]
pub(super) enum Life {
    /// It answers.
    Answers(Moves),
    /// It has run on this machine, and does not any more: nobody listens at its admin address, or another process does.
    Gone(String),
    /// Nothing follows from this.
    Unknown(String),
}

/// Asks a proxy of the log.
pub(super) async fn proxy(member: &Member, joined: &Joined, here: &Place) -> Life {
    // Only then is an address of this machine the same one, and only then does a closed one say that the process is gone.
    let is_here = joined.place.boot == here.boot && joined.place.network == here.network;
    let address = match address(member, joined, is_here) {
        Ok(address) => address,
        Err(why) => return Life::Unknown(why),
    };
    match http::get(&address, "/moves").await {
        Ok(body) => match serde_json::from_slice::<Moves>(&body) {
            Ok(moves) if (&moves.proxy, &moves.incarnation) == (&member.name, &member.incarnation) => Life::Answers(moves),
            Ok(moves) => {
                let why = format!("another process answers at {address}: proxy {} ({})", moves.proxy, moves.incarnation);
                if is_here { Life::Gone(why) } else { Life::Unknown(why) }
            }
            Err(error) => Life::Unknown(format!("what answers at {address} is no proxy of this version: {error}")),
        },
        Err(NoAnswer::Refused(error)) if is_here => Life::Gone(format!("nobody listens at {address} any more: {error}")),
        Err(error) => Life::Unknown(format!("no answer at {address}: {error}")),
    }
}

/// Where its admin address is reached from here.
fn address(member: &Member, joined: &Joined, is_here: bool) -> Result<String, String> {
    let Some(admin) = &joined.admin else { return Err("the log has no admin address of it".to_owned()) };
    let bind: SocketAddr = admin.parse().map_err(|_| format!("its admin address, {admin}, is none"))?;
    let host = member.name.rsplit_once(':').map_or(&*member.name, |(host, _)| host);
    match bind.ip() {
        _ if is_here => Ok(reachable(bind).to_string()),
        ip if ip.is_loopback() => Err(format!("its admin address, {admin}, is reached on its own machine alone, which is {host}")),
        IpAddr::V4(ip) if ip.is_unspecified() => Ok(format!("{host}:{}", bind.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => Ok(format!("{host}:{}", bind.port())),
        _ => Ok(bind.to_string()),
    }
}

/// Asks all proxies that have joined.
pub(super) async fn proxies(state: &State) -> BTreeMap<Member, Life> {
    let here = Place::of_this_process(BTreeSet::new());
    let asked = state.joined().iter().map(async |(member, joined)| (member.clone(), proxy(member, joined, &here).await));
    join_all(asked).await.into_iter().collect()
}

/// What `GET /partitions` of a mirror answers, as far as it is read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Partitions {
    partitions: Vec<Partition>,
    topics: Vec<NotCopied>,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
struct Partition {
    topic: String,
    partition: i32,
    phase: String,
    reason: Option<String>,
    lag_records: u64,
}

#[derive(Debug, Deserialize)]
struct NotCopied {
    topic: String,
    reason: String,
}

impl Partitions {
    /// How many records of a topic the follower lacks. `None`: this mirror's process has nothing of it.
    fn lag(&self, topic: &str) -> Option<u64> {
        let mut partitions = self.partitions.iter().filter(|partition| partition.topic == topic).peekable();
        partitions.peek()?;
        Some(partitions.map(|partition| partition.lag_records).sum())
    }

    /// Why a topic is not copied, or one of its partitions.
    fn trouble(&self, topic: &str) -> impl Iterator<Item = String> {
        let stands = move |partition: &&Partition| partition.topic == topic && STANDS.map(Phase::name).contains(&&*partition.phase);
        let stand = self.partitions.iter().filter(stands).map(|Partition { topic, partition, phase, reason, .. }| {
            format!("{topic}-{partition} is {phase} at the mirror: {}", reason.as_deref().unwrap_or("see its /partitions"))
        });
        let topics = self.topics.iter().filter(move |not| not.topic == topic);
        stand.chain(topics.map(|NotCopied { topic, reason }| format!("the mirror does not copy topic {topic}: {reason}")))
    }
}

/// Asks the mirror that the file names. `Err`: why there is no answer.
async fn mirror(config: &Config) -> Result<Partitions, String> {
    if config.mirrors.is_empty() {
        return Ok(Partitions::default());
    }
    let address = reachable(config.admin.mirror_bind);
    let no_answer = |why: String| format!("no mirror answers at http://{address} ([admin] mirror_bind): {why}");
    let body = http::get(&address.to_string(), "/partitions").await.map_err(|error| no_answer(error.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| no_answer(error.to_string()))
}

/// The names of topics and groups that a cluster has and shows to kferry's login.
#[derive(Debug, Default)]
struct There {
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
}

/// A topic that a route owns.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
pub(super) struct Topic {
    pub(super) topic: String,
    pub(super) route: Arc<str>,
    pub(super) leader: String,
    pub(super) term: i32,
    /// The other end of the mirror that copies it.
    pub(super) follower: Option<Arc<str>>,
    /// Records that the follower lacks, by the mirror. `null`: the mirror does not say.
    pub(super) lag: Option<u64>,
    #[serde(skip)]
    pub(super) trouble: Vec<String>,
}

/// A group that a route owns.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
pub(super) struct Group {
    pub(super) group: String,
    pub(super) route: Arc<str>,
    /// The cluster on which it lives.
    pub(super) lives: String,
}

/// What routes own, where it leads and where it lives.
#[derive(Debug, Default)]
pub(super) struct Owned {
    pub(super) topics: Vec<Topic>,
    pub(super) groups: Vec<Group>,
    /// Why the mirror has not answered.
    pub(super) no_mirror: Option<String>,
    /// Clusters that do not say what they have.
    pub(super) errors: Vec<String>,
}

/// Asks the clusters and the mirror.
pub(super) async fn owned(config: &Config, state: &State) -> Owned {
    let clusters = relayed(config);
    let asks_groups = config.routes.iter().any(|route| !route.owns_groups.is_empty());
    let asked = join_all(clusters.iter().map(|cluster| there(cluster, asks_groups)));
    let (there, partitions) = tokio::join!(asked, mirror(config));
    let (partitions, no_mirror) = match partitions {
        Ok(partitions) => (partitions, None),
        Err(why) => (Partitions::default(), Some(why)),
    };
    let mut known = BTreeMap::new();
    let mut errors = Vec::new();
    for (cluster, there) in clusters.iter().zip(there) {
        match there {
            Ok(there) => {
                known.insert(&*cluster.name, there);
            }
            Err(error) => errors.push(format!("what {} has is not known: {error}", cluster.name)),
        }
    }
    for (cluster, topic) in join_all(config.mirrors.iter().map(|mirror| unborn(mirror, state, &known))).await.into_iter().flatten() {
        if let Some(there) = known.get_mut(cluster) {
            there.topics.remove(&topic);
        }
    }
    let (topics, groups) = judge(config, state, &clusters, &known, &partitions);
    Owned { topics, groups, no_mirror, errors }
}

/// The clusters that routes in relay mode show their clients.
fn relayed(config: &Config) -> Vec<Arc<Cluster>> {
    config.relayed_clusters().cloned().collect()
}

async fn there(cluster: &Arc<Cluster>, asks_groups: bool) -> Result<There, ClientError> {
    let client = client(cluster.clone());
    let groups = async { if asks_groups { client.list_groups(GroupFilter::default()).await } else { Ok(Vec::new()) } };
    let (metadata, groups) = tokio::try_join!(client.metadata(Topics::All), groups)?;
    let topics = metadata.topics.into_iter().filter(|topic| !topic.internal && !is_internal(&topic.name));
    Ok(There {
        topics: topics.map(|topic| topic.name.to_string()).collect(),
        groups: groups.into_iter().map(|group| group.group_id).collect(),
    })
}

/// What a mirror's target has and its source has not, and is no topic of the target's own, or not one yet: [`kferry_wire::preflight`] leaves these out.
async fn unborn<'k>(mirror: &kferry_config::Mirror, state: &State, known: &BTreeMap<&'k str, There>) -> Vec<(&'k str, String)> {
    let there = |cluster: &Cluster| known.get_key_value(&*cluster.name);
    let Some(((_, of_source), (target, of_target))) = there(&mirror.source).zip(there(&mirror.target)) else { return Vec::new() };
    let only_there = of_target.topics.difference(&of_source.topics);
    let names: Vec<&str> =
        only_there.map(String::as_str).filter(|name| copies_as(mirror, name) && !state.leaders().contains_key(*name)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let client = client(mirror.target.clone());
    // Of what cannot be read the table tells as of any other.
    let Ok(metadata) = client.metadata(Topics::Named(&names)).await else { return Vec::new() };
    let whose = whose(&client, &metadata.topics).await.into_iter();
    whose.filter(|(_, whose)| matches!(whose, Ok(Whose::Copy | Whose::Nobodys))).map(|(topic, _)| (*target, topic.to_string())).collect()
}

fn judge(
    config: &Config,
    state: &State,
    clusters: &[Arc<Cluster>],
    known: &BTreeMap<&str, There>,
    partitions: &Partitions,
) -> (Vec<Topic>, Vec<Group>) {
    let led = |leader: &kferry_wire::decisions::Leader| Led {
        cluster: leader.cluster.clone(),
        term: leader.term,
        before: leader.before.clone(),
        since: 0,
    };
    let decisions = Decisions {
        topics: state.leaders().iter().map(|(topic, leader)| (topic.as_str().into(), led(leader))).collect(),
        groups: state.lives().iter().map(|(group, life)| (group.as_str().into(), life.cluster.clone())).collect(),
    };
    let places = Places { mirrors: &config.mirrors, decisions: &decisions, clusters };
    let exists = |cluster: &Cluster, of: fn(&There) -> &BTreeSet<String>, name: &str| match known.get(&*cluster.name) {
        None => Exists::Unknown,
        Some(there) if of(there).contains(name) => Exists::Yes,
        Some(_) => Exists::No,
    };
    let home = |route: &kferry_config::Route| state.homes().get(&*route.name).unwrap_or(&route.cluster.name).to_string();
    let is_relay = |route: &&Arc<kferry_config::Route>| route.mode == Mode::Relay;

    let names: BTreeSet<&String> = known.values().flat_map(|there| &there.topics).chain(state.leaders().keys()).collect();
    let topics = names.into_iter().filter_map(|name| {
        let route = config.owner_of_topic(name).filter(is_relay)?;
        let leader = places.leader(name, |cluster| exists(cluster, |there| &there.topics, name));
        let leader = leader.map_or_else(|| home(route), |cluster| cluster.name.to_string());
        // It was deleted where it led: what is left elsewhere is nobody's.
        if known.get(&*leader).is_some_and(|there| !there.topics.contains(name)) {
            return None;
        }
        let ends = |mirror: &Arc<kferry_config::Mirror>| match [&mirror.source.name, &mirror.target.name] {
            [one, other] if **one == *leader => Some(other.clone()),
            [one, other] if **other == *leader => Some(one.clone()),
            _ => None,
        };
        let follower = config.mirrors.iter().filter(|mirror| copies_as(mirror, name)).find_map(ends);
        Some(Topic {
            topic: name.clone(),
            route: route.name.clone(),
            leader,
            term: state.term(name),
            follower,
            lag: partitions.lag(name),
            trouble: partitions.trouble(name).collect(),
        })
    });
    let names: BTreeSet<&String> = known.values().flat_map(|there| &there.groups).collect();
    let groups = names.into_iter().filter_map(|name| {
        let route = config.owner_of_group(name).filter(is_relay)?;
        let lives = places.life(name, |cluster| exists(cluster, |there| &there.groups, name));
        Some(Group {
            group: name.clone(),
            route: route.name.clone(),
            lives: lives.map_or_else(|| home(route), |cluster| cluster.name.to_string()),
        })
    });
    (topics.collect(), groups.collect())
}
