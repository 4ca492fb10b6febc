//! Relay mode: frames both ways, in order, what names a broker rewritten.
//!
//! One client connection, one broker connection. Brokers answer in the order of the requests, so a queue of what is in flight is all the state there
//! is; what the proxy answers itself takes its turn in it. A body is held only where it is rewritten; Produce and Fetch stream through.
//!
//! ```text
//!  client ── requests: decide ──┬ pass, rewrite ──────────────────────────▶ broker
//!                               └ keep: the proxy answers                    │
//!                                    │ in flight, in the order of requests   │
//!                                    ▼                                       ▼
//!  client ◀── own │ pass │ rewrite ── responses: the one that is due, by its correlation id
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the path of a request and of its response, top-down |
//! | `request` | what becomes of a request |
//! | `response` | what becomes of a response |
//! | `own_response` | what the proxy answers itself, and what it tells a client that it may use |
//! | `frames` | reading and writing |
//! | `splice` | an exact number of bytes from one connection to another, without a copy where the kernel can |
//! | `masks` | what keeps requests about topics that lead elsewhere from the broker |
//! | `produce` | the path of a Produce request in a view |
//! | `carry` | batches on their way to a leader on another cluster |
//! | `first` | the first batch of each producer at a cluster that leads since a decision |
//! | `holds` | topics that are about to change their leader: what waits for that, and what is under way |
//! | `park` | groups that are about to change their coordinator: who waits to join |
//! | `senders` | clients, with all of their connections |
//! | `brokers` | virtual brokers: under which node id, host and port a client knows a real one |
//! | `topic_ids` | under which id a client knows a topic |
//! | `login` | a client's login at the proxy, for routes with `sasl_users` |
//! | `view/` | the virtual cluster of several that a client sees; its own map is in `view/mod.rs` |

pub(crate) mod brokers;
pub(crate) mod carry;
pub(crate) mod first;
mod frames;
pub(crate) mod holds;
pub(crate) mod login;
pub(crate) mod masks;
pub(crate) mod own_response;
pub(crate) mod park;
mod produce;
mod request;
mod response;
pub(crate) mod senders;
pub(crate) mod splice;
pub(crate) mod topic_ids;
pub(crate) mod view;

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{Fuse, FusedFuture as _, try_join};
use kafka_protocol::messages::{ApiKey, EndTxnRequest, EndTxnResponse};
use kafka_protocol::protocol::Decodable;
use kferry_wire::api::{Api, FETCH_RESPONSE, Field, Rewrite, RewriteError, Step, Walk};
use kferry_wire::connection::{LoggedIn, Session};
use kferry_wire::decisions::LATE;
use kferry_wire::frame::{self, FrameError, SIZE_LEN};
use kferry_wire::header::{NotKafka, RequestHeader};
use kferry_wire::stream::{Reader, Stream, Writer};
use kferry_wire::tell;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::brokers::{Streamed, ToBroker, ToClient, World};
use self::carry::Carrying;
use self::first::FirstBatches;
use self::frames::{Source, send, write_frame};
use self::holds::{Entered, Holds};
use self::masks::Refused;
use self::own_response::Advertised;
use self::park::{Gated, Parking, unknown_there};
use self::produce::{ProduceFrame, Produced};
use self::request::{Decision, RequestHead, RequestPlan, ResponsePlan, Sees, decide};
use self::response::{Found, LARGEST_LOGIN, asks_for};
use self::senders::{Sender, Sending};
use self::splice::{MoveError, Pipes};
use self::view::{Door, View, groups_of, keep_living, refusal};
use crate::clients::Seen;
use crate::ending::{Cause, Ending, Moved};
use crate::messages;
use crate::metrics;
use crate::quiet::{Activity, LAST_RESPONSES, Patience, Quiet};

/// Requests of one connection that may wait for their responses; a client that sends more waits to send. Clients' own limits are 5 to a few hundred.
const IN_FLIGHT: usize = 1024;

/// How many Produce requests of a connection to somebody who sees a view may be without an answer: what comes behind them waits in the client's socket. A broker
/// handles those of a connection one after the other, so that more of them would only wait, and a hold would wait for each.
const PRODUCES: usize = 32;

/// Kafka's `INVALID_TXN_STATE`
const INVALID_TXN_STATE: i16 = 48;

/// Bytes of the largest response to a request of the proxy's own; such responses have a few hundred.
const OWN_RESPONSE: usize = 1024 * 1024;

/// What is known of a relayed connection when it begins.
#[derive(Debug)]
pub(crate) struct Terms {
    /// What the client sees of which cluster.
    pub world: World,
    /// What the client sees beside that cluster.
    pub view: Option<Seat>,
    /// What the client is told that it may use.
    pub advertised: Advertised,
    /// The proxy's own login at the broker, if it has done one that is good for a time only.
    pub session: Option<Box<Session>>,
    /// `socket_request_max_bytes`: of a request's frame, without its size.
    pub request_limit: usize,
    /// `connections_max_idle_ms`
    pub max_idle: Duration,
    /// Cancelled when the proxy stops: the connection ends once it is quiet.
    pub drain: CancellationToken,
    /// Cancelled when `drain_timeout_ms` is over: the connection ends.
    pub cut: CancellationToken,
    /// Cancelled when the client is to see other clusters, or has not been quiet since the proxy stopped: no more requests are taken, and the connection ends with
    /// the last answer.
    pub until: CancellationToken,
    /// Pipes for large bodies.
    pub pipes: Pipes,
}

