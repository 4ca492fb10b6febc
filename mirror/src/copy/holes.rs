//! Offsets of the leader that hold no record, on the follower: markers that no consumer sees.
//!
//! `WriteTxnMarkers`, sent to the partition's leader, appends them, a hundred thousand a second. Who may not send it can have an empty
//! transaction for each: it leaves one marker, and takes milliseconds.
//!
//! A marker takes an offset and has no sequence. And a broker handles the requests of a connection one after the other: what comes behind one
//! that waits for its replicas may land seconds after the mirror that sent it was killed, when its successor has looked at the log already.
//! So the epochs in a marker make it a compare-and-swap ([`marker`]): at each offset lands one marker, whoever sends it.
//! One pair of writers in 128 is not told apart; where no lease keeps two processes from the same partition they also [keep apart](keep_apart).
//! Nothing else of the partition is in flight while they are written, and the log end says how many there are. When an answer is lost, the
//! log end is awaited until it rests, and both logs are looked at anew.
//!
//! # References
//! - `WriteTxnMarkersRequest.json` (KIP-98); `org.apache.kafka.coordinator.transaction.TransactionMarkerChannelManager`
//! - `org.apache.kafka.storage.internals.log.ProducerAppendInfo.appendEndTxnMarker`: which epochs are refused
//! - `org.apache.kafka.coordinator.transaction.TransactionCoordinator.handleInitProducerId`: an open transaction is aborted first, and
//!   `CONCURRENT_TRANSACTIONS` until its markers are written
//! - `kafka.network.SocketServer.Processor`: a connection is muted until its request is answered

use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kferry_wire::admin::partitions::TxnMarker;
use kferry_wire::admin::transactions::Producer;
use kferry_wire::batch::Batch;
use kferry_wire::client::{ClientError, TopicPartition, random};
use tokio::time::{Instant, sleep};

use crate::partition::{Handback, Shard, Side};

/// The most markers in one request.
const AT_ONCE: i64 = 1_000;
/// How many offsets share a producer id of markers: a broker remembers each id for a day.
const BLOCK: i64 = 512;
/// Bits of a writer's number in a marker's coordinator epoch, which has 31: 9 are for the offset's place in its [`BLOCK`].
const WRITER_BITS: u32 = 22;
/// How many of these bits the marker's producer epoch, which has 15, leaves out.
const LEFT_OUT: u32 = 16;
/// How many sets of producer ids are tried one after the other, where a broker refuses the markers of one.
const SETS: i64 = 4;
/// The difference of the producer ids of two sets.
const SET: i64 = 1 << 54;
/// The bit that producer ids of markers have, and none of the mirror's batches has.
const MARKERS: i64 = 1 << 61;
/// The most offsets that are filled with an empty transaction each. More would take minutes: the right to write markers is the better way.
const TRANSACTIONS: i64 = 50_000;
/// How long a log end has to stay as it is until it counts as resting: what a broker still does after its response was lost is done by then.
const REST: Duration = Duration::from_secs(2);
/// `transaction.timeout.ms` of the empty transactions: after it the coordinator ends one that kferry has left open.
const TRANSACTION: Duration = Duration::from_mins(1);
/// How long markers may take to be in the log after the broker has answered.
const LANDED: Duration = Duration::from_secs(30);
/// How long a process at most lets others go first, before its first hole of a partition.
const APART: Duration = Duration::from_millis(500);

/// Lets other processes go first that copy the same partition without a lease, for a random time up to [`APART`]: they come to a hole at the same
/// moment, as each takes what the other has written for its own, and in one of 128 cases both markers would land. Whoever goes first fills the next
/// holes at once; the others find that the log no more ends at `end`.
///
/// # Errors
/// The partition goes back to be looked at anew: another process has gone on.
pub(crate) async fn keep_apart(side: &Side, partition: i32, end: i64) -> Result<(), Handback> {
    sleep(APART.mul_f64(random())).await;
    match side.client.log_end(&side.topic, partition).await {
        Ok(found) if found == end => Ok(()),
        Ok(found) => Err(Handback::Again(format!("the log ends at {found} and no more at {end}: somebody else writes to it"))),
        Err(error) => Err(Handback::Again(error.to_string())),
    }
}

/// Fills these offsets of the follower, with markers or, where those are refused, with empty transactions. `producer_id` is the one of the mirror's
/// batches there.
///
/// # Errors
/// Why the partition goes back. Some of the offsets may be filled then.
pub(crate) async fn fill(side: Side, partition: i32, producer_id: i64, offsets: Range<i64>, shard: Arc<Shard>) -> Result<(), Handback> {
    match markers(&side, partition, producer_id, offsets.clone(), &shard).await? {
        None => Ok(()),
        Some(refused) => transactions(&side, partition, offsets, &refused, &shard).await,
    }
}

