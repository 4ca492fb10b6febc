//! Records that cannot be copied: which one it is, and what `on_error` makes of it.

use kferry_config::OnError;
use kferry_wire::batch::{self, DECODED_LIMIT, Record};

use super::events;
use super::job::PartitionJob;
use crate::dead_letters::{self, Origin};
use crate::partition::Refusal;
use crate::state::{PartitionState, State, Unsaved};

/// What to do with refused records.
pub(crate) enum OnErrorDecision {
    /// The batch has several records, and it is not known which one is refused: they are to be copied one by one.
    Single,
    /// They are left out, and perhaps written to the dead letters.
    LeaveOut(LeftOut),
    /// The partition stays where it is, for this reason.
    Stay(String),
}

/// Refused records, one or an unreadable batch of them, that are to be left out.
pub(crate) struct LeftOut {
    refusal: Refusal,
    /// The record, if it can be read.
    record: Option<Record>,
    /// Whether it is written to the dead letters.
    dead_letter: bool,
    /// Partition, cluster and offsets, in words for an operator.
    where_: String,
}

/// Looks into a refused batch, and decides what to do with it.
pub(crate) fn decide(on_error: OnError, job: &PartitionJob, mut refusal: Refusal) -> OnErrorDecision {
    let (offset, end) = (refusal.offsets.start, refusal.offsets.end);
    let entry = batch::split(refusal.bytes.clone()).next().and_then(Result::ok).filter(|entry| entry.check().is_ok());
    let records = match entry.map(|entry| entry.records(DECODED_LIMIT)) {
        Some(Ok(records)) => Some(records),
        // The broker's word alone does not say what is wrong with it.
        Some(Err(_)) => {
            refusal.reason += "; its records cannot be read: look at it with kafka-dump-log.sh";
            None
        }
        None => None,
    };
    // What is left out is one record, or a batch that nobody can read.
    if records.as_ref().is_some_and(|records| records.len() > 1) {
        return OnErrorDecision::Single;
    }
    let several = end > offset + 1;
    let where_ = format!(
        "{} on {}, offset{} {}",
        job.leader.partition(job.partition),
        job.leader.cluster(),
        if several { "s" } else { "" },
        if several { format!("{offset} to {}", end - 1) } else { offset.to_string() }
    );
    // Records that are lost have no bytes, and their reason says what to do.
    let advice = if refusal.bytes.is_empty() {
        ""
    } else if refusal.offsets.is_empty() {
        ". How far it reaches cannot be told, so on_error cannot leave it out: mend the leader's log, or delete its records up to behind the damage \
         (kafka-delete-records.sh); then on_error decides about what is lost"
    } else if several {
        ". Mend it and it goes on by itself; or set on_error = \"skip\" or \"dead-letter\", and that batch is left out"
    } else {
        ". Mend it and it goes on by itself; or set on_error = \"skip\" or \"dead-letter\", and that record is left out"
    };
    if on_error == OnError::Fail || refusal.offsets.is_empty() || refusal.bytes.is_empty() {
        return OnErrorDecision::Stay(format!("{where_}: {}{advice}", refusal.reason));
    }
    let record = records.and_then(|records| records.into_iter().next());
    OnErrorDecision::LeaveOut(LeftOut { refusal, record, dead_letter: on_error == OnError::DeadLetter, where_ })
}

/// Leaves refused records out: writes them to the dead letters, keeps in the mirror's state that they are left out, and has the next look at the
/// partition go on without them. `kept` is what that state has of the partition now; a topic of dead letters is created with `replication_factor`
/// replicas.
///
/// # Errors
/// Why the partition stays where it is: the dead letter could not be written, or the state not be kept. A dead letter that was written stays.
pub(crate) async fn leave_out(
    job: &mut PartitionJob,
    left_out: LeftOut,
    state: &State,
    mut kept: PartitionState,
    replication_factor: Option<u16>,
) -> Result<(), String> {
    let LeftOut { refusal, record, dead_letter, where_ } = left_out;
    if dead_letter {
        let origin = Origin {
            mirror: &job.mirror,
            leader: &job.leader,
            follower: &job.follower,
            partition: job.partition,
            shard: &job.shard,
            replication_factor,
        };
        dead_letters::write(&origin, &refusal, record)
            .await
            .map_err(|error| format!("{where_}: {}; and it cannot be written to its dead letters: {error}", refusal.reason))?;
    }
    let (offset, end) = (refusal.offsets.start, refusal.offsets.end);
    kept.skipped.add(refusal.offsets.clone());
    // Kept before the marker is written: without it the next comparison would find a record missing.
    {
        let mut progress = job.status.lock();
        progress.skipped.clone_from(&kept.skipped);
        progress.unsaved = true;
    }
    state
        .save(vec![Unsaved { partition: job.topic_partition(), state: kept, status: job.status.clone() }], || job.shard.may_write())
        .await
        .map_err(|error| format!("{where_}: {}; and that it is left out cannot be kept: {error}", refusal.reason))?;
    events::skipped(job, &refusal, dead_letter);
    if end == offset + 1 {
        job.caution.skip.insert(offset);
        // A batch of one record is refused before its records go one by one.
        job.caution.single_until = job.caution.single_until.max(end);
    } else {
        job.caution.leap = Some(refusal.offsets);
    }
    Ok(())
}
