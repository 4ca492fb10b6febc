//! Relay mode: what clients see of their cluster, what goes through, and what happens when a broker, the proxy or a client misbehaves.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use harness::fake::{Answers, FakeBroker, Step};
use harness::kafka::{ADMIN, ALICE, Acl, Cluster, Listener, Operation, Resource};
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Forward, Raw, ask, request, until};
use harness::{LIMIT, pki, ports};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, DescribeClusterRequest, FetchRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, MetadataResponse, SaslHandshakeRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable as _, StrBytes};
use kferry_wire::api::APIS;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList};
use rustix::process::Signal;
use serde_json::json;

const MIB: u64 = 1024 * 1024;
/// Virtual node ids carry the cluster's id in front of this many.
const NODE_IDS: i32 = 10_000_000;

/// Kafka's `UNSUPPORTED_VERSION`, `NOT_LEADER_OR_FOLLOWER`
const UNSUPPORTED_VERSION: i16 = 35;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// From version 3 on brokers refuse a client that does not say what it is.
fn api_versions() -> ApiVersionsRequest {
    let (name, version) = raw::SOFTWARE;
    let (name, version) = (StrBytes::from_static_str(name), StrBytes::from_static_str(version));
    ApiVersionsRequest::default().with_client_software_name(name).with_client_software_version(version)
}

