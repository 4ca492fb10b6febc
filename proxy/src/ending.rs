//! How a connection ended: why, and what had moved by then.

use std::io;
use std::sync::Arc;

use kafka_protocol::messages::ApiKey;
use kferry_config::HostPort;
use kferry_wire::api::RewriteError;
use kferry_wire::connection::ConnectError;
use kferry_wire::header::NotKafka;
use kferry_wire::identity::WrongCluster;
use uuid::Uuid;

use crate::bootstrap_servers::{NotOpened, Unreachable};

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Why.
    pub cause: Cause,
    /// What had moved by then.
    pub moved: Moved,
}

/// Bytes that went through a connection, counted as they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// From the client to the broker.
    pub requests: u64,
    /// From the broker to the client.
    pub responses: u64,
}

/// Why a connection ended. The names are the metric's `cause`.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The client closed the connection.
    ClientClosed,
    /// The broker closed the connection.
    BrokerClosed,
    /// A broker closed the connection at the client's first request, and answers the proxy.
    FirstRequestRefused(HostPort),
    /// Nothing moved for `connections_max_idle_ms`.
    Idle,
    /// The proxy stopped.
    Drained,
    /// The proxy stopped, and the connection was still busy after `drain_timeout_ms`.
    Cut,
    /// The client's socket failed.
    ClientError(io::Error),
    /// The broker's socket failed.
    BrokerError(io::Error),
    /// The client closed the connection without a word: health checks and port scans do.
    NoRequest,
    /// The client's first request did not arrive whole within `handshake_timeout_ms`.
    HandshakeTimeout {
        /// Bytes that did arrive.
        got: usize,
    },
    /// The connection is not from one of the listener's `proxy_protocol_from`.
    NotALoadBalancer,
    /// A load balancer did not begin its connection with a header of the PROXY protocol. What came instead, for the operator.
    NoProxyHeader(String),
    /// What arrived is not Kafka's protocol.
    NotKafka(NotKafka),
    /// The TLS handshake with the client failed.
    TlsFailed(String),
    /// No route is for this client.
    NoRoute,
    /// A client of a route with `sasl_users` has not logged in at the proxy. Why, for the operator.
    NotLoggedIn(String),
    /// The process has not joined those that decide where topics lead, so that it must not serve relayed clients yet. Why, for the operator.
    NotJoined(String),
    /// None of the cluster's bootstrap servers answered.
    ClusterUnreachable(Unreachable),
    /// A relayed client used an API or a version that was not advertised to it.
    NotAdvertised {
        /// Which API.
        api_key: i16,
        /// Which version.
        version: i16,
    },
    /// A relayed client began a login of the old kind (SaslHandshake version 0), and its mechanism does not tell how many messages follow.
    BareLogin {
        /// As the client says.
        mechanism: String,
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
    WrongResponse(ApiKey),
    /// The broker told a relayed client of no broker at all.
    NoBrokers,
    /// A cluster of the client's view could not be asked what the client asks.
    NotAsked {
        /// Which.
        cluster: Arc<str>,
        /// What.
        api_key: ApiKey,
        /// Why.
        error: String,
    },
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
    /// At the address of the real broker behind a virtual one is a broker of another cluster.
    WrongCluster(WrongCluster),
    /// The real broker behind a virtual one cannot be reached.
    BrokerUnreachable(ConnectError),
    /// So many connections are open as may be.
    MaxConnections {
        /// How many.
        limit: usize,
        /// It is what the process's limit of open files allows, which is less than `max_connections`.
        by_open_files: bool,
    },
    /// `max_connections_per_ip` are open.
    MaxConnectionsPerIp(usize),
}

impl From<NotOpened> for Cause {
    fn from(not_opened: NotOpened) -> Self {
        match not_opened {
            NotOpened::Unreachable(unreachable) => Self::ClusterUnreachable(unreachable),
            NotOpened::Closed { server } => Self::FirstRequestRefused(server),
            NotOpened::Broker(error) => Self::BrokerUnreachable(error),
            NotOpened::WrongCluster(wrong) => Self::WrongCluster(wrong),
        }
    }
}

