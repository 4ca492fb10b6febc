//! The mirror's part of the demo: a topic that is written to on the legacy cluster all the time, a consumer of it that changes the cluster with
//! nothing but the offsets that it has, and a consumer group that is stopped on the legacy cluster and started on the new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::kafka::{Cluster, Record};
use harness::mirror::Mirror;
use harness::process::Process;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::{LIMIT, Stage};

pub(crate) const TOPIC: &str = "shipments";

/// A consumer that keeps its offsets itself.
pub(crate) const READER: &str = "shipments-reader";

/// A consumer group, whose offsets Kafka keeps.
pub(crate) const GROUP: &str = "shipments-billing";

/// Where the group is, in each round: it moves once.
pub(crate) const GROUP_ROUNDS: [&str; 3] = ["legacy", "new", "new"];

/// What a reader reads before it is stopped, in the middle of what there is.
pub(crate) const READ: usize = 400;

const WRITER: &str = "shipments-writer";
const PARTITIONS: i32 = 4;

/// Records that were there before the mirror came, and what of partitions 0 and 1 has been deleted since: the log starts of a cluster with a
/// past are not 0.
const HISTORY: usize = 800;
const DELETED: [i64; 2] = [150, 70];

/// Records of a transaction. Every fifth one is aborted.
const TRANSACTION: usize = 10;

/// Makes the topic on the legacy cluster, as it was before anybody thought of moving.
pub(crate) fn create(legacy: &Cluster) -> Result<()> {
    legacy.create_topic(TOPIC, PARTITIONS, &[])?;
    let record = |n| Record::new(format!("{n}"), format!("old shipment {n}")).to_partition(partition(n));
    // In small batches, as they come over the years.
    legacy.produce_with(TOPIC, &(0..HISTORY).map(record).collect::<Vec<_>>(), &[("batch.num.messages", "10")])?;
    (0..).zip(DELETED).try_for_each(|(partition, before)| legacy.delete_records(TOPIC, partition, before))
}

fn partition(n: usize) -> i32 {
    n as i32 % PARTITIONS
}

/// `kferry-mirror` between the two clusters.
pub(crate) struct Copying {
    mirror: Mirror,
    process: Process,
}

impl Copying {
    pub(crate) fn start(legacy: &Cluster, new: &Cluster) -> Result<Self> {
        let mut mirror = Mirror::new(legacy, new, &format!("topics = [\"{TOPIC}\"]\ngroups = [\"{GROUP}\"]\n"))?;
        let process = mirror.start(&[])?;
        Ok(Self { mirror, process })
    }

    /// Without a word to it (SIGKILL), in the middle of whatever it does.
    pub(crate) fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = self.mirror.start(&[])?;
        Ok(())
    }

    /// Waits until the new cluster has each partition up to an offset.
    pub(crate) fn reaches(&self, new: &Cluster, offsets: &[i64]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        // Until the mirror has created it there is no such topic.
        while !new.log_ends(TOPIC).is_ok_and(|ends| ends.iter().zip(offsets).all(|(end, offset)| end >= offset)) {
            ensure!(
                Instant::now() < deadline,
                "the mirror did not copy {TOPIC} up to {offsets:?}; its log ends with\n{}",
                self.process.log_tail(10)
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Copying {
    /// Has the group's offsets copied now, as an operator does between stopping and starting it. Says which they are.
    pub(crate) fn syncs_the_group(&self) -> Result<Vec<i64>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.mirror.http("POST", "/groups/sync")?;
            let found: Value = serde_json::from_str(&answer.body).context(answer.body)?;
            let rows = found["groups"].as_array().map_or(&[][..], Vec::as_slice);
            if rows.len() == PARTITIONS as usize && rows.iter().all(|row| row["state"] == "in-sync") {
                return Ok(rows.iter().filter_map(|row| row["target_offset"].as_i64()).collect());
            }
            ensure!(Instant::now() < deadline, "the offsets of {GROUP} are not copied: {found:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The topic's producer, which stays on the legacy cluster.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<Result<usize>>,
}

impl Writer {
    pub(crate) fn start(stage: &Stage) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut config, stopped) = (stage.client(WRITER), stop.clone());
        let writing = thread::spawn(move || {
            let producer: BaseProducer = config.set("transactional.id", WRITER).create()?;
            producer.init_transactions(LIMIT)?;
            let mut committed = 0;
            for transaction in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                producer.begin_transaction()?;
                let fate = if transaction % 5 == 0 { "aborted" } else { "shipment" };
                for n in committed..committed + TRANSACTION {
                    let (key, value) = (n.to_string(), format!("{fate} {n}"));
                    let record = BaseRecord::to(TOPIC).partition(partition(n)).key(&key).payload(&value);
                    producer.send(record).map_err(|(error, _)| error)?;
                }
                if fate == "aborted" {
                    producer.flush(LIMIT)?;
                    producer.abort_transaction(LIMIT)?;
                } else {
                    producer.commit_transaction(LIMIT)?;
                    committed += TRANSACTION;
                }
                thread::sleep(Duration::from_millis(20));
            }
            Ok(committed)
        });
        Self { stop, writing }
    }

    /// Stops it, and says how many records consumers find in the topic now.
    pub(crate) fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let committed = self.writing.join().map_err(|_| anyhow!("{WRITER} panicked"))?.context(WRITER)?;
        Ok(HISTORY - DELETED.iter().sum::<i64>() as usize + committed)
    }
}

