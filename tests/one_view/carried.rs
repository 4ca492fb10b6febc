//! Producers whose topics lead elsewhere than where they send: nothing is refused, lost, doubled or reordered, also when leaders die and hang.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::Cluster;
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw, ask, until};
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::describe_quorum_request::{PartitionData as DescribeQuorumPartition, TopicData as DescribeQuorumTopic};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions as ElectTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, DescribeQuorumRequest, ElectLeadersRequest, MetadataRequest, ProduceRequest,
    ProduceResponse,
};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::writes::{batch_of, outcomes, produce, producer_id};
use crate::{LIMIT, NOT_LEADER_OR_FOLLOWER, Names, Side, Stage, alone, calm, routes, topic_name};

/// Kafka's `REQUEST_TIMED_OUT`
const REQUEST_TIMED_OUT: i16 = 7;
/// Kafka's `DUPLICATE_SEQUENCE_NUMBER`: it is in the log.
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
/// After these a producer tries again: the two above, NOT_ENOUGH_REPLICAS before and after the append, and OUT_OF_ORDER_SEQUENCE_NUMBER behind such a one.
const PASSES: [i16; 5] = [NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, 19, 20, 45];

/// The same two clusters, with a mirror more: topics that each home has for itself lead on legacy from then on.
const LEADS_ELSEWHERE: &str = r"
[[mirrors]]
name = 'led'
source = 'legacy'
target = 'new'
topics_regex = ['led.*']
";

/// What is in a log, by partition.
pub(crate) fn numbers(cluster: &Cluster, topic: &str) -> Result<BTreeMap<i32, Vec<u64>>> {
    let mut numbers = BTreeMap::<i32, Vec<u64>>::new();
    for record in cluster.read_all(topic)? {
        numbers.entry(record.partition).or_default().push(str::from_utf8(&record.value.context("a value")?)?.parse()?);
    }
    Ok(numbers)
}

/// Two logs, one behind the other, come to have all numbers up to one, and at least what was acknowledged: with acks=0 that is what was sent.
fn has_all(stage: &Stage, topic: &str, partition: usize, acked: u64) -> Result<(usize, usize)> {
    let began = Instant::now();
    loop {
        match have_all(stage, topic, partition, acked) {
            Err(_) if began.elapsed() < LIMIT => thread::sleep(Duration::from_millis(200)),
            had => return had,
        }
    }
}

fn have_all(stage: &Stage, topic: &str, partition: usize, acked: u64) -> Result<(usize, usize)> {
    let of = |side| Ok::<_, anyhow::Error>(numbers(stage.cluster(side), topic)?.remove(&(partition as i32)).unwrap_or_default());
    let (before, after) = (of(Side::New)?, of(Side::Legacy)?);
    let all = before.iter().chain(&after).copied();
    let count = (before.len() + after.len()) as u64;
    let distinct = all.clone().collect::<BTreeSet<_>>().len();
    ensure!(
        all.clone().eq(0..count) && count >= acked && !before.is_empty() && !after.is_empty(),
        "{topic}-{partition}: {acked} acknowledged; {} in the one log, {} in the other, {distinct} of them distinct, the largest {:?}, {} behind a larger one: {:?}",
        before.len(),
        after.len(),
        all.clone().max(),
        all.clone().zip(all.clone().skip(1)).filter(|(one, next)| one > next).count(),
        all.zip(0..).filter(|(found, expected)| found != expected).take(3).collect::<Vec<_>>()
    );
    Ok((before.len(), after.len()))
}

/// A producer of librdkafka that numbers its records, each partition from 0 on, and says how many were acknowledged.
fn librdkafka(
    bootstrap_servers: &str,
    client_id: &str,
    topic: &str,
    settings: &[(&str, &str)],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<[u64; 2]> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap_servers)
        .set("client.id", client_id)
        .set("linger.ms", "2")
        .set("topic.metadata.refresh.interval.ms", "3000");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let producer: BaseProducer = config.create()?;
    let mut sent = [0; 2];
    while !stop() {
        for (partition, next) in sent.iter_mut().enumerate() {
            let value = next.to_string();
            let record = BaseRecord::<(), _>::to(topic).partition(partition as i32).payload(&value);
            match producer.send(record) {
                Ok(()) => *next += 1,
                Err((error, _)) => bail!("{client_id}: {error}"),
            }
        }
        // What it sends faster than it can be carried would be waited for, and not longer than a client waits for an answer.
        producer.poll(Duration::from_millis(8));
    }
    producer.flush(LIMIT)?;
    Ok(sent)
}

