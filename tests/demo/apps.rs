//! The applications: each produces numbers to a topic at a steady rate, and a group reads them. What they see is all that is counted.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::kafka::Cluster;
use harness::run;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};
use serde_json::Value;

use crate::{Stage, now};

/// Of each topic.
pub(crate) const PARTITIONS: i32 = 4;

/// Of each application.
const RECORDS_PER_SECOND: u32 = 200;

const PAUSE: Duration = Duration::from_millis(20);

/// An application that runs.
pub(crate) struct App {
    pub(crate) topic: &'static str,
    /// What it is made of.
    pub(crate) client: String,
    producer: Job,
    members: Vec<Job>,
    seen: Shared,
}

/// What an application has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) acked: Vec<Event>,
    read: Vec<Event>,
    /// What an application cannot go on with.
    errors: Vec<String>,
}

/// A record was acknowledged, or read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) partition: i32,
    pub(crate) number: u64,
    /// In ms since 1970.
    at: i64,
}

/// What a while was like.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// How many were acknowledged.
    pub(crate) records: usize,
    /// How many of these were not read.
    pub(crate) lost: usize,
    /// How many were read that had been read before.
    pub(crate) twice: usize,
    /// How many were read after a later one of their partition.
    pub(crate) reordered: usize,
    /// The longest time without an acknowledgement on a partition, in ms.
    pub(crate) acks: i64,
    /// The same of deliveries to the group.
    pub(crate) deliveries: i64,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// librdkafka in this process, a group of two.
    pub(crate) fn librdkafka(stage: &Stage) -> Result<Self> {
        let (topic, seen) = ("orders", Shared::default());
        let config = |name: &str| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", stage.proxy.bootstrap_servers()).set("client.id", format!("shop-{topic}-{name}"));
            config
        };
        let mut members = Vec::new();
        for n in 1..=2 {
            let mut config = config(&format!("billing-{n}"));
            config.set("group.id", "orders-billing").set("auto.offset.reset", "earliest");
            let member: BaseConsumer = config.create()?;
            member.subscribe(&[topic])?;
            let seen = seen.clone();
            members.push(Job::start(move |stop| read(&member, &seen, stop)));
        }
        // acks=all is librdkafka's own default, idempotence is not.
        let producer: ThreadedProducer<Shared> = config("web").set("enable.idempotence", "true").create_with_context(seen.clone())?;
        let producer = Job::start(move |stop| produce(&producer, topic, stop));
        Ok(Self { topic, client: "librdkafka produces, read by a group of two".to_owned(), producer, members, seen })
    }

    /// Kafka's own clients of two versions, as the programs that come with Kafka.
    pub(crate) fn java(stage: &Stage) -> Result<Self> {
        let (topic, seen) = ("payments", Shared::default());
        let bootstrap_servers = stage.proxy.bootstrap_servers();
        let connection = ["--bootstrap-server", &bootstrap_servers, "--topic", topic];
        let group = ["--group-id", "payments-ledger", "--reset-policy", "earliest", "--verbose"];
        let member =
            java(&stage.legacy, "VerifiableConsumer", &[&connection[..], &group].concat(), "client.id=shop-payments-ledger\n", &seen)?;
        let rate = RECORDS_PER_SECOND.to_string();
        // Keys, so that all partitions get records at any time.
        let numbers = ["--throughput", &rate, "--repeating-keys", "16"];
        // The program sets retries to 0; this is the client's own default.
        let settings = format!("client.id=shop-payments-web\nretries={}\n", i32::MAX);
        let producer = java(&stage.new, "VerifiableProducer", &[&connection[..], &numbers].concat(), &settings, &seen)?;
        let [old, new] = [&stage.legacy, &stage.new].map(Cluster::kafka_version);
        Ok(Self { topic, client: format!("Java {new} produces, read by Java {old}"), producer, members: vec![member], seen })
    }

    /// Waits until records come through.
    pub(crate) fn goes_on(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.seen.lock().read.len() < 200 || self.seen.lock().lacks(now() - 1000) {
            self.is_well()?;
            ensure!(Instant::now() < deadline, "{}: no records come through within {limit:?}", self.topic);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_well(&self) -> Result<()> {
        let has_ended = self.members.iter().chain([&self.producer]).any(|job| job.thread.is_finished());
        let seen = self.seen.lock();
        ensure!(!has_ended && seen.errors.is_empty(), "{}: an application cannot go on: {:?}", self.topic, seen.errors);
        Ok(())
    }

    /// What a while was like, once all that was acknowledged in it is read; what is not within `limit` counts as lost.
    pub(crate) fn receipt(&self, from: i64, until: i64, limit: Duration) -> Result<Receipt> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && self.seen.lock().lacks(until) {
            thread::sleep(PAUSE);
        }
        self.is_well()?;
        Ok(receipt(&self.seen.lock(), from, until))
    }

    /// Ends the producer, waits until the group has read the rest, ends that. Returns all that was seen.
    pub(crate) fn stop(self, limit: Duration) -> Result<Seen> {
        self.is_well()?;
        self.producer.stop().with_context(|| format!("the producer of {}", self.topic))?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && self.seen.lock().lacks(i64::MAX) {
            thread::sleep(PAUSE);
        }
        self.members.into_iter().try_for_each(Job::stop).with_context(|| format!("the group of {}", self.topic))?;
        Ok(std::mem::take(&mut self.seen.lock()))
    }
}

