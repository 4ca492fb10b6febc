//! What each bootstrap server of each cluster says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kferry_config::{Cluster, Config, HostPort};
use kferry_wire::admin::acls::{Operation, allow_command};
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Client, Metadata, Topics};
use kferry_wire::cluster::{ClusterInfo, describes_every_topic};
use kferry_wire::connection::{ConnectOptions, Connection, Refusal, RequestError};
use kferry_wire::decisions::{TOPIC, decided};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{addresses, listed, printable, producers, table};

/// For one server, all of it.
const DEADLINE: Duration = Duration::from_secs(10);

/// An API key.
const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
/// The version of it that librdkafka's consumer protocol needs, and brokers have from 4.0 on.
const HEARTBEAT: i16 = 1;

/// The servers' answers, and what is wrong with them.
#[derive(Serialize)]
pub(super) struct Brokers {
    servers: Vec<Server>,
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A bootstrap server.
#[derive(Debug, Serialize)]
struct Server {
    cluster: String,
    address: String,
    took_ms: u64,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Answer {
    /// It answered all that it was asked.
    Ok(Seen),
    /// It is there, and kferry has no credentials for it: in bootstrap mode the clients bring their own.
    NoCredentials { kafka: String },
    /// It could not be asked.
    Failed { reason: String },
}

#[derive(Debug, Serialize)]
struct Seen {
    /// `4.3`, `at least 4.4`
    kafka: String,
    /// The finalized feature, `KRaft` only.
    metadata_version: Option<i16>,
    cluster_id: Option<String>,
    node_ids: Vec<i32>,
    controller: Option<i32>,
    principal: String,
    /// Asked only where relayed clients may come to the cluster.
    #[serde(skip)]
    describes_every_topic: Option<bool>,
    /// It knows [`HEARTBEAT`].
    #[serde(skip)]
    has_heartbeat: bool,
}

impl Brokers {
    pub(super) async fn ask(config: &Config) -> Self {
        let asked: Vec<_> = config
            .clusters
            .iter()
            .flat_map(|cluster| cluster.bootstrap_servers.iter().map(|address| (cluster.clone(), address.clone())))
            .map(|(cluster, address)| {
                let relayed = config.relayed_clusters().any(|relayed| relayed.name == cluster.name);
                tokio::spawn(async move { Server::ask(&cluster, &address, relayed).await })
            })
            .collect();
        let mut servers = Vec::new();
        for server in asked {
            servers.push(server.await.expect("asking a broker does not panic"));
        }
        let mut brokers = Self::judge(config, servers);
        let relayed: Vec<_> = config.relayed_clusters().filter(|cluster| brokers.answers_for(cluster)).collect();
        brokers.warnings.extend(join_all(relayed.iter().copied().map(ask_replicas)).await.into_iter().flatten());
        let other_logs = relayed.iter().filter(|cluster| config.state.as_ref().is_none_or(|state| state.cluster.name != cluster.name));
        brokers.errors.extend(join_all(other_logs.map(|cluster| ask_log(cluster))).await.into_iter().flatten());
        // Without relayed clients nobody begins it.
        let log = config.state.as_ref().map(|state| &state.cluster).filter(|cluster| !relayed.is_empty() && brokers.answers_for(cluster));
        if let Some(cluster) = log {
            brokers.errors.extend(refused_log(cluster).await);
        }
        let live = relayed.iter().filter(|_| config.state.is_some()).map(|cluster| producers::ask(cluster));
        brokers.warnings.extend(join_all(live).await.into_iter().flatten());
        let by_address = relayed.into_iter().map(|cluster| addresses::ask(config, cluster));
        brokers.warnings.extend(join_all(by_address).await.into_iter().flatten());
        brokers
    }

    /// Whether a bootstrap server of a cluster answers. To ask more of one of which none does would only take time.
    pub(super) fn answers_for(&self, cluster: &Cluster) -> bool {
        self.servers.iter().any(|server| server.cluster == *cluster.name && matches!(server.answer, Answer::Ok(_)))
    }

