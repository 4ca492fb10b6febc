//! What brokers do by a client's address. Of all relayed clients they see the proxy's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kferry_config::{Cluster, Config, Mode, Sasl};
use kferry_wire::admin::acls::{Acl, Operation, allow_command};
use kferry_wire::admin::configs::{ConfigEntry, ConfigResource};
use kferry_wire::client::{Client, ClientError, Topics};
use kferry_wire::connection::ConnectOptions;

use super::listed;

/// For all that a cluster is asked.
const DEADLINE: Duration = Duration::from_secs(10);

/// Connections that a broker takes of one address, and of those that have a number of their own.
const PER_IP: &str = "max.connections.per.ip";
const OVERRIDES: &str = "max.connections.per.ip.overrides";

/// A sentence for each thing that a cluster of relayed clients decides by their addresses. Whether it answers at all is told elsewhere.
pub(super) async fn ask(config: &Config, cluster: &Arc<Cluster>) -> Vec<String> {
    let client = Client::new(cluster.clone(), ConnectOptions::default()).within(DEADLINE);
    let Ok(metadata) = client.metadata(Topics::Named(&[])).await else { return Vec::new() };
    let brokers: Vec<_> = metadata.brokers.iter().map(|broker| ConfigResource::Broker(broker.node_id)).collect();
    let (acls, settings, quotas) = tokio::join!(
        client.describe_acls(),
        client.describe_configs(&brokers, Some(&[PER_IP, OVERRIDES])),
        client.describe_client_quotas()
    );
    let mut sentences = Vec::new();
    // What kferry's own login may not see, and the right on the cluster that it lacks.
    let mut unseen = Vec::new();
    match acls {
        Ok(acls) => sentences.extend(by_host(cluster, &Principals::of(config, cluster), &acls)),
        // A cluster without an authorizer has none.
        Err(error) => unseen.extend(error.is_authorization().then_some(("ACLs", Operation::Describe))),
    }
    let (known, unknown): (Vec<_>, Vec<_>) = settings.into_iter().partition(|(_, entries)| entries.is_ok());
    let known = known.into_iter().filter_map(|(resource, entries)| Some((node_id(&resource)?, PerIp::read(&entries.ok()?))));
    sentences.extend(too_few(cluster, config.limits.max_connections, &known.collect::<Vec<_>>()));
    if unknown.iter().any(|(_, entries)| entries.as_ref().is_err_and(ClientError::is_authorization)) {
        unseen.push((PER_IP, Operation::DescribeConfigs));
    }
    // Brokers before 2.7 have none for addresses; a right that is missing is the one above.
    let by_address =
        quotas.into_iter().flatten().filter_map(|(entity, _)| Some(entity.0.get("ip")?.clone().unwrap_or_else(|| "<default>".into())));
    let by_address: Vec<String> = by_address.collect();
    if !by_address.is_empty() {
        sentences.push(format!(
            "cluster {}: it limits how many connections an address may make in a second (connection_creation_rate of {}), and all relayed clients come from the \
             proxy's: set one for that",
            cluster.name,
            listed(&by_address)
        ));
    }
    if let (false, Ok(connection)) = (unseen.is_empty(), client.any().await) {
        let (what, operations): (Vec<_>, Vec<_>) = unseen.into_iter().unzip();
        sentences.push(format!(
            "cluster {}: kferry's login may not see its {}, which may go by a client's address, the proxy's for all relayed clients: {}",
            cluster.name,
            what.join(", nor its "),
            allow_command(cluster, connection.principal(), &operations, "cluster", &[] as &[&str])
        ));
    }
    sentences
}

fn node_id(resource: &ConfigResource) -> Option<i32> {
    if let ConfigResource::Broker(node_id) = resource { Some(*node_id) } else { None }
}

/// As whom relayed clients come to a cluster.
#[derive(Debug, PartialEq, Eq)]
enum Principals {
    /// As one of these.
    These(BTreeSet<String>),
    /// They log in by themselves, or brokers make the name of something else: any.
    Any,
}

