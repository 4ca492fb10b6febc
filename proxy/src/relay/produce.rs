//! Produce in a view: each batch reaches the leader of its topic, and only that one, whichever broker the client has sent it to.
//!
//! ```text
//!                      ┌ leads here ───────────────── passes as it streams ──▶ broker ─┐
//!  client ── batches: ─┤                                                              ├──▶ one answer
//!                      └ leads elsewhere ── masked or left out, carried ──▶ leader ───┘
//! ```
//!
//! A frame whose first batch is for elsewhere is held whole, and the broker gets what is for it, if there is anything. Of any other frame the size and some
//! batches have gone when one is found that is for elsewhere: it is masked, so that the broker refuses it, and carried as well.
//! Nothing of a transaction is carried: a coordinator that does not know of it would never end it.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ApiKey, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kferry_wire::api::{PRODUCE_REQUEST, Rewrite, RewriteError, Step};
use kferry_wire::batch::Sequence;
use kferry_wire::client::TopicPartition;
use kferry_wire::frame::SIZE_LEN;
use kferry_wire::log::produce::{self, Entry, Front};
use kferry_wire::stream::Writer;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tracing::debug;

use super::carry::{Answers, Carrier, Frame, Reserved};
use super::first::{Admitted, First, Term, stamped};
use super::frames::{Source, send, write_frame};
use super::holds::Entered;
use super::masks::{MASK, NOT_LEADER_OR_FOLLOWER, Now, REQUEST_TIMED_OUT, Refused, TOPIC_AUTHORIZATION_FAILED};
use super::request::{HELD, RequestHead};
use super::senders::STILL;
use super::splice::MoveError;
use super::view::leaders::Stance;
use super::{Along, Due, FrameRelay, INDEX, InFlight, PRODUCES, Seat, WalkError, Walked, next_response, response};
use crate::ending::Cause;

/// Bytes of the length in front of records: four, or a varint.
const LENGTH: usize = 5;

/// How long a batch that comes to its leader directly waits at the most for those that are carried before it.
const AHEAD: Duration = Duration::from_secs(30);

/// A Produce request, as far as its front says.
#[derive(Debug, Clone)]
pub(super) struct ProduceFrame {
    pub head: RequestHead,
    /// Bytes of the frame before the body, and those of the whole frame.
    pub body: Range<usize>,
    /// Not with the client's `acks=0`.
    pub is_answered: bool,
    pub front: Front,
}

impl ProduceFrame {
    /// The client's.
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.front.timeout_ms.max(0).cast_unsigned().into())
    }
}

/// What has become of a Produce request.
#[derive(Debug)]
pub(super) struct Produced {
    /// The broker has got it, or a part of it.
    is_at_broker: bool,
    /// The topics of which the broker has got something.
    entered: Vec<Entered>,
    beside: Beside,
}

/// What is known of a Produce request beside the broker's answer.
#[derive(Debug)]
pub(super) struct Beside {
    /// Answers for partitions that the broker was not asked about, or refuses because they were masked.
    refused: Answers,
    /// Those of other brokers are to come.
    carried: Option<oneshot::Receiver<Answers>>,
    /// First batches among those that the broker has got.
    firsts: Vec<First>,
}

/// What of a request is not for the broker.
#[derive(Debug, Default)]
struct Aside {
    elsewhere: Vec<Entry>,
    refused: Answers,
    /// The fronts of batches that were refused because there was no memory for them.
    given_up: Vec<Entry>,
    /// Memory for the frame, once something of it is to be carried.
    reserved: Option<Reserved>,
    /// There was none in time.
    has_no_memory: bool,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is for the broker.
    Here,
    /// It is for a broker of another cluster.
    Elsewhere,
    /// The client is told this error.
    Refused(i16),
}

fn fate(stance: Stance, partition: i32, is_transactional: bool) -> Fate {
    match stance {
        // One that no topic has, of whichever cluster: the broker says so.
        _ if !(0..MASK).contains(&partition) => Fate::Here,
        Stance::Leads => Fate::Here,
        Stance::HasCopy => Fate::Refused(TOPIC_AUTHORIZATION_FAILED),
        // Its transaction was refused before.
        Stance::Follows(_) if is_transactional => Fate::Refused(NOT_LEADER_OR_FOLLOWER),
        Stance::Follows(_) => Fate::Elsewhere,
    }
}

