//! `kferry plan`: what the mirrors would do, what is in their way, which routes own what they copy, and which could by what their clients use.
//!
//! The report goes to standard output, what is in the way and what to know to standard error; `--json` is one object on standard output.

mod owners;

use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::future::join_all;
use indicatif::{HumanBytes, HumanCount};
use kferry_config::{Config, Mirror};
use kferry_mirror::plan::{Holes, MirrorPlan, Mode, TopicForecast};
use kferry_mirror::topics::collide::{self, SourceTopics};
use kferry_mirror::topics::{Action, Overridden};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::exit::{self, Exit};
use serde::Serialize;

use owners::{Planned, Proposal, Used};

use crate::check::{count, print_json, printable, refuse, table, to_stderr, to_stdout};
use crate::clients::Answer;
use crate::labels::{Severity, labelled};
use crate::mirrors::Chosen;

/// What the [[mirrors]] would create, change and copy, and what is in their way. Writes nothing
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry plan"]))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Also what the clients of each route use that no route owns, as a proxy has seen: http://HOST:PORT, its admin address, or a file with what its /clients answered. May be given several times
    #[arg(long, value_name = "URL_OR_FILE")]
    clients: Vec<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'r> {
    /// Nothing is in the way.
    ok: bool,
    mirrors: Vec<Planned<'r>>,
    /// What no route owns and one could.
    proposals: &'r [Proposal],
    /// With --clients: the same by what was seen.
    used: Option<&'r Used>,
    /// Topics that would get in each other's way, among all mirrors of the file.
    collisions: &'r [Clash],
    warnings: &'r [String],
}

#[derive(Serialize)]
struct Clash {
    /// The two mirrors, or one of them twice.
    mirrors: [Arc<str>; 2],
    message: String,
}

pub(crate) fn run(args: &Args) -> Exit {
    let (config, chosen) = match args.chosen.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let mut seen = Vec::new();
    for place in &args.clients {
        match runtime.block_on(Answer::of(place)) {
            Ok(answer) => seen.extend(answer.clients),
            Err(sentence) => return refuse(args.chosen.json, &sentence),
        }
    }
    let (mirrors, (collisions, warnings)) = runtime.block_on(async {
        let log = config.state.as_ref().map(|state| &state.cluster);
        let plans = join_all(chosen.iter().map(|mirror| MirrorPlan::of(mirror, log)));
        tokio::join!(plans, clashes(&config.mirrors, &chosen))
    });
    // Dropped, it would wait for look-ups in the DNS, which can go on for a minute after they have been given up.
    runtime.shutdown_background();
    let ok = collisions.is_empty() && mirrors.iter().all(MirrorPlan::is_possible);
    let proposals = owners::proposals(&config, &mirrors);
    let used = (!args.clients.is_empty()).then(|| Used::of(&config, &mirrors, &seen));
    if args.chosen.json {
        let mirrors = mirrors.iter().map(|plan| Planned::new(&config, plan)).collect();
        print_json(&Report { ok, mirrors, proposals: &proposals, used: used.as_ref(), collisions: &collisions, warnings: &warnings });
    } else {
        let out: Vec<_> = mirrors.iter().map(|plan| text(&config, plan)).collect();
        let proposals = proposals.iter().map(Proposal::text).chain(used.iter().map(Used::text));
        to_stdout(&(out.join("\n") + &proposals.collect::<String>()));
        say(&mirrors, &collisions, &warnings);
    }
    Exit::done(ok)
}

/// What collides of the topics that there are, where a chosen mirror has to do with it; and which clusters could not be asked.
async fn clashes(all: &[Arc<Mirror>], chosen: &[Arc<Mirror>]) -> (Vec<Clash>, Vec<String>) {
    let options = ConnectOptions { client_id: "kferry-plan".to_owned(), ..ConnectOptions::default() };
    let topics = collide::source_topics(all, SourceTopics::new(), &options).await;
    // The plan of a chosen mirror has it as an error.
    let unknown = topics
        .iter()
        .filter(|(name, _)| chosen.iter().all(|mirror| mirror.source.name != **name))
        .filter_map(|(_, topics)| topics.as_ref().err());
    let warnings = unknown.map(|error| format!("whether topics of other mirrors collide with these is not known: {error}")).collect();
    let found = collide::among(all, &topics);
    let found = found
        .iter()
        .map(|collision| Clash { mirrors: [collision.one.mirror.clone(), collision.other.mirror.clone()], message: collision.to_string() });
    let ours = |clash: &Clash| chosen.iter().any(|mirror| clash.mirrors.contains(&mirror.name));
    (found.filter(ours).collect(), warnings)
}

