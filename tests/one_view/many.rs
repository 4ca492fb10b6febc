//! What a question about many topics takes, of fake brokers, which have so many at once; and of real ones, which need a minute to make them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::fake::{Answers, FakeBroker};
use harness::kafka::{Cluster, Listener};
use harness::ports;
use harness::proxy::{Proxy, Routes};
use harness::raw::{Raw, ask, until};
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

use crate::{MIRRORS, Names, Side, metadata, port_of, topic_name};

const TOPICS: usize = 1_100;
const PARTITIONS: i32 = 12;
const MIB: u64 = 1024 * 1024;
/// How long a broker may take to make so many partitions: some tens a second on a busy machine.
const MADE: Duration = Duration::from_mins(10);

/// How long it takes to be told of all topics with their leaders. A machine that is busy may take a broker for one that is away at first.
fn all_topics(port: u16, client_id: &str) -> Result<Duration> {
    let mut client = Raw::connect(port)?;
    let mut last = None;
    let told = until("all topics have leaders", || {
        let began = Instant::now();
        let answer = metadata(&mut client, 9, client_id, None)?;
        let took = began.elapsed();
        // A real cluster has topics of its own.
        let topics = answer.topics.iter().filter(|topic| topic.name.as_ref().is_some_and(|name| name.starts_with("orders.")));
        let led =
            topics.flat_map(|topic| &topic.partitions).filter(|partition| partition.error_code == 0 && partition.leader_id.0 > 0).count();
        last = Some((took, answer.topics.len(), led));
        Ok(led == TOPICS * PARTITIONS as usize)
    });
    told.with_context(|| format!("{client_id} was told of topics, of leaders, after: {last:?}"))?;
    last.map(|(took, ..)| took).context("an answer")
}

/// The middle one of five.
fn median(port: u16, client_id: &str) -> Result<Duration> {
    let mut times = (0..5).map(|_| all_topics(port, client_id)).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[2])
}

#[test]
fn metadata_of_many_topics() -> Result<()> {
    let partition = |index| {
        let partition = MetadataResponsePartition::default().with_partition_index(index).with_leader_id(1.into());
        partition.with_replica_nodes(vec![1.into()]).with_isr_nodes(vec![1.into()])
    };
    let topic = |n: usize| {
        let topic = MetadataResponseTopic::default().with_name(Some(topic_name(&format!("orders.{n:04}"))));
        topic.with_partitions((0..PARTITIONS).map(partition).collect())
    };
    let [legacy, new] = [FakeBroker::start()?, FakeBroker::start()?];
    legacy.answers(Answers { topics: Arc::new((0..TOPICS).map(topic).collect()), ..Answers::default() });
    let mut routes = Routes::new()?;
    for (name, broker) in [("legacy", &legacy), ("new", &new)] {
        let port = ports::take(1)?.start;
        routes = routes.cluster_with(name, &broker.address(), &format!("node_ids = \"1-1\"\nbroker_ports = \"{port}-{port}\"\n"));
    }
    are_told(&routes, legacy.port())
}

/// Real clusters, one of which has all of the topics.
#[test]
#[ignore = "`make soak` runs it: a broker takes a minute to make so many partitions"]
fn metadata_of_many_topics_of_real_clusters() -> Result<()> {
    let builders = [("3.9.1", Side::Legacy), ("4.3.0", Side::New)].map(|(version, side)| {
        // Each partition is a folder with files that are open.
        Cluster::version(version).name(side.name()).heap_mib(1024).set("log.index.size.max.bytes", "4096")
    });
    let [legacy, new]: [Cluster; 2] =
        Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
    let began = Instant::now();
    let port = port_of(&legacy.address(1, Listener::Plaintext)?)?;
    let all: Vec<_> = (0..TOPICS)
        .map(|n| {
            let topic = CreatableTopic::default().with_name(topic_name(&format!("orders.{n:04}")));
            topic.with_num_partitions(PARTITIONS).with_replication_factor(1)
        })
        .collect();
    for some in all.chunks(50) {
        let request = CreateTopicsRequest::default().with_topics(some.to_vec()).with_timeout_ms(60_000);
        let answer = ask(&mut Raw::connect(port)?, 5, "direct", &request)?;
        ensure!(answer.topics.iter().all(|topic| topic.error_code == 0), "{answer:?}");
    }
    // The controller has taken them long before the broker has made all of their folders.
    while let Err(error) = all_topics(port, "direct") {
        ensure!(began.elapsed() < MADE, "{:.0?} later: {error:#}", began.elapsed());
    }
    println!("{TOPICS} topics are made in {:.1?}", began.elapsed());
    let routes = Routes::new()?;
    let routes = routes.kafka("legacy", &legacy, Listener::Plaintext, None)?.kafka("new", &new, Listener::Plaintext, None)?;
    are_told(&routes, port)
}

/// Clients of both homes are told all topics of the legacy cluster, whose broker has this port, about as soon as by itself.
fn are_told(routes: &Routes, direct: u16) -> Result<()> {
    let routes = routes.clone().relay("at-legacy", "at-legacy-*", "legacy", "").relay("at-new", "at-new-*", "new", "").section(MIRRORS);
    let proxy = Proxy::start(&routes)?;

    let without = median(direct, "direct")?;
    let before = proxy.resident_memory()?;
    let mut told = vec![format!("{TOPICS} topics of {PARTITIONS} partitions: {without:.1?} without the proxy")];
    for (home, what) in Side::BOTH.into_iter().zip(["at home", "elsewhere"]) {
        let time = median(proxy.port(), &home.client("many"))?;
        told.push(format!("{time:.1?} where they lead {what}, the proxy has {} MiB", proxy.resident_memory()? / MIB));
        ensure!(time < without * 10 + Duration::from_millis(500), "{told:?}");
    }
    // Many clients at once, as after a restart of the proxy.
    let (began, port) = (Instant::now(), proxy.port());
    thread::scope(|scope| {
        let asking: Vec<_> = (0..40).map(|n| scope.spawn(move || all_topics(port, &Side::BOTH[n % 2].client("many")))).collect();
        asking.into_iter().try_for_each(|asking| asking.join().map_err(|_| anyhow!("panicked"))?.map(drop))
    })?;
    let (took, after) = (began.elapsed(), proxy.resident_memory()?);
    told.push(format!("40 clients at once: {took:.1?}, {} MiB before the first question, {} MiB afterwards", before / MIB, after / MIB));
    println!("{}", told.join("; "));
    ensure!(took < Duration::from_secs(30) && after < before + 200 * MIB, "{told:?}");
    Ok(())
}
