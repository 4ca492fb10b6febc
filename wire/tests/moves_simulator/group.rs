//! A consumer group: its members commit by proxies, come to the join when they are called, and its last offsets are written before it lives elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use kferry_wire::decisions::{Gathering, Known, Move, Request, Serves, State};

use super::Mutation;
use super::world::{CLUSTERS, Event, LATE, Ms, World, ms};

pub(crate) const GROUP: &str = "shop";
const MEMBERS: usize = 2;

/// How long the mirror waits for its record to be in the log.
const AGAIN: Ms = 800;

#[derive(Debug, Default)]
pub(crate) struct Group {
    /// What was committed last, on each cluster.
    pub(crate) offsets: [i64; 2],
    members: [GroupMember; MEMBERS],
    last: i64,
    /// The process of the mirror that has written offsets last, and when.
    written: Option<(usize, u32, Ms)>,
}

#[derive(Debug, Default)]
struct GroupMember {
    proxy: usize,
    /// Whether a commit is unanswered.
    commits: bool,
}

/// What a proxy knows of the group's members while it is held.
#[derive(Debug, Default)]
pub(crate) struct Come {
    id: Option<i64>,
    heard: BTreeSet<String>,
    parked: BTreeSet<String>,
}

/// What a process of the mirror does about the group of the open move.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    /// What it had read of the log before, and the move, while a write is unanswered.
    writes: Option<(i64, i64)>,
    /// The same, of what is written.
    settled: Option<(i64, i64)>,
    said: Option<Ms>,
}

impl Settling {
    /// It looks anew what is to be written.
    pub(crate) fn forget(&mut self) {
        (self.settled, self.said) = (None, None);
    }
}

fn name(member: usize) -> String {
    format!("m{member}")
}

/// Where the group lives.
pub(crate) fn lives(state: &State) -> usize {
    state.lives().get(GROUP).map_or(0, |life| usize::from(&*life.cluster == CLUSTERS[1]))
}

fn is_held(open: Option<&Move>) -> bool {
    open.is_some_and(|open| open.groups.contains(GROUP))
}

impl World {
    pub(crate) fn group_begins(&mut self) {
        for member in 0..MEMBERS {
            self.group.members[member].proxy = self.rng.below(self.proxies.len());
            self.at(300, Event::Member(member));
        }
    }

    /// What a proxy knows beside what all know.
    pub(crate) fn known_of(&mut self, index: usize) -> Known {
        let process = &self.proxies[index];
        let mut known = std::mem::take(&mut self.known);
        let is_late = self.now < process.unanswered;
        known.open = (is_late || !process.sent.is_empty() || !process.commits.is_empty()).then(String::new);
        known.unanswered = is_late && process.rules.holds().is_none();
        known.gathering.clear();
        if is_held(process.rules.holds()) {
            let members = Some((0..MEMBERS).map(|member| (name(member), name(member))).collect());
            let Come { heard, parked, .. } = &process.come;
            let gathering = Gathering { members, heard: heard.clone(), parked: parked.clone(), patience: None };
            known.gathering.insert(GROUP.to_owned(), gathering);
        }
        known
    }

    /// A member polls: it is heard, and waits to join or commits.
    pub(crate) fn member_acts(&mut self, member: usize) {
        let next = self.now + self.rng.between(40, 300);
        self.at(next, Event::Member(member));
        let index = self.group.members[member].proxy;
        let process = &self.proxies[index];
        if !process.is_alive || process.leaves.is_some() {
            self.proxies[index].come.parked.remove(&name(member));
            self.group.members[member].proxy = self.rng.below(self.proxies.len());
            return;
        }
        if process.paused > self.now || process.rules.serves() != Serves::Yes {
            return;
        }
        let held = process.rules.holds().filter(|open| is_held(Some(*open))).map(|open| open.id);
        let known = self.known_of(index);
        let process = &mut self.proxies[index];
        if process.come.id != held {
            process.come = Come { id: held, ..Come::default() };
        }
        let mut waits = false;
        if held.is_some() {
            process.come.heard.insert(name(member));
            waits = process.rules.calls(&known, ms(self.now)) && !self.group.members[member].commits;
            if waits {
                process.come.parked.insert(name(member));
            }
        }
        self.known = known;
        if !waits && !self.group.members[member].commits {
            self.group.members[member].commits = true;
            self.group.last += 1;
            let value = self.group.last;
            self.proxies[index].held_commits.push((member, value));
            self.commits_go_on(index);
        }
    }

    /// Sends what members commit, unless all of them wait to join.
    pub(crate) fn commits_go_on(&mut self, index: usize) {
        let known = self.known_of(index);
        let process = &mut self.proxies[index];
        let is_complete = is_held(process.rules.holds())
            && (process.rules.has_said() || process.rules.calls(&known, ms(self.now)) && process.rules.missing(&known).is_empty());
        self.known = known;
        if is_complete || self.proxies[index].rules.serves() != Serves::Yes {
            return;
        }
        let cluster = lives(self.proxies[index].rules.state());
        for (member, value) in std::mem::take(&mut self.proxies[index].held_commits) {
            let delay = self.delay(12);
            self.numbers += 1;
            let number = self.numbers;
            self.proxies[index].commits.insert(number, (member, cluster));
            let boot = self.proxies[index].boot;
            self.at(self.now + delay, Event::Commit { proxy: index, boot, number, cluster, value });
        }
    }

