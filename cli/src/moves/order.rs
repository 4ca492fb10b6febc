//! `kferry move`: what would move; an abort; a proxy that is dead. A move begins with an edit of the file, so there is no command for that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use kferry_config::{Cluster, Config, Mode, Route};
use kferry_wire::client::Client;
use kferry_wire::decisions::{LATE, Member, Outcome, Place, ReadRecord, Request, State, Verdict, Void, decode};
use kferry_wire::exit::{self, Exit};
use kferry_wire::preflight::groups::{listed, preflight_groups};
use kferry_wire::preflight::{Between, Rules, lost_rights, preflight};
use serde::Serialize;
use tokio::time::sleep;

use super::look::{self, Life};
use super::relocate::{Relocate, relocate};
use super::status::Report;
use super::{DecisionLog, Done, FileArgs, client, failed, names, operator, short};
use crate::check::{count, print_json, printable, refuse, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};

/// Live moves by hand: what would move, an abort, a proxy that is dead, the log of decisions on another cluster
///
/// A move has no command: write another cluster in a route of routes.toml, on every proxy, and save.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry move"]), args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    file: FileArgs,
    /// Says what would move if all proxies took this file now, and what is in the way. Changes nothing
    #[arg(long, required = true)]
    dry_run: bool,
}

#[derive(Subcommand)]
enum Order {
    Abort(Abort),
    Forget(Forget),
    Log(Relocate),
}

/// Ends the open move: everybody goes on where they were
///
/// No other move begins before the file is changed, or read again (POST /reload, or SIGHUP). A move that is not aborted ends by itself: it flips, or the
/// proxies give it up.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry move abort"]))]
struct Abort {
    #[command(flatten)]
    file: FileArgs,
    /// Why, for those who read the log
    #[arg(long, value_name = "SENTENCE", default_value = "no reason was given")]
    reason: String,
}

/// Says that a proxy is dead, so that moves do not wait for it
///
/// A proxy that was killed and does not come back keeps all moves waiting. Once it is forgotten they go on without it: topics change their leader, whatever
/// it does. A proxy that lives, but does not reach the log of decisions, would not hear of that. It would go on writing what its clients produce to the old
/// leader, where nobody reads it any more: records that were acknowledged would be lost, and the partitions diverge. And what a process has sent may still
/// arrive at a broker 30 s after its end.
///
/// So this is refused while the proxy answers at its admin address. If its process has run on this machine and is gone the command waits 30 s, looks again,
/// and forgets it. Of another machine nobody can tell that from here: there it takes --dead.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry move forget"]))]
struct Forget {
    #[command(flatten)]
    file: FileArgs,
    /// The proxy by its name, as `kferry status` shows it; NAME@INCARNATION where several have that name
    #[arg(value_name = "PROXY")]
    proxy: String,
    /// Vouches that its process, or its whole machine, is gone for 30 s at least
    #[arg(long)]
    dead: bool,
}

pub(crate) fn run(args: &Args) -> Exit {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let exit = match &args.order {
        None => with_file(&args.file, |config, cluster| runtime.block_on(dry_run(&config, cluster, args.file.json))),
        Some(Order::Abort(order)) => {
            with_file(&order.file, |_, cluster| told(runtime.block_on(abort(cluster, &order.reason)), order.file.json))
        }
        Some(Order::Forget(order)) => {
            let say = |sentence: &str| to_stderr(&labelled(Severity::Note, &printable(sentence)));
            with_file(&order.file, |_, cluster| told(runtime.block_on(forget(cluster, order, say)), order.file.json))
        }
        Some(Order::Log(order)) => {
            let json = order.file.json;
            with_file(&order.file, |config, cluster| match order.to(&config) {
                Ok(to) => told(runtime.block_on(relocate(cluster, to)), json),
                Err(problem) => refuse(json, &problem),
            })
        }
    };
    runtime.shutdown_background();
    exit
}

