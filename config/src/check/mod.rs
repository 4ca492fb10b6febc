//! What only several tables together can tell, and the checked types from what passed.

mod mirrors;
mod moves;
mod owners;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};

use self::mirrors::across_mirrors;
use self::moves::moves;
use self::owners::owners;
use crate::default_ids::{self, Application};
use crate::read::mirrors::MirrorDraft;
use crate::read::table::{At, Findings, listed, meant, quoted};
use crate::read::{ClusterDraft, CredentialsDraft, Draft, ListenerDraft, RouteDraft, UserDraft};
use crate::types::proxy::Mode;

/// Looks at everything that could be read. A field that could not is left out: its error is told already.
pub(crate) fn across_tables(findings: &Findings<'_>, draft: &Draft<'_>) {
    let clusters = draft.clusters.as_deref().unwrap_or_default();
    let listeners = draft.listeners.as_deref().unwrap_or_default();
    let routes = draft.routes.as_deref().unwrap_or_default();
    let mirrors = draft.mirrors.as_deref().unwrap_or_default();

    unique(findings, "cluster id", clusters.iter().filter_map(|cluster| cluster.id.as_ref().ok()), ToString::to_string);
    unique(findings, "listener name", listeners.iter().filter_map(|listener| listener.name.as_ref().ok()), |name| quoted(name));
    unique(findings, "route name", routes.iter().filter_map(|route| route.name.as_ref().ok()), |name| quoted(name));
    // A mirror's address is taken only where there are mirrors, or where the file has it.
    let admin = draft.admin.as_ref().ok().map(|admin| {
        let mirror_bind = Some(&admin.mirror_bind).filter(|bind| !bind.span.is_empty() || !mirrors.is_empty());
        (&admin.bind, mirror_bind)
    });
    ports(findings, clusters, listeners, admin, routes, mirrors);
    some_port(findings, listeners);
    told_ports(findings, clusters, listeners);
    if draft.clusters.is_ok() && draft.has_all_clusters {
        let by_mirrors = mirrors.iter().flat_map(MirrorDraft::named_clusters);
        for name in routes.iter().flat_map(named_clusters).chain(by_mirrors).chain(draft.state_cluster()) {
            known_cluster(findings, clusters, name);
        }
    }
    relay_needs(findings, clusters, listeners, routes);
    credentials(findings, clusters, routes);
    shadowed(findings, routes);
    split_applications(findings, routes);
    across_mirrors(findings, clusters, mirrors);
    owners(findings, draft);
    moves(findings, draft);
    unused(findings, draft);
    if let Ok(users) = &draft.users {
        sasl_users(findings, users, clusters, routes);
    }
    if draft.listeners.is_ok() {
        tls_subjects(findings, listeners, routes);
        tls_differs(findings, clusters, listeners, routes);
    }
}

fn unique<'a, T: Eq + Hash + 'a>(
    findings: &Findings<'_>,
    what: &str,
    items: impl Iterator<Item = &'a At<T>>,
    shown: impl Fn(&T) -> String,
) {
    let mut seen = HashMap::new();
    for At { span, value } in items {
        if let Some(first) = seen.get(value) {
            let message = format!("duplicate {what} {}", shown(value));
            findings.mismatch(span.clone(), message, format!("line {} has it already: write another one", findings.line(first)));
        } else {
            seen.insert(value, span.clone());
        }
    }
}

/// An address that is listened on, and by whom.
struct Bind {
    who: String,
    /// Empty for the default of `[admin]`.
    span: Range<usize>,
    address: SocketAddr,
}

/// The ports of a cluster's virtual brokers on a listener.
struct Block<'d> {
    listener: usize,
    cluster: &'d str,
    ip: IpAddr,
    ports: RangeInclusive<u32>,
    /// `broker_ports` of the cluster.
    span: Range<usize>,
}

/// The name, the `broker_ports` and their place of each cluster that has some.
fn broker_ports<'t>(clusters: &[ClusterDraft<'t>]) -> Vec<(&'t str, RangeInclusive<u32>, Range<usize>)> {
    let of = |cluster: &ClusterDraft<'t>| {
        let brokers = cluster.brokers.as_ref().ok()?.as_ref()?;
        let ports = u32::from(*brokers.value.ports.start())..=u32::from(*brokers.value.ports.end());
        Some((cluster.name.value, ports, brokers.span.clone()))
    };
    clusters.iter().filter_map(of).collect()
}

