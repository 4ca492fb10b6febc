//! What the file of this process wants, and what its routes own by what the clusters have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use kferry_config::{Mode, is_internal};
use kferry_wire::client::Client;
use kferry_wire::decisions::{Owned, Topic, Wished};
use uuid::Uuid;

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

/// Topics that one cluster leads and another one is to lead, each with its route.
struct Moving {
    /// Both clusters; `None`: no mirror connects them.
    clusters: Option<(Client, Client)>,
    topics: BTreeMap<Arc<str>, Arc<str>>,
}

/// Looks at what each route owns, and whether that can move where it is wished.
pub(super) async fn look(proxy: &Proxy) -> Look {
    let table = proxy.routes.in_force();
    let mut look = Look::default();
    let mut owners: HashMap<Arc<str>, Option<Arc<str>>> = HashMap::new();
    // Of all routes at once; but a route may have to ask with its own login.
    let mut moving: BTreeMap<_, Moving> = BTreeMap::new();
    for routed in table.routed().filter(|routed| routed.route.mode == Mode::Relay) {
        let (route, home) = (routed.route, routed.home);
        let wished = &route.cluster.name;
        look.wants |= home.name != *wished;
        let view = if route.owns_topics.is_empty() { None } else { proxy.view(&table, routed) };
        let Some(view) = view else {
            look.owns.insert(route.name.to_string(), Vec::new());
            continue;
        };
        let (parts, leaders) = view.fresh().await;
        let Some(listings) = parts.clusters.iter().map(|part| part.own.last()).collect::<Option<Vec<_>>>() else { continue };
        let names: BTreeSet<&Arc<str>> = listings.iter().flat_map(|listing| listing.names.iter()).collect();
        let own = |name: &str| parts.clusters.iter().find(|part| *part.cluster.name == *name).map(|part| &part.own);
        let mut owns = Vec::new();
        for name in names.into_iter().filter(|name| !is_internal(name)) {
            let find = || table.owner_of_topic(name).map(|owner| owner.name.clone());
            if owners.entry(name.clone()).or_insert_with(find).as_ref() != Some(&route.name) {
                continue;
            }
            let leader = leaders.name(leaders.leader(name));
            if leader == wished {
                owns.push(Owned { name: name.to_string(), leader: leader.to_string(), topic: Topic::default(), blocked: None });
                continue;
            }
            let (from, to) = (own(leader), own(wished));
            let asked = [from, to].map(|own| own.map(|own| Arc::as_ptr(own).addr()));
            let moving = moving.entry((leader.clone(), wished.clone(), asked));
            let clusters = || from.zip(to).map(|(from, to)| (from.client().clone(), to.client().clone()));
            let moving = moving.or_insert_with(|| Moving { clusters: clusters(), topics: BTreeMap::new() });
            moving.topics.insert(name.clone(), route.name.clone());
        }
        look.owns.insert(route.name.to_string(), owns);
    }
    look.wants |= !moving.is_empty();
    let now = Timestamp::now().as_millisecond();
    let mirrors = table.mirrors();
    let reports = moving.into_iter().map(|((leader, wished, ..), Moving { clusters, topics })| async move {
        let names = topics.keys().cloned().collect();
        let report = match &clusters {
            Some((from, to)) => preflight(Between { from, to }, mirrors, &names, now).await.map_err(|error| error.to_string()),
            None => Err(format!("no mirror connects cluster {leader} with cluster {wished}: write one in routes.toml")),
        };
        (leader, topics, report)
    });
    for (leader, topics, report) in join_all(reports).await {
        for (name, route) in topics {
            let found = match &report {
                Ok(report) => report.get(&name).cloned().unwrap_or_else(|| Err("nothing is known of it".to_owned())),
                Err(why) => Err(why.clone()),
            };
            let blocked = found.as_ref().err().map(|why| format!("topic {name}: {why}"));
            let owned = Owned { name: name.to_string(), leader: leader.to_string(), topic: found.unwrap_or_default(), blocked };
            look.owns.entry(route.to_string()).or_default().push(owned);
        }
    }
    look
}
