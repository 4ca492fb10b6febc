//! The data path: what one broker of the leading cluster has for one broker of the following one.
//!
//! A *lane* is such a pair of brokers, with a connection to each. It fetches all of its partitions in one request, cuts what comes into
//! pieces ([`super::cut`]), produces at most one batch of each partition in a request, several requests in flight, and checks the offset
//! in every answer. A partition that cannot go on is given back, when nothing of it is in flight any more; the others go on.
//!
//! The follower's log end is the only record of progress. A lane never sends anything twice: after a lost answer everything is given back,
//! and [`super::settle`] looks at both logs before a lane gets it again.
//!
//! # References
//! - `ProduceRequest.json`: one batch a partition and request (`ProduceRequest.validateRecords`)
//! - `org.apache.kafka.storage.internals.log.ProducerAppendInfo.checkSequence`: a batch lands only behind the last one of its producer id

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use futures_util::{FutureExt as _, StreamExt as _};
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ApiVersionsRequest, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse};
use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::connection::{Connection, RequestError};
use kferry_wire::log::fetch::{self, Amount, FetchSession, Fetched};
use kferry_wire::log::produce;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cut::{Cutter, Data, Hole, Piece};
use super::job::PartitionJob;
use super::limits::Limits;
use super::{events, holes};
use crate::partition::{Handback, Refusal, Segment};

/// Requests that a broker may have of one connection. It handles them one after the other, so more would only wait.
const IN_FLIGHT: usize = 5;
/// How long the follower's broker may take to have a batch on all of its replicas.
pub(crate) const PRODUCE_TIMEOUT_MS: i32 = 30_000;
/// Offsets without a record that are filled although they need not be: a segment takes more room than so many markers.
const GAP: i64 = 1_000;
/// Brokers close a connection on which nothing is asked for ten minutes (`connections.max.idle.ms`).
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Between two looks whether the lease has come back.
const HELD_UP: Duration = Duration::from_millis(100);

/// A partition that was looked at, to be copied from here on.
pub(crate) struct ReadyPartition {
    /// Which one.
    pub(crate) job: PartitionJob,
    /// From where, and with which sequence.
    pub(crate) cutter: Cutter,
    /// What comes before.
    pub(crate) first: Option<Piece>,
}

/// One broker of the leading cluster, one of the following.
pub(crate) struct Lane {
    source: Arc<Connection>,
    target: Arc<Connection>,
    leader: Client,
    limits: Arc<Limits>,
    incoming: mpsc::UnboundedReceiver<ReadyPartition>,
    /// Notified when one of the partitions may have been stopped.
    wake: Arc<Notify>,
    back: mpsc::UnboundedSender<(PartitionJob, Handback)>,
    stop: CancellationToken,
    partitions: HashMap<TopicPartition, Copying>,
    session: FetchSession,
    fetch: Option<BoxFuture<'static, Result<FetchResponse, RequestError>>>,
    fetch_from: Instant,
    /// In the order in which they were sent: each answer says where the next one belongs.
    produces: FuturesOrdered<BoxFuture<'static, Produced>>,
    /// Bytes in `produces`.
    in_flight: usize,
    /// Something waits for the lease.
    held_up: bool,
    fills: FuturesUnordered<BoxFuture<'static, (TopicPartition, Result<Filled, Handback>)>>,
    keep_alive: Interval,
    /// Why the lane ends, once it does.
    broken: Option<String>,
}

/// How far an offset of the leader's without a record got on the follower.
enum Filled {
    /// It is there too.
    Markers,
    /// It is left out, and what comes behind is a segment of its own.
    LeftOut,
}

/// A partition on its lane.
struct Copying {
    job: PartitionJob,
    cutter: Cutter,
    /// Offsets of the follower are the leader's and this.
    shift: i64,
    queue: VecDeque<Piece>,
    /// Bytes in `queue`.
    queued: usize,
    in_flight: usize,
    /// Something of it was acknowledged: until then its first batch goes alone, in case its sequence is not what the follower expects.
    proven: bool,
    filling: bool,
    /// It goes back when nothing of it is in flight.
    leave: Option<Handback>,
}

/// A request's batches, in order, and its answer.
type Produced = (Vec<(TopicPartition, Data)>, Result<ProduceResponse, RequestError>);

