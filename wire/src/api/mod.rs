//! One place for each fact about an API: the versions that a relayed client may use, and what in its messages must be rewritten.
//!
//! A relayed client lives in a world of virtual brokers: node ids, hosts and ports of the proxy, no leader epochs, one cluster id, topic ids that
//! follow from the topics' names. What carries one of these is a row with a schema; everything else passes as opaque bytes. Adding an API is a row.
//!
//! There is one way through a message, the [`Walk`]: it is fed what has arrived of a body and says what becomes of it. [`rewrite()`] feeds it a body
//! that is held. Produce requests and Fetch responses stream; they have schemas for the walk, but in no row: the relay looks into them only where
//! a topic of the connection's cluster may lead on another one.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the table; `docs/apis.md` is rendered from it |
//! | `schema` | how to find, in a message, what is rewritten |
//! | `walk` | the way through a message, by its schema, with as much of it as has arrived |
//! | `asked` | what is asked on the way, and how it may fail |
//! | `settings` | which settings have node ids in their values, and how they are written there |
//! | `rewrite` | the case of a body that is there as a whole |
//!
//! # References
//! - `clients/src/main/resources/common/message/*.json` in Kafka
//! - KIP-482 (flexible versions, tagged fields), KIP-320 (leader epochs), KIP-392 (preferred replicas), KIP-516 (topic ids), KIP-951 (leaders in answers)

mod asked;
mod rewrite;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod walk;

use kafka_protocol::messages::ApiKey;

pub use asked::{MAX_TEXT, Rewrite, RewriteError, Unmapped, put_uvarint};
pub use rewrite::rewrite;
pub use schema::{FETCH_RESPONSE, Field, Kind, PRODUCE_REQUEST, PRODUCE_RESPONSE};
pub use settings::NodeIds;
pub use uuid::Uuid;
pub use walk::{Step, Walk};

/// Whether a relayed client may use an API.
#[derive(Debug, Clone, Copy)]
pub enum Use {
    /// It may, in these versions, both included.
    Carried(i16, i16),
    /// The proxy takes part in it itself.
    Handshake(i16, i16),
    /// It is not advertised; why.
    Hidden(&'static str),
}

/// Which cluster of a view a request is for, and so who answers it.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// The one that the client's connection leads to.
    Connection,
    /// The one on which the topic leads: a partition that leads elsewhere is refused by the connection's cluster.
    Leader,
    /// The one on which the group lives; with the place of the groups' ids in the request. A group that lives elsewhere is refused.
    Group(&'static [Field]),
    /// The client's home, whichever the connection leads to.
    Home,
    /// All of them: the proxy asks each for its part, and answers itself.
    View,
}

impl By {
    /// As the documents have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Leader => "topic's leader",
            Self::Group(_) => "group's life",
            Self::Home => "home",
            Self::View => "view",
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    /// Its key.
    pub key: ApiKey,
    /// Whether, and in which versions.
    pub usage: Use,
    /// The newest version that is advertised, of those that are carried.
    pub newest: i16,
    /// Who answers it where clients see a view of several clusters.
    pub by: By,
    /// What is rewritten in requests; empty: they pass as they are.
    pub request: &'static [Field],
    /// What is rewritten in answers; empty: they pass as they are.
    pub response: &'static [Field],
    /// Why not in the versions above or below, where that is not just what brokers know; or empty.
    pub limit: &'static str,
}

const fn carried(key: ApiKey, min: i16, max: i16) -> Api {
    rewritten(key, min, max, &[], &[])
}

const fn rewritten(key: ApiKey, min: i16, max: i16, request: &'static [Field], response: &'static [Field]) -> Api {
    Api { key, usage: Use::Carried(min, max), newest: max, by: By::Connection, request, response, limit: "" }
}

const fn handshake(key: ApiKey, min: i16, max: i16) -> Api {
    Api { key, usage: Use::Handshake(min, max), newest: max, by: By::Connection, request: &[], response: &[], limit: "" }
}

const fn hidden(key: ApiKey, why: &'static str) -> Api {
    Api { key, usage: Use::Hidden(why), newest: -1, by: By::Connection, request: &[], response: &[], limit: "" }
}

impl Api {
    const fn because(mut self, limit: &'static str) -> Self {
        self.limit = limit;
        self
    }

    const fn by(mut self, by: By) -> Self {
        self.by = by;
        self
    }

