//! The client of a cluster against real ones: each operation on the oldest with ZooKeeper, the last 3.x and the newest, and what becomes of
//! it when leaders move, a replica hangs, or a right is missing.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::LIMIT;
use harness::kafka::{ALICE, Cluster, Listener, Record};
use kafka_protocol::error::ResponseError;
use kferry_config::{HostPort, Sasl, SaslMechanism, Secret, Security};
use kferry_wire::admin::acls::{Acl, Operation, PatternType, Permission, ResourceType};
use kferry_wire::admin::configs::{ConfigChange, ConfigResource, ConfigSource};
use kferry_wire::admin::groups::{CommittedOffset, GroupFilter, GroupType};
use kferry_wire::admin::partitions::{OffsetAndTimestamp, Position, TxnMarker};
use kferry_wire::admin::quotas::QuotaEntity;
use kferry_wire::admin::topics::{NewPartitions, NewTopic};
use kferry_wire::admin::users::{MIN_ITERATIONS, SaltedPassword, ScramAlteration, ScramMechanism};
use kferry_wire::batch::stamp::{stamped, unstamped};
use kferry_wire::batch::{self, Codec, Sequence};
use kferry_wire::client::{Answers, Client, ClientError, CoordinatorKind, TopicPartition, Topics};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::log::produce;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

#[test]
fn kafka_2_8_with_zookeeper() -> Result<()> {
    // Two: the controller is one of them, and partitions have leaders on both.
    every_operation(&start("2.8.2", 2)?)
}

#[test]
fn kafka_3_9() -> Result<()> {
    every_operation(&start("3.9.1", 1)?)
}

#[test]
fn kafka_4_3() -> Result<()> {
    let cluster = start("4.3.0", 3)?;
    every_operation(&cluster)?;
    run(async {
        let client = client(&cluster, Listener::Plaintext, None)?;
        the_log_end_is_ahead_of_the_high_watermark_while_a_replica_hangs(&cluster, &client).await?;
        leaders_and_coordinators_move(&cluster, &client).await
    })
}

fn start(version: &str, brokers: u16) -> Result<Cluster> {
    // A replica that hangs stays in sync for so long, and one that restarts has to wait out its old session.
    Cluster::version(version)
        .name("admin")
        .brokers(brokers)
        .listen(Listener::SaslPlaintext)
        .acls()
        .set("broker.session.timeout.ms", "10000")
        .start()
}

fn run<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test)
}

fn client(cluster: &Cluster, listener: Listener, login: Option<(SaslMechanism, &str, &str)>) -> Result<Client> {
    let mut bootstrap_servers = Vec::new();
    for address in cluster.bootstrap_servers(listener)?.split(',') {
        let (host, port) = address.rsplit_once(':').context("host:port")?;
        bootstrap_servers.push(HostPort { host: host.to_owned(), port: port.parse()? });
    }
    let sasl = login.map(|(mechanism, username, password)| {
        Some(Sasl::Password { mechanism, username: username.to_owned(), password: Secret::Literal(password.to_owned()) })
    });
    let security = Security { tls: None, sasl };
    let cluster = kferry_config::Cluster { name: "old".into(), id: 1, bootstrap_servers, brokers: None, security };
    Ok(Client::new(Arc::new(cluster), ConnectOptions::default()))
}

/// The answers, if there is no error among them.
fn all<K: Ord + Display, T>(answers: Answers<K, T>) -> Result<BTreeMap<K, T>> {
    answers.into_iter().map(|(key, answer)| Ok((key, answer?))).collect()
}

/// The one answer's error.
fn refused<K: Ord + Debug, T: Debug>(answers: Answers<K, T>) -> Result<ClientError> {
    match answers.into_values().collect::<Vec<_>>().as_mut_slice() {
        [answer @ Err(_)] => Ok(std::mem::replace(answer, Err(ClientError::NoController { cluster: "".into() })).unwrap_err()),
        others => bail!("one error was expected: {others:?}"),
    }
}

