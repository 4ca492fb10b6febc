//! `[[mirrors]]`: which topics and groups are copied from which cluster to which other one, and how.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use crate::names::{Naming, Selection};

/// Copies topics, their settings and the consumer groups' offsets from one cluster to another, `[[mirrors]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its name in the file: unique, of letters, digits, `.`, `_` and `-`, at most [`Mirror::LONGEST_NAME`] of them. Part of topic names and
    /// metric labels.
    pub name: Arc<str>,
    /// `source`.
    pub source: Arc<Cluster>,
    /// `target`: never the source.
    pub target: Arc<Cluster>,
    /// `topics`, `topics_regex` and `exclude_regex`: by their names on the source. At least one name or regex.
    pub topics: Selection,
    /// `groups`, `groups_regex` and `groups_exclude_regex`: whose offsets are copied. None without the keys.
    pub groups: Selection,
    /// `groups_interval_seconds`: how often their offsets are looked at, 1 s to an hour. Default [`Mirror::GROUPS_INTERVAL`].
    pub groups_interval: Duration,
    /// `offsets`, `preserve` without it.
    pub offsets: Offsets,
    /// `on_error`, `fail` without it.
    pub on_error: OnError,
    /// `on_lost`; without it `fail` where `on_error` is `fail`, and else `follow`.
    pub on_lost: OnLost,
    /// `[mirrors.rename]`, `[[mirrors.rename_regex]]` and `topic_naming`.
    pub naming: Naming,
    /// `[mirrors.topic_config]`: put over the source's settings of every topic, by Kafka's names.
    pub topic_config: BTreeMap<String, String>,
    /// `sync_topic_configs`: whether the settings of topics follow the source's while they are mirrored. Default true.
    pub sync_topic_configs: bool,
    /// `replication_factor` of new topics, 1 to 32,767. Without it the source's, at most the target's number of brokers.
    pub replication_factor: Option<u16>,
    /// `max_padding`: the highest log start of a partition, in offsets, up to which a fresh one on the target is filled with empty
    /// records so that its offsets are the source's. Default [`Mirror::MAX_PADDING`].
    pub max_padding: i64,
    /// `max_bytes_per_second` of what is copied, as it is on the wire, in all partitions together. Without it, or with 0, there is no
    /// limit.
    pub max_bytes_per_second: Option<NonZeroU64>,
}

impl Mirror {
    /// The longest name, in characters: a topic whose name it is part of may have 249.
    pub const LONGEST_NAME: usize = 100;

    /// The default of `max_padding`. So many offsets are some eight minutes of a broker's time and 6 GB of its disk for each partition, the
    /// latter until they are deleted again.
    pub const MAX_PADDING: i64 = 10_000_000_000;

    /// The default of `groups_interval_seconds`: what a group that is started anew on the target may have to read again.
    pub const GROUPS_INTERVAL: Duration = Duration::from_secs(10);

    /// The `group.id` of the consumer group in which the processes of a mirror of this name are members, on its target.
    pub fn group(name: &str) -> String {
        format!("kferry-mirror-{name}")
    }

    /// Whether it is between these clusters, in either direction.
    pub fn connects(&self, clusters: [&str; 2]) -> bool {
        let [source, target] = [&*self.source.name, &*self.target.name];
        clusters == [source, target] || clusters == [target, source]
    }
}

/// `offsets` of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offsets {
    /// A record has the same offset on both clusters.
    Preserve,
    /// It has another one, and an offset map says which.
    Translate,
}

impl Offsets {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Preserve, Self::Translate];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preserve => "preserve",
            Self::Translate => "translate",
        }
    }
}

/// `on_error` of a mirror: what happens to a record that the target does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Its partition stops there until somebody has seen to it.
    Fail,
    /// It is left out, counted, and its offset becomes a marker.
    Skip,
    /// As `Skip`, and it is written to a topic of its own.
    DeadLetter,
}

impl OnError {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fail, Self::Skip, Self::DeadLetter];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::DeadLetter => "dead-letter",
        }
    }
}

/// `on_lost` of a mirror: what happens to a partition when its leader has deleted records before they were copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLost {
    /// It stops there until somebody has seen to it.
    Fail,
    /// It goes on at the leader's log start, and that is told and counted.
    Follow,
}

impl OnLost {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Fail, Self::Follow];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Follow => "follow",
        }
    }
}
