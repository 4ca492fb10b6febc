//! Which offset on the target an offset on the source is.
//!
//! A mirror that preserves offsets has nothing to say here: they are the same. One that translates keeps a list of *segments*, each `source
//! offset S is target offset T, and so on from there`. A new one begins where the two move apart: at the first record, where somebody else
//! wrote to the target in between, and where the source has a gap that is not worth filling.
//!
//! An offset between two segments is that of the next record: a consumer at the one reads on exactly where it would at the other.

use std::sync::Arc;

/// The mirror copies from its source to its target, or after a move the other way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// The source leads.
    #[default]
    Forwards,
    /// The target leads.
    Backwards,
}

/// From here on offsets of the target are those of the source and a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    /// The first offset on the source.
    pub source: i64,
    /// The first offset on the target.
    pub target: i64,
}

/// The offsets of a partition on both clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OffsetMap {
    /// They are the same: `preserve`.
    #[default]
    Same,
    /// In order, growing on both sides: `translate`.
    Segments(Arc<Vec<Segment>>),
}

impl Segment {
    /// From these offsets of the leader and the follower on.
    pub fn of(direction: Direction, leader: i64, follower: i64) -> Self {
        match direction {
            Direction::Forwards => Self { source: leader, target: follower },
            Direction::Backwards => Self { source: follower, target: leader },
        }
    }

    /// Its offsets on the leader and on the follower.
    fn ends(self, direction: Direction) -> (i64, i64) {
        match direction {
            Direction::Forwards => (self.source, self.target),
            Direction::Backwards => (self.target, self.source),
        }
    }
}

impl OffsetMap {
    /// From its segments, in order.
    pub fn of(segments: Vec<Segment>) -> Self {
        Self::Segments(Arc::new(segments))
    }

    /// All segments; none where offsets are the same.
    pub fn segments(&self) -> &[Segment] {
        match self {
            Self::Same => &[],
            Self::Segments(segments) => segments,
        }
    }

    /// Whether offsets are translated.
    pub fn translates(&self) -> bool {
        matches!(self, Self::Segments(_))
    }

    /// The segment that goes on now.
    pub fn last(&self) -> Option<Segment> {
        self.segments().last().copied()
    }

    /// Where on the target a consumer goes on that is at this offset of the source. `None` lies before the first record that was copied.
    /// An offset that is not copied yet is where it will be if nobody else writes to the target: how far the copy is, somebody else knows.
    pub fn target(&self, source: i64) -> Option<i64> {
        self.follower(Direction::Forwards, source)
    }

    /// Where on the source a consumer goes on that is at this offset of the target. `None` lies before the first record that was copied.
    pub fn source(&self, target: i64) -> Option<i64> {
        self.follower(Direction::Backwards, target)
    }

    /// Where on the follower a consumer goes on that is at this offset of the leader.
    pub fn follower(&self, direction: Direction, leader: i64) -> Option<i64> {
        let Self::Segments(segments) = self else { return Some(leader) };
        let next = segments.partition_point(|segment| segment.ends(direction).0 <= leader);
        let (first, at) = segments.get(next.checked_sub(1)?)?.ends(direction);
        let end = segments.get(next).map_or(i64::MAX, |next| next.ends(direction).1);
        Some((at + (leader - first)).min(end))
    }

    /// Where on the leader a consumer goes on that is at this offset of the follower.
    pub fn leader(&self, direction: Direction, follower: i64) -> Option<i64> {
        match direction {
            Direction::Forwards => self.source(follower),
            Direction::Backwards => self.target(follower),
        }
    }

    /// The offset on the leader of the record that is at this offset of the follower. `None` is a record that the mirror did not write there.
    pub fn record(&self, direction: Direction, follower: i64) -> Option<i64> {
        let Self::Segments(segments) = self else { return Some(follower) };
        let next = segments.partition_point(|segment| segment.ends(direction).1 <= follower);
        let (first, at) = segments.get(next.checked_sub(1)?)?.ends(direction);
        let leader = first + (follower - at);
        let copied = segments.get(next).is_none_or(|next| leader < next.ends(direction).0);
        copied.then_some(leader)
    }