    fn judge(config: &Config, servers: Vec<Server>) -> Self {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        // Which clusters of the file have which cluster id, each once and in the file's order.
        let mut by_id: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for cluster in &config.clusters {
            let name = &*cluster.name;
            let of_cluster = || servers.iter().filter(|server| server.cluster == name);
            let mut ids: Vec<(&str, &str)> = Vec::new();
            for server in of_cluster() {
                match &server.answer {
                    Answer::Ok(Seen { cluster_id: Some(id), .. }) => ids.push((id, &server.address)),
                    Answer::Ok(_) => {}
                    Answer::NoCredentials { .. } => warnings.push(format!(
                        "cluster {name}: {} wants a login and kferry has none, so nothing more could be asked; \
                         that is enough for bootstrap mode, where clients bring their own: \
                         otherwise set sasl_mechanism, sasl_username and sasl_password",
                        server.address
                    )),
                    Answer::Failed { reason } => errors.push(format!("cluster {name}: {reason}")),
                }
            }
            let is_mixed = ids.iter().any(|(id, _)| *id != ids[0].0);
            if is_mixed {
                let told: Vec<String> = ids.iter().map(|(id, address)| format!("{address} is of {id}")).collect();
                errors.push(format!(
                    "cluster {name}: its bootstrap_servers are of different clusters ({}); list the servers of one only",
                    told.join(", ")
                ));
            }
            // Of which cluster one is that has servers of two nobody knows.
            for (id, _) in ids.into_iter().filter(|_| !is_mixed) {
                let names = by_id.entry(id).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            // Relayed clients are refused for one of them.
            let is_relayed = config.relayed_clusters().any(|relayed| relayed.name == cluster.name);
            if is_relayed { &mut errors } else { &mut warnings }.extend(outside(cluster, of_cluster()));
            warnings.extend(of_cluster().find_map(|server| match &server.answer {
                Answer::Ok(Seen { describes_every_topic: Some(false), principal, .. }) => Some(format!(
                    "cluster {name}: {principal} may not Describe every topic, and relay mode needs it of the topics of members of the consumer \
                     protocol (group.protocol=consumer): {}; or name those topics in place of '*'",
                    allow_command(cluster, principal, &[Operation::Describe], "topic", &["'*'"])
                )),
                _ => None,
            }));
        }
        warnings.extend(without_heartbeat(config, &servers));
        for (id, names) in by_id {
            if names.len() > 1 {
                errors.push(format!(
                    "the clusters {} are one and the same, {id}; correct the bootstrap_servers, or keep only one of them",
                    names.join(", ")
                ));
            }
        }
        Self { servers, errors, warnings }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let header = ["CLUSTER", "BOOTSTRAP SERVER", "KAFKA", "CLUSTER ID", "BROKERS", "CONTROLLER", "CONNECTED AS", "MS"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(self.servers.iter().map(Server::row));
        table(&rows)
    }
}

/// Relayed clients are offered what all of their clusters know: what one cluster lacks, the others do not have for them either.
fn without_heartbeat(config: &Config, servers: &[Server]) -> Vec<String> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for cluster in config.relayed_clusters() {
        let mut seen = servers.iter().filter(|server| server.cluster == *cluster.name).filter_map(|server| match &server.answer {
            Answer::Ok(seen) => Some(seen),
            _ => None,
        });
        let Some(first) = seen.next() else { continue };
        match [first].into_iter().chain(seen).find(|seen| !seen.has_heartbeat) {
            Some(seen) => without.push((&*cluster.name, &seen.kafka)),
            None => with.push(&*cluster.name),
        }
    }
    if with.is_empty() {
        return Vec::new();
    }
    let warning = |(name, kafka): (&str, &String)| {
        format!(
            "cluster {name}: Kafka {kafka} does not know ConsumerGroupHeartbeat in version {HEARTBEAT}, so relayed clients are not offered it on {} \
             either; a librdkafka with group.protocol=consumer waits for it without an error: leave it at classic for as long as the file has \
             relayed routes to {name}",
            listed(&with)
        )
    };
    without.into_iter().map(warning).collect()
}

/// Brokers that relay mode would have no port for.
fn outside<'a>(cluster: &Cluster, servers: impl Iterator<Item = &'a Server>) -> Option<String> {
    let range = &cluster.brokers.as_ref()?.node_ids;
    let outside: BTreeSet<i32> = servers
        .filter_map(|server| if let Answer::Ok(seen) = &server.answer { Some(&seen.node_ids) } else { None })
        .flatten()
        .filter(|node_id| !range.contains(node_id))
        .copied()
        .collect();
    if outside.is_empty() {
        return None;
    }
    let names: Vec<String> = outside.iter().map(ToString::to_string).collect();
    Some(format!(
        "cluster {}: brokers outside of node_ids {}-{}: {}; relay mode has no port for them, and refuses its clients: widen node_ids and broker_ports",
        cluster.name,
        range.start(),
        range.end(),
        listed(&names)
    ))
}

/// A log of decisions that the file does not know of.
async fn ask_log(cluster: &Arc<Cluster>) -> Option<String> {
    let client = Client::new(cluster.clone(), ConnectOptions::default()).within(DEADLINE);
    let name = &cluster.name;
    if let Err(error) = decided(client).await? {
        return Some(format!("cluster {name}: [state] does not name this cluster, and kferry-proxy does not start: {error}"));
    }
    Some(format!(
        "cluster {name}: its topic {TOPIC} says where topics lead, and [state] does not name this cluster: relayed clients would write to copies, and \
         kferry-proxy does not start; set cluster = \"{name}\" in [state] (`kferry move log` moves the log to another cluster; if it was interrupted run it again, and leave [state] as it is)"
    ))
}

/// What kferry's own login may not do with the log of decisions.
async fn refused_log(cluster: &Arc<Cluster>) -> Option<String> {
    use Operation::{Create, Describe, Read, Write};
    let client = Client::new(cluster.clone(), ConnectOptions::default()).within(DEADLINE);
    let metadata = client.metadata(Topics::Named(&[TOPIC])).await.ok()?;
    let missing: Vec<Operation> = match &metadata.topic(TOPIC)?.error {
        None => {
            let allowed = client.topic_authorized_operations(&[TOPIC]).await.into_values().next()?.ok()?;
            [Read, Write].into_iter().filter(|operation| !allowed.contains(*operation)).collect()
        }
        Some(error) if error.is_authorization() => vec![Create, Describe, Read, Write],
        Some(error) if error.is_unknown_topic() => {
            let partitions = NewPartitions::Count { partitions: Some(1), replication_factor: None };
            let new = NewTopic { name: TOPIC.to_owned(), partitions, configs: Vec::new() };
            let created = client.create_topics(&[new], true).await.into_values().next()?;
            if created.is_err_and(|error| error.is_authorization()) { vec![Create, Read, Write] } else { Vec::new() }
        }
        Some(_) => Vec::new(),
    };
    if missing.is_empty() {
        return None;
    }
    let connection = client.any().await.ok()?;
    Some(format!(
        "cluster {}: kferry's login lacks rights on {TOPIC}, the log of decisions of [state], without which no relayed client is served: {}",
        cluster.name,
        allow_command(cluster, connection.principal(), &missing, "topic", &[TOPIC])
    ))
}

/// Replicas that relayed clients would be shown under another id. Whether the cluster answers at all is told elsewhere.
async fn ask_replicas(cluster: &Arc<Cluster>) -> Option<String> {
    let client = Client::new(cluster.clone(), ConnectOptions::default()).within(DEADLINE);
    replicas_outside(cluster, &client.metadata(Topics::All).await.ok()?)
}

/// Replicas on nodes that are outside of `node_ids`, but for those that are up: [`outside`] tells of them.
fn replicas_outside(cluster: &Cluster, metadata: &Metadata) -> Option<String> {
    let range = &cluster.brokers.as_ref()?.node_ids;
    let is_up = |node_id: &i32| metadata.brokers.iter().any(|broker| broker.node_id == *node_id);
    let mut topics_by_node: BTreeMap<i32, BTreeSet<&str>> = BTreeMap::new();
    for topic in &metadata.topics {
        for node_id in topic.partitions.iter().flat_map(|partition| &partition.replicas) {
            if !range.contains(node_id) && !is_up(node_id) {
                topics_by_node.entry(*node_id).or_default().insert(&topic.name);
            }
        }
    }
    let told: Vec<String> = topics_by_node
        .iter()
        .map(|(node_id, topics)| format!("{node_id} ({})", listed(&topics.iter().copied().collect::<Vec<_>>())))
        .collect();
    (!told.is_empty()).then(|| {
        format!(
            "cluster {}: topics have replicas on brokers that are not up and outside of node_ids {}-{}: {}; relayed clients are shown node id {} \
             for them. Before such a broker comes back widen node_ids and broker_ports; if it is gone for good, reassign its replicas",
            cluster.name,
            range.start(),
            range.end(),
            told.join(", "),
            i32::MAX
        )
    })
}

impl Server {
    async fn ask(cluster: &Cluster, address: &HostPort, relayed: bool) -> Self {
        let begin = Instant::now();
        let answer = Answer::ask(address, cluster, relayed, begin + DEADLINE).await;
        let took_ms = begin.elapsed().as_millis() as u64;
        Self { cluster: cluster.name.to_string(), address: address.to_string(), took_ms, answer }
    }