async fn until<F: Future<Output = Result<bool>>>(what: &str, condition: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition().await? {
        ensure!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn committed(offset: i64, metadata: &str) -> CommittedOffset {
    CommittedOffset { offset, leader_epoch: None, metadata: metadata.to_owned() }
}

fn orders(partition: i32) -> TopicPartition {
    TopicPartition::new("orders", partition)
}

fn every_operation(cluster: &Cluster) -> Result<()> {
    run(async {
        let client = client(cluster, Listener::Plaintext, None)?;
        topics_and_settings(cluster, &client).await.context("topics")?;
        logs(cluster, &client).await.context("logs")?;
        transactions(cluster, &client).await.context("transactions")?;
        groups(cluster, &client).await.context("groups")?;
        users_and_quotas(cluster, &client).await.context("users and quotas")?;
        rights(cluster, &client).await.context("rights")
    })
}

async fn topics_and_settings(cluster: &Cluster, client: &Client) -> Result<()> {
    let brokers = cluster.node_ids();
    let topic = |name: &str, partitions| NewTopic { name: name.to_owned(), partitions, configs: Vec::new() };
    let by_default = || NewPartitions::Count { partitions: None, replication_factor: None };
    let assigned: Vec<Vec<i32>> = (0..6).map(|index| vec![brokers[index % brokers.len()]]).collect();

    let mut wanted = topic("orders", NewPartitions::Assigned(assigned.clone()));
    wanted.configs.push(("cleanup.policy".to_owned(), "delete".to_owned()));
    let checked = all(client.create_topics(std::slice::from_ref(&wanted), true).await)?;
    ensure!(checked["orders"].partitions == Some(6), "{checked:?}");
    let unknown = client.metadata(Topics::Named(&["orders"])).await?;
    assert!(unknown.topics[0].error.as_ref().is_some_and(ClientError::is_unknown_topic), "only validated, and asking creates nothing");

    let too_many = NewPartitions::Count { partitions: Some(1), replication_factor: Some(9) };
    let created = client.create_topics(&[wanted, topic("replicated", by_default()), topic("impossible", too_many)], false).await;
    let error = created["impossible"].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ResponseError::InvalidReplicationFactor), "{error}");
    assert!(error.to_string().contains("INVALID_REPLICATION_FACTOR (") && !error.is_retriable(), "{error}");
    let id = created["orders"].as_ref().map_err(Clone::clone)?.id;
    assert!(id.is_some() && created["replicated"].is_ok(), "{created:?}");
    let again = refused(client.create_topics(&[topic("replicated", by_default())], false).await)?;
    assert_eq!(again.code(), Some(ResponseError::TopicAlreadyExists));

    client.create_partitions("replicated", 2, None, true).await?;
    client.create_partitions("replicated", 2, None, false).await?;
    assert_eq!(client.create_partitions("replicated", 2, None, false).await.unwrap_err().code(), Some(ResponseError::InvalidPartitions));
    let leaders = async || -> Result<Vec<Vec<i32>>> {
        let metadata = client.metadata(Topics::All).await?;
        let led = |name: &str| metadata.topic(name).into_iter().flat_map(|topic| &topic.partitions).filter_map(|one| one.leader).collect();
        Ok(vec![led("orders"), led("replicated")])
    };
    until("all partitions are led", async || Ok(leaders().await?.iter().map(Vec::len).eq([6, 2]))).await?;

    let metadata = client.metadata(Topics::All).await?;
    assert_eq!(metadata.cluster_id, Some(cluster.cluster_id()?));
    assert_eq!(metadata.brokers.iter().map(|broker| broker.node_id).collect::<Vec<_>>(), brokers);
    let topic = metadata.topic("orders").context("it was there")?;
    assert!((topic.id, topic.internal) == (id, false) && topic.error.is_none());
    assert_eq!(topic.partitions.iter().map(|partition| partition.replicas.clone()).collect::<Vec<_>>(), assigned);
    assert!(topic.partitions.iter().all(|partition| partition.isr == partition.replicas && partition.leader_epoch >= 0));

    let described = client.describe_cluster().await?;
    assert_eq!(Some(described.cluster_id), metadata.cluster_id);
    assert_eq!(described.brokers, metadata.brokers);
    assert!(described.controller.is_some() && described.authorized_operations.contains(Operation::Alter));
    client.controller().await?;

    let of_topic = ConfigResource::Topic("orders".into());
    let setting = async |name: &str| -> Result<(Option<String>, ConfigSource)> {
        let described = all(client.describe_configs(std::slice::from_ref(&of_topic), Some(&[name])).await)?;
        let [entry] = &described[&of_topic][..] else { bail!("{described:?}") };
        Ok((entry.value.clone(), entry.source))
    };
    assert_eq!(setting("cleanup.policy").await?, (Some("delete".to_owned()), ConfigSource::Topic));
    assert_eq!(setting("retention.ms").await?, (Some("604800000".to_owned()), ConfigSource::Default));
    let alter = async |name: &str, change: ConfigChange, validate_only: bool| {
        let changes = BTreeMap::from([(of_topic.clone(), vec![(name.to_owned(), change)])]);
        client.incremental_alter_configs(&changes, validate_only).await
    };
    let nonsense = refused(alter("retention.ms", ConfigChange::Set("soon".to_owned()), true).await)?;
    // INVALID_REQUEST from 2.8.
    assert!(matches!(nonsense.code(), Some(ResponseError::InvalidConfig | ResponseError::InvalidRequest)), "{nonsense}");
    all(alter("retention.ms", ConfigChange::Set("1000".to_owned()), true).await)?;
    assert_eq!(setting("retention.ms").await?.1, ConfigSource::Default);
    all(alter("retention.ms", ConfigChange::Set("-1".to_owned()), false).await)?;
    all(alter("cleanup.policy", ConfigChange::Append("compact".to_owned()), false).await)?;
    until("the settings are there", async || Ok(setting("cleanup.policy").await?.0.as_deref() == Some("delete,compact"))).await?;
    assert_eq!(setting("retention.ms").await?, (Some("-1".to_owned()), ConfigSource::Topic));
    all(alter("cleanup.policy", ConfigChange::Subtract("compact".to_owned()), false).await)?;
    all(alter("retention.ms", ConfigChange::Delete, false).await)?;
    until("the settings are gone", async || Ok(setting("retention.ms").await?.1 == ConfigSource::Default)).await?;

    // Each broker is asked for its own.
    let resources: Vec<_> = brokers.iter().copied().map(ConfigResource::Broker).chain([ConfigResource::AllBrokers]).collect();
    let described = all(client.describe_configs(&resources, None).await)?;
    assert_eq!(described.len(), brokers.len() + 1);
    for broker in &brokers {
        let entry = |name: &str| described[&ConfigResource::Broker(*broker)].iter().find(|entry| entry.name == name);
        let log_dirs = entry("log.dirs").context("log.dirs")?;
        assert!(log_dirs.value.as_ref().is_some_and(|folder| folder.ends_with(&format!("{broker}.data"))), "{log_dirs:?}");
        assert!(log_dirs.source == ConfigSource::File && log_dirs.read_only && !log_dirs.sensitive);
        let jaas = entry("listener.name.sasl_plaintext.plain.sasl.jaas.config").context("the users' passwords")?;
        assert!(jaas.sensitive && jaas.value.is_none());
    }

    all(client.create_topics(&[NewTopic { name: "gone".to_owned(), partitions: by_default(), configs: Vec::new() }], false).await)?;
    let deleted = client.delete_topics(&["gone", "never-there"]).await;
    assert!(deleted["gone"].is_ok());
    assert!(deleted["never-there"].as_ref().is_err_and(ClientError::is_unknown_topic), "{deleted:?}");
    until("it is gone", async || Ok(client.metadata(Topics::All).await?.topic("gone").is_none())).await
}

