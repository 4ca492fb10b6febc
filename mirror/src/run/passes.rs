//! A pass over the topics of both clusters, and what it changes: which partitions the run has.

use std::collections::BTreeMap;
use std::sync::Arc;

use kferry_wire::client::TopicPartition;
use kferry_wire::tell;
use tokio::time::Instant;

use super::decisions::{Failures, PassChange, pass_change, until_next_pass};
use super::entry::{PartitionEntry, Resting};
use super::{FOLLOWER_STARTS, Run, events};
use crate::copy::events as copy_events;
use crate::copy::job::{Caution, PartitionJob};
use crate::messages;
use crate::named;
use crate::partition::{Phase, Shard, Status};
use crate::state::StateError;
use crate::topics::pass::{FollowerStart, LogStart, Pass, TopicPassResult, is_accepted, sides};
use crate::topics::{Action, TopicPlan};

impl Run {
    /// One look at both clusters' topics.
    pub(super) fn pass(&mut self, now: Instant) {
        let log_starts = self.entries.iter().filter_map(|(partition, entry)| {
            let progress = entry.status.lock();
            let to = progress.leader_log_start_offset.min(progress.agreed);
            // Where offsets are translated the log is not the mirror's alone.
            let goes = progress.phase == Phase::Copying && !progress.map.translates() && to > progress.follower_log_start_offset;
            goes.then(|| LogStart { partition: partition.clone(), follower: entry.follower.clone(), to, status: entry.status.clone() })
        });
        let pass = Pass {
            mirror: self.mirror.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            state: self.state.clone(),
            overview: self.overview.clone(),
            owned: self.shards.owned.clone(),
            accept: self.options.accept.clone(),
            forgotten: self.passes.forgotten.clone(),
            clusters: self.passes.clusters.take(),
            log_starts: log_starts.collect(),
            follower_starts: self.follower_starts(now),
            mirrors: self.options.mirrors.clone(),
            before: self.passes.plans.clone(),
            unsettable: self.passes.unsettable.clone(),
            stricter_from: self.passes.stricter_from.clone(),
            decisions: self.moves.as_ref().and_then(|moves| moves.state().cloned()),
            copies: self.passes.copies.clone(),
        };
        self.passes.running.spawn(pass.run());
    }

    /// The followers that are asked where their logs begin, once a minute.
    fn follower_starts(&mut self, now: Instant) -> Vec<FollowerStart> {
        if now < self.passes.next_starts {
            return Vec::new();
        }
        self.passes.next_starts = now + FOLLOWER_STARTS;
        let copying = self.entries.iter().filter(|(_, entry)| entry.status.lock().phase == Phase::Copying);
        let start = |(partition, entry): (&TopicPartition, &PartitionEntry)| FollowerStart {
            follower: entry.follower.clone(),
            partition: partition.partition,
            status: entry.status.clone(),
        };
        copying.map(start).collect()
    }

