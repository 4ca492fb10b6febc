//! What tests of the mirror share: two clusters, records to copy, and whether they were copied.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::LIMIT;
use crate::kafka::{Builder, Cluster, Listener, Record};
use crate::mirror::Mirror;

/// Two clusters that several tests of a program use, each with topics of its own: a `static`. The first test that asks starts them. Nobody drops
/// them: they end with the program (see [`process`](crate::process)), and the next run removes their data (see [`run`](crate::run)).
pub struct Pair {
    builders: fn() -> [Builder; 2],
    started: OnceLock<Result<[Cluster; 2], String>>,
}

impl Pair {
    /// Starts nothing yet.
    pub const fn new(builders: fn() -> [Builder; 2]) -> Self {
        Self { builders, started: OnceLock::new() }
    }

    /// Both, running. Where they could not be started, each test that asks gets the error.
    pub fn started(&self) -> Result<(&Cluster, &Cluster)> {
        let started = self.started.get_or_init(|| {
            let clusters = Cluster::start_all((self.builders)().into()).map_err(|error| format!("{error:#}"))?;
            clusters.try_into().map_err(|_| "two clusters were asked for".to_owned())
        });
        let [first, second] = started.as_ref().map_err(|error| anyhow!("{error}"))?;
        Ok((first, second))
    }
}

/// Both clusters give a consumer the same records, and both logs end at the same offsets.
pub fn identical(source: &Cluster, target: &Cluster, topic: &str) -> Result<()> {
    let (expected, actual) = (source.read_all(topic)?, target.read_all(topic)?);
    for (expected, actual) in expected.iter().zip(&actual) {
        ensure!(expected == actual, "{topic}: the source has {expected:?}, the target {actual:?}");
    }
    ensure!(expected.len() == actual.len(), "{topic}: {} records on the source, {} on the target", expected.len(), actual.len());
    let (expected, actual) = (source.log_ends(topic)?, target.log_ends(topic)?);
    ensure!(expected == actual, "{topic}: the logs end at {expected:?} on the source, at {actual:?} on the target");
    Ok(())
}

/// What compaction keeps is the last record of each key. A plain consumer gets the same ones from both clusters, up to the same log ends: partition,
/// offset, timestamp, key, value and headers. A key whose last record is a tombstone counts as gone, since each cluster deletes tombstones in its own time.
pub fn same_last_records(source: &Cluster, target: &Cluster, topic: &str) -> Result<()> {
    let (expected, actual) = (last_records(source, topic)?, last_records(target, topic)?);
    for (key, expected) in &expected {
        let actual = actual.get(key);
        ensure!(actual == Some(expected), "{topic}: the last record of a key is {expected:?} on the source, {actual:?} on the target");
    }
    let more = actual.iter().find(|(key, _)| !expected.contains_key(key));
    ensure!(more.is_none(), "{topic}: only the target has a last record {more:?}");
    let (expected, actual) = (source.log_ends(topic)?, target.log_ends(topic)?);
    ensure!(expected == actual, "{topic}: the logs end at {expected:?} on the source, at {actual:?} on the target");
    Ok(())
}

fn last_records(cluster: &Cluster, topic: &str) -> Result<BTreeMap<(i32, Vec<u8>), Record>> {
    let mut last = BTreeMap::new();
    // By partition and offset, so later ones take the place of earlier ones.
    for record in cluster.read_all(topic)? {
        let key = record.key.clone().unwrap_or_default();
        last.insert((record.partition, key), record);
    }
    ensure!(!last.is_empty(), "{topic}: there is no record");
    last.retain(|_, record| record.value.is_some());
    Ok(last)
}

/// A mirror of the topics that begin with a word, and named so.
pub fn mirror_of(source: &Cluster, target: &Cluster, prefix: &str, lines: &str) -> Result<Mirror> {
    Mirror::named(prefix, source, target, &lines_of(prefix, lines))
}

/// The lines of such a mirror, for [`Mirror::write`].
pub fn lines_of(prefix: &str, lines: &str) -> String {
    format!("topics_regex = ['{prefix}\\..*']\n{lines}")
}

/// A run with `--once` that leaves something behind, and says these words of it in one line.
pub fn stops(mirror: &mut Mirror, words: &[&str]) -> Result<()> {
    let ended = mirror.once()?;
    let said = ended.log.lines().any(|line| line.contains("not copied") && words.iter().all(|word| line.contains(word)));
    ensure!(ended.code == Some(1) && said, "it ended with {:?}, and {words:?} is not in one line of:\n{}", ended.code, ended.log);
    Ok(())
}

/// Waits until `look` finds nothing wrong any more.
pub fn comes<T>(limit: Duration, mirror: &Mirror, look: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{} s later; the mirror says\n{}", limit.as_secs(), mirror.logs()?)));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Whether one line of the mirror's log has all of these words.
pub fn says(mirror: &Mirror, words: &[&str]) -> Result<()> {
    let said = mirror.logs()?.lines().any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(said, "nowhere {words:?}");
    Ok(())
}

/// Records for one partition.
pub fn records(partition: i32, count: usize, what: &str) -> Vec<Record> {
    (0..count).map(|n| Record::new(format!("key {n}"), format!("{what} {n}")).to_partition(partition)).collect()
}

/// Transactions one after the other on partition 0, every third aborted.
pub fn transactions(cluster: &Cluster, topic: &str, count: usize) -> Result<()> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    config.set("transactional.id", topic).set("linger.ms", "0");
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT)?;
    for n in 0..count {
        producer.begin_transaction()?;
        for m in 0..3 {
            let value = format!("{n} {m}");
            producer.send(BaseRecord::<str, _>::to(topic).partition(0).payload(&value)).map_err(|(error, _)| error)?;
        }
        producer.flush(LIMIT)?;
        if n % 3 == 0 { producer.abort_transaction(LIMIT)? } else { producer.commit_transaction(LIMIT)? }
    }
    Ok(())
}