fn topic(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// Checks the line at the end of a connection.
fn ended(proxy: &Proxy, client: &mut Raw, cause: &str, detail: &str) -> Result<()> {
    client.rest()?;
    let line = proxy.closed(client)?;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    ensure!(text("cause") == cause && text("detail").contains(detail), "not {cause} with {detail:?}: {line}");
    Ok(())
}

/// The virtual brokers' first port of the only cluster with such a `node_ids` line.
fn first_port(routes: &Routes, node_ids: &str) -> Result<u16> {
    let text = routes.text();
    let (_, section) = text.split_once(&format!("node_ids = \"{node_ids}\"")).context("no such node_ids")?;
    let (_, ports) = section.split_once("broker_ports = \"").context("no broker_ports")?;
    Ok(ports.split('-').next().unwrap_or_default().parse()?)
}

#[test]
fn a_relayed_client_sees_only_virtual_brokers() -> Result<()> {
    let new = Cluster::version("4.3.0").name("new").brokers(2).first_node_id(5);
    let legacy = Cluster::version("2.8.2").name("legacy").first_node_id(1001);
    let [new, legacy] = Cluster::start_all(vec![new, legacy])?.try_into().map_err(|_| anyhow!("two clusters"))?;
    new.create_topic("seen", 4, &[])?;
    let routes = Routes::new()?
        .kafka("new", &new, Listener::Plaintext, None)?
        .kafka("legacy", &legacy, Listener::Plaintext, None)?
        .relay("new", "new-*", "new", "")
        .relay("legacy", "legacy-*", "legacy", "");
    let port = first_port(&routes, "5-6")?;
    let proxy = Proxy::start(&routes)?;

    let advertised = what_all_clusters_know(&proxy, [&new, &legacy])?;
    answers_name_virtual_brokers(&proxy, port)?;
    each_port_is_its_broker(&new, port)?;
    what_is_not_advertised(&proxy, &advertised)?;
    what_names_no_topic(&proxy, 11, "new-3")?;
    clients_that_come_by_a_load_balancer(&new)?;

    // The other cluster's brokers are others, and its clients see the same list.
    let mut client = Raw::connect(proxy.port())?;
    assert_eq!(ask(&mut client, 3, "legacy-1", &api_versions())?.api_keys, advertised.api_keys);
    let answer = ask(&mut client, 11, "legacy-1", &MetadataRequest::default().with_topics(Some(Vec::new())))?;
    assert_eq!((answer.brokers[0].node_id.0, answer.cluster_id.as_deref()), (2 * NODE_IDS + 1001, Some("kferry")));
    Ok(())
}

/// The load balancer has other ports than the proxy, and says where its clients are, in front of their TLS: a real client finds every broker through it
/// and is known by its own address.
fn clients_that_come_by_a_load_balancer(new: &Cluster) -> Result<()> {
    // Version 2: 10.77.1.2:40000 has connected to 10.9.0.7:9092.
    const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x4d\x01\x02\x0a\x09\0\x07\x9c\x40\x23\x84";
    // The brokers of the other listener, of this one, and where clients are told to go; then this listener, and where clients begin.
    let at = ports::take(8)?.start;
    let (bind, door) = (at + 6, at + 7);
    let identity = pki::authority()?.server(&[])?;
    let (certificate, key) = (identity.certificate_path.display(), identity.key_path.display());
    let routes = Routes::new()?
        .cluster_with(
            "new",
            &new.bootstrap_servers(Listener::Plaintext)?,
            &format!("node_ids = \"5-6\"\nbroker_ports = \"{at}-{}\"", at + 1),
        )
        .section(&format!(
            "[[listeners]]\nname = \"balanced\"\nbind = \"127.0.0.1:{bind}\"\nbroker_port_offset = 2\nadvertised_port_offset = 4\n\
             proxy_protocol_from = [\"10.9.0.7\", \"127.0.0.1\"]\nsecurity_protocol = \"SSL\"\n\
             ssl_certificate_location = \"{certificate}\"\nssl_key_location = \"{key}\"\n"
        ))
        .relay("balanced", "balanced-*", "new", "client_address = \"10.77.0.0/16\"\n");
    let proxy = Proxy::start(&routes)?;
    let balancers = [(door, bind), (at + 4, at + 2), (at + 5, at + 3)];
    let _balancers: Vec<_> =
        balancers.iter().map(|(port, server)| Forward::begin_with(*port, &format!("127.0.0.1:{server}"), HEADER)).collect::<Result<_>>()?;

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{door}")).set("client.id", "balanced-1").set("security.protocol", "ssl");
    config.set("ssl.ca.location", pki::authority()?.ca_path.to_string_lossy());
    let producer = producer(&mut config)?;
    send_numbers(&producer, "seen", 4, 0..8)?;
    producer.flush(LIMIT)?;
    assert_eq!(new.read_all("seen")?.len(), 8);
    let mut told: Vec<i32> = producer.client().fetch_metadata(None, LIMIT)?.brokers().iter().map(MetadataBroker::port).collect();
    told.sort_unstable();
    assert_eq!(told, [i32::from(at + 4), i32::from(at + 5)]);

    let rows = proxy.clients()?;
    let told: Vec<_> = rows.iter().map(|row| (&row["client_id"], &row["address"], &row["listener"], &row["route"])).collect();
    assert_eq!(told, [(&json!("balanced-1"), &json!("10.77.1.2"), &json!("balanced"), &json!("balanced"))]);
    assert_eq!(rows[0]["connections"].as_u64().map(|open| open >= 2), Some(true), "{rows:?}");
    drop(producer);
    let mut line = None;
    until("the log tells the end of a connection", || {
        line = proxy.log()?.into_iter().find(|line| line["message"] == "connection closed");
        Ok(line.is_some())
    })?;
    let line = line.context("until returns when it is there")?;
    assert_eq!(line["peer"], "10.77.1.2:40000");
    assert!(line["load_balancer"].as_str().is_some_and(|balancer| balancer.starts_with("127.0.0.1:")), "{line}");
    Ok(())
}

/// Checks the advertised versions.
fn what_all_clusters_know(proxy: &Proxy, clusters: [&Cluster; 2]) -> Result<ApiVersionsResponse> {
    // From the very first answer on: what both clusters know, less what is hidden.
    let mut client = Raw::connect(proxy.port())?;
    let advertised = ask(&mut client, 3, "new-1", &api_versions())?;
    let mut expected = Vec::new();
    let direct = clusters.map(|cluster| -> Result<ApiVersionsResponse> {
        let address = cluster.bootstrap_servers(Listener::Plaintext)?;
        let port = address.split(',').next().and_then(|address| address.rsplit(':').next()).context("no port")?.parse()?;
        ask(&mut Raw::connect(port)?, 3, "direct", &api_versions())
    });
    let [of_new, of_legacy] = direct;
    let (of_new, of_legacy) = (of_new?, of_legacy?);
    for api in APIS {
        let Some((mut min, mut max)) = api.advertised() else { continue };
        let known = [&of_new, &of_legacy].map(|of| of.api_keys.iter().find(|range| range.api_key == api.key as i16));
        if api.key != ApiKey::ApiVersions {
            let [Some(a), Some(b)] = known else { continue };
            (min, max) = (min.max(a.min_version).max(b.min_version), max.min(a.max_version).min(b.max_version));
        }
        if min <= max {
            expected.push((api.key as i16, min, max));
        }
    }
    let ranges: Vec<_> = advertised.api_keys.iter().map(|range| (range.api_key, range.min_version, range.max_version)).collect();
    assert_eq!(ranges, expected);
    assert!(ranges.contains(&(ApiKey::Metadata as i16, 0, 11)), "2.8 has 11, the table 12, 4.3 13: {ranges:?}");
    for hidden in [ApiKey::OffsetForLeaderEpoch, ApiKey::GetTelemetrySubscriptions, ApiKey::DescribeTopicPartitions, ApiKey::ShareFetch] {
        assert!(!ranges.iter().any(|range| range.0 == hidden as i16), "{hidden:?} is advertised");
    }
    assert!(!of_new.supported_features.is_empty(), "4.3 has features");
    assert!(advertised.supported_features.is_empty() && advertised.finalized_features.is_empty(), "{advertised:?}");
    Ok(advertised)
}

/// `port` is that of node 5.
fn answers_name_virtual_brokers(proxy: &Proxy, port: u16) -> Result<()> {
    let mut client = Raw::connect(proxy.port())?;
    // All versions of Metadata and what else names brokers.
    let virtual_ids = [NODE_IDS + 5, NODE_IDS + 6];
    let address = |node_id: i32| (node_id, "127.0.0.1".to_owned(), i32::from(port) + node_id - NODE_IDS - 5);
    let addresses = virtual_ids.map(address).to_vec();
    for version in 0..=12 {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic("seen")));
        let answer = ask(&mut client, version, "new-1", &MetadataRequest::default().with_topics(Some(vec![wanted])))?;
        let mut brokers: Vec<_> = answer.brokers.iter().map(|broker| (broker.node_id.0, broker.host.to_string(), broker.port)).collect();
        brokers.sort();
        assert_eq!(brokers, addresses, "v{version}");
        assert_eq!(answer.cluster_id.as_deref(), (version >= 2).then_some("kferry"));
        assert!(version < 1 || virtual_ids.contains(&answer.controller_id.0));
        let partitions = &answer.topics[0].partitions;
        assert_eq!((answer.topics[0].error_code, partitions.len()), (0, 4));
        for partition in partitions {
            assert!(virtual_ids.contains(&partition.leader_id.0), "v{version}: {partition:?}");
            assert!(partition.replica_nodes.iter().chain(&partition.isr_nodes).all(|node| virtual_ids.contains(&node.0)), "{partition:?}");
            assert_eq!((partition.replica_nodes.len(), partition.leader_epoch), (2, -1), "v{version}: {partition:?}");
        }
    }
    for version in 0..=6 {
        let group = StrBytes::from_static_str("readers");
        let question = if version < 4 {
            FindCoordinatorRequest::default().with_key(group)
        } else {
            FindCoordinatorRequest::default().with_coordinator_keys(vec![group])
        };
        // The topic of the offsets is only made by the first question.
        until("there is a coordinator", || {
            let answer = ask(&mut client, version, "new-1", &question)?;
            let found = match answer.coordinators.first() {
                Some(found) => (found.error_code, (found.node_id.0, found.host.to_string(), found.port)),
                None => (answer.error_code, (answer.node_id.0, answer.host.to_string(), answer.port)),
            };
            match found {
                (0, found) => ensure!(addresses.contains(&found), "v{version}: {found:?}"),
                // -1 means none, and stays.
                (_, found) => ensure!(found.0 == -1, "v{version}: {found:?}"),
            }
            Ok(found.0 == 0)
        })?;
    }
    for version in 0..=2 {
        let answer = ask(&mut client, version, "new-1", &DescribeClusterRequest::default())?;
        let mut brokers: Vec<_> = answer.brokers.iter().map(|broker| (broker.broker_id.0, broker.host.to_string(), broker.port)).collect();
        brokers.sort();
        assert_eq!((answer.cluster_id.as_str(), brokers), ("kferry", addresses.clone()), "v{version}");
        assert!(virtual_ids.contains(&answer.controller_id.0));
    }
    // Just after its start a broker may not know which producer ids are its own.
    until("there is a producer id", || {
        let answer = ask(&mut client, 4, "new-1", &InitProducerIdRequest::default().with_transactional_id(None))?;
        ensure!(answer.error_code != 0 || answer.producer_id.0 >> 40 == 1, "the cluster's id does not tag the producer's: {answer:?}");
        Ok(answer.error_code == 0)
    })?;
    Ok(())
}

