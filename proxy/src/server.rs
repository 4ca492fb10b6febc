//! Listeners, limits, drain.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kferry_wire::tell;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use kferry_wire::config::{Cluster, Listener};

use crate::admin;
use crate::brokers::{Brokers, virtual_brokers};
use crate::clients::Clients;
use crate::messages;
use crate::metrics::{Bursts, Cause, Closed};
use crate::relay::Moved;
use crate::routes::Table;
use crate::session;
use crate::splice::{self, Pipes};

/// Connections that the kernel keeps for us while we are busy: all clients of a killed proxy come at once.
const BACKLOG: u32 = 4096;

/// How long requests to the admin address that are under way may take at the end. A half-sent one would hold the process forever.
const LAST_ADMIN_ANSWERS: Duration = Duration::from_secs(1);

/// How long connections that are cut may take to tell the log. They have nothing to wait for.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long the first clients wait at most until the clusters of relayed clients have said what they know.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How often the clusters of relayed clients are asked for their brokers.
const FOLLOW: Duration = Duration::from_secs(10);

/// A port that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what} in routes.toml): {source}")]
pub struct BindError {
    what: String,
    address: SocketAddr,
    source: io::Error,
}

/// What the connections of a proxy share.
#[derive(Debug)]
pub struct Shared {
    /// The table in force.
    pub table: Table,
    /// Who is and was connected.
    pub clients: Clients,
    /// Cancelled when the proxy stops: connections end at a quiet moment.
    pub drain: CancellationToken,
    /// Cancelled when `drain_timeout_ms` is over: the connections that are left end.
    pub cut: CancellationToken,
    /// For the large bodies of relayed connections.
    pub pipes: Pipes,
    pub(crate) bursts: Bursts,
    brokers: Mutex<HashMap<Arc<str>, Arc<Brokers>>>,
    pub(crate) metrics: PrometheusHandle,
    admitted: Admitted,
}

/// Where a client came in.
#[derive(Debug)]
pub struct Door {
    /// The listener.
    pub listener: Listener,
    /// A virtual broker of this cluster, with its real node id. `None`: the listener's own port.
    pub broker: Option<(Arc<str>, i32)>,
}

impl Shared {
    /// What is known of a cluster's brokers.
    pub fn brokers(&self, cluster: &Cluster) -> Arc<Brokers> {
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        brokers.entry(cluster.name.clone()).or_default().clone()
    }

    async fn ask_clusters(&self) {
        let table = self.table.in_force();
        let asking = table.relayed_clusters().map(|cluster| async { self.brokers(cluster).ask(cluster).await });
        futures_util::future::join_all(asking).await;
    }

