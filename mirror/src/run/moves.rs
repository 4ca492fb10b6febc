//! What the log of decisions says of this mirror's topics: who leads them, and which are about to change that.
//!
//! When every proxy holds what goes to the topics of a move, the mirror copies the rest, takes each partition off its lane, measures both logs, and says in the
//! log that the partition is closed: from then on it writes nothing to it in that direction. After the flip the partition is copied the other way; if the move
//! is given up it goes on as before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kferry_config::{Cluster, Mirror};
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Client, ClientError, TopicPartition};
use kferry_wire::decisions::{Leader, Log, LogError, Measured, Move, Refused, Request, State, Update, Witness, ask, closing};
use kferry_wire::tell;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::messages;
use crate::partition::{Leadership, Phase, Side};
use crate::state;
use crate::topics::TopicPlan;

/// Between two looks at partitions that are to be closed.
pub(super) const LOOK: Duration = Duration::from_millis(15);
/// How long a record of the mirror's may take to be read back, until it is asked for again; whichever is second says the same.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it may take to be written.
const ASKING: Duration = Duration::from_secs(5);
/// Between two attempts to find a log that is not there yet.
const PAUSE: Duration = Duration::from_secs(1);

/// What this process knows of the log of decisions.
pub(super) struct Moves {
    mirror: Arc<Mirror>,
    /// Writes to the log; reading has a client of its own.
    client: Client,
    updates: mpsc::Receiver<Update>,
    /// What the log says; `None` before it was read to its end.
    state: Option<Arc<State>>,
    /// Counts what was heard of the log, for whoever must have heard of it since some moment.
    heard: watch::Sender<u64>,
    /// The move whose partitions are being closed.
    id: Option<i64>,
    /// Of its partitions those that were taken off their lanes, and where each ends, once that was measured.
    frozen: HashMap<TopicPartition, Option<Measurement>>,
    measuring: JoinSet<Vec<Found>>,
    asking: JoinSet<Result<(), LogError>>,
    /// When it was last said of each partition that it is closed.
    said: HashMap<TopicPartition, Instant>,
    trouble: Option<String>,
}

/// Where both logs of a partition end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measurement {
    end: i64,
    /// The offset of the last record of the log of decisions that was read before.
    as_of: i64,
}

/// What is known of the ends of a partition.
#[derive(Debug)]
pub(super) enum Found {
    /// The leader ends where the copy does: it is to be taken off its lane.
    AtEnd(TopicPartition),
    /// It is closed.
    Closed(TopicPartition, Measurement),
    /// Taken off its lane too early: it is to go on, and why.
    NotYet(TopicPartition, String),
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
    /// Follows the log on `cluster`.
    pub(super) fn follow(mirror: Arc<Mirror>, cluster: &Arc<Cluster>, kept: state::State) -> Self {
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
        Self {
            mirror,
            client: writer,
            updates,
            state: None,
            heard: watch::Sender::new(0),
            id: None,
            frozen: HashMap::new(),
            measuring: JoinSet::new(),
            asking: JoinSet::new(),
            said: HashMap::new(),
            trouble: None,
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
            Some(Update::Trouble(error)) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    tell!(messages::LOG_TROUBLE, mirror = &*self.mirror.name, error);
                    self.trouble = Some(error);
                }
                return News::Nothing;
            }
            Some(Update::Over(error)) => {
                tell!(messages::LOG_REFUSED, mirror = &*self.mirror.name, %error);
                return News::Over;
            }
            None => return News::Over,
        };
        let before = self.state.replace(state.clone());
        let leaders_changed = before.as_ref().is_none_or(|before| before.leaders() != state.leaders());
        let open = state.open().map(|open| open.id);
        let is_over = self.id.is_some() && self.id != open;
        if self.id != open {
            self.id = open;
            self.said.clear();
            // What was found of another move is nothing.
            self.measuring = JoinSet::new();
        }
        match (leaders_changed, is_over) {
            (true, _) => News::Leaders,
            (false, true) => News::GivenUp,
            (false, false) => News::Nothing,
        }
    }

    /// The topics of an open move, once all proxies hold: these are to be closed.
    pub(super) fn closes(&self, topic: &str) -> bool {
        self.is_closing() && self.open().is_some_and(|open| open.topics.contains_key(topic))
    }

    /// Whether something is to be closed.
    pub(super) fn is_closing(&self) -> bool {
        self.open().is_some_and(|open| open.quiet_since.is_some())
    }

    /// Whether a partition was taken off its lane, for a move.
    pub(super) fn is_frozen(&self, partition: &TopicPartition) -> bool {
        self.frozen.contains_key(partition)
    }

    /// Whether its end was measured, since all proxies hold.
    pub(super) fn is_closed(&self, partition: &TopicPartition) -> bool {
        let quiet_since = self.state.as_ref().and_then(|state| state.quiet_since().ok());
        let measured = self.frozen.get(partition).copied().flatten();
        measured.zip(quiet_since).is_some_and(|(measured, since)| measured.as_of >= since)
    }

    /// Whether the log has it as closed, whoever said so: nothing is written to it before the outcome.
    pub(super) fn is_said_closed(&self, partition: &TopicPartition) -> bool {
        let Some(open) = self.open() else { return false };
        open.closed.get(&*partition.topic).is_some_and(|closed| closed.contains_key(&partition.partition.cast_unsigned()))
    }

    /// Where this process has closed a partition.
    pub(super) fn closed_at(&self, partition: &TopicPartition) -> Option<i64> {
        self.frozen.get(partition).copied().flatten().map(|measured| measured.end)
    }

    pub(super) fn freeze(&mut self, partition: TopicPartition) {
        self.frozen.entry(partition).or_default();
    }

    pub(super) fn thaw(&mut self, partition: &TopicPartition) {
        self.frozen.remove(partition);
    }

    /// Those that were frozen, which are none any more.
    pub(super) fn thaw_all(&mut self) -> Vec<TopicPartition> {
        self.frozen.drain().map(|(partition, _)| partition).collect()
    }

    pub(super) fn closed(&mut self, partition: &TopicPartition, measured: Measurement) {
        if let Some(closed) = self.frozen.get_mut(partition) {
            *closed = Some(measured);
        }
    }

    /// Measures, unless that is being done.
    pub(super) fn measure(&mut self, partitions: Vec<Closing>) {
        if let Some(state) = self.state.clone().filter(|_| self.measuring.is_empty() && !partitions.is_empty()) {
            let frozen = partitions.iter().filter(|partition| partition.is_frozen).count();
            tracing::debug!(partitions = partitions.len(), frozen, "ends are measured");
            self.measuring.spawn(measure(state, partitions));
        }
    }

    /// Says which partitions are closed, as long as the log does not have that.
    pub(super) fn say_closed(&mut self, now: Instant) {
        while let Some(asked) = self.asking.try_join_next() {
            if let Ok(Err(error)) = asked {
                tell!(messages::LOG_TROUBLE, mirror = &*self.mirror.name, %error);
            }
        }
        let Some((state, open)) = self.state.as_ref().zip(self.open()) else { return };
        // One record at a time.
        if !self.asking.is_empty() {
            return;
        }
        let (id, rules, client, mut saying) = (open.id, state.rules(), self.client.clone(), Vec::new());
        let (mut ends, mut as_of): (BTreeMap<String, Vec<(u32, i64)>>, _) = (BTreeMap::new(), state.end() - 1);
        for (partition, measured) in &self.frozen {
            let Some(Measurement { end, as_of: of }) = *measured else { continue };
            // What was measured before all proxies held is measured again.
            if !self.is_closed(partition) {
                continue;
            }
            let index = partition.partition.cast_unsigned();
            let said = open.closed.get(&*partition.topic).and_then(|closed| closed.get(&index));
            // What was said a moment ago is on its way.
            let is_due = self.said.get(partition).is_none_or(|at| now >= *at + AGAIN);
            if said != Some(&end) && is_due && open.topics.contains_key(&*partition.topic) {
                saying.push(partition.clone());
                ends.entry(partition.topic.to_string()).or_default().push((index, end));
                as_of = as_of.min(of);
            }
        }
        if ends.is_empty() {
            return;
        }
        self.said.extend(saying.into_iter().map(|partition| (partition, now)));
        let request = Request::Closed { id, as_of, by: format!("mirror {}", self.mirror.name), ends };
        self.asking.spawn(async move {
            let timestamp = jiff::Timestamp::now().as_millisecond();
            ask(&client, &[request], rules, timestamp).await
        });
    }
}

