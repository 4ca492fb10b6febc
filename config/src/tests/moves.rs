//! What live moves need: `[state]`, `[moves]`, and `stopped` of a route.

use std::sync::Arc;
use std::time::Duration;

use insta::assert_snapshot;

use super::{VALID, edited, errors, errors_after, one_error, parse, warnings};

const MIRROR: &str = "\n[[mirrors]]\nname = \"legacy-to-new\"\nsource = \"legacy\"\ntarget = \"new\"\ntopics = \"orders\"\n";

/// The valid file with a mirror, and with these tables.
fn with(tables: &str) -> String {
    format!("{VALID}{MIRROR}\n{tables}")
}

#[test]
fn the_log_is_on_a_cluster_of_the_file() {
    let config = parse(&with("[state]\ncluster = \"new\"\n"));
    assert_eq!(config.warnings, []);
    let state = config.state.as_ref().expect("the file has it");
    assert!(Arc::ptr_eq(&state.cluster, config.cluster("new").unwrap()));
    assert_eq!(config.moves.hold, Duration::from_secs(3));

    let config = parse(&with(""));
    assert_eq!((config.state, config.moves.hold), (None, Duration::from_secs(3)));

    assert_snapshot!(errors(&with("[state]\ncluster = \"nwe\"\n")), @r#"
    error: unknown cluster "nwe"
      --> routes.toml:30:11
       |
    30 | cluster = "nwe"
       |           ^^^^^
       |
       = help: did you mean "new"?

    routes.toml: 1 error
    "#);
    one_error(&with("[state]\n"), "missing key `cluster`", "write the NAME of the [clusters.NAME]");
    one_error(&with("[state]\nclusters = \"new\"\n"), "unknown key `clusters`", "did you mean `cluster`?");
    one_error(&with("[stat]\ncluster = \"new\"\n[moves]\nhold_ms = 500\n"), "unknown key `stat`", "did you mean `state`?");
    one_error(&with("[[state]]\ncluster = \"new\"\n"), "expected a table", "write it as [state]");
}

/// Not in a route or mirror, it is not a cluster that nobody uses.
#[test]
fn a_cluster_for_the_log_alone_is_used() {
    let third = "[clusters.third]\nid = 3\nbootstrap_servers = \"third-1:9092\"\n";
    assert_eq!(parse(&with(&format!("{third}[state]\ncluster = \"third\"\n"))).warnings, []);
    assert!(warnings(&with(third)).starts_with("warning: no route or mirror has cluster \"third\""));
}

#[test]
fn kferry_logs_in_for_the_log_by_itself() {
    let third = |login: &str| {
        let cluster = "[clusters.third]\nid = 3\nbootstrap_servers = \"third-1:9092\"\nsecurity_protocol = \"SASL_PLAINTEXT\"\n";
        with(&format!("{cluster}{login}\n[state]\ncluster = \"third\"\n"))
    };
    assert_snapshot!(errors(&third("")), @r#"
    error: [state] needs kferry's own login at cluster "third"
      --> routes.toml:35:11
       |
    35 | cluster = "third"
       |           ^^^^^^^
       |
       = help: below line 29 write sasl_mechanism, sasl_username and sasl_password_file

    routes.toml: 1 error
    "#);
    let login = "sasl_mechanism = \"PLAIN\"\nsasl_username = \"kferry\"\nsasl_password_env = \"KFERRY\"\n";
    assert_eq!(parse(&third(login)).warnings, []);
    // Where a mirror needs the same login, or a relayed route, that is one error.
    let sasl = with("[state]\ncluster = \"new\"\n").replacen("id = 2\n", "id = 2\nsecurity_protocol = \"SASL_PLAINTEXT\"\n", 1);
    one_error(&sasl, "a mirror needs kferry's own login at cluster \"new\"", "write sasl_mechanism");
    let relayed = third("").replacen("cluster = \"legacy\"\n", "cluster = \"third\"\nmode = \"relay\"\n", 1).replacen(
        "id = 3\n",
        "id = 3\nnode_ids = \"1-9\"\nbroker_ports = \"9100-9108\"\n",
        1,
    );
    one_error(&relayed, "relay mode needs kferry's own login at cluster \"third\"", "write sasl_mechanism");
}

#[test]
fn without_a_mirror_nothing_can_move() {
    assert_snapshot!(warnings(&format!("{VALID}\n[state]\ncluster = \"new\"\n")), @r#"
    warning: [state] without a mirror: nothing can move
      --> routes.toml:23:1
       |
    23 | [state]
       | ^^^^^^^
       |
       = help: only what a mirror copies can move: write [[mirrors]]; after moves leave it so: without [state] no proxy starts beside their log

    routes.toml: 1 warning
    "#);
}

#[test]
fn what_has_no_effect_without_state_is_said_and_does_not_stop_the_edit() {
    let text = with("[moves]\nhold_ms = 500\n").replacen("cluster = \"new\"\n", "cluster = \"new\"\nstopped = true\n", 1);
    assert_snapshot!(warnings(&text), @r#"
    warning: `stopped` of route "orders" has no effect
      --> routes.toml:17:11
       |
    17 | stopped = true
       |           ^^^^
       |
       = help: nothing moves live without [state]: write it, with the cluster that is to have the log of decisions, or drop this

    warning: [moves] has no effect
      --> routes.toml:30:1
       |
    30 | [moves]
       | ^^^^^^^
       |
       = help: nothing moves live without [state]: write it, with the cluster that is to have the log of decisions, or drop this

    routes.toml: 2 warnings
    "#);
    assert_eq!(parse(&text).moves.hold, Duration::from_millis(500));
    assert_eq!(parse(&format!("{text}[state]\ncluster = \"new\"\n")).warnings, []);
    assert_eq!(parse(&edited("cluster = \"new\"\n", "cluster = \"new\"\nstopped = false\n")).warnings, []);
}

#[test]
fn a_hold_is_bounded() {
    let moves = |keys: &str| with(&format!("[state]\ncluster = \"new\"\n[moves]\n{keys}"));
    for (written, hold) in [("hold_ms = 100\n", 100), ("hold_ms = 10_000\n", 10_000), ("", 3000)] {
        let config = parse(&moves(written));
        assert_eq!((config.warnings, config.moves.hold), (vec![], Duration::from_millis(hold)));
    }
    for value in ["99", "10001", "0"] {
        one_error(&moves(&format!("hold_ms = {value}\n")), &format!("{value} is out of range"), "write a number from 100 to 10000");
    }
    one_error(&moves("hold.ms = 500\n"), "unknown key `hold.ms`", "write `hold_ms`");
}

#[test]
fn producers_of_a_bootstrap_route_are_stopped_by_word() {
    let config = parse(&with("[state]\ncluster = \"new\"\n").replacen("cluster = \"new\"\n", "cluster = \"new\"\nstopped = true\n", 1));
    assert_eq!(config.warnings, []);
    assert_eq!(config.routes.iter().map(|route| route.stopped).collect::<Vec<_>>(), [true, false]);
    assert_snapshot!(errors_after("cluster = \"new\"\n", "cluster = \"new\"\nstopped = \"yes\"\n"), @r#"
    error: expected true or false, found a string
      --> routes.toml:17:11
       |
    17 | stopped = "yes"
       |           ^^^^^
       |
       = help: write true or false

    routes.toml: 1 error
    "#);
}

#[test]
fn a_relayed_route_is_held_and_needs_no_word() {
    let relayed = with("[state]\ncluster = \"new\"\n")
        .replacen("cluster = \"new\"\n", "cluster = \"new\"\nmode = \"relay\"\nstopped = true\n", 1)
        .replacen("id = 2\n", "id = 2\nnode_ids = \"1-9\"\nbroker_ports = \"9100-9108\"\n", 1);
    assert_snapshot!(errors(&relayed), @r#"
    error: `stopped` of route "orders" in relay mode
      --> routes.toml:20:11
       |
    20 | stopped = true
       |           ^^^^
       |
       = help: it is for bootstrap mode, where clients are with the brokers by themselves: drop this line, the proxy holds what relayed clients produce

    routes.toml: 1 error
    "#);
    // One slip, one error: a mode that cannot be read is none.
    one_error(&relayed.replacen("mode =", "modus =", 1), "unknown key `modus`", "did you mean `mode`?");
}
