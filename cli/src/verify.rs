//! `kferry verify`: are both sides of a mirror the same?
//!
//! Every record of both logs is read, up to the follower's end. What one side has deleted or compacted by its own clock, what `on_error` left
//! out and what is not copied yet is told, and is no difference. Works while the mirror runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use kferry_config::Mirror;
use kferry_mirror::log::Keys;
use kferry_mirror::log::{Allowed, Compared, FollowerReader, View, compare_keys};
use kferry_mirror::named;
use kferry_mirror::partition::OffsetMap;
use kferry_mirror::partition::{Side, Skipped};
use kferry_mirror::patient_clients;
use kferry_mirror::state::{State, StateError};
use kferry_mirror::topics::{self, Cluster};
use kferry_mirror::transactions;
use kferry_wire::admin::partitions::Position;
use kferry_wire::client::{Answers, Client, ClientError, TopicPartition};
use kferry_wire::exit::{self, Exit};
use kferry_wire::log::{LogReader, ReadError};
use serde::Serialize;

use crate::check::{count, print_json, printable, table, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};
use crate::mirrors::Chosen;

/// Partitions at a time. Each has an answer of each side in memory, decompressed.
const AT_A_TIME: usize = 4;
/// Bytes of a log in one answer.
const ANSWER: i32 = 1 << 20;
/// How often retention may overtake a reader.
const OVERTAKEN: usize = 5;
/// Rows of partitions that are the same; those of others are all shown.
const SHOWN: usize = 50;

/// Compares every record on both sides of the [[mirrors]], up to where the copy is
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry verify"]))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Only this topic, by its name on the source. May be given several times
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// All is identical, and nothing was left out.
    ok: bool,
    mirrors: Vec<MirrorReport>,
    /// What was asked for and is not there.
    errors: Vec<String>,
}

#[derive(Serialize)]
struct MirrorReport {
    mirror: Arc<str>,
    source: Arc<str>,
    target: Arc<str>,
    partitions: Vec<Row>,
    /// What could not be compared.
    errors: Vec<String>,
    /// The topics that it copies, by their names on the source.
    #[serde(skip)]
    topics: Vec<Arc<str>>,
}

/// A partition.
#[derive(Debug, Clone, Serialize)]
struct Row {
    /// By the topic's name on the source.
    topic: Arc<str>,
    partition: i32,
    leader: Arc<str>,
    result: Verdict,
    leader_start: i64,
    /// The last stable offset: transactions that are open are not copied.
    leader_end: i64,
    /// Where offsets are translated these two are the leader's as well: of the first record that both have, and up to which the copy is.
    follower_start: i64,
    follower_end: i64,
    /// Offsets that are not copied yet.
    lag: i64,
    /// Offsets of the leader behind `leader_end`, which wait for an open transaction and were not compared.
    unstable: i64,
    /// Whether that transaction is open for long, or nobody knows for how long.
    is_held_up: bool,
    equal: u64,
    /// Records that compaction has taken on one side only.
    compacted: u64,
    /// Offsets that `on_error` left out: records, and all that a batch spans that nobody can read.
    skipped: u64,
    notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// Up to the follower's end.
    Identical,
    /// Identical, but `on_error` left records out, or a transaction that is open for long holds them up: `skipped` and `unstable` say how many.
    Lacking,
    /// The first difference.
    Different { offset: i64, what: String },
    /// There is nothing that both have.
    NothingInCommon,
    /// It could not be read.
    Failed { reason: String },
}

impl Verdict {
    fn exit(&self) -> Exit {
        match self {
            Self::Identical | Self::NothingInCommon => Exit::Done,
            Self::Lacking => Exit::Lacking,
            Self::Different { .. } | Self::Failed { .. } => Exit::NotDone,
        }
    }

    fn is_identical(&self) -> bool {
        matches!(self, Self::Identical | Self::Lacking)
    }
}

