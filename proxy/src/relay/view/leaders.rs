//! On which cluster of a view each topic leads: looked up for every entry of a Produce request, so it is worked out before.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kafka_protocol::messages::ApiKey;
use kferry_config::{Cluster, Mirror};
use kferry_wire::places::{Decisions, Exists, Led, Places, copies_as, renamed};

/// The topics of a cluster, as far as kferry's own login may see them. `None`: it has not said yet.
pub(crate) type Names = Option<Arc<HashSet<Arc<str>>>>;

/// What a cluster of a view is to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stance {
    /// It leads it.
    Leads,
    /// Another one does: the cluster with this number.
    Follows(usize),
    /// It has a copy that only the mirror may write: one under another name, or one whose leader is not in the view.
    HasCopy,
}

impl Stance {
    /// Whether a request about partitions of the topic must not get through. What becomes of a Produce request is more than that.
    pub(crate) fn refuses(self, api: ApiKey) -> bool {
        match self {
            Self::Leads => false,
            Self::Follows(_) => true,
            Self::HasCopy => matches!(api, ApiKey::DeleteRecords | ApiKey::AddPartitionsToTxn | ApiKey::WriteTxnMarkers),
        }
    }
}

/// A cluster that is not in a view, and the source of a mirror to one that is.
#[derive(Debug, Clone)]
pub(crate) struct Beyond {
    pub cluster: Arc<Cluster>,
    pub names: Names,
}

/// Where topics lead, as things are. Clusters are numbers: 0 is home.
#[derive(Debug)]
pub(crate) struct Leaders {
    clusters: Vec<Arc<Cluster>>,
    mirrors: Vec<Arc<Mirror>>,
    names: Vec<Names>,
    decisions: Arc<Decisions>,
    /// Of each topic that a cluster has; home where nothing else is said.
    led: HashMap<Arc<str>, usize>,
    /// Sources of mirrors to clusters of the view that are not in the view themselves, and what they have.
    beyond: Vec<Beyond>,
    /// Copies that only their mirror may write, by the number of their cluster: under another name, and of what a cluster beyond the view has.
    copies: HashSet<(usize, String)>,
    settled: Settled,
    doubts: HashSet<Doubt>,
}

/// What is certain of topics of a mirror's target that the mirror would copy if its source had them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The source has not.
    pub born: HashSet<Arc<str>>,
    /// The source was seen to have them as well: copies, also after it has deleted its topic.
    pub copied: HashSet<Arc<str>>,
}

impl Settled {
    /// All that is certain by both.
    pub(crate) fn and(mut self, more: &Self) -> Self {
        self.born.extend(more.born.iter().cloned());
        self.copied.extend(more.copied.iter().cloned());
        self
    }
}

/// A topic that a mirror's target has and its source has not named. It may be a copy: one that has just been made, or the source's broker that was asked
/// lags behind its own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Doubt {
    /// The name of the source: numbers are those of one file.
    pub source: Arc<str>,
    pub topic: Arc<str>,
}

/// What views have worked out. Those to which the same is known share it: a hundred routes have a hundred views, most of them of the same clusters with the
/// same login, and while all of them work out where a thousand topics lead their clients wait for a third of a second.
#[derive(Debug, Default)]
pub(crate) struct WorkedOut(Mutex<Vec<Weak<Leaders>>>);

impl WorkedOut {
    /// As [`Leaders::new`].
    pub(crate) fn leaders(
        &self,
        clusters: Vec<Arc<Cluster>>,
        mirrors: Vec<Arc<Mirror>>,
        names: Vec<Names>,
        beyond: Vec<Beyond>,
        decisions: Arc<Decisions>,
        settled: Settled,
    ) -> Arc<Leaders> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|leaders| leaders.strong_count() > 0);
        let is_same = |leaders: &Arc<Leaders>| {
            leaders.is_of(&clusters, &mirrors, &names, &beyond) && Arc::ptr_eq(&leaders.decisions, &decisions) && leaders.settled == settled
        };
        if let Some(leaders) = known.iter().filter_map(Weak::upgrade).find(is_same) {
            return leaders;
        }
        let leaders = Arc::new(Leaders::new(clusters, mirrors, names, beyond, decisions, settled));
        known.push(Arc::downgrade(&leaders));
        leaders
    }
}

