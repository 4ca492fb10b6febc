//! Whether a topic can move: asked of both clusters before anything is held, with kferry's own login.

pub mod groups;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::ResponseError;
use kferry_config::{Mirror, Mode, Offsets, Route};
use tokio::time::{Instant, sleep};

use crate::admin::acls::{Operation, Operations};
use crate::admin::configs::ConfigResource;
use crate::admin::partitions::ActiveProducer;
use crate::batch::stamp::is_of_a_mirror;
use crate::client::{Answers, Client, ClientError, TopicPartition, Topics};
use crate::decisions::Topic;
use crate::log::{Whose, whose};
use crate::places::copies_as;

/// How long the follower may take to get to where the leader ends: what the mirror copies while producers are held. If it does not the mirror stands still, or
/// has too much to do yet.
const LAG: Duration = Duration::from_secs(1);

/// Between two looks at where the follower is.
const LOOK: Duration = Duration::from_millis(20);

/// How long ago a producer's last batch may be for the producer to count as one that still writes, in ms.
const WRITES: i64 = 5 * 60 * 1000;

/// The bits of a producer id in which the relay writes from which cluster it is: `ToClient::producer_id`.
const TAG: i64 = 0xf << 40;

/// How long coordinators may take that are asked whether a mirror's group has members, and for transactions: what they do not say keeps nothing from moving.
const RUNS: Duration = Duration::from_secs(2);

/// The states in which a transaction has markers to be written (`TransactionState`).
const OPEN: [&str; 4] = ["Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"];

const TIMESTAMPS: &str = "message.timestamp.type";

/// Each topic: what a move has to know of it, or why it cannot move, as a sentence that says what to do. One that was born on the target of a mirror is not in it
/// before it has a record, as nothing is copied the other way before that; nor is a copy whose source was deleted.
pub type Report = BTreeMap<Arc<str>, Result<Topic, String>>;

/// The cluster that leads, and the one that is to lead.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// Leads.
    pub from: &'a Client,
    /// Is to lead.
    pub to: &'a Client,
}

/// Where logs end.
type Ends = Answers<TopicPartition, i64>;

/// What the clusters say of one topic: the one that leads, and the one that is to lead.
#[derive(Debug, Default)]
struct Seen {
    /// Its partitions; `None`: there is no such topic.
    partitions: [Option<usize>; 2],
    ids: [Option<String>; 2],
    timestamps: [Option<String>; 2],
    /// Of each partition the log ends.
    ends: Vec<[i64; 2]>,
    /// Those that the leading cluster remembers.
    producers: Vec<ActiveProducer>,
    /// The `transactional.id` of one that has a transaction open in it there.
    transactional_id: Option<String>,
    /// What kferry's login may do with it on each. `None`: it does not say.
    allowed: [Option<Operations>; 2],
}

/// Whether a process of a mirror runs: the group of its processes, on its target, has members, or does not say.
pub async fn runs(target: &Client, mirror: &Mirror) -> bool {
    let group = Mirror::group(&mirror.name);
    let described = target.within(RUNS).describe_groups(&[&group]).await.remove(&group).and_then(Result::ok);
    described.is_none_or(|described| !described.members.is_empty())
}

/// The mirrors between two clusters of which a process runs.
async fn running(Between { from, to }: Between<'_>, mirrors: &[Arc<Mirror>]) -> HashSet<Arc<str>> {
    let has_members = async |mirror: &Arc<Mirror>| {
        let target = if mirror.target.name == from.cluster().name { from } else { to };
        runs(target, mirror).await.then(|| mirror.name.clone())
    };
    let connects = |mirror: &&Arc<Mirror>| mirror.connects([&from.cluster().name, &to.cluster().name]);
    join_all(mirrors.iter().filter(connects).map(has_members)).await.into_iter().flatten().collect()
}

/// Why nothing of a mirror moves of which no process runs: what is held would wait for it in vain.
fn stands_still(mirror: &Mirror) -> String {
    let (name, group, target) = (&mirror.name, Mirror::group(&mirror.name), &mirror.target.name);
    format!("no kferry-mirror of mirror {name} runs (group {group} on {target} has no member): start one, or look why it is no member")
}