impl MirrorReport {
    fn exit(&self) -> Exit {
        let compared = self.partitions.iter().any(|row| row.result.is_identical());
        let rows = self.partitions.iter().map(|row| row.result.exit()).max().unwrap_or(Exit::Done);
        Exit::done(self.errors.is_empty() && compared).max(rows)
    }
}

pub(crate) fn run(args: &Args) -> Exit {
    let (_, chosen) = match args.chosen.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let mirrors = runtime.block_on(async {
        let mut mirrors = Vec::new();
        for mirror in &chosen {
            let mut report = MirrorReport {
                mirror: mirror.name.clone(),
                source: mirror.source.name.clone(),
                target: mirror.target.name.clone(),
                partitions: Vec::new(),
                errors: Vec::new(),
                topics: Vec::new(),
            };
            if let Err(error) = report.look(mirror, &args.topic).await {
                report.errors.push(error.to_string());
            }
            mirrors.push(report);
        }
        mirrors
    });
    runtime.shutdown_background();
    let is_known = |topic: &str| mirrors.iter().any(|mirror| mirror.topics.iter().any(|known| **known == *topic));
    let unknown = args.topic.iter().filter(|topic| !is_known(topic));
    let errors: Vec<_> = unknown.map(|topic| format!("topic {topic} is of none of these mirrors, or not on their source")).collect();
    // With --topic some mirrors may have nothing to do, but not all.
    let of_mirrors = mirrors.iter().filter(|mirror| args.topic.is_empty() || !mirror.has_nothing()).map(MirrorReport::exit).max();
    let exit = of_mirrors.unwrap_or(Exit::NotDone).max(Exit::done(errors.is_empty()));
    let report = Report { ok: exit == Exit::Done, mirrors, errors };
    if args.chosen.json {
        print_json(&report);
    } else {
        print(&report);
    }
    exit
}

/// A partition whose two logs are to be compared.
struct Work {
    row: Row,
    sides: [Side; 2],
    compacted: bool,
    skipped: Skipped,
    view: View,
    /// Where offsets are translated: up to which of the leader's the copy is. Others may have written behind it.
    agreed: i64,
    /// Which of the leader's offsets were not compared, because a transaction is open there: a sentence.
    not_compared: Option<String>,
}

impl MirrorReport {
    fn has_nothing(&self) -> bool {
        self.errors.is_empty() && self.partitions.is_empty()
    }

