//! What the log says at one point of it, and which record counts there. There is no clock, no socket and no chance in it: whoever has read the same
//! records knows the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::record::{self, Led, Member, Place, Request, Topic, Unknown, Waited, Wished};

/// How many receipts are kept.
const RECEIPTS: usize = 100;
/// The last term that a topic can have: 44 bits below it the producer ids of the mirror begin.
pub const LAST_TERM: i32 = 1 << 18;

/// Whether a record counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does: the state has changed.
    Counts,
    /// It does not: the state is as it was.
    Void(Void),
}

/// Why a record does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// A reader has given an offset twice.
    #[error("it has been read before")]
    ReadBefore,
    /// Not JSON, without a version, or too large.
    #[error("no kferry wrote it")]
    Foreign,
    /// The first record says which log this is.
    #[error("the log's first record is not its identity: it was not begun by kferry, or its beginning is lost")]
    NoIdentity,
    /// What was decided since stands there.
    #[error("the log has moved to cluster {0}: nothing counts in this one any more")]
    Moved(String),
    /// Two proxies have begun the log at the same time, or the record came twice.
    #[error("the log has its identity already")]
    SecondIdentity,
    /// The record came twice.
    #[error("proxy {0} has joined already")]
    JoinedBefore(Member),
    /// It left, was replaced or was forgotten; an incarnation does not come back.
    #[error("proxy {0} is gone: it left, was replaced or was forgotten; it can only join as a new incarnation")]
    Gone(Member),
    /// It has never joined.
    #[error("proxy {0} has not joined")]
    NotJoined(Member),
    /// The record came late, or twice.
    #[error("proxy {proxy} has taken a later file already")]
    OlderFile {
        /// Which.
        proxy: Member,
    },
    /// One move at a time.
    #[error("move {0} is open: one move at a time")]
    OtherMove(i64),
    /// It is over, or was never begun.
    #[error("move {0} is not open")]
    NotOpen(i64),
    /// Something was decided that the author has not read.
    #[error("its author had read the decisions up to {read}, and {last} came since")]
    Outdated {
        /// The last decision that the author names.
        read: i64,
        /// The last one.
        last: i64,
    },
    /// An operator has aborted a move.
    #[error("an operator has aborted move {0}: no move begins before the file is changed, or read again (POST /reload, or SIGHUP)")]
    Stopped(i64),
    /// A move of nothing.
    #[error("a move needs a route, two clusters, and partitions in each topic")]
    Empty,
    /// The proxies do not agree.
    #[error("route {route}: {why}")]
    NotWished {
        /// Which.
        route: String,
        /// Who wants what.
        why: Box<Disagreement>,
    },
    /// The author had the leader wrong.
    #[error("topic {topic} is led by {leader}, not by {from}")]
    LedElsewhere {
        /// Which.
        topic: String,
        /// Who leads it.
        leader: String,
        /// The cluster that the record names.
        from: String,
    },
    /// Somebody was first: two processes of the mirror, or the topic had moved before it was deleted.
    #[error("that topic {0} is led was decided before")]
    LedBefore(String),
    /// The record came twice, or its `born` did not count.
    #[error("proxy {proxy} has said before that it knows {born}, or nothing waits for that")]
    KnownBefore {
        /// Which.
        proxy: Member,
        /// The offset that it names.
        born: i64,
    },
    /// It has moved 262,143 times.
    #[error("topic {0} has had its last term: it cannot move any more")]
    LastTerm(String),
    /// The author had the group wrong.
    #[error("group {group} lives on {lives}, not on {from}")]
    LivesElsewhere {
        /// Which.
        group: String,
        /// Where it lives.
        lives: String,
        /// The cluster that the record names.
        from: String,
    },
    /// The move does not have it.
    #[error("group {0} is not of this move")]
    OtherGroup(String),
    /// It came twice.
    #[error("proxy {0} is holding already")]
    HoldingBefore(Member),
    /// A proxy is not holding, or has joined since.
    #[error("not every proxy holds: {} not", names(.0))]
    NotAllHold(Vec<Member>),
    /// The ends may have grown since they were measured.
    #[error("the ends were measured after reading up to {as_of}, and the last proxy said at {quiet_since} that it holds")]
    MeasuredEarly {
        /// What the mirror had read.
        as_of: i64,
        /// Since which offset every proxy is holding.
        quiet_since: i64,
    },
    /// The move does not have it.
    #[error("partition {partition} of topic {topic} is not of this move")]
    OtherPartition {
        /// Its topic.
        topic: String,
        /// Its number.
        partition: u32,
    },
    /// The mirror has more to say.
    #[error(
        "{count} partitions are not closed, partition {partition} of topic {topic} is the first: the mirror does not run or lags, or it has diverged \
         (`kferry status`), or somebody writes to it past the relay"
    )]
    NotClosed {
        /// How many.
        count: usize,
        /// The topic of the first one.
        topic: String,
        /// Its number.
        partition: u32,
    },
    /// The move can only be aborted.
    #[error("proxy {0} has left before it was holding, and what it had sent may still arrive")]
    LeftLate(Member),
    /// The mirror has more to say.
    #[error("group {0} has not got its last offsets on the other cluster: look whether the mirror runs")]
    NotSynced(String),
    /// All of its groups stay where they live.
    #[error("nothing is left of it: {0}")]
    NothingLeft(String),
    /// It is not over, was never begun, or is long gone.
    #[error("no receipt of move {0} is kept")]
    NoReceipt(i64),
    /// It came twice.
    #[error("proxy {0} has said before what waited")]
    WaitedBefore(Member),
    /// Its author knows another rule.
    #[error("it decides something else than what follows from the records before it")]
    OtherOutcome,
}

