//! Who leads a partition, for those who keep a connection to it.

use std::sync::Arc;

use super::{Client, ClientError, Resend, TopicPartition};
use crate::connection::Connection;

impl Client {
    /// The node id of a partition's leader: as it was known last, asked for if it is not known.
    ///
    /// # Errors
    /// [`ClientError`]: the partition does not exist, or has had no leader until the deadline.
    pub async fn leader_id(&self, partition: &TopicPartition) -> Result<i32, ClientError> {
        self.retry(Resend::Always, || self.find_leader(partition)).await
    }

    /// The shared connection to a partition's leader.
    ///
    /// # Errors
    /// [`ClientError`]; the connection itself is tried once.
    pub async fn leader_of(&self, partition: &TopicPartition) -> Result<Arc<Connection>, ClientError> {
        let node_id = self.leader_id(partition).await?;
        let connection = self.broker(node_id).await;
        if connection.is_err() {
            self.forget_leader(partition);
        }
        connection
    }

    /// The broker that was thought to lead a partition does not: it is asked for the next time.
    pub fn forget_leader(&self, partition: &TopicPartition) {
        self.known().leaders.remove(&partition.topic);
    }
}