    fn row(&self) -> Vec<String> {
        let missing = || "-".to_owned();
        let [kafka, id, brokers, controller, principal] = match &self.answer {
            Answer::Ok(seen) => [
                seen.kafka.clone(),
                seen.cluster_id.clone().unwrap_or_else(missing),
                seen.node_ids.len().to_string(),
                seen.controller.map_or_else(missing, |node_id| node_id.to_string()),
                seen.principal.clone(),
            ],
            Answer::NoCredentials { kafka } => [kafka.clone(), missing(), missing(), missing(), "nobody: no credentials".to_owned()],
            Answer::Failed { .. } => [missing(), missing(), missing(), missing(), "failed, see below".to_owned()],
        };
        [self.cluster.clone(), self.address.clone(), kafka, id, brokers, controller, principal, self.took_ms.to_string()]
            .map(|cell| printable(&cell))
            .to_vec()
    }
}

impl Answer {
    async fn ask(address: &HostPort, cluster: &Cluster, relayed: bool, deadline: Instant) -> Self {
        let options = ConnectOptions { connect_timeout: DEADLINE, ..ConnectOptions::default() };
        let connection = match Connection::connect(address, &cluster.security, &options).await {
            Ok(connection) => connection,
            Err(error) => {
                return match error.refusal {
                    Refusal::NoCredentials { release } => Self::NoCredentials { kafka: release.to_string() },
                    _ => Self::Failed { reason: error.to_string() },
                };
            }
        };
        let asked = async {
            let info = ClusterInfo::ask(&connection).await?;
            let describes = if relayed { Some(describes_every_topic(&connection).await?) } else { None };
            Ok::<_, RequestError>((info, describes))
        };
        match timeout_at(deadline, asked).await {
            Ok(Ok((info, describes_every_topic))) => Self::Ok(Seen {
                kafka: info.release.to_string(),
                metadata_version: info.metadata_version,
                cluster_id: info.cluster_id,
                node_ids: info.brokers.iter().map(|broker| broker.node_id).collect(),
                controller: info.controller,
                principal: connection.principal().to_owned(),
                describes_every_topic,
                has_heartbeat: connection.versions().range(CONSUMER_GROUP_HEARTBEAT).is_some_and(|range| range.max >= HEARTBEAT),
            }),
            Ok(Err(error)) => Self::Failed { reason: error.to_string() },
            Err(_elapsed) => Self::Failed { reason: format!("{address}: connected, but no answer within {DEADLINE:?}; the broker hangs") },
        }
    }
}

#[cfg(test)]
mod tests {
    use kferry_wire::client::{Partition, Topic};
    use kferry_wire::cluster::Broker;

