//! A mirror at work: which partitions there are, who of them is looked at, on which lane it is copied, and what happens when it comes back.
//!
//! Every few seconds a *pass* looks at both clusters' topics: new ones are created, grown ones grow, and each partition that is new becomes a
//! `PartitionJob`. A job is looked at (`copy::settle`), copied on the lane of its two brokers (`copy::replicate`), and when it
//! is handed back, the reason says what is next: another look, `on_error`, or nothing before somebody mends it.
//!
//! ```text
//!                       due                    ready                  handed back
//!   pass ──► resting ────────► look (settle) ────────► lane (copies) ─────────────┐
//!              ▲  ▲                  │ handed back                                │
//!              │  └──────────────────┴────────────────────────────────────────────┤
//!              │     again: in 0.1 to 15 s    failed: in a minute                 │
//!              │     diverged: not by itself  stopped: taken in anew once kept    │
//!              └──────────────── on_error: one by one, or left out ◄─ refused ────┘
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the loop, and what each thing that happens sets going |
//! | `decisions` | what becomes of partitions: functions of what is known and what has happened |
//! | `entry` | a partition that the run has |
//! | `looks` | looks at both logs, of which only some run at a time |
//! | `lanes` | the lanes that run |
//! | `moves` | what the log of decisions says: who leads, and what is to be closed |
//! | `passes` | a pass over the topics, and the partitions that the run has by it |
//! | `turns` | topics that another cluster leads, and what a move closes |
//! | `saving` | the states of partitions are kept in the mirror's state |
//! | `events` | what is told of all this |

mod decisions;
mod entry;
mod events;
mod lanes;
mod looks;
pub(crate) mod moves;
mod passes;
mod saving;
mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kferry_config::{self as config, Mirror};
use kferry_wire::client::{Client, ClientError, TopicPartition, Topics};
use kferry_wire::tell;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

pub use self::decisions::is_stuck;
use self::decisions::{AfterHandback, End, FAILED, PASS, TICK, after_handback};
use self::entry::{PartitionEntry, Resting};
use self::lanes::{LaneKey, Lanes};
use self::looks::{Looks, Turned};
use self::moves::{Event, Moves, News};
use self::saving::save;
use crate::clients;
use crate::copy::events as copy_events;
use crate::copy::job::PartitionJob;
use crate::copy::limits::{Limits, MEMORY, Rate};
use crate::copy::on_error::{self, OnErrorDecision};
use crate::copy::replicate::ReadyPartition;
use crate::copy::settle::SettleContext;
use crate::groups::{self, CopiedTopic, GroupPassResult, Settled, Work};
use crate::messages;
use crate::named;
use crate::overview::Overview;
use crate::own_topics::state_topic;
use crate::partition::{Handback, NotCopied, Phase, Progress, Refusal, Shard, Status};
use crate::shards::{Change, HANDED_OVER, Handover, Member, Owned};
use crate::state::{State, StateError};
use crate::topics::born::Copies;
use crate::topics::pass::{TopicPassResult, is_accepted};
use crate::topics::{Action, Cluster, SettingChange, TopicPlan};
use crate::transactions::{self, Whose};

/// How often followers are asked where their logs begin.
const FOLLOWER_STARTS: Duration = Duration::from_mins(1);
/// How long the last save may take when the run ends; without it the next start compares more.
const LAST_SAVE: Duration = Duration::from_secs(10);
/// How long a mirror that begins waits for its source to say which Kafka cluster it is.
const IDENTIFY: Duration = Duration::from_secs(5);

/// How a mirror is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether to copy up to the leaders' ends as they are at the start, and then stop.
    pub once: bool,
    /// Topics and partitions (`orders`, `orders-3`) of which what was kept is forgotten: their logs are compared as a whole.
    pub accept: Vec<String>,
    /// Whether several small batches are put into one.
    pub coalesce: bool,
    /// All mirrors of the file, also those that another process runs: their topics may get in each other's way.
    pub mirrors: Arc<[Arc<Mirror>]>,
    /// The cluster with the log of decisions, where the file has one: who leads a topic says the log.
    pub state: Option<Arc<config::Cluster>>,
}

