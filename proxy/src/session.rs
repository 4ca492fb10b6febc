//! One client connection, from accept to its end.
//!
//! `accept → TLS → peek the first request → route → connect → relay`, top-down in [`converse`] and [`handshake`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kafka_protocol::messages::ApiKey;
use kferry_config::{HostPort, Mode, Route, Security};
use kferry_wire::connection::{Bare, ConnectOptions};
use kferry_wire::header::{FirstRequest, RequestHeader, Software};
use kferry_wire::security::tls::subject_of;
use kferry_wire::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::bootstrap::{Moved, Relay};
use crate::clients::{Client, Connected};
use crate::metrics::{self, Cause, Closed, Open};
use crate::relay::brokers::{Brokers, World};
use crate::relay::login::Gate;
use crate::relay::{Relayed, Relaying, Sasl};
use crate::routes::InForce;
use crate::server::{Door, Shared};
use crate::servers::{Entrance, Knock};

/// A first request up to this size is read whole before it is sent on. All that clients really begin with is far below.
const FIRST_REQUEST: usize = 64 * 1024;

/// What is known of a connection so far, for the line at its end.
#[derive(Debug, Default)]
struct Story {
    client: Option<Connected>,
    sasl_user: Option<Arc<str>>,
    server: Option<HostPort>,
    moved: Moved,
}

/// Serves a client until its connection ends, and tells the log and the metrics why it did.
pub async fn serve(proxy: &Shared, door: &Door, socket: TcpStream, peer: SocketAddr) {
    let began = Instant::now();
    let _open = Open::new(&door.listener.name);
    let mut story = Story::default();
    let cause = tokio::select! {
        // First: what is relayed sees the cut by itself, and tells what has moved.
        biased;
        cause = converse(proxy, door, socket, peer, &mut story) => cause,
        () = proxy.cut.cancelled() => Cause::Cut,
    };
    let closed = Closed {
        cause: &cause,
        listener: &door.listener.name,
        peer,
        client: story.client.as_ref().map(Connected::client),
        sasl_user: story.sasl_user.as_deref(),
        server: story.server.as_ref(),
        moved: story.moved,
        open_for: began.elapsed(),
    };
    closed.emit(&proxy.bursts);
}

async fn converse(proxy: &Shared, door: &Door, socket: TcpStream, peer: SocketAddr, story: &mut Story) -> Cause {
    // Boxed, here and in the handshake: no phase of a connection carries what another one needs.
    match Box::pin(handshake(proxy, door, socket, peer, story)).await {
        Ok(Way::Bootstrap { client, broker, relay }) => {
            let (end, moved) = Box::pin(relay.run(client, broker)).await;
            story.moved.requests += moved.requests;
            story.moved.responses += moved.responses;
            end.into()
        }
        Ok(Way::Relay { client, first, broker, relayed }) => {
            let (cause, moved) = Box::pin(relayed.run(client, first, broker)).await;
            story.moved = moved;
            cause
        }
        Err(cause) => cause,
    }
}

/// How a connection goes on after its handshake: the two modes of a route.
enum Way {
    Bootstrap { client: Stream, broker: Stream, relay: Relay },
    Relay { client: Stream, first: Vec<u8>, broker: Stream, relayed: Box<Relayed> },
}

/// Everything up to the first byte of a broker's answer.
async fn handshake(proxy: &Shared, door: &Door, socket: TcpStream, peer: SocketAddr, story: &mut Story) -> Result<Way, Cause> {
    let table = proxy.table.in_force();
    let limits = &table.config.limits;
    let mut first = Vec::with_capacity(512);
    let first_request = async {
        let mut client = accept_tls(&table, &door.listener.name, socket).await?;
        read_first_request(&mut client, limits.socket_request_max_bytes, &mut first).await?;
        Ok::<_, Cause>(client)
    };
    let client = tokio::select! {
        client = timeout(limits.handshake_timeout, first_request) => client,
        // Who has asked nothing yet loses nothing.
        () = proxy.drain.cancelled() => return Err(Cause::Drained),
    };
    let mut client = client.unwrap_or_else(|_| Err(Cause::HandshakeTimeout { got: first.len() }))?;
    let tls_subject = tls_subject(&client)?;
    let Ok(FirstRequest::Header { header, frame_len }) = FirstRequest::peek(&first, limits.socket_request_max_bytes) else {
        unreachable!("read_first_request returns once the header is there")
    };

    let began = Instant::now();
    let client_id = header.client_id.unwrap_or_default();
    let address = peer.ip().to_canonical();
    let route = table.config.route(client_id, address, tls_subject.as_deref());
    let software = Software::peek(&first[kferry_wire::frame::SIZE_LEN..]);
    story.client = Some(proxy.clients.connected(
        Client {
            client_id: Client::name(client_id),
            software_name: software.map(|software| Client::name(software.name)),
            software_version: software.map(|software| Client::name(software.version)),
            address,
            tls_subject: tls_subject.as_deref().map(Client::name),
            listener: door.listener.name.clone(),
            route: route.map(|route| route.name.clone()),
            cluster: route.map(|route| route.cluster.name.clone()),
        },
        Timestamp::now(),
    ));
    let route = route.ok_or(Cause::NoRoute)?;

    let way = match route.mode {
        Mode::Bootstrap => {
            let asks = first.len() == frame_len && is_question(&header);
            let knock = if asks { Knock::Ask(first.as_slice().into()) } else { Knock::Connect };
            let opened = Box::pin(table.servers(&route.cluster).open(&knock)).await.map_err(Cause::ClusterUnreachable)?;
            let broker = opened.broker.stream;
            story.server = Some(opened.server);
            if asks {
                story.moved.requests = first.len() as u64;
                first = Vec::new();
            }
            let (max_idle, drain) = (limits.connections_max_idle, proxy.drain.clone());
            let relay = Relay { requests: first, responses: opened.answer, max_idle, drain, cut: proxy.cut.clone() };
            Way::Bootstrap { client, broker, relay }
        }
        Mode::Relay => {
            let brokers = proxy.brokers(&route.cluster);
            let entered = Box::pin(enter(&table, door, route, client_id, &brokers)).await;
            // franz-go takes an orderly end before the first answer for wrong settings, and gives up records and its place in the group; it
            // tries again after a reset.
            let (Bare { stream: broker, versions, session }, server) = entered.inspect_err(|_| client.reset_when_dropped())?;
            story.server = Some(server);
            let relayed = Relayed::new(Relaying {
                world: World {
                    cluster: route.cluster.clone(),
                    brokers,
                    advertised_host: door.listener.advertised_host.clone().unwrap_or_else(|| door.listener.bind.ip().to_string()),
                    broker_port_offset: door.listener.broker_port_offset,
                },
                versions: table.relayed_clusters().filter_map(|cluster| proxy.brokers(cluster).versions()).chain([versions]).collect(),
                sasl: if !route.sasl_users.is_empty() {
                    Sasl::Proxy
                } else if route.credentials.contains_key(&route.cluster.name) {
                    Sasl::Hidden
                } else {
                    Sasl::Broker
                },
                session,
                request_limit: limits.socket_request_max_bytes,
                max_idle: limits.connections_max_idle,
                drain: proxy.drain.clone(),
                cut: proxy.cut.clone(),
                pipes: proxy.pipes.clone(),
            });
            if !route.sasl_users.is_empty() {
                let user = Box::pin(let_in(proxy, &table, door, route, &mut client, &mut first, &relayed)).await?;
                story.sasl_user = Some(user);
            }
            Way::Relay { client, first, broker, relayed: Box::new(relayed) }
        }
    };
    metrics::routed(&route.name, &route.cluster.name, began.elapsed());
    Ok(way)
}

