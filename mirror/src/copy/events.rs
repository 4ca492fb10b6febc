//! What is told of a partition that is copied: each event once, its log line and its metric.

use kferry_wire::tell;
use metrics::counter;
use tracing::debug;

use super::cut::Data;
use super::job::PartitionJob;
use crate::log::Compared;
use crate::messages;
use crate::metrics::{self as names, BATCHES, BYTES, COMPARED, ERRORS, MARKERS, RECORDS, SKIPPED};
use crate::partition::{Phase, Refusal};

/// A batch was copied: it is on the follower, where it belongs.
pub(crate) fn copied(job: &PartitionJob, data: &Data) {
    counter!(RECORDS, "mirror" => job.mirror.clone()).increment(data.count as u64);
    counter!(BYTES, "mirror" => job.mirror.clone()).increment(data.bytes.len() as u64);
    counter!(BATCHES, "mirror" => job.mirror.clone(), "path" => data.path.label()).increment(1);
}

/// Offsets without a record were filled with markers.
pub(crate) fn filled(job: &PartitionJob, offsets: i64) {
    counter!(MARKERS, "mirror" => job.mirror.clone()).increment(offsets as u64);
}

/// Both logs of a partition were compared.
pub(crate) fn compared(job: &PartitionJob, compared: &Compared) {
    counter!(COMPARED, "mirror" => job.mirror.clone()).increment(compared.equal);
    debug!(mirror = &*job.mirror, partition = %job.topic_partition(), equal = compared.equal, "compared");
}

/// A partition was handed back and rests, in this phase and for this reason. `failures` is how often in a row it was, without having got on.
pub(crate) fn handed_back(job: &PartitionJob, phase: Phase, reason: Option<&str>, failures: u32) {
    match (phase, reason) {
        (Phase::Waiting, Some(reason)) => interrupted(job, reason, failures),
        (Phase::Failed, Some(reason)) => failed(job, reason),
        (Phase::Diverged, Some(reason)) => diverged(job, reason),
        _ => {}
    }
}

/// A partition was interrupted and is looked at again.
fn interrupted(job: &PartitionJob, reason: &str, failures: u32) {
    counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => names::INTERRUPTED).increment(1);
    // The first ones of a partition happen with every election.
    if failures < 3 {
        tell!(messages::INTERRUPTED, mirror = &*job.mirror, partition = %job.topic_partition(), reason);
    } else {
        tell!(messages::STILL_INTERRUPTED, mirror = &*job.mirror, partition = %job.topic_partition(), reason, failures);
    }
}

/// A partition cannot go on.
fn failed(job: &PartitionJob, reason: &str) {
    counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => names::FAILED).increment(1);
    tell!(messages::FAILED, mirror = &*job.mirror, partition = %job.topic_partition(), reason);
}

/// The two logs of a partition differ.
fn diverged(job: &PartitionJob, reason: &str) {
    counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => names::DIVERGED).increment(1);
    tell!(messages::DIVERGED, mirror = &*job.mirror, partition = %job.topic_partition(), reason);
}

/// A record, or a batch that cannot be read, was left out.
pub(crate) fn skipped(job: &PartitionJob, refusal: &Refusal, dead_letter: bool) {
    let Refusal { offsets, code, reason, .. } = refusal;
    let count = offsets.end - offsets.start;
    counter!(SKIPPED, "mirror" => job.mirror.clone(), "topic" => job.topic.clone()).increment(count as u64);
    tell!(messages::LEFT_OUT, mirror = &*job.mirror, partition = %job.topic_partition(), offset = offsets.start, count, ?code, reason, dead_letter);
}
