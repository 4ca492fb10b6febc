//! How a cluster wants to be spoken to, and what it says then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kferry_config::{BrokerRange, Cluster, HostPort, NODE_IDS, SaslMechanism, Security};
use kferry_wire::client::{Client, ClientError, Topics};
use kferry_wire::cluster::{Broker, ClusterInfo, enabled_mechanisms};
use kferry_wire::connection::{ConnectOptions, Connection, Refusal};
use kferry_wire::versions::Release;

use super::ports::Ports;
use super::section::{Section, one_cluster};
use super::{Failed, parse};
use crate::check::count;

/// For each question to a cluster.
const DEADLINE: Duration = Duration::from_secs(10);

/// Node ids and ports are given in blocks of so many: they never shift, and brokers will be added.
const BLOCK: i32 = 50;

/// At least so many node ids are left for brokers that are added.
const ROOM: i32 = 10;

/// Where virtual brokers may be: behind the listeners' ports, as far as Linux gives no port to outgoing connections.
const BROKER_PORTS: std::ops::RangeInclusive<u16> = 9200..=32_767;

/// A cluster, and what is known of it.
pub(super) struct Found {
    pub(super) section: Section,
    pub(super) tls: bool,
    pub(super) release: Release,
    pub(super) cluster_id: Option<String>,
    pub(super) brokers: Vec<Broker>,
    pub(super) topics: usize,
}

/// How a listener is spoken to.
struct Listener {
    tls: bool,
    /// The mechanisms that it has enabled, if it wants a login.
    sasl: Option<Vec<String>>,
}

impl Found {
    /// What was typed, if it is right as far as that can be told without the cluster.
    pub(super) fn checked(section: Section, path: &Path) -> Result<Section, Failed> {
        to_probe(&section, path)?;
        Ok(section)
    }

    pub(super) async fn ask(mut section: Section, path: &Path) -> Result<Self, Failed> {
        let listener = probe(&*to_probe(&section, path)?).await?;
        if section.get("security_protocol").is_none() {
            let protocol = match (listener.tls, &listener.sasl) {
                (false, None) => "PLAINTEXT",
                (true, None) => "SSL",
                (false, Some(_)) => "SASL_PLAINTEXT",
                (true, Some(_)) => "SASL_SSL",
            };
            section.insert_first("security_protocol", protocol);
        }
        if let Some(enabled) = &listener.sasl {
            let has_login = ["sasl_username", "sasl_oauthbearer_token_file"].iter().any(|key| section.get(key).is_some());
            if !has_login {
                let (name, enabled) = (section.name, enabled.join(", "));
                return Err(Failed::not_done(format!(
                    "cluster {name}: its brokers want a login ({enabled}), and kferry has to ask them which brokers there are: add \
                     --{name}-set sasl_username=NAME --{name}-set sasl_password_file=FILE"
                )));
            }
            if section.get("sasl_mechanism").is_none() {
                let mechanism = mechanism(enabled).ok_or_else(|| {
                    Failed::not_done(format!(
                        "cluster {}: its brokers want a login by {}, and kferry knows PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER: give \
                         the servers of a listener that has one of them enabled",
                        section.name,
                        enabled.join(", ")
                    ))
                })?;
                section.insert_first("sasl_mechanism", mechanism);
            }
        }
        let of_login: Vec<_> = section.settings.iter().map(|setting| &*setting.key).filter(|key| key.starts_with("sasl_")).collect();
        if listener.sasl.is_none() && !of_login.is_empty() {
            return Err(Failed::refused(format!(
                "cluster {}: its brokers at {} want no login: drop {}, or give the servers of a listener that wants one",
                section.name,
                section.bootstrap_servers,
                of_login.join(" and ")
            )));
        }
        let cluster = parse(&one_cluster(&section), path)?.clusters.swap_remove(0);
        let tls = cluster.security.tls.is_some();
        let client = Client::new(cluster, ConnectOptions { connect_timeout: DEADLINE, ..ConnectOptions::default() }).within(DEADLINE);
        let failed = |error: ClientError| Failed::not_done(format!("{error}"));
        let metadata = client.metadata(Topics::All).await.map_err(failed)?;
        let connection = client.any().await.map_err(failed)?;
        let info = ClusterInfo::ask(&connection).await.map_err(|error| Failed::not_done(format!("cluster {}: {error}", section.name)))?;
        Ok(Self {
            section,
            tls,
            release: info.release,
            cluster_id: info.cluster_id,
            brokers: info.brokers,
            topics: metadata.topics.iter().filter(|topic| !topic.internal).count(),
        })
    }

