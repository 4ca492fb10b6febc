//! What the mirror knows of each partition, in a compacted topic on the target: for its next start, for the proxy and for the operator.
//!
//! The follower's log end is the progress. What is here cannot be read from the logs: which topic the copy was begun from, up to where
//! both logs were known to be equal, who leads, and that they have diverged.
//!
//! Keys and values are JSON. A partition's key is `{"topic":"orders","partition":0}`, by the topic's name on the mirror's source, and a
//! topic's leader is under `{"topic":"orders"}`. All that is about a partition is in one partition of the topic: those are the shards that
//! several processes will share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kferry_wire::admin::partitions::Position;
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::batch::Record;
use kferry_wire::client::{Client, ClientError, TopicPartition, Topics};
use serde::{Deserialize, Serialize};

use crate::append::{AppendError, append};
use crate::group_state::{Changes, GroupKey, GroupLog, GroupStates};
use crate::job::{Phase, Side};
use crate::log::{LogReader, ReadError};

/// Partitions of the topic.
const SHARDS: i32 = 16;
/// The active segment is never compacted, and all of it is read at a start. Groups that commit all the time write a record for each offset.
const SEGMENT: &str = "4194304";
/// Bytes of state in one answer.
const MAX_BYTES: i32 = 1 << 20;

/// What is kept of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// How its offsets are kept: `preserve`.
    pub mode: String,
    /// What it was doing.
    pub phase: Phase,
    /// Why it is not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The cluster that leads, by its name.
    pub leader: String,
    /// The leader's term.
    pub term: i32,
    /// The first offset of the term.
    pub term_start: i64,
    /// The topic's id on each cluster, by the cluster's name: a topic that was created anew has another one.
    pub topic_ids: BTreeMap<String, String>,
    /// Up to here both logs are equal.
    pub agreed: i64,
    /// Offsets, from and to, whose records were left out by `on_error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<(i64, i64)>,
}

/// Who leads a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderState {
    /// The cluster, by its name.
    pub leader: String,
    /// Since which term.
    pub term: i32,
}

#[derive(Serialize, Deserialize)]
struct Key<'a> {
    topic: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
}

/// The topic's content, and the way to change it.
pub struct State {
    client: Client,
    topic: Arc<str>,
    /// The next offset to read of each partition.
    positions: BTreeMap<i32, i64>,
    partitions: HashMap<TopicPartition, PartitionState>,
    leaders: HashMap<Arc<str>, LeaderState>,
    groups: Arc<GroupStates>,
}

