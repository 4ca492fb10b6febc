//! Committed offsets of consumer groups, from the cluster that leads a group's offsets to the other one.
//!
//! A [`pass`] runs beside the copying, every few seconds or on demand: it lists the groups, fetches what they committed on both clusters, and
//! commits for them on the follower. What it must not harm is a group that lives there. So it writes only where the follower holds what it wrote
//! last, or nothing; what it is about to write is kept first ([`crate::state`]). A group that gets members meanwhile refuses by itself.
//!
//! What was written is written again after [`RENEWAL`], or it expires by the follower's rule: so a group that nobody has any more goes away by itself.
//!
//! # References
//! - `GroupMetadataManager.validateOffsetCommit` (4.x), `GroupCoordinator.doCommitOffsets` (before): who may commit without being a member
//! - KIP-211, `OffsetExpirationConditionImpl`: an explicit retention time comes before `offsets.retention.minutes`, also while a group has members

pub(crate) mod events;
mod settle;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kafka_protocol::ResponseError;
use kferry_config::Mirror;
use kferry_wire::admin::groups::{CommittedOffset, GroupFilter, ListedGroup};
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Client, ClientError, TopicPartition};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

pub use self::settle::{Settled, settle};
use crate::partition::{Direction, NotCopied, Progress};
use crate::shards::Owned;
use crate::state::{Changes, GroupPartition, GroupStates, State, Written};

/// How long after an offset was written it is written again, though nothing has changed. Nobody is in the group on the follower, so each of its offsets
/// expires there `offsets.retention.minutes` (a week) after it was written last. No retention time is written: it would still be in force when the
/// group lives there.
const RENEWAL: Duration = Duration::from_hours(6);
/// How long after an offset was written last it is kept that the mirror wrote it: longer than anything that is renewed takes.
const KEPT: Duration = Duration::from_hours(24 * 30);
/// How long a cluster may take to answer a question, retries included.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long all commits of a pass may take together.
const COMMITS: Duration = Duration::from_mins(2);
/// The most groups that are committed for at a time.
const AT_ONCE: usize = 64;
/// The most offsets in one OffsetCommit. The coordinator appends them as one batch, each with up to 4 KiB of metadata (`offset.metadata.max.bytes`),
/// and the batch may have 1 MiB.
const COMMITTED_AT_ONCE: usize = 200;
/// The most requests for a pass that may wait at a time.
const ORDERS: usize = 100;
/// How long a request for a pass waits.
const ORDER: Duration = Duration::from_mins(5);

/// What a pass over the groups needs to know.
pub struct Work {
    /// The mirror, which selects groups.
    pub mirror: Arc<Mirror>,
    /// The connections to the mirror's source.
    pub source: Client,
    /// The connections to the mirror's target.
    pub target: Client,
    /// The topics that the mirror copies, those that are there on both clusters.
    pub topics: Vec<CopiedTopic>,
    /// What was kept of groups in the mirror's state.
    pub states: Arc<GroupStates>,
    /// The direction of groups by decisions.
    pub decided: HashMap<String, Direction>,
    /// Groups that are about to change it: a pass leaves them alone.
    pub moving: BTreeSet<String>,
    /// The shards of this process: the pass is about their groups. `None` is a look at all groups that writes nothing.
    pub owned: Option<Owned>,
}

impl Work {
    /// Whether this process looks after a group.
    fn is_ours(&self, group: &str) -> bool {
        self.mirror.groups.matches(group) && self.owned.as_ref().is_none_or(|owned| owned.of_group(group).is_some())
    }

    /// From which cluster to which a group's offsets are copied; `None` is led by a cluster that is none of the mirror's.
    fn direction(&self, group: &str) -> Option<Direction> {
        self.decided.get(group).copied().or_else(|| self.states.direction(&self.mirror, group))
    }

    /// Whether the mirror's target leads any group's offsets.
    fn has_turned(&self) -> bool {
        self.decided.values().any(|direction| *direction == Direction::Backwards) || self.states.has_turned(&self.mirror)
    }

    /// Whether it may write for a group just now.
    fn may_write(&self, group: &str) -> bool {
        self.owned.as_ref().is_some_and(|owned| owned.of_group(group).is_some_and(|shard| shard.may_write()))
    }
}

/// A topic that the mirror copies.
pub struct CopiedTopic {
    /// Its name on the source.
    pub source: Arc<str>,
    /// Its name on the target.
    pub target: Arc<str>,
    /// The progress of each partition, from partition 0 on, whichever process copies it.
    pub partitions: Vec<Arc<Progress>>,
}

