//! Carrying: batches of a Produce request whose topics lead on another cluster than the one of the client's connection are produced there, by the proxy, with
//! the login of the client's route and under the client's `client.id`. What the partition leader answers is what the client is answered.
//!
//! A batch that is refused instead can be overtaken by a later one: such records are lost or reordered, and a client without retries fails.
//!
//! One frame of a connection is carried after the other, each to all of its partition leaders at once. So batches of a partition stay in their order,
//! whatever becomes of its leader meanwhile. A broker, too, answers one Produce of a connection before it looks at the next.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kferry_wire::client::TopicPartition;
use kferry_wire::connection::{ConnectOptions, Connection, RequestError};
use kferry_wire::log::produce::{Entry, Sequence, send_for};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::PRODUCES;
use super::first::{Admitted, FirstBatches, Term, stamped};
use super::holds::Entered;
use super::masks::{NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, TOPIC_AUTHORIZATION_FAILED};
use super::senders::Sender;
use super::view::leaders::Stance;
use super::view::{Directory, Part, View};
use crate::ending::Cause;
use crate::metrics;

/// Kafka's `UNKNOWN_TOPIC_OR_PARTITION`
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Kafka's `LEADER_NOT_AVAILABLE`
const LEADER_NOT_AVAILABLE: i16 = 5;
/// Kafka's `UNSUPPORTED_FOR_MESSAGE_FORMAT`: nobody tries again after it.
const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
/// Kafka's `KAFKA_STORAGE_ERROR`: the disk of the partition leader has failed, and another broker is about to lead.
const KAFKA_STORAGE_ERROR: i16 = 56;

/// How long a connection to a partition leader stays open when nothing is carried: far shorter than a broker's `connections.max.idle.ms`, so that no batch
/// meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(30);

/// How long a partition leader may take beyond the time that the client's `timeout_ms` gives it, on its way and back.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// How long an attempt to connect to a partition leader may take.
const CONNECT: Duration = Duration::from_secs(3);

/// The shortest time for a frame, whatever the client's `timeout_ms`: a broker needs it for nothing but the replicas' word.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest `timeout_ms` that is kept.
const LONGEST: Duration = Duration::from_mins(5);

/// Waits between two attempts, from the first to the longest.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(250)];

/// What all connections of the proxy share: the memory for frames that are carried, and what is under way.
pub(crate) struct Carrying {
    memory: ArcSwap<Memory>,
    /// By their numbers.
    under_way: Mutex<HashMap<TopicPartition, BTreeMap<u64, UnderWay>>>,
    /// The number of the next one.
    next: AtomicU64,
    /// How many there are in `under_way`.
    count: AtomicUsize,
    /// Cancelled when the process ends.
    ends: CancellationToken,
}

/// Of each cluster that leads its own: one that hangs takes none from the others.
#[derive(Debug)]
struct Memory {
    /// Of each.
    bytes: u32,
    /// A permit for each byte, by the cluster's name.
    free: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        Self { bytes: u32::try_from(bytes).unwrap_or(u32::MAX).max(1), free: Mutex::default() }
    }

    fn of(&self, cluster: &Arc<str>) -> Arc<Semaphore> {
        let all = || Arc::new(Semaphore::new(self.bytes as usize));
        self.lock().entry(cluster.clone()).or_insert_with(all).clone()
    }

    fn in_use(&self) -> usize {
        self.lock().values().map(|free| self.bytes as usize - free.available_permits()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Semaphore>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that is being carried.
struct UnderWay {
    from: Arc<Sender>,
    sequence: Option<Sequence>,
    /// Cancelled once it is answered, or never will be.
    over: CancellationToken,
}

impl fmt::Debug for Carrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrying").field("memory", &self.memory).field("count", &self.count).finish_non_exhaustive()
    }
}

