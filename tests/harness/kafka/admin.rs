//! A look inside, and topics, groups and ACLs: one connection a question, through the PLAINTEXT listener.
//!
//! By hand over the `kafka-protocol` crate: librdkafka's admin client lacks ACLs, offsets of groups and the in-sync replicas by broker, Kafka's
//! own tools cost seconds a call, and kferry's own connections would test themselves. Every version asked for is one that Kafka 2.8
//! and 4.x both know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::{
    BrokerId, CreateAclsRequest, CreateTopicsRequest, CreateTopicsResponse, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeAclsRequest, DescribeConfigsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion, Request, StrBytes};

use super::{Cluster, Listener, Node, wait_for};
use crate::LIMIT;

/// A broker that is not in sync.
pub(super) struct Behind {
    seen_by: i32,
    node_id: i32,
    /// The first partition where it is so.
    partition: String,
    pub(super) leader: i32,
    isr: Vec<i32>,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen_by, node_id, partition, leader, isr } = self;
        write!(
            f,
            "node {seen_by} doesn't see node {node_id} in sync in {partition}, of which {leader} is the leader and {isr:?} are in sync"
        )
    }
}

const METADATA: i16 = 9;
const CREATE_TOPICS: i16 = 5;
const DELETE_TOPICS: i16 = 4;
const DELETE_RECORDS: i16 = 1;
const LIST_OFFSETS: i16 = 5;
const FIND_COORDINATOR: i16 = 3;
const OFFSET_FETCH: i16 = 7;
const OFFSET_COMMIT: i16 = 7;
const OFFSET_DELETE: i16 = 0;
const HEARTBEAT: i16 = 1;
/// More rebalances than any test has.
const MAX_GENERATION: i32 = 200;
const DELETE_GROUPS: i16 = 2;
const DESCRIBE_GROUPS: i16 = 5;
const CREATE_ACLS: i16 = 2;
const DESCRIBE_ACLS: i16 = 2;
const DESCRIBE_CONFIGS: i16 = 2;
const INCREMENTAL_ALTER_CONFIGS: i16 = 1;

/// `ConfigResource.Type.TOPIC`
const TOPIC: i8 = 2;
/// `DescribeConfigsResponse.ConfigSource.TOPIC_CONFIG`
const OF_THE_TOPIC: i8 = 1;
/// `AlterConfigOp.OpType`
const SET: i8 = 0;
const DELETE: i8 = 1;

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Who has a partition. Node ids; a leader of -1 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The leader's node id.
    pub leader: i32,
    /// `leader_epoch`.
    pub leader_epoch: i32,
    /// All replicas.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub isr: Vec<i32>,
}

/// A consumer group of the classic protocol, as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `Empty`, `Dead`, …
    pub state: String,
    /// The members' `client_id`s, sorted.
    pub client_ids: Vec<String>,
    /// The members' ids, sorted.
    pub member_ids: Vec<String>,
}

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The next offset that it will read.
    pub offset: i64,
    /// Of the record before it; -1 is none.
    pub leader_epoch: i32,
    /// Whatever the consumer wrote beside it.
    pub metadata: String,
}

impl Commit {
    /// An offset and nothing else.
    pub fn at(offset: i64) -> Self {
        Self { offset, leader_epoch: -1, metadata: String::new() }
    }
}

/// What an ACL is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A topic; `*` is all.
    Topic(String),
    /// All topics whose name begins so.
    TopicPrefix(String),
    /// A consumer group; `*` is all.
    Group(String),
    /// All groups whose name begins so.
    GroupPrefix(String),
    /// A transactional id; `*` is all.
    TransactionalId(String),
    /// The cluster itself.
    Cluster,
}

/// What an ACL allows or denies; the numbers are the wire's (`AclOperation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "Kafka's own words")]
pub enum Operation {
    All = 2,
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Alter = 7,
    Describe = 8,
    ClusterAction = 9,
    DescribeConfigs = 10,
    AlterConfigs = 11,
    IdempotentWrite = 12,
}

