//! What the log of decisions makes of the partitions and groups that the run has: a topic that another cluster leads from now on is turned, and while a move is
//! open what is to move is closed.

use std::collections::HashMap;
use std::sync::Arc;

use kferry_wire::client::TopicPartition;
use kferry_wire::decisions::NotYet;
use kferry_wire::tell;
use tokio::time::Instant;

use super::looks::begin_term;
use super::moves::{AfterFlip, Closing, Found, Measurement, Moves, News, ToSettle, after_flip};
use super::{GroupsDone, Run};
use crate::groups::{self, Settled};
use crate::messages;
use crate::partition::Phase;
use crate::topics::TopicPlan;

impl Run {
    /// Whether it is known who leads what.
    pub(super) fn knows_leaders(&self) -> bool {
        self.moves.as_ref().is_none_or(Moves::is_known)
    }

    /// Whether a plan is about the topic's leader as it is now: a pass may have begun before a decision.
    pub(super) fn is_current(&self, plan: &TopicPlan) -> bool {
        self.moves.as_ref().is_none_or(|moves| moves.term(&plan.topic) == plan.term)
    }

    /// Whether less is known of a topic than once was: then the log of decisions was lost, or the file does not name it, and the topic would be copied the wrong way.
    pub(super) fn is_behind(&self, plan: &TopicPlan) -> bool {
        let is_later =
            |partition| self.state.partition(&TopicPartition::new(plan.topic.clone(), partition)).is_some_and(|kept| kept.term > plan.term);
        (0..plan.partitions).any(is_later)
    }

    /// The log of decisions has news.
    pub(super) fn decided(&mut self, news: News, now: Instant) {
        match news {
            News::Leaders => {
                self.turn(now);
                self.passes.next = now;
                self.go_on(now);
            }
            News::GivenUp => self.go_on(now),
            News::Nothing | News::Over => {}
        }
        self.close(now);
    }

    /// What was taken off its lane for a move that is over, and is led by the same cluster as before, is copied as before.
    fn go_on(&mut self, now: Instant) {
        let Some(moves) = &mut self.moves else { return };
        for partition in moves.thaw_all() {
            let term = moves.term(&partition.topic);
            if self.entries.get(&partition).is_some_and(|entry| entry.term == term && entry.stop.is_cancelled()) {
                self.entries.remove(&partition);
            }
        }
        self.take_in_all(now);
    }

    /// What a flip names is copied the other way at once, by what the last pass has seen: no other pass is waited for.
    fn turn(&mut self, now: Instant) {
        let Some(plans) = self.passes.plans.clone() else { return };
        let mut turned = Vec::new();
        for plan in plans.iter().filter(|plan| !self.is_current(plan)) {
            turned.extend(self.passes.turned.get(&plan.topic).filter(|turned| self.is_current(turned)).cloned());
        }
        let mut begin = Vec::new();
        for plan in &turned {
            let (mut handed_on, mut others) = (0, 0);
            for partition in (0..plan.partitions).map(|partition| TopicPartition::new(plan.topic.clone(), partition)) {
                match self.turn_one(plan, &partition, now) {
                    Some(AfterFlip::HandOn) => {
                        begin.extend(self.entries.get_mut(&partition).and_then(|entry| entry.take_due(now)));
                        handed_on += 1;
                    }
                    Some(AfterFlip::Look) => {
                        self.look(&partition, now);
                        others += 1;
                    }
                    Some(AfterFlip::Wait) => others += 1,
                    None => {}
                }
            }
            tell!(
                messages::TURNED,
                mirror = &*self.mirror.name,
                topic = &*plan.topic,
                leader = &*plan.leader,
                term = plan.term,
                partitions = handed_on,
                looked_at = others
            );
        }
        // All of one flip are followed by the same cluster.
        if let Some(follower) = self.moves.as_ref().zip(begin.first()).map(|(moves, first)| moves.asked_to_begin(&first.follower)) {
            self.turning.spawn(begin_term(begin, follower, self.options.coalesce));
        }
        let by_name: HashMap<_, _> = turned.into_iter().map(|plan| (plan.topic.clone(), plan)).collect();
        self.passes.plans = Some(plans.iter().map(|plan| by_name.get(&plan.topic).unwrap_or(plan).clone()).collect());
        self.passes.turned.retain(|topic, _| !by_name.contains_key(topic));
    }

