//! Which rights a mirror needs and does not have, each as the ACL to add.
//!
//! Of a topic that is there, a broker says what we may do with it. Of one that is not, only a refusal says it: so the request is made, for
//! a partition that no topic can have, or to be validated only. Brokers look at the rights first, and nothing is done.
//!
//! # References
//! - KIP-430 (authorized operations); Kafka's documentation, "Authorization and ACLs", "Protocols"; `KafkaApis`

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeConfigsRequest, EndTxnRequest, GroupId, HeartbeatRequest, IncrementalAlterConfigsRequest, ProduceRequest,
    ProducerId, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};
use kferry_wire::admin::acls::{Operation, allow_command};
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Answers, Client, ClientError, TopicPartition, Topics};
use serde::Serialize;

use kferry_wire::log::fetch::{self, Amount, FetchSession};
use kferry_wire::log::produce;

const DELETE_RECORDS: VersionRange = VersionRange { min: 0, max: 2 };
const DESCRIBE_CONFIGS: VersionRange = VersionRange { min: 1, max: 4 };
const INCREMENTAL_ALTER_CONFIGS: VersionRange = VersionRange { min: 0, max: 1 };
const HEARTBEAT: VersionRange = VersionRange { min: 0, max: 4 };
const END_TXN: VersionRange = VersionRange { min: 0, max: 3 };
/// `ConfigResource.Type`.
const TOPIC: i8 = 2;
/// The number of a partition that no topic has.
const NO_PARTITION: i32 = i32::MAX;
/// The most topics in one request.
const AT_ONCE: usize = 500;
/// What the transactional ids of `copy::holes` begin with.
const TRANSACTIONS: &str = "kferry-mirror-";

/// The operations that a mirror needs on one cluster, by topic.
pub(super) type Needs = BTreeMap<Arc<str>, BTreeSet<Operation>>;

/// Rights that are missing, all of one principal on one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The cluster on which they are missing.
    pub cluster: Arc<str>,
    /// The principal that lacks them, as far as kferry knows it: a broker may map it to another one.
    pub principal: String,
    /// The kind of resource: `topic`, `group` or `cluster`.
    pub resource: &'static str,
    /// The resources' names; none for the cluster.
    pub names: Vec<String>,
    /// The operations that must be allowed, by Kafka's names.
    pub operations: Vec<String>,
    /// What the mirror needs them for.
    pub purpose: &'static str,
    /// A command line that adds the ACLs.
    pub command: String,
}

/// The rights of one principal on one cluster.
pub(super) struct Rights<'c> {
    client: &'c Client,
    principal: String,
}

impl<'c> Rights<'c> {
    /// Connects to the cluster, to know which principal kferry is there.
    ///
    /// # Errors
    /// [`ClientError`] if no broker can be reached.
    pub(super) async fn of(client: &'c Client) -> Result<Self, ClientError> {
        let principal = client.any().await?.principal().to_owned();
        Ok(Self { client, principal })
    }

    /// The rights on topics that are needed and missing; topics that lack the same operations are together.
    ///
    /// # Errors
    /// [`ClientError`] if a broker does not answer; a refusal is none.
    pub(super) async fn missing(&self, needs: &Needs, purpose: &'static str) -> Result<Vec<Missing>, ClientError> {
        let mut missing: BTreeMap<BTreeSet<Operation>, Vec<String>> = BTreeMap::new();
        let names: Vec<&str> = needs.keys().map(|name| &**name).collect();
        let mut unknown = Needs::new();
        // Not at once for their operations: a topic that is not there would be asked for again for seconds.
        let metadata = self.client.metadata(Topics::Named(&names)).await?;
        let (there, not): (Vec<_>, Vec<_>) = metadata.topics.into_iter().partition(|topic| topic.error.is_none());
        let there: Vec<&str> = there.iter().map(|topic| &*topic.name).collect();
        let mut answers = if there.is_empty() { Answers::new() } else { self.client.topic_authorized_operations(&there).await };
        answers.extend(not.into_iter().filter_map(|topic| Some((topic.name, Err(topic.error?)))));
        for (name, answer) in answers {
            let Some(needed) = needs.get(&name) else { continue };
            match answer {
                Ok(allowed) => {
                    let lacking: BTreeSet<_> = needed
                        .iter()
                        .copied()
                        .filter(|operation| *operation != Operation::Create && !allowed.contains(*operation))
                        .collect();
                    if !lacking.is_empty() {
                        missing.entry(lacking).or_default().push(name.to_string());
                    }
                }
                Err(error) if error.is_authorization() || error.is_unknown_topic() => {
                    let mut needed = needed.clone();
                    if !error.is_authorization() {
                        needed.remove(&Operation::Describe);
                    }
                    unknown.insert(name, needed);
                }
                Err(error) => return Err(error),
            }
        }
        let mut refused = Needs::new();
        for operation in
            [Operation::Create, Operation::Read, Operation::Write, Operation::Delete, Operation::DescribeConfigs, Operation::AlterConfigs]
        {
            let asked: Vec<_> = unknown.iter().filter(|(_, needed)| needed.contains(&operation)).map(|(name, _)| name.clone()).collect();
            for asked in asked.chunks(AT_ONCE) {
                for name in self.refused(operation, asked).await? {
                    refused.entry(name).or_default().insert(operation);
                }
            }
        }
        for (name, needed) in &unknown {
            let mut lacking = refused.remove(name).unwrap_or_default();
            if needed.contains(&Operation::Describe) {
                lacking.insert(Operation::Describe);
            }
            if !lacking.is_empty() {
                missing.entry(lacking).or_default().push(name.to_string());
            }
        }
        Ok(missing.into_iter().map(|(operations, names)| self.told("topic", names, &operations, purpose)).collect())
    }

