//! Who owns what a plan lists, and what could be written for what nobody owns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use kferry_config::{Config, Mode as RouteMode, as_glob};
use kferry_mirror::plan::{GroupForecast, MirrorPlan, Missing, Mode, TopicForecast};
use serde::Serialize;

use crate::check::printable;
use crate::clients::Row;
use crate::init::quoted;

/// Names in one line for people; `--json` has them all.
const SHOWN: usize = 30;

/// A plan for `--json`: with the owner of each topic and group.
#[derive(Serialize)]
pub(super) struct Planned<'p> {
    mirror: &'p str,
    source: &'p str,
    target: &'p str,
    offsets: &'p str,
    topics: Vec<Owned<'p, TopicForecast>>,
    groups: Vec<Owned<'p, GroupForecast>>,
    missing_rights: &'p [Missing],
    errors: &'p [String],
    warnings: &'p [String],
}

#[derive(Serialize)]
struct Owned<'p, T> {
    #[serde(flatten)]
    what: &'p T,
    /// The name of a route.
    owner: Option<&'p str>,
}

impl<'p> Planned<'p> {
    pub(super) fn new(config: &'p Config, plan: &'p MirrorPlan) -> Self {
        // All of it: what is added to a plan is not forgotten here.
        let MirrorPlan { mirror, source, target, offsets, topics, groups, missing_rights, errors, warnings } = plan;
        let topics = topics.iter().map(|what| Owned { what, owner: of_topic(config, what) });
        let groups = groups.iter().map(|what| Owned { what, owner: of_group(config, what) });
        Self { mirror, source, target, offsets, topics: topics.collect(), groups: groups.collect(), missing_rights, errors, warnings }
    }
}

pub(super) fn of_topic<'c>(config: &'c Config, topic: &TopicForecast) -> Option<&'c str> {
    config.owner_of_topic(&topic.plan.topic).map(|route| &*route.name)
}

pub(super) fn of_group<'c>(config: &'c Config, group: &GroupForecast) -> Option<&'c str> {
    config.owner_of_group(&group.group).map(|route| &*route.name)
}

/// Whether there are routes that could own anything.
pub(super) fn can_be_owned(config: &Config) -> bool {
    config.routes.iter().any(|route| route.mode == RouteMode::Relay)
}

/// What nobody owns of that which is led by one cluster and could move.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Proposal {
    cluster: Arc<str>,
    /// The routes in relay mode to this cluster: with these lines in one of them everything stays where it is.
    routes: Vec<Arc<str>>,
    topics: Vec<Arc<str>>,
    groups: Vec<Arc<str>>,
}

/// A proposal for each cluster that leads something and has a route that could own it.
pub(super) fn proposals(config: &Config, plans: &[MirrorPlan]) -> Vec<Proposal> {
    let of_cluster = |cluster: &Arc<str>| {
        let is_there = |route: &&Arc<kferry_config::Route>| route.mode == RouteMode::Relay && route.cluster.name == *cluster;
        let routes: Vec<_> = config.routes.iter().filter(is_there).map(|route| route.name.clone()).collect();
        let topics: BTreeSet<_> =
            free_topics(config, plans).filter(|topic| topic.plan.leader == *cluster).map(|topic| topic.plan.topic.clone()).collect();
        let groups: BTreeSet<_> =
            free_groups(config, plans).filter(|(plan, _)| plan.source == *cluster).map(|(_, group)| group.group.clone()).collect();
        let is_nothing = routes.is_empty() || (topics.is_empty() && groups.is_empty());
        (!is_nothing).then(|| Proposal {
            cluster: cluster.clone(),
            routes,
            topics: topics.into_iter().collect(),
            groups: groups.into_iter().collect(),
        })
    };
    config.clusters.iter().filter_map(|cluster| of_cluster(&cluster.name)).collect()
}

/// Topics that nobody owns and that could move.
fn free_topics<'p>(config: &Config, plans: &'p [MirrorPlan]) -> impl Iterator<Item = &'p TopicForecast> {
    let moves = |topic: &&TopicForecast| topic.mode == Mode::Preserve && topic.plan.topic == topic.plan.target;
    plans.iter().flat_map(|plan| &plan.topics).filter(moves).filter(move |topic| of_topic(config, topic).is_none())
}

/// Groups that nobody owns and that could move. Offsets that are not copied are there already, or cannot be: then it is not clear where the group lives.
fn free_groups<'p>(config: &Config, plans: &'p [MirrorPlan]) -> impl Iterator<Item = (&'p MirrorPlan, &'p GroupForecast)> {
    let groups = plans.iter().flat_map(|plan| plan.groups.iter().map(move |group| (plan, group)));
    groups.filter(move |(_, group)| group.left == 0 && of_group(config, group).is_none())
}

