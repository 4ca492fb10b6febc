//! Produce: a request of batches, its response, and what that has of one partition.
//!
//! The request is written here and not by kafka-protocol, which copies every batch into the request: a batch that passes through as it is goes from the
//! buffer in which it was received to the socket. It is read here for the same reason, and because kafka-protocol has no version below 3.
//!
//! # References
//! - `ProduceRequest.json`, `ProduceResponse.json`; those of Kafka 3.9 have the versions below 3

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, StrBytes, VersionRange};

pub use crate::batch::Sequence;
use crate::client::TopicPartition;
use crate::connection::{Connection, Pieces, RequestError};
use crate::reader::{Malformed, Reader};

/// The versions of Produce that kferry speaks. 9 is the first flexible one; 12 the last that names topics, and the first of transactions v2. What lies
/// between brings nothing.
pub const VERSIONS: VersionRange = VersionRange { min: 3, max: 9 };

/// The versions that are read and written for others. Below 3 a request has messages of magic 0 and 1, which brokers from 4.0 on do not take.
pub const OTHERS: VersionRange = VersionRange { min: 0, max: 9 };

/// The first version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 9;

/// The first version that kafka-protocol knows.
const KNOWN: i16 = 3;

/// `acks=all`: the broker answers when all in-sync replicas have the batch.
const ALL: i16 = -1;

/// Bytes from which on a batch is a piece of its own. Shorter ones are copied into the request: a system call takes a limited number of pieces.
const PIECE: usize = 8 * 1024;

/// What a request says before its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    /// It has a `transactional_id`.
    pub is_transactional: bool,
    /// 0: there will be no response; 1: the partition leader's word; -1: that of all in-sync replicas.
    pub acks: i16,
    /// How long the broker may wait for the in-sync replicas, in ms.
    pub timeout_ms: i32,
}

impl Front {
    /// Reads it from the beginning of a request's body. `None`: the body breaks off before its end.
    pub fn peek(body: &[u8], version: i16) -> Option<Self> {
        Self::read(&mut Reader::new(body), version).ok()
    }

    fn read(from: &mut Reader<'_>, version: i16) -> Result<Self, Malformed> {
        let is_transactional = match version {
            ..KNOWN => false,
            KNOWN..FLEXIBLE => from.nullable_string_bytes()?.is_some(),
            FLEXIBLE.. => {
                let len = from.uvarint()?;
                from.take(len.saturating_sub(1) as usize)?;
                len > 0
            }
        };
        Ok(Self { is_transactional, acks: from.i16()?, timeout_ms: from.i32()? })
    }
}

/// A batch for a partition. `None`: null, which a broker refuses.
pub type Entry = (TopicPartition, Option<Bytes>);

/// Reads a request's body, in one of the versions of [`OTHERS`]: the batches are slices of it, in its order. `None`: it is no such body.
pub fn entries(body: &Bytes, version: i16) -> Option<Vec<Entry>> {
    read_entries(body, version).ok()
}

fn read_entries(body: &Bytes, version: i16) -> Result<Vec<Entry>, Malformed> {
    let flexible = version >= FLEXIBLE;
    let mut from = Reader::new(body);
    Front::read(&mut from, version)?;
    // Null is empty, and any negative length is null, as brokers read it.
    let count = |from: &mut Reader<'_>| {
        let count = if flexible { from.uvarint()?.saturating_sub(1) as usize } else { usize::try_from(from.i32()?).unwrap_or(0) };
        if count <= from.rest().len() { Ok(count) } else { Err(Malformed::Short) }
    };
    let mut entries = Vec::new();
    for _ in 0..count(&mut from)? {
        let topic = if flexible {
            let len = from.uvarint()?.saturating_sub(1);
            from.take(len as usize)?
        } else {
            from.nullable_string_bytes()?.unwrap_or_default()
        };
        let topic: Arc<str> = String::from_utf8_lossy(topic).into();
        for _ in 0..count(&mut from)? {
            let partition = from.i32()?;
            let records = if flexible {
                let len = from.uvarint()?;
                len.checked_sub(1).map(|len| from.take(len as usize)).transpose()?
            } else {
                from.nullable_bytes()?
            };
            entries.push((TopicPartition { topic: topic.clone(), partition }, records.map(|records| body.slice_ref(records))));
            if flexible {
                from.skip_tagged_fields()?;
            }
        }
        if flexible {
            from.skip_tagged_fields()?;
        }
    }
    Ok(entries)
}

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
    let batches = batches.into_iter().map(|(partition, batch)| (partition, Some(batch)));
    let body = write(batches, ALL, timeout_ms, version);
    broker.ask_in_pieces::<ProduceRequest, _, _>(body, version, |mut body| ProduceResponse::decode(&mut body, version)).await
}