impl Lane {
    /// Connects to two brokers and copies what comes in, until `stop` or until a connection breaks; then everything goes `back`.
    pub(crate) async fn run(
        (leader, follower): (Client, Client),
        (source, target): (i32, i32),
        limits: Arc<Limits>,
        mut incoming: mpsc::UnboundedReceiver<ReadyPartition>,
        wake: Arc<Notify>,
        back: mpsc::UnboundedSender<(PartitionJob, Handback)>,
        stop: CancellationToken,
    ) {
        let connected = tokio::select! {
            connected = async { tokio::try_join!(leader.connect(source), follower.connect(target)) } => connected.map_err(|error| Handback::Again(error.to_string())),
            () = stop.cancelled() => Err(Handback::Cancelled),
        };
        let (source, target) = match connected {
            Ok((source, target)) => (Arc::new(source), Arc::new(target)),
            Err(leave) => return give_all_back(&mut incoming, &back, &leave).await,
        };
        let mut keep_alive = interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lane = Self {
            source,
            target,
            leader,
            limits,
            incoming,
            wake,
            back,
            stop,
            partitions: HashMap::new(),
            session: FetchSession::default(),
            fetch: None,
            fetch_from: Instant::now(),
            produces: FuturesOrdered::new(),
            in_flight: 0,
            held_up: false,
            fills: FuturesUnordered::new(),
            keep_alive,
            broken: None,
        };
        while lane.step().await {}
        lane.end().await;
    }

    /// One thing that happens, and what follows from it. False when it is over.
    async fn step(&mut self) -> bool {
        self.fetch();
        self.produce().await;
        self.fill();
        self.give_back();
        if self.broken.is_some() {
            return false;
        }
        tokio::select! {
            () = self.stop.cancelled() => return false,
            () = self.wake.notified() => {}
            settled = self.incoming.recv() => match settled {
                Some(settled) => self.take(settled),
                None => return false,
            },
            Some(produced) = self.produces.next() => self.produced(produced),
            Some((partition, filled)) = self.fills.next() => self.filled(&partition, filled),
            answer = async { self.fetch.as_mut().expect("the arm is off without one").await }, if self.fetch.is_some() => {
                self.fetch = None;
                self.fetched(answer);
            }
            () = sleep(HELD_UP), if self.held_up => {}
            () = sleep_until(self.fetch_from), if self.fetch.is_none() && self.fetch_from > Instant::now() => {}
            _ = self.keep_alive.tick() => self.keep_alive(),
        }
        true
    }

    fn take(&mut self, ReadyPartition { job, cutter, first }: ReadyPartition) {
        let partition = job.leader.partition(job.partition);
        // Its shard was lost and came back, and what was sent for it before has no answer yet.
        if self.partitions.contains_key(&partition) {
            let _ = self.back.send((job, Handback::Again("what was sent before has not been answered yet".to_owned())));
            return;
        }
        let queue = first.into_iter().collect();
        let shift = {
            let known = job.status.lock();
            known.map.follower(known.direction, known.agreed).map_or(0, |follower| follower - known.agreed)
        };
        let copying = Copying { job, cutter, shift, queue, queued: 0, in_flight: 0, proven: false, filling: false, leave: None };
        self.partitions.insert(partition, copying);
    }

    /// Asks for what there is room for, if nothing is asked for yet.
    fn fetch(&mut self) {
        // A quarter of the share for the answer, one for what waits, and the rest for what is in flight.
        let share = self.limits.share();
        let bytes = self.limits.fetch_bytes.min(share / 4);
        let queued: usize = self.partitions.values().map(|copying| copying.queued).sum();
        let is_full = queued >= bytes || queued + self.in_flight + bytes > share;
        if self.fetch.is_some() || is_full || Instant::now() < self.fetch_from {
            return;
        }
        let wanted: HashMap<_, _> = self
            .partitions
            .iter()
            .filter(|(_, copying)| copying.leave.is_none() && copying.queued < self.limits.partition_bytes)
            .map(|(partition, copying)| (partition.clone(), copying.cutter.at()))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let amount = Amount {
            // A partition that comes in meanwhile waits so long, and one whose queue was full.
            max_wait_ms: 250,
            max_bytes: bytes as i32,
            partition_max_bytes: self.limits.partition_bytes as i32,
        };
        let request = self.session.request(wanted, amount);
        let source = self.source.clone();
        self.fetch = Some(
            async move {
                let version = source.version_for::<FetchRequest>(fetch::VERSIONS)?;
                source.request(&request, version).await
            }
            .boxed(),
        );
    }

