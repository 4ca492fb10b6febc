//! The checked types of `routes.toml`: what [`Config`] is made of.

pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod mirror;
pub(crate) mod moves;
pub(crate) mod proxy;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use self::cluster::{Cluster, Secret, TlsIdentity};
use self::mirror::Mirror;
use self::moves::{Moves, State};
use self::proxy::{Admin, Limits, Listener, Route, User};
use crate::diagnostic::Diagnostic;

/// A checked `routes.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[clusters.*]`, in the order of the file. Names and ids are unique.
    pub clusters: Vec<Arc<Cluster>>,
    /// `[[listeners]]`: where clients connect. Names and addresses are unique. None where there are only mirrors.
    pub listeners: Vec<Listener>,
    /// `[users.*]`, in the order of the file: who may log in at the proxy. Names are unique.
    pub users: Vec<User>,
    /// `[admin]`: metrics, health, clients, reload.
    pub admin: Admin,
    /// `[limits]`.
    pub limits: Limits,
    /// `[[routes]]`, in the order of the file: the first that matches wins. None is shadowed by an earlier one. At least one if there are
    /// listeners.
    pub routes: Vec<Arc<Route>>,
    /// `[[mirrors]]`, in the order of the file. No two copy to the same topic, as far as their names tell: see [`crate::collisions()`].
    pub mirrors: Vec<Arc<Mirror>>,
    /// `[state]`. Nothing moves live without it.
    pub state: Option<State>,
    /// `[moves]`.
    pub moves: Moves,
    /// What is allowed and still probably not meant. Rendered like errors.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// The route of a client: the first that matches. A client without a `client.id` has the id `""`; `tls_subject` is the subject of the
    /// certificate that it has shown, in the form of RFC 4514 (`CN=orders,O=shop`).
    pub fn route(&self, client_id: &str, address: IpAddr, tls_subject: Option<&str>) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.clients.matches(client_id, address, tls_subject))
    }

    /// The route that owns a topic: the first whose `topics` or `topics_regex` match its name. What nobody owns does not move.
    pub fn owner_of_topic(&self, topic: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.owns_topics.matches(topic))
    }

    /// The route that owns a consumer group: the first whose `groups` or `groups_regex` match its `group.id`.
    pub fn owner_of_group(&self, group: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.owns_groups.matches(group))
    }

    /// Every file whose content the proxy uses as it was when the table was made, and which it must read again when it changes: certificates, keys,
    /// and the passwords of `[users.*]`. Passwords and tokens for brokers are not among them: they are read at each login.
    pub fn files(&self) -> Vec<&Path> {
        fn identity(identity: &TlsIdentity) -> [&Path; 2] {
            [&identity.certificate, &identity.key]
        }
        let mut files: Vec<&Path> = Vec::new();
        for tls in self.clusters.iter().filter_map(|cluster| cluster.security.tls.as_ref()) {
            files.extend(tls.ca.as_deref());
            files.extend(tls.identity.iter().flat_map(identity));
        }
        for tls in self.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            files.extend(identity(&tls.identity));
            files.extend(tls.client_auth.iter().map(|auth| auth.ca.as_path()));
        }
        files.extend(self.users.iter().filter_map(|user| match &user.password {
            Secret::File(path) => Some(path.as_path()),
            Secret::Literal(_) | Secret::Env(_) => None,
        }));
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.iter().find(|cluster| &*cluster.name == name)
    }
}
