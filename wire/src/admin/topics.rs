//! Topics: to create, to grow and to delete them.
//!
//! # References
//! - KIP-4, KIP-195 (CreatePartitions), KIP-464 (a broker's defaults), KIP-599 (`THROTTLING_QUOTA_EXCEEDED`)

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{ApiKey, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest};
use kafka_protocol::protocol::VersionRange;

use super::acls::Operations;
use super::{text, timeout_ms, topic_name};
use crate::client::{Answers, Client, ClientError, Controller, Nodes, Resend, Subject, TopicId, Topics};

/// With version 5 a partition count or replication factor may be left to the broker.
const CREATE_TOPICS: VersionRange = VersionRange { min: 5, max: 7 };
const CREATE_PARTITIONS: VersionRange = VersionRange { min: 0, max: 3 };
/// Version 6 takes ids too, in another form, and says nothing more.
const DELETE_TOPICS: VersionRange = VersionRange { min: 1, max: 5 };
/// The first version with authorized operations is 8, the last without ids for names 12.
const METADATA: VersionRange = VersionRange { min: 8, max: 12 };

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its partitions and where they are.
    pub partitions: NewPartitions,
    /// Its settings; the rest has the cluster's defaults.
    pub configs: Vec<(String, String)>,
}

/// The partitions of a new topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewPartitions {
    /// So many, placed by the cluster.
    Count {
        /// How many; `num.partitions` of the controller for `None`.
        partitions: Option<i32>,
        /// Replicas of each; `default.replication.factor` of the controller for `None`.
        replication_factor: Option<i16>,
    },
    /// For each partition the node ids of its replicas, the preferred leader first.
    Assigned(Vec<Vec<i32>>),
}

/// A topic that was created, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// `None` from brokers before 2.8, and where it was only validated.
    pub id: Option<TopicId>,
    /// `None` if we may not know: that needs `DescribeConfigs`.
    pub partitions: Option<i32>,
    /// `None` if we may not know.
    pub replication_factor: Option<i16>,
}

impl Client {
    /// Creates topics, or only says whether it could. With ZooKeeper a broker may not have heard of a new topic for a moment.
    ///
    /// Tried again only where the controller did nothing. After a lost answer ([`ClientError::may_have_executed`]) the topic may exist.
    pub async fn create_topics(&self, topics: &[NewTopic], validate_only: bool) -> Answers<String, CreatedTopic> {
        let asked: BTreeMap<String, &NewTopic> = topics.iter().map(|topic| (topic.name.clone(), topic)).collect();
        self.spread(ApiKey::CreateTopics, Controller, Resend::IfRefused, asked, |connection, batch| async move {
            let topics = batch.iter().map(|(_, topic)| creatable(topic)).collect();
            let request =
                CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(timeout_ms()).with_validate_only(validate_only);
            let (asked, answer) = self.send(&connection, CREATE_TOPICS, |_| request).await?;
            let results = answer.topics.iter().map(|topic| {
                let checked = asked.check(&Subject::topic(&topic.name), topic.error_code, topic.error_message.as_ref());
                let created = CreatedTopic {
                    id: TopicId::read(topic.topic_id.into_bytes()),
                    partitions: (topic.num_partitions >= 0).then_some(topic.num_partitions),
                    replication_factor: (topic.replication_factor >= 0).then_some(topic.replication_factor),
                };
                (topic.name.to_string(), checked.map(|()| created))
            });
            Ok(results.collect())
        })
        .await
    }

