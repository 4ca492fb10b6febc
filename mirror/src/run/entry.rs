//! A partition that the run has: what it needs to know of it, and the job while nobody works on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kferry_config::Offsets;
use kferry_wire::client::TopicPartition;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decisions::{Failures, Present};
use crate::copy::job::PartitionJob;
use crate::partition::{Progress, Shard, Side, Status};
use crate::state::{PartitionState, State};

/// A partition that the run has, until its shard or its topic is gone.
pub(super) struct PartitionEntry {
    pub(super) status: Arc<Status>,
    pub(super) shard: Arc<Shard>,
    /// Cancelled when whoever works on the partition is to hand it back for good. A child of its shard's, which is over for all of its partitions.
    pub(super) stop: CancellationToken,
    /// The leader's term, from 1 on.
    pub(super) term: i32,
    /// The first offset of the term, on the cluster that leads.
    pub(super) term_start: i64,
    /// The topic's id on each cluster, by the cluster's name.
    pub(super) topic_ids: BTreeMap<String, String>,
    /// Whether the leader's topic was compacted when the partition was taken in.
    pub(super) compacted: bool,
    /// Whether the topic is, or once was, compacted on one of the clusters.
    pub(super) was_compacted: bool,
    /// The follower's `max.message.bytes` then.
    pub(super) max_message_bytes: usize,
    /// The topic on the cluster that leads.
    pub(super) leader: Side,
    /// The topic on the cluster that follows.
    pub(super) follower: Side,
    /// Whether both logs are to be compared from their beginning: `--accept` names the partition.
    pub(super) from_start: bool,
    pub(super) failures: Failures,
    /// The job, while nobody works on the partition.
    pub(super) rest: Option<Resting>,
}

/// A partition on which nobody works.
pub(super) struct Resting {
    pub(super) job: PartitionJob,
    /// When both logs are looked at again; `None` is not by itself.
    pub(super) again: Option<Instant>,
}

impl PartitionEntry {
    /// What a pass over the topics has to know of the partition.
    pub(super) fn present(&self) -> Present<'_> {
        let progress = self.status.lock();
        let unsaved = progress.unsaved && progress.agreed > 0;
        Present {
            term: self.term,
            topic_ids: &self.topic_ids,
            compacted: self.compacted,
            max_message_bytes: self.max_message_bytes,
            rests: self.rest.is_some(),
            unsaved,
        }
    }

    /// The job, if it rests and is due at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<PartitionJob> {
        let stopped = self.stop.is_cancelled();
        let due = |resting: &mut Resting| !stopped && resting.again.is_some_and(|again| again <= now);
        self.rest.take_if(due).map(|resting| resting.job)
    }

    /// What is to be kept of the partition in the mirror's state.
    pub(super) fn to_keep(&self, partition: &TopicPartition, progress: &Progress, state: &State) -> PartitionState {
        let kept = state.partition(partition);
        PartitionState {
            mode: if progress.map.translates() { Offsets::Translate } else { Offsets::Preserve }.name().to_owned(),
            phase: progress.phase,
            reason: progress.reason.clone(),
            leader: self.leader.cluster().to_string(),
            term: self.term,
            term_start: self.term_start,
            topic_ids: self.topic_ids.clone(),
            agreed: progress.agreed.max(kept.map_or(0, |kept| kept.agreed(self.leader.cluster(), &progress.map, progress.direction))),
            only_padding: progress.only_padding,
            was_compacted: self.was_compacted,
            skipped: progress.skipped.clone(),
        }
    }
}