/// Waits until so many more records of every partition of every producer are acknowledged.
pub(crate) fn produce_on<'a>(soaks: impl IntoIterator<Item = &'a Soak, IntoIter: Clone>, more: u64) -> Result<()> {
    let soaks = soaks.into_iter();
    let acked = || soaks.clone().map(|soak| Ok(soak.counts()?.acked)).collect::<Result<Vec<_>>>();
    let (before, began) = (acked()?, Instant::now());
    let goes = |(before, now): (&Vec<u64>, &Vec<u64>)| {
        !now.is_empty() && now.iter().enumerate().all(|(n, now)| *now >= before.get(n).unwrap_or(&0) + more)
    };
    loop {
        let now = acked()?;
        if before.iter().zip(&now).all(goes) {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "not every producer goes on: {before:?}, {LIMIT:?} later {now:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The leader of topics changes while producers write to them: an edit of the file does it here, without a hold, so each log has its part.
#[test]
fn producers_go_on_when_their_topics_lead_elsewhere() -> Result<()> {
    /// Of librdkafka: what it is called, and how it is set.
    const MODES: [(&str, &[(&str, &str)]); 5] = [
        ("idempotent", &[("enable.idempotence", "true")]),
        ("plain", &[("enable.idempotence", "false"), ("max.in.flight", "5")]),
        ("acks-1", &[("acks", "1"), ("max.in.flight", "5")]),
        ("acks-0", &[("acks", "0")]),
        ("no-retries", &[("acks", "all"), ("retries", "0"), ("max.in.flight", "5")]),
    ];
    const CLIENTS: [Client; 3] = [Client::Java4, Client::Java28, Client::FranzGo];
    alone(|stage| {
        let routes = routes(&stage.clusters)?;
        let proxy = Proxy::start(&routes)?;
        let topics: Vec<String> =
            MODES.iter().map(|(name, _)| *name).chain(CLIENTS.map(Client::name)).map(|name| format!("led.{name}")).collect();
        for (topic, side) in topics.iter().flat_map(|topic| Side::BOTH.map(|side| (topic, side))) {
            stage.cluster(side).create_topic(topic, 2, &[])?;
        }
        let soaks = CLIENTS.map(|client| {
            let client_id = Side::New.client(&format!("led-{}", client.name()));
            let job = soak::Job::plain(proxy.bootstrap_servers(), client_id, &format!("led.{}", client.name()), 2, LIMIT);
            Soak::start(client, &soak::Job { group_id: Some(format!("led-{}", client.name())), ..job })
        });
        let soaks = soaks.into_iter().collect::<Result<Vec<_>>>()?;
        // Those that run on Java need a while to begin.
        soak::go_on(&soaks, 2, 50, LIMIT)?;
        let stopped = std::sync::atomic::AtomicBool::new(false);
        let stop = || stopped.load(std::sync::atomic::Ordering::Relaxed);
        let sent = thread::scope(|scope| -> Result<Vec<[u64; 2]>> {
            let servers = proxy.bootstrap_servers();
            let producers = MODES.map(|(name, settings)| {
                let (servers, stop) = (servers.clone(), &stop);
                scope.spawn(move || librdkafka(&servers, &Side::New.client(&format!("led-{name}")), &format!("led.{name}"), settings, stop))
            });
            let run = || {
                thread::sleep(Duration::from_secs(2));
                proxy.edit(&routes.clone().section(LEADS_ELSEWHERE))?;
                until("the file is taken", || Ok(proxy.reload()?.status == 200))?;
                produce_on(&soaks, 50)?;
                // Longer than their metadata lives: they have come over by themselves.
                thread::sleep(Duration::from_secs(5));
                produce_on(&soaks, 50)
            };
            let ran = run();
            stopped.store(true, std::sync::atomic::Ordering::Relaxed);
            let sent = producers.into_iter().map(|producer| producer.join().expect("a producer returns its errors")).collect();
            ran.and(sent)
        })?;
        for ((name, _), sent) in MODES.iter().zip(sent) {
            let topic = format!("led.{name}");
            for (partition, sent) in sent.into_iter().enumerate() {
                let (before, after) = has_all(stage, &topic, partition, sent)?;
                println!("librdkafka, {name}: {before} and {after} records");
            }
        }
        for (client, soak) in CLIENTS.into_iter().zip(soaks) {
            let (seen, topic) = (soak.seen(), format!("led.{}", client.name()));
            let acked = soak.counts()?.acked;
            // Its group goes on at another log than the one that it has read, and so it does not come to an end.
            drop(soak);
            ensure!(seen.errors.is_empty(), "{}: {:?}", client.name(), seen.errors);
            for (partition, acked) in acked.into_iter().enumerate() {
                let (before, after) = has_all(stage, &topic, partition, acked)?;
                println!(
                    "{}: {before} and {after} records, {:.1} s without acknowledgements",
                    client.name(),
                    seen.longest_ack_pause.as_secs_f64()
                );
            }
        }
        let carried: Vec<_> = proxy.clients()?.into_iter().filter(|row| row["carried"]["bytes"].as_u64() > Some(0)).collect();
        let who: Vec<_> = carried.iter().filter_map(|row| row["client_id"].as_str()).collect();
        // One may have asked for Metadata between the edit and its next record: librdkafka does so every 3 s.
        ensure!(who.len() + 1 >= topics.len(), "carried: {who:?}, of {:?}", proxy.clients()?);
        ensure!(proxy.metric("kferry_proxy_carried_bytes_total", &[("cluster", "legacy")])? > 0.0, "nothing was carried");
        ensure!(proxy.metric("kferry_proxy_carrying_bytes", &[])? == 0.0, "something is still held");
        Ok(())
    })
}

/// An idempotent producer that sends all to a broker of the wrong cluster, up to five frames ahead of their answers, and numbers its records.
struct Stubborn {
    client: Raw,
    client_id: String,
    id: i64,
    topic: String,
    sent: i32,
    acked: i32,
}

impl Stubborn {
    fn at(stage: &Stage, side: Side, topic: &str) -> Result<Self> {
        let client_id = side.client("stubborn");
        let mut client = stage.at(side, 1)?;
        let id = producer_id(&mut client, &client_id)?;
        Ok(Self { client, client_id, id, topic: topic.to_owned(), sent: 0, acked: 0 })
    }

    fn request(&self, sequence: i32, timeout_ms: i32) -> Result<ProduceRequest> {
        let batch = batch_of(&sequence.to_string(), Some((self.id, sequence)))?;
        Ok(produce(-1, &[(&self.topic, 0, batch)]).with_timeout_ms(timeout_ms))
    }

    fn send(&mut self, timeout_ms: i32) -> Result<()> {
        let request = self.request(self.sent, timeout_ms)?;
        self.client.send(&raw::request(9, self.sent, &self.client_id, &request)?)?;
        self.sent += 1;
        Ok(())
    }

    /// The error of the oldest that has no answer.
    fn take(&mut self) -> Result<i16> {
        let answer: ProduceResponse = raw::answer::<ProduceRequest>(&mut self.client, 9, self.acked)?;
        Ok(outcomes(&answer)?.remove(&(self.topic.clone(), 0)).context("the partition")?.0)
    }

    /// Sends on, five ahead.
    fn run(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            while self.sent < self.acked + 5 {
                self.send(60_000)?;
            }
            self.take_one()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        while self.acked < self.sent {
            self.take_one()?;
        }
        Ok(())
    }

    /// The oldest is acknowledged; or all that have no answer are sent again one by one, as producers do after an error that may pass.
    fn take_one(&mut self) -> Result<()> {
        let error = self.take()?;
        if error == 0 {
            self.acked += 1;
            return Ok(());
        }
        let first = self.acked;
        let mut errors = vec![error];
        while self.acked + 1 < self.sent {
            self.acked += 1;
            errors.push(self.take()?);
        }
        println!("{first} to {} were answered {errors:?}", self.acked);
        ensure!(errors.iter().all(|error| PASSES.contains(error)), "{first}: {errors:?}");
        for sequence in first..self.sent {
            self.ask_until_appended(sequence)?;
        }
        self.acked = self.sent;
        Ok(())
    }

    fn ask_until_appended(&mut self, sequence: i32) -> Result<()> {
        let request = self.request(sequence, 3_000)?;
        let began = Instant::now();
        loop {
            let answer = ask(&mut self.client, 9, &self.client_id.clone(), &request)?;
            let error = outcomes(&answer)?.remove(&(self.topic.clone(), 0)).context("the partition")?.0;
            match error {
                0 | DUPLICATE_SEQUENCE_NUMBER => return Ok(()),
                _ => ensure!(PASSES.contains(&error) && began.elapsed() < LIMIT, "{sequence}: {error} after {:?}", began.elapsed()),
            }
        }
    }
}

#[test]
fn what_is_carried_stands_in_the_log_once_and_in_order_whatever_becomes_of_its_leader() -> Result<()> {
    alone(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("stubborn");
        stage.create_copied(leader, &topic, 1)?;
        let cluster = stage.cluster(leader);
        let mut producer = Stubborn::at(stage, home, &topic)?;
        producer.run(Duration::from_secs(1))?;
        let victim = cluster.partitions(&topic)?[0].leader;
        // Killed, with frames under way; and back, so that the partition goes on with two replicas at least.
        let killed = thread::scope(|scope| {
            let killing = scope.spawn(|| {
                cluster.kill(victim)?;
                thread::sleep(Duration::from_secs(3));
                cluster.restart(victim)
            });
            let ran = producer.run(Duration::from_secs(12));
            killing.join().expect("it returns its errors").and(ran)
        });
        killed.context("the partition leader was killed")?;
        producer.finish()?;
        // Frozen: it says nothing, and until the cluster notices nobody else leads.
        let victim = cluster.partitions(&topic)?[0].leader;
        cluster.freeze(victim)?;
        let frozen: Result<()> = (|| {
            producer.send(3_000)?;
            let began = Instant::now();
            producer.take_one()?;
            println!("frozen: appended after {:.1} s", began.elapsed().as_secs_f64());
            Ok(())
        })();
        cluster.thaw(victim)?;
        frozen.context("the partition leader was frozen")?;
        producer.run(Duration::from_secs(1))?;
        producer.finish()?;
        let log = numbers(stage.cluster(leader), &topic)?.remove(&0).unwrap_or_default();
        ensure!(log.iter().copied().eq(0..producer.acked as u64), "{} acknowledged, {} in the log: {log:?}", producer.acked, log.len());
        println!("{} records, each once and in order", log.len());
        stage.is_copied(leader, &topic)?;
        stage.no_copy_has_diverged(".stubborn")
    })
}

#[test]
fn a_client_hears_in_its_own_time_that_no_leader_answers_and_nothing_overtakes_what_was_given_up() -> Result<()> {
    alone(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("silent");
        stage.create_copied(leader, &topic, 1)?;
        let cluster = stage.cluster(leader);
        let mut producer = Stubborn::at(stage, home, &topic)?;
        let nodes = cluster.node_ids();
        nodes.iter().try_for_each(|node_id| cluster.freeze(*node_id))?;
        let began = Instant::now();
        let silent = (|| {
            // Its first three: a leader that does not know it would take any of them for the first.
            (0..3).try_for_each(|_| producer.send(2_000))?;
            let mut plain = stage.at(home, 1)?;
            let lost = produce(1, &[(&topic, 0, batch_of("plain", None)?)]).with_timeout_ms(2_000);
            plain.send(&raw::request(9, 0, "at-new-plain", &lost)?)?;
            let mut errors = Vec::new();
            for _ in 0..3 {
                errors.push(producer.take()?);
                producer.acked += 1;
            }
            ensure!(errors.iter().all(|error| [NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT].contains(error)), "{errors:?}");
            ensure!(began.elapsed() < Duration::from_secs(40), "{:?} for three times 2 s", began.elapsed());
            // Nobody knows whether it was appended: its client is told as by a broker that goes away, or that there is no leader.
            if let Ok(answer) = raw::answer::<ProduceRequest>(&mut plain, 9, 0) {
                let error = outcomes(&answer)?.remove(&(topic.clone(), 0)).context("the partition")?.0;
                ensure!(error == NOT_LEADER_OR_FOLLOWER, "plain: {error}");
            }
            Ok(errors)
        })();
        nodes.iter().try_for_each(|node_id| cluster.thaw(*node_id))?;
        println!("{:?} after {:.1} s", silent?, began.elapsed().as_secs_f64());
        // The second one comes again before the first: that has to wait.
        let client_id = producer.client_id.clone();
        let mut answered = |sequence: i32| -> Result<i16> {
            let request = producer.request(sequence, 20_000)?;
            let answer = ask(&mut producer.client, 9, &client_id, &request)?;
            Ok(outcomes(&answer)?.remove(&(topic.clone(), 0)).context("the partition")?.0)
        };
        ensure!(answered(1)? == NOT_LEADER_OR_FOLLOWER, "it overtook the first");
        for sequence in 0..3 {
            ensure!(answered(sequence)? == 0, "{sequence} was refused");
        }
        let values: Vec<_> = stage.cluster(leader).read_all(&topic)?.into_iter().filter_map(|record| record.value).collect();
        let own: Vec<_> = values.iter().filter(|value| **value != b"plain").collect();
        ensure!(own == [b"0", b"1", b"2"], "{values:?}");
        stage.is_copied(leader, &topic)
    })
}

/// A plain batch whose answer is lost ends its client's connection. What the client had sent behind it, it sends again: it must not be carried any more, or it
/// would be in the log twice. What another leader has appended of the same request is acknowledged before.
#[test]
fn what_waits_behind_a_lost_batch_is_left_to_its_client() -> Result<()> {
    const FRAMES: u64 = 20;
    alone(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("lost");
        stage.create_copied(leader, &topic, 3)?;
        let cluster = stage.cluster(leader);
        let partitions = cluster.partitions(&topic)?;
        let victim = partitions[0].leader;
        let other = partitions.iter().position(|partition| partition.leader != victim).context("another leader")? as i32;
        let client_id = home.client("lost");
        let batch = |number: u64| batch_of(&number.to_string(), None);
        let request = |number: u64| Ok::<_, anyhow::Error>(produce(-1, &[(&topic, 0, batch(number)?)]));
        let appends = |client: &mut Raw, number: u64| {
            let found = outcomes(&ask(client, 9, &client_id, &request(number)?)?)?;
            ensure!(found.values().all(|(error_code, _)| *error_code == 0), "{number}: {found:?}");
            Ok(())
        };
        let mut client = stage.at(home, 1)?;
        appends(&mut client, 0)?;
        // It has the first of them, and never appends that.
        cluster.freeze(victim)?;
        let frame = |number| {
            Ok::<_, anyhow::Error>(match number {
                1 => produce(-1, &[(&topic, 0, batch(number)?), (&topic, other, batch(number)?)]),
                _ => request(number)?,
            })
        };
        let sent = (1..=FRAMES).map(|number| raw::request(9, number as i32, &client_id, &frame(number)?)).collect::<Result<Vec<_>>>();
        let sent = sent.and_then(|frames| client.send(&frames.concat()));
        thread::sleep(Duration::from_secs(1));
        cluster.kill(victim)?;
        let first = raw::answer::<ProduceRequest>(&mut client, 9, 1).and_then(|answer| outcomes(&answer));
        let cut = raw::answer::<ProduceRequest>(&mut client, 9, 2);
        let again = sent.and_then(|()| {
            let mut client = stage.at(home, 1)?;
            (1..=FRAMES).try_for_each(|number| appends(&mut client, number))
        });
        cluster.restart(victim)?;
        again?;
        let first = first.context("the request that had two leaders")?;
        let errors: Vec<_> =
            [0, other].iter().map(|partition| first.get(&(topic.clone(), *partition)).map(|(error_code, _)| *error_code)).collect();
        ensure!(errors == [Some(REQUEST_TIMED_OUT), Some(0)], "{first:?}");
        ensure!(cut.is_err(), "what was behind it was answered: {cut:?}");
        let mut log = numbers(cluster, &topic)?;
        ensure!(log.remove(&0).unwrap_or_default().into_iter().eq(0..=FRAMES) && log.remove(&other) == Some(vec![1]), "{log:?}");
        stage.is_copied(leader, &topic)
    })
}

