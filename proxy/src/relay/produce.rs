//! Produce in a view: each batch reaches the leader of its topic, and only that one, whichever broker the client has sent it to.
//!
//! ```text
//!                      ┌ leads here ───────────────── passes as it streams ──▶ broker ─┐
//!  client ── batches: ─┤                                                              ├──▶ one answer
//!                      └ leads elsewhere ── masked or left out, carried ──▶ leader ───┘
//! ```
//!
//! A frame whose first batch is for elsewhere, or that has no answer (`acks=0`), is held whole, and the broker gets what is for it, if there is anything. Of any
//! other frame the size and some batches have gone when one is found that is for elsewhere: it is masked, so that the broker refuses it, and carried as well.
//! Nothing of a transaction is carried: a coordinator that does not know of it would never end it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ApiKey, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kferry_wire::api::{PRODUCE_REQUEST, Rewrite, RewriteError, Step, Walk};
use kferry_wire::client::TopicPartition;
use kferry_wire::frame::SIZE_LEN;
use kferry_wire::log::produce::{self, Entry, Front, Sequence};
use kferry_wire::stream::Writer;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::carry::{Answers, Carrier, Frame, NOT_LEADER_OR_FOLLOWER, Reserved};
use super::frames::{Source, send, write_frame};
use super::masks::{MASK, Now, Refused, TOPIC_AUTHORIZATION_FAILED};
use super::request::{HELD, RequestHead};
use super::splice::MoveError;
use super::view::leaders::Stance;
use super::{Due, FrameRelay, InFlight, Seat, WalkError, next_response, response};
use crate::clients::Seen;
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
    pub front: Front,
}

/// What has become of a Produce request.
#[derive(Debug)]
pub(super) struct Produced {
    /// The broker has got it, or a part of it.
    is_at_broker: bool,
    /// Answers for partitions that the broker was not asked about, or refuses because they were masked.
    refused: Answers,
    /// Those of other brokers are to come.
    carried: Option<oneshot::Receiver<Result<Answers, Cause>>>,
}

/// What of a request is not for the broker.
#[derive(Debug, Default)]
struct Aside {
    elsewhere: Vec<Entry>,
    refused: Answers,
    /// Memory for the frame, where something of it is carried.
    reserved: Option<Reserved>,
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

/// Sorts the batches of one request.
struct Sorting {
    now: Now,
    seen: Option<Seen>,
    is_transactional: bool,
    topic: String,
    stance: Stance,
    /// The batch that came last.
    partition: i32,
    fate: Option<Fate>,
}

impl Sorting {
    fn fate(&self) -> Fate {
        match self.stance {
            Stance::Leads => Fate::Here,
            Stance::HasRenamedCopy => Fate::Refused(TOPIC_AUTHORIZATION_FAILED),
            // Its transaction was refused before.
            Stance::Follows(_) if self.is_transactional => Fate::Refused(NOT_LEADER_OR_FOLLOWER),
            Stance::Follows(_) => Fate::Elsewhere,
        }
    }

    /// The partition of the batch that came last.
    fn place(&self) -> TopicPartition {
        TopicPartition::new(&*self.topic, self.partition)
    }
}

impl Rewrite for Sorting {
    fn topic(&mut self, name: &str) {
        if let Some(seen) = &self.seen {
            seen.produced(name);
        }
        name.clone_into(&mut self.topic);
        self.stance = self.now.stance(name);
    }

    fn partition(&mut self, partition: i32) -> i32 {
        // One that no topic has, of whichever cluster: the broker says so.
        let fate = if (0..MASK).contains(&partition) { self.fate() } else { Fate::Here };
        (self.partition, self.fate) = (partition, Some(fate));
        if fate == Fate::Here { partition } else { partition | MASK }
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
        frame: ProduceFrame,
    ) -> Result<(), Cause> {
        let is_answered = frame.front.acks != 0;
        let (tell, told) = oneshot::channel();
        // Before the request goes out: its response must find it.
        self.expect(queue, frame.head, Some(Due::Produced { told, is_answered })).await?;
        let is_held = !frame.front.is_transactional && (!is_answered || self.begins_elsewhere(from, &frame).await?);
        let (is_at_broker, aside) = if is_held {
            self.split(from, to, &frame).await?
        } else {
            let streamed = self.stream(from, to, &frame).await;
            (true, streamed.map_err(|error| error.of(frame.head, Cause::ClientError, Cause::BrokerError))?)
        };
        let Aside { elsewhere, refused, reserved } = aside;
        let produced = Produced { is_at_broker, refused, carried: self.carry(carrier, &frame, elsewhere, reserved).await };
        // Whoever is to be told is there for as long as the connection.
        let _ = tell.send(produced);
        Ok(())
    }