/// As a broker, it leads its own partitions and not the others'.
fn each_port_is_its_broker(new: &Cluster, port: u16) -> Result<()> {
    for (index, partition) in (0..).zip(new.partitions("seen")?) {
        for node_id in [5, 6] {
            let mut at_broker = Raw::connect(port + (node_id - 5) as u16)?;
            let wanted = ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1).with_current_leader_epoch(3);
            let wanted = ListOffsetsTopic::default().with_name(topic("seen")).with_partitions(vec![wanted]);
            let question = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![wanted]);
            let answer = ask(&mut at_broker, 5, "new-1", &question)?;
            let answer = &answer.topics[0].partitions[0];
            // The client's epoch is too high for the broker, but the broker never learns of it.
            let error_code = if node_id == partition.leader { 0 } else { NOT_LEADER_OR_FOLLOWER };
            assert_eq!((answer.error_code, answer.leader_epoch), (error_code, -1), "{partition:?} on {node_id}");
        }
    }
    Ok(())
}

fn what_is_not_advertised(proxy: &Proxy, advertised: &ApiVersionsResponse) -> Result<()> {
    // A client of the future is told what there is, and asks again.
    let mut future = Raw::connect(proxy.port())?;
    let mut question = [&18i16.to_be_bytes()[..], &99i16.to_be_bytes(), &7i32.to_be_bytes(), &5i16.to_be_bytes(), b"new-9"].concat();
    question.extend_from_slice(b"\0what nobody knows yet");
    let mut answer = Bytes::from(future.ask(&raw::frame(&question))?).split_off(4);
    let told = ApiVersionsResponse::decode(&mut answer, 0)?;
    assert_eq!((told.error_code, told.api_keys.len(), answer.len()), (UNSUPPORTED_VERSION, advertised.api_keys.len(), 0));
    assert_eq!(ask(&mut future, 4, "new-9", &api_versions())?.api_keys.len(), advertised.api_keys.len());

    for (api_key, version) in [(ApiKey::DescribeTopicPartitions, 0i16), (ApiKey::OffsetForLeaderEpoch, 4), (ApiKey::Fetch, 13)] {
        let mut client = Raw::connect(proxy.port())?;
        ask(&mut client, 3, "new-2", &api_versions())?;
        let header = [&(api_key as i16).to_be_bytes()[..], &version.to_be_bytes(), &8i32.to_be_bytes(), &5i16.to_be_bytes(), b"new-2\0"];
        client.send(&raw::frame(&header.concat()))?;
        ended(proxy, &mut client, "not_advertised", &format!("it used {api_key:?} v{version}, which is not advertised"))?;
    }
    Ok(())
}

/// A request that names neither a topic nor an id is refused by the broker, and so is the client told.
fn what_names_no_topic(proxy: &Proxy, version: i16, client_id: &str) -> Result<()> {
    let mut client = Raw::connect(proxy.port())?;
    let topic = MetadataRequestTopic::default().with_name(None);
    let refused = ask(&mut client, version, client_id, &MetadataRequest::default().with_topics(Some(vec![topic])))?;
    let errors: Vec<i16> = refused.topics.iter().map(|topic| topic.error_code).collect();
    assert!(refused.brokers.is_empty() && errors.len() == 1 && errors[0] != 0, "{refused:?}");
    assert!(!ask(&mut client, version, client_id, &MetadataRequest::default())?.brokers.is_empty(), "the connection goes on");
    Ok(())
}

/// Counts what was acknowledged.
#[derive(Debug, Default, Clone)]
struct Acks(Arc<Mutex<Acked>>);

#[derive(Debug, Default)]
struct Acked {
    count: usize,
    first_error: Option<KafkaError>,
    last: Option<Instant>,
    /// The longest time without an acknowledgement, since it was set to zero.
    longest_pause: Duration,
}

impl Acks {
    fn lock(&self) -> MutexGuard<'_, Acked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut acked = self.lock();
        match result {
            Ok(_) => acked.count += 1,
            Err((error, _)) => _ = acked.first_error.get_or_insert_with(|| error.clone()),
        }
        if let Some(last) = acked.last.replace(Instant::now()) {
            acked.longest_pause = acked.longest_pause.max(last.elapsed());
        }
    }
}

/// A librdkafka client of a proxy.
fn config(proxy: &Proxy, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", proxy.bootstrap_servers()).set("client.id", client_id);
    config
}

