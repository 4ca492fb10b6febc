//! Topics for benchmarks: millions of records in batches of a chosen size, a log that starts late; and what a broker's files say came of it.

use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType,
};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::{Cluster, Listener, admin};
use crate::LIMIT;

const PRODUCE: i16 = 7;

/// Records of a batch of [`Cluster::start_log_at`]: 800 KB without compression, below `max.message.bytes`.
const FILLER: i64 = 100_000;

/// How a topic is filled.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// How many, the same for each partition.
    pub records: u64,
    /// The most of a batch; the last one of a partition may have fewer.
    pub records_per_batch: u32,
    /// Kafka's name of a codec that librdkafka has without further libraries: `none`, `gzip`, `snappy`, `lz4`.
    pub compression: &'static str,
}

/// What a topic's log consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Their size with headers, in bytes, as it is on the wire too.
    pub bytes: u64,
}

impl Stored {
    /// Bytes of a batch, on average.
    pub fn bytes_per_batch(self) -> f64 {
        self.bytes as f64 / self.batches.max(1) as f64
    }

    /// Records of a batch, on average.
    pub fn records_per_batch(self) -> f64 {
        self.records as f64 / self.batches.max(1) as f64
    }
}

impl Cluster {
    /// Produces records without keys to all partitions at once; `value` makes the nth one, into an empty buffer. Returns when they are in the
    /// log: about 10 s for 5 million records of 236 bytes on two cores.
    pub fn fill(&self, topic: &str, fill: Fill, value: impl Fn(u64, &mut Vec<u8>) + Sync) -> Result<()> {
        let before: i64 = self.log_ends(topic)?.iter().sum();
        let partitions = self.partitions(topic)?.len() as u64;
        let each = fill.records / partitions;
        ensure!(each * partitions == fill.records, "{} records can't be spread evenly over {partitions} partitions", fill.records);
        thread::scope(|scope| {
            let value = &value;
            let producers: Vec<_> = (0..partitions)
                .map(|partition| {
                    scope.spawn(move || self.fill_partition(topic, partition as i32, fill, partition * each..(partition + 1) * each, value))
                })
                .collect();
            producers.into_iter().try_for_each(|producer| producer.join().expect("a producer returns its errors"))
        })?;
        let arrived = self.log_ends(topic)?.iter().sum::<i64>() - before;
        ensure!(arrived == fill.records as i64, "{topic}: {arrived} of {} records arrived", fill.records);
        Ok(())
    }

