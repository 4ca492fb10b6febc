//! A partition leader of the other cluster dies, and a whole cluster dies: clients go on with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::clients::soak::{self, Soak};
use harness::clients::{self, Client, Job};
use harness::kafka::{Cluster, Commit, Record};
use harness::raw::{Raw, ask, until};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeConfigsRequest, FindCoordinatorRequest};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::{GROUP, LEADER_NOT_AVAILABLE, LIMIT, Names, Side, Stage, alone, metadata, named, shown, text};

/// Kafka's `REQUEST_TIMED_OUT`
const REQUEST_TIMED_OUT: i16 = 7;
/// `org.apache.kafka.common.config.ConfigResource.Type`
const TOPIC: i8 = 2;
/// Kafka's `COORDINATOR_NOT_AVAILABLE`
const COORDINATOR_NOT_AVAILABLE: i16 = 15;

#[test]
fn clients_follow_a_foreign_election_and_outlive_a_dead_cluster() -> Result<()> {
    alone(|stage| {
        a_foreign_election(stage).context("a foreign election")?;
        a_dead_cluster(stage).context("a dead cluster")?;
        a_frozen_home(stage, Side::Legacy).context("a frozen home")
    })
}

pub(crate) const PARTITIONS: usize = 4;
/// Of one partition, until it counts as going on.
const GOES_ON: u64 = 20;

/// Every partition of every client: records are acknowledged and read.
pub(crate) fn go_on<'a>(clients: impl IntoIterator<Item = &'a Soak>) -> Result<()> {
    soak::go_on(clients, PARTITIONS, GOES_ON, LIMIT)
}

