//! A mirror at work: which partitions there are, who of them is looked at, on which lane it is copied, and what happens when it comes back.
//!
//! Every few seconds a *pass* looks at both clusters' topics: new ones are created, grown ones grow, and each partition that is new becomes a
//! [`Job`]. A job is looked at ([`crate::settle`]), copied on the lane of its two brokers ([`crate::replicate`]), and when it comes back,
//! its reason says what is next: another look, `on_error`, or nothing before somebody mends it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::config::{Mirror, Offsets};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::tell;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::groups::{self, Board, CopiedTopic, Work};
use crate::job::{Caution, Job, Known, Leave, Phase, Refusal, Side, Status};
use crate::on_error::{self, Verdict};
use crate::pass::{LogStart, Pass, Passed, is_accepted, sides};
use crate::replicate::{Lane, Settled};
use crate::settle::{self, settle};
use crate::shards::{Change, HANDED_OVER, Handover, Member, Owned, Shard};
use crate::state::{self, PartitionState, State, StateError};
use crate::topics::{Action, Cluster, TopicPlan};
use crate::{messages, metrics};

/// Between two passes.
const PASS: Duration = Duration::from_secs(5);
/// Between two looks at the time: retries, the state that is to be kept, metrics.
const TICK: Duration = Duration::from_secs(1);
/// Looks at partitions of one pair of brokers at a time: those of a broker that hangs do not take the others' turns. And of all.
const LOOKS: (usize, usize) = (8, 64);
/// After which a partition that failed is tried again: somebody may have mended it.
const FAILED: Duration = Duration::from_mins(1);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// Of records, on all lanes together.
const MEMORY: usize = 256 << 20;
/// What was kept last is written at the end for so long; without it the next start compares more.
const LAST_SAVE: Duration = Duration::from_secs(10);
/// A process that is no member of the group for so long is not ready.
const NO_MEMBER: Duration = Duration::from_mins(1);

/// How much of a lane's memory is used for what.
pub struct Limits {
    /// Bytes of a Fetch answer, and of what waits to be produced before the next one is asked for.
    pub fetch_bytes: usize,
    /// The same of one partition.
    pub partition_bytes: usize,
    /// Bytes of a Produce request.
    pub produce_bytes: usize,
    /// Bytes that all lanes together hold: fetched, waiting and in flight.
    pub memory: usize,
    /// How many lanes there are.
    pub lanes: AtomicUsize,
    /// `max_bytes_per_second`.
    pub rate: Rate,
}

impl Limits {
    /// Bytes that one lane may hold. It has its share for itself: what a broker that hangs does not take is no other lane's.
    pub fn share(&self) -> usize {
        self.memory / self.lanes.load(Ordering::Relaxed).max(1)
    }
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

/// All partitions and groups of a mirror that are this process's, for everybody to see.
#[derive(Default)]
pub struct Table {
    rows: Mutex<BTreeMap<TopicPartition, Arc<Status>>>,
    ready: AtomicBool,
    /// Offsets of groups.
    pub groups: Board,
}

impl Table {
    /// What is known of each.
    pub fn rows(&self) -> Vec<(TopicPartition, Known)> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().map(|(partition, status)| (partition.clone(), status.lock().clone())).collect()
    }

    /// What a partition is doing; `None` is not one of this process.
    pub fn phase(&self, partition: &TopicPartition) -> Option<Phase> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get(partition).map(|status| status.lock().phase)
    }

    /// Whether the process is a member of the mirror's group, and each of its partitions was looked at. Short interruptions do not change it.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<TopicPartition, Arc<Status>>)) {
        change(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner));
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

