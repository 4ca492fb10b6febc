//! Hosts and ports, and who wants the same ones.

use insta::assert_snapshot;

use super::{edited, errors, errors_after, parse, read, warnings};
use crate::Config;
use crate::diagnostic::Invalid;

#[test]
fn bootstrap_servers() {
    for (servers, hint) in [
        ("new-1", "write \"new-1:9092\""),
        ("new-1:0", "write a port from 1 to 65535 behind the colon"),
        ("new-1:65536", "write a port from 1 to 65535 behind the colon"),
        ("SASL_SSL://new-1:9093", "write \"new-1:9093\" and, for TLS, security_protocol"),
        ("new-1:9092,", "drop the comma"),
        ("fd00::1", "write \"[fd00::1]:9092\""),
        ("new 1:9092", "write a DNS name or an address before the colon"),
        (":9092", "write a DNS name or an address before the colon"),
        ("", "write a value, or drop the line"),
    ] {
        let text = errors_after("127.0.0.1:29092", servers);
        assert!(text.contains(&format!("= help: {hint}\n")) && text.ends_with("routes.toml: 1 error"), "{text}");
    }
    assert_snapshot!(errors_after("127.0.0.1:29092", "new-1:9092, new-2, new-3:9092:9093"), @r#"
    error: "new-2" has no port
     --> routes.toml:7:34
      |
    7 | bootstrap_servers = "new-1:9092, new-2, new-3:9092:9093"
      |                                  ^^^^^
      |
      = help: write "new-2:9092"

    error: "new-3:9092:9093" is not a host and port
     --> routes.toml:7:41
      |
    7 | bootstrap_servers = "new-1:9092, new-2, new-3:9092:9093"
      |                                         ^^^^^^^^^^^^^^^
      |
      = help: write "host:port"

    routes.toml: 2 errors
    "#);
    assert_snapshot!(errors_after("\"127.0.0.1:29092\"", "[\"new-1:9092\"]"), @r#"
    error: expected a string, found an array
     --> routes.toml:7:21
      |
    7 | bootstrap_servers = ["new-1:9092"]
      |                     ^^^^^^^^^^^^^^
      |
      = help: write one string; where it is a list, with commas in it

    routes.toml: 1 error
    "#);
}

#[test]
fn node_ids_and_broker_ports() {
    let brokers = |ids: &str, ports: &str| errors_after("id = 2", &format!("id = 2\nnode_ids = {ids}\nbroker_ports = {ports}"));
    assert_snapshot!(brokers("\"1-50\"", "\"9100-9139\""), @r#"
    error: 40 ports for 50 node ids
     --> routes.toml:8:16
      |
    8 | broker_ports = "9100-9139"
      |                ^^^^^^^^^^^
      |
      = help: each node id has one port: write "9100-9149"

    routes.toml: 1 error
    "#);
    assert_snapshot!(brokers("\"50-1\"", "\"9100\""), @r#"
    error: "50-1" ends before it starts
     --> routes.toml:7:12
      |
    7 | node_ids = "50-1"
      |            ^^^^^^
      |
      = help: write "1-50"

    routes.toml: 1 error
    "#);
    assert_snapshot!(brokers("\"1-2\"", "\"65535-65536\""), @r#"
    error: "65535-65536" is not a range
     --> routes.toml:8:16
      |
    8 | broker_ports = "65535-65536"
      |                ^^^^^^^^^^^^^
      |
      = help: write the first and the last, from 1 to 65535, like "1001-1050"

    routes.toml: 1 error
    "#);
    assert_snapshot!(brokers("\"a-b\"", "9100"), @r#"
    error: "a-b" is not a range
     --> routes.toml:7:12
      |
    7 | node_ids = "a-b"
      |            ^^^^^
      |
      = help: write the first and the last, from 0 to 2147483647, like "1001-1050"

    error: expected a string, found an integer
     --> routes.toml:8:16
      |
    8 | broker_ports = 9100
      |                ^^^^
      |
      = help: write it in quotes

    routes.toml: 2 errors
    "#);
    assert_snapshot!(errors_after("id = 2", "id = 2\nnode_ids = \"1-50\""), @r#"
    error: `node_ids` without `broker_ports`
     --> routes.toml:7:12
      |
    7 | node_ids = "1-50"
      |            ^^^^^^
      |
      = help: write broker_ports too, 50 ports that are free: "9100-9149" are 50

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors_after("id = 2", "id = 2\nbroker_ports = \"9100-9149\""), @r#"
    error: `broker_ports` without `node_ids`
     --> routes.toml:7:16
      |
    7 | broker_ports = "9100-9149"
      |                ^^^^^^^^^^^
      |
      = help: write node_ids too, the 50 that brokers may have: "1-50" are 50

    routes.toml: 1 error
    "#);
    // One slip, one error.
    assert_snapshot!(errors_after("id = 2", "id = 2\nnode_ids = \"1-50\"\nbroker_port = \"9100-9149\""), @r#"
    error: unknown key `broker_port`
     --> routes.toml:8:1
      |
    8 | broker_port = "9100-9149"
      | ^^^^^^^^^^^
      |
      = help: did you mean `broker_ports`?

    routes.toml: 1 error
    "#);
}

pub(crate) const PORTS: &str = r#"[clusters.legacy]
id = 1
bootstrap_servers = "legacy-1:9092"
node_ids = "1-50"
broker_ports = "9100-9149"

[clusters.new]
id = 2
bootstrap_servers = "new-1:9092"
node_ids = "1-50"
broker_ports = "9200-9249"

[[listeners]]
name = "internal"
bind = "0.0.0.0:9092"

[[listeners]]
name = "external"
bind = "127.0.0.1:9093"
broker_port_offset = 1000

[[routes]]
name = "new"
client_id = "new-*"
cluster = "new"

[[routes]]
name = "legacy"
client_id = "*"
cluster = "legacy"
"#;

fn ports_after(from: &str, to: &str) -> Result<Config, Invalid> {
    assert!(PORTS.contains(from), "{from}");
    read(&PORTS.replacen(from, to, 1))
}

#[test]
fn ports_that_are_free() {
    assert_eq!(parse(PORTS).warnings, []);
    // Other addresses, or whichever port is free.
    assert!(ports_after("0.0.0.0:9092", "127.0.0.2:9093").is_ok());
    assert!(ports_after("bind = \"0.0.0.0:9092\"", "bind = \"127.0.0.2:9092\"\nbroker_port_offset = 1000").is_ok());
    assert!(ports_after("0.0.0.0:9092", "0.0.0.0:0").and_then(|_| ports_after("127.0.0.1:9093", "127.0.0.1:0")).is_ok());
}

#[test]
fn ports_that_two_sockets_want() {
    let errors = |from, to| ports_after(from, to).unwrap_err().to_string();
    assert_snapshot!(errors("9200-9249", "9140-9189"), @r#"
    error: ports of cluster "new" overlap those of "legacy"
      --> routes.toml:11:16
       |
    11 | broker_ports = "9140-9189"
       |                ^^^^^^^^^^^
       |
       = help: 9100-9149 in line 5 are taken: write others, as in "9190-9239"

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("broker_port_offset = 1000", "broker_port_offset = 40"), @r#"
    error: brokers' ports of this listener overlap those of listener "internal"
      --> routes.toml:20:22
       |
    20 | broker_port_offset = 40
       |                      ^^
       |
       = help: 9100-9149 are the brokers of cluster "legacy" there: write broker_port_offset = 1000

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("broker_port_offset = 1000", ""), @r#"
    error: brokers' ports of this listener overlap those of listener "internal"
      --> routes.toml:19:8
       |
    19 | bind = "127.0.0.1:9093"
       |        ^^^^^^^^^^^^^^^^
       |
       = help: 9100-9149 are the brokers of cluster "legacy" there: write broker_port_offset = 1000

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("broker_port_offset = 1000", "broker_port_offset = 57000"), @r#"
    error: with this offset the ports of cluster "legacy" end at 66149, past 65535
      --> routes.toml:20:22
       |
    20 | broker_port_offset = 57000
       |                      ^^^^^
       |
       = help: write at most 56386

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("127.0.0.1:9093", "127.0.0.1:9092"), @r#"
    error: 127.0.0.1:9092 is taken by listener "internal"
      --> routes.toml:19:8
       |
    19 | bind = "127.0.0.1:9092"
       |        ^^^^^^^^^^^^^^^^
       |
       = help: it has 0.0.0.0:9092 in line 15: write another port

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("0.0.0.0:9092", "[::]:9093"), @r#"
    error: 127.0.0.1:9093 is taken by listener "internal"
      --> routes.toml:19:8
       |
    19 | bind = "127.0.0.1:9093"
       |        ^^^^^^^^^^^^^^^^
       |
       = help: it has [::]:9093 in line 15: write another port

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("0.0.0.0:9092", "0.0.0.0:9190"), @r#"
    error: 0.0.0.0:9190 is taken by [admin]
      --> routes.toml:15:8
       |
    15 | bind = "0.0.0.0:9190"
       |        ^^^^^^^^^^^^^^
       |
       = help: it has 127.0.0.1:9190 by default: write another port

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors("[[routes]]", "[admin]\nbind = \"[::]:9092\"\n\n[[routes]]"), @r#"
    error: [::]:9092 is taken by listener "internal"
      --> routes.toml:23:8
       |
    23 | bind = "[::]:9092"
       |        ^^^^^^^^^^^
       |
       = help: it has 0.0.0.0:9092 in line 15: write another port

    routes.toml: 1 error
    "#);
}

/// Ports that are mapped between clients and the proxy.
#[test]
fn ports_that_clients_are_told() {
    let with = |offset: &str| format!("broker_port_offset = 1000\nadvertised_port_offset = {offset}");
    let after = |offset: &str| ports_after("broker_port_offset = 1000", &with(offset));
    let told = |config: &Config| config.listeners.iter().map(|listener| listener.advertised_port_offset).collect::<Vec<_>>();
    assert_eq!(told(&parse(PORTS)), [0, 1000], "the ports that the proxy listens on");
    assert_eq!(told(&after("21000").unwrap()), [0, 21_000]);
    // Those of the other listener, under another address.
    assert_eq!(after("0").unwrap().warnings, []);
    assert_snapshot!(after("56300").unwrap_err().to_string(), @r#"
    error: clients would be told ports of cluster "new" up to 65549, past 65535
      --> routes.toml:21:26
       |
    21 | advertised_port_offset = 56300
       |                          ^^^^^
       |
       = help: write at most 56286

    routes.toml: 1 error
    "#);
    // The new cluster's at the one are where the other one's legacy brokers are.
    let one_name = PORTS.replacen("bind = \"0.0.0.0:9092\"", "bind = \"0.0.0.0:9092\"\nadvertised_host = \"kafka.internal\"", 1).replacen(
        "broker_port_offset = 1000",
        "broker_port_offset = 1000\nadvertised_host = \"kafka.internal\"",
        1,
    );
    assert_eq!(parse(&one_name).warnings, []);
    assert_snapshot!(warnings(&one_name.replacen("broker_port_offset = 1000", &with("100"), 1)), @r#"
    warning: clients of listeners "internal" and "external" are told the same addresses of brokers
      --> routes.toml:22:26
       |
    22 | advertised_port_offset = 100
       |                          ^^^
       |
       = help: kafka.internal:9200-9249 is where clients of listener "internal" are sent: write another advertised_port_offset, unless that name is another address for the others

    routes.toml: 1 warning
    "#);
}

#[test]
fn load_balancers_that_tell_where_clients_are() {
    let listener = |key: &str| edited("bind = \"127.0.0.1:9092\"", &format!("bind = \"127.0.0.1:9092\"\n{key}"));
    assert_eq!(parse(&listener("proxy_protocol_from = \"10.9.0.0/24\"")).warnings, []);
    assert_snapshot!(errors(&listener("proxy_protocol_from = [\"balancer.internal\", \"10.9.0.1/24\"]")), @r#"
    error: "balancer.internal" is not an address or network
      --> routes.toml:12:24
       |
    12 | proxy_protocol_from = ["balancer.internal", "10.9.0.1/24"]
       |                        ^^^^^^^^^^^^^^^^^^^
       |
       = help: write "10.1.2.3", "10.1.0.0/16" or "fd00:1::/32"; names of hosts are not looked up

    error: "10.9.0.1/24" has bits behind its prefix
      --> routes.toml:12:45
       |
    12 | proxy_protocol_from = ["balancer.internal", "10.9.0.1/24"]
       |                                             ^^^^^^^^^^^^^
       |
       = help: write "10.9.0.0/24" for the network, or "10.9.0.1" for the one address

    routes.toml: 2 errors
    "#);
    assert_snapshot!(warnings(&listener("proxy_protocol_from = \"0.0.0.0/0\"")), @r#"
    warning: every address may say which address its client has
      --> routes.toml:12:23
       |
    12 | proxy_protocol_from = "0.0.0.0/0"
       |                       ^^^^^^^^^^^
       |
       = help: write the addresses of the load balancers only: with this, whoever reaches the listener may call itself any address

    routes.toml: 1 warning
    "#);
}

/// An error as soon as somebody listens on brokers' ports.
#[test]
fn ports_that_two_sockets_would_want_in_relay_mode() {
    let warned = |from: &str, to: &str| warnings(&PORTS.replacen(from, to, 1));
    assert_snapshot!(warned("0.0.0.0:9092", "0.0.0.0:9149"), @r#"
    warning: port 9149 of listener "internal" is a broker's port of cluster "legacy"
      --> routes.toml:15:8
       |
    15 | bind = "0.0.0.0:9149"
       |        ^^^^^^^^^^^^^^
       |
       = help: 9100-9149 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 warning
    "#);
    assert_snapshot!(warned("[[routes]]", "[admin]\nbind = \"127.0.0.1:10100\"\n\n[[routes]]"), @r#"
    warning: port 10100 of [admin] is a broker's port of cluster "legacy"
      --> routes.toml:23:8
       |
    23 | bind = "127.0.0.1:10100"
       |        ^^^^^^^^^^^^^^^^^
       |
       = help: 10100-10149 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 warning
    "#);
    assert_snapshot!(warned("9200-9249", "9150-9199"), @r#"
    warning: port 9190 of [admin] is a broker's port of cluster "new"
      --> routes.toml:11:16
       |
    11 | broker_ports = "9150-9199"
       |                ^^^^^^^^^^^
       |
       = help: 9150-9199 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 warning
    "#);
}

#[test]
fn the_default_admin_address_is_told_where_the_file_can_be_edited() {
    assert_snapshot!(errors_after("127.0.0.1:9092", "127.0.0.1:9190"), @r#"
    error: 127.0.0.1:9190 is taken by [admin]
      --> routes.toml:11:8
       |
    11 | bind = "127.0.0.1:9190"
       |        ^^^^^^^^^^^^^^^^
       |
       = help: it has 127.0.0.1:9190 by default: write another port

    routes.toml: 1 error
    "#);
}

/// Only a file with mirrors needs the address of theirs, or one that names it.
#[test]
fn the_address_of_the_mirrors_is_taken_where_there_are_mirrors() {
    let mirrors = "\n[[mirrors]]\nname = \"m\"\nsource = \"legacy\"\ntarget = \"new\"\ntopics = [\"orders\"]\n";
    let text = PORTS.replacen("0.0.0.0:9092", "0.0.0.0:9191", 1);
    assert_eq!(parse(&text).admin.mirror_bind.to_string(), "127.0.0.1:9191");
    assert_snapshot!(errors(&(text.clone() + mirrors)), @r#"
    error: 0.0.0.0:9191 is taken by [admin] mirror_bind
      --> routes.toml:15:8
       |
    15 | bind = "0.0.0.0:9191"
       |        ^^^^^^^^^^^^^^
       |
       = help: it has 127.0.0.1:9191 by default: write another port

    routes.toml: 1 error
    "#);
    let named = |port| PORTS.replacen("[[routes]]", &format!("[admin]\nmirror_bind = \"127.0.0.1:{port}\"\n\n[[routes]]"), 1);
    assert_snapshot!(errors(&named(9190)), @r#"
    error: 127.0.0.1:9190 is taken by [admin]
      --> routes.toml:23:15
       |
    23 | mirror_bind = "127.0.0.1:9190"
       |               ^^^^^^^^^^^^^^^^
       |
       = help: it has 127.0.0.1:9190 in line 22: write another port

    routes.toml: 1 error
    "#);
    assert_eq!(parse(&(named(9081) + mirrors)).admin.mirror_bind.to_string(), "127.0.0.1:9081");
}

#[test]
fn addresses_to_listen_on() {
    for (bind, hint) in [
        ("127.0.0.1", "add the port: \"127.0.0.1:9092\""),
        ("::1", "add the port: \"[::1]:9092\""),
        (":9092", "write \"0.0.0.0:9092\" for every address of this machine"),
        ("*:9092", "write \"0.0.0.0:9092\" for every address of this machine"),
        ("kafka.internal:9092", "write an address, not a name: \"127.0.0.1:9092\" or \"0.0.0.0:9092\""),
        ("127.0.0.1:70000", "write an address and a port from 0 to 65535: \"127.0.0.1:9092\", \"0.0.0.0:9092\" or \"[::]:9092\""),
    ] {
        let text = errors_after("127.0.0.1:9092", bind);
        assert!(text.contains(&format!("= help: {hint}\n")) && text.ends_with("routes.toml: 1 error"), "{text}");
    }
    let listener = |key: &str| errors_after("bind = \"127.0.0.1:9092\"", &format!("bind = \"127.0.0.1:9092\"\n{key}"));
    assert_snapshot!(listener("advertised_host = \"kafka.internal:9092\""), @r#"
    error: "kafka.internal:9092" has a port
      --> routes.toml:12:19
       |
    12 | advertised_host = "kafka.internal:9092"
       |                   ^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write "kafka.internal": the ports are those of broker_ports

    routes.toml: 1 error
    "#);
    assert_snapshot!(listener("advertised_host = \"kafka internal\""), @r#"
    error: "kafka internal" is not a host
      --> routes.toml:12:19
       |
    12 | advertised_host = "kafka internal"
       |                   ^^^^^^^^^^^^^^^^
       |
       = help: write a DNS name or an address, like "kafka.internal"

    routes.toml: 1 error
    "#);
}