/// A rule for a user, from any host or from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    user: String,
    host: String,
    operation: Operation,
    resource: Resource,
    allow: bool,
}

impl Acl {
    /// `user` may.
    pub fn allow(user: &str, operation: Operation, resource: Resource) -> Self {
        Self { user: user.to_owned(), host: "*".to_owned(), operation, resource, allow: true }
    }

    /// `user` may not, whatever else allows it.
    pub fn deny(user: &str, operation: Operation, resource: Resource) -> Self {
        Self { user: user.to_owned(), host: "*".to_owned(), operation, resource, allow: false }
    }

    /// Only from this address.
    #[must_use]
    pub fn from_host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    fn creation(&self) -> AclCreation {
        const LITERAL: i8 = 3;
        const PREFIXED: i8 = 4;
        let (resource_type, name, pattern) = match &self.resource {
            Resource::Topic(name) => (2, name.as_str(), LITERAL),
            Resource::TopicPrefix(name) => (2, name.as_str(), PREFIXED),
            Resource::Group(name) => (3, name.as_str(), LITERAL),
            Resource::GroupPrefix(name) => (3, name.as_str(), PREFIXED),
            Resource::Cluster => (4, "kafka-cluster", LITERAL),
            Resource::TransactionalId(name) => (5, name.as_str(), LITERAL),
        };
        AclCreation::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_resource_pattern_type(pattern)
            .with_principal(text(&format!("User:{}", self.user)))
            .with_host(text(&self.host))
            .with_operation(self.operation as i8)
            .with_permission_type(if self.allow { 3 } else { 2 })
    }
}

