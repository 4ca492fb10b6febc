//! `routes.toml`: the one configuration file, read by all of kferry's programs.
//!
//! [`Config::load`] turns the text into checked types once, at the edge, and reports *every* error of the file together,
//! each with its line, column, a caret and a hint. Nothing behind this module looks at TOML again.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the checked types |
//! | `read` | the schema: TOML tables to drafts of the checked types, one function a table |
//! | `check` | what only several tables together can tell |
//! | `mirrors` | `[[mirrors]]`: what is copied, where to, and under which names |
//! | [`matcher`] | who a route is for: globs and regexes over `client.id`, and which of them an earlier one shadows |
//! | `table` | a TOML table read key by key, so that every error is found |
//! | `syntax` | text to TOML tables, and what of it is not TOML |
//! | [`diagnostic`] | an error or a warning with its place in the file, and how it is shown |
//! | `secret` | what must not be shown |
//!
//! Keys are Kafka's property names with underscores instead of dots. Paths are relative to the folder of the file.

mod check;
pub mod diagnostic;
pub mod matcher;
mod mirrors;
mod read;
mod secret;
mod syntax;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diagnostic::{Diagnostic, Invalid};
use matcher::ClientMatcher;
pub use mirrors::{Collision, CollisionKind, Copied, Mirror, Naming, NamingError, Offsets, OnError, Selection, collisions, is_internal};
pub use read::keys;

/// A checked `routes.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[clusters.*]`, in the order of the file. Names and ids are unique.
    pub clusters: Vec<Arc<Cluster>>,
    /// `[[listeners]]`: where clients connect. Names and addresses are unique. None where there are only mirrors.
    pub listeners: Vec<Listener>,
    /// `[users.*]`, in the order of the file: who may log in at the proxy. Names are unique.
    pub users: Vec<User>,
    /// `[admin]`: metrics, health, clients, reload.
    pub admin: Admin,
    /// `[limits]`.
    pub limits: Limits,
    /// `[[routes]]`, in the order of the file: the first that matches wins. None is shadowed by an earlier one. At least one if there are
    /// listeners.
    pub routes: Vec<Arc<Route>>,
    /// `[[mirrors]]`, in the order of the file. No two copy to the same topic, as far as their names tell: see [`collisions`].
    pub mirrors: Vec<Arc<Mirror>>,
    /// What is allowed and still probably not meant. Rendered like errors.
    pub warnings: Vec<Diagnostic>,
}

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
    pub fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| SecretError::File { path: path.clone(), source })?;
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

/// An address that clients connect to, `[[listeners]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name in the file.
    pub name: Arc<str>,
    /// `bind`.
    pub bind: SocketAddr,
    /// `advertised_host`: under which relayed clients reach the virtual brokers. The host of `bind` without it, which is then an address of
    /// its own.
    pub advertised_host: Option<String>,
    /// `broker_port_offset`: added to every cluster's `broker_ports`, so that several listeners can each have theirs.
    pub broker_port_offset: u16,
    /// `security_protocol = "SSL"`.
    pub tls: Option<ServerTls>,
    /// `sasl_enabled_mechanisms`: what clients of routes with `sasl_users` may log in with. Without the key SCRAM, and PLAIN too where there is TLS.
    pub sasl_mechanisms: Vec<SaslMechanism>,
}

/// Somebody who may log in at the proxy, `[users.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name in the file, and in the login.
    pub name: Arc<str>,
    /// `sasl_password`, `sasl_password_file` or `sasl_password_env`.
    pub password: Secret,
}

/// TLS from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// `ssl_certificate_location` and `ssl_key_location`.
    pub identity: TlsIdentity,
    /// `ssl_client_auth` other than `none`: the authorities of the clients' certificates.
    pub client_auth: Option<ClientAuth>,
}

/// Certificates of clients (mTLS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// `ssl_ca_location`.
    pub ca: PathBuf,
    /// `required`; otherwise `requested`.
    pub required: bool,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `bind`, 127.0.0.1:9190 without it: the proxy's. It has no authentication of its own.
    pub bind: SocketAddr,
    /// `mirror_bind`, 127.0.0.1:9191 without it: kferry-mirror's. Nor has this one.
    pub mirror_bind: SocketAddr,
}

