//! What the mirror knows of each partition, in a compacted topic on the target: for its next start, for the proxy and for the operator.
//!
//! The follower's log end is the progress. What is here cannot be read from the logs: which topic the copy was begun from, up to where
//! both logs were known to be equal, who leads, and that they have diverged.
//!
//! Keys and values are JSON. A partition's key is `{"topic":"orders","partition":0}`, by the topic's name on the mirror's source, that of
//! one of its segments has the `source` offset too, and a topic's leader is under `{"topic":"orders"}`. What is known of the log of decisions is
//! under `{"log":"__kferry.decisions"}`. What is kept of groups is in `groups`. All that is about a partition is in one partition of the topic: those are the shards that several processes share.

mod groups;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use kferry_config::{Mirror, Offsets};
use kferry_wire::batch::Record;
use kferry_wire::client::{Client, ClientError, TopicPartition, Topics};
use kferry_wire::decisions::{self, LogError, Witness};
use kferry_wire::log::{AppendError, ReadError, append, read_on};
use serde::{Deserialize, Serialize};

use self::groups::GroupKey;
pub use self::groups::{Changes, GroupPartition, GroupStates, Written};
use crate::own_topics::{self, state_topic};
use crate::partition::{Direction, Leadership, OffsetMap, Phase, Segment, Shard, Skipped, Status, producer_id};

/// How many partitions the state's topic is created with: as many shards the processes of a mirror can share.
const SHARDS: i32 = 16;
/// `segment.bytes` of the state's topic. The active segment is never compacted, and all of it is read at a start; groups that commit all the time write a
/// record for each offset.
const SEGMENT: &str = "4194304";
/// About how many bytes of the state's topic a Fetch response may have.
const MAX_BYTES: i32 = 1 << 20;
/// The most bytes of keys and values that are put into one batch: far below what a broker takes.
const BATCH: usize = 256 << 10;

/// What the mirror's state has of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// How its offsets are kept: `preserve` or `translate`.
    pub mode: String,
    /// What was being done with the partition.
    pub phase: Phase,
    /// Why the partition was not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name of the cluster that led.
    pub leader: String,
    /// The leader's term, from 1 on.
    pub term: i32,
    /// The first offset of the term, on the cluster that led.
    pub term_start: i64,
    /// The topic's id on each cluster, by the cluster's name: a topic that was created anew has another one.
    pub topic_ids: BTreeMap<String, String>,
    /// The offset of the cluster that led, up to which both logs were equal.
    pub agreed: i64,
    /// Whether there was nothing but padding before `agreed`: not one record was copied yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_padding: bool,
    /// Whether the topic is, or once was, compacted on one of the clusters: each of them may lack records that the other one has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_compacted: bool,
    /// The offsets of the cluster that led whose records `on_error` left out.
    #[serde(default, skip_serializing_if = "Skipped::is_empty")]
    pub skipped: Skipped,
}

impl PartitionState {
    /// The offset of `leader`, the cluster that leads now, up to which both logs were equal: it may have followed when that was kept.
    pub fn agreed(&self, leader: &str, map: &OffsetMap, direction: Direction) -> i64 {
        if self.leader == leader { self.agreed } else { map.leader(direction, self.agreed).unwrap_or(0) }
    }
}

/// The key of a record about a topic: its leader, one of its partitions, or a segment of one.
#[derive(Serialize, Deserialize)]
struct TopicKey<'a> {
    topic: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    /// The first offset of a segment on the source; `None` is the partition itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<i64>,
}

impl<'a> TopicKey<'a> {
    fn of(partition: &'a TopicPartition) -> Self {
        Self { topic: (&*partition.topic).into(), partition: Some(partition.partition), source: None }
    }
}

/// The key of what is known of the log of decisions.
#[derive(Serialize, Deserialize)]
struct LogKey<'a> {
    log: std::borrow::Cow<'a, str>,
}