/// How a run has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The names of `--accept` that are none of the mirror's topics and partitions.
    pub not_accepted: BTreeSet<String>,
    /// How many partitions were being copied, or had reached their leader's end.
    pub copied: usize,
    /// The topics and partitions that were not copied, in order.
    pub left: Vec<NotCopied>,
    /// How many offsets of the leaders `on_error` left out, in this run or before, that the leaders still have.
    pub left_out: u64,
    /// The offsets of groups that were not written.
    pub groups_left: Vec<NotCopied>,
    /// The log of decisions must not be followed any more: it was told why.
    pub is_refused: bool,
}

/// A mirror at work. What waits for a broker is in one of its tasks; the loop never waits for anything but for one of them to say something.
pub struct Run {
    mirror: Arc<Mirror>,
    options: Options,
    source: Client,
    target: Client,
    state: State,
    overview: Arc<Overview>,
    shards: Shards,
    passes: TopicPasses,
    groups: GroupPasses,
    entries: HashMap<TopicPartition, PartitionEntry>,
    looks: Looks,
    /// Partitions that a flip has turned, and that this process has closed where the new term begins.
    turning: JoinSet<Vec<Turned>>,
    lanes: Lanes,
    transactions: Transactions,
    /// What the log of decisions says; `None` without `[state]`.
    moves: Option<Moves>,
    /// Refused records that are being left out, each with its partition.
    refusals: JoinSet<(PartitionJob, Result<(), String>)>,
    saving: Saving,
}

/// The shards of this process, and how it comes to them.
struct Shards {
    /// Of the group of the mirror's processes; with `--once` there is none.
    member: Option<Member>,
    /// When the process was last seen to be a member.
    member_at: Instant,
    /// The shards whose state was read.
    owned: Owned,
    /// Shards that were gained, while their state is read.
    reading: JoinSet<(Arc<Shard>, Result<(), StateError>)>,
    /// The group waits until this is dropped, at the latest then: shards that are over come to rest first.
    handover: Option<(Handover, Instant)>,
}

/// Passes over the topics of both clusters.
struct TopicPasses {
    running: JoinSet<Result<TopicPassResult, StateError>>,
    next: Instant,
    /// How many in a row have failed.
    failures: u32,
    /// Since when they have failed, and why the last one did.
    failing: Option<(Instant, String)>,
    /// Both clusters, while no pass has them.
    clusters: Option<(Cluster, Cluster)>,
    /// The topics of the last pass, once there was one.
    plans: Option<Arc<[TopicPlan]>>,
    /// The plans of topics that may move as they will be then, by the last pass.
    turned: HashMap<Arc<str>, TopicPlan>,
    /// Topics that only the target has, and that are copies.
    copies: Copies,
    /// The last pass found nothing left to create.
    complete: bool,
    /// Partitions that `--accept` names, once what was kept of them is forgotten.
    forgotten: HashSet<TopicPartition>,
    /// Topics that cannot be copied at all, and why.
    refused: BTreeMap<Arc<str>, String>,
    /// Topics whose settings on the follower cannot go after the leader's, and why.
    unset: BTreeMap<Arc<str>, String>,
    /// Changes of settings that a topic's brokers on the follower refuse: they are not tried again.
    unsettable: HashMap<Arc<str>, Vec<SettingChange>>,
    /// Of topics with a setting that has become stricter on the leader, and not yet on the follower: where the leader's logs ended when that was seen.
    stricter_from: HashMap<Arc<str>, BTreeMap<TopicPartition, i64>>,
    /// What was told of topics of which the follower keeps less than the leader.
    at_risk: BTreeMap<Arc<str>, Vec<String>>,
    /// Topics of which it was told that the follower has deleted what the leader still has.
    deleted: BTreeSet<Arc<str>>,
    /// When the followers are asked again where their logs begin.
    next_starts: Instant,
}

/// Passes over the groups, one at a time.
struct GroupPasses {
    running: JoinSet<GroupsDone>,
    next: Instant,
}

/// What was done for groups.
enum GroupsDone {
    /// A pass.
    Passed(GroupPassResult),
    /// The last offsets of groups that move.
    Settled(Settled),
}

