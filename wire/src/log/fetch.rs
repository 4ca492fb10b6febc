//! Fetch: what is asked for, and what came.
//!
//! # References
//! - `FetchRequest.json`, `FetchResponse.json`; KIP-227 (fetch sessions: with 2,000 partitions of which few have news, only those are spoken of)
//! - `org.apache.kafka.clients.FetchSessionHandler`

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};

use super::transactions::{AbortedTransaction, Transactions};
use crate::client::TopicPartition;

/// Version 12 is the last that names topics; 13 has ids only. 4 is the first with `read_committed`.
pub const VERSIONS: VersionRange = VersionRange { min: 4, max: 12 };

/// `isolation_level` of a consumer with `read_committed`.
const READ_COMMITTED: i8 = 1;

/// How long a broker may wait before it answers a Fetch, and how many bytes it may send.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// How long the broker may wait until there is a byte to send, in ms.
    pub max_wait_ms: i32,
    /// The most bytes of the whole response. A first batch that is larger comes all the same.
    pub max_bytes: i32,
    /// The most bytes of one partition, with the same exception.
    pub partition_max_bytes: i32,
}

/// What a Fetch response has of one partition.
#[derive(Debug)]
pub struct Fetched {
    /// The partition, as it was asked for.
    pub partition: TopicPartition,
    /// Kafka's error for this partition; the other fields mean nothing then.
    pub error: Option<ResponseError>,
    /// The first offset of the log; -1 from brokers before 1.0.
    pub log_start_offset: i64,
    /// The offset up to which, itself excluded, a consumer with `read_committed` may read.
    pub last_stable_offset: i64,
    /// The offset up to which, itself excluded, a consumer with `read_uncommitted` may read.
    pub high_watermark: i64,
    /// The aborted transactions that have batches among `records`.
    pub transactions: Transactions,
    /// Batches as they are stored; the last one may be cut off anywhere.
    pub records: Bytes,
}

/// A fetch session: the broker keeps what was asked for, and both speak of changes only.
#[derive(Debug, Default)]
pub struct FetchSession {
    /// `session_id`; 0 is no session.
    id: i32,
    /// `session_epoch`: 0 opens a session, then it grows by one with each request.
    epoch: i32,
    /// The offset that the broker was last asked for, of each partition that it has in the session.
    asked: HashMap<TopicPartition, i64>,
}

