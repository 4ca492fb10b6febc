//! Where offsets are translated: which offset of the leader the follower's log end stands for. From the last offset that is known to agree the mirror's
//! own batches and markers are followed to the log end, because they are the leader's records in their order. Nothing here reads a log.

use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

use crate::partition::{Direction, OffsetMap, Segment};

/// Follows the batches of a follower's log, which it is told one after the other.
pub(super) struct Retrace {
    direction: Direction,
    /// The map as it was before, with which a log whose beginning is deleted is found again.
    before: OffsetMap,
    /// The map of what was followed until now.
    map: OffsetMap,
    /// Segments that were kept, and of which it is not known whether anything was written: in order.
    announced: Peekable<IntoIter<Segment>>,
    /// The offset of the leader that the next batch of the mirror begins with, if it goes on as the one before.
    at: i64,
    /// The offset of the follower at which that batch would be.
    next: i64,
    /// Whether `at` is known: not while everything before the log start is deleted.
    is_known: bool,
    /// The first offset of the follower at which somebody else's records are.
    others: Option<i64>,
}

/// How to find out what the log end stands for.
pub(super) enum Begin {
    /// It is known without reading, and the map with it.
    Known(OffsetMap, Reached),
    /// The batches in these offsets of the follower are to be [told](Retrace::batch) in their order.
    Read(Box<Retrace>, Range<i64>),
}

/// A batch of the follower's log, by its offsets there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) offsets: Range<i64>,
    /// Whether the mirror has written it: it has the mirror's producer id, or is a marker such as the mirror fills holes with.
    pub(super) is_ours: bool,
}

/// What following the log to its end has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retraced {
    /// The map, with a segment for each run of the mirror's batches.
    pub(super) map: OffsetMap,
    pub(super) reached: Reached,
    /// The first offset of the follower at which somebody else's records are.
    pub(super) others: Option<i64>,
}

/// How far the copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// The offset of the leader up to which the follower has the leader's records before it.
    pub(super) at: i64,
    /// Whether the next record begins a segment of the offset map.
    pub(super) begins_segment: bool,
}

impl Retrace {
    /// `agreed` is the offset of the leader up to which both logs were known to be equal, and `log` are the follower's log start and end offset.
    pub(super) fn begin(before: OffsetMap, direction: Direction, agreed: i64, log: Range<i64>) -> Begin {
        let goes_on = |at| Reached { at, begins_segment: false };
        if !before.translates() {
            return Begin::Known(before, goes_on(log.end));
        }
        let mut map = before.clone();
        let announced = map.cut_off(direction, agreed);
        // Without a segment the mirror has written nothing here.
        let Some(from) = map.follower(direction, agreed) else { return Begin::Known(before, goes_on(agreed)) };
        if log.end < from {
            let at = map.leader(direction, log.end).unwrap_or(0);
            map.cut_off(direction, at);
            return Begin::Known(map, goes_on(at));
        }
        let is_known = from >= log.start;
        let retrace =
            Self { direction, before, map, announced: announced.into_iter().peekable(), at: agreed, next: from, is_known, others: None };
        Begin::Read(Box::new(retrace), from.max(log.start)..log.end)
    }

    /// The next batch of the follower's log.
    pub(super) fn batch(&mut self, found: &Found) {
        let Range { start, end } = found.offsets;
        if !found.is_ours {
            self.others.get_or_insert(start);
            return;
        }
        if !self.is_known {
            // What comes before is deleted. Whether it was as the map has it, the comparison of the records says.
            (self.at, self.next) = (self.before.leader(self.direction, start).unwrap_or(self.at), start);
            self.is_known = true;
        }
        self.goes_on_at(start);
        (self.at, self.next) = (self.at + (end - start), end);
    }

    /// Nothing comes any more before the follower's log end.
    pub(super) fn end(mut self, log_end: i64) -> Retraced {
        let begins_segment = self.goes_on_at(log_end);
        Retraced { map: self.map, reached: Reached { at: self.at, begins_segment }, others: self.others }
    }

