//! The broker's side of a SASL login: who may log in at the proxy, and the bytes inside SaslAuthenticate.
//!
//! A stranger sends them: nothing is allocated but what has arrived, and whoever is refused cannot tell whether it was the user or the password. An
//! unknown user gets a salt too, always the same one, as a known user does.
//!
//! # References
//! - RFC 4616 (PLAIN), RFC 5802 and 7677 (SCRAM)
//! - `org.apache.kafka.common.security.plain.internals.PlainSaslServer`, `org.apache.kafka.common.security.scram.internals.ScramSaslServer`: as
//!   these, the names and passwords are taken byte by byte, without SASLprep

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use crate::reader::Reader;
use kferry_config::{SaslMechanism, SecretError, User};

/// What Kafka stores SCRAM credentials with, and the least that its clients take.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// Bytes of salts and of nonces.
const RANDOM: usize = 24;

/// A user who could not log in, whatever is sent.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The password could not be read.
    #[error("[users.{user}]: {source}")]
    Secret {
        /// Its name.
        user: Arc<str>,
        /// Why.
        source: SecretError,
    },
    /// PLAIN and SCRAM know no empty password.
    #[error("[users.{user}]: the password is empty; fill the file or variable that holds it")]
    Empty {
        /// Its name.
        user: Arc<str>,
    },
}

/// Who may log in at the proxy: `[users.*]`, with what SCRAM needs of each.
pub struct Users {
    known: HashMap<Arc<str>, Known>,
    /// Made when the file was read; salts come from it, and passwords are compared with its help.
    key: hmac::Key,
}

struct Known {
    password: String,
    sha_256: Keys,
    sha_512: Keys,
}

/// What a server keeps of a password (RFC 5802, 3).
struct Keys {
    stored_key: Vec<u8>,
    server_key: hmac::Key,
}

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn keys(self, password: &str, salt: &[u8]) -> Keys {
        let algorithm = match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = vec![0; self.digest().output_len()];
        pbkdf2::derive(algorithm, ITERATIONS, salt, password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hmac(), &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let server_key = hmac::sign(&salted, b"Server Key");
        Keys {
            stored_key: digest::digest(self.digest(), client_key.as_ref()).as_ref().to_vec(),
            server_key: hmac::Key::new(self.hmac(), server_key.as_ref()),
        }
    }
}

impl Users {
    /// Reads the passwords as they are now. Takes some milliseconds for each user.
    ///
    /// # Errors
    /// [`UserError`]: the first one whose password cannot be used.
    pub fn load(users: &[User]) -> Result<Self, UserError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has random bytes");
        let mut all = Self { known: HashMap::new(), key };
        for user in users {
            let name = user.name.clone();
            let password = user.password.read().map_err(|source| UserError::Secret { user: name.clone(), source })?;
            if password.is_empty() {
                return Err(UserError::Empty { user: name });
            }
            let keys = |hash: Hash| hash.keys(&password, &all.salt(hash, &name));
            let (sha_256, sha_512) = (keys(Hash::Sha256), keys(Hash::Sha512));
            all.known.insert(name, Known { password, sha_256, sha_512 });
        }
        Ok(all)
    }

    fn salt(&self, hash: Hash, name: &str) -> Vec<u8> {
        let which = [hash.digest().output_len() as u8];
        hmac::sign(&self.key, &[&which, name.as_bytes()].concat()).as_ref()[..RANDOM].to_vec()
    }

    /// Compares without telling by its time how much of it was right.
    fn is_password(&self, name: &str, password: &str) -> bool {
        let known = self.known.get(name);
        let expected = hmac::sign(&self.key, known.map_or("", |known| known.password.as_str()).as_bytes());
        hmac::verify(&self.key, password.as_bytes(), expected.as_ref()).is_ok() && known.is_some()
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.known.keys()).finish()
    }
}

/// A client's login under way.
pub struct Verification {
    users: Arc<Users>,
    /// Of all users these.
    allowed: Vec<Arc<str>>,
    state: State,
}

enum State {
    Plain,
    ScramFirst(Hash),
    ScramFinal { hash: Hash, name: String, gs2_header: String, nonce: String, so_far: String },
    Over,
}

/// What becomes of a client's message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is more: this is the answer.
    Challenge(Vec<u8>),
    /// The client is this user, and this is the last answer.
    Accepted {
        /// Its name in the file.
        user: Arc<str>,
        /// May be empty.
        answer: Vec<u8>,
    },
    /// It is not let in.
    Refused {
        /// Who it says it is, once that is known.
        user: Option<String>,
        /// For the operator. The client must not learn it.
        why: &'static str,
    },
}

