//! What a broker says of its cluster.
//!
//! # References
//! - `MetadataResponse.json`: its `controller_id` is the controller with ZooKeeper, and any broker with `KRaft`
//! - `DescribeQuorumResponse.json` (KIP-595): the leader of `__cluster_metadata` is `KRaft`'s controller

use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DescribeQuorumRequest, MetadataRequest, SaslHandshakeRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};

use crate::connection::{Connection, RequestError};
use crate::reader::{Malformed, Reader};
use crate::versions::Release;
use kferry_config::HostPort;

/// What [`Metadata::read`] can read: from version 1 on there is a controller, and 9 is the first flexible one. All brokers from 0.10.0 to 4.3
/// know some of it.
const METADATA: VersionRange = VersionRange { min: 1, max: 8 };

/// What [`leader`] can read. Every broker that knows the API knows it; newer versions add nothing that is read here.
const DESCRIBE_QUORUM: VersionRange = VersionRange { min: 0, max: 0 };

/// The first version in which a topic that is asked for need not be created (KIP-204), and the last that [`Metadata::read`] can read.
const METADATA_OF_A_TOPIC: VersionRange = VersionRange { min: 4, max: 8 };
/// A topic that nobody has.
const NOBODYS: &str = "__kferry.nobodys-topic";
/// What [`mechanisms`] can read.
const SASL_HANDSHAKE: VersionRange = VersionRange { min: 0, max: 1 };
/// A SASL mechanism that nobody has.
const NOBODYS_MECHANISM: &str = "KFERRY-ASKS";
/// `UNSUPPORTED_SASL_MECHANISM`
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
/// `ILLEGAL_SASL_STATE`
const ILLEGAL_SASL_STATE: i16 = 34;
/// `TOPIC_AUTHORIZATION_FAILED`
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// A cluster, as one of its brokers sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Unique in the world; `None` from brokers before 0.10.1.
    pub cluster_id: Option<String>,
    /// The brokers that are up, as this listener advertises them, by node id.
    pub brokers: Vec<Broker>,
    /// The node id of the controller: a broker with ZooKeeper, with `KRaft` perhaps a node that is no broker. `None` if there is none just
    /// now, or we may not know (`Describe` on the cluster).
    pub controller: Option<i32>,
    /// Which Kafka the broker is that was asked.
    pub release: Release,
    /// The cluster's finalized `metadata.version`, with `KRaft` only: what its brokers have agreed on. Older than the release while an
    /// upgrade is under way.
    pub metadata_version: Option<i16>,
}

/// One broker of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// `node.id`
    pub node_id: i32,
    /// `advertised.listeners`, for the listener that was asked.
    pub advertised: HostPort,
}

impl ClusterInfo {
    /// Asks a broker, which need not be trusted: it may be anything that let us in, and its answers are read accordingly.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn ask(connection: &Connection) -> Result<Self, RequestError> {
        // An empty list is no topics; null would be all of them.
        let request = MetadataRequest::default().with_topics(Some(Vec::new()));
        let version = connection.version_for::<MetadataRequest>(METADATA)?;
        let metadata = connection.ask(&request, version, |body| Metadata::read(&body, version)).await?;
        let kraft = connection.versions().range(DescribeQuorumRequest::KEY).is_some();
        let controller = if kraft { quorum_leader(connection).await? } else { Some(metadata.controller_id) };
        Ok(Self {
            cluster_id: metadata.cluster_id,
            brokers: metadata.brokers,
            controller: controller.filter(|node_id| *node_id >= 0),
            release: connection.versions().release(),
            metadata_version: connection.versions().metadata_version(),
        })
    }
}

/// The id of the cluster that a broker is of, and where the cluster's brokers are. `None` from brokers before 0.10.1.
///
/// # Errors
/// [`RequestError`]
pub async fn cluster_id(connection: &Connection) -> Result<Option<(String, Vec<HostPort>)>, RequestError> {
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    let version = connection.version_for::<MetadataRequest>(METADATA)?;
    let metadata = connection.ask(&request, version, |body| Metadata::read(&body, version)).await?;
    let brokers = metadata.brokers.into_iter().map(|broker| broker.advertised).collect();
    Ok(metadata.cluster_id.map(|cluster_id| (cluster_id, brokers)))
}

