//! Topics that are created, deleted, grown, moved between brokers, altered and described, and the settings of brokers.
//!
//! A topic is made at home, and changed by those whose home leads it. Of a topic that leads elsewhere home has a copy or nothing at all, and what a client
//! changed there would be undone by the mirror, make the copy diverge, or do nothing to the brokers that the client sees: so it gets an error that names
//! the cluster. What it reads, it reads there.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
use kafka_protocol::messages::alter_partition_reassignments_response::{ReassignablePartitionResponse, ReassignableTopicResponse};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource as IncrementalResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ApiKey,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::leaders::{Leaders, Stance};
use super::{Broker, Door, Parts, View};
use crate::ending::Cause;
use crate::relay::brokers::real_node_id;
use crate::relay::holds::Holds;
use crate::relay::masks::REQUEST_TIMED_OUT;
use crate::relay::request::RequestHead;

/// Kafka's `TOPIC_ALREADY_EXISTS`
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Kafka's `POLICY_VIOLATION`
const POLICY_VIOLATION: i16 = 44;

/// `org.apache.kafka.common.config.ConfigResource.Type`
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;

/// A part of a request: for a broker of the cluster with a number.
type To = (usize, Broker);

/// Where a thing is asked for, or why it is refused.
type Place = Result<To, StrBytes>;

/// The things of a request by whom they are for, and the outcomes of those that are refused.
type Split<R> = (BTreeMap<To, Vec<<R as Several>::Thing>>, Vec<<R as Several>::Outcome>);

pub(super) async fn answer(view: &View, head: RequestHead, body: &[u8], door: &Door, holds: &Holds) -> Result<Vec<u8>, Cause> {
    let (parts, leaders) = view.fresh().await;
    let asking = Asking { parts: &parts, leaders: &leaders, holds, head, door };
    match head.api.key {
        ApiKey::CreateTopics => asking.answer::<CreateTopicsRequest>(body).await,
        ApiKey::DeleteTopics => asking.answer::<DeleteTopicsRequest>(body).await,
        ApiKey::CreatePartitions => asking.answer::<CreatePartitionsRequest>(body).await,
        ApiKey::DescribeConfigs => asking.answer::<DescribeConfigsRequest>(body).await,
        ApiKey::AlterConfigs => asking.answer::<AlterConfigsRequest>(body).await,
        ApiKey::IncrementalAlterConfigs => asking.answer::<IncrementalAlterConfigsRequest>(body).await,
        ApiKey::ElectLeaders => asking.answer::<ElectLeadersRequest>(body).await,
        ApiKey::AlterPartitionReassignments => asking.answer::<AlterPartitionReassignmentsRequest>(body).await,
        other => unreachable!("{other:?} is no request for a view"),
    }
}

/// What becomes of a request, of which nobody is asked: how many parts it has, and the answer to those that are refused.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn refused(
    parts: &Parts,
    leaders: &Leaders,
    holds: &Holds,
    head: RequestHead,
    body: &[u8],
    door: &Door,
) -> Result<(usize, Vec<u8>), Cause> {
    let asking = Asking { parts, leaders, holds, head, door };
    match head.api.key {
        ApiKey::CreateTopics => asking.refuse::<CreateTopicsRequest>(body),
        ApiKey::DeleteTopics => asking.refuse::<DeleteTopicsRequest>(body),
        ApiKey::CreatePartitions => asking.refuse::<CreatePartitionsRequest>(body),
        ApiKey::DescribeConfigs => asking.refuse::<DescribeConfigsRequest>(body),
        ApiKey::AlterConfigs => asking.refuse::<AlterConfigsRequest>(body),
        ApiKey::IncrementalAlterConfigs => asking.refuse::<IncrementalAlterConfigsRequest>(body),
        ApiKey::ElectLeaders => asking.refuse::<ElectLeadersRequest>(body),
        ApiKey::AlterPartitionReassignments => asking.refuse::<AlterPartitionReassignmentsRequest>(body),
        other => unreachable!("{other:?} is no request for a view"),
    }
}

