//! The exact texts that an operator reads, and what must hold for every text. Here are the whole files; the parts are in files of their own.

mod addresses;
mod mirrors;
mod moves;
mod owners;
mod relay;
mod routes;
mod schema;
mod security;
mod text;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use proptest::prelude::*;

use self::addresses::PORTS;
use crate::diagnostic::{self, Diagnostic, Invalid, Severity};
use crate::{Config, Mode};

/// As short as a file can be.
const VALID: &str = r#"[clusters.legacy]
id = 1
bootstrap_servers = "127.0.0.1:19092"

[clusters.new]
id = 2
bootstrap_servers = "127.0.0.1:29092"

[[listeners]]
name = "internal"
bind = "127.0.0.1:9092"

[[routes]]
name = "orders"
client_id = "orders-*"
cluster = "new"

[[routes]]
name = "everybody-else"
client_id = "*"
cluster = "legacy"
"#;

fn read(text: &str) -> Result<Config, Invalid> {
    Config::parse(text, Path::new("routes.toml"))
}

fn parse(text: &str) -> Config {
    read(text).unwrap()
}

fn refused(text: &str) -> Invalid {
    read(text).unwrap_err()
}

fn errors(text: &str) -> String {
    refused(text).to_string()
}

/// The file has one error, which begins with a message, and of whose hint this is a part.
#[track_caller]
fn one_error(text: &str, message: &str, hint: &str) {
    let errors = refused(text).errors;
    let is_it = |error: &Diagnostic| error.message.starts_with(message) && error.hint.as_deref().unwrap_or_default().contains(hint);
    assert!(errors.len() == 1 && is_it(&errors[0]), "{errors:#?}");
}

/// The errors of the valid file after an edit of its first `from`.
fn errors_after(from: &str, to: &str) -> String {
    errors(&edited(from, to))
}

fn edited(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from}");
    VALID.replacen(from, to, 1)
}

fn warnings(text: &str) -> String {
    let path = Path::new("routes.toml");
    diagnostic::render(path, text, Severity::Warning, &parse(text).warnings, false)
}

#[test]
fn the_shortest_file() {
    let config = parse(VALID);
    assert_eq!(config.warnings, []);
    assert_snapshot!(format!("{config:#?}"));
}

#[test]
fn every_key() {
    let text = r#"
[clusters.legacy]
id = 1
bootstrap_servers = "legacy-1:9092, [fd00::1]:9092"
node_ids = "1001-1050"
broker_ports = "9100-9149"

[clusters.new]
id = 2
bootstrap_servers = "new-1:9093"
node_ids = "1-50"
broker_ports = "9150-9199"
security_protocol = "SASL_SSL"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "kferry"
sasl_password_file = "/run/secrets/new"
ssl_ca_location = "ca.pem"
ssl_certificate_location = "kferry.pem"
ssl_key_location = "kferry.key"
ssl_endpoint_identification_algorithm = "none"

[[listeners]]
name = "internal"
bind = "0.0.0.0:9092"
advertised_host = "kafka.internal"

[[listeners]]
name = "external"
bind = "0.0.0.0:9093"
advertised_host = "kafka.example.com"
broker_port_offset = 1000
advertised_port_offset = 21_000
proxy_protocol_from = ["10.9.0.0/24", "fd00:9::7"]
security_protocol = "SSL"
ssl_certificate_location = "proxy.pem"
ssl_key_location = "proxy.key"
ssl_ca_location = "clients.pem"
ssl_client_auth = "required"
sasl_enabled_mechanisms = ["SCRAM-SHA-512", "PLAIN"]

[users.billing-app]
sasl_password_file = "/run/secrets/billing-app"

[users.auditor]
sasl_password_env = "AUDITOR"

[admin]
bind = "127.0.0.1:9080"
mirror_bind = "127.0.0.1:9081"

[limits]
max_connections = 100
max_connections_per_ip = 10
socket_request_max_bytes = 1_048_576
queued_max_request_bytes = 2_097_152
handshake_timeout_ms = 1000
connections_max_idle_ms = 2000
drain_timeout_ms = 3000

[[routes]]
name = "orders"
client_id = "orders-*"
client_address = ["10.1.0.0/16", "::1"]
cluster = "legacy"
mode = "relay"
topics = "order-*"
topics_regex = ["orders|users"]
groups = ["orders-*", "users-{a,b}"]
groups_regex = "team-[0-9]+"

[routes.credentials.new]
sasl_mechanism = "PLAIN"
sasl_username = "orders"
sasl_password_env = "ORDERS_PASSWORD"

[[routes]]
name = "billing"
client_id = "billing-*"
tls_subject = ["CN=billing,OU=shop", "CN=invoices"]
cluster = "new"
mode = "relay"
sasl_users = ["billing-app", "auditor"]

[routes.credentials.new]
sasl_mechanism = "OAUTHBEARER"
sasl_oauthbearer_token_file = "/run/secrets/token"

[[routes]]
name = "payments"
client_id_regex = "payments-[0-9]+"
client_address = "10.2.3.4"
cluster = "new"
mode = "bootstrap"
stopped = true

[[routes]]
name = "everybody-else"
client_id = "*"
cluster = "legacy"

[[mirrors]]
name = "legacy-to-new"
source = "legacy"
target = "new"
topics_regex = ".*"

[state]
cluster = "new"

[moves]
hold_ms = 2000
"#;
    let config = Config::parse(text, Path::new("/etc/kferry/routes.toml")).unwrap();
    assert_eq!(config.warnings, []);
    assert_snapshot!(format!("{config:#?}"));
}

