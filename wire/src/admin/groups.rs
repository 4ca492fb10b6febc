//! Consumer groups and the offsets that they committed.
//!
//! # References
//! - KIP-709 (OffsetFetch of many groups), KIP-447 (`require_stable`), KIP-518 (states in ListGroups), KIP-848 (groups of type `consumer`)
//! - `KafkaAdminClient.describeConsumerGroups`: first as a group of the new protocol, then as a classic one

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, DescribeGroupsRequest, GroupId, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};

use super::acls::Operations;
use super::{by_topic, text, topic_name};
use crate::client::{Answers, Asked, Client, ClientError, CoordinatorKind, Coordinators, Resend, Subject, TopicPartition, Topics};
use crate::connection::Connection;

const LIST_GROUPS: VersionRange = VersionRange { min: 0, max: 5 };
/// States are in ListGroups from here on.
const LIST_GROUPS_BY_STATE: i16 = 4;
/// Types too.
const LIST_GROUPS_BY_TYPE: i16 = 5;
/// Version 2 is the first that takes no topics for all of them, 10 has ids for names.
const OFFSET_FETCH: VersionRange = VersionRange { min: 2, max: 9 };
/// Only stable offsets.
const OFFSET_FETCH_STABLE: VersionRange = VersionRange { min: 7, max: 9 };
/// Many groups in one request.
const OFFSET_FETCH_MANY: i16 = 8;
/// Those with a retention time (KIP-211 took it away); brokers of all releases know version 2.
const OFFSET_COMMIT_RETENTION: VersionRange = VersionRange { min: 2, max: 4 };
const OFFSET_COMMIT: VersionRange = VersionRange { min: 2, max: 9 };
const OFFSET_DELETE: VersionRange = VersionRange { min: 0, max: 0 };
const DESCRIBE_GROUPS: VersionRange = VersionRange { min: 0, max: 6 };
/// Those with authorized operations (KIP-430) in which a group that does not exist, or is of another type, is one that is dead: from version 6
/// on (KIP-1043) it is an error, without them.
const DESCRIBE_GROUPS_OF_ANY_TYPE: VersionRange = VersionRange { min: 3, max: 5 };
/// From 4 on a member gets its id before it is one.
const JOIN_GROUP: VersionRange = VersionRange { min: 2, max: 5 };
const LEAVE_GROUP: VersionRange = VersionRange { min: 0, max: 2 };
const CONSUMER_GROUP_DESCRIBE: VersionRange = VersionRange { min: 0, max: 1 };

/// A consumer's subscription, version 0: no topics, no user data.
const NO_SUBSCRIPTION: &[u8] = &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];

/// Groups in one request.
const GROUPS_PER_REQUEST: usize = 500;

/// Which groups to list; an empty list is all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupFilter<'a> {
    /// States such as `Stable` or `Empty`. Brokers know this filter since 2.6.
    pub states: &'a [&'a str],
    /// Types: `classic`, `consumer`, `share`. Brokers know this filter since 3.8; those before have only `classic` groups.
    pub types: &'a [&'a str],
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// `group.id`
    pub group_id: String,
    /// `consumer`, `connect`, … and empty where nobody ever joined: a group that only commits.
    pub protocol_type: String,
    /// `Stable`, `Empty`, …; `None` from brokers before 2.6.
    pub state: Option<String>,
    /// `Classic`, `Consumer`, `Share`; `None` from brokers before 3.8.
    pub group_type: Option<String>,
}

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset that it will read.
    pub offset: i64,
    /// The epoch of the record before it, where the consumer knew it.
    pub leader_epoch: Option<i32>,
    /// Whatever the consumer wrote beside it.
    pub metadata: String,
}

/// A group as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Of which protocol it is. A group that does not exist is a classic one that is `Dead`.
    pub group_type: GroupType,
    /// `Stable`, `Empty`, `Dead`, `PreparingRebalance`, …
    pub state: String,
    /// Of a classic group: what kind of members it has (`consumer`, `connect`), and the protocol that they have agreed on. Empty where there is none.
    pub protocol: (String, String),
    /// Who is in it.
    pub members: Vec<Member>,
}