async fn logs(cluster: &Cluster, client: &Client) -> Result<()> {
    // What is older than retention.ms brokers delete when they look at it, half a minute after their start.
    let time = jiff::Timestamp::now().as_millisecond() - 1_000_000;
    let records = (0..60).map(|number| {
        let mut record = Record::new(format!("{number}"), "v").to_partition(number % 6);
        record.timestamp = Some(time + i64::from(number));
        record
    });
    cluster.produce("orders", &records.collect::<Vec<_>>())?;
    let partitions: Vec<_> = (0..6).map(orders).collect();
    let each = |offset| partitions.iter().map(|partition| (partition.clone(), offset)).collect::<BTreeMap<_, _>>();
    for position in [Position::HighWatermark, Position::LastStable] {
        assert_eq!(all(client.list_offsets(&partitions, position).await)?, each(10), "{position:?}");
    }
    assert_eq!(all(client.log_ends(&partitions).await)?, each(10));
    assert_eq!(client.log_end("orders", 3).await?, 10);

    // Records 1, 7, 13, … are in partition 1.
    let times = [(orders(1), time + 8), (orders(2), time + 100), (orders(0), 0)];
    let found = all(client.offsets_for_times(times).await)?;
    let at = |offset, timestamp| Some(OffsetAndTimestamp { offset, timestamp });
    assert_eq!(found, BTreeMap::from([(orders(0), at(0, time)), (orders(1), at(2, time + 13)), (orders(2), None)]));

    assert_eq!(client.delete_records("orders", 1, 4).await?, 4);
    assert_eq!(client.delete_records("orders", 1, 2).await.unwrap_or(4), 4, "it never goes back");
    let error = client.delete_records("orders", 1, 99).await.unwrap_err();
    assert_eq!(error.code(), Some(ResponseError::OffsetOutOfRange), "{error}");
    let starts = all(client.list_offsets(&partitions[..2], Position::LogStart).await)?;
    assert_eq!(starts, BTreeMap::from([(orders(0), 0), (orders(1), 4)]));

    // What there is not is told of that one; the others have their answers.
    let impatient = client.within(Duration::from_secs(2));
    let mixed = impatient.list_offsets(&[orders(0), orders(99), TopicPartition::new("nowhere", 0)], Position::HighWatermark).await;
    assert_eq!(mixed[&orders(0)].as_ref().ok(), Some(&10));
    for missing in [&orders(99), &TopicPartition::new("nowhere", 0)] {
        let error = mixed[missing].as_ref().unwrap_err();
        assert!(error.is_unknown_topic() && error.to_string().contains(&missing.topic.to_string()), "{error}");
    }

    let marker = |partition, producer_id, coordinator_epoch, commit| TxnMarker {
        partition: orders(partition),
        producer_id,
        producer_epoch: 0,
        commit,
        coordinator_epoch,
    };
    // Two partitions, one of them twice with one producer id and once with another.
    let ours = 1 << 62;
    let markers = [marker(0, ours, 5, false), marker(0, ours, 5, true), marker(0, ours + 1, 0, false), marker(2, ours, 5, false)];
    all(client.write_txn_markers(&markers).await)?;
    assert_eq!(all(client.log_ends(&[orders(0), orders(2)]).await)?, BTreeMap::from([(orders(0), 13), (orders(2), 11)]));
    let fenced = refused(client.write_txn_markers(&[marker(0, ours, 4, false)]).await)?;
    assert_eq!(fenced.code(), Some(ResponseError::TransactionCoordinatorFenced), "{fenced}");

    let producers = client.describe_producers("orders", 0).await?;
    let of = |id| producers.iter().find(|producer| producer.producer_id == id);
    let producer = of(ours).context("the one of our markers")?;
    assert_eq!((producer.producer_epoch, producer.last_sequence, producer.coordinator_epoch), (0, -1, 5), "{producers:?}");
    assert_eq!(producer.current_txn_start_offset, None);
    assert!(of(ours + 1).is_some(), "{producers:?}");

    // An idempotent producer's id in the third term of a topic, as whoever judges first batches asks for it.
    let (id, term) = (1 << 40 | 7, 3);
    let sequence = Sequence { producer_id: stamped(id, term).context("it has a stamp")?, producer_epoch: 1, base_sequence: 41 };
    let record = |offset| batch::Record { offset, timestamp: time, key: None, value: Some("v".into()), headers: Vec::new() };
    let batch = batch::encode(&[record(0), record(1)], Codec::None, sequence)?;
    let appended = produce::only(produce::send(&*client.leader_of(&orders(3)).await?, [(orders(3), batch)], 10_000).await?);
    assert_eq!(appended.map(|partition| (partition.error_code, partition.base_offset)), Some((0, 10)));
    let producers = client.describe_producers("orders", 3).await?;
    let told = producers.iter().find(|told| unstamped(told.producer_id) == Some((id, term))).context("the stamped one")?;
    assert_eq!((told.producer_epoch, told.last_sequence), (1, 42));
    Ok(())
}

