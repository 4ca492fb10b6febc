//! Which topics a mirror copies, and what the follower's must be like: as a plan, and carried out.
//!
//! # References
//! - `org.apache.kafka.common.config.TopicConfig`; `DescribeConfigsResponse.ConfigSource`

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kferry_config::{Mirror, NamingError, OnError};
use kferry_wire::admin::configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource};
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::client::{Client, ClientError, Metadata, Topic, TopicPartition, Topics};
use serde::Serialize;

use crate::own_topics::dead_letter_topic;
use crate::partition::{Direction, Leadership, Progress};
use crate::state::State;

/// Settings that belong to the brokers of one cluster, or say how bytes are kept and not what they are.
const LEFT_OUT: [&str; 4] = [
    "leader.replication.throttled.replicas",
    "follower.replication.throttled.replicas",
    "message.format.version",
    "message.downconversion.enable",
];
/// What a follower needs, whatever the leader has: bytes as they come, and the times that are in the records.
const FOLLOWER: [(&str, &str); 5] = [
    ("compression.type", "producer"),
    ("message.timestamp.type", "CreateTime"),
    ("message.timestamp.difference.max.ms", "9223372036854775807"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
];
/// How long settings are believed. They change rarely, and there are many of them.
const CONFIGS: Duration = Duration::from_mins(1);
const CLEANUP: &str = "cleanup.policy";
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const MIN_ISR: &str = "min.insync.replicas";
/// Kafka's default of `max.message.bytes`, for topics whose settings we may not see.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// A topic of a mirror: what there is, and what has to be done.
#[derive(Debug, Clone, Serialize)]
pub struct TopicPlan {
    /// Its name on the mirror's source.
    pub topic: Arc<str>,
    /// Its name on the mirror's target.
    pub target: Arc<str>,
    /// The leading cluster.
    pub leader: Arc<str>,
    /// Its term.
    pub term: i32,
    /// The leader's partitions.
    pub partitions: i32,
    /// What has to be done on the follower.
    pub action: Action,
    /// Settings that the follower shall not have as the leader has them: name, the leader's value, the follower's.
    pub overridden: Vec<(String, String, String)>,
    /// Settings in which the follower is not as it should be: name, the value that it should have, the one that it has.
    pub drift: Vec<(String, String, String)>,
    /// What an operator should know.
    pub notes: Vec<String>,
    /// Why it cannot be copied.
    pub error: Option<String>,
    /// Whether the leader compacts it.
    #[serde(skip)]
    pub compacted: bool,
    /// The follower's.
    #[serde(skip)]
    pub max_message_bytes: usize,
    /// The topic's ids, by cluster.
    #[serde(skip)]
    pub topic_ids: BTreeMap<String, String>,
}

impl TopicPlan {
    /// From which side of the mirror to which other one it is copied.
    pub fn direction(&self, mirror: &Mirror) -> Direction {
        if self.leader == mirror.source.name { Direction::Forwards } else { Direction::Backwards }
    }

    /// What was kept of a partition, as somebody who asks for an offset needs it; nothing if its topic is another one by now.
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
    /// It is there, as it should be.
    Nothing,
    /// It has to be created.
    Create {
        /// Replicas of each partition.
        replication_factor: i16,
        /// Its settings.
        config: BTreeMap<String, String>,
    },
    /// It has too few partitions.
    Grow {
        /// So many.
        from: i32,
    },
}

/// One of the two clusters, as it is now.
pub struct Cluster {
    /// How to ask it.
    pub client: Client,
    /// Brokers and topics.
    pub metadata: Metadata,
    /// Settings of topics, by name.
    configs: HashMap<Arc<str>, Vec<ConfigEntry>>,
    configs_from: Instant,
}

impl Cluster {
    /// Asks for all topics. Their settings are asked for later, of those that matter.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn look(client: &Client) -> Result<Self, ClientError> {
        let metadata = client.metadata(Topics::All).await?;
        Ok(Self { client: client.clone(), metadata, configs: HashMap::new(), configs_from: Instant::now() })
    }

    /// Asks for all topics again. What is known of their settings is kept for a minute.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn look_again(&mut self) -> Result<(), ClientError> {
        self.metadata = self.client.metadata(Topics::All).await?;
        if self.configs_from.elapsed() > CONFIGS {
            (self.configs, self.configs_from) = (HashMap::new(), Instant::now());
        }
        Ok(())
    }

    /// What was known of a topic's settings is not so any more.
    pub fn forget_config(&mut self, topic: &str) {
        self.configs.remove(topic);
    }

    /// The cluster's name in the file.
    pub fn name(&self) -> &Arc<str> {
        &self.client.cluster().name
    }

    /// A topic, if it is there.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        let found = self.metadata.topics.binary_search_by(|topic| (*topic.name).cmp(name)).ok()?;
        Some(&self.metadata.topics[found]).filter(|topic| topic.error.is_none())
    }

    async fn ask_configs(&mut self, names: &BTreeSet<Arc<str>>) -> Result<(), ClientError> {
        let unknown = names.iter().filter(|name| self.topic(name).is_some() && !self.configs.contains_key(*name));
        let resources: Vec<_> = unknown.map(|name| ConfigResource::Topic(name.clone())).collect();
        if resources.is_empty() {
            return Ok(());
        }
        for (resource, entries) in self.client.describe_configs(&resources, None).await {
            if let (ConfigResource::Topic(name), Ok(entries)) = (resource, entries) {
                self.configs.insert(name, entries);
            }
        }
        Ok(())
    }

    /// What a topic has that does not set it, as far as a topic is known that does not.
    fn default(&self, key: &str) -> Option<&str> {
        let entries = self.configs.values().flatten().filter(|entry| entry.name == key);
        entries.filter(|entry| entry.source != ConfigSource::Topic).find_map(|entry| entry.value.as_deref())
    }

    fn config(&self, topic: &str, key: &str) -> Option<&str> {
        self.configs.get(topic)?.iter().find(|entry| entry.name == key)?.value.as_deref()
    }
}

