//! The ports that a file asks for. A process opens those of its first table, and no others.

use std::net::SocketAddr;
use std::sync::Arc;

use kferry_config::{BrokerRange, Listener};

use super::table::RoutingTable;

/// The ports that a table asks for.
#[derive(Debug)]
pub(super) struct Ports {
    listeners: Vec<Listener>,
    admin: SocketAddr,
    virtual_brokers: Vec<BrokerPorts>,
}

/// The ports of a cluster's virtual brokers.
#[derive(Debug, PartialEq, Eq)]
struct BrokerPorts {
    cluster: Arc<str>,
    range: BrokerRange,
}

impl Ports {
    /// Those of a table.
    pub(super) fn of(table: &RoutingTable) -> Self {
        let brokers_of = |(name, range): (&Arc<str>, &BrokerRange)| BrokerPorts { cluster: name.clone(), range: range.clone() };
        let ranges = table.relayed_clusters().filter_map(|cluster| Some((&cluster.name, cluster.brokers.as_ref()?)));
        Self { listeners: table.listeners().to_vec(), admin: table.admin().bind, virtual_brokers: ranges.map(brokers_of).collect() }
    }

    /// How the ports that are open, these, differ from those that the file asks for now: what only holds after a restart, a sentence each.
    pub(super) fn after_restart(&self, wished: &Self) -> Vec<String> {
        let mut sentences = Vec::new();
        let mut tell =
            |what: String| sentences.push(format!("{what}; this needs a restart of kferry-proxy, the rest of the file is in force"));
        for now in &wished.listeners {
            match self.listeners.iter().find(|bound| bound.name == now.name) {
                None => tell(format!("listener {:?} is new, bind {} is not open", now.name, now.bind)),
                Some(bound) if bound.bind != now.bind => {
                    tell(format!("listener {:?} stays bound to {}, the file says {}", now.name, bound.bind, now.bind));
                }
                Some(_) => {}
            }
        }
        for bound in &self.listeners {
            if !wished.listeners.iter().any(|now| now.name == bound.name) {
                tell(format!("listener {:?} is no longer in the file, {} stays open", bound.name, bound.bind));
            }
        }
        if wished.admin != self.admin {
            tell(format!("[admin] stays bound to {}, the file says {}", self.admin, wished.admin));
        }
        for now @ BrokerPorts { cluster, range } in &wished.virtual_brokers {
            if !self.virtual_brokers.contains(now) {
                tell(format!(
                    "the virtual brokers of cluster {cluster:?}, ports {} to {}, are not open",
                    range.ports.start(),
                    range.ports.end()
                ));
            }
        }
        sentences
    }
}
