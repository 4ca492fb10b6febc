//! A partition's log as a consumer with `read_committed` sees it, and the comparison of two.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kferry_wire::batch::{self, Batch, BatchError, Entry, Record};
use kferry_wire::client::{ClientError, TopicPartition};
use kferry_wire::connection::RequestError;
use tokio::time::{Instant, sleep};

use crate::cut::DECODED;
use crate::fetch::{self, Amount, Fetched, Session};
use crate::job::Side;
use crate::keys::{Keys, Owner};
use crate::offsets::{Direction, OffsetMap};

/// How long a log may give nothing although it should have more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads records from one offset to another.
pub struct LogReader {
    side: Side,
    partition: i32,
    at: i64,
    end: i64,
    /// Records that were read and not asked for yet.
    ahead: VecDeque<Record>,
    max_bytes: i32,
    /// A batch within these offsets, from and to, may be broken: `on_error` has left it out.
    skipped: Vec<(i64, i64)>,
    /// Offsets that were read are added here.
    progress: Option<Arc<AtomicU64>>,
    translation: Option<Translation>,
}

/// What a follower's log has of its leader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where the leader's records are.
    pub map: OffsetMap,
    /// Which of the two is the leader.
    pub direction: Direction,
    /// The leader's term.
    pub term: i32,
}

impl View {
    /// What others write to a follower may be in a transaction that stays open for long. What the mirror writes never is; but what was written there
    /// in an earlier term, when it led, may have been aborted.
    fn isolation(&self) -> Isolation {
        if self.map.translates() && self.term == 1 { Isolation::ReadUncommitted } else { Isolation::ReadCommitted }
    }
}

/// A follower's records have their leader's offsets, and those that the mirror did not write there are left out.
struct Translation {
    view: View,
    /// What is wanted, by the leader's offsets.
    offsets: Range<i64>,
}

impl Translation {
    fn record(&self, record: Record) -> Option<Record> {
        let offset = self.view.map.record(self.view.direction, record.offset).filter(|offset| self.offsets.contains(offset))?;
        Some(Record { offset, ..record })
    }
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The broker cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The connection broke.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The broker says no.
    #[error("{cluster} answers Fetch of {partition} from offset {at} with {error:?}")]
    Kafka {
        /// Which cluster.
        cluster: String,
        /// Which partition.
        partition: TopicPartition,
        /// From where.
        at: i64,
        /// Kafka's error.
        error: ResponseError,
    },
    /// A batch is broken.
    #[error("{cluster}: a batch of {partition} behind offset {at} cannot be read: {error}")]
    Batch {
        /// Which cluster.
        cluster: String,
        /// Which partition.
        partition: TopicPartition,
        /// Where.
        at: i64,
        /// Why.
        error: BatchError,
    },
    /// Nothing comes, though the log end is further.
    #[error(
        "{cluster} gives nothing of {partition} from offset {at} on, though its log goes on: a transaction is open there, or the broker hangs"
    )]
    Stuck {
        /// Which cluster.
        cluster: String,
        /// Which partition.
        partition: TopicPartition,
        /// Where.
        at: i64,
    },
}

impl LogReader {
    /// Reads the offsets from `at` to before `end`, with answers of about `max_bytes`.
    pub fn new(side: Side, partition: i32, at: i64, end: i64, max_bytes: i32) -> Self {
        Self { side, partition, at, end, ahead: VecDeque::new(), max_bytes, skipped: Vec::new(), progress: None, translation: None }
    }

    /// Reads a follower's log by its leader's offsets: what the mirror did not write there is left out.
    pub fn of_follower(side: Side, partition: i32, offsets: Range<i64>, max_bytes: i32, view: View) -> Self {
        let on_follower = |offset| view.map.follower(view.direction, offset).unwrap_or(0);
        let from = on_follower(offsets.start);
        // Not where the offset behind the last one is: that may be behind what others have written since.
        let to = if offsets.is_empty() { from } else { on_follower(offsets.end - 1) + 1 };
        Self { translation: Some(Translation { view, offsets }), ..Self::new(side, partition, from, to, max_bytes) }
    }

