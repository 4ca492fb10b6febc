//! A pass: one look at both clusters' topics. What is missing on the follower is created, what is too small grows.
//!
//! It is a task of its own, so a cluster that is slow to answer holds up nothing that is being copied. What is about a whole topic is done by the
//! process that has the shard of its partition 0.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use kafka_protocol::ResponseError;
use kferry_config::{Collision, Mirror, Offsets};
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Client, TopicPartition, Topics};
use kferry_wire::decisions;
use kferry_wire::tell;
use tokio::time::{Instant, sleep};

use super::born::{self, Copies};
use super::collide::{self, SourceTopics};
use super::plan::{self, Action, Cluster, SettingChange, TopicPlan};
use crate::connect_options;
use crate::messages;
use crate::overview::Overview;
use crate::partition::{Leadership, OffsetMap, Phase, Side, Skipped, Status};
use crate::run::moves;
use crate::shards::Owned;
use crate::state::{PartitionState, State, StateError, Unsaved};

/// How long a pass waits until the brokers know a topic that it has created or grown.
const KNOWN: Duration = Duration::from_secs(5);
/// Between two questions whether they know it.
const PAUSE: Duration = Duration::from_millis(100);

/// How many topics a pass works on at a time: one that waits for a broker does not hold up the others.
const TOPICS: usize = 16;

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
    /// Partitions whose follower is asked where its log begins.
    pub(crate) follower_starts: Vec<FollowerStart>,
    /// All mirrors of the file.
    pub(crate) mirrors: Arc<[Arc<Mirror>]>,
    /// The plans of the last pass, once there was one.
    pub(crate) before: Option<Arc<[TopicPlan]>>,
    /// Changes of settings that the brokers of a topic's follower have refused, by the topic's name on the source.
    pub(crate) unsettable: HashMap<Arc<str>, Vec<SettingChange>>,
    /// Of topics with a setting that has become stricter on the leader, and not yet on the follower: where the leader's logs ended when that was seen.
    pub(crate) stricter_from: HashMap<Arc<str>, BTreeMap<TopicPartition, i64>>,
    /// What was decided, where there is a log of decisions.
    pub(crate) decisions: Option<Arc<decisions::State>>,
    /// Topics that only the target has, and of which an earlier pass has found that they are copies.
    pub(crate) copies: Copies,
}

