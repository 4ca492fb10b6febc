//! One client connection, from accept to its end, top-down: [`serve`], `handshake`, then bootstrap mode or relay mode.
//!
//! ```text
//!            accepted ────────────▶ not_a_load_balancer, max_connections, max_connections_per_ip
//!               │  PROXY protocol, where the listener has load balancers ─▶ no_proxy_header
//!               │  TLS, where the listener has it; handshake_timeout_ms until the first request is there
//!               ▼
//!          first request ─────────▶ no_request, handshake_timeout, not_kafka, tls_failed; drained: who has asked nothing loses nothing
//!               │  client.id, address, certificate
//!               ▼
//!            routed ──────────────▶ no_route
//!               │
//!      ┌────────┴─────────┐
//!      ▼ mode = bootstrap ▼ mode = relay
//!  any bootstrap       the broker that it came for, or any; the proxy logs in where the route has credentials
//!  server answers         │ ─────▶ cluster_unreachable, unknown_broker, broker_unreachable
//!      │                  ▼
//!      │               logged in at the proxy, where the route has sasl_users ─▶ not_logged_in
//!      ▼                  ▼
//!  bytes both ways     frames both ways ──▶ not_advertised, bare_login, not_rewritten, wrong_answer, no_brokers, unknown_topic_id
//!      └────────┬─────────┘
//!               ▼
//!        client_closed, broker_closed, client_error, broker_error, idle, drained
//! ```
//!
//! From every state: `client_closed`, `client_error`, and `cut` once `drain_timeout_ms` is over. Each connection has one cause for its end, and tells it
//! once ([`ConnectionSummary::closed`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use kafka_protocol::messages::ApiKey;
use kferry_config::{Cluster, HostPort, Mode, Route};
use kferry_wire::connection::{Bare, ConnectOptions};
use kferry_wire::frame::{self, SIZE_LEN};
use kferry_wire::header::{FirstRequest, RequestHeader, Software, check_question};
use kferry_wire::security::tls::subject_of;
use kferry_wire::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::alone::{self, Who};
use crate::bootstrap::ByteRelay;
use crate::bootstrap_servers::{BrokerLogin, Probe};
use crate::clients::Client;
use crate::ending::{Cause, Ending};
use crate::endpoint::Endpoint;
use crate::load_balancer;
use crate::metrics::{self, Open};
use crate::proxy::{Proxy, Sight, carried_bytes};
use crate::relay::brokers::World;
use crate::relay::login::Gate;
use crate::relay::masks::Place;
use crate::relay::own_response::{Advertised, ClientSasl};
use crate::relay::view::{Door, View};
use crate::relay::{FrameRelay, Seat, Terms};
use crate::routes::{Routed, RoutingTable};
use crate::summary::ConnectionSummary;

/// Bytes up to which a first request is read whole before it is sent on. All that clients really begin with is far below.
const FIRST_REQUEST: usize = 64 * 1024;

/// How long a client that was not let in may take to hear why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves a client until its connection ends, and tells the log and the metrics why it did.
pub(crate) async fn serve(proxy: &Proxy, endpoint: &Endpoint, admission: Admission, socket: TcpStream, peer: SocketAddr) {
    let began = Instant::now();
    let _open = Open::new(&endpoint.listener.name);
    let mut session =
        Session { proxy, endpoint, admission, peer, alone: None, summary: ConnectionSummary::new(&endpoint.listener.name, peer) };
    let cause = tokio::select! {
        // First: what is relayed sees the cut by itself, and tells what has moved.
        biased;
        cause = session.converse(socket) => cause,
        () = proxy.cut.cancelled() => Cause::Cut,
    };
    session.summary.closed(&cause, began.elapsed(), &proxy.bursts);
}

/// A connection that is being served. It holds no table: one that is replaced must not live for as long as its connections.
struct Session<'a> {
    proxy: &'a Proxy,
    endpoint: &'a Endpoint,
    admission: Admission,
    /// The client; until a load balancer has told where that is, the load balancer.
    peer: SocketAddr,
    /// It is relayed, and sees its home alone.
    alone: Option<alone::Connected>,
    summary: ConnectionSummary,
}

