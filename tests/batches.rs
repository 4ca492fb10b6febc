//! Record batches of real brokers and clients: read record by record, and taken to another cluster with a new header.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use harness::LIMIT;
use harness::kafka::{Cluster, Listener, Record};
use harness::raw::until;
use harness::scenario::Pair;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use kferry_config::{HostPort, Security};
use kferry_wire::batch::{self, Batch, Codec, Entry, Marker, Sequence, TimestampType};
use kferry_wire::connection::{ConnectOptions, Connection};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::runtime::Runtime;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
/// No broker gives out such an id.
const PRODUCER_ID: i64 = (1 << 62) + 1;
const MAX_BYTES: usize = 16 << 20;

/// One pair of clusters for all of it: starting them takes longer than the rest.
static CLUSTERS: Pair = Pair::new(|| {
    // The cleaner looks each 15 s otherwise.
    [Cluster::version("2.8.2").name("old"), Cluster::version("4.3.0").name("new").set("log.cleaner.backoff.ms", "100")]
});

#[test]
fn what_clients_and_brokers_write_is_read_and_arrives_on_another_cluster() -> Result<()> {
    let (old, new) = CLUSTERS.started()?;
    for (source, target) in [(old, new), (new, old)] {
        let (from, to) = (Broker::of(source)?, Broker::of(target)?);
        for codec in CODECS {
            let name = codec.to_string();
            // What librdkafka compresses, and what the broker does with Java's libraries.
            for (topic, settings, config) in [
                (format!("rdkafka-{codec}"), [("compression.type", name.as_str())], ("compression.type", "producer")),
                (format!("java-{codec}"), [("compression.type", "none")], ("compression.type", compression(codec))),
            ] {
                source.create_topic(&topic, 1, &[config, ("retention.ms", "-1")])?;
                let sent = produced(true);
                source.produce_with(&topic, &sent, &settings)?;
                let entries = from.fetch(&topic)?;
                for entry in &entries {
                    let batch = batch_of(entry)?;
                    assert_eq!((batch.codec()?, batch.is_dense(), batch.timestamp_type()), (codec, true, TimestampType::CreateTime));
                }
                assert_eq!(seen(&entries)?, sent, "{topic}");

                let copy = format!("{topic}-rewritten");
                target.create_topic(&copy, 1, &[("retention.ms", "-1")])?;
                to.append_rewritten(&copy, &entries)?;
                assert_eq!(target.read_all(&copy)?, sent, "{copy}");
                let copied = to.fetch(&copy)?;
                for (copied, original) in copied.iter().zip(&entries) {
                    let (copied, original) = (batch_of(copied)?, batch_of(original)?);
                    assert_eq!((copied.producer_id(), copied.base_offset()), (PRODUCER_ID, original.base_offset()));
                    assert_eq!(copied.bytes()[61..], original.bytes()[61..]);
                }
                assert_eq!(copied.len(), entries.len());
            }
            // What kferry compresses: the broker opens it to validate it, the consumer reads it.
            let copy = format!("encoded-{codec}");
            target.create_topic(&copy, 1, &[("retention.ms", "-1")])?;
            to.append_encoded(&copy, &from.fetch("rdkafka-none")?, codec)?;
            assert_eq!(target.read_all(&copy)?, produced(true), "{copy}");
        }
    }
    Ok(())
}

#[test]
fn the_broker_s_time_arrives_by_the_deep_path() -> Result<()> {
    let (old, new) = CLUSTERS.started()?;
    for (source, target) in [(old, new), (new, old)] {
        let (from, to) = (Broker::of(source)?, Broker::of(target)?);
        source.create_topic("by-broker", 1, &[("message.timestamp.type", "LogAppendTime")])?;
        source.produce_with("by-broker", &produced(true), &[("compression.type", "zstd")])?;
        let entries = from.fetch("by-broker")?;
        for entry in &entries {
            assert_eq!(batch_of(entry)?.timestamp_type(), TimestampType::LogAppendTime);
        }
        let read = source.read_all("by-broker")?;
        assert_eq!(seen(&entries)?, read);
        target.create_topic("by-broker-copy", 1, &[])?;
        to.append_encoded("by-broker-copy", &entries, Codec::Zstd)?;
        assert_eq!(target.read_all("by-broker-copy")?, read);
        // With a new header alone: its sequence is the next, or the broker would take it for a batch that it has.
        let (end, mut out) = (read.len() as i64, BytesMut::new());
        batch_of(&entries[0])?.rewrite(sequence(end), &mut out);
        let appended = to.append("by-broker-copy", out.freeze());
        if target.kafka_version() == "2.8.2" {
            let refused = format!("{:#}", appended.unwrap_err());
            assert!(refused.contains("InvalidTimestamp"), "{refused}");
        } else {
            // 4.x takes it and clears the bit: what comes out are the producer's times.
            assert_eq!(appended?, end);
            let copied: Vec<_> = target.read_all("by-broker-copy")?[read.len()..].iter().map(|record| record.timestamp).collect();
            let sent: Vec<_> = produced(true)[..copied.len()].iter().map(|record| record.timestamp).collect();
            assert!(!copied.is_empty() && copied == sent, "{copied:?} {sent:?}");
        }
    }
    Ok(())
}

