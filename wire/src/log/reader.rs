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

/// How long a log may give no record before its end, or errors that may pass, until reading it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a compacted log may give nothing although the range ends before its last stable offset, until what is left of the range counts as compacted
/// away. A broker may answer so for a moment where there is something.
const GONE: Duration = Duration::from_secs(2);

/// Reads records from one offset to another.
pub struct LogReader {
    client: Client,
    partition: TopicPartition,
    /// The next offset to fetch: everything before it was read.
    at: i64,
    /// The first offset that is not to be read any more.
    end: i64,
    /// Records that were fetched and not given out yet, by [`LogReader::next`] or [`LogReader::ready`].
    ahead: VecDeque<Record>,
    /// About how many bytes a Fetch response may have.
    max_bytes: i32,
    isolation: Isolation,
    /// Offsets within which a batch that cannot be read is passed over.
    may_be_broken: Vec<Range<i64>>,
    /// Whether the last offsets of the range may hold nothing any more.
    compacted: bool,
    /// Since when the log gives nothing, though it may be read up to the end of the range.
    nothing_since: Option<Instant>,
    /// How many offsets were read is added here.
    progress: Option<Arc<AtomicU64>>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The partition leader is not known or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The connection broke, or its broker does not speak these versions of Fetch.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The broker answers with an error.
    #[error("{cluster} answers Fetch of {partition} from offset {at} with {error:?}")]
    Kafka {
        /// The cluster's name in the file.
        cluster: String,
        /// The partition that was read.
        partition: TopicPartition,
        /// The offset that was fetched from.
        at: i64,
        /// Kafka's error, for the partition or the whole response.
        error: ResponseError,
    },
    /// A batch is broken: its bytes are not what its header or its CRC says.
    #[error("{cluster}: a batch of {partition} behind offset {at} cannot be read: {error}")]
    Batch {
        /// The cluster's name in the file.
        cluster: String,
        /// The partition that was read.
        partition: TopicPartition,
        /// The offset up to which everything was read.
        at: i64,
        /// What is wrong with it.
        error: BatchError,
    },
    /// Nothing comes from an offset on for half a minute, though the log goes on behind it.
    #[error(
        "{cluster} gives nothing of {partition} from offset {at} on, though its log goes on: a transaction is open there, or the broker hangs"
    )]
    Stuck {
        /// The cluster's name in the file.
        cluster: String,
        /// The partition that was read.
        partition: TopicPartition,
        /// The offset up to which everything was read.
        at: i64,
    },
}