    use super::super::tests::{config, two_clusters};
    use super::*;
    use std::fmt::Write as _;

    fn seen(cluster_id: &str, node_ids: &[i32]) -> Answer {
        Answer::Ok(Seen {
            kafka: "4.3".to_owned(),
            metadata_version: Some(30),
            cluster_id: Some(cluster_id.to_owned()),
            node_ids: node_ids.to_vec(),
            controller: node_ids.first().copied(),
            principal: "User:kferry".to_owned(),
            describes_every_topic: None,
            has_heartbeat: true,
        })
    }

    fn judge(answers: [(&str, &str, Answer); 3]) -> Brokers {
        let servers = answers
            .map(|(cluster, address, answer)| Server { cluster: cluster.to_owned(), address: address.to_owned(), took_ms: 7, answer })
            .into();
        Brokers::judge(&two_clusters(&[("orders", "new")]), servers)
    }

    #[test]
    fn clusters_as_the_file_says_are_no_complaint() {
        let brokers = judge([
            ("legacy", "legacy-1:9092", seen("L", &[1, 2])),
            ("legacy", "legacy-2:9092", seen("L", &[1, 2])),
            ("new", "new-1:9092", seen("N", &[99])),
        ]);
        assert!(brokers.errors.is_empty() && brokers.warnings.is_empty(), "{:?} {:?}", brokers.errors, brokers.warnings);
        let table = brokers.table();
        assert!(table.starts_with("CLUSTER  BOOTSTRAP SERVER  KAFKA  CLUSTER ID  BROKERS  CONTROLLER  CONNECTED AS  MS\n"), "{table}");
        assert!(table.ends_with("new      new-1:9092        4.3    N           1        99          User:kferry   7\n"), "{table}");
    }