/// What a pass over the groups has found and written.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GroupReport {
    /// How many groups have committed something in the mirror's topics.
    pub groups: usize,
    /// How many offsets were written on the follower.
    pub written: usize,
    /// How long the pass took, in seconds.
    pub seconds: f64,
    /// Why a cluster could not be asked, or the state not be kept; `None` is a pass without an error. `offsets` may lack some after an error, or be
    /// those of the pass before.
    pub error: Option<String>,
    /// Whether something was sent that was not answered: it may be taken later.
    #[serde(skip)]
    pub is_unanswered: bool,
    /// Each offset, by group, topic and partition.
    #[serde(skip)]
    pub offsets: Vec<GroupOffset>,
}

impl GroupReport {
    /// What failed, the pass itself or an offset, and for each why.
    pub fn left(&self) -> Vec<NotCopied> {
        let offsets = self.offsets.iter().filter(|offset| offset.state == OffsetState::Refused);
        let offsets = offsets.map(|offset| NotCopied { what: offset.to_string(), reason: offset.reason.clone().unwrap_or_default() });
        let error = self.error.iter().map(|error| NotCopied { what: "all groups".to_owned(), reason: error.clone() });
        error.chain(offsets).collect()
    }
}

/// An offset that a group has committed, on both clusters; or a group whose offsets cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupOffset {
    /// `group.id`
    pub group: Arc<str>,
    /// The topic, by its name on the mirror's source; `None` if the group's offsets cannot be read.
    pub topic: Option<Arc<str>>,
    /// The partition, `None` as for the topic.
    pub partition: Option<i32>,
    /// The offset that is committed on the mirror's source; `None` is none.
    pub source_offset: Option<i64>,
    /// The offset that is committed on the mirror's target; `None` is none.
    pub target_offset: Option<i64>,
    /// How the offset on the follower is.
    pub state: OffsetState,
    /// Why it is not in sync, in words for an operator; `None` if it is.
    pub reason: Option<String>,
}

impl GroupOffset {
    /// Group, topic and partition, by which offsets are told apart.
    pub fn key(&self) -> (&str, Option<&str>, Option<i32>) {
        (&self.group, self.topic.as_deref(), self.partition)
    }
}

impl std::fmt::Display for GroupOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "group {}", self.group)?;
        match (&self.topic, self.partition) {
            (Some(topic), Some(partition)) => write!(f, ", {topic}-{partition}"),
            _ => Ok(()),
        }
    }
}

/// How a group's offset on the follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffsetState {
    /// It is that of the leader.
    InSync,
    /// It is not written yet: the records before it are not copied, or it lies behind the log end.
    Waiting,
    /// The group has members on the follower, or has committed there by itself: the mirror leaves it alone.
    LivesOnTarget,
    /// It cannot be written: the follower's log begins behind it, by retention or DeleteRecords, or because the copy began there.
    BelowLogStart,
    /// A cluster refuses to tell or to take it, or does not answer.
    Refused,
}

impl OffsetState {
    /// All states, in their order.
    pub const ALL: [Self; 5] = [Self::InSync, Self::Waiting, Self::LivesOnTarget, Self::BelowLogStart, Self::Refused];

    /// The state as the metric's label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Waiting => "waiting",
            Self::LivesOnTarget => "lives-on-target",
            Self::BelowLogStart => "below-log-start",
            Self::Refused => "refused",
        }
    }
}

/// The end of a pass.
pub struct GroupPassResult {
    /// What the pass found.
    pub report: GroupReport,
    /// Those who wait for the pass, and get the report.
    pub orders: Vec<PassOrder>,
}

/// A request for a pass: whoever made it waits for the report.
pub type PassOrder = oneshot::Sender<Arc<GroupReport>>;

/// The report of the last pass over the groups, and the requests for another one.
#[derive(Default)]
pub struct GroupReports {
    report: Mutex<Arc<GroupReport>>,
    /// The requests that the next pass answers, at most [`ORDERS`].
    orders: Mutex<Vec<PassOrder>>,
    /// Notified with each request.
    ordered: Notify,
}

impl GroupReports {
    /// The report of the last pass; an empty one before the first.
    pub fn report(&self) -> Arc<GroupReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a pass, and waits for the report of one that begins after this. `None` if there was none within five minutes, or 100 requests wait
    /// already.
    pub async fn sync(&self) -> Option<Arc<GroupReport>> {
        let (order, report) = oneshot::channel();
        {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.retain(|order| !order.is_closed());
            if orders.len() >= ORDERS {
                return None;
            }
            orders.push(order);
        }
        self.ordered.notify_one();
        timeout(ORDER, report).await.ok()?.ok()
    }

    /// Returns when somebody has asked for a pass.
    pub(crate) async fn ordered(&self) {
        self.ordered.notified().await;
    }

