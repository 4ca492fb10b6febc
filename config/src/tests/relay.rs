//! Relay mode: what it needs of clusters and listeners, and the credentials that only it can use.

use insta::assert_snapshot;

use super::{errors, one_error, parse, warnings};
use crate::{Mode, Sasl, SaslMechanism, Secret};

/// Plaintext clients that are on one cluster, and may come to another, where the proxy logs in for them.
const RELAY: &str = r#"[clusters.legacy]
id = 1
bootstrap_servers = "legacy-1:9092"
node_ids = "1001-1050"
broker_ports = "9100-9149"

[clusters.new]
id = 2
bootstrap_servers = "new-1:9093"
node_ids = "1-50"
broker_ports = "9200-9249"
security_protocol = "SASL_SSL"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "kferry"
sasl_password_file = "/run/secrets/new"

[[listeners]]
name = "internal"
bind = "10.0.0.1:9092"

[[routes]]
name = "orders"
client_id = "orders-*"
client_address = "10.1.0.0/16"
cluster = "legacy"
mode = "relay"

[routes.credentials.new]
sasl_mechanism = "SCRAM-SHA-256"
sasl_username = "orders"
sasl_password_file = "/run/secrets/orders"
"#;

/// The file with each `from` replaced.
fn relay(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(RELAY.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

const BROKERS: &str = "node_ids = \"1-50\"\nbroker_ports = \"9200-9249\"\n";
const LOGIN: &str = "sasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"kferry\"\nsasl_password_file = \"/run/secrets/new\"\n";
const CREDENTIALS: &str = r#"
[routes.credentials.new]
sasl_mechanism = "SCRAM-SHA-256"
sasl_username = "orders"
sasl_password_file = "/run/secrets/orders"
"#;

#[test]
fn a_route_and_its_credentials() {
    let config = parse(RELAY);
    assert_eq!(config.warnings, []);
    let route = &config.routes[0];
    assert_eq!((route.mode, &*route.cluster.name), (Mode::Relay, "legacy"));
    assert_eq!(route.credentials.keys().map(|cluster| &**cluster).collect::<Vec<_>>(), ["new"]);
    let password = Secret::File("/run/secrets/orders".into());
    let sasl = Sasl::Password { mechanism: SaslMechanism::ScramSha256, username: "orders".to_owned(), password };
    assert_eq!(route.credentials["new"], sasl);

    // Without credentials SASL is between the client and the broker; TLS is not, and the listener may do without.
    let end_to_end = relay(&[("cluster = \"legacy\"", "cluster = \"new\""), (CREDENTIALS, "")]);
    assert!(parse(&end_to_end).routes[0].credentials.is_empty());
    assert_snapshot!(warnings(&end_to_end), @r#"
    warning: no route leads to cluster "legacy"
     --> routes.toml:1:11
      |
    1 | [clusters.legacy]
      |           ^^^^^^
      |
      = help: write a route with it, or drop it

    routes.toml: 1 warning
    "#);
}

#[test]
fn virtual_brokers_need_node_ids_and_ports() {
    // Once for a cluster, however many routes lead to it, and also where clients may only be moved to.
    let second = format!("{CREDENTIALS}\n[[routes]]\nname = \"all\"\nclient_id = \"*\"\ncluster = \"new\"\nmode = \"relay\"\n");
    assert_snapshot!(errors(&relay(&[(BROKERS, ""), (CREDENTIALS, &second)])), @r#"
    error: relay mode needs `node_ids` and `broker_ports` of cluster "new"
      --> routes.toml:26:21
       |
    26 | [routes.credentials.new]
       |                     ^^^
       |
       = help: below line 7 write which node ids its brokers may have, with room for more, and a free port for each, like node_ids = "1-50" and broker_ports = "9200-9249"

    routes.toml: 1 error
    "#);
    assert!(parse(&relay(&[(BROKERS, ""), ("mode = \"relay\"", ""), (CREDENTIALS, "")])).clusters[1].brokers.is_none());
    // One slip, one error.
    assert_snapshot!(errors(&relay(&[("node_ids = \"1-50\"", "node.ids = \"1-50\""), ("broker_ports = \"9200-9249\"", "")])), @r#"
    error: unknown key `node.ids`
      --> routes.toml:10:1
       |
    10 | node.ids = "1-50"
       | ^^^^^^^^
       |
       = help: write `node_ids`

    routes.toml: 1 error
    "#);
}

#[test]
fn a_virtual_node_id_has_seven_digits_for_the_real_one() {
    let ids = |last: u32| relay(&[(BROKERS, &format!("node_ids = \"{}-{last}\"\nbroker_ports = \"9200-9249\"\n", last - 49))]);
    assert_eq!(*parse(&ids(9_999_999)).clusters[1].brokers.as_ref().unwrap().node_ids.end(), 9_999_999);
    assert_snapshot!(errors(&ids(10_000_000)), @r#"
    error: node id 10000000 is greater than 9999999
      --> routes.toml:10:12
       |
    10 | node_ids = "9999951-10000000"
       |            ^^^^^^^^^^^^^^^^^^
       |
       = help: a relayed client sees the cluster's `id` and then the node id in seven digits: brokers with more cannot be relayed to

    routes.toml: 1 error
    "#);
}

#[test]
fn brokers_that_ask_for_a_login_need_one_of_kferrys_own() {
    assert_snapshot!(errors(&relay(&[(LOGIN, "")])), @r#"
    error: relay mode needs kferry's own login at cluster "new"
      --> routes.toml:25:21
       |
    25 | [routes.credentials.new]
       |                     ^^^
       |
       = help: below line 7 write sasl_mechanism, sasl_username and sasl_password_file: kferry itself asks the brokers where they are, whoever the clients are

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&relay(&[(LOGIN, ""), ("cluster = \"legacy\"", "cluster = \"new\""), (CREDENTIALS, "")])), @r#"
    error: relay mode needs kferry's own login at cluster "new"
      --> routes.toml:22:11
       |
    22 | cluster = "new"
       |           ^^^^^
       |
       = help: below line 7 write sasl_mechanism, sasl_username and sasl_password_file: kferry itself asks the brokers where they are, whoever the clients are

    routes.toml: 1 error
    "#);
    // One slip, one error.
    assert_snapshot!(errors(&relay(&[(LOGIN, "sasl.username = \"kferry\"\n")])), @r#"
    error: unknown key `sasl.username`
      --> routes.toml:13:1
       |
    13 | sasl.username = "kferry"
       | ^^^^^^^^^^^^^
       |
       = help: write `sasl_username`

    routes.toml: 1 error
    "#);
}

#[test]
fn ports_of_a_cluster_that_a_mirror_brings_into_the_view_are_taken_too() {
    let third = "[clusters.third]\nid = 3\nbootstrap_servers = \"third-1:9092\"\nnode_ids = \"1-50\"\nbroker_ports = \"9300-9349\"\n\n";
    let mirror = "[[mirrors]]\nname = \"over\"\nsource = \"legacy\"\ntarget = \"third\"\ntopics = [\"orders\"]\n\n";
    let text = |more: &str| {
        relay(&[
            ("[[listeners]]", &format!("{third}[[listeners]]")),
            ("10.0.0.1:9092", "10.0.0.1:9310"),
            ("[[routes]]", &format!("{more}[[routes]]")),
        ])
    };
    let message = "port 9310 of listener \"internal\" is a broker's port of cluster \"third\"";
    let warned = parse(&text("")).warnings;
    assert!(warned.iter().any(|warning| warning.message == message), "nobody listens there: {warned:?}");
    one_error(&text(mirror), message, "write another port");
}

#[test]
fn a_listener_with_whichever_port_is_free_is_probably_not_meant() {
    let warnings = parse(&relay(&[("10.0.0.1:9092", "10.0.0.1:0")])).warnings;
    assert_eq!(warnings[0].message, "a listener with port 0");
}

#[test]
fn ports_that_virtual_brokers_listen_on() {
    let admin = |bind: &str| relay(&[("[[routes]]", &format!("[admin]\nbind = \"{bind}\"\n\n[[routes]]"))]);
    assert_snapshot!(errors(&relay(&[("10.0.0.1:9092", "10.0.0.1:9149")])), @r#"
    error: port 9149 of listener "internal" is a broker's port of cluster "legacy"
      --> routes.toml:19:8
       |
    19 | bind = "10.0.0.1:9149"
       |        ^^^^^^^^^^^^^^^
       |
       = help: 9100-9149 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&admin("0.0.0.0:9249")), @r#"
    error: port 9249 of [admin] is a broker's port of cluster "new"
      --> routes.toml:22:8
       |
    22 | bind = "0.0.0.0:9249"
       |        ^^^^^^^^^^^^^^
       |
       = help: 9200-9249 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 error
    "#);
    assert_eq!(parse(&admin("127.0.0.1:9249")).warnings, []);
    // The second of two clusters on this port is the one whose brokers' ports are open.
    let third = r#"[clusters.third]
id = 3
bootstrap_servers = "third-1:9092"
node_ids = "1-50"
broker_ports = "9300-9349"

[[listeners]]
name = "external"
bind = "10.0.0.2:9092"
broker_port_offset = 100

[[routes]]
name = "bootstrap"
client_id = "new-*"
cluster = "third"

[[routes]]"#;
    let two = |port: u16| relay(&[("[[routes]]", &format!("[admin]\nbind = \"0.0.0.0:{port}\"\n\n{third}"))]);
    assert_snapshot!(warnings(&two(9400)), @r#"
    warning: port 9400 of [admin] is a broker's port of cluster "third"
      --> routes.toml:22:8
       |
    22 | bind = "0.0.0.0:9400"
       |        ^^^^^^^^^^^^^^
       |
       = help: 9400-9449 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 warning
    "#);
    assert_snapshot!(errors(&two(9300)), @r#"
    error: port 9300 of [admin] is a broker's port of cluster "new"
      --> routes.toml:22:8
       |
    22 | bind = "0.0.0.0:9300"
       |        ^^^^^^^^^^^^^^
       |
       = help: 9300-9349 are the brokers' in relay mode, from broker_ports: write another port

    routes.toml: 1 error
    "#);
}

#[test]
fn clients_must_be_told_where_virtual_brokers_are() {
    assert_snapshot!(errors(&relay(&[("10.0.0.1:9092", "0.0.0.0:9092")])), @r#"
    error: relay mode needs `advertised_host` of this listener
      --> routes.toml:19:8
       |
    19 | bind = "0.0.0.0:9092"
       |        ^^^^^^^^^^^^^^
       |
       = help: clients are told where the virtual brokers are, and 0.0.0.0 is nowhere: write advertised_host = "kafka.internal", the name or address of this machine

    routes.toml: 1 error
    "#);
    let advertised = |key: &str| relay(&[("10.0.0.1:9092\"", &format!("[::]:9092\"\n{key} = \"kafka.internal\""))]);
    assert_eq!(parse(&advertised("advertised_host")).warnings, []);
    // One slip, one error.
    assert_snapshot!(errors(&advertised("advertised_hosts")), @r#"
    error: unknown key `advertised_hosts`
      --> routes.toml:20:1
       |
    20 | advertised_hosts = "kafka.internal"
       | ^^^^^^^^^^^^^^^^
       |
       = help: did you mean `advertised_host`?

    routes.toml: 1 error
    "#);
}

#[test]
fn credentials_that_nobody_can_use() {
    assert_snapshot!(errors(&relay(&[("credentials.new", "credentials.nwe")])), @r#"
    error: unknown cluster "nwe"
      --> routes.toml:28:21
       |
    28 | [routes.credentials.nwe]
       |                     ^^^
       |
       = help: did you mean "new"?

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&relay(&[("mode = \"relay\"", "mode = \"bootstrap\"")])), @r#"
    error: credentials in bootstrap mode
      --> routes.toml:28:21
       |
    28 | [routes.credentials.new]
       |                     ^^^
       |
       = help: the client goes on to the brokers by itself, and the proxy cannot log in for it: write mode = "relay", or drop the credentials

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&relay(&[("mode = \"relay\"\n", "")])), @r#"
    error: credentials in bootstrap mode
      --> routes.toml:27:21
       |
    27 | [routes.credentials.new]
       |                     ^^^
       |
       = help: the client goes on to the brokers by itself, and the proxy cannot log in for it: write mode = "relay", or drop the credentials

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&relay(&[("credentials.new", "credentials.legacy")])), @r#"
    error: credentials for cluster "legacy", which is PLAINTEXT
      --> routes.toml:28:21
       |
    28 | [routes.credentials.legacy]
       |                     ^^^^^^
       |
       = help: drop them, or write security_protocol = "SASL_PLAINTEXT" below line 1 if its brokers ask for a login

    routes.toml: 1 error
    "#);
    let ssl = format!("security_protocol = \"SASL_SSL\"\n{LOGIN}");
    assert_snapshot!(errors(&relay(&[(&ssl, "security_protocol = \"SSL\"\n")])), @r#"
    error: credentials for cluster "new", which is SSL
      --> routes.toml:25:21
       |
    25 | [routes.credentials.new]
       |                     ^^^
       |
       = help: drop them, or write security_protocol = "SASL_SSL" below line 7 if its brokers ask for a login

    routes.toml: 1 error
    "#);
    // One slip, one error.
    assert_snapshot!(errors(&relay(&[("mode = \"relay\"", "modus = \"relay\"")])), @r#"
    error: unknown key `modus`
      --> routes.toml:26:1
       |
    26 | modus = "relay"
       | ^^^^^
       |
       = help: did you mean `mode`?

    routes.toml: 1 error
    "#);
}

#[test]
fn credentials_that_are_not_whole() {
    assert_snapshot!(errors(&relay(&[("sasl_mechanism = \"SCRAM-SHA-256\"\nsasl_username = \"orders\"\n", "")])), @r#"
    error: credentials without `sasl_mechanism` and `sasl_username`
      --> routes.toml:29:22
       |
    29 | sasl_password_file = "/run/secrets/orders"
       |                      ^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write all three: the proxy logs in with them

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&relay(&[(CREDENTIALS, "\n[routes.credentials.new]\n")])), @r"
    error: credentials without any key
      --> routes.toml:28:1
       |
    28 | [routes.credentials.new]
       | ^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write sasl_mechanism, sasl_username and sasl_password_file, or drop the table

    routes.toml: 1 error
    ");
    assert_snapshot!(errors(&relay(&[("[routes.credentials.new]", "[routes.credentials]")])), @r#"
    error: credentials without a cluster
      --> routes.toml:29:1
       |
    29 | sasl_mechanism = "SCRAM-SHA-256"
       | ^^^^^^^^^^^^^^
       |
       = help: write [routes.credentials.CLUSTER] above the keys of a login, with the name of the cluster that it is for

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&relay(&[(CREDENTIALS, "credentials = \"orders\"\n")])), @r#"
    error: expected a table, found a string
      --> routes.toml:27:15
       |
    27 | credentials = "********"
       |               ^^^^^^^^^^
       |
       = help: write it as [routes.credentials.CLUSTER]

    routes.toml: 1 error
    "#);
    // The keys of a route behind the header of its credentials, and the other way round.
    assert_snapshot!(errors(&relay(&[("mode = \"relay\"\n", ""), (CREDENTIALS, &format!("{CREDENTIALS}mode = \"relay\"\n"))])), @r#"
    error: credentials in bootstrap mode
      --> routes.toml:27:21
       |
    27 | [routes.credentials.new]
       |                     ^^^
       |
       = help: the client goes on to the brokers by itself, and the proxy cannot log in for it: write mode = "relay", or drop the credentials

    error: unknown key `mode`
      --> routes.toml:31:1
       |
    31 | mode = "relay"
       | ^^^^
       |
       = help: it belongs in [[routes]]

    routes.toml: 2 errors
    "#);
    assert_snapshot!(errors(&relay(&[("mode = \"relay\"\n", "mode = \"relay\"\nsasl_username = \"orders\"\n")])), @r#"
    error: unknown key `sasl_username`
      --> routes.toml:27:1
       |
    27 | sasl_username = "orders"
       | ^^^^^^^^^^^^^
       |
       = help: it belongs in [clusters.NAME] or [routes.credentials.CLUSTER]; who may log in at the proxy is in sasl_users

    routes.toml: 1 error
    "#);
}

#[test]
fn credentials_for_whoever_claims_a_client_id() {
    for everywhere in ["", "client_address = [\"0.0.0.0/0\", \"::/0\"]\n", "client_address = \"0.0.0.0/0\"\n"] {
        let text = relay(&[("client_address = \"10.1.0.0/16\"\n", everywhere)]);
        assert_eq!(parse(&text).warnings.len(), 1, "{text}");
    }
    assert_snapshot!(warnings(&relay(&[("client_address = \"10.1.0.0/16\"\n", "")])), @r#"
    warning: a client.id can be claimed by anybody: whoever reaches a listener and calls itself so gets the credentials of this route
      --> routes.toml:23:13
       |
    23 | client_id = "orders-*"
       |             ^^^^^^^^^^
       |
       = help: add client_address, the addresses or networks of the clients that are meant; or tls_subject, their certificates' subject; or sasl_users, who then must log in at the proxy

    routes.toml: 1 warning
    "#);
    let none_to_have = warnings(&relay(&[("client_address = \"10.1.0.0/16\"\n", ""), (CREDENTIALS, "")]));
    assert!(!none_to_have.contains("claimed"), "{none_to_have}");
}

#[test]
fn a_password_of_a_route_is_never_shown() {
    let with = |lines: &str| relay(&[(CREDENTIALS, lines)]);
    let header = "[routes.credentials.new]\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"orders\"\n";
    let literal = with(&format!("{header}sasl_password = \"hunter2\"\n"));
    assert!(!format!("{:?}", parse(&literal)).contains("hunter2"));
    assert_snapshot!(warnings(&literal), @r#"
    warning: a password in the file itself: whoever reads the file has it
      --> routes.toml:30:17
       |
    30 | sasl_password = "********"
       |                 ^^^^^^^^^^
       |
       = help: put it into a file and write sasl_password_file, or into the environment and write sasl_password_env

    routes.toml: 1 warning
    "#);
    for lines in [
        &format!("{header}sasl_pasword = \"hunter2\"\n"),
        &format!("{header}sasl_password = \"hunter2\" oops\n"),
        &format!("{header}sasl_password_file = \"orders\"\nsasl_password = \"hunter2\"\n"),
        "[routes.credentials]\nsasl_password = \"hunter2\"\n",
        "[routes.credentials]\nnew = { sasl_mechanism = \"PLAIN\", sasl_password = \"hunter2\" }\n",
        "credentials = { new = { sasl_username = \"orders\", sasl_password = \"hunter2\" } }\n",
        "credentials.new = \"hunter2\"\n",
        "credentials.new.sasl_password = \"hunter2\"\n",
        "credential.new.sasl_password = \"hunter2\"\n",
    ] {
        let shown = errors(&with(lines));
        assert!(!shown.contains("hunter2") && shown.contains("error"), "{lines}\n{shown}");
    }
}

#[test]
fn users_log_in_at_the_proxy() {
    const USERS: &str = "[users.orders-app]\nsasl_password_file = \"/run/secrets/orders-app\"\n\n[[listeners]]";
    let to_new = ("cluster = \"legacy\"\nmode = \"relay\"", "cluster = \"new\"\nmode = \"relay\"\nsasl_users = \"orders-app\"");
    let legacy = ("[[listeners]]", "[[routes]]\nname = \"rest\"\nclient_id = \"x\"\ncluster = \"legacy\"\n\n[[listeners]]");
    let good = relay(&[to_new, legacy]).replace("[[listeners]]", USERS).replace("client_address = \"10.1.0.0/16\"\n", "");
    let config = parse(&good);
    assert_eq!(config.warnings, []);
    assert_eq!((&*config.users[0].name, &*config.routes[1].sasl_users[0]), ("orders-app", "orders-app"));
    assert_snapshot!(errors(&good.replace("[users.orders-app]", "[users.orders-ap]")), @r#"
    error: unknown user "orders-app"
      --> routes.toml:34:14
       |
    34 | sasl_users = "orders-app"
       |              ^^^^^^^^^^^^
       |
       = help: did you mean "orders-ap"?

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&good.replace(CREDENTIALS, "")), @r#"
    error: `sasl_users` without credentials for cluster "new", whose brokers ask for a login
      --> routes.toml:34:14
       |
    34 | sasl_users = "orders-app"
       |              ^^^^^^^^^^^^
       |
       = help: write [routes.credentials.new]: the client's login ends at the proxy, and this is what the proxy logs in with for it

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&good.replace("mode = \"relay\"\nsasl_users", "sasl_users").replace(CREDENTIALS, "")), @r#"
    error: `sasl_users` in bootstrap mode
      --> routes.toml:33:14
       |
    33 | sasl_users = "orders-app"
       |              ^^^^^^^^^^^^
       |
       = help: the client goes on to the brokers by itself and logs in there: write mode = "relay", or drop this line

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&good.replace("sasl_password_file = \"/run/secrets/orders-app\"\n", "")), @r#"
    error: a user without a password
      --> routes.toml:22:1
       |
    22 | [users.orders-app]
       | ^^^^^^^^^^^^^^^^^^
       |
       = help: write sasl_password_file, a file that holds the password and nothing else, or sasl_password_env

    routes.toml: 1 error
    "#);
}

#[test]
fn certificates_that_a_route_is_for() {
    let with = |line: &str| relay(&[("client_address = \"10.1.0.0/16\"", line)]);
    assert_snapshot!(errors(&with("tls_subject = \"CN=orders\"")), @r#"
    error: `tls_subject`, but no listener asks clients for a certificate
      --> routes.toml:24:15
       |
    24 | tls_subject = "CN=orders"
       |               ^^^^^^^^^^^
       |
       = help: write ssl_client_auth = "required" and ssl_ca_location at a listener with security_protocol = "SSL"

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&with("tls_subject = [\"CN=orders, O=Example\", \"orders\", \"/O=Example/CN=orders\"]")), @r#"
    error: "CN=orders, O=Example" is not a subject as Kafka writes it
      --> routes.toml:24:16
       |
    24 | tls_subject = ["CN=orders, O=Example", "orders", "/O=Example/CN=orders"]
       |                ^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write it as Kafka names the principal, less "User:", without spaces between its parts: "CN=orders,OU=shop,O=Example,C=DE"

    error: "orders" is not a subject as Kafka writes it
      --> routes.toml:24:40
       |
    24 | tls_subject = ["CN=orders, O=Example", "orders", "/O=Example/CN=orders"]
       |                                        ^^^^^^^^
       |
       = help: write it as Kafka names the principal, less "User:", without spaces between its parts: "CN=orders,OU=shop,O=Example,C=DE"

    error: "/O=Example/CN=orders" is not a subject as Kafka writes it
      --> routes.toml:24:50
       |
    24 | tls_subject = ["CN=orders, O=Example", "orders", "/O=Example/CN=orders"]
       |                                                  ^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write it as Kafka names the principal, less "User:", without spaces between its parts: "CN=orders,OU=shop,O=Example,C=DE"

    routes.toml: 3 errors
    "#);
    let asks = "bind = \"10.0.0.1:9092\"\nsecurity_protocol = \"SSL\"\nssl_certificate_location = \"a.pem\"\nssl_key_location = \"a.key\"\n\
                ssl_client_auth = \"requested\"\nssl_ca_location = \"ca.pem\"";
    let config = parse(&with("tls_subject = \"CN=orders\\\\, inc,O=Example\"").replace("bind = \"10.0.0.1:9092\"", asks));
    assert_eq!(config.warnings, []);
    let (id, address) = ("orders-1", [10, 1, 0, 1].into());
    assert!(config.route(id, address, Some("CN=orders\\, inc,O=Example")).is_some());
    assert!(config.route(id, address, None).is_none() && config.route(id, address, Some("CN=orders")).is_none());
    // The one without it does not hide behind the one with it, but the other way round.
    let second = "[[routes]]\nname = \"others\"\nclient_id = \"orders-*\"\ncluster = \"legacy\"\nmode = \"relay\"\n";
    let text = with("tls_subject = \"CN=orders\"").replace("bind = \"10.0.0.1:9092\"", asks);
    assert_eq!(parse(&format!("{text}\n{second}")).routes.len(), 2);
    let shadowed = errors(&text.replace("[[routes]]", &format!("{second}\n[[routes]]")));
    assert!(shadowed.contains("never gets a client: \"others\""), "{shadowed}");
}

#[test]
fn a_client_cannot_log_in_here_and_not_there() {
    let third = "[clusters.third]\nid = 3\nbootstrap_servers = \"third-1:9092\"\nnode_ids = \"1-50\"\nbroker_ports = \"9300-9349\"\n\
                 security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"kferry\"\nsasl_password_env = \"P\"\n\n\
                 [[listeners]]";
    let rest = "[[routes]]\nname = \"rest\"\nclient_id = \"x\"\ncluster = \"legacy\"\n\n[[routes]]";
    let text = relay(&[("[[listeners]]", third), ("cluster = \"legacy\"", "cluster = \"third\"")]).replace("[[routes]]", rest);
    assert_snapshot!(warnings(&text), @r#"
    warning: clients log in by themselves at cluster "third", and at "new" the proxy does for them: no setting of a client is right for both
      --> routes.toml:40:11
       |
    40 | cluster = "third"
       |           ^^^^^^^
       |
       = help: write [routes.credentials.third] too, or drop the credentials

    routes.toml: 1 warning
    "#);
}