fn whys(groups: &BTreeMap<String, String>) -> String {
    groups.iter().map(|(group, why)| format!("group {group}: {why}")).collect::<Vec<_>>().join("; ")
}

fn names(members: &[Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Why there is no wish that all proxies share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Nobody is there.
    #[error("no proxy has joined")]
    Nobody,
    /// The proxy has not read a file with this route.
    #[error("proxy {} has no such route in its file", .0.name)]
    Missing(Member),
    /// They have read different files.
    #[error("proxy {one} wants it on {home}, proxy {other} on {other_home}{}", if home == other_home { ", with other topics or groups" } else { "" })]
    Differs {
        /// A proxy.
        one: String,
        /// The home that it wants.
        home: String,
        /// Another proxy.
        other: String,
        /// The home that that one wants.
        other_home: String,
    },
    /// A restart with an old file orders nothing.
    #[error(
        "proxy {} still has the file with which it has started, and another one was taken since: edit the file there, or, if it is the one that \
         counts, have it read again (POST /reload, or SIGHUP)", .0.name
    )]
    Stale(Member),
}

fn differs(one: &Member, home: &str, other: &Member, other_home: &str) -> Disagreement {
    let [one, home, other, other_home] = [&one.name, home, &other.name, other_home].map(str::to_owned);
    Disagreement::Differs { one, home, other, other_home }
}

/// A proxy that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The offset of its record.
    pub at: i64,
    /// The version of the rules that it knows.
    pub rules: u32,
    /// Where it runs.
    pub place: Place,
    /// Its admin address.
    pub admin: Option<String>,
    /// Whether it took the place of another one, or one of its name was forgotten: what that one sent may still arrive for 30 s.
    pub replaces: bool,
    /// The last file that it has taken.
    pub wish: Option<Wish>,
}

/// A file that a proxy has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Which file of its process it is: 0 for the one that it started with.
    pub taken: u32,
    /// Its digest.
    pub file: String,
    /// What it wants, by the route's name.
    pub routes: BTreeMap<String, Wished>,
}

/// Who leads a topic, by a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The cluster that led before; of a topic that was born on a mirror's target, the source.
    pub before: Arc<str>,
    /// Since this term: 1 where it was born.
    pub term: i32,
    /// The offset of the flip, or of the `born`.
    pub since: i64,
    /// The first offset of the term on each partition; of the first term nobody says it.
    pub ends: Vec<i64>,
    /// The topic's id on each cluster, by the cluster's name.
    pub ids: BTreeMap<String, String>,
}

/// Where a group lives, by a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The cluster on which it lived before.
    pub before: Arc<str>,
    /// The offset of the flip.
    pub since: i64,
}

/// The move that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The offset of its `hold`.
    pub id: i64,
    /// Who asked for it.
    pub by: Member,
    /// The cluster that leads all these topics.
    pub from: Arc<str>,
    /// The cluster that is to lead them.
    pub to: Arc<str>,
    /// The routes that want this.
    pub routes: BTreeSet<String>,
    /// The topics, by name.
    pub topics: BTreeMap<String, Topic>,
    /// The proxies that hold, with nothing open.
    pub holding: BTreeSet<Member>,
    /// A proxy that has left without holding, while something of it may still arrive.
    pub left_late: Option<Member>,
    /// The offset of the record since which every proxy that has joined is holding.
    pub quiet_since: Option<i64>,
    /// By topic and partition, the ends of what is closed.
    pub closed: BTreeMap<String, BTreeMap<u32, i64>>,
    /// The groups, but for those that stay.
    pub groups: BTreeSet<String>,
    /// The groups that stay, and why.
    pub without: BTreeMap<String, String>,
    /// By proxy and group, the members that it has heard since the hold.
    pub heard: BTreeMap<Member, BTreeMap<String, BTreeSet<String>>>,
    /// By proxy and group, the members that wait there to join.
    pub parked: BTreeMap<Member, BTreeMap<String, BTreeSet<String>>>,
    /// The groups whose offsets are on both clusters.
    pub synced: BTreeSet<String>,
}

