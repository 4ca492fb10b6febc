//! What follows from what a look at both logs has found, and from what a broker answers to Produce and Fetch: functions of plain values. Nothing here
//! reads a clock or asks anybody.

use std::ops::Range;

use kafka_protocol::ResponseError;
use kferry_config::{OnError, OnLost};

use crate::log::Written;

/// What a look at both logs of a partition has found. All offsets but `follower_log_start` are the leader's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// The offset up to which both logs were known to be equal; 0 if nothing is known.
    pub(super) agreed: i64,
    /// The offset up to which the follower has the leader's records: what its log end stands for.
    pub(super) at: i64,
    pub(super) leader_log_start: i64,
    pub(super) leader_log_end: i64,
    /// The follower's log start offset, by its own offsets.
    pub(super) follower_log_start: i64,
    /// What the mirror's state says that the follower has.
    pub(super) kept: Kept,
    /// What the file says of records that cannot be copied.
    pub(super) on_error: OnError,
    /// What the file says of records that the leader deleted before they were copied.
    pub(super) on_lost: OnLost,
    /// Whether `--accept` names the partition.
    pub(super) from_start: bool,
}

/// What the mirror's state says that the follower has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing, or the state has nothing about the partition.
    Nothing,
    /// Padding, and not one record of the leader's yet.
    Padding,
    /// Records of the leader's.
    Records,
}

/// Whether a follower may be gone on with from its log end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FollowerEnd {
    /// It has what was agreed on, and no more than its leader.
    Fits,
    /// It is longer than its leader: the two have diverged.
    TooLong,
    /// It has lost records that were agreed on, and nobody has said that they may be copied again: the two have diverged.
    Lost,
    /// It has lost records that were agreed on, and they are copied again.
    CopiedAgain,
}

/// Decides whether a follower is neither longer than its leader nor shorter than it was.
pub(super) fn follower_end(found: &Found) -> FollowerEnd {
    if found.at > found.leader_log_end {
        FollowerEnd::TooLong
    } else if found.at >= found.agreed {
        FollowerEnd::Fits
    } else if found.on_error == OnError::Fail && !found.from_start {
        FollowerEnd::Lost
    } else {
        FollowerEnd::CopiedAgain
    }
}

/// The first of the leader's batches, given by their base offsets and producer ids, that the mirror itself wrote there and that came too late: under its id of
/// the term before (`producer_id`), behind where the term `begins`. A frozen broker may append what it was sent long before. It is no record of the
/// leader's, and must not be copied back.
pub(super) fn late_write(mut batches: impl Iterator<Item = (i64, i64)>, producer_id: i64, begins: i64) -> Option<i64> {
    batches.find(|(offset, of)| *of == producer_id && *offset >= begins).map(|(offset, _)| offset)
}

/// How a follower gets to where its leader's log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WayOn {
    /// It is there already.
    Go,
    /// Who wrote what the follower has must be known first.
    AskWhoWrote,
    /// These offsets are filled with empty records, which are deleted again.
    Pad(Range<i64>),
    /// These would have to be filled, and are more than `max_padding` allows.
    TooMuchPadding(Range<i64>),
    /// Offsets are translated: the next segment begins at the leader's log start.
    Jump,
    /// The same; the leader has deleted these offsets before they were copied, and the loss is told.
    JumpLost(Range<i64>),
    /// The leader has deleted these offsets before they were copied, and `on_lost` says that the partition stays where it is.
    LostOnLeader(Range<i64>),
    /// The leader has deleted these offsets before they were copied. They are filled with empty records, and the loss is told.
    PadLost(Range<i64>),
    /// What the follower has was written by others, and lies before the leader's log start.
    Foreign,
}

