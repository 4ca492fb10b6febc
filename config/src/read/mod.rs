//! TOML tables to drafts of the checked types, one function a table. Each reads like the schema that it is.
//!
//! What one table can tell is checked here; what only several together can, in [`crate::check`].

pub(crate) mod mirrors;
pub(crate) mod selection;
pub(crate) mod syntax;
pub(crate) mod table;

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;

use self::mirrors::{MIRROR, MirrorDraft, mirror};
use self::selection::{OwnedDraft, bad_pattern, owned, topic};
use self::table::{At, Field, Findings, Reported, Table, Value, listed, quoted};
use crate::diagnostic::Lines;
use crate::matcher::{ClientMatcher, Ids};
use crate::{
    BrokerRange, ClientAuth, ClientTls, HostPort, Limits, Mode, Moves, NODE_IDS, OAUTHBEARER, Sasl, SaslMechanism, Secret, Security,
    ServerTls, TlsIdentity,
};

/// How the tables are written.
const TOP: &str = "the file";
pub(crate) const CLUSTER: &str = "[clusters.NAME]";
pub(crate) const LISTENER: &str = "[[listeners]]";
const ADMIN: &str = "[admin]";
const LIMITS: &str = "[limits]";
pub(crate) const ROUTE: &str = "[[routes]]";
const STATE: &str = "[state]";
const MOVES: &str = "[moves]";
pub(crate) const CREDENTIALS: &str = "[routes.credentials.CLUSTER]";
pub(crate) const USER: &str = "[users.NAME]";

/// The whole file, as far as it could be read.
pub(crate) struct Draft<'t> {
    pub(crate) clusters: Field<Vec<ClusterDraft<'t>>>,
    /// Otherwise some are in a table like `[cluster.NAME]`.
    pub(crate) has_all_clusters: bool,
    pub(crate) listeners: Field<Vec<ListenerDraft<'t>>>,
    pub(crate) users: Field<Vec<UserDraft<'t>>>,
    pub(crate) admin: Field<AdminDraft>,
    pub(crate) limits: Field<Limits>,
    pub(crate) routes: Field<Vec<RouteDraft<'t>>>,
    pub(crate) mirrors: Field<Vec<MirrorDraft<'t>>>,
    pub(crate) state: Field<Option<StateDraft<'t>>>,
    /// At an empty place where the file has no such table.
    pub(crate) moves: Field<At<Moves>>,
}

/// An empty place where an address is the default.
pub(crate) struct AdminDraft {
    pub(crate) bind: At<SocketAddr>,
    pub(crate) mirror_bind: At<SocketAddr>,
}

pub(crate) struct ClusterDraft<'t> {
    pub(crate) name: At<&'t str>,
    pub(crate) id: Field<At<u8>>,
    pub(crate) bootstrap_servers: Field<Vec<HostPort>>,
    /// At `broker_ports`.
    pub(crate) brokers: Field<Option<At<BrokerRange>>>,
    pub(crate) security: Field<Security>,
}

pub(crate) struct ListenerDraft<'t> {
    pub(crate) name: Field<At<&'t str>>,
    pub(crate) bind: Field<At<SocketAddr>>,
    pub(crate) advertised_host: Field<Option<String>>,
    /// At `bind` where it is the default.
    pub(crate) broker_port_offset: Field<At<u16>>,
    pub(crate) advertised_port_offset: Field<Option<At<u16>>>,
    pub(crate) proxy_protocol_from: Field<Vec<IpNet>>,
    pub(crate) tls: Field<Option<ServerTls>>,
    pub(crate) sasl_mechanisms: Field<Vec<SaslMechanism>>,
}

pub(crate) struct UserDraft<'t> {
    pub(crate) name: At<&'t str>,
    pub(crate) password: Field<Secret>,
}

pub(crate) struct RouteDraft<'t> {
    pub(crate) name: Field<At<&'t str>>,
    /// At `client_id` or `client_id_regex`.
    pub(crate) clients: Field<At<ClientMatcher>>,
    /// Where `tls_subject` is.
    pub(crate) tls_subject: Option<Range<usize>>,
    pub(crate) cluster: Field<At<&'t str>>,
    pub(crate) mode: Field<Mode>,
    pub(crate) credentials: Field<Vec<CredentialsDraft<'t>>>,
    pub(crate) sasl_users: Field<Vec<At<&'t str>>>,
    pub(crate) topics: Field<OwnedDraft<'t>>,
    pub(crate) groups: Field<OwnedDraft<'t>>,
    pub(crate) stopped: Field<Option<At<bool>>>,
}

pub(crate) struct StateDraft<'t> {
    /// Its header.
    pub(crate) span: Range<usize>,
    pub(crate) cluster: Field<At<&'t str>>,
}

pub(crate) struct CredentialsDraft<'t> {
    /// The name in its header.
    pub(crate) cluster: At<&'t str>,
    pub(crate) sasl: Field<Sasl>,
}