/// State that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The cluster says no, or nothing.
    #[error("the mirror's state: {0}")]
    Client(#[from] ClientError),
    /// The topic cannot be read.
    #[error("the mirror's state: {0}")]
    Read(#[from] ReadError),
    /// The topic cannot be written.
    #[error("the mirror's state: {0}")]
    Append(#[from] AppendError),
}

/// The name of a mirror's topic.
pub fn topic(mirror: &str) -> String {
    format!("__kferry.mirror.{mirror}")
}

impl State {
    /// Reads all of a mirror's state on its target; creates the topic where it is missing and `create` is set. `None` where it is missing.
    pub async fn open(client: Client, mirror: &str, create: bool) -> Result<Option<Self>, StateError> {
        let topic: Arc<str> = topic(mirror).into();
        let metadata = client.metadata(Topics::Named(&[&topic])).await?;
        let there = metadata.topics.iter().find(|known| known.error.is_none());
        let partitions = match there {
            Some(there) => there.partitions.len() as i32,
            None if create => {
                let replication_factor = metadata.brokers.len().min(3) as i16;
                let new = NewTopic {
                    name: topic.to_string(),
                    partitions: NewPartitions::Count { partitions: Some(SHARDS), replication_factor: Some(replication_factor) },
                    configs: [("cleanup.policy", "compact"), ("segment.bytes", SEGMENT)]
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                };
                client.create_topics(&[new], false).await.into_values().next().transpose()?;
                SHARDS
            }
            None => return Ok(None),
        };
        let positions = (0..partitions).map(|partition| (partition, 0)).collect();
        let mut state = Self { client, topic, positions, partitions: HashMap::new(), leaders: HashMap::new(), groups: Arc::default() };
        state.refresh().await?;
        Ok(Some(state))
    }

    /// Reads what has been written since.
    pub async fn refresh(&mut self) -> Result<(), StateError> {
        let partitions: Vec<_> = self.positions.keys().map(|partition| TopicPartition::new(self.topic.clone(), *partition)).collect();
        let starts = self.client.list_offsets(&partitions, Position::LogStart).await;
        let ends = self.client.list_offsets(&partitions, Position::LastStable).await;
        for partition in partitions {
            let offset =
                |answers: &BTreeMap<_, Result<_, ClientError>>| answers.get(&partition).cloned().transpose().map(Option::unwrap_or_default);
            let (start, end): (i64, i64) = (offset(&starts)?, offset(&ends)?);
            let at = self.positions[&partition.partition].max(start);
            if at >= end {
                continue;
            }
            let side = Side { client: self.client.clone(), topic: self.topic.clone() };
            let mut reader = LogReader::new(side, partition.partition, at, end, MAX_BYTES);
            while let Some(record) = reader.next().await? {
                self.take(&record);
            }
            self.positions.insert(partition.partition, end);
        }
        Ok(())
    }

    fn take(&mut self, record: &Record) {
        if let Some(Ok(key)) = record.key.as_ref().map(|key| serde_json::from_slice::<GroupKey<'_>>(key)) {
            if let Err(error) = Arc::make_mut(&mut self.groups).take(key, record.value.as_deref()) {
                tracing::warn!(topic = &*self.topic, offset = record.offset, %error, "the mirror's state has a record that it cannot read");
            }
            return;
        }
        let Some(Ok(key)) = record.key.as_ref().map(|key| serde_json::from_slice::<Key<'_>>(key)) else {
            return tracing::warn!(
                topic = &*self.topic,
                offset = record.offset,
                "the mirror's state has a record with a key that it does not know"
            );
        };
        let topic: Arc<str> = key.topic.as_ref().into();
        let value = record.value.as_deref();
        let read = match key.partition {
            Some(partition) => {
                let partition = TopicPartition::new(topic, partition);
                take_value(&mut self.partitions, partition, value)
            }
            None => take_value(&mut self.leaders, topic, value),
        };
        if let Err(error) = read {
            tracing::warn!(topic = &*self.topic, offset = record.offset, %error, "the mirror's state has a record that it cannot read");
        }
    }

    /// What is known of a partition.
    pub fn partition(&self, partition: &TopicPartition) -> Option<&PartitionState> {
        self.partitions.get(partition)
    }

    /// Who leads a topic; `None` is the mirror's source, in term 1.
    pub fn leader(&self, topic: &str) -> Option<&LeaderState> {
        self.leaders.get(topic)
    }

    /// What is known of groups.
    pub fn groups(&self) -> &Arc<GroupStates> {
        &self.groups
    }

    /// The way to keep what is known of groups.
    pub fn group_log(&self) -> GroupLog {
        GroupLog { client: self.client.clone(), topic: self.topic.clone(), shards: self.positions.len() as i32 }
    }

    /// What was kept by way of it.
    pub fn groups_changed(&mut self, changes: Changes) {
        Arc::make_mut(&mut self.groups).apply(changes);
    }

    /// Keeps what is known of partitions.
    pub async fn save(&mut self, states: Vec<(TopicPartition, PartitionState)>) -> Result<(), StateError> {
        let mut shards: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
        let timestamp = jiff::Timestamp::now().as_millisecond();
        for (partition, state) in &states {
            let key = Key { topic: (&*partition.topic).into(), partition: Some(partition.partition) };
            let record = Record { offset: 0, timestamp, key: Some(json(&key)), value: Some(json(state)), headers: Vec::new() };
            shards.entry(self.shard(partition)).or_default().push(record);
        }
        for (shard, records) in shards {
            append(&self.client, &TopicPartition::new(self.topic.clone(), shard), records).await?;
        }
        self.partitions.extend(states);
        Ok(())
    }

    /// Which partition of the state's topic is about a partition.
    pub fn shard(&self, partition: &TopicPartition) -> i32 {
        (crate::cut::producer_id("", &partition.topic, partition.partition, 0) % self.positions.len() as i64) as i32
    }
}

fn take_value<K: std::hash::Hash + Eq, V: for<'a> Deserialize<'a>>(
    table: &mut HashMap<K, V>,
    key: K,
    value: Option<&[u8]>,
) -> Result<(), serde_json::Error> {
    match value {
        Some(value) => drop(table.insert(key, serde_json::from_slice(value)?)),
        None => drop(table.remove(&key)),
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("names and numbers are always JSON").into()
}
