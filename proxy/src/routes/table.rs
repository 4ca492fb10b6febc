//! The table in force: what connections are routed by.
//!
//! It is made of a file without errors, and of what was decided: with moves a client's home changes by a decision and not by a reload. So whoever routes asks
//! the table, and never the file.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kferry_config::diagnostic::Invalid;
use kferry_config::{Admin, CertificateFile, Cluster, Limits, Listener, Mirror, Mode, Route};
use kferry_wire::files::NotRead;
use kferry_wire::security::tls::{SecurityError, not_after, server_config};
use kferry_wire::security::users::{UserError, Users};
use tokio_rustls::rustls::ServerConfig;

use super::wished::Wish;
use crate::bootstrap_servers::BootstrapServers;
use crate::metrics;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file, or one that it names, did not come in time.
    #[error("{}, or a certificate, key or password that it names, {source}", path.display())]
    NotRead {
        /// `routes.toml`
        path: PathBuf,
        /// After how long.
        source: NotRead,
    },
    /// The file has errors.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file is right, but has mirrors only.
    #[error("{}: no [[listeners]] and [[routes]]: as it is the file is for kferry-mirror only; write where clients connect, and which land where", .0.display())]
    OnlyMirrors(PathBuf),
    /// The file is right, but needs ports that a process opens only when it starts.
    #[error("{}: {what}", path.display())]
    NotOpen {
        /// `routes.toml`
        path: PathBuf,
        /// Which.
        what: String,
    },
    /// The file is right, but the password of a user that it names is not.
    #[error("{}: {source}", path.display())]
    User {
        /// `routes.toml`
        path: PathBuf,
        /// Which user, and what is wrong with it.
        source: UserError,
    },
    /// The file is right, but a certificate or key that it names is not.
    #[error("{}: {source}", path.display())]
    Security {
        /// `routes.toml`
        path: PathBuf,
        /// Which file, and what is wrong with it.
        source: SecurityError,
    },
}

/// Where the clients of routes are at home by a decision: names of clusters, by the name of the route.
pub(crate) type Homes = HashMap<Arc<str>, Arc<str>>;

/// A table, ready to use.
#[derive(Debug, Clone)]
pub(crate) struct RoutingTable {
    /// The file that it was made of.
    wish: Arc<Wish>,
    /// What was decided; for other routes it is the file's.
    homes: HashMap<Arc<str>, Arc<Cluster>>,
    /// Since when it is in force.
    loaded_at: Timestamp,
    /// Who may log in at the proxy.
    users: Arc<Users>,
    /// Of every cluster of the file, by its name.
    servers: HashMap<Arc<str>, Arc<BootstrapServers>>,
    /// Of every listener that has TLS, by its name.
    tls: HashMap<Arc<str>, Arc<ServerConfig>>,
    /// The files with certificates that it was made of, and until when those are good, in seconds since 1970.
    certificates: Vec<(CertificateFile, i64)>,
}

/// Where a client belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routed<'a> {
    /// Its route in the file.
    pub route: &'a Arc<Route>,
    /// The cluster in force for the clients of that route.
    pub home: &'a Arc<Cluster>,
}

impl RoutingTable {
    /// Makes the table of a wish; reads the certificates, keys and passwords that it names. `path`: the file, for errors. `before`: the table
    /// that this one will replace.
    ///
    /// # Errors
    /// [`LoadError`]: a file that is right, and of no use to the proxy.
    pub(super) fn build(wish: Wish, path: &Path, before: Option<&Self>) -> Result<Self, LoadError> {
        let config = &wish.config;
        if config.listeners.is_empty() {
            return Err(LoadError::OnlyMirrors(path.to_owned()));
        }
        let users = Users::load(&config.users).map_err(|source| LoadError::User { path: path.to_owned(), source })?;
        let security = |source| LoadError::Security { path: path.to_owned(), source };
        let mut servers = HashMap::new();
        for cluster in &config.clusters {
            let made = Arc::new(
                BootstrapServers::new(
                    cluster.clone(),
                    before.and_then(|before| before.servers.get(&cluster.name)).map(|servers| &**servers),
                )
                .map_err(security)?,
            );
            servers.insert(cluster.name.clone(), made);
        }
        // A listener that the file has dropped is bound until the restart, and goes on as it was.
        let mut tls = before.map(|before| before.tls.clone()).unwrap_or_default();
        for listener in &config.listeners {
            tls.remove(&listener.name);
            if let Some(settings) = &listener.tls {
                tls.insert(listener.name.clone(), server_config(settings).map_err(security)?);
            }
        }
        let files = config.clusters.iter().flat_map(|cluster| cluster.certificates());
        let files = files.chain(config.listeners.iter().flat_map(Listener::certificates));
        let certificates = files.filter_map(|file| not_after(&file).map(|until| (file, until))).collect();
        Ok(Self {
            users: Arc::new(users),
            loaded_at: Timestamp::now(),
            servers,
            tls,
            certificates,
            homes: HashMap::new(),
            wish: Arc::new(wish),
        })
    }

    /// This table, with these homes. Those on a cluster that the file does not have any more are the file's.
    pub(super) fn with(mut self, homes: &Homes) -> Self {
        let cluster = |name: &str| self.wish.config.cluster(name).cloned();
        self.homes = homes.iter().filter_map(|(route, home)| Some((route.clone(), cluster(home)?))).collect();
        self
    }

