//! A group has one coordinator, whoever asks where.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use harness::kafka::Commit;
use harness::raw::{Raw, ask, until};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};

use crate::{GROUP, Names, Side, Stage, calm, group_id, text, topic_name};

/// Kafka's errors, as its protocol guide has them.
const NOT_COORDINATOR: i16 = 16;
const UNKNOWN_MEMBER_ID: i16 = 25;

impl Stage {
    /// The coordinator of a group or of transactions, as the cluster itself says.
    pub(crate) fn coordinator(&self, side: Side, key: &str, key_type: i8) -> Result<i32> {
        let mut broker = self.directly_at(side, self.cluster(side).node_ids()[0])?;
        let question = FindCoordinatorRequest::default().with_key(text(key)).with_key_type(key_type);
        let mut node_id = -1;
        // The topic of the offsets is only made by the first question.
        until("there is a coordinator", || {
            let answer = ask(&mut broker, 3, "direct", &question)?;
            node_id = answer.node_id.0;
            Ok(answer.error_code == 0)
        })?;
        Ok(node_id)
    }

    /// Every door says to clients of this home that a group, or a transactional id, is there.
    pub(crate) fn is_found(&self, home: Side, side: Side, key: &str, key_type: i8) -> Result<()> {
        let (expected, client_id) = (self.virtual_broker(side, self.coordinator(side, key, key_type)?)?, home.client("finding"));
        for door in self.doors()? {
            let mut client = Raw::connect(door)?;
            for version in (0..=6).filter(|version| key_type == GROUP || *version > 0) {
                let question = FindCoordinatorRequest::default().with_key_type(key_type);
                let question = if version < 4 { question.with_key(text(key)) } else { question.with_coordinator_keys(vec![text(key)]) };
                let mut last = None;
                let found = until("the coordinator is found", || {
                    let answer = ask(&mut client, version, &client_id, &question)?;
                    let found = match answer.coordinators.first() {
                        Some(found) => (found.error_code, found.node_id.0, found.port as u16),
                        None => (answer.error_code, answer.node_id.0, answer.port as u16),
                    };
                    last = Some(found);
                    Ok(found == (0, expected.0, expected.1))
                });
                found.with_context(|| {
                    format!("{key} to {home:?}, FindCoordinator v{version} at port {door}: {last:?}, and not {expected:?}")
                })?;
            }
        }
        Ok(())
    }
}

#[test]
fn a_group_has_one_coordinator() -> Result<()> {
    calm(|stage| {
        for side in Side::BOTH {
            let (topic, group) = (side.leads("coordinated"), side.lives("coordinated"));
            stage.create_copied(side, &topic, 2)?;
            stage.cluster(side).commit(&group, &topic, [(0, Commit::at(0)), (1, Commit::at(0))])?;
            stage.cluster(side).commit(&format!("coordinated-only-{}", side.name()), &topic, [(0, Commit::at(0))])?;
        }
        for side in Side::BOTH {
            stage.group_is_copied(side, &side.lives("coordinated"))?;
        }
        for home in Side::BOTH {
            for side in Side::BOTH {
                // The mirror's source; the one cluster that has it.
                stage.is_found(home, side, &side.lives("coordinated"), GROUP)?;
                stage.is_found(home, side, &format!("coordinated-only-{}", side.name()), GROUP)?;
                wrong_coordinator(stage, home, side).with_context(|| format!("{} to a client of {home:?}", side.lives("coordinated")))?;
            }
            stage.is_found(home, home, &home.client("of-nobody"), GROUP)?;
            several_keys(stage, home)?;
        }
        for side in Side::BOTH {
            let committed = stage.cluster(side.other()).committed_offsets(&side.lives("coordinated"))?;
            ensure!(committed.values().copied().collect::<Vec<_>>() == [0, 0], "on the other cluster it has {committed:?}");
        }
        Ok(())
    })
}

