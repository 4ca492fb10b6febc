//! Which groups a route owns, and whether they can move: asked of all clusters of its view, with kferry's own login.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use kferry_wire::decisions::OwnedGroup;
use kferry_wire::preflight::Between;
use kferry_wire::preflight::groups::{Listed, listed, preflight_groups};

use crate::proxy::Proxy;
use crate::relay::view::{Part, View};
use crate::routes::{Routed, RoutingTable};

/// The groups of a route, by what the clusters of its view have.
pub(super) async fn owned_groups(proxy: &Proxy, table: &RoutingTable, routed: Routed<'_>, view: &View) -> Vec<OwnedGroup> {
    let Routed { route, .. } = routed;
    let to = &*route.cluster.name;
    let (parts, leaders) = view.fresh().await;
    let list = async |part: &Part| if part.own.is_away() { Err(part.does_not_answer()) } else { listed(part.own.client()).await };
    let lists: Vec<Listed> = join_all(parts.clusters.iter().map(list)).await;
    let is_owned = |name: &&str| table.owner_of_group(name).is_some_and(|owner| owner.name == route.name);
    let decided = parts.decisions.groups.keys().map(ToString::to_string);
    let names: BTreeSet<String> = lists.iter().flatten().flat_map(BTreeMap::keys).cloned().chain(decided).collect();
    let number = |cluster: &str| parts.clusters.iter().position(|part| *part.cluster.name == *cluster);
    let mut owned = Vec::new();
    let mut moving: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for name in names.iter().map(String::as_str).filter(is_owned) {
        // A file may have made the view smaller just now.
        let among: Vec<usize> = leaders.lives_among(name).into_iter().filter(|number| *number < lists.len()).collect();
        let mut having = among.iter().filter(|number| lists[**number].as_ref().is_ok_and(|listed| listed.contains_key(name)));
        let lives = match (having.next(), having.next(), &among[..]) {
            (Some(lives), None, _) | (None, None, [lives]) => *lives,
            // One of those that do not answer may have it.
            (None, None, _) if among.iter().any(|number| lists[*number].is_err()) => continue,
            (_, _, [first, ..]) => *first,
            _ => continue,
        };
        if *parts.clusters[lives].cluster.name == *to {
            owned.push(OwnedGroup { name: name.to_owned(), lives: to.to_owned(), blocked: None });
        } else {
            moving.entry(lives).or_default().push(name.to_owned());
        }
    }
    for (lives, names) in moving {
        let from = &*parts.clusters[lives].cluster.name;
        let Some(there) = number(to) else {
            let blocked = |name: &String| {
                Some(format!("group {name}: no mirror connects cluster {from} with cluster {to}: write one in routes.toml"))
            };
            owned.extend(names.into_iter().map(|name| OwnedGroup { blocked: blocked(&name), name, lives: from.to_owned() }));
            continue;
        };
        let [here, to] = [lives, there].map(|at| parts.clusters[at].own.client());
        let between = Between { from: here, to };
        let both = [&lists[lives], &lists[there]];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let is_transactional = |name: &str| proxy.parking.is_transactional(name);
        for (name, found) in preflight_groups(between, both, table.mirrors(), &names, is_transactional).await {
            let blocked = found.err().map(|why| format!("group {name}: {why}"));
            owned.push(OwnedGroup { name, lives: from.to_owned(), blocked });
        }
    }
    owned
}
