//! `kferry acls` on real clusters: what the target lacks, and that clients may do there what they may do on the source, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::LIMIT;
use harness::kafka::{ALICE, Acl, BOB, Cluster, Listener, Operation, Record, Resource};
use harness::kferry::{Done, File, mirror};
use harness::mirror::Mirror;
use harness::ports;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};
use serde_json::Value;

/// Topics of the source that are copied, with their names on the target.
const COPIED: [(&str, &str); 4] =
    [("pay.cards", "billing.cards"), ("pay.cash", "billing.cash"), ("pay.secret.x", "billing.secret.x"), ("orders", "orders")];
const LINES: &str = "topics_regex = ['pay\\..*', 'orders']\n[[mirrors.rename_regex]]\nmatch = 'pay\\.(.+)'\nto = 'billing.$1'";

#[test]
fn what_a_client_may_do_moves_with_what_is_copied() -> Result<()> {
    let clusters = Cluster::start_all(vec![
        Cluster::version("2.8.2").name("source").listen(Listener::SaslPlaintext).acls(),
        Cluster::version("4.3.0").name("target").first_node_id(11).listen(Listener::SaslPlaintext).acls(),
        Cluster::version("3.9.1").name("open").first_node_id(21),
    ])?;
    let [source, target, open] = &clusters[..] else { bail!("three clusters were asked for") };
    for (topic, _) in COPIED.into_iter().chain([("other", "")]) {
        source.create_topic(topic, 1, &[])?;
        source.produce(topic, &[Record::new("k", "v")])?;
    }
    target.create_topic("theirs", 1, &[])?;
    source.add_acls(&granted())?;
    Mirror::new(source, target, LINES)?.copy()?;
    let file = File::new(source, target, None, &mirror("m", LINES))?;

    acls_are_copied(source, target, &file).context("ACLs")?;
    users_are_created_anew(source, target, &file).context("users")?;
    quotas_are_copied(source, target, &file).context("quotas")?;
    a_right_of_kferry_is_missing(source, target)?;
    clusters_without_an_authorizer(source, open)
}

fn granted() -> Vec<Acl> {
    let name = str::to_owned;
    vec![
        Acl::allow(ALICE.name, Operation::Read, Resource::TopicPrefix(name("pay."))),
        Acl::allow(ALICE.name, Operation::Write, Resource::TopicPrefix(name("pay.c"))),
        Acl::deny(ALICE.name, Operation::Read, Resource::TopicPrefix(name("pay.secret."))),
        Acl::allow(ALICE.name, Operation::Read, Resource::GroupPrefix(name("alice-"))),
        Acl::allow(ALICE.name, Operation::Alter, Resource::Cluster),
        Acl::allow(BOB.name, Operation::All, Resource::Topic(name("orders"))),
        Acl::deny(BOB.name, Operation::Write, Resource::Topic(name("orders"))),
        Acl::allow(BOB.name, Operation::Write, Resource::Topic(name("other"))),
        Acl::allow(BOB.name, Operation::Describe, Resource::Topic(name("*"))),
        Acl::allow(BOB.name, Operation::Read, Resource::Group(name("*"))),
        Acl::allow(BOB.name, Operation::Write, Resource::TransactionalId(name("tx"))),
        Acl::allow("nobody", Operation::Read, Resource::Group(name("nobodys"))),
    ]
}

