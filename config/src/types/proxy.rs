//! What only the proxy reads: `[[listeners]]`, `[users.*]`, `[limits]`, `[[routes]]`; and `[admin]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::cluster::{Cluster, Sasl, SaslMechanism, Secret, Security, TlsIdentity};
use crate::matcher::ClientMatcher;
use crate::names::Selection;

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
    /// `advertised_port_offset`: what is added to `broker_ports` in the ports that clients are told. `broker_port_offset` without it: they are told the
    /// ports that the proxy listens on.
    pub advertised_port_offset: u16,
    /// `proxy_protocol_from`: whose connections begin with a header of the PROXY protocol, which says where the client is. Nobody else may connect
    /// then. Empty: no connection does, and anybody may.
    pub proxy_protocol_from: Vec<IpNet>,
    /// `security_protocol = "SSL"`.
    pub tls: Option<ServerTls>,
    /// `sasl_enabled_mechanisms`: what clients of routes with `sasl_users` may log in with. Without the key SCRAM, and PLAIN too where there is TLS.
    pub sasl_mechanisms: Vec<SaslMechanism>,
}

impl Listener {
    /// The host that relayed clients are told.
    pub fn told_host(&self) -> String {
        self.advertised_host.clone().unwrap_or_else(|| self.bind.ip().to_string())
    }
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
    /// `queued_max_request_bytes`: Produce requests of all relayed clients that the proxy holds to carry them to a leader on another cluster than the one
    /// of their connection, each cluster's in an equal part of it. A larger one is held alone. Default 64 MiB.
    pub queued_max_request_bytes: usize,
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
    /// `stopped`: the operator's word that none of its clients produces. Never in relay mode.
    pub stopped: bool,
    /// `[routes.credentials.CLUSTER]`: what the proxy logs in with for these clients, by the cluster's name. On a cluster that is not
    /// here, SASL is between client and broker. Empty in bootstrap mode.
    pub credentials: BTreeMap<Arc<str>, Sasl>,
    /// `sasl_users`: the `[users.*]` one of which a client must log in as, at the proxy. Empty: the proxy asks for no login.
    pub sasl_users: Vec<Arc<str>>,
    /// `topics` and `topics_regex`: the topics that it owns, but for those that an earlier route does: see [`Config::owner_of_topic`]. None without
    /// the keys, and in bootstrap mode.
    ///
    /// [`Config::owner_of_topic`]: crate::Config::owner_of_topic
    pub owns_topics: Selection,
    /// `groups` and `groups_regex`: the consumer groups that it owns, likewise.
    pub owns_groups: Selection,
}

impl Route {
    /// With what kferry comes to a cluster for the clients of the route: its `[routes.credentials.CLUSTER]`, and no login without them.
    pub fn security(&self, cluster: &Cluster) -> Security {
        let sasl = self.credentials.get(&cluster.name).map(|sasl| Some(sasl.clone()));
        Security { tls: cluster.security.tls.clone(), sasl }
    }
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