impl Leaders {
    /// `names`: one for each of `clusters`. `settled`: what is certain, of which that is kept which still can be.
    pub(crate) fn new(
        clusters: Vec<Arc<Cluster>>,
        mirrors: Vec<Arc<Mirror>>,
        names: Vec<Names>,
        beyond: Vec<Beyond>,
        decisions: Arc<Decisions>,
        settled: Settled,
    ) -> Self {
        let Settled { mut born, mut copied } = settled;
        copied.retain(|topic| names.iter().flatten().any(|names| names.contains(topic)));
        let mut doubts = HashSet::new();
        for (mirror, [of_source, of_target]) in between(&clusters, &mirrors, &names, &beyond) {
            let is_beyond = beyond.iter().any(|beyond| beyond.cluster.name == mirror.source.name);
            let is_open = |topic: &&Arc<str>| copies_as(mirror, topic) && !(is_beyond && decisions.topics.contains_key(*topic));
            for topic in of_target.iter().filter(is_open) {
                if of_source.contains(topic) {
                    copied.insert(topic.clone());
                } else {
                    doubts.insert(Doubt { source: mirror.source.name.clone(), topic: topic.clone() });
                }
            }
        }
        let open: HashSet<&Arc<str>> = doubts.iter().map(|doubt| &doubt.topic).collect();
        born.retain(|topic| open.contains(topic) && !copied.contains(topic));
        doubts.retain(|doubt| !born.contains(&doubt.topic) && !copied.contains(&doubt.topic));
        let settled = Settled { born, copied };
        let (led, copies) = (HashMap::new(), HashSet::new());
        let mut leaders = Self { clusters, mirrors, names, decisions, led, beyond, copies, settled, doubts };
        let known: HashSet<&Arc<str>> = leaders.names.iter().flatten().flat_map(|names| names.iter()).collect();
        leaders.led = known.into_iter().map(|topic| (topic.clone(), leaders.decide(topic))).collect();
        for mirror in &leaders.mirrors {
            let numbers = [&mirror.source, &mirror.target].map(|of| leaders.number(&of.name));
            let [Some(source), Some(target)] = numbers else { continue };
            let names = leaders.names[source].iter().flat_map(|names| names.iter());
            leaders.copies.extend(renamed(mirror, names.map(|name| &**name)).map(|name| (target, name)));
        }
        let from_beyond = leaders.copies_from_beyond();
        leaders.copies.extend(from_beyond);
        leaders
    }

    /// Whether it was made of these.
    pub(crate) fn is_of(&self, clusters: &[Arc<Cluster>], mirrors: &[Arc<Mirror>], names: &[Names], beyond: &[Beyond]) -> bool {
        let is_same = |one: &Names, other: &Names| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let is_same_beyond = |(one, other): (&Beyond, &Beyond)| one.cluster == other.cluster && is_same(&one.names, &other.names);
        self.names.iter().zip(names).all(|(one, other)| is_same(one, other))
            && self.names.len() == names.len()
            && self.beyond.iter().zip(beyond).all(is_same_beyond)
            && self.beyond.len() == beyond.len()
            && self.mirrors == mirrors
            && self.clusters == clusters
    }

    /// The number of a cluster of the view.
    pub(crate) fn number(&self, cluster: &str) -> Option<usize> {
        self.clusters.iter().position(|of| *of.name == *cluster)
    }

    /// The name of a cluster.
    pub(crate) fn name(&self, number: usize) -> &Arc<str> {
        &self.clusters[number].name
    }

    /// The cluster on which a topic leads.
    pub(crate) fn leader(&self, topic: &str) -> usize {
        self.led.get(topic).copied().unwrap_or_else(|| self.decide(topic))
    }

    /// Whether a group lives elsewhere than on a cluster, whichever clusters have it.
    pub(crate) fn lives_elsewhere(&self, group: &str, at: &str) -> bool {
        let among = self.lives_among(group);
        among.len() < self.clusters.len() && among.iter().all(|number| **self.name(*number) != *at)
    }

    /// The clusters on one of which a group lives: which of them has it says on which. All of the view, home first, if nothing but that says it.
    pub(crate) fn lives_among(&self, group: &str) -> Vec<usize> {
        let among: Vec<_> =
            self.places(|places| places.lives_among(group).iter().filter_map(|cluster| self.number(&cluster.name)).collect());
        if among.is_empty() { (0..self.clusters.len()).collect() } else { among }
    }

    /// The cluster on which a topic leads that a client reads or writes. One that no cluster is known to have is asked for before it is shown to a client; but a
    /// client may know it from another proxy, or from before this one was started, and then the cluster may have got a copy since it was asked what it has.
    pub(crate) fn leader_to_records(&self, topic: &str) -> usize {
        let leader = self.leader(topic);
        if self.led.contains_key(topic) || self.decided(topic).is_some() {
            leader
        } else {
            self.source_of_copy(topic, leader).unwrap_or(leader)
        }
    }