/// All tables of a file whose TOML is right. Paths in it are relative to `folder`.
pub(crate) fn file<'t>(findings: &'t Findings<'t>, root: &'t DeTable<'t>, folder: &Path) -> Draft<'t> {
    let start = 0..0;
    let mut t = Table::new(findings, TOP, start.clone(), Some(root));
    let clusters = t.required("clusters", "write [clusters.NAME] for each Kafka cluster", |v| v.table(CLUSTER));
    let listeners = t.optional("listeners", |v| v.tables(LISTENER));
    let users = t.optional("users", |v| v.table(USER));
    let admin = t.optional("admin", |v| v.table(ADMIN));
    let limits = t.optional("limits", |v| v.table(LIMITS));
    let routes = t.optional("routes", |v| v.tables(ROUTE));
    let mirrors = t.optional("mirrors", |v| v.tables(MIRROR));
    let state = t.optional("state", |v| v.table(STATE));
    let moves = t.optional("moves", |v| v.table(MOVES));
    // A file of mirrors alone is for no proxy, and needs nothing of what only proxies read.
    let only_mirrors = matches!((&listeners, &routes), (Ok(None), Ok(None))) && !matches!(mirrors, Ok(None));
    if !only_mirrors && let Ok(None) = listeners {
        let hint = "write [[listeners]] for each address that clients connect to";
        t.missing(&["listeners", "mirrors"], start.clone(), "missing key `listeners`", hint);
    }
    if !only_mirrors && let Ok(None) = routes {
        let hint = r#"write [[routes]]; with client_id = "*" and a cluster it is for every client"#;
        t.missing(&["routes", "mirrors"], start.clone(), "missing key `routes`", hint);
    }
    let has_all_clusters = !t.finish().contains(&"clusters");

    let or_empty =
        |table: Field<Option<At<Table<'t>>>>, kind| Ok(table?.map_or_else(|| Table::new(findings, kind, start.clone(), None), |t| t.value));
    Draft {
        clusters: clusters.and_then(|clusters| named_clusters(clusters.value, folder)),
        has_all_clusters,
        listeners: some(findings, listeners, LISTENER, |t| listener(t, folder)),
        users: users.and_then(|users| users.map_or_else(|| Ok(Vec::new()), |users| self::users(users.value, folder))),
        admin: or_empty(admin, ADMIN).and_then(self::admin),
        limits: or_empty(limits, LIMITS).and_then(self::limits),
        routes: some(findings, routes, ROUTE, |t| route(t, folder)),
        mirrors: some(findings, mirrors, MIRROR, mirror),
        state: state.map(|state| state.map(|state| self::state(state.value))),
        moves: or_empty(moves, MOVES).and_then(self::moves),
    }
}

fn named_clusters<'t>(clusters: Table<'t>, folder: &Path) -> Field<Vec<ClusterDraft<'t>>> {
    let (findings, span) = (clusters.findings, clusters.span.clone());
    let (tables, all) = by_name(clusters, CLUSTER, "a key outside of a cluster", "write [clusters.NAME] above the keys of a cluster");
    let mut read = Vec::new();
    for (name, table) in tables {
        if name.value.trim().is_empty() || name.value.contains(char::is_control) {
            findings.error(name.span.clone(), "a cluster without a name", "name it, as in [clusters.legacy]");
        }
        read.push(cluster(table, name, folder));
    }
    match all {
        Ok(()) if read.is_empty() => Err(findings.mismatch(span, "no clusters", "write [clusters.NAME] for each Kafka cluster")),
        all => all.map(|()| read),
    }
}

fn users<'t>(users: Table<'t>, folder: &Path) -> Field<Vec<UserDraft<'t>>> {
    let findings = users.findings;
    let (tables, all) = by_name(users, USER, "a key outside of a user", "write [users.NAME] above the password of a user");
    let mut read = Vec::new();
    for (name, table) in tables {
        if name.value.trim().is_empty() || name.value.contains(char::is_control) {
            findings.error(name.span.clone(), "a user without a name", "name it, as in [users.orders-app]");
        }
        read.push(UserDraft { password: user(table, folder), name });
    }
    all.map(|()| read)
}

fn user(mut t: Table<'_>, folder: &Path) -> Field<Secret> {
    let password = password(&mut t, folder).and_then(|password| match password {
        Some(password) => Ok(password.value),
        None => {
            let hint = "write sasl_password_file, a file that holds the password and nothing else, or sasl_password_env";
            Err(t.missing(&PASSWORDS, t.span.clone(), "a user without a password", hint))
        }
    });
    t.finish();
    password
}

/// The tables in a table of names, and whether there is nothing else.
fn by_name<'t>(names: Table<'t>, kind: &'static str, stray: &str, hint: &str) -> (Vec<(At<&'t str>, Table<'t>)>, Field<()>) {
    let findings = names.findings;
    let mut tables = Vec::new();
    let mut all = Ok(());
    for (name, value) in names.entries() {
        if value.is_table() {
            tables.extend(value.table(kind).map(|table| (name, table)));
        } else {
            // Probably the keys of a whole table, without its header: one error for all of them.
            all = all.and_then(|()| Err(findings.error(name.span, stray, hint)));
        }
    }
    (tables, all)
}

/// What another table may ask for is not missing where it is misspelled: that is one error already.
fn unless_misspelled<T>(field: Field<T>, slips: &[&str], keys: &[&str]) -> Field<T> {
    if slips.iter().any(|slip| keys.contains(slip)) { Err(Reported) } else { field }
}

/// None where the key is absent.
fn some<'t, T>(findings: &Findings<'t>, tables: Optional<Vec<Table<'t>>>, kind: &str, read: impl FnMut(Table<'t>) -> T) -> Field<Vec<T>> {
    let Some(tables) = tables? else { return Ok(Vec::new()) };
    if tables.value.is_empty() {
        return Err(findings.mismatch(tables.span, "an empty array", format!("write at least one {kind}")));
    }
    Ok(tables.value.into_iter().map(read).collect())
}

