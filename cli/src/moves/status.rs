//! `kferry status`: what is wished, what is so, and what is in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanCount;
use jiff::Timestamp;
use kferry_config::{Config, Mode};
use kferry_wire::decisions::{Disagreement, GATHER, Member, Move, Outcome, State, TOPIC, Void, Waited};
use kferry_wire::exit::{self, Exit};
use serde::Serialize;

use super::look::{self, Group, Life, Owned, Topic};
use super::{DecisionLog, FileArgs, failed, names, not_holding, short};
use crate::check::{count, print_json, printable, table, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};

/// Between two looks with `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// Rows of topics and groups that are where they are wished; those that are not are all shown.
const SHOWN: usize = 50;

/// Receipts that are shown.
const RECEIPTS: usize = 5;

/// Says for each relay route what is wished, what is so, and what is in the way; which proxies there are, and the last moves
///
/// It reads the log of decisions, and asks the clusters, and the admin addresses of the proxies and the mirror where they can be reached from here.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry status"]))]
pub(crate) struct Args {
    #[command(flatten)]
    file: FileArgs,
    /// Looks again every two seconds, until it is stopped
    #[arg(long)]
    watch: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What is wished is so, and nothing is in the way.
    ok: bool,
    /// The cluster that has the log of decisions.
    cluster: Arc<str>,
    /// Which log this is.
    log: String,
    /// How many records it has.
    records: i64,
    pub(super) routes: Vec<Route>,
    pub(super) topics: Vec<Topic>,
    pub(super) groups: Vec<Group>,
    proxies: Vec<Proxy>,
    open: Option<Open>,
    /// The move that an operator aborted: no other one begins before the file is changed, or read again.
    pub(super) stopped: Option<i64>,
    /// Topics that were born on a mirror's target, and are not copied before every proxy knows that.
    born: Vec<Born>,
    /// The last moves, the newest first.
    receipts: Vec<Receipt>,
    /// Why the mirror has not answered.
    no_mirror: Option<String>,
    /// What could not be looked at.
    pub(super) errors: Vec<String>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
pub(super) struct Route {
    pub(super) route: Arc<str>,
    /// By the file.
    pub(super) wished: Arc<str>,
    /// The home in force. `null`: the log does not know the route yet.
    pub(super) home: Option<Arc<str>>,
    pub(super) in_the_way: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Proxy {
    name: String,
    incarnation: String,
    /// Its admin address.
    admin: Option<String>,
    joined: Option<Timestamp>,
    /// The digest of the file that it has taken last.
    file: Option<String>,
    /// Whether it holds the open move.
    holds: bool,
    /// Whether it answers at its admin address, or why nobody knows.
    says: String,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
struct Open {
    id: i64,
    from: Arc<str>,
    to: Arc<str>,
    routes: BTreeSet<String>,
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
    since: Option<Timestamp>,
    open_ms: Option<i64>,
    not_holding: Vec<String>,
    partitions: usize,
    not_closed: usize,
    /// Groups that have not got their last offsets on the other cluster.
    not_synced: usize,
    waits_for: String,
}

#[derive(Debug, Serialize)]
struct Born {
    topics: BTreeSet<String>,
    /// The proxies that are waited for.
    not_known_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Receipt {
    id: i64,
    at: Option<Timestamp>,
    /// From `hold` to the end.
    took_ms: Option<i64>,
    from: Arc<str>,
    to: Arc<str>,
    routes: BTreeSet<String>,
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// How many Produce requests waited, at all proxies that have said so, and the longest time, in ms.
    waited: Waited,
    /// Groups that stayed where they live, and why.
    without: BTreeMap<String, String>,
    /// `flipped` or `aborted`.
    outcome: &'static str,
    by: String,
    /// Why it was aborted.
    reason: Option<String>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let (config, cluster) = match args.file.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let exit = runtime.block_on(async {
        let mut log = None;
        loop {
            let exit = match look_once(&config, &cluster, &mut log).await {
                Ok(report) => show(&report, args),
                Err(error) => match look::proxy_here(&config).await {
                    Some(says) => failed(args.file.json, &format!("{error}; {says}")),
                    None => failed(args.file.json, &error),
                },
            };
            if !args.watch {
                return exit;
            }
            tokio::time::sleep(WATCH).await;
        }
    });
    runtime.shutdown_background();
    exit
}

async fn look_once(config: &Config, cluster: &Arc<kferry_config::Cluster>, log: &mut Option<DecisionLog>) -> Result<Report, String> {
    // What could not be followed is read anew.
    let mut read = match log.take() {
        Some(read) => read,
        None => DecisionLog::find(cluster.clone()).await?,
    };
    read.catch_up(|_| {}).await?;
    read.is_whole()?;
    let report = Report::look(config, &read).await;
    *log = Some(read);
    Ok(report)
}

fn show(report: &Report, args: &Args) -> Exit {
    if args.file.json {
        print_json(report);
    } else {
        // A screen is written anew, a file goes on.
        let begin = if args.watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        to_stdout(&format!("{begin}{}", report.text(Timestamp::now())));
        for error in &report.errors {
            to_stderr(&labelled(Severity::Error, &printable(error)));
        }
    }
    Exit::done(report.ok)
}

impl Report {
    /// Asks everybody.
    pub(super) async fn look(config: &Config, log: &DecisionLog) -> Self {
        // Who does not answer is waited for, and the log was read before that.
        let now = Timestamp::now();
        let (lives, owned) = tokio::join!(look::proxies(log.state()), look::owned(config, log.state()));
        Self::of(config, log.state(), |offset| log.written(offset), &lives, owned, now)
    }

    /// What follows from what they say. `written`: when a record was written. `now`: when the log was read.
    fn of(
        config: &Config,
        state: &State,
        written: impl Fn(i64) -> Option<Timestamp>,
        lives: &BTreeMap<Member, Life>,
        owned: Owned,
        now: Timestamp,
    ) -> Self {
        let Owned { topics, groups, no_mirror, mut errors } = owned;
        let dead = lives.iter().filter_map(|(member, life)| if let Life::Gone(why) = life { Some((&member.name, why)) } else { None });
        errors.extend(dead.map(|(name, why)| {
            format!(
                "proxy {name}: {why}: start it again, or, if it will not come back, `kferry move forget {name}`: no move begins without it"
            )
        }));
        errors.extend(state.left_behind().map(|member| {
            format!(
                "proxy {} was not restarted since the log of decisions came to {}, and follows the one that it was before: write that cluster in [state] of its \
                 file, and restart it, or if that process is gone: kferry move forget {}@{}; nothing moves before",
                member.name,
                config.state.as_ref().map(|state| state.cluster.name.clone()).unwrap_or_default(),
                member.name,
                member.incarnation
            )
        }));
        let relay = config.routes.iter().filter(|route| route.mode == Mode::Relay);
        let routes: Vec<_> = relay.map(|route| Route::of(config, route, state, lives, &topics, &groups)).collect();
        let proxies = state.joined().iter().map(|(member, joined)| Proxy {
            name: member.name.clone(),
            incarnation: member.incarnation.clone(),
            admin: joined.admin.clone(),
            joined: written(joined.at),
            file: joined.wish.as_ref().map(|wish| wish.file.clone()),
            holds: state.open().is_some_and(|open| open.holding.contains(member)),
            says: says(lives.get(member)),
        });
        let open = state.open().map(|open| Open::of(open, state, written(open.id), lives, config, now));
        let born = state.births().values().map(|birth| Born {
            topics: birth.topics.clone(),
            not_known_by: state.joined().keys().filter(|member| !birth.known.contains(*member)).map(|member| member.name.clone()).collect(),
        });
        let receipts = state.receipts().take(RECEIPTS).map(|receipt| Receipt::of(receipt, &written));
        let report = Self {
            ok: false,
            cluster: config.state.as_ref().map(|state| state.cluster.name.clone()).unwrap_or_default(),
            log: state.identity().unwrap_or_default().to_owned(),
            records: state.end(),
            proxies: proxies.collect(),
            open,
            stopped: state.stopped(),
            born: born.collect(),
            receipts: receipts.collect(),
            routes,
            topics,
            groups,
            no_mirror,
            errors,
        };
        Self { ok: report.is_ok(), ..report }
    }

    fn is_ok(&self) -> bool {
        let is_at_home = |route: &Route| route.home.as_ref() == Some(&route.wished) && route.in_the_way.is_empty();
        let is_so = self.routes.iter().all(is_at_home)
            && self.topics.iter().all(|topic| self.is_there(topic))
            && self.groups.iter().all(|group| self.is_wished(&group.route, &group.lives));
        self.errors.is_empty() && self.open.is_none() && is_so
    }

    /// Whether a topic leads where it is wished.
    pub(super) fn is_there(&self, topic: &Topic) -> bool {
        self.is_wished(&topic.route, &topic.leader)
    }

    /// Whether it is on this cluster that a route is to have what it owns.
    fn is_wished(&self, route: &str, cluster: &str) -> bool {
        self.routes.iter().any(|known| *known.route == *route && *known.wished == *cluster)
    }

    fn text(&self, now: Timestamp) -> String {
        let mut out = format!("log of decisions: on {}, {} records\n", self.cluster, HumanCount(self.records.unsigned_abs()));
        out.push_str(&self.routes_text());
        out.push_str(&self.topics_text());
        out.push_str(&self.groups_text());
        out.push_str(&self.proxies_text(now));
        if let Some(why) = &self.no_mirror {
            let _ = writeln!(out, "\nnote: the lag is not known: {}", printable(why));
        }
        for Born { topics, not_known_by } in &self.born {
            let (topics, proxies) = (printable(&names(topics)), printable(&not_known_by.join(", ")));
            let _ = writeln!(out, "\nnote: born on the target of their mirror, and not copied before proxy {proxies} knows that: {topics}");
        }
        if let Some(open) = &self.open {
            out.push_str(&open.text());
        }
        if !self.receipts.is_empty() {
            out.push_str("\nlast moves\n");
            for receipt in &self.receipts {
                let _ = writeln!(out, "  {}", printable(&receipt.text()));
            }
        }
        out
    }

    fn routes_text(&self) -> String {
        let mut rows = vec![["ROUTE", "WISHED", "HOME", "TOPICS THERE", "GROUPS THERE"].map(str::to_owned).to_vec()];
        let mut in_the_way = String::new();
        for route in &self.routes {
            let topics: Vec<_> = self.topics.iter().filter(|topic| topic.route == route.route).collect();
            let there = topics.iter().filter(|topic| *topic.leader == *route.wished).count();
            let groups: Vec<_> = self.groups.iter().filter(|group| group.route == route.route).collect();
            let live = groups.iter().filter(|group| *group.lives == *route.wished).count();
            rows.push(vec![
                printable(&route.route),
                route.wished.to_string(),
                route.home.as_ref().map_or("-", |home| home).to_owned(),
                format!("{there} of {}", topics.len()),
                format!("{live} of {}", groups.len()),
            ]);
            for why in &route.in_the_way {
                let _ = writeln!(in_the_way, "  route {}: {}", route.route, printable(why));
            }
        }
        let in_the_way = if in_the_way.is_empty() { in_the_way } else { format!("\nin the way\n{in_the_way}") };
        format!("\n{}{in_the_way}", table(&rows))
    }

    fn topics_text(&self) -> String {
        let mut rows = vec![["TOPIC", "ROUTE", "LEADER", "TERM", "FOLLOWER", "LAG"].map(str::to_owned).to_vec()];
        let (mut shown, mut left) = (0, 0);
        for topic in &self.topics {
            if self.is_there(topic) && topic.lag.unwrap_or_default() == 0 {
                shown += 1;
                if shown > SHOWN {
                    left += 1;
                    continue;
                }
            }
            rows.push(vec![
                printable(&topic.topic),
                printable(&topic.route),
                topic.leader.clone(),
                topic.term.to_string(),
                topic.follower.as_ref().map_or("-", |follower| follower).to_owned(),
                topic.lag.map_or_else(|| "-".to_owned(), |lag| HumanCount(lag).to_string()),
            ]);
        }
        more(&rows, left, "topics that lead where they are wished")
    }

    fn groups_text(&self) -> String {
        let mut rows = vec![["GROUP", "ROUTE", "LIVES ON"].map(str::to_owned).to_vec()];
        let (there, elsewhere): (Vec<_>, Vec<_>) = self.groups.iter().partition(|group| self.is_wished(&group.route, &group.lives));
        let left = there.len().saturating_sub(SHOWN);
        let groups = elsewhere.into_iter().chain(there.into_iter().take(SHOWN));
        rows.extend(groups.map(|group| vec![printable(&group.group), printable(&group.route), group.lives.clone()]));
        more(&rows, left, "groups that live where they are wished")
    }

    fn proxies_text(&self, now: Timestamp) -> String {
        let mut rows = vec![["PROXY", "INCARNATION", "JOINED", "FILE", "HOLDS", "ADMIN", ""].map(str::to_owned).to_vec()];
        rows.extend(self.proxies.iter().map(|proxy| {
            let holds = if proxy.holds { "yes" } else { "-" };
            vec![
                printable(&proxy.name),
                printable(short(&proxy.incarnation)),
                proxy.joined.map_or_else(|| "-".to_owned(), |joined| format!("{} ago", ago(now, joined))),
                printable(proxy.file.as_deref().map_or("-", short)),
                holds.to_owned(),
                printable(proxy.admin.as_deref().unwrap_or("-")),
                printable(&proxy.says),
            ]
        }));
        more(&rows, 0, "")
    }
}

/// A table, if it has rows.
fn more(rows: &[Vec<String>], left: usize, what: &str) -> String {
    if rows.len() < 2 {
        return String::new();
    }
    let left = if left > 0 { format!("and {left} more {what} (--json lists them all)\n") } else { String::new() };
    format!("\n{}{left}", table(rows))
}

/// How long ago something was, in its largest unit.
fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn says(life: Option<&Life>) -> String {
    match life {
        Some(Life::Answers(moves)) => match &moves.not_joined {
            None => "answers".to_owned(),
            Some(why) => format!("answers, and has trouble: {why}"),
        },
        Some(Life::Gone(why) | Life::Unknown(why)) => why.clone(),
        None => "was not asked".to_owned(),
    }
}

impl Route {
    fn of(
        config: &Config,
        route: &kferry_config::Route,
        state: &State,
        lives: &BTreeMap<Member, Life>,
        topics: &[Topic],
        groups: &[Group],
    ) -> Self {
        let (name, wished) = (&*route.name, &route.cluster.name);
        let home = state.homes().get(name).cloned();
        let groups = groups.iter().filter(|group| group.route == route.name);
        let mine = || topics.iter().filter(|topic| topic.route == route.name);
        let is_there = home.as_ref() == Some(wished) && mine().all(|topic| *topic.leader == **wished);
        let is_there = is_there && groups.clone().all(|group| *group.lives == **wished);
        let mut in_the_way = Vec::new();
        in_the_way.extend(look::sees_home_alone(config, route).filter(|_| !is_there));
        // They say it by themselves.
        let soon: Vec<String> = answers(lives).filter_map(|moves| moves.not_said.clone()).collect();
        match state.wished(name) {
            Ok((_, agreed)) if agreed.home == **wished => in_the_way.extend(waits(name, state, lives, is_there)),
            _ if !soon.is_empty() => in_the_way.extend(soon),
            Err(why) => in_the_way.push(format!("{why}{}", way_out(&why))),
            Ok((_, agreed)) => in_the_way.push(not_said(name, &agreed.home, wished, lives)),
        }
        in_the_way.extend(mine().flat_map(|topic| &topic.trouble).cloned());
        Self { route: route.name.clone(), wished: wished.clone(), home, in_the_way }
    }
}

fn answers(lives: &BTreeMap<Member, Life>) -> impl Iterator<Item = &look::Moves> {
    lives.values().filter_map(|life| if let Life::Answers(moves) = life { Some(moves) } else { None })
}

/// Why the log does not have the wish of this file, but that for another home.
fn not_said(route: &str, home: &str, wished: &str, lives: &BTreeMap<Member, Life>) -> String {
    let has_taken = |life: &Life| matches!(life, Life::Answers(moves) if moves.wished.get(route).is_some_and(|cluster| cluster == wished));
    let taken: Vec<_> = lives.iter().filter(|(_, life)| has_taken(life)).map(|(member, _)| member.name.clone()).collect();
    if taken.is_empty() {
        return format!(
            "the proxies wish it on {home}: they have not taken this file, which says {wished}; put it in its place on every proxy"
        );
    }
    format!(
        "proxy {} has taken this file, which says {wished}, and has not said so in the log of decisions, which has {home} of it: if that stays so its log says \
         why it cannot write there; its login needs Write on {TOPIC}",
        names(&taken)
    )
}

/// What is in the way of a route on which all proxies agree.
fn waits(route: &str, state: &State, lives: &BTreeMap<Member, Life>, is_there: bool) -> Vec<String> {
    if is_there {
        return Vec::new();
    }
    if let Some(id) = state.stopped() {
        return vec![Void::Stopped(id).to_string()];
    }
    // Several say the same.
    let said: BTreeSet<&String> = answers(lives).filter_map(|moves| moves.waits.get(route)).flatten().collect();
    let mut waits: Vec<String> = said.into_iter().cloned().collect();
    if state.open().is_none() && answers(lives).next().is_none() {
        waits.push("no proxy answers at its admin address, so that it is not known here what is in the way: their logs say it".to_owned());
    }
    let aborted = state.receipts().next().filter(|receipt| state.aborts() > 0 && receipt.of.routes.contains(route));
    if let Some(Outcome::Aborted { reason, .. }) = aborted.map(|receipt| &receipt.outcome) {
        waits.push(format!("{} given up, and it is tried again; the last because {reason}", count_moves(state.aborts())));
    }
    waits
}

fn count_moves(number: u32) -> String {
    if number == 1 { "a move was".to_owned() } else { format!("{number} moves were") }
}

/// What to do where proxies do not agree, if the reason does not say it.
pub(super) fn way_out(why: &Disagreement) -> &'static str {
    match why {
        Disagreement::Nobody => ": start kferry-proxy with this file",
        Disagreement::Missing(_) | Disagreement::Differs { .. } => {
            ": give all of them the same file; if a proxy is dead and will not come back, `kferry move forget`"
        }
        Disagreement::Stale(_) => "",
    }
}

impl Open {
    fn of(open: &Move, state: &State, since: Option<Timestamp>, lives: &BTreeMap<Member, Life>, config: &Config, now: Timestamp) -> Self {
        let not_holding = not_holding(state, open);
        let (partitions, not_closed) = (open.topics.values().map(|topic| topic.partitions as usize).sum(), open.unclosed());
        let not_synced = open.groups.len() - open.synced.len();
        let dead: Vec<String> = lives
            .iter()
            .filter(|(member, life)| !open.holding.contains(*member) && matches!(life, Life::Gone(_)))
            .map(|(member, _)| member.name.clone())
            .collect();
        let open_ms = since.map(|since| i64::try_from(now.duration_since(since).as_millis()).unwrap_or(i64::MAX));
        let longest = 2 * config.moves.hold + if open.is_of_groups() { 2 * GATHER } else { Duration::ZERO };
        let is_late = open_ms.is_some_and(|open| u128::from(open.unsigned_abs()) > longest.as_millis());
        let waits_for = if !dead.is_empty() {
            format!("the dead are waited for: `kferry move forget {}`", dead.join("`, `kferry move forget "))
        } else if is_late {
            "no proxy has ended it though its time is over: see whether the proxies reach the cluster of the log; `kferry move abort` gives it up".to_owned()
        } else if !not_holding.is_empty() && open.is_of_groups() {
            "the members of groups come to the join, each with its next heartbeat".to_owned()
        } else if !not_holding.is_empty() {
            "the proxies wait for what brokers have not answered yet".to_owned()
        } else if not_closed > 0 {
            "the mirror copies the rest: its /partitions says how far it is".to_owned()
        } else if not_synced > 0 {
            "the mirror writes the last offsets of groups: its log says what keeps it".to_owned()
        } else if open.is_of_groups() {
            "a proxy takes a place in the groups at their new coordinators, which let nobody in before group.initial.rebalance.delay.ms, and asks for the flip".to_owned()
        } else {
            "a proxy looks at the ends a last time, and asks for the flip".to_owned()
        };
        Self {
            id: open.id,
            from: open.from.clone(),
            to: open.to.clone(),
            routes: open.routes.clone(),
            topics: open.topics.keys().cloned().collect(),
            groups: open.groups.clone(),
            since,
            open_ms,
            not_holding,
            partitions,
            not_closed,
            not_synced,
            waits_for,
        }
    }

    fn text(&self) -> String {
        let open = self.open_ms.map_or_else(String::new, |ms| format!(", open for {}", seconds(ms)));
        let holding = if self.not_holding.is_empty() {
            "all proxies hold".to_owned()
        } else {
            format!("do not hold yet: {}", names(&self.not_holding))
        };
        let (what, left) = if self.topics.is_empty() && !self.groups.is_empty() {
            (
                &self.groups,
                format!("{} of {} with the last offsets there", self.groups.len() - self.not_synced, count(self.groups.len(), "group")),
            )
        } else {
            (&self.topics, format!("{} of {} closed", self.partitions - self.not_closed, count(self.partitions, "partition")))
        };
        let lines = format!(
            "move {}{open}: {} from {} to {}, of {}: {}\n  {holding}\n  {left}\n  it waits for: {}",
            self.id,
            moved(self.topics.len(), self.groups.len()),
            self.from,
            self.to,
            names(&self.routes),
            names(what),
            self.waits_for
        );
        lines.lines().fold("\n".to_owned(), |text, line| text + &printable(line) + "\n")
    }
}

/// What a move moves, in numbers. One that moves nothing moves homes.
fn moved(topics: usize, groups: usize) -> String {
    if topics == 0 && groups > 0 { count(groups, "group") } else { count(topics, "topic") }
}

fn seconds(ms: i64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

impl Receipt {
    fn of(receipt: &kferry_wire::decisions::Receipt, written: impl Fn(i64) -> Option<Timestamp>) -> Self {
        let (began, at) = (written(receipt.of.id), written(receipt.at));
        let took = began.zip(at).map(|(began, at)| at.as_millisecond() - began.as_millisecond());
        let (outcome, by, reason) = match &receipt.outcome {
            Outcome::Flipped(_) => ("flipped", receipt.of.by.name.clone(), None),
            Outcome::Aborted { by, reason } => ("aborted", by.clone(), Some(reason.clone())),
        };
        Self {
            id: receipt.of.id,
            at,
            took_ms: took,
            from: receipt.of.from.clone(),
            to: receipt.of.to.clone(),
            routes: receipt.of.routes.clone(),
            topics: receipt.of.topics.keys().cloned().collect(),
            groups: receipt.of.groups.clone(),
            waited: receipt.waited.values().fold(Waited::default(), |all, at| Waited {
                requests: all.requests + at.requests,
                longest_ms: all.longest_ms.max(at.longest_ms),
            }),
            without: receipt.of.without.clone(),
            outcome,
            by,
            reason,
        }
    }

    fn text(&self) -> String {
        let at = self.at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
        let took = self.took_ms.map_or_else(String::new, |ms| format!(" in {}", seconds(ms)));
        // Those that stayed were of it, too.
        let groups = self.groups.len() + self.without.len();
        let mut what = format!("{} from {} to {}, of {}", moved(self.topics.len(), groups), self.from, self.to, names(&self.routes));
        if !self.without.is_empty() {
            let _ = write!(what, ", without {}", names(self.without.keys()));
        }
        match &self.reason {
            None => {
                let Waited { requests, longest_ms } = self.waited;
                format!(
                    "{at}  move {}: {what}: flipped{took}; {} waited, {longest_ms} ms at the most",
                    self.id,
                    count(requests as usize, "Produce request")
                )
            }
            Some(reason) => format!("{at}  move {}: {what}: aborted{took} by {}: {reason}", self.id, self.by),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_wire::decisions::{Flipped, Place, Request, Topic as Moving, Verdict, Wished};

    use super::*;

    const FILE: &str = r#"
        clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092", node_ids = "1", broker_ports = "9200" }
        clusters.new = { id = 2, bootstrap_servers = "new:9092", node_ids = "1", broker_ports = "9300" }
        state = { cluster = "new" }
        [[listeners]]
        name = "plain"
        bind = "127.0.0.1:9092"
        [[routes]]
        name = "orders"
        client_id = "*"
        cluster = "new"
        mode = "relay"
        topics = ["orders"]
        [[mirrors]]
        name = "over"
        source = "legacy"
        target = "new"
        topics = ["orders"]
    "#;

    fn member(name: &str) -> Member {
        Member { name: name.to_owned(), incarnation: format!("{name}-0123456789") }
    }

    fn wish(name: &str, taken: u32, home: &str) -> Request {
        let wished = Wished { home: home.to_owned(), owns: String::new() };
        Request::Wish { proxy: member(name), taken, file: home.to_owned(), routes: [("orders".to_owned(), wished)].into() }
    }

    /// Two proxies that were started with the route at home on legacy, and what came then.
    fn state(then: Vec<Request>) -> State {
        let join = |name: &str| Request::Joined {
            proxy: member(name),
            rules: 1,
            place: Place { boot: name.to_owned(), ..Place::default() },
            admin: None,
        };
        let begun = vec![Request::Identity { log: "L".to_owned() }, join("a"), join("b"), wish("a", 0, "legacy"), wish("b", 0, "legacy")];
        let mut state = State::default();
        for (offset, request) in (0..).zip(begun.into_iter().chain(then)) {
            assert_eq!(state.apply(offset, &request), Verdict::Counts, "{request:?}");
        }
        state
    }

    fn hold() -> Request {
        let topics = [("orders".to_owned(), Moving { partitions: 4, ..Moving::default() })].into();
        let (from, to) = ("legacy".to_owned(), "new".to_owned());
        Request::Hold { by: member("a"), after: 0, from, to, routes: ["orders".to_owned()].into(), topics, groups: BTreeSet::new() }
    }

    /// A record was written each second.
    fn report(state: &State, leader: &str, lives: &BTreeMap<Member, Life>) -> Report {
        let config = Config::parse(FILE, Path::new("routes.toml")).unwrap();
        let topic = Topic {
            topic: "orders".to_owned(),
            route: "orders".into(),
            leader: leader.to_owned(),
            term: 1,
            follower: Some("new".into()),
            lag: Some(1234),
            trouble: Vec::new(),
        };
        let owned = Owned { topics: vec![topic], ..Owned::default() };
        let second = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        Report::of(&config, state, |offset| Some(second(offset)), lives, owned, second(20))
    }

    fn in_the_way(state: &State) -> String {
        report(state, "legacy", &BTreeMap::new()).routes.remove(0).in_the_way.join("; ")
    }

    #[test]
    fn an_open_move_says_who_is_waited_for() {
        let holding = Request::Holding { proxy: member("a"), id: 7 };
        let state = state(vec![wish("a", 1, "new"), wish("b", 1, "new"), hold(), holding]);
        let lives = [(member("b"), Life::Gone("nobody listens".to_owned()))].into();
        let report = report(&state, "legacy", &lives);
        assert!(!report.ok);
        let said =
            "proxy b: nobody listens: start it again, or, if it will not come back, `kferry move forget b`: no move begins without it";
        assert_eq!(report.errors, [said]);
        let text = report.text(Timestamp::from_second(1_700_000_020).unwrap());
        for line in [
            "orders  new     legacy  0 of 1        0 of 0\n",
            "orders  orders  legacy  1     new       1,234\n",
            "b      b-012345     18 s ago  new   -      -      nobody listens\n",
            "move 7, open for 13.0 s: 1 topic from legacy to new, of orders: orders\n  do not hold yet: b\n  0 of 4 partitions closed\n",
            "  it waits for: the dead are waited for: `kferry move forget b`\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_move_of_groups_may_wait_for_their_members_before_it_is_late() {
        let hold = |groups: &[&str]| {
            let Request::Hold { by, after, from, to, routes, topics, .. } = hold() else { unreachable!() };
            let topics = if groups.is_empty() { topics } else { BTreeMap::new() };
            Request::Hold { by, after, from, to, routes, topics, groups: groups.iter().map(|group| (*group).to_owned()).collect() }
        };
        // It was asked for in second 7, and it is second 20.
        for (groups, is_late) in [(&[][..], true), (&["orders-g"], false)] {
            let state = state(vec![wish("a", 1, "new"), wish("b", 1, "new"), hold(groups)]);
            let waits_for = report(&state, "legacy", &BTreeMap::new()).open.unwrap().waits_for;
            assert_eq!(waits_for.contains("kferry move abort"), is_late, "{waits_for}");
        }
    }

    #[test]
    fn a_group_that_stayed_was_of_the_move() {
        let Request::Hold { by, after, from, to, routes, .. } = hold() else { unreachable!() };
        let hold = Request::Hold { by, after, from, to, routes, topics: BTreeMap::new(), groups: ["orders-g".to_owned()].into() };
        let without =
            Request::Without { id: 7, by: "a".to_owned(), groups: [("orders-g".to_owned(), "it does not come".to_owned())].into() };
        let abort = Request::Abort { id: 7, by: "a".to_owned(), reason: "nothing is left of it".to_owned(), until_edit: false };
        let state = state(vec![wish("a", 1, "new"), wish("b", 1, "new"), hold, without, abort]);
        let text = report(&state, "legacy", &BTreeMap::new()).text(Timestamp::UNIX_EPOCH);
        assert!(text.contains("move 7: 1 group from legacy to new, of orders, without orders-g: aborted"), "{text}");
    }

    #[test]
    fn a_proxy_that_follows_the_log_where_it_was_is_to_be_restarted() {
        let came = Request::Came { from: "legacy".to_owned(), by: "operator".to_owned() };
        let report = report(&state(vec![came]), "legacy", &BTreeMap::new());
        assert!(!report.ok);
        assert!(report.errors[0].starts_with("proxy a was not restarted since the log of decisions came to new"), "{:?}", report.errors);
    }

    #[test]
    fn a_proxy_that_cannot_say_its_wish_is_told_from_one_that_has_not_taken_the_file() {
        let moves = |home: &str, not_said: Option<&str>| -> look::Moves {
            let wished: BTreeMap<_, _> = [("orders", home)].into();
            let answer = serde_json::json!({ "proxy": "a", "incarnation": "1", "not_joined": null, "not_said": not_said, "wished": wished, "waits": {} });
            serde_json::from_value(answer).unwrap()
        };
        for (home, not_said, says) in [
            ("legacy", None, "they have not taken this file"),
            ("new", None, "proxy a has taken this file, which says new, and has not said so"),
            ("new", Some("clients were cut"), "clients were cut"),
        ] {
            let lives = [(member("a"), Life::Answers(moves(home, not_said)))].into();
            let said = report(&state(Vec::new()), "legacy", &lives).routes.remove(0).in_the_way.join("; ");
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn what_is_in_the_way_says_what_to_do() {
        let abort = |until_edit| Request::Abort { id: 7, by: "a".to_owned(), reason: "the mirror is away".to_owned(), until_edit };
        let taken = || vec![wish("a", 1, "new"), wish("b", 1, "new")];
        let with = |more: Vec<Request>| state(taken().into_iter().chain(more).collect());
        for (state, says) in [
            (state(Vec::new()), "the proxies wish it on legacy: they have not taken this file, which says new"),
            (
                state(vec![wish("a", 1, "new")]),
                "give all of them the same file; if a proxy is dead and will not come back, `kferry move forget`",
            ),
            (with(Vec::new()), "no proxy answers at its admin address"),
            (
                with(vec![hold(), abort(true)]),
                "an operator has aborted move 7: no move begins before the file is changed, or read again (POST /reload, or SIGHUP)",
            ),
            (with(vec![hold(), abort(false)]), "a move was given up, and it is tried again; the last because the mirror is away"),
        ] {
            let said = in_the_way(&state);
            assert!(said.contains(says), "{says}: {said}");
        }
    }

    #[test]
    fn all_is_well_where_all_is_as_the_file_wishes() {
        let flipped = |home: &str| {
            let mut state = state(vec![wish("a", 1, "new"), wish("b", 1, "new"), hold()]);
            let rest = ["a", "b"].map(|name| Request::Holding { proxy: member(name), id: 7 });
            let closed = Request::Closed {
                id: 7,
                as_of: 9,
                by: "m".to_owned(),
                ends: [("orders".to_owned(), (0..4).map(|at| (at, 9)).collect())].into(),
            };
            for (offset, request) in (8..).zip(rest.into_iter().chain([closed])) {
                assert_eq!(state.apply(offset, &request), Verdict::Counts);
            }
            let Flipped { topics, groups } = state.outcome().unwrap();
            assert_eq!(state.apply(11, &Request::Flip { id: 7, by: member("a"), topics, groups }), Verdict::Counts);
            report(&state, home, &BTreeMap::new())
        };
        let report = flipped("new");
        assert!(report.ok, "{report:#?}");
        assert!(
            report
                .text(Timestamp::UNIX_EPOCH)
                .contains("move 7: 1 topic from legacy to new, of orders: flipped in 4.0 s; 0 Produce requests waited, 0 ms at the most\n")
        );
        assert!(!flipped("legacy").ok);
    }
}
