//! What went wrong with a question to a cluster. The text has Kafka's own name of the error, the broker's words, and what to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;

use super::TopicPartition;
use crate::connection::{ConnectError, Refusal, RequestError};
use crate::identity::WrongCluster;

/// A question to a cluster that has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// One broker could not be reached.
    #[error("cluster {cluster}: {source}")]
    Connect {
        /// Its name in the file.
        cluster: Arc<str>,
        /// Which broker, and why.
        source: Arc<ConnectError>,
    },
    /// None of the brokers could be reached.
    #[error("cluster {cluster}: no broker can be reached: {}", joined(errors))]
    NoBroker {
        /// Its name in the file.
        cluster: Arc<str>,
        /// Why, of each.
        errors: Arc<[ClientError]>,
    },
    /// No broker has this node id, or it is down.
    #[error("cluster {cluster}: there is no broker {node_id} just now; check that it runs")]
    UnknownNode {
        /// Its name in the file.
        cluster: Arc<str>,
        /// Which one.
        node_id: i32,
    },
    /// The server that was asked is of another cluster.
    #[error(transparent)]
    WrongCluster(#[from] WrongCluster),
    /// The broker that was asked does not know its own cluster: it has just started.
    #[error("cluster {cluster}: the broker that was asked knows no brokers yet; if it has not started just now, check its log")]
    KnowsNoBrokers {
        /// Its name in the file.
        cluster: Arc<str>,
    },
    /// Nobody is the controller.
    #[error("cluster {cluster}: it has no controller just now; check its brokers")]
    NoController {
        /// Its name in the file.
        cluster: Arc<str>,
    },
    /// No answer to a request, or none that can be read.
    #[error("cluster {cluster}: {source}")]
    Request {
        /// Its name in the file.
        cluster: Arc<str>,
        /// Why.
        source: RequestError,
    },
    /// A broker answered with an error.
    #[error("cluster {cluster}: {what}: {}{message}{advice}", kafka_name(*code))]
    Kafka {
        /// Its name in the file.
        cluster: Arc<str>,
        /// The API and what it was about: `ListOffsets of orders-0`.
        what: String,
        /// Kafka's error.
        code: ResponseError,
        /// The broker's own words in parentheses, if it said some.
        message: String,
        /// What to do, behind a semicolon, if that is known.
        advice: String,
    },
    /// A broker's answer lacks something that was asked for.
    #[error("cluster {cluster}: the answer to {what} lacks what was asked for; this is no Apache Kafka, or a proxy in between is broken")]
    Incomplete {
        /// Its name in the file.
        cluster: Arc<str>,
        /// The API and what it was about.
        what: String,
    },
    /// The operation's time was over while a broker was asked.
    #[error("cluster {cluster}: not done within {after:?}; its brokers hang, are too busy, or throttle kferry by a quota{before}")]
    Deadline {
        /// Its name in the file.
        cluster: Arc<str>,
        /// The time that it was given.
        after: Duration,
        /// The error of the attempt before in parentheses, if there was one.
        before: String,
    },
}

