//! Files that are not there, not TOML, or have other keys than these.

use std::path::Path;

use insta::assert_snapshot;

use super::{VALID, edited, errors, errors_after, parse, refused};
use crate::Config;

#[test]
fn a_missing_file_names_the_option() {
    assert_snapshot!(Config::load(Path::new("no/such/routes.toml")).unwrap_err(), @r"
    error: cannot read no/such/routes.toml: No such file or directory (os error 2)
    --> no/such/routes.toml
     = help: name the file with --config FILE, or make it readable for this user

    no/such/routes.toml: 1 error
    ");
}

#[test]
fn an_empty_file_and_one_of_comments() {
    assert_snapshot!(errors(""), @r"
    error: the file is empty
    --> routes.toml
     = help: write at least one each of [clusters.NAME], [[listeners]] and [[routes]], or of [clusters.NAME] and [[mirrors]]

    routes.toml: 1 error
    ");
    assert_eq!(errors("\u{feff}"), errors(""));
    assert_snapshot!(errors("# nothing yet\n"), @r#"
    error: missing key `clusters`
     --> routes.toml:1:1
      |
    1 | # nothing yet
      | ^
      |
      = help: write [clusters.NAME] for each Kafka cluster

    error: missing key `listeners`
     --> routes.toml:1:1
      |
    1 | # nothing yet
      | ^
      |
      = help: write [[listeners]] for each address that clients connect to

    error: missing key `routes`
     --> routes.toml:1:1
      |
    1 | # nothing yet
      | ^
      |
      = help: write [[routes]]; with client_id = "*" and a cluster it is for every client

    routes.toml: 3 errors
    "#);
}

#[test]
fn a_file_in_another_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    std::fs::write(&path, b"[clusters.legacy]\nid = 1 # f\xfcr immer\n").unwrap();
    let text = Config::load(&path).unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "…");
    assert_snapshot!(text, @r"
    error: byte 0xFC is not UTF-8
     --> …/routes.toml:2:11
      |
    2 | id = 1 # f�r immer
      |           ^
      |
      = help: save the file with the encoding UTF-8

    …/routes.toml: 1 error
    ");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    std::fs::write(&path, "\u{feff}[clusters.legacy]\n").unwrap();
    assert_eq!(Config::read(&path).unwrap(), "[clusters.legacy]\n");
}

#[test]
fn a_byte_order_mark_tabs_and_windows_lines_do_not_shift_a_column() {
    assert_eq!(parse(&format!("\u{feff}{}", VALID.replace('\n', "\r\n"))).routes.len(), 2);
    let text = format!("\u{feff}\tfüße = \"ä\"\r\n{}", VALID.replace('\n', "\r\n"));
    assert_snapshot!(errors(&text), @r#"
    error: not TOML: invalid unquoted key
     --> routes.toml:1:3
      |
    1 |     füße = "ä"
      |      ^^
      |
      = help: here should be letters, numbers, `-`, `_`

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors_after("id = 2", "\tid\t=\t\"zwei\""), @r#"
    error: expected an integer, found a string
     --> routes.toml:6:7
      |
    6 |     id    =    "zwei"
      |                ^^^^^^
      |
      = help: write a number from 1 to 15

    routes.toml: 1 error
    "#);
}

#[test]
fn what_is_not_toml_is_told_with_what_is_wrong_otherwise() {
    let text = r#"[clusters.legacy]
id = 1 2
bootstrap_servers = legacy-1:9092
nod_ids = "1001-1050"

[[listeners]]
name = "internal
bind = 9092

[[routes]]
name = "orders"
client_id_regex = "orders-\d+"
cluster = "legcy"
"#;
    assert_snapshot!(errors(text), @r#"
    error: not TOML: string values must be quoted
     --> routes.toml:2:6
      |
    2 | id = 1 2
      |      ^^^
      |
      = help: write it in quotes: key = "value"

    error: not TOML: string values must be quoted
     --> routes.toml:3:21
      |
    3 | bootstrap_servers = legacy-1:9092
      |                     ^^^^^^^^^^^^^
      |
      = help: write it in quotes: key = "value"

    error: unknown key `nod_ids`
     --> routes.toml:4:1
      |
    4 | nod_ids = "1001-1050"
      | ^^^^^^^
      |
      = help: did you mean `node_ids`?

    error: not TOML: invalid basic string
     --> routes.toml:7:17
      |
    7 | name = "internal
      |                 ^
      |
      = help: here should be `"`

    error: expected a string, found an integer
     --> routes.toml:8:8
      |
    8 | bind = 9092
      |        ^^^^
      |
      = help: write it in quotes

    error: not TOML: missing escaped value
      --> routes.toml:12:28
       |
    12 | client_id_regex = "orders-\d+"
       |                            ^
       |
       = help: write \\ for a backslash, or the whole string in single quotes: 'a\d+'

    routes.toml: 6 errors
    "#);
}

#[test]
fn a_torn_header_hides_what_it_may_have_moved() {
    let text = edited("[[routes]]", "[[routes]").replace("id = 2", "id = 77");
    assert_snapshot!(errors(&text), @r"
    error: not TOML: unclosed array table
      --> routes.toml:13:10
       |
    13 | [[routes]
       |          ^
       |
       = help: here should be `]`

    routes.toml: 1 error
    ");
    assert_snapshot!(errors_after("\nid = 2", "\nid 2"), @r"
    error: not TOML: key with no value
     --> routes.toml:6:4
      |
    6 | id 2
      |    ^
      |
      = help: write key = value

    routes.toml: 1 error
    ");
    assert_snapshot!(errors_after("cluster = \"legacy\"\n", "cluster = \"legacy"), @r#"
    error: not TOML: invalid basic string
      --> routes.toml:21:18
       |
    21 | cluster = "legacy
       |                  ^
       |
       = help: here should be `"`

    routes.toml: 1 error
    "#);
}

#[test]
fn the_same_cluster_or_key_twice() {
    let text = edited("[clusters.new]", "[clusters.legacy]").replace("cluster = \"legacy\"", "cluster = \"legacy\"\ncluster = \"old\"");
    assert_snapshot!(errors(&text), @r#"
    error: `legacy` is there twice
     --> routes.toml:5:11
      |
    5 | [clusters.legacy]
      |           ^^^^^^
      |
      = help: keep one of them

    error: unknown cluster "new"
      --> routes.toml:16:11
       |
    16 | cluster = "new"
       |           ^^^^^
       |
       = help: the clusters are "legacy"

    error: `cluster` is there twice
      --> routes.toml:22:1
       |
    22 | cluster = "old"
       | ^^^^^^^
       |
       = help: keep one of them

    routes.toml: 3 errors
    "#);
}

#[test]
fn java_clients_keys_are_known_by_their_names_here() {
    let text = edited(
        "bootstrap_servers = \"127.0.0.1:29092\"",
        r#"bootstrap.servers = "new-1:9093"
security.protocol = "SASL_SSL"
sasl.jaas.config = "ScramLoginModule required username='kferry' password='hunter2';"
ssl.truststore.location = "/etc/kferry/truststore.jks"
client.dns.lookup = "use_all_dns_ips""#,
    );
    assert_snapshot!(errors(&text), @r#"
    error: unknown key `bootstrap.servers`
     --> routes.toml:7:1
      |
    7 | bootstrap.servers = "new-1:9093"
      | ^^^^^^^^^^^^^^^^^
      |
      = help: write `bootstrap_servers`

    error: unknown key `security.protocol`
     --> routes.toml:8:1
      |
    8 | security.protocol = "SASL_SSL"
      | ^^^^^^^^^^^^^^^^^
      |
      = help: write `security_protocol`

    error: unknown key `sasl.jaas.config`
     --> routes.toml:9:1
      |
    9 | sasl.jaas.config = "********"
      | ^^^^^^^^^^^^^^^^
      |
      = help: write sasl_username and sasl_password_file

    error: unknown key `ssl.truststore.location`
      --> routes.toml:10:1
       |
    10 | ssl.truststore.location = "/etc/kferry/truststore.jks"
       | ^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write ssl_ca_location, with a PEM file

    error: unknown key `client.dns.lookup`
      --> routes.toml:11:1
       |
    11 | client.dns.lookup = "use_all_dns_ips"
       | ^^^^^^^^^^^^^^^^^
       |
       = help: the keys here are id, bootstrap_servers, node_ids, broker_ports, security_protocol, ssl_ca_location, ssl_certificate_location, ssl_key_location, ssl_endpoint_identification_algorithm, sasl_mechanism, sasl_username, sasl_password_file, sasl_password_env, sasl_password, sasl_oauthbearer_token_file

    routes.toml: 5 errors
    "#);
}

#[test]
fn keys_that_nobody_knows() {
    assert_snapshot!(errors_after("cluster = \"new\"", "cluster = \"new\"\nbootstrap_servers = \"a:1\"\ncolour = \"red\"\nCluster = \"new\""), @r#"
    error: unknown key `bootstrap_servers`
      --> routes.toml:17:1
       |
    17 | bootstrap_servers = "a:1"
       | ^^^^^^^^^^^^^^^^^
       |
       = help: it belongs in [clusters.NAME]

    error: unknown key `colour`
      --> routes.toml:18:1
       |
    18 | colour = "red"
       | ^^^^^^
       |
       = help: the keys here are name, client_id, client_id_regex, client_address, tls_subject, cluster, mode, credentials, sasl_users, topics, topics_regex, groups, groups_regex, stopped

    error: unknown key `Cluster`
      --> routes.toml:19:1
       |
    19 | Cluster = "new"
       | ^^^^^^^
       |
       = help: `cluster` is already in line 16: drop this one

    routes.toml: 3 errors
    "#);
    // What the route leads to is in the table with the slip: no second error.
    assert_snapshot!(errors(&format!("verbose = true\n{}", edited("[clusters.new]", "[cluster.new]"))), @r"
    error: unknown key `verbose`
     --> routes.toml:1:1
      |
    1 | verbose = true
      | ^^^^^^^
      |
      = help: the keys here are clusters, listeners, users, admin, limits, routes, mirrors, state, moves

    error: unknown key `cluster`
     --> routes.toml:6:2
      |
    6 | [cluster.new]
      |  ^^^^^^^
      |
      = help: did you mean `clusters`?

    routes.toml: 2 errors
    ");
}

#[test]
fn tables_of_another_shape() {
    assert_snapshot!(errors(&VALID.replacen("[[listeners]]", "[listeners]", 1)), @r"
    error: expected an array of tables, found a table
     --> routes.toml:9:1
      |
    9 | [listeners]
      | ^^^^^^^^^^^
      |
      = help: write each as [[listeners]], with double brackets

    routes.toml: 1 error
    ");
    assert_snapshot!(errors("routes = []\nlisteners = 3\n[clusters]\nid = 1\nbootstrap_servers = \"a:1\"\n"), @r"
    error: an empty array
     --> routes.toml:1:10
      |
    1 | routes = []
      |          ^^
      |
      = help: write at least one [[routes]]

    error: expected an array of tables, found an integer
     --> routes.toml:2:13
      |
    2 | listeners = 3
      |             ^
      |
      = help: write each as [[listeners]], with double brackets

    error: a key outside of a cluster
     --> routes.toml:4:1
      |
    4 | id = 1
      | ^^
      |
      = help: write [clusters.NAME] above the keys of a cluster

    routes.toml: 3 errors
    ");
}

#[test]
fn long_and_unprintable_values_stay_in_one_line() {
    let text = errors_after("cluster = \"new\"", &format!("cluster = \"\\u001b[31m{}\"", "x".repeat(500)));
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 200), "{text}");
}

#[test]
fn colours_only_when_asked_for() {
    let invalid = refused(&edited("id = 2", "id = 0"));
    assert!(invalid.render(true).contains("\u{1b}["));
    assert!(!invalid.render(false).contains('\u{1b}'));
}
