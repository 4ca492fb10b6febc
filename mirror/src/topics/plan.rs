//! Which topics a mirror copies, and what the follower's must be like: as a plan, and carried out.
//!
//! # References
//! - `org.apache.kafka.common.config.TopicConfig`; `DescribeConfigsResponse.ConfigSource`

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kferry_config::{Mirror, NamingError, OnError, dead_letter_topic, no_room_for_dead_letters};
use kferry_wire::admin::configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource};
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Client, ClientError, Metadata, Topic, TopicPartition, Topics};
use kferry_wire::places::copies_as;
use serde::Serialize;

use crate::partition::{Direction, Leadership, Progress};
use crate::state::State;

/// Settings that a follower does not get: they belong to the brokers of one cluster, or say how bytes are kept and not what they are.
const LEFT_OUT: [&str; 4] = [
    "leader.replication.throttled.replicas",
    "follower.replication.throttled.replicas",
    "message.format.version",
    "message.downconversion.enable",
];
/// The setting that says whose clock a record's timestamp is.
pub(crate) const TIMESTAMP_TYPE: &str = "message.timestamp.type";
/// What a follower needs, whatever the leader has: bytes as they come, and the times that are in the records.
const FOLLOWER: [(&str, &str); 5] = [
    ("compression.type", "producer"),
    (TIMESTAMP_TYPE, "CreateTime"),
    ("message.timestamp.difference.max.ms", "9223372036854775807"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
];
/// The settings that decide about what a copy keeps, or what it takes: the follower has the leader's values of them, also where those are only the
/// defaults of the leader's cluster.
const ALWAYS: [&str; 4] = [CLEANUP, "retention.ms", "retention.bytes", MAX_MESSAGE_BYTES];
/// How long a cluster's settings of topics are not asked for again: they change rarely, and there are many of them.
const CONFIGS: Duration = Duration::from_mins(1);
/// The setting that says whether a topic is compacted.
pub(super) const CLEANUP: &str = "cleanup.policy";
/// The setting of the most bytes that a batch may have.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
/// The setting of the fewest in-sync replicas with which something may be written.
const MIN_ISR: &str = "min.insync.replicas";
/// Kafka's default of `max.message.bytes`, for topics whose settings we may not see.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// A topic of a mirror: what there is of it on both clusters, and what has to be done on the follower.
#[derive(Debug, Clone, Serialize)]
pub struct TopicPlan {
    /// The topic's name on the mirror's source.
    pub topic: Arc<str>,
    /// The topic's name on the mirror's target.
    pub target: Arc<str>,
    /// The cluster that leads the topic, by its name in the file.
    pub leader: Arc<str>,
    /// The leader's term, from 1 on.
    pub term: i32,
    /// How many partitions the topic has on the leader.
    pub partitions: i32,
    /// What has to be done on the follower.
    pub action: Action,
    /// Settings that the follower is to have otherwise than the leader.
    pub overridden: Vec<Overridden>,
    /// Settings that the follower has otherwise than it should.
    pub drift: Vec<Drift>,
    /// What an operator should know of the follower's settings: sentences.
    pub notes: Vec<String>,
    /// Why the topic cannot be copied; `None` if it can be.
    pub error: Option<String>,
    /// Whether the leader's topic is compacted.
    #[serde(skip)]
    pub compacted: bool,
    /// The follower's `max.message.bytes`, as it is or will be.
    #[serde(skip)]
    pub max_message_bytes: usize,
    /// The topic's id on each cluster, by the cluster's name in the file.
    #[serde(skip)]
    pub topic_ids: BTreeMap<String, String>,
    /// The settings that the follower's topic should have: values by name.
    #[serde(skip)]
    pub config: BTreeMap<String, String>,
    /// The settings that the follower's topic has itself, as opposed to its cluster's defaults: values by name.
    #[serde(skip)]
    pub has: BTreeMap<String, String>,
}

/// A setting that the follower is to have otherwise than the leader. In JSON it is an array of the three, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "(String, String, String)")]
pub struct Overridden {
    /// The setting's name.
    pub name: String,
    /// Its value on the leader.
    pub leader: String,
    /// The value that the follower is to have.
    pub follower: String,
}

/// A setting that the follower has otherwise than it should. In JSON it is an array of the three, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "(String, String, String)")]
pub struct Drift {
    /// The setting's name.
    pub name: String,
    /// The value that the follower should have.
    pub wanted: String,
    /// The value that the follower has.
    pub has: String,
}

impl From<Overridden> for (String, String, String) {
    fn from(Overridden { name, leader, follower }: Overridden) -> Self {
        (name, leader, follower)
    }
}

impl From<Drift> for (String, String, String) {
    fn from(Drift { name, wanted, has }: Drift) -> Self {
        (name, wanted, has)
    }
}

impl TopicPlan {
    /// From which cluster to which the topic is copied.
    pub fn direction(&self, mirror: &Mirror) -> Direction {
        Direction::led_by(mirror, &self.leader).unwrap_or(Direction::Backwards)
    }

    /// The progress of a partition as the mirror's state has it: how far it is copied, and where its offsets are. Nothing is copied if its topic was
    /// created anew since.
    pub fn kept(&self, mirror: &Mirror, state: &State, partition: i32) -> Progress {
        let partition = TopicPartition::new(self.topic.clone(), partition);
        let (direction, map) = (self.direction(mirror), state.map(&partition, mirror.offsets));
        let kept = state.partition(&partition).filter(|kept| kept.topic_ids == self.topic_ids);
        Progress { agreed: kept.map_or(0, |kept| kept.agreed(&self.leader, &map, direction)), map, direction, ..Progress::default() }
    }
}

/// What has to be done on the follower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The topic is there and has all partitions.
    Nothing,
    /// The topic has to be created.
    Create {
        /// How many replicas each partition gets.
        replication_factor: i16,
        /// The topic's settings: values by name.
        config: BTreeMap<String, String>,
    },
    /// The topic has fewer partitions than the leader's.
    Grow {
        /// How many it has.
        from: i32,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Create { replication_factor, config } => {
                write!(f, "created with replication.factor={replication_factor}")?;
                config.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Self::Grow { from } => write!(f, "grown from {from} partitions"),
        }
    }
}