/// The topics of a mirror, by the names on its source. Asks both clusters for the settings that it needs.
///
/// `known` is a topic of the follower's cluster by which its settings are known: those that it does not have cannot be set.
///
/// # Errors
/// [`ClientError`]: nothing can be said then.
pub async fn plan(
    mirror: &Mirror,
    source: &mut Cluster,
    target: &mut Cluster,
    leaders: impl Fn(&str) -> Option<Leadership>,
) -> Result<Vec<TopicPlan>, ClientError> {
    let selected = |topic: &&Topic| topic.error.is_none() && !topic.internal && mirror.topics.matches(&topic.name);
    let names: Vec<_> = source.metadata.topics.iter().filter(selected).map(|topic| topic.name.clone()).collect();
    let mut targets: BTreeMap<Arc<str>, Result<Arc<str>, NamingError>> = BTreeMap::new();
    for name in &names {
        targets.insert(name.clone(), mirror.naming.target(name).map(|name| name.as_ref().into()));
    }
    source.ask_configs(&names.iter().cloned().collect()).await?;
    let on_target: BTreeSet<_> = targets.values().filter_map(|name| name.as_ref().ok().cloned()).collect();
    target.ask_configs(&on_target).await?;
    if target.configs.is_empty()
        && let Some(any) = target.metadata.topics.iter().find(|topic| topic.error.is_none())
    {
        target.ask_configs(&BTreeSet::from([any.name.clone()])).await?;
    }
    let plans = names.iter().map(|name| {
        let leader = leaders(name).unwrap_or_else(|| Leadership { leader: source.name().to_string(), term: 1 });
        match &targets[name] {
            Ok(renamed) if leader.leader == **source.name() => one(mirror, name, (source, name), (target, renamed), leader.term),
            Ok(renamed) => one(mirror, name, (target, renamed), (source, name), leader.term),
            Err(error) => TopicPlan { error: Some(error.to_string()), ..TopicPlan::new(name, name, source.name(), leader.term) },
        }
    });
    let mut plans: Vec<_> = plans.collect();
    for plan in &mut plans {
        plan.target = targets[&plan.topic].as_ref().map_or_else(|_| plan.topic.clone(), Arc::clone);
        let dead_letters = dead_letter_topic(&plan.target);
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
        }
    }
}

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
    let (config, notes) = config(mirror, leader, on_leader, follower, replication_factor);
    plan.max_message_bytes = config.get(MAX_MESSAGE_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(DEFAULT_MAX_MESSAGE_BYTES);
    plan.notes = notes;
    for (key, wanted) in &config {
        if let Some(value) = leader.config(on_leader, key)
            && value != wanted
        {
            plan.overridden.push((key.clone(), value.to_owned(), wanted.clone()));
        }
    }
    match copy {
        None => plan.action = Action::Create { replication_factor: replication_factor as i16, config },
        Some(copy) => {
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
                    plan.drift.push((key.clone(), wanted.clone(), value.to_owned()));
                }
            }
            if let Some((key, wanted, value)) = plan.drift.iter().find(|(key, ..)| key == "message.timestamp.type") {
                plan.error = Some(format!(
                    "{on_follower} on {} has {key} = {value}: its broker would put its own time into every record; set it to {wanted}",
                    follower.name()
                ));
            }
        }
    }
    plan
}

