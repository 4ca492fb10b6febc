//! What a mirror would do, and what is in its way: everything that can be known without writing anything.
//!
//! The rules are those of `copy::settle` and [`crate::topics`]; where those read a log as a whole, this reads a little of it.

mod groups;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use kafka_protocol::ResponseError;
use kferry_config::{self as config, Mirror, Offsets, OnError, OnLost, dead_letter_topic};
use kferry_wire::admin::acls::Operation;
use kferry_wire::admin::partitions::Position;
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Answers, Client, ClientError, TopicPartition};
use kferry_wire::decisions;
use kferry_wire::log::{LogReader, ReadError};
use serde::Serialize;

pub use self::groups::GroupForecast;
pub use self::rights::Missing;
use self::rights::{Needs, Rights};
use crate::copy::TAIL;
use crate::copy::settle::after_created_anew;
use crate::log::{Allowed, FollowerReader, Sample, View, Written, compare, sample, written};
use crate::own_topics::state_topic;
use crate::partition::{Direction, OffsetMap, Phase, Progress, Side, Skipped, producer_id};
use crate::state::{State, StateError};
use crate::topics::{self, Action, Cluster, Drift, TopicPlan};
use crate::{PATIENCE, connect_options, named, patient_clients, transactions};

/// Offsets of padding that a broker takes in a second of its CPU (measured: 19 to 22 million).
const PADDED_PER_SECOND: u64 = 20_000_000;
/// Bytes on a broker's disk of [`PADDED`] offsets of padding (measured).
const PADDED_BYTES: u64 = 59_000;
const PADDED: u64 = 100_000;
/// How many offsets are compared at each end of those that both logs have.
const COMPARED: i64 = 1_000;
/// About how many bytes of each log a Fetch response may have, while they are compared.
const COMPARED_BYTES: i32 = 256 << 10;
/// About how many bytes of a partition are looked at to know what its batches are like.
const SAMPLED_BYTES: i32 = 64 << 10;
/// In how many partitions of a topic, at the most.
const SAMPLED_PARTITIONS: usize = 8;
/// How many offsets before the last stable one that look begins.
const SAMPLED_OFFSETS: i64 = 100;
/// The most looks at logs at a time, of a topic.
const LOOKS: usize = 16;

/// What a mirror would do.
#[derive(Debug, Serialize)]
pub struct MirrorPlan {
    /// The mirror's name.
    pub mirror: Arc<str>,
    /// The source's name in the file.
    pub source: Arc<str>,
    /// The target's name in the file.
    pub target: Arc<str>,
    /// The mirror's `offsets`: `preserve` or `translate`.
    pub offsets: &'static str,
    /// The topics that the mirror selects, in the order of their names on the source.
    pub topics: Vec<TopicForecast>,
    /// The groups that have committed something in its topics.
    pub groups: Vec<GroupForecast>,
    /// Rights that the mirror needs and does not have.
    pub missing_rights: Vec<Missing>,
    /// What is in the way of the mirror as a whole: sentences.
    pub errors: Vec<String>,
    /// What an operator should know before the mirror is started: sentences.
    pub warnings: Vec<String>,
}

/// What would become of a topic.
#[derive(Debug, Serialize)]
pub struct TopicForecast {
    /// What there is of the topic, and what has to be done on the follower.
    #[serde(flatten)]
    pub plan: TopicPlan,
    /// Whether the topic's offsets can be kept.
    pub mode: Mode,
    /// What an operator should know about that: sentences.
    pub why: Vec<String>,
    /// What is in the way of copying the topic: sentences.
    pub errors: Vec<String>,
    /// What has to be filled up before anything is copied.
    pub padding: Padding,
    /// Why the leader's log has offsets without records, which become markers; none if it has no such offsets.
    pub holes: Vec<Holes>,
    /// How many offsets the follower lacks, all partitions together; where there are holes not each of them has a record.
    pub records: u64,
    /// About how many bytes these records have as the leader stores them, by a look at a few batches; 0 if nothing is known.
    pub bytes: u64,
    /// How many more offsets the leader has that wait for open transactions, all partitions together.
    pub unstable: u64,
    /// What an operator should know of the topic before the mirror is started: sentences.
    pub warnings: Vec<String>,
}

/// Whether a topic's offsets can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each record at the same offset.
    Preserve,
    /// Each record at another offset, and a map says at which.
    Translate,
    /// Neither, as things are: `errors` says why.
    NotPossible,
}