/// A request for several things, of which each has a place and an outcome of its own.
trait Several: Request<Response: Default> + Clone {
    /// What the client is told of a thing that is to be changed elsewhere.
    const REFUSED: i16 = POLICY_VIOLATION;
    type Thing: Clone;
    type Outcome;

    /// Takes them out. None may mean all.
    fn take(&mut self) -> Vec<Self::Thing>;
    /// The same for these.
    fn with(&self, things: Vec<Self::Thing>, version: i16) -> Self;
    fn place(asking: &Asking<'_>, thing: &Self::Thing) -> Place;
    fn refused(asking: &Asking<'_>, thing: Self::Thing, error_code: i16, why: StrBytes) -> Self::Outcome;
    fn throttle_time_ms(answer: &mut Self::Response) -> &mut i32;
    fn outcomes(answer: &mut Self::Response) -> &mut Vec<Self::Outcome>;
}

struct Asking<'a> {
    parts: &'a Parts,
    leaders: &'a Leaders,
    holds: &'a Holds,
    head: RequestHead,
    door: &'a Door,
}

impl Asking<'_> {
    async fn answer<R: Several>(&self, body: &[u8]) -> Result<Vec<u8>, Cause> {
        let mut request: R = self.head.decode(self.head.api.request, body)?;
        let things = request.take();
        if things.is_empty() {
            return self.head.encode(&self.ask((0, Broker::Controller), request).await?);
        }
        let (placed, refused) = self.split::<R>(things);
        let is_one = placed.len() == 1;
        let asked = placed.into_iter().map(async |(to, things)| {
            let answer = self.ask(to, request.with(things.clone(), self.head.version)).await;
            // Who is asked alone may have an error for the request as a whole.
            if is_one { answer } else { Ok(answer.unwrap_or_else(|cause| self.unanswered::<R>(to, things, &cause))) }
        });
        let mut answers = join_all(asked).await.into_iter();
        let mut all = answers.next().transpose()?.unwrap_or_default();
        for answer in answers {
            let mut answer = answer?;
            let throttle_time_ms = *R::throttle_time_ms(&mut answer);
            let longest = R::throttle_time_ms(&mut all);
            *longest = throttle_time_ms.max(*longest);
            R::outcomes(&mut all).append(R::outcomes(&mut answer));
        }
        R::outcomes(&mut all).extend(refused);
        self.head.encode(&all)
    }

    /// One cluster does not say what has become of these: what others say is told all the same.
    fn unanswered<R: Several>(&self, (number, _): To, things: Vec<R::Thing>, cause: &Cause) -> R::Response {
        let why = format!("kferry: cluster {} has not answered: {}", self.parts.clusters[number].cluster.name, cause.detail());
        let why = StrBytes::from_string(why);
        let mut answer = R::Response::default();
        R::outcomes(&mut answer).extend(things.into_iter().map(|thing| R::refused(self, thing, REQUEST_TIMED_OUT, why.clone())));
        answer
    }

    #[cfg(any(test, feature = "fuzzing"))]
    fn refuse<R: Several>(&self, body: &[u8]) -> Result<(usize, Vec<u8>), Cause> {
        let mut request: R = self.head.decode(self.head.api.request, body)?;
        let things = request.take();
        let (placed, refused) = self.split::<R>(things);
        let parts = placed.len();
        for things in placed.into_values() {
            self.head.encode(&request.with(things, self.head.version))?;
        }
        let mut all = R::Response::default();
        R::outcomes(&mut all).extend(refused);
        Ok((parts, self.head.encode(&all)?))
    }

