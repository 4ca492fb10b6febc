//! What is told of a mirror at work: each event once, its log line and its metric.

use std::collections::HashSet;
use std::time::Duration;

use kferry_wire::client::TopicPartition;
use kferry_wire::tell;
use metrics::{counter, gauge};

use crate::messages;
use crate::metrics::{
    DELETED, LAG_RECORDS, LAG_SECONDS, LEASE, PARTITIONS, PASSES, SEGMENTS, TOPICS_FAILED, UNSTABLE_RECORDS, UNSTABLE_SECONDS,
};
use crate::partition::{Phase, Progress};
use crate::transactions::Unstable;

/// Both clusters' topics were looked at, or could not be.
pub(crate) fn passed(mirror: &str, error: Option<&dyn std::fmt::Display>) {
    let result = if error.is_some() { "failed" } else { "ok" };
    counter!(PASSES, "mirror" => mirror.to_owned(), "result" => result).increment(1);
    if let Some(error) = error {
        tell!(messages::TOPICS_UNKNOWN, mirror, %error);
    }
}

/// A partition is not copied any more: nothing of it is behind.
pub(crate) fn gone(mirror: &str, partition: &TopicPartition) {
    tell!(messages::GONE, mirror, %partition);
    lag(mirror, partition, &Progress::default());
    unstable(mirror, partition, None);
}

/// A partition is another process's now.
pub(crate) fn given_up(mirror: &str, partition: &TopicPartition) {
    lag(mirror, partition, &Progress::default());
    unstable(mirror, partition, None);
}

/// A transaction that is open for long holds up a partition.
pub(crate) fn held_up(mirror: &str, partition: &TopicPartition, reason: &str) {
    tell!(messages::HELD_UP, mirror, %partition, reason);
}

/// How all partitions are, now and then. `were_unstable` are those of which something waited for a transaction the last time: few do ever, so the others
/// have no such metrics.
pub(crate) fn partitions<'a>(
    mirror: &str,
    partitions: impl Iterator<Item = (&'a TopicPartition, Progress)>,
    were_unstable: &mut HashSet<TopicPartition>,
) {
    let mut phases = [0_u32; Phase::ALL.len()];
    let (mut segments, mut deleted) = (0, 0);
    for (partition, progress) in partitions {
        lag(mirror, partition, &progress);
        if progress.unstable.is_some() {
            were_unstable.insert(partition.clone());
            unstable(mirror, partition, progress.unstable.as_ref());
        } else if were_unstable.remove(partition) {
            unstable(mirror, partition, None);
        }
        segments += progress.map.segments().len();
        deleted += progress.deleted_on_follower();
        phases[Phase::ALL.iter().position(|phase| *phase == progress.phase).unwrap_or_default()] += 1;
    }
    gauge!(SEGMENTS, "mirror" => mirror.to_owned()).set(segments as f64);
    gauge!(DELETED, "mirror" => mirror.to_owned()).set(deleted as f64);
    for (phase, count) in Phase::ALL.iter().zip(phases) {
        gauge!(PARTITIONS, "mirror" => mirror.to_owned(), "phase" => phase.name()).set(count);
    }
}

fn labels(mirror: &str, partition: &TopicPartition) -> [(&'static str, String); 3] {
    [("mirror", mirror.to_owned()), ("topic", partition.topic.to_string()), ("partition", partition.partition.to_string())]
}

fn unstable(mirror: &str, partition: &TopicPartition, known: Option<&Unstable>) {
    let labels = labels(mirror, partition);
    gauge!(UNSTABLE_RECORDS, &labels).set(known.map_or(0, Unstable::offsets) as f64);
    gauge!(UNSTABLE_SECONDS, &labels).set(known.map_or(0.0, |known| known.since.elapsed().as_secs_f64()));
}

fn lag(mirror: &str, partition: &TopicPartition, progress: &Progress) {
    let labels = labels(mirror, partition);
    gauge!(LAG_RECORDS, &labels).set(progress.lag() as f64);
    gauge!(LAG_SECONDS, &labels).set(progress.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
}

/// How long the process may still write without a word from the coordinator.
pub(crate) fn lease(mirror: &str, left: Duration) {
    gauge!(LEASE, "mirror" => mirror.to_owned()).set(left.as_secs_f64());
}

/// How many topics cannot be copied, or not as they should be.
pub(crate) fn topics_failed(mirror: &str, topics: usize) {
    gauge!(TOPICS_FAILED, "mirror" => mirror.to_owned()).set(topics as f64);
}
