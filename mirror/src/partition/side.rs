//! A topic on one of the two clusters.

use std::sync::Arc;

use kferry_wire::client::{Client, TopicPartition};

/// A topic on one of the two clusters.
#[derive(Clone)]
pub struct Side {
    /// The connections to the cluster.
    pub client: Client,
    /// The topic's name on that cluster.
    pub topic: Arc<str>,
}

impl Side {
    /// A partition of the topic.
    pub fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), partition)
    }

    /// The cluster's name in the file.
    pub fn cluster(&self) -> &Arc<str> {
        &self.client.cluster().name
    }
}
