//! `kferry dlt`: the records that `on_error = "dead-letter"` has left out: listed, shown, replayed.
//!
//! A dead letter's place in the copy is taken by a marker, and the copy is nobody's to write to but the mirror's: so a replay appends to the
//! *leading* cluster's topic, from where the record is mirrored like any other. What has been replayed is kept as the committed offset of a
//! group on the topic of dead letters: after each record, so that a second replay goes on behind the first.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use kferry_config::{Config, Mirror, dead_letter_topic, is_internal};
use kferry_mirror::PATIENCE;
use kferry_mirror::dead_letters::Letter;
use kferry_mirror::named;
use kferry_mirror::partition::{Direction, Side};
use kferry_mirror::state::{State, StateError};
use kferry_mirror::{connect_options, patient_clients};
use kferry_wire::admin::groups::CommittedOffset;
use kferry_wire::admin::partitions::Position;
use kferry_wire::batch::{Codec, Record};
use kferry_wire::client::{Client, ClientError, Metadata, TopicPartition, Topics};
use kferry_wire::exit::{self, Exit};
use kferry_wire::log::append_compressed;
use kferry_wire::log::{LogReader, ReadError};
use serde::Serialize;

use crate::check::{count, print_json, printable, table, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};
use crate::mirrors::Chosen;

/// Bytes of a log in one answer.
const ANSWER: i32 = 1 << 20;
/// An offset that was committed by a group without members expires, after a week by default; this one must not.
const KEPT: Duration = Duration::from_hours(10 * 365 * 24);