impl Move {
    /// How many partitions are not closed.
    pub fn unclosed(&self) -> usize {
        let closed = |name| self.closed.get(name).map_or(0, BTreeMap::len);
        self.topics.iter().map(|(name, topic)| topic.partitions as usize - closed(name)).sum()
    }

    /// Whether every partition is closed.
    fn is_closed(&self) -> Result<(), Void> {
        let mut all = self.topics.iter().flat_map(|(name, topic)| (0..topic.partitions).map(move |partition| (name, partition)));
        let is_open = |(name, partition): &(&String, u32)| self.closed.get(*name).is_none_or(|closed| !closed.contains_key(partition));
        all.find(is_open)
            .map_or(Ok(()), |(topic, partition)| Err(Void::NotClosed { count: self.unclosed(), topic: topic.clone(), partition }))
    }

    /// The members of a group that were heard, at whichever proxy.
    pub fn heard<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a String> {
        self.heard.values().filter_map(move |heard| heard.get(group)).flatten()
    }

    /// The members of a group that wait to join, at whichever proxy.
    pub fn parked<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a String> {
        self.parked.values().filter_map(move |parked| parked.get(group)).flatten()
    }

    /// Whether it has groups, or had some.
    pub fn is_of_groups(&self) -> bool {
        !(self.groups.is_empty() && self.without.is_empty())
    }

    /// Whether nothing is left to move: its groups stay.
    fn is_empty(&self) -> bool {
        !self.without.is_empty() && self.groups.is_empty() && self.topics.is_empty()
    }
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The move as it was when it ended: its clusters, routes and topics, and who held.
    pub of: Move,
    /// The offset of the record that ended it.
    pub at: i64,
    /// What came of it.
    pub outcome: Outcome,
    /// What waited, by proxy: each says it when all of that has gone on.
    pub waited: BTreeMap<Member, Waited>,
}

/// What came of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other cluster leads.
    Flipped(Flipped),
    /// Everybody went on where they were.
    Aborted {
        /// Who asked for it.
        by: String,
        /// Why.
        reason: String,
    },
}

/// What a flip decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flipped {
    /// Of each topic.
    pub topics: BTreeMap<String, Led>,
    /// The groups that live on the other cluster.
    pub groups: BTreeSet<String>,
}

/// A group that a move has left where it lives, and that has not moved since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stays {
    /// Why.
    pub why: String,
    /// How many moves have left it, since a file was taken that was another one.
    pub times: u32,
}

/// Topics that were born on a mirror's target, until every proxy knows that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Birth {
    /// The topics.
    pub topics: BTreeSet<String>,
    /// The proxies that know.
    pub known: BTreeSet<Member>,
}

/// What the log says, up to one point of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The offset after the last record that was read.
    end: i64,
    identity: Option<String>,
    joined: BTreeMap<Member, Joined>,
    gone: BTreeSet<Member>,
    /// The names of those that an operator has forgotten, until they join again: one that was alive after all is cut, and may have left requests behind.
    forgotten: BTreeSet<String>,
    /// The last one that has left while something that was sent from its place may still arrive, and the offset at which it says so; until a move begins.
    left_late: Option<(Member, i64)>,
    /// The digests of all files that were ever taken.
    files: BTreeSet<String>,
    /// The digest of the file that was last taken while a proxy ran, or that was new, or by which the last move began.
    current: Option<String>,
    homes: BTreeMap<String, Arc<str>>,
    leaders: BTreeMap<String, Leader>,
    lives: BTreeMap<String, Life>,
    stays: BTreeMap<String, Stays>,
    last_decision: i64,
    open: Option<Move>,
    /// The move that an operator aborted, until another file is taken, or the same one is read again for an operator.
    stopped: Option<i64>,
    aborts: u32,
    receipts: VecDeque<Arc<Receipt>>,
    /// The topics of each `born` that not every proxy knows, and who does.
    births: BTreeMap<i64, Birth>,
    /// The cluster to which the log has moved.
    moved: Option<String>,
    /// Where it came here from another cluster, the last time.
    came: Option<i64>,
}