    /// Whether a request waits for a pass to begin.
    pub(crate) fn has_orders(&self) -> bool {
        !self.orders.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes all requests, for a pass that begins now.
    pub(crate) fn take_orders(&self) -> Vec<PassOrder> {
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the report of the last pass, and sends it to those who wait for it.
    pub(crate) fn publish(&self, report: &Arc<GroupReport>, orders: Vec<PassOrder>) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report.clone();
        for order in orders {
            // It fails if nobody waits for it any more.
            let _ = order.send(report.clone());
        }
    }
}

/// One pass over all groups of this process, in both directions: looks at them and writes what is to be written. Errors are in its report.
pub async fn pass(work: Work, state: State, orders: Vec<PassOrder>) -> GroupPassResult {
    let started = Instant::now();
    let now = jiff::Timestamp::now().as_millisecond();
    let mut report = GroupReport::default();
    for led in LedGroups::in_each_direction(&work, now) {
        match led.look().await {
            Ok((writes, offsets)) => {
                report.offsets.extend(offsets);
                let done = led.write(writes, &state, &mut report.offsets).await;
                report.written += done.written;
                report.is_unanswered |= done.is_unanswered;
            }
            Err(error) => report.error = Some(error.to_string()),
        }
    }
    if let Err(error) = forget_expired(&work, &state, now).await {
        report.error.get_or_insert(error);
    }
    report.offsets.sort_by(|one, other| one.key().cmp(&other.key()));
    report.groups = report.offsets.iter().map(|offset| &offset.group).collect::<BTreeSet<_>>().len();
    report.seconds = started.elapsed().as_secs_f64();
    GroupPassResult { report, orders }
}

/// What a pass would find, in both directions, without writing anything: offsets that it would write are in sync.
///
/// # Errors
/// [`ClientError`] of a cluster whose groups cannot be listed. Groups whose offsets cannot be read are no error, but refused.
pub async fn look(work: &Work) -> Result<Vec<GroupOffset>, ClientError> {
    let mut found = Vec::new();
    for led in LedGroups::in_each_direction(work, jiff::Timestamp::now().as_millisecond()) {
        let (writes, offsets) = led.look().await?;
        found.extend(writes.iter().map(|(candidate, _)| led.told(candidate, OffsetState::InSync, None)));
        found.extend(offsets);
    }
    Ok(found)
}

/// Forgets what was kept of offsets that have not been written for long: nobody has them on the leader any more, or the group lives on the follower.
async fn forget_expired(work: &Work, state: &State, now: i64) -> Result<(), String> {
    let expired = |written: &Written| now.saturating_sub(written.at) > KEPT.as_millis() as i64;
    // As it is now: what this pass has written is in it.
    let states = state.groups();
    let old = states.all().filter(|(group, _, written)| expired(written) && work.is_ours(group));
    let of = |group: &Arc<str>, partition: &TopicPartition| GroupPartition { group: group.clone(), partition: partition.clone() };
    let old: Changes = old.map(|(group, partition, _)| (of(group, partition), None)).collect();
    let kept = state.keep_groups(&old, |group| work.may_write(group)).await;
    kept.map_err(|error| format!("the mirror's state: {error}"))
}

/// The groups whose offsets are copied in one direction.
struct LedGroups<'w> {
    work: &'w Work,
    /// The connections to the cluster that leads the groups' offsets.
    leader: Client,
    /// The connections to the other cluster, where they are committed.
    follower: Client,
    /// From which cluster to which the offsets are copied.
    direction: Direction,
    /// The copied topics, by their names on the leader.
    topics: HashMap<&'w str, &'w CopiedTopic>,
    /// The time of the pass, in ms since the epoch.
    now: i64,
}

/// An offset that a group has committed on the leader in a topic of the mirror.
struct Candidate {
    key: GroupPartition,
    /// The partition, by the topic's name on the follower.
    follower: TopicPartition,
    /// What the group has committed on the leader.
    committed: CommittedOffset,
    /// What the follower has for the group in that partition; `None` is nothing.
    there: Option<CommittedOffset>,
    /// How far the partition is copied.
    progress: Arc<Progress>,
    /// The offset of the follower at which the group would go on; `None` if the records before it are not copied.
    offset: Option<i64>,
}

/// What becomes of a group's offset.
enum OffsetDecision {
    /// This offset is committed on the follower.
    Write(i64),
    /// Nothing is written: the offset is in this state, for this reason.
    Leave(OffsetState, Option<String>),
}

impl<'w> LedGroups<'w> {
    /// The groups of each direction: those that the target leads only if there are any.
    fn in_each_direction(work: &'w Work, now: i64) -> impl Iterator<Item = Self> {
        let has_turned = work.has_turned();
        let directions = Direction::ALL.into_iter().filter(move |direction| has_turned || *direction == Direction::Forwards);
        directions.map(move |direction| Self::new(work, direction, now))
    }

