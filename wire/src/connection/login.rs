//! A SASL login, request by request: SaslHandshake, then SaslAuthenticate until both sides are satisfied.
//!
//! Without the socket, because it is done twice: when a connection is made, and again in the middle of it, where brokers limit how long a login is
//! good for (`connections.max.reauth.ms`, or the life of a token).
//!
//! # References
//! - KIP-43 (SaslHandshake), KIP-152 (SaslAuthenticate), KIP-368 (again)
//! - `org.apache.kafka.common.security.authenticator.SaslClientAuthenticator`, `org.apache.kafka.common.network.KafkaChannel`

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest};
use kafka_protocol::protocol::{Decodable, Message, StrBytes};
use tokio::time::Instant;

use super::error::{Refusal, Step, error_name};
use super::{ConnectError, ConnectOptions, body, encode, version_for};
use crate::files::FOR_CONNECTIONS;
use crate::reader::{Malformed, Reader};
use crate::security::sasl::{Login, SaslError};
use crate::versions::Versions;
use kferry_config::{HostPort, Sasl, Security};

/// Version 0 is followed by bare bytes without frames.
const SASL_HANDSHAKE_VERSION: i16 = 1;

/// Brokers take no new login sooner than this after the last one (`KafkaChannel.MIN_REAUTH_INTERVAL_ONE_SECOND_NANOS`).
const SOONEST: Duration = Duration::from_millis(1100);

/// A login under way. Ask [`request`](Self::request), send it, give its answer to [`answered`](Self::answered), until that returns something.
pub struct SaslExchange {
    sasl: Sasl,
    login: Login,
    next: Next,
    authenticate_version: i16,
    /// `security_protocol`, and less SASL.
    protocol: (&'static str, &'static str),
}

enum Next {
    /// With the first message of what comes after it.
    Handshake(Vec<u8>),
    Authenticate(Vec<u8>),
}

/// The broker has let us in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedIn {
    /// For how long, if that is limited.
    pub session_lifetime: Option<Duration>,
}

impl SaslExchange {
    /// Reads the password or the token, as it is now.
    ///
    /// # Errors
    /// [`Refusal`]: nothing that could be sent, or the broker has no version of SaslAuthenticate.
    pub async fn start(broker: &HostPort, security: &Security, sasl: &Sasl, versions: &Versions) -> Result<Self, Refusal> {
        let of = sasl.clone();
        let started = FOR_CONNECTIONS.run(move || Login::start(&of)).await.unwrap_or_else(|source| Err(source.into()));
        let (login, first) = started.map_err(|source| Refusal::Sasl { who: sasl.who(), source })?;
        let authenticate_version = version_for::<SaslAuthenticateRequest>(versions, SaslAuthenticateRequest::VERSIONS, broker)?;
        let without = if security.tls.is_some() { "SSL" } else { "PLAINTEXT" };
        let protocol = (security.protocol(), without);
        Ok(Self { sasl: sasl.clone(), login, next: Next::Handshake(first), authenticate_version, protocol })
    }

