//! What the mirror knows of each partition, in a compacted topic on the target: for its next start, for the proxy and for the operator.
//!
//! The follower's log end is the progress. What is here cannot be read from the logs: which topic the copy was begun from, up to where
//! both logs were known to be equal, who leads, and that they have diverged.
//!
//! Keys and values are JSON. A partition's key is `{"topic":"orders","partition":0}`, by the topic's name on the mirror's source, that of
//! one of its segments has the `source` offset too, and a topic's leader is under `{"topic":"orders"}`. What is kept of groups is in
//! `groups`. All that is about a partition is in one partition of the topic: those are the shards that several processes share.

mod groups;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use kferry_config::{Mirror, Offsets};
use kferry_wire::batch::Record;
use kferry_wire::client::{Client, ClientError, TopicPartition, Topics};
use kferry_wire::log::{AppendError, ReadError, append, read_on};
use serde::{Deserialize, Serialize};

use self::groups::GroupKey;
pub use self::groups::{Changes, GroupPartition, GroupStates, Written};
use crate::own_topics::{self, state_topic};
use crate::partition::{Direction, Leadership, OffsetMap, Phase, Segment, Shard, Status, producer_id};

/// Partitions of the topic.
const SHARDS: i32 = 16;
/// The active segment is never compacted, and all of it is read at a start. Groups that commit all the time write a record for each offset.
const SEGMENT: &str = "4194304";
/// Bytes of state in one answer.
const MAX_BYTES: i32 = 1 << 20;
/// Bytes of keys and values in one batch: far below what a broker takes.
const BATCH: usize = 256 << 10;

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

fn segment_record(partition: &TopicPartition, source: i64, target: Option<i64>) -> Record {
    let key = Key { source: Some(source), ..Key::of(partition) };
    record(&key, target.map(|target| json(&SegmentValue { target })))
}

