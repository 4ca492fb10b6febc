//! Every event once: its log line and its metric come from the same place.
//!
//! Label values are bounded: mirrors are names of the file, topics and partitions those that it selects.

use std::collections::HashMap;
use std::time::Duration;

use kferry_wire::client::TopicPartition;
use kferry_wire::tell;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::debug;

use crate::cut::Data;
use crate::groups::{Offset, OffsetState, Report};
use crate::job::{Job, Known, Phase, Refusal};
use crate::log::Compared;
use crate::messages;

const BUILD_INFO: &str = "kferry_mirror_build_info";
const RECORDS: &str = "kferry_mirror_records_total";
const BYTES: &str = "kferry_mirror_bytes_total";
const BATCHES: &str = "kferry_mirror_batches_total";
const MARKERS: &str = "kferry_mirror_markers_total";
const COMPARED: &str = "kferry_mirror_compared_records_total";
const SKIPPED: &str = "kferry_mirror_skipped_records_total";
const ERRORS: &str = "kferry_mirror_errors_total";
const LAG_RECORDS: &str = "kferry_mirror_lag_records";
const LAG_SECONDS: &str = "kferry_mirror_lag_seconds";
const SEGMENTS: &str = "kferry_mirror_segments";
const PARTITIONS: &str = "kferry_mirror_partitions";
const GROUP_OFFSETS: &str = "kferry_mirror_group_offsets";
const GROUP_COMMITS: &str = "kferry_mirror_group_commits_total";
const GROUP_PASSES: &str = "kferry_mirror_group_passes_total";
const GROUP_SECONDS: &str = "kferry_mirror_group_pass_seconds";
const PASSES: &str = "kferry_mirror_passes_total";
const SHARDS: &str = "kferry_mirror_shards";
const REBALANCES: &str = "kferry_mirror_rebalances_total";
const LEASE: &str = "kferry_mirror_lease_seconds";

const INTERRUPTED: &str = "interrupted";
const FAILED: &str = "failed";
const DIVERGED: &str = "diverged";

/// The values of the label `kind` of `kferry_mirror_errors_total`.
pub const ERROR_KINDS: [&str; 3] = [INTERRUPTED, FAILED, DIVERGED];

/// The metrics that go up and down: name and help.
pub const GAUGES: &[(&str, &str)] = &[
    (BUILD_INFO, "1; which kferry-mirror this is"),
    (LAG_RECORDS, "Offsets that the leader has and the follower does not, by mirror, topic and partition"),
    (LAG_SECONDS, "Since when the follower lacks something, by mirror, topic and partition"),
    (SEGMENTS, "Segments of the offset maps of this process's partitions, by mirror: where offsets are translated"),
    (PARTITIONS, "Partitions, by mirror and phase"),
    (GROUP_OFFSETS, "Offsets that groups have committed in the mirror's topics, by mirror and state"),
    (GROUP_SECONDS, "How long the last look at all groups took, by mirror"),
    (SHARDS, "Shards that this process has, by mirror"),
    (LEASE, "How long the process may still write without a word from the group's coordinator, by mirror"),
];

/// The metrics that only grow: name and help.
pub const COUNTERS: &[(&str, &str)] = &[
    (RECORDS, "Records copied, by mirror"),
    (BYTES, "Bytes of batches produced to the follower, by mirror"),
    (BATCHES, "Batches produced, by mirror and path: raw, or why their records were decoded"),
    (MARKERS, "Offsets without a record that were filled, by mirror"),
    (COMPARED, "Records compared on both clusters, by mirror"),
    (SKIPPED, "Records left out by on_error, by mirror and topic"),
    (ERRORS, "Interruptions of a partition, by mirror and kind"),
    (PASSES, "Looks at both clusters' topics, by mirror and result"),
    (GROUP_COMMITS, "Offsets of groups written on the follower, by mirror"),
    (GROUP_PASSES, "Looks at all groups, by mirror and result"),
    (REBALANCES, "Changes of the shards that this process has, by mirror and kind: gained, revoked, lost"),
];

