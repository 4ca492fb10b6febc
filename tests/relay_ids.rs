//! Relay mode: topic ids that are the same on every cluster and every proxy, and node ids that no broker has.

use std::collections::BTreeSet;
use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::LIMIT;
use harness::clients::{self, Client, Job};
use harness::kafka::{ALICE, Acl, BOB, Cluster, Listener, Operation, Record, Resource};
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw, ask, until};
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    CreatePartitionsRequest, CreateTopicsRequest, DescribeConfigsRequest, FindCoordinatorRequest, GroupId, IncrementalAlterConfigsRequest,
    MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use kferry_wire::api::Uuid;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message as _};
use rustix::process::Signal;

/// Virtual node ids carry the cluster's id in front of this many.
const NODE_IDS: i32 = 10_000_000;

/// Kafka's `INVALID_REPLICA_ASSIGNMENT`, `INVALID_REQUEST`, `UNKNOWN_TOPIC_ID`, `BROKER_ID_NOT_REGISTERED`
const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
const INVALID_REQUEST: i16 = 42;
const UNKNOWN_TOPIC_ID: i16 = 100;
const BROKER_ID_NOT_REGISTERED: i16 = 102;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn by_name(name: &str) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

fn by_id(topic_id: Uuid) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_topic_id(topic_id).with_name(None);
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

/// The only topic's error, name and id.
fn topic(answer: &MetadataResponse) -> (i16, Option<&str>, Uuid) {
    let topic = &answer.topics[0];
    (topic.error_code, topic.name.as_ref().map(|name| name.as_str()), topic.topic_id)
}

/// What the cluster itself calls a topic.
fn real_id(cluster: &Cluster, name: &str) -> Result<Uuid> {
    let servers = cluster.bootstrap_servers(Listener::Plaintext)?;
    let port = servers.split(',').next().and_then(|server| server.rsplit(':').next()).context("no port")?.parse()?;
    let answer = ask(&mut Raw::connect(port)?, 12, "direct", &by_name(name))?;
    let (error_code, _, topic_id) = topic(&answer);
    ensure!(error_code == 0 && !topic_id.is_nil(), "{answer:?}");
    Ok(topic_id)
}

/// A whole heartbeat, as a client sends it that joins, or after an error.
fn heartbeat(member: &str, epoch: i32, owned: &[(Uuid, Vec<i32>)]) -> ConsumerGroupHeartbeatRequest {
    let owned = owned.iter().map(|(id, partitions)| TopicPartitions::default().with_topic_id(*id).with_partitions(partitions.clone()));
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("raw")))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(vec![TopicName(text("orders"))]))
        .with_topic_partitions(Some(owned.collect()))
}

/// What a member has been assigned, once there is something.
fn assigned(answer: &ConsumerGroupHeartbeatResponse) -> Vec<(Uuid, Vec<i32>)> {
    let topics = answer.assignment.iter().flat_map(|assignment| &assignment.topic_partitions);
    // A set's order is anybody's guess.
    let sorted = |partitions: &[i32]| partitions.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    topics.map(|topic| (topic.topic_id, sorted(&topic.partitions))).collect()
}

/// Joins with a member of this name until it has both partitions. Returns its epoch.
fn join(client: &mut Raw, client_id: &str, member: &str, expected: Uuid) -> Result<i32> {
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("raw")]);
    // The topic of the groups is only made by the first question.
    until("there is a coordinator", || Ok(ask(client, 4, client_id, &find)?.coordinators[0].error_code == 0))?;
    let (mut epoch, mut last) = (0, None);
    let joined = until("the member has its partitions", || {
        let answer = ask(client, 1, client_id, &heartbeat(member, epoch, &[]))?;
        ensure!([0, 14, 15, 16].contains(&answer.error_code), "{answer:?}");
        if answer.error_code == 0 {
            epoch = answer.member_epoch;
        }
        let topics = assigned(&answer);
        ensure!(topics.iter().all(|(topic_id, _)| *topic_id == expected), "{answer:?}");
        last = Some(answer);
        Ok(topics == [(expected, vec![0, 1])])
    });
    joined.with_context(|| format!("{last:?}"))?;
    Ok(epoch)
}

