//! Excerpts of Kafka's message schemas: just enough to find what is rewritten.
//!
//! The order of the fields is that of the wire. A schema may end early, behind the last field that is rewritten; within an array it may not, since
//! the next element begins where the last field ends. `tests/kafka_messages.rs` holds all of them against the schemas in Kafka's own jars.

/// What a field is, as far as it must be known to get past it or to change it.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// So many bytes: booleans, numbers.
    Fixed(usize),
    /// A string, nullable or not; compact in flexible versions.
    Text,
    /// Batches of records or other bytes, nullable, of any length; compact in flexible versions. They pass without being looked at.
    Records,
    /// An array of so many bytes each.
    FixedArray(usize),
    /// An array of strings.
    TextArray,
    /// An array of structures, nullable or not.
    Array(&'static [Field]),
    /// A structure that is always there.
    Structure(&'static [Field]),
    /// A structure behind a byte that says whether it is there: below 0 for null.
    NullableStructure(&'static [Field]),
    /// INT32, a node id: virtual for the client, real for the broker. -1 stays.
    NodeId,
    /// An array of node ids of replicas. One without a counterpart is no error: nobody connects to a replica.
    ReplicaIds,
    /// The host of the node whose id came last, then its port (INT32).
    Address,
    /// INT32, a leader epoch: -1 in both directions, so that a client never compares the epochs of two clusters (KIP-320).
    LeaderEpoch,
    /// The id of the cluster: one constant for all.
    ClusterId,
    /// INT64, the producer id of an idempotent producer, tagged with the cluster's id: each cluster hands out its own, so they would collide.
    ProducerId,
    /// UUID, a topic id, alone: virtual for the client, real for the broker. Zero stays.
    TopicId,
    /// The name of a topic, nullable or not, then its id.
    NameAndTopicId,
    /// A topic's id, then its name, nullable or not.
    TopicIdAndName,
    /// INT8, the type of the resource whose name follows: where it is a broker, its name is a node id in digits.
    Resource,
    /// The name of a setting.
    ConfigName,
    /// The value, nullable, of the setting whose name came last: the node ids in it, where it is one that has any ([`NodeIds`](super::NodeIds)).
    ConfigValue,
    /// The id of a group that the request is about.
    GroupId,
    /// An array of such.
    GroupIds,
    /// The name of a topic whose partitions follow.
    TopicName,
    /// INT32, the number of a partition of the topic whose name came last.
    Partition,
    /// An array of such.
    Partitions,
    /// INT16, the error of the partition that came last.
    PartitionError,
    /// What a broker says to people, nullable. It may have the name of a node that the client spoke of.
    ErrorMessage,
}

/// A field of a message and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// As Kafka's documentation writes it.
    pub name: &'static str,
    /// The first version that has it.
    pub since: i16,
    /// The last version that has it.
    pub until: i16,
    /// What it is.
    pub kind: Kind,
}

impl Field {
    /// Whether a version of the message has it.
    pub fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

/// In all versions.
const fn all(name: &'static str, kind: Kind) -> Field {
    Field { name, since: 0, until: i16::MAX, kind }
}

/// From a version on.
const fn since(version: i16, name: &'static str, kind: Kind) -> Field {
    Field { name, since: version, until: i16::MAX, kind }
}

/// From a version up to another, both included.
const fn only(since: i16, until: i16, name: &'static str, kind: Kind) -> Field {
    Field { name, since, until, kind }
}

use Kind::{
    Address, Array, ClusterId, ConfigName, ConfigValue, ErrorMessage, FixedArray, GroupId, GroupIds, LeaderEpoch, NameAndTopicId, NodeId,
    NullableStructure, Partition, PartitionError, Partitions, ProducerId, Records, ReplicaIds, Resource, Structure, Text, TextArray,
    TopicId, TopicIdAndName, TopicName,
};

const BOOL: Kind = Kind::Fixed(1);
const INT8: Kind = Kind::Fixed(1);
const INT16: Kind = Kind::Fixed(2);
const INT32: Kind = Kind::Fixed(4);
const INT64: Kind = Kind::Fixed(8);

/// Produce requests and, below, Fetch responses are in no row, because the relay passes them as they stream. These are for a [`Walk`](super::Walk)
/// that looks into them on their way.
pub const PRODUCE_REQUEST: &[Field] = &[
    since(3, "transactional_id", Text),
    all("acks", INT16),
    all("timeout_ms", INT32),
    all("topic_data", Array(&[all("name", TopicName), all("partition_data", Array(&[all("index", Partition), all("records", Records)]))])),
];
/// The answer to a [`PRODUCE_REQUEST`], to its last partition.
pub const PRODUCE_RESPONSE: &[Field] =
    &[all("responses", Array(&[all("name", TopicName), all("partition_responses", Array(PRODUCE_PARTITION_RESPONSE))]))];
const PRODUCE_PARTITION_RESPONSE: &[Field] = &[
    all("index", Partition),
    all("error_code", PartitionError),
    all("base_offset", INT64),
    since(2, "log_append_time_ms", INT64),
    since(5, "log_start_offset", INT64),
    since(8, "record_errors", Array(&[all("batch_index", INT32), all("batch_index_error_message", Text)])),
    since(8, "error_message", Text),
];

pub(super) const FETCH_REQUEST: &[Field] = &[
    all("replica_id", INT32),
    all("max_wait_ms", INT32),
    all("min_bytes", INT32),
    since(3, "max_bytes", INT32),
    since(4, "isolation_level", INT8),
    since(7, "session_id", INT32),
    since(7, "session_epoch", INT32),
    all("topics", Array(&[all("topic", Text), all("partitions", Array(FETCH_PARTITION))])),
    since(7, "forgotten_topics_data", Array(&[all("topic", Text), all("partitions", FixedArray(4))])),
];
const FETCH_PARTITION: &[Field] = &[
    all("partition", INT32),
    since(9, "current_leader_epoch", LeaderEpoch),
    all("fetch_offset", INT64),
    since(12, "last_fetched_epoch", LeaderEpoch),
    since(5, "log_start_offset", INT64),
    all("partition_max_bytes", INT32),
];

/// Up to version 12: 13 has topic ids.
pub const FETCH_RESPONSE: &[Field] = &[
    since(1, "throttle_time_ms", INT32),
    since(7, "error_code", INT16),
    since(7, "session_id", INT32),
    all("responses", Array(&[all("topic", TopicName), all("partitions", Array(FETCH_PARTITION_RESPONSE))])),
];
const FETCH_PARTITION_RESPONSE: &[Field] = &[
    all("partition_index", Partition),
    all("error_code", PartitionError),
    all("high_watermark", INT64),
    since(4, "last_stable_offset", INT64),
    since(5, "log_start_offset", INT64),
    since(4, "aborted_transactions", Array(&[all("producer_id", INT64), all("first_offset", INT64)])),
    since(11, "preferred_read_replica", NodeId),
    all("records", Records),
];

pub(super) const LIST_OFFSETS_REQUEST: &[Field] = &[
    all("replica_id", INT32),
    since(2, "isolation_level", INT8),
    all("topics", Array(&[all("name", TopicName), all("partitions", Array(LIST_OFFSETS_PARTITION))])),
];
const LIST_OFFSETS_PARTITION: &[Field] = &[
    all("partition_index", Partition),
    since(4, "current_leader_epoch", LeaderEpoch),
    all("timestamp", INT64),
    only(0, 0, "max_num_offsets", INT32),
];
pub(super) const LIST_OFFSETS_RESPONSE: &[Field] = &[
    since(2, "throttle_time_ms", INT32),
    all("topics", Array(&[all("name", TopicName), all("partitions", Array(LIST_OFFSETS_PARTITION_RESPONSE))])),
];
const LIST_OFFSETS_PARTITION_RESPONSE: &[Field] = &[
    all("partition_index", Partition),
    all("error_code", PartitionError),
    only(0, 0, "old_style_offsets", FixedArray(8)),
    since(1, "timestamp", INT64),
    since(1, "offset", INT64),
    since(4, "leader_epoch", LeaderEpoch),
];

pub(super) const DELETE_RECORDS_REQUEST: &[Field] = &[all(
    "topics",
    Array(&[all("name", TopicName), all("partitions", Array(&[all("partition_index", Partition), all("offset", INT64)]))]),
)];
pub(super) const DELETE_RECORDS_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("topics", Array(&[all("name", TopicName), all("partitions", Array(DELETE_RECORDS_PARTITION_RESPONSE))])),
];
const DELETE_RECORDS_PARTITION_RESPONSE: &[Field] =
    &[all("partition_index", Partition), all("low_watermark", INT64), all("error_code", PartitionError)];

pub(super) const DESCRIBE_PRODUCERS_REQUEST: &[Field] =
    &[all("topics", Array(&[all("name", TopicName), all("partition_indexes", Partitions)]))];
pub(super) const DESCRIBE_PRODUCERS_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("topics", Array(&[all("name", TopicName), all("partitions", Array(DESCRIBE_PRODUCERS_PARTITION_RESPONSE))])),
];
const DESCRIBE_PRODUCERS_PARTITION_RESPONSE: &[Field] = &[
    all("partition_index", Partition),
    all("error_code", PartitionError),
    all("error_message", Text),
    all("active_producers", Array(ACTIVE_PRODUCER)),
];
const ACTIVE_PRODUCER: &[Field] = &[
    all("producer_id", INT64),
    all("producer_epoch", INT32),
    all("last_sequence", INT32),
    all("last_timestamp", INT64),
    all("coordinator_epoch", INT32),
    all("current_txn_start_offset", INT64),
];