/// No two sockets may want the same port of the same address.
fn ports(
    findings: &Findings<'_>,
    clusters: &[ClusterDraft<'_>],
    listeners: &[ListenerDraft<'_>],
    admin: Option<(&At<SocketAddr>, Option<&At<SocketAddr>>)>,
    routes: &[RouteDraft<'_>],
    mirrors: &[MirrorDraft<'_>],
) {
    let ranges = broker_ports(clusters);
    for (n, (name, ports, span)) in ranges.iter().enumerate() {
        if let Some((other, theirs, at)) = ranges[..n].iter().find(|(_, theirs, _)| intersect(ports, theirs)) {
            let message = format!("ports of cluster {} overlap those of {}", quoted(name), quoted(other));
            let first = 1 + ranges.iter().map(|(_, ports, _)| *ports.end()).max().unwrap_or_default();
            let last = first + ports.end() - ports.start();
            let hint = if u16::try_from(last).is_ok() { format!(", as in \"{first}-{last}\"") } else { String::new() };
            let taken = format!("{}-{} in line {} are taken: write others{hint}", theirs.start(), theirs.end(), findings.line(at));
            findings.mismatch(span.clone(), message, taken);
        }
    }

    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        let (Ok(bind), Ok(offset)) = (&listener.bind, &listener.broker_port_offset) else { continue };
        if let Some((name, ports, _)) = ranges.iter().find(|(_, ports, _)| ports.end() + u32::from(offset.value) > u32::from(u16::MAX)) {
            let last = ports.end() + u32::from(offset.value);
            let message = format!("with this offset the ports of cluster {} end at {last}, past 65535", quoted(name));
            findings.mismatch(offset.span.clone(), message, format!("write at most {}", u32::from(u16::MAX) - ports.end()));
            continue;
        }
        let ip = bind.value.ip();
        let taken_by = |offset: u32| {
            ranges.iter().find_map(|(_, ports, _)| {
                blocks.iter().find(|block| can_share(block.ip, ip) && intersect(&block.ports, &shifted(ports, offset)))
            })
        };
        if let Some(taken) = taken_by(u32::from(offset.value)) {
            let other = listeners[taken.listener]
                .name
                .as_ref()
                .map_or_else(|_| "another listener".to_owned(), |name| format!("listener {}", quoted(name.value)));
            let message = format!("brokers' ports of this listener overlap those of {other}");
            let highest = ranges.iter().map(|(_, ports, _)| *ports.end()).max().unwrap_or_default();
            let free = (1..=65)
                .map(|thousands| thousands * 1000)
                .find(|offset| u16::try_from(highest + offset).is_ok() && taken_by(*offset).is_none());
            let write =
                free.map_or_else(|| "write another broker_port_offset".to_owned(), |free| format!("write broker_port_offset = {free}"));
            let (first, last) = (taken.ports.start(), taken.ports.end());
            let hint = format!("{first}-{last} are the brokers of cluster {} there: {write}", quoted(taken.cluster));
            findings.mismatch(offset.span.clone(), message, hint);
            continue;
        }
        let here = ranges.iter().map(|(cluster, ports, span)| Block {
            listener: index,
            cluster,
            ip,
            ports: shifted(ports, u32::from(offset.value)),
            span: span.clone(),
        });
        blocks.extend(here);
    }

    let mut binds: Vec<_> = listeners
        .iter()
        .filter_map(|listener| {
            let bind = listener.bind.as_ref().ok()?;
            let who =
                listener.name.as_ref().map_or_else(|_| "another listener".to_owned(), |name| format!("listener {}", quoted(name.value)));
            Some(Bind { who, span: bind.span.clone(), address: bind.value })
        })
        .collect();
    if let Some((bind, mirror_bind)) = admin {
        let taken = |who: &str, bind: &At<SocketAddr>| Bind { who: who.to_owned(), span: bind.span.clone(), address: bind.value };
        binds.push(taken("[admin]", bind));
        binds.extend(mirror_bind.map(|bind| taken("[admin] mirror_bind", bind)));
    }
    for (n, bind) in binds.iter().enumerate() {
        let clash =
            binds[..n].iter().find(|other| bind.address.port() == other.address.port() && can_share(bind.address.ip(), other.address.ip()));
        // Port 0 is whichever is free.
        if let Some(other) = clash.filter(|_| bind.address.port() != 0) {
            // What is not in the file cannot be pointed at.
            let (at, by) = if bind.span.is_empty() { (other, bind) } else { (bind, other) };
            let line = if by.span.is_empty() { "by default".to_owned() } else { format!("in line {}", findings.line(&by.span)) };
            let message = format!("{} is taken by {}", at.address, by.who);
            findings.mismatch(at.span.clone(), message, format!("it has {} {line}: write another port", by.address));
        }
        let port = u32::from(bind.address.port());
        let taken = blocks.iter().filter(|block| block.ports.contains(&port) && can_share(block.ip, bind.address.ip()));
        // Nothing listens there unless clients in relay mode may come to the cluster.
        let is_relayed =
            |block: &Block<'_>| relayed_at(routes, block.cluster).is_some() || is_seen(clusters, routes, mirrors, block.cluster);
        if let Some(block) = taken.max_by_key(|block| is_relayed(block)) {
            let span = if bind.span.is_empty() { block.span.clone() } else { bind.span.clone() };
            let message = format!("port {port} of {} is a broker's port of cluster {}", bind.who, quoted(block.cluster));
            let (first, last) = (block.ports.start(), block.ports.end());
            let hint = format!("{first}-{last} are the brokers' in relay mode, from broker_ports: write another port");
            if is_relayed(block) {
                findings.mismatch(span, message, hint);
            } else {
                findings.warn(span, message, hint);
            }
        }
    }
}

/// Whichever port is free is another one with each start.
fn some_port(findings: &Findings<'_>, listeners: &[ListenerDraft<'_>]) {
    for bind in listeners.iter().filter_map(|listener| listener.bind.as_ref().ok()).filter(|bind| bind.value.port() == 0) {
        let hint = "the machine gives whichever is free, another one with each start, and clients cannot have it as bootstrap.servers: write a port, as 9092";
        findings.warn(bind.span.clone(), "a listener with port 0", hint);
    }
}

fn shifted(ports: &RangeInclusive<u32>, offset: u32) -> RangeInclusive<u32> {
    ports.start() + offset..=ports.end() + offset
}

/// What clients are told of the virtual brokers' ports, where that is not what the proxy listens on: ports that there are, and under one name not those
/// of another listener too, where a client with other settings is expected.
fn told_ports(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], listeners: &[ListenerDraft<'_>]) {
    /// A listener as far as clients are told of it.
    struct Told<'d> {
        host: String,
        name: &'d str,
        offset: u32,
        /// Of `advertised_port_offset`, if that is written.
        span: Option<Range<usize>>,
    }
    let ranges = broker_ports(clusters);
    let mut before: Vec<Told<'_>> = Vec::new();
    for listener in listeners {
        let (Ok(name), Ok(bind), Ok(host)) = (&listener.name, &listener.bind, &listener.advertised_host) else { continue };
        let (Ok(bound), Ok(told)) = (&listener.broker_port_offset, &listener.advertised_port_offset) else { continue };
        let offset = u32::from(told.as_ref().unwrap_or(bound).value);
        let told = Told {
            host: host.clone().unwrap_or_else(|| bind.value.ip().to_string()),
            name: name.value,
            offset,
            span: told.as_ref().map(|told| told.span.clone()),
        };
        let past = ranges.iter().find(|(_, ports, _)| ports.end() + offset > u32::from(u16::MAX));
        if let (Some(span), Some((cluster, ports, _))) = (&told.span, past) {
            let message = format!("clients would be told ports of cluster {} up to {}, past 65535", quoted(cluster), ports.end() + offset);
            findings.mismatch(span.clone(), message, format!("write at most {}", u32::from(u16::MAX) - ports.end()));
            continue;
        }
        for other in &before {
            let Some(span) = told.span.as_ref().or(other.span.as_ref()).filter(|_| other.host == told.host) else { continue };
            let both = ranges.iter().find_map(|(_, ports, _)| {
                let theirs = shifted(ports, other.offset);
                ranges.iter().any(|(_, ports, _)| intersect(&theirs, &shifted(ports, offset))).then_some(theirs)
            });
            if let Some(theirs) = both {
                let message =
                    format!("clients of listeners {} and {} are told the same addresses of brokers", quoted(other.name), quoted(told.name));
                let hint = format!(
                    "{}:{}-{} is where clients of listener {} are sent: write another advertised_port_offset, unless that name is another \
                     address for the others",
                    other.host,
                    theirs.start(),
                    theirs.end(),
                    quoted(other.name)
                );
                findings.warn(span.clone(), message, hint);
            }
        }
        before.push(told);
    }
}

fn intersect(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// Whether sockets bound to these addresses would both get connections to some address. `[::]` takes IPv4 too, as Linux has it.
fn can_share(one: IpAddr, other: IpAddr) -> bool {
    let is_any = |ip: IpAddr| ip.is_unspecified();
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let takes = |any: IpAddr, ip: IpAddr| is_any(any) && (any.is_ipv6() || ip.is_ipv4() || is_any(ip));
    one == other || takes(one, other) || takes(other, one)
}

/// Where a route names clusters: the one that it leads to, and those that it has credentials for.
fn named_clusters<'d, 't>(route: &'d RouteDraft<'t>) -> impl Iterator<Item = &'d At<&'t str>> {
    route.cluster.iter().chain(route.credentials.iter().flatten().map(|credentials| &credentials.cluster))
}

fn known_cluster(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], cluster: &At<&str>) {
    let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.value).collect();
    if !names.contains(&cluster.value) {
        let hint = match meant(cluster.value, names.iter().copied()) {
            Some(name) => format!("did you mean {}?", quoted(name)),
            None => format!("the clusters are {}", listed(&names.iter().map(|name| quoted(name)).collect::<Vec<_>>(), "and")),
        };
        findings.mismatch(cluster.span.clone(), format!("unknown cluster {}", quoted(cluster.value)), hint);
    }
}