    fn new(work: &'w Work, direction: Direction, now: i64) -> Self {
        let (source, target) = (work.source.within(PATIENCE), work.target.within(PATIENCE));
        let (leader, follower) = direction.leader_first(source, target);
        let topics = work.topics.iter().map(|topic| (&**direction.leader_first(&topic.source, &topic.target).0, topic)).collect();
        Self { work, leader, follower, direction, topics, now }
    }

    /// Looks at both clusters: which offsets are to be written, and how the others are.
    ///
    /// # Errors
    /// [`ClientError`] of a cluster that does not list its groups.
    async fn look(&self) -> Result<(Vec<(Candidate, i64)>, Vec<GroupOffset>), ClientError> {
        let all = GroupFilter::default();
        let (listed, there) = tokio::try_join!(self.leader.list_groups(all), self.follower.list_groups(all))?;
        let groups: Vec<&str> = listed.iter().filter(|group| self.copies(group)).map(|group| group.group_id.as_str()).collect();
        let live: HashSet<&str> = there.iter().filter(|group| has_members(group)).map(|group| group.group_id.as_str()).collect();

        let (candidates, mut offsets) = self.fetch(&groups).await;
        let logs = self.logs(&candidates).await;
        let mut writes = Vec::new();
        for candidate in candidates {
            let is_live = live.contains(&*candidate.key.group);
            match self.judge(&candidate, is_live, logs.get(&candidate.follower)) {
                OffsetDecision::Write(offset) => writes.push((candidate, offset)),
                OffsetDecision::Leave(state, reason) => offsets.push(self.told(&candidate, state, reason)),
            }
        }
        Ok((writes, offsets))
    }

    /// Whether a group's offsets are copied in this direction. Share groups (KIP-932) have none that could be.
    fn copies(&self, group: &ListedGroup) -> bool {
        let name = &group.group_id;
        let shares = group.group_type.as_ref().is_some_and(|name| name.eq_ignore_ascii_case("share"));
        self.work.direction(name) == Some(self.direction) && !shares && self.work.is_ours(name) && !self.work.moving.contains(name)
    }

    /// What groups have committed in topics of the mirror, and the groups whose offsets cannot be read.
    async fn fetch(&self, groups: &[&str]) -> (Vec<Candidate>, Vec<GroupOffset>) {
        // Not only stable offsets: with them a group whose transactions follow one another would hold the pass up. What is committed is told
        // either way, and what a transaction is about to commit is not.
        let (committed, mut held) = tokio::join!(self.leader.offset_fetch(groups, false), self.follower.offset_fetch(groups, false));
        let (mut candidates, mut refused) = (Vec::new(), Vec::new());
        for (group, committed) in committed {
            let held = held.remove(&group).unwrap_or_else(|| Ok(BTreeMap::new()));
            let group: Arc<str> = group.into();
            let (committed, held) = match (committed, held) {
                (Ok(committed), Ok(held)) => (committed, held),
                (Err(error), _) | (_, Err(error)) => {
                    refused.push(GroupOffset {
                        group,
                        topic: None,
                        partition: None,
                        source_offset: None,
                        target_offset: None,
                        state: OffsetState::Refused,
                        reason: Some(error.to_string()),
                    });
                    continue;
                }
            };
            for (partition, committed) in committed {
                let Some(topic) = self.topics.get(&*partition.topic) else { continue };
                let (_, name) = self.direction.leader_first(&topic.source, &topic.target);
                let follower = TopicPartition::new(name.clone(), partition.partition);
                let progress =
                    usize::try_from(partition.partition).ok().and_then(|index| topic.partitions.get(index)).cloned().unwrap_or_default();
                let offset = match self.direction {
                    Direction::Forwards => progress.target_offset(committed.offset),
                    Direction::Backwards => progress.source_offset(committed.offset),
                };
                candidates.push(Candidate {
                    offset,
                    key: GroupPartition { group: group.clone(), partition: TopicPartition::new(topic.source.clone(), partition.partition) },
                    there: held.get(&follower).cloned(),
                    follower,
                    committed,
                    progress,
                });
            }
        }
        (candidates, refused)
    }

    /// The offsets at which a consumer may go on in each of the follower's logs, from its log start to its high watermark.
    async fn logs(&self, candidates: &[Candidate]) -> HashMap<TopicPartition, Result<RangeInclusive<i64>, ClientError>> {
        let copied = candidates.iter().filter(|candidate| candidate.offset.is_some());
        let partitions: BTreeSet<_> = copied.map(|candidate| candidate.follower.clone()).collect();
        let partitions: Vec<_> = partitions.into_iter().collect();
        let (starts, mut ends) = tokio::join!(
            self.follower.list_offsets(&partitions, Position::LogStart),
            self.follower.list_offsets(&partitions, Position::HighWatermark)
        );
        let logs = starts.into_iter().filter_map(|(partition, start)| {
            let end = ends.remove(&partition)?;
            let log = start.and_then(|start| Ok(start..=end?));
            Some((partition, log))
        });
        logs.collect()
    }

