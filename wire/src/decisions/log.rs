//! The topic that the log is in: how it is created, followed and written.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Refused, Request, State, Unknown, Unwritable, Verdict, Witness, check, encode};
use crate::admin::topics::{NewPartitions, NewTopic};
use crate::batch::Record;
use crate::client::{Client, ClientError, TopicPartition, Topics};
use crate::log::{AppendError, Follower, ReadError, append};

/// The topic with the log, on the cluster of `[state]`. It has one partition.
pub const TOPIC: &str = "__kferry.decisions";

/// About how many bytes of the log a Fetch response may have.
const MAX_BYTES: i32 = 4 << 20;

/// Replicas of the topic where the cluster has brokers for them, and how many of these must have a record before it counts.
const REPLICAS: (i16, &str) = (3, "2");

/// What the topic takes: Kafka's default, of which [`super::MAX_BYTES`] is a little less.
const LARGEST_BATCH: &str = "1048588";

/// How long a broker waits for the next record.
const POLL: Duration = Duration::from_millis(500);

/// Updates that wait for whoever follows.
const UPDATES: usize = 16;

/// Between two attempts to read a log that cannot be read: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a topic that was just created may be unknown to the brokers.
const CREATED: Duration = Duration::from_secs(15);

/// Why the log of decisions is not followed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Its cluster does not answer, or refuses.
    #[error("the log of decisions cannot be read: {error}{rights}", error = .0, rights = rights(.0.is_authorization()))]
    Read(#[from] ReadError),
    /// The same.
    #[error("the log of decisions cannot be asked for: {error}{rights}", error = .0, rights = rights(.0.is_authorization()))]
    Client(#[from] ClientError),
    /// A record could not be written.
    #[error("the log of decisions cannot be written: {error}{rights}", error = .0, rights = rights(matches!(.0, AppendError::Client(error) if error.is_authorization())))]
    Append(#[from] AppendError),
    /// A record is not to be written.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// It is not the log that it should be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// An operator has moved it.
    #[error(
        "the log of decisions has moved to cluster {to}: write cluster = \"{to}\" in [state], and restart; until then nothing moves here"
    )]
    Moved {
        /// The cluster that has it.
        to: String,
    },
    /// A record that this program does not know.
    #[error("the record at offset {offset} of the log of decisions: {source}")]
    Unknown {
        /// Of the record.
        offset: i64,
        /// What is not known.
        source: Unknown,
    },
}

impl LogError {
    /// Whether this program must not go on with what it knows: the log is not what it was, or says what this program does not know. After anything else,
    /// such as a right that somebody took away, it goes on as while the log's cluster is down, and reads on once it can.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unknown { .. } => true,
            Self::Read(error) => error.is_deleted(),
            Self::Client(_) | Self::Append(_) | Self::Unwritable(_) | Self::Moved { .. } => false,
        }
    }

    /// Whether a right is missing: somebody has to grant it.
    pub fn is_authorization(&self) -> bool {
        match self {
            Self::Read(error) => error.is_authorization(),
            Self::Client(error) | Self::Append(AppendError::Client(error)) => error.is_authorization(),
            Self::Append(_) | Self::Unwritable(_) | Self::Refused(_) | Self::Moved { .. } | Self::Unknown { .. } => false,
        }
    }
}

/// What to do about a right that is missing.
fn rights(are_missing: bool) -> &'static str {
    if are_missing { "; allow kferry's login CREATE, DESCRIBE, READ and WRITE on the topic __kferry.decisions there" } else { "" }
}

/// A record that was read.
#[derive(Debug)]
pub struct ReadRecord {
    /// Its offset.
    pub offset: i64,
    /// When its author wrote it, in milliseconds since 1970, by the author's clock.
    pub timestamp: i64,
    /// Its bytes.
    pub value: Option<bytes::Bytes>,
    /// Whether it counts.
    pub verdict: Verdict,
}

/// The log, as it is followed.
pub struct Log {
    follower: Follower,
    state: State,
    /// The offset behind the last record, when that was asked for last; `None` before that.
    high_watermark: Option<i64>,
    known: Option<Witness>,
    /// A record that is not known stands behind those that were read last.
    unknown: Option<(i64, Unknown)>,
}

