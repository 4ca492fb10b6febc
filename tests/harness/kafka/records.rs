//! Records in and out, by librdkafka through the PLAINTEXT listener.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::{Cluster, Listener};
use crate::LIMIT;

/// A record, as it was read or is to be produced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// To produce: -1 leaves it to the partitioner.
    pub partition: i32,
    /// Not looked at when produced.
    pub offset: i64,
    /// In ms since 1970; to produce, `None` is now.
    pub timestamp: Option<i64>,
    /// Any bytes, or null.
    pub key: Option<Vec<u8>>,
    /// Any bytes, or null (a tombstone).
    pub value: Option<Vec<u8>>,
    /// In order, names may repeat.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// To produce: for a partition of the partitioner's choice, without headers.
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { partition: -1, offset: -1, timestamp: None, key: Some(key.into()), value: Some(value.into()), headers: Vec::new() }
    }

    /// The same, for that partition.
    #[must_use]
    pub fn to_partition(mut self, partition: i32) -> Self {
        self.partition = partition;
        self
    }

    /// The same, with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), Some(value.into())));
        self
    }
}

impl Cluster {
    /// Produces records in order (`acks=all`, idempotent); returns when all are acknowledged.
    pub fn produce(&self, topic: &str, records: &[Record]) -> Result<()> {
        self.produce_with(topic, records, &[])
    }

    /// The same, with settings of librdkafka that win over the harness's own.
    pub fn produce_with(&self, topic: &str, records: &[Record], settings: &[(&str, &str)]) -> Result<()> {
        let mut config = self.client_config(Listener::Plaintext)?;
        config.set("client.id", "harness").set("enable.idempotence", "true").set("message.timeout.ms", LIMIT.as_millis().to_string());
        // A frozen broker is left after this time; the default of 10 s is for networks.
        config.set("api.version.request.timeout.ms", "3000");
        // How large a record may be is for the cluster to say.
        config.set("message.max.bytes", "100000000");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
        for record in records {
            let mut next = base_record(topic, record);
            while let Err((error, again)) = producer.send(next) {
                ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "{topic}: {error}");
                producer.poll(Duration::from_millis(100));
                next = again;
            }
        }
        producer.flush(LIMIT)?;
        let deliveries = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &deliveries.first_error {
            bail!("{topic}: {} of {} records were acknowledged; the first error: {error}", deliveries.acknowledged, records.len());
        }
        ensure!(
            deliveries.acknowledged == records.len(),
            "{topic}: {} of {} records were reported",
            deliveries.acknowledged,
            records.len()
        );
        Ok(())
    }

    /// All records of a topic as a `read_committed` consumer gets them, by partition and offset. With a transaction still open it's those
    /// before that.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Record>> {
        let mut config = self.client_config(Listener::Plaintext)?;
        config.set("client.id", "harness").set("isolation.level", "read_committed").set("check.crcs", "true");
        // A consumer must name a group, though this one never joins it nor commits.
        config.set("group.id", "harness").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        // The end of a partition is told by an empty answer, for which a broker takes this time.
        config.set("fetch.wait.max.ms", "10");
        let consumer: BaseConsumer = config.create()?;
        let mut assignment = TopicPartitionList::new();
        let mut unfinished: BTreeSet<i32> = (0..self.partitions(topic)?.len() as i32).collect();
        for &partition in &unfinished {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let mut records = Vec::new();
        while !unfinished.is_empty() {
            match consumer.poll(LIMIT).with_context(|| format!("{topic}: nothing came within {LIMIT:?}, not yet read: {unfinished:?}"))? {
                Ok(message) => records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp: message.timestamp().to_millis(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: message.headers().into_iter().flat_map(|headers| headers.iter()).map(|header| owned(&header)).collect(),
                }),
                Err(KafkaError::PartitionEOF(partition)) => _ = unfinished.remove(&partition),
                // A broker that is away: librdkafka tries the others and comes back.
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown)) => {}
                Err(error) => return Err(error).with_context(|| format!("{topic} can't be read")),
            }
        }
        records.sort();
        Ok(records)
    }

    /// How many records a `read_committed` consumer gets from a topic.
    pub fn record_count(&self, topic: &str) -> Result<usize> {
        Ok(self.read_all(topic)?.len())
    }
}

fn owned(header: &Header<'_, &[u8]>) -> (String, Option<Vec<u8>>) {
    (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
}

fn base_record<'a>(topic: &'a str, record: &'a Record) -> BaseRecord<'a, Vec<u8>, Vec<u8>> {
    let mut next = BaseRecord::to(topic);
    next.key = record.key.as_ref();
    next.payload = record.value.as_ref();
    next.timestamp = record.timestamp;
    next.partition = (record.partition >= 0).then_some(record.partition);
    if !record.headers.is_empty() {
        let all = OwnedHeaders::new_with_capacity(record.headers.len());
        next.headers = Some(record.headers.iter().fold(all, |all, (key, value)| all.insert(Header { key, value: value.as_ref() })));
    }
    next
}

#[derive(Default)]
struct Tally {
    acknowledged: usize,
    first_error: Option<KafkaError>,
}

#[derive(Default)]
struct Deliveries(Mutex<Tally>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => tally.acknowledged += 1,
            Err((error, _)) => _ = tally.first_error.get_or_insert_with(|| error.clone()),
        }
    }
}