impl Cluster {
    /// Creates a topic with the cluster's replication factor (all brokers, at most 3); `config` is the topic's settings. Returns when every
    /// broker that runs knows a leader for each partition.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        let configs = config.iter().map(|&(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            // The broker's default (KIP-464).
            .with_replication_factor(-1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        // A broker that forwards it to a controller that goes away meanwhile forwards it again: the topic may have been made by then.
        let is_known = self.metadata_of_any()?.topics.iter().any(|topic| topic.name.as_ref().is_some_and(|known| known.as_str() == name));
        let code = |response: &CreateTopicsResponse| match response.topics.first().map_or(0, |topic| topic.error_code) {
            code if code == ResponseError::TopicAlreadyExists.code() && !is_known => 0,
            code => code,
        };
        self.ask_controller(CREATE_TOPICS, &request, code).with_context(|| format!("topic {name} can't be created"))?;
        self.await_that(|cluster| {
            for node in cluster.answering_nodes() {
                let known = metadata(node)?;
                let topic = known.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|known| known.as_str() == name));
                let led = topic.map_or(0, |topic| topic.partitions.iter().filter(|partition| partition.leader_id.0 >= 0).count());
                if led != partitions as usize {
                    return Ok(Some(format!("node {} knows leaders of {led} of {partitions} partitions of {name}", node.id)));
                }
            }
            Ok(None)
        })
    }

    /// Deletes a topic; returns when no broker that runs knows it.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(30_000);
        // A broker that forwards it to a controller that goes away meanwhile forwards it again: the topic is gone then.
        let code = |response: &DeleteTopicsResponse| match response.responses.first().map_or(0, |topic| topic.error_code) {
            code if code == ResponseError::UnknownTopicOrPartition.code() => 0,
            code => code,
        };
        self.ask_controller(DELETE_TOPICS, &request, code).with_context(|| format!("topic {name} can't be deleted"))?;
        self.await_that(|cluster| {
            for node in cluster.answering_nodes() {
                if metadata(node)?.topics.iter().any(|topic| topic.name.as_ref().is_some_and(|known| known.as_str() == name)) {
                    return Ok(Some(format!("node {} still knows {name}", node.id)));
                }
            }
            Ok(None)
        })
    }

    /// The settings that a topic has of its own.
    pub fn topic_settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        settings_of(self.answering_nodes().next().context("no broker of the cluster runs")?, topic)
    }

    /// Sets some of a topic's settings, and takes others back to the cluster's; returns when every broker that runs has them so.
    pub fn alter_topic(&self, topic: &str, set: &[(&str, &str)], delete: &[&str]) -> Result<()> {
        let set = set.iter().map(|&(key, value)| (key, Some(value)));
        let changes: Vec<_> = set.chain(delete.iter().map(|&key| (key, None))).collect();
        let configs = changes.iter().map(|&(key, value)| {
            let config = AlterableConfig::default().with_name(text(key)).with_value(value.map(text));
            config.with_config_operation(if value.is_some() { SET } else { DELETE })
        });
        let resource = AlterConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(topic));
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(configs.collect())]);
        self.ask_controller(INCREMENTAL_ALTER_CONFIGS, &request, |response| response.responses.first().map_or(0, |topic| topic.error_code))
            .with_context(|| format!("{topic}: {changes:?} can't be set"))?;
        self.await_that(|cluster| {
            for node in cluster.answering_nodes() {
                let is = settings_of(node, topic)?;
                if let Some((key, _)) = changes.iter().find(|(key, value)| is.get(*key).map(String::as_str) != *value) {
                    return Ok(Some(format!("node {} has {key} = {:?} for {topic}", node.id, is.get(*key))));
                }
            }
            Ok(None)
        })
    }

    /// The names of all topics but the internal ones, sorted.
    pub fn list_topics(&self) -> Result<Vec<String>> {
        let topics = self.metadata_of_any()?.topics.into_iter().filter(|topic| !topic.is_internal);
        let names: BTreeSet<_> = topics.filter_map(|topic| Some(topic.name?.to_string())).collect();
        Ok(names.into_iter().collect())
    }

    /// The partitions of a topic, by number.
    pub fn partitions(&self, topic: &str) -> Result<Vec<Partition>> {
        let known = self.metadata_of_any()?;
        let found = known.topics.iter().find(|known| known.name.as_ref().is_some_and(|name| name.as_str() == topic));
        let mut partitions: Vec<_> = found.with_context(|| format!("there is no topic {topic}"))?.partitions.iter().collect();
        partitions.sort_by_key(|partition| partition.partition_index);
        let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
        let partition = partitions.into_iter().map(|partition| Partition {
            leader: partition.leader_id.0,
            leader_epoch: partition.leader_epoch,
            replicas: ids(&partition.replica_nodes),
            isr: ids(&partition.isr_nodes),
        });
        Ok(partition.collect())
    }

    /// The log start offset of each partition.
    pub fn log_starts(&self, topic: &str) -> Result<Vec<i64>> {
        self.list_offsets(topic, EARLIEST)
    }

    /// The log end offset (high watermark) of each partition. Markers of transactions count, so it isn't the number of records.
    pub fn log_ends(&self, topic: &str) -> Result<Vec<i64>> {
        self.list_offsets(topic, LATEST)
    }

    /// Removes a partition's records before an offset, which becomes its log start.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let leader =
            self.partitions(topic)?.get(partition as usize).with_context(|| format!("{topic} has no partition {partition}"))?.leader;
        let asked = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
        let asked = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request = DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(30_000);
        let response = ask(self.node(leader)?, DELETE_RECORDS, &request)?;
        let answer =
            response.topics.first().and_then(|topic| topic.partitions.first()).context("an answer without the partition asked for")?;
        check(answer.error_code).with_context(|| format!("records of {topic}-{partition} can't be deleted"))
    }

    fn list_offsets(&self, topic: &str, timestamp: i64) -> Result<Vec<i64>> {
        // Leaders change: whoever isn't one any more says so, and the next look finds the new one.
        let offsets = wait_for(LIMIT, || {
            let partitions = self.partitions(topic)?;
            let offset =
                partitions.iter().enumerate().map(|(index, partition)| self.list_offset(topic, index as i32, partition.leader, timestamp));
            Ok(offset.collect::<Result<Vec<_>>>().map_err(|error| format!("{error:#}")))
        });
        offsets.with_context(|| format!("the offsets of {topic} can't be listed"))
    }

    fn list_offset(&self, topic: &str, partition: i32, leader: i32, timestamp: i64) -> Result<i64> {
        let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp).with_current_leader_epoch(-1);
        let asked = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
        let response = ask(self.node(leader)?, LIST_OFFSETS, &request)?;
        let answer =
            response.topics.first().and_then(|topic| topic.partitions.first()).context("an answer without the partition asked for")?;
        check(answer.error_code).with_context(|| format!("partition {partition} at node {leader}"))?;
        Ok(answer.offset)
    }

    /// A group of the classic protocol, as its coordinator sees it.
    pub fn group(&self, group: &str) -> Result<Group> {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let described =
            self.ask_coordinator(group, DESCRIBE_GROUPS, &request, |response| response.groups.first().map_or(0, |group| group.error_code))?;
        let described = described.groups.into_iter().next().context("an answer without the group asked for")?;
        let mut client_ids: Vec<_> = described.members.iter().map(|member| member.client_id.to_string()).collect();
        client_ids.sort();
        let mut member_ids: Vec<_> = described.members.iter().map(|member| member.member_id.to_string()).collect();
        member_ids.sort();
        Ok(Group { state: described.group_state.to_string(), client_ids, member_ids })
    }

    /// The generation of a group of the classic protocol with these members. Brokers tell it members alone, so it is tried as one of them.
    pub fn generation(&self, group: &str, members: &[String]) -> Result<i32> {
        let Some(member) = members.first() else { return Ok(0) };
        let request = HeartbeatRequest::default().with_group_id(GroupId(text(group))).with_member_id(text(member));
        for generation in 0..MAX_GENERATION {
            let heartbeat = request.clone().with_generation_id(generation);
            let is_it = |code: i16| code != ResponseError::IllegalGeneration.code();
            let answer = self.ask_coordinator(group, HEARTBEAT, &heartbeat, |response| {
                let code = response.error_code;
                if is_it(code) && code != ResponseError::RebalanceInProgress.code() { code } else { 0 }
            })?;
            if is_it(answer.error_code) {
                return Ok(generation);
            }
        }
        bail!("group {group} has none below {MAX_GENERATION}")
    }

    /// The broker that coordinates a group.
    pub fn coordinator(&self, group: &str) -> Result<i32> {
        let node = self.answering_nodes().next().context("no broker of the cluster runs")?;
        let found = ask(node, FIND_COORDINATOR, &FindCoordinatorRequest::default().with_key(text(group)))?;
        check(found.error_code)?;
        Ok(found.node_id.0)
    }

    /// The offsets that a group committed, by topic and partition.
    pub fn committed_offsets(&self, group: &str) -> Result<BTreeMap<(String, i32), i64>> {
        Ok(self.commits(group)?.into_iter().map(|(partition, commit)| (partition, commit.offset)).collect())
    }

    /// What a group committed, by topic and partition.
    pub fn commits(&self, group: &str) -> Result<BTreeMap<(String, i32), Commit>> {
        let request = OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(None);
        let response = self.ask_coordinator(group, OFFSET_FETCH, &request, |response| response.error_code)?;
        let mut commits = BTreeMap::new();
        for topic in response.topics {
            for partition in topic.partitions {
                check(partition.error_code)?;
                if partition.committed_offset >= 0 {
                    let commit = Commit {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition.metadata.map(|metadata| metadata.to_string()).unwrap_or_default(),
                    };
                    commits.insert((topic.name.to_string(), partition.partition_index), commit);
                }
            }
        }
        Ok(commits)
    }

    /// Commits for a group that has no members, as a consumer does that assigns its partitions itself.
    pub fn commit(&self, group: &str, topic: &str, commits: impl IntoIterator<Item = (i32, Commit)>) -> Result<()> {
        let partitions = commits.into_iter().map(|(partition, commit)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(commit.offset)
                .with_committed_leader_epoch(commit.leader_epoch)
                .with_committed_metadata(Some(text(&commit.metadata)))
        });
        let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![topic]);
        let code = |response: &OffsetCommitResponse| {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).find(|code| *code != 0).unwrap_or(0)
        };
        self.ask_coordinator(group, OFFSET_COMMIT, &request, code).map(drop)
    }

    /// Deletes what a group has committed for a partition, while it has no members.
    pub fn delete_offset(&self, group: &str, topic: &str, partition: i32) -> Result<()> {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(partition);
        let topic = OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
        let request = OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![topic]);
        let code = |response: &OffsetDeleteResponse| {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).find(|code| *code != 0).unwrap_or(response.error_code)
        };
        self.ask_coordinator(group, OFFSET_DELETE, &request, code).map(drop)
    }

    /// Deletes a group that has no members.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
        self.ask_coordinator(group, DELETE_GROUPS, &request, |response| response.results.first().map_or(0, |group| group.error_code))
            .map(drop)
    }

    /// Adds rules; the cluster must have been started with `acls()`. Returns when every broker that runs goes by them.
    pub fn add_acls(&self, acls: &[Acl]) -> Result<()> {
        ensure!(self.spec.acls, "the cluster has no ACLs: add `.acls()`");
        let creations: Vec<_> = acls.iter().map(Acl::creation).collect();
        let request = CreateAclsRequest::default().with_creations(creations.clone());
        self.ask_controller(CREATE_ACLS, &request, |response| {
            response.results.iter().map(|result| result.error_code).find(|&code| code != 0).unwrap_or(0)
        })
        .context("the ACLs can't be added")?;
        self.await_that(|cluster| {
            for node in cluster.answering_nodes() {
                for (acl, creation) in acls.iter().zip(&creations) {
                    if !knows_acl(node, creation)? {
                        return Ok(Some(format!("node {} doesn't know {acl:?}", node.id)));
                    }
                }
            }
            Ok(None)
        })
    }

    /// What speaks against the cluster being usable.
    pub(super) fn why_not_ready(&self) -> Option<String> {
        let expected: Vec<_> = self.answering_nodes().map(|node| node.id).collect();
        for node in self.answering_nodes() {
            // Short: on a port that was lost to another program, somebody may listen who never answers.
            let known = match ask_within(Duration::from_secs(3), node, METADATA, &all_topics()) {
                Ok(known) => known,
                Err(error) => return Some(format!("node {} doesn't answer: {error:#}", node.id)),
            };
            if let Some(missing) = expected.iter().find(|id| !known.brokers.iter().any(|broker| broker.node_id.0 == **id)) {
                return Some(format!("node {} doesn't know node {missing}", node.id));
            }
            if known.controller_id.0 < 0 {
                return Some(format!("node {} knows no controller", node.id));
            }
        }
        None
    }

    /// What speaks against a node having caught up with all of its partitions.
    pub(super) fn why_not_in_sync(&self, node_id: i32) -> Result<Option<Behind>> {
        let id = BrokerId(node_id);
        for node in self.answering_nodes() {
            for topic in metadata(node)?.topics {
                let behind = topic.partitions.iter().find(|partition| {
                    partition.replica_nodes.contains(&id) && (partition.leader_id.0 < 0 || !partition.isr_nodes.contains(&id))
                });
                if let Some(partition) = behind {
                    let name = topic.name.as_ref().map_or("?", |name| name.as_str());
                    return Ok(Some(Behind {
                        seen_by: node.id,
                        node_id,
                        partition: format!("{name}-{}", partition.partition_index),
                        leader: partition.leader_id.0,
                        isr: partition.isr_nodes.iter().map(|id| id.0).collect(),
                    }));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn metadata_of_any(&self) -> Result<MetadataResponse> {
        metadata(self.answering_nodes().next().context("no broker of the cluster runs")?)
    }

    fn answering_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.should_answer())
    }

    /// Asks the controller; `code` finds the error in the answer. With KRaft any broker is named as controller, and forwards.
    fn ask_controller<R: Request>(&self, version: i16, request: &R, code: impl Fn(&R::Response) -> i16) -> Result<R::Response> {
        self.ask_until(version, request, code, &[ResponseError::NotController], || Ok(self.metadata_of_any()?.controller_id.0))
    }

    fn ask_coordinator<R: Request>(
        &self,
        group: &str,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let moving = [ResponseError::NotCoordinator, ResponseError::CoordinatorNotAvailable, ResponseError::CoordinatorLoadInProgress];
        let asked = self.ask_until(version, request, code, &moving, || {
            let node = self.answering_nodes().next().context("no broker of the cluster runs")?;
            let found = ask(node, FIND_COORDINATOR, &FindCoordinatorRequest::default().with_key(text(group)))?;
            Ok(found.node_id.0)
        });
        asked.with_context(|| format!("group {group}"))
    }

    /// Asks the node that `find` names, again while that is no running broker or answers that it's one of `moving`.
    fn ask_until<R: Request>(
        &self,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
        moving: &[ResponseError],
        find: impl Fn() -> Result<i32>,
    ) -> Result<R::Response> {
        wait_for(LIMIT, || {
            let id = find()?;
            let Some(node) = self.answering_nodes().find(|node| node.id == id) else {
                return Ok(Err(format!("node {id} is named, which doesn't run")));
            };
            let response = ask(node, version, request)?;
            match ResponseError::try_from_code(code(&response)) {
                None => Ok(Ok(response)),
                Some(error) if moving.contains(&error) => Ok(Err(format!("node {id}: {error}"))),
                Some(error) => Err(error).context(format!("node {id} refused")),
            }
        })
    }
}

fn knows_acl(node: &Node, acl: &AclCreation) -> Result<bool> {
    let filter = DescribeAclsRequest::default()
        .with_resource_type_filter(acl.resource_type)
        .with_resource_name_filter(Some(acl.resource_name.clone()))
        .with_pattern_type_filter(acl.resource_pattern_type)
        .with_principal_filter(Some(acl.principal.clone()))
        .with_host_filter(Some(acl.host.clone()))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission_type);
    let known = ask(node, DESCRIBE_ACLS, &filter)?;
    check(known.error_code)?;
    Ok(!known.resources.is_empty())
}

