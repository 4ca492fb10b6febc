//! Clients go where `routes.toml` says, on real clusters; what is dead or frozen costs only those who are sent there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::LIMIT;
use harness::clients::python_26_producer;
use harness::kafka::{Cluster, Listener};
use harness::ports;
use harness::proxy::{Proxy, Routes};
use harness::raw::{Forward, Raw, api_versions, until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

/// How long librdkafka 2.6.1 is given to come over, which one that can has done in a second.
const STAYS: Duration = Duration::from_secs(20);

fn client(proxy: &Proxy, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", proxy.bootstrap_servers()).set("client.id", client_id);
    config
}

/// The cluster.id and the node ids that a client sees.
fn cluster_seen(config: &ClientConfig) -> Result<(String, Vec<i32>)> {
    let client: BaseConsumer = config.create()?;
    let id = client.client().fetch_cluster_id(LIMIT).context("no cluster.id")?;
    let mut nodes: Vec<i32> = client.fetch_metadata(None, LIMIT)?.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect();
    nodes.sort_unstable();
    Ok((id, nodes))
}

fn produce(config: &ClientConfig, topic: &str, value: &str) -> Result<()> {
    let producer: BaseProducer = config.clone().set("message.timeout.ms", "30000").create()?;
    producer.send(BaseRecord::<(), _>::to(topic).payload(value)).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    ensure!(producer.in_flight_count() == 0, "{value} was not acknowledged");
    Ok(())
}

fn values(cluster: &Cluster, topic: &str) -> Result<Vec<String>> {
    let mut values: Vec<String> = cluster
        .read_all(topic)?
        .into_iter()
        .map(|record| String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned())
        .collect();
    values.sort();
    Ok(values)
}

#[test]
fn clients_land_where_the_first_matching_route_says_and_an_edit_moves_the_next() -> Result<()> {
    let clusters = Cluster::start_all(vec![
        Cluster::version("2.8.2").name("old"),
        Cluster::version("3.9.1").name("legacy").first_node_id(1001),
        Cluster::version("4.3.0").name("new"),
    ])?;
    let [old, legacy, new] = &clusters[..] else { bail!("three clusters were asked for") };
    for cluster in &clusters {
        cluster.create_topic("orders", 2, &[])?;
    }
    let base = Routes::new()?
        .cluster("old", &old.bootstrap_servers(Listener::Plaintext)?)
        .cluster("legacy", &legacy.bootstrap_servers(Listener::Plaintext)?)
        .cluster("new", &new.bootstrap_servers(Listener::Plaintext)?);
    let routes =
        |orders: &str| base.clone().route("one", "orders-1", "old").route("orders", "orders-*", orders).route("rest", "rest", "new");
    let proxy = Proxy::start(&routes("legacy"))?;

    for (client_id, cluster, nodes) in [("orders-1", old, vec![1]), ("orders-2", legacy, vec![1001]), ("rest", new, vec![1])] {
        assert_eq!(cluster_seen(&client(&proxy, client_id))?, (cluster.cluster_id()?, nodes), "{client_id}");
    }
    produce(&client(&proxy, "orders-1"), "orders", "one")?;
    produce(&client(&proxy, "orders-2"), "orders", "before the edit")?;
    proxy.edit(&routes("new"))?;
    produce(&client(&proxy, "orders-2"), "orders", "after the edit")?;
    proxy.edit(&routes("legacy"))?;
    produce(&client(&proxy, "orders-2"), "orders", "after the rollback")?;
    assert_eq!(values(old, "orders")?, ["one"]);
    assert_eq!(values(legacy, "orders")?, ["after the rollback", "before the edit"]);
    assert_eq!(values(new, "orders")?, ["after the edit"]);

    // Nobody's client: refused, told, counted.
    let mut refused = Raw::connect(proxy.port())?;
    refused.send(&api_versions(1, Some("stranger")))?;
    let closed = proxy.closed(&refused)?;
    assert_eq!(closed["cause"], "no_route");
    assert_eq!(closed["client_id"], "stranger");
    assert!(closed["detail"].as_str().unwrap_or_default().contains("routes.toml"), "{closed}");
    assert_eq!(proxy.closed_count("no_route")?, 1);
    two_clusters_in_one_list(legacy, new)?;
    another_cluster_at_the_same_address(legacy, new)
}

/// Lines of the log that say so of a server.
fn strangers(proxy: &Proxy, server: &str) -> Result<usize> {
    let is_told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "ERROR" && message.starts_with("a server is of another cluster") && line["server"] == server
    };
    Ok(proxy.log()?.iter().filter(|line| is_told(line)).count())
}

