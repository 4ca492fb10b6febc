//! `kferry decisions`: the log of decisions, a line for each record: when, what it asks for, whether it counts, and if not why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kferry_wire::decisions::{Led, Member, ReadRecord, Request, Topic, Waited, Wished, decode};
use kferry_wire::exit::{self, Exit};
use serde::Serialize;
use serde_json::Value;

use super::{DecisionLog, FileArgs, names, short, why_not};
use crate::check::{count, print_json, printable, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};

/// Prints the log of decisions: who leads which topic, and how that came about
///
/// Every record is a request. The second column says whether it counts, by what stands before it; a proxy and a mirror decide that as this command does.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry decisions"]))]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ok: bool,
    cluster: Arc<str>,
    records: Vec<Row>,
    /// Why there is no more.
    errors: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    offset: i64,
    /// By its author's clock.
    time: Option<Timestamp>,
    counts: bool,
    /// Why it does not count.
    why: Option<String>,
    /// The record. `null`: no kferry wrote it.
    asks: Option<Value>,
    #[serde(skip)]
    text: String,
}

pub(crate) fn run(args: &Args) -> Exit {
    let (_, cluster) = match args.file.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let name = cluster.name.clone();
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    let read = runtime.block_on(async {
        let mut log = DecisionLog::find(cluster).await?;
        log.catch_up(|record| {
            let row = Row::of(record);
            if args.file.json { records.push(row) } else { to_stdout(&row.line()) }
        })
        .await?;
        log.is_whole()
    });
    runtime.shutdown_background();
    errors.extend(read.err());
    let ok = errors.is_empty();
    if args.file.json {
        print_json(&Report { ok, cluster: name, records, errors });
    } else {
        for error in &errors {
            to_stderr(&labelled(Severity::Error, &printable(error)));
        }
    }
    Exit::done(ok)
}

impl Row {
    fn of(record: &ReadRecord) -> Self {
        let value = record.value.as_deref();
        // What could not be decoded is not given out.
        let request = value.and_then(|value| decode(value).ok().flatten());
        let why = why_not(&record.verdict);
        Self {
            offset: record.offset,
            time: Timestamp::from_millisecond(record.timestamp).ok(),
            counts: why.is_none(),
            why,
            asks: request.as_ref().and_then(|request| serde_json::to_value(request).ok()),
            text: request.map_or_else(|| format!("{} bytes", value.map_or(0, <[u8]>::len)), |request| text(&request)),
        }
    }

    fn line(&self) -> String {
        let time = self.time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"));
        let (counts, why) = match &self.why {
            None => ("counts", String::new()),
            Some(why) => ("void", format!(" ({why})")),
        };
        printable(&format!("{:>6}  {time:24}  {counts:6}  {}{why}", self.offset, self.text)) + "\n"
    }
}