    /// What is newer is carried for those who do not ask.
    const fn advertised_to(mut self, newest: i16) -> Self {
        self.newest = newest;
        self
    }
}

const BETWEEN_BROKERS: &str = "brokers speak it among themselves";
const ONE_CLUSTERS: &str = "it is about one cluster's own machinery: ask the cluster itself";
const SHARE: &str = "share groups keep state on one cluster that a move cannot take along";
const FETCH: &str = "13 has topic ids";
const TOPIC_IDS: &str = "10 has topic ids";
const TRANSACTIONS_V2: &str = "5 is transactions v2 (KIP-890)";
const TELEMETRY: &str = "it would go to whichever cluster the client is on";
const TOKENS: &str = "a delegation token is good for one cluster only";

/// Every API that this version of kferry knows, by key. One that it does not know is hidden.
pub const APIS: &[Api] = &[
    // 4.x brokers dropped 0 to 2 and still advertise them, because librdkafka looks for them.
    carried(ApiKey::Produce, 0, 9)
        .by(By::Leader)
        .because("10 has addresses of leaders in its answers (KIP-951), 12 is transactions v2 (KIP-890), 13 has topic ids"),
    rewritten(ApiKey::Fetch, 0, 12, schema::FETCH_REQUEST, &[]).by(By::Leader).because(FETCH),
    rewritten(ApiKey::ListOffsets, 0, 11, schema::LIST_OFFSETS_REQUEST, schema::LIST_OFFSETS_RESPONSE).by(By::Leader),
    rewritten(ApiKey::Metadata, 0, 13, schema::METADATA_REQUEST, schema::METADATA_RESPONSE)
        .by(By::View)
        .advertised_to(12)
        .because("13 can tell a client to start anew (KIP-1102), which only some understand: it is carried for those who do not ask"),
    rewritten(ApiKey::OffsetCommit, 0, 9, schema::OFFSET_COMMIT_REQUEST, &[]).by(By::Group(schema::GROUP)).because(TOPIC_IDS),
    rewritten(ApiKey::OffsetFetch, 0, 9, &[], schema::OFFSET_FETCH_RESPONSE).by(By::Group(schema::OFFSET_FETCH_GROUPS)).because(TOPIC_IDS),
    rewritten(ApiKey::FindCoordinator, 0, 6, schema::FIND_COORDINATOR_REQUEST, schema::FIND_COORDINATOR_RESPONSE).by(By::View),
    carried(ApiKey::JoinGroup, 0, 9).by(By::Group(schema::JOIN_GROUP)),
    carried(ApiKey::Heartbeat, 0, 4).by(By::Group(schema::GROUP)),
    carried(ApiKey::LeaveGroup, 0, 5).by(By::Group(schema::GROUP)),
    carried(ApiKey::SyncGroup, 0, 5).by(By::Group(schema::GROUP)),
    carried(ApiKey::DescribeGroups, 0, 6).by(By::Group(schema::GROUPS)),
    carried(ApiKey::ListGroups, 0, 5),
    handshake(ApiKey::SaslHandshake, 0, 1)
        .because("0 is followed by messages without a header; it is carried with PLAIN, SCRAM and OAUTHBEARER"),
    handshake(ApiKey::ApiVersions, 0, 4).because("5 names the cluster and the node that the client expects (KIP-1242)"),
    rewritten(ApiKey::CreateTopics, 0, 7, schema::CREATE_TOPICS_REQUEST, schema::CREATE_TOPICS_RESPONSE).by(By::View),
    rewritten(ApiKey::DeleteTopics, 0, 6, schema::DELETE_TOPICS_REQUEST, schema::DELETE_TOPICS_RESPONSE).by(By::View),
    rewritten(ApiKey::DeleteRecords, 0, 2, schema::DELETE_RECORDS_REQUEST, schema::DELETE_RECORDS_RESPONSE).by(By::Leader),
    rewritten(ApiKey::InitProducerId, 0, 5, &[], schema::INIT_PRODUCER_ID_RESPONSE).because("6 is two-phase commit (KIP-939)"),
    hidden(ApiKey::OffsetForLeaderEpoch, "leader epochs of two clusters cannot be compared"),
    rewritten(ApiKey::AddPartitionsToTxn, 0, 3, schema::ADD_PARTITIONS_TO_TXN_REQUEST, schema::ADD_PARTITIONS_TO_TXN_RESPONSE)
        .by(By::Leader)
        .because("4 and up are for brokers (KIP-890)"),
    carried(ApiKey::AddOffsetsToTxn, 0, 4).by(By::Group(schema::ADD_OFFSETS_GROUP)),
    carried(ApiKey::EndTxn, 0, 4).because(TRANSACTIONS_V2),
    // `Admin.abortTransaction` sends it as well (KIP-664).
    rewritten(ApiKey::WriteTxnMarkers, 1, 1, schema::WRITE_TXN_MARKERS_REQUEST, schema::WRITE_TXN_MARKERS_RESPONSE)
        .by(By::Leader)
        .because("2 is for brokers (KIP-1228); every broker knows 1"),
    rewritten(ApiKey::TxnOffsetCommit, 0, 4, schema::TXN_OFFSET_COMMIT_REQUEST, &[])
        .by(By::Group(schema::TXN_GROUP))
        .because(TRANSACTIONS_V2),
    carried(ApiKey::DescribeAcls, 0, 3).by(By::Home),
    carried(ApiKey::CreateAcls, 0, 3).by(By::Home),
    carried(ApiKey::DeleteAcls, 0, 3).by(By::Home),
    rewritten(ApiKey::DescribeConfigs, 0, 4, schema::DESCRIBE_CONFIGS_REQUEST, schema::DESCRIBE_CONFIGS_RESPONSE).by(By::View),
    rewritten(ApiKey::AlterConfigs, 0, 2, schema::ALTER_CONFIGS_REQUEST, schema::ALTER_CONFIGS_RESPONSE).by(By::View),
    carried(ApiKey::AlterReplicaLogDirs, 0, 2),
    carried(ApiKey::DescribeLogDirs, 0, 5),
    handshake(ApiKey::SaslAuthenticate, 0, 2),
    rewritten(ApiKey::CreatePartitions, 0, 3, schema::CREATE_PARTITIONS_REQUEST, schema::CREATE_PARTITIONS_RESPONSE).by(By::View),
    hidden(ApiKey::CreateDelegationToken, TOKENS),
    hidden(ApiKey::RenewDelegationToken, TOKENS),
    hidden(ApiKey::ExpireDelegationToken, TOKENS),
    hidden(ApiKey::DescribeDelegationToken, TOKENS),
    carried(ApiKey::DeleteGroups, 0, 2).by(By::Group(schema::GROUPS_NAMES)),
    rewritten(ApiKey::ElectLeaders, 0, 2, schema::ELECT_LEADERS_REQUEST, &[]).by(By::View),
    rewritten(ApiKey::IncrementalAlterConfigs, 0, 1, schema::INCREMENTAL_ALTER_CONFIGS_REQUEST, schema::ALTER_CONFIGS_RESPONSE)
        .by(By::View),
    rewritten(
        ApiKey::AlterPartitionReassignments,
        0,
        1,
        schema::ALTER_PARTITION_REASSIGNMENTS_REQUEST,
        schema::ALTER_PARTITION_REASSIGNMENTS_RESPONSE,
    )
    .by(By::View),
    rewritten(
        ApiKey::ListPartitionReassignments,
        0,
        0,
        schema::LIST_PARTITION_REASSIGNMENTS_REQUEST,
        schema::LIST_PARTITION_REASSIGNMENTS_RESPONSE,
    )
    .by(By::View),
    carried(ApiKey::OffsetDelete, 0, 0).by(By::Group(schema::GROUP)),
    carried(ApiKey::DescribeClientQuotas, 0, 1).by(By::Home),
    carried(ApiKey::AlterClientQuotas, 0, 1).by(By::Home),
    carried(ApiKey::DescribeUserScramCredentials, 0, 0).by(By::Home),
    carried(ApiKey::AlterUserScramCredentials, 0, 0).by(By::Home),
    hidden(ApiKey::Vote, BETWEEN_BROKERS),
    hidden(ApiKey::BeginQuorumEpoch, BETWEEN_BROKERS),
    hidden(ApiKey::EndQuorumEpoch, BETWEEN_BROKERS),
    hidden(ApiKey::DescribeQuorum, ONE_CLUSTERS),
    hidden(ApiKey::AlterPartition, BETWEEN_BROKERS),
    hidden(ApiKey::UpdateFeatures, ONE_CLUSTERS),
    hidden(ApiKey::Envelope, BETWEEN_BROKERS),
    hidden(ApiKey::FetchSnapshot, BETWEEN_BROKERS),
    rewritten(ApiKey::DescribeCluster, 0, 2, &[], schema::DESCRIBE_CLUSTER_RESPONSE).by(By::View),
    rewritten(ApiKey::DescribeProducers, 0, 0, schema::DESCRIBE_PRODUCERS_REQUEST, schema::DESCRIBE_PRODUCERS_RESPONSE).by(By::Leader),
    hidden(ApiKey::BrokerRegistration, BETWEEN_BROKERS),
    hidden(ApiKey::BrokerHeartbeat, BETWEEN_BROKERS),
    hidden(ApiKey::UnregisterBroker, ONE_CLUSTERS),
    rewritten(ApiKey::DescribeTransactions, 0, 0, schema::DESCRIBE_TRANSACTIONS_REQUEST, &[]).by(By::View),
    carried(ApiKey::ListTransactions, 0, 2),
    hidden(ApiKey::AllocateProducerIds, BETWEEN_BROKERS),
    rewritten(ApiKey::ConsumerGroupHeartbeat, 0, 1, schema::CONSUMER_GROUP_HEARTBEAT_REQUEST, schema::CONSUMER_GROUP_HEARTBEAT_RESPONSE)
        .by(By::Group(schema::GROUP)),
    rewritten(ApiKey::ConsumerGroupDescribe, 0, 1, &[], schema::CONSUMER_GROUP_DESCRIBE_RESPONSE).by(By::Group(schema::GROUP_IDS)),
    hidden(ApiKey::ControllerRegistration, BETWEEN_BROKERS),
    hidden(ApiKey::GetTelemetrySubscriptions, TELEMETRY),
    hidden(ApiKey::PushTelemetry, TELEMETRY),
    hidden(ApiKey::AssignReplicasToDirs, BETWEEN_BROKERS),
    hidden(ApiKey::ListConfigResources, "it lists brokers by node id, and what is specific to one cluster"),
    hidden(ApiKey::DescribeTopicPartitions, "it carries addresses and epochs in a form that no client needs: Metadata serves them all"),
    hidden(ApiKey::ShareGroupHeartbeat, SHARE),
    hidden(ApiKey::ShareGroupDescribe, SHARE),
    hidden(ApiKey::ShareFetch, SHARE),
    hidden(ApiKey::ShareAcknowledge, SHARE),
    hidden(ApiKey::AddRaftVoter, ONE_CLUSTERS),
    hidden(ApiKey::RemoveRaftVoter, ONE_CLUSTERS),
    hidden(ApiKey::UpdateRaftVoter, ONE_CLUSTERS),
    hidden(ApiKey::InitializeShareGroupState, SHARE),
    hidden(ApiKey::ReadShareGroupState, SHARE),
    hidden(ApiKey::WriteShareGroupState, SHARE),
    hidden(ApiKey::DeleteShareGroupState, SHARE),
    hidden(ApiKey::ReadShareGroupStateSummary, SHARE),
    hidden(ApiKey::DescribeShareGroupOffsets, SHARE),
    hidden(ApiKey::AlterShareGroupOffsets, SHARE),
    hidden(ApiKey::DeleteShareGroupOffsets, SHARE),
];

impl Api {
    /// The row of an API, if this version of kferry knows it.
    pub fn of(key: i16) -> Option<&'static Self> {
        let at = APIS.partition_point(|api| (api.key as i16) < key);
        APIS.get(at).filter(|api| api.key as i16 == key)
    }

    /// The versions that a relayed client is told of, both included; none where the API is hidden.
    pub fn advertised(&self) -> Option<(i16, i16)> {
        self.versions().map(|(min, _)| (min, self.newest))
    }

    /// The versions that a relayed client may use, both included; none where the API is hidden.
    pub fn versions(&self) -> Option<(i16, i16)> {
        match self.usage {
            Use::Carried(min, max) | Use::Handshake(min, max) => Some((min, max)),
            Use::Hidden(_) => None,
        }
    }

    /// Whether a version is flexible: compact lengths, tagged fields (KIP-482).
    pub fn is_flexible(&self, version: i16) -> bool {
        self.key.request_header_version(version) >= 2
    }
}
