//! Topics that are created, deleted, grown, altered and described, and the settings of brokers.
//!
//! A topic is made at home, and changed by those whose home leads it. Of a topic that leads elsewhere home has a copy or nothing at all, and what a client
//! changed there would be undone by the mirror or make the copy diverge: so it gets an error that names the cluster. What it reads, it reads there.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource as IncrementalResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, ApiKey, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::leaders::{Leaders, Stance};
use super::{Broker, Door, Parts, View};
use crate::ending::Cause;
use crate::relay::brokers::real_node_id;
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

pub(super) async fn answer(view: &View, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
    let (parts, leaders) = view.fresh().await;
    let asking = Asking { parts: &parts, leaders: &leaders, head, door };
    match head.api.key {
        ApiKey::CreateTopics => asking.answer::<CreateTopicsRequest>(body).await,
        ApiKey::DeleteTopics => asking.answer::<DeleteTopicsRequest>(body).await,
        ApiKey::CreatePartitions => asking.answer::<CreatePartitionsRequest>(body).await,
        ApiKey::DescribeConfigs => asking.answer::<DescribeConfigsRequest>(body).await,
        ApiKey::AlterConfigs => asking.answer::<AlterConfigsRequest>(body).await,
        ApiKey::IncrementalAlterConfigs => asking.answer::<IncrementalAlterConfigsRequest>(body).await,
        other => unreachable!("{other:?} is no request for a view"),
    }
}

/// What becomes of a request, of which nobody is asked: how many parts it has, and the answer to those that are refused.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn refused(parts: &Parts, leaders: &Leaders, head: RequestHead, body: &[u8], door: &Door) -> Result<(usize, Vec<u8>), Cause> {
    let asking = Asking { parts, leaders, head, door };
    match head.api.key {
        ApiKey::CreateTopics => asking.refuse::<CreateTopicsRequest>(body),
        ApiKey::DeleteTopics => asking.refuse::<DeleteTopicsRequest>(body),
        ApiKey::CreatePartitions => asking.refuse::<CreatePartitionsRequest>(body),
        ApiKey::DescribeConfigs => asking.refuse::<DescribeConfigsRequest>(body),
        ApiKey::AlterConfigs => asking.refuse::<AlterConfigsRequest>(body),
        ApiKey::IncrementalAlterConfigs => asking.refuse::<IncrementalAlterConfigsRequest>(body),
        other => unreachable!("{other:?} is no request for a view"),
    }
}

/// A request for several things, of which each has a place and an outcome of its own.
trait Several: Request<Response: Default> + Clone {
    type Thing;
    type Outcome;

