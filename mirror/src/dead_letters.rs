//! Records that the follower's cluster will not take, where somebody can look at them: in a topic of their own beside it.
//!
//! # References
//! - `org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter`: the headers

use std::sync::Arc;

use bytes::Bytes;
use kferry_config::dead_letter_topic;
use kferry_wire::batch::Record;
use kferry_wire::client::{TopicPartition, Topics};
use kferry_wire::log::{AppendError, append};

use crate::own_topics::create;
use crate::partition::{Refusal, Shard, Side};

/// `max.message.bytes` of a topic of dead letters: what is too large for its own topic must have room there.
const MAX_MESSAGE_BYTES: &str = "104857600";

/// What each header's name begins with.
const PREFIX: &str = "__connect.errors.";
/// The headers that a dead letter gets behind those of the record, in this order.
const HEADERS: [&str; 9] =
    ["topic", "partition", "offset", "timestamp", "connector.name", "task.id", "stage", "exception.class.name", "exception.message"];
/// The stage of a dead letter that is a record which the follower would not take.
const PRODUCE: &str = "PRODUCE";
/// The stage of a dead letter whose value is the bytes of a batch that cannot be read.
const CONSUME: &str = "CONSUME";

/// A dead letter: a record that the mirror could not copy, or a batch that it could not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its offset in the topic of dead letters.
    pub offset: i64,
    /// The topic that it was read from, by its name on the cluster that led it.
    pub topic: String,
    /// The partition that it was read from.
    pub partition: i32,
    /// Its offset in that partition; of a batch that cannot be read, the first one.
    pub original_offset: i64,
    /// Kafka's error, such as `MessageTooLarge`, or `UNKNOWN`.
    pub error: String,
    /// Why it was left out, in words for an operator.
    pub reason: String,
    /// Whether it is a record; otherwise the value of `record` is the bytes that could not be read.
    pub is_record: bool,
    /// The record as it was on the leader, but for its offset, which is that in the topic of dead letters.
    pub record: Record,
}

impl Letter {
    /// Reads a record of a topic of dead letters. `None` is one that this mirror did not write: others name topics so, too.
    pub fn read(mirror: &str, mut record: Record) -> Option<Self> {
        let added = record.headers.split_off(record.headers.len().checked_sub(HEADERS.len())?);
        let mut values = Vec::new();
        for (name, (key, value)) in HEADERS.iter().zip(added) {
            (key.strip_prefix(PREFIX.as_bytes())? == name.as_bytes()).then_some(())?;
            values.push(String::from_utf8_lossy(&value?).into_owned());
        }
        let [topic, partition, original_offset, timestamp, connector, _, stage, error, reason] = <[String; 9]>::try_from(values).ok()?;
        (connector == connector_name(mirror)).then_some(())?;
        Some(Self {
            offset: record.offset,
            topic,
            partition: partition.parse().ok()?,
            original_offset: original_offset.parse().ok()?,
            error,
            reason,
            is_record: stage == PRODUCE,
            record: Record { timestamp: timestamp.parse().ok()?, ..record },
        })
    }
}

/// What the header `connector.name` of a mirror's dead letters says.
fn connector_name(mirror: &str) -> String {
    format!("kferry-mirror {mirror}")
}

/// The partition whose dead letters are written.
pub(crate) struct Origin<'a> {
    /// The mirror's name.
    pub(crate) mirror: &'a str,
    /// The topic on the cluster that leads it.
    pub(crate) leader: &'a Side,
    /// The topic on the cluster that follows, which gets the topic of dead letters too.
    pub(crate) follower: &'a Side,
    /// The number of the partition.
    pub(crate) partition: i32,
    /// The shard of the partition: nothing is written when that may not be.
    pub(crate) shard: &'a Shard,
    /// How many replicas a topic of dead letters is created with, as [`create`] takes it.
    pub(crate) replication_factor: Option<u16>,
}

