//! What is told of a partition that is copied: each event once, its log line and its metric.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kferry_wire::tell;
use metrics::counter;
use tracing::debug;

use super::cut::Data;
use super::job::PartitionJob;
use crate::log::Compared;
use crate::messages;
use crate::metrics::{self as names, BATCHES, BYTES, COMPARED, ERRORS, LOST, MARKERS, RECORDS, SKIPPED, THROTTLED};
use crate::partition::{Phase, Refusal};

/// A batch was copied: it is on the follower, where it belongs.
pub(crate) fn copied(job: &PartitionJob, data: &Data) {
    counter!(RECORDS, "mirror" => job.mirror.clone()).increment(data.count as u64);
    counter!(BYTES, "mirror" => job.mirror.clone()).increment(data.bytes.len() as u64);
    counter!(BATCHES, "mirror" => job.mirror.clone(), "path" => data.path.label()).increment(1);
}

/// The first batch since the partition's logs were looked at was copied.
pub(crate) fn first_copied(job: &PartitionJob, offset: i64) {
    debug!(mirror = &*job.mirror, partition = %job.topic_partition(), term = job.term, offset, "the first batch is copied");
}

/// A lane has the partition.
pub(crate) fn on_lane(job: &PartitionJob) {
    debug!(mirror = &*job.mirror, partition = %job.topic_partition(), term = job.term, "copies");
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

/// A partition was handed back and rests, in this phase and for this reason. If it was only interrupted, `interruptions` is how often in a row, without
/// having got on.
pub(crate) fn handed_back(job: &PartitionJob, phase: Phase, reason: Option<&str>, interruptions: Option<u32>) {
    match (phase, reason) {
        (Phase::Waiting | Phase::Failed, Some(reason)) => match interruptions {
            Some(interruptions) => interrupted(job, reason, interruptions),
            None => failed(job, reason),
        },
        (Phase::Diverged, Some(reason)) => diverged(job, reason),
        _ => debug!(mirror = &*job.mirror, partition = %job.topic_partition(), term = job.term, "is off its lane"),
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

/// A partition is to be copied. An alert on a rate misses the first event of a series that begins with it.
pub(crate) fn taken_in(job: &PartitionJob) {
    for kind in names::ERROR_KINDS {
        counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => kind).increment(0);
    }
    for name in [SKIPPED, LOST] {
        counter!(name, "mirror" => job.mirror.clone(), "topic" => job.topic.clone()).increment(0);
    }
}

/// A record, or a batch that cannot be read, was left out.
pub(crate) fn skipped(job: &PartitionJob, refusal: &Refusal, dead_letter: bool) {
    let Refusal { offsets, code, reason, .. } = refusal;
    let count = offsets.end - offsets.start;
    counter!(SKIPPED, "mirror" => job.mirror.clone(), "topic" => job.topic.clone()).increment(count as u64);
    let code = code.map(tracing::field::debug);
    tell!(messages::LEFT_OUT, mirror = &*job.mirror, partition = %job.topic_partition(), offset = offsets.start, count, code, reason, dead_letter);
}

/// A broker does not read from a connection of the mirror's for this long, because of a quota.
pub(crate) fn throttled(mirror: &Arc<str>, cluster: &Arc<str>, time: Duration, is_news: bool) {
    counter!(THROTTLED, "mirror" => mirror.clone(), "cluster" => cluster.clone()).increment(time.as_millis() as u64);
    if is_news {
        tell!(messages::THROTTLED, mirror = &**mirror, cluster = &**cluster, seconds = time.as_secs_f64());
    }
}

/// The leader has deleted these offsets before they were copied, and the copy goes on behind them.
pub(crate) fn lost_on_leader(job: &PartitionJob, offsets: &Range<i64>) {
    let count = offsets.end - offsets.start;
    counter!(LOST, "mirror" => job.mirror.clone(), "topic" => job.topic.clone()).increment(count as u64);
    tell!(messages::LOST_ON_LEADER, mirror = &*job.mirror, partition = %job.topic_partition(), offset = offsets.start, count);
}