pub(super) const ADD_PARTITIONS_TO_TXN_REQUEST: &[Field] = &[
    all("v3_and_below_transactional_id", Text),
    all("v3_and_below_producer_id", INT64),
    all("v3_and_below_producer_epoch", INT16),
    all("v3_and_below_topics", Array(&[all("name", TopicName), all("partitions", Partitions)])),
];
pub(super) const ADD_PARTITIONS_TO_TXN_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("results_by_topic_v3_and_below", Array(&[all("name", TopicName), all("results_by_partition", Array(ADDED_TO_TXN))])),
];
const ADDED_TO_TXN: &[Field] = &[all("partition_index", Partition), all("partition_error_code", PartitionError)];

pub(super) const WRITE_TXN_MARKERS_REQUEST: &[Field] = &[all("markers", Array(TXN_MARKER))];
const TXN_MARKER: &[Field] = &[
    all("producer_id", INT64),
    all("producer_epoch", INT16),
    all("transaction_result", BOOL),
    all("topics", Array(&[all("name", TopicName), all("partition_indexes", Partitions)])),
    all("coordinator_epoch", INT32),
];
pub(super) const WRITE_TXN_MARKERS_RESPONSE: &[Field] = &[all(
    "markers",
    Array(&[all("producer_id", INT64), all("topics", Array(&[all("name", TopicName), all("partitions", Array(MARKED))]))]),
)];
const MARKED: &[Field] = &[all("partition_index", Partition), all("error_code", PartitionError)];

