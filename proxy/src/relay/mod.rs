//! Relay mode: frames both ways, in order, what names a broker rewritten.
//!
//! `requests: peek the header → pass | rewrite | answer`, `responses: match the correlation id → pass | rewrite`. One client connection, one broker
//! connection. Brokers answer in the order of the requests, so a queue of what is in flight is all the state there is; what the proxy answers itself
//! takes its turn in it. A body is held only where it is rewritten; Produce and Fetch stream through.

pub mod brokers;
pub mod login;
pub mod splice;
pub mod topic_ids;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kferry_wire::api::{self, APIS, Api, Field, Rewrite, put_uvarint};
use kferry_wire::connection::{LoggedIn, Session};
use kferry_wire::frame::{self, FrameError, SIZE_LEN};
use kferry_wire::header::{self, HeaderError, RequestHeader, acks, body_at, is_idempotent};
use kferry_wire::stream::{Reader, Stream, Writer};
use kferry_wire::versions::Versions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bootstrap::Moved;
use crate::metrics::{self, Cause};
use crate::relay::brokers::{ToBroker, ToClient, World};
use crate::relay::splice::{MoveError, Pipes};

/// Requests that may wait for their answers; a client that sends more waits to send. Clients' own limits are 5 to a few hundred.
const IN_FLIGHT: usize = 1024;

/// One read. Small frames arrive whole in it, of large ones only the beginning is copied.
const BUFFER: usize = 16 * 1024;

/// What is read of a request before it is known what becomes of it: two strings of 32 KiB (`client_id`, `transactional_id`), and some tagged fields.
const HEADER: usize = 128 * 1024;

/// The largest body that is held to be rewritten. Metadata of 100,000 partitions has some 5 MiB.
const HELD: usize = 64 * 1024 * 1024;

/// How long a draining connection must be quiet, with nothing in flight.
const DRAIN_QUIET: Duration = Duration::from_millis(500);

/// How long the broker may take for its last answers after the client has closed its side.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The largest answer to a login of the proxy's own; such answers have a few hundred bytes.
const LOGIN: usize = 1024 * 1024;

/// Kafka's `UNSUPPORTED_VERSION`
pub(crate) const UNSUPPORTED_VERSION: i16 = 35;
/// Kafka's `UNSUPPORTED_SASL_MECHANISM`
pub(crate) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
/// Kafka's `ILLEGAL_SASL_STATE`
pub(crate) const ILLEGAL_SASL_STATE: i16 = 34;

/// What a relayed connection is given.
#[derive(Debug)]
pub struct Relaying {
    /// The client's world.
    pub world: World,
    /// What is advertised: the broker's versions, and those of every cluster that the client may come to.
    pub versions: Vec<Versions>,
    /// Where a client's SASL goes.
    pub sasl: Sasl,
    /// There if the proxy has logged in, and must do it again some time.
    pub session: Option<Session>,
    /// `socket_request_max_bytes`
    pub request_limit: usize,
    /// `connections_max_idle_ms`
    pub max_idle: Duration,
    /// The proxy is stopping.
    pub drain: CancellationToken,
    /// It waits no longer.
    pub cut: CancellationToken,
    /// For large bodies.
    pub pipes: Pipes,
}

/// Where a client's SASL goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sasl {
    /// To the broker.
    Broker,
    /// Nowhere: the client needs no login.
    Hidden,
    /// To the proxy, which lets nothing else through before.
    Proxy,
}

/// A relayed connection.
#[derive(Debug)]
pub struct Relayed {
    given: Relaying,
    moved: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    responses: AtomicU64,
    in_flight: AtomicUsize,
}

/// A request, as far as its header says.
#[derive(Debug, Clone, Copy)]
struct Asked {
    api: &'static Api,
    version: i16,
    correlation_id: i32,
}

/// A request whose answer is to come.
struct InFlight {
    asked: Asked,
    answer: Answer,
}

enum Answer {
    /// Comes from the broker and passes.
    Pass,
    /// Comes from the broker and is rewritten.
    Rewrite,
    /// The proxy's own, a whole frame.
    Own(Vec<u8>),
    /// Comes from the broker, to a login of the proxy's own. Without its size.
    Login(oneshot::Sender<Bytes>),
}

