//! Where clients come in: the port of a listener, or one of those that it has for virtual brokers.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use kferry_config::Listener;

use crate::relay::brokers::{VirtualBroker, virtual_brokers};
use crate::routes::RoutingTable;

/// Where clients come in.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The listener of the file, which says how clients speak here.
    pub listener: Listener,
    /// The broker that clients find at this port. `None`: it is the listener's own port, where any broker of a client's cluster will do.
    pub broker: Option<BrokerOf>,
}

/// A virtual broker, and the cluster that the real one belongs to.
#[derive(Debug)]
pub(crate) struct BrokerOf {
    /// The name of the cluster.
    pub cluster: Arc<str>,
    /// The real node id, and the port.
    pub broker: VirtualBroker,
}

impl Endpoint {
    /// All that a table asks for: of each listener its own port first.
    pub(crate) fn all(table: &RoutingTable) -> Vec<Self> {
        let mut endpoints = Vec::new();
        for listener in table.listeners() {
            endpoints.push(Self { listener: listener.clone(), broker: None });
            for cluster in table.relayed_clusters() {
                for broker in virtual_brokers(cluster, listener) {
                    endpoints.push(Self { listener: listener.clone(), broker: Some(BrokerOf { cluster: cluster.name.clone(), broker }) });
                }
            }
        }
        endpoints
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        let bind = self.listener.bind;
        self.broker.as_ref().map_or(bind, |of| SocketAddr::new(bind.ip(), of.broker.port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {:?}", self.listener.name)?;
        match &self.broker {
            Some(BrokerOf { cluster, broker }) => write!(f, ", broker {} of cluster {cluster:?}", broker.node_id),
            None => Ok(()),
        }
    }
}