    fn fetched(&mut self, answer: Result<FetchResponse, RequestError>) {
        let answer = match answer {
            Ok(answer) => {
                self.session.answer(answer).map_err(|error| format!("{} answers Fetch with {error:?}", self.leader.cluster().name))
            }
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(fetched) => {
                let bytes = fetched.iter().map(|fetched| fetched.records.len()).sum();
                self.fetch_from = self.limits.rate.after(bytes);
                for fetched in fetched {
                    if let Some(copying) = self.partitions.get_mut(&fetched.partition)
                        && copying.leave.is_none()
                    {
                        copying.fetched(fetched);
                    }
                }
            }
            Err(error) => self.broken = Some(error),
        }
    }

    /// Sends as much as may be in flight: the next batch of each partition that has one.
    async fn produce(&mut self) {
        self.held_up = false;
        while self.produces.len() < IN_FLIGHT && self.broken.is_none() {
            let mut batches = Vec::new();
            let mut bytes = 0;
            for (partition, copying) in &mut self.partitions {
                if bytes >= self.limits.produce_bytes || !copying.has_batch() {
                    continue;
                }
                // Just before it is sent.
                if !copying.job.shard.may_write() {
                    self.held_up = true;
                    continue;
                }
                if let Some(data) = copying.next_batch() {
                    bytes += data.bytes.len();
                    batches.push((partition.clone(), copying.job.follower.partition(partition.partition), data));
                }
            }
            if batches.is_empty() {
                return;
            }
            self.in_flight += bytes;
            let sent = batches.iter().map(|(_, partition, data)| (partition.clone(), data.bytes.clone()));
            let request = produce::request(sent, PRODUCE_TIMEOUT_MS);
            let target = self.target.clone();
            let batches = batches.into_iter().map(|(partition, _, data)| (partition, data)).collect();
            let mut produced = async move {
                let answer = match target.version_for::<ProduceRequest>(produce::VERSIONS) {
                    Ok(version) => target.request(&request, version).await,
                    Err(error) => Err(error),
                };
                (batches, answer)
            }
            .boxed();
            // Requests go out in the order in which they are first polled, and that must be the order of the offsets.
            match futures_util::poll!(&mut produced) {
                std::task::Poll::Ready(produced) => self.produced(produced),
                std::task::Poll::Pending => self.produces.push_back(produced),
            }
        }
    }

    fn produced(&mut self, (batches, answer): Produced) {
        self.in_flight -= batches.iter().map(|(_, data)| data.bytes.len()).sum::<usize>();
        match answer {
            Ok(answer) => {
                let mut answers: HashMap<_, _> = HashMap::new();
                for topic in answer.responses {
                    for partition in topic.partition_responses {
                        answers.insert((topic.name.to_string(), partition.index), partition);
                    }
                }
                for (partition, data) in batches {
                    let copying = self.partitions.get_mut(&partition).expect("a partition with something in flight stays");
                    let answer = answers.remove(&(copying.job.follower.topic.to_string(), partition.partition));
                    copying.produced(data, answer);
                }
            }
            Err(error) => {
                for (partition, _) in batches {
                    self.partitions.get_mut(&partition).expect("a partition with something in flight stays").in_flight -= 1;
                }
                self.broken.get_or_insert(error.to_string());
            }
        }
    }

    /// Offsets without records are filled by markers, one partition's at a time and with nothing else of it in flight.
    fn fill(&mut self) {
        for (partition, copying) in &mut self.partitions {
            if copying.in_flight > 0 || copying.filling || copying.leave.is_some() {
                continue;
            }
            let Some(Piece::Hole(Hole { offsets })) = copying.queue.front() else { continue };
            if !copying.job.shard.may_write() {
                self.held_up = true;
                continue;
            }
            copying.filling = true;
            let (partition, fill) = (partition.clone(), copying.fill(offsets.clone()));
            self.fills.push(async move { (partition, fill.await) }.boxed());
        }
    }

    fn filled(&mut self, partition: &TopicPartition, filled: Result<Filled, Handback>) {
        let copying = self.partitions.get_mut(partition).expect("a partition that is being filled stays");
        copying.filling = false;
        match filled {
            Ok(filled) => {
                if let Some(Piece::Hole(Hole { offsets })) = copying.queue.pop_front() {
                    match filled {
                        Filled::Markers => events::filled(&copying.job, offsets.end - offsets.start),
                        Filled::LeftOut => copying.shift -= offsets.end - offsets.start,
                    }
                    copying.job.status.agree(offsets.end);
                }
            }
            Err(leave) => copying.leave(leave),
        }
    }