/// Nothing in it is rewritten: the proxy reads it itself.
pub(super) const DESCRIBE_TRANSACTIONS_REQUEST: &[Field] = &[all("transactional_ids", TextArray)];

/// Before version 10 topics are only named.
pub(super) const METADATA_REQUEST: &[Field] =
    &[only(0, 9, "topics", Array(&[all("name", Text)])), since(10, "topics", Array(&[all("topic_id, name", TopicIdAndName)]))];
pub(super) const METADATA_RESPONSE: &[Field] = &[
    since(3, "throttle_time_ms", INT32),
    all("brokers", Array(&[all("node_id", NodeId), all("host, port", Address), since(1, "rack", Text)])),
    since(2, "cluster_id", ClusterId),
    since(1, "controller_id", NodeId),
    all("topics", Array(METADATA_TOPIC)),
];
const METADATA_TOPIC: &[Field] = &[
    all("error_code", INT16),
    only(0, 9, "name", Text),
    since(10, "name, topic_id", NameAndTopicId),
    since(1, "is_internal", BOOL),
    all("partitions", Array(METADATA_PARTITION)),
    since(8, "topic_authorized_operations", INT32),
];
const METADATA_PARTITION: &[Field] = &[
    all("error_code", INT16),
    all("partition_index", INT32),
    all("leader_id", NodeId),
    since(7, "leader_epoch", LeaderEpoch),
    all("replica_nodes", ReplicaIds),
    all("isr_nodes", ReplicaIds),
    since(5, "offline_replicas", ReplicaIds),
];

pub(super) const OFFSET_COMMIT_REQUEST: &[Field] = &[
    all("group_id", Text),
    since(1, "generation_id_or_member_epoch", INT32),
    since(1, "member_id", Text),
    since(7, "group_instance_id", Text),
    only(2, 4, "retention_time_ms", INT64),
    all("topics", Array(&[all("name", Text), all("partitions", Array(OFFSET_COMMIT_PARTITION))])),
];
const OFFSET_COMMIT_PARTITION: &[Field] = &[
    all("partition_index", INT32),
    all("committed_offset", INT64),
    since(6, "committed_leader_epoch", LeaderEpoch),
    only(1, 1, "commit_timestamp", INT64),
    all("committed_metadata", Text),
];