    #[test]
    fn servers_of_different_clusters_under_one_name_are_an_error() {
        let brokers = judge([
            ("legacy", "legacy-1:9092", seen("L", &[1])),
            ("legacy", "legacy-2:9092", seen("X", &[1])),
            ("new", "new-1:9092", seen("N", &[1])),
        ]);
        assert_eq!(
            brokers.errors,
            ["cluster legacy: its bootstrap_servers are of different clusters (legacy-1:9092 is of L, legacy-2:9092 is of X); \
                 list the servers of one only"]
        );
    }

    #[test]
    fn one_cluster_under_two_names_is_an_error() {
        let brokers = judge([
            ("legacy", "legacy-1:9092", seen("L", &[1])),
            ("legacy", "legacy-2:9092", seen("L", &[1])),
            ("new", "new-1:9092", seen("L", &[1])),
        ]);
        assert_eq!(
            brokers.errors,
            ["the clusters legacy, new are one and the same, L; correct the bootstrap_servers, or keep only one of them"]
        );
    }

    #[test]
    fn a_dead_server_is_an_error_and_one_without_our_login_a_warning() {
        let failed = Answer::Failed { reason: "legacy-2:9092: cannot connect".to_owned() };
        let brokers = judge([
            ("legacy", "legacy-1:9092", seen("L", &[1])),
            ("legacy", "legacy-2:9092", failed),
            ("new", "new-1:9092", Answer::NoCredentials { kafka: "4.3".to_owned() }),
        ]);
        assert_eq!(brokers.errors, ["cluster legacy: legacy-2:9092: cannot connect"]);
        assert!(brokers.warnings[0].contains("cluster new: new-1:9092 wants a login and kferry has none"), "{:?}", brokers.warnings);
    }

    #[test]
    fn brokers_without_a_port_are_told_with_their_node_ids_and_an_error_where_clients_are_relayed() {
        let servers = || {
            let server = |cluster: &str, address: &str, answer| Server {
                cluster: cluster.to_owned(),
                address: address.to_owned(),
                took_ms: 7,
                answer,
            };
            let answers = || seen("L", &[1, 4, 9]);
            vec![
                server("legacy", "legacy-1:9092", answers()),
                server("legacy", "legacy-2:9092", answers()),
                server("new", "new-1:9092", seen("N", &[1])),
            ]
        };
        let told = [
            "cluster legacy: brokers outside of node_ids 1-3: 4, 9; relay mode has no port for them, and refuses its clients: widen node_ids and \
                     broker_ports",
        ];
        let brokers = Brokers::judge(&two_clusters(&[("orders", "new")]), servers());
        assert_eq!((brokers.errors.len(), &brokers.warnings[..]), (0, &told.map(str::to_owned)[..]));
        let brokers = Brokers::judge(&relayed(&["legacy"]), servers());
        assert_eq!((&brokers.errors[..], brokers.warnings.len()), (&told.map(str::to_owned)[..], 0));
    }

    #[test]
    fn a_cluster_with_servers_of_two_is_not_told_to_be_one_with_another() {
        let brokers = judge([
            ("legacy", "legacy-1:9092", seen("L", &[1])),
            ("legacy", "new-1:9092", seen("N", &[1])),
            ("new", "new-1:9092", seen("N", &[1])),
        ]);
        assert_eq!(brokers.errors.len(), 1, "{:?}", brokers.errors);
    }

    /// Two clusters, and a relayed route to each of these.
    fn relayed(clusters: &[&str]) -> Config {
        let mut text = "[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n".to_owned();
        for (id, name) in [(1, "legacy"), (2, "new")] {
            let _ = write!(
                text,
                "[clusters.{name}]\nid = {id}\nbootstrap_servers = \"{name}-1:9092\"\nnode_ids = \"1-3\"\nbroker_ports = \"91{id}0-91{id}2\"\n"
            );
        }
        for name in clusters {
            let _ = write!(text, "[[routes]]\nname = \"{name}\"\nclient_id = \"{name}-*\"\ncluster = \"{name}\"\nmode = \"relay\"\n");
        }
        config(&text)
    }

