//! What becomes of partitions: decisions, from what is known and what has happened. Nothing here reads a clock, asks anybody or draws a number.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::partition::{Handback, Phase, Progress, Refusal};
use crate::topics::TopicPlan;
use crate::transactions::Unstable;

/// Between two passes over the topics.
pub(super) const PASS: Duration = Duration::from_secs(5);
/// Between two looks at what is due: retries, the state that is to be kept, metrics.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// After which a partition that failed is tried again: somebody may have mended it.
pub(super) const FAILED: Duration = Duration::from_mins(1);
/// A partition that was interrupted again and again for so long, without getting on, has failed: its broker is away, not restarted. It is tried again as
/// before.
const STUCK: Duration = Duration::from_mins(2);
/// The shortest and the longest time that a partition rests after an interruption.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// A process that is no member of the group for so long is not ready.
const NO_MEMBER: Duration = Duration::from_mins(1);
/// With `--once`: how long the last stable offset of a leader may stand still before its end until the run ends without the rest. Of an application that
/// was killed the coordinator aborts the transaction a minute after it began, by default (`transaction.timeout.ms` of producers), and some ten seconds.
const NO_LONGER: Duration = Duration::from_secs(90);

/// How long a partition that was interrupted so many times in a row rests: longer each time, and between half of that and all of it, so that the
/// partitions of a broker that is away do not all come back at once.
fn backoff(failures: u32, random: u64) -> Duration {
    let longest = (BACKOFF.0 * 2_u32.pow(failures.min(8))).min(BACKOFF.1);
    longest.mul_f64(0.5 + (random % 1_000) as f64 / 2_000.0)
}

/// How often in a row a partition was handed back without having got on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) count: u32,
    /// The agreed offset at the last failure; -1 before there was one.
    at: i64,
    /// When the first of them was; `None` before there was one.
    since: Option<Instant>,
}

impl Failures {
    pub(super) const NONE: Self = Self { count: 0, at: -1, since: None };

    /// One more, at this agreed offset: the first, if the partition got on since the last one.
    fn and_one_at(self, agreed: i64, now: Instant) -> Self {
        let (count, since) = if agreed > self.at { (0, None) } else { (self.count, self.since) };
        Self { count: count + 1, at: agreed, since: since.or(Some(now)) }
    }
}

/// What becomes of a partition that was handed back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterHandback {
    /// It rests, in this phase and for this reason.
    Rest {
        phase: Phase,
        reason: Option<String>,
        failures: Failures,
        /// When it is looked at again; `None` is not by itself.
        again: Option<Instant>,
        /// It was interrupted: a broker that it has to do with may be another one now.
        interrupted: bool,
    },
    /// `on_error` decides.
    Refused { refusal: Refusal, failures: Failures },
}

/// Decides about a partition that was handed back at the time `now`, with `agreed` as its agreed offset; `random` is any number.
pub(super) fn after_handback(handback: Handback, failures: Failures, agreed: i64, now: Instant, random: u64) -> AfterHandback {
    let failures = failures.and_one_at(agreed, now);
    let rest = |phase, reason, again| AfterHandback::Rest { phase, reason, failures, again, interrupted: false };
    match handback {
        Handback::Cancelled => AfterHandback::Rest {
            phase: Phase::Waiting,
            reason: None,
            failures: Failures { count: 0, since: None, ..failures },
            again: Some(now + TICK),
            interrupted: false,
        },
        Handback::Again(reason) => AfterHandback::Rest {
            phase: if failures.since.is_some_and(|since| is_stuck(since, now)) { Phase::Failed } else { Phase::Waiting },
            reason: Some(reason),
            failures,
            again: Some(now + backoff(failures.count, random)),
            interrupted: true,
        },
        Handback::Failed(reason) => rest(Phase::Failed, Some(reason), Some(now + FAILED)),
        Handback::Diverged(reason) => rest(Phase::Diverged, Some(reason), None),
        Handback::Refused(refusal) => AfterHandback::Refused { refusal, failures },
    }
}

