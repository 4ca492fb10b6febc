//! What can be asked of a cluster, and what can be changed in it: all of it functions of a [`Client`](crate::client::Client).
//!
//! Each finds the broker that has to answer, asks in the highest version that this broker and the row below know, and checks every error code
//! in the answer. Many things asked at once get a [result each](crate::client::Answers): one topic that we may not see spoils nothing for the
//! others. What is safe to do twice is tried again until the client's deadline; what is not, only where the broker said that it did nothing.
//!
//! | file | APIs, and who answers |
//! |---|---|
//! | [`partitions`] | ListOffsets, OffsetForLeaderEpoch, DescribeProducers, DeleteRecords, WriteTxnMarkers: the partition's leader |
//! | [`topics`] | CreateTopics, CreatePartitions, DeleteTopics: the controller; Metadata for our rights |
//! | [`configs`] | DescribeConfigs, IncrementalAlterConfigs: the broker that they are about, any for topics |
//! | [`groups`] | ListGroups: all; OffsetFetch, OffsetCommit, DescribeGroups, ConsumerGroupDescribe: the group's coordinator |
//! | [`transactions`] | InitProducerId, AddPartitionsToTxn, EndTxn: the transaction's coordinator |
//! | [`acls`] | DescribeAcls, CreateAcls: any |
//! | [`description`] | DescribeCluster: any |
//! | [`users`] | DescribeUserScramCredentials, AlterUserScramCredentials: the controller |
//! | [`quotas`] | DescribeClientQuotas, AlterClientQuotas: any |
//!
//! The versions are those that brokers from 2.8 to 4.3 were tried with. Where an API went over from names to topic ids, they end below.
//!
//! # References
//! - `KafkaAdminClient`: who is asked; Kafka's documentation, "Authorization and ACLs", "Protocols": which right each needs

pub mod acls;
pub mod configs;
pub mod description;
pub mod groups;
pub mod partitions;
pub mod quotas;
pub mod topics;
pub mod transactions;
pub mod users;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use crate::client::TopicPartition;

/// How long a broker may take for what it does not do at once. It answers earlier when it is done, and before our own deadline if not.
const TIMEOUT: Duration = Duration::from_secs(20);

fn timeout_ms() -> i32 {
    TIMEOUT.as_millis() as i32
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Requests name each topic once, with its partitions.
fn by_topic<Q>(asked: impl IntoIterator<Item = (TopicPartition, Q)>) -> BTreeMap<Arc<str>, Vec<(i32, Q)>> {
    let mut topics: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (TopicPartition { topic, partition }, question) in asked {
        topics.entry(topic).or_default().push((partition, question));
    }
    topics
}