    /// The cluster id, if both are the same cluster. Two may have been set up with one id from an example.
    pub(super) fn is_the_same_as(&self, other: &Self) -> Option<&str> {
        let id = self.cluster_id.as_deref().filter(|id| other.cluster_id.as_deref() == Some(*id))?;
        self.brokers.iter().any(|broker| other.brokers.contains(broker)).then_some(id)
    }

    /// Virtual brokers for relay mode, if the node ids lie as close together as ports have to.
    pub(super) fn choose_ports(&mut self, ports: &mut Ports) {
        let node_ids = || self.brokers.iter().map(|broker| broker.node_id);
        let Some((lowest, highest)) = node_ids().min().zip(node_ids().max()) else { return };
        if lowest < 0 || highest >= NODE_IDS - BLOCK - ROOM {
            return;
        }
        let first = lowest / BLOCK * BLOCK;
        let last = (highest + ROOM) / BLOCK * BLOCK + BLOCK - 1;
        let Ok(count) = u16::try_from(last - first + 1) else { return };
        self.section.brokers = ports.take(BROKER_PORTS, count).map(|ports| BrokerRange { node_ids: first..=last, ports });
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        let node_ids: Vec<_> = self.brokers.iter().map(|broker| broker.node_id.to_string()).collect();
        format!(
            "Kafka {}, cluster id {}, {} (node ids {}), {}",
            self.release,
            self.cluster_id.as_deref().unwrap_or("unknown"),
            count(self.brokers.len(), "broker"),
            node_ids.join(", "),
            count(self.topics, "topic")
        )
    }
}

/// The cluster for a first look: with the settings of TLS that were typed, whether it has TLS or not.
fn to_probe(section: &Section, path: &Path) -> Result<Arc<Cluster>, Failed> {
    let mut section = section.clone();
    let has_sasl = section.settings.iter().any(|setting| setting.key.starts_with("sasl_"));
    if section.get("security_protocol").is_none() {
        section.insert_first("security_protocol", if has_sasl { "SASL_SSL" } else { "SSL" });
    }
    if section.get("sasl_mechanism").is_none() && section.get("sasl_username").is_some() {
        section.insert_first("sasl_mechanism", SaslMechanism::ScramSha512.name());
    }
    let parsed = parse(&one_cluster(&section), path);
    Ok(parsed
        .map_err(|failed| Failed { reason: format!("cluster {}: {}", section.name, failed.reason), ..failed })?
        .clusters
        .swap_remove(0))
}

/// Asks the first of the bootstrap servers that answers.
async fn probe(cluster: &Cluster) -> Result<Listener, Failed> {
    let mut told = Vec::new();
    for server in &cluster.bootstrap_servers {
        match probe_server(server, cluster).await {
            Ok(listener) => return Ok(listener),
            Err(error) => told.push(format!("cluster {}: {error}", cluster.name)),
        }
    }
    Err(Failed::not_done(told.join("\n")))
}

async fn probe_server(server: &HostPort, cluster: &Cluster) -> Result<Listener, String> {
    let options = ConnectOptions { connect_timeout: DEADLINE, request_timeout: DEADLINE, ..ConnectOptions::default() };
    let plaintext = Connection::connect(server, &Security::default(), &options).await;
    let (tls, connection) = match plaintext {
        Ok(connection) => (false, connection),
        // A listener with TLS answers plaintext with an alert, or hangs up.
        Err(error) if matches!(error.refusal, Refusal::SpeaksTls { .. } | Refusal::Closed { .. } | Refusal::Frame { .. }) => {
            let security = Security { tls: Some(cluster.security.tls.clone().unwrap_or_default()), sasl: None };
            match Connection::connect(server, &security, &options).await {
                Ok(connection) => (true, connection),
                Err(with_tls) if matches!(with_tls.refusal, Refusal::ClosedInTls { .. }) => return Err(error.to_string()),
                Err(with_tls) => return Err(with_tls.to_string()),
            }
        }
        Err(error) => return Err(error.to_string()),
    };
    let sasl = enabled_mechanisms(&connection).await.map_err(|error| error.to_string())?;
    Ok(Listener { tls, sasl })
}

/// The best one that kferry knows too.
fn mechanism(enabled: &[String]) -> Option<&'static str> {
    let ours = [SaslMechanism::ScramSha512, SaslMechanism::ScramSha256, SaslMechanism::Plain].map(SaslMechanism::name);
    ours.into_iter().chain([kferry_config::OAUTHBEARER]).find(|ours| enabled.iter().any(|enabled| enabled == ours))
}