/// Empty records up to the leader's log start, which are deleted again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Padding {
    /// How many empty records, all partitions together.
    pub offsets: u64,
    /// About how many seconds of a broker's CPU they take.
    pub seconds: f64,
    /// About how many bytes of its disk they take, until they are deleted.
    pub bytes: u64,
}

/// Why a log has offsets without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holes {
    /// Records were compacted away.
    Compaction,
    /// Markers and aborted records of transactions.
    Transactions,
}

impl Padding {
    fn of(offsets: u64) -> Self {
        let bytes = u128::from(offsets) * u128::from(PADDED_BYTES) / u128::from(PADDED);
        Self { offsets, seconds: offsets as f64 / PADDED_PER_SECOND as f64, bytes: bytes as u64 }
    }
}

impl MirrorPlan {
    /// Whether nothing is in the mirror's way.
    pub fn is_possible(&self) -> bool {
        self.errors.is_empty() && self.missing_rights.is_empty() && self.topics.iter().all(|topic| topic.errors.is_empty())
    }

    /// Asks both clusters what a mirror would do. What goes wrong is in the plan's `errors`. `log`: the cluster of the log of decisions, if the file has
    /// one: then what the mirror copies may move, and it needs the rights for both directions.
    pub async fn of(mirror: &Arc<Mirror>, log: Option<&Arc<config::Cluster>>) -> Self {
        let mut plan = Self {
            mirror: mirror.name.clone(),
            source: mirror.source.name.clone(),
            target: mirror.target.name.clone(),
            offsets: mirror.offsets.name(),
            topics: Vec::new(),
            groups: Vec::new(),
            missing_rights: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        if let Err(error) = Box::pin(plan.look(mirror, log)).await {
            plan.errors.push(error.to_string());
        }
        plan
    }

    async fn look(&mut self, mirror: &Arc<Mirror>, log: Option<&Arc<config::Cluster>>) -> Result<(), StateError> {
        let clients: [Client; 2] = patient_clients(mirror).into();
        let (mut source, mut target) = tokio::try_join!(Cluster::look(&clients[0]), Cluster::look(&clients[1]))?;
        // Without the right to read it nothing is known of it; the missing right is told.
        let state = match State::open(clients[1].clone(), mirror, false).await {
            Ok(state) => state,
            Err(error) if is_authorization(&error) => None,
            Err(error) => return Err(error),
        };
        let leader = |topic: &str| state.as_ref().and_then(|state| state.leader(topic));
        let plans = topics::plan(mirror, &mut source, &mut target, leader, BTreeSet::new()).await?;
        let (on_source, on_target) = (partitions(&plans, &source, |plan| &plan.topic), partitions(&plans, &target, |plan| &plan.target));
        let logs = tokio::join!(Logs::ask(&clients[0], &on_source), Logs::ask(&clients[1], &on_target));
        let logs = [logs.0, logs.1];

        for plan in plans {
            let source = (Side { client: clients[0].clone(), topic: plan.topic.clone() }, &logs[0]);
            let target = (Side { client: clients[1].clone(), topic: plan.target.clone() }, &logs[1]);
            let (leader, follower) = plan.direction(mirror).leader_first(source, target);
            let pair = Pair { mirror, state: state.as_ref(), leader, follower };
            self.topics.push(pair.forecast(plan).await);
        }
        self.creations(mirror, &clients).await;
        self.unseen(mirror, &source);
        let log = log.filter(|_| mirror.offsets == Offsets::Preserve);
        self.rights(mirror, &clients, log.is_some()).await?;
        if !mirror.groups.is_empty() {
            self.groups(mirror, &clients, state.as_ref(), log.is_some()).await?;
        }
        if let Some(log) = log {
            let log = Client::new(log.clone(), connect_options(&mirror.name)).within(PATIENCE);
            let needs = Needs::from([(decisions::TOPIC.into(), BTreeSet::from([Operation::Describe, Operation::Read, Operation::Write]))]);
            self.missing_rights.append(&mut Rights::of(&log).await?.missing(&needs, "the log of decisions").await?);
        }
        Ok(())
    }

    async fn groups(&mut self, mirror: &Arc<Mirror>, clients: &[Client; 2], state: Option<&State>, moves: bool) -> Result<(), ClientError> {
        self.groups = groups::forecast(mirror, clients, self.topics.iter().map(|topic| &topic.plan), state).await?;
        let groups: BTreeSet<&str> = self.groups.iter().map(|group| &*group.group).collect();
        self.errors.extend(named::unseen_groups(mirror, |name| groups.contains(name)).map(|(_, sentence)| sentence));
        self.missing_rights.append(&mut groups::missing_rights(mirror, clients, &self.groups, state, moves).await?);
        Ok(())
    }

    /// Whether the follower's brokers would create what has to be created.
    async fn creations(&mut self, mirror: &Mirror, clients: &[Client; 2]) {
        for direction in Direction::ALL {
            let (_, client) = direction.leader_first(&clients[0], &clients[1]);
            let follower = &client.cluster().name;
            let topics: BTreeMap<String, NewTopic> = self
                .topics
                .iter()
                .filter(|topic| topic.plan.direction(mirror) == direction && topic.plan.error.is_none())
                .filter_map(|topic| {
                    let Action::Create { replication_factor, config } = &topic.plan.action else { return None };
                    let name = topic.names(direction).1.to_string();
                    let partitions =
                        NewPartitions::Count { partitions: Some(topic.plan.partitions), replication_factor: Some(*replication_factor) };
                    let configs = config.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                    Some((name.clone(), NewTopic { name, partitions, configs }))
                })
                .collect();
            let topics: Vec<_> = topics.into_values().collect();
            let mut answers = Answers::new();
            for topics in topics.chunks(100) {
                answers.append(&mut client.create_topics(topics, true).await);
            }
            for topic in self.topics.iter_mut().filter(|topic| topic.plan.direction(mirror) == direction) {
                match answers.get(&**topic.names(direction).1) {
                    Some(Err(error)) if error.code() == Some(ResponseError::InvalidConfig) => {
                        topic.plan.notes.push(format!("a setting that {follower} does not take is left out: {error}"));
                    }
                    // The missing right is told by itself.
                    Some(Err(error)) if !error.is_authorization() => topic.errors.push(error.to_string()),
                    _ => {}
                }
            }
        }
    }

    /// Topics that the file names and the source does not show.
    fn unseen(&mut self, mirror: &Mirror, source: &Cluster) {
        self.errors.extend(named::unseen_topics(mirror, |name| source.topic(name).is_some()).map(|(_, sentence)| sentence));
        let passed_over: Vec<&str> = source
            .metadata
            .topics
            .iter()
            .filter(|topic| !topic.internal && mirror.topics.passes_over(&topic.name))
            .map(|topic| &*topic.name)
            .collect();
        if !passed_over.is_empty() {
            self.warnings.push(format!(
                "topics whose names begin with __ are left out where no rule names them: {}; to have one copied write it into `topics`, or a regex \
                 that begins with __ into `topics_regex`; to silence this, exclude_regex = [\"__.*\"]",
                passed_over.join(", ")
            ));
        }
        if self.topics.is_empty() {
            self.errors.push(format!(
                "no topic of {} is meant: correct `topics` and `topics_regex`, or grant Describe on the topics there to the mirror's principal",
                self.source
            ));
        }
    }

    /// `moves`: the topics may come to lead on the other cluster, and then the mirror copies them back.
    async fn rights(&mut self, mirror: &Mirror, clients: &[Client; 2], moves: bool) -> Result<(), ClientError> {
        const LEADER: [Operation; 3] = [Operation::Describe, Operation::Read, Operation::DescribeConfigs];
        const FOLLOWER: [Operation; 7] = [
            Operation::Create,
            Operation::Describe,
            Operation::Read,
            Operation::Write,
            Operation::Delete,
            Operation::DescribeConfigs,
            Operation::AlterConfigs,
        ];
        const OWN: [Operation; 4] = [Operation::Create, Operation::Describe, Operation::Read, Operation::Write];
        const DEAD_LETTERS: [Operation; 3] = [Operation::Create, Operation::Describe, Operation::Write];
        // A cluster, and the direction of what it leads.
        for (client, leads) in clients.iter().zip(Direction::ALL) {
            let is_source = leads == Direction::Forwards;
            let (mut copied, mut back, mut own, mut dead_letters) = (Needs::new(), Needs::new(), Needs::new(), Needs::new());
            let mut holes = None;
            for topic in self.topics.iter().filter(|topic| topic.plan.error.is_none()) {
                let (name, _) = topic.names(leads);
                let needs = if topic.plan.direction(mirror) == leads {
                    copied.entry(name.clone()).or_default().extend(LEADER);
                    // A topic that is renamed does not move.
                    if !moves || topic.plan.topic != topic.plan.target {
                        continue;
                    }
                    let needs = back.entry(name.clone()).or_default();
                    needs.extend(FOLLOWER.into_iter().filter(|operation| !LEADER.contains(operation)));
                    needs
                } else {
                    let needs = copied.entry(name.clone()).or_default();
                    needs.extend(FOLLOWER);
                    needs
                };
                if mirror.offsets == Offsets::Translate {
                    // Nothing is deleted from a log that is not the mirror's alone.
                    needs.remove(&Operation::Delete);
                }
                if matches!(topic.plan.action, Action::Grow { .. }) {
                    needs.insert(Operation::Alter);
                }
                if !topic.holes.is_empty() {
                    holes.get_or_insert_with(|| name.clone());
                }
                if mirror.on_error == OnError::DeadLetter {
                    dead_letters.insert(dead_letter_topic(name).into(), BTreeSet::from(DEAD_LETTERS));
                }
            }
            if is_source {
                for name in mirror.topics.names() {
                    copied.entry(name.into()).or_insert_with(|| BTreeSet::from(LEADER));
                }
            } else {
                own.insert(state_topic(&mirror.name).into(), BTreeSet::from(OWN));
            }
            let rights = Rights::of(client).await?;
            for (needs, purpose) in
                [(copied, "the topics"), (back, "copying back after a move"), (own, "the mirror's state"), (dead_letters, "dead letters")]
            {
                self.missing_rights.append(&mut rights.missing(&needs, purpose).await?);
            }
            if !is_source {
                let group = rights.group(&Mirror::group(&mirror.name), "sharing the mirror's work").await?;
                self.missing_rights.extend(group);
            }
            if let Some(topic) = holes {
                match rights.markers(&topic).await? {
                    Ok(true) => {}
                    Ok(false) | Err(_) if mirror.offsets == Offsets::Translate => self.warnings.push(format!(
                        "{}: offsets without records become segments of the offset map, one each; with Alter on the cluster they become markers",
                        client.cluster().name
                    )),
                    Ok(false) => self.warnings.push(format!(
                        "{}: offsets without records take an empty transaction each, some 500 a second; with Alter on the cluster a hundred thousand",
                        client.cluster().name
                    )),
                    Err(missing) => self.missing_rights.push(missing),
                }
            }
        }
        Ok(())
    }
}

impl TopicForecast {
    /// The topic's name on the cluster that leads in this direction, and on the one that follows.
    fn names(&self, direction: Direction) -> (&Arc<str>, &Arc<str>) {
        direction.leader_first(&self.plan.topic, &self.plan.target)
    }
}

/// The partitions of the topics that there are on a cluster.
fn partitions(plans: &[TopicPlan], cluster: &Cluster, name: impl Fn(&TopicPlan) -> &Arc<str>) -> Vec<TopicPartition> {
    let possible = plans.iter().filter(|plan| plan.error.is_none()).map(name);
    let there = possible.filter_map(|name| Some((name, cluster.topic(name)?.partitions.len() as i32)));
    there.flat_map(|(name, count)| (0..count).map(|partition| TopicPartition::new(name.clone(), partition))).collect()
}

/// Where the logs of a cluster begin and end, partition by partition.
struct Logs {
    /// Log start offsets.
    starts: Answers<TopicPartition, i64>,
    /// High watermarks, from before the last stable offsets.
    high_watermarks: Answers<TopicPartition, i64>,
    /// Last stable offsets.
    stable: Answers<TopicPartition, i64>,
    /// Log end offsets.
    ends: Answers<TopicPartition, i64>,
}

impl Logs {
    async fn ask(client: &Client, partitions: &[TopicPartition]) -> Self {
        // In this order: what is below the high watermark and not stable then is of a transaction that is open, and not of one that came since.
        let stable = async {
            let high_watermarks = client.list_offsets(partitions, Position::HighWatermark).await;
            (high_watermarks, client.list_offsets(partitions, Position::LastStable).await)
        };
        let (starts, (high_watermarks, stable), ends) =
            tokio::join!(client.list_offsets(partitions, Position::LogStart), stable, client.log_ends(partitions));
        Self { starts, high_watermarks, stable, ends }
    }

