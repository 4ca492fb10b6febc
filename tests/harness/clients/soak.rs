//! Clients that go on: numbers are produced at a steady rate while a group of two consumes them, if there is one, until the test says stop. What they report ten times
//! a second is what an application would have seen; `tests/clients/README.md` has the form.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{Client, GRACE, Security, prepare, rdkafka_soak, soak_program, wait};
use crate::{process, run};

/// How often a client reports.
pub(super) const REPORT: Duration = Duration::from_millis(100);

/// What is to be produced and consumed.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "as the JSON has them")]
pub struct Job {
    /// `bootstrap.servers`.
    pub bootstrap_servers: String,
    /// `client.id` of all connections.
    pub client_id: String,
    /// Must exist and be empty.
    pub topic: String,
    /// Its partitions get every other record. Must have as many; nobody reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_topic: Option<String>,
    /// `group.id`. None: nobody reads, each acknowledgement is reported, and it ends when each record is acknowledged or given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// How many partitions each topic has.
    pub partitions: usize,
    /// To all partitions together.
    pub records_per_second: u32,
    /// How long the last records may take, once the producer has been stopped, in milliseconds.
    pub timeout_ms: u64,
    /// None for PLAINTEXT.
    pub security: Option<Security>,
    /// Whether the producer is idempotent, if the library has that; else it sends as many requests at a time as the library does by itself.
    pub idempotent: bool,
    /// `all`, `1` or `0`.
    pub acks: &'static str,
    /// How many requests the producer sends ahead of their answers, of librdkafka and Java: the others have five by themselves, or one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// How often the producer tries again, if not as often as the library does by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// How long the producer waits for more records of a batch, if not as long as the library does by itself. kafkajs does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linger_ms: Option<u32>,
    /// How old the producer's metadata get, if not as old as in the library by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_max_age_ms: Option<u32>,
    /// Whether the group uses the cooperative-sticky assignor, or the one that the library comes with.
    pub cooperative: bool,
    /// Whether each member has a `group.instance.id`. Of librdkafka and Java.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_static: bool,
    /// Whether consumers assign the partitions themselves, and only commit for the group. Of librdkafka.
    #[serde(skip)]
    pub assigns: bool,
    /// `group.protocol` of librdkafka and Java 4, if not their own default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_protocol: Option<&'static str>,
    /// More settings of librdkafka's producer, and of its consumers; the other libraries take none.
    #[serde(skip)]
    pub settings: [&'static [(&'static str, &'static str)]; 2],
}

impl Job {
    /// 100 records a second, by an idempotent producer, by PLAINTEXT, read by a group with the name of the client.
    pub fn plain(bootstrap_servers: String, client_id: String, topic: &str, partitions: usize, limit: Duration) -> Self {
        let (group_id, topic, timeout_ms) = (client_id.clone(), topic.to_owned(), limit.as_millis() as u64);
        Self {
            bootstrap_servers,
            client_id,
            topic,
            second_topic: None,
            group_id: Some(group_id),
            partitions,
            records_per_second: 100,
            timeout_ms,
            security: None,
            idempotent: true,
            acks: "all",
            max_in_flight: None,
            retries: None,
            linger_ms: None,
            metadata_max_age_ms: None,
            cooperative: false,
            is_static: false,
            assigns: false,
            group_protocol: None,
            settings: [&[]; 2],
        }
    }

    /// The partitions of all topics, one behind the other: the places of [`Counts`].
    pub fn places(&self) -> Vec<(&str, i32)> {
        let topics = std::iter::once(&self.topic).chain(&self.second_topic);
        topics.flat_map(|topic| (0..self.partitions as i32).map(move |partition| (topic.as_str(), partition))).collect()
    }
}

/// Waits until so many more records of every partition of every client are acknowledged and read.
pub fn go_on<'a>(clients: impl IntoIterator<Item = &'a Soak>, partitions: usize, more: u64, limit: Duration) -> Result<()> {
    let clients: Vec<_> = clients.into_iter().collect();
    let counts = || clients.iter().map(|soak| soak.counts()).collect::<Result<Vec<_>>>();
    let before = counts()?;
    let at = |counts: &[u64], n: usize| counts.get(n).copied().unwrap_or_default();
    let goes = |before: &[u64], now: &[u64]| (0..partitions).all(|n| at(now, n) >= at(before, n) + more);
    let deadline = Instant::now() + limit;
    loop {
        let now = counts()?;
        if before.iter().zip(&now).all(|(before, now)| goes(&before.acked, &now.acked) && goes(&before.consumed, &now.consumed)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{limit:?} without going on: {before:?}, {now:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A line of a client's report.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Progress(Counts),
    /// Without a group: what was acknowledged since the last report.
    Acks(Vec<Ack>),
    /// Something that an application cannot go on with: a record that was given up, an exception of a poll.
    Error(String),
    /// What the library tells of its troubles while it goes on.
    Notice(String),
}

/// What a client has done so far. Each partition's numbers begin with 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// How many records were acknowledged, by partition.
    pub acked: Vec<u64>,
    /// The number up to which the group has read, by partition.
    pub consumed: Vec<u64>,
    /// How many records the group read once more: where it went back to after a rebalance.
    pub again: u64,
    /// How often a number was missing or not in its place.
    pub skipped: u64,
}

/// An acknowledged record; in JSON an array of four. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ack {
    /// Its partition, see [`Job::places`].
    pub place: usize,
    /// Its number in there.
    pub number: u64,
    /// When the application sent it.
    pub sent_ms: u64,
    /// When the application heard that it is acknowledged.
    pub acked_ms: u64,
}

/// What a client saw in a while.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The longest time in which no record of a partition was acknowledged, of all partitions. As exact as the reports, 0.1 s.
    pub longest_ack_pause: Duration,
    /// The longest time in which no record of a partition was read, of all partitions.
    pub longest_consume_pause: Duration,
    /// How many records were read once more.
    pub again: u64,
    /// What the application saw and could not go on with, each with how often.
    pub errors: BTreeMap<String, usize>,
    /// What the library told of its troubles while it went on.
    pub notices: BTreeMap<String, usize>,
}