#[test]
fn a_topic_has_one_id_on_every_cluster_and_every_proxy() -> Result<()> {
    let builders = vec![Cluster::version("4.3.0").name("new"), Cluster::version("4.1.1").name("old").first_node_id(11)];
    let [new, old] = Cluster::start_all(builders)?.try_into().map_err(|_| anyhow!("two clusters"))?;
    for cluster in [&new, &old] {
        cluster.create_topic("orders", 2, &[])?;
    }
    let routes = Routes::new()?
        .kafka("new", &new, Listener::Plaintext, None)?
        .kafka("old", &old, Listener::Plaintext, None)?
        .relay("new", "new-*", "new", "")
        .relay("old", "old-*", "old", "");
    let mut proxy = Proxy::start(&routes)?;
    let real_ids = [real_id(&new, "orders")?, real_id(&old, "orders")?];
    ensure!(real_ids[0] != real_ids[1], "{real_ids:?}");

    let mut seen = BTreeSet::new();
    for client_id in ["new-1", "old-1"] {
        let mut client = Raw::connect(proxy.port())?;
        for version in 10..=12 {
            seen.insert(topic(&ask(&mut client, version, client_id, &by_name("orders"))?).2);
        }
        // All topics.
        let all = ask(&mut client, 12, client_id, &MetadataRequest::default().with_topics(None))?;
        seen.extend(
            all.topics.iter().filter(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == "orders")).map(|t| t.topic_id),
        );
    }
    ensure!(seen.len() == 1 && !seen.iter().any(|id| real_ids.contains(id) || id.is_nil()), "{seen:?}, {real_ids:?}");
    let orders = *seen.first().context("an id")?;

    for (cluster, client_id, real) in [(&new, "new-1", real_ids[0]), (&old, "old-1", real_ids[1])] {
        let mut client = Raw::connect(proxy.port())?;
        assert_eq!(topic(&ask(&mut client, 12, client_id, &by_id(orders))?), (0, Some("orders"), orders));
        let member = format!("member-of-{client_id}");
        let epoch = join(&mut client, client_id, &member, orders)?;
        // The coordinator knows the partitions that the member says it owns.
        let answer = ask(&mut client, 1, client_id, &heartbeat(&member, epoch, &[(orders, vec![0, 1])]))?;
        assert_eq!((answer.error_code, assigned(&answer)), (0, vec![(orders, vec![0, 1])]));
        let question = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text("raw"))]);
        for version in 0..=1 {
            let answer = ask(&mut client, version, client_id, &question)?;
            let member = &answer.groups[0].members[0];
            for topic in [&member.assignment, &member.target_assignment].map(|assignment| &assignment.topic_partitions[0]) {
                assert_eq!((topic.topic_name.as_str(), topic.topic_id), ("orders", orders), "v{version}");
            }
        }

        // To a proxy that has seen nothing yet the first word is a heartbeat: it has to ask in both directions.
        proxy.signal(Signal::KILL)?;
        proxy.wait()?;
        let config = proxy.config().to_owned();
        proxy = Proxy::start_with(&routes, &config, &[])?;
        let mut client = Raw::connect(proxy.port())?;
        let owned = heartbeat(&member, epoch, &[(orders, vec![0, 1])]);
        let whole = client.ask(&raw::request(1, 1, client_id, &owned)?)?;
        ensure!(whole.windows(16).any(|bytes| bytes == orders.as_bytes()), "no assignment: {whole:?}");
        ensure!(!whole.windows(16).any(|bytes| bytes == real.as_bytes()), "the real id: {whole:?}");

        proxy.signal(Signal::KILL)?;
        proxy.wait()?;
        proxy = Proxy::start_with(&routes, &config, &[])?;
        let mut client = Raw::connect(proxy.port())?;
        assert_eq!(topic(&ask(&mut client, 12, client_id, &by_id(orders))?), (0, Some("orders"), orders));
        let nobodys = topic(&ask(&mut client, 12, client_id, &by_name("payments"))?).2;
        assert!(nobodys.is_nil(), "a topic that is not there has no id");
        let unknown = Uuid::from_u128(orders.as_u128() ^ 1);
        assert_eq!(topic(&ask(&mut client, 12, client_id, &by_id(unknown))?), (UNKNOWN_TOPIC_ID, None, unknown));
        ask(&mut client, 1, client_id, &heartbeat(&member, -1, &[]))?;

        // Created again it is another topic for the cluster, and the same for clients.
        cluster.delete_topic("orders")?;
        cluster.create_topic("orders", 2, &[])?;
        ensure!(real_id(cluster, "orders")? != real, "it has the same id again");
        until("the new topic has the old id", || {
            let answer = ask(&mut client, 12, client_id, &by_id(orders))?;
            ensure!(answer.topics[0].topic_id == orders, "{answer:?}");
            Ok(answer.topics[0].error_code == 0)
        })?;
        join(&mut client, client_id, &format!("{member}-again"), orders)?;
    }

    // Kafka's own tool shows the same on both, and finds the topic by it.
    let mut told = BTreeSet::new();
    for cluster in [&new, &old] {
        let routes = Routes::new()?.kafka("one", cluster, Listener::Plaintext, None)?.relay("all", "*", "one", "");
        let proxy = Proxy::start(&routes)?;
        let describe = |key: &str, value: &str| {
            let args = ["--bootstrap-server", &proxy.bootstrap_servers(), "--describe", key, value];
            cluster.tool("org.apache.kafka.tools.TopicCommand", &args)
        };
        let by_name = describe("--topic", "orders")?;
        let id = by_name.split_once("TopicId: ").and_then(|(_, rest)| rest.split_whitespace().next()).context("no TopicId")?.to_owned();
        let by_id = describe("--topic-id", &id)?;
        ensure!(by_id.contains("Topic: orders\tTopicId: ") && by_id.contains(&id), "{by_id}");
        told.insert(id);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    Ok(())
}