    /// Decides about an offset: `is_live` says whether the group has members on the follower, and `log` at which offsets a consumer may go on there.
    fn judge(&self, candidate: &Candidate, is_live: bool, log: Option<&Result<RangeInclusive<i64>, ClientError>>) -> OffsetDecision {
        let GroupPartition { group, partition } = &candidate.key;
        let follower = &self.follower.cluster().name;
        let leave = |state, reason| OffsetDecision::Leave(state, Some(reason));
        if is_live {
            return leave(OffsetState::LivesOnTarget, format!("it has members on {follower}"));
        }
        let written = self.work.states.written(group, partition);
        // What is where a group has lived before it was decided is from then.
        let is_from_before = self.work.decided.contains_key(&**group);
        if let Some(there) = &candidate.there
            && !is_from_before
            && !written.is_some_and(|written| written.is(there.offset))
        {
            let reason = format!(
                "its offset on {follower} is {}, which this mirror did not write; delete the group there to have it copied again",
                there.offset
            );
            return leave(OffsetState::LivesOnTarget, reason);
        }
        let progress = &candidate.progress;
        let Some(offset) = candidate.offset else {
            if let Some(first) = progress.map.first(progress.direction).filter(|first| candidate.committed.offset < *first) {
                return leave(OffsetState::BelowLogStart, format!("the first offset of the leader that was copied is {first}"));
            }
            if let Some(unstable) = progress.unstable.as_ref().filter(|unstable| candidate.committed.offset > unstable.from) {
                let reason = format!("copied up to {}; {}", progress.agreed, unstable.told(self.now));
                return leave(OffsetState::Waiting, reason);
            }
            // Nothing is known of the leader's end while another process copies the partition.
            let (agreed, end, committed) = (progress.agreed, progress.leader_last_stable_offset, candidate.committed.offset);
            let reason = match end {
                0 => format!("its offset is {committed}, and the partition is copied up to {agreed}"),
                _ if committed > end => format!(
                    "its offset is {committed}, and the leader's log ends at {end}: the topic was created anew since it was committed, or has lost records. The \
                     group would begin by its auto.offset.reset, on the leader too"
                ),
                _ => format!("its offset is {committed}, and the partition is copied up to {agreed} of {end}"),
            };
            return leave(OffsetState::Waiting, reason);
        };
        match log {
            Some(Ok(log)) if offset < *log.start() => {
                leave(OffsetState::BelowLogStart, format!("{} on {follower} begins at offset {}", candidate.follower, log.start()))
            }
            Some(Ok(log)) if offset > *log.end() => {
                leave(OffsetState::Waiting, format!("{} on {follower} ends at offset {}", candidate.follower, log.end()))
            }
            Some(Ok(_)) => {
                let fresh = written.is_some_and(|written| self.now.saturating_sub(written.at) < RENEWAL.as_millis() as i64);
                let same = |there: &CommittedOffset| there.offset == offset && there.metadata == candidate.committed.metadata;
                if fresh && candidate.there.as_ref().is_some_and(same) {
                    OffsetDecision::Leave(OffsetState::InSync, None)
                } else {
                    OffsetDecision::Write(offset)
                }
            }
            Some(Err(error)) if error.is_unknown_topic() => {
                leave(OffsetState::Waiting, format!("there is no {} on {follower} yet", candidate.follower))
            }
            Some(Err(error)) => leave(OffsetState::Refused, error.to_string()),
            None => {
                leave(OffsetState::Refused, format!("{} on {follower}: nobody tells where its log begins and ends", candidate.follower))
            }
        }
    }

