//! The members of a group that has moved join at its new coordinator together: alone, the first of them would take what the others still own.
//!
//! Before the flip the proxy joins the group itself. Who comes then waits at the broker until all members have joined again, or have left: so the proxy leaves
//! when those are there who waited. If it dies, its session ends.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::future::join_all;
use kferry_wire::admin::groups::{GroupDescription, GroupType, Placeholder};
use kferry_wire::client::Client;
use tokio::time::{Instant, sleep};

use crate::identity::own_options;

/// How long the members of a group may take to come to its new coordinator.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a coordinator may take to take a process in: twice as long as it waits for more members by Kafka's own default. All members wait meanwhile.
const JOINING: Duration = Duration::from_secs(6);

/// Between two looks at who has come.
const LOOK: Duration = Duration::from_millis(25);

/// How long a proxy that has died is in the group: the shortest that brokers allow is 6 s.
const SESSION: Duration = Duration::from_secs(10);

/// The groups in which this process keeps a place.
#[derive(Debug)]
pub(super) struct Barrier {
    client: Client,
    /// By group: the process's own member id, and how many members are to come.
    kept: BTreeMap<String, (String, usize)>,
}

impl Barrier {
    /// Joins each group of several members. `expected`: how many of each are to come. `described`: what the groups are where they live.
    ///
    /// # Errors
    /// Why a group does not take this process in.
    pub(super) async fn set(
        client: Client,
        expected: BTreeMap<String, usize>,
        described: &HashMap<String, GroupDescription>,
    ) -> Result<Self, (Self, String)> {
        let (mut kept, mut wrong) = (BTreeMap::new(), None);
        let mut joining = Vec::new();
        for (group, members) in expected.into_iter().filter(|(_, members)| *members > 1) {
            match described.get(&group) {
                // Members of the consumer protocol are given what others own when those have let go of it.
                Some(GroupDescription { group_type: GroupType::Consumer, .. }) => {}
                Some(GroupDescription { protocol: (protocol_type, protocol), .. }) => {
                    let (protocol_type, protocol) = (protocol_type.clone(), protocol.clone());
                    joining.push((Placeholder { group, protocol_type, protocol, session: SESSION }, members));
                }
                None => wrong = Some(format!("group {group} rebalances: its coordinator has not told what its members have agreed on")),
            }
        }
        if wrong.is_some() {
            joining.clear();
        }
        let patient = client.within(JOINING);
        let joined = join_all(joining.into_iter().map(async |(placeholder, members)| {
            let joined = patient.join_group(&placeholder).await;
            (placeholder.group, members, joined)
        }))
        .await;
        for (group, members, joined) in joined {
            match joined {
                Ok(member) => drop(kept.insert(group, (member, members))),
                Err(error) => wrong = Some(format!("group {group} cannot be joined on {}: {error}", client.cluster().name)),
            }
        }
        let barrier = Self { client, kept };
        match wrong {
            Some(wrong) => Err((barrier, wrong)),
            None => Ok(barrier),
        }
    }

    /// Leaves each group once its members are there. `None` of them are expected if the move was given up.
    pub(super) async fn lift(self, is_flipped: bool) {
        let Self { client, kept } = self;
        join_all(kept.into_iter().map(async |(group, (member, members))| {
            let deadline = Instant::now() + PATIENCE;
            while is_flipped && Instant::now() < deadline && members_at(&client, &group).await < members {
                sleep(LOOK).await;
            }
            // Its session ends all the same.
            let _ = client.leave_group(&group, &member).await;
        }))
        .await;
    }
}

/// How many members of a group there are, without proxies.
async fn members_at(client: &Client, group: &str) -> usize {
    let own = own_options().client_id;
    let described = client.describe_groups(&[group]).await.remove(group);
    described.and_then(Result::ok).map_or(0, |group| group.members.iter().filter(|member| member.client_id != own).count())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_config::Config;

    use super::*;

    #[tokio::test]
    async fn nobody_joins_a_group_whose_protocol_is_not_known() {
        const FILE: &str = r#"
            clusters.new = { id = 1, bootstrap_servers = "127.0.0.1:1" }
            listeners = [{ name = "plain", bind = "127.0.0.1:0" }]
            routes = [{ name = "all", client_id = "*", cluster = "new" }]
        "#;
        let clusters = Config::parse(FILE, Path::new("routes.toml")).unwrap();
        let client = || Client::new(clusters.cluster("new").unwrap().clone(), own_options());
        let of = |group_type, protocol: &str| {
            let protocol = ("consumer".to_owned(), protocol.to_owned());
            GroupDescription { group_type, state: "PreparingRebalance".to_owned(), protocol, members: Vec::new() }
        };
        assert!(!of(GroupType::Classic, "").tells_protocol() && of(GroupType::Classic, "range").tells_protocol());
        let expected = |members| BTreeMap::from([("shop".to_owned(), members)]);
        let (_, wrong) = Barrier::set(client(), expected(2), &HashMap::new()).await.unwrap_err();
        assert!(wrong.contains("group shop rebalances"), "{wrong}");
        // Nobody waits for one alone, and the consumer protocol needs no barrier.
        let described = HashMap::from([("shop".to_owned(), of(GroupType::Consumer, ""))]);
        assert!(described["shop"].tells_protocol() && Barrier::set(client(), expected(2), &described).await.is_ok());
        assert!(Barrier::set(client(), expected(1), &HashMap::new()).await.is_ok());
    }
}