/// [`send`] for somebody else: with their `acks`, -1 or 1, and in their version, or the nearest one that the broker knows.
///
/// # Errors
/// [`RequestError`]: [`RequestError::Version`] where the broker takes no messages as these are. The broker's own errors are in the response.
pub async fn send_for(
    broker: &Connection,
    entries: impl IntoIterator<Item = Entry>,
    acks: i16,
    timeout_ms: i32,
    version: i16,
) -> Result<ProduceResponse, RequestError> {
    let ours = if version < KNOWN { VersionRange { min: 0, max: version } } else { VersionRange { min: KNOWN, max: version } };
    let version = broker.version_for::<ProduceRequest>(ours)?;
    let body = write(entries, acks, timeout_ms, version);
    broker.ask_in_pieces::<ProduceRequest, _, _>(body, version, |body| read_response(body, version)).await
}

/// The body of a request without a `transactional_id`, in one piece.
pub fn body(entries: impl IntoIterator<Item = Entry>, acks: i16, timeout_ms: i32, version: i16) -> Bytes {
    let mut body = write(entries, acks, timeout_ms, version);
    body.copy_to_bytes(body.remaining())
}

fn write(entries: impl IntoIterator<Item = Entry>, acks: i16, timeout_ms: i32, version: i16) -> Pieces {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, Option<Bytes>)>> = BTreeMap::new();
    for (TopicPartition { topic, partition }, batch) in entries {
        topics.entry(topic).or_default().push((partition, batch));
    }
    let mut body = Body { pieces: Pieces::default(), written: BytesMut::new(), flexible: version >= FLEXIBLE };
    if version >= KNOWN {
        body.null_string();
    }
    body.written.put_i16(acks);
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

/// Reads a response's body, in one of the versions of [`OTHERS`].
///
/// # Errors
/// It is no such body; why, for a message.
pub fn read_response(mut body: Bytes, version: i16) -> Result<ProduceResponse, String> {
    if version >= KNOWN {
        return ProduceResponse::decode(&mut body, version).map_err(|error| error.to_string());
    }
    read_old_response(&body, version).map_err(|error| error.to_string())
}

fn read_old_response(body: &[u8], version: i16) -> Result<ProduceResponse, Malformed> {
    let mut from = Reader::new(body);
    let mut responses = Vec::new();
    for _ in 0..from.count()? {
        let name = TopicName(StrBytes::from_string(from.string()?.to_owned()));
        let mut partitions = Vec::new();
        for _ in 0..from.count()? {
            let partition = PartitionProduceResponse::default()
                .with_index(from.i32()?)
                .with_error_code(from.i16()?)
                .with_base_offset(from.i64()?)
                .with_log_append_time_ms(if version >= 2 { from.i64()? } else { -1 });
            partitions.push(partition);
        }
        responses.push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
    }
    let throttle_time_ms = if version >= 1 { from.i32()? } else { 0 };
    Ok(ProduceResponse::default().with_responses(responses).with_throttle_time_ms(throttle_time_ms))
}