/// How a member joins of which nobody expects that it reads anything.
#[derive(Debug, Clone)]
pub struct Placeholder {
    /// `group.id`
    pub group: String,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// The protocol that all members know.
    pub protocol: String,
    /// How long it is a member without a word of it.
    pub session: Duration,
}

/// A group's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupType {
    /// JoinGroup and SyncGroup.
    Classic,
    /// ConsumerGroupHeartbeat (KIP-848).
    Consumer,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Given by the coordinator, or chosen by the consumer.
    pub member_id: String,
    /// `group.instance.id`
    pub group_instance_id: Option<String>,
    /// `client.id`
    pub client_id: String,
    /// Where it is connected from, with a slash in front.
    pub client_host: String,
    /// Whether partitions are assigned to it. Of members of the consumer protocol only.
    pub is_assigned: bool,
}

impl GroupDescription {
    /// Whether it has members: only they can commit for it then. A group that has none may still have a consumer that assigns its partitions
    /// itself and commits.
    pub fn is_live(&self) -> bool {
        !self.members.is_empty() || !matches!(self.state.as_str(), "Empty" | "Dead")
    }

    /// Whether it tells what its members have agreed on: a classic group does not while it rebalances. Who joins with another protocol than theirs, or
    /// with none, makes a group in which they find `INCONSISTENT_GROUP_PROTOCOL`, of which applications die.
    pub fn tells_protocol(&self) -> bool {
        self.group_type == GroupType::Consumer || !self.protocol.1.is_empty()
    }
}

impl Client {
    /// All groups that we may describe: each broker lists those that it coordinates. By `group.id`.
    ///
    /// # Errors
    /// [`ClientError`]: with one broker missing the list would be too.
    pub async fn list_groups(&self, filter: GroupFilter<'_>) -> Result<Vec<ListedGroup>, ClientError> {
        self.retry(Resend::Always, || async {
            let brokers = self.metadata(Topics::Named(&[])).await?.brokers;
            let lists = brokers.iter().map(|broker| async { self.groups_of(&*self.broker(broker.node_id).await?, filter).await });
            let mut groups = Vec::new();
            for list in join_all(lists).await {
                groups.extend(list?);
            }
            groups.sort_by(|one: &ListedGroup, other| one.group_id.cmp(&other.group_id));
            // A coordinator that moved between two answers.
            groups.dedup_by(|one, other| one.group_id == other.group_id);
            Ok(groups)
        })
        .await
    }

    async fn groups_of(&self, connection: &Connection, filter: GroupFilter<'_>) -> Result<Vec<ListedGroup>, ClientError> {
        let min = if filter.states.is_empty() { LIST_GROUPS.min } else { LIST_GROUPS_BY_STATE };
        let ours = VersionRange { min, ..LIST_GROUPS };
        let names = |names: &[&str]| -> Vec<StrBytes> { names.iter().map(|name| text(name)).collect() };
        let classic = filter.types.is_empty() || filter.types.iter().any(|name| name.eq_ignore_ascii_case("classic"));
        let (asked, answer) = self
            .send(connection, ours, |version| {
                let types = if version >= LIST_GROUPS_BY_TYPE { names(filter.types) } else { Vec::new() };
                ListGroupsRequest::default().with_states_filter(names(filter.states)).with_types_filter(types)
            })
            .await?;
        asked.check(&Subject::cluster(), answer.error_code, None)?;
        if asked.version < LIST_GROUPS_BY_TYPE && !classic {
            return Ok(Vec::new());
        }
        let group = answer.groups.iter().map(|group| ListedGroup {
            group_id: group.group_id.to_string(),
            protocol_type: group.protocol_type.to_string(),
            state: (asked.version >= LIST_GROUPS_BY_STATE).then(|| group.group_state.to_string()),
            group_type: (asked.version >= LIST_GROUPS_BY_TYPE).then(|| group.group_type.to_string()),
        });
        Ok(group.collect())
    }