/// What nobody owns of that which could move, by whose clients use it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Used {
    /// By one route's clients.
    routes: Vec<UsedByRoute>,
    /// By clients of several: somebody has to decide.
    shared: Vec<Shared>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct UsedByRoute {
    route: Arc<str>,
    cluster: Arc<str>,
    topics: Vec<String>,
    groups: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shared {
    /// `topic` or `group`.
    kind: &'static str,
    name: String,
    routes: Vec<Arc<str>>,
}

/// The numbers of the routes, in the order of the file, whose clients use what has this name.
type Users = BTreeMap<String, BTreeSet<usize>>;

impl Used {
    pub(super) fn of(config: &Config, plans: &[MirrorPlan], seen: &[Row]) -> Self {
        let topics = free_topics(config, plans).map(|topic| &*topic.plan.topic).collect();
        let groups = free_groups(config, plans).map(|(_, group)| &*group.group).collect();
        Self::among(config, &topics, &groups, seen)
    }

    fn among(config: &Config, topics: &BTreeSet<&str>, groups: &BTreeSet<&str>, seen: &[Row]) -> Self {
        let (mut of_topics, mut of_groups) = (Users::new(), Users::new());
        for row in seen {
            // As this file has it, whatever the proxy's had.
            let route = config.route(&row.client_id, row.address, row.tls_subject.as_deref());
            let number = route.and_then(|route| config.routes.iter().position(|one| one.name == route.name));
            let Some(number) = number.filter(|number| config.routes[*number].mode == RouteMode::Relay) else { continue };
            for (users, used, free) in [(&mut of_topics, &row.topics_produced, topics), (&mut of_groups, &row.groups_joined, groups)] {
                for name in used.iter().filter(|name| free.contains(name.as_str())) {
                    users.entry(name.clone()).or_default().insert(number);
                }
            }
        }
        let only = |users: &Users, number: usize| -> Vec<String> {
            users.iter().filter(|(_, routes)| routes.iter().eq([&number])).map(|(name, _)| name.clone()).collect()
        };
        let routes = config.routes.iter().enumerate().map(|(number, route)| UsedByRoute {
            route: route.name.clone(),
            cluster: route.cluster.name.clone(),
            topics: only(&of_topics, number),
            groups: only(&of_groups, number),
        });
        let routes = routes.filter(|used| !used.topics.is_empty() || !used.groups.is_empty()).collect();
        let shared = |kind, users: &Users| -> Vec<Shared> {
            let several = users.iter().filter(|(_, routes)| routes.len() > 1);
            let names = |routes: &BTreeSet<usize>| routes.iter().map(|number| config.routes[*number].name.clone()).collect();
            several.map(|(name, routes)| Shared { kind, name: name.clone(), routes: names(routes) }).collect()
        };
        Self { routes, shared: [shared("topic", &of_topics), shared("group", &of_groups)].into_iter().flatten().collect() }
    }

    /// For people: lines that can be copied into the file.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for UsedByRoute { route, cluster, topics, groups } in &self.routes {
            let (route, cluster) = (printable(route), printable(cluster));
            let _ = writeln!(
                out,
                "\nowned by no route, and used by clients of route {route} (to {cluster}) alone; with these lines the route owns it:"
            );
            out.push_str(&lines(topics, groups));
        }
        if !self.shared.is_empty() {
            out.push_str("\nowned by no route, and used by clients of several; write each into one of them:\n");
            for Shared { kind, name, routes } in self.shared.iter().take(SHOWN) {
                let routes: Vec<_> = routes.iter().map(|route| printable(route)).collect();
                let _ = writeln!(out, "  {kind} {}: {}", printable(name), routes.join(", "));
            }
            if let more @ 1.. = self.shared.len().saturating_sub(SHOWN) {
                let _ = writeln!(out, "  and {more} more (--json lists them all)");
            }
        }
        if out.is_empty() {
            out.push_str("\nnothing that a client was seen to use is owned by no route and could move\n");
        }
        out
    }
}

/// Lines for a route.
fn lines<S: AsRef<str>>(topics: &[S], groups: &[S]) -> String {
    let mut out = String::new();
    for (key, names) in [("topics", topics), ("groups", groups)] {
        if names.is_empty() {
            continue;
        }
        let shown: Vec<_> = names.iter().take(SHOWN).map(|name| quoted(&as_glob(name.as_ref()))).collect();
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("    # and {more} more (--json lists them all)"),
        };
        let _ = writeln!(out, "  {key} = [{}]{more}", shown.join(", "));
    }
    out
}