    /// The frame of the next request, with its size.
    ///
    /// # Errors
    /// [`Refusal::Request`]: it cannot be written.
    pub fn request(&self, correlation_id: i32, client_id: &StrBytes) -> Result<Bytes, Refusal> {
        let frame = match &self.next {
            Next::Handshake(_) => {
                let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(self.sasl.mechanism()));
                encode(&request, SASL_HANDSHAKE_VERSION, correlation_id, client_id)?
            }
            Next::Authenticate(message) => {
                let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::copy_from_slice(message));
                encode(&request, self.authenticate_version, correlation_id, client_id)?
            }
        };
        Ok(frame)
    }

    /// Takes the frame of an answer, without its size. `None`: there is another request.
    ///
    /// # Errors
    /// [`Refusal`]: the login is over.
    pub fn answered(&mut self, frame: &Bytes) -> Result<Option<LoggedIn>, Refusal> {
        const NOT_KAFKA: Refusal = Refusal::NotKafka { step: Step::Sasl };
        match &mut self.next {
            Next::Handshake(first) => {
                let body = body(ApiKey::SaslHandshake, frame, SASL_HANDSHAKE_VERSION).map_err(|_| NOT_KAFKA)?;
                let answer = Mechanisms::read(&body).map_err(|_| NOT_KAFKA)?;
                let (protocol, without) = self.protocol;
                match ResponseError::try_from_code(answer.error_code) {
                    None => {}
                    Some(ResponseError::UnsupportedSaslMechanism) => {
                        return Err(Refusal::Mechanism { wanted: self.sasl.mechanism(), enabled: answer.enabled() });
                    }
                    Some(ResponseError::IllegalSaslState) => return Err(Refusal::NoSasl { without, protocol }),
                    Some(_) => return Err(Refusal::Answered { step: Step::Sasl, error: error_name(answer.error_code) }),
                }
                self.next = Next::Authenticate(std::mem::take(first));
                Ok(None)
            }
            Next::Authenticate(_) => {
                let version = self.authenticate_version;
                let mut body = body(ApiKey::SaslAuthenticate, frame, version).map_err(|_| NOT_KAFKA)?;
                // No array in it: nothing that a length could blow up.
                let answer = SaslAuthenticateResponse::decode(&mut body, version).map_err(|_| NOT_KAFKA)?;
                if answer.error_code != 0 {
                    return Err(self.refused(&answer));
                }
                let failed = |source: SaslError| Refusal::Sasl { who: self.sasl.who(), source };
                if let Some(message) = self.login.answer(&answer.auth_bytes).map_err(failed)? {
                    self.next = Next::Authenticate(message);
                    return Ok(None);
                }
                let lifetime = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                Ok(Some(LoggedIn { session_lifetime: lifetime.map(Duration::from_millis) }))
            }
        }
    }

    fn refused(&self, answer: &SaslAuthenticateResponse) -> Refusal {
        let message = answer.error_message.as_ref().filter(|text| !text.is_empty());
        let mut message = message.map_or_else(|| error_name(answer.error_code), ToString::to_string);
        if let Some(challenge) = self.login.refused().filter(|challenge| !message.contains(challenge)) {
            message = format!("{message} {challenge}");
        }
        let check = match self.sasl {
            Sasl::Password { .. } => "sasl_username and sasl_password",
            Sasl::OAuthBearer { .. } => "that sasl_oauthbearer_token_file has a token for this cluster that has not expired",
        };
        Refusal::Login { who: self.sasl.who(), mechanism: self.sasl.mechanism(), message, check }
    }
}

/// A login that is good for a time only, and how to do it again on the same connection. Brokers close a connection that is used after its time for
/// anything but a new login; while it is not used nothing need be done.
#[derive(Debug, Clone)]
pub struct Session {
    broker: HostPort,
    security: Security,
    versions: Versions,
    client_id: StrBytes,
    due: Instant,
}

impl Session {
    pub(super) fn new(broker: &HostPort, security: &Security, versions: &Versions, options: &ConnectOptions, lifetime: Duration) -> Self {
        let client_id = StrBytes::from_string(options.client_id.clone());
        Self { broker: broker.clone(), security: security.clone(), versions: versions.clone(), client_id, due: due(lifetime) }
    }

    /// Whether the next thing to be sent is a new login.
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// The `client_id` of its requests.
    pub fn client_id(&self) -> &StrBytes {
        &self.client_id
    }

    /// Begins it, with the password or token as it is now.
    ///
    /// # Errors
    /// As of [`SaslExchange::start`].
    pub async fn again(&self) -> Result<SaslExchange, ConnectError> {
        let Some(Some(sasl)) = &self.security.sasl else { unreachable!("whoever has a session has logged in") };
        SaslExchange::start(&self.broker, &self.security, sasl, &self.versions).await.map_err(|refusal| self.failed(refusal))
    }

    /// It was done again.
    pub fn renew(&mut self, lifetime: Duration) {
        self.due = due(lifetime);
    }

    /// The new login was refused.
    pub fn failed(&self, refusal: Refusal) -> ConnectError {
        ConnectError { broker: self.broker.clone(), refusal }
    }
}