/// A request at the front of a [`Source`], and what becomes of it.
struct Next {
    asked: Asked,
    /// Where its body begins, from the size on.
    body_at: usize,
    /// With the size.
    frame_len: usize,
    request: Request,
    /// `None`: there will be none (`acks=0`).
    answer: Option<Answer>,
}

enum Request {
    Pass,
    Rewrite,
    /// The proxy answers.
    Keep,
}

/// Bytes that were read and not yet passed on.
struct Source<'a> {
    from: Reader,
    buf: Vec<u8>,
    start: usize,
    count: &'a AtomicU64,
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    /// Reads more; false at the end. Safe to cancel. A connection that waits with nothing half read holds no buffer.
    async fn more(&mut self) -> io::Result<bool> {
        if self.bytes().is_empty() {
            (self.buf, self.start) = (Vec::new(), 0);
            self.from.readable().await?;
        }
        self.buf.drain(..self.start);
        self.start = 0;
        self.buf.reserve(BUFFER);
        let read = self.from.read_buf(&mut self.buf).await?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read > 0)
    }

    /// The whole frame, which ends with `len` bytes from here.
    async fn whole(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.bytes().len() < len {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let frame = self.bytes()[..len].to_vec();
        self.start += len;
        Ok(frame)
    }
}

impl Relayed {
    /// Nothing has moved yet.
    pub fn new(given: Relaying) -> Self {
        Self { given, moved: Counters::default() }
    }

    /// Runs until one side ends, nothing moves for too long, or the proxy drains. `first` was read from the client already.
    pub async fn run(&self, client: Stream, first: Vec<u8>, broker: Stream) -> (Cause, Moved) {
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        self.moved.requests.fetch_add(first.len() as u64, Ordering::Relaxed);
        let from_client = Source { from: from_client, buf: first, start: 0, count: &self.moved.requests };
        let from_broker = Source { from: from_broker, buf: Vec::new(), start: 0, count: &self.moved.responses };
        let (queue, in_flight) = mpsc::channel(IN_FLIGHT);

        let mut responses = std::pin::pin!(self.responses(from_broker, to_client, in_flight));
        let cause = tokio::select! {
            ended = self.requests(from_client, to_broker, queue) => match ended {
                // The queue is closed: the responses end with the last answer.
                Ok(()) => timeout(LAST_ANSWERS, responses).await.unwrap_or(Ok(())).err().unwrap_or(Cause::ClientClosed),
                // The broker takes no more; what it has answered before it closed (a refused login) is still on its way.
                Err(cause @ Cause::BrokerError(_)) => {
                    let _ = timeout(LAST_ANSWERS, responses).await;
                    cause
                },
                Err(cause) => cause,
            },
            ended = &mut responses => ended.err().unwrap_or(Cause::ClientClosed),
            cause = self.quiet() => cause,
            () = self.given.cut.cancelled() => Cause::Cut,
        };
        let moved =
            Moved { requests: self.moved.requests.load(Ordering::Relaxed), responses: self.moved.responses.load(Ordering::Relaxed) };
        (cause, moved)
    }

    async fn requests(&self, mut from: Source<'_>, mut to: Writer, queue: mpsc::Sender<InFlight>) -> Result<(), Cause> {
        let client = Cause::ClientError;
        let mut session = self.given.session.clone();
        loop {
            let Some(next) = self.next_request(&mut from).await? else {
                return Ok(());
            };
            if let Some(due) = session.take_if(|session| session.is_due()) {
                session = Box::pin(self.log_in_again(due, &mut to, &queue)).await?;
            }
            let Next { asked, body_at, frame_len, request, answer } = next;
            if let Some(answer) = answer {
                self.moved.in_flight.fetch_add(1, Ordering::Relaxed);
                // Before the request goes out: its answer must find it. Closed only when the responses have ended, and then so does this.
                queue.send(InFlight { asked, answer }).await.map_err(|_| Cause::BrokerClosed)?;
            }
            match request {
                Request::Pass => self.pass(&mut from, &mut to, frame_len).await.map_err(|error| error.of(client, Cause::BrokerError))?,
                Request::Rewrite => {
                    let frame = from.whole(frame_len).await.map_err(client)?;
                    let (head, body) = frame.split_at(body_at);
                    let rewritten = self.for_broker(asked, body).await?;
                    write_frame(&mut to, &head[SIZE_LEN..], rewritten.as_deref().unwrap_or(body)).await.map_err(Cause::BrokerError)?;
                }
                Request::Keep => drop(from.whole(frame_len).await.map_err(client)?),
            }
        }
    }

