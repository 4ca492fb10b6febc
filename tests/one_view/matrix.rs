//! Every client of the matrix at either home, with topics that lead on either cluster; and one producer and one group for topics of both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use harness::clients::{self, Client, Job, Outcome};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::{LIMIT, Names, Side, Stage, calm};

/// The clients of the matrix.
const CLIENTS: [Client; 9] = [
    Client::Java4,
    Client::Java28,
    Client::ConfluentPython,
    Client::FranzGo,
    Client::Sarama,
    Client::Kafkajs,
    Client::Aiokafka,
    Client::KafkaPython,
    Client::KafkaGo,
];

/// A cell of the matrix.
#[derive(Debug, Clone, Copy)]
struct Trip {
    client: Client,
    home: Side,
    leader: Side,
}

impl Trip {
    const RECORDS: u32 = 200;

    fn client_id(self) -> String {
        self.home.client(self.client.name())
    }

    fn topic(self) -> String {
        self.leader.leads(&format!("trip.{}.{}", self.client.name(), self.home.name()))
    }

    /// The group, and where it lives: of clients that read orders it is copied from the legacy cluster, any other one lives at home.
    fn group(self) -> (String, Side) {
        match self.leader {
            Side::Legacy => (Side::Legacy.lives(&self.client_id()), Side::Legacy),
            Side::New => (self.client_id(), self.home),
        }
    }

    fn make(self, stage: &Stage) -> Result<Outcome> {
        let job = Job {
            group_id: self.group().0,
            count: Self::RECORDS,
            timeout_ms: 180_000,
            ..Job::new(&stage.proxy.bootstrap_servers(), &self.client_id(), &self.topic())
        };
        let outcome = clients::run(self.client, &job)?;
        ensure!(outcome.members.iter().all(|&records| records > 0), "a member of the group got nothing: {outcome:?}");
        Ok(outcome)
    }

    fn is_in_the_logs(self, stage: &Stage) -> Result<()> {
        is_in_the_log(stage, self.leader, &self.topic(), &self.client_id(), &(0..Self::RECORDS).collect())?;

        let (group, lives) = self.group();
        let committed: i64 = stage.cluster(lives).committed_offsets(&group)?.values().sum();
        ensure!(committed == i64::from(Self::RECORDS), "{group} has committed {committed} records on {lives:?}");
        if lives == self.home && !group.starts_with("orders-") {
            let elsewhere = stage.cluster(lives.other()).committed_offsets(&group)?;
            ensure!(elsewhere.is_empty(), "{group} has committed {elsewhere:?} on {:?}", lives.other());
        }
        Ok(())
    }
}

/// What a client has sent to a topic is where it leads, once and in the order in which it was sent, and so is the copy.
pub(crate) fn is_in_the_log(stage: &Stage, side: Side, topic: &str, client_id: &str, sent: &BTreeSet<u32>) -> Result<()> {
    let mut numbers = BTreeMap::<i32, Vec<u32>>::new();
    for record in stage.cluster(side).read_all(topic)? {
        let value = String::from_utf8(record.value.context("a value")?)?;
        let number = value.strip_prefix(&format!("{client_id}-")).with_context(|| format!("a record of somebody else: {value}"))?;
        numbers.entry(record.partition).or_default().push(number.parse()?);
    }
    for (partition, numbers) in &numbers {
        ensure!(numbers.is_sorted_by(|a, b| a < b), "{topic}-{partition} has {numbers:?}");
    }
    let all: BTreeSet<u32> = numbers.values().flatten().copied().collect();
    let count: usize = numbers.values().map(Vec::len).sum();
    ensure!(all == *sent && count == all.len(), "{topic} has {count} records, {} different ones, of {}", all.len(), sent.len());
    stage.is_copied(side, topic)
}