fn producer(config: &mut ClientConfig) -> Result<BaseProducer<Acks>> {
    config.set("message.timeout.ms", LIMIT.as_millis().to_string());
    Ok(config.create_with_context(Acks::default())?)
}

fn send(producer: &BaseProducer<Acks>, topic: &str, partition: i32, payload: &[u8]) -> Result<()> {
    let mut next: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition).payload(payload);
    while let Err((error, again)) = producer.send(next) {
        ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "{topic}: {error}");
        producer.poll(Duration::from_millis(100));
        next = again;
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

/// Sends numbers, in turn to each of the partitions.
fn send_numbers(producer: &BaseProducer<Acks>, topic: &str, partitions: usize, numbers: std::ops::Range<usize>) -> Result<()> {
    numbers.into_iter().try_for_each(|n| send(producer, topic, (n % partitions) as i32, format!("{n:0100}").as_bytes()))
}

/// Numbers by partition, in the order in which they came.
type Numbers = BTreeMap<i32, Vec<usize>>;

/// Reads until `count` numbers are there, and a little longer: more than those would be too many.
fn read_numbers(consumer: &BaseConsumer, count: usize) -> Result<Numbers> {
    let (mut numbers, mut read) = (Numbers::new(), 0);
    let deadline = Instant::now() + LIMIT;
    loop {
        ensure!(Instant::now() < deadline, "{read} of {count} records within {LIMIT:?}");
        let patience = if read < count { Duration::from_secs(1) } else { Duration::from_millis(300) };
        match consumer.poll(patience) {
            Some(Ok(message)) => {
                let number = str::from_utf8(message.payload().context("no payload")?)?.parse()?;
                numbers.entry(message.partition()).or_default().push(number);
                read += 1;
            }
            None if read >= count => return Ok(numbers),
            // Neither is an end: a rebalance, a broker that is away.
            None
            | Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown))) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

/// What [`send_numbers`] sent, as it is to be read.
fn sent_numbers(partitions: usize, numbers: std::ops::Range<usize>) -> Numbers {
    let mut sent = Numbers::new();
    for n in numbers {
        sent.entry((n % partitions) as i32).or_default().push(n);
    }
    sent
}

/// All there, once, in order; says where it is not.
fn assert_numbers(read: &Numbers, sent: &Numbers) {
    for (partition, sent) in sent {
        let read = read.get(partition).map_or(&[][..], Vec::as_slice);
        if let Some(at) = (0..sent.len().max(read.len())).find(|&at| sent.get(at) != read.get(at)) {
            let near = |numbers: &[usize]| numbers.iter().skip(at.saturating_sub(2)).take(6).copied().collect::<Vec<_>>();
            panic!("partition {partition}, record {at} of {}: read {:?}, sent {:?}", sent.len(), near(read), near(sent));
        }
    }
    assert_eq!(read.len(), sent.len());
}

#[test]
fn producers_transactions_groups_and_large_records_go_through() -> Result<()> {
    let cluster = Cluster::version("4.3.0").name("through").heap_mib(768).start()?;
    let routes = Routes::new()?
        .kafka("new", &cluster, Listener::Plaintext, None)?
        .relay("small", "small-*", "new", "")
        .relay("large", "large-*", "new", "")
        .relay("forget", "forget-*", "new", "");
    let proxy = Proxy::start(&routes)?;
    transactions_and_groups(&cluster, &proxy)?;
    acks_0(&cluster, &proxy)?;
    what_names_no_topic(&proxy, 12, "small-3")?;
    large_records(&cluster, &proxy, first_port(&routes, "1-1")?)
}

/// Waits until all of a route's connections have ended, then what they moved is in the metrics.
fn moved(proxy: &Proxy, route: &str) -> Result<(u64, u64)> {
    until("all connections have ended", || Ok(proxy.metric("kferry_proxy_connections", &[])? < 1.0))?;
    let bytes = |direction: &str| proxy.metric(&format!("kferry_proxy_{direction}_bytes_total"), &[("route", route)]);
    Ok((bytes("request")? as u64, bytes("response")? as u64))
}

fn transactions_and_groups(cluster: &Cluster, proxy: &Proxy) -> Result<()> {
    const PARTITIONS: usize = 3;
    cluster.create_topic("numbers", PARTITIONS as i32, &[])?;
    let idempotent = producer(config(proxy, "small-idempotent").set("enable.idempotence", "true"))?;
    send_numbers(&idempotent, "numbers", PARTITIONS, 0..10_000)?;
    idempotent.flush(LIMIT)?;
    assert_eq!(idempotent.context().lock().count, 10_000);
    drop(idempotent);

    let timeout = LIMIT.as_millis().to_string();
    let transactional =
        producer(config(proxy, "small-transactional").set("transactional.id", "mover").set("transaction.timeout.ms", timeout))?;
    transactional.init_transactions(LIMIT)?;
    for (numbers, commit) in [(10_000..12_000, true), (0..500, false), (12_000..14_000, true)] {
        transactional.begin_transaction()?;
        send_numbers(&transactional, "numbers", PARTITIONS, numbers)?;
        transactional.flush(LIMIT)?;
        if commit {
            transactional.commit_transaction(LIMIT)?;
        } else {
            transactional.abort_transaction(LIMIT)?;
        }
    }
    let sent = sent_numbers(PARTITIONS, 0..14_000);
    for protocol in ["classic", "consumer"] {
        let mut config = config(proxy, &format!("small-{protocol}"));
        config.set("group.protocol", protocol).set("group.id", protocol).set("auto.offset.reset", "earliest");
        config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&["numbers"])?;
        assert_numbers(&read_numbers(&consumer, 14_000)?, &sent);

        // Offsets that are part of a transaction.
        transactional.begin_transaction()?;
        let group = consumer.group_metadata().context("a member has metadata")?;
        transactional.send_offsets_to_transaction(&consumer.position()?, &group, LIMIT)?;
        transactional.commit_transaction(LIMIT)?;
        let expected = (0..PARTITIONS as i32).map(|partition| (("numbers".to_owned(), partition), consumer_position(&consumer, partition)));
        let expected: BTreeMap<_, _> = expected.collect();
        // EndTxn is answered before its marker has landed in __consumer_offsets.
        until("the transaction's offsets are committed", || Ok(cluster.committed_offsets(protocol)? == expected))?;
    }
    drop(transactional);

    let (requests, responses) = moved(proxy, "small")?;
    assert!(requests >= 14_500 * 100 && responses >= 2 * 14_000 * 100, "{requests} and {responses} bytes: not all went through the proxy");
    Ok(())
}

