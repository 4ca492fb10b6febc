//! The metrics: their names, and what each means. They are set where the event is told: in the `events` of `copy`, `groups`, `shards` and `run`, each
//! with its log line.
//!
//! Label values are bounded: mirrors are names of the file, topics and partitions those that it selects.

use kferry_wire::operators::Metric;
use metrics::{describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

pub(crate) const BUILD_INFO: &str = "kferry_mirror_build_info";
pub(crate) const RECORDS: &str = "kferry_mirror_records_total";
pub(crate) const BYTES: &str = "kferry_mirror_bytes_total";
pub(crate) const BATCHES: &str = "kferry_mirror_batches_total";
pub(crate) const MARKERS: &str = "kferry_mirror_markers_total";
pub(crate) const COMPARED: &str = "kferry_mirror_compared_records_total";
pub(crate) const SKIPPED: &str = "kferry_mirror_skipped_records_total";
pub(crate) const LOST: &str = "kferry_mirror_lost_offsets_total";
pub(crate) const THROTTLED: &str = "kferry_mirror_throttled_milliseconds_total";
pub(crate) const ERRORS: &str = "kferry_mirror_errors_total";
pub(crate) const LAG_RECORDS: &str = "kferry_mirror_lag_records";
pub(crate) const LAG_SECONDS: &str = "kferry_mirror_lag_seconds";
pub(crate) const UNSTABLE_RECORDS: &str = "kferry_mirror_unstable_records";
pub(crate) const UNSTABLE_SECONDS: &str = "kferry_mirror_unstable_seconds";
pub(crate) const SEGMENTS: &str = "kferry_mirror_segments";
pub(crate) const TOPICS_FAILED: &str = "kferry_mirror_topics_failed";
pub(crate) const DELETED: &str = "kferry_mirror_deleted_on_follower_offsets";
pub(crate) const PARTITIONS: &str = "kferry_mirror_partitions";
pub(crate) const GROUP_OFFSETS: &str = "kferry_mirror_group_offsets";
pub(crate) const GROUP_COMMITS: &str = "kferry_mirror_group_commits_total";
pub(crate) const GROUP_PASSES: &str = "kferry_mirror_group_passes_total";
pub(crate) const GROUP_SECONDS: &str = "kferry_mirror_group_pass_seconds";
pub(crate) const PASSES: &str = "kferry_mirror_passes_total";
pub(crate) const SHARDS: &str = "kferry_mirror_shards";
pub(crate) const REBALANCES: &str = "kferry_mirror_rebalances_total";
pub(crate) const LEASE: &str = "kferry_mirror_lease_seconds";
pub(crate) const CERTIFICATE: &str = "kferry_mirror_certificate_not_after_timestamp_seconds";

pub(crate) const INTERRUPTED: &str = "interrupted";
pub(crate) const FAILED: &str = "failed";
pub(crate) const DIVERGED: &str = "diverged";

/// The values of the label `kind` of `kferry_mirror_errors_total`.
pub const ERROR_KINDS: [&str; 3] = [INTERRUPTED, FAILED, DIVERGED];

/// The metrics that go up and down: name, labels and help.
pub const GAUGES: &[Metric] = &[
    (BUILD_INFO, &["version"], "1; which kferry-mirror this is"),
    (
        LAG_RECORDS,
        &["mirror", "topic", "partition"],
        "Offsets that the leader has and the follower does not, by mirror, topic and partition",
    ),
    (LAG_SECONDS, &["mirror", "topic", "partition"], "Since when the follower lacks something, by mirror, topic and partition"),
    (
        UNSTABLE_RECORDS,
        &["mirror", "topic", "partition"],
        "Offsets of the leader that wait for an open transaction, by mirror, topic and partition: where some do, or did",
    ),
    (
        UNSTABLE_SECONDS,
        &["mirror", "topic", "partition"],
        "Since when the leader's last stable offset stands still below its high watermark, by mirror, topic and partition: likewise",
    ),
    (SEGMENTS, &["mirror"], "Segments of the offset maps of this process's partitions, by mirror: where offsets are translated"),
    (PARTITIONS, &["mirror", "phase"], "Partitions, by mirror and phase"),
    (TOPICS_FAILED, &["mirror"], "Topics that cannot be copied, or whose settings on the follower cannot be the leader's, by mirror"),
    (DELETED, &["mirror"], "Offsets that the follower has deleted and the leader still has, by mirror"),
    (GROUP_OFFSETS, &["mirror", "state"], "Offsets that groups have committed in the mirror's topics, by mirror and state"),
    (GROUP_SECONDS, &["mirror"], "How long the last look at all groups took, by mirror"),
    (SHARDS, &["mirror"], "Shards that this process has, by mirror"),
    (CERTIFICATE, &["table", "key"], "When the certificates of a file are over, in seconds since 1970, by table and key of routes.toml"),
    (LEASE, &["mirror"], "How long the process may still write without a word from the group's coordinator, by mirror"),
];

/// The metrics that only grow: name, labels and help.
pub const COUNTERS: &[Metric] = &[
    (RECORDS, &["mirror"], "Records copied, by mirror"),
    (BYTES, &["mirror"], "Bytes of batches produced to the follower, by mirror"),
    (BATCHES, &["mirror", "path"], "Batches produced, by mirror and path: raw, or why their records were decoded"),
    (MARKERS, &["mirror"], "Offsets without a record that were filled, by mirror"),
    (COMPARED, &["mirror"], "Records compared on both clusters, by mirror"),
    (SKIPPED, &["mirror", "topic"], "Records left out by on_error, by mirror and topic"),
    (
        LOST,
        &["mirror", "topic"],
        "Offsets that the leader deleted before they were copied, and behind which the copy went on, by mirror and topic",
    ),
    (
        THROTTLED,
        &["mirror", "cluster"],
        "Milliseconds for which brokers of a cluster do not read what the mirror sends, because of a quota, by mirror and cluster",
    ),
    (ERRORS, &["mirror", "kind"], "Interruptions of a partition, by mirror and kind"),
    (PASSES, &["mirror", "result"], "Looks at both clusters' topics, by mirror and result"),
    (GROUP_COMMITS, &["mirror"], "Offsets of groups written on the follower, by mirror"),
    (GROUP_PASSES, &["mirror", "result"], "Looks at all groups, by mirror and result"),
    (REBALANCES, &["mirror", "kind"], "Changes of the shards that this process has, by mirror and kind: gained, revoked, lost"),
];

/// Sets the process's recorder and says what each metric means.
///
/// # Errors
/// The process has a recorder already; that one stays.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for (name, _, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, _, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}
