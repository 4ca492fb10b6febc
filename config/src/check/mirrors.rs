//! What only several mirrors, or mirrors and clusters, can tell, and the checked types from what passed.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::collisions::{self, Clash, CollisionKind, Flow, Step};
use crate::names::no_room_for_dead_letters;
use crate::read::ClusterDraft;
use crate::read::mirrors::{MirrorDraft, Named, NamingDraft};
use crate::read::table::{At, Findings, quoted};
use crate::types::mirror::OnError;

/// Looks at everything that could be read. A field that could not is left out: its error is told already.
pub(crate) fn across_mirrors(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], mirrors: &[MirrorDraft<'_>]) {
    names(findings, mirrors);
    logins(findings, clusters, mirrors);
    clashes(findings, mirrors);
    dead_letters(findings, mirrors);
}

/// A topic of dead letters is called after its topic on the target.
fn dead_letters(findings: &Findings<'_>, mirrors: &[MirrorDraft<'_>]) {
    for mirror in mirrors.iter().filter(|mirror| matches!(mirror.on_error, Ok(OnError::DeadLetter))) {
        let (Ok(topics), Ok(naming)) = (&mirror.topics, &mirror.naming) else { continue };
        for name in &topics.names {
            let Ok(target) = naming.naming.target(name.value) else { continue };
            if let Some(why) = no_room_for_dead_letters(&target) {
                let hint = "give it a shorter name on the target in [mirrors.rename], or set on_error = \"fail\" or \"skip\"";
                findings.mismatch(name.span.clone(), format!("topic {}: {why}", quoted(name.value)), hint);
            }
        }
    }
}

/// Topics are called after mirrors, and Kafka refuses two names that differ in `.` and `_` only.
fn names(findings: &Findings<'_>, mirrors: &[MirrorDraft<'_>]) {
    let mut seen: HashMap<String, &At<&str>> = HashMap::new();
    for name in mirrors.iter().filter_map(|mirror| mirror.name.as_ref().ok()) {
        let unified = name.value.replace('.', "_");
        let Some(first) = seen.get(&unified) else {
            seen.insert(unified, name);
            continue;
        };
        let line = findings.line(&first.span);
        if first.value == name.value {
            let message = format!("duplicate mirror name {}", quoted(name.value));
            findings.mismatch(name.span.clone(), message, format!("line {line} has it already: write another one"));
        } else {
            let message = format!("mirror names {} and {} differ in `.` and `_` only", quoted(first.value), quoted(name.value));
            let hint = format!("topics are called after them, and Kafka refuses two such: write another one than in line {line}");
            findings.mismatch(name.span.clone(), message, hint);
        }
    }
}

/// A mirror logs in by itself: there is no client whose login could pass through.
fn logins(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], mirrors: &[MirrorDraft<'_>]) {
    let mut told = BTreeSet::new();
    for name in mirrors.iter().flat_map(MirrorDraft::named_clusters) {
        let Some(cluster) = clusters.iter().find(|cluster| cluster.name.value == name.value) else { continue };
        if cluster.security.as_ref().is_ok_and(|security| security.sasl == Some(None)) && told.insert(name.value) {
            let line = findings.line(&cluster.name.span);
            let hint = format!("below line {line} write sasl_mechanism, sasl_username and sasl_password_file");
            findings.mismatch(name.span.clone(), format!("a mirror needs kferry's own login at cluster {}", quoted(name.value)), hint);
        }
    }
}

/// The names that the file has are looked at as if topics of these names existed; `plan` does the same with those that do.
fn clashes(findings: &Findings<'_>, mirrors: &[MirrorDraft<'_>]) {
    let read: Vec<_> = mirrors.iter().filter_map(Readable::new).collect();
    let flows: Vec<_> = read
        .iter()
        .map(|mirror| Flow {
            source: mirror.source,
            target: mirror.target,
            topics: &mirror.topics.selection,
            naming: &mirror.naming.naming,
        })
        .collect();
    let topics: BTreeSet<_> = read
        .iter()
        .flat_map(|mirror| {
            let renamed = mirror.naming.renames.iter().map(|(old, _)| old.value);
            mirror.topics.names.iter().map(|name| name.value).chain(renamed).map(|topic| (mirror.source, topic))
        })
        .collect();
    let mut told = BTreeSet::new();
    for Clash { kind, one, other } in collisions::clashes(&flows, &topics.into_iter().collect::<Vec<_>>()) {
        let (one_at, other_at) = (read[one.flow].place(&one), read[other.flow].place(&other));
        // Names that are exchanged clash both ways.
        let pair = (one_at.start.min(other_at.start), one_at.start.max(other_at.start));
        if told.insert((kind == CollisionKind::Loop, pair)) {
            told_of(findings, &read, kind, &(one, one_at), &(other, other_at));
        }
    }
}

