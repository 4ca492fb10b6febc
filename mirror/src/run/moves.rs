//! What the log of decisions says of this mirror's topics: who leads them, and which are about to change that.
//!
//! When every proxy holds what goes to the topics of a move, the mirror copies the rest, measures both logs, takes each partition off its lane, and says in the
//! log that the partition is closed: from then on it writes nothing to it in that direction. After the flip the partition is copied the other way; if the move
//! is given up it goes on as before.
//!
//! What a move waits for is asked over connections of its own: a broker answers one request of a connection after the other, and what is kept in the mirror's
//! state, or written for groups, waits for all in-sync replicas.

mod groups;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kferry_config::{Cluster, Mirror};
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Answers, Client, TopicPartition};
use kferry_wire::decisions::{
    Leader, Log, LogError, Measured, Move, NotYet, Refused, Request, State, Update, Witness, ask, closing as closing_at, decided,
};
use kferry_wire::tell;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::groups::MovingGroups;
pub(super) use self::groups::ToSettle;
use crate::messages;
use crate::partition::{Leadership, Phase, Side};
use crate::state::{self, StateError};
use crate::topics::TopicPlan;

/// Between two looks at which partitions are to be closed. A look asks nobody: only what the copy has reached is measured.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// How long a record of the mirror's may take to be read back, until it is asked for again; whichever is second says the same.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it may take to be written, and ends to be measured.
const ASKING: Duration = Duration::from_secs(5);
/// How long the followers of a new term may take to say where they end, until their partitions are looked at one by one.
const BEGINNING: Duration = Duration::from_secs(1);
/// How long a cluster may take to say whether it has a log that the file does not name.
const FINDING: Duration = Duration::from_secs(5);
/// Between two attempts to find a log that is not there yet.
const PAUSE: Duration = Duration::from_secs(1);

/// What this process knows of the log of decisions.
pub(super) struct Moves {
    mirror: Arc<Mirror>,
    once: bool,
    /// Writes to the log; reading has a client of its own.
    client: Client,
    updates: mpsc::Receiver<Update>,
    /// What the log says; `None` before it was read to its end.
    state: Option<Arc<State>>,
    /// Counts what was heard of the log, for whoever must have heard of it since some moment.
    heard: watch::Sender<u64>,
    /// The mirror's source and target, for what a move waits for.
    asked: [Client; 2],
    /// The move whose partitions are being closed.
    id: Option<i64>,
    /// Whether anything of it was measured. The first time is when the proxies are asked to hold: then connections are made, and leaders found.
    has_looked: bool,
    /// Of its partitions those that are off their lanes, or on their way from there, and where each ends.
    frozen: HashMap<TopicPartition, Measurement>,
    /// Where the leaders of the others ended when that was measured: until the copy is there it is not measured again.
    ends: HashMap<TopicPartition, i64>,
    measuring: JoinSet<Vec<Found>>,
    asking: JoinSet<Result<(), LogError>>,
    /// When it was last said of each partition that it is closed.
    said: HashMap<TopicPartition, Instant>,
    /// When it was last said that the move cannot end.
    given_up: Option<Instant>,
    trouble: Option<String>,
    groups: MovingGroups,
}

/// Where both logs of a partition end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measurement {
    pub(super) end: i64,
    /// The offset of the last record of the log of decisions that was read before.
    as_of: i64,
}

impl Measurement {
    /// Off its lane it is to be measured anew.
    pub(super) const NONE: Self = Self { end: -1, as_of: -1 };
}

/// What is known of the ends of a partition.
#[derive(Debug)]
pub(super) enum Found {
    /// It is closed, once it is off its lane and nothing was copied since.
    Closed(TopicPartition, Measurement),
    /// It is not: where the leader ends, and why.
    NotYet(TopicPartition, i64, NotYet),
}

/// A partition that is to be closed.
pub(super) struct Closing {
    pub(super) partition: TopicPartition,
    pub(super) leader: Side,
    pub(super) follower: Side,
    /// The offset up to which everything was compared, or written by this process at just that offset and acknowledged.
    pub(super) agreed: i64,
    /// It was taken off its lane: nothing that was sent to the follower is unanswered.
    pub(super) is_frozen: bool,
}

/// What happens to moves.
#[derive(Debug)]
pub(super) enum Event {
    /// The log has something; `None`: it is not followed any more.
    Update(Option<Update>),
    /// Partitions were measured.
    Measured(Vec<Found>),
}

/// What an update of the log means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    Nothing,
    /// It was read to its end for the first time, or leaders have changed: the topics are looked at anew, at once.
    Leaders,
    /// The move was given up: what was frozen goes on.
    GivenUp,
    /// This process must not go on.
    Over,
}