/// Whether what has failed since then, tried again and again, does not come back by itself soon.
pub fn is_stuck(since: Instant, now: Instant) -> bool {
    now >= since + STUCK
}

/// What a pass over the topics has to know of a partition that the run has already.
pub(super) struct Present<'a> {
    pub(super) term: i32,
    pub(super) topic_ids: &'a BTreeMap<String, String>,
    /// Whether the leader's topic was compacted when the partition was taken in.
    pub(super) compacted: bool,
    /// The follower's `max.message.bytes` then.
    pub(super) max_message_bytes: usize,
    /// Nobody works on it.
    pub(super) rests: bool,
    /// Something was agreed on that is not in the state's topic yet.
    pub(super) unsaved: bool,
}

/// What a pass over the topics changes for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassChange {
    /// The run does not have it yet.
    TakeIn,
    /// It is as it was.
    Nothing,
    /// Another cluster leads its topic now, the topic was created anew, or has other settings that matter to the copy. Whoever works on it is to hand it back, and what is known of it is to be
    /// kept; then it is taken in anew.
    Stop,
    /// The same, and nothing stands in the way any more.
    TakeInAnew,
}

/// Decides what a pass, whose plan of the topic this is, changes for one of its partitions.
pub(super) fn pass_change(plan: &TopicPlan, present: Option<&Present<'_>>) -> PassChange {
    match present {
        None => PassChange::TakeIn,
        Some(present)
            if (present.term, present.topic_ids, present.compacted, present.max_message_bytes)
                == (plan.term, &plan.topic_ids, plan.compacted, plan.max_message_bytes) =>
        {
            PassChange::Nothing
        }
        Some(present) if present.rests && !present.unsaved => PassChange::TakeInAnew,
        Some(_) => PassChange::Stop,
    }
}

/// How long after a pass the next one begins, when so many in a row have failed. What was just created is known to the brokers in a moment.
pub(super) fn until_next_pass(failures: u32, complete: bool) -> Duration {
    if failures == 0 && !complete { TICK } else { PASS * 2_u32.pow(failures.min(3)) }
}

/// Whether a partition's first look is still to come, or under way.
pub(super) fn is_settling(phase: Phase) -> bool {
    matches!(phase, Phase::Waiting | Phase::Comparing | Phase::Padding)
}

/// Whether the process is ready from now on, or is not any more; `None` is as before. Ready is who is a member of the group and has looked at all of
/// its partitions once (`settled`); what is gained or interrupted later does not change that, but a minute without the group does.
pub(super) fn readiness(is_member: bool, since_member: Duration, settled: bool) -> Option<bool> {
    if is_member && settled {
        Some(true)
    } else if since_member > NO_MEMBER {
        Some(false)
    } else {
        None
    }
}

/// With `--once`: how a partition is with respect to the end that its leader had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is there, or will never be, by its phase.
    Reached,
    /// It is on its way.
    Before,
    /// A transaction is open before the end, and nobody waits for it any longer.
    HeldUp,
}

/// Decides how a partition is with respect to the end that its leader had, at the time `now`. A leader whose log has become shorter since then ends there.
pub(super) fn end(progress: &Progress, now: std::time::Instant) -> End {
    let Some(goal) = progress.goal else {
        return if matches!(progress.phase, Phase::Failed | Phase::Diverged) { End::Reached } else { End::Before };
    };
    let is_over = matches!(progress.phase, Phase::Failed | Phase::Diverged);
    if is_over || progress.agreed >= goal.min(progress.leader_high_watermark()) {
        return End::Reached;
    }
    let waits = |unstable: &Unstable| progress.agreed >= unstable.from && now.saturating_duration_since(unstable.since) >= NO_LONGER;
    if progress.phase == Phase::Copying && progress.unstable.as_ref().is_some_and(waits) { End::HeldUp } else { End::Before }
}

