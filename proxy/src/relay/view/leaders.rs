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

/// Where topics lead, as things are. Clusters are numbers: 0 is home.
#[derive(Debug)]
pub(crate) struct Leaders {
    clusters: Vec<Arc<Cluster>>,
    mirrors: Vec<Arc<Mirror>>,
    names: Vec<Names>,
    decisions: Arc<Decisions>,
    /// Of each topic that a cluster has; home where nothing else is said.
    led: HashMap<Arc<str>, usize>,
    /// By the number of their cluster.
    renamed: HashSet<(usize, String)>,
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
        decisions: Arc<Decisions>,
        settled: Settled,
    ) -> Arc<Leaders> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|leaders| leaders.strong_count() > 0);
        let is_same = |leaders: &Arc<Leaders>| {
            leaders.is_of(&clusters, &mirrors, &names) && Arc::ptr_eq(&leaders.decisions, &decisions) && leaders.settled == settled
        };
        if let Some(leaders) = known.iter().filter_map(Weak::upgrade).find(is_same) {
            return leaders;
        }
        let leaders = Arc::new(Leaders::new(clusters, mirrors, names, decisions, settled));
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
        decisions: Arc<Decisions>,
        settled: Settled,
    ) -> Self {
        let Settled { mut born, mut copied } = settled;
        copied.retain(|topic| names.iter().flatten().any(|names| names.contains(topic)));
        let mut doubts = HashSet::new();
        for (mirror, [of_source, of_target]) in between(&clusters, &mirrors, &names) {
            for topic in of_target.iter().filter(|topic| copies_as(mirror, topic)) {
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
        let mut leaders = Self { clusters, mirrors, names, decisions, led: HashMap::new(), renamed: HashSet::new(), settled, doubts };
        let known: HashSet<&Arc<str>> = leaders.names.iter().flatten().flat_map(|names| names.iter()).collect();
        leaders.led = known.into_iter().map(|topic| (topic.clone(), leaders.decide(topic))).collect();
        for mirror in &leaders.mirrors {
            let numbers = [&mirror.source, &mirror.target].map(|of| leaders.number(&of.name));
            let [Some(source), Some(target)] = numbers else { continue };
            let names = leaders.names[source].iter().flat_map(|names| names.iter());
            leaders.renamed.extend(renamed(mirror, names.map(|name| &**name)).map(|name| (target, name)));
        }
        leaders
    }

    /// Whether it was made of these.
    pub(crate) fn is_of(&self, clusters: &[Arc<Cluster>], mirrors: &[Arc<Mirror>], names: &[Names]) -> bool {
        let is_same = |one: &Names, other: &Names| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.names.iter().zip(names).all(|(one, other)| is_same(one, other))
            && self.names.len() == names.len()
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

    /// The cluster on which a group lives, as far as that does not depend on which clusters have it.
    pub(crate) fn fixed_life(&self, group: &str) -> Option<usize> {
        self.places(|places| places.fixed_life(group).and_then(|cluster| self.number(&cluster.name)))
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
        self.decisions.topics.get(topic)
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
            _ if self.has_renamed_copy(topic, at) => Stance::HasCopy,
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

    fn has_renamed_copy(&self, topic: &str, at: usize) -> bool {
        !self.renamed.is_empty() && self.renamed.contains(&(at, topic.to_owned()))
    }

    fn decide(&self, topic: &str) -> usize {
        let exists = |cluster: &Cluster| match self.number(&cluster.name).and_then(|number| self.names[number].as_ref()) {
            None => Exists::Unknown,
            Some(names) if names.contains(topic) => Exists::Yes,
            Some(_) if self.is_elsewhere(topic) && !self.settled.born.contains(topic) => Exists::Unknown,
            Some(_) => Exists::No,
        };
        self.places(|places| places.leader(topic, exists).and_then(|cluster| self.number(&cluster.name)).unwrap_or(0))
    }

    fn is_elsewhere(&self, topic: &str) -> bool {
        self.names.iter().flatten().any(|names| names.contains(topic))
    }

    /// As if each doubt was for nothing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn sure(self) -> Self {
        let born = self.doubts.into_iter().map(|doubt| doubt.topic).collect();
        let settled = self.settled.and(&Settled { born, copied: HashSet::new() });
        Self::new(self.clusters, self.mirrors, self.names, self.decisions, settled)
    }

    fn places<T>(&self, of: impl FnOnce(Places<'_>) -> T) -> T {
        of(Places { mirrors: &self.mirrors, decisions: &self.decisions, clusters: &self.clusters })
    }
}

/// The mirrors between clusters that have said what they have, with the topics of their source and of their target.
fn between<'a>(
    clusters: &[Arc<Cluster>],
    mirrors: &'a [Arc<Mirror>],
    names: &'a [Names],
) -> impl Iterator<Item = (&'a Mirror, [&'a HashSet<Arc<str>>; 2])> {
    let of = |cluster: &Cluster| clusters.iter().position(|of| of.name == cluster.name).and_then(|number| names[number].as_deref());
    mirrors.iter().filter_map(move |mirror| Some((&**mirror, [of(&mirror.source)?, of(&mirror.target)?])))
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
        Leaders::new(clusters, config.mirrors, names, Arc::default(), Settled::default()).sure()
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
            assert_eq!(leaders.fixed_life("shop").map(|number| &**leaders.name(number)), Some("legacy"));
            assert_eq!(leaders.fixed_life("else"), None);
        }
    }

    #[test]
    fn a_decision_is_above_all_else() {
        let led = |cluster: &str| Led { cluster: cluster.into(), term: 2, before: "legacy".into(), since: 0 };
        let decisions = Decisions { topics: [("orders".into(), led("new")), ("unseen".into(), led("new"))].into(), groups: HashMap::new() };
        for home in ["legacy", "new"] {
            let before = leaders(home, [Some(&["orders", "orders-2"]), Some(&["orders", "orders-2"])]);
            let after = Leaders::new(before.clusters, before.mirrors, before.names, Arc::new(decisions.clone()), before.settled);
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
            Leaders::new(clusters, config.mirrors.clone(), names, decisions, Settled::default()).sure()
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
            known.leaders(of.clusters.clone(), of.mirrors.clone(), names.to_vec(), decisions.clone(), settled.clone())
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
        let with = |settled| Leaders::new(sure.clusters.clone(), sure.mirrors.clone(), sure.names.clone(), Arc::default(), settled);
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
            Leaders::new(before.clusters.clone(), before.mirrors.clone(), vec![new, legacy], Arc::default(), before.settled.clone())
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
            Leaders::new(before.clusters.clone(), before.mirrors.clone(), of, Arc::default(), before.settled.clone())
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