/// Decides about a partition that preserves offsets. `written` says who wrote what the follower has; `None` is not known yet.
pub(super) fn way_on(found: &Found, max_padding: i64, written: Option<Written>) -> WayOn {
    let missing = found.at..found.leader_log_start;
    if missing.is_empty() {
        return WayOn::Go;
    }
    // Of a follower of which nothing was kept, half of the padding may be there from before a crash; or a copy, if the crash came soon after.
    let is_unknown = found.kept == Kept::Nothing && found.follower_log_start == 0;
    let is_fresh = match written {
        // The leader's log start has moved on while it was padded.
        _ if found.kept == Kept::Padding => true,
        _ if !is_unknown => false,
        _ if found.at == 0 => true,
        None => return WayOn::AskWhoWrote,
        Some(Written::Others) => return WayOn::Foreign,
        Some(written) => written == Written::Filler,
    };
    if !is_fresh && found.on_lost == OnLost::Fail {
        WayOn::LostOnLeader(missing)
    } else if missing.end - missing.start > max_padding {
        WayOn::TooMuchPadding(missing)
    } else if is_fresh {
        WayOn::Pad(missing)
    } else {
        WayOn::PadLost(missing)
    }
}

/// Decides about a partition whose offsets are translated. `has_segments` says whether anything was copied yet.
pub(super) fn way_on_translated(found: &Found, has_segments: bool) -> WayOn {
    let missing = found.at..found.leader_log_start;
    if missing.is_empty() {
        WayOn::Go
    } else if !has_segments {
        WayOn::Jump
    } else if found.on_lost == OnLost::Fail {
        WayOn::LostOnLeader(missing)
    } else {
        WayOn::JumpLost(missing)
    }
}

/// How the copy gets over a hole: offsets of the leader that hold no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverHole {
    /// The follower gets something at each of the offsets, whatever it takes: they are the same there.
    Fill,
    /// The follower gets markers there if the mirror may write markers; else a segment begins behind the hole.
    FillIfAllowed,
    /// A segment begins behind the hole.
    BeginSegment,
}

/// The most offsets in a row that are filled with markers although offsets are translated: a segment takes more room in the mirror's state than so many
/// markers on the follower.
const GAP: i64 = 1_000;

/// Decides what becomes of a hole.
pub(super) fn over_hole(hole: &Range<i64>, translates: bool) -> OverHole {
    match translates {
        false => OverHole::Fill,
        true if hole.end - hole.start <= GAP => OverHole::FillIfAllowed,
        true => OverHole::BeginSegment,
    }
}

/// Offsets before the agreed one that are compared again at each look. An unclean leader election takes the last records of a log, and others come in their
/// place: so it always shows in the last ones, of a compacted log in those of them that are left.
pub(crate) const TAIL: i64 = 100;

/// The offsets of the leader whose records are compared before anything is copied from the end of them on; perhaps none. `first` is the first one that was
/// copied, and `both_have` the one at which the follower's log begins.
pub(super) fn to_compare(found: &Found, first: i64, both_have: i64, copy_from: i64) -> Range<i64> {
    let known = if found.from_start { first } else { (found.agreed.min(copy_from) - TAIL).max(first) };
    found.leader_log_start.max(both_have).max(known)..copy_from
}

/// What follows from what a Produce response has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterProduce {
    /// The batch is where it belongs.
    Landed,
    /// Others wrote to the follower in between, which they may where offsets are translated: the batch begins a segment at this offset of the follower.
    LandedBehind(i64),
    /// The batch is at this offset of the follower, where it does not belong: the two logs have diverged.
    LandedElsewhere(i64),
    /// The broker will never take the batch: `on_error` decides.
    Refused(ResponseError),
    /// The mirror's principal may not write to the topic.
    NoRight,
    /// Both logs have to be looked at again.
    Again(ResponseError),
    /// The response lacks the partition, so that nobody knows what became of the batch: both logs have to be looked at again.
    Unanswered,
}

/// Decides about a batch that belongs at the offset `expected` of the follower. `response` is the error and the base offset that the broker gives.
pub(super) fn after_produce(response: Option<Result<i64, ResponseError>>, expected: i64, translates: bool) -> AfterProduce {
    match response {
        None => AfterProduce::Unanswered,
        Some(Ok(offset)) if offset == expected => AfterProduce::Landed,
        Some(Ok(offset)) if offset > expected && translates => AfterProduce::LandedBehind(offset),
        Some(Ok(offset)) => AfterProduce::LandedElsewhere(offset),
        Some(Err(
            error @ (ResponseError::MessageTooLarge
            | ResponseError::RecordListTooLarge
            | ResponseError::InvalidTimestamp
            | ResponseError::InvalidRecord
            | ResponseError::CorruptMessage
            | ResponseError::UnsupportedForMessageFormat
            | ResponseError::UnsupportedCompressionType
            | ResponseError::PolicyViolation),
        )) => AfterProduce::Refused(error),
        Some(Err(ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed)) => AfterProduce::NoRight,
        Some(Err(error)) => AfterProduce::Again(error),
    }
}

