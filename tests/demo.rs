//! `make demo`: two real Kafka clusters, kferry-proxy in front of them, kferry-mirror between them; applications produce and consume. The file is edited,
//! and their topics move to the other cluster while they run; it is edited back, and they come back.
//!
//! What is printed was counted: from the numbers that producers got acknowledged and groups read, and at the end in both logs. Exit code 1 if one record is
//! lost, there twice or not in its place.

#[path = "demo/apps.rs"]
mod apps;
#[path = "demo/phases.rs"]
mod phases;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use apps::{App, Receipt};
use console::style;
use harness::kafka::{Cluster, Listener};
use harness::process::Process;
use harness::proxy::{Proxy, Routes, executable};
use harness::scenario::identical;
use harness::{LIMIT, jars, ports, run};
use jiff::Timestamp;
use phases::{Kind, Phases};

const LEGACY: &str = "3.9.1";
const NEW: &str = "4.3.0";

/// How long the applications run before each edit: what they do then is what a move is held against.
const BEFORE: Duration = Duration::from_secs(5);

/// What the proxy says of a file with an error.
const NOT_TAKEN: &str = "routes.toml was not taken";

/// Between two looks at what it has said.
const LOOK: Duration = Duration::from_millis(500);

/// How long it is watched what comes of a move, once the mirror copies the other way.
const AFTER: Duration = Duration::from_secs(3);

const MIRROR: &str = r#"
[state]
cluster = "new"

[[mirrors]]
name = "over"
source = "legacy"
target = "new"
topics = ["orders", "payments"]
groups = ["orders-billing", "payments-ledger"]
"#;

/// Those of [`MIRROR`].
const GROUPS: [&str; 2] = ["orders-billing", "payments-ledger"];

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{} {error:#}", style("✘").red().bold());
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let start = Instant::now();
    let say = |text: &str| println!("{} {text}", style(format!("{:5.1} s", start.elapsed().as_secs_f64())).dim());

    for version in [LEGACY, NEW] {
        jars::kafka(version)?;
    }
    say(&format!("starting two clusters: legacy (Kafka {LEGACY}) and new (Kafka {NEW})"));
    let stage = Stage::set()?;
    say(&format!("kferry-proxy is everybody's bootstrap.servers: {}", stage.proxy.bootstrap_servers()));
    say("kferry-mirror copies the topics orders and payments from legacy to new");
    let apps = [App::librdkafka(&stage)?, App::java(&stage)?];
    for app in &apps {
        app.goes_on(LIMIT)?;
        say(&format!("topic {:8}  {}", app.topic, app.client));
    }
    let shown = |path: &Path| path.strip_prefix(run::workspace()).unwrap_or(path).display().to_string();
    println!("\n        the file      {}", shown(&stage.file));
    println!("        logs          {}", shown(stage.proxy.log_file()));
    println!("                      {}", shown(&stage.mirror_log));
    println!("        who is where  http://127.0.0.1:{}/moves\n", stage.proxy.admin_port());

    let mut phases = stage.phases()?;
    for home in ["new", "legacy"] {
        thread::sleep(BEFORE);
        say(&format!("the file is edited: {}", style(format!("cluster = \"{home}\"")).cyan().bold()));
        stage.edit(home)?;
        watch_a_move(&stage, &apps, &mut phases, home)?;
    }
    if std::io::stdin().is_terminal() {
        let edit = style("edit the cluster of the route shop in that file, and watch").cyan().bold();
        println!("Everything still runs: {edit}. Enter ends it\n");
        watch_edits(&stage, &apps, &mut phases)?;
    }

    let mut records = 0;
    for app in apps {
        records += stage.is_in_order(app)?;
    }
    let done = style("✔").green().bold();
    println!("{done} {records} records: each was read once and in order by its group, and is in both logs, once and in order");
    Ok(())
}

