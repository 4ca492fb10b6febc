//! The soak of the Rust crate rdkafka (librdkafka), in this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use super::rdkafka::connection;
use super::soak::{Ack, Counts, Job, Line, REPORT};

/// Runs until `stop`, then until all is read, at most `limit` more.
pub(super) fn soak(job: &Job, limit: Duration, stop: &AtomicBool, report: &(dyn Fn(Line) + Sync)) -> Result<()> {
    let places = job.places().len();
    let counts = Counts { acked: vec![0; places], consumed: vec![0; places], ..Counts::default() };
    let has_group = job.group_id.is_some();
    let tally = Tally(Arc::new(Mutex::new(Counted { counts, has_group, acks: Vec::new(), failed: Vec::new(), settled: 0 })));
    let group = if has_group { vec![member(job, 0)?, member(job, 1)?] } else { Vec::new() };
    let mut config = connection(&job.bootstrap_servers, &job.client_id, job.security.as_ref());
    config.set("enable.idempotence", job.idempotent.to_string()).set("acks", job.acks);
    let settings = [
        ("max.in.flight", job.max_in_flight),
        ("retries", job.retries),
        ("linger.ms", job.linger_ms),
        ("topic.metadata.refresh.interval.ms", job.metadata_max_age_ms),
    ];
    for (key, value) in settings {
        value.map(|value| config.set(key, value.to_string()));
    }
    with(&mut config, job.settings[0]);
    let producer: BaseProducer<Tally> = config.create_with_context(tally.clone())?;

    let all_read = AtomicBool::new(false);
    thread::scope(|scope| {
        let (tally, all_read) = (&tally, &all_read);
        let read = |member| scope.spawn(move || read(&member, tally, all_read, report));
        let reading: Vec<_> = group.into_iter().map(read).collect();
        let sent = send(job, &producer, tally, stop, report);
        let deadline = Instant::now() + limit;
        let ended = sent.and_then(|sent| {
            loop {
                producer.poll(REPORT);
                tally.report(report);
                {
                    let Counted { counts, settled, .. } = &*tally.lock();
                    if *settled == sent.iter().sum::<u64>() && (!has_group || counts.consumed == sent) {
                        return Ok(());
                    }
                }
                ensure!(Instant::now() < deadline, "not done {limit:?} after the last of {sent:?} was sent");
            }
        });
        all_read.store(true, Ordering::Relaxed);
        for reading in reading {
            reading.join().map_err(|_| anyhow!("a member panicked"))??;
        }
        tally.report(report);
        ended
    })
}

/// Returns how many went to each place.
fn send(job: &Job, producer: &BaseProducer<Tally>, tally: &Tally, stop: &AtomicBool, report: &(dyn Fn(Line) + Sync)) -> Result<Vec<u64>> {
    let places = job.places();
    let mut sent = vec![0; places.len()];
    let (start, mut reported) = (Instant::now(), Instant::now());
    let mut all = 0;
    while !stop.load(Ordering::Relaxed) {
        while all < (start.elapsed().as_secs_f64() * f64::from(job.records_per_second)) as u64 {
            let place = (all % places.len() as u64) as usize;
            let (topic, partition) = places[place];
            let number: u64 = sent[place];
            let payload = number.to_string();
            let record: BaseRecord<'_, [u8], str, _> = BaseRecord::with_opaque_to(topic, Box::new(Sent { place, number, at_ms: now_ms() }));
            match producer.send(record.partition(partition).payload(&*payload)) {
                Ok(()) => (sent[place], all) = (sent[place] + 1, all + 1),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => break,
                Err((error, _)) => return Err(error).context("producing"),
            }
        }
        producer.poll(Duration::from_millis(10));
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            tally.report(report);
        }
    }
    Ok(sent)
}

fn with(config: &mut ClientConfig, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        config.set(*key, *value);
    }
}

