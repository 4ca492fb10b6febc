//! The cluster itself.
//!
//! # References
//! - KIP-700 (DescribeCluster), KIP-430 (authorized operations)

use kafka_protocol::messages::{ApiKey, DescribeClusterRequest};
use kafka_protocol::protocol::VersionRange;

use super::acls::Operations;
use crate::client::{Client, ClientError, Resend, Subject};
use crate::cluster::Broker;
use kferry_config::HostPort;

const DESCRIBE_CLUSTER: VersionRange = VersionRange { min: 0, max: 1 };

/// A cluster, and what we may do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Unique in the world.
    pub cluster_id: String,
    /// The brokers that are up, by node id.
    pub brokers: Vec<Broker>,
    /// With ZooKeeper the controller's node id, with `KRaft` that of any broker. `None` if there is none just now.
    pub controller: Option<i32>,
    /// What we may do with it. Without an authorizer that is everything.
    pub authorized_operations: Operations,
}

impl Client {
    /// The cluster, and what we may do with it. Brokers know the API since 2.8.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, ClientError> {
        self.retry(Resend::Always, || async {
            let connection = self.any().await?;
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            let (asked, answer) = self.send(&connection, DESCRIBE_CLUSTER, |_| request).await?;
            asked.check(&Subject::cluster(), answer.error_code, answer.error_message.as_ref())?;
            let mut brokers = Vec::new();
            for broker in &answer.brokers {
                let port = u16::try_from(broker.port).map_err(|_| self.incomplete(ApiKey::DescribeCluster, &broker.broker_id.0))?;
                let advertised = HostPort { host: broker.host.to_string(), port };
                brokers.push(Broker { node_id: broker.broker_id.0, advertised });
            }
            brokers.sort_by_key(|broker| broker.node_id);
            Ok(ClusterDescription {
                cluster_id: answer.cluster_id.to_string(),
                brokers,
                controller: (answer.controller_id.0 >= 0).then_some(answer.controller_id.0),
                authorized_operations: Operations::from_bits(answer.cluster_authorized_operations),
            })
        })
        .await
    }
}
