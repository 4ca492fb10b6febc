//! What a question about many topics takes. The brokers are fake ones: real ones would need minutes to make so many partitions, and are asked the same.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::fake::{Answers, FakeBroker};
use harness::ports;
use harness::proxy::{Proxy, Routes};
use harness::raw::{Raw, until};
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

use crate::{MIRRORS, Side, metadata, topic_name};

const TOPICS: usize = 1_100;
const PARTITIONS: i32 = 12;
const MIB: u64 = 1024 * 1024;

/// How long it takes to be told of all topics with their leaders. A machine that is busy may take a broker for one that is away at first.
fn all_topics(port: u16, client_id: &str) -> Result<Duration> {
    let mut client = Raw::connect(port)?;
    let mut last = None;
    let told = until("all topics have leaders", || {
        let began = Instant::now();
        let answer = metadata(&mut client, 9, client_id, None)?;
        let took = began.elapsed();
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let led = partitions.filter(|partition| partition.error_code == 0 && partition.leader_id.0 > 0).count();
        last = Some((took, answer.topics.len(), led));
        Ok(led == TOPICS * PARTITIONS as usize)
    });
    told.with_context(|| format!("{client_id} was told of topics, of leaders, after: {last:?}"))?;
    last.map(|(took, ..)| took).context("an answer")
}

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
    let routes = routes.relay("at-legacy", "at-legacy-*", "legacy", "").relay("at-new", "at-new-*", "new", "").section(MIRRORS);
    let proxy = Proxy::start(&routes)?;

    let without = median(legacy.port(), "direct")?;
    let before = proxy.resident_memory()?;
    let mut told = vec![format!("{TOPICS} topics of {PARTITIONS} partitions: {without:.1?} without the proxy")];
    for (home, what) in [(Side::Legacy, "at home"), (Side::New, "elsewhere")] {
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