/// One of two.
fn member(job: &Job, number: usize) -> Result<BaseConsumer> {
    let mut config = connection(&job.bootstrap_servers, &job.client_id, job.security.as_ref());
    config.set("group.id", job.group_id.as_deref().context("a member has a group")?).set("auto.offset.reset", "earliest");
    if job.cooperative {
        config.set("partition.assignment.strategy", "cooperative-sticky");
    }
    if let Some(protocol) = job.group_protocol {
        config.set("group.protocol", protocol);
    }
    if job.is_static {
        config.set("group.instance.id", format!("{}-{number}", job.client_id));
    }
    with(&mut config, job.settings[1]);
    let consumer: BaseConsumer = config.create()?;
    if job.assigns {
        let mut assigned = TopicPartitionList::new();
        for partition in (number..job.partitions).step_by(2) {
            assigned.add_partition_offset(&job.topic, partition as i32, Offset::Stored)?;
        }
        consumer.assign(&assigned)?;
    } else {
        consumer.subscribe(&[&job.topic])?;
    }
    Ok(consumer)
}

fn read(member: &BaseConsumer, tally: &Tally, all_read: &AtomicBool, report: &(dyn Fn(Line) + Sync)) -> Result<()> {
    while !all_read.load(Ordering::Relaxed) {
        match member.poll(REPORT) {
            Some(Ok(message)) => {
                let number = str::from_utf8(message.payload().context("no payload")?)?.parse()?;
                let partition = message.partition() as usize;
                let mut counted = tally.lock();
                let next = counted.counts.consumed[partition];
                counted.counts.read(partition, number);
                drop(counted);
                if number > next {
                    let offset = message.offset();
                    report(Line::Notice(format!(
                        "consuming: {number} at offset {offset} of partition {partition} came where {next} was next"
                    )));
                }
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => report(Line::Error(format!("consuming: {error}"))),
            // Everything else librdkafka says while it tries again by itself.
            Some(Err(error)) => report(Line::Notice(format!("consuming: {error}"))),
            None => {}
        }
    }
    match member.commit_consumer_state(CommitMode::Sync) {
        // The periodic commit came first, nothing is left to do.
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        Err(error) => Err(error).context("committing"),
    }
}

impl Counts {
    /// A number is the next of its partition, one that was read before, or one too far.
    fn read(&mut self, partition: usize, number: u64) {
        let next = &mut self.consumed[partition];
        if number < *next {
            self.again += 1;
            return;
        }
        self.skipped += u64::from(number > *next);
        *next = number + 1;
    }
}

#[derive(Clone)]
struct Tally(Arc<Mutex<Counted>>);

struct Counted {
    counts: Counts,
    has_group: bool,
    /// Without a group.
    acks: Vec<Ack>,
    failed: Vec<KafkaError>,
    /// How many records are acknowledged or given up.
    settled: u64,
}

/// A record on its way.
struct Sent {
    place: usize,
    number: u64,
    at_ms: u64,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, report: &(dyn Fn(Line) + Sync)) {
        let (counts, acks, failed) = {
            let mut counted = self.lock();
            (counted.counts.clone(), std::mem::take(&mut counted.acks), std::mem::take(&mut counted.failed))
        };
        for error in failed {
            report(Line::Error(format!("producing: {error}")));
        }
        report(Line::Progress(counts));
        if !acks.is_empty() {
            report(Line::Acks(acks));
        }
    }
}

impl ClientContext for Tally {
    /// All but fatal ones tell of a connection that failed, and are for logs.
    fn error(&self, error: KafkaError, _reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::Fatal)) {
            self.lock().failed.push(error);
        }
    }
}

impl ProducerContext for Tally {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let mut counted = self.lock();
        counted.settled += 1;
        match result {
            Ok(_) => {
                let Sent { place, number, at_ms } = *sent;
                counted.counts.acked[place] += 1;
                if !counted.has_group {
                    counted.acks.push(Ack { place, number, sent_ms: at_ms, acked_ms: now_ms() });
                }
            }
            Err((error, _)) => counted.failed.push(error.clone()),
        }
    }
}
