//! What a partition is doing and how far its copy is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::offsets::{Direction, OffsetMap};
use super::skipped::Skipped;
use crate::transactions::Unstable;

/// What a partition is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits for a look at both logs: for the first one, or for the next one after an interruption.
    #[default]
    Waiting,
    /// The records that both logs have are compared.
    Comparing,
    /// The follower's log is filled up to the leader's log start, with empty records.
    Padding,
    /// It is on a lane: records are copied as they come.
    Copying,
    /// It cannot be copied before somebody mends something. It is tried again each minute.
    Failed,
    /// The two logs differ. Nothing more is written to it.
    Diverged,
}

impl Phase {
    /// All phases, in their order.
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Comparing, Self::Padding, Self::Copying, Self::Failed, Self::Diverged];

    /// The phase as the metric's label has it.
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

/// The progress of a partition, shared by whoever works on it and whoever looks.
#[derive(Debug, Default)]
pub struct Status(Mutex<Progress>);

/// What a partition is doing, and how far its copy is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What is being done with the partition.
    pub phase: Phase,
    /// Why the partition is not copied, in words for an operator; `None` while it is, or before its first look.
    pub reason: Option<String>,
    /// The offset of the leader up to which both logs are known to be equal: compared, or written by this process and acknowledged.
    pub agreed: i64,
    /// Whether there is nothing but padding before `agreed`: not one record was copied yet.
    pub only_padding: bool,
    /// Which offset on the target an offset on the source is.
    pub map: OffsetMap,
    /// From which cluster to which the partition is copied.
    pub direction: Direction,
    /// The leader's last stable offset when it was last told, at least `agreed`; 0 before that.
    pub leader_last_stable_offset: i64,
    /// What of the leader waits for an open transaction behind that; `None` if nothing did when it was last told.
    pub unstable: Option<Unstable>,
    /// The leader's log start offset when it was last told; 0 before that.
    pub leader_log_start_offset: i64,
    /// The follower's log start offset when it was last told; 0 before that.
    pub follower_log_start_offset: i64,
    /// Bytes of the batches that this process has produced to the follower.
    pub bytes: u64,
    /// Records in those batches.
    pub records: u64,
    /// Since when the leader has had offsets that the follower lacks; `None` while it lacks none.
    pub behind_since: Option<Instant>,
    /// The leader's high watermark when this process first looked at both logs: what `--once` copies up to.
    pub goal: Option<i64>,
    /// Whether something here has changed that the mirror's state does not have yet.
    pub unsaved: bool,
    /// The offsets of the leader whose records `on_error` left out.
    pub skipped: Skipped,
}

impl Progress {
    /// How many offsets of the leader the follower lacks, with or without a record.
    pub fn lag(&self) -> i64 {
        (self.leader_last_stable_offset - self.agreed).max(0)
    }

    /// How many offsets the follower has deleted that the leader still has; 0 where offsets are translated, since that log is not the mirror's alone.
    pub fn deleted_on_follower(&self) -> i64 {
        let deleted = (self.follower_log_start_offset - self.leader_log_start_offset).max(0);
        if self.map.translates() { 0 } else { deleted }
    }

    /// The leader's high watermark when it was last told, at least its last stable offset.
    pub fn leader_high_watermark(&self) -> i64 {
        self.unstable.as_ref().map_or(self.leader_last_stable_offset, |unstable| unstable.to)
    }

    /// What waits for a transaction that is open for long, in words for an operator; `None` if nothing does. The time is the present, by both clocks.
    pub fn held_up(&self, now: Instant, timestamp: i64) -> Option<String> {
        self.unstable.as_ref().filter(|unstable| unstable.is_long(now)).map(|unstable| unstable.told(timestamp))
    }

    /// The first offset of the leader that was copied, where offsets are translated; 0 where they are not, or nothing was copied.
    pub fn first(&self) -> i64 {
        self.map.first(self.direction).unwrap_or(0)
    }

    /// Forgets the segments and skipped offsets that lie before both log starts: no consumer can be there any more.
    pub fn forget_before_log_starts(&mut self) {
        self.skipped.forget_before(self.leader_log_start_offset);
        let (source, target) = self.direction.source_first(self.leader_log_start_offset, self.follower_log_start_offset);
        self.map.forget_before(source, target);
    }

    /// Where on the target a consumer goes on that is at this offset of the source. `None`: it lies before the first record that was copied, or behind
    /// the last one.
    pub fn target_offset(&self, source: i64) -> Option<i64> {
        self.map.target(source).filter(|target| self.is_copied(source, *target))
    }

    /// Where on the source a consumer goes on that is at this offset of the target. `None` as for [`target_offset`](Self::target_offset).
    pub fn source_offset(&self, target: i64) -> Option<i64> {
        self.map.source(target).filter(|source| self.is_copied(*source, target))
    }

    fn is_copied(&self, source: i64, target: i64) -> bool {
        let (leader, _) = self.direction.leader_first(source, target);
        leader <= self.agreed
    }
}

impl Status {
    /// Locks the progress, to look at it or to change it.
    pub fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the phase, and the reason why the partition is not copied.
    pub fn phase(&self, phase: Phase, reason: Option<String>) {
        let mut progress = self.lock();
        progress.unsaved |= progress.phase != phase;
        (progress.phase, progress.reason) = (phase, reason);
    }

    /// Begins a segment of the map at these offsets of the leader and the follower; without effect where offsets are the same.
    pub fn begin(&self, leader: i64, follower: i64) {
        let mut progress = self.lock();
        let direction = progress.direction;
        progress.map.begin(direction, leader, follower);
        progress.unsaved = true;
    }

    /// Sets the offset of the leader up to which both logs are equal, with records before it.
    pub fn agree(&self, offset: i64) {
        let mut progress = self.lock();
        progress.unsaved |= progress.agreed != offset;
        (progress.agreed, progress.only_padding) = (offset, false);
        progress.leader_last_stable_offset = progress.leader_last_stable_offset.max(offset);
        if progress.lag() == 0 {
            progress.behind_since = None;
        }
    }

    /// Takes in the log start, the last stable offset and the high watermark of the leader. A log start that is lower than the known one is an older word,
    /// and ignored.
    pub fn leader_has(&self, start: i64, last_stable_offset: i64, high_watermark: i64) {
        let now = Instant::now();
        let mut progress = self.lock();
        progress.leader_log_start_offset = progress.leader_log_start_offset.max(start);
        progress.leader_last_stable_offset = last_stable_offset.max(progress.agreed);
        progress.unstable = Unstable::after(progress.unstable.take(), last_stable_offset, high_watermark, now);
        if progress.lag() > 0 {
            progress.behind_since.get_or_insert(now);
        } else {
            progress.behind_since = None;
        }
    }
}
