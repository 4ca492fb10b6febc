//! Where a topic leads and where a group lives: one function of the file, the decisions, and what exists, the same for proxy, mirror and CLI.
//!
//! It does not depend on the client: what nothing says a place for is at each client's home. In this order:
//!
//! | | a topic leads | a group lives |
//! |---|---|---|
//! | 1 | where the last decision says | where the last decision says |
//! | 2 | on the source of the mirror that copies it under its name, if it is there | on the source of the mirror that copies its offsets; if several do, on the one that has it |
//! | 3 | on the one cluster that has it | on the one cluster that has it |
//! | 4 | at home | at home |
//!
//! A source that cannot say whether it has a topic is taken to have it: a copy that is taken for the leader would be written.

use std::collections::HashMap;
use std::sync::Arc;

use kferry_config::{Cluster, Mirror};

/// What was decided last of each topic and group. There is nothing of those that never moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Where topics lead.
    pub topics: HashMap<Arc<str>, Led>,
    /// Where groups live: the cluster's name.
    pub groups: HashMap<Arc<str>, Arc<str>>,
}

/// Where a topic leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Since which term. 1: it was born there.
    pub term: i32,
    /// Where it led before; in term 1 who follows.
    pub before: Arc<str>,
    /// When it was decided, in milliseconds since 1970, by the clock of the proxy that asked for it.
    pub since: i64,
}

/// Whether a cluster has a topic or a group of some name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exists {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// It has never said.
    Unknown,
}

/// What says where things are.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// `[[mirrors]]`, in the order of the file.
    pub mirrors: &'a [Arc<Mirror>],
    /// What was decided.
    pub decisions: &'a Decisions,
    /// The clusters of the view.
    pub clusters: &'a [Arc<Cluster>],
}

impl<'a> Places<'a> {
    /// The cluster on which a topic leads. `None`: at each client's home. `exists`: whether a cluster has it.
    pub fn leader(&self, topic: &str, exists: impl Fn(&Cluster) -> Exists) -> Option<&'a Arc<Cluster>> {
        let copied = |mirror: &&'a Arc<Mirror>| copies_as(mirror, topic) && exists(&mirror.source) != Exists::No;
        self.cluster(self.decisions.topics.get(topic).map(|led| &led.cluster))
            .or_else(|| self.mirrors().find(copied).map(|mirror| &mirror.source))
            .or_else(|| self.only(exists))
    }

    /// The cluster on which a group lives. `None`: at each client's home. `exists`: whether a cluster has it.
    pub fn life(&self, group: &str, exists: impl Fn(&Cluster) -> Exists) -> Option<&'a Arc<Cluster>> {
        match &self.lives_among(group)[..] {
            [] => self.only(exists),
            [cluster] => Some(cluster),
            several => several.iter().find(|cluster| exists(cluster) == Exists::Yes).or(several.first()).copied(),
        }
    }

    /// The clusters on one of which a group lives, in the order of the file, by what does not depend on what exists. One, and it is known; none, and it may be any.
    /// Several are the sources of mirrors that name the same groups, such as all: which of them has it says where it lives.
    pub fn lives_among(&self, group: &str) -> Vec<&'a Arc<Cluster>> {
        if let Some(decided) = self.cluster(self.decisions.groups.get(group)) {
            return vec![decided];
        }
        let mut sources: Vec<&'a Arc<Cluster>> = Vec::new();
        for mirror in self.mirrors().filter(|mirror| mirror.groups.matches(group)) {
            if sources.iter().all(|source| source.name != mirror.source.name) {
                sources.push(&mirror.source);
            }
        }
        sources
    }

    /// The mirrors between clusters of the view.
    fn mirrors(&self) -> impl Iterator<Item = &'a Arc<Mirror>> {
        let has = |wanted: &Cluster| self.clusters.iter().any(|cluster| cluster.name == wanted.name);
        self.mirrors.iter().filter(move |mirror| has(&mirror.source) && has(&mirror.target))
    }

    fn cluster(&self, decided: Option<&Arc<str>>) -> Option<&'a Arc<Cluster>> {
        let decided = decided?;
        self.clusters.iter().find(|cluster| cluster.name == *decided)
    }

    fn only(&self, exists: impl Fn(&Cluster) -> Exists) -> Option<&'a Arc<Cluster>> {
        let mut having = self.clusters.iter().filter(|cluster| exists(cluster) == Exists::Yes);
        having.next().filter(|_| having.next().is_none())
    }
}

