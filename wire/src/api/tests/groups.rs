//! The groups that requests are about, as a walk hears of them, against those that kafka-protocol encoded.

use std::fmt::Debug;

use kafka_protocol::messages::{ApiKey, GroupId};
use kafka_protocol::protocol::{Encodable, Message};
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};

use super::messages::{self, Dice};
use super::pieces::Schema;
use super::{APIS, Api, By, Field, Rewrite, encoded, rewrite};

/// The groups that were heard of.
#[derive(Default)]
struct Groups(Vec<String>);

impl Rewrite for Groups {
    fn group(&mut self, group_id: &str) {
        self.0.push(group_id.to_owned());
    }
}

type Check = fn(&Api, &'static [Field]);

/// Every API that is about groups has its check.
const CHECKS: &[(ApiKey, Check)] = &[
    (ApiKey::OffsetCommit, |api, fields| check(api, fields, messages::offset_commit_request, |it, _| vec![&it.group_id])),
    (ApiKey::OffsetFetch, |api, fields| {
        check(api, fields, messages::offset_fetch_request, |it, version| match version {
            ..8 => vec![&it.group_id],
            8.. => it.groups.iter().map(|group| &group.group_id).collect(),
        });
    }),
    (ApiKey::JoinGroup, |api, fields| check(api, fields, messages::join_group_request, |it, _| vec![&it.group_id])),
    (ApiKey::Heartbeat, |api, fields| check(api, fields, messages::heartbeat_request, |it, _| vec![&it.group_id])),
    (ApiKey::LeaveGroup, |api, fields| check(api, fields, messages::leave_group_request, |it, _| vec![&it.group_id])),
    (ApiKey::SyncGroup, |api, fields| check(api, fields, messages::sync_group_request, |it, _| vec![&it.group_id])),
    (ApiKey::DescribeGroups, |api, fields| check(api, fields, messages::describe_groups_request, |it, _| it.groups.iter().collect())),
    (ApiKey::AddOffsetsToTxn, |api, fields| check(api, fields, messages::add_offsets_to_txn_request, |it, _| vec![&it.group_id])),
    (ApiKey::TxnOffsetCommit, |api, fields| check(api, fields, messages::txn_offset_commit_request, |it, _| vec![&it.group_id])),
    (ApiKey::DeleteGroups, |api, fields| check(api, fields, messages::delete_groups_request, |it, _| it.groups_names.iter().collect())),
    (ApiKey::OffsetDelete, |api, fields| check(api, fields, messages::offset_delete_request, |it, _| vec![&it.group_id])),
    (ApiKey::ConsumerGroupHeartbeat, |api, fields| {
        check(api, fields, messages::consumer_group_heartbeat_request, |it, _| vec![&it.group_id]);
    }),
    (ApiKey::ConsumerGroupDescribe, |api, fields| {
        check(api, fields, messages::consumer_group_describe_request, |it, _| it.group_ids.iter().collect());
    }),
];

#[test]
fn the_groups_that_a_request_is_about_are_heard_of_in_their_order() {
    let about_groups = |api: &&'static Api| matches!(api.by, By::Group(_));
    let checked: Vec<_> = CHECKS.iter().map(|(key, _)| *key).collect();
    assert_eq!(APIS.iter().filter(about_groups).map(|api| api.key).collect::<Vec<_>>(), checked);
    for (key, check) in CHECKS {
        let api = Api::of(*key as i16).expect("it is in the table");
        let By::Group(fields) = api.by else { unreachable!("it was compared") };
        check(api, fields);
    }
}

/// What kafka-protocol encodes, in every version that both it and the table know. `groups`: those in a message, in a version.
fn check<M>(api: &Api, fields: &'static [Field], throw: fn(&mut Dice) -> M, groups: fn(&M, i16) -> Vec<&GroupId>)
where
    M: Message + Encodable + Debug,
{
    let (min, max) = api.versions().expect("it is carried");
    for version in min.max(M::VERSIONS.min)..=max.min(M::VERSIONS.max) {
        let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
        let flexible = api.is_flexible(version);
        let outcome = runner.run(&any::<u64>(), |seed| {
            let mut dice = Dice::new(seed, version, flexible);
            let message = throw(&mut dice);
            let body = encoded(&message, version);
            let mut heard = Groups::default();
            assert_eq!(rewrite(fields, version, flexible, &body, &mut heard), Ok(None), "{message:?}");
            assert_eq!(heard.0, groups(&message, version).iter().map(|id| id.to_string()).collect::<Vec<_>>(), "{message:?}");

            let schema = Schema { fields, version, flexible };
            schema.is_the_same_in_pieces(&body, &mut dice);
            for _ in 0..16 {
                schema.is_the_same_in_pieces(&dice.mutated(&body), &mut dice);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{:?} v{version}: {error}", api.key));
    }
}

/// Versions that kafka-protocol does not know (any more), and texts that no client should send.
#[test]
fn groups_are_heard_of_in_old_versions_and_where_they_are_null() {
    let heard = |key: ApiKey, version: i16, body: &[u8]| {
        let api = Api::of(key as i16).expect("it is in the table");
        let By::Group(fields) = api.by else { panic!("{key:?} is about groups") };
        let mut groups = Groups::default();
        assert_eq!(rewrite(fields, version, api.is_flexible(version), body, &mut groups), Ok(None), "{key:?} v{version}");
        groups.0
    };
    // A member, a topic, and more: all that follows is left as it is.
    for version in 0..=1 {
        assert_eq!(heard(ApiKey::OffsetCommit, version, b"\0\x04shop\0\0\0\x04\0\x06member\0\0\0\0"), ["shop"]);
    }
    assert_eq!(heard(ApiKey::OffsetFetch, 0, b"\0\x04shop\0\0\0\x01\0\x06orders\0\0\0\x02\0\0\0\0\0\0\0\x01"), ["shop"]);

    assert_eq!(heard(ApiKey::Heartbeat, 0, b"\xff\xff"), [""]);
    assert_eq!(heard(ApiKey::Heartbeat, 4, b"\0"), [""]);
    assert_eq!(heard(ApiKey::DescribeGroups, 0, b"\0\0\0\x03\0\x01a\xff\xff\0\x01b"), ["a", "", "b"]);
    assert_eq!(heard(ApiKey::DescribeGroups, 5, b"\x04\x02a\0\x02b"), ["a", "", "b"]);
    assert_eq!(heard(ApiKey::DeleteGroups, 0, b"\xff\xff\xff\xff"), [""; 0]);
    assert_eq!(heard(ApiKey::DeleteGroups, 2, b"\0"), [""; 0]);
    // One that is no text is another one than any that is, as brokers read it.
    assert_eq!(heard(ApiKey::DeleteGroups, 2, b"\x03\x02\xff\x02a"), ["\u{fffd}", "a"]);
}