/// One of the two clusters, as it was at the last look.
pub struct Cluster {
    /// The connections to the cluster.
    pub client: Client,
    /// Its brokers and all of its topics.
    pub metadata: Metadata,
    /// Settings of the topics that were asked for, by the topic's name, as they were when the cluster last told.
    configs: HashMap<Arc<str>, Vec<ConfigEntry>>,
    /// The topics whose settings need not be asked for again yet.
    fresh: HashSet<Arc<str>>,
    /// When the oldest of them were asked for, or earlier.
    configs_from: Instant,
}

impl Cluster {
    /// Asks for all topics. Their settings are asked for later, of those that matter.
    ///
    /// # Errors
    /// [`ClientError`] of the cluster's Metadata.
    pub async fn look(client: &Client) -> Result<Self, ClientError> {
        let metadata = client.metadata(Topics::All).await?;
        Ok(Self { client: client.clone(), metadata, configs: HashMap::new(), fresh: HashSet::new(), configs_from: Instant::now() })
    }

    /// Asks for all topics again. Their settings are asked for again a minute after the last time.
    ///
    /// # Errors
    /// [`ClientError`] of the cluster's Metadata; what is known stays as it was.
    pub async fn look_again(&mut self) -> Result<(), ClientError> {
        self.metadata = self.client.metadata(Topics::All).await?;
        if self.configs_from.elapsed() > CONFIGS {
            self.configs_from = Instant::now();
            self.fresh.clear();
        }
        Ok(())
    }

    /// Has a topic's settings asked for again: they were changed.
    pub fn forget_config(&mut self, topic: &str) {
        self.fresh.remove(topic);
    }

    /// The cluster's name in the file.
    pub fn name(&self) -> &Arc<str> {
        &self.client.cluster().name
    }

    /// The topic of this name; `None` if it is not there, or cannot be seen.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        let found = self.metadata.topics.binary_search_by(|topic| (*topic.name).cmp(name)).ok()?;
        Some(&self.metadata.topics[found]).filter(|topic| topic.error.is_none())
    }

    /// Asks for the settings of topics that are there, where it is time to. Those that may not be seen stay as they were known, or unknown: that a
    /// cluster does not tell does not mean that they have changed.
    async fn ask_configs(&mut self, names: &BTreeSet<Arc<str>>) -> Result<(), ClientError> {
        let unknown = names.iter().filter(|name| self.topic(name).is_some() && !self.fresh.contains(*name));
        let resources: Vec<_> = unknown.map(|name| ConfigResource::Topic(name.clone())).collect();
        if resources.is_empty() {
            return Ok(());
        }
        for (resource, entries) in self.client.describe_configs(&resources, None).await {
            if let (ConfigResource::Topic(name), Ok(entries)) = (resource, entries) {
                self.configs.insert(name.clone(), entries);
                self.fresh.insert(name);
            }
        }
        Ok(())
    }

    /// The value of a setting in topics that do not set it; `None` if no such topic is known.
    fn default(&self, key: &str) -> Option<&str> {
        let entries = self.configs.values().flatten().filter(|entry| entry.name == key);
        entries.filter(|entry| entry.source != ConfigSource::Topic).find_map(|entry| entry.value.as_deref())
    }

    /// The value of a topic's setting, as far as it is known.
    fn config(&self, topic: &str, key: &str) -> Option<&str> {
        self.configs.get(topic)?.iter().find(|entry| entry.name == key)?.value.as_deref()
    }
}