impl Verification {
    /// Waits for the client's first message.
    pub fn new(users: Arc<Users>, allowed: &[Arc<str>], mechanism: SaslMechanism) -> Self {
        let state = match mechanism {
            SaslMechanism::Plain => State::Plain,
            SaslMechanism::ScramSha256 => State::ScramFirst(Hash::Sha256),
            SaslMechanism::ScramSha512 => State::ScramFirst(Hash::Sha512),
        };
        Self { users, allowed: allowed.to_vec(), state }
    }

    /// Takes the client's next message. After anything but a challenge it is over.
    pub fn answer(&mut self, message: &[u8]) -> Verdict {
        let Ok(message) = str::from_utf8(message) else { return refused(None, "its message is not UTF-8") };
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => self.plain(message),
            State::ScramFirst(hash) => self.scram_first(hash, message),
            State::ScramFinal { hash, name, gs2_header, nonce, so_far } => {
                self.scram_final(hash, &name, &gs2_header, &nonce, &so_far, message)
            }
            State::Over => refused(None, "its login was over"),
        }
    }

    fn plain(&self, message: &str) -> Verdict {
        let mut parts = message.split('\0');
        let (Some(authorization), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return refused(None, "its message is not PLAIN's");
        };
        if !authorization.is_empty() && authorization != name {
            return refused(Some(name), "it wants to be another user");
        }
        if self.users.is_password(name, password) { self.accept(name, Vec::new()) } else { self.wrong(name) }
    }

    fn scram_first(&mut self, hash: Hash, message: &str) -> Verdict {
        const NOT_SCRAM: &str = "its first message is not SCRAM's";
        let mut parts = message.splitn(3, ',');
        let (Some(binding), Some(authorization), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return refused(None, NOT_SCRAM);
        };
        if !matches!(binding, "n" | "y") {
            return refused(None, "it wants channel binding, which Kafka has not");
        }
        let mut attributes = bare.split(',');
        let (Some(escaped), Some(client_nonce)) = (
            attributes.next().and_then(|attribute| attribute.strip_prefix("n=")),
            attributes.next().and_then(|attribute| attribute.strip_prefix("r=")),
        ) else {
            return refused(None, NOT_SCRAM);
        };
        let Some(name) = unescaped(escaped) else { return refused(None, NOT_SCRAM) };
        if !matches!(authorization.strip_prefix("a="), None | Some("")) && authorization.strip_prefix("a=") != Some(escaped) {
            return refused(Some(&name), "it wants to be another user");
        }
        let mut random = [0; RANDOM];
        SystemRandom::new().fill(&mut random).expect("the system has random bytes");
        let nonce = client_nonce.to_owned() + &BASE64_STANDARD_NO_PAD.encode(random);
        let salt = BASE64_STANDARD.encode(self.users.salt(hash, &name));
        let challenge = format!("r={nonce},s={salt},i={ITERATIONS}");
        let so_far = format!("{bare},{challenge}");
        self.state = State::ScramFinal { hash, name, gs2_header: format!("{binding},{authorization},"), nonce, so_far };
        Verdict::Challenge(challenge.into_bytes())
    }

    fn scram_final(&self, hash: Hash, name: &str, gs2_header: &str, nonce: &str, so_far: &str, message: &str) -> Verdict {
        const NOT_SCRAM: &str = "its last message is not SCRAM's";
        let Some((unproven, proof)) = message.rsplit_once(",p=") else { return refused(Some(name), NOT_SCRAM) };
        let mut attributes = unproven.split(',');
        let header = attributes.next().and_then(|attribute| attribute.strip_prefix("c="));
        let header = header.and_then(|header| BASE64_STANDARD.decode(header).ok());
        if header.as_deref() != Some(gs2_header.as_bytes())
            || attributes.next().and_then(|attribute| attribute.strip_prefix("r=")) != Some(nonce)
        {
            return refused(Some(name), NOT_SCRAM);
        }
        let Ok(proof) = BASE64_STANDARD.decode(proof) else { return refused(Some(name), NOT_SCRAM) };
        let Some(known) = self.users.known.get(name) else { return self.wrong(name) };
        let keys = match hash {
            Hash::Sha256 => &known.sha_256,
            Hash::Sha512 => &known.sha_512,
        };
        let all = format!("{so_far},{unproven}");
        let signature = hmac::sign(&hmac::Key::new(hash.hmac(), &keys.stored_key), all.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(proof, signature)| proof ^ signature).collect();
        if proof.len() != signature.as_ref().len() || digest::digest(hash.digest(), &client_key).as_ref() != keys.stored_key {
            return self.wrong(name);
        }
        let answer = format!("v={}", BASE64_STANDARD.encode(hmac::sign(&keys.server_key, all.as_bytes())));
        self.accept(name, answer.into_bytes())
    }

    fn accept(&self, name: &str, answer: Vec<u8>) -> Verdict {
        match self.allowed.iter().find(|allowed| &***allowed == name) {
            Some(user) => Verdict::Accepted { user: user.clone(), answer },
            None => refused(Some(name), "it is not among the route's sasl_users"),
        }
    }

    fn wrong(&self, name: &str) -> Verdict {
        refused(Some(name), if self.users.known.contains_key(name) { "its password is wrong" } else { "there is no such user" })
    }
}

