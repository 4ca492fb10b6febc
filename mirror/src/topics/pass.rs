//! A pass: one look at both clusters' topics. What is missing on the follower is created, what is too small grows.
//!
//! It is a task of its own, so a cluster that is slow to answer holds up nothing that is being copied. What is about a whole topic is done by the
//! process that has the shard of its partition 0.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::ResponseError;
use kferry_config::{Mirror, Offsets};
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Client, TopicPartition, Topics};
use kferry_wire::tell;
use tokio::time::{Instant, sleep};

use super::plan::{self, Action, Cluster, TopicPlan};
use crate::messages;
use crate::overview::Overview;
use crate::partition::{OffsetMap, Phase, Side, Skipped, Status};
use crate::shards::Owned;
use crate::state::{PartitionState, State, StateError, Unsaved};

/// How long a pass waits until the brokers know a topic that it has created or grown.
const KNOWN: Duration = Duration::from_secs(5);
/// Between two questions whether they know it.
const PAUSE: Duration = Duration::from_millis(100);

/// A pass that is to be made, and all that it needs.
pub(crate) struct Pass {
    /// The mirror.
    pub(crate) mirror: Arc<Mirror>,
    /// The connections to the mirror's source.
    pub(crate) source: Client,
    /// The connections to the mirror's target.
    pub(crate) target: Client,
    /// The mirror's state.
    pub(crate) state: State,
    /// The partitions that this process copies.
    pub(crate) overview: Arc<Overview>,
    /// The shards of this process.
    pub(crate) owned: Owned,
    /// The topics and partitions that `--accept` names: what was kept of them is to be forgotten.
    pub(crate) accept: Vec<String>,
    /// The partitions among them of which an earlier pass has forgotten it.
    pub(crate) forgotten: HashSet<TopicPartition>,
    /// Both clusters, the mirror's source and target, as the last pass has seen them; `None` before the first one.
    pub(crate) clusters: Option<(Cluster, Cluster)>,
    /// Partitions whose follower's log begins before the leader's.
    pub(crate) log_starts: Vec<LogStart>,
}

/// What a pass has found and done.
pub(crate) struct TopicPassResult {
    /// The mirror's source and target, as the pass has seen them.
    pub(crate) clusters: (Cluster, Cluster),
    /// The plans of all topics that the file selects.
    pub(crate) plans: Vec<TopicPlan>,
    /// The topics of this process that cannot be copied at all, by their names on the source, and for each why.
    pub(crate) refused: BTreeMap<Arc<str>, String>,
    /// Whether no topic of this process had to be created or grown.
    pub(crate) complete: bool,
    /// Partitions that `--accept` names, of which this pass has forgotten what was kept.
    pub(crate) forgotten: Vec<TopicPartition>,
}

/// Whether `--accept` names a partition, or its topic.
pub(crate) fn is_accepted(accept: &[String], partition: &TopicPartition) -> bool {
    accept.iter().any(|accepted| *accepted == *partition.topic || *accepted == partition.to_string())
}

/// A follower's log start that has to go after the leader's.
pub(crate) struct LogStart {
    /// The partition, by the topic's name on the mirror's source.
    pub(crate) partition: TopicPartition,
    /// The topic on the follower.
    pub(crate) follower: Side,
    /// The offset at which the follower's log is to begin.
    pub(crate) to: i64,
    /// Gets the new log start.
    pub(crate) status: Arc<Status>,
}

impl Pass {
    /// Looks at both clusters' topics, and does on the followers what is to be done.
    ///
    /// # Errors
    /// [`StateError`] of a cluster or of the mirror's state. What was done until then stays done, and the next pass goes on from there. A topic that
    /// cannot be created or grown is no error, but [refused](TopicPassResult::refused).
    pub(crate) async fn run(mut self) -> Result<TopicPassResult, StateError> {
        let (mut source, mut target) = match self.clusters.take() {
            None => tokio::try_join!(Cluster::look(&self.source), Cluster::look(&self.target))?,
            Some((mut source, mut target)) => {
                tokio::try_join!(source.look_again(), target.look_again())?;
                (source, target)
            }
        };
        self.state.refresh().await?;
        let plans = plan::plan(&self.mirror, &mut source, &mut target, |topic| self.state.leader(topic)).await?;
        let (mut refused, mut complete) = (BTreeMap::new(), true);
        for plan in &plans {
            let mine = self.owned.of(&TopicPartition::new(plan.topic.clone(), 0)).is_some_and(|shard| shard.may_write());
            if !mine {
                continue;
            }
            let direction = plan.direction(&self.mirror);
            let (_, follower) = direction.leader_first((&plan.topic, &mut source), (&plan.target, &mut target));
            if let Some(error) = &plan.error {
                refused.insert(plan.topic.clone(), error.clone());
            } else if plan.action != Action::Nothing {
                let padded = self.mirror.offsets == Offsets::Preserve
                    && matches!(plan.action, Action::Create { .. })
                    && self.begins_late(plan).await?;
                match plan::apply(plan, follower.0, &follower.1.client, padded).await {
                    Ok(()) => {
                        tell!(messages::DONE_ON_FOLLOWER, mirror = &*self.mirror.name, topic = &*plan.topic, on = &**follower.1.name(), action = ?plan.action, notes = ?plan.notes);
                        complete = false;
                        self.await_topic(follower.0, &follower.1.client).await;
                    }
                    Err(error) => {
                        let reason = format!("{} on {} cannot be created or grown: {error}", follower.0, follower.1.name());
                        refused.insert(plan.topic.clone(), reason);
                    }
                }
            } else if let Some(policy) = plan::awaits_compaction(plan)
                && self.all_copying(plan)
            {
                plan::compact(follower.0, &follower.1.client, policy).await?;
                follower.1.forget_config(follower.0);
            }
        }
        self.follow_log_starts().await;
        let forgotten = self.forget(&plans).await?;
        Ok(TopicPassResult { clusters: (source, target), plans, refused, complete, forgotten })
    }