    /// The same, with a count of the offsets that were read, for somebody who waits.
    #[must_use]
    pub fn counted(mut self, progress: Arc<AtomicU64>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The next record, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        let deadline = Instant::now() + PATIENCE;
        while self.ahead.is_empty() {
            if self.at >= self.end {
                return Ok(None);
            }
            let before = self.at;
            let retriable = match self.read().await {
                Ok(()) => None,
                Err(error) if error.is_retriable() => Some(error),
                Err(error) => return Err(error),
            };
            if self.at == before {
                if Instant::now() > deadline {
                    return Err(retriable.unwrap_or_else(|| ReadError::Stuck {
                        cluster: self.side.client.cluster().name.to_string(),
                        partition: self.side.partition(self.partition),
                        at: self.at,
                    }));
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(self.ahead.pop_front())
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let isolation = self.translation.as_ref().map_or(Isolation::ReadCommitted, |translation| translation.view.isolation());
        let mut fetched = fetch_once(&self.side, self.partition, self.at, self.max_bytes, isolation).await?;
        let broken = |at, error| self.side.broken(self.partition, at, error);
        for entry in batch::split(fetched.records) {
            let entry = entry.map_err(|error| broken(self.at, error))?;
            let end = entry.last_offset() + 1;
            let hidden = match &entry {
                Entry::Batch(batch) => fetched.transactions.hide(batch).map_err(|error| broken(self.at, error))?,
                Entry::Old(_) => false,
            };
            if end <= self.at {
                continue;
            }
            if !hidden {
                let left_out = self.skipped.iter().any(|(from, to)| *from <= self.at && end <= *to);
                let records = match entry.check().and_then(|()| entry.records(DECODED)) {
                    Ok(records) => records,
                    Err(_) if left_out => Vec::new(),
                    Err(error) => return Err(broken(self.at, error)),
                };
                let wanted = records.into_iter().filter(|record| (self.at..self.end).contains(&record.offset));
                match &self.translation {
                    None => self.ahead.extend(wanted),
                    Some(translation) => self.ahead.extend(wanted.filter_map(|record| translation.record(record))),
                }
            }
            if let Some(progress) = &self.progress {
                progress.fetch_add(end.min(self.end).saturating_sub(self.at).max(0) as u64, Ordering::Relaxed);
            }
            self.at = end;
        }
        Ok(())
    }
}

/// `isolation.level`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolation {
    ReadUncommitted = 0,
    ReadCommitted = 1,
}

/// One Fetch of one partition, without a session: a reader has its broker for a few requests only.
async fn fetch_once(side: &Side, partition: i32, at: i64, max_bytes: i32, isolation: Isolation) -> Result<Fetched, ReadError> {
    let partition = side.partition(partition);
    let amount = Amount { max_wait_ms: 100, max_bytes, partition_max_bytes: max_bytes };
    let mut session = Session::default();
    // -1 is the epoch of a full request that wants no session.
    let request =
        session.request(HashMap::from([(partition.clone(), at)]), amount).with_session_epoch(-1).with_isolation_level(isolation as i8);
    let broker = side.client.leader_of(&partition).await?;
    let version = broker.version_for::<FetchRequest>(fetch::VERSIONS)?;
    let kafka = |error| ReadError::Kafka { cluster: side.cluster().to_string(), partition: partition.clone(), at, error };
    let answer = match broker.request(&request, version).await {
        Ok(answer) => answer,
        Err(error) => {
            side.client.forget_leader(&partition);
            return Err(error.into());
        }
    };
    let fetched = session.answer(answer).map_err(kafka)?.into_iter().find(|fetched| fetched.partition == partition);
    let fetched = fetched.ok_or_else(|| kafka(ResponseError::UnknownTopicOrPartition))?;
    match fetched.error {
        None => Ok(fetched),
        Some(error) => {
            side.client.forget_leader(&partition);
            Err(kafka(error))
        }
    }
}

/// Whose batches a range of a log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Padding of this producer id, and nothing else.
    Filler,
    /// Records of this producer id, and markers.
    Mirror,
    /// Somebody else's records.
    Others,
}

/// Who wrote a range of a log: the mirror, by its producer id, or somebody else.
///
/// # Errors
/// [`ReadError`]: nothing can be said then.
pub async fn written(side: &Side, partition: i32, offsets: Range<i64>, producer_id: i64) -> Result<Written, ReadError> {
    let mut at = offsets.start;
    let mut written = Written::Filler;
    while at < offsets.end {
        let before = at;
        for entry in batch::split(fetch_once(side, partition, at, 1 << 20, Isolation::ReadCommitted).await?.records) {
            let broken = |error| side.broken(partition, at, error);
            let entry = entry.map_err(broken)?;
            match &entry {
                Entry::Batch(batch) if batch.is_control() => written = Written::Mirror,
                Entry::Batch(batch) if batch.producer_id() == producer_id => {
                    if !batch.is_filler(DECODED).map_err(broken)? {
                        written = Written::Mirror;
                    }
                }
                _ => return Ok(Written::Others),
            }
            at = entry.last_offset() + 1;
        }
        if at == before {
            return Err(ReadError::Stuck { cluster: side.cluster().to_string(), partition: side.partition(partition), at });
        }
    }
    Ok(written)
}

/// Looks at the batches in a range of a log, whoever wrote them and whatever became of their transactions.
pub async fn visit(side: &Side, partition: i32, offsets: Range<i64>, mut look: impl FnMut(&Batch)) -> Result<(), ReadError> {
    let mut at = offsets.start;
    let mut deadline = Instant::now() + PATIENCE;
    while at < offsets.end {
        let before = at;
        for entry in batch::split(fetch_once(side, partition, at, 1 << 20, Isolation::ReadUncommitted).await?.records) {
            let entry = entry.map_err(|error| side.broken(partition, at, error))?;
            if let Entry::Batch(batch) = &entry
                && (at..offsets.end).contains(&batch.base_offset())
            {
                look(batch);
            }
            at = at.max(entry.last_offset() + 1);
        }
        if at > before {
            deadline = Instant::now() + PATIENCE;
        } else if Instant::now() > deadline {
            return Err(ReadError::Stuck { cluster: side.cluster().to_string(), partition: side.partition(partition), at });
        }
    }
    Ok(())
}

/// What a few batches of a log are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// The offsets that they span.
    pub offsets: u64,
    /// Whether one of them is of a transaction, or a marker.
    pub transactional: bool,
}

