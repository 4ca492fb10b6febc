//! One authenticated connection to one broker.
//!
//! Requests are pipelined: each goes out as soon as it is asked for, and a broker answers in the order of the requests. So there is one
//! task a connection, which writes what callers queue and hands each answer to the oldest request in flight. Whatever goes wrong on the
//! socket *breaks* the connection: everything in flight and everything asked later fails with the same [`Broken`]. Nobody can know which
//! requests the broker has executed; to decide that is the caller's part, and so is to connect anew.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | requests and answers |
//! | `connect` | from a host and a port to an authenticated connection: DNS, TCP, TLS, ApiVersions, SASL |
//! | [`tcp`] | to whichever of a host's addresses accepts first |
//! | `error` | why a connection could not be made, and what to do |
//! | `pieces` | a request that is not in one piece of memory |
//! | `login` | SASL, request by request, also in the middle of a connection |
//!
//! # References
//! - <https://kafka.apache.org/protocol#protocol_network>
//! - `org.apache.kafka.clients.NetworkClient`: a request that times out closes its connection

mod connect;
mod error;
mod login;
mod pieces;
pub mod tcp;

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Request, StrBytes, VersionRange};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use crate::frame::{FrameError, SIZE_LEN, read_frame};
use crate::header::front;
use crate::reader::{Malformed, Reader};
use crate::stream::Stream;
use crate::versions::Versions;
pub use error::{ConnectError, Refusal, Step, TOO_MANY};
use kferry_config::{HostPort, Security};
pub use login::{LoggedIn, SaslExchange, Session};
pub(crate) use pieces::Pieces;

/// Requests that wait to be written. Those in flight are as many as there are callers.
const QUEUE: usize = 64;

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The `client_id` in every request: brokers log and meter by it.
    pub client_id: String,
    /// For all of it together: DNS, TCP, TLS, ApiVersions and SASL.
    pub connect_timeout: Duration,
    /// From a request until its answer has arrived. For a request that waits at the broker (Fetch, `JoinGroup`), longer than that.
    pub request_timeout: Duration,
    /// The largest answer, in bytes. A broker sends no larger ones than it was asked for, so this only stops nonsense.
    pub max_response_bytes: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            client_id: "kferry".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_response_bytes: 256 * 1024 * 1024,
        }
    }
}

/// A connection that is ready for requests. Dropping it closes it.
pub struct Connection {
    broker: HostPort,
    client_id: StrBytes,
    principal: String,
    versions: Versions,
    request_timeout: Duration,
    next_correlation_id: AtomicI32,
    queue: mpsc::Sender<Outgoing>,
    in_flight: Arc<InFlight>,
    throttle: Throttle,
    task: AbortHandle,
}

/// What a broker does because of a quota.
#[derive(Debug, Default)]
struct Throttle(Mutex<Throttled>);

#[derive(Debug, Default)]
struct Throttled {
    /// Until when the broker does not read.
    until: Option<Instant>,
    /// How long it did not, or will not, since somebody asked.
    time: Duration,
}

impl Throttle {
    fn begin(&self, time: Duration) {
        let mut throttled = self.lock();
        throttled.until = throttled.until.max(Some(Instant::now() + time));
        throttled.time += time;
    }

    fn until(&self) -> Option<Instant> {
        self.lock().until
    }

    fn take(&self) -> Duration {
        std::mem::take(&mut self.lock().time)
    }