/// The topics that a mirror selects, in the order of their names on its source. Asks both clusters for the settings of topics that it needs. `leaders`
/// gives who leads a topic; `None` is the source, in term 1. `led_on_target`: topics that the target leads, and that may be copied also if the source does not
/// have them.
///
/// # Errors
/// [`ClientError`] of one of the clusters.
pub async fn plan(
    mirror: &Mirror,
    source: &mut Cluster,
    target: &mut Cluster,
    leaders: impl Fn(&str) -> Option<Leadership>,
    led_on_target: BTreeSet<Arc<str>>,
) -> Result<Vec<TopicPlan>, ClientError> {
    let selected = |topic: &&Topic| topic.error.is_none() && !topic.internal && mirror.topics.matches(&topic.name);
    let mut names = led_on_target;
    names.retain(|name| target.topic(name).is_some_and(|topic| selected(&topic)) && copies_as(mirror, name));
    names.extend(source.metadata.topics.iter().filter(selected).map(|topic| topic.name.clone()));
    let mut targets: BTreeMap<Arc<str>, Result<Arc<str>, NamingError>> = BTreeMap::new();
    for name in &names {
        targets.insert(name.clone(), mirror.naming.target(name).map(|name| name.as_ref().into()));
    }
    source.ask_configs(&names).await?;
    let on_target: BTreeSet<_> = targets.values().filter_map(|name| name.as_ref().ok().cloned()).collect();
    target.ask_configs(&on_target).await?;
    if target.configs.is_empty()
        && let Some(any) = target.metadata.topics.iter().find(|topic| topic.error.is_none())
    {
        target.ask_configs(&BTreeSet::from([any.name.clone()])).await?;
    }
    let plans = names.iter().map(|name| {
        let leadership = leaders(name).unwrap_or_else(|| Leadership { leader: source.name().to_string(), term: 1 });
        let direction = Direction::led_by(mirror, &leadership.leader).unwrap_or(Direction::Backwards);
        match &targets[name] {
            Ok(renamed) => {
                let (leader, follower) = direction.leader_first((&*source, name), (&*target, renamed));
                one(mirror, name, leader, follower, leadership.term)
            }
            Err(error) => TopicPlan { error: Some(error.to_string()), ..TopicPlan::new(name, name, source.name(), leadership.term) },
        }
    });
    let mut plans: Vec<_> = plans.collect();
    for plan in &mut plans {
        plan.target = targets[&plan.topic].as_ref().map_or_else(|_| plan.topic.clone(), Arc::clone);
        let dead_letters = dead_letter_topic(&plan.target);
        if let Some(why) = no_room_for_dead_letters(&plan.target).filter(|_| mirror.on_error == OnError::DeadLetter) {
            let way_out = "give it a shorter name on the target in [mirrors.rename], or set on_error = \"fail\" or \"skip\"";
            plan.error.get_or_insert_with(|| format!("{why}: {way_out}"));
        }
        if mirror.on_error == OnError::DeadLetter && on_target.contains(&*dead_letters) {
            plan.error.get_or_insert_with(|| {
                format!(
                    "its dead letters would go to {dead_letters}, which is a copy itself: leave that one out with exclude_regex, rename it in \
                     [mirrors.rename], or set on_error = \"fail\" or \"skip\""
                )
            });
        }
    }
    Ok(plans)
}

/// The plan of a topic as it will be when the other cluster has become its leader, by what was seen when it was planned. `None`: it is not known, or has to be
/// looked at first.
pub(crate) fn turned(mirror: &Mirror, source: &Cluster, target: &Cluster, plan: &TopicPlan) -> Option<TopicPlan> {
    // What cannot be copied does not move, and neither does what has another name there.
    if plan.error.is_some() || plan.action != Action::Nothing || plan.topic != plan.target {
        return None;
    }
    let (follower, leader) = plan.direction(mirror).leader_first(source, target);
    let turned = one(mirror, &plan.topic, (leader, &plan.topic), (follower, &plan.topic), plan.term + 1);
    (turned.error.is_none() && turned.action == Action::Nothing).then_some(turned)
}