/// Lists, shows and replays the records that the [[mirrors]] left out with on_error = "dead-letter"
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How many dead letters there are of each topic, and why
    #[command(after_help = exit::help(&["kferry dlt list"]))]
    List(What),
    /// What is in them
    #[command(after_help = exit::help(&["kferry dlt show"]))]
    Show {
        #[command(flatten)]
        what: What,
        /// Only those from this offset of the topic of dead letters on
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: i64,
        /// At most so many of each topic
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        limit: usize,
        /// At most so many bytes of a key, a value or a header
        #[arg(long, value_name = "NUMBER", default_value_t = 256)]
        bytes: usize,
    },
    /// Appends those that were not replayed before to the topic that they come from, on the cluster that leads it
    #[command(after_help = exit::help(&["kferry dlt replay"]))]
    Replay {
        #[command(flatten)]
        what: What,
        /// To this topic of the target instead, to look at them there. It must not be a copied one
        #[arg(long, value_name = "TOPIC")]
        to_topic: Option<String>,
        /// Does not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
struct What {
    #[command(flatten)]
    chosen: Chosen,
    /// Only this topic, by its name on the source
    topic: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ok: bool,
    topics: Vec<TopicReport>,
    errors: Vec<String>,
}

#[derive(Default, Serialize)]
struct TopicReport {
    mirror: Arc<str>,
    /// By its name on the source.
    topic: Arc<str>,
    /// The cluster that has the dead letters.
    cluster: Arc<str>,
    dead_letters: Arc<str>,
    records: u64,
    /// Replayed to the leader, or passed over by a replay.
    replayed: u64,
    /// The earliest and the latest timestamp of the records.
    oldest: Option<String>,
    newest: Option<String>,
    /// By Kafka's error.
    errors: BTreeMap<String, u64>,
    /// Records in the topic that this mirror did not write.
    foreign: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    letters: Vec<Shown>,
    /// What a replay did.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<Replayed>,
}

/// A dead letter, as it is shown.
#[derive(Serialize)]
struct Shown {
    offset: i64,
    topic: String,
    partition: i32,
    original_offset: i64,
    timestamp: Option<String>,
    error: String,
    reason: String,
    /// Otherwise the value is a batch that could not be read.
    is_record: bool,
    replayed: bool,
    key: Option<Content>,
    value: Option<Content>,
    headers: Vec<(String, Option<Content>)>,
}

/// Bytes, or the first of them: as text where they are, in hex elsewhere.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Content {
    /// All of them.
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

#[derive(Default, Serialize)]
struct Replayed {
    cluster: Arc<str>,
    topic: Arc<str>,
    records: u64,
    /// Written twice by the mirror, which was killed in between: once is enough.
    twice: u64,
    /// Batches that could not be read: there is no record to replay.
    unreadable: u64,
}

/// What cannot be done with dead letters.
enum Failed {
    Client(ClientError),
    Read(ReadError),
    Told(String),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Read(error) => error.fmt(f),
            Self::Told(sentence) => f.write_str(sentence),
        }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

pub(crate) fn run(args: &Args) -> Exit {
    let (Command::List(what) | Command::Show { what, .. } | Command::Replay { what, .. }) = &args.command;
    let (config, chosen) = match what.chosen.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let report = runtime.block_on(async {
        let mut report = Report { ok: false, topics: Vec::new(), errors: Vec::new() };
        let mut is_known = false;
        for mirror in &chosen {
            match Box::pin(report.look(&config, mirror, args)).await {
                Ok(found) => is_known |= found,
                Err(error) => report.errors.push(format!("mirror {}: {error}", mirror.name)),
            }
        }
        if let Some(only) = what.topic.as_ref().filter(|_| !is_known) {
            report.errors.push(format!("topic {only} is not one that these mirrors copy, or not on their source"));
        }
        report
    });
    // Dropped, it would wait for look-ups in the DNS, which can go on for a minute after they have been given up.
    runtime.shutdown_background();
    finish(report, args)
}

fn finish(mut report: Report, args: &Args) -> Exit {
    let (Command::List(what) | Command::Show { what, .. } | Command::Replay { what, .. }) = &args.command;
    let unreadable: u64 = report.topics.iter().filter_map(|topic| Some(topic.replay.as_ref()?.unreadable)).sum();
    if unreadable > 0 {
        report.errors.push(format!(
            "{} passed over: the source's log is damaged there, and what is left of a batch is no record; `kferry dlt show` has the bytes",
            count(unreadable as usize, "dead letter")
        ));
    }
    report.ok = report.errors.is_empty();
    if what.chosen.json {
        print_json(&report);
    } else {
        to_stdout(&match &args.command {
            // Where somebody could not be asked, nobody knows.
            Command::List(_) if report.topics.is_empty() && !report.errors.is_empty() => String::new(),
            Command::List(_) => listed(&report.topics),
            Command::Show { .. } => report.topics.iter().map(shown).collect(),
            Command::Replay { .. } if report.topics.is_empty() && report.errors.is_empty() => "no dead letters\n".to_owned(),
            Command::Replay { .. } => report.topics.iter().filter_map(replayed).collect(),
        });
        for error in &report.errors {
            to_stderr(&labelled(Severity::Error, &printable(error)));
        }
    }
    Exit::done(report.ok)
}

/// The dead letters of one topic.
struct Letters {
    mirror: Arc<str>,
    /// By its name on the source.
    topic: Arc<str>,
    /// The topic of dead letters.
    side: Side,
    partitions: i32,
    /// Where the topic is led.
    leader: Side,
    leader_partitions: i32,
}

/// Where records go.
struct Destination {
    side: Side,
    partitions: i32,
    /// Whose committed offset says what has been replayed there.
    group: String,
    /// Whether it is the topic that they come from.
    is_leader: bool,
}

impl Report {
    /// Looks at the dead letters of a mirror. Says whether it has the topic that is asked for.
    async fn look(&mut self, config: &Config, mirror: &Mirror, args: &Args) -> Result<bool, Failed> {
        let (Command::List(what) | Command::Show { what, .. } | Command::Replay { what, .. }) = &args.command;
        let (source, target) = patient_clients(mirror);
        let (on_source, on_target) = tokio::try_join!(source.metadata(Topics::All), target.metadata(Topics::All))?;
        let state = State::open(target.clone(), mirror, false).await.map_err(|error: StateError| Failed::Told(error.to_string()))?;
        let images = images(mirror, &on_source);
        let mut found = false;
        for (topic, image) in &images {
            if what.topic.as_ref().is_some_and(|only| **only != **topic && *only != dead_letter_topic(image)) {
                continue;
            }
            found = true;
            let leadership = state.as_ref().and_then(|state| state.leader(topic));
            let direction = leadership
                .map_or(Direction::Forwards, |leadership| Direction::led_by(mirror, &leadership.leader).unwrap_or(Direction::Backwards));
            let (leader, follower) = direction.leader_first((&source, topic, &on_source), (&target, image, &on_target));
            let dead: Arc<str> = dead_letter_topic(follower.1).into();
            let Some(there) = follower.2.topic(&dead).filter(|topic| topic.error.is_none()) else { continue };
            // It is the copy of an application's own dead letters.
            if images.values().any(|image| *image == dead) || images.contains_key(&dead) {
                continue;
            }
            let letters = Letters {
                mirror: mirror.name.clone(),
                topic: topic.clone(),
                side: Side { client: follower.0.clone(), topic: dead.clone() },
                partitions: there.partitions.len() as i32,
                leader: Side { client: leader.0.clone(), topic: leader.1.clone() },
                leader_partitions: leader.2.topic(leader.1).map_or(0, |topic| topic.partitions.len() as i32),
            };
            let destination = match &args.command {
                Command::Replay { to_topic: Some(to), .. } => letters.elsewhere(&target, &on_target, to, config).await?,
                _ => letters.home(),
            };
            let report = match &args.command {
                Command::List(_) => letters.read(&destination, None).await,
                Command::Show { from, limit, bytes, .. } => letters.read(&destination, Some((*from, *limit, *bytes))).await,
                Command::Replay { yes, .. } => Box::pin(letters.replay(&destination, *yes)).await,
            };
            match report {
                Ok(report) => self.topics.push(report),
                Err(error) => self.errors.push(format!("mirror {}: topic {topic}: {error}", mirror.name)),
            }
        }
        if what.topic.is_none() {
            let unseen = named::unseen_topics(mirror, |name| images.contains_key(name));
            self.errors.extend(unseen.map(|(_, sentence)| format!("mirror {}: {sentence}", mirror.name)));
        }
        Ok(found)
    }
}

/// The topics that a mirror copies, with their names on the target.
fn images(mirror: &Mirror, on_source: &Metadata) -> BTreeMap<Arc<str>, Arc<str>> {
    let selected = on_source.topics.iter().filter(|topic| topic.error.is_none() && !topic.internal && mirror.topics.matches(&topic.name));
    selected.filter_map(|topic| Some((topic.name.clone(), mirror.naming.target(&topic.name).ok()?.as_ref().into()))).collect()
}

impl Letters {
    fn home(&self) -> Destination {
        let group = format!("__kferry.dlt.{}", self.mirror);
        Destination { side: self.leader.clone(), partitions: self.leader_partitions, group, is_leader: true }
    }

    /// Another topic, which nobody mirrors into.
    async fn elsewhere(&self, target: &Client, on_target: &Metadata, to: &str, config: &Config) -> Result<Destination, Failed> {
        let refused = |why: String| Failed::Told(format!("nothing is replayed to {to}: {why}"));
        let cluster = &target.cluster().name;
        if is_internal(to) || *to == *self.side.topic {
            return Err(refused("it belongs to Kafka or kferry; name another topic".to_owned()));
        }
        for mirror in config.mirrors.iter().filter(|mirror| mirror.target.name == *cluster) {
            let source = Client::new(mirror.source.clone(), connect_options(&mirror.name)).within(PATIENCE);
            let images = images(mirror, &source.metadata(Topics::All).await?);
            if images.values().any(|image| **image == *to) {
                return Err(refused(format!(
                    "mirror {} copies to it, and a record from anybody else would take an offset of the copy: it would have diverged. Without \
                     --to-topic a replay goes to the topic that the record comes from, and is mirrored from there",
                    mirror.name
                )));
            }
        }
        let there = on_target.topic(to).filter(|topic| topic.error.is_none());
        let there = there.ok_or_else(|| refused(format!("there is no such topic on {cluster}; create it first")))?;
        let side = Side { client: target.clone(), topic: to.into() };
        // No mirror's name has a colon.
        let group = format!("__kferry.dlt.{}:{to}", self.mirror);
        Ok(Destination { side, partitions: there.partitions.len() as i32, group, is_leader: false })
    }

    /// From where to where each partition reaches, and up to where it was replayed.
    async fn ranges(&self, destination: &Destination) -> Result<Vec<(i32, i64, i64, i64)>, Failed> {
        let partitions: Vec<_> = (0..self.partitions).map(|partition| self.side.partition(partition)).collect();
        let client = &self.side.client;
        let starts = client.list_offsets(&partitions, Position::LogStart).await;
        let ends = client.list_offsets(&partitions, Position::HighWatermark).await;
        let mut committed = client.offset_fetch(&[&destination.group], false).await;
        let committed = committed.remove(&destination.group).transpose()?.unwrap_or_default();
        let mut ranges = Vec::new();
        for partition in partitions {
            let offset = |answers: &BTreeMap<_, Result<i64, ClientError>>| {
                answers.get(&partition).cloned().transpose().map(Option::unwrap_or_default)
            };
            let replayed = committed.get(&partition).map_or(0, |committed| committed.offset);
            ranges.push((partition.partition, offset(&starts)?, offset(&ends)?, replayed));
        }
        Ok(ranges)
    }

    fn report(&self) -> TopicReport {
        TopicReport {
            mirror: self.mirror.clone(),
            topic: self.topic.clone(),
            cluster: self.side.cluster().clone(),
            dead_letters: self.side.topic.clone(),
            ..TopicReport::default()
        }
    }

    /// Looks at all of them; with `(from, limit, bytes)` also into some.
    async fn read(&self, destination: &Destination, show: Option<(i64, usize, usize)>) -> Result<TopicReport, Failed> {
        let mut report = self.report();
        let mut times: Option<(i64, i64)> = None;
        for (partition, start, end, replayed) in self.ranges(destination).await? {
            let mut reader = LogReader::new(self.side.client.clone(), self.side.partition(partition), start..end, ANSWER);
            while let Some(record) = reader.next().await? {
                let Some(letter) = Letter::read(&self.mirror, record) else {
                    report.foreign += 1;
                    continue;
                };
                let is_replayed = letter.offset < replayed;
                report.records += 1;
                report.replayed += u64::from(is_replayed);
                *report.errors.entry(letter.error.clone()).or_default() += 1;
                let time = letter.record.timestamp;
                times = Some(times.map_or((time, time), |(oldest, newest)| (oldest.min(time), newest.max(time))));
                if let Some((from, limit, bytes)) = show
                    && letter.offset >= from
                    && report.letters.len() < limit
                {
                    report.letters.push(Shown::new(letter, is_replayed, bytes));
                }
            }
        }
        (report.oldest, report.newest) = times.map_or((None, None), |(oldest, newest)| (time(oldest), time(newest)));
        Ok(report)
    }

    async fn replay(&self, destination: &Destination, yes: bool) -> Result<TopicReport, Failed> {
        let mut report = self.read(destination, None).await?;
        let (cluster, topic) = (destination.side.cluster().clone(), destination.side.topic.clone());
        let left = report.records - report.replayed;
        let mut done = Replayed { cluster, topic, ..Replayed::default() };
        if left > 0 {
            self.confirm(destination, left, yes)?;
            for (partition, start, end, replayed) in self.ranges(destination).await? {
                self.replay_partition(destination, partition, start..end, replayed, &mut done).await.map_err(|error| {
                    let kept = count(done.records as usize, "record");
                    Failed::Told(format!("{error}. Before it {kept} had been replayed, and will not be again"))
                })?;
            }
            report.replayed = report.records;
        }
        report.replay = Some(done);
        Ok(report)
    }

    fn confirm(&self, destination: &Destination, left: u64, yes: bool) -> Result<(), Failed> {
        if yes {
            return Ok(());
        }
        let (cluster, topic) = (destination.side.cluster(), &destination.side.topic);
        let order =
            if destination.is_leader { ", behind what is newer: where records have a key, an old value becomes the latest" } else { "" };
        let question = format!("{} of {} to {topic} on {cluster}{order}", count(left as usize, "dead letter"), self.topic);
        if !std::io::stdin().is_terminal() {
            return Err(Failed::Told(format!("nobody can be asked whether to replay {question}; add --yes")));
        }
        let _ = write!(std::io::stderr(), "Replay {}? [y/N] ", printable(&question));
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failed::Told("not replayed".to_owned())) }
    }

    async fn replay_partition(
        &self,
        destination: &Destination,
        partition: i32,
        offsets: std::ops::Range<i64>,
        replayed: i64,
        done: &mut Replayed,
    ) -> Result<(), Failed> {
        let own = self.side.partition(partition);
        // A mirror that is killed between the dead letter and its state writes the letter again.
        let mut seen: HashSet<(i32, i64, i64)> = HashSet::new();
        let mut reader = LogReader::new(self.side.client.clone(), self.side.partition(partition), offsets, ANSWER);
        while let Some(record) = reader.next().await? {
            let Some(letter) = Letter::read(&self.mirror, record) else { continue };
            let is_new = seen.insert((letter.partition, letter.original_offset, letter.record.timestamp));
            if letter.offset < replayed {
                continue;
            }
            if !letter.is_record {
                done.unreadable += 1;
            } else if is_new {
                let to = destination.partition(&letter)?;
                let record = Record { offset: 0, ..letter.record };
                append_compressed(&destination.side.client, &to, vec![record], Codec::Gzip, || true).await.map_err(|error| {
                    let (at, from) = (letter.original_offset, TopicPartition::new(letter.topic.as_str(), letter.partition));
                    Failed::Told(format!(
                        "the record of {from} that was at offset {at}: {error}; kferry has to have WRITE on the topic there"
                    ))
                })?;
                done.records += 1;
            } else {
                done.twice += 1;
            }
            let position = CommittedOffset { offset: letter.offset + 1, leader_epoch: None, metadata: String::new() };
            let committed =
                self.side.client.offset_commit(&destination.group, &BTreeMap::from([(own.clone(), position)]), Some(KEPT)).await;
            committed.into_values().collect::<Result<(), _>>()?;
        }
        Ok(())
    }
}