/// The `transactional.id` of one that has a transaction open in each topic. One that has written nothing yet is known to its coordinator alone; its marker will
/// be written all the same, by the broker that led the partition when the transaction was begun.
async fn transactions(from: &Client) -> BTreeMap<Arc<str>, String> {
    let from = from.within(RUNS);
    let listed = from.list_transactions(&OPEN, &[]).await.unwrap_or_default();
    let ids: Vec<&str> = listed.iter().map(|listed| listed.transactional_id.as_str()).collect();
    // In an order: whose is named must not change from one look to the next.
    let described: BTreeMap<_, _> = from.describe_transactions(&ids).await.into_iter().collect();
    let partitions = described.into_iter().flat_map(|(id, described)| {
        let partitions = described.map(|described| described.partitions).unwrap_or_default();
        partitions.into_iter().map(move |partition| (partition.topic, id.clone()))
    });
    partitions.collect()
}

/// What the file says of them.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    mirrors: &'a [Arc<Mirror>],
    /// A route whose clients are with the brokers of the cluster that leads by themselves, and of which nobody has said that they do not produce.
    bootstrap: Option<&'a str>,
}

impl<'a> Rules<'a> {
    /// For topics that lead on `leader`, by all routes of the file.
    pub fn of(mirrors: &'a [Arc<Mirror>], mut routes: impl Iterator<Item = &'a Arc<Route>>, leader: &str) -> Self {
        let is_unheld = |route: &&Arc<Route>| route.mode == Mode::Bootstrap && *route.cluster.name == *leader && !route.stopped;
        Self { mirrors, bootstrap: routes.find(is_unheld).map(|route| &*route.name) }
    }

    /// Whether a mirror copies a topic under its name from the first of these clusters to the second.
    fn is_copied(&self, topic: &str, between: [&Client; 2]) -> bool {
        let [source, target] = between.map(|client| &client.cluster().name);
        self.mirrors.iter().any(|mirror| mirror.source.name == *source && mirror.target.name == *target && copies_as(mirror, topic))
    }
}

