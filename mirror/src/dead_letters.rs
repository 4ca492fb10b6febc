//! Records that the follower's cluster will not take, where somebody can look at them: in a topic of their own beside it.
//!
//! # References
//! - `org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter`: the headers

use std::sync::Arc;

use bytes::Bytes;
use kferry_wire::batch::Record;
use kferry_wire::client::{TopicPartition, Topics};

use crate::append::{self, AppendError, append};
use crate::job::{Job, Refusal};

/// What is too large for its topic must have room in this one.
const MAX_MESSAGE_BYTES: &str = "104857600";

/// The topic of dead letters of a topic.
pub fn topic(topic: &str) -> String {
    format!("{topic}.DLT")
}

/// Writes a record, or the bytes of a batch that cannot be read, to the topic of dead letters, which is created where it is missing,
/// with so many replicas (see [`append::create`]).
pub async fn write(job: &Job, refusal: &Refusal, record: Option<Record>, replication_factor: Option<u16>) -> Result<(), AppendError> {
    let client = &job.follower.client;
    let topic: Arc<str> = topic(&job.follower.topic).into();
    let metadata = client.metadata(Topics::Named(&[&topic])).await?;
    if metadata.topics.iter().all(|topic| topic.error.is_some()) {
        // A dead letter stays until somebody has seen to it.
        let configs = [("max.message.bytes", MAX_MESSAGE_BYTES), ("retention.ms", "-1")];
        append::create(client, &topic, 1, replication_factor, &configs).await?;
    }
    let now = jiff::Timestamp::now().as_millisecond();
    let record =
        record.unwrap_or_else(|| Record { offset: 0, timestamp: now, key: None, value: Some(refusal.bytes.clone()), headers: Vec::new() });
    let timestamp = record.timestamp.to_string();
    // Its own may be what it is refused for, and this topic would refuse it too.
    let mut record = Record { timestamp: now, ..record };
    let code = refusal.code.map_or_else(|| "UNKNOWN".to_owned(), |code| format!("{code:?}"));
    let headers = [
        ("topic", job.leader.topic.to_string()),
        ("partition", job.partition.to_string()),
        ("offset", refusal.offsets.start.to_string()),
        ("timestamp", timestamp),
        ("connector.name", format!("kferry-mirror {}", job.mirror)),
        ("task.id", "0".to_owned()),
        ("stage", "PRODUCE".to_owned()),
        ("exception.class.name", code),
        ("exception.message", refusal.reason.clone()),
    ];
    for (name, value) in headers {
        record.headers.push((Bytes::from(format!("__connect.errors.{name}")), Some(Bytes::from(value))));
    }
    append(client, &TopicPartition::new(topic, 0), vec![record], || job.shard.may_write()).await
}
