//! The first batch of a producer on a partition whose topic has changed its leader: whether it is the one that is due.
//!
//! A broker takes any first sequence of a producer id that it does not know. At the leader of a new term that is every id: the batches' ids are
//! [stamped](crate::batch::stamp) with the term. So if a later batch came before an earlier one, the earlier would be refused, or taken for one that is there:
//! acknowledged records would be missing, without an error. And a batch whose acknowledgement was lost just before the flip would be appended a second time.
//! What the old leader knows of the producer says which batch is due and which is there: at the flip both logs were equal.
//!
//! Here is who may say what, for [`WATCHED`] after a flip. The first line that fits counts.
//!
//! | the batch | what becomes of it |
//! |---|---|
//! | the new leader knows its id in this term | passes: the broker decides |
//! | the old leader cannot be asked | waits, then NOT_LEADER_OR_FOLLOWER (6) |
//! | a leader knows its id in an earlier term: in the highest of them … | |
//! | … it begins at the last sequence + 1, in the same epoch | passes |
//! | … it is not later, in the same epoch | is there: 0, with base offset -1 |
//! | … its epoch is lower | INVALID_PRODUCER_EPOCH (47) |
//! | … its epoch is higher, and it begins at 0 | passes |
//! | … it is later | waits for those before it, then 6 |
//! | nobody knows its id, and it begins at 0 | passes |
//! | any other | waits [`OTHERS_WAIT`] for those before it, and passes |
//!
//! An id that was idle in the term before is known to the cluster that led when it last wrote: that can be the one that leads now. It is as strict, because a
//! second is not long enough: the simulator of moves found batches that were overtaken by more, and lost. Only if the cluster that led when it last wrote has
//! forgotten it, and the other one has not, is it taken for one that has batches before it, until [`WATCHED`] is over.
//!
//! Sequences have 31 bits: 0 follows 2^31 - 1. What is up to 2^30 - 1 ahead is later.
//!
//! # References
//! - `org.apache.kafka.storage.internals.log.ProducerAppendInfo.checkSequence`: any first sequence of an unknown id is taken
//! - KIP-98 (sequences), KIP-360 (a new epoch begins at sequence 0), KIP-664 (DescribeProducers)

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::admin::partitions::ActiveProducer;
use crate::batch::Sequences;
use crate::batch::stamp::unstamped;

/// For so long after a flip first batches are looked at. Both clusters must remember producers for longer than that (`producer.id.expiration.ms`).
pub const WATCHED: Duration = Duration::from_hours(1);

/// For so long a batch waits of which nothing says whether it is due.
pub const OTHERS_WAIT: Duration = Duration::from_secs(1);

/// After so long a leader is asked again for a batch that waits for those before it, or for a leader's answer.
pub const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What the leader of a partition remembers of producers, each in each term. Mirrors are none of them, and neither are ids of which only markers are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers(BTreeMap<(i64, i32), Last>);

/// The last batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    term: i32,
    epoch: i32,
    sequence: i32,
}

impl<'a> FromIterator<&'a ActiveProducer> for Producers {
    fn from_iter<I: IntoIterator<Item = &'a ActiveProducer>>(producers: I) -> Self {
        let last = |producer: &ActiveProducer| {
            let (id, term) = unstamped(producer.producer_id)?;
            let last = Last { term, epoch: producer.producer_epoch, sequence: producer.last_sequence };
            (last.sequence >= 0).then_some(((id, term), last))
        };
        Self(producers.into_iter().filter_map(last).collect())
    }
}

impl Producers {
    /// The leader has answered a batch with 0, in this term: so it knows the producer, and need not be asked for that.
    pub fn appended(&mut self, batch: &Sequences, term: i32) {
        if let Some((id, _)) = unstamped(batch.first.producer_id) {
            self.0.insert((id, term), Last { term, epoch: batch.first.producer_epoch.into(), sequence: batch.last });
        }
    }

