//! What routes own: that a route can own at all, that each name has one owner, and that what is named can move. What a pattern matches is not known
//! here: `kferry check --connect` asks the clusters.

use std::collections::{BTreeSet, HashMap};

use crate::read::mirrors::{MirrorDraft, Named, NamingDraft};
use crate::read::selection::OwnedDraft;
use crate::read::table::{At, Field, Findings, listed, meant, quoted};
use crate::read::{ClusterDraft, Draft, RouteDraft};
use crate::types::mirror::Offsets;
use crate::types::proxy::Mode;

/// What can be owned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Group,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Topic, Self::Group];

    fn of<'d, 't>(self, route: &'d RouteDraft<'t>) -> &'d Field<OwnedDraft<'t>> {
        match self {
            Self::Topic => &route.topics,
            Self::Group => &route.groups,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Group => "group",
        }
    }

    /// The key of names, of routes and of mirrors.
    fn key(self) -> &'static str {
        match self {
            Self::Topic => "topics",
            Self::Group => "groups",
        }
    }
}

/// Looks at everything that could be read. A field that could not is left out: its error is told already.
pub(super) fn owners(findings: &Findings<'_>, draft: &Draft<'_>) {
    let routes = draft.routes.as_deref().unwrap_or_default();
    for route in routes {
        relays(findings, route);
        internal(findings, route);
    }
    let mut taken = BTreeSet::new();
    for kind in Kind::ALL {
        taken.extend(one_owner(findings, routes, kind));
    }
    // What no mirror copies is only known when all of them could be read.
    let Some(ways) = draft.mirrors.as_ref().ok().and_then(|mirrors| mirrors.iter().map(Way::new).collect::<Option<Vec<_>>>()) else {
        return;
    };
    // One slip, one error: a cluster that is not in the file is told of by itself.
    let is_known = |route: &&RouteDraft<'_>| {
        let clusters = draft.clusters.as_deref().unwrap_or_default();
        route.cluster.as_ref().is_ok_and(|named| clusters.iter().any(|cluster| cluster.name.value == named.value))
    };
    for route in routes.iter().filter(is_known) {
        for kind in Kind::ALL {
            let names = kind.of(route).iter().flat_map(|owned| &owned.names);
            for name in names.filter(|name| !taken.contains(&name.span.start)) {
                moves(findings, route, kind, name, &ways);
            }
        }
        logins(findings, draft.clusters.as_deref().unwrap_or_default(), route, &ways);
    }
}

/// `route "orders"`
pub(super) fn called(route: &RouteDraft<'_>) -> String {
    route.name.as_ref().map_or_else(|_| "this route".to_owned(), |name| format!("route {}", quoted(name.value)))
}

/// The first key by which a route owns something.
pub(super) fn first_key<'d>(route: &'d RouteDraft<'_>) -> Option<&'d At<&'static str>> {
    Kind::ALL.iter().filter_map(|kind| kind.of(route).as_ref().ok()?.key.as_ref()).min_by_key(|key| key.span.start)
}

/// In bootstrap mode clients go to the brokers by themselves, and nobody can hold what they write.
fn relays(findings: &Findings<'_>, route: &RouteDraft<'_>) {
    if matches!(route.mode, Ok(Mode::Bootstrap))
        && let Some(key) = first_key(route)
    {
        let message = format!("`{}` of {} in bootstrap mode", key.value, called(route));
        let hint = "only clients that the proxy stays with can be moved together with what they use: write mode = \"relay\", or drop what the \
                    route owns";
        findings.mismatch(key.span.clone(), message, hint);
    }
}

/// Topics that each cluster has for itself are nobody's.
fn internal(findings: &Findings<'_>, route: &RouteDraft<'_>) {
    let Ok(OwnedDraft { key: Some(key), selection, .. }) = &route.topics else { return };
    for (pattern, topic) in selection.patterns.iter().filter_map(|pattern| Some((pattern, pattern.internal()?))) {
        let message =
            format!("{} of {} means internal topics as {topic}, and does not own them", quoted(&pattern.to_string()), called(route));
        findings.warn(key.span.clone(), message, "they belong to Kafka or kferry, on each cluster: drop it");
    }
}