impl FrameRelay {
    /// Has each batch of a Produce request reach the leader of its topic.
    pub(super) async fn produce(
        &self,
        from: &mut Source<'_>,
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
        carrier: &mut Option<Carrier>,
        mut frame: ProduceFrame,
    ) -> Result<(), Cause> {
        let is_answered = frame.is_answered;
        while self.counters.produces.load(Ordering::Relaxed) >= PRODUCES {
            self.counters.produced.notified().await;
        }
        let (tell, told) = oneshot::channel();
        // Before the request goes out: its response must find it.
        self.expect(queue, frame.head, Some(Due::Produced { told, is_answered })).await?;
        self.counters.produces.fetch_add(1, Ordering::Relaxed);
        if !is_answered {
            // The broker answers the proxy: so it is known when the request is over, and a broker that refuses a part of it goes on with the rest.
            frame.front.acks = 1;
            from.change(frame.body.start + frame.front.acks_at, &frame.front.acks.to_be_bytes());
        }
        let of = |error: WalkError| error.of(frame.head, Cause::ClientError, Cause::BrokerError);
        let mut batches = Batches::new(self, &frame);
        let mut walked = Walked::new(PRODUCE_REQUEST, frame.head, &frame.body);
        let first = batches.first(from, &mut walked).await.map_err(of)?;
        let is_at_broker = if first.is_some() && batches.fate().await == Fate::Elsewhere {
            // Nothing has gone to the broker yet.
            batches.split(from, to).await?
        } else {
            if let Some(len) = first {
                batches.records(from, walked.at, len).await.map_err(of)?;
                walked.at += len;
            }
            self.pass_walked(from, to, walked, &mut batches).await.map_err(of)?;
            true
        };
        let Batches { aside, here: mut entered, elsewhere: entered_elsewhere, firsts, .. } = batches;
        entered.iter_mut().for_each(Entered::sent);
        let Aside { elsewhere, refused, given_up, reserved, .. } = aside;
        if is_at_broker && !elsewhere.is_empty() {
            debug!(client_id = self.seat().from.client_id, partitions = elsewhere.len(), "a part of a request is carried");
        }
        let to_come = self.carry(carrier, &frame, [elsewhere, given_up], reserved, entered_elsewhere).await;
        // Whoever is to be told is there for as long as the connection.
        let _ = tell.send(Produced { is_at_broker, entered, beside: Beside { refused, carried: to_come, firsts } });
        Ok(())
    }

    fn seat(&self) -> &Seat {
        self.terms.view.as_ref().expect("only who sees a view has topics elsewhere")
    }

    /// Waits until what is carried of the same client for a partition, and is to stand before a batch in the log, stands there.
    async fn wait_for_carried(&self, partition: &TopicPartition, records: &[u8]) {
        let seat = self.seat();
        if seat.carrying.is_empty() {
            return;
        }
        let deadline = Instant::now() + AHEAD;
        for over in seat.carrying.ahead_of(partition, &seat.from, records) {
            // After that it is as at an election: an idempotent producer is told that it is too early, another one may be out of order.
            if timeout_at(deadline, over.cancelled()).await.is_err() {
                return;
            }
        }
    }

    async fn carry(
        &self,
        carrier: &mut Option<Carrier>,
        frame: &ProduceFrame,
        [entries, given_up]: [Vec<Entry>; 2],
        reserved: Option<Reserved>,
        entered: Vec<Entered>,
    ) -> Option<oneshot::Receiver<Answers>> {
        if entries.is_empty() && given_up.is_empty() {
            return None;
        }
        let entries = each_once(entries);
        let seat = self.seat();
        seat.seen.carried(entries.iter().filter_map(|(_, records)| records.as_ref()).map(Bytes::len).sum(), Timestamp::now());
        let carrier =
            carrier.get_or_insert_with(|| Carrier::new(seat.carrying.clone(), seat.firsts.clone(), seat.view.clone(), seat.from.clone()));
        let (acks, is_answered, timeout, version) = (frame.front.acks, frame.is_answered, frame.timeout(), frame.head.version);
        let frame = Frame { entries, given_up, entered, acks, is_answered, timeout, arrived: Instant::now(), version };
        Some(carrier.carry(frame, reserved).await)
    }