/// What following the log has brought.
#[derive(Debug)]
pub enum Update {
    /// Records, in their order; none if none came in time.
    Read {
        /// What they say, and whether they count.
        records: Vec<ReadRecord>,
        /// The state behind the last of them.
        state: Arc<State>,
        /// Whether this was all that the log had.
        is_at_end: bool,
    },
    /// It cannot be read just now; it is tried again.
    Trouble(LogError),
    /// It cannot be followed any more.
    Over(LogError),
}

/// The beginning of a record, for the debug log.
fn head(value: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&value[..value.len().min(48)])
}

/// The partition of the log.
fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// What the log of a cluster says, if it says where topics lead or groups live and has not moved elsewhere. Whoever reads another log, or none, would take
/// followers of these topics for their leaders. `None`: it says nothing, or the cluster cannot be asked.
///
/// # Errors
/// [`LogError::Unknown`]: it has records of another version.
pub async fn decided(client: Client) -> Option<Result<State, LogError>> {
    let mut log = Log::find(client, None).await.ok()??;
    while !log.is_at_end() {
        match log.next(Duration::ZERO).await {
            Ok(_) => {}
            Err(error @ LogError::Unknown { .. }) => return Some(Err(error)),
            Err(_) => return None,
        }
    }
    let state = log.state();
    let says = state.moved().is_none() && !(state.leaders().is_empty() && state.lives().is_empty());
    says.then(|| Ok(state.clone()))
}

impl Log {
    /// Finds the log on its cluster. Nothing is read yet. `known`: what is known of it from before. `None`: there is no such topic.
    ///
    /// # Errors
    /// [`LogError::Client`].
    pub async fn find(client: Client, known: Option<Witness>) -> Result<Option<Self>, LogError> {
        let metadata = client.metadata(Topics::Named(&[TOPIC])).await?;
        let Some(topic) = metadata.topic(TOPIC) else { return Ok(None) };
        match &topic.error {
            Some(error) if error.is_unknown_topic() => return Ok(None),
            Some(error) => return Err(error.clone().into()),
            None => {}
        }
        let follower = Follower::new(client, partition(), 0, MAX_BYTES);
        Ok(Some(Self { follower, state: State::default(), high_watermark: None, known, unknown: None }))
    }