    fn home<'a>(&'a self, route: &'a Route) -> &'a Arc<Cluster> {
        self.homes.get(&route.name).filter(|_| route.mode == Mode::Relay).unwrap_or(&route.cluster)
    }

    /// The file that it was made of.
    pub(super) fn wish(&self) -> &Wish {
        &self.wish
    }

    /// Since when it is in force.
    pub(super) fn loaded_at(&self) -> Timestamp {
        self.loaded_at
    }

    /// Tells the metrics what there is to count from now on, instead of what there was `before`.
    pub(super) fn tell(&self, before: Option<&Self>) {
        metrics::certificates(before.map_or(&[], |before| &before.certificates), &self.certificates);
        for route in &self.wish.config.routes {
            metrics::may_route(&route.name, &route.cluster.name);
        }
    }

    /// Where a client belongs: the first route that matches. `tls_subject`: that of the certificate which the client has shown.
    pub(crate) fn route(&self, client_id: &str, address: IpAddr, tls_subject: Option<&str>) -> Option<Routed<'_>> {
        let route = self.wish.config.route(client_id, address, tls_subject)?;
        Some(Routed { route, home: self.home(route) })
    }

    /// Each route, and where its clients belong.
    pub(crate) fn routed(&self) -> impl Iterator<Item = Routed<'_>> {
        self.wish.config.routes.iter().map(|route| Routed { route, home: self.home(route) })
    }

    /// Whether the file has a cluster of this name.
    pub(crate) fn has_cluster(&self, name: &str) -> bool {
        self.servers.contains_key(name)
    }

    /// The same as [`Self::routed`], of relay routes.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = Routed<'_>> {
        self.routed().filter(|routed| routed.route.mode == Mode::Relay)
    }

    /// The clusters that the clients of a route see, home first.
    pub(crate) fn view(&self, Routed { route, home }: Routed<'_>) -> Vec<&Arc<Cluster>> {
        self.wish.config.view(route, home)
    }

    /// The cluster with the log of decisions, if homes and leaders change by decisions and not by the file.
    pub(crate) fn state(&self) -> Option<&Arc<Cluster>> {
        self.wish.config.state.as_ref().map(|state| &state.cluster)
    }

    /// `hold_ms` of `[moves]`
    pub(crate) fn hold(&self) -> Duration {
        self.wish.config.moves.hold
    }

    /// The routes as the file has them.
    pub(crate) fn wished(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.wish.config.routes.iter()
    }

    /// The route that owns a group.
    pub(crate) fn owner_of_group(&self, group: &str) -> Option<&Arc<Route>> {
        self.wish.config.owner_of_group(group)
    }

    /// The route that owns a topic.
    pub(crate) fn owner_of_topic(&self, topic: &str) -> Option<&Arc<Route>> {
        self.wish.config.owner_of_topic(topic)
    }

    /// `[[mirrors]]`
    pub(crate) fn mirrors(&self) -> &[Arc<Mirror>] {
        &self.wish.config.mirrors
    }

    /// The bootstrap servers of a cluster of this table.
    pub(crate) fn servers(&self, cluster: &Cluster) -> &Arc<BootstrapServers> {
        &self.servers[&cluster.name]
    }

    /// The clusters that a relayed client may come to.
    pub(crate) fn relayed_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.wish.config.relayed_clusters()
    }

    /// Sockets that the proxy has without any client.
    pub(crate) fn own_sockets(&self) -> usize {
        self.wish.config.own_sockets()
    }

    /// `[limits]`
    pub(crate) fn limits(&self) -> &Limits {
        &self.wish.config.limits
    }

    /// `[[listeners]]`
    pub(crate) fn listeners(&self) -> &[Listener] {
        &self.wish.config.listeners
    }

    /// `[admin]`
    pub(crate) fn admin(&self) -> &Admin {
        &self.wish.config.admin
    }

    /// Who may log in at the proxy.
    pub(crate) fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// A listener that is bound, as the file has it now. One that the file has dropped goes on as it was.
    pub(crate) fn listener<'a>(&'a self, bound: &'a Listener) -> &'a Listener {
        self.listeners().iter().find(|now| now.name == bound.name).unwrap_or(bound)
    }

    /// How the listener of that name does TLS, if it does.
    pub(crate) fn tls(&self, listener: &str) -> Option<&Arc<ServerConfig>> {
        self.tls.get(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_mirrors_alone_is_not_for_the_proxy() {
        let text = r#"
            clusters.a = { id = 1, bootstrap_servers = "a:9092" }
            clusters.b = { id = 2, bootstrap_servers = "b:9092" }
            mirrors = [{ name = "a-b", source = "a", target = "b", topics = "x" }]
        "#;
        let path = Path::new("routes.toml");
        let refused = RoutingTable::build(Wish::parse(text.to_owned(), path).unwrap(), path, None).unwrap_err();
        let said = "routes.toml: no [[listeners]] and [[routes]]: as it is the file is for kferry-mirror only; write where clients connect, \
                    and which land where";
        assert_eq!(refused.to_string(), said);
    }
}
