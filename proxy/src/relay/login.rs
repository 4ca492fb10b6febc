//! A client's login at the proxy: it speaks SASL here as with a broker, and nothing else until it is let in.
//!
//! For routes with `sasl_users`. The broker is connected already: what the client may use of it is in the answer to ApiVersions, which comes before
//! the login.
//!
//! # References
//! - `org.apache.kafka.common.security.authenticator.SaslServerAuthenticator`; KIP-43 (SaslHandshake), KIP-152 (SaslAuthenticate)

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, SaslAuthenticateResponse, SaslHandshakeResponse};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use kferry_config::SaslMechanism;
use kferry_wire::api::Api;
use kferry_wire::frame::{self, FrameError, SIZE_LEN};
use kferry_wire::header::{self, HeaderError, RequestHeader, body_at};
use kferry_wire::security::users::{Users, Verdict, Verification, authenticate_message, handshake_mechanism};
use kferry_wire::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::own_response::{Advertised, ILLEGAL_SASL_STATE, UNSUPPORTED_SASL_MECHANISM, UNSUPPORTED_VERSION, own_response};
use crate::clients::Client;
use crate::ending::Cause;

/// Bytes of the largest request before the login, as the broker's `sasl.server.max.receive.size`.
const LARGEST: usize = 512 * 1024;

/// How long a client waits for the response to a wrong password, as with the broker's `connection.failed.authentication.delay.ms`: guessing takes time.
const GUESSING: Duration = Duration::from_millis(100);

/// Kafka's `SASL_AUTHENTICATION_FAILED`
const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// Who may log in through a listener to a route, and how.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    /// All users of the file.
    pub users: &'a Arc<Users>,
    /// `sasl_users` of the route.
    pub allowed: &'a [Arc<str>],
    /// `sasl_enabled_mechanisms` of the listener.
    pub mechanisms: &'a [SaslMechanism],
    /// The `security.protocol` that clients of the listener are to set.
    pub protocol: &'static str,
}

/// A request, read whole.
struct LoginRequest {
    api: &'static Api,
    /// Perhaps one that kferry does not speak.
    version: i16,
    correlation_id: i32,
    /// Behind the header.
    body: Vec<u8>,
}

impl Gate<'_> {
    /// Answers until the client is logged in, and returns the user's name. `read`: what was read of the client already, and in the end what was read
    /// beyond the login. `advertised`: what the client is told that it may use.
    ///
    /// # Errors
    /// [`Cause::NotLoggedIn`]: the client has been told why, as far as it may know.
    pub(crate) async fn log_in(&self, client: &mut Stream, read: &mut Vec<u8>, advertised: &Advertised) -> Result<Arc<str>, Cause> {
        let mut login: Option<(SaslMechanism, Verification)> = None;
        loop {
            let LoginRequest { api, version, correlation_id, body } = next(client, read).await?;
            let within = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
            let mut tell = async |response: Vec<u8>| {
                client.write_all(&response).await.map_err(Cause::ClientError)?;
                client.flush().await.map_err(Cause::ClientError)
            };
            match api.key {
                ApiKey::ApiVersions => {
                    let (version, error_code) = if within { (version, 0) } else { (0, UNSUPPORTED_VERSION) };
                    tell(own_response(correlation_id, &advertised.api_versions_body(version, error_code))).await?;
                }
                ApiKey::SaslHandshake => {
                    let wanted = handshake_mechanism(&body).unwrap_or_default();
                    let mechanism = self.mechanisms.iter().find(|mechanism| mechanism.name() == wanted);
                    let (error_code, why) = match mechanism {
                        // Behind it the client would send bytes without frames.
                        _ if !within => (
                            UNSUPPORTED_VERSION,
                            format!("it used SaslHandshake v{version}, which kferry does not speak: update the client"),
                        ),
                        _ if login.is_some() => (ILLEGAL_SASL_STATE, "it began a second login before the first was over".to_owned()),
                        None => (UNSUPPORTED_SASL_MECHANISM, self.not_enabled(wanted)),
                        Some(_) => (0, String::new()),
                    };
                    tell(self.handshake_response(correlation_id, error_code)).await?;
                    match mechanism {
                        Some(mechanism) if error_code == 0 => {
                            login = Some((*mechanism, Verification::new(self.users.clone(), self.allowed, *mechanism)));
                        }
                        _ => return Err(Cause::NotLoggedIn(why)),
                    }
                }
                ApiKey::SaslAuthenticate if within => {
                    let Some((mechanism, verification)) = &mut login else {
                        let told = "SaslHandshake must come before SaslAuthenticate";
                        tell(authenticate_response(correlation_id, version, ILLEGAL_SASL_STATE, told, Vec::new())).await?;
                        return Err(Cause::NotLoggedIn("it sent SaslAuthenticate without SaslHandshake".to_owned()));
                    };
                    match verification.answer(authenticate_message(&body, version).unwrap_or_default()) {
                        Verdict::Challenge(bytes) => tell(authenticate_response(correlation_id, version, 0, "", bytes)).await?,
                        Verdict::Accepted { user, answer } => {
                            tell(authenticate_response(correlation_id, version, 0, "", answer)).await?;
                            return Ok(user);
                        }
                        Verdict::Refused { user, why } => {
                            sleep(GUESSING).await;
                            // The broker's own words, which say as little.
                            let mechanism = mechanism.name();
                            let told = format!(
                                "Authentication failed during authentication due to invalid credentials with SASL mechanism {mechanism}"
                            );
                            tell(authenticate_response(correlation_id, version, SASL_AUTHENTICATION_FAILED, &told, Vec::new())).await?;
                            let user = user.map(|user| format!(" as the user {:?}", Client::name(&user))).unwrap_or_default();
                            return Err(Cause::NotLoggedIn(format!("it tried {mechanism}{user}: {why}")));
                        }
                    }
                }
                other => {
                    let protocol = self.protocol;
                    return Err(Cause::NotLoggedIn(format!(
                        "it sent {other:?} v{version} before it had logged in, and its route has sasl_users: set the client's security.protocol \
                         to {protocol}, and its sasl.* settings"
                    )));
                }
            }
        }
    }

    fn not_enabled(&self, wanted: &str) -> String {
        let names: Vec<_> = self.mechanisms.iter().map(|mechanism| mechanism.name()).collect();
        format!(
            "it wants the mechanism {:?}, and this listener has {}; set the client's sasl.mechanism, or the listener's sasl_enabled_mechanisms",
            Client::name(wanted),
            names.join(", ")
        )
    }

    fn handshake_response(&self, correlation_id: i32, error_code: i16) -> Vec<u8> {
        let names = self.mechanisms.iter().map(|mechanism| StrBytes::from_static_str(mechanism.name())).collect();
        let response = SaslHandshakeResponse::default().with_error_code(error_code).with_mechanisms(names);
        // Version 0 looks the same.
        encoded(correlation_id, &response, 1)
    }
}