pub(super) const OFFSET_FETCH_RESPONSE: &[Field] = &[
    since(3, "throttle_time_ms", INT32),
    only(0, 7, "topics", Array(OFFSET_FETCH_TOPIC)),
    only(2, 7, "error_code", INT16),
    since(8, "groups", Array(&[all("group_id", Text), all("topics", Array(OFFSET_FETCH_TOPIC)), all("error_code", INT16)])),
];
const OFFSET_FETCH_TOPIC: &[Field] = &[all("name", Text), all("partitions", Array(OFFSET_FETCH_PARTITION))];
const OFFSET_FETCH_PARTITION: &[Field] = &[
    all("partition_index", INT32),
    all("committed_offset", INT64),
    since(5, "committed_leader_epoch", LeaderEpoch),
    all("metadata", Text),
    all("error_code", INT16),
];

pub(super) const FIND_COORDINATOR_REQUEST: &[Field] =
    &[only(0, 3, "key", Text), since(1, "key_type", INT8), since(4, "coordinator_keys", TextArray)];
pub(super) const FIND_COORDINATOR_RESPONSE: &[Field] = &[
    since(1, "throttle_time_ms", INT32),
    only(0, 3, "error_code", INT16),
    only(1, 3, "error_message", Text),
    only(0, 3, "node_id", NodeId),
    only(0, 3, "host, port", Address),
    since(4, "coordinators", Array(COORDINATOR)),
];
const COORDINATOR: &[Field] =
    &[all("key", Text), all("node_id", NodeId), all("host, port", Address), all("error_code", INT16), all("error_message", Text)];

pub(super) const DESCRIBE_CLUSTER_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("error_code", INT16),
    all("error_message", Text),
    since(1, "endpoint_type", INT8),
    all("cluster_id", ClusterId),
    all("controller_id", NodeId),
    all("brokers", Array(&[all("broker_id", NodeId), all("host, port", Address), all("rack", Text), since(2, "is_fenced", BOOL)])),
];

pub(super) const CREATE_TOPICS_REQUEST: &[Field] = &[all("topics", Array(CREATABLE_TOPIC))];
const CREATABLE_TOPIC: &[Field] = &[
    all("name", Text),
    all("num_partitions", INT32),
    all("replication_factor", INT16),
    all("assignments", Array(&[all("partition_index", INT32), all("broker_ids", ReplicaIds)])),
    all("configs", Array(&[all("name", ConfigName), all("value", ConfigValue)])),
];
pub(super) const CREATE_TOPICS_RESPONSE: &[Field] = &[since(2, "throttle_time_ms", INT32), all("topics", Array(CREATED_TOPIC))];
const CREATED_TOPIC: &[Field] = &[
    only(0, 6, "name", Text),
    since(7, "name, topic_id", NameAndTopicId),
    all("error_code", INT16),
    since(1, "error_message", ErrorMessage),
    since(5, "num_partitions", INT32),
    since(5, "replication_factor", INT16),
    since(5, "configs", Array(CREATED_TOPIC_CONFIG)),
];
const CREATED_TOPIC_CONFIG: &[Field] =
    &[all("name", ConfigName), all("value", ConfigValue), all("read_only", BOOL), all("config_source", INT8), all("is_sensitive", BOOL)];

pub(super) const DELETE_TOPICS_REQUEST: &[Field] =
    &[since(6, "topics", Array(&[all("name, topic_id", NameAndTopicId)])), only(0, 5, "topic_names", TextArray)];
/// Topics have ids, which are rewritten, from version 6 on.
pub(super) const DELETE_TOPICS_RESPONSE: &[Field] = &[since(6, "throttle_time_ms", INT32), since(6, "responses", Array(DELETED_TOPIC))];
const DELETED_TOPIC: &[Field] = &[all("name, topic_id", NameAndTopicId), all("error_code", INT16), all("error_message", Text)];

pub(super) const CREATE_PARTITIONS_REQUEST: &[Field] = &[all("topics", Array(CREATE_PARTITIONS_TOPIC))];
const CREATE_PARTITIONS_TOPIC: &[Field] =
    &[all("name", Text), all("count", INT32), all("assignments", Array(&[all("broker_ids", ReplicaIds)]))];

pub(super) const CREATE_PARTITIONS_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("results", Array(&[all("name", Text), all("error_code", INT16), all("error_message", ErrorMessage)])),
];