/// Where a route in relay mode first names a cluster. One that it only has credentials for counts: that is where its clients may be moved.
fn relayed_at<'d>(routes: &'d [RouteDraft<'_>], cluster: &str) -> Option<&'d Range<usize>> {
    let relayed = routes.iter().filter(|route| matches!(route.mode, Ok(Mode::Relay)));
    relayed.flat_map(named_clusters).find(|name| name.value == cluster).map(|name| &name.span)
}

/// Whether clients of a route in relay mode see a cluster beside their own: by a mirror between the two, where it wants no login. With one the route would have
/// credentials for it.
fn is_seen(clusters: &[ClusterDraft<'_>], routes: &[RouteDraft<'_>], mirrors: &[MirrorDraft<'_>], cluster: &str) -> bool {
    let wants_login = |cluster: &str| {
        clusters.iter().any(|known| known.name.value == cluster && !known.security.as_ref().is_ok_and(|of| of.sasl.is_none()))
    };
    let may_come = |route: &RouteDraft<'_>, cluster: &str| {
        !wants_login(cluster) || route.credentials.iter().flatten().any(|credentials| credentials.cluster.value == cluster)
    };
    let connects = |mirror: &MirrorDraft<'_>, home: &str| {
        let mut ends = [&mirror.source, &mirror.target].map(|end| end.as_ref().map_or("", |end| end.value));
        ends == [home, cluster] || {
            ends.reverse();
            ends == [home, cluster]
        }
    };
    let relayed = routes.iter().filter(|route| matches!(route.mode, Ok(Mode::Relay)));
    relayed
        .filter_map(|route| Some((route, route.cluster.as_ref().ok()?.value)))
        .any(|(route, home)| may_come(route, home) && may_come(route, cluster) && mirrors.iter().any(|mirror| connects(mirror, home)))
}

