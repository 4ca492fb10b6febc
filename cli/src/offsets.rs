//! `kferry offsets`: which offset on the target an offset on the source is, and the other way.
//!
//! What the mirror has kept of the partition answers, so it may be a few seconds behind a mirror that runs.

use std::sync::Arc;

use kferry_config::Mirror;
use kferry_mirror::PATIENCE;
use kferry_mirror::connect_options;
use kferry_mirror::partition::{Direction, OffsetMap, Segment};
use kferry_mirror::state::{State, StateError};
use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::exit::{self, Exit};
use serde::Serialize;

use crate::check::{print_json, printable, refuse, table, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};
use crate::mirrors::Chosen;

/// Says which offset on the target an offset on the source is, and the other way
///
/// Without --at and --at-target it shows the whole map of the partition's offsets.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry offsets"]))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// The topic, by its name on the source
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// The partition
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
    /// An offset on the source
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..), conflicts_with = "at_target")]
    at: Option<i64>,
    /// An offset on the target
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    at_target: Option<i64>,
}

/// What `--json` prints.
#[derive(Default, Serialize)]
struct Report {
    ok: bool,
    mirror: Arc<str>,
    source: Arc<str>,
    target: Arc<str>,
    /// By the topic's name on the source, and on the target.
    topic: String,
    target_topic: String,
    partition: i32,
    /// `preserve` or `translate`.
    offsets: &'static str,
    /// The cluster that leads.
    leader: String,
    /// Up to this offset of the leader the records are on both.
    agreed: i64,
    source_offset: Option<i64>,
    target_offset: Option<i64>,
    segments: Vec<Segment>,
    /// Why there is no answer.
    error: Option<String>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let (_, chosen) = match args.chosen.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let mirror = match one(&chosen, &args.topic) {
        Ok(mirror) => mirror,
        Err(error) => return refuse(args.chosen.json, &error),
    };
    let mut report = Report {
        mirror: mirror.name.clone(),
        source: mirror.source.name.clone(),
        target: mirror.target.name.clone(),
        topic: args.topic.clone(),
        target_topic: mirror.naming.target(&args.topic).map_or_else(|_| args.topic.clone(), std::borrow::Cow::into_owned),
        partition: args.partition,
        offsets: mirror.offsets.name(),
        ..Report::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    report.error = match runtime.block_on(report.look(mirror, args)) {
        Ok(None) => None,
        Ok(Some(error)) => Some(error),
        Err(error) => Some(error.to_string()),
    };
    runtime.shutdown_background();
    report.ok = report.error.is_none();
    if args.chosen.json {
        print_json(&report);
    } else {
        report.print();
    }
    Exit::done(report.ok)
}

/// The mirror that has the topic.
fn one<'m>(chosen: &'m [Arc<Mirror>], topic: &str) -> Result<&'m Mirror, String> {
    let having: Vec<_> = chosen.iter().filter(|mirror| mirror.topics.matches(topic)).collect();
    match having[..] {
        [mirror] => Ok(mirror),
        [] => Err(format!("topic {topic} is of no mirror of the file: correct --topic, which is the name on the source, or --mirror")),
        _ => {
            let names: Vec<_> = having.iter().map(|mirror| &*mirror.name).collect();
            Err(format!("topic {topic} is of several mirrors: say which one with --mirror: {}", names.join(", ")))
        }
    }
}

impl Report {
    /// `Some` is why there is no answer.
    async fn look(&mut self, mirror: &Mirror, args: &Args) -> Result<Option<String>, StateError> {
        let target = Client::new(mirror.target.clone(), connect_options(&mirror.name)).within(PATIENCE);
        let nothing =
            format!("nothing is known of {}-{} yet: has kferry-mirror run, and is that its partition?", args.topic, args.partition);
        let Some(state) = State::open(target, mirror, false).await? else { return Ok(Some(nothing)) };
        let partition = TopicPartition::new(args.topic.as_str(), args.partition);
        let Some(kept) = state.partition(&partition) else { return Ok(Some(nothing)) };
        let map = state.map(&partition, mirror.offsets);
        (self.agreed, self.leader) = (kept.agreed, kept.leader.clone());
        self.segments = map.segments().to_vec();
        let direction = Direction::led_by(mirror, &kept.leader).unwrap_or(Direction::Backwards);
        (self.source_offset, self.target_offset) = (args.at, args.at_target);
        let (asked, cluster) = match (args.at, args.at_target) {
            (None, None) => return Ok(None),
            (Some(at), _) => {
                self.target_offset = map.target(at);
                (at, &self.source)
            }
            (None, Some(at)) => {
                self.source_offset = map.source(at);
                (at, &self.target)
            }
        };
        let (on_leader, _) = direction.leader_first(self.source_offset, self.target_offset);
        if self.source_offset.is_none() || self.target_offset.is_none() {
            return Ok(Some(before(&map, asked, cluster)));
        }
        if on_leader.is_some_and(|offset| offset > kept.agreed) {
            return Ok(Some(format!(
                "offset {asked} of {cluster} is not on the other side yet: the copy is at the leader's offset {}",
                kept.agreed
            )));
        }
        Ok(None)
    }

    fn print(&self) {
        let Self { topic, target_topic, partition, source, target, .. } = self;
        if let Some(error) = &self.error {
            return to_stderr(&labelled(Severity::Error, &printable(error)));
        }
        if let (Some(from), Some(to)) = (self.source_offset, self.target_offset) {
            return to_stdout(&format!(
                "{topic}-{partition} on {source}, offset {from}, is {target_topic}-{partition} on {target}, offset {to}\n"
            ));
        }
        let mut out = format!(
            "{topic}-{partition} on {source} is {target_topic}-{partition} on {target}; copied up to offset {} of {}\n\n",
            self.agreed, self.leader
        );
        if self.segments.is_empty() {
            out.push_str("every offset is the same\n");
        } else {
            let head = [format!("FROM ON {source}"), format!("FROM ON {target}"), "DIFFERENCE".to_owned()];
            let rows = self.segments.iter().map(|segment| {
                vec![segment.source.to_string(), segment.target.to_string(), format!("{:+}", segment.target - segment.source)]
            });
            out.push_str(&table(&std::iter::once(head.to_vec()).chain(rows).collect::<Vec<_>>()));
        }
        to_stdout(&out);
    }
}

fn before(map: &OffsetMap, asked: i64, cluster: &str) -> String {
    match map.segments().first() {
        Some(first) => format!(
            "offset {asked} of {cluster} lies before the first record that was copied, which is offset {} of the source and {} of the target",
            first.source, first.target
        ),
        None => "nothing was copied yet".to_owned(),
    }
}