    fn split<R: Several>(&self, things: Vec<R::Thing>) -> Split<R> {
        let (mut placed, mut refused) = (BTreeMap::<To, Vec<_>>::new(), Vec::new());
        for thing in things {
            match R::place(self, &thing) {
                Ok(to) => placed.entry(to).or_default().push(thing),
                Err(why) => refused.push(R::refused(self, thing, R::REFUSED, why)),
            }
        }
        (placed, refused)
    }

    async fn ask<R: Request>(&self, (number, to): To, request: R) -> Result<R::Response, Cause> {
        let part = &self.parts.clusters[number];
        part.ask(&part.changes, to, self.head.version, &request, self.door).await
    }

    /// Topics are made and changed at home, but not while they move: both clusters have agreed on what they are.
    fn at_home(&self, topic: &str) -> Place {
        let home = &self.parts.home().cluster.name;
        let why = match self.leaders.stance(topic, 0) {
            Stance::Leads if self.holds.are_held(topic) => {
                format!("kferry: the topic {topic} moves to another cluster just now: try again in a few seconds")
            }
            Stance::Leads => return Ok((0, Broker::Controller)),
            Stance::Follows(leader) => {
                let leader = self.leaders.name(leader);
                format!(
                    "kferry: the topic {topic} leads on the cluster {leader}: make changes there; this client's home is the cluster {home}"
                )
            }
            Stance::HasCopy => {
                format!(
                    "kferry: the topic {topic} of the cluster {home} is a copy that a mirror writes: make changes to the topic that it copies"
                )
            }
        };
        Err(StrBytes::from_string(why))
    }

    /// Where the settings of a resource are.
    fn settings_of(&self, resource_type: i8, name: &str) -> To {
        let broker = || {
            let virtual_id = name.parse().ok().filter(|_| matches!(resource_type, BROKER | BROKER_LOGGER))?;
            let mut parts = self.parts.clusters.iter().enumerate();
            parts.find_map(|(number, part)| Some((number, Broker::Node(real_node_id(&part.cluster, virtual_id).ok()?))))
        };
        match resource_type {
            TOPIC => (self.leaders.leader(name), Broker::Any),
            _ => broker().unwrap_or((0, Broker::Any)),
        }
    }

    /// The name of a topic that is to be deleted. `None`: nobody knows it by its id.
    fn deleted(&self, topic: &DeleteTopicState) -> Option<String> {
        topic.name.as_ref().map(|name| name.to_string()).or_else(|| self.parts.name_of(topic.topic_id))
    }
}

/// The list of a request.
macro_rules! things {
    ($list:ident: $thing:ty) => {
        type Thing = $thing;

        fn take(&mut self) -> Vec<$thing> {
            std::mem::take(&mut self.$list)
        }

        fn with(&self, things: Vec<$thing>, _: i16) -> Self {
            let mut request = self.clone();
            request.$list = things;
            request
        }
    };
}

/// The list of an answer.
macro_rules! outcomes {
    ($response:ty, $list:ident: $outcome:ty) => {
        type Outcome = $outcome;

        fn throttle_time_ms(answer: &mut $response) -> &mut i32 {
            &mut answer.throttle_time_ms
        }

        fn outcomes(answer: &mut $response) -> &mut Vec<$outcome> {
            &mut answer.$list
        }
    };
}

impl Several for CreateTopicsRequest {
    const REFUSED: i16 = TOPIC_ALREADY_EXISTS;
    things!(topics: CreatableTopic);
    outcomes!(CreateTopicsResponse, topics: CreatableTopicResult);

    fn place(asking: &Asking<'_>, topic: &CreatableTopic) -> Place {
        asking.at_home(&topic.name)
    }

    fn refused(_: &Asking<'_>, topic: CreatableTopic, error_code: i16, why: StrBytes) -> CreatableTopicResult {
        CreatableTopicResult::default().with_name(topic.name).with_error_code(error_code).with_error_message(Some(why))
    }
}

impl Several for DeleteTopicsRequest {
    type Thing = DeleteTopicState;
    outcomes!(DeleteTopicsResponse, responses: DeletableTopicResult);