/// A leader that has appended a plain batch, and is leader no more before all replicas have it, says NOT_LEADER_OR_FOLLOWER, as one does that has not: the next
/// leader may have the batch all the same.
#[test]
fn what_a_changed_leader_had_appended_is_left_to_its_client() -> Result<()> {
    alone(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("changed");
        stage.create_copied(leader, &topic, 1)?;
        let cluster = stage.cluster(leader);
        let is = &cluster.partitions(&topic)?[0];
        let mut direct = stage.directly_at(leader, is.leader)?;
        let quorum = DescribeQuorumPartition::default().with_partition_index(0);
        let quorum = DescribeQuorumTopic::default().with_topic_name(topic_name("__cluster_metadata")).with_partitions(vec![quorum]);
        let quorum = ask(&mut direct, 0, "direct", &DescribeQuorumRequest::default().with_topics(vec![quorum]))?;
        let controller = quorum.topics[0].partitions[0].leader_id.0;
        let followers: Vec<i32> = is.replicas.iter().copied().filter(|node_id| *node_id != is.leader).collect();
        let behind = *followers.iter().find(|node_id| **node_id != controller).context("a follower that is not the controller")?;
        let next = *followers.iter().find(|node_id| **node_id != behind).context("another follower")?;
        let replicas = [next, is.leader, behind].map(BrokerId);
        let partition = ReassignablePartition::default().with_partition_index(0).with_replicas(Some(replicas.into()));
        let reassigned = ReassignableTopic::default().with_name(topic_name(&topic)).with_partitions(vec![partition]);
        let reassign = AlterPartitionReassignmentsRequest::default().with_topics(vec![reassigned]).with_timeout_ms(30_000);
        let answer = ask(&mut direct, 0, "direct", &reassign)?;
        ensure!(answer.error_code == 0 && answer.responses[0].partitions[0].error_code == 0, "{answer:?}");

        let client_id = home.client("changed");
        let request = |number: &str| Ok::<_, anyhow::Error>(produce(-1, &[(&topic, 0, batch_of(number, None)?)]));
        let mut client = stage.at(home, 1)?;
        let first = outcomes(&ask(&mut client, 9, &client_id, &request("0")?)?)?;
        ensure!(first.values().all(|(error_code, _)| *error_code == 0), "{first:?}");
        cluster.freeze(behind)?;
        let changed = (|| {
            client.send(&raw::request(9, 1, &client_id, &request("1")?)?)?;
            // Until the leader and the other follower have it: no answer says so, and the high watermark stays where it was.
            thread::sleep(Duration::from_secs(1));
            let elected = ElectTopic::default().with_topic(topic_name(&topic)).with_partitions(vec![0]);
            let elect = ElectLeadersRequest::default().with_topic_partitions(Some(vec![elected])).with_timeout_ms(30_000);
            let answer = ask(&mut direct, 2, "direct", &elect)?;
            let outcome =
                answer.replica_election_results.iter().flat_map(|topic| &topic.partition_result).map(|partition| partition.error_code);
            ensure!(answer.error_code == 0 && outcome.clone().all(|error_code| error_code == 0), "{answer:?}");
            Ok(raw::answer::<ProduceRequest>(&mut client, 9, 1).and_then(|answer| outcomes(&answer)))
        })();
        cluster.thaw(behind)?;
        let answer = changed?;
        ensure!(answer.is_err(), "it was answered: {answer:?}");
        ensure!(cluster.partitions(&topic)?[0].leader == next, "nobody else was elected");
        stage.is_copied(leader, &topic)?;
        let log = numbers(cluster, &topic)?;
        ensure!(log == BTreeMap::from([(0, vec![0, 1])]), "{log:?}");
        Ok(())
    })
}