    /// The rights on groups that are needed and missing, whether the groups exist or not; groups that lack the same operations are together.
    ///
    /// # Errors
    /// [`ClientError`] if a broker does not answer; a refusal is none.
    pub(super) async fn missing_of_groups(
        &self,
        groups: &[&str],
        needed: &[Operation],
        purpose: &'static str,
    ) -> Result<Vec<Missing>, ClientError> {
        let mut missing: BTreeMap<BTreeSet<Operation>, Vec<String>> = BTreeMap::new();
        for (group, answer) in self.client.group_authorized_operations(groups).await {
            let lacking: BTreeSet<_> = match answer {
                Ok(allowed) => needed.iter().copied().filter(|operation| !allowed.contains(*operation)).collect(),
                // Who may read may describe; so neither is allowed.
                Err(error) if error.is_authorization() => needed.iter().copied().collect(),
                Err(error) => return Err(error),
            };
            if !lacking.is_empty() {
                missing.entry(lacking).or_default().push(group);
            }
        }
        Ok(missing.into_iter().map(|(operations, names)| self.told("group", names, &operations, purpose)).collect())
    }

    /// Whether offsets of a topic without records can be filled with markers, which need a right on the cluster: `Ok(true)`. `Ok(false)`: with empty
    /// transactions only, slowly. The inner `Err` is the right that is missing for either.
    ///
    /// # Errors
    /// [`ClientError`] if a broker does not answer; a refusal is none.
    pub(super) async fn markers(&self, topic: &str) -> Result<Result<bool, Missing>, ClientError> {
        let allowed = self.client.describe_cluster().await?.authorized_operations;
        if allowed.contains(Operation::Alter) || allowed.contains(Operation::ClusterAction) {
            return Ok(Ok(true));
        }
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(StrBytes::from_string(format!("{TRANSACTIONS}{topic}-0"))))
            .with_producer_id(ProducerId(-1));
        let response = self.ask(&request, END_TXN).await?;
        // Anything else, such as NOT_COORDINATOR, comes after the rights were looked at.
        if response.error_code.err() == Some(ResponseError::TransactionalIdAuthorizationFailed) {
            let purpose = "markers for offsets without records (or, slowly, Write and Describe on the transactional ids kferry-mirror-*)";
            return Ok(Err(self.told("cluster", Vec::new(), &BTreeSet::from([Operation::Alter]), purpose)));
        }
        Ok(Ok(false))
    }

    /// The right that is missing to be a member of a consumer group; `None` if none is.
    ///
    /// # Errors
    /// [`ClientError`] if a broker does not answer; a refusal is none.
    pub(super) async fn group(&self, group: &str, purpose: &'static str) -> Result<Option<Missing>, ClientError> {
        let request = HeartbeatRequest::default().with_group_id(GroupId(StrBytes::from_string(group.to_owned()))).with_generation_id(-1);
        let response = self.ask(&request, HEARTBEAT).await?;
        // Anything else, such as UNKNOWN_MEMBER_ID, comes after the rights were looked at.
        let refused = response.error_code.err() == Some(ResponseError::GroupAuthorizationFailed);
        Ok(refused.then(|| self.told("group", vec![group.to_owned()], &BTreeSet::from([Operation::Read]), purpose)))
    }

    /// For which of these topics, none of which kferry sees, an operation is refused.
    async fn refused(&self, operation: Operation, topics: &[Arc<str>]) -> Result<Vec<Arc<str>>, ClientError> {
        let name = |topic: &Arc<str>| TopicName(StrBytes::from_string(topic.to_string()));
        let denied = |code: i16| ResponseError::try_from_code(code) == Some(ResponseError::TopicAuthorizationFailed);
        match operation {
            Operation::Create => {
                let new = |topic: &Arc<str>| NewTopic {
                    name: topic.to_string(),
                    partitions: NewPartitions::Count { partitions: Some(1), replication_factor: Some(1) },
                    configs: Vec::new(),
                };
                let topics: Vec<_> = topics.iter().map(new).collect();
                let answers = self.client.create_topics(&topics, true).await;
                refusals(answers.into_iter().map(|(topic, answer)| (Arc::from(topic), answer.map(drop))).collect())
            }
            Operation::DescribeConfigs => {
                let resource = |topic: &Arc<str>| {
                    let key = StrBytes::from_static_str("cleanup.policy");
                    DescribeConfigsResource::default()
                        .with_resource_type(TOPIC)
                        .with_resource_name(name(topic).0)
                        .with_configuration_keys(Some(vec![key]))
                };
                let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
                let response = self.ask(&request, DESCRIBE_CONFIGS).await?;
                let refused = response.results.iter().filter(|topic| denied(topic.error_code));
                Ok(refused.map(|topic| Arc::from(topic.resource_name.as_str())).collect())
            }
            Operation::AlterConfigs => {
                let resource =
                    |topic: &Arc<str>| AlterConfigsResource::default().with_resource_type(TOPIC).with_resource_name(name(topic).0);
                let resources = topics.iter().map(resource).collect();
                let request = IncrementalAlterConfigsRequest::default().with_resources(resources).with_validate_only(true);
                let response = self.ask(&request, INCREMENTAL_ALTER_CONFIGS).await?;
                let refused = response.responses.iter().filter(|topic| denied(topic.error_code));
                Ok(refused.map(|topic| Arc::from(topic.resource_name.as_str())).collect())
            }
            Operation::Read => {
                let wanted: HashMap<_, _> = topics.iter().map(|topic| (TopicPartition::new(topic.clone(), NO_PARTITION), 0)).collect();
                let amount = Amount { max_wait_ms: 0, max_bytes: 1, partition_max_bytes: 1 };
                let mut session = FetchSession::default();
                let request = session.request(wanted, amount).with_session_epoch(-1);
                let response = self.ask(&request, fetch::VERSIONS).await?;
                let fetched = session.take_in(response).unwrap_or_default().into_iter();
                Ok(fetched
                    .filter(|fetched| fetched.error == Some(ResponseError::TopicAuthorizationFailed))
                    .map(|fetched| fetched.partition.topic)
                    .collect())
            }
            Operation::Write => {
                let data = |topic: &Arc<str>| {
                    let partition = PartitionProduceData::default().with_index(NO_PARTITION);
                    TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![partition])
                };
                let request =
                    ProduceRequest::default().with_acks(1).with_timeout_ms(1_000).with_topic_data(topics.iter().map(data).collect());
                let response = self.ask(&request, produce::VERSIONS).await?;
                let refused = response
                    .responses
                    .iter()
                    .filter(|topic| topic.partition_responses.iter().any(|partition| denied(partition.error_code)));
                Ok(refused.map(|topic| Arc::from(topic.name.as_str())).collect())
            }
            _ => {
                let topic = |topic: &Arc<str>| {
                    let partition = DeleteRecordsPartition::default().with_partition_index(NO_PARTITION).with_offset(0);
                    DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition])
                };
                let request = DeleteRecordsRequest::default().with_timeout_ms(1_000).with_topics(topics.iter().map(topic).collect());
                let response = self.ask(&request, DELETE_RECORDS).await?;
                let refused = response.topics.iter().filter(|topic| topic.partitions.iter().any(|partition| denied(partition.error_code)));
                Ok(refused.map(|topic| Arc::from(topic.name.as_str())).collect())
            }
        }
    }

    /// Sends a request to any broker: each can refuse it.
    async fn ask<R: Request>(&self, request: &R, versions: VersionRange) -> Result<R::Response, ClientError> {
        let broker = self.client.any().await?;
        let failed = |source| ClientError::Request { cluster: self.client.cluster().name.clone(), source };
        let version = broker.version_for::<R>(versions).map_err(failed)?;
        broker.request(request, version).await.map_err(failed)
    }

    /// The rights that are missing on some resources of one kind, with the command that adds them.
    fn told(&self, resource: &'static str, names: Vec<String>, operations: &BTreeSet<Operation>, purpose: &'static str) -> Missing {
        let cluster = self.client.cluster();
        let operations: Vec<_> = operations.iter().map(ToString::to_string).collect();
        let command = allow_command(cluster, &self.principal, &operations, resource, &names);
        Missing { cluster: cluster.name.clone(), principal: self.principal.clone(), resource, names, operations, purpose, command }
    }
}

/// The topics whose request was refused. That a topic does not exist, or anything else that is said of it, comes after the rights.
fn refusals(answers: Answers<Arc<str>, ()>) -> Result<Vec<Arc<str>>, ClientError> {
    let mut refused = Vec::new();
    for (topic, answer) in answers {
        match answer {
            Err(error) if error.is_authorization() => refused.push(topic),
            Err(error) if error.code().is_none() => return Err(error),
            _ => {}
        }
    }
    Ok(refused)
}