/// The one of the documentation: its clusters do TLS and not, and its admin port is one of 50 brokers that there may be.
#[test]
fn the_file_that_all_of_it_started_with() {
    let text = r#"
[clusters.legacy]
id = 1                                 # stable, small, unique: virtual node ids and producer ids are told apart by it
bootstrap_servers = "legacy-1:9092,legacy-2:9092"
node_ids = "1001-1050"                 # relay mode: the brokers that may exist, one port each: node 1001 is port 9100
broker_ports = "9100-9149"

[clusters.new]
id = 2
bootstrap_servers = "new-1:9093"
node_ids = "1-50"
broker_ports = "9150-9199"
security_protocol = "SASL_SSL"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "kferry"
sasl_password_file = "/run/secrets/new" # or sasl_password, or sasl_password_env
ssl_ca_location = "/etc/kferry/ca.pem"

[[listeners]]
name = "internal"
bind = "0.0.0.0:9092"
advertised_host = "kafka.internal"     # a second listener adds broker_port_offset = 1000

[admin]
bind = "127.0.0.1:9190"

[[routes]]
name = "orders"
client_id = "orders-*"                 # a glob; or client_id_regex; optionally client_address = "10.1.0.0/16"
cluster = "new"
mode = "bootstrap"

[[routes]]
name = "everybody-else"
client_id = "*"                        # also clients without a client.id
cluster = "legacy"
"#;
    assert_snapshot!(warnings(text), @r#"
    warning: port 9190 of [admin] is a broker's port of cluster "new"
      --> routes.toml:25:8
       |
    25 | bind = "127.0.0.1:9190"
       |        ^^^^^^^^^^^^^^^^
       |
       = help: 9150-9199 are the brokers' in relay mode, from broker_ports: write another port

    warning: every listener is PLAINTEXT, but cluster "new" is SASL_SSL
      --> routes.toml:30:11
       |
    30 | cluster = "new"
       |           ^^^^^
       |
       = help: in bootstrap mode a client goes on to the real brokers with the settings that it used here, so both must do TLS or neither: add a listener with security_protocol = "SSL", or write bootstrap_servers where the brokers are PLAINTEXT too

    routes.toml: 2 warnings
    "#);
    let config = parse(text);
    for (client_id, cluster) in [("orders-1", "new"), ("payments", "legacy"), ("", "legacy")] {
        assert_eq!(&*config.route(client_id, [10, 0, 0, 1].into(), None).unwrap().cluster.name, cluster);
    }
}

/// No slip of two dozen hides another, and none is told twice.
#[test]
fn every_error_at_once() {
    let text = r#"[clusters.legacy]
id = 0
bootstrap.servers = "legacy-1:9092"
node_ids = "1001-1050"

[clusters.new]
id = "2"
bootstrap_servers = "new-1,new-2:9093:x"
security_protocol = "SASL-SSL"
ssl_ca_location = 7

[clusters.third]
id = 2
bootstrap_servers = "third-1:9092"
sasl_username = "kferry"

[[listeners]]
name = "internal"
bind = "localhost:9092"

[[listeners]]
name = "internal"
bind = "0.0.0.0:9190"
ssl_client_auth = "maybe"

[limits]
max_conections = 10
handshake_timeout_ms = 0

[[routes]]
name = "orders"
client_id = "orders-[*"
cluster = "new"
mode = "relais"

[[routes]]
name = "orders"
client_id_regex = "("
cluster = "nwe"

[[routes]]
name = "all"
client_id = "*"
cluster = "legacy"

[[routes]]
name = "late"
client_id = "late-*"
client_address = "10.0.0.1/8"
max_connections = 7

[[routes]]
name = "latest"
client_id = "late-*"
cluster = "third"
"#;
    assert_snapshot!(errors(text));
}

#[test]
fn limits() {
    let limits = |keys: &str| errors(&format!("{VALID}\n[limits]\n{keys}"));
    assert_snapshot!(limits("max_connections = 0\nsocket_request_max_bytes = \"104857600\"\nidle_timeout = 5\nhandshake_timeout_ms = 99999999999999999999\n"), @r#"
    error: 0 is out of range
      --> routes.toml:24:19
       |
    24 | max_connections = 0
       |                   ^
       |
       = help: write a number from 1 to 1000000

    error: expected an integer, found a string
      --> routes.toml:25:28
       |
    25 | socket_request_max_bytes = "104857600"
       |                            ^^^^^^^^^^^
       |
       = help: write the number without quotes

    error: unknown key `idle_timeout`
      --> routes.toml:26:1
       |
    26 | idle_timeout = 5
       | ^^^^^^^^^^^^
       |
       = help: the keys here are max_connections, max_connections_per_ip, socket_request_max_bytes, queued_max_request_bytes, handshake_timeout_ms, connections_max_idle_ms, drain_timeout_ms

    error: 99999999999999999999 is out of range
      --> routes.toml:27:24
       |
    27 | handshake_timeout_ms = 99999999999999999999
       |                        ^^^^^^^^^^^^^^^^^^^^
       |
       = help: write a number from 1 to 3600000

    routes.toml: 4 errors
    "#);
}

#[test]
fn what_is_allowed_and_probably_not_meant() {
    assert_snapshot!(warnings(&edited("cluster = \"new\"", "cluster = \"legacy\"")), @r#"
    warning: no route leads to cluster "new"
     --> routes.toml:5:11
      |
    5 | [clusters.new]
      |           ^^^
      |
      = help: write a route with it, or drop it

    routes.toml: 1 warning
    "#);
    assert_snapshot!(warnings(&edited("id = 2", "id = 2\nsecurity_protocol = \"SASL_SSL\"")), @r#"
    warning: every listener is PLAINTEXT, but cluster "new" is SASL_SSL
      --> routes.toml:17:11
       |
    17 | cluster = "new"
       |           ^^^^^
       |
       = help: in bootstrap mode a client goes on to the real brokers with the settings that it used here, so both must do TLS or neither: add a listener with security_protocol = "SSL", or write bootstrap_servers where the brokers are PLAINTEXT too

    routes.toml: 1 warning
    "#);
    let tls = "bind = \"127.0.0.1:9092\"\nsecurity_protocol = \"SSL\"\nssl_certificate_location = \"a.pem\"\nssl_key_location = \"a.key\"";
    assert_snapshot!(warnings(&edited("bind = \"127.0.0.1:9092\"", tls)), @r#"
    warning: every listener is SSL, but cluster "new" is PLAINTEXT
      --> routes.toml:19:11
       |
    19 | cluster = "new"
       |           ^^^^^
       |
       = help: in bootstrap mode a client goes on to the real brokers with the settings that it used here, so both must do TLS or neither: add a listener with security_protocol = "PLAINTEXT", or write bootstrap_servers where the brokers are SSL too

    warning: every listener is SSL, but cluster "legacy" is PLAINTEXT
      --> routes.toml:24:11
       |
    24 | cluster = "legacy"
       |           ^^^^^^^^
       |
       = help: in bootstrap mode a client goes on to the real brokers with the settings that it used here, so both must do TLS or neither: add a listener with security_protocol = "PLAINTEXT", or write bootstrap_servers where the brokers are SSL too

    routes.toml: 2 warnings
    "#);
    let both = edited("bind = \"127.0.0.1:9092\"", &format!("{tls}\n\n[[listeners]]\nname = \"plain\"\nbind = \"127.0.0.1:9093\""));
    assert_eq!(parse(&both).warnings, []);
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_example_loads_without_warnings() {
    let config = Config::load(&workspace().join("routes.toml")).unwrap();
    assert_eq!(config.warnings, []);
    let servers: Vec<_> = config.clusters.iter().map(|cluster| (&*cluster.name, cluster.bootstrap_servers[0].to_string())).collect();
    assert_eq!(servers, [("legacy", "127.0.0.1:19092".to_owned()), ("new", "127.0.0.1:29092".to_owned())]);
    assert_eq!(
        (config.listeners[0].bind.to_string(), config.admin.bind.to_string()),
        ("127.0.0.1:9092".to_owned(), "127.0.0.1:9190".to_owned())
    );
}

/// What is commented out in the example is right as well.
#[test]
fn the_example_loads_with_its_comments_switched_on() {
    let text = std::fs::read_to_string(workspace().join("routes.toml")).unwrap();
    let on: String = text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).flat_map(|line| [line, "\n"]).collect();
    assert_ne!(on.len(), text.len(), "the example has no keys in comments");
    let config = parse(&on);
    assert_eq!(config.warnings, []);
    assert_eq!(config.clusters[1].security.protocol(), "SASL_SSL");
    let billing = config.route("billing-1", [10, 3, 0, 1].into(), None).unwrap();
    assert_eq!((billing.mode, billing.credentials["new"].who()), (Mode::Relay, "user 'billing'".to_owned()));
    assert!(config.owner_of_topic("invoices").is_some_and(|owner| owner.name == billing.name));
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let text = std::fs::read_to_string(workspace().join("docs/routes.md")).unwrap();
    for (kind, keys) in crate::keys() {
        if kind == "the file" {
            continue;
        }
        let section =
            text.split("\n## ").find(|section| section.starts_with(&format!("`{kind}`"))).unwrap_or_else(|| panic!("no section {kind}"));
        let mut described: Vec<_> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key).collect();
        let mut keys = keys;
        described.sort_unstable();
        keys.sort_unstable();
        assert_eq!(described, keys, "{kind}");
    }
}

/// The examples of the reference, one after the other, are a file: one for each example of routes.
#[test]
fn the_examples_of_the_reference_load() {
    let text = std::fs::read_to_string(workspace().join("docs/routes.md")).unwrap();
    let examples: Vec<_> = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 5, "{examples:?}");
    let (routes, rest): (Vec<_>, Vec<_>) = examples.into_iter().partition(|example| example.starts_with("[[routes]]"));
    assert_eq!(routes.len(), 3);
    for routes in routes {
        assert_eq!(parse(&format!("{}\n{routes}", rest.join("\n"))).warnings, []);
    }
}

/// A thousand teams with a route each, of which some begin alike and some with a star. Generous, because the machines of CI are slow and the
/// build is not a release: what it catches is a walk over all pairs of DFAs, which takes minutes.
#[test]
fn a_thousand_routes_load_in_a_moment() {
    let mut text = VALID[..VALID.find("[[routes]]").unwrap()].to_owned();
    for n in 0..1000 {
        let clients = match n % 4 {
            0 => format!("client_id = 'team-{n}-*'"),
            1 => format!("client_id = '*-{n}'"),
            2 => format!("client_id_regex = 'app-{n}(-[0-9a-z]+)?'"),
            _ => format!("client_id = '{{a,b}}?-{n}-*'"),
        };
        let cluster = if n % 2 == 0 { "new" } else { "legacy" };
        writeln!(text, "[[routes]]\nname = \"route-{n}\"\n{clients}\ncluster = \"{cluster}\"").unwrap();
    }
    let started = Instant::now();
    assert_eq!(parse(&text).routes.len(), 1000);
    let took = started.elapsed();
    println!("{took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");

    // So many errors are no trouble either.
    let started = Instant::now();
    let text = errors(&text.replacen("'team-0-*'", "'*'", 1));
    assert!(text.ends_with("routes.toml: 999 errors"), "{}", &text[text.len() - 100..]);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

/// Every error is about a place in the text, and can be shown.
fn is_sound(text: &str) -> Result<(), TestCaseError> {
    if let Err(invalid) = read(text) {
        prop_assert!(!invalid.errors.is_empty());
        for error in &invalid.errors {
            prop_assert!(invalid.text.get(error.span.clone()).is_some(), "{:?}", error);
            prop_assert!(!error.message.contains('\n') && !error.message.ends_with('.'), "{:?}", error);
            prop_assert!(error.hint.is_some(), "{:?}", error);
        }
        prop_assert!(invalid.errors.is_sorted_by_key(|error| error.span.start));
        let shown = invalid.to_string();
        for error in &invalid.errors {
            prop_assert!(shown.contains(error.message.as_str()) || error.message.contains(char::is_control), "{:?}", error);
        }
    }
    Ok(())
}

/// What a parser of TOML recovers from a text may be cut anywhere.
#[test]
fn a_key_behind_a_character_of_several_bytes() {
    is_sound("a.…b.c = 1\n").unwrap();
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}|[\\[\\]a-c.=\"'{}\\\\# \n\r\t0-9,]{0,120}") {
        is_sound(&text)?;
    }

    #[test]
    fn no_edit_of_a_file_panics(at in 0..PORTS.len(), dropped in 0..30_usize, put in "[\\[\\]a-z.=\"'{}\\\\# \n\r\t0-9,é-]{0,12}") {
        let end = (at + dropped).min(PORTS.len());
        is_sound(&format!("{}{put}{}", &PORTS[..at], &PORTS[end..]))?;
    }

    /// Any value instead of any other.
    #[test]
    fn no_value_panics(line in 0..PORTS.lines().count(), value in "-?[0-9]{1,30}|\"[ -!#-~]{0,30}\"|true|1e9|2026-01-01|\\[\"a\", 1\\]|\\{ a = 1 \\}|\"\\\\u[0-9]{4}\"") {
        let edited: String = PORTS.lines().enumerate().map(|(number, text)| match text.split_once(" = ") {
            Some((key, _)) if number == line => format!("{key} = {value}\n"),
            _ => format!("{text}\n"),
        }).collect();
        is_sound(&edited)?;
    }
}
