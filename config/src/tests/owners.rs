//! What routes own: topics and groups, of which each has one owner and can move.

use insta::assert_snapshot;

use super::{errors, one_error, parse, warnings};

/// A relayed route to each of two clusters, and a mirror between them.
const OWNERS: &str = r#"[clusters.legacy]
id = 1
bootstrap_servers = "legacy-1:9092"
node_ids = "1001-1050"
broker_ports = "9100-9149"

[clusters.new]
id = 2
bootstrap_servers = "new-1:9092"
node_ids = "1-50"
broker_ports = "9200-9249"

[[listeners]]
name = "internal"
bind = "10.0.0.1:9092"

[[mirrors]]
name = "legacy-to-new"
source = "legacy"
target = "new"
topics = ["orders", "users"]
topics_regex = 'payment\..*'
groups = ["billing"]
groups_regex = 'team-.*'

[[routes]]
name = "orders"
client_id = "orders-*"
cluster = "new"
mode = "relay"
OF_ORDERS
[[routes]]
name = "rest"
client_id = "*"
cluster = "legacy"
mode = "relay"
OF_REST
[state]
cluster = "new"
"#;

/// The file, with what its two routes own.
fn owners(orders: &str, rest: &str) -> String {
    OWNERS.replace("OF_ORDERS", orders).replace("OF_REST", rest)
}

#[test]
fn the_first_route_that_matches_owns() {
    let config = parse(&owners(
        "topics = [\"orders\", 'payment.{cards,cash}*']\ngroups = 'team-?'",
        "topics = 'payment.*'\ntopics_regex = ['users', 'payments\\.x.*']\ngroups_regex = '.*'\n",
    ));
    assert_eq!(config.warnings, []);
    let owner = |topic: &str| config.owner_of_topic(topic).map(|route| route.name.to_string());
    for (topic, expected) in [
        ("orders", Some("orders")),
        ("payment.cards", Some("orders")),
        ("payment.cash.eur", Some("orders")),
        ("payment.cheque", Some("rest")),
        ("users", Some("rest")),
        ("payments.x1", Some("rest")),
        ("paymentxcards", None),
        ("payment", None),
        ("orders2", None),
        ("Orders", None),
        ("__consumer_offsets", None),
    ] {
        assert_eq!(owner(topic).as_deref(), expected, "{topic}");
    }
    let owner = |group: &str| config.owner_of_group(group).map(|route| route.name.to_string());
    for (group, expected) in [
        ("team-7", Some("orders")),
        ("team-77", Some("rest")),
        ("billing", Some("rest")),
        // As of mirrors: neither what tools made for themselves nor what is kferry's own.
        ("__tool", None),
        ("kferry.x", None),
    ] {
        assert_eq!(owner(group).as_deref(), expected, "{group}");
    }
}

#[test]
fn without_the_keys_nothing_is_owned() {
    let config = parse(&owners("", ""));
    assert!(config.routes.iter().all(|route| route.owns_topics.is_empty() && route.owns_groups.is_empty()));
    assert!(config.owner_of_topic("orders").is_none() && config.owner_of_group("billing").is_none());
}

