//! The loop: reads the log, does what it says, asks for what is next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kferry_config::Cluster;
use kferry_wire::admin::groups::{GroupDescription, GroupType, Member};
use kferry_wire::client::{Answers, Client, TopicPartition, Topics};
use kferry_wire::decisions::{
    self, Flipped, GATHER, Gathering, Known, LATE, Log, LogError, Outcome, Place, ReadRecord, Request, Serves, Settings, State, Update,
    Verdict, ask, check,
};
use kferry_wire::log::AppendError;
use kferry_wire::places::{Decisions, Led};
use kferry_wire::tell;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::barrier::Barrier;
use super::wish::{Look, TRANSACTION, look, no_login, wish};
use super::{Doing, Moves, Seen};
use crate::identity::own_options;
use crate::messages;
use crate::proxy::Proxy;
use crate::relay::park::Come;

/// Between two questions who is in the groups that are held.
const DESCRIBED: Duration = Duration::from_millis(200);

/// How often it is looked at what is due while a move is open, and while none is. What a look finds is a time that is over, or a new file; records of the
/// log are acted on when they are read.
const TICKS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));

/// How long a record may take to be written, retries included.
const ASKING: Duration = Duration::from_secs(5);

/// How long a record that was written may take to be read back, until it is asked for again; whichever is second does not count.
const AGAIN: Duration = Duration::from_secs(2);

/// How long a process that ends tries to say so.
const LEAVING: Duration = Duration::from_secs(3);

/// How much longer each proxy waits than the one before it by name.
const STAND_BY: Duration = Duration::from_secs(1);

/// How long after an abort a move is tried again; longer with each.
const RETRY: Duration = Duration::from_secs(5);

/// Between two attempts to find the log.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at what routes own, and whether it can move: the first while something is wished that is not so.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How long such a look may take.
const LOOKING: Duration = Duration::from_secs(10);

/// How long the last look at the ends before a flip may take, also where the move's time is nearly over.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Follows the log on `cluster` until the last client is `served`, and then says there that this process leaves. `bound`: the addresses that the process has
/// bound. `stop`: ends the process.
pub(crate) async fn follow(
    proxy: Arc<Proxy>,
    moves: Arc<Moves>,
    cluster: Arc<Cluster>,
    bound: BTreeSet<String>,
    stop: CancellationToken,
    served: CancellationToken,
) {
    proxy.holds.count();
    proxy.parking.commits.count();
    let updates = loop {
        let found = tokio::select! {
            found = Log::find_or_create(Client::new(cluster.clone(), own_options()).within(ASKING)) => found,
            () = served.cancelled() => return,
        };
        match found {
            Ok(log) => break log.follow(),
            Err(error) => moves.has_trouble(Doing::Reading, Some(&error.to_string())),
        }
        if timeout(PAUSE, served.cancelled()).await.is_ok() {
            return;
        }
    };
    let admin = Some(proxy.routes.in_force().admin().bind.to_string());
    let settings =
        Settings { hold: proxy.routes.in_force().hold(), gather: GATHER, stand_by: STAND_BY, late: LATE, retry: RETRY, again: AGAIN };
    let mut follower = Follower {
        me: decisions::Proxy::new(moves.me.clone(), Place::of_this_process(bound), admin, settings),
        began: Instant::now(),
        client: Client::new(cluster, own_options()).within(ASKING),
        asking: JoinSet::new(),
        unwritable: None,
        looking: JoinSet::new(),
        next_look: Instant::now(),
        known: Known::default(),
        told: BTreeMap::new(),
        taken: None,
        is_at_end: false,
        held: None,
        held_last: None,
        applied: None,
        since: HashMap::new(),
        checking: JoinSet::new(),
        checks: None,
        checked: None,
        held_groups: BTreeSet::new(),
        complete: BTreeSet::new(),
        describing: JoinSet::new(),
        next_description: Instant::now(),
        described: HashMap::new(),
        proxy,
        moves,
    };
    tokio::select! {
        () = follower.run(updates) => stop.cancel(),
        () = served.cancelled() => {}
    }
    served.cancelled().await;
    follower.leave().await;
}