impl Principals {
    fn of(config: &Config, cluster: &Cluster) -> Self {
        let mut these = BTreeSet::from(["User:*".to_owned()]);
        for route in config.routes.iter().filter(|route| route.mode == Mode::Relay) {
            match route.credentials.get(&cluster.name) {
                Some(Sasl::Password { username, .. }) => these.insert(format!("User:{username}")),
                None if route.cluster.name != cluster.name => continue,
                None if cluster.security.sasl.is_none() && cluster.security.tls.as_ref().is_none_or(|tls| tls.identity.is_none()) => {
                    these.insert("User:ANONYMOUS".to_owned())
                }
                Some(Sasl::OAuthBearer { .. }) | None => return Self::Any,
            };
        }
        Self::These(these)
    }

    fn contain(&self, principal: &str) -> bool {
        match self {
            Self::These(these) => these.contains(principal),
            Self::Any => true,
        }
    }
}

/// ACLs that hold for one address only.
fn by_host(cluster: &Cluster, principals: &Principals, acls: &[Acl]) -> Option<String> {
    let told: BTreeSet<String> =
        acls.iter().filter(|acl| acl.host != "*" && principals.contain(&acl.principal)).map(ToString::to_string).collect();
    let told: Vec<String> = told.into_iter().collect();
    (!told.is_empty()).then(|| {
        format!(
            "cluster {}: {} of principals of relayed clients name a host ({}), and brokers see the proxy's address for all of them: what is allowed there \
             is refused, and what is denied there is not. Add ACLs for the proxy's address",
            cluster.name,
            super::count(told.len(), "ACL"),
            listed(&told)
        )
    })
}

/// How many connections a broker takes of an address.
#[derive(Debug, PartialEq, Eq)]
struct PerIp {
    most: usize,
    /// Addresses that have a number of their own.
    overrides: Vec<(String, usize)>,
}

impl PerIp {
    fn read(entries: &[ConfigEntry]) -> Self {
        let value =
            |name: &str| entries.iter().find(|entry| entry.name == name).and_then(|entry| entry.value.as_deref()).unwrap_or_default();
        let overrides = value(OVERRIDES).split(',').filter_map(|one| {
            let (address, most) = one.rsplit_once(':')?;
            Some((address.trim().to_owned(), most.trim().parse().ok()?))
        });
        Self { most: value(PER_IP).parse().unwrap_or(usize::MAX), overrides: overrides.collect() }
    }

    /// What there is below `wanted`, unless an address has a number that is enough: that will be the proxy's.
    fn too_few(&self, wanted: usize) -> Option<String> {
        let Self { most, overrides } = self;
        let few = || overrides.iter().filter(|(_, most)| *most < wanted).map(|(address, most)| format!("{address}:{most}"));
        let few: Vec<String> = few().collect();
        if *most < wanted && overrides.iter().all(|(_, most)| *most < wanted) {
            let others = if few.is_empty() { String::new() } else { format!(", {OVERRIDES} {}", listed(&few)) };
            return Some(format!("{PER_IP} is {most}{others}"));
        }
        (*most >= wanted && !few.is_empty()).then(|| format!("{OVERRIDES} has {}", listed(&few)))
    }
}

