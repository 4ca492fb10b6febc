//! A fake broker, for what a real one won't do on command: odd versions, cut frames, slow answers, silence.
//!
//! ```no_run
//! use harness::fake::{FakeBroker, Step};
//! use std::time::Duration;
//!
//! let broker = FakeBroker::start()?;
//! broker.on_request(&[Step::Wait(Duration::from_secs(1)), Step::Answer]);
//! broker.on_request(&[Step::Cut(10), Step::Close]);
//! broker.on_request(&[]); // takes requests and never answers
//! # anyhow::Ok(())
//! ```
//!
//! Undisturbed it answers ApiVersions, Metadata and SaslHandshake, and closes the connection at anything else, as brokers do with what they
//! cannot read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, MetadataResponse, ResponseHeader, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use kferry_config::{ServerTls, TlsIdentity};
use kferry_wire::frame::{self, SIZE_LEN};
use kferry_wire::header::RequestHeader;
use kferry_wire::security::tls::server_config;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::pki::Identity;

/// `socket.request.max.bytes` of brokers: what announces more, such as a TLS handshake, is hung up on.
const MAX_REQUEST: usize = 100 << 20;
/// `UNSUPPORTED_SASL_MECHANISM`
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
/// `UNSUPPORTED_VERSION`
const UNSUPPORTED_VERSION: i16 = 35;

/// One thing that the broker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Answers the request, as a broker would.
    Answer,
    /// Sends only so many bytes of that answer.
    Cut(usize),
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends so many bytes that [`is_flood`] knows, as fast as they are taken.
    Flood(u64),
    /// Does nothing for a while; it doesn't read either.
    Wait(Duration),
    /// Closes the connection.
    Close,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// On which connection, counted from 0.
    pub connection: usize,
    /// Which API.
    pub api_key: i16,
    /// Which version of it.
    pub api_version: i16,
    /// What the answer carries.
    pub correlation_id: i32,
    /// `None` where it has none.
    pub client_id: Option<String>,
    /// The whole frame with its size.
    pub frame: Vec<u8>,
}

/// What the broker says when it answers.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The answer to ApiVersions; its list is sent in a v0 body with error 35 to whoever asks for a version above the listed one.
    pub api_versions: ApiVersionsResponse,
    /// Node ids and addresses in Metadata; the first is the controller. `None`: the fake broker itself, as node 1.
    pub brokers: Option<Vec<(i32, String, u16)>>,
    /// Topics in Metadata, whichever were asked for.
    pub topics: Arc<Vec<MetadataResponseTopic>>,
    /// What SaslHandshake allows.
    pub sasl_mechanisms: Vec<&'static str>,
}

impl Default for Answers {
    fn default() -> Self {
        let listed = [(ApiKey::Produce, 0, 12), (ApiKey::Metadata, 0, 13), (ApiKey::SaslHandshake, 0, 1), (ApiKey::ApiVersions, 0, 4)];
        let listed =
            listed.map(|(key, min, max)| ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max));
        Self {
            api_versions: ApiVersionsResponse::default().with_api_keys(listed.to_vec()),
            brokers: None,
            topics: Arc::default(),
            sasl_mechanisms: vec!["PLAIN"],
        }
    }
}

/// A running fake broker; it ends, and its connections with it, when it is dropped.
#[derive(Debug)]
pub struct FakeBroker {
    address: SocketAddr,
    state: Arc<State>,
    /// Only taken by `drop`.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    script: Mutex<Script>,
    seen: Mutex<Seen>,
    sent: AtomicU64,
}

#[derive(Debug)]
struct Script {
    answers: Answers,
    on_accept: Vec<Step>,
    on_request: Vec<Step>,
    closes_at: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: Vec<Connection>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Connection {
    /// What came on it; in clear if it is TLS.
    received: Vec<u8>,
    is_open: bool,
    /// The proxy came by itself, to ask which cluster this is.
    is_the_proxys: bool,
}

impl Seen {
    /// Those of clients. One that ended before it had said anything was a question of the proxy's own that was given up.
    fn clients(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|connection| !connection.is_the_proxys && (connection.is_open || !connection.received.is_empty()))
    }
}