fn a_foreign_election(stage: &Stage) -> Result<()> {
    let (leader, home) = (Side::Legacy, Side::New);
    let cluster = stage.cluster(leader);
    let mut clients = Vec::new();
    for client in [Client::Rdkafka, Client::Java4] {
        let topic = leader.leads(&format!("election.{}", client.name()));
        stage.create_copied(leader, &topic, PARTITIONS as i32)?;
        let client_id = home.client(&format!("election-{}", client.name()));
        let job = soak::Job::plain(stage.proxy.bootstrap_servers(), client_id, &topic, PARTITIONS, LIMIT);
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

/// Brings all brokers of a cluster back: one alone would wait for the others.
fn each(cluster: &Cluster, bring_back: fn(&Cluster, i32) -> Result<()>) -> Result<()> {
    thread::scope(|scope| {
        let all: Vec<_> = cluster.node_ids().into_iter().map(|node_id| scope.spawn(move || bring_back(cluster, node_id))).collect();
        all.into_iter().try_for_each(|one| one.join().expect("it returns its errors"))
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
        let mut groups = Groups::begin(stage, dead)?;
        let cluster = stage.cluster(dead);
        let goes_on = cluster
            .node_ids()
            .into_iter()
            .try_for_each(|node_id| cluster.kill(node_id))
            .and_then(|()| without(stage, dead, &only, clients))
            .and_then(|()| groups.without(stage).context("groups"));
        let began = Instant::now();
        each(cluster, Cluster::restart)?;
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
        groups.go_on(stage).context("groups, and it is back")?;
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
        let settings = |topic: &str| DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(topic));
        let request = DescribeConfigsRequest::default().with_resources(vec![settings(&away), settings(&there)]);
        let described = ask(&mut Raw::connect(stage.proxy.port())?, 3, &home.client("late"), &request)?;
        let mut errors: Vec<_> = described.results.iter().map(|result| (result.resource_name.as_str(), result.error_code)).collect();
        errors.sort_by_key(|(_, error_code)| *error_code);
        ensure!(errors == [(&*there, 0), (&*away, REQUEST_TIMED_OUT)], "DescribeConfigs to a client of {home:?}: {described:?}");
        for topic in [&*away, only] {
            let mut client = Raw::connect(stage.proxy.port())?;
            let answer = metadata(&mut client, 9, &home.client("late"), Some(&[topic, &there]))?;
            let is = [topic, &there].map(|topic| named(&answer, topic).map(|topic| topic.error_code));
            ensure!(is == [Some(LEADER_NOT_AVAILABLE), Some(0)], "[{topic}, {there}] by name to a client of {home:?}: {is:?}");
        }
    }

    writes_and_reads(stage, &dead.client("late"), &there)?;
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

/// A producer, and a reader without a group: the group of a client would live at its home.
fn writes_and_reads(stage: &Stage, client_id: &str, there: &str) -> Result<()> {
    let producer: BaseProducer = stage.client(client_id).set("enable.idempotence", "true").create()?;
    for n in 0..100 {
        let value = n.to_string();
        producer.send(BaseRecord::<str, str>::to(there).partition(n % 4).payload(&value)).map_err(|(error, _)| error)?;
    }
    producer.flush(LIMIT)?;
    let consumer: BaseConsumer = stage.client(client_id).set("group.id", "none").set("enable.auto.commit", "false").create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..4 {
        assignment.add_partition_offset(there, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut came, deadline) = (0, Instant::now() + LIMIT);
    while came < 100 {
        ensure!(Instant::now() < deadline, "{came} of 100 records came");
        came += usize::from(poll(&consumer)?.is_some());
    }
    Ok(())
}

/// Groups that live on the cluster that is to die.
struct Groups {
    dead: Side,
    /// Its member goes on reading what leads on the other cluster.
    joined: String,
    member: BaseConsumer,
    topic: String,
    seen: BTreeSet<u32>,
    /// Its offsets are copied to the other cluster, where it could begin with them.
    copied: String,
    /// Only the cluster that dies has it.
    only: String,
}

impl Groups {
    const EACH: u32 = 20;

    fn begin(stage: &Stage, dead: Side) -> Result<Self> {
        let (alive, what) = (dead.other(), format!("dead-{}", dead.name()));
        let topic = alive.leads(&format!("{what}.groups"));
        stage.create_copied(alive, &topic, 1)?;
        let (copied, only) = (dead.lives(&format!("{what}-copied")), format!("only-{what}"));
        let away = dead.leads(&what);
        for group in [&copied, &only] {
            stage.cluster(dead).commit(group, &away, [(0, Commit::at(0)), (1, Commit::at(0))])?;
        }
        stage.group_is_copied(dead, &copied)?;
        let joined = dead.lives(&format!("{what}-joined"));
        let member = Self::member(stage, alive, &joined, &topic)?;
        let mut groups = Self { dead, joined, member, topic, seen: BTreeSet::new(), copied, only };
        groups.produce(stage, 0)?;
        groups.read_to(Self::EACH, 0)?;
        groups.member.commit_consumer_state(CommitMode::Sync)?;
        for home in Side::BOTH {
            for group in [&groups.joined, &groups.copied, &groups.only] {
                stage.is_found(home, dead, group, GROUP)?;
            }
        }
        Ok(groups)
    }

    fn member(stage: &Stage, home: Side, group: &str, topic: &str) -> Result<BaseConsumer> {
        let mut config = stage.client(&home.client("member"));
        config.set("group.id", group).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
        let member: BaseConsumer = config.create()?;
        member.subscribe(&[topic])?;
        Ok(member)
    }

    fn produce(&self, stage: &Stage, first: u32) -> Result<()> {
        let records: Vec<_> = (first..first + Self::EACH).map(|n| Record::new("", n.to_string()).to_partition(0)).collect();
        stage.cluster(self.dead.other()).produce(&self.topic, &records)
    }

    /// Reads on until everything before `end` was seen. What is before `committed` must not come again.
    fn read_to(&mut self, end: u32, committed: u32) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.seen.len() < end as usize {
            ensure!(Instant::now() < deadline, "{} of {end} records came to {}", self.seen.len(), self.joined);
            if let Some(message) = poll(&self.member)? {
                let number: u32 = str::from_utf8(message.payload().context("a value")?)?.parse()?;
                ensure!(number >= committed, "{} began anew, with {number}", self.joined);
                self.seen.insert(number);
            }
        }
        Ok(())
    }

    /// Nobody is told another coordinator, and no group begins elsewhere.
    fn without(&mut self, stage: &Stage) -> Result<()> {
        let alive = self.dead.other();
        let mut doors = vec![stage.proxy.port()];
        for node_id in stage.cluster(alive).node_ids() {
            doors.push(stage.virtual_broker(alive, node_id)?.1);
        }
        // No cluster that answers has the last one: the one that does not may have it.
        let unknown = format!("unknown-dead-{}", self.dead.name());
        for home in Side::BOTH {
            for &door in &doors {
                let mut client = Raw::connect(door)?;
                for group in [&self.joined, &self.copied, &self.only, &unknown] {
                    let context = || format!("{group} to a client of {home:?} at port {door}");
                    let question = FindCoordinatorRequest::default().with_key(text(group));
                    let answer = ask(&mut client, 3, &home.client("finding"), &question).with_context(context)?;
                    ensure!(answer.error_code == COORDINATOR_NOT_AVAILABLE && answer.node_id.0 == -1, "{}: {answer:?}", context());
                    let question = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
                    let answer = ask(&mut client, 4, &home.client("finding"), &question).with_context(context)?;
                    let told: Vec<_> = answer.coordinators.iter().map(|one| (one.error_code, one.node_id.0)).collect();
                    ensure!(told == [(COORDINATOR_NOT_AVAILABLE, -1)], "{}: {answer:?}", context());
                }
            }
        }
        // The member has its partition still; who comes now gets none.
        self.produce(stage, Self::EACH)?;
        let late = [&self.copied, &self.joined, &unknown].map(|group| Ok((group, Self::member(stage, alive, group, &self.topic)?)));
        let late = late.into_iter().collect::<Result<Vec<_>>>()?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            for (group, member) in &late {
                ensure!(poll(member)?.is_none() && member.assignment()?.count() == 0, "{group} has begun on {alive:?}");
            }
        }
        for group in [&self.joined, &self.copied, &unknown] {
            let is = stage.cluster(alive).group(group)?;
            ensure!(is.client_ids.is_empty(), "{group} has members on {alive:?}: {is:?}");
        }
        Ok(())
    }

    fn go_on(mut self, stage: &Stage) -> Result<()> {
        let (dead, alive) = (stage.cluster(self.dead), stage.cluster(self.dead.other()));
        self.read_to(2 * Self::EACH, Self::EACH)?;
        let all = BTreeMap::from([((self.topic.clone(), 0), i64::from(2 * Self::EACH))]);
        let mut last = None;
        until("the member can commit", || {
            // Its place in the group may be gone: it polls until it has a new one.
            poll(&self.member)?;
            last = Some(self.member.commit_consumer_state(CommitMode::Sync));
            Ok(dead.committed_offsets(&self.joined)? == all)
        })
        .with_context(|| format!("{} has committed {:?}: {last:?}", self.joined, dead.committed_offsets(&self.joined)))?;
        let elsewhere = alive.committed_offsets(&self.joined)?;
        ensure!(elsewhere.is_empty(), "{} has committed {elsewhere:?} on the other cluster", self.joined);
        for home in Side::BOTH {
            for group in [&self.joined, &self.copied, &self.only] {
                stage.is_found(home, self.dead, group, GROUP)?;
            }
        }
        Ok(())
    }
}

/// The next record, if one comes soon. librdkafka tells of brokers that are away, while it goes on.
fn poll(consumer: &BaseConsumer) -> Result<Option<BorrowedMessage<'_>>> {
    match consumer.poll(Duration::from_millis(200)) {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(KafkaError::MessageConsumption(
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::OperationTimedOut,
        )))
        | None => Ok(None),
        Some(Err(error)) => Err(error.into()),
    }
}