    /// Whether it knows the producer, by the id that the producer has, in this term.
    pub fn know(&self, id: i64, term: i32) -> bool {
        self.0.contains_key(&(id, term))
    }

    /// The producer's last batch before `term`: that of the highest term.
    fn last_before(&self, id: i64, term: i32) -> Option<&Last> {
        self.0.range((id, i32::MIN)..(id, term)).next_back().map(|(_, last)| last)
    }
}

/// A partition whose topic has changed its leader.
#[derive(Debug, Clone, Copy)]
pub struct Flipped<'a> {
    /// The topic's term: the first is 1, and it was no flip.
    pub term: i32,
    /// How long ago it began.
    pub since: Duration,
    /// What the partition's leader knows on the cluster that leads now. It may be late: whoever waits has it asked again. `None`: it has not answered.
    pub new_leader: Option<&'a Producers>,
    /// What the partition's leader knows on the cluster that led in the term before. Once is enough, at any time after the flip: a follower learns of no producer.
    /// `None`: it has not answered.
    pub old_leader: Option<&'a Producers>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent to the new leader, whose answer counts. Those behind it wait for that answer: to a leader that does not append it they would be the first.
    Pass,
    /// It is there: the old leader has appended it, and its answer was lost. It is answered 0, with base offset -1.
    IsThere,
    /// It is answered INVALID_PRODUCER_EPOCH (47): the producer has gone on in a higher epoch.
    InvalidProducerEpoch,
    /// It is looked at again when it has waited so long in all, with what the leaders say then; or as soon as a batch of the same producer was answered.
    Wait {
        /// For what.
        what: Missing,
        /// How long in all.
        until: Duration,
    },
    /// It has waited too long. It is answered NOT_LEADER_OR_FOLLOWER (6): the producer sends it again.
    NotLeaderOrFollower(Missing),
}

/// What a batch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The batches before it, of the same producer: it is not the one that is due.
    Earlier,
    /// The batches before it, should there be any: nobody knows which one is due.
    Any,
    /// The new leader's answer.
    NewLeader,
    /// The old leader's answer: its cluster is away, or refuses it.
    OldLeader,
}

/// Whether a batch may be the first of its producer on a partition. It has `waited` so long; where something is missing it waits for `patience` at most: until its
/// request's time is over, or earlier. Batches for which [`Sequences::peek`] gives nothing, and producers of whom the new leader is known to have appended
/// a batch in this term, need not be asked about.
pub fn judge(batch: &Sequences, partition: &Flipped<'_>, waited: Duration, patience: Duration) -> Verdict {
    let Flipped { term, since, new_leader, old_leader } = *partition;
    if term <= 1 || since >= WATCHED {
        return Verdict::Pass;
    }
    let wait_for = |what| {
        if waited >= patience {
            Verdict::NotLeaderOrFollower(what)
        } else {
            Verdict::Wait { what, until: patience.min(waited + ASK_AGAIN) }
        }
    };
    let Some((id, _)) = unstamped(batch.first.producer_id) else { return Verdict::Pass };
    let Some(new_leader) = new_leader else { return wait_for(Missing::NewLeader) };
    if new_leader.know(id, term) {
        return Verdict::Pass;
    }
    let Some(old_leader) = old_leader else { return wait_for(Missing::OldLeader) };
    let begins_anew = batch.first.base_sequence == 0;
    let epoch = i32::from(batch.first.producer_epoch);
    let last = [old_leader, new_leader].into_iter().filter_map(|known| known.last_before(id, term)).max_by_key(|last| last.term);
    match last {
        Some(last) => match epoch.cmp(&last.epoch) {
            Ordering::Less => Verdict::InvalidProducerEpoch,
            Ordering::Equal if ahead(batch.first.base_sequence, last.sequence) == 1 => Verdict::Pass,
            Ordering::Equal if ahead(batch.last, last.sequence) <= 0 => Verdict::IsThere,
            Ordering::Greater if begins_anew => Verdict::Pass,
            Ordering::Equal | Ordering::Greater => wait_for(Missing::Earlier),
        },
        None if begins_anew => Verdict::Pass,
        _ if waited >= OTHERS_WAIT => Verdict::Pass,
        _ => Verdict::Wait { what: Missing::Any, until: OTHERS_WAIT },
    }
}

