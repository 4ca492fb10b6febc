//! Topics of the mirror's own, on its target: what they are called, and how they are created.

use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Client, ClientError};
use kferry_wire::tell;

use crate::messages;

/// The name of the topic that holds a mirror's state, on its target.
pub fn state_topic(mirror: &str) -> String {
    format!("__kferry.mirror.{mirror}")
}

/// Creates a topic with these settings (name and value). It has `replication_factor` replicas, or as many as the cluster gives by itself
/// (`default.replication.factor`): how many brokers are up just now says nothing, as one may be away.
///
/// # Errors
/// [`ClientError`]: the topic was not created, or it is not known whether it was. One that is there already is an error too.
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