/// Whether we may `Describe` every topic. Those that we may not are left out of a list of all topics without a word; of one that is asked for by
/// its name, though nobody has it, a broker says that it is unknown, or that we may not know. With rights on some names only this is false.
///
/// # Errors
/// [`RequestError`]
pub async fn describes_every_topic(connection: &Connection) -> Result<bool, RequestError> {
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_static_str(NOBODYS))));
    let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
    let version = connection.version_for::<MetadataRequest>(METADATA_OF_A_TOPIC)?;
    let metadata = connection.ask(&request, version, |body| Metadata::read(&body, version)).await?;
    Ok(metadata.topic_error != Some(TOPIC_AUTHORIZATION_FAILED))
}

/// The SASL mechanisms that a listener has enabled, in the broker's order; `None` if it has no SASL. Kafka's brokers name them where a client asks for one
/// that they don't have, and close the connection then. The connection must not be logged in.
///
/// # Errors
/// [`RequestError`]
///
/// # References
/// - `SaslServerAuthenticator.handleHandshakeRequest`, `KafkaApis.handleSaslHandshakeRequest` where the listener has no SASL
pub async fn enabled_mechanisms(connection: &Connection) -> Result<Option<Vec<String>>, RequestError> {
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(NOBODYS_MECHANISM));
    let version = connection.version_for::<SaslHandshakeRequest>(SASL_HANDSHAKE)?;
    connection.ask(&request, version, |body| mechanisms(&body)).await
}

fn mechanisms(body: &[u8]) -> Result<Option<Vec<String>>, Malformed> {
    let mut body = Reader::new(body);
    match body.i16()? {
        ILLEGAL_SASL_STATE => Ok(None),
        UNSUPPORTED_SASL_MECHANISM => {
            let mut enabled = Vec::new();
            for _ in 0..body.count()? {
                enabled.push(body.string()?.to_owned());
            }
            Ok(Some(enabled))
        }
        _ => Err(Malformed::Value("an error that says nothing of SASL mechanisms")),
    }
}

/// The front of an answer to Metadata, up to the first topic's error; what follows is not read.
struct Metadata {
    brokers: Vec<Broker>,
    cluster_id: Option<String>,
    controller_id: i32,
    /// `None` without a topic.
    topic_error: Option<i16>,
}

impl Metadata {
    fn read(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut body = Reader::new(body);
        if version >= 3 {
            let _throttle_time_ms = body.i32()?;
        }
        let mut brokers = Vec::new();
        for _ in 0..body.count()? {
            let (node_id, host, port) = (body.i32()?, body.string()?, body.i32()?);
            let _rack = body.nullable_string()?;
            let port = u16::try_from(port).map_err(|_| Malformed::Value("a port that is none"))?;
            brokers.push(Broker { node_id, advertised: HostPort { host: host.to_owned(), port } });
        }
        brokers.sort_by_key(|broker| broker.node_id);
        let cluster_id = if version >= 2 { body.nullable_string()?.map(str::to_owned) } else { None };
        let controller_id = body.i32()?;
        let topic_error = if body.count()? > 0 { Some(body.i16()?) } else { None };
        Ok(Self { brokers, cluster_id, controller_id, topic_error })
    }
}

async fn quorum_leader(connection: &Connection) -> Result<Option<i32>, RequestError> {
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str("__cluster_metadata")))
        .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
    let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
    let version = connection.version_for::<DescribeQuorumRequest>(DESCRIBE_QUORUM)?;
    connection.ask(&request, version, |body| leader(&body)).await
}