impl FetchSession {
    /// The request that asks for `wanted`, the partitions and the offset of each to fetch from. It names only what has changed since the request
    /// before, so it has to be sent, and its response [taken in](Self::take_in), before the next one is made.
    pub fn request(&mut self, wanted: HashMap<TopicPartition, i64>, amount: Amount) -> FetchRequest {
        let mut topics: HashMap<Arc<str>, Vec<FetchPartition>> = HashMap::new();
        for (wanted, offset) in &wanted {
            if self.asked.get(wanted) != Some(offset) {
                let partition = FetchPartition::default()
                    .with_partition(wanted.partition)
                    .with_fetch_offset(*offset)
                    .with_partition_max_bytes(amount.partition_max_bytes);
                topics.entry(wanted.topic.clone()).or_default().push(partition);
            }
        }
        let mut forgotten: HashMap<Arc<str>, Vec<i32>> = HashMap::new();
        for asked in self.asked.keys().filter(|asked| !wanted.contains_key(*asked)) {
            forgotten.entry(asked.topic.clone()).or_default().push(asked.partition);
        }
        self.asked = wanted;
        let name = |topic: &Arc<str>| TopicName(StrBytes::from_string(topic.to_string()));
        FetchRequest::default()
            .with_max_wait_ms(amount.max_wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(amount.max_bytes)
            .with_isolation_level(READ_COMMITTED)
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
            .with_topics(
                topics
                    .into_iter()
                    .map(|(topic, partitions)| FetchTopic::default().with_topic(name(&topic)).with_partitions(partitions))
                    .collect(),
            )
            .with_forgotten_topics_data(
                forgotten
                    .into_iter()
                    .map(|(topic, partitions)| ForgottenTopic::default().with_topic(name(&topic)).with_partitions(partitions))
                    .collect(),
            )
    }

    /// Takes a response in: what it has of each partition, nothing if the broker has dropped the session. The next request asks for everything then.
    ///
    /// # Errors
    /// Kafka's error for the response as a whole. The session is given up, and the next request asks for everything.
    pub fn take_in(&mut self, response: FetchResponse) -> Result<Vec<Fetched>, ResponseError> {
        match response.error_code.err() {
            None => {}
            Some(ResponseError::FetchSessionIdNotFound | ResponseError::InvalidFetchSessionEpoch) => {
                *self = Self::default();
                return Ok(Vec::new());
            }
            Some(error) => {
                *self = Self::default();
                return Err(error);
            }
        }
        self.id = response.session_id;
        if self.id == 0 {
            // The broker keeps no session for us: its cache is full, or it is older than 1.1.
            (self.epoch, self.asked) = (0, HashMap::new());
        } else {
            self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        }
        let fetched = response.responses.into_iter().flat_map(|topic| {
            let name: Arc<str> = topic.topic.as_str().into();
            topic.partitions.into_iter().map(move |partition| Fetched {
                partition: TopicPartition::new(name.clone(), partition.partition_index),
                error: partition.error_code.err(),
                log_start_offset: partition.log_start_offset,
                last_stable_offset: partition.last_stable_offset,
                high_watermark: partition.high_watermark,
                transactions: Transactions::new(
                    partition
                        .aborted_transactions
                        .into_iter()
                        .flatten()
                        .map(|aborted| AbortedTransaction { producer_id: aborted.producer_id.0, first_offset: aborted.first_offset }),
                ),
                records: partition.records.unwrap_or_default(),
            })
        });
        Ok(fetched.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNT: Amount = Amount { max_wait_ms: 500, max_bytes: 1, partition_max_bytes: 1 };

    fn wanted(offsets: &[(&str, i32, i64)]) -> HashMap<TopicPartition, i64> {
        offsets.iter().map(|&(topic, partition, offset)| (TopicPartition::new(topic, partition), offset)).collect()
    }

    fn asked(request: &FetchRequest) -> Vec<(String, i32, i64)> {
        let partitions = |topic: &FetchTopic| -> Vec<_> {
            topic.partitions.iter().map(|partition| (topic.topic.to_string(), partition.partition, partition.fetch_offset)).collect()
        };
        let mut asked: Vec<_> = request.topics.iter().flat_map(partitions).collect();
        asked.sort();
        asked
    }

    #[test]
    fn a_session_speaks_of_changes_only() {
        let mut session = FetchSession::default();
        let first = session.request(wanted(&[("a", 0, 5), ("a", 1, 6), ("b", 0, 7)]), AMOUNT);
        assert_eq!((first.session_id, first.session_epoch, asked(&first).len()), (0, 0, 3));
        session.take_in(FetchResponse::default().with_session_id(77)).unwrap();
        let second = session.request(wanted(&[("a", 0, 9), ("a", 1, 6)]), AMOUNT);
        assert_eq!((second.session_id, second.session_epoch), (77, 1));
        assert_eq!(asked(&second), [("a".to_owned(), 0, 9)]);
        assert_eq!((second.forgotten_topics_data[0].topic.as_str(), &second.forgotten_topics_data[0].partitions[..]), ("b", &[0][..]));
    }

    #[test]
    fn without_a_session_everything_is_asked_for_each_time() {
        let mut session = FetchSession::default();
        for _ in 0..2 {
            let request = session.request(wanted(&[("a", 0, 5)]), AMOUNT);
            assert_eq!((request.session_epoch, asked(&request).len()), (0, 1));
            session.take_in(FetchResponse::default()).unwrap();
        }
        session.request(wanted(&[("a", 0, 5)]), AMOUNT);
        session.take_in(FetchResponse::default().with_session_id(77)).unwrap();
        session.request(wanted(&[("a", 0, 5)]), AMOUNT);
        assert!(session.take_in(FetchResponse::default().with_error_code(70)).unwrap().is_empty());
        let request = session.request(wanted(&[("a", 0, 5)]), AMOUNT);
        assert_eq!((request.session_id, request.session_epoch, asked(&request).len()), (0, 0, 1));
    }
}
