//! Systems whose members are no plain consumers: workers of Kafka Connect, and an application of Kafka Streams.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::process::Process;
use harness::run;
use harness::stage::Side;
use harness::systems::{self, Worker};

use crate::{Going, LIMIT, MOVES, PARTITIONS, Stage, go_on, moves};

/// Between two lines of the file that is read.
const LINE: Duration = Duration::from_millis(20);

/// How long lines go on after a move.
const AFTER: Duration = Duration::from_secs(3);

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Two workers, a source that reads a file and a sink that writes another one. The group of the workers has the protocol `connect`, that of the sink is one
/// of consumers.
#[test]
#[ignore = "`make soak` runs it: two workers of Kafka Connect take half a minute to start"]
fn workers_of_kafka_connect_move_there_and_back() -> Result<()> {
    let stage = Stage::small("3.9.1", "0")?;
    stage.copied_topic("orders.lines")?;
    let folder = run::folder("connect")?;
    let (input, output, servers) = (folder.join("input"), folder.join("output"), stage.proxies[0].bootstrap_servers());
    let properties = [
        ("bootstrap.servers", &*servers),
        ("group.id", "orders-connect"),
        ("client.id", "orders-worker"),
        ("config.storage.topic", "orders.connect-configs"),
        ("offset.storage.topic", "orders.connect-offsets"),
        ("status.storage.topic", "orders.connect-statuses"),
    ];
    let mut workers = Vec::new();
    for name in ["one", "two"] {
        let folder = folder.join(name);
        fs::create_dir(&folder)?;
        workers.push(Worker::distributed(&folder, &properties)?);
    }
    let (from, to) = (input.to_string_lossy(), output.to_string_lossy());
    let source =
        [("connector.class", "org.apache.kafka.connect.file.FileStreamSourceConnector"), ("file", &*from), ("topic", "orders.lines")];
    workers[0].configure("orders-source", &source)?;
    let sink = [
        ("connector.class", "org.apache.kafka.connect.file.FileStreamSinkConnector"),
        ("file", &*to),
        ("topics", "orders.lines"),
        ("consumer.override.group.id", "orders-sink"),
    ];
    workers[0].configure("orders-sink", &sink)?;
    let groups = ["orders-connect", "orders-sink"].map(str::to_owned);
    let ends = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let writing = scope.spawn(|| -> Result<Vec<String>> {
            let (mut file, mut written) = (File::create(&input)?, Vec::new());
            while !ends.load(Ordering::Relaxed) {
                let line = format!("line {}", written.len());
                writeln!(file, "{line}")?;
                written.push(line);
                thread::sleep(LINE);
            }
            Ok(written)
        });
        let moved = workers_move(&stage, &mut workers[0], &output, &groups);
        ends.store(true, Ordering::Relaxed);
        let written = writing.join().expect("it returns its errors");
        moved.and(written)
    })
    .with_context(|| stage.logs().unwrap_or_default())?;
    workers[0].comes(|_| {
        let found = lines(&output);
        ensure!(found.len() >= written.len(), "{} of {} lines", found.len(), written.len());
        Ok(())
    })?;
    workers.into_iter().try_for_each(Worker::stop)?;
    let found = lines(&output);
    let wrong = found.iter().zip(&written).position(|(found, written)| found != written);
    ensure!(
        wrong.is_none() && found.len() == written.len(),
        "{} lines written, {} read, the first that differs is {wrong:?}",
        written.len(),
        found.len()
    );
    println!("{} lines went through, each once", found.len());
    Ok(())
}