fn consumer_position(consumer: &BaseConsumer, partition: i32) -> i64 {
    let positions = consumer.position().expect("an assigned consumer has positions");
    positions.find_partition("numbers", partition).and_then(|position| position.offset().to_raw()).unwrap_or(-1)
}

fn acks_0(cluster: &Cluster, proxy: &Proxy) -> Result<()> {
    cluster.create_topic("forgotten", 1, &[])?;
    // Small batches, so that there are many requests in flight without an answer.
    let mut config = config(proxy, "forget-1");
    config.set("acks", "0").set("batch.num.messages", "20").set("linger.ms", "0");
    let producer = producer(&mut config)?;
    send_numbers(&producer, "forgotten", 1, 0..10_000)?;
    producer.flush(LIMIT)?;
    until("all records have arrived", || Ok(cluster.log_ends("forgotten")?[0] == 10_000))?;
    let read = cluster.read_all("forgotten")?;
    let numbers: Result<Vec<usize>> =
        read.iter().map(|record| Ok(str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?)).collect();
    assert_numbers(&Numbers::from([(0, numbers?)]), &sent_numbers(1, 0..10_000));
    drop(producer);
    let (requests, _) = moved(proxy, "forget")?;
    assert!(requests > 10_000 * 100, "{requests} bytes");
    Ok(())
}

/// The most memory that the proxy ever had in RAM, in bytes.
fn peak_memory(proxy: &Proxy) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.id()))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("no VmHWM")? * 1024)
}