#[test]
fn transactions_leave_markers_and_their_batches_arrive_as_plain_ones() -> Result<()> {
    let (old, new) = CLUSTERS.started()?;
    for (source, target) in [(old, new), (new, old)] {
        let (from, to) = (Broker::of(source)?, Broker::of(target)?);
        source.create_topic("payments", 1, &[])?;
        let producer: BaseProducer = source.client_config(Listener::Plaintext)?.set("transactional.id", "payments").create()?;
        producer.init_transactions(LIMIT)?;
        for (value, committed) in [("kept", true), ("dropped", false)] {
            producer.begin_transaction()?;
            producer.send(BaseRecord::<(), str>::to("payments").payload(value)).map_err(|(error, _)| error)?;
            producer.flush(LIMIT)?;
            if committed { producer.commit_transaction(LIMIT)? } else { producer.abort_transaction(LIMIT)? }
        }
        let entries = from.fetch("payments")?;
        let mut markers = Vec::new();
        let mut data = Vec::new();
        for entry in entries {
            let batch = batch_of(&entry)?;
            assert!(batch.is_transactional());
            markers.push(batch.marker()?);
            if !batch.is_control() {
                data.push(entry);
            }
        }
        assert_eq!(markers, [None, Some(Marker::Commit), None, Some(Marker::Abort)]);
        target.create_topic("payments-copy", 1, &[])?;
        to.append_rewritten("payments-copy", &data)?;
        let values: Vec<_> = target.read_all("payments-copy")?.into_iter().filter_map(|record| record.value).collect();
        assert_eq!(values, [b"kept".to_vec(), b"dropped".to_vec()]);
    }
    Ok(())
}

/// KIP-534: once a cleaner has seen a tombstone, the base timestamp holds the delete horizon.
#[test]
fn a_delete_horizon_changes_no_timestamp() -> Result<()> {
    let (old, new) = CLUSTERS.started()?;
    let from = Broker::of(new)?;
    let config = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.001"), ("segment.ms", "60000")];
    for codec in [Codec::None, Codec::Lz4] {
        let topic = format!("states-{codec}");
        new.create_topic(&topic, 1, &config)?;
        let mut sent: Vec<_> = (0..20)
            .map(|n: i64| Record {
                timestamp: Some(1_600_000_000_000 + n * 1_000 % 7_000),
                value: (n % 2 == 0).then(|| format!("value {n}").into_bytes()),
                ..at(n, format!("key {n}"))
            })
            .collect();
        new.produce_with(&topic, &sent, &[("compression.type", &codec.to_string())])?;
        // A later record closes the segment: only closed ones are cleaned.
        let closing = Record { timestamp: Some(1_600_100_000_000), ..at(20, "closing") };
        new.produce_with(&topic, std::slice::from_ref(&closing), &[])?;
        sent.push(closing);

        let deadline = Instant::now() + LIMIT;
        let entries = loop {
            let entries = from.fetch(&topic)?;
            if batch_of(&entries[0])?.has_delete_horizon() {
                break entries;
            }
            ensure!(Instant::now() < deadline, "the cleaner did not come within {LIMIT:?}");
            thread::sleep(Duration::from_millis(200));
        };
        let cleaned = batch_of(&entries[0])?;
        // It is a day from now: far from every record's time.
        assert!(cleaned.base_timestamp() > cleaned.max_timestamp() && cleaned.is_dense());
        assert_eq!(seen(&entries)?, sent);
        for (cluster, copy) in [(old, topic.clone()), (new, format!("{topic}-copy"))] {
            let to = Broker::of(cluster)?;
            cluster.create_topic(&copy, 1, &[("retention.ms", "-1")])?;
            to.append_rewritten(&copy, &entries)?;
            assert_eq!(cluster.read_all(&copy)?, sent);
            assert!(!batch_of(&to.fetch(&copy)?[0])?.has_delete_horizon());
        }
    }
    Ok(())
}