/// `[limits]`: named after the broker's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`: open client connections of the whole proxy. Default 10,000.
    pub max_connections: usize,
    /// `max_connections_per_ip`. Default 2,000.
    pub max_connections_per_ip: usize,
    /// `socket_request_max_bytes`: the size of a request's frame. Default 100 MiB, as at the broker.
    pub socket_request_max_bytes: usize,
    /// `handshake_timeout_ms`: from accept until the client's first request has been read, TLS included. Default 15 s.
    pub handshake_timeout: Duration,
    /// `connections_max_idle_ms`: no byte in either direction. Default 10 min, as at the broker.
    pub connections_max_idle: Duration,
    /// `drain_timeout_ms`: how long a stopping proxy waits for its connections. Default 30 s.
    pub drain_timeout: Duration,
}

/// A line that sends the clients that match to a cluster, `[[routes]]`.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name in the file.
    pub name: Arc<str>,
    /// `client_id` or `client_id_regex`, `client_address` and `tls_subject`.
    pub clients: ClientMatcher,
    /// `cluster`.
    pub cluster: Arc<Cluster>,
    /// `mode`, `bootstrap` without it.
    pub mode: Mode,
    /// `[routes.credentials.CLUSTER]`: what the proxy logs in with for these clients, by the cluster's name. On a cluster that is not
    /// here, SASL is between client and broker. Empty in bootstrap mode.
    pub credentials: BTreeMap<Arc<str>, Sasl>,
    /// `sasl_users`: the `[users.*]` one of which a client must log in as, at the proxy. Empty: the proxy asks for no login.
    pub sasl_users: Vec<Arc<str>>,
}

/// `mode` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The proxy serves the first connection only; the Metadata answer carries the real brokers, and the client goes on directly.
    Bootstrap,
    /// The proxy stays in the path: the client knows its virtual brokers only.
    Relay,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bootstrap, Self::Relay];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Relay => "relay",
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Invalid`] holds all errors of the file at once; its `Display` is what an operator reads.
    pub fn load(path: &Path) -> Result<Self, Invalid> {
        Self::parse(&Self::read(path)?, path)
    }

    /// Reads the text of a file, without a byte order mark: for those who need it besides [`Config::parse`], to compare it or to
    /// [render](diagnostic::render) warnings.
    ///
    /// # Errors
    /// [`Invalid`] says why it is not readable, or where it is not UTF-8.
    pub fn read(path: &Path) -> Result<String, Invalid> {
        let bytes = std::fs::read(path).map_err(|source| Invalid::unreadable(path, &source))?;
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        str::from_utf8(bytes).map(str::to_owned).map_err(|error| Invalid::not_utf8(path, bytes, error.valid_up_to()))
    }

    /// Checks a text. `path` names it in messages, and its folder is where relative paths start.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Invalid> {
        read::config(text, path)
    }

    /// The route of a client: the first that matches. A client without a `client.id` has the id `""`; `tls_subject` is the subject of the
    /// certificate that it has shown, as [`crate::security::tls::subject`] writes it.
    pub fn route(&self, client_id: &str, address: IpAddr, tls_subject: Option<&str>) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.clients.matches(client_id, address, tls_subject))
    }

    /// Every file whose content the proxy uses as it was when the table was made, and which it must read again when it changes: certificates, keys,
    /// and the passwords of `[users.*]`. Passwords and tokens for brokers are not among them: they are read at each login.
    pub fn files(&self) -> Vec<&Path> {
        fn identity(identity: &TlsIdentity) -> [&Path; 2] {
            [&identity.certificate, &identity.key]
        }
        let mut files: Vec<&Path> = Vec::new();
        for tls in self.clusters.iter().filter_map(|cluster| cluster.security.tls.as_ref()) {
            files.extend(tls.ca.as_deref());
            files.extend(tls.identity.iter().flat_map(identity));
        }
        for tls in self.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            files.extend(identity(&tls.identity));
            files.extend(tls.client_auth.iter().map(|auth| auth.ca.as_path()));
        }
        files.extend(self.users.iter().filter_map(|user| match &user.password {
            Secret::File(path) => Some(path.as_path()),
            Secret::Literal(_) | Secret::Env(_) => None,
        }));
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.iter().find(|cluster| &*cluster.name == name)
    }
}