impl Destination {
    fn partition(&self, letter: &Letter) -> Result<TopicPartition, Failed> {
        let (partition, topic) = (letter.partition, &self.side.topic);
        match partition {
            _ if partition < self.partitions => Ok(self.side.partition(partition)),
            _ if self.is_leader || self.partitions == 0 => {
                Err(Failed::Told(format!("{topic} on {} has no partition {partition}", self.side.cluster())))
            }
            _ => Ok(self.side.partition(partition % self.partitions)),
        }
    }
}

impl Shown {
    fn new(letter: Letter, replayed: bool, bytes: usize) -> Self {
        let Letter { offset, topic, partition, original_offset, error, reason, is_record, record } = letter;
        let content = |content: &[u8]| Content::new(content, bytes);
        let header = |(name, value): &(bytes::Bytes, Option<bytes::Bytes>)| {
            (String::from_utf8_lossy(name).into_owned(), value.as_deref().map(content))
        };
        Self {
            offset,
            topic,
            partition,
            original_offset,
            timestamp: time(record.timestamp),
            error,
            reason,
            is_record,
            replayed,
            key: record.key.as_deref().map(content),
            value: record.value.as_deref().map(content),
            headers: record.headers.iter().map(header).collect(),
        }
    }
}

impl Content {
    fn new(content: &[u8], limit: usize) -> Self {
        let cut = &content[..content.len().min(limit)];
        // The limit may be in the middle of a character.
        let text = match str::from_utf8(cut) {
            Ok(text) => Some(text),
            Err(error) if cut.len() < content.len() && error.error_len().is_none() => str::from_utf8(&cut[..error.valid_up_to()]).ok(),
            Err(_) => None,
        };
        let text = text.filter(|text| !text.contains(|char: char| char.is_control() && !char.is_whitespace()));
        let hex = || cut.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        Self { bytes: content.len(), text: text.map(str::to_owned), hex: if text.is_none() { Some(hex()) } else { None } }
    }

