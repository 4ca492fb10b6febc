//! `--connect`: what routes own by a pattern, and what else only the clusters' own topics and groups can tell of ownership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kferry_config::{Cluster, Config, Mirror, Mode, Offsets, Route, is_internal};
use kferry_wire::admin::groups::GroupFilter;
use kferry_wire::client::{Client, Topics};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::places::copies_as;

use super::brokers::Brokers;
use super::{count, listed_up_to};

/// For all that a cluster is asked.
const DEADLINE: Duration = Duration::from_secs(10);

/// Names in one sentence.
const NAMED: usize = 10;

/// The topics and groups of a cluster that kferry's login may see.
#[derive(Default)]
struct There {
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
}

/// By the cluster's name. One that did not answer is not there: that is told elsewhere.
type Known<'c> = BTreeMap<&'c str, There>;

/// A sentence for each thing that is not as routes and mirrors together need it.
pub(super) async fn ask(config: &Config, brokers: &Brokers) -> Vec<String> {
    let asks_groups = config.routes.iter().any(|route| !route.owns_groups.is_empty());
    let asked = concerned(config).into_iter().filter(|cluster| brokers.answers_for(cluster)).map(async |cluster| {
        let client = Client::new(cluster.clone(), ConnectOptions::default()).within(DEADLINE);
        let groups = async { if asks_groups { client.list_groups(GroupFilter::default()).await.ok() } else { None } };
        let (metadata, groups) = tokio::join!(client.metadata(Topics::All), groups);
        let topics = metadata.ok()?.topics.into_iter().filter(|topic| !topic.internal).map(|topic| topic.name.to_string()).collect();
        Some((&*cluster.name, There { topics, groups: groups.into_iter().flatten().map(|group| group.group_id).collect() }))
    });
    judge(config, &join_all(asked).await.into_iter().flatten().collect())
}

/// The clusters that relayed clients may come to, and those at the other end of a mirror.
fn concerned(config: &Config) -> Vec<&Arc<Cluster>> {
    let is_end =
        |cluster: &Cluster| config.mirrors.iter().any(|mirror| mirror.source.name == cluster.name || mirror.target.name == cluster.name);
    let is_relayed = |cluster: &Cluster| config.relayed_clusters().any(|relayed| relayed.name == cluster.name);
    config.clusters.iter().filter(|cluster| is_relayed(cluster) || is_end(cluster)).collect()
}

fn judge(config: &Config, known: &Known<'_>) -> Vec<String> {
    let renamed = new_names(config, known);
    let mut sentences = Vec::new();
    for route in config.routes.iter().filter(|route| route.mode == Mode::Relay) {
        sentences.extend(nothing(config, known, route));
        sentences.extend(topics(config, known, &renamed, route));
        sentences.extend(groups(config, known, route));
    }
    sentences.extend(on_both(config, known, &renamed));
    sentences.extend(into_copies(config, known));
    sentences
}

/// What topics are called on a target, where that is not their name on the source: cluster and name.
fn new_names<'c>(config: &'c Config, known: &Known<'_>) -> BTreeSet<(&'c str, String)> {
    let of_mirror = |mirror: &'c Arc<Mirror>| {
        let topics = known.get(&*mirror.source.name).into_iter().flat_map(|there| &there.topics);
        let targets = topics.filter(|topic| mirror.topics.matches(topic)).filter_map(|topic| {
            let target = mirror.naming.target(topic).ok()?;
            (target != topic.as_str()).then(|| (&*mirror.target.name, target.into_owned()))
        });
        targets.collect::<Vec<_>>()
    };
    config.mirrors.iter().flat_map(of_mirror).collect()
}

/// The mirrors from or to a cluster.
fn mirrors_at<'c>(config: &'c Config, cluster: &str) -> impl Iterator<Item = &'c Arc<Mirror>> {
    config.mirrors.iter().filter(move |mirror| *mirror.source.name == *cluster || *mirror.target.name == *cluster)
}

/// The clusters that a route's clients have to do with: its own, and those at the other end of a mirror.
fn around<'c>(config: &'c Config, route: &'c Route) -> BTreeSet<&'c str> {
    let ends = mirrors_at(config, &route.cluster.name).flat_map(|mirror| [&*mirror.source.name, &*mirror.target.name]);
    ends.chain([&*route.cluster.name]).collect()
}