/// Kafka's own client takes 85 to 95 percent of the lifetime.
fn due(lifetime: Duration) -> Instant {
    // A lifetime that no clock can hold is none.
    let lifetime = lifetime.min(Duration::from_hours(24 * 365));
    Instant::now() + (lifetime * 85 / 100).max(SOONEST)
}

/// The answer to SaslHandshake.
struct Mechanisms<'a> {
    error_code: i16,
    names: Vec<&'a str>,
}

impl<'a> Mechanisms<'a> {
    fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Reader::new(body);
        let error_code = body.i16()?;
        let names = (0..body.count()?).map(|_| body.string()).collect::<Result<_, _>>()?;
        Ok(Self { error_code, names })
    }

    fn enabled(&self) -> String {
        if self.names.is_empty() { "none".to_owned() } else { self.names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{ApiVersionsResponse, SaslHandshakeResponse, api_versions_response::ApiVersion};
    use kafka_protocol::protocol::{Encodable, Request};
    use kferry_config::{SaslMechanism, Secret};

    fn broker() -> HostPort {
        HostPort { host: "broker-1".to_owned(), port: 9092 }
    }

    fn security() -> Security {
        let password = Secret::Literal("alice-secret".to_owned());
        let sasl = Sasl::Password { mechanism: SaslMechanism::Plain, username: "alice".to_owned(), password };
        Security { tls: None, sasl: Some(Some(sasl)) }
    }

    /// A broker with SaslAuthenticate up to this version.
    fn versions(max: i16) -> Versions {
        let range = ApiVersion::default().with_api_key(SaslAuthenticateRequest::KEY).with_max_version(max);
        let mut body = Vec::new();
        ApiVersionsResponse::default().with_api_keys(vec![range]).encode(&mut body, 0).unwrap();
        Versions::read(&body, 0).unwrap().1
    }

    fn frame<R: Encodable>(answer: &R, version: i16) -> Bytes {
        let mut frame = vec![0; 4];
        answer.encode(&mut frame, version).unwrap();
        frame.into()
    }

    /// A login that is accepted with this lifetime.
    async fn logged_in(version: i16, session_lifetime_ms: i64) -> Option<Duration> {
        let Some(Some(sasl)) = security().sasl else { panic!("no login") };
        let mut exchange = SaslExchange::start(&broker(), &security(), &sasl, &versions(version)).await.unwrap();
        let client_id = StrBytes::from_static_str("c");
        assert!(exchange.request(7, &client_id).unwrap().windows(5).any(|part| part == b"PLAIN"));
        assert_eq!(exchange.answered(&frame(&SaslHandshakeResponse::default(), 1)).unwrap(), None);
        assert!(exchange.request(8, &client_id).unwrap().windows(19).any(|part| part == b"\0alice\0alice-secret"));
        let answer = SaslAuthenticateResponse::default().with_session_lifetime_ms(session_lifetime_ms);
        exchange.answered(&frame(&answer, version)).unwrap().unwrap().session_lifetime
    }

    #[tokio::test]
    async fn a_login_has_a_lifetime_only_where_the_broker_says_one() {
        for (version, ms, lifetime) in [(1, 60_000, Some(Duration::from_mins(1))), (1, 0, None), (1, -5, None), (0, 0, None)] {
            assert_eq!(logged_in(version, ms).await, lifetime, "{version} {ms}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_done_again_before_its_time_is_over() {
        let mut session = Session::new(&broker(), &security(), &versions(2), &ConnectOptions::default(), Duration::from_secs(100));
        for lifetime in [100, 1000] {
            session.renew(Duration::from_secs(lifetime));
            tokio::time::advance(Duration::from_secs(lifetime * 84 / 100)).await;
            assert!(!session.is_due());
            tokio::time::advance(Duration::from_secs(lifetime * 2 / 100)).await;
            assert!(session.is_due());
        }
        // Brokers do not take one at once, and a lifetime may be any number.
        session.renew(Duration::from_millis(1));
        assert!(!session.is_due());
        session.renew(Duration::from_millis(i64::MAX as u64));
        assert!(!session.is_due());
        assert!(!format!("{session:?}").contains("alice-secret"));
    }
}
