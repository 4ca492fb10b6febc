//! The brokers, topics and partitions of a view.
//!
//! Home is asked for what is at home, live and with the client's own flags: so its ACLs hold, its errors are shown, and what does not exist is created
//! there if the client wants that. What leads elsewhere is shown from what the leading cluster said last, which is asked for again before; what the client
//! may do there, if it wants to know, it is asked for live. No cluster is asked for a topic that leads on another one: asking can create it. A cluster that
//! does not answer is shown as it was, for a while with its leaders.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_util::future::join_all;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kferry_config::is_internal;
use kferry_wire::api::Rewrite;
use kferry_wire::client::{ClientError, Partition, Topic};
use kferry_wire::cluster::Broker as RealBroker;
use uuid::Uuid;

use super::directory::Listing;
use super::leaders::Leaders;
use super::{Broker, Door, Part, Parts, View};
use crate::ending::Cause;
use crate::relay::brokers::{CLUSTER_ID, ToClient};
use crate::relay::request::RequestHead;
use crate::relay::topic_ids::virtual_topic_id;

/// Kafka's `UNKNOWN_TOPIC_OR_PARTITION`
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Kafka's `LEADER_NOT_AVAILABLE`
const LEADER_NOT_AVAILABLE: i16 = 5;
/// Kafka's `TOPIC_AUTHORIZATION_FAILED`
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// The first version of Metadata whose answer tells what a client may do with a topic. Each cluster of the view knows it, or the client would not have been
/// told of it.
const TELLS_OPERATIONS: i16 = 8;

/// What a Metadata request asks for, by who has it.
#[derive(Debug, Default)]
struct Asked {
    /// For home, as the client wrote it; `None` is all topics.
    home: Option<Vec<MetadataRequestTopic>>,
    /// Names of what leads on other clusters, by the cluster's number.
    elsewhere: BTreeMap<usize, Vec<String>>,
}

impl Asked {
    fn of(topics: Option<Vec<MetadataRequestTopic>>, parts: &Parts, leaders: &Leaders) -> Self {
        let mut asked = Self::default();
        let Some(topics) = topics else {
            for (number, part) in parts.clusters.iter().enumerate().skip(1) {
                let Some(listing) = part.shown.last() else { continue };
                let led = listing.metadata.topics.iter().filter(|topic| !is_internal(&topic.name) && leaders.leader(&topic.name) == number);
                asked.elsewhere.insert(number, led.map(|topic| topic.name.to_string()).collect());
            }
            return asked;
        };
        let (mut home, mut named) = (Vec::new(), HashSet::new());
        for topic in topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).or_else(|| parts.name_of(topic.topic_id));
            match name.map(|name| (leaders.leader(&name), name)) {
                // Each once, as brokers answer.
                Some((number, name)) if number > 0 => {
                    if named.insert(name.clone()) {
                        asked.elsewhere.entry(number).or_default().push(name);
                    }
                }
                _ => home.push(topic),
            }
        }
        asked.home = Some(home);
        asked
    }
}

pub(super) async fn metadata(view: &View, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
    let version = head.version;
    let mut request: MetadataRequest = head.decode(head.api.request, body)?;
    // Before version 1 none is all.
    if version == 0 {
        request.topics = request.topics.filter(|topics| !topics.is_empty());
    }
    let (parts, leaders) = view.fresh().await;
    let asked = Asked::of(request.topics.take(), &parts, &leaders);
    let home = parts.home();
    request.topics.clone_from(&asked.home);
    let of_home = home.ask_in_time(Broker::Any, version, &request, door);
    let (answered, operations) = if request.include_topic_authorized_operations {
        tokio::join!(of_home, operations_elsewhere(&asked, &parts, door))
    } else {
        (of_home.await, HashMap::new())
    };
    let answered = answered.filter(|answer: &MetadataResponse| !answer.brokers.is_empty());
    let mut answer = assemble(answered, &asked, &parts, &leaders, version, door)?;
    tell_operations(&mut answer, &operations);
    head.encode(&answer)
}