#[test]
fn an_id_that_cannot_be_translated_ends_the_connection_and_never_passes() -> Result<()> {
    let cluster = Cluster::version("4.3.0").name("guarded").listen(Listener::SaslSsl).acls().start()?;
    cluster.create_topic("orders", 2, &[])?;
    cluster.add_acls(&[
        Acl::allow(ALICE.name, Operation::Read, Resource::Topic("orders".to_owned())),
        Acl::allow(ALICE.name, Operation::Read, Resource::Group("raw".to_owned())),
    ])?;
    let credentials = format!(
        "client_address = \"127.0.0.1\"\n[routes.credentials.secure]\nsasl_mechanism = \"SCRAM-SHA-512\"\n\
         sasl_username = \"{}\"\nsasl_password = \"{}\"\n",
        ALICE.name, ALICE.password
    );
    // kferry's own login may see no topic.
    let routes = Routes::new()?.kafka("secure", &cluster, Listener::SaslSsl, Some(BOB))?.relay("all", "*", "secure", &credentials);
    let mut proxy = Proxy::start(&routes)?;
    let mut client = Raw::connect(proxy.port())?;
    // The client itself does: with the topic's name comes its id.
    let orders = topic(&ask(&mut client, 12, "c", &by_name("orders"))?).2;
    let epoch = join(&mut client, "c", "member", orders)?;

    proxy.signal(Signal::KILL)?;
    proxy.wait()?;
    let config = proxy.config().to_owned();
    proxy = Proxy::start_with(&routes, &config, &[])?;
    let mut client = Raw::connect(proxy.port())?;
    let whole = heartbeat("member", epoch, &[(orders, vec![0, 1])]);
    client.send(&raw::request(1, 1, "c", &whole)?)?;
    assert!(client.rest()?.is_empty(), "nothing of the answer");
    let line = proxy.closed(&client)?;
    let detail = line["detail"].as_str().unwrap_or_default();
    assert!(line["cause"] == "unknown_topic_id" && detail.contains("let it describe the topics of relayed clients"), "{line}");

    let mut client = Raw::connect(proxy.port())?;
    assert_eq!(topic(&ask(&mut client, 12, "c", &by_name("orders"))?).2, orders);
    let answer = ask(&mut client, 1, "c", &whole)?;
    assert_eq!((answer.error_code, assigned(&answer)), (0, vec![(orders, vec![0, 1])]));
    Ok(())
}

