//! The end of a mirror: the topics of its target are to be like any other there, and nothing of the mirror is to be left.
//!
//! While it is mirrored a topic has settings that only a copy needs: `compression.type=producer`, `message.timestamp.type=CreateTime` and no bounds for
//! timestamps. They would stay for ever, and applications that produce to the target would get another topic than they had on the source.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use kferry_config::{Mirror, Offsets};
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Client, ClientError, TopicPartition};
use serde::Serialize;

use crate::own_topics::state_topic;
use crate::partition::{OffsetMap, Phase};
use crate::patient_clients;
use crate::state::{State, StateError};
use crate::topics::{self, Cluster, SettingChange, TIMESTAMP_TYPE, TopicPlan};

/// What is left to do for a mirror to be over.
#[derive(Debug, Serialize)]
pub struct Finish {
    /// The mirror.
    pub mirror: Arc<str>,
    /// Its target, where it is done.
    pub target: Arc<str>,
    /// The topics whose settings change there, by their names on the target.
    pub topics: BTreeMap<Arc<str>, Vec<SettingChange>>,
    /// The topic of the mirror's own that is deleted; `None` if it is not there.
    pub state_topic: Option<String>,
    /// Partitions of the source with records that the target does not have, and how many offsets those are.
    pub behind: BTreeMap<String, i64>,
    /// Partitions whose copy is not one of the source's records, and why.
    pub differs: BTreeMap<String, String>,
    /// Why the mirror cannot be finished now: a sentence each.
    pub errors: Vec<String>,
    /// What is done already, by the name of the topic on the target.
    pub done: Vec<String>,
}

impl Finish {
    /// Looks at both clusters, and changes nothing.
    pub async fn look(mirror: &Arc<Mirror>) -> Self {
        let mut finish = Self {
            mirror: mirror.name.clone(),
            target: mirror.target.name.clone(),
            topics: BTreeMap::new(),
            state_topic: None,
            behind: BTreeMap::new(),
            differs: BTreeMap::new(),
            errors: Vec::new(),
            done: Vec::new(),
        };
        if let Err(error) = Box::pin(finish.ask(mirror)).await {
            finish.errors.push(error.to_string());
        }
        finish
    }

    async fn ask(&mut self, mirror: &Arc<Mirror>) -> Result<(), StateError> {
        let (source, target) = patient_clients(mirror);
        let (mut on_source, mut on_target) = tokio::try_join!(Cluster::look(&source), Cluster::look(&target))?;
        let state = State::open(target.clone(), mirror, false).await?;
        self.state_topic = state.as_ref().map(|_| state_topic(&mirror.name));
        let members = members(&target, &mirror.name).await?;
        if members > 0 {
            let processes = if members == 1 { "process" } else { "processes" };
            self.errors.push(format!(
                "this mirror is run by {members} {processes} of kferry-mirror: stop all of it first, or it would set everything again"
            ));
        }
        let plans = topics::plan(
            mirror,
            &mut on_source,
            &mut on_target,
            |topic| state.as_ref().and_then(|state| state.leader(topic)),
            BTreeSet::new(),
        )
        .await?;
        let mut copies = Vec::new();
        for plan in &plans {
            // Nothing can be copied to a topic whose broker stamps the records: that is how one is left.
            let is_stamped = plan.drift.iter().any(|drift| drift.name == TIMESTAMP_TYPE);
            if let Some(error) = plan.error.as_ref().filter(|_| !is_stamped) {
                self.errors.push(format!("topic {}: {error}", plan.topic));
                continue;
            }
            if plan.leader != mirror.source.name {
                self.errors.push(format!(
                    "topic {}: {} leads it since it has moved live, and it is copied back: to leave it there see docs/moves.md, \
                     When the last route has moved; else move it back first",
                    plan.topic, plan.leader
                ));
                continue;
            }
            let there = on_target.topic(&plan.target).map_or(0, |topic| topic.partitions.len());
            copies.extend((0..plan.partitions).map(|partition| Copy::of(mirror, plan, partition, there, state.as_ref())));
            if there > 0 {
                let changes = topics::of_its_own(mirror, &on_source, &plan.topic, &on_target, &plan.target);
                if !changes.is_empty() {
                    self.topics.insert(plan.target.clone(), changes);
                }
            }
        }
        self.compare(&source, &target, &copies).await?;
        Ok(())
    }

    /// What the target lacks of the source, by the logs as they are: what was kept may be of a topic that is not there any more.
    async fn compare(&mut self, source: &Client, target: &Client, copies: &[Copy]) -> Result<(), ClientError> {
        let leaders: Vec<_> = copies.iter().map(|copy| copy.source.clone()).collect();
        let followers: Vec<_> = copies.iter().filter_map(|copy| copy.target.clone()).collect();
        let (mut starts, mut ends, mut target_ends) = tokio::join!(
            source.list_offsets(&leaders, Position::LogStart),
            source.list_offsets(&leaders, Position::HighWatermark),
            target.list_offsets(&followers, Position::HighWatermark)
        );
        for copy in copies {
            let (Some(start), Some(end)) = (starts.remove(&copy.source), ends.remove(&copy.source)) else { continue };
            let target_end = copy.target.as_ref().and_then(|target| target_ends.remove(target)).transpose()?;
            let behind = copy.behind(start?..end?, target_end);
            if let Some(behind) = behind.filter(|behind| *behind > 0) {
                self.behind.insert(copy.source.to_string(), behind);
            }
            if let Some(why) = &copy.differs {
                self.differs.insert(copy.source.to_string(), why.clone());
            }
        }
        Ok(())
    }