/// Fills these offsets of the follower with markers; `Some` is the broker's refusal because a right is missing, and nothing is filled. The markers'
/// producer ids are beside the one of the mirror's batches there, so that they leave its sequence alone.
///
/// # Errors
/// Why the partition goes back. Some of the offsets may be filled then.
pub(crate) async fn markers(
    side: &Side,
    partition: i32,
    producer_id: i64,
    offsets: Range<i64>,
    shard: &Shard,
) -> Result<Option<ClientError>, Handback> {
    let writer = (RandomState::new().hash_one(producer_id) & ((1 << WRITER_BITS) - 1)) as i32;
    let (mut at, mut set) = (offsets.start, 0);
    while at < offsets.end {
        let count = (offsets.end - at).min(AT_ONCE);
        let markers: Vec<_> =
            (at..at + count).map(|offset| marker(side.partition(partition), producer_id + set * SET, offset, writer)).collect();
        if !shard.may_write() {
            return Err(Handback::no_lease());
        }
        let mut results = side.client.write_txn_markers(&markers).await;
        match results.remove(&side.partition(partition)).expect("what was sent is answered") {
            Ok(()) => at += count,
            Err(error) if error.code() == Some(ResponseError::ClusterAuthorizationFailed) && at == offsets.start => {
                return Ok(Some(error));
            }
            Err(error) => {
                let end = rest(side, partition).await;
                // Markers of these offsets have landed before others that a broker had refused, and so each in another place.
                let spent = matches!(error.code(), Some(ResponseError::InvalidProducerEpoch | ResponseError::TransactionCoordinatorFenced));
                if !(spent && end == Some(at) && set + 1 < SETS) {
                    return Err(Handback::Again(format!("markers for the offsets {} to {}: {error}", offsets.start, offsets.end - 1)));
                }
                set += 1;
            }
        }
    }
    landed(side, partition, offsets.end).await?;
    Ok(None)
}

/// Whether a batch is a marker that a mirror wrote to fill an offset.
pub(crate) fn is_marker(batch: &Batch) -> bool {
    batch.is_control() && batch.producer_id() & (1 << 62 | MARKERS) == 1 << 62 | MARKERS
}

/// The marker for an offset. A broker refuses one whose producer epoch or coordinator epoch is lower than in the last marker of its producer
/// id. Both grow with the offset, so a marker lands only behind those of lower offsets. At the same offset one grows with the writer's number
/// and the other falls: of two writers' markers the second one is refused, in either order (but for one pair of numbers in 128: a wider range would
/// leave fewer offsets to a producer id, and brokers remember each for a day).
fn marker(partition: TopicPartition, producer_id: i64, offset: i64, writer: i32) -> TxnMarker {
    let place = (offset % BLOCK) as i32;
    let id = (producer_id + offset / BLOCK) & (MARKERS - 1);
    TxnMarker {
        partition,
        producer_id: 1 << 62 | MARKERS | id,
        producer_epoch: ((place << (WRITER_BITS - LEFT_OUT)) | (writer >> LEFT_OUT)) as i16,
        commit: false,
        coordinator_epoch: (place << WRITER_BITS) | ((1 << WRITER_BITS) - 1 - writer),
    }
}

/// Fills these offsets with one empty transaction each, because markers are `refused`.
async fn transactions(side: &Side, partition: i32, offsets: Range<i64>, refused: &ClientError, shard: &Shard) -> Result<(), Handback> {
    let count = offsets.end - offsets.start;
    if count > TRANSACTIONS {
        return Err(Handback::Failed(format!(
            "the offsets {} to {} hold no record on the leader, and {} refuses the markers that would fill them ({refused}); \
             grant ALTER (or CLUSTER_ACTION) on the cluster to the mirror's principal there",
            offsets.start,
            offsets.end - 1,
            side.cluster()
        )));
    }
    let id = format!("kferry-mirror-{}-{partition}", side.topic);
    for at in offsets.clone() {
        if !shard.may_write() {
            return Err(Handback::no_lease());
        }
        let told = async |error: ClientError| {
            rest(side, partition).await;
            // Another process of the same mirror has begun a transaction since: it goes on from here, or we do.
            let fenced = matches!(error.code(), Some(ResponseError::InvalidProducerEpoch | ResponseError::ProducerFenced));
            if error.is_retriable() || fenced {
                Handback::Again(format!("an empty transaction for offset {at}: {error}"))
            } else {
                Handback::Failed(format!(
                    "offset {at} holds no record on the leader. {} refuses a marker ({refused}), and an empty transaction ({error}); grant ALTER on \
                     the cluster to the mirror's principal there, or WRITE on the transactional id {id:?}",
                    side.cluster()
                ))
            }
        };
        let producer = match begin(side, partition, &id).await {
            Ok((producer, end)) if end == at => producer,
            Ok((_, end)) => {
                return Err(Handback::Again(format!(
                    "the log ends at {end}, and an empty transaction was to be at {at}: another process has filled it"
                )));
            }
            Err(error) => return Err(told(error).await),
        };
        if let Err(error) = end(side, partition, &id, producer).await {
            return Err(told(error).await);
        }
    }
    landed(side, partition, offsets.end).await
}

