//! What the mirror keeps of groups, beside what it keeps of partitions in [`super`]: which offsets it wrote last, and who leads a group's
//! offsets.
//!
//! A group's offset has the key `{"group":"billing","topic":"orders","partition":0}`, by the topic's name on the mirror's source, and the leader
//! of a group's offsets is under `{"group":"billing"}`. All that is about a group is in one partition of the topic.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kferry_wire::client::TopicPartition;
use serde::{Deserialize, Serialize};

use crate::partition::Leadership;

/// A group's offset as the mirror wrote it. It is kept before it is written: so whatever the follower has after a crash, it is one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// What was written on the follower.
    pub offset: i64,
    /// What the follower had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// When, in ms since the epoch.
    pub at: i64,
}

impl Written {
    /// Whether an offset that the follower has may be the one that the mirror wrote.
    pub fn is(&self, offset: i64) -> bool {
        offset == self.offset || Some(offset) == self.before
    }
}

/// A group and a partition, by the topic's name on the mirror's source.
pub type GroupPartition = (Arc<str>, TopicPartition);

/// What was written anew; `None` is forgotten.
pub type Changes = BTreeMap<GroupPartition, Option<Written>>;

/// A record's key.
#[derive(Serialize, Deserialize)]
pub(crate) struct GroupKey<'a> {
    group: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
}

/// What is kept of all groups.
#[derive(Debug, Clone, Default)]
pub struct GroupStates {
    written: HashMap<Arc<str>, HashMap<TopicPartition, Written>>,
    leaders: HashMap<Arc<str>, Leadership>,
}

impl<'a> GroupKey<'a> {
    pub(crate) fn of((group, partition): &'a GroupPartition) -> Self {
        Self { group: (&**group).into(), topic: Some((&*partition.topic).into()), partition: Some(partition.partition) }
    }
}

impl GroupStates {
    /// What the mirror wrote last for a group.
    pub fn written(&self, group: &str, partition: &TopicPartition) -> Option<&Written> {
        self.written.get(group)?.get(partition)
    }

    /// Everything that the mirror wrote.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, &TopicPartition, &Written)> {
        self.written.iter().flat_map(|(group, written)| written.iter().map(move |(partition, written)| (group, partition, written)))
    }

    /// Who leads a group's offsets; `None` is the mirror's source, in term 1.
    pub fn leader(&self, group: &str) -> Option<&Leadership> {
        self.leaders.get(group)
    }

    /// The leaders that are known.
    pub fn leaders(&self) -> impl Iterator<Item = &Leadership> {
        self.leaders.values()
    }

    /// A record of the topic.
    pub(crate) fn take(&mut self, key: GroupKey<'_>, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let group: Arc<str> = key.group.as_ref().into();
        match (key.topic, key.partition) {
            (Some(topic), Some(partition)) => {
                let written = value.map(serde_json::from_slice).transpose()?;
                self.apply([((group, TopicPartition::new(topic.as_ref(), partition)), written)]);
            }
            _ => Leadership::follow(&mut self.leaders, group, value.map(serde_json::from_slice).transpose()?),
        }
        Ok(())
    }

    /// What was written since.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (GroupPartition, Option<Written>)>) {
        for ((group, partition), written) in changes {
            match written {
                Some(written) => drop(self.written.entry(group).or_default().insert(partition, written)),
                None => {
                    if let Some(of_group) = self.written.get_mut(&group) {
                        of_group.remove(&partition);
                        if of_group.is_empty() {
                            self.written.remove(&group);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    fn take(states: &mut GroupStates, key: &str, value: Option<&str>) {
        states.take(serde_json::from_str(key).unwrap(), value.map(str::as_bytes)).unwrap();
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        let key = GroupKey { group: "g".into(), topic: Some("orders".into()), partition: Some(3) };
        assert_eq!(json(&key), r#"{"group":"g","topic":"orders","partition":3}"#);
        let written = Written { offset: 7, before: Some(5), at: 1_000 };
        assert_eq!(json(&written), r#"{"offset":7,"before":5,"at":1000}"#);

        let (mut states, partition) = (GroupStates::default(), TopicPartition::new("orders", 3));
        take(&mut states, r#"{"group":"g","topic":"orders","partition":3}"#, Some(r#"{"offset":7,"before":5,"at":1000}"#));
        assert_eq!(states.written("g", &partition), Some(&written));
        assert!(states.leader("g").is_none());
        take(&mut states, r#"{"group":"g"}"#, Some(r#"{"leader":"new","term":2}"#));
        assert_eq!(states.leader("g"), Some(&Leadership { leader: "new".to_owned(), term: 2 }));
        take(&mut states, r#"{"group":"g","topic":"orders","partition":3}"#, None);
        take(&mut states, r#"{"group":"g"}"#, None);
        assert!(states.all().next().is_none() && states.leader("g").is_none());
    }

    #[test]
    fn a_topics_record_is_none_of_a_group() {
        for key in [r#"{"topic":"orders"}"#, r#"{"topic":"orders","partition":0}"#] {
            assert!(serde_json::from_str::<GroupKey<'_>>(key).is_err(), "{key}");
        }
    }
}
