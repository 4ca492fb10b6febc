//! Topics that would get in each other's way.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::names::{Naming, Selection};
use crate::types::cluster::Cluster;
use crate::types::mirror::Mirror;

/// Two copies that cannot both be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// Why.
    pub kind: CollisionKind,
    /// The one; of a loop, where it starts.
    pub one: Copied,
    /// The other; of a loop, what closes it.
    pub other: Copied,
}

/// What is wrong with two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CollisionKind {
    /// Two mirrors copy the same topic from the same cluster to the same other one, whatever they call it there.
    Twice,
    /// Two topics have the same name on the same target.
    SameTarget,
    /// Their names on the same target differ in `.` and `_` only: Kafka refuses to create the second, because its metrics would be those of
    /// the first (`Topic.unifyCollisionChars`).
    SameMetrics,
    /// What one is called on the target, the other is called on the source: under that name a client finds other records after a move.
    OldAndNew,
    /// Records come back to the cluster that they came from.
    Loop,
}

/// A topic, and where a mirror copies it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The mirror's name.
    pub mirror: Arc<str>,
    /// The source's name.
    pub source: Arc<str>,
    /// The topic there.
    pub topic: String,
    /// The target's name.
    pub target: Arc<str>,
    /// The topic there.
    pub target_topic: String,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, one, other } = self;
        let (from, to) = (&one.topic, &one.target_topic);
        match kind {
            CollisionKind::Twice => {
                write!(f, "{} is copied to cluster {:?} by mirror {:?} too: ", one.by(), one.target, other.mirror)?;
                f.write_str("leave it out of one of them")
            }
            CollisionKind::SameTarget => {
                write!(f, "{} and {} would both be {to:?} of cluster {:?}: ", one.by(), other.by(), one.target)?;
                f.write_str("rename one of them, or leave it out of its mirror")
            }
            CollisionKind::SameMetrics => {
                write!(f, "{} and {} would be {to:?} and {:?} of cluster {:?}, ", one.by(), other.by(), other.target_topic, one.target)?;
                f.write_str("and Kafka refuses names that differ in `.` and `_` only: rename one of them")
            }
            CollisionKind::OldAndNew => {
                write!(f, "{} would be {to:?} of cluster {:?}, but {} is called so on ", one.by(), one.target, other.by())?;
                write!(f, "cluster {:?}: give {from:?} another name", other.source)
            }
            CollisionKind::Loop => {
                write!(f, "{} comes back to cluster {:?} as {:?} with ", one.by(), other.target, other.target_topic)?;
                write!(f, "{}: leave it out of one of the mirrors; after a move each runs backwards by itself", other.by())
            }
        }
    }
}

impl Copied {
    fn by(&self) -> String {
        format!("{:?} of cluster {:?} (mirror {:?})", self.topic, self.source, self.mirror)
    }
}

/// What of the topics that there are would collide, also where they are copied from one mirror's target to the next. `topics_of` knows the
/// topics of each cluster. Topics that [cannot have their name](crate::NamingError) are left out.
pub fn collisions<'t>(mirrors: &[Arc<Mirror>], topics_of: impl Fn(&Cluster) -> &'t [String]) -> Vec<Collision> {
    let flows: Vec<_> = mirrors
        .iter()
        .map(|mirror| Flow { source: &mirror.source.name, target: &mirror.target.name, topics: &mirror.topics, naming: &mirror.naming })
        .collect();
    let clusters: BTreeMap<_, _> = mirrors.iter().map(|mirror| (&*mirror.source.name, &mirror.source)).collect();
    let topics: Vec<_> =
        clusters.iter().flat_map(|(name, cluster)| topics_of(cluster).iter().map(|topic| (*name, topic.as_str()))).collect();
    let copied = |step: &Step| {
        let mirror = &mirrors[step.flow];
        Copied {
            mirror: mirror.name.clone(),
            source: mirror.source.name.clone(),
            topic: step.topic.clone(),
            target: mirror.target.name.clone(),
            target_topic: step.target_topic.clone(),
        }
    };
    let clashes = clashes(&flows, &topics);
    clashes.iter().map(|Clash { kind, one, other }| Collision { kind: *kind, one: copied(one), other: copied(other) }).collect()
}

