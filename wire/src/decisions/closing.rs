//! What the log means for the mirror: from where it copies in a term, and when it may say that a partition is closed.

use super::{State, Void};

/// What the owner of a partition has measured. It reads the log, then asks both clusters, then decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The offset of the last record of the log of decisions that it had read before it asked for any of these.
    pub as_of: i64,
    /// The log end offset on the leader: the end of the log itself, not the high watermark, behind which records acknowledged with acks=1 may wait.
    pub leader_end: i64,
    /// The leader's last stable offset.
    pub last_stable_offset: i64,
    /// The follower's log end offset.
    pub follower_end: i64,
    /// The offset after the last record that the mirror wrote to the follower in this term, by the follower's word (DescribeProducers): the last sequence of
    /// the mirror's id, and one. `None`: the follower does not know that id.
    pub written_end: Option<i64>,
    /// Whether something that it has sent to the follower is unanswered, or may still arrive.
    pub unanswered: bool,
}

/// Why a partition is not closed yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The log does not allow it.
    #[error(transparent)]
    Void(#[from] Void),
    /// No move of it is open.
    #[error("no move of it is open")]
    NotMoving,
    /// The mirror waits for an answer.
    #[error("something that the mirror has written is unanswered")]
    Unanswered,
    /// A transaction is open.
    #[error("a transaction is open: the last stable offset is {last_stable_offset}, the end {leader_end}")]
    Transaction {
        /// On the leader.
        last_stable_offset: i64,
        /// On the leader.
        leader_end: i64,
    },
    /// There is more to copy.
    #[error("the follower has {follower_end} of {leader_end}")]
    Behind {
        /// On the follower.
        follower_end: i64,
        /// On the leader.
        leader_end: i64,
    },
    /// Somebody else has written to the follower: a broker that was frozen, with what it was sent when it led. As many records may have come to the leader
    /// since, so that both ends are equal and the logs are not.
    #[error("the follower ends at {follower_end}, and the mirror has written up to {written_end}: it has diverged")]
    Foreign {
        /// On the follower.
        follower_end: i64,
        /// Up to where the mirror wrote.
        written_end: i64,
    },
    /// The follower has what the leader does not have.
    #[error("the follower ends at {follower_end}, behind the leader's end {leader_end}: it has diverged")]
    Diverged {
        /// On the follower.
        follower_end: i64,
        /// On the leader.
        leader_end: i64,
    },
}

/// From which offset the owner copies: the follower's end, if all that it holds is the mirror's own of this term, or from before it. It is looked at before
/// the first copy of a term or of a process: a broker takes any first sequence, and so would not refuse it. `written_end` as in [`Measured`].
///
/// # Errors
/// [`NotYet::Foreign`]: the partition has diverged.
pub fn copies_from(state: &State, topic: &str, partition: u32, follower_end: i64, written_end: Option<i64>) -> Result<i64, NotYet> {
    // In its first term a topic has no first offset that everybody knows: there the mirror compares the logs.
    let begins = state.leaders().get(topic).and_then(|leader| leader.ends.get(partition as usize)).copied();
    match written_end.or(begins) {
        Some(written_end) if written_end != follower_end => Err(NotYet::Foreign { follower_end, written_end }),
        _ => Ok(follower_end),
    }
}

/// The end at which a partition is closed. From here on the owner writes nothing to it in the old direction, unless the move is aborted.
///
/// # Errors
/// [`NotYet`]: it measures again later.
pub fn closing(state: &State, topic: &str, partition: u32, measured: Measured) -> Result<i64, NotYet> {
    state.open().filter(|open| open.topics.contains_key(topic)).ok_or(NotYet::NotMoving)?;
    let Measured { as_of, leader_end, last_stable_offset, follower_end, written_end, unanswered } = measured;
    let quiet_since = state.quiet_since()?;
    if as_of < quiet_since {
        return Err(Void::MeasuredEarly { as_of, quiet_since }.into());
    }
    if unanswered {
        return Err(NotYet::Unanswered);
    }
    copies_from(state, topic, partition, follower_end, written_end)?;
    if follower_end > leader_end {
        Err(NotYet::Diverged { follower_end, leader_end })
    } else if follower_end < leader_end {
        Err(NotYet::Behind { follower_end, leader_end })
    } else if last_stable_offset < leader_end {
        Err(NotYet::Transaction { last_stable_offset, leader_end })
    } else {
        Ok(leader_end)
    }
}