/// From where a client sees a view.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The view.
    pub view: Arc<View>,
    /// How the client finds virtual brokers.
    pub door: Door,
    /// Who it is.
    pub from: Arc<Sender>,
    /// Where to tell what it uses.
    pub seen: Seen,
    /// What is carried of all connections.
    pub carrying: Arc<Carrying>,
    /// Which topics are held.
    pub holds: Arc<Holds>,
    /// Which groups are held.
    pub parking: Arc<Parking>,
    /// Which producers have begun where a topic leads since a decision.
    pub firsts: Arc<FirstBatches>,
    /// Why it was refused what it should not have asked for is told once.
    pub told: AtomicBool,
    /// Topics of its transaction were refused, so that it may not have begun.
    pub refused: AtomicBool,
    /// It aborts such a transaction.
    pub aborts: AtomicBool,
}

/// A relayed connection.
#[derive(Debug)]
pub(crate) struct FrameRelay {
    terms: Terms,
    counters: Counters,
    /// The client is gone, and some of what it has sent was not read yet.
    is_gone: AtomicBool,
    /// No more requests are taken.
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    /// Bytes read from the client.
    requests: AtomicU64,
    /// Bytes read from the broker.
    responses: AtomicU64,
    /// Requests whose responses are to come.
    in_flight: AtomicUsize,
    /// Those of them that are about topics of a view, and Produce.
    produces: AtomicUsize,
    /// Told when one of those is answered.
    produced: Notify,
}

impl Counters {
    fn moved(&self) -> Moved {
        Moved { requests: self.requests.load(Ordering::Relaxed), responses: self.responses.load(Ordering::Relaxed) }
    }

    fn activity(&self) -> Activity {
        let Moved { requests, responses } = self.moved();
        Activity { bytes: requests + responses, in_flight: self.in_flight.load(Ordering::Relaxed) }
    }
}

/// A request whose response is to come.
struct InFlight {
    head: RequestHead,
    due: Due,
    /// What it changes a group by, until it is answered.
    entered: Option<Box<Entered>>,
}

/// For whom a response is.
enum Due {
    /// For the client.
    Client(ResponsePlan),
    /// For the client, from the view: a whole frame.
    Asked(oneshot::Receiver<Result<Vec<u8>, Cause>>),
    /// For the client, from the leaders of what it has produced to. With `acks=0` the client waits for none.
    Produced { told: oneshot::Receiver<Produced>, is_answered: bool },
    /// For the proxy itself: the broker's frame, without its size.
    Own(oneshot::Sender<Bytes>),
}

/// Which side of a connection has ended.
enum Side {
    Requests(Result<(), Cause>),
    Responses(Result<(), Cause>),
}

impl FrameRelay {
    /// Nothing has moved yet.
    pub(crate) fn new(terms: Terms) -> Self {
        Self { terms, counters: Counters::default(), is_gone: AtomicBool::new(false), is_over: AtomicBool::new(false) }
    }

    /// Runs until one side ends, nothing moves for too long, or the proxy drains. `first` was read from the client already.
    pub(crate) async fn run(&self, client: Stream, first: Vec<u8>, broker: Stream) -> Ending {
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        self.counters.requests.fetch_add(first.len() as u64, Ordering::Relaxed);
        let from_client = Source { from: from_client, buf: first, start: 0, left: 0, count: &self.counters.requests };
        let mut from_broker = Source { from: from_broker, buf: Vec::new(), start: 0, left: 0, count: &self.counters.responses };
        let (queue, mut in_flight) = mpsc::channel(IN_FLIGHT);
        let mut requests = pin!(self.requests(from_client, to_broker, queue).fuse());
        let cause = self.relay(requests.as_mut(), &mut from_broker, to_client, &mut in_flight).await;
        // Whether what a client has produced that is gone is over is known when the broker has answered, or when it can no longer land.
        let rest = async {
            if self.counters.produces.load(Ordering::Relaxed) == 0 {
                return;
            }
            let answers = self.last_answers(&mut from_broker, &mut in_flight);
            if matches!(cause, Cause::ClientError(_)) && !requests.is_terminated() {
                // An answer has found it gone. What it had sent before is still there to be read, and with acks=0 it counts on that.
                self.is_gone.store(true, Ordering::Relaxed);
                // Answers that break off end it, since requests would wait for them. The end of the requests does not: what they had sent is answered behind it.
                let _ = try_join(requests.map(|_| Ok(())), answers).await;
            } else {
                requests.set(Fuse::terminated());
                let _ = answers.await;
            }
        };
        // Who is cut waits for nothing.
        tokio::select! {
            biased;
            () = self.terms.cut.cancelled() => {}
            _ = timeout(LATE, rest) => {}
        }
        Ending { cause, moved: self.counters.moved() }
    }