    /// Grows a topic to `count` partitions, or only says whether it could. `assignments` is for each new partition the node ids of its
    /// replicas; without it the cluster places them. To grow it to what it has already is `INVALID_PARTITIONS`.
    ///
    /// # Errors
    /// [`ClientError`]; tried again only where the controller did nothing.
    pub async fn create_partitions(
        &self,
        topic: &str,
        count: i32,
        assignments: Option<&[Vec<i32>]>,
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let asked = std::iter::once((topic.to_owned(), ())).collect();
        let answers = self.spread(ApiKey::CreatePartitions, Controller, Resend::IfRefused, asked, |connection, _| async move {
            let assignment = |ids: &Vec<i32>| CreatePartitionsAssignment::default().with_broker_ids(broker_ids(ids));
            let grown = CreatePartitionsTopic::default()
                .with_name(topic_name(topic))
                .with_count(count)
                .with_assignments(assignments.map(|assignments| assignments.iter().map(assignment).collect()));
            let request =
                CreatePartitionsRequest::default().with_topics(vec![grown]).with_timeout_ms(timeout_ms()).with_validate_only(validate_only);
            let (asked, answer) = self.send(&connection, CREATE_PARTITIONS, |_| request).await?;
            let results = answer.results.iter().map(|result| {
                let checked = asked.check(&Subject::topic(&result.name), result.error_code, result.error_message.as_ref());
                (result.name.to_string(), checked)
            });
            Ok(results.collect())
        });
        let answers = answers.await;
        self.only(ApiKey::CreatePartitions, &topic.to_owned(), answers)
    }

    /// Deletes topics, by name. Brokers may know them for a moment longer.
    ///
    /// Tried again only where the controller did nothing. After a lost answer the topic may be gone.
    pub async fn delete_topics(&self, topics: &[&str]) -> Answers<String, ()> {
        let asked = topics.iter().map(|name| ((*name).to_owned(), ())).collect();
        self.spread(ApiKey::DeleteTopics, Controller, Resend::IfRefused, asked, |connection, batch| async move {
            let names = batch.iter().map(|(name, ())| topic_name(name)).collect();
            let request = DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(timeout_ms());
            let (asked, answer) = self.send(&connection, DELETE_TOPICS, |_| request).await?;
            let results = answer.responses.iter().filter_map(|result| {
                let name = result.name.as_ref()?;
                let checked = asked.check(&Subject::topic(name), result.error_code, result.error_message.as_ref());
                Some((name.to_string(), checked))
            });
            Ok(results.collect())
        })
        .await
    }

    /// What we may do with topics. Without an authorizer that is everything.
    pub async fn topic_authorized_operations(&self, topics: &[&str]) -> Answers<Arc<str>, Operations> {
        let asked = topics.iter().map(|name| (Arc::from(*name), ())).collect();
        let any = |_: &Arc<str>| crate::client::Node::Any;
        self.spread(ApiKey::Metadata, Nodes(any), Resend::Always, asked, |connection, batch: Vec<(Arc<str>, ())>| async move {
            let names: Vec<&str> = batch.iter().map(|(name, ())| &**name).collect();
            let request: MetadataRequest = Topics::Named(&names).request().with_include_topic_authorized_operations(true);
            let (asked, answer) = self.send(&connection, METADATA, |_| request).await?;
            let results = answer.topics.iter().filter_map(|topic| {
                let name = topic.name.as_ref()?;
                let checked = asked.check(&Subject::topic(name), topic.error_code, None);
                Some((Arc::from(name.as_str()), checked.map(|()| Operations::from_bits(topic.topic_authorized_operations))))
            });
            Ok(results.collect())
        })
        .await
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let configs =
        topic.configs.iter().map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value))));
    let creatable = CreatableTopic::default().with_name(topic_name(&topic.name)).with_configs(configs.collect());
    match &topic.partitions {
        NewPartitions::Count { partitions, replication_factor } => {
            creatable.with_num_partitions(partitions.unwrap_or(-1)).with_replication_factor(replication_factor.unwrap_or(-1))
        }
        NewPartitions::Assigned(replicas) => {
            let assignment = |(index, ids): (usize, &Vec<i32>)| {
                CreatableReplicaAssignment::default().with_partition_index(index as i32).with_broker_ids(broker_ids(ids))
            };
            let assignments = replicas.iter().enumerate().map(assignment).collect();
            creatable.with_num_partitions(-1).with_replication_factor(-1).with_assignments(assignments)
        }
    }
}

fn broker_ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}
