//! The shards that this process has.

use std::collections::HashMap;
use std::sync::Arc;

use kferry_wire::client::TopicPartition;

use crate::partition::{Lease, Shard};
use crate::state::State;

/// The shards that this process has, and which one a partition or group belongs to.
#[derive(Clone)]
pub struct Owned {
    state: State,
    shards: HashMap<i32, Arc<Shard>>,
}

impl Owned {
    /// No shards yet.
    pub fn none(state: State) -> Self {
        Self { state, shards: HashMap::new() }
    }

    /// All shards for ever, for a process that is alone.
    pub fn all(state: State) -> Self {
        let lease = Lease::new(u64::MAX);
        let shard = |number| (number, Shard::new(number, lease.clone()));
        let shards = state.shards().map(shard).collect();
        Self { state, shards }
    }

    /// The shard of a partition, by its topic's name on the mirror's source, if this process has it.
    pub fn of(&self, partition: &TopicPartition) -> Option<&Arc<Shard>> {
        self.shards.get(&self.state.shard(partition)).filter(|shard| !shard.is_over())
    }

    /// The shard of a consumer group, if this process has it.
    pub fn of_group(&self, group: &str) -> Option<&Arc<Shard>> {
        self.shards.get(&self.state.group_shard(group)).filter(|shard| !shard.is_over())
    }

    /// Adds a shard that this process has from now on.
    pub fn add(&mut self, shard: Arc<Shard>) {
        self.shards.insert(shard.number(), shard);
    }

    /// Forgets the shards that are over.
    pub fn drop_over(&mut self) {
        self.shards.retain(|_, shard| !shard.is_over());
    }
}