/// Brokers that take fewer connections of one address than the proxy may make.
fn too_few(cluster: &Cluster, wanted: usize, brokers: &[(i32, PerIp)]) -> Option<String> {
    let told: Vec<String> =
        brokers.iter().filter_map(|(node_id, per_ip)| Some(format!("broker {node_id}: {}", per_ip.too_few(wanted)?))).collect();
    (!told.is_empty()).then(|| {
        format!(
            "cluster {}: all relayed clients come from the proxy's address, up to limits.max_connections = {wanted}, and its brokers take fewer of one \
             address ({}): set as many for the proxy's address with {OVERRIDES}",
            cluster.name,
            listed(&told)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;
    use kferry_wire::admin::acls::{Operation, PatternType, Permission, ResourceType};
    use kferry_wire::admin::configs::ConfigSource;

    fn relayed(security: &str, routes: &[&str]) -> Config {
        let head = format!(
            "[clusters.new]\nid = 1\nbootstrap_servers = \"a:9092\"\nnode_ids = \"1-3\"\nbroker_ports = \"9100-9102\"\n{security}\n\
             [[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n"
        );
        let route = |(n, lines): (usize, &&str)| {
            format!(
                "[[routes]]\nname = \"r{n}\"\nclient_id = \"r{n}\"\ncluster = \"new\"\nmode = \"relay\"\nclient_address = \"10.0.0.0/8\"\n{lines}\n"
            )
        };
        config(&(head + &routes.iter().enumerate().map(route).collect::<Vec<_>>().concat()))
    }

    const SASL: &str =
        "security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"kferry\"\nsasl_password_env = \"P\"";
    const ALICE: &str =
        "[routes.credentials.new]\nsasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"alice\"\nsasl_password_env = \"P\"";

    #[test]
    fn relayed_clients_come_as_whom_their_routes_log_in_or_as_anybody() {
        let of = |config: &Config| Principals::of(config, &config.clusters[0]);
        let these = |names: &[&str]| Principals::These(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(of(&relayed("", &[""])), these(&["User:*", "User:ANONYMOUS"]));
        assert_eq!(of(&relayed(SASL, &[ALICE])), these(&["User:*", "User:alice"]));
        assert_eq!(of(&relayed(SASL, &[ALICE, ""])), Principals::Any);
    }

    #[test]
    fn acls_by_host_of_relayed_principals_are_told() {
        let config = relayed(SASL, &[ALICE]);
        let acl = |principal: &str, host: &str| Acl {
            resource_type: ResourceType::Topic,
            resource_name: "orders".to_owned(),
            pattern_type: PatternType::Literal,
            principal: principal.to_owned(),
            host: host.to_owned(),
            operation: Operation::Read,
            permission: Permission::Allow,
        };
        let acls = [acl("User:alice", "*"), acl("User:alice", "10.0.0.7"), acl("User:bob", "10.0.0.8")];
        let told = |principals: &Principals| by_host(&config.clusters[0], principals, &acls);
        let alice = told(&Principals::of(&config, &config.clusters[0])).unwrap();
        assert!(
            alice.starts_with("cluster new: 1 ACL of principals of relayed clients name a host (Allow User:alice from 10.0.0.7 Read on "),
            "{alice}"
        );
        assert!(told(&Principals::Any).unwrap().contains("User:bob from 10.0.0.8"));
        assert_eq!(by_host(&config.clusters[0], &Principals::Any, &acls[..1]), None);
    }

    #[test]
    fn brokers_that_take_too_few_of_one_address_are_told() {
        let entry = |name: &str, value: &str| ConfigEntry {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            source: ConfigSource::File,
            sensitive: false,
            read_only: false,
        };
        let told = |most: &str, overrides: &str| PerIp::read(&[entry(PER_IP, most), entry(OVERRIDES, overrides)]).too_few(100);
        for (most, overrides, expected) in [
            ("2147483647", "", None),
            ("100", "", None),
            ("20", "", Some("max.connections.per.ip is 20")),
            ("20", "10.0.0.1:200", None),
            ("20", "10.0.0.1:30, host:7", Some("max.connections.per.ip is 20, max.connections.per.ip.overrides 10.0.0.1:30, host:7")),
            ("2147483647", "10.0.0.1:30", Some("max.connections.per.ip.overrides has 10.0.0.1:30")),
        ] {
            assert_eq!(told(most, overrides).as_deref(), expected, "{most} {overrides}");
        }
        let config = relayed("", &[""]);
        let few = PerIp { most: 20, overrides: Vec::new() };
        let told = too_few(&config.clusters[0], 100, &[(1, few)]).unwrap();
        assert!(told.contains("max_connections = 100") && told.contains("(broker 1: max.connections.per.ip is 20)"), "{told}");
    }
}