fn large_records(cluster: &Cluster, proxy: &Proxy, broker_port: u16) -> Result<()> {
    const SIZE: usize = 90 << 20;
    cluster.create_topic("large", 1, &[("max.message.bytes", "100000000")])?;
    let record: Vec<u8> = (0..SIZE as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let before = proxy.resident_memory()?;

    let mut to = config(proxy, "large-producer");
    let producer = producer(to.set("message.max.bytes", "100000000"))?;
    send(&producer, "large", 0, &record)?;
    producer.flush(LIMIT)?;
    let first_error = producer.context().lock().first_error.take();
    ensure!(first_error.is_none(), "{first_error:?}");
    drop(producer);

    let mut from = config(proxy, "large-consumer");
    from.set("group.id", "large").set("receive.message.max.bytes", "120000000").set("check.crcs", "true");
    from.set("fetch.max.bytes", "110000000").set("max.partition.fetch.bytes", "100000000");
    let consumer: BaseConsumer = from.create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset("large", 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let message = consumer.poll(LIMIT).context("nothing came")??;
    assert!(message.payload() == Some(&record[..]), "other bytes came");
    drop(message);
    drop(consumer);
    let grown = peak_memory(proxy)?.saturating_sub(before);
    assert!(grown < 20 * MIB, "the proxy grew by {grown} bytes");

    // One that asks and then reads nothing: the bytes wait at the broker, not in the proxy.
    let mut lazy: Vec<Raw> = (0..8).map(|_| Raw::connect(broker_port)).collect::<Result<_>>()?;
    let wanted = FetchPartition::default().with_partition_max_bytes(100_000_000);
    let wanted = FetchTopic::default().with_topic(topic("large")).with_partitions(vec![wanted]);
    let question =
        FetchRequest::default().with_replica_id((-1).into()).with_max_bytes(100_000_000).with_max_wait_ms(500).with_topics(vec![wanted]);
    for client in &mut lazy {
        client.send(&request(11, 5, "large-lazy", &question)?)?;
    }
    thread::sleep(Duration::from_millis(1500));
    let grown = peak_memory(proxy)?.saturating_sub(before);
    assert!(grown < 20 * MIB, "the proxy grew by {grown} bytes");
    // What waited is whole: the value is near the end of the batch, behind nothing but its header count.
    let first = &mut lazy[0];
    let mut size = [0; 4];
    read_exactly(first, &mut size)?;
    let mut answer = vec![0; i32::from_be_bytes(size) as usize];
    read_exactly(first, &mut answer)?;
    assert!(answer.len() > SIZE && answer[answer.len() - 1 - SIZE..answer.len() - 1] == record, "other bytes came");
    drop(lazy);

    let (requests, responses) = moved(proxy, "large")?;
    assert!(requests as usize > SIZE && responses as usize > 2 * SIZE, "{requests} and {responses} bytes");
    // The kernel moved them, as far as it had pipes for us.
    let ways = |way| proxy.metric("kferry_proxy_body_bytes_total", &[("way", way)]);
    let (spliced, copied) = (ways("spliced")?, ways("copied")?);
    assert!((spliced + copied) as usize > 3 * SIZE && ways("tls")? < 1.0, "{spliced} spliced, {copied} copied");
    assert!(proxy.metric("kferry_proxy_pipes_in_use", &[])? < 1.0 && proxy.metric("kferry_proxy_pipes_limit", &[])? > 63.0);
    Ok(())
}

fn read_exactly(client: &mut Raw, buf: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < buf.len() {
        match client.read(&mut buf[at..])? {
            0 => bail!("the connection ended after {at} of {} bytes", buf.len()),
            read => at += read,
        }
    }
    Ok(())
}

#[test]
fn nothing_is_lost_twice_or_out_of_order_when_brokers_and_the_proxy_fail() -> Result<()> {
    const PARTITIONS: usize = 3;
    let cluster = Cluster::version("4.3.0").name("failing").brokers(3).set("min.insync.replicas", "2").start()?;
    cluster.create_topic("steady", PARTITIONS as i32, &[])?;
    let routes = Routes::new()?.kafka("new", &cluster, Listener::Plaintext, None)?.relay("steady", "steady-*", "new", "");
    let mut proxy = Proxy::start(&routes)?;
    let steady = |client_id: &str| {
        let mut config = config(&proxy, client_id);
        // Defaults for networks are 10 to 60 s until somebody silent is left alone.
        config.set("socket.timeout.ms", "3000").set("api.version.request.timeout.ms", "3000").set("reconnect.backoff.max.ms", "500");
        config.set("topic.metadata.refresh.interval.ms", "1000");
        config
    };
    let producer = producer(steady("steady-producer").set("enable.idempotence", "true").set("linger.ms", "1"))?;
    let consumer: BaseConsumer = steady("steady-consumer").set("group.id", "none").set("auto.offset.reset", "error").create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS as i32 {
        assignment.add_partition_offset("steady", partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;

    let stop = AtomicBool::new(false);
    let all_sent = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    let acks = producer.context().clone();
    let (sent, read) = thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| -> Result<usize> {
            let mut sent = 0;
            let mut result = Ok(());
            while result.is_ok() && !stop.load(Ordering::Relaxed) {
                result = send_numbers(&producer, "steady", PARTITIONS, sent..sent + 10);
                sent += 10;
                producer.poll(Duration::from_millis(5));
            }
            let flushed = producer.flush(LIMIT);
            all_sent.store(true, Ordering::Relaxed);
            result?;
            flushed?;
            Ok(sent)
        });
        let reading = scope.spawn(|| keep_reading(&consumer, &reads, &all_sent));
        let told = |what: &str| {
            let pause = std::mem::take(&mut acks.lock().longest_pause);
            println!("{what}: longest pause of acknowledgements {pause:?}");
        };
        // Both go on, through whatever is as it is now.
        let goes_on = || {
            let before = (acks.lock().count, reads.load(Ordering::Relaxed));
            until("producer and consumer go on", || {
                let now = (acks.lock().count, reads.load(Ordering::Relaxed));
                Ok(now.0 > before.0 + 500 && now.1 > before.1 + 500)
            })
        };
        let fail = || -> Result<()> {
            // The first ones waited for their connection.
            goes_on()?;
            goes_on()?;
            told("nothing fails");
            cluster.kill(2)?;
            goes_on()?;
            cluster.restart(2)?;
            goes_on()?;
            told("broker 2 killed and restarted");
            cluster.freeze(3)?;
            goes_on()?;
            thread::sleep(Duration::from_secs(5));
            goes_on()?;
            cluster.thaw(3)?;
            goes_on()?;
            told("broker 3 frozen and thawed");
            for _ in 0..2 {
                proxy.signal(Signal::KILL)?;
                proxy.wait()?;
                let config = proxy.config().to_owned();
                proxy = Proxy::start_with(&routes, &config, &[])?;
                goes_on()?;
                told("the proxy killed and restarted");
            }
            Ok(())
        };
        let failed = { fail }();
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().map_err(|_| anyhow!("the sender panicked"));
        let read = reading.join().map_err(|_| anyhow!("the reader panicked"));
        failed.with_context(|| proxy.log_text())?;
        Ok((sent??, read??))
    })?;
    let acked = acks.lock();
    assert!(acked.count == sent && acked.first_error.is_none(), "{acked:?} of {sent}");
    assert_numbers(&read, &sent_numbers(PARTITIONS, 0..sent));
    Ok(())
}

/// Reads until all was sent and nothing more comes.
fn keep_reading(consumer: &BaseConsumer, reads: &AtomicUsize, all_sent: &AtomicBool) -> Result<Numbers> {
    let mut numbers = Numbers::new();
    let mut quiet_since = Instant::now();
    // What is missing when all was acknowledged comes at once, or never.
    while !(all_sent.load(Ordering::Relaxed) && quiet_since.elapsed() > Duration::from_secs(5)) {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let number = str::from_utf8(message.payload().context("no payload")?)?.parse()?;
                numbers.entry(message.partition()).or_default().push(number);
                reads.fetch_add(1, Ordering::Relaxed);
                quiet_since = Instant::now();
            }
            // What librdkafka tells of brokers that are away, while it goes on.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve,
            )))
            | None => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(numbers)
}

/// A proxy whose one cluster is a fake broker, with the virtual brokers 1 to 3.
fn in_front_of(broker: &FakeBroker) -> Result<Routes> {
    let ports = ports::take(3)?;
    let lines = format!("node_ids = \"1-3\"\nbroker_ports = \"{}-{}\"\n", ports.start, ports.end - 1);
    Ok(Routes::new()?.cluster_with("fake", &broker.address(), &lines).relay("all", "*", "fake", ""))
}

#[test]
fn a_node_id_outside_of_the_file_is_a_clear_error() -> Result<()> {
    let broker = FakeBroker::start()?;
    let itself = |node_id| (node_id, "127.0.0.1".to_owned(), broker.port());
    broker.answers(Answers { brokers: Some(vec![itself(1), itself(7)]), ..Answers::default() });
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::api_versions(1, Some("c")))?;
    client.send(&raw::metadata(2, Some("c")))?;
    let detail = "Metadata v1: node 7 is outside the node_ids of its cluster; widen node_ids and broker_ports in routes.toml";
    ended(&proxy, &mut client, "not_rewritten", detail)?;
    assert_eq!(proxy.closed_count("not_rewritten")?, 1);
    // The proxy has seen it by itself as well.
    until("the metric counts it", || Ok(proxy.metric("kferry_proxy_node_ids_outside_total", &[("cluster", "fake")])? >= 1.0))?;
    let line = proxy.log()?.into_iter().find(|line| line["node_id"] == 7 && line["level"] == "ERROR").context("no such line")?;
    assert_eq!(line["cluster"], "fake");

    // The others of the cluster are as before once it is gone.
    broker.answers(Answers { brokers: Some(vec![itself(1)]), ..Answers::default() });
    let mut client = Raw::connect(proxy.port())?;
    assert_eq!(ask(&mut client, 1, "c", &MetadataRequest::default())?.brokers[0].node_id.0, NODE_IDS + 1);
    Ok(())
}

