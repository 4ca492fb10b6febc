//! What a proxy does next: whether it serves, what it holds, and which record it appends, by what it has read, by its file, and by what it knows of
//! itself and of the clusters. It has no clock: `now` is the time since any fixed moment, and never goes back.
//!
//! The wish is reconciled with the state, level by level: nothing here waits for an event that could be missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{
    Birth, Flipped, Member, Move, Place, RULES, Request, State, TRANSACTIONAL, Topic, Unknown, Verdict, Void, Waited, Wish, Wished, encode,
};

/// An aborted move is tried again after [`Settings::retry`], which doubles with each abort this many times.
const DOUBLINGS: u32 = 4;

/// How many groups one move has at the most: more of them move one after the other.
const GROUPS: usize = 500;

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a move may hold before it is aborted.
    pub hold: Duration,
    /// How long the members of groups may take at the most until all of them were heard, and again until all wait to join, before `hold` begins: those
    /// groups that are not complete then stay.
    pub gather: Duration,
    /// How much longer each proxy waits than the one whose name comes before its own, before it asks for what any of them may ask for.
    pub stand_by: Duration,
    /// How long what was sent may still arrive at a broker after its sender is gone: 30 s.
    pub late: Duration,
    /// How long after an abort the move is tried again.
    pub retry: Duration,
    /// How long after it was appended a record that has not been read back is appended again.
    pub again: Duration,
}

/// A topic that a route of the file owns.
#[derive(Debug, Clone)]
pub struct Owned {
    /// Its name.
    pub name: String,
    /// The cluster that leads it if nothing was decided of it.
    pub leader: String,
    /// Its partitions and ids.
    pub topic: Topic,
    /// Why it cannot move now, as a sentence that says what to do: what the preflight says.
    pub blocked: Option<String>,
}

/// A group that a route of the file owns.
#[derive(Debug, Clone)]
pub struct OwnedGroup {
    /// Its name.
    pub name: String,
    /// The cluster on which it lives if nothing was decided of it.
    pub lives: String,
    /// Why it cannot move now, as [`Owned::blocked`].
    pub blocked: Option<String>,
}

/// What a proxy knows of a group of the open move.
#[derive(Debug, Clone, Default)]
pub struct Gathering {
    /// Its members, as the coordinator where it lives has told last, with a name for operators. `None`: it has not told.
    pub members: Option<BTreeMap<String, String>>,
    /// Those that were heard here since the hold.
    pub heard: BTreeSet<String>,
    /// Those that wait here to join.
    pub parked: BTreeSet<String>,
    /// How long they may take to come to the join, as far as one that waits here has told.
    pub patience: Option<Duration>,
}

/// What a proxy knows of itself and of the clusters.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What each route of the file owns. A route that is not here was not looked at yet: nothing moves before.
    pub owns: BTreeMap<String, Vec<Owned>>,
    /// The groups that each route of the file owns, as far as clusters have told.
    pub groups: BTreeMap<String, Vec<OwnedGroup>>,
    /// What is known of the groups of the open move.
    pub gathering: BTreeMap<String, Gathering>,
    /// What of this process belongs to a topic or a group of the open move and is at a broker, or on its way there, or was when its connection broke less than
    /// [`Settings::late`] ago: whose requests, for people to read.
    pub open: Option<String>,
    /// Whether a connection to a broker broke, less than [`Settings::late`] ago, with a Produce that was not answered.
    pub unanswered: bool,
    /// Whether clients that nobody counts or holds were cut, by the file, and what they had sent may still arrive: the others do not learn of the file before
    /// that is over, and nothing moves by it.
    pub cut: bool,
    /// What waited here for the outcome of the last move, by the move's id, once all of that has gone on.
    pub waited: Option<(i64, Waited)>,
    /// Groups of the open move that commit in transactions, by a client of this process: they are left where they live.
    pub transactional: BTreeSet<String>,
    /// Why the open move cannot come to its end.
    pub broken: Option<String>,
    /// Whether both clusters are still to be looked at a last time before the flip of the open move: it is not asked for before.
    pub looking: bool,
}

/// Whether a proxy serves relayed clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// It has not read its own `joined`.
    NotYet,
    /// It does.
    Yes,
    /// It was replaced or forgotten, or it has left: all relayed connections are cut at once. To serve again it joins as a new incarnation.
    Cut,
}

