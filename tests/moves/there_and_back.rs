//! Nothing fails: what a move costs clients.
//!
//! `matrix` is for `make soak`: each client by itself, idempotent and plain, there and back `KFERRY_MOVES` times, and a table of what it saw.
//! `KFERRY_CLIENTS` names some of them, such as `sarama,kafka-go plain`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::chaos::setting;
use harness::clients::soak::Seen;
use harness::clients::{Client, prepare};
use harness::mirror::Mirror;
use harness::proxy::Proxy;
use harness::stage::Side;
use jiff::Timestamp;

use crate::{Going, Numbers, ORDERS, Stage, go_on, on_stage};

/// Moves each way in the matrix, unless `KFERRY_MOVES` says so.
const MOVES: u64 = 20;

/// How often all clients go on without a move first.
const STILL: usize = 10;

/// At the same time in the matrix, so that what is measured is not that the machine is busy.
const AT_ONCE: usize = 2;

/// How much longer than without a move no record may be acknowledged, in most moves.
const ACKS: Duration = Duration::from_millis(250);

/// The same of deliveries.
const DELIVERIES: Duration = Duration::from_millis(500);

/// What the last move took.
pub(crate) struct Took {
    /// From the hold to the flip, by a proxy's log.
    pub(crate) held: Duration,
    /// From the flip to the first batch that was copied the other way, by the mirror's log. `None`: there was none yet.
    back: Option<Duration>,
}

impl Took {
    pub(crate) fn by(proxy: &Proxy, mirror: &Mirror) -> Result<Self> {
        let log = proxy.log()?;
        let at = |message: &str| -> Result<Timestamp> {
            let line = log.iter().rfind(|line| line["message"] == message).with_context(|| format!("no line says {message:?}"))?;
            Ok(line["timestamp"].as_str().context("a timestamp")?.parse()?)
        };
        let (hold, flip) = (at("a move: its topics and groups are held")?, at("a move: the other cluster leads")?);
        let copied = mirror.logs()?;
        let copied = copied.lines().filter(|line| line.contains("the first batch is copied"));
        let mut copied = copied.filter_map(|line| line.split_whitespace().next()?.parse::<Timestamp>().ok());
        let back = copied.find(|at| *at > flip).map(|at| (at - flip).try_into()).transpose()?;
        Ok(Self { held: (flip - hold).try_into()?, back })
    }
}

impl fmt::Display for Took {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "held for {:.0?}, copied back {:.0?} later", self.held, self.back.unwrap_or_default())
    }
}

#[test]
fn topics_move_there_and_back_while_clients_run() -> Result<()> {
    // One of each library, all at once; those that are librdkafka once. kafka-go stands still for seconds without any move on a machine that is so busy: it is
    // in the matrix.
    let is_left = |kind: &Kind| matches!(kind.client, Client::KafkaJavascript | Client::ConfluentPython | Client::KafkaGo);
    let kinds: Vec<_> = clients().filter(|kind| kind.idempotent && !is_left(kind)).collect();
    built(&kinds)?;
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let start = |kind: &Kind| stage.going_with(0, kind.client, ORDERS, kind.client.name(), |job| job.records_per_second = 50);
        let going = kinds.iter().map(start).collect::<Result<Vec<_>>>()?;
        go_on(&going)?;
        // How long each stands still without a move.
        for going in &going {
            going.soak.seen();
        }
        go_on(&going)?;
        let still: Vec<_> = going.iter().map(|going| going.soak.seen()).collect();
        let mut shortest = Duration::MAX;
        for home in [Side::New, Side::Legacy] {
            let took = stage.move_to(home, &going).with_context(|| format!("the move to {home:?}"))?;
            go_on(&going).with_context(|| format!("after the move to {home:?}"))?;
            let held = Took::by(&stage.proxies[0], &stage.mirror)?;
            println!("to {home:?}: {took:.0?} after the edit, {held}");
            shortest = shortest.min(held.held);
            for (going, still) in going.iter().zip(&still) {
                let seen = going.soak.seen();
                println!(
                    "  {}: {:.2?} without acknowledgements ({:.2?} without a move), {:.2?} without reads ({:.2?})",
                    going.soak.name(),
                    seen.longest_ack_pause,
                    still.longest_ack_pause,
                    seen.longest_consume_pause,
                    still.longest_consume_pause
                );
                ensure!(seen.errors.is_empty() && seen.again == 0, "{}: {seen:?}", going.soak.name());
            }
        }
        // A machine is rarely so slow twice. Nothing may wait for a tick, a turn or another try: each of those is a second or two.
        ensure!(shortest < Duration::from_millis(1_500), "held for {shortest:.0?} at the least");
        stage.ends(going, false).map(drop)
    })
}