#[test]
fn only_a_relayed_route_owns() {
    let text = owners("groups = 'billing'\ntopics_regex = '.*'", "").replace("cluster = \"new\"\nmode = \"relay\"", "cluster = \"new\"");
    assert_snapshot!(errors(&text), @r#"
    error: `groups` of route "orders" in bootstrap mode
      --> routes.toml:30:10
       |
    30 | groups = 'billing'
       |          ^^^^^^^^^
       |
       = help: only clients that the proxy stays with can be moved together with what they use: write mode = "relay", or drop what the route owns

    routes.toml: 1 error
    "#);
    // One slip, one error.
    let modus = owners("topics = 'orders'", "").replacen("mode = \"relay\"\ntopics", "modus = \"relay\"\ntopics", 1);
    one_error(&modus, "unknown key `modus`", "did you mean `mode`?");
}

#[test]
fn a_name_has_one_owner() {
    assert_snapshot!(errors(&owners("topics = ['users', 'orders']", "topics = ['orders']\n")), @r#"
    error: `topics` of route "rest": topic "orders" is owned by route "orders" in line 31
      --> routes.toml:37:11
       |
    37 | topics = ['orders']
       |           ^^^^^^^^
       |
       = help: the first route that matches owns: drop it here or there, or move this route up

    routes.toml: 1 error
    "#);
    for (orders, rest, message) in [
        ("topics = 'order*'", "topics = 'orders'", "`topics` of route \"rest\": topic \"orders\" is owned by route \"orders\" in line 31"),
        ("topics_regex = 'order.'", "topics = 'orders'", "`topics` of route \"rest\": topic \"orders\" is owned"),
        (
            "groups = 'billing'",
            "groups = 'billing'",
            "`groups` of route \"rest\": group \"billing\" is owned by route \"orders\" in line 31",
        ),
        ("groups_regex = '.*'", "groups = 'billing'", "`groups` of route \"rest\": group \"billing\" is owned"),
    ] {
        one_error(&owners(orders, rest), message, "the first route that matches owns");
    }
    // What patterns share is the first one's, and a name before a pattern is an exception.
    for (orders, rest) in
        [("topics = '*'", "topics = 'order*'"), ("topics = 'orders'", "topics_regex = '.*'"), ("topics = 'orders'", "groups = 'billing'")]
    {
        parse(&owners(orders, rest));
    }
    one_error(&owners("topics = ['orders', 'orders']", ""), "\"orders\" is there twice", "line 31 has it already");
}

#[test]
fn what_no_mirror_copies_cannot_be_owned() {
    assert_snapshot!(errors(&owners("topics = ['ordres', 'invoices']\ngroups = ['biling', 'others']", "")), @r#"
    error: `topics` of route "orders": no mirror copies topic "ordres"
      --> routes.toml:31:11
       |
    31 | topics = ['ordres', 'invoices']
       |           ^^^^^^^^
       |
       = help: did you mean "orders"?

    error: `topics` of route "orders": no mirror copies topic "invoices"
      --> routes.toml:31:21
       |
    31 | topics = ['ordres', 'invoices']
       |                     ^^^^^^^^^^
       |
       = help: what is not copied cannot move: name it in `topics` of a mirror to or from cluster "new", or drop it here

    error: `groups` of route "orders": no mirror copies group "biling"
      --> routes.toml:32:11
       |
    32 | groups = ['biling', 'others']
       |           ^^^^^^^^
       |
       = help: did you mean "billing"?

    error: `groups` of route "orders": no mirror copies group "others"
      --> routes.toml:32:21
       |
    32 | groups = ['biling', 'others']
       |                     ^^^^^^^^
       |
       = help: what is not copied cannot move: name it in `groups` of a mirror to or from cluster "new", or drop it here

    routes.toml: 4 errors
    "#);
    // By a regex of the mirror, at either end.
    parse(&owners("topics = 'payment.cards'\ngroups = 'team-7'", "topics = 'payment.cash'\ngroups = 'team-8'"));
    // Of what a pattern matches nothing is known here.
    parse(&owners("topics = ['in*', 'payment.*']\ntopics_regex = 'x'\ngroups_regex = 'y'", ""));
    one_error(
        &owners("topics = 'payment.cards'", "").replace("topics_regex", "exclude_regex"),
        "`topics` of route \"orders\": no mirror copies",
        "",
    );
    // Without mirrors in the file there is nothing that could move.
    let alone =
        OWNERS.split_once("[[mirrors]]").map(|(head, rest)| format!("{head}{}", &rest[rest.find("[[routes]]").unwrap()..])).unwrap();
    one_error(
        &alone.replace("OF_ORDERS", "topics = 'orders'").replace("OF_REST", ""),
        "`topics` of route \"orders\": no mirror copies topic",
        "",
    );
    // A mirror that could not be read may copy it.
    one_error(&owners("topics = 'invoices'", "").replace("topics_regex = 'payment", "topics_regex = '(payment"), "not a regex", "");
}

#[test]
fn a_mirror_between_other_clusters_is_none_of_the_routes() {
    let third =
        "[clusters.third]\nid = 3\nbootstrap_servers = \"third:9092\"\nnode_ids = \"1-9\"\nbroker_ports = \"9300-9308\"\n\n[[listeners]]";
    let text = owners("topics = 'users'", "").replace("[[listeners]]", third).replacen("cluster = \"new\"", "cluster = \"third\"", 1);
    one_error(
        &text,
        "`topics` of route \"orders\": no mirror copies topic \"users\" to or from cluster \"third\"",
        "mirror \"legacy-to-new\" copies it from \"legacy\" to \"new\": own it in a route to one of these, or drop it here",
    );
}

#[test]
fn what_is_renamed_or_translated_cannot_be_owned_yet() {
    // Behind the mirror's keys.
    let with = |owned: &str, tables: &str| owners(owned, "").replacen("[[routes]]", &format!("{tables}\n[[routes]]"), 1);
    let renamed = |owned: &str| with(owned, "[mirrors.rename]\n\"orders\" = \"commerce.orders\"\n");
    one_error(
        &renamed("topics = 'orders'"),
        "`topics` of route \"orders\": mirror \"legacy-to-new\" gives topic \"orders\" another name on cluster \"new\", and what is renamed cannot be \
         owned yet",
        "let it keep its name in mirror \"legacy-to-new\"",
    );
    one_error(
        &renamed("topics = 'commerce.orders'"),
        "`topics` of route \"orders\": topic \"commerce.orders\" is a new name by mirror \"legacy-to-new\", and what is renamed cannot be owned yet",
        "let the topic keep its name in mirror \"legacy-to-new\"",
    );
    let by_regex = with("topics = ['payment.cards', 'users']", "[[mirrors.rename_regex]]\nmatch = 'payment\\.(.+)'\nto = 'pay.$1'\n");
    one_error(
        &by_regex,
        "`topics` of route \"orders\": mirror \"legacy-to-new\" gives topic \"payment.cards\" another name",
        "drop it here",
    );
    let translated = owners("topics = 'orders'\ngroups = 'billing'", "")
        .replace("groups = [\"billing\"]", "groups = [\"billing\"]\noffsets = \"translate\"");
    one_error(
        &translated,
        "`topics` of route \"orders\": mirror \"legacy-to-new\" gives topic \"orders\" other offsets on cluster \"new\", and what is translated cannot \
         be owned yet",
        "write offsets = \"preserve\" in mirror \"legacy-to-new\"",
    );
}

#[test]
fn names_and_patterns_that_are_none() {
    one_error(&owners("topics = '__consumer_offsets'", ""), "\"__consumer_offsets\" is an internal topic", "drop it");
    one_error(&owners("topics = 'or ders'", ""), "\"or ders\" is not a topic", "a regex belongs in `topics_regex`");
    one_error(&owners("topics = ['{orders']", ""), "not a glob: `{` without a `}`", "write [{]");
    one_error(&owners("groups_regex = '('", ""), "not a regex", "");
    one_error(&owners("groups = []", ""), "an empty array", "");
    one_error(&owners("topic = 'orders'", ""), "unknown key `topic`", "did you mean `topics`?");
}

#[test]
fn a_glob_is_neither_a_list_nor_a_regex() {
    one_error(&owners("topics = 'orders,order-*'", ""), "no topic has a comma in its name, as \"orders,order-*\" has", "write a list");
    for (glob, is_regex) in
        [("order-.*", true), ("orders.+*", true), ("(a|b)*", true), ("payment.*", false), ("payment.{a,b}*", false), ("*.*", false)]
    {
        let warnings = parse(&owners(&format!("topics = '{glob}'"), "")).warnings;
        assert_eq!(warnings.len(), usize::from(is_regex), "{glob}: {warnings:?}");
        assert!(
            warnings.iter().all(|warning| warning.message == format!("\"{glob}\" looks like a regex, and is read as a glob")),
            "{warnings:?}"
        );
    }
}

#[test]
fn patterns_of_internal_topics_own_nothing() {
    let warnings = parse(&owners("topics = ['__consumer*']", "topics = ['*']\n")).warnings;
    assert_eq!(warnings.len(), 1, "a pattern for all does not mean them: {warnings:?}");
    assert_eq!(
        warnings[0].message,
        "\"__consumer*\" of route \"orders\" means internal topics as __consumer_offsets, and does not own them"
    );
}

#[test]
fn what_patterns_of_two_routes_match_is_the_first_ones() {
    let overlap = |first: &str, second: &str| {
        let config = parse(&owners(&format!("topics = ['{first}']"), &format!("topics = ['{second}']\n")));
        config.routes[0].owns_topics.overlap(&config.routes[1].owns_topics)
    };
    assert_eq!(overlap("order-*", "order-eu*").as_deref(), Some("order-eu"));
    assert_eq!(overlap("*-eu", "order-*").as_deref(), Some("order-eu"));
    assert_eq!((overlap("order-*", "payment-*"), overlap("a?", "b?")), (None, None));
}

#[test]
fn one_slip_is_one_error() {
    let text = owners("topics = ['orders']\ngroups = ['billing']", "").replacen("cluster = \"new\"\nmode", "cluster = \"nwe\"\nmode", 1);
    one_error(&text, "unknown cluster \"nwe\"", "did you mean \"new\"?");
}

#[test]
fn without_a_log_of_decisions_nothing_that_is_owned_moves() {
    let text = owners("topics = ['orders']", "").replace("[state]\ncluster = \"new\"\n", "");
    let warnings = parse(&text).warnings;
    assert_eq!(warnings[0].message, "`topics` of route \"orders\" has no effect");
    assert!(warnings.len() == 1 && warnings[0].hint.as_ref().is_some_and(|hint| hint.starts_with("nothing moves live without [state]")));
}

#[test]
fn whoever_logs_in_by_himself_cannot_follow() {
    let sasl =
        "security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"kferry\"\nsasl_password_env = \"P\"\n";
    let on_new = owners("topics = 'orders'\nclient_address = '10.1.0.0/16'", "").replace("id = 2\n", &format!("id = 2\n{sasl}"));
    assert_snapshot!(warnings(&on_new), @r#"
    warning: `topics` of route "orders", which has no credentials for cluster "new", where brokers ask for a login
      --> routes.toml:35:10
       |
    35 | topics = 'orders'
       |          ^^^^^^^^
       |
       = help: a client that logs in by itself is shown the cluster of its route alone, and cannot follow what moves to the other one: write [routes.credentials.new]

    routes.toml: 1 warning
    "#);
    let on_both = on_new.replace("id = 1\n", &format!("id = 1\n{sasl}"));
    let told = &parse(&on_both).warnings[0];
    assert!(told.message.contains("no credentials for clusters \"legacy\" and \"new\""), "{}", told.message);
    assert!(told.hint.as_ref().unwrap().ends_with("[routes.credentials.legacy] and [routes.credentials.new]"), "{:?}", told.hint);
    let login = "\n[routes.credentials.new]\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"orders\"\nsasl_password_env = \"P\"\n";
    let with = on_new.replace("client_address = '10.1.0.0/16'\n", &format!("client_address = '10.1.0.0/16'\n{login}"));
    assert_eq!(parse(&with).warnings, []);
    // Who owns nothing follows nothing.
    assert_eq!(parse(&on_new.replace("topics = 'orders'\n", "")).warnings, []);
}