/// How far a sequence is ahead of another, -2^30 to 2^30 - 1.
fn ahead(sequence: i32, of: i32) -> i32 {
    sequence.wrapping_sub(of) << 1 >> 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Sequence;
    use crate::batch::stamp::stamped;

    /// From cluster 2, and one of the same number from cluster 1, and from nobody.
    const ID: i64 = 2 << 40 | 7;
    const SAME_NUMBER: i64 = 1 << 40 | 7;
    const UNTAGGED: i64 = 7;

    const MAX: i32 = i32::MAX;
    const PATIENCE: Duration = Duration::from_secs(30);

    fn producer(producer_id: i64, producer_epoch: i32, last_sequence: i32) -> ActiveProducer {
        ActiveProducer {
            producer_id,
            producer_epoch,
            last_sequence,
            last_timestamp: 0,
            coordinator_epoch: -1,
            current_txn_start_offset: None,
        }
    }

    /// [`ID`] in a term.
    fn known(term: i32, epoch: i32, last_sequence: i32) -> ActiveProducer {
        producer(stamped(ID, term).unwrap(), epoch, last_sequence)
    }

    fn batch(epoch: i16, first: i32, last: i32) -> Sequences {
        Sequences { first: Sequence { producer_id: ID, producer_epoch: epoch, base_sequence: first }, last }
    }

    #[derive(Clone)]
    struct Case {
        batch: Sequences,
        term: i32,
        since: Duration,
        new: Option<Vec<ActiveProducer>>,
        old: Option<Vec<ActiveProducer>>,
        waited: Duration,
    }

    impl Case {
        fn judge(&self) -> Verdict {
            let [new_leader, old_leader] =
                [&self.new, &self.old].map(|known| known.as_ref().map(|known| known.iter().collect::<Producers>()));
            let (new_leader, old_leader) = (new_leader.as_ref(), old_leader.as_ref());
            judge(&self.batch, &Flipped { term: self.term, since: self.since, new_leader, old_leader }, self.waited, PATIENCE)
        }

        fn old(self, old: impl Into<Vec<ActiveProducer>>) -> Self {
            Self { old: Some(old.into()), ..self }
        }

        fn at_new(self, new: impl Into<Vec<ActiveProducer>>) -> Self {
            Self { new: Some(new.into()), ..self }
        }

        fn waited(self, ms: u64) -> Self {
            Self { waited: Duration::from_millis(ms), ..self }
        }
    }

    /// Just after the flip to term 3, of which neither leader knows anything yet.
    fn sent(epoch: i16, first: i32, last: i32) -> Case {
        let batch = batch(epoch, first, last);
        Case { batch, term: 3, since: Duration::from_secs(1), new: Some(Vec::new()), old: Some(Vec::new()), waited: Duration::ZERO }
    }

    fn waits(what: Missing, until_ms: u64) -> Verdict {
        Verdict::Wait { what, until: Duration::from_millis(until_ms) }
    }

    use Missing::{Any, Earlier, NewLeader, OldLeader};
    use Verdict::{InvalidProducerEpoch, IsThere, NotLeaderOrFollower, Pass};

    #[test]
    fn an_id_that_the_new_leader_knows_in_this_term_passes() {
        for (what, case, verdict) in [
            ("the next one", sent(0, 12, 13).at_new([known(3, 0, 11)]).old([known(2, 0, 10)]), Pass),
            ("a later one: the broker refuses it", sent(0, 50, 51).at_new([known(3, 0, 11)]).old([known(2, 0, 10)]), Pass),
            ("one that is at the old leader", sent(0, 9, 10).at_new([known(3, 0, 11)]).old([known(2, 0, 10)]), Pass),
            ("of a lower epoch", sent(0, 12, 13).at_new([known(3, 1, 11)]).old([known(2, 0, 10)]), Pass),
            ("whatever the old leader is", Case { old: None, ..sent(0, 12, 13) }.at_new([known(3, 0, 11)]), Pass),
            ("in an earlier term only", sent(0, 12, 13).at_new([known(1, 0, 11)]).old([known(2, 0, 10)]), waits(Earlier, 250)),
            ("from when it led before", sent(0, 12, 13).at_new([known(1, 0, 11)]).old([known(2, 0, 10)]), waits(Earlier, 250)),
            ("in a term that is to come", sent(0, 12, 13).at_new([known(4, 0, 11)]).old([known(2, 0, 10)]), waits(Earlier, 250)),
            ("by markers only", sent(0, 12, 13).at_new([known(3, 0, -1)]).old([known(2, 0, 10)]), waits(Earlier, 250)),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn an_id_of_the_term_before_is_strict() {
        let old = |epoch, last| vec![known(2, epoch, last)];
        for (what, case, verdict) in [
            ("the one that is due", sent(0, 11, 15).old(old(0, 10)), Pass),
            ("the one that is due, of one record", sent(0, 11, 11).old(old(0, 10)), Pass),
            ("the last one again", sent(0, 8, 10).old(old(0, 10)), IsThere),
            ("one before it again", sent(0, 5, 7).old(old(0, 10)), IsThere),
            ("the very first again", sent(0, 0, 0).old(old(0, 10)), IsThere),
            ("the very first, which is the last", sent(0, 0, 0).old(old(0, 0)), IsThere),
            ("a later one", sent(0, 12, 15).old(old(0, 10)), waits(Earlier, 250)),
            ("one that begins in what is there and goes on", sent(0, 9, 12).old(old(0, 10)), waits(Earlier, 250)),
            ("one that begins at the last one and goes on", sent(0, 10, 11).old(old(0, 10)), waits(Earlier, 250)),
            ("a later one, after a while", sent(0, 12, 15).old(old(0, 10)).waited(1_100), waits(Earlier, 1_350)),
            ("a later one, near the end", sent(0, 12, 15).old(old(0, 10)).waited(29_900), waits(Earlier, 30_000)),
            ("a later one, at the end", sent(0, 12, 15).old(old(0, 10)).waited(30_000), NotLeaderOrFollower(Earlier)),
            ("an overlapping one, at the end", sent(0, 9, 12).old(old(0, 10)).waited(30_000), NotLeaderOrFollower(Earlier)),
            ("the one that is due, after a wait", sent(0, 11, 15).old(old(0, 10)).waited(30_000), Pass),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn the_first_sequence_follows_the_last() {
        let old = |last| vec![known(2, 0, last)];
        for (what, case, verdict) in [
            ("0 is due", sent(0, 0, 4).old(old(MAX)), Pass),
            ("the one that goes over the end is due", sent(0, MAX - 1, 3).old(old(MAX - 2)), Pass),
            ("the one that went over the end again", sent(0, MAX - 1, 3).old(old(3)), IsThere),
            ("one from before the end", sent(0, MAX - 9, MAX - 5).old(old(3)), IsThere),
            ("one up to the end", sent(0, MAX - 1, MAX).old(old(MAX)), IsThere),
            ("one that goes over the end and further", sent(0, MAX - 1, 5).old(old(3)), waits(Earlier, 250)),
            ("1 is later", sent(0, 1, 4).old(old(MAX)), waits(Earlier, 250)),
            ("the furthest that is later", sent(0, 10 + (1 << 30) - 2, 10 + (1 << 30) - 1).old(old(10)), waits(Earlier, 250)),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn epochs_are_compared_before_sequences() {
        let old = |epoch, last| vec![known(2, epoch, last)];
        for (what, case, verdict) in [
            ("a higher one from 0 on", sent(1, 0, 4).old(old(0, 10)), Pass),
            ("a higher one by more than one", sent(9, 0, 4).old(old(0, 10)), Pass),
            ("a higher one that goes on", sent(1, 11, 15).old(old(0, 10)), waits(Earlier, 250)),
            ("a higher one that is not later", sent(1, 5, 7).old(old(0, 10)), waits(Earlier, 250)),
            ("a higher one that goes on, at the end", sent(1, 11, 15).old(old(0, 10)).waited(30_000), NotLeaderOrFollower(Earlier)),
            ("a lower one that would be due", sent(0, 11, 15).old(old(1, 10)), InvalidProducerEpoch),
            ("a lower one that is there", sent(0, 5, 7).old(old(1, 10)), InvalidProducerEpoch),
            ("a lower one from 0 on", sent(0, 0, 4).old(old(1, 10)), InvalidProducerEpoch),
            ("a lower one, at once", sent(0, 11, 15).old(old(1, 10)).waited(30_000), InvalidProducerEpoch),
            ("the highest, one that is there", sent(i16::MAX, 0, 4).old(old(i16::MAX.into(), 4)), IsThere),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn any_other_id_waits_a_second_and_passes() {
        for (what, case, verdict) in [
            ("unknown, from 0 on", sent(0, 0, 4), Pass),
            ("unknown, from further on", sent(0, 11, 15), waits(Any, 1_000)),
            ("unknown, nearly a second later", sent(0, 11, 15).waited(999), waits(Any, 1_000)),
            ("unknown, a second later", sent(0, 11, 15).waited(1_000), Pass),
            ("unknown, a second later, known by now", sent(0, 11, 15).at_new([known(3, 0, 10)]).waited(1_000), Pass),
            ("unknown, known by now before the second", sent(0, 11, 15).at_new([known(3, 0, 10)]).waited(300), Pass),
            ("known by markers only", sent(0, 11, 15).old([known(2, 0, -1)]), waits(Any, 1_000)),
            ("known by markers only, from 0 on", sent(0, 0, 4).old([known(2, 0, -1)]), Pass),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn an_id_that_was_idle_in_the_term_before_is_as_strict() {
        let known = vec![known(1, 5, 10)];
        for at_old in [true, false] {
            let seen = |case: Case| if at_old { case.old(known.clone()) } else { case.at_new(known.clone()) };
            for (what, case, verdict) in [
                ("the next one", sent(5, 11, 15), Pass),
                ("a later one", sent(5, 90, 95), waits(Earlier, 250)),
                ("a later one, a second later", sent(5, 90, 95).waited(1_000), waits(Earlier, 1_250)),
                ("one that is there", sent(5, 9, 10), IsThere),
                ("from 0 on", sent(5, 0, 4), IsThere),
                ("from 0 on in a lower epoch", sent(4, 0, 4), InvalidProducerEpoch),
                ("from 0 on in a higher epoch", sent(6, 0, 4), Pass),
                ("higher epoch, further on", sent(6, 11, 15), waits(Earlier, 250)),
            ] {
                assert_eq!(seen(case).judge(), verdict, "{what}, known to the {} leader", if at_old { "old" } else { "new" });
            }
        }
    }

    #[test]
    fn of_several_terms_the_highest_counts() {
        for (what, case, verdict) in [
            ("the term before", sent(0, 11, 15).old([known(2, 0, 10), known(1, 0, 200)]), Pass),
            ("in any order", sent(0, 11, 15).old([known(1, 0, 200), known(2, 0, 10)]), Pass),
            ("though the epoch was higher", sent(0, 11, 15).old([known(1, 9, 200), known(2, 0, 10)]), Pass),
            (
                "what is in an earlier one only is not there",
                sent(0, 150, 151).old([known(2, 0, 10), known(1, 0, 200)]),
                waits(Earlier, 250),
            ),
            ("of both leaders", sent(0, 11, 15).old([known(2, 0, 10)]).at_new([known(1, 0, 200)]), Pass),
            ("what nobody can have written does not count", sent(0, 11, 15).old([known(2, 0, 10), known(3, 0, 99), known(9, 0, 99)]), Pass),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn ids_are_compared_with_the_tag_of_their_cluster() {
        let mirrors = 1 << 62 | ID;
        for (what, case, verdict) in [
            ("the same number of another cluster", sent(0, 11, 15).old([producer(1 << 44 | SAME_NUMBER, 0, 10)]), waits(Any, 1_000)),
            ("the same number without a tag", sent(0, 11, 15).old([producer(1 << 44 | UNTAGGED, 0, 10)]), waits(Any, 1_000)),
            ("the same number of another cluster, in this term", sent(0, 0, 4).at_new([producer(2 << 44 | SAME_NUMBER, 0, 10)]), Pass),
            ("the same low bits in a mirror's id", sent(0, 11, 15).old([producer(mirrors, 0, 10)]), waits(Any, 1_000)),
            (
                "all of them at once",
                sent(0, 11, 15).old([SAME_NUMBER, UNTAGGED, ID].map(|id| producer(1 << 44 | id, 0, id as i32 + 3))),
                Pass,
            ),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
        let untagged = |case: Case| {
            let mut batch = case.batch;
            batch.first.producer_id = UNTAGGED;
            Case { batch, ..case }.judge()
        };
        assert_eq!(untagged(sent(0, 11, 15).old([producer(1 << 44 | UNTAGGED, 0, 10)])), Pass);
        assert_eq!(untagged(sent(0, 12, 15).old([producer(1 << 44 | UNTAGGED, 0, 10)])), waits(Earlier, 250));
        assert_eq!(untagged(sent(0, 12, 15).old([producer(1 << 44 | ID, 0, 10)])), waits(Any, 1_000));
    }

    #[test]
    fn with_a_leader_away_ids_wait_and_are_sent_away() {
        let no_old = |case: Case| Case { old: None, ..case };
        let no_new = |case: Case| Case { new: None, ..case };
        for (what, case, verdict) in [
            ("the old one", no_old(sent(0, 11, 15)), waits(OldLeader, 250)),
            ("the old one, for an id that may be unknown to it", no_old(sent(0, 0, 4)), waits(OldLeader, 250)),
            ("the old one, after more than a second", no_old(sent(0, 11, 15)).waited(5_000), waits(OldLeader, 5_250)),
            ("the old one, at the end", no_old(sent(0, 11, 15)).waited(30_000), NotLeaderOrFollower(OldLeader)),
            ("the old one, for an id that is known by now", no_old(sent(0, 11, 15)).at_new([known(3, 0, 10)]).waited(30_000), Pass),
            ("the new one", no_new(sent(0, 11, 15)).old([known(2, 0, 10)]), waits(NewLeader, 250)),
            ("the new one, for what is at the old one", no_new(sent(0, 9, 10)).old([known(2, 0, 10)]), waits(NewLeader, 250)),
            ("the new one, at the end", no_new(sent(0, 11, 15)).old([known(2, 0, 10)]).waited(30_000), NotLeaderOrFollower(NewLeader)),
            ("both", no_new(no_old(sent(0, 0, 4))), waits(NewLeader, 250)),
        ] {
            assert_eq!(case.judge(), verdict, "{what}");
        }
    }

    #[test]
    fn it_is_over_after_an_hour_and_never_begins_in_the_first_term() {
        let late = sent(0, 90, 95).old([known(2, 0, 10)]);
        let since = |since, case: Case| Case { since, ..case }.judge();
        let an_hour = Duration::from_hours(1);
        assert_eq!(since(an_hour.saturating_sub(Duration::from_millis(1)), late.clone()), waits(Earlier, 250));
        assert_eq!(since(an_hour, late.clone()), Pass);
        assert_eq!(since(an_hour * 24, Case { old: None, new: None, ..late.clone() }), Pass);
        for term in [i32::MIN, 0, 1] {
            assert_eq!(Case { term, old: None, new: None, ..late.clone() }.judge(), Pass, "term {term}");
        }
        // The ids of the first term have no stamp.
        let second = |case: Case| Case { term: 2, ..case }.judge();
        assert_eq!(second(sent(0, 11, 15).old([known(1, 0, 10)])), Pass);
        assert_eq!(second(sent(0, 12, 15).old([known(1, 0, 10)])), waits(Earlier, 250));
        assert_eq!(second(sent(0, 9, 10).old([known(1, 0, 10)])), IsThere);
        assert_eq!(second(sent(0, 9, 10).at_new([known(2, 0, 8)]).old([known(1, 0, 10)])), Pass);
    }

    #[test]
    fn what_was_answered_0_is_known() {
        let mut new_leader = Producers::default();
        let old_leader: Producers = [known(2, 0, 10)].iter().collect();
        let verdict = |new_leader: &Producers, batch: &Sequences| {
            let partition = Flipped { term: 3, since: Duration::ZERO, new_leader: Some(new_leader), old_leader: Some(&old_leader) };
            judge(batch, &partition, Duration::ZERO, PATIENCE)
        };
        let (due, behind) = (batch(0, 11, 15), batch(0, 16, 20));
        assert_eq!((verdict(&new_leader, &due), verdict(&new_leader, &behind)), (Pass, waits(Earlier, 250)));
        new_leader.appended(&due, 3);
        assert_eq!((verdict(&new_leader, &due), verdict(&new_leader, &behind)), (Pass, Pass));
        assert_eq!(new_leader, [known(3, 0, 15)].iter().collect());
    }

    proptest! {
        /// Whatever the sequences are, they are judged as numbers without an end would be.
        #[test]
        fn sequences_are_compared_as_if_they_had_no_end(
            last_known in 1 << 31..1_i64 << 33, distance in -100_000..100_000_i64, len in 1..1_000_i64,
        ) {
            let wrapped = |number: i64| (number & i64::from(MAX)) as i32;
            let (first, last) = (last_known + distance, last_known + distance + len - 1);
            let expected = match () {
                () if first == last_known + 1 => Pass,
                () if last <= last_known => IsThere,
                () => waits(Earlier, 250),
            };
            let case = sent(0, wrapped(first), wrapped(last)).old([known(2, 0, wrapped(last_known))]);
            prop_assert_eq!(case.judge(), expected);
        }

        /// A batch that waits is sent on, or answered: at `PATIENCE` at the latest, and it is asked for a bounded number of times until then.
        #[test]
        fn nobody_waits_for_ever(
            epoch in 0..3_i16, first in 0..20, len in 1..5,
            new in prop::option::of(prop::collection::vec((1..4, 0..3, 0..20), 0..3)), old in prop::option::of(prop::collection::vec((1..4, 0..3, 0..20), 0..3)),
        ) {
            let [new, old] = [new, old].map(|all| all.map(|all| all.into_iter().map(|(term, epoch, last)| known(term, epoch, last)).collect()));
            let mut case = Case { new, old, ..sent(epoch, first, first + len - 1) };
            for _ in 0..=PATIENCE.as_millis() / ASK_AGAIN.as_millis() {
                match case.judge() {
                    Verdict::Wait { until, .. } => {
                        prop_assert!(until > case.waited && until <= PATIENCE);
                        case.waited = until;
                    }
                    _ => return Ok(()),
                }
            }
            prop_assert!(false, "it waits still");
        }
    }
}