/// What a pass has found and done.
pub(crate) struct TopicPassResult {
    /// The mirror's source and target, as the pass has seen them.
    pub(crate) clusters: (Cluster, Cluster),
    /// The plans of all topics that the file selects.
    pub(crate) plans: Vec<TopicPlan>,
    /// Where there is a log of decisions: the plans of topics that may move, as they will be then, by the topics' names.
    pub(crate) turned: HashMap<Arc<str>, TopicPlan>,
    /// The topics of this process that cannot be copied at all, by their names on the source, and for each why.
    pub(crate) refused: BTreeMap<Arc<str>, String>,
    /// The topics of this process whose settings on the follower cannot go after the leader's, and for each why. They are copied all the same.
    pub(crate) unset: BTreeMap<Arc<str>, String>,
    /// [`Pass::unsettable`], with those that this pass has found.
    pub(crate) unsettable: HashMap<Arc<str>, Vec<SettingChange>>,
    /// [`Pass::stricter_from`], of the topics that still wait.
    pub(crate) stricter_from: HashMap<Arc<str>, BTreeMap<TopicPartition, i64>>,
    /// Whether no topic of this process had to be created or grown.
    pub(crate) complete: bool,
    /// Partitions that `--accept` names, of which this pass has forgotten what was kept.
    pub(crate) forgotten: Vec<TopicPartition>,
    /// What was found out about topics that only the target has; of this process, and where there is a log of decisions.
    pub(crate) only_on_target: born::Found,
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

/// A follower that is asked where its log begins.
pub(crate) struct FollowerStart {
    /// The topic on the follower.
    pub(crate) follower: Side,
    /// The partition's index.
    pub(crate) partition: i32,
    /// Gets the log start.
    pub(crate) status: Arc<Status>,
}

/// What a pass did about a topic.
#[derive(Default)]
struct Done {
    /// It was created or grown.
    is_new: bool,
    /// Settings of it were changed.
    is_changed: bool,
    /// Where its leader's logs ended when a setting was seen that waits until that is copied.
    ends: Option<BTreeMap<TopicPartition, i64>>,
    /// Why it cannot be copied.
    refused: Option<String>,
    /// Why its settings cannot go after the leader's.
    unset: Option<String>,
    /// Changes that its brokers refuse.
    unsettable: Vec<SettingChange>,
}

impl Pass {
    /// Looks at both clusters' topics, and does on the followers what is to be done.
    ///
    /// # Errors
    /// [`StateError`] of a cluster or of the mirror's state. What was done until then stays done, and the next pass goes on from there. A topic that
    /// cannot be created, grown or set is no error: the result has why.
    pub(crate) async fn run(mut self) -> Result<TopicPassResult, StateError> {
        let (mut source, mut target) = match self.clusters.take() {
            None => tokio::try_join!(Cluster::look(&self.source), Cluster::look(&self.target))?,
            Some((mut source, mut target)) => {
                tokio::try_join!(source.look_again(), target.look_again())?;
                (source, target)
            }
        };
        self.state.refresh().await?;
        let mut plans = plan::plan(&self.mirror, &mut source, &mut target, |topic| self.leader(topic), self.led_on_target()).await?;
        self.refuse_collisions(&mut plans, &source).await;
        let (pass, mut work) = (&self, Vec::new());
        for plan in &plans {
            if pass.owned.of(&TopicPartition::new(plan.topic.clone(), 0)).is_some_and(|shard| shard.may_write()) {
                work.push(async move { (plan, pass.topic(plan).await) }.boxed());
            }
        }
        let done: Vec<_> = stream::iter(work).buffer_unordered(TOPICS).collect().await;
        let (mut refused, mut unset, mut unsettable, mut complete) = (BTreeMap::new(), BTreeMap::new(), self.unsettable.clone(), true);
        let mut stricter_from = HashMap::new();
        for (plan, done) in done {
            complete &= !done.is_new;
            if done.is_changed {
                let (_, (follower, cluster)) =
                    plan.direction(&self.mirror).leader_first((&plan.topic, &mut source), (&plan.target, &mut target));
                cluster.forget_config(follower);
            }
            refused.extend(done.refused.map(|why| (plan.topic.clone(), why)));
            unset.extend(done.unset.map(|why| (plan.topic.clone(), why)));
            stricter_from.extend(done.ends.map(|ends| (plan.topic.clone(), ends)));
            if !done.unsettable.is_empty() {
                unsettable.entry(plan.topic.clone()).or_default().extend(done.unsettable);
            }
        }
        self.follow_log_starts().await;
        self.ask_follower_starts().await;
        let forgotten = self.forget(&plans).await?;
        let may_move = plans.iter().filter(|_| self.decisions.is_some());
        let turned = may_move.filter_map(|plan| Some((plan.topic.clone(), plan::turned(&self.mirror, &source, &target, plan)?)));
        let turned = turned.collect();
        let only_on_target = self.only_on_target(&source, &target, &plans).await;
        let clusters = (source, target);
        Ok(TopicPassResult { clusters, plans, turned, refused, unset, unsettable, stricter_from, complete, forgotten, only_on_target })
    }

    /// The topics that the target leads, and of which every proxy knows that: whoever did not would take a copy on the source for the leader.
    fn led_on_target(&self) -> BTreeSet<Arc<str>> {
        let Some(decisions) = &self.decisions else { return BTreeSet::new() };
        let leads = |name: &&String| self.leader(name).is_some_and(|led| led.leader == *self.mirror.target.name);
        decisions.leaders().keys().filter(leads).filter(|name| decisions.all_know(name)).map(|name| name.as_str().into()).collect()
    }