/// Writes a refused record, or without one the bytes of a batch that cannot be read, to the topic of dead letters, which is created where it is
/// missing.
///
/// # Errors
/// [`AppendError`]: the letter was not written, or it is not known whether it was. Written again it is there twice.
pub(crate) async fn write(origin: &Origin<'_>, refusal: &Refusal, record: Option<Record>) -> Result<(), AppendError> {
    let client = &origin.follower.client;
    let topic: Arc<str> = dead_letter_topic(&origin.follower.topic).into();
    let metadata = client.metadata(Topics::Named(&[&topic])).await?;
    if metadata.topics.iter().all(|topic| topic.error.is_some()) {
        // A dead letter stays until somebody has seen to it.
        let configs = [("max.message.bytes", MAX_MESSAGE_BYTES), ("retention.ms", "-1")];
        create(client, &topic, 1, origin.replication_factor, &configs).await?;
    }
    let letter = letter(origin.mirror, &origin.leader.partition(origin.partition), refusal, record);
    append(client, &TopicPartition::new(topic, 0), vec![letter], || origin.shard.may_write()).await
}

/// The dead letter of a record of `from`, or of the refused bytes.
fn letter(mirror: &str, from: &TopicPartition, refusal: &Refusal, record: Option<Record>) -> Record {
    let stage = if record.is_some() { PRODUCE } else { CONSUME };
    let now = jiff::Timestamp::now().as_millisecond();
    let record =
        record.unwrap_or_else(|| Record { offset: 0, timestamp: now, key: None, value: Some(refusal.bytes.clone()), headers: Vec::new() });
    let timestamp = record.timestamp.to_string();
    // Its own may be what it is refused for, and this topic would refuse it too.
    let mut record = Record { timestamp: now, ..record };
    let values = [
        from.topic.to_string(),
        from.partition.to_string(),
        refusal.offsets.start.to_string(),
        timestamp,
        connector_name(mirror),
        "0".to_owned(),
        stage.to_owned(),
        refusal.code.map_or_else(|| "UNKNOWN".to_owned(), |code| format!("{code:?}")),
        refusal.reason.clone(),
    ];
    let headers = HEADERS.into_iter().zip(values).map(|(name, value)| (Bytes::from(format!("{PREFIX}{name}")), Some(Bytes::from(value))));
    record.headers.extend(headers);
    record
}

#[cfg(test)]
mod tests {
    use kafka_protocol::ResponseError;

    use super::*;

    fn header(name: &str, value: &str) -> (Bytes, Option<Bytes>) {
        (Bytes::copy_from_slice(name.as_bytes()), Some(Bytes::copy_from_slice(value.as_bytes())))
    }

    #[test]
    fn a_letter_gives_the_record_back_with_its_own_headers() {
        let refusal =
            Refusal { offsets: 17..18, code: Some(ResponseError::MessageTooLarge), reason: "too large".to_owned(), bytes: Bytes::new() };
        // The record may be a dead letter itself, of a connector.
        let headers = vec![header("a", "b"), header("__connect.errors.topic", "theirs"), (Bytes::from("empty"), None)];
        let record = Record { offset: 17, timestamp: 5, key: None, value: Some("v".into()), headers };
        let from = TopicPartition::new("orders", 3);
        let written = Record { offset: 2, ..letter("m", &from, &refusal, Some(record.clone())) };
        assert_eq!(written.headers.len(), 3 + HEADERS.len());
        let read = Letter::read("m", written.clone()).unwrap();
        assert_eq!((read.offset, read.topic.as_str(), read.partition, read.original_offset), (2, "orders", 3, 17));
        assert_eq!((read.error.as_str(), read.reason.as_str(), read.is_record), ("MessageTooLarge", "too large", true));
        assert_eq!(read.record, Record { offset: 2, ..record.clone() });
        for foreign in [record, Record { headers: written.headers[..10].to_vec(), ..written.clone() }] {
            assert_eq!(Letter::read("m", foreign), None);
        }
        assert_eq!(Letter::read("another", written), None);
    }

    #[test]
    fn what_cannot_be_read_is_no_record() {
        let refusal = Refusal { offsets: 5..9, code: None, reason: "broken".to_owned(), bytes: "bytes".into() };
        let read = Letter::read("m", letter("m", &TopicPartition::new("orders", 0), &refusal, None)).unwrap();
        assert!(!read.is_record && read.record.value.as_deref() == Some(b"bytes") && read.error == "UNKNOWN");
    }
}