impl LogReader {
    /// A reader of a range of offsets with `read_committed`, in Fetch responses of about `max_bytes`.
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
            compacted: false,
            nothing_since: None,
            progress: None,
        }
    }

    /// This reader, with another `isolation.level`.
    #[must_use]
    pub fn isolated(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// This reader, which adds to `progress` how many offsets it has read: for a progress bar.
    #[must_use]
    pub fn counted(mut self, progress: Arc<AtomicU64>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// This reader, for which batches that lie wholly within one of these ranges of offsets may be broken: they give no records, and no error.
    #[must_use]
    pub fn tolerating(mut self, may_be_broken: Vec<Range<i64>>) -> Self {
        self.may_be_broken = may_be_broken;
        self
    }

    /// This reader, of a log that may be `compacted`: where the last offsets of the range hold nothing any more it does not wait for them.
    #[must_use]
    pub fn compacted(mut self, compacted: bool) -> Self {
        self.compacted = compacted;
        self
    }

    /// The next record, in the order of the offsets; `None` at the end of the range.
    ///
    /// # Errors
    /// [`ReadError`]; one that may pass comes after half a minute of attempts only. The reader stays where it was, and may be asked again.
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
                if self.compacted && self.nothing_since.is_some_and(|since| since.elapsed() >= GONE) {
                    self.at = self.end;
                    continue;
                }
                if Instant::now() > deadline {
                    return Err(retriable.unwrap_or_else(|| ReadError::stuck(&self.client, &self.partition, self.at)));
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(self.ready())
    }

    /// The next record, if it was fetched already: without waiting.
    pub fn ready(&mut self) -> Option<Record> {
        self.ahead.pop_front()
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let mut fetched = fetch_once(&self.client, &self.partition, self.at, self.max_bytes, self.isolation).await?;
        let readable = match self.isolation {
            Isolation::ReadCommitted => fetched.last_stable_offset,
            Isolation::ReadUncommitted => fetched.high_watermark,
        };
        let is_nothing = fetched.records.is_empty() && readable >= self.end;
        self.nothing_since = self.nothing_since.or_else(|| Some(Instant::now())).filter(|_| is_nothing);
        let broken = |at, error| ReadError::broken(&self.client, &self.partition, at, error);
        for entry in batch::split(fetched.records) {
            // A response may reach further than what is asked for, and what lies there, damaged or not, is none of this reader's.
            if self.at >= self.end {
                break;
            }
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
                let tolerated = self.may_be_broken.iter().any(|broken| broken.start <= self.at && end <= broken.end);
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

/// Kafka's `isolation.level`: which records of transactions a reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// `read_uncommitted`: all records up to the high watermark, also those of open and aborted transactions.
    ReadUncommitted = 0,
    /// `read_committed`: records up to the last stable offset, without those of aborted transactions.
    ReadCommitted = 1,
}

/// One Fetch of one partition from the offset `at` on, of about `max_bytes`. It has no fetch session: a reader has its broker for a few requests only.
///
/// # Errors
/// [`ReadError`] but for `Batch` and `Stuck`. A partition leader that did not serve it is looked up anew the next time.
pub async fn fetch_once(
    client: &Client,
    partition: &TopicPartition,
    at: i64,
    max_bytes: i32,
    isolation: Isolation,
) -> Result<Fetched, ReadError> {
    fetch_within(client, partition, at, max_bytes, Duration::from_millis(100), isolation).await
}

/// [`fetch_once`], for which the broker waits for `wait` if there is nothing to send.
pub(super) async fn fetch_within(
    client: &Client,
    partition: &TopicPartition,
    at: i64,
    max_bytes: i32,
    wait: Duration,
    isolation: Isolation,
) -> Result<Fetched, ReadError> {
    let amount = Amount { max_wait_ms: wait.as_millis() as i32, max_bytes, partition_max_bytes: max_bytes };
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
    let fetched = session.take_in(response).map_err(kafka)?.into_iter().find(|fetched| fetched.partition == *partition);
    let fetched = fetched.ok_or_else(|| kafka(ResponseError::UnknownTopicOrPartition))?;
    match fetched.error {
        None => Ok(fetched),
        Some(error) => {
            client.forget_leader(partition);
            Err(kafka(error))
        }
    }
}

/// Reads a partition from the offset `position` on, or from its log start if that is higher, up to its last stable offset as it is now, and moves
/// `position` there: the way to follow a topic that is read as a whole. `take` gets each record.
///
/// # Errors
/// [`ReadError`]. `position` stays where it was then, so records that `take` has got already come again the next time.
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

impl ReadError {
    /// The error for a batch that cannot be read, at the offset `at` or behind it.
    pub fn broken(client: &Client, partition: &TopicPartition, at: i64, error: BatchError) -> Self {
        Self::Batch { cluster: client.cluster().name.to_string(), partition: partition.clone(), at, error }
    }

    /// The error for a log that gives nothing from the offset `at` on, though it goes on.
    pub fn stuck(client: &Client, partition: &TopicPartition, at: i64) -> Self {
        Self::Stuck { cluster: client.cluster().name.to_string(), partition: partition.clone(), at }
    }

    /// Whether the offset lies outside of the log (OFFSET_OUT_OF_RANGE): retention or DeleteRecords took what was to be read.
    pub fn is_deleted(&self) -> bool {
        matches!(self, Self::Kafka { error: ResponseError::OffsetOutOfRange, .. })
    }

    /// Whether the same read may succeed a moment later, without anybody's doing.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retriable(),
            Self::Request(RequestError::Broken { .. }) | Self::Stuck { .. } => true,
            Self::Kafka { error, .. } => error.is_retriable(),
            Self::Request(_) | Self::Batch { .. } => false,
        }
    }

    /// Whether an ACL is missing.
    pub fn is_authorization(&self) -> bool {
        match self {
            Self::Client(error) => error.is_authorization(),
            Self::Kafka { error, .. } => *error == ResponseError::TopicAuthorizationFailed,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    use kafka_protocol::messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, FetchResponse, MetadataRequest, MetadataResponse, ResponseHeader,
        TopicName,
    };
    use kafka_protocol::protocol::{Encodable as _, HeaderVersion as _, Request, StrBytes};
    use kferry_config::{Cluster, HostPort, Security};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection::ConnectOptions;
    use crate::frame::read_frame;
    use crate::header::RequestHeader;

    fn answer<R: Request>(correlation_id: i32, version: i16, body: &R::Response) -> Vec<u8> {
        let mut frame = vec![0; 4];
        ResponseHeader::default().with_correlation_id(correlation_id).encode(&mut frame, R::Response::header_version(version)).unwrap();
        body.encode(&mut frame, version).unwrap();
        let size = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        frame
    }

    /// A broker whose only partition has nothing any more, though it may be read up to offset 200.
    async fn serve(mut stream: TcpStream, port: u16) {
        let mut buf = BytesMut::new();
        while let Ok(frame) = read_frame(&mut stream, 1 << 20, &mut buf).await {
            let header = RequestHeader::peek(&frame).unwrap();
            let (id, version) = (header.correlation_id, header.api_version);
            let name = || TopicName(StrBytes::from_static_str("orders"));
            let answer = match ApiKey::try_from(header.api_key).unwrap() {
                ApiKey::ApiVersions => {
                    let keys = [(ApiKey::ApiVersions, 0, 3), (ApiKey::Metadata, 0, 9), (ApiKey::Fetch, 4, 11)];
                    let key = |(key, min, max)| ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max);
                    let body = ApiVersionsResponse::default().with_api_keys(keys.map(key).into());
                    if version > 3 {
                        answer::<ApiVersionsRequest>(id, 0, &body.with_error_code(35))
                    } else {
                        answer::<ApiVersionsRequest>(id, version, &body)
                    }
                }
                ApiKey::Metadata => {
                    let broker = MetadataResponseBroker::default().with_node_id(BrokerId(1)).with_port(i32::from(port));
                    let partition = MetadataResponsePartition::default().with_leader_id(BrokerId(1)).with_leader_epoch(0);
                    let topic = MetadataResponseTopic::default().with_name(Some(name())).with_partitions(vec![partition]);
                    let body = MetadataResponse::default()
                        .with_brokers(vec![broker.with_host(StrBytes::from_static_str("127.0.0.1"))])
                        .with_topics(vec![topic]);
                    answer::<MetadataRequest>(id, version, &body)
                }
                _ => {
                    let partition = PartitionData::default().with_high_watermark(250).with_last_stable_offset(200);
                    let topic = FetchableTopicResponse::default().with_topic(name()).with_partitions(vec![partition]);
                    answer::<FetchRequest>(id, version, &FetchResponse::default().with_responses(vec![topic]))
                }
            };
            stream.write_all(&answer).await.unwrap();
        }
    }

    async fn client() -> Client {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, port));
            }
        });
        let bootstrap_servers = vec![HostPort { host: "127.0.0.1".to_owned(), port }];
        let cluster = Cluster { name: "old".into(), id: 1, bootstrap_servers, brokers: None, security: Security::default() };
        Client::new(Arc::new(cluster), ConnectOptions::default())
    }

    #[tokio::test]
    async fn nobody_waits_for_what_compaction_has_taken_but_for_an_open_transaction() {
        let client = client().await;
        let read = async |end, compacted, isolation| {
            let mut reader = LogReader::new(client.clone(), TopicPartition::new("orders", 0), 100..end, 1_000);
            reader = reader.isolated(isolation).compacted(compacted);
            tokio::time::timeout(GONE * 3, reader.next()).await.ok().map(Result::unwrap)
        };
        let (gone, open, plain, all) = tokio::join!(
            read(200, true, Isolation::ReadCommitted),
            read(201, true, Isolation::ReadCommitted),
            read(200, false, Isolation::ReadCommitted),
            read(250, true, Isolation::ReadUncommitted),
        );
        assert!(matches!((gone, all), (Some(None), Some(None))), "it is over");
        assert!(open.is_none() && plain.is_none(), "it waits");
    }
}
