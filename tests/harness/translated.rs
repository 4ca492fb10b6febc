//! What a mirror that translates offsets says, beside a look at every single record.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kafka::{Cluster, Record};
use crate::mirror::Mirror;

/// The key of records that somebody else writes to the target.
pub const FOREIGN: &[u8] = b"foreign";

/// What was found in a topic.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Records that are on both sides, in the same order.
    pub equal: usize,
    /// Records that only the source has.
    pub lost: usize,
    /// Records that the target has once more, or that the source does not have.
    pub repeated: usize,
    /// Records that differ, or are in another order.
    pub differing: usize,
    /// Records of which the map says another offset, on either side.
    pub misplaced: usize,
    /// Records of others between them.
    pub foreign: usize,
    /// Segments of the map.
    pub segments: usize,
}

impl Found {
    /// Nothing is lost, repeated, differs or is somewhere else than the map says.
    pub fn is_perfect(&self) -> bool {
        self.equal > 0 && (self.lost, self.repeated, self.differing, self.misplaced) == (0, 0, 0, 0)
    }

    /// Reads both topics as a whole and asks `kferry offsets` for the map of each partition.
    pub fn look(mirror: &Mirror, source: &Cluster, target: &Cluster, topic: &str, on_target: &str) -> Result<Self> {
        let mut found = Self::default();
        let (mut expected, mut actual) = (by_partition(source.read_all(topic)?), by_partition(target.read_all(on_target)?));
        for partition in 0..source.partitions(topic)?.len() as i32 {
            let (expected, all) = (expected.remove(&partition).unwrap_or_default(), actual.remove(&partition).unwrap_or_default());
            let before = all.len();
            let ours: Vec<_> = all.into_iter().filter(|record| record.key.as_deref() != Some(FOREIGN)).collect();
            found.foreign += before - ours.len();
            found.lost += expected.len().saturating_sub(ours.len());
            found.repeated += ours.len().saturating_sub(expected.len());
            let segments = segments(mirror, topic, partition)?;
            found.segments += segments.len();
            for (there, here) in expected.iter().zip(&ours) {
                let same = Record { offset: there.offset, ..here.clone() } == *there;
                found.equal += usize::from(same);
                found.differing += usize::from(!same);
                found.misplaced += usize::from(!is_at(&segments, there.offset, here.offset));
            }
        }
        Ok(found)
    }
}

fn by_partition(records: Vec<Record>) -> BTreeMap<i32, Vec<Record>> {
    let mut partitions: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for record in records {
        partitions.entry(record.partition).or_default().push(record);
    }
    for records in partitions.values_mut() {
        records.sort_by_key(|record| record.offset);
    }
    partitions
}

/// The map of a partition: first offsets on the source and on the target.
pub fn segments(mirror: &Mirror, topic: &str, partition: i32) -> Result<Vec<(i64, i64)>> {
    let ended = mirror.kferry(&["offsets", "--json", "--topic", topic, "--partition", &partition.to_string()])?;
    ensure!(ended.code == Some(0), "kferry offsets: {ended:?}");
    let answer: Value = serde_json::from_str(&ended.log).with_context(|| ended.log.clone())?;
    let segments = answer["segments"].as_array().context("no segments")?;
    let segment = |segment: &Value| Some((segment["source"].as_i64()?, segment["target"].as_i64()?));
    segments.iter().map(|value| segment(value).with_context(|| format!("{value} is no segment"))).collect()
}

/// The map says that a record is at these offsets: found by each of the two.
fn is_at(segments: &[(i64, i64)], source: i64, target: i64) -> bool {
    let by_source = segments.iter().rev().find(|(first, _)| *first <= source);
    let by_target = segments.iter().rev().find(|(_, first)| *first <= target);
    [by_source, by_target].iter().all(|segment| segment.is_some_and(|(first, at)| source - first == target - at))
}
