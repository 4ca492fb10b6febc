//! What the clusters, the proxies and the mirror say. All are asked at the same time, and who does not answer is told of: that is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::join_all;
use kferry_config::{Cluster, Config, Mirror, Mode, Route, is_internal};
use kferry_mirror::partition::Phase;
use kferry_wire::admin::groups::GroupFilter;
use kferry_wire::client::{ClientError, Topics};
use kferry_wire::decisions::{Joined, Member, Place, State};
use kferry_wire::log::{Whose, whose};
use kferry_wire::places::{Decisions, Exists, Led, Places, copies_as};
use kferry_wire::preflight::runs;
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
    /// Of each relay route the cluster that its file names.
    pub(super) wished: BTreeMap<String, String>,
    /// Why it does not say yet in the log of decisions what its file wishes.
    pub(super) not_said: Option<String>,
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

/// What the proxy at `[admin] bind` says, for who cannot read the log. `None`: none answers there.
pub(super) async fn proxy_here(config: &Config) -> Option<String> {
    let address = reachable(config.admin.bind);
    let moves: Moves = serde_json::from_slice(&http::get(&address.to_string(), "/moves").await.ok()?).ok()?;
    Some(match moves.not_joined {
        Some(why) => format!("the proxy at http://{address} serves no relayed client before it has read it: {why}"),
        None => format!("the proxy at http://{address} goes on by what it has read, which its /moves shows, and nothing moves"),
    })
}

/// What `GET /partitions` of a mirror answers, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
pub(super) struct Partitions {
    partitions: Vec<Partition>,
    topics: Vec<NotCopied>,
    /// The cluster of `[state]` with which it was started.
    state: Option<String>,
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

impl Partition {
    fn stands_still(&self) -> bool {
        STANDS.map(Phase::name).contains(&&*self.phase)
    }
}

#[derive(Debug, Deserialize)]
struct NotCopied {
    topic: String,
    reason: String,
}

impl Partitions {
    /// How many records of a topic the follower lacks. `None`: this mirror's process has nothing of it, or a partition of it stands still, and nobody counts.
    fn lag(&self, topic: &str) -> Option<u64> {
        let mut partitions = self.partitions.iter().filter(|partition| partition.topic == topic).peekable();
        partitions.peek()?;
        partitions.map(|partition| (!partition.stands_still()).then_some(partition.lag_records)).sum()
    }