/// Asks both clusters about topics. `now`: in milliseconds since 1970.
///
/// # Errors
/// A cluster does not answer: nothing is known of any of them.
pub async fn preflight(between: Between<'_>, rules: Rules<'_>, topics: &BTreeSet<Arc<str>>, now: i64) -> Result<Report, ClientError> {
    let Between { from, to } = between;
    let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    let (of_from, of_to) = tokio::try_join!(from.metadata(Topics::Named(&names)), to.metadata(Topics::Named(&names)))?;
    let there: HashSet<&Arc<str>> = of_to.topics.iter().filter(|topic| topic.error.is_none()).map(|topic| &topic.name).collect();
    let only_here = of_from.topics.iter().filter(|topic| topic.error.is_none() && !there.contains(&topic.name));
    let whose = whose(from, only_here.filter(|topic| rules.is_copied(&topic.name, [to, from]))).await;
    let is_unborn = |topic: &Arc<str>| matches!(whose.get(topic), Some(Ok(Whose::Copy | Whose::Nobodys)));
    let mut seen: BTreeMap<Arc<str>, Seen> =
        topics.iter().filter(|topic| !is_unborn(topic)).map(|topic| (topic.clone(), Seen::default())).collect();
    let mut partitions = Vec::new();
    for (at, metadata) in [of_from, of_to].into_iter().enumerate() {
        for topic in metadata.topics.into_iter().filter(|topic| topic.error.is_none()) {
            let Some(seen) = seen.get_mut(&topic.name) else { continue };
            seen.partitions[at] = Some(topic.partitions.len());
            seen.ids[at] = topic.id.map(|id| id.to_string());
        }
    }
    for (topic, seen) in seen.iter().filter(|(_, seen)| seen.partitions[0].is_some() && seen.partitions[0] == seen.partitions[1]) {
        partitions
            .extend((0..seen.partitions[0].unwrap_or_default()).map(|partition| TopicPartition::new(topic.clone(), partition as i32)));
    }
    let resources: Vec<_> = topics.iter().map(|topic| ConfigResource::Topic(topic.clone())).collect();
    let keys = Some(&[TIMESTAMPS][..]);
    let on_both: Vec<&str> =
        seen.iter().filter(|(_, seen)| seen.partitions.iter().all(Option::is_some)).map(|(topic, _)| &**topic).collect();
    let (configs_from, configs_to, ends_to, producers, mut transactions, allowed_from, allowed_to, running) = tokio::join!(
        from.describe_configs(&resources, keys),
        to.describe_configs(&resources, keys),
        to.log_ends(&partitions),
        from.producers_of(&partitions),
        Box::pin(transactions(from)),
        from.topic_authorized_operations(&on_both),
        to.topic_authorized_operations(&on_both),
        running(between, rules.mirrors),
    );
    for (topic, seen) in &mut seen {
        seen.transactional_id = transactions.remove(topic);
    }
    for (at, allowed) in [allowed_from, allowed_to].into_iter().enumerate() {
        for (topic, allowed) in allowed {
            if let Some(seen) = seen.get_mut(&topic) {
                seen.allowed[at] = allowed.ok();
            }
        }
    }
    // In this order: a follower that is longer has something else.
    let ends_from = from.log_ends(&partitions).await;
    let ends_to = follow(to, &ends_from, ends_to).await;
    for (at, configs) in [configs_from, configs_to].into_iter().enumerate() {
        for (resource, entries) in configs {
            let ConfigResource::Topic(topic) = resource else { continue };
            // A topic that is missing is told of as that.
            let Ok(entries) = entries else { continue };
            if let Some(seen) = seen.get_mut(&topic) {
                seen.timestamps[at] = entries.into_iter().find(|entry| entry.name == TIMESTAMPS).and_then(|entry| entry.value);
            }
        }
    }
    for partition in partitions {
        let end = |ends: &Ends| match ends.get(&partition) {
            Some(Ok(end)) => Ok(*end),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(0),
        };
        let ends = [end(&ends_from)?, end(&ends_to)?];
        let of_partition = match producers.get(&partition) {
            Some(Ok(producers)) => producers.clone(),
            Some(Err(error)) => return Err(error.clone()),
            None => Vec::new(),
        };
        if let Some(seen) = seen.get_mut(&partition.topic) {
            seen.ends.push(ends);
            seen.producers.extend(of_partition);
        }
    }
    let [from, to] = [from, to].map(|client| &*client.cluster().name);
    Ok(seen
        .into_iter()
        .map(|(topic, seen)| (topic.clone(), judge(&topic, seen, [from, to], rules, |mirror| running.contains(&mirror.name), now)))
        .collect())
}

/// What the clients of a route may do with topics where these lead, and may not where they are to lead: asked with the route's own login.
///
/// # Errors
/// A cluster does not answer.
pub async fn lost_rights(
    route: &str,
    between: Between<'_>,
    topics: &BTreeSet<Arc<str>>,
) -> Result<BTreeMap<Arc<str>, String>, ClientError> {
    let Between { from, to } = between;
    let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    let (here, there) = tokio::join!(from.topic_authorized_operations(&names), to.topic_authorized_operations(&names));
    let mut lost = BTreeMap::new();
    for topic in topics {
        let [here, there] = [&here, &there].map(|answers| match answers.get(topic) {
            Some(Err(error)) if error.code() != Some(ResponseError::TopicAuthorizationFailed) => Err(error.clone()),
            Some(Ok(operations)) => Ok(Some(*operations)),
            _ => Ok(None),
        });
        if let Some(operations) = less(here?, there?) {
            let [from, to] = [from, to].map(|client| &*client.cluster().name);
            lost.insert(
                topic.clone(),
                format!("clients of route {route} may {operations} it on {from}, and not on {to}: allow that to the route's login there"),
            );
        }
    }
    Ok(lost)
}