/// A move that the files want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The routes that want it.
    pub routes: BTreeSet<String>,
    /// The topics.
    pub topics: BTreeMap<String, Topic>,
    /// The groups.
    pub groups: BTreeSet<String>,
}

/// What the files want and the log does not say yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What can move, by the clusters from and to which it moves.
    pub moves: BTreeMap<(String, String), Wanted>,
    /// The groups that can move, likewise: after all that, by themselves.
    pub groups: BTreeMap<(String, String), Wanted>,
    /// Why a route, or a group of it, does not move, by the route's name.
    pub waits: BTreeMap<String, Vec<String>>,
}

impl Plan {
    /// All that could move waits, for this reason.
    pub fn wait(&mut self, why: &str) {
        let wanting: BTreeSet<&String> = self.moves.values().chain(self.groups.values()).flat_map(|wanted| &wanted.routes).collect();
        for route in wanting {
            self.waits.entry(route.clone()).or_default().push(why.to_owned());
        }
    }
}

/// What a proxy has done about the open move.
#[derive(Debug)]
struct Held {
    id: i64,
    since: Duration,
    /// Whether it has asked for `holding`: the record may be in the log whether or not the append was answered.
    said: bool,
    /// Why it has let go, if it has. It never holds this move again.
    let_go: Option<String>,
    /// Since when all members of its groups have been heard: from then on they are called to the join.
    called: Option<Duration>,
    /// Since when all of them wait to join.
    gathered: Option<Duration>,
}

impl Held {
    /// When the move's time is over.
    fn until(&self, gather: Duration, hold: Duration, now: Duration) -> Duration {
        self.gathered.unwrap_or(now).min(self.since + gather) + hold
    }
}

/// What several proxies may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Hold,
    Flip,
    Abort,
    Without,
}

/// A proxy, as far as the log of decisions is concerned.
#[derive(Debug)]
pub struct Proxy {
    me: Member,
    place: Place,
    admin: Option<String>,
    settings: Settings,
    state: State,
    file: Option<Wish>,
    /// Since when it wishes that.
    wished: Option<Duration>,
    /// Those that have joined, and when that was read.
    came: BTreeMap<Member, Duration>,
    /// Of the last one that has left with something that may still arrive: the offset of its record, and when that was read.
    left_late: Option<(i64, Duration)>,
    aborted: Option<Duration>,
    /// From and to which cluster the last move was that was aborted.
    given_up: Option<(String, String)>,
    /// How often each group was left where it lives, and since when.
    left: BTreeMap<String, (u32, Duration)>,
    held: Option<Held>,
    /// The record that was last asked for, and when.
    asked: Option<(Request, Duration)>,
    /// Since when something may be asked for, after which decision.
    turn: Option<(Turn, i64, Duration)>,
}

impl Proxy {
    /// One that has read nothing. `me` is an incarnation that was never used.
    pub fn new(me: Member, place: Place, admin: Option<String>, settings: Settings) -> Self {
        let state = State::default();
        let (came, left) = (BTreeMap::new(), BTreeMap::new());
        let (file, wished, left_late, aborted, given_up, held, asked, turn) = (None, None, None, None, None, None, None, None);
        Self { me, place, admin, settings, state, file, wished, came, left_late, aborted, given_up, left, held, asked, turn }
    }

    /// It takes a file: the one that it starts with, or one that was put in its place, or read again for an operator, while it runs. `digest` is that of all `routes`.
    pub fn take(&mut self, digest: String, routes: BTreeMap<String, Wished>) {
        let taken = self.file.as_ref().map_or(0, |last| last.taken + 1);
        self.file = Some(Wish { taken, file: digest, routes });
        self.wished = None;
    }

    /// It reads a record, as [`State::read`].
    ///
    /// # Errors
    /// [`Unknown`]: it cuts everything, as it cannot tell what counts from here on.
    pub fn read(&mut self, offset: i64, value: Option<&[u8]>, now: Duration) -> Result<Verdict, Unknown> {
        let mut said = Ok(Verdict::Counts);
        self.follow(now, |state| said = state.read(offset, value));
        said
    }

