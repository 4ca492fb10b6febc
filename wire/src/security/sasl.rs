//! The client's side of a SASL login: the bytes inside SaslAuthenticate, without the frames around them.
//!
//! # References
//! - RFC 4616 (PLAIN), RFC 5802 and 7677 (SCRAM), RFC 7628 (OAUTHBEARER), KIP-84 (SCRAM in Kafka), KIP-152 (SaslAuthenticate), KIP-255 (tokens)
//! - `org.apache.kafka.common.security.scram.internals.ScramSaslClient`,
//!   `org.apache.kafka.common.security.oauthbearer.internals.OAuthBearerSaslClient`

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::config::SASLConfig;
use rsasl::mechanisms::scram::properties::Iterations;
use rsasl::mechname::Mechname;
use rsasl::prelude::{SASLClient, Session, SessionError, State};
use rsasl::property::{AuthId, Password};

use kferry_config::{OAUTHBEARER, Sasl, SaslMechanism, Secret, SecretError, read_text};

use crate::files::NotRead;

/// How often a broker may ask for the password to be hashed. Below, a false broker could guess the password from our proof (Kafka's own
/// client refuses that too); above, it could keep a processor busy for as long as it likes. Kafka's brokers store 4,096 to 16,384.
const SCRAM_ITERATIONS: RangeInclusive<u32> = 4096..=100_000;

/// A login that cannot go on. The broker's own refusal is not among them: it comes in an answer's `error_code`.
#[derive(Debug, thiserror::Error)]
pub enum SaslError {
    /// The password could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The password or the token did not come in time.
    #[error("its password or token {0}")]
    NotRead(#[from] NotRead),
    /// PLAIN and SCRAM know no empty password.
    #[error("the password of the user '{username}' is empty; set sasl_password, or fill the file or variable that holds it")]
    EmptyPassword {
        /// `sasl_username`
        username: String,
    },
    /// A username or password with a NUL byte, which no mechanism can carry.
    #[error("the username or the password of '{username}' cannot be sent with {mechanism}: {reason}")]
    Unsendable {
        /// `sasl_username`
        username: String,
        /// `sasl_mechanism`
        mechanism: &'static str,
        /// What is wrong with them, never the password itself.
        reason: String,
    },
    /// The file has no token, or something around it that no token has.
    #[error("{path} holds no token: {reason}; it must hold an access token (a JWT) and nothing else")]
    Token {
        /// `sasl_oauthbearer_token_file`
        path: PathBuf,
        /// What is wrong with it, never the token itself.
        reason: &'static str,
    },
    /// The broker refused the token, and let us in all the same.
    #[error("the broker refused the token ({0}) and went on; it is no Kafka broker")]
    TokenRefused(String),
    /// The broker's SCRAM salt comes with an iteration count that is not accepted.
    #[error(
        "the broker wants the password hashed {0} times, {low} to {high} are accepted; \
         it is no Kafka broker, or its SCRAM credentials must be created anew",
        low = SCRAM_ITERATIONS.start(), high = SCRAM_ITERATIONS.end()
    )]
    Iterations(u32),
    /// The broker let us in without proving that it knows the password.
    #[error(
        "the broker did not prove that it knows the password: its SCRAM signature is wrong; somebody may sit in between, do not connect"
    )]
    Signature,
    /// The broker's message is no SCRAM.
    #[error("the broker's {mechanism} message is wrong: {reason}")]
    Message {
        /// `sasl_mechanism`
        mechanism: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A login under way.
pub struct Login {
    how: How,
    mechanism: &'static str,
    finished: bool,
}

enum How {
    Password(Session),
    /// With what the broker said against the token.
    Token {
        refused: Option<String>,
    },
}

impl Login {
    /// Reads the password or the token, and begins. Returns the first message to send.
    ///
    /// # Errors
    /// All of [`SaslError`] that can be known before the broker has said anything.
    pub fn start(sasl: &Sasl) -> Result<(Self, Vec<u8>), SaslError> {
        match sasl {
            Sasl::Password { mechanism, username, password } => Self::with_password(*mechanism, username, password),
            Sasl::OAuthBearer { token_file } => {
                let first = format!("n,,\x01auth=Bearer {}\x01\x01", token(token_file)?).into_bytes();
                Ok((Self { how: How::Token { refused: None }, mechanism: OAUTHBEARER, finished: false }, first))
            }
        }
    }

    fn with_password(mechanism: SaslMechanism, username: &str, password: &Secret) -> Result<(Self, Vec<u8>), SaslError> {
        let password = password.read()?;
        if password.is_empty() {
            return Err(SaslError::EmptyPassword { username: username.to_owned() });
        }
        let mechanism = mechanism.name();
        let unsendable = |reason: String| SaslError::Unsendable { username: username.to_owned(), mechanism, reason };
        let credentials = Credentials { username: username.to_owned(), password };
        let config = SASLConfig::builder().with_defaults().with_callback(credentials).map_err(|error| unsendable(error.to_string()))?;
        let name = Mechname::parse(mechanism.as_bytes()).map_err(|error| unsendable(error.to_string()))?;
        let mut session = SASLClient::new(config).start_suggested(&[name]).map_err(|error| unsendable(error.to_string()))?;
        let (first, finished) = step(&mut session, None).map_err(|error| unsendable(reason(&error)))?;
        Ok((Self { how: How::Password(session), mechanism, finished }, first))
    }

    /// Takes the broker's answer to the last message. Returns the next message, or `None` once both sides are satisfied. Only then is the
    /// broker proven to be one that knows the password (SCRAM).
    ///
    /// # Errors
    /// [`SaslError`]; the login is then over.
    pub fn answer(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
        if self.finished {
            return Ok(None);
        }
        let session = match &mut self.how {
            How::Password(session) => session,
            How::Token { refused: Some(refused) } => return Err(SaslError::TokenRefused(std::mem::take(refused))),
            How::Token { .. } if answer.is_empty() => {
                self.finished = true;
                return Ok(None);
            }
            How::Token { refused } => {
                *refused = Some(String::from_utf8_lossy(answer).into_owned());
                // RFC 7628, 3.2.3: the broker waits for this before it fails the login.
                return Ok(Some(vec![1]));
            }
        };
        // What every SCRAM attribute looks like; rsasl 2.3 takes the first two bytes of each without looking how many there are.
        if !answer.split(|byte| *byte == b',').all(|attribute| attribute.get(1) == Some(&b'=')) {
            return Err(SaslError::Message { mechanism: self.mechanism, reason: "it is not made of attributes".to_owned() });
        }
        match step(session, Some(answer)) {
            Ok((next, finished)) => {
                self.finished = finished;
                // SCRAM ends with the broker's word: there is nothing left to send.
                Ok((!finished || !next.is_empty()).then_some(next))
            }
            Err(SessionError::MutualAuthenticationFailed) => Err(SaslError::Signature),
            Err(SessionError::Boxed(error)) => match error.downcast_ref() {
                Some(Unacceptable(iterations)) => Err(SaslError::Iterations(*iterations)),
                None => Err(SaslError::Message { mechanism: self.mechanism, reason: error.to_string() }),
            },
            Err(error) => Err(SaslError::Message { mechanism: self.mechanism, reason: reason(&error) }),
        }
    }

    /// What the broker said against the token, if it did: its reason for the refusal that follows.
    pub fn refused(&self) -> Option<&str> {
        match &self.how {
            How::Token { refused } => refused.as_deref(),
            How::Password(_) => None,
        }
    }
}

/// The next message, and whether it is the last.
fn step(session: &mut Session, input: Option<&[u8]>) -> Result<(Vec<u8>, bool), SessionError> {
    let mut message = Vec::new();
    let finished = matches!(session.step(input, &mut message)?, State::Finished(_));
    Ok((message, finished))
}

/// Reads the token as it is now: whoever keeps it fresh replaces the file.
///
/// # Errors
/// [`SaslError`]: the file cannot be read, or what it has is no token.
pub fn token(path: &Path) -> Result<String, SaslError> {
    let text = read_text(path).map_err(|source| SecretError::File { path: path.to_owned(), source })?;
    let token = text.trim();
    let wrong = |reason| Err(SaslError::Token { path: path.to_owned(), reason });
    match token {
        "" => wrong("it is empty"),
        // RFC 6750, 2.1: the characters of a token. Anything else could end the message early.
        _ if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) => {
            wrong("it has characters that no token has")
        }
        _ => Ok(token.to_owned()),
    }
}

