//! Topics that would get in each other's way, also those of other mirrors of the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use kferry_config::{Collision, Mirror, collisions};
use kferry_wire::client::{Client, ClientError, Topics};
use kferry_wire::connection::ConnectOptions;

use crate::PATIENCE;

/// The names of each source's topics, or why it did not tell them; by the cluster's name in the file.
pub type SourceTopics = BTreeMap<Arc<str>, Result<Vec<String>, ClientError>>;

/// Asks the sources of mirrors for their topics, all at once, [`PATIENCE`] at the most. Those in `known` are not asked.
pub async fn source_topics(mirrors: &[Arc<Mirror>], mut known: SourceTopics, options: &ConnectOptions) -> SourceTopics {
    let sources: BTreeMap<_, _> = mirrors.iter().map(|mirror| (mirror.source.name.clone(), mirror.source.clone())).collect();
    let asked = sources.into_iter().filter(|(name, _)| !known.contains_key(name)).map(async |(name, cluster)| {
        let topics = Client::new(cluster, options.clone()).within(PATIENCE).metadata(Topics::All).await;
        (name, topics.map(|metadata| metadata.topics.iter().map(|topic| topic.name.to_string()).collect()))
    });
    let asked = join_all(asked).await;
    known.extend(asked);
    known
}

/// What of the sources' topics would collide. Of a source that did not tell its topics nothing is known.
pub fn among(mirrors: &[Arc<Mirror>], topics: &SourceTopics) -> Vec<Collision> {
    collisions(mirrors, |cluster| topics.get(&cluster.name).and_then(|topics| topics.as_ref().ok()).map_or(&[], Vec::as_slice))
}