impl TopicPlan {
    pub(crate) fn new(topic: &Arc<str>, target: &Arc<str>, leader: &Arc<str>, term: i32) -> Self {
        Self {
            topic: topic.clone(),
            target: target.clone(),
            leader: leader.clone(),
            term,
            partitions: 0,
            action: Action::Nothing,
            overridden: Vec::new(),
            drift: Vec::new(),
            notes: Vec::new(),
            error: None,
            compacted: false,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            topic_ids: BTreeMap::new(),
            config: BTreeMap::new(),
            has: BTreeMap::new(),
        }
    }
}

/// The plan of one topic, with its name on the cluster that leads it and on the one that follows. Its `target` is the follower's name.
fn one(
    mirror: &Mirror,
    topic: &Arc<str>,
    (leader, on_leader): (&Cluster, &Arc<str>),
    (follower, on_follower): (&Cluster, &Arc<str>),
    term: i32,
) -> TopicPlan {
    let mut plan = TopicPlan::new(topic, on_follower, leader.name(), term);
    let Some(there) = leader.topic(on_leader) else {
        plan.error = Some(format!("{on_leader} is not on {}, which leads it", leader.name()));
        return plan;
    };
    plan.partitions = there.partitions.len() as i32;
    let Some(settings) = leader.configs.get(on_leader) else {
        plan.error = Some(format!(
            "its settings on {} cannot be seen, and so not whether it is compacted, nor how long its records are kept; grant DESCRIBE_CONFIGS on the \
             topic there",
            leader.name()
        ));
        return plan;
    };
    plan.compacted = leader.config(on_leader, CLEANUP).is_some_and(|policy| policy.contains("compact"));
    let copy = follower.topic(on_follower);
    for (cluster, found) in [(leader, Some(there)), (follower, copy)] {
        if let Some(id) = found.and_then(|found| found.id) {
            plan.topic_ids.insert(cluster.name().to_string(), id.to_string());
        }
    }
    let brokers = follower.metadata.brokers.len().max(1);
    let replicas = there.partitions.first().map_or(1, |partition| partition.replicas.len());
    let replication_factor = mirror.replication_factor.map_or(replicas.min(brokers), usize::from);
    // A topic that is there has as many as it has.
    let has_replicas = copy.and_then(|copy| copy.partitions.first()).map_or(replication_factor, |partition| partition.replicas.len());
    let (config, notes) = config(mirror, settings, follower, has_replicas);
    plan.max_message_bytes = config.get(MAX_MESSAGE_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(DEFAULT_MAX_MESSAGE_BYTES);
    plan.notes = notes;
    for (key, wanted) in &config {
        if let Some(value) = leader.config(on_leader, key)
            && value != wanted
        {
            plan.overridden.push(Overridden { name: key.clone(), leader: value.to_owned(), follower: wanted.clone() });
        }
    }
    plan.config.clone_from(&config);
    match copy {
        None => plan.action = Action::Create { replication_factor: replication_factor as i16, config },
        Some(copy) => {
            let own = follower.configs.get(on_follower).into_iter().flatten().filter(|entry| entry.source == ConfigSource::Topic);
            plan.has = own.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect();
            let has = copy.partitions.len() as i32;
            if has < plan.partitions {
                plan.action = Action::Grow { from: has };
            } else if has > plan.partitions {
                plan.error = Some(format!(
                    "{on_follower} on {} has {has} partitions, {on_leader} on {} has {}: records with a key would go to other partitions; grow the \
                     leader's topic, or delete the follower's",
                    follower.name(),
                    leader.name(),
                    plan.partitions
                ));
            }
            for (key, wanted) in &config {
                if let Some(value) = follower.config(on_follower, key)
                    && value != wanted
                {
                    plan.drift.push(Drift { name: key.clone(), wanted: wanted.clone(), has: value.to_owned() });
                }
            }
            if let Some(Drift { name, wanted, has }) = plan.drift.iter().find(|drift| drift.name == TIMESTAMP_TYPE) {
                plan.error = Some(format!(
                    "{on_follower} on {} has {name} = {has}: its broker would put its own time into every record; set it to {wanted}",
                    follower.name()
                ));
            }
        }
    }
    plan
}

/// The settings that the follower's topic should have, values by name, and notes about those of the leader's that it cannot have.
fn config(
    mirror: &Mirror,
    leaders: &[ConfigEntry],
    follower: &Cluster,
    replication_factor: usize,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut notes = Vec::new();
    let mut config = BTreeMap::new();
    // Brokers of a version know the same settings for every topic, so any topic of theirs will do.
    let known: Option<BTreeSet<&str>> =
        follower.configs.values().next().map(|entries| entries.iter().map(|entry| entry.name.as_str()).collect());
    let has = |key: &str| known.as_ref().is_none_or(|known| known.contains(key));
    for entry in leaders {
        let Some(value) = &entry.value else { continue };
        // What is only Kafka's default on the leader is left to the follower's version.
        let set = !matches!(entry.source, ConfigSource::Default | ConfigSource::Other(_)) || ALWAYS.contains(&entry.name.as_str());
        if !set || LEFT_OUT.contains(&entry.name.as_str()) || FOLLOWER.iter().any(|(key, _)| *key == entry.name) {
            continue;
        }
        if !has(&entry.name) || entry.name.starts_with("remote.") || entry.name.starts_with("local.retention.") {
            notes.push(format!(
                "{} = {value} is left out: {} does not have it, or it is about remote storage",
                entry.name,
                follower.name()
            ));
            continue;
        }
        config.insert(entry.name.clone(), value.clone());
    }
    // Of the two ways to bound timestamps (KIP-937) brokers know one or both.
    let newer = has("message.timestamp.after.max.ms");
    for (key, value) in FOLLOWER {
        let fits = match key {
            "message.timestamp.difference.max.ms" => !newer,
            "message.timestamp.before.max.ms" | "message.timestamp.after.max.ms" => newer,
            _ => true,
        };
        if fits {
            config.insert(key.to_owned(), value.to_owned());
        }
    }
    for (key, value) in &mirror.topic_config {
        config.insert(key.clone(), value.clone());
    }
    // 2.8 holds to it even where there are fewer replicas, 4.x does not (`Partition.effectiveMinIsr`).
    if let Some(min) =
        config.get(MIN_ISR).map(String::as_str).or_else(|| follower.default(MIN_ISR)).and_then(|min| min.parse::<usize>().ok())
        && min > replication_factor
    {
        notes.push(format!("{MIN_ISR} = {min} becomes {replication_factor}, its replication factor: nothing could be written otherwise"));
        config.insert(MIN_ISR.to_owned(), replication_factor.to_string());
    }
    (config, notes)
}

/// Does on the follower what the plan's action says. `padded` says that a partition has to be filled up to its leader's log start first: a compacted
/// topic is created without compaction then, since padding has no keys, and nothing can be deleted from a compacted topic; [`changes`] has it compacted later.
///
/// # Errors
/// [`ClientError`] of the follower's cluster: the topic was not created or grown, or it is not known whether it was. Settings that its brokers refuse
/// are no error: they are left out.
pub async fn apply(plan: &TopicPlan, on_follower: &Arc<str>, follower: &Client, padded: bool) -> Result<(), ClientError> {
    match &plan.action {
        Action::Nothing => Ok(()),
        Action::Create { replication_factor, config } => {
            let mut config = config.clone();
            if padded && plan.compacted {
                config.insert(CLEANUP.to_owned(), "delete".to_owned());
            }
            let create = async |config: Vec<(String, String)>, validate_only| {
                let partitions = NewPartitions::Count { partitions: Some(plan.partitions), replication_factor: Some(*replication_factor) };
                let topic = NewTopic { name: on_follower.to_string(), partitions, configs: config };
                follower.create_topics(&[topic], validate_only).await.into_values().next().map_or(Ok(()), |created| created.map(drop))
            };
            let mut config: Vec<_> = config.into_iter().collect();
            match create(config.clone(), false).await {
                Err(error) if is_setting(&error) => {}
                done => return done,
            }
            // A value that one version takes, another may not: 4.3 has a least `segment.bytes`. Which one it is, each alone tells.
            let mut kept = Vec::new();
            for setting in config.drain(..) {
                match create(vec![setting.clone()], true).await {
                    Err(error) if is_setting(&error) => {
                        let setting = format!("{} = {}", setting.0, setting.1);
                        kferry_wire::tell!(crate::messages::SETTING_REFUSED, topic = &**on_follower, setting, %error);
                    }
                    Err(error) => return Err(error),
                    Ok(()) => kept.push(setting),
                }
            }
            create(kept, false).await
        }
        Action::Grow { .. } => follower.create_partitions(on_follower, plan.partitions, None, false).await,
    }
}

/// Whether a topic was refused because of a setting: 2.8 has the more general error for it.
fn is_setting(error: &ClientError) -> bool {
    matches!(error.code(), Some(ResponseError::InvalidConfig | ResponseError::InvalidRequest))
}

/// The `cleanup.policy` that the follower's topic still has to get, if it was [created](apply) without compaction.
pub fn awaits_compaction(plan: &TopicPlan) -> Option<&str> {
    let drift = plan.drift.iter().find(|drift| drift.name == CLEANUP)?;
    (plan.compacted && !drift.has.contains("compact")).then_some(drift.wanted.as_str())
}

impl TopicPlan {
    /// The settings by which the follower keeps less than the leader, each with both values. `stays` says whether what differs by itself stays so.
    pub(crate) fn keeps_less(&self, stays: bool) -> Vec<String> {
        let drift = self.drift.iter().filter(|_| stays).map(|drift| (&drift.name, &drift.wanted, &drift.has));
        let overridden = self.overridden.iter().map(|overridden| (&overridden.name, &overridden.leader, &overridden.follower));
        let less = drift.chain(overridden).filter(|(name, leader, follower)| keeps_less(name, follower, leader));
        less.map(|(name, leader, follower)| format!("{name} = {follower} (the leader's is {leader})")).collect()
    }

    /// Whether the follower is to get a setting that records need not obey which the leader had before: it would refuse them.
    pub(crate) fn becomes_stricter(&self) -> bool {
        self.drift.iter().any(is_stricter)
    }

    /// Whether what differs on the follower is going to be the leader's, by itself. `translates`: offsets are translated, so others may write to the
    /// follower's topic and have records there.
    pub fn will_change(&self, drift: &Drift, translates: bool) -> bool {
        !(translates && keeps_less(&drift.name, &drift.wanted, &drift.has))
    }

    /// Whether either cluster's topic is compacted, or is going to be: each compacts by its own settings.
    pub fn is_compacted_somewhere(&self) -> bool {
        self.compacted || self.drift.iter().any(|drift| drift.name == CLEANUP && drift.has.contains("compact"))
    }
}

/// Whether a topic with the one value of a setting may delete what it keeps with the other.
fn keeps_less(name: &str, value: &str, than: &str) -> bool {
    // Kafka's -1 is without a limit.
    let limit = |value: &str| value.parse::<i64>().ok().map(|value| if value < 0 { i64::MAX } else { value });
    match name {
        "retention.ms" | "retention.bytes" => limit(value) < limit(than),
        CLEANUP => value.split(',').any(|policy| !than.split(',').any(|has| has.trim() == policy.trim())),
        _ => false,
    }
}

/// Whether brokers refuse a record under the setting that is wanted which they take as it is: a compacted topic takes none without a key.
fn is_stricter(drift: &Drift) -> bool {
    match drift.name.as_str() {
        CLEANUP => drift.wanted.contains("compact") && !drift.has.contains("compact"),
        MAX_MESSAGE_BYTES => drift.wanted.parse::<i64>().ok() < drift.has.parse::<i64>().ok(),
        _ => false,
    }
}

/// A change of a setting of the follower's topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// The setting's name.
    pub name: String,
    /// The value that it is to have; `None` is that of the cluster.
    pub value: Option<String>,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value.as_deref().unwrap_or("(the cluster's)"))
    }
}

