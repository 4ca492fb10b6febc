//! A client's login at the proxy: it speaks SASL here as with a broker, and nothing else until it is let in.
//!
//! For routes with `sasl_users`. The broker is connected already: what the client may use of it is in the answer to ApiVersions, which comes before
//! the login.
//!
//! # References
//! - `org.apache.kafka.common.security.authenticator.SaslServerAuthenticator`; KIP-43 (SaslHandshake, whose version 0 is followed by messages without a
//!   header), KIP-152 (SaslAuthenticate)

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, SaslAuthenticateResponse, SaslHandshakeResponse};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use kferry_config::SaslMechanism;
use kferry_wire::api::Api;
use kferry_wire::frame::{self, FrameError, SIZE_LEN};
use kferry_wire::header::{self, RequestHeader, body_at};
use kferry_wire::security::users::{Users, Verdict, Verification, authenticate_message, handshake_mechanism};
use kferry_wire::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::own_response::{Advertised, ILLEGAL_SASL_STATE, UNSUPPORTED_SASL_MECHANISM, UNSUPPORTED_VERSION, own_response};
use super::response::LARGEST_LOGIN;
use crate::clients::Client;
use crate::ending::Cause;

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

/// A login that has begun with SaslHandshake.
struct Login {
    mechanism: SaslMechanism,
    verification: Verification,
    /// It began with version 0: the mechanism's messages come and go without a header.
    bare: bool,
}

/// What a client gets for a request before it is logged in.
struct Reply {
    /// A whole frame. `None`: the connection is closed without a response.
    response: Option<Vec<u8>>,
    then: Then,
}

/// What comes after the response.
enum Then {
    /// The client's next request.
    GoOn,
    /// The client is logged in as this user.
    LetIn(Arc<str>),
    /// The connection ends. Why, for the operator.
    Refuse(String),
    /// The connection ends, because the client has not shown that it is who it says. Its response waits for [`GUESSING`].
    RefuseLate(String),
}