impl Carrying {
    /// `bytes`: for each cluster.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            memory: ArcSwap::from_pointee(Memory::new(bytes)),
            under_way: Mutex::default(),
            next: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            ends: CancellationToken::new(),
        }
    }

    /// Sends nothing any more.
    pub(crate) fn end(&self) {
        self.ends.cancel();
    }

    /// How many bytes each cluster has by now. Frames that have memory keep it beside that.
    pub(crate) fn resize(&self, bytes: usize) {
        if self.memory.load().bytes as usize != bytes {
            self.memory.store(Arc::new(Memory::new(bytes)));
        }
    }

    /// Memory for a frame that is carried to a cluster, in the order of the calls. One that is larger than all there is has all of it, alone. `None`: there is none
    /// in the client's time.
    pub(super) async fn reserve(&self, cluster: &Arc<str>, frame_len: usize, time: Duration) -> Option<Reserved> {
        let memory = self.memory.load_full();
        let bytes = u32::try_from(frame_len).unwrap_or(u32::MAX).clamp(1, memory.bytes);
        let acquired = timeout(time.clamp(SHORTEST, LONGEST), memory.of(cluster).acquire_many_owned(bytes)).await.ok()?;
        Some(Reserved { _permit: acquired.expect("it is never closed") })
    }

    /// Bytes of frames that are carried or wait to be.
    pub(crate) fn in_use(&self) -> usize {
        self.memory.load().in_use()
    }

    /// A batch is to be carried to the leader of its partition, until what is returned is dropped.
    fn begin(self: &Arc<Self>, partition: TopicPartition, from: Arc<Sender>, records: Option<&[u8]>) -> Begun {
        let (over, number) = (CancellationToken::new(), self.next.fetch_add(1, Ordering::Relaxed));
        let batch = UnderWay { from, sequence: records.and_then(Sequence::peek), over: over.clone() };
        self.lock().entry(partition.clone()).or_default().insert(number, batch);
        self.count.fetch_add(1, Ordering::Relaxed);
        Begun { carrying: self.clone(), partition, number, over }
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// What is under way and must be in the log before a batch that comes to the leader directly. Of an idempotent producer that is what it has numbered before;
    /// of another one all that came from the same client. Where the partition led when that came does not matter.
    pub(super) fn ahead_of(&self, partition: &TopicPartition, from: &Sender, records: &[u8]) -> Vec<CancellationToken> {
        let sequence = Sequence::peek(records);
        let is_ahead = |other: &&UnderWay| match (other.sequence, sequence) {
            (Some(before), Some(sequence)) => before.is_before(sequence),
            (None, None) => *other.from == *from,
            _ => false,
        };
        let under_way = self.lock();
        under_way.get(partition).into_iter().flat_map(BTreeMap::values).filter(is_ahead).map(|batch| batch.over.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TopicPartition, BTreeMap<u64, UnderWay>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that a frame has.
#[derive(Debug)]
pub(super) struct Reserved {
    _permit: OwnedSemaphorePermit,
}

/// A batch is under way.
struct Begun {
    carrying: Arc<Carrying>,
    partition: TopicPartition,
    number: u64,
    over: CancellationToken,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.over.cancel();
        let mut under_way = self.carrying.lock();
        if let Some(batches) = under_way.get_mut(&self.partition) {
            batches.remove(&self.number);
            if batches.is_empty() {
                under_way.remove(&self.partition);
            }
        }
        self.carrying.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be carried of one frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub entries: Vec<Entry>,
    /// Batches that the client is told to send again, by their front: there was no memory for them.
    pub given_up: Vec<Entry>,
    /// Their topics.
    pub entered: Vec<Entered>,
    /// -1 or 1
    pub acks: i16,
    /// Not with the client's `acks=0`: it counts on all that it has sent.
    pub is_answered: bool,
    /// The client's, from `arrived` on: who waits behind others has no more time than they.
    pub timeout: Duration,
    pub arrived: Instant,
    /// The version in which the client speaks.
    pub version: i16,
}

/// What partition leaders have answered, for the client.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One for each partition.
    pub partitions: Vec<(TopicPartition, PartitionProduceResponse)>,
    /// The longest of any broker.
    pub throttle_time_ms: i32,
    /// The connection to a partition leader broke, and what it had got is not sent again: nobody knows whether it was appended. So ends the client's connection,
    /// behind what else was answered.
    pub broken: Option<Cause>,
}

impl Answers {
    /// Whether a broker has taken none of it.
    pub(super) fn are_refusals(&self) -> bool {
        self.partitions.iter().all(|(_, answer)| answer.error_code != 0)
    }

    pub(super) fn push_error(&mut self, partition: TopicPartition, error_code: i16) {
        let answer = refused(partition.partition, error_code);
        self.partitions.push((partition, answer));
    }
}

/// What a broker says of a batch that it has not appended.
fn refused(index: i32, error_code: i16) -> PartitionProduceResponse {
    PartitionProduceResponse::default().with_index(index).with_error_code(error_code).with_base_offset(-1)
}

/// What becomes of a batch, by the partition leader's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The client is told.
    Tell,
    /// Another broker may lead the partition, now or soon, and the batch was not appended, or will not be appended twice.
    Again,
    /// Another broker may lead it, and nobody knows whether that one has the batch: it was appended here and waited for the other replicas when the leader was
    /// changed. A broker tells so with the offset that it gave the batch (`DelayedProduce`, `buildProducePartitionStatus`); for what it refuses that is -1.
    Unknown,
}

fn next(answer: &PartitionProduceResponse, records: Option<&[u8]>) -> Next {
    match answer.error_code {
        UNKNOWN_TOPIC_OR_PARTITION | LEADER_NOT_AVAILABLE | NOT_LEADER_OR_FOLLOWER | KAFKA_STORAGE_ERROR => {
            if answer.base_offset < 0 || may_be_sent_again(records) { Next::Again } else { Next::Unknown }
        }
        _ => Next::Tell,
    }
}

/// What becomes of a batch without an answer. The id of an idempotent producer keeps it from being appended twice. Of another one nobody knows whether it was
/// appended: its client gets what a broker's lost connection gives it, and decides.
fn may_be_sent_again(records: Option<&[u8]>) -> bool {
    records.is_some_and(|records| Sequence::peek(records).is_some())
}

/// Carries the frames of one connection, one after the other. A frame that was begun is carried to its end, also when the connection has ended.
#[derive(Debug)]
pub(super) struct Carrier {
    carrying: Arc<Carrying>,
    from: Arc<Sender>,
    jobs: mpsc::Sender<Job>,
}

struct Job {
    frame: Frame,
    reserved: Option<Reserved>,
    under_way: Vec<Begun>,
    answer: oneshot::Sender<Answers>,
}

impl Carrier {
    pub(super) fn new(carrying: Arc<Carrying>, firsts: Arc<FirstBatches>, view: Arc<View>, from: Arc<Sender>) -> Self {
        let (jobs, queue) = mpsc::channel(PRODUCES);
        let lines = Lines { view, firsts, client_id: from.client_id.clone(), open: HashMap::new(), given_up: GivenUp::default() };
        let ends = carrying.ends.clone();
        tokio::spawn(async move { ends.run_until_cancelled(lines.run(queue)).await });
        Self { carrying, from, jobs }
    }

    /// Hands a frame over, with the memory that it has. What is returned comes once each of its batches is answered.
    pub(super) async fn carry(&self, frame: Frame, reserved: Option<Reserved>) -> oneshot::Receiver<Answers> {
        let begin = |(partition, records): &Entry| self.carrying.begin(partition.clone(), self.from.clone(), records.as_deref());
        let under_way = frame.entries.iter().map(begin).collect();
        let (answer, answered) = oneshot::channel();
        // It runs for as long as there is somebody to hand it frames.
        let _ = self.jobs.send(Job { frame, reserved, under_way, answer }).await;
        answered
    }
}

/// The name of a cluster and the node id of one of its brokers.
type Node = (Arc<str>, i32);

/// The connections to partition leaders on which the frames of one client's connection are carried.
struct Lines {
    view: Arc<View>,
    firsts: Arc<FirstBatches>,
    client_id: String,
    open: HashMap<Node, Arc<Connection>>,
    given_up: GivenUp,
}

/// Of a frame's batches, those whose topic leads somewhere by a decision.
type Terms = HashMap<TopicPartition, (Term, Admitted)>;

/// Of idempotent producers: the batch of a partition that was given up, and is to come again before those that were numbered after it. A partition leader that
/// does not know the producer yet would take one of those for its first, and then never take this one.
#[derive(Debug, Default)]
struct GivenUp(HashMap<(TopicPartition, i64), Sequence>);

impl GivenUp {
    /// How many are remembered at the most.
    const MOST: usize = 10_000;

    fn give_up(&mut self, partition: &TopicPartition, records: Option<&[u8]>) {
        if let Some(sequence) = records.and_then(Sequence::peek)
            && self.0.len() < Self::MOST
        {
            self.0.insert((partition.clone(), sequence.producer_id), sequence);
        }
    }

    /// Whether a batch must wait until another one has come again.
    fn must_wait(&mut self, partition: &TopicPartition, records: Option<&[u8]>) -> bool {
        let Some(sequence) = records.and_then(Sequence::peek).filter(|_| !self.0.is_empty()) else { return false };
        let key = (partition.clone(), sequence.producer_id);
        match self.0.get(&key) {
            // In a new epoch sequences begin anew.
            Some(due) if due.producer_epoch == sequence.producer_epoch && due.is_before(sequence) => return true,
            Some(_) => drop(self.0.remove(&key)),
            None => {}
        }
        false
    }
}

/// Who leads a partition, by what its cluster said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Led {
    /// The broker with this node id.
    By(i32),
    /// None just now; or the cluster does not say.
    ByNobody,
    /// There is no such partition.
    Unknown,
    /// The route's login may not know.
    Hidden,
}