pub(super) const ELECT_LEADERS_REQUEST: &[Field] =
    &[since(1, "election_type", INT8), all("topic_partitions", Array(&[all("topic", Text), all("partitions", FixedArray(4))]))];

pub(super) const ALTER_PARTITION_REASSIGNMENTS_REQUEST: &[Field] = &[
    all("timeout_ms", INT32),
    since(1, "allow_replication_factor_change", BOOL),
    all("topics", Array(&[all("name", Text), all("partitions", Array(REASSIGNABLE_PARTITION))])),
];
const REASSIGNABLE_PARTITION: &[Field] = &[all("partition_index", INT32), all("replicas", ReplicaIds)];

pub(super) const ALTER_PARTITION_REASSIGNMENTS_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    since(1, "allow_replication_factor_change", BOOL),
    all("error_code", INT16),
    all("error_message", ErrorMessage),
    all("responses", Array(&[all("name", Text), all("partitions", Array(REASSIGNED_PARTITION))])),
];
const REASSIGNED_PARTITION: &[Field] = &[all("partition_index", INT32), all("error_code", INT16), all("error_message", ErrorMessage)];

pub(super) const LIST_PARTITION_REASSIGNMENTS_REQUEST: &[Field] =
    &[all("timeout_ms", INT32), all("topics", Array(&[all("name", Text), all("partition_indexes", FixedArray(4))]))];
pub(super) const LIST_PARTITION_REASSIGNMENTS_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("error_code", INT16),
    all("error_message", Text),
    all("topics", Array(&[all("name", Text), all("partitions", Array(ONGOING_REASSIGNMENT))])),
];
const ONGOING_REASSIGNMENT: &[Field] =
    &[all("partition_index", INT32), all("replicas", ReplicaIds), all("adding_replicas", ReplicaIds), all("removing_replicas", ReplicaIds)];

pub(super) const INIT_PRODUCER_ID_RESPONSE: &[Field] =
    &[all("throttle_time_ms", INT32), all("error_code", INT16), all("producer_id", ProducerId)];

pub(super) const TXN_OFFSET_COMMIT_REQUEST: &[Field] = &[
    all("transactional_id", Text),
    all("group_id", Text),
    all("producer_id", INT64),
    all("producer_epoch", INT16),
    since(3, "generation_id", INT32),
    since(3, "member_id", Text),
    since(3, "group_instance_id", Text),
    all("topics", Array(&[all("name", Text), all("partitions", Array(TXN_OFFSET_COMMIT_PARTITION))])),
];
const TXN_OFFSET_COMMIT_PARTITION: &[Field] = &[
    all("partition_index", INT32),
    all("committed_offset", INT64),
    since(2, "committed_leader_epoch", LeaderEpoch),
    all("committed_metadata", Text),
];

pub(super) const DESCRIBE_CONFIGS_REQUEST: &[Field] =
    &[all("resources", Array(&[all("resource_type, resource_name", Resource), all("configuration_keys", TextArray)]))];
pub(super) const DESCRIBE_CONFIGS_RESPONSE: &[Field] = &[all("throttle_time_ms", INT32), all("results", Array(DESCRIBE_CONFIGS_RESULT))];
const DESCRIBE_CONFIGS_RESULT: &[Field] = &[
    all("error_code", INT16),
    all("error_message", ErrorMessage),
    all("resource_type, resource_name", Resource),
    all("configs", Array(DESCRIBE_CONFIGS_ENTRY)),
];
const DESCRIBE_CONFIGS_ENTRY: &[Field] = &[
    all("name", ConfigName),
    all("value", ConfigValue),
    all("read_only", BOOL),
    only(0, 0, "is_default", BOOL),
    since(1, "config_source", INT8),
    all("is_sensitive", BOOL),
    since(1, "synonyms", Array(&[all("name", ConfigName), all("value", ConfigValue), all("source", INT8)])),
    since(3, "config_type", INT8),
    since(3, "documentation", Text),
];

pub(super) const ALTER_CONFIGS_REQUEST: &[Field] = &[all(
    "resources",
    Array(&[all("resource_type, resource_name", Resource), all("configs", Array(&[all("name", ConfigName), all("value", ConfigValue)]))]),
)];
pub(super) const INCREMENTAL_ALTER_CONFIGS_REQUEST: &[Field] = &[all(
    "resources",
    Array(&[
        all("resource_type, resource_name", Resource),
        all("configs", Array(&[all("name", ConfigName), all("config_operation", INT8), all("value", ConfigValue)])),
    ]),
)];
pub(super) const ALTER_CONFIGS_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("responses", Array(&[all("error_code", INT16), all("error_message", ErrorMessage), all("resource_type, resource_name", Resource)])),
];