impl Moves {
    /// Follows the log on `cluster`. `once`: nobody waits until a right is granted that is missing.
    pub(super) fn follow(mirror: Arc<Mirror>, cluster: &Arc<Cluster>, kept: state::State, once: bool) -> Self {
        let client = || Client::new(cluster.clone(), crate::connect_options(&mirror.name)).within(ASKING);
        let (reader, writer) = (client(), client());
        let (tell, updates) = mpsc::channel(16);
        tokio::spawn(async move {
            let log = loop {
                let known = kept.witness();
                let update = match (Log::find(reader.clone(), known.clone()).await, known) {
                    (Ok(Some(log)), _) => break log,
                    // A broker that has just started may not know the topic yet.
                    (Ok(None), Some(known)) => Update::Trouble(Refused::Empty(known).into()),
                    // Nobody has decided anything yet.
                    (Ok(None), None) => Update::Read { records: Vec::new(), state: Arc::default(), is_at_end: true },
                    (Err(error), _) => Update::Trouble(error),
                };
                if tell.send(update).await.is_err() {
                    return;
                }
                sleep(PAUSE).await;
            };
            let mut updates = log.follow();
            while let Some(update) = updates.recv().await {
                let seen = match &update {
                    Update::Read { state, is_at_end: true, .. } => Witness::of(state),
                    _ => None,
                };
                if tell.send(update).await.is_err() {
                    return;
                }
                if let Some(seen) = seen
                    && let Err(error) = kept.keep_witness(seen).await
                {
                    // It is tried again with what comes next, in half a second.
                    tracing::debug!(%error, "what is known of the log of decisions is not kept");
                }
            }
        });
        let (source, target) = crate::clients(&mirror);
        Self {
            mirror,
            once,
            client: writer,
            updates,
            state: None,
            heard: watch::Sender::new(0),
            asked: [source, target].map(|client| client.within(ASKING)),
            id: None,
            has_looked: false,
            frozen: HashMap::new(),
            ends: HashMap::new(),
            measuring: JoinSet::new(),
            asking: JoinSet::new(),
            said: HashMap::new(),
            given_up: None,
            trouble: None,
            groups: MovingGroups::new(),
        }
    }

    /// Whether it is known who leads what.
    pub(super) fn is_known(&self) -> bool {
        self.state.is_some()
    }

    /// What the log says.
    pub(super) fn state(&self) -> Option<&Arc<State>> {
        self.state.as_ref()
    }

    /// The term of a topic.
    pub(super) fn term(&self, topic: &str) -> i32 {
        self.leader(topic).map_or(1, |leader| leader.term)
    }

    fn leader(&self, topic: &str) -> Option<&Leader> {
        self.state.as_ref().and_then(|state| led(state, &self.mirror, topic))
    }

    /// The first offset of the term of this plan, if it was decided, and is of the same topic on both clusters.
    pub(super) fn begins(&self, plan: &TopicPlan, partition: i32) -> Option<i64> {
        let leader = self.leader(&plan.topic).filter(|leader| leader.term == plan.term && leader.cluster == plan.leader)?;
        let is_same = leader.ids.iter().all(|(cluster, id)| plan.topic_ids.get(cluster).is_none_or(|now| now == id));
        leader.ends.get(usize::try_from(partition).ok()?).copied().filter(|_| is_same)
    }

    /// The open move, if it is between the clusters of this mirror.
    fn open(&self) -> Option<&Move> {
        self.state.as_ref()?.open().filter(|open| is_of(&self.mirror, &open.from, &open.to))
    }

