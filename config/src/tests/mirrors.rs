//! Mirrors: what is copied where, and under which names.

use insta::assert_snapshot;

use super::{VALID, errors, parse, refused, warnings};
use crate::{Mirror, NamingError, Offsets, OnError, OnLost};

/// A file of mirrors alone.
const MIRRORS: &str = r#"[clusters.legacy]
id = 1
bootstrap_servers = "127.0.0.1:19092"

[clusters.new]
id = 2
bootstrap_servers = "127.0.0.1:29092"

[[mirrors]]
name = "legacy-to-new"
source = "legacy"
target = "new"
topics = ["orders", "payments"]
"#;

/// The file of mirrors with more keys, or tables, at its end.
fn with(keys: &str) -> String {
    format!("{MIRRORS}{keys}")
}

/// The file of mirrors with another one behind it.
fn and_mirror(keys: &str) -> String {
    with(&format!("\n[[mirrors]]\nname = \"second\"\n{keys}"))
}

/// The file with other topics.
fn topics(topics: &str) -> String {
    MIRRORS.replace("topics = [\"orders\", \"payments\"]\n", topics)
}

fn only(text: &str) -> Mirror {
    let config = parse(text);
    assert_eq!((config.warnings.len(), config.mirrors.len()), (0, 1));
    Mirror::clone(&config.mirrors[0])
}

#[test]
fn a_file_of_mirrors_alone() {
    let config = parse(MIRRORS);
    assert!(config.listeners.is_empty() && config.routes.is_empty());
    let mirror = only(MIRRORS);
    assert_eq!((&*mirror.name, &*mirror.source.name, &*mirror.target.name), ("legacy-to-new", "legacy", "new"));
    assert_eq!((mirror.offsets, mirror.on_error, mirror.on_lost), (Offsets::Preserve, OnError::Fail, OnLost::Fail));
    assert!(mirror.sync_topic_configs);
    assert_eq!((mirror.replication_factor, mirror.max_padding, mirror.max_bytes_per_second), (None, 10_000_000_000, None));
    assert_eq!(mirror.groups_interval, std::time::Duration::from_secs(10));
    assert!(mirror.topic_config.is_empty() && mirror.groups.is_empty() && !mirror.groups.matches("billing"));
    assert_eq!(mirror.topics.names().collect::<Vec<_>>(), ["orders", "payments"]);
    assert!(mirror.topics.matches("orders") && !mirror.topics.matches("orders2"));
    assert_eq!(mirror.naming.target("orders").unwrap(), "orders");
}

#[test]
fn what_on_error_leaves_out_is_followed_where_it_was_lost() {
    let on_lost = |keys: &str| only(&topics(&format!("topics = \"orders\"\n{keys}"))).on_lost;
    assert_eq!(on_lost("on_error = \"skip\""), OnLost::Follow);
    assert_eq!(on_lost("on_error = \"skip\"\non_lost = \"fail\""), OnLost::Fail);
    assert_eq!(on_lost("on_lost = \"follow\""), OnLost::Follow);
}

