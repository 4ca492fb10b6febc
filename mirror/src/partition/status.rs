//! What everybody may see of a partition.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::offsets::{Direction, OffsetMap};

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
pub struct Status(Mutex<Progress>);

/// What is known of a partition.
#[derive(Debug, Clone, Default)]
pub struct Progress {
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
    pub leader_last_stable_offset: i64,
    /// The leader's first offset.
    pub leader_log_start_offset: i64,
    /// The follower's first offset.
    pub follower_log_start_offset: i64,
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

impl Progress {
    /// Records that the follower does not have yet, holes included.
    pub fn lag(&self) -> i64 {
        (self.leader_last_stable_offset - self.agreed).max(0)
    }

    /// The first offset of the leader that was copied, where offsets are translated.
    pub fn first(&self) -> i64 {
        self.map.first(self.direction).unwrap_or(0)
    }

    /// What lies before both log starts is nobody's any more.
    pub fn forget_before_log_starts(&mut self) {
        self.skipped.retain(|(_, to)| *to > self.leader_log_start_offset);
        match self.direction {
            Direction::Forwards => self.map.forget_before(self.leader_log_start_offset, self.follower_log_start_offset),
            Direction::Backwards => self.map.forget_before(self.follower_log_start_offset, self.leader_log_start_offset),
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
    pub fn lock(&self) -> MutexGuard<'_, Progress> {
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
        known.leader_last_stable_offset = known.leader_last_stable_offset.max(offset);
        if known.lag() == 0 {
            known.behind_since = None;
        }
    }

    /// What the leader's log reaches from and to.
    pub fn leader(&self, start: i64, end: i64) {
        let mut known = self.lock();
        known.leader_log_start_offset = known.leader_log_start_offset.max(start);
        known.leader_last_stable_offset = end.max(known.agreed);
        if known.lag() > 0 {
            known.behind_since.get_or_insert_with(Instant::now);
        } else {
            known.behind_since = None;
        }
    }
}
