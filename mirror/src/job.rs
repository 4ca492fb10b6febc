//! One partition to be mirrored, and what is known of it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kferry_wire::client::{Client, TopicPartition};

use crate::append::AppendError;
use crate::cut;
use crate::offsets::{Direction, OffsetMap};
use crate::shards::Shard;
use crate::state::State;

/// A topic on one of the two clusters.
#[derive(Clone)]
pub struct Side {
    /// The cluster.
    pub client: Client,
    /// What the topic is called there.
    pub topic: Arc<str>,
}

impl Side {
    /// A partition of the topic.
    pub fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), partition)
    }

    /// The cluster's name in the file.
    pub fn cluster(&self) -> &Arc<str> {
        &self.client.cluster().name
    }
}

/// A partition to be mirrored, in the direction of its term. It wanders: from the run to a look at both logs, to a lane, and back.
pub struct Job {
    /// The mirror's name.
    pub mirror: Arc<str>,
    /// The topic's name on the mirror's source: by it the mirror speaks of the topic, whoever leads.
    pub topic: Arc<str>,
    /// Which partition.
    pub partition: i32,
    /// Where the records come from.
    pub leader: Side,
    /// Where they go to.
    pub follower: Side,
    /// Grows by one with each change of the leader.
    pub term: i32,
    /// Where the segments of a partition whose offsets are translated are kept.
    pub state: State,
    /// Whether the leader's log is compacted: then either side may miss records that the other still has.
    pub compacted: bool,
    /// The follower's `max.message.bytes`.
    pub max_message_bytes: usize,
    /// What everybody may see of it.
    pub status: Arc<Status>,
    /// What allows it to be written.
    pub shard: Arc<Shard>,
    /// What a refusal has taught.
    pub caution: Caution,
}

/// Records that were refused, and the batches that they are in.
#[derive(Debug, Clone, Default)]
pub struct Caution {
    /// Records below this offset go one by one.
    pub single_until: i64,
    /// These are left out.
    pub skip: HashSet<i64>,
    /// Here is a batch that cannot be read, and it is left out.
    pub leap: Option<Range<i64>>,
}

impl Job {
    /// The partition, by the topic's name on the mirror's source.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    /// From which side of the mirror to which other one.
    pub fn direction(&self) -> Direction {
        self.status.lock().direction
    }

    /// The id that the mirror writes under.
    pub fn producer_id(&self) -> i64 {
        cut::producer_id(&self.mirror, &self.topic, self.partition, self.term)
    }
}

/// Why a lane or a look gives a partition back.
#[derive(Debug, Clone)]
pub enum Leave {
    /// Something passing: look again, a little later.
    Again(String),
    /// The leader has records that the follower's broker or the mirror itself will not take. `on_error` decides.
    Refused(Refusal),
    /// Nothing can be done before somebody mends it. It is tried again from time to time.
    Failed(String),
    /// The two logs differ. Nothing more is written.
    Diverged(String),
    /// It was taken back.
    Cancelled,
}

impl Leave {
    /// The group's coordinator has not said lately that this process is a member.
    pub fn no_lease() -> Self {
        Self::Again("this process may not be the one any more that has its shard".to_owned())
    }

    /// Where a translated partition goes on is kept before anything is written there.
    pub fn unkept(error: &AppendError) -> Self {
        Self::Again(format!("a segment of its offsets cannot be kept: {error}"))
    }
}

/// Records that cannot be copied.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Their offsets.
    pub offsets: Range<i64>,
    /// Kafka's error, if a broker refused them.
    pub code: Option<ResponseError>,
    /// Why, and what to do.
    pub reason: String,
    /// A batch with base offset 0 that has the records, or what could not be read.
    pub bytes: Bytes,
}

/// What a partition is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits for its turn.
    #[default]
    Waiting,
    /// The two logs are compared.
    Comparing,
    /// The follower's log is filled up to the leader's log start.
    Padding,
    /// Records are copied.
    Copying,
    /// It cannot go on, and is tried again from time to time.
    Failed,
    /// The two logs differ.
    Diverged,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Comparing, Self::Padding, Self::Copying, Self::Failed, Self::Diverged];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Comparing => "comparing",
            Self::Padding => "padding",
            Self::Copying => "copying",
            Self::Failed => "failed",
            Self::Diverged => "diverged",
        }
    }
}

