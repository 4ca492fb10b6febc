//! Which offset on the target an offset on the source is.
//!
//! A mirror that preserves offsets has nothing to say here: they are the same. One that translates keeps a list of *segments*, each `source
//! offset S is target offset T, and so on from there`. A new one begins where the two move apart: at the first record, where somebody else
//! wrote to the target in between, and where the source has a gap that is not worth filling.
//!
//! An offset between two segments is that of the next record: a consumer at the one reads on exactly where it would at the other.

use std::sync::Arc;

use kferry_config::Mirror;

/// From which cluster of a mirror to which one something is copied: it is the other way round after a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the mirror's source, which leads, to its target.
    #[default]
    Forwards,
    /// From the mirror's target, which leads, to its source.
    Backwards,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Forwards, Self::Backwards];

    /// The direction in which a mirror copies what this cluster leads, by its name in the file; `None` is none of the mirror's clusters.
    pub fn led_by(mirror: &Mirror, cluster: &str) -> Option<Self> {
        if *mirror.source.name == *cluster {
            Some(Self::Forwards)
        } else if *mirror.target.name == *cluster {
            Some(Self::Backwards)
        } else {
            None
        }
    }

    /// What the mirror's source and its target have, as what the leader and the follower have.
    pub fn leader_first<T>(self, source: T, target: T) -> (T, T) {
        match self {
            Self::Forwards => (source, target),
            Self::Backwards => (target, source),
        }
    }

    /// What the leader and the follower have, as what the mirror's source and its target have.
    pub fn source_first<T>(self, leader: T, follower: T) -> (T, T) {
        // Who is swapped twice is back.
        self.leader_first(leader, follower)
    }
}

/// A run of offsets of which each on the target is that on the source plus one and the same difference. It goes on until the next segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    /// The segment's first offset on the source.
    pub source: i64,
    /// The segment's first offset on the target.
    pub target: i64,
}

/// Which offset of a partition on one cluster is which one on the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OffsetMap {
    /// Each offset is the same on both: `offsets = "preserve"`.
    #[default]
    Same,
    /// `offsets = "translate"`: the segments, growing in both offsets; none before the first record was copied.
    Segments(Arc<Vec<Segment>>),
}

impl Segment {
    /// The segment that begins at these offsets of the leader and the follower.
    pub fn of(direction: Direction, leader: i64, follower: i64) -> Self {
        let (source, target) = direction.source_first(leader, follower);
        Self { source, target }
    }

    /// The segment's first offsets on the leader and on the follower.
    pub(crate) fn begins(self, direction: Direction) -> (i64, i64) {
        direction.leader_first(self.source, self.target)
    }
}

impl OffsetMap {
    /// The map of these segments, which are in order.
    pub fn of(segments: Vec<Segment>) -> Self {
        Self::Segments(Arc::new(segments))
    }

    /// The segments in order; none where offsets are the same.
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

    /// The segment in which the copy goes on: the last one.
    pub fn last(&self) -> Option<Segment> {
        self.segments().last().copied()
    }

    /// Where on the target a consumer goes on that is at this offset of the source. `None` lies before the first record that was copied.
    /// An offset that is not copied yet is where it will be if nobody else writes to the target: how far the copy is, [`super::Progress`] says.
    pub fn target(&self, source: i64) -> Option<i64> {
        self.follower(Direction::Forwards, source)
    }

    /// Where on the source a consumer goes on that is at this offset of the target. `None` lies before the first record that was copied.
    pub fn source(&self, target: i64) -> Option<i64> {
        self.follower(Direction::Backwards, target)
    }

    /// Where on the follower a consumer goes on that is at this offset of the leader. `None` lies before the first record that was copied.
    pub fn follower(&self, direction: Direction, leader: i64) -> Option<i64> {
        let Self::Segments(segments) = self else { return Some(leader) };
        let next = segments.partition_point(|segment| segment.begins(direction).0 <= leader);
        let (first, at) = segments.get(next.checked_sub(1)?)?.begins(direction);
        let end = segments.get(next).map_or(i64::MAX, |next| next.begins(direction).1);
        Some((at + (leader - first)).min(end))
    }

    /// Where on the leader a consumer goes on that is at this offset of the follower. `None` lies before the first record that was copied.
    pub fn leader(&self, direction: Direction, follower: i64) -> Option<i64> {
        match direction {
            Direction::Forwards => self.source(follower),
            Direction::Backwards => self.target(follower),
        }
    }

    /// The offset on the leader of the record that is at this offset of the follower. `None` is a record that the mirror did not write there.
    pub fn record(&self, direction: Direction, follower: i64) -> Option<i64> {
        let Self::Segments(segments) = self else { return Some(follower) };
        let next = segments.partition_point(|segment| segment.begins(direction).1 <= follower);
        let (first, at) = segments.get(next.checked_sub(1)?)?.begins(direction);
        let leader = first + (follower - at);
        let copied = segments.get(next).is_none_or(|next| leader < next.begins(direction).0);
        copied.then_some(leader)
    }

    /// Begins a segment at these offsets: the next record does not go on where the last one ended, because the leader has a gap before it, or
    /// somebody else wrote to the follower in between. That begins a segment, even if the difference happens to stay the same: what is between is not
    /// the mirror's. Where both happened there are two, and a segment of which nothing came is replaced.
    pub fn begin(&mut self, direction: Direction, leader: i64, follower: i64) {
        let begins = |segment: Option<&Segment>| segment.map(|segment| segment.begins(direction));
        let segments = self.segments();
        if let Some((first, at)) = begins(segments.last()) {
            // Where the records of the segment before ended on the leader: its last one is next to this one on the follower.
            let before = begins(segments.iter().rev().nth(1)).map(|(leader, follower)| leader + (at - follower));
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

    /// Cuts off the segments that begin behind an offset of the leader, and gives them.
    pub fn cut_off(&mut self, direction: Direction, leader: i64) -> Vec<Segment> {
        let Self::Segments(segments) = self else { return Vec::new() };
        let kept = segments.partition_point(|segment| segment.begins(direction).0 <= leader);
        Arc::make_mut(segments).drain(kept..).collect()
    }

    /// The first offset of the leader that was copied; `None` if none was, or offsets are the same.
    pub fn first(&self, direction: Direction) -> Option<i64> {
        self.segments().first().map(|segment| segment.begins(direction).0)
    }

    /// Forgets the segments that lie wholly before the log starts of both sides: no consumer can be there any more.
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
