//! Every event once: its log line and its metric come from the same place.
//!
//! Label values are bounded: listeners, routes and clusters are names of the file, causes are an enum. A `client.id` is never a label.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;
use kferry_wire::api::RewriteError;
use kferry_wire::config::HostPort;
use kferry_wire::connection::ConnectError;
use kferry_wire::header::NotKafka;
use kferry_wire::tell;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::debug;
use uuid::Uuid;

use crate::clients::Client;
use crate::messages;
use crate::relay::{End, Moved};
use crate::servers::Unreachable;
use crate::splice::Pipes;

const BUILD_INFO: &str = "kferry_proxy_build_info";
const OPEN: &str = "kferry_proxy_connections";
const ACCEPTED: &str = "kferry_proxy_connections_accepted_total";
const ROUTED: &str = "kferry_proxy_connections_routed_total";
const CLOSED: &str = "kferry_proxy_connections_closed_total";
const REQUEST_BYTES: &str = "kferry_proxy_request_bytes_total";
const RESPONSE_BYTES: &str = "kferry_proxy_response_bytes_total";
const CONNECT_SECONDS: &str = "kferry_proxy_broker_connect_seconds";
const SERVER_UP: &str = "kferry_proxy_bootstrap_server_up";
const SERVER_FAILURES: &str = "kferry_proxy_bootstrap_server_failures_total";
const LOGGED_IN_AGAIN: &str = "kferry_proxy_logins_renewed_total";
const OUTSIDE: &str = "kferry_proxy_node_ids_outside_total";
const BODY_BYTES: &str = "kferry_proxy_body_bytes_total";
const PIPES: &str = "kferry_proxy_pipes_in_use";
const PIPES_LIMIT: &str = "kferry_proxy_pipes_limit";
const RELOADS: &str = "kferry_proxy_config_reloads_total";
const RELOAD_OK: &str = "kferry_proxy_config_last_reload_successful";
const LOADED_AT: &str = "kferry_proxy_config_loaded_timestamp_seconds";

/// The metrics that go up and down: name and help.
pub const GAUGES: &[(&str, &str)] = &[
    (OPEN, "Open client connections, by listener"),
    (SERVER_UP, "Whether the last attempt at a bootstrap server succeeded"),
    (PIPES, "Pipes that have a body on its way"),
    (PIPES_LIMIT, "Pipes that there may be"),
    (RELOAD_OK, "Whether the file as it is now is in force"),
    (LOADED_AT, "When the table in force was loaded"),
    (BUILD_INFO, "1; which kferry-proxy this is"),
];

/// The metrics that only grow: name and help.
pub const COUNTERS: &[(&str, &str)] = &[
    (ACCEPTED, "Client connections accepted, by listener"),
    (ROUTED, "Client connections that a route sent to a cluster"),
    (CLOSED, "Client connections that ended, by cause"),
    (REQUEST_BYTES, "Bytes from clients to brokers, counted when a connection ends"),
    (RESPONSE_BYTES, "Bytes from brokers to clients, counted when a connection ends"),
    (SERVER_FAILURES, "Failed attempts at a bootstrap server"),
    (LOGGED_IN_AGAIN, "Logins of the proxy that were done again in the middle of a connection, by cluster"),
    (OUTSIDE, "Brokers seen whose node id is outside of node_ids, by cluster"),
    (BODY_BYTES, "Bytes of large bodies that relayed connections have moved, by the way they went"),
    (RELOADS, "Reloads of routes.toml, by result"),
];

/// The metrics of durations: name and help.
pub const HISTOGRAMS: &[(&str, &str)] = &[(CONNECT_SECONDS, "From a client's first request to the first byte of a broker's answer")];