/// The leader in an answer to DescribeQuorum, `None` where an error is in its place. One partition was asked for: only the first is read.
fn leader(body: &[u8]) -> Result<Option<i32>, Malformed> {
    let mut body = Reader::new(body);
    let error_code = body.i16()?;
    if error_code != 0 || body.compact_count()? == 0 {
        return Ok(None);
    }
    let _topic_name = body.compact_string()?;
    if body.compact_count()? == 0 {
        return Ok(None);
    }
    let _partition_index = body.i32()?;
    let (error_code, leader_id) = (body.i16()?, body.i32()?);
    Ok((error_code == 0).then_some(leader_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ConnectOptions;
    use crate::frame::{SIZE_LEN, read_frame};
    use crate::header::RequestHeader;
    use bytes::BytesMut;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::describe_quorum_response::{PartitionData as Partition, TopicData as Topic};
    use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
    use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeQuorumResponse, MetadataResponse};
    use kafka_protocol::protocol::Encodable;
    use kferry_config::Security;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn encoded(answer: &impl Encodable, version: i16) -> Vec<u8> {
        let mut body = Vec::new();
        answer.encode(&mut body, version).unwrap();
        body
    }

    fn metadata(cluster_id: Option<&'static str>, controller_id: i32) -> MetadataResponse {
        let broker = |node_id| {
            let host = StrBytes::from_string(format!("broker-{node_id}"));
            MetadataResponseBroker::default().with_node_id(BrokerId(node_id)).with_host(host).with_port(9092)
        };
        MetadataResponse::default()
            .with_brokers(vec![broker(2), broker(1).with_rack(Some(StrBytes::from_static_str("r")))])
            .with_cluster_id(cluster_id.map(StrBytes::from_static_str))
            .with_controller_id(BrokerId(controller_id))
    }

    fn quorum(error_code: i16, leader: i32) -> DescribeQuorumResponse {
        let partition = Partition::default().with_error_code(error_code).with_leader_id(BrokerId(leader));
        DescribeQuorumResponse::default().with_topics(vec![Topic::default().with_partitions(vec![partition])])
    }

    /// Asks a fake broker that knows `apis` and answers with what comes behind the `correlation_id`.
    async fn ask(apis: &[(ApiKey, i16)], answer: impl Fn(&RequestHeader<'_>) -> Vec<u8>) -> Result<ClusterInfo, RequestError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let fake = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buf = BytesMut::new();
            while let Ok(frame) = read_frame(&mut stream, 1 << 20, &mut buf).await {
                let header = RequestHeader::peek(&frame).unwrap();
                let answer = if header.api_key == ApiVersionsRequest::KEY {
                    let api = |(key, max): &(ApiKey, i16)| ApiVersion::default().with_api_key(*key as i16).with_max_version(*max);
                    encoded(&ApiVersionsResponse::default().with_api_keys(apis.iter().map(api).collect()), header.api_version)
                } else {
                    answer(&header)
                };
                let size = (SIZE_LEN + answer.len()) as i32;
                stream.write_all(&[&size.to_be_bytes(), &header.correlation_id.to_be_bytes(), &answer[..]].concat()).await.unwrap();
            }
        };
        let asked = async {
            let connection = Connection::connect(&address, &Security::default(), &ConnectOptions::default()).await.unwrap();
            ClusterInfo::ask(&connection).await
        };
        tokio::join!(asked, fake).0
    }

    async fn with_zookeeper(controller_id: i32) -> ClusterInfo {
        let answer = |header: &RequestHeader<'_>| encoded(&metadata(Some("L"), controller_id), header.api_version);
        ask(&[(ApiKey::Metadata, 13)], answer).await.unwrap()
    }

    const KRAFT: [(ApiKey, i16); 2] = [(ApiKey::Metadata, 13), (ApiKey::DescribeQuorum, 2)];

    /// The tagged fields of a flexible answer's header: none.
    const NO_TAGS: [u8; 1] = [0];

    async fn with_kraft(answer: &DescribeQuorumResponse) -> ClusterInfo {
        let answer = |header: &RequestHeader<'_>| match header.api() {
            // It names any broker.
            Some(ApiKey::Metadata) => encoded(&metadata(Some("N"), 1), header.api_version),
            _ => [&NO_TAGS[..], &encoded(answer, header.api_version)].concat(),
        };
        ask(&KRAFT, answer).await.unwrap()
    }

    #[tokio::test]
    async fn with_zookeeper_the_controller_is_in_the_metadata() {
        let info = with_zookeeper(1).await;
        assert_eq!((info.cluster_id.as_deref(), info.controller, info.metadata_version), (Some("L"), Some(1), None));
        let brokers: Vec<_> = info.brokers.iter().map(|broker| (broker.node_id, broker.advertised.to_string())).collect();
        assert_eq!(brokers, [(1, "broker-1:9092".to_owned()), (2, "broker-2:9092".to_owned())]);
        assert_eq!(with_zookeeper(-1).await.controller, None);
    }

    #[tokio::test]
    async fn with_kraft_the_controller_is_the_leader_of_the_quorum_if_we_may_know_it() {
        assert_eq!(with_kraft(&quorum(0, 3000)).await.controller, Some(3000));
        assert_eq!(with_kraft(&quorum(0, -1)).await.controller, None);
        // CLUSTER_AUTHORIZATION_FAILED comes without topics; an error of the partition comes with it.
        assert_eq!(with_kraft(&DescribeQuorumResponse::default().with_error_code(31)).await.controller, None);
        assert_eq!(with_kraft(&quorum(3, 0)).await.controller, None);
        assert_eq!(with_kraft(&DescribeQuorumResponse::default()).await.controller, None);
    }

    /// A decoder that reserves what these announce aborts the process: 2^31 brokers are more than 200 GB.
    #[tokio::test]
    async fn a_count_of_two_billion_is_an_error_and_costs_nothing() {
        const TWO_BILLION: [u8; 4] = i32::MAX.to_be_bytes();
        const COMPACT_TWO_BILLION: [u8; 5] = [0xff, 0xff, 0xff, 0xff, 0x0f];
        let throttle = [0; 4];
        let error = ask(&KRAFT, |_| [throttle, TWO_BILLION].concat()).await.unwrap_err().to_string();
        assert!(error.ends_with("answered Metadata v8 with something that cannot be read: it breaks off"), "{error}");

        let (error_code, topics_and_name) = ([0; 2], [2, 2, b'm']);
        for quorum in [
            [&NO_TAGS[..], &error_code, &COMPACT_TWO_BILLION].concat(),
            [&NO_TAGS[..], &error_code, &topics_and_name, &COMPACT_TWO_BILLION].concat(),
            // The tagged fields of the header.
            COMPACT_TWO_BILLION.to_vec(),
        ] {
            let answer = |header: &RequestHeader<'_>| match header.api() {
                Some(ApiKey::Metadata) => encoded(&metadata(Some("N"), 1), header.api_version),
                _ => quorum.clone(),
            };
            let error = ask(&KRAFT, answer).await.unwrap_err().to_string();
            assert!(error.ends_with("answered DescribeQuorum v0 with something that cannot be read: it breaks off"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_is_too_old_is_told_so() {
        let error = ask(&[(ApiKey::Metadata, 0)], |_| unreachable!("nothing else is asked")).await.unwrap_err().to_string();
        assert!(error.contains("knows Metadata v0 to v0, kferry v1 to v8: the broker is too old"), "{error}");
    }

    #[test]
    fn every_version_of_the_metadata_is_read() {
        for version in METADATA.min..=METADATA.max {
            let read = Metadata::read(&encoded(&metadata(Some("L"), 2), version), version).unwrap();
            assert_eq!((read.brokers.len(), read.controller_id), (2, 2), "v{version}");
            assert_eq!(read.cluster_id.as_deref(), (version >= 2).then_some("L"), "v{version}");
        }
        assert_eq!(Metadata::read(&encoded(&metadata(None, 2), 8), 8).unwrap().cluster_id, None);
    }

    #[test]
    fn a_port_that_is_none_is_malformed() {
        for port in [-1, 65_536] {
            let broker = MetadataResponseBroker::default().with_port(port);
            let body = encoded(&MetadataResponse::default().with_brokers(vec![broker]), 8);
            assert_eq!(Metadata::read(&body, 8).err(), Some(Malformed::Value("a port that is none")));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, version in 1i16..=8) {
            let _ = Metadata::read(&body, version);
            let _ = leader(&body);
        }

        #[test]
        fn a_cut_answer_is_malformed(cut in 0usize..80) {
            let whole = encoded(&metadata(Some("L"), 2), 8);
            // The authorized operations are not read.
            prop_assume!(cut < whole.len() - 4);
            prop_assert_eq!(Metadata::read(&whole[..cut], 8).err(), Some(Malformed::Short));
        }
    }
}