async fn transactions(cluster: &Cluster, client: &Client) -> Result<()> {
    let before = client.log_end("orders", 4).await?;
    let first = client.init_producer_id("mirror", LIMIT).await?;
    let producer = client.init_producer_id("mirror", LIMIT).await?;
    assert!(producer.id == first.id && producer.epoch > first.epoch, "{first:?}, {producer:?}");
    let partitions = [orders(4), orders(5)];
    let fenced = client.add_partitions_to_txn("mirror", first, &partitions).await.unwrap_err();
    assert!(matches!(fenced.code(), Some(ResponseError::InvalidProducerEpoch | ResponseError::ProducerFenced)), "{fenced}");

    // Brokers know both requests since 3.0.
    client.add_partitions_to_txn("mirror", producer, &partitions).await?;
    match client.list_transactions(&["Ongoing", "PrepareAbort"], &[producer.id, producer.id + 1_000]).await {
        Err(error) => assert!(cluster.kafka_version() == "2.8.2" && error.to_string().contains("ListTransactions"), "{error}"),
        Ok(listed) => {
            assert_eq!(
                listed.iter().map(|listed| (&*listed.transactional_id, listed.producer_id)).collect::<Vec<_>>(),
                [("mirror", producer.id)]
            );
            assert_eq!(client.list_transactions(&["PrepareCommit"], &[]).await?, []);
            let described = all(client.describe_transactions(&["mirror"]).await)?;
            assert_eq!((&*described["mirror"].state, described["mirror"].timeout), ("Ongoing", LIMIT));
            assert!(described["mirror"].began.is_some(), "{described:?}");
        }
    }
    client.end_txn("mirror", producer, true).await?;

    // The second follows the first at once: it waits until the first is completed.
    for commit in [true, false] {
        client.add_partitions_to_txn("mirror", producer, &partitions).await?;
        client.end_txn("mirror", producer, commit).await?;
    }
    until("each has left one marker", async || Ok(client.log_end("orders", 4).await? == before + 3)).await?;
    let mixed = [orders(4), TopicPartition::new("nowhere", 0)];
    let error = client.within(Duration::from_secs(2)).add_partitions_to_txn("mirror", producer, &mixed).await.unwrap_err();
    // The time may be over in the middle of an attempt; then the error of the one before is in it.
    assert!(error.is_unknown_topic() || matches!(error, ClientError::Deadline { .. }), "{error}");
    assert!(error.to_string().contains("nowhere-0 for transactional id mirror: UNKNOWN_TOPIC_OR_PARTITION"), "{error}");
    Ok(())
}