/// librdkafka would forget its brokers, those of `bootstrap.servers` too, and never come back.
#[test]
fn no_client_is_told_that_there_are_no_brokers() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::metadata(1, Some("c")))?;
    broker.answers(Answers { brokers: Some(Vec::new()), ..Answers::default() });
    client.send(&raw::metadata(2, Some("c")))?;
    ended(
        &proxy,
        &mut client,
        "no_brokers",
        "the broker told of no brokers, as one does that has just started: the client will ask another",
    )?;
    let warned = |line: &serde_json::Value| line["message"].as_str().is_some_and(|message| message.contains("knows no brokers yet"));
    until("the proxy says that it was told of none either", || Ok(proxy.log()?.iter().any(warned)))?;

    // What it knew before is still true.
    broker.answers(Answers::default());
    let mut client = Raw::connect(proxy.port())?;
    assert_eq!(ask(&mut client, 1, "c", &MetadataRequest::default())?.brokers[0].node_id.0, NODE_IDS + 1);
    Ok(())
}

#[test]
fn answers_come_in_the_order_of_the_requests_whoever_gives_them() -> Result<()> {
    const REQUESTS: i32 = 3000;
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::metadata(-1, Some("c")))?;
    // More than may be in flight; the proxy's own answers are there long before the broker's.
    broker.on_request(&[Step::Wait(Duration::from_micros(100)), Step::Answer]);
    let all: Vec<u8> =
        (0..REQUESTS).flat_map(|n| if n % 7 == 3 { raw::api_versions(n, Some("c")) } else { raw::metadata(n, Some("c")) }).collect();
    client.send(&all)?;
    for n in 0..REQUESTS {
        let answer = client.frame()?;
        assert_eq!(answer[..4], n.to_be_bytes());
        let mut body = Bytes::from(answer).split_off(4);
        if n % 7 == 3 {
            assert!(!ApiVersionsResponse::decode(&mut body, 3)?.api_keys.is_empty());
        } else {
            let answer = MetadataResponse::decode(&mut body, 1)?;
            assert_eq!(answer.brokers[0].node_id.0, NODE_IDS + 1);
        }
    }
    // A client that has said all it will still gets its answers.
    broker.on_request(&[Step::Wait(Duration::from_millis(20)), Step::Answer]);
    let all: Vec<u8> = (0..5).flat_map(|n| raw::metadata(n, Some("c"))).collect();
    client.send(&all)?;
    client.half_close()?;
    for n in 0..5i32 {
        assert_eq!(client.frame()?[..4], n.to_be_bytes());
    }
    ended(&proxy, &mut client, "client_closed", "")
}

#[test]
fn a_relayed_connection_that_is_busy_for_too_long_is_cut_and_says_so() -> Result<()> {
    let broker = FakeBroker::start()?;
    let mut proxy = Proxy::start(&in_front_of(&broker)?.limit("drain_timeout_ms", 800))?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::metadata(1, Some("c")))?;
    broker.on_request(&[Step::Wait(Duration::from_secs(5)), Step::Answer]);
    client.send(&raw::metadata(2, Some("c")))?;
    thread::sleep(Duration::from_millis(200));
    let told = Instant::now();
    proxy.stop()?;
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    ended(&proxy, &mut client, "cut", "kferry-proxy ended: limits.drain_timeout_ms was over")?;
    let line = proxy.closed(&client)?;
    let requests = 2 * raw::metadata(1, Some("c")).len();
    assert!(line["request_bytes"] == requests && line["response_bytes"].as_u64() > Some(20), "{line}");
    Ok(())
}

/// What it is, a request, what the broker does with it, and the cause and the detail of the end.
type Broken<'a> = (&'static str, &'a [u8], &'a [Step], &'a str, &'a str);