/// Connects to the broker that a relayed client came for, or to any of its cluster, and logs in for it where its route has credentials.
async fn enter(table: &InForce, door: &Door, route: &Route, client_id: &str, brokers: &Brokers) -> Result<(Bare, HostPort), Cause> {
    let cluster = &route.cluster;
    let entrance = Entrance {
        security: Security {
            tls: cluster.security.tls.clone(),
            // Without credentials SASL is between client and broker.
            sasl: route.credentials.get(&cluster.name).map(|sasl| Some(sasl.clone())),
        },
        options: ConnectOptions { client_id: Client::name(client_id), ..ConnectOptions::default() },
    };
    match &door.broker {
        Some((name, node_id)) if *name == cluster.name => {
            if brokers.address(*node_id).is_none() {
                brokers.ask(cluster).await;
            }
            let unknown = || Cause::UnknownBroker { cluster: cluster.name.clone(), node_id: *node_id };
            let address = brokers.address(*node_id).ok_or_else(unknown)?;
            let broker = table.servers(cluster).enter(&address, &entrance).await.map_err(Cause::BrokerUnreachable)?;
            Ok((broker, address))
        }
        // The bootstrap port, or a virtual broker of the cluster that the client was on before its route changed: what it asks there, any broker
        // of the new one can answer.
        _ => {
            let knock = Knock::Enter(Arc::new(entrance));
            let opened = table.servers(cluster).open(&knock).await.map_err(Cause::ClusterUnreachable)?;
            Ok((opened.broker, opened.server))
        }
    }
}

/// Has the client log in at the proxy, within the time that it has for its first request.
async fn let_in(
    proxy: &Shared,
    table: &InForce,
    door: &Door,
    route: &Route,
    client: &mut Stream,
    first: &mut Vec<u8>,
    relayed: &Relayed,
) -> Result<Arc<str>, Cause> {
    let protocol = if matches!(client, Stream::Tls(_)) { "SASL_SSL" } else { "SASL_PLAINTEXT" };
    let mechanisms = table.sasl_mechanisms(&door.listener);
    let gate = Gate { users: &table.users, allowed: &route.sasl_users, mechanisms, protocol };
    let logged_in = tokio::select! {
        logged_in = timeout(table.config.limits.handshake_timeout, gate.log_in(client, first, relayed)) => logged_in,
        () = proxy.drain.cancelled() => return Err(Cause::Drained),
    };
    let late = || Err(Cause::NotLoggedIn("it had not logged in before limits.handshake_timeout_ms".to_owned()));
    let result = logged_in.unwrap_or_else(|_| late());
    if result.is_err() {
        // It has been told why, and shall hear it to the end. It is gone either way.
        let _ = timeout(Duration::from_secs(1), client.shutdown()).await;
    }
    result
}

/// The subject of the certificate that a client has shown.
fn tls_subject(client: &Stream) -> Result<Option<String>, Cause> {
    let Stream::Tls(tls) = client else { return Ok(None) };
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    // rustls has read it already, to verify it.
    let unreadable = |reason| Cause::TlsFailed(format!("the subject of the client's certificate cannot be read: {reason}"));
    shown.map(subject_of).transpose().map_err(unreadable)
}

async fn accept_tls(table: &InForce, listener: &str, socket: TcpStream) -> Result<Stream, Cause> {
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

/// Whether a first request may be asked of two servers: these change nothing, and are what clients begin with.
fn is_question(header: &RequestHeader<'_>) -> bool {
    matches!(header.api(), Some(ApiKey::ApiVersions | ApiKey::Metadata | ApiKey::SaslHandshake))
}
