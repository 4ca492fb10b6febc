//! What the file of this process wants, and what its routes own by what the clusters have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use kferry_config::{Mode, is_internal};
use kferry_wire::decisions::{Owned, OwnedGroup, Topic, Wished};
use uuid::Uuid;

use super::groups::owned_groups;
use super::preflight::{Between, preflight};
use crate::proxy::Proxy;
use crate::routes::RoutingTable;

/// What was seen of what routes own.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The number of the file.
    pub taken: Option<u64>,
    /// By route. One of which a cluster has not said what it has is not there.
    pub owns: BTreeMap<String, Vec<Owned>>,
    /// The groups, likewise.
    pub groups: BTreeMap<String, Vec<OwnedGroup>>,
    /// Whether something leads elsewhere than it is wished to.
    pub wants: bool,
}

/// What a file wants of each relay route, and a digest of all that.
pub(super) fn wish(table: &RoutingTable) -> (String, BTreeMap<String, Wished>) {
    let mut routes = BTreeMap::new();
    // Each name has one owner, the first: so what a route owns depends on those before it.
    let mut owned = String::new();
    for route in table.wished().filter(|route| route.mode == Mode::Relay) {
        let _ = writeln!(owned, "{}: {:?} {:?}", route.name, route.owns_topics, route.owns_groups);
        routes.insert(route.name.to_string(), Wished { home: route.cluster.name.to_string(), owns: digest(&owned) });
    }
    (digest(&format!("{routes:?}")), routes)
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()
}

/// Looks at what each route owns, and whether that can move where it is wished.
pub(super) async fn look(proxy: &Proxy) -> Look {
    let table = proxy.routes.in_force();
    let mut look = Look::default();
    for routed in table.routed().filter(|routed| routed.route.mode == Mode::Relay) {
        let (route, home) = (routed.route, routed.home);
        let wished = &route.cluster;
        look.wants |= home.name != wished.name;
        if let Some(view) = proxy.view(&table, routed).filter(|_| !route.owns_groups.is_empty()) {
            let groups = owned_groups(proxy, &table, routed, &view).await;
            look.wants |= groups.iter().any(|group| *group.lives != *wished.name);
            look.groups.insert(route.name.to_string(), groups);
        }
        if route.owns_topics.is_empty() {
            look.owns.insert(route.name.to_string(), Vec::new());
            continue;
        }
        let Some(view) = proxy.view(&table, routed) else {
            look.owns.insert(route.name.to_string(), Vec::new());
            continue;
        };
        let (parts, leaders) = view.fresh().await;
        let Some(listings) = parts.clusters.iter().map(|part| part.own.last()).collect::<Option<Vec<_>>>() else { continue };
        let names: BTreeSet<&Arc<str>> = listings.iter().flat_map(|listing| listing.names.iter()).collect();
        let is_owned = |name: &&&Arc<str>| !is_internal(name) && table.owner_of_topic(name).is_some_and(|owner| owner.name == route.name);
        let mut owns = Vec::new();
        let mut moving: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        for name in names.iter().filter(is_owned) {
            let leader = leaders.name(leaders.leader(name));
            if *leader == wished.name {
                owns.push(Owned { name: name.to_string(), leader: leader.to_string(), topic: Topic::default(), blocked: None });
            } else {
                moving.entry(leader.clone()).or_default().insert((*name).clone());
            }
        }
        look.wants |= !moving.is_empty();
        let client = |name: &str| parts.clusters.iter().find(|part| *part.cluster.name == *name).map(|part| part.own.client().clone());
        let to = client(&wished.name);
        let now = Timestamp::now().as_millisecond();
        for (leader, topics) in moving {
            let clusters = client(&leader).zip(to.as_ref());
            let report = match &clusters {
                Some((from, to)) => preflight(Between { from, to }, table.mirrors(), &topics, now).await.map_err(|error| error.to_string()),
                None => Err(format!("no mirror connects cluster {leader} with cluster {}: write one in routes.toml", wished.name)),
            };
            for name in topics {
                let found = match &report {
                    Ok(report) => report.get(&name).cloned().unwrap_or_else(|| Err("nothing is known of it".to_owned())),
                    Err(why) => Err(why.clone()),
                };
                let blocked = found.as_ref().err().map(|why| format!("topic {name}: {why}"));
                owns.push(Owned { name: name.to_string(), leader: leader.to_string(), topic: found.unwrap_or_default(), blocked });
            }
        }
        look.owns.insert(route.name.to_string(), owns);
    }
    look
}