    /// Before version 6 there are names alone.
    fn take(&mut self) -> Vec<DeleteTopicState> {
        let names = std::mem::take(&mut self.topic_names).into_iter().map(|name| DeleteTopicState::default().with_name(Some(name)));
        std::mem::take(&mut self.topics).into_iter().chain(names).collect()
    }

    fn with(&self, topics: Vec<DeleteTopicState>, version: i16) -> Self {
        if version < 6 {
            return self.clone().with_topic_names(topics.into_iter().filter_map(|topic| topic.name).collect());
        }
        self.clone().with_topics(topics)
    }

    fn place(asking: &Asking<'_>, topic: &DeleteTopicState) -> Place {
        // What nobody knows by its id is for home to refuse.
        asking.deleted(topic).map_or(Ok((0, Broker::Controller)), |name| asking.at_home(&name))
    }

    fn refused(asking: &Asking<'_>, topic: DeleteTopicState, error_code: i16, why: StrBytes) -> DeletableTopicResult {
        let name = asking.deleted(&topic).map(|name| TopicName(StrBytes::from_string(name)));
        let refused = DeletableTopicResult::default().with_name(name).with_error_code(error_code).with_topic_id(topic.topic_id);
        if asking.head.version >= 5 { refused.with_error_message(Some(why)) } else { refused }
    }
}

impl Several for CreatePartitionsRequest {
    things!(topics: CreatePartitionsTopic);
    outcomes!(CreatePartitionsResponse, results: CreatePartitionsTopicResult);

    fn place(asking: &Asking<'_>, topic: &CreatePartitionsTopic) -> Place {
        asking.at_home(&topic.name)
    }

    fn refused(_: &Asking<'_>, topic: CreatePartitionsTopic, error_code: i16, why: StrBytes) -> CreatePartitionsTopicResult {
        CreatePartitionsTopicResult::default().with_name(topic.name).with_error_code(error_code).with_error_message(Some(why))
    }
}

impl Several for ElectLeadersRequest {
    type Thing = TopicPartitions;
    outcomes!(ElectLeadersResponse, replica_election_results: ReplicaElectionResult);

    /// Null is all partitions: all of home's.
    fn take(&mut self) -> Vec<TopicPartitions> {
        self.topic_partitions.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn with(&self, topics: Vec<TopicPartitions>, _: i16) -> Self {
        self.clone().with_topic_partitions(Some(topics))
    }

    fn place(asking: &Asking<'_>, topic: &TopicPartitions) -> Place {
        asking.at_home(&topic.topic)
    }

    fn refused(_: &Asking<'_>, topic: TopicPartitions, error_code: i16, why: StrBytes) -> ReplicaElectionResult {
        let refused = PartitionResult::default().with_error_code(error_code).with_error_message(Some(why));
        let partitions = topic.partitions.into_iter().map(|partition| refused.clone().with_partition_id(partition));
        ReplicaElectionResult::default().with_topic(topic.topic).with_partition_result(partitions.collect())
    }
}

impl Several for AlterPartitionReassignmentsRequest {
    things!(topics: ReassignableTopic);
    outcomes!(AlterPartitionReassignmentsResponse, responses: ReassignableTopicResponse);

    /// A replica on another cluster than home is a broker that home does not have: it says so.
    fn place(asking: &Asking<'_>, topic: &ReassignableTopic) -> Place {
        asking.at_home(&topic.name)
    }

    fn refused(_: &Asking<'_>, topic: ReassignableTopic, error_code: i16, why: StrBytes) -> ReassignableTopicResponse {
        let refused = ReassignablePartitionResponse::default().with_error_code(error_code).with_error_message(Some(why));
        let partitions = topic.partitions.into_iter().map(|partition| refused.clone().with_partition_index(partition.partition_index));
        ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions.collect())
    }
}