/// All brokers of a cluster hang: they accept connections, and say nothing. Clients whose home it is work with what leads on the other one.
fn a_frozen_home(stage: &Stage, frozen: Side) -> Result<()> {
    /// From the moment on in which it freezes, and afterwards.
    const NOTICED: Duration = Duration::from_secs(30);
    const QUICKLY: Duration = Duration::from_secs(3);
    let alive = frozen.other();
    let [topic, of_java] = ["rdkafka", "java"].map(|name| alive.leads(&format!("frozen-{}.{name}", frozen.name())));
    for topic in [&topic, &of_java] {
        stage.create_copied(alive, topic, 4)?;
        stage.is_shown(frozen, alive, topic)?;
    }
    let cluster = stage.cluster(frozen);
    let client_id = frozen.client("while-frozen");
    let work = || -> Result<()> {
        let expected = stage.to_be_shown(alive, &topic)?;
        // A whole question on a new connection: how long until the right answer.
        let answered = |limit: Duration| -> Result<Duration> {
            let began = Instant::now();
            loop {
                let told = Raw::connect(stage.proxy.port()).and_then(|mut client| metadata(&mut client, 9, &client_id, Some(&[&topic])));
                if told.as_ref().is_ok_and(|answer| named(answer, &topic).map(shown).as_ref() == Some(&expected)) {
                    return Ok(began.elapsed());
                }
                ensure!(began.elapsed() < limit, "{limit:?} without an answer that shows {topic}: {told:?}");
            }
        };
        let first = answered(NOTICED)?;
        let mut later = (0..5).map(|_| answered(NOTICED)).collect::<Result<Vec<_>>>()?;
        later.sort();
        println!("{frozen:?} is frozen: {first:.1?} until its first client has an answer, then {later:.1?}");
        ensure!(later[2] < QUICKLY, "{later:?} until clients have an answer");
        let began = Instant::now();
        writes_and_reads(stage, &client_id, &topic)?;
        println!("librdkafka at {frozen:?}, which is frozen: {:.1?}", began.elapsed());
        ensure!(began.elapsed() < NOTICED, "librdkafka took {:?}", began.elapsed());
        let job = Job {
            group_id: alive.lives(&format!("{client_id}-java")),
            count: 100,
            ..Job::new(&stage.proxy.bootstrap_servers(), &frozen.client("while-frozen-java"), &of_java)
        };
        println!("java-4 at {frozen:?}, which is frozen: {:.1} s", clients::run(Client::Java4, &job)?.seconds);
        Ok(())
    };
    let worked = cluster.node_ids().into_iter().try_for_each(|node_id| cluster.freeze(node_id)).and_then(|()| work());
    // Whatever came of it: other tests need it.
    each(cluster, Cluster::thaw)?;
    worked?;
    for home in Side::BOTH {
        stage.is_shown(home, alive, &topic).context("it goes on")?;
        stage.is_shown(home, frozen, &frozen.leads(&format!("dead-{}", frozen.name()))).context("it goes on")?;
    }
    stage.is_copied(alive, &topic).context("it goes on")
}
