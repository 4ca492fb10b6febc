//! Messages of kafka-protocol, rewritten, against the same change made on its structures.

mod by_hand;
mod groups;
mod messages;
mod pieces;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AlterConfigsRequest, AlterConfigsResponse, AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse, BrokerId, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    ElectLeadersRequest, FetchRequest, FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse, MetadataRequest, MetadataResponse, OffsetCommitRequest, OffsetFetchResponse, ProduceRequest,
    ProduceResponse, TopicName, TxnOffsetCommitRequest, WriteTxnMarkersRequest, WriteTxnMarkersResponse, describe_configs_response,
};
use kafka_protocol::protocol::{Decodable, Encodable, Message, StrBytes};
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use super::*;
use messages::Dice;
use pieces::Schema;

/// A world in which every change can be seen, and seen to be made once, in the order of the message.
#[derive(Debug, Default)]
struct Shifted {
    /// Of the name of the topic that came last.
    topic_len: usize,
}

/// The one node that [`Shifted`] has no counterpart for.
const NOBODY: i32 = 666;

impl Rewrite for Shifted {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        if node_id == NOBODY { Err(Unmapped(node_id)) } else { Ok(node_id.wrapping_add(1_000_000)) }
    }

    fn replica_id(&mut self, node_id: i32) -> i32 {
        if node_id == NOBODY { i32::MAX } else { node_id.wrapping_add(1_000_000) }
    }

    fn address(&mut self, node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped> {
        Ok((format!("{host}@{node_id}"), (port as u16).wrapping_add(1)))
    }

    fn error_message(&mut self, message: &str) -> Option<String> {
        message.contains('ż').then(|| message.replace('ż', "n"))
    }

    fn cluster_id(&mut self, cluster_id: &str) -> String {
        format!("not-{cluster_id}")
    }

    fn producer_id(&mut self, producer_id: i64) -> i64 {
        producer_id.wrapping_add(7 << 40)
    }

    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        other_topic(topic_id, 7)
    }

    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid {
        other_topic(topic_id, name.map_or(1 << 100, |name| 1_000 + name.len() as u128))
    }

    fn topic(&mut self, name: &str) {
        self.topic_len = name.len();
    }

    fn partition(&mut self, partition: i32) -> i32 {
        partition.wrapping_add(1_000_000 + self.topic_len as i32)
    }

    fn partition_error(&mut self, error_code: i16) -> i16 {
        error_code.wrapping_add(100)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Request,
    Response,
}

impl Side {
    /// The schema of the row, or of what streams.
    fn fields(self, api: &Api) -> &'static [Field] {
        match (self, api.key) {
            (Self::Request, ApiKey::Produce) => PRODUCE_REQUEST,
            (Self::Response, ApiKey::Produce) => PRODUCE_RESPONSE,
            (Self::Response, ApiKey::Fetch) => FETCH_RESPONSE,
            (Self::Request, _) => api.request,
            (Self::Response, _) => api.response,
        }
    }
}

/// A message and what is to become of it.
trait Example: Message + Encodable + Decodable + Clone + PartialEq + Debug {
    fn throw(dice: &mut Dice) -> Self;
    fn change(&mut self, version: i16);
}

impl Example for ProduceRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::produce_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topic_data {
            topic.partition_data.iter_mut().for_each(|partition| move_partition(&topic.name, &mut partition.index));
        }
    }
}

impl Example for ProduceResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::produce_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.responses {
            for partition in &mut topic.partition_responses {
                move_partition(&topic.name, &mut partition.index);
                partition.error_code += 100;
            }
        }
    }
}

impl Example for FetchResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::fetch_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.responses {
            for partition in &mut topic.partitions {
                move_partition(&topic.topic, &mut partition.partition_index);
                partition.error_code += 100;
                move_id(&mut partition.preferred_read_replica);
            }
        }
    }
}