/// The body of a response, in one of the versions of [`OTHERS`]. `None`: it has more than fits into a message.
pub fn write_response(response: &ProduceResponse, version: i16) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if version >= KNOWN {
        response.encode(&mut body, version).ok()?;
        return Some(body);
    }
    body.put_i32(response.responses.len() as i32);
    for topic in &response.responses {
        body.put_i16(topic.name.len() as i16);
        body.put_slice(topic.name.as_bytes());
        body.put_i32(topic.partition_responses.len() as i32);
        for partition in &topic.partition_responses {
            body.put_i32(partition.index);
            body.put_i16(partition.error_code);
            body.put_i64(partition.base_offset);
            if version >= 2 {
                body.put_i64(partition.log_append_time_ms);
            }
        }
    }
    if version >= 1 {
        body.put_i32(response.throttle_time_ms);
    }
    Some(body)
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

    fn bytes(&mut self, bytes: Option<Bytes>) {
        let Some(bytes) = bytes else {
            if self.flexible {
                self.uvarint(0);
            } else {
                self.written.put_i32(-1);
            }
            return;
        };
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
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::produce_response::BatchIndexAndErrorMessage;

    use super::*;

    fn partition(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }

    fn some_entries() -> Vec<Entry> {
        vec![
            (partition("orders", 0), Some(Bytes::from(vec![1; 3]))),
            (partition("orders", 300), Some(Bytes::from(vec![2; PIECE]))),
            (partition("a", 1), Some(Bytes::new())),
            (partition("a", 2), None),
            (partition(&"t".repeat(249), 2), Some(Bytes::from(vec![3; 300_000]))),
        ]
    }

    #[test]
    fn the_request_is_what_kafka_protocol_reads_in_every_version() {
        let entries = some_entries();
        let data =
            |index: usize| PartitionProduceData::default().with_index(entries[index].0.partition).with_records(entries[index].1.clone());
        let topic = |name: &str, partitions| {
            TopicProduceData::default().with_name(TopicName(name.to_owned().into())).with_partition_data(partitions)
        };
        let expected = ProduceRequest::default().with_acks(ALL).with_timeout_ms(30_000).with_topic_data(vec![
            topic("a", vec![data(2), data(3)]),
            topic("orders", vec![data(0), data(1)]),
            topic(&"t".repeat(249), vec![data(4)]),
        ]);
        for version in VERSIONS.min..=VERSIONS.max {
            let mut bytes = body(entries.clone(), ALL, 30_000, version);
            assert_eq!(ProduceRequest::decode(&mut bytes, version).unwrap(), expected, "v{version}");
            assert!(bytes.is_empty(), "v{version}");
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written_and_nothing_that_breaks_off_is_read() {
        let mut sorted = some_entries();
        sorted.sort_by(|(one, _), (other, _)| one.topic.cmp(&other.topic));
        for version in OTHERS.min..=OTHERS.max {
            let body = body(some_entries(), 1, 7_000, version);
            assert_eq!(entries(&body, version), Some(sorted.clone()), "v{version}");
            let front = Front { is_transactional: false, acks: 1, timeout_ms: 7_000 };
            assert_eq!(Front::peek(&body, version), Some(front), "v{version}");
            // The tagged fields of the body itself are not looked at.
            let end = body.len() - usize::from(version >= FLEXIBLE);
            for len in (0..100).chain(end - 100..end) {
                assert_eq!(entries(&body.slice(..len), version), None, "v{version}, {len} bytes");
            }
        }
    }

    #[test]
    fn what_a_request_announces_is_not_believed() {
        let front = [&[0xff, 0xff, 0, 1, 0, 0, 0, 1][..]].concat();
        for topics in [i32::MAX, 1] {
            let body = Bytes::from([&front[..], &topics.to_be_bytes(), &[0, 1, b'a'], &i32::MAX.to_be_bytes()].concat());
            assert_eq!(entries(&body, 3), None, "{topics}");
        }
        let transactional = [&[0, 2, b't', b'x'][..], &[0xff, 0xff, 0, 0, 0, 9]].concat();
        assert_eq!(Front::peek(&transactional, 3), Some(Front { is_transactional: true, acks: -1, timeout_ms: 9 }));
        assert_eq!(Front::peek(&transactional[..9], 3), None);
    }

    #[test]
    fn the_front_is_read_as_kafka_writes_it() {
        use kafka_protocol::messages::TransactionalId;
        for id in [None, Some(TransactionalId(StrBytes::from_static_str("billing-1")))] {
            for (version, acks) in (KNOWN..=11).flat_map(|version| [-1, 0, 1].map(|acks| (version, acks))) {
                let mut body = Vec::new();
                let request = ProduceRequest::default().with_transactional_id(id.clone()).with_acks(acks).with_timeout_ms(8);
                request.encode(&mut body, version).unwrap();
                let expected = Front { is_transactional: id.is_some(), acks, timeout_ms: 8 };
                assert_eq!(Front::peek(&body, version), Some(expected), "v{version}");
                let len = body.len() - if version >= FLEXIBLE { 2 } else { 4 };
                assert!((0..len).all(|end| Front::peek(&body[..end], version).is_none()), "v{version} {id:?}");
            }
        }
    }

    #[test]
    fn a_batch_is_not_copied() {
        let batch = Bytes::from(vec![7; PIECE]);
        let mut body = write([(partition("orders", 0), Some(batch.clone()))], ALL, 1, VERSIONS.max);
        let in_front = body.remaining() - PIECE - 3;
        body.advance(in_front);
        assert_eq!(body.chunk().as_ptr(), batch.as_ptr());
    }

    #[test]
    fn a_response_is_read_as_it_was_written() {
        let partition = |index| PartitionProduceResponse::default().with_index(index).with_base_offset(5 + i64::from(index));
        let topics = ["orders", "payments"].map(|name| {
            let failed = partition(1).with_error_code(87).with_base_offset(-1);
            TopicProduceResponse::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_partition_responses(vec![partition(0), failed])
        });
        for version in OTHERS.min..=OTHERS.max {
            let mut response = ProduceResponse::default().with_responses(topics.to_vec());
            response.throttle_time_ms = if version >= 1 { 3 } else { 0 };
            for partition in response.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
                partition.log_append_time_ms = if version >= 2 { 77 } else { -1 };
                partition.log_start_offset = if version >= 5 { 4 } else { -1 };
                if version >= 8 && partition.error_code != 0 {
                    partition.record_errors = vec![BatchIndexAndErrorMessage::default().with_batch_index(2)];
                    partition.error_message = Some(StrBytes::from_static_str("invalid"));
                }
            }
            let body = Bytes::from(write_response(&response, version).unwrap());
            assert_eq!(read_response(body.clone(), version).as_ref(), Ok(&response), "v{version}");
            for len in 0..body.len() {
                assert!(read_response(body.slice(..len), version).is_err(), "v{version}, {len} bytes");
            }
        }
    }
}