    /// Whether something was asked that has no answer.
    pub(crate) fn has_open(&self) -> bool {
        self.counters.in_flight.load(Ordering::Relaxed) > 0
    }

    async fn relay(
        &self,
        mut requests: Pin<&mut impl Future<Output = Result<(), Cause>>>,
        from_broker: &mut Source<'_>,
        to_client: Writer,
        in_flight: &mut mpsc::Receiver<InFlight>,
    ) -> Cause {
        let mut relayed = pin!(async {
            let mut responses = pin!(self.responses(from_broker, to_client, in_flight));
            // What the requests hand over the responses find in the same turn, and are not woken for: a task that wakes itself makes tokio wake another worker
            // thread. In every other turn the responses are first, or a client that never stops could use up the task's budget each time.
            let mut are_first = false;
            let both = poll_fn(|context| {
                are_first = !are_first;
                if are_first && let Poll::Ready(ended) = responses.as_mut().poll(context) {
                    return Poll::Ready(Side::Responses(ended));
                }
                match requests.as_mut().poll(context) {
                    Poll::Ready(ended) => Poll::Ready(Side::Requests(ended)),
                    Poll::Pending => responses.as_mut().poll(context).map(Side::Responses),
                }
            });
            match both.await {
                // The client may still be sending: with something unread a close is a reset, and might take the last answers from it.
                Side::Responses(Ok(())) if self.is_over.load(Ordering::Relaxed) => requests.await.err().unwrap_or(Cause::Cut),
                Side::Responses(ended) => ended.err().unwrap_or(Cause::ClientClosed),
                // The queue is closed: the responses end with the last answer.
                Side::Requests(Ok(())) => timeout(LAST_RESPONSES, responses).await.unwrap_or(Ok(())).err().unwrap_or(Cause::ClientClosed),
                // Nobody is left to be answered.
                Side::Requests(Err(cause @ Cause::ClientError(_))) => {
                    if self.counters.produces.load(Ordering::Relaxed) > 0 {
                        let _ = timeout(LATE, responses).await;
                    }
                    cause
                }
                // What the client had asked before, it is told, as by a broker that closes at a request: also where the broker takes no more, and has said
                // why (a refused login).
                Side::Requests(Err(cause)) => {
                    let _ = timeout(LAST_RESPONSES, responses).await;
                    cause
                }
            }
        });
        tokio::select! {
            // A client that was cut before its first request goes nowhere.
            biased;
            () = self.terms.cut.cancelled() => return Cause::Cut,
            () = self.terms.until.cancelled() => {}
            cause = relayed.as_mut() => return cause,
            cause = self.quiet() => return cause,
        }
        // The client is told what became of what it had asked: a batch that was appended, and not acknowledged, it would send again, and who sees other clusters
        // may be another producer to the broker.
        self.is_over.store(true, Ordering::Relaxed);
        let is_told = tokio::select! {
            biased;
            () = self.terms.cut.cancelled() => false,
            ended = timeout(LAST_RESPONSES, relayed) => ended.is_ok(),
        };
        if is_told && self.terms.drain.is_cancelled() { Cause::Drained } else { Cause::Cut }
    }

    /// Reads what the broker still answers when the client is gone, until nothing is asked any more.
    async fn last_answers(&self, from: &mut Source<'_>, in_flight: &mut mpsc::Receiver<InFlight>) -> Result<(), Cause> {
        from.rest().await.map_err(Cause::BrokerError)?;
        while let Some(InFlight { head, due, entered }) = in_flight.recv().await {
            match due {
                Due::Client(ResponsePlan::Pass | ResponsePlan::Walk | ResponsePlan::Rewrite | ResponsePlan::Heard(_)) | Due::Own(_) => {
                    let frame_len = next_response(from, head).await?;
                    from.skip(frame_len).await.map_err(Cause::BrokerError)?;
                }
                Due::Produced { told, .. } => {
                    if let Some(frame_len) = self.produced(from, head, told).await?.and_then(|(frame_len, _)| frame_len) {
                        from.skip(frame_len).await.map_err(Cause::BrokerError)?;
                    }
                }
                Due::Client(ResponsePlan::Own(_)) | Due::Asked(_) => {}
                // A login of the old kind has no length in front; nobody produces before it is over.
                Due::Client(ResponsePlan::Bare) => return Ok(()),
            }
            if let Some(entered) = entered {
                entered.ended();
            }
        }
        Ok(())
    }