impl Event {
    fn id(&self) -> (i32, u64) {
        (self.partition, self.number)
    }
}

impl Seen {
    /// Whether something that was acknowledged before a moment is not read yet.
    fn lacks(&self, until: i64) -> bool {
        let read: HashSet<_> = self.read.iter().map(Event::id).collect();
        self.acked.iter().any(|event| event.at < until && !read.contains(&event.id()))
    }
}

pub(crate) fn receipt(seen: &Seen, from: i64, until: i64) -> Receipt {
    let is_in = |event: &Event| (from..until).contains(&event.at);
    let (mut read, mut ends) = (HashSet::new(), BTreeMap::new());
    let (mut twice, mut reordered) = (0, 0);
    for event in &seen.read {
        let end = ends.entry(event.partition).or_insert(event.number);
        if !read.insert(event.id()) {
            twice += usize::from(is_in(event));
        } else if event.number < *end {
            reordered += usize::from(is_in(event));
        }
        *end = event.number.max(*end);
    }
    let acked: Vec<_> = seen.acked.iter().filter(|event| is_in(event)).collect();
    let lost = acked.iter().filter(|event| !read.contains(&event.id())).count();
    let (acks, deliveries) = (longest(&seen.acked, from, until), longest(&seen.read, from, until));
    Receipt { records: acked.len(), lost, twice, reordered, acks, deliveries }
}

/// The longest time without an event on one of the partitions.
fn longest(events: &[Event], from: i64, until: i64) -> i64 {
    (0..PARTITIONS).map(|partition| longest_of(events, partition, from, until)).max().unwrap_or_default()
}

/// Of the times between two events those that ended in a while, and the one that goes on at its end.
fn longest_of(events: &[Event], partition: i32, from: i64, until: i64) -> i64 {
    let times = events.iter().filter(|event| event.partition == partition && event.at < until).map(|event| event.at).chain([until]);
    let times: Vec<_> = times.collect();
    times.windows(2).filter(|pair| pair[1] >= from).map(|pair| pair[1] - pair[0]).max().unwrap_or(until - from)
}

/// Something that goes on in a thread until it is told to stop.
struct Job {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Job {
    fn start(job: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Self { stop, thread: thread::spawn(move || job(&stopped)) }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("it panicked"))?
    }
}

fn produce(producer: &ThreadedProducer<Shared>, topic: &str, stop: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    for number in 0_u64.. {
        while number as f64 > start.elapsed().as_secs_f64() * f64::from(RECORDS_PER_SECOND) {
            thread::sleep(Duration::from_millis(1));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (partition, value) = ((number % PARTITIONS as u64) as i32, number.to_string());
        producer.send(BaseRecord::<(), _>::to(topic).partition(partition).payload(&value)).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(crate::LIMIT)?)
}

impl ClientContext for Shared {
    /// All but fatal ones tell of a connection that failed, and are for logs.
    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::Fatal)) {
            self.lock().errors.push(reason.to_owned());
        }
    }
}

impl ProducerContext for Shared {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => match of(message) {
                Ok(event) => self.lock().acked.push(event),
                Err(error) => self.lock().errors.push(error.to_string()),
            },
            Err((error, _)) => self.lock().errors.push(error.to_string()),
        }
    }
}