fn cluster<'t>(mut t: Table<'t>, name: At<&'t str>, folder: &Path) -> ClusterDraft<'t> {
    let id = t.required("id", "write id = 1: a number from 1 to 15 of its own, that never changes", |v| v.integer(1..=15));
    let bootstrap_servers = t.required("bootstrap_servers", r#"write bootstrap_servers = "host-1:9092,host-2:9092""#, host_ports);
    let node_ids = t.optional("node_ids", node_ids);
    let broker_ports = t.optional("broker_ports", |v| range(v, 1..=u32::from(u16::MAX)));
    let brokers = brokers(&mut t, node_ids, broker_ports);
    let security = security(&mut t, folder);
    let slips = t.finish();
    ClusterDraft {
        name,
        id: id.map(|id| id.map(|id| id as u8)),
        bootstrap_servers: bootstrap_servers.map(|servers| servers.value),
        brokers: unless_misspelled(brokers, &slips, &["node_ids", "broker_ports"]),
        security: unless_misspelled(security, &slips, &SECURITY),
    }
}

type Optional<T> = Field<Option<At<T>>>;

fn brokers(t: &mut Table<'_>, node_ids: Optional<RangeInclusive<u32>>, ports: Optional<RangeInclusive<u32>>) -> Optional<BrokerRange> {
    let count = |range: &RangeInclusive<u32>| range.end() - range.start() + 1;
    match (node_ids?, ports?) {
        (None, None) => Ok(None),
        (Some(ids), None) => {
            let hint = format!(r#"write broker_ports too, {} ports that are free: "9100-9149" are 50"#, count(&ids.value));
            Err(t.missing(&["broker_ports"], ids.span, "`node_ids` without `broker_ports`", &hint))
        }
        (None, Some(ports)) => {
            let hint = format!(r#"write node_ids too, the {} that brokers may have: "1-50" are 50"#, count(&ports.value));
            Err(t.missing(&["node_ids"], ports.span, "`broker_ports` without `node_ids`", &hint))
        }
        (Some(ids), Some(ports)) if count(&ids.value) != count(&ports.value) => {
            let (ids, ports_count) = (count(&ids.value), count(&ports.value));
            let last = u64::from(*ports.value.start()) + u64::from(ids) - 1;
            let hint = if u16::try_from(last).is_ok() {
                format!("each node id has one port: write {}", quoted(&format!("{}-{last}", ports.value.start())))
            } else {
                "each node id has one port: write a shorter range of node ids".to_owned()
            };
            Err(t.findings.mismatch(ports.span, format!("{ports_count} ports for {ids} node ids"), hint))
        }
        (Some(ids), Some(ports)) => {
            let node_ids = *ids.value.start() as i32..=*ids.value.end() as i32;
            Ok(Some(ports.map(|ports| BrokerRange { node_ids, ports: *ports.start() as u16..=*ports.end() as u16 })))
        }
    }
}

/// TLS and SASL, or not, for each of Kafka's names.
const PROTOCOLS: [(&str, (bool, bool)); 4] =
    [("PLAINTEXT", (false, false)), ("SSL", (true, false)), ("SASL_PLAINTEXT", (false, true)), ("SASL_SSL", (true, true))];

/// The keys that say whether there is SASL, and with which login.
const SECURITY: [&str; 7] = [
    "security_protocol",
    "sasl_mechanism",
    "sasl_username",
    "sasl_password_file",
    "sasl_password_env",
    "sasl_password",
    "sasl_oauthbearer_token_file",
];

/// A password is in one of these.
const PASSWORDS: [&str; 3] = ["sasl_password_file", "sasl_password_env", "sasl_password"];

/// How kferry logs in at brokers; `None` with a token.
const MECHANISMS: [(&str, Option<SaslMechanism>); 4] = [
    ("PLAIN", Some(SaslMechanism::Plain)),
    ("SCRAM-SHA-256", Some(SaslMechanism::ScramSha256)),
    ("SCRAM-SHA-512", Some(SaslMechanism::ScramSha512)),
    (OAUTHBEARER, None),
];

fn security(t: &mut Table<'_>, folder: &Path) -> Field<Security> {
    let protocol = t.optional("security_protocol", |v| v.one_of(&PROTOCOLS));
    let tls = client_tls(t, folder);
    let sasl = sasl(t, folder, "write all three, or none: in bootstrap mode the clients' own credentials pass through");
    let (has_tls, has_sasl) = match protocol? {
        Some(protocol) => protocol.value,
        None => (false, false),
    };
    let tls = tls?;
    let sasl = sasl?;
    let stray_tls = tls.as_ref().filter(|_| !has_tls).map(|tls| {
        let hint = format!(r#"write security_protocol = "{}", or drop the ssl_* keys"#, if has_sasl { "SASL_SSL" } else { "SSL" });
        t.missing(&["security_protocol"], tls.span.clone(), "a key of TLS, but the cluster's `security_protocol` is without TLS", &hint)
    });
    let stray_sasl = sasl.as_ref().filter(|_| !has_sasl).map(|sasl| {
        let hint =
            format!(r#"write security_protocol = "{}", or drop the sasl_* keys"#, if has_tls { "SASL_SSL" } else { "SASL_PLAINTEXT" });
        t.missing(&["security_protocol"], sasl.span.clone(), "a key of SASL, but the cluster's `security_protocol` is without SASL", &hint)
    });
    if let Some(reported) = stray_tls.or(stray_sasl) {
        return Err(reported);
    }
    Ok(Security { tls: has_tls.then(|| tls.map(|tls| tls.value).unwrap_or_default()), sasl: has_sasl.then(|| sasl.map(|sasl| sasl.value)) })
}

/// At the first of its keys.
fn client_tls(t: &mut Table<'_>, folder: &Path) -> Optional<ClientTls> {
    let ca = t.optional("ssl_ca_location", |v| file_path(v, folder));
    let identity = identity(t, folder);
    let algorithm = t.optional("ssl_endpoint_identification_algorithm", |v| v.one_of(&[("https", false), ("none", true)]));
    let (ca, identity, algorithm) = (ca?, identity?, algorithm?);
    let spans = [ca.as_ref().map(|at| &at.span), identity.as_ref().map(|at| &at.span), algorithm.as_ref().map(|at| &at.span)];
    let Some(span) = spans.into_iter().flatten().min_by_key(|span| span.start).cloned() else { return Ok(None) };
    let skip_host_name_check = algorithm.is_some_and(|algorithm| algorithm.value);
    Ok(Some(At {
        span,
        value: ClientTls { ca: ca.map(|ca| ca.value), identity: identity.map(|identity| identity.value), skip_host_name_check },
    }))
}

/// At `ssl_certificate_location`.
fn identity(t: &mut Table<'_>, folder: &Path) -> Optional<TlsIdentity> {
    let certificate = t.optional("ssl_certificate_location", |v| file_path(v, folder));
    let key = t.optional("ssl_key_location", |v| file_path(v, folder));
    match (certificate?, key?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(certificate.map(|certificate| TlsIdentity { certificate, key: key.value }))),
        (Some(certificate), None) => {
            let message = "`ssl_certificate_location` without `ssl_key_location`";
            Err(t.missing(&["ssl_key_location"], certificate.span, message, "write ssl_key_location too, the PEM file of its private key"))
        }
        (None, Some(key)) => {
            let message = "`ssl_key_location` without `ssl_certificate_location`";
            Err(t.missing(
                &["ssl_certificate_location"],
                key.span,
                message,
                "write ssl_certificate_location too, the PEM file of its certificate",
            ))
        }
    }
}

/// At the first of its keys; `hint` is for where some are missing.
fn sasl(t: &mut Table<'_>, folder: &Path, hint: &str) -> Optional<Sasl> {
    let mechanism = t.optional("sasl_mechanism", |v| v.one_of(&MECHANISMS));
    let username = t.optional("sasl_username", |v| v.text().map(str::to_owned));
    let password = password(t, folder);
    let token_file = t.optional("sasl_oauthbearer_token_file", |v| file_path(v, folder));
    let (mechanism, username, password, token_file) = (mechanism?, username?, password?, token_file?);
    let spans = [username.as_ref().map(|at| &at.span), password.as_ref().map(|at| &at.span)];
    let stray = spans.into_iter().flatten().min_by_key(|span| span.start).cloned();
    match (&mechanism, token_file) {
        (Some(At { value: None, .. }), Some(token_file)) => match stray {
            None => Ok(Some(token_file.map(|token_file| Sasl::OAuthBearer { token_file }))),
            Some(stray) => {
                let hint = "drop it: the token says who logs in";
                Err(t.findings.mismatch(stray, "a username or password with the mechanism OAUTHBEARER", hint))
            }
        },
        (Some(At { span, value: None }), None) => {
            let message = "OAUTHBEARER without `sasl_oauthbearer_token_file`";
            let hint = "write sasl_oauthbearer_token_file, a file that holds the token and nothing else; kferry reads it at each login";
            Err(t.missing(&["sasl_oauthbearer_token_file"], span.clone(), message, hint))
        }
        (_, Some(token_file)) => {
            let message = "a token, but `sasl_mechanism` is not OAUTHBEARER";
            let hint = r#"write sasl_mechanism = "OAUTHBEARER", or drop this line"#;
            Err(t.missing(&["sasl_mechanism"], token_file.span, message, hint))
        }
        (_, None) => {
            let mechanism = mechanism.and_then(|At { span, value }| value.map(|value| At { span, value }));
            with_password(t, mechanism, username, password, hint)
        }
    }
}

fn with_password(
    t: &mut Table<'_>,
    mechanism: Option<At<SaslMechanism>>,
    username: Option<At<String>>,
    password: Option<At<Secret>>,
    hint: &str,
) -> Optional<Sasl> {
    let spans = [mechanism.as_ref().map(|at| &at.span), username.as_ref().map(|at| &at.span), password.as_ref().map(|at| &at.span)];
    let Some(span) = spans.into_iter().flatten().min_by_key(|span| span.start).cloned() else { return Ok(None) };
    match (mechanism, username, password) {
        (Some(mechanism), Some(username), Some(password)) => {
            let value = Sasl::Password { mechanism: mechanism.value, username: username.value, password: password.value };
            Ok(Some(At { span, value }))
        }
        (mechanism, username, password) => {
            let needed: [(bool, &'static [&'static str]); 3] =
                [(mechanism.is_none(), &["sasl_mechanism"]), (username.is_none(), &["sasl_username"]), (password.is_none(), &PASSWORDS)];
            let keys: Vec<_> = needed.iter().filter(|(missing, _)| *missing).flat_map(|(_, keys)| *keys).copied().collect();
            let names: Vec<_> = needed.iter().filter(|(missing, _)| *missing).map(|(_, keys)| format!("`{}`", keys[0])).collect();
            Err(t.missing(&keys, span, format!("credentials without {}", listed(&names, "and")), hint))
        }
    }
}

fn password(t: &mut Table<'_>, folder: &Path) -> Optional<Secret> {
    let in_file = t.optional("sasl_password_file", |v| Ok(Secret::File(file_path(v, folder)?)));
    let in_env = t.optional("sasl_password_env", |v| Ok(Secret::Env(v.text()?.to_owned())));
    let literal = t.optional("sasl_password", |v| Ok(Secret::Literal(v.text()?.to_owned())));
    let mut passwords: Vec<_> = [in_file?, in_env?, literal?].into_iter().flatten().collect();
    passwords.sort_by_key(|password| password.span.start);
    if let [_, second, ..] = &passwords[..] {
        return Err(t.findings.mismatch(
            second.span.clone(),
            "a second password",
            "keep one of sasl_password_file, sasl_password_env and sasl_password",
        ));
    }
    let password = passwords.pop();
    if let Some(At { span, value: Secret::Literal(_) }) = &password {
        t.findings.warn(
            span.clone(),
            "a password in the file itself: whoever reads the file has it",
            "put it into a file and write sasl_password_file, or into the environment and write sasl_password_env",
        );
    }
    Ok(password)
}

fn listener<'t>(mut t: Table<'t>, folder: &Path) -> ListenerDraft<'t> {
    let name = t.required("name", r#"write name = "internal", as it shall be called in logs and metrics"#, Value::name);
    let bind = t.required("bind", r#"write bind = "0.0.0.0:9092""#, address);
    let advertised_host = t.optional("advertised_host", host);
    let offset = t.optional("broker_port_offset", |v| v.integer(0..=u64::from(u16::MAX)));
    let offset = match (offset, &bind) {
        (Ok(Some(offset)), _) => Ok(offset.map(|offset| offset as u16)),
        (Ok(None), Ok(bind)) => Ok(bind.clone().map(|_| 0)),
        _ => Err(Reported),
    };
    let told_offset = t.optional("advertised_port_offset", |v| v.integer(0..=u64::from(u16::MAX)));
    let balancers = t.optional("proxy_protocol_from", |v| each(v, load_balancer));
    let tls = server_tls(&mut t, folder);
    let sasl_mechanisms = sasl_mechanisms(&mut t, tls.as_ref().is_ok_and(Option::is_some));
    let slips = t.finish();
    ListenerDraft {
        name,
        bind,
        advertised_host: unless_misspelled(advertised_host, &slips, &["advertised_host"]).map(|host| host.map(|host| host.value)),
        broker_port_offset: offset,
        advertised_port_offset: told_offset.map(|offset| offset.map(|offset| offset.map(|offset| offset as u16))),
        proxy_protocol_from: balancers.map(|balancers| balancers.map_or_else(Vec::new, |balancers| balancers.value)),
        sasl_mechanisms: tls.as_ref().map_err(|reported| *reported).and(sasl_mechanisms),
        tls,
    }
}

/// What clients may log in with at the proxy. Without TLS whoever listens in reads a password that is sent with PLAIN.
fn sasl_mechanisms(t: &mut Table<'_>, has_tls: bool) -> Field<Vec<SaslMechanism>> {
    let known = SaslMechanism::ALL.map(|mechanism| (mechanism.name(), mechanism));
    let read = |v: Value<'_>| {
        let mut mechanisms = Vec::new();
        for v in v.strings()? {
            let mechanism = v.one_of(&known)?;
            if mechanism == SaslMechanism::Plain && !has_tls {
                let hint = r#"write security_protocol = "SSL", or leave PLAIN out: SCRAM does not send the password"#;
                v.findings.warn(v.span(), "PLAIN on a listener without TLS: whoever listens in has the password", hint);
            }
            mechanisms.push(mechanism);
        }
        Ok(mechanisms)
    };
    let safe = || SaslMechanism::ALL.into_iter().filter(|mechanism| has_tls || *mechanism != SaslMechanism::Plain).collect();
    Ok(t.optional("sasl_enabled_mechanisms", read)?.map_or_else(safe, |mechanisms| mechanisms.value))
}

/// `ssl_client_auth`: whether clients are asked for a certificate, and whether they must have one.
const CLIENT_AUTH: [(&str, Option<bool>); 3] = [("none", None), ("requested", Some(false)), ("required", Some(true))];

fn server_tls(t: &mut Table<'_>, folder: &Path) -> Field<Option<ServerTls>> {
    let protocol = t.optional("security_protocol", |v| match v.string()? {
        sasl if sasl.to_uppercase().starts_with("SASL") => {
            let hint = r#"whether clients log in is a matter of their route: write "SSL" for TLS, "PLAINTEXT" without it"#;
            Err(v.error(format!("unknown value {}", quoted(sasl)), hint))
        }
        _ => v.one_of(&[("PLAINTEXT", false), ("SSL", true)]),
    });
    let identity = identity(t, folder);
    let ca = t.optional("ssl_ca_location", |v| file_path(v, folder));
    let auth = t.optional("ssl_client_auth", |v| v.one_of(&CLIENT_AUTH));
    let protocol = protocol?;
    let (identity, ca, auth) = (identity?, ca?, auth?);

    if !protocol.as_ref().is_some_and(|protocol| protocol.value) {
        let spans = [identity.as_ref().map(|at| &at.span), ca.as_ref().map(|at| &at.span), auth.as_ref().map(|at| &at.span)];
        let Some(span) = spans.into_iter().flatten().min_by_key(|span| span.start).cloned() else { return Ok(None) };
        let message = "a key of TLS, but the listener's `security_protocol` is without TLS";
        return Err(t.missing(&["security_protocol"], span, message, r#"write security_protocol = "SSL", or drop the ssl_* keys"#));
    }
    let auth = auth.and_then(|At { span, value }| value.map(|required| At { span, value: required }));
    let client_auth = match (auth, ca) {
        (None, None) => Ok(None),
        (Some(required), Some(ca)) => Ok(Some(ClientAuth { ca: ca.value, required: required.value })),
        (Some(required), None) => {
            let hint = "write ssl_ca_location too, the PEM file of the authorities that sign the clients' certificates";
            Err(t.missing(&["ssl_ca_location"], required.span, "`ssl_client_auth` without `ssl_ca_location`", hint))
        }
        (None, Some(ca)) => {
            let hint = r#"write ssl_client_auth = "required" to ask clients for a certificate, or drop this line"#;
            Err(t.missing(&["ssl_client_auth"], ca.span, "`ssl_ca_location` has no effect: clients are not asked for certificates", hint))
        }
    };
    let Some(identity) = identity else {
        let span = protocol.map_or_else(|| t.span.clone(), |protocol| protocol.span);
        let keys = ["ssl_certificate_location", "ssl_key_location"];
        let hint = "write ssl_certificate_location and ssl_key_location, PEM files of the certificate that clients see";
        return Err(t.missing(&keys, span, "TLS without a certificate", hint));
    };
    Ok(Some(ServerTls { identity: identity.value, client_auth: client_auth? }))
}

fn admin(mut t: Table<'_>) -> Field<AdminDraft> {
    let default = |span, port| At { span, value: SocketAddr::from(([127, 0, 0, 1], port)) };
    let (bind, mirror_bind) = (t.optional("bind", address), t.optional("mirror_bind", address));
    let span = t.span.clone();
    t.finish();
    Ok(AdminDraft { bind: bind?.unwrap_or(default(span, 9190)), mirror_bind: mirror_bind?.unwrap_or(default(0..0, 9191)) })
}

fn limits(mut t: Table<'_>) -> Field<Limits> {
    const HOUR: u64 = 3_600_000;
    let mut limit =
        |key, default: u64, range: RangeInclusive<u64>| Ok(t.optional(key, |v| v.integer(range))?.map_or(default, |limit| limit.value));
    let max_connections = limit("max_connections", 10_000, 1..=1_000_000);
    let max_connections_per_ip = limit("max_connections_per_ip", 2_000, 1..=1_000_000);
    let socket_request_max_bytes = limit("socket_request_max_bytes", 100 << 20, 1024..=i32::MAX as u64);
    let queued_max_request_bytes = limit("queued_max_request_bytes", 64 << 20, 1024..=i32::MAX as u64);
    let handshake_timeout = limit("handshake_timeout_ms", 15_000, 1..=HOUR);
    let connections_max_idle = limit("connections_max_idle_ms", 600_000, 1..=7 * 24 * HOUR);
    let drain_timeout = limit("drain_timeout_ms", 30_000, 1..=HOUR);
    t.finish();
    Ok(Limits {
        max_connections: max_connections? as usize,
        max_connections_per_ip: max_connections_per_ip? as usize,
        socket_request_max_bytes: socket_request_max_bytes? as usize,
        queued_max_request_bytes: queued_max_request_bytes? as usize,
        handshake_timeout: Duration::from_millis(handshake_timeout?),
        connections_max_idle: Duration::from_millis(connections_max_idle?),
        drain_timeout: Duration::from_millis(drain_timeout?),
    })
}

fn state(mut t: Table<'_>) -> StateDraft<'_> {
    let cluster = t.required("cluster", "write the NAME of the [clusters.NAME] that is to have the log of decisions", Value::string);
    let span = t.span.clone();
    t.finish();
    StateDraft { span, cluster }
}

fn moves(mut t: Table<'_>) -> Field<At<Moves>> {
    // Far below the 30 s after which a Java client gives up a request (`request.timeout.ms`): a move that is given up must not have cost it one.
    let hold = t.optional("hold_ms", |v| v.integer(100..=10_000));
    let span = t.span.clone();
    t.finish();
    Ok(At { span, value: Moves { hold: Duration::from_millis(hold?.map_or(3000, |hold| hold.value)) } })
}

fn route<'t>(mut t: Table<'t>, folder: &Path) -> RouteDraft<'t> {
    let name = t.required("name", r#"write name = "orders", as it shall be called in logs and metrics"#, Value::name);
    let (clients, tls_subject) = clients(&mut t);
    let cluster = t.required("cluster", "write the NAME of a [clusters.NAME]", Value::string);
    let mode = t.optional("mode", |v| v.one_of(&Mode::ALL.map(|mode| (mode.name(), mode))));
    let credentials = t.optional("credentials", |v| v.table(CREDENTIALS)).and_then(|tables| match tables {
        Some(tables) => credentials(tables.value, folder),
        None => Ok(Vec::new()),
    });
    let user = |v: Value<'t>| Ok(At { span: v.span(), value: v.name()? });
    let sasl_users = t.optional("sasl_users", |v| each(v, user));
    let topics = owned(&mut t, ["topics", "topics_regex"], topic);
    let groups = owned(&mut t, ["groups", "groups_regex"], Value::text);
    let stopped = t.optional("stopped", Value::boolean);
    let slips = t.finish();
    let mode = unless_misspelled(mode, &slips, &["mode"]).map(|mode| mode.map_or(Mode::Bootstrap, |mode| mode.value));
    let sasl_users = unless_misspelled(sasl_users, &slips, &["sasl_users"]).map(|users| users.map_or_else(Vec::new, |users| users.value));
    RouteDraft { name, clients, tls_subject, cluster, mode, credentials, sasl_users, topics, groups, stopped }
}

fn credentials<'t>(clusters: Table<'t>, folder: &Path) -> Field<Vec<CredentialsDraft<'t>>> {
    let hint = "write [routes.credentials.CLUSTER] above the keys of a login, with the name of the cluster that it is for";
    let (tables, all) = by_name(clusters, CREDENTIALS, "credentials without a cluster", hint);
    let read = tables.into_iter().map(|(cluster, table)| CredentialsDraft { cluster, sasl: login(table, folder) }).collect();
    all.map(|()| read)
}

fn login(mut t: Table<'_>, folder: &Path) -> Field<Sasl> {
    let sasl = sasl(&mut t, folder, "write all three: the proxy logs in with them").and_then(|sasl| match sasl {
        Some(sasl) => Ok(sasl.value),
        None => {
            let hint = "write sasl_mechanism, sasl_username and sasl_password_file, or drop the table";
            Err(t.missing(&SECURITY, t.span.clone(), "credentials without any key", hint))
        }
    });
    t.finish();
    sasl
}

/// And where `tls_subject` is, if it is there.
fn clients(t: &mut Table<'_>) -> (Field<At<ClientMatcher>>, Option<Range<usize>>) {
    let glob = t.optional("client_id", |v| Ids::glob(v.string()?).map_err(|bad| bad_pattern(v, bad)));
    let regex = t.optional("client_id_regex", |v| Ids::regex(v.string()?).map_err(|bad| bad_pattern(v, bad)));
    let addresses = t.optional("client_address", |v| each(v, network));
    let subjects = t.optional("tls_subject", |v| each(v, tls_subject));
    let place = subjects.as_ref().ok().and_then(|subjects| Some(subjects.as_ref()?.span.clone()));
    let matcher = || {
        let ids = match (glob?, regex?) {
            (Some(ids), None) | (None, Some(ids)) => ids,
            (Some(_), Some(regex)) => {
                let hint = "keep one of them, or write two routes";
                return Err(t.findings.mismatch(regex.span, "both `client_id` and `client_id_regex`", hint));
            }
            (None, None) => {
                let hint = r#"write client_id = "orders-*", or client_id = "*" for every client, or client_id_regex"#;
                return Err(t.missing(&["client_id", "client_id_regex"], t.span.clone(), "missing key `client_id`", hint));
            }
        };
        let (addresses, subjects) = (addresses?.map(|addresses| addresses.value), subjects?.map(|subjects| subjects.value));
        Ok(ids.map(|ids| ClientMatcher::new(ids, addresses.as_deref(), subjects.as_deref())))
    };
    (matcher(), place)
}

/// One value or several, all errors of them.
fn each<'t, T>(value: Value<'t>, read: impl FnMut(Value<'t>) -> Field<T>) -> Field<Vec<T>> {
    value.strings()?.into_iter().map(read).collect::<Vec<_>>().into_iter().collect()
}

/// The subject of a certificate, as Kafka writes it. What is written in another way would never match.
fn tls_subject(value: Value<'_>) -> Field<String> {
    let text = value.text()?;
    // A space behind a comma is how OpenSSL and people write it, and an escaped one is a part of a value.
    let spaced = text.replace("\\,", "").contains(", ");
    if !text.contains('=') || spaced || text.starts_with('/') {
        let hint =
            r#"write it as Kafka names the principal, less "User:", without spaces between its parts: "CN=orders,OU=shop,O=Example,C=DE""#;
        return Err(value.error(format!("{} is not a subject as Kafka writes it", quoted(text)), hint));
    }
    Ok(text.to_owned())
}

/// A network, or one address.
fn network(value: Value<'_>) -> Field<IpNet> {
    let text = value.text()?;
    if let Ok(address) = text.parse() {
        return Ok(IpNet::from(std::net::IpAddr::to_canonical(&address)));
    }
    match text.parse::<IpNet>() {
        Ok(network) if network == network.trunc() => Ok(network),
        Ok(network) => {
            let hint = format!(
                "write {} for the network, or {} for the one address",
                quoted(&network.trunc().to_string()),
                quoted(&network.addr().to_string())
            );
            Err(value.error(format!("{} has bits behind its prefix", quoted(text)), hint))
        }
        Err(_) => Err(value.error(
            format!("{} is not an address or network", quoted(text)),
            r#"write "10.1.2.3", "10.1.0.0/16" or "fd00:1::/32"; names of hosts are not looked up"#,
        )),
    }
}

/// Where connections come from that say on whose behalf.
fn load_balancer(value: Value<'_>) -> Field<IpNet> {
    let network = network(value)?;
    if network.prefix_len() == 0 {
        let hint = "write the addresses of the load balancers only: with this, whoever reaches the listener may call itself any address";
        value.findings.warn(value.span(), "every address may say which address its client has", hint);
    }
    Ok(network)
}

/// A path, from the folder of the file on.
fn file_path(value: Value<'_>, folder: &Path) -> Field<PathBuf> {
    value.text().map(|path| folder.join(path))
}

/// `first-last`, or one number.
fn range(value: Value<'_>, within: RangeInclusive<u32>) -> Field<RangeInclusive<u32>> {
    let text = value.string()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first > last => {
            Err(value.error(format!("{} ends before it starts", quoted(text)), format!("write {}", quoted(&format!("{last}-{first}")))))
        }
        (Ok(first), Ok(last)) if within.contains(&first) && within.contains(&last) => Ok(first..=last),
        _ => Err(value.error(
            format!("{} is not a range", quoted(text)),
            format!(r#"write the first and the last, from {} to {}, like "1001-1050""#, within.start(), within.end()),
        )),
    }
}

/// The real node ids of a cluster's brokers.
fn node_ids(value: Value<'_>) -> Field<RangeInclusive<u32>> {
    let ids = range(value, 0..=i32::MAX as u32)?;
    let (last, greatest) = (*ids.end(), NODE_IDS as u32 - 1);
    if last > greatest {
        let hint = "a relayed client sees the cluster's `id` and then the node id in seven digits: brokers with more cannot be relayed to";
        return Err(value.error(format!("node id {last} is greater than {greatest}"), hint));
    }
    Ok(ids)
}

/// An address to listen on.
fn address(value: Value<'_>) -> Field<SocketAddr> {
    let text = value.string()?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let hint = match text.rsplit_once(':') {
        _ if text.parse::<std::net::IpAddr>().is_ok() => {
            format!("add the port: {}", quoted(&if text.contains(':') { format!("[{text}]:9092") } else { format!("{text}:9092") }))
        }
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("write {} for every address of this machine", quoted(&format!("0.0.0.0:{port}")))
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            format!("write an address, not a name: {} or {}", quoted(&format!("127.0.0.1:{port}")), quoted(&format!("0.0.0.0:{port}")))
        }
        _ => r#"write an address and a port from 0 to 65535: "127.0.0.1:9092", "0.0.0.0:9092" or "[::]:9092""#.to_owned(),
    };
    Err(value.error(format!("{} is not an address to listen on", quoted(text)), hint))
}

/// A host without a port.
fn host(value: Value<'_>) -> Field<String> {
    let text = value.text()?;
    match host_port(text) {
        Ok(with_port) => Err(value.error(
            format!("{} has a port", quoted(text)),
            format!("write {}: the ports are those of broker_ports", quoted(&with_port.host)),
        )),
        Err(_) if is_host(text) => Ok(text.to_owned()),
        Err(_) => Err(value.error(format!("{} is not a host", quoted(text)), r#"write a DNS name or an address, like "kafka.internal""#)),
    }
}

/// `host:port`, separated by commas.
fn host_ports(value: Value<'_>) -> Field<Vec<HostPort>> {
    let text = value.text()?;
    let mut servers = Vec::new();
    let mut failed = None;
    let mut start = 0;
    for server in text.split(',') {
        let trimmed = server.trim();
        let at = start + (server.len() - server.trim_start().len());
        match host_port(trimmed) {
            Ok(server) => servers.push(server),
            Err((message, hint)) => failed = Some(value.findings.error(value.part(at..at + trimmed.len()), message, hint)),
        }
        start += server.len() + 1;
    }
    failed.map_or(Ok(servers), Err)
}

/// Kafka's `host:port`, or what is wrong with it and what to do.
fn host_port(text: &str) -> Result<HostPort, (String, String)> {
    let not = || format!("{} is not a host and port", quoted(text));
    if text.is_empty() {
        return Err(("an empty server".to_owned(), "drop the comma".to_owned()));
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err((not(), format!("write {} and, for TLS, security_protocol", quoted(rest))));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || (host.starts_with('[') && host.ends_with(']')) => (host, port),
        None if is_host(text) => {
            return Err((format!("{} has no port", quoted(text)), format!("write {}", quoted(&format!("{text}:9092")))));
        }
        _ if text.parse::<std::net::Ipv6Addr>().is_ok() => return Err((not(), format!("write {}", quoted(&format!("[{text}]:9092"))))),
        _ => return Err((not(), r#"write "host:port""#.to_owned())),
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 => port,
        _ => return Err((not(), "write a port from 1 to 65535 behind the colon".to_owned())),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if is_host(host) {
        Ok(HostPort { host: host.to_owned(), port })
    } else {
        Err((not(), "write a DNS name or an address before the colon".to_owned()))
    }
}

fn is_host(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || (!text.is_empty() && text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_')))
}

/// The keys of each kind of table, by its header as the reference writes it, such as `[limits]`: what the documents must have.
pub fn keys() -> std::collections::BTreeMap<&'static str, Vec<&'static str>> {
    let text =
        "[clusters.a]\n[[listeners]]\n[[routes]]\n[routes.credentials.a]\n[users.a]\n[[mirrors]]\n[[mirrors.rename_regex]]\n[state]\n";
    let lines = Lines::new(text);
    let (root, _) = syntax::parse(text, &lines);
    let findings = Findings::new(text, &lines, false);
    file(&findings, root.get_ref(), Path::new(""));
    findings.keys()
}
