//! Records of kferry's own, appended to a partition: the mirror's state and its dead letters. They are few, and written one request at a time.

use kafka_protocol::error::ParseResponseErrorCode as _;

use super::produce;
use crate::batch::{self, Codec, Record, Sequence};
use crate::client::{Client, ClientError, TopicPartition};

/// How long the broker may take to have a batch on all in-sync replicas, in ms.
const TIMEOUT_MS: i32 = 10_000;

/// Why records of kferry's own were not written, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// No broker can be reached, or the connection broke at the last attempt. The records may have been written then.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker refuses the batch: it was not written.
    #[error("{cluster} answers Produce to {partition} with {error}")]
    Refused {
        /// The cluster's name in the file.
        cluster: String,
        /// The partition that was to be written.
        partition: TopicPartition,
        /// Kafka's error and message, or why the batch could not be made.
        error: String,
    },
    /// `may_write` was false just before the batch was to be sent: this attempt wrote nothing.
    #[error("nothing is written to {0}: this process may not be the one any more that has its shard")]
    NoLease(TopicPartition),
}

/// Appends records to all in-sync replicas of a partition, as one batch, if `may_write` says so just before it is sent. The `offset` of each record
/// is ignored. After a lost response they are sent again, three times in all, and may be there twice.
///
/// # Errors
/// [`AppendError`]: after `Refused` and `NoLease` the last attempt has written nothing; after `Client` the records may be there.
pub async fn append(
    client: &Client,
    partition: &TopicPartition,
    records: Vec<Record>,
    may_write: impl Fn() -> bool,
) -> Result<(), AppendError> {
    append_compressed(client, partition, records, Codec::None, may_write).await
}

/// Like [`append`], with a compressed batch: a record that was compressed when it came may be too large for its topic otherwise.
///
/// # Errors
/// As [`append`].
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
    // Without a producer id: a record of kferry's own may stand in its topic twice, and nobody minds.
    let batch = batch::encode(&records, codec, Sequence::NONE).map_err(|error| refused(error.to_string()))?;
    let failed = |source| AppendError::Client(ClientError::Request { cluster: cluster.clone(), source });
    for last in [false, false, true] {
        let broker = client.leader_of(partition).await?;
        if !may_write() {
            return Err(AppendError::NoLease(partition.clone()));
        }
        let error = match produce::send(&broker, [(partition.clone(), batch.clone())], TIMEOUT_MS).await {
            Ok(response) => match produce::only(response).map(|partition| (partition.error_code.err(), partition.error_message)) {
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