/// A connection after its handshake: the two modes of a route.
enum Established {
    Bootstrap { client: Stream, broker: Stream, relay: ByteRelay },
    Relay { client: Stream, first: Vec<u8>, broker: Stream, relay: Box<FrameRelay> },
}

impl Session<'_> {
    async fn converse(&mut self, socket: TcpStream) -> Cause {
        // Boxed, here and in the handshake: no phase of a connection carries what another one needs.
        match Box::pin(self.handshake(socket)).await {
            Ok(Established::Bootstrap { client, broker, relay }) => {
                let Ending { cause, moved } = Box::pin(relay.run(client, broker)).await;
                self.summary.moved.requests += moved.requests;
                self.summary.moved.responses += moved.responses;
                cause
            }
            Ok(Established::Relay { client, first, broker, relay }) => {
                let Ending { cause, moved } = Box::pin(relay.run(client, first, broker)).await;
                self.summary.moved = moved;
                if let Some(alone) = &mut self.alone {
                    alone.is_open = relay.has_open();
                }
                cause
            }
            Err(cause) => cause,
        }
    }

    /// Everything up to the first byte of a broker's response.
    async fn handshake(&mut self, socket: TcpStream) -> Result<Established, Cause> {
        let mut table = self.proxy.routes.in_force();
        let mut first = Vec::with_capacity(512);
        let client = self.first_request(&table, socket, &mut first).await?;
        let tls_subject = tls_subject(&client)?;
        let began = Instant::now();
        let mut routed = self.identify(&table, &first, tls_subject.as_deref()).ok_or(Cause::NoRoute)?;
        if let Some(moves) = self.proxy.moves.as_ref().filter(|_| routed.route.mode == Mode::Relay) {
            if timeout(table.limits().handshake_timeout, moves.joined()).await.is_err() {
                return Err(Cause::NotJoined(moves.why_not().unwrap_or_default()));
            }
            // Where a route's home is says the log, and not the file that was in force when the client came.
            let in_force = self.proxy.routes.in_force();
            if !Arc::ptr_eq(&table, &in_force) {
                table = in_force;
                routed = self.identify(&table, &first, tls_subject.as_deref()).ok_or(Cause::NoRoute)?;
            }
        }
        let established = match routed.route.mode {
            Mode::Bootstrap => self.connect_bootstrap(&table, routed, client, first).await?,
            Mode::Relay => self.connect_relay(&table, routed, client, first, tls_subject).await?,
        };
        metrics::routed(&routed.route.name, &routed.home.name, began.elapsed());
        Ok(established)
    }

    /// TLS, and the first request into `first`, in the time that a client has for both.
    async fn first_request(&mut self, table: &RoutingTable, mut socket: TcpStream, first: &mut Vec<u8>) -> Result<Stream, Cause> {
        let (limits, proxy) = (table.limits(), self.proxy);
        let arriving = async {
            if self.admission.awaits_client() {
                self.ask_load_balancer(&mut socket, limits.max_connections_per_ip).await?;
            }
            let mut client = accept_tls(table, &self.endpoint.listener.name, socket).await?;
            read_first_request(&mut client, limits.socket_request_max_bytes, first).await?;
            Ok::<_, Cause>(client)
        };
        let arrived = tokio::select! {
            arrived = timeout(limits.handshake_timeout, arriving) => arrived,
            // Who has asked nothing yet loses nothing.
            () = proxy.drain.cancelled() => return Err(Cause::Drained),
        };
        arrived.unwrap_or_else(|_| {
            Err(if self.admission.awaits_client() {
                Cause::NoProxyHeader("no whole PROXY protocol header arrived before limits.handshake_timeout_ms".to_owned())
            } else {
                Cause::HandshakeTimeout { got: first.len() }
            })
        })
    }

    /// What the load balancer says that the client came by: from here on the connection is that client's.
    async fn ask_load_balancer(&mut self, socket: &mut TcpStream, per_ip: usize) -> Result<(), Cause> {
        let client = load_balancer::read_header(socket).await?.unwrap_or(self.peer);
        self.summary.came_by(self.peer, client);
        self.peer = client;
        self.admission.count(client.ip().to_canonical(), per_ip)
    }

    /// Who the client is and where it belongs; from here on `/clients` has its row. `None`: no route is for it.
    fn identify<'t>(&mut self, table: &'t RoutingTable, first: &[u8], tls_subject: Option<&str>) -> Option<Routed<'t>> {
        let client_id = header(first).client_id();
        let address = self.peer.ip().to_canonical();
        let routed = table.route(&client_id, address, tls_subject);
        let software = Software::peek(&first[SIZE_LEN..]);
        let client = Client {
            client_id: Client::name(&client_id),
            software_name: software.map(|software| Client::name(software.name)),
            software_version: software.map(|software| Client::name(software.version)),
            address,
            tls_subject: tls_subject.map(Client::name),
            listener: self.endpoint.listener.name.clone(),
            route: routed.map(|routed| routed.route.name.clone()),
            cluster: routed.map(|routed| routed.home.name.clone()),
            // Relayed clients are told of no leader epochs.
            stays_with_dead_brokers: routed.is_some_and(|routed| routed.route.mode == Mode::Bootstrap)
                && software.is_some_and(Software::stays_with_dead_brokers),
        };
        self.summary.client = Some(self.proxy.clients.connected(client, Timestamp::now()));
        routed
    }

    /// Bootstrap mode: any of the cluster's bootstrap servers that answers.
    async fn connect_bootstrap(
        &mut self,
        table: &RoutingTable,
        routed: Routed<'_>,
        client: Stream,
        mut first: Vec<u8>,
    ) -> Result<Established, Cause> {
        let asks = is_question(&first);
        if asks {
            check_question(&first[SIZE_LEN..]).map_err(Cause::NotKafka)?;
        }
        let probe = if asks { Probe::Ask(first.as_slice().into()) } else { Probe::Connect };
        let opened = Box::pin(table.servers(routed.home).open(&probe, &self.proxy.overtaking)).await?;
        self.summary.server = Some(opened.server);
        if asks {
            self.summary.moved.requests = first.len() as u64;
            first = Vec::new();
        }
        let relay = ByteRelay {
            requests: first,
            responses: opened.response,
            max_idle: table.limits().connections_max_idle,
            drain: self.proxy.drain.clone(),
            cut: self.proxy.cut.clone(),
        };
        Ok(Established::Bootstrap { client, broker: opened.broker.stream, relay })
    }

    /// Relay mode: the broker that the client came for, the proxy's login there, and the client's login here.
    async fn connect_relay(
        &mut self,
        table: &Arc<RoutingTable>,
        routed: Routed<'_>,
        mut client: Stream,
        mut first: Vec<u8>,
        tls_subject: Option<String>,
    ) -> Result<Established, Cause> {
        let Routed { route, home } = routed;
        let listener = &self.endpoint.listener;
        let Sight { view, mut until } = self.proxy.sight(table, routed);
        let client_id = header(&first).client_id().into_owned();
        if view.is_none() {
            let who = Who { client_id: client_id.clone(), address: self.peer.ip().to_canonical(), tls_subject };
            self.alone = self.proxy.alone(table, who);
            until = self.alone.as_ref().map_or(until, |connected| connected.until().clone());
        }
        let client_id = Client::name(&client_id);
        self.proxy.carrying.resize(carried_bytes(table));
        let connected = Box::pin(self.connect_view(table, routed, &client_id, view.as_deref())).await;
        // franz-go takes an orderly end before the first answer for wrong settings, and gives up records and its place in the group; it
        // tries again after a reset.
        let BrokerConnection { broker: Bare { stream: broker, versions, session }, address, cluster } =
            connected.inspect_err(|_| client.reset_when_dropped())?;
        self.summary.server = Some(address);
        if let Some(view) = &view {
            // What its clusters know and have is waited for, and not left out.
            Box::pin(view.known()).await;
        }
        let others = table.relayed_clusters().filter_map(|cluster| self.proxy.brokers(cluster).versions());
        let advertised = Advertised { versions: others.chain([versions]).collect(), sasl: ClientSasl::of(route, home) };
        if advertised.sasl == ClientSasl::Proxy {
            self.summary.sasl_user = Some(Box::pin(self.log_in(table, routed, &mut client, &mut first, &advertised)).await?);
        }
        // It has no answer yet, either.
        if until.is_cancelled() {
            client.reset_when_dropped();
            return Err(Cause::Cut);
        }
        let relay = FrameRelay::new(Terms {
            world: World {
                identity: table.servers(&cluster).identity().clone(),
                brokers: self.proxy.brokers(&cluster),
                advertised_host: listener.told_host(),
                advertised_port_offset: listener.advertised_port_offset,
                place: view.as_ref().map(|view| Place {
                    leaders: view.leaders().clone(),
                    at: cluster.name.clone(),
                    holds: self.proxy.holds.clone(),
                }),
                cluster: cluster.clone(),
            },
            view: view.map(|view| Seat {
                view,
                door: Door { advertised_host: listener.told_host(), advertised_port_offset: listener.advertised_port_offset },
                from: self.proxy.senders.of(&client_id, self.peer.ip().to_canonical()),
                carrying: self.proxy.carrying.clone(),
                holds: self.proxy.holds.clone(),
                parking: self.proxy.parking.clone(),
                firsts: self.proxy.firsts.clone(),
                seen: self.summary.client.as_ref().map(|client| client.seen().clone()).unwrap_or_default(),
                told: AtomicBool::new(false),
                refused: AtomicBool::new(false),
                aborts: AtomicBool::new(false),
            }),
            advertised,
            session: session.map(Box::new),
            request_limit: table.limits().socket_request_max_bytes,
            max_idle: table.limits().connections_max_idle,
            drain: self.proxy.drain.clone(),
            cut: self.proxy.cut.clone(),
            until,
            pipes: self.proxy.pipes.clone(),
        });
        Ok(Established::Relay { client, first, broker, relay: Box::new(relay) })
    }

    /// Connects to the broker that a relayed client came for, or to any of its home; and if that is away, to any of another cluster of its view.
    async fn connect_view(
        &self,
        table: &RoutingTable,
        Routed { route, home }: Routed<'_>,
        client_id: &str,
        view: Option<&View>,
    ) -> Result<BrokerConnection, Cause> {
        let clusters = view.map_or_else(|| vec![home.clone()], View::clusters);
        // A virtual broker of a cluster that the client does not see is one from before its route changed.
        let of = self.endpoint.broker.as_ref().and_then(|of| clusters.iter().find(|cluster| cluster.name == of.cluster));
        if let Some(cluster) = of {
            return self.connect_broker(table, route, cluster, client_id).await;
        }
        // Some clients give up sooner than a cluster that hangs is given up: those that answer come first.
        let mut connected = None;
        for cluster in view.map_or(clusters, View::answering_first) {
            let next = self.connect_broker(table, route, &cluster, client_id).await;
            let is_over = !matches!(next, Err(Cause::ClusterUnreachable(_)));
            // The first one says why.
            connected = Some(match connected {
                Some(before) if !is_over => before,
                _ => next,
            });
            if is_over {
                break;
            }
        }
        connected.expect("home is one of them")
    }

    /// Connects to the broker that a relayed client came for, or to any of a cluster, and logs in for it where its route has credentials.
    async fn connect_broker(
        &self,
        table: &RoutingTable,
        route: &Route,
        cluster: &Arc<Cluster>,
        client_id: &str,
    ) -> Result<BrokerConnection, Cause> {
        let brokers = self.proxy.brokers(cluster);
        let login = BrokerLogin {
            // Without credentials SASL is between client and broker.
            security: route.security(cluster),
            options: ConnectOptions { client_id: client_id.to_owned(), ..ConnectOptions::default() },
        };
        match &self.endpoint.broker {
            Some(of) if of.cluster == cluster.name => {
                let node_id = of.broker.node_id;
                if brokers.address(node_id).is_none() {
                    brokers.ask(cluster, table.servers(cluster).identity()).await;
                }
                let unknown = || Cause::UnknownBroker { cluster: cluster.name.clone(), node_id };
                let address = brokers.address(node_id).ok_or_else(unknown)?;
                let broker = table.servers(cluster).log_in(&address, &login).await?;
                Ok(BrokerConnection { broker, address, cluster: cluster.clone() })
            }
            // The bootstrap port, or a virtual broker of the cluster that the client was on before its route changed: what it asks there, any broker
            // of the new one can answer.
            _ => {
                let opened = table.servers(cluster).open(&Probe::LogIn(Arc::new(login)), &self.proxy.overtaking).await?;
                Ok(BrokerConnection { broker: opened.broker, address: opened.server, cluster: cluster.clone() })
            }
        }
    }

    /// Has the client log in at the proxy, within the time that it has for its first request. Returns the user's name.
    async fn log_in(
        &self,
        table: &RoutingTable,
        Routed { route, .. }: Routed<'_>,
        client: &mut Stream,
        first: &mut Vec<u8>,
        advertised: &Advertised,
    ) -> Result<Arc<str>, Cause> {
        let protocol = if matches!(client, Stream::Tls(_)) { "SASL_SSL" } else { "SASL_PLAINTEXT" };
        let mechanisms = &table.listener(&self.endpoint.listener).sasl_mechanisms;
        let gate = Gate { users: table.users(), allowed: &route.sasl_users, mechanisms, protocol };
        let logged_in = tokio::select! {
            logged_in = timeout(table.limits().handshake_timeout, gate.log_in(client, first, advertised)) => logged_in,
            () = self.proxy.drain.cancelled() => return Err(Cause::Drained),
        };
        let late = || Err(Cause::NotLoggedIn("it had not logged in before limits.handshake_timeout_ms".to_owned()));
        let result = logged_in.unwrap_or_else(|_| late());
        if result.is_err() {
            // It has been told why, and shall hear it to the end. It is gone either way.
            let _ = timeout(LAST_WORDS, client.shutdown()).await;
        }
        result
    }
}

