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
        let several = expected.into_iter().filter(|(_, members)| *members > 1);
        let joining = several.filter_map(|(group, members)| {
            // Members of the consumer protocol are given what others own when those have let go of it.
            let description = described.get(&group).filter(|described| described.group_type == GroupType::Classic)?;
            let (protocol_type, protocol) = description.protocol.clone();
            Some((Placeholder { group, protocol_type, protocol, session: SESSION }, members))
        });
        let joined = join_all(joining.map(async |(placeholder, members)| {
            let joined = client.join_group(&placeholder).await;
            (placeholder.group, members, joined)
        }))
        .await;
        let (mut kept, mut wrong) = (BTreeMap::new(), None);
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