async fn groups(cluster: &Cluster, client: &Client) -> Result<()> {
    let offsets = BTreeMap::from([(orders(0), committed(3, "")), (orders(2), committed(7, "by kferry"))]);
    all(client.offset_commit("idle", &offsets, None).await)?;
    all(client.offset_commit("kept", &offsets, Some(Duration::from_hours(24 * 365))).await)?;
    let names: Vec<String> = (0..60).map(|number| format!("group-{number}")).collect();
    for name in &names {
        all(client.offset_commit(name, &BTreeMap::from([(orders(0), committed(1, ""))]), None).await)?;
    }
    let mut asked: Vec<&str> = names.iter().map(String::as_str).collect();
    asked.extend(["idle", "kept", "never-there"]);
    for require_stable in [false, true] {
        let fetched = all(client.offset_fetch(&asked, require_stable).await)?;
        assert_eq!(fetched.len(), 63);
        assert!(fetched["idle"] == offsets && fetched["kept"] == offsets && fetched["never-there"].is_empty(), "{fetched:?}");
        assert_eq!(fetched["group-59"].values().map(|committed| committed.offset).collect::<Vec<_>>(), [1]);
    }
    // Backwards too: it is not ours to judge.
    all(client.offset_commit("idle", &BTreeMap::from([(orders(0), committed(1, ""))]), None).await)?;
    assert_eq!(all(client.offset_fetch(&["idle"], false).await)?["idle"][&orders(0)].offset, 1);

    let mut live = vec![("classic-readers", GroupType::Classic, "classic")];
    if cluster.kafka_version().starts_with('4') {
        live.push(("consumer-readers", GroupType::Consumer, "consumer"));
    }
    for (name, group_type, protocol) in live {
        let consumer = member(cluster, name, protocol)?;
        until("the group is stable", async || Ok(all(client.describe_groups(&[name]).await)?[name].state == "Stable")).await?;
        let described = all(client.describe_groups(&[name, "idle", "never-there"]).await)?;
        let allowed = all(client.group_authorized_operations(&[name, "idle", "never-there"]).await)?;
        assert!(allowed.len() == 3 && allowed.values().all(|allowed| allowed.contains(Operation::Read)), "{allowed:?}");
        let live = &described[name];
        assert!(live.group_type == group_type && live.is_live() && live.state == "Stable", "{described:?}");
        assert_eq!(live.members.iter().map(|member| member.client_id.as_str()).collect::<Vec<_>>(), ["reader-1"]);
        assert!(!described["idle"].is_live() && described["idle"].state == "Empty", "{described:?}");
        assert!(!described["never-there"].is_live() && described["never-there"].state == "Dead", "{described:?}");
        let error = refused(client.offset_commit(name, &BTreeMap::from([(orders(0), committed(9, ""))]), None).await)?;
        assert_eq!(error.code(), Some(ResponseError::UnknownMemberId), "{error}");
        assert!(error.to_string().ends_with("the group has members, and only they can commit for it: stop them first"), "{error}");

        let listed = client.list_groups(GroupFilter { states: &["Stable"], types: &[] }).await?;
        assert_eq!(listed.iter().map(|group| group.group_id.as_str()).collect::<Vec<_>>(), [name]);
        assert_eq!((listed[0].protocol_type.as_str(), listed[0].state.as_deref()), ("consumer", Some("Stable")));
        drop(consumer);
        until("the member has left", async || Ok(!all(client.describe_groups(&[name]).await)?[name].is_live())).await?;
    }
    let count = async |types: &[&str]| -> Result<usize> { Ok(client.list_groups(GroupFilter { states: &[], types }).await?.len()) };
    let new = usize::from(cluster.kafka_version().starts_with('4'));
    assert_eq!([count(&[]).await?, count(&["classic"]).await?, count(&["consumer"]).await?], [63 + new, 63, new]);
    Ok(())
}