    /// The mirror's records go on at this offset of the follower. Whether a segment begins there: behind a gap of the leader's, which was announced before
    /// anything was written behind it, or behind somebody else's records.
    fn goes_on_at(&mut self, there: i64) -> bool {
        let mut gap = None;
        while let Some(segment) = self.announced.next_if(|segment| segment.begins(self.direction).1 <= there) {
            gap = Some(segment.begins(self.direction).0);
        }
        let gap = gap.filter(|leader| *leader > self.at);
        if let Some(leader) = gap {
            self.at = leader;
            self.map.begin(self.direction, leader, self.next);
        }
        if there != self.next {
            self.map.begin(self.direction, self.at, there);
        }
        gap.is_some() || there != self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(of: &[[i64; 2]]) -> OffsetMap {
        OffsetMap::of(of.iter().map(|[source, target]| Segment { source: *source, target: *target }).collect())
    }

    /// Follows these batches, the mirror's and somebody else's, behind what was agreed on.
    fn follow(before: OffsetMap, agreed: i64, log: Range<i64>, batches: &[(Range<i64>, bool)]) -> Retraced {
        let log_end = log.end;
        match Retrace::begin(before, Direction::Forwards, agreed, log) {
            Begin::Known(map, reached) => Retraced { map, reached, others: None },
            Begin::Read(mut retrace, range) => {
                for (offsets, is_ours) in batches.iter().filter(|(offsets, _)| range.contains(&offsets.start)) {
                    retrace.batch(&Found { offsets: offsets.clone(), is_ours: *is_ours });
                }
                retrace.end(log_end)
            }
        }
    }

    const OURS: bool = true;
    const OTHERS: bool = false;

    #[test]
    fn where_offsets_are_the_same_the_log_end_is_how_far_the_copy_is() {
        let found = follow(OffsetMap::Same, 3, 0..9, &[]);
        assert_eq!(found, Retraced { map: OffsetMap::Same, reached: Reached { at: 9, begins_segment: false }, others: None });
    }

    #[test]
    fn what_the_log_has_says_how_far_the_copy_is() {
        let one = || segments(&[[5, 100]]);
        // (agreed, log, batches), and (segments, at, begins_segment, others)
        let cases = [
            ("nothing was written since", 15, 0..110, vec![], (one(), 15, false, None)),
            ("ours was written and not kept", 15, 0..120, vec![(110..120, OURS)], (one(), 25, false, None)),
            ("others wrote behind ours", 15, 0..113, vec![(110..113, OTHERS)], (segments(&[[5, 100], [15, 113]]), 15, true, Some(110))),
            (
                "others wrote between",
                15,
                0..123,
                vec![(110..112, OURS), (112..115, OTHERS), (115..123, OURS)],
                (segments(&[[5, 100], [17, 115]]), 25, false, Some(112)),
            ),
            ("the follower lost its end", 15, 0..104, vec![], (one(), 9, false, None)),
            ("the beginning is deleted", 15, 112..120, vec![(112..120, OURS)], (one(), 25, false, None)),
        ];
        for (case, agreed, log, batches, (map, at, begins_segment, others)) in cases {
            let found = follow(one(), agreed, log, &batches);
            assert_eq!(found, Retraced { map, reached: Reached { at, begins_segment }, others }, "{case}");
        }
    }

    #[test]
    fn before_the_first_segment_nothing_was_written() {
        let empty = segments(&[]);
        assert_eq!(follow(empty.clone(), 0, 0..50, &[(0..50, OTHERS)]).reached, Reached { at: 0, begins_segment: false });
    }

    #[test]
    fn an_announced_segment_counts_once_something_is_written_behind_it() {
        // The leader has a gap between 20 and 1,500: the segment behind it was kept before anything of it was written.
        let before = segments(&[[5, 100], [1_500, 115]]);
        let nothing = follow(before.clone(), 15, 0..112, &[(110..112, OURS)]);
        assert_eq!((nothing.map, nothing.reached), (segments(&[[5, 100]]), Reached { at: 17, begins_segment: false }));
        let at_its_end = follow(before.clone(), 15, 0..115, &[(110..115, OURS)]);
        assert_eq!((at_its_end.map, at_its_end.reached), (before.clone(), Reached { at: 1_500, begins_segment: true }));
        let behind = follow(before.clone(), 15, 0..118, &[(110..115, OURS), (115..118, OURS)]);
        assert_eq!((behind.map, behind.reached), (before, Reached { at: 1_503, begins_segment: false }));
    }
}