    async fn requests(&self, mut from: Source<'_>, mut to: Writer, queue: mpsc::Sender<InFlight>) -> Result<(), Cause> {
        let client = Cause::ClientError;
        let mut session = self.terms.session.clone();
        let sending = self.terms.view.as_ref().map(|seat| seat.from.connected(&self.terms.world.cluster.name));
        let mut carrier = None;
        loop {
            let Some(decision) = self.next_request(&mut from, sending.as_ref()).await? else {
                // Nobody waits for more answers than are due.
                drop(queue);
                if self.is_over.load(Ordering::Relaxed) {
                    self.skip_requests(&mut from).await;
                }
                return Ok(());
            };
            sending.iter().for_each(Sending::reads);
            if let Some(due) = session.take_if(|session| session.is_due()) {
                session = Box::pin(self.log_in_again(due, &mut to, &queue)).await?;
            }
            let is_given_up = self.is_gone.load(Ordering::Relaxed) && !decision.is_unanswered_produce();
            let Decision { head, body_at, frame_len, request, response, bare_messages } = decision;
            if is_given_up {
                // What a client waits for an answer to it has given up by now: it must not come behind what the client has sent since on another connection.
                from.skip(frame_len).await.map_err(client)?;
                continue;
            }
            // Before the request goes out: its response must find it.
            let due = response.map(Due::Client);
            match request {
                RequestPlan::Pass => {
                    self.expect(&queue, head, due).await?;
                    self.pass(&mut from, &mut to, frame_len).await.map_err(|error| error.of(client, Cause::BrokerError))?;
                }
                RequestPlan::Rewrite | RequestPlan::Judge => {
                    let frame = from.whole(frame_len).await.map_err(client)?;
                    let (front, body) = frame.split_at(body_at);
                    if request == RequestPlan::Judge {
                        Box::pin(self.judge(head, front, body, &mut to, &queue, due)).await?;
                        continue;
                    }
                    let rewritten = self.for_broker(head, body).await?;
                    self.expect(&queue, head, due).await?;
                    write_frame(&mut to, &front[SIZE_LEN..], rewritten.as_deref().unwrap_or(body)).await.map_err(Cause::BrokerError)?;
                }
                RequestPlan::Produce(front) => {
                    let frame = ProduceFrame { head, body: body_at..frame_len, is_answered: front.acks != 0, front };
                    Box::pin(self.produce(&mut from, &mut to, &queue, &mut carrier, frame)).await?;
                }
                RequestPlan::Ask => {
                    let frame = from.whole(frame_len).await.map_err(client)?;
                    let answer = self.ask_view(head, frame[body_at..].to_vec());
                    self.expect(&queue, head, Some(Due::Asked(answer))).await?;
                }
                RequestPlan::Keep => {
                    self.expect(&queue, head, due).await?;
                    drop(from.whole(frame_len).await.map_err(client)?);
                }
            }
            for _ in 0..bare_messages {
                let Some(message) = bare_message(&mut from).await? else { return Ok(()) };
                self.expect(&queue, head, Some(Due::Client(ResponsePlan::Bare))).await?;
                send(&mut to, &message).await.map_err(Cause::BrokerError)?;
            }
        }
    }

    /// A request about groups, or the end of a transaction: it waits as long as its group is about to move, and then goes where that lives.
    async fn judge(
        &self,
        head: RequestHead,
        front: &[u8],
        body: &[u8],
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
        due: Option<Due>,
    ) -> Result<(), Cause> {
        let groups = groups_of(head, body)?;
        let Gated { mut entered, response, body: instead, answer } = self.gate(head, body, &groups, to, queue).await?;
        if let Some(refused) = self.refused(head, body, &groups)?.or(answer) {
            let own = ResponsePlan::Own(head.answer(&refused));
            return self.expect(queue, head, Some(Due::Client(own))).await;
        }
        let body = instead.as_deref().unwrap_or(body);
        let rewritten = self.for_broker(head, body).await?;
        if let Some(entered) = &mut entered {
            entered.sent();
        }
        self.expect_of(queue, head, response.map(Due::Client).or(due), entered).await?;
        write_frame(to, &front[SIZE_LEN..], rewritten.as_deref().unwrap_or(body)).await.map_err(Cause::BrokerError)
    }

    /// A response is to come, if there will be one.
    async fn expect(&self, queue: &mpsc::Sender<InFlight>, head: RequestHead, due: Option<Due>) -> Result<(), Cause> {
        self.expect_of(queue, head, due, None).await
    }

    async fn expect_of(
        &self,
        queue: &mpsc::Sender<InFlight>,
        head: RequestHead,
        due: Option<Due>,
        entered: Option<Entered>,
    ) -> Result<(), Cause> {
        let Some(due) = due else { return Ok(()) };
        self.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        // Closed only when the responses have ended, and then so does whoever sends requests.
        queue.send(InFlight { head, due, entered: entered.map(Box::new) }).await.map_err(|_| Cause::BrokerClosed)
    }