/// Sets the process's recorder and says what each metric means.
///
/// # Errors
/// If the process has a recorder already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// A batch landed where it belongs.
pub(crate) fn copied(job: &Job, data: &Data) {
    counter!(RECORDS, "mirror" => job.mirror.clone()).increment(data.count as u64);
    counter!(BYTES, "mirror" => job.mirror.clone()).increment(data.bytes.len() as u64);
    counter!(BATCHES, "mirror" => job.mirror.clone(), "path" => data.path.label()).increment(1);
}

/// Offsets were filled with markers.
pub(crate) fn filled(job: &Job, offsets: i64) {
    counter!(MARKERS, "mirror" => job.mirror.clone()).increment(offsets as u64);
}

/// Both logs were compared.
pub(crate) fn compared(job: &Job, compared: &Compared) {
    counter!(COMPARED, "mirror" => job.mirror.clone()).increment(compared.equal);
    debug!(mirror = &*job.mirror, partition = %job.topic_partition(), equal = compared.equal, "compared");
}

/// A partition was interrupted and is looked at again.
pub(crate) fn interrupted(job: &Job, reason: &str, failures: u32) {
    counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => INTERRUPTED).increment(1);
    // The first ones of a partition happen with every election.
    if failures < 3 {
        tell!(messages::INTERRUPTED, mirror = &*job.mirror, partition = %job.topic_partition(), reason);
    } else {
        tell!(messages::STILL_INTERRUPTED, mirror = &*job.mirror, partition = %job.topic_partition(), reason, failures);
    }
}

/// A partition cannot go on.
pub(crate) fn failed(job: &Job, reason: &str) {
    counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => FAILED).increment(1);
    tell!(messages::FAILED, mirror = &*job.mirror, partition = %job.topic_partition(), reason);
}

/// The two logs of a partition differ.
pub(crate) fn diverged(job: &Job, reason: &str) {
    counter!(ERRORS, "mirror" => job.mirror.clone(), "kind" => DIVERGED).increment(1);
    tell!(messages::DIVERGED, mirror = &*job.mirror, partition = %job.topic_partition(), reason);
}

/// A record, or a batch that cannot be read, was left out.
pub(crate) fn skipped(job: &Job, refusal: &Refusal, dead_letter: bool) {
    let Refusal { offsets, code, reason, .. } = refusal;
    let count = offsets.end - offsets.start;
    counter!(SKIPPED, "mirror" => job.mirror.clone(), "topic" => job.topic.clone()).increment(count as u64);
    tell!(messages::LEFT_OUT, mirror = &*job.mirror, partition = %job.topic_partition(), offset = offsets.start, count, ?code, reason, dead_letter);
}

/// Both clusters' topics were looked at, or could not be.
pub(crate) fn passed(mirror: &str, error: Option<&dyn std::fmt::Display>) {
    let result = if error.is_some() { "failed" } else { "ok" };
    counter!(PASSES, "mirror" => mirror.to_owned(), "result" => result).increment(1);
    if let Some(error) = error {
        tell!(messages::TOPICS_UNKNOWN, mirror, %error);
    }
}

/// Groups told of in the log after one pass. `GET /groups` has all of them.
const GROUPS_TOLD: usize = 20;