impl Request {
    fn is_the_proxys(&self) -> bool {
        self.client_id.as_deref() == Some("kferry-proxy")
    }
}

impl FakeBroker {
    /// Starts one with a plaintext listener.
    pub fn start() -> Result<Self> {
        Self::listen(None)
    }

    /// Starts one with a TLS listener.
    pub fn start_tls(identity: &Identity) -> Result<Self> {
        let identity = TlsIdentity { certificate: identity.certificate_path.clone(), key: identity.key_path.clone() };
        Self::listen(Some(TlsAcceptor::from(server_config(&ServerTls { identity, client_auth: None })?)))
    }

    fn listen(tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the fake broker")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let script = Script { answers: Answers::default(), on_accept: Vec::new(), on_request: vec![Step::Answer], closes_at: None };
        let state = Arc::new(State { address, script: Mutex::new(script), seen: Mutex::default(), sent: AtomicU64::new(0) });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("fake-broker").enable_all().build()?;
        let accepting = state.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is not blocking");
            // Errors of accept are those of a connection that is gone already, or too many open files: the test sees that it isn't served.
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(accepting.clone(), socket, tls.clone()));
            }
        });
        Ok(Self { address, state, runtime: Some(runtime) })
    }

    /// For `bootstrap_servers`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it does with each request from now on, instead of `[Step::Answer]`.
    pub fn on_request(&self, steps: &[Step]) {
        self.state.script().on_request = steps.to_vec();
    }

    /// It closes a connection at a request with this `client.id`, from now on.
    pub fn closes_at(&self, client_id: &str) {
        self.state.script().closes_at = Some(client_id.to_owned());
    }

    /// What it does with each connection from now on, before it reads.
    pub fn on_accept(&self, steps: &[Step]) -> Result<()> {
        ensure!(!steps.iter().any(|step| matches!(step, Step::Answer | Step::Cut(_))), "there is no request yet to be answered: {steps:?}");
        self.state.script().on_accept = steps.to_vec();
        Ok(())
    }

    /// What it says from now on when it answers.
    pub fn answers(&self, answers: Answers) {
        self.state.script().answers = answers;
    }

    /// Clients' connections accepted so far, without those on which the proxy asks for itself.
    pub fn connections(&self) -> usize {
        self.state.seen().clients().count()
    }

    /// Clients' connections open now.
    pub fn open_connections(&self) -> usize {
        self.state.seen().clients().filter(|connection| connection.is_open).count()
    }

    /// The bytes that came on a client's connection, counted from 0.
    pub fn received(&self, connection: usize) -> Vec<u8> {
        self.state.seen().clients().nth(connection).map(|connection| connection.received.clone()).unwrap_or_default()
    }

    /// All requests of clients so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.seen().requests.iter().filter(|request| !request.is_the_proxys()).cloned().collect()
    }

    /// Bytes that its sockets have taken so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test may be async: waiting is not allowed there.
            runtime.shutdown_background();
        }
    }
}

impl State {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(state: Arc<State>, socket: tokio::net::TcpStream, tls: Option<TlsAcceptor>) {
    let connection = {
        let mut seen = state.seen();
        seen.connections.push(Connection { received: Vec::new(), is_open: true, is_the_proxys: false });
        seen.connections.len() - 1
    };
    // A connection that fails is one that has ended.
    let _ = match tls {
        None => converse(&state, connection, socket).await,
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => converse(&state, connection, stream).await,
            Err(error) => Err(error),
        },
    };
    state.seen().connections[connection].is_open = false;
}

async fn converse(state: &State, connection: usize, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let steps = state.script().on_accept.clone();
    if perform(state, &steps, None, &mut stream).await? == Then::Close {
        return Ok(());
    }
    let mut buf = BytesMut::new();
    loop {
        while let Some(request) = next_request(&mut buf, connection)? {
            {
                let mut seen = state.seen();
                seen.connections[connection].is_the_proxys |= request.is_the_proxys();
                seen.requests.push(request.clone());
            }
            let (steps, closes_at) = {
                let script = state.script();
                (script.on_request.clone(), script.closes_at.clone())
            };
            if closes_at.is_some() && closes_at == request.client_id {
                return Ok(());
            }
            if perform(state, &steps, Some(&request), &mut stream).await? == Then::Close {
                return Ok(());
            }
        }
        let before = buf.len();
        if stream.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
        state.seen().connections[connection].received.extend_from_slice(&buf[before..]);
    }
}

