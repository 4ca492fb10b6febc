//! The data path: what one broker of the leading cluster has for one broker of the following one.
//!
//! A *lane* is such a pair of brokers, with a connection to each. It fetches all of its partitions in one request, cuts what comes into
//! pieces ([`super::cut`]), produces at most one batch of each partition in a request, several requests in flight, and checks the offset
//! in every response. A partition that cannot go on is given back, when nothing of it is in flight any more; the others go on.
//!
//! The follower's log end is the only record of progress. A lane never sends anything twice: after a lost response everything is given back,
//! and [`super::settle`] looks at both logs before a lane gets it again.
//!
//! # References
//! - `ProduceRequest.json`: one batch a partition and request (`ProduceRequest.validateRecords`)
//! - `org.apache.kafka.storage.internals.log.ProducerAppendInfo.checkSequence`: a batch lands only behind the last one of its producer id

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use futures_util::{FutureExt as _, StreamExt as _};
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ApiVersionsRequest, FetchRequest, FetchResponse, ProduceResponse};
use kferry_wire::batch::{self, Entry};
use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::connection::{Connection, RequestError};
use kferry_wire::log::fetch::{self, Amount, FetchSession, Fetched};
use kferry_wire::log::produce;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cut::{COALESCED, Cutter, Data, Hole, Piece, next_sequence};
use super::decisions::{self, AfterFetchError, AfterProduce, OverHole};
use super::job::PartitionJob;
use super::limits::Limits;
use super::{events, holes};
use crate::partition::{Handback, Phase, Refusal, Segment};

/// The most Produce requests of a lane that are sent and not answered. A broker handles those of a connection one after the other, so more would only
/// wait.
const IN_FLIGHT: usize = 5;
/// How long the follower's broker may take to have a batch on all in-sync replicas, in ms.
pub(crate) const PRODUCE_TIMEOUT_MS: i32 = 30_000;
/// How often a lane that produces nothing asks the follower's broker something: brokers close a connection on which nothing is asked for ten minutes
/// (`connections.max.idle.ms`).
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Between two lines about a quota that holds a lane up.
const THROTTLE_NEWS: Duration = Duration::from_mins(1);

/// For so long after a partition has come in others are likely to come, as when a flip turns many: they should not wait for a long Fetch to end.
const SETTLING: Duration = Duration::from_millis(500);
/// How long the leader's broker waits for records meanwhile, in ms.
const SHORT_WAIT_MS: i32 = 20;

/// Between two looks whether a shard without a lease may be written to again.
const NO_LEASE: Duration = Duration::from_millis(100);

/// A partition whose logs were looked at, to be copied by a lane.
pub(crate) struct ReadyPartition {
    /// The partition.
    pub(crate) job: PartitionJob,
    /// Cuts the leader's log from the offset on that is to be copied next.
    pub(crate) cutter: Cutter,
    /// The hole that goes before everything that is cut: a batch that cannot be read and was left out.
    pub(crate) first: Option<Piece>,
}

impl ReadyPartition {
    /// The beginning of a term, where both logs end.
    pub(crate) fn begins_term(job: PartitionJob, at: i64, coalesce: bool) -> Self {
        job.status.lock().goal.get_or_insert(at);
        job.status.agree(at);
        job.status.phase(Phase::Copying, None);
        let cutter = Cutter::new(at, job.producer_id(), next_sequence(0, at)).coalesce(coalesce, job.max_message_bytes);
        Self { job, cutter, first: None }
    }
}