fn authenticate_response(correlation_id: i32, version: i16, error_code: i16, message: &str, bytes: Vec<u8>) -> Vec<u8> {
    let message = (error_code != 0).then(|| StrBytes::from_string(message.to_owned()));
    // No session_lifetime_ms: a password that was right stays so until the connection ends.
    let response =
        SaslAuthenticateResponse::default().with_error_code(error_code).with_error_message(message).with_auth_bytes(Bytes::from(bytes));
    encoded(correlation_id, &response, version)
}

fn encoded<R: Encodable + HeaderVersion>(correlation_id: i32, response: &R, version: i16) -> Vec<u8> {
    let mut body = Vec::new();
    if R::header_version(version) > 0 {
        // No tagged fields.
        body.push(0);
    }
    response.encode(&mut body, version).expect("these versions have these fields");
    own_response(correlation_id, &body)
}

/// Reads the next request.
async fn next(client: &mut Stream, read: &mut Vec<u8>) -> Result<LoginRequest, Cause> {
    let size = loop {
        match frame::size(read, LARGEST) {
            Ok(Some(size)) if read.len() >= SIZE_LEN + size => break size,
            Ok(_) => {}
            Err(FrameError::Size { size, .. }) => return Err(Cause::NotKafka(header::NotKafka::FrameSize(size))),
            Err(_) => unreachable!("a size that is there is right or wrong"),
        }
        if client.read_buf(read).await.map_err(Cause::ClientError)? == 0 {
            return Err(Cause::ClientClosed);
        }
    };
    let request: Vec<u8> = read.drain(..SIZE_LEN + size).skip(SIZE_LEN).collect();
    let short = || Cause::NotKafka(header::NotKafka::ShortFrame(size));
    let header = RequestHeader::peek(&request).map_err(|error| match error {
        HeaderError::Short => short(),
        HeaderError::ClientId => Cause::NotKafka(header::NotKafka::ClientId),
    })?;
    let (api_key, version, correlation_id) = (header.api_key, header.api_version, header.correlation_id);
    let api = Api::of(api_key).ok_or(Cause::NotAdvertised { api_key, version })?;
    let within = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
    let body_at = body_at(&request, header.len, within && api.is_flexible(version)).ok_or_else(short)?;
    Ok(LoginRequest { api, version, correlation_id, body: request[body_at..].to_vec() })
}