/// What a record asks for.
fn text(request: &Request) -> String {
    match request {
        Request::Identity { log } => format!("the log is {}", short(log)),
        Request::Joined { proxy, rules, admin, .. } => {
            format!("{} joins, with rules {rules}, admin address {}", shown(proxy), admin.as_deref().unwrap_or("-"))
        }
        Request::Left { proxy, late: false } => format!("{} leaves", shown(proxy)),
        Request::Left { proxy, late: true } => format!("{} leaves, and what it had sent may still arrive", shown(proxy)),
        Request::Forgotten { proxy, by } => format!("{} is forgotten, says {by}", shown(proxy)),
        Request::Wish { proxy, taken, file, routes } => {
            format!("{} wishes {} (file {taken}, {})", shown(proxy), wishes(routes), short(file))
        }
        Request::Hold { by, from, to, routes, topics, groups, .. } if groups.is_empty() => format!(
            "{} asks to hold {} of {from} for {to}: {}; routes: {}",
            shown(by),
            partitions(topics),
            names(topics.keys()),
            names(routes)
        ),
        Request::Hold { by, from, to, routes, groups, .. } => format!(
            "{} asks to hold {} of {from} for {to}: {}; routes: {}",
            shown(by),
            count(groups.len(), "group"),
            names(groups),
            names(routes)
        ),
        Request::Parked { proxy, id, members, heard } => {
            let [heard_count, waiting] = [heard, members].map(|of| of.values().map(BTreeSet::len).sum());
            let groups: BTreeSet<_> = heard.keys().chain(members.keys()).collect();
            let heard = count(heard_count, "member");
            format!("{} has heard {heard} of move {id}, and {waiting} wait to join: {}", shown(proxy), names(groups))
        }
        Request::Without { id, by, groups } => {
            let all: Vec<String> = groups.iter().map(|(group, why)| format!("{group} ({why})")).collect();
            format!("{by} leaves {} of move {id} where they live: {}", count(groups.len(), "group"), names(&all))
        }
        Request::Synced { id, as_of, by, groups } => {
            format!("{by} has written the offsets of {} of move {id}, as of {as_of}: {}", count(groups.len(), "group"), names(groups))
        }
        Request::Holding { proxy, id } => format!("{} holds move {id}", shown(proxy)),
        Request::Closed { id, as_of, by, ends } => format!(
            "{by} has closed {} of move {id}, as of {as_of}: {}",
            count(ends.values().map(Vec::len).sum(), "partition"),
            names(ends.keys())
        ),
        Request::Flip { id, by, topics, groups } if groups.is_empty() => format!("{} asks to flip move {id}: {}", shown(by), leads(topics)),
        Request::Flip { id, by, groups, .. } => {
            format!("{} asks to flip move {id}: {} live there: {}", shown(by), count(groups.len(), "group"), names(groups))
        }
        Request::Waited { proxy, id, waited: Waited { requests, longest_ms } } => {
            format!(
                "{}: {} waited for the outcome of move {id}, {longest_ms} ms at the most",
                shown(proxy),
                count(*requests as usize, "Produce request")
            )
        }
        Request::Abort { id, by, reason, until_edit } => {
            let until = if *until_edit { ", and nothing moves before the file is changed, or read again" } else { "" };
            format!("{by} asks to abort move {id}{until}: {reason}")
        }
        Request::Born { by, leader, follower, topics } => format!(
            "{by}: born on {leader}, which leads, and {follower} follows: {}: {}",
            count(topics.len(), "topic"),
            names(topics.keys())
        ),
        Request::Knows { proxy, born } => format!("{} goes by what was born at {born}", shown(proxy)),
        Request::Moved { to, by } => format!("{by} moves the log to {to}: nothing counts here from now on"),
        Request::Came { from, by } => format!("the log has come from {from}, says {by}"),
    }
}

fn shown(proxy: &Member) -> String {
    format!("proxy {} ({})", proxy.name, short(&proxy.incarnation))
}

fn wishes(routes: &BTreeMap<String, Wished>) -> String {
    if routes.is_empty() {
        return "nothing".to_owned();
    }
    let all: Vec<String> = routes.iter().map(|(route, wished)| format!("{route} on {}", wished.home)).collect();
    names(&all)
}

fn partitions(topics: &BTreeMap<String, Topic>) -> String {
    let partitions = topics.values().map(|topic| topic.partitions as usize).sum();
    format!("{} with {}", count(topics.len(), "topic"), count(partitions, "partition"))
}

fn leads(topics: &BTreeMap<String, Led>) -> String {
    let clusters: BTreeSet<&str> = topics.values().map(|led| &*led.leader).collect();
    let all: Vec<String> = topics.iter().map(|(topic, led)| format!("{topic} (term {})", led.term)).collect();
    match clusters.into_iter().collect::<Vec<_>>()[..] {
        [] => "homes alone".to_owned(),
        ref clusters => format!("{} leads {}", clusters.join(", "), names(&all)),
    }
}

#[cfg(test)]
mod tests {
    use kferry_wire::decisions::{Place, State, Verdict, Void};

    use super::*;

    fn line(offset: i64, request: Option<&Request>, verdict: Verdict) -> String {
        let value = request.map_or_else(|| b"hello".to_vec(), |request| kferry_wire::decisions::encode(request, 1).unwrap());
        Row::of(&ReadRecord { offset, timestamp: 1_700_000_000_123, value: Some(value.into()), verdict }).line()
    }