/// rsasl's own text says no more than "internal mechanism error".
fn reason(error: &SessionError) -> String {
    match error {
        SessionError::MechanismError(error) => error.to_string(),
        error => error.to_string(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0} iterations")]
struct Unacceptable(u32);

struct Credentials {
    username: String,
    password: String,
}

impl SessionCallback for Credentials {
    fn callback(&self, _session: &SessionData, context: &Context, request: &mut Request<'_>) -> Result<(), SessionError> {
        // Asked for the password, SCRAM says here how often it will hash it, before it does.
        if let Some(iterations) = context.get_ref::<Iterations>()
            && !SCRAM_ITERATIONS.contains(iterations)
        {
            return Err(SessionError::Boxed(Box::new(Unacceptable(*iterations))));
        }
        request.satisfy::<AuthId>(&self.username)?.satisfy::<Password>(self.password.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sasl(mechanism: SaslMechanism, username: &str, password: &str) -> Sasl {
        Sasl::Password { mechanism, username: username.to_owned(), password: Secret::Literal(password.to_owned()) }
    }

    fn start(mechanism: SaslMechanism) -> (Login, String) {
        let (login, first) = Login::start(&sasl(mechanism, "alice", "alice-secret")).unwrap();
        (login, String::from_utf8(first).unwrap())
    }

    /// What a broker says first, to the nonce of `client_first`.
    fn server_first(client_first: &str, iterations: u32) -> String {
        let nonce = client_first.split_once("r=").unwrap().1;
        format!("r={nonce}broker,s=c2FsdHNhbHRzYWx0,i={iterations}")
    }

    #[test]
    fn plain_is_one_message_and_an_empty_answer() {
        let (mut login, first) = start(SaslMechanism::Plain);
        assert_eq!(first, "\0alice\0alice-secret");
        assert_eq!(login.answer(b"").unwrap(), None);
    }

    #[test]
    fn scram_begins_without_channel_binding_because_kafka_has_none() {
        for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
            let (mut login, first) = start(mechanism);
            assert!(first.starts_with("n,,n=alice,r="), "{first}");
            let last = login.answer(server_first(&first, 4096).as_bytes()).unwrap().unwrap();
            assert!(last.starts_with(b"c=biws,r="), "{}", String::from_utf8_lossy(&last));
        }
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_not_believed() {
        let last = |answer: &str| {
            let (mut login, first) = start(SaslMechanism::ScramSha512);
            login.answer(server_first(&first, 4096).as_bytes()).unwrap();
            login.answer(answer.as_bytes()).unwrap_err()
        };
        for wrong in ["v=c29tZXRoaW5nIGVsc2U=", "v="] {
            assert!(matches!(last(wrong), SaslError::Signature), "{wrong}");
        }
        for missing in ["", "v", "e=other-error"] {
            assert!(matches!(last(missing), SaslError::Message { .. }), "{missing}");
        }
    }

    #[test]
    fn an_iteration_count_that_is_too_low_or_too_high_is_refused_before_any_hashing() {
        for iterations in [1, 4095, 100_001, u32::MAX] {
            let (mut login, first) = start(SaslMechanism::ScramSha256);
            let error = login.answer(server_first(&first, iterations).as_bytes()).unwrap_err();
            assert!(matches!(error, SaslError::Iterations(told) if told == iterations), "{error}");
        }
    }

    #[test]
    fn garbage_from_the_broker_is_an_error_that_says_which_mechanism() {
        let (mut login, _) = start(SaslMechanism::ScramSha256);
        let error = login.answer(b"HTTP/1.1 400 Bad Request").unwrap_err();
        assert!(error.to_string().contains("SCRAM-SHA-256"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_from_a_broker_make_it_panic(
            first: Vec<u8>,
            nonce in "[a-z,=0-9]{0,9}",
            attributes in "([a-z]?=?[a-zA-Z0-9=]{0,6},?){0,4}",
            last: Vec<u8>,
        ) {
            let _ = start(SaslMechanism::ScramSha256).0.answer(&first);
            let (mut login, client_first) = start(SaslMechanism::ScramSha256);
            let ours = client_first.split_once("r=").unwrap().1;
            let _ = login.answer(format!("r={ours}{nonce},{attributes}").as_bytes());
            let (mut login, client_first) = start(SaslMechanism::ScramSha256);
            login.answer(server_first(&client_first, 4096).as_bytes()).unwrap();
            let _ = login.answer(&last);
        }
    }

    #[test]
    fn a_token_is_one_message_and_read_at_each_login() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        let sasl = Sasl::OAuthBearer { token_file: token_file.clone() };
        std::fs::write(&token_file, "eyJ.one.\n").unwrap();
        let (mut login, first) = Login::start(&sasl).unwrap();
        assert_eq!(first, b"n,,\x01auth=Bearer eyJ.one.\x01\x01");
        assert_eq!((login.answer(b"").unwrap(), login.refused()), (None, None));
        std::fs::write(&token_file, "eyJ.two.").unwrap();
        let (mut login, first) = Login::start(&sasl).unwrap();
        assert_eq!(first, b"n,,\x01auth=Bearer eyJ.two.\x01\x01");

        // The broker says why, and fails the login only when that was acknowledged.
        let challenge = r#"{"status":"invalid_token"}"#;
        assert_eq!(login.answer(challenge.as_bytes()).unwrap(), Some(vec![1]));
        assert_eq!(login.refused(), Some(challenge));
        assert!(login.answer(b"").unwrap_err().to_string().contains(challenge));

        for bad in ["", "  \n", "Bearer eyJ", "eyJ\x01auth=x"] {
            std::fs::write(&token_file, bad).unwrap();
            let error = Login::start(&sasl).err().unwrap().to_string();
            assert!(error.contains("holds no token") && (bad.trim().is_empty() || !error.contains("eyJ")), "{error}");
        }
        std::fs::remove_file(&token_file).unwrap();
        assert!(matches!(Login::start(&sasl), Err(SaslError::Secret(SecretError::File { .. }))));
    }

    #[test]
    fn credentials_that_cannot_be_sent_are_named_and_the_password_is_not() {
        let error = Login::start(&sasl(SaslMechanism::Plain, "alice", "")).err().unwrap();
        assert!(matches!(error, SaslError::EmptyPassword { .. }), "{error}");
        let error = Login::start(&sasl(SaslMechanism::Plain, "alice", "hush\0hush")).err().unwrap();
        assert!(error.to_string().contains("alice") && !error.to_string().contains("hush"), "{error}");
    }
}
