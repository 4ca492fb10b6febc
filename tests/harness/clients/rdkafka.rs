//! The round trip of the Rust crate rdkafka (librdkafka), in this process.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::{Job, Outcome, Security};

pub(super) fn round_trip(job: &Job) -> Result<Outcome> {
    let start = Instant::now();
    let mut trip = Trip::new(job, start + Duration::from_millis(job.timeout_ms));
    let topics = trip.list_topics().context("listing topics")?;

    let group = [trip.subscribe()?, trip.subscribe()?];
    let assigned = |_: &Trip| Ok(group[0].assignment()?.count() > 0 && group[1].assignment()?.count() > 0);
    trip.poll_until(&group, assigned).context("joining the group")?;

    let produced = trip.produce().context("producing")?;

    trip.poll_until(&group, |trip| Ok(trip.seen.len() == trip.values.len())).context("consuming")?;
    let end = Instant::now() + Duration::from_millis(300);
    trip.poll_until(&group, |_| Ok(Instant::now() >= end))?;

    for member in &group {
        match member.commit_consumer_state(CommitMode::Sync) {
            // The periodic commit came first, nothing is left to do.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            result => result.context("committing")?,
        }
    }
    drop(group);

    Ok(Outcome {
        client: "rdkafka".to_owned(),
        version: format!("librdkafka {}", rdkafka::util::get_rdkafka_version().1),
        topics,
        produced,
        consumed: trip.seen.len() as u32,
        members: trip.members,
        seconds: start.elapsed().as_secs_f64(),
        duplicates: trip.duplicates,
        reordered: trip.reordered,
    })
}

struct Trip<'a> {
    job: &'a Job,
    deadline: Instant,
    values: HashSet<String>,
    seen: HashSet<String>,
    members: [u32; 2],
    last_offsets: [HashMap<i32, i64>; 2],
    duplicates: u32,
    reordered: u32,
    last_error: Option<KafkaError>,
}

impl<'a> Trip<'a> {
    fn new(job: &'a Job, deadline: Instant) -> Self {
        Self {
            job,
            deadline,
            values: (0..job.count).map(|i| value(job, i)).collect(),
            seen: HashSet::new(),
            members: [0; 2],
            last_offsets: [HashMap::new(), HashMap::new()],
            duplicates: 0,
            reordered: 0,
            last_error: None,
        }
    }

    fn list_topics(&self) -> Result<u32> {
        let consumer: BaseConsumer = self.connection().create()?;
        let metadata = consumer.fetch_metadata(None, self.time_left())?;
        let topics = metadata.topics();
        ensure!(topics.iter().any(|topic| topic.name() == self.job.topic), "{} is not among the {} topics", self.job.topic, topics.len());
        Ok(topics.len() as u32)
    }

    fn subscribe(&self) -> Result<BaseConsumer> {
        let mut config = self.connection();
        config.set("group.id", &self.job.group_id).set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[&self.job.topic])?;
        Ok(consumer)
    }

    fn produce(&self) -> Result<u32> {
        let mut config = self.connection();
        config.set("acks", "all");
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
        for i in 0..self.job.count {
            let (key, value) = (format!("k-{i}"), value(self.job, i));
            producer.send(BaseRecord::to(&self.job.topic).key(&key).payload(&value)).map_err(|(error, _)| error)?;
            producer.poll(Duration::ZERO);
        }
        producer.flush(self.time_left())?;
        let deliveries = producer.context();
        match deliveries.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error.into()),
            None => Ok(deliveries.acked.load(Ordering::Relaxed)),
        }
    }

    /// Both members in turn; each also needs its poll to take part in a rebalance.
    fn poll_until(&mut self, group: &[BaseConsumer; 2], done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        while !done(self)? {
            if self.time_left().is_zero() {
                match self.last_error.take() {
                    Some(error) => bail!("not done after {} ms; the last error was: {error}", self.job.timeout_ms),
                    None => bail!("not done after {} ms", self.job.timeout_ms),
                }
            }
            for (member, consumer) in group.iter().enumerate() {
                let mut wait = Duration::from_millis(20);
                while let Some(polled) = consumer.poll(wait) {
                    match polled {
                        Ok(message) => self.count(member, &message),
                        // Most of these pass (a broker closed an idle connection): only a step that isn't done in time is a failure.
                        Err(error) => self.last_error = Some(error),
                    }
                    wait = Duration::ZERO;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, member: usize, message: &rdkafka::message::BorrowedMessage<'_>) {
        let last = self.last_offsets[member].insert(message.partition(), message.offset());
        if last.is_some_and(|last| message.offset() <= last) {
            self.reordered += 1;
        }
        let value = String::from_utf8_lossy(message.payload().unwrap_or_default());
        // The topic may also hold what other clients produced.
        if !self.values.contains(&*value) {
            return;
        }
        self.members[member] += 1;
        if !self.seen.insert(value.into_owned()) {
            self.duplicates += 1;
        }
    }

    fn connection(&self) -> ClientConfig {
        connection(&self.job.bootstrap_servers, &self.job.client_id, self.job.security.as_ref())
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

fn value(job: &Job, i: u32) -> String {
    format!("{}-{i}", job.client_id)
}

pub(super) fn connection(bootstrap_servers: &str, client_id: &str, security: Option<&Security>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("client.id", client_id);
    let Some(security) = security else { return config };
    config.set("security.protocol", security.protocol);
    if let Some(login) = &security.login {
        config.set("sasl.mechanism", login.mechanism).set("sasl.username", login.username).set("sasl.password", login.password);
    }
    if let Some(ca) = &security.ca {
        config.set("ssl.ca.location", ca.to_string_lossy());
    }
    if let Some(identity) = &security.identity {
        config.set("ssl.certificate.location", identity.certificate.to_string_lossy());
        config.set("ssl.key.location", identity.key.to_string_lossy());
    }
    config
}

#[derive(Default)]
struct Deliveries {
    acked: AtomicU32,
    failed: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acked.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone()),
        }
    }
}
