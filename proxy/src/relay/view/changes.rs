//! Topics that are created, deleted, grown, altered and described, and the settings of brokers.
//!
//! A topic is made at home, and changed by those whose home leads it. Of a topic that leads elsewhere home has a copy or nothing at all, and what a client
//! changed there would be undone by the mirror or make the copy diverge: so it gets an error that names the cluster. What it reads, it reads there.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementallyAltered;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, ApiKey, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

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

pub(super) async fn answer(view: &View, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
    let (parts, leaders) = view.fresh().await;
    let asking = Asking { parts: &parts, leaders: &leaders, head, door };
    match head.api.key {
        ApiKey::CreateTopics => asking.create_topics(head.decode(head.api.request, body)?).await,
        ApiKey::DeleteTopics => asking.delete_topics(head.decode(head.api.request, body)?).await,
        ApiKey::CreatePartitions => asking.create_partitions(head.decode(head.api.request, body)?).await,
        ApiKey::DescribeConfigs => asking.describe_configs(head.decode(head.api.request, body)?).await,
        ApiKey::AlterConfigs => asking.alter_configs(head.decode(head.api.request, body)?).await,
        ApiKey::IncrementalAlterConfigs => asking.incremental_alter_configs(head.decode(head.api.request, body)?).await,
        other => unreachable!("{other:?} is no request for a view"),
    }
}

struct Asking<'a> {
    parts: &'a Parts,
    leaders: &'a Leaders,
    head: RequestHead,
    door: &'a Door,
}