fn read(member: &BaseConsumer, seen: &Shared, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match member.poll(PAUSE) {
            Some(Ok(message)) => {
                let event = of(&message)?;
                seen.lock().read.push(event);
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error.into()),
            // Everything else librdkafka says while it tries again by itself.
            Some(Err(_)) | None => {}
        }
    }
    match member.commit_consumer_state(CommitMode::Sync) {
        // The periodic commit came first, nothing is left to do.
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn of(message: &BorrowedMessage<'_>) -> Result<Event> {
    let number = str::from_utf8(message.payload().context("no value")?)?.parse()?;
    Ok(Event { partition: message.partition(), number, at: now() })
}

/// One of the programs that come with Kafka, each event a line of JSON with its time.
fn java(kafka: &Cluster, class: &str, args: &[&str], settings: &str, seen: &Shared) -> Result<Job> {
    let folder = run::folder(class)?;
    let (config, output) = (folder.join("properties"), folder.join("output"));
    fs::write(&config, settings)?;
    let (option, config) =
        (if class.ends_with("Producer") { "--producer.config" } else { "--consumer.config" }, config.display().to_string());
    let args = [args, &[option, &config]].concat();
    let mut process = kafka.start_tool(&format!("org.apache.kafka.tools.{class}"), &args, &output)?;
    let (seen, class) = (seen.clone(), class.to_owned());
    Ok(Job::start(move |stop| {
        let mut lines = BufReader::new(File::open(&output)?);
        let mut line = Vec::new();
        let mut is_over = false;
        loop {
            while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                take(&line, &seen, is_over)?;
                line.clear();
            }
            if is_over {
                return Ok(());
            }
            ensure!(process.exited().is_none(), "{class} has ended by itself:\n{}", process.log_tail(30));
            if stop.load(Ordering::Relaxed) {
                process.terminate(crate::LIMIT)?;
                is_over = true;
            } else {
                thread::sleep(PAUSE);
            }
        }
    }))
}

/// `is_over`: it was told to end. What it then does not send is none of its records.
fn take(line: &[u8], seen: &Shared, is_over: bool) -> Result<()> {
    // A library's warnings are not JSON.
    let Ok(line) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
    let name = line["name"].as_str().unwrap_or_default();
    if !matches!(name, "producer_send_success" | "record_data") {
        if name == "producer_send_error" && !is_over {
            seen.lock().errors.push(line.to_string());
        }
        return Ok(());
    }
    let number = line["value"].as_str().and_then(|value| value.parse().ok());
    let (partition, at) = (line["partition"].as_i64(), line["timestamp"].as_i64());
    let event = number.zip(partition).zip(at).with_context(|| format!("no event: {line}"))?;
    let ((number, partition), at) = event;
    let event = Event { partition: partition as i32, number, at };
    let mut seen = seen.lock();
    if name == "record_data" {
        seen.read.push(event);
    } else {
        seen.acked.push(event);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(of_one_partition: &[(u64, i64)]) -> Vec<Event> {
        of_one_partition.iter().map(|&(number, at)| Event { partition: 0, number, at }).collect()
    }

    #[test]
    fn what_is_lost_doubled_reordered_or_late_is_in_the_receipt_of_its_time() {
        let acked = events(&[(0, 10), (1, 20), (2, 60), (3, 70), (4, 110)]);
        let read = events(&[(0, 15), (2, 25), (1, 65), (2, 75), (4, 115)]);
        let seen = Seen { acked, read, errors: Vec::new() };
        let counts = |from, until| {
            let Receipt { records, lost, twice, reordered, .. } = receipt(&seen, from, until);
            (records, lost, twice, reordered)
        };
        assert_eq!((counts(0, 50), counts(50, 100), counts(100, 150)), ((2, 0, 0, 0), (2, 1, 1, 1), (1, 0, 0, 0)));
        // The other partitions have nothing at all.
        assert_eq!(receipt(&seen, 50, 100).acks, 50);
        assert_eq!([longest_of(&seen.acked, 0, 50, 100), longest_of(&seen.acked, 0, 100, 150)], [40, 40]);
        assert_eq!(longest_of(&seen.acked, 0, 50, 200), 90, "also one that goes on");
        assert!(seen.lacks(71) && !seen.lacks(70));
    }
}