    /// Takes them out.
    fn take(&mut self) -> Vec<Self::Thing>;
    /// The same for these.
    fn with(&self, things: Vec<Self::Thing>, version: i16) -> Self;
    fn place(asking: &Asking<'_>, thing: &Self::Thing) -> Place;
    fn refused(asking: &Asking<'_>, thing: Self::Thing, why: StrBytes) -> Self::Outcome;
    fn throttle_time_ms(answer: &mut Self::Response) -> &mut i32;
    fn outcomes(answer: &mut Self::Response) -> &mut Vec<Self::Outcome>;
}

struct Asking<'a> {
    parts: &'a Parts,
    leaders: &'a Leaders,
    head: RequestHead,
    door: &'a Door,
}

impl Asking<'_> {
    async fn answer<R: Several>(&self, body: &[u8]) -> Result<Vec<u8>, Cause> {
        let mut request: R = self.head.decode(self.head.api.request, body)?;
        let (placed, refused) = self.split(&mut request);
        let asked = placed.into_iter().map(|(to, things)| self.ask(to, request.with(things, self.head.version)));
        let mut all = R::Response::default();
        for answer in join_all(asked).await {
            let mut answer = answer?;
            let throttle_time_ms = *R::throttle_time_ms(&mut answer);
            let longest = R::throttle_time_ms(&mut all);
            *longest = throttle_time_ms.max(*longest);
            R::outcomes(&mut all).append(R::outcomes(&mut answer));
        }
        R::outcomes(&mut all).extend(refused);
        self.head.encode(&all)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    fn refuse<R: Several>(&self, body: &[u8]) -> Result<(usize, Vec<u8>), Cause> {
        let mut request: R = self.head.decode(self.head.api.request, body)?;
        let (placed, refused) = self.split(&mut request);
        let parts = placed.len();
        for things in placed.into_values() {
            self.head.encode(&request.with(things, self.head.version))?;
        }
        let mut all = R::Response::default();
        R::outcomes(&mut all).extend(refused);
        Ok((parts, self.head.encode(&all)?))
    }

    fn split<R: Several>(&self, request: &mut R) -> Split<R> {
        let (mut placed, mut refused) = (BTreeMap::<To, Vec<_>>::new(), Vec::new());
        for thing in request.take() {
            match R::place(self, &thing) {
                Ok(to) => placed.entry(to).or_default().push(thing),
                Err(why) => refused.push(R::refused(self, thing, why)),
            }
        }
        (placed, refused)
    }

    async fn ask<R: Request>(&self, (number, to): To, request: R) -> Result<R::Response, Cause> {
        let part = &self.parts.clusters[number];
        part.ask(&part.changes, to, self.head.version, &request, self.door).await
    }

    /// Topics are made and changed at home.
    fn at_home(&self, topic: &str) -> Place {
        let home = &self.parts.home().cluster.name;
        let why = match self.leaders.stance(topic, 0) {
            Stance::Leads => return Ok((0, Broker::Controller)),
            Stance::Follows(leader) => {
                let leader = self.leaders.name(leader);
                format!(
                    "kferry: the topic {topic} leads on the cluster {leader}: make changes there; this client's home is the cluster {home}"
                )
            }
            Stance::HasRenamedCopy => {
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

impl Several for CreateTopicsRequest {
    type Thing = CreatableTopic;
    type Outcome = CreatableTopicResult;

    fn take(&mut self) -> Vec<CreatableTopic> {
        std::mem::take(&mut self.topics)
    }

    fn with(&self, topics: Vec<CreatableTopic>, _: i16) -> Self {
        self.clone().with_topics(topics)
    }

    fn place(asking: &Asking<'_>, topic: &CreatableTopic) -> Place {
        asking.at_home(&topic.name)
    }

    fn refused(_: &Asking<'_>, topic: CreatableTopic, why: StrBytes) -> CreatableTopicResult {
        CreatableTopicResult::default().with_name(topic.name).with_error_code(TOPIC_ALREADY_EXISTS).with_error_message(Some(why))
    }

    fn throttle_time_ms(answer: &mut CreateTopicsResponse) -> &mut i32 {
        &mut answer.throttle_time_ms
    }

    fn outcomes(answer: &mut CreateTopicsResponse) -> &mut Vec<CreatableTopicResult> {
        &mut answer.topics
    }
}

impl Several for DeleteTopicsRequest {
    type Thing = DeleteTopicState;
    type Outcome = DeletableTopicResult;

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

    fn refused(asking: &Asking<'_>, topic: DeleteTopicState, why: StrBytes) -> DeletableTopicResult {
        let name = asking.deleted(&topic).map(|name| TopicName(StrBytes::from_string(name)));
        let refused = DeletableTopicResult::default().with_name(name).with_error_code(POLICY_VIOLATION).with_topic_id(topic.topic_id);
        if asking.head.version >= 5 { refused.with_error_message(Some(why)) } else { refused }
    }

    fn throttle_time_ms(answer: &mut DeleteTopicsResponse) -> &mut i32 {
        &mut answer.throttle_time_ms
    }

    fn outcomes(answer: &mut DeleteTopicsResponse) -> &mut Vec<DeletableTopicResult> {
        &mut answer.responses
    }
}

impl Several for CreatePartitionsRequest {
    type Thing = CreatePartitionsTopic;
    type Outcome = CreatePartitionsTopicResult;

    fn take(&mut self) -> Vec<CreatePartitionsTopic> {
        std::mem::take(&mut self.topics)
    }

    fn with(&self, topics: Vec<CreatePartitionsTopic>, _: i16) -> Self {
        self.clone().with_topics(topics)
    }

    fn place(asking: &Asking<'_>, topic: &CreatePartitionsTopic) -> Place {
        asking.at_home(&topic.name)
    }

    fn refused(_: &Asking<'_>, topic: CreatePartitionsTopic, why: StrBytes) -> CreatePartitionsTopicResult {
        CreatePartitionsTopicResult::default().with_name(topic.name).with_error_code(POLICY_VIOLATION).with_error_message(Some(why))
    }

    fn throttle_time_ms(answer: &mut CreatePartitionsResponse) -> &mut i32 {
        &mut answer.throttle_time_ms
    }

    fn outcomes(answer: &mut CreatePartitionsResponse) -> &mut Vec<CreatePartitionsTopicResult> {
        &mut answer.results
    }
}

/// Requests for the settings of resources, where they are. Those of a topic are changed by whose home leads it.
macro_rules! settings {
    ($request:ty, $response:ty, $thing:ty, $outcome:ty, $outcomes:ident, changes: $changes:literal) => {
        impl Several for $request {
            type Thing = $thing;
            type Outcome = $outcome;

            fn take(&mut self) -> Vec<$thing> {
                std::mem::take(&mut self.resources)
            }

            fn with(&self, resources: Vec<$thing>, _: i16) -> Self {
                self.clone().with_resources(resources)
            }

            fn place(asking: &Asking<'_>, resource: &$thing) -> Place {
                if $changes && resource.resource_type == TOPIC {
                    asking.at_home(&resource.resource_name)?;
                }
                Ok(asking.settings_of(resource.resource_type, &resource.resource_name))
            }

            fn refused(_: &Asking<'_>, resource: $thing, why: StrBytes) -> $outcome {
                <$outcome>::default()
                    .with_error_code(POLICY_VIOLATION)
                    .with_error_message(Some(why))
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name)
            }

            fn throttle_time_ms(answer: &mut $response) -> &mut i32 {
                &mut answer.throttle_time_ms
            }

            fn outcomes(answer: &mut $response) -> &mut Vec<$outcome> {
                &mut answer.$outcomes
            }
        }
    };
}

settings!(DescribeConfigsRequest, DescribeConfigsResponse, DescribeConfigsResource, DescribeConfigsResult, results, changes: false);
settings!(AlterConfigsRequest, AlterConfigsResponse, AlterConfigsResource, AlterConfigsResourceResponse, responses, changes: true);
settings!(
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
    IncrementalResource,
    IncrementalResponse,
    responses,
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

    /// In each version that a view answers: the number of parts, and what is refused. Home is `new`.
    fn each<R: Request + Encodable, A: Decodable>(
        request: impl Fn(i16) -> R,
        outcomes: impl Fn(A) -> Vec<Refused>,
    ) -> Vec<(i16, usize, Vec<Refused>)> {
        let (parts, leaders) = parts("new", Some(&["orders", "logs"]), Some(&["orders", "payments"]));
        let api = Api::of(R::KEY).unwrap();
        let (min, max) = api.versions().unwrap();
        let heads = (min.max(R::VERSIONS.min)..=max.min(R::VERSIONS.max)).map(|version| RequestHead { api, version, correlation_id: 0 });
        heads
            .filter(|head| head.is_for_view())
            .map(|head| {
                let mut body = Vec::new();
                request(head.version).encode(&mut body, head.version).unwrap();
                let (placed, answer) = refused(&parts, &leaders, head, &body, &door()).unwrap();
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
