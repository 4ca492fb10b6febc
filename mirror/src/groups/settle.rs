//! The last offsets of groups that move: when nobody commits any more where they live, all that they have committed is written where they are to live.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kferry_wire::admin::groups::{CommittedOffset, GroupFilter};
use kferry_wire::client::{ClientError, TopicPartition};
use kferry_wire::decisions::LATE;

use super::{Candidate, LedGroups, OffsetState, Work, has_members};
use crate::partition::Direction;
use crate::state::{GroupPartition, State};

/// What came of it.
#[derive(Debug, Default)]
pub struct Settled {
    /// The offset of the last record of the log of decisions that was read before.
    pub as_of: i64,
    /// The groups whose offsets are on both clusters.
    pub synced: BTreeSet<String>,
    /// The groups that cannot move, and why.
    pub stays: BTreeMap<String, String>,
    /// The groups that may be settled in a moment, and why they are not.
    pub not_yet: BTreeMap<String, String>,
    /// Whether something was sent that was not answered.
    pub is_unanswered: bool,
}

/// A group's committed offsets on both clusters.
type Offsets = BTreeMap<TopicPartition, CommittedOffset>;

/// Writes the last offsets of groups in one direction. `started`: when this process did; what one before it has written a moment before may come late.
pub async fn settle(work: Work, state: State, direction: Direction, groups: BTreeSet<String>, [as_of, started]: [i64; 2]) -> Settled {
    let led = LedGroups::new(&work, direction, jiff::Timestamp::now().as_millisecond());
    let mut settled = Settled { as_of, ..Settled::default() };
    let names: Vec<&str> = groups.iter().map(String::as_str).collect();
    let (committed, there, listed) = tokio::join!(
        // What a transaction is about to commit is waited for.
        led.leader.offset_fetch(&names, true),
        led.follower.offset_fetch(&names, false),
        led.follower.list_groups(GroupFilter::default())
    );
    let live: HashSet<String> = match listed {
        Ok(listed) => listed.into_iter().filter(has_members).map(|group| group.group_id).collect(),
        Err(error) => {
            settled.not_yet = groups.into_iter().map(|group| (group, error.to_string())).collect();
            return settled;
        }
    };
    let (mut committed, mut there) = (committed, there);
    let mut writes = Vec::new();
    let is_late = |group: &String| {
        let written = work.states.last_written(group).filter(|at| *at < started);
        written.is_some_and(|at| led.now - at < LATE.as_millis() as i64)
    };
    for group in &groups {
        if is_late(group) {
            settled.not_yet.insert(group.clone(), "another process of the mirror has written offsets for it less than 30 s ago".to_owned());
            continue;
        }
        let committed = committed.remove(group).unwrap_or_else(|| Ok(BTreeMap::new()));
        let there = there.remove(group).unwrap_or_else(|| Ok(BTreeMap::new()));
        match led.last_offsets(group, committed, there, live.contains(group)) {
            Ok(of_group) => {
                settled.synced.insert(group.clone());
                writes.extend(of_group);
            }
            Err(Left::Stays(why)) => drop(settled.stays.insert(group.clone(), why)),
            Err(Left::NotYet(why)) => drop(settled.not_yet.insert(group.clone(), why)),
        }
    }
    let mut offsets = Vec::new();
    settled.is_unanswered = led.write(writes, &state, &mut offsets).await.is_unanswered;
    for offset in offsets.into_iter().filter(|offset| offset.state != OffsetState::InSync) {
        settled.synced.remove(&*offset.group);
        let why = offset.reason.unwrap_or_default();
        match offset.state {
            OffsetState::LivesOnTarget => settled.stays.insert(offset.group.to_string(), why),
            _ => settled.not_yet.insert(offset.group.to_string(), why),
        };
    }
    settled
}

/// Why a group is not settled.
#[derive(Debug)]
enum Left {
    /// Until somebody does something.
    Stays(String),
    /// For a moment.
    NotYet(String),
}

impl LedGroups<'_> {
    /// What is to be written for a group. Where its topics lead does not matter: offsets are the same on both clusters.
    fn last_offsets(
        &self,
        group: &str,
        committed: Result<Offsets, ClientError>,
        there: Result<Offsets, ClientError>,
        is_live: bool,
    ) -> Result<Vec<(Candidate, i64)>, Left> {
        let follower = &self.follower.cluster().name;
        if is_live {
            return Err(Left::Stays(format!("it has members on {follower}")));
        }
        let fetched = |error: ClientError| match error.code() {
            Some(ResponseError::UnstableOffsetCommit) => Left::NotYet("a transaction is about to commit offsets for it".to_owned()),
            _ => Left::NotYet(error.to_string()),
        };
        let (committed, mut there) = (committed.map_err(fetched)?, there.map_err(fetched)?);
        let name: Arc<str> = group.into();
        let is_decided = self.work.decided.contains_key(group);
        let mut writes = Vec::new();
        for (partition, committed) in committed {
            let Some(topic) = self.topics.get(&*partition.topic).filter(|topic| topic.source == topic.target) else {
                return Err(Left::Stays(format!(
                    "it has committed offsets of topic {}, which is not copied under its name",
                    partition.topic
                )));
            };
            let key = GroupPartition { group: name.clone(), partition: TopicPartition::new(topic.source.clone(), partition.partition) };
            let there = there.remove(&partition);
            let offset = committed.offset;
            if let Some(there) = &there {
                if there.offset == offset && there.metadata == committed.metadata {
                    continue;
                }
                let is_ours = self.work.states.written(group, &key.partition).is_some_and(|written| written.is(there.offset));
                // What is where it lived before is from then.
                if !is_ours && !is_decided {
                    return Err(Left::Stays(format!(
                        "its offset of {partition} on {follower} is {}, which the mirror did not write: delete the group there",
                        there.offset
                    )));
                }
            }
            let candidate = Candidate { key, follower: partition, committed, there, progress: Arc::default(), offset: Some(offset) };
            writes.push((candidate, offset));
        }
        Ok(writes)
    }
}
