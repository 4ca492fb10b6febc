//! What the mirror keeps of groups, beside what it keeps of partitions in [`super`]: which offsets it wrote last, and which cluster leads a group's
//! offsets.
//!
//! A group's offset has the key `{"group":"billing","topic":"orders","partition":0}`, by the topic's name on the mirror's source, and the leader
//! of a group's offsets is under `{"group":"billing"}`. All that is about a group is in one partition of the topic.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kferry_config::Mirror;
use kferry_wire::client::TopicPartition;
use serde::{Deserialize, Serialize};

use crate::partition::{Direction, Leadership};

/// A group's offset as the mirror wrote it. It is kept before it is written: so whatever the follower has after a crash, it is one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The offset that was committed on the follower.
    pub offset: i64,
    /// The offset that the follower had before; `None` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// When it was written, in ms since the epoch.
    pub at: i64,
}

impl Written {
    /// Whether an offset that the follower has may be the one that the mirror wrote.
    pub fn is(&self, offset: i64) -> bool {
        offset == self.offset || Some(offset) == self.before
    }
}

/// A group and a partition for which it has committed an offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupPartition {
    /// `group.id`
    pub group: Arc<str>,
    /// The partition, by the topic's name on the mirror's source.
    pub partition: TopicPartition,
}

/// What was written, or is going to be, by group and partition; `None` is forgotten.
pub type Changes = BTreeMap<GroupPartition, Option<Written>>;

/// The key of a record about a group: its leader, or one of its offsets.
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
    /// By `group.id` and partition.
    written: HashMap<Arc<str>, HashMap<TopicPartition, Written>>,
    /// Which cluster leads a group's offsets, by `group.id`.
    leaders: HashMap<Arc<str>, Leadership>,
}

impl<'a> GroupKey<'a> {
    pub(crate) fn of(GroupPartition { group, partition }: &'a GroupPartition) -> Self {
        Self { group: (&**group).into(), topic: Some((&*partition.topic).into()), partition: Some(partition.partition) }
    }
}

impl GroupStates {
    /// The offset that the mirror wrote last for a group in a partition.
    pub fn written(&self, group: &str, partition: &TopicPartition) -> Option<&Written> {
        self.written.get(group)?.get(partition)
    }

    /// When the mirror wrote an offset of a group last, in ms since the epoch.
    pub fn last_written(&self, group: &str) -> Option<i64> {
        self.written.get(group)?.values().map(|written| written.at).max()
    }

    /// All offsets that the mirror wrote last, with group and partition.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, &TopicPartition, &Written)> {
        self.written.iter().flat_map(|(group, written)| written.iter().map(move |(partition, written)| (group, partition, written)))
    }

    /// Which cluster leads a group's offsets; `None` is the mirror's source, in term 1.
    pub fn leader(&self, group: &str) -> Option<&Leadership> {
        self.leaders.get(group)
    }

    /// From which cluster to which a group's offsets are copied; `None` is led by a cluster that is none of the mirror's.
    pub fn direction(&self, mirror: &Mirror, group: &str) -> Option<Direction> {
        self.leader(group).map_or(Some(Direction::Forwards), |leadership| Direction::led_by(mirror, &leadership.leader))
    }

    /// Whether the mirror's target leads any group's offsets.
    pub fn has_turned(&self, mirror: &Mirror) -> bool {
        self.leaders.values().any(|leadership| Direction::led_by(mirror, &leadership.leader) == Some(Direction::Backwards))
    }

    /// Takes in a record of the state's topic; without a value it is a tombstone.
    pub(crate) fn take(&mut self, key: GroupKey<'_>, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let group: Arc<str> = key.group.as_ref().into();
        match (key.topic, key.partition) {
            (Some(topic), Some(partition)) => {
                let written = value.map(serde_json::from_slice).transpose()?;
                let partition = TopicPartition::new(topic.as_ref(), partition);
                self.apply([(GroupPartition { group, partition }, written)]);
            }
            _ => Leadership::follow(&mut self.leaders, group, value.map(serde_json::from_slice).transpose()?),
        }
        Ok(())
    }

    /// Takes in what was written for groups.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (GroupPartition, Option<Written>)>) {
        for (GroupPartition { group, partition }, written) in changes {
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
