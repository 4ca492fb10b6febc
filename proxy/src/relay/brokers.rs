//! Virtual brokers: the node id, host and port under which a relayed client knows a real broker.
//!
//! They are arithmetic over the file alone, so they are the same on every proxy and shift for nobody when a cluster is added: broker
//! `node_ids.start() + n` is port `broker_ports.start() + n` of every listener, and its node id carries the cluster's `id` in front, so that no two
//! clusters share one. Where the real broker is, its cluster says: the proxy asks it every few seconds, and reads along when clients ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use kferry_config::{Cluster, HostPort, Listener, NODE_IDS};
use kferry_wire::api::{Rewrite, Unmapped};
use kferry_wire::cluster::ClusterInfo;
use kferry_wire::connection::Connection;
use kferry_wire::tell;
use kferry_wire::versions::Versions;
use tokio::time::Instant;
use uuid::Uuid;

use crate::identity::{ClusterIdentity, own_options};
use crate::messages;
use crate::metrics;
use crate::relay::masks::{Masking, Place, Unmasking};
use crate::relay::topic_ids::{TopicIds, is_virtual, virtual_topic_id};

/// What relayed clients take for the id of their cluster, whichever it is: one that changed would make them refuse or warn.
pub(crate) const CLUSTER_ID: &str = "kferry";

/// What a replica outside of `node_ids` is for clients, which show it and never connect to it. No broker has this id, since `node_ids` end far below.
const NO_BROKER: i32 = i32::MAX;

/// What is added to a node id in a request that has no counterpart, such as one from the time before a client's route changed: what comes out is no
/// broker's, so that the broker refuses it with its own error, and never hits a real broker whose id a client has written. In answers it is taken
/// off again. Virtual ids are far below what there is room for; an id above that becomes [`NO_BROKER`].
const NOBODY: i32 = 1_900_000_000;

/// How long a cluster is not asked again, however many clients want to know.
const PATIENCE: Duration = Duration::from_secs(1);

/// The node id under which clients know a broker.
///
/// # Errors
/// [`Unmapped`] outside of the cluster's `node_ids`.
pub(crate) fn virtual_node_id(cluster: &Cluster, node_id: i32) -> Result<i32, Unmapped> {
    match &cluster.brokers {
        Some(brokers) if brokers.node_ids.contains(&node_id) => Ok(i32::from(cluster.id) * NODE_IDS + node_id),
        _ => Err(Unmapped(node_id)),
    }
}

/// The real node id behind a virtual one of this cluster.
///
/// # Errors
/// [`Unmapped`]: it is another cluster's, or nobody's.
pub(crate) fn real_node_id(cluster: &Cluster, virtual_id: i32) -> Result<i32, Unmapped> {
    let node_id = virtual_id - i32::from(cluster.id) * NODE_IDS;
    match &cluster.brokers {
        Some(brokers) if brokers.node_ids.contains(&node_id) => Ok(node_id),
        _ => Err(Unmapped(virtual_id)),
    }
}

/// What goes to a broker for a node id that has no counterpart.
fn nobody(virtual_id: i32) -> i32 {
    virtual_id.checked_add(NOBODY).unwrap_or(NO_BROKER)
}

/// The node id that a client wrote, if this is what became of it in [`nobody`].
fn nobody_as_written(node_id: i32) -> Option<i32> {
    (NOBODY..NO_BROKER).contains(&node_id).then(|| node_id - NOBODY)
}

/// A virtual broker on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtualBroker {
    /// The node id of the real broker.
    pub node_id: i32,
    /// The port of the virtual one.
    pub port: u16,
}

/// Every virtual broker of a cluster on a listener.
pub(crate) fn virtual_brokers<'a>(cluster: &'a Cluster, listener: &Listener) -> impl Iterator<Item = VirtualBroker> + use<'a> {
    let offset = listener.broker_port_offset;
    let numbers = cluster.brokers.iter().flat_map(|brokers| brokers.node_ids.clone().zip(brokers.ports.clone()));
    numbers.map(move |(node_id, port)| VirtualBroker { node_id, port: port + offset })
}