    /// Finds the log, and creates its topic where there is none. Whoever finds it empty begins it, with its identity; of two that do, the first counts.
    ///
    /// # Errors
    /// [`LogError::Client`].
    pub async fn find_or_create(client: Client) -> Result<Self, LogError> {
        let deadline = Instant::now() + CREATED;
        let mut created = false;
        loop {
            if let Some(found) = Self::find(client.clone(), None).await? {
                return Ok(found);
            }
            if !created {
                create(&client).await?;
                created = true;
            } else if Instant::now() > deadline {
                let what = format!("Metadata of {TOPIC}, which was just created,");
                return Err(ClientError::Incomplete { cluster: client.cluster().name.clone(), what }.into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What it says, as far as it was read.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether everything was read that it had when it was asked last.
    pub fn is_at_end(&self) -> bool {
        let is_read = self.high_watermark.is_some_and(|end| self.follower.at() >= end);
        self.state.moved().is_some() || self.unknown.is_none() && is_read
    }

    /// Waits for records, at the most for as long as `wait`, and takes them in. The first time that the end is reached the log is held against what is known
    /// of it.
    ///
    /// # Errors
    /// [`LogError`]; [`LogError::Unknown`] and [`LogError::Moved`] after what stands before that record was returned. After one that [is over](LogError::is_over) this program must not take part any more; after another one it may be asked again.
    pub async fn next(&mut self, wait: Duration) -> Result<Vec<ReadRecord>, LogError> {
        if let Some((offset, source)) = self.unknown.clone() {
            return Err(LogError::Unknown { offset, source });
        }
        if let Some(to) = self.state.moved() {
            return Err(LogError::Moved { to: to.to_owned() });
        }
        let followed = self.follower.next(wait).await?;
        if followed.log_start_offset > 0 && self.high_watermark.is_none() {
            return Err(Refused::Truncated(followed.log_start_offset).into());
        }
        let mut read = Vec::with_capacity(followed.records.len());
        for Record { offset, timestamp, value, .. } in followed.records {
            if self.state.moved().is_some() {
                // Nothing counts there, and a witness of it would know of more records than the log has where it goes on.
                break;
            }
            match self.state.read(offset, value.as_deref()) {
                Ok(verdict) => {
                    let counts = verdict == Verdict::Counts;
                    tracing::debug!(offset, timestamp, counts, record = ?value.as_deref().map(head), "the log of decisions has");
                    read.push(ReadRecord { offset, timestamp, value, verdict });
                }
                Err(source) => {
                    self.unknown = Some((offset, source));
                    return Ok(read);
                }
            }
        }
        self.high_watermark = Some(followed.high_watermark);
        if self.is_at_end()
            && let Some(known) = self.known.take()
        {
            check(0, &self.state, Some(&known))?;
        }
        Ok(read)
    }

    /// Follows it from here on, in a task of its own that ends when nobody listens any more: whoever waits for records and for other things too would
    /// leave requests behind, and the broker answers one after the other.
    pub fn follow(mut self) -> mpsc::Receiver<Update> {
        let (tell, told) = mpsc::channel(UPDATES);
        tokio::spawn(async move {
            let mut pause = PAUSES.0;
            let mut state = Arc::new(self.state.clone());
            loop {
                let update = match self.next(POLL).await {
                    Ok(records) => {
                        pause = PAUSES.0;
                        if !records.is_empty() {
                            state = Arc::new(self.state.clone());
                        }
                        Update::Read { records, state: state.clone(), is_at_end: self.is_at_end() }
                    }
                    Err(error) if error.is_over() => Update::Over(error),
                    // Also where the log has moved: who goes on here is still one of those for whom moves wait in the log that goes on elsewhere.
                    Err(error) => Update::Trouble(error),
                };
                let (is_trouble, is_over) = (matches!(update, Update::Trouble(_)), matches!(update, Update::Over(_)));
                if tell.send(update).await.is_err() || is_over {
                    return;
                }
                if is_trouble {
                    sleep(pause).await;
                    pause = (2 * pause).min(PAUSES.1);
                }
            }
        });
        told
    }
}

/// Asks for something: it counts, or does not, once it is read.
///
/// # Errors
/// [`LogError::Append`], [`LogError::Unwritable`]. What was not acknowledged may stand in the log all the same: then it is read.
pub async fn ask(client: &Client, requests: &[Request], rules: u32, timestamp: i64) -> Result<(), LogError> {
    let mut records = Vec::with_capacity(requests.len());
    for request in requests {
        let value: Option<bytes::Bytes> = Some(encode(request, rules)?.into());
        tracing::debug!(record = ?value.as_deref().map(head), "the log of decisions is asked for");
        records.push(Record { offset: 0, timestamp, key: None, value, headers: Vec::new() });
    }
    append(client, &partition(), records, || true).await?;
    tracing::debug!("the log of decisions has taken it");
    Ok(())
}

async fn create(client: &Client) -> Result<(), LogError> {
    let brokers = client.metadata(Topics::Named(&[])).await?.brokers.len();
    let mut configs = vec![
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("unclean.leader.election.enable", "false"),
        ("message.timestamp.type", "CreateTime"),
        // A broker may be set to take less, and a move that has begun must be able to end.
        ("max.message.bytes", LARGEST_BATCH),
    ];
    let replicated = brokers >= REPLICAS.0 as usize;
    if replicated {
        configs.push(("min.insync.replicas", REPLICAS.1));
    }
    let new = NewTopic {
        name: TOPIC.to_owned(),
        partitions: NewPartitions::Count { partitions: Some(1), replication_factor: replicated.then_some(REPLICAS.0) },
        configs: configs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    };
    match client.create_topics(&[new], false).await.into_values().next() {
        Some(Err(error)) if error.code() != Some(ResponseError::TopicAlreadyExists) => Err(error.into()),
        _ => Ok(()),
    }
}