fn refused(user: Option<&str>, why: &'static str) -> Verdict {
    Verdict::Refused { user: user.map(str::to_owned), why }
}

/// SCRAM writes a comma as `=2C` and an equals sign as `=3D`.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (char, rest) = match part.strip_prefix("2C") {
            Some(rest) => (',', rest),
            None => ('=', part.strip_prefix("3D")?),
        };
        text.push(char);
        text.push_str(rest);
    }
    Some(text)
}

/// The mechanism in the body of a SaslHandshake request, versions 0 and 1.
pub fn handshake_mechanism(body: &[u8]) -> Option<&str> {
    Reader::new(body).string().ok()
}

/// The mechanism's message in the body of a SaslAuthenticate request, versions 0 to 2.
pub fn authenticate_message(body: &[u8], version: i16) -> Option<&[u8]> {
    let mut body = Reader::new(body);
    let len = if version >= 2 { body.uvarint().ok()?.checked_sub(1)? as usize } else { usize::try_from(body.i32().ok()?).ok()? };
    body.take(len).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::security::sasl::Login;
    use kferry_config::{Sasl, Secret};

    const PASSWORD: &str = "pencil, und \u{e4}=";

    fn users() -> Arc<Users> {
        let user = |name: &str, password: &str| User { name: name.into(), password: Secret::Literal(password.to_owned()) };
        Arc::new(Users::load(&[user("orders", PASSWORD), user("a=b,c", "other")]).unwrap())
    }

    fn verification(mechanism: SaslMechanism) -> Verification {
        Verification::new(users(), &["orders".into(), "a=b,c".into()], mechanism)
    }

    /// Logs in with kferry's own client.
    fn log_in(mut server: Verification, mechanism: SaslMechanism, username: &str, password: &str) -> Verdict {
        let sasl = Sasl::Password { mechanism, username: username.to_owned(), password: Secret::Literal(password.to_owned()) };
        let (mut client, mut message) = Login::start(&sasl).unwrap();
        loop {
            match server.answer(&message) {
                Verdict::Challenge(answer) => message = client.answer(&answer).unwrap().unwrap(),
                Verdict::Accepted { user, answer } => {
                    // With SCRAM it is the proof that the proxy knows the password.
                    assert_eq!(client.answer(&answer).unwrap(), None);
                    return Verdict::Accepted { user, answer };
                }
                refused @ Verdict::Refused { .. } => return refused,
            }
        }
    }

    #[test]
    fn a_user_is_let_in_with_its_password_and_no_other() {
        for mechanism in SaslMechanism::ALL {
            for (name, password) in [("orders", PASSWORD), ("a=b,c", "other")] {
                let verdict = log_in(verification(mechanism), mechanism, name, password);
                assert!(matches!(verdict, Verdict::Accepted { ref user, .. } if **user == *name), "{mechanism:?} {name}: {verdict:?}");
            }
            let why = |name, password| match log_in(verification(mechanism), mechanism, name, password) {
                Verdict::Refused { user: Some(user), why } if user == name => why,
                other => panic!("{mechanism:?} {name}: {other:?}"),
            };
            assert_eq!(why("orders", "other"), "its password is wrong");
            assert_eq!(why("nobody", PASSWORD), "there is no such user");
            let other_route = Verification::new(users(), &["a=b,c".into()], mechanism);
            let verdict = log_in(other_route, mechanism, "orders", PASSWORD);
            assert!(matches!(verdict, Verdict::Refused { why: "it is not among the route's sasl_users", .. }), "{verdict:?}");
        }
    }

    #[test]
    fn an_unknown_user_gets_a_salt_that_stays_the_same() {
        let users = users();
        let first = |name: &str| {
            let mut server = Verification::new(users.clone(), &[], SaslMechanism::ScramSha256);
            let Verdict::Challenge(answer) = server.answer(format!("n,,n={name},r=abc").as_bytes()) else { panic!("no challenge") };
            let answer = String::from_utf8(answer).unwrap();
            let (nonce, salt) = answer.split_once(",s=").unwrap();
            assert!(nonce.starts_with("r=abc") && nonce.len() == 5 + 32 && salt.ends_with(",i=4096"), "{answer}");
            salt.to_owned()
        };
        for name in ["orders", "nobody"] {
            assert_eq!(first(name), first(name));
        }
        assert!(first("orders") != first("nobody") && first("orders").len() == first("nobody").len());
    }

    #[test]
    fn what_is_no_login_is_refused() {
        let refused = |mechanism, messages: &[&str]| {
            let mut server = verification(mechanism);
            let verdict = messages.iter().map(|message| server.answer(message.as_bytes())).last().unwrap();
            assert!(matches!(verdict, Verdict::Refused { .. }), "{messages:?}: {verdict:?}");
            assert!(matches!(server.answer(b"\0orders\0pencil"), Verdict::Refused { why: "its login was over", .. }));
        };
        for message in ["", "orders", "\0orders", "\0orders\0a\0b", "root\0orders\0pencil, und \u{e4}=", "\0\0"] {
            refused(SaslMechanism::Plain, &[message]);
        }
        for message in
            ["", "n", "n,", "n,,", "n,,n=orders", "n,,r=a,n=orders", "p=tls-unique,,n=orders,r=a", "n,a=root,n=orders,r=a", "n,,n=a=4,r=a"]
        {
            refused(SaslMechanism::ScramSha512, &[message]);
        }
        for last in ["", "c=biws", "c=biws,r=a,p=AAAA", "c=biws,r=a", ",p=", "c=,r=,p=*"] {
            refused(SaslMechanism::ScramSha256, &["n,,n=orders,r=a", last]);
        }
        let error = |password: &str| Users::load(&[User { name: "orders".into(), password: Secret::Literal(password.to_owned()) }]);
        assert!(error("").unwrap_err().to_string().contains("[users.orders]: the password is empty"));
        assert!(!format!("{:?}", users()).contains("pencil"));
    }

    #[test]
    fn requests_are_read_as_far_as_they_are_there() {
        assert_eq!(handshake_mechanism(b"\0\x05PLAIN"), Some("PLAIN"));
        assert_eq!((handshake_mechanism(b"\0\x06PLAIN"), handshake_mechanism(b"\xff\xff")), (None, None));
        assert_eq!(authenticate_message(b"\0\0\0\x02ab", 1), Some(&b"ab"[..]));
        assert_eq!(authenticate_message(b"\x03ab\0", 2), Some(&b"ab"[..]));
        for (body, version) in [(&b"\0\0\0\x03ab"[..], 0), (b"\xff\xff\xff\xff", 1), (b"\0", 2), (b"\x09ab", 2), (b"", 2)] {
            assert_eq!(authenticate_message(body, version), None, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_from_a_client_make_it_panic(
            first: Vec<u8>,
            scram in "[nyp]?,?(a=[a-z]{0,3})?,?(n=[a-z=23CD]{0,6})?,?(r=[a-z]{0,4})?,?.{0,4}",
            last in "(c=[a-zA-Z=]{0,6})?,?(r=[a-z]{0,4})?,?(p=[a-zA-Z=]{0,9})?.{0,4}",
        ) {
            for mechanism in SaslMechanism::ALL {
                let users = Arc::new(Users { known: HashMap::new(), key: hmac::Key::new(hmac::HMAC_SHA256, b"any") });
                let _ = Verification::new(users.clone(), &[], mechanism).answer(&first);
                let mut server = Verification::new(users, &[], mechanism);
                let _ = server.answer(scram.as_bytes());
                let _ = server.answer(last.as_bytes());
            }
            let _ = (handshake_mechanism(&first), authenticate_message(&first, 1), authenticate_message(&first, 2));
        }
    }
}