#[test]
fn what_does_not_exist_keeps_nothing_else_from_its_leader() -> Result<()> {
    calm(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("beside-unknown");
        stage.create_copied(leader, &topic, 1)?;
        let mut client = stage.at(home, 1)?;
        let client_id = home.client("unknown");
        let names: Vec<String> = (0..20).map(|n| leader.leads(&format!("unknown-{n}"))).collect();
        let batch = || batch_of("there", None);
        let mut entries = names.iter().map(|name| Ok((name.as_str(), 0, batch()?))).collect::<Result<Vec<_>>>()?;
        entries.push((&topic, 0, batch()?));
        entries.push((&topic, 99, batch()?));
        for version in [3, 9] {
            let began = Instant::now();
            let found = outcomes(&ask(&mut client, version, &client_id, &produce(-1, &entries).with_timeout_ms(5_000))?)?;
            ensure!(began.elapsed() < Duration::from_secs(4), "v{version}: {:?}", began.elapsed());
            let error = |topic: &str, partition| found.get(&(topic.to_owned(), partition)).map(|outcome| outcome.0);
            ensure!(error(&topic, 0) == Some(0) && error(&topic, 99) == Some(3), "v{version}: {found:?}");
            ensure!(names.iter().all(|name| error(name, 0) == Some(3)) && found.len() == entries.len(), "v{version}: {found:?}");
        }
        stage.is_copied(leader, &topic)
    })
}

