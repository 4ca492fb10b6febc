//! What all connections of the process share: the routes, what is known of clients and of clusters, limits, and the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kferry_config::Cluster;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admission::Admissions;
use crate::clients::Clients;
use crate::relay::brokers::Brokers;
use crate::relay::splice::{MAX_PIPES, Pipes};
use crate::routes::Routes;
use crate::summary::Bursts;

/// How long it takes until a cluster of relayed clients is asked for its brokers again.
const FOLLOW: Duration = Duration::from_secs(10);

/// What all connections of the process share.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The file, and the table in force.
    pub routes: Arc<Routes>,
    /// Who is and was connected.
    pub clients: Clients,
    /// Who may come in.
    pub admissions: Admissions,
    /// Pipes for the large bodies of relayed connections.
    pub pipes: Pipes,
    /// Keeps the log lines of connections that end few.
    pub bursts: Bursts,
    /// Cancelled when the proxy stops: connections end at a quiet moment.
    pub drain: CancellationToken,
    /// Cancelled when `drain_timeout_ms` is over: the connections that are left end.
    pub cut: CancellationToken,
    /// By the name of their cluster: they outlive a reload.
    brokers: Mutex<HashMap<Arc<str>, Arc<Brokers>>>,
}

impl Proxy {
    /// Of a process that has just started.
    pub(crate) fn new(routes: Arc<Routes>) -> Self {
        Self {
            routes,
            clients: Clients::default(),
            admissions: Admissions::default(),
            pipes: Pipes::new(MAX_PIPES),
            bursts: Bursts::default(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            brokers: Mutex::default(),
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
        let asking = table.relayed_clusters().map(|cluster| async { self.brokers(cluster).ask(cluster).await });
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
