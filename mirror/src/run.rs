//! A mirror at work: which partitions there are, who of them is looked at, on which lane it is copied, and what happens when it comes back.
//!
//! Every few seconds a *pass* looks at both clusters' topics: new ones are created, grown ones grow, and each partition that is new becomes a
//! [`Job`]. A job is looked at ([`crate::settle`]), copied on the lane of its two brokers ([`crate::replicate`]), and when it comes back,
//! its reason says what is next: another look, `on_error`, or nothing before somebody mends it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use kferry_wire::admin::partitions::Position;
use kferry_wire::batch::{self, Record};
use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::config::{Mirror, OnError};
use kferry_wire::connection::ConnectOptions;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cut::DECODED;
use crate::dead_letters;
use crate::groups::{self, Board, CopiedTopic, Passed, Work};
use crate::job::{Caution, Job, Known, Leave, Phase, Refusal, Side, Status};
use crate::metrics;
use crate::replicate::{Lane, Settled};
use crate::settle::{self, settle};
use crate::state::{PartitionState, State, StateError};
use crate::topics::{self, Action, Cluster, TopicPlan};

/// Between two passes.
const PASS: Duration = Duration::from_secs(5);
/// Between two looks at the time: retries, the state that is to be kept, metrics.
const TICK: Duration = Duration::from_secs(1);
/// Looks at partitions at a time.
const LOOKS: usize = 32;
/// After which a partition that failed is tried again: somebody may have mended it.
const FAILED: Duration = Duration::from_mins(1);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// How much of a lane's memory is used for what.
pub struct Limits {
    /// Bytes of a Fetch answer, and of what waits to be produced before the next one is asked for.
    pub fetch_bytes: usize,
    /// The same of one partition.
    pub partition_bytes: usize,
    /// Bytes of a Produce request.
    pub produce_bytes: usize,
    /// `max_bytes_per_second`.
    pub rate: Rate,
}

/// A bound of bytes per second, over all lanes.
pub struct Rate {
    per_second: Option<f64>,
    next: Mutex<Instant>,
}

impl Rate {
    /// So many; `None` is no bound.
    pub fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.map(|bytes| bytes as f64), next: Mutex::new(Instant::now()) }
    }

    /// When to go on after so many bytes.
    pub fn after(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let Some(per_second) = self.per_second else { return now };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(now) + Duration::from_secs_f64(bytes as f64 / per_second);
        *next
    }
}

/// How a mirror is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Copy to the present end, then stop.
    pub once: bool,
    /// Topics and partitions of which what was kept is forgotten: they are compared as a whole.
    pub accept: Vec<String>,
    /// Put small batches together.
    pub coalesce: bool,
}

/// All partitions of a mirror and all groups, for everybody to see.
#[derive(Default)]
pub struct Table {
    partitions: Mutex<BTreeMap<TopicPartition, Arc<Status>>>,
    /// Offsets of groups.
    pub groups: Board,
}