/// One question about groups of both clusters.
fn several_keys(stage: &Stage, home: Side) -> Result<()> {
    let groups = Side::BOTH.map(|side| (side.lives("coordinated"), side));
    let mut expected = BTreeMap::new();
    for (group, side) in &groups {
        expected.insert(group.clone(), (0, stage.virtual_broker(*side, stage.coordinator(*side, group, GROUP)?)?.0));
    }
    for door in stage.doors()? {
        let question = FindCoordinatorRequest::default().with_coordinator_keys(groups.iter().map(|(group, _)| text(group)).collect());
        let answer = ask(&mut Raw::connect(door)?, 4, &home.client("finding"), &question)?;
        let found: BTreeMap<_, _> = answer.coordinators.iter().map(|one| (one.key.to_string(), (one.error_code, one.node_id.0))).collect();
        ensure!(found == expected && answer.coordinators.len() == 2, "at port {door}: {answer:?}");
    }
    Ok(())
}

/// Where the other cluster would have the group, nobody is let in; where it lives everybody is.
fn wrong_coordinator(stage: &Stage, home: Side, side: Side) -> Result<()> {
    let (group, topic, client_id) = (side.lives("coordinated"), side.leads("coordinated"), home.client("member"));
    let wrong = stage.coordinator(side.other(), &group, GROUP)?;
    let mut client = stage.at(side.other(), wrong)?;
    let client = &mut client;
    let member = text("somebody");
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let join =
        JoinGroupRequest::default().with_group_id(group_id(&group)).with_session_timeout_ms(10_000).with_rebalance_timeout_ms(10_000);
    let join = join.with_protocol_type(text("consumer")).with_protocols(vec![protocol]);
    let heartbeat = HeartbeatRequest::default().with_group_id(group_id(&group)).with_generation_id(1).with_member_id(member.clone());
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let commit = OffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(vec![partition]);
    let commit =
        OffsetCommitRequest::default().with_group_id(group_id(&group)).with_generation_id_or_member_epoch(-1).with_topics(vec![commit]);
    let sync = SyncGroupRequest::default().with_group_id(group_id(&group)).with_generation_id(1).with_member_id(member.clone());
    let leave = LeaveGroupRequest::default().with_group_id(group_id(&group));

    let mut answers: Vec<(String, i16)> = Vec::new();
    let mut told = |what: &str, version: i16, error_code: i16| answers.push((format!("{what} v{version}"), error_code));
    for version in [1, 2, 5, 7, 9] {
        told("JoinGroup", version, ask(client, version, &client_id, &join)?.error_code);
    }
    for version in 0..=4 {
        told("Heartbeat", version, ask(client, version, &client_id, &heartbeat)?.error_code);
    }
    for version in [0, 3, 5] {
        let sync = if version == 5 {
            sync.clone().with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")))
        } else {
            sync.clone()
        };
        told("SyncGroup", version, ask(client, version, &client_id, &sync)?.error_code);
    }
    for version in [1, 4] {
        let leave = if version < 3 {
            leave.clone().with_member_id(member.clone())
        } else {
            leave.clone().with_members(vec![MemberIdentity::default().with_member_id(member.clone())])
        };
        told("LeaveGroup", version, ask(client, version, &client_id, &leave)?.error_code);
    }
    for version in [2, 6, 8] {
        let answer = ask(client, version, &client_id, &commit)?;
        told("OffsetCommit", version, answer.topics[0].partitions[0].error_code);
    }
    for version in [2, 5, 7] {
        let question = OffsetFetchRequest::default().with_group_id(group_id(&group)).with_topics(None);
        told("OffsetFetch", version, ask(client, version, &client_id, &question)?.error_code);
    }
    let question = OffsetFetchRequest::default()
        .with_groups(vec![OffsetFetchRequestGroup::default().with_group_id(group_id(&group)).with_topics(None)]);
    told("OffsetFetch", 8, ask(client, 8, &client_id, &question)?.groups[0].error_code);
    for version in [0, 5] {
        let answer = ask(client, version, &client_id, &DescribeGroupsRequest::default().with_groups(vec![group_id(&group)]))?;
        told("DescribeGroups", version, answer.groups[0].error_code);
    }
    let answer = ask(client, 2, &client_id, &DeleteGroupsRequest::default().with_groups_names(vec![group_id(&group)]))?;
    told("DeleteGroups", 2, answer.results[0].error_code);
    let wrong: Vec<_> = answers.iter().filter(|(_, error)| *error != NOT_COORDINATOR).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");

    let right = stage.coordinator(side, &group, GROUP)?;
    let answer = ask(&mut stage.at(side, right)?, 4, &client_id, &heartbeat)?;
    ensure!(answer.error_code == UNKNOWN_MEMBER_ID, "where it lives: {answer:?}");
    Ok(())
}