/// What the loop has.
struct Follower {
    proxy: Arc<Proxy>,
    moves: Arc<Moves>,
    /// Decides.
    me: decisions::Proxy,
    began: Instant,
    /// Writes to the log. Reading has a client of its own: a broker answers one request of a connection after the other.
    client: Client,
    /// The record that is being written; one at a time.
    asking: JoinSet<Asked>,
    /// The move whose flip the log's broker does not take, and why.
    unwritable: Option<(i64, String)>,
    /// What routes own is looked at; one look at a time.
    looking: JoinSet<Look>,
    next_look: Instant,
    known: Known,
    /// Why routes wait, as the log of this process has it: what changes between two looks, such as the files of several proxies one after the other, is
    /// no line of it.
    told: BTreeMap<String, Vec<String>>,
    /// The last file that was taken: its number in this process.
    taken: Option<u64>,
    /// Whether the log was read to its end.
    is_at_end: bool,
    /// The move that is held.
    held: Option<i64>,
    /// The move that was held last.
    held_last: Option<i64>,
    /// The last decision that was applied.
    applied: Option<i64>,
    /// When flips were asked for, by their offsets.
    since: HashMap<i64, i64>,
    /// The ends on the old leaders are looked at a last time, before a flip.
    checking: JoinSet<Checked>,
    /// The move for which they were looked at last.
    checks: Option<i64>,
    /// What came of that.
    checked: Option<Checked>,
    /// The groups that are held.
    held_groups: BTreeSet<String>,
    /// Those of them of which all members wait to join.
    complete: BTreeSet<String>,
    /// The groups that are held are described; one question at a time.
    describing: JoinSet<Answers<String, GroupDescription>>,
    next_description: Instant,
    described: HashMap<String, GroupDescription>,
}

/// A record was written to the log, or was not.
struct Asked {
    /// The move, if it was its flip.
    flip: Option<i64>,
    result: Result<(), LogError>,
}

/// A last look before a flip: at the ends on the old leaders, and that the new coordinators take members.
#[derive(Debug)]
struct Checked {
    /// The move.
    id: i64,
    /// What the flip decides.
    outcome: Flipped,
    /// What is wrong.
    wrong: Option<String>,
    /// Where members of groups wait for each other.
    barrier: Option<Barrier>,
}