#[test]
fn members_of_the_consumer_protocol_go_on_when_the_proxy_is_restarted() -> Result<()> {
    const PARTITIONS: i32 = 3;
    const RECORDS: usize = 300;
    for version in ["4.3.0", "4.1.1"] {
        let cluster = Cluster::version(version).name("members").start()?;
        let routes = Routes::new()?.kafka("new", &cluster, Listener::Plaintext, None)?.relay("all", "*", "new", "");
        let mut proxy = Proxy::start(&routes)?;

        cluster.create_topic("trip", PARTITIONS, &[])?;
        let job = Job { group_protocol: Some("consumer"), ..Job::new(&proxy.bootstrap_servers(), "java", "trip") };
        clients::run(Client::Java4, &job)?;

        cluster.create_topic("numbers", PARTITIONS, &[])?;
        let produce = |from: usize| {
            let record = |n: usize| Record::new(n.to_string(), n.to_string()).to_partition(n as i32 % PARTITIONS);
            cluster.produce("numbers", &(from..from + RECORDS).map(record).collect::<Vec<_>>())
        };
        let bootstrap_servers = proxy.bootstrap_servers();
        let consumer = librdkafka(&bootstrap_servers)?;
        thread::scope(|scope| -> Result<()> {
            let java = scope.spawn(|| java(&cluster, &bootstrap_servers, 2 * RECORDS));
            produce(0)?;
            let mut read = read(&consumer, RECORDS)?;
            until("the Java member has committed what there is", || {
                let committed = cluster.committed_offsets("java-member")?;
                Ok(committed.values().sum::<i64>() == RECORDS as i64)
            })?;
            proxy.signal(Signal::KILL)?;
            proxy.wait()?;
            let config = proxy.config().to_owned();
            proxy = Proxy::start_with(&routes, &config, &[])?;
            produce(RECORDS)?;
            read.extend(self::read(&consumer, RECORDS)?);
            read.sort_unstable();
            assert_eq!(read, (0..2 * RECORDS).collect::<Vec<_>>(), "{version}: librdkafka, once each");

            let told = java.join().map_err(|_| anyhow!("panicked"))??;
            // The first assignment may be an empty one (`"partitions":[]`): the coordinator of 4.3 computes the target
            // assignment in the background. After that the member keeps its partitions until it is done.
            let times = |event: &str| told.matches(&format!("\"name\":\"{event}\",\"partitions\":[{{")).count();
            let assignments = (times("partitions_assigned"), times("partitions_revoked"), times("partitions_lost"));
            assert_eq!(assignments, (1, 1, 0), "{version}:\n{told}");
            Ok(())
        })
        .with_context(|| proxy.log_text())?;
        let trouble: Vec<_> = proxy.log()?.into_iter().filter(|line| line["cause"] == "unknown_topic_id").collect();
        assert!(trouble.is_empty(), "{trouble:?}");
    }
    Ok(())
}

fn librdkafka(bootstrap_servers: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("client.id", "librdkafka").set("group.id", "librdkafka-member");
    config.set("group.protocol", "consumer").set("auto.offset.reset", "earliest");
    config.set("reconnect.backoff.max.ms", "500");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&["numbers"])?;
    Ok(consumer)
}

fn read(consumer: &BaseConsumer, count: usize) -> Result<Vec<usize>> {
    let mut read = Vec::new();
    let deadline = Instant::now() + LIMIT;
    while read.len() < count {
        ensure!(Instant::now() < deadline, "{} of {count} records within {LIMIT:?}", read.len());
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => read.push(str::from_utf8(message.payload().context("no payload")?)?.parse()?),
            None
            | Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown))) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(read)
}

/// Kafka's own test member, until it has read so many records. Returns what it told, one JSON line for each event.
fn java(cluster: &Cluster, bootstrap_servers: &str, records: usize) -> Result<String> {
    let records = records.to_string();
    let args = ["--bootstrap-server", bootstrap_servers, "--topic", "numbers", "--group-id", "java-member", "--max-messages", &records];
    let args = [&args[..], &["--group-protocol", "consumer", "--reset-policy", "earliest"]].concat();
    cluster.tool("org.apache.kafka.tools.VerifiableConsumer", &args)
}

/// Two brokers, 1 and 2, for the tests that name them, each with topics of its own.
fn nodes() -> Result<&'static Cluster> {
    static NODES: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let started = NODES.get_or_init(|| Cluster::version("4.3.0").name("nodes").brokers(2).start().map_err(|error| format!("{error:#}")));
    started.as_ref().map_err(|error| anyhow!("{error}"))
}

