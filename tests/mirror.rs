//! The mirror: every record at its offset, on real clusters, whatever happens meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::LIMIT;
use harness::kafka::{Cluster, Commit, Listener, Record};
use harness::mirror::Mirror;
use harness::scenario::{comes, same_last_records, says, transactions};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

/// A transaction that is open for a minute is told of, and a run with `--once` waits half a minute longer.
const LONG: Duration = Duration::from_mins(2);

/// Both clusters give a consumer the same records: partition, offset, timestamp, key, value and headers.
fn same(source: &Cluster, target: &Cluster, topic: &str) -> Result<usize> {
    let (expected, actual) = (source.read_all(topic)?, target.read_all(topic)?);
    for (expected, actual) in expected.iter().zip(&actual) {
        ensure!(expected == actual, "{topic}: the source has {expected:?}, the target {actual:?}");
    }
    ensure!(expected.len() == actual.len(), "{topic}: {} records on the source, {} on the target", expected.len(), actual.len());
    Ok(expected.len())
}

/// The ends of both logs are the same, those of markers and aborted records too.
fn same_ends(source: &Cluster, target: &Cluster, topic: &str) -> Result<()> {
    let (expected, actual) = (source.log_ends(topic)?, target.log_ends(topic)?);
    ensure!(expected == actual, "{topic}: the logs end at {expected:?} on the source, at {actual:?} on the target");
    Ok(())
}

fn records(count: usize, from: usize) -> Vec<Record> {
    let record = |n: usize| {
        let mut record = Record::new(format!("key {}", n % 97), format!("{{\"n\":{n},\"text\":\"{}\"}}", "lorem ipsum ".repeat(n % 13)));
        record.partition = (n % 3) as i32;
        record.timestamp = Some(1_700_000_000_000 + (n as i64 * 37) % 50_000);
        match n % 11 {
            0 => record.key = None,
            1 => record.value = None,
            2 => record.value = Some(Vec::new()),
            3 => record = record.header("twice", "one").header("once", "x").header("twice", "two"),
            4 => record.headers.push(("null".to_owned(), None)),
            _ => {}
        }
        record
    };
    (from..from + count).map(record).collect()
}