    /// All offsets that groups committed, of topics that we may describe. A group that does not exist has none.
    ///
    /// `require_stable` waits, as long as the client's deadline allows, while a transaction that commits offsets is open.
    pub async fn offset_fetch(&self, groups: &[&str], require_stable: bool) -> Answers<String, BTreeMap<TopicPartition, CommittedOffset>> {
        let asked = groups.iter().map(|group| ((*group).to_owned(), ())).collect();
        let kind = Coordinators(CoordinatorKind::Group);
        self.spread(ApiKey::OffsetFetch, kind, Resend::Always, asked, |connection, batch| async move {
            let groups: Vec<String> = batch.into_iter().map(|(group, ())| group).collect();
            let ours = if require_stable { OFFSET_FETCH_STABLE } else { OFFSET_FETCH };
            let many = connection.version_for::<OffsetFetchRequest>(ours).is_ok_and(|version| version >= OFFSET_FETCH_MANY);
            // One group a request is no worse for a broker: they are pipelined.
            let chunks = groups.chunks(if many { GROUPS_PER_REQUEST } else { 1 });
            let fetched = join_all(chunks.map(|chunk| self.committed(&connection, ours, chunk, require_stable))).await;
            Ok(fetched.into_iter().flatten().collect())
        })
        .await
    }