    /// Waits for the broker's answer to a Produce request, and returns the length of its frame, if the broker was asked. `None`: the request was broken off.
    pub(super) async fn produced(
        &self,
        from: &mut Source<'_>,
        head: RequestHead,
        mut told: oneshot::Receiver<Produced>,
    ) -> Result<Option<(Option<usize>, Beside)>, Cause> {
        // As with all that the requests hand over: nobody is woken for it.
        let told = poll_fn(|_| match told.try_recv() {
            Err(TryRecvError::Empty) => Poll::Pending,
            told => Poll::Ready(told),
        });
        // Whoever has sent it says why.
        let Ok(Produced { is_at_broker, mut entered, beside }) = told.await else { return Ok(None) };
        let frame_len = if is_at_broker { Some(next_response(from, head).await?) } else { None };
        entered.iter_mut().for_each(Entered::answered);
        self.counters.produces.fetch_sub(1, Ordering::Relaxed);
        self.counters.produced.notify_one();
        Ok(Some((frame_len, beside)))
    }

    /// Answers a Produce request: with what the broker says, with what other brokers have said in the place of what was not for it.
    pub(super) async fn answer_produce(
        &self,
        from: &mut Source<'_>,
        to: &mut Writer,
        head: RequestHead,
        told: oneshot::Receiver<Produced>,
        is_answered: bool,
    ) -> Result<(), Cause> {
        let Some((frame_len, beside)) = self.produced(from, head, told).await? else { return Ok(()) };
        let Beside { refused, carried, firsts } = beside;
        let is_whole = carried.is_none() && refused.partitions.is_empty() && firsts.is_empty();
        if let Some(frame_len) = frame_len.filter(|_| is_whole && is_answered) {
            return self.pass(from, to, frame_len).await.map_err(|error| error.of(Cause::BrokerError, Cause::ClientError));
        }
        let broker = match frame_len {
            Some(frame_len) if frame_len > HELD => return Err(Cause::WrongResponse(ApiKey::Produce)),
            Some(frame_len) => {
                let frame = Bytes::from(from.whole(frame_len).await.map_err(Cause::BrokerError)?);
                let body = frame.slice(response::body_at(&frame, head)?..);
                produce::read_response(body, head.version).map_err(|_| Cause::WrongResponse(ApiKey::Produce))?
            }
            None => ProduceResponse::default(),
        };
        firsts.iter().filter(|first| is_appended(&broker, &first.partition)).for_each(First::appended);
        drop(firsts);
        let mut carried = match carried {
            Some(carried) => carried.await.map_err(|_| Cause::BrokerClosed)?,
            None => Answers::default(),
        };
        let lost = carried.broken.take();
        if frame_len.is_none()
            && carried.are_refusals()
            && let Some(lost) = lost
        {
            // As by a broker that is gone: without an answer.
            return Err(lost);
        }
        let answer = merged(broker, [refused, carried]);
        if !is_answered {
            // As a broker does with acks=0: the client looks for the leader when its connection ends.
            let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
            return if partitions.any(|partition| partition.error_code != 0) { Err(Cause::BrokerClosed) } else { Ok(()) };
        }
        let too_large = || head.not_rewritten(RewriteError::TooLong("responses"));
        let body = produce::write_response(&answer, head.version).ok_or_else(too_large)?;
        send(to, &head.answer(&body)).await.map_err(Cause::ClientError)?;
        lost.map_or(Ok(()), Err)
    }
}

/// The batches of one request, as they come by.
struct Batches<'a> {
    relay: &'a FrameRelay,
    frame: &'a ProduceFrame,
    /// The place of the batch that comes next, or came last.
    topic: String,
    partition: i32,
    /// What this cluster is to that topic, and the topic's term, once it is entered.
    stance: Option<Stance>,
    term: Option<Term>,
    aside: Aside,
    firsts: Vec<First>,
    /// How long its batches have waited to be the ones that are due, the first of them before the others.
    waited: Duration,
    /// Topics that lead here, and those that do not.
    here: Vec<Entered>,
    elsewhere: Vec<Entered>,
}