/// What the client may do with the topics that lead elsewhere, as bits, by name: as the leading clusters say, with the route's login. Where one does not
/// answer it stays unknown.
async fn operations_elsewhere(asked: &Asked, parts: &Parts, door: &Door) -> HashMap<String, i32> {
    let asked = asked.elsewhere.iter().filter(|(_, names)| !names.is_empty()).map(async |(number, names)| {
        let topic = |name: &String| MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string(name.clone()))));
        let request = MetadataRequest::default().with_topics(Some(names.iter().map(topic).collect()));
        let request = request.with_allow_auto_topic_creation(false).with_include_topic_authorized_operations(true);
        parts.clusters[*number].ask_in_time(Broker::Any, TELLS_OPERATIONS, &request, door).await
    });
    let topics = join_all(asked).await.into_iter().flatten().flat_map(|answer| answer.topics);
    topics.filter_map(|topic| Some((topic.name?.to_string(), topic.topic_authorized_operations))).collect()
}

fn tell_operations(answer: &mut MetadataResponse, operations: &HashMap<String, i32>) {
    for topic in &mut answer.topics {
        if let Some(operations) = topic.name.as_ref().and_then(|name| operations.get(name.as_str())) {
            topic.topic_authorized_operations = *operations;
        }
    }
}

/// The answer of the view: what home has `answered`, without what is not its own, and what leads elsewhere.
fn assemble(
    answered: Option<MetadataResponse>,
    asked: &Asked,
    parts: &Parts,
    leaders: &Leaders,
    version: i16,
    door: &Door,
) -> Result<MetadataResponse, Cause> {
    let mut answer = answered.unwrap_or_else(|| parts.home().last_known(asked, leaders, version, door));
    // Before version 1 none is all.
    let is_none = asked.home.as_ref().is_some_and(Vec::is_empty);
    answer.topics.retain(|topic| !is_none && topic.name.as_ref().is_none_or(|name| leaders.leader(name) == 0));
    for part in &parts.clusters[1..] {
        answer.brokers.extend(part.shown_brokers(door));
    }
    if answer.brokers.is_empty() {
        return Err(Cause::NoBrokers);
    }
    for (number, names) in &asked.elsewhere {
        let part = &parts.clusters[*number];
        let listing = part.shown.last();
        answer.topics.extend(names.iter().map(|name| part.shown_topic(listing.as_deref(), name, version, door)));
    }
    Ok(answer)
}

/// What home says, and the brokers of the others.
pub(super) async fn describe_cluster(view: &View, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
    let request: DescribeClusterRequest = head.decode(head.api.request, body)?;
    let (parts, _) = view.fresh().await;
    let shown = |part: &Part| {
        let brokers = part.shown_brokers(door);
        brokers.map(|broker| DescribeClusterBroker::default().with_broker_id(broker.node_id).with_host(broker.host).with_port(broker.port))
    };
    let home = parts.home();
    let mut answer = match home.ask_in_time(Broker::Any, head.version, &request, door).await {
        Some(answer) => answer,
        None => DescribeClusterResponse::default()
            .with_cluster_id(StrBytes::from_static_str(CLUSTER_ID))
            .with_controller_id(BrokerId(-1))
            .with_brokers(shown(home).collect()),
    };
    answer.brokers.extend(parts.clusters[1..].iter().flat_map(shown));
    head.encode(&answer)
}

impl Parts {
    /// The name of the topic that clients know by this id.
    pub(super) fn name_of(&self, topic_id: Uuid) -> Option<String> {
        self.clusters.iter().find_map(|part| part.shown.last()?.name_of(topic_id).map(ToString::to_string))
    }
}

impl Part {
    /// What is left to say of home when it does not answer: its brokers and topics as they were.
    fn last_known(&self, asked: &Asked, leaders: &Leaders, version: i16, door: &Door) -> MetadataResponse {
        let listing = self.shown.last();
        let names: Vec<String> = match &asked.home {
            Some(topics) => {
                let names: BTreeSet<_> = topics.iter().filter_map(|topic| topic.name.as_ref().map(|name| name.to_string())).collect();
                names.into_iter().collect()
            }
            None => {
                let names = listing.iter().flat_map(|listing| listing.metadata.topics.iter().map(|topic| topic.name.to_string()));
                names.filter(|name| leaders.leader(name) == 0).collect()
            }
        };
        // What it did not have it may have now: that is no verdict.
        let known = |name: &String| listing.as_ref().filter(|listing| listing.metadata.topic(name).is_some());
        let topics = names.iter().map(|name| match known(name) {
            Some(listing) => self.shown_topic(Some(listing), name, version, door),
            None => without_leader(name, version),
        });
        let answer = MetadataResponse::default().with_brokers(self.shown_brokers(door).collect()).with_topics(topics.collect());
        let cluster_id = (version >= 2).then(|| StrBytes::from_static_str(CLUSTER_ID));
        answer.with_cluster_id(cluster_id).with_controller_id(BrokerId(-1))
    }

