//! Groups that live on another cluster than the one that was asked.

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic};
use kafka_protocol::messages::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
use kafka_protocol::messages::{
    AddOffsetsToTxnResponse, ApiKey, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatResponse, DeleteGroupsResponse,
    DescribeGroupsResponse, GroupId, HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupResponse, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::{Decodable, StrBytes};
use kferry_wire::api::{By, Rewrite};

use super::leaders::Leaders;
use crate::ending::Cause;
use crate::relay::request::RequestHead;

/// Kafka's `NOT_COORDINATOR`
const NOT_COORDINATOR: i16 = 16;
/// Kafka's `GROUP_AUTHORIZATION_FAILED`: of what AddOffsetsToTxn may answer, the one after which every client can abort the transaction.
const GROUP_AUTHORIZATION_FAILED: i16 = 30;

/// The groups that a request is about.
#[derive(Default)]
struct GroupIds(Vec<String>);

impl Rewrite for GroupIds {
    fn group(&mut self, group_id: &str) {
        self.0.push(group_id.to_owned());
    }
}

/// The groups that a request is about.
///
/// # Errors
/// [`Cause::NotRewritten`]: the request is no valid message.
pub(in crate::relay) fn groups_of(head: RequestHead, body: &[u8]) -> Result<Vec<String>, Cause> {
    let By::Group(fields) = head.api.by else { return Ok(Vec::new()) };
    let mut groups = GroupIds::default();
    head.rewrite(fields, body, &mut groups)?;
    Ok(groups.0)
}

/// The body of the answer to a request about `groups`, if one of them lives on another cluster than `at`: its members look for their coordinator again.
/// `None`: the request is for the broker.
///
/// # Errors
/// [`Cause::NotRewritten`]: the request is no valid message.
pub(in crate::relay) fn refusal(
    leaders: &Leaders,
    at: &str,
    groups: &[String],
    head: RequestHead,
    body: &[u8],
) -> Result<Option<Vec<u8>>, Cause> {
    let lives_elsewhere = |group: &String| leaders.lives_elsewhere(group, at);
    if groups.iter().any(lives_elsewhere) { refused(groups, head, body).map(Some) } else { Ok(None) }
}

fn refused(groups: &[String], head: RequestHead, body: &[u8]) -> Result<Vec<u8>, Cause> {
    let ids = || groups.iter().map(|group| GroupId(StrBytes::from_string(group.clone())));
    match head.api.key {
        ApiKey::JoinGroup => head.encode(&JoinGroupResponse::default().with_error_code(NOT_COORDINATOR).with_generation_id(-1)),
        ApiKey::SyncGroup => head.encode(&SyncGroupResponse::default().with_error_code(NOT_COORDINATOR)),
        ApiKey::Heartbeat => head.encode(&HeartbeatResponse::default().with_error_code(NOT_COORDINATOR)),
        ApiKey::LeaveGroup => head.encode(&LeaveGroupResponse::default().with_error_code(NOT_COORDINATOR)),
        ApiKey::OffsetDelete => head.encode(&OffsetDeleteResponse::default().with_error_code(NOT_COORDINATOR)),
        ApiKey::ConsumerGroupHeartbeat => head.encode(&ConsumerGroupHeartbeatResponse::default().with_error_code(NOT_COORDINATOR)),
        ApiKey::AddOffsetsToTxn => head.encode(&AddOffsetsToTxnResponse::default().with_error_code(GROUP_AUTHORIZATION_FAILED)),
        ApiKey::DescribeGroups => {
            let described = |id| DescribedGroup::default().with_group_id(id).with_error_code(NOT_COORDINATOR);
            head.encode(&DescribeGroupsResponse::default().with_groups(ids().map(described).collect()))
        }
        ApiKey::DeleteGroups => {
            let deleted = |id| DeletableGroupResult::default().with_group_id(id).with_error_code(NOT_COORDINATOR);
            head.encode(&DeleteGroupsResponse::default().with_results(ids().map(deleted).collect()))
        }
        ApiKey::ConsumerGroupDescribe => {
            let described = |id| DescribedConsumerGroup::default().with_group_id(id).with_error_code(NOT_COORDINATOR);
            head.encode(&ConsumerGroupDescribeResponse::default().with_groups(ids().map(described).collect()))
        }
        ApiKey::OffsetCommit => refused_commit(head, body, NOT_COORDINATOR),
        ApiKey::TxnOffsetCommit => {
            let request: TxnOffsetCommitRequest = head.decode(head.api.request, body)?;
            let topics = request.topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
                let refused =
                    |index| TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(NOT_COORDINATOR);
                TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions.map(refused).collect())
            });
            head.encode(&TxnOffsetCommitResponse::default().with_topics(topics.collect()))
        }
        ApiKey::OffsetFetch if head.version >= 8 => {
            let fetched = |id| OffsetFetchResponseGroup::default().with_group_id(id).with_error_code(NOT_COORDINATOR);
            head.encode(&OffsetFetchResponse::default().with_groups(ids().map(fetched).collect()))
        }
        ApiKey::OffsetFetch => {
            let By::Group(fields) = head.api.by else { unreachable!("it is a request about groups") };
            let request: OffsetFetchRequest = head.decode(fields, body)?;
            // Before version 2 the partitions alone have errors.
            let topics = request.topics.unwrap_or_default().into_iter().map(|topic| {
                let refused = |index: i32| {
                    let partition = OffsetFetchResponsePartition::default().with_partition_index(index).with_committed_offset(-1);
                    partition.with_error_code(NOT_COORDINATOR)
                };
                let partitions = topic.partition_indexes.into_iter().map(refused).collect();
                OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions)
            });
            let answer = OffsetFetchResponse::default().with_topics(topics.collect());
            head.encode(&if head.version >= 2 { answer.with_error_code(NOT_COORDINATOR) } else { answer })
        }
        other => unreachable!("{other:?} is no request about groups"),
    }
}

/// The body of an answer to OffsetCommit: nothing is committed, for this reason.
///
/// # Errors
/// [`Cause::NotRewritten`]: the request is no valid message.
pub(in crate::relay) fn refused_commit(head: RequestHead, body: &[u8], error_code: i16) -> Result<Vec<u8>, Cause> {
    let request: OffsetCommitRequest = head.decode(head.api.request, body)?;
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        let refused = |index| OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(error_code);
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions.map(refused).collect())
    });
    head.encode(&OffsetCommitResponse::default().with_topics(topics.collect()))
}

/// The body of an answer to ListGroups without the groups that live on another cluster than `at`: what a broker has of them is a mirror's.
///
/// # Errors
/// [`Cause::NotRewritten`]: it is no valid message.
pub(in crate::relay) fn keep_living(leaders: &Leaders, at: &str, head: RequestHead, body: &[u8]) -> Result<Vec<u8>, Cause> {
    let mut answer = ListGroupsResponse::decode(&mut &*body, head.version).map_err(|_| Cause::WrongResponse(head.api.key))?;
    answer.groups.retain(|group| !leaders.lives_elsewhere(&group.group_id, at));
    head.encode(&answer)
}