fn next_request(buf: &mut BytesMut, connection: usize) -> io::Result<Option<Request>> {
    let Some(size) = frame::size(buf, MAX_REQUEST).map_err(io::Error::other)? else { return Ok(None) };
    if buf.len() < SIZE_LEN + size {
        return Ok(None);
    }
    let frame = buf.split_to(SIZE_LEN + size);
    let header = RequestHeader::peek(&frame[SIZE_LEN..]).map_err(io::Error::other)?;
    Ok(Some(Request {
        connection,
        api_key: header.api_key,
        api_version: header.api_version,
        correlation_id: header.correlation_id,
        client_id: header.client_id.map(|_| header.client_id().into_owned()),
        frame: frame.to_vec(),
    }))
}

#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

async fn perform(state: &State, steps: &[Step], request: Option<&Request>, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<Then> {
    for step in steps {
        match step {
            Step::Answer | Step::Cut(_) => {
                let request = request.expect("on_accept has no step that answers");
                let Some(mut answer) = answer(state, request)? else { return Ok(Then::Close) };
                if let Step::Cut(at) = step {
                    answer.truncate(*at);
                }
                send(state, stream, &answer).await?;
            }
            Step::Send(bytes) => send(state, stream, bytes).await?,
            Step::Flood(count) => {
                let mut left = *count;
                while left > 0 {
                    let piece = FLOOD.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    send(state, stream, &FLOOD[..piece]).await?;
                    left -= piece as u64;
                }
            }
            Step::Wait(time) => tokio::time::sleep(*time).await,
            Step::Close => {
                stream.shutdown().await?;
                return Ok(Then::Close);
            }
        }
    }
    Ok(Then::GoOn)
}

async fn send(state: &State, stream: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = stream.write(bytes).await?;
        state.sent.fetch_add(n as u64, Ordering::Relaxed);
        bytes = &bytes[n..];
    }
    stream.flush().await
}

/// `None` for an API that the fake broker doesn't have.
fn answer(state: &State, request: &Request) -> io::Result<Option<Vec<u8>>> {
    let answers = state.script().answers.clone();
    let version = request.api_version;
    let answer = match ApiKey::try_from(request.api_key) {
        Ok(ApiKey::ApiVersions) => {
            let mut response = answers.api_versions;
            let listed = response.api_keys.iter().find(|api| api.api_key == request.api_key);
            if listed.is_some_and(|api| version <= api.max_version) {
                encode(request, &response, version)
            } else {
                response = ApiVersionsResponse::default().with_error_code(UNSUPPORTED_VERSION).with_api_keys(response.api_keys);
                encode(request, &response, 0)
            }
        }
        Ok(ApiKey::Metadata) => {
            let itself = || vec![(1, state.address.ip().to_string(), state.address.port())];
            let brokers = answers.brokers.unwrap_or_else(itself);
            let controller = brokers.first().map_or(-1, |broker| broker.0);
            let brokers = brokers.into_iter().map(|(id, host, port)| {
                MetadataResponseBroker::default().with_node_id(BrokerId(id)).with_host(StrBytes::from_string(host)).with_port(port.into())
            });
            let mut response = MetadataResponse::default().with_brokers(brokers.collect()).with_topics(answers.topics.to_vec());
            if version >= 1 {
                response.controller_id = BrokerId(controller);
            }
            if version >= 2 {
                response.cluster_id = Some(StrBytes::from_static_str("a-fake-cluster"));
            }
            encode(request, &response, version)
        }
        Ok(ApiKey::SaslHandshake) => {
            let mut body = &request.frame[SIZE_LEN..];
            let header = RequestHeader::peek(body).map_err(io::Error::other)?;
            body = &body[header.len..];
            let wanted = SaslHandshakeRequest::decode(&mut bytes::Bytes::copy_from_slice(body), version).map_err(io::Error::other)?;
            let known = answers.sasl_mechanisms.contains(&wanted.mechanism.as_str());
            let response = SaslHandshakeResponse::default()
                .with_error_code(if known { 0 } else { UNSUPPORTED_SASL_MECHANISM })
                .with_mechanisms(answers.sasl_mechanisms.into_iter().map(StrBytes::from_static_str).collect());
            encode(request, &response, version)
        }
        _ => return Ok(None),
    };
    answer.map(Some).map_err(io::Error::other)
}

