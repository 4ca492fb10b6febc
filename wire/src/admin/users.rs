//! The users of SCRAM. Their passwords cannot be read, so they cannot be copied either: only be set.
//!
//! # References
//! - KIP-554, RFC 5802; `org.apache.kafka.common.security.scram.internals.ScramFormatter.saltedPassword`

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use kafka_protocol::messages::alter_user_scram_credentials_request::{ScramCredentialDeletion, ScramCredentialUpsertion};
use kafka_protocol::messages::{AlterUserScramCredentialsRequest, ApiKey, DescribeUserScramCredentialsRequest};
use kafka_protocol::protocol::VersionRange;
use ring::pbkdf2;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::text;
use crate::client::{Answers, Client, ClientError, Controller, Resend, Subject};

const DESCRIBE_USER_SCRAM_CREDENTIALS: VersionRange = VersionRange { min: 0, max: 0 };
const ALTER_USER_SCRAM_CREDENTIALS: VersionRange = VersionRange { min: 0, max: 0 };

/// Kafka's lowest number of iterations, and its tools' default.
pub const MIN_ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).expect("it is not 0");

/// Bytes of a salt.
const SALT: usize = 24;

/// A mechanism of SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScramMechanism {
    /// `SCRAM-SHA-256`
    Sha256,
    /// `SCRAM-SHA-512`
    Sha512,
}

impl ScramMechanism {
    fn code(self) -> i8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    fn read(code: i8) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|mechanism| mechanism.code() == code)
    }
}

impl fmt::Display for ScramMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        })
    }
}

/// That a user has a password for a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScramCredential {
    /// For which.
    pub mechanism: ScramMechanism,
    /// How expensive guessing is.
    pub iterations: i32,
}

/// A change of a user's password for one mechanism.
#[derive(Debug, Clone)]
pub enum ScramAlteration {
    /// The user cannot log in with it any more.
    Delete(ScramMechanism),
    /// It is this one from now on.
    Upsert(SaltedPassword),
}

/// A password as it is sent: salted and hashed, so no broker sees it.
#[derive(Clone)]
pub struct SaltedPassword {
    mechanism: ScramMechanism,
    iterations: NonZeroU32,
    salt: Vec<u8>,
    salted: Vec<u8>,
}

impl SaltedPassword {
    /// With a random salt.
    pub fn random(mechanism: ScramMechanism, password: &str, iterations: NonZeroU32) -> Self {
        let mut salt = [0; SALT];
        SystemRandom::new().fill(&mut salt).expect("the system has random bytes");
        Self::new(mechanism, password, &salt, iterations)
    }

    /// `salt` should be random and of at least 16 bytes.
    pub fn new(mechanism: ScramMechanism, password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let (algorithm, len) = match mechanism {
            ScramMechanism::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
            ScramMechanism::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, 64),
        };
        let mut salted = vec![0; len];
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        Self { mechanism, iterations, salt: salt.to_vec(), salted }
    }
}

impl fmt::Debug for SaltedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaltedPassword").field("mechanism", &self.mechanism).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Client {
    /// The users that have SCRAM passwords, and for which mechanisms.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn describe_user_scram_credentials(&self) -> Result<BTreeMap<String, Vec<ScramCredential>>, ClientError> {
        self.ask_controller(Resend::Always, |connection| async move {
            // No users is all of them, as null is. But to null a KRaft broker (3.9, 4.3) never answers if we may not ask: building the error
            // it walks the list (`DescribeUserScramCredentialsRequest.getErrorResponse`).
            let request = DescribeUserScramCredentialsRequest::default().with_users(Some(Vec::new()));
            let (asked, answer) = self.send(&connection, DESCRIBE_USER_SCRAM_CREDENTIALS, |_| request).await?;
            asked.check(&Subject::cluster(), answer.error_code, answer.error_message.as_ref())?;
            let mut users = BTreeMap::new();
            for user in &answer.results {
                asked.check(&Subject::other(&format!("user {}", user.user)), user.error_code, user.error_message.as_ref())?;
                let credentials = user.credential_infos.iter().filter_map(|info| {
                    // Newer ones than we know are none that we could set.
                    Some(ScramCredential { mechanism: ScramMechanism::read(info.mechanism)?, iterations: info.iterations })
                });
                // Brokers have no order of their own.
                let mut credentials: Vec<_> = credentials.collect();
                credentials.sort_by_key(|credential| credential.mechanism);
                users.insert(user.user.to_string(), credentials);
            }
            Ok(users)
        })
        .await
    }

    /// Sets or deletes a SCRAM password of each user; with `KRaft` a request may have no more than one change of a user. Brokers go by it a
    /// moment later.
    pub async fn alter_user_scram_credentials(&self, users: &BTreeMap<String, ScramAlteration>) -> Answers<String, ()> {
        let asked = users.iter().map(|(user, alteration)| (user.clone(), alteration)).collect();
        self.spread(ApiKey::AlterUserScramCredentials, Controller, Resend::IfRefused, asked, |connection, batch| async move {
            let (mut deletions, mut upsertions) = (Vec::new(), Vec::new());
            for (user, alteration) in &batch {
                match alteration {
                    ScramAlteration::Delete(mechanism) => {
                        deletions.push(ScramCredentialDeletion::default().with_name(text(user)).with_mechanism(mechanism.code()));
                    }
                    ScramAlteration::Upsert(password) => upsertions.push(
                        ScramCredentialUpsertion::default()
                            .with_name(text(user))
                            .with_mechanism(password.mechanism.code())
                            .with_iterations(password.iterations.get() as i32)
                            .with_salt(password.salt.clone().into())
                            .with_salted_password(password.salted.clone().into()),
                    ),
                }
            }
            let request = AlterUserScramCredentialsRequest::default().with_deletions(deletions).with_upsertions(upsertions);
            let (asked, answer) = self.send(&connection, ALTER_USER_SCRAM_CREDENTIALS, |_| request).await?;
            let results = answer.results.iter().map(|result| {
                let subject = Subject::other(&format!("user {}", result.user));
                let checked = asked.check(&subject, result.error_code, result.error_message.as_ref());
                (result.user.to_string(), checked)
            });
            Ok(results.collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_show() {
        let shown = format!("{:?}", SaltedPassword::new(ScramMechanism::Sha256, "pencil", b"0123456789abcdef", MIN_ITERATIONS));
        assert_eq!(shown, "SaltedPassword { mechanism: Sha256, iterations: 4096, .. }");
    }
}