/// A consumer that is in the group when this returns.
fn member(cluster: &Cluster, group: &str, protocol: &str) -> Result<BaseConsumer> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    config.set("group.id", group).set("client.id", "reader-1").set("group.protocol", protocol).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&["orders"])?;
    let deadline = Instant::now() + LIMIT;
    while consumer.assignment()?.count() < 6 {
        ensure!(Instant::now() < deadline, "{group} has no assignment within {LIMIT:?}");
        consumer.poll(Duration::from_millis(50));
    }
    Ok(consumer)
}

async fn users_and_quotas(cluster: &Cluster, client: &Client) -> Result<()> {
    let password = |mechanism| SaltedPassword::new(mechanism, "carols secret", b"not at all random", MIN_ITERATIONS);
    let both = [ScramMechanism::Sha256, ScramMechanism::Sha512];
    let alter = async |user: &str, alteration: &ScramAlteration| {
        client.alter_user_scram_credentials(&BTreeMap::from([(user.to_owned(), alteration.clone())])).await
    };
    for mechanism in both {
        all(alter("carol", &ScramAlteration::Upsert(password(mechanism))).await)?;
    }
    let mechanisms = async || -> Result<Vec<ScramMechanism>> {
        let users = client.describe_user_scram_credentials().await?;
        Ok(users.get("carol").into_iter().flatten().map(|credential| credential.mechanism).collect())
    };
    until("carol has passwords", async || Ok(mechanisms().await? == both)).await?;
    for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        let carol = self::client(cluster, Listener::SaslPlaintext, Some((mechanism, "carol", "carols secret")))?;
        until("carol can log in", async || Ok(carol.any().await.is_ok())).await?;
        assert_eq!(carol.any().await?.principal(), "User:carol");
    }
    let deletion = ScramAlteration::Delete(ScramMechanism::Sha512);
    all(alter("carol", &deletion).await)?;
    until("one is gone", async || Ok(mechanisms().await? == [ScramMechanism::Sha256])).await?;
    let error = refused(alter("nobody", &deletion).await)?;
    assert_eq!(error.code(), Some(ResponseError::ResourceNotFound), "{error}");

    let entity = |parts: &[(&str, Option<&str>)]| {
        QuotaEntity(parts.iter().map(|(kind, name)| ((*kind).to_owned(), name.map(str::to_owned))).collect())
    };
    let (of_alice, of_others) = (entity(&[("client-id", Some("reader")), ("user", Some("alice"))]), entity(&[("user", None)]));
    let value = |value: Option<f64>| BTreeMap::from([("producer_byte_rate".to_owned(), value)]);
    let quotas = BTreeMap::from([(of_alice.clone(), value(Some(1_048_576.0))), (of_others.clone(), value(Some(2e6)))]);
    all(client.alter_client_quotas(&quotas, true).await)?;
    all(client.alter_client_quotas(&quotas, false).await)?;
    let known = quotas.iter().map(|(entity, values)| {
        let values = values.iter().filter_map(|(key, value)| Some((key.clone(), (*value)?)));
        (entity.clone(), values.collect::<BTreeMap<_, _>>())
    });
    let known: BTreeMap<_, _> = known.collect();
    // With ZooKeeper the SCRAM passwords are stored with the quotas, and users without one are listed.
    let described = async || -> Result<BTreeMap<_, _>> {
        let mut quotas = client.describe_client_quotas().await?;
        quotas.retain(|_, values| !values.is_empty());
        Ok(quotas)
    };
    until("the quotas are there", async || Ok(described().await? == known)).await?;
    all(client.alter_client_quotas(&BTreeMap::from([(of_alice, value(None)), (of_others, value(None))]), false).await)?;
    until("the quotas are gone", async || Ok(described().await?.is_empty())).await?;
    let nonsense = BTreeMap::from([(entity(&[("user", Some("alice"))]), BTreeMap::from([("speed".to_owned(), Some(1.0))]))]);
    let error = refused(client.alter_client_quotas(&nonsense, false).await)?;
    assert_eq!(error.code(), Some(ResponseError::InvalidRequest), "{error}");
    Ok(())
}