    /// Keeps which offsets are going to be written, and writes them. Adds to `offsets` how each is then.
    async fn write(&self, writes: Vec<(Candidate, i64)>, state: &State, offsets: &mut Vec<GroupOffset>) -> Commits {
        let kept: Changes = writes
            .iter()
            .map(|(candidate, offset)| {
                let before = candidate.there.as_ref().map(|there| there.offset);
                (candidate.key.clone(), Some(Written { offset: *offset, before, at: self.now }))
            })
            .collect();
        if let Err(error) = state.keep_groups(&kept, |group| self.work.may_write(group)).await {
            let reason = format!("what is to be written cannot be kept: {error}");
            offsets.extend(writes.iter().map(|(candidate, _)| self.told(candidate, OffsetState::Refused, Some(reason.clone()))));
            return Commits::default();
        }

        let mut by_group: BTreeMap<Arc<str>, Vec<(Candidate, i64)>> = BTreeMap::new();
        for (candidate, offset) in writes {
            by_group.entry(candidate.key.group.clone()).or_default().push((candidate, offset));
        }
        let deadline = Instant::now() + COMMITS;
        let mut commits = stream::iter(by_group).map(|(group, writes)| self.commit(group, writes, deadline)).buffer_unordered(AT_ONCE);
        let (mut done, mut undone) = (Commits::default(), Changes::new());
        while let Some(committed) = commits.next().await {
            for (mut candidate, result) in committed {
                match result {
                    Ok(offset) => {
                        done.written += 1;
                        candidate.there = Some(CommittedOffset { offset, ..candidate.committed.clone() });
                        offsets.push(self.told(&candidate, OffsetState::InSync, None));
                    }
                    Err(error) => {
                        if error.did_nothing {
                            let before = self.work.states.written(&candidate.key.group, &candidate.key.partition).cloned();
                            undone.insert(candidate.key.clone(), before);
                        } else {
                            done.is_unanswered = true;
                        }
                        offsets.push(self.told(&candidate, error.state, Some(error.reason)));
                    }
                }
            }
        }
        // What was not written is not ours, should the group come to just this offset by itself.
        if let Err(error) = state.keep_groups(&undone, |group| self.work.may_write(group)).await {
            kferry_wire::tell!(crate::messages::REFUSALS_NOT_KEPT, mirror = &*self.work.mirror.name, %error);
        }
        done
    }

    /// Commits offsets for one group, and says for each candidate which offset was written, or why none was.
    async fn commit(
        &self,
        group: Arc<str>,
        mut writes: Vec<(Candidate, i64)>,
        deadline: Instant,
    ) -> Vec<(Candidate, Result<i64, NotWritten>)> {
        let mut committed = Vec::with_capacity(writes.len());
        while !writes.is_empty() {
            let chunk: Vec<_> = writes.drain(..writes.len().min(COMMITTED_AT_ONCE)).collect();
            if !self.work.may_write(&group) {
                let reason = "another process may look after the group by now".to_owned();
                let not_written =
                    |candidate| (candidate, Err(NotWritten { state: OffsetState::Waiting, reason: reason.clone(), did_nothing: true }));
                committed.extend(chunk.into_iter().map(|(candidate, _)| not_written(candidate)));
                continue;
            }
            let offset = |candidate: &Candidate, offset| CommittedOffset {
                offset,
                leader_epoch: None,
                metadata: candidate.committed.metadata.clone(),
            };
            let offsets = chunk.iter().map(|(candidate, to)| (candidate.follower.clone(), offset(candidate, *to))).collect();
            // A client gives a result for each partition: without one the time is over.
            let results = timeout_at(deadline, self.follower.offset_commit(&group, &offsets, None)).await;
            let mut results = results.unwrap_or_default();
            for (candidate, offset) in chunk {
                let result = match results.remove(&candidate.follower) {
                    Some(Ok(())) => Ok(offset),
                    Some(Err(error)) => Err(self.not_written(&error)),
                    None => Err(NotWritten {
                        state: OffsetState::Refused,
                        reason: format!("not written within {} s", COMMITS.as_secs()),
                        did_nothing: false,
                    }),
                };
                committed.push((candidate, result));
            }
        }
        committed
    }

    /// Why an offset was not written, by the coordinator's error.
    fn not_written(&self, error: &ClientError) -> NotWritten {
        let joined = matches!(
            error.code(),
            Some(
                ResponseError::UnknownMemberId
                    | ResponseError::RebalanceInProgress
                    | ResponseError::IllegalGeneration
                    | ResponseError::StaleMemberEpoch
            )
        );
        let (state, reason) = if joined {
            (OffsetState::LivesOnTarget, format!("it has members on {}", self.follower.cluster().name))
        } else {
            (OffsetState::Refused, error.to_string())
        };
        NotWritten { state, reason, did_nothing: !error.may_have_executed() }
    }

    /// What the report says of a candidate.
    fn told(&self, candidate: &Candidate, state: OffsetState, reason: Option<String>) -> GroupOffset {
        let (here, there) = (Some(candidate.committed.offset), candidate.there.as_ref().map(|there| there.offset));
        let (source_offset, target_offset) = self.direction.source_first(here, there);
        let GroupPartition { group, partition } = candidate.key.clone();
        GroupOffset {
            group,
            topic: Some(partition.topic),
            partition: Some(partition.partition),
            source_offset,
            target_offset,
            state,
            reason,
        }
    }
}

/// What was written.
#[derive(Debug, Default)]
struct Commits {
    /// How many offsets.
    written: usize,
    /// Whether something was sent that was not answered.
    is_unanswered: bool,
}

/// Why a group's offset was not written.
struct NotWritten {
    state: OffsetState,
    reason: String,
    /// Whether nothing was written for sure; otherwise it may have been.
    did_nothing: bool,
}

