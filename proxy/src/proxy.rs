//! What all connections of the process share: the routes, what is known of clients and of clusters, limits, and the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kferry_config::{Cluster, OpenFiles};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admissions, Most};
use crate::clients::Clients;
use crate::relay::brokers::Brokers;
use crate::relay::splice::Pipes;
use crate::routes::{Routes, RoutingTable};
use crate::summary::Bursts;

/// How long it takes until a cluster of relayed clients is asked for its brokers again.
const FOLLOW: Duration = Duration::from_secs(10);

/// Lines about connections that end for the same cause, in a second.
const CLOSED_LINES: u32 = 50;

/// How long the log is silent about more connections that could not be accepted.
const ACCEPT_LINE: Duration = Duration::from_mins(1);

/// What all connections of the process share.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The file, and the table in force.
    pub routes: Arc<Routes>,
    /// Who is and was connected.
    pub clients: Clients,
    /// Who may come in.
    pub admissions: Arc<Admissions>,
    /// How the files are shared out that the process may have open.
    pub open_files: OpenFiles,
    /// A connection that tries a further bootstrap server while an earlier one has not answered yet holds one of these for each.
    pub overtaking: Arc<Semaphore>,
    /// Pipes for the large bodies of relayed connections.
    pub pipes: Pipes,
    /// Keeps the log lines of connections that end few.
    pub bursts: Bursts,
    /// Keeps the log lines of connections that cannot be accepted few.
    pub not_accepted: Bursts,
    /// Cancelled when the proxy stops: connections end at a quiet moment.
    pub drain: CancellationToken,
    /// Cancelled when `drain_timeout_ms` is over: the connections that are left end.
    pub cut: CancellationToken,
    /// By the name of their cluster: they outlive a reload.
    brokers: Mutex<HashMap<Arc<str>, Arc<Brokers>>>,
}

impl Proxy {
    /// Of a process that has just started.
    pub(crate) fn new(routes: Arc<Routes>, open_files: OpenFiles) -> Self {
        Self {
            routes,
            clients: Clients::default(),
            admissions: Arc::default(),
            open_files,
            overtaking: Arc::new(Semaphore::new(open_files.overtaking)),
            pipes: Pipes::new(open_files.pipes),
            bursts: Bursts::new(CLOSED_LINES, Duration::from_secs(1)),
            not_accepted: Bursts::new(1, ACCEPT_LINE),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            brokers: Mutex::default(),
        }
    }

    /// How many connections may be open by a table, and by what the process may have open.
    pub(crate) fn most(&self, table: &RoutingTable) -> Most {
        let limits = table.limits();
        Most {
            all: limits.max_connections.min(self.open_files.clients),
            by_open_files: self.open_files.clients < limits.max_connections,
            per_ip: limits.max_connections_per_ip,
        }
    }

    /// What is known of a cluster's brokers.
    pub(crate) fn brokers(&self, cluster: &Cluster) -> Arc<Brokers> {
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        brokers.entry(cluster.name.clone()).or_default().clone()
    }

    /// Asks the clusters of relayed clients for their brokers, all at once.
    pub(crate) async fn ask_clusters(&self) {
        let table = self.routes.in_force();
        let asking =
            table.relayed_clusters().map(|cluster| async { self.brokers(cluster).ask(cluster, table.servers(cluster).identity()).await });
        futures_util::future::join_all(asking).await;
    }

    /// Follows the clusters of relayed clients, until `stop`: brokers join, leave and change their addresses.
    pub(crate) async fn follow_brokers(&self, stop: CancellationToken) {
        loop {
            self.ask_clusters().await;
            if timeout(FOLLOW, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}