    /// Who must know what the log says now waits until this has grown by two: what is heard next may have been on its way.
    pub(super) fn heard(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    /// What happens next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            update = self.updates.recv() => Event::Update(update),
            // One that was given up with its move has found nothing.
            Some(found) = self.measuring.join_next() => Event::Measured(found.unwrap_or_default()),
        }
    }

    /// This process must not go on.
    fn over(&self, error: &LogError) -> News {
        tell!(messages::LOG_REFUSED, mirror = &*self.mirror.name, %error);
        News::Over
    }

    /// Takes an update in.
    pub(super) fn take_in(&mut self, update: Option<Update>) -> News {
        let state = match update {
            Some(Update::Read { state, is_at_end, .. }) => {
                self.heard.send_modify(|heard| *heard += 1);
                if !is_at_end && self.state.is_none() {
                    return News::Nothing;
                }
                self.trouble = None;
                state
            }
            Some(Update::Over(error)) => return self.over(&error),
            Some(Update::Trouble(error)) if self.once && error.is_authorization() => return self.over(&error),
            Some(Update::Trouble(error)) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    tell!(messages::LOG_TROUBLE, mirror = &*self.mirror.name, error);
                    self.trouble = Some(error);
                }
                return News::Nothing;
            }
            None => return News::Over,
        };
        let before = self.state.replace(state.clone());
        let leaders_changed = before.as_ref().is_none_or(|before| before.leaders() != state.leaders());
        let open = state.open().map(|open| open.id);
        let is_over = self.id.is_some() && self.id != open;
        if self.id != open {
            self.id = open;
            self.has_looked = false;
            self.ends.clear();
            self.said.clear();
            self.given_up = None;
            self.groups.forget();
            // What was found of another move is nothing.
            self.measuring = JoinSet::new();
        }
        match (leaders_changed, is_over) {
            (true, _) => News::Leaders,
            (false, true) => News::GivenUp,
            (false, false) => News::Nothing,
        }
    }

    /// Whether something is to be closed.
    pub(super) fn is_closing(&self) -> bool {
        self.open().is_some_and(|open| open.quiet_since.is_some())
    }

    /// Whether something may have to be closed soon.
    pub(super) fn is_open(&self) -> bool {
        self.open().is_some()
    }

    /// Whether a topic is of the open move.
    pub(super) fn moves(&self, topic: &str) -> bool {
        self.open().is_some_and(|open| open.topics.contains_key(topic))
    }

    /// Whether this was measured since all proxies hold.
    pub(super) fn is_quiet_at(&self, measured: Measurement) -> bool {
        self.state.as_ref().and_then(|state| state.quiet_since().ok()).is_some_and(|since| measured.as_of >= since)
    }

    /// Whether the copy of a partition that is on its lane may have reached the leader's end.
    pub(super) fn may_be_at_end(&self, partition: &TopicPartition, agreed: i64) -> bool {
        self.ends.get(partition).is_none_or(|end| agreed >= *end)
    }

    /// Whether the log has it as closed, whoever said so: nothing is written to it before the outcome.
    pub(super) fn is_said_closed(&self, partition: &TopicPartition) -> bool {
        let Some(open) = self.open() else { return false };
        open.closed.get(&*partition.topic).is_some_and(|closed| closed.contains_key(&partition.partition.cast_unsigned()))
    }

    /// Where a partition was measured that was taken off its lane.
    pub(super) fn frozen_at(&self, partition: &TopicPartition) -> Option<Measurement> {
        self.frozen.get(partition).copied()
    }

    pub(super) fn freeze(&mut self, partition: TopicPartition, measured: Measurement) {
        self.frozen.insert(partition, measured);
    }

    /// One that is not closed: whether it was frozen.
    pub(super) fn thaw(&mut self, partition: &TopicPartition, leader_end: i64) -> bool {
        self.ends.insert(partition.clone(), leader_end);
        self.frozen.remove(partition).is_some()
    }

    /// Those that were frozen, which are none any more.
    pub(super) fn thaw_all(&mut self) -> Vec<TopicPartition> {
        self.frozen.drain().map(|(partition, _)| partition).collect()
    }

    /// The client for what a move waits for, on the cluster of this side.
    fn asked(&self, side: &Side) -> Client {
        let [source, target] = &self.asked;
        if *side.cluster() == source.cluster().name { source } else { target }.clone()
    }

    /// The same, for where the followers of a new term end.
    pub(super) fn asked_to_begin(&self, side: &Side) -> Client {
        self.asked(side).within(BEGINNING)
    }

    /// Measures, unless that is being done, or it is too early and was done.
    pub(super) fn measure(&mut self, partitions: Vec<Closing>) {
        let (Some(state), Some(first)) = (self.state.clone(), partitions.first()) else { return };
        if !self.measuring.is_empty() || self.has_looked && !self.is_closing() {
            return;
        }
        self.has_looked = true;
        tracing::debug!(partitions = partitions.len(), "ends are measured");
        // All of one move are led by the same cluster.
        let (leader, follower) = (self.asked(&first.leader), self.asked(&first.follower));
        self.measuring.spawn(async move { measure(&state, (&leader, &follower), partitions).await });
    }

    /// Says which topics were born on the mirror's target. What is not read back by the next pass is said again.
    pub(super) fn say_born(&mut self, topics: BTreeMap<String, Option<String>>) {
        if self.is_asking() || topics.is_empty() {
            return;
        }
        let Some(state) = self.state.as_ref().filter(|state| state.open().is_none()) else { return };
        let names: Vec<_> = topics.keys().map(String::as_str).collect();
        let (leader, follower) = (self.mirror.target.name.to_string(), self.mirror.source.name.to_string());
        tell!(messages::BORN, mirror = &*self.mirror.name, topics = names.join(", "), leader, follower);
        let request = Request::Born { by: format!("mirror {}", self.mirror.name), leader, follower, topics };
        self.ask(request, state.rules());
    }

    /// Whether a record is being written: one at a time.
    fn is_asking(&mut self) -> bool {
        while let Some(asked) = self.asking.try_join_next() {
            if let Ok(Err(error)) = asked {
                tell!(messages::LOG_TROUBLE, mirror = &*self.mirror.name, %error);
            }
        }
        !self.asking.is_empty()
    }

    fn ask(&mut self, request: Request, rules: u32) {
        let client = self.client.clone();
        self.asking.spawn(async move { ask(&client, &[request], rules, jiff::Timestamp::now().as_millisecond()).await });
    }

    /// Says that the open move cannot end, because a partition of it has diverged: nobody is to be held until its time is over.
    pub(super) fn give_up(&mut self, partition: &TopicPartition, why: Option<&str>, now: Instant) {
        // What was said a moment ago is on its way.
        if self.is_asking() || self.given_up.is_some_and(|at| now < at + AGAIN) {
            return;
        }
        let Some((state, open)) = self.state.as_ref().zip(self.open()) else { return };
        let TopicPartition { topic, partition } = partition;
        let reason = format!("partition {partition} of topic {topic} has diverged: {}", why.unwrap_or("the mirror's /partitions has why"));
        let request = Request::Abort { id: open.id, by: format!("mirror {}", self.mirror.name), reason, until_edit: false };
        let rules = state.rules();
        self.given_up = Some(now);
        self.ask(request, rules);
    }

    /// Says which partitions are closed, as long as the log does not have that.
    pub(super) fn say_closed(&mut self, closed: Vec<(TopicPartition, Measurement)>, now: Instant) {
        if self.is_asking() {
            return;
        }
        let Some((state, open)) = self.state.as_ref().zip(self.open()) else { return };
        let (id, rules, mut saying) = (open.id, state.rules(), Vec::new());
        let (mut ends, mut first): (BTreeMap<String, Vec<(u32, i64)>>, _) = (BTreeMap::new(), state.end() - 1);
        for (partition, Measurement { end, as_of }) in closed {
            let index = partition.partition.cast_unsigned();
            let said = open.closed.get(&*partition.topic).and_then(|closed| closed.get(&index));
            // What was said a moment ago is on its way.
            let is_due = self.said.get(&partition).is_none_or(|at| now >= *at + AGAIN);
            if said != Some(&end) && is_due {
                ends.entry(partition.topic.to_string()).or_default().push((index, end));
                first = first.min(as_of);
                saying.push(partition);
            }
        }
        if ends.is_empty() {
            return;
        }
        self.said.extend(saying.into_iter().map(|partition| (partition, now)));
        let request = Request::Closed { id, as_of: first, by: format!("mirror {}", self.mirror.name), ends };
        self.ask(request, rules);
    }
}