/// Lines of a list of bindings, in an order of their own.
fn lines(bindings: &Value) -> BTreeSet<String> {
    let line = |binding: &Value| {
        let part = |key: &str| binding[key].as_str().unwrap_or_default().to_owned();
        let parts = ["permission", "principal", "operation", "resource_type", "pattern_type", "resource_name"].map(part);
        parts.join(" ")
    };
    bindings.as_array().into_iter().flatten().map(line).collect()
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

/// A run, and what it says of the only mirror.
fn ask(file: &File, arguments: &[&str], code: i32) -> Result<Value> {
    let done = file.kferry(&[&["acls", "--json"], arguments].concat())?;
    Ok(done.ends_with(code)?.json()?["mirrors"][0].clone())
}

fn acls_are_copied(source: &Cluster, target: &Cluster, file: &File) -> Result<()> {
    let expected = set(&[
        "Allow User:alice Read Topic Prefixed billing.",
        "Allow User:alice Write Topic Prefixed billing.c",
        "Deny User:alice Read Topic Prefixed billing.secret.",
        "Allow User:alice Read Group Prefixed alice-",
        "Allow User:bob All Topic Literal orders",
        "Deny User:bob Write Topic Literal orders",
        "Allow User:bob Describe Topic Literal billing.cards",
        "Allow User:bob Describe Topic Literal billing.cash",
        "Allow User:bob Describe Topic Literal billing.secret.x",
        "Allow User:bob Describe Topic Literal orders",
        "Allow User:bob Read Group Literal *",
        "Allow User:bob Write TransactionalId Literal tx",
    ]);
    let before = ask(file, &[], 1)?;
    ensure!(lines(&before["acls"]["add"]) == expected, "{before:#}");
    ensure!(before["acls"]["elsewhere"] == 2 && before["acls"]["present"] == 0, "{before:#}");
    ensure!(lines(&before["acls"]["left_out"]) == set(&["Allow User:alice Alter Cluster Literal kafka-cluster"]), "{before:#}");
    let shown = file.kferry(&["acls"])?;
    shown.ends_with(1)?.says("ACLs: 12 to add, 0 added, 0 there already")?.says("one for each topic: Allow User:bob from * Describe on")?;
    shown.says("not copied: Allow User:alice from * Alter on Literal Cluster kafka-cluster: it is about all of a cluster")?;
    ensure!(ask(file, &[], 1)? == before, "something was changed without --apply");

    let applied = ask(file, &["--apply"], 0)?;
    ensure!(lines(&applied["acls"]["added"]) == expected && lines(&applied["acls"]["add"]).is_empty(), "{applied:#}");
    for arguments in [&["acls"][..], &["acls", "--apply"]] {
        file.kferry(arguments)?.ends_with(0)?.says("ACLs: 0 to add, 0 added, 12 there already, 0 to be decided, 0 only on target")?;
    }
    both_clusters_allow_the_same(source, target)?;

    // What only the target has under the beginning is nobody's of the source.
    target.create_topic("billing.theirs", 1, &[])?;
    target.add_acls(&[Acl::allow("eve", Operation::Read, Resource::Topic("orders".to_owned()))])?;
    let report = ask(file, &[], 1)?["acls"].clone();
    let added = set(&[
        "Allow User:alice Read Topic Literal billing.cards",
        "Allow User:alice Read Topic Literal billing.cash",
        "Allow User:alice Read Topic Literal billing.secret.x",
    ]);
    ensure!(lines(&report["add"]) == added, "{report:#}");
    let extra = set(&["Allow User:alice Read Topic Prefixed billing.", "Allow User:eve Read Topic Literal orders"]);
    ensure!(lines(&report["extra"]) == extra, "{report:#}");
    file.kferry(&["acls"])?.ends_with(1)?.says("on the target it would cover what it does not on the source: billing.theirs")?;
    target.delete_topic("billing.theirs")?;

    // A group that only the target has is somebody's.
    source.add_acls(&[Acl::allow(ALICE.name, Operation::Delete, Resource::Group("*".to_owned()))])?;
    commit(target, "target-only")?;
    let report = ask(file, &["--apply"], 1)?["acls"].clone();
    ensure!(lines(&report["undecided"]) == set(&["Allow User:alice Delete Group Literal *"]), "{report:#}");
    ensure!(report["undecided"][0]["why"].as_str().is_some_and(|why| why.contains("target-only")), "{report:#}");
    target.add_acls(&[Acl::allow(ALICE.name, Operation::Delete, Resource::Group("*".to_owned()))])?;
    ask(file, &[], 0).map(drop)
}

/// A group that has committed something.
fn commit(cluster: &Cluster, group: &str) -> Result<()> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    let consumer: BaseConsumer = config.set("group.id", group).create()?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset("theirs", 0, Offset::Offset(0))?;
    Ok(consumer.commit(&offsets, CommitMode::Sync)?)
}

fn both_clusters_allow_the_same(source: &Cluster, target: &Cluster) -> Result<()> {
    let mut allowed = 0;
    for user in [(ALICE.name, ALICE.password), (BOB.name, BOB.password)] {
        for (topic, copy) in COPIED {
            let on_source = (may_write(source, user, topic)?, may_read(source, user, topic)?);
            // Brokers go by ACLs a moment later.
            let deadline = Instant::now() + LIMIT;
            loop {
                let on_target = (may_write(target, user, copy)?, may_read(target, user, copy)?);
                if on_source == on_target {
                    break;
                }
                ensure!(Instant::now() < deadline, "{} may write and read {topic}: {on_source:?}, {copy}: {on_target:?}", user.0);
            }
            allowed += usize::from(on_source.0) + usize::from(on_source.1);
        }
        ensure!(!may_write(target, user, "theirs")? && !may_read(target, user, "theirs")?, "{} may do something with theirs", user.0);
    }
    // Alice writes and reads cards and cash, and bob reads orders.
    ensure!(allowed == 5, "{allowed} things are allowed");
    Ok(())
}

