//! Which clusters a relayed client sees as one.

use std::sync::Arc;

use crate::types::Config;
use crate::types::cluster::Cluster;
use crate::types::proxy::{Mode, Route};

impl Config {
    /// The clusters that the clients of a relay route see in one view, `home` first: those that a mirror connects with it, that have virtual brokers, and that
    /// the proxy can come to for the route. Home alone is no view.
    pub fn view(&self, route: &Route, home: &Cluster) -> Vec<&Arc<Cluster>> {
        // Where SASL is between client and broker, a client has logins for one cluster. Java takes a refused login on any broker as fatal
        // (`NetworkClient.handleServerDisconnect`), so it must not be shown those of another.
        let may_come = |cluster: &Cluster| cluster.security.sasl.is_none() || route.credentials.contains_key(&cluster.name);
        let mut clusters: Vec<_> = self.cluster(&home.name).into_iter().collect();
        if route.mode != Mode::Relay || !may_come(home) {
            return clusters;
        }
        for mirror in &self.mirrors {
            let other = match (mirror.source.name == home.name, mirror.target.name == home.name) {
                (true, _) => &mirror.target,
                (_, true) => &mirror.source,
                _ => continue,
            };
            if other.brokers.is_some() && may_come(other) && clusters.iter().all(|cluster| cluster.name != other.name) {
                clusters.push(other);
            }
        }
        clusters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_view_is_home_and_the_clusters_that_a_mirror_connects_with_it() {
        let file = r#"
            clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092", node_ids = "1-3", broker_ports = "9101-9103" }
            clusters.new = { id = 2, bootstrap_servers = "new:9092", node_ids = "1-3", broker_ports = "9201-9203" }
            clusters.other = { id = 3, bootstrap_servers = "other:9092", node_ids = "1-3", broker_ports = "9301-9303" }
            clusters.bare = { id = 4, bootstrap_servers = "bare:9092" }
            clusters.sasl = { id = 5, bootstrap_servers = "sasl:9092", node_ids = "1-3", broker_ports = "9501-9503", security_protocol = "SASL_PLAINTEXT", sasl_mechanism = "PLAIN", sasl_username = "kferry", sasl_password = "secret" }
            listeners = [{ name = "clients", bind = "127.0.0.1:9092" }]
            [[routes]]
            name = "plain"
            client_id = "plain"
            cluster = "legacy"
            mode = "relay"
            [[routes]]
            name = "with-login"
            client_id = "with-login"
            cluster = "new"
            mode = "relay"
            [routes.credentials.sasl]
            sasl_mechanism = "PLAIN"
            sasl_username = "orders"
            sasl_password = "secret"
            [[routes]]
            name = "end-to-end"
            client_id = "end-to-end"
            cluster = "sasl"
            mode = "relay"
            [[routes]]
            name = "alone"
            client_id = "alone"
            cluster = "other"
            mode = "relay"
            [[mirrors]]
            name = "over"
            source = "legacy"
            target = "new"
            topics = "orders"
            [[mirrors]]
            name = "back"
            source = "new"
            target = "legacy"
            topics = "payments"
            [[mirrors]]
            name = "to-bare"
            source = "legacy"
            target = "bare"
            topics = "x"
            [[mirrors]]
            name = "to-sasl"
            source = "new"
            target = "sasl"
            topics = "y"
        "#;
        let config = Config::parse(file, Path::new("routes.toml")).unwrap();
        let seen = |route: &str| {
            let route = config.routes.iter().find(|of| *of.name == *route).unwrap();
            config.view(route, &route.cluster).iter().map(|cluster| cluster.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(seen("plain"), "legacy new");
        assert_eq!(seen("with-login"), "new legacy sasl");
        assert_eq!(seen("end-to-end"), "sasl");
        assert_eq!(seen("alone"), "other");
    }
}