    fn lock(&self) -> MutexGuard<'_, Throttled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `throttle_time_ms` of an answer to one of the two requests that carry records, if there is one: the first field of Fetch, the last of Produce.
fn throttle_time(api: ApiKey, version: i16, body: &[u8]) -> Option<Duration> {
    let bytes = match api {
        ApiKey::Fetch if version >= 1 => body.first_chunk(),
        // No tagged field is behind it.
        ApiKey::Produce if version >= 9 => body.strip_suffix(&[0]).and_then(<[u8]>::last_chunk),
        ApiKey::Produce if version >= 1 => body.last_chunk(),
        _ => None,
    };
    let time = u64::try_from(i32::from_be_bytes(*bytes?)).ok().filter(|time| *time > 0)?;
    Some(Duration::from_millis(time))
}

/// A request that has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// Broker and kferry have no version of the API in common.
    #[error("{broker} knows {api:?} {theirs}, kferry {ours}: {advice}", theirs = known(*theirs), ours = known(Some(*ours)))]
    Version {
        /// Which broker.
        broker: HostPort,
        /// Which API.
        api: ApiKey,
        /// The broker's versions, `None` if it does not know the API.
        theirs: Option<VersionRange>,
        /// Ours.
        ours: VersionRange,
        /// Which of the two is too old.
        advice: &'static str,
    },
    /// The request cannot be written in this version: kferry's own fault.
    #[error("{api:?} v{version} cannot be written: {reason}; this is a bug in kferry")]
    Encode {
        /// Which API.
        api: ApiKey,
        /// Which version.
        version: i16,
        /// Why.
        reason: String,
    },
    /// The answer cannot be read. The connection goes on: the frame was whole.
    #[error("{broker} answered {api:?} v{version} with something that cannot be read: {reason}")]
    Decode {
        /// Which broker.
        broker: HostPort,
        /// Which API.
        api: ApiKey,
        /// Which version.
        version: i16,
        /// Why.
        reason: String,
    },
    /// The connection is broken. The broker may have executed the request or not.
    #[error("{broker}: {broken}")]
    Broken {
        /// Which broker.
        broker: HostPort,
        /// Why.
        broken: Arc<Broken>,
    },
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Without a login, the broker ended it before it had answered a request: listeners with SASL answer ApiVersions to anybody, and nothing else.
    #[error(
        "closed the connection on the first request, as listeners with SASL do with clients that do not log in: \
         this connection used {protocol}; compare security_protocol with the broker's listener"
    )]
    ClosedAtOnce {
        /// `security_protocol`
        protocol: &'static str,
    },
    /// The broker closed it after a login or between two answers: it idled, or the broker stopped.
    #[error("the broker closed the connection")]
    Closed,
    /// The socket failed, or what came is no Kafka frame.
    #[error("the connection failed: {0}")]
    Frame(#[source] FrameError),
    /// Writing failed.
    #[error("cannot send to the broker: {0}")]
    Write(#[source] std::io::Error),
    /// A request got no answer in time, and all later ones wait behind it.
    #[error("no answer to {api:?} within {after:?}; the broker hangs, or is too busy")]
    Deadline {
        /// Which API.
        api: ApiKey,
        /// The time it was given.
        after: Duration,
    },
    /// An answer to something that was not asked, or out of order.
    #[error(
        "answered out of order: correlation_id {got} instead of {expected:?}; this is no Kafka broker, or a proxy in between is broken"
    )]
    Order {
        /// What came.
        got: i32,
        /// The oldest request in flight, if there is one.
        expected: Option<i32>,
    },
}

