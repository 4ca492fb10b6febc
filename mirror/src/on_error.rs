//! Records that cannot be copied: which one it is, and what `on_error` makes of it.

use kferry_wire::batch::{self, Record};
use kferry_wire::config::OnError;

use crate::cut::DECODED;
use crate::dead_letters;
use crate::job::{Job, Refusal};
use crate::metrics;
use crate::state::{PartitionState, State};

/// What to do with a refusal.
pub enum Verdict {
    /// It is not known yet which record it is: they go one by one.
    Single,
    /// It is left out, and perhaps written to the dead letters.
    LeaveOut(LeftOut),
    /// The partition stays where it is, for this reason.
    Stay(String),
}

/// What is left out.
pub struct LeftOut {
    refusal: Refusal,
    record: Option<Record>,
    dead_letter: bool,
    where_: String,
}

/// Looks into the batch, and decides.
pub fn decide(on_error: OnError, job: &Job, refusal: Refusal) -> Verdict {
    let (offset, end) = (refusal.offsets.start, refusal.offsets.end);
    let records = batch::split(refusal.bytes.clone()).next().and_then(Result::ok).and_then(|entry| entry.records(DECODED).ok());
    if records.as_ref().is_some_and(|records| records.len() > 1) && job.caution.single_until < end {
        return Verdict::Single;
    }
    let several = end > offset + 1;
    let where_ = format!(
        "{} on {}, offset{} {}",
        job.leader.partition(job.partition),
        job.leader.cluster(),
        if several { "s" } else { "" },
        if several { format!("{offset} to {}", end - 1) } else { offset.to_string() }
    );
    if on_error == OnError::Fail || refusal.offsets.is_empty() || (records.is_none() && refusal.bytes.is_empty()) {
        return Verdict::Stay(format!(
            "{where_}: {}. Mend it and it goes on by itself; or set on_error = \"skip\" or \"dead-letter\", and {} is left out",
            refusal.reason,
            if several { "that batch" } else { "that record" }
        ));
    }
    let record = records.and_then(|records| records.into_iter().next());
    Verdict::LeaveOut(LeftOut { refusal, record, dead_letter: on_error == OnError::DeadLetter, where_ })
}

/// Leaves it out. `kept` is what is kept of the partition just now. `Err` is why it stays.
pub async fn leave_out(job: &mut Job, left_out: LeftOut, state: &State, mut kept: PartitionState) -> Result<(), String> {
    let LeftOut { refusal, record, dead_letter, where_ } = left_out;
    if dead_letter {
        dead_letters::write(job, &refusal, record)
            .await
            .map_err(|error| format!("{where_}: {}; and it cannot be written to its dead letters: {error}", refusal.reason))?;
    }
    let (offset, end) = (refusal.offsets.start, refusal.offsets.end);
    match kept.skipped.last_mut() {
        Some(last) if (last.0..=last.1).contains(&offset) => last.1 = last.1.max(end),
        _ => kept.skipped.push((offset, end)),
    }
    // Kept before the marker is written: without it the next comparison would find a record missing.
    let skipped = kept.skipped.clone();
    state
        .save(vec![(job.topic_partition(), kept)], || job.shard.may_write())
        .await
        .map_err(|error| format!("{where_}: {}; and that it is left out cannot be kept: {error}", refusal.reason))?;
    job.status.lock().skipped = skipped;
    metrics::skipped(job, offset, refusal.code, &refusal.reason, dead_letter);
    if end == offset + 1 {
        job.caution.skip.insert(offset);
    } else {
        job.caution.leap = Some(refusal.offsets);
    }
    Ok(())
}