/// What is known of a cluster's real brokers.
#[derive(Debug, Default)]
pub(crate) struct Brokers {
    /// The ids of the cluster's topics.
    pub topic_ids: TopicIds,
    seen: Mutex<SeenBrokers>,
    /// When the cluster was last asked. Locked while it is asked: one question at a time.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct SeenBrokers {
    /// By real node id. A broker that left the cluster stays in it.
    addresses: HashMap<i32, HostPort>,
    /// What the broker knew that was asked last.
    versions: Option<Versions>,
}

impl Brokers {
    /// Where a real broker is, as far as that is known.
    pub(crate) fn address(&self, node_id: i32) -> Option<HostPort> {
        self.seen().addresses.get(&node_id).cloned()
    }

    /// The versions that the cluster's brokers knew when they were last asked.
    pub(crate) fn versions(&self) -> Option<Versions> {
        self.seen().versions.clone()
    }

    /// Somebody heard from the cluster where a broker is.
    pub(crate) fn learn(&self, cluster: &Cluster, node_id: i32, address: &HostPort) {
        let before = self.seen().addresses.insert(node_id, address.clone());
        if before.as_ref() != Some(address) {
            tell!(messages::BROKER, cluster = &*cluster.name, node_id, %address, before = before.map(tracing::field::display));
        }
    }

    /// Asks the cluster for its brokers, unless somebody did a moment ago. Tells the log what went wrong.
    pub(crate) async fn ask(&self, cluster: &Cluster, identity: &ClusterIdentity) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < PATIENCE) {
            return;
        }
        let options = own_options();
        let mut failures = Vec::new();
        for server in &cluster.bootstrap_servers {
            let found = async {
                let connection = Connection::connect(server, &cluster.security, &options).await.map_err(|error| error.to_string())?;
                let info = ClusterInfo::ask(&connection).await.map_err(|error| error.to_string())?;
                Ok::<_, String>((info, connection.versions().clone()))
            };
            match found.await {
                Ok((info, versions)) => {
                    if let Some(cluster_id) = &info.cluster_id
                        && let Err(wrong) = identity.told(server, cluster_id)
                    {
                        failures.push(wrong.to_string());
                        continue;
                    }
                    self.seen().versions = Some(versions);
                    if info.brokers.is_empty() {
                        failures.push(format!("{server} knows no brokers yet"));
                        continue;
                    }
                    for broker in info.brokers {
                        if virtual_node_id(cluster, broker.node_id).is_err() {
                            metrics::node_id_outside(&cluster.name, broker.node_id);
                        }
                        self.learn(cluster, broker.node_id, &broker.advertised);
                    }
                    failures.clear();
                    break;
                }
                Err(error) => failures.push(error),
            }
        }
        if !failures.is_empty() {
            let failures = failures.join("; ");
            tell!(messages::BROKERS_UNKNOWN: ": {failures}", cluster = &*cluster.name);
        }
        *asked = Some(Instant::now());
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, SeenBrokers> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's world: one cluster, seen through one listener.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// The cluster that it is on.
    pub cluster: Arc<Cluster>,
    /// Which Kafka cluster that is.
    pub identity: Arc<ClusterIdentity>,
    /// Where the cluster's brokers are.
    pub brokers: Arc<Brokers>,
    /// The host of every virtual broker.
    pub advertised_host: String,
    /// What is added to the `broker_ports` of the cluster in what the client is told.
    pub advertised_port_offset: u16,
    /// Where topics lead, if that may be on another cluster.
    pub place: Option<Place>,
}

/// What a broker says, told to a client.
#[derive(Debug)]
pub(crate) struct ToClient<'a> {
    world: &'a World,
    /// Partitions of topics that may lead elsewhere.
    pub(super) partitions: Unmasking,
    /// A topic id of which nobody knows yet what the client calls it: the message is not for the client.
    pub unknown_topic: Option<Uuid>,
    /// How many brokers the message names with their address.
    pub brokers: usize,
    /// Whether it tells the cluster's id.
    pub tells_cluster_id: bool,
}

impl<'a> ToClient<'a> {
    /// For one message.
    pub(crate) fn new(world: &'a World, api: ApiKey) -> Self {
        let partitions = Unmasking::new(world.place.as_ref(), api);
        Self { world, partitions, unknown_topic: None, brokers: 0, tells_cluster_id: false }
    }
}