/// The value of a segment's record; its key has the segment's first offset on the source.
#[derive(Serialize, Deserialize)]
struct SegmentValue {
    /// The segment's first offset on the target.
    target: i64,
}

/// The record of a segment that begins at the offset `source`; without a `target` its tombstone.
fn segment_record(partition: &TopicPartition, source: i64, target: Option<i64>) -> Record {
    let key = TopicKey { source: Some(source), ..TopicKey::of(partition) };
    record(&key, target.map(|target| json(&SegmentValue { target })))
}

/// The record of a key; without a value its tombstone.
fn record(key: &impl Serialize, value: Option<Bytes>) -> Record {
    Record { offset: 0, timestamp: jiff::Timestamp::now().as_millisecond(), key: Some(json(key)), value, headers: Vec::new() }
}

/// What is to be kept of a partition.
pub(crate) struct Unsaved {
    /// The partition, by its topic's name on the source.
    pub(crate) partition: TopicPartition,
    /// How far the copy is, and who leads.
    pub(crate) state: PartitionState,
    /// Has the map of the partition's offsets at the moment of writing.
    pub(crate) status: Arc<Status>,
}

/// The mirror's state: what its topic says, and the way to change that. Clones share it.
#[derive(Clone)]
pub struct State {
    client: Client,
    topic: Arc<str>,
    /// The next offset to read of each partition of the state's topic. Each is locked while its partition is read or written, so that none waits for
    /// another one's broker.
    positions: Arc<[tokio::sync::Mutex<i64>]>,
    content: Arc<Mutex<Content>>,
}

/// What the records of the state's topic say, each key's latest one.
#[derive(Default)]
struct Content {
    partitions: HashMap<TopicPartition, PartitionState>,
    /// The segments of each partition: their first offsets on the target by those on the source.
    segments: HashMap<TopicPartition, BTreeMap<i64, i64>>,
    /// Which cluster leads a topic, by the topic's name on the mirror's source: an operator's word, where there is no log of decisions.
    leaders: HashMap<Arc<str>, Leadership>,
    witness: Option<Witness>,
    groups: Arc<GroupStates>,
}

/// Why the mirror's state, or a cluster that it is compared with, cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A cluster refuses a request, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The state's topic cannot be read.
    #[error("the mirror's state: {0}")]
    Read(#[from] ReadError),
    /// A log of decisions that the file does not name says where topics or groups of the mirror are.
    #[error(
        "the log of decisions on cluster {cluster} says where {what} is, and [state] does not name this cluster: a mirror that does not follow the log takes \
         followers for leaders; write cluster = \"{cluster}\" in [state], and restart; if `kferry move log` was interrupted run it again instead"
    )]
    AnotherLog {
        /// The log's cluster, as the file names it.
        cluster: Arc<str>,
        /// A topic or a group of the mirror.
        what: String,
    },
    /// The same, where this version cannot read what the log says.
    #[error("cluster {cluster} has a log of decisions, and [state] does not name this cluster; {error}")]
    UnknownLog {
        /// The log's cluster, as the file names it.
        cluster: Arc<str>,
        /// What is not known.
        #[source]
        error: LogError,
    },
    /// The state's topic cannot be written.
    #[error("the mirror's state: {0}")]
    Append(#[from] AppendError),
}

impl StateError {
    /// Whether a cluster, or the log of decisions, is not the one that is meant: to try again mends nothing, as long as the file stays.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Client(ClientError::WrongCluster(_)) | Self::AnotherLog { .. } | Self::UnknownLog { .. })
    }
}

