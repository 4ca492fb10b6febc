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
    /// Which partition.
    pub(crate) partition: i32,
    /// Where the records come from.
    pub(crate) leader: Side,
    /// Where they go to.
    pub(crate) follower: Side,
    /// Grows by one with each change of the leader.
    pub(crate) term: i32,
    /// Where the segments of a partition whose offsets are translated are kept.
    pub(crate) state: State,
    /// Whether the leader's log is compacted: then either side may miss records that the other still has.
    pub(crate) compacted: bool,
    /// The follower's `max.message.bytes`.
    pub(crate) max_message_bytes: usize,
    /// What everybody may see of it.
    pub(crate) status: Arc<Status>,
    /// What allows it to be written.
    pub(crate) shard: Arc<Shard>,
    /// Cancelled when the partition is to be handed back: a child of its shard's.
    pub(crate) stop: CancellationToken,
    /// What a refusal has taught.
    pub(crate) caution: Caution,
}

/// Records that were refused, and the batches that they are in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caution {
    /// Records below this offset go one by one.
    pub(crate) single_until: i64,
    /// These are left out.
    pub(crate) skip: HashSet<i64>,
    /// Here is a batch that cannot be read, and it is left out.
    pub(crate) leap: Option<Range<i64>>,
}

impl PartitionJob {
    /// The partition, by the topic's name on the mirror's source.
    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    /// The id that the mirror writes under.
    pub(crate) fn producer_id(&self) -> i64 {
        producer_id(&self.mirror, &self.topic, self.partition, self.term)
    }
}
