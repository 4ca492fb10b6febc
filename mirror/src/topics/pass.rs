//! A pass: one look at both clusters' topics. What is missing on the follower is created, what is too small grows.
//!
//! It is a task of its own, so a cluster that is slow to answer holds up nothing that is being copied. What is about a whole topic is done by the
//! process that has the shard of its partition 0.

use std::collections::HashSet;
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
use crate::partition::{OffsetMap, Phase, Side, Status};
use crate::shards::Owned;
use crate::state::{PartitionState, State, StateError};

/// How long brokers may take to hear of a new topic, and the time between two looks.
const KNOWN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// What a pass begins with.
pub(crate) struct Pass {
    /// The mirror.
    pub(crate) mirror: Arc<Mirror>,
    /// Its source.
    pub(crate) source: Client,
    /// Its target.
    pub(crate) target: Client,
    /// What is kept.
    pub(crate) state: State,
    /// The partitions of this process.
    pub(crate) overview: Arc<Overview>,
    /// The shards of this process.
    pub(crate) owned: Owned,
    /// Topics and partitions of which what was kept is to be forgotten: `--accept`.
    pub(crate) accept: Vec<String>,
    /// Those of which it is.
    pub(crate) forgotten: HashSet<TopicPartition>,
    /// Both clusters as the pass before has left them.
    pub(crate) clusters: Option<(Cluster, Cluster)>,
    /// Partitions whose follower begins before its leader.
    pub(crate) log_starts: Vec<LogStart>,
}

/// What a pass found.
pub(crate) struct TopicPassResult {
    /// The mirror's source and target.
    pub(crate) clusters: (Cluster, Cluster),
    /// All topics that the file selects.
    pub(crate) plans: Vec<TopicPlan>,
    /// Topics of this process that cannot be copied at all, and why.
    pub(crate) refused: Vec<(Arc<str>, String)>,
    /// Nothing is left to create.
    pub(crate) complete: bool,
    /// Partitions of which what was kept was forgotten.
    pub(crate) forgotten: Vec<TopicPartition>,
}

/// Whether `--accept` names a partition, or its topic.
pub(crate) fn is_accepted(accept: &[String], partition: &TopicPartition) -> bool {
    accept.iter().any(|accepted| *accepted == *partition.topic || *accepted == partition.to_string())
}

/// A log start that has to go after the leader's.
pub(crate) struct LogStart {
    /// Which partition.
    pub(crate) partition: TopicPartition,
    /// Where.
    pub(crate) follower: Side,
    /// The offset.
    pub(crate) to: i64,
    /// Whose follower start it is.
    pub(crate) status: Arc<Status>,
}

impl Pass {
    /// Looks, and does what is to be done.
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
        let (mut refused, mut complete) = (Vec::new(), true);
        for plan in &plans {
            let mine = self.owned.of(&TopicPartition::new(plan.topic.clone(), 0)).is_some_and(|shard| shard.may_write());
            if !mine {
                continue;
            }
            let follower = if plan.leader == self.mirror.source.name { (&plan.target, &mut target) } else { (&plan.topic, &mut source) };
            if let Some(error) = &plan.error {
                refused.push((plan.topic.clone(), error.clone()));
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
                        refused.push((plan.topic.clone(), reason));
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

    /// What was kept of partitions that `--accept` names is forgotten, but for what was left out of them and, if it is still the same topic, where
    /// its records are: a comparison of the whole needs both.
    async fn forget(&self, plans: &[TopicPlan]) -> Result<Vec<TopicPartition>, StateError> {
        let (mut states, mut forgotten, mut shards) = (Vec::new(), Vec::new(), Vec::new());
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
                    skipped: if same { kept.skipped.clone() } else { Vec::new() },
                    ..kept.clone()
                };
                let of_map = Status::default();
                of_map.lock().map = map;
                states.push((partition, state, Arc::new(of_map)));
                shards.push(shard);
            }
        }
        self.state.save(states, || shards.iter().all(|shard| shard.may_write())).await?;
        Ok(forgotten)
    }

    /// Whether a partition of the leader begins above 0.
    async fn begins_late(&self, plan: &TopicPlan) -> Result<bool, StateError> {
        let (leader, _) = sides(&self.mirror, &self.source, &self.target, plan);
        let partitions: Vec<_> = (0..plan.partitions).map(|partition| leader.partition(partition)).collect();
        let starts = leader.client.list_offsets(&partitions, Position::LogStart).await;
        Ok(starts.into_values().collect::<Result<Vec<_>, _>>()?.into_iter().any(|start| start > 0))
    }

    /// Brokers hear of a topic a moment after the controller has created it. Until then it would be created again, and be refused.
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

    /// Of a partition that another process copies, what it has kept is known.
    fn all_copying(&self, plan: &TopicPlan) -> bool {
        (0..plan.partitions).all(|partition| {
            let partition = TopicPartition::new(plan.topic.clone(), partition);
            let phase = self.overview.phase(&partition).or_else(|| Some(self.state.partition(&partition)?.phase));
            phase == Some(Phase::Copying)
        })
    }

    /// The follower's log starts go after the leader's: what is deleted there is deleted here.
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
    if plan.leader == mirror.source.name { (source, target) } else { (target, source) }
}