    /// A new login in the middle of the connection (KIP-368), before the client's next request and behind those in flight. As Kafka's own client does
    /// it: only when there is something to send, because a broker closes what is used after its time, not what is idle.
    async fn log_in_again(&self, mut session: Session, to: &mut Writer, queue: &mpsc::Sender<InFlight>) -> Result<Option<Session>, Cause> {
        let refused = |session: &Session, refusal| Cause::BrokerUnreachable(session.failed(refusal));
        let mut exchange = session.again().map_err(Cause::BrokerUnreachable)?;
        loop {
            let correlation_id = 0;
            let frame = exchange.request(correlation_id, session.client_id()).map_err(|refusal| refused(&session, refusal))?;
            let header = RequestHeader::peek(&frame[SIZE_LEN..]).expect("it was written a moment ago");
            let api = Api::of(header.api_key).expect("the table has SASL");
            let asked = Asked { api, version: header.api_version, correlation_id };
            let (answer, answered) = oneshot::channel();
            self.moved.in_flight.fetch_add(1, Ordering::Relaxed);
            queue.send(InFlight { asked, answer: Answer::Login(answer) }).await.map_err(|_| Cause::BrokerClosed)?;
            send(to, &frame).await.map_err(Cause::BrokerError)?;
            // Behind a request that waits at the broker it takes as long as that one.
            let answer = answered.await.map_err(|_| Cause::BrokerClosed)?;
            if let Some(LoggedIn { session_lifetime }) = exchange.answered(&answer).map_err(|refusal| refused(&session, refusal))? {
                metrics::logged_in_again(&self.given.world.cluster.name);
                return Ok(session_lifetime.map(|lifetime| {
                    session.renew(lifetime);
                    session
                }));
            }
        }
    }

    /// Reads up to the end of the next request's header and decides what becomes of it. `None`: the client has closed the connection.
    async fn next_request(&self, from: &mut Source<'_>) -> Result<Option<Next>, Cause> {
        loop {
            if let Some(next) = self.decide(from.bytes())? {
                return Ok(Some(next));
            }
            if from.bytes().len() > HEADER {
                return Err(Cause::NotKafka(header::NotKafka::Header));
            }
            if !from.more().await.map_err(Cause::ClientError)? {
                return Ok(None);
            }
        }
    }