    /// The log of a partition; `None` is one that is not there.
    ///
    /// # Errors
    /// The [`ClientError`] with which the cluster did not tell.
    fn of(&self, partition: &TopicPartition) -> Result<Option<Log>, &ClientError> {
        let (Some(start), Some(stable), Some(end)) = (self.starts.get(partition), self.stable.get(partition), self.ends.get(partition))
        else {
            return Ok(None);
        };
        let stable = *stable.as_ref()?;
        let high_watermark = self.high_watermarks.get(partition).map_or(Ok(stable), |answer| answer.as_ref().copied())?;
        Ok(Some(Log { start: *start.as_ref()?, stable, high_watermark, end: *end.as_ref()? }))
    }
}

/// Where a log begins and ends; all 0 where there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Log {
    /// The log start offset.
    start: i64,
    /// The last stable offset.
    stable: i64,
    /// The high watermark, from a moment before.
    high_watermark: i64,
    /// The log end offset.
    end: i64,
}

/// A topic on both clusters, with the logs of each.
struct Pair<'p> {
    mirror: &'p Mirror,
    state: Option<&'p State>,
    leader: (Side, &'p Logs),
    follower: (Side, &'p Logs),
}

/// A piece of a log that has to be read to know what would become of a partition.
enum Look {
    /// The follower has the offsets from `from` up to `to`, and nothing was kept of who wrote them: are they the leader's records?
    Foreign { partition: i32, from: i64, to: i64 },
    /// Both logs were equal at the leader's offsets from `from` up to `to`, the last ones that were agreed on: are they still?
    Agreed { partition: i32, from: i64, to: i64 },
    /// The follower has the offsets from 0 up to `to`, all before the leader's log start: are they padding?
    Unknown { partition: i32, to: i64 },
    /// The leader's batches from the offset `at` on: what are they like?
    Sample { partition: i32, at: i64 },
}

impl Pair<'_> {
    fn translates(&self) -> bool {
        self.mirror.offsets == Offsets::Translate
    }

    async fn forecast(&self, plan: TopicPlan) -> TopicForecast {
        let mut forecast = TopicForecast {
            mode: if self.translates() { Mode::Translate } else { Mode::Preserve },
            why: Vec::new(),
            errors: plan.error.iter().cloned().collect(),
            padding: Padding::default(),
            holes: Vec::new(),
            records: 0,
            bytes: 0,
            unstable: 0,
            warnings: Vec::new(),
            plan,
        };
        for drift in &forecast.plan.drift {
            let becomes = if !self.mirror.sync_topic_configs {
                "it stays so, by sync_topic_configs = false"
            } else if forecast.plan.will_change(drift, self.translates()) {
                "kferry-mirror sets it"
            } else {
                "it stays so, since with less the broker might delete what others have written there"
            };
            forecast.why.push(format!("{} should be {} and is {}: {becomes}", drift.name, drift.wanted, drift.has));
        }
        if forecast.errors.is_empty() {
            self.partitions(&mut forecast).await;
        }
        if !forecast.errors.is_empty() {
            forecast.mode = Mode::NotPossible;
        }
        forecast
    }

    async fn partitions(&self, forecast: &mut TopicForecast) {
        if let Some(Drift { has, .. }) = forecast.plan.drift.iter().find(|drift| drift.name == topics::TIMESTAMP_TYPE) {
            forecast.errors.push(format!(
                "message.timestamp.type of {} on {} is {has}: its brokers would put their time on every record; set it to CreateTime there",
                self.follower.0.topic,
                self.follower.0.cluster()
            ));
        }
        let mut looks = Vec::new();
        let mut unstable = BTreeMap::new();
        let (mut unpadded, mut others) = (0, 0);
        for partition in 0..forecast.plan.partitions {
            let logs = (self.leader.1.of(&self.leader.0.partition(partition)), self.follower.1.of(&self.follower.0.partition(partition)));
            let (leader, follower) = match logs {
                (Ok(Some(leader)), Ok(follower)) => (leader, follower.unwrap_or_default()),
                (Ok(None), _) => continue,
                (Err(error), _) | (_, Err(error)) => {
                    forecast.errors.push(error.to_string());
                    return;
                }
            };
            match self.partition(forecast, partition, (leader, follower)) {
                Ok(mut more) => looks.append(&mut more),
                Err(error) => forecast.errors.push(error),
            }
            let agreed = self.agreed(&forecast.plan, partition);
            let copied = if self.translates() { agreed } else { follower.end };
            if self.translates() {
                others += i32::from(agreed == 0 && follower.end > 0);
            } else {
                unpadded += (leader.start - follower.end).max(0) as u64;
            }
            forecast.records += (leader.stable - copied.max(leader.start)).max(0) as u64;
            if leader.high_watermark > leader.stable {
                unstable.insert(self.leader.0.partition(partition), leader);
            }
        }
        self.unstable(forecast, &unstable).await;
        self.padding(forecast, unpadded);
        if self.translates() {
            let on = self.follower.0.cluster();
            forecast.why.push(match others {
                0 => "offsets are translated: `kferry offsets` says which is which".to_owned(),
                _ => format!("{others} of its partitions on {on} have data already; the copy goes behind it, and `kferry offsets` says where a record is"),
            });
        }
        let sampled = self.looks(forecast, looks).await;
        if sampled.offsets > 0 {
            forecast.bytes = (u128::from(forecast.records) * u128::from(sampled.bytes) / u128::from(sampled.offsets)) as u64;
        }
        if forecast.plan.compacted {
            forecast.holes.push(Holes::Compaction);
        }
        if sampled.transactional {
            forecast.holes.push(Holes::Transactions);
        }
        if !forecast.holes.is_empty() {
            let reason = match (forecast.plan.compacted, sampled.transactional) {
                (true, false) => "it is compacted",
                (false, _) => "transactions are written to it",
                (true, true) => "it is compacted, and transactions are written to it",
            };
            forecast.why.push(format!(
                "{reason}: offsets that hold no record become markers, which no consumer sees; but offsetsForTimes counts them, with the time at which \
                 they are written"
            ));
        }
    }

    /// Adds to a forecast what waits for open transactions, in these partitions of the leader, and warns of those that are open for long.
    async fn unstable(&self, forecast: &mut TopicForecast, partitions: &BTreeMap<TopicPartition, Log>) {
        if partitions.is_empty() {
            return;
        }
        forecast.unstable = partitions.values().map(|log| (log.high_watermark - log.stable) as u64).sum();
        forecast.why.push(format!("{} more offsets wait for transactions that are open just now", forecast.unstable));
        let now = jiff::Timestamp::now().as_millisecond();
        let names: Vec<_> = partitions.keys().cloned().collect();
        for (partition, whose) in transactions::whose(&self.leader.0.client, &names).await {
            let Some(log) = partitions.get(&partition) else { continue };
            if whose.as_ref().map_or(true, |transaction| transaction.is_long(now)) {
                let told = transactions::told(log.stable, log.high_watermark, Some(&whose), now);
                forecast.warnings.push(format!("{partition} on {}: {told}", self.leader.0.cluster()));
            }
        }
    }

    /// What the mirror's state has of a partition.
    fn progress(&self, plan: &TopicPlan, partition: i32) -> Progress {
        self.state.map_or_else(Progress::default, |state| plan.kept(self.mirror, state, partition))
    }

    /// The offset of the leader up to which a partition is copied, as the mirror's state has it.
    fn agreed(&self, plan: &TopicPlan, partition: i32) -> i64 {
        self.progress(plan, partition).agreed
    }

    /// What follows from where a partition's logs begin and end, and from what was kept of it: the looks that have to be taken. `Err` is what is in
    /// the way.
    fn partition(&self, forecast: &mut TopicForecast, partition: i32, (leader, follower): (Log, Log)) -> Result<Vec<Look>, String> {
        let (here, there) = (self.follower.0.partition(partition), self.leader.0.partition(partition));
        let (on_follower, on_leader) = (self.follower.0.cluster(), self.leader.0.cluster());
        let name = TopicPartition::new(forecast.plan.topic.clone(), partition);
        let kept = self.state.and_then(|state| state.partition(&name));
        let copied = self.agreed(&forecast.plan, partition);
        let kept_only_padding = kept.as_ref().is_some_and(|kept| kept.only_padding);
        if let Some(kept) = kept {
            if kept.phase == Phase::Diverged {
                return Err(format!("{name} has diverged: {}", kept.reason.as_deref().unwrap_or("nobody knows why")));
            }
            for (cluster, now) in &forecast.plan.topic_ids {
                if kept.topic_ids.get(cluster).is_some_and(|then| then != now) {
                    return Err(format!(
                        "{name}: its topic on {cluster} was deleted and created anew, and its offsets mean other records now. {}",
                        after_created_anew(cluster, on_follower, &name)
                    ));
                }
            }
        }
        if !self.translates() && follower.end > leader.end {
            return Err(format!(
                "{here} on {on_follower} has data that the mirror did not write: it ends at offset {}, behind the end {} of {there} on {on_leader}; delete \
                 the topic there, give it another name with [mirrors.rename], or set offsets = \"translate\"",
                follower.end, leader.end
            ));
        }
        if !self.translates() && follower.end < copied && self.mirror.on_error == OnError::Fail {
            return Err(format!(
                "{here} on {on_follower} ends at offset {}, and the leader's records before {copied} were copied once: it lost records (an unclean leader \
                 election, or the topic was emptied). To copy them again from the leader, start the mirror with --accept {name}",
                follower.end
            ));
        }
        let mut looks = Vec::new();
        if copied > 0 {
            let (first, follower_start) = {
                let progress = self.progress(&forecast.plan, partition);
                (progress.first(), progress.map.leader(progress.direction, follower.start).unwrap_or(0))
            };
            let to = if self.translates() { copied } else { copied.min(follower.end) };
            let from = (to - TAIL).max(first).max(leader.start).max(follower_start);
            if from < to {
                looks.push(Look::Agreed { partition, from, to });
            }
        }
        if leader.stable > leader.start {
            looks.push(Look::Sample { partition, at: leader.start.max(leader.stable - SAMPLED_OFFSETS) });
        }
        let end = if self.translates() { copied } else { follower.end };
        if copied > 0 {
            if end < leader.start && self.mirror.on_lost == OnLost::Fail && !kept_only_padding {
                return Err(format!(
                    "{there} on {on_leader} begins at offset {}, and only the offsets before {} were copied: what was between is lost. With on_lost = \
                     \"follow\" the mirror goes on behind it",
                    leader.start, end
                ));
            }
        } else if follower.end > 0 && !self.translates() {
            let from = leader.start.max(follower.start);
            if follower.end > leader.start {
                looks.push(Look::Foreign { partition, from, to: follower.end.min(leader.stable) });
            } else if follower.end < leader.start && follower.start == 0 {
                looks.push(Look::Unknown { partition, to: follower.end });
            } else if follower.end < leader.start {
                return Err(format!(
                    "{here} on {on_follower} has had data that the mirror did not write (its log begins at offset {}); delete the topic there",
                    follower.start
                ));
            }
        }
        let missing = (leader.start - follower.end).max(0);
        if !self.translates() && missing > self.mirror.max_padding {
            return Err(format!(
                "{there} on {on_leader} begins at offset {}: filling {missing} offsets of {here} on {on_follower} is more than max_padding = {} allows; raise it, or set \
                 offsets = \"translate\"",
                leader.start, self.mirror.max_padding
            ));
        }
        Ok(looks)
    }

    /// Adds to a forecast that this many offsets have to be filled up.
    fn padding(&self, forecast: &mut TopicForecast, offsets: u64) {
        if offsets == 0 {
            return;
        }
        let padding = Padding::of(offsets);
        forecast.padding = padding;
        forecast.why.push(format!(
            "its log starts above 0: {offsets} offsets are filled with empty records and deleted again, some {:.1} s of the brokers' CPU and {} bytes \
             of their disks for a while",
            padding.seconds, padding.bytes
        ));
        let waits = matches!(forecast.plan.action, Action::Create { .. }) || topics::awaits_compaction(&forecast.plan).is_some();
        if forecast.plan.compacted && !waits {
            forecast.errors.push(format!(
                "{} on {} is compacted, and padding has no keys: set its cleanup.policy to delete until it is padded, or delete the topic",
                self.follower.0.topic,
                self.follower.0.cluster()
            ));
        }
    }

    /// Takes the looks, and adds to a forecast what is in the way. Gives what the leader's batches are like.
    async fn looks(&self, forecast: &mut TopicForecast, looks: Vec<Look>) -> Sample {
        let (samples, others): (Vec<_>, Vec<_>) = looks.into_iter().partition(|look| matches!(look, Look::Sample { .. }));
        let looks = others.into_iter().chain(samples.into_iter().take(SAMPLED_PARTITIONS));
        let plan = &forecast.plan;
        let mut found = stream::iter(looks).map(|look| self.look(look, plan)).buffer_unordered(LOOKS);
        let mut sum = Sample::default();
        let (mut errors, mut same) = (BTreeSet::new(), 0);
        while let Some(found) = found.next().await {
            match found {
                Ok(Found::Sample(sample)) => {
                    sum.bytes += sample.bytes;
                    sum.offsets += sample.offsets;
                    sum.transactional |= sample.transactional;
                }
                Ok(Found::Same) => same += 1,
                Ok(Found::InTheWay(error)) => drop(errors.insert(error)),
                // What was deleted meanwhile, or may not be read: the missing right is told by itself.
                Ok(Found::Expected)
                | Err(ReadError::Kafka { error: ResponseError::OffsetOutOfRange | ResponseError::TopicAuthorizationFailed, .. }) => {}
                Err(error) => drop(errors.insert(error.to_string())),
            }
        }
        drop(found);
        forecast.errors.extend(errors);
        if same > 0 {
            forecast.why.push(format!(
                "{same} of its partitions on {} already have data that the mirror did not write or does not remember; its first and last {COMPARED} records are \
                 the leader's, and the mirror compares all of it before it goes on",
                self.follower.0.cluster()
            ));
        }
        sum
    }

    /// Takes one look.
    ///
    /// # Errors
    /// [`ReadError`] of one of the logs.
    async fn look(&self, look: Look, plan: &TopicPlan) -> Result<Found, ReadError> {
        let (leader, follower) = (&self.leader.0, &self.follower.0);
        let kept = |partition| self.state.and_then(|state| state.partition(&TopicPartition::new(plan.topic.clone(), partition)));
        let is_compacted = |partition| plan.is_compacted_somewhere() || kept(partition).is_some_and(|kept| kept.was_compacted);
        let in_the_way = |partition, what: String| {
            Ok(Found::InTheWay(format!(
                "{} on {} has data that the mirror did not write: {what}; delete the topic there, give it another name with [mirrors.rename], or set \
                 offsets = \"translate\"",
                follower.partition(partition),
                follower.cluster()
            )))
        };
        match look {
            Look::Sample { partition, at } => Ok(Found::Sample(sample(leader, partition, at, SAMPLED_BYTES).await?)),
            Look::Unknown { partition, to } => {
                let ours = producer_id(&self.mirror.name, &plan.topic, partition, plan.term);
                match written(follower, partition, 0..to.min(COMPARED), ours).await? {
                    Written::Filler => Ok(Found::Expected),
                    Written::Mirror if self.mirror.on_lost == OnLost::Follow => Ok(Found::Expected),
                    Written::Mirror => Ok(Found::InTheWay(format!(
                        "{} on {} has deleted records from offset {to} on before they were copied; with on_lost = \"follow\" the mirror goes on \
                         behind them",
                        leader.partition(partition),
                        leader.cluster()
                    ))),
                    Written::Others => {
                        in_the_way(partition, "it lies before the leader's log start, where the mirror would have to fill it up".to_owned())
                    }
                }
            }
            Look::Agreed { partition, from, to } => {
                let name = TopicPartition::new(plan.topic.clone(), partition);
                let Progress { map, direction, .. } = self.progress(plan, partition);
                let skipped = self.state.and_then(|state| state.partition(&name)).map(|kept| kept.skipped).unwrap_or_default();
                let view = View { map, direction, term: plan.term };
                let theirs = FollowerReader::new(follower, partition, from..to, COMPARED_BYTES, view);
                let ours = LogReader::new(leader.client.clone(), leader.partition(partition), from..to, COMPARED_BYTES);
                let compared = compare(ours, theirs, &Allowed { missing: is_compacted(partition), skipped }).await?;
                let Some(difference) = compared.difference else { return Ok(Found::Expected) };
                Ok(Found::InTheWay(format!(
                    "{} on {} and {} on {} were the same and differ at offset {} of the leader: {}; one of them lost records and got others (an unclean \
                     leader election), or somebody else wrote to the follower. Find out which; stop the mirror, delete the follower's topic (what only it has is lost with it), or its records \
                     from there on, and start the mirror with --accept {topic}",
                    leader.partition(partition),
                    leader.cluster(),
                    follower.partition(partition),
                    follower.cluster(),
                    difference.offset,
                    difference.what,
                    topic = plan.topic
                )))
            }
            Look::Foreign { partition, from, to } => {
                let ends = [from..to.min(from + COMPARED), from.max(to - COMPARED)..to];
                for range in ends {
                    let view = View { map: OffsetMap::Same, direction: Direction::Forwards, term: 1 };
                    let theirs = FollowerReader::new(follower, partition, range.clone(), COMPARED_BYTES, view);
                    let ours = LogReader::new(leader.client.clone(), leader.partition(partition), range, COMPARED_BYTES);
                    let allowed = Allowed { missing: is_compacted(partition), skipped: Skipped::default() };
                    let compared = compare(ours, theirs, &allowed).await?;
                    if let Some(difference) = compared.difference {
                        return in_the_way(partition, format!("at offset {} {}", difference.offset, difference.what));
                    }
                }
                Ok(Found::Same)
            }
        }
    }
}

/// What a look found.
enum Found {
    /// What the leader's batches are like.
    Sample(Sample),
    /// The follower has the leader's records, as far as it was looked at.
    Same,
    /// The follower has what it should have: nothing but padding of this mirror's, or what was agreed on.
    Expected,
    /// Why the partition cannot be copied.
    InTheWay(String),
}

/// Whether the state cannot be read because a right is missing.
fn is_authorization(error: &StateError) -> bool {
    match error {
        StateError::Client(error) | StateError::Read(ReadError::Client(error)) => error.is_authorization(),
        StateError::Read(ReadError::Kafka { error, .. }) => *error == ResponseError::TopicAuthorizationFailed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_costs_what_was_measured() {
        assert_eq!(Padding::of(100_000_000), Padding { offsets: 100_000_000, seconds: 5.0, bytes: 59_000_000 });
        assert_eq!(Padding::of(u64::MAX).offsets, u64::MAX);
    }
}