    /// Looks into topics that only the target has. Where offsets are translated nothing is copied the other way.
    async fn only_on_target(&self, source: &Cluster, target: &Cluster, plans: &[TopicPlan]) -> born::Found {
        let decisions = self.decisions.as_ref().filter(|decisions| decisions.end() > 0 && self.mirror.offsets == Offsets::Preserve);
        let Some(decisions) = decisions else { return born::Found::default() };
        let owned = |name: &str| self.owned.of(&TopicPartition::new(name, 0)).is_some_and(|shard| shard.may_write());
        let is_open = |name: &str| !decisions.leaders().contains_key(name) && owned(name);
        born::find(&self.mirror, &self.mirrors, (source, target), plans, is_open, &self.copies).await
    }

    /// Who leads a topic, if it was ever decided.
    fn leader(&self, topic: &str) -> Option<Leadership> {
        match &self.decisions {
            Some(decisions) => moves::leadership(decisions, &self.mirror, topic),
            None => self.state.leader(topic),
        }
    }

    /// Does what is to be done about one topic.
    async fn topic(&self, plan: &TopicPlan) -> Done {
        if let Some(error) = &plan.error {
            return Done { refused: Some(error.clone()), ..Done::default() };
        }
        let (_, follower) = sides(&self.mirror, &self.source, &self.target, plan);
        if plan.action == Action::Nothing {
            return self.settings(plan, &follower).await;
        }
        // Whether a compacted topic has to be padded is not known while a partition has no leader: then compaction comes later in any case.
        let padded = self.mirror.offsets == Offsets::Preserve && plan.compacted && self.begins_late(plan).await.unwrap_or(true);
        match plan::apply(plan, &follower.topic, &follower.client, padded).await {
            Ok(()) => {
                tell!(messages::DONE_ON_FOLLOWER, mirror = &*self.mirror.name, topic = &*plan.topic, on = &**follower.cluster(), action = %plan.action, notes = plan.notes.join("; "));
                self.await_topic(&follower.topic, &follower.client).await;
                Done { is_new: true, ..Done::default() }
            }
            Err(error) => {
                let why = format!("{} on {} cannot be created or grown: {error}", follower.topic, follower.cluster());
                Done { refused: Some(why), ..Done::default() }
            }
        }
    }

    /// Has the settings of a topic's follower go after its leader's.
    async fn settings(&self, plan: &TopicPlan, follower: &Side) -> Done {
        let before =
            self.before.iter().flat_map(|plans| plans.iter()).find(|before| before.topic == plan.topic).map(|before| &before.config);
        let ends = if plan.becomes_stricter() { self.stricter_from(plan).await } else { Some(BTreeMap::new()) };
        let caught_up = ends.as_ref().is_some_and(|ends| ends.iter().all(|(partition, end)| self.agreed(partition) >= *end));
        let mut changes = plan::changes(plan, before, caught_up, self.mirror.offsets == Offsets::Translate);
        if !self.mirror.sync_topic_configs {
            // That a padded topic is compacted at last belongs to its creation.
            changes.retain(|change| change.name == plan::CLEANUP && plan::awaits_compaction(plan).is_some());
        }
        if let Some(refused) = self.unsettable.get(&plan.topic) {
            changes.retain(|change| !refused.contains(change));
        }
        let ends = ends.filter(|_| plan.becomes_stricter() && !caught_up);
        if changes.is_empty() {
            return Done { ends, ..Done::default() };
        }
        match plan::alter(&follower.topic, &follower.client, &changes).await {
            Ok(unsettable) => {
                changes.retain(|change| !unsettable.contains(change));
                let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
                if !changes.is_empty() {
                    tell!(
                        messages::SETTINGS_CHANGED,
                        mirror = &*self.mirror.name,
                        topic = &*plan.topic,
                        on = &**follower.cluster(),
                        changes = changes.join(", ")
                    );
                }
                Done { is_changed: true, unsettable, ends, ..Done::default() }
            }
            Err(error) => {
                let names: Vec<_> = changes.iter().map(|change| change.name.as_str()).collect();
                let right =
                    if error.is_authorization() { "; grant ALTER_CONFIGS on the topic there to the mirror's principal" } else { "" };
                let why = format!(
                    "{} of {} on {} cannot be set to the leader's: {error}{right}",
                    names.join(", "),
                    follower.topic,
                    follower.cluster()
                );
                Done { unset: Some(why), ends, ..Done::default() }
            }
        }
    }