    /// `None`: more bytes are needed.
    fn decide(&self, bytes: &[u8]) -> Result<Option<Next>, Cause> {
        let size = match frame::size(bytes, self.given.request_limit) {
            Ok(Some(size)) => size,
            Ok(None) => return Ok(None),
            Err(FrameError::Size { size, .. }) => return Err(Cause::NotKafka(header::NotKafka::FrameSize(size))),
            Err(_) => unreachable!("a size that is there is right or wrong"),
        };
        let frame_len = SIZE_LEN + size;
        let frame = &bytes[SIZE_LEN..bytes.len().min(frame_len)];
        let whole = frame.len() == size;
        let peeked = match RequestHeader::peek(frame) {
            Ok(peeked) => peeked,
            Err(HeaderError::Short) if !whole => return Ok(None),
            Err(HeaderError::Short) => return Err(Cause::NotKafka(header::NotKafka::ShortFrame(size))),
            Err(HeaderError::ClientId) => return Err(Cause::NotKafka(header::NotKafka::ClientId)),
        };
        let (api_key, version, correlation_id) = (peeked.api_key, peeked.api_version, peeked.correlation_id);
        let Some(api) = Api::of(api_key) else { return Err(Cause::NotAdvertised { api_key, version }) };
        let asked = Asked { api, version, correlation_id };
        let own = |body: &[u8]| (Request::Keep, Some(Answer::Own(own_frame(correlation_id, body))));
        let incomplete = || if whole { Err(Cause::NotKafka(header::NotKafka::ShortFrame(size))) } else { Ok(None) };
        let within = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
        let flexible = within && api.is_flexible(version);
        let Some(body_at) = body_at(frame, peeked.len, flexible) else { return incomplete() };
        let body = &frame[body_at..];

        let (request, answer) = match api.key {
            // A client that is newer than the proxy gets the list in the form that everybody reads, and asks again.
            ApiKey::ApiVersions if !within => own(&self.api_versions(0, UNSUPPORTED_VERSION)),
            ApiKey::ApiVersions => own(&self.api_versions(version, 0)),
            _ if !within => return Err(Cause::NotAdvertised { api_key, version }),
            ApiKey::SaslHandshake if self.given.sasl != Sasl::Broker => {
                let error_code = if self.given.sasl == Sasl::Hidden { UNSUPPORTED_SASL_MECHANISM } else { ILLEGAL_SASL_STATE };
                own(&[&error_code.to_be_bytes()[..], &0i32.to_be_bytes()].concat())
            }
            ApiKey::Produce => match acks(body, version) {
                Some(0) => (Request::Pass, None),
                Some(_) => (Request::Pass, Some(Answer::Pass)),
                None => return incomplete(),
            },
            _ => {
                let request = if api.request.is_empty() { Request::Pass } else { Request::Rewrite };
                // The id of a transactional producer belongs to its coordinator and stays as it is.
                let passes = match api.key {
                    ApiKey::InitProducerId => match is_idempotent(body, version) {
                        Some(idempotent) => !idempotent,
                        None => return incomplete(),
                    },
                    _ => api.response.is_empty(),
                };
                (request, Some(if passes { Answer::Pass } else { Answer::Rewrite }))
            }
        };
        if matches!(request, Request::Rewrite | Request::Keep) && frame_len > HELD {
            return Err(Cause::NotKafka(header::NotKafka::FrameSize(size as i32)));
        }
        Ok(Some(Next { asked, body_at: SIZE_LEN + body_at, frame_len, request, answer }))
    }