    async fn look(&mut self, mirror: &Mirror, only: &[String]) -> Result<(), StateError> {
        let (source, target) = patient_clients(mirror);
        let (mut on_source, mut on_target) = tokio::try_join!(Cluster::look(&source), Cluster::look(&target))?;
        let state = State::open(target.clone(), mirror, false).await?;
        let leader = |topic: &str| state.as_ref().and_then(|state| state.leader(topic));
        let mut plans = topics::plan(mirror, &mut on_source, &mut on_target, leader, BTreeSet::new()).await?;
        self.topics = plans.iter().map(|plan| plan.topic.clone()).collect();
        plans.retain(|plan| only.is_empty() || only.iter().any(|topic| **topic == *plan.topic));
        if only.is_empty() {
            let unseen = named::unseen_topics(mirror, |name| on_source.topic(name).is_some());
            self.errors.extend(unseen.map(|(_, sentence)| sentence));
        }

        let mut work = Vec::new();
        for plan in plans {
            let on = |client: &Client, topic: &Arc<str>| Side { client: client.clone(), topic: topic.clone() };
            let direction = plan.direction(mirror);
            let sides: [Side; 2] = direction.leader_first(on(&source, &plan.topic), on(&target, &plan.target)).into();
            if let Some(error) = plan.error {
                self.errors.push(format!("topic {}: {error}", plan.topic));
                continue;
            }
            let (_, on_follower) = direction.leader_first(&on_source, &on_target);
            let copied = on_follower.topic(&sides[1].topic).map_or(0, |topic| topic.partitions.len() as i32);
            if copied < plan.partitions {
                let (topic, follower) = (&sides[1].topic, sides[1].cluster());
                self.errors.push(match copied {
                    0 => format!("topic {}: there is no {topic} on {follower} yet, or the principal may not see it", plan.topic),
                    _ => format!("topic {}: {topic} on {follower} has {copied} of {} partitions yet", plan.topic, plan.partitions),
                });
            }
            work.extend((0..copied.min(plan.partitions)).map(|partition| {
                let kept = state.as_ref().and_then(|state| state.partition(&TopicPartition::new(plan.topic.clone(), partition)));
                let compacted = plan.is_compacted_somewhere() || kept.is_some_and(|kept| kept.was_compacted);
                let row = Row {
                    topic: plan.topic.clone(),
                    partition,
                    leader: plan.leader.clone(),
                    result: Verdict::NothingInCommon,
                    leader_start: 0,
                    leader_end: 0,
                    follower_start: 0,
                    follower_end: 0,
                    lag: 0,
                    unstable: 0,
                    is_held_up: false,
                    equal: 0,
                    compacted: 0,
                    skipped: 0,
                    notes: Vec::new(),
                };
                let view = View { map: OffsetMap::Same, direction, term: plan.term };
                Work { row, sides: sides.clone(), compacted, skipped: Skipped::default(), view, agreed: 0, not_compared: None }
            }));
        }
        ends(&mut work).await;
        held_up(&mut work).await;
        // After the ends: what was left out by then is in it.
        if let Some(state) = &state {
            state.refresh().await?;
            for work in &mut work {
                let partition = TopicPartition::new(work.row.topic.clone(), work.row.partition);
                work.view.map = state.map(&partition, mirror.offsets);
                if let Some(kept) = state.partition(&partition) {
                    work.agreed = kept.agreed(&work.row.leader, &work.view.map, work.view.direction);
                    work.skipped = kept.skipped;
                }
                if work.view.map.translates() {
                    work.row.follower_end = work.agreed;
                    work.row.leader_start = work.row.leader_start.max(work.first());
                    work.row.follower_start = work.on_leader(work.row.follower_start);
                }
            }
        }
        self.partitions = compare_all(&self.mirror, work).await;
        Ok(())
    }
}

/// Where the logs begin and end. The follower's end is asked for first: a leader that is longer then is no surprise.
async fn ends(work: &mut [Work]) {
    // And the leader's high watermark before its last stable offset: what is between is of a transaction that is open, and not of one that came since.
    let places = [
        (1, Position::LastStable),
        (1, Position::LogStart),
        (0, Position::HighWatermark),
        (0, Position::LastStable),
        (0, Position::LogStart),
    ];
    for (side, position) in places {
        // One cluster may lead some topics and follow in others.
        let mut clients: Vec<&Client> = Vec::new();
        for work in work.iter() {
            if clients.iter().all(|client| client.cluster().name != work.sides[side].client.cluster().name) {
                clients.push(&work.sides[side].client);
            }
        }
        let mut answers: Vec<(Arc<str>, Answers<TopicPartition, i64>)> = Vec::new();
        for client in clients {
            let name = client.cluster().name.clone();
            let of_cluster = work.iter().filter(|work| *work.sides[side].cluster() == name);
            let partitions: Vec<_> = of_cluster.map(|work| work.sides[side].partition(work.row.partition)).collect();
            answers.push((name, client.list_offsets(&partitions, position).await));
        }
        for work in work.iter_mut() {
            let place = &work.sides[side];
            let of_cluster = answers.iter().find(|(name, _)| name == place.cluster());
            let answer = of_cluster.and_then(|(_, answers)| answers.get(&place.partition(work.row.partition)));
            match answer.expect("what was asked for is answered") {
                Ok(offset) => match (side, position) {
                    (0, Position::LogStart) => work.row.leader_start = *offset,
                    // Until the last stable offset is known.
                    (0, Position::HighWatermark) => work.row.unstable = *offset,
                    (0, Position::LastStable) => {
                        work.row.leader_end = *offset;
                        work.row.unstable = (work.row.unstable - offset).max(0);
                    }
                    (_, Position::LogStart) => work.row.follower_start = *offset,
                    _ => work.row.follower_end = *offset,
                },
                Err(error) => work.row.result = Verdict::Failed { reason: error.to_string() },
            }
        }
    }
}