    async fn committed(
        &self,
        connection: &Connection,
        ours: VersionRange,
        groups: &[String],
        require_stable: bool,
    ) -> Vec<(String, Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError>)> {
        let sent = self.send(connection, ours, |version| {
            let request = OffsetFetchRequest::default().with_require_stable(require_stable);
            if version >= OFFSET_FETCH_MANY {
                let group = |group: &String| OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(None);
                request.with_groups(groups.iter().map(group).collect())
            } else {
                let group = groups.first().map(|group| text(group)).unwrap_or_default();
                request.with_group_id(GroupId(group)).with_topics(None)
            }
        });
        let (asked, answer) = match sent.await {
            Ok(answered) => answered,
            Err(error) => return groups.iter().map(|group| (group.clone(), Err(error.clone()))).collect(),
        };
        if asked.version >= OFFSET_FETCH_MANY {
            let group = answer.groups.iter().map(|group| {
                let offsets = group.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| Committed {
                        partition: TopicPartition::new(topic.name.as_str(), partition.partition_index),
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition.metadata.as_ref(),
                        error_code: partition.error_code,
                    })
                });
                (group.group_id.to_string(), read_committed(&asked, &group.group_id, group.error_code, offsets))
            });
            return group.collect();
        }
        let group = groups.iter().map(|group| {
            let offsets = answer.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|partition| Committed {
                    partition: TopicPartition::new(topic.name.as_str(), partition.partition_index),
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: partition.metadata.as_ref(),
                    error_code: partition.error_code,
                })
            });
            (group.clone(), read_committed(&asked, group, answer.error_code, offsets))
        });
        group.collect()
    }

    /// Commits offsets for a group from outside, which works while it has no members. It overwrites what is there, forwards or backwards.
    /// No leader epoch is written: on another cluster it would mean nothing.
    ///
    /// Without `retention` offsets expire `offsets.retention.minutes` after the last commit of an empty group; with it, after so long.
    ///
    /// Tried again only where the coordinator did nothing.
    pub async fn offset_commit(
        &self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, CommittedOffset>,
        retention: Option<Duration>,
    ) -> Answers<TopicPartition, ()> {
        let commit = |connection: Arc<Connection>| async move {
            let committed = self.commit(&connection, group, offsets, retention).await?;
            // The coordinator is not the one, or loads: it says so of all partitions alike, and has done nothing.
            match committed.values().find_map(|result| result.as_ref().err().filter(|error| is_coordinators(error))) {
                Some(refused) => Err(refused.clone()),
                None => Ok(committed),
            }
        };
        match self.ask_coordinator(CoordinatorKind::Group, group, Resend::IfRefused, commit).await {
            Ok(committed) => committed,
            Err(error) => offsets.keys().map(|partition| (partition.clone(), Err(error.clone()))).collect(),
        }
    }

    async fn commit(
        &self,
        connection: &Connection,
        group: &str,
        offsets: &BTreeMap<TopicPartition, CommittedOffset>,
        retention: Option<Duration>,
    ) -> Result<Answers<TopicPartition, ()>, ClientError> {
        let topics = by_topic(offsets.iter().map(|(partition, committed)| (partition.clone(), committed)));
        let topics = topics.into_iter().map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|(index, committed)| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(committed.offset)
                    .with_committed_metadata(Some(text(&committed.metadata)))
            });
            OffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(partitions.collect())
        });
        let request = OffsetCommitRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
        let (ours, request) = match retention {
            None => (OFFSET_COMMIT, request),
            Some(time) => {
                let retention_time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
                (OFFSET_COMMIT_RETENTION, request.with_retention_time_ms(retention_time_ms))
            }
        };
        let (asked, answer) = self.send(connection, ours, |_| request).await?;
        let mut committed = Answers::new();
        for topic in &answer.topics {
            for result in &topic.partitions {
                let partition = TopicPartition::new(topic.name.as_str(), result.partition_index);
                let checked = asked.check(&Subject::partition(&partition).in_group(group), result.error_code, None);
                committed.insert(partition, checked);
            }
        }
        for partition in offsets.keys() {
            committed.entry(partition.clone()).or_insert_with(|| Err(self.incomplete(ApiKey::OffsetCommit, partition)));
        }
        Ok(committed)
    }

    /// Deletes what a group has committed for partitions, which works while it has no members.
    ///
    /// Tried again only where the coordinator did nothing: what comes late would delete what was committed since.
    pub async fn offset_delete(&self, group: &str, partitions: &[TopicPartition]) -> Answers<TopicPartition, ()> {
        let delete = |connection: Arc<Connection>| async move {
            let topics = by_topic(partitions.iter().map(|partition| (partition.clone(), ()))).into_iter().map(|(topic, partitions)| {
                let partitions =
                    partitions.into_iter().map(|(index, ())| OffsetDeleteRequestPartition::default().with_partition_index(index));
                OffsetDeleteRequestTopic::default().with_name(topic_name(&topic)).with_partitions(partitions.collect())
            });
            let request = OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
            let (asked, answer) = self.send(&connection, OFFSET_DELETE, |_| request).await?;
            asked.check(&Subject::group(group), answer.error_code, None)?;
            let mut deleted = Answers::new();
            for topic in &answer.topics {
                for result in &topic.partitions {
                    let partition = TopicPartition::new(topic.name.as_str(), result.partition_index);
                    let checked = asked.check(&Subject::partition(&partition).in_group(group), result.error_code, None);
                    deleted.insert(partition, checked);
                }
            }
            for partition in partitions {
                deleted.entry(partition.clone()).or_insert_with(|| Err(self.incomplete(ApiKey::OffsetDelete, partition)));
            }
            Ok(deleted)
        };
        match self.ask_coordinator(CoordinatorKind::Group, group, Resend::IfRefused, delete).await {
            Ok(deleted) => deleted,
            Err(error) => partitions.iter().map(|partition| (partition.clone(), Err(error.clone()))).collect(),
        }
    }

    /// What we may do with groups, whether they exist or not.
    ///
    /// # Errors
    /// `GROUP_AUTHORIZATION_FAILED` for a group that we may not describe.
    pub async fn group_authorized_operations(&self, groups: &[&str]) -> Answers<String, Operations> {
        let asked = groups.iter().map(|group| ((*group).to_owned(), ())).collect();
        let kind = Coordinators(CoordinatorKind::Group);
        self.spread(ApiKey::DescribeGroups, kind, Resend::Always, asked, |connection, batch: Vec<(String, ())>| async move {
            let mut allowed = Vec::new();
            for chunk in batch.chunks(GROUPS_PER_REQUEST) {
                let ids = chunk.iter().map(|(group, ())| GroupId(text(group))).collect();
                let request = DescribeGroupsRequest::default().with_groups(ids).with_include_authorized_operations(true);
                let (asked, answer) = self.send(&connection, DESCRIBE_GROUPS_OF_ANY_TYPE, |_| request).await?;
                allowed.extend(answer.groups.iter().map(|group| {
                    let checked = asked.check(&Subject::group(&group.group_id), group.error_code, group.error_message.as_ref());
                    (group.group_id.to_string(), checked.map(|()| Operations::from_bits(group.authorized_operations)))
                }));
            }
            Ok(allowed)
        })
        .await
    }

    /// Joins a group, and says under which id. Whoever joins after that waits until this one has left. An empty group takes nobody in before
    /// `group.initial.rebalance.delay.ms` is over: so it has a connection of its own, or groups would wait one after the other.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn join_group(&self, placeholder: &Placeholder) -> Result<String, ClientError> {
        let group = &placeholder.group;
        let session = i32::try_from(placeholder.session.as_millis()).unwrap_or(i32::MAX);
        let join = |node_id| async move {
            let connection = self.connect(node_id).await?;
            let mut member = String::new();
            loop {
                let is_consumer = placeholder.protocol_type == "consumer";
                let metadata = Bytes::from_static(if is_consumer { NO_SUBSCRIPTION } else { &[] });
                let protocol = JoinGroupRequestProtocol::default().with_name(text(&placeholder.protocol)).with_metadata(metadata);
                let request = JoinGroupRequest::default()
                    .with_group_id(GroupId(text(group)))
                    .with_session_timeout_ms(session)
                    .with_rebalance_timeout_ms(session)
                    .with_member_id(text(&member))
                    .with_protocol_type(text(&placeholder.protocol_type))
                    .with_protocols(vec![protocol]);
                let (asked, answer) = self.send(&connection, JOIN_GROUP, |_| request).await?;
                let is_named = answer.error_code == ResponseError::MemberIdRequired.code() && member.is_empty();
                member = answer.member_id.to_string();
                if !is_named {
                    asked.check(&Subject::group(group), answer.error_code, None)?;
                    return Ok(member);
                }
            }
        };
        self.at_coordinator(CoordinatorKind::Group, group, Resend::IfRefused, join).await
    }

    /// Takes a member out of a group. One that is none any more is out of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leave_group(&self, group: &str, member: &str) -> Result<(), ClientError> {
        let leave = |connection: Arc<Connection>| async move {
            let request = LeaveGroupRequest::default().with_group_id(GroupId(text(group))).with_member_id(text(member));
            let (asked, answer) = self.send(&connection, LEAVE_GROUP, |_| request).await?;
            match asked.check(&Subject::group(group), answer.error_code, None) {
                Err(error) if error.code() == Some(ResponseError::UnknownMemberId) => Ok(()),
                left => left,
            }
        };
        self.ask_coordinator(CoordinatorKind::Group, group, Resend::Always, leave).await
    }

    /// Groups of both protocols, with their members. One that does not exist is `Dead`.
    pub async fn describe_groups(&self, groups: &[&str]) -> Answers<String, GroupDescription> {
        let asked = groups.iter().map(|group| ((*group).to_owned(), ())).collect();
        let kind = Coordinators(CoordinatorKind::Group);
        self.spread(ApiKey::DescribeGroups, kind, Resend::Always, asked, |connection, batch| async move {
            let groups: Vec<String> = batch.into_iter().map(|(group, ())| group).collect();
            let mut described = Vec::new();
            for chunk in groups.chunks(GROUPS_PER_REQUEST) {
                let mut rest = chunk.to_vec();
                if connection.versions().range(ConsumerGroupDescribeRequest::KEY).is_some() {
                    let answers = self.describe_new(&connection, &rest).await?;
                    rest.clear();
                    for (group, answer) in answers {
                        match answer {
                            Err(error) if is_of_another_type(&error) => rest.push(group),
                            answer => described.push((group, answer)),
                        }
                    }
                }
                if !rest.is_empty() {
                    described.extend(self.describe_classic(&connection, &rest).await?);
                }
            }
            Ok(described)
        })
        .await
    }

    async fn describe_new(
        &self,
        connection: &Connection,
        groups: &[String],
    ) -> Result<Vec<(String, Result<GroupDescription, ClientError>)>, ClientError> {
        let ids = groups.iter().map(|group| GroupId(text(group))).collect();
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids);
        let (asked, answer) = self.send(connection, CONSUMER_GROUP_DESCRIBE, |_| request).await?;
        let described = answer.groups.iter().map(|group| {
            let checked = asked.check(&Subject::group(&group.group_id), group.error_code, group.error_message.as_ref());
            let members = group.members.iter().map(|member| Member {
                member_id: member.member_id.to_string(),
                group_instance_id: member.instance_id.as_ref().map(ToString::to_string),
                client_id: member.client_id.to_string(),
                client_host: member.client_host.to_string(),
                is_assigned: !(member.assignment.topic_partitions.is_empty() && member.target_assignment.topic_partitions.is_empty()),
            });
            let description = GroupDescription {
                group_type: GroupType::Consumer,
                state: group.group_state.to_string(),
                protocol: Default::default(),
                members: members.collect(),
            };
            (group.group_id.to_string(), checked.map(|()| description))
        });
        Ok(described.collect())
    }

    async fn describe_classic(
        &self,
        connection: &Connection,
        groups: &[String],
    ) -> Result<Vec<(String, Result<GroupDescription, ClientError>)>, ClientError> {
        let ids = groups.iter().map(|group| GroupId(text(group))).collect();
        let request = DescribeGroupsRequest::default().with_groups(ids);
        let (asked, answer) = self.send(connection, DESCRIBE_GROUPS, |_| request).await?;
        let described = answer.groups.iter().map(|group| {
            let checked = asked.check(&Subject::group(&group.group_id), group.error_code, group.error_message.as_ref());
            let members = group.members.iter().map(|member| Member {
                member_id: member.member_id.to_string(),
                group_instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
                client_id: member.client_id.to_string(),
                client_host: member.client_host.to_string(),
                is_assigned: false,
            });
            let description = GroupDescription {
                group_type: GroupType::Classic,
                state: group.group_state.to_string(),
                protocol: (group.protocol_type.to_string(), group.protocol_data.to_string()),
                members: members.collect(),
            };
            let described = match checked {
                Ok(()) => Ok(description),
                // From version 6 on; before, it was a group without an error that is dead.
                Err(error) if error.code() == Some(ResponseError::GroupIdNotFound) => {
                    Ok(GroupDescription { state: "Dead".to_owned(), ..description })
                }
                Err(error) => Err(error),
            };
            (group.group_id.to_string(), described)
        });
        Ok(described.collect())
    }
}