fn with_file(file: &FileArgs, run: impl FnOnce(Config, Arc<Cluster>) -> Exit) -> Exit {
    match file.read() {
        Ok((config, cluster)) => run(config, cluster),
        Err(refused) => refused,
    }
}

/// `Err`: it was not done, and why.
fn told(done: Result<Done, String>, json: bool) -> Exit {
    match done {
        Ok(done) if json => print_json(&done),
        Ok(done) => to_stdout(&(printable(&format!("{}: record {} of the log of decisions", done.done, done.offset)) + "\n")),
        Err(why) => return failed(json, &why),
    }
    Exit::Done
}

/// What the file wants to move between two clusters.
#[derive(Debug, Serialize)]
struct Wanted {
    from: String,
    to: Arc<str>,
    routes: BTreeSet<Arc<str>>,
    topics: BTreeSet<Arc<str>>,
    /// After the topics, each by itself.
    groups: BTreeSet<Arc<str>>,
}

impl Wanted {
    fn new(from: String, to: Arc<str>) -> Self {
        Self { from, to, routes: BTreeSet::new(), topics: BTreeSet::new(), groups: BTreeSet::new() }
    }

    /// What moves, in numbers and names.
    fn what(&self) -> String {
        let told = |all: &BTreeSet<Arc<str>>, what: &str| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            (!all.is_empty()).then(|| format!("{}: {}", count(all.len(), what), names(&all)))
        };
        let told: Vec<_> = [told(&self.topics, "topic"), told(&self.groups, "group")].into_iter().flatten().collect();
        if told.is_empty() { "no topic, the home alone".to_owned() } else { told.join("; ") }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Plan {
    /// Nothing is in the way.
    ok: bool,
    moves: Vec<Wanted>,
    /// By route.
    in_the_way: BTreeMap<Arc<str>, Vec<String>>,
    /// What is to be done before it begins.
    notes: Vec<String>,
    errors: Vec<String>,
}

async fn dry_run(config: &Config, cluster: Arc<Cluster>, json: bool) -> Exit {
    let log = match DecisionLog::read(cluster).await {
        Ok(log) => log,
        Err(why) => return failed(json, &why),
    };
    let plan = Box::pin(Plan::of(config, &log)).await;
    if json {
        print_json(&plan);
    } else {
        to_stdout(&plan.text());
        plan.notes.iter().for_each(|note| to_stderr(&labelled(Severity::Note, &printable(note))));
        plan.errors.iter().for_each(|error| to_stderr(&labelled(Severity::Error, &printable(error))));
    }
    Exit::done(plan.ok)
}

impl Plan {
    /// What the file wants, by what is so. A route moves whole: if one of its topics cannot, none of them does. Each group moves by itself.
    async fn of(config: &Config, log: &DecisionLog) -> Self {
        let report = Report::look(config, log).await;
        let mut moves: BTreeMap<(String, Arc<str>), Wanted> = BTreeMap::new();
        let mut owners: BTreeMap<String, Arc<str>> = BTreeMap::new();
        for route in &report.routes {
            let mut wants = |from: &str, add: &dyn Fn(&mut Wanted)| {
                let key = (from.to_owned(), route.wished.clone());
                let wanted = moves.entry(key.clone()).or_insert_with(|| Wanted::new(key.0, key.1));
                wanted.routes.insert(route.route.clone());
                add(wanted);
            };
            if let Some(home) = route.home.as_ref().filter(|home| **home != route.wished) {
                wants(home, &|_| {});
            }
            for topic in report.topics.iter().filter(|topic| topic.route == route.route && *topic.leader != *route.wished) {
                wants(&topic.leader, &|wanted| {
                    wanted.topics.insert(topic.topic.as_str().into());
                });
                owners.insert(format!("topic {}", topic.topic), route.route.clone());
            }
            for group in report.groups.iter().filter(|group| group.route == route.route && *group.lives != *route.wished) {
                wants(&group.lives, &|wanted| {
                    wanted.groups.insert(group.group.as_str().into());
                });
                owners.insert(format!("group {}", group.group), route.route.clone());
            }
        }
        let moves: Vec<Wanted> = moves.into_values().collect();
        let mut in_the_way: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
        for route in moves.iter().flat_map(|wanted| &wanted.routes).collect::<BTreeSet<_>>() {
            if let Some(why) =
                config.routes.iter().find(|known| known.name == *route).and_then(|route| look::sees_home_alone(config, route))
            {
                in_the_way.entry(route.clone()).or_default().push(why);
            }
        }
        for wanted in &moves {
            for (what, why) in Box::pin(blocked(config, wanted)).await {
                let owner = owners.get(&what).cloned().unwrap_or_default();
                in_the_way.entry(owner).or_default().push(format!("{what}: {why}"));
            }
        }
        let notes = if moves.is_empty() { Vec::new() } else { notes(config, log.state(), &moves) };
        Self { ok: in_the_way.is_empty() && report.errors.is_empty(), moves, in_the_way, notes, errors: report.errors }
    }