#[test]
fn every_client_works_at_either_home_with_topics_that_lead_on_either_cluster() -> Result<()> {
    calm(|stage| {
        let mut trips = Vec::new();
        for client in CLIENTS {
            clients::prepare(client)?;
            for home in Side::BOTH {
                for leader in Side::BOTH {
                    let trip = Trip { client, home, leader };
                    stage.cluster(leader).create_topic(&trip.topic(), 4, &[])?;
                    trips.push(trip);
                }
            }
        }
        for trip in &trips {
            stage.has_copy(trip.leader, &trip.topic())?;
        }

        // Two at a time: with more, clients wait for the machine.
        let (waiting, made) = (Mutex::new(VecDeque::from(trips.clone())), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(trip) = { waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() } {
                        let outcome = trip.make(stage).and_then(|outcome| trip.is_in_the_logs(stage).map(|()| outcome));
                        made.lock().unwrap_or_else(PoisonError::into_inner).push((trip, outcome));
                    }
                });
            }
        });
        let (mut rows, mut failed) = (BTreeMap::<&str, BTreeMap<String, String>>::new(), Vec::new());
        for (trip, outcome) in made.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let cell = match outcome {
                Ok(outcome) => format!("{:.1} s", outcome.seconds),
                Err(error) => {
                    failed.push(error.context(format!("{trip:?}")));
                    "failed".to_owned()
                }
            };
            rows.entry(trip.client.name()).or_default().insert(format!("home {:?}, leads on {:?}", trip.home, trip.leader), cell);
        }
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        let columns = rows.values().next().context("a row")?.keys().cloned();
        table.set_header(["client".to_owned()].into_iter().chain(columns));
        for (client, cells) in rows {
            table.add_row([client.to_owned()].into_iter().chain(cells.into_values()));
        }
        println!("{table}");
        ensure!(failed.is_empty(), "{} of {} round trips failed:\n{failed:#?}", failed.len(), trips.len());
        stage.no_copy_has_diverged(".trip.")
    })
}

/// One producer and one group for topics of both clusters.
#[test]
fn a_group_reads_topics_of_both_clusters() -> Result<()> {
    const RECORDS: usize = 600;
    calm(|stage| {
        let topics = Side::BOTH.map(|side| side.leads("both"));
        for (side, topic) in Side::BOTH.into_iter().zip(&topics) {
            stage.create_copied(side, topic, 3)?;
        }
        for home in Side::BOTH {
            let client_id = home.client("both");
            let producer: BaseProducer = stage.client(&client_id).set("enable.idempotence", "true").set("linger.ms", "1").create()?;
            let value = |n: usize| format!("{client_id} {n}");
            for n in 0..RECORDS {
                let value = value(n);
                let record = BaseRecord::<str, str>::to(&topics[n % 2]).partition((n / 2 % 3) as i32).payload(&value);
                producer.send(record).map_err(|(error, _)| error)?;
                producer.poll(Duration::ZERO);
            }
            producer.flush(LIMIT)?;
            let mut config = stage.client(&client_id);
            let consumer: BaseConsumer = config.set("group.id", &client_id).set("auto.offset.reset", "earliest").create()?;
            consumer.subscribe(&[&topics[0], &topics[1]])?;
            let (mut seen, deadline) = (BTreeMap::<(String, i32), Vec<usize>>::new(), Instant::now() + LIMIT);
            while seen.values().map(Vec::len).sum::<usize>() < RECORDS {
                ensure!(Instant::now() < deadline, "{home:?}: {:?} records came", seen.values().map(Vec::len).collect::<Vec<_>>());
                if let Some(message) = consumer.poll(Duration::from_millis(200)) {
                    let message = message?;
                    let value = str::from_utf8(message.payload().context("a value")?)?;
                    if let Some(number) = value.strip_prefix(&format!("{client_id} ")) {
                        seen.entry((message.topic().to_owned(), message.partition())).or_default().push(number.parse()?);
                    }
                }
            }
            for ((topic, partition), numbers) in &seen {
                let first = topics.iter().position(|known| known == topic).context("a topic of ours")? + 2 * *partition as usize;
                let expected: Vec<usize> = (first..RECORDS).step_by(6).collect();
                ensure!(*numbers == expected, "{home:?}: {topic}-{partition} gave {numbers:?}");
            }
            consumer.commit_consumer_state(CommitMode::Sync)?;
            let committed = stage.cluster(home).committed_offsets(&client_id)?;
            ensure!(committed.len() == 6, "{home:?}: {committed:?}");
        }
        for (side, topic) in Side::BOTH.into_iter().zip(&topics) {
            ensure!(stage.cluster(side).record_count(topic)? == RECORDS, "{topic}");
            stage.is_copied(side, topic)?;
        }
        stage.no_copy_has_diverged(".both")
    })
}