    #[test]
    fn each_record_is_a_line_that_says_whether_it_counts() {
        let proxy = Member { name: "a:9092".to_owned(), incarnation: "0123456789abcdef".to_owned() };
        let wished = Wished { home: "new".to_owned(), owns: String::new() };
        let routes: BTreeMap<_, _> = [("orders".to_owned(), wished)].into();
        let topics: BTreeMap<_, _> = [("orders".to_owned(), Topic { partitions: 2, ..Topic::default() })].into();
        let led = Led { leader: "new".to_owned(), term: 2, ends: vec![7, 9] };
        let log = [
            Request::Identity { log: "fedcba9876543210".to_owned() },
            Request::Joined { proxy: proxy.clone(), rules: 1, place: Place::default(), admin: Some("127.0.0.1:9190".to_owned()) },
            Request::Wish { proxy: proxy.clone(), taken: 0, file: "abcdefghij".to_owned(), routes },
            Request::Hold {
                by: proxy.clone(),
                after: 0,
                from: "legacy".to_owned(),
                to: "new".to_owned(),
                routes: ["orders".to_owned()].into(),
                topics,
                groups: BTreeSet::new(),
            },
            Request::Holding { proxy: proxy.clone(), id: 3 },
            Request::Closed { id: 3, as_of: 4, by: "mirror m".to_owned(), ends: [("orders".to_owned(), vec![(0, 7), (1, 9)])].into() },
            Request::Flip { id: 3, by: proxy.clone(), topics: [("orders".to_owned(), led)].into(), groups: BTreeSet::new() },
            Request::Abort { id: 3, by: "operator me@here".to_owned(), reason: "a \x1b[31mtest".to_owned(), until_edit: true },
            Request::Born {
                by: "mirror m".to_owned(),
                leader: "new".to_owned(),
                follower: "legacy".to_owned(),
                topics: [("orders-2".to_owned(), None)].into(),
            },
            Request::Knows { proxy: proxy.clone(), born: 8 },
            Request::Forgotten { proxy: proxy.clone(), by: "operator me@here".to_owned() },
            Request::Left { proxy, late: true },
        ];
        let mut state = State::default();
        let lines: String = (0..).zip(&log).map(|(offset, request)| line(offset, Some(request), state.apply(offset, request))).collect();
        assert_eq!(
            lines,
            "     0  2023-11-14T22:13:20.123Z  counts  the log is fedcba98\n     \
             1  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) joins, with rules 1, admin address 127.0.0.1:9190\n     \
             2  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) wishes orders on new (file 0, abcdefgh)\n     \
             3  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) asks to hold 1 topic with 2 partitions of legacy for new: orders; routes: orders\n     \
             4  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) holds move 3\n     \
             5  2023-11-14T22:13:20.123Z  counts  mirror m has closed 2 partitions of move 3, as of 4: orders\n     \
             6  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) asks to flip move 3: new leads orders (term 2)\n     \
             7  2023-11-14T22:13:20.123Z  void    operator me@here asks to abort move 3, and nothing moves before the file is changed, or read again: \
             a \u{fffd}[31mtest (move 3 is not open)\n     \
             8  2023-11-14T22:13:20.123Z  counts  mirror m: born on new, which leads, and legacy follows: 1 topic: orders-2\n     \
             9  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) goes by what was born at 8\n    \
             10  2023-11-14T22:13:20.123Z  counts  proxy a:9092 (01234567) is forgotten, says operator me@here\n    \
             11  2023-11-14T22:13:20.123Z  void    proxy a:9092 (01234567) leaves, and what it had sent may still arrive (proxy a:9092 (0123456789abcdef) is gone: it left, was replaced or was \
             forgotten; it can only join as a new incarnation)\n"
        );
    }

    #[test]
    fn what_no_kferry_wrote_is_bytes() {
        assert_eq!(
            line(17, None, Verdict::Void(Void::Foreign)),
            "    17  2023-11-14T22:13:20.123Z  void    5 bytes (no kferry wrote it)\n"
        );
    }
}