/// Whether the cluster is to be asked whose transaction holds up a partition.
pub(super) fn asks_whose(progress: &Progress, now: std::time::Instant) -> bool {
    progress.unstable.as_ref().is_some_and(|unstable| unstable.whose.is_none() && unstable.is_long(now))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    fn rest(after: AfterHandback) -> (Phase, Option<String>, Failures, Option<Instant>) {
        let AfterHandback::Rest { phase, reason, failures, again, .. } = after else { panic!("{after:?}") };
        (phase, reason, failures, again)
    }

    #[test]
    fn a_partition_rests_longer_each_time_and_never_too_long() {
        for failures in 1..40 {
            let (least, most) = (backoff(failures, 0), backoff(failures, 999));
            assert!(least >= BACKOFF.0 && least < most && most <= BACKOFF.1, "{least:?} to {most:?}");
            assert!(backoff(failures + 1, 0) >= least);
        }
    }

    #[test]
    fn an_interruption_counts_as_the_first_when_the_partition_got_on_since_the_last_one() {
        let now = now();
        let again = |failures, agreed| rest(after_handback(Handback::Again("x".to_owned()), failures, agreed, now, 0)).2;
        let first = again(Failures::NONE, 0);
        assert_eq!(first.count, 1);
        let second = again(first, 0);
        assert_eq!(second.count, 2);
        assert_eq!(again(second, 7).count, 1);
        // What was lost is no progress.
        assert_eq!(again(Failures { count: 3, at: 7, since: None }, 5).count, 4);
    }

    #[test]
    fn an_interruption_that_does_not_end_has_failed_and_is_tried_as_before() {
        let begin = now();
        let mut failures = Failures::NONE;
        let mut again = |agreed, seconds| {
            let at = begin + Duration::from_secs(seconds);
            let (phase, _, since, next) = rest(after_handback(Handback::Again("no leader".to_owned()), failures, agreed, at, 0));
            failures = since;
            (phase, next.unwrap() <= at + BACKOFF.1)
        };
        assert_eq!(again(5, 0), (Phase::Waiting, true));
        assert_eq!(again(5, 119), (Phase::Waiting, true));
        assert_eq!(again(5, 120), (Phase::Failed, true));
        assert_eq!(again(5, 500), (Phase::Failed, true));
        // It got on meanwhile.
        assert_eq!(again(6, 501), (Phase::Waiting, true));
    }

    #[test]
    fn each_handback_has_its_phase_and_its_time() {
        let now = now();
        let after = |handback| rest(after_handback(handback, Failures { count: 4, at: 10, since: Some(now) }, 10, now, 0));
        assert_eq!(after(Handback::Cancelled), (Phase::Waiting, None, Failures { count: 0, at: 10, since: None }, Some(now + TICK)));
        let (phase, reason, failures, again) = after(Handback::Again("broken".to_owned()));
        assert_eq!((phase, reason.as_deref(), failures.count), (Phase::Waiting, Some("broken"), 5));
        assert_eq!(again, Some(now + backoff(5, 0)));
        let (phase, reason, _, again) = after(Handback::Failed("no right".to_owned()));
        assert_eq!((phase, reason.as_deref(), again), (Phase::Failed, Some("no right"), Some(now + FAILED)));
        let (phase, reason, _, again) = after(Handback::Diverged("differs".to_owned()));
        assert_eq!((phase, reason.as_deref(), again), (Phase::Diverged, Some("differs"), None));
        let refusal = Refusal { offsets: 3..4, code: None, reason: "too large".to_owned(), bytes: bytes::Bytes::new() };
        let refused = after_handback(Handback::Refused(refusal.clone()), Failures::NONE, 3, now, 0);
        assert_eq!(refused, AfterHandback::Refused { refusal, failures: Failures { count: 1, at: 3, since: Some(now) } });
    }

    #[test]
    fn a_partition_that_turns_is_stopped_kept_and_taken_in_anew() {
        let name: Arc<str> = "orders".into();
        let ids = BTreeMap::from([("old".to_owned(), "a".to_owned())]);
        let plan = TopicPlan { topic_ids: ids.clone(), ..TopicPlan::new(&name, &name, &"old".into(), 2) };
        let no_ids = BTreeMap::new();
        let max_message_bytes = plan.max_message_bytes;
        let present = |term, topic_ids, rests, unsaved| Present { term, topic_ids, compacted: false, max_message_bytes, rests, unsaved };
        let change = |term, topic_ids, rests, unsaved| pass_change(&plan, Some(&present(term, topic_ids, rests, unsaved)));
        assert_eq!(pass_change(&plan, None), PassChange::TakeIn);
        assert_eq!(change(2, &ids, false, true), PassChange::Nothing);
        for (rests, unsaved, then) in [
            (false, false, PassChange::Stop),
            (false, true, PassChange::Stop),
            (true, true, PassChange::Stop),
            (true, false, PassChange::TakeInAnew),
        ] {
            assert_eq!(change(1, &ids, rests, unsaved), then, "an older term");
            assert_eq!(change(2, &no_ids, rests, unsaved), then, "a topic that was created anew");
            let smaller = Present { max_message_bytes: max_message_bytes - 1, ..present(2, &ids, rests, unsaved) };
            assert_eq!(pass_change(&plan, Some(&smaller)), then, "a topic that takes larger batches now");
        }
    }

    #[test]
    fn passes_are_sooner_when_something_was_created_and_rarer_when_they_fail() {
        assert_eq!([until_next_pass(0, false), until_next_pass(0, true)], [TICK, PASS]);
        assert_eq!([1, 2, 3, 9].map(|failures| until_next_pass(failures, false)), [2, 4, 8, 8].map(|times| PASS * times));
    }

    #[test]
    fn ready_is_kept_through_short_interruptions_and_lost_after_a_minute_without_the_group() {
        let short = Duration::from_secs(30);
        assert_eq!(readiness(true, Duration::ZERO, true), Some(true));
        assert_eq!(readiness(true, Duration::ZERO, false), None);
        assert_eq!(readiness(false, short, true), None);
        assert_eq!(readiness(false, NO_MEMBER + short, true), Some(false));
    }

    #[test]
    fn once_ends_at_the_leaders_end_and_at_what_cannot_go_on() {
        let now = std::time::Instant::now();
        let progress = |phase, agreed, goal| Progress { phase, agreed, goal, leader_last_stable_offset: 10, ..Progress::default() };
        let of = |phase, agreed, goal| end(&progress(phase, agreed, goal), now);
        assert_eq!(of(Phase::Waiting, 0, None), End::Before);
        assert_eq!(of(Phase::Copying, 9, Some(10)), End::Before);
        assert_eq!(of(Phase::Copying, 10, Some(10)), End::Reached);
        assert_eq!([of(Phase::Failed, 0, Some(10)), of(Phase::Diverged, 0, None)], [End::Reached; 2]);
        // The leader ended at 30 at the start, and lost what the follower did not have yet.
        assert_eq!(of(Phase::Copying, 10, Some(30)), End::Reached);
    }

    #[test]
    fn once_waits_for_an_open_transaction_but_not_for_ever_and_asks_whose_it_is() {
        let now = std::time::Instant::now();
        let unstable = Unstable { from: 10, to: 50, since: now, whose: None };
        let progress = Progress {
            phase: Phase::Copying,
            agreed: 10,
            goal: Some(30),
            leader_last_stable_offset: 10,
            unstable: Some(unstable.clone()),
            ..Progress::default()
        };
        let (short, long) = (now + Duration::from_secs(89), now + NO_LONGER);
        assert_eq!([end(&progress, short), end(&progress, long)], [End::Before, End::HeldUp]);
        // What is before it is copied first; and it began behind the end.
        assert_eq!(end(&Progress { agreed: 9, ..progress.clone() }, long), End::Before);
        assert_eq!(end(&Progress { goal: Some(10), ..progress.clone() }, now), End::Reached);
        assert_eq!(end(&Progress { phase: Phase::Waiting, ..progress.clone() }, long), End::Before);
        assert!(!asks_whose(&progress, now + Duration::from_secs(59)) && asks_whose(&progress, now + Duration::from_mins(1)));
        let known = Unstable { whose: Some(Err("nobody says".to_owned())), ..unstable };
        assert!(!asks_whose(&Progress { unstable: Some(known), ..progress }, long));
    }
}