/// Why a topic cannot move.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    NotCopied,
    Renamed,
    Translated,
}

impl Obstacle {
    /// Of a topic of a cluster, for a route; `None` if nothing is in the way.
    fn of(config: &Config, renamed: &BTreeSet<(&str, String)>, route: &Route, (cluster, topic): (&str, &String)) -> Option<Self> {
        let copies: Vec<_> = mirrors_at(config, &route.cluster.name).filter(|mirror| mirror.topics.matches(topic)).collect();
        let keeps_name = |mirror: &Mirror| mirror.naming.target(topic).is_ok_and(|target| target == topic.as_str());
        if copies.iter().any(|mirror| keeps_name(mirror) && mirror.offsets == Offsets::Preserve) {
            None
        } else if copies.iter().any(|mirror| keeps_name(mirror)) {
            Some(Self::Translated)
        } else if !copies.is_empty() || renamed.contains(&(cluster, topic.clone())) {
            Some(Self::Renamed)
        } else {
            Some(Self::NotCopied)
        }
    }
}

/// A route that owns topics, of which its clusters have none.
fn nothing(config: &Config, known: &Known<'_>, route: &Arc<Route>) -> Option<String> {
    let clusters: Vec<_> = around(config, route).into_iter().collect();
    let there: Option<Vec<_>> = clusters.iter().map(|cluster| known.get(cluster)).collect();
    let is_owned = |topic: &String| config.owner_of_topic(topic).is_some_and(|owner| owner.name == route.name);
    let has_some = there?.iter().any(|there| there.topics.iter().any(is_owned));
    (!route.owns_topics.is_empty() && !has_some).then(|| {
        format!(
            "route {}: of what it owns by `topics` and `topics_regex` no topic is on {}, as far as kferry's login sees: correct them, or create the topics",
            route.name,
            clusters.join(", ")
        )
    })
}

/// What a route owns by patterns and cannot move. What it names is checked in the file.
fn topics(config: &Config, known: &Known<'_>, renamed: &BTreeSet<(&str, String)>, route: &Arc<Route>) -> Vec<String> {
    if route.owns_topics.is_empty() {
        return Vec::new();
    }
    let named_in_file: BTreeSet<&str> = route.owns_topics.names().collect();
    let is_owned =
        |topic: &str| !named_in_file.contains(topic) && config.owner_of_topic(topic).is_some_and(|owner| owner.name == route.name);
    let mut obstacles: BTreeMap<Obstacle, BTreeSet<&str>> = BTreeMap::new();
    for cluster in around(config, route) {
        for topic in known.get(cluster).into_iter().flat_map(|there| &there.topics).filter(|topic| is_owned(topic)) {
            if let Some(obstacle) = Obstacle::of(config, renamed, route, (cluster, topic)) {
                obstacles.entry(obstacle).or_default().insert(topic);
            }
        }
    }
    let told = |(obstacle, topics): (Obstacle, BTreeSet<&str>)| {
        let names = named(&topics);
        let (why, todo) = match obstacle {
            Obstacle::NotCopied => (
                format!("no mirror copies to or from cluster {}", route.cluster.name),
                "they stay where they are; mirror them, or let the route own less",
            ),
            Obstacle::Renamed => ("a mirror renames".to_owned(), "what is renamed cannot move yet; let the route own less"),
            Obstacle::Translated => {
                ("a mirror translates (offsets = \"translate\")".to_owned(), "what is translated cannot move yet; let the route own less")
            }
        };
        format!("route {}: its patterns own {} that {why} ({names}): {todo}", route.name, count(topics.len(), "topic"))
    };
    obstacles.into_iter().map(told).collect()
}