/// What of a mirror decides which topic goes where.
pub(crate) struct Flow<'d> {
    pub(crate) source: &'d str,
    pub(crate) target: &'d str,
    pub(crate) topics: &'d Selection,
    pub(crate) naming: &'d Naming,
}

/// A topic that a flow copies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Which of the flows.
    pub(crate) flow: usize,
    pub(crate) topic: String,
    pub(crate) target_topic: String,
}

pub(crate) struct Clash {
    pub(crate) kind: CollisionKind,
    pub(crate) one: Step,
    pub(crate) other: Step,
}

/// The clashes among topics, each with its cluster.
pub(crate) fn clashes(flows: &[Flow<'_>], topics: &[(&str, &str)]) -> Vec<Clash> {
    let mut by_source: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, flow) in flows.iter().enumerate() {
        by_source.entry(flow.source).or_default().push(index);
    }
    let steps_from = |cluster: &str, topic: &str| -> Vec<Step> {
        let flows = by_source.get(cluster).into_iter().flatten().map(|&index| (index, &flows[index]));
        flows
            .filter(|(_, flow)| flow.topics.matches(topic))
            .filter_map(|(flow, Flow { naming, .. })| {
                let target_topic = naming.target(topic).ok()?.into_owned();
                Some(Step { flow, topic: topic.to_owned(), target_topic })
            })
            .collect()
    };

    let mut steps = BTreeSet::new();
    let mut loops = BTreeMap::new();
    for &(start, topic) in topics {
        // Each path with the step that it ends with; none comes to a cluster twice.
        let mut paths: VecDeque<Vec<Step>> = steps_from(start, topic).into_iter().map(|step| vec![step]).collect();
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            let Some(last) = path.last() else { continue };
            steps.insert(last.clone());
            if !seen.insert((flows[last.flow].target, last.target_topic.clone())) {
                continue;
            }
            for step in steps_from(flows[last.flow].target, &last.target_topic) {
                let target = flows[step.flow].target;
                let mut longer = path.clone();
                longer.push(step);
                if target == start {
                    // The same loop is found from each of its clusters.
                    let mut members = longer.clone();
                    members.sort();
                    loops.entry(members).or_insert((longer[0].clone(), longer[longer.len() - 1].clone()));
                } else if !path.iter().any(|step| flows[step.flow].target == target) {
                    paths.push_back(longer);
                }
            }
        }
    }

    let mut clashes = Vec::new();
    let between = |step: &Step| (flows[step.flow].source, flows[step.flow].target);
    let mut sources: HashMap<_, &Step> = HashMap::new();
    let mut targets: HashMap<_, &Step> = HashMap::new();
    for step in &steps {
        let first = *sources.entry((between(step), &step.topic)).or_insert(step);
        if first != step {
            clashes.push(Clash { kind: CollisionKind::Twice, one: first.clone(), other: step.clone() });
            continue;
        }
        let first = *targets.entry((flows[step.flow].target, step.target_topic.replace('.', "_"))).or_insert(step);
        if first != step {
            let same = first.target_topic == step.target_topic;
            let kind = if same { CollisionKind::SameTarget } else { CollisionKind::SameMetrics };
            clashes.push(Clash { kind, one: first.clone(), other: step.clone() });
        }
    }
    for step in &steps {
        // Where the other keeps its name, the two have the same target.
        if let Some(other) = sources.get(&(between(step), &step.target_topic)).filter(|other| other.target_topic != other.topic)
            && step.topic != other.topic
        {
            clashes.push(Clash { kind: CollisionKind::OldAndNew, one: step.clone(), other: (*other).clone() });
        }
    }
    clashes.extend(loops.into_values().map(|(one, other)| Clash { kind: CollisionKind::Loop, one, other }));
    clashes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::path::Path;

    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;
    use crate::Config;

    /// Mirrors among clusters `a`, `b` and `c`.
    fn mirrors(mirrors: &[(&str, &str)]) -> Vec<Arc<Mirror>> {
        let mut text = String::new();
        for (index, cluster) in ["a", "b", "c"].into_iter().enumerate() {
            let id = index + 1;
            writeln!(text, "[clusters.{cluster}]\nid = {id}\nbootstrap_servers = \"{cluster}:9092\"").unwrap();
        }
        for (number, (direction, keys)) in mirrors.iter().enumerate() {
            let (source, target) = direction.split_once(" to ").unwrap();
            writeln!(text, "[[mirrors]]\nname = \"{number}-{source}-{target}\"\nsource = \"{source}\"\ntarget = \"{target}\"\n{keys}")
                .unwrap();
        }
        Config::parse(&text, Path::new("routes.toml")).unwrap().mirrors
    }

    fn found(mirrors: &[Arc<Mirror>], topics: &[(&str, &[&str])]) -> Vec<Collision> {
        let topics: HashMap<_, Vec<String>> =
            topics.iter().map(|(cluster, topics)| (*cluster, topics.iter().map(|&topic| topic.to_owned()).collect())).collect();
        collisions(mirrors, |cluster| topics.get(&*cluster.name).map(Vec::as_slice).unwrap_or_default())
    }

    fn told(collisions: &[Collision]) -> String {
        collisions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn topics_that_nobody_renames_never_collide() {
        let mirrors = mirrors(&[("a to b", "topics_regex = '.*'"), ("b to c", "topics_regex = '.*'")]);
        assert_eq!(found(&mirrors, &[("a", &["x", "y", "__consumer_offsets"]), ("b", &["x", "z"]), ("c", &["x"])]), []);
        assert_eq!(found(&[], &[]), []);
    }

    #[test]
    fn one_name_for_two() {
        let mirrors = mirrors(&[("a to b", "topics_regex = '.*'\n[[mirrors.rename_regex]]\nmatch = '(.*)-v[0-9]'\nto = '$1'")]);
        let collisions = found(&mirrors, &[("a", &["x-v1", "x-v2", "y", "y-v1", "z.z-v1", "z_z-v2"])]);
        assert_snapshot!(told(&collisions), @r#"
        "x-v1" of cluster "a" (mirror "0-a-b") and "x-v2" of cluster "a" (mirror "0-a-b") would both be "x" of cluster "b": rename one of them, or leave it out of its mirror
        "y" of cluster "a" (mirror "0-a-b") and "y-v1" of cluster "a" (mirror "0-a-b") would both be "y" of cluster "b": rename one of them, or leave it out of its mirror
        "z.z-v1" of cluster "a" (mirror "0-a-b") and "z_z-v2" of cluster "a" (mirror "0-a-b") would be "z.z" and "z_z" of cluster "b", and Kafka refuses names that differ in `.` and `_` only: rename one of them
        "#);
    }

    #[test]
    fn an_old_name_and_a_new_one() {
        let mirrors = mirrors(&[("a to b", "topics_regex = '.*'\n[[mirrors.rename_regex]]\nmatch = '(x*)'\nto = 'x$1'")]);
        assert_snapshot!(told(&found(&mirrors, &[("a", &["x", "xx", "xxxx"])])), @r#""x" of cluster "a" (mirror "0-a-b") would be "xx" of cluster "b", but "xx" of cluster "a" (mirror "0-a-b") is called so on cluster "a": give "x" another name"#);
    }

    #[test]
    fn what_two_mirrors_copy_is_copied_twice() {
        let rename = "topics_regex = '.*'\n[[mirrors.rename_regex]]\nmatch = '(.*)'\nto = 'copy.$1'";
        let mirrors = mirrors(&[("a to b", "topics_regex = 'x|y'"), ("a to b", rename)]);
        assert_snapshot!(told(&found(&mirrors, &[("a", &["x", "z"])])), @r#""x" of cluster "a" (mirror "0-a-b") is copied to cluster "b" by mirror "1-a-b" too: leave it out of one of them"#);
    }

    #[test]
    fn what_two_clusters_have_becomes_one() {
        let mirrors = mirrors(&[("a to c", "topics_regex = '.*'"), ("b to c", "topics_regex = '.*'\nexclude_regex = 'y'")]);
        assert_snapshot!(told(&found(&mirrors, &[("a", &["x", "y"]), ("b", &["x", "y", "z"])])), @r#""x" of cluster "a" (mirror "0-a-c") and "x" of cluster "b" (mirror "1-b-c") would both be "x" of cluster "c": rename one of them, or leave it out of its mirror"#);
    }

    #[test]
    fn what_a_mirror_brings_is_there_for_the_next_one() {
        // `x` comes to `c` on two ways, though `b` does not have it yet.
        let everything = "topics_regex = '.*'";
        let mirrors = mirrors(&[("a to b", everything), ("b to c", everything), ("a to c", everything)]);
        assert_snapshot!(told(&found(&mirrors, &[("a", &["x"])])), @r#""x" of cluster "b" (mirror "1-b-c") and "x" of cluster "a" (mirror "2-a-c") would both be "x" of cluster "c": rename one of them, or leave it out of its mirror"#);
    }

    #[test]
    fn a_circle_is_one_loop_wherever_it_is_entered() {
        let everything = "topics_regex = 'x|y'";
        let two = mirrors(&[("a to b", everything), ("b to a", everything)]);
        assert_snapshot!(told(&found(&two, &[("a", &["x"]), ("b", &["x", "z"])])), @r#""x" of cluster "a" (mirror "0-a-b") comes back to cluster "a" as "x" with "x" of cluster "b" (mirror "1-b-a"): leave it out of one of the mirrors; after a move each runs backwards by itself"#);
        let three = mirrors(&[("a to b", everything), ("b to c", everything), ("c to a", everything)]);
        let loops = found(&three, &[("a", &["x"]), ("b", &["x"]), ("c", &["x"])]);
        assert_snapshot!(told(&loops), @r#""x" of cluster "a" (mirror "0-a-b") comes back to cluster "a" as "x" with "x" of cluster "c" (mirror "2-c-a"): leave it out of one of the mirrors; after a move each runs backwards by itself"#);
        // As MirrorMaker 2 names them: each round would make another topic.
        let prefixed = |cluster: &str| format!("topics_regex = '.*'\n[[mirrors.rename_regex]]\nmatch = '(.*)'\nto = '{cluster}.$1'");
        let growing = mirrors(&[("a to b", &prefixed("a")), ("b to a", &prefixed("b"))]);
        assert_snapshot!(told(&found(&growing, &[("a", &["x"])])), @r#""x" of cluster "a" (mirror "0-a-b") comes back to cluster "a" as "b.a.x" with "a.x" of cluster "b" (mirror "1-b-a"): leave it out of one of the mirrors; after a move each runs backwards by itself"#);
    }

    proptest! {
        /// Between two clusters, nothing collides if and only if all names on the target are different and none is another's old one.
        #[test]
        fn two_clusters_by_the_book(
            topics in proptest::collection::btree_set("[xy._]{1,3}", 0..6),
            from in proptest::sample::select(vec!["x(.*)", "(.*)y", "(.)(.*)", "[._](.+)"]), to in proptest::sample::select(vec!["$1", "y$1", "x.$1", "_$1"]),
        ) {
            let keys = format!("topics_regex = '.*'\n[[mirrors.rename_regex]]\nmatch = '{from}'\nto = '{to}'");
            let mirrors = mirrors(&[("a to b", &keys)]);
            let topics: Vec<String> = topics.into_iter().collect();
            let named: Vec<_> = topics.iter().filter(|topic| mirrors[0].topics.matches(topic))
                .filter_map(|topic| Some((topic, mirrors[0].naming.target(topic).ok()?))).collect();
            let unified: BTreeSet<_> = named.iter().map(|(_, target)| target.replace('.', "_")).collect();
            let is_new = |old: &str| named.iter().any(|(topic, target)| *target == old && *topic != old);
            let sound = unified.len() == named.len() && !named.iter().any(|(topic, _)| is_new(topic));
            let collisions = collisions(&mirrors, |_| &topics);
            prop_assert_eq!(collisions.is_empty(), sound, "{:?} {:?}", named, collisions);
            for collision in collisions {
                let text = collision.to_string();
                let (one, other) = (format!("{:?}", collision.one.topic), format!("{:?}", collision.other.topic));
                prop_assert!(text.contains(&one) && text.contains(&other), "{}", text);
                prop_assert!(collision.one != collision.other && collision.kind != CollisionKind::Loop);
            }
        }
    }
}