impl State {
    /// Reads the record at `offset`. Offsets grow; `None` is a record without a value.
    ///
    /// # Errors
    /// [`Unknown`]: this program must not take part from here on, and the state is as it was.
    pub fn read(&mut self, offset: i64, value: Option<&[u8]>) -> Result<Verdict, Unknown> {
        Ok(match value.map(record::decode).transpose()?.flatten() {
            Some(request) => self.apply(offset, &request),
            None if offset < self.end => Verdict::Void(Void::ReadBefore),
            None => {
                self.end = offset.saturating_add(1);
                Verdict::Void(Void::Foreign)
            }
        })
    }

    /// Whether the request at `offset` counts. If it does, the state is the one after it.
    pub fn apply(&mut self, offset: i64, request: &Request) -> Verdict {
        if offset < self.end {
            return Verdict::Void(Void::ReadBefore);
        }
        self.end = offset.saturating_add(1);
        match self.decide(offset, request) {
            Ok(()) => {
                self.see_who_holds(offset);
                let joined = &self.joined;
                self.births.retain(|_, birth| joined.keys().any(|member| !birth.known.contains(member)));
                Verdict::Counts
            }
            Err(void) => Verdict::Void(void),
        }
    }

    fn decide(&mut self, offset: i64, request: &Request) -> Result<(), Void> {
        if let Request::Identity { log } = request {
            return self.begin(offset, log);
        }
        if self.identity.is_none() {
            return Err(Void::NoIdentity);
        }
        if let Some(to) = &self.moved {
            return Err(Void::Moved(to.clone()));
        }
        match request {
            Request::Identity { .. } => Err(Void::SecondIdentity),
            Request::Joined { proxy, rules, place, admin } => self
                .join(proxy, Joined { at: offset, rules: *rules, place: place.clone(), admin: admin.clone(), replaces: false, wish: None }),
            Request::Left { proxy, late } => self.leave(offset, proxy, *late),
            Request::Forgotten { proxy, .. } => self.forget(proxy),
            Request::Wish { proxy, taken, file, routes } => {
                self.wish(proxy, Wish { taken: *taken, file: file.clone(), routes: routes.clone() })
            }
            Request::Hold { by, after, from, to, routes, topics, groups } => {
                self.may_hold(by, *after, [from, to], routes, topics)?;
                self.may_hold_groups(from, groups)?;
                self.last_decision = offset;
                self.left_late = None;
                // All proxies agree on it here; another one that a slow proxy took since the author did is older.
                self.current = self.joined.get(by).and_then(|joined| joined.wish.as_ref()).map(|wish| wish.file.clone());
                self.open = Some(Move {
                    id: offset,
                    by: by.clone(),
                    from: from.as_str().into(),
                    to: to.as_str().into(),
                    routes: routes.clone(),
                    topics: topics.clone(),
                    holding: BTreeSet::new(),
                    left_late: None,
                    quiet_since: None,
                    closed: BTreeMap::new(),
                    groups: groups.clone(),
                    without: BTreeMap::new(),
                    heard: BTreeMap::new(),
                    parked: BTreeMap::new(),
                    synced: BTreeSet::new(),
                });
                Ok(())
            }
            Request::Parked { proxy, id, members, heard } => {
                self.member(proxy)?;
                let open = self.opened(*id)?;
                open.parked.insert(proxy.clone(), members.clone());
                open.heard.insert(proxy.clone(), heard.clone());
                Ok(())
            }
            Request::Without { id, by: _, groups } => self.leave_out(*id, groups),
            Request::Holding { proxy, id } => {
                self.member(proxy)?;
                let newly = self.opened(*id)?.holding.insert(proxy.clone());
                if newly { Ok(()) } else { Err(Void::HoldingBefore(proxy.clone())) }
            }
            Request::Closed { id, as_of, by: _, ends } => self.close(*id, *as_of, ends),
            Request::Synced { id, as_of, by: _, groups } => self.sync(*id, *as_of, groups),
            Request::Flip { id, by, topics, groups } => {
                self.member(by)?;
                self.opened(*id)?;
                let outcome = self.outcome()?;
                if outcome.topics != *topics || outcome.groups != *groups {
                    return Err(Void::OtherOutcome);
                }
                self.flip(offset, outcome);
                Ok(())
            }
            Request::Waited { proxy, id, waited } => {
                self.member(proxy)?;
                let receipt = self.receipts.iter_mut().find(|receipt| receipt.of.id == *id).ok_or(Void::NoReceipt(*id))?;
                if receipt.waited.contains_key(proxy) {
                    return Err(Void::WaitedBefore(proxy.clone()));
                }
                Arc::make_mut(receipt).waited.insert(proxy.clone(), *waited);
                Ok(())
            }
            Request::Abort { id, by, reason, until_edit } => {
                // Groups that stay are counted one by one.
                let is_failed = !self.opened(*id)?.is_empty();
                self.aborts = self.aborts.saturating_add(u32::from(is_failed));
                self.stopped = until_edit.then_some(*id);
                self.ended(offset, Outcome::Aborted { by: by.clone(), reason: reason.clone() });
                Ok(())
            }
            Request::Born { by: _, leader, follower, topics } => self.born(offset, leader, follower, topics),
            Request::Knows { proxy, born } => {
                self.member(proxy)?;
                let newly = self.births.get_mut(born).is_some_and(|birth| birth.known.insert(proxy.clone()));
                if newly { Ok(()) } else { Err(Void::KnownBefore { proxy: proxy.clone(), born: *born }) }
            }
            Request::Moved { to, by: _ } => self.move_to(to),
            Request::Came { .. } => {
                self.came = Some(offset);
                Ok(())
            }
        }
    }