    /// It reads a request, as [`State::apply`].
    pub fn apply(&mut self, offset: i64, request: &Request, now: Duration) -> Verdict {
        let mut said = Verdict::Counts;
        self.follow(now, |state| said = state.apply(offset, request));
        said
    }

    fn follow(&mut self, now: Duration, read: impl FnOnce(&mut State)) {
        let aborts = self.state.aborts();
        let open = self.state.open().map(|open| (open.from.to_string(), open.to.to_string()));
        read(&mut self.state);
        if self.state.aborts() > aborts {
            self.aborted = Some(now);
            self.given_up = open;
        }
        self.came.retain(|proxy, _| self.state.joined().contains_key(proxy));
        for proxy in self.state.joined().keys() {
            if !self.came.contains_key(proxy) {
                self.came.insert(proxy.clone(), now);
            }
        }
        let left_late = self.state.left_late().map(|(_, at)| *at);
        if self.left_late.map(|(at, _)| at) != left_late {
            self.left_late = left_late.map(|at| (at, now));
        }
        for (group, stays) in self.state.stays() {
            if self.left.get(group).is_none_or(|(times, _)| *times != stays.times) {
                self.left.insert(group.clone(), (stays.times, now));
            }
        }
        match self.state.open() {
            None => self.held = None,
            Some(open) if self.held.as_ref().is_some_and(|held| held.id == open.id) => {}
            Some(open) => {
                self.held = Some(Held { id: open.id, since: now, said: false, let_go: None, called: None, gathered: None });
            }
        }
    }

    /// What it wishes.
    pub fn file(&self) -> Option<&Wish> {
        self.file.as_ref()
    }

    /// What it has read.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether it serves relayed clients.
    pub fn serves(&self) -> Serves {
        if self.state.is_gone(&self.me) {
            Serves::Cut
        } else if self.state.joined().contains_key(&self.me) {
            Serves::Yes
        } else {
            Serves::NotYet
        }
    }

    /// The move whose topics it holds now: it sends nothing of them to any broker.
    pub fn holds(&self) -> Option<&Move> {
        self.state.open().filter(|_| self.held.as_ref().is_none_or(|held| held.let_go.is_none()))
    }