/// Looks at the batches from an offset on, about `max_bytes` of them.
pub async fn sample(side: &Side, partition: i32, at: i64, max_bytes: i32) -> Result<Sample, ReadError> {
    let mut sample = Sample::default();
    let mut from = None;
    for entry in batch::split(fetch_once(side, partition, at, max_bytes, Isolation::ReadCommitted).await?.records) {
        let entry = entry.map_err(|error| side.broken(partition, at, error))?;
        let mut first = at;
        if let Entry::Batch(batch) = &entry {
            first = batch.base_offset();
            sample.transactional |= batch.is_transactional() || batch.is_control();
        }
        let from = *from.get_or_insert(first);
        sample.bytes += entry.bytes().len() as u64;
        sample.offsets = u64::try_from(entry.last_offset() + 1 - from).unwrap_or(0);
    }
    Ok(sample)
}

impl Side {
    fn broken(&self, partition: i32, at: i64, error: BatchError) -> ReadError {
        ReadError::Batch { cluster: self.cluster().to_string(), partition: self.partition(partition), at, error }
    }
}

impl ReadError {
    /// Whether the log begins further on by now: retention or DeleteRecords took what was to be read.
    pub fn is_deleted(&self) -> bool {
        matches!(self, Self::Kafka { error: ResponseError::OffsetOutOfRange, .. })
    }

    /// Whether the same may succeed a moment later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retriable(),
            Self::Request(RequestError::Broken { .. }) | Self::Stuck { .. } => true,
            Self::Kafka { error, .. } => error.is_retriable(),
            Self::Request(_) | Self::Batch { .. } => false,
        }
    }
}