    /// Whether the first batch is for elsewhere: then nothing has gone to the broker yet.
    async fn begins_elsewhere(&self, from: &mut Source<'_>, frame: &ProduceFrame) -> Result<bool, Cause> {
        loop {
            let arrived = &from.bytes()[frame.body.start..];
            let mut sorting = self.sorting(frame, None);
            if let Some(begins) = first(frame, arrived, &mut sorting) {
                return Ok(begins);
            }
            if !from.more().await.map_err(Cause::ClientError)? {
                return Err(Cause::ClientError(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn sorting(&self, frame: &ProduceFrame, seen: Option<Seen>) -> Sorting {
        Sorting {
            now: Now::of(self.terms.world.place.as_ref()),
            seen,
            is_transactional: frame.front.is_transactional,
            topic: String::new(),
            stance: Stance::Leads,
            partition: 0,
            fate: None,
        }
    }

    fn seat(&self) -> &Seat {
        self.terms.view.as_ref().expect("only who sees a view has topics elsewhere")
    }

    /// Holds a frame whole and sends the broker what is for it. Returns whether that was anything, and the rest.
    async fn split(&self, from: &mut Source<'_>, to: &mut Writer, frame: &ProduceFrame) -> Result<(bool, Aside), Cause> {
        let ProduceFrame { head, ref body, front } = *frame;
        let mut aside = Aside { reserved: Some(self.seat().carrying.reserve(body.end).await), ..Aside::default() };
        let whole = timeout(in_time(body.end), from.whole(body.end)).await.map_err(|_| Cause::ClientError(too_slow()))?;
        let bytes = Bytes::from(whole.map_err(Cause::ClientError)?);
        let broken = || head.not_rewritten(RewriteError::Broken("topic_data"));
        let entries = produce::entries(&bytes.slice(body.start..), head.version).ok_or_else(broken)?;
        let count = entries.len();
        let mut sorting = self.sorting(frame, Some(self.seat().seen.clone()));
        let mut here = Vec::new();
        for (partition, records) in entries {
            if *partition.topic != *sorting.topic {
                sorting.topic(&partition.topic);
            }
            sorting.partition(partition.partition);
            match sorting.fate.take().unwrap_or(Fate::Here) {
                Fate::Here => {
                    self.wait_for_carried(&partition, records.as_deref().unwrap_or_default()).await;
                    here.push((partition, records));
                }
                fate => self.set_aside(&mut aside, fate, partition, records),
            }
        }
        if here.len() == count {
            send(to, &bytes).await.map_err(Cause::BrokerError)?;
            return Ok((true, aside));
        }
        let is_at_broker = !here.is_empty();
        if is_at_broker {
            let for_broker = produce::body(here, front.acks, front.timeout_ms, head.version);
            write_frame(to, &bytes[SIZE_LEN..body.start], &for_broker).await.map_err(Cause::BrokerError)?;
        }
        Ok((is_at_broker, aside))
    }

    /// Passes a frame on as it streams. What is not for the broker is masked. Returns that.
    async fn stream(&self, from: &mut Source<'_>, to: &mut Writer, frame: &ProduceFrame) -> Result<Aside, WalkError> {
        let ProduceFrame { head, ref body, .. } = *frame;
        let flexible = head.api.is_flexible(head.version);
        let carrying = &self.seat().carrying;
        let mut sorting = self.sorting(frame, Some(self.seat().seen.clone()));
        let mut walk = Walk::new(PRODUCE_REQUEST, head.version, flexible, body.len());
        let mut aside = Aside::default();
        // Of what has arrived, so much is to go on as it is now.
        let mut walked = body.start;
        loop {
            let need = match walk.step(&from.bytes()[walked..], &mut sorting).map_err(WalkError::Body)? {
                Step::Replace { len, with } => {
                    debug_assert_eq!(len, with.len(), "the frame's size has gone already");
                    from.change(walked, with);
                    walked += len;
                    continue;
                }
                Step::Pass(len) => {
                    walked += len;
                    0
                }
                Step::Records(len) => {
                    let fate = sorting.fate.take().unwrap_or(Fate::Here);
                    let needed = match fate {
                        Fate::Here if !carrying.is_empty() => len.min(LENGTH + Sequence::FRONT),
                        Fate::Here | Fate::Refused(_) => 0,
                        Fate::Elsewhere => len,
                    };
                    if fate == Fate::Elsewhere && aside.reserved.is_none() {
                        aside.reserved = Some(carrying.reserve(body.end).await);
                    }
                    let arriving = timeout(in_time(needed), from.at_least(walked + needed)).await;
                    arriving.map_err(|_| MoveError::Reading(too_slow()))?.map_err(MoveError::Reading)?;
                    let records = records_of(&from.bytes()[walked..walked + needed], flexible);
                    if fate == Fate::Here {
                        self.wait_for_carried(&sorting.place(), records.unwrap_or_default()).await;
                    } else {
                        self.set_aside(&mut aside, fate, sorting.place(), records.map(Bytes::copy_from_slice));
                    }
                    walked += len;
                    0
                }
                Step::Need(len) => len,
                Step::End => {
                    self.pass(from, to, walked).await?;
                    return Ok(aside);
                }
            };
            if need == 0 && walked <= from.bytes().len() {
                continue;
            }
            self.pass(from, to, walked).await?;
            walked = 0;
            from.at_least(need).await.map_err(MoveError::Reading)?;
        }
    }

    fn set_aside(&self, aside: &mut Aside, fate: Fate, partition: TopicPartition, records: Option<Bytes>) {
        match fate {
            Fate::Here => unreachable!("it is for the broker"),
            Fate::Elsewhere => aside.elsewhere.push((partition, records)),
            Fate::Refused(error_code) => {
                // Who has a topic of elsewhere in a transaction has been told before.
                if error_code == TOPIC_AUTHORIZATION_FAILED {
                    self.tell_refused(Refused::Copy, &format!("topic {}", partition.topic));
                }
                aside.refused.push_error(partition, error_code);
            }
        }
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
        entries: Vec<Entry>,
        reserved: Option<Reserved>,
    ) -> Option<oneshot::Receiver<Result<Answers, Cause>>> {
        let reserved = reserved.filter(|_| !entries.is_empty())?;
        let entries = each_once(entries);
        let seat = self.seat();
        seat.seen.carried(entries.iter().filter_map(|(_, records)| records.as_ref()).map(Bytes::len).sum(), Timestamp::now());
        let carrier = carrier.get_or_insert_with(|| Carrier::new(seat.carrying.clone(), seat.view.clone(), seat.from.clone()));
        let Front { acks, timeout_ms, .. } = frame.front;
        let frame = Frame {
            entries,
            // Without an answer nobody would know whether the leader has changed.
            acks: if acks == 0 { 1 } else { acks },
            timeout: Duration::from_millis(timeout_ms.max(0).cast_unsigned().into()),
            arrived: Instant::now(),
            version: frame.head.version,
        };
        Some(carrier.carry(frame, reserved).await)
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
        // The request was broken off: whoever has sent it says why.
        let Ok(Produced { is_at_broker, refused, carried }) = told.await else { return Ok(()) };
        let frame_len = if is_at_broker && is_answered { Some(next_response(from, head).await?) } else { None };
        if let (Some(frame_len), None, true) = (frame_len, &carried, refused.partitions.is_empty()) {
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
        let carried = match carried {
            Some(carried) => carried.await.unwrap_or(Err(Cause::BrokerClosed))?,
            None => Answers::default(),
        };
        if !is_answered {
            // As a broker does with acks=0: the client looks for the leader when its connection ends.
            let failed = refused.partitions.iter().chain(&carried.partitions).any(|(_, answer)| answer.error_code != 0);
            return if failed { Err(Cause::BrokerClosed) } else { Ok(()) };
        }
        let too_large = || head.not_rewritten(RewriteError::TooLong("responses"));
        let body = produce::write_response(&merged(broker, [refused, carried]), head.version).ok_or_else(too_large)?;
        send(to, &head.answer(&body)).await.map_err(Cause::ClientError)
    }
}

/// How long the rest of a frame may take that has memory: others wait for that. Half a minute, and as long as 128 KiB/s take.
fn in_time(len: usize) -> Duration {
    Duration::from_secs(30 + (len / (128 * 1024)) as u64)
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the rest of a Produce request did not come in time")
}

/// Whether the first batch of what has arrived is for elsewhere. `None`: it has not arrived yet.
fn first(frame: &ProduceFrame, arrived: &[u8], sorting: &mut Sorting) -> Option<bool> {
    let head = frame.head;
    let mut walk = Walk::new(PRODUCE_REQUEST, head.version, head.api.is_flexible(head.version), frame.body.len());
    let mut at = 0;
    loop {
        let step = walk.step(arrived.get(at..)?, sorting);
        if let Some(fate) = sorting.fate {
            return Some(fate == Fate::Elsewhere);
        }
        match step {
            Ok(Step::Pass(len) | Step::Records(len) | Step::Replace { len, .. }) => at += len,
            Ok(Step::Need(_)) => return None,
            // What is wrong with it is said when it is passed on.
            Ok(Step::End) | Err(_) => return Some(false),
        }
    }
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
    for Answers { partitions, throttle_time_ms } in others {
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
    use kferry_wire::api::{self, Api};
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
        let leaders = Leaders::new(config.clusters.clone(), config.mirrors, names, Settled::default());
        Place { leaders: Arc::new(ArcSwap::from_pointee(leaders)), at: at.into() }
    }

    fn sorting(place: &Place, is_transactional: bool) -> Sorting {
        Sorting {
            now: Now::of(Some(place)),
            seen: None,
            is_transactional,
            topic: String::new(),
            stance: Stance::Leads,
            partition: 0,
            fate: None,
        }
    }

    fn fate_of(place: &Place, topic: &str, is_transactional: bool) -> Fate {
        let mut sorting = sorting(place, is_transactional);
        sorting.topic(topic);
        sorting.fate()
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

    fn produce_head(version: i16) -> RequestHead {
        RequestHead { api: Api::of(ApiKey::Produce as i16).unwrap(), version, correlation_id: 1 }
    }

    #[test]
    fn whether_a_frame_begins_elsewhere_is_known_as_soon_as_its_first_partition_is_there() {
        let place = place("legacy");
        for (topic, begins) in [("payments", true), ("orders", false)] {
            for version in [0, 3, 9] {
                let entries = ["a", "b"].map(|_| (TopicPartition::new(topic, 7), Some(Bytes::from_static(b"records"))));
                let body = produce::body(entries, -1, 9, version);
                let frame = ProduceFrame { head: produce_head(version), body: 0..body.len(), front: Front::peek(&body, version).unwrap() };
                let known: Vec<_> = (0..=body.len()).map(|len| first(&frame, &body[..len], &mut sorting(&place, false))).collect();
                let from = known.iter().position(Option::is_some).unwrap();
                assert!(known[..from].iter().all(Option::is_none) && known[from..].iter().all(|known| *known == Some(begins)), "{known:?}");
                assert!(from < body.len() - 10, "v{version}: only after {from} of {} bytes", body.len());
            }
        }
        let nothing = produce::body([], -1, 9, 3);
        let frame = ProduceFrame { head: produce_head(3), body: 0..nothing.len(), front: Front::peek(&nothing, 3).unwrap() };
        assert_eq!(first(&frame, &nothing, &mut sorting(&place, false)), Some(false));
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
        let mut sorting = sorting(&place("legacy"), false);
        sorting.topic("payments");
        for partition in [-1, i32::MIN, MASK, i32::MAX] {
            assert_eq!((sorting.partition(partition), sorting.fate), (partition, Some(Fate::Here)));
        }
        assert_eq!((sorting.partition(7), sorting.fate), (7 | MASK, Some(Fate::Elsewhere)));
        // The broker's word for such a number stays, and only what was masked is replaced.
        let of = |index: i32, error_code: i16| PartitionProduceResponse::default().with_index(index).with_error_code(error_code);
        let name = TopicName(StrBytes::from_static_str("payments"));
        let topic = TopicProduceResponse::default().with_name(name).with_partition_responses(vec![of(-1, 3), of(MASK, 3), of(7 | MASK, 3)]);
        let carried = Answers { partitions: vec![(TopicPartition::new("payments", 7), of(7, 0))], throttle_time_ms: 0 };
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
        merged(ProduceResponse::default(), [Answers { partitions: entries.into_iter().collect(), throttle_time_ms }, Answers::default()])
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
            };

            // Split.
            let broker = response(here.iter().map(|entry| (entry.0.clone(), at_broker(entry))), throttle.0);
            let split = merged(broker, [Answers::default(), carried()]);
            prop_assert_eq!(by_partition(&split), expected.clone());
            prop_assert_eq!(split.throttle_time_ms, throttle.0.max(throttle.1));

            // Masked as it streams.
            let body = produce::body(entries.iter().cloned(), -1, 9, version);
            let flexible = version >= 9;
            let masked = api::rewrite(PRODUCE_REQUEST, version, flexible, &body, &mut sorting(&place, false)).unwrap();
            prop_assert_eq!(masked.is_some(), !elsewhere.is_empty());
            let masked = Bytes::from(masked.unwrap_or_else(|| body.to_vec()));
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
