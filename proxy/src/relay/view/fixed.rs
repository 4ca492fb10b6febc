//! A view of fixed clusters, of which none is asked anything: for tests.

use std::path::Path;
use std::sync::Arc;

use kferry_config::{Config, HostPort};
use kferry_wire::client::{Metadata, Partition, Topic, TopicId};
use kferry_wire::cluster::Broker as RealBroker;

use super::leaders::{Leaders, Settled};
use super::{Directory, Door, Part, Parts, changes_of};
use crate::identity::ClusterIdentity;
use crate::relay::topic_ids::virtual_topic_id;

const FILE: &str = r#"
    clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092", node_ids = "1-3", broker_ports = "9101-9103" }
    clusters.new = { id = 2, bootstrap_servers = "new:9092", node_ids = "1-3", broker_ports = "9201-9203" }
    mirrors = [{ name = "over", source = "legacy", target = "new", topics_regex = "orders.*", groups = "shop" }]
"#;

/// What a cluster says that has one broker, 1, which leads what it may; a topic with `!` in front has no leader.
fn metadata_of(cluster: &str, topics: &[&str]) -> Metadata {
    let topic = |name: &&str| {
        let name = Arc::from(name.trim_start_matches('!'));
        let leader = (!topics.contains(&&*format!("!{name}"))).then_some(1);
        let partition = Partition { index: 0, leader, leader_epoch: 7, replicas: vec![1, 9], isr: vec![1], error: None };
        Topic { id: Some(TopicId(*virtual_topic_id(cluster).as_bytes())), name, internal: false, error: None, partitions: vec![partition] }
    };
    let mut topics: Vec<Topic> = topics.iter().map(topic).collect();
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    let advertised = HostPort { host: cluster.to_owned(), port: 9092 };
    Metadata { cluster_id: None, brokers: vec![RealBroker { node_id: 1, advertised }], controller: Some(1), topics }
}

/// The parts of a view from home `legacy`, or from `new`; `None` is a cluster that never said what it has.
pub(super) fn parts(home: &str, legacy: Option<&[&str]>, new: Option<&[&str]>) -> (Parts, Leaders) {
    let config = Config::parse(FILE, Path::new("routes.toml")).expect("the file is right");
    let part = |name: &str, topics: Option<&[&str]>| {
        let cluster = config.cluster(name).expect("the file has it").clone();
        let directory = Arc::new(Directory::new(&cluster, cluster.security.clone()));
        if let Some(topics) = topics {
            directory.listed(metadata_of(name, topics));
        }
        Part {
            identity: Arc::new(ClusterIdentity::new(cluster.clone())),
            brokers: Arc::default(),
            own: directory.clone(),
            shown: directory,
            changes: changes_of(&cluster, cluster.security.clone()),
            cluster,
        }
    };
    let mut clusters = vec![part("legacy", legacy), part("new", new)];
    if home == "new" {
        clusters.reverse();
    }
    let parts =
        Parts { clusters, beyond: Vec::new(), mirrors: config.mirrors.clone(), decisions: Arc::default(), worked_out: Arc::default() };
    let leaders = Arc::into_inner(parts.leaders(Settled::default())).expect("no other view shares it").sure();
    (parts, leaders)
}

/// Where clients find all of it.
pub(super) fn door() -> Door {
    Door { advertised_host: "kafka.internal".to_owned(), advertised_port_offset: 0 }
}
