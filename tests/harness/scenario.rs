//! What tests of the mirror share: scenarios side by side, records to copy, and whether they were copied.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::kafka::{Cluster, Listener, Record};
use crate::mirror::Mirror;

/// How long a transaction may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A name, and what happens between a source and a target.
pub type Scenario = (&'static str, fn(&Cluster, &Cluster) -> Result<()>);

/// All scenarios at once; every one that failed is told.
pub fn side_by_side(source: &Cluster, target: &Cluster, scenarios: &[Scenario]) -> Result<()> {
    let failed: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = scenarios.iter().map(|&(name, scenario)| (name, scope.spawn(move || scenario(source, target)))).collect();
        let ended = running.into_iter().map(|(name, scenario)| (name, scenario.join().unwrap_or_else(|_| Err(anyhow!("it panicked")))));
        ended.filter_map(|(name, ended)| Some(format!("{name}: {:#}", ended.err()?))).collect()
    });
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
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
pub fn comes(limit: Duration, mirror: &Mirror, look: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while let Err(error) = look() {
        if Instant::now() > deadline {
            return Err(error.context(format!("{} s later; {}", limit.as_secs(), mirror.logs()?)));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
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