/// Sets the process's recorder and says what each metric means.
///
/// # Errors
/// If the process has a recorder already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Full(CONNECT_SECONDS.to_owned()), &SECONDS)?
        .install_recorder()?;
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help) in HISTOGRAMS {
        describe_histogram!(*name, *help);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Why a connection ended. The names are the metric's `cause`.
#[derive(Debug)]
pub enum Cause {
    /// The client closed the connection.
    ClientClosed,
    /// The broker closed the connection.
    BrokerClosed,
    /// Nothing moved for `connections_max_idle_ms`.
    Idle,
    /// The proxy stopped.
    Drained,
    /// The proxy stopped, and the connection was still busy after `drain_timeout_ms`.
    Cut,
    /// The client's socket failed.
    ClientError(std::io::Error),
    /// The broker's socket failed.
    BrokerError(std::io::Error),
    /// The client closed the connection without a word: health checks and port scans do.
    NoRequest,
    /// The client's first request did not arrive whole within `handshake_timeout_ms`.
    HandshakeTimeout {
        /// Bytes that did arrive.
        got: usize,
    },
    /// What arrived is not Kafka's protocol.
    NotKafka(NotKafka),
    /// The TLS handshake with the client failed.
    TlsFailed(String),
    /// No route is for this client.
    NoRoute,
    /// A client of a route with `sasl_users` has not logged in at the proxy. Why, for the operator.
    NotLoggedIn(String),
    /// None of the cluster's bootstrap servers answered.
    ClusterUnreachable(Unreachable),
    /// A relayed client used an API or a version that was not advertised to it.
    NotAdvertised {
        /// Which API.
        api_key: i16,
        /// Which version.
        version: i16,
    },
    /// A message of a relayed client or its broker could not be rewritten.
    NotRewritten {
        /// Which API.
        api_key: ApiKey,
        /// Which version.
        version: i16,
        /// Why.
        error: RewriteError,
    },
    /// The broker's answer is not the one to the request that is due.
    WrongAnswer(ApiKey),
    /// The broker told a relayed client of no broker at all.
    NoBrokers,
    /// The id of a topic in a message of a relayed client's, of which the cluster's topics do not tell what it is on the other side.
    UnknownTopicId {
        /// Which API.
        api_key: ApiKey,
        /// The id, as it came.
        topic_id: Uuid,
        /// Why the cluster could not be asked for its topics. `None`: it was, and has none with this id.
        error: Option<String>,
    },
    /// A relayed client came to a virtual broker whose real one its cluster does not know.
    UnknownBroker {
        /// The cluster.
        cluster: Arc<str>,
        /// The real node id.
        node_id: i32,
    },
    /// The real broker behind a virtual one cannot be reached.
    BrokerUnreachable(ConnectError),
    /// `max_connections` are open.
    MaxConnections(usize),
    /// `max_connections_per_ip` are open.
    MaxConnectionsPerIp(usize),
}

impl From<End> for Cause {
    fn from(end: End) -> Self {
        match end {
            End::ClientClosed => Self::ClientClosed,
            End::BrokerClosed => Self::BrokerClosed,
            End::Idle => Self::Idle,
            End::Drained => Self::Drained,
            End::Cut => Self::Cut,
            End::Client(error) => Self::ClientError(error),
            End::Broker(error) => Self::BrokerError(error),
        }
    }
}

impl Cause {
    kferry_wire::labels! {
        Self::ClientClosed => "client_closed",
        Self::BrokerClosed => "broker_closed",
        Self::Idle => "idle",
        Self::Drained => "drained",
        Self::Cut => "cut",
        Self::ClientError(_) => "client_error",
        Self::BrokerError(_) => "broker_error",
        Self::NoRequest => "no_request",
        Self::HandshakeTimeout { .. } => "handshake_timeout",
        Self::NotKafka(_) => "not_kafka",
        Self::TlsFailed(_) => "tls_failed",
        Self::NoRoute => "no_route",
        Self::NotLoggedIn(_) => "not_logged_in",
        Self::ClusterUnreachable(_) => "cluster_unreachable",
        Self::NotAdvertised { .. } => "not_advertised",
        Self::NotRewritten { .. } => "not_rewritten",
        Self::WrongAnswer(_) => "wrong_answer",
        Self::NoBrokers => "no_brokers",
        Self::UnknownTopicId { .. } => "unknown_topic_id",
        Self::UnknownBroker { .. } => "unknown_broker",
        Self::BrokerUnreachable(_) => "broker_unreachable",
        Self::MaxConnections(_) => "max_connections",
        Self::MaxConnectionsPerIp(_) => "max_connections_per_ip",
    }

    /// What an operator should know beyond the label, and do.
    fn detail(&self) -> String {
        match self {
            Self::ClientClosed | Self::BrokerClosed | Self::Idle | Self::Drained | Self::NoRequest => String::new(),
            Self::Cut => "busy when limits.drain_timeout_ms was over".to_owned(),
            Self::ClientError(error) | Self::BrokerError(error) => error.to_string(),
            Self::HandshakeTimeout { got: 0 } => "it sent no request before limits.handshake_timeout_ms".to_owned(),
            Self::HandshakeTimeout { got } => {
                format!("only {got} bytes of its first request arrived before limits.handshake_timeout_ms")
            }
            Self::NotKafka(what) => what.to_string(),
            Self::TlsFailed(error) | Self::NotLoggedIn(error) => error.clone(),
            Self::NoRoute => "no route matches this client: add one to routes.toml, or a last one with client_id = \"*\"".to_owned(),
            Self::ClusterUnreachable(error) => error.to_string(),
            Self::NotAdvertised { api_key, version } => {
                let api = ApiKey::try_from(*api_key).map_or_else(|()| format!("API {api_key}"), |api| format!("{api:?}"));
                format!("it used {api} v{version}, which is not advertised to relayed clients: see docs/apis.md")
            }
            Self::NotRewritten { api_key, version, error: error @ RewriteError::Unmapped(_) } => {
                format!("{api_key:?} v{version}: {error}; widen node_ids and broker_ports in routes.toml")
            }
            Self::NotRewritten { api_key, version, error } => format!("{api_key:?} v{version} is no valid message: {error}"),
            Self::WrongAnswer(api_key) => format!("the broker's answer is not the one to {api_key:?}"),
            Self::NoBrokers => "the broker told of no brokers, as one does that has just started: the client will ask another".to_owned(),
            Self::UnknownTopicId { api_key, topic_id, error: None } => format!(
                "{api_key:?} has the topic id {topic_id}, and kferry's own login sees no topic that has it: let it describe the topics of relayed \
                 clients; if the topic was deleted just now, the client's next try will succeed"
            ),
            Self::UnknownTopicId { api_key, topic_id, error: Some(error) } => {
                format!(
                    "{api_key:?} has the topic id {topic_id}, which is new here, and the cluster cannot be asked for its topics: {error}"
                )
            }
            Self::UnknownBroker { cluster, node_id } => {
                format!("cluster {cluster} has no broker {node_id} now, or could not be asked; the client will find another")
            }
            Self::BrokerUnreachable(error) => error.to_string(),
            Self::MaxConnections(limit) => format!("{limit} connections are open: raise limits.max_connections"),
            Self::MaxConnectionsPerIp(limit) => {
                format!("{limit} connections of this address are open: raise limits.max_connections_per_ip")
            }
        }
    }

    /// Whether a person should look at it.
    fn is_trouble(&self) -> bool {
        !matches!(self, Self::ClientClosed | Self::BrokerClosed | Self::Idle | Self::Drained | Self::NoRequest | Self::ClientError(_))
    }
}

/// A connection was accepted; counts it as open until it is dropped.
#[derive(Debug)]
pub struct Open(metrics::Gauge);

impl Open {
    /// Counts it.
    pub fn new(listener: &str) -> Self {
        counter!(ACCEPTED, "listener" => listener.to_owned()).increment(1);
        let gauge = gauge!(OPEN, "listener" => listener.to_owned());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A client was sent to a cluster, and a broker there has answered.
pub fn routed(route: &str, cluster: &str, took: Duration) {
    counter!(ROUTED, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(1);
    histogram!(CONNECT_SECONDS, "cluster" => cluster.to_owned()).record(took.as_secs_f64());
}

/// The proxy has logged in again on a connection whose login was good for a time only.
pub fn logged_in_again(cluster: &str) {
    counter!(LOGGED_IN_AGAIN, "cluster" => cluster.to_owned()).increment(1);
}

/// A cluster has a broker that has no virtual one.
pub fn node_id_outside(cluster: &str, node_id: i32) {
    counter!(OUTSIDE, "cluster" => cluster.to_owned()).increment(1);
    tell!(messages::NODE_ID_OUTSIDE, cluster, node_id);
}

/// Somebody asks for the metrics: what the pipes count themselves.
pub fn pipes(pipes: &Pipes) {
    let totals = pipes.totals();
    for (way, bytes) in [("spliced", totals.spliced), ("copied", totals.copied), ("tls", totals.tls)] {
        counter!(BODY_BYTES, "way" => way).absolute(bytes);
    }
    let (in_use, limit) = pipes.in_use();
    gauge!(PIPES).set(in_use as f64);
    gauge!(PIPES_LIMIT).set(limit as f64);
}

/// A bootstrap server was tried.
pub fn server_tried(cluster: &str, server: &HostPort, error: Option<&str>) {
    let up = gauge!(SERVER_UP, "cluster" => cluster.to_owned(), "server" => server.to_string());
    match error {
        None => up.set(1.0),
        Some(error) => {
            up.set(0.0);
            counter!(SERVER_FAILURES, "cluster" => cluster.to_owned(), "server" => server.to_string()).increment(1);
            debug!(cluster, %server, error, "bootstrap server failed");
        }
    }
}

/// `routes.toml` was loaded at start, or loaded again.
pub fn loaded(now: jiff::Timestamp) {
    gauge!(LOADED_AT).set(now.as_millisecond() as f64 / 1000.0);
    gauge!(RELOAD_OK).set(1.0);
}

/// A reload ended.
pub fn reloaded(result: &'static str) {
    counter!(RELOADS, "result" => result).increment(1);
    gauge!(RELOAD_OK).set(if result == "invalid" { 0.0 } else { 1.0 });
}

/// A connection's whole story, told at its end.
#[derive(Debug)]
pub struct Closed<'a> {
    /// Why.
    pub cause: &'a Cause,
    /// Where it came to.
    pub listener: &'a str,
    /// Where it came from.
    pub peer: std::net::SocketAddr,
    /// Who it was, once that was known.
    pub client: Option<&'a Client>,
    /// As whom it logged in at the proxy.
    pub sasl_user: Option<&'a str>,
    /// The bootstrap server that answered.
    pub server: Option<&'a HostPort>,
    /// What went through.
    pub moved: Moved,
    /// How long it was open.
    pub open_for: Duration,
}

impl Closed<'_> {
    /// The log line and the metrics.
    pub fn emit(&self, bursts: &Bursts) {
        let cause = self.cause.label();
        counter!(CLOSED, "cause" => cause, "listener" => self.listener.to_owned()).increment(1);
        let route = self.client.and_then(|client| client.route.as_deref()).unwrap_or_default();
        let cluster = self.client.and_then(|client| client.cluster.as_deref()).unwrap_or_default();
        if self.moved != Moved::default() {
            counter!(REQUEST_BYTES, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(self.moved.requests);
            counter!(RESPONSE_BYTES, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(self.moved.responses);
        }
        let Some(left_out) = bursts.allow(cause, Instant::now()) else { return };
        macro_rules! closed {
            ($message:ident) => {
                tell!(
                    messages::$message,
                    cause,
                    detail = self.cause.detail(),
                    // Debug: a client chooses its own name, and may choose one with line breaks.
                    client_id = self.client.map(|client| client.client_id.as_str()),
                    software = self.client.and_then(|client| client.software_name.as_deref()),
                    software_version = self.client.and_then(|client| client.software_version.as_deref()),
                    tls_subject = self.client.and_then(|client| client.tls_subject.as_deref()),
                    sasl_user = self.sasl_user,
                    peer = %self.peer,
                    listener = self.listener,
                    route,
                    cluster,
                    server = self.server.map(tracing::field::display),
                    request_bytes = self.moved.requests,
                    response_bytes = self.moved.responses,
                    seconds = (self.open_for.as_secs_f64() * 1000.0).round() / 1000.0,
                    more_not_logged = (left_out > 0).then_some(left_out)
                )
            };
        }
        match self.cause {
            Cause::NoRequest => closed!(CLOSED_WITHOUT_A_WORD),
            cause if cause.is_trouble() => closed!(CLOSED_IN_TROUBLE),
            _ => closed!(CLOSED),
        }
    }
}

/// Keeps a burst of the same event (a port scan, a thousand clients of a dead cluster) from filling the disk: metrics count each one, the log
/// tells [`Bursts::LINES`] of a kind a second, and then how many it left out.
#[derive(Debug, Default)]
pub struct Bursts(Mutex<HashMap<&'static str, Burst>>);

#[derive(Debug)]
struct Burst {
    began: Instant,
    told: u32,
    left_out: u64,
}

impl Bursts {
    /// Lines of one kind in a second.
    pub const LINES: u32 = 50;

    /// `None`: count it only. `Some(n)`: tell it, and that `n` were left out before.
    fn allow(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut bursts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let burst = bursts.entry(kind).or_insert(Burst { began: now, told: 0, left_out: 0 });
        if now.duration_since(burst.began) >= Duration::from_secs(1) {
            burst.began = now;
            burst.told = 0;
        }
        if burst.told == Self::LINES {
            burst.left_out += 1;
            return None;
        }
        burst.told += 1;
        Some(std::mem::take(&mut burst.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_and_then_counted() {
        let bursts = Bursts::default();
        let start = Instant::now();
        let told = (0..1000).filter(|_| bursts.allow("idle", start).is_some()).count();
        assert_eq!(told, Bursts::LINES as usize);
        assert_eq!(bursts.allow("no_route", start), Some(0));
        let later = start + Duration::from_secs(1);
        assert_eq!(bursts.allow("idle", later), Some(1000 - u64::from(Bursts::LINES)));
        assert_eq!(bursts.allow("idle", later), Some(0));
    }
}