#[test]
#[ignore = "an hour; make soak"]
fn matrix() -> Result<()> {
    let moves = setting("KFERRY_MOVES")?.unwrap_or(MOVES);
    let chosen = std::env::var("KFERRY_CLIENTS").ok();
    let all: Vec<_> = clients().collect();
    let kinds = match &chosen {
        None => all,
        Some(names) => names.split(',').map(|name| Kind::named(&all, name)).collect::<Result<_>>()?,
    };
    built(&kinds)?;
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let mut rows = Vec::new();
        println!("{}", Row::HEAD);
        for kinds in kinds.chunks(AT_ONCE) {
            for row in there_and_back(stage, kinds, moves)? {
                println!("{row}");
                rows.push(row);
            }
        }
        let wrong: Vec<_> = rows.iter().filter(|row| !row.is_right()).map(|row| row.kind.to_string()).collect();
        ensure!(wrong.is_empty(), "lost, doubled, reordered, read again, failed, or stood still for too long: {wrong:?}");
        Ok(())
    })
}

/// Before anything runs: a build would slow it down.
fn built(kinds: &[Kind]) -> Result<()> {
    kinds.iter().try_for_each(|kind| prepare(kind.client))
}

/// A library, and how its producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    client: Client,
    idempotent: bool,
}

fn clients() -> impl Iterator<Item = Kind> {
    let all = Client::ALL.into_iter().chain(Client::OTHERS);
    all.flat_map(|client| [true, false].map(|idempotent| Kind { client, idempotent }))
        .filter(|kind| !kind.idempotent || kind.client.can_be_idempotent())
}

impl Kind {
    fn named(all: &[Self], name: &str) -> Result<Self> {
        let names = || all.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        all.iter().copied().find(|kind| kind.to_string() == name).with_context(|| format!("KFERRY_CLIENTS: no {name:?}, but {}", names()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}{}", self.client.name(), if self.idempotent { "" } else { " plain" })
    }
}

/// What a client saw in all moves.
struct Row {
    kind: Kind,
    still: Seen,
    moving: Vec<Seen>,
    /// From the hold to the flip, of each move.
    held: Vec<Duration>,
    log: Numbers,
    records: u64,
    /// It did not go on, or did not end.
    failure: Option<String>,
}

impl Row {
    const HEAD: &str = "| client | moves | records | lost | doubled | reordered | read again | errors | held: median, longest | gap of acks: own, median of moves, longest | of deliveries |\n\
                        |---|---|---|---|---|---|---|---|---|---|---|";

    fn errors(&self) -> BTreeMap<&str, usize> {
        let mut errors = BTreeMap::new();
        for (error, count) in self.moving.iter().flat_map(|seen| &seen.errors) {
            *errors.entry(error.as_str()).or_default() += count;
        }
        errors
    }

    fn again(&self) -> u64 {
        self.moving.iter().map(|seen| seen.again).sum()
    }

    fn is_right(&self) -> bool {
        let Numbers { lost, doubled, reordered, .. } = self.log;
        lost + doubled + reordered + self.again() == 0 && self.errors().is_empty() && self.failure.is_none() && !self.is_slow()
    }

    /// Whether in most moves it stands still for longer than it may: a single one may have met a machine that was busy.
    fn is_slow(&self) -> bool {
        let exceeds =
            |gap: fn(&Seen) -> Duration, limit| median_and_longest(self.moving.iter().map(gap).collect()).0 > gap(&self.still) + limit;
        exceeds(|seen| seen.longest_ack_pause, ACKS) || exceeds(|seen| seen.longest_consume_pause, DELIVERIES)
    }