impl State {
    /// Reads all of a mirror's state on its target. Where the topic is missing it is created, if `create` is set; else there is `None`.
    ///
    /// # Errors
    /// [`StateError`]: the target cannot be asked, or the topic not be created or read. A topic that was created stays.
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
        let state = Self { client, topic, positions, content: Arc::default() };
        state.refresh().await?;
        Ok(Some(state))
    }

    /// Reads what was written to the state's topic since the last time.
    ///
    /// # Errors
    /// [`StateError::Read`]; what was read until then counts.
    pub async fn refresh(&self) -> Result<(), StateError> {
        try_join_all(self.shards().map(|shard| self.refresh_shard(shard))).await.map(drop)
    }

    /// Reads what was written to one partition of the state's topic since the last time.
    ///
    /// # Errors
    /// [`StateError::Read`]; what was read until then counts, and is read again the next time.
    pub async fn refresh_shard(&self, shard: i32) -> Result<(), StateError> {
        // If somebody has added partitions to it, nothing is in those: the hash goes by what there was when it was opened.
        let Some(position) = self.positions.get(shard as usize) else { return Ok(()) };
        let mut position = position.lock().await;
        let partition = TopicPartition::new(self.topic.clone(), shard);
        read_on(&self.client, &partition, &mut position, MAX_BYTES, |record| self.take(&record)).await?;
        Ok(())
    }

    /// Takes in a record of the state's topic.
    fn take(&self, record: &Record) {
        let (Some(key), value) = (record.key.as_deref(), record.value.as_deref()) else { return };
        let mut content = self.content();
        let read = if let Ok(key) = serde_json::from_slice::<GroupKey<'_>>(key) {
            Arc::make_mut(&mut content.groups).take(key, value)
        } else if let Ok(key) = serde_json::from_slice::<TopicKey<'_>>(key) {
            content.take(&key, value)
        } else if serde_json::from_slice::<LogKey<'_>>(key).is_ok() {
            take_value(value).map(|witness| content.witness = witness)
        } else {
            return kferry_wire::tell!(crate::messages::UNKNOWN_KEY, topic = &*self.topic, offset = record.offset);
        };
        if let Err(error) = read {
            kferry_wire::tell!(crate::messages::UNREADABLE_RECORD, topic = &*self.topic, offset = record.offset, %error);
        }
    }

    /// What was kept of a partition; `None` is nothing.
    pub fn partition(&self, partition: &TopicPartition) -> Option<PartitionState> {
        self.content().partitions.get(partition).cloned()
    }

    /// Which cluster leads a topic, as far as somebody knows who does not read the log of decisions: what was kept of the topic's first partition says so.
    /// `None` is the mirror's source, in term 1.
    pub fn leader(&self, topic: &str) -> Option<Leadership> {
        let content = self.content();
        let kept = || {
            let is_decided = |kept: &&PartitionState| kept.term > 1 || *kept.leader == *self.client.cluster().name;
            let kept = content.partitions.get(&TopicPartition::new(topic, 0)).filter(is_decided)?;
            Some(Leadership { leader: kept.leader.clone(), term: kept.term })
        };
        content.leaders.get(topic).cloned().or_else(kept)
    }

    /// What was known of the log of decisions when that was last kept.
    pub fn witness(&self) -> Option<Witness> {
        self.content().witness.clone()
    }

    /// Keeps what is known of the log of decisions, if it is another log than before, or knows a later term.
    ///
    /// # Errors
    /// [`AppendError`]: it is not kept, or it is not known whether it is.
    pub(crate) async fn keep_witness(&self, seen: Witness) -> Result<(), AppendError> {
        const SHARD: i32 = 0;
        if self.witness().is_some_and(|kept| kept.log == seen.log && kept.term >= seen.term) {
            return Ok(());
        }
        let _turn = self.positions[SHARD as usize].lock().await;
        self.append(SHARD, vec![record(&LogKey { log: decisions::TOPIC.into() }, Some(json(&seen)))], &|| true).await?;
        self.content().witness = Some(seen);
        Ok(())
    }

    /// The segments of a partition's offset map that were kept, in order; none where offsets are the same.
    pub fn segments(&self, partition: &TopicPartition) -> Vec<Segment> {
        let content = self.content();
        let segments = content.segments.get(partition);
        segments.map_or_else(Vec::new, |segments| {
            segments.iter().map(|(source, target)| Segment { source: *source, target: *target }).collect()
        })
    }

    /// Which offset on the target an offset of a partition on the source is. `offsets` is what the file says now.
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

    /// What was kept of groups.
    pub fn groups(&self) -> Arc<GroupStates> {
        self.content().groups.clone()
    }

    /// Keeps the states of partitions and the maps of their offsets, if `may_write` says so just before each batch: of each partition first its
    /// segments, then how far it is. The map is that of the status at the moment of writing: a segment that was kept since is in it, and stays.
    ///
    /// # Errors
    /// [`StateError::Append`] of one of the shards. What is in the topic then may be a part, and is read by [`refresh`](Self::refresh); saving it again
    /// mends it.
    pub(crate) async fn save(&self, unsaved: Vec<Unsaved>, may_write: impl Fn() -> bool) -> Result<(), StateError> {
        let mut shards: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        for unsaved in unsaved {
            shards.entry(self.shard(&unsaved.partition)).or_default().push(unsaved);
        }
        let saves = shards.into_iter().map(|(shard, unsaved)| self.save_shard(shard, unsaved, &may_write));
        join_all(saves).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(())
    }

    async fn save_shard(&self, shard: i32, unsaved: Vec<Unsaved>, may_write: &impl Fn() -> bool) -> Result<(), AppendError> {
        let _turn = self.positions[shard as usize].lock().await;
        let mut records = Vec::new();
        let maps: Vec<_> = unsaved.iter().map(|unsaved| unsaved.status.lock().map.clone()).collect();
        for (Unsaved { partition, state, .. }, map) in unsaved.iter().zip(&maps) {
            let (kept, segments) = (self.segments(partition), map.segments());
            let find = |among: &[Segment], source| among.binary_search_by_key(&source, |segment| segment.source).ok();
            let is_kept = |segment: &&Segment| find(&kept, segment.source).is_some_and(|at| kept[at] == **segment);
            let new = segments.iter().filter(|segment| !is_kept(segment));
            records.extend(new.map(|segment| segment_record(partition, segment.source, Some(segment.target))));
            let gone = kept.iter().filter(|kept| find(segments, kept.source).is_none());
            records.extend(gone.map(|segment| segment_record(partition, segment.source, None)));
            records.push(record(&TopicKey::of(partition), Some(json(state))));
        }
        self.append(shard, records, may_write).await?;
        let mut content = self.content();
        for (Unsaved { partition, state, .. }, map) in unsaved.into_iter().zip(maps) {
            let segments: BTreeMap<_, _> = map.segments().iter().map(|segment| (segment.source, segment.target)).collect();
            put(&mut content.segments, partition.clone(), Some(segments).filter(|segments| !segments.is_empty()));
            content.partitions.insert(partition, state);
        }
        Ok(())
    }

    /// Keeps the beginning of a segment of a partition's map, before the first record of it is written. It is in the partition's status by then.
    ///
    /// # Errors
    /// [`AppendError`]: it is not kept, or it is not known whether it is; nothing may be written behind it.
    pub async fn keep_segment(&self, partition: &TopicPartition, segment: Segment, shard: &Shard) -> Result<(), AppendError> {
        let record = segment_record(partition, segment.source, Some(segment.target));
        let number = self.shard(partition);
        let _turn = self.positions[number as usize].lock().await;
        self.append(number, vec![record], &|| shard.may_write()).await?;
        self.content().segments.entry(partition.clone()).or_default().insert(segment.source, segment.target);
        Ok(())
    }

    /// Keeps which offsets of groups are going to be written, if `may_write` says so of each group just before.
    ///
    /// # Errors
    /// [`AppendError`]: some of the changes may be kept then, and none of them is known to [`groups`](Self::groups).
    pub async fn keep_groups(&self, changes: &Changes, may_write: impl Fn(&str) -> bool) -> Result<(), AppendError> {
        let mut shards: BTreeMap<i32, (Vec<&str>, Vec<Record>)> = BTreeMap::new();
        for (key, written) in changes {
            let (groups, records) = shards.entry(self.group_shard(&key.group)).or_default();
            groups.push(&key.group);
            records.push(record(&GroupKey::of(key), written.as_ref().map(json)));
        }
        for (shard, (groups, records)) in shards {
            let _turn = self.positions[shard as usize].lock().await;
            self.append(shard, records, &|| groups.iter().all(|group| may_write(group))).await?;
        }
        Arc::make_mut(&mut self.content().groups).apply(changes.clone());
        Ok(())
    }

    /// Appends records to one partition of the state's topic. Whoever calls has that partition's lock, and keeps it until the content has the change
    /// too: so what is read is never put over what is saved.
    async fn append(&self, shard: i32, records: Vec<Record>, may_write: &impl Fn() -> bool) -> Result<(), AppendError> {
        for batch in batches(records) {
            append(&self.client, &TopicPartition::new(self.topic.clone(), shard), batch, may_write).await?;
        }
        Ok(())
    }

    /// The numbers of the state's topic's partitions, which are the shards.
    pub fn shards(&self) -> Range<i32> {
        0..self.positions.len() as i32
    }

    /// The shard of a mirrored partition: which partition of the state's topic has the records about it.
    pub fn shard(&self, partition: &TopicPartition) -> i32 {
        (producer_id("", &partition.topic, partition.partition, 0) % self.positions.len() as i64) as i32
    }

    /// The shard of a consumer group: which partition of the state's topic has the records about it.
    pub fn group_shard(&self, group: &str) -> i32 {
        self.shard(&TopicPartition::new(group, -1))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// Takes in a record about a topic; without a value it is a tombstone.
    fn take(&mut self, key: &TopicKey<'_>, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let topic: Arc<str> = key.topic.as_ref().into();
        let partition = key.partition.map(|partition| TopicPartition::new(topic.clone(), partition));
        match (partition, key.source) {
            (None, _) => Leadership::follow(&mut self.leaders, topic, take_value(value)?),
            (Some(partition), None) => put(&mut self.partitions, partition, take_value(value)?),
            (Some(partition), Some(source)) => {
                let segment: Option<SegmentValue> = take_value(value)?;
                let segments = self.segments.entry(partition).or_default();
                match segment {
                    Some(SegmentValue { target }) => drop(segments.insert(source, target)),
                    None => drop(segments.remove(&source)),
                }
            }
        }
        Ok(())
    }
}

/// The records in batches of at most [`BATCH`] bytes, in their order. A larger record is alone in its batch.
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

/// The value of a record; `None` is a tombstone.
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
    fn records_are_read_as_they_are_written() {
        let mut skipped = Skipped::default();
        skipped.add(3..4);
        skipped.add(7..19);
        let state =
            PartitionState { mode: "preserve".to_owned(), leader: "old".to_owned(), term: 1, agreed: 20, skipped, ..Default::default() };
        let record = String::from_utf8(json(&state).to_vec()).unwrap();
        let expected = r#"{"mode":"preserve","phase":"waiting","leader":"old","term":1,"term_start":0,"topic_ids":{},"agreed":20,"skipped":[[3,4],[7,19]]}"#;
        assert_eq!(record, expected);
        assert_eq!(serde_json::from_str::<PartitionState>(expected).unwrap(), state);
        // Where nothing was left out the record does not speak of it.
        let without = expected.replace(r#","skipped":[[3,4],[7,19]]"#, "");
        assert_eq!(serde_json::from_str::<PartitionState>(&without).unwrap(), PartitionState { skipped: Skipped::default(), ..state });
    }

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
