//! What is known of partitions is kept in the state's topic, one save after the other.

use std::collections::HashMap;

use kferry_wire::client::TopicPartition;

use super::entry::PartitionEntry;
use crate::partition::{Phase, Shard};
use crate::state::{State, StateError, Unsaved};

/// Keeps what has changed of the partitions of those shards that `may` allows, as long as it goes on allowing them.
pub(super) fn save(
    entries: &HashMap<TopicPartition, PartitionEntry>,
    state: &State,
    may: fn(&Shard) -> bool,
) -> impl Future<Output = Result<(), StateError>> + Send + use<> {
    let (mut unsaved, mut of) = (Vec::new(), Vec::new());
    for (partition, entry) in entries.iter().filter(|(_, entry)| may(&entry.shard)) {
        let mut progress = entry.status.lock();
        // While a partition is filled up or looked at for the first time nothing is agreed yet.
        let nothing = matches!(progress.phase, Phase::Waiting | Phase::Comparing) && progress.skipped.is_empty() && progress.agreed == 0;
        if nothing || !std::mem::take(&mut progress.unsaved) {
            continue;
        }
        progress.forget_before_log_starts();
        let to_keep = entry.to_keep(partition, &progress, state);
        if state.partition(partition).as_ref() != Some(&to_keep) || progress.map.segments() != state.segments(partition) {
            unsaved.push(Unsaved { partition: partition.clone(), state: to_keep, status: entry.status.clone() });
            of.push((entry.status.clone(), entry.shard.clone()));
        }
    }
    let state = state.clone();
    async move {
        let saved = state.save(unsaved, || of.iter().all(|(_, shard)| may(shard))).await;
        if saved.is_err() {
            for (status, _) in &of {
                status.lock().unsaved = true;
            }
        }
        saved
    }
}