    /// Without a move, then in moves.
    fn gaps(&self, gap: fn(&Seen) -> Duration) -> String {
        format!("{}, {}", gap(&self.still).as_millis(), in_ms(self.moving.iter().map(gap).collect()))
    }
}

fn median_and_longest(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let median = times.get(times.len() / 2).copied();
    (median.unwrap_or_default(), times.last().copied().unwrap_or_default())
}

fn in_ms(times: Vec<Duration>) -> String {
    let (median, longest) = median_and_longest(times);
    format!("{}, {} ms", median.as_millis(), longest.as_millis())
}

impl fmt::Display for Row {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { kind, moving, records, .. }, Numbers { lost, doubled, reordered, .. }) = (self, &self.log);
        let (again, errors) = (self.again(), self.errors());
        let (acks, reads) = (self.gaps(|seen| seen.longest_ack_pause), self.gaps(|seen| seen.longest_consume_pause));
        let count = errors.values().sum::<usize>();
        let (moves, held) = (moving.len(), in_ms(self.held.clone()));
        write!(to, "| {kind} | {moves} | {records} | {lost} | {doubled} | {reordered} | {again} | {count} | {held} | {acks} | {reads} |")?;
        let notices: BTreeMap<_, _> = moving.iter().flat_map(|seen| &seen.notices).collect();
        if !errors.is_empty() || !notices.is_empty() {
            write!(to, "\n  errors {errors:?}, notices {notices:?}")?;
        }
        self.failure.iter().try_for_each(|failure| write!(to, "\n  {failure}"))
    }
}

/// Some clients at the same time. An error is one of the stage's; what a client does is in its row.
fn there_and_back(stage: &Stage, kinds: &[Kind], moves: u64) -> Result<Vec<Row>> {
    let start = |kind: &Kind| {
        let name = format!("matrix.{kind}").replace(' ', "-");
        stage.going_with(0, kind.client, ORDERS, &name, |job| (job.idempotent, job.records_per_second) = (kind.idempotent, 200))
    };
    let going = kinds.iter().map(start).collect::<Result<Vec<_>>>()?;
    go_on(&going)?;
    for going in &going {
        going.soak.seen();
    }
    (0..STILL).try_for_each(|_| go_on(&going))?;
    let still: Vec<_> = going.iter().map(|going| going.soak.seen()).collect();
    let mut moving = vec![Vec::new(); going.len()];
    let (mut held, mut failure) = (Vec::new(), None);
    for home in (0..moves).flat_map(|_| [Side::New, Side::Legacy]) {
        stage.move_to(home, &going)?;
        held.push(Took::by(&stage.proxies[0], &stage.mirror)?.held);
        failure = go_on(&going).err();
        for (moving, going) in moving.iter_mut().zip(&going) {
            moving.push(going.soak.seen());
        }
        if failure.is_some() {
            stage.move_to(Side::Legacy, &going)?;
            break;
        }
    }
    let failure = failure.map(|failure| format!("{failure:#}"));
    let rows = kinds.iter().zip(going).zip(still.into_iter().zip(moving));
    rows.map(|((kind, going), (still, moving))| {
        let row = Row { kind: *kind, still, moving, held: held.clone(), log: Numbers::default(), records: 0, failure: failure.clone() };
        ended(stage, row, going)
    })
    .collect()
}

/// Stops a client, and looks at what is in the log.
fn ended(stage: &Stage, mut row: Row, going: Going) -> Result<Row> {
    let before = going.soak.counts();
    let acked = match going.soak.stop() {
        Ok(counts) => counts.acked,
        Err(error) => {
            row.failure = Some(format!("{error:#}"));
            before.map(|counts| counts.acked).unwrap_or_default()
        }
    };
    stage.is_copied(&going.topic)?;
    row.records = acked.iter().sum();
    row.log = stage.numbers(&going.topic, &acked)?;
    Ok(row)
}