/// The first server of the list says which cluster is meant, whichever the client's turn would be.
fn two_clusters_in_one_list(legacy: &Cluster, new: &Cluster) -> Result<()> {
    let (right, wrong) = (legacy.bootstrap_servers(Listener::Plaintext)?, new.bootstrap_servers(Listener::Plaintext)?);
    let brokers = ports::take(10)?;
    let lines = format!("node_ids = \"1001-1010\"\nbroker_ports = \"{}-{}\"", brokers.start, brokers.end - 1);
    let routes = Routes::new()?.cluster_with("mixed", &format!("{right},{wrong}"), &lines).route("direct", "direct-*", "mixed").relay(
        "relayed",
        "relayed-*",
        "mixed",
        "",
    );
    let proxy = Proxy::start(&routes)?;
    for n in 0..6 {
        assert_eq!(cluster_seen(&client(&proxy, &format!("direct-{n}")))?, (legacy.cluster_id()?, vec![1001]), "{n}");
        assert_eq!(cluster_seen(&client(&proxy, &format!("relayed-{n}")))?.1, [10_000_000 + 1001], "{n}");
    }
    assert_eq!((strangers(&proxy, &wrong)?, strangers(&proxy, &right)?), (1, 0), "{}", proxy.log_text());
    Ok(())
}

/// A cluster that was created anew, or an address that somebody else has now.
fn another_cluster_at_the_same_address(legacy: &Cluster, new: &Cluster) -> Result<()> {
    let (before, after) = (legacy.bootstrap_servers(Listener::Plaintext)?, new.bootstrap_servers(Listener::Plaintext)?);
    let door = Forward::to(&before)?;
    let routes = Routes::new()?.cluster("moved", &door.address()).route("all", "*", "moved");
    let proxy = Proxy::start(&routes)?;
    assert_eq!(cluster_seen(&client(&proxy, "c"))?.0, legacy.cluster_id()?);
    door.lead_to(&after);
    let refused = || -> Result<bool> {
        // The log leaves out connections of which there are too many.
        thread::sleep(Duration::from_millis(300));
        let mut client = Raw::connect(proxy.port())?;
        if client.ask(&api_versions(1, Some("c"))).is_ok() {
            return Ok(false);
        }
        let closed = proxy.closed(&client)?;
        let detail = closed["detail"].as_str().unwrap_or_default();
        ensure!(
            closed["cause"] == "cluster_unreachable" && detail.contains(&format!("is of the Kafka cluster {}", new.cluster_id()?)),
            "{closed}"
        );
        Ok(true)
    };
    until("clients are not led to the other cluster", refused)?;
    assert_eq!(strangers(&proxy, &door.address())?, 1);
    door.lead_to(&before);
    until("they are led to the right one again", || Ok(!refused()?))?;
    assert_eq!(cluster_seen(&client(&proxy, "c"))?.0, legacy.cluster_id()?);
    Ok(())
}