    /// A commit arrives at a coordinator.
    pub(crate) fn commits(&mut self, proxy: usize, boot: u32, number: u64, cluster: usize, value: i64) {
        self.note(|| format!("{}: commit {value} of p{proxy} ({boot})", CLUSTERS[cluster]));
        // What a frozen broker writes after that time is what nobody can wait for.
        if !self.frozen.remove(&number) {
            if cluster != lives(&self.truth) {
                self.fails(format!("commit {value} landed on {}, where the group does not live", CLUSTERS[cluster]));
            }
            self.group.offsets[cluster] = value;
        }
        let delay = self.delay(12);
        self.at(self.now + delay, Event::Committed { proxy, boot, number });
    }

    pub(crate) fn member_is_answered(&mut self, proxy: usize, boot: u32, number: u64) {
        let process = &mut self.proxies[proxy];
        if process.boot == boot
            && process.is_alive
            && let Some((member, _)) = process.commits.remove(&number)
        {
            self.group.members[member].commits = false;
        }
    }

    /// The connections of a proxy to a cluster break, or all: what members commit there is not answered. Returns what is on its way.
    pub(crate) fn commits_lost(&mut self, index: usize, at: Option<usize>) -> Vec<u64> {
        let process = &mut self.proxies[index];
        let is_lost = |(_, (_, cluster)): &(u64, (usize, usize))| at.is_none_or(|at| at == *cluster);
        let (lost, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut process.commits).into_iter().partition(is_lost);
        process.commits = rest;
        let held = if at.is_none() { std::mem::take(&mut process.held_commits) } else { Vec::new() };
        if at.is_none() {
            process.come = Come::default();
        }
        for member in lost.values().map(|(member, _)| *member).chain(held.into_iter().map(|(member, _)| member)) {
            self.group.members[member].commits = false;
        }
        lost.into_keys().collect()
    }

    /// The owner writes the last offsets of the group, once nobody commits any more.
    pub(crate) fn owner_settles(&mut self, index: usize) {
        let owner = &self.owners[index];
        let Some(open) = owner.state.open().filter(|open| is_held(Some(*open)) && !open.synced.contains(GROUP)) else { return };
        let (Ok(quiet_since), id, as_of) = (owner.state.quiet_since(), open.id, owner.state.end() - 1) else { return };
        let (boot, is_cut) = (owner.boot, owner.cut > self.now);
        let may_be_late = |(other, of, at): (usize, u32, Ms)| (other, of) != (index, boot) && self.now < at + LATE;
        let waits = self.group.written.is_some_and(may_be_late) && self.mutation != Some(Mutation::ThirtySeconds);
        if owner.settling.writes.is_some() || waits {
            return;
        }
        if let Some((as_of, _)) = owner.settling.settled.filter(|(as_of, of)| *of == id && *as_of >= quiet_since) {
            if owner.settling.said.is_none_or(|said| self.now >= said + AGAIN) {
                self.owners[index].settling.said = Some(self.now);
                self.append(Request::Synced { id, as_of, by: format!("m{index}"), groups: [GROUP.to_owned()].into() }, is_cut);
            }
            return;
        }
        let from = lives(&owner.state);
        let value = self.group.offsets[from];
        self.owners[index].settling = Settling { writes: Some((as_of, id)), ..Settling::default() };
        self.group.written = Some((index, boot, self.now));
        let delay = if self.rng.chance(50) { self.rng.between(10, LATE * 95 / 100) } else { self.delay(10) };
        self.at(self.now + delay, Event::Settle { owner: index, boot, cluster: 1 - from, value });
        if self.crashes() {
            self.owner_dies(index);
        }
    }

    /// The last offsets arrive at a coordinator.
    pub(crate) fn settles(&mut self, owner: usize, boot: u32, cluster: usize, value: i64) {
        self.note(|| format!("{}: mirror {owner} writes {value} for the group", CLUSTERS[cluster]));
        if cluster == lives(&self.truth) {
            self.fails(format!("the mirror wrote {value} for the group on {}, where it lives", CLUSTERS[cluster]));
        }
        self.group.offsets[cluster] = value;
        let delay = self.delay(10);
        self.at(self.now + delay, Event::Settled { owner, boot });
    }

    pub(crate) fn owner_has_settled(&mut self, index: usize, boot: u32) {
        let owner = &mut self.owners[index];
        if owner.boot == boot && owner.is_alive {
            owner.settling.settled = owner.settling.writes.take();
        }
    }

    /// A move of the group flips: its last offsets are there.
    pub(crate) fn group_flips(&mut self) {
        let [old, new] = self.group.offsets;
        if old != new {
            self.fails(format!("at the flip the group has committed {old} and {new}"));
        }
    }
}
