//! The test bed's own clusters: what a test asks of them is what it gets, on every version.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::kafka::{ADMIN, ALICE, Acl, BOB, Cluster, Listener, Operation, Record, Resource, User};
use harness::pki::{self, Identity, Pki};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

#[test]
fn kafka_2_8_with_zookeeper() -> Result<()> {
    one_broker_does_everything("2.8.2", 1001)
}

#[test]
fn kafka_3_9() -> Result<()> {
    one_broker_does_everything("3.9.1", 1001)
}

#[test]
fn kafka_4_1() -> Result<()> {
    one_broker_does_everything("4.1.1", 1)
}

#[test]
fn kafka_4_3() -> Result<()> {
    one_broker_does_everything("4.3.0", 1)
}

fn one_broker_does_everything(version: &str, node_id: i32) -> Result<()> {
    let cluster = Cluster::version(version)
        .name("everything")
        .first_node_id(node_id)
        .listen(Listener::Ssl)
        .listen(Listener::SaslSsl)
        .listen(Listener::SaslPlaintext)
        .acls()
        .set("message.max.bytes", "2000000")
        .start()?;
    assert_eq!(cluster.node_ids(), [node_id]);
    assert_eq!(cluster.cluster_id()?.len(), 22);
    records_come_back_as_they_were(&cluster)?;
    a_group_has_members_and_offsets(&cluster)?;
    passwords_certificates_and_acls_decide(&cluster)
}

fn records_come_back_as_they_were(cluster: &Cluster) -> Result<()> {
    cluster.create_topic("records", 2, &[("max.message.bytes", "1500000"), ("cleanup.policy", "compact")])?;
    cluster.create_topic("gone-soon", 1, &[])?;
    assert_eq!(cluster.list_topics()?, ["gone-soon", "records"]);
    cluster.delete_topic("gone-soon")?;
    assert_eq!(cluster.list_topics()?, ["records"]);
    let refused = cluster.create_topic("records", 2, &[]).unwrap_err();
    assert!(format!("{refused:#}").ends_with("TopicAlreadyExists"), "{refused:#}");

    let mut first = Record::new("k", "v").to_partition(1).header("h", "1").header("other", "x").header("h", "2");
    first.timestamp = Some(1_600_000_000_123);
    let mut tombstone = Record::new("k", "").to_partition(1);
    tombstone.value = None;
    tombstone.headers.push(("null".to_owned(), None));
    // Above the default limit of 1 MiB on both sides: the topic's setting was taken.
    let large = Record::new("large", vec![7; 1_200_000]).to_partition(0);
    let sent = [large, first, tombstone];
    cluster.produce("records", &sent)?;

    assert_eq!(cluster.log_starts("records")?, [0, 0]);
    assert_eq!(cluster.log_ends("records")?, [1, 2]);
    let read = cluster.read_all("records")?;
    assert_eq!(read.iter().map(|record| (record.partition, record.offset)).collect::<Vec<_>>(), [(0, 0), (1, 0), (1, 1)]);
    for (read, sent) in read.iter().zip(&sent) {
        assert_eq!((&read.key, &read.value, &read.headers), (&sent.key, &sent.value, &sent.headers));
    }
    assert_eq!(read[1].timestamp, Some(1_600_000_000_123));
    assert_eq!(cluster.record_count("records")?, 3);
    Ok(())
}

fn a_group_has_members_and_offsets(cluster: &Cluster) -> Result<()> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    config.set("group.id", "readers").set("client.id", "reader-1").set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&["records"])?;
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut read = 0;
    while read < 3 {
        ensure!(Instant::now() < deadline, "{read} of 3 messages within a minute");
        // None can also be a rebalance.
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        consumer.commit_message(&message?, CommitMode::Sync)?;
        read += 1;
    }
    let group = cluster.group("readers")?;
    assert_eq!((group.state.as_str(), group.client_ids), ("Stable", vec!["reader-1".to_owned()]));
    let topic = "records".to_owned();
    assert_eq!(cluster.committed_offsets("readers")?, BTreeMap::from([((topic.clone(), 0), 1), ((topic, 1), 2)]));
    Ok(())
}