async fn rights(cluster: &Cluster, admin: &Client) -> Result<()> {
    let alice = client(cluster, Listener::SaslPlaintext, Some((SaslMechanism::Plain, ALICE.name, ALICE.password)))?;
    let missing = |error: &ClientError, code: &str, operation: &str, resource: &str| {
        let advice = format!("; an ACL must allow User:alice the operation {operation} on {resource}");
        assert!(error.is_authorization() && !error.is_retriable(), "{error}");
        assert!(error.to_string().contains(code) && error.to_string().ends_with(&advice), "{error}");
    };
    let (topic, of_cluster) = ("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED");
    let unseen = refused(alice.list_offsets(&[orders(0)], Position::LogStart).await)?;
    missing(&unseen, topic, "Describe", "topic orders");
    missing(&refused(alice.topic_authorized_operations(&["orders"]).await)?, topic, "Describe", "topic orders");

    let acl = |operation| Acl {
        resource_type: ResourceType::Topic,
        resource_name: "ord".to_owned(),
        pattern_type: PatternType::Prefixed,
        principal: "User:alice".to_owned(),
        host: "*".to_owned(),
        operation,
        permission: Permission::Allow,
    };
    let acls = [acl(Operation::Describe), acl(Operation::Write)];
    all(admin.create_acls(&acls).await)?;
    let another = Acl { resource_type: ResourceType::Cluster, pattern_type: PatternType::Literal, ..acl(Operation::Alter) };
    let error = refused(admin.create_acls(&[another]).await)?;
    assert_eq!(error.code(), Some(ResponseError::InvalidRequest), "{error}");
    until("the ACLs are there", async || {
        let described = admin.describe_acls().await?;
        Ok(acls.iter().all(|acl| described.contains(acl)))
    })
    .await?;
    until("alice may", async || {
        let operations = alice.topic_authorized_operations(&["orders"]).await.remove("orders");
        Ok(operations.is_some_and(|answer| answer.is_ok_and(|operations| operations.contains(Operation::Write))))
    })
    .await?;
    let operations = all(alice.topic_authorized_operations(&["orders"]).await)?["orders"];
    assert!(operations.contains(Operation::Describe) && !operations.contains(Operation::Read));
    until("every broker knows", async || {
        let partitions: Vec<_> = (0..6).map(orders).collect();
        Ok(all(alice.list_offsets(&partitions, Position::LogStart).await).is_ok())
    })
    .await?;

    missing(&alice.describe_producers("orders", 0).await.unwrap_err(), topic, "Read", "topic orders");
    missing(&alice.delete_records("orders", 0, 1).await.unwrap_err(), topic, "Delete", "topic orders");
    missing(&alice.create_partitions("orders", 9, None, false).await.unwrap_err(), topic, "Alter", "topic orders");
    missing(&refused(alice.delete_topics(&["orders"]).await)?, topic, "Delete", "topic orders");
    let new = NewTopic { name: "new".to_owned(), partitions: NewPartitions::Assigned(vec![vec![1]]), configs: Vec::new() };
    missing(&refused(alice.create_topics(&[new], false).await)?, topic, "Create", "topic new");
    let of_topic = ConfigResource::Topic("orders".into());
    let described = alice.describe_configs(std::slice::from_ref(&of_topic), None).await;
    missing(&refused(described)?, topic, "DescribeConfigs", "topic orders");
    let changes = BTreeMap::from([(of_topic, vec![("retention.ms".to_owned(), ConfigChange::Delete)])]);
    missing(&refused(alice.incremental_alter_configs(&changes, false).await)?, topic, "AlterConfigs", "topic orders");
    let marker = TxnMarker { partition: orders(0), producer_id: 1 << 62, producer_epoch: 0, commit: false, coordinator_epoch: 9 };
    missing(&refused(alice.write_txn_markers(&[marker]).await)?, of_cluster, "ClusterAction or Alter", "the cluster");
    missing(&alice.describe_acls().await.unwrap_err(), of_cluster, "Describe", "the cluster");
    missing(&refused(alice.create_acls(&[acl(Operation::All)]).await)?, of_cluster, "Alter", "the cluster");
    missing(&alice.describe_user_scram_credentials().await.unwrap_err(), of_cluster, "Describe", "the cluster");
    missing(&alice.describe_client_quotas().await.unwrap_err(), of_cluster, "DescribeConfigs", "the cluster");
    let of_group = "GROUP_AUTHORIZATION_FAILED";
    missing(&refused(alice.offset_fetch(&["idle"], false).await)?, of_group, "Describe", "group idle");
    missing(&refused(alice.describe_groups(&["idle"]).await)?, of_group, "Describe", "group idle");
    missing(&refused(alice.group_authorized_operations(&["idle"]).await)?, of_group, "Describe", "group idle");
    let unseen = alice.init_producer_id("theirs", LIMIT).await.unwrap_err();
    missing(&unseen, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "Describe", "transactional id theirs");
    assert_eq!(alice.list_groups(GroupFilter::default()).await?, []);
    assert!(!alice.describe_cluster().await?.authorized_operations.contains(Operation::Alter));

    let imposter = client(cluster, Listener::SaslPlaintext, Some((SaslMechanism::Plain, ALICE.name, "a guess")))?;
    let started = Instant::now();
    let error = imposter.metadata(Topics::All).await.unwrap_err();
    assert!(!error.is_retriable() && started.elapsed() < Duration::from_secs(20), "{:?}: {error}", started.elapsed());
    Ok(())
}