/// What has to be changed about the settings of a follower's topic so that they go on being the leader's. `before` are the settings that the plan before
/// wanted: what the leader set then, and sets no more, goes from the follower too. A setting that is [stricter](TopicPlan::becomes_stricter) waits until
/// the follower has what the leader had under the one before (`caught_up`). Where offsets are translated (`translates`) nothing is set that would have
/// the broker delete records of others.
pub(crate) fn changes(
    plan: &TopicPlan,
    before: Option<&BTreeMap<String, String>>,
    caught_up: bool,
    translates: bool,
) -> Vec<SettingChange> {
    let drift = plan.drift.iter().filter(|drift| plan.will_change(drift, translates) && (caught_up || !is_stricter(drift)));
    let set = drift.map(|drift| SettingChange { name: drift.name.clone(), value: Some(drift.wanted.clone()) });
    let is_kept = |name: &str| translates && (name == CLEANUP || name.starts_with("retention."));
    let gone = before
        .into_iter()
        .flatten()
        .filter(|(name, value)| !plan.config.contains_key(*name) && plan.has.get(*name) == Some(value) && !is_kept(name));
    set.chain(gone.map(|(name, _)| SettingChange { name: name.clone(), value: None })).collect()
}

/// What has to be changed about a topic on the target for its settings to be those that it has on the source, where a copy needs others: a value that is set
/// there is set here, and of the others the target's defaults are in force. What the file sets itself stays.
pub(crate) fn of_its_own(mirror: &Mirror, source: &Cluster, topic: &str, target: &Cluster, on_target: &str) -> Vec<SettingChange> {
    let set = |cluster: &Cluster, topic: &str, key: &str| {
        let entry = cluster.configs.get(topic)?.iter().find(|entry| entry.name == key && entry.source == ConfigSource::Topic)?;
        entry.value.clone()
    };
    let known = |key: &str| target.configs.get(on_target).is_some_and(|entries| entries.iter().any(|entry| entry.name == key));
    let of_a_copy = FOLLOWER.iter().map(|(key, _)| *key).filter(|key| known(key) && !mirror.topic_config.contains_key(*key));
    of_a_copy
        .map(|key| SettingChange { name: key.to_owned(), value: set(source, topic, key) })
        .filter(|change| set(target, on_target, &change.name) != change.value)
        .collect()
}