/// What is asked about transactions that hold up partitions.
struct Transactions {
    /// Of each partition whose the transaction is that holds it up; one question of each cluster at a time.
    running: JoinSet<Vec<(HeldUp, Whose)>>,
    /// The partitions that had offsets that waited for a transaction at the last look.
    were_unstable: HashSet<TopicPartition>,
}

/// A partition that an open transaction holds up.
struct HeldUp {
    partition: TopicPartition,
    status: Arc<Status>,
    /// The leader's last stable offset.
    from: i64,
}

/// Saves of what is known of partitions, one at a time.
struct Saving {
    running: JoinSet<Result<(), StateError>>,
    next: Instant,
}

impl TopicPasses {
    /// What of the topics cannot be done, in order: all of it, if the clusters cannot be asked for too long.
    fn failed(&self, now: Instant) -> Vec<NotCopied> {
        let all = self.failing.as_ref().filter(|(since, _)| is_stuck(*since, now));
        let all = all.map(|(_, reason)| NotCopied { what: "all topics".to_owned(), reason: reason.clone() });
        let topics: BTreeMap<_, _> = self.unset.iter().chain(&self.refused).collect();
        let topics = topics.into_iter().map(|(topic, reason)| NotCopied { what: topic.to_string(), reason: reason.clone() });
        all.into_iter().chain(topics).collect()
    }
}