fn encode<R: Encodable + HeaderVersion>(request: &Request, response: &R, version: i16) -> Result<Vec<u8>> {
    let mut frame = vec![0; SIZE_LEN];
    ResponseHeader::default().with_correlation_id(request.correlation_id).encode(&mut frame, R::header_version(version))?;
    response.encode(&mut frame, version)?;
    let size = (frame.len() - SIZE_LEN) as i32;
    frame[..SIZE_LEN].copy_from_slice(&size.to_be_bytes());
    Ok(frame)
}

/// What [`Step::Flood`] repeats. Its length is a prime, so that no buffer's size divides it and a buffer sent twice, or left out, shows.
static FLOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(1), next).map(|state| (state >> 24) as u8).take(1_048_573).collect()
});

/// Whether `bytes` are those of a [`Step::Flood`] from its byte `at` on.
pub fn is_flood(at: u64, bytes: &[u8]) -> bool {
    let mut at = (at % FLOOD.len() as u64) as usize;
    let mut bytes = bytes;
    while !bytes.is_empty() {
        let piece = bytes.len().min(FLOOD.len() - at);
        if bytes[..piece] != FLOOD[at..at + piece] {
            return false;
        }
        bytes = &bytes[piece..];
        at = 0;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{self, Raw};

    #[test]
    fn it_answers_as_told() {
        let broker = FakeBroker::start().unwrap();
        let mut client = Raw::connect(broker.port()).unwrap();
        client.send(&raw::api_versions(7, Some("c"))).unwrap();
        let answer = client.frame().unwrap();
        assert_eq!(ApiVersionsResponse::decode(&mut bytes::Bytes::from(answer).split_off(4), 3).unwrap(), Answers::default().api_versions);

        let mut answers = Answers { brokers: Some(vec![(5, "b".to_owned(), 9)]), ..Answers::default() };
        answers.api_versions.api_keys.retain(|api| api.api_key != ApiKey::ApiVersions as i16);
        answers.api_versions.unknown_tagged_fields.insert(99, bytes::Bytes::from_static(b"new"));
        broker.answers(answers);
        client.send(&raw::api_versions(8, Some("c"))).unwrap();
        let answer = client.frame().unwrap();
        let answer = ApiVersionsResponse::decode(&mut bytes::Bytes::from(answer).split_off(4), 0).unwrap();
        assert_eq!((answer.error_code, answer.api_keys.len()), (UNSUPPORTED_VERSION, 3));
        client.send(&raw::metadata(9, None)).unwrap();
        let answer = client.frame().unwrap();
        let answer = MetadataResponse::decode(&mut bytes::Bytes::from(answer).split_off(4), 1).unwrap();
        assert_eq!((answer.controller_id, answer.brokers[0].port), (BrokerId(5), 9));

        broker.on_request(&[Step::Cut(5), Step::Close]);
        client.send(&raw::metadata(10, None)).unwrap();
        assert_eq!(client.rest().unwrap().len(), 5);
        let ids: Vec<_> = broker.requests().iter().map(|request| request.correlation_id).collect();
        assert_eq!(ids, [7, 8, 9, 10]);
        assert!(broker.received(0).ends_with(&raw::metadata(10, None)));
    }

    #[test]
    fn a_flood_is_known_at_every_place() {
        let three = FLOOD.repeat(3);
        for (at, len) in [(0, 10), (1_048_570, 10), (5, 2_500_000), (65_536, 65_536)] {
            assert!(is_flood(at, &three[at as usize..][..len]));
            assert!(!is_flood(at + 1, &three[at as usize..][..len]));
        }
    }
}