    /// What was decided last of a topic, if anything ever was.
    pub(crate) fn decided(&self, topic: &str) -> Option<&Led> {
        self.decisions.topics.get(topic).filter(|led| !self.is_another(topic, led))
    }

    /// Whether home has a topic of its own under the name of one that is decided: no mirror connects the two.
    fn is_another(&self, topic: &str, led: &Led) -> bool {
        let home = &self.clusters[0].name;
        let is_copied = |mirror: &Arc<Mirror>| [&mirror.source.name, &mirror.target.name].contains(&home) && copies_as(mirror, topic);
        ![&led.cluster, &led.before].contains(&home)
            && self.names[0].as_ref().is_some_and(|names| names.contains(topic))
            && !self.mirrors.iter().any(is_copied)
    }

    /// What a cluster is to a topic that a client reads or writes, by that.
    pub(crate) fn stance_to_records(&self, topic: &str, at: usize) -> Stance {
        self.stance_by(self.leader_to_records(topic), topic, at)
    }

    /// What a cluster is to a topic.
    pub(crate) fn stance(&self, topic: &str, at: usize) -> Stance {
        self.stance_by(self.leader(topic), topic, at)
    }

    fn stance_by(&self, leader: usize, topic: &str, at: usize) -> Stance {
        match leader {
            leader if self.leads_outside(topic, leader) => Stance::HasCopy,
            leader if leader != at => Stance::Follows(leader),
            _ if self.is_copy(topic, at) => Stance::HasCopy,
            _ => Stance::Leads,
        }
    }

    /// What a cluster that has left the view is to a topic: where it was not decided otherwise it leads what it has, as for clients without a view.
    pub(crate) fn stance_of_outsider(&self, topic: &str, at: &str) -> Stance {
        match self.decided(topic).filter(|led| *led.cluster != *at) {
            Some(led) => self.number(&led.cluster).map_or(Stance::HasCopy, Stance::Follows),
            None => Stance::Leads,
        }
    }

    /// What is certain.
    pub(crate) fn settled(&self) -> &Settled {
        &self.settled
    }

    /// What is not. Until it is, the source is taken to have the topic: a copy that is taken for the leader would be written.
    pub(crate) fn doubts(&self) -> &HashSet<Doubt> {
        &self.doubts
    }

    /// The source of the mirror that would copy a topic to a cluster.
    fn source_of_copy(&self, topic: &str, at: usize) -> Option<usize> {
        let copies = |mirror: &&Arc<Mirror>| mirror.target.name == self.clusters[at].name && copies_as(mirror, topic);
        self.mirrors.iter().find(copies).and_then(|mirror| self.number(&mirror.source.name))
    }

    /// Whether a topic leads on a cluster that is not in the view, so that what is the leader by the view has a copy. `leader`: that. A topic of the same name,
    /// between other clusters, is another topic.
    fn leads_outside(&self, topic: &str, leader: usize) -> bool {
        let Some(led) = self.decided(topic).filter(|led| self.number(&led.cluster).is_none()) else { return false };
        let leader = self.name(leader);
        let is_copied = |mirror: &Arc<Mirror>| mirror.connects([leader, &led.before]) && copies_as(mirror, topic);
        *leader == led.before || self.mirrors.iter().any(is_copied)
    }

    fn is_copy(&self, topic: &str, at: usize) -> bool {
        !self.copies.is_empty() && self.copies.contains(&(at, topic.to_owned()))
    }

    /// Topics that no cluster of the view but a mirror's target has, and of which it is not certain that the mirror's source has none: it is not in the view, so
    /// they would seem to lead on the target.
    fn copies_from_beyond(&self) -> Vec<(usize, String)> {
        let mut copies = Vec::new();
        for mirror in self.mirrors.iter().filter(|mirror| self.beyond.iter().any(|beyond| beyond.cluster.name == mirror.source.name)) {
            let Some(target) = self.number(&mirror.target.name) else { continue };
            let is_copy = |topic: &&Arc<str>| {
                let is_certain = self.decided(topic).is_some() || self.settled.born.contains(*topic);
                !is_certain && copies_as(mirror, topic) && self.leader(topic) == target
            };
            let of_target = self.names[target].iter().flat_map(|names| names.iter());
            copies.extend(of_target.filter(is_copy).map(|topic| (target, topic.to_string())));
        }
        copies
    }