/// Whether a decision between these clusters is about what this mirror copies: other mirrors may copy topics of the same name elsewhere.
fn is_of(mirror: &Mirror, from: &str, to: &str) -> bool {
    let is_one = |name: &str| *mirror.source.name == *name || *mirror.target.name == *name;
    is_one(from) && is_one(to)
}

/// The log of decisions that the file does not name, if there is one on either cluster and it is about what this mirror copies. A cluster that cannot be asked has
/// none. `ours`: that of `[state]`.
pub(super) async fn another_log(mirror: &Mirror, clients: [&Client; 2], ours: Option<&Cluster>) -> Option<StateError> {
    let others = clients.into_iter().filter(|client| ours.is_none_or(|ours| ours.name != client.cluster().name));
    let asked = others.map(async |client| {
        let cluster = &client.cluster().name;
        let log = match decided(client.within(FINDING)).await? {
            Ok(log) => log,
            Err(error) => return Some(StateError::UnknownLog { cluster: cluster.clone(), error }),
        };
        let mut topics =
            log.leaders().iter().filter(|(topic, leader)| is_of(mirror, &leader.before, &leader.cluster) && mirror.topics.matches(topic));
        let mut groups =
            log.lives().iter().filter(|(group, life)| is_of(mirror, &life.before, &life.cluster) && mirror.groups.matches(group));
        let topic = topics.next().map(|(topic, _)| format!("topic {topic}"));
        let what = topic.or_else(|| groups.next().map(|(group, _)| format!("group {group}")))?;
        Some(StateError::AnotherLog { cluster: cluster.clone(), what })
    });
    join_all(asked).await.into_iter().flatten().next()
}