    /// Refuses topics of which nothing was copied yet, and that would get in the way of others: of this mirror, or of another one of the file. One that is
    /// being copied keeps its name on the target, whoever comes later.
    async fn refuse_collisions(&self, plans: &mut [TopicPlan], source: &Cluster) {
        let is_new = |partition: &TopicPartition| {
            let kept = self.state.partition(partition);
            self.overview.phase(partition).is_none() && kept.is_none_or(|kept| kept.agreed == 0 && kept.phase != Phase::Copying)
        };
        let all_new = |plan: &TopicPlan| (0..plan.partitions).all(|partition| is_new(&TopicPartition::new(plan.topic.clone(), partition)));
        let new: Vec<_> = plans.iter_mut().filter(|plan| plan.error.is_none() && all_new(plan)).collect();
        if new.is_empty() {
            return;
        }
        let own = source.metadata.topics.iter().map(|topic| topic.name.to_string()).collect();
        let known = SourceTopics::from([(source.name().clone(), Ok(own))]);
        let topics = collide::source_topics(&self.mirrors, known, &connect_options(&self.mirror.name)).await;
        let mut others = self.mirrors.iter().filter(|other| other.target.name == self.mirror.target.name);
        let unknown = others.find_map(|other| Some((&other.name, topics.get(&other.source.name)?.as_ref().err()?)));
        let collisions = collide::among(&self.mirrors, &topics);
        let of = |collision: &Collision, topic: &str| {
            [&collision.one, &collision.other].iter().any(|copied| copied.mirror == self.mirror.name && copied.topic == *topic)
        };
        for plan in new {
            if let Some(collision) = collisions.iter().find(|collision| of(collision, &plan.topic)) {
                plan.error = Some(collision.to_string());
            } else if let Some((mirror, error)) = unknown {
                plan.error = Some(format!("whether a topic of mirror {mirror} would be {} too is not known: {error}", plan.target));
            }
        }
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

    /// The ends of the leader's logs when it was first seen that a setting of it has become stricter: what is before them need not obey it. `None`: the
    /// leader did not tell.
    async fn stricter_from(&self, plan: &TopicPlan) -> Option<BTreeMap<TopicPartition, i64>> {
        if let Some(ends) = self.stricter_from.get(&plan.topic) {
            return Some(ends.clone());
        }
        let (leader, _) = sides(&self.mirror, &self.source, &self.target, plan);
        let partitions: Vec<_> = (0..plan.partitions).map(|partition| leader.partition(partition)).collect();
        let ends = leader.client.list_offsets(&partitions, Position::HighWatermark).await;
        let of = |partition: i32| TopicPartition::new(plan.topic.clone(), partition);
        ends.into_iter().map(|(partition, end)| Some((of(partition.partition), end.ok()?))).collect()
    }

    /// Up to which offset of the leader a partition is copied: one of another process by what that has kept in the mirror's state.
    fn agreed(&self, partition: &TopicPartition) -> i64 {
        let kept = || self.state.partition(partition).map(|kept| kept.agreed);
        self.overview.agreed(partition).or_else(kept).unwrap_or(0)
    }

    /// Asks followers where their logs begin: their brokers may have deleted what the leader still has.
    async fn ask_follower_starts(&mut self) {
        let asked = std::mem::take(&mut self.follower_starts);
        for client in [&self.source, &self.target] {
            let of = || asked.iter().filter(|asked| asked.follower.cluster() == &client.cluster().name);
            let partitions: Vec<_> = of().map(|asked| asked.follower.partition(asked.partition)).collect();
            if partitions.is_empty() {
                continue;
            }
            let starts = client.list_offsets(&partitions, Position::LogStart).await;
            for asked in of() {
                if let Some(Ok(start)) = starts.get(&asked.follower.partition(asked.partition)) {
                    asked.status.lock().follower_log_start_offset = *start;
                }
            }
        }
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
