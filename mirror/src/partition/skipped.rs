//! Offsets whose records `on_error` left out.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The offsets of the leader whose records the follower lacks because `on_error` left them out: ranges, in the order in which that was decided.
///
/// In JSON, and so in the mirror's state, each range is an array of its first offset and of the first one behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(i64, i64)>", into = "Vec<(i64, i64)>")]
pub struct Skipped(Vec<Range<i64>>);

impl Skipped {
    /// The ranges of offsets.
    pub fn ranges(&self) -> &[Range<i64>] {
        &self.0
    }

    /// How many of these offsets of the leader were left out: single records, and all that a batch spans that nobody can read.
    pub fn within(&self, offsets: &Range<i64>) -> u64 {
        let both = self.0.iter().map(|range| range.end.min(offsets.end) - range.start.max(offsets.start));
        both.map(|count| count.max(0) as u64).sum()
    }

    /// Whether no record was left out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the record at this offset of the leader was left out.
    pub fn contains(&self, offset: i64) -> bool {
        self.0.iter().any(|range| range.contains(&offset))
    }

    /// Adds offsets that are left out from now on. Those that go on where the last ones ended become one range with them.
    pub fn add(&mut self, offsets: Range<i64>) {
        match self.0.last_mut() {
            Some(last) if (last.start..=last.end).contains(&offsets.start) => last.end = last.end.max(offsets.end),
            _ => self.0.push(offsets),
        }
    }

    /// Forgets the ranges that end before the leader's log start, or there.
    pub fn forget_before(&mut self, leader_log_start: i64) {
        self.0.retain(|range| range.end > leader_log_start);
    }
}

impl From<Vec<(i64, i64)>> for Skipped {
    fn from(ranges: Vec<(i64, i64)>) -> Self {
        Self(ranges.into_iter().map(|(start, end)| start..end).collect())
    }
}

impl From<Skipped> for Vec<(i64, i64)> {
    fn from(Skipped(ranges): Skipped) -> Self {
        ranges.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_json_a_range_is_an_array_of_its_first_offset_and_the_first_one_behind_it() {
        let mut skipped = Skipped::default();
        skipped.add(3..4);
        skipped.add(7..19);
        let json = serde_json::to_string(&skipped).unwrap();
        assert_eq!(json, "[[3,4],[7,19]]");
        assert_eq!(serde_json::from_str::<Skipped>(&json).unwrap(), skipped);
    }

    #[test]
    fn neighbours_become_one_range_and_what_the_leader_has_deleted_is_forgotten() {
        let mut skipped = Skipped::default();
        for offsets in [3..4, 4..5, 8..12, 10..11] {
            skipped.add(offsets);
        }
        assert_eq!(skipped.ranges(), [3..5, 8..12]);
        assert_eq!([skipped.within(&(0..100)), skipped.within(&(4..9)), skipped.within(&(5..8)), skipped.within(&(9..9))], [6, 2, 0, 0]);
        assert!(skipped.contains(4) && skipped.contains(11) && !skipped.contains(5) && !skipped.contains(12));
        skipped.forget_before(5);
        assert_eq!(skipped, Skipped::from(vec![(8, 12)]));
        skipped.forget_before(11);
        assert!(!skipped.is_empty());
        skipped.forget_before(12);
        assert!(skipped.is_empty());
    }
}