    /// The next record does not go on where the last one ended: the leader has a gap before it, or somebody else wrote to the follower in
    /// between. That begins a segment, even if the difference happens to stay the same: what is between is not the mirror's. Where both
    /// happened there are two, and a segment of which nothing came is replaced.
    pub fn begin(&mut self, direction: Direction, leader: i64, follower: i64) {
        let ends = |segment: Option<&Segment>| segment.map(|segment| segment.ends(direction));
        let segments = self.segments();
        if let Some((first, at)) = ends(segments.last()) {
            // Where the records of the segment before ended on the leader: its last one is next to this one on the follower.
            let before = ends(segments.iter().rev().nth(1)).map(|(leader, follower)| leader + (at - follower));
            let is_gap = before.is_none_or(|before| before < first);
            if first == leader || at == follower && is_gap {
                self.change(|segments| segments.truncate(segments.len() - 1));
            }
            if let Some(before) = before.filter(|_| first == leader && is_gap) {
                self.begin(direction, before, follower);
            }
        }
        self.change(|segments| segments.push(Segment::of(direction, leader, follower)));
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Segment>)) {
        if let Self::Segments(segments) = self {
            change(Arc::make_mut(segments));
        }
    }

    /// Cuts off the segments that begin behind an offset of the leader, and gives them: its offsets on the leader and on the follower.
    pub fn cut_off(&mut self, direction: Direction, leader: i64) -> Vec<(i64, i64)> {
        let Self::Segments(segments) = self else { return Vec::new() };
        let kept = segments.partition_point(|segment| segment.ends(direction).0 <= leader);
        Arc::make_mut(segments).drain(kept..).map(|segment| segment.ends(direction)).collect()
    }

    /// The first offset of the leader that was copied.
    pub fn first(&self, direction: Direction) -> Option<i64> {
        self.segments().first().map(|segment| segment.ends(direction).0)
    }

    /// Forgets what lies wholly before the log starts of both sides: nobody can be there any more.
    pub fn forget_before(&mut self, source_start: i64, target_start: i64) {
        let Self::Segments(segments) = self else { return };
        let gone = segments.iter().skip(1).take_while(|next| next.source <= source_start && next.target <= target_start).count();
        if gone > 0 {
            Arc::make_mut(segments).drain(..gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_offsets_are_the_same() {
        let mut map = OffsetMap::Same;
        assert_eq!((map.target(7), map.source(7), map.record(Direction::Forwards, 7)), (Some(7), Some(7), Some(7)));
        map.begin(Direction::Forwards, 7, 9);
        assert_eq!(map, OffsetMap::Same);
    }

    #[test]
    fn a_segment_of_which_nothing_came_is_replaced() {
        let mut map = OffsetMap::of(Vec::new());
        assert_eq!((map.target(5), map.source(5)), (None, None));
        map.begin(Direction::Forwards, 5, 100);
        map.begin(Direction::Forwards, 5, 101);
        assert_eq!(map.segments(), [Segment { source: 5, target: 101 }]);
        map.begin(Direction::Forwards, 9, 101);
        assert_eq!(map.segments(), [Segment { source: 9, target: 101 }]);
        assert_eq!((map.target(8), map.target(9), map.source(100)), (None, Some(101), None));
    }

    /// What happens on the two logs, one after the other.
    #[derive(Debug, Clone)]
    enum Event {
        /// So many records are copied.
        Copied(i64),
        /// Somebody else writes to the follower.
        Foreign(i64),
        /// The leader has no records there, and nothing is written instead.
        Gap(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![(1..5_i64).prop_map(Event::Copied), (1..4_i64).prop_map(Event::Foreign), (1..4_i64).prop_map(Event::Gap)]
    }

    proptest! {
        /// Beside a list of every single record.
        #[test]
        fn every_offset_is_where_its_record_is(
            events in proptest::collection::vec(event(), 0..40), start in 0..10_i64, there in 0..10_i64,
            direction in prop_oneof![Just(Direction::Forwards), Just(Direction::Backwards)],
        ) {
            let (mut leader, mut follower) = (start, there);
            let mut map = OffsetMap::of(Vec::new());
            let mut records = Vec::new();
            map.begin(direction, leader, follower);
            for event in events {
                match event {
                    Event::Foreign(count) => {
                        follower += count;
                        map.begin(direction, leader, follower);
                    }
                    Event::Gap(count) => {
                        leader += count;
                        map.begin(direction, leader, follower);
                    }
                    Event::Copied(count) => {
                        for _ in 0..count {
                            records.push((leader, follower));
                            leader += 1;
                            follower += 1;
                        }
                    }
                }
            }
            let Some((last, _)) = records.last().copied() else { return Ok(()) };
            for offset in start..=last {
                let next = records.iter().find(|(leader, _)| *leader >= offset).map(|(_, follower)| *follower);
                let there = map.follower(direction, offset);
                if offset >= records[0].0 {
                    prop_assert_eq!(there, next, "{} in {:?}", offset, map);
                }
            }
            for offset in there..=records[records.len() - 1].1 {
                let record = records.iter().find(|(_, follower)| *follower == offset).map(|(leader, _)| *leader);
                prop_assert_eq!(map.record(direction, offset), record, "{} in {:?}", offset, map);
                // Offsets in a gap of the leader's are as good as that of the record behind it.
                let next = |leader| records.iter().position(|record| record.0 >= leader);
                let expected = records.iter().position(|(_, follower)| *follower >= offset);
                if offset >= records[0].1 {
                    prop_assert_eq!(map.leader(direction, offset).map(next), Some(expected), "{} back in {:?}", offset, map);
                }
            }
            let mut short = map.clone();
            let (source, target) = if direction == Direction::Forwards { (last, follower) } else { (follower, last) };
            short.forget_before(source, target);
            prop_assert_eq!(short.follower(direction, last), map.follower(direction, last));
        }
    }
}