fn record(key: &impl Serialize, value: Option<Bytes>) -> Record {
    Record { offset: 0, timestamp: jiff::Timestamp::now().as_millisecond(), key: Some(json(key)), value, headers: Vec::new() }
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
    /// Of each partition: the target's offset by the source's.
    segments: HashMap<TopicPartition, BTreeMap<i64, i64>>,
    leaders: HashMap<Arc<str>, Leadership>,
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

impl State {
    /// Reads all of a mirror's state on its target; creates the topic where it is missing and `create` is set. `None` where it is missing.
    pub async fn open(client: Client, mirror: &Mirror, create: bool) -> Result<Option<Self>, StateError> {
        let topic: Arc<str> = state_topic(&mirror.name).into();
        let metadata = client.metadata(Topics::Named(&[&topic])).await?;
        let there = metadata.topics.iter().find(|known| known.error.is_none());
        let partitions = match there {
            Some(there) => there.partitions.len() as i32,
            None if create => {
                // What was agreed on must not be lost together with what was copied: then nothing would tell that something was lost.
                let configs = [("cleanup.policy", "compact"), ("segment.bytes", SEGMENT), ("unclean.leader.election.enable", "false")];
                own_topics::create(&client, &topic, SHARDS, mirror.replication_factor, &configs).await?;
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
        read_on(&self.client, &partition, &mut position, MAX_BYTES, |record| self.take(&record)).await?;
        Ok(())
    }

    fn take(&self, record: &Record) {
        let (Some(key), value) = (record.key.as_deref(), record.value.as_deref()) else { return };
        let mut tables = self.tables();
        let read = if let Ok(key) = serde_json::from_slice::<GroupKey<'_>>(key) {
            Arc::make_mut(&mut tables.groups).take(key, value)
        } else if let Ok(key) = serde_json::from_slice::<Key<'_>>(key) {
            tables.take(&key, value)
        } else {
            return kferry_wire::tell!(crate::messages::UNKNOWN_KEY, topic = &*self.topic, offset = record.offset);
        };
        if let Err(error) = read {
            kferry_wire::tell!(crate::messages::UNREADABLE_RECORD, topic = &*self.topic, offset = record.offset, %error);
        }
    }

    /// What is known of a partition.
    pub fn partition(&self, partition: &TopicPartition) -> Option<PartitionState> {
        self.tables().partitions.get(partition).cloned()
    }

    /// Who leads a topic; `None` is the mirror's source, in term 1.
    pub fn leader(&self, topic: &str) -> Option<Leadership> {
        self.tables().leaders.get(topic).cloned()
    }

    /// What is known of a partition's offsets on both clusters, where they are translated.
    pub fn segments(&self, partition: &TopicPartition) -> Vec<Segment> {
        let tables = self.tables();
        let segments = tables.segments.get(partition);
        segments.map_or_else(Vec::new, |known| known.iter().map(|(source, target)| Segment { source: *source, target: *target }).collect())
    }

    /// Where on the target a partition's offsets are.
    pub fn map(&self, partition: &TopicPartition, offsets: Offsets) -> OffsetMap {
        let (kept, mut segments) = (self.partition(partition), self.segments(partition));
        // The file may have changed. What was translated stays so.
        if offsets == Offsets::Preserve && kept.as_ref().is_none_or(|kept| kept.mode != Offsets::Translate.name()) {
            return OffsetMap::Same;
        }
        // And what was copied before has the same offsets.
        let preserved = kept.is_some_and(|kept| kept.mode == Offsets::Preserve.name() && kept.agreed > 0);
        if preserved && segments.first().is_none_or(|first| first.source > 0) {
            segments.insert(0, Segment { source: 0, target: 0 });
        }
        OffsetMap::of(segments)
    }

    /// What is known of groups.
    pub fn groups(&self) -> Arc<GroupStates> {
        self.tables().groups.clone()
    }

    /// Keeps what is known of partitions, first the map of their offsets, then how far they are; if `may_write` says so just before. The map is that
    /// of the status at the moment of writing: a segment that was kept since is in it, and stays.
    pub async fn save(
        &self,
        states: Vec<(TopicPartition, PartitionState, Arc<Status>)>,
        may_write: impl Fn() -> bool,
    ) -> Result<(), StateError> {
        let mut shards: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        for state in states {
            shards.entry(self.shard(&state.0)).or_default().push(state);
        }
        let saves = shards.into_iter().map(|(shard, states)| self.save_shard(shard, states, &may_write));
        join_all(saves).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(())
    }

    async fn save_shard(
        &self,
        shard: i32,
        states: Vec<(TopicPartition, PartitionState, Arc<Status>)>,
        may_write: &impl Fn() -> bool,
    ) -> Result<(), AppendError> {
        let _turn = self.positions[shard as usize].lock().await;
        let mut records = Vec::new();
        let maps: Vec<_> = states.iter().map(|(_, _, status)| status.lock().map.clone()).collect();
        for ((partition, state, _), map) in states.iter().zip(&maps) {
            let (kept, segments) = (self.segments(partition), map.segments());
            let find = |among: &[Segment], source| among.binary_search_by_key(&source, |segment| segment.source).ok();
            let is_kept = |segment: &&Segment| find(&kept, segment.source).is_some_and(|at| kept[at] == **segment);
            let new = segments.iter().filter(|segment| !is_kept(segment));
            records.extend(new.map(|segment| segment_record(partition, segment.source, Some(segment.target))));
            let gone = kept.iter().filter(|kept| find(segments, kept.source).is_none());
            records.extend(gone.map(|segment| segment_record(partition, segment.source, None)));
            records.push(record(&Key::of(partition), Some(json(state))));
        }
        self.append(shard, records, may_write).await?;
        let mut tables = self.tables();
        for ((partition, state, _), map) in states.into_iter().zip(maps) {
            let segments: BTreeMap<_, _> = map.segments().iter().map(|segment| (segment.source, segment.target)).collect();
            put(&mut tables.segments, partition.clone(), Some(segments).filter(|segments| !segments.is_empty()));
            tables.partitions.insert(partition, state);
        }
        Ok(())
    }

    /// Keeps the beginning of a segment, before its first record is written. It is in the partition's map by then.
    ///
    /// # Errors
    /// [`AppendError`]
    pub async fn keep_segment(&self, partition: &TopicPartition, segment: Segment, shard: &Shard) -> Result<(), AppendError> {
        let record = segment_record(partition, segment.source, Some(segment.target));
        let number = self.shard(partition);
        let _turn = self.positions[number as usize].lock().await;
        self.append(number, vec![record], &|| shard.may_write()).await?;
        self.tables().segments.entry(partition.clone()).or_default().insert(segment.source, segment.target);
        Ok(())
    }

    /// Keeps what has changed of groups, if `may_write` says so of each just before.
    ///
    /// # Errors
    /// [`AppendError`]; some of it may be kept then.
    pub async fn keep_groups(&self, changes: &Changes, may_write: impl Fn(&str) -> bool) -> Result<(), AppendError> {
        let mut shards: BTreeMap<i32, (Vec<&str>, Vec<Record>)> = BTreeMap::new();
        for (key, written) in changes {
            let (groups, records) = shards.entry(self.group_shard(&key.0)).or_default();
            groups.push(&key.0);
            records.push(record(&GroupKey::of(key), written.as_ref().map(json)));
        }
        for (shard, (groups, records)) in shards {
            let _turn = self.positions[shard as usize].lock().await;
            self.append(shard, records, &|| groups.iter().all(|group| may_write(group))).await?;
        }
        Arc::make_mut(&mut self.tables().groups).apply(changes.clone());
        Ok(())
    }

    /// Whoever calls has the shard's lock, and keeps it until the tables have it too: so what is read is never put over what is saved.
    async fn append(&self, shard: i32, records: Vec<Record>, may_write: &impl Fn() -> bool) -> Result<(), AppendError> {
        for batch in batches(records) {
            append(&self.client, &TopicPartition::new(self.topic.clone(), shard), batch, may_write).await?;
        }
        Ok(())
    }

    /// The partitions of the state's topic.
    pub fn shards(&self) -> Range<i32> {
        0..self.positions.len() as i32
    }

    /// Which partition of the state's topic is about a partition.
    pub fn shard(&self, partition: &TopicPartition) -> i32 {
        (producer_id("", &partition.topic, partition.partition, 0) % self.positions.len() as i64) as i32
    }

    /// Which partition of the state's topic is about a consumer group.
    pub fn group_shard(&self, group: &str) -> i32 {
        self.shard(&TopicPartition::new(group, -1))
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn take(&mut self, key: &Key<'_>, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let topic: Arc<str> = key.topic.as_ref().into();
        let partition = key.partition.map(|partition| TopicPartition::new(topic.clone(), partition));
        match (partition, key.source) {
            (Some(partition), None) => put(&mut self.partitions, partition, take_value(value)?),
            (Some(partition), Some(source)) => {
                let segment: Option<SegmentValue> = take_value(value)?;
                let segments = self.segments.entry(partition).or_default();
                match segment {
                    Some(SegmentValue { target }) => drop(segments.insert(source, target)),
                    None => drop(segments.remove(&source)),
                }
            }
            (None, _) => Leadership::follow(&mut self.leaders, topic, take_value(value)?),
        }
        Ok(())
    }
}

fn batches(records: Vec<Record>) -> Vec<Vec<Record>> {
    let mut batches: Vec<Vec<Record>> = Vec::new();
    let mut bytes = usize::MAX;
    for record in records {
        let len = [&record.key, &record.value].into_iter().flatten().map(Bytes::len).sum::<usize>();
        bytes = bytes.saturating_add(len);
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH => batch.push(record),
            _ => {
                batches.push(vec![record]);
                bytes = len;
            }
        }
    }
    batches
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_records_are_several_batches() {
        let record = |len| Record { offset: 0, timestamp: 0, key: Some(vec![b'k'; len].into()), value: None, headers: Vec::new() };
        assert!(batches(Vec::new()).is_empty());
        let lens = |lens: &[usize]| batches(lens.iter().map(|len| record(*len)).collect()).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lens(&[1, 2, 3]), [3]);
        assert_eq!(lens(&[BATCH, 1, BATCH - 1, 1]), [1, 2, 1]);
        assert_eq!(lens(&[2 * BATCH, 2 * BATCH]), [1, 1]);
    }
}
