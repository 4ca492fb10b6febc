//! Whose a topic is that only the target of a mirror has: it was born there, or it is a copy whose source was deleted, and nobody may bring that one back to
//! life. What tells them apart is who wrote the first batch that is there: the mirror's producer ids are like no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::{Isolation, ReadError, fetch_once};
use crate::admin::partitions::Position;
use crate::batch::stamp::is_of_a_mirror;
use crate::batch::{self, Entry};
use crate::client::{Client, Topic, TopicPartition};

/// How many topics are looked into at the same time.
const TOPICS: usize = 32;

/// Of a log the first batch is looked at: a broker sends it whole, however large.
const BYTES: i32 = 1024;

/// Whose a topic is that only the target of a mirror has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// It was born there.
    Own,
    /// A mirror has written it.
    Copy,
    /// It has no batch yet.
    Nobodys,
}

/// Looks into topics, as the cluster has just told of them.
///
/// # Errors
/// For each topic: one of its logs cannot be read, and no other one says that a mirror has written it.
pub async fn whose<'t>(client: &Client, topics: impl IntoIterator<Item = &'t Topic>) -> BTreeMap<Arc<str>, Result<Whose, ReadError>> {
    let partitions = |topic: &Topic| -> Vec<TopicPartition> {
        (0..topic.partitions.len()).map(|index| TopicPartition::new(topic.name.clone(), index as i32)).collect()
    };
    let topics: BTreeMap<Arc<str>, Vec<TopicPartition>> = topics.into_iter().map(|topic| (topic.name.clone(), partitions(topic))).collect();
    let all = topics.values().flatten().cloned().collect::<Vec<_>>();
    let (starts, ends) = tokio::join!(client.list_offsets(&all, Position::LogStart), client.log_ends(&all));
    let of_topic = async |topic: Arc<str>, partitions: Vec<TopicPartition>| {
        let mut whose = Ok(Whose::Nobodys);
        for partition in partitions {
            let of_partition = match (starts.get(&partition), ends.get(&partition)) {
                (Some(Ok(start)), Some(Ok(end))) if start < end => of_log(client, &partition, *start).await,
                (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error.clone().into()),
                _ => Ok(Whose::Nobodys),
            };
            match of_partition {
                Ok(Whose::Nobodys) => {}
                Ok(Whose::Own) => whose = whose.and(Ok(Whose::Own)),
                copy @ Ok(Whose::Copy) => return (topic, copy),
                error => whose = error,
            }
        }
        (topic, whose)
    };
    stream::iter(topics).map(|(topic, partitions)| of_topic(topic, partitions)).buffer_unordered(TOPICS).collect().await
}

async fn of_log(client: &Client, partition: &TopicPartition, start: i64) -> Result<Whose, ReadError> {
    let fetched = fetch_once(client, partition, start, BYTES, Isolation::ReadUncommitted).await?;
    Ok(match batch::split(fetched.records).next() {
        Some(Ok(Entry::Batch(batch))) if is_of_a_mirror(batch.producer_id()) => Whose::Copy,
        Some(Ok(_)) => Whose::Own,
        // Somebody has deleted it meanwhile.
        Some(Err(_)) | None => Whose::Nobodys,
    })
}