    /// One partition of a flip, if it is this process's: it is taken in anew, unless it has to wait.
    fn turn_one(&mut self, plan: &TopicPlan, partition: &TopicPartition, now: Instant) -> Option<AfterFlip> {
        let moves = self.moves.as_ref()?;
        let shard = self.shards.owned.of(partition).filter(|shard| shard.may_write())?.clone();
        let before = self.entries.get(partition);
        let present = before.map(|before| (before.status.lock().phase, before.rest.is_some() && Arc::ptr_eq(&before.shard, &shard)));
        let begins = moves.begins(plan, partition.partition);
        let closed_at = before.zip(moves.frozen_at(partition)).map(|(before, at)| (before.status.lock().agreed, at.end));
        let after = after_flip(present, closed_at.filter(|(agreed, end)| agreed == end).map(|(_, end)| end), begins);
        if after == AfterFlip::Wait {
            return Some(after);
        }
        let before = before.map(|before| (before.was_compacted, before.status.lock().clone()));
        let mut entry = self.entry(plan, partition, shard, now);
        if let Some((was_compacted, progress)) = before {
            // It may not be kept yet.
            entry.was_compacted |= was_compacted;
            let mut now = entry.status.lock();
            (now.skipped, now.only_padding) = (progress.skipped, progress.only_padding);
        }
        self.overview.change(|rows| drop(rows.insert(partition.clone(), entry.status.clone())));
        self.entries.insert(partition.clone(), entry);
        Some(after)
    }

    /// Looks at the partitions of a move that are to be closed.
    pub(super) fn close(&mut self, now: Instant) {
        let Some(moves) = self.moves.as_mut().filter(|moves| moves.is_open()) else { return };
        let (mut closing, mut closed, mut all_rest) = (Vec::new(), Vec::new(), true);
        let mut diverged = None;
        for (partition, entry) in self.entries.iter().filter(|(partition, _)| moves.moves(&partition.topic)) {
            let (phase, agreed) = {
                let progress = entry.status.lock();
                (progress.phase, progress.agreed)
            };
            let frozen_at = moves.frozen_at(partition);
            match frozen_at {
                _ if phase == Phase::Diverged => drop(diverged.get_or_insert((partition, &entry.status))),
                Some(_) if entry.rest.is_none() => all_rest = false,
                Some(measured) if measured.end == agreed && moves.is_quiet_at(measured) => closed.push((partition.clone(), measured)),
                None if !moves.may_be_at_end(partition, agreed) => {}
                Some(_) | None => closing.push(Closing {
                    partition: partition.clone(),
                    leader: entry.leader.clone(),
                    follower: entry.follower.clone(),
                    agreed,
                    is_frozen: frozen_at.is_some(),
                }),
            }
        }
        if let Some((partition, status)) = diverged {
            let why = status.lock().reason.clone();
            moves.give_up(partition, why.as_deref(), now);
        }
        moves.measure(closing);
        // Those that come off their lanes in a moment are said in the same record.
        if all_rest {
            moves.say_closed(closed, now);
        }
        self.settle_groups(now);
    }

    /// Writes the last offsets of groups that move: nobody commits for them any more where they live. A pass that is under way comes to its end first.
    fn settle_groups(&mut self, now: Instant) {
        let Some(moves) = &mut self.moves else { return };
        moves.say_settled(now);
        if !self.groups.running.is_empty() || self.passes.plans.is_none() {
            return;
        }
        if let Some(ToSettle { groups, direction, as_of, started }) = moves.take_unsettled(&self.shards.owned, now) {
            let settled = groups::settle(self.groups_work(), self.state.clone(), direction, groups, [as_of, started]);
            self.groups.running.spawn(async move { GroupsDone::Settled(settled.await) });
        }
    }

    pub(super) fn groups_settled(&mut self, settled: Settled, now: Instant) {
        if let Some(moves) = &mut self.moves {
            moves.settled(settled, now);
        }
        self.settle_groups(now);
    }

    /// What was measured of partitions that are to be closed.
    pub(super) fn measured(&mut self, found: Vec<Found>, now: Instant) {
        let Some(moves) = &mut self.moves else { return };
        let closed = found.iter().filter(|found| matches!(found, Found::Closed(..))).count();
        tracing::debug!(partitions = found.len(), closed, "ends were measured");
        let mut again = false;
        for found in found {
            match found {
                Found::Closed(partition, measured) => {
                    if let Some(entry) = self.entries.get(&partition) {
                        entry.stop.cancel();
                        moves.freeze(partition, measured);
                    }
                }
                Found::NotYet(partition, leader_end, why) => {
                    tracing::debug!(%partition, %why, "a partition is not closed yet");
                    let differs = matches!(why, NotYet::Foreign { .. } | NotYet::Diverged { .. });
                    if differs && let Some(entry) = self.entries.get(&partition).filter(|entry| !entry.stop.is_cancelled()) {
                        entry.stop.cancel();
                        moves.freeze(partition, Measurement::NONE);
                    } else if moves.thaw(&partition, leader_end) {
                        // It goes on, after a look at both logs.
                        self.entries.remove(&partition);
                        again = true;
                    }
                }
            }
        }
        self.lanes.wake();
        if again {
            self.take_in_all(now);
        }
    }
}