    fn born(&mut self, offset: i64, leader: &str, follower: &str, topics: &BTreeMap<String, Option<String>>) -> Result<(), Void> {
        if let Some(open) = &self.open {
            return Err(Void::OtherMove(open.id));
        }
        if leader == follower || topics.is_empty() {
            return Err(Void::Empty);
        }
        if let Some(topic) = topics.keys().find(|topic| self.leaders.contains_key(*topic)) {
            return Err(Void::LedBefore(topic.clone()));
        }
        for (topic, id) in topics {
            let ids = id.iter().map(|id| (leader.to_owned(), id.clone())).collect();
            let led = Leader { cluster: leader.into(), before: follower.into(), term: 1, since: offset, ends: Vec::new(), ids };
            self.leaders.insert(topic.clone(), led);
        }
        self.last_decision = offset;
        self.births.insert(offset, Birth { topics: topics.keys().cloned().collect(), known: BTreeSet::new() });
        Ok(())
    }

    fn move_to(&mut self, to: &str) -> Result<(), Void> {
        match &self.open {
            // Who holds waits for its outcome here.
            Some(open) => Err(Void::OtherMove(open.id)),
            None => {
                self.moved = Some(to.to_owned());
                Ok(())
            }
        }
    }

    fn begin(&mut self, offset: i64, log: &str) -> Result<(), Void> {
        match &self.identity {
            Some(_) => Err(Void::SecondIdentity),
            None if offset != 0 => Err(Void::NoIdentity),
            None => {
                self.identity = Some(log.to_owned());
                Ok(())
            }
        }
    }

    fn join(&mut self, proxy: &Member, joined: Joined) -> Result<(), Void> {
        if self.gone.contains(proxy) {
            return Err(Void::Gone(proxy.clone()));
        }
        if self.joined.contains_key(proxy) {
            return Err(Void::JoinedBefore(proxy.clone()));
        }
        let same = |(member, other): &(&Member, &Joined)| member.name == proxy.name && other.place == joined.place;
        let earlier = self.joined.iter().find(same).map(|(member, _)| member.clone());
        if let Some(earlier) = &earlier {
            self.remove(earlier);
        }
        let replaces = self.forgotten.remove(&proxy.name) || earlier.is_some();
        self.joined.insert(proxy.clone(), Joined { replaces, ..joined });
        Ok(())
    }

    fn forget(&mut self, proxy: &Member) -> Result<(), Void> {
        self.member(proxy)?;
        self.remove(proxy);
        self.forgotten.insert(proxy.name.clone());
        Ok(())
    }

    /// Also of one whose `joined` is not in the log: should it come late, it is void.
    fn leave(&mut self, offset: i64, proxy: &Member, late: bool) -> Result<(), Void> {
        if self.gone.contains(proxy) {
            return Err(Void::Gone(proxy.clone()));
        }
        if late {
            // Whoever asks for a move must have read it, and waited.
            self.last_decision = offset;
            self.left_late = Some((proxy.clone(), offset));
            if let Some(open) = self.open.as_mut().filter(|open| !open.holding.contains(proxy)) {
                open.left_late = Some(proxy.clone());
            }
        }
        self.remove(proxy);
        Ok(())
    }

    fn remove(&mut self, proxy: &Member) {
        self.joined.remove(proxy);
        self.gone.insert(proxy.clone());
        if let Some(open) = &mut self.open {
            open.holding.remove(proxy);
            open.heard.remove(proxy);
            open.parked.remove(proxy);
        }
    }

