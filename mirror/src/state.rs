//! What the mirror knows of each partition, in a compacted topic on the target: for its next start, for the proxy and for the operator.
//!
//! The follower's log end is the progress. What is here cannot be read from the logs: which topic the copy was begun from, up to where
//! both logs were known to be equal, who leads, and that they have diverged.
//!
//! Keys and values are JSON. A partition's key is `{"topic":"orders","partition":0}`, by the topic's name on the mirror's source, and a
//! topic's leader is under `{"topic":"orders"}`. All that is about a partition is in one partition of the topic: those are the shards that
//! several processes will share.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use kferry_wire::admin::partitions::Position;
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::batch::Record;
use kferry_wire::client::{Client, ClientError, TopicPartition, Topics};
use serde::{Deserialize, Serialize};

use crate::append::{AppendError, append};
use crate::job::{Phase, Side};
use crate::log::{LogReader, ReadError};

/// Partitions of the topic.
const SHARDS: i32 = 16;
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

/// The topic's content, and the way to change it. Clones share it.
#[derive(Clone)]
pub struct State {
    client: Client,
    topic: Arc<str>,
    /// The next offset to read of each partition. Each is locked while it is read, and none waits for another one's broker.
    positions: Arc<[tokio::sync::Mutex<i64>]>,
    tables: Arc<Mutex<Tables>>,
}

#[derive(Default)]
struct Tables {
    partitions: HashMap<TopicPartition, PartitionState>,
    leaders: HashMap<Arc<str>, LeaderState>,
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
                    configs: vec![("cleanup.policy".to_owned(), "compact".to_owned())],
                };
                client.create_topics(&[new], false).await.into_values().next().transpose()?;
                SHARDS
            }
            None => return Ok(None),
        };
        let positions = (0..partitions).map(|_| tokio::sync::Mutex::new(0)).collect();
        let state = Self { client, topic, positions, tables: Arc::default() };
        state.refresh().await?;
        Ok(Some(state))
    }

    /// Reads what has been written since.
    pub async fn refresh(&self) -> Result<(), StateError> {
        try_join_all(self.shards().map(|shard| self.refresh_shard(shard))).await.map(drop)
    }

    /// Reads what has been written since in one partition of the state's topic.
    pub async fn refresh_shard(&self, shard: i32) -> Result<(), StateError> {
        // If somebody has added partitions to it, nothing is in those: the hash goes by what there was when it was opened.
        let Some(position) = self.positions.get(shard as usize) else { return Ok(()) };
        let mut position = position.lock().await;
        let partition = TopicPartition::new(self.topic.clone(), shard);
        let asked = [partition.clone()];
        let offset =
            async |position| self.client.list_offsets(&asked, position).await.remove(&partition).transpose().map(Option::unwrap_or_default);
        let (start, end): (i64, i64) = tokio::try_join!(offset(Position::LogStart), offset(Position::LastStable))?;
        let at = (*position).max(start);
        if at < end {
            let side = Side { client: self.client.clone(), topic: self.topic.clone() };
            let mut reader = LogReader::new(side, shard, at, end, MAX_BYTES);
            while let Some(record) = reader.next().await? {
                self.take(&record);
            }
            *position = end;
        }
        Ok(())
    }

    fn take(&self, record: &Record) {
        let Some(Ok(key)) = record.key.as_ref().map(|key| serde_json::from_slice::<Key<'_>>(key)) else {
            return tracing::warn!(
                topic = &*self.topic,
                offset = record.offset,
                "the mirror's state has a record with a key that it does not know"
            );
        };
        let topic: Arc<str> = key.topic.as_ref().into();
        let value = record.value.as_deref();
        let mut tables = self.tables();
        let read = match key.partition {
            Some(partition) => {
                let partition = TopicPartition::new(topic, partition);
                take_value(&mut tables.partitions, partition, value)
            }
            None => take_value(&mut tables.leaders, topic, value),
        };
        if let Err(error) = read {
            tracing::warn!(topic = &*self.topic, offset = record.offset, %error, "the mirror's state has a record that it cannot read");
        }
    }

    /// What is known of a partition.
    pub fn partition(&self, partition: &TopicPartition) -> Option<PartitionState> {
        self.tables().partitions.get(partition).cloned()
    }

    /// Who leads a topic; `None` is the mirror's source, in term 1.
    pub fn leader(&self, topic: &str) -> Option<LeaderState> {
        self.tables().leaders.get(topic).cloned()
    }

    /// Keeps what is known of partitions, if `may_write` says so just before.
    pub async fn save(&self, states: Vec<(TopicPartition, PartitionState)>, may_write: impl Fn() -> bool) -> Result<(), StateError> {
        let mut shards: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
        let timestamp = jiff::Timestamp::now().as_millisecond();
        for (partition, state) in &states {
            let key = Key { topic: (&*partition.topic).into(), partition: Some(partition.partition) };
            let record = Record { offset: 0, timestamp, key: Some(json(&key)), value: Some(json(state)), headers: Vec::new() };
            shards.entry(self.shard(partition)).or_default().push(record);
        }
        let may_write = &may_write;
        let appends = shards.into_iter().map(|(shard, records)| async move {
            // In the order of the saves; and what is read meanwhile is not put over what is saved.
            let _turn = self.positions[shard as usize].lock().await;
            append(&self.client, &TopicPartition::new(self.topic.clone(), shard), records, may_write).await
        });
        let saved: Result<Vec<()>, _> = join_all(appends).await.into_iter().collect();
        saved?;
        self.tables().partitions.extend(states);
        Ok(())
    }

    /// The partitions of the state's topic.
    pub fn shards(&self) -> Range<i32> {
        0..self.positions.len() as i32
    }

    /// Which partition of the state's topic is about a partition.
    pub fn shard(&self, partition: &TopicPartition) -> i32 {
        (crate::cut::producer_id("", &partition.topic, partition.partition, 0) % self.positions.len() as i64) as i32
    }

    /// Which partition of the state's topic is about a consumer group.
    pub fn group_shard(&self, group: &str) -> i32 {
        self.shard(&TopicPartition::new(group, -1))
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
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