    fn fill_partition(
        &self,
        topic: &str,
        partition: i32,
        fill: Fill,
        records: std::ops::Range<u64>,
        value: impl Fn(u64, &mut Vec<u8>),
    ) -> Result<()> {
        let mut config = self.client_config(Listener::Plaintext)?;
        config.set("client.id", "harness").set("enable.idempotence", "true").set("compression.type", fill.compression);
        // A batch is sent when it has its records; the time is for the last one.
        config.set("batch.num.messages", fill.records_per_batch.to_string()).set("linger.ms", "500");
        config.set("batch.size", "10000000").set("message.max.bytes", "10000000");
        config.set("queue.buffering.max.messages", "200000").set("delivery.report.only.error", "true");
        let producer: BaseProducer = config.create()?;
        let mut buffer = Vec::new();
        for n in records {
            buffer.clear();
            value(n, &mut buffer);
            let mut next = BaseRecord::<(), _>::to(topic).partition(partition).payload(&buffer);
            while let Err((error, again)) = producer.send(next) {
                ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "{topic}: {error}");
                producer.poll(Duration::from_millis(5));
                next = again;
            }
        }
        producer.flush(LIMIT).with_context(|| format!("{topic}-{partition} can't be filled"))
    }

    /// Lets the log of an empty topic start at an offset, in each partition: that many empty records, then DeleteRecords. 100 million take
    /// about 10 s and 800 MB of disk, which the broker gives back minutes later.
    pub fn start_log_at(&self, topic: &str, offset: i64) -> Result<()> {
        ensure!(self.log_ends(topic)?.iter().all(|&end| end == 0), "{topic} has records");
        let whole = empty_records(FILLER)?;
        for (partition, state) in self.partitions(topic)?.iter().enumerate() {
            let mut end = 0;
            while end < offset {
                let count = FILLER.min(offset - end);
                let batch = if count == FILLER { whole.clone() } else { empty_records(count)? };
                let base_offset = self.produce_batch(topic, partition as i32, state.leader, batch)?;
                ensure!(base_offset == end, "{topic}-{partition}: a batch landed at {base_offset}, not at {end}: who else writes?");
                end += count;
            }
            self.delete_records(topic, partition as i32, offset)?;
        }
        Ok(())
    }

    /// Returns the base offset.
    fn produce_batch(&self, topic: &str, partition: i32, leader: i32, batch: Bytes) -> Result<i64> {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let data = TopicProduceData::default().with_name(admin::topic_name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data]);
        let response = admin::ask(self.node(leader)?, PRODUCE, &request)?;
        let answer =
            response.responses.first().and_then(|topic| topic.partition_responses.first()).context("an answer without the partition")?;
        match ResponseError::try_from_code(answer.error_code) {
            None => Ok(answer.base_offset),
            Some(error) => Err(error).with_context(|| format!("{topic}-{partition}")),
        }
    }

    /// What is in the files of each partition's leader, also before the log start. Batches that are just being written may be missing.
    pub fn stored(&self, topic: &str) -> Result<Stored> {
        let mut stored = Stored::default();
        for (partition, state) in self.partitions(topic)?.iter().enumerate() {
            let folder = self.folder().join(format!("{}.data/{topic}-{partition}", state.leader));
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    stored.add(&path).with_context(|| path.display().to_string())?;
                }
            }
        }
        Ok(stored)
    }

    /// Waits until a topic has that many records, markers included, in all partitions together.
    pub fn await_log_ends(&self, topic: &str, records: i64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let there: i64 = self.log_ends(topic)?.iter().sum();
            if there >= records {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{topic} has {there} of {records} records after {limit:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Stored {
    /// Adds a segment's batches: base offset (8 bytes), length of what follows (4), then 49 bytes of header up to the records, of which the last
    /// four are their number (magic 2).
    fn add(&mut self, segment: &std::path::Path) -> Result<()> {
        const HEADER: usize = 61;
        let mut file = BufReader::new(File::open(segment)?);
        let mut header = [0; HEADER];
        loop {
            match file.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let number = |at: usize| i64::from(i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
            ensure!(header[16] == 2, "a batch of magic {}", header[16]);
            let size = number(8) + 12;
            self.batches += 1;
            self.records += number(57) as u64;
            self.bytes += size as u64;
            file.seek_relative(size - HEADER as i64)?;
        }
    }
}

fn empty_records(count: i64) -> Result<Bytes> {
    let records: Vec<_> = (0..count)
        .map(|offset| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset,
            // Without a producer id nobody looks at it, but the encoder begins a new batch where it doesn't follow the offset.
            sequence: offset as i32,
            timestamp: 0,
            key: None,
            value: None,
            headers: [].into(),
        })
        .collect();
    let mut batch = BytesMut::new();
    RecordBatchEncoder::encode(&mut batch, &records, &RecordEncodeOptions { version: 2, compression: Compression::None })?;
    Ok(batch.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_starts_where_it_should_and_holds_the_batches_asked_for() {
        let cluster = Cluster::version("4.3.0").start().unwrap();
        cluster.create_topic("bulk", 2, &[]).unwrap();
        let start = 2 * FILLER + 7;
        cluster.start_log_at("bulk", start).unwrap();
        assert_eq!((cluster.log_starts("bulk").unwrap(), cluster.log_ends("bulk").unwrap()), (vec![start; 2], vec![start; 2]));

        let before = cluster.stored("bulk").unwrap();
        assert_eq!((before.batches, before.records), (6, 2 * start as u64));
        let fill = Fill { records: 2_000, records_per_batch: 10, compression: "lz4" };
        cluster.fill("bulk", fill, |n, value| value.extend(n.to_be_bytes())).unwrap();
        let after = cluster.stored("bulk").unwrap();
        assert_eq!((after.batches - before.batches, after.records - before.records), (200, 2_000));
        let mut values: Vec<_> = cluster.read_all("bulk").unwrap().into_iter().map(|record| record.value.unwrap()).collect();
        values.sort();
        assert_eq!(values, (0..2_000_u64).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
        let more = cluster.fill("bulk", Fill { records: 3, ..fill }, |_, _| {}).unwrap_err().to_string();
        assert_eq!(more, "3 records can't be spread evenly over 2 partitions");
    }
}