/// What everybody may see of a partition.
#[derive(Debug, Default)]
pub struct Status(Mutex<Known>);

/// What is known of a partition.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What it is doing.
    pub phase: Phase,
    /// Why it is not copied.
    pub reason: Option<String>,
    /// The offset of the leader up to which both logs are known to be equal: compared, or written by this process and acknowledged.
    pub agreed: i64,
    /// Where on the follower those offsets are.
    pub map: OffsetMap,
    /// Which of the two sides is the mirror's source.
    pub direction: Direction,
    /// The leader's last stable offset, as far as it is known.
    pub leader_end: i64,
    /// The leader's first offset.
    pub leader_start: i64,
    /// The follower's first offset.
    pub follower_start: i64,
    /// Bytes of batches that this process has copied.
    pub bytes: u64,
    /// The latest timestamp that was copied, in ms since the epoch; -1 before there is one.
    pub timestamp: i64,
    /// Since when there is more on the leader than on the follower.
    pub behind_since: Option<Instant>,
    /// The end of the leader's log when this process first looked at it: what `--once` copies up to.
    pub goal: Option<i64>,
    /// The state that is on the follower's cluster does not have this yet.
    pub unsaved: bool,
    /// Offsets whose records were left out, by `on_error`.
    pub skipped: Vec<(i64, i64)>,
}

impl Known {
    /// Records that the follower does not have yet, holes included.
    pub fn lag(&self) -> i64 {
        (self.leader_end - self.agreed).max(0)
    }

    /// The first offset of the leader that was copied, where offsets are translated.
    pub fn first(&self) -> i64 {
        self.map.first(self.direction).unwrap_or(0)
    }

    /// What lies before both log starts is nobody's any more.
    pub fn forget_before_log_starts(&mut self) {
        self.skipped.retain(|(_, to)| *to > self.leader_start);
        match self.direction {
            Direction::Forwards => self.map.forget_before(self.leader_start, self.follower_start),
            Direction::Backwards => self.map.forget_before(self.follower_start, self.leader_start),
        }
    }

    /// Where on the target a consumer goes on that is at this offset of the source. `None` is not known yet: it lies before the first record that
    /// was copied, or behind the last one.
    pub fn target_offset(&self, source: i64) -> Option<i64> {
        self.map.target(source).filter(|target| self.is_copied(source, *target))
    }

    /// The same for somebody who is at this offset of the target.
    pub fn source_offset(&self, target: i64) -> Option<i64> {
        self.map.source(target).filter(|source| self.is_copied(*source, target))
    }

    fn is_copied(&self, source: i64, target: i64) -> bool {
        let leader = match self.direction {
            Direction::Forwards => source,
            Direction::Backwards => target,
        };
        leader <= self.agreed
    }
}

impl Status {
    /// Looks, or changes it.
    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the phase and, where it needs one, the reason.
    pub fn phase(&self, phase: Phase, reason: Option<String>) {
        let mut known = self.lock();
        known.unsaved |= known.phase != phase;
        (known.phase, known.reason) = (phase, reason);
    }

    /// A segment begins at these offsets of the leader and the follower.
    pub fn begin(&self, leader: i64, follower: i64) {
        let mut known = self.lock();
        let direction = known.direction;
        known.map.begin(direction, leader, follower);
        known.unsaved = true;
    }

    /// Both logs are equal up to here.
    pub fn agree(&self, offset: i64) {
        let mut known = self.lock();
        known.unsaved |= known.agreed != offset;
        known.agreed = offset;
        known.leader_end = known.leader_end.max(offset);
        if known.lag() == 0 {
            known.behind_since = None;
        }
    }

    /// What the leader's log reaches from and to.
    pub fn leader(&self, start: i64, end: i64) {
        let mut known = self.lock();
        known.leader_start = known.leader_start.max(start);
        known.leader_end = end.max(known.agreed);
        if known.lag() > 0 {
            known.behind_since.get_or_insert_with(Instant::now);
        } else {
            known.behind_since = None;
        }
    }
}