impl Rewrite for ToClient<'_> {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        // It comes back in the answer to DescribeConfigs and the like.
        match nobody_as_written(node_id) {
            Some(written) => Ok(written),
            None if node_id == NO_BROKER => Ok(NO_BROKER),
            None => virtual_node_id(&self.world.cluster, node_id),
        }
    }

    fn replica_id(&mut self, node_id: i32) -> i32 {
        self.node_id(node_id).unwrap_or(NO_BROKER)
    }

    fn error_message(&mut self, message: &str) -> Option<String> {
        let as_written = as_written(message)?;
        let cluster = &self.world.cluster;
        let ids = cluster.brokers.as_ref().map(|brokers| &brokers.node_ids)?;
        let known = |node_id: &i32| i32::from(cluster.id) * NODE_IDS + node_id;
        let (first, last) = (known(ids.start()), known(ids.end()));
        Some(format!("{as_written} (kferry: clients know the brokers of this cluster as {first} to {last})"))
    }

    fn address(&mut self, node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped> {
        self.brokers += 1;
        let World { cluster, brokers, advertised_host, advertised_port_offset, .. } = self.world;
        let range = cluster.brokers.as_ref().filter(|brokers| brokers.node_ids.contains(&node_id)).ok_or(Unmapped(node_id))?;
        if let Ok(port) = u16::try_from(port) {
            brokers.learn(cluster, node_id, &HostPort { host: host.to_owned(), port });
        }
        let port = range.ports.start() + (node_id - range.node_ids.start()) as u16 + advertised_port_offset;
        Ok((advertised_host.clone(), port))
    }

    fn topic(&mut self, name: &str) {
        self.partitions.topic(name);
    }

    fn partition(&mut self, partition: i32) -> i32 {
        self.partitions.partition(partition)
    }

    fn partition_error(&mut self, error_code: i16) -> i16 {
        self.partitions.partition_error(error_code)
    }

    fn cluster_id(&mut self, _cluster_id: &str) -> String {
        self.tells_cluster_id = true;
        CLUSTER_ID.to_owned()
    }

    fn producer_id(&mut self, producer_id: i64) -> i64 {
        // Brokers take a producer id that they never handed out. Above bit 44 is room for the number of a move.
        producer_id | i64::from(self.world.cluster.id) << 40
    }

    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        self.world.brokers.topic_ids.virtual_id(topic_id).unwrap_or_else(|| {
            self.unknown_topic = Some(topic_id);
            Uuid::nil()
        })
    }

    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid {
        let topic_ids = &self.world.brokers.topic_ids;
        match name {
            Some(name) => {
                topic_ids.learn(topic_id, name);
                virtual_topic_id(name)
            }
            // Asked for by its id, and there is no such topic: the client gets the id that it asked for.
            None => {
                topic_ids.forget(topic_id);
                let asked = topic_ids.virtual_id(topic_id).or(is_virtual(topic_id).then_some(topic_id));
                asked.unwrap_or_default()
            }
        }
    }
}

/// What a broker says in an answer that streams, told to a client.
#[derive(Debug)]
pub(super) struct Streamed {
    cluster: Arc<Cluster>,
    partitions: Unmasking,
}

impl Streamed {
    /// For one message.
    pub(super) fn new(world: &World, api: ApiKey) -> Self {
        Self { cluster: world.cluster.clone(), partitions: Unmasking::new(world.place.as_ref(), api) }
    }
}

impl Rewrite for Streamed {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        virtual_node_id(&self.cluster, node_id)
    }

    fn topic(&mut self, name: &str) {
        self.partitions.topic(name);
    }

    fn partition(&mut self, partition: i32) -> i32 {
        self.partitions.partition(partition)
    }

    fn partition_error(&mut self, error_code: i16) -> i16 {
        self.partitions.partition_error(error_code)
    }
}

/// A broker's message with the node ids that a client wrote and that no broker has. `None`: there are none in it.
fn as_written(message: &str) -> Option<String> {
    let (mut out, mut found) = (String::with_capacity(message.len()), false);
    for part in message.split_inclusive(|char: char| !char.is_ascii_digit()) {
        let digits = part.trim_end_matches(|char: char| !char.is_ascii_digit());
        if let Some(written) = digits.parse().ok().and_then(nobody_as_written) {
            found = true;
            out += &written.to_string();
            out += &part[digits.len()..];
        } else {
            out += part;
        }
    }
    found.then_some(out)
}