/// Where the ids of groups are in the requests about them. These are not for the rows: most of the requests pass as they are.
pub(super) const GROUP: &[Field] = &[all("group_id", GroupId)];
pub(super) const JOIN_GROUP: &[Field] = &[
    all("group_id", GroupId),
    all("session_timeout_ms", INT32),
    since(1, "rebalance_timeout_ms", INT32),
    all("member_id", Text),
    since(5, "group_instance_id", Text),
    all("protocol_type", Text),
    all("protocols", Array(&[all("name", Text), all("metadata", Records)])),
];
pub(super) const GROUPS: &[Field] = &[all("groups", GroupIds)];
pub(super) const GROUPS_NAMES: &[Field] = &[all("groups_names", GroupIds)];
pub(super) const GROUP_IDS: &[Field] = &[all("group_ids", GroupIds)];
pub(super) const OFFSET_FETCH_GROUPS: &[Field] = &[
    only(0, 7, "group_id", GroupId),
    only(0, 7, "topics", Array(&[all("name", Text), all("partition_indexes", FixedArray(4))])),
    since(8, "groups", Array(OFFSET_FETCH_GROUP)),
];
const OFFSET_FETCH_GROUP: &[Field] = &[
    all("group_id", GroupId),
    since(9, "member_id", Text),
    since(9, "member_epoch", INT32),
    all("topics", Array(&[all("name", Text), all("partition_indexes", FixedArray(4))])),
];
pub(super) const TXN_GROUP: &[Field] = &[all("transactional_id", Text), all("group_id", GroupId)];
pub(super) const ADD_OFFSETS_GROUP: &[Field] =
    &[all("transactional_id", Text), all("producer_id", INT64), all("producer_epoch", INT16), all("group_id", GroupId)];

pub(super) const CONSUMER_GROUP_HEARTBEAT_REQUEST: &[Field] = &[
    all("group_id", Text),
    all("member_id", Text),
    all("member_epoch", INT32),
    all("instance_id", Text),
    all("rack_id", Text),
    all("rebalance_timeout_ms", INT32),
    all("subscribed_topic_names", TextArray),
    since(1, "subscribed_topic_regex", Text),
    all("server_assignor", Text),
    all("topic_partitions", Array(TOPIC_PARTITIONS)),
];
pub(super) const CONSUMER_GROUP_HEARTBEAT_RESPONSE: &[Field] = &[
    all("throttle_time_ms", INT32),
    all("error_code", INT16),
    all("error_message", Text),
    all("member_id", Text),
    all("member_epoch", INT32),
    all("heartbeat_interval_ms", INT32),
    all("assignment", NullableStructure(&[all("topic_partitions", Array(TOPIC_PARTITIONS))])),
];
const TOPIC_PARTITIONS: &[Field] = &[all("topic_id", TopicId), all("partitions", FixedArray(4))];

pub(super) const CONSUMER_GROUP_DESCRIBE_RESPONSE: &[Field] =
    &[all("throttle_time_ms", INT32), all("groups", Array(DESCRIBED_CONSUMER_GROUP))];
const DESCRIBED_CONSUMER_GROUP: &[Field] = &[
    all("error_code", INT16),
    all("error_message", Text),
    all("group_id", Text),
    all("group_state", Text),
    all("group_epoch", INT32),
    all("assignment_epoch", INT32),
    all("assignor_name", Text),
    all("members", Array(CONSUMER_GROUP_MEMBER)),
    all("authorized_operations", INT32),
];
const CONSUMER_GROUP_MEMBER: &[Field] = &[
    all("member_id", Text),
    all("instance_id", Text),
    all("rack_id", Text),
    all("member_epoch", INT32),
    all("client_id", Text),
    all("client_host", Text),
    all("subscribed_topic_names", TextArray),
    all("subscribed_topic_regex", Text),
    all("assignment", Structure(MEMBER_ASSIGNMENT)),
    all("target_assignment", Structure(MEMBER_ASSIGNMENT)),
    since(1, "member_type", INT8),
];
const MEMBER_ASSIGNMENT: &[Field] =
    &[all("topic_partitions", Array(&[all("topic_id, topic_name", TopicIdAndName), all("partitions", FixedArray(4))]))];