#[test]
fn a_cluster_that_is_down_costs_the_others_nothing_and_is_there_when_it_comes() -> Result<()> {
    let clusters = Cluster::start_all(vec![Cluster::version("3.9.1").name("legacy").brokers(3), Cluster::version("4.3.0").name("new")])?;
    let [legacy, new] = &clusters[..] else { bail!("two clusters were asked for") };
    let new_node = new.node_ids()[0];
    new.stop(new_node)?;
    let base = Routes::new()?
        .kafka("legacy", legacy, Listener::Plaintext, None)?
        .kafka("new", new, Listener::Plaintext, None)?
        .route("orders", "orders", "new")
        // The ports of its virtual brokers are open from the start.
        .relay("relayed-first", "first", "new", "");
    // It starts all the same.
    let routes = |cluster: &str| base.clone().relay("relayed", "relayed-*", cluster, "").route("rest", "*", cluster);
    let proxy = Proxy::start(&routes("legacy"))?;
    let served = || -> Result<Duration> {
        let start = Instant::now();
        cluster_seen(&client(&proxy, "rest"))?;
        Ok(start.elapsed())
    };
    served()?;

    let mut waiting = Raw::connect(proxy.port())?;
    waiting.send(&api_versions(1, Some("orders")))?;
    let closed = proxy.closed(&waiting)?;
    assert_eq!(closed["cause"], "cluster_unreachable");
    assert!(closed["detail"].as_str().unwrap_or_default().contains("refused"), "{closed}");
    served()?;

    // A client that does not give up comes through as soon as its cluster is there.
    let orders = client(&proxy, "orders");
    let patient = thread::spawn(move || cluster_seen(&orders));
    until("a second attempt of the client", || Ok(proxy.closed_count("cluster_unreachable")? >= 2))?;
    new.restart(new_node)?;
    let seen = patient.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    assert_eq!(seen.0, new.cluster_id()?);

    for cluster in &clusters {
        cluster.create_topic("moving", 6, &[])?;
    }
    // One bootstrap server of three is frozen: the kernel still accepts for it. It is overtaken after half a second, and asked last from then on.
    let frozen = legacy.node_ids()[0];
    let led = legacy.partitions("moving")?.iter().position(|partition| partition.leader == frozen).context("it leads one")?;
    legacy.freeze(frozen)?;
    let mut slow = 0;
    for _ in 0..12 {
        let start = Instant::now();
        Raw::connect(proxy.port())?.ask(&api_versions(7, Some("rest")))?;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        slow += usize::from(took > Duration::from_millis(400));
    }
    assert!((1..=2).contains(&slow), "{slow} of 12 clients waited for the frozen broker: only the first should");
    legacy.thaw(frozen)?;

    // And one that is dead.
    legacy.kill(frozen)?;
    for _ in 0..12 {
        Raw::connect(proxy.port())?.ask(&api_versions(7, Some("rest")))?;
    }
    let address = legacy.address(frozen, Listener::Plaintext)?;
    let up = proxy.metric("kferry_proxy_bootstrap_server_up", &[("cluster", "legacy"), ("server", &address)])?;
    assert!(up < 0.5, "{up}");
    let leader_epoch = |cluster: &Cluster| anyhow::Ok(cluster.partitions("moving")?[led].leader_epoch);
    until("the dead one's partition has another leader", || Ok(leader_epoch(legacy)? > leader_epoch(new)?))?;
    who_comes_over_when_all_brokers_are_dead(legacy, new, &proxy, &routes("new"), led as i32)
}

/// Both clusters have a node 1 and the topic `moving`, with a higher leader epoch of `partition` on the old one. `edited` sends all clients to the new one.
fn who_comes_over_when_all_brokers_are_dead(legacy: &Cluster, new: &Cluster, proxy: &Proxy, edited: &Routes, partition: i32) -> Result<()> {
    let came = |cluster: &Cluster, client_id: &str| Ok(values(cluster, "moving")?.iter().any(|value| value.starts_with(client_id)));
    let old_librdkafka = |client_id: &str| python_26_producer(&proxy.bootstrap_servers(), client_id, "moving", partition);
    let old = old_librdkafka("old-librdkafka")?;
    let relayed = old_librdkafka("relayed-old-librdkafka")?;
    let config = client(proxy, "new-librdkafka");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let producing = scope.spawn(|| -> Result<()> {
            let producer: BaseProducer = config.create()?;
            while !done.load(Ordering::Relaxed) {
                producer
                    .send(BaseRecord::<(), _>::to("moving").partition(partition).payload("new-librdkafka"))
                    .map_err(|(error, _)| error)?;
                producer.poll(Duration::from_millis(200));
            }
            Ok(())
        });
        let outcome = || -> Result<()> {
            for client_id in ["old-librdkafka", "relayed-old-librdkafka", "new-librdkafka"] {
                let told = || format!("{client_id}: {}\n{}", old.log_tail(10), relayed.log_tail(10));
                until("it produces", || came(legacy, client_id)).with_context(told)?;
            }
            proxy.edit(edited)?;
            for node_id in &legacy.node_ids()[1..] {
                legacy.kill(*node_id)?;
            }
            until("the newer one comes over", || came(new, "new-librdkafka"))?;
            until("the relayed one comes over", || came(new, "relayed-old-librdkafka")).with_context(|| relayed.log_tail(10))?;
            thread::sleep(STAYS);
            ensure!(!came(new, "old-librdkafka")?, "librdkafka 2.6.1 came over by itself: docs/operating.md says that it stays");
            drop(old);
            let _restarted = old_librdkafka("old-librdkafka")?;
            until("2.6.1 comes over when it is restarted", || came(new, "old-librdkafka"))
        }();
        done.store(true, Ordering::Relaxed);
        producing.join().map_err(|_| anyhow!("panicked"))??;
        outcome
    })?;
    let marked = |row: &Value| (row["client_id"] == "old-librdkafka", row["stays_with_dead_brokers"] == true);
    let rows = proxy.clients()?;
    ensure!(rows.iter().any(|row| marked(row) == (true, true)) && !rows.iter().any(|row| marked(row) == (false, true)), "{rows:#?}");
    Ok(())
}
