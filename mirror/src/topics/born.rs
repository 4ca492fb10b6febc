//! Topics that were born on a mirror's target, and that the mirror would copy if they were its source's: once the log of decisions says that they lead there,
//! they are copied the other way, so that groups which live on the source can commit to them.
//!
//! What is a copy whose source was deleted is not brought back to life: [`whose`]. A topic without any batch waits for one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kferry_config::{Mirror, dead_letter_topic, is_internal};
use kferry_wire::client::Topic;
use kferry_wire::log::{Whose, whose};
use kferry_wire::places::copies_as;

use super::plan::{Cluster, TopicPlan};

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
        } else {
            asked.push(topic);
        }
    }
    let whose = whose(&target.client, asked.iter().copied()).await;
    for topic in asked {
        let id = topic.id.map(|id| id.to_string());
        match whose.get(&topic.name) {
            Some(Ok(Whose::Own)) => drop(found.born.insert(topic.name.to_string(), id)),
            Some(Ok(Whose::Copy)) => drop(found.copies.insert((topic.name.clone(), id))),
            // It waits for its first record, or for a log that answers.
            Some(Ok(Whose::Nobodys) | Err(_)) | None => {}
        }
    }
    found
}