/// A mirror at work. What waits for a broker is in one of its tasks; the loop never waits for anything but for one of them to say something.
pub struct Run {
    mirror: Arc<Mirror>,
    options: Options,
    source: Client,
    target: Client,
    state: State,
    table: Arc<Table>,
    limits: Arc<Limits>,
    /// Of the group of the mirror's processes; with `--once` there is none.
    member: Option<Member>,
    /// When it was one last.
    member_at: Instant,
    /// The shards whose state was read.
    owned: Owned,
    /// Shards that were gained, while their state is read.
    reading: JoinSet<(Arc<Shard>, Result<(), StateError>)>,
    /// Shards that are over wait for this, until then.
    handover: Option<(Handover, Instant)>,
    /// Both clusters, while no pass has them, and the topics of the last one, once there was one.
    clusters: Option<(Cluster, Cluster)>,
    plans: Option<Vec<TopicPlan>>,
    /// Partitions that `--accept` names, once what was kept of them is forgotten.
    forgotten: HashSet<TopicPartition>,
    passing: JoinSet<Result<Passed, StateError>>,
    /// The pass over the groups, while there is one.
    groups: JoinSet<groups::Passed>,
    next_groups: Instant,
    slots: HashMap<TopicPartition, Slot>,
    looks: JoinSet<Result<(Settled, LaneKey), (Job, Leave)>>,
    turns: Arc<Turns>,
    lanes: HashMap<LaneKey, mpsc::UnboundedSender<Settled>>,
    lanes_stop: CancellationToken,
    lanes_running: JoinSet<()>,
    /// What lanes give back: at most as many as there are partitions.
    back: mpsc::UnboundedReceiver<(Job, Leave)>,
    to_back: mpsc::UnboundedSender<(Job, Leave)>,
    /// Records that are being left out.
    refusals: JoinSet<(Job, Result<(), String>)>,
    saving: JoinSet<Result<(), StateError>>,
    save_at: Instant,
    /// The last pass found nothing left to create.
    complete: bool,
    /// Topics that cannot be copied at all, and why.
    refused: BTreeMap<Arc<str>, String>,
}

/// The leading cluster and its broker, the following broker.
type LaneKey = (Arc<str>, i32, i32);

/// Whose turn it is to look.
struct Turns {
    all: Arc<Semaphore>,
    pairs: Mutex<HashMap<LaneKey, Arc<Semaphore>>>,
}

impl Turns {
    fn of(&self, pair: &LaneKey) -> Arc<Semaphore> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.entry(pair.clone()).or_insert_with(|| Arc::new(Semaphore::new(LOOKS.0))).clone()
    }
}