    /// The virtual brokers of the cluster's brokers that were up last.
    fn shown_brokers(&self, door: &Door) -> impl Iterator<Item = MetadataResponseBroker> + use<> {
        let (world, listing) = (self.world(door), self.shown.last());
        let brokers: Vec<RealBroker> = listing.map(|listing| listing.metadata.brokers.clone()).unwrap_or_default();
        brokers.into_iter().filter_map(move |broker| {
            let mut by = ToClient::new(&world, kafka_protocol::messages::ApiKey::Metadata);
            let real = &broker.advertised;
            let node_id = by.node_id(broker.node_id).ok()?;
            let (host, port) = by.address(broker.node_id, &real.host, i32::from(real.port)).ok()?;
            let shown = MetadataResponseBroker::default().with_node_id(BrokerId(node_id));
            Some(shown.with_host(StrBytes::from_string(host)).with_port(i32::from(port)))
        })
    }

    /// A topic that leads on this cluster, by what it said last.
    fn shown_topic(&self, listing: Option<&Listing>, name: &str, version: i16, door: &Door) -> MetadataResponseTopic {
        let exists = || self.own.last().is_none_or(|listing| listing.names.contains(name));
        let topic = listing.and_then(|listing| listing.metadata.topic(name).map(|topic| (topic, &listing.metadata.brokers)));
        match topic {
            _ if !self.shown.has_leaders() => without_leader(name, version),
            Some((topic, brokers)) => self.partitions_of(topic, brokers, version, door),
            // kferry sees it, and the clients of this route may not.
            None if listing.is_some() && exists() => unusable(name, TOPIC_AUTHORIZATION_FAILED),
            None if listing.is_some() => unusable(name, UNKNOWN_TOPIC_OR_PARTITION),
            None => without_leader(name, version),
        }
    }

    fn partitions_of(&self, topic: &Topic, brokers: &[RealBroker], version: i16, door: &Door) -> MetadataResponseTopic {
        let world = self.world(door);
        let mut by = ToClient::new(&world, kafka_protocol::messages::ApiKey::Metadata);
        if let Some(id) = topic.id {
            by.named_topic_id(Uuid::from_bytes(id.0), Some(&topic.name));
        }
        let error_code = topic.error.as_ref().and_then(ClientError::code).map_or(0, |error| error.code());
        let mut partition = |partition: &Partition| {
            let leader = partition.leader.and_then(|leader| by.node_id(leader).ok());
            let error_code = match partition.error.as_ref().and_then(ClientError::code) {
                Some(error) => error.code(),
                None if leader.is_none() => LEADER_NOT_AVAILABLE,
                None => 0,
            };
            let mut ids = |ids: &[i32]| -> Vec<BrokerId> { ids.iter().map(|id| BrokerId(by.replica_id(*id))).collect() };
            let shown = MetadataResponsePartition::default()
                .with_error_code(error_code)
                .with_partition_index(partition.index)
                .with_leader_id(BrokerId(leader.unwrap_or(-1)))
                .with_replica_nodes(ids(&partition.replicas))
                .with_isr_nodes(ids(&partition.isr));
            if version < 5 {
                return shown;
            }
            let is_up = |id: &i32| brokers.iter().any(|broker| broker.node_id == *id);
            let offline: Vec<i32> = partition.replicas.iter().copied().filter(|id| !is_up(id)).collect();
            shown.with_offline_replicas(ids(&offline))
        };
        let partitions = topic.partitions.iter().map(&mut partition).collect();
        shown(&topic.name, error_code, version).with_is_internal(topic.internal).with_partitions(partitions)
    }
}

/// A topic of which nothing but the name is known: its cluster does not answer any more.
fn without_leader(name: &str, version: i16) -> MetadataResponseTopic {
    shown(name, LEADER_NOT_AVAILABLE, version)
}

/// A topic that clients cannot use.
fn unusable(name: &str, error_code: i16) -> MetadataResponseTopic {
    MetadataResponseTopic::default().with_error_code(error_code).with_name(Some(TopicName(StrBytes::from_string(name.to_owned()))))
}