    /// A new login in the middle of the connection (KIP-368), before the client's next request and behind those in flight. As Kafka's own client does
    /// it: only when there is something to send, because a broker closes what is used after its time, not what is idle.
    async fn log_in_again(
        &self,
        mut session: Box<Session>,
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
    ) -> Result<Option<Box<Session>>, Cause> {
        let refused = |session: &Session, refusal| Cause::BrokerUnreachable(session.failed(refusal));
        let mut exchange = session.again().await.map_err(Cause::BrokerUnreachable)?;
        loop {
            let correlation_id = 0;
            let frame = exchange.request(correlation_id, session.client_id()).map_err(|refusal| refused(&session, refusal))?;
            let header = RequestHeader::peek(&frame[SIZE_LEN..]).expect("it was written a moment ago");
            let api = Api::of(header.api_key).expect("the table has SASL");
            let head = RequestHead { api, version: header.api_version, correlation_id };
            let (response, responded) = oneshot::channel();
            self.expect(queue, head, Some(Due::Own(response))).await?;
            send(to, &frame).await.map_err(Cause::BrokerError)?;
            // Behind a request that waits at the broker it takes as long as that one.
            let response = responded.await.map_err(|_| Cause::BrokerClosed)?;
            if let Some(LoggedIn { session_lifetime }) = exchange.answered(&response).map_err(|refusal| refused(&session, refusal))? {
                metrics::logged_in_again(&self.terms.world.cluster.name);
                return Ok(session_lifetime.map(|lifetime| {
                    session.renew(lifetime);
                    session
                }));
            }
        }
    }

    /// Reads up to the end of the next request's header and decides what becomes of it. `None`: the client has closed the connection.
    async fn next_request(&self, from: &mut Source<'_>, sending: Option<&Sending>) -> Result<Option<Decision>, Cause> {
        loop {
            if self.is_over.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(decision) = decide(from.bytes(), &self.terms.advertised, self.sees(), self.terms.request_limit)? {
                return Ok(Some(decision));
            }
            let sending = sending.filter(|_| from.bytes().is_empty());
            let mut more = pin!(from.more());
            let is_more = poll_fn(|context| {
                let is_more = more.as_mut().poll(context);
                // A task whose turn is over is told of nothing, whatever there is.
                if let Some(sending) = sending.filter(|_| is_more.is_pending() && has_budget_remaining()) {
                    sending.is_empty(context);
                }
                if is_more.is_pending() && self.is_over.load(Ordering::Relaxed) { Poll::Ready(Ok(false)) } else { is_more }
            });
            if !is_more.await.map_err(Cause::ClientError)? {
                return Ok(None);
            }
        }
    }

    /// Reads what a client still sends, for nobody. Whoever wants no answer (`acks=0`) reads none, and is to see at once that nothing is taken any more.
    async fn skip_requests(&self, from: &mut Source<'_>) {
        loop {
            match decide(from.bytes(), &self.terms.advertised, self.sees(), self.terms.request_limit) {
                Ok(Some(decision)) if !decision.is_unanswered_produce() && from.skip(decision.frame_len).await.is_ok() => {}
                Ok(None) if from.more().await.unwrap_or(false) => {}
                _ => return,
            }
        }
    }