impl Example for FetchRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::fetch_request(dice)
    }

    fn change(&mut self, _: i16) {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| (partition.current_leader_epoch, partition.last_fetched_epoch) = (-1, -1));
    }
}

impl Example for ListOffsetsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::list_offsets_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            for partition in &mut topic.partitions {
                move_partition(&topic.name, &mut partition.partition_index);
                partition.current_leader_epoch = -1;
            }
        }
    }
}

impl Example for ListOffsetsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::list_offsets_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            for partition in &mut topic.partitions {
                move_partition(&topic.name, &mut partition.partition_index);
                partition.error_code += 100;
                partition.leader_epoch = -1;
            }
        }
    }
}

impl Example for DeleteRecordsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::delete_records_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            topic.partitions.iter_mut().for_each(|partition| move_partition(&topic.name, &mut partition.partition_index));
        }
    }
}

impl Example for DeleteRecordsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::delete_records_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            for partition in &mut topic.partitions {
                move_partition(&topic.name, &mut partition.partition_index);
                partition.error_code += 100;
            }
        }
    }
}

impl Example for DescribeProducersRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::describe_producers_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            topic.partition_indexes.iter_mut().for_each(|partition| move_partition(&topic.name, partition));
        }
    }
}

impl Example for DescribeProducersResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::describe_producers_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            for partition in &mut topic.partitions {
                move_partition(&topic.name, &mut partition.partition_index);
                partition.error_code += 100;
            }
        }
    }
}

impl Example for AddPartitionsToTxnRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::add_partitions_to_txn_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.v3_and_below_topics {
            topic.partitions.iter_mut().for_each(|partition| move_partition(&topic.name, partition));
        }
    }
}

impl Example for AddPartitionsToTxnResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::add_partitions_to_txn_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.results_by_topic_v3_and_below {
            for partition in &mut topic.results_by_partition {
                move_partition(&topic.name, &mut partition.partition_index);
                partition.partition_error_code += 100;
            }
        }
    }
}

impl Example for WriteTxnMarkersRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::write_txn_markers_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in self.markers.iter_mut().flat_map(|marker| &mut marker.topics) {
            topic.partition_indexes.iter_mut().for_each(|partition| move_partition(&topic.name, partition));
        }
    }
}

impl Example for WriteTxnMarkersResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::write_txn_markers_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in self.markers.iter_mut().flat_map(|marker| &mut marker.topics) {
            for partition in &mut topic.partitions {
                move_partition(&topic.name, &mut partition.partition_index);
                partition.error_code += 100;
            }
        }
    }
}

/// The proxy reads this one and the next two itself: nothing in them is changed on the way.
impl Example for DescribeTransactionsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::describe_transactions_request(dice)
    }

    fn change(&mut self, _: i16) {}
}

impl Example for ElectLeadersRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::elect_leaders_request(dice)
    }

    fn change(&mut self, _: i16) {}
}

impl Example for ListPartitionReassignmentsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::list_partition_reassignments_request(dice)
    }

    fn change(&mut self, _: i16) {}
}

impl Example for MetadataRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::metadata_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in self.topics.iter_mut().flatten() {
            move_topic(&mut topic.topic_id, topic.name.as_ref());
        }
    }
}

impl Example for MetadataResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::metadata_response(dice)
    }

    fn change(&mut self, _: i16) {
        for broker in &mut self.brokers {
            move_broker(&mut broker.node_id, &mut broker.host, &mut broker.port);
        }
        self.cluster_id = self.cluster_id.as_ref().map(other_cluster);
        move_id(&mut self.controller_id);
        for topic in &mut self.topics {
            move_topic(&mut topic.topic_id, topic.name.as_ref());
        }
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            move_id(&mut partition.leader_id);
            partition.leader_epoch = -1;
            let nodes = [&mut partition.replica_nodes, &mut partition.isr_nodes, &mut partition.offline_replicas];
            nodes.into_iter().flatten().for_each(move_id);
        }
    }
}

