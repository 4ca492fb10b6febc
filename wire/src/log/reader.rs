//! The records of a partition, from one offset to another.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;
use tokio::time::{Instant, sleep};

use super::fetch::{self, Amount, FetchSession, Fetched};
use crate::admin::partitions::Position;
use crate::batch::{self, BatchError, DECODED_LIMIT, Entry, Record};
use crate::client::{Client, ClientError, TopicPartition};
use crate::connection::RequestError;

/// How long a log may give nothing although it should have more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads records from one offset to another.
pub struct LogReader {
    client: Client,
    partition: TopicPartition,
    /// The next offset to fetch.
    at: i64,
    /// The offset behind the last one to read.
    end: i64,
    /// Records that were fetched and not asked for yet.
    ahead: VecDeque<Record>,
    /// Bytes of one Fetch response, about.
    max_bytes: i32,
    isolation: Isolation,
    /// Offsets, from and to, within which a batch that cannot be read is passed over.
    may_be_broken: Vec<(i64, i64)>,
    /// Offsets that were read are added here.
    progress: Option<Arc<AtomicU64>>,
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
    /// Reads a range of offsets with `read_committed`, in responses of about `max_bytes`.
    pub fn new(client: Client, partition: TopicPartition, offsets: Range<i64>, max_bytes: i32) -> Self {
        Self {
            client,
            partition,
            at: offsets.start,
            end: offsets.end,
            ahead: VecDeque::new(),
            max_bytes,
            isolation: Isolation::ReadCommitted,
            may_be_broken: Vec::new(),
            progress: None,
        }
    }

    /// The same, with another `isolation.level`.
    #[must_use]
    pub fn isolated(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// The same, with a count of the offsets that were read, for somebody who waits.
    #[must_use]
    pub fn counted(mut self, progress: Arc<AtomicU64>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The same, but that batches within these offsets, from and to, may be broken: they give no records, and no error.
    #[must_use]
    pub fn tolerating(mut self, may_be_broken: Vec<(i64, i64)>) -> Self {
        self.may_be_broken = may_be_broken;
        self
    }

    /// The next record, `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`]; what may pass is tried again for half a minute first.
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
                    return Err(retriable.unwrap_or_else(|| ReadError::stuck(&self.client, &self.partition, self.at)));
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(self.ready())
    }

    /// The next record if it was fetched already.
    pub fn ready(&mut self) -> Option<Record> {
        self.ahead.pop_front()
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let mut fetched = fetch_once(&self.client, &self.partition, self.at, self.max_bytes, self.isolation).await?;
        let broken = |at, error| broken(&self.client, &self.partition, at, error);
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
                let tolerated = self.may_be_broken.iter().any(|(from, to)| *from <= self.at && end <= *to);
                let records = match entry.check().and_then(|()| entry.records(DECODED_LIMIT)) {
                    Ok(records) => records,
                    Err(_) if tolerated => Vec::new(),
                    Err(error) => return Err(broken(self.at, error)),
                };
                self.ahead.extend(records.into_iter().filter(|record| (self.at..self.end).contains(&record.offset)));
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
pub enum Isolation {
    /// `read_uncommitted`
    ReadUncommitted = 0,
    /// `read_committed`
    ReadCommitted = 1,
}

/// One Fetch of one partition, without a session: a reader has its broker for a few requests only.
///
/// # Errors
/// [`ReadError`]; a leader that did not serve it is forgotten.
pub async fn fetch_once(
    client: &Client,
    partition: &TopicPartition,
    at: i64,
    max_bytes: i32,
    isolation: Isolation,
) -> Result<Fetched, ReadError> {
    let amount = Amount { max_wait_ms: 100, max_bytes, partition_max_bytes: max_bytes };
    let mut session = FetchSession::default();
    // -1 is the epoch of a full request that wants no session.
    let request =
        session.request(HashMap::from([(partition.clone(), at)]), amount).with_session_epoch(-1).with_isolation_level(isolation as i8);
    let broker = client.leader_of(partition).await?;
    let version = broker.version_for::<FetchRequest>(fetch::VERSIONS)?;
    let kafka = |error| ReadError::Kafka { cluster: client.cluster().name.to_string(), partition: partition.clone(), at, error };
    let response = match broker.request(&request, version).await {
        Ok(response) => response,
        Err(error) => {
            client.forget_leader(partition);
            return Err(error.into());
        }
    };
    let fetched = session.answer(response).map_err(kafka)?.into_iter().find(|fetched| fetched.partition == *partition);
    let fetched = fetched.ok_or_else(|| kafka(ResponseError::UnknownTopicOrPartition))?;
    match fetched.error {
        None => Ok(fetched),
        Some(error) => {
            client.forget_leader(partition);
            Err(kafka(error))
        }
    }
}

/// Reads on in a partition from an offset to the last stable offset as it is now, and moves the offset there: the way to follow a topic that is
/// read as a whole. `take` gets each record.
///
/// # Errors
/// [`ReadError`]; the offset stays where it was then, and records may come again.
pub async fn read_on(
    client: &Client,
    partition: &TopicPartition,
    position: &mut i64,
    max_bytes: i32,
    mut take: impl FnMut(Record),
) -> Result<(), ReadError> {
    let asked = [partition.clone()];
    let offset = async |position| client.list_offsets(&asked, position).await.remove(partition).transpose().map(Option::unwrap_or_default);
    let (start, end): (i64, i64) = tokio::try_join!(offset(Position::LogStart), offset(Position::LastStable))?;
    let at = (*position).max(start);
    if at < end {
        let mut reader = LogReader::new(client.clone(), partition.clone(), at..end, max_bytes);
        while let Some(record) = reader.next().await? {
            take(record);
        }
        *position = end;
    }
    Ok(())
}

/// The error for a batch behind an offset that cannot be read.
pub fn broken(client: &Client, partition: &TopicPartition, at: i64, error: BatchError) -> ReadError {
    ReadError::Batch { cluster: client.cluster().name.to_string(), partition: partition.clone(), at, error }
}

impl ReadError {
    /// The error for a log that gives nothing more from an offset on.
    pub fn stuck(client: &Client, partition: &TopicPartition, at: i64) -> Self {
        Self::Stuck { cluster: client.cluster().name.to_string(), partition: partition.clone(), at }
    }

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