/// What is copied from one broker of the leading cluster to one of the following.
pub(crate) struct Lane {
    /// The connection to the partition leader on the leading cluster.
    source: Arc<Connection>,
    /// The connection to the partition leader on the following cluster.
    target: Arc<Connection>,
    /// The leading cluster, for its name.
    leader: Client,
    /// The following one, likewise.
    follower: Client,
    limits: Arc<Limits>,
    /// Partitions that the lane is to copy.
    incoming: mpsc::UnboundedReceiver<ReadyPartition>,
    /// Notified when one of the partitions may have been stopped.
    wake: Arc<Notify>,
    /// Takes the partitions that the lane hands back.
    back: mpsc::UnboundedSender<(PartitionJob, Handback)>,
    /// Cancelled when the lane is to end.
    stop: CancellationToken,
    /// The partitions of the lane, by their topics' names on the leading cluster.
    partitions: HashMap<TopicPartition, Copying>,
    session: FetchSession,
    /// When the last partition came in.
    newest: Option<Instant>,
    /// The Fetch that is under way; one at a time.
    fetch: Option<BoxFuture<'static, Result<FetchResponse, RequestError>>>,
    /// When the next Fetch may be sent, by `max_bytes_per_second`.
    fetch_from: Instant,
    /// The Produce requests that are under way, in the order in which they were sent: each response says where the next batch belongs.
    produces: FuturesOrdered<BoxFuture<'static, Produced>>,
    /// Bytes of the batches in `produces`.
    in_flight: usize,
    /// Whether a batch or a hole is ready, but its shard's `may_write()` is false.
    lacks_lease: bool,
    /// Holes that are being filled, at most one of each partition.
    fills: FuturesUnordered<BoxFuture<'static, (TopicPartition, Result<Filled, Handback>)>>,
    keep_alive: Interval,
    /// When it was last told that a broker throttles the lane.
    throttle_told: Option<Instant>,
    /// Why the lane ends, once it does.
    broken: Option<String>,
}

/// What became of a hole, offsets of the leader without a record.
enum Filled {
    /// The follower has markers at these offsets.
    Markers,
    /// The follower has nothing at these offsets: what comes behind them is a segment of its own.
    LeftOut,
}

/// A partition that a lane copies.
struct Copying {
    job: PartitionJob,
    cutter: Cutter,
    /// The difference of a record's offset on the follower and on the leader, as of the last segment; 0 where offsets are the same.
    shift: i64,
    /// What was cut and not sent yet, in order.
    queue: VecDeque<Piece>,
    /// Bytes of the batches in `queue`.
    queued: usize,
    /// How many batches are sent and not answered.
    in_flight: usize,
    /// Whether a batch was acknowledged. Until then only one is in flight, in case its sequence is not the one that the follower expects.
    proven: bool,
    /// Whether a hole is being filled.
    filling: bool,
    /// Whether a hole was filled since both logs were looked at.
    has_filled: bool,
    /// Why the partition goes back, once it does: when nothing of it is in flight any more.
    handback: Option<Handback>,
}