/// A client that runs. Dropping it stops it, without a look at how it ends.
#[derive(Debug)]
pub struct Soak {
    name: String,
    client_id: String,
    observed: Arc<Mutex<Observed>>,
    stop: Option<Stop>,
    ended: Option<JoinHandle<Result<()>>>,
}

/// Whoever drops it says stop: a driver reads the end of its input, a thread the flag.
#[derive(Debug)]
enum Stop {
    Input(#[expect(dead_code, reason = "held, and closed when dropped")] ChildStdin),
    Flag(Arc<AtomicBool>),
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Self::Flag(flag) = self {
            flag.store(true, Ordering::Relaxed);
        }
    }
}

impl Soak {
    /// Starts one; returns at once.
    pub fn start(client: Client, job: &Job) -> Result<Self> {
        prepare(client)?;
        let name = format!("{} as {}", client.name(), job.client_id);
        let observed = Arc::new(Mutex::new(Observed::default()));
        let (reported_to, limit) = (observed.clone(), Duration::from_millis(job.timeout_ms));
        let (stop, ended) = match soak_program(client)? {
            Some(_) if job.settings != [&[]; 2] => bail!("{} takes no settings of librdkafka", client.name()),
            Some(program) => start_driver(client, program, job, reported_to)?,
            None => {
                let (flag, job) = (Arc::new(AtomicBool::new(false)), job.clone());
                let stop = flag.clone();
                let report = move |line| reported_to.lock().unwrap_or_else(PoisonError::into_inner).take(line, Instant::now());
                let thread = thread::Builder::new().name(name.clone());
                (Stop::Flag(flag), thread.spawn(move || rdkafka_soak::soak(&job, limit, &stop, &report))?)
            }
        };
        Ok(Self { name, client_id: job.client_id.clone(), observed, stop: Some(stop), ended: Some(ended) })
    }

    /// The library and its `client.id`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its `client.id`.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// What it has done so far; an error if it has ended by itself.
    pub fn counts(&self) -> Result<Counts> {
        ensure!(self.ended.as_ref().is_some_and(|ended| !ended.is_finished()), "{} has ended: {:?}", self.name, self.observed());
        Ok(self.observed().counts.clone())
    }

    /// What it saw since this was last asked.
    pub fn seen(&self) -> Seen {
        self.observed().seen(Instant::now())
    }

    /// Stops the producer and returns when all that was sent is acknowledged and read.
    pub fn stop(mut self) -> Result<Counts> {
        self.end()?;
        let counts = self.observed().counts.clone();
        ensure!(counts.acked == counts.consumed && counts.skipped == 0, "{} lost records: {:?}", self.name, self.observed());
        Ok(counts)
    }

    /// Stops a producer whose records nobody reads, and returns what was acknowledged when each is acknowledged or given up, and if it did not come to that.
    pub fn stop_unread(mut self) -> (Vec<Ack>, Result<()>) {
        let ended = self.end();
        (std::mem::take(&mut self.observed().each), ended)
    }