/// What a client can do with a topic here and not there. `None`: the topic is not even shown.
fn less(here: Option<Operations>, there: Option<Operations>) -> Option<String> {
    let may = |of: Option<Operations>, operation| of.is_some_and(|of| of.contains(operation));
    let lost = [Operation::Read, Operation::Write].into_iter().filter(|operation| may(here, *operation) && !may(there, *operation));
    let lost: Vec<_> = lost.map(|operation| operation.to_string().to_uppercase()).collect();
    (!lost.is_empty()).then(|| lost.join(" and "))
}

/// Where the follower ends, once it has got to where the leader ended, or has had [`LAG`] for that.
async fn follow(follower: &Client, leader_ends: &Ends, mut ends: Ends) -> Ends {
    let deadline = Instant::now() + LAG;
    loop {
        let lags = |(partition, end): (&TopicPartition, &Result<i64, _>)| match (leader_ends.get(partition), end) {
            (Some(Ok(leader_end)), Ok(end)) if end < leader_end => Some((partition.clone(), *leader_end)),
            _ => None,
        };
        let lagging: BTreeMap<_, _> = ends.iter().filter_map(lags).collect();
        if lagging.is_empty() || Instant::now() >= deadline {
            return ends;
        }
        sleep(LOOK).await;
        let asked: Vec<_> = lagging.keys().cloned().collect();
        let answers = follower.log_ends(&asked).await.into_iter();
        // What has come to both since is no matter.
        ends.extend(answers.map(|(partition, end)| {
            let end = end.map(|end| lagging.get(&partition).map_or(end, |leader_end| end.min(*leader_end)));
            (partition, end)
        }));
    }
}