/// Says of each partition in which something waits for an open transaction whose that is.
async fn held_up(work: &mut [Work]) {
    let now = jiff::Timestamp::now().as_millisecond();
    let mut asked: BTreeMap<Arc<str>, (Client, Vec<TopicPartition>)> = BTreeMap::new();
    for work in work.iter().filter(|work| work.row.unstable > 0) {
        let leader = &work.sides[0];
        let (_, partitions) = asked.entry(leader.cluster().clone()).or_insert_with(|| (leader.client.clone(), Vec::new()));
        partitions.push(leader.partition(work.row.partition));
    }
    for (cluster, (client, partitions)) in asked {
        let known = transactions::whose(&client, &partitions).await;
        for work in work.iter_mut().filter(|work| work.row.unstable > 0 && *work.sides[0].cluster() == cluster) {
            let Some(whose) = known.get(&work.sides[0].partition(work.row.partition)) else { continue };
            let row = &mut work.row;
            row.is_held_up = whose.as_ref().map_or(true, |transaction| transaction.is_long(now));
            let told = transactions::told(row.leader_end, row.leader_end + row.unstable, Some(whose), now);
            work.not_compared = Some(format!("{} offsets were not compared: {told}", row.unstable));
        }
    }
}

async fn compare_all(mirror: &str, work: Vec<Work>) -> Vec<Row> {
    let range = |row: &Row| (row.leader_end.min(row.follower_end) - row.leader_start.max(row.follower_start)).max(0) as u64;
    let offsets = work.iter().map(|work| range(&work.row)).sum();
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(offsets) } else { ProgressBar::hidden() };
    let style = "{prefix} {wide_bar} {human_pos}/{human_len} offsets, {per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
    bar.set_prefix(format!("mirror {mirror}"));
    let read = Arc::new(AtomicU64::new(0));
    let mut rows = Vec::new();
    let mut compared = stream::iter(work).map(|work| compare_one(work, read.clone())).buffer_unordered(AT_A_TIME);
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            row = compared.next() => match row {
                Some(row) => rows.push(row),
                None => break,
            },
            _ = tick.tick() => bar.set_position(read.load(Ordering::Relaxed).min(offsets)),
        }
    }
    bar.finish_and_clear();
    rows.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
    rows
}

async fn compare_one(mut work: Work, read: Arc<AtomicU64>) -> Row {
    if matches!(work.row.result, Verdict::Failed { .. }) {
        return work.row;
    }
    for _ in 0..OVERTAKEN {
        match work.compare(&read).await {
            Ok(verdict) => {
                let lacks = work.row.skipped > 0 || work.row.is_held_up;
                work.row.result = if verdict.exit() == Exit::Done && lacks { Verdict::Lacking } else { verdict };
                return work.row;
            }
            Err(error) if error.is_deleted() => {
                if let Err(error) = work.starts().await {
                    work.row.result = Verdict::Failed { reason: error.to_string() };
                    return work.row;
                }
            }
            Err(error) => {
                work.row.result = Verdict::Failed { reason: error.to_string() };
                return work.row;
            }
        }
    }
    work.row.result =
        Verdict::Failed { reason: "records are deleted faster than they can be compared; try it again at a calmer time".to_owned() };
    work.row
}

impl Work {
    /// Which offset of the leader one of the follower is.
    fn on_leader(&self, follower: i64) -> i64 {
        self.view.map.leader(self.view.direction, follower).unwrap_or_else(|| self.first())
    }

    /// The first offset of the leader that was copied.
    fn first(&self) -> i64 {
        let View { map, direction, .. } = &self.view;
        map.first(*direction).unwrap_or(if map.translates() { self.agreed } else { 0 })
    }

