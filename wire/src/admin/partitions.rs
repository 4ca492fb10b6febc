//! What the leader of a partition knows and does.
//!
//! # References
//! - KIP-320 (OffsetForLeaderEpoch), KIP-664 (DescribeProducers), KIP-107 (DeleteRecords), KIP-98 (WriteTxnMarkers)

use std::collections::BTreeMap;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DeleteRecordsRequest, DescribeProducersRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest, ProducerId,
    WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::VersionRange;

use super::{by_topic, timeout_ms, topic_name};
use crate::client::{Answers, Client, ClientError, Leaders, Resend, Subject, TopicPartition};

/// The isolation level is there from version 2 on.
const LIST_OFFSETS: VersionRange = VersionRange { min: 2, max: 9 };
/// From version 3 on consumers may ask, not only replicas.
const OFFSET_FOR_LEADER_EPOCH: VersionRange = VersionRange { min: 3, max: 4 };
const DESCRIBE_PRODUCERS: VersionRange = VersionRange { min: 0, max: 0 };
const DELETE_RECORDS: VersionRange = VersionRange { min: 0, max: 2 };
const WRITE_TXN_MARKERS: VersionRange = VersionRange { min: 1, max: 1 };

/// A consumer: not a replica.
const CONSUMER: BrokerId = BrokerId(-1);
/// Nor this one, but it is told the log end and not the high watermark, and by any replica (`ListOffsetsRequest.DEBUGGING_REPLICA_ID`).
const DEBUGGER: BrokerId = BrokerId(-2);

/// A place in a log that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The log start offset: the first that can be read.
    LogStart,
    /// The high watermark, which consumers take for the end. The log may go on behind it: see [`Client::log_end`].
    HighWatermark,
    /// The last stable offset: up to there no transaction is open.
    LastStable,
}

/// The first record at or after a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp: i64,
}

/// A producer as a partition's leader remembers it, for `producer.id.expiration.ms` after its last batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch; -1 if only markers are known of it.
    pub producer_epoch: i32,
    /// The sequence number of its last record, -1 if there is none.
    pub last_sequence: i32,
    /// The largest timestamp of its last batch, in milliseconds since 1970.
    pub last_timestamp: i64,
    /// The epoch of the coordinator that wrote its last marker, -1 if there is none.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub current_txn_start_offset: Option<i64>,
}

/// The marker at the end of a transaction, in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnMarker {
    /// Where.
    pub partition: TopicPartition,
    /// Whose transaction.
    pub producer_id: i64,
    /// The producer's epoch. A lower one than the last known is refused.
    pub producer_epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// The coordinator's epoch. A lower one than in the producer's last marker is refused.
    pub coordinator_epoch: i32,
}

impl Client {
    /// Places in logs.
    pub async fn list_offsets(&self, partitions: &[TopicPartition], position: Position) -> Answers<TopicPartition, i64> {
        let (timestamp, isolation_level) = match position {
            Position::LogStart => (-2, 0),
            Position::HighWatermark => (-1, 0),
            Position::LastStable => (-1, 1),
        };
        let asked = partitions.iter().map(|partition| (partition.clone(), timestamp)).collect();
        self.offsets(asked, CONSUMER, isolation_level, |answer| answer.offset).await
    }