/// Versions of an API in messages.
fn known(versions: Option<VersionRange>) -> String {
    versions.map_or_else(|| "in no version".to_owned(), |VersionRange { min, max }| format!("v{min} to v{max}"))
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`ConnectError`] says at which step it failed and what to do.
    pub async fn connect(broker: &HostPort, security: &Security, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let opened = connect::open(broker, security, None, options).await?;
        Ok(Self::start(opened.stream, opened.buf, opened.peer, options))
    }

    /// Connects and logs in as [`Connection::connect`] does, and hands the bare stream over, with what the broker knows: for whoever speaks on it in
    /// another's name. `tls` saves reading the PEM files again.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn open(
        broker: &HostPort,
        security: &Security,
        tls: Option<Arc<ClientConfig>>,
        options: &ConnectOptions,
    ) -> Result<Bare, ConnectError> {
        let opened = connect::open(broker, security, tls, options).await?;
        // A broker says nothing unasked, and it has answered all that it was asked.
        debug_assert!(opened.buf.is_empty());
        let Peer { versions, session, .. } = opened.peer;
        Ok(Bare { stream: opened.stream, versions, session })
    }

    /// As whom the broker knows us, as far as Kafka lets one know: `User:<sasl_username>`, the subject of our certificate if the broker
    /// asked for it, or `User:ANONYMOUS`. A broker with principal mapping rules or a builder of its own may make something else of it.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The broker's answer to ApiVersions, taken when the connection was made.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// The highest version of a request that the broker knows and that is among `ours`: `R::VERSIONS` is what [`Self::request`] can write and
    /// read, a reader of one's own may know fewer.
    ///
    /// # Errors
    /// [`RequestError::Version`]
    pub fn version_for<R: Request>(&self, ours: VersionRange) -> Result<i16, RequestError> {
        version_for::<R>(&self.versions, ours, &self.broker)
    }

    /// Sends a request, waits for its answer, and returns what `read` makes of the answer's body. Many may be in flight: they are sent in the
    /// order of the calls. Dropping the future does not take the request back.
    ///
    /// Nothing in the answer is believed up to here: memory grew with the bytes that arrived, up to
    /// [`ConnectOptions::max_response_bytes`]. From here on it is `read`'s part. It need not read to the end: what is behind the fields that
    /// it wants is left alone, as Kafka's own client does.
    ///
    /// # Errors
    /// [`RequestError`]; where `read` fails, [`RequestError::Decode`]. The broker's own errors are in the answer.
    pub async fn ask<R: Request, T, E: fmt::Display>(
        &self,
        request: &R,
        version: i16,
        read: impl FnOnce(Bytes) -> Result<T, E>,
    ) -> Result<T, RequestError> {
        self.ask_in_pieces::<R, T, E>(written(request, version)?, version, read).await
    }

    /// [`Self::ask`], with a body that is written already: so that large pieces of it go from where they are to the socket.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn ask_in_pieces<R: Request, T, E: fmt::Display>(
        &self,
        body: Pieces,
        version: i16,
        read: impl FnOnce(Bytes) -> Result<T, E>,
    ) -> Result<T, RequestError> {
        let body = self.exchange(api::<R>(), body, version).await?;
        read(body).map_err(|error| self.unreadable(api::<R>(), version, &error))
    }

    /// Sends a request whose body is written already, and returns the body of its answer: for whoever passes on what others ask.
    ///
    /// # Errors
    /// [`RequestError`]. The broker's own errors are in the answer.
    pub async fn relay(&self, api: ApiKey, version: i16, body: Vec<u8>) -> Result<Bytes, RequestError> {
        self.exchange(api, Bytes::from(body).into(), version).await
    }

    fn unreadable(&self, api: ApiKey, version: i16, error: &impl fmt::Display) -> RequestError {
        RequestError::Decode { broker: self.broker.clone(), api, version, reason: error.to_string() }
    }

    async fn exchange(&self, api: ApiKey, body: Pieces, version: i16) -> Result<Bytes, RequestError> {
        let correlation_id = self.next_correlation_id.fetch_add(1, Ordering::Relaxed);
        let frame = framed(api, body, version, correlation_id, &self.client_id)?;
        let answered = async {
            let (answer, answered) = oneshot::channel();
            self.queue.send(Outgoing { frame, correlation_id, answer }).await.ok()?;
            answered.await.ok()
        };
        match self.in_time(answered).await {
            Ok(Some(frame)) => {
                let body = self::body(api, &frame, version).map_err(|error| self.unreadable(api, version, &error))?;
                if let Some(time) = throttle_time(api, version, &body) {
                    self.throttle.begin(time);
                }
                Ok(body)
            }
            Ok(None) => Err(self.broken()),
            Err(_elapsed) => {
                // Answers come in order: behind one that does not come, nothing else will.
                self.in_flight.fail(Broken::Deadline { api, after: self.request_timeout });
                self.task.abort();
                Err(self.broken())
            }
        }
    }

    /// Waits for an answer. A broker that throttles this connection does not read from it (KIP-219), so the time of a request begins when that is over.
    async fn in_time<T>(&self, answered: impl Future<Output = T>) -> Result<T, Elapsed> {
        let (began, mut answered) = (Instant::now(), pin!(answered));
        loop {
            let deadline = self.throttle.until().map_or(began, |until| until.max(began)) + self.request_timeout;
            match timeout_at(deadline, &mut answered).await {
                // It was told meanwhile, in the answer to an earlier request.
                Err(_) if self.throttle.until().is_some_and(|until| until + self.request_timeout > deadline) => {}
                ended => return ended,
            }
        }
    }

    /// Since when the oldest request without an answer waits for it.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.in_flight.lock().waiting.front().map(|oldest| oldest.since)
    }

    /// How long the broker has throttled this connection by a quota so far, since this was asked last.
    pub fn take_throttled(&self) -> Duration {
        self.throttle.take()
    }

    /// [`Self::ask`], with kafka-protocol to decode the answer.
    ///
    /// This trusts the broker not to lie about its counts, with the life of the process: the decoder reserves memory for as many elements as
    /// an array announces, and an allocation that fails aborts. Ten bytes are enough for that, and `max_response_bytes` does not help. An
    /// answer that breaks off or makes no sense otherwise is an error. Whoever asks a broker that may be anything at all reads the answer with
    /// [`Self::ask`].
    ///
    /// # Errors
    /// [`RequestError`]. The broker's own errors are in the answer.
    pub async fn request<R: Request>(&self, request: &R, version: i16) -> Result<R::Response, RequestError> {
        self.ask(request, version, |mut body| R::Response::decode(&mut body, version)).await
    }

    /// Why the connection is broken, or `None` while it works.
    pub fn is_broken(&self) -> Option<Arc<Broken>> {
        self.in_flight.lock().broken.clone()
    }

    fn broken(&self) -> RequestError {
        let broken = self.is_broken().unwrap_or_else(|| Arc::new(Broken::Closed));
        RequestError::Broken { broker: self.broker.clone(), broken }
    }

    /// Starts the task of a connection that is logged in. `buf` is what has been read beyond the login.
    fn start<S>(stream: S, buf: BytesMut, peer: Peer, options: &ConnectOptions) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (queue, queued) = mpsc::channel(QUEUE);
        let in_flight = Arc::new(InFlight::default());
        let run = run(stream, buf, queued, in_flight.clone(), peer.protocol, options.max_response_bytes);
        Self {
            broker: peer.broker,
            client_id: StrBytes::from_string(options.client_id.clone()),
            principal: peer.principal,
            versions: peer.versions,
            request_timeout: options.request_timeout,
            next_correlation_id: AtomicI32::new(0),
            queue,
            in_flight,
            throttle: Throttle::default(),
            task: tokio::spawn(run).abort_handle(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("broker", &self.broker).field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// A connection without the task that serves it: what [`Connection::open`] makes.
#[derive(Debug)]
pub struct Bare {
    /// After its login.
    pub stream: Stream,
    /// The broker's answer to ApiVersions.
    pub versions: Versions,
    /// There if the login must be done again some time.
    pub session: Option<Session>,
}

/// Who is at the other end, once that is known.
struct Peer {
    broker: HostPort,
    protocol: &'static str,
    principal: String,
    versions: Versions,
    session: Option<Session>,
}

struct Outgoing {
    frame: Pieces,
    correlation_id: i32,
    answer: oneshot::Sender<Bytes>,
}

/// A request that has been sent and not answered.
struct Waiting {
    correlation_id: i32,
    answer: oneshot::Sender<Bytes>,
    since: Instant,
}

/// What has been sent and not answered, oldest first.
#[derive(Default)]
struct InFlight(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    broken: Option<Arc<Broken>>,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks the connection for everybody who waits. The first reason stays: what follows from it says less.
    fn fail(&self, broken: Broken) {
        let mut state = self.lock();
        state.broken.get_or_insert_with(|| Arc::new(broken));
        state.waiting.clear();
    }
}

/// The life of a connection: both directions, until one of them fails.
async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    buf: BytesMut,
    queued: mpsc::Receiver<Outgoing>,
    in_flight: Arc<InFlight>,
    protocol: &'static str,
    limit: usize,
) {
    let (reader, writer) = tokio::io::split(stream);
    let broken = tokio::select! {
        broken = receive(reader, buf, &in_flight, protocol, limit) => broken,
        Err(error) = send(writer, queued, &in_flight) => Broken::Write(error),
    };
    in_flight.fail(broken);
}

async fn send<W: AsyncWrite + Unpin>(mut writer: W, mut queued: mpsc::Receiver<Outgoing>, in_flight: &InFlight) -> std::io::Result<()> {
    while let Some(Outgoing { mut frame, correlation_id, answer }) = queued.recv().await {
        if answer.is_closed() {
            continue;
        }
        in_flight.lock().waiting.push_back(Waiting { correlation_id, answer, since: Instant::now() });
        writer.write_all_buf(&mut frame).await?;
        writer.flush().await?;
    }
    Ok(())
}

async fn receive<R: AsyncRead + Unpin>(
    mut reader: R,
    mut buf: BytesMut,
    in_flight: &InFlight,
    protocol: &'static str,
    limit: usize,
) -> Broken {
    // A login is an answer too.
    let mut answered = protocol.starts_with("SASL");
    loop {
        let frame = match read_frame(&mut reader, limit, &mut buf).await {
            Ok(frame) => frame,
            Err(FrameError::Closed) if !answered && !in_flight.lock().waiting.is_empty() => return Broken::ClosedAtOnce { protocol },
            Err(FrameError::Closed) => return Broken::Closed,
            Err(error) => return Broken::Frame(error),
        };
        let Some(got) = correlation_id(&frame) else { return Broken::Frame(FrameError::Cut { got: frame.len(), size: SIZE_LEN }) };
        match in_flight.lock().waiting.pop_front() {
            // A caller that went away is no reason to stop.
            Some(Waiting { correlation_id, answer, .. }) if correlation_id == got => drop(answer.send(frame)),
            oldest => return Broken::Order { got, expected: oldest.map(|oldest| oldest.correlation_id) },
        }
        answered = true;
    }
}

fn version_for<R: Request>(versions: &Versions, ours: VersionRange, broker: &HostPort) -> Result<i16, RequestError> {
    versions.highest(R::KEY, ours).ok_or_else(|| {
        let theirs = versions.range(R::KEY);
        RequestError::Version {
            broker: broker.clone(),
            api: api::<R>(),
            theirs,
            ours,
            advice: match theirs {
                Some(theirs) if theirs.min > ours.max => "kferry is too old for this broker",
                _ => "the broker is too old for this, or does not offer it on this listener",
            },
        }
    })
}

fn api<R: Request>() -> ApiKey {
    ApiKey::try_from(R::KEY).expect("each request is of an API that the crate knows")
}

/// A whole frame in one piece.
fn encode<R: Request>(request: &R, version: i16, correlation_id: i32, client_id: &StrBytes) -> Result<Bytes, RequestError> {
    let mut frame = framed(api::<R>(), written(request, version)?, version, correlation_id, client_id)?;
    Ok(frame.copy_to_bytes(frame.remaining()))
}

/// A request's body.
fn written<R: Request>(request: &R, version: i16) -> Result<Pieces, RequestError> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).map_err(|error| unwritable(api::<R>(), version, error.to_string()))?;
    Ok(body.freeze().into())
}

/// A whole frame: its size, the header, and the body.
fn framed(api: ApiKey, mut body: Pieces, version: i16, correlation_id: i32, client_id: &StrBytes) -> Result<Pieces, RequestError> {
    let front = front(api, version, correlation_id, client_id, body.remaining()).map_err(|reason| unwritable(api, version, reason))?;
    body.prepend(front.freeze());
    Ok(body)
}

fn unwritable(api: ApiKey, version: i16, reason: String) -> RequestError {
    RequestError::Encode { api, version, reason }
}

/// What comes first in every answer.
fn correlation_id(frame: &[u8]) -> Option<i32> {
    frame.first_chunk().map(|id| i32::from_be_bytes(*id))
}

/// What is behind an answer's header.
fn body(api: ApiKey, frame: &Bytes, version: i16) -> Result<Bytes, Malformed> {
    let mut reader = Reader::new(frame);
    let _correlation_id = reader.i32()?;
    if api.response_header_version(version) > 0 {
        reader.skip_tagged_fields()?;
    }
    Ok(frame.slice_ref(reader.rest()))
}

#[cfg(test)]
mod tests;