fn leader(part: &Part, partition: &TopicPartition) -> Led {
    let unknown = if part.shown.is_away() { Led::ByNobody } else { Led::Unknown };
    let Some(listing) = part.shown.last() else { return Led::ByNobody };
    let Some(topic) = listing.metadata.topic(&partition.topic) else { return unknown };
    match &topic.error {
        Some(error) if error.is_unknown_topic() => return unknown,
        Some(error) if error.is_authorization() => return Led::Hidden,
        _ => {}
    }
    match topic.partitions.iter().find(|known| known.index == partition.partition) {
        Some(known) => known.leader.map_or(Led::ByNobody, Led::By),
        None if topic.error.is_some() => Led::ByNobody,
        None => unknown,
    }
}

/// How it stands with a batch.
enum Outcome {
    Answered(PartitionProduceResponse),
    /// It was not appended, or will not be appended twice.
    Again,
    /// Nobody knows whether it was appended; or, if it may still arrive, whether it will be.
    Lost {
        cause: Cause,
        may_arrive: bool,
    },
}

impl Lines {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut is_lost = false;
        loop {
            match timeout(IDLE, queue.recv()).await {
                // The connection has ended, or ends with a frame that was lost: the client sends all again that it has no answer to.
                Ok(Some(Job { frame, answer, .. })) if frame.is_answered && (is_lost || answer.is_closed()) => is_lost = true,
                Ok(Some(Job { mut frame, reserved, under_way, answer })) => {
                    frame.entered.iter_mut().for_each(Entered::sent);
                    let (answers, is_certain) = self.carry(&frame).await;
                    if is_certain {
                        frame.entered.iter_mut().for_each(Entered::answered);
                    }
                    is_lost |= answers.broken.is_some();
                    drop((under_way, frame, reserved));
                    // A client that is gone needs none.
                    let _ = answer.send(answers);
                }
                Ok(None) => return,
                Err(_) => self.open.clear(),
            }
        }
    }

    /// Produces each batch at the leader of its partition, and again where that is not the leader, until the client's time is over. Returns whether it is certain
    /// of each batch that it is in the log, or never will be.
    async fn carry(&mut self, frame: &Frame) -> (Answers, bool) {
        let deadline = frame.arrived + frame.timeout.clamp(SHORTEST, LONGEST);
        let (mut answers, mut attempt, mut lost) = (Answers::default(), 0, false);
        for (partition, front) in &frame.given_up {
            if !self.given_up.must_wait(partition, front.as_deref()) {
                self.given_up.give_up(partition, front.as_deref());
            }
        }
        let terms = self.terms(frame).await;
        let mut left = Vec::with_capacity(frame.entries.len());
        for (partition, records) in frame.entries.iter().cloned() {
            if self.given_up.must_wait(&partition, records.as_deref()) {
                answers.push_error(partition, NOT_LEADER_OR_FOLLOWER);
            } else if let Some((_, Admitted::Answered(error_code))) = terms.get(&partition) {
                answers.push_error(partition, *error_code);
            } else {
                left.push((partition, records));
            }
        }
        loop {
            let (by_leader, mut again) = self.find_leaders(left, attempt > 0, &mut answers).await;
            self.connect(by_leader.keys(), deadline).await;
            let sent = join_all(by_leader.into_iter().map(|(leader, entries)| self.send(leader, entries, &terms, frame, deadline))).await;
            for (leader, outcomes, throttle_time_ms) in sent {
                answers.throttle_time_ms = answers.throttle_time_ms.max(throttle_time_ms);
                for ((partition, records), outcome) in outcomes {
                    match outcome {
                        Outcome::Answered(answer) => {
                            if let (0, Some((_, Admitted::IsFirst(first)))) = (answer.error_code, terms.get(&partition)) {
                                first.appended();
                            }
                            metrics::carried(&leader.0, records.as_ref().map_or(0, bytes::Bytes::len));
                            answers.partitions.push((partition, answer));
                        }
                        Outcome::Again => again.push((partition, records)),
                        Outcome::Lost { cause, may_arrive } => {
                            debug!(client_id = self.client_id, cluster = %leader.0, node_id = leader.1, %partition, error = cause.detail(), "no answer");
                            if may_arrive {
                                self.open.remove(&leader);
                                lost = true;
                            }
                            if !may_be_sent_again(records.as_deref()) {
                                answers.broken = Some(cause);
                            }
                            again.push((partition, records));
                        }
                    }
                }
            }
            let pause = PAUSES[attempt.min(PAUSES.len() - 1)];
            if again.is_empty() || answers.broken.is_some() || Instant::now() + pause >= deadline {
                let error_code = if lost { REQUEST_TIMED_OUT } else { NOT_LEADER_OR_FOLLOWER };
                let is_certain = again.is_empty() || !lost;
                for (partition, records) in again {
                    self.given_up.give_up(&partition, records.as_deref());
                    answers.push_error(partition, error_code);
                }
                return (answers, is_certain);
            }
            sleep(pause).await;
            (left, attempt) = (again, attempt + 1);
        }
    }

    /// The terms of topics that lead somewhere by a decision, and whether each batch may come there now.
    async fn terms(&self, frame: &Frame) -> Terms {
        let admitting = frame.entries.iter().filter_map(|(partition, records)| {
            let term = self.view.term(&partition.topic)?;
            Some(async move {
                let admitted = self.firsts.admit(partition, &term, records.as_deref().unwrap_or_default(), Duration::ZERO).await;
                (partition.clone(), (term, admitted))
            })
        });
        join_all(admitting).await.into_iter().collect()
    }

    /// Sorts batches by the leader of their partition. Those without one just now are returned as they are; those that will have none are answered. `again`:
    /// what the clusters said before has led nowhere.
    async fn find_leaders(&self, entries: Vec<Entry>, again: bool, answers: &mut Answers) -> (BTreeMap<Node, Vec<Entry>>, Vec<Entry>) {
        let (parts, leaders) = (self.view.parts(), self.view.leaders().load_full());
        let part = |topic: &str| {
            let leader = leaders.leader_to_records(topic);
            // A file may have taken the leader's cluster out of the view since the batch began.
            let is_copy = leaders.stance_to_records(topic, leader) == Stance::HasCopy;
            parts.part(leaders.name(leader)).filter(|_| !is_copy)
        };
        let to_be_asked: Vec<Arc<Directory>> = entries
            .iter()
            .filter_map(|(partition, _)| part(&partition.topic).filter(|part| again || leader(part, partition) == Led::Unknown))
            .map(|part| part.shown.clone())
            .collect();
        // What is not there may have been created a moment ago. Who has just been asked is not asked again.
        for directory in to_be_asked {
            directory.freshen().await;
        }
        let (mut by_leader, mut none) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for (partition, records) in entries {
            let part = part(&partition.topic);
            match part.map_or(Led::ByNobody, |part| leader(part, &partition)) {
                Led::By(node_id) => {
                    let cluster = part.expect("it has said so").cluster.name.clone();
                    by_leader.entry((cluster, node_id)).or_default().push((partition, records));
                }
                Led::Unknown => answers.push_error(partition, UNKNOWN_TOPIC_OR_PARTITION),
                // The route's login may not know of the topic.
                Led::Hidden => answers.push_error(partition, TOPIC_AUTHORIZATION_FAILED),
                Led::ByNobody => {
                    debug!(client_id = self.client_id, %partition, "the partition leader is not known");
                    none.push((partition, records));
                }
            }
        }
        (by_leader, none)
    }

    /// `None`: the cluster has left the view.
    fn client_of(&self, cluster: &str) -> Option<kferry_wire::client::Client> {
        self.view.parts().part(cluster).map(|part| part.shown.client().clone())
    }

    /// Opens what is not open.
    async fn connect(&mut self, leaders: impl Iterator<Item = &Node>, deadline: Instant) {
        self.open.retain(|_, line| line.is_broken().is_none());
        let missing: Vec<Node> = leaders.filter(|leader| !self.open.contains_key(*leader)).cloned().collect();
        let options =
            ConnectOptions { client_id: self.client_id.clone(), request_timeout: LONGEST + 2 * ON_ITS_WAY, ..ConnectOptions::default() };
        let connecting = missing.into_iter().map(|leader| {
            let (client, options) = (self.client_of(&leader.0), options.clone());
            async move {
                // Who hangs may soon not be the leader any more.
                let connected = timeout_at(deadline.min(Instant::now() + CONNECT), client?.connect_with(leader.1, &options)).await;
                let error = match connected {
                    Ok(Ok(connection)) => return Some((leader, Arc::new(connection))),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                debug!(client_id = options.client_id, cluster = %leader.0, node_id = leader.1, error, "the partition leader cannot be reached");
                None
            }
        });
        self.open.extend(join_all(connecting).await.into_iter().flatten());
    }

    /// Sends batches to the leader of their partitions. Returns how it stands with each, and how long the client is throttled.
    async fn send(
        &self,
        leader: Node,
        entries: Vec<Entry>,
        terms: &Terms,
        frame: &Frame,
        deadline: Instant,
    ) -> (Node, Vec<(Entry, Outcome)>, i32) {
        let all = |outcome: &dyn Fn() -> Outcome, entries: Vec<Entry>| entries.into_iter().map(|entry| (entry, outcome())).collect();
        let Some(line) = self.open.get(&leader) else { return (leader, all(&|| Outcome::Again, entries), 0) };
        let timeout_ms = frame.timeout.min(deadline.saturating_duration_since(Instant::now())).as_millis() as i32;
        let stamp = |(partition, records): Entry| {
            let term = terms.get(&partition).map(|(term, _)| term);
            (partition, records.map(|records| stamped(term, records)))
        };
        let asked = send_for(line, entries.iter().cloned().map(stamp), frame.acks, timeout_ms, frame.version);
        let cause = |error: String| Cause::NotAsked { cluster: leader.0.clone(), api_key: ApiKey::Produce, error };
        let lost = |error: String| Outcome::Lost { cause: cause(error), may_arrive: true };
        let response = match timeout_at(deadline + ON_ITS_WAY, asked).await {
            Ok(Ok(response)) => response,
            Ok(Err(RequestError::Version { .. })) => {
                let error = |entry: Entry| {
                    let answer = refused(entry.0.partition, UNSUPPORTED_FOR_MESSAGE_FORMAT);
                    (entry, Outcome::Answered(answer))
                };
                return (leader, entries.into_iter().map(error).collect(), 0);
            }
            Ok(Err(error)) => return (leader.clone(), all(&|| lost(error.to_string()), entries), 0),
            Err(_) => return (leader.clone(), all(&|| lost("no answer in time".to_owned()), entries), 0),
        };
        let throttle_time_ms = response.throttle_time_ms;
        let mut answered = HashMap::new();
        for topic in response.responses {
            let partitions = topic.partition_responses.into_iter();
            answered.extend(partitions.map(|partition| ((topic.name.to_string(), partition.index), partition)));
        }
        let outcome = |entry: Entry| {
            let outcome = match answered.get(&(entry.0.topic.to_string(), entry.0.partition)) {
                Some(partition) => match next(partition, entry.1.as_deref()) {
                    Next::Tell => Outcome::Answered(partition.clone()),
                    Next::Again => Outcome::Again,
                    Next::Unknown => {
                        let error = "the leader was changed before all replicas had a batch that it had appended".to_owned();
                        Outcome::Lost { cause: cause(error), may_arrive: false }
                    }
                },
                None => lost("the answer leaves out a partition".to_owned()),
            };
            (entry, outcome)
        };
        let outcomes = entries.into_iter().map(outcome).collect();
        (leader, outcomes, throttle_time_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;
    use kferry_wire::batch::{self, Codec, Record};

    use super::*;

    fn batch(producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Bytes {
        let record = Record { offset: 0, timestamp: 1, key: None, value: Some(Bytes::from_static(b"v")), headers: Vec::new() };
        batch::encode(&[record], Codec::None, Sequence { producer_id, producer_epoch, base_sequence }).unwrap()
    }

    fn plain() -> Bytes {
        batch(-1, -1, -1)
    }

    fn sender(client_id: &str) -> Arc<Sender> {
        Arc::new(Sender::new(client_id, Ipv4Addr::LOCALHOST.into()))
    }

    #[test]
    fn a_batch_waits_for_those_before_it_and_for_no_other() {
        let carrying = Arc::new(Carrying::new(1));
        let place = |partition| TopicPartition::new("orders", partition);
        let (one, other) = (sender("one"), sender("other"));
        let begin = |partition, from: &Arc<Sender>, records: &Bytes| carrying.begin(place(partition), from.clone(), Some(records));
        let ahead = |partition, from: &Arc<Sender>, records: &Bytes| carrying.ahead_of(&place(partition), from, records).len();
        assert!(carrying.is_empty());
        let under_way =
            [begin(0, &one, &batch(7, 0, 3)), begin(0, &one, &batch(7, 0, 4)), begin(0, &one, &plain()), begin(1, &one, &plain())];
        assert!(!carrying.is_empty());
        for (partition, from, records, count) in [
            (0, &one, batch(7, 0, 5), 2),
            // The same one again, after a lost answer: it waits for those before it.
            (0, &one, batch(7, 0, 4), 1),
            (0, &one, batch(7, 0, 3), 0),
            (0, &one, batch(7, 1, 0), 2),
            (0, &one, batch(8, 0, 5), 0),
            // Its id says whose it is, whatever the connection.
            (0, &other, batch(7, 0, 5), 2),
            (0, &one, plain(), 1),
            (1, &one, plain(), 1),
            (1, &one, batch(7, 0, 5), 0),
            (0, &other, plain(), 0),
            (2, &one, plain(), 0),
        ] {
            assert_eq!(ahead(partition, from, &records), count, "{partition} {from:?} {:?}", Sequence::peek(&records));
        }
        let waits = carrying.ahead_of(&place(0), &one, &batch(7, 0, 5));
        drop(under_way);
        assert!(waits.iter().all(CancellationToken::is_cancelled) && carrying.is_empty() && carrying.lock().is_empty());
    }

    #[test]
    fn what_was_given_up_comes_before_what_was_numbered_after_it() {
        let mut given_up = GivenUp::default();
        let (orders, others) = (TopicPartition::new("orders", 0), TopicPartition::new("orders", 1));
        let waits = |given_up: &mut GivenUp, partition: &TopicPartition, records: &Bytes| given_up.must_wait(partition, Some(records));
        assert!(!waits(&mut given_up, &orders, &batch(7, 0, 4)));
        given_up.give_up(&orders, Some(&batch(7, 0, 4)));
        given_up.give_up(&orders, Some(&plain()));
        assert!(waits(&mut given_up, &orders, &batch(7, 0, 5)) && waits(&mut given_up, &orders, &batch(7, 0, 9)));
        assert!(!waits(&mut given_up, &orders, &batch(8, 0, 5)) && !waits(&mut given_up, &others, &batch(7, 0, 5)));
        assert!(!waits(&mut given_up, &orders, &plain()));
        // It has come again: what follows it may go.
        assert!(!waits(&mut given_up, &orders, &batch(7, 0, 4)) && !waits(&mut given_up, &orders, &batch(7, 0, 5)));
        // The producer has begun anew instead.
        given_up.give_up(&orders, Some(&batch(7, 0, 5)));
        assert!(!waits(&mut given_up, &orders, &batch(7, 1, 0)) && !waits(&mut given_up, &orders, &batch(7, 1, 1)));
    }

    #[test]
    fn only_what_was_certainly_not_appended_is_sent_again_without_an_id() {
        let (idempotent, plain_one) = (batch(7, 0, 0), plain());
        let by =
            |error_code: i16, base_offset: i64, records: &Bytes| next(&refused(0, error_code).with_base_offset(base_offset), Some(records));
        for error_code in [3, 5, 6, 56] {
            assert_eq!(by(error_code, -1, &plain_one), Next::Again, "{error_code}");
            // Appended by a leader that is none any more.
            assert_eq!(by(error_code, 7, &plain_one), Next::Unknown, "{error_code}");
            assert_eq!(by(error_code, 7, &idempotent), Next::Again, "{error_code}");
        }
        // Appended; appended and not replicated; not appended, and the client's to decide; refused for good; known already; out of order.
        for error_code in [0, 7, 20, 19, 10, 87, 29, 46, 45, 47, -1] {
            assert_eq!(by(error_code, 7, &plain_one), Next::Tell, "{error_code}");
        }
        assert!(may_be_sent_again(Some(&batch(7, 0, 0))));
        assert!(!may_be_sent_again(Some(&plain())) && !may_be_sent_again(None));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_had_in_the_order_of_arrival_and_a_large_frame_is_alone() {
        let carrying = Carrying::new(100);
        let clusters: [Arc<str>; 2] = ["legacy".into(), "new".into()];
        let reserve = |cluster: usize, len| carrying.reserve(&clusters[cluster], len, Duration::from_secs(5));
        let [small, other] = [reserve(0, 40).await, reserve(0, 60).await];
        assert_eq!(carrying.in_use(), 100);
        // The other cluster has its own, and who waits does so for no longer than the client.
        let began = Instant::now();
        assert!(reserve(0, 1).await.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert!(reserve(1, 100).await.is_some());
        let (mut large, mut last) = (Box::pin(reserve(0, 1000)), Box::pin(reserve(0, 1)));
        let soon = Duration::from_millis(1);
        assert!(timeout(soon, &mut large).await.is_err() && timeout(soon, &mut last).await.is_err());
        drop(small);
        // There is room for it, but the large one was first.
        assert!(timeout(soon, &mut last).await.is_err() && timeout(soon, &mut large).await.is_err());
        drop(other);
        let large = timeout(soon, &mut large).await.unwrap();
        assert!(carrying.in_use() == 100 && timeout(soon, &mut last).await.is_err());
        drop(large);
        let last = timeout(soon, &mut last).await.unwrap();
        assert_eq!(carrying.in_use(), 1);
        // Another limit is another memory.
        carrying.resize(10);
        assert_eq!(carrying.in_use(), 0);
        drop(last);
    }
}
