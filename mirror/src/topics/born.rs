//! Topics that were born on a mirror's target, and that the mirror would copy if they were its source's: once the log of decisions says that they lead there,
//! they are copied the other way, so that groups which live on the source can commit to them.
//!
//! A topic that only the target has may as well be a copy whose source was deleted, and nobody may bring that one back to life. What tells them apart is who
//! wrote the first batch that is there: the mirror's producer ids are like no other. A topic without any batch says nothing, and waits for one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use kferry_config::{Mirror, dead_letter_topic, is_internal};
use kferry_wire::admin::partitions::Position;
use kferry_wire::batch::stamp::is_of_a_mirror;
use kferry_wire::batch::{self, Entry};
use kferry_wire::client::{Client, Topic, TopicPartition};
use kferry_wire::log::{Isolation, fetch_once};
use kferry_wire::places::copies_as;

use super::plan::{Cluster, TopicPlan};

/// How many topics a pass looks into at the most.
const TOPICS: usize = 50;
/// Of a log the first batch is looked at: a broker sends it whole, however large.
const BYTES: i32 = 1024;

/// What the target has and the source has not, by name and id.
pub(crate) type Copies = HashSet<(Arc<str>, Option<String>)>;

/// What was found out about topics that only the target has.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that were born there, each with its id.
    pub(crate) born: BTreeMap<String, Option<String>>,
    /// Copies: they are not looked into again.
    pub(crate) copies: Copies,
}

/// Whose a topic is that only the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// It was born there.
    Own,
    /// A mirror has written it.
    Copy,
    /// It has no batch yet, or a log of it does not answer.
    Unknown,
}

/// The topics of the target that may have been born there: those that the mirror would copy under their names, and that the source does not have. What another
/// mirror of the file copies the other way is that one's.
fn candidates<'c>(
    mirror: &'c Mirror,
    mirrors: &'c [Arc<Mirror>],
    source: &'c Cluster,
    target: &'c Cluster,
    plans: &'c [TopicPlan],
) -> impl Iterator<Item = &'c Topic> {
    let on_source: HashSet<&str> = source.metadata.topics.iter().map(|topic| &*topic.name).collect();
    let dead_letters: HashSet<String> = plans.iter().map(|plan| dead_letter_topic(&plan.target)).collect();
    let copied_there = |name: &str| {
        let mut back = mirrors.iter().filter(|other| other.source.name == mirror.target.name && other.target.name == mirror.source.name);
        back.any(|other| copies_as(other, name))
    };
    target.metadata.topics.iter().filter(move |topic| {
        topic.error.is_none()
            && !is_internal(&topic.name)
            && !on_source.contains(&*topic.name)
            && copies_as(mirror, &topic.name)
            && !dead_letters.contains(&*topic.name)
            && !copied_there(&topic.name)
    })
}

/// Looks into topics that only the target has. `is_open`: whether this process may say something of a topic, and nothing was decided of it. `copies`: as it was
/// found before; of those that are gone nothing is kept.
pub(crate) async fn find(
    mirror: &Mirror,
    mirrors: &[Arc<Mirror>],
    (source, target): (&Cluster, &Cluster),
    plans: &[TopicPlan],
    is_open: impl Fn(&str) -> bool,
    copies: &Copies,
) -> Found {
    let mut found = Found::default();
    let mut asked = Vec::new();
    for topic in candidates(mirror, mirrors, source, target, plans).filter(|topic| is_open(&topic.name)) {
        let key = (topic.name.clone(), topic.id.map(|id| id.to_string()));
        if copies.contains(&key) {
            found.copies.insert(key);
        } else if asked.len() < TOPICS {
            asked.push((key, whose(&target.client, topic)));
        }
    }
    for ((name, id), whose) in join_all(asked.into_iter().map(|(key, whose)| async { (key, whose.await) })).await {
        match whose {
            Whose::Own => drop(found.born.insert(name.to_string(), id)),
            Whose::Copy => drop(found.copies.insert((name, id))),
            Whose::Unknown => {}
        }
    }
    found
}

async fn whose(client: &Client, topic: &Topic) -> Whose {
    let partitions: Vec<_> = (0..topic.partitions.len()).map(|index| TopicPartition::new(topic.name.clone(), index as i32)).collect();
    let (starts, ends) = tokio::join!(client.list_offsets(&partitions, Position::LogStart), client.log_ends(&partitions));
    let mut whose = Whose::Unknown;
    for partition in &partitions {
        let Some((Ok(start), Ok(end))) = starts.get(partition).zip(ends.get(partition)) else { return Whose::Unknown };
        if start >= end {
            continue;
        }
        let Ok(fetched) = fetch_once(client, partition, *start, BYTES, Isolation::ReadUncommitted).await else { return Whose::Unknown };
        match batch::split(fetched.records).next() {
            Some(Ok(Entry::Batch(batch))) if is_of_a_mirror(batch.producer_id()) => return Whose::Copy,
            Some(Ok(_)) => whose = Whose::Own,
            // Somebody has deleted it meanwhile.
            Some(Err(_)) | None => {}
        }
    }
    whose
}