    fn end(&mut self) -> Result<()> {
        self.stop.take();
        let ended = self.ended.take().context("it is stopped once")?;
        let result = ended.join().map_err(|_| anyhow!("panicked")).and_then(|result| result);
        result.with_context(|| format!("{}: {:?}", self.name, self.observed()))
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start_driver(
    client: Client,
    program: Vec<PathBuf>,
    job: &Job,
    observer: Arc<Mutex<Observed>>,
) -> Result<(Stop, JoinHandle<Result<()>>)> {
    process::require("setpriv", "install util-linux (`apt install util-linux`)")?;
    let log = run::folder(client.name())?.join("log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(program).arg(serde_json::to_string(job)?);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?).process_group(0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let limit = Duration::from_millis(job.timeout_ms) + GRACE;
    // The death signal is sent when the *thread* that started it ends: this one stays until the driver has ended.
    let ended = thread::Builder::new().name(job.client_id.clone()).spawn(move || {
        let mut child = command.spawn().context("setpriv can't be started")?;
        let _ = sender.send(child.stdin.take());
        let read = observe(&mut child, &observer);
        let status = wait(&mut child, limit)?;
        let status = status.with_context(|| format!("killed {limit:?} after its output ended"))?;
        read.with_context(|| format!("the end of {}:\n{}", log.display(), process::log_tail(&log, 30)))?;
        ensure!(status.success(), "ended with {status}; the end of {}:\n{}", log.display(), process::log_tail(&log, 30));
        Ok(())
    })?;
    match receiver.recv() {
        Ok(Some(input)) => Ok((Stop::Input(input), ended)),
        _ => match ended.join() {
            Ok(Err(error)) => Err(error),
            _ => bail!("{} has no input", client.name()),
        },
    }
}

fn observe(child: &mut Child, observer: &Mutex<Observed>) -> Result<()> {
    for line in BufReader::new(child.stdout.take().context("a driver's output is piped")?).lines() {
        let line = line?;
        let read = serde_json::from_str(&line).with_context(|| format!("no report: {line:?}"))?;
        observer.lock().unwrap_or_else(PoisonError::into_inner).take(read, Instant::now());
    }
    Ok(())
}

/// What was reported, and when.
#[derive(Debug, Default)]
struct Observed {
    counts: Counts,
    each: Vec<Ack>,
    acks: Vec<Pause>,
    reads: Vec<Pause>,
    again_before: u64,
    errors: BTreeMap<String, usize>,
    notices: BTreeMap<String, usize>,
}

/// The longest time in which a number stayed the same.
#[derive(Debug, Clone, Copy)]
struct Pause {
    changed: Instant,
    longest: Duration,
}

impl Observed {
    fn take(&mut self, line: Line, now: Instant) {
        match line {
            Line::Progress(counts) => {
                pauses(&mut self.acks, &self.counts.acked, &counts.acked, now);
                pauses(&mut self.reads, &self.counts.consumed, &counts.consumed, now);
                self.counts = counts;
            }
            Line::Acks(acks) => self.each.extend(acks),
            Line::Error(error) => *self.errors.entry(error).or_default() += 1,
            Line::Notice(notice) => *self.notices.entry(notice).or_default() += 1,
        }
    }

    fn seen(&mut self, now: Instant) -> Seen {
        let again = self.counts.again - std::mem::replace(&mut self.again_before, self.counts.again);
        Seen {
            longest_ack_pause: longest(&mut self.acks, now),
            longest_consume_pause: longest(&mut self.reads, now),
            again,
            errors: std::mem::take(&mut self.errors),
            notices: std::mem::take(&mut self.notices),
        }
    }
}

fn pauses(pauses: &mut Vec<Pause>, before: &[u64], counts: &[u64], now: Instant) {
    pauses.resize(counts.len(), Pause { changed: now, longest: Duration::ZERO });
    for (n, (pause, count)) in pauses.iter_mut().zip(counts).enumerate() {
        if before.get(n) != Some(count) {
            pause.longest = pause.longest.max(now - pause.changed);
            pause.changed = now;
        }
    }
}

/// Of all partitions, also one that stands still right now; from here on anew.
fn longest(pauses: &mut [Pause], now: Instant) -> Duration {
    let all = pauses.iter_mut().map(|pause| std::mem::take(&mut pause.longest).max(now - pause.changed));
    all.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_that_of_the_slowest_partition_also_if_it_goes_on() {
        let (start, mut observed) = (Instant::now(), Observed::default());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let progress = |observed: &mut Observed, seconds, acked: [u64; 2], again| {
            let counts = Counts { acked: acked.to_vec(), consumed: vec![1, 1], again, skipped: 0 };
            observed.take(Line::Progress(counts), at(seconds));
        };
        progress(&mut observed, 0, [1, 1], 0);
        progress(&mut observed, 2, [2, 1], 4);
        progress(&mut observed, 5, [3, 2], 4);
        let seen = observed.seen(at(6));
        assert_eq!((seen.longest_ack_pause, seen.longest_consume_pause, seen.again), (at(5) - start, at(6) - start, 4));
        progress(&mut observed, 7, [4, 3], 5);
        let seen = observed.seen(at(7));
        assert_eq!((seen.longest_ack_pause, seen.again), (at(2) - start, 1));
    }

    #[test]
    fn reports_are_lines_of_json() {
        let read = |line| serde_json::from_str::<Line>(line).unwrap();
        let progress = r#"{"progress":{"acked":[1,2],"consumed":[1,1],"again":0,"skipped":0}}"#;
        assert!(matches!(read(progress), Line::Progress(Counts { acked, .. }) if acked == [1, 2]));
        let acks = read(r#"{"acks":[[1,12,1000,1004]]}"#);
        assert!(matches!(acks, Line::Acks(acks) if matches!(acks[..], [Ack { place: 1, number: 12, sent_ms: 1000, acked_ms: 1004 }])));
        assert!(matches!(read(r#"{"error":"producing: no"}"#), Line::Error(error) if error == "producing: no"));
    }
}
