//! What the file of this process wants, and what its routes own by what the clusters have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use kferry_config::{Mode, is_internal};
use kferry_wire::client::Client;
use kferry_wire::decisions::{Owned, OwnedGroup, Topic, Wished};
use kferry_wire::preflight::{Between, Report, Rules, lost_rights, preflight};
use uuid::Uuid;

use super::groups::owned_groups;
use crate::proxy::Proxy;
use crate::relay::view::View;
use crate::routes::{Routed, RoutingTable};

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

/// Topics that are to move between the same two clusters.
struct Moving {
    /// kferry's login there, or the route's where the file gives kferry none. `None`: the clients of the route do not see that cluster.
    clients: [Option<Client>; 2],
    /// By name, with the route that owns it.
    topics: BTreeMap<Arc<str>, Arc<str>>,
}

/// Looks at what each route owns, and whether that can move where it is wished.
pub(super) async fn look(proxy: &Proxy) -> Look {
    let table = proxy.routes.in_force();
    let mut look = Look::default();
    // Many routes are owners: each topic is held against all of them once.
    let mut owners: HashMap<Arc<str>, Option<Arc<str>>> = HashMap::new();
    let mut moving: BTreeMap<[Arc<str>; 2], Moving> = BTreeMap::new();
    for (routed, view) in relayed(proxy, &table) {
        let (route, wished) = (routed.route, &routed.route.cluster.name);
        look.wants |= routed.home.name != *wished;
        if let Some(view) = view.as_ref().filter(|_| !route.owns_groups.is_empty()) {
            let groups = owned_groups(proxy, &table, routed, view).await;
            look.wants |= groups.iter().any(|group| *group.lives != **wished);
            look.groups.insert(route.name.to_string(), groups);
        }
        let Some(view) = view.filter(|_| !route.owns_topics.is_empty()) else {
            look.owns.insert(route.name.to_string(), Vec::new());
            continue;
        };
        let (parts, leaders) = view.fresh().await;
        let silent = parts.clusters.iter().find(|part| part.own.last().is_none());
        if let Some(silent) = silent.filter(|_| routed.home.name != *wished) {
            // The route waits, with whatever it owns, and nobody else does.
            let blocked = Some(format!("what it owns is not known: {}", silent.does_not_answer()));
            let unknown = Owned { name: String::new(), leader: routed.home.name.to_string(), topic: Topic::default(), blocked };
            look.owns.insert(route.name.to_string(), vec![unknown]);
            continue;
        }
        let listings: Vec<_> = parts.clusters.iter().filter_map(|part| Some((&part.cluster.name, part.own.last()?))).collect();
        let mut owns = Vec::new();
        // Without copies whose topics were deleted where they led.
        let there = listings.iter().flat_map(|(cluster, listing)| listing.names.iter().map(move |name| (*cluster, name)));
        for (leader, name) in there.filter(|(cluster, name)| leaders.name(leaders.leader(name)) == *cluster && !is_internal(name)) {
            let find = || table.owner_of_topic(name).map(|owner| owner.name.clone());
            if owners.entry(name.clone()).or_insert_with(find).as_ref() != Some(&route.name) {
                continue;
            }
            if leader == wished {
                owns.push(Owned { name: name.to_string(), leader: leader.to_string(), topic: Topic::default(), blocked: None });
                continue;
            }
            if let Some(away) = [leader, wished].into_iter().filter_map(|cluster| parts.part(cluster)).find(|part| part.own.is_away()) {
                look.wants = true;
                let blocked = Some(format!("topic {name}: {}", away.does_not_answer()));
                owns.push(Owned { name: name.to_string(), leader: leader.to_string(), topic: Topic::default(), blocked });
                continue;
            }
            let client = |cluster| parts.part(cluster).map(|part| part.own.client().clone());
            let new = || Moving { clients: [client(leader), client(wished)], topics: BTreeMap::new() };
            let moving = moving.entry([leader.clone(), wished.clone()]).or_insert_with(new);
            moving.topics.insert(name.clone(), route.name.clone());
        }
        look.owns.insert(route.name.to_string(), owns);
    }
    let reports = moving.into_iter().map(|(clusters, Moving { clients, topics })| {
        let table = &table;
        async move {
            let names = topics.keys().cloned().collect();
            let report = asked(proxy, table, &clusters, clients, &names).await;
            (clusters, topics, report)
        }
    });
    for (clusters, topics, report) in join_all(reports).await {
        for (name, route) in topics {
            let found = match &report {
                Ok(report) => report.get(&name).cloned(),
                Err(why) => Some(Err(why.clone())),
            };
            let Some(found) = found else { continue };
            look.wants = true;
            let blocked = found.as_ref().err().map(|why| format!("topic {name}: {why}"));
            let owned = Owned { name: name.to_string(), leader: clusters[0].to_string(), topic: found.unwrap_or_default(), blocked };
            look.owns.entry(route.to_string()).or_default().push(owned);
        }
    }
    look
}

fn relayed<'a>(proxy: &'a Proxy, table: &'a Arc<RoutingTable>) -> impl Iterator<Item = (Routed<'a>, Option<Arc<View>>)> {
    table.relayed().map(|routed| (routed, proxy.sight(table, routed).view))
}

/// Why nothing moves from or to a cluster at which [`Proxy::own_client`] is none.
pub(super) fn no_login(cluster: &str) -> String {
    format!("the file gives kferry no login of its own on cluster {cluster}: write one in [clusters.{cluster}]")
}

/// Why a topic stays in which a client of this process has begun a transaction. One that has written is seen by everybody; what has not may write yet.
pub(super) const TRANSACTION: &str = "a client has begun a transaction in it within the last 15 minutes, and those cannot move yet: stop the client, or drop \
                                      the topic from the route";

/// Whether topics can move between two clusters. An error is about all of them.
async fn asked(
    proxy: &Proxy,
    table: &Arc<RoutingTable>,
    [leader, wished]: &[Arc<str>; 2],
    clients: [Option<Client>; 2],
    topics: &BTreeSet<Arc<str>>,
) -> Result<Report, String> {
    let [Some(from), Some(to)] = clients else {
        return Err(format!("no mirror connects cluster {leader} with cluster {wished}: write one in routes.toml"));
    };
    // Every proxy looks at both ends with it before a flip.
    if let Some(cluster) = [leader, wished].into_iter().find(|cluster| proxy.own_client(cluster).is_none()) {
        return Err(no_login(cluster));
    }
    let rules = Rules::of(table.mirrors(), table.wished(), leader);
    let now = Timestamp::now().as_millisecond();
    let mut report = preflight(Between { from: &from, to: &to }, rules, topics, now).await.map_err(|error| error.to_string())?;
    for (topic, found) in &mut report {
        if proxy.holds.has_transaction(topic) {
            *found = found.clone().and(Err(TRANSACTION.to_owned()));
        }
    }
    // Any route may use a topic, not only its owner.
    for (routed, view) in relayed(proxy, table) {
        let Some(parts) = view.map(|view| view.parts()) else { continue };
        let [Some(from), Some(to)] = [leader, wished].map(|cluster| parts.part(cluster)) else { continue };
        // Without a login of its own a route may do what kferry may.
        if [from, to].iter().all(|part| Arc::ptr_eq(&part.own, &part.shown)) {
            continue;
        }
        let between = Between { from: from.shown.client(), to: to.shown.client() };
        let lost = lost_rights(&routed.route.name, between, topics).await.map_err(|error| error.to_string())?;
        for (topic, why) in lost {
            report.entry(topic).and_modify(|found| *found = found.clone().and(Err(why)));
        }
    }
    Ok(report)
}