    fn text(&self) -> String {
        if self.moves.is_empty() {
            return "nothing is to move: everything is where this file wishes it\n".to_owned();
        }
        let mut out = String::new();
        for wanted in &self.moves {
            let routes: Vec<String> = wanted.routes.iter().map(ToString::to_string).collect();
            out += &(printable(&format!("from {} to {}, for {}: {}", wanted.from, wanted.to, names(&routes), wanted.what())) + "\n");
        }
        if !self.in_the_way.is_empty() {
            out += "\nin the way\n";
        }
        for (route, why) in &self.in_the_way {
            for why in why {
                let _ = writeln!(out, "  route {route}: {}", printable(why));
            }
        }
        out
    }
}

/// The topics and groups that cannot move now, and why not.
async fn blocked(config: &Config, Wanted { from, to, topics, groups, .. }: &Wanted) -> Vec<(String, String)> {
    let all = |kind: &str, names: &BTreeSet<Arc<str>>, why: &str| {
        names.iter().map(|name| (format!("{kind} {name}"), why.to_owned())).collect::<Vec<_>>()
    };
    let client = |name: &str| config.cluster(name).cloned().map(client);
    let Some((from, to)) = client(from).zip(client(to)) else {
        let why = format!("cluster {from}, where it is, is not in the file");
        return [all("topic", topics, &why), all("group", groups, &why)].concat();
    };
    let of_topics = async {
        if topics.is_empty() {
            return Vec::new();
        }
        let rules = Rules::of(&config.mirrors, config.routes.iter(), &from.cluster().name);
        match preflight(Between { from: &from, to: &to }, rules, topics, Timestamp::now().as_millisecond()).await {
            Ok(report) => {
                let found = report.into_iter().filter_map(|(topic, found)| Some((format!("topic {topic}"), found.err()?)));
                let logins = of_logins(config, [&from, &to], topics).await.into_iter();
                found.chain(logins.map(|(topic, why)| (format!("topic {topic}"), why))).collect()
            }
            Err(error) => all("topic", topics, &error.to_string()),
        }
    };
    let of_groups = async {
        if groups.is_empty() {
            return Vec::new();
        }
        let (here, there) = tokio::join!(listed(&from), listed(&to));
        let names: Vec<&str> = groups.iter().map(|group| &**group).collect();
        // Which groups commit in transactions the proxies know.
        let report = preflight_groups(Between { from: &from, to: &to }, [&here, &there], &config.mirrors, &names, |_| false).await;
        report.into_iter().filter_map(|(group, found)| Some((format!("group {group}"), found.err()?))).collect()
    };
    let (of_topics, of_groups) = tokio::join!(of_topics, of_groups);
    [of_topics, of_groups].concat()
}

/// What the clients of routes with a login of their own could not do any more with topics on the other cluster: any route may use a topic, not only its owner.
async fn of_logins(config: &Config, [from, to]: [&Client; 2], topics: &BTreeSet<Arc<str>>) -> Vec<(Arc<str>, String)> {
    let clusters = [from, to].map(Client::cluster);
    let sees = |route: &Route| clusters.iter().all(|cluster| config.view(route, clusters[0]).iter().any(|seen| seen.name == cluster.name));
    let has_login = |route: &Route| clusters.iter().any(|cluster| route.credentials.contains_key(&cluster.name));
    let mut told = Vec::new();
    for route in config.routes.iter().filter(|route| route.mode == Mode::Relay && sees(route) && has_login(route)) {
        let of_route = |cluster: &Arc<Cluster>| client(Arc::new(Cluster { security: route.security(cluster), ..Cluster::clone(cluster) }));
        let [from, to] = clusters.map(of_route);
        match lost_rights(&route.name, Between { from: &from, to: &to }, topics).await {
            Ok(lost) => told.extend(lost),
            Err(error) => {
                let why = format!("with the login of route {}, which clients of it have: {error}", route.name);
                told.extend(topics.iter().map(|topic| (topic.clone(), why.clone())));
            }
        }
    }
    told
}

/// What is to be done before what is wanted begins.
fn notes(config: &Config, state: &State, moves: &[Wanted]) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(open) = state.open() {
        notes.push(format!("move {} is open: this waits for its end", open.id));
    }
    if let Some(id) = state.stopped() {
        notes.push(Void::Stopped(id).to_string());
    }
    for name in moves.iter().flat_map(|wanted| &wanted.routes).collect::<BTreeSet<_>>() {
        let Some(route) = config.routes.iter().find(|route| route.name == *name) else { continue };
        match state.wished(name) {
            Ok((_, wished)) if wished.home == *route.cluster.name => {}
            Ok((_, wished)) => {
                notes
                    .push(format!("route {name}: the proxies wish it on {}: it begins when all of them have taken this file", wished.home));
            }
            Err(why) => notes.push(format!("route {name}: {why}{}", super::status::way_out(&why))),
        }
    }
    notes
}