    fn wish(&mut self, proxy: &Member, wish: Wish) -> Result<(), Void> {
        self.member(proxy)?;
        let joined = self.joined.get_mut(proxy).ok_or_else(|| Void::NotJoined(proxy.clone()))?;
        if joined.wish.as_ref().is_some_and(|last| last.taken >= wish.taken) {
            return Err(Void::OlderFile { proxy: proxy.clone() });
        }
        let is_new = self.files.insert(wish.file.clone());
        // To touch a file is somebody's word as to change it is; but not that it reaches another proxy.
        let is_touched = joined.wish.as_ref().is_some_and(|last| last.file == wish.file);
        for (route, wished) in &wish.routes {
            // A route that the log has never seen is at home where its first file says: nobody moves.
            self.homes.entry(route.clone()).or_insert_with(|| wished.home.as_str().into());
        }
        if is_touched || (is_new || wish.taken > 0) && self.current.as_ref() != Some(&wish.file) {
            self.current = Some(wish.file.clone());
            self.stopped = None;
            self.aborts = 0;
            self.stays.clear();
        }
        joined.wish = Some(wish);
        Ok(())
    }

    fn may_hold(
        &self,
        by: &Member,
        after: i64,
        [from, to]: [&str; 2],
        routes: &BTreeSet<String>,
        topics: &BTreeMap<String, Topic>,
    ) -> Result<(), Void> {
        self.member(by)?;
        if let Some(open) = &self.open {
            return Err(Void::OtherMove(open.id));
        }
        if let Some(id) = self.stopped {
            return Err(Void::Stopped(id));
        }
        if after != self.last_decision {
            return Err(Void::Outdated { read: after, last: self.last_decision });
        }
        if from == to || routes.is_empty() || topics.values().any(|topic| topic.partitions == 0) {
            return Err(Void::Empty);
        }
        for route in routes {
            let void = |why| Void::NotWished { route: route.clone(), why: Box::new(why) };
            let (member, wished) = self.wished(route).map_err(void)?;
            if wished.home != to {
                return Err(void(differs(by, to, member, &wished.home)));
            }
        }
        for topic in topics.keys() {
            let Some(leader) = self.leaders.get(topic) else { continue };
            if *leader.cluster != *from {
                return Err(Void::LedElsewhere { topic: topic.clone(), leader: leader.cluster.to_string(), from: from.to_owned() });
            }
            if leader.term >= LAST_TERM {
                return Err(Void::LastTerm(topic.clone()));
            }
        }
        Ok(())
    }