#[test]
fn every_record_is_at_its_offset() -> Result<()> {
    let clusters = Cluster::start_all(vec![
        Cluster::version("3.9.1").name("source").set("log.cleaner.backoff.ms", "100"),
        Cluster::version("4.3.0").name("target").first_node_id(11),
    ])?;
    let [source, target] = &clusters[..] else { anyhow::bail!("two clusters were asked for") };
    for codec in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("m.{codec}");
        source.create_topic(&topic, 3, &[("compression.type", codec), ("retention.ms", "-1")])?;
        source.produce(&topic, &records(2_000, 0))?;
    }
    source.create_topic("m.large", 1, &[("max.message.bytes", "9000000")])?;
    source.produce("m.large", &[Record::new("k", vec![7; 5_000_000]), Record::new("k", "small"), Record::new("k", vec![8; 5_000_000])])?;
    source.create_topic("m.clock", 3, &[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")])?;
    source.produce("m.clock", &records(2_000, 0))?;
    source.create_topic("m.transactions", 1, &[])?;
    transactions(source, "m.transactions", 40)?;
    source.create_topic("m.late", 3, &[("retention.ms", "-1")])?;
    source.produce("m.late", &records(3_000, 0))?;
    source.delete_records("m.late", 0, 321)?;
    source.delete_records("m.late", 1, 1_000)?;
    let compact =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.bytes", "50000"), ("retention.ms", "-1")];
    source.create_topic("m.compacted", 1, &compact)?;
    let keyed = |n: usize| Record { timestamp: Some(1_700_000_000_000), ..Record::new(format!("{}", (n * n) % 500), format!("{n}")) };
    for chunk in 0..10 {
        source.produce("m.compacted", &(chunk * 1_000..(chunk + 1) * 1_000).map(keyed).collect::<Vec<_>>())?;
    }
    let deadline = Instant::now() + LIMIT;
    while source.read_all("m.compacted")?.len() > 6_000 {
        ensure!(Instant::now() < deadline, "the cleaner did nothing");
        std::thread::sleep(Duration::from_millis(200));
    }
    source.create_topic("m.empty", 2, &[])?;
    source.create_topic("other", 1, &[])?;

    let mut mirror = Mirror::new(source, target, "topics_regex = ['m\\..*']")?;
    mirror.copy()?;
    let topics = ["m.uncompressed", "m.gzip", "m.snappy", "m.lz4", "m.zstd", "m.large", "m.clock", "m.transactions", "m.late", "m.empty"];
    for topic in topics {
        same(source, target, topic).context("at first")?;
        same_ends(source, target, topic)?;
    }
    ensure!(target.log_starts("m.late")? == source.log_starts("m.late")?, "the log starts are {:?}", target.log_starts("m.late")?);
    ensure!(!target.list_topics()?.contains(&"other".to_owned()), "a topic that was not asked for was copied");

    // Once more, on what is there; and a topic that has grown.
    for topic in ["m.zstd", "m.late", "m.clock"] {
        source.produce(topic, &records(500, 5_000))?;
    }
    transactions(source, "m.transactions", 10)?;
    mirror.copy()?;
    for topic in topics {
        same(source, target, topic).context("the second time")?;
        same_ends(source, target, topic)?;
    }
    same_last_records(source, target, "m.compacted")
}

#[test]
fn a_late_log_start_is_padded_and_an_open_transaction_is_awaited() -> Result<()> {
    let clusters =
        Cluster::start_all(vec![Cluster::version("3.9.1").name("source"), Cluster::version("4.3.0").name("target").first_node_id(11)])?;
    let [source, target] = &clusters[..] else { anyhow::bail!("two clusters were asked for") };
    let numbered = |count: usize| (0..count).map(|n| Record::new("key", n.to_string()).to_partition(0)).collect::<Vec<_>>();
    source.create_topic("m.far", 1, &[("retention.ms", "-1")])?;
    source.start_log_at("m.far", 50_000_000)?;
    source.produce("m.far", &numbered(1_000))?;
    source.create_topic("m.open", 1, &[])?;
    let mut config = source.client_config(Listener::Plaintext)?;
    // The coordinator does not abort it while this test looks.
    config.set("transactional.id", "left open").set("transaction.timeout.ms", "600000");
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT)?;
    producer.begin_transaction()?;
    producer.send(BaseRecord::<str, str>::to("m.open").partition(0).payload("first")).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    source.produce("m.open", &numbered(10))?;

    source.commit("uncommitted", "m.open", [(0, Commit::at(7))])?;

    let mut mirror = Mirror::new(source, target, "topics_regex = ['m\\..*']\ngroups = 'uncommitted'")?;
    let mut once = mirror.start(&["--once"])?;
    comes(LONG, &mirror, || {
        says(&mirror, &["an open transaction holds it up", "m.open-0", "at offset 0 of the leader", "up to 11", r#""left open\""#])
    })?;
    let rows: Value = serde_json::from_str(&mirror.http("GET", "/partitions")?.body)?;
    let row = rows["partitions"].as_array().into_iter().flatten().find(|row| row["topic"] == "m.open").context("m.open")?;
    ensure!(row["leader_end"] == 0 && row["leader_high_watermark"] == 11 && row["lag_records"] == 0, "{row:#}");
    ensure!(row["unstable_records"] == 11 && row["unstable_seconds"].as_f64() >= Some(60.0), "{row:#}");
    ensure!(row["open_transaction"]["coordinator"]["transactional_id"] == "left open", "{row:#}");
    ensure!(row["phase"] == "copying" && row["reason"].as_str().is_some_and(|reason| reason.contains("left open")), "{row:#}");
    let metrics = mirror.http("GET", "/metrics")?.body;
    let unstable = r#"kferry_mirror_unstable_records{mirror="m",topic="m.open",partition="0"} 11"#;
    ensure!(metrics.contains(unstable) && !metrics.contains(r#"unstable_records{mirror="m",topic="m.far""#), "{metrics}");
    let status = once.wait(LONG)?;
    ensure!(status.code() == Some(1), "it ended with {status}: {}", mirror.logs()?);
    says(&mirror, &["not copied", "m.open-0", "a transaction is open at offset 0", "transactional id", "left open", "open for"])?;

    let plan = mirror.kferry(&["plan"])?;
    ensure!(
        plan.code == Some(0)
            && plan.log.contains("11 more offsets wait for transactions")
            && plan.log.contains("warning: mirror m: topic m.open"),
        "{plan:?}"
    );
    let verified = mirror.kferry(&["verify"])?;
    let told = "m.open-0: 11 offsets were not compared: a transaction is open at offset 0 of the leader";
    ensure!(
        verified.code == Some(3) && verified.log.contains(told) && verified.log.contains("11 more behind open transactions"),
        "{verified:?}"
    );

    ensure!(target.log_starts("m.far")? == [50_000_000], "the target's log starts at {:?}", target.log_starts("m.far")?);
    same_ends(source, target, "m.far")?;
    ensure!(same(source, target, "m.far")? == 1_000);
    ensure!(target.log_ends("m.open")? == [0], "what is behind an open transaction was copied: {:?}", target.log_ends("m.open")?);

    producer.commit_transaction(LIMIT)?;
    mirror.copy()?;
    same_ends(source, target, "m.open")?;
    ensure!(same(source, target, "m.open")? == 11);
    Ok(())
}