impl Table {
    /// What is known of each.
    pub fn rows(&self) -> Vec<(TopicPartition, Known)> {
        let table = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(partition, status)| (partition.clone(), status.lock().clone())).collect()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<TopicPartition, Arc<Status>>)) {
        change(&mut self.partitions.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// How it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Partitions whose copy reached the end that the leader had at the start.
    pub copied: usize,
    /// The others, and why.
    pub left: Vec<(TopicPartition, String)>,
    /// Offsets of groups that are not written, and why.
    pub groups_left: Vec<(String, String)>,
}

/// A mirror at work.
pub struct Run {
    mirror: Arc<Mirror>,
    options: Options,
    source: Client,
    target: Client,
    state: State,
    table: Arc<Table>,
    limits: Arc<Limits>,
    slots: HashMap<TopicPartition, Slot>,
    lanes: HashMap<LaneKey, mpsc::UnboundedSender<Settled>>,
    lanes_stop: CancellationToken,
    lanes_running: JoinSet<()>,
    looks: JoinSet<Result<Settled, (Job, Leave)>>,
    /// What lanes give back: at most as many as there are partitions.
    back: mpsc::UnboundedReceiver<(Job, Leave)>,
    to_back: mpsc::UnboundedSender<(Job, Leave)>,
    permits: Arc<Semaphore>,
    /// The last pass found nothing left to create.
    complete: bool,
    /// Topics that cannot be copied at all, and why.
    refused: BTreeMap<Arc<str>, String>,
    /// What the last pass found, once there was one.
    plans: Option<Vec<TopicPlan>>,
    /// The pass over the groups, while there is one.
    groups: JoinSet<Passed>,
    next_groups: Instant,
}

/// The leading cluster and its broker, the following broker.
type LaneKey = (Arc<str>, i32, i32);

/// A partition's place.
struct Slot {
    status: Arc<Status>,
    term: i32,
    term_start: i64,
    topic_ids: BTreeMap<String, String>,
    leader: Arc<str>,
    follower: Side,
    /// It is of an older term, or of a topic that was created anew: when it rests it goes.
    stale: bool,
    failures: u32,
    /// The offset that was agreed at the last failure: a partition that got on since has not failed again.
    failed_at: i64,
    /// The job, while nobody works on it, and when somebody may again.
    rest: Option<(Job, Option<Instant>)>,
}

/// How long a partition that was interrupted so many times in a row rests: longer each time, and between half of that and all of it, so that the
/// partitions of a broker that is away do not all come back at once.
fn backoff(failures: u32, random: u64) -> Duration {
    let longest = (BACKOFF.0 * 2_u32.pow(failures.min(8))).min(BACKOFF.1);
    longest.mul_f64(0.5 + (random % 1_000) as f64 / 2_000.0)
}

/// How a mirror connects.
pub fn connect_options(mirror: &str) -> ConnectOptions {
    ConnectOptions { client_id: format!("kferry-mirror-{mirror}"), request_timeout: Duration::from_secs(40), ..ConnectOptions::default() }
}

impl Run {
    /// Connects to the target and reads the mirror's state there.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn begin(mirror: Arc<Mirror>, options: Options, table: Arc<Table>) -> Result<Self, StateError> {
        let client = |cluster: &Arc<_>| Client::new(Arc::clone(cluster), connect_options(&mirror.name));
        let (source, target) = (client(&mirror.source), client(&mirror.target));
        let state = State::open(target.clone(), &mirror.name, true).await?.expect("it is created where it is missing");
        let limits = Limits {
            fetch_bytes: 4 << 20,
            partition_bytes: 1 << 20,
            produce_bytes: 4 << 20,
            rate: Rate::new(mirror.max_bytes_per_second.map(std::num::NonZeroU64::get)),
        };
        let (to_back, back) = mpsc::unbounded_channel();
        Ok(Self {
            mirror,
            options,
            source,
            target,
            state,
            table,
            limits: Arc::new(limits),
            slots: HashMap::new(),
            lanes: HashMap::new(),
            lanes_stop: CancellationToken::new(),
            lanes_running: JoinSet::new(),
            looks: JoinSet::new(),
            back,
            to_back,
            permits: Arc::new(Semaphore::new(LOOKS)),
            complete: false,
            refused: BTreeMap::new(),
            plans: None,
            groups: JoinSet::new(),
            next_groups: Instant::now(),
        })
    }

    /// Copies until `stop`, or with `once` until the present end.
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
        let mut clusters = None;
        let mut next_pass = Instant::now();
        let mut failures = 0;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(stop.is_cancelled() || self.options.once && self.is_done()) {
            tokio::select! {
                () = stop.cancelled() => {}
                Some((job, leave)) = self.back.recv() => self.came_back(job, leave).await,
                Some(look) = self.looks.join_next() => match look.expect("a look does not panic") {
                    Ok(settled) => self.give_to_lane(settled).await,
                    Err((job, leave)) => self.came_back(job, leave).await,
                },
                Some(_) = self.lanes_running.join_next() => self.lanes.retain(|_, lane| !lane.is_closed()),
                () = sleep_until(next_pass) => {
                    let passed = self.pass(&mut clusters).await;
                    metrics::passed(&self.mirror.name, passed.as_ref().err().map(|error| error as _));
                    failures = if passed.is_ok() { 0 } else { failures + 1 };
                    // What was just created is known to the brokers in a moment.
                    let pause = if passed.is_ok() && !self.complete { TICK } else { PASS * 2_u32.pow(failures.min(3)) };
                    next_pass = Instant::now() + pause;
                }
                Some(passed) = self.groups.join_next() => {
                    self.groups_passed(passed.expect("a pass over the groups does not panic"));
                    self.sync_groups();
                }
                () = self.table.groups.ordered() => self.sync_groups(),
                _ = tick.tick() => {
                    self.tick();
                    self.sync_groups();
                }
            }
        }
        let groups_left = tokio::select! {
            left = self.sync_groups_once() => left,
            () = stop.cancelled() => Vec::new(),
        };
        Outcome { groups_left, ..self.end().await }
    }

    /// One look at both clusters' topics.
    async fn pass(&mut self, clusters: &mut Option<(Cluster, Cluster)>) -> Result<(), StateError> {
        match clusters {
            None => {
                let (source, target) = tokio::try_join!(Cluster::look(&self.source), Cluster::look(&self.target))?;
                *clusters = Some((source, target));
            }
            Some((source, target)) => drop(tokio::try_join!(source.look_again(), target.look_again())?),
        }
        let (source, target) = clusters.as_mut().expect("both are there now");
        self.state.refresh().await?;
        let plans = topics::plan(&self.mirror, source, target, |topic| self.state.leader(topic).cloned()).await?;
        self.complete = true;
        for plan in &plans {
            let follower = if plan.leader == self.mirror.source.name { (&plan.target, &mut *target) } else { (&plan.topic, &mut *source) };
            if let Some(error) = &plan.error {
                self.refuse(&plan.topic, error.clone());
                continue;
            }
            if plan.action != Action::Nothing {
                let padded = matches!(plan.action, Action::Create { .. }) && self.begins_late(plan).await?;
                match topics::apply(plan, follower.0, &follower.1.client, padded).await {
                    Ok(()) => {
                        info!(mirror = &*self.mirror.name, topic = &*plan.topic, on = &**follower.1.name(), action = ?plan.action, notes = ?plan.notes, "done on the follower");
                        self.complete = false;
                    }
                    Err(error) => {
                        self.refuse(&plan.topic, format!("{} on {} cannot be created or grown: {error}", follower.0, follower.1.name()));
                    }
                }
                continue;
            }
            self.refused.remove(&plan.topic);
            if let Some(policy) = topics::awaits_compaction(plan)
                && self.all_copying(plan)
            {
                topics::compact(follower.0, &follower.1.client, policy).await?;
                follower.1.forget_config(follower.0);
            }
            self.take_in(plan);
        }
        self.drop_deleted(&plans);
        self.plans = Some(plans);
        self.follow_log_starts().await;
        self.save().await
    }

    /// A topic cannot be copied at all. It is said once, and tried again with each pass.
    fn refuse(&mut self, topic: &Arc<str>, reason: String) {
        if self.refused.get(topic) != Some(&reason) {
            warn!(mirror = &*self.mirror.name, topic = &**topic, reason, "the topic cannot be copied");
            self.refused.insert(topic.clone(), reason);
        }
    }

    /// Whether a partition of the leader begins above 0.
    async fn begins_late(&self, plan: &TopicPlan) -> Result<bool, StateError> {
        let (leader, _) = self.sides(plan);
        let partitions: Vec<_> = (0..plan.partitions).map(|partition| leader.partition(partition)).collect();
        let starts = leader.client.list_offsets(&partitions, Position::LogStart).await;
        Ok(starts.into_values().collect::<Result<Vec<_>, _>>()?.into_iter().any(|start| start > 0))
    }

    /// The topic on the leading cluster, and on the following one.
    fn sides(&self, plan: &TopicPlan) -> (Side, Side) {
        let source = Side { client: self.source.clone(), topic: plan.topic.clone() };
        let target = Side { client: self.target.clone(), topic: plan.target.clone() };
        if plan.leader == self.mirror.source.name { (source, target) } else { (target, source) }
    }

    fn all_copying(&self, plan: &TopicPlan) -> bool {
        (0..plan.partitions).all(|partition| {
            let slot = self.slots.get(&TopicPartition::new(plan.topic.clone(), partition));
            slot.is_some_and(|slot| slot.status.lock().phase == Phase::Copying)
        })
    }

    /// Partitions that are new, and those whose leader has changed.
    fn take_in(&mut self, plan: &TopicPlan) {
        for partition in 0..plan.partitions {
            let partition = TopicPartition::new(plan.topic.clone(), partition);
            if let Some(slot) = self.slots.get_mut(&partition) {
                if slot.term != plan.term || slot.topic_ids != plan.topic_ids {
                    // Its lane gives it back, and the next pass takes it in anew.
                    slot.stale = true;
                    self.lanes_stop.cancel();
                    if slot.rest.is_some() {
                        self.slots.remove(&partition);
                    }
                    self.complete = false;
                }
                continue;
            }
            let kept = self.state.partition(&partition).filter(|_| !self.accepted(&partition));
            let status = Arc::new(Status::default());
            if let Some(kept) = kept
                && kept.phase == Phase::Diverged
            {
                warn!(mirror = &*self.mirror.name, %partition, reason = kept.reason, "it has diverged before, and is not copied");
                let mut known = status.lock();
                (known.phase, known.reason) = (Phase::Diverged, kept.reason.clone());
            }
            // Even when the rest is forgotten: a comparison of the whole finds these records missing.
            if let Some(kept) = self.state.partition(&partition) {
                status.lock().skipped.clone_from(&kept.skipped);
            }
            let (leader, follower) = self.sides(plan);
            let job = Job {
                mirror: self.mirror.name.clone(),
                topic: plan.topic.clone(),
                partition: partition.partition,
                leader,
                follower: follower.clone(),
                term: plan.term,
                compacted: plan.compacted,
                max_message_bytes: plan.max_message_bytes,
                status: status.clone(),
                caution: Caution::default(),
            };
            let diverged = status.lock().phase == Phase::Diverged;
            let slot = Slot {
                status: status.clone(),
                term: plan.term,
                term_start: kept
                    .filter(|kept| kept.term == plan.term)
                    .map_or_else(|| kept.map_or(0, |kept| kept.agreed), |kept| kept.term_start),
                topic_ids: plan.topic_ids.clone(),
                leader: plan.leader.clone(),
                follower,
                stale: false,
                failures: 0,
                failed_at: -1,
                rest: Some((job, (!diverged).then(Instant::now))),
            };
            self.slots.insert(partition.clone(), slot);
            self.table.change(|table| drop(table.insert(partition.clone(), status)));
            self.look(&partition);
        }
    }

    fn accepted(&self, partition: &TopicPartition) -> bool {
        self.options.accept.iter().any(|accepted| *accepted == *partition.topic || *accepted == partition.to_string())
    }

    /// Topics that are gone from the source, or that the file selects no more.
    fn drop_deleted(&mut self, plans: &[TopicPlan]) {
        let gone =
            |partition: &TopicPartition| !plans.iter().any(|plan| plan.topic == partition.topic && partition.partition < plan.partitions);
        let (table, mirror) = (&self.table, &self.mirror.name);
        self.slots.retain(|partition, slot| {
            let drops = slot.rest.is_some() && gone(partition);
            if drops {
                metrics::gone(mirror, partition);
                table.change(|table| drop(table.remove(partition)));
            }
            !drops
        });
    }

    /// Sends a partition that rests to be looked at, if its time has come.
    fn look(&mut self, partition: &TopicPartition) {
        let state = self.state.partition(partition).filter(|_| !self.accepted(partition)).cloned();
        let Some(slot) = self.slots.get_mut(partition) else { return };
        let Some((job, _)) = slot.rest.take_if(|(_, at)| !slot.stale && at.is_some_and(|at| at <= Instant::now())) else { return };
        let known = settle::Known {
            state,
            topic_ids: slot.topic_ids.clone(),
            max_padding: self.mirror.max_padding,
            lost_is_skipped: self.mirror.on_error != OnError::Fail,
            coalesce: self.options.coalesce,
        };
        let permits = self.permits.clone();
        self.looks.spawn(async move {
            let _permit = permits.acquire().await;
            settle(job, known).await
        });
    }

    /// Gives a partition to the lane of its two leaders.
    async fn give_to_lane(&mut self, settled: Settled) {
        // A look may have taken longer than the lanes took to stop, and the direction may have turned meanwhile.
        let stale = self.slots.get(&settled.job.topic_partition()).is_none_or(|slot| slot.stale);
        if stale || self.lanes_stop.is_cancelled() {
            return self.came_back(settled.job, Leave::Cancelled).await;
        }
        let job = &settled.job;
        let partitions = (job.leader.partition(job.partition), job.follower.partition(job.partition));
        let ids = tokio::try_join!(job.leader.client.leader_id(&partitions.0), job.follower.client.leader_id(&partitions.1));
        let ids = match ids {
            Ok(ids) => ids,
            Err(error) => return self.came_back(settled.job, Leave::Again(error.to_string())).await,
        };
        let key = (job.leader.cluster().clone(), ids.0, ids.1);
        if self.lanes.get(&key).is_none_or(mpsc::UnboundedSender::is_closed) {
            let (leader, follower) = (job.leader.client.clone(), job.follower.client.clone());
            let connected = tokio::try_join!(leader.connect(ids.0), follower.connect(ids.1));
            let (source, target) = match connected {
                Ok((source, target)) => (Arc::new(source), Arc::new(target)),
                Err(error) => {
                    leader.forget_leader(&partitions.0);
                    follower.forget_leader(&partitions.1);
                    return self.came_back(settled.job, Leave::Again(error.to_string())).await;
                }
            };
            let (lane, incoming) = mpsc::unbounded_channel();
            let (back, stop) = (self.to_back.clone(), self.lanes_stop.clone());
            self.lanes_running.spawn(Lane::run((leader, source), target, self.limits.clone(), incoming, back, stop));
            self.lanes.insert(key.clone(), lane);
        }
        if let Err(mpsc::error::SendError(settled)) = self.lanes[&key].send(settled) {
            self.came_back(settled.job, Leave::Again("its lane has just ended".to_owned())).await;
        }
    }

    /// A partition that is not copied any more: why decides what is next.
    async fn came_back(&mut self, mut job: Job, leave: Leave) {
        let partition = job.topic_partition();
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        let agreed = job.status.lock().agreed;
        slot.failures = if agreed > slot.failed_at { 1 } else { slot.failures + 1 };
        slot.failed_at = agreed;
        let failures = slot.failures;
        let now = Instant::now();
        let at = match leave {
            Leave::Cancelled => {
                slot.failures = 0;
                job.status.phase(Phase::Waiting, None);
                Some(now + TICK)
            }
            Leave::Again(reason) => {
                // Whoever led it may not do so any more.
                job.leader.client.forget_leader(&job.leader.partition(job.partition));
                job.follower.client.forget_leader(&job.follower.partition(job.partition));
                metrics::interrupted(&job, &reason, failures);
                job.status.phase(Phase::Waiting, Some(reason));
                Some(now + backoff(failures, RandomState::new().hash_one(0)))
            }
            Leave::Failed(reason) => {
                metrics::failed(&job, &reason);
                job.status.phase(Phase::Failed, Some(reason));
                Some(now + FAILED)
            }
            Leave::Diverged(reason) => {
                metrics::diverged(&job, &reason);
                job.status.phase(Phase::Diverged, Some(reason));
                None
            }
            Leave::Refused(refusal) => match self.refused(&mut job, refusal).await {
                Ok(()) => Some(now),
                Err(reason) => {
                    metrics::failed(&job, &reason);
                    job.status.phase(Phase::Failed, Some(reason));
                    Some(now + FAILED)
                }
            },
        };
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.rest = Some((job, at));
            let has_diverged = slot.status.lock().phase == Phase::Diverged;
            if has_diverged && let Err(error) = self.save().await {
                warn!(mirror = &*self.mirror.name, %error, "that it diverged is not kept yet");
            }
        }
        self.look(&partition);
    }

    /// Records that cannot be copied. First it is found out which one it is; then `on_error` decides. `Err` is why the partition stays.
    async fn refused(&mut self, job: &mut Job, refusal: Refusal) -> Result<(), String> {
        let offset = refusal.offsets.start;
        let records = batch::split(refusal.bytes.clone()).next().and_then(Result::ok).and_then(|entry| entry.records(DECODED).ok());
        if let Some(records) = &records
            && records.len() > 1
            && job.caution.single_until < refusal.offsets.end
        {
            job.caution.single_until = refusal.offsets.end;
            return Ok(());
        }
        let where_ = format!(
            "{} on {}, offset{} {}",
            job.leader.partition(job.partition),
            job.leader.cluster(),
            if refusal.offsets.end > offset + 1 { "s" } else { "" },
            if refusal.offsets.end > offset + 1 { format!("{offset} to {}", refusal.offsets.end - 1) } else { offset.to_string() }
        );
        let advice = format!(
            "Mend it and it goes on by itself; or set on_error = \"skip\" or \"dead-letter\", and {} is left out",
            if refusal.offsets.end > offset + 1 { "that batch" } else { "that record" }
        );
        if self.mirror.on_error == OnError::Fail || refusal.offsets.is_empty() || (records.is_none() && refusal.bytes.is_empty()) {
            return Err(format!("{where_}: {}. {advice}", refusal.reason));
        }
        let dead_letter = self.mirror.on_error == OnError::DeadLetter;
        if dead_letter {
            let record: Option<Record> = records.and_then(|records| records.into_iter().next());
            dead_letters::write(job, &refusal, record)
                .await
                .map_err(|error| format!("{where_}: {}; and it cannot be written to its dead letters: {error}", refusal.reason))?;
        }
        // Kept before the marker is written: without it the next comparison would find a record missing.
        {
            let mut known = job.status.lock();
            match known.skipped.last_mut() {
                Some(last) if (last.0..=last.1).contains(&offset) => last.1 = last.1.max(refusal.offsets.end),
                _ => known.skipped.push((offset, refusal.offsets.end)),
            }
            known.unsaved = true;
        }
        self.save().await.map_err(|error| format!("{where_}: {}; and that it is left out cannot be kept: {error}", refusal.reason))?;
        metrics::skipped(job, offset, refusal.code, &refusal.reason, dead_letter);
        if refusal.offsets.end == offset + 1 {
            job.caution.skip.insert(offset);
        } else {
            job.caution.leap = Some(refusal.offsets);
        }
        Ok(())
    }

    /// Retries whose time has come, lanes that were stopped, and what everybody may see.
    fn tick(&mut self) {
        if self.lanes_stop.is_cancelled() && self.lanes_running.is_empty() {
            self.lanes_stop = CancellationToken::new();
            self.lanes.clear();
        }
        let resting: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.rest.is_some()).map(|(partition, _)| partition.clone()).collect();
        for partition in resting {
            self.look(&partition);
        }
        let rows = self.slots.iter().map(|(partition, slot)| (partition, slot.status.lock().clone()));
        metrics::partitions(&self.mirror.name, rows);
    }

    /// The follower's log starts go after the leader's: what is deleted there is deleted here.
    async fn follow_log_starts(&self) {
        let deletes = self.slots.iter().filter_map(|(partition, slot)| {
            let to = {
                let known = slot.status.lock();
                let to = known.leader_start.min(known.agreed);
                (known.phase == Phase::Copying && to > known.follower_start).then_some(to)?
            };
            Some(async move {
                match slot.follower.client.delete_records(&slot.follower.topic, partition.partition, to).await {
                    Ok(_) => slot.status.lock().follower_start = to,
                    // A compacted topic keeps its log start: nothing can be deleted from it, and nothing has to be.
                    Err(error) if error.code() == Some(kafka_protocol::ResponseError::PolicyViolation) => {
                        slot.status.lock().follower_start = to;
                    }
                    Err(error) => warn!(%partition, %error, "the follower's log start cannot go after the leader's"),
                }
            })
        });
        join_all(deletes).await;
    }

    /// Begins a pass over the groups, if it is time for one or somebody has asked for it. With `once` there is one, at the end.
    fn sync_groups(&mut self) {
        let is_due = self.next_groups <= Instant::now() || self.table.groups.has_orders();
        if is_due && !self.options.once && self.groups.is_empty() && self.plans.is_some() {
            self.begin_groups();
        }
    }

    fn begin_groups(&mut self) {
        self.next_groups = Instant::now() + self.mirror.groups_interval;
        let orders = self.table.groups.take_orders();
        if self.mirror.groups.is_empty() {
            self.table.groups.publish(&Arc::default(), orders);
        } else {
            self.groups.spawn(groups::pass(self.groups_work(), self.state.group_log(), orders));
        }
    }

    fn groups_work(&self) -> Work {
        let ready = self.plans.iter().flatten().filter(|plan| plan.error.is_none() && plan.action == Action::Nothing);
        let topics = ready.map(|plan| {
            let partitions = (0..plan.partitions).map(|partition| self.known(plan, partition)).collect();
            CopiedTopic { source: plan.topic.clone(), target: plan.target.clone(), partitions }
        });
        Work {
            mirror: self.mirror.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            topics: topics.collect(),
            states: self.state.groups().clone(),
        }
    }

    /// What is known of a partition, by this process or by what was kept of it: before a comparison, or while another process copies it.
    fn known(&self, plan: &TopicPlan, partition: i32) -> Known {
        let partition = TopicPartition::new(plan.topic.clone(), partition);
        let slot = self.slots.get(&partition).filter(|slot| slot.topic_ids == plan.topic_ids);
        let mut known = slot.map(|slot| slot.status.lock().clone()).unwrap_or_default();
        if let Some(kept) = self.state.partition(&partition)
            && kept.topic_ids == plan.topic_ids
            && !self.accepted(&partition)
        {
            known.agreed = known.agreed.max(kept.agreed);
        }
        known
    }

    fn groups_passed(&mut self, mut passed: Passed) {
        self.state.groups_changed(passed.changes);
        let before = self.table.groups.report();
        if passed.report.error.is_some() && passed.report.offsets.is_empty() {
            passed.report.offsets.clone_from(&before.offsets);
        }
        metrics::groups(&self.mirror.name, &before, &passed.report);
        self.table.groups.publish(&Arc::new(passed.report), passed.orders);
    }

    /// With `once`: the groups' offsets, now that the records before them are there. Says which are not written, and why.
    async fn sync_groups_once(&mut self) -> Vec<(String, String)> {
        if !self.options.once {
            return Vec::new();
        }
        self.begin_groups();
        while let Some(passed) = self.groups.join_next().await {
            self.groups_passed(passed.expect("a pass over the groups does not panic"));
        }
        self.table.groups.report().left()
    }

    /// Keeps what has changed.
    async fn save(&mut self) -> Result<(), StateError> {
        let mut states = Vec::new();
        for (partition, slot) in &self.slots {
            let mut known = slot.status.lock();
            // While it is filled up or looked at nothing is agreed yet.
            if !std::mem::take(&mut known.unsaved) || matches!(known.phase, Phase::Waiting | Phase::Comparing) && known.skipped.is_empty() {
                continue;
            }
            let kept = self.state.partition(partition);
            let state = PartitionState {
                mode: self.mirror.offsets.name().to_owned(),
                phase: known.phase,
                reason: known.reason.clone(),
                leader: slot.leader.to_string(),
                term: slot.term,
                term_start: slot.term_start,
                topic_ids: slot.topic_ids.clone(),
                agreed: known.agreed.max(kept.map_or(0, |kept| if self.accepted(partition) { 0 } else { kept.agreed })),
                skipped: known.skipped.clone(),
            };
            if kept != Some(&state) {
                states.push((partition.clone(), state));
            }
        }
        let statuses: Vec<_> =
            states.iter().filter_map(|(partition, _)| self.slots.get(partition)).map(|slot| slot.status.clone()).collect();
        let saved = self.state.save(states).await;
        if saved.is_err() {
            for status in statuses {
                status.lock().unsaved = true;
            }
        }
        saved
    }

    /// With `once`: whether every partition has come to the end that its leader had, or will not.
    fn is_done(&self) -> bool {
        let done = |slot: &Slot| {
            let known = slot.status.lock();
            matches!(known.phase, Phase::Failed | Phase::Diverged) || known.goal.is_some_and(|goal| known.agreed >= goal)
        };
        self.complete && self.slots.values().all(done)
    }

    async fn end(mut self) -> Outcome {
        self.lanes_stop.cancel();
        self.looks.shutdown().await;
        while self.lanes_running.join_next().await.is_some() {}
        if let Err(error) = self.save().await {
            warn!(mirror = &*self.mirror.name, %error, "the next start compares more than it would have to");
        }
        let mut outcome = Outcome::default();
        for (partition, slot) in &self.slots {
            let known = slot.status.lock();
            match &known.reason {
                Some(reason) if known.phase != Phase::Copying && known.phase != Phase::Waiting => {
                    outcome.left.push((partition.clone(), reason.clone()));
                }
                _ => outcome.copied += 1,
            }
        }
        outcome.left.extend(self.refused.iter().map(|(topic, reason)| (TopicPartition::new(topic.clone(), -1), reason.clone())));
        outcome.left.sort_by(|one, other| one.0.cmp(&other.0));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_rests_longer_each_time_and_never_too_long() {
        for failures in 1..40 {
            let (least, most) = (backoff(failures, 0), backoff(failures, 999));
            assert!(least >= BACKOFF.0 && least < most && most <= BACKOFF.1, "{least:?} to {most:?}");
            assert!(backoff(failures + 1, 0) >= least);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_spreads_bytes_over_the_time() {
        let (bound, unbound) = (Rate::new(Some(1_000)), Rate::new(None));
        let began = Instant::now();
        assert_eq!(unbound.after(1 << 30), began);
        assert_eq!(bound.after(500), began + Duration::from_millis(500));
        assert_eq!(bound.after(1_000), began + Duration::from_millis(1_500));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(bound.after(1_000), Instant::now() + Duration::from_secs(1));
    }
}