/// A name that an earlier route owns is never owned by a later one. Returns where such names are.
fn one_owner(findings: &Findings<'_>, routes: &[RouteDraft<'_>], kind: Kind) -> Vec<usize> {
    let mut taken = Vec::new();
    // By name, and those that match more than their names: the index of the route, and the place of the name or the key.
    let mut names: HashMap<&str, (usize, &At<&str>)> = HashMap::new();
    let mut patterns: Vec<(usize, &OwnedDraft<'_>)> = Vec::new();
    for (n, route) in routes.iter().enumerate() {
        let Ok(owned) = kind.of(route) else { continue };
        for name in &owned.names {
            let by_name = names.get(name.value).map(|(n, name)| (*n, &name.span));
            let by_pattern = || {
                let (n, owned) = patterns.iter().find(|(_, owned)| owned.selection.matches(name.value))?;
                Some((*n, &owned.key.as_ref()?.span))
            };
            if let Some((n, span)) = by_name.or_else(by_pattern) {
                let (first, line) = (called(&routes[n]), findings.line(span));
                let message = format!(
                    "`{}` of {}: {} {} is owned by {first} in line {line}",
                    kind.key(),
                    called(route),
                    kind.noun(),
                    quoted(name.value)
                );
                let hint = "the first route that matches owns: drop it here or there, or move this route up";
                findings.mismatch(name.span.clone(), message, hint);
                taken.push(name.span.start);
            } else {
                names.insert(name.value, (n, name));
            }
        }
        if !owned.selection.patterns.is_empty() {
            patterns.push((n, owned));
        }
    }
    taken
}

/// What of a mirror decides whether something can move.
struct Way<'d, 't> {
    name: &'t str,
    source: &'t str,
    target: &'t str,
    topics: &'d Named<'t>,
    groups: &'d Named<'t>,
    naming: &'d NamingDraft<'t>,
    offsets: Offsets,
}

impl<'d, 't> Way<'d, 't> {
    fn new(mirror: &'d MirrorDraft<'t>) -> Option<Self> {
        Some(Self {
            name: mirror.name.as_ref().ok()?.value,
            source: mirror.source.as_ref().ok()?.value,
            target: mirror.target.as_ref().ok()?.value,
            topics: mirror.topics.as_ref().ok()?,
            groups: mirror.groups.as_ref().ok()?,
            naming: mirror.naming.as_ref().ok()?,
            offsets: mirror.offsets.ok()?,
        })
    }

    fn copied(&self, kind: Kind) -> &'d Named<'t> {
        match kind {
            Kind::Topic => self.topics,
            Kind::Group => self.groups,
        }
    }

    fn has_end(&self, cluster: &str) -> bool {
        self.source == cluster || self.target == cluster
    }
}

/// What is named must be copied to or from the route's cluster, under its name and at its offsets.
fn moves(findings: &Findings<'_>, route: &RouteDraft<'_>, kind: Kind, name: &At<&str>, ways: &[Way<'_, '_>]) {
    let Ok(cluster) = &route.cluster else { return };
    let what = format!("{} {}", kind.noun(), quoted(name.value));
    let tell = |message: String, hint: String| {
        let message = format!("`{}` of {}: {message}", kind.key(), called(route));
        findings.mismatch(name.span.clone(), message, hint);
    };
    let copies: Vec<_> = ways.iter().filter(|way| way.copied(kind).selection.matches(name.value)).collect();
    let here: Vec<_> = copies.iter().filter(|way| way.has_end(cluster.value)).collect();
    if here.is_empty() {
        let is_new_name = |way: &&Way<'_, '_>| {
            kind == Kind::Topic
                && way.naming.renames.iter().any(|(old, new)| new.value == name.value && way.topics.selection.matches(old.value))
        };
        if let Some(way) = ways.iter().find(is_new_name) {
            tell(
                format!("{what} is a new name by mirror {}, and what is renamed cannot be owned yet", quoted(way.name)),
                format!("drop it here, or let the topic keep its name in mirror {}", quoted(way.name)),
            );
        } else if copies.is_empty() {
            let known = ways.iter().flat_map(|way| &way.copied(kind).names).map(|known| known.value);
            let hint = match meant(name.value, known) {
                Some(known) => format!("did you mean {}?", quoted(known)),
                None => {
                    let key = kind.key();
                    let cluster = quoted(cluster.value);
                    format!("what is not copied cannot move: name it in `{key}` of a mirror to or from cluster {cluster}, or drop it here")
                }
            };
            tell(format!("no mirror copies {what}"), hint);
        } else {
            let hint = format!(
                "mirror {} copies it from {} to {}: own it in a route to one of these, or drop it here",
                quoted(copies[0].name),
                quoted(copies[0].source),
                quoted(copies[0].target)
            );
            tell(format!("no mirror copies {what} to or from cluster {}", quoted(cluster.value)), hint);
        }
    } else if kind == Kind::Topic {
        let keeps_name = |way: &Way<'_, '_>| way.naming.naming.target(name.value).map_or(true, |target| target == name.value);
        if here.iter().any(|way| keeps_name(way) && way.offsets == Offsets::Preserve) {
            return;
        }
        let (mirror, target) = (quoted(here[0].name), quoted(here[0].target));
        if keeps_name(here[0]) {
            tell(
                format!("mirror {mirror} gives {what} other offsets on cluster {target}, and what is translated cannot be owned yet"),
                format!("drop it here, or write offsets = \"preserve\" in mirror {mirror}"),
            );
        } else {
            tell(
                format!("mirror {mirror} gives {what} another name on cluster {target}, and what is renamed cannot be owned yet"),
                format!("drop it here, or let it keep its name in mirror {mirror}"),
            );
        }
    }
}

/// A client that logs in at the brokers by itself has one login, and is shown one cluster: it cannot follow what moves to the other one.
fn logins(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], route: &RouteDraft<'_>, ways: &[Way<'_, '_>]) {
    let (Ok(Mode::Relay), Ok(cluster), Ok(credentials)) = (&route.mode, &route.cluster, &route.credentials) else { return };
    let Some(key) = first_key(route) else { return };
    let ends: BTreeSet<&str> =
        ways.iter().filter(|way| way.has_end(cluster.value)).flat_map(|way| [way.source, way.target]).chain([cluster.value]).collect();
    let lacks = |cluster: &&ClusterDraft<'_>| {
        ends.contains(cluster.name.value)
            && cluster.security.as_ref().is_ok_and(|security| security.sasl.is_some())
            && !credentials.iter().any(|credentials| credentials.cluster.value == cluster.name.value)
    };
    let lacking: Vec<_> = clusters.iter().filter(lacks).map(|cluster| cluster.name.value).collect();
    if lacking.is_empty() {
        return;
    }
    let names: Vec<_> = lacking.iter().map(|name| quoted(name)).collect();
    let tables: Vec<_> = lacking.iter().map(|name| format!("[routes.credentials.{name}]")).collect();
    let message = format!(
        "`{}` of {}, which has no credentials for {} {}, where brokers ask for a login",
        key.value,
        called(route),
        if names.len() == 1 { "cluster" } else { "clusters" },
        listed(&names, "and")
    );
    let hint = format!(
        "a client that logs in by itself is shown the cluster of its route alone, and cannot follow what moves to the other one: write {}",
        listed(&tables, "and")
    );
    findings.warn(key.span.clone(), message, hint);
}