#[test]
fn every_key_of_a_mirror() {
    let text = topics("")
        + r#"topics = ["orders"]
topics_regex = ['payment\..*', 'a|ab']
exclude_regex = 'payment\.tmp.*'
offsets = "translate"
on_error = "dead-letter"
on_lost = "fail"
sync_topic_configs = false
groups = "billing"
groups_regex = ["team-.*"]
groups_exclude_regex = "team-0.*"
groups_interval_seconds = 30
replication_factor = 3
max_padding = 1_000
max_bytes_per_second = 50_000_000
topic_naming = '^[a-z]+(\.[a-z0-9-]+)+$'

[mirrors.topic_config]
"retention.ms" = "604800000"
"cleanup.policy" = "compact"

[mirrors.rename]
"orders" = "commerce.orders.v1"
"payment.gone" = "commerce.gone"

[[mirrors.rename_regex]]
match = '^payment\.(?<what>[a-z]+)$'
to = 'billing.${what}.v1'

[[mirrors.rename_regex]]
match = 'payment\.([a-z]+)(-x)?.*'
to = 'rest.$1'
"#;
    let mirror = only(&text);
    assert_snapshot!(format!("{mirror:#?}"));
    for (topic, target) in [
        ("orders", Some("commerce.orders.v1")),
        ("payment.gone", Some("commerce.gone")),
        ("payment.cards", Some("billing.cards.v1")),
        ("payment.cards.7", Some("rest.cards")),
        ("a", None),
        ("ab", None),
    ] {
        assert!(mirror.topics.matches(topic), "{topic}");
        match target {
            Some(target) => assert_eq!(mirror.naming.target(topic).unwrap(), target),
            None => assert!(matches!(mirror.naming.target(topic), Err(NamingError::Unconventional { .. })), "{topic}"),
        }
    }
    for topic in
        ["order", "orders.x", "payment", "payment.tmp", "payment.tmp7", "my-payment.x", "abc", "__consumer_offsets", "kferry.routes"]
    {
        assert!(!mirror.topics.matches(topic), "{topic}");
    }
    assert!(mirror.groups.matches("billing") && mirror.groups.matches("team-7"));
    assert!(!mirror.groups.matches("team") && !mirror.groups.matches("team-07"));
    assert_snapshot!(mirror.naming.target("a").unwrap_err(), @r#"topic "a" would be called "a" on the target, which is not as `topic_naming` wants it, ^[a-z]+(\.[a-z0-9-]+)+$: give it another name in [mirrors.rename]"#);
}

#[test]
fn a_limit_of_zero_is_none_and_padding_of_zero_is_never() {
    let mirror = only(&with("max_bytes_per_second = 0\nmax_padding = 0\n"));
    assert_eq!((mirror.max_bytes_per_second, mirror.max_padding), (None, 0));
}

#[test]
fn a_file_of_the_proxy_keeps_its_keys_whatever_is_mirrored() {
    let mirror = &MIRRORS[MIRRORS.find("[[mirrors]]").unwrap()..];
    assert_eq!(parse(&format!("{VALID}{mirror}")).mirrors.len(), 1);
    let routes = VALID.find("[[routes]]").unwrap();
    assert_snapshot!(errors(&format!("{}{mirror}", &VALID[..routes])), @r#"
    error: missing key `routes`
     --> routes.toml:1:1
      |
    1 | [clusters.legacy]
      | ^
      |
      = help: write [[routes]]; with client_id = "*" and a cluster it is for every client

    routes.toml: 1 error
    "#);
    let listeners = VALID.find("[[listeners]]").unwrap();
    assert_snapshot!(errors(&format!("{}{}{mirror}", &VALID[..listeners], &VALID[routes..])), @r"
    error: missing key `listeners`
     --> routes.toml:1:1
      |
    1 | [clusters.legacy]
      | ^
      |
      = help: write [[listeners]] for each address that clients connect to

    routes.toml: 1 error
    ");
    // One slip is one error.
    assert_snapshot!(errors(&MIRRORS.replace("[[mirrors]]", "[[mirror]]")), @r"
    error: unknown key `mirror`
     --> routes.toml:9:3
      |
    9 | [[mirror]]
      |   ^^^^^^
      |
      = help: did you mean `mirrors`?

    routes.toml: 1 error
    ");
    assert_snapshot!(errors(&format!("mirrors = []\n{VALID}")), @r"
    error: an empty array
     --> routes.toml:1:11
      |
    1 | mirrors = []
      |           ^^
      |
      = help: write at least one [[mirrors]]

    routes.toml: 1 error
    ");
}

/// No slip hides another, and none is told twice.
#[test]
fn every_error_of_mirrors_at_once() {
    let text = r#"[clusters.legacy]
id = 1
bootstrap_servers = "legacy-1:9092"

[clusters.new]
id = 2
bootstrap_servers = "new-1:9093"

[clusters.third]
id = 3
bootstrap_servers = "third-1:9093"
security_protocol = "SASL_PLAINTEXT"

[[mirrors]]
name = "legacy to new"
source = "legacy"
target = "nwe"
topics = ["orders", "payment.*", "orders", "__consumer_offsets", 7]
topics_regex = ["(", 'x{1000}{1000}']
exclude.regex = "tmp"
offsets = "preserv"
on_error = "ignore"
on_lost = "go on"
sync_topic_configs = "true"
groups = ["billing", ""]
replication_factor = 0
max_padding = "all"
max_bytes_per_second = -1

[mirrors.topic_config]
retention.ms = "604800000"
retention_bytes = "1"
"min.insync.replicas" = 2

[mirrors.rename]
users.v1 = "x"
users.v2.eu = "y"
"orders" = "commerce/orders"
"a.*" = "b"
payments = { to = "billing" }

[[mirrors.rename_regex]]
match = '^payment\.(.+)$'
to = 'billing.$1_v1'

[[mirrors.rename_regex]]
match = '^order\.(?<what>.+)-(.+)$'
to = 'billing.$what.${whta}.$3'

[[mirrors.rename_regex]]
match = '['
to = 'a b'

[[mirrors.rename_regex]]
match = 'x.+'
to = '$1/x'

[[mirrors.rename_regex]]
match = 'y'

[[mirrors]]
name = "same"
source = "legacy"
target = "legacy"
topics_regex = ".*"

[[mirrors]]
name = "same"
source = "legacy"
target = "third"

[[mirrors]]
name = "sa.me"
source = "legacy"
target = "third"
topics = ["b"]

[[mirrors]]
name = "sa_me"
source = "third"
target = "new"
topic = "c"
"#;
    assert_snapshot!(errors(text));
}

#[test]
fn two_topics_with_one_name() {
    assert_snapshot!(errors(&with("[mirrors.rename]\n\"orders\" = \"sales\"\n\"payments\" = \"sales\"\n")), @r#"
    error: topic "orders" and topic "payments" would both be "sales" of cluster "new"
      --> routes.toml:16:14
       |
    16 | "payments" = "sales"
       |              ^^^^^^^
       |
       = help: line 15 has the other one: write another name in one of them

    routes.toml: 1 error
    "#);
    // Only one of them is renamed.
    assert_snapshot!(errors(&with("[mirrors.rename]\n\"orders\" = \"payments\"\n")), @r#"
    error: topic "orders" and topic "payments" would both be "payments" of cluster "new"
      --> routes.toml:15:12
       |
    15 | "orders" = "payments"
       |            ^^^^^^^^^^
       |
       = help: line 13 has the other one: write another name in one of them

    routes.toml: 1 error
    "#);
    // By a regex, to a name that Kafka would refuse.
    let rule = "[[mirrors.rename_regex]]\nmatch = 'payments'\nto = 'commerce_orders'\n";
    assert_snapshot!(errors(&with(&format!("[mirrors.rename]\n\"orders\" = \"commerce.orders\"\n{rule}"))), @r#"
    error: topic "orders" and topic "payments" would be "commerce.orders" and "commerce_orders" of cluster "new"
      --> routes.toml:15:12
       |
    15 | "orders" = "commerce.orders"
       |            ^^^^^^^^^^^^^^^^^
       |
       = help: Kafka refuses names that differ in `.` and `_` only, and line 13 has the other one: write another one

    routes.toml: 1 error
    "#);
    // From two clusters.
    let third =
        "source = \"third\"\ntarget = \"new\"\ntopics = [\"orders\"]\n[clusters.third]\nid = 3\nbootstrap_servers = \"third:9092\"\n";
    assert_snapshot!(errors(&and_mirror(third)), @r#"
    error: topic "orders" of cluster "legacy" and topic "orders" of cluster "third" would both be "orders" of cluster "new"
      --> routes.toml:19:11
       |
    19 | topics = ["orders"]
       |           ^^^^^^^^
       |
       = help: line 13 has the other one: write another name in one of them

    routes.toml: 1 error
    "#);
}

#[test]
fn a_name_that_is_an_old_one_and_a_new_one() {
    assert_snapshot!(errors(&with("[mirrors.rename]\n\"orders\" = \"payments\"\n\"payments\" = \"billing\"\n")), @r#"
    error: "payments" is the new name of topic "orders" and the old name of what becomes "billing"
      --> routes.toml:16:14
       |
    16 | "payments" = "billing"
       |              ^^^^^^^^^
       |
       = help: under one name there would be different records on the two clusters: write another name here or in line 15

    routes.toml: 1 error
    "#);
    // Exchanged: one error, not two.
    assert_snapshot!(errors(&with("[mirrors.rename]\n\"orders\" = \"payments\"\n\"payments\" = \"orders\"\n")), @r#"
    error: "payments" is the new name of topic "orders" and the old name of what becomes "orders"
      --> routes.toml:16:14
       |
    16 | "payments" = "orders"
       |              ^^^^^^^^
       |
       = help: under one name there would be different records on the two clusters: write another name here or in line 15

    routes.toml: 1 error
    "#);
}

#[test]
fn mirrors_that_copy_the_same() {
    assert_snapshot!(errors(&and_mirror("source = \"legacy\"\ntarget = \"new\"\ntopics = [\"users\", \"orders\"]\n")), @r#"
    error: topic "orders" of cluster "legacy" is copied to "new" twice
      --> routes.toml:19:20
       |
    19 | topics = ["users", "orders"]
       |                    ^^^^^^^^
       |
       = help: mirror "legacy-to-new" in line 13 has it already: leave it out of one of them

    routes.toml: 1 error
    "#);
    // To another name: two different topics, and nobody knows why.
    let renamed = "source = \"legacy\"\ntarget = \"new\"\ntopics = [\"orders\"]\n[mirrors.rename]\n\"orders\" = \"orders.v2\"\n";
    assert_snapshot!(errors(&and_mirror(renamed)), @r#"
    error: topic "orders" of cluster "legacy" is copied to "new" twice
      --> routes.toml:21:12
       |
    21 | "orders" = "orders.v2"
       |            ^^^^^^^^^^^
       |
       = help: mirror "legacy-to-new" in line 13 has it already: leave it out of one of them

    routes.toml: 1 error
    "#);
    // A regex of the other one.
    assert_snapshot!(errors(&and_mirror("source = \"legacy\"\ntarget = \"new\"\ntopics_regex = 'o.*'\n")), @r#"
    error: topic "orders" of cluster "legacy" is copied to "new" twice
      --> routes.toml:19:16
       |
    19 | topics_regex = 'o.*'
       |                ^^^^^
       |
       = help: mirror "legacy-to-new" in line 13 has it already: leave it out of one of them

    routes.toml: 1 error
    "#);
    assert_eq!(
        parse(&and_mirror("source = \"legacy\"\ntarget = \"new\"\ntopics_regex = '.*'\nexclude_regex = 'orders|payments'\n")).mirrors.len(),
        2
    );
}

#[test]
fn mirrors_in_a_circle() {
    assert_snapshot!(errors(&and_mirror("source = \"new\"\ntarget = \"legacy\"\ntopics = [\"payments\"]\n")), @r#"
    error: topic "payments" of cluster "legacy" would be copied back to where it comes from
      --> routes.toml:19:11
       |
    19 | topics = ["payments"]
       |           ^^^^^^^^^^
       |
       = help: leave it out here, or in line 13 of mirror "legacy-to-new": after a move a mirror runs backwards by itself

    routes.toml: 1 error
    "#);
    // By the name that it has there.
    let renamed = with("[mirrors.rename]\n\"orders\" = \"sales\"\n\n[[mirrors]]\nname = \"back\"\nsource = \"new\"\ntarget = \"legacy\"\n");
    assert_snapshot!(errors(&format!("{renamed}topics = [\"sales\"]\n")), @r#"
    error: topic "orders" of cluster "legacy" would be copied back to where it comes from
      --> routes.toml:21:11
       |
    21 | topics = ["sales"]
       |           ^^^^^^^
       |
       = help: leave it out here, or in line 15 of mirror "legacy-to-new": after a move a mirror runs backwards by itself

    routes.toml: 1 error
    "#);
    assert_eq!(parse(&format!("{renamed}topics = [\"users\"]\n")).mirrors.len(), 2);
    // Over a third cluster.
    let third = r#"source = "new"
target = "third"
topics_regex = ".*"

[[mirrors]]
name = "last"
source = "third"
target = "legacy"
topics = "orders"

[clusters.third]
id = 3
bootstrap_servers = "third:9092"
"#;
    assert_snapshot!(errors(&and_mirror(third)), @r#"
    error: topic "orders" of cluster "legacy" would be copied back to where it comes from
      --> routes.toml:25:10
       |
    25 | topics = "orders"
       |          ^^^^^^^^
       |
       = help: leave it out here, or in line 13 of mirror "legacy-to-new": after a move a mirror runs backwards by itself

    routes.toml: 1 error
    "#);
    assert_eq!(parse(&and_mirror(third).replace("topics = \"orders\"", "topics = \"users\"")).mirrors.len(), 3);
}

#[test]
fn the_convention_of_names() {
    let text = with("topic_naming = '[a-z]+\\.[a-z]+'\n[mirrors.rename]\n\"orders\" = \"Orders\"\n");
    assert_snapshot!(errors(&text), @r#"
    error: topic "payments" is not named as `topic_naming` wants it
      --> routes.toml:13:21
       |
    13 | topics = ["orders", "payments"]
       |                     ^^^^^^^^^^
       |
       = help: it wants [a-z]+\.[a-z]+: write another name in [mirrors.rename]

    error: topic "orders" would be called "Orders", not as `topic_naming` wants it
      --> routes.toml:16:12
       |
    16 | "orders" = "Orders"
       |            ^^^^^^^^
       |
       = help: it wants [a-z]+\.[a-z]+: write another name in [mirrors.rename]

    routes.toml: 2 errors
    "#);
    let rule = "[[mirrors.rename_regex]]\nmatch = '(o).*'\nto = 'kferry.$1'\n[[mirrors.rename_regex]]\nmatch = 'p(.*)'\nto = 'P$1'\n";
    assert_snapshot!(errors(&with(&format!("topic_naming = '[a-z]+'\n{rule}"))), @r#"
    error: topic "orders" cannot be called "kferry.o"
      --> routes.toml:13:11
       |
    13 | topics = ["orders", "payments"]
       |           ^^^^^^^^
       |
       = help: correct [[mirrors.rename_regex]], or give it a name in [mirrors.rename]: it belongs to Kafka or kferry

    error: topic "payments" would be called "Payments", not as `topic_naming` wants it
      --> routes.toml:13:21
       |
    13 | topics = ["orders", "payments"]
       |                     ^^^^^^^^^^
       |
       = help: it wants [a-z]+: write another name in [mirrors.rename]

    routes.toml: 2 errors
    "#);
}

#[test]
fn selections_that_are_probably_not_meant() {
    assert_snapshot!(warnings(&with("exclude_regex = 'order.*'\n[mirrors.rename]\n\"users\" = \"people\"\n")), @r#"
    warning: topic "orders" is excluded by `exclude_regex`
      --> routes.toml:13:11
       |
    13 | topics = ["orders", "payments"]
       |           ^^^^^^^^
       |
       = help: what is excluded is not copied: drop it here, or write a narrower regex there

    warning: topic "users" is renamed, but this mirror does not copy it
      --> routes.toml:16:1
       |
    16 | "users" = "people"
       | ^^^^^^^
       |
       = help: name it in `topics`, or drop the line

    routes.toml: 2 warnings
    "#);
    let third = "[clusters.third]\nid = 3\nbootstrap_servers = \"third:9092\"\n";
    assert_snapshot!(warnings(&with(third)), @r#"
    warning: no route or mirror has cluster "third"
      --> routes.toml:14:11
       |
    14 | [clusters.third]
       |           ^^^^^
       |
       = help: write one with it, or drop it

    routes.toml: 1 warning
    "#);
}

#[test]
fn a_mirror_logs_in_by_itself() {
    let text = MIRRORS.replace("29092\"\n", "29092\"\nsecurity_protocol = \"SASL_PLAINTEXT\"\n");
    assert_snapshot!(errors(&text), @r#"
    error: a mirror needs kferry's own login at cluster "new"
      --> routes.toml:13:10
       |
    13 | target = "new"
       |          ^^^^^
       |
       = help: below line 5 write sasl_mechanism, sasl_username and sasl_password_file

    routes.toml: 1 error
    "#);
}

/// What a parser of TOML recovers from a text may be cut anywhere: here in the tables of renames.
#[test]
fn tables_of_renames_that_are_cut() {
    for tables in [
        "[mirrors.rename.x]\na = 1\n",
        "[mirrors.rename]\na.b = \n",
        "rename = 1\n",
        "[[mirrors.rename]]\na = 'b'\n",
        "rename_regex = [1]\n",
    ] {
        let text = with(tables);
        let invalid = refused(&text);
        assert_eq!(invalid.errors.len(), 1, "{invalid}");
    }
}

#[test]
fn a_topic_that_has_no_room_for_dead_letters() {
    let file = |len: usize| topics(&format!("topics = [\"{}\"]\non_error = \"dead-letter\"\n", "o".repeat(len)));
    parse(&file(245));
    let error = errors(&file(246));
    assert!(error.contains("a topic with a name of 250 characters, and Kafka takes 249") && error.contains("[mirrors.rename]"), "{error}");
    let renamed = format!("{}[mirrors.rename]\n\"{}\" = \"orders\"\n", file(246), "o".repeat(246));
    parse(&renamed);
}