fn workers_move(stage: &Stage, worker: &mut Worker, output: &Path, groups: &[String]) -> Result<()> {
    worker.comes(|_| {
        ensure!(lines(output).len() > 10, "the sink has not begun");
        Ok(())
    })?;
    for n in 0..MOVES {
        for side in [Side::New, Side::Legacy] {
            stage.edit(side)?;
            let [led, took] = stage.live(side, groups)?;
            println!("move {n} of Connect to {side:?}: topics {led:.2?} after the edit, groups {took:.2?}");
            let so_far = lines(output).len();
            thread::sleep(AFTER);
            worker.comes(|worker| {
                ensure!(lines(output).len() > so_far, "the sink stands still at {so_far} lines");
                for connector in ["orders-source", "orders-sink"] {
                    let status = worker.ask("GET", &format!("/connectors/{connector}/status"), "")?;
                    ensure!(status["connector"]["state"] == "RUNNING" && status["tasks"][0]["state"] == "RUNNING", "{status}");
                }
                Ok(())
            })?;
            for (group, members) in groups.iter().zip([2, 1]) {
                let (here, there) = (stage.cluster(side).group(group)?, stage.cluster(side.other()).group(group)?);
                ensure!(
                    here.client_ids.len() == members && there.client_ids.is_empty(),
                    "{group} on {side:?}: {here:?}, on the other one {there:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "`make soak` runs it: an application of Kafka Streams takes half a minute to start"]
fn an_application_of_kafka_streams_moves_there_and_back() -> Result<()> {
    counts_words("at_least_once", |stage, counting| {
        let groups = ["orders-words", GROUP].map(str::to_owned);
        for n in 0..MOVES {
            for side in [Side::New, Side::Legacy] {
                stage.edit(side)?;
                let [led, took] = stage.live(side, &groups).with_context(|| counting.application.log_tail(60))?;
                println!("move {n} of Streams to {side:?}: topics {led:.2?} after the edit, groups {took:.2?}");
                counting.goes_on(stage, side)?;
                let (here, there) = (stage.cluster(side).group(GROUP)?, stage.cluster(side.other()).group(GROUP)?);
                ensure!(here.client_ids.len() == 2 && there.client_ids.is_empty(), "on {side:?}: {here:?}, on the other one {there:?}");
            }
        }
        Ok(())
    })
}

/// Its topics have transactional producers, and its group commits in transactions.
#[test]
#[ignore = "`make soak` runs it: an application of Kafka Streams takes half a minute to start"]
fn an_application_with_exactly_once_stays_where_it_is_and_goes_on() -> Result<()> {
    counts_words("exactly_once_v2", |stage, counting| {
        stage.edit(Side::New)?;
        stage.comes("it is said what is in the way", || {
            let moves = moves(&stage.proxies[0])?;
            let waits = moves["waits"]["orders"].to_string();
            let named = [format!("group {GROUP}: "), format!("topic {COUNTS}: ")].iter().all(|name| waits.contains(name.as_str()));
            ensure!(named && waits.contains("transaction"), "{moves}");
            Ok(())
        })?;
        counting.goes_on(stage, Side::Legacy)?;
        ensure!(stage.cluster(Side::Legacy).group(GROUP)?.client_ids.len() == 2, "its group has lost somebody");
        stage.edit(Side::Legacy)?;
        counting.goes_on(stage, Side::Legacy)
    })
}

const GROUP: &str = "orders.streams";
const COUNTS: &str = "orders.counts";

/// A word count with a repartition topic and a changelog. The words are the numbers of a client that goes on, of which each partition has one: so each comes
/// as often as there are partitions, and is counted once more if it is read twice.
struct Counting {
    application: Process,
    words: [Going; 1],
}

impl Counting {
    /// The counts on a cluster, and the markers of transactions.
    fn counted(stage: &Stage, side: Side) -> Result<usize> {
        Ok(stage.cluster(side).log_ends(COUNTS)?.iter().sum::<i64>() as usize)
    }

    fn goes_on(&mut self, stage: &Stage, side: Side) -> Result<()> {
        let so_far = Self::counted(stage, side)?;
        go_on(&self.words)?;
        systems::comes(&mut self.application, || {
            let now = Self::counted(stage, side)?;
            ensure!(now > so_far + 100, "{now} counts, {so_far} before");
            Ok(())
        })
    }
}

fn counts_words(guarantee: &str, drive: impl FnOnce(&Stage, &mut Counting) -> Result<()>) -> Result<()> {
    let stage = Stage::small("3.9.1", "0")?;
    for topic in ["orders.words", COUNTS] {
        stage.copied_topic(topic)?;
    }
    let folder = run::folder("streams")?;
    let (kept, servers) = (folder.join("state"), stage.proxies[0].bootstrap_servers());
    let lines = [
        ("bootstrap.servers", &*servers),
        ("application.id", GROUP),
        ("client.id", "orders-streams"),
        ("processing.guarantee", guarantee),
        ("state.dir", &*kept.to_string_lossy()),
        ("num.stream.threads", "2"),
        ("replication.factor", "1"),
        ("statestore.cache.max.bytes", "0"),
        ("auto.offset.reset", "earliest"),
    ];
    let file = systems::properties(&folder, "streams.properties", &lines)?;
    let command = systems::java("WordCount", [&*file, Path::new("orders.words"), Path::new(COUNTS)])?;
    let application = Process::spawn("a Streams application", &command, &folder.join("log"))?;
    let job = soak::Job::plain(servers, "orders-words".to_owned(), "orders.words", PARTITIONS, LIMIT);
    let soak = Soak::start(Client::Rdkafka, &soak::Job { records_per_second: 40, ..job.clone() })?;
    let mut counting = Counting { application, words: [Going { soak, group: job.client_id, members: 2 }] };
    systems::comes(&mut counting.application, || {
        ensure!(Counting::counted(&stage, Side::Legacy)? > 100, "it has not begun");
        Ok(())
    })?;
    drive(&stage, &mut counting)?;
    let Counting { mut application, words: [Going { soak, .. }] } = counting;
    let sent: u64 = soak.stop()?.acked.iter().sum();
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    // With markers of transactions in between a log's end does not tell how many there are.
    systems::comes(&mut application, || {
        let counted = stage.cluster(Side::Legacy).read_all(COUNTS)?.len();
        ensure!(counted as u64 >= sent, "{counted} of {sent} counts");
        Ok(())
    })?;
    application.terminate(LIMIT)?;
    let mut counts = BTreeMap::<_, Vec<_>>::new();
    for record in stage.cluster(Side::Legacy).read_all(COUNTS)? {
        counts.entry(text(record.key.as_deref())).or_default().push(text(record.value.as_deref()));
    }
    let exact: Vec<String> = (1..).map(|count: usize| count.to_string()).take(PARTITIONS).collect();
    let is_wrong = |(_, counts): &(&String, &Vec<String>)| !exact.starts_with(counts);
    let wrong: Vec<_> = counts.iter().filter(is_wrong).take(5).collect();
    ensure!(
        wrong.is_empty() && counts.values().map(Vec::len).sum::<usize>() as u64 == sent,
        "{sent} were sent; counted otherwise: {wrong:?}"
    );
    println!("{sent} words went through, each counted once");
    Ok(())
}
