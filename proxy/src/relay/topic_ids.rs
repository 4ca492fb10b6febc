//! Virtual topic ids: under which id a relayed client knows a topic.
//!
//! Each cluster gives a topic an id of its own, and a client that has seen one of them must never see another: franz-go loops on
//! `UNKNOWN_TOPIC_ID` then, and a member of a group takes the topic for one that it was not assigned. So the id follows from the name alone: it is the
//! same on every proxy and every cluster, from the first answer on.
//!
//! Answers that name a topic beside its id (Metadata) need nothing else, and are read along. Heartbeats of the consumer protocol (KIP-848) have bare
//! ids, and this process may have seen none of them yet: another proxy gave them away, or this one has been restarted. Then the cluster is asked for
//! all of its topics before the message goes on, since a name cannot be had from a virtual id.
//!
//! # References
//! - KIP-516 (topic ids); `org.apache.kafka.common.Uuid`: 0 and 1 are reserved, real ones are random (version 4 of RFC 9562)

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::{ApiKey, MetadataRequest};
use kafka_protocol::protocol::VersionRange;
use kferry_config::Cluster;
use kferry_wire::api::{self, Api, Rewrite};
use kferry_wire::connection::{ConnectOptions, Connection};
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::identity::{ClusterIdentity, own_options};

/// What names are hashed with; another one would be another id for every topic.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b66_6572_7279_4b61_a3d5_1f0c_9e27_b844);

/// How long a message waits for the list of topics. A client's `request.timeout.ms` is 30 s, the session of a group's member 45 s.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the topics of a cluster are not listed again, however many clients send ids that nobody has.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pairs of ids that are remembered beside those of the last list. With one more all are forgotten, and what is in use is asked for again: topics that come
/// and go would fill the memory otherwise. A pair takes some 100 bytes.
const LEARNED: usize = 100_000;

/// Bytes of the largest list of a cluster's topics. One of a million partitions has some 60 MiB.
const MAX_LIST: usize = 64 * 1024 * 1024;

/// The version from which on topics have ids and an answer still has what relayed clients get; every broker that knows the consumer protocol has it.
const METADATA: VersionRange = VersionRange { min: 12, max: 12 };

