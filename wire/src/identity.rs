//! Which Kafka cluster answers. Addresses get mixed up: a list of bootstrap servers has those of two clusters, a cluster is created anew where
//! another one was, a broker's address goes to somebody else's. The cluster's id, which no two clusters share, tells.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kferry_config::HostPort;

/// The id of one cluster of the file, from when a server first told it. It does not change while the process runs.
#[derive(Debug)]
pub struct Identity {
    /// The cluster's name in the file.
    cluster: Arc<str>,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    cluster_id: String,
    /// Who told it.
    server: HostPort,
    /// Where the cluster's brokers were seen.
    brokers: BTreeSet<HostPort>,
}

/// A server is of another Kafka cluster than it should be. The text says which, who says so, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct WrongCluster {
    text: Arc<str>,
    /// It is about one server, and others are right.
    pub is_one_server: bool,
}

impl Identity {
    /// Of a cluster of the file of which no server has been asked yet.
    pub fn new(cluster: Arc<str>) -> Self {
        Self { cluster, known: Mutex::default() }
    }

    /// The cluster's id, once a server has told it.
    pub fn cluster_id(&self) -> Option<String> {
        self.known().map(|known| known.cluster_id)
    }

    /// A server has told its cluster's id. The first one is believed.
    ///
    /// # Errors
    /// [`WrongCluster`]: it is not the id that was told first.
    pub fn compare(&self, server: &HostPort, cluster_id: &str) -> Result<(), WrongCluster> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            known.get_or_insert_with(|| Known { cluster_id: cluster_id.to_owned(), server: server.clone(), brokers: BTreeSet::new() });
        if known.cluster_id == cluster_id {
            return Ok(());
        }
        let before = if known.server == *server { "was" } else { &*format!("{} is", known.server) };
        let text = format!(
            "cluster {}: {server} is of the Kafka cluster {cluster_id}, but {before} of {}, so kferry does not use it: write servers of one cluster \
             only in bootstrap_servers; if the cluster was created anew, restart kferry",
            self.cluster, known.cluster_id
        );
        Err(WrongCluster { text: text.into(), is_one_server: true })
    }

    /// What several servers tell, asked at once while nobody knew.
    ///
    /// # Errors
    /// [`WrongCluster`]: they do not agree, and none of them is believed.
    pub fn agree(&self, servers: &[(HostPort, String)]) -> Result<(), WrongCluster> {
        let Some((first, cluster_id)) = servers.first() else { return Ok(()) };
        if servers.iter().any(|(_, other)| other != cluster_id) {
            let told: Vec<_> = servers.iter().map(|(server, cluster_id)| format!("{server} is of {cluster_id}")).collect();
            let text = format!(
                "cluster {}: its bootstrap_servers are of different Kafka clusters ({}); list the servers of one only",
                self.cluster,
                told.join(", ")
            );
            return Err(WrongCluster { text: text.into(), is_one_server: false });
        }
        self.compare(first, cluster_id)
    }

    /// Brokers of the cluster were seen at these addresses.
    pub fn has_brokers(&self, brokers: Vec<HostPort>) {
        if let Some(known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            known.brokers.extend(brokers);
        }
    }

    /// Checks that another cluster of the file is another Kafka cluster, as far as both are known. Two clusters that were set up with the same id, as
    /// examples have it, have no broker in common.
    ///
    /// # Errors
    /// [`WrongCluster`]: both have the same id, and a broker.
    pub fn differs_from(&self, other: &Self) -> Result<(), WrongCluster> {
        match (self.known(), other.known()) {
            (Some(ours), Some(theirs)) if ours.cluster_id == theirs.cluster_id && !ours.brokers.is_disjoint(&theirs.brokers) => {
                let text = format!(
                    "the clusters {} and {} are one and the same Kafka cluster, {} ({} and {} say so): correct their bootstrap_servers",
                    self.cluster, other.cluster, ours.cluster_id, ours.server, theirs.server
                );
                Err(WrongCluster { text: text.into(), is_one_server: false })
            }
            _ => Ok(()),
        }
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> HostPort {
        HostPort { host: "kafka".to_owned(), port }
    }

    #[test]
    fn the_first_server_tells_which_cluster_it_is_and_others_must_agree() {
        let legacy = Identity::new("legacy".into());
        assert_eq!(legacy.cluster_id(), None);
        for (port, id, agrees) in [(1, "A", true), (2, "A", true), (3, "B", false), (1, "B", false), (3, "A", true)] {
            assert_eq!(legacy.compare(&server(port), id).is_ok(), agrees, "{port} {id}");
        }
        let error = legacy.compare(&server(3), "B").unwrap_err().to_string();
        assert!(error.starts_with("cluster legacy: kafka:3 is of the Kafka cluster B, but kafka:1 is of A"), "{error}");
        assert_eq!(legacy.cluster_id().as_deref(), Some("A"));
    }

    #[test]
    fn of_servers_that_do_not_agree_none_is_believed() {
        let legacy = Identity::new("legacy".into());
        let error = legacy.agree(&[(server(1), "A".to_owned()), (server(2), "B".to_owned())]).unwrap_err();
        let says = "cluster legacy: its bootstrap_servers are of different Kafka clusters (kafka:1 is of A, kafka:2 is of B); list the servers \
                    of one only";
        assert_eq!((error.to_string().as_str(), legacy.cluster_id()), (says, None));
        legacy.agree(&[(server(1), "A".to_owned()), (server(2), "A".to_owned())]).unwrap();
        assert_eq!(legacy.cluster_id().as_deref(), Some("A"));
        assert_eq!(Identity::new("nobody answers".into()).agree(&[]), Ok(()));
    }

    #[test]
    fn two_clusters_of_the_file_are_two() {
        let (legacy, new, third) = (Identity::new("legacy".into()), Identity::new("new".into()), Identity::new("third".into()));
        legacy.compare(&server(1), "A").unwrap();
        assert_eq!(legacy.differs_from(&new), Ok(()), "nobody knows yet");
        new.compare(&server(2), "A").unwrap();
        legacy.has_brokers(vec![server(1), server(2)]);
        new.has_brokers(vec![server(3)]);
        assert_eq!(legacy.differs_from(&new), Ok(()), "set up with the same id");
        new.has_brokers(vec![server(2)]);
        third.compare(&server(3), "B").unwrap();
        assert_eq!((legacy.differs_from(&third), third.differs_from(&new)), (Ok(()), Ok(())));
        let error = new.differs_from(&legacy).unwrap_err().to_string();
        assert!(
            error.starts_with("the clusters new and legacy are one and the same Kafka cluster, A (kafka:2 and kafka:1 say so)"),
            "{error}"
        );
    }
}