impl Run {
    /// Connects to the target, reads the mirror's state there, and joins the group of its processes, as `join` does: with the mirror's name, its
    /// target and the state's topic. With `--once` the process works on all shards alone.
    ///
    /// # Errors
    /// [`StateError`]: the target cannot be asked, the mirror's state not be created or read, or the file does not name the log of decisions that says where
    /// the mirror's topics lead. The group is not joined then.
    pub async fn begin(
        mirror: Arc<Mirror>,
        options: Options,
        overview: Arc<Overview>,
        join: impl FnOnce(&Arc<str>, Arc<config::Cluster>, String) -> Member,
    ) -> Result<Self, StateError> {
        let (source, target) = clients(&mirror);
        // Nothing is written where it is known that a cluster is not the one that is meant. A source that does not answer is looked at later.
        if let Err(error @ ClientError::WrongCluster(_)) = source.within(IDENTIFY).metadata(Topics::Named(&[])).await {
            return Err(error.into());
        }
        if let Some(error) = moves::another_log(&mirror, [&source, &target], options.state.as_deref()).await {
            return Err(error);
        }
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
            (Some(join(&mirror.name, mirror.target.clone(), state_topic(&mirror.name))), Owned::none(state.clone()))
        };
        let now = Instant::now();
        let moves = options.state.as_ref().map(|cluster| Moves::follow(mirror.clone(), cluster, state.clone(), options.once));
        Ok(Self {
            moves,
            mirror,
            options,
            source,
            target,
            state,
            overview,
            shards: Shards { member, member_at: now, owned, reading: JoinSet::new(), handover: None },
            passes: TopicPasses {
                running: JoinSet::new(),
                next: now,
                failures: 0,
                failing: None,
                clusters: None,
                plans: None,
                turned: HashMap::new(),
                copies: Copies::new(),
                complete: false,
                forgotten: HashSet::new(),
                refused: BTreeMap::new(),
                unset: BTreeMap::new(),
                unsettable: HashMap::new(),
                stricter_from: HashMap::new(),
                at_risk: BTreeMap::new(),
                deleted: BTreeSet::new(),
                next_starts: now + FOLLOWER_STARTS,
            },
            groups: GroupPasses { running: JoinSet::new(), next: now },
            entries: HashMap::new(),
            looks: Looks::new(),
            turning: JoinSet::new(),
            lanes: Lanes::new(limits),
            transactions: Transactions { running: JoinSet::new(), were_unstable: HashSet::new() },
            refusals: JoinSet::new(),
            saving: Saving { running: JoinSet::new(), next: now + PASS },
        })
    }

    /// Copies until `stop`, or with `once` until the present end.
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_refused = false;
        while !(stop.is_cancelled() || self.options.once && self.is_done()) {
            tokio::select! {
                () = stop.cancelled() => {}
                change = next_change(&mut self.shards.member) => self.changed(change, Instant::now()),
                Some(read) = self.shards.reading.join_next() => self.read(read.expect("a read does not panic"), Instant::now()),
                (job, handback) = self.lanes.next() => self.handed_back(job, handback, Instant::now()),
                Some(looked) = self.looks.next() => match looked {
                    Ok((ready, lane)) => self.give_to_lane(ready, &lane, Instant::now()),
                    Err((job, handback)) => self.handed_back(job, handback, Instant::now()),
                },
                Some(turned) = self.turning.join_next() => {
                    for turned in turned.expect("the beginning of a term does not panic") {
                        match turned {
                            Ok((ready, lane)) => self.give_to_lane(ready, &lane, Instant::now()),
                            Err(job) => self.left_out(job, Ok(()), Instant::now()),
                        }
                    }
                }
                Some(refused) = self.refusals.join_next() => {
                    let (job, result) = refused.expect("it does not panic");
                    self.left_out(job, result, Instant::now());
                }
                Some(passed) = self.passes.running.join_next() => self.passed(passed.expect("a pass does not panic"), Instant::now()),
                Some(known) = self.transactions.running.join_next() => self.held_up(known.expect("a question does not panic")),
                Some(saved) = self.saving.running.join_next() => self.saved(&saved.expect("a save does not panic")),
                () = sleep_until(self.passes.next), if self.passes.running.is_empty() && self.knows_leaders() => self.pass(Instant::now()),
                event = next_event(&mut self.moves) => match event {
                    Event::Measured(found) => self.measured(found, Instant::now()),
                    Event::Update(update) => {
                        let news = self.moves.as_mut().map_or(News::Nothing, |moves| moves.take_in(update));
                        if news == News::Over {
                            is_refused = true;
                            break;
                        }
                        self.decided(news, Instant::now());
                    }
                },
                () = sleep(moves::LOOK), if self.moves.as_ref().is_some_and(Moves::is_closing) => self.close(Instant::now()),
                Some(passed) = self.groups.running.join_next() => {
                    // One that was under way when shards went to another process is given up.
                    match passed {
                        Ok(GroupsDone::Passed(passed)) => self.groups_passed(passed),
                        Ok(GroupsDone::Settled(settled)) => self.groups_settled(settled, Instant::now()),
                        Err(error) => assert!(error.is_cancelled(), "a pass over the groups does not panic"),
                    }
                    self.sync_groups(Instant::now());
                }
                () = self.overview.groups.ordered() => self.sync_groups(Instant::now()),
                _ = tick.tick() => {
                    let now = Instant::now();
                    self.tick(now);
                    self.sync_groups(now);
                }
            }
            self.hand_over(Instant::now());
        }
        let groups_left = tokio::select! {
            left = self.sync_groups_once(), if !is_refused => left,
            () = stop.cancelled(), if !is_refused => Vec::new(),
            else => Vec::new(),
        };
        Outcome { groups_left, is_refused, ..self.end().await }
    }

    /// What the group of the mirror's processes does with the shards.
    fn changed(&mut self, change: Change, now: Instant) {
        match change {
            Change::Gained(shards) => shards.into_iter().for_each(|shard| self.read_state(shard, Duration::ZERO)),
            Change::Revoked(handover) => {
                self.shards.handover = Some((handover, now + HANDED_OVER));
                self.lanes.wake();
            }
            Change::Lost => {
                self.lanes.wake();
                self.drop_over();
            }
        }
    }

    /// What the process before has kept of a shard is known before anything of it is looked at.
    fn read_state(&mut self, shard: Arc<Shard>, pause: Duration) {
        let state = self.state.clone();
        let heard = self.moves.as_ref().map(Moves::heard);
        self.shards.reading.spawn(async move {
            sleep(pause).await;
            let read = state.refresh_shard(shard.number()).await;
            // What was decided until now is known before anything of it is looked at, too.
            if let Some(mut heard) = heard {
                let before = *heard.borrow_and_update();
                let _ = heard.wait_for(|heard| *heard >= before + 2).await;
            }
            (shard, read)
        });
    }

    fn read(&mut self, (shard, read): (Arc<Shard>, Result<(), StateError>), now: Instant) {
        match read {
            _ if shard.is_over() => {}
            Ok(()) => {
                self.shards.owned.add(shard);
                self.take_in_all(now);
            }
            Err(error) => {
                tell!(messages::STATE_UNREAD, mirror = &*self.mirror.name, shard = shard.number(), %error);
                self.read_state(shard, TICK);
            }
        }
    }

    /// Lets shards go that are over, once nothing of them is under way any more and what is known of them is kept.
    fn hand_over(&mut self, now: Instant) {
        let Some((_, until)) = &self.shards.handover else { return };
        self.groups.running.abort_all();
        let resting = self.entries.values().all(|entry| entry.rest.is_some() || !entry.shard.is_over());
        if !(resting && self.saving.running.is_empty()) && now < *until {
            return;
        }
        let kept = save(&self.entries, &self.state, Shard::may_be_left);
        self.drop_over();
        if let Some((handover, until)) = self.shards.handover.take() {
            self.saving.running.spawn(async move {
                let kept = timeout_at(until, kept).await;
                drop(handover);
                kept.unwrap_or(Ok(()))
            });
        }
    }

    /// Forgets the partitions of shards that are over. Jobs of them that come back later are dropped.
    fn drop_over(&mut self) {
        self.shards.owned.drop_over();
        let (overview, mirror) = (&self.overview, &self.mirror.name);
        self.entries.retain(|partition, entry| {
            let over = entry.shard.is_over();
            if over {
                events::given_up(mirror, partition);
                overview.change(|rows| drop(rows.remove(partition)));
            }
            !over
        });
    }

    /// Sends a partition that rests to be looked at, if its time has come.
    fn look(&mut self, partition: &TopicPartition, now: Instant) {
        let Some(entry) = self.entries.get_mut(partition) else { return };
        let Some(job) = entry.take_due(now) else { return };
        let context = SettleContext {
            state: self.state.partition(partition),
            topic_ids: entry.topic_ids.clone(),
            max_padding: self.mirror.max_padding,
            on_error: self.mirror.on_error,
            on_lost: self.mirror.on_lost,
            coalesce: self.options.coalesce,
            offsets: self.mirror.offsets,
            from_start: entry.from_start,
        };
        self.looks.begin(job, context);
    }

    fn give_to_lane(&mut self, ready: ReadyPartition, lane: &LaneKey, now: Instant) {
        // It may have been stopped in the last moment of its look.
        if ready.job.stop.is_cancelled() {
            return self.handed_back(ready.job, Handback::Cancelled, now);
        }
        self.lanes.give(ready, lane);
    }

    /// A partition that is not copied any more: why decides what is next.
    fn handed_back(&mut self, job: PartitionJob, handback: Handback, now: Instant) {
        let partition = job.topic_partition();
        let Some(entry) = self.entries.get_mut(&partition).filter(|entry| Arc::ptr_eq(&entry.status, &job.status)) else { return };
        if entry.shard.is_over() {
            // It stays as it is until it was kept.
            entry.rest = Some(Resting { job, again: None });
            return;
        }
        let agreed = job.status.lock().agreed;
        match after_handback(handback, entry.failures, agreed, now, RandomState::new().hash_one(0)) {
            AfterHandback::Refused { refusal, failures } => {
                entry.failures = failures;
                self.refused(job, refusal, now);
            }
            AfterHandback::Rest { phase, reason, failures, again, interrupted } => {
                entry.failures = failures;
                copy_events::handed_back(&job, phase, reason.as_deref(), interrupted.then_some(failures.count));
                if interrupted {
                    // Whoever led it may not do so any more. That a partition was only taken back says nothing of it.
                    job.leader.client.forget_leader(&job.leader.partition(job.partition));
                    job.follower.client.forget_leader(&job.follower.partition(job.partition));
                }
                if phase == Phase::Diverged {
                    self.saving.next = now;
                }
                job.status.phase(phase, reason);
                entry.rest = Some(Resting { job, again });
                self.look(&partition, now);
            }
        }
    }

    /// Records that cannot be copied.
    fn refused(&mut self, mut job: PartitionJob, refusal: Refusal, now: Instant) {
        let end = refusal.offsets.end;
        match on_error::decide(self.mirror.on_error, &job, refusal) {
            OnErrorDecision::Single => {
                job.caution.single_until = end;
                self.left_out(job, Ok(()), now);
            }
            OnErrorDecision::Stay(reason) => self.left_out(job, Err(reason), now),
            OnErrorDecision::LeaveOut(left_out) => {
                let partition = job.topic_partition();
                let Some(entry) = self.entries.get(&partition) else { return };
                let (state, kept) = (self.state.clone(), entry.to_keep(&partition, &job.status.lock(), &self.state));
                let replication_factor = self.mirror.replication_factor;
                self.refusals.spawn(async move {
                    let result = on_error::leave_out(&mut job, left_out, &state, kept, replication_factor).await;
                    (job, result)
                });
            }
        }
    }

    /// A partition with a refused record is looked at again, or stays where it is.
    fn left_out(&mut self, job: PartitionJob, result: Result<(), String>, now: Instant) {
        let partition = job.topic_partition();
        let Some(entry) = self.entries.get_mut(&partition).filter(|entry| Arc::ptr_eq(&entry.status, &job.status)) else { return };
        let mut again = now;
        if let Err(reason) = result {
            copy_events::handed_back(&job, Phase::Failed, Some(&reason), None);
            job.status.phase(Phase::Failed, Some(reason));
            again += FAILED;
        }
        entry.rest = Some(Resting { job, again: Some(again) });
        self.look(&partition, now);
    }

    /// Retries whose time has come, saves, and what everybody may see.
    fn tick(&mut self, now: Instant) {
        let resting = self.entries.iter().filter(|(_, entry)| entry.rest.is_some()).map(|(partition, _)| partition.clone());
        for partition in resting.collect::<Vec<_>>() {
            self.look(&partition, now);
        }
        if now >= self.saving.next && self.saving.running.is_empty() {
            self.saving.next = now + PASS;
            self.saving.running.spawn(save(&self.entries, &self.state, Shard::may_write));
        }
        self.get_ready(now);
        self.ask_whose(now);
        let rows = self.entries.iter().map(|(partition, entry)| (partition, entry.status.lock().clone()));
        events::partitions(&self.mirror.name, rows, &mut self.transactions.were_unstable);
        if let Some(member) = &self.shards.member {
            events::lease(&self.mirror.name, member.lease.left());
        }
    }

    /// Asks the leaders of partitions that a transaction holds up whose it is, all of them at once.
    fn ask_whose(&mut self, now: Instant) {
        if !self.transactions.running.is_empty() {
            return;
        }
        let mut asked: BTreeMap<Arc<str>, (Client, HashMap<TopicPartition, HeldUp>)> = BTreeMap::new();
        for (partition, entry) in &self.entries {
            let progress = entry.status.lock();
            let Some(unstable) = progress.unstable.as_ref().filter(|_| decisions::asks_whose(&progress, now.into_std())) else { continue };
            let (_, partitions) =
                asked.entry(entry.leader.cluster().clone()).or_insert_with(|| (entry.leader.client.clone(), HashMap::new()));
            let held_up = HeldUp { partition: partition.clone(), status: entry.status.clone(), from: unstable.from };
            partitions.insert(entry.leader.partition(partition.partition), held_up);
        }
        for (client, mut partitions) in asked.into_values() {
            self.transactions.running.spawn(async move {
                let names: Vec<_> = partitions.keys().cloned().collect();
                let known = transactions::whose(&client, &names).await;
                known.into_iter().filter_map(|(partition, whose)| Some((partitions.remove(&partition)?, whose))).collect()
            });
        }
    }

    /// Takes in and tells whose transactions hold up partitions.
    fn held_up(&self, known: Vec<(HeldUp, Whose)>) {
        let timestamp = jiff::Timestamp::now().as_millisecond();
        for (HeldUp { partition, status, from }, whose) in known {
            let mut progress = status.lock();
            // It may be over by now.
            let Some(unstable) = progress.unstable.as_mut().filter(|unstable| unstable.from == from) else { continue };
            unstable.whose = Some(whose);
            events::held_up(&self.mirror.name, &partition, &unstable.told(timestamp));
        }
    }

    /// Begins a pass over the groups, if it is time for one or somebody has asked for it. With `once` there is one, at the end.
    fn sync_groups(&mut self, now: Instant) {
        let is_due = self.groups.next <= now || self.overview.groups.has_orders();
        // Whoever asks right after the start waits until the process may write.
        let may_write = self.shards.member.as_ref().is_some_and(|member| member.lease.left() > Duration::ZERO)
            && self.shards.reading.is_empty()
            && self.shards.handover.is_none();
        if is_due && may_write && self.groups.running.is_empty() && self.passes.plans.is_some() {
            self.begin_groups(now);
        }
    }

    fn begin_groups(&mut self, now: Instant) {
        self.groups.next = now + self.mirror.groups_interval;
        let orders = self.overview.groups.take_orders();
        if self.mirror.groups.is_empty() {
            self.overview.groups.publish(&Arc::default(), orders);
        } else {
            let passed = groups::pass(self.groups_work(), self.state.clone(), orders);
            self.groups.running.spawn(async move { GroupsDone::Passed(passed.await) });
        }
    }

    fn groups_work(&self) -> Work {
        let plans = self.passes.plans.as_deref().unwrap_or_default();
        let ready = plans.iter().filter(|plan| plan.error.is_none() && plan.action == Action::Nothing);
        let topics = ready.map(|plan| {
            let partitions = (0..plan.partitions).map(|partition| self.progress(plan, partition)).collect();
            CopiedTopic { source: plan.topic.clone(), target: plan.target.clone(), partitions }
        });
        Work {
            mirror: self.mirror.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            topics: topics.collect(),
            states: self.state.groups(),
            decided: self.moves.as_ref().map(Moves::lives).unwrap_or_default(),
            moving: self.moves.as_ref().map(Moves::moving_groups).unwrap_or_default(),
            owned: Some(self.shards.owned.clone()),
        }
    }

    /// What is known of a partition, by this process or by what was kept of it: before a comparison, or while another process copies it.
    fn progress(&self, plan: &TopicPlan, partition: i32) -> Arc<Progress> {
        let kept = plan.kept(&self.mirror, &self.state, partition);
        let entry = self.entries.get(&TopicPartition::new(plan.topic.clone(), partition));
        let live = entry.filter(|entry| entry.topic_ids == plan.topic_ids).map(|entry| entry.status.lock().clone());
        Arc::new(live.filter(|live| live.agreed >= kept.agreed).unwrap_or(kept))
    }

    fn groups_passed(&mut self, mut passed: GroupPassResult) {
        if let Some(moves) = &mut self.moves {
            moves.may_be_late(passed.report.is_unanswered, Instant::now());
        }
        let before = self.overview.groups.report();
        if passed.report.error.is_some() && passed.report.offsets.is_empty() {
            passed.report.offsets.clone_from(&before.offsets);
        }
        groups::events::groups(&self.mirror.name, &before, &passed.report);
        self.overview.groups.publish(&Arc::new(passed.report), passed.orders);
    }

    /// With `once`: the groups' offsets, now that the records before them are there. Says which are not written, and why.
    async fn sync_groups_once(&mut self) -> Vec<NotCopied> {
        if !self.options.once {
            return Vec::new();
        }
        self.begin_groups(Instant::now());
        while let Some(passed) = self.groups.running.join_next().await {
            if let GroupsDone::Passed(passed) = passed.expect("a pass over the groups does not panic") {
                self.groups_passed(passed);
            }
        }
        let report = self.overview.groups.report();
        let mut left = report.left();
        // After an error nobody knows.
        if report.error.is_none() {
            let has_committed = |name: &str| report.offsets.iter().any(|offset| *offset.group == *name);
            left.extend(
                named::unseen_groups(&self.mirror, has_committed).map(|(name, reason)| NotCopied { what: format!("group {name}"), reason }),
            );
        }
        left
    }

    fn get_ready(&mut self, now: Instant) {
        let is_member = self.shards.member.as_ref().is_none_or(|member| member.joined.load(Ordering::Acquire));
        if is_member {
            self.shards.member_at = now;
        }
        // A pass that ran before the process had its shards found nothing to do.
        let owned = |plan: &TopicPlan| {
            (0..plan.partitions).any(|partition| self.shards.owned.of(&TopicPartition::new(plan.topic.clone(), partition)).is_some())
        };
        let is_to_come = |plan: &TopicPlan| {
            plan.action != Action::Nothing && plan.error.is_none() && !self.passes.refused.contains_key(&plan.topic) && owned(plan)
        };
        let settled = self.passes.complete
            && !self.passes.plans.iter().flat_map(|plans| plans.iter()).any(is_to_come)
            && self.shards.reading.is_empty()
            && !self.entries.values().any(|entry| decisions::is_settling(entry.status.lock().phase));
        if let Some(ready) = decisions::readiness(is_member, now - self.shards.member_at, settled) {
            self.overview.ready.store(ready, Ordering::Relaxed);
        }
    }

    fn saved(&self, saved: &Result<(), StateError>) {
        if let Err(error) = saved {
            tell!(messages::NOT_KEPT_YET, mirror = &*self.mirror.name, %error);
        }
    }

    fn is_done(&self) -> bool {
        let now = Instant::now();
        let stuck = self.passes.failing.as_ref().is_some_and(|(since, _)| is_stuck(*since, now));
        stuck
            || self.passes.complete
                && self.entries.values().all(|entry| decisions::end(&entry.status.lock(), now.into_std()) != End::Before)
    }

    async fn end(mut self) -> Outcome {
        let now = Instant::now();
        self.looks.end().await;
        self.turning.shutdown().await;
        self.passes.running.shutdown().await;
        self.refusals.shutdown().await;
        self.groups.running.shutdown().await;
        self.transactions.running.shutdown().await;
        self.lanes.end().await;
        let last = save(&self.entries, &self.state, Shard::may_write);
        let saved = tokio::time::timeout(LAST_SAVE, async {
            while self.saving.running.join_next().await.is_some() {}
            last.await
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tell!(messages::NOT_KEPT, mirror = &*self.mirror.name, %error),
            Err(_) => {
                tell!(messages::NOT_KEPT_IN_TIME, mirror = &*self.mirror.name);
            }
        }
        if let Some(member) = self.shards.member.take() {
            member.leave().await;
        }
        let mut left: BTreeMap<_, _> = BTreeMap::new();
        for NotCopied { what, reason } in self.passes.failed(now) {
            left.insert((what, None), reason);
        }
        let (mut copied, mut left_out) = (0, 0);
        let timestamp = jiff::Timestamp::now().as_millisecond();
        for (partition, entry) in &self.entries {
            let progress = entry.status.lock();
            left_out += progress.skipped.within(&(progress.leader_log_start_offset..progress.agreed));
            let name = (partition.topic.to_string(), Some(partition.partition));
            match (&progress.reason, &progress.unstable) {
                (Some(reason), _) if progress.phase != Phase::Copying && progress.phase != Phase::Waiting => {
                    left.insert(name, reason.clone());
                }
                (_, Some(unstable)) if self.options.once && decisions::end(&progress, now.into_std()) == End::HeldUp => {
                    left.insert(name, unstable.told(timestamp));
                }
                _ => copied += 1,
            }
        }
        let what = |topic: String, partition: Option<i32>| partition.map_or(topic.clone(), |partition| format!("{topic}-{partition}"));
        let left = left.into_iter().map(|((topic, partition), reason)| NotCopied { what: what(topic, partition), reason }).collect();
        let is_there = |accept: &&String| {
            let accept = std::slice::from_ref(*accept);
            self.entries.keys().any(|partition| is_accepted(accept, partition))
        };
        let not_accepted = self.options.accept.iter().filter(|accept| !is_there(accept)).cloned().collect();
        Outcome { not_accepted, copied, left, left_out, groups_left: Vec::new(), is_refused: false }
    }
}

/// Never, without a log of decisions.
async fn next_event(moves: &mut Option<Moves>) -> Event {
    match moves {
        Some(moves) => moves.next().await,
        None => std::future::pending().await,
    }
}

/// Never, for a process that is alone.
async fn next_change(member: &mut Option<Member>) -> Change {
    match member {
        Some(member) => member.changes.recv().await.expect("the member tells changes until it is dropped"),
        None => std::future::pending().await,
    }
}
