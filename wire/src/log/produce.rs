//! Produce: a request of batches, and what its response has of one partition.
//!
//! # References
//! - `ProduceRequest.json`, `ProduceResponse.json`

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};

use crate::client::TopicPartition;

/// The versions of Produce that kferry speaks. 9 is the first flexible one; 12 the last that names topics, and the first of transactions v2. What lies
/// between brings nothing.
pub const VERSIONS: VersionRange = VersionRange { min: 3, max: 9 };

/// `acks=all`: the broker answers when all in-sync replicas have the batch.
const ALL: i16 = -1;

/// A request that appends batches, at most one to each partition, on all in-sync replicas. After `timeout_ms` without all of them the broker answers
/// with an error; the batch stays in the partition leader's log.
pub fn request(batches: impl IntoIterator<Item = (TopicPartition, Bytes)>, timeout_ms: i32) -> ProduceRequest {
    let mut topics: HashMap<Arc<str>, Vec<PartitionProduceData>> = HashMap::new();
    for (TopicPartition { topic, partition }, batch) in batches {
        topics.entry(topic).or_default().push(PartitionProduceData::default().with_index(partition).with_records(Some(batch)));
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicProduceData::default().with_name(TopicName(StrBytes::from_string(topic.to_string()))).with_partition_data(partitions)
    });
    ProduceRequest::default().with_acks(ALL).with_timeout_ms(timeout_ms).with_topic_data(topics.collect())
}

/// What the response to a request with one partition has of it; `None` if the broker left it out.
pub fn only(response: ProduceResponse) -> Option<PartitionProduceResponse> {
    response.responses.into_iter().next()?.partition_responses.into_iter().next()
}