/// At the later of the two lines: it is the one that is too much.
fn told_of(
    findings: &Findings<'_>,
    mirrors: &[Readable<'_, '_>],
    kind: CollisionKind,
    one: &(Step, Range<usize>),
    other: &(Step, Range<usize>),
) {
    let (earlier, later) = if one.1.start <= other.1.start { (one, other) } else { (other, one) };
    let line = findings.line(&earlier.1);
    let ((one, _), (other, _)) = (one, other);
    let (from, to) = (mirrors[one.flow].source, mirrors[one.flow].target);
    let is_far = from != mirrors[other.flow].source;
    let shown = |step: &Step| match quoted(&step.topic) {
        topic if is_far => format!("topic {topic} of cluster {}", quoted(mirrors[step.flow].source)),
        topic => format!("topic {topic}"),
    };
    let (message, hint) = match kind {
        CollisionKind::Twice => (
            format!("topic {} of cluster {} is copied to {} twice", quoted(&one.topic), quoted(from), quoted(to)),
            format!("{} in line {line} has it already: leave it out of one of them", mirrors[earlier.0.flow].called()),
        ),
        CollisionKind::SameTarget => (
            format!("{} and {} would both be {} of cluster {}", shown(one), shown(other), quoted(&one.target_topic), quoted(to)),
            format!("line {line} has the other one: write another name in one of them"),
        ),
        CollisionKind::SameMetrics => (
            format!(
                "{} and {} would be {} and {} of cluster {}",
                shown(one),
                shown(other),
                quoted(&one.target_topic),
                quoted(&other.target_topic),
                quoted(to)
            ),
            format!("Kafka refuses names that differ in `.` and `_` only, and line {line} has the other one: write another one"),
        ),
        CollisionKind::OldAndNew => (
            format!(
                "{} is the new name of {} and the old name of what becomes {}",
                quoted(&other.topic),
                shown(one),
                quoted(&other.target_topic)
            ),
            format!("under one name there would be different records on the two clusters: write another name here or in line {line}"),
        ),
        CollisionKind::Loop => (
            format!("topic {} of cluster {} would be copied back to where it comes from", quoted(&one.topic), quoted(from)),
            format!(
                "leave it out here, or in line {line} of {}: after a move a mirror runs backwards by itself",
                mirrors[earlier.0.flow].called()
            ),
        ),
    };
    findings.mismatch(later.1.clone(), message, hint);
}

/// What could be read of a mirror, if it is enough to tell which topic goes where.
struct Readable<'d, 't> {
    name: Option<&'t str>,
    source: &'t str,
    target: &'t str,
    topics: &'d Named<'t>,
    naming: &'d NamingDraft<'t>,
}

impl<'d, 't> Readable<'d, 't> {
    fn new(mirror: &'d MirrorDraft<'t>) -> Option<Self> {
        Some(Self {
            name: mirror.name.as_ref().ok().map(|name| name.value),
            source: mirror.source.as_ref().ok()?.value,
            target: mirror.target.as_ref().ok()?.value,
            topics: mirror.topics.as_ref().ok()?,
            naming: mirror.naming.as_ref().ok()?,
        })
    }

    fn called(&self) -> String {
        self.name.map_or_else(|| "another mirror".to_owned(), |name| format!("mirror {}", quoted(name)))
    }

    /// Where it says what becomes of a topic.
    fn place(&self, step: &Step) -> Range<usize> {
        let renamed = self.naming.renames.iter().find(|(old, _)| old.value == step.topic).map(|(_, new)| &new.span);
        let named = || self.topics.names.iter().find(|name| name.value == step.topic).map(|name| &name.span);
        renamed.or_else(named).unwrap_or(&self.topics.patterns).clone()
    }
}

impl<'t> MirrorDraft<'t> {
    /// Where it names clusters.
    pub(crate) fn named_clusters(&self) -> impl Iterator<Item = &At<&'t str>> {
        self.source.iter().chain(&self.target)
    }
}
