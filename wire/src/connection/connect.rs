//! From a host and a port to an authenticated connection: DNS, TCP, TLS, ApiVersions, SASL. One deadline for all of it.
//!
//! The login itself is in `login`.
//!
//! Most of what goes wrong here are two settings that do not agree, and the wire says so in odd ways. Each is a [`Refusal`] with its
//! likely cause.
//!
//! # References
//! - `org.apache.kafka.common.security.authenticator.SaslClientAuthenticator`; KIP-43 (SaslHandshake), KIP-152 (SaslAuthenticate)

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiVersionsRequest;
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{ConnectError, Refusal, Step, error_name};
use super::login::{LoggedIn, SaslExchange, Session};
use super::tcp;
use super::{ConnectOptions, Peer, api, body, correlation_id, encode};
use crate::files::FOR_CONNECTIONS;
use crate::frame::{FrameError, read_frame};
use crate::security::tls;
use crate::stream::Stream;
use crate::versions::Versions;
use kferry_config::{ClientTls, HostPort, Sasl, Security};

/// ApiVersions and SASL answers have a few kilobytes; nobody is trusted with more before the login.
const LOGIN_LIMIT: usize = 1024 * 1024;

/// With version 3, brokers since 2.4 say which features they support. Newer versions add nothing that is read here.
const API_VERSIONS: VersionRange = VersionRange { min: 0, max: 3 };

pub(super) async fn open(
    broker: &HostPort,
    security: &Security,
    tls: Option<Arc<ClientConfig>>,
    options: &ConnectOptions,
) -> Result<Opened<Stream>, ConnectError> {
    let attempt = Attempt { broker, security, options, deadline: Instant::now() + options.connect_timeout };
    attempt.run(tls).await.map_err(|refusal| ConnectError { broker: broker.clone(), refusal })
}

pub(super) struct Attempt<'a> {
    pub(super) broker: &'a HostPort,
    pub(super) security: &'a Security,
    pub(super) options: &'a ConnectOptions,
    pub(super) deadline: Instant,
}

impl Attempt<'_> {
    async fn run(&self, config: Option<Arc<ClientConfig>>) -> Result<Opened<Stream>, Refusal> {
        let stream = self.tcp().await?;
        match &self.security.tls {
            None => Ok(self.log_in(stream, "User:ANONYMOUS".to_owned()).await?.map(Stream::Tcp)),
            Some(tls) => {
                let files = tls.clone();
                let config = match config {
                    Some(config) => config,
                    // The system's authorities are hundreds of files.
                    None => FOR_CONNECTIONS.run(move || tls::client_config(&files)).await.unwrap_or_else(|source| Err(source.into()))?,
                };
                // Boxed: who connects in PLAINTEXT needs no memory for it.
                Ok(Box::pin(self.tls(stream, tls, config)).await?.map(|stream| Stream::Tls(Box::new(stream.into()))))
            }
        }
    }

    async fn tcp(&self) -> Result<TcpStream, Refusal> {
        let lookup = tokio::net::lookup_host((self.broker.host.as_str(), self.broker.port));
        let addresses: Vec<SocketAddr> = self.in_time(Step::Resolve, lookup).await?.map_err(Refusal::Resolve)?.collect();
        if addresses.is_empty() {
            return Err(Refusal::Resolve(std::io::Error::new(std::io::ErrorKind::NotFound, "it has no address")));
        }
        let stream = tcp::connect(&addresses, self.deadline).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => Refusal::Deadline { step: Step::Tcp, after: self.options.connect_timeout },
            _ => Refusal::Tcp(error),
        })?;
        stream.set_nodelay(true).map_err(Refusal::Tcp)?;
        Ok(stream)
    }

    pub(super) async fn tls<S>(&self, stream: S, tls: &ClientTls, config: Arc<ClientConfig>) -> Result<Opened<TlsStream<S>>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = tls::server_name(&self.broker.host)?;
        let asked = Arc::new(Asked { inner: config.client_auth_cert_resolver.clone(), asked: AtomicBool::new(false) });
        let mut config = Arc::unwrap_or_clone(config);
        config.client_auth_cert_resolver = asked.clone();
        let stream = match self.in_time(Step::Tls, TlsConnector::from(Arc::new(config)).connect(name, stream)).await? {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match tls_error(&error) {
                    Some(error) => Refusal::Tls(tls::explain(error, &self.broker.host, tls)),
                    None => Refusal::ClosedInTls { protocol: self.security.protocol() },
                });
            }
        };
        let principal = match &tls.identity {
            Some(identity) if asked.asked.load(Ordering::Relaxed) => format!("User:{}", tls::subject(identity)?),
            _ => "User:ANONYMOUS".to_owned(),
        };
        self.log_in(stream, principal).await
    }

    pub(super) async fn log_in<S>(&self, stream: S, principal: String) -> Result<Opened<S>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let client_id = StrBytes::from_string(self.options.client_id.clone());
        let mut login =
            Conversation { stream, buf: BytesMut::new(), attempt: self, client_id, next_correlation_id: 0, step: Step::ApiVersions };
        let versions = self.in_time(Step::ApiVersions, login.api_versions()).await??;
        let (principal, session) = match &self.security.sasl {
            None => (principal, None),
            Some(None) => return Err(Refusal::NoCredentials { release: versions.release() }),
            Some(Some(sasl)) => {
                login.step = Step::Sasl;
                let lifetime = self.in_time(Step::Sasl, login.sasl(&versions, sasl)).await??;
                let session = lifetime.map(|lifetime| Session::new(self.broker, self.security, &versions, self.options, lifetime));
                let user = match sasl {
                    Sasl::Password { username, .. } => username,
                    Sasl::OAuthBearer { .. } => "the token's",
                };
                (format!("User:{user}"), session)
            }
        };
        let peer = Peer { broker: self.broker.clone(), protocol: self.security.protocol(), principal, versions, session };
        Ok(Opened { stream: login.stream, buf: login.buf, peer })
    }

    async fn in_time<F: Future>(&self, step: Step, work: F) -> Result<F::Output, Refusal> {
        timeout_at(self.deadline, work).await.map_err(|_elapsed| Refusal::Deadline { step, after: self.options.connect_timeout })
    }
}