/// Whether a decision between these clusters is about what this mirror copies: other mirrors may copy topics of the same name elsewhere.
fn is_of(mirror: &Mirror, from: &str, to: &str) -> bool {
    let is_one = |name: &str| *mirror.source.name == *name || *mirror.target.name == *name;
    is_one(from) && is_one(to)
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

async fn measure(state: Arc<State>, partitions: Vec<Closing>) -> Vec<Found> {
    match try_measure(&state, &partitions).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "the ends of partitions are not known");
            // It is tried again.
            Vec::new()
        }
    }
}

async fn try_measure(state: &State, partitions: &[Closing]) -> Result<Vec<Found>, ClientError> {
    let Some(first) = partitions.first() else { return Ok(Vec::new()) };
    // All of one move are led by the same cluster.
    let (leader, follower) = (&first.leader.client, &first.follower.client);
    let as_of = state.end() - 1;
    let of_leader: Vec<_> = partitions.iter().map(|closing| closing.leader.partition(closing.partition.partition)).collect();
    let frozen: Vec<_> = partitions.iter().filter(|closing| closing.is_frozen).collect();
    let of_follower: Vec<_> = frozen.iter().map(|closing| closing.follower.partition(closing.partition.partition)).collect();
    let of_frozen: Vec<_> = frozen.iter().map(|closing| closing.leader.partition(closing.partition.partition)).collect();
    let (mut ends, mut stable, mut copies) =
        tokio::join!(leader.log_ends(&of_leader), leader.list_offsets(&of_frozen, Position::LastStable), follower.log_ends(&of_follower),);
    let mut found = Vec::new();
    for closing in partitions {
        let (leader, follower) =
            (closing.leader.partition(closing.partition.partition), closing.follower.partition(closing.partition.partition));
        let Some(leader_end) = ends.remove(&leader).transpose()? else { continue };
        if !closing.is_frozen {
            if closing.agreed >= leader_end {
                found.push(Found::AtEnd(closing.partition.clone()));
            }
            continue;
        }
        let (Some(last_stable_offset), Some(follower_end)) = (stable.remove(&leader).transpose()?, copies.remove(&follower).transpose()?)
        else {
            continue;
        };
        // Each write was acknowledged at the offset that it was meant for.
        let written_end = Some(closing.agreed);
        let measured = Measured { as_of, leader_end, last_stable_offset, follower_end, written_end, unanswered: false };
        let partition = closing.partition.clone();
        found.push(match self::closing(state, &partition.topic, partition.partition.cast_unsigned(), measured) {
            Ok(end) => Found::Closed(partition, Measurement { end, as_of }),
            Err(why) => Found::NotYet(partition, why.to_string()),
        });
    }
    Ok(found)
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