async fn the_log_end_is_ahead_of_the_high_watermark_while_a_replica_hangs(cluster: &Cluster, client: &Client) -> Result<()> {
    let partition = TopicPartition::new("replicated", 0);
    let metadata = client.metadata(Topics::Named(&["replicated"])).await?;
    let led = &metadata.topics[0].partitions[0];
    let leader = led.leader.context("a leader")?;
    let replica = led.isr.iter().copied().find(|id| *id != leader).context("a replica that does not lead")?;
    let produce = |acks: &str| -> Result<()> {
        let mut config = cluster.client_config(Listener::Plaintext)?;
        // Not the one that hangs.
        config.set("bootstrap.servers", cluster.address(leader, Listener::Plaintext)?).set("acks", acks);
        let producer: BaseProducer = config.create()?;
        for _ in 0..10 {
            producer.send(BaseRecord::<str, str>::to("replicated").partition(0).payload("x")).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(LIMIT)?)
    };
    let ends = async || -> Result<(i64, i64)> {
        let watermark = all(client.list_offsets(std::slice::from_ref(&partition), Position::HighWatermark).await)?;
        Ok((watermark[&partition], client.log_end("replicated", 0).await?))
    };
    produce("all")?;
    assert_eq!(ends().await?, (10, 10));
    cluster.freeze(replica)?;
    produce("1")?;
    let ends = ends().await;
    cluster.thaw(replica)?;
    assert_eq!(ends?, (10, 20));
    Ok(())
}

async fn leaders_and_coordinators_move(cluster: &Cluster, client: &Client) -> Result<()> {
    let leader = async || -> Result<i32> {
        let metadata = client.metadata(Topics::Named(&["replicated"])).await?;
        metadata.topics[0].partitions[0].leader.context("a leader")
    };
    // Everything is known now, and will be wrong.
    let before = leader().await?;
    assert_eq!(client.log_end("replicated", 0).await?, 20);
    let group = (0..).map(|number| format!("moving-{number}")).take(64).collect::<Vec<_>>();
    let own = client.connect(before).await?;
    let offsets = BTreeMap::from([(orders(0), committed(5, ""))]);
    for group in &group {
        client.coordinator(CoordinatorKind::Group, group).await?;
    }
    cluster.stop(before)?;
    assert_eq!(client.log_end("replicated", 0).await?, 20);
    assert_ne!(leader().await?, before);
    // Some of them were coordinated by the one that is gone.
    for group in &group {
        all(client.offset_commit(group, &offsets, None).await)?;
    }
    until("its connections are broken", async || Ok(own.is_broken().is_some())).await?;
    let error = client.connect(before).await.map(drop).unwrap_err();
    assert!(error.is_retriable(), "{error}");

    cluster.restart(before)?;
    until("it is back", async || Ok(client.broker(before).await.is_ok_and(|connection| connection.is_broken().is_none()))).await?;
    let names: Vec<&str> = group.iter().map(String::as_str).collect();
    assert!(all(client.offset_fetch(&names, true).await)?.values().all(|fetched| *fetched == offsets));
    Ok(())
}
