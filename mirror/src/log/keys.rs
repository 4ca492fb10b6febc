//! The latest record of each key, in two compacted logs that were cleaned by their own clocks.
//!
//! A cleaner takes a record only where a later one has the same key. So a record that one log has and the other has no more needs a later
//! record of its key; where there is none up to the end, the two logs say different things of that key. What waits for a later one is
//! kept here as a hash, in bounded memory: where there is too much of it, half of the keys are watched no longer.
//!
//! Tombstones are the exception: a cleaner takes them by time, with all that came before them, so one of them alone says nothing.
//!
//! # References
//! - `org.apache.kafka.storage.internals.log.Cleaner.shouldRetainRecord`

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use bytes::Bytes;
use kferry_wire::batch::Record;

/// The most keys that may wait for a later record at a time: some 8 MB.
const WAITING: usize = 1 << 18;

/// Which of two logs has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The leader.
    Leader,
    /// The follower.
    Follower,
}

/// Keys whose latest record only one of two logs seems to have.
#[derive(Debug, Default)]
pub struct Keys {
    hashes: RandomState,
    /// By the key's hash: the latest record of the key that only one log has, and that waits for a later record of the key.
    waiting: HashMap<u64, Waiting>,
    /// How often half of the keys were given up: of 2^`halvings` keys one is watched, that whose hash begins with so many zero bits.
    halvings: u32,
    /// The most keys that may wait, if not [`WAITING`].
    bound: Option<usize>,
}

/// The record of a key that only one of two logs has.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    offset: i64,
    owner: Owner,
}

/// The keys whose latest record only one of two logs has, at the end of both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unmatched {
    /// The lowest offset at which the leader has the latest record of a key and the follower does not; `None` if there is no such key.
    pub leader: Option<i64>,
    /// How many of the watched keys have their latest record on the follower only: the leader deleted them, by a tombstone that is gone.
    pub follower: u64,
    /// One of how many keys was watched: 1 if all were, else a power of two.
    pub one_of: u64,
}

impl Keys {
    /// Takes in a record that both logs have.
    pub fn both(&mut self, record: &Record) {
        if !self.waiting.is_empty()
            && let Some(hash) = self.hash(record.key.as_ref())
        {
            self.waiting.remove(&hash);
        }
    }

    /// Takes in a record that only one of the logs has.
    pub fn one_only(&mut self, record: &Record, owner: Owner) {
        let Some(hash) = self.hash(record.key.as_ref()) else { return };
        if record.value.is_none() {
            self.waiting.remove(&hash);
            return;
        }
        self.waiting.insert(hash, Waiting { offset: record.offset, owner });
        if self.waiting.len() > self.bound.unwrap_or(WAITING) {
            self.halvings += 1;
            let halvings = self.halvings;
            self.waiting.retain(|hash, _| hash.leading_zeros() >= halvings);
        }
    }

    /// Whether a key waits for a later record: then the leader's log behind the compared offsets says more.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The keys for which no later record came.
    pub fn unmatched(&self) -> Unmatched {
        let of = |owner| self.waiting.values().filter(move |waiting| waiting.owner == owner).map(|waiting| waiting.offset);
        Unmatched { leader: of(Owner::Leader).min(), follower: of(Owner::Follower).count() as u64, one_of: 1 << self.halvings.min(63) }
    }

    /// The hash of a key that is watched; `None` is a record without a key, or a key that is watched no longer.
    fn hash(&self, key: Option<&Bytes>) -> Option<u64> {
        let hash = self.hashes.hash_one(key?);
        (hash.leading_zeros() >= self.halvings).then_some(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, key: &str, value: Option<&'static str>) -> Record {
        let key = Some(Bytes::copy_from_slice(key.as_bytes()));
        Record { offset, timestamp: 0, key, value: value.map(Bytes::from), headers: Vec::new() }
    }

    #[test]
    fn a_record_that_one_log_has_lost_needs_a_later_one_of_its_key() {
        let mut keys = Keys::default();
        keys.one_only(&record(3, "a", Some("1")), Owner::Leader);
        keys.one_only(&record(4, "b", Some("1")), Owner::Leader);
        keys.one_only(&record(5, "c", Some("1")), Owner::Follower);
        keys.one_only(&record(6, "d", Some("1")), Owner::Follower);
        keys.both(&record(7, "a", Some("2")));
        keys.one_only(&record(8, "d", None), Owner::Leader);
        assert_eq!(keys.unmatched(), Unmatched { leader: Some(4), follower: 1, one_of: 1 });
        keys.both(&record(9, "b", None));
        keys.both(&record(10, "c", Some("2")));
        assert!(!keys.is_waiting());
        assert_eq!(keys.unmatched(), Unmatched { leader: None, follower: 0, one_of: 1 });
    }

    #[test]
    fn the_latest_one_counts_whoever_has_it() {
        let mut keys = Keys::default();
        keys.one_only(&record(1, "a", Some("1")), Owner::Leader);
        keys.one_only(&record(2, "a", Some("2")), Owner::Follower);
        assert_eq!(keys.unmatched(), Unmatched { leader: None, follower: 1, one_of: 1 });
    }

    #[test]
    fn memory_is_bounded_and_what_is_no_longer_watched_is_told() {
        let mut keys = Keys { bound: Some(100), ..Keys::default() };
        for n in 0..10_000 {
            keys.one_only(&record(n, &n.to_string(), Some("x")), Owner::Leader);
            assert!(keys.waiting.len() <= 100);
        }
        assert!(keys.unmatched().one_of >= 64);
        for n in 0..10_000 {
            keys.both(&record(n + 10_000, &n.to_string(), Some("x")));
        }
        assert_eq!(keys.unmatched().leader, None);
    }
}
