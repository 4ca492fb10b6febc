//! Topics of the mirror's own, on its target: what they are called, and how they are created.

use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Client, ClientError};
use kferry_wire::tell;

use crate::messages;

/// The topic of a mirror's state.
pub fn state_topic(mirror: &str) -> String {
    format!("__kferry.mirror.{mirror}")
}

/// The topic of dead letters of a topic.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}.DLT")
}

/// Creates a topic. It has `replication_factor` replicas, or as many as the cluster gives by itself (`default.replication.factor`): how many
/// brokers are up just now says nothing, as one may be away.
///
/// # Errors
/// [`ClientError`]
pub async fn create(
    client: &Client,
    topic: &str,
    partitions: i32,
    replication_factor: Option<u16>,
    configs: &[(&str, &str)],
) -> Result<(), ClientError> {
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: NewPartitions::Count {
            partitions: Some(partitions),
            replication_factor: replication_factor.and_then(|factor| i16::try_from(factor).ok()),
        },
        configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let created = client.create_topics(&[new], false).await.into_values().next().transpose()?;
    if replication_factor.is_none() && created.is_some_and(|created| created.replication_factor == Some(1)) {
        tell!(messages::ONE_REPLICA, topic, cluster = &*client.cluster().name);
    }
    Ok(())
}