/// A connection to a broker, and where that is.
struct BrokerConnection {
    broker: Bare,
    address: HostPort,
    cluster: Arc<Cluster>,
}

/// The subject of the certificate that a client has shown.
fn tls_subject(client: &Stream) -> Result<Option<String>, Cause> {
    let Stream::Tls(tls) = client else { return Ok(None) };
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    // rustls has read it already, to verify it.
    let unreadable = |reason| Cause::TlsFailed(format!("the subject of the client's certificate cannot be read: {reason}"));
    shown.map(subject_of).transpose().map_err(unreadable)
}

async fn accept_tls(table: &RoutingTable, listener: &str, socket: TcpStream) -> Result<Stream, Cause> {
    let Some(tls) = table.tls(listener) else { return Ok(Stream::Tcp(socket)) };
    let mut front = [0];
    match socket.peek(&mut front).await {
        Ok(0) => return Err(Cause::NoRequest),
        Ok(_) if front[0] != 0x16 => {
            let what = "a plaintext request on a TLS listener; set the client's security.protocol to SSL or SASL_SSL".to_owned();
            return Err(Cause::TlsFailed(what));
        }
        Ok(_) => {}
        Err(error) => return Err(Cause::ClientError(error)),
    }
    let tls = TlsAcceptor::from(tls.clone()).accept(socket).await.map_err(|error| Cause::TlsFailed(error.to_string()))?;
    Ok(Stream::Tls(Box::new(tls.into())))
}