#[test]
fn messages_from_before_kafka_0_11_arrive_by_the_deep_path() -> Result<()> {
    let (old, new) = CLUSTERS.started()?;
    let (from, to) = (Broker::of(old)?, Broker::of(new)?);
    for (magic, version) in [(0, "0.9.0"), (1, "0.10.0")] {
        for time in ["CreateTime", "LogAppendTime"] {
            for codec in &CODECS[..4] {
                let topic = format!("magic-{magic}-{time}-{codec}");
                let config = [("message.format.version", version), ("message.timestamp.type", time), ("retention.ms", "-1")];
                old.create_topic(&topic, 1, &config)?;
                let settings = [("compression.type", &*codec.to_string()), ("enable.idempotence", "false"), ("linger.ms", "50")];
                old.produce_with(&topic, &produced(false), &settings)?;
                let entries = from.fetch(&topic)?;
                for entry in &entries {
                    let Entry::Old(old) = entry else { anyhow::bail!("{topic}: {entry:?}") };
                    assert_eq!((old.magic(), old.codec()?), (magic, *codec));
                }
                let records = seen(&entries)?;
                let without_time = |records: &[Record]| records.iter().map(|r| Record { timestamp: None, ..r.clone() }).collect::<Vec<_>>();
                assert_eq!(without_time(&records), without_time(&produced(false)), "{topic}");
                match (magic, time) {
                    (0, _) => assert!(records.iter().all(|record| record.timestamp.is_none())),
                    (_, "CreateTime") => assert_eq!(records, produced(false)),
                    // Today, and not 2020.
                    _ => assert!(records.iter().all(|record| record.timestamp > Some(1_700_000_000_000))),
                }
                new.create_topic(&topic, 1, &[("retention.ms", "-1")])?;
                to.append_encoded(&topic, &entries, *codec)?;
                assert_eq!(new.read_all(&topic)?, records, "{topic}");
                if *codec == Codec::Gzip {
                    let times: Vec<_> = records.iter().map(|record| (record.timestamp, record.offset)).collect();
                    assert_eq!(java_s_times(old, &topic, times.len())?, times, "{topic}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn filler_is_numbered_again_and_again() -> Result<()> {
    let (old, new) = CLUSTERS.started()?;
    let filler = batch::filler(100_000)?;
    for cluster in [old, new] {
        cluster.create_topic("padded", 1, &[])?;
        let broker = Broker::of(cluster)?;
        for n in 0..3 {
            let mut out = BytesMut::new();
            filler.rewrite(sequence(n * 100_000), &mut out);
            assert_eq!(broker.append("padded", out.freeze())?, n * 100_000);
        }
        assert_eq!(cluster.log_ends("padded")?, [300_000]);
        cluster.produce("padded", &[Record::new("key", "value")])?;
        assert_eq!(cluster.log_ends("padded")?, [300_001]);
    }
    Ok(())
}

/// The timestamps and offsets that Java's consumer sees.
fn java_s_times(cluster: &Cluster, topic: &str, count: usize) -> Result<Vec<(Option<i64>, i64)>> {
    let (servers, count) = (cluster.bootstrap_servers(Listener::Plaintext)?, count.to_string());
    let mut args = vec!["--bootstrap-server", &servers, "--topic", topic, "--from-beginning", "--max-messages", &count];
    for property in ["print.timestamp=true", "print.offset=true", "print.key=false", "print.value=false"] {
        args.extend(["--property", property]);
    }
    let printed = cluster.tool("kafka.tools.ConsoleConsumer", &args)?;
    // NO_TIMESTAMP, or CreateTime:1600000000000, and then Offset:7.
    let lines = printed.lines().filter_map(|line| line.split_once("\tOffset:"));
    lines.map(|(time, offset)| Ok((time.split_once(':').and_then(|(_, ms)| ms.parse().ok()), offset.parse()?))).collect()
}

/// As a topic has it.
fn compression(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "uncompressed",
        Codec::Gzip => "gzip",
        Codec::Snappy => "snappy",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
    }
}

/// A record of the partition 0.
fn at(offset: i64, key: impl Into<Vec<u8>>) -> Record {
    Record { offset, ..Record::new(key, "").to_partition(0) }
}

/// Null and empty, small and large, times that go back and forth, header names that repeat. Old formats have no headers.
fn produced(with_headers: bool) -> Vec<Record> {
    let mut noise = 1_u32;
    (0..300)
        .map(|n: i64| {
            let mut record = at(n, "");
            record.timestamp = Some(1_600_000_000_000 + n * 7_919 % 1_000 - 500);
            record.key = match n % 3 {
                0 => None,
                1 => Some(Vec::new()),
                _ => Some(format!("key {n}").into_bytes()),
            };
            record.value = match n % 50 {
                0 => None,
                1 => Some(Vec::new()),
                2 => Some(vec![b'a'; 100_000]),
                // No codec finds anything in it.
                3 => Some(
                    (0..30_000)
                        .map(|_| {
                            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            (noise >> 24) as u8
                        })
                        .collect(),
                ),
                _ => Some(format!("value {n}").repeat(n as usize % 9).into_bytes()),
            };
            if with_headers && n % 4 == 0 {
                record = record.header("name", "first").header("", "").header("name", format!("{n}"));
                record.headers.push(("name".to_owned(), None));
            }
            record
        })
        .collect()
}

fn sequence(offset: i64) -> Sequence {
    Sequence { producer_id: PRODUCER_ID, producer_epoch: 0, base_sequence: offset as i32 }
}

fn batch_of(entry: &Entry) -> Result<&Batch> {
    match entry {
        Entry::Batch(batch) => Ok(batch),
        Entry::Old(old) => anyhow::bail!("{old:?}"),
    }
}

/// The records as a consumer of the partition 0 gets them.
fn seen(entries: &[Entry]) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for entry in entries {
        entry.check()?;
        for record in entry.records(MAX_BYTES)? {
            let owned = |bytes: Bytes| bytes.to_vec();
            let header = |(key, value): (Bytes, Option<Bytes>)| Ok((String::from_utf8(key.to_vec())?, value.map(owned)));
            all.push(Record {
                partition: 0,
                offset: record.offset,
                timestamp: (record.timestamp >= 0).then_some(record.timestamp),
                key: record.key.map(owned),
                value: record.value.map(owned),
                headers: record.headers.into_iter().map(header).collect::<Result<_>>()?,
            });
        }
    }
    Ok(all)
}

/// kferry's own connection to the one broker of a cluster.
struct Broker {
    runtime: Runtime,
    connection: Connection,
}

impl Broker {
    fn of(cluster: &Cluster) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = cluster.address(cluster.node_ids()[0], Listener::Plaintext)?;
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        let broker = HostPort { host: host.to_owned(), port: port.parse()? };
        let (security, options) = (Security { tls: None, sasl: None }, ConnectOptions::default());
        let connection = runtime.block_on(Connection::connect(&broker, &security, &options))?;
        Ok(Self { runtime, connection })
    }

    /// All of the partition 0, by answers so small that most of them end inside of a batch.
    fn fetch(&self, topic: &str) -> Result<Vec<Entry>> {
        let version = self.connection.version_for::<FetchRequest>(VersionRange { min: 4, max: 12 })?;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let offset = entries.last().map_or(0, |entry| entry.last_offset() + 1);
            let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(50_000);
            let topics = vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition])];
            let request = FetchRequest::default().with_replica_id((-1).into()).with_max_wait_ms(500).with_min_bytes(1).with_topics(topics);
            let answer = self.runtime.block_on(self.connection.request(&request.with_max_bytes(1 << 20), version))?;
            let partition =
                answer.responses.first().and_then(|topic| topic.partitions.first()).context("an answer without the partition")?;
            ensure!(partition.error_code == 0, "{topic}: {:?}", ResponseError::try_from_code(partition.error_code));
            if offset == partition.high_watermark {
                return Ok(entries);
            }
            let before = entries.len();
            for entry in batch::split(partition.records.clone().unwrap_or_default()) {
                entries.push(entry?);
            }
            ensure!(entries.len() > before, "{topic}: nothing at offset {offset}");
        }
    }

    /// Returns the base offset.
    fn append(&self, topic: &str, batch: Bytes) -> Result<i64> {
        let version = self.connection.version_for::<ProduceRequest>(VersionRange { min: 3, max: 9 })?;
        let partition = PartitionProduceData::default().with_records(Some(batch));
        let topics = vec![TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![partition])];
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(topics);
        let mut base_offset = None;
        until(&format!("the broker leads {topic}, which was just created"), || {
            let answer = self.runtime.block_on(self.connection.request(&request, version))?;
            let partition =
                answer.responses.first().and_then(|topic| topic.partition_responses.first()).context("no partition in the answer")?;
            let error = ResponseError::try_from_code(partition.error_code);
            ensure!(matches!(error, None | Some(ResponseError::NotLeaderOrFollower)), "{topic}: {error:?}");
            base_offset = error.is_none().then_some(partition.base_offset);
            Ok(error.is_none())
        })?;
        base_offset.context("until returns when it is there")
    }

    /// The batches one behind the other, with a new header each.
    fn append_rewritten(&self, topic: &str, entries: &[Entry]) -> Result<()> {
        let mut end = 0;
        for entry in entries {
            let mut out = BytesMut::new();
            batch_of(entry)?.rewrite(sequence(end), &mut out);
            ensure!(self.append(topic, out.freeze())? == end, "{topic}: not at {end}");
            end += i64::from(batch_of(entry)?.count());
        }
        Ok(())
    }

    /// The records one behind the other, in batches of kferry's own.
    fn append_encoded(&self, topic: &str, entries: &[Entry], codec: Codec) -> Result<()> {
        for entry in entries {
            let records = entry.records(MAX_BYTES)?;
            let offset = records[0].offset;
            ensure!(self.append(topic, batch::encode(&records, codec, sequence(offset))?)? == offset, "{topic}: not at {offset}");
        }
        Ok(())
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
