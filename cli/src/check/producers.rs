//! How long brokers remember idempotent producers.

use std::sync::Arc;
use std::time::Duration;

use kferry_config::Cluster;
use kferry_wire::admin::configs::ConfigResource;
use kferry_wire::client::{Client, Topics};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::log::first_batch::WATCHED;

/// For all that a cluster is asked.
const DEADLINE: Duration = Duration::from_secs(10);

/// The broker's setting: of 3.5 and later. Before that it is `transactional.id.expiration.ms`, a week, which is left alone.
const EXPIRATION: &str = "producer.id.expiration.ms";

/// A sentence if a cluster between which and another one topics move live forgets producers sooner than first batches are looked at. Whether it answers at all, and
/// whether kferry's login may ask for settings, is told elsewhere.
pub(super) async fn ask(cluster: &Arc<Cluster>) -> Option<String> {
    let client = Client::new(cluster.clone(), ConnectOptions::default()).within(DEADLINE);
    let brokers = client.metadata(Topics::Named(&[])).await.ok()?.brokers;
    let brokers: Vec<_> = brokers.iter().map(|broker| ConfigResource::Broker(broker.node_id)).collect();
    let settings = client.describe_configs(&brokers, Some(&[EXPIRATION])).await;
    let values = settings.into_values().filter_map(Result::ok).flatten().filter(|entry| entry.name == EXPIRATION);
    too_soon(&cluster.name, values.filter_map(|entry| entry.value?.parse().ok()).min()?)
}

fn too_soon(cluster: &str, expiration_ms: u64) -> Option<String> {
    (Duration::from_millis(expiration_ms) <= WATCHED).then(|| {
        format!(
            "cluster {cluster}: {EXPIRATION} is {expiration_ms}: it forgets idempotent producers sooner than an hour, for which kferry goes by what they have sent before a \
             move; a batch could be lost unnoticed. Set more on its brokers before topics move, such as Kafka's default of 86400000"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_too_soon() {
        assert!(too_soon("old", 3_600_000).unwrap().starts_with("cluster old: producer.id.expiration.ms is 3600000"));
        assert_eq!(too_soon("old", 3_600_001), None);
    }
}
