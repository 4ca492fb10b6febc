//! Produce: a request of batches, and what its response has of one partition.
//!
//! The request is written here and not by kafka-protocol, which copies every batch into the request: a batch that passes through as it is goes from the
//! buffer in which it was received to the socket.
//!
//! # References
//! - `ProduceRequest.json`, `ProduceResponse.json`

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::{Decodable as _, VersionRange};

use crate::client::TopicPartition;
use crate::connection::{Connection, Pieces, RequestError};

/// The versions of Produce that kferry speaks. 9 is the first flexible one; 12 the last that names topics, and the first of transactions v2. What lies
/// between brings nothing.
pub const VERSIONS: VersionRange = VersionRange { min: 3, max: 9 };

/// The first version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 9;

/// `acks=all`: the broker answers when all in-sync replicas have the batch.
const ALL: i16 = -1;

/// Bytes from which on a batch is a piece of its own. Shorter ones are copied into the request: a system call takes a limited number of pieces.
const PIECE: usize = 8 * 1024;

/// Appends batches, at most one to each partition, on all in-sync replicas. After `timeout_ms` without all of them the broker answers with an error; the
/// batch stays in the partition leader's log. The request is queued when the future is first polled.
///
/// # Errors
/// [`RequestError`]. The broker's own errors are in the response.
pub async fn send(
    broker: &Connection,
    batches: impl IntoIterator<Item = (TopicPartition, Bytes)>,
    timeout_ms: i32,
) -> Result<ProduceResponse, RequestError> {
    let version = broker.version_for::<ProduceRequest>(VERSIONS)?;
    let body = body(batches, timeout_ms, version);
    broker.ask_in_pieces::<ProduceRequest, _, _>(body, version, |mut body| ProduceResponse::decode(&mut body, version)).await
}

fn body(batches: impl IntoIterator<Item = (TopicPartition, Bytes)>, timeout_ms: i32, version: i16) -> Pieces {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, Bytes)>> = BTreeMap::new();
    for (TopicPartition { topic, partition }, batch) in batches {
        topics.entry(topic).or_default().push((partition, batch));
    }
    let mut body = Body { pieces: Pieces::default(), written: BytesMut::new(), flexible: version >= FLEXIBLE };
    body.null_string();
    body.written.put_i16(ALL);
    body.written.put_i32(timeout_ms);
    body.count(topics.len());
    for (topic, partitions) in topics {
        body.string(&topic);
        body.count(partitions.len());
        for (partition, batch) in partitions {
            body.written.put_i32(partition);
            body.bytes(batch);
            body.no_tagged_fields();
        }
        body.no_tagged_fields();
    }
    body.no_tagged_fields();
    body.pieces.push(body.written.freeze());
    body.pieces
}

/// A body that is being written.
struct Body {
    pieces: Pieces,
    /// Behind `pieces`.
    written: BytesMut,
    flexible: bool,
}

impl Body {
    /// The length of an array or of bytes, whose compact form is one more: 0 is null.
    fn count(&mut self, count: usize) {
        if self.flexible { self.uvarint(count + 1) } else { self.written.put_i32(count as i32) }
    }

    fn uvarint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.written.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.written.put_u8(value as u8);
    }

    fn string(&mut self, text: &str) {
        if self.flexible {
            self.uvarint(text.len() + 1);
        } else {
            self.written.put_i16(text.len() as i16);
        }
        self.written.put_slice(text.as_bytes());
    }

    fn null_string(&mut self) {
        if self.flexible { self.uvarint(0) } else { self.written.put_i16(-1) }
    }

    fn bytes(&mut self, bytes: Bytes) {
        self.count(bytes.len());
        if bytes.len() < PIECE {
            self.written.put_slice(&bytes);
        } else {
            self.pieces.push(self.written.split().freeze());
            self.pieces.push(bytes);
        }
    }

    fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.uvarint(0);
        }
    }
}

/// What the response to a request with one partition has of it; `None` if the broker left it out.
pub fn only(response: ProduceResponse) -> Option<PartitionProduceResponse> {
    response.responses.into_iter().next()?.partition_responses.into_iter().next()
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

    use super::*;

    #[test]
    fn the_request_is_what_kafka_protocol_reads_in_every_version() {
        let partition = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
        let batches = [
            (partition("orders", 0), Bytes::from(vec![1; 3])),
            (partition("orders", 300), Bytes::from(vec![2; PIECE])),
            (partition("a", 1), Bytes::new()),
            (partition(&"t".repeat(249), 2), Bytes::from(vec![3; 300_000])),
        ];
        let data = |index: usize| {
            PartitionProduceData::default().with_index(batches[index].0.partition).with_records(Some(batches[index].1.clone()))
        };
        let topic = |name: &str, partitions| {
            TopicProduceData::default()
                .with_name(kafka_protocol::messages::TopicName(name.to_owned().into()))
                .with_partition_data(partitions)
        };
        let expected = ProduceRequest::default().with_acks(ALL).with_timeout_ms(30_000).with_topic_data(vec![
            topic("a", vec![data(2)]),
            topic("orders", vec![data(0), data(1)]),
            topic(&"t".repeat(249), vec![data(3)]),
        ]);
        for version in VERSIONS.min..=VERSIONS.max {
            let mut body = body(batches.clone(), 30_000, version);
            let mut bytes = body.copy_to_bytes(body.remaining());
            assert_eq!(ProduceRequest::decode(&mut bytes, version).unwrap(), expected, "v{version}");
            assert!(bytes.is_empty(), "v{version}");
        }
    }

    #[test]
    fn a_batch_is_not_copied() {
        let batch = Bytes::from(vec![7; PIECE]);
        let mut body = body([(TopicPartition { topic: "orders".into(), partition: 0 }, batch.clone())], 1, VERSIONS.max);
        let in_front = body.remaining() - PIECE - 3;
        body.advance(in_front);
        assert_eq!(body.chunk().as_ptr(), batch.as_ptr());
    }
}