fn shown(name: &str, error_code: i16, version: i16) -> MetadataResponseTopic {
    let topic = unusable(name, error_code);
    if version >= 10 { topic.with_topic_id(virtual_topic_id(name)) } else { topic }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::relay::view::fixed::{door, parts};
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn named(names: &[&str]) -> Vec<MetadataRequestTopic> {
        let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string((*name).to_owned()))));
        names.iter().map(topic).collect()
    }

    /// What home answers, when it does: all that it was asked for, as the walk has made it.
    fn home_answers(topics: &[&str], version: i16) -> MetadataResponse {
        let brokers = vec![MetadataResponseBroker::default().with_node_id(BrokerId(20_000_001)).with_port(9201)];
        let topics = topics.iter().map(|name| shown(name, 0, version)).collect();
        MetadataResponse::default().with_brokers(brokers).with_controller_id(BrokerId(20_000_001)).with_topics(topics)
    }

    /// Topics of an answer with their errors and the leaders of their partitions.
    fn told(answer: &MetadataResponse) -> Vec<String> {
        let mut told: Vec<_> = answer
            .topics
            .iter()
            .map(|topic| {
                let leaders: Vec<_> = topic.partitions.iter().map(|partition| (partition.error_code, partition.leader_id.0)).collect();
                format!("{} {} {leaders:?}", topic.name.as_ref().map_or("-", |name| name.as_str()), topic.error_code)
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn each_topic_is_shown_where_it_leads_in_every_version() {
        let (parts, leaders) = parts("new", Some(&["orders", "!logs"]), Some(&["orders", "payments"]));
        for version in 0..=13 {
            let all = Asked::of(None, &parts, &leaders);
            let answer = assemble(Some(home_answers(&["orders", "payments"], version)), &all, &parts, &leaders, version, &door()).unwrap();
            let mut body = Vec::new();
            answer.encode(&mut body, version).unwrap();
            let answer = MetadataResponse::decode(&mut body.as_slice(), version).unwrap();
            assert_eq!(told(&answer), ["logs 0 [(5, -1)]", "orders 0 [(0, 10000001)]", "payments 0 []"], "v{version}");
            let brokers: Vec<_> = answer.brokers.iter().map(|broker| (broker.node_id.0, broker.port)).collect();
            assert_eq!(brokers, [(20_000_001, 9201), (10_000_001, 9101)], "v{version}");
            let orders = answer.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == "orders")).unwrap();
            let partition = &orders.partitions[0];
            assert_eq!(
                (partition.leader_epoch, partition.replica_nodes.len(), partition.replica_nodes[1].0),
                (-1, 2, i32::MAX),
                "v{version}"
            );
            assert_eq!(orders.topic_id, if version >= 10 { virtual_topic_id("orders") } else { Uuid::nil() }, "v{version}");
        }
    }

    #[test]
    fn home_is_asked_for_nothing_that_leads_elsewhere() {
        let (parts, leaders) = parts("new", Some(&["orders", "logs"]), Some(&["orders", "payments"]));
        let asked = Asked::of(Some(named(&["payments", "orders", "to-come", "logs", "orders"])), &parts, &leaders);
        let home: Vec<_> = asked.home.iter().flatten().map(|topic| topic.name.as_ref().unwrap().to_string()).collect();
        assert_eq!(home, ["payments", "to-come"]);
        assert_eq!(asked.elsewhere[&1], ["orders", "logs"]);
        // By its id alone.
        let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(virtual_topic_id("logs"));
        let nobodys = MetadataRequestTopic::default().with_name(None).with_topic_id(virtual_topic_id("nobody's"));
        let asked = Asked::of(Some(vec![by_id, nobodys.clone()]), &parts, &leaders);
        assert_eq!((asked.home.clone(), asked.elsewhere[&1].clone()), (Some(vec![nobodys]), vec!["logs".to_owned()]));
        // Nothing of home's own: before version 1 home answers with all that it has.
        let asked = Asked::of(Some(named(&["orders"])), &parts, &leaders);
        let answer = assemble(Some(home_answers(&["orders", "payments"], 0)), &asked, &parts, &leaders, 0, &door()).unwrap();
        assert_eq!(told(&answer), ["orders 0 [(0, 10000001)]"]);
    }

    #[test]
    fn without_home_the_others_work_on_and_its_topics_have_no_leader_after_a_while() {
        let (parts, leaders) = parts("new", Some(&["orders"]), Some(&["orders", "payments"]));
        for (silent, payments) in [(29, "payments 0 [(0, 20000001)]"), (31, "payments 5 []")] {
            parts.home().shown.silent_for(Duration::from_secs(silent));
            for version in 0..=13 {
                let all = assemble(None, &Asked::of(None, &parts, &leaders), &parts, &leaders, version, &door()).unwrap();
                assert_eq!(told(&all), ["orders 0 [(0, 10000001)]", payments]);
                assert_eq!(all.brokers.len(), 2);
                let asked = Asked::of(Some(named(&["payments", "orders", "unknown"])), &parts, &leaders);
                let some = assemble(None, &asked, &parts, &leaders, version, &door()).unwrap();
                // Home may have it by now.
                assert_eq!(told(&some), ["orders 0 [(0, 10000001)]", payments, "unknown 5 []"]);
                let mut body = Vec::new();
                some.encode(&mut body, version).unwrap();
            }
        }
    }

    #[test]
    fn what_a_client_may_do_with_a_topic_is_told_where_the_leading_cluster_has_said_it() {
        /// As it is when nobody has said it.
        const UNKNOWN: i32 = i32::MIN;
        let (parts, leaders) = parts("new", Some(&["orders", "logs"]), Some(&["orders", "payments"]));
        let asked = Asked::of(None, &parts, &leaders);
        for version in TELLS_OPERATIONS..=13 {
            let mut home = home_answers(&["orders", "payments"], version);
            home.topics.iter_mut().for_each(|topic| topic.topic_authorized_operations = 1);
            let mut answer = assemble(Some(home), &asked, &parts, &leaders, version, &door()).unwrap();
            tell_operations(&mut answer, &HashMap::from([("orders".to_owned(), 8), ("unknown".to_owned(), 9)]));
            let mut body = Vec::new();
            answer.encode(&mut body, version).unwrap();
            let answer = MetadataResponse::decode(&mut body.as_slice(), version).unwrap();
            let told = answer.topics.iter().map(|topic| (topic.name.as_ref().unwrap().to_string(), topic.topic_authorized_operations));
            let told: BTreeMap<_, _> = told.collect();
            let expected = [("logs", UNKNOWN), ("orders", 8), ("payments", 1)].map(|(name, bits)| (name.to_owned(), bits));
            assert_eq!(told, BTreeMap::from(expected), "v{version}");
        }
    }

    #[test]
    fn a_cluster_that_is_slow_for_a_moment_keeps_its_leaders() {
        let (parts, leaders) = parts("new", Some(&["orders"]), Some(&["orders", "payments"]));
        for (silent, orders) in [(0, "orders 0 [(0, 10000001)]"), (29, "orders 0 [(0, 10000001)]"), (31, "orders 5 []")] {
            parts.clusters[1].shown.silent_for(Duration::from_secs(silent));
            for asked in [None, Some(named(&["orders", "payments"]))] {
                let asked = Asked::of(asked, &parts, &leaders);
                let answer = assemble(Some(home_answers(&["payments"], 9)), &asked, &parts, &leaders, 9, &door()).unwrap();
                assert_eq!(told(&answer), [orders, "payments 0 []"], "{silent} s");
            }
        }
    }

    #[test]
    fn a_cluster_that_has_never_said_what_it_has_hides_nothing_of_the_others() {
        let (parts, leaders) = parts("new", None, Some(&["orders", "payments"]));
        let asked = Asked::of(Some(named(&["payments", "orders"])), &parts, &leaders);
        let answer = assemble(Some(home_answers(&["payments"], 9)), &asked, &parts, &leaders, 9, &door()).unwrap();
        // The source of its mirror may have it: until that has said so, nobody leads it.
        assert_eq!(told(&answer), ["orders 5 []", "payments 0 []"]);
        let nobody = Parts {
            clusters: parts.clusters.clone(),
            beyond: Vec::new(),
            mirrors: Vec::new(),
            decisions: Arc::default(),
            worked_out: Arc::default(),
        };
        nobody.clusters.iter().for_each(|part| part.shown.forget());
        assert!(matches!(assemble(None, &asked, &nobody, &leaders, 9, &door()), Err(Cause::NoBrokers)));
    }
}