impl Rewrite for Batches<'_> {
    fn topic(&mut self, name: &str) {
        if self.topic != name {
            name.clone_into(&mut self.topic);
            self.stance = None;
        }
    }

    fn partition(&mut self, partition: i32) -> i32 {
        self.partition = partition;
        partition
    }
}

impl Along for Batches<'_> {
    async fn records(&mut self, from: &mut Source<'_>, at: usize, len: usize) -> Result<(), WalkError> {
        let head = self.frame.head;
        let carrying = &self.relay.seat().carrying;
        let fate = self.fate().await;
        let needed = match fate {
            Fate::Here if self.term.is_some() || !carrying.is_empty() => len.min(LENGTH + Sequence::FRONT),
            Fate::Refused(REQUEST_TIMED_OUT) => len.min(LENGTH + Sequence::FRONT),
            Fate::Here | Fate::Refused(_) => 0,
            Fate::Elsewhere => len,
        };
        arrives(from, at + needed, self.aside.reserved.is_some()).await.map_err(MoveError::Reading)?;
        let records = records_of(&from.bytes()[at..at + needed], head.api.is_flexible(head.version));
        let fate = match fate {
            Fate::Here => self.is_due(records.unwrap_or_default()).await,
            fate => fate,
        };
        if fate == Fate::Here {
            let front = records.and_then(|records| Some((needed - records.len(), *records.first_chunk()?)));
            if let (Some(term), Some((length, mut front))) = (&self.term, front)
                && term.stamp(&mut front)
            {
                from.change(at + length, &front);
            }
        } else {
            let records = records.map(Bytes::copy_from_slice);
            self.set_aside(fate, records);
            from.change(at - INDEX, &(self.partition | MASK).to_be_bytes());
        }
        Ok(())
    }
}

impl<'a> Batches<'a> {
    fn new(relay: &'a FrameRelay, frame: &'a ProduceFrame) -> Self {
        let (here, elsewhere) = (Vec::new(), Vec::new());
        let (aside, firsts) = (Aside::default(), Vec::new());
        Self {
            relay,
            frame,
            topic: String::new(),
            partition: 0,
            stance: None,
            term: None,
            aside,
            firsts,
            waited: Duration::ZERO,
            here,
            elsewhere,
        }
    }

    fn place(&self) -> TopicPartition {
        TopicPartition::new(&*self.topic, self.partition)
    }

    /// What becomes of the next batch. Where its topic leads is looked at once it is entered: from then on that does not change.
    async fn fate(&mut self) -> Fate {
        let stance = match self.stance {
            Some(stance) => stance,
            None => {
                let seat = self.relay.seat();
                let entered = seat.holds.enter(&self.topic, &seat.from, &[&self.here, &self.elsewhere]).await;
                seat.seen.produced(&self.topic);
                let stance = Now::of(self.relay.terms.world.place.as_ref()).stance(&self.topic);
                let leads = matches!(stance, Stance::Leads | Stance::HasCopy);
                if leads { &mut self.here } else { &mut self.elsewhere }.extend(entered);
                let cluster = &self.relay.terms.world.cluster.name;
                if seat.from.sends(&self.topic, cluster) && leads {
                    // A hold waits for this request, and what the client has sent to others may wait for the hold.
                    tokio::select! {
                        biased;
                        () = seat.holds.begun() => {}
                        () = seat.from.others_read(cluster) => {}
                    }
                }
                self.term = if leads && !self.frame.front.is_transactional { seat.view.term(&self.topic) } else { None };
                *self.stance.insert(stance)
            }
        };
        match fate(stance, self.partition, self.frame.front.is_transactional) {
            Fate::Elsewhere if !self.has_memory().await => Fate::Refused(REQUEST_TIMED_OUT),
            fate => fate,
        }
    }

    /// Whether there is memory for the frame, which is to be carried to the leader of the next batch. Waits for it once, as long as the client does.
    async fn has_memory(&mut self) -> bool {
        if self.aside.reserved.is_none() && !self.aside.has_no_memory {
            let Seat { view, carrying, .. } = self.relay.seat();
            let leaders = view.leaders().load_full();
            let cluster = leaders.name(leaders.leader_to_records(&self.topic));
            self.aside.reserved = carrying.reserve(cluster, self.frame.body.end, self.frame.timeout()).await;
            self.aside.has_no_memory = self.aside.reserved.is_none();
        }
        !self.aside.has_no_memory
    }

