//! Offsets of the leader that hold no record, on the follower: markers that no consumer sees.
//!
//! `WriteTxnMarkers`, sent to the partition's leader, appends them, a hundred thousand a second. Who may not send it can have an empty
//! transaction for each: it leaves one marker, and takes milliseconds.
//!
//! A marker takes an offset and cannot be a compare-and-swap. So nothing else of the partition is in flight while they are written, and the
//! log end says how many there are. When an answer is lost, the log end is awaited until it rests, and both logs are looked at anew.
//!
//! # References
//! - `WriteTxnMarkersRequest.json` (KIP-98); `org.apache.kafka.coordinator.transaction.TransactionMarkerChannelManager`

use std::ops::Range;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kferry_wire::admin::partitions::TxnMarker;
use kferry_wire::client::ClientError;
use tokio::time::{Instant, sleep};

use crate::job::{Leave, Side};

/// Markers in one request.
const AT_ONCE: i64 = 1_000;
/// Above this an empty transaction for each offset would take minutes: the right to write markers is the better way.
const TRANSACTIONS: i64 = 50_000;
/// What a broker may still do after its answer was lost is done by then.
const REST: Duration = Duration::from_secs(2);
/// How long the coordinator keeps a transaction open that we did not end.
const TRANSACTION: Duration = Duration::from_secs(60);
/// How long markers of transactions that have ended may take to land.
const LANDED: Duration = Duration::from_secs(30);

/// Fills the offsets with markers. `producer_id` is the one of the mirror's batches there; the markers have one beside it, so that they leave
/// its sequence alone.
pub async fn fill(side: Side, partition: i32, producer_id: i64, offsets: Range<i64>) -> Result<(), Leave> {
    let mut at = offsets.start;
    while at < offsets.end {
        let count = (offsets.end - at).min(AT_ONCE);
        let marker = TxnMarker {
            partition: side.partition(partition),
            producer_id: producer_id ^ (1 << 61),
            producer_epoch: 0,
            commit: false,
            coordinator_epoch: 0,
        };
        let mut answers = side.client.write_txn_markers(&vec![marker; count as usize]).await;
        match answers.remove(&side.partition(partition)).expect("what was sent is answered") {
            Ok(()) => at += count,
            Err(error) if error.code() == Some(ResponseError::ClusterAuthorizationFailed) && at == offsets.start => {
                return transactions(&side, partition, offsets, &error).await;
            }
            Err(error) => {
                rest(&side, partition).await;
                return Err(Leave::Again(format!("markers for the offsets {} to {}: {error}", offsets.start, offsets.end - 1)));
            }
        }
    }
    landed(&side, partition, offsets.end).await
}

/// One empty transaction for each offset.
async fn transactions(side: &Side, partition: i32, offsets: Range<i64>, refused: &ClientError) -> Result<(), Leave> {
    let count = offsets.end - offsets.start;
    if count > TRANSACTIONS {
        return Err(Leave::Failed(format!(
            "the offsets {} to {} hold no record on the leader, and {} refuses the markers that would fill them ({refused}); \
             grant ALTER (or CLUSTER_ACTION) on the cluster to the mirror's principal there",
            offsets.start,
            offsets.end - 1,
            side.cluster()
        )));
    }
    let id = format!("kferry-mirror-{}-{partition}", side.topic);
    for at in offsets.clone() {
        if let Err(error) = empty_transaction(side, partition, &id).await {
            rest(side, partition).await;
            return Err(if error.is_retriable() {
                Leave::Again(format!("an empty transaction for offset {at}: {error}"))
            } else {
                Leave::Failed(format!(
                    "offset {at} holds no record on the leader. {} refuses a marker ({refused}), and an empty transaction ({error}); grant ALTER on \
                     the cluster to the mirror's principal there, or WRITE on the transactional id {id:?}",
                    side.cluster()
                ))
            });
        }
    }
    landed(side, partition, offsets.end).await
}

async fn empty_transaction(side: &Side, partition: i32, id: &str) -> Result<(), ClientError> {
    let producer = side.client.init_producer_id(id, TRANSACTION).await?;
    side.client.add_partitions_to_txn(id, producer, &[side.partition(partition)]).await?;
    side.client.end_txn(id, producer, false).await
}

/// Waits until the log end is where it should be.
async fn landed(side: &Side, partition: i32, expected: i64) -> Result<(), Leave> {
    let deadline = Instant::now() + LANDED;
    loop {
        match side.client.log_end(&side.topic, partition).await {
            Ok(end) if end == expected => return Ok(()),
            Ok(end) if end > expected => {
                return Err(Leave::Diverged(format!(
                    "{}-{partition} on {} ends at offset {end} after markers up to {expected} were written: somebody else writes to it",
                    side.topic, side.cluster()
                )));
            }
            Ok(_) if Instant::now() < deadline => sleep(Duration::from_millis(5)).await,
            Ok(end) => return Err(Leave::Again(format!("markers up to offset {expected} were written, and the log ends at {end}"))),
            Err(error) => return Err(Leave::Again(error.to_string())),
        }
    }
}

/// Waits until the log end moves no more, or cannot be told.
async fn rest(side: &Side, partition: i32) {
    let mut last = None;
    for _ in 0..15 {
        let end = side.client.log_end(&side.topic, partition).await.ok();
        if end.is_some() && end == last {
            return;
        }
        last = end;
        sleep(REST).await;
    }
}