/// What follows from what a Produce response has of a batch of padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterPadding {
    /// The batch is where it belongs.
    Landed,
    /// The batch is at this offset of the follower, where it does not belong: the two logs have diverged.
    LandedElsewhere(i64),
    /// The follower's topic is compacted, which takes no records without a key.
    Compacted,
    /// Both logs have to be looked at again.
    Again(ResponseError),
    /// Somebody has to mend this.
    Failed(ResponseError),
    /// The response lacks the partition: both logs have to be looked at again.
    Unanswered,
}

/// Decides about a batch of padding that belongs at the offset `expected` of the follower, as [`after_produce`] does.
pub(super) fn after_padding(response: Option<Result<i64, ResponseError>>, expected: i64) -> AfterPadding {
    match response {
        None => AfterPadding::Unanswered,
        Some(Ok(offset)) if offset == expected => AfterPadding::Landed,
        Some(Ok(offset)) => AfterPadding::LandedElsewhere(offset),
        Some(Err(ResponseError::InvalidRecord)) => AfterPadding::Compacted,
        Some(Err(error)) if error.is_retriable() => AfterPadding::Again(error),
        Some(Err(error)) => AfterPadding::Failed(error),
    }
}

/// What follows from the error that a Fetch response has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFetchError {
    /// The mirror's principal may not read the topic.
    NoRight,
    /// The broker finds its own log corrupt.
    Corrupt,
    /// Both logs have to be looked at again: the partition has another leader, say, or the offset was deleted.
    Again,
}