/// Without the cluster's name in front of each.
fn joined(errors: &[ClientError]) -> String {
    let told = |error: &ClientError| match error {
        ClientError::Connect { source, .. } => source.to_string(),
        ClientError::Request { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    errors.iter().map(told).collect::<Vec<_>>().join("; ")
}

impl ClientError {
    pub(super) fn no_broker(cluster: &Arc<str>, errors: Vec<Self>) -> Self {
        Self::NoBroker { cluster: cluster.clone(), errors: errors.into() }
    }

    /// Where the time was over during an attempt, what the one before had come to says more.
    pub(super) fn after(self, last: Option<&Self>) -> Self {
        match (self, last) {
            (Self::Deadline { cluster, after, .. }, Some(last)) => Self::Deadline { cluster, after, before: format!(" (before: {last})") },
            (error, _) => error,
        }
    }

    /// What a broker would have said of a partition that its metadata knows no leader of.
    pub(super) fn leader(cluster: &Arc<str>, partition: &TopicPartition, code: ResponseError) -> Self {
        let advice = if code == ResponseError::UnknownTopicOrPartition { "; the topic has no such partition" } else { "" };
        let (what, advice) = (format!("Metadata of {partition}"), advice.to_owned());
        Self::Kafka { cluster: cluster.clone(), what, code, message: String::new(), advice }
    }

    /// Kafka's error, where a broker answered with one.
    pub fn code(&self) -> Option<ResponseError> {
        if let Self::Kafka { code, .. } = self { Some(*code) } else { None }
    }

    /// Whether the same question may have an answer later: a broker is down, a leader has moved, a coordinator loads. Settings that are
    /// wrong, a right that is missing, what does not exist and what Kafka refuses stay so.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { source, .. } => may_pass(&source.refusal),
            Self::NoBroker { errors, .. } => errors.iter().any(Self::is_retriable),
            // A broker's address has gone to somebody else: where it is now will be known soon.
            Self::WrongCluster(wrong) => wrong.is_one_server,
            Self::UnknownNode { .. } | Self::KnowsNoBrokers { .. } | Self::NoController { .. } | Self::Deadline { .. } => true,
            Self::Request { source, .. } => matches!(source, RequestError::Broken { .. }),
            // Kafka's clients retry this one too: the transaction before is being completed.
            Self::Kafka { code, .. } => code.is_retriable() || *code == ResponseError::ConcurrentTransactions,
            Self::Incomplete { .. } => false,
        }
    }

    /// Whether the broker may have done what it was asked, although this is an error: the answer was lost. Nobody knows, so this is true also where it
    /// was perhaps not sent.
    pub fn may_have_executed(&self) -> bool {
        match self {
            Self::Request { source, .. } => matches!(source, RequestError::Broken { .. } | RequestError::Decode { .. }),
            Self::Kafka { code, .. } => {
                matches!(code, ResponseError::RequestTimedOut | ResponseError::NetworkException | ResponseError::UnknownServerError)
            }
            Self::Deadline { .. } | Self::Incomplete { .. } => true,
            Self::Connect { .. }
            | Self::NoBroker { .. }
            | Self::WrongCluster(_)
            | Self::UnknownNode { .. }
            | Self::KnowsNoBrokers { .. }
            | Self::NoController { .. } => false,
        }
    }

    /// `UNKNOWN_TOPIC_OR_PARTITION`: it does not exist, or the broker has not heard of it yet.
    pub fn is_unknown_topic(&self) -> bool {
        matches!(self, Self::Kafka { code: ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId, .. })
    }

    /// Whether an ACL is missing.
    pub fn is_authorization(&self) -> bool {
        self.code().is_some_and(|code| {
            matches!(
                code,
                ResponseError::TopicAuthorizationFailed
                    | ResponseError::GroupAuthorizationFailed
                    | ResponseError::ClusterAuthorizationFailed
                    | ResponseError::TransactionalIdAuthorizationFailed
            )
        })
    }
}

/// Whether to connect again makes sense: not where a setting is wrong.
fn may_pass(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Resolve(_) | Refusal::Tcp(_) | Refusal::Deadline { .. } | Refusal::Frame { .. } | Refusal::Closed { .. } => true,
        Refusal::Request(error) => matches!(error, RequestError::Broken { .. }),
        _ => false,
    }
}

/// What a request is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject<'a> {
    text: String,
    topic: Option<&'a str>,
    group: Option<&'a str>,
    transactional_id: Option<&'a str>,
}

impl<'a> Subject<'a> {
    fn of(text: String) -> Self {
        Self { text, topic: None, group: None, transactional_id: None }
    }

    pub(crate) fn topic(name: &'a str) -> Self {
        Self { topic: Some(name), ..Self::of(format!("topic {name}")) }
    }

    pub(crate) fn partition(partition: &'a TopicPartition) -> Self {
        Self { topic: Some(&partition.topic), ..Self::of(partition.to_string()) }
    }

    pub(crate) fn group(id: &'a str) -> Self {
        Self { group: Some(id), ..Self::of(format!("group {id}")) }
    }

    pub(crate) fn transactional_id(id: &'a str) -> Self {
        Self { transactional_id: Some(id), ..Self::of(format!("transactional id {id}")) }
    }

    pub(crate) fn cluster() -> Self {
        Self::of("the cluster".to_owned())
    }

    /// Something that has no ACL of its own.
    pub(crate) fn other(what: &impl fmt::Display) -> Self {
        Self::of(what.to_string())
    }

    /// The same, of a group.
    pub(crate) fn in_group(self, id: &'a str) -> Self {
        Self { text: format!("{} for group {id}", self.text), group: Some(id), ..self }
    }

    /// The same, in a transaction.
    pub(crate) fn in_transaction(self, id: &'a str) -> Self {
        Self { text: format!("{} for transactional id {id}", self.text), transactional_id: Some(id), ..self }
    }
}

/// Who asked what of whom: what an error needs to say.
pub(crate) struct Asked<'a> {
    pub(super) cluster: &'a Arc<str>,
    pub(super) principal: &'a str,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
}