    pub(super) fn passed(&mut self, passed: Result<TopicPassResult, StateError>, now: Instant) {
        events::passed(&self.mirror.name, passed.as_ref().err().map(|error| error as _));
        match &passed {
            Ok(_) => (self.passes.failures, self.passes.failing) = (0, None),
            Err(error) => {
                self.passes.failures += 1;
                let since = self.passes.failing.take().map_or(now, |(since, _)| since);
                self.passes.failing = Some((since, error.to_string()));
            }
        }
        for stranger in self.source.strangers().into_iter().chain(self.target.strangers()) {
            tell!(messages::WRONG_CLUSTER: ": {stranger}", mirror = &*self.mirror.name);
        }
        if let Ok(passed) = passed {
            self.passes.clusters = Some(passed.clusters);
            self.passes.complete = passed.complete;
            self.passes.plans = Some(passed.plans.into());
            self.passes.turned = passed.turned;
            self.passes.copies = passed.only_on_target.copies;
            if let Some(moves) = &mut self.moves {
                moves.say_born(passed.only_on_target.born);
            }
            self.passes.forgotten.extend(passed.forgotten);
            let unseen = self.unseen().map(|(topic, why)| (topic.into(), why));
            let plans = self.passes.plans.clone();
            let behind = plans.iter().flat_map(|plans| plans.iter()).filter(|plan| self.is_current(plan) && self.is_behind(plan)).map(|plan| {
                let why = "it was copied in a later term than the log of decisions knows: [state] is not in the file or names another cluster, or that log was lost; name the log's cluster, or restore it";
                (plan.topic.clone(), why.to_owned())
            });
            let refused: BTreeMap<Arc<str>, _> = unseen.chain(passed.refused).chain(behind).collect();
            for (topic, reason) in &refused {
                // It is said once, and tried again with each pass.
                if self.passes.refused.get(topic) != Some(reason) {
                    tell!(messages::TOPIC_REFUSED, mirror = &*self.mirror.name, topic = &**topic, reason);
                }
            }
            self.passes.refused = refused;
            for (topic, reason) in &passed.unset {
                if self.passes.unset.get(topic) != Some(reason) {
                    tell!(messages::SETTINGS_STAY, mirror = &*self.mirror.name, topic = &**topic, reason);
                }
            }
            self.passes.unset = passed.unset;
            self.passes.unsettable = passed.unsettable;
            self.passes.stricter_from = passed.stricter_from;
            let failed = self.passes.failed(now);
            events::topics_failed(&self.mirror.name, failed.len());
            self.overview.set_topics(failed);
            self.tell_of_risks();
            self.take_in_all(now);
            self.drop_deleted();
        }
        self.passes.next = now + until_next_pass(self.passes.failures, self.passes.complete);
        if self.passes.plans.iter().flat_map(|plans| plans.iter()).any(|plan| !self.is_current(plan)) {
            self.passes.next = now;
        }
    }

    /// The topics that the file names and the last pass has not seen, and what to do.
    fn unseen(&self) -> impl Iterator<Item = (&str, String)> {
        let plans = self.passes.plans.as_deref().unwrap_or_default();
        named::unseen_topics(&self.mirror, |name| plans.iter().any(|plan| *plan.topic == *name))
    }

    /// Says once of each topic that its copy will not last as long as what is copied, and that it did not.
    fn tell_of_risks(&mut self) {
        let plans = self.passes.plans.clone();
        for plan in plans.iter().flat_map(|plans| plans.iter()).filter(|plan| plan.error.is_none()) {
            let partitions =
                (0..plan.partitions).filter_map(|partition| self.entries.get(&TopicPartition::new(plan.topic.clone(), partition)));
            let deleted: i64 = partitions.map(|entry| entry.status.lock().deleted_on_follower()).sum();
            if self.owned_topic(plan) {
                let stays = !self.mirror.sync_topic_configs
                    || self.passes.unset.contains_key(&plan.topic)
                    || self.passes.unsettable.contains_key(&plan.topic);
                let risks = plan.keeps_less(stays);
                if !risks.is_empty() && self.passes.at_risk.get(&plan.topic) != Some(&risks) {
                    tell!(messages::COPY_AT_RISK, mirror = &*self.mirror.name, topic = &*plan.topic, settings = risks.join(", "));
                }
                self.passes.at_risk.insert(plan.topic.clone(), risks);
            }
            if deleted > 0 && self.passes.deleted.insert(plan.topic.clone()) {
                tell!(messages::COPY_DELETED, mirror = &*self.mirror.name, topic = &*plan.topic, offsets = deleted);
            }
        }
    }

    /// Whether what is about a topic as a whole is this process's to do.
    fn owned_topic(&self, plan: &TopicPlan) -> bool {
        self.shards.owned.of(&TopicPartition::new(plan.topic.clone(), 0)).is_some()
    }

    pub(super) fn take_in_all(&mut self, now: Instant) {
        let Some(plans) = self.passes.plans.clone() else { return };
        for plan in plans.iter().filter(|plan| plan.error.is_none() && plan.action == Action::Nothing) {
            if !self.is_current(plan) || self.is_behind(plan) {
                continue;
            }
            for partition in 0..plan.partitions {
                self.take_in(plan, &TopicPartition::new(plan.topic.clone(), partition), now);
            }
        }
    }