/// Whether a listed group has members. Brokers before 2.6 do not tell: then the coordinator refuses the commit.
fn has_members(group: &ListedGroup) -> bool {
    group.state.as_ref().is_some_and(|state| !matches!(state.as_str(), "Empty" | "Dead"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_config::Config;

    use super::*;
    use crate::connect_options;
    use crate::transactions::Unstable;

    const NOW: i64 = 1_700_000_000_000;
    const RENEWED: i64 = RENEWAL.as_millis() as i64;

    pub(super) fn work(states: GroupStates) -> Work {
        let text = "[clusters.old]\nid = 1\nbootstrap_servers = \"127.0.0.1:1\"\n[clusters.new]\nid = 2\nbootstrap_servers = \"127.0.0.1:2\"\n\
                    [[mirrors]]\nname = \"m\"\nsource = \"old\"\ntarget = \"new\"\ntopics = \"orders\"\ngroups = \"g\"\n";
        let mirror = Config::parse(text, Path::new("routes.toml")).unwrap().mirrors[0].clone();
        let client = |cluster: &Arc<_>| Client::new(Arc::clone(cluster), connect_options("m"));
        let (source, target) = (client(&mirror.source), client(&mirror.target));
        Work {
            mirror,
            source,
            target,
            topics: Vec::new(),
            states: Arc::new(states),
            decided: HashMap::new(),
            moving: BTreeSet::new(),
            owned: None,
        }
    }

    pub(super) fn committed(offset: i64, metadata: &str) -> CommittedOffset {
        CommittedOffset { offset, leader_epoch: Some(4), metadata: metadata.to_owned() }
    }

    /// The group has committed 50 of a log of which 100 are copied and 20 to 90 are on the follower.
    fn candidate(there: Option<CommittedOffset>) -> Candidate {
        Candidate {
            key: GroupPartition { group: "g".into(), partition: TopicPartition::new("orders", 0) },
            follower: TopicPartition::new("renamed", 0),
            committed: committed(50, "x"),
            there,
            progress: Arc::new(Progress { agreed: 100, leader_last_stable_offset: 110, ..Progress::default() }),
            offset: Some(50),
        }
    }

    /// What becomes of it: the offset that is written, or the state.
    fn judged(written: Option<Written>, candidate: &Candidate, is_live: bool) -> Result<i64, OffsetState> {
        let mut states = GroupStates::default();
        states.apply([(candidate.key.clone(), written)]);
        let work = work(states);
        let led = LedGroups::in_each_direction(&work, NOW).next().unwrap();
        match led.judge(candidate, is_live, Some(&Ok(20..=90))) {
            OffsetDecision::Write(offset) => Ok(offset),
            OffsetDecision::Leave(state, reason) => {
                assert_eq!(reason.is_none(), state == OffsetState::InSync, "{reason:?}");
                Err(state)
            }
        }
    }

    fn written(offset: i64, before: Option<i64>, at: i64) -> Written {
        Written { offset, before, at }
    }

    #[test]
    fn it_writes_only_where_the_follower_has_what_it_wrote_or_nothing() {
        assert_eq!(judged(None, &candidate(None), false), Ok(50));
        assert_eq!(judged(Some(written(40, None, NOW)), &candidate(None), false), Ok(50), "it expired there, or was deleted");
        assert_eq!(judged(Some(written(40, Some(30), NOW)), &candidate(Some(committed(40, "x"))), false), Ok(50));
        assert_eq!(judged(Some(written(40, Some(30), NOW)), &candidate(Some(committed(30, "x"))), false), Ok(50), "killed before it wrote");
        for elsewhere in [39, 41, 50] {
            let there = candidate(Some(committed(elsewhere, "x")));
            assert_eq!(judged(Some(written(40, Some(30), NOW)), &there, false), Err(OffsetState::LivesOnTarget), "{elsewhere}");
            assert_eq!(judged(None, &there, false), Err(OffsetState::LivesOnTarget), "{elsewhere}");
        }
        assert_eq!(judged(None, &candidate(None), true), Err(OffsetState::LivesOnTarget));
        assert_eq!(judged(Some(written(40, None, NOW)), &candidate(Some(committed(40, "x"))), true), Err(OffsetState::LivesOnTarget));
    }

    #[test]
    fn what_is_the_same_is_written_again_after_a_while_and_with_other_metadata() {
        let same = candidate(Some(committed(50, "x")));
        assert_eq!(judged(Some(written(50, Some(40), NOW - RENEWED + 1)), &same, false), Err(OffsetState::InSync));
        assert_eq!(judged(Some(written(50, Some(40), NOW - RENEWED)), &same, false), Ok(50));
        assert_eq!(judged(Some(written(50, Some(40), NOW)), &candidate(Some(committed(50, "y"))), false), Ok(50));
    }

    #[test]
    fn an_offset_that_the_follower_does_not_have_is_not_written() {
        let at = |offset| {
            let candidate = candidate(None);
            Candidate { committed: committed(offset, ""), offset: candidate.progress.target_offset(offset), ..candidate }
        };
        assert_eq!(judged(None, &at(19), false), Err(OffsetState::BelowLogStart));
        assert_eq!(judged(None, &at(20), false), Ok(20));
        assert_eq!(judged(None, &at(90), false), Ok(90));
        assert_eq!(judged(None, &at(91), false), Err(OffsetState::Waiting), "behind the follower's end");
        assert_eq!(judged(None, &at(101), false), Err(OffsetState::Waiting), "behind what is copied");
    }

    #[test]
    fn an_offset_behind_an_open_transaction_waits_for_its_end() {
        let reason = |unstable| {
            let work = work(GroupStates::default());
            let led = LedGroups::in_each_direction(&work, NOW).next().unwrap();
            let progress = Progress { agreed: 100, leader_last_stable_offset: 100, unstable, ..Progress::default() };
            let candidate = Candidate { committed: committed(150, ""), offset: None, progress: Arc::new(progress), ..candidate(None) };
            match led.judge(&candidate, false, None) {
                OffsetDecision::Leave(OffsetState::Waiting, Some(reason)) => reason,
                _ => panic!("it waits"),
            }
        };
        assert_eq!(
            reason(None),
            "its offset is 150, and the leader's log ends at 100: the topic was created anew since it was committed, or has lost records. The group would begin by its \
             auto.offset.reset, on the leader too"
        );
        let unstable = Unstable { from: 100, to: 200, since: std::time::Instant::now(), whose: Some(Err("nobody says".to_owned())) };
        let told = reason(Some(unstable));
        assert!(told.starts_with("copied up to 100; a transaction is open at offset 100") && told.contains("up to 200"), "{told}");
    }

    #[test]
    fn a_member_that_came_meanwhile_is_no_error() {
        let work = work(GroupStates::default());
        let led = LedGroups::in_each_direction(&work, NOW).next().unwrap();
        let refusal = |code| {
            let (what, message, advice) = ("OffsetCommit of renamed-0 for group g".to_owned(), String::new(), String::new());
            led.not_written(&ClientError::Kafka { cluster: "new".into(), what, code, message, advice })
        };
        let joined = refusal(ResponseError::UnknownMemberId);
        assert_eq!((joined.state, joined.reason.as_str(), joined.did_nothing), (OffsetState::LivesOnTarget, "it has members on new", true));
        let denied = refusal(ResponseError::GroupAuthorizationFailed);
        assert_eq!((denied.state, denied.did_nothing), (OffsetState::Refused, true));
        assert!(denied.reason.contains("GROUP_AUTHORIZATION_FAILED"), "{}", denied.reason);
        assert!(!refusal(ResponseError::RequestTimedOut).did_nothing);
    }

    #[test]
    fn the_other_direction_is_looked_at_when_the_target_leads_a_group() {
        let directions = |work: &Work| LedGroups::in_each_direction(work, NOW).map(|led| led.direction).collect::<Vec<_>>();
        assert_eq!(directions(&work(GroupStates::default())), [Direction::Forwards]);
        let mut states = GroupStates::default();
        states.take(serde_json::from_str(r#"{"group":"g"}"#).unwrap(), Some(br#"{"leader":"new","term":2}"#)).unwrap();
        let work = work(states);
        assert_eq!(directions(&work), Direction::ALL);
        let group = |name: &str, group_type: &str| ListedGroup {
            group_id: name.to_owned(),
            protocol_type: "consumer".to_owned(),
            state: Some("Stable".to_owned()),
            group_type: Some(group_type.to_owned()),
        };
        let copied =
            |name, group_type| LedGroups::in_each_direction(&work, NOW).map(|led| led.copies(&group(name, group_type))).collect::<Vec<_>>();
        assert_eq!(copied("g", "Consumer"), [false, true]);
        assert_eq!(copied("g", "Share"), [false, false]);
        assert_eq!(copied("another", "Classic"), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_gets_the_pass_that_begins_after_it() {
        let reports = Arc::new(GroupReports::default());
        let asked = tokio::spawn({
            let reports = reports.clone();
            async move { reports.sync().await }
        });
        reports.ordered().await;
        assert!(reports.has_orders());
        let orders = reports.take_orders();
        assert!(orders.len() == 1 && !reports.has_orders());
        reports.publish(&Arc::new(GroupReport { groups: 7, ..GroupReport::default() }), orders);
        assert_eq!(asked.await.unwrap().unwrap().groups, 7);
        assert_eq!(reports.report().groups, 7);
        assert!(reports.sync().await.is_none(), "nobody makes a pass");
        assert!(reports.take_orders().iter().all(PassOrder::is_closed));
    }
}