impl Example for OffsetCommitRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::offset_commit_request(dice)
    }

    fn change(&mut self, _: i16) {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| partition.committed_leader_epoch = -1);
    }
}

impl Example for OffsetFetchResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::offset_fetch_response(dice)
    }

    fn change(&mut self, _: i16) {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| partition.committed_leader_epoch = -1);
        let partitions = self.groups.iter_mut().flat_map(|group| &mut group.topics).flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| partition.committed_leader_epoch = -1);
    }
}

/// The proxy reads it itself: nothing in it is changed on the way.
impl Example for FindCoordinatorRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::find_coordinator_request(dice)
    }

    fn change(&mut self, _: i16) {}
}

impl Example for FindCoordinatorResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::find_coordinator_response(dice)
    }

    fn change(&mut self, version: i16) {
        if version <= 3 {
            move_broker(&mut self.node_id, &mut self.host, &mut self.port);
        }
        for coordinator in &mut self.coordinators {
            move_broker(&mut coordinator.node_id, &mut coordinator.host, &mut coordinator.port);
        }
    }
}

impl Example for CreateTopicsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::create_topics_request(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            topic.assignments.iter_mut().flat_map(|assignment| &mut assignment.broker_ids).for_each(move_id);
            topic.configs.iter_mut().for_each(|config| move_config(&config.name, &mut config.value));
        }
    }
}

impl Example for CreateTopicsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::create_topics_response(dice)
    }

    fn change(&mut self, _: i16) {
        for topic in &mut self.topics {
            move_message(&mut topic.error_message);
            move_topic(&mut topic.topic_id, Some(&topic.name));
            topic.configs.iter_mut().flatten().for_each(|config| move_config(&config.name, &mut config.value));
        }
    }
}

impl Example for InitProducerIdResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::init_producer_id_response(dice)
    }

    fn change(&mut self, _: i16) {
        if self.producer_id.0 != -1 {
            self.producer_id.0 += 7 << 40;
        }
    }
}

impl Example for TxnOffsetCommitRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::txn_offset_commit_request(dice)
    }

    fn change(&mut self, _: i16) {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| partition.committed_leader_epoch = -1);
    }
}

impl Example for DescribeConfigsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::describe_configs_request(dice)
    }

    fn change(&mut self, _: i16) {
        self.resources.iter_mut().for_each(|resource| move_resource(resource.resource_type, &mut resource.resource_name));
    }
}

impl Example for DescribeConfigsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::describe_configs_response(dice)
    }

    fn change(&mut self, _: i16) {
        for result in &mut self.results {
            move_message(&mut result.error_message);
            move_resource(result.resource_type, &mut result.resource_name);
            for config in &mut result.configs {
                move_config(&config.name, &mut config.value);
                config.synonyms.iter_mut().for_each(|synonym| move_config(&synonym.name, &mut synonym.value));
            }
        }
    }
}

impl Example for AlterConfigsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::alter_configs_request(dice)
    }

    fn change(&mut self, _: i16) {
        for resource in &mut self.resources {
            move_resource(resource.resource_type, &mut resource.resource_name);
            resource.configs.iter_mut().for_each(|config| move_config(&config.name, &mut config.value));
        }
    }
}

impl Example for AlterConfigsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::alter_configs_response(dice)
    }

    fn change(&mut self, _: i16) {
        for response in &mut self.responses {
            move_message(&mut response.error_message);
            move_resource(response.resource_type, &mut response.resource_name);
        }
    }
}

impl Example for DeleteTopicsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::delete_topics_request(dice)
    }

    fn change(&mut self, _: i16) {
        self.topics.iter_mut().for_each(|topic| move_topic(&mut topic.topic_id, topic.name.as_ref()));
    }
}