    /// Forgets what was kept of the partitions that `--accept` names, and gives those. Of a topic that is still the same one stay the offsets that were
    /// left out, and the map of its offsets: a comparison of the whole needs both.
    async fn forget(&self, plans: &[TopicPlan]) -> Result<Vec<TopicPartition>, StateError> {
        let (mut unsaved, mut forgotten, mut shards) = (Vec::new(), Vec::new(), Vec::new());
        for plan in plans {
            for partition in (0..plan.partitions).map(|partition| TopicPartition::new(plan.topic.clone(), partition)) {
                let Some(shard) = self.owned.of(&partition) else { continue };
                if !is_accepted(&self.accept, &partition) || self.forgotten.contains(&partition) {
                    continue;
                }
                forgotten.push(partition.clone());
                let Some(kept) = self.state.partition(&partition) else { continue };
                let same = kept.topic_ids == plan.topic_ids;
                let map = if same { self.state.map(&partition, self.mirror.offsets) } else { OffsetMap::Same };
                let state = PartitionState {
                    mode: if same { kept.mode.clone() } else { self.mirror.offsets.name().to_owned() },
                    phase: Phase::Waiting,
                    reason: None,
                    topic_ids: plan.topic_ids.clone(),
                    // Where offsets are translated the records are found from there on.
                    agreed: if same && map.translates() { kept.agreed } else { 0 },
                    skipped: if same { kept.skipped.clone() } else { Skipped::default() },
                    ..kept.clone()
                };
                let of_map = Status::default();
                of_map.lock().map = map;
                unsaved.push(Unsaved { partition, state, status: Arc::new(of_map) });
                shards.push(shard);
            }
        }
        self.state.save(unsaved, || shards.iter().all(|shard| shard.may_write())).await?;
        Ok(forgotten)
    }

    /// Whether the leader's log of a partition begins above offset 0.
    async fn begins_late(&self, plan: &TopicPlan) -> Result<bool, StateError> {
        let (leader, _) = sides(&self.mirror, &self.source, &self.target, plan);
        let partitions: Vec<_> = (0..plan.partitions).map(|partition| leader.partition(partition)).collect();
        let starts = leader.client.list_offsets(&partitions, Position::LogStart).await;
        Ok(starts.into_values().collect::<Result<Vec<_>, _>>()?.into_iter().any(|start| start > 0))
    }

    /// Waits until a broker knows a topic: it hears of it a moment after the controller has created it. Until then it would be created again, and be
    /// refused.
    async fn await_topic(&self, topic: &Arc<str>, client: &Client) {
        let until = Instant::now() + KNOWN;
        while Instant::now() < until {
            let metadata = client.metadata(Topics::Named(&[topic])).await;
            if metadata.is_ok_and(|metadata| metadata.topics.iter().any(|topic| topic.error.is_none())) {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether all partitions of a topic are being copied: those of other processes by what they have kept in the mirror's state.
    fn all_copying(&self, plan: &TopicPlan) -> bool {
        (0..plan.partitions).all(|partition| {
            let partition = TopicPartition::new(plan.topic.clone(), partition);
            let phase = self.overview.phase(&partition).or_else(|| Some(self.state.partition(&partition)?.phase));
            phase == Some(Phase::Copying)
        })
    }

    /// Deletes on the followers what their leaders have deleted: [`Pass::log_starts`].
    async fn follow_log_starts(&mut self) {
        let owned = &self.owned;
        let deletes = self.log_starts.drain(..).map(|LogStart { partition, follower, to, status }| async move {
            if !owned.of(&partition).is_some_and(|shard| shard.may_write()) {
                return;
            }
            match follower.client.delete_records(&follower.topic, partition.partition, to).await {
                Ok(_) => status.lock().follower_log_start_offset = to,
                // A compacted topic keeps its log start: nothing can be deleted from it, and nothing has to be.
                Err(error) if error.code() == Some(ResponseError::PolicyViolation) => status.lock().follower_log_start_offset = to,
                Err(error) => tell!(messages::LOG_START_STAYS, %partition, %error),
            }
        });
        join_all(deletes).await;
    }
}

/// The topic on the leading cluster, and on the following one.
pub(crate) fn sides(mirror: &Mirror, source: &Client, target: &Client, plan: &TopicPlan) -> (Side, Side) {
    let source = Side { client: source.clone(), topic: plan.topic.clone() };
    let target = Side { client: target.clone(), topic: plan.target.clone() };
    plan.direction(mirror).leader_first(source, target)
}