#[test]
fn a_node_that_no_broker_has_is_refused_by_the_broker_itself_and_named_as_it_was_written() -> Result<()> {
    let cluster = nodes()?;
    cluster.create_topic("there", 1, &[])?;
    let routes = Routes::new()?.kafka("new", cluster, Listener::Plaintext, None)?.relay("all", "*", "new", "");
    let proxy = Proxy::start(&routes)?;
    let mut client = Raw::connect(proxy.port())?;
    // Outside of node_ids, another cluster's, nobody's, and real ids, which must not hit the real broker.
    for nobody in [NODE_IDS + 60, 2 * NODE_IDS + 1, 77, 1, 0] {
        let refused = |error_code: i16, expected: &[i16], message: Option<StrBytes>| {
            let message = message.unwrap_or_default();
            let named =
                message.contains(&format!(" {nobody}")) && message.contains("(kferry: clients know the brokers of this cluster as ");
            ensure!(expected.contains(&error_code) && named && !message.contains("19000"), "{nobody}: {error_code} {message}");
            Ok(())
        };
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![nobody.into()]);
        let topic = CreatableTopic::default().with_name(TopicName(text("nowhere"))).with_num_partitions(-1).with_replication_factor(-1);
        let topic = topic.with_assignments(vec![assignment]);
        let answer = ask(&mut client, 6, "c", &CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000))?;
        refused(answer.topics[0].error_code, &[INVALID_REPLICA_ASSIGNMENT], answer.topics[0].error_message.clone())?;

        let partition = ReassignablePartition::default().with_replicas(Some(vec![nobody.into()]));
        let topic = ReassignableTopic::default().with_name(TopicName(text("there"))).with_partitions(vec![partition]);
        let question = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        let answer = ask(&mut client, 0, "c", &question)?;
        let partition = &answer.responses[0].partitions[0];
        refused(partition.error_code, &[INVALID_REPLICA_ASSIGNMENT], partition.error_message.clone())?;

        let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![nobody.into()]);
        let topic = CreatePartitionsTopic::default().with_name(TopicName(text("there"))).with_count(2);
        let question = CreatePartitionsRequest::default().with_topics(vec![topic.with_assignments(Some(vec![assignment]))]);
        let answer = ask(&mut client, 3, "c", &question.with_timeout_ms(5_000))?;
        refused(answer.results[0].error_code, &[INVALID_REPLICA_ASSIGNMENT], answer.results[0].error_message.clone())?;

        let config = AlterableConfig::default().with_name(text("log.cleaner.threads")).with_value(Some(text("2")));
        let resource = AlterConfigsResource::default().with_resource_type(4).with_resource_name(text(&nobody.to_string()));
        let question = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![config])]);
        let answer = ask(&mut client, 1, "c", &question)?;
        let response = &answer.responses[0];
        refused(response.error_code, &[INVALID_REQUEST, BROKER_ID_NOT_REGISTERED], response.error_message.clone())?;
        // Java finds an answer by this name, and gets a NullPointerException without one.
        assert_eq!(response.resource_name.as_str(), nobody.to_string());

        let resource = DescribeConfigsResource::default().with_resource_type(4).with_resource_name(text(&nobody.to_string()));
        let answer = ask(&mut client, 4, "c", &DescribeConfigsRequest::default().with_resources(vec![resource]))?;
        refused(answer.results[0].error_code, &[INVALID_REQUEST], answer.results[0].error_message.clone())?;
        assert_eq!(answer.results[0].resource_name.as_str(), nobody.to_string());
    }
    assert!(!cluster.list_topics()?.contains(&"nowhere".to_owned()));
    Ok(())
}

