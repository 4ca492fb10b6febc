//! Why a partition is handed back to the run by whoever worked on it.

use std::ops::Range;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kferry_wire::log::AppendError;

/// Why a lane or a look gives a partition back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handback {
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

impl Handback {
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