    #[test]
    fn what_one_relayed_cluster_lacks_the_others_lack_too() {
        let server = |cluster: &str, kafka: &str, has_heartbeat| {
            let Answer::Ok(seen) = seen("X", &[1]) else { unreachable!("it is one") };
            let answer = Answer::Ok(Seen { kafka: kafka.to_owned(), has_heartbeat, ..seen });
            Server { cluster: cluster.to_owned(), address: format!("{cluster}-{kafka}:9092"), took_ms: 7, answer }
        };
        let dead = || Server { answer: Answer::Failed { reason: "why".to_owned() }, ..server("new", "", true) };
        let old = || server("legacy", "3.9", false);
        let (both, one) = (&["legacy", "new"][..], &["new"][..]);
        for (clusters, servers, told) in [
            (both, vec![old(), server("new", "4.3", true)], vec!["legacy: Kafka 3.9"]),
            // In the middle of an upgrade.
            (both, vec![old(), server("legacy", "4.3", true), server("new", "4.3", true)], vec!["legacy: Kafka 3.9"]),
            (both, vec![server("legacy", "4.3", true), server("new", "4.3", true), server("new", "3.9", false)], vec!["new: Kafka 3.9"]),
            // Nowhere is there more.
            (both, vec![old(), server("new", "3.9", false)], vec![]),
            (both, vec![old(), dead()], vec![]),
            (both, vec![server("legacy", "4.0", true), server("new", "4.3", true)], vec![]),
            (one, vec![old(), server("new", "4.3", true)], vec![]),
        ] {
            let warnings = without_heartbeat(&relayed(clusters), &servers);
            assert_eq!(warnings.len(), told.len(), "{clusters:?} {servers:?}: {warnings:?}");
            assert!(warnings.iter().zip(told).all(|(warning, told)| warning.contains(told)), "{clusters:?} {servers:?}: {warnings:?}");
        }
    }

    #[test]
    fn replicas_of_a_dead_broker_without_a_port_are_a_warning_with_their_topics() {
        let config = two_clusters(&[("orders", "new")]);
        let broker = |node_id| Broker { node_id, advertised: HostPort { host: "b".to_owned(), port: 9092 } };
        let topic = |name: &str, replicas: &[i32]| Topic {
            name: name.into(),
            id: None,
            internal: false,
            error: None,
            partitions: vec![Partition {
                index: 0,
                leader: Some(1),
                leader_epoch: 0,
                replicas: replicas.to_vec(),
                isr: vec![1],
                error: None,
            }],
        };
        let metadata = Metadata {
            cluster_id: None,
            brokers: vec![broker(1), broker(9)],
            controller: None,
            topics: vec![topic("a", &[1, 2]), topic("b", &[1, 7]), topic("c", &[7, 9])],
        };
        let told = replicas_outside(&config.clusters[0], &metadata).unwrap();
        assert!(
            told.starts_with("cluster legacy: topics have replicas on brokers that are not up and outside of node_ids 1-3: 7 (b, c); "),
            "{told}"
        );
        assert_eq!(replicas_outside(&config.clusters[1], &metadata), None, "it has no node_ids");
    }

    #[test]
    fn json_says_how_it_stands_with_each_server() {
        let brokers = judge([
            ("legacy", "legacy-1:9092", seen("L", &[1])),
            ("legacy", "legacy-2:9092", Answer::Failed { reason: "why".to_owned() }),
            ("new", "new-1:9092", Answer::NoCredentials { kafka: "4.3".to_owned() }),
        ]);
        let json = serde_json::to_value(&brokers).unwrap();
        let servers = json["servers"].as_array().unwrap();
        assert_eq!((&servers[0]["state"], &servers[0]["cluster_id"], &servers[0]["took_ms"]), (&"ok".into(), &"L".into(), &7.into()));
        assert_eq!((&servers[1]["state"], &servers[1]["reason"]), (&"failed".into(), &"why".into()));
        assert_eq!((&servers[2]["state"], &servers[2]["kafka"]), (&"no_credentials".into(), &"4.3".into()));
    }
}