    /// Where the logs begin now.
    async fn starts(&mut self) -> Result<(), ClientError> {
        let start = async |side: &Side| {
            let partition = side.partition(self.row.partition);
            let mut answers = side.client.list_offsets(std::slice::from_ref(&partition), Position::LogStart).await;
            answers.remove(&partition).expect("what was asked for is answered")
        };
        let (leader, follower) = tokio::try_join!(start(&self.sides[0]), start(&self.sides[1]))?;
        (self.row.leader_start, self.row.follower_start) = (leader.max(self.first()), self.on_leader(follower));
        Ok(())
    }

    async fn compare(&mut self, read: &Arc<AtomicU64>) -> Result<Verdict, ReadError> {
        let row = &mut self.row;
        row.lag = (row.leader_end - row.follower_end).max(0);
        row.notes.clear();
        row.notes.extend(self.not_compared.clone());
        if row.follower_end > row.leader_end {
            return Ok(Verdict::Different {
                offset: row.leader_end,
                what: format!("the leader's log ends here, the follower's at {}", row.follower_end),
            });
        }
        let (from, to) = (row.leader_start.max(row.follower_start), row.follower_end);
        for (has, lost, who, end) in [
            (row.leader_start, row.follower_start, "the follower", row.follower_end),
            (row.follower_start, row.leader_start, "the leader", row.leader_end),
        ] {
            if lost > has {
                row.notes.push(format!("{who} has deleted the offsets {has} to {} (retention, or DeleteRecords)", lost.min(end) - 1));
            }
        }
        if from >= to {
            let is_empty = row.lag == 0 && row.leader_start == row.leader_end;
            return Ok(if is_empty { Verdict::Identical } else { Verdict::NothingInCommon });
        }
        let allowed = Allowed { missing: self.compacted, skipped: self.skipped.clone() };
        let mut keys = self.compacted.then(Keys::default);
        let [leader, follower] = self.sides.clone();
        let leader = LogReader::new(leader.client.clone(), leader.partition(row.partition), from..to, ANSWER).counted(read.clone());
        let follower = FollowerReader::new(&follower, row.partition, from..to, ANSWER, self.view.clone());
        let compared = compare_keys(leader, follower, &allowed, &mut keys).await?;
        let Compared { equal, compacted, difference } = compared;
        (row.equal, row.compacted, row.skipped) = (equal, compacted, self.skipped.within(&(from..to)));
        if let Some(difference) = difference {
            return Ok(Verdict::Different { offset: difference.offset, what: difference.what });
        }
        if let Some(mut keys) = keys {
            if keys.is_waiting() {
                later(&self.sides[0], row.partition, to, &mut keys).await?;
            }
            let unmatched = keys.unmatched();
            if unmatched.one_of > 1 {
                row.notes.push(format!("the latest record was looked at of one key in {}, the rest by offset only", unmatched.one_of));
            }
            if unmatched.follower > 0 {
                row.notes.push(format!(
                    "{} are on the follower only: the leader's tombstones are gone already",
                    count(unmatched.follower as usize, "key")
                ));
            }
            if let Some(offset) = unmatched.leader {
                return Ok(Verdict::Different {
                    offset,
                    what: "the leader has the latest record of its key here, the follower has none".to_owned(),
                });
            }
        }
        Ok(Verdict::Identical)
    }
}

/// Compaction may have gone by records that were written since the follower's end was asked for.
async fn later(leader: &Side, partition: i32, from: i64, keys: &mut Keys) -> Result<(), ReadError> {
    let asked = leader.partition(partition);
    let mut ends = leader.client.list_offsets(std::slice::from_ref(&asked), Position::LastStable).await;
    let end = ends.remove(&asked).expect("what was asked for is answered")?;
    let mut reader = LogReader::new(leader.client.clone(), leader.partition(partition), from..end, ANSWER).compacted(true);
    while keys.is_waiting()
        && let Some(record) = reader.next().await?
    {
        keys.both(&record);
    }
    Ok(())
}