impl Asked<'_> {
    /// An error in an answer.
    pub(crate) fn check(&self, subject: &Subject<'_>, code: i16, message: Option<&StrBytes>) -> Result<(), ClientError> {
        let Some(code) = ResponseError::try_from_code(code) else { return Ok(()) };
        let message = message.filter(|message| !message.is_empty()).map_or_else(String::new, |message| format!(" ({})", message.as_str()));
        Err(ClientError::Kafka {
            cluster: self.cluster.clone(),
            what: format!("{:?} of {}", self.api, subject.text),
            code,
            message,
            advice: self.advice(subject, code),
        })
    }

    fn advice(&self, subject: &Subject<'_>, code: ResponseError) -> String {
        let resource = match code {
            ResponseError::TopicAuthorizationFailed => subject.topic.map(|name| format!("topic {name}")),
            ResponseError::GroupAuthorizationFailed => subject.group.map(|id| format!("group {id}")),
            ResponseError::TransactionalIdAuthorizationFailed => subject.transactional_id.map(|id| format!("transactional id {id}")),
            ResponseError::ClusterAuthorizationFailed => Some("the cluster".to_owned()),
            _ => None,
        };
        if let Some(resource) = resource {
            return format!("; an ACL must allow {} the operation {} on {resource}", self.principal, operation(self.api, code));
        }
        let advice = match code {
            ResponseError::UnknownTopicOrPartition => "it does not exist, or was deleted meanwhile",
            ResponseError::UnknownMemberId if self.api == ApiKey::OffsetCommit => {
                "the group has members, and only they can commit for it: stop them first"
            }
            ResponseError::SecurityDisabled => "its brokers have no authorizer.class.name: there are no ACLs",
            ResponseError::PolicyViolation => "the brokers' policy does not allow it",
            ResponseError::OffsetOutOfRange if self.api == ApiKey::DeleteRecords => "the offset is above the high watermark",
            _ => return String::new(),
        };
        format!("; {advice}")
    }
}

/// Which right an API needs, by what was refused. From the table "Protocols" in Kafka's documentation, "Authorization and ACLs", and
/// `KafkaApis`.
fn operation(api: ApiKey, refused: ResponseError) -> &'static str {
    match api {
        ApiKey::DescribeProducers | ApiKey::OffsetCommit => "Read",
        ApiKey::DeleteRecords | ApiKey::DeleteTopics => "Delete",
        ApiKey::WriteTxnMarkers => "ClusterAction or Alter",
        ApiKey::CreateTopics => "Create",
        ApiKey::CreatePartitions | ApiKey::CreateAcls | ApiKey::AlterUserScramCredentials => "Alter",
        ApiKey::DescribeConfigs | ApiKey::DescribeClientQuotas => "DescribeConfigs",
        ApiKey::IncrementalAlterConfigs | ApiKey::AlterClientQuotas => "AlterConfigs",
        ApiKey::InitProducerId if refused == ResponseError::ClusterAuthorizationFailed => "IdempotentWrite",
        ApiKey::InitProducerId | ApiKey::AddPartitionsToTxn | ApiKey::EndTxn => "Write",
        _ => "Describe",
    }
}

/// Kafka's own name (`org.apache.kafka.common.protocol.Errors`), which kafka-protocol writes in camel case.
fn kafka_name(code: ResponseError) -> String {
    if let ResponseError::Unknown(code) = code {
        return format!("error {code}");
    }
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(cluster: &Arc<str>, api: ApiKey) -> Asked<'_> {
        Asked { cluster, principal: "User:alice", api, version: 1 }
    }

    #[test]
    fn a_missing_right_is_named() {
        let cluster = Arc::from("old");
        let orders = TopicPartition::new("orders", 3);
        let text = |api, subject, code| asked(&cluster, api).check(&subject, code, None).unwrap_err().to_string();
        assert_eq!(
            text(ApiKey::DeleteRecords, Subject::partition(&orders), 29),
            "cluster old: DeleteRecords of orders-3: TOPIC_AUTHORIZATION_FAILED; an ACL must allow User:alice the operation Delete on topic orders"
        );
        assert_eq!(
            text(ApiKey::OffsetCommit, Subject::partition(&orders).in_group("readers"), 30),
            "cluster old: OffsetCommit of orders-3 for group readers: GROUP_AUTHORIZATION_FAILED; an ACL must allow User:alice the \
             operation Read on group readers"
        );
        assert_eq!(
            text(ApiKey::WriteTxnMarkers, Subject::partition(&orders), 31),
            "cluster old: WriteTxnMarkers of orders-3: CLUSTER_AUTHORIZATION_FAILED; an ACL must allow User:alice the operation \
             ClusterAction or Alter on the cluster"
        );
    }

    #[test]
    fn the_brokers_words_are_kept() {
        let cluster = Arc::from("old");
        let message = StrBytes::from_static_str("Replication factor: 3 larger than available brokers: 1.");
        let error = asked(&cluster, ApiKey::CreateTopics).check(&Subject::topic("orders"), 38, Some(&message)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cluster old: CreateTopics of topic orders: INVALID_REPLICATION_FACTOR \
             (Replication factor: 3 larger than available brokers: 1.)"
        );
        assert!(!error.is_retriable());
        assert!(asked(&cluster, ApiKey::CreateTopics).check(&Subject::topic("orders"), 0, None).is_ok());
    }

    #[test]
    fn kafkas_names() {
        let name = |code| kafka_name(ResponseError::try_from_code(code).unwrap());
        assert_eq!(
            [-1, 6, 56, 106].map(name),
            ["UNKNOWN_SERVER_ERROR", "NOT_LEADER_OR_FOLLOWER", "KAFKA_STORAGE_ERROR", "FETCH_SESSION_TOPIC_ID_ERROR"]
        );
        assert_eq!(name(30_000), "error 30000");
    }
}
