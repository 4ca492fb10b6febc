//! Which Kafka cluster answers at an address, before a client is sent there.
//!
//! The proxy asks with a login of its own, beside the client's first request, and remembers the answer. Where the file gives it no credentials
//! for brokers that want some, nobody can say; `kferry check --connect` tells of that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use kferry_config::{Cluster, HostPort};
use kferry_wire::cluster::cluster_id;
use kferry_wire::connection::{ConnectOptions, Connection, Refusal};
use kferry_wire::identity::{Identity, WrongCluster};
use kferry_wire::tell;
use tokio::time::{Instant, timeout};

use crate::messages;

/// How long an answer is good. After that a server is asked again, while the next client still gets the answer before.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// How long an answer tells that a server is not down.
const LATELY: Duration = Duration::from_secs(1);

/// How long a server has for its answer.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long the bootstrap servers have, all at once, while nobody knows which cluster is meant.
const FIRST: Duration = Duration::from_secs(1);

/// The identity of one cluster of the file, and what its servers have said of it.
#[derive(Debug)]
pub(crate) struct ClusterIdentity {
    cluster: Arc<Cluster>,
    identity: Identity,
    seen: Mutex<HashMap<HostPort, Seen>>,
    /// Locked while the bootstrap servers are asked for the first time: whoever comes meanwhile waits for the same answers.
    first: tokio::sync::Mutex<bool>,
}

/// What a server has said.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    answered: bool,
    wrong: Option<WrongCluster>,
}

/// How the proxy comes to a broker to ask for itself.
pub(crate) fn own_options() -> ConnectOptions {
    ConnectOptions { client_id: "kferry-proxy".to_owned(), ..ConnectOptions::default() }
}

impl ClusterIdentity {
    /// Of a cluster that nobody has asked yet.
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        let identity = Identity::new(cluster.name.clone());
        Self { cluster, identity, seen: Mutex::default(), first: tokio::sync::Mutex::new(false) }
    }

    /// Whether it is still good for `cluster`, which a new file has under the same name: the servers are the same.
    pub(crate) fn is_of(&self, cluster: &Cluster) -> bool {
        self.cluster.bootstrap_servers == cluster.bootstrap_servers && self.cluster.security == cluster.security
    }

    /// Whether a server may be used. One that cannot be asked may: what is wrong with it will be seen.
    ///
    /// # Errors
    /// [`WrongCluster`]
    pub(crate) async fn check(self: &Arc<Self>, server: &HostPort) -> Result<(), WrongCluster> {
        let seen = match self.due(server) {
            Some((seen, is_due)) => {
                if is_due {
                    let (identity, server) = (self.clone(), server.clone());
                    tokio::spawn(async move { identity.ask(&server).await });
                }
                seen
            }
            None => {
                // Boxed: a connection for which nothing is asked needs no memory for it.
                Box::pin(self.ask_first()).await;
                match self.due(server) {
                    Some((seen, _)) => seen,
                    None => Box::pin(self.ask(server)).await,
                }
            }
        };
        seen.wrong.map_or(Ok(()), Err)
    }

    /// Whether a server answers the proxy just now. Then it is not down, though it has closed a client's connection.
    pub(crate) async fn answers(&self, server: &HostPort) -> bool {
        // Strangers who send what brokers close at do not make the proxy log in each time.
        let lately = self.seen().get(server).cloned().filter(|seen| seen.at.elapsed() < LATELY);
        match lately {
            Some(seen) => seen.answered,
            None => self.ask(server).await.answered,
        }
    }

    /// A server of the cluster has told its id to somebody who asked for more.
    ///
    /// # Errors
    /// [`WrongCluster`]
    pub(crate) fn told(&self, server: &HostPort, cluster_id: &str) -> Result<(), WrongCluster> {
        self.take(server, true, Some(cluster_id)).wrong.map_or(Ok(()), Err)
    }

    /// What is known of a server, and whether it is time to ask again. Who is told that does so.
    fn due(&self, server: &HostPort) -> Option<(Seen, bool)> {
        let mut all = self.seen();
        let seen = all.get_mut(server)?;
        let is_due = seen.at.elapsed() >= GOOD_FOR;
        if is_due {
            seen.at = Instant::now();
        }
        Some((seen.clone(), is_due))
    }

    /// Asks all bootstrap servers. So it is the first of them in the file that says which cluster is meant, and not whichever was asked first.
    async fn ask_first(&self) {
        let mut is_done = self.first.lock().await;
        if *is_done {
            return;
        }
        let servers = &self.cluster.bootstrap_servers;
        let answers = join_all(servers.iter().map(|server| timeout(FIRST, self.question(server)))).await;
        for (server, answer) in servers.iter().zip(answers) {
            let Ok((answered, cluster_id)) = answer else { continue };
            self.take(server, answered, cluster_id.as_deref());
        }
        *is_done = self.identity.cluster_id().is_some();
    }

    async fn ask(&self, server: &HostPort) -> Seen {
        let (answered, cluster_id) = timeout(ATTEMPT, self.question(server)).await.unwrap_or_default();
        self.take(server, answered, cluster_id.as_deref())
    }

    /// Whether a server answers, and the id of its cluster if it tells.
    async fn question(&self, server: &HostPort) -> (bool, Option<String>) {
        match Connection::connect(server, &self.cluster.security, &own_options()).await {
            Ok(connection) => (true, cluster_id(&connection).await.ok().flatten().map(|(cluster_id, _)| cluster_id)),
            Err(error) => (matches!(error.refusal, Refusal::NoCredentials { .. }), None),
        }
    }

    /// Keeps what a server said. One that says nothing is believed to be what it was.
    fn take(&self, server: &HostPort, answered: bool, cluster_id: Option<&str>) -> Seen {
        let verdict = cluster_id.map(|cluster_id| self.identity.compare(server, cluster_id).err());
        let (before, seen) = {
            let mut all = self.seen();
            let before = all.get(server).and_then(|seen| seen.wrong.clone());
            let seen = Seen { at: Instant::now(), answered, wrong: verdict.unwrap_or_else(|| before.clone()) };
            all.insert(server.clone(), seen.clone());
            (before, seen)
        };
        match &seen.wrong {
            Some(wrong) if before.is_none() => tell!(messages::WRONG_CLUSTER: ": {wrong}", cluster = &*self.cluster.name, %server),
            None if before.is_some() => tell!(messages::RIGHT_CLUSTER, cluster = &*self.cluster.name, %server),
            _ => {}
        }
        seen
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<HostPort, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