/// The batches of a Produce request, and its response.
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
            Err(handback) => return give_all_back(&mut incoming, &back, &handback).await,
        };
        let mut keep_alive = interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lane = Self {
            source,
            target,
            leader,
            follower,
            limits,
            incoming,
            wake,
            back,
            stop,
            partitions: HashMap::new(),
            session: FetchSession::default(),
            newest: None,
            fetch: None,
            fetch_from: Instant::now(),
            produces: FuturesOrdered::new(),
            in_flight: 0,
            lacks_lease: false,
            fills: FuturesUnordered::new(),
            keep_alive,
            throttle_told: None,
            broken: None,
        };
        while lane.step().await {}
        lane.end().await;
    }

    /// Waits for one thing to happen, and does what follows from it. False when the lane is over.
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
            ready = self.incoming.recv() => match ready {
                Some(ready) => {
                    self.take(ready);
                    // Those that come with it are asked for in the same Fetch.
                    while let Ok(ready) = self.incoming.try_recv() {
                        self.take(ready);
                    }
                }
                None => return false,
            },
            Some(produced) = self.produces.next() => self.produced(produced),
            Some((partition, filled)) = self.fills.next() => self.filled(&partition, filled),
            response = async { self.fetch.as_mut().expect("the arm is off without one").await }, if self.fetch.is_some() => {
                self.fetch = None;
                self.fetched(response);
            }
            () = sleep(NO_LEASE), if self.lacks_lease => {}
            () = sleep_until(self.fetch_from), if self.fetch.is_none() && self.fetch_from > Instant::now() => {}
            _ = self.keep_alive.tick() => self.keep_alive(),
        }
        true
    }

    /// Begins with a partition.
    fn take(&mut self, ReadyPartition { job, cutter, first }: ReadyPartition) {
        let partition = job.leader.partition(job.partition);
        // Its shard was lost and came back, and what was sent for it before has no answer yet.
        if self.partitions.contains_key(&partition) {
            let _ = self.back.send((job, Handback::Again("what was sent before has not been answered yet".to_owned())));
            return;
        }
        let queue = first.into_iter().collect();
        let shift = {
            let progress = job.status.lock();
            progress.map.follower(progress.direction, progress.agreed).map_or(0, |follower| follower - progress.agreed)
        };
        let copying = Copying {
            job,
            cutter,
            shift,
            queue,
            queued: 0,
            in_flight: 0,
            proven: false,
            filling: false,
            has_filled: false,
            handback: None,
        };
        self.partitions.insert(partition.clone(), copying);
        self.newest = Some(Instant::now());
        events::on_lane(&self.partitions[&partition].job);
    }

    /// Fetches as much as there is room for, if no Fetch is under way.
    fn fetch(&mut self) {
        // A quarter of the share for the response, one for what waits, and the rest for what is in flight.
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
            .filter(|(_, copying)| copying.handback.is_none() && copying.has_room(self.limits.partition_bytes))
            .map(|(partition, copying)| (partition.clone(), copying.cutter.at()))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let amount = Amount {
            // A partition that comes in meanwhile waits for this Fetch to end, and so does one whose queue was full.
            max_wait_ms: if self.newest.is_some_and(|at| at.elapsed() < SETTLING) { SHORT_WAIT_MS } else { 250 },
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

    /// Says, and counts, for how long the lane's brokers do not read what it sends, because of a quota.
    fn count_throttling(&mut self) {
        let Some(mirror) = self.partitions.values().next().map(|copying| copying.job.mirror.clone()) else { return };
        for (connection, client) in [(&self.source, &self.leader), (&self.target, &self.follower)] {
            let (time, cluster) = (connection.take_throttled(), &client.cluster().name);
            if time.is_zero() {
                continue;
            }
            let is_news = self.throttle_told.is_none_or(|told| told.elapsed() > THROTTLE_NEWS);
            events::throttled(&mirror, cluster, time, is_news);
            if is_news {
                self.throttle_told = Some(Instant::now());
            }
        }
    }

    fn fetched(&mut self, response: Result<FetchResponse, RequestError>) {
        self.count_throttling();
        let fetched = match response {
            Ok(response) => {
                self.session.take_in(response).map_err(|error| format!("{} answers Fetch with {error:?}", self.leader.cluster().name))
            }
            Err(error) => Err(error.to_string()),
        };
        match fetched {
            Ok(fetched) => {
                let bytes = fetched.iter().map(|fetched| fetched.records.len()).sum();
                self.fetch_from = self.limits.rate.after(bytes);
                for fetched in fetched {
                    if let Some(copying) = self.partitions.get_mut(&fetched.partition)
                        && copying.handback.is_none()
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
        self.lacks_lease = false;
        while self.produces.len() < IN_FLIGHT && self.broken.is_none() {
            let mut batches = Vec::new();
            let mut bytes = 0;
            for (partition, copying) in &mut self.partitions {
                if bytes >= self.limits.produce_bytes || !copying.has_batch() {
                    continue;
                }
                // Just before it is sent.
                if !copying.job.shard.may_write() {
                    self.lacks_lease = true;
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
            let sent: Vec<_> = batches.iter().map(|(_, partition, data)| (partition.clone(), data.bytes.clone())).collect();
            let target = self.target.clone();
            let batches = batches.into_iter().map(|(partition, _, data)| (partition, data)).collect();
            let mut produced = async move {
                let response = produce::send(&target, sent, PRODUCE_TIMEOUT_MS).await;
                (batches, response)
            }
            .boxed();
            // Requests go out in the order in which they are first polled, and that must be the order of the offsets.
            match futures_util::poll!(&mut produced) {
                std::task::Poll::Ready(produced) => self.produced(produced),
                std::task::Poll::Pending => self.produces.push_back(produced),
            }
        }
    }

    fn produced(&mut self, (batches, response): Produced) {
        self.in_flight -= batches.iter().map(|(_, data)| data.bytes.len()).sum::<usize>();
        self.count_throttling();
        match response {
            Ok(response) => {
                let mut responses: HashMap<_, _> = HashMap::new();
                for topic in response.responses {
                    for partition in topic.partition_responses {
                        responses.insert((topic.name.to_string(), partition.index), partition);
                    }
                }
                for (partition, data) in batches {
                    let copying = self.partitions.get_mut(&partition).expect("a partition with something in flight stays");
                    let response = responses.remove(&(copying.job.follower.topic.to_string(), partition.partition));
                    copying.produced(data, response);
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
            if copying.in_flight > 0 || copying.filling || copying.handback.is_some() {
                continue;
            }
            let Some(Piece::Hole(Hole { offsets })) = copying.queue.front() else { continue };
            if !copying.job.shard.may_write() {
                self.lacks_lease = true;
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
                        Filled::Markers => {
                            copying.has_filled = true;
                            events::filled(&copying.job, offsets.end - offsets.start);
                        }
                        Filled::LeftOut => copying.shift -= offsets.end - offsets.start,
                    }
                    copying.job.status.agree(offsets.end);
                }
            }
            Err(handback) => copying.hand_back(handback),
        }
    }

    /// Gives partitions back to the run that were stopped or cannot go on, once nothing of them is in flight.
    fn give_back(&mut self) {
        for copying in self.partitions.values_mut().filter(|copying| copying.job.stop.is_cancelled()) {
            copying.hand_back(Handback::Cancelled);
        }
        let back = &self.back;
        let leaving = self.partitions.extract_if(|_, copying| copying.handback.is_some() && copying.in_flight == 0 && !copying.filling);
        for (_, copying) in leaving {
            let handback = copying.handback.expect("it is handed back");
            // It fails if the run has ended.
            let _ = back.send((copying.job, handback));
        }
    }

    /// Asks the follower's broker something, if nothing is under way there.
    fn keep_alive(&mut self) {
        if self.produces.is_empty() {
            let target = self.target.clone();
            self.produces.push_back(
                async move {
                    let response = target.request(&ApiVersionsRequest::default(), 0).await;
                    (Vec::new(), response.map(|_| ProduceResponse::default()))
                }
                .boxed(),
            );
        }
    }

    /// Waits for what is in flight, each of which has a deadline of its own, and gives all partitions back.
    async fn end(mut self) {
        let handback = |broken: &Option<String>| broken.clone().map_or(Handback::Cancelled, Handback::Again);
        give_all_back(&mut self.incoming, &self.back, &handback(&self.broken)).await;
        for copying in self.partitions.values_mut() {
            copying.hand_back(handback(&self.broken));
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

/// Gives back the partitions that a lane has not begun with, and takes no more.
async fn give_all_back(
    incoming: &mut mpsc::UnboundedReceiver<ReadyPartition>,
    back: &mpsc::UnboundedSender<(PartitionJob, Handback)>,
    handback: &Handback,
) {
    incoming.close();
    while let Some(ready) = incoming.recv().await {
        let _ = back.send((ready.job, handback.clone()));
    }
}

impl Copying {
    /// Begins a segment: the record at this offset of the leader is at that one of the follower, and so on from there.
    fn begin_segment(&mut self, leader: i64, follower: i64) {
        self.shift = follower - leader;
        self.job.status.begin(leader, follower);
    }

    /// Fills a hole, which is given by the leader's offsets, on the follower. Where offsets are translated a large one is left out instead, and any
    /// where the mirror may not write markers: that the next segment begins behind it is kept first.
    fn fill(&self, offsets: Range<i64>) -> impl Future<Output = Result<Filled, Handback>> + use<> {
        let there = offsets.start + self.shift..offsets.end + self.shift;
        let (follower, partition, producer_id) = (self.job.follower.clone(), self.job.partition, self.job.producer_id());
        let (state, shard, name) = (self.job.state.clone(), self.job.shard.clone(), self.job.topic_partition());
        let status = self.job.status.clone();
        let (direction, translates) = {
            let progress = status.lock();
            (progress.direction, progress.map.translates())
        };
        let way = decisions::over_hole(&offsets, translates);
        // Where offsets are translated others may write as well, and two markers for one offset do no harm.
        let may_have_company = !translates && !self.has_filled && shard.is_for_ever();
        async move {
            let (leader, follower_end) = (offsets.end, there.start);
            if may_have_company {
                holes::keep_apart(&follower, partition, follower_end).await?;
            }
            match way {
                OverHole::Fill => return holes::fill(follower, partition, producer_id, there, shard).await.map(|()| Filled::Markers),
                OverHole::FillIfAllowed => {
                    if holes::markers(&follower, partition, producer_id, there, &shard).await?.is_none() {
                        return Ok(Filled::Markers);
                    }
                }
                OverHole::BeginSegment => {}
            }
            status.begin(leader, follower_end);
            state
                .keep_segment(&name, Segment::of(direction, leader, follower_end), &shard)
                .await
                .map_err(|error| Handback::unkept(&error))?;
            Ok(Filled::LeftOut)
        }
    }

    /// Has the partition go back when nothing of it is in flight any more. If it is to go back already, the first reason stays.
    fn hand_back(&mut self, handback: Handback) {
        self.queue.clear();
        self.queued = 0;
        self.handback.get_or_insert(handback);
    }

    /// Takes in what a Fetch brought of the partition.
    fn fetched(&mut self, fetched: Fetched) {
        if let Some(error) = fetched.error {
            let told = format!("{} answers Fetch with {error:?}", self.job.leader.cluster());
            self.hand_back(match decisions::after_fetch_error(error) {
                AfterFetchError::NoRight => Handback::Failed(format!(
                    "may not read {} on {}; grant READ on the topic to the mirror's principal there",
                    self.job.leader.topic,
                    self.job.leader.cluster()
                )),
                AfterFetchError::Corrupt => {
                    Handback::Failed(format!("{told}: the broker finds its own log corrupt at offset {}", self.cutter.at()))
                }
                AfterFetchError::Again => Handback::Again(told),
            });
            return;
        }
        self.job.status.leader_has(fetched.log_start_offset, fetched.last_stable_offset, fetched.high_watermark);
        if fetched.records.is_empty() {
            return;
        }
        if let Some(late) = self.late_write(&fetched.records) {
            return self.hand_back(late);
        }
        let mut transactions = fetched.transactions;
        let mut pieces = Vec::new();
        let result = self.cutter.cut(fetched.records, &mut transactions, &mut pieces);
        self.queued += pieces.iter().map(|piece| if let Piece::Data(data) = piece { data.bytes.len() } else { 0 }).sum::<usize>();
        self.queue.extend(pieces);
        if let Err(unreadable) = result {
            // What was cut before the damaged batch is copied first. It is fetched again then.
            if self.queue.is_empty() && self.in_flight == 0 && !self.filling {
                self.hand_back(Handback::Refused(Refusal {
                    reason: format!("{} has a batch that cannot be read: {}", self.job.leader.cluster(), unreadable.error),
                    offsets: unreadable.offsets,
                    code: Some(ResponseError::CorruptMessage),
                    bytes: unreadable.bytes,
                }));
            }
        }
    }

    /// The handback for a partition whose leader has a record that the mirror wrote there when it followed, and that came too late.
    fn late_write(&self, records: &Bytes) -> Option<Handback> {
        let begins = self.job.begins?;
        let batches = batch::split(records.clone()).filter_map(|entry| match entry {
            Ok(Entry::Batch(batch)) if !batch.is_control() => Some((batch.base_offset(), batch.producer_id())),
            _ => None,
        });
        let offset = decisions::late_write(batches, self.job.producer_id_before(), begins)?;
        let (leader, follower) = (&self.job.leader, &self.job.follower);
        Some(Handback::Diverged(format!(
            "{} on {} has at offset {offset} what this mirror sent there before it became the leader, at offset {begins}: a broker that hung has appended it since. \
             It is not copied back. Consumers of {} have read it twice: delete the records from there on, or the topic on {} (what only it has is lost with \
             it), and start the mirror with --accept {}",
            leader.partition(self.job.partition),
            leader.cluster(),
            leader.cluster(),
            follower.cluster(),
            self.job.topic_partition(),
        )))
    }

    /// Whether more is to be fetched. Small batches that wait are not added to: what comes in one response is put together, and a follower that is slow to
    /// answer would get the records of each response in a request of their own, and never catch up.
    fn has_room(&self, bytes: usize) -> bool {
        self.queued < bytes && (self.queue.len() < IN_FLIGHT || self.queued > COALESCED)
    }

    /// Whether a batch may be sent now: it is next in the queue, and nothing of the partition has to be answered first.
    fn has_batch(&self) -> bool {
        let waits = self.handback.is_some() || self.filling || (self.in_flight > 0 && !self.proven);
        !waits && matches!(self.queue.front(), Some(Piece::Data(_)))
    }

    /// Takes the batch that is next in the queue, to be sent.
    fn next_batch(&mut self) -> Option<Data> {
        let Some(Piece::Data(data)) = self.queue.pop_front() else { return None };
        self.queued -= data.bytes.len();
        self.in_flight += 1;
        Some(data)
    }

    /// Takes in what the response to a Produce request has of the partition, whose batch `data` was in it.
    fn produced(&mut self, data: Data, response: Option<PartitionProduceResponse>) {
        self.in_flight -= 1;
        if self.handback.is_some() {
            return;
        }
        let (expected, translates) = (data.offset + self.shift, self.job.status.lock().map.translates());
        let result = response.as_ref().map(|response| response.error_code.err().map_or(Ok(response.base_offset), Err));
        let follower = &self.job.follower;
        let handback = match decisions::after_produce(result, expected, translates) {
            AfterProduce::Landed => return self.landed(&data, response),
            AfterProduce::LandedBehind(offset) => {
                self.begin_segment(data.offset, offset);
                return self.landed(&data, response);
            }
            AfterProduce::LandedElsewhere(offset) => Handback::Diverged(format!(
                "{} appended at offset {offset} what belongs at {expected}: somebody else writes to {}-{}. Nothing more is written. Find out who it is; stop the \
                 mirror, delete the follower's topic (what only it has is lost with it), and start the mirror with --accept {}",
                follower.cluster(),
                follower.topic,
                self.job.partition,
                self.job.topic_partition().topic,
            )),
            AfterProduce::Refused(code) => {
                let message = response.and_then(|response| response.error_message);
                let said = message.map(|message| format!(" ({})", message.as_str())).unwrap_or_default();
                Handback::Refused(Refusal {
                    offsets: data.offset..data.offset + i64::from(data.count),
                    code: Some(code),
                    reason: format!("{} refuses it with {code:?}{said}", follower.cluster()),
                    bytes: data.bytes,
                })
            }
            AfterProduce::NoRight => Handback::Failed(format!(
                "may not write to {} on {}; grant WRITE on the topic to the mirror's principal there",
                follower.topic,
                follower.cluster()
            )),
            AfterProduce::Again(error) => Handback::Again(format!("{} answers Produce with {error:?}", follower.cluster())),
            AfterProduce::Unanswered => Handback::Again("the answer to Produce has no word of the partition".to_owned()),
        };
        self.hand_back(handback);
    }

    /// Takes in that a batch is where it belongs: both logs are equal up to its end.
    fn landed(&mut self, data: &Data, response: Option<PartitionProduceResponse>) {
        {
            let mut progress = self.job.status.lock();
            let log_start_offset = response.map_or(-1, |response| response.log_start_offset);
            progress.follower_log_start_offset = progress.follower_log_start_offset.max(log_start_offset);
            progress.bytes += data.bytes.len() as u64;
            progress.records += data.count as u64;
        }
        if !self.proven {
            events::first_copied(&self.job, data.offset);
        }
        self.proven = true;
        self.job.status.agree(data.offset + i64::from(data.count));
        events::copied(&self.job, data);
    }
}