impl Gate<'_> {
    /// Answers until the client is logged in, and returns the user's name. `read`: what was read of the client already, and in the end what was read
    /// beyond the login. `advertised`: what the client is told that it may use.
    ///
    /// # Errors
    /// [`Cause::NotLoggedIn`]: the client has been told why, as far as it may know.
    pub(crate) async fn log_in(&self, client: &mut Stream, read: &mut Vec<u8>, advertised: &Advertised) -> Result<Arc<str>, Cause> {
        let mut login = None;
        loop {
            let frame = next(client, read).await?;
            let Reply { response, then } = match &mut login {
                Some(Login { mechanism, verification, bare: true }) => bare_reply(*mechanism, verification, &frame),
                _ => self.reply(&mut login, &LoginRequest::read(&frame)?, advertised),
            };
            if let Then::RefuseLate(_) = then {
                sleep(GUESSING).await;
            }
            if let Some(response) = response {
                client.write_all(&response).await.map_err(Cause::ClientError)?;
                client.flush().await.map_err(Cause::ClientError)?;
            }
            match then {
                Then::GoOn => {}
                Then::LetIn(user) => return Ok(user),
                Then::Refuse(why) | Then::RefuseLate(why) => return Err(Cause::NotLoggedIn(why)),
            }
        }
    }

    /// What becomes of a request of a client that is not logged in yet.
    fn reply(&self, login: &mut Option<Login>, request: &LoginRequest, advertised: &Advertised) -> Reply {
        let LoginRequest { api, version, correlation_id, .. } = *request;
        let spoken = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
        match api.key {
            ApiKey::ApiVersions => {
                let (version, error_code) = if spoken { (version, 0) } else { (0, UNSUPPORTED_VERSION) };
                let body = advertised.api_versions_body(version, error_code);
                Reply { response: Some(own_response(correlation_id, &body)), then: Then::GoOn }
            }
            ApiKey::SaslHandshake => self.handshake(login, request, spoken),
            ApiKey::SaslAuthenticate if spoken => authenticate(login, request),
            other => {
                let protocol = self.protocol;
                let why = format!(
                    "it sent {other:?} v{version} before it had logged in, and its route has sasl_users: set the client's security.protocol \
                     to {protocol}, and its sasl.* settings"
                );
                Reply { response: None, then: Then::Refuse(why) }
            }
        }
    }

    /// The client says which mechanism it will use.
    fn handshake(&self, login: &mut Option<Login>, request: &LoginRequest, spoken: bool) -> Reply {
        let LoginRequest { version, correlation_id, body, .. } = request;
        let wanted = handshake_mechanism(body).unwrap_or_default();
        let mechanism = self.mechanisms.iter().find(|mechanism| mechanism.name() == wanted);
        let (error_code, then) = match mechanism {
            _ if !spoken => {
                let why = format!("it used SaslHandshake v{version}, which kferry does not speak: update the client");
                (UNSUPPORTED_VERSION, Then::Refuse(why))
            }
            _ if login.is_some() => (ILLEGAL_SASL_STATE, Then::Refuse("it began a second login before the first was over".to_owned())),
            None => (UNSUPPORTED_SASL_MECHANISM, Then::Refuse(self.not_enabled(wanted))),
            Some(&mechanism) => {
                let verification = Verification::new(self.users.clone(), self.allowed, mechanism);
                *login = Some(Login { mechanism, verification, bare: *version == 0 });
                (0, Then::GoOn)
            }
        };
        Reply { response: Some(self.handshake_response(*correlation_id, error_code)), then }
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

/// The client sends its mechanism's next message.
fn authenticate(login: &mut Option<Login>, request: &LoginRequest) -> Reply {
    let LoginRequest { version, correlation_id, ref body, .. } = *request;
    let response = |error_code, message: &str, bytes| Some(authenticate_response(correlation_id, version, error_code, message, bytes));
    let Some(Login { mechanism, verification, .. }) = login else {
        let told = "SaslHandshake must come before SaslAuthenticate";
        let then = Then::Refuse("it sent SaslAuthenticate without SaslHandshake".to_owned());
        return Reply { response: response(ILLEGAL_SASL_STATE, told, Vec::new()), then };
    };
    match verification.answer(authenticate_message(body, version).unwrap_or_default()) {
        Verdict::Challenge(bytes) => Reply { response: response(0, "", bytes), then: Then::GoOn },
        Verdict::Accepted { user, answer } => Reply { response: response(0, "", answer), then: Then::LetIn(user) },
        Verdict::Refused { user, why } => {
            // The broker's own words, which say as little.
            let told =
                format!("Authentication failed during authentication due to invalid credentials with SASL mechanism {}", mechanism.name());
            Reply { response: response(SASL_AUTHENTICATION_FAILED, &told, Vec::new()), then: refused(*mechanism, user.as_deref(), why) }
        }
    }
}

/// The client sends its mechanism's next message, without a header. A refusal has no words there: brokers just close the connection.
fn bare_reply(mechanism: SaslMechanism, verification: &mut Verification, message: &[u8]) -> Reply {
    let response = |bytes: Vec<u8>| Some([&(bytes.len() as i32).to_be_bytes()[..], &bytes].concat());
    match verification.answer(message) {
        Verdict::Challenge(bytes) => Reply { response: response(bytes), then: Then::GoOn },
        Verdict::Accepted { user, answer } => Reply { response: response(answer), then: Then::LetIn(user) },
        Verdict::Refused { user, why } => Reply { response: None, then: refused(mechanism, user.as_deref(), why) },
    }
}

fn refused(mechanism: SaslMechanism, user: Option<&str>, why: &str) -> Then {
    let user = user.map(|user| format!(" as the user {:?}", Client::name(user))).unwrap_or_default();
    Then::RefuseLate(format!("it tried {}{user}: {why}", mechanism.name()))
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

/// Reads the next frame, and returns it without its size.
async fn next(client: &mut Stream, read: &mut Vec<u8>) -> Result<Vec<u8>, Cause> {
    loop {
        match frame::size(read, LARGEST_LOGIN) {
            Ok(Some(size)) if read.len() >= SIZE_LEN + size => return Ok(read.drain(..SIZE_LEN + size).skip(SIZE_LEN).collect()),
            Ok(_) => {}
            Err(FrameError::Size { size, .. }) => return Err(Cause::NotKafka(header::NotKafka::FrameSize(size))),
            Err(_) => unreachable!("a size that is there is right or wrong"),
        }
        if client.read_buf(read).await.map_err(Cause::ClientError)? == 0 {
            return Err(Cause::ClientClosed);
        }
    }
}

impl LoginRequest {
    /// `frame`: without its size.
    fn read(frame: &[u8]) -> Result<Self, Cause> {
        let short = || Cause::NotKafka(header::NotKafka::ShortFrame(frame.len()));
        let header = RequestHeader::peek(frame).map_err(|_| short())?;
        let (api_key, version, correlation_id) = (header.api_key, header.api_version, header.correlation_id);
        let api = Api::of(api_key).ok_or(Cause::NotAdvertised { api_key, version })?;
        let within = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
        let body_at = body_at(frame, header.len, within && api.is_flexible(version)).ok_or_else(short)?;
        Ok(Self { api, version, correlation_id, body: frame[body_at..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::own_response::ClientSasl;
    use kafka_protocol::messages::ApiVersionsResponse;
    use kafka_protocol::protocol::Decodable;
    use kferry_config::{Secret, User};

    const APIS: ApiKey = ApiKey::ApiVersions;
    const HANDSHAKE: ApiKey = ApiKey::SaslHandshake;
    const AUTHENTICATE: ApiKey = ApiKey::SaslAuthenticate;

    /// A request, the `error_code` of its response if there is one, and what comes then.
    struct Exchange(ApiKey, i16, &'static [u8], Option<i16>, &'static str);

    fn then(then: &Then) -> String {
        match then {
            Then::GoOn => "go on".to_owned(),
            Then::LetIn(user) => format!("let in: {user}"),
            Then::Refuse(why) => why.clone(),
            Then::RefuseLate(why) => format!("late: {why}"),
        }
    }

    #[test]
    fn a_client_is_let_in_after_a_login_and_after_nothing_else() {
        let user = |name: &str| User { name: name.into(), password: Secret::Literal("right".to_owned()) };
        let users = Arc::new(Users::load(&[user("orders"), user("other")]).unwrap());
        let mechanisms = [SaslMechanism::Plain];
        let gate = Gate { users: &users, allowed: &["orders".into()], mechanisms: &mechanisms, protocol: "SASL_SSL" };
        let advertised = Advertised { versions: Vec::new(), sasl: ClientSasl::Proxy };

        let begin = || Exchange(HANDSHAKE, 1, b"\0\x05PLAIN", Some(0), "go on");
        let not_plain = "it wants the mechanism \"SCRAM-SHA-256\", and this listener has PLAIN; set the client's sasl.mechanism, or the listener's \
                         sasl_enabled_mechanisms";
        let no_login = "it sent Metadata v9 before it had logged in, and its route has sasl_users: set the client's security.protocol to SASL_SSL, \
                        and its sasl.* settings";
        let conversations = [
            vec![begin(), Exchange(AUTHENTICATE, 2, b"\x0e\0orders\0right", Some(0), "let in: orders")],
            vec![
                Exchange(APIS, 0, b"", Some(0), "go on"),
                Exchange(APIS, 99, b"", Some(UNSUPPORTED_VERSION), "go on"),
                begin(),
                Exchange(APIS, 0, b"", Some(0), "go on"),
                Exchange(AUTHENTICATE, 0, b"\0\0\0\x0d\0orders\0right", Some(0), "let in: orders"),
            ],
            vec![
                begin(),
                Exchange(
                    AUTHENTICATE,
                    2,
                    b"\x0e\0orders\0wrong",
                    Some(SASL_AUTHENTICATION_FAILED),
                    "late: it tried PLAIN as the user \"orders\": its password is wrong",
                ),
            ],
            vec![
                begin(),
                Exchange(
                    AUTHENTICATE,
                    2,
                    b"\x0d\0other\0right",
                    Some(SASL_AUTHENTICATION_FAILED),
                    "late: it tried PLAIN as the user \"other\": it is not among the route's sasl_users",
                ),
            ],
            vec![
                begin(),
                Exchange(HANDSHAKE, 1, b"\0\x05PLAIN", Some(ILLEGAL_SASL_STATE), "it began a second login before the first was over"),
            ],
            vec![Exchange(
                AUTHENTICATE,
                2,
                b"\x0e\0orders\0right",
                Some(ILLEGAL_SASL_STATE),
                "it sent SaslAuthenticate without SaslHandshake",
            )],
            vec![Exchange(
                HANDSHAKE,
                2,
                b"\0\x05PLAIN",
                Some(UNSUPPORTED_VERSION),
                "it used SaslHandshake v2, which kferry does not speak: update the client",
            )],
            vec![Exchange(HANDSHAKE, 1, b"\0\x0dSCRAM-SHA-256", Some(UNSUPPORTED_SASL_MECHANISM), not_plain)],
            vec![Exchange(ApiKey::Metadata, 9, b"", None, no_login)],
        ];
        for conversation in conversations {
            let mut login = None;
            for Exchange(api_key, version, body, error_code, expected) in conversation {
                let request = LoginRequest { api: Api::of(api_key as i16).unwrap(), version, correlation_id: 7, body: body.to_vec() };
                let reply = gate.reply(&mut login, &request, &advertised);
                assert_eq!(then(&reply.then), expected, "{api_key:?} v{version}");
                let told = reply.response.map(|frame| {
                    assert_eq!(frame[SIZE_LEN..SIZE_LEN + 4], 7i32.to_be_bytes());
                    let mut body = &frame[SIZE_LEN + 4..];
                    match api_key {
                        ApiKey::ApiVersions => ApiVersionsResponse::decode(&mut body, 0).unwrap().error_code,
                        ApiKey::SaslHandshake => SaslHandshakeResponse::decode(&mut body, 1).unwrap().error_code,
                        // Behind the tagged fields of a flexible header.
                        _ => SaslAuthenticateResponse::decode(&mut &body[usize::from(version >= 2)..], version).unwrap().error_code,
                    }
                });
                assert_eq!(told, error_code, "{api_key:?} v{version}");
            }
        }
    }

    #[test]
    fn a_login_of_the_old_kind_goes_on_without_headers() {
        let user = User { name: "orders".into(), password: Secret::Literal("right".to_owned()) };
        let users = Arc::new(Users::load(&[user]).unwrap());
        let gate = Gate { users: &users, allowed: &["orders".into()], mechanisms: &SaslMechanism::ALL, protocol: "SASL_SSL" };
        let advertised = Advertised { versions: Vec::new(), sasl: ClientSasl::Proxy };
        let begun = |mechanism: &str| {
            let mut login = None;
            let body = [&(mechanism.len() as u16).to_be_bytes()[..], mechanism.as_bytes()].concat();
            let request = LoginRequest { api: Api::of(HANDSHAKE as i16).unwrap(), version: 0, correlation_id: 7, body };
            let reply = gate.reply(&mut login, &request, &advertised);
            assert_eq!(then(&reply.then), "go on");
            login.expect("it has begun")
        };
        let say = |login: &mut Login, message: &[u8]| {
            assert!(login.bare);
            let Reply { response, then: next } = bare_reply(login.mechanism, &mut login.verification, message);
            (response, then(&next))
        };
        assert_eq!(say(&mut begun("PLAIN"), b"\0orders\0right"), (Some(vec![0; 4]), "let in: orders".to_owned()));
        let wrong = "late: it tried PLAIN as the user \"orders\": its password is wrong".to_owned();
        assert_eq!(say(&mut begun("PLAIN"), b"\0orders\0wrong"), (None, wrong));
        let (challenge, next) = say(&mut begun("SCRAM-SHA-256"), b"n,,n=orders,r=abc");
        let challenge = challenge.unwrap();
        assert_eq!(
            (next.as_str(), challenge[..SIZE_LEN].to_vec()),
            ("go on", ((challenge.len() - SIZE_LEN) as i32).to_be_bytes().to_vec())
        );
        assert!(challenge[SIZE_LEN..].starts_with(b"r=abc"));
    }
}
