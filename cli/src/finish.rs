//! `kferry finish`: the end of a mirror. Without `--apply` it says what would be done.

use std::sync::Arc;

use kferry_config::Mirror;
use kferry_mirror::finish::{Finish, told};
use kferry_wire::exit::{self, Exit};
use serde::Serialize;

use crate::check::{count, print_json, printable, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};
use crate::mirrors::Chosen;

/// Ends a mirror: gives its topics on the target the settings that they have on the source, and deletes what the mirror keeps there
///
/// While they are mirrored topics have settings that only a copy needs. Stop kferry-mirror first, and take the mirror out of the file afterwards.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry finish"]))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Does it; without this it only says what would be done
    #[arg(long)]
    apply: bool,
    /// Also where the source has records that the target lacks, or other ones: they will not be copied any more
    #[arg(long)]
    leave_behind: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ok: bool,
    mirrors: Vec<Finish>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let (_, chosen) = match args.chosen.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let mirrors: Vec<Finish> = runtime.block_on(async {
        let mut finished = Vec::new();
        for mirror in &chosen {
            finished.push(finish(mirror, args).await);
        }
        finished
    });
    runtime.shutdown_background();
    let is_over = |finish: &Finish| finish.errors.is_empty() && finish.topics.is_empty() && finish.state_topic.is_none();
    let report = Report { ok: mirrors.iter().all(is_over), mirrors };
    if args.chosen.json {
        print_json(&report);
    } else {
        report.mirrors.iter().for_each(print);
    }
    Exit::done(report.ok)
}

async fn finish(mirror: &Arc<Mirror>, args: &Args) -> Finish {
    let mut finish = Finish::look(mirror).await;
    if !args.leave_behind {
        let lacking = !finish.behind.is_empty() || !finish.differs.is_empty();
        finish.errors.extend(lacking.then(|| lacks(&finish, &mirror.source.name)));
    }
    if args.apply && finish.errors.is_empty() {
        finish.apply(mirror).await;
    }
    finish
}

/// What would be lost with the mirror, and what to do.
fn lacks(finish: &Finish, source: &str) -> String {
    let mut sentences = Vec::new();
    if !finish.behind.is_empty() {
        let behind: Vec<_> = finish.behind.iter().map(|(partition, offsets)| format!("{partition} ({offsets})")).collect();
        sentences.push(format!(
            "{source} has records that {} lacks, in {} with the number of offsets: {}; let kferry-mirror copy them (--once)",
            finish.target,
            count(behind.len(), "partition"),
            behind.join(", ")
        ));
    }
    sentences.extend(finish.differs.iter().map(|(partition, why)| format!("{partition}: {why}; kferry verify compares the two")));
    format!("{}; or leave them as they are with --leave-behind", sentences.join("; "))
}

fn print(finish: &Finish) {
    let mut lines: Vec<String> = finish.done.iter().map(|done| format!("done: {done}")).collect();
    lines.extend(finish.topics.iter().map(|(topic, changes)| format!("to do: {topic}: {}", told(changes))));
    lines.extend(finish.state_topic.iter().map(|topic| format!("to do: {topic}: is deleted")));
    if lines.is_empty() && finish.errors.is_empty() {
        lines.push(format!("nothing of it is left on {}", finish.target));
    }
    lines.insert(0, format!("mirror {}", finish.mirror));
    let shown: Vec<_> = lines.iter().map(|line| printable(line)).collect();
    to_stdout(&(shown.join("\n  ") + "\n"));
    for error in &finish.errors {
        to_stderr(&labelled(Severity::Error, &printable(&format!("mirror {}: {error}", finish.mirror))));
    }
}
