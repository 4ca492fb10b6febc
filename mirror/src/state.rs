//! What the mirror knows of each partition, in a compacted topic on the target: for its next start, for the proxy and for the operator.
//!
//! The follower's log end is the progress. What is here cannot be read from the logs: which topic the copy was begun from, up to where
//! both logs were known to be equal, who leads, and that they have diverged.
//!
//! Keys and values are JSON. A partition's key is `{"topic":"orders","partition":0}`, by the topic's name on the mirror's source, that of
//! one of its segments has the `source` offset too, and a topic's leader is under `{"topic":"orders"}`. All that is about a partition is in
//! one partition of the topic: those are the shards that several processes share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kferry_wire::admin::partitions::Position;
use kferry_wire::batch::Record;
use kferry_wire::client::{Client, ClientError, TopicPartition, Topics};
use kferry_wire::config::{Mirror, Offsets};
use serde::{Deserialize, Serialize};

use crate::append::{self, AppendError, append};
use crate::group_state::{Changes, GroupKey, GroupLog, GroupStates};
use crate::job::{Phase, Side};
use crate::log::{LogReader, ReadError};
use crate::offsets::{Direction, OffsetMap, Segment};

/// Partitions of the topic.
const SHARDS: i32 = 16;
/// Bytes of state in one answer.
const MAX_BYTES: i32 = 1 << 20;
/// Records of state in one batch: some 200 bytes each.
const AT_ONCE: usize = 2_000;

/// What is kept of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// How its offsets are kept: `preserve` or `translate`.
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
    /// Up to this offset of the leader both logs are equal.
    pub agreed: i64,
    /// Offsets, from and to, whose records were left out by `on_error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<(i64, i64)>,
}

impl PartitionState {
    /// Up to which offset of the cluster that leads now both logs are equal: it may have followed when that was kept.
    pub fn agreed(&self, leader: &str, map: &OffsetMap, direction: Direction) -> i64 {
        if self.leader == leader { self.agreed } else { map.leader(direction, self.agreed).unwrap_or(0) }
    }
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
    /// Of a segment: its first offset on the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<i64>,
}

impl<'a> Key<'a> {
    fn of(partition: &'a TopicPartition) -> Self {
        Self { topic: (&*partition.topic).into(), partition: Some(partition.partition), source: None }
    }
}

/// The rest of a segment.
#[derive(Serialize, Deserialize)]
struct SegmentValue {
    /// Its first offset on the target.
    target: i64,
}

/// The way to write to the topic, for everybody who has to before something else is written.
#[derive(Clone)]
pub struct Keeper {
    client: Client,
    topic: Arc<str>,
    shards: i32,
}

impl Keeper {
    /// Which partition of the topic is about a partition.
    pub fn shard(&self, partition: &TopicPartition) -> i32 {
        (crate::cut::producer_id("", &partition.topic, partition.partition, 0) % i64::from(self.shards)) as i32
    }

    /// Keeps the beginning of a segment, before its first record is written.
    ///
    /// # Errors
    /// [`AppendError`]
    pub async fn segment(&self, partition: &TopicPartition, segment: Segment) -> Result<(), AppendError> {
        self.append(self.shard(partition), vec![segment_record(partition, segment.source, Some(segment.target))]).await
    }

    async fn append(&self, shard: i32, records: Vec<Record>) -> Result<(), AppendError> {
        append(&self.client, &TopicPartition::new(self.topic.clone(), shard), records).await
    }
}

fn segment_record(partition: &TopicPartition, source: i64, target: Option<i64>) -> Record {
    let key = Key { source: Some(source), ..Key::of(partition) };
    record(&key, target.map(|target| json(&SegmentValue { target })))
}

fn record(key: &Key<'_>, value: Option<Bytes>) -> Record {
    Record { offset: 0, timestamp: jiff::Timestamp::now().as_millisecond(), key: Some(json(key)), value, headers: Vec::new() }
}

/// The topic's content, and the way to change it.
pub struct State {
    keeper: Keeper,
    /// The next offset to read of each partition.
    positions: BTreeMap<i32, i64>,
    partitions: HashMap<TopicPartition, PartitionState>,
    /// Of each partition: the target's offset by the source's.
    segments: HashMap<TopicPartition, BTreeMap<i64, i64>>,
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
    pub async fn open(client: Client, mirror: &Mirror, create: bool) -> Result<Option<Self>, StateError> {
        let topic: Arc<str> = topic(&mirror.name).into();
        let metadata = client.metadata(Topics::Named(&[&topic])).await?;
        let there = metadata.topics.iter().find(|known| known.error.is_none());
        let partitions = match there {
            Some(there) => there.partitions.len() as i32,
            None if create => {
                append::create(&client, &topic, SHARDS, mirror.replication_factor, &[("cleanup.policy", "compact")]).await?;
                SHARDS
            }
            None => return Ok(None),
        };
        let mut state = Self {
            keeper: Keeper { client, topic, shards: partitions },
            positions: (0..partitions).map(|partition| (partition, 0)).collect(),
            partitions: HashMap::new(),
            segments: HashMap::new(),
            leaders: HashMap::new(),
            groups: Arc::default(),
        };
        state.refresh().await?;
        Ok(Some(state))
    }