    /// Waits until nothing must come before a batch that is for the broker. `front`: of its records.
    async fn is_due(&mut self, front: &[u8]) -> Fate {
        let place = self.place();
        self.relay.wait_for_carried(&place, front).await;
        let Some(term) = self.term.as_ref().filter(|_| (0..MASK).contains(&self.partition)) else { return Fate::Here };
        let began = Instant::now();
        let admitted = self.relay.seat().firsts.admit(&place, term, front, self.waited).await;
        self.waited += began.elapsed();
        match admitted {
            Admitted::Passes => Fate::Here,
            Admitted::IsFirst(first) => {
                self.firsts.push(first);
                Fate::Here
            }
            Admitted::Answered(error_code) => Fate::Refused(error_code),
        }
    }

    /// The next batch is not for the broker.
    fn set_aside(&mut self, fate: Fate, records: Option<Bytes>) {
        let partition = self.place();
        match fate {
            Fate::Here => unreachable!("it is for the broker"),
            Fate::Elsewhere => self.aside.elsewhere.push((partition, records)),
            Fate::Refused(error_code) => {
                // Who has a topic of elsewhere in a transaction has been told before.
                if error_code == TOPIC_AUTHORIZATION_FAILED {
                    self.relay.tell_refused(Refused::Copy, &format!("topic {}", partition.topic));
                }
                if error_code == REQUEST_TIMED_OUT {
                    self.aside.given_up.push((partition.clone(), records));
                }
                self.aside.refused.push_error(partition, error_code);
            }
        }
    }

    /// Walks to the first batch, of which nothing is passed on yet. Returns the length of its records; `None`: there is no batch.
    async fn first(&mut self, from: &mut Source<'_>, walked: &mut Walked) -> Result<Option<usize>, WalkError> {
        loop {
            from.at_least(walked.at).await.map_err(MoveError::Reading)?;
            match walked.walk.step(&from.bytes()[walked.at..], self).map_err(WalkError::Body)? {
                Step::Records(len) => return Ok(Some(len)),
                Step::Pass(len) => walked.at += len,
                Step::Need(len) => from.at_least(walked.at + len).await.map_err(MoveError::Reading)?,
                Step::Replace { .. } => unreachable!("nothing is changed on the way"),
                Step::End => return Ok(None),
            }
        }
    }

    /// Holds a frame whole and sends the broker what is for it. Returns whether that was anything.
    async fn split(&mut self, from: &mut Source<'_>, to: &mut Writer) -> Result<bool, Cause> {
        let ProduceFrame { head, ref body, front, .. } = *self.frame;
        arrives(from, body.end, self.aside.reserved.is_some()).await.map_err(Cause::ClientError)?;
        let bytes = Bytes::from(from.whole(body.end).await.map_err(Cause::ClientError)?);
        let broken = || head.not_rewritten(RewriteError::Broken("topic_data"));
        let mut here = Vec::new();
        for (place, records) in produce::entries(&bytes.slice(body.start..), head.version).ok_or_else(broken)? {
            self.topic(&place.topic);
            self.partition(place.partition);
            match self.fate().await {
                Fate::Here => match self.is_due(records.as_deref().unwrap_or_default()).await {
                    Fate::Here => here.push((place, records.map(|records| stamped(self.term.as_ref(), records)))),
                    fate => self.set_aside(fate, records),
                },
                fate => self.set_aside(fate, records),
            }
        }
        if here.is_empty() {
            return Ok(false);
        }
        let for_broker = produce::body(here, front.acks, front.timeout_ms, head.version);
        write_frame(to, &bytes[SIZE_LEN..body.start], &for_broker).await.map_err(Cause::BrokerError)?;
        Ok(true)
    }
}