/// Clusters and listeners must say what virtual brokers are made of.
fn relay_needs(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], listeners: &[ListenerDraft<'_>], routes: &[RouteDraft<'_>]) {
    for cluster in clusters {
        let Some(place) = relayed_at(routes, cluster.name.value) else { continue };
        let (name, line) = (quoted(cluster.name.value), findings.line(&cluster.name.span));
        if let Ok(None) = cluster.brokers {
            let highest = clusters.iter().filter_map(|cluster| Some(*cluster.brokers.as_ref().ok()?.as_ref()?.value.ports.end())).max();
            let first = highest.map_or(9100, |highest| (u32::from(highest) + 1).next_multiple_of(100));
            let last = first + 49;
            let example = if u16::try_from(last).is_ok() {
                format!(r#", like node_ids = "1-50" and broker_ports = "{first}-{last}""#)
            } else {
                String::new()
            };
            let hint = format!(
                "below line {line} write which node ids its brokers may have, with room for more, and a free port for each{example}"
            );
            findings.mismatch(place.clone(), format!("relay mode needs `node_ids` and `broker_ports` of cluster {name}"), hint);
        }
        if cluster.security.as_ref().is_ok_and(|security| security.sasl == Some(None)) {
            let hint = format!(
                "below line {line} write sasl_mechanism, sasl_username and sasl_password_file: kferry itself asks the brokers where they \
                 are, whoever the clients are"
            );
            findings.mismatch(place.clone(), format!("relay mode needs kferry's own login at cluster {name}"), hint);
        }
    }
    if routes.iter().any(|route| matches!(route.mode, Ok(Mode::Relay))) {
        for listener in listeners {
            let (Ok(bind), Ok(None)) = (&listener.bind, &listener.advertised_host) else { continue };
            if bind.value.ip().is_unspecified() {
                let hint = format!(
                    "clients are told where the virtual brokers are, and {} is nowhere: write advertised_host = \"kafka.internal\", \
                     the name or address of this machine",
                    bind.value.ip()
                );
                findings.mismatch(bind.span.clone(), "relay mode needs `advertised_host` of this listener", hint);
            }
        }
    }
}

/// Credentials can only be used where the proxy logs in, and should only be had by those that they are meant for.
fn credentials(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], routes: &[RouteDraft<'_>]) {
    for route in routes {
        let (Ok(credentials), Ok(mode)) = (&route.credentials, &route.mode) else { continue };
        let Some(first) = credentials.first() else { continue };
        if *mode == Mode::Bootstrap {
            findings.mismatch(
                first.cluster.span.clone(),
                "credentials in bootstrap mode",
                "the client goes on to the brokers by itself, and the proxy cannot log in for it: write mode = \"relay\", or drop the \
                 credentials",
            );
            continue;
        }
        for CredentialsDraft { cluster: name, .. } in credentials {
            let Some(cluster) = clusters.iter().find(|cluster| cluster.name.value == name.value) else { continue };
            let Ok(security) = &cluster.security else { continue };
            if security.sasl.is_none() {
                let message = format!("credentials for cluster {}, which is {}", quoted(name.value), security.protocol());
                let with_sasl = if security.tls.is_some() { "SASL_SSL" } else { "SASL_PLAINTEXT" };
                let line = findings.line(&cluster.name.span);
                let hint =
                    format!("drop them, or write security_protocol = \"{with_sasl}\" below line {line} if its brokers ask for a login");
                findings.mismatch(name.span.clone(), message, hint);
            }
        }
        if let (Ok(clients), Ok(users)) = (&route.clients, &route.sasl_users)
            && clients.value.is_for_anybody()
            && users.is_empty()
        {
            findings.warn(
                clients.span.clone(),
                "a client.id can be claimed by anybody: whoever reaches a listener and calls itself so gets the credentials of this route",
                "add client_address, the addresses or networks of the clients that are meant; or tls_subject, their certificates' subject; or \
                 sasl_users, who then must log in at the proxy",
            );
        }
        has_its_own(findings, clusters, route, credentials);
    }
}

/// A client cannot log in by itself on one cluster and be without a login on the other.
fn has_its_own(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], route: &RouteDraft<'_>, credentials: &[CredentialsDraft<'_>]) {
    let (Ok(name), Ok(users)) = (&route.cluster, &route.sasl_users) else { return };
    let asks = |cluster: &&ClusterDraft<'_>| {
        cluster.name.value == name.value && cluster.security.as_ref().is_ok_and(|security| security.sasl.is_some())
    };
    if !users.is_empty() || !clusters.iter().any(|cluster| asks(&cluster)) || credentials.iter().any(|at| at.cluster.value == name.value) {
        return;
    }
    let others: Vec<_> = credentials.iter().map(|credentials| quoted(credentials.cluster.value)).collect();
    let message = format!(
        "clients log in by themselves at cluster {}, and at {} the proxy does for them: no setting of a client is right for both",
        quoted(name.value),
        listed(&others, "and")
    );
    let hint = format!("write [routes.credentials.{}] too, or drop the credentials", name.value);
    findings.warn(name.span.clone(), message, hint);
}