fn passwords_certificates_and_acls_decide(cluster: &Cluster) -> Result<()> {
    cluster.create_topic("guarded", 1, &[])?;
    cluster.add_acls(&[
        Acl::allow(ALICE.name, Operation::Write, Resource::TopicPrefix("guard".to_owned())),
        Acl::allow(ALICE.name, Operation::Describe, Resource::Topic("guarded".to_owned())),
    ])?;
    let denied = Err(RDKafkaErrorCode::TopicAuthorizationFailed);
    let imposter = User { password: "a guess", ..ALICE };

    for listener in [Listener::SaslSsl, Listener::SaslPlaintext] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let login = |user| login(cluster, listener, mechanism, user);
            assert_eq!(try_produce(&login(ALICE)?)?, Ok(()), "{listener:?} {mechanism}");
            assert_eq!(try_produce(&login(BOB)?)?, denied, "{listener:?} {mechanism}");
            assert_eq!(try_produce(&login(ADMIN)?)?, Ok(()), "{listener:?} {mechanism}");
            assert_eq!(try_produce(&login(imposter)?)?, Err(RDKafkaErrorCode::Authentication), "{listener:?} {mechanism}");
        }
    }

    let authority = pki::authority()?;
    let certificate = |identity: Option<Identity>| -> Result<ClientConfig> {
        let mut config = cluster.client_config(Listener::Ssl)?;
        if let Some(identity) = identity {
            config.set("ssl.certificate.pem", identity.certificate_pem).set("ssl.key.pem", identity.key_pem);
        }
        Ok(config)
    };
    assert_eq!(try_produce(&certificate(Some(authority.client("alice")?))?)?, Ok(()));
    assert_eq!(try_produce(&certificate(Some(authority.client("bob")?))?)?, denied);
    for refused in [None, Some(Pki::new()?.client("alice")?)] {
        let outcome = try_produce(&certificate(refused)?)?;
        // With TLS 1.3 the client has finished its handshake when the broker refuses it: the alert may come or only the end of the connection.
        assert!(matches!(outcome, Err(RDKafkaErrorCode::SSL | RDKafkaErrorCode::BrokerTransportFailure)), "{outcome:?}");
    }

    // 2 logins of 3 mechanisms on 2 listeners, and one certificate.
    assert_eq!(cluster.record_count("guarded")?, 13);
    Ok(())
}

fn login(cluster: &Cluster, listener: Listener, mechanism: &str, user: User) -> Result<ClientConfig> {
    let mut config = cluster.client_config(listener)?;
    config.set("sasl.mechanism", mechanism).set("sasl.username", user.name).set("sasl.password", user.password);
    Ok(config)
}

/// One record to the topic `guarded`: what became of it, or the first error of the connection.
fn try_produce(config: &ClientConfig) -> Result<Result<(), RDKafkaErrorCode>> {
    #[derive(Default)]
    struct First(Mutex<Option<Result<(), RDKafkaErrorCode>>>);
    impl First {
        fn set(&self, outcome: Result<(), RDKafkaErrorCode>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        }
    }
    impl ClientContext for First {
        fn error(&self, error: KafkaError, _reason: &str) {
            self.set(Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)));
        }
    }
    impl ProducerContext for First {
        type DeliveryOpaque = ();

        fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
            self.set(result.as_ref().map(drop).map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)));
        }
    }

    let producer: BaseProducer<First> = config.create_with_context(First::default())?;
    producer.send(BaseRecord::<str, str>::to("guarded").payload("x")).map_err(|(error, _)| error)?;
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        producer.poll(Duration::from_millis(10));
        if let Some(outcome) = *producer.context().0.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(outcome);
        }
        ensure!(Instant::now() < deadline, "neither delivered nor an error within 60 s");
    }
}

