//! What tests of failures have in common: choices at random, load that never ends, and the comparison afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::kafka::{Cluster, Listener, Record};
use crate::translated::FOREIGN;

/// How long a client may wait for a broker.
const LIMIT: Duration = Duration::from_mins(1);

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
pub struct Random(pub u64);

impl Random {
    /// The next one.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next one, below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Sleeps so many ms, from and below.
    pub fn pause(&mut self, (from, to): (u64, u64)) {
        thread::sleep(Duration::from_millis(from + self.below(to - from)));
    }
}

/// A number from the environment.
pub fn setting(name: &str) -> Result<Option<u64>> {
    std::env::var(name).ok().map(|value| value.parse().with_context(|| format!("{name}={value} is no number"))).transpose()
}

/// Records that never end, until `stop`: what a producer cannot get rid of when its broker dies it gives up, and goes on with another one.
pub fn produce(source: &Cluster, topic: &str, partitions: i32, stop: &AtomicBool) -> Result<()> {
    let mut config = source.client_config(Listener::Plaintext)?;
    config.set("enable.idempotence", "true").set("compression.type", "lz4").set("linger.ms", "20").set("message.timeout.ms", "20000");
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let producer: BaseProducer = config.create()?;
        while !stop.load(Ordering::Relaxed) && producer.client().fatal_error().is_none() {
            for _ in 0..20 {
                let (key, value) = (format!("key {}", n % 97), format!("{n} {}", "lorem ipsum ".repeat(n as usize % 37)));
                // A full queue loses this one: it is not about the producer.
                let _ = producer.send(BaseRecord::to(topic).partition((n % partitions as u64) as i32).key(&key).payload(&value));
                n += 1;
            }
            producer.poll(Duration::from_millis(10));
        }
        let _ = producer.flush(LIMIT);
    }
    Ok(())
}

/// Somebody else's records on the target, until `stop`: some of them in the middle of what the mirror sends.
pub fn intrude(target: &Cluster, topic: &str, partitions: i32, mut random: Random, stop: &AtomicBool) -> Result<()> {
    let mut config = target.client_config(Listener::Plaintext)?;
    config.set("enable.idempotence", "true").set("linger.ms", "0").set("message.timeout.ms", "20000");
    let producer: BaseProducer = config.create()?;
    while !stop.load(Ordering::Relaxed) {
        random.pause((5, 200));
        let partition = random.below(partitions as u64) as i32;
        let _ = producer.send(BaseRecord::to(topic).partition(partition).key(FOREIGN).payload("not the mirror's"));
        producer.poll(Duration::ZERO);
    }
    let _ = producer.flush(LIMIT);
    Ok(())
}

/// Transactions that never end, until `stop`, a third of them aborted: each leaves a marker in every partition that it wrote to.
pub fn transact(source: &Cluster, topic: &str, partitions: i32, mut random: Random, stop: &AtomicBool) -> Result<()> {
    let mut config = source.client_config(Listener::Plaintext)?;
    config.set("transactional.id", "chaos").set("linger.ms", "0").set("transaction.timeout.ms", "20000");
    while !stop.load(Ordering::Relaxed) {
        let producer: BaseProducer = config.create()?;
        if producer.init_transactions(LIMIT).is_err() {
            continue;
        }
        while !stop.load(Ordering::Relaxed) && transaction(&producer, topic, partitions, &mut random).is_ok() {}
    }
    // What a producer left open is aborted by its successor.
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT).context("the last transaction cannot be ended")
}

fn transaction(producer: &BaseProducer, topic: &str, partitions: i32, random: &mut Random) -> Result<()> {
    producer.begin_transaction()?;
    for n in 0..=random.below(12) {
        let value = format!("{n} {}", random.next());
        let partition = random.below(partitions as u64) as i32;
        producer.send(BaseRecord::<str, _>::to(topic).partition(partition).payload(&value)).map_err(|(error, _)| error)?;
    }
    producer.flush(LIMIT)?;
    if random.below(3) == 0 {
        producer.abort_transaction(LIMIT)?;
    } else {
        producer.commit_transaction(LIMIT)?;
    }
    Ok(())
}

/// What a comparison of both clusters found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Records that are the same on both.
    pub equal: usize,
    /// Offsets that only the source has.
    pub lost: usize,
    /// Offsets that only the target has.
    pub repeated: usize,
    /// Offsets whose records differ.
    pub differing: usize,
    /// Partitions whose logs end elsewhere.
    pub ends: usize,
}

impl Found {
    /// Reads all records of these topics on both.
    pub fn look(source: &Cluster, target: &Cluster, topics: &[&str]) -> Result<Self> {
        let mut found = Self::default();
        for topic in topics {
            let by_offset = |records: Vec<Record>| -> BTreeMap<_, _> {
                records.into_iter().map(|record| ((record.partition, record.offset), record)).collect()
            };
            let (expected, mut actual) = (by_offset(source.read_all(topic)?), by_offset(target.read_all(topic)?));
            for (offset, record) in expected {
                match actual.remove(&offset) {
                    Some(other) if other == record => found.equal += 1,
                    Some(_) => found.differing += 1,
                    None => found.lost += 1,
                }
            }
            found.repeated += actual.len();
            let (expected, actual) = (source.log_ends(topic)?, target.log_ends(topic)?);
            found.ends += expected.iter().zip(&actual).filter(|(expected, actual)| expected != actual).count();
        }
        Ok(found)
    }

    /// Something is there, and all of it is equal.
    pub fn is_perfect(&self) -> bool {
        *self == Self { equal: self.equal, ..Self::default() } && self.equal > 0
    }
}

/// Lines of a log that say that both sides differ.
pub fn divergences(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("diverged")).collect()
}