/// The producer of the next empty transaction, and where the log ends: nobody else's marker can land from then on. A coordinator gives out the next
/// epoch of a transactional id when the transaction before is over and its marker has landed, whoever began it and however it ends (a mirror
/// that was killed leaves one open); and who has an older epoch is fenced. So the log end is asked for behind that, each time: a
/// compare-and-swap, as with [`marker`].
async fn begin(side: &Side, partition: i32, id: &str) -> Result<(Producer, i64), ClientError> {
    let producer = side.client.init_producer_id(id, TRANSACTION).await?;
    Ok((producer, side.client.log_end(&side.topic, partition).await?))
}

/// Ends the transaction, which has no records: its marker fills the offset.
async fn end(side: &Side, partition: i32, id: &str, producer: Producer) -> Result<(), ClientError> {
    side.client.add_partitions_to_txn(id, producer, &[side.partition(partition)]).await?;
    side.client.end_txn(id, producer, false).await
}

/// Waits until the follower's log end is `expected`.
async fn landed(side: &Side, partition: i32, expected: i64) -> Result<(), Handback> {
    let deadline = Instant::now() + LANDED;
    loop {
        match side.client.log_end(&side.topic, partition).await {
            Ok(end) if end == expected => return Ok(()),
            // Another process of the same mirror may have gone on from there: whether that is so, a comparison says.
            Ok(end) if end > expected => {
                return Err(Handback::Again(format!(
                    "the log ends at {end} after markers up to offset {expected} were written: somebody else writes to it"
                )));
            }
            Ok(_) if Instant::now() < deadline => sleep(Duration::from_millis(5)).await,
            Ok(end) => return Err(Handback::Again(format!("markers up to offset {expected} were written, and the log ends at {end}"))),
            Err(error) => return Err(Handback::Again(error.to_string())),
        }
    }
}

/// Waits until the follower's log end moves no more, and gives it; `None` if it still moves after half a minute, or the cluster does not tell.
async fn rest(side: &Side, partition: i32) -> Option<i64> {
    let mut last = None;
    for _ in 0..15 {
        let end = side.client.log_end(&side.topic, partition).await.ok();
        if end.is_some() && end == last {
            return end;
        }
        last = end;
        sleep(REST).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a broker does (`ProducerAppendInfo.checkProducerEpoch`, `checkCoordinatorEpoch`).
    fn lands(last: &TxnMarker, next: &TxnMarker) -> bool {
        last.producer_id != next.producer_id
            || next.producer_epoch >= last.producer_epoch && next.coordinator_epoch >= last.coordinator_epoch
    }

    #[test]
    fn at_an_offset_lands_one_marker() {
        let marker = |offset, writer| marker(TopicPartition::new("t", 0), (1 << 62) | ((1 << 61) - 3), offset, writer);
        let writers = [0, 1 << LEFT_OUT, 5 << LEFT_OUT, (1 << WRITER_BITS) - 1];
        for offset in [0, 1, 510, 511, 512, 1_000_000_007, i64::MAX / 2] {
            for one in writers {
                for other in writers {
                    let (here, there) = (marker(offset, one), marker(offset + 1, other));
                    assert!(here.producer_epoch >= 0 && here.coordinator_epoch >= 0 && here.producer_id > 3 << 61);
                    assert!(lands(&here, &there), "{here:?} {there:?}");
                    assert_eq!(lands(&there, &here), here.producer_id != there.producer_id, "{there:?} {here:?}");
                    assert_eq!(lands(&here, &marker(offset, other)), one == other, "{offset} {one} {other}");
                }
            }
        }
    }
}