#[test]
fn kafkas_own_tools_throttle_a_reassignment_through_the_relay() -> Result<()> {
    let cluster = nodes()?;
    let routes = Routes::new()?.kafka("new", cluster, Listener::Plaintext, None)?.relay("all", "*", "new", "");
    let proxy = Proxy::start(&routes)?;
    let relay = proxy.bootstrap_servers();
    let direct = cluster.bootstrap_servers(Listener::Plaintext)?;
    let (one, two) = (NODE_IDS + 1, NODE_IDS + 2);
    let create =
        ["--bootstrap-server", &relay, "--create", "--if-not-exists", "--topic", "moving", "--replica-assignment", &one.to_string()];
    cluster.tool("org.apache.kafka.tools.TopicCommand", &create)?;
    cluster.produce("moving", &[Record::new("k", "v")])?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("plan.json");
    let json = format!(r#"{{"version":1,"partitions":[{{"topic":"moving","partition":0,"replicas":[{two}]}}]}}"#);
    fs::write(&file, json)?;
    let plan = file.display().to_string();
    let reassign = |how: &[&str]| {
        let args = ["--bootstrap-server", &relay, "--reassignment-json-file", &plan];
        cluster.tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &[&args[..], how].concat())
    };
    let throttled = |servers: &str| {
        let args = ["--bootstrap-server", servers, "--describe", "--entity-type", "topics", "--entity-name", "moving"];
        cluster.tool("kafka.admin.ConfigCommand", &args)
    };
    let has = |told: &str, leader: &str, follower: &str| {
        let [leader, follower] =
            [("leader", leader), ("follower", follower)].map(|(side, on)| format!("{side}.replication.throttled.replicas={on} "));
        ensure!(told.contains(&leader) && told.contains(&follower), "no {leader:?}, {follower:?} in:\n{told}");
        Ok(())
    };
    reassign(&["--execute", "--throttle", "100000"])?;
    // Whose replication is throttled is written with the ids of real brokers, and relayed clients read it with their own.
    has(&throttled(&direct)?, "0:1", "0:2")?;
    has(&throttled(&relay)?, &format!("0:{one}"), &format!("0:{two}"))?;
    for (servers, node_id) in [(&direct, 2), (&relay, two)] {
        let node_id = node_id.to_string();
        let args = ["--bootstrap-server", servers, "--describe", "--all", "--entity-type", "brokers", "--entity-name", &node_id];
        let told = cluster.tool("kafka.admin.ConfigCommand", &args)?;
        for setting in [format!("  node.id={node_id} "), "  follower.replication.throttled.rate=100000 ".to_owned()] {
            ensure!(told.contains(&setting), "no {setting:?} in:\n{told}");
        }
    }
    until("the replica is on the other broker", || Ok(reassign(&["--verify", "--preserve-throttles"])?.contains("is completed")))?;
    let told = reassign(&["--verify"])?;
    ensure!(!throttled(&direct)?.contains("throttled"), "{told}");

    // Settings that come with a topic, and a node that there is not.
    let settings = format!("leader.replication.throttled.replicas=0:{one},0:77");
    let create =
        ["--bootstrap-server", &relay, "--create", "--if-not-exists", "--topic", "throttled", "--partitions", "1", "--config", &settings];
    cluster.tool("org.apache.kafka.tools.TopicCommand", &create)?;
    for (servers, expected) in [(&direct, "0:1,0:1900000077"), (&relay, settings.split_once('=').context("it is a setting")?.1)] {
        let describe = ["--bootstrap-server", servers, "--describe", "--topic", "throttled"];
        let told = cluster.tool("org.apache.kafka.tools.TopicCommand", &describe)?;
        ensure!(told.contains(&format!("leader.replication.throttled.replicas={expected}")), "{told}");
    }
    // What docs/apis.md says cannot be had.
    let args = ["--bootstrap-server", &relay, "--describe", "--entity-type", "brokers", "--entity-name", "1"];
    let told = cluster.tool("kafka.admin.ConfigCommand", &args)?;
    ensure!(told.contains("The broker '1' doesn't exist"), "{told}");
    let features = |servers: &str| cluster.tool("org.apache.kafka.tools.FeatureCommand", &["--bootstrap-server", servers, "describe"]);
    ensure!(features(&direct)?.contains("metadata.version") && !features(&relay)?.contains("metadata.version"), "{}", features(&relay)?);

    let create = ["--bootstrap-server", &relay, "--create", "--topic", "nowhere-else", "--replica-assignment", "77"];
    let refused = cluster.tool("org.apache.kafka.tools.TopicCommand", &create).expect_err("there is no broker 77").to_string();
    ensure!(refused.contains("broker 77") && refused.contains("10000001 to 10000002"), "{refused}");
    Ok(())
}
