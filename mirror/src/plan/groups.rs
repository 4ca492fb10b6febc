//! What a mirror would do with groups, for `kferry plan`: the same look as that of a pass, and nothing is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kferry_config::Mirror;
use kferry_wire::admin::acls::Operation;
use kferry_wire::client::{Client, ClientError};
use serde::Serialize;

use super::rights::{Missing, Rights};
use crate::groups::{CopiedTopic, GroupOffset, OffsetState, Work, look};
use crate::partition::{Direction, Progress};
use crate::state::State;
use crate::topics::{Action, TopicPlan};

/// What would become of a group's offsets.
#[derive(Debug, Serialize)]
pub struct GroupForecast {
    /// `group.id`
    pub group: Arc<str>,
    /// For how many partitions of the mirror's topics the group has committed an offset.
    pub offsets: usize,
    /// How many of these offsets would not be copied, also when the records before them are.
    pub left: usize,
    /// Why the first of them would not be; `None` if all would be.
    pub why: Option<String>,
}

/// Asks both clusters what would become of the groups' offsets. `clients` are the source's and the target's.
///
/// # Errors
/// [`ClientError`] of a cluster whose groups cannot be listed.
pub(super) async fn forecast<'p>(
    mirror: &Arc<Mirror>,
    clients: &[Client; 2],
    plans: impl Iterator<Item = &'p TopicPlan>,
    state: Option<&State>,
) -> Result<Vec<GroupForecast>, ClientError> {
    let topics = plans.filter(|plan| plan.error.is_none()).map(|plan| {
        let there = if plan.action == Action::Nothing { plan.partitions } else { 0 };
        let progress = |partition| Arc::new(state.map_or_else(Progress::default, |state| plan.kept(mirror, state, partition)));
        let partitions = (0..there).map(progress).collect();
        CopiedTopic { source: plan.topic.clone(), target: plan.target.clone(), partitions }
    });
    let work = Work {
        mirror: mirror.clone(),
        source: clients[0].clone(),
        target: clients[1].clone(),
        topics: topics.collect(),
        states: state.map(State::groups).unwrap_or_default(),
        decided: HashMap::new(),
        moving: BTreeSet::new(),
        owned: None,
    };
    let mut groups: BTreeMap<Arc<str>, GroupForecast> = BTreeMap::new();
    for GroupOffset { group, topic, state, reason, .. } in look(&work).await? {
        let forecast = groups.entry(group.clone()).or_insert_with(|| GroupForecast { group, offsets: 0, left: 0, why: None });
        forecast.offsets += usize::from(topic.is_some());
        if !matches!(state, OffsetState::InSync | OffsetState::Waiting) {
            forecast.left += 1;
            forecast.why = forecast.why.take().or(reason);
        }
    }
    Ok(groups.into_values().collect())
}

/// Which rights on groups are missing: on those that have committed something, and those that the file names. `moves`: they may come to live on the other
/// cluster.
///
/// # Errors
/// [`ClientError`] of a broker that does not answer; a refusal is none.
pub(super) async fn missing_rights(
    mirror: &Mirror,
    clients: &[Client; 2],
    groups: &[GroupForecast],
    state: Option<&State>,
    moves: bool,
) -> Result<Vec<Missing>, ClientError> {
    let (followers, purpose): (&[Operation], _) = if moves {
        // Delete: an offset that a group has not committed any more is deleted where the group is to live.
        (&[Operation::Describe, Operation::Read, Operation::Delete], "the offsets of groups, which may move")
    } else {
        (&[Operation::Describe, Operation::Read], "the offsets of groups")
    };
    let names: BTreeSet<&str> = groups.iter().map(|group| &*group.group).chain(mirror.groups.names()).collect();
    let states = state.map(State::groups).unwrap_or_default();
    let mut missing = Vec::new();
    // A cluster, and the direction of what it leads.
    for (client, direction) in clients.iter().zip(Direction::ALL) {
        // A group that may move is led by neither for good.
        let is_led = |group: &&str| !moves && states.direction(mirror, group) == Some(direction);
        let (led, followed): (Vec<&str>, Vec<&str>) = names.iter().partition(|group| is_led(group));
        let rights = Rights::of(client).await?;
        missing.append(&mut rights.missing_of_groups(&led, &[Operation::Describe], purpose).await?);
        missing.append(&mut rights.missing_of_groups(&followed, followers, purpose).await?);
    }
    Ok(missing)
}
