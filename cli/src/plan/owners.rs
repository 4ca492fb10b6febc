//! Who owns what a plan lists, and what could be written for what nobody owns.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use kferry_config::{Config, Mode as RouteMode, as_glob};
use kferry_mirror::plan::{GroupForecast, MirrorPlan, Missing, Mode, TopicForecast};
use serde::Serialize;

use crate::check::printable;
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
        let moves =
            |topic: &&TopicForecast| topic.plan.leader == *cluster && topic.mode == Mode::Preserve && topic.plan.topic == topic.plan.target;
        let topics = plans.iter().flat_map(|plan| &plan.topics).filter(moves).filter(|topic| of_topic(config, topic).is_none());
        let topics: BTreeSet<_> = topics.map(|topic| topic.plan.topic.clone()).collect();
        let groups = plans.iter().filter(|plan| plan.source == *cluster).flat_map(|plan| &plan.groups);
        // Offsets that are not copied are there already, or cannot be: then it is not clear where the group lives.
        let groups: BTreeSet<_> =
            groups.filter(|group| group.left == 0 && of_group(config, group).is_none()).map(|group| group.group.clone()).collect();
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

impl Proposal {
    /// For people: lines that can be copied into the file.
    pub(super) fn text(&self) -> String {
        let routes: Vec<_> = self.routes.iter().map(|route| printable(route)).collect();
        let mut out = format!(
            "\nowned by no route, so it would not move; in a route in relay mode to {} ({}) these lines keep it where it is:\n",
            printable(&self.cluster),
            routes.join(", ")
        );
        for (key, names) in [("topics", &self.topics), ("groups", &self.groups)] {
            if names.is_empty() {
                continue;
            }
            let shown: Vec<_> = names.iter().take(SHOWN).map(|name| quoted(&as_glob(name))).collect();
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!("    # and {more} more (--json lists them all)"),
            };
            let _ = writeln!(out, "  {key} = [{}]{more}", shown.join(", "));
        }
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
}