    fn may_hold_groups(&self, from: &str, groups: &BTreeSet<String>) -> Result<(), Void> {
        for group in groups {
            if let Some(life) = self.lives.get(group).filter(|life| *life.cluster != *from) {
                return Err(Void::LivesElsewhere { group: group.clone(), lives: life.cluster.to_string(), from: from.to_owned() });
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, id: i64, groups: &BTreeMap<String, String>) -> Result<(), Void> {
        let open = self.opened(id)?;
        let unknown = groups.keys().find(|group| !open.groups.contains(*group) && !open.without.contains_key(*group));
        if let Some(unknown) = unknown {
            return Err(Void::OtherGroup(unknown.clone()));
        }
        for (group, why) in groups {
            open.synced.remove(group);
            if open.groups.remove(group) {
                open.without.insert(group.clone(), why.clone());
            }
        }
        Ok(())
    }

    fn sync(&mut self, id: i64, as_of: i64, groups: &BTreeSet<String>) -> Result<(), Void> {
        self.opened(id)?;
        let quiet_since = self.quiet_since()?;
        if as_of < quiet_since {
            return Err(Void::MeasuredEarly { as_of, quiet_since });
        }
        let open = self.opened(id)?;
        match groups.iter().find(|group| !open.groups.contains(*group)) {
            Some(other) => Err(Void::OtherGroup(other.clone())),
            None => {
                open.synced.extend(groups.iter().cloned());
                Ok(())
            }
        }
    }

    fn close(&mut self, id: i64, as_of: i64, ends: &BTreeMap<String, Vec<(u32, i64)>>) -> Result<(), Void> {
        self.opened(id)?;
        let quiet_since = self.quiet_since()?;
        if as_of < quiet_since {
            return Err(Void::MeasuredEarly { as_of, quiet_since });
        }
        let open = self.opened(id)?;
        for (topic, ends) in ends {
            let has = open.topics.get(topic).map_or(0, |topic| topic.partitions);
            if let Some((partition, _)) = ends.iter().find(|(partition, end)| *partition >= has || *end < 0) {
                return Err(Void::OtherPartition { topic: topic.clone(), partition: *partition });
            }
        }
        for (topic, ends) in ends {
            open.closed.entry(topic.clone()).or_default().extend(ends.iter().copied());
        }
        Ok(())
    }

    fn flip(&mut self, offset: i64, outcome: Flipped) {
        let Some(open) = &self.open else { return };
        for group in &outcome.groups {
            let life = Life { cluster: open.to.clone(), before: open.from.clone(), since: offset };
            self.lives.insert(group.clone(), life);
            self.stays.remove(group);
        }
        for (name, led) in &outcome.topics {
            let ids = open.topics.get(name).map(|topic| topic.ids.clone()).unwrap_or_default();
            let leader =
                Leader { cluster: open.to.clone(), before: open.from.clone(), term: led.term, since: offset, ends: led.ends.clone(), ids };
            self.leaders.insert(name.clone(), leader);
        }
        // Groups move by themselves: clients may be at home where their topics are.
        let routes = open.routes.iter().filter(|_| !open.is_of_groups());
        for route in routes {
            // A route whose home is on a third cluster moves it with what leads there.
            if let Some(home) = self.homes.get_mut(route).filter(|home| **home == open.from) {
                *home = open.to.clone();
            }
        }
        self.aborts = 0;
        self.ended(offset, Outcome::Flipped(outcome));
    }

    fn ended(&mut self, offset: i64, outcome: Outcome) {
        let Some(of) = self.open.take() else { return };
        for (group, why) in &of.without {
            let times = self.stays.get(group).map_or(1, |stays| stays.times.saturating_add(1));
            self.stays.insert(group.clone(), Stays { why: why.clone(), times });
        }
        self.last_decision = offset;
        self.receipts.truncate(RECEIPTS - 1);
        self.receipts.push_front(Arc::new(Receipt { of, at: offset, outcome, waited: BTreeMap::new() }));
    }

    fn see_who_holds(&mut self, offset: i64) {
        let Some(open) = &mut self.open else { return };
        if !self.joined.is_empty() && self.joined.keys().all(|member| open.holding.contains(member)) {
            open.quiet_since.get_or_insert(offset);
        } else {
            open.quiet_since = None;
            open.closed.clear();
            open.synced.clear();
        }
    }

    fn member(&self, proxy: &Member) -> Result<(), Void> {
        if self.joined.contains_key(proxy) {
            Ok(())
        } else if self.gone.contains(proxy) {
            Err(Void::Gone(proxy.clone()))
        } else {
            Err(Void::NotJoined(proxy.clone()))
        }
    }

    fn opened(&mut self, id: i64) -> Result<&mut Move, Void> {
        self.open.as_mut().filter(|open| open.id == id).ok_or(Void::NotOpen(id))
    }

    /// Since which offset every proxy is holding the open move.
    ///
    /// # Errors
    /// [`Void::NotAllHold`].
    pub fn quiet_since(&self) -> Result<i64, Void> {
        let open = self.open.as_ref();
        let others = || self.joined.keys().filter(|member| !open.is_some_and(|open| open.holding.contains(*member))).cloned().collect();
        open.and_then(|open| open.quiet_since).ok_or_else(|| Void::NotAllHold(others()))
    }

    /// What a flip of the open move decides now.
    ///
    /// # Errors
    /// [`Void`]: why it would not count. No move is open, a proxy is not holding, a partition is not closed, or a group not synced.
    pub fn outcome(&self) -> Result<Flipped, Void> {
        let open = self.open.as_ref().ok_or(Void::NotOpen(self.last_decision))?;
        if open.is_empty() {
            return Err(Void::NothingLeft(whys(&open.without)));
        }
        if let Some(proxy) = &open.left_late {
            return Err(Void::LeftLate(proxy.clone()));
        }
        self.quiet_since()?;
        open.is_closed()?;
        if let Some(group) = open.groups.iter().find(|group| !open.synced.contains(*group)) {
            return Err(Void::NotSynced(group.clone()));
        }
        let led = |name: &String| Led {
            leader: open.to.to_string(),
            term: self.term(name) + 1,
            ends: open.closed.get(name).map(|ends| ends.values().copied().collect()).unwrap_or_default(),
        };
        let topics = open.topics.keys().map(|name| (name.clone(), led(name))).collect();
        Ok(Flipped { topics, groups: open.groups.clone() })
    }

    /// What every proxy that has joined wants for a route, with one that wants it, if they agree and no wish is of an old file.
    ///
    /// A file is old if a process started with it, and it had been taken before, and another one was taken since: what is on the disk of a machine that
    /// was away, or in an image, orders nothing. A file that a proxy takes while it runs is never old, and neither is one that nobody has seen before.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn wished(&self, route: &str) -> Result<(&Member, &Wished), Disagreement> {
        let mut first: Option<(&Member, &Wished)> = None;
        for (member, joined) in &self.joined {
            let wish = joined.wish.as_ref();
            let wished = wish.and_then(|wish| wish.routes.get(route)).ok_or_else(|| Disagreement::Missing(member.clone()))?;
            let (other, same) = *first.get_or_insert((member, wished));
            if wished != same {
                return Err(differs(other, &same.home, member, &wished.home));
            }
            if self.is_stale(member) {
                return Err(Disagreement::Stale(member.clone()));
            }
        }
        first.ok_or(Disagreement::Nobody)
    }

    /// Whether a proxy's file is an old one, with which its process has started: see [`Self::wished`].
    pub fn is_stale(&self, proxy: &Member) -> bool {
        let wish = self.joined.get(proxy).and_then(|joined| joined.wish.as_ref());
        wish.is_some_and(|wish| wish.taken == 0 && self.current.as_ref() != Some(&wish.file))
    }

    /// The offset after the last record that was read.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Which log this is.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The cluster to which the log has moved: nothing counts in this one any more.
    pub fn moved(&self) -> Option<&str> {
        self.moved.as_deref()
    }

    /// The proxies that have joined before the log came here and were not started anew since: they follow the log where it was, in which nothing counts any more.
    pub fn left_behind(&self) -> impl Iterator<Item = &Member> {
        let is_left = move |joined: &Joined| self.came.is_some_and(|came| joined.at < came);
        self.joined.iter().filter(move |(_, joined)| is_left(joined)).map(|(member, _)| member)
    }

    /// The version of the rules that applies: the lowest one of all proxies that have joined. Records are written under it.
    pub fn rules(&self) -> u32 {
        self.joined.values().map(|joined| joined.rules).chain([record::RULES]).min().unwrap_or(record::RULES)
    }

    /// The proxies that have joined.
    pub fn joined(&self) -> &BTreeMap<Member, Joined> {
        &self.joined
    }

    /// Whether a proxy left, was replaced or was forgotten.
    pub fn is_gone(&self, proxy: &Member) -> bool {
        self.gone.contains(proxy)
    }

    /// The last proxy that has left while something that was sent from its place may still arrive, and the offset at which it says so. `None`: a move has begun
    /// since, whose author has waited for that.
    pub fn left_late(&self) -> Option<&(Member, i64)> {
        self.left_late.as_ref()
    }

    /// The home in force of each route.
    pub fn homes(&self) -> &BTreeMap<String, Arc<str>> {
        &self.homes
    }

    /// The topics whose leader was decided. All others lead in term 1 where [`crate::places`] says.
    pub fn leaders(&self) -> &BTreeMap<String, Leader> {
        &self.leaders
    }

    /// The groups whose cluster was decided. All others live where [`crate::places`] says.
    pub fn lives(&self) -> &BTreeMap<String, Life> {
        &self.lives
    }

    /// The groups that the last move of them has left where they live, and why.
    pub fn stays(&self) -> &BTreeMap<String, Stays> {
        &self.stays
    }

    /// The topics of each `born` that not every proxy knows yet, by its offset.
    pub fn births(&self) -> &BTreeMap<i64, Birth> {
        &self.births
    }

    /// Whether every proxy knows where a topic was born, if that was decided: from then on there may be a copy of it.
    pub fn all_know(&self, topic: &str) -> bool {
        !self.births.values().any(|birth| birth.topics.contains(topic))
    }

    /// The term of a topic: 1 if nothing was ever decided of it.
    pub fn term(&self, topic: &str) -> i32 {
        self.leaders.get(topic).map_or(1, |leader| leader.term)
    }

    /// The highest term of a topic.
    pub fn highest_term(&self) -> i32 {
        self.leaders.values().map(|leader| leader.term).max().unwrap_or(1)
    }

    /// The move that is open.
    pub fn open(&self) -> Option<&Move> {
        self.open.as_ref()
    }

    /// The offset of the last `hold`, `flip`, `abort` or `born` that counts; 0, which is the identity's, if there is none.
    pub fn last_decision(&self) -> i64 {
        self.last_decision
    }

    /// The move that an operator aborted: no other begins before another file is taken.
    pub fn stopped(&self) -> Option<i64> {
        self.stopped
    }

    /// How many moves were aborted since the last flip, or since a file was taken that was another one.
    pub fn aborts(&self) -> u32 {
        self.aborts
    }

    /// How the last 100 moves ended, the newest first.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.receipts.iter().map(|receipt| &**receipt)
    }
}
