//! The end of a mirror: the topics of its target are to be like any other there, and nothing of the mirror is to be left.
//!
//! While it is mirrored a topic has settings that only a copy needs: `compression.type=producer`, `message.timestamp.type=CreateTime` and no bounds for
//! timestamps. They would stay for ever, and applications that produce to the target would get another topic than they had on the source.

use std::collections::BTreeMap;
use std::sync::Arc;

use kferry_config::Mirror;
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Client, ClientError, TopicPartition};
use serde::Serialize;

use crate::own_topics::state_topic;
use crate::patient_clients;
use crate::shards::group;
use crate::state::{State, StateError};
use crate::topics::{self, Cluster, SettingChange, TIMESTAMP_TYPE};

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
            self.errors.push(format!("{members} kferry-mirror of this mirror run: stop them first, or they would set all of it again"));
        }
        let plans =
            topics::plan(mirror, &mut on_source, &mut on_target, |topic| state.as_ref().and_then(|state| state.leader(topic))).await?;
        let mut partitions = Vec::new();
        for plan in &plans {
            // Nothing can be copied to a topic whose broker stamps the records: that is how one is left.
            let is_stamped = plan.drift.iter().any(|drift| drift.name == TIMESTAMP_TYPE);
            if let Some(error) = plan.error.as_ref().filter(|_| !is_stamped) {
                self.errors.push(format!("topic {}: {error}", plan.topic));
            } else if plan.leader != mirror.source.name {
                self.errors.push(format!("topic {}: {} leads it, and it is copied back: turn it first", plan.topic, plan.leader));
            } else if on_target.topic(&plan.target).is_some() {
                partitions.extend((0..plan.partitions).map(|partition| TopicPartition::new(plan.topic.clone(), partition)));
                let changes = topics::of_its_own(mirror, &on_source, &plan.topic, &on_target, &plan.target);
                if !changes.is_empty() {
                    self.topics.insert(plan.target.clone(), changes);
                }
            }
        }
        // Without its state nobody knows how far it came, and it may have been finished already.
        if let Some(state) = state {
            let agreed = |partition: &TopicPartition| state.partition(partition).map_or(0, |kept| kept.agreed);
            for (partition, end) in source.list_offsets(&partitions, Position::HighWatermark).await {
                let behind = end? - agreed(&partition);
                if behind > 0 {
                    self.behind.insert(partition.to_string(), behind);
                }
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

/// Changes of settings, for people.
pub fn told(changes: &[SettingChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How many processes of a mirror run.
async fn members(target: &Client, mirror: &str) -> Result<usize, ClientError> {
    let group = group(mirror);
    let described = target.describe_groups(&[&group]).await.into_values().next().transpose()?;
    Ok(described.map_or(0, |described| described.members.len()))
}