    /// Why a topic is not copied, or one of its partitions.
    fn trouble(&self, topic: &str) -> impl Iterator<Item = String> {
        let of_topic = self.partitions.iter().filter(move |partition| partition.topic == topic);
        let stand = of_topic.filter(|partition| partition.stands_still()).map(|Partition { topic, partition, phase, reason, .. }| {
            format!("{topic}-{partition} is {phase} at the mirror: {}", reason.as_deref().unwrap_or("see its /partitions"))
        });
        let topics = self.topics.iter().filter(move |not| not.topic == topic);
        stand.chain(topics.map(|NotCopied { topic, reason }| format!("the mirror does not copy topic {topic}: {reason}")))
    }
}

/// Asks the mirror that the file names. `Err`: why there is no answer.
async fn mirror(config: &Config) -> Result<Partitions, String> {
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
    /// Records that the follower lacks, by the mirror. `null`: the mirror does not say, or a partition stands still.
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
    let clusters = concerned(config);
    let asks_groups = config.routes.iter().any(|route| !route.owns_groups.is_empty());
    let asked = join_all(clusters.iter().map(|cluster| there(cluster, asks_groups)));
    let (there, partitions, away) = tokio::join!(asked, mirror(config), away(config));
    let mut errors = Vec::new();
    let (partitions, no_mirror) = match partitions {
        _ if config.mirrors.is_empty() => (Partitions::default(), None),
        Ok(partitions) => {
            errors.extend(started_otherwise(config, &partitions));
            (partitions, None)
        }
        // One that does not run is told of already.
        Err(why) => (Partitions::default(), (away.len() < config.mirrors.len()).then_some(why)),
    };
    let mut known = BTreeMap::new();
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
    let moves = |mirror: &Mirror| {
        topics.iter().any(|topic| copies_as(mirror, &topic.topic)) || groups.iter().any(|group| mirror.groups.matches(&group.group))
    };
    errors
        .extend(config.mirrors.iter().filter(|mirror| away.contains(&mirror.name) && moves(mirror)).map(|mirror| without_a_mirror(mirror)));
    Owned { topics, groups, no_mirror, errors }
}

/// The mirrors of which no process runs. One whose group may not be described is none.
async fn away(config: &Config) -> BTreeSet<Arc<str>> {
    let asked = config.mirrors.iter().map(async |mirror| {
        let runs = runs(&client(mirror.target.clone()), mirror).await;
        (!runs).then(|| mirror.name.clone())
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What a mirror that does not run keeps from moving.
fn without_a_mirror(mirror: &Mirror) -> String {
    let (name, target) = (&mirror.name, &mirror.target.name);
    format!(
        "mirror {name} does not run, or hangs: none of its processes is in group {} on {target}: start kferry-mirror; nothing that it copies moves before",
        Mirror::group(name)
    )
}

/// Why a mirror that answers closes nothing: it was started before `[state]` was as it is.
fn started_otherwise(config: &Config, partitions: &Partitions) -> Option<String> {
    let log = &config.state.as_ref()?.cluster.name;
    let was = match partitions.state.as_deref() {
        Some(state) if state == &**log => return None,
        Some(other) => format!("with cluster = \"{other}\" in [state]"),
        None => "without [state]".to_owned(),
    };
    Some(format!(
        "the mirror at http://{} was started {was}, and reads its file when it starts: restart it with cluster = \"{log}\" in [state]; nothing moves before",
        reachable(config.admin.mirror_bind)
    ))
}

/// The clusters that routes in relay mode show their clients, and those at the other end of a mirror: a topic may lead there, whether or not clients see that.
fn concerned(config: &Config) -> Vec<Arc<Cluster>> {
    let is_end =
        |cluster: &Cluster| config.mirrors.iter().any(|mirror| [&mirror.source.name, &mirror.target.name].contains(&&cluster.name));
    let is_relayed = |cluster: &Cluster| config.relayed_clusters().any(|relayed| relayed.name == cluster.name);
    config.clusters.iter().filter(|cluster| is_relayed(cluster) || is_end(cluster)).cloned().collect()
}

/// Why nothing that a route owns moves, where its clients see one cluster alone, though a mirror connects it with another one.
pub(super) fn sees_home_alone(config: &Config, route: &Route) -> Option<String> {
    let owns = !(route.owns_topics.is_empty() && route.owns_groups.is_empty());
    if !owns || route.mode != Mode::Relay || config.view(route, &route.cluster).len() > 1 {
        return None;
    }
    let home = &route.cluster;
    let other = config.mirrors.iter().find_map(|mirror| match [&mirror.source, &mirror.target] {
        [one, other] if one.name == home.name => Some(other),
        [other, one] if one.name == home.name => Some(other),
        _ => None,
    })?;
    let lacks_login = |cluster: &&Arc<Cluster>| cluster.security.sasl.is_some() && !route.credentials.contains_key(&cluster.name);
    let todo = match [home, other].into_iter().find(lacks_login) {
        Some(cluster) => format!("write [routes.credentials.{}]", cluster.name),
        None => format!("write node_ids and broker_ports of cluster {}", other.name),
    };
    Some(format!("its clients see cluster {} alone, so that nothing that it owns moves: {todo}", home.name))
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
async fn unborn<'k>(mirror: &Mirror, state: &State, known: &BTreeMap<&'k str, There>) -> Vec<(&'k str, String)> {
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
    let home = |route: &Route| state.homes().get(&*route.name).unwrap_or(&route.cluster.name).to_string();
    let is_relay = |route: &&Arc<Route>| route.mode == Mode::Relay;

    let names: BTreeSet<&String> = known.values().flat_map(|there| &there.topics).chain(state.leaders().keys()).collect();
    let topics = names.into_iter().filter_map(|name| {
        let route = config.owner_of_topic(name).filter(is_relay)?;
        let leader = places.leader(name, |cluster| exists(cluster, |there| &there.topics, name));
        let leader = leader.map_or_else(|| home(route), |cluster| cluster.name.to_string());
        // It was deleted where it led: what is left elsewhere is nobody's.
        if known.get(&*leader).is_some_and(|there| !there.topics.contains(name)) {
            return None;
        }
        let ends = |mirror: &Arc<Mirror>| match [&mirror.source.name, &mirror.target.name] {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = r#"
        clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092" }
        clusters.new = { id = 2, bootstrap_servers = "new:9092" }
        state = { cluster = "new" }
        [[mirrors]]
        name = "over"
        source = "legacy"
        target = "new"
        topics = ["orders"]
    "#;

    #[test]
    fn a_mirror_that_does_not_run_or_was_started_before_state_was_written_says_what_to_do() {
        let config = Config::parse(FILE, Path::new("routes.toml")).unwrap();
        let told = without_a_mirror(&config.mirrors[0]);
        assert!(
            told.starts_with("mirror over does not run, or hangs: none of its processes is in group kferry-mirror-over on new"),
            "{told:?}"
        );
        for (state, says) in
            [(Some("new"), None), (Some("legacy"), Some("with cluster = \"legacy\" in [state]")), (None, Some("without [state]"))]
        {
            let partitions = Partitions { state: state.map(str::to_owned), ..Partitions::default() };
            let told = started_otherwise(&config, &partitions);
            assert_eq!(told.is_some(), says.is_some());
            assert!(told.is_none_or(|told| told.contains(says.unwrap()) && told.contains("restart it")));
        }
    }

    #[test]
    fn a_route_that_shows_one_cluster_says_what_it_lacks() {
        let text = |route: &str, new: &str| {
            format!(
                r#"
                clusters.legacy = {{ id = 1, bootstrap_servers = "legacy:9092", node_ids = "1", broker_ports = "9200" }}
                clusters.new = {{ id = 2, bootstrap_servers = "new:9092"{new} }}
                [[listeners]]
                name = "plain"
                bind = "127.0.0.1:9092"
                [[routes]]
                name = "pay"
                client_id = "*"
                client_address = "10.0.0.0/8"
                cluster = "legacy"
                mode = "relay"
                topics = ["pay"]
                {route}
                [[mirrors]]
                name = "over"
                source = "legacy"
                target = "new"
                topics = ["pay"]
                "#
            )
        };
        let told = |text: String| {
            let config = Config::parse(&text, Path::new("routes.toml")).unwrap_or_else(|invalid| panic!("{invalid}"));
            sees_home_alone(&config, &config.routes[0])
        };
        let ports = r#", node_ids = "1", broker_ports = "9300""#;
        let sasl = r#", security_protocol = "SASL_PLAINTEXT", sasl_mechanism = "PLAIN", sasl_username = "kferry", sasl_password_env = "P""#;
        let login = "[routes.credentials.new]\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"pay\"\nsasl_password_env = \"P\"";
        assert_eq!(told(text("", ports)), None);
        assert!(told(text("", "")).unwrap().ends_with("write node_ids and broker_ports of cluster new"));
        assert!(told(text("", &format!("{ports}{sasl}"))).unwrap().ends_with("write [routes.credentials.new]"));
        assert_eq!(told(text(login, &format!("{ports}{sasl}"))), None);
    }
}