/// Prints each phase of the move that an edit brings, and what the applications saw of it. An error if it cost a record.
fn watch_a_move(stage: &Stage, apps: &[App], phases: &mut Phases, home: &str) -> Result<()> {
    let (edited, deadline) = (stage.edited()?, Instant::now() + LIMIT);
    let mut is_turned = false;
    while !is_turned || !phases.live_on(home, &GROUPS) {
        if let Some(phase) = phases.next(&stage.mirror_log)? {
            phase.show(edited);
            is_turned |= phase.kind == Kind::Turned;
        }
        ensure!(Instant::now() < deadline, "nothing has moved; the proxy says\n{}", stage.proxy.log_text());
    }
    thread::sleep(AFTER);
    show_receipts(apps, edited)
}

/// The same for what somebody else edits, until Enter.
fn watch_edits(stage: &Stage, apps: &[App], phases: &mut Phases) -> Result<()> {
    let (entered, enter) = mpsc::channel();
    thread::spawn(move || entered.send(std::io::stdin().read_line(&mut String::new()).is_ok()));
    let (mut lines, mut looked, mut is_turned) = (stage.proxy.log()?.len(), Instant::now(), false);
    while enter.try_recv().is_err() {
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            lines = show_refusals(stage, lines)?;
        }
        let Some(phase) = phases.next(&stage.mirror_log)? else { continue };
        let edited = stage.edited()?;
        phase.show(edited);
        is_turned |= phase.kind == Kind::Turned;
        // The groups come after the topics.
        if is_turned && phases.home().is_some_and(|home| phases.live_on(home, &GROUPS)) {
            is_turned = false;
            thread::sleep(AFTER);
            show_receipts(apps, edited)?;
        }
    }
    Ok(())
}

/// Says which edits the proxy has not taken, and why, of the lines of its log behind the first `seen`. Returns how many lines there are.
fn show_refusals(stage: &Stage, seen: usize) -> Result<usize> {
    let log = stage.proxy.log()?;
    let said = log.iter().skip(seen).filter_map(|line| line["message"].as_str());
    for refusal in said.filter(|said| said.starts_with(NOT_TAKEN)) {
        println!("{} {refusal}\n", style("✘").red().bold());
    }
    Ok(log.len())
}

fn show_receipts(apps: &[App], edited: i64) -> Result<()> {
    let now = now();
    let mut wrong = Vec::new();
    println!("\n            records  lost  twice  reordered  longest stall of a partition, in ms (the 5 s before)");
    for app in apps {
        let before = app.receipt(edited - BEFORE.as_millis() as i64, edited, LIMIT)?;
        let receipt = app.receipt(edited, now, LIMIT)?;
        let Receipt { records, lost, twice, reordered, acks, deliveries } = receipt;
        let counts = format!("{records:7} {lost:5} {twice:6} {reordered:10}");
        let is_well = lost + twice + reordered == 0;
        println!(
            "  {:8} {}  {acks} between acks ({}), {deliveries} between deliveries ({})",
            app.topic,
            if is_well { style(counts).green() } else { style(counts).red().bold() },
            before.acks,
            before.deliveries
        );
        if !is_well {
            wrong.push(app.topic);
        }
    }
    println!();
    ensure!(wrong.is_empty(), "records of {} were lost, came twice or out of order", wrong.join(", "));
    Ok(())
}

/// In ms since 1970.
fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The clusters, the proxy in front of them and the mirror between them.
struct Stage {
    legacy: Cluster,
    new: Cluster,
    routes: Routes,
    mirror_port: u16,
    file: PathBuf,
    proxy: Proxy,
    _mirror: Process,
    mirror_log: PathBuf,
}

