//! `[clusters.*]`: where a cluster is, and how kferry connects to it.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use crate::file::read_text;

/// One Kafka cluster, `[clusters.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name in the file.
    pub name: Arc<str>,
    /// `id`, 1 to 15: stable and unique. Virtual node ids (see [`NODE_IDS`]) and producer ids are told apart by it, so it never changes.
    pub id: u8,
    /// `bootstrap_servers`: at least one.
    pub bootstrap_servers: Vec<HostPort>,
    /// `node_ids` and `broker_ports`: for relay mode. There if a relayed client may come to the cluster.
    pub brokers: Option<BrokerRange>,
    /// `security_protocol` and the `ssl_*` and `sasl_*` keys: how kferry itself connects.
    pub security: Security,
}

/// So many node ids a cluster has room for: a virtual node id is the cluster's `id` times this, plus the real one.
pub const NODE_IDS: i32 = 10_000_000;

/// `node_ids` and `broker_ports` of a cluster: the brokers that may exist, one port each. Both ranges are equally long:
/// broker `node_ids.start() + n` is `broker_ports.start() + n` on every listener (plus its `broker_port_offset`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRange {
    /// The real node ids, below [`NODE_IDS`].
    pub node_ids: RangeInclusive<i32>,
    /// The ports, 1 to 65535.
    pub ports: RangeInclusive<u16>,
}

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// How kferry connects to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// `SSL` and `SASL_SSL`.
    pub tls: Option<ClientTls>,
    /// `SASL_PLAINTEXT` and `SASL_SSL`: whether brokers expect SASL. The credentials may be missing where no route is in relay mode:
    /// the clients' own pass through.
    pub sasl: Option<Option<Sasl>>,
}

impl Security {
    /// Kafka's name for it: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT`, `SASL_SSL`.
    pub fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        }
    }
}

/// TLS towards a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTls {
    /// `ssl_ca_location`: PEM file of the authorities to trust. The system's without it.
    pub ca: Option<PathBuf>,
    /// `ssl_certificate_location` and `ssl_key_location`: PEM files, for brokers that ask for a certificate (mTLS).
    pub identity: Option<TlsIdentity>,
    /// `ssl_endpoint_identification_algorithm = "none"` turns it off; `"https"` is the default.
    pub skip_host_name_check: bool,
}

/// A certificate chain and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// PEM file: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// Credentials for SASL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sasl {
    /// A user and a password.
    Password {
        /// `sasl_mechanism`.
        mechanism: SaslMechanism,
        /// `sasl_username`.
        username: String,
        /// `sasl_password`, `sasl_password_file` or `sasl_password_env`.
        password: Secret,
    },
    /// `sasl_mechanism = "OAUTHBEARER"`: a token that somebody else keeps fresh.
    OAuthBearer {
        /// `sasl_oauthbearer_token_file`: the token and nothing else, read at each login.
        token_file: PathBuf,
    },
}

impl Sasl {
    /// The name that is sent in SaslHandshake.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Password { mechanism, .. } => mechanism.name(),
            Self::OAuthBearer { .. } => OAUTHBEARER,
        }
    }

    /// Who logs in, for messages: `user 'orders'`, or where the token is.
    pub fn who(&self) -> String {
        match self {
            Self::Password { username, .. } => format!("user '{username}'"),
            Self::OAuthBearer { token_file } => format!("token in {}", token_file.display()),
        }
    }
}

/// The mechanism of [`Sasl::OAuthBearer`].
pub const OAUTHBEARER: &str = "OAUTHBEARER";

/// `sasl_mechanism` with a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// `PLAIN`
    Plain,
    /// `SCRAM-SHA-256`
    ScramSha256,
    /// `SCRAM-SHA-512`
    ScramSha512,
}

impl SaslMechanism {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// The name that is sent in SaslHandshake.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Where a secret is. It is read when it is needed, so that a rotated one is picked up, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In the file itself.
    Literal(String),
    /// The whole content of a file, less one line break at its end.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// A secret that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("cannot read the secret in {path}: {source}; create the file or make it readable for this user")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The variable is not set.
    #[error("the environment variable {0} that holds a secret is not set")]
    Env(String),
}

impl Secret {
    /// Reads the secret as it is now.
    ///
    /// # Errors
    /// [`SecretError`]: the file cannot be read, or the variable is not set.
    pub fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::File(path) => {
                let text = read_text(path).map_err(|source| SecretError::File { path: path.clone(), source })?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
            }
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(***)"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Env(name) => write!(f, "Env({name})"),
        }
    }
}
