//! Brokers, topics and partitions, as a broker sees them.

use std::fmt;
use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};

use super::{Client, ClientError, Subject};
use crate::cluster::Broker;
use crate::connection::Connection;
use kferry_config::HostPort;

/// Below version 4 asking for a topic creates it; version 12 gives ids and still takes names.
const METADATA: VersionRange = VersionRange { min: 4, max: 12 };

/// One partition of a topic. Shown as Kafka does: `orders-0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: i32,
}

impl TopicPartition {
    /// `topic`-`partition`
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Which topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topics<'a> {
    /// All that we may describe, the internal ones too.
    All,
    /// These; none is an answer too: the brokers.
    Named(&'a [&'a str]),
}

/// What a broker knows of its cluster.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// `None` from brokers before 0.10.1.
    pub cluster_id: Option<String>,
    /// The brokers that are up, as the listener that was asked advertises them, by node id.
    pub brokers: Vec<Broker>,
    /// With ZooKeeper the controller's node id, with `KRaft` that of any broker. `None` if there is none just now.
    pub controller: Option<i32>,
    /// By name. Of those asked for by name there is one each, perhaps with an error.
    pub topics: Vec<Topic>,
}

/// A topic.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// `None` from brokers before 2.8, and with an error.
    pub id: Option<TopicId>,
    /// `__consumer_offsets`, `__transaction_state`.
    pub internal: bool,
    /// Why nothing is known of it: it does not exist, or we may not know.
    pub error: Option<ClientError>,
    /// By index.
    pub partitions: Vec<Partition>,
}

/// A partition of a topic.
#[derive(Debug, Clone)]
pub struct Partition {
    /// Its index in the topic.
    pub index: i32,
    /// The leader's node id. `None` while there is none.
    pub leader: Option<i32>,
    /// `leader_epoch`; -1 from brokers before 2.1.
    pub leader_epoch: i32,
    /// The replicas' node ids, the preferred leader first.
    pub replicas: Vec<i32>,
    /// The node ids of those in sync.
    pub isr: Vec<i32>,
    /// Why it cannot be used just now.
    pub error: Option<ClientError>,
}

/// A topic's unique id (KIP-516): a topic that was deleted and created again has another one. Shown as Kafka's tools do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// `None` where the broker sent zeros, which is no id.
    pub(crate) fn read(id: [u8; 16]) -> Option<Self> {
        (id != [0; 16]).then_some(Self(id))
    }
}

impl fmt::Display for TopicId {
    /// `org.apache.kafka.common.Uuid.toString`: base64 for URLs, without padding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from_be_bytes(self.0);
        for letter in 0..22 {
            // 128 bits are 21 letters of 6, and one of 2 with 4 zeros behind.
            let six = if letter < 21 { bits >> (122 - 6 * letter) } else { bits << 4 } & 63;
            write!(f, "{}", char::from(ALPHABET[six as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Metadata {
    /// A topic of those that were asked for.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        let at = self.topics.binary_search_by(|topic| (*topic.name).cmp(name)).ok()?;
        self.topics.get(at)
    }
}

impl Topics<'_> {
    /// Asks for them, and creates none.
    pub(crate) fn request(self) -> MetadataRequest {
        let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string((*name).to_owned()))));
        let topics = match self {
            Self::All => None,
            Self::Named(names) => Some(names.iter().map(topic).collect()),
        };
        MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false)
    }
}

pub(super) async fn ask(client: &Client, connection: &Connection, topics: Topics<'_>) -> Result<Metadata, ClientError> {
    let (asked, answer) = client.send(connection, METADATA, |_| topics.request()).await?;
    // It says of every topic that it is unknown, too. The Java client passes over such an answer as well (`NetworkClient.handleSuccessfulResponse`).
    if answer.brokers.is_empty() {
        return Err(ClientError::KnowsNoBrokers { cluster: client.cluster().name.clone() });
    }
    let broker = |broker: &kafka_protocol::messages::metadata_response::MetadataResponseBroker| {
        let port = u16::try_from(broker.port).map_err(|_| client.incomplete(asked.api, &format!("broker {}", broker.node_id.0)))?;
        Ok(Broker { node_id: broker.node_id.0, advertised: HostPort { host: broker.host.to_string(), port } })
    };
    let mut brokers = answer.brokers.iter().map(broker).collect::<Result<Vec<_>, ClientError>>()?;
    brokers.sort_by_key(|broker| broker.node_id);

    let ids = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| id.0).collect();
    let mut topics = Vec::with_capacity(answer.topics.len());
    for topic in &answer.topics {
        // Null only for a topic that was asked for by its id.
        let Some(name) = &topic.name else { continue };
        let name: Arc<str> = Arc::from(name.as_str());
        let partition = |partition: &kafka_protocol::messages::metadata_response::MetadataResponsePartition| {
            let topic_partition = TopicPartition::new(name.clone(), partition.partition_index);
            Partition {
                index: partition.partition_index,
                leader: (partition.leader_id.0 >= 0).then_some(partition.leader_id.0),
                leader_epoch: partition.leader_epoch,
                replicas: ids(&partition.replica_nodes),
                isr: ids(&partition.isr_nodes),
                error: asked.check(&Subject::partition(&topic_partition), partition.error_code, None).err(),
            }
        };
        let mut partitions: Vec<_> = topic.partitions.iter().map(partition).collect();
        partitions.sort_by_key(|partition| partition.index);
        let error = asked.check(&Subject::topic(&name), topic.error_code, None).err();
        let id = TopicId::read(topic.topic_id.into_bytes());
        topics.push(Topic { name, id, internal: topic.is_internal, error, partitions });
    }
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    let cluster_id = answer.cluster_id.as_ref().map(ToString::to_string);
    let controller = Some(answer.controller_id.0).filter(|node_id| *node_id >= 0);
    Ok(Metadata { cluster_id, brokers, controller, topics })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_is_shown_as_kafka_shows_it() {
        // Printed by org.apache.kafka.common.Uuid.
        let id = |high: u64, low: u64| TopicId(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).to_string();
        assert_eq!(id(0, 1), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(id(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!(TopicId::read([0; 16]), None);
    }
}
