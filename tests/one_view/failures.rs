//! A partition leader of the other cluster dies, and a whole cluster dies: clients go on with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::clients::soak::{self, Counts, Soak};
use harness::clients::{self, Client, Job};
use harness::kafka::Cluster;
use harness::raw::{Raw, ask};
use kafka_protocol::messages::DescribeClusterRequest;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::{LEADER_NOT_AVAILABLE, LIMIT, Side, Stage, alone, metadata, named};

#[test]
fn clients_follow_a_foreign_election_and_outlive_a_dead_cluster() -> Result<()> {
    alone(|stage| {
        a_foreign_election(stage).context("a foreign election")?;
        a_dead_cluster(stage).context("a dead cluster")
    })
}

const PARTITIONS: usize = 4;
/// Of one partition, until it counts as going on.
const GOES_ON: u64 = 20;

/// Every partition of every client: records are acknowledged and read.
fn go_on(clients: &[Soak]) -> Result<()> {
    let counts = || clients.iter().map(Soak::counts).collect::<Result<Vec<_>>>();
    let before = counts()?;
    let goes = |before: &[u64], now: &[u64]| {
        (0..PARTITIONS).all(|n| now.get(n).copied().unwrap_or_default() >= before.get(n).copied().unwrap_or_default() + GOES_ON)
    };
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = counts()?;
        let is_going = |(before, now): (&Counts, &Counts)| goes(&before.acked, &now.acked) && goes(&before.consumed, &now.consumed);
        if before.iter().zip(&now).all(is_going) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{LIMIT:?} without going on: {before:?}, {now:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn a_foreign_election(stage: &Stage) -> Result<()> {
    let (leader, home) = (Side::Legacy, Side::New);
    let cluster = stage.cluster(leader);
    let mut clients = Vec::new();
    for client in [Client::Rdkafka, Client::Java4] {
        let topic = leader.leads(&format!("election.{}", client.name()));
        stage.create_copied(leader, &topic, PARTITIONS as i32)?;
        let client_id = home.client(&format!("election-{}", client.name()));
        let job = soak::Job {
            bootstrap_servers: stage.proxy.bootstrap_servers(),
            group_id: client_id.clone(),
            client_id,
            topic: topic.clone(),
            partitions: PARTITIONS,
            records_per_second: 200,
            timeout_ms: LIMIT.as_millis() as u64,
            security: None,
        };
        clients.push((topic, client, Soak::start(client, &job)?));
    }
    let (topics, soaks): (Vec<_>, Vec<_>) = clients.into_iter().map(|(topic, client, soak)| ((topic, client), soak)).unzip();
    go_on(&soaks)?;
    let victim = cluster.partitions(&topics[0].0)?[0].leader;
    cluster.kill(victim)?;
    let killed = go_on(&soaks).context("a broker was killed");
    // Whatever came of it: other tests need it.
    cluster.restart(victim)?;
    killed?;
    ensure!(cluster.partitions(&topics[0].0)?[0].leader != victim, "nobody else was elected");
    go_on(&soaks).context("it is back")?;
    for ((topic, client), soak) in topics.into_iter().zip(soaks) {
        let seen = soak.seen();
        ensure!(seen.errors.is_empty(), "{}: {seen:?}", client.name());
        println!(
            "{}: {:.1} s without acknowledgements, {:.1} s without reads",
            client.name(),
            seen.longest_ack_pause.as_secs_f64(),
            seen.longest_consume_pause.as_secs_f64()
        );
        let counts = soak.stop()?;
        let mut log = BTreeMap::<usize, Vec<u64>>::new();
        for record in cluster.read_all(&topic)? {
            log.entry(record.partition as usize).or_default().push(str::from_utf8(&record.value.context("a value")?)?.parse()?);
        }
        for (partition, acked) in counts.acked.iter().enumerate() {
            let mut numbers = log.remove(&partition).unwrap_or_default();
            if client == Client::Rdkafka {
                // librdkafka itself sends a record twice now and then when its leader dies: its issue 4953.
                let mut next = 0;
                numbers.retain(|&n| {
                    let is_new = n >= next;
                    next = next.max(n + 1);
                    is_new
                });
            }
            ensure!(numbers.iter().copied().eq(0..*acked), "{topic}-{partition}: {acked} acknowledged, {} in the log", numbers.len());
        }
        stage.is_copied(leader, &topic)?;
    }
    stage.no_copy_has_diverged(".election.")
}

/// Starts all brokers of a cluster again: one alone would wait for the others.
fn restart(cluster: &Cluster) -> Result<()> {
    thread::scope(|scope| {
        let starts: Vec<_> = cluster.node_ids().into_iter().map(|node_id| scope.spawn(move || cluster.restart(node_id))).collect();
        starts.into_iter().try_for_each(|start| start.join().expect("a start returns its errors"))
    })
}

fn a_dead_cluster(stage: &Stage) -> Result<()> {
    for (dead, clients) in [(Side::Legacy, &[Client::Java4, Client::ConfluentPython, Client::FranzGo][..]), (Side::New, &[])] {
        let alive = dead.other();
        for side in Side::BOTH {
            stage.create_copied(side, &side.leads(&format!("dead-{}", dead.name())), 4)?;
        }
        for client in clients {
            stage.create_copied(alive, &alive.leads(&format!("dead-{}.{}", dead.name(), client.name())), 4)?;
        }
        let only = format!("only-{}.dead", dead.name());
        stage.cluster(dead).create_topic(&only, 2, &[])?;
        // Whoever comes later is told what the proxy has seen before.
        for home in Side::BOTH {
            stage.is_shown(home, dead, &only)?;
        }
        let cluster = stage.cluster(dead);
        let goes_on = cluster
            .node_ids()
            .into_iter()
            .try_for_each(|node_id| cluster.kill(node_id))
            .and_then(|()| without(stage, dead, &only, clients));
        let began = Instant::now();
        restart(cluster)?;
        println!("{dead:?} is back after {:.1} s", began.elapsed().as_secs_f64());
        goes_on.with_context(|| format!("without {dead:?}"))?;

        let topic = dead.leads(&format!("dead-{}", dead.name()));
        for home in Side::BOTH {
            stage.is_shown(home, dead, &topic).context("it is back")?;
            stage.is_shown(home, dead, &only).context("it is back")?;
        }
        let producer: BaseProducer = stage.client(&alive.client("after")).create()?;
        producer.send(BaseRecord::<str, str>::to(&topic).payload("again")).map_err(|(error, _)| error)?;
        producer.flush(LIMIT)?;
        ensure!(cluster.record_count(&topic)? == 1, "{topic} has no record");
        for side in Side::BOTH {
            stage.is_copied(side, &side.leads(&format!("dead-{}", dead.name()))).context("it is back")?;
        }
    }
    stage.comes("all is copied again", || stage.no_copy_has_diverged(".dead-"))
}

/// What clients do that come while a cluster is dead.
fn without(stage: &Stage, dead: Side, only: &str, clients: &[Client]) -> Result<()> {
    let alive = dead.other();
    let (away, there) = (dead.leads(&format!("dead-{}", dead.name())), alive.leads(&format!("dead-{}", dead.name())));
    let all: BTreeSet<i32> = crate::operators::all_brokers(stage)?.into_iter().map(|(id, _)| id).collect();
    for home in Side::BOTH {
        // Half a minute after its last answer.
        stage.comes("what leads on the dead cluster has no leader", || {
            let mut client = Raw::connect(stage.proxy.port())?;
            let answer = metadata(&mut client, 9, &home.client("late"), None)?;
            let is = [&away, only, &there].map(|topic| named(&answer, topic).map(|topic| topic.error_code));
            let brokers: BTreeSet<i32> = answer.brokers.iter().map(|broker| broker.node_id.0).collect();
            let is_right = is == [Some(LEADER_NOT_AVAILABLE), Some(LEADER_NOT_AVAILABLE), Some(0)] && brokers == all;
            ensure!(is_right, "[{away}, {only}, {there}] to a client of {home:?}: {is:?}, brokers {brokers:?}");
            Ok(())
        })?;
        let described = ask(&mut Raw::connect(stage.proxy.port())?, 0, &home.client("late"), &DescribeClusterRequest::default());
        let described = described.with_context(|| format!("DescribeCluster of a client of {home:?}"))?;
        ensure!(
            described.error_code == 0 && described.brokers.len() == all.len(),
            "DescribeCluster to a client of {home:?}: {described:?}"
        );
        for topic in [&*away, only] {
            let mut client = Raw::connect(stage.proxy.port())?;
            let answer = metadata(&mut client, 9, &home.client("late"), Some(&[topic, &there]))?;
            let is = [topic, &there].map(|topic| named(&answer, topic).map(|topic| topic.error_code));
            ensure!(is == [Some(LEADER_NOT_AVAILABLE), Some(0)], "[{topic}, {there}] by name to a client of {home:?}: {is:?}");
        }
    }

    // A producer and a reader without a group, as the group of a client lives at home.
    let client_id = dead.client("late");
    let producer: BaseProducer = stage.client(&client_id).set("enable.idempotence", "true").create()?;
    for n in 0..100 {
        let value = n.to_string();
        producer.send(BaseRecord::<str, str>::to(&there).partition(n % 4).payload(&value)).map_err(|(error, _)| error)?;
    }
    producer.flush(LIMIT)?;
    let consumer: BaseConsumer = stage.client(&client_id).set("group.id", "none").set("enable.auto.commit", "false").create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..4 {
        assignment.add_partition_offset(&there, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut came, deadline) = (0, Instant::now() + LIMIT);
    while came < 100 {
        ensure!(Instant::now() < deadline, "{came} of 100 records came");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(_)) => came += 1,
            // What librdkafka tells of brokers that are away, while it goes on.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::OperationTimedOut,
            )))
            | None => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
    // Whole round trips, in a group that lives on the cluster that is there.
    for client in clients {
        let client_id = dead.client(&format!("late-{}", client.name()));
        let job = Job {
            group_id: alive.lives(&client_id),
            count: 100,
            timeout_ms: 90_000,
            ..Job::new(&stage.proxy.bootstrap_servers(), &client_id, &alive.leads(&format!("dead-{}.{}", dead.name(), client.name())))
        };
        let outcome = clients::run(*client, &job)?;
        println!("{} at {dead:?}, which is dead: {:.1} s", client.name(), outcome.seconds);
    }
    Ok(())
}