/// The id under which clients know a topic: version 5 of RFC 9562, so never one of Kafka's own, which are random or reserved.
pub(crate) fn virtual_topic_id(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

/// Whether an id may be one of [`virtual_topic_id`]'s.
pub(crate) fn is_virtual(topic_id: Uuid) -> bool {
    topic_id.get_version_num() == 5
}

/// What is known of the topic ids of one cluster.
#[derive(Debug, Default)]
pub(crate) struct TopicIds {
    pairs: Mutex<IdPairs>,
    /// When the last list was asked for, and how that ended. One at a time.
    listed: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

#[derive(Debug, Default)]
struct IdPairs {
    /// From a real id to the virtual one. A topic that was deleted and created again is in it twice: the old id may still come.
    virtual_ids: HashMap<Uuid, Uuid>,
    /// From a virtual id to the real one that is in use.
    real_ids: HashMap<Uuid, Uuid>,
    /// How many topics the last list had.
    listed: usize,
}

impl IdPairs {
    fn insert(&mut self, real: Uuid, name: &str) {
        let virtual_id = virtual_topic_id(name);
        self.virtual_ids.insert(real, virtual_id);
        self.real_ids.insert(virtual_id, real);
    }

    fn clear(&mut self) {
        self.virtual_ids.clear();
        self.real_ids.clear();
    }
}

impl TopicIds {
    /// The virtual id of a topic's real one, if that is known.
    pub(crate) fn virtual_id(&self, real: Uuid) -> Option<Uuid> {
        self.pairs().virtual_ids.get(&real).copied()
    }

    /// The real id behind a virtual one, if that is known.
    pub(crate) fn real_id(&self, virtual_id: Uuid) -> Option<Uuid> {
        self.pairs().real_ids.get(&virtual_id).copied()
    }

    /// A broker has told the id of a topic.
    pub(crate) fn learn(&self, real: Uuid, name: &str) {
        let mut pairs = self.pairs();
        if pairs.virtual_ids.len() >= pairs.listed + LEARNED && !pairs.virtual_ids.contains_key(&real) {
            pairs.clear();
        }
        pairs.insert(real, name);
    }

    /// A broker has said that no topic has this id: the next who asks for its name's gets that of a topic that was created again.
    pub(crate) fn forget(&self, real: Uuid) {
        let mut pairs = self.pairs();
        if let Some(virtual_id) = pairs.virtual_ids.get(&real).copied()
            && pairs.real_ids.get(&virtual_id) == Some(&real)
        {
            pairs.real_ids.remove(&virtual_id);
        }
    }

    /// Asks the cluster for all of its topics, or waits for the answer if somebody else has just begun to. When it returns, what the cluster had at
    /// the time of the call is known, as far as kferry's own login may see it.
    ///
    /// # Errors
    /// Why the cluster could not be asked, at the latest after 5 s.
    pub(crate) async fn list(&self, cluster: &Cluster, identity: &ClusterIdentity) -> Result<(), String> {
        let late = || Err(format!("no list of its topics within {} s", DEADLINE.as_secs()));
        timeout(DEADLINE, self.listed_since(Instant::now(), cluster, identity)).await.unwrap_or_else(|_| late())
    }

    async fn listed_since(&self, call: Instant, cluster: &Cluster, identity: &ClusterIdentity) -> Result<(), String> {
        let mut listed = self.listed.lock().await;
        if let Some((began, outcome)) = &*listed {
            if *began >= call {
                return outcome.clone();
            }
            sleep_until(*began + PATIENCE).await;
        }
        let began = Instant::now();
        // What those get to know who wait with us, if our own deadline ends this.
        *listed = Some((began, Err("it did not answer in time".to_owned())));
        let outcome = self.ask(cluster, identity).await;
        *listed = Some((began, outcome.clone()));
        outcome
    }

    async fn ask(&self, cluster: &Cluster, identity: &ClusterIdentity) -> Result<(), String> {
        let options = ConnectOptions { connect_timeout: DEADLINE / 2, max_response_bytes: MAX_LIST, ..own_options() };
        // Null is all of them.
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let mut failures = Vec::new();
        for server in &cluster.bootstrap_servers {
            let asked = async {
                let connection = Connection::connect(server, &cluster.security, &options).await.map_err(|error| error.to_string())?;
                let version = connection.version_for::<MetadataRequest>(METADATA).map_err(|error| error.to_string())?;
                let told = connection.ask(&request, version, |body| read(&body, version)).await.map_err(|error| error.to_string())?;
                if let Some(cluster_id) = &told.cluster_id {
                    identity.told(server, cluster_id).map_err(|wrong| wrong.to_string())?;
                }
                Ok::<_, String>(told.topics)
            };
            match asked.await {
                Ok(topics) => {
                    let mut pairs = self.pairs();
                    pairs.listed = topics.len();
                    if pairs.virtual_ids.len() > topics.len() + LEARNED {
                        pairs.clear();
                    }
                    for (real, name) in &topics {
                        pairs.insert(*real, name);
                    }
                    return Ok(());
                }
                Err(error) => failures.push(error),
            }
        }
        Err(failures.join("; "))
    }

    fn pairs(&self) -> MutexGuard<'_, IdPairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The topics of a Metadata answer, found by the schema that knows where they are.
fn read(body: &[u8], version: i16) -> Result<Listed, api::RewriteError> {
    let api = Api::of(ApiKey::Metadata as i16).expect("it is in the table");
    let mut listed = Listed::default();
    api::rewrite(api.response, version, api.is_flexible(version), body, &mut listed)?;
    Ok(listed)
}

#[derive(Default)]
struct Listed {
    cluster_id: Option<String>,
    topics: Vec<(Uuid, String)>,
}

impl Rewrite for Listed {
    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid {
        self.topics.extend(name.map(|name| (topic_id, name.to_owned())));
        topic_id
    }

    fn cluster_id(&mut self, cluster_id: &str) -> String {
        self.cluster_id = Some(cluster_id.to_owned());
        cluster_id.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kferry_config::{HostPort, Security};
    use std::sync::Arc;

    /// Clients keep it for as long as they run, and get it from proxies of other versions.
    #[test]
    fn the_id_of_a_name_never_changes() {
        assert_eq!(virtual_topic_id("orders").to_string(), "62cb929c-9e74-54e5-b31e-1e76e2bec657");
        assert!(is_virtual(virtual_topic_id("orders")) && is_virtual(virtual_topic_id("")));
        assert_ne!(virtual_topic_id("orders"), virtual_topic_id("Orders"));
        for reserved in [Uuid::nil(), Uuid::from_u128(1), Uuid::from_u128(0x4f2b_17c9_83aa_4d0e_9b11_22d3_7c40_5566)] {
            assert!(!is_virtual(reserved), "{reserved}");
        }
    }

    #[test]
    fn a_topic_that_is_created_again_keeps_its_virtual_id() {
        let ids = TopicIds::default();
        let (old, new, orders) = (Uuid::from_u128(7), Uuid::from_u128(8), virtual_topic_id("orders"));
        assert_eq!((ids.virtual_id(old), ids.real_id(orders)), (None, None));
        ids.learn(old, "orders");
        ids.learn(new, "orders");
        assert_eq!((ids.virtual_id(old), ids.virtual_id(new), ids.real_id(orders)), (Some(orders), Some(orders), Some(new)));
        ids.forget(old);
        assert_eq!(ids.real_id(orders), Some(new));
        ids.forget(new);
        assert_eq!((ids.virtual_id(new), ids.real_id(orders)), (Some(orders), None));
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let ids = TopicIds::default();
        for n in 1..=LEARNED + 10 {
            ids.learn(Uuid::from_u128(n as u128), &n.to_string());
            ids.learn(Uuid::from_u128(n as u128), &n.to_string());
        }
        assert_eq!(ids.pairs().virtual_ids.len(), 10);
        assert_eq!(ids.virtual_id(Uuid::from_u128(LEARNED as u128 + 10)), Some(virtual_topic_id(&(LEARNED + 10).to_string())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_cannot_be_asked_is_an_error_in_time() {
        // Takes connections and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = HostPort { host: "127.0.0.1".to_owned(), port: silent.local_addr().unwrap().port() };
        let cluster =
            Cluster { name: "new".into(), id: 1, bootstrap_servers: vec![server; 3], brokers: None, security: Security::default() };
        let ids = TopicIds::default();
        let began = Instant::now();
        let identity = ClusterIdentity::new(Arc::new(cluster.clone()));
        let (one, other) = tokio::join!(ids.list(&cluster, &identity), ids.list(&cluster, &identity));
        assert!(one.is_err() && other.is_err() && began.elapsed() < 3 * DEADLINE, "{one:?} {other:?} after {:?}", began.elapsed());
    }
}