/// A client that has been carried, and sends the next batch to the leader itself while a part of the one before is still on its way to the other cluster.
/// With acks=0 a client goes when its socket has taken all. An answer that finds it gone must not keep from the log what it had sent before.
#[test]
fn what_a_client_has_sent_is_in_the_log_after_it_has_gone() -> Result<()> {
    const FRAMES: u64 = 400;
    calm(|stage| {
        let leader = Side::Legacy;
        let topic = leader.leads("gone");
        stage.create_copied(leader, &topic, 1)?;
        let node_id = stage.cluster(leader).partitions(&topic)?[0].leader;
        let mut sent = 0;
        for (side, node_id) in [(leader, node_id), (leader.other(), 1)] {
            let mut client = stage.at(side, node_id)?;
            let client_id = side.client(&format!("gone-{}", side.name()));
            let mut all = Vec::new();
            for number in sent..sent + FRAMES {
                if number % 20 == 0 {
                    all.extend(raw::request(9, number as i32, &client_id, &MetadataRequest::default().with_topics(None))?);
                }
                let request = produce(0, &[(&topic, 0, batch_of(&number.to_string(), None)?)]);
                all.extend(raw::request(9, number as i32, &client_id, &request)?);
            }
            client.send(&all)?;
            drop(client);
            sent += FRAMES;
            let log = || Ok::<_, anyhow::Error>(numbers(stage.cluster(leader), &topic)?.remove(&0).unwrap_or_default());
            until(&format!("all of a client of {} is there", side.name()), || Ok(log()?.len() as u64 == sent))?;
            ensure!(log()?.into_iter().eq(0..sent), "they are not in order");
        }
        stage.is_copied(leader, &topic)
    })
}