    /// For each partition the first record at or after a time, in milliseconds since 1970. `None` if all are before. Markers count as
    /// records here, with the time when they were written.
    pub async fn offsets_for_times(
        &self,
        times: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Answers<TopicPartition, Option<OffsetAndTimestamp>> {
        self.offsets(times.into_iter().collect(), CONSUMER, 0, |answer| {
            (answer.offset >= 0).then_some(OffsetAndTimestamp { offset: answer.offset, timestamp: answer.timestamp })
        })
        .await
    }

    async fn offsets<T>(
        &self,
        asked: BTreeMap<TopicPartition, i64>,
        replica_id: BrokerId,
        isolation_level: i8,
        read: impl Fn(&ListOffsetsPartitionResponse) -> T,
    ) -> Answers<TopicPartition, T> {
        let read = &read;
        self.spread(ApiKey::ListOffsets, Leaders, Resend::Always, asked, |connection, batch| async move {
            let topics = by_topic(batch).into_iter().map(|(topic, partitions)| {
                let partitions = partitions.into_iter().map(|(index, timestamp)| {
                    let leader = self.leader(&TopicPartition::new(topic.clone(), index)).filter(|_| replica_id == DEBUGGER);
                    ListOffsetsPartition::default()
                        .with_partition_index(index)
                        .with_current_leader_epoch(leader.map_or(-1, |leader| leader.epoch))
                        .with_timestamp(timestamp)
                });
                ListOffsetsTopic::default().with_name(topic_name(&topic)).with_partitions(partitions.collect())
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(replica_id)
                .with_isolation_level(isolation_level)
                .with_topics(topics.collect());
            let (asked, answer) = self.send(&connection, LIST_OFFSETS, |_| request).await?;
            let mut results = Vec::new();
            for topic in &answer.topics {
                for answer in &topic.partitions {
                    let partition = TopicPartition::new(topic.name.as_str(), answer.partition_index);
                    let checked = asked.check(&Subject::partition(&partition), answer.error_code, None);
                    results.push((partition, checked.map(|()| read(answer))));
                }
            }
            Ok(results)
        })
        .await
    }

    /// The ends of logs: the offsets that the next records will get.
    ///
    /// This is the answer to OffsetForLeaderEpoch for the leader's present epoch. ListOffsets only tells the high watermark, which stays
    /// behind while a replica does. Each comes from a broker that led the partition when it answered. Logs in a message format before 0.11
    /// have no epochs: of them ListOffsets tells the end to who asks as a debugger.
    pub async fn log_ends(&self, partitions: &[TopicPartition]) -> Answers<TopicPartition, i64> {
        let asked = partitions.iter().map(|partition| (partition.clone(), ())).collect();
        let answers = self.spread(ApiKey::OffsetForLeaderEpoch, Leaders, Resend::Always, asked, |connection, batch| async move {
            let topics = by_topic(batch).into_iter().map(|(topic, partitions)| {
                let partitions = partitions.into_iter().map(|(index, ())| {
                    // Forgotten meanwhile: no leader has this epoch, so the broker refuses and we look again.
                    let epoch = self.leader(&TopicPartition::new(topic.clone(), index)).map_or(i32::MAX, |leader| leader.epoch);
                    OffsetForLeaderPartition::default().with_partition(index).with_current_leader_epoch(epoch).with_leader_epoch(epoch)
                });
                OffsetForLeaderTopic::default().with_topic(topic_name(&topic)).with_partitions(partitions.collect())
            });
            let request = OffsetForLeaderEpochRequest::default().with_replica_id(CONSUMER).with_topics(topics.collect());
            let (asked, answer) = self.send(&connection, OFFSET_FOR_LEADER_EPOCH, |_| request).await?;
            let mut results = Vec::new();
            for topic in &answer.topics {
                for answer in &topic.partitions {
                    let partition = TopicPartition::new(topic.topic.as_str(), answer.partition);
                    let checked = asked.check(&Subject::partition(&partition), answer.error_code, None);
                    results.push((partition, checked.map(|()| answer.end_offset)));
                }
            }
            Ok(results)
        });
        let mut answers = answers.await;
        let without_epochs =
            answers.iter().filter(|(_, end)| matches!(end, Ok(..0))).map(|(partition, _)| (partition.clone(), -1)).collect();
        answers.append(&mut self.offsets(without_epochs, DEBUGGER, 0, |answer| answer.offset).await);
        answers
    }

    /// The end of a log, as [`Self::log_ends`].
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn log_end(&self, topic: &str, partition: i32) -> Result<i64, ClientError> {
        let partition = TopicPartition::new(topic, partition);
        let answers = self.log_ends(std::slice::from_ref(&partition)).await;
        self.only(ApiKey::OffsetForLeaderEpoch, &partition, answers)
    }

    /// The producers that the leader of a partition remembers. Brokers know the API since 2.8.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn describe_producers(&self, topic: &str, partition: i32) -> Result<Vec<ActiveProducer>, ClientError> {
        let partition = TopicPartition::new(topic, partition);
        let answers = self.producers_of(std::slice::from_ref(&partition)).await;
        self.only(ApiKey::DescribeProducers, &partition, answers)
    }

    /// The producers that the leader of each partition remembers, as [`Self::describe_producers`].
    pub async fn producers_of(&self, partitions: &[TopicPartition]) -> Answers<TopicPartition, Vec<ActiveProducer>> {
        let asked = partitions.iter().map(|partition| (partition.clone(), ())).collect();
        self.spread(ApiKey::DescribeProducers, Leaders, Resend::Always, asked, |connection, batch| async move {
            let topics = by_topic(batch).into_iter().map(|(topic, partitions)| {
                let indexes = partitions.into_iter().map(|(index, ())| index).collect();
                TopicRequest::default().with_name(topic_name(&topic)).with_partition_indexes(indexes)
            });
            let request = DescribeProducersRequest::default().with_topics(topics.collect());
            let (asked, answer) = self.send(&connection, DESCRIBE_PRODUCERS, |_| request).await?;
            let mut results = Vec::new();
            for topic in &answer.topics {
                for answer in &topic.partitions {
                    let partition = TopicPartition::new(topic.name.as_str(), answer.partition_index);
                    let checked = asked.check(&Subject::partition(&partition), answer.error_code, answer.error_message.as_ref());
                    let producers = answer.active_producers.iter().map(|state| ActiveProducer {
                        producer_id: state.producer_id.0,
                        producer_epoch: state.producer_epoch,
                        last_sequence: state.last_sequence,
                        last_timestamp: state.last_timestamp,
                        coordinator_epoch: state.coordinator_epoch,
                        current_txn_start_offset: (state.current_txn_start_offset >= 0).then_some(state.current_txn_start_offset),
                    });
                    results.push((partition, checked.map(|()| producers.collect())));
                }
            }
            Ok(results)
        })
        .await
    }

    /// Moves the log start up to an offset, not above the high watermark. Returns the low watermark, the lowest log start of all replicas: it
    /// is there when all of them have followed.
    ///
    /// # Errors
    /// [`ClientError`]; `POLICY_VIOLATION` for a topic that is only compacted.
    pub async fn delete_records(&self, topic: &str, partition: i32, before_offset: i64) -> Result<i64, ClientError> {
        let partition = TopicPartition::new(topic, partition);
        let asked = BTreeMap::from([(partition.clone(), before_offset)]);
        let answers = self.spread(ApiKey::DeleteRecords, Leaders, Resend::Always, asked, |connection, batch| async move {
            let topics = by_topic(batch).into_iter().map(|(topic, partitions)| {
                let partitions = partitions
                    .into_iter()
                    .map(|(index, offset)| DeleteRecordsPartition::default().with_partition_index(index).with_offset(offset));
                DeleteRecordsTopic::default().with_name(topic_name(&topic)).with_partitions(partitions.collect())
            });
            let request = DeleteRecordsRequest::default().with_topics(topics.collect()).with_timeout_ms(timeout_ms());
            let (asked, answer) = self.send(&connection, DELETE_RECORDS, |_| request).await?;
            let mut results = Vec::new();
            for topic in &answer.topics {
                for answer in &topic.partitions {
                    let partition = TopicPartition::new(topic.name.as_str(), answer.partition_index);
                    let checked = asked.check(&Subject::partition(&partition), answer.error_code, None);
                    results.push((partition, checked.map(|()| answer.low_watermark)));
                }
            }
            Ok(results)
        });
        let answers = answers.await;
        self.only(ApiKey::DeleteRecords, &partition, answers)
    }

    /// Appends markers, in their order in each partition, as a transaction's coordinator does. Sent once: where the answer is lost
    /// ([`ClientError::may_have_executed`]), or some of a partition's markers are refused, its log end tells how many landed.
    ///
    /// Brokers keep the errors by producer id and partition, the last wins: so the result of a partition with several markers of one producer
    /// id is that of its last one.
    pub async fn write_txn_markers(&self, markers: &[TxnMarker]) -> Answers<TopicPartition, ()> {
        let mut asked: BTreeMap<TopicPartition, Vec<&TxnMarker>> = BTreeMap::new();
        for marker in markers {
            asked.entry(marker.partition.clone()).or_default().push(marker);
        }
        self.spread(ApiKey::WriteTxnMarkers, Leaders, Resend::Never, asked, |connection, batch| async move {
            // An entry that names a partition twice never gets an answer: so one entry for each.
            let entries = batch.iter().flat_map(|(_, markers)| markers).map(|marker| {
                let TopicPartition { topic, partition } = &marker.partition;
                let topic = WritableTxnMarkerTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![*partition]);
                WritableTxnMarker::default()
                    .with_producer_id(ProducerId(marker.producer_id))
                    .with_producer_epoch(marker.producer_epoch)
                    .with_transaction_result(marker.commit)
                    .with_coordinator_epoch(marker.coordinator_epoch)
                    .with_topics(vec![topic])
            });
            let request = WriteTxnMarkersRequest::default().with_markers(entries.collect());
            let (asked, answer) = self.send(&connection, WRITE_TXN_MARKERS, |_| request).await?;
            let mut checked: Answers<(TopicPartition, i64), ()> = BTreeMap::new();
            for answer in &answer.markers {
                for topic in &answer.topics {
                    for result in &topic.partitions {
                        let partition = TopicPartition::new(topic.name.as_str(), result.partition_index);
                        let result = asked.check(&Subject::partition(&partition), result.error_code, None);
                        checked.insert((partition, answer.producer_id.0), result);
                    }
                }
            }
            let results = batch.into_iter().map(|(partition, markers)| {
                let each = markers.iter().map(|marker| {
                    let answer = checked.get(&(partition.clone(), marker.producer_id)).cloned();
                    answer.unwrap_or_else(|| Err(self.incomplete(asked.api, &partition)))
                });
                let all = each.collect();
                (partition.clone(), all)
            });
            Ok(results.collect())
        })
        .await
    }
}