impl Example for DeleteTopicsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::delete_topics_response(dice)
    }

    fn change(&mut self, _: i16) {
        self.responses.iter_mut().for_each(|topic| move_topic(&mut topic.topic_id, topic.name.as_ref()));
    }
}

impl Example for CreatePartitionsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::create_partitions_request(dice)
    }

    fn change(&mut self, _: i16) {
        let assignments = self.topics.iter_mut().filter_map(|topic| topic.assignments.as_mut()).flatten();
        assignments.flat_map(|assignment| &mut assignment.broker_ids).for_each(move_id);
    }
}

impl Example for CreatePartitionsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::create_partitions_response(dice)
    }

    fn change(&mut self, _: i16) {
        self.results.iter_mut().for_each(|result| move_message(&mut result.error_message));
    }
}

impl Example for IncrementalAlterConfigsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::incremental_alter_configs_request(dice)
    }

    fn change(&mut self, _: i16) {
        for resource in &mut self.resources {
            move_resource(resource.resource_type, &mut resource.resource_name);
            resource.configs.iter_mut().for_each(|config| move_config(&config.name, &mut config.value));
        }
    }
}

impl Example for IncrementalAlterConfigsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::incremental_alter_configs_response(dice)
    }

    fn change(&mut self, _: i16) {
        for response in &mut self.responses {
            move_message(&mut response.error_message);
            move_resource(response.resource_type, &mut response.resource_name);
        }
    }
}

impl Example for AlterPartitionReassignmentsRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::alter_partition_reassignments_request(dice)
    }

    fn change(&mut self, _: i16) {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.filter_map(|partition| partition.replicas.as_mut()).flatten().for_each(move_id);
    }
}

impl Example for AlterPartitionReassignmentsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::alter_partition_reassignments_response(dice)
    }

    fn change(&mut self, _: i16) {
        move_message(&mut self.error_message);
        let partitions = self.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| move_message(&mut partition.error_message));
    }
}

impl Example for ListPartitionReassignmentsResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::list_partition_reassignments_response(dice)
    }

    fn change(&mut self, _: i16) {
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            let nodes = [&mut partition.replicas, &mut partition.adding_replicas, &mut partition.removing_replicas];
            nodes.into_iter().flatten().for_each(move_id);
        }
    }
}

impl Example for DescribeClusterResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::describe_cluster_response(dice)
    }

    fn change(&mut self, _: i16) {
        self.cluster_id = other_cluster(&self.cluster_id);
        move_id(&mut self.controller_id);
        for broker in &mut self.brokers {
            move_broker(&mut broker.broker_id, &mut broker.host, &mut broker.port);
        }
    }
}

impl Example for ConsumerGroupHeartbeatRequest {
    fn throw(dice: &mut Dice) -> Self {
        messages::consumer_group_heartbeat_request(dice)
    }

    fn change(&mut self, _: i16) {
        self.topic_partitions.iter_mut().flatten().for_each(|topic| topic.topic_id = Shifted::default().topic_id(topic.topic_id));
    }
}

impl Example for ConsumerGroupHeartbeatResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::consumer_group_heartbeat_response(dice)
    }

    fn change(&mut self, _: i16) {
        let topics = self.assignment.iter_mut().flat_map(|assignment| &mut assignment.topic_partitions);
        topics.for_each(|topic| topic.topic_id = Shifted::default().topic_id(topic.topic_id));
    }
}

impl Example for ConsumerGroupDescribeResponse {
    fn throw(dice: &mut Dice) -> Self {
        messages::consumer_group_describe_response(dice)
    }

    fn change(&mut self, _: i16) {
        for member in self.groups.iter_mut().flat_map(|group| &mut group.members) {
            for topic in member.assignment.topic_partitions.iter_mut().chain(&mut member.target_assignment.topic_partitions) {
                move_topic(&mut topic.topic_id, Some(&topic.topic_name));
            }
        }
    }
}

type Check = fn(&Api, Side) -> RangeInclusive<i16>;