    async fn responses(&self, from: &mut Source<'_>, mut to: Writer, queue: &mut mpsc::Receiver<InFlight>) -> Result<(), Cause> {
        let broker = Cause::BrokerError;
        loop {
            let next = if from.bytes().is_empty() {
                tokio::select! {
                    biased;
                    next = handed_over(queue) => next,
                    // Nothing is in flight, or its request has just gone out: all that can come is its response, or the end.
                    more = from.more() => {
                        if !more.map_err(broker)? {
                            return Err(Cause::BrokerClosed);
                        }
                        queue.try_recv().ok()
                    }
                }
            } else {
                // More came than the last response: it is the response to a request that is in the queue, or to none.
                queue.try_recv().ok()
            };
            let Some(InFlight { head, due, entered }) = next else {
                if !queue.is_closed() {
                    return Err(Cause::BrokerError(io::Error::other("it sent an answer that nobody asked for")));
                }
                // The client has all of its responses, and has closed its side or is cut. One that is gone cannot be told.
                let _ = to.shutdown().await;
                return Ok(());
            };
            match due {
                Due::Client(ResponsePlan::Own(frame)) => send(&mut to, &frame).await.map_err(Cause::ClientError)?,
                Due::Asked(answer) => {
                    // Whoever answers always does, and has deadlines for all that is asked.
                    let frame = answer.await.unwrap_or(Err(Cause::BrokerClosed))?;
                    send(&mut to, &frame).await.map_err(Cause::ClientError)?;
                }
                Due::Own(own) => {
                    let frame_len = next_response(from, head).await?;
                    if frame_len > OWN_RESPONSE {
                        return Err(Cause::WrongResponse(head.api.key));
                    }
                    let frame = Bytes::from(from.whole(frame_len).await.map_err(broker)?);
                    // Whoever waits for it goes away only with the connection.
                    let _ = own.send(frame.slice(SIZE_LEN..));
                }
                Due::Client(ResponsePlan::Pass) => {
                    let frame_len = next_response(from, head).await?;
                    self.pass(from, &mut to, frame_len).await.map_err(|error| error.of(broker, Cause::ClientError))?;
                }
                Due::Produced { told, is_answered } => Box::pin(self.answer_produce(from, &mut to, head, told, is_answered)).await?,
                Due::Client(ResponsePlan::Walk) => {
                    let frame_len = next_response(from, head).await?;
                    let body_at = loop {
                        match response::body_at(from.bytes(), head) {
                            Ok(body_at) => break body_at,
                            Err(wrong) if from.bytes().len() >= frame_len => return Err(wrong),
                            Err(_) if from.more().await.map_err(broker)? => {}
                            Err(_) => return Err(Cause::BrokerClosed),
                        }
                    };
                    let mut by = Streamed::new(&self.terms.world, head.api.key);
                    let walked = Walked::new(FETCH_RESPONSE, head, &(body_at..frame_len));
                    let passed = Box::pin(self.pass_walked(from, &mut to, walked, &mut by)).await;
                    passed.map_err(|error| error.of(head, broker, Cause::ClientError))?;
                }
                Due::Client(ResponsePlan::Bare) => {
                    let frame_len = loop {
                        match response::bare_len(from.bytes())? {
                            Some(frame_len) => break frame_len,
                            None if from.more().await.map_err(broker)? => {}
                            None => return Err(Cause::BrokerClosed),
                        }
                    };
                    let message = from.whole(frame_len).await.map_err(broker)?;
                    send(&mut to, &message).await.map_err(Cause::ClientError)?;
                }
                Due::Client(ResponsePlan::Rewrite) => {
                    let frame_len = next_response(from, head).await?;
                    let frame = from.whole(frame_len).await.map_err(broker)?;
                    let (front, body) = frame.split_at(response::body_at(&frame, head)?);
                    let rewritten = self.for_client(head, body).await?;
                    write_frame(&mut to, &front[SIZE_LEN..], rewritten.as_deref().unwrap_or(body)).await.map_err(Cause::ClientError)?;
                }
                Due::Client(ResponsePlan::Heard(of)) => {
                    let frame_len = next_response(from, head).await?;
                    let frame = from.whole(frame_len).await.map_err(broker)?;
                    let (front, body) = frame.split_at(response::body_at(&frame, head)?);
                    let rewritten = Box::pin(self.told(head, &of, body)).await?;
                    write_frame(&mut to, &front[SIZE_LEN..], rewritten.as_deref().unwrap_or(body)).await.map_err(Cause::ClientError)?;
                }
            }
            if let Some(entered) = entered {
                entered.ended();
            }
            self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Rewrites the body of a request. `None`: it goes on as it is.
    async fn for_broker(&self, head: RequestHead, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let mut by = ToBroker::new(&self.terms.world, head.api.key);
        let rewritten = head.rewrite(head.api.request, body, &mut by)?;
        let Some(topic_id) = by.unknown_topic else { return Ok(rewritten) };
        self.list_topics(head, topic_id).await?;
        // What the cluster still does not have is a topic that was deleted: so it is for the broker, which knows no topic by the virtual id. To
        // hold a member's heartbeat back would cost it all of its partitions.
        head.rewrite(head.api.request, body, &mut ToBroker::new(&self.terms.world, head.api.key))
    }

    /// Rewrites the body of a response. `None`: it goes on as it is.
    async fn for_client(&self, head: RequestHead, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let api = head.api.key;
        let mut by = ToClient::new(&self.terms.world, api);
        match api {
            ApiKey::ListGroups => return self.living_groups(head, body),
            ApiKey::EndTxn => return self.ended(head, body),
            ApiKey::ConsumerGroupHeartbeat if self.terms.view.is_some() => {
                if let Some(unknown) = unknown_there(body) {
                    return Ok(Some(unknown));
                }
            }
            _ => {}
        }
        let rewritten = head.rewrite(head.api.response, body, &mut by)?;
        if let Some((why, topic)) = by.partitions.take_refused() {
            if let Some(seat) = self.terms.view.as_ref().filter(|_| why == Refused::Transaction) {
                seat.refused.store(true, Ordering::Relaxed);
            }
            self.tell_refused(why, &format!("topic {topic}"));
        }
        let Some(topic_id) = asks_for(head, Found::of(&by), false)? else { return Ok(rewritten) };
        self.list_topics(head, topic_id).await?;
        let mut by = ToClient::new(&self.terms.world, api);
        let rewritten = head.rewrite(head.api.response, body, &mut by)?;
        asks_for(head, Found::of(&by), true)?;
        Ok(rewritten)
    }

    /// Nobody has told yet what the topic of this id is. An error ends the connection, and that is what clients are ready for: the Java client and
    /// librdkafka look for the coordinator again and send a heartbeat with everything in it, to which the broker answers with the whole
    /// assignment. After an error code that says "try again" librdkafka repeats the heartbeat that it sent, and an assignment that was taken out
    /// of an answer would never come again.
    async fn list_topics(&self, head: RequestHead, topic_id: Uuid) -> Result<(), Cause> {
        let World { cluster, brokers, identity, .. } = &self.terms.world;
        let unknown = |error| Cause::UnknownTopicId { api_key: head.api.key, topic_id, error: Some(error) };
        // Boxed, here and at a login: what a connection does once in a while costs it nothing while it idles.
        Box::pin(brokers.topic_ids.list(cluster, identity)).await.map_err(unknown)
    }

    fn sees(&self) -> Sees {
        self.terms.view.as_ref().map_or(Sees::Cluster, |seat| Sees::View { at_home: seat.view.is_home(&self.terms.world.cluster.name) })
    }

    /// Has the view answer a request, beside what the broker is asked meanwhile.
    fn ask_view(&self, head: RequestHead, body: Vec<u8>) -> oneshot::Receiver<Result<Vec<u8>, Cause>> {
        let Seat { view, door, from, holds, .. } = self.terms.view.as_ref().expect("only who sees a view asks one");
        let (view, door, holds, (answer, answered)) = (view.clone(), door.clone(), holds.clone(), oneshot::channel());
        let tells_leaders = (head.api.key == ApiKey::Metadata).then(|| (from.clone(), holds.changes()));
        tokio::spawn(async move {
            if let Some((from, changes)) = tells_leaders {
                from.caught_up(changes).await;
            }
            let body = view.answer(head, &body, &door, &holds).await;
            // A client that is gone needs none.
            let _ = answer.send(body.map(|body| head.answer(&body)));
        });
        answered
    }

    /// The body of the answer to a request about groups of which one lives elsewhere.
    fn refused(&self, head: RequestHead, body: &[u8], groups: &[String]) -> Result<Option<Vec<u8>>, Cause> {
        let Some(seat) = &self.terms.view else { return Ok(None) };
        if head.api.key == ApiKey::EndTxn {
            let request: EndTxnRequest = head.decode(&[], body)?;
            seat.aborts.store(seat.refused.load(Ordering::Relaxed) && !request.committed, Ordering::Relaxed);
            return Ok(None);
        }
        if matches!(head.api.key, ApiKey::JoinGroup | ApiKey::ConsumerGroupHeartbeat) {
            for group in groups {
                seat.seen.joined(group);
            }
        }
        let refused = refusal(&seat.view.leaders().load(), &self.terms.world.cluster.name, groups, head, body)?;
        if refused.is_some() && head.api.key == ApiKey::AddOffsetsToTxn {
            self.tell_refused(Refused::Transaction, "group");
        }
        Ok(refused)
    }

    /// Tells the log once for each connection: a client that does not understand tries again and again.
    fn tell_refused(&self, why: Refused, what: &str) {
        let Some(seat) = self.terms.view.as_ref().filter(|seat| !seat.told.swap(true, Ordering::Relaxed)) else { return };
        let (client_id, cluster) = (&*seat.from.client_id, &*self.terms.world.cluster.name);
        match why {
            Refused::Transaction => tell!(messages::NOT_IN_TRANSACTION, client_id, cluster, what),
            Refused::Copy => tell!(messages::COPY_NOT_WRITTEN, client_id, cluster, what),
        }
    }

    /// What a client gets that has ended a transaction. One that never began, because its topics were refused, is aborted by that: librdkafka takes the
    /// coordinator's INVALID_TXN_STATE for fatal (`rd_kafka_txn_handle_EndTxn`).
    fn ended(&self, head: RequestHead, mut body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let Some(seat) = self.terms.view.as_ref().filter(|seat| seat.aborts.swap(false, Ordering::Relaxed)) else { return Ok(None) };
        let answer = EndTxnResponse::decode(&mut body, head.version).map_err(|_| Cause::WrongResponse(head.api.key))?;
        // After any other error, such as that the transaction before is still being written, the client tries again.
        if matches!(answer.error_code, 0 | INVALID_TXN_STATE) {
            seat.refused.store(false, Ordering::Relaxed);
        }
        if answer.error_code == INVALID_TXN_STATE { head.encode(&answer.with_error_code(0)).map(Some) } else { Ok(None) }
    }

    fn living_groups(&self, head: RequestHead, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let Some(seat) = &self.terms.view else { return Ok(None) };
        keep_living(&seat.view.leaders().load(), &self.terms.world.cluster.name, head, body).map(Some)
    }

    /// Passes a frame on as it streams, with what is changed in place along a walk over its body.
    async fn pass_walked(&self, from: &mut Source<'_>, to: &mut Writer, walked: Walked, along: &mut impl Along) -> Result<(), WalkError> {
        let Walked { mut walk, mut at } = walked;
        loop {
            if at > from.bytes().len() {
                self.pass(from, to, at).await?;
                at = 0;
            }
            match walk.step(&from.bytes()[at..], along).map_err(WalkError::Body)? {
                Step::Replace { len, with } => {
                    debug_assert_eq!(len, with.len(), "the frame's size has gone already");
                    from.change(at, with);
                    at += len;
                }
                Step::Pass(len) => at += len,
                Step::Records(len) => {
                    along.records(from, at, len).await?;
                    at += len;
                }
                Step::Need(len) => {
                    let stays = at.min(INDEX);
                    self.pass(from, to, at - stays).await?;
                    at = stays;
                    from.at_least(at + len).await.map_err(MoveError::Reading)?;
                }
                Step::End => return Ok(self.pass(from, to, at).await?),
            }
        }
    }

    /// Passes a frame on, of which the beginning has arrived.
    async fn pass(&self, from: &mut Source<'_>, to: &mut Writer, frame_len: usize) -> Result<(), MoveError> {
        let arrived = from.start..from.start + from.bytes().len().min(frame_len);
        let rest = frame_len - arrived.len();
        (from.start, from.left) = (arrived.end, rest);
        if !arrived.is_empty() {
            let arrived = &from.buf[arrived];
            match &mut *to {
                Writer::Tcp(to) if rest > 0 => splice::send_ahead(to.as_ref(), arrived).await,
                to => send(to, arrived).await,
            }
            .map_err(MoveError::Writing)?;
        }
        if rest > 0 {
            let (rest, count) = (rest as u64, from.count);
            // How much of it has gone when that fails nobody knows.
            from.left = usize::MAX;
            match (&mut from.from, to) {
                (Reader::Tcp(from), Writer::Tcp(to)) => {
                    splice::move_exactly(from.as_ref(), to.as_ref(), rest, &self.terms.pipes, count).await?;
                }
                (from, to) => self.terms.pipes.add_tls(splice::copy_exactly(from, to, rest, count).await?),
            }
            from.left = 0;
        }
        Ok(())
    }

    /// Returns when nothing has moved for too long.
    async fn quiet(&self) -> Cause {
        let mut quiet = Quiet::new(Instant::now());
        loop {
            let draining = self.terms.drain.is_cancelled();
            let patience = Patience::with(draining, self.terms.max_idle);
            tokio::select! {
                () = sleep_until(quiet.deadline(patience)) => {}
                () = self.terms.drain.cancelled(), if !draining => {}
            }
            if quiet.look(self.counters.activity(), patience, Instant::now()) {
                return patience.cause();
            }
        }
    }
}

/// A frame of which the beginning is walked.
struct Walked {
    walk: Walk,
    /// So many bytes of what has arrived, and of what is to come, are to go on as they are now.
    at: usize,
}

impl Walked {
    /// Nothing of the body is.
    fn new(fields: &'static [Field], head: RequestHead, body: &Range<usize>) -> Self {
        Self { walk: Walk::new(fields, head.version, head.api.is_flexible(head.version), body.len()), at: body.start }
    }
}

/// Bytes of a partition's index, which is in front of its records and can still be changed when these are looked at.
const INDEX: usize = size_of::<i32>();

/// What is done along a walk over a frame that streams.
trait Along: Rewrite {
    /// Records with their length are next, from `at` on of what has arrived, and have perhaps not arrived. What is in front of them and not passed on is there:
    /// the partition's index at least.
    async fn records(&mut self, from: &mut Source<'_>, at: usize, len: usize) -> Result<(), WalkError>;
}

impl Along for Streamed {
    async fn records(&mut self, _: &mut Source<'_>, _: usize, _: usize) -> Result<(), WalkError> {
        Ok(())
    }
}

/// Why a frame that is walked was not passed on.
enum WalkError {
    /// It is no valid message.
    Body(RewriteError),
    /// A connection failed.
    Move(MoveError),
}

impl From<MoveError> for WalkError {
    fn from(error: MoveError) -> Self {
        Self::Move(error)
    }
}

impl WalkError {
    /// Whose fault it is.
    fn of(self, head: RequestHead, reading: fn(io::Error) -> Cause, writing: fn(io::Error) -> Cause) -> Cause {
        match self {
            Self::Body(error) => head.not_rewritten(error),
            Self::Move(error) => error.of(reading, writing),
        }
    }
}

/// The client's next message without a header, its size included. `None`: the client has closed the connection.
async fn bare_message(from: &mut Source<'_>) -> Result<Option<Vec<u8>>, Cause> {
    loop {
        match frame::size(from.bytes(), LARGEST_LOGIN) {
            Ok(Some(size)) => return from.whole(SIZE_LEN + size).await.map(Some).map_err(Cause::ClientError),
            Ok(None) => {}
            Err(FrameError::Size { size, .. }) => return Err(Cause::NotKafka(NotKafka::FrameSize(size))),
            Err(_) => unreachable!("a size that is there is right or wrong"),
        }
        if !from.more().await.map_err(Cause::ClientError)? {
            return Ok(None);
        }
    }
}

/// What the requests hand over to the responses. Nobody is woken for it: see [`FrameRelay::relay`].
async fn handed_over(queue: &mut mpsc::Receiver<InFlight>) -> Option<InFlight> {
    poll_fn(|_| match queue.try_recv() {
        Err(TryRecvError::Empty) => Poll::Pending,
        next => Poll::Ready(next.ok()),
    })
    .await
}

/// Waits for the beginning of the response that is due, and checks that it is the one to `request`. Returns the length of its frame.
async fn next_response(from: &mut Source<'_>, request: RequestHead) -> Result<usize, Cause> {
    loop {
        if let Some(frame_len) = response::frame_len(from.bytes(), request)? {
            return Ok(frame_len);
        }
        if !from.more().await.map_err(Cause::BrokerError)? {
            return Err(Cause::BrokerClosed);
        }
    }
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