/// The settings that the follower's topic should have, and what of the leader's it cannot.
fn config(
    mirror: &Mirror,
    leader: &Cluster,
    topic: &str,
    follower: &Cluster,
    replication_factor: usize,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut notes = Vec::new();
    let mut config = BTreeMap::new();
    // Brokers of a version know the same settings for every topic, so any topic of theirs will do.
    let known: Option<BTreeSet<&str>> =
        follower.configs.values().next().map(|entries| entries.iter().map(|entry| entry.name.as_str()).collect());
    let has = |key: &str| known.as_ref().is_none_or(|known| known.contains(key));
    let Some(entries) = leader.configs.get(topic) else {
        notes.push(format!("its settings on {} cannot be seen; grant DESCRIBE_CONFIGS on the topic there", leader.name()));
        return (config, notes);
    };
    for entry in entries {
        let Some(value) = &entry.value else { continue };
        // What is only Kafka's default on the leader is left to the follower's version, save for the size that must fit.
        let set = !matches!(entry.source, ConfigSource::Default | ConfigSource::Other(_)) || entry.name == MAX_MESSAGE_BYTES;
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

/// Creates or grows the follower's topic. `padded` says that a partition has to be filled up first: a compacted topic is created without
/// compaction then, since padding has no keys, and nothing can be deleted from it; see [`compact`].
///
/// # Errors
/// [`ClientError`]
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

/// Whether the follower's topic still waits for its compaction: see [`apply`].
pub fn awaits_compaction(plan: &TopicPlan) -> Option<&str> {
    let drift = plan.drift.iter().find(|(key, ..)| key == CLEANUP)?;
    (plan.compacted && !drift.2.contains("compact")).then_some(drift.1.as_str())
}

/// Gives the follower's topic its compaction.
///
/// # Errors
/// [`ClientError`]
pub async fn compact(on_follower: &Arc<str>, follower: &Client, policy: &str) -> Result<(), ClientError> {
    let change = (CLEANUP.to_owned(), ConfigChange::Set(policy.to_owned()));
    let changes = BTreeMap::from([(ConfigResource::Topic(on_follower.clone()), vec![change])]);
    follower.incremental_alter_configs(&changes, false).await.into_values().next().unwrap_or(Ok(()))
}