impl Follower {
    /// Returns when this process must not serve any more.
    async fn run(&mut self, mut updates: mpsc::Receiver<Update>) {
        loop {
            let tick = if self.held.is_some() || self.me.state().open().is_some() { TICKS.0 } else { TICKS.1 };
            let holds = self.proxy.holds.clone();
            let is_waiting = self.held.is_some() && !holds.is_quiet();
            let mut quiet = pin!(holds.quiet());
            tokio::select! {
                update = updates.recv() => match update {
                    Some(Update::Read { records, is_at_end, .. }) => {
                        self.moves.has_trouble(Doing::Reading, None);
                        if let Err(error) = self.read(records, is_at_end) {
                            tell!(messages::LOG_REFUSED, %error);
                            break;
                        }
                    }
                    Some(Update::Trouble(error)) => self.moves.has_trouble(Doing::Reading, Some(&error.to_string())),
                    Some(Update::Over(error)) => {
                        tell!(messages::LOG_REFUSED, %error);
                        break;
                    }
                    None => break,
                },
                Some(asked) = self.asking.join_next() => {
                    if let Ok(asked) = asked {
                        self.asked(asked);
                    }
                }
                Some(Ok(looked)) = self.looking.join_next() => self.looked(looked),
                Some(Ok(checked)) = self.checking.join_next() => {
                    tracing::debug!(wrong = checked.wrong, "the ends were looked at a last time");
                    self.was_checked(checked);
                }
                Some(Ok(described)) = self.describing.join_next() => self.described(described),
                () = &mut quiet, if is_waiting => tracing::debug!("nothing is open any more"),
                () = sleep(tick) => {}
            }
            if self.me.serves() == Serves::Cut {
                tell!(messages::REPLACED, proxy = %self.moves.me);
                break;
            }
            self.take_file();
            self.look();
            self.act();
        }
        // What it knows may not be so any more.
        self.proxy.cut.cancel();
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn asked(&mut self, Asked { flip, result }: Asked) {
        let error = result.as_ref().err().map(ToString::to_string);
        self.moves.has_trouble(Doing::Writing, error.as_deref());
        // Everybody would be held for what the broker may never take.
        let is_refused = matches!(result, Err(LogError::Append(AppendError::Refused { .. })));
        if let (Some(id), Some(error)) = (flip.filter(|_| is_refused), error) {
            self.unwritable = Some((id, error));
        }
    }

    /// Takes records in, and applies what was decided.
    fn read(&mut self, records: Vec<ReadRecord>, is_at_end: bool) -> Result<(), LogError> {
        let before = self.me.state().end();
        for ReadRecord { offset, timestamp, value, .. } in records {
            let decision = self.me.state().last_decision();
            let open = self.me.state().open().map(|open| open.id);
            let now = self.now();
            let verdict = self.me.read(offset, value.as_deref(), now).map_err(|source| LogError::Unknown { offset, source })?;
            if verdict == Verdict::Counts && self.me.state().last_decision() != decision {
                self.since.insert(offset, timestamp);
                // What was decided before this process came is no news.
                if self.is_at_end && self.me.state().open().map(|open| open.id) != open {
                    self.tell_decision(open);
                }
                if self.me.state().open().is_none() {
                    self.lift_barrier();
                }
            }
        }
        if is_at_end {
            check(0, self.me.state(), None)?;
            if !self.is_at_end {
                self.tell_decision(None);
            }
        }
        // Twice a second there is nothing new.
        if self.me.state().end() != before || is_at_end != self.is_at_end {
            self.apply();
        }
        self.is_at_end |= is_at_end;
        Ok(())
    }

    /// What was decided just now, for the log. `open`: the move that was open before.
    fn tell_decision(&self, open: Option<i64>) {
        let state = self.me.state();
        if let Some(open) = state.open() {
            let (from, to, topics, groups) = (&*open.from, &*open.to, open.topics.len(), open.groups.len());
            tell!(messages::HOLD, id = open.id, from, to, topics, groups, by = %open.by);
            return;
        }
        let Some(receipt) = state.receipts().next().filter(|receipt| Some(receipt.of.id) == open) else { return };
        let (id, from, to, topics) = (receipt.of.id, &*receipt.of.from, &*receipt.of.to, receipt.of.topics.len());
        let groups = receipt.of.groups.len();
        match &receipt.outcome {
            Outcome::Flipped(_) => tell!(messages::FLIP, id, from, to, topics, groups),
            Outcome::Aborted { by, reason } => tell!(messages::ABORT, id, from, to, topics, groups, by, reason),
        }
    }

    /// Leaders and homes first, then what waits for them is let go.
    fn apply(&mut self) {
        let state = self.me.state();
        let are_homes = self.proxy.routes.are_homes(state.homes());
        if self.applied != Some(state.last_decision()) || !are_homes {
            self.applied = Some(state.last_decision());
            let led = |leader: &decisions::Leader| Led {
                cluster: leader.cluster.clone(),
                term: leader.term,
                before: leader.before.clone(),
                since: self.since.get(&leader.since).copied().unwrap_or_default(),
            };
            let topics = state.leaders().iter().map(|(topic, leader)| (topic.as_str().into(), led(leader))).collect();
            let groups = state.lives().iter().map(|(group, life)| (group.as_str().into(), life.cluster.clone())).collect();
            let homes = state.homes().iter().map(|(route, home)| (route.as_str().into(), home.clone())).collect();
            self.proxy.decided(&Arc::new(Decisions { topics, groups }), homes);
            self.proxy.parking.has_moved(moved(state));
        }
        let holds = self.me.holds();
        if self.held != holds.map(|open| open.id) {
            self.held = holds.map(|open| open.id);
            self.held_last = self.held.or(self.held_last);
            self.proxy.holds.hold(holds.into_iter().flat_map(|open| open.topics.keys()).map(|topic| topic.as_str().into()));
        }
        let groups = holds.map(|open| open.groups.clone()).unwrap_or_default();
        if self.held_groups != groups {
            self.described.retain(|group, _| groups.contains(group));
            self.held_groups = groups;
            self.proxy.parking.hold(self.held_groups.iter());
            self.next_description = Instant::now();
        }
        if !are_homes {
            // Who sees one cluster from one home may see several from another.
            self.proxy.cut_alone(&self.proxy.routes.in_force());
        }
        if self.me.serves() == Serves::Yes {
            self.moves.is_in();
        }
        *self.moves.lock() =
            Seen { state: Arc::new(state.clone()), plan: self.me.plan(&self.known, self.now()), wish: self.me.file().cloned() };
    }

    /// A file that the process has taken is what it wishes from then on.
    fn take_file(&mut self) {
        let (taken, table) = (self.proxy.routes.taken(), self.proxy.routes.in_force());
        if self.taken != Some(taken) {
            // Before anybody hears of the file: clients that come to see more than their home by it, or belong elsewhere, are cut.
            self.proxy.cut_by(&table);
            if !Arc::ptr_eq(&table, &self.proxy.routes.in_force()) {
                return;
            }
            self.taken = Some(taken);
            let (digest, routes) = wish(&table);
            self.me.take(digest, routes);
            self.known.owns.clear();
            self.known.groups.clear();
            self.next_look = Instant::now();
        }
    }

    fn look(&mut self) {
        // While a move is open nothing else begins.
        let may_begin = self.me.serves() == Serves::Yes && self.me.state().open().is_none();
        if self.looking.is_empty() && Instant::now() >= self.next_look && may_begin {
            let (proxy, taken) = (self.proxy.clone(), self.taken);
            self.looking.spawn(async move {
                let looked = timeout(LOOKING, look(&proxy)).await;
                Look { taken, ..looked.unwrap_or_default() }
            });
        }
    }

    fn looked(&mut self, looked: Look) {
        let wants = looked.wants;
        self.next_look = Instant::now() + if wants { LOOKS.0 } else { LOOKS.1 };
        if looked.taken == self.taken {
            self.known.owns = looked.owns;
            self.known.groups = looked.groups;
        }
        let plan = self.me.plan(&self.known, self.now());
        for (route, why) in plan.waits.iter().filter(|(route, why)| self.told.get(*route) != Some(*why)) {
            tell!(messages::ROUTE_WAITS, route = &**route, why = why.join("; "));
        }
        self.told.clone_from(&plan.waits);
        self.moves.lock().plan = plan;
    }

    /// Asks for what is next, if anything.
    fn act(&mut self) {
        self.gather();
        let holds = &self.proxy.holds;
        self.known.open = holds.open().or_else(|| self.proxy.parking.commits.open());
        self.known.waited = self.held_last.filter(|_| self.held.is_none()).zip(holds.waited());
        self.known.unanswered = self.held.is_none() && holds.are_late();
        self.known.cut = holds.have_lost();
        let transaction = holds.held_with_transaction().map(|topic| format!("topic {topic}: {TRANSACTION}"));
        let unwritable = || self.unwritable.as_ref().filter(|(id, _)| self.me.state().open().is_some_and(|open| open.id == *id));
        self.known.broken = transaction.or_else(|| unwritable().map(|(_, error)| error.clone()));
        self.known.transactional = self.held_groups.iter().filter(|group| self.proxy.parking.is_transactional(group)).cloned().collect();
        let now = self.now();
        // Who could not hold in time lets go by itself, whether it can read the log or not.
        self.me.give_up(&self.known, now);
        // Who cannot read the log does not know what it says already.
        // Who ends does not join, and begins nothing.
        let is_in_a_move = self.me.serves() == Serves::Yes && self.me.state().open().is_some();
        let takes_part = !self.proxy.drain.is_cancelled() || is_in_a_move;
        self.known.looking = !self.is_flip_checked();
        if self.asking.is_empty() && self.is_at_end && takes_part && !self.moves.is_blind() {
            let state = self.me.state();
            let request = if state.end() == 0 {
                // Of two that begin it the first counts.
                Some(Request::Identity { log: uuid::Uuid::new_v4().to_string() })
            } else {
                self.abort_what_was_written_past().or_else(|| self.me.next(&self.known, now))
            };
            if let Some(request) = request {
                self.ask(request);
            }
        }
        if self.held.is_some() && self.me.holds().is_none() {
            self.apply();
        }
    }

    /// Looks at who waits to join the groups that are held. Of those that are complete no commit passes any more.
    fn gather(&mut self) {
        self.known.gathering.retain(|group, _| self.held_groups.contains(group));
        for (group, Come { heard, parked, patience }) in self.proxy.parking.come() {
            let members = self.known.gathering.remove(&group).and_then(|known| known.members);
            self.known.gathering.insert(group, Gathering { members, heard, parked, patience });
        }
        let now = self.now();
        let is_called = !self.held_groups.is_empty() && self.me.calls(&self.known, now);
        self.proxy.parking.call(is_called);
        let from = self.me.state().open().map(|open| open.from.clone());
        if let Some(client) = from.filter(|_| !self.held_groups.is_empty()).and_then(|from| self.proxy.own_client(&from))
            && self.describing.is_empty()
            && Instant::now() >= self.next_description
        {
            let groups: Vec<String> = self.held_groups.iter().cloned().collect();
            self.describing.spawn(async move {
                let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                client.within(ASKING).describe_groups(&groups).await
            });
        }
        let missing = self.me.missing(&self.known);
        let is_complete = |group: &&String| self.me.has_said() || is_called && !missing.contains_key(*group);
        let complete: BTreeSet<String> = self.held_groups.iter().filter(is_complete).cloned().collect();
        if self.complete != complete {
            self.proxy.parking.commits.hold(complete.iter().map(|group| group.as_str().into()));
            self.complete = complete;
        }
    }

    /// Who is in the groups that are held.
    fn described(&mut self, described: Answers<String, GroupDescription>) {
        self.next_description = Instant::now() + DESCRIBED;
        for (group, answer) in described {
            let Some(known) = self.known.gathering.get_mut(&group) else { continue };
            let Ok(description) = answer else { continue };
            let name = |member: &Member| (member.member_id.clone(), format!("{} at {}", member.client_id, member.client_host));
            // Who owns nothing, and gets nothing while it is held, has nothing to let go of.
            let is_idle = |member: &&Member| description.group_type == GroupType::Consumer && !member.is_assigned;
            known.members = Some(description.members.iter().filter(|member| !is_idle(member)).map(name).collect());
            if description.tells_protocol() {
                self.described.insert(group, description);
            }
        }
    }

    /// Members of groups wait for each other no longer than they have to, or, if their move was given up, not at all.
    fn lift_barrier(&mut self) {
        if let Some(checked) = self.checked.take() {
            self.lift(checked);
        }
    }

    /// What comes of a move that is over by then is of no use.
    fn was_checked(&mut self, checked: Checked) {
        if self.me.state().open().is_some_and(|open| open.id == checked.id) {
            self.lift_barrier();
            self.checked = Some(checked);
        } else {
            self.lift(checked);
        }
    }

    fn lift(&self, Checked { id, barrier, .. }: Checked) {
        let Some(barrier) = barrier else { return };
        let mut receipts = self.me.state().receipts();
        let is_flipped = receipts.any(|receipt| receipt.of.id == id && matches!(receipt.outcome, Outcome::Flipped(_)));
        tokio::spawn(barrier.lift(is_flipped));
    }

    /// Whether the ends on the old leaders were looked at a last time, if a flip could be asked for; otherwise they are looked at now.
    fn is_flip_checked(&mut self) -> bool {
        let Some((open, outcome)) = self.me.state().open().zip(self.me.state().outcome().ok()) else { return true };
        let is_checked = self.checked.as_ref().is_some_and(|checked| (checked.id, &checked.outcome) == (open.id, &outcome));
        // One that is under way for another move may take as long as a coordinator that does not answer.
        if !is_checked && (self.checking.is_empty() || self.checks != Some(open.id)) {
            self.checks = Some(open.id);
            let client = |cluster: &str| self.proxy.own_client(cluster).ok_or_else(|| no_login(cluster));
            let clients = client(&open.from).and_then(|from| Ok((from, client(&open.to)?)));
            let expected = outcome.groups.iter().map(|group| (group.clone(), open.parked(group).count())).collect();
            let (id, described) = (open.id, self.described.clone());
            // Everybody is held meanwhile.
            let limit = self.me.time_left(self.now()).max(LAST_LOOK);
            self.lift_barrier();
            self.checking.spawn(async move {
                let (from, to) = match clients {
                    Ok(clients) => clients,
                    Err(wrong) => return Checked { id, outcome, wrong: Some(wrong), barrier: None },
                };
                if let Some(wrong) = written_past(from, &outcome.topics, limit).await {
                    return Checked { id, outcome, wrong: Some(wrong), barrier: None };
                }
                match Barrier::set(to, expected, &described).await {
                    Ok(barrier) => Checked { id, outcome, wrong: None, barrier: Some(barrier) },
                    Err((barrier, wrong)) => Checked { id, outcome, wrong: Some(wrong), barrier: Some(barrier) },
                }
            });
        }
        is_checked
    }

    fn abort_what_was_written_past(&mut self) -> Option<Request> {
        let id = self.me.state().open()?.id;
        let reason = self.checked.as_ref()?.wrong.clone()?;
        self.lift_barrier();
        Some(Request::Abort { id, by: self.moves.me.name.clone(), reason, until_edit: false })
    }

    /// Says that this process has left, and whether something that was sent from its place may still arrive: the others begin no move before that is over.
    async fn leave(&mut self) {
        let Proxy { holds, parking, alone, .. } = &*self.proxy;
        let is_open = !holds.is_empty() || !parking.commits.is_empty() || alone.are_open(std::time::Instant::now());
        let Some(left) = self.me.leave(is_open, self.now()) else { return };
        // What it has asked for last is in the log before, or is given up.
        let _ = timeout(LEAVING, self.asking.join_next()).await;
        self.asking.shutdown().await;
        self.ask(left);
        let said = match timeout(LEAVING, self.asking.join_next()).await {
            Ok(Some(Ok(said))) => said.result.map_err(|error| error.to_string()),
            _ => Err(format!("no answer within {LEAVING:?}")),
        };
        if let Err(error) = said {
            tell!(messages::NOT_LEFT, proxy = %self.moves.me, error);
        }
    }

    fn ask(&mut self, request: Request) {
        let (client, rules) = (self.client.clone(), self.me.state().rules());
        self.asking.spawn(async move {
            let flip = if let Request::Flip { id, .. } = &request { Some(*id) } else { None };
            let now = Timestamp::now().as_millisecond();
            Asked { flip, result: ask(&client, &[request], rules, now).await }
        });
    }
}

/// The ids under which the members of groups that have moved were known before.
fn moved(state: &State) -> HashMap<Arc<str>, HashSet<String>> {
    let mut moved: HashMap<Arc<str>, HashSet<String>> = HashMap::new();
    for receipt in state.receipts() {
        let Outcome::Flipped(Flipped { groups, .. }) = &receipt.outcome else { continue };
        for group in groups.iter().filter(|group| state.lives().get(*group).is_some_and(|life| life.since == receipt.at)) {
            moved.entry(group.as_str().into()).or_default().extend(receipt.of.parked(group).cloned());
        }
    }
    moved
}

/// Whether somebody has written to the old leader since the mirror has measured its ends, or has added partitions: who is not held, because it does not
/// come by a proxy.
async fn written_past(client: Client, outcome: &BTreeMap<String, decisions::Led>, limit: Duration) -> Option<String> {
    let partition = |topic: &str, index: usize| TopicPartition::new(topic, index as i32);
    let partitions: Vec<_> = outcome.iter().flat_map(|(topic, led)| (0..led.ends.len()).map(|index| partition(topic, index))).collect();
    let names: Vec<&str> = outcome.keys().map(String::as_str).collect();
    let asked = timeout(limit, async { tokio::join!(client.log_ends(&partitions), client.metadata(Topics::Named(&names))) }).await;
    let Ok((ends, metadata)) = asked else {
        return Some(format!("cluster {} has not said within {limit:.1?} where its logs end", client.cluster().name));
    };
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(error) => return Some(error.to_string()),
    };
    for (topic, led) in outcome {
        let has = metadata.topic(topic).map_or(0, |topic| topic.partitions.len());
        if has != led.ends.len() {
            return Some(format!(
                "topic {topic} had {} partitions, and has {has} now: wait until the mirror has added them",
                led.ends.len()
            ));
        }
        for (index, agreed) in led.ends.iter().enumerate() {
            match ends.get(&partition(topic, index)) {
                Some(Ok(end)) if end == agreed => {}
                Some(Ok(end)) => {
                    return Some(format!(
                        "partition {index} of topic {topic} was written while all proxies held: its log ended at {agreed}, and ends at {end} now; somebody \
                         writes to it past the relay: find out who, and give it kferry-proxy as bootstrap.servers, or stop it"
                    ));
                }
                Some(Err(error)) => return Some(error.to_string()),
                None => {
                    return Some(format!("cluster {} does not say where partition {index} of topic {topic} ends", client.cluster().name));
                }
            }
        }
    }
    None
}
