//! Looks at the batches in a range of a log: who wrote them, and what they are like.

use std::ops::Range;
use std::time::Duration;

use kferry_wire::batch::{self, Batch, DECODED_LIMIT, Entry};
use kferry_wire::log::{Isolation, ReadError, fetch_once};
use tokio::time::Instant;

use crate::partition::Side;

/// How long a log may give no batch before the end of a range, until [`visit`] fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose batches a range of a follower's log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Padding of the mirror's producer id and nothing else; also if the range is empty.
    Filler,
    /// Records of the mirror's producer id, or markers, and nobody else's records.
    Mirror,
    /// At least one batch of somebody else's records.
    Others,
}

/// Reads a range of a log and says who wrote it: the mirror, by `producer_id`, or somebody else.
///
/// # Errors
/// [`ReadError`] of the log: who wrote it is not known then.
pub async fn written(side: &Side, partition: i32, offsets: Range<i64>, producer_id: i64) -> Result<Written, ReadError> {
    let mut at = offsets.start;
    let mut written = Written::Filler;
    while at < offsets.end {
        let before = at;
        for entry in
            batch::split(fetch_once(&side.client, &side.partition(partition), at, 1 << 20, Isolation::ReadCommitted).await?.records)
        {
            let damaged = |error| ReadError::broken(&side.client, &side.partition(partition), at, error);
            let entry = entry.map_err(damaged)?;
            match &entry {
                Entry::Batch(batch) if batch.is_control() => written = Written::Mirror,
                Entry::Batch(batch) if batch.producer_id() == producer_id => {
                    if !batch.is_filler(DECODED_LIMIT).map_err(damaged)? {
                        written = Written::Mirror;
                    }
                }
                _ => return Ok(Written::Others),
            }
            at = entry.last_offset() + 1;
        }
        if at == before {
            return Err(ReadError::stuck(&side.client, &side.partition(partition), at));
        }
    }
    Ok(written)
}

/// Calls `look` with each batch that begins in a range of a log, whoever wrote it and whatever became of its transaction. Batches of magic 0 and 1 are
/// passed over.
///
/// # Errors
/// [`ReadError`] of the log, `Stuck` after half a minute without a batch. `look` has had the batches before it.
pub(crate) async fn visit(side: &Side, partition: i32, offsets: Range<i64>, mut look: impl FnMut(&Batch)) -> Result<(), ReadError> {
    let mut at = offsets.start;
    let mut deadline = Instant::now() + PATIENCE;
    while at < offsets.end {
        let before = at;
        for entry in
            batch::split(fetch_once(&side.client, &side.partition(partition), at, 1 << 20, Isolation::ReadUncommitted).await?.records)
        {
            let entry = entry.map_err(|error| ReadError::broken(&side.client, &side.partition(partition), at, error))?;
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
            return Err(ReadError::stuck(&side.client, &side.partition(partition), at));
        }
    }
    Ok(())
}

/// What a few batches of a log, one after the other, are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of the batches, as they are stored.
    pub bytes: u64,
    /// How many offsets they span, from the first one's first to the last one's last.
    pub offsets: u64,
    /// Whether one of them belongs to a transaction or is a marker.
    pub transactional: bool,
}

/// Looks at the batches of a log from the offset `at` on, by one Fetch of about `max_bytes`.
///
/// # Errors
/// [`ReadError`] of the log.
pub async fn sample(side: &Side, partition: i32, at: i64, max_bytes: i32) -> Result<Sample, ReadError> {
    let mut sample = Sample::default();
    let mut from = None;
    for entry in batch::split(fetch_once(&side.client, &side.partition(partition), at, max_bytes, Isolation::ReadCommitted).await?.records)
    {
        let entry = entry.map_err(|error| ReadError::broken(&side.client, &side.partition(partition), at, error))?;
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
