//! Processes of the mirror. One of them owns the partitions at a time: it copies from the leader to the follower, and says when a partition is closed.

use kferry_wire::decisions::{Measured, NotYet, Request, State, closing, copies_from};

use super::Mutation;
use super::cluster::PARTITIONS;
use super::group::Settling;
use super::world::{Event, Ms, World, topic};

/// How long an owner may write after it has last been heard of.
const LEASE: Ms = 1_500;

#[derive(Debug, Default)]
pub(crate) struct Owner {
    pub(crate) is_alive: bool,
    pub(crate) boot: u32,
    pub(crate) state: State,
    pub(crate) paused: Ms,
    pub(crate) cut: Ms,
    /// Until when it may write.
    pub(crate) lease: Ms,
    /// The end of the log of decisions when it came to own the partitions: it reads up to there before its first look.
    pub(crate) reads_to: i64,
    pub(crate) parts: [Part; PARTITIONS],
    pub(crate) settling: Settling,
}

#[derive(Debug, Default)]
pub(crate) struct Part {
    /// The follower's end, in a term.
    follower: Option<(usize, i32)>,
    /// Whether a copy is unanswered.
    unanswered: bool,
    /// What it had read of the log of decisions, and the leader's end then.
    measured: Option<(i64, usize)>,
    /// The move for which it has said that the partition is closed.
    closed: Option<i64>,
}

impl World {
    pub(crate) fn owner_acts(&mut self, index: usize) {
        let next = self.now + self.rng.between(20, 120);
        self.at(next, Event::Owner(index));
        if !self.owners[index].is_alive {
            return;
        }
        if self.owners[index].cut <= self.now {
            let most = self.reads();
            let (log, state) = (&self.log, &mut self.owners[index].state);
            for (offset, request) in (0..).zip(log).skip(state.end() as usize).take(most) {
                state.apply(offset, request);
            }
        }
        let (owner, until) = self.lease;
        if owner != index && self.now < until {
            return;
        }
        if owner != index || self.now >= self.owners[index].lease {
            let owner = &mut self.owners[index];
            owner.parts = <[Part; PARTITIONS]>::default();
            // What it has sent may still come: that is waited for.
            owner.settling.forget();
            owner.reads_to = self.log.len() as i64;
            self.note(|| format!("mirror {index} owns the partitions"));
        }
        self.lease = (index, self.now + LEASE);
        self.owners[index].lease = self.now + LEASE;
        if self.owners[index].state.end() < self.owners[index].reads_to {
            return;
        }
        for partition in 0..PARTITIONS {
            self.owner_copies(index, partition);
            self.owner_measures(index, partition);
            if !self.owners[index].is_alive {
                return;
            }
        }
        self.owner_settles(index);
    }

    fn owner_copies(&mut self, index: usize, partition: usize) {
        let owner = &mut self.owners[index];
        let (leader, term) = World::led(&owner.state, partition);
        let open = owner.state.open().filter(|open| open.topics.contains_key(topic(partition)));
        let part = &mut owner.parts[partition];
        let is_closed = open.is_some_and(|open| part.closed == Some(open.id) || open.closed.contains_key(topic(partition)));
        if part.unanswered || is_closed {
            part.follower = None;
            return;
        }
        let Some((from, _)) = part.follower.take().filter(|(_, of)| *of == term) else {
            let follower = &self.clusters[1 - leader].logs[partition];
            let end = follower.records.len();
            match copies_from(&owner.state, topic(partition), 0, end as i64, follower.written_end(term)) {
                Ok(_) => part.follower = Some((end, term)),
                Err(_) => self.found[partition] = true,
            }
            return;
        };
        let records = &self.clusters[leader].logs[partition].records;
        let to = records.len().min(from + 12);
        self.found[partition] |= from > records.len();
        if from >= to {
            return;
        }
        let records = records[from..to].to_vec();
        part.unanswered = true;
        let boot = owner.boot;
        let delay = self.delay(10);
        self.at(self.now + delay, Event::Copy { owner: index, boot, cluster: 1 - leader, partition, term, from, records });
        if self.crashes() {
            self.owner_dies(index);
        }
    }

    fn owner_measures(&mut self, index: usize, partition: usize) {
        let owner = &mut self.owners[index];
        let (leader, term) = World::led(&owner.state, partition);
        let read = owner.state.end() - 1;
        let part = &mut owner.parts[partition];
        if owner.state.open().is_some_and(|open| open.closed.contains_key(topic(partition))) {
            return;
        }
        let Some((as_of, leader_end)) = part.measured.take() else {
            part.measured = Some((read, self.clusters[leader].logs[partition].records.len()));
            return;
        };
        let as_of = if self.mutation == Some(Mutation::AsOf) { read } else { as_of };
        let leader_end = leader_end as i64;
        let follower_end = self.clusters[1 - leader].logs[partition].records.len() as i64;
        let written_end = self.clusters[1 - leader].logs[partition].written_end(term);
        let measured =
            Measured { as_of, leader_end, last_stable_offset: leader_end, follower_end, written_end, unanswered: part.unanswered };
        let end = match closing(&owner.state, topic(partition), 0, measured) {
            Ok(end) => end,
            Err(NotYet::Foreign { .. } | NotYet::Diverged { .. }) => return self.found[partition] = true,
            Err(_) => return,
        };
        let Some(id) = owner.state.open().map(|open| open.id) else { return };
        part.closed = Some(id);
        let is_cut = owner.cut > self.now;
        let ends = [(topic(partition).to_owned(), vec![(0, end)])].into();
        self.append(Request::Closed { id, as_of, by: format!("m{index}"), ends }, is_cut);
        if self.crashes() {
            self.owner_dies(index);
        }
    }

    pub(crate) fn owner_dies(&mut self, index: usize) {
        self.note(|| format!("mirror {index} is killed"));
        let boot = self.owners[index].boot + 1;
        self.owners[index] = Owner { boot, ..Owner::default() };
        let up = self.now + self.rng.between(100, 6_000);
        self.at(up, Event::OwnerStarts(index));
    }

    pub(crate) fn owner_is_answered(&mut self, index: usize, boot: u32, partition: usize, is_refused: bool) {
        let owner = &mut self.owners[index];
        if owner.boot == boot && owner.is_alive {
            owner.parts[partition].unanswered = false;
            self.found[partition] |= is_refused;
        }
    }
}