/// Users of the file log in at the proxy, which then must do so at the broker.
fn sasl_users(findings: &Findings<'_>, users: &[UserDraft<'_>], clusters: &[ClusterDraft<'_>], routes: &[RouteDraft<'_>]) {
    let names: Vec<_> = users.iter().map(|user| user.name.value).collect();
    for route in routes {
        let (Ok(wanted), Ok(mode)) = (&route.sasl_users, &route.mode) else { continue };
        for user in wanted.iter().filter(|user| !names.contains(&user.value)) {
            let hint = match meant(user.value, names.iter().copied()) {
                Some(name) => format!("did you mean {}?", quoted(name)),
                None => format!("write [users.{}] with its password", user.value),
            };
            findings.mismatch(user.span.clone(), format!("unknown user {}", quoted(user.value)), hint);
        }
        let Some(first) = wanted.first() else { continue };
        if *mode == Mode::Bootstrap {
            let hint = "the client goes on to the brokers by itself and logs in there: write mode = \"relay\", or drop this line";
            findings.mismatch(first.span.clone(), "`sasl_users` in bootstrap mode", hint);
            continue;
        }
        let (Ok(cluster), Ok(credentials)) = (&route.cluster, &route.credentials) else { continue };
        let asks = |cluster_draft: &ClusterDraft<'_>| {
            cluster_draft.name.value == cluster.value && cluster_draft.security.as_ref().is_ok_and(|security| security.sasl.is_some())
        };
        if clusters.iter().any(asks) && !credentials.iter().any(|credentials| credentials.cluster.value == cluster.value) {
            let message = format!("`sasl_users` without credentials for cluster {}, whose brokers ask for a login", quoted(cluster.value));
            let hint = format!(
                "write [routes.credentials.{}]: the client's login ends at the proxy, and this is what the proxy logs in with for it",
                cluster.value
            );
            findings.mismatch(first.span.clone(), message, hint);
        }
    }
}

