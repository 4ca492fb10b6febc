//! The mirror's part of the demo: a topic that is written to on the legacy cluster all the time, and a consumer of it that changes the
//! cluster with nothing but the offsets that it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::kafka::{Cluster, Record};
use harness::mirror::Mirror;
use harness::process::Process;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::{LIMIT, Stage};

pub(crate) const TOPIC: &str = "shipments";

/// A consumer that keeps its offsets itself.
pub(crate) const READER: &str = "shipments-reader";

/// What the reader reads before it is stopped, in the middle of what there is.
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
        let mut mirror = Mirror::new(legacy, new, &format!("topics = [\"{TOPIC}\"]\n"))?;
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

/// The topic's consumer, instance after instance. What it has read and its next offsets are all that one hands on to the next.
pub(crate) struct Reader {
    next: Vec<i64>,
    seen: Vec<Record>,
}

impl Reader {
    /// It begins at the beginning.
    pub(crate) fn new(legacy: &Cluster) -> Result<Self> {
        Ok(Self { next: legacy.log_starts(TOPIC)?, seen: Vec::new() })
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
        let mut config = stage.client(READER);
        // An offset that the cluster does not have is an error, not a reason to begin anywhere else.
        config.set("group.id", READER).set("enable.auto.commit", "false").set("auto.offset.reset", "error");
        // A little of each partition at a time: so it is stopped in the middle of all of them.
        config.set("isolation.level", "read_committed").set("max.partition.fetch.bytes", "1000");
        let consumer: BaseConsumer = config.create()?;
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(&self.next) {
            assignment.add_partition_offset(TOPIC, partition, Offset::Offset(*offset))?;
        }
        consumer.assign(&assignment)?;
        let deadline = Instant::now() + LIMIT;
        let enough = self.seen.len() + count;
        while self.seen.len() < enough {
            ensure!(Instant::now() < deadline, "{} of {enough} records came within {} s", self.seen.len(), LIMIT.as_secs());
            if let Some(message) = consumer.poll(Duration::from_millis(300)) {
                self.take(&message?);
            }
        }
        // Both clusters have the topic: which one it read from is told by the brokers that it knows.
        let metadata = consumer.fetch_metadata(Some(TOPIC), LIMIT)?;
        let brokers: Vec<_> = metadata.brokers().iter().map(MetadataBroker::id).collect();
        ensure!(brokers == stage.cluster(cluster).node_ids(), "it read from the brokers {brokers:?}, not from {cluster}");
        Ok(())
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
        ensure!(lost > 0 || self.seen == legacy, "{READER} has read records that are on neither cluster");
        Ok((lost, count - self.seen.len()))
    }
}