    /// Does it: the settings first, then what is the mirror's own. What could not be done is in `errors`; a further call goes on from there.
    pub async fn apply(&mut self, mirror: &Mirror) {
        let (_, target) = patient_clients(mirror);
        for (topic, changes) in std::mem::take(&mut self.topics) {
            match topics::alter(&topic, &target, &changes).await {
                Ok(refused) => {
                    self.errors.extend(refused.iter().map(|change| format!("topic {topic}: {change} is refused by {}", self.target)));
                    self.done.push(format!("{topic}: {}", told(&changes)));
                }
                Err(error) => self.errors.push(format!("topic {topic}: {}: {error}", told(&changes))),
            }
        }
        // With it gone, nothing would tell how far a copy is.
        let Some(state_topic) = self.state_topic.take_if(|_| self.errors.is_empty()) else { return };
        match target.delete_topics(&[&state_topic]).await.into_values().next() {
            None | Some(Ok(())) => self.done.push(format!("{state_topic}: deleted")),
            Some(Err(error)) => self.errors.push(format!("topic {state_topic} cannot be deleted: {error}")),
        }
    }
}

/// A partition, and what is known of its copy.
#[derive(Debug)]
struct Copy {
    source: TopicPartition,
    /// `None`: the target has no such partition.
    target: Option<TopicPartition>,
    known: Known,
    /// Why the two logs are known to differ.
    differs: Option<String>,
}

/// How the offsets of a copy are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// They are the source's.
    Same,
    /// It was copied up to this offset of the source, which is that one on the target.
    Translated { source: i64, target: i64 },
    /// They are others, and nothing is kept of them: the mirror was finished already.
    Nothing,
}

impl Copy {
    /// `there`: how many partitions the topic has on the target.
    fn of(mirror: &Mirror, plan: &TopicPlan, partition: i32, there: usize, state: Option<&State>) -> Self {
        let source = TopicPartition::new(plan.topic.clone(), partition);
        let is_there = usize::try_from(partition).is_ok_and(|partition| partition < there);
        let kept = state.and_then(|state| state.partition(&source));
        let map = state.map(|state| state.map(&source, mirror.offsets));
        let translates = map.as_ref().map_or(mirror.offsets == Offsets::Translate, OffsetMap::translates);
        let known = match (&kept, map) {
            _ if !translates => Known::Same,
            (Some(kept), Some(map)) => Known::Translated { source: kept.agreed, target: map.target(kept.agreed).unwrap_or(0) },
            _ => Known::Nothing,
        };
        let differs = kept.as_ref().and_then(|kept| {
            let is_anew =
                |(cluster, then): (&String, &String)| plan.topic_ids.get(cluster).filter(|now| *now != then).map(|_| cluster.clone());
            let anew = kept.topic_ids.iter().find_map(is_anew).map(|cluster| {
                format!("the topic was deleted and created anew on {cluster} since it was copied: the records of the two may be others")
            });
            let diverged =
                (kept.phase == Phase::Diverged).then(|| format!("its logs differ: {}", kept.reason.as_deref().unwrap_or("diverged")));
            anew.or(diverged)
        });
        Self { source, target: is_there.then(|| TopicPartition::new(plan.target.clone(), partition)), known, differs }
    }

    /// How many of the source's offsets the target lacks, whose log ends at `target_end`. `None`: nobody knows.
    fn behind(&self, source: Range<i64>, target_end: Option<i64>) -> Option<i64> {
        let copied = match (target_end, self.known) {
            (Some(end), Known::Same) => end,
            (Some(end), Known::Translated { source, target }) if target <= end => source,
            (Some(_), Known::Nothing) => return None,
            // It is not there, or ends before what was copied: it has lost records, or is another one.
            (None, _) | (Some(_), Known::Translated { .. }) => 0,
        };
        Some((source.end - copied.max(source.start)).max(0))
    }
}

/// Changes of settings, for people.
pub fn told(changes: &[SettingChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How many processes of a mirror run.
async fn members(target: &Client, mirror: &str) -> Result<usize, ClientError> {
    let group = Mirror::group(mirror);
    let described = target.describe_groups(&[&group]).await.into_values().next().transpose()?;
    Ok(described.map_or(0, |described| described.members.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_target_lacks_goes_by_its_log() {
        let partition = |name: &str| TopicPartition::new(name, 0);
        let copy = |known| Copy { source: partition("a"), target: Some(partition("a")), known, differs: None };
        let translated = Known::Translated { source: 80, target: 8 };
        for (known, target_end, behind) in [
            (Known::Same, None, Some(90)),
            (Known::Same, Some(0), Some(90)),
            (Known::Same, Some(60), Some(40)),
            (Known::Same, Some(100), Some(0)),
            // Its producers are on the target already.
            (Known::Same, Some(130), Some(0)),
            (translated, None, Some(90)),
            (translated, Some(7), Some(90)),
            (translated, Some(8), Some(20)),
            (translated, Some(500), Some(20)),
            (Known::Nothing, None, Some(90)),
            (Known::Nothing, Some(5), None),
        ] {
            assert_eq!(copy(known).behind(10..100, target_end), behind, "{known:?} {target_end:?}");
        }
        assert_eq!(copy(Known::Same).behind(100..100, None), Some(0), "it is empty");
    }
}