/// Without a certificate there is no subject.
fn tls_subjects(findings: &Findings<'_>, listeners: &[ListenerDraft<'_>], routes: &[RouteDraft<'_>]) {
    let may_ask =
        |listener: &ListenerDraft<'_>| listener.tls.as_ref().map_or(true, |tls| tls.as_ref().is_some_and(|tls| tls.client_auth.is_some()));
    if listeners.iter().any(may_ask) {
        return;
    }
    for place in routes.iter().filter_map(|route| route.tls_subject.as_ref()) {
        let hint = r#"write ssl_client_auth = "required" and ssl_ca_location at a listener with security_protocol = "SSL""#;
        findings.mismatch(place.clone(), "`tls_subject`, but no listener asks clients for a certificate", hint);
    }
}

/// A route after one that matches all of its clients never gets one.
fn shadowed(findings: &Findings<'_>, routes: &[RouteDraft<'_>]) {
    // With thousands of routes, few of them can match what another one does: those whose ids begin alike.
    let mut earlier: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (n, route) in routes.iter().enumerate() {
        let Ok(clients) = &route.clients else { continue };
        let covers = |n: &&usize| routes[**n].clients.as_ref().is_ok_and(|theirs| theirs.value.covers(&clients.value));
        if let Some(earlier) = clients.value.that_may_cover(&earlier).filter(covers).min().map(|n| &routes[*n])
            && let Ok(theirs) = &earlier.clients
        {
            let named = |route: &RouteDraft<'_>| {
                route.name.as_ref().map_or_else(|_| "this route".to_owned(), |name| format!("route {}", quoted(name.value)))
            };
            let earlier_name = earlier.name.as_ref().map_or_else(|_| "the one".to_owned(), |name| quoted(name.value));
            let line = findings.line(&theirs.span);
            let message = format!("{} never gets a client: {earlier_name} in line {line} matches all of them first", named(route));
            findings.mismatch(clients.span.clone(), message, format!("the first match wins: move it up, before line {line}, or drop it"));
        }
        earlier.entry(clients.value.prefix()).or_default().push(n);
    }
}