    fn text(&self) -> String {
        let shown = match (&self.text, &self.hex) {
            (Some(text), _) => (format!("{text:?}"), text.len()),
            (None, Some(hex)) => (format!("0x{hex}"), hex.len() / 2),
            (None, None) => (String::new(), 0),
        };
        if shown.1 < self.bytes { format!("{}… ({} bytes)", shown.0, self.bytes) } else { shown.0 }
    }
}

fn time(timestamp: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(timestamp).ok().filter(|_| timestamp >= 0).map(|time| time.to_string())
}

fn listed(topics: &[TopicReport]) -> String {
    if topics.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let head = ["MIRROR", "TOPIC", "DEAD LETTERS", "RECORDS", "REPLAYED", "OLDEST", "NEWEST", "ERRORS"].map(str::to_owned).to_vec();
    let row = |topic: &TopicReport| {
        let errors: Vec<_> = topic.errors.iter().map(|(error, number)| format!("{error} {number}")).collect();
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
        [
            topic.mirror.to_string(),
            topic.topic.to_string(),
            format!("{} on {}", topic.dead_letters, topic.cluster),
            topic.records.to_string(),
            topic.replayed.to_string(),
            time(&topic.oldest),
            time(&topic.newest),
            errors.join(", "),
        ]
        .map(|cell| printable(&cell))
        .to_vec()
    };
    let rows: Vec<_> = [head].into_iter().chain(topics.iter().map(row)).collect();
    let mut out = table(&rows);
    for topic in topics.iter().filter(|topic| topic.foreign > 0) {
        let _ = writeln!(
            out,
            "{} in {} that mirror {} did not write",
            count(topic.foreign as usize, "record"),
            topic.dead_letters,
            topic.mirror
        );
    }
    out
}