/// Decides about a partition whose Fetch failed.
pub(super) fn after_fetch_error(error: ResponseError) -> AfterFetchError {
    match error {
        ResponseError::TopicAuthorizationFailed => AfterFetchError::NoRight,
        ResponseError::CorruptMessage => AfterFetchError::Corrupt,
        _ => AfterFetchError::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_mirror_wrote_in_the_term_before_is_late_behind_the_first_offset_of_this_one() {
        let (before, now, application) = (7 << 60, 5 << 60, 3);
        for (batches, late) in [
            (&[][..], None),
            (&[(0, before), (9, before), (10, application), (15, -1)], None),
            (&[(0, before), (10, before)], Some(10)),
            (&[(10, application), (12, now), (14, before), (16, before)], Some(14)),
        ] {
            assert_eq!(late_write(batches.iter().copied(), before, 10), late, "{batches:?}");
        }
    }

    /// A follower that is in accord with its leader: both begin at 0, 50 offsets are agreed on and 60 copied, and the leader ends at 100.
    const FOUND: Found = Found {
        agreed: 50,
        at: 60,
        leader_log_start: 0,
        leader_log_end: 100,
        follower_log_start: 0,
        kept: Kept::Records,
        on_error: OnError::Fail,
        on_lost: OnLost::Fail,
        from_start: false,
    };
    /// A follower without a record, of which nothing was kept, and a leader that begins at 40.
    const FRESH: Found = Found { agreed: 0, at: 0, leader_log_start: 40, kept: Kept::Nothing, ..FOUND };

    #[test]
    fn a_hole_is_filled_where_offsets_are_the_same_and_else_where_it_is_small() {
        let cases = [
            (5..6, false, OverHole::Fill),
            (5..5_000_000, false, OverHole::Fill),
            (5..1_005, true, OverHole::FillIfAllowed),
            (5..1_006, true, OverHole::BeginSegment),
        ];
        for (hole, translates, expected) in cases {
            assert_eq!(over_hole(&hole, translates), expected, "{hole:?} {translates}");
        }
    }

    #[test]
    fn a_follower_is_neither_longer_than_its_leader_nor_shorter_than_it_was() {
        for (found, expected) in [
            (FOUND, FollowerEnd::Fits),
            (Found { at: 100, ..FOUND }, FollowerEnd::Fits),
            (Found { at: 101, ..FOUND }, FollowerEnd::TooLong),
            (Found { at: 101, from_start: true, on_error: OnError::Skip, ..FOUND }, FollowerEnd::TooLong),
            (Found { at: 50, ..FOUND }, FollowerEnd::Fits),
            (Found { at: 49, ..FOUND }, FollowerEnd::Lost),
            (Found { at: 49, from_start: true, ..FOUND }, FollowerEnd::CopiedAgain),
            (Found { at: 49, on_error: OnError::Skip, ..FOUND }, FollowerEnd::CopiedAgain),
            (Found { at: 49, on_error: OnError::DeadLetter, ..FOUND }, FollowerEnd::CopiedAgain),
            // The leader has lost them too: the follower is longer than its leader.
            (Found { at: 49, leader_log_end: 40, ..FOUND }, FollowerEnd::TooLong),
        ] {
            assert_eq!(follower_end(&found), expected, "{found:?}");
        }
    }

    #[test]
    fn a_fresh_follower_is_padded_and_of_another_one_the_leader_has_lost_records() {
        let filler = Some(Written::Filler);
        for (found, written, expected) in [
            // Nothing is missing.
            (FOUND, None, WayOn::Go),
            (Found { leader_log_start: 60, ..FOUND }, None, WayOn::Go),
            // Nothing was copied yet.
            (FRESH, None, WayOn::Pad(0..40)),
            (Found { leader_log_start: 1_001, ..FRESH }, None, WayOn::TooMuchPadding(0..1_001)),
            (Found { leader_log_start: 1_000, ..FRESH }, None, WayOn::Pad(0..1_000)),
            // Something is there, and nothing was kept of it.
            (Found { at: 30, ..FRESH }, None, WayOn::AskWhoWrote),
            (Found { at: 30, ..FRESH }, filler, WayOn::Pad(30..40)),
            (Found { at: 30, ..FRESH }, Some(Written::Others), WayOn::Foreign),
            (Found { at: 30, on_lost: OnLost::Follow, ..FRESH }, Some(Written::Others), WayOn::Foreign),
            (Found { at: 30, ..FRESH }, Some(Written::Mirror), WayOn::LostOnLeader(30..40)),
            (Found { at: 30, on_lost: OnLost::Follow, ..FRESH }, Some(Written::Mirror), WayOn::PadLost(30..40)),
            // Something was copied, or deleted from the follower, so it is not fresh; nobody has to be asked.
            (Found { leader_log_start: 70, ..FOUND }, None, WayOn::LostOnLeader(60..70)),
            (Found { leader_log_start: 70, on_lost: OnLost::Follow, ..FOUND }, None, WayOn::PadLost(60..70)),
            (Found { leader_log_start: 5_000, on_lost: OnLost::Follow, ..FOUND }, None, WayOn::TooMuchPadding(60..5_000)),
            // Only padded until now, also where that is deleted again.
            (Found { leader_log_start: 70, kept: Kept::Padding, ..FOUND }, None, WayOn::Pad(60..70)),
            (Found { leader_log_start: 70, follower_log_start: 60, kept: Kept::Padding, ..FOUND }, None, WayOn::Pad(60..70)),
            (Found { at: 30, follower_log_start: 10, ..FRESH }, None, WayOn::LostOnLeader(30..40)),
        ] {
            assert_eq!(way_on(&found, 1_000, written), expected, "{found:?} {written:?}");
        }
    }

    #[test]
    fn where_offsets_are_translated_nothing_is_padded() {
        let late = Found { leader_log_start: 70, ..FOUND };
        assert_eq!(way_on_translated(&FOUND, true), WayOn::Go);
        assert_eq!(way_on_translated(&late, false), WayOn::Jump);
        assert_eq!(way_on_translated(&late, true), WayOn::LostOnLeader(60..70));
        assert_eq!(way_on_translated(&Found { on_lost: OnLost::Follow, ..late }, true), WayOn::JumpLost(60..70));
    }

    #[test]
    fn what_is_not_agreed_on_is_compared_and_all_that_both_have_with_accept() {
        let far = Found { agreed: 500, at: 600, ..FOUND };
        assert_eq!(to_compare(&far, 0, 0, 600), 400..600, "and the last ones of what is");
        let accepted = Found { from_start: true, ..far };
        assert_eq!(to_compare(&accepted, 0, 0, 600), 0..600);
        assert_eq!(to_compare(&accepted, 7, 0, 600), 7..600, "what was there before the first copied record does not count");
        assert_eq!(to_compare(&accepted, 0, 9, 600), 9..600, "the follower begins later");
        assert_eq!(to_compare(&Found { leader_log_start: 550, ..far }, 0, 0, 600), 550..600, "the leader begins later");
        assert!(to_compare(&Found { leader_log_start: 700, ..far }, 0, 0, 700).is_empty(), "it was padded up to there");
    }

    #[test]
    fn what_was_agreed_on_last_is_compared_again() {
        let found = Found { agreed: 250, ..FOUND };
        assert_eq!(to_compare(&found, 0, 0, 250), 150..250);
        assert_eq!(to_compare(&found, 0, 0, 300), 150..300, "and all that is not agreed on");
        assert_eq!(to_compare(&found, 0, 0, 220), 120..220, "the follower lost some of it");
        assert_eq!(to_compare(&found, 200, 0, 250), 200..250, "what was there before the first copied record does not count");
        assert_eq!(to_compare(&found, 0, 180, 250), 180..250, "the follower begins later");
    }

    #[test]
    fn a_batch_lands_where_it_belongs_or_its_partition_goes_back() {
        use AfterProduce as After;
        for (response, translates, expected) in [
            (Some(Ok(7)), false, After::Landed),
            (Some(Ok(7)), true, After::Landed),
            (Some(Ok(8)), false, After::LandedElsewhere(8)),
            (Some(Ok(8)), true, After::LandedBehind(8)),
            (Some(Ok(6)), true, After::LandedElsewhere(6)),
            // A broker that has the batch already gives no offset.
            (Some(Ok(-1)), true, After::LandedElsewhere(-1)),
            (Some(Err(ResponseError::MessageTooLarge)), false, After::Refused(ResponseError::MessageTooLarge)),
            (Some(Err(ResponseError::PolicyViolation)), true, After::Refused(ResponseError::PolicyViolation)),
            (Some(Err(ResponseError::TopicAuthorizationFailed)), false, After::NoRight),
            (Some(Err(ResponseError::ClusterAuthorizationFailed)), false, After::NoRight),
            (Some(Err(ResponseError::NotLeaderOrFollower)), false, After::Again(ResponseError::NotLeaderOrFollower)),
            (Some(Err(ResponseError::OutOfOrderSequenceNumber)), false, After::Again(ResponseError::OutOfOrderSequenceNumber)),
            (None, true, After::Unanswered),
        ] {
            assert_eq!(after_produce(response, 7, translates), expected, "{response:?} {translates}");
        }
    }

    #[test]
    fn padding_lands_where_it_belongs_and_a_compacted_topic_takes_none() {
        for (response, expected) in [
            (Some(Ok(7)), AfterPadding::Landed),
            (Some(Ok(8)), AfterPadding::LandedElsewhere(8)),
            (Some(Err(ResponseError::InvalidRecord)), AfterPadding::Compacted),
            (Some(Err(ResponseError::NotEnoughReplicas)), AfterPadding::Again(ResponseError::NotEnoughReplicas)),
            (Some(Err(ResponseError::TopicAuthorizationFailed)), AfterPadding::Failed(ResponseError::TopicAuthorizationFailed)),
            (None, AfterPadding::Unanswered),
        ] {
            assert_eq!(after_padding(response, 7), expected, "{response:?}");
        }
    }

    #[test]
    fn a_fetch_that_fails_waits_for_somebody_only_where_nothing_else_helps() {
        assert_eq!(after_fetch_error(ResponseError::TopicAuthorizationFailed), AfterFetchError::NoRight);
        assert_eq!(after_fetch_error(ResponseError::CorruptMessage), AfterFetchError::Corrupt);
        for passing in [ResponseError::NotLeaderOrFollower, ResponseError::OffsetOutOfRange, ResponseError::UnknownTopicOrPartition] {
            assert_eq!(after_fetch_error(passing), AfterFetchError::Again);
        }
    }
}
