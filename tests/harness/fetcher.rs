//! A consumer that looks at nothing but where the next batch begins: what it costs itself is as little as can be, so what is between it and its broker
//! is what is measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{ApiKey, FetchRequest, MetadataRequest, MetadataResponse, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable as _, StrBytes};

use crate::raw::{self, Raw};

const CLIENT_ID: Option<&str> = Some("fetcher");
/// `fetch.max.bytes`
pub const MAX_BYTES: i32 = 16 * 1024 * 1024;
/// How much is read at once.
const SCRATCH: usize = 256 * 1024;

/// What has come, with all that is around the records.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    /// Bytes.
    pub bytes: u64,
    /// Whole batches.
    pub batches: u64,
    /// From the first request on.
    pub took: Duration,
}

/// A topic's name on the wire.
pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// The port on 127.0.0.1 of the leader of a topic's partition 0, as the one that answers at `port` tells it.
pub fn leader(port: u16, topic: &str) -> Result<u16> {
    const VERSION: i16 = 4;
    let wanted = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let question = MetadataRequest::default().with_topics(Some(vec![wanted]));
    let mut answer = Bytes::from(Raw::connect(port)?.ask(&raw::request_frame(ApiKey::Metadata, VERSION, 1, CLIENT_ID, &question))?);
    ResponseHeader::decode(&mut answer, 0)?;
    let answer = MetadataResponse::decode(&mut answer, VERSION)?;
    let leader = answer.topics.first().and_then(|topic| topic.partitions.first()).context("no partition")?.leader_id;
    let broker = answer.brokers.iter().find(|broker| broker.node_id == leader).context("the leader is no broker")?;
    ensure!(broker.host.as_str() == "127.0.0.1", "the broker is at {}", broker.host.as_str());
    Ok(u16::try_from(broker.port)?)
}

/// Reads partition 0 of a topic through a connection of its own, again from its start at its end, until so many bytes have come.
pub fn fetch(port: u16, topic: &str, bytes: u64) -> Result<Fetched> {
    let mut connection = Raw::connect(port)?;
    connection.ask(&raw::api_versions(0, CLIENT_ID))?;
    let mut fetcher = Fetcher { connection, scratch: vec![0; SCRATCH], topic, offset: 0, bytes: 0, batches: 0 };
    let start = Instant::now();
    while fetcher.bytes < bytes {
        fetcher.once()?;
    }
    Ok(Fetched { bytes: fetcher.bytes, batches: fetcher.batches, took: start.elapsed() })
}

struct Fetcher<'a> {
    connection: Raw,
    scratch: Vec<u8>,
    topic: &'a str,
    offset: i64,
    bytes: u64,
    batches: u64,
}

impl Fetcher<'_> {
    fn once(&mut self) -> Result<()> {
        /// What relayed clients are offered at most.
        const VERSION: i16 = 11;
        const CORRELATION_ID: i32 = 7;
        /// Of a batch, up to the end of its lastOffsetDelta.
        const BATCH_HEAD: usize = 27;
        let partition = FetchPartition::default().with_fetch_offset(self.offset).with_partition_max_bytes(MAX_BYTES);
        let topic = FetchTopic::default().with_topic(name(self.topic)).with_partitions(vec![partition]);
        let request = FetchRequest::default().with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(MAX_BYTES);
        // No session.
        let request = request.with_session_epoch(-1).with_topics(vec![topic]);
        self.connection.send(&raw::request_frame(ApiKey::Fetch, VERSION, CORRELATION_ID, CLIENT_ID, &request))?;

        // Size, correlation id, throttle time, error, session id; one topic, one partition: id, error, high watermark, last stable offset, log
        // start offset, aborted transactions, preferred read replica, size of the records.
        let topic_at = 4 + 4 + 4 + 2 + 4 + 4;
        let partition_at = topic_at + 2 + self.topic.len() + 4;
        let head = self.read(partition_at + 4 + 2 + 3 * 8 + 3 * 4)?;
        let (id, errors) = (i32_at(&head, 4), [i16_at(&head, 12), i16_at(&head, partition_at + 4)]);
        ensure!(id == CORRELATION_ID && errors == [0, 0], "Fetch: correlation id {id}, errors {errors:?}");
        let high_watermark = i64_at(&head, partition_at + 6);
        let tail = head.len() - 12;
        ensure!(i32_at(&head, tail) <= 0, "there are aborted transactions, which this fetcher does not read");
        let mut left = i32_at(&head, tail + 8) as usize;
        ensure!(4 + i32_at(&head, 0) as usize == head.len() + left, "an answer of another form");

        let before = self.offset;
        while left > BATCH_HEAD {
            let head = self.read(BATCH_HEAD)?;
            left -= BATCH_HEAD;
            // Its length is that of what follows the length.
            let rest = (i32_at(&head, 8) as usize + 12).saturating_sub(BATCH_HEAD);
            // The last one may be cut: answers end where max_bytes are full.
            if rest <= left {
                self.offset = i64_at(&head, 0) + i64::from(i32_at(&head, 23)) + 1;
                self.batches += 1;
            }
            self.throw_away(rest.min(left))?;
            left -= rest.min(left);
        }
        self.throw_away(left)?;
        ensure!(self.offset > before, "offset {before} of {high_watermark}: nothing came");
        if self.offset >= high_watermark {
            self.offset = 0;
        }
        Ok(())
    }

    fn read(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let read = self.connection.read(&mut bytes[filled..])?;
            filled += self.count(read)?;
        }
        Ok(bytes)
    }

    fn throw_away(&mut self, mut len: usize) -> Result<()> {
        while len > 0 {
            let read = self.connection.read(&mut self.scratch[..len.min(SCRATCH)])?;
            len -= self.count(read)?;
        }
        Ok(())
    }

    fn count(&mut self, read: usize) -> Result<usize> {
        ensure!(read > 0, "closed in the middle of an answer");
        self.bytes += read as u64;
        Ok(read)
    }
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