/// A client that has given up, and sends something anew on another connection: what was not read of the first one must not follow. What is under way may: 32
/// requests of a connection, and one or two whose answers have found that it is gone.
#[test]
fn what_a_client_has_given_up_does_not_come_behind_what_it_sends_anew() -> Result<()> {
    const FRAMES: u64 = 600;
    const UNDER_WAY: usize = 40;
    calm(|stage| {
        let leader = Side::Legacy;
        let topic = leader.leads("given-up");
        stage.create_copied(leader, &topic, 1)?;
        let node_id = stage.cluster(leader).partitions(&topic)?[0].leader;
        for (side, node_id) in [(leader, node_id), (leader.other(), 1)] {
            let client_id = side.client(&format!("given-up-{}", side.name()));
            let frame = |number: u64| {
                let request = produce(1, &[(&topic, 0, batch_of(&number.to_string(), None)?)]);
                raw::request(9, number as i32, &client_id, &request)
            };
            let mut gone = stage.at(side, node_id)?;
            gone.send(&(0..FRAMES).map(frame).collect::<Result<Vec<_>>>()?.concat())?;
            drop(gone);
            let mut again = stage.at(side, node_id)?;
            again.send(&frame(FRAMES)?)?;
            let found = outcomes(&raw::answer::<ProduceRequest>(&mut again, 9, FRAMES as i32)?)?;
            ensure!(found.values().all(|(error_code, _)| *error_code == 0), "{found:?}");
            thread::sleep(Duration::from_secs(2));
            let log = numbers(stage.cluster(leader), &topic)?.remove(&0).unwrap_or_default();
            let at = log.iter().rposition(|number| *number == FRAMES).context("it is not in the log")?;
            let behind = log.len() - 1 - at;
            println!("{} of {FRAMES} in the log, {behind} behind what was sent anew", log.len() - 1);
            ensure!(behind <= UNDER_WAY, "from {}: {behind} of {FRAMES} are behind what was sent anew", side.name());
        }
        stage.is_copied(leader, &topic)
    })
}

#[test]
fn what_was_begun_elsewhere_is_in_the_log_before_what_comes_directly() -> Result<()> {
    calm(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("begun");
        stage.create_copied(leader, &topic, 1)?;
        let node_id = stage.cluster(leader).partitions(&topic)?[0].leader;
        let (mut elsewhere, mut direct) = (stage.at(home, 1)?, stage.at(leader, node_id)?);
        let client_id = home.client("begun");
        let id = producer_id(&mut elsewhere, &client_id)?;
        for (round, id) in (0..).zip([None, Some(id)]) {
            let frame = |n: i32| {
                let batch = batch_of(&(3 * round + n).to_string(), id.map(|id| (id, n)))?;
                raw::request(9, n, &client_id, &produce(-1, &[(&topic, 0, batch)]))
            };
            let is_taken = |client: &mut Raw, n| {
                let found = outcomes(&raw::answer::<ProduceRequest>(client, 9, n)?)?;
                ensure!(found.values().all(|(error_code, _)| *error_code == 0), "{n}: {found:?}");
                Ok(())
            };
            elsewhere.send(&frame(0)?)?;
            is_taken(&mut elsewhere, 0)?;
            let begun = frame(1)?;
            let (before, after) = begun.split_at(begun.len() / 2);
            elsewhere.send(before)?;
            direct.send(&frame(2)?)?;
            direct.is_quiet(Duration::from_millis(500))?;
            elsewhere.send(after)?;
            is_taken(&mut elsewhere, 1)?;
            is_taken(&mut direct, 2)?;
        }
        // Somebody with the same name who has stopped in the middle of a request keeps others waiting once, and not for as long as their patience.
        let mut stopped = stage.at(home, 1)?;
        stopped.send(&raw::request(9, 0, &client_id, &produce(-1, &[(&topic, 0, batch_of("6", None)?)]))?[..7])?;
        for (n, most) in [(6, 10), (8, 1)] {
            for (client, n) in [(&mut elsewhere, n), (&mut direct, n + 1)] {
                let began = Instant::now();
                client.send(&raw::request(9, n, &client_id, &produce(-1, &[(&topic, 0, batch_of(&n.to_string(), None)?)]))?)?;
                let found = outcomes(&raw::answer::<ProduceRequest>(client, 9, n)?)?;
                ensure!(found.values().all(|(error_code, _)| *error_code == 0), "{n}: {found:?}");
                ensure!(began.elapsed() < Duration::from_secs(most), "{n}: {:.1?}", began.elapsed());
            }
        }
        let log = numbers(stage.cluster(leader), &topic)?.remove(&0).unwrap_or_default();
        ensure!(log.iter().copied().eq(0..10), "{log:?}");
        stage.is_copied(leader, &topic)
    })
}

