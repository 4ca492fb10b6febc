//! The groups of a move: once all proxies hold what their members commit, their last offsets are written on the cluster on which they are to live.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kferry_wire::decisions::{LATE, LogError, Request, ask};
use kferry_wire::tell;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{AGAIN, Moves, is_of};
use crate::groups::Settled;
use crate::messages;
use crate::partition::Direction;
use crate::shards::Owned;

/// Between two attempts to write the last offsets of a group.
const PAUSE: Duration = Duration::from_millis(50);
/// How long that is tried: then the group stays where it lives.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What this process knows of the groups of the open move.
pub(super) struct MovingGroups {
    /// What came of it, and the offset of the last record of the log that was read before.
    found: BTreeMap<String, (Found, i64)>,
    /// When it is looked at them again.
    next: Instant,
    /// Since when they are looked at.
    since: Option<Instant>,
    /// When that was said last.
    said: Option<Instant>,
    /// When this process has started, in ms since the epoch.
    started: i64,
    /// Until when something may be written that this process has sent, and that was not answered.
    late: Instant,
    asking: JoinSet<Result<(), LogError>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Synced,
    Stays(String),
}

/// What is to be settled now.
pub(in crate::run) struct ToSettle {
    pub(in crate::run) groups: BTreeSet<String>,
    pub(in crate::run) direction: Direction,
    pub(in crate::run) as_of: i64,
    pub(in crate::run) started: i64,
}

impl MovingGroups {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let started = jiff::Timestamp::now().as_millisecond();
        Self { found: BTreeMap::new(), next: now, since: None, said: None, started, late: now, asking: JoinSet::new() }
    }

    /// Another move is open, or none.
    pub(super) fn forget(&mut self) {
        (self.since, self.said) = (None, None);
        self.found.clear();
    }
}

impl Moves {
    /// From which cluster to which the offsets of groups are copied, by decisions.
    pub(in crate::run) fn lives(&self) -> HashMap<String, Direction> {
        let lives = self.state.iter().flat_map(|state| state.lives());
        let of = lives.filter(|(_, life)| is_of(&self.mirror, &life.before, &life.cluster));
        of.filter_map(|(group, life)| Some((group.clone(), Direction::led_by(&self.mirror, &life.cluster)?))).collect()
    }

    /// The groups of the open move: nothing is written for them but their last offsets.
    pub(in crate::run) fn moving_groups(&self) -> BTreeSet<String> {
        self.open().map(|open| open.groups.clone()).unwrap_or_default()
    }

    /// Which of them are to be settled by this process, if it is time for that.
    pub(in crate::run) fn take_unsettled(&mut self, owned: &Owned, now: Instant) -> Option<ToSettle> {
        let (state, open) = self.state.as_ref().zip(self.open())?;
        let quiet_since = state.quiet_since().ok()?;
        let is_ours = |group: &&String| owned.of_group(group).is_some_and(|shard| shard.may_write());
        let is_found = |group: &&String| self.groups.found.get(*group).is_some_and(|(_, as_of)| *as_of >= quiet_since);
        let groups: BTreeSet<_> =
            open.groups.iter().filter(|group| !open.synced.contains(*group) && is_ours(group) && !is_found(group)).cloned().collect();
        let direction = Direction::led_by(&self.mirror, &open.from)?;
        let as_of = state.end() - 1;
        if groups.is_empty() || now < self.groups.next {
            return None;
        }
        self.groups.since.get_or_insert(now);
        if now < self.groups.late {
            let why = "a commit of the mirror may be under way: a broker has not answered, less than 30 s ago";
            self.settled(
                Settled { as_of, not_yet: groups.into_iter().map(|group| (group, why.to_owned())).collect(), ..Settled::default() },
                now,
            );
            return None;
        }
        Some(ToSettle { groups, direction, as_of, started: self.groups.started })
    }

    /// What came of it.
    pub(in crate::run) fn settled(&mut self, settled: Settled, now: Instant) {
        let Settled { as_of, synced, stays, not_yet, is_unanswered } = settled;
        let groups = &mut self.groups;
        groups.next = now + PAUSE;
        self.may_be_late(is_unanswered, now);
        let groups = &mut self.groups;
        let is_over = groups.since.is_some_and(|since| now >= since + PATIENCE);
        for (group, why) in &not_yet {
            tracing::debug!(group, why, "a group is not settled yet");
        }
        let stays = stays.into_iter().chain(not_yet.into_iter().filter(|_| is_over));
        groups.found.extend(synced.into_iter().map(|group| (group, (Found::Synced, as_of))));
        groups.found.extend(stays.map(|(group, why)| (group, (Found::Stays(why), as_of))));
        groups.said = None;
    }

    /// Something that was written for groups was not answered: it may be taken later.
    pub(in crate::run) fn may_be_late(&mut self, is_unanswered: bool, now: Instant) {
        if is_unanswered {
            self.groups.late = now + LATE;
        }
    }

    /// Says which groups have their offsets, and which stay, as long as the log does not have that.
    pub(in crate::run) fn say_settled(&mut self, now: Instant) {
        while let Some(asked) = self.groups.asking.try_join_next() {
            if let Ok(Err(error)) = asked {
                tell!(messages::LOG_TROUBLE, mirror = &*self.mirror.name, %error);
            }
        }
        let Some((state, open)) = self.state.as_ref().zip(self.open()) else { return };
        let Ok(quiet_since) = state.quiet_since() else { return };
        if !self.groups.asking.is_empty() || self.groups.said.is_some_and(|said| now < said + AGAIN) {
            return;
        }
        let (mut synced, mut stays, mut first) = (BTreeSet::new(), BTreeMap::new(), i64::MAX);
        for (group, (found, as_of)) in
            self.groups.found.iter().filter(|(group, (_, as_of))| open.groups.contains(*group) && *as_of >= quiet_since)
        {
            match found {
                Found::Synced if !open.synced.contains(group) => {
                    synced.insert(group.clone());
                    first = first.min(*as_of);
                }
                Found::Synced => {}
                Found::Stays(why) => drop(stays.insert(group.clone(), why.clone())),
            }
        }
        let (id, by, rules, client) = (open.id, format!("mirror {}", self.mirror.name), state.rules(), self.client.clone());
        let mut requests = Vec::new();
        if !stays.is_empty() {
            requests.push(Request::Without { id, by: by.clone(), groups: stays });
        }
        if !synced.is_empty() {
            requests.push(Request::Synced { id, as_of: first, by, groups: synced });
        }
        if requests.is_empty() {
            return;
        }
        self.groups.said = Some(now);
        self.groups.asking.spawn(async move { ask(&client, &requests, rules, jiff::Timestamp::now().as_millisecond()).await });
    }
}