/// Reads until so many bytes of a frame are there. A frame that has memory keeps others waiting: its client may take half a minute for it, and as long as
/// 128 KiB/s take, and must not stand still in between.
async fn arrives(from: &mut Source<'_>, len: usize, keeps_others: bool) -> io::Result<()> {
    let too_slow = |_| io::Error::new(io::ErrorKind::TimedOut, "the rest of a Produce request did not come in time");
    let in_time = Duration::from_secs(30 + (len / (128 * 1024)) as u64);
    let all = async {
        while keeps_others && from.bytes().len() < len {
            timeout(STILL, from.at_least(from.bytes().len() + 1)).await.map_err(too_slow)??;
        }
        from.at_least(len).await
    };
    timeout(in_time, all).await.map_err(too_slow)?
}

/// Records without the length in front of them. `None`: null.
fn records_of(bytes: &[u8], flexible: bool) -> Option<&[u8]> {
    if flexible {
        let len = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
        (bytes[..len] != [0]).then(|| &bytes[len..])
    } else {
        let (len, records) = bytes.split_first_chunk()?;
        (i32::from_be_bytes(*len) >= 0).then_some(records)
    }
}

/// Whether a broker has answered a batch with 0.
fn is_appended(response: &ProduceResponse, partition: &TopicPartition) -> bool {
    let topics = response.responses.iter().filter(|topic| *topic.name.0 == *partition.topic);
    let mut partitions = topics.flat_map(|topic| &topic.partition_responses);
    partitions.any(|answer| answer.index == partition.partition && answer.error_code == 0)
}

/// Of each partition the last batch, as a broker reads a request that names one several times.
fn each_once(entries: Vec<Entry>) -> Vec<Entry> {
    let mut last: HashMap<TopicPartition, Option<Bytes>> = HashMap::with_capacity(entries.len());
    let mut order = Vec::with_capacity(entries.len());
    for (partition, records) in entries {
        if last.insert(partition.clone(), records).is_none() {
            order.push(partition);
        }
    }
    order.into_iter().filter_map(|partition| last.remove_entry(&partition)).collect()
}