    /// Follows the clusters of relayed clients: brokers join, leave and change their addresses.
    async fn follow_brokers(&self, stop: CancellationToken) {
        loop {
            self.ask_clusters().await;
            if timeout(FOLLOW, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}

/// A proxy with its ports open.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    doors: Vec<(Door, TcpListener)>,
    admin: TcpListener,
}

impl Proxy {
    /// Opens every port of the table's file.
    ///
    /// # Errors
    /// [`BindError`] for the first that does not open.
    pub fn bind(table: Table, metrics: PrometheusHandle) -> Result<Self, BindError> {
        let in_force = table.in_force();
        let config = &in_force.config;
        let mut doors = Vec::new();
        for listener in &config.listeners {
            let bound = bind(listener.bind, || format!("listener {:?}", listener.name))?;
            tell!(messages::LISTENING, listener = &*listener.name, address = %listener.bind, tls = listener.tls.is_some());
            doors.push((Door { listener: listener.clone(), broker: None }, bound));
            for cluster in in_force.relayed_clusters() {
                for (node_id, port) in virtual_brokers(cluster, listener) {
                    let address = SocketAddr::new(listener.bind.ip(), port);
                    let bound = bind(address, || format!("listener {:?}, broker {node_id} of cluster {:?}", listener.name, cluster.name))?;
                    doors.push((Door { listener: listener.clone(), broker: Some((cluster.name.clone(), node_id)) }, bound));
                }
            }
        }
        let admin = bind(config.admin.bind, || "[admin]".to_owned())?;
        tell!(messages::LISTENING_FOR_OPERATORS, address = %config.admin.bind);
        drop(in_force);
        let shared = Shared {
            table,
            clients: Clients::default(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            pipes: Pipes::new(splice::MAX_PIPES),
            bursts: Bursts::default(),
            brokers: Mutex::default(),
            metrics,
            admitted: Admitted::default(),
        };
        Ok(Self { shared: Arc::new(shared), doors, admin })
    }

    /// What its connections share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Serves until `stop`, then drains: no new connections, the open ones end at a quiet moment, at the latest after
    /// `limits.drain_timeout_ms`.
    pub async fn run(self, stop: CancellationToken) {
        // What a relayed client is told in its very first answer depends on every cluster that it may come to; one that is down is left out.
        let _ = timeout(FIRST_LOOK, self.shared.ask_clusters()).await;
        let sessions = TaskTracker::new();
        for (door, listener) in self.doors {
            tokio::spawn(accept(self.shared.clone(), Arc::new(door), listener, sessions.clone(), stop.clone()));
        }
        let (shared, following) = (self.shared.clone(), stop.clone());
        tokio::spawn(async move { shared.follow_brokers(following).await });
        let shared = self.shared.clone();
        let watching = stop.clone();
        tokio::spawn(async move { shared.table.watch(watching).await });
        let served = CancellationToken::new();
        let admin = tokio::spawn(admin::serve(self.shared.clone(), self.admin, served.clone()));

        stop.cancelled().await;
        let limit = self.shared.table.in_force().config.limits.drain_timeout;
        tell!(messages::DRAINING, connections = sessions.len(), limit_ms = limit.as_millis() as u64);
        self.shared.drain.cancel();
        sessions.close();
        match timeout(limit, sessions.wait()).await {
            Ok(()) => tell!(messages::DRAINED),
            Err(_) => {
                tell!(messages::CUT, connections = sessions.len());
                self.shared.cut.cancel();
                let _ = timeout(LAST_LINES, sessions.wait()).await;
            }
        }
        served.cancel();
        let _ = timeout(LAST_ADMIN_ANSWERS, admin).await;
    }
}

fn bind(address: SocketAddr, what: impl Fn() -> String) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| BindError { what: what(), address, source })
}

async fn accept(shared: Arc<Shared>, door: Arc<Door>, listener: TcpListener, sessions: TaskTracker, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (shared, door) = (shared.clone(), door.clone());
                sessions.spawn(async move { admit(&shared, &door, socket, peer).await });
            }
            Err(error) => {
                // Mostly EMFILE: it passes when connections end, and the listener must not spin until then.
                tell!(messages::CANNOT_ACCEPT, listener = &*door.listener.name, %error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Keeps the limits, then serves.
async fn admit(shared: &Shared, door: &Door, socket: TcpStream, peer: SocketAddr) {
    let admitted = {
        let table = shared.table.in_force();
        let limits = &table.config.limits;
        shared.admitted.admit(peer.ip().to_canonical(), limits.max_connections, limits.max_connections_per_ip)
    };
    match admitted {
        Ok(_while_open) => {
            // Requests and answers are passed on as they come: waiting for more to send would be a delay.
            let _ = socket.set_nodelay(true);
            session::serve(shared, door, socket, peer).await;
        }
        Err(cause) => {
            let closed = Closed {
                cause: &cause,
                listener: &door.listener.name,
                peer,
                client: None,
                sasl_user: None,
                server: None,
                moved: Moved::default(),
                open_for: Duration::ZERO,
            };
            closed.emit(&shared.bursts);
        }
    }
}

/// Open connections, in all and by address.
#[derive(Debug, Default)]
struct Admitted {
    all: AtomicUsize,
    by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// An open connection.
struct Admission<'a> {
    admitted: &'a Admitted,
    ip: IpAddr,
}

impl Admitted {
    fn admit(&self, ip: IpAddr, max: usize, max_per_ip: usize) -> Result<Admission<'_>, Cause> {
        let mut by_ip = self.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = by_ip.entry(ip).or_default();
        if *of_ip >= max_per_ip {
            return Err(Cause::MaxConnectionsPerIp(max_per_ip));
        }
        if self.all.load(Ordering::Relaxed) >= max {
            if *of_ip == 0 {
                by_ip.remove(&ip);
            }
            return Err(Cause::MaxConnections(max));
        }
        *of_ip += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { admitted: self, ip })
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let mut by_ip = self.admitted.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        self.admitted.all.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut of_ip) = by_ip.entry(self.ip) {
            *of_ip.get_mut() -= 1;
            if *of_ip.get() == 0 {
                of_ip.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_what_ends_makes_room() {
        let admitted = Admitted::default();
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = admitted.admit(a, 3, 2).ok().unwrap();
        let _second = admitted.admit(a, 3, 2).ok().unwrap();
        assert!(matches!(admitted.admit(a, 3, 2), Err(Cause::MaxConnectionsPerIp(2))));
        let _third = admitted.admit(b, 3, 2).ok().unwrap();
        assert!(matches!(admitted.admit(b, 3, 2), Err(Cause::MaxConnections(3))));
        drop(first);
        assert!(admitted.admit(b, 3, 2).is_ok());
        assert_eq!(admitted.by_ip.lock().unwrap().len(), 2);
    }
}