impl Cause {
    kferry_wire::labels! {
        Self::ClientClosed => "client_closed",
        Self::BrokerClosed => "broker_closed",
        Self::FirstRequestRefused(_) => "first_request_refused",
        Self::Idle => "idle",
        Self::Drained => "drained",
        Self::Cut => "cut",
        Self::ClientError(_) => "client_error",
        Self::BrokerError(_) => "broker_error",
        Self::NoRequest => "no_request",
        Self::HandshakeTimeout { .. } => "handshake_timeout",
        Self::NotALoadBalancer => "not_a_load_balancer",
        Self::NoProxyHeader(_) => "no_proxy_header",
        Self::NotKafka(_) => "not_kafka",
        Self::TlsFailed(_) => "tls_failed",
        Self::NoRoute => "no_route",
        Self::NotLoggedIn(_) => "not_logged_in",
        Self::NotJoined(_) => "not_joined",
        Self::ClusterUnreachable(_) => "cluster_unreachable",
        Self::NotAdvertised { .. } => "not_advertised",
        Self::BareLogin { .. } => "bare_login",
        Self::NotRewritten { .. } => "not_rewritten",
        Self::WrongResponse(_) => "wrong_answer",
        Self::NoBrokers => "no_brokers",
        Self::NotAsked { .. } => "not_asked",
        Self::UnknownTopicId { .. } => "unknown_topic_id",
        Self::UnknownBroker { .. } => "unknown_broker",
        Self::WrongCluster(_) => "wrong_cluster",
        Self::BrokerUnreachable(_) => "broker_unreachable",
        Self::MaxConnections { .. } => "max_connections",
        Self::MaxConnectionsPerIp(_) => "max_connections_per_ip",
    }

    /// What an operator should know beyond the label, and do.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::ClientClosed | Self::BrokerClosed | Self::Idle | Self::Drained | Self::NoRequest => String::new(),
            Self::Cut => "kferry-proxy ended: limits.drain_timeout_ms was over, or its log says why it ended at once; or the client is to see more clusters than before, or fewer: by another file, or because its route's home has changed".to_owned(),
            Self::ClientError(error) | Self::BrokerError(error) => error.to_string(),
            Self::HandshakeTimeout { got: 0 } => "it sent no request before limits.handshake_timeout_ms".to_owned(),
            Self::HandshakeTimeout { got } => {
                format!("only {got} bytes of its first request arrived before limits.handshake_timeout_ms")
            }
            Self::NotALoadBalancer => {
                "the listener's proxy_protocol_from does not have this address: clients connect to the load balancer; add the address if it is one".to_owned()
            }
            Self::NoProxyHeader(what) => what.clone(),
            Self::NotKafka(what) => what.to_string(),
            Self::TlsFailed(error) | Self::NotLoggedIn(error) => error.clone(),
            Self::NoRoute => "no route matches this client: add one to routes.toml, or a last one with client_id = \"*\"".to_owned(),
            Self::NotJoined(why) => format!("where topics lead says the log of decisions on the cluster of [state], and {why}; the client will try again"),
            Self::ClusterUnreachable(error) => error.to_string(),
            Self::NotAdvertised { api_key, version } => {
                let api = ApiKey::try_from(*api_key).map_or_else(|()| format!("API {api_key}"), |api| format!("{api:?}"));
                format!("it used {api} v{version}, which is not advertised to relayed clients: see docs/apis.md")
            }
            Self::BareLogin { mechanism } => format!(
                "it began to log in with {mechanism:?} by SaslHandshake v0, as old clients do (kafka-python before 2.1, old sarama): relay mode carries that \
                 with PLAIN, SCRAM and OAUTHBEARER only; update the client, or let it set SaslHandshake v1"
            ),
            Self::NotRewritten { api_key, version, error: error @ RewriteError::Unmapped(_) } => {
                format!("{api_key:?} v{version}: {error}; widen node_ids and broker_ports in routes.toml")
            }
            Self::NotRewritten { api_key, version, error } => format!("{api_key:?} v{version} is no valid message: {error}"),
            Self::WrongResponse(api_key) => format!("the broker's answer is not the one to {api_key:?}"),
            Self::NoBrokers => "the broker told of no brokers, as one does that has just started: the client will ask another".to_owned(),
            Self::NotAsked { cluster, api_key, error } => {
                format!("{api_key:?} is for the cluster {cluster}, and that could not be asked: {error}; the client will try again")
            }
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
            Self::FirstRequestRefused(server) => {
                format!(
                    "{server} closed the connection at the client's first request, but answers kferry: look for the reason in that broker's log"
                )
            }
            Self::WrongCluster(error) => error.to_string(),
            Self::BrokerUnreachable(error) => error.to_string(),
            Self::MaxConnections { limit, by_open_files: false } => {
                format!("{limit} connections are open: raise limits.max_connections")
            }
            Self::MaxConnections { limit, by_open_files: true } => {
                format!("{limit} connections are open, as many as the limit of open files allows: raise the hard one (ulimit -Hn)")
            }
            Self::MaxConnectionsPerIp(limit) => {
                format!("{limit} connections of this address are open: raise limits.max_connections_per_ip")
            }
        }
    }

    /// Whether a person should look at it.
    pub(crate) fn is_trouble(&self) -> bool {
        !matches!(self, Self::ClientClosed | Self::BrokerClosed | Self::Idle | Self::Drained | Self::NoRequest | Self::ClientError(_))
    }
}