/// What a client says, told to a broker.
#[derive(Debug)]
pub(crate) struct ToBroker<'a> {
    world: &'a World,
    partitions: Masking<'a>,
    /// A virtual topic id of which nobody knows yet which topic of the cluster it is. It goes on as it is: an id that no topic has.
    pub unknown_topic: Option<Uuid>,
}

impl<'a> ToBroker<'a> {
    /// For one message.
    pub(crate) fn new(world: &'a World, api: ApiKey) -> Self {
        Self { world, partitions: Masking::new(world.place.as_ref(), api), unknown_topic: None }
    }
}

impl Rewrite for ToBroker<'_> {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        Ok(self.replica_id(node_id))
    }

    fn replica_id(&mut self, node_id: i32) -> i32 {
        real_node_id(&self.world.cluster, node_id).unwrap_or_else(|_| nobody(node_id))
    }

    fn topic(&mut self, name: &str) {
        self.partitions.topic(name);
    }

    fn partition(&mut self, partition: i32) -> i32 {
        self.partitions.partition(partition)
    }

    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        self.world.brokers.topic_ids.real_id(topic_id).unwrap_or_else(|| {
            self.unknown_topic = Some(topic_id);
            topic_id
        })
    }

    fn named_topic_id(&mut self, topic_id: Uuid, _name: Option<&str>) -> Uuid {
        self.topic_id(topic_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kferry_config::{BrokerRange, Security};

    fn world() -> World {
        let brokers = BrokerRange { node_ids: 1..=50, ports: 9100..=9149 };
        let cluster =
            Cluster { name: "new".into(), id: 2, bootstrap_servers: Vec::new(), brokers: Some(brokers), security: Security::default() };
        let cluster = Arc::new(cluster);
        let identity = Arc::new(ClusterIdentity::new(cluster.clone()));
        World {
            cluster,
            identity,
            brokers: Arc::default(),
            advertised_host: "kafka.internal".to_owned(),
            advertised_port_offset: 0,
            place: None,
        }
    }

    #[test]
    fn a_node_that_no_broker_is_comes_back_as_the_client_wrote_it_and_is_never_a_real_broker() {
        let world = world();
        let (mut to_broker, mut to_client) = (ToBroker::new(&world, ApiKey::Metadata), ToClient::new(&world, ApiKey::Metadata));
        for virtual_id in [2 * NODE_IDS + 1, 2 * NODE_IDS + 50] {
            let real = to_broker.replica_id(virtual_id);
            assert_eq!((real, to_client.replica_id(real)), (virtual_id - 2 * NODE_IDS, virtual_id));
        }
        // A real id, one that nobody has, one of another cluster, one outside of node_ids.
        for written in [0, 1, 77, NODE_IDS + 1, 2 * NODE_IDS + 51, 16 * NODE_IDS - 1] {
            let real = to_broker.replica_id(written);
            assert!(real >= NOBODY, "{written} is {real}");
            assert_eq!((to_client.node_id(real), to_client.replica_id(real)), (Ok(written), written));
        }
        // Brokers and clients have no such ids.
        for written in [NO_BROKER - NOBODY, NOBODY, NO_BROKER] {
            assert_eq!((to_broker.replica_id(written), to_client.replica_id(NO_BROKER)), (NO_BROKER, NO_BROKER));
        }
        assert_eq!((to_client.node_id(51), to_client.replica_id(51)), (Err(Unmapped(51)), NO_BROKER));
    }

    #[test]
    fn a_brokers_message_names_the_node_as_the_client_wrote_it_and_says_which_there_are() {
        let world = world();
        let mut to_client = ToClient::new(&world, ApiKey::CreateTopics);
        let message = "The manual partition assignment includes broker 1900000077, but no such broker is registered.";
        assert_eq!(
            to_client.error_message(message).as_deref(),
            Some(
                "The manual partition assignment includes broker 77, but no such broker is registered. \
                 (kferry: clients know the brokers of this cluster as 20000001 to 20000050)"
            )
        );
        let told = to_client.error_message("[1900000000,1900000001]: 2, é1900000077").unwrap_or_default();
        assert!(told.starts_with("[0,1]: 2, é77 (kferry: "), "{told}");
        for stays in ["", "Unknown topic", "offset 1073741824 of 2147483647", "at 1900000000077", "31900000077"] {
            assert_eq!(to_client.error_message(stays), None, "{stays:?}");
        }
    }
}