#[test]
fn one_of_three_brokers_is_killed_and_frozen_and_comes_back() -> Result<()> {
    // Two versions at once: that clusters started together don't get in each other's way is part of it.
    let clusters =
        Cluster::start_all(vec![Cluster::version("2.8.2").name("legacy").brokers(3), Cluster::version("4.3.0").name("new").brokers(3)])?;
    assert_eq!(clusters.iter().map(Cluster::kafka_version).collect::<Vec<_>>(), ["2.8.2", "4.3.0"]);
    std::thread::scope(|scope| {
        let checks: Vec<_> =
            clusters.iter().map(|cluster| scope.spawn(|| survives(cluster).context(cluster.kafka_version().to_owned()))).collect();
        checks.into_iter().try_for_each(|check| check.join().unwrap())
    })
}

fn survives(cluster: &Cluster) -> Result<()> {
    cluster.create_topic("orders", 3, &[])?;
    let in_sync = || -> Result<bool> { Ok(cluster.partitions("orders")?.iter().all(|partition| partition.isr.len() == 3)) };
    let leader = || -> Result<i32> { Ok(cluster.partitions("orders")?[0].leader) };
    let produce = |value: &str| cluster.produce("orders", &[Record::new("key", value).to_partition(0)]);
    assert!(in_sync()?);
    produce("before")?;

    let killed = leader()?;
    cluster.kill(killed)?;
    assert!(TcpStream::connect(cluster.address(killed, Listener::Plaintext)?).is_err());
    assert!(cluster.kill(killed).is_err(), "what is gone can't be killed");
    produce("while killed")?;
    assert_ne!(leader()?, killed);
    cluster.restart(killed)?;
    assert!(in_sync()?);

    let frozen = leader()?;
    cluster.freeze(frozen)?;
    let mut silent = TcpStream::connect(cluster.address(frozen, Listener::Plaintext)?)?;
    // ApiVersions v0, which any broker answers at once.
    silent.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
    silent.set_read_timeout(Some(Duration::from_millis(500)))?;
    assert!(silent.read(&mut [0; 4]).is_err(), "a frozen broker says nothing");
    produce("while frozen")?;
    assert_ne!(leader()?, frozen);
    cluster.thaw(frozen)?;
    assert!(in_sync()?);
    silent.set_read_timeout(Some(Duration::from_secs(30)))?;
    silent.read_exact(&mut [0; 4]).context("thawed, it goes on where it was")?;

    // While it runs: stopped in order, and back.
    cluster.restart(leader()?)?;
    produce("after")?;
    let values: Vec<_> = cluster.read_all("orders")?.into_iter().map(|record| record.value.unwrap_or_default()).collect();
    assert_eq!(values, [&b"before"[..], b"while killed", b"while frozen", b"after"]);
    Ok(())
}

/// The other process of the test below.
#[test]
#[ignore = "no check of its own: brokers_end_with_the_process_that_started_them runs it"]
fn owner_of_a_cluster() -> Result<()> {
    let cluster = Cluster::version("4.3.0").name("owned").brokers(2).start()?;
    cluster.freeze(2)?;
    if std::env::var_os("UNTIL_KILLED").is_some() {
        println!("folder {}", cluster.folder().display());
        std::thread::sleep(Duration::from_mins(10));
    }
    Ok(())
}

#[test]
fn brokers_end_with_the_process_that_started_them() -> Result<()> {
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", "owner_of_a_cluster", "--ignored", "--nocapture"])
        .env("UNTIL_KILLED", "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(owner.stdout.take().context("it's piped")?).lines();
    let folder = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("folder ")?.1.to_owned()));
    let folder = folder.context("the owner ended before its cluster ran")?;
    assert_eq!(processes_that_mention(&folder)?.len(), 2, "two brokers, one of them frozen");

    owner.kill()?;
    owner.wait()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let [id, ..] = processes_that_mention(&folder)?[..] {
        ensure!(Instant::now() < deadline, "process {id} still runs 10 s after its owner was killed");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its data stays until the next run's start; this one has started long ago.
    std::fs::remove_dir_all(Path::new(&folder).parent().context("a run's folder")?)?;
    Ok(())
}

fn processes_that_mention(text: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ends meanwhile, or a zombie, has no command line.
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(text) {
            found.push(id);
        }
    }
    Ok(found)
}
