//! Opens the ports, accepts connections, keeps the limits, and drains at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kferry_config::{EphemeralPorts, OpenFiles, who_may_have};
use kferry_wire::tell;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::admission::Admission;
use crate::ending::Cause;
use crate::endpoint::Endpoint;
use crate::load_balancer;
use crate::messages;
use crate::metrics;
use crate::moves::{self, AnotherLog};
use crate::proxy::Proxy;
use crate::quiet::LAST_RESPONSES;
use crate::routes::Routes;
use crate::session;
use crate::summary::ConnectionSummary;

/// Connections of one port that the kernel keeps for the proxy while it is busy: all clients of a killed proxy come at once.
const BACKLOG: u32 = 4096;

/// How long connections that are cut may take to tell the log. They have nothing to wait for.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long the first clients wait at most until the clusters of relayed clients have said what they know.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How long a port waits after it could not accept a connection; twice as long each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A port that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what} of the file): {why}")]
pub struct BindError {
    /// The table of the file that asks for the port, and for which broker.
    what: String,
    address: SocketAddr,
    /// The system's words, and what to do.
    why: String,
}

/// A proxy with its ports open.
#[derive(Debug)]
pub struct Server {
    proxy: Arc<Proxy>,
    ports: Vec<Port>,
    admin: TcpListener,
    metrics: PrometheusHandle,
}

/// A port for Kafka clients that is open.
#[derive(Debug)]
struct Port {
    endpoint: Endpoint,
    socket: TcpListener,
}

impl Server {
    /// Opens every port that the table in force asks for. `metrics`: what `/metrics` shows. `open_files`: how many the process may have.
    ///
    /// # Errors
    /// [`BindError`] for the first that does not open.
    pub fn bind(routes: Arc<Routes>, metrics: PrometheusHandle, open_files: u64) -> Result<Self, BindError> {
        let table = routes.in_force();
        let open_files = OpenFiles::share(open_files, table.own_sockets());
        let mut ports = Vec::new();
        for endpoint in Endpoint::all(&table) {
            let socket = bind(endpoint.address(), || endpoint.to_string())?;
            let listener = &endpoint.listener;
            if endpoint.broker.is_none() {
                metrics::may_close(&listener.name, Cause::LABELS);
                tell!(messages::LISTENING, listener = &*listener.name, address = %listener.bind, tls = listener.tls.is_some());
            }
            ports.push(Port { endpoint, socket });
        }
        let admin = bind(table.admin().bind, || "[admin]".to_owned())?;
        tell!(messages::LISTENING_FOR_OPERATORS, address = %table.admin().bind);
        let max_connections = table.limits().max_connections;
        if max_connections > open_files.clients {
            let OpenFiles { limit, clients, .. } = open_files;
            tell!(messages::CAPPED, max_connections, allowed = clients, open_files = limit);
        }
        Ok(Self { proxy: Arc::new(Proxy::new(routes, open_files)), ports, admin, metrics })
    }