    /// A partition that is new, or whose leader has changed.
    fn take_in(&mut self, plan: &TopicPlan, partition: &TopicPartition, now: Instant) {
        let Some(shard) = self.shards.owned.of(partition).cloned() else { return };
        if is_accepted(&self.options.accept, partition) && !self.passes.forgotten.contains(partition) {
            return;
        }
        // Another process may have said so: nothing is written before the outcome.
        if self.moves.as_ref().is_some_and(|moves| moves.is_said_closed(partition)) {
            return;
        }
        match pass_change(plan, self.entries.get(partition).map(PartitionEntry::present).as_ref()) {
            PassChange::Nothing => {}
            PassChange::Stop => {
                self.entries[partition].stop.cancel();
                self.lanes.wake();
                self.saving.next = now;
                self.passes.complete = false;
            }
            PassChange::TakeIn | PassChange::TakeInAnew => {
                let entry = self.entry(plan, partition, shard, now);
                self.overview.change(|rows| drop(rows.insert(partition.clone(), entry.status.clone())));
                self.entries.insert(partition.clone(), entry);
                self.look(partition, now);
            }
        }
    }

    /// A partition as it is taken in, with what was kept of it.
    pub(super) fn entry(&self, plan: &TopicPlan, partition: &TopicPartition, shard: Arc<Shard>, now: Instant) -> PartitionEntry {
        let kept = self.state.partition(partition);
        let status = Arc::new(Status::default());
        let diverged = kept.as_ref().filter(|kept| kept.phase == Phase::Diverged);
        if let Some(kept) = diverged {
            tell!(messages::DIVERGED_BEFORE, mirror = &*self.mirror.name, %partition, reason = kept.reason);
            let mut progress = status.lock();
            (progress.phase, progress.reason) = (Phase::Diverged, kept.reason.clone());
        }
        let again = diverged.is_none().then_some(now);
        // Of the same topic: one that was created anew has lost nothing.
        let once = kept.as_ref().is_some_and(|kept| kept.was_compacted && kept.topic_ids == plan.topic_ids);
        let was_compacted = once || plan.is_compacted_somewhere();
        let is_accepted = is_accepted(&self.options.accept, partition);
        let begins = self.moves.as_ref().and_then(|moves| moves.begins(plan, partition.partition));
        let term_start = {
            let mut progress = status.lock();
            progress.direction = plan.direction(&self.mirror);
            progress.map = self.state.map(partition, self.mirror.offsets);
            progress.skipped = kept.as_ref().map(|kept| kept.skipped.clone()).unwrap_or_default();
            progress.only_padding = kept.as_ref().is_some_and(|kept| kept.only_padding);
            progress.unsaved |= was_compacted && kept.as_ref().is_some_and(|kept| !kept.was_compacted);
            if let Some(begins) = begins.filter(|_| !is_accepted && !progress.map.translates()) {
                progress.agreed = begins;
            }
            let kept_start = kept.map_or(0, |kept| {
                if kept.term == plan.term { kept.term_start } else { kept.agreed(&plan.leader, &progress.map, progress.direction) }
            });
            begins.unwrap_or(kept_start)
        };
        let (leader, follower) = sides(&self.mirror, &self.source, &self.target, plan);
        let stop = shard.child();
        let job = PartitionJob {
            mirror: self.mirror.name.clone(),
            topic: plan.topic.clone(),
            partition: partition.partition,
            leader: leader.clone(),
            follower: follower.clone(),
            term: plan.term,
            begins,
            compacted: was_compacted,
            max_message_bytes: plan.max_message_bytes,
            status: status.clone(),
            shard: shard.clone(),
            stop: stop.clone(),
            state: self.state.clone(),
            caution: Caution::default(),
        };
        copy_events::taken_in(&job);
        PartitionEntry {
            status,
            shard,
            stop,
            term: plan.term,
            term_start,
            topic_ids: plan.topic_ids.clone(),
            compacted: plan.compacted,
            was_compacted,
            max_message_bytes: plan.max_message_bytes,
            leader,
            follower,
            from_start: is_accepted,
            failures: Failures::NONE,
            rest: Some(Resting { job, again }),
        }
    }

    /// Topics that are gone from the source, or that the file selects no more.
    fn drop_deleted(&mut self) {
        let plans = self.passes.plans.as_deref().unwrap_or_default();
        let gone =
            |partition: &TopicPartition| !plans.iter().any(|plan| plan.topic == partition.topic && partition.partition < plan.partitions);
        let (overview, mirror) = (&self.overview, &self.mirror.name);
        self.entries.retain(|partition, entry| {
            let drops = entry.rest.is_some() && gone(partition);
            if drops {
                events::gone(mirror, partition);
                overview.change(|rows| drop(rows.remove(partition)));
            }
            !drops
        });
    }
}