async fn abort(cluster: Arc<Cluster>, reason: &str) -> Result<Done, String> {
    let mut log = DecisionLog::read(cluster).await?;
    let id = log
        .state()
        .open()
        .map(|open| open.id)
        .ok_or("no move is open. One that was given up is tried again: to keep it from that, revert the edit")?;
    let request = Request::Abort { id, by: operator(), reason: reason.to_owned(), until_edit: true };
    let back = log.ask(&request, |_| {}).await?;
    match back.verdict {
        Verdict::Counts => Ok(Done {
            ok: true,
            offset: back.offset,
            done: format!("move {id} is aborted, and nothing moves before the file is changed, or read again (POST /reload, or SIGHUP)"),
        }),
        Verdict::Void(void) => {
            let receipt = log.state().receipts().find(|receipt| receipt.of.id == id);
            Err(match receipt.map(|receipt| &receipt.outcome) {
                Some(Outcome::Flipped(_)) => {
                    format!("too late: move {id} has flipped before; to go back, write the other cluster in the route")
                }
                Some(Outcome::Aborted { by, reason }) => format!("move {id} was aborted before, by {by}: {reason}"),
                None => format!("it does not count: {void}"),
            })
        }
    }
}

async fn forget(cluster: Arc<Cluster>, order: &Forget, say: impl Fn(&str)) -> Result<Done, String> {
    let mut log = DecisionLog::find(cluster).await?;
    let mut last = LastWords::default();
    log.catch_up(|record| last.read(record)).await?;
    log.is_whole()?;
    let here = Place::of_this_process(BTreeSet::new());
    let member = find(log.state(), &order.proxy)?;
    let life = async |log: &DecisionLog| match log.state().joined().get(&member) {
        Some(joined) => Ok(look::proxy(&member, joined, &here).await),
        None => Err(format!("proxy {} is gone: it has left, or was replaced or forgotten", shown(&member))),
    };
    match life(&log).await? {
        Life::Answers(_) => return Err(lives(&member)),
        _ if order.dead => last.is_silent(&member, Timestamp::now())?,
        Life::Unknown(why) => {
            return Err(format!(
                "whether proxy {} lives is not known from here: {why}. If its process or its whole machine is gone for {LATE:?}, say so with --dead",
                shown(&member)
            ));
        }
        Life::Gone(why) => {
            say(&format!("proxy {} has ended: {why}. What it has sent may still arrive for {LATE:?}: that is waited for", shown(&member)));
            let before = last.of(&member);
            sleep(LATE).await;
            log.catch_up(|record| last.read(record)).await?;
            if last.of(&member) != before {
                return Err(format!("proxy {} has said something in the log meanwhile: it lives", shown(&member)));
            }
            if !matches!(life(&log).await?, Life::Gone(_)) {
                return Err(lives(&member));
            }
        }
    }
    let back = log.ask(&Request::Forgotten { proxy: member.clone(), by: operator() }, |_| {}).await?;
    match back.verdict {
        Verdict::Counts => Ok(Done { ok: true, offset: back.offset, done: format!("proxy {} is forgotten", shown(&member)) }),
        Verdict::Void(void) => Err(format!("it does not count: {void}")),
    }
}