/// What is in the way, and what to know.
fn say(plans: &[MirrorPlan], collisions: &[Clash], warnings: &[String]) {
    let say = |severity, sentence: &str| to_stderr(&labelled(severity, &printable(sentence)));
    for sentence in warnings {
        say(Severity::Warning, sentence);
    }
    for plan in plans {
        let of = format!("mirror {}", plan.mirror);
        for sentence in &plan.warnings {
            say(Severity::Warning, &format!("{of}: {sentence}"));
        }
        for topic in &plan.topics {
            for sentence in &topic.warnings {
                say(Severity::Warning, &format!("{of}: topic {}: {sentence}", topic.plan.topic));
            }
            for sentence in &topic.errors {
                say(Severity::Error, &format!("{of}: topic {}: {sentence}", topic.plan.topic));
            }
        }
        for missing in &plan.missing_rights {
            let resource = match missing.names.as_slice() {
                [] => "the cluster".to_owned(),
                [name] => format!("{} {name}", missing.resource),
                names => count(names.len(), missing.resource),
            };
            let operations = missing.operations.join(", ");
            say(
                Severity::Error,
                &format!(
                    "{of}: {} may not {operations} on {resource} of {}, needed for {}; to add it:",
                    missing.principal, missing.cluster, missing.purpose
                ),
            );
            to_stderr(&format!("  {}", printable(&missing.command)));
        }
        for sentence in &plan.errors {
            say(Severity::Error, &format!("{of}: {sentence}"));
        }
    }
    for clash in collisions {
        say(Severity::Error, &clash.message);
    }
}

fn text(config: &Config, plan: &MirrorPlan) -> String {
    let mut out = format!("mirror {}: {} to {}, offsets = \"{}\"\n", plan.mirror, plan.source, plan.target, plan.offsets);
    if plan.topics.is_empty() {
        return out;
    }
    let head = ["TOPIC", "ON TARGET", "PARTITIONS", "TO DO", "OFFSETS", "PADDING", "RECORDS", "BYTES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(plan.topics.iter().map(row));
    with_owners(config, &mut rows, plan.topics.iter().map(|topic| owners::of_topic(config, topic)));
    out.push('\n');
    out.push_str(&table(&rows));
    for topic in &plan.topics {
        let told = details(topic, plan);
        if !told.is_empty() {
            let _ = write!(out, "\n{}\n{told}", topic.plan.topic);
        }
    }
    out.push_str(&groups(config, plan));
    let sum = |of: fn(&TopicForecast) -> u64| plan.topics.iter().map(of).sum::<u64>();
    let _ = writeln!(
        out,
        "\n{}: {} records (about {}) to copy, {} offsets to fill",
        count(plan.topics.len(), "topic"),
        HumanCount(sum(|topic| topic.records)),
        HumanBytes(sum(|topic| topic.bytes)),
        HumanCount(sum(|topic| topic.padding.offsets)),
    );
    out
}

/// A last column with the routes that own what is in the rows, where there are routes that could.
fn with_owners<'c>(config: &'c Config, rows: &mut [Vec<String>], owners: impl Iterator<Item = Option<&'c str>>) {
    if owners::can_be_owned(config) {
        let cells = std::iter::once("OWNER").chain(owners.map(|owner| owner.unwrap_or("-")));
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(printable(cell)));
    }
}

/// The groups whose offsets would be copied, and those of which some would not.
fn groups(config: &Config, plan: &MirrorPlan) -> String {
    if plan.groups.is_empty() {
        return String::new();
    }
    let mut rows = vec![["GROUP", "OFFSETS", "NOT COPIED"].map(str::to_owned).to_vec()];
    rows.extend(plan.groups.iter().map(|group| {
        let left = match &group.why {
            Some(why) => format!("{}: {}", group.left, printable(why)),
            None => "-".to_owned(),
        };
        vec![printable(&group.group), group.offsets.to_string(), left]
    }));
    with_owners(config, &mut rows, plan.groups.iter().map(|group| owners::of_group(config, group)));
    format!("\n{}", table(&rows))
}

fn row(topic: &TopicForecast) -> Vec<String> {
    let plan = &topic.plan;
    let action = match &plan.action {
        _ if plan.error.is_some() => "-".to_owned(),
        Action::Nothing => "nothing".to_owned(),
        Action::Create { replication_factor, .. } => {
            format!("create, {}", count(usize::from(replication_factor.unsigned_abs()), "replica"))
        }
        Action::Grow { from } => format!("grow from {from}"),
    };
    let offsets = match topic.mode {
        Mode::NotPossible => "not possible",
        Mode::Preserve if topic.holes.is_empty() => "preserve",
        Mode::Preserve => "preserve, markers",
        Mode::Translate => "translate",
    };
    let padding = if topic.padding.offsets == 0 { "-".to_owned() } else { HumanCount(topic.padding.offsets).to_string() };
    vec![
        plan.topic.to_string(),
        plan.target.to_string(),
        plan.partitions.to_string(),
        action,
        offsets.to_owned(),
        padding,
        HumanCount(topic.records).to_string(),
        format!("~{}", HumanBytes(topic.bytes)),
    ]
}

/// What is behind a row, a line each.
fn details(topic: &TopicForecast, mirror: &MirrorPlan) -> String {
    let plan = &topic.plan;
    let mut lines = Vec::new();
    if plan.leader != mirror.source {
        lines.push(format!("{} leads it, in term {}", plan.leader, plan.term));
    }
    if let Action::Create { config, .. } = &plan.action
        && !config.is_empty()
    {
        let settings: Vec<_> = config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push(format!("settings: {}", settings.join(", ")));
    }
    for Overridden { name: key, leader: theirs, follower: ours } in &plan.overridden {
        lines.push(format!("{key} is {ours} here, {theirs} on {}", plan.leader));
    }
    lines.extend(plan.notes.iter().cloned());
    lines.extend(topic.why.iter().cloned());
    if topic.records > 0 && topic.holes.contains(&Holes::Compaction) {
        lines.push("the records to copy are fewer than that, since it is compacted".to_owned());
    }
    lines.iter().fold(String::new(), |told, line| told + "  " + &printable(line) + "\n")
}