/// It is a classic group, or none, or the broker has the new protocol turned off.
fn is_of_another_type(error: &ClientError) -> bool {
    matches!(error.code(), Some(ResponseError::GroupIdNotFound | ResponseError::UnsupportedVersion))
}

fn is_coordinators(error: &ClientError) -> bool {
    matches!(
        error.code(),
        Some(ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable | ResponseError::CoordinatorLoadInProgress)
    )
}

/// A partition in an answer to OffsetFetch, which has it in two forms.
struct Committed<'a> {
    partition: TopicPartition,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<&'a StrBytes>,
    error_code: i16,
}

fn read_committed<'a>(
    asked: &Asked<'_>,
    group: &str,
    error_code: i16,
    offsets: impl Iterator<Item = Committed<'a>>,
) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
    asked.check(&Subject::group(group), error_code, None)?;
    let mut committed = BTreeMap::new();
    for Committed { partition, offset, leader_epoch, metadata, error_code } in offsets {
        asked.check(&Subject::partition(&partition).in_group(group), error_code, None)?;
        if offset >= 0 {
            let leader_epoch = (leader_epoch >= 0).then_some(leader_epoch);
            let metadata = metadata.map(ToString::to_string).unwrap_or_default();
            committed.insert(partition, CommittedOffset { offset, leader_epoch, metadata });
        }
    }
    Ok(committed)
}