fn shown(topic: &TopicReport) -> String {
    let mut out = String::new();
    for letter in &topic.letters {
        let done = if letter.replayed { ", replayed" } else { "" };
        let _ = writeln!(
            out,
            "{}-{} offset {} ({} offset {}{done})",
            letter.topic, letter.partition, letter.original_offset, topic.dead_letters, letter.offset
        );
        let content = |content: &Option<Content>| content.as_ref().map_or_else(|| "null".to_owned(), Content::text);
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "  {name:7}  {}", printable(value));
        };
        line("error", &format!("{}: {}", letter.error, letter.reason));
        line("time", letter.timestamp.as_deref().unwrap_or("-"));
        if letter.is_record {
            line("key", &content(&letter.key));
            line("value", &content(&letter.value));
        } else {
            line("batch", &content(&letter.value));
        }
        for (name, value) in &letter.headers {
            line("header", &format!("{name} = {}", content(value)));
        }
    }
    let _ = writeln!(out, "{} of {} in {}", topic.letters.len(), count(topic.records as usize, "dead letter"), topic.dead_letters);
    out
}

fn replayed(topic: &TopicReport) -> Option<String> {
    let replay = topic.replay.as_ref()?;
    let twice = if replay.twice > 0 { format!(", {} left out that were there twice", replay.twice) } else { String::new() };
    Some(format!(
        "{} of {} replayed to {} on {}{twice}\n",
        count(replay.records as usize, "dead letter"),
        topic.topic,
        replay.topic,
        replay.cluster
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_text_or_hex_and_bounded() {
        let of = |bytes: &[u8], limit| Content::new(bytes, limit).text();
        assert_eq!(of(b"plain\ntext", 99), r#""plain\ntext""#);
        assert_eq!(of("über".as_bytes(), 99), "\"über\"");
        assert_eq!(of("aü".as_bytes(), 2), "\"a\"… (3 bytes)");
        assert_eq!(of(b"\xff\x00\x01", 2), "0xff00… (3 bytes)");
        assert_eq!(of(b"a\x1b[31m", 99), "0x611b5b33316d");
        assert_eq!(of(b"\xc3", 99), "0xc3");
        assert_eq!(of(b"", 99), "\"\"");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time(1_700_000_000_123).as_deref(), Some("2023-11-14T22:13:20.123Z"));
        assert_eq!([time(-1), time(i64::MAX)], [None, None]);
    }
}