    /// Serves until `stop`, then drains: no new connections, the open ones end at a quiet moment, at the latest after
    /// `limits.drain_timeout_ms`. Returns false if it has ended by itself; its log says why.
    pub async fn run(self, asked_to_stop: CancellationToken) -> bool {
        let stop = asked_to_stop.child_token();
        let Self { proxy, ports, admin, metrics } = self;
        // What a relayed client is told in its very first answer depends on every cluster that it may come to; one that is down is left out.
        let another_log = async { moves::another_log(&proxy.routes.in_force()).await };
        let (_, another_log) = tokio::join!(timeout(FIRST_LOOK, proxy.ask_clusters()), another_log);
        if let Some(AnotherLog { cluster, unknown }) = another_log {
            let error = unknown.map(|error| error.to_string());
            tell!(messages::ANOTHER_LOG, cluster = &*cluster, error);
            return false;
        }
        let sessions = TaskTracker::new();
        let bound = ports.iter().map(|port| port.endpoint.address().to_string()).collect();
        for port in ports {
            tokio::spawn(accept(proxy.clone(), port, sessions.clone(), stop.clone()));
        }
        let (following, follow_until) = (proxy.clone(), stop.clone());
        tokio::spawn(async move { tokio::join!(following.follow_brokers(follow_until.clone()), following.follow_views(follow_until)) });
        let (watching, watch_until) = (proxy.routes.clone(), stop.clone());
        tokio::spawn(async move { watching.watch(watch_until).await });
        let decisions = proxy.moves.clone().zip(proxy.routes.in_force().state().cloned());
        let served = CancellationToken::new();
        // As long as clients are served: what is held for them is let go by decisions.
        let following = decisions
            .map(|(moves, cluster)| tokio::spawn(moves::follow(proxy.clone(), moves, cluster, bound, stop.clone(), served.clone())));
        let closed = CancellationToken::new();
        let admin = tokio::spawn(admin::serve(proxy.clone(), metrics, admin, closed.clone()));

        stop.cancelled().await;
        let limit = proxy.routes.in_force().limits().drain_timeout;
        tell!(messages::DRAINING, connections = sessions.len(), limit_ms = limit.as_millis() as u64);
        proxy.drain.cancel();
        sessions.close();
        // Who is never quiet takes no more requests in the last seconds, and is told what became of those before: it need not send them again.
        let last = LAST_RESPONSES.min(limit / 2);
        if timeout(limit.saturating_sub(last), sessions.wait()).await.is_err() {
            proxy.end_relayed();
        }
        match timeout(last, sessions.wait()).await {
            Ok(()) => tell!(messages::DRAINED),
            Err(_) => {
                tell!(messages::CUT, connections = sessions.len());
                proxy.cut.cancel();
                let _ = timeout(LAST_LINES, sessions.wait()).await;
            }
        }
        // What is carried ends with the process: nothing is sent any more when it says that it has left.
        proxy.carrying.end();
        served.cancel();
        if let Some(following) = following {
            let _ = following.await;
        }
        closed.cancel();
        let _ = admin.await;
        asked_to_stop.is_cancelled()
    }
}

fn bind(address: SocketAddr, what: impl Fn() -> String) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error| BindError { what: what(), address, why: why(&error, address.port()) })
}

fn why(error: &io::Error, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{error}: {}", who_may_have(port, EphemeralPorts::of_this_machine().as_ref())),
        _ => error.to_string(),
    }
}

async fn accept(proxy: Arc<Proxy>, port: Port, sessions: TaskTracker, stop: CancellationToken) {
    let Port { endpoint, socket: listening } = port;
    let endpoint = Arc::new(endpoint);
    let mut wait = FIRST_WAIT;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                wait = FIRST_WAIT;
                // Here and not in the connection's task: who is turned away has given its file back before the next one comes.
                let Some(admission) = admit(&proxy, &endpoint, peer) else { continue };
                let (proxy, endpoint) = (proxy.clone(), endpoint.clone());
                sessions.spawn(async move {
                    // Requests and responses are passed on as they come: waiting for more to send would be a delay.
                    let _ = socket.set_nodelay(true);
                    session::serve(&proxy, &endpoint, admission, socket, peer).await;
                });
            }
            Err(error) => {
                // Mostly EMFILE: it passes when connections end, and the port must not spin until then.
                if let Some(left_out) = proxy.not_accepted.allow("accept", Instant::now()) {
                    let more_not_logged = (left_out > 0).then_some(left_out);
                    tell!(messages::CANNOT_ACCEPT, listener = &*endpoint.listener.name, %error, more_not_logged);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Keeps the limits, and who may connect at all. `None`: the client is turned away.
fn admit(proxy: &Proxy, endpoint: &Endpoint, peer: SocketAddr) -> Option<Admission> {
    let table = proxy.routes.in_force();
    let client = load_balancer::client(table.listener(&endpoint.listener), peer.ip().to_canonical());
    let turned_away = |cause| ConnectionSummary::new(&endpoint.listener.name, peer).closed(&cause, Duration::ZERO, &proxy.bursts);
    client.and_then(|client| proxy.admissions.admit(client, proxy.most(&table))).map_err(turned_away).ok()
}