/// Changes settings of the follower's topic. Those that its brokers refuse because of the value are given back; the others are changed.
///
/// # Errors
/// [`ClientError`] of the follower's cluster: some are as they were, or it is not known whether they are.
pub(crate) async fn alter(on_follower: &Arc<str>, follower: &Client, changes: &[SettingChange]) -> Result<Vec<SettingChange>, ClientError> {
    let alter = async |changes: &[SettingChange]| {
        let change = |change: &SettingChange| (change.name.clone(), change.value.clone().map_or(ConfigChange::Delete, ConfigChange::Set));
        let changes = BTreeMap::from([(ConfigResource::Topic(on_follower.clone()), changes.iter().map(change).collect())]);
        follower.incremental_alter_configs(&changes, false).await.into_values().next().unwrap_or(Ok(()))
    };
    match alter(changes).await {
        Err(error) if is_setting(&error) => {}
        done => return done.map(|()| Vec::new()),
    }
    // Which one it is, each alone tells.
    let mut refused = Vec::new();
    for change in changes {
        match alter(std::slice::from_ref(change)).await {
            Err(error) if is_setting(&error) => {
                kferry_wire::tell!(crate::messages::SETTING_NOT_CHANGED, topic = &**on_follower, setting = %change, %error);
                refused.push(change.clone());
            }
            done => done?,
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_config::Config;
    use kferry_wire::client::Partition;
    use kferry_wire::connection::ConnectOptions;

    use super::*;

    #[test]
    fn settings_follow_and_compaction_waits_until_all_is_copied() {
        let text = str::to_owned;
        let drift = |name: &str, wanted: &str, has: &str| Drift { name: text(name), wanted: text(wanted), has: text(has) };
        let mut plan = TopicPlan::new(&"orders".into(), &"orders".into(), &"old".into(), 1);
        plan.config = BTreeMap::from([(text("retention.ms"), text("2")), (text(CLEANUP), text("compact"))]);
        plan.has = BTreeMap::from([(text("segment.ms"), text("7")), (text("segment.bytes"), text("8"))]);
        plan.compacted = true;
        plan.drift = vec![drift("retention.ms", "2", "1"), drift(CLEANUP, "compact", "delete")];
        let change = |name: &str, value: Option<&str>| SettingChange { name: text(name), value: value.map(text) };
        let (retention, policy) = (change("retention.ms", Some("2")), change(CLEANUP, Some("compact")));
        assert_eq!(changes(&plan, None, false, false), std::slice::from_ref(&retention));
        assert_eq!(changes(&plan, None, true, false), [retention.clone(), policy]);
        // To be compacted would delete records of others, to keep records for longer does not.
        assert_eq!(changes(&plan, None, true, true), std::slice::from_ref(&retention));
        // Of what the leader set before and sets no more, only what has come from there goes.
        let before =
            BTreeMap::from([(text("segment.ms"), text("7")), (text("segment.bytes"), text("9")), (text("retention.ms"), text("1"))]);
        assert_eq!(changes(&plan, Some(&before), false, false), [retention, change("segment.ms", None)]);
        plan.drift = vec![drift("retention.ms", "1", "-1"), drift(MAX_MESSAGE_BYTES, "1000", "2000"), drift("segment.ms", "1", "2")];
        assert!(plan.becomes_stricter());
        let names =
            |caught_up, translates| changes(&plan, None, caught_up, translates).into_iter().map(|change| change.name).collect::<Vec<_>>();
        assert_eq!(names(false, false), ["retention.ms", "segment.ms"]);
        assert_eq!(names(true, false), ["retention.ms", MAX_MESSAGE_BYTES, "segment.ms"]);
        assert_eq!(names(true, true), [MAX_MESSAGE_BYTES, "segment.ms"]);
        plan.drift.clear();
        assert!(!plan.becomes_stricter());
        assert_eq!(changes(&plan, None, true, false), []);
    }

    /// With the topic `orders` of one partition, and its settings, if they are known.
    fn cluster(mirror: &Mirror, of: &str, settings: Option<&[(&str, &str)]>) -> Cluster {
        let cluster = if *mirror.source.name == *of { &mirror.source } else { &mirror.target };
        let partition = Partition { index: 0, leader: Some(1), leader_epoch: 0, replicas: vec![1], isr: vec![1], error: None };
        let topic = Topic { name: "orders".into(), id: None, internal: false, error: None, partitions: vec![partition] };
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            source: ConfigSource::Topic,
            sensitive: false,
            read_only: false,
        };
        Cluster {
            client: Client::new(cluster.clone(), ConnectOptions::default()),
            configs: settings.iter().map(|settings| ("orders".into(), settings.iter().map(entry).collect())).collect(),
            fresh: HashSet::new(),
            configs_from: Instant::now(),
            metadata: Metadata { cluster_id: None, brokers: Vec::new(), controller: None, topics: vec![topic] },
        }
    }

    #[test]
    fn settings_that_cannot_be_seen_change_nothing() {
        let text = "[clusters.old]\nid = 1\nbootstrap_servers = \"old:9092\"\n[clusters.new]\nid = 2\nbootstrap_servers = \"new:9092\"\n\
                    [[mirrors]]\nname = \"m\"\nsource = \"old\"\ntarget = \"new\"\ntopics = [\"orders\"]\n";
        let mirror = Config::parse(text, Path::new("routes.toml")).unwrap().mirrors[0].clone();
        let settings = [(CLEANUP, "compact"), ("retention.ms", "-1")];
        let target = cluster(&mirror, "new", Some(&settings));
        let plan = |source: &Cluster| one(&mirror, &"orders".into(), (source, &"orders".into()), (&target, &"orders".into()), 1);
        let known = plan(&cluster(&mirror, "old", Some(&settings)));
        assert!(known.error.is_none() && known.compacted && known.config.contains_key("retention.ms"), "{known:?}");
        let unknown = plan(&cluster(&mirror, "old", None));
        assert!(unknown.error.as_ref().is_some_and(|error| error.contains("grant DESCRIBE_CONFIGS")), "{unknown:?}");
        assert_eq!(unknown.action, Action::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn settings_that_a_cluster_does_not_tell_again_stay_as_they_were_known() {
        let text = "[clusters.old]\nid = 1\nbootstrap_servers = \"127.0.0.1:1\"\n[clusters.new]\nid = 2\nbootstrap_servers = \"new:9092\"\n\
                    [[mirrors]]\nname = \"m\"\nsource = \"old\"\ntarget = \"new\"\ntopics = [\"orders\"]\n";
        let mirror = Config::parse(text, Path::new("routes.toml")).unwrap().mirrors[0].clone();
        let mut source = cluster(&mirror, "old", Some(&[(CLEANUP, "compact")]));
        // Nobody is there to be asked.
        source.ask_configs(&BTreeSet::from(["orders".into()])).await.unwrap();
        assert_eq!(source.config("orders", CLEANUP), Some("compact"));
    }

    #[test]
    fn a_follower_that_keeps_less_is_seen() {
        let text = str::to_owned;
        let less = |name: &str, leader: &str, follower: &str| {
            let mut plan = TopicPlan::new(&"orders".into(), &"orders".into(), &"old".into(), 1);
            plan.drift = vec![Drift { name: text(name), wanted: text(leader), has: text(follower) }];
            let drift = plan.keeps_less(true);
            assert!(plan.keeps_less(false).is_empty(), "it is changed");
            plan.drift.clear();
            plan.overridden = vec![Overridden { name: text(name), leader: text(leader), follower: text(follower) }];
            assert_eq!(plan.keeps_less(false), drift);
            !drift.is_empty()
        };
        assert!(less("retention.ms", "-1", "1") && less("retention.ms", "2", "1") && less("retention.bytes", "-1", "100"));
        assert!(!less("retention.ms", "1", "-1") && !less("retention.ms", "1", "2") && !less("retention.bytes", "100", "-1"));
        assert!(
            less(CLEANUP, "compact", "delete") && less(CLEANUP, "delete", "compact,delete") && !less(CLEANUP, "compact,delete", "delete")
        );
        assert!(!less("segment.bytes", "2", "1"));
    }

    #[test]
    fn in_json_a_setting_is_an_array_of_its_name_and_two_values() {
        let text = str::to_owned;
        let overridden = Overridden { name: text("compression.type"), leader: text("zstd"), follower: text("producer") };
        assert_eq!(serde_json::to_string(&overridden).unwrap(), r#"["compression.type","zstd","producer"]"#);
        let drift = Drift { name: text("retention.ms"), wanted: text("-1"), has: text("60000") };
        assert_eq!(serde_json::to_string(&drift).unwrap(), r#"["retention.ms","-1","60000"]"#);
    }
}