/// What may differ between two logs that are equal.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// One of them may miss records that the other still has: each is compacted by its own clock.
    pub missing: bool,
    /// Offsets, from and to, whose records the follower leaves out: `on_error` decided so.
    pub skipped: Vec<(i64, i64)>,
}

/// The first difference between two logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub offset: i64,
    /// What: a sentence about the leader and the follower.
    pub what: String,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Records that both have and that are equal.
    pub equal: u64,
    /// Records that only one of them has still, as [`Allowed::missing`] allows.
    pub compacted: u64,
    /// Records that the follower leaves out, as [`Allowed::skipped`] says.
    pub skipped: u64,
    /// The first difference.
    pub difference: Option<Difference>,
}

/// Compares two logs record for record: offset, timestamp, key, value and headers. Both readers have the same range.
///
/// # Errors
/// [`ReadError`]: nothing can be said then.
pub async fn compare(leader: LogReader, follower: LogReader, allowed: &Allowed) -> Result<Compared, ReadError> {
    compare_keys(leader, follower, allowed, &mut None).await
}

/// The same, and for compacted logs also which keys' latest record only one of them has.
///
/// # Errors
/// [`ReadError`]: nothing can be said then.
pub async fn compare_keys(
    mut leader: LogReader,
    mut follower: LogReader,
    allowed: &Allowed,
    keys: &mut Option<Keys>,
) -> Result<Compared, ReadError> {
    let mut found = Compared::default();
    leader.skipped.clone_from(&allowed.skipped);
    let (mut left, mut right) = tokio::try_join!(leader.next(), follower.next())?;
    loop {
        let different = |offset, what: String| Some(Difference { offset, what });
        match (&left, &right) {
            (None, None) => return Ok(found),
            (Some(one), Some(other)) if one.offset == other.offset => {
                if let Some(what) = difference(one, other) {
                    found.difference = different(one.offset, what);
                    return Ok(found);
                }
                if let Some(keys) = keys {
                    keys.both(one);
                }
                found.equal += 1;
                (left, right) = match (leader.ready(), follower.ready()) {
                    (Some(one), Some(other)) => (Some(one), Some(other)),
                    (one, other) => {
                        let left = async { if one.is_some() { Ok(one) } else { leader.next().await } };
                        let right = async { if other.is_some() { Ok(other) } else { follower.next().await } };
                        tokio::try_join!(left, right)?
                    }
                };
            }
            (Some(one), other) if other.as_ref().is_none_or(|other| one.offset < other.offset) => {
                if allowed.skipped.iter().any(|(from, to)| (*from..*to).contains(&one.offset)) {
                    found.skipped += 1;
                } else if allowed.missing {
                    if let Some(keys) = keys {
                        keys.one_only(one, Owner::Leader);
                    }
                    found.compacted += 1;
                } else {
                    found.difference = different(one.offset, "the follower has no record there, the leader has one".to_owned());
                    return Ok(found);
                }
                left = leader.next().await?;
            }
            (_, other) => {
                if !allowed.missing {
                    let offset = other.as_ref().map_or(0, |other| other.offset);
                    found.difference = different(offset, "the follower has a record there, the leader has none".to_owned());
                    return Ok(found);
                }
                if let (Some(keys), Some(other)) = (keys.as_mut(), other) {
                    keys.one_only(other, Owner::Follower);
                }
                found.compacted += 1;
                right = follower.next().await?;
            }
        }
    }
}

impl LogReader {
    /// The next record if it has been read already.
    fn ready(&mut self) -> Option<Record> {
        self.ahead.pop_front()
    }
}

/// What two records of the same offset differ in.
fn difference(leader: &Record, follower: &Record) -> Option<String> {
    let what = if leader.timestamp != follower.timestamp {
        return Some(format!("the leader's timestamp is {}, the follower's {}", leader.timestamp, follower.timestamp));
    } else if leader.key != follower.key {
        "key"
    } else if leader.value != follower.value {
        "value"
    } else if leader.headers != follower.headers {
        "headers"
    } else {
        return None;
    };
    Some(format!("the {what} of the record differs"))
}