/// Reads until the header of the first request is there, and the whole of it where it is of the usual size.
async fn read_first_request(client: &mut Stream, limit: usize, first: &mut Vec<u8>) -> Result<(), Cause> {
    loop {
        match FirstRequest::peek(first, limit).map_err(Cause::NotKafka)? {
            FirstRequest::Header { frame_len, .. } if first.len() >= frame_len.min(FIRST_REQUEST) => return Ok(()),
            _ => {}
        }
        match client.read_buf(first).await {
            Ok(0) if first.is_empty() => return Err(Cause::NoRequest),
            Ok(0) => return Err(Cause::ClientClosed),
            Ok(_) => {}
            Err(error) => return Err(Cause::ClientError(error)),
        }
    }
}

/// The header of a first request that has been read.
fn header(first: &[u8]) -> RequestHeader<'_> {
    RequestHeader::peek(&first[SIZE_LEN..]).expect("read_first_request returns once the header is there")
}

/// Whether a first request has arrived whole, and may be asked of two servers: these change nothing, and are what clients begin with.
fn is_question(first: &[u8]) -> bool {
    let whole = matches!(frame::size(first, usize::MAX), Ok(Some(size)) if first.len() == SIZE_LEN + size);
    whole && matches!(header(first).api(), Some(ApiKey::ApiVersions | ApiKey::Metadata | ApiKey::SaslHandshake))
}