/// A consumer of the topic, instance after instance.
pub(crate) struct Reader {
    client_id: &'static str,
    keeps: Offsets,
    next: Vec<i64>,
    seen: Vec<Record>,
}

/// Who keeps a reader's offsets from one instance to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offsets {
    /// It does: that is all that one hands on to the next.
    Itself,
    /// Kafka does, for its group. One hands nothing on to the next.
    Group,
}

impl Reader {
    /// It begins at the beginning, and keeps its offsets itself.
    pub(crate) fn new(legacy: &Cluster) -> Result<Self> {
        Ok(Self { client_id: READER, keeps: Offsets::Itself, next: legacy.log_starts(TOPIC)?, seen: Vec::new() })
    }

    /// The same as a group.
    pub(crate) fn group(legacy: &Cluster) -> Result<Self> {
        Ok(Self { client_id: GROUP, keeps: Offsets::Group, ..Self::new(legacy)? })
    }

    /// The next offset of each partition.
    pub(crate) fn offsets(&self) -> &[i64] {
        &self.next
    }

    /// How many records it has read.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// One instance: connects, goes on at its offsets, reads so many records, and is stopped.
    pub(crate) fn run(&mut self, stage: &Stage, cluster: &str, count: usize) -> Result<()> {
        let mut config = stage.client(self.client_id);
        // An offset that the cluster does not have is an error, not a reason to begin anywhere else; but for a group that has none yet.
        let is_new = self.keeps == Offsets::Group && self.seen.is_empty();
        config.set("group.id", self.client_id).set("enable.auto.commit", "false");
        config.set("auto.offset.reset", if is_new { "earliest" } else { "error" });
        // A little of each partition at a time: so it is stopped in the middle of all of them.
        config.set("isolation.level", "read_committed").set("max.partition.fetch.bytes", "1000");
        let consumer: BaseConsumer = config.create()?;
        match self.keeps {
            Offsets::Itself => consumer.assign(&self.positions()?)?,
            Offsets::Group => consumer.subscribe(&[TOPIC])?,
        }
        let deadline = Instant::now() + LIMIT;
        let enough = self.seen.len() + count;
        while self.seen.len() < enough {
            ensure!(Instant::now() < deadline, "{} of {enough} records came within {} s", self.seen.len(), LIMIT.as_secs());
            if let Some(message) = consumer.poll(Duration::from_millis(300)) {
                self.take(&message?);
            }
        }
        if self.keeps == Offsets::Group {
            consumer.commit(&self.positions()?, CommitMode::Sync)?;
        }
        // Both clusters have the topic: which one it read from is told by the brokers that it knows.
        let metadata = consumer.fetch_metadata(Some(TOPIC), LIMIT)?;
        let brokers: Vec<_> = metadata.brokers().iter().map(MetadataBroker::id).collect();
        ensure!(brokers == stage.cluster(cluster).node_ids(), "it read from the brokers {brokers:?}, not from {cluster}");
        Ok(())
    }

    fn positions(&self) -> Result<TopicPartitionList> {
        let mut positions = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(&self.next) {
            positions.add_partition_offset(TOPIC, partition, Offset::Offset(*offset))?;
        }
        Ok(positions)
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let record = Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: Vec::new(),
        };
        self.next[record.partition as usize] = record.offset + 1;
        self.seen.push(record);
    }

    /// Compares what it has read with what is on both clusters: records lost, and records that came twice. What differs in anything else is an
    /// error.
    pub(crate) fn lost_and_twice(mut self, stage: &Stage) -> Result<(usize, usize)> {
        let (starts, ends) = (stage.legacy.log_starts(TOPIC)?, stage.legacy.log_ends(TOPIC)?);
        let there = (stage.new.log_starts(TOPIC)?, stage.new.log_ends(TOPIC)?);
        ensure!(
            there == (starts.clone(), ends.clone()),
            "{TOPIC} is from {starts:?} to {ends:?} on legacy, from {:?} to {:?} on new",
            there.0,
            there.1
        );
        let (legacy, new) = (stage.legacy.read_all(TOPIC)?, stage.new.read_all(TOPIC)?);
        ensure!(legacy == new, "{TOPIC} has {} records on legacy, {} on new, and they are not the same", legacy.len(), new.len());
        let count = self.seen.len();
        self.seen.sort();
        self.seen.dedup();
        let lost = legacy.iter().filter(|record| self.seen.binary_search(record).is_err()).count();
        ensure!(lost > 0 || self.seen == legacy, "{} has read records that are on neither cluster", self.client_id);
        Ok((lost, count - self.seen.len()))
    }
}