/// All groups were looked at: what is new since the time before.
pub(crate) fn groups(mirror: &str, before: &Report, now: &Report) {
    let result = if now.error.is_some() { "failed" } else { "ok" };
    counter!(GROUP_PASSES, "mirror" => mirror.to_owned(), "result" => result).increment(1);
    counter!(GROUP_COMMITS, "mirror" => mirror.to_owned()).increment(now.written as u64);
    gauge!(GROUP_SECONDS, "mirror" => mirror.to_owned()).set(now.seconds);
    if let Some(error) = &now.error {
        return tell!(messages::OFFSETS_UNKNOWN, mirror, error);
    }
    for state in OffsetState::ALL {
        let count = now.offsets.iter().filter(|offset| offset.state == state).count();
        gauge!(GROUP_OFFSETS, "mirror" => mirror.to_owned(), "state" => state.name()).set(count as f64);
    }
    debug!(mirror, groups = now.groups, offsets = now.offsets.len(), written = now.written, seconds = now.seconds, "groups");
    if before.offsets.is_empty() && !now.offsets.is_empty() {
        tell!(messages::OFFSETS_COPIED, mirror, groups = now.groups, offsets = now.offsets.len(), written = now.written);
    }
    let known: HashMap<_, _> = before.offsets.iter().map(|offset| (offset.key(), offset.state)).collect();
    let is_new = |offset: &&Offset| {
        let is_quiet = matches!(offset.state, OffsetState::InSync | OffsetState::Waiting);
        !is_quiet && known.get(&offset.key()) != Some(&offset.state)
    };
    let news: Vec<_> = now.offsets.iter().filter(is_new).collect();
    for offset in news.iter().take(GROUPS_TOLD) {
        let (what, state, reason) = (offset.to_string(), offset.state.name(), offset.reason.as_deref().unwrap_or_default());
        match offset.state {
            OffsetState::Refused => tell!(messages::OFFSET_REFUSED, mirror, what, reason),
            _ => tell!(messages::OFFSET_NOT_COPIED, mirror, what, state, reason),
        }
    }
    if news.len() > GROUPS_TOLD {
        tell!(messages::MORE_OFFSETS_NOT_COPIED, mirror, more = news.len() - GROUPS_TOLD);
    }
}

/// A partition is not copied any more: nothing of it is behind.
pub(crate) fn gone(mirror: &str, partition: &TopicPartition) {
    tell!(messages::GONE, mirror, %partition);
    lag(mirror, partition, &Known::default());
}

/// A partition is another process's now.
pub(crate) fn given_up(mirror: &str, partition: &TopicPartition) {
    lag(mirror, partition, &Known::default());
}

/// The group has given shards to this process, which now has so many.
pub(crate) fn gained(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "gained", now);
    tell!(messages::SHARDS_GAINED, mirror, ?shards, now);
}

/// The group takes shards away from this process, which keeps so many.
pub(crate) fn revoked(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "revoked", now);
    tell!(messages::SHARDS_REVOKED, mirror, ?shards, now);
}

/// The group has put this process out.
pub(crate) fn lost(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "lost", now);
    tell!(messages::SHARDS_LOST, mirror, ?shards);
}

fn rebalanced(mirror: &str, kind: &'static str, now: usize) {
    counter!(REBALANCES, "mirror" => mirror.to_owned(), "kind" => kind).increment(1);
    gauge!(SHARDS, "mirror" => mirror.to_owned()).set(now as f64);
}

/// How long the process may still write without a word from the coordinator.
pub(crate) fn lease(mirror: &str, left: Duration) {
    gauge!(LEASE, "mirror" => mirror.to_owned()).set(left.as_secs_f64());
}

fn lag(mirror: &str, partition: &TopicPartition, known: &Known) {
    let labels = [("mirror", mirror.to_owned()), ("topic", partition.topic.to_string()), ("partition", partition.partition.to_string())];
    gauge!(LAG_RECORDS, &labels).set(known.lag() as f64);
    gauge!(LAG_SECONDS, &labels).set(known.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
}

/// How all partitions are, now and then.
pub(crate) fn partitions<'a>(mirror: &str, partitions: impl Iterator<Item = (&'a TopicPartition, Known)>) {
    let mut phases = [0_u32; Phase::ALL.len()];
    let mut segments = 0;
    for (partition, known) in partitions {
        lag(mirror, partition, &known);
        segments += known.map.segments().len();
        phases[Phase::ALL.iter().position(|phase| *phase == known.phase).unwrap_or_default()] += 1;
    }
    gauge!(SEGMENTS, "mirror" => mirror.to_owned()).set(segments as f64);
    for (phase, count) in Phase::ALL.iter().zip(phases) {
        gauge!(PARTITIONS, "mirror" => mirror.to_owned(), "phase" => phase.name()).set(count);
    }
}