#[test]
fn a_cluster_that_hangs_takes_no_memory_from_the_other_and_who_waits_for_it_is_told_in_time() -> Result<()> {
    alone(|stage| {
        let [orders, payments] = Side::BOTH.map(|side| side.leads("shares"));
        stage.create_copied(Side::Legacy, &orders, 1)?;
        stage.create_copied(Side::New, &payments, 1)?;
        // Half of it for each cluster, and that has room for one of these.
        let routes: Routes = routes(&stage.clusters)?.limit("queued_max_request_bytes", 1 << 20);
        let proxy = Proxy::start(&routes)?;
        let large = "x".repeat(400 << 10);
        let connect = |side: Side| Raw::connect(routes.virtual_broker(side.name(), 1)?.1);
        let send = |client: &mut Raw, home: Side, topic: &str, batch: Bytes, timeout_ms: i32| -> Result<i16> {
            let request = produce(1, &[(topic, 0, batch)]).with_timeout_ms(timeout_ms);
            let answer = ask(client, 9, &home.client("shares"), &request)?;
            Ok(outcomes(&answer)?.remove(&(topic.to_owned(), 0)).context("the partition")?.0)
        };
        let [mut first, mut waiting, mut other] = [connect(Side::New)?, connect(Side::New)?, connect(Side::Legacy)?];
        let client_id = Side::New.client("shares");
        let (first_id, id) = (producer_id(&mut first, &client_id)?, producer_id(&mut waiting, &client_id)?);
        ensure!(send(&mut other, Side::Legacy, &payments, batch_of("small", None)?, 5_000)? == 0, "nothing is carried");
        let nodes = stage.cluster(Side::Legacy).node_ids();
        nodes.iter().try_for_each(|node_id| stage.cluster(Side::Legacy).freeze(*node_id))?;
        let silent = (|| {
            let hangs = produce(1, &[(&orders, 0, batch_of(&large, Some((first_id, 0)))?)]).with_timeout_ms(8_000);
            first.send(&raw::request(9, 0, &client_id, &hangs)?)?;
            until("it has its memory", || Ok(proxy.metric("kferry_proxy_carrying_bytes", &[])? > large.len() as f64))?;
            let began = Instant::now();
            let error = send(&mut waiting, Side::New, &orders, batch_of(&large, Some((id, 0)))?, 2_000)?;
            let waited = began.elapsed();
            ensure!(error == REQUEST_TIMED_OUT, "there was memory for two: {error}");
            ensure!((2.0..4.0).contains(&waited.as_secs_f64()), "{waited:?}");
            let began = Instant::now();
            let error = send(&mut other, Side::Legacy, &payments, batch_of(&large, None)?, 2_000)?;
            ensure!(error == 0, "what is carried to the other cluster: {error}");
            Ok((waited, began.elapsed()))
        })();
        nodes.iter().try_for_each(|node_id| stage.cluster(Side::Legacy).thaw(*node_id))?;
        let (waited, took) = silent?;
        println!("no memory: told after {waited:.1?}; meanwhile a request of 400 KiB was carried to the other cluster in {took:.1?}");
        // Nothing overtakes what was given up.
        let mut sends = |sequence| send(&mut waiting, Side::New, &orders, batch_of("small", Some((id, sequence)))?, 20_000);
        ensure!(sends(1)? == NOT_LEADER_OR_FOLLOWER, "it overtook the first");
        ensure!(sends(0)? == 0 && sends(1)? == 0, "it does not go on");
        stage.is_copied(Side::Legacy, &orders)?;
        stage.is_copied(Side::New, &payments)
    })
}