/// Every schema has its check.
const CHECKS: &[(ApiKey, Side, Check)] = &[
    (ApiKey::Produce, Side::Request, check::<ProduceRequest>),
    (ApiKey::Produce, Side::Response, check::<ProduceResponse>),
    (ApiKey::Fetch, Side::Request, check::<FetchRequest>),
    (ApiKey::Fetch, Side::Response, check::<FetchResponse>),
    (ApiKey::ListOffsets, Side::Request, check::<ListOffsetsRequest>),
    (ApiKey::ListOffsets, Side::Response, check::<ListOffsetsResponse>),
    (ApiKey::Metadata, Side::Request, check::<MetadataRequest>),
    (ApiKey::Metadata, Side::Response, check::<MetadataResponse>),
    (ApiKey::OffsetCommit, Side::Request, check::<OffsetCommitRequest>),
    (ApiKey::OffsetFetch, Side::Response, check::<OffsetFetchResponse>),
    (ApiKey::FindCoordinator, Side::Request, check::<FindCoordinatorRequest>),
    (ApiKey::FindCoordinator, Side::Response, check::<FindCoordinatorResponse>),
    (ApiKey::CreateTopics, Side::Request, check::<CreateTopicsRequest>),
    (ApiKey::CreateTopics, Side::Response, check::<CreateTopicsResponse>),
    (ApiKey::DeleteTopics, Side::Request, check::<DeleteTopicsRequest>),
    (ApiKey::DeleteTopics, Side::Response, check::<DeleteTopicsResponse>),
    (ApiKey::DeleteRecords, Side::Request, check::<DeleteRecordsRequest>),
    (ApiKey::DeleteRecords, Side::Response, check::<DeleteRecordsResponse>),
    (ApiKey::InitProducerId, Side::Response, check::<InitProducerIdResponse>),
    (ApiKey::AddPartitionsToTxn, Side::Request, check::<AddPartitionsToTxnRequest>),
    (ApiKey::AddPartitionsToTxn, Side::Response, check::<AddPartitionsToTxnResponse>),
    (ApiKey::WriteTxnMarkers, Side::Request, check::<WriteTxnMarkersRequest>),
    (ApiKey::WriteTxnMarkers, Side::Response, check::<WriteTxnMarkersResponse>),
    (ApiKey::TxnOffsetCommit, Side::Request, check::<TxnOffsetCommitRequest>),
    (ApiKey::DescribeConfigs, Side::Request, check::<DescribeConfigsRequest>),
    (ApiKey::DescribeConfigs, Side::Response, check::<DescribeConfigsResponse>),
    (ApiKey::AlterConfigs, Side::Request, check::<AlterConfigsRequest>),
    (ApiKey::AlterConfigs, Side::Response, check::<AlterConfigsResponse>),
    (ApiKey::CreatePartitions, Side::Request, check::<CreatePartitionsRequest>),
    (ApiKey::CreatePartitions, Side::Response, check::<CreatePartitionsResponse>),
    (ApiKey::IncrementalAlterConfigs, Side::Request, check::<IncrementalAlterConfigsRequest>),
    (ApiKey::IncrementalAlterConfigs, Side::Response, check::<IncrementalAlterConfigsResponse>),
    (ApiKey::ElectLeaders, Side::Request, check::<ElectLeadersRequest>),
    (ApiKey::AlterPartitionReassignments, Side::Request, check::<AlterPartitionReassignmentsRequest>),
    (ApiKey::AlterPartitionReassignments, Side::Response, check::<AlterPartitionReassignmentsResponse>),
    (ApiKey::ListPartitionReassignments, Side::Request, check::<ListPartitionReassignmentsRequest>),
    (ApiKey::ListPartitionReassignments, Side::Response, check::<ListPartitionReassignmentsResponse>),
    (ApiKey::DescribeCluster, Side::Response, check::<DescribeClusterResponse>),
    (ApiKey::DescribeProducers, Side::Request, check::<DescribeProducersRequest>),
    (ApiKey::DescribeProducers, Side::Response, check::<DescribeProducersResponse>),
    (ApiKey::DescribeTransactions, Side::Request, check::<DescribeTransactionsRequest>),
    (ApiKey::ConsumerGroupHeartbeat, Side::Request, check::<ConsumerGroupHeartbeatRequest>),
    (ApiKey::ConsumerGroupHeartbeat, Side::Response, check::<ConsumerGroupHeartbeatResponse>),
    (ApiKey::ConsumerGroupDescribe, Side::Response, check::<ConsumerGroupDescribeResponse>),
];