/// Whether a topic can move.
fn judge(
    topic: &str,
    seen: Seen,
    clusters: [&str; 2],
    rules: Rules<'_>,
    runs: impl Fn(&Mirror) -> bool,
    now: i64,
) -> Result<Topic, String> {
    let [from, to] = clusters;
    let Some(mirror) = rules.mirrors.iter().filter(|mirror| mirror.connects(clusters)).find(|mirror| mirror.topics.matches(topic)) else {
        return Err(format!("no mirror copies it between {from} and {to}: name it in `topics` of one"));
    };
    if !copies_as(mirror, topic) || mirror.offsets != Offsets::Preserve {
        return Err(format!(
            "mirror {} gives it another name or other offsets, and such topics cannot move while clients run",
            mirror.name
        ));
    }
    if !runs(mirror) {
        return Err(stands_still(mirror));
    }
    let [Some(here), Some(there)] = seen.partitions else {
        let missing = if seen.partitions[0].is_none() { from } else { to };
        return Err(format!(
            "cluster {missing} does not have it, or does not show it to kferry's login: wait until mirror {} has made it. A mirror reads the file when \
             it starts: restart it if the topic was added to `topics` since",
            mirror.name
        ));
    };
    if here != there {
        return Err(format!("it has {here} partitions on {from} and {there} on {to}: wait until mirror {} has added them", mirror.name));
    }
    for (cluster, timestamps) in clusters.into_iter().zip(&seen.timestamps) {
        match timestamps.as_deref() {
            Some("CreateTime") => {}
            Some(other) => {
                return Err(format!("{TIMESTAMPS} is {other} on {cluster}: brokers would write other timestamps; set CreateTime"));
            }
            None => {
                return Err(format!("cluster {cluster} does not say its {TIMESTAMPS}: give kferry's login DESCRIBE_CONFIGS on the topic"));
            }
        }
    }
    // Who may write the copy has the login of the mirror. Where the mirror has one of its own, nobody else can ask what that may do.
    if let [Some(here), Some(there)] = seen.allowed
        && let Some(operations) = less(Some(there), Some(here))
    {
        return Err(format!(
            "kferry may {operations} it on {to}, and not on {from}: mirror {} could not copy it back once {to} leads, and there would be no way back; allow \
             that to kferry's login on {from}",
            mirror.name
        ));
    }
    if let Some((partition, [_, _])) = seen.ends.iter().enumerate().find(|(_, [leader, follower])| follower > leader) {
        return Err(format!("partition {partition} is longer on {to} than on {from}: it has diverged; `kferry verify` shows where"));
    }
    if let Some(id) = &seen.transactional_id {
        return Err(format!(
            "transactional.id {id} has a transaction open in it, and those cannot move yet: stop that client, or drop the topic from the route"
        ));
    }
    for producer in &seen.producers {
        let ActiveProducer { producer_id, coordinator_epoch, current_txn_start_offset, last_timestamp, .. } = *producer;
        let writes = last_timestamp > now - WRITES;
        if current_txn_start_offset.is_some() || coordinator_epoch >= 0 && writes {
            return Err(format!(
                "producer {producer_id} writes transactions to it, and those cannot move yet: stop it, or drop the topic from the route"
            ));
        }
        if !is_of_a_mirror(producer_id) && producer_id & TAG == 0 {
            if writes {
                let of_route = rules.bootstrap.map(|route| {
                    format!("; if it is a client of route {route}, give that route mode = \"relay\", or `stopped = true` once none of its clients produces")
                });
                return Err(format!(
                    "producer {producer_id} writes to it past the relay (`kafka-transactions.sh describe-producers` says when), and nobody could hold what it \
                     writes: give it kferry-proxy as bootstrap.servers, on a route with mode = \"relay\", or stop it, and wait for five minutes{}",
                    of_route.unwrap_or_default()
                ));
            }
            // It may be one that writes once a day. How long ago is not in the sentence: it is told again when it changes.
            if let Some(route) = rules.bootstrap {
                return Err(format!(
                    "producer {producer_id} has written to it past the relay (`kafka-transactions.sh describe-producers` says when), and may be a client of \
                     route {route}, which nobody could hold: give \
                     that route mode = \"relay\", or `stopped = true` if none of its clients produces any more, or wait until cluster {from} has \
                     forgotten that producer"
                ));
            }
        }
    }
    if let Some((partition, [leader, follower])) = seen.ends.iter().enumerate().find(|(_, [leader, follower])| follower < leader) {
        return Err(format!(
            "partition {partition} lags: the copy lacks {} offsets, and did not get there within {LAG:?}: wait for mirror {}, \
             look whether it runs, and what its /partitions says of it",
            leader - follower,
            mirror.name
        ));
    }
    let ids = clusters.into_iter().zip(seen.ids).filter_map(|(cluster, id)| Some((cluster.to_owned(), id?))).collect();
    Ok(Topic { partitions: here as u32, ids })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_config::Config;

    use super::*;
    use crate::batch::stamp::OF_MIRRORS;

    const NOW: i64 = 1_000_000_000;

    pub(super) fn mirrors() -> Vec<Arc<Mirror>> {
        const FILE: &str = r#"
            clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092" }
            clusters.new = { id = 2, bootstrap_servers = "new:9092" }
            [[mirrors]]
            name = "over"
            source = "legacy"
            target = "new"
            topics = ["orders", "orders-old"]
            rename = { orders-old = "shop.orders" }
            groups = ["shop"]
        "#;
        Config::parse(FILE, Path::new("routes.toml")).unwrap().mirrors
    }

    fn judged(topic: &str, seen: Seen, clusters: [&str; 2], bootstrap: Option<&str>) -> Result<Topic, String> {
        judge(topic, seen, clusters, Rules { mirrors: &mirrors(), bootstrap }, |_| true, NOW)
    }

    fn fine() -> Seen {
        Seen {
            partitions: [Some(2); 2],
            ids: [None, Some("b".to_owned())],
            timestamps: [(); 2].map(|()| Some("CreateTime".to_owned())),
            ends: vec![[7, 7], [20, 20]],
            producers: vec![producer(1 << 40 | 7), producer(OF_MIRRORS | 1)],
            allowed: [Some(Operations::from_bits(0xfff8)); 2],
            transactional_id: None,
        }
    }

    fn producer(producer_id: i64) -> ActiveProducer {
        ActiveProducer {
            producer_id,
            producer_epoch: 0,
            last_sequence: 9,
            last_timestamp: NOW - 1000,
            coordinator_epoch: -1,
            current_txn_start_offset: None,
        }
    }

    #[test]
    fn what_can_move_says_so_in_either_direction() {
        for clusters in [["legacy", "new"], ["new", "legacy"]] {
            let topic = judged("orders", fine(), clusters, Some("others")).unwrap();
            assert_eq!((topic.partitions, topic.ids), (2, BTreeMap::from([(clusters[1].to_owned(), "b".to_owned())])));
        }
    }

    #[test]
    fn what_cannot_says_why_and_what_to_do() {
        let with = |change: &dyn Fn(&mut Seen)| {
            let mut seen = fine();
            change(&mut seen);
            seen
        };
        let ago = |producer: ActiveProducer| ActiveProducer { last_timestamp: NOW - WRITES - 1, ..producer };
        let cases: [(&str, Seen, &str); 13] = [
            ("payments", fine(), "no mirror copies it between legacy and new"),
            ("orders-old", fine(), "gives it another name"),
            ("orders", with(&|seen| seen.partitions[0] = None), "cluster legacy does not have it"),
            ("orders", with(&|seen| seen.partitions[1] = None), "cluster new does not have it"),
            ("orders", with(&|seen| seen.partitions[1] = Some(3)), "2 partitions on legacy and 3 on new"),
            ("orders", with(&|seen| seen.timestamps[1] = Some("LogAppendTime".to_owned())), "LogAppendTime on new"),
            ("orders", with(&|seen| seen.timestamps[0] = None), "legacy does not say its message.timestamp.type"),
            (
                "orders",
                with(&|seen| seen.allowed[0] = Some(Operations::from_bits(1 << 3 | 1 << 8))),
                "kferry may WRITE it on new, and not on legacy",
            ),
            ("orders", with(&|seen| seen.ends[1] = [10, 11]), "partition 1 is longer on new"),
            ("orders", with(&|seen| seen.ends[0] = [9, 8]), "partition 0 lags: the copy lacks 1 offsets"),
            ("orders", with(&|seen| seen.producers[0].current_txn_start_offset = Some(3)), "writes transactions"),
            ("orders", with(&|seen| seen.transactional_id = Some("shop".to_owned())), "transactional.id shop has a transaction open in it"),
            ("orders", with(&|seen| seen.producers[0] = producer(7)), "producer 7 writes to it past the relay"),
        ];
        for (topic, seen, why) in cases {
            let said = judged(topic, seen, ["legacy", "new"], None).unwrap_err();
            assert!(said.contains(why), "{topic}: {said}");
        }
        // A login that is not the mirror's.
        let describes = Some(Operations::from_bits(1 << 8));
        judged("orders", with(&|seen| seen.allowed = [describes; 2]), ["legacy", "new"], None).unwrap();
        let rules = Rules { mirrors: &mirrors(), bootstrap: None };
        let said = judge("orders", fine(), ["new", "legacy"], rules, |_| false, NOW).unwrap_err();
        assert!(said.contains("no kferry-mirror of mirror over runs (group kferry-mirror-over on new has no member)"), "{said}");
        // Those that wrote long ago may have been stopped.
        for stopped in [ago(producer(7)), ago(ActiveProducer { coordinator_epoch: 3, ..producer(1 << 40 | 7) })] {
            judged("orders", with(&|seen| seen.producers[0] = stopped), ["legacy", "new"], None).unwrap();
        }
        // Unless some route has clients that nobody sees.
        let said = judged("orders", with(&|seen| seen.producers[0] = ago(producer(7))), ["legacy", "new"], Some("others")).unwrap_err();
        assert!(said.contains("client of route others"), "{said}");
    }

    #[test]
    fn who_can_do_less_there_is_told_what() {
        let of = |bits: i32| Some(Operations::from_bits(bits));
        let (read, write, describe) = (1 << 3, 1 << 4, 1 << 8);
        for (here, there, lost) in [
            (of(read | write | describe), of(read | write), None),
            (of(read | write), of(read | describe), Some("WRITE")),
            (of(read | write), None, Some("READ and WRITE")),
            (of(read), of(describe), Some("READ")),
            // It uses the topic neither here nor there.
            (of(describe), None, None),
            (None, None, None),
        ] {
            assert_eq!(less(here, there).as_deref(), lost, "{here:?} {there:?}");
        }
    }
}
