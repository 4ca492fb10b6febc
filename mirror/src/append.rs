//! Topics and records that are the mirror's own: its state and its dead letters. They are few, and written one request at a time.

use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::ProduceRequest;
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::batch::{self, Codec, Record, Stamp};
use kferry_wire::client::{Client, ClientError, TopicPartition};

use crate::produce;

/// No producer id: what is appended twice here is no harm.
const NOBODY: Stamp = Stamp { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
const TIMEOUT_MS: i32 = 10_000;

/// Why records of the mirror's own were not written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The cluster says no, or nothing.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker refuses the batch.
    #[error("{cluster} answers Produce to {partition} with {error}")]
    Refused {
        /// Which cluster.
        cluster: String,
        /// Which partition.
        partition: TopicPartition,
        /// Kafka's error.
        error: String,
    },
    /// The process must not write just now.
    #[error("nothing is written to {0}: this process may not be the one any more that has its shard")]
    NoLease(TopicPartition),
}

/// Creates a topic. It has `replication_factor` replicas, or as many as the cluster gives by itself (`default.replication.factor`): how many
/// brokers are up just now says nothing, as one may be away.
///
/// # Errors
/// [`ClientError`]
pub async fn create(
    client: &Client,
    topic: &str,
    partitions: i32,
    replication_factor: Option<u16>,
    configs: &[(&str, &str)],
) -> Result<(), ClientError> {
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: NewPartitions::Count {
            partitions: Some(partitions),
            replication_factor: replication_factor.and_then(|factor| i16::try_from(factor).ok()),
        },
        configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let created = client.create_topics(&[new], false).await.into_values().next().transpose()?;
    if replication_factor.is_none() && created.is_some_and(|created| created.replication_factor == Some(1)) {
        kferry_wire::tell!(crate::messages::ONE_REPLICA, topic, cluster = &*client.cluster().name);
    }
    Ok(())
}

/// Appends records, on all in-sync replicas, if `may_write` says so just before. Their offsets do not matter. After a lost answer they are sent
/// again, and may be there twice.
pub async fn append(
    client: &Client,
    partition: &TopicPartition,
    records: Vec<Record>,
    may_write: impl Fn() -> bool,
) -> Result<(), AppendError> {
    append_compressed(client, partition, records, Codec::None, may_write).await
}

/// The same, compressed: what its topic takes only so may have come so.
pub async fn append_compressed(
    client: &Client,
    partition: &TopicPartition,
    mut records: Vec<Record>,
    codec: Codec,
    may_write: impl Fn() -> bool,
) -> Result<(), AppendError> {
    let cluster = &client.cluster().name;
    for (offset, record) in records.iter_mut().enumerate() {
        record.offset = offset as i64;
    }
    let refused = |error: String| AppendError::Refused { cluster: cluster.to_string(), partition: partition.clone(), error };
    let batch = batch::encode(&records, codec, NOBODY).map_err(|error| refused(error.to_string()))?;
    let request = produce::request([(partition.clone(), batch)], TIMEOUT_MS);
    let failed = |source| AppendError::Client(ClientError::Request { cluster: cluster.clone(), source });
    for last in [false, false, true] {
        let broker = client.leader_of(partition).await?;
        let version = broker.version_for::<ProduceRequest>(produce::VERSIONS).map_err(failed)?;
        if !may_write() {
            return Err(AppendError::NoLease(partition.clone()));
        }
        let error = match broker.request(&request, version).await {
            Ok(answer) => match produce::only(answer).map(|answer| (answer.error_code.err(), answer.error_message)) {
                Some((None, _)) => return Ok(()),
                Some((Some(error), _)) if !last && error.is_retriable() => None,
                Some((Some(error), said)) => Some(format!("{error:?} {}", said.unwrap_or_default().as_str())),
                None => Some("an answer without the partition".to_owned()),
            },
            Err(error) if last => return Err(failed(error)),
            Err(_) => None,
        };
        if let Some(error) = error {
            return Err(refused(error));
        }
        client.forget_leader(partition);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    unreachable!("the last attempt returns")
}