    fn give_back(&mut self) {
        for copying in self.partitions.values_mut().filter(|copying| copying.job.stop.is_cancelled()) {
            copying.leave(Handback::Cancelled);
        }
        let back = &self.back;
        let leaving = self.partitions.extract_if(|_, copying| copying.leave.is_some() && copying.in_flight == 0 && !copying.filling);
        for (_, copying) in leaving {
            let leave = copying.leave.expect("it leaves");
            // Nobody listens any more when the whole mirror ends.
            let _ = back.send((copying.job, leave));
        }
    }

    fn keep_alive(&mut self) {
        if self.produces.is_empty() {
            let target = self.target.clone();
            self.produces.push_back(
                async move {
                    let answer = target.request(&ApiVersionsRequest::default(), 0).await;
                    (Vec::new(), answer.map(|_| ProduceResponse::default()))
                }
                .boxed(),
            );
        }
    }

    /// What is in flight is awaited, then all goes back. Each of it has a deadline of its own.
    async fn end(mut self) {
        let leave = |broken: &Option<String>| broken.clone().map_or(Handback::Cancelled, Handback::Again);
        give_all_back(&mut self.incoming, &self.back, &leave(&self.broken)).await;
        for copying in self.partitions.values_mut() {
            copying.leave(leave(&self.broken));
        }
        loop {
            self.give_back();
            tokio::select! {
                Some(produced) = self.produces.next() => self.produced(produced),
                Some((partition, filled)) = self.fills.next() => self.filled(&partition, filled),
                else => break,
            }
        }
        self.give_back();
    }
}

/// What a lane has not begun with.
async fn give_all_back(
    incoming: &mut mpsc::UnboundedReceiver<ReadyPartition>,
    back: &mpsc::UnboundedSender<(PartitionJob, Handback)>,
    leave: &Handback,
) {
    incoming.close();
    while let Some(settled) = incoming.recv().await {
        let _ = back.send((settled.job, leave.clone()));
    }
}

impl Copying {
    /// What is at this offset of the leader is at that one of the follower, and so on from there.
    fn goes_on(&mut self, leader: i64, follower: i64) {
        self.shift = follower - leader;
        self.job.status.begin(leader, follower);
    }

    /// Has the follower's offsets filled. Where offsets are translated a large gap is left out instead, and any where the mirror may not write
    /// markers: that the next segment begins behind it is kept first.
    fn fill(&self, offsets: Range<i64>) -> impl Future<Output = Result<Filled, Handback>> + use<> {
        let there = offsets.start + self.shift..offsets.end + self.shift;
        let (follower, partition, producer_id) = (self.job.follower.clone(), self.job.partition, self.job.producer_id());
        let (state, shard, name) = (self.job.state.clone(), self.job.shard.clone(), self.job.topic_partition());
        let status = self.job.status.clone();
        let (direction, translates) = {
            let known = status.lock();
            (known.direction, known.map.translates())
        };
        async move {
            if !translates {
                return holes::fill(follower, partition, producer_id, there, shard).await.map(|()| Filled::Markers);
            }
            let (leader, follower_end) = (offsets.end, there.start);
            if there.end - there.start <= GAP && holes::markers(&follower, partition, producer_id, there, &shard).await?.is_none() {
                return Ok(Filled::Markers);
            }
            status.begin(leader, follower_end);
            state
                .keep_segment(&name, Segment::of(direction, leader, follower_end), &shard)
                .await
                .map_err(|error| Handback::unkept(&error))?;
            Ok(Filled::LeftOut)
        }
    }

    /// The first reason stays.
    fn leave(&mut self, leave: Handback) {
        self.queue.clear();
        self.queued = 0;
        self.leave.get_or_insert(leave);
    }