    fn decide(&self, topic: &str) -> usize {
        let exists = |cluster: &Cluster| match self.number(&cluster.name).and_then(|number| self.names[number].as_ref()) {
            Some(names) if names.contains(topic) => Exists::Yes,
            _ if self.is_of_another(cluster, topic) => Exists::No,
            None => Exists::Unknown,
            Some(_) if self.may_lag(cluster, topic) && !self.settled.born.contains(topic) => Exists::Unknown,
            Some(_) => Exists::No,
        };
        let none = Decisions::default();
        let decisions = if self.decided(topic).is_some() { &self.decisions } else { &none };
        let places = Places { mirrors: &self.mirrors, decisions, clusters: &self.clusters };
        places.leader(topic, exists).and_then(|cluster| self.number(&cluster.name)).unwrap_or(0)
    }

    /// Whether a source that has not named a topic may have it: the target of its mirror has.
    fn may_lag(&self, source: &Cluster, topic: &str) -> bool {
        let mut copying = self.mirrors.iter().filter(|mirror| mirror.source.name == source.name && copies_as(mirror, topic));
        copying.any(|mirror| self.has(&mirror.target, topic))
    }

    /// Whether what the target of a source's mirror has of this name is the copy of another source's topic. Patterns are held against the name last: this is
    /// asked of each topic of each cluster.
    fn is_of_another(&self, source: &Cluster, topic: &str) -> bool {
        let is_other = |mirror: &Mirror, target: &Cluster| {
            mirror.target.name == target.name
                && mirror.source.name != source.name
                && self.has(&mirror.source, topic)
                && copies_as(mirror, topic)
        };
        let mut mirrors = self.mirrors.iter().filter(|mirror| mirror.source.name == source.name);
        mirrors.any(|mirror| self.mirrors.iter().any(|other| is_other(other, &mirror.target)) && copies_as(mirror, topic))
    }

    /// Whether a cluster of the view, or one beyond it, is known to have a topic.
    fn has(&self, cluster: &Cluster, topic: &str) -> bool {
        let names = match self.number(&cluster.name) {
            Some(number) => self.names[number].as_deref(),
            None => names_beyond(&self.beyond, cluster),
        };
        names.is_some_and(|names| names.contains(topic))
    }

    /// Whether it is about these clusters and mirrors.
    pub(crate) fn is_between(&self, clusters: &[Arc<Cluster>], mirrors: &[Arc<Mirror>]) -> bool {
        self.clusters == clusters && self.mirrors == mirrors
    }

    /// As if each doubt was for nothing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn sure(self) -> Self {
        let born = self.doubts.into_iter().map(|doubt| doubt.topic).collect();
        let settled = self.settled.and(&Settled { born, copied: HashSet::new() });
        Self::new(self.clusters, self.mirrors, self.names, self.beyond, self.decisions, settled)
    }

    fn places<T>(&self, of: impl FnOnce(Places<'_>) -> T) -> T {
        of(Places { mirrors: &self.mirrors, decisions: &self.decisions, clusters: &self.clusters })
    }
}

/// The mirrors of which both clusters have said what they have, with the topics of their source, which may be beyond the view, and of their target.
fn between<'a>(
    clusters: &[Arc<Cluster>],
    mirrors: &'a [Arc<Mirror>],
    names: &'a [Names],
    beyond: &'a [Beyond],
) -> impl Iterator<Item = (&'a Mirror, [&'a HashSet<Arc<str>>; 2])> {
    let of = |cluster: &Cluster| clusters.iter().position(|of| of.name == cluster.name).and_then(|number| names[number].as_deref());
    mirrors.iter().filter_map(move |mirror| {
        let of_source = of(&mirror.source).or_else(|| names_beyond(beyond, &mirror.source))?;
        Some((&**mirror, [of_source, of(&mirror.target)?]))
    })
}

