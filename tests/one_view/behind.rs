//! A copy that is behind its leader resets no position.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::clients::{self, Client, Job};
use harness::kafka::{Commit, Record};
use harness::raw::{self, Raw, ask};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, FetchRequest};
use kafka_protocol::protocol::StrBytes;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::{LIMIT, NOT_LEADER_OR_FOLLOWER, Names, Side, calm, topic_name};

/// Error, high watermark, and whether there are records.
fn fetch(client: &mut Raw, version: i16, client_id: &str, topic: &str, offset: i64) -> Result<(i16, i64, bool)> {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topics = vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition])];
    let request = FetchRequest::default().with_max_bytes(1 << 20).with_max_wait_ms(10).with_min_bytes(1).with_topics(topics);
    let answer = ask(client, version, client_id, &request)?;
    ensure!(answer.error_code == 0, "v{version}: {answer:?}");
    let topic = answer.responses.first().context("an answer without the topic")?;
    let partition = topic.partitions.first().context("an answer without the partition")?;
    ensure!(topic.partitions.len() == 1 && partition.partition_index == 0, "{topic:?}");
    Ok((partition.error_code, partition.high_watermark, partition.records.as_ref().is_some_and(|records| !records.is_empty())))
}

/// The highest version of an API that a client is told of.
pub(crate) fn advertised(client: &mut Raw, client_id: &str, key: ApiKey) -> Result<Option<i16>> {
    let (name, version) = raw::SOFTWARE;
    let question = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str(name))
        .with_client_software_version(StrBytes::from_static_str(version));
    let answer = ask(client, 3, client_id, &question)?;
    Ok(answer.api_keys.iter().find(|range| range.api_key == key as i16).map(|range| range.max_version))
}

#[test]
fn a_copy_that_is_behind_resets_nobody() -> Result<()> {
    const FIRST: u32 = 60;
    const ALL: u32 = 100;
    /// Those whose default is to begin anew, in a way of their own.
    const OTHERS: [Client; 2] = [Client::Sarama, Client::KafkaGo];
    calm(|stage| {
        let (legacy, home) = (stage.cluster(Side::Legacy), Side::New);
        let values = |client_id: &str, range: std::ops::Range<u32>| -> Vec<Record> {
            range.map(|n| Record::new(format!("k-{n}"), format!("{client_id}-{n}"))).collect()
        };
        let topics: Vec<(String, String)> = ["raw", "rdkafka"]
            .into_iter()
            .chain(OTHERS.map(Client::name))
            .map(|name| (format!("still.{name}"), home.client(name)))
            .collect();
        for (topic, client_id) in &topics {
            legacy.create_topic(topic, if topic == "still.raw" { 1 } else { 4 }, &[])?;
            legacy.produce(topic, &values(client_id, 0..FIRST))?;
        }
        stage.still.lock().unwrap_or_else(PoisonError::into_inner).copy()?;
        for (topic, client_id) in &topics {
            legacy.produce(topic, &values(client_id, FIRST..ALL))?;
            let ends = legacy.log_ends(topic)?;
            legacy.commit(&format!("still-{client_id}"), topic, (0..).zip(ends).map(|(partition, end)| (partition, Commit::at(end))))?;
            let copied: i64 = stage.cluster(Side::New).log_ends(topic)?.iter().sum();
            ensure!(copied == i64::from(FIRST), "the copy of {topic} has {copied} records");
        }

        // At the copy itself, as a client is that still knows an older leader.
        let node_id = stage.cluster(Side::New).partitions("still.raw")?[0].leader;
        for home in Side::BOTH {
            let (mut client, client_id) = (stage.at(Side::New, node_id)?, home.client("raw"));
            let newest = advertised(&mut client, &client_id, ApiKey::Fetch)?.context("no Fetch")?;
            for version in 4..=newest.max(11) {
                let mut at = |offset: u32| fetch(&mut client, version, &client_id, "still.raw", i64::from(offset));
                let context = || format!("a client of {home:?}, Fetch v{version}");
                let (inside, at_the_end, beyond) = (at(FIRST - 1)?, at(FIRST)?, at(FIRST + 1)?);
                ensure!(inside == (0, i64::from(FIRST), true), "{}: {inside:?}", context());
                ensure!(at_the_end == (0, i64::from(FIRST), false), "{}: {at_the_end:?}", context());
                ensure!((beyond.0, beyond.2) == (NOT_LEADER_OR_FOLLOWER, false), "{}: {beyond:?}", context());
                // Where it leads it is a real one.
            }
            let leader = legacy.partitions("still.raw")?[0].leader;
            let beyond = fetch(&mut stage.at(Side::Legacy, leader)?, 11, &client_id, "still.raw", i64::from(ALL) + 1)?;
            ensure!(beyond.0 == 1, "OFFSET_OUT_OF_RANGE of the leader is passed on: {beyond:?}");
        }

        // Real clients, whose group has read more than the copy has: they would see the older values again.
        let client_id = home.client("rdkafka");
        let mut config = stage.client(&client_id);
        let group = format!("still-{client_id}");
        let consumer: BaseConsumer =
            config.set("group.id", &group).set("auto.offset.reset", "error").set("enable.auto.commit", "false").create()?;
        consumer.subscribe(&["still.rdkafka"])?;
        let until = Instant::now() + LIMIT;
        while consumer.assignment()?.count() < 4 {
            ensure!(Instant::now() < until, "no assignment");
            ensure!(consumer.poll(Duration::from_millis(100)).transpose()?.is_none(), "a record before there is one");
        }
        legacy.produce("still.rdkafka", &values("later", 0..20))?;
        let mut later = BTreeSet::new();
        while later.len() < 20 {
            ensure!(Instant::now() < until, "{} of 20 records came", later.len());
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                let message = message?;
                let value = str::from_utf8(message.payload().context("a value")?)?.to_owned();
                ensure!(value.starts_with("later-") && later.insert(value.clone()), "{value} came once more");
            }
        }
        drop(consumer);
        for client in OTHERS {
            let (client_id, topic) = (home.client(client.name()), format!("still.{}", client.name()));
            let job = Job {
                group_id: format!("still-{client_id}"),
                count: ALL,
                timeout_ms: 90_000,
                ..Job::new(&stage.proxy.bootstrap_servers(), &client_id, &topic)
            };
            // Values that come twice are an error.
            clients::run(client, &job)?;
        }
        Ok(())
    })
}