/// A route that takes some of the ids that a library makes up for one application, while a later one takes others of them to another cluster.
fn split_applications(findings: &Findings<'_>, routes: &[RouteDraft<'_>]) {
    for (n, route) in routes.iter().enumerate() {
        let (Ok(clients), Ok(cluster)) = (&route.clients, &route.cluster) else { continue };
        let Some(sent) = default_ids::meant_by(&clients.value) else { continue };
        let Some(application) = Application::of(&sent) else { continue };
        let (address, subject) = clients.value.someone();
        let takes =
            |route: &RouteDraft<'_>, id: &str| route.clients.as_ref().is_ok_and(|clients| clients.value.matches(id, address, subject));
        // Nearly every route takes all of them or none, and then no other need be looked at. What an earlier one takes is told there.
        let missing = application.others.iter().filter(|other| !clients.value.has_id(other));
        let elsewhere =
            missing.filter(|other| !routes[..n].iter().any(|earlier| takes(earlier, other) || takes(earlier, &sent))).find_map(|other| {
                match routes[n + 1..].iter().find(|later| takes(later, other)) {
                    Some(RouteDraft { cluster: Ok(theirs), .. }) if theirs.value != cluster.value => {
                        Some(format!("{} goes to cluster {}", quoted(other), quoted(theirs.value)))
                    }
                    Some(_) => None,
                    None => Some(format!("{} has no route", quoted(other))),
                }
            });
        if let Some(elsewhere) = elsewhere {
            let message = format!(
                "this may split an application of {}: {} goes to cluster {}, and {elsewhere}",
                application.library,
                quoted(&sent),
                quoted(cluster.value)
            );
            findings.warn(clients.span.clone(), message, application.advice);
        }
    }
}

fn unused(findings: &Findings<'_>, draft: &Draft<'_>) {
    let clusters = draft.clusters.as_deref().unwrap_or_default();
    let mirrors = draft.mirrors.as_deref().unwrap_or_default();
    let is_named = |cluster: &str| {
        let by_routes = draft.routes.iter().flatten().flat_map(named_clusters);
        let by_mirrors = mirrors.iter().flat_map(MirrorDraft::named_clusters);
        by_routes.chain(by_mirrors).chain(draft.state_cluster()).any(|name| name.value == cluster)
    };
    for cluster in clusters.iter().filter(|cluster| !is_named(cluster.name.value)) {
        let name = quoted(cluster.name.value);
        if mirrors.is_empty() {
            findings.warn(cluster.name.span.clone(), format!("no route leads to cluster {name}"), "write a route with it, or drop it");
        } else {
            let message = format!("no route or mirror has cluster {name}");
            findings.warn(cluster.name.span.clone(), message, "write one with it, or drop it");
        }
    }
}

/// In bootstrap mode a client connects to the real brokers with the settings that it had for the listener: so both do TLS, or none.
fn tls_differs(findings: &Findings<'_>, clusters: &[ClusterDraft<'_>], listeners: &[ListenerDraft<'_>], routes: &[RouteDraft<'_>]) {
    if listeners.iter().any(|listener| listener.tls.is_err()) {
        return;
    }
    for cluster in clusters {
        let Ok(security) = &cluster.security else { continue };
        let is_used = |route: &&RouteDraft<'_>| {
            matches!(route.mode, Ok(Mode::Bootstrap)) && route.cluster.as_ref().is_ok_and(|name| name.value == cluster.name.value)
        };
        let Some(Ok(place)) = routes.iter().find(is_used).map(|route| &route.cluster) else { continue };
        let has_tls = |listener: &ListenerDraft<'_>| matches!(listener.tls, Ok(Some(_)));
        if listeners.iter().any(|listener| has_tls(listener) == security.tls.is_some()) {
            continue;
        }
        let (listener, other) = if security.tls.is_some() { ("PLAINTEXT", "SSL") } else { ("SSL", "PLAINTEXT") };
        let message = format!("every listener is {listener}, but cluster {} is {}", quoted(cluster.name.value), security.protocol());
        findings.warn(
            place.span.clone(),
            message,
            format!(
                "in bootstrap mode a client goes on to the real brokers with the settings that it used here, so both must do TLS or neither: \
                 add a listener with security_protocol = \"{other}\", or write bootstrap_servers where the brokers are {listener} too"
            ),
        );
    }
}