/// Whether a mirror copies a topic of its source under the same name.
pub fn copies_as(mirror: &Mirror, topic: &str) -> bool {
    mirror.topics.matches(topic) && mirror.naming.target(topic).is_ok_and(|target| target == topic)
}

/// The names on a mirror's target of topics that it copies under another name: copies that lead nowhere else, and that nobody else may write.
pub fn renamed<'n>(mirror: &'n Mirror, topics: impl Iterator<Item = &'n str>) -> impl Iterator<Item = String> {
    topics.filter(|topic| mirror.topics.matches(topic)).filter_map(|topic| {
        let target = mirror.naming.target(topic).ok()?;
        (target != topic).then(|| target.into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two old clusters, whose mirrors name all groups.
    const ALL_GROUPS: &str = r#"
        clusters.one = { id = 1, bootstrap_servers = "one:9092" }
        clusters.other = { id = 2, bootstrap_servers = "other:9092" }
        clusters.new = { id = 3, bootstrap_servers = "new:9092" }
        mirrors = [
            { name = "over-one", source = "one", target = "new", topics_regex = ["one.*"], groups_regex = [".*"] },
            { name = "over-other", source = "other", target = "new", topics_regex = ["other.*"], groups_regex = [".*"] },
        ]
    "#;

    const FILE: &str = r#"
        clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092" }
        clusters.new = { id = 2, bootstrap_servers = "new:9092" }
        clusters.other = { id = 3, bootstrap_servers = "other:9092" }
        [[mirrors]]
        name = "over"
        source = "legacy"
        target = "new"
        topics = ["orders", "old.name"]
        topics_regex = "orders\\..*"
        groups = "shop"
        rename = { "old.name" = "shop.name" }
        [[mirrors]]
        name = "back"
        source = "new"
        target = "legacy"
        topics_regex = ["payments.*"]
        groups_regex = "pay.*"
    "#;

    /// Names of what a cluster has; a cluster that is not among them has never said.
    type Having = [(&'static str, &'static [&'static str])];

    /// What it is; the view; what was decided; the name; who has it; where it is.
    type Case<'a> = (&'static str, &'static [&'static str], &'a Decisions, &'static str, &'a Having, Option<&'static str>);

    fn exists(having: &Having, cluster: &Cluster, name: &str) -> Exists {
        match having.iter().find(|(of, _)| **of == *cluster.name) {
            None => Exists::Unknown,
            Some((_, names)) if names.contains(&name) => Exists::Yes,
            Some(_) => Exists::No,
        }
    }

    fn places<T>(view: &[&str], decisions: &Decisions, of: impl FnOnce(Places<'_>) -> T) -> T {
        places_of(FILE, view, decisions, of)
    }

    fn places_of<T>(file: &str, view: &[&str], decisions: &Decisions, of: impl FnOnce(Places<'_>) -> T) -> T {
        let config = kferry_config::Config::parse(file, "routes.toml".as_ref()).unwrap();
        let clusters: Vec<_> = config.clusters.iter().filter(|cluster| view.contains(&&*cluster.name)).cloned().collect();
        of(Places { mirrors: &config.mirrors, decisions, clusters: &clusters })
    }

    #[test]
    fn a_topic_leads_where_the_first_rule_that_knows_says() {
        const BOTH: &[&str] = &["legacy", "new"];
        let led = Led { cluster: "new".into(), term: 2, before: "legacy".into(), since: 0 };
        let decisions = Decisions { topics: [("orders".into(), led)].into(), groups: HashMap::new() };
        let none = Decisions::default();
        let cases: &[Case<'_>] = &[
            ("decided", BOTH, &decisions, "orders", &[("legacy", &["orders"]), ("new", &["orders"])], Some("new")),
            ("copied", BOTH, &none, "orders", &[("legacy", &["orders"]), ("new", &["orders"])], Some("legacy")),
            ("to be copied", BOTH, &none, "orders", &[("legacy", &["orders"]), ("new", &[])], Some("legacy")),
            ("copied, and the source is away", BOTH, &none, "orders", &[("new", &["orders"])], Some("legacy")),
            ("born on the target", BOTH, &none, "orders", &[("legacy", &[]), ("new", &["orders"])], Some("new")),
            ("the other way", BOTH, &none, "payments", &[("legacy", &["payments"]), ("new", &["payments"])], Some("new")),
            ("by a regex", BOTH, &none, "orders.eu", &[("legacy", &["orders.eu"]), ("new", &["orders.eu"])], Some("legacy")),
            ("renamed: it is its own", BOTH, &none, "old.name", &[("legacy", &["old.name"]), ("new", &[])], Some("legacy")),
            ("the copy of one renamed", BOTH, &none, "shop.name", &[("legacy", &[]), ("new", &["shop.name"])], Some("new")),
            ("only there", BOTH, &none, "logs", &[("legacy", &[]), ("new", &["logs"])], Some("new")),
            ("on both", BOTH, &none, "logs", &[("legacy", &["logs"]), ("new", &["logs"])], None),
            ("nowhere", BOTH, &none, "logs", &[("legacy", &[]), ("new", &[])], None),
            ("to be created", BOTH, &none, "orders", &[("legacy", &[]), ("new", &[])], None),
            ("a mirror outside of the view", &["new", "other"], &none, "orders", &[("new", &["orders"]), ("other", &[])], Some("new")),
            ("decided for outside of the view", &["legacy", "other"], &decisions, "orders", &[("legacy", &["orders"])], Some("legacy")),
        ];
        for (what, view, decisions, topic, having, expected) in cases {
            places(view, decisions, |places| {
                let leader = places.leader(topic, |cluster| exists(having, cluster, topic));
                assert_eq!(leader.map(|cluster| &*cluster.name), *expected, "{what}");
            });
        }
    }

    #[test]
    fn a_group_lives_where_the_first_rule_that_knows_says() {
        const BOTH: &[&str] = &["legacy", "new"];
        let decisions = Decisions { topics: HashMap::new(), groups: [("shop".into(), "new".into())].into() };
        let none = Decisions::default();
        let cases: &[Case<'_>] = &[
            ("decided", BOTH, &decisions, "shop", &[], Some("new")),
            ("copied", BOTH, &none, "shop", &[("new", &["shop"])], Some("legacy")),
            ("the other way", BOTH, &none, "pay", &[], Some("new")),
            ("only there", BOTH, &none, "else", &[("legacy", &["else"]), ("new", &[])], Some("legacy")),
            ("on both", BOTH, &none, "else", &[("legacy", &["else"]), ("new", &["else"])], None),
            ("nowhere", BOTH, &none, "else", &[("legacy", &[]), ("new", &[])], None),
        ];
        for (what, view, decisions, group, having, expected) in cases {
            places(view, decisions, |places| {
                let life = places.life(group, |cluster| exists(having, cluster, group));
                assert_eq!(life.map(|cluster| &*cluster.name), *expected, "{what}");
            });
        }
    }

    #[test]
    fn a_group_that_the_mirrors_of_several_clusters_name_lives_on_the_one_that_has_it() {
        const ALL: &[&str] = &["one", "other", "new"];
        let decided = Decisions { topics: HashMap::new(), groups: [("shop".into(), "new".into())].into() };
        let none = Decisions::default();
        let cases: &[Case<'_>] = &[
            (
                "on the second, and copied from there",
                ALL,
                &none,
                "shop",
                &[("one", &[]), ("other", &["shop"]), ("new", &["shop"])],
                Some("other"),
            ),
            ("on the second, and the first is away", ALL, &none, "shop", &[("other", &["shop"]), ("new", &["shop"])], Some("other")),
            ("on both", ALL, &none, "shop", &[("one", &["shop"]), ("other", &["shop"]), ("new", &["shop"])], Some("one")),
            ("nowhere", ALL, &none, "shop", &[("one", &[]), ("other", &[]), ("new", &[])], Some("one")),
            ("by a client that sees one of them", &["other", "new"], &none, "shop", &[], Some("other")),
            ("decided", ALL, &decided, "shop", &[("other", &["shop"])], Some("new")),
        ];
        for (what, view, decisions, group, having, expected) in cases {
            places_of(ALL_GROUPS, view, decisions, |places| {
                let life = places.life(group, |cluster| exists(having, cluster, group));
                assert_eq!(life.map(|cluster| &*cluster.name), *expected, "{what}");
            });
        }
    }

    #[test]
    fn copies_under_another_name_are_known_by_the_names_on_the_source() {
        let config = kferry_config::Config::parse(FILE, "routes.toml".as_ref()).unwrap();
        let names = ["orders", "old.name", "logs"];
        assert_eq!(renamed(&config.mirrors[0], names.into_iter()).collect::<Vec<_>>(), ["shop.name"]);
        assert_eq!(renamed(&config.mirrors[1], names.into_iter()).count(), 0);
    }
}