/// What a route owns by patterns of groups and no mirror copies.
fn groups(config: &Config, known: &Known<'_>, route: &Arc<Route>) -> Option<String> {
    if route.owns_groups.is_empty() {
        return None;
    }
    let named_in_file: BTreeSet<&str> = route.owns_groups.names().collect();
    let is_owned =
        |group: &str| !named_in_file.contains(group) && config.owner_of_group(group).is_some_and(|owner| owner.name == route.name);
    // Those of the processes of a mirror are not there to be moved.
    let is_kferrys = |group: &str| config.mirrors.iter().any(|mirror| Mirror::group(&mirror.name) == group);
    let is_copied = |group: &str| mirrors_at(config, &route.cluster.name).any(|mirror| mirror.groups.matches(group));
    let there = around(config, route).into_iter().filter_map(|cluster| known.get(cluster)).flat_map(|there| &there.groups);
    let groups: BTreeSet<&str> =
        there.map(String::as_str).filter(|group| is_owned(group) && !is_copied(group) && !is_kferrys(group)).collect();
    (!groups.is_empty()).then(|| {
        format!(
            "route {}: its patterns own {} that no mirror copies to or from cluster {} ({}): they stay where they are; copy them, or let the route \
             own less",
            route.name,
            count(groups.len(), "group"),
            route.cluster.name,
            named(&groups)
        )
    })
}

/// Topics of one name that are on several clusters of relayed clients, and not because a mirror copies them.
fn on_both(config: &Config, known: &Known<'_>, renamed: &BTreeSet<(&str, String)>) -> Option<String> {
    let routes: Vec<_> = config.routes.iter().filter(|route| route.mode == Mode::Relay).collect();
    let seen: BTreeSet<&str> = routes
        .iter()
        .flat_map(|route| around(config, route))
        .chain(config.relayed_clusters().map(|cluster| &*cluster.name))
        .filter(|cluster| known.contains_key(cluster))
        .collect();
    let mut clusters: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for cluster in &seen {
        for topic in &known[cluster].topics {
            clusters.entry(topic).or_default().insert(cluster);
        }
    }
    // From the first of them mirrors lead to all others.
    let is_one = |topic: &str, clusters: &BTreeSet<&str>| {
        let mirrors: Vec<_> = config.mirrors.iter().filter(|mirror| copies_as(mirror, topic)).collect();
        let mut reached: BTreeSet<&str> = clusters.first().copied().into_iter().collect();
        for _ in 0..clusters.len() {
            let ends = mirrors.iter().map(|mirror| [&*mirror.source.name, &*mirror.target.name]);
            let more: Vec<_> = ends.filter(|ends| ends.iter().any(|end| reached.contains(end))).flatten().collect();
            reached.extend(more);
        }
        clusters.is_subset(&reached)
    };
    // What begins with `__` is of tools that look after one cluster, as `__amazon_msk_canary` is.
    clusters.retain(|topic, clusters| {
        clusters.retain(|cluster| !renamed.contains(&(*cluster, (*topic).to_owned())));
        !is_one(topic, clusters) && !is_internal(topic) && !topic.starts_with("__")
    });
    let on: BTreeSet<&str> = clusters.values().flatten().copied().collect();
    let topics: BTreeSet<&str> = clusters.into_keys().collect();
    (!topics.is_empty()).then(|| {
        format!(
            "{} of one name on several clusters of relayed clients ({}), and no mirror copies them between all of these ({}): each client uses that of \
             the cluster of its route, and once that route is at home elsewhere another one. Mirror what is meant to be one topic",
            count(topics.len(), "topic"),
            on.into_iter().collect::<Vec<_>>().join(", "),
            named(&topics)
        )
    })
}