/// A stream on which the login is done.
pub(super) struct Opened<S> {
    pub(super) stream: S,
    /// Read and not yet looked at.
    pub(super) buf: BytesMut,
    pub(super) peer: Peer,
}

impl<S> Opened<S> {
    fn map<T>(self, f: impl FnOnce(S) -> T) -> Opened<T> {
        Opened { stream: f(self.stream), buf: self.buf, peer: self.peer }
    }
}

/// One request after the other, as long as nobody is logged in.
struct Conversation<'a, S> {
    stream: S,
    buf: BytesMut,
    attempt: &'a Attempt<'a>,
    client_id: StrBytes,
    next_correlation_id: i32,
    step: Step,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    async fn api_versions(&mut self) -> Result<Versions, Refusal> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("kferry"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let (mut error_code, mut versions) = self.ask_versions(&request, API_VERSIONS.max).await?;
        if error_code == ResponseError::UnsupportedVersion.code() {
            // Brokers before 2.4 leave the list empty here; version 0 is what everybody knows.
            let version = versions.highest(ApiVersionsRequest::KEY, API_VERSIONS).unwrap_or(0);
            (error_code, versions) = self.ask_versions(&request, version).await?;
        }
        match error_code {
            0 => Ok(versions),
            code => Err(Refusal::Answered { step: self.step, error: error_name(code) }),
        }
    }

    async fn ask_versions(&mut self, request: &ApiVersionsRequest, version: i16) -> Result<(i16, Versions), Refusal> {
        let body = self.ask(request, version).await?;
        Versions::read(&body, version).map_err(|_| Refusal::NotKafka { step: self.step })
    }

    /// Returns how long the login is good for, if that is limited.
    async fn sasl(&mut self, versions: &Versions, sasl: &Sasl) -> Result<Option<Duration>, Refusal> {
        let mut exchange = SaslExchange::start(self.attempt.broker, self.attempt.security, sasl, versions).await?;
        loop {
            let id = self.next_id();
            let answer = self.exchange(id, &exchange.request(id, &self.client_id)?).await?;
            if let Some(LoggedIn { session_lifetime }) = exchange.answered(&answer)? {
                return Ok(session_lifetime);
            }
        }
    }

    fn next_id(&mut self) -> i32 {
        self.next_correlation_id += 1;
        self.next_correlation_id - 1
    }

    /// Sends a request, and returns the body of its answer.
    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> Result<Bytes, Refusal> {
        let id = self.next_id();
        let frame = encode(request, version, id, &self.client_id)?;
        let answer = self.exchange(id, &frame).await?;
        body(api::<R>(), &answer, version).map_err(|_| Refusal::NotKafka { step: self.step })
    }

    /// Sends a request's frame, and returns the frame of its answer.
    async fn exchange(&mut self, id: i32, frame: &[u8]) -> Result<Bytes, Refusal> {
        let sent = async {
            self.stream.write_all(frame).await?;
            self.stream.flush().await
        };
        // A broker that has closed already fails the write, but what it said before that, and whether it did, says more.
        if let Err(error) = sent.await
            && tls_error(&error).is_some()
        {
            return Err(self.failed(FrameError::Io(error)));
        }
        let answer = read_frame(&mut self.stream, LOGIN_LIMIT, &mut self.buf).await.map_err(|error| self.failed(error))?;
        if correlation_id(&answer) == Some(id) { Ok(answer) } else { Err(Refusal::NotKafka { step: self.step }) }
    }

    fn failed(&self, error: FrameError) -> Refusal {
        let (step, protocol) = (self.step, self.attempt.security.protocol());
        match error {
            FrameError::Closed => Refusal::Closed { step, protocol },
            // An alert or a handshake of TLS, read as a size.
            FrameError::Size { size, .. } if matches!(size.to_be_bytes(), [0x15 | 0x16, 3, ..]) => Refusal::SpeaksTls { protocol },
            FrameError::Size { .. } => Refusal::NotKafka { step },
            FrameError::Io(error) => match (tls_error(&error), &self.attempt.security.tls) {
                (Some(error), Some(tls)) => Refusal::Tls(tls::explain(error, &self.attempt.broker.host, tls)),
                _ if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof) => {
                    Refusal::Closed { step, protocol }
                }
                _ => Refusal::Frame { step, source: FrameError::Io(error) },
            },
            source @ FrameError::Cut { .. } => Refusal::Frame { step, source },
        }
    }
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Notes whether the broker asked for our certificate: one that it did not ask for has authenticated nobody.
#[derive(Debug)]
struct Asked {
    inner: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, root_hint_subjects: &[&[u8]], sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.inner.resolve(root_hint_subjects, sigschemes);
        self.asked.store(key.is_some(), Ordering::Relaxed);
        key
    }

    fn only_raw_public_keys(&self) -> bool {
        self.inner.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}
