//! The last offsets of groups that move: when nobody commits any more where they live, all that they have committed is written where they are to live, and
//! what is there beside that is deleted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use kafka_protocol::ResponseError;
use kferry_wire::admin::groups::{CommittedOffset, GroupFilter};
use kferry_wire::client::{ClientError, TopicPartition};
use kferry_wire::decisions::LATE;

use super::{AT_ONCE, Candidate, LedGroups, OffsetState, Work, has_members};
use crate::partition::Direction;
use crate::state::{Changes, GroupPartition, State, Written};

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
    let (mut writes, mut gone) = (Vec::new(), Vec::new());
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
            Ok(last) => {
                settled.synced.insert(group.clone());
                writes.extend(last.writes);
                gone.extend((!last.gone.is_empty()).then(|| (group.clone(), last.gone)));
            }
            Err(Left::Stays(why)) => drop(settled.stays.insert(group.clone(), why)),
            Err(Left::NotYet(why)) => drop(settled.not_yet.insert(group.clone(), why)),
        }
    }
    let mut offsets = Vec::new();
    let (commits, ()) = tokio::join!(led.write(writes, &state, &mut offsets), led.delete(gone, &state, &mut settled));
    settled.is_unanswered |= commits.is_unanswered;
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

/// What is to be done for a group, so that it has on the follower what it has where it lives.
#[derive(Default)]
struct Last {
    /// What is to be written.
    writes: Vec<(Candidate, i64)>,
    /// What only the follower has, and which offset.
    gone: Vec<(GroupPartition, i64)>,
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
    ) -> Result<Last, Left> {
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
        // What is where it lived before is from then.
        let is_decided = self.work.decided.contains_key(group);
        let is_known = |key: &GroupPartition, there: &CommittedOffset| {
            if is_decided || self.work.states.written(group, &key.partition).is_some_and(|written| written.is(there.offset)) {
                return Ok(());
            }
            Err(Left::Stays(format!(
                "its offset of {} on {follower} is {}, which the mirror did not write: delete the group there",
                key.partition, there.offset
            )))
        };
        let mut last = Last::default();
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
                is_known(&key, there)?;
            }
            let candidate = Candidate { key, follower: partition, committed, there, progress: Arc::default(), offset: Some(offset) };
            last.writes.push((candidate, offset));
        }
        for (partition, there) in there {
            let key = GroupPartition { group: name.clone(), partition };
            is_known(&key, &there)?;
            last.gone.push((key, there.offset));
        }
        Ok(last)
    }

    /// Deletes offsets of groups on the follower. As what is written it is kept first: so another process of the mirror waits until it cannot come late.
    async fn delete(&self, gone: Vec<(String, Vec<(GroupPartition, i64)>)>, state: &State, settled: &mut Settled) {
        let all = gone.iter().flat_map(|(_, offsets)| offsets);
        let kept: Changes = all.map(|(key, offset)| (key.clone(), Some(Written { offset: *offset, before: None, at: self.now }))).collect();
        if let Err(error) = state.keep_groups(&kept, |group| self.work.may_write(group)).await {
            for (group, _) in gone {
                settled.synced.remove(&group);
                settled.not_yet.insert(group, format!("what is to be deleted cannot be kept: {error}"));
            }
            return;
        }
        let mut deletions = stream::iter(gone)
            .map(|(group, offsets)| async move {
                let partitions: Vec<_> = offsets.into_iter().map(|(key, _)| key.partition).collect();
                let deleted = self.follower.offset_delete(&group, &partitions).await;
                (group, deleted)
            })
            .buffer_unordered(AT_ONCE);
        let mut done = Changes::new();
        while let Some((group, deleted)) = deletions.next().await {
            for (partition, result) in deleted {
                let key = GroupPartition { group: group.as_str().into(), partition };
                match result {
                    Ok(()) => drop(done.insert(key, None)),
                    Err(error) => {
                        settled.is_unanswered |= error.may_have_executed();
                        settled.synced.remove(&group);
                        let hint =
                            if error.is_authorization() { "; let kferry's login Delete the group there, and Read the topic" } else { "" };
                        let on = &self.follower.cluster().name;
                        let why = format!(
                            "it has not committed its offset of {} any more, which cannot be deleted on {on}: {error}{hint}",
                            key.partition
                        );
                        settled.not_yet.insert(group.clone(), why);
                    }
                }
            }
        }
        if let Err(error) = state.keep_groups(&done, |group| self.work.may_write(group)).await {
            kferry_wire::tell!(crate::messages::REFUSALS_NOT_KEPT, mirror = &*self.work.mirror.name, %error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tests::{committed, work};
    use super::*;
    use crate::groups::CopiedTopic;
    use crate::state::{GroupStates, Written};

    /// What is written of one group, as partitions, and what is deleted; or why it stays.
    fn last(states: GroupStates, is_decided: bool, [here, there]: [&[(i32, i64)]; 2]) -> Result<[Vec<i32>; 2], String> {
        let mut work = work(states);
        work.topics = vec![CopiedTopic { source: "orders".into(), target: "orders".into(), partitions: Vec::new() }];
        work.decided = is_decided.then(|| ("g".to_owned(), Direction::Forwards)).into_iter().collect::<HashMap<_, _>>();
        let led = LedGroups::new(&work, Direction::Forwards, 0);
        let offsets =
            |all: &[(i32, i64)]| all.iter().map(|&(index, at)| (TopicPartition::new("orders", index), committed(at, ""))).collect();
        match led.last_offsets("g", Ok(offsets(here)), Ok(offsets(there)), false) {
            Ok(Last { writes, gone }) => Ok([
                writes.iter().map(|(candidate, _)| candidate.key.partition.partition).collect(),
                gone.iter().map(|(key, _)| key.partition.partition).collect(),
            ]),
            Err(Left::Stays(why) | Left::NotYet(why)) => Err(why),
        }
    }

    #[test]
    fn a_group_has_there_what_it_has_here_and_nothing_else() {
        let ours = |at| {
            let mut states = GroupStates::default();
            let key = GroupPartition { group: "g".into(), partition: TopicPartition::new("orders", 1) };
            states.apply([(key, Some(Written { offset: at, before: None, at: 0 }))]);
            states
        };
        let both: [&[_]; 2] = [&[(0, 7)], &[(0, 7), (1, 5)]];
        assert_eq!(last(ours(5), false, both), Ok([vec![], vec![1]]), "the mirror wrote it, and it was deleted since");
        assert_eq!(last(GroupStates::default(), true, both), Ok([vec![], vec![1]]), "it is from when the group lived there");
        assert_eq!(last(ours(5), false, [&[(0, 7), (1, 6)], &[(1, 5)]]), Ok([vec![0, 1], vec![]]));
        for states in [GroupStates::default(), ours(4)] {
            let why = last(states, false, both).unwrap_err();
            assert!(why.contains("its offset of orders-1 on new is 5, which the mirror did not write"), "{why}");
        }
    }
}