/// Requests for the settings of resources, where they are. Those of a topic are changed by whose home leads it.
macro_rules! settings {
    ($request:ty, $thing:ty, $response:ty, $outcomes:ident: $outcome:ty, changes: $changes:literal) => {
        impl Several for $request {
            things!(resources: $thing);
            outcomes!($response, $outcomes: $outcome);

            fn place(asking: &Asking<'_>, resource: &$thing) -> Place {
                if $changes && resource.resource_type == TOPIC {
                    asking.at_home(&resource.resource_name)?;
                }
                Ok(asking.settings_of(resource.resource_type, &resource.resource_name))
            }

            fn refused(_: &Asking<'_>, resource: $thing, error_code: i16, why: StrBytes) -> $outcome {
                <$outcome>::default()
                    .with_error_code(error_code)
                    .with_error_message(Some(why))
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name)
            }
        }
    };
}

settings!(DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse, results: DescribeConfigsResult, changes: false);
settings!(AlterConfigsRequest, AlterConfigsResource, AlterConfigsResponse, responses: AlterConfigsResourceResponse, changes: true);
settings!(
    IncrementalAlterConfigsRequest,
    IncrementalResource,
    IncrementalAlterConfigsResponse,
    responses: IncrementalResponse,
    changes: true
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::view::fixed::{door, parts};
    use kafka_protocol::protocol::{Decodable, Encodable};
    use kferry_wire::api::Api;

    /// By its name, with error and message.
    type Refused = (String, i16, Option<StrBytes>);

    fn text(text: &str) -> StrBytes {
        StrBytes::from_string(text.to_owned())
    }

    /// In each version that a view answers: the number of parts, and what is refused. Home is `new`, and `moving` is held.
    fn each<R: Request + Encodable, A: Decodable>(
        request: impl Fn(i16) -> R,
        outcomes: impl Fn(A) -> Vec<Refused>,
    ) -> Vec<(i16, usize, Vec<Refused>)> {
        let (parts, leaders) = parts("new", Some(&["orders", "logs"]), Some(&["orders", "payments"]));
        let holds = Holds::default();
        holds.hold(["moving".into()]);
        let api = Api::of(R::KEY).unwrap();
        let (min, max) = api.versions().unwrap();
        let heads = (min.max(R::VERSIONS.min)..=max.min(R::VERSIONS.max)).map(|version| RequestHead { api, version, correlation_id: 0 });
        heads
            .filter(|head| head.is_for_view())
            .map(|head| {
                let mut body = Vec::new();
                request(head.version).encode(&mut body, head.version).unwrap();
                let (placed, answer) = refused(&parts, &leaders, &holds, head, &body, &door()).unwrap();
                (head.version, placed, outcomes(A::decode(&mut answer.as_slice(), head.version).unwrap()))
            })
            .collect()
    }

    fn names_legacy(message: Option<&StrBytes>) -> bool {
        message.is_some_and(|message| message.contains("leads on the cluster legacy") && message.contains("the cluster new"))
    }

    #[test]
    fn a_topic_that_leads_elsewhere_is_made_and_grown_there() {
        let create = |_| {
            let topic =
                |name: &str| CreatableTopic::default().with_name(TopicName(text(name))).with_num_partitions(1).with_replication_factor(1);
            CreateTopicsRequest::default().with_topics(["orders", "payments", "to-come", "logs"].map(topic).into())
        };
        let outcomes = |answer: CreateTopicsResponse| {
            answer.topics.into_iter().map(|topic| (topic.name.to_string(), topic.error_code, topic.error_message)).collect()
        };
        let created = each(create, outcomes);
        assert_eq!(created.len(), 6);
        let grow = |_| {
            let topic = |name: &str| CreatePartitionsTopic::default().with_name(TopicName(text(name))).with_count(9);
            CreatePartitionsRequest::default().with_topics(["orders", "payments", "logs"].map(topic).into())
        };
        let outcomes = |answer: CreatePartitionsResponse| {
            answer.results.into_iter().map(|topic| (topic.name.to_string(), topic.error_code, topic.error_message)).collect()
        };
        let grown = each(grow, outcomes);
        for (of, error) in [(created, TOPIC_ALREADY_EXISTS), (grown, POLICY_VIOLATION)] {
            for (version, placed, refused) in of {
                let names: Vec<_> = refused.iter().map(|(name, code, _)| (name.as_str(), *code)).collect();
                assert_eq!((placed, names), (1, vec![("orders", error), ("logs", error)]), "v{version}");
                assert!(refused.iter().all(|(_, _, message)| names_legacy(message.as_ref())), "v{version}: {refused:?}");
            }
        }
    }

    #[test]
    fn a_topic_that_moves_is_not_changed() {
        let grow = |_| {
            let topic = |name: &str| CreatePartitionsTopic::default().with_name(TopicName(text(name))).with_count(9);
            CreatePartitionsRequest::default().with_topics(["moving", "payments"].map(topic).into())
        };
        let grown = each(grow, |answer: CreatePartitionsResponse| {
            answer.results.into_iter().map(|topic| (topic.name.to_string(), topic.error_code, topic.error_message)).collect()
        });
        assert!(!grown.is_empty());
        for (version, placed, refused) in grown {
            let [(name, code, Some(message))] = &refused[..] else { panic!("v{version}: {refused:?}") };
            assert_eq!((placed, name.as_str(), *code), (1, "moving", POLICY_VIOLATION), "v{version}");
            assert!(message.contains("try again"), "v{version}: {message}");
        }
    }

    #[test]
    fn a_topic_that_leads_elsewhere_is_moved_between_brokers_there() {
        use kafka_protocol::messages::BrokerId;
        use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;

        const TOPICS: [&str; 3] = ["orders", "payments", "logs"];
        /// Of which nobody is asked: the refused partitions of each topic.
        fn refused(partitions: impl Iterator<Item = (TopicName, i32, i16, Option<StrBytes>)>) -> Vec<Refused> {
            partitions.map(|(topic, partition, code, message)| (format!("{}-{partition}", topic.as_str()), code, message)).collect()
        }
        let elect = |_| {
            let topic = |name| TopicPartitions::default().with_topic(TopicName(text(name))).with_partitions(vec![0, 2]);
            ElectLeadersRequest::default().with_topic_partitions(Some(TOPICS.map(topic).into()))
        };
        let elected = each(elect, |answer: ElectLeadersResponse| {
            refused(answer.replica_election_results.into_iter().flat_map(|result| {
                let topic = result.topic;
                let partitions = result.partition_result.into_iter();
                partitions.map(move |partition| (topic.clone(), partition.partition_id, partition.error_code, partition.error_message))
            }))
        });
        let reassign = |_| {
            let partition =
                |index| ReassignablePartition::default().with_partition_index(index).with_replicas(Some(vec![BrokerId(20_000_001)]));
            let topic =
                |name| ReassignableTopic::default().with_name(TopicName(text(name))).with_partitions(vec![partition(0), partition(2)]);
            AlterPartitionReassignmentsRequest::default().with_topics(TOPICS.map(topic).into())
        };
        let reassigned = each(reassign, |answer: AlterPartitionReassignmentsResponse| {
            refused(answer.responses.into_iter().flat_map(|result| {
                let topic = result.name;
                let partitions = result.partitions.into_iter();
                partitions.map(move |partition| (topic.clone(), partition.partition_index, partition.error_code, partition.error_message))
            }))
        });
        assert_eq!((elected.len(), reassigned.len()), (3, 2));
        for (version, placed, refused) in elected.into_iter().chain(reassigned) {
            let names: Vec<_> = refused.iter().map(|(name, code, _)| (name.as_str(), *code)).collect();
            let expected = ["orders-0", "orders-2", "logs-0", "logs-2"].map(|partition| (partition, POLICY_VIOLATION));
            assert_eq!((placed, names), (1, expected.to_vec()), "v{version}");
            assert!(refused.iter().all(|(_, _, message)| names_legacy(message.as_ref())), "v{version}: {refused:?}");
        }
    }

    #[test]
    fn a_topic_that_leads_elsewhere_is_deleted_there_by_name_or_by_id() {
        use crate::relay::topic_ids::virtual_topic_id;
        let delete = |version| {
            let request = DeleteTopicsRequest::default();
            if version < 6 {
                return request.with_topic_names(["orders", "payments", "logs"].map(|name| TopicName(text(name))).into());
            }
            let by_name = ["orders", "payments"].map(|name| DeleteTopicState::default().with_name(Some(TopicName(text(name)))));
            let by_id = ["logs", "nobodys"].map(|name| DeleteTopicState::default().with_topic_id(virtual_topic_id(name)));
            request.with_topics(by_name.into_iter().chain(by_id).collect())
        };
        let outcomes = |answer: DeleteTopicsResponse| {
            let told = |topic: DeletableTopicResult| {
                (topic.name.map(|name| name.to_string()).unwrap_or_default(), topic.error_code, topic.error_message)
            };
            answer.responses.into_iter().map(told).collect()
        };
        let deleted = each(delete, outcomes);
        assert_eq!(deleted.len(), 6);
        for (version, placed, refused) in deleted {
            let names: Vec<_> = refused.iter().map(|(name, code, _)| (name.as_str(), *code)).collect();
            assert_eq!((placed, names), (1, vec![("orders", POLICY_VIOLATION), ("logs", POLICY_VIOLATION)]), "v{version}");
            assert!(refused.iter().all(|(_, _, message)| names_legacy(message.as_ref()) == (version >= 5)), "v{version}: {refused:?}");
        }
    }

    #[test]
    fn settings_are_read_where_they_are_and_those_of_a_topic_changed_where_it_leads() {
        /// Topics that lead here and there, a broker of each cluster, home as a whole.
        const RESOURCES: [(i8, &str); 5] =
            [(TOPIC, "payments"), (TOPIC, "orders"), (BROKER, "20000001"), (BROKER_LOGGER, "10000002"), (BROKER, "")];
        macro_rules! resources {
            ($thing:ty) => {
                RESOURCES.map(|(kind, name)| <$thing>::default().with_resource_type(kind).with_resource_name(text(name))).into()
            };
        }
        macro_rules! outcomes {
            ($answer:ty, $list:ident) => {
                |answer: $answer| {
                    let told = answer.$list.into_iter().map(|one| (one.resource_name.to_string(), one.error_code, one.error_message));
                    told.collect()
                }
            };
        }
        let described = each(
            |_| DescribeConfigsRequest::default().with_resources(resources!(DescribeConfigsResource)),
            outcomes!(DescribeConfigsResponse, results),
        );
        // Any broker of each cluster, and two by their ids.
        assert!(described.iter().all(|(_, placed, refused)| (*placed, refused.len()) == (4, 0)), "{described:?}");
        let altered = each(
            |_| AlterConfigsRequest::default().with_resources(resources!(AlterConfigsResource)),
            outcomes!(AlterConfigsResponse, responses),
        );
        let incrementally = each(
            |_| IncrementalAlterConfigsRequest::default().with_resources(resources!(IncrementalResource)),
            outcomes!(IncrementalAlterConfigsResponse, responses),
        );
        assert_eq!((described.len(), altered.len(), incrementally.len()), (4, 3, 2));
        for (version, placed, refused) in altered.into_iter().chain(incrementally) {
            let [(name, code, message)] = &refused[..] else { panic!("v{version}: {refused:?}") };
            assert_eq!((placed, name.as_str(), *code), (3, "orders", POLICY_VIOLATION), "v{version}");
            assert!(names_legacy(message.as_ref()), "{message:?}");
        }
    }
}