#[test]
fn broken_answers_and_garbage_end_their_connection_and_no_other() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    let enter = |client_id: &str| -> Result<Raw> {
        broker.on_request(&[Step::Answer]);
        let mut client = Raw::connect(proxy.port())?;
        client.ask(&raw::api_versions(1, Some(client_id)))?;
        client.ask(&raw::metadata(2, Some(client_id)))?;
        Ok(client)
    };
    let mut unharmed = enter("unharmed")?;
    let frame = |bytes: &[u8]| Step::Send(raw::frame(bytes));
    let metadata = raw::metadata(3, Some("c"));
    let sasl = request(1, 3, "c", &SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN")))?;
    let one = raw::frame(&Raw::connect(broker.port())?.ask(&metadata)?);
    let two = [one, raw::frame(b"\0\0\0\x03\0\0\0\0")].concat();
    let nobody_asked = "nobody asked";
    let pause = Step::Wait(Duration::from_millis(100));

    let answers: [Broken<'_>; 11] = [
        ("wrong correlation id, rewritten", &metadata, &[frame(b"\0\0\0\x09\0\0\0\0")], "wrong_answer", "not the one to Metadata"),
        ("wrong correlation id, passed", &sasl, &[frame(b"\0\0\0\x09\0\0\0\0")], "wrong_answer", "not the one to SaslHandshake"),
        ("no correlation id", &metadata, &[Step::Send(vec![0, 0, 0, 2, 0, 0, 0, 0])], "wrong_answer", "Metadata"),
        ("a negative size", &metadata, &[Step::Send(vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3])], "wrong_answer", "Metadata"),
        // 2 GiB are announced: they are not waited for in memory.
        ("too large to be rewritten", &metadata, &[Step::Send(vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 3])], "wrong_answer", "Metadata"),
        ("no valid message", &metadata, &[frame(b"\0\0\0\x03\x7f\xff\xff\xff")], "not_rewritten", "Metadata v1 is no valid message"),
        ("cut in its header", &metadata, &[Step::Cut(6), Step::Close], "broker_closed", ""),
        ("cut, rewritten", &metadata, &[Step::Cut(12), Step::Close], "broker_error", ""),
        ("cut, passed", &sasl, &[Step::Cut(12), Step::Close], "broker_error", ""),
        ("one too many, later", &metadata, &[Step::Answer, pause, frame(b"\0\0\0\x03\0\0\0\0")], "broker_error", nobody_asked),
        ("one too many, at once", &metadata, &[Step::Send(two)], "broker_error", nobody_asked),
    ];
    for (what, question, steps, cause, detail) in answers {
        let mut client = enter("c")?;
        broker.on_request(steps);
        client.send(question)?;
        ended(&proxy, &mut client, cause, detail).context(what)?;
    }

    let garbage: [(&[u8], &str, &str); 5] = [
        (b"\xde\xad\xbe\xef, and more garbage", "not_kafka", "its frame would have -559038737 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_kafka", "its frame would have 1195725856 bytes"),
        (b"\0\0\0\x04\0\x03\0\x01", "not_kafka", "a frame of 4 bytes is too short"),
        (b"\0\0\0\x0a\x30\x39\0\0\0\0\0\x07\xff\xff", "not_advertised", "it used API 12345 v0"),
        // A Produce that ends before its acks.
        (b"\0\0\0\x0a\0\0\0\x07\0\0\0\x07\xff\xff", "not_kafka", "too short"),
    ];
    for (bytes, cause, detail) in garbage {
        let mut client = enter("c")?;
        client.send(bytes)?;
        ended(&proxy, &mut client, cause, detail).with_context(|| format!("{bytes:?}"))?;
    }
    // What was asked before the garbage is answered, as by a broker.
    broker.on_request(&[Step::Wait(Duration::from_millis(300)), Step::Answer]);
    for (bytes, cause, detail) in garbage {
        let mut client = Raw::connect(proxy.port())?;
        client.send(&[&raw::metadata(1, Some("c")), &raw::metadata(2, Some("c")), bytes].concat())?;
        for n in [1i32, 2] {
            let answer = client.frame().with_context(|| format!("the answer to {n} before {bytes:?}"))?;
            assert_eq!(answer[..4], n.to_be_bytes());
        }
        ended(&proxy, &mut client, cause, detail).with_context(|| format!("after good ones: {bytes:?}"))?;
    }

    broker.on_request(&[Step::Answer]);
    unharmed.ask(&raw::metadata(9, Some("unharmed")))?;
    Ok(())
}

#[test]
fn a_plaintext_client_acts_as_the_user_of_its_route() -> Result<()> {
    let cluster = Cluster::version("4.3.0").name("guarded").listen(Listener::SaslSsl).acls().start()?;
    for name in ["alices", "others"] {
        cluster.create_topic(name, 1, &[])?;
    }
    let alices = || Resource::Topic("alices".to_owned());
    cluster.add_acls(&[
        Acl::allow(ALICE.name, Operation::Write, alices()),
        Acl::allow(ALICE.name, Operation::Read, alices()),
        Acl::allow(ALICE.name, Operation::Describe, Resource::Topic("others".to_owned())),
    ])?;
    let credentials = format!(
        "client_address = \"127.0.0.1\"\n[routes.credentials.secure]\nsasl_mechanism = \"SCRAM-SHA-512\"\n\
         sasl_username = \"{}\"\nsasl_password = \"{}\"\n",
        ALICE.name, ALICE.password
    );
    let routes = Routes::new()?
        .kafka("secure", &cluster, Listener::SaslSsl, Some(ADMIN))?
        .relay("orders", "orders-*", "secure", &credentials)
        .relay("bare", "bare-*", "secure", "");
    let proxy = Proxy::start(&routes)?;

    let result = |client_id: &str, topic: &str| -> Result<Option<RDKafkaErrorCode>> {
        let mut config = config(&proxy, client_id);
        let producer: BaseProducer<Acks> = config.set("message.timeout.ms", "5000").create_with_context(Acks::default())?;
        send(&producer, topic, 0, b"by whom?")?;
        producer.flush(LIMIT)?;
        let acked = producer.context().lock();
        Ok(acked.first_error.as_ref().and_then(KafkaError::rdkafka_error_code))
    };
    assert_eq!(result("orders-1", "alices")?, None);
    assert_eq!(result("orders-1", "others")?, Some(RDKafkaErrorCode::TopicAuthorizationFailed));
    // Without credentials nobody is let in, and nothing of kferry's own login is lent.
    assert_eq!(result("bare-1", "alices")?, Some(RDKafkaErrorCode::MessageTimedOut));
    assert_eq!((cluster.record_count("alices")?, cluster.record_count("others")?), (1, 0));

    // A login is not on offer where the proxy has done it.
    let mut client = Raw::connect(proxy.port())?;
    let advertised = ask(&mut client, 3, "orders-2", &api_versions())?;
    let sasl = [ApiKey::SaslHandshake as i16, ApiKey::SaslAuthenticate as i16];
    assert!(!advertised.api_keys.iter().any(|range| sasl.contains(&range.api_key)));
    assert!(!proxy.log_text().contains(ALICE.password) && !proxy.metrics()?.contains(ALICE.password));
    Ok(())
}
