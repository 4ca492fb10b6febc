//! Why a partition is handed back to the run by whoever worked on it.

use std::ops::Range;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kferry_wire::log::AppendError;

/// Why a lane, or a look at both logs, gives a partition back to the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handback {
    /// Something that passes by itself, for this reason: both logs are looked at again after a pause of 0.1 to 15 s.
    Again(String),
    /// The leader's log has records that the follower's broker or the mirror itself will not take, or has them no more. `on_error` decides.
    Refused(Refusal),
    /// Nothing can be copied before an operator mends something: this says what. Both logs are looked at again each minute.
    Failed(String),
    /// The two logs differ, as this says. Nothing more is written until the mirror is started with `--accept`.
    Diverged(String),
    /// The run has taken the partition back: it stops, or the partition's shard or leader is another one now.
    Cancelled,
}

impl Handback {
    /// The handback for a partition whose shard this process [may not write to](crate::partition::Shard::may_write) just now.
    pub fn no_lease() -> Self {
        Self::Again("this process may not be the one any more that has its shard".to_owned())
    }

    /// The handback for a translated partition whose next segment could not be kept in the mirror's state: without that nothing may be written there.
    pub fn unkept(error: &AppendError) -> Self {
        Self::Again(format!("a segment of its offsets cannot be kept: {error}"))
    }
}

/// Something that was not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCopied {
    /// A topic, a partition as `TOPIC-PARTITION`, or the offset of a group, for people.
    pub what: String,
    /// Why it was not copied.
    pub reason: String,
}

/// Records of the leader that cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Their offsets on the leader; empty if nobody can tell how far a damaged batch reaches.
    pub offsets: Range<i64>,
    /// The error with which a broker refused them, or Kafka's error for what is wrong with them; `None` is not known.
    pub code: Option<ResponseError>,
    /// Why they cannot be copied, and what to do.
    pub reason: String,
    /// A batch that has the records (its base offset may be 0), or the bytes that could not be read; empty if the leader has deleted them.
    pub bytes: Bytes,
}
