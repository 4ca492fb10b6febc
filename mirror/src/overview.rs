//! The partitions and groups of a mirror that this process looks after, for everybody to see.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kferry_wire::client::TopicPartition;

use crate::groups::GroupReports;
use crate::partition::{NotCopied, Phase, Progress, Status};

/// The partitions and groups of a mirror that this process looks after, for everybody to see.
#[derive(Default)]
pub struct Overview {
    rows: Mutex<BTreeMap<TopicPartition, Arc<Status>>>,
    /// Topics that cannot be copied, or not as they should be.
    topics: Mutex<Vec<NotCopied>>,
    /// See [`is_ready`](Self::is_ready).
    pub(crate) ready: AtomicBool,
    /// What the last pass over the groups found.
    pub groups: GroupReports,
}

impl Overview {
    /// The progress of each partition, by the topic's name on the mirror's source.
    pub fn rows(&self) -> Vec<(TopicPartition, Progress)> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().map(|(partition, status)| (partition.clone(), status.lock().clone())).collect()
    }

    /// The topics of this process that cannot be copied, or whose settings on the follower cannot be the leader's.
    pub fn topics(&self) -> Vec<NotCopied> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what [`topics`](Self::topics) gives.
    pub(crate) fn set_topics(&self, topics: Vec<NotCopied>) {
        *self.topics.lock().unwrap_or_else(PoisonError::into_inner) = topics;
    }

    /// The phase of a partition; `None` is not one of this process.
    pub fn phase(&self, partition: &TopicPartition) -> Option<Phase> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get(partition).map(|status| status.lock().phase)
    }

    /// Up to which offset of the leader a partition of this process is copied; `None` for one that is not looked at yet.
    pub(crate) fn agreed(&self, partition: &TopicPartition) -> Option<i64> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get(partition).map(|status| status.lock().agreed)
    }

    /// Whether the process is a member of the mirror's group, and each of its partitions was looked at. Short interruptions do not change it.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Changes which partitions there are.
    pub(crate) fn change(&self, change: impl FnOnce(&mut BTreeMap<TopicPartition, Arc<Status>>)) {
        change(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