fn led<'a>(state: &'a State, mirror: &Mirror, topic: &str) -> Option<&'a Leader> {
    state.leaders().get(topic).filter(|leader| is_of(mirror, &leader.before, &leader.cluster))
}

/// What becomes of a partition whose topic the other cluster leads now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFlip {
    /// This process has closed it just where the term begins: nothing has to be compared.
    HandOn,
    /// Both logs are looked at.
    Look,
    /// Somebody works on it, or it has diverged: that comes to an end first, and is kept, and the next pass takes it in.
    Wait,
}

/// Decides about a partition of a flip that `begins` the term. `present` is the phase of the entry that the run has, and whether nobody works on it.
pub(super) fn after_flip(present: Option<(Phase, bool)>, closed_at: Option<i64>, begins: Option<i64>) -> AfterFlip {
    match present {
        Some((Phase::Diverged, _) | (_, false)) => AfterFlip::Wait,
        Some((_, true)) if closed_at.is_some() && closed_at == begins => AfterFlip::HandOn,
        _ => AfterFlip::Look,
    }
}

/// Who leads a topic of this mirror by the log.
pub(crate) fn leadership(state: &State, mirror: &Mirror, topic: &str) -> Option<Leadership> {
    let leader = led(state, mirror, topic)?;
    Some(Leadership { leader: leader.cluster.to_string(), term: leader.term })
}

/// Measures both logs of partitions. Of those that a cluster says nothing of nothing is found: they are measured again.
async fn measure(state: &State, (leader, follower): (&Client, &Client), partitions: Vec<Closing>) -> Vec<Found> {
    let as_of = state.end() - 1;
    let of_leader: Vec<_> = partitions.iter().map(|closing| closing.leader.partition(closing.partition.partition)).collect();
    let of_follower: Vec<_> = partitions.iter().map(|closing| closing.follower.partition(closing.partition.partition)).collect();
    let (ends, stable, copies) =
        tokio::join!(leader.log_ends(&of_leader), leader.list_offsets(&of_leader, Position::LastStable), follower.log_ends(&of_follower));
    let mut found = Vec::new();
    for (closing, (on_leader, on_follower)) in partitions.into_iter().zip(of_leader.iter().zip(&of_follower)) {
        let Closing { partition, agreed, is_frozen, .. } = closing;
        let (leader_end, last_stable_offset, follower_end) =
            match (answered(&ends, on_leader), answered(&stable, on_leader), answered(&copies, on_follower)) {
                (Ok(end), Ok(stable), Ok(copy)) => (end, stable, copy),
                (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                    tracing::debug!(%partition, error, "the ends of a partition are not known");
                    continue;
                }
            };
        // On its lane nothing can be unanswered of a copy that had reached the end before that was asked for: there was nothing more to send.
        let unanswered = !is_frozen && agreed < leader_end;
        // Each write was acknowledged at the offset that it was meant for.
        let written_end = Some(agreed);
        let measured = Measured { as_of, leader_end, last_stable_offset, follower_end, written_end, unanswered };
        found.push(match closing_at(state, &partition.topic, partition.partition.cast_unsigned(), measured) {
            Ok(end) => Found::Closed(partition, Measurement { end, as_of }),
            Err(why) => Found::NotYet(partition, leader_end, why),
        });
    }
    found
}

fn answered(answers: &Answers<TopicPartition, i64>, partition: &TopicPartition) -> Result<i64, String> {
    let answer = answers.get(partition).ok_or("no answer")?;
    answer.as_ref().copied().map_err(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_hands_on_what_this_process_closed_there_and_looks_at_the_rest() {
        let rests = Some((Phase::Waiting, true));
        for (present, closed_at, begins, then) in [
            (rests, Some(7), Some(7), AfterFlip::HandOn),
            (rests, Some(7), Some(8), AfterFlip::Look),
            (rests, None, Some(7), AfterFlip::Look),
            (rests, None, None, AfterFlip::Look),
            (None, Some(7), Some(7), AfterFlip::Look),
            (Some((Phase::Waiting, false)), Some(7), Some(7), AfterFlip::Wait),
            (Some((Phase::Copying, false)), None, Some(7), AfterFlip::Wait),
            (Some((Phase::Diverged, true)), Some(7), Some(7), AfterFlip::Wait),
        ] {
            assert_eq!(after_flip(present, closed_at, begins), then, "{present:?} {closed_at:?} {begins:?}");
        }
    }
}
