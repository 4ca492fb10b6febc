//! The comparison of two logs, record for record.

use kferry_wire::batch::Record;
use kferry_wire::log::{LogReader, ReadError};

use super::keys::{Keys, Owner};
use super::view::FollowerReader;
use crate::partition::Skipped;

/// In what a leader's and a follower's log may differ and still count as equal.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Whether either log may miss records that the other still has: the topic is compacted, on each cluster by its own clock.
    pub missing: bool,
    /// Offsets of the leader whose records the follower lacks, as `on_error` decided.
    pub skipped: Skipped,
}

/// The first difference between two logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The offset of the leader at which the logs differ.
    pub offset: i64,
    /// What differs there, in words that speak of the leader and the follower.
    pub what: String,
}

/// What a comparison of two logs found, up to the first difference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// How many records both logs have, and are equal.
    pub equal: u64,
    /// How many records only one of the logs has still, as [`Allowed::missing`] allows.
    pub compacted: u64,
    /// The first difference, at which the comparison ended; `None` if there is none.
    pub difference: Option<Difference>,
}

/// Compares two logs record for record: offset, timestamp, key, value and headers. Both readers have the same range.
///
/// # Errors
/// [`ReadError`] of either log: whether they are equal is not known then.
pub async fn compare(leader: LogReader, follower: FollowerReader, allowed: &Allowed) -> Result<Compared, ReadError> {
    compare_keys(leader, follower, allowed, &mut None).await
}

/// Compares as [`compare`] does, and tells `keys` of each record, of compacted logs: it knows at the end of which keys only one log has the latest one.
///
/// # Errors
/// [`ReadError`] of either log: whether they are equal is not known then.
pub async fn compare_keys(
    leader: LogReader,
    follower: FollowerReader,
    allowed: &Allowed,
    keys: &mut Option<Keys>,
) -> Result<Compared, ReadError> {
    let mut found = Compared::default();
    let mut leader = leader.tolerating(allowed.skipped.ranges().to_vec()).compacted(allowed.missing);
    let mut follower = follower.compacted(allowed.missing);
    let (mut left, mut right) = tokio::try_join!(leader.next(), follower.next())?;
    loop {
        let different = |offset, what: String| Some(Difference { offset, what });
        match (&left, &right) {
            (None, None) => return Ok(found),
            (Some(one), Some(other)) if one.offset == other.offset => {
                if let Some(what) = difference(one, other) {
                    found.difference = different(one.offset, what);
                    return Ok(found);
                }
                if let Some(keys) = keys {
                    keys.both(one);
                }
                found.equal += 1;
                (left, right) = match (leader.ready(), follower.ready()) {
                    (Some(one), Some(other)) => (Some(one), Some(other)),
                    (one, other) => {
                        let left = async { if one.is_some() { Ok(one) } else { leader.next().await } };
                        let right = async { if other.is_some() { Ok(other) } else { follower.next().await } };
                        tokio::try_join!(left, right)?
                    }
                };
            }
            (Some(one), other) if other.as_ref().is_none_or(|other| one.offset < other.offset) => {
                let is_skipped = allowed.skipped.contains(one.offset);
                if !is_skipped && !allowed.missing {
                    found.difference = different(one.offset, "the follower has no record there, the leader has one".to_owned());
                    return Ok(found);
                }
                if !is_skipped {
                    if let Some(keys) = keys {
                        keys.one_only(one, Owner::Leader);
                    }
                    found.compacted += 1;
                }
                left = leader.next().await?;
            }
            (_, other) => {
                if !allowed.missing {
                    let offset = other.as_ref().map_or(0, |other| other.offset);
                    found.difference = different(offset, "the follower has a record there, the leader has none".to_owned());
                    return Ok(found);
                }
                if let (Some(keys), Some(other)) = (keys.as_mut(), other) {
                    keys.one_only(other, Owner::Follower);
                }
                found.compacted += 1;
                right = follower.next().await?;
            }
        }
    }
}

/// In what two records of the same offset differ, if they do.
fn difference(leader: &Record, follower: &Record) -> Option<String> {
    let what = if leader.timestamp != follower.timestamp {
        return Some(format!("the leader's timestamp is {}, the follower's {}", leader.timestamp, follower.timestamp));
    } else if leader.key != follower.key {
        "key"
    } else if leader.value != follower.value {
        "value"
    } else if leader.headers != follower.headers {
        "headers"
    } else {
        return None;
    };
    Some(format!("the {what} of the record differs"))
}