/// What a cluster beyond the view has. `None`: it has not said yet, or is no such cluster.
fn names_beyond<'a>(beyond: &'a [Beyond], cluster: &Cluster) -> Option<&'a HashSet<Arc<str>>> {
    beyond.iter().find(|beyond| beyond.cluster.name == cluster.name).and_then(|beyond| beyond.names.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kferry_config::Config;
    use std::path::Path;

    const FILE: &str = r#"
        clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092" }
        clusters.new = { id = 2, bootstrap_servers = "new:9092" }
        mirrors = [{ name = "over", source = "legacy", target = "new", topics_regex = "orders.*", groups = "shop", rename = { orders-old = "shop.orders" } }]
    "#;

    fn leaders(home: &str, names: [Option<&[&str]>; 2]) -> Leaders {
        let config = Config::parse(FILE, Path::new("routes.toml")).unwrap();
        let mut clusters = config.clusters.clone();
        let mut names: Vec<Names> =
            names.map(|names| names.map(|names| Arc::new(names.iter().map(|name| Arc::from(*name)).collect()))).into();
        if home == "new" {
            clusters.reverse();
            names.reverse();
        }
        Leaders::new(clusters, config.mirrors, names, Vec::new(), Arc::default(), Settled::default()).sure()
    }

    /// The names of the clusters that lead these topics.
    fn led_on<const N: usize>(leaders: &Leaders, topics: [&str; N]) -> [String; N] {
        topics.map(|topic| leaders.name(leaders.leader(topic)).to_string())
    }

    #[test]
    fn where_topics_lead_does_not_depend_on_home_but_for_what_nothing_says_a_place_for() {
        let names: [Option<&[&str]>; 2] = [Some(&["orders", "logs", "both"]), Some(&["orders", "payments", "both"])];
        for home in ["legacy", "new"] {
            let leaders = leaders(home, names);
            assert_eq!(led_on(&leaders, ["orders", "logs", "payments", "both", "to-come"]), ["legacy", "legacy", "new", home, home]);
            assert_eq!(leaders.lives_among("shop").iter().map(|number| &**leaders.name(*number)).collect::<Vec<_>>(), ["legacy"]);
            let elsewhere = ["shop", "else"].map(|group| ["legacy", "new"].map(|at| leaders.lives_elsewhere(group, at)));
            assert_eq!(elsewhere, [[false, true], [false, false]]);
        }
    }

    #[test]
    fn a_decision_is_above_all_else() {
        let led = |cluster: &str| Led { cluster: cluster.into(), term: 2, before: "legacy".into(), since: 0 };
        let decisions = Decisions { topics: [("orders".into(), led("new")), ("unseen".into(), led("new"))].into(), groups: HashMap::new() };
        for home in ["legacy", "new"] {
            let before = leaders(home, [Some(&["orders", "orders-2"]), Some(&["orders", "orders-2"])]);
            let after =
                Leaders::new(before.clusters, before.mirrors, before.names, Vec::new(), Arc::new(decisions.clone()), before.settled);
            let [new, legacy] = ["new", "legacy"].map(|name| after.number(name).unwrap());
            assert_eq!(led_on(&after, ["orders", "orders-2", "unseen"]), ["new", "legacy", "new"]);
            for topic in ["orders", "unseen"] {
                assert_eq!(after.stance_to_records(topic, new), Stance::Leads, "{topic}");
                assert_eq!(after.stance_to_records(topic, legacy), Stance::Follows(new), "{topic}");
                assert_eq!(after.decided(topic).map(|led| led.term), Some(2));
            }
            assert!(after.decided("orders-2").is_none());
        }
    }

    #[test]
    fn what_leads_on_a_cluster_that_is_not_in_the_view_is_read_where_its_copy_is_and_not_written() {
        const FILE: &str = r#"
            clusters.one = { id = 1, bootstrap_servers = "one:9092" }
            clusters.two = { id = 2, bootstrap_servers = "two:9092" }
            clusters.new = { id = 3, bootstrap_servers = "new:9092" }
            mirrors = [
                { name = "one", source = "one", target = "new", topics = ["orders"] },
                { name = "two", source = "two", target = "new", topics = ["logs"] },
            ]
        "#;
        let config = Config::parse(FILE, Path::new("routes.toml")).unwrap();
        let of = |view: [&str; 2], has: [&[&str]; 2], led: &[(&str, &str, &str)]| {
            let clusters = view.map(|name| config.clusters.iter().find(|cluster| *cluster.name == *name).unwrap().clone()).into();
            let names = has.map(|has| Some(Arc::new(names(has)))).into();
            let led = led.iter().map(|(topic, before, cluster)| {
                (Arc::from(*topic), Led { cluster: (*cluster).into(), term: 3, before: (*before).into(), since: 0 })
            });
            let decisions = Arc::new(Decisions { topics: led.collect(), groups: HashMap::new() });
            Leaders::new(clusters, config.mirrors.clone(), names, Vec::new(), decisions, Settled::default()).sure()
        };
        // It was on new, and has gone back: those of the other cluster see what it has left there.
        let back = of(["two", "new"], [&["logs"], &["logs", "orders"]], &[("orders", "new", "one")]);
        assert_eq!([0, 1].map(|at| back.stance_to_records("orders", at)), [Stance::HasCopy; 2]);
        assert_eq!([0, 1].map(|at| back.stance_to_records("logs", at)), [Stance::Leads, Stance::Follows(0)]);
        // One of the same name that another mirror has to do with.
        let other = of(["two", "new"], [&["logs"], &["logs"]], &[("logs", "one", "elsewhere")]);
        assert_eq!(other.stance_to_records("logs", 0), Stance::Leads);
        // From one to new, and on: the first one has a copy of what new had.
        let on = of(["one", "new"], [&["orders"], &["orders"]], &[("orders", "new", "two")]);
        assert_eq!([0, 1].map(|at| on.stance_to_records("orders", at)), [Stance::HasCopy; 2]);
        // For who is still connected to a cluster that has left the view.
        let left = of(["new", "two"], [&["orders"], &[]], &[("orders", "one", "new"), ("logs", "new", "one")]);
        assert_eq!(left.stance_of_outsider("orders", "one"), Stance::Follows(0));
        assert_eq!(left.stance_of_outsider("logs", "one"), Stance::Leads);
        assert_eq!(left.stance_of_outsider("logs", "elsewhere"), Stance::HasCopy);
        assert_eq!(left.stance_of_outsider("payments", "one"), Stance::Leads);
    }

    #[test]
    fn views_share_what_they_have_worked_out_as_long_as_nothing_differs() {
        let of = leaders("new", [Some(&["orders"]), Some(&["orders", "payments"])]);
        let known = WorkedOut::default();
        let with = |names: &[Names], decisions: &Arc<Decisions>, settled: &Settled| {
            known.leaders(of.clusters.clone(), of.mirrors.clone(), names.to_vec(), Vec::new(), decisions.clone(), settled.clone())
        };
        let first = with(&of.names, &of.decisions, &of.settled);
        assert!(Arc::ptr_eq(&first, &with(&of.names, &of.decisions, &of.settled)));
        let other_names: Vec<Names> = of.names.iter().map(|names| names.as_deref().cloned().map(Arc::new)).collect();
        let other_settled = Settled { born: names(&["else"]), ..of.settled.clone() };
        let others = [
            with(&other_names, &of.decisions, &of.settled),
            with(&of.names, &Arc::default(), &of.settled),
            with(&of.names, &of.decisions, &other_settled),
        ];
        assert!(others.iter().all(|other| !Arc::ptr_eq(&first, other)));
        drop((first, others));
        with(&of.names, &of.decisions, &of.settled);
        assert_eq!(known.0.lock().unwrap().len(), 1, "what no view has any more is forgotten");
    }

    #[test]
    fn a_source_that_has_not_said_what_it_has_leads_what_its_mirror_copies() {
        let leaders = leaders("new", [None, Some(&["orders", "payments"])]);
        assert_eq!(led_on(&leaders, ["orders", "payments"]), ["legacy", "new"]);
    }

    fn names(names: &[&str]) -> HashSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_topic_of_a_target_is_its_own_only_once_it_is_certain_that_the_source_has_none() {
        let new = 0;
        let sure = leaders("new", [Some(&[]), Some(&["orders", "payments"])]);
        assert_eq!(led_on(&sure, ["orders", "payments"]), ["new", "new"]);
        assert!(sure.doubts().is_empty());
        let with =
            |settled| Leaders::new(sure.clusters.clone(), sure.mirrors.clone(), sure.names.clone(), Vec::new(), Arc::default(), settled);
        let unsure = with(Settled::default());
        assert_eq!(led_on(&unsure, ["orders", "payments"]), ["legacy", "new"]);
        assert_eq!(*unsure.doubts(), HashSet::from([Doubt { source: "legacy".into(), topic: "orders".into() }]));
        assert!(unsure.stance_to_records("orders", new).refuses(ApiKey::DeleteRecords));
        // It was asked for, and the source has it: it is no question any more.
        let copy = with(Settled { born: HashSet::new(), copied: names(&["orders"]) });
        assert_eq!((led_on(&copy, ["orders"]), copy.doubts().len()), (["legacy".to_owned()], 0));
    }

    #[test]
    fn what_is_certain_is_kept_only_as_long_as_it_can_be_so() {
        let before = leaders("new", [Some(&[]), Some(&["orders"])]);
        let after = |of: [Option<&[&str]>; 2]| {
            let [legacy, new] = of.map(|of| of.map(|of| Arc::new(names(of))));
            Leaders::new(
                before.clusters.clone(),
                before.mirrors.clone(),
                vec![new, legacy],
                Vec::new(),
                Arc::default(),
                before.settled.clone(),
            )
        };
        let both = after([Some(&[]), Some(&["orders", "orders-2"])]);
        assert_eq!(both.settled.born, names(&["orders"]));
        assert_eq!(both.doubts.iter().map(|doubt| &*doubt.topic).collect::<Vec<_>>(), ["orders-2"]);
        // Another cluster under the source's name, of which nothing is known yet; the source has made one of that name; the target has deleted its own.
        let cases: [[Option<&[&str]>; 2]; 3] = [[None, Some(&["orders"])], [Some(&["orders"]), Some(&["orders"])], [Some(&[]), Some(&[])]];
        for of in cases {
            assert!(after(of).settled.born.is_empty(), "{of:?}");
        }
    }

    #[test]
    fn a_copy_stays_a_copy_when_its_source_has_deleted_the_topic() {
        let before = leaders("new", [Some(&["orders"]), Some(&["orders"])]);
        let after = |legacy: &[&str], new: &[&str], before: &Leaders| {
            let of: Vec<Names> = [new, legacy].map(|of| Some(Arc::new(names(of)))).into();
            Leaders::new(before.clusters.clone(), before.mirrors.clone(), of, Vec::new(), Arc::default(), before.settled.clone())
        };
        let deleted = after(&[], &["orders"], &before);
        assert_eq!((led_on(&deleted, ["orders"]), deleted.doubts().len()), (["legacy".to_owned()], 0));
        let again = after(&["orders"], &["orders"], &deleted);
        assert_eq!(led_on(&again, ["orders"]), ["legacy"]);
        // Once the copy is gone as well it is forgotten, and the next of that name may be the target's own.
        let gone = after(&[], &[], &deleted);
        assert_eq!(led_on(&after(&[], &["orders"], &gone).sure(), ["orders"]), ["new"]);
    }

    #[test]
    fn a_topic_that_nobody_is_known_to_have_is_not_written_where_it_would_be_a_copy() {
        let leaders = leaders("new", [Some(&["logs"]), Some(&["payments"])]);
        let (new, legacy) = (0, 1);
        // To be created at home, if a client asks for that.
        assert_eq!(led_on(&leaders, ["orders-to-come", "other"]), ["new", "new"]);
        assert_eq!(leaders.stance_to_records("orders-to-come", new), Stance::Follows(legacy));
        assert_eq!(leaders.stance("orders-to-come", new), Stance::Leads);
        assert!(leaders.stance_to_records("orders-to-come", new).refuses(ApiKey::DeleteRecords));
        assert_eq!(leaders.stance("other", new), Stance::Leads);
    }

    /// Two old clusters and a new one, by a client of the second old one, or by one at home on new; `all` mirrors copy whatever their sources have.
    fn of_three(home: &str, all: bool, names: [&[&str]; 3], decisions: Decisions) -> Leaders {
        let topics = if all { ["'.*'", "'.*'"] } else { ["'orders.*'", "'payments.*'"] };
        let file = format!(
            r#"
                clusters.old-1 = {{ id = 1, bootstrap_servers = "old-1:9092" }}
                clusters.old-2 = {{ id = 2, bootstrap_servers = "old-2:9092" }}
                clusters.new = {{ id = 3, bootstrap_servers = "new:9092" }}
                mirrors = [
                    {{ name = "one", source = "old-1", target = "new", topics_regex = [{}], groups_regex = [".*"] }},
                    {{ name = "two", source = "old-2", target = "new", topics_regex = [{}], groups_regex = [".*"] }},
                ]
            "#,
            topics[0], topics[1]
        );
        let config = Config::parse(&file, Path::new("routes.toml")).unwrap();
        let cluster = |name: &str| config.clusters.iter().find(|cluster| *cluster.name == *name).unwrap().clone();
        let of = |number: usize| Some(Arc::new(self::names(names[number])));
        let (clusters, has, beyond) = if home == "new" {
            (vec![cluster("new"), cluster("old-1"), cluster("old-2")], vec![of(2), of(0), of(1)], Vec::new())
        } else {
            (vec![cluster("old-2"), cluster("new")], vec![of(1), of(2)], vec![Beyond { cluster: cluster("old-1"), names: of(0) }])
        };
        Leaders::new(clusters, config.mirrors, has, beyond, Arc::new(decisions), Settled::default()).sure()
    }

    #[test]
    fn a_copy_of_what_a_cluster_beyond_the_view_has_is_not_written() {
        let has: [&[&str]; 3] = [&["orders"], &["payments"], &["orders", "payments", "orders-here"]];
        let leaders = of_three("old-2", false, has, Decisions::default());
        let (old_2, new) = (0, 1);
        assert_eq!(leaders.stance("orders", new), Stance::HasCopy);
        // A topic of new's own, which that cluster has not, though its mirror would copy it; and one of its own that has moved to new.
        assert_eq!(leaders.stance("orders-here", new), Stance::Leads);
        let led = Led { cluster: "new".into(), term: 2, before: "old-1".into(), since: 0 };
        let decisions = Decisions { topics: [("orders".into(), led)].into(), groups: HashMap::new() };
        assert_eq!(of_three("old-2", false, has, decisions).stance("orders", new), Stance::Leads);
        assert_eq!([old_2, new].map(|at| leaders.stance("payments", at)), [Stance::Leads, Stance::Follows(old_2)]);
        // The mirror of home would copy it as well, if home had it.
        assert_eq!(of_three("old-2", true, has, Decisions::default()).stance("orders", new), Stance::HasCopy);
        // It has not said yet what it has.
        let beyond = vec![Beyond { names: None, ..leaders.beyond[0].clone() }];
        let unsaid = Leaders::new(leaders.clusters, leaders.mirrors, leaders.names, beyond, Arc::default(), leaders.settled);
        assert_eq!(["orders", "orders-here"].map(|topic| unsaid.stance(topic, new)), [Stance::HasCopy; 2]);
    }

    #[test]
    fn a_decision_is_not_of_another_topic_of_the_same_name() {
        let led = Led { cluster: "new".into(), term: 2, before: "old-1".into(), since: 0 };
        let decisions = Decisions { topics: [("orders".into(), led)].into(), groups: HashMap::new() };
        let leaders = of_three("old-2", false, [&["orders"], &["orders"], &["orders"]], decisions.clone());
        assert_eq!((leaders.leader("orders"), leaders.stance("orders", 0)), (0, Stance::Leads));
        assert!(leaders.decided("orders").is_none());
        // A mirror between the two says that they are one; and who has none of its own sees the one that is decided.
        let copied = of_three("old-2", true, [&["orders"], &["orders"], &["orders"]], decisions.clone());
        assert_eq!(copied.stance("orders", 0), Stance::Follows(1));
        let without = of_three("old-2", false, [&["orders"], &[], &["orders"]], decisions);
        assert_eq!(without.stance("orders", 1), Stance::Leads);
    }

    #[test]
    fn topics_and_groups_that_the_mirrors_of_several_clusters_name_are_where_they_are() {
        let leaders = of_three("new", true, [&["orders"], &["payments"], &["orders", "payments"]], Decisions::default());
        let (old_1, old_2) = (1, 2);
        assert_eq!((leaders.leader("orders"), leaders.leader("payments")), (old_1, old_2));
        assert_eq!(leaders.lives_among("shop"), [old_1, old_2]);
        assert_eq!(["new", "old-1", "old-2"].map(|at| leaders.lives_elsewhere("shop", at)), [true, false, false]);
        assert_eq!(of_three("old-2", true, [&[], &[], &[]], Decisions::default()).lives_among("shop"), [0]);
        // The first one has not said yet what it has.
        let names = vec![leaders.names[0].clone(), None, leaders.names[2].clone()];
        let unsaid = Leaders::new(leaders.clusters, leaders.mirrors, names, Vec::new(), Arc::default(), leaders.settled);
        assert_eq!((unsaid.leader("orders"), unsaid.leader("payments")), (old_1, old_2));
    }

    #[test]
    fn a_copy_under_another_name_may_be_read_and_not_be_written() {
        let leaders = leaders("new", [Some(&["orders-old"]), Some(&["shop.orders"])]);
        let (new, legacy) = (0, 1);
        assert_eq!(leaders.stance("shop.orders", new), Stance::HasCopy);
        assert_eq!(leaders.stance("orders-old", legacy), Stance::Leads);
        assert_eq!(leaders.stance("orders-old", new), Stance::Follows(legacy));
        for api in [ApiKey::DeleteRecords, ApiKey::AddPartitionsToTxn, ApiKey::WriteTxnMarkers] {
            assert!(
                leaders.stance_to_records("shop.orders", new).refuses(api) && leaders.stance_to_records("orders-old", new).refuses(api),
                "{api:?}"
            );
            assert!(!leaders.stance_to_records("orders-old", legacy).refuses(api), "{api:?}");
        }
        for api in [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::DescribeProducers] {
            assert!(
                !leaders.stance_to_records("shop.orders", new).refuses(api) && leaders.stance_to_records("orders-old", new).refuses(api),
                "{api:?}"
            );
        }
    }
}