    fn fetched(&mut self, fetched: Fetched) {
        if let Some(error) = fetched.error {
            let told = format!("{} answers Fetch with {error:?}", self.job.leader.cluster());
            self.leave(match error {
                ResponseError::TopicAuthorizationFailed => Handback::Failed(format!(
                    "may not read {} on {}; grant READ on the topic to the mirror's principal there",
                    self.job.leader.topic,
                    self.job.leader.cluster()
                )),
                ResponseError::CorruptMessage => {
                    Handback::Failed(format!("{told}: the broker finds its own log corrupt at offset {}", self.cutter.at()))
                }
                _ => Handback::Again(told),
            });
            return;
        }
        self.job.status.leader(fetched.log_start_offset, fetched.last_stable_offset);
        if fetched.records.is_empty() {
            return;
        }
        let mut transactions = fetched.transactions;
        let mut pieces = Vec::new();
        let result = self.cutter.cut(fetched.records, &mut transactions, &mut pieces);
        self.queued += pieces.iter().map(|piece| if let Piece::Data(data) = piece { data.bytes.len() } else { 0 }).sum::<usize>();
        self.queue.extend(pieces);
        if let Err(unreadable) = result {
            // What comes before it is copied first.
            if self.queue.is_empty() && self.in_flight == 0 && !self.filling {
                self.leave(Handback::Refused(Refusal {
                    reason: format!("{} has a batch that cannot be read: {}", self.job.leader.cluster(), unreadable.error),
                    offsets: unreadable.offsets,
                    code: Some(ResponseError::CorruptMessage),
                    bytes: unreadable.bytes,
                }));
            }
        }
    }

    /// Whether there is a batch, and nothing else of the partition has to come first.
    fn has_batch(&self) -> bool {
        let waits = self.leave.is_some() || self.filling || (self.in_flight > 0 && !self.proven);
        !waits && matches!(self.queue.front(), Some(Piece::Data(_)))
    }

    fn next_batch(&mut self) -> Option<Data> {
        let Some(Piece::Data(data)) = self.queue.pop_front() else { return None };
        self.queued -= data.bytes.len();
        self.in_flight += 1;
        Some(data)
    }

    fn produced(&mut self, data: Data, answer: Option<PartitionProduceResponse>) {
        self.in_flight -= 1;
        if self.leave.is_some() {
            return;
        }
        let Some(answer) = answer else {
            return self.leave(Handback::Again("the answer to Produce has no word of the partition".to_owned()));
        };
        let follower = &self.job.follower;
        match answer.error_code.err() {
            // Where offsets are translated somebody else may write there too.
            None if answer.base_offset == data.offset + self.shift
                || answer.base_offset > data.offset + self.shift && self.job.status.lock().map.translates() =>
            {
                if answer.base_offset > data.offset + self.shift {
                    self.goes_on(data.offset, answer.base_offset);
                }
                let mut known = self.job.status.lock();
                known.follower_log_start_offset = known.follower_log_start_offset.max(answer.log_start_offset);
                known.timestamp = known.timestamp.max(data.max_timestamp);
                known.bytes += data.bytes.len() as u64;
                drop(known);
                self.proven = true;
                self.job.status.agree(data.offset + i64::from(data.count));
                events::copied(&self.job, &data);
            }
            // Appended, but somewhere else: the log is not what it was when we looked.
            None => {
                let told = format!(
                    "{} appended at offset {} what belongs at {}: somebody else writes to {}-{}. Nothing more is written. Find out who it is; delete \
                     the follower's topic, and start the mirror with --accept {}",
                    follower.cluster(),
                    answer.base_offset,
                    data.offset + self.shift,
                    follower.topic,
                    self.job.partition,
                    self.job.topic_partition(),
                );
                self.leave(Handback::Diverged(told));
            }
            Some(
                code @ (ResponseError::MessageTooLarge
                | ResponseError::RecordListTooLarge
                | ResponseError::InvalidTimestamp
                | ResponseError::InvalidRecord
                | ResponseError::CorruptMessage
                | ResponseError::UnsupportedForMessageFormat
                | ResponseError::UnsupportedCompressionType
                | ResponseError::PolicyViolation),
            ) => {
                let said = answer.error_message.map(|message| format!(" ({})", message.as_str())).unwrap_or_default();
                self.leave(Handback::Refused(Refusal {
                    offsets: data.offset..data.offset + i64::from(data.count),
                    code: Some(code),
                    reason: format!("{} refuses it with {code:?}{said}", follower.cluster()),
                    bytes: data.bytes,
                }));
            }
            Some(ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed) => {
                self.leave(Handback::Failed(format!(
                    "may not write to {} on {}; grant WRITE on the topic to the mirror's principal there",
                    follower.topic,
                    follower.cluster()
                )));
            }
            Some(error) => self.leave(Handback::Again(format!("{} answers Produce with {error:?}", follower.cluster()))),
        }
    }
}