impl Asking<'_> {
    async fn create_topics(&self, mut request: CreateTopicsRequest) -> Result<Vec<u8>, Cause> {
        let mut refused = Vec::new();
        request.topics.retain(|topic| {
            let why = self.why_not(&topic.name);
            refused.extend(why.as_ref().map(|why| {
                let result = CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(TOPIC_ALREADY_EXISTS);
                result.with_error_message(Some(why.clone()))
            }));
            why.is_none()
        });
        let mut answer =
            if request.topics.is_empty() { CreateTopicsResponse::default() } else { self.home(Broker::Controller, &request).await? };
        answer.topics.extend(refused);
        self.head.encode(&answer)
    }

    async fn delete_topics(&self, mut request: DeleteTopicsRequest) -> Result<Vec<u8>, Cause> {
        let mut refused = Vec::new();
        let mut refuse = |name: &str, topic_id: Uuid| {
            let why = self.why_not(name);
            refused.extend(why.as_ref().map(|why| {
                let name = TopicName(StrBytes::from_string(name.to_owned()));
                let result =
                    DeletableTopicResult::default().with_name(Some(name)).with_error_code(POLICY_VIOLATION).with_topic_id(topic_id);
                if self.head.version >= 5 { result.with_error_message(Some(why.clone())) } else { result }
            }));
            why.is_some()
        };
        request.topic_names.retain(|name| !refuse(name, Uuid::nil()));
        request.topics.retain(|topic| {
            let name = topic.name.as_ref().map(|name| name.to_string()).or_else(|| self.parts.name_of(topic.topic_id));
            // What nobody knows by its id is for home to refuse.
            !name.is_some_and(|name| refuse(&name, topic.topic_id))
        });
        let is_all = request.topic_names.is_empty() && request.topics.is_empty();
        let mut answer = if is_all { DeleteTopicsResponse::default() } else { self.home(Broker::Controller, &request).await? };
        answer.responses.extend(refused);
        self.head.encode(&answer)
    }

    async fn create_partitions(&self, mut request: CreatePartitionsRequest) -> Result<Vec<u8>, Cause> {
        let mut refused = Vec::new();
        request.topics.retain(|topic| {
            let why = self.why_not(&topic.name);
            refused.extend(why.as_ref().map(|why| {
                let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone()).with_error_code(POLICY_VIOLATION);
                result.with_error_message(Some(why.clone()))
            }));
            why.is_none()
        });
        let mut answer =
            if request.topics.is_empty() { CreatePartitionsResponse::default() } else { self.home(Broker::Controller, &request).await? };
        answer.results.extend(refused);
        self.head.encode(&answer)
    }

    async fn describe_configs(&self, mut request: DescribeConfigsRequest) -> Result<Vec<u8>, Cause> {
        let mut split: BTreeMap<To, Vec<_>> = BTreeMap::new();
        for resource in std::mem::take(&mut request.resources) {
            split.entry(self.place_of(resource.resource_type, &resource.resource_name)).or_default().push(resource);
        }
        let request = &request;
        let asked = join_all(split.into_iter().map(async |(to, resources)| self.ask(to, &request.clone().with_resources(resources)).await));
        let mut all = DescribeConfigsResponse::default();
        for answer in asked.await {
            let answer: DescribeConfigsResponse = answer?;
            all.throttle_time_ms = all.throttle_time_ms.max(answer.throttle_time_ms);
            all.results.extend(answer.results);
        }
        self.head.encode(&all)
    }

    async fn alter_configs(&self, mut request: AlterConfigsRequest) -> Result<Vec<u8>, Cause> {
        let mut all = AlterConfigsResponse::default();
        let mut split: BTreeMap<To, Vec<_>> = BTreeMap::new();
        for resource in std::mem::take(&mut request.resources) {
            match self.why_not_altered(resource.resource_type, &resource.resource_name) {
                Some(why) => all.responses.push(
                    AlterConfigsResourceResponse::default()
                        .with_error_code(POLICY_VIOLATION)
                        .with_error_message(Some(why))
                        .with_resource_type(resource.resource_type)
                        .with_resource_name(resource.resource_name),
                ),
                None => split.entry(self.place_of(resource.resource_type, &resource.resource_name)).or_default().push(resource),
            }
        }
        for (to, resources) in split {
            let answer: AlterConfigsResponse = self.ask(to, &request.clone().with_resources(resources)).await?;
            all.throttle_time_ms = all.throttle_time_ms.max(answer.throttle_time_ms);
            all.responses.extend(answer.responses);
        }
        self.head.encode(&all)
    }

    async fn incremental_alter_configs(&self, mut request: IncrementalAlterConfigsRequest) -> Result<Vec<u8>, Cause> {
        let mut all = IncrementalAlterConfigsResponse::default();
        let mut split: BTreeMap<To, Vec<_>> = BTreeMap::new();
        for resource in std::mem::take(&mut request.resources) {
            match self.why_not_altered(resource.resource_type, &resource.resource_name) {
                Some(why) => all.responses.push(
                    IncrementallyAltered::default()
                        .with_error_code(POLICY_VIOLATION)
                        .with_error_message(Some(why))
                        .with_resource_type(resource.resource_type)
                        .with_resource_name(resource.resource_name),
                ),
                None => split.entry(self.place_of(resource.resource_type, &resource.resource_name)).or_default().push(resource),
            }
        }
        for (to, resources) in split {
            let answer: IncrementalAlterConfigsResponse = self.ask(to, &request.clone().with_resources(resources)).await?;
            all.throttle_time_ms = all.throttle_time_ms.max(answer.throttle_time_ms);
            all.responses.extend(answer.responses);
        }
        self.head.encode(&all)
    }

    /// Why a topic is not made or changed at home. `None`: it may be.
    fn why_not(&self, topic: &str) -> Option<StrBytes> {
        let home = &self.parts.home().cluster.name;
        let why = match self.leaders.stance(topic, 0) {
            Stance::Leads => return None,
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
        Some(StrBytes::from_string(why))
    }

    fn why_not_altered(&self, resource_type: i8, name: &str) -> Option<StrBytes> {
        (resource_type == TOPIC).then(|| self.why_not(name)).flatten()
    }

    /// Where the settings of a resource are.
    fn place_of(&self, resource_type: i8, name: &str) -> To {
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

    async fn home<R: kafka_protocol::protocol::Request>(&self, to: Broker, request: &R) -> Result<R::Response, Cause> {
        self.ask((0, to), request).await
    }

    async fn ask<R: kafka_protocol::protocol::Request>(&self, (number, to): To, request: &R) -> Result<R::Response, Cause> {
        let part = &self.parts.clusters[number];
        part.ask(&part.changes, to, self.head.version, request, self.door).await
    }
}