/// One answer of those of several brokers. What was masked the broker has refused, with whatever error: others answer for it.
fn merged(broker: ProduceResponse, others: [Answers; 2]) -> ProduceResponse {
    let mut answer = broker;
    let mut by_topic: HashMap<Arc<str>, BTreeMap<i32, PartitionProduceResponse>> = HashMap::new();
    for Answers { partitions, throttle_time_ms, .. } in others {
        answer.throttle_time_ms = answer.throttle_time_ms.max(throttle_time_ms);
        for (TopicPartition { topic, .. }, partition) in partitions {
            by_topic.entry(topic).or_default().insert(partition.index, partition);
        }
    }
    for topic in &mut answer.responses {
        let Some(others) = by_topic.remove(topic.name.as_str()) else { continue };
        topic.partition_responses.retain(|partition| partition.index & MASK == 0 || !others.contains_key(&(partition.index & !MASK)));
        topic.partition_responses.extend(others.into_values());
    }
    answer.responses.extend(by_topic.into_iter().map(|(name, partitions)| {
        let name = TopicName(StrBytes::from_string(name.to_string()));
        TopicProduceResponse::default().with_name(name).with_partition_responses(partitions.into_values().collect())
    }));
    answer
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arc_swap::ArcSwap;
    use kferry_config::Config;
    use proptest::prelude::*;

    use super::super::masks::Place;
    use super::super::view::Leaders;
    use super::super::view::leaders::Settled;
    use super::*;

    /// Orders lead on legacy, payments on new, and `shop.orders` is a copy of another name on new.
    fn place(at: &str) -> Place {
        const FILE: &str = r#"
            clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092" }
            clusters.new = { id = 2, bootstrap_servers = "new:9092" }
            mirrors = [{ name = "over", source = "legacy", target = "new", topics = ["orders", "orders-old"], rename = { orders-old = "shop.orders" } }]
        "#;
        let config = Config::parse(FILE, Path::new("routes.toml")).unwrap();
        let names: [&[&str]; 2] = [&["orders", "orders-old"], &["orders", "payments", "shop.orders"]];
        let names = names.map(|names| Some(Arc::new(names.iter().map(|name| Arc::from(*name)).collect()))).into();
        let leaders = Leaders::new(config.clusters.clone(), config.mirrors, names, Vec::new(), Arc::default(), Settled::default());
        Place { leaders: Arc::new(ArcSwap::from_pointee(leaders)), at: at.into(), holds: Arc::default() }
    }

    fn fate_of(place: &Place, topic: &str, is_transactional: bool) -> Fate {
        fate(Now::of(Some(place)).stance(topic), 7, is_transactional)
    }

    #[test]
    fn each_batch_has_one_fate() {
        use Fate::{Elsewhere, Here, Refused};
        for (at, topic, fate, in_a_transaction) in [
            ("legacy", "orders", Here, Here),
            ("legacy", "payments", Elsewhere, Refused(NOT_LEADER_OR_FOLLOWER)),
            ("new", "orders", Elsewhere, Refused(NOT_LEADER_OR_FOLLOWER)),
            ("new", "payments", Here, Here),
            ("new", "shop.orders", Refused(TOPIC_AUTHORIZATION_FAILED), Refused(TOPIC_AUTHORIZATION_FAILED)),
            // It has left the view.
            ("gone", "orders", Here, Here),
        ] {
            let place = place(at);
            assert_eq!([fate_of(&place, topic, false), fate_of(&place, topic, true)], [fate, in_a_transaction], "{topic} at {at}");
        }
    }

    #[test]
    fn records_are_what_is_behind_their_length() {
        assert_eq!(records_of(&[0, 0, 0, 2, 7, 8], false), Some(&[7, 8][..]));
        assert_eq!(records_of(&[0, 0, 0, 0], false), Some(&[][..]));
        assert_eq!(records_of(&[0xff, 0xff, 0xff, 0xff], false), None);
        assert_eq!(records_of(&[3, 7, 8], true), Some(&[7, 8][..]));
        assert_eq!(records_of(&[1], true), Some(&[][..]));
        assert_eq!(records_of(&[0], true), None);
        assert_eq!(records_of(&[0x81, 1, 7], true), Some(&[7][..]));
    }

    #[test]
    fn a_partition_that_comes_several_times_is_carried_once_as_a_broker_reads_it() {
        let entry = |partition, records: &'static [u8]| (TopicPartition::new("orders", partition), Some(Bytes::from_static(records)));
        let entries = vec![entry(1, b"a"), entry(0, b"b"), entry(1, b"c"), entry(1, b"d")];
        assert_eq!(each_once(entries), [entry(1, b"d"), entry(0, b"b")]);
        let many = (0..40_000).map(|n| entry(n % 2, b"x")).collect();
        assert_eq!(each_once(many).len(), 2);
    }

    #[test]
    fn numbers_that_no_partition_has_are_for_the_broker_to_refuse() {
        let stance = Now::of(Some(&place("legacy"))).stance("payments");
        for partition in [-1, i32::MIN, MASK, i32::MAX] {
            assert_eq!(fate(stance, partition, false), Fate::Here);
        }
        assert_eq!(fate(stance, 7, false), Fate::Elsewhere);
        // The broker's word for such a number stays, and only what was masked is replaced.
        let of = |index: i32, error_code: i16| PartitionProduceResponse::default().with_index(index).with_error_code(error_code);
        let name = TopicName(StrBytes::from_static_str("payments"));
        let topic = TopicProduceResponse::default().with_name(name).with_partition_responses(vec![of(-1, 3), of(MASK, 3), of(7 | MASK, 3)]);
        let carried = Answers { partitions: vec![(TopicPartition::new("payments", 7), of(7, 0))], ..Answers::default() };
        let answer = merged(ProduceResponse::default().with_responses(vec![topic]), [Answers::default(), carried]);
        assert_eq!(answer.responses[0].partition_responses, [of(-1, 3), of(MASK, 3), of(7, 0)]);
    }

    /// What a broker that leads everything would answer: where each batch is, and an error for every seventh.
    fn answer_of(entry: &Entry) -> PartitionProduceResponse {
        let bytes = entry.1.as_deref().unwrap_or_default();
        let error_code = if bytes.len() % 7 == 3 { 87 } else { 0 };
        let base_offset = if error_code == 0 { 100 * i64::from(entry.0.partition) + bytes.len() as i64 } else { -1 };
        PartitionProduceResponse::default().with_index(entry.0.partition).with_error_code(error_code).with_base_offset(base_offset)
    }

    fn response(entries: impl IntoIterator<Item = (TopicPartition, PartitionProduceResponse)>, throttle_time_ms: i32) -> ProduceResponse {
        merged(
            ProduceResponse::default(),
            [Answers { partitions: entries.into_iter().collect(), throttle_time_ms, broken: None }, Answers::default()],
        )
    }

    fn by_partition(response: &ProduceResponse) -> BTreeMap<(String, i32), (i16, i64)> {
        let topics = response.responses.iter().flat_map(|topic| topic.partition_responses.iter().map(move |partition| (topic, partition)));
        let all: Vec<_> = topics
            .map(|(topic, partition)| ((topic.name.to_string(), partition.index), (partition.error_code, partition.base_offset)))
            .collect();
        let map: BTreeMap<_, _> = all.iter().cloned().collect();
        assert_eq!(map.len(), all.len(), "answered twice: {all:?}");
        map
    }

    proptest! {
        /// Masked or left out, carried and merged: the answer is that of one broker that leads everything.
        #[test]
        fn the_answer_is_that_of_one_broker(
            at in prop::sample::select(vec!["legacy", "new"]),
            version in 0i16..=9,
            entries in prop::collection::btree_map((prop::sample::select(vec!["orders", "payments"]), 0i32..5), 0usize..40, 0..10),
            whole_fails in any::<bool>(),
            throttle in (0i32..50, 0i32..50),
        ) {
            let place = place(at);
            let entries: Vec<Entry> = entries
                .into_iter()
                .map(|((topic, partition), len)| (TopicPartition::new(topic, partition), Some(Bytes::from(vec![7; len]))))
                .collect();
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                entries.iter().cloned().partition(|(partition, _)| fate_of(&place, &partition.topic, false) == Fate::Here);
            // The broker may fail the whole request: what is carried does not hear of it.
            let at_broker = |entry: &Entry| {
                let answer = answer_of(entry);
                if whole_fails { answer.with_error_code(21).with_base_offset(-1) } else { answer }
            };
            let mut expected: BTreeMap<_, _> = BTreeMap::new();
            for (entry, is_here) in here.iter().map(|entry| (entry, true)).chain(elsewhere.iter().map(|entry| (entry, false))) {
                let answer = if is_here { at_broker(entry) } else { answer_of(entry) };
                expected.insert((entry.0.topic.to_string(), entry.0.partition), (answer.error_code, answer.base_offset));
            }
            let carried = || Answers {
                partitions: elsewhere.iter().map(|entry| (entry.0.clone(), answer_of(entry))).collect(),
                throttle_time_ms: throttle.1,
                broken: None,
            };

            // Split.
            let broker = response(here.iter().map(|entry| (entry.0.clone(), at_broker(entry))), throttle.0);
            let split = merged(broker, [Answers::default(), carried()]);
            prop_assert_eq!(by_partition(&split), expected.clone());
            prop_assert_eq!(split.throttle_time_ms, throttle.0.max(throttle.1));

            // Masked as it streams.
            let body = produce::body(entries.iter().cloned(), -1, 9, version);
            let mask = |(partition, records): Entry| {
                let is_here = fate_of(&place, &partition.topic, false) == Fate::Here;
                let index = if is_here { partition.partition } else { partition.partition | MASK };
                (TopicPartition::new(&*partition.topic, index), records)
            };
            let masked = produce::body(produce::entries(&body, version).unwrap().into_iter().map(mask), -1, 9, version);
            prop_assert_eq!(masked.len(), body.len());
            let seen = produce::entries(&masked, version).unwrap();
            let answers = seen.iter().map(|entry| {
                let unknown = PartitionProduceResponse::default().with_index(entry.0.partition).with_error_code(3).with_base_offset(-1);
                (entry.0.clone(), if entry.0.partition & MASK == 0 { at_broker(entry) } else if whole_fails { unknown.with_error_code(21) } else { unknown })
            });
            let written = produce::write_response(&response(answers, throttle.0), version).unwrap();
            let broker = produce::read_response(Bytes::from(written), version).unwrap();
            prop_assert_eq!(by_partition(&merged(broker, [Answers::default(), carried()])), expected);
        }
    }
}
