//! Routes: for whom, to where.

use insta::assert_snapshot;

use super::{VALID, edited, errors, errors_after, parse, warnings};

/// The errors of the valid file with a route for these clients.
fn clients(keys: &str) -> String {
    errors_after("client_id = \"orders-*\"", keys)
}

#[test]
fn bad_globs() {
    for (glob, part) in [("orders-]{a", "{a"), ("a}b", "}"), ("[z-a]", "z-a"), ("é[", "["), (r"\\", r"\\")] {
        let text = clients(&format!("client_id = \"{glob}\""));
        let caret = text.lines().find(|line| line.contains('^')).unwrap().trim_matches([' ', '|']).len();
        assert!(text.contains("error: not a glob: ") && text.ends_with("routes.toml: 1 error"), "{text}");
        // Behind an escape of TOML the caret marks the whole string.
        let expected = if glob.contains('\\') { part.len() + 2 } else { part.len() };
        assert_eq!(caret, expected, "{text}");
    }
    assert_snapshot!(clients("client_id = \"{orders,payments-*\""), @r#"
    error: not a glob: `{` without a `}`
      --> routes.toml:15:14
       |
    15 | client_id = "{orders,payments-*"
       |              ^^^^^^^^^^^^^^^^^^
       |
       = help: write [{] for the character itself

    routes.toml: 1 error
    "#);
}

#[test]
fn bad_regexes() {
    assert_snapshot!(clients("client_id_regex = 'orders-(\\d+'"), @r#"
    error: not a regex: unclosed group
      --> routes.toml:15:20
       |
    15 | client_id_regex = 'orders-(\d+'
       |                    ^^^^^^^^^^^
       |
       = help: it is read as by Rust's regex crate, without look-around and backreferences; for a glob write `client_id`

    routes.toml: 1 error
    "#);
    assert_snapshot!(clients(r"client_id_regex = '(\w{100}){100}'"), @r#"
    error: too complex: to match it would take more than 1 MiB of memory
      --> routes.toml:15:20
       |
    15 | client_id_regex = '(\w{100}){100}'
       |                    ^^^^^^^^^^^^^^
       |
       = help: write fewer repetitions, or ASCII classes like [0-9A-Za-z_] instead of \w

    routes.toml: 1 error
    "#);
    assert_snapshot!(clients(r"client_id_regex = '(a|b)*a(a|b){20}'"), @r#"
    error: too complex: to match it would take more than 1 MiB of memory
      --> routes.toml:15:20
       |
    15 | client_id_regex = '(a|b)*a(a|b){20}'
       |                    ^^^^^^^^^^^^^^^^
       |
       = help: write fewer repetitions, or ASCII classes like [0-9A-Za-z_] instead of \w

    routes.toml: 1 error
    "#);
    assert_snapshot!(clients(r"client_id_regex = '\borders\b'"), @r#"
    error: not supported: a word boundary between Unicode characters
      --> routes.toml:15:20
       |
    15 | client_id_regex = '\borders\b'
       |                    ^^^^^^^^^^
       |
       = help: write (?-u:\b), which knows ASCII words

    routes.toml: 1 error
    "#);
    assert_snapshot!(clients("client_id_regex = 'a^b'"), @r"
    error: no client id can match this
      --> routes.toml:15:20
       |
    15 | client_id_regex = 'a^b'
       |                    ^^^
       |
       = help: look for anchors or classes that contradict each other

    routes.toml: 1 error
    ");
}

#[test]
fn keys_that_say_who_a_route_is_for() {
    assert_snapshot!(clients("client_id = \"a\"\nclient_id_regex = \"b\""), @r#"
    error: both `client_id` and `client_id_regex`
      --> routes.toml:16:19
       |
    16 | client_id_regex = "b"
       |                   ^^^
       |
       = help: keep one of them, or write two routes

    routes.toml: 1 error
    "#);
    assert_snapshot!(clients("client_address = \"10.0.0.0/8\""), @r#"
    error: missing key `client_id`
      --> routes.toml:13:1
       |
    13 | [[routes]]
       | ^^^^^^^^^^
       |
       = help: write client_id = "orders-*", or client_id = "*" for every client, or client_id_regex

    routes.toml: 1 error
    "#);
    assert_snapshot!(clients("client_id = \"*\"\nclient_address = [\"10.0.0.1/8\", \"10.0.0.0/33\", \"app-1.internal\", 7]"), @r#"
    error: "10.0.0.1/8" has bits behind its prefix
      --> routes.toml:16:19
       |
    16 | client_address = ["10.0.0.1/8", "10.0.0.0/33", "app-1.internal", 7]
       |                   ^^^^^^^^^^^^
       |
       = help: write "10.0.0.0/8" for the network, or "10.0.0.1" for the one address

    error: "10.0.0.0/33" is not an address or network
      --> routes.toml:16:33
       |
    16 | client_address = ["10.0.0.1/8", "10.0.0.0/33", "app-1.internal", 7]
       |                                 ^^^^^^^^^^^^^
       |
       = help: write "10.1.2.3", "10.1.0.0/16" or "fd00:1::/32"; names of hosts are not looked up

    error: "app-1.internal" is not an address or network
      --> routes.toml:16:48
       |
    16 | client_address = ["10.0.0.1/8", "10.0.0.0/33", "app-1.internal", 7]
       |                                                ^^^^^^^^^^^^^^^^
       |
       = help: write "10.1.2.3", "10.1.0.0/16" or "fd00:1::/32"; names of hosts are not looked up

    error: expected a string, found an integer
      --> routes.toml:16:66
       |
    16 | client_address = ["10.0.0.1/8", "10.0.0.0/33", "app-1.internal", 7]
       |                                                                  ^
       |
       = help: write it in quotes

    routes.toml: 4 errors
    "#);
    assert_snapshot!(clients("client_id = \"*\"\nclient_address = []"), @r"
    error: an empty array
      --> routes.toml:16:18
       |
    16 | client_address = []
       |                  ^^
       |
       = help: write a value, or drop the line

    routes.toml: 1 error
    ");
}

#[test]
fn a_route_that_gets_no_client() {
    assert_snapshot!(errors_after("orders-*", "*"), @r#"
    error: route "everybody-else" never gets a client: "orders" in line 15 matches all of them first
      --> routes.toml:20:13
       |
    20 | client_id = "*"
       |             ^^^
       |
       = help: the first match wins: move it up, before line 15, or drop it

    routes.toml: 1 error
    "#);
    let routes = |routes: &str| format!("{}{routes}", &VALID[..VALID.find("[[routes]]").unwrap()]);
    let hidden = routes(
        r#"
[[routes]]
name = "apps"
client_id_regex = "(orders|payments)-[a-z0-9]+"
client_address = ["10.0.0.0/9", "10.128.0.0/9"]
cluster = "new"

[[routes]]
name = "orders"
client_id = "orders-[ab]"
client_address = "::ffff:10.1.0.0/112"
cluster = "legacy"
"#,
    );
    assert_snapshot!(errors(&hidden), @r#"
    error: route "orders" never gets a client: "apps" in line 16 matches all of them first
      --> routes.toml:22:13
       |
    22 | client_id = "orders-[ab]"
       |             ^^^^^^^^^^^^^
       |
       = help: the first match wins: move it up, before line 16, or drop it

    routes.toml: 1 error
    "#);
    // Not hidden: from elsewhere too, and one id more.
    parse(&hidden.replace("client_address = \"::ffff:10.1.0.0/112\"\n", ""));
    parse(&hidden.replace("orders-[ab]", "orders-[ab_]"));
}

#[test]
fn names_twice() {
    assert_snapshot!(errors_after("id = 2", "id = 1"), @r"
    error: duplicate cluster id 1
     --> routes.toml:6:6
      |
    6 | id = 1
      |      ^
      |
      = help: line 2 has it already: write another one

    routes.toml: 1 error
    ");
    assert_snapshot!(errors_after("everybody-else", "orders"), @r#"
    error: duplicate route name "orders"
      --> routes.toml:19:8
       |
    19 | name = "orders"
       |        ^^^^^^^^
       |
       = help: line 14 has it already: write another one

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors_after("name = \"internal\"", "name = \"\""), @r#"
    error: an empty string
      --> routes.toml:10:8
       |
    10 | name = ""
       |        ^^
       |
       = help: write a value, or drop the line

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors_after("name = \"orders\"", "name = \"or\\nders\""), @r#"
    error: a name with control characters in it
      --> routes.toml:14:8
       |
    14 | name = "or\nders"
       |        ^^^^^^^^^^
       |
       = help: it is shown in logs and metrics: write a plain one

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors_after("[[routes]]", "[[listeners]]\nname = \"internal\"\nbind = \"127.0.0.1:9093\"\n\n[[routes]]"), @r#"
    error: duplicate listener name "internal"
      --> routes.toml:14:8
       |
    14 | name = "internal"
       |        ^^^^^^^^^^
       |
       = help: line 10 has it already: write another one

    routes.toml: 1 error
    "#);
}

#[test]
fn a_mode_that_does_not_exist() {
    assert_snapshot!(errors_after("cluster = \"new\"", "cluster = \"new\"\nmode = \"direct\""), @r#"
    error: unknown value "direct"
      --> routes.toml:17:8
       |
    17 | mode = "direct"
       |        ^^^^^^^^
       |
       = help: write "bootstrap" or "relay"

    routes.toml: 1 error
    "#);
}

#[test]
fn an_unknown_cluster() {
    assert_snapshot!(errors_after("cluster = \"new\"", "cluster = \"staging\""), @r#"
    error: unknown cluster "staging"
      --> routes.toml:16:11
       |
    16 | cluster = "staging"
       |           ^^^^^^^^^
       |
       = help: the clusters are "legacy" and "new"

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors_after("cluster = \"new\"", "cluster = \"New\""), @r#"
    error: unknown cluster "New"
      --> routes.toml:16:11
       |
    16 | cluster = "New"
       |           ^^^^^
       |
       = help: did you mean "new"?

    routes.toml: 1 error
    "#);
    // The cluster is there, only not right: no second error.
    assert_snapshot!(errors_after("id = 2", ""), @r"
    error: missing key `id`
     --> routes.toml:5:1
      |
    5 | [clusters.new]
      | ^^^^^^^^^^^^^^
      |
      = help: write id = 1: a number from 1 to 15 of its own, that never changes

    routes.toml: 1 error
    ");
}

#[test]
fn a_route_that_takes_a_part_of_what_an_application_sends_by_default_is_a_warning() {
    let with = |glob: &str| warnings(&edited("orders-*", glob));
    assert_snapshot!(with("*-producer"), @r#"
    warning: this may split an application of Kafka Streams: "A-StreamThread-1-producer" goes to cluster "new", and "A-StreamThread-1-consumer" goes to cluster "legacy"
      --> routes.toml:15:13
       |
    15 | client_id = "*-producer"
       |             ^^^^^^^^^^^^
       |
       = help: each of its clients has an id of its own, which begins with its application.id (or its client.id): write that and a star, like client_id = "A-*", for all of them

    routes.toml: 1 warning
    "#);
    for (part, taken, other, advice) in [
        ("*-consumer", "A-StreamThread-1-consumer", "A-StreamThread-1-producer", "client_id = \"A-*\""),
        ("consumer-orders-1", "consumer-orders-1", "producer-1", "give this one a client.id"),
        ("consumer-orders-*", "consumer-orders-1", "producer-1", "give this one a client.id"),
        (
            "connector-consumer-jdbc-*",
            "connector-consumer-jdbc-",
            "connector-producer-jdbc-",
            "{producer,consumer,adminclient,dlq-producer}-jdbc-*",
        ),
        ("billing-*-consumer", "billing-StreamThread-1-consumer", "billing-StreamThread-1-producer", "client_id = \"billing-*\""),
        ("*-StreamThread-*", "A-StreamThread-1-consumer", "A-StateUpdater-1-restore-consumer", "client_id = \"A-*\""),
    ] {
        let text = with(part);
        let split = format!("\"{taken}\" goes to cluster \"new\", and \"{other}\" goes to cluster \"legacy\"");
        assert!(text.contains(&split) && text.contains(advice) && text.ends_with("routes.toml: 1 warning"), "{part}: {text}");
    }
    for whole in ["orders-*", "orders", "rdkafka", "{consumer-*,producer-*,adminclient-*}", "connector-*", "a-producer"] {
        let text = with(whole);
        assert!(!text.contains("split"), "{whole}: {text}");
    }
    // The other one goes nowhere.
    let alone = VALID.split("[[routes]]").take(2).collect::<Vec<_>>().join("[[routes]]").replace("orders-*", "billing-*-consumer");
    assert!(warnings(&alone).contains("-producer\" has no route"), "{}", warnings(&alone));
}