fn lives(member: &Member) -> String {
    format!("proxy {} answers at its admin address: it lives. Stop it with SIGTERM, and it says itself that it has left", shown(member))
}

fn shown(member: &Member) -> String {
    format!("{} ({})", member.name, short(&member.incarnation))
}

/// The proxy of that name: `NAME`, or `NAME@INCARNATION`, of which the beginning is enough.
fn find(state: &State, proxy: &str) -> Result<Member, String> {
    let (name, incarnation) = proxy.split_once('@').unwrap_or((proxy, ""));
    let is_it = |member: &&Member| member.name == name && member.incarnation.starts_with(incarnation);
    let found: Vec<&Member> = state.joined().keys().filter(is_it).collect();
    match found[..] {
        [member] => Ok(member.clone()),
        [] if state.joined().is_empty() => Err("no proxy has joined".to_owned()),
        [] => {
            let all: Vec<String> = state.joined().keys().map(|member| format!("{}@{}", member.name, short(&member.incarnation))).collect();
            Err(format!("no proxy {proxy} has joined; these have: {}", names(&all)))
        }
        _ => {
            let several: Vec<String> = found.iter().map(|member| format!("{}@{}", member.name, short(&member.incarnation))).collect();
            Err(format!("several proxies have that name: say which one: {}", several.join(", ")))
        }
    }
}

/// When each proxy has said something last.
#[derive(Debug, Default)]
struct LastWords(BTreeMap<Member, (i64, i64)>);

impl LastWords {
    fn read(&mut self, record: &ReadRecord) {
        let request = record.value.as_deref().and_then(|value| decode(value).ok().flatten());
        let by = match request {
            Some(
                Request::Joined { proxy, .. }
                | Request::Wish { proxy, .. }
                | Request::Parked { proxy, .. }
                | Request::Holding { proxy, .. }
                | Request::Left { proxy, .. },
            ) => proxy,
            Some(Request::Hold { by, .. } | Request::Flip { by, .. }) => by,
            _ => return,
        };
        self.0.insert(by, (record.offset, record.timestamp));
    }

    /// The offset of its last record.
    fn of(&self, member: &Member) -> Option<i64> {
        self.0.get(member).map(|(offset, _)| *offset)
    }

    /// Whether it has said nothing for so long that all that it has sent has arrived, by its own clock. One that is ahead says nothing.
    fn is_silent(&self, member: &Member, now: Timestamp) -> Result<(), String> {
        let Some((offset, at)) = self.0.get(member) else { return Ok(()) };
        let ago = u64::try_from(now.as_millisecond() - at).map(Duration::from_millis);
        match ago.map(|ago| LATE.checked_sub(ago)) {
            Ok(Some(left)) if !left.is_zero() => Err(format!(
                "proxy {} has said something in the log {} s ago (record {offset}), and what it has sent may still arrive for {LATE:?}: try again in {} s",
                shown(member),
                LATE.saturating_sub(left).as_secs(),
                left.as_secs() + 1
            )),
            _ => Ok(()),
        }
    }
}