/// Routes in bootstrap mode whose clients are on the cluster where a mirror has its copies: the proxy does not see what they produce there.
fn into_copies(config: &Config, known: &Known<'_>) -> Vec<String> {
    let told = |(mirror, at): (&Arc<Mirror>, &Arc<Cluster>)| {
        let is_there = |route: &&Arc<Route>| route.mode == Mode::Bootstrap && route.cluster.name == at.name && !route.stopped;
        let routes: Vec<&str> = config.routes.iter().filter(is_there).map(|route| &*route.name).collect();
        // Where topics move, the copy is on the source of what leads on the target.
        let leads_on_target = |topic: &str| {
            let owner = config.owner_of_topic(topic).filter(|_| config.state.is_some());
            owner.is_some_and(|owner| owner.mode == Mode::Relay && owner.cluster.name == mirror.target.name)
        };
        let is_copy = |topic: &&String| mirror.topics.matches(topic) && leads_on_target(topic) == (at.name == mirror.source.name);
        let topics = known.get(&*mirror.source.name)?.topics.iter().filter(is_copy);
        let copies: Vec<_> = topics.filter_map(|topic| mirror.naming.target(topic).ok()).collect();
        let copies: BTreeSet<&str> = copies.iter().map(AsRef::as_ref).collect();
        (!routes.is_empty() && !copies.is_empty()).then(|| {
            format!(
                "clients of {} in bootstrap mode ({}) are on cluster {}, where mirror {} writes {} ({}): nothing keeps them from producing there, and a \
                 record of theirs stops the copy (diverged). Give them mode = \"relay\", or let none of them produce to these",
                count(routes.len(), "route"),
                listed_up_to(NAMED, &routes),
                at.name,
                mirror.name,
                count(copies.len(), "topic"),
                named(&copies)
            )
        })
    };
    config.mirrors.iter().flat_map(|mirror| [(mirror, &mirror.target), (mirror, &mirror.source)]).filter_map(told).collect()
}