fn settings_of(node: &Node, topic: &str) -> Result<BTreeMap<String, String>> {
    let resource = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(topic));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource.with_configuration_keys(None)]);
    let described = ask(node, DESCRIBE_CONFIGS, &request)?;
    let topic = described.results.into_iter().next().context("an answer without the topic")?;
    check(topic.error_code)?;
    let own = topic.configs.into_iter().filter(|config| config.config_source == OF_THE_TOPIC);
    Ok(own.map(|config| (config.name.to_string(), config.value.unwrap_or_default().to_string())).collect())
}

fn metadata(node: &Node) -> Result<MetadataResponse> {
    ask(node, METADATA, &all_topics())
}

fn all_topics() -> MetadataRequest {
    MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false)
}

pub(super) fn ask<R: Request>(node: &Node, version: i16, request: &R) -> Result<R::Response> {
    // Longer than the 30 s that a controller may take for a topic.
    ask_within(Duration::from_secs(40), node, version, request)
}

/// One request on a connection of its own.
fn ask_within<R: Request>(limit: Duration, node: &Node, version: i16, request: &R) -> Result<R::Response> {
    let address = node.address(Listener::Plaintext)?;
    let mut stream = TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(limit))?;

    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(text("harness")));
    header.encode(&mut frame, R::header_version(version))?;
    request.encode(&mut frame, version)?;
    let size = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    stream.write_all(&frame)?;

    let mut size = [0; 4];
    stream.read_exact(&mut size).context("no answer")?;
    let size = i32::from_be_bytes(size);
    ensure!((4..64 << 20).contains(&size), "an answer of {size} bytes");
    let mut answer = vec![0; size as usize];
    stream.read_exact(&mut answer).context("half an answer")?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
    R::Response::decode(&mut answer, version)
}

fn check(code: i16) -> Result<()> {
    ResponseError::try_from_code(code).map_or(Ok(()), |error| Err(error.into()))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}
