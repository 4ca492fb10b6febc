//! What kferry's own login may not do is said, costs no client anything, and is in the way of a move before anybody is held.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::kafka::{Acl, BOB, Cluster, Listener, Operation, Record, Resource};
use harness::mirror::Mirror;
use harness::ports;
use harness::proxy::{Proxy, Routes};
use harness::stage::{self, Side};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

use crate::{LIMIT, MIRRORS};

const LOG: &str = "__kferry.decisions";
const TOPIC: &str = "orders.a";

fn allow(operations: &[Operation], resource: &Resource) -> Vec<Acl> {
    operations.iter().map(|operation| Acl::allow(BOB.name, *operation, resource.clone())).collect()
}

fn produce(proxy: &Proxy) -> Result<()> {
    let servers = proxy.bootstrap_servers();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", servers).set("client.id", "orders-a").set("message.timeout.ms", "20000").create()?;
    producer.send(BaseRecord::<str, str>::to(TOPIC).payload("one")).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    ensure!(producer.in_flight_count() == 0, "a record is not acknowledged");
    Ok(())
}

/// What the proxy shows of moves, once it is so.
fn shows(proxy: &Proxy, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let began = Instant::now();
    loop {
        let moves: Value = serde_json::from_str(&proxy.get("/moves")?.body)?;
        if is_so(&moves) {
            return Ok(moves);
        }
        ensure!(began.elapsed() < LIMIT, "the proxy does not show that {what}: {moves:#}\n{}", proxy.log_text());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn rights_that_are_missing_are_said_and_nothing_is_held_for_them() -> Result<()> {
    use Operation::{Alter, AlterConfigs, Create, Delete, Describe, DescribeConfigs, Read, Write};

    let builders = [("3.9.1", "legacy"), ("4.3.0", "new")]
        .map(|(version, name)| Cluster::version(version).name(name).listen(Listener::SaslPlaintext).acls());
    let [legacy, new]: [Cluster; 2] =
        Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
    legacy.create_topic(TOPIC, 1, &[])?;
    legacy.produce(TOPIC, &[Record::new("k", "v")])?;
    // All but to read the log of decisions, and to write to where the topic leads.
    let all = [Describe, Read, Write, Delete, DescribeConfigs, AlterConfigs, Create];
    let [topics, own, log] = ["orders.", "__kferry.mirror.", LOG].map(|prefix| Resource::TopicPrefix(prefix.to_owned()));
    let groups = allow(&[Describe, Read], &Resource::Group("*".to_owned()));
    legacy
        .add_acls(&[allow(&[Describe, Read, DescribeConfigs], &topics), allow(&[Describe], &Resource::Cluster), groups.clone()].concat())?;
    let of_log = allow(&[Create, Describe, Write], &log);
    new.add_acls(&[allow(&all, &topics), allow(&all, &own), of_log, allow(&[Describe, Alter], &Resource::Cluster), groups].concat())?;

    let sasl = |cluster: &str| {
        format!(
            "[routes.credentials.{cluster}]\nsasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"{}\"\nsasl_password = \"{}\"\n",
            BOB.name, BOB.password
        )
    };
    let base = Routes::new()?.kafka("legacy", &legacy, Listener::SaslPlaintext, Some(BOB))?.kafka(
        "new",
        &new,
        Listener::SaslPlaintext,
        Some(BOB),
    )?;
    let with = |home: Side| {
        let lines = format!("topics = [\"orders.*\"]\n{}{}", sasl("legacy"), sasl("new"));
        base.clone().limit("drain_timeout_ms", 2_000).relay("orders", "orders-*", home.name(), &lines).section(MIRRORS)
    };
    let (config, text) = stage::shared(&with(Side::Legacy), ports::take(1)?.start)?;
    let proxy = Proxy::start_with(&with(Side::Legacy), &config, &[])?;
    let not_joined =
        shows(&proxy, "it has not joined", |moves| moves["not_joined"].as_str().is_some_and(|why| why.contains("Authorization")))?;
    let why = not_joined["not_joined"].as_str().context("why")?;
    ensure!(why.contains("allow kferry's login CREATE, DESCRIBE, READ and WRITE on the topic __kferry.decisions there"), "{why}");
    ensure!(proxy.get("/readyz")?.status == 503, "it is ready");
    new.add_acls(&allow(&[Read], &log))?;
    shows(&proxy, "it has joined", |moves| moves["not_joined"].is_null())?;
    let mut mirror = Mirror::of(&text)?;
    let _mirroring = mirror.start(&[])?;
    produce(&proxy)?;

    proxy.edit(&with(Side::New))?;
    let why = "kferry may not WRITE, DELETE, ALTERCONFIGS it on legacy, so mirror over could not copy it back";
    shows(&proxy, "the mirror may not write back", |moves| moves["waits"]["orders"].to_string().contains(why))?;
    legacy.add_acls(&allow(&[Write, Delete, AlterConfigs], &topics))?;
    legacy.add_acls(&allow(&[Alter], &Resource::Cluster))?;
    let leads = |home: Side| {
        let is_there = |moves: &Value| moves["leaders"][TOPIC]["cluster"] == home.name() && moves["open"].is_null();
        shows(&proxy, &format!("{home:?} leads"), is_there)
    };
    leads(Side::New)?;
    produce(&proxy)?;
    proxy.edit(&with(Side::Legacy))?;
    leads(Side::Legacy)?;

    // Somebody takes a right away: as while the log's cluster is down.
    let troubles = || proxy.log_text().matches("the log of decisions cannot be read or written just now").count();
    let (before, began) = (troubles(), Instant::now());
    new.add_acls(&[Acl::deny(BOB.name, Read, log)])?;
    while troubles() == before {
        ensure!(began.elapsed() < LIMIT, "{}", proxy.log_text());
        thread::sleep(Duration::from_millis(100));
    }
    proxy.edit(&with(Side::New))?;
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(1));
        produce(&proxy)?;
    }
    ensure!(proxy.get("/readyz")?.status == 200, "a process that serves is not ready any more");
    let values = legacy.read_all(TOPIC)?.len();
    ensure!(values == 6, "{values} records on legacy");
    Ok(())
}