fn print(report: &Report) {
    let out: Vec<_> = report.mirrors.iter().map(text).collect();
    to_stdout(&out.join("\n"));
    for error in &report.errors {
        to_stderr(&labelled(Severity::Error, &printable(error)));
    }
    for mirror in &report.mirrors {
        for row in &mirror.partitions {
            let sentence = match &row.result {
                Verdict::Different { offset, what } => format!("differ at offset {offset}: {what}"),
                Verdict::Failed { reason } => format!("could not be compared: {reason}"),
                Verdict::Identical | Verdict::Lacking | Verdict::NothingInCommon => continue,
            };
            let sentence = format!("mirror {}: the two logs of {}-{} {sentence}", mirror.mirror, row.topic, row.partition);
            to_stderr(&labelled(Severity::Error, &printable(&sentence)));
        }
        for error in &mirror.errors {
            to_stderr(&labelled(Severity::Error, &printable(&format!("mirror {}: {error}", mirror.mirror))));
        }
    }
}

fn text(mirror: &MirrorReport) -> String {
    let mut out = format!("mirror {}: {} to {}\n", mirror.mirror, mirror.source, mirror.target);
    let rows = &mirror.partitions;
    if rows.is_empty() {
        return out;
    }
    let is_quiet = |row: &&Row| row.result == Verdict::Identical && row.lag == 0 && row.skipped == 0 && row.notes.is_empty();
    let quiet = rows.iter().filter(is_quiet).count();
    let mut shown = vec![["PARTITION", "RESULT", "UP TO", "LAG", "UNSTABLE", "EQUAL", "COMPACTED", "SKIPPED"].map(str::to_owned).to_vec()];
    let mut notes = String::new();
    let mut left = 0;
    for row in rows {
        if is_quiet(&row) {
            left += 1;
            if quiet > SHOWN && left > SHOWN {
                continue;
            }
        }
        let result = match &row.result {
            Verdict::Lacking if row.skipped > 0 => "identical but for what was left out".to_owned(),
            Verdict::Identical | Verdict::Lacking if row.unstable > 0 => "identical before a transaction".to_owned(),
            Verdict::Identical | Verdict::Lacking => "identical".to_owned(),
            Verdict::Different { offset, .. } => format!("differs at {offset}"),
            Verdict::NothingInCommon => "nothing in common yet".to_owned(),
            Verdict::Failed { .. } => "failed".to_owned(),
        };
        let name = format!("{}-{}", row.topic, row.partition);
        let numbers = [row.follower_end as u64, row.lag as u64, row.unstable as u64, row.equal, row.compacted, row.skipped];
        let numbers = numbers.map(|number| HumanCount(number).to_string());
        shown.push([name.clone(), result].into_iter().chain(numbers).collect());
        for note in &row.notes {
            let _ = writeln!(notes, "{name}: {}", printable(note));
        }
    }
    out.push('\n');
    out.push_str(&table(&shown));
    if quiet > SHOWN {
        let _ = writeln!(out, "and {} more that are identical", quiet - SHOWN);
    }
    if !notes.is_empty() {
        let _ = write!(out, "\n{notes}");
    }
    let good = rows.iter().filter(|row| row.result.is_identical()).count();
    let skipped: u64 = rows.iter().map(|row| row.skipped).sum();
    let lag: i64 = rows.iter().map(|row| row.lag).sum();
    let equal: u64 = rows.iter().map(|row| row.equal).sum();
    let unstable: i64 = rows.iter().map(|row| row.unstable).sum();
    let _ = write!(
        out,
        "\n{good} of {} identical up to the follower's end, {} records equal, {} offsets not copied yet",
        count(rows.len(), "partition"),
        HumanCount(equal),
        HumanCount(lag as u64),
    );
    if skipped > 0 {
        let _ = write!(out, ", {} left out", count(skipped as usize, "offset"));
    }
    if unstable > 0 {
        let _ = write!(out, ", {} more behind open transactions", HumanCount(unstable as u64));
    }
    out.push('\n');
    out
}