fn login(cluster: &Cluster, (name, password): (&str, &str)) -> Result<rdkafka::ClientConfig> {
    let mut config = cluster.client_config(Listener::SaslPlaintext)?;
    config.set("sasl.mechanism", "SCRAM-SHA-256").set("sasl.username", name).set("sasl.password", password);
    Ok(config)
}

#[derive(Default)]
struct Refused(std::sync::Mutex<Option<KafkaError>>);

impl ClientContext for Refused {}

impl ProducerContext for Refused {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        *self.0.lock().expect("nobody panics with it") = result.as_ref().err().map(|(error, _)| error.clone());
    }
}

fn is_refusal(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed))
}

fn may_write(cluster: &Cluster, user: (&str, &str), topic: &str) -> Result<bool> {
    let producer: BaseProducer<Refused> = login(cluster, user)?.create_with_context(Refused::default())?;
    producer.send(BaseRecord::<str, str>::to(topic).partition(0).payload("x")).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    let refused = producer.context().0.lock().expect("nobody panics with it").take();
    match refused {
        None => Ok(true),
        Some(error) if is_refusal(&error) => Ok(false),
        Some(error) => Err(error.into()),
    }
}

/// Reads a record, and commits.
fn may_read(cluster: &Cluster, user: (&str, &str), topic: &str) -> Result<bool> {
    let mut config = login(cluster, user)?;
    let group = format!("{}-group", user.0);
    let consumer: BaseConsumer = config.set("group.id", group).set("enable.auto.commit", "false").create()?;
    // With assign(), librdkafka says nothing of a topic that it may not see.
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    if metadata.topics().iter().any(|topic| topic.error() == Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)) {
        return Ok(false);
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    match consumer
        .poll(LIMIT)
        .with_context(|| format!("{} got neither a record nor an error of {topic} from {}", user.0, cluster.kafka_version()))?
    {
        Ok(record) => {
            ensure!(record.payload().is_some(), "a record without a value");
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset(topic, 0, Offset::Offset(1))?;
            match consumer.commit(&offsets, CommitMode::Sync) {
                Ok(()) => Ok(true),
                Err(error) if is_refusal(&error) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Kafka's own tool.
fn configs(cluster: &Cluster, entity: &[&str], add: &str) -> Result<()> {
    let servers = cluster.bootstrap_servers(Listener::Plaintext)?;
    let arguments = [&["--bootstrap-server", &servers, "--alter", "--add-config", add], entity].concat();
    cluster.tool("kafka.admin.ConfigCommand", &arguments).map(drop)
}

fn users_are_created_anew(source: &Cluster, target: &Cluster, file: &File) -> Result<()> {
    configs(source, &["--entity-type", "users", "--entity-name", "carol"], "SCRAM-SHA-256=[iterations=8192,password=carols-hush]")?;
    configs(source, &["--entity-type", "users", "--entity-name", "dave"], "SCRAM-SHA-256=[iterations=4096,password=daves-hush]")?;
    let secrets = file.0.with_file_name("secrets.toml");
    let path = secrets.to_str().context("a path")?;
    let write = |text: &str| -> Result<()> {
        fs::write(&secrets, text)?;
        Ok(fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600))?)
    };
    let quiet = |done: Done| -> Result<Done> {
        ensure!(!done.text.contains("-hush"), "a password was told:\n{}", done.text);
        Ok(done)
    };
    let stands = |report: &Value| -> Vec<String> {
        let user = |user: &Value| format!("{} {} {}", user["user"], user["iterations"], user["stand"]).replace('"', "");
        let asked = |user: &&Value| user["user"] == "carol" || user["user"] == "dave";
        report["users"].as_array().into_iter().flatten().filter(asked).map(user).collect()
    };
    let without = ask(file, &["--users"], 1)?;
    ensure!(stands(&without) == ["carol 8192 undecided", "dave 4096 undecided"], "{without:#}");
    quiet(file.kferry(&["acls", "--users"])?)?.ends_with(1)?.says("have to be created anew: carol, dave; give theirs with --secrets")?;

    write("carol = 'carols-hush'\neve = 'eves-hush'\n")?;
    let mut arguments = vec!["--users", "--secrets", path];
    let shown = ask(file, &arguments, 1)?;
    ensure!(stands(&shown) == ["carol 8192 missing", "dave 4096 undecided"], "{shown:#}");
    arguments.push("--apply");
    let done = quiet(file.kferry(&[&["acls"], &arguments[..]].concat())?)?;
    done.ends_with(1)?.says("users that the source does not have: eve")?.says("created anew: dave;")?.says("1 created")?;
    write("carol = 'another-hush'\ndave = 'daves-hush'\n")?;
    let rest = ask(file, &arguments, 0)?;
    ensure!(stands(&rest) == ["carol 8192 there", "dave 4096 added"], "{rest:#}");
    for user in [("carol", "carols-hush"), ("dave", "daves-hush")] {
        let deadline = Instant::now() + LIMIT;
        let client: BaseConsumer = login(target, user)?.set("group.id", "x").create()?;
        while client.fetch_metadata(Some("orders"), Duration::from_secs(5)).is_err() {
            ensure!(Instant::now() < deadline, "{} cannot log in", user.0);
        }
    }
    let again = ask(file, &["--users"], 0)?;
    ensure!(stands(&again) == ["carol 8192 there", "dave 4096 there"], "{again:#}");

    write("carol = hunter-hush")?;
    quiet(file.kferry(&[&["acls"], &arguments[..]].concat())?)?.ends_with(2)?.says("line 1: each line has to be")?;
    Ok(())
}

fn quotas_are_copied(source: &Cluster, target: &Cluster, file: &File) -> Result<()> {
    let of_both = ["--entity-type", "users", "--entity-name", "alice", "--entity-type", "clients", "--entity-name", "app"];
    configs(source, &of_both, "producer_byte_rate=1048576,consumer_byte_rate=2097152")?;
    configs(source, &["--entity-type", "users", "--entity-default"], "request_percentage=50")?;
    configs(source, &["--entity-type", "ips", "--entity-name", "10.0.0.1"], "connection_creation_rate=10")?;
    configs(target, &of_both, "consumer_byte_rate=1")?;
    let stands = |report: &Value| -> BTreeSet<String> {
        let quota = |quota: &Value| format!("{} {} {}", quota["entity"], quota["key"], quota["stand"]).replace('"', "");
        report["quotas"].as_array().into_iter().flatten().map(quota).collect()
    };
    let expected = |stand: &str| {
        set(&[
            "client-id app, user alice consumer_byte_rate undecided",
            &format!("client-id app, user alice producer_byte_rate {stand}"),
            &format!("ip 10.0.0.1 connection_creation_rate {stand}"),
            &format!("user <default> request_percentage {stand}"),
        ])
    };
    let before = ask(file, &["--quotas"], 1)?;
    ensure!(stands(&before) == expected("missing"), "{before:#}");
    let applied = ask(file, &["--quotas", "--apply"], 1)?;
    ensure!(stands(&applied) == expected("added"), "{applied:#}");
    let shown = file.kferry(&["acls", "--quotas"])?;
    shown.ends_with(1)?.says("has another value on target and is left so")?.says("2097152  1\n")?.says("0 set, 3 there already, 1 that")?;
    configs(target, &of_both, "consumer_byte_rate=2097152")?;
    let after = ask(file, &["--quotas"], 0)?;
    ensure!(after["quotas"].as_array().is_some_and(|quotas| quotas.iter().all(|quota| quota["stand"] == "there")), "{after:#}");
    Ok(())
}

fn a_right_of_kferry_is_missing(source: &Cluster, target: &Cluster) -> Result<()> {
    let file = File::new(source, target, Some(BOB), &mirror("m", LINES))?;
    let done = file.kferry(&["acls", "--quotas"])?;
    done.ends_with(1)?.says("the ACLs are not known: cluster source: DescribeAcls of the cluster")?;
    done.says("an ACL must allow User:bob the operation Describe on the cluster")?;
    done.says("the operation DescribeConfigs on the cluster")?;
    Ok(())
}

fn clusters_without_an_authorizer(secured: &Cluster, open: &Cluster) -> Result<()> {
    open.create_topic("orders", 1, &[])?;
    let from_open = File::new(open, secured, None, &mirror("m", "topics = ['orders']"))?;
    from_open.kferry(&["acls"])?.ends_with(0)?.says("source's brokers have no authorizer.class.name: there are no ACLs")?;
    // The target is asked all the same, and what the file names.
    let text = fs::read_to_string(&from_open.0)?;
    let (source, target) = text.split_once("[clusters.target]").context("the target")?;
    let nobody = format!("127.0.0.1:{}", ports::take(1)?.start);
    let target = target.replace(&secured.bootstrap_servers(Listener::Plaintext)?, &nobody);
    fs::write(&from_open.0, format!("{source}[clusters.target]{target}"))?;
    from_open.kferry(&["acls", "--json"])?.ends_with(1)?.says("cannot connect")?;
    let misspelt = File::new(open, secured, None, &mirror("m", "topics = ['oders']"))?;
    misspelt.kferry(&["acls"])?.ends_with(1)?.says("topic oders is not on source")?;
    let to_open = File::new(secured, open, None, &mirror("m", "topics = ['orders']"))?;
    to_open.kferry(&["acls"])?.ends_with(1)?.says("cluster target: DescribeAcls of the cluster: SECURITY_DISABLED")?;
    Ok(())
}