#[test]
fn memory_for_what_is_carried_is_bounded_and_a_frame_that_is_larger_goes_alone() -> Result<()> {
    const MIB: usize = 1 << 20;
    const CONNECTIONS: usize = 24;
    calm(|stage| {
        let (leader, home) = (Side::Legacy, Side::New);
        let topic = leader.leads("large");
        stage.cluster(leader).create_topic(&topic, 6, &[("max.message.bytes", "20971520")])?;
        stage.has_copy(leader, &topic)?;
        let routes: Routes = routes(&stage.clusters)?.limit("queued_max_request_bytes", 4 * MIB as u64);
        let proxy = Proxy::start(&routes)?;
        let port = routes.virtual_broker(home.name(), 1)?.1;
        let large = |len: usize| batch_of(&"x".repeat(len), None);
        let send = |partition: i32, batch: Bytes| -> Result<()> {
            let mut client = Raw::connect(port)?;
            let answer = ask(&mut client, 9, &home.client("large"), &produce(-1, &[(&topic, partition, batch)]))?;
            let (error, _) = outcomes(&answer)?.remove(&(topic.clone(), partition)).context("the partition")?;
            ensure!(error == 0, "refused: {error}");
            Ok(())
        };
        let client_id = home.client("first");
        let mut client = Raw::connect(port)?;
        client.ask(&raw::api_versions(0, Some(&client_id)))?;
        let small = produce(-1, &[(&topic, 0, large(100)?)]);
        let mut took = Vec::new();
        for _ in 0..50 {
            let began = Instant::now();
            let (error, _) = outcomes(&ask(&mut client, 9, &client_id, &small)?)?.remove(&(topic.clone(), 0)).context("the partition")?;
            ensure!(error == 0, "refused: {error}");
            took.push(began.elapsed());
        }
        let first = took.remove(0);
        took.sort();
        println!("the first carried request took {first:.1?}, of the next {} the median {:.1?}", took.len(), took[took.len() / 2]);
        let before = proxy.resident_memory()?;
        let batch = large(2 * MIB)?;
        thread::scope(|scope| {
            let sending: Vec<_> =
                (0..CONNECTIONS).map(|n| (n, batch.clone())).map(|(n, batch)| scope.spawn(move || send(n as i32 % 6, batch))).collect();
            sending.into_iter().try_for_each(|sent| sent.join().expect("it returns its errors"))
        })?;
        let grown = proxy.resident_memory()?.saturating_sub(before);
        println!("{CONNECTIONS} frames of 2 MiB with room for 4 MiB: the proxy has grown by {:.1} MiB", grown as f64 / MIB as f64);
        ensure!(grown < 32 * MIB as u64, "{grown} bytes for {CONNECTIONS} frames of 2 MiB");
        send(1, large(10 * MIB)?).context("larger than all the room")?;
        // Who announces much and stops sending keeps its room for a moment.
        let mut stopped = Raw::connect(port)?;
        stopped.ask(&raw::api_versions(0, Some(&home.client("stopped"))))?;
        stopped.send(&raw::request(9, 1, &home.client("stopped"), &produce(-1, &[(&topic, 0, large(10 * MIB)?)]))?[..1000])?;
        until("it has all the room", || Ok(proxy.metric("kferry_proxy_carrying_bytes", &[])? > 0.0))?;
        let began = Instant::now();
        send(1, large(100)?).context("beside who has stopped")?;
        ensure!(began.elapsed() < Duration::from_secs(10), "{:.1?}", began.elapsed());
        let ends = stage.cluster(leader).log_ends(&topic)?;
        ensure!(ends.iter().sum::<i64>() == CONNECTIONS as i64 + 52, "{ends:?}");
        ensure!(proxy.metric("kferry_proxy_carrying_bytes", &[])? == 0.0, "something is still held");
        stage.is_copied(leader, &topic)
    })
}

/// The largest request that a broker takes as it comes: on its way to its leader it is never in the proxy's memory, and carried it is there once.
#[test]
#[ignore = "`make soak` runs it: the clusters are its own"]
fn a_batch_of_100_mib_is_passed_and_carried() -> Result<()> {
    const MIB: usize = 1 << 20;
    /// `socket.request.max.bytes`
    const LARGEST: usize = 100 * MIB;
    alone(|_| {
        let cluster = |version: &str, side: Side| {
            let cluster = Cluster::version(version).name(side.name()).heap_mib(1024).set("message.max.bytes", &LARGEST.to_string());
            cluster.start()
        };
        let clusters = [cluster("3.9.1", Side::Legacy)?, cluster("4.3.0", Side::New)?];
        let topic = Side::Legacy.leads("heavy");
        clusters[0].create_topic(&topic, 1, &[])?;
        let routes = routes(&clusters)?;
        let proxy = Proxy::start(&routes)?;
        let mut peak = proxy.peak_memory()?;
        // What else is in the frame has some hundred bytes.
        let batch = batch_of(&"x".repeat(LARGEST - 4096), None)?;
        for (at, most) in [(Side::Legacy, 16 * MIB), (Side::New, LARGEST + 32 * MIB)] {
            let mut client = Raw::connect(routes.virtual_broker(at.name(), 1)?.1)?;
            let began = Instant::now();
            let answer = ask(&mut client, 9, &at.client("heavy"), &produce(-1, &[(&topic, 0, batch.clone())]))?;
            let error = outcomes(&answer)?.remove(&(topic.clone(), 0)).context("the partition")?.0;
            ensure!(error == 0, "at {}: {error}", at.name());
            let grown = proxy.peak_memory()?.saturating_sub(peak);
            peak += grown;
            println!(
                "at {}: {} bytes in {:.1?}, the proxy has grown by {:.1} MiB",
                at.name(),
                batch.len(),
                began.elapsed(),
                grown as f64 / MIB as f64
            );
            ensure!(grown <= most as u64, "at {}: {grown} bytes for a batch of {}", at.name(), batch.len());
        }
        ensure!(clusters[0].log_ends(&topic)? == [2], "{:?}", clusters[0].log_ends(&topic)?);
        ensure!(
            proxy.metric("kferry_proxy_carried_bytes_total", &[("cluster", "legacy")])? as usize == batch.len(),
            "it was not carried once"
        );
        Ok(())
    })
}