    /// Reads what has been written since.
    pub async fn refresh(&mut self) -> Result<(), StateError> {
        let Keeper { client, topic, .. } = self.keeper.clone();
        let partitions: Vec<_> = self.positions.keys().map(|partition| TopicPartition::new(topic.clone(), *partition)).collect();
        let starts = client.list_offsets(&partitions, Position::LogStart).await;
        let ends = client.list_offsets(&partitions, Position::LastStable).await;
        for partition in partitions {
            let offset =
                |answers: &BTreeMap<_, Result<_, ClientError>>| answers.get(&partition).cloned().transpose().map(Option::unwrap_or_default);
            let (start, end): (i64, i64) = (offset(&starts)?, offset(&ends)?);
            let at = self.positions[&partition.partition].max(start);
            if at >= end {
                continue;
            }
            let side = Side { client: client.clone(), topic: topic.clone() };
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
                tracing::warn!(topic = &*self.keeper.topic, offset = record.offset, %error, "the mirror's state has a record that it cannot read");
            }
            return;
        }
        let Some(Ok(key)) = record.key.as_ref().map(|key| serde_json::from_slice::<Key<'_>>(key)) else {
            return tracing::warn!(
                topic = &*self.keeper.topic,
                offset = record.offset,
                "the mirror's state has a record with a key that it does not know"
            );
        };
        let topic: Arc<str> = key.topic.as_ref().into();
        let value = record.value.as_deref();
        let partition = key.partition.map(|partition| TopicPartition::new(topic.clone(), partition));
        let read = match (partition, key.source) {
            (Some(partition), None) => take_value(value).map(|state| put(&mut self.partitions, partition, state)),
            (Some(partition), Some(source)) => take_value(value).map(|segment: Option<SegmentValue>| {
                let segments = self.segments.entry(partition).or_default();
                match segment {
                    Some(SegmentValue { target }) => drop(segments.insert(source, target)),
                    None => drop(segments.remove(&source)),
                }
            }),
            (None, _) => take_value(value).map(|leader| put(&mut self.leaders, topic, leader)),
        };
        if let Err(error) = read {
            tracing::warn!(topic = &*self.keeper.topic, offset = record.offset, %error, "the mirror's state has a record that it cannot read");
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
        GroupLog { client: self.keeper.client.clone(), topic: self.keeper.topic.clone(), shards: self.keeper.shards }
    }

    /// What was kept by way of it.
    pub fn groups_changed(&mut self, changes: Changes) {
        Arc::make_mut(&mut self.groups).apply(changes);
    }

    /// What is known of a partition's offsets on both clusters, where they are translated.
    pub fn segments(&self, partition: &TopicPartition) -> Vec<Segment> {
        let segments = self.segments.get(partition);
        segments.map_or_else(Vec::new, |known| known.iter().map(|(source, target)| Segment { source: *source, target: *target }).collect())
    }

    /// Where on the target a partition's offsets are.
    pub fn map(&self, partition: &TopicPartition, offsets: Offsets) -> OffsetMap {
        match (offsets, self.partitions.get(partition)) {
            (Offsets::Preserve, _) => OffsetMap::Same,
            // The file has changed: what was copied by then has the same offsets.
            (Offsets::Translate, Some(state)) if state.mode == Offsets::Preserve.name() => {
                OffsetMap::Segments(vec![Segment { source: 0, target: 0 }])
            }
            (Offsets::Translate, _) => OffsetMap::Segments(self.segments(partition)),
        }
    }

    /// The way to write.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Keeps what is known of partitions: first the map of their offsets, then how far they are.
    pub async fn save(&mut self, states: Vec<(TopicPartition, PartitionState, OffsetMap)>) -> Result<(), StateError> {
        let mut shards: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
        for (partition, state, map) in &states {
            let records = shards.entry(self.keeper.shard(partition)).or_default();
            let kept = self.segments.get(partition);
            let is_kept = |segment: &Segment| kept.is_some_and(|kept| kept.get(&segment.source) == Some(&segment.target));
            let new = map.segments().iter().filter(|segment| !is_kept(segment));
            records.extend(new.map(|segment| segment_record(partition, segment.source, Some(segment.target))));
            let is_left = |source: i64| map.segments().binary_search_by_key(&source, |segment| segment.source).is_ok();
            let gone = kept.into_iter().flat_map(BTreeMap::keys).filter(|source| !is_left(**source));
            records.extend(gone.map(|source| segment_record(partition, *source, None)));
            records.push(record(&Key::of(partition), Some(json(state))));
        }
        for (shard, mut records) in shards {
            while !records.is_empty() {
                let rest = records.split_off(records.len().min(AT_ONCE));
                self.keeper.append(shard, std::mem::replace(&mut records, rest)).await?;
            }
        }
        for (partition, state, map) in states {
            let segments = map.segments().iter().map(|segment| (segment.source, segment.target)).collect();
            put(&mut self.segments, partition.clone(), Some(segments).filter(|segments: &BTreeMap<_, _>| !segments.is_empty()));
            self.partitions.insert(partition, state);
        }
        Ok(())
    }
}

/// `None` is a tombstone.
fn take_value<V: for<'a> Deserialize<'a>>(value: Option<&[u8]>) -> Result<Option<V>, serde_json::Error> {
    value.map(serde_json::from_slice).transpose()
}

fn put<K: std::hash::Hash + Eq, V>(table: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(table.insert(key, value)),
        None => drop(table.remove(&key)),
    }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("names and numbers are always JSON").into()
}