    /// Whether it has asked for `holding`: from then on only the log says how the move ends.
    pub fn has_said(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.said)
    }

    /// Whether the members of the open move's groups are called to the join: once all of them have been heard. So all stop reading at the same time, and
    /// nobody does for the sake of one that does not come by a proxy.
    pub fn calls(&mut self, known: &Known, now: Duration) -> bool {
        let is_heard = self.unheard(known).is_empty();
        let Some(held) = &mut self.held else { return false };
        if is_heard {
            held.called.get_or_insert(now);
        }
        held.called.is_some()
    }

    /// The record with which it leaves, after its last relayed connection. `is_open`: something that it has sent has no answer, and may still arrive. `None`: it
    /// has never asked to join, or is gone already.
    pub fn leave(&self, is_open: bool, now: Duration) -> Option<Request> {
        if self.asked.is_none() || self.serves() == Serves::Cut || self.state.moved().is_some() {
            return None;
        }
        // As long as it has not read its own `joined` it does not know whose place it takes.
        let late = is_open || self.serves() == Serves::NotYet || !self.is_settled(&self.me, now);
        Some(Request::Left { proxy: self.me.clone(), late })
    }

    /// The record that it appends now, if any. The append is begun in any case, or the process ends: once it was given `holding`, it waits for the outcome.
    pub fn next(&mut self, known: &Known, now: Duration) -> Option<Request> {
        let turn = self.turn.take();
        let request = self.wants(known, now, turn)?;
        if self.asked.as_ref().is_some_and(|(asked, at)| *asked == request && now < *at + self.settings.again) {
            return None;
        }
        if let (Request::Holding { .. }, Some(held)) = (&request, &mut self.held) {
            held.said = true;
        }
        self.asked = Some((request.clone(), now));
        Some(request)
    }

    fn wants(&mut self, known: &Known, now: Duration, turn: Option<(Turn, i64, Duration)>) -> Option<Request> {
        if self.state.moved().is_some() {
            // The log goes on elsewhere, and nothing counts here.
            return None;
        }
        match self.serves() {
            Serves::Cut => return None,
            Serves::NotYet => {
                let (proxy, place, admin) = (self.me.clone(), self.place.clone(), self.admin.clone());
                return Some(Request::Joined { proxy, rules: RULES, place, admin });
            }
            Serves::Yes => {}
        }
        self.wished.get_or_insert(now);
        let file = self.file.as_ref()?;
        let said = self.state.joined().get(&self.me).and_then(|joined| joined.wish.as_ref());
        if said.is_none_or(|said| said.taken < file.taken) && !known.cut {
            let Wish { taken, file, routes } = file.clone();
            return Some(Request::Wish { proxy: self.me.clone(), taken, file, routes });
        }
        let unknown = |(offset, birth): (&i64, &Birth)| (!birth.known.contains(&self.me)).then_some(*offset);
        if let Some(born) = self.state.births().iter().find_map(unknown) {
            return Some(Request::Knows { proxy: self.me.clone(), born });
        }
        let has_receipt = |id| self.state.receipts().any(|receipt| receipt.of.id == id && !receipt.waited.contains_key(&self.me));
        if let Some((id, waited)) = known.waited.filter(|(id, _)| has_receipt(*id)) {
            return Some(Request::Waited { proxy: self.me.clone(), id, waited });
        }
        if self.state.open().is_some() { self.go_on(known, now, turn) } else { self.begin(known, now, turn) }
    }

    /// How long the open move may still be held.
    pub fn time_left(&self, now: Duration) -> Duration {
        let until = self.state.open().zip(self.held.as_ref()).map(|(open, held)| held.until(self.gather(open), self.settings.hold, now));
        until.unwrap_or_default().saturating_sub(now)
    }

    /// How long the members of a move's groups may take before its time begins.
    fn gather(&self, open: &Move) -> Duration {
        if open.is_of_groups() { 2 * self.settings.gather } else { Duration::ZERO }
    }

    /// Lets go of the open move if it cannot hold, or could not before its time was over: that needs no log, so a process does it that can neither read nor
    /// write it. Returns whether the time is over.
    pub fn give_up(&mut self, known: &Known, now: Duration) -> bool {
        let Some(open) = self.state.open() else { return false };
        let gather = self.gather(open);
        let is_called = self.calls(known, now);
        let is_complete = self.missing(known).is_empty();
        let is_settled = self.is_settled(&self.me, now);
        let Some(held) = &mut self.held else { return false };
        if is_called && is_complete {
            held.gathered.get_or_insert(now);
        }
        let is_late = now >= held.until(gather, self.settings.hold, now);
        if held.said || held.let_go.is_some() {
            return is_late;
        }
        if known.cut {
            // For longer than a hold may take.
            let why = "clients that saw their home alone were cut, and what they had sent may still arrive";
            held.let_go = Some(format!("proxy {} cannot hold: {why}", self.me.name));
        } else if is_late {
            let why = match &known.open {
                Some(open) => format!("requests that were sent before have no answer: {open}"),
                None if !is_settled => "what the process before it has sent may still arrive".to_owned(),
                None => "it could not read or write the log of decisions, or stood still".to_owned(),
            };
            held.let_go = Some(format!("proxy {} could not hold within {:?}: {why}", self.me.name, self.settings.hold));
        }
        is_late
    }

    /// A move is open.
    fn go_on(&mut self, known: &Known, now: Duration, turn: Option<(Turn, i64, Duration)>) -> Option<Request> {
        let is_late = self.give_up(known, now);
        let missing = self.missing(known);
        let (open, held) = (self.state.open()?, self.held.as_ref()?);
        let id = open.id;
        let abort = |reason: String| Request::Abort { id, by: self.me.name.clone(), reason, until_edit: false };
        if let Some(why) = &held.let_go {
            return Some(abort(why.clone()));
        }
        if let Some(why) = &known.broken {
            return Some(abort(why.clone()));
        }
        if let Some(route) = open.routes.iter().find(|route| self.wants_elsewhere(route, &open.to)) {
            return Some(abort(format!(
                "proxy {} has taken a file that does not want route {route} on {} any more",
                self.me.name, open.to
            )));
        }
        let transactional = known.transactional.intersection(&open.groups);
        let groups: BTreeMap<_, _> = transactional.map(|group| (group.clone(), TRANSACTIONAL.to_owned())).collect();
        if !groups.is_empty() {
            // Without a turn: nobody else may know.
            return Some(Request::Without { id, by: self.me.name.clone(), groups });
        }
        let outcome = self.state.outcome();
        if let Ok(Flipped { topics, groups }) = outcome {
            let flip = Request::Flip { id, by: self.me.clone(), topics, groups };
            let request = match encode(&flip, self.state.rules()) {
                Ok(_) if known.looking => return None,
                Ok(_) => flip,
                // Everybody would be held for what can never be written.
                Err(unwritable) => abort(unwritable.to_string()),
            };
            return self.is_my_turn(Turn::Flip, now, turn).then_some(request);
        }
        let why = match outcome {
            Err(void @ (Void::NothingLeft(_) | Void::LeftLate(_))) => Some(void.to_string()),
            Err(void) if is_late => Some(format!("after {:?}: {void}", self.settings.hold)),
            _ => None,
        };
        if let Some(why) = why {
            let request = abort(why);
            return self.is_my_turn(Turn::Abort, now, turn).then_some(request);
        }
        let of_groups = |of: fn(&Gathering) -> &BTreeSet<String>| -> BTreeMap<String, BTreeSet<String>> {
            let all = known.gathering.iter().map(|(group, known)| (group, of(known)));
            all.filter(|(group, some)| open.groups.contains(*group) && !some.is_empty())
                .map(|(group, some)| (group.clone(), some.clone()))
                .collect()
        };
        let (members, heard) = (of_groups(|known| &known.parked), of_groups(|known| &known.heard));
        let none = BTreeMap::new();
        if [&open.parked, &open.heard].map(|said| said.get(&self.me).unwrap_or(&none)) != [&members, &heard] {
            return Some(Request::Parked { proxy: self.me.clone(), id, members, heard });
        }
        let left = match held.called {
            None if now >= held.since + self.settings.gather => self.unheard(known),
            None => return None,
            Some(called) => {
                let patience = |group: &String| known.gathering.get(group).and_then(|known| known.patience).unwrap_or(self.settings.gather);
                missing
                    .iter()
                    .filter(|(group, _)| now >= called + patience(group))
                    .map(|(group, why)| (group.clone(), why.clone()))
                    .collect()
            }
        };
        if !left.is_empty() {
            let request = Request::Without { id, by: self.me.name.clone(), groups: left };
            return self.is_my_turn(Turn::Without, now, turn).then_some(request);
        }
        if !missing.is_empty() {
            return None;
        }
        let is_quiet = known.open.is_none() && !known.cut && self.is_settled(&self.me, now);
        (is_quiet && !open.holding.contains(&self.me)).then(|| Request::Holding { proxy: self.me.clone(), id })
    }

    /// The groups of the open move of which not all members wait to join, and why not. All others are complete: nothing of them may go to a broker any more
    /// that changes what is committed.
    pub fn missing(&self, known: &Known) -> BTreeMap<String, String> {
        let way_out = "a member joins with its next poll: see what keeps it";
        self.without(known, "come to the join", way_out, |open, group| open.parked(group).cloned().collect())
    }

    /// The groups of the open move of which not all members have been heard, and why not.
    fn unheard(&self, known: &Known) -> BTreeMap<String, String> {
        let way_out = "give what comes by no proxy kferry-proxy as bootstrap.servers, on a relay route, or stop it";
        self.without(known, "send a heartbeat by a proxy", way_out, |open, group| {
            open.heard(group).chain(open.parked(group)).cloned().collect()
        })
    }

    /// The groups of the open move of which not all members have come.
    fn without(&self, known: &Known, did: &str, way_out: &str, came: fn(&Move, &str) -> BTreeSet<String>) -> BTreeMap<String, String> {
        let Some(open) = self.state.open() else { return BTreeMap::new() };
        let why = |group: &String| {
            let Some(members) = known.gathering.get(group).and_then(|known| known.members.as_ref()) else {
                return Some(format!("its coordinator on {} does not say who is in it", open.from));
            };
            let came = came(open, group);
            let missing: Vec<_> = members.iter().filter(|(id, _)| !came.contains(*id)).map(|(_, name)| name.as_str()).collect();
            (!missing.is_empty())
                .then(|| format!("{} of its {} members did not {did}: {}; {way_out}", missing.len(), members.len(), missing.join(", ")))
        };
        open.groups.iter().filter_map(|group| Some((group.clone(), why(group)?))).collect()
    }

    /// No move is open.
    fn begin(&mut self, known: &Known, now: Duration, turn: Option<(Turn, i64, Duration)>) -> Option<Request> {
        let doublings = self.state.aborts().saturating_sub(1).min(DOUBLINGS);
        let pauses = self.state.aborts() > 0 && self.aborted.is_some_and(|at| now < at + self.settings.retry * (1 << doublings));
        if pauses || self.state.stopped().is_some() || self.in_the_way_of_all(known, now).is_some() {
            return None;
        }
        // One move at a time: topics that wait for a moment would wait for the members of groups as well.
        let are_topics_first = self.wished.is_none_or(|wished| now < wished + self.settings.retry);
        let Plan { mut moves, groups, .. } = self.plan(known, now);
        let ready = |(clusters, wanted): ((String, String), Wanted)| {
            if are_topics_first && !wanted.routes.iter().all(|route| self.are_topics_at(&clusters.1, route, known)) {
                return None;
            }
            let groups: BTreeSet<_> = wanted.groups.into_iter().filter(|group| !self.pauses(group, now)).take(GROUPS).collect();
            (!groups.is_empty()).then_some((clusters, Wanted { groups, ..wanted }))
        };
        // Between other clusters than the last one that was given up: what was in its way may stay, and is nothing to them.
        let next = moves.keys().find(|clusters| Some(*clusters) > self.given_up.as_ref()).or_else(|| moves.keys().next()).cloned();
        let next = next.and_then(|clusters| moves.remove_entry(&clusters));
        let ((from, to), Wanted { routes, topics, groups }) = next.or_else(|| groups.into_iter().find_map(ready))?;
        let after = self.state.last_decision();
        self.is_my_turn(Turn::Hold, now, turn).then(|| Request::Hold { by: self.me.clone(), after, from, to, routes, topics, groups })
    }

    /// Whether all topics of a route lead on a cluster, and its home is there.
    fn are_topics_at(&self, cluster: &str, route: &str, known: &Known) -> bool {
        let is_there = |owned: &Owned| *self.leader(owned) == *cluster;
        self.state.homes().get(route).is_none_or(|home| **home == *cluster)
            && known.owns.get(route).is_some_and(|owns| owns.iter().all(is_there))
    }

    /// The cluster that leads a topic of a route.
    fn leader<'a>(&'a self, owned: &'a Owned) -> &'a str {
        self.state.leaders().get(&owned.name).map_or(&owned.leader, |led| &led.cluster)
    }

    /// Whether a group that was left where it lives is to be left in peace for a while.
    fn pauses(&self, group: &str, now: Duration) -> bool {
        let is_left = self.state.stays().contains_key(group);
        self.left
            .get(group)
            .is_some_and(|(times, at)| is_left && now < *at + self.settings.retry * (1 << times.saturating_sub(1).min(DOUBLINGS)))
    }

    /// Whether what another process sent from a proxy's place cannot arrive any more.
    fn is_settled(&self, proxy: &Member, now: Duration) -> bool {
        let replaces = self.state.joined().get(proxy).is_some_and(|joined| joined.replaces);
        !replaces || self.came.get(proxy).is_some_and(|came| now >= *came + self.settings.late)
    }

    /// Whether this proxy's file has the route and wants it elsewhere, or has it no more. An old file orders nothing.
    fn wants_elsewhere(&self, route: &str, to: &str) -> bool {
        let wished = self.file.as_ref().and_then(|file| file.routes.get(route));
        !self.state.is_stale(&self.me) && wished.is_none_or(|wished| wished.home != to)
    }

    /// The first proxy by name acts at once, each other one if those before it do not.
    fn is_my_turn(&mut self, what: Turn, now: Duration, turn: Option<(Turn, i64, Duration)>) -> bool {
        let after = self.state.last_decision();
        let since = turn.filter(|(of, at, _)| (*of, *at) == (what, after)).map_or(now, |(_, _, since)| since);
        self.turn = Some((what, after, since));
        let before = self.state.joined().range(..&self.me).count();
        now >= since + self.settings.stand_by * u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// What all files want and the log does not say yet. A route moves whole: if one of its topics cannot, none of them does, nor its home.
    pub fn plan(&self, known: &Known, now: Duration) -> Plan {
        let mut plan = Plan::default();
        let routes = self.file.iter().flat_map(|file| file.routes.keys());
        let mut all_known = true;
        for route in routes {
            let wished = match self.state.wished(route) {
                Ok((_, wished)) => wished,
                Err(why) => {
                    plan.waits.insert(route.clone(), vec![why.to_string()]);
                    continue;
                }
            };
            for group in known.groups.get(route).into_iter().flatten() {
                let lives = self.state.lives().get(&group.name).map_or(group.lives.as_str(), |life| &life.cluster);
                if lives == wished.home {
                    continue;
                }
                let stays = self.state.stays().get(&group.name).map(|stays| format!("group {}: {}", group.name, stays.why));
                if let Some(why) = group.blocked.clone().or(stays) {
                    plan.waits.entry(route.clone()).or_default().push(why);
                }
                if group.blocked.is_none() {
                    let wanted = plan.groups.entry((lives.to_owned(), wished.home.clone())).or_default();
                    wanted.routes.insert(route.clone());
                    wanted.groups.insert(group.name.clone());
                }
            }
            let Some(owns) = known.owns.get(route) else {
                all_known = false;
                continue;
            };
            let moving: Vec<_> =
                owns.iter().map(|owned| (self.leader(owned).to_owned(), owned)).filter(|(leader, _)| *leader != wished.home).collect();
            let blocked: Vec<_> = moving.iter().filter_map(|(_, owned)| owned.blocked.clone()).collect();
            if !blocked.is_empty() {
                plan.waits.entry(route.clone()).or_default().extend(blocked);
                continue;
            }
            let home = self.state.homes().get(route).map(ToString::to_string).filter(|home| *home != wished.home);
            let topics = moving.into_iter().map(|(leader, owned)| (leader, Some(owned)));
            for (from, owned) in home.map(|home| (home, None)).into_iter().chain(topics) {
                let wanted = plan.moves.entry((from, wished.home.clone())).or_default();
                wanted.routes.insert(route.clone());
                wanted.topics.extend(owned.map(|owned| (owned.name.clone(), owned.topic.clone())));
            }
        }
        if let Some(why) = self.in_the_way_of_all(known, now) {
            plan.wait(&why);
        }
        if !all_known {
            // All that one edit moves flips together: so nothing moves before everything was looked at.
            plan.moves.clear();
        }
        plan
    }

    /// Why no move begins, whichever route wants it, as a sentence that says what to do.
    fn in_the_way_of_all(&self, known: &Known, now: Duration) -> Option<String> {
        if let Some(to) = self.state.moved() {
            return Some(format!(
                "the log of decisions has moved to cluster {to}: write it in [state], and restart proxy {}",
                self.me.name
            ));
        }
        if let Some(left) = self.state.left_behind().next() {
            return Some(format!(
                "proxy {} still follows the log of decisions where it was before it moved: write its new cluster in [state] there, and restart that proxy; \
                 if that process is gone: kferry move forget {}@{}",
                left.name, left.name, left.incarnation
            ));
        }
        let late = self.settings.late;
        let may_arrive = |what: String| Some(format!("{what} may still arrive: no move begins before that is over, {late:?} at most"));
        // Who took the place of another one could not say for a while that it holds, and everybody would be held in vain.
        if let Some(proxy) = self.state.joined().keys().find(|proxy| !self.is_settled(proxy, now)) {
            return may_arrive(format!("another process was proxy {} before, and what that one has sent", proxy.name));
        }
        if let Some((proxy, _)) = self.state.left_late().filter(|_| self.left_late.is_some_and(|(_, read)| now < read + late)) {
            return may_arrive(format!("proxy {} has left, and what it had sent", proxy.name));
        }
        match known {
            Known { cut: true, .. } => Some(format!(
                "clients of proxy {} that saw their home alone were cut, and what they had sent may still arrive: no move begins before that is over",
                self.me.name
            )),
            Known { unanswered: true, .. } => {
                may_arrive(format!("a connection to a broker broke at proxy {}, and what was sent", self.me.name))
            }
            _ => None,
        }
    }
}
