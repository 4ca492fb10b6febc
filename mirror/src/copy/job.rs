//! One partition to be mirrored.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use kferry_wire::client::TopicPartition;
use tokio_util::sync::CancellationToken;

use crate::partition::{Shard, Side, Status, producer_id};
use crate::state::State;

/// A partition to be mirrored, in the direction of its term. It wanders: from the run to a look at both logs, to a lane, and back.
pub(crate) struct PartitionJob {
    /// The mirror's name.
    pub(crate) mirror: Arc<str>,
    /// The topic's name on the mirror's source: by it the mirror speaks of the topic, whoever leads.
    pub(crate) topic: Arc<str>,
    /// The number of the partition.
    pub(crate) partition: i32,
    /// The topic on the cluster that leads it, where the records come from.
    pub(crate) leader: Side,
    /// The topic on the cluster that follows, where they go to.
    pub(crate) follower: Side,
    /// The leader's term: it grows by one with each change of the leader.
    pub(crate) term: i32,
    /// The first offset of the term, if it was decided: what the mirror has written behind it in the term before, when the follower of now led, came late.
    pub(crate) begins: Option<i64>,
    /// The mirror's state, where the segments of a partition are kept whose offsets are translated.
    pub(crate) state: State,
    /// Whether one of the two logs is compacted: then either may miss records that the other still has.
    pub(crate) compacted: bool,
    /// The follower's `max.message.bytes`.
    pub(crate) max_message_bytes: usize,
    /// The partition's progress, for everybody to see.
    pub(crate) status: Arc<Status>,
    /// The shard of the partition: nothing is written when that may not be.
    pub(crate) shard: Arc<Shard>,
    /// Cancelled when the partition is to be handed back: a child of its shard's.
    pub(crate) stop: CancellationToken,
    /// How the batches of records that were refused are to be copied.
    pub(crate) caution: Caution,
}

/// How batches are to be copied that a broker has refused, or that cannot be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caution {
    /// Records below this offset of the leader are copied one by one.
    pub(crate) single_until: i64,
    /// Offsets of the leader whose records are left out.
    pub(crate) skip: HashSet<i64>,
    /// Offsets of an unreadable batch of the leader, to be skipped as one hole.
    pub(crate) leap: Option<Range<i64>>,
}

impl PartitionJob {
    /// The partition, by the topic's name on the mirror's source.
    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    /// The producer id under which the mirror wrote to what leads now, in the term before.
    pub(crate) fn producer_id_before(&self) -> i64 {
        producer_id(&self.mirror, &self.topic, self.partition, self.term - 1)
    }

    /// The producer id under which the mirror writes to the partition.
    pub(crate) fn producer_id(&self) -> i64 {
        producer_id(&self.mirror, &self.topic, self.partition, self.term)
    }
}