#[test]
fn exactly_what_is_meant_changes_in_every_version_of_every_message() {
    let mut unchecked = BTreeSet::new();
    for api in APIS {
        for side in [Side::Request, Side::Response] {
            if let (Some((min, max)), false) = (api.versions(), side.fields(api).is_empty()) {
                unchecked.extend((min..=max).map(|version| (api.key as i16, side, version)));
            }
        }
    }
    for (key, side, check) in CHECKS {
        let checked = check(Api::of(*key as i16).expect("it is in the table"), *side);
        checked.for_each(|version| assert!(unchecked.remove(&(*key as i16, *side, version)), "{key:?} {side:?} v{version} has no schema"));
    }
    let mut by_hand = BTreeSet::new();
    for (key, side, version, body, meant) in by_hand::messages() {
        let api = Api::of(key as i16).expect("it is in the table");
        let rewritten = rewrite(side.fields(api), version, api.is_flexible(version), &body, &mut Shifted::default());
        assert_eq!(rewritten.map(|rewritten| rewritten.unwrap_or(body)), Ok(meant), "{key:?} {side:?} v{version}");
        by_hand.insert((key as i16, side, version));
    }
    assert_eq!(by_hand, unchecked, "written by hand, and unknown to kafka-protocol");
}

/// What kafka-protocol encodes, in every version that both it and the table know. Returns these.
fn check<M: Example>(api: &Api, side: Side) -> RangeInclusive<i16> {
    let (min, max) = api.versions().expect("it is carried");
    let versions = min.max(M::VERSIONS.min)..=max.min(M::VERSIONS.max);
    for version in versions.clone() {
        let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
        let flexible = api.is_flexible(version);
        let outcome = runner.run(&any::<u64>(), |seed| {
            let mut dice = Dice::new(seed, version, flexible);
            let message = M::throw(&mut dice);
            let body = encoded(&message, version);
            let mut meant = message.clone();
            meant.change(version);
            let meant_bytes = encoded(&meant, version);
            let walk = |body: &[u8]| rewrite(side.fields(api), version, flexible, body, &mut Shifted::default());

            let rewritten = walk(&body).expect("it is a message");
            assert_eq!(rewritten.is_some(), meant != message, "{message:?}");
            let bytes = rewritten.unwrap_or_else(|| body.clone());
            assert_eq!(M::decode(&mut Bytes::from(bytes.clone()), version).expect("still one"), meant);
            assert_eq!(bytes, meant_bytes);

            // librdkafka 2.16 sends three bytes too many.
            let longer = [&body[..], &[1, 2, 3]].concat();
            let rewritten = walk(&longer).expect("it is a message").unwrap_or(longer);
            assert_eq!(rewritten, [&bytes[..], &[1, 2, 3]].concat());

            let schema = Schema { fields: side.fields(api), version, flexible };
            schema.is_the_same_in_pieces(&body, &mut dice);
            for cut in 0..body.len().min(256) {
                bounded(&body[..cut], walk(&body[..cut]));
            }
            for n in 0..64 {
                let hostile = dice.mutated(&body);
                bounded(&hostile, walk(&hostile));
                if n % 4 == 0 {
                    schema.is_the_same_in_pieces(&hostile, &mut dice);
                }
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{:?} {side:?} v{version}: {error}", api.key));
    }
    versions
}

/// The memory of what was made of a body: never much more than the body's own, whatever lengths are in it.
fn bounded(body: &[u8], rewritten: Result<Option<Vec<u8>>, RewriteError>) {
    if let Ok(Some(rewritten)) = rewritten {
        // `Shifted` makes an address longer by 12 bytes at most; the smallest is in a structure of 11. Vectors grow by doubling.
        assert!(rewritten.capacity() <= 5 * body.len() + 256, "{} bytes for {}", rewritten.capacity(), body.len());
    }
}

fn encoded(message: &impl Encodable, version: i16) -> Vec<u8> {
    let mut body = BytesMut::new();
    message.encode(&mut body, version).expect("its fields are the version's");
    body.to_vec()
}

fn move_id(node_id: &mut BrokerId) {
    if node_id.0 != -1 {
        node_id.0 += 1_000_000;
    }
}

fn move_broker(node_id: &mut BrokerId, host: &mut StrBytes, port: &mut i32) {
    if node_id.0 != -1 {
        *host = StrBytes::from_string(format!("{host}@{}", node_id.0));
        *port += 1;
    }
    move_id(node_id);
}

fn move_partition(topic: &TopicName, partition: &mut i32) {
    *partition += 1_000_000 + topic.len() as i32;
}

fn other_topic(topic_id: Uuid, by: u128) -> Uuid {
    if topic_id.is_nil() { topic_id } else { Uuid::from_u128(topic_id.as_u128().wrapping_add(by)) }
}

fn move_topic(topic_id: &mut Uuid, name: Option<&TopicName>) {
    *topic_id = Shifted::default().named_topic_id(*topic_id, name.map(|name| name.as_str()));
}

fn other_cluster(cluster_id: &StrBytes) -> StrBytes {
    StrBytes::from_string(format!("not-{cluster_id}"))
}

fn move_resource(resource_type: i8, name: &mut StrBytes) {
    if let (4 | 8, Ok(node_id)) = (resource_type, name.parse::<u16>()) {
        *name = StrBytes::from_string((u32::from(node_id) + 1_000_000).to_string());
    }
}

/// Ids that [`Dice`] writes into values are made of single digits.
fn move_config(name: &str, value: &mut Option<StrBytes>) {
    if let (Some(node_ids), Some(value)) = (NodeIds::of(name.as_bytes()), value) {
        *value = StrBytes::from_string(match node_ids {
            NodeIds::One => value.parse::<u8>().map_or_else(|_| value.to_string(), |id| format!("100000{id}")),
            NodeIds::Replicas => value.replace(':', ":100000"),
        });
    }
}

fn move_message(message: &mut Option<StrBytes>) {
    if let Some(message) = message.as_mut().filter(|message| message.contains('ż')) {
        *message = StrBytes::from_string(message.replace('ż', "n"));
    }
}

#[test]
fn the_table_has_every_api_that_has_a_name_in_the_order_of_their_keys() {
    assert_eq!(APIS.iter().map(|api| api.key).collect::<Vec<_>>(), ApiKey::iter().collect::<Vec<_>>());
    for api in APIS {
        assert_eq!(Api::of(api.key as i16).map(|found| found.key), Some(api.key));
    }
    for unknown in [-1, 88, 93, i16::MAX, i16::MIN] {
        assert!(Api::of(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn each_api_has_the_fields_that_its_place_in_a_view_needs() {
    /// Whether a kind is among the fields, in any of their versions.
    fn has(fields: &[Field], wanted: fn(Kind) -> bool) -> bool {
        fields.iter().any(|field| {
            let within = match field.kind {
                Kind::Array(fields) | Kind::Structure(fields) | Kind::NullableStructure(fields) => has(fields, wanted),
                _ => false,
            };
            within || wanted(field.kind)
        })
    }

    for api in APIS {
        let (request, response) = (Side::Request.fields(api), Side::Response.fields(api));
        let name = api.key;
        match api.usage {
            Use::Carried(..) => {}
            Use::Handshake(..) | Use::Hidden(_) => assert!(matches!(api.by, By::Connection), "{name:?} goes to no cluster"),
        }

        // A copy may be read: requests of Fetch pass, and its answers are looked into.
        let topic = |fields: &[Field]| has(fields, |kind| matches!(kind, Kind::TopicName));
        let by_leader = matches!(api.by, By::Leader);
        assert_eq!(topic(request), by_leader && api.key != ApiKey::Fetch, "{name:?} request");
        assert_eq!(topic(response), by_leader, "{name:?} response");
        for (fields, side) in [(request, "request"), (response, "response")] {
            let partition = has(fields, |kind| matches!(kind, Kind::Partition | Kind::Partitions));
            assert_eq!(partition, topic(fields), "{name:?} {side}");
            let error = has(fields, |kind| matches!(kind, Kind::PartitionError));
            assert_eq!(error, by_leader && side == "response", "{name:?} {side}");
            assert!(!has(fields, |kind| matches!(kind, Kind::GroupId | Kind::GroupIds)), "{name:?} {side}");
        }
    }
}

#[test]
fn a_node_without_a_counterpart_is_an_error() {
    let mut message = FindCoordinatorResponse::default();
    message.node_id = BrokerId(NOBODY);
    let api = Api::of(ApiKey::FindCoordinator as i16).expect("it is in the table");
    assert_eq!(
        rewrite(api.response, 3, true, &encoded(&message, 3), &mut Shifted::default()),
        Err(RewriteError::Unmapped(Unmapped(NOBODY)))
    );
}

#[test]
fn a_value_whose_other_node_ids_have_no_room_is_told_as_null() {
    let value = |replicas: usize| vec!["0:1"; replicas].join(",");
    for (version, replicas, expected) in [(1, 100, true), (4, 100, true), (1, 8_000, false), (4, 8_000, false)] {
        let mut message = DescribeConfigsResponse::default();
        let mut result = describe_configs_response::DescribeConfigsResult::default();
        let mut config = describe_configs_response::DescribeConfigsResourceResult::default();
        config.name = StrBytes::from_static_str("follower.replication.throttled.replicas");
        config.value = Some(StrBytes::from_string(value(replicas)));
        result.configs = vec![config];
        message.results = vec![result];
        let api = Api::of(ApiKey::DescribeConfigs as i16).expect("it is in the table");
        let rewritten = rewrite(api.response, version, version == 4, &encoded(&message, version), &mut Shifted::default());
        let rewritten = rewritten.expect("it is a message").expect("the value changes");
        let message = DescribeConfigsResponse::decode(&mut Bytes::from(rewritten), version).expect("still one");
        let told = message.results[0].configs[0].value.as_ref().map(ToString::to_string);
        assert_eq!(told, expected.then(|| value(replicas).replace(":1", ":1000001")), "v{version}");
    }
}

#[test]
fn a_message_that_breaks_off_is_an_error_that_names_the_field() {
    let api = Api::of(ApiKey::Metadata as i16).expect("it is in the table");
    let broken = |body: &[u8]| rewrite(api.response, 12, true, body, &mut Shifted::default()).map_err(|error| error.to_string());
    assert_eq!(broken(&[0, 0, 0]), Err("it breaks off at its field throttle_time_ms".to_owned()));
    // 2^32 - 2 brokers.
    assert_eq!(broken(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err("it breaks off at its field brokers".to_owned()));
    // A varint without an end.
    assert_eq!(broken(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Err("it breaks off at its field brokers".to_owned()));
    // A cluster id that is no text.
    assert_eq!(broken(&[0, 0, 0, 0, 1, 2, 0xff]), Err("it breaks off at its field cluster_id".to_owned()));
}