impl Proposal {
    /// For people: lines that can be copied into the file.
    pub(super) fn text(&self) -> String {
        let routes: Vec<_> = self.routes.iter().map(|route| printable(route)).collect();
        let mut out = format!(
            "\nowned by no route, so it would not move; in a route in relay mode to {} ({}) these lines keep it where it is:\n",
            printable(&self.cluster),
            routes.join(", ")
        );
        out.push_str(&lines(&self.topics, &self.groups));
        out
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_proposal_is_lines_of_the_file() {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>();
        let topics: Vec<Arc<str>> = (10..43).map(|n| format!("t{n}").into()).collect();
        let groups = names(&["billing", "a*\"[b]"]);
        let proposal = Proposal { cluster: "legacy".into(), routes: names(&["orders", "rest"]), topics, groups };
        let text = proposal.text();
        let (head, lines) = text.trim_start().split_once('\n').unwrap();
        assert!(head.contains("relay mode to legacy (orders, rest) these"), "{text}");
        assert!(lines.contains("\"t39\"]    # and 3 more (--json lists them all)\n"), "{text}");
        let file = format!(
            "[clusters.legacy]\nid = 1\nbootstrap_servers = \"l:1\"\nnode_ids = \"1\"\nbroker_ports = \"9100\"\n[clusters.new]\nid = 2\n\
             bootstrap_servers = \"n:1\"\n[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n[[mirrors]]\nname = \"m\"\nsource = \"legacy\"\n\
             target = \"new\"\ntopics_regex = '.*'\ngroups_regex = '.*'\n[[routes]]\nname = \"orders\"\nclient_id = \"*\"\ncluster = \"legacy\"\n\
             mode = \"relay\"\n{lines}"
        );
        let config = Config::parse(&file, Path::new("routes.toml")).unwrap();
        assert!(["billing", "a*\"[b]"].iter().all(|group| config.owner_of_group(group).is_some()), "{file}");
        assert!(
            config.owner_of_group("ab\"[b]").is_none() && config.owner_of_topic("t39").is_some() && config.owner_of_topic("t40").is_none()
        );
    }

    #[test]
    fn what_clients_use_is_proposed_for_their_route_and_what_several_use_is_told() {
        let file = "[clusters.legacy]\nid = 1\nbootstrap_servers = \"l:1\"\nnode_ids = \"1\"\nbroker_ports = \"9100\"\n[clusters.new]\nid = 2\n\
             bootstrap_servers = \"n:1\"\nnode_ids = \"1\"\nbroker_ports = \"9200\"\n[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n\
             [[routes]]\nname = \"orders\"\nclient_id = \"orders-*\"\ncluster = \"new\"\nmode = \"relay\"\n\
             [[routes]]\nname = \"past\"\nclient_id = \"past-*\"\ncluster = \"legacy\"\n\
             [[routes]]\nname = \"rest\"\nclient_id = \"*\"\ncluster = \"legacy\"\nmode = \"relay\"\n";
        let config = Config::parse(file, Path::new("routes.toml")).unwrap();
        let row = |client_id: &str, topics: &[&str], groups: &[&str]| Row {
            route: None,
            client_id: client_id.to_owned(),
            software_name: None,
            software_version: None,
            address: std::net::IpAddr::from([10, 1, 2, 3]),
            tls_subject: None,
            cluster: None,
            stays_with_dead_brokers: false,
            topics_produced: topics.iter().map(ToString::to_string).collect(),
            groups_joined: groups.iter().map(ToString::to_string).collect(),
        };
        let seen = [
            row("orders-1", &["orders", "bills", "not-copied"], &["shop"]),
            row("orders-2", &["orders"], &["shop", "*"]),
            row("bills", &["bills"], &["shop-2"]),
            // Its clients are not relayed by this file.
            row("past-1", &["orders", "past"], &["shop"]),
        ];
        let free = (["orders", "bills", "past"].into(), ["shop", "shop-2", "*"].into());
        let used = Used::among(&config, &free.0, &free.1, &seen);
        let text = "\nowned by no route, and used by clients of route orders (to new) alone; with these lines the route owns it:\n  topics = [\"orders\"]\n  \
             groups = [\"\\\\*\", \"shop\"]\n\nowned by no route, and used by clients of route rest (to legacy) alone; with these lines the route owns it:\n  \
             groups = [\"shop-2\"]\n\nowned by no route, and used by clients of several; write each into one of them:\n  topic bills: orders, rest\n";
        assert_eq!(used.text(), text);
        assert!(Used::among(&config, &free.0, &free.1, &seen[3..]).text().starts_with("\nnothing that a client was seen to use"));
    }
}