/// A partition's place.
struct Slot {
    status: Arc<Status>,
    shard: Arc<Shard>,
    term: i32,
    term_start: i64,
    topic_ids: BTreeMap<String, String>,
    leader: Arc<str>,
    follower: Side,
    /// It is to be compared from the beginning: `--accept`.
    from_start: bool,
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
    /// Connects to the target, reads the mirror's state there, and joins the group of its processes. With `--once` it works on all shards alone.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn begin(mirror: Arc<Mirror>, options: Options, table: Arc<Table>) -> Result<Self, StateError> {
        let client = |cluster: &Arc<_>| Client::new(Arc::clone(cluster), connect_options(&mirror.name));
        let (source, target) = (client(&mirror.source), client(&mirror.target));
        let state = State::open(target.clone(), &mirror, true).await?.expect("it is created where it is missing");
        let rate = mirror.max_bytes_per_second.map(std::num::NonZeroU64::get);
        let limits = Limits {
            // What a second allows comes in that second, not all that there is room for and then nothing for long.
            fetch_bytes: rate.map_or(4 << 20, |rate| (4 << 20).min(rate as usize)),
            partition_bytes: 1 << 20,
            produce_bytes: 4 << 20,
            memory: MEMORY,
            lanes: AtomicUsize::new(0),
            rate: Rate::new(rate),
        };
        let (member, owned) = if options.once {
            (None, Owned::all(state.clone()))
        } else {
            (Some(Member::join(&mirror.name, mirror.target.clone(), state::topic(&mirror.name))), Owned::none(state.clone()))
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
            member,
            member_at: Instant::now(),
            owned,
            reading: JoinSet::new(),
            handover: None,
            clusters: None,
            plans: None,
            forgotten: HashSet::new(),
            passing: JoinSet::new(),
            groups: JoinSet::new(),
            next_groups: Instant::now(),
            slots: HashMap::new(),
            looks: JoinSet::new(),
            turns: Arc::new(Turns { all: Arc::new(Semaphore::new(LOOKS.1)), pairs: Mutex::default() }),
            lanes: HashMap::new(),
            lanes_stop: CancellationToken::new(),
            lanes_running: JoinSet::new(),
            back,
            to_back,
            refusals: JoinSet::new(),
            saving: JoinSet::new(),
            save_at: Instant::now() + PASS,
            complete: false,
            refused: BTreeMap::new(),
        })
    }

    /// Copies until `stop`, or with `once` until the present end.
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
        let mut next_pass = Instant::now();
        let mut failures = 0;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(stop.is_cancelled() || self.options.once && self.is_done()) {
            tokio::select! {
                () = stop.cancelled() => {}
                change = next_change(&mut self.member) => self.changed(change),
                Some(read) = self.reading.join_next() => self.read(read.expect("a read does not panic")),
                Some((job, leave)) = self.back.recv() => self.came_back(job, leave),
                Some(look) = self.looks.join_next() => match look.expect("a look does not panic") {
                    Ok((settled, lane)) => self.give_to_lane(settled, &lane),
                    Err((job, leave)) => self.came_back(job, leave),
                },
                Some(refused) = self.refusals.join_next() => {
                    let (job, result) = refused.expect("it does not panic");
                    self.left_out(job, result);
                }
                Some(_) = self.lanes_running.join_next() => {
                    self.lanes.retain(|_, lane| !lane.is_closed());
                    self.limits.lanes.store(self.lanes_running.len(), Ordering::Relaxed);
                }
                Some(passed) = self.passing.join_next() => {
                    let passed = passed.expect("a pass does not panic");
                    failures = if passed.is_ok() { 0 } else { failures + 1 };
                    self.passed(passed);
                    // What was just created is known to the brokers in a moment.
                    next_pass = Instant::now() + if failures == 0 && !self.complete { TICK } else { PASS * 2_u32.pow(failures.min(3)) };
                }
                Some(saved) = self.saving.join_next() => self.saved(&saved.expect("a save does not panic")),
                () = sleep_until(next_pass), if self.passing.is_empty() => self.pass(),
                Some(passed) = self.groups.join_next() => {
                    // One that was under way when shards went to another process is given up.
                    match passed {
                        Ok(passed) => self.groups_passed(passed),
                        Err(error) => assert!(error.is_cancelled(), "a pass over the groups does not panic"),
                    }
                    self.sync_groups();
                }
                () = self.table.groups.ordered() => self.sync_groups(),
                _ = tick.tick() => {
                    self.tick();
                    self.sync_groups();
                }
            }
            self.hand_over();
        }
        let groups_left = tokio::select! {
            left = self.sync_groups_once() => left,
            () = stop.cancelled() => Vec::new(),
        };
        Outcome { groups_left, ..self.end().await }
    }

    /// What the group of the mirror's processes does with the shards.
    fn changed(&mut self, change: Change) {
        match change {
            Change::Gained(shards) => shards.into_iter().for_each(|shard| self.read_state(shard, Duration::ZERO)),
            Change::Revoked(handover) => self.handover = Some((handover, Instant::now() + HANDED_OVER)),
            Change::Lost => self.drop_over(),
        }
    }

    /// What the process before has kept of a shard is known before anything of it is looked at.
    fn read_state(&mut self, shard: Arc<Shard>, pause: Duration) {
        let state = self.state.clone();
        self.reading.spawn(async move {
            tokio::time::sleep(pause).await;
            let read = state.refresh_shard(shard.number()).await;
            (shard, read)
        });
    }

    fn read(&mut self, (shard, read): (Arc<Shard>, Result<(), StateError>)) {
        match read {
            _ if shard.is_over() => {}
            Ok(()) => {
                self.owned.add(shard);
                self.take_in_all();
            }
            Err(error) => {
                tell!(messages::STATE_UNREAD, mirror = &*self.mirror.name, shard = shard.number(), %error);
                self.read_state(shard, TICK);
            }
        }
    }

    /// Lets shards go that are over, once nothing of them is under way any more and what is known of them is kept.
    fn hand_over(&mut self) {
        let Some((_, until)) = &self.handover else { return };
        self.groups.abort_all();
        let resting = self.slots.values().all(|slot| slot.rest.is_some() || !slot.shard.is_over());
        if !(resting && self.saving.is_empty()) && Instant::now() < *until {
            return;
        }
        let kept = self.keep(Shard::may_be_left);
        self.drop_over();
        if let Some((handover, until)) = self.handover.take() {
            self.saving.spawn(async move {
                let kept = timeout_at(until, kept).await;
                drop(handover);
                kept.unwrap_or(Ok(()))
            });
        }
    }

    /// Forgets the partitions of shards that are over. What comes back of them later is nobody's.
    fn drop_over(&mut self) {
        self.owned.drop_over();
        let (table, mirror) = (&self.table, &self.mirror.name);
        self.slots.retain(|partition, slot| {
            let over = slot.shard.is_over();
            if over {
                metrics::given_up(mirror, partition);
                table.change(|rows| drop(rows.remove(partition)));
            }
            !over
        });
    }

    /// One look at both clusters' topics.
    fn pass(&mut self) {
        let log_starts = self.slots.iter().filter_map(|(partition, slot)| {
            let known = slot.status.lock();
            let to = known.leader_start.min(known.agreed);
            // Where offsets are translated the log is not the mirror's alone.
            let goes = known.phase == Phase::Copying && !known.map.translates() && to > known.follower_start;
            goes.then(|| LogStart { partition: partition.clone(), follower: slot.follower.clone(), to, status: slot.status.clone() })
        });
        let pass = Pass {
            mirror: self.mirror.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            state: self.state.clone(),
            table: self.table.clone(),
            owned: self.owned.clone(),
            accept: self.options.accept.clone(),
            forgotten: self.forgotten.clone(),
            clusters: self.clusters.take(),
            log_starts: log_starts.collect(),
        };
        self.passing.spawn(pass.run());
    }

    fn passed(&mut self, passed: Result<Passed, StateError>) {
        metrics::passed(&self.mirror.name, passed.as_ref().err().map(|error| error as _));
        let Ok(passed) = passed else { return };
        self.clusters = Some(passed.clusters);
        self.complete = passed.complete;
        self.plans = Some(passed.plans);
        self.forgotten.extend(passed.forgotten);
        let refused: BTreeMap<_, _> = passed.refused.into_iter().collect();
        for (topic, reason) in &refused {
            // It is said once, and tried again with each pass.
            if self.refused.get(topic) != Some(reason) {
                tell!(messages::TOPIC_REFUSED, mirror = &*self.mirror.name, topic = &**topic, reason);
            }
        }
        self.refused = refused;
        self.take_in_all();
        self.drop_deleted();
    }

    fn take_in_all(&mut self) {
        let Some(plans) = self.plans.take() else { return };
        for plan in plans.iter().filter(|plan| plan.error.is_none() && plan.action == Action::Nothing) {
            self.take_in(plan);
        }
        self.plans = Some(plans);
    }

    /// Partitions that are new, and those whose leader has changed.
    fn take_in(&mut self, plan: &TopicPlan) {
        for partition in 0..plan.partitions {
            let partition = TopicPartition::new(plan.topic.clone(), partition);
            let Some(shard) = self.owned.of(&partition).cloned() else { continue };
            if is_accepted(&self.options.accept, &partition) && !self.forgotten.contains(&partition) {
                continue;
            }
            if let Some(slot) = self.slots.get_mut(&partition) {
                if slot.term != plan.term || slot.topic_ids != plan.topic_ids {
                    // Its lane gives it back; it is kept how far it is, and a pass after that takes it in anew.
                    if !slot.stale {
                        slot.stale = true;
                        self.lanes_stop.cancel();
                    }
                    let unsaved = {
                        let known = slot.status.lock();
                        known.unsaved && known.agreed > 0
                    };
                    if slot.rest.is_some() && !unsaved {
                        self.slots.remove(&partition);
                    }
                    self.save_at = Instant::now();
                    self.complete = false;
                }
                continue;
            }
            let kept = self.state.partition(&partition);
            let status = Arc::new(Status::default());
            if let Some(kept) = &kept
                && kept.phase == Phase::Diverged
            {
                tell!(messages::DIVERGED_BEFORE, mirror = &*self.mirror.name, %partition, reason = kept.reason);
                let mut known = status.lock();
                (known.phase, known.reason) = (Phase::Diverged, kept.reason.clone());
            }
            let term_start = {
                let mut known = status.lock();
                known.direction = plan.direction(&self.mirror);
                known.map = self.state.map(&partition, self.mirror.offsets);
                known.skipped = kept.as_ref().map_or_else(Vec::new, |kept| kept.skipped.clone());
                kept.map_or(0, |kept| {
                    if kept.term == plan.term { kept.term_start } else { kept.agreed(&plan.leader, &known.map, known.direction) }
                })
            };
            let (leader, follower) = sides(&self.mirror, &self.source, &self.target, plan);
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
                shard: shard.clone(),
                state: self.state.clone(),
                caution: Caution::default(),
            };
            let diverged = status.lock().phase == Phase::Diverged;
            let slot = Slot {
                status: status.clone(),
                shard,
                term: plan.term,
                term_start,
                topic_ids: plan.topic_ids.clone(),
                leader: plan.leader.clone(),
                follower,
                from_start: is_accepted(&self.options.accept, &partition),
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

    /// Topics that are gone from the source, or that the file selects no more.
    fn drop_deleted(&mut self) {
        let plans = self.plans.as_deref().unwrap_or_default();
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
        let state = self.state.partition(partition);
        let Some(slot) = self.slots.get_mut(partition) else { return };
        let Some((job, _)) = slot.rest.take_if(|(_, at)| !slot.stale && at.is_some_and(|at| at <= Instant::now())) else { return };
        let known = settle::Known {
            state,
            topic_ids: slot.topic_ids.clone(),
            max_padding: self.mirror.max_padding,
            on_error: self.mirror.on_error,
            coalesce: self.options.coalesce,
            offsets: self.mirror.offsets,
            from_start: slot.from_start,
        };
        let turns = self.turns.clone();
        self.looks.spawn(async move {
            let pair = match lane_of(&job).await {
                Ok(pair) => turns.of(&pair),
                Err(leave) => return Err((job, leave)),
            };
            let _turn = (pair.acquire().await, turns.all.acquire().await);
            let settled = settle(job, known).await?;
            match lane_of(&settled.job).await {
                Ok(lane) => Ok((settled, lane)),
                Err(leave) => Err((settled.job, leave)),
            }
        });
    }

    /// Gives a partition to the lane of its two leaders.
    fn give_to_lane(&mut self, settled: Settled, key: &LaneKey) {
        // A look may have taken longer than the lanes took to stop, and the direction may have turned meanwhile.
        let stale = self.slots.get(&settled.job.topic_partition()).is_none_or(|slot| slot.stale);
        if stale || settled.job.shard.is_over() || self.lanes_stop.is_cancelled() {
            return self.came_back(settled.job, Leave::Cancelled);
        }
        if self.lanes.get(key).is_none_or(mpsc::UnboundedSender::is_closed) {
            let clients = (settled.job.leader.client.clone(), settled.job.follower.client.clone());
            let (lane, incoming) = mpsc::unbounded_channel();
            let (back, stop) = (self.to_back.clone(), self.lanes_stop.clone());
            self.lanes_running.spawn(Lane::run(clients, (key.1, key.2), self.limits.clone(), incoming, back, stop));
            self.limits.lanes.store(self.lanes_running.len(), Ordering::Relaxed);
            self.lanes.insert(key.clone(), lane);
        }
        if let Err(mpsc::error::SendError(settled)) = self.lanes[key].send(settled) {
            self.came_back(settled.job, Leave::Again("its lane has just ended".to_owned()));
        }
    }

    /// A partition that is not copied any more: why decides what is next.
    fn came_back(&mut self, job: Job, leave: Leave) {
        let partition = job.topic_partition();
        let Some(slot) = self.slots.get_mut(&partition).filter(|slot| Arc::ptr_eq(&slot.status, &job.status)) else { return };
        if slot.shard.is_over() {
            // It stays as it is until it was kept.
            slot.rest = Some((job, None));
            return;
        }
        let agreed = job.status.lock().agreed;
        slot.failures = if agreed > slot.failed_at { 1 } else { slot.failures + 1 };
        slot.failed_at = agreed;
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
                metrics::interrupted(&job, &reason, slot.failures);
                job.status.phase(Phase::Waiting, Some(reason));
                Some(now + backoff(slot.failures, RandomState::new().hash_one(0)))
            }
            Leave::Failed(reason) => {
                metrics::failed(&job, &reason);
                job.status.phase(Phase::Failed, Some(reason));
                Some(now + FAILED)
            }
            Leave::Diverged(reason) => {
                metrics::diverged(&job, &reason);
                job.status.phase(Phase::Diverged, Some(reason));
                self.save_at = now;
                None
            }
            Leave::Refused(refusal) => return self.refused(job, refusal),
        };
        slot.rest = Some((job, at));
        self.look(&partition);
    }

    /// Records that cannot be copied.
    fn refused(&mut self, mut job: Job, refusal: Refusal) {
        let end = refusal.offsets.end;
        match on_error::decide(self.mirror.on_error, &job, refusal) {
            Verdict::Single => {
                job.caution.single_until = end;
                self.left_out(job, Ok(()));
            }
            Verdict::Stay(reason) => self.left_out(job, Err(reason)),
            Verdict::LeaveOut(left_out) => {
                let partition = job.topic_partition();
                let Some(slot) = self.slots.get(&partition) else { return };
                let (state, kept) = (self.state.clone(), self.present(&partition, slot, &job.status.lock()));
                let replication_factor = self.mirror.replication_factor;
                self.refusals.spawn(async move {
                    let result = on_error::leave_out(&mut job, left_out, &state, kept, replication_factor).await;
                    (job, result)
                });
            }
        }
    }

    /// A partition with a refused record is looked at again, or stays where it is.
    fn left_out(&mut self, job: Job, result: Result<(), String>) {
        let partition = job.topic_partition();
        let Some(slot) = self.slots.get_mut(&partition).filter(|slot| Arc::ptr_eq(&slot.status, &job.status)) else { return };
        let mut at = Instant::now();
        if let Err(reason) = result {
            metrics::failed(&job, &reason);
            job.status.phase(Phase::Failed, Some(reason));
            at += FAILED;
        }
        slot.rest = Some((job, Some(at)));
        self.look(&partition);
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
        if Instant::now() >= self.save_at {
            self.save();
        }
        self.get_ready();
        let rows = self.slots.iter().map(|(partition, slot)| (partition, slot.status.lock().clone()));
        metrics::partitions(&self.mirror.name, rows);
        if let Some(member) = &self.member {
            metrics::lease(&self.mirror.name, member.lease.left());
        }
    }

    /// Begins a pass over the groups, if it is time for one or somebody has asked for it. With `once` there is one, at the end.
    fn sync_groups(&mut self) {
        let is_due = self.next_groups <= Instant::now() || self.table.groups.has_orders();
        // Whoever asks right after the start waits until the process may write.
        let may_write = self.member.as_ref().is_some_and(|member| member.lease.left() > Duration::ZERO)
            && self.reading.is_empty()
            && self.handover.is_none();
        if is_due && may_write && self.groups.is_empty() && self.plans.is_some() {
            self.begin_groups();
        }
    }

    fn begin_groups(&mut self) {
        self.next_groups = Instant::now() + self.mirror.groups_interval;
        let orders = self.table.groups.take_orders();
        if self.mirror.groups.is_empty() {
            self.table.groups.publish(&Arc::default(), orders);
        } else {
            self.groups.spawn(groups::pass(self.groups_work(), self.state.clone(), orders));
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
            states: self.state.groups(),
            owned: Some(self.owned.clone()),
        }
    }

    /// What is known of a partition, by this process or by what was kept of it: before a comparison, or while another process copies it.
    fn known(&self, plan: &TopicPlan, partition: i32) -> Arc<Known> {
        let partition = TopicPartition::new(plan.topic.clone(), partition);
        let kept = self.state.known(&self.mirror, &partition, plan);
        let slot = self.slots.get(&partition).filter(|slot| slot.topic_ids == plan.topic_ids);
        let live = slot.map(|slot| slot.status.lock().clone());
        Arc::new(live.filter(|live| live.agreed >= kept.agreed).unwrap_or(kept))
    }

    fn groups_passed(&self, mut passed: groups::Passed) {
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

    /// Ready is who has looked at all of its partitions once; what is gained or interrupted later does not change that.
    fn get_ready(&mut self) {
        let now = Instant::now();
        let is_member = self.member.as_ref().is_none_or(|member| member.joined.load(Ordering::Acquire));
        if is_member {
            self.member_at = now;
        }
        let waits = |slot: &Slot| matches!(slot.status.lock().phase, Phase::Waiting | Phase::Comparing | Phase::Padding);
        if is_member && self.complete && self.reading.is_empty() && !self.slots.values().any(waits) {
            self.table.ready.store(true, Ordering::Relaxed);
        } else if now > self.member_at + NO_MEMBER {
            self.table.ready.store(false, Ordering::Relaxed);
        }
    }

    /// Writes to the state's topic what has changed, one save after the other.
    fn save(&mut self) {
        if self.saving.is_empty() {
            self.save_at = Instant::now() + PASS;
            let kept = self.keep(Shard::may_write);
            self.saving.spawn(kept);
        }
    }

    fn saved(&self, saved: &Result<(), StateError>) {
        if let Err(error) = saved {
            tell!(messages::NOT_KEPT_YET, mirror = &*self.mirror.name, %error);
        }
    }

    /// Keeps what has changed of the partitions of some shards, as long as they stay so.
    fn keep(&self, may: fn(&Shard) -> bool) -> impl Future<Output = Result<(), StateError>> + Send + use<> {
        let (mut states, mut slots) = (Vec::new(), Vec::new());
        for (partition, slot) in self.slots.iter().filter(|(_, slot)| may(&slot.shard)) {
            let mut known = slot.status.lock();
            // While it is filled up or looked at for the first time nothing is agreed yet.
            let nothing = matches!(known.phase, Phase::Waiting | Phase::Comparing) && known.skipped.is_empty() && known.agreed == 0;
            if nothing || !std::mem::take(&mut known.unsaved) {
                continue;
            }
            known.forget_before_log_starts();
            let present = self.present(partition, slot, &known);
            if self.state.partition(partition).as_ref() != Some(&present) || known.map.segments() != self.state.segments(partition) {
                states.push((partition.clone(), present, slot.status.clone()));
                slots.push((slot.status.clone(), slot.shard.clone()));
            }
        }
        let state = self.state.clone();
        async move {
            let saved = state.save(states, || slots.iter().all(|(_, shard)| may(shard))).await;
            if saved.is_err() {
                for (status, _) in &slots {
                    status.lock().unsaved = true;
                }
            }
            saved
        }
    }

    /// What is to be kept of a partition.
    fn present(&self, partition: &TopicPartition, slot: &Slot, known: &Known) -> PartitionState {
        let kept = self.state.partition(partition);
        PartitionState {
            mode: if known.map.translates() { Offsets::Translate } else { Offsets::Preserve }.name().to_owned(),
            phase: known.phase,
            reason: known.reason.clone(),
            leader: slot.leader.to_string(),
            term: slot.term,
            term_start: slot.term_start,
            topic_ids: slot.topic_ids.clone(),
            agreed: known.agreed.max(kept.map_or(0, |kept| kept.agreed(&slot.leader, &known.map, known.direction))),
            skipped: known.skipped.clone(),
        }
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
        self.passing.shutdown().await;
        self.refusals.shutdown().await;
        self.groups.shutdown().await;
        while self.lanes_running.join_next().await.is_some() {}
        let last = self.keep(Shard::may_write);
        let saved = tokio::time::timeout(LAST_SAVE, async {
            while self.saving.join_next().await.is_some() {}
            last.await
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tell!(messages::NOT_KEPT, mirror = &*self.mirror.name, %error),
            Err(_) => {
                tell!(messages::NOT_KEPT_IN_TIME, mirror = &*self.mirror.name);
            }
        }
        if let Some(member) = self.member.take() {
            member.leave().await;
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

/// Never, for a process that is alone.
async fn next_change(member: &mut Option<Member>) -> Change {
    match member {
        Some(member) => member.changes.recv().await.expect("the member tells changes until it is dropped"),
        None => std::future::pending().await,
    }
}

/// Who leads a partition on both sides just now.
async fn lane_of(job: &Job) -> Result<LaneKey, Leave> {
    let (leader, follower) = (&job.leader, &job.follower);
    let partitions = (leader.partition(job.partition), follower.partition(job.partition));
    let ids = async { tokio::try_join!(leader.client.leader_id(&partitions.0), follower.client.leader_id(&partitions.1)) };
    tokio::select! {
        ids = ids => match ids {
            Ok(ids) => Ok((leader.cluster().clone(), ids.0, ids.1)),
            Err(error) => Err(Leave::Again(error.to_string())),
        },
        () = job.shard.over() => Err(Leave::Cancelled),
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

    #[test]
    fn lanes_share_the_memory() {
        let limits = Limits {
            fetch_bytes: 4 << 20,
            partition_bytes: 1 << 20,
            produce_bytes: 4 << 20,
            memory: MEMORY,
            lanes: AtomicUsize::new(0),
            rate: Rate::new(None),
        };
        assert_eq!(limits.share(), MEMORY);
        limits.lanes.store(100, Ordering::Relaxed);
        assert!(limits.share() * 100 <= MEMORY && limits.share() > limits.partition_bytes);
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