    async fn responses(&self, mut from: Source<'_>, mut to: Writer, mut queue: mpsc::Receiver<InFlight>) -> Result<(), Cause> {
        let broker = Cause::BrokerError;
        loop {
            let next = if from.bytes().is_empty() {
                tokio::select! {
                    biased;
                    next = queue.recv() => next,
                    // Nothing is in flight, or its request has just gone out: all that can come is its answer, or the end.
                    more = from.more() => {
                        if !more.map_err(broker)? {
                            return Err(Cause::BrokerClosed);
                        }
                        queue.try_recv().ok()
                    }
                }
            } else {
                // More came than the last answer: it is the answer to a request that is in the queue, or to none.
                queue.try_recv().ok()
            };
            let Some(InFlight { asked, answer }) = next else {
                // The client has closed its side and has all of its answers.
                return if queue.is_closed() {
                    Ok(())
                } else {
                    Err(Cause::BrokerError(io::Error::other("it sent an answer that nobody asked for")))
                };
            };
            match answer {
                Answer::Own(frame) => send(&mut to, &frame).await.map_err(Cause::ClientError)?,
                Answer::Login(answer) => {
                    let frame_len = next_response(&mut from, asked).await?;
                    if frame_len > LOGIN {
                        return Err(Cause::WrongAnswer(asked.api.key));
                    }
                    let frame = Bytes::from(from.whole(frame_len).await.map_err(broker)?);
                    // Whoever waits for it goes away only with the connection.
                    let _ = answer.send(frame.slice(SIZE_LEN..));
                }
                Answer::Pass => {
                    let frame_len = next_response(&mut from, asked).await?;
                    self.pass(&mut from, &mut to, frame_len).await.map_err(|error| error.of(broker, Cause::ClientError))?;
                }
                Answer::Rewrite => {
                    let frame_len = next_response(&mut from, asked).await?;
                    let frame = from.whole(frame_len).await.map_err(broker)?;
                    let flexible_header = asked.api.key.response_header_version(asked.version) >= 1;
                    let body_at = body_at(&frame, SIZE_LEN + 4, flexible_header).ok_or(Cause::WrongAnswer(asked.api.key))?;
                    let (head, body) = frame.split_at(body_at);
                    let rewritten = self.for_client(asked, body).await?;
                    write_frame(&mut to, &head[SIZE_LEN..], rewritten.as_deref().unwrap_or(body)).await.map_err(Cause::ClientError)?;
                }
            }
            self.moved.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Rewrites the body of a request. `None`: it goes on as it is.
    async fn for_broker(&self, asked: Asked, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let mut by = ToBroker::new(&self.given.world);
        let rewritten = asked.rewrite(asked.api.request, body, &mut by)?;
        let Some(topic_id) = by.unknown_topic else { return Ok(rewritten) };
        self.list_topics(asked, topic_id).await?;
        // What the cluster still does not have is a topic that was deleted: so it is for the broker, which knows no topic by the virtual id. To
        // hold a member's heartbeat back would cost it all of its partitions.
        asked.rewrite(asked.api.request, body, &mut ToBroker::new(&self.given.world))
    }

    /// Rewrites the body of an answer. `None`: it goes on as it is.
    async fn for_client(&self, asked: Asked, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let mut by = ToClient::new(&self.given.world);
        let rewritten = asked.rewrite(asked.api.response, body, &mut by)?;
        // A broker that has just started may answer so, and librdkafka from 2.10 on forgets all brokers at it, for good
        // (confluentinc/librdkafka issue 5301). The client is to ask another one.
        if asked.api.key == ApiKey::Metadata && by.brokers == 0 {
            return Err(Cause::NoBrokers);
        }
        let Some(topic_id) = by.unknown_topic else { return Ok(rewritten) };
        self.list_topics(asked, topic_id).await?;
        let mut by = ToClient::new(&self.given.world);
        let rewritten = asked.rewrite(asked.api.response, body, &mut by)?;
        match by.unknown_topic {
            None => Ok(rewritten),
            Some(topic_id) => Err(Cause::UnknownTopicId { api_key: asked.api.key, topic_id, error: None }),
        }
    }

    /// Nobody has told yet what the topic of this id is. An error ends the connection, and that is what clients are ready for: the Java client and
    /// librdkafka look for the coordinator again and send a heartbeat with everything in it, to which the broker answers with the whole
    /// assignment. After an error code that says "try again" librdkafka repeats the heartbeat that it sent, and an assignment that was taken out
    /// of an answer would never come again.
    async fn list_topics(&self, asked: Asked, topic_id: Uuid) -> Result<(), Cause> {
        let World { cluster, brokers, .. } = &self.given.world;
        let unknown = |error| Cause::UnknownTopicId { api_key: asked.api.key, topic_id, error: Some(error) };
        // Boxed, here and at a login: what a connection does once in a while costs it nothing while it idles.
        Box::pin(brokers.topic_ids.list(cluster)).await.map_err(unknown)
    }

    /// Passes a frame on, of which the beginning has arrived.
    async fn pass(&self, from: &mut Source<'_>, to: &mut Writer, frame_len: usize) -> Result<(), MoveError> {
        let arrived = from.bytes().len().min(frame_len);
        send(to, &from.bytes()[..arrived]).await.map_err(MoveError::Writing)?;
        from.start += arrived;
        let rest = (frame_len - arrived) as u64;
        if rest > 0 {
            let count = from.count;
            match (&mut from.from, to) {
                (Reader::Tcp(from), Writer::Tcp(to)) => {
                    splice::move_exactly(from.as_ref(), to.as_ref(), rest, &self.given.pipes, count).await?;
                }
                (from, to) => self.given.pipes.add_tls(splice::copy_exactly(from, to, rest, count).await?),
            }
        }
        Ok(())
    }

    /// What the client may use: what the table carries and every cluster knows that it may come to. No features: they would turn transactions v2 on.
    pub(crate) fn api_versions(&self, version: i16, error_code: i16) -> Vec<u8> {
        let flexible = version >= 3;
        let ranges: Vec<[i16; 3]> = APIS.iter().filter_map(|api| self.advertised(api)).collect();
        let mut body = error_code.to_be_bytes().to_vec();
        if flexible {
            put_uvarint(&mut body, ranges.len() as u32 + 1);
        } else {
            body.extend_from_slice(&(ranges.len() as i32).to_be_bytes());
        }
        for range in ranges {
            for number in range {
                body.extend_from_slice(&number.to_be_bytes());
            }
            if flexible {
                put_uvarint(&mut body, 0);
            }
        }
        if version >= 1 {
            body.extend_from_slice(&0i32.to_be_bytes());
        }
        if flexible {
            put_uvarint(&mut body, 0);
        }
        body
    }

    fn advertised(&self, api: &Api) -> Option<[i16; 3]> {
        let (mut min, mut max) = api.advertised()?;
        let is_login = matches!(api.key, ApiKey::SaslHandshake | ApiKey::SaslAuthenticate);
        // These are between client and proxy; a login that the proxy has done is not to be tried again.
        let ours = api.key == ApiKey::ApiVersions || is_login && self.given.sasl == Sasl::Proxy;
        if is_login && self.given.sasl == Sasl::Hidden {
            return None;
        }
        for known in self.given.versions.iter().filter(|_| !ours) {
            let range = known.range(api.key as i16)?;
            (min, max) = (min.max(range.min), max.min(range.max));
        }
        (min <= max).then_some([api.key as i16, min, max])
    }

    /// Returns when nothing has moved for too long.
    async fn quiet(&self) -> Cause {
        let mut seen = 0;
        let mut last_moved = Instant::now();
        loop {
            let draining = self.given.drain.is_cancelled();
            let limit = if draining { DRAIN_QUIET } else { self.given.max_idle };
            tokio::select! {
                () = sleep_until(last_moved + limit) => {}
                () = self.given.drain.cancelled(), if !draining => {}
            }
            let moved = self.moved.requests.load(Ordering::Relaxed) + self.moved.responses.load(Ordering::Relaxed);
            if moved != seen || draining && self.moved.in_flight.load(Ordering::Relaxed) > 0 {
                seen = moved;
                last_moved = Instant::now();
            } else if last_moved.elapsed() >= limit {
                return if draining { Cause::Drained } else { Cause::Idle };
            }
        }
    }
}

impl Asked {
    fn rewrite(self, fields: &'static [Field], body: &[u8], by: &mut impl Rewrite) -> Result<Option<Vec<u8>>, Cause> {
        let Self { api, version, .. } = self;
        api::rewrite(fields, version, api.is_flexible(version), body, by).map_err(|error| Cause::NotRewritten {
            api_key: api.key,
            version,
            error,
        })
    }
}

/// Waits for the beginning of an answer and checks that it is the one to `asked`. Returns the length of its frame.
async fn next_response(from: &mut Source<'_>, asked: Asked) -> Result<usize, Cause> {
    while from.bytes().len() < SIZE_LEN + 4 {
        if !from.more().await.map_err(Cause::BrokerError)? {
            return Err(Cause::BrokerClosed);
        }
    }
    let limit = if asked.api.response.is_empty() { i32::MAX as usize } else { HELD };
    let right = from.bytes()[SIZE_LEN..SIZE_LEN + 4] == asked.correlation_id.to_be_bytes();
    match frame::size(from.bytes(), limit) {
        Ok(Some(size)) if right && size >= 4 => Ok(SIZE_LEN + size),
        _ => Err(Cause::WrongAnswer(asked.api.key)),
    }
}

/// An answer of the proxy's own: size, header v0, body. (ApiVersions never has another header, and SaslHandshake v1 has this one.)
pub(crate) fn own_frame(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let size = (4 + body.len()) as i32;
    [&size.to_be_bytes()[..], &correlation_id.to_be_bytes(), body].concat()
}

async fn write_frame(to: &mut Writer, head: &[u8], body: &[u8]) -> io::Result<()> {
    let size = (head.len() + body.len()) as i32;
    send(to, &[&size.to_be_bytes()[..], head, body].concat()).await
}

/// TLS keeps what it encrypted until it is flushed.
async fn send(to: &mut Writer, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

impl MoveError {
    /// Whose fault it is.
    fn of(self, reading: fn(io::Error) -> Cause, writing: fn(io::Error) -> Cause) -> Cause {
        match self {
            Self::Reading(error) => reading(error),
            Self::Writing(error) => writing(error),
            Self::Ended { .. } => reading(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
