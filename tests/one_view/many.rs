//! What a question about many topics takes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use harness::clients;
use harness::kafka::{Cluster, Listener};
use harness::proxy::Proxy;
use harness::raw::{Raw, ask, until};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, MetadataResponse};

use crate::{Side, metadata, port_of, routes, topic_name};

/// Clusters of their own: each question about all topics would be a large one on the others.
#[test]
fn metadata_of_many_topics() -> Result<()> {
    const TOPICS: usize = 1_100;
    const PARTITIONS: i32 = 12;
    const MIB: u64 = 1024 * 1024;
    let builders =
        [("3.9.1", Side::Legacy), ("4.3.0", Side::New)].map(|(version, side)| Cluster::version(version).name(side.name()).heap_mib(512));
    let clusters: [Cluster; 2] = Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
    let direct = port_of(&clusters[0].address(1, Listener::Plaintext)?)?;
    let mut broker = Raw::connect(direct)?;
    // At most 10,000 records in one request: a partition is one.
    for first in (0..TOPICS).step_by(100) {
        let topics = (first..first + 100).map(|n| {
            let topic = CreatableTopic::default().with_name(topic_name(&format!("orders.{n:04}")));
            topic.with_num_partitions(PARTITIONS).with_replication_factor(1)
        });
        let request = CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(60_000);
        let answer = ask(&mut broker, 5, "direct", &request)?;
        ensure!(answer.topics.iter().all(|topic| topic.error_code == 0), "{:?}", answer.topics.first());
    }
    let is_whole = |answer: &MetadataResponse| {
        let partitions = answer.topics.iter().filter(|topic| !topic.is_internal).flat_map(|topic| &topic.partitions);
        partitions.filter(|partition| partition.error_code == 0 && partition.leader_id.0 > 0).count() == TOPICS * PARTITIONS as usize
    };
    until("all partitions have leaders", || Ok(is_whole(&metadata(&mut broker, 9, "direct", None)?)))?;

    let proxy = Proxy::start(&routes(&clusters)?)?;
    let before = proxy.resident_memory()?;
    let median = |port: u16, client_id: &str| -> Result<Duration> {
        let mut client = Raw::connect(port)?;
        let mut times = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            let answer = metadata(&mut client, 9, client_id, None)?;
            times.push(began.elapsed());
            ensure!(is_whole(&answer), "{client_id} is told of {} topics", answer.topics.len());
        }
        times.sort();
        Ok(times[2])
    };
    let without = median(direct, "direct")?;
    let mut told = vec![format!("{TOPICS} topics of {PARTITIONS} partitions: {without:.1?} without the proxy")];
    for (home, what) in [(Side::Legacy, "at home"), (Side::New, "elsewhere")] {
        let time = median(proxy.port(), &home.client("many"))?;
        let memory = proxy.resident_memory()?;
        told.push(format!("{time:.1?} where they lead {what}, the proxy has {} MiB", memory / MIB));
        ensure!(time < without * 10 + Duration::from_millis(500), "{told:?}");
    }
    // Many clients at once, as after a restart of the proxy.
    thread::scope(|scope| {
        let client = |n: usize| {
            let (home, port) = (Side::BOTH[n % 2], proxy.port());
            scope.spawn(move || -> Result<()> {
                is_told(metadata(&mut Raw::connect(port)?, 9, &home.client("many"), None)?.topics.len() >= TOPICS)
            })
        };
        let asking: Vec<_> = (0..40).map(client).collect();
        asking.into_iter().try_for_each(|asking| asking.join().map_err(|_| anyhow!("panicked"))?)
    })?;
    let after = proxy.resident_memory()?;
    told.push(format!("{} MiB at its start, {} MiB after 40 clients at once", before / MIB, after / MIB));
    println!("{}", told.join("; "));
    ensure!(after < before + 200 * MIB, "{told:?}");
    Ok(())
}

fn is_told(is: bool) -> Result<()> {
    ensure!(is, "topics are missing");
    Ok(())
}