fn named(names: &BTreeSet<&str>) -> String {
    listed_up_to(NAMED, &names.iter().copied().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    /// Two clusters with a mirror from `legacy` to `new`, and routes.
    fn file(mirror: &str, routes: &str) -> Config {
        let cluster = |n: u8, name: &str| {
            format!(
                "[clusters.{name}]\nid = {n}\nbootstrap_servers = \"{name}:9092\"\nnode_ids = \"1-3\"\nbroker_ports = \"910{n}-910{}\"\n",
                n + 2
            )
        };
        let clusters = cluster(1, "legacy") + &cluster(4, "new");
        config(&format!(
            "{clusters}[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n{routes}\n[[mirrors]]\nname = \"m\"\nsource = \"legacy\"\n\
             target = \"new\"\n{mirror}\n"
        ))
    }

    fn relay(name: &str, cluster: &str, owns: &str) -> String {
        format!("[[routes]]\nname = \"{name}\"\nclient_id = \"{name}-*\"\ncluster = \"{cluster}\"\nmode = \"relay\"\n{owns}\n")
    }

    fn there(topics: &[&str], groups: &[&str]) -> There {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        There { topics: owned(topics), groups: owned(groups) }
    }

    #[test]
    fn what_a_pattern_owns_and_cannot_move_is_told_by_its_first_owner() {
        let routes =
            relay("orders", "new", "topics = [\"orders\", \"order-*\"]") + &relay("rest", "legacy", "topics = \"*\"\ngroups = \"*\"");
        let config = file("topics_regex = 'order.*|old|t-.*'\ngroups = 'copied'\n[mirrors.rename]\n\"old\" = \"young\"", &routes);
        let known = Known::from([
            ("legacy", there(&["orders", "order-1", "mine", "old", "__hidden", "__kferry.mirror.m"], &["copied", "left"])),
            ("new", there(&["orders", "order-1", "young", "theirs"], &["kferry-mirror-m"])),
        ]);
        assert_eq!(
            judge(&config, &known),
            [
                "route rest: its patterns own 2 topics that no mirror copies to or from cluster legacy (mine, theirs): they stay where they are; \
                 mirror them, or let the route own less",
                "route rest: its patterns own 2 topics that a mirror renames (old, young): what is renamed cannot move yet; let the route own less",
                "route rest: its patterns own 1 group that no mirror copies to or from cluster legacy (left): they stay where they are; copy them, \
                 or let the route own less",
            ]
        );
        let translated = file("topics_regex = '.*'\noffsets = 'translate'", &relay("orders", "new", "topics_regex = 'order.*'"));
        let told = judge(&translated, &known);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("own 2 topics that a mirror translates (offsets = \"translate\") (order-1, orders)"), "{told:?}");
    }

    #[test]
    fn names_are_bounded() {
        let config = file("topics = 'x'", &relay("all", "new", "topics = '*'"));
        let topics: Vec<String> = (10..37).map(|n| format!("t-{n}")).collect();
        let known = Known::from([("new", there(&topics.iter().map(String::as_str).collect::<Vec<_>>(), &[]))]);
        let told = judge(&config, &known);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("own 27 topics that no") && told[0].contains("t-18, t-19 and 17 more)"), "{told:?}");
    }

    #[test]
    fn a_name_that_one_old_cluster_shares_with_another_whose_mirror_renames_it_is_told() {
        let other = "topics = 'orders'\n[clusters.other]\nid = 3\nbootstrap_servers = \"other:9092\"\nnode_ids = \"1-3\"\nbroker_ports = \"9107-9109\"\n\
                     [[mirrors]]\nname = \"two\"\nsource = \"other\"\ntarget = \"new\"\ntopics = 'orders'\n";
        let known = Known::from([
            ("legacy", there(&["orders"], &[])),
            ("other", there(&["orders"], &[])),
            ("new", there(&["orders", "other.orders"], &[])),
        ]);
        let told = judge(&file(&format!("{other}rename = {{ orders = 'other.orders' }}"), &relay("all", "new", "")), &known);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("1 topic of one name on several clusters of relayed clients (legacy, new, other), and no mirror"),
            "{told:?}"
        );
    }

    #[test]
    fn a_name_on_both_clusters_that_nobody_copies_is_told_once() {
        let known = Known::from([
            ("legacy", there(&["both", "copied", "old", "one", "__canary"], &[])),
            ("new", there(&["both", "copied", "young", "other", "__canary"], &[])),
        ]);
        let mirror = "topics = ['copied', 'old']\n[mirrors.rename]\n\"old\" = \"young\"";
        let told = judge(&file(mirror, &relay("all", "new", "")), &known);
        assert_eq!(
            told,
            [
                "1 topic of one name on several clusters of relayed clients (legacy, new), and no mirror copies them between all of these (both): each \
                 client uses that of the cluster of its route, and once that route is at home elsewhere another one. Mirror what is meant to be one topic"
            ]
        );
        // Nobody is shown both clusters.
        let bootstrap = relay("all", "legacy", "").replace("relay", "bootstrap");
        assert_eq!(judge(&file(mirror, &bootstrap), &known), Vec::<String>::new());
        // Of a cluster that does not answer nothing is known.
        assert_eq!(judge(&file(mirror, &relay("all", "new", "")), &Known::from([("new", there(&["both"], &[]))])), Vec::<String>::new());
    }

    #[test]
    fn clients_in_bootstrap_mode_on_the_target_are_told() {
        let bootstrap = |cluster: &str| relay("all", cluster, "").replace("relay", "bootstrap");
        let known = Known::from([("legacy", there(&["old", "orders", "users"], &[]))]);
        let mirror = "topics = ['old', 'orders']\n[mirrors.rename]\n\"old\" = \"young\"";
        let told = judge(&file(mirror, &bootstrap("new")), &known);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with(
                "clients of 1 route in bootstrap mode (all) are on cluster new, where mirror m writes 2 topics (orders, young): "
            ),
            "{told:?}"
        );
        assert_eq!(judge(&file(mirror, &bootstrap("legacy")), &known), Vec::<String>::new());
        // What a file wishes on the target has its copy on the source.
        let owner = |cluster: &str| relay("orders", cluster, "topics = ['orders']");
        let moved =
            |cluster: &str, of: &str| file(&format!("{mirror}\n[state]\ncluster = 'new'"), &format!("{}{}", owner(cluster), bootstrap(of)));
        for (cluster, of, expected) in [
            ("legacy", "legacy", None),
            ("legacy", "new", Some("2 topics (orders, young)")),
            ("new", "legacy", Some("1 topic (orders)")),
            ("new", "new", Some("1 topic (young)")),
        ] {
            let told = judge(&moved(cluster, of), &known);
            let is_told = told.iter().find(|told| told.contains("in bootstrap mode (all)"));
            assert_eq!(is_told.is_some(), expected.is_some(), "{cluster}, {of}: {told:?}");
            assert!(expected.is_none_or(|expected| is_told.unwrap().contains(expected)), "{cluster}, {of}: {told:?}");
        }
    }
}