impl Stage {
    fn set() -> Result<Self> {
        let builders = vec![Cluster::version(LEGACY).name("legacy").first_node_id(1001), Cluster::version(NEW).name("new")];
        // Both members of a group are there when its partitions are assigned.
        let builders = builders.into_iter().map(|builder| builder.set("group.initial.rebalance.delay.ms", "2000")).collect();
        let [legacy, new] = Cluster::start_all(builders)?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
        for topic in ["orders", "payments"] {
            legacy.create_topic(topic, apps::PARTITIONS, &[])?;
        }
        let routes = Routes::new()?.kafka("legacy", &legacy, Listener::Plaintext, None)?.kafka("new", &new, Listener::Plaintext, None)?;
        let mirror_port = ports::take(1)?.start;
        let folder = run::folder("demo")?;
        let (file, mirror_log) = (folder.join("routes.toml"), folder.join("mirror.log"));
        fs::write(&file, text(&routes, mirror_port, "legacy"))?;
        let mut command = Command::new(executable("kferry-mirror")?);
        command.arg("--config").arg(&file).args(["--log-format", "json"]);
        let mirror = Process::spawn("kferry-mirror", &command, &mirror_log)?;
        let proxy = Proxy::start_with(&routes, &file, &[])?;
        let stage = Self { legacy, new, routes, mirror_port, file, proxy, _mirror: mirror, mirror_log };
        stage.comes("the mirror has created the topics", |stage| {
            ["orders", "payments"].iter().try_for_each(|topic| stage.new.log_ends(topic).map(drop))
        })?;
        Ok(stage)
    }

    /// Writes the file anew: that is all that it takes.
    fn edit(&self, home: &str) -> Result<()> {
        Ok(fs::write(&self.file, text(&self.routes, self.mirror_port, home))?)
    }

    /// When the file was edited last.
    fn edited(&self) -> Result<i64> {
        Ok(Timestamp::try_from(fs::metadata(&self.file)?.modified()?)?.as_millisecond())
    }

    fn phases(&self) -> Result<Phases> {
        Phases::from_here_on(&self.new, LIMIT)
    }

    fn comes(&self, what: &str, look: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = look(self) {
            ensure!(Instant::now() < deadline, "{LIMIT:?} later not yet: {what} ({error:#}); see {}", self.mirror_log.display());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends an application, and looks at all that it has ever done: what was acknowledged was read once and in order, and stands so in both logs. Returns how
    /// many records that is.
    fn is_in_order(&self, app: App) -> Result<usize> {
        let topic = app.topic;
        let seen = app.stop(LIMIT)?;
        let all = apps::receipt(&seen, 0, now());
        ensure!(all.lost + all.twice + all.reordered == 0, "{topic}: {all:?}");
        self.comes(&format!("{topic} is copied"), |stage| {
            let (legacy, new) = (stage.legacy.log_ends(topic)?, stage.new.log_ends(topic)?);
            ensure!(legacy == new, "{topic} ends at {legacy:?} on legacy, at {new:?} on new");
            Ok(())
        })?;
        identical(&self.legacy, &self.new, topic)?;
        let acked: HashSet<_> = seen.acked.iter().map(|event| (event.partition, event.number)).collect();
        let mut last = BTreeMap::new();
        let log = self.new.read_all(topic)?;
        ensure!(log.len() == acked.len(), "{topic}: {} records were acknowledged, {} are in the log", acked.len(), log.len());
        for record in log {
            let number: u64 = str::from_utf8(&record.value.context("a value")?)?.parse()?;
            ensure!(acked.contains(&(record.partition, number)), "{topic}-{}: {number} was never acknowledged", record.partition);
            let before = last.insert(record.partition, number);
            ensure!(before < Some(number), "{topic}-{}: {number} comes after {before:?}", record.partition);
        }
        Ok(acked.len())
    }
}

/// The file, with the applications at home on a cluster.
fn text(routes: &Routes, mirror_port: u16, home: &str) -> String {
    let owns = format!("topics = [\"orders\", \"payments\"]\ngroups = {GROUPS:?}\n");
    let routes = routes.clone().relay("shop", "shop-*", home, &owns).route("everybody-else", "*", "legacy").section(MIRROR);
    routes.text().replacen("[admin]\n", &format!("[admin]\nmirror_bind = \"127.0.0.1:{mirror_port}\"\n"), 1)
}
