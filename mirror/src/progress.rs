//! How far the mirrors are, on standard error: a bar for each on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use kferry_wire::tell;
use tokio_util::sync::CancellationToken;

use crate::admin::Mirrors;
use crate::messages;
use crate::overview::Overview;
use crate::partition::Phase;
use crate::transactions::Unstable;

/// The bars of this process, which log lines must not write over.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// Between two updates of the bars.
const BAR: Duration = Duration::from_millis(250);
/// Between two lines, where standard error is no terminal.
const LINE: Duration = Duration::from_secs(10);
/// How many records a mirror that runs on has to be behind before a line says so.
const NEWS: u64 = 1_000;

/// Standard error for log lines: above the bars, if there are any.
pub fn stderr() -> impl io::Write {
    Lines(Vec::new())
}

/// A writer that keeps what it gets until it is flushed or dropped, and then writes it above the bars.
struct Lines(Vec<u8>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.0);
        BARS.suspend(|| io::stderr().write_all(&bytes))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Where standard error cannot be written, nobody can be told of it.
        let _ = self.flush();
    }
}

/// Shows how far each mirror is until `stop`. Lines are written with `once`, and while a mirror is more than 1,000 records behind or has partitions
/// that stand still or that a transaction holds up.
pub async fn show(mirrors: Mirrors, once: bool, stop: CancellationToken) {
    let terminal = io::stderr().is_terminal();
    let mut shown: Vec<_> = mirrors.into_iter().map(|(name, overview)| Shown::new(name, overview, terminal)).collect();
    while !stop.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(if terminal { BAR } else { LINE }) => {}
            () = stop.cancelled() => {}
        }
        for shown in &mut shown {
            shown.update(once);
        }
    }
    for shown in shown {
        if let Some(bar) = shown.bar {
            bar.finish_and_clear();
        }
    }
}

/// A mirror and what was last shown of it.
struct Shown {
    name: Arc<str>,
    overview: Arc<Overview>,
    /// `None` where standard error is no terminal.
    bar: Option<ProgressBar>,
    last: Update,
}

/// What an update of the bars begins with.
struct Update {
    /// Records that this process has produced, of all partitions.
    records: u64,
    /// Bytes that this process has produced.
    bytes: u64,
    at: Instant,
}

impl Shown {
    fn new(name: Arc<str>, overview: Arc<Overview>, terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3}% {msg}").expect("a template of ours");
            BARS.add(ProgressBar::new(0).with_style(style).with_prefix(name.to_string()))
        });
        Self { name, overview, bar, last: Update { records: 0, bytes: 0, at: Instant::now() } }
    }

    fn update(&mut self, once: bool) {
        let (mut copied, mut end, mut records, mut bytes, mut unstable) = (0_u64, 0_u64, 0, 0, 0);
        let now = Instant::now();
        let mut stopped = 0;
        let rows = self.overview.rows();
        if rows.is_empty() {
            // Nothing has begun yet, and why not is told elsewhere.
            return;
        }
        for (_, progress) in rows {
            stopped += usize::from(matches!(progress.phase, Phase::Failed | Phase::Diverged));
            let until = if once { progress.goal.unwrap_or(progress.leader_last_stable_offset) } else { progress.leader_last_stable_offset };
            copied += (progress.agreed.min(until) - progress.leader_log_start_offset).max(0) as u64;
            end += (until - progress.leader_log_start_offset).max(0) as u64;
            records += progress.records;
            bytes += progress.bytes;
            // Those of applications that work are over in a moment.
            unstable += progress.unstable.as_ref().filter(|unstable| unstable.is_long(now)).map_or(0, Unstable::offsets) as u64;
        }
        let last = std::mem::replace(&mut self.last, Update { records, bytes, at: Instant::now() });
        let seconds = last.at.elapsed().as_secs_f64().max(0.001);
        let records_per_second = records.saturating_sub(last.records) as f64 / seconds;
        let bytes_per_second = HumanBytes((bytes.saturating_sub(last.bytes) as f64 / seconds) as u64);
        let behind = end.saturating_sub(copied);
        let left = if records_per_second > 0.0 {
            HumanDuration(Duration::from_secs_f64((behind as f64 / records_per_second).min(1e9))).to_string()
        } else {
            "-".to_owned()
        };
        match &self.bar {
            Some(bar) => {
                bar.set_length(end);
                bar.set_position(copied);
                let stopped = if stopped > 0 { format!(", {stopped} partitions stand still") } else { String::new() };
                let unstable = if unstable > 0 { format!(", {unstable} behind open transactions") } else { String::new() };
                bar.set_message(format!(
                    "{records} records, {records_per_second:.0}/s, {bytes_per_second}/s, {left} left{stopped}{unstable}"
                ));
            }
            None if once || behind > NEWS || stopped > 0 || unstable > 0 => {
                // Of what stands still since it was looked at first, nobody knows how much there is.
                let percent = match end {
                    0 if stopped > 0 => 0.0,
                    0 => 100.0,
                    end => copied as f64 * 100.0 / end as f64,
                };
                tell!(messages::PROGRESS, mirror = &*self.name,
                    records,
                    behind,
                    percent = format!("{percent:.1}"),
                    records_per_second = records_per_second as u64,
                    bytes_per_second = %bytes_per_second,
                    left,
                    stopped,
                    unstable);
            }
            None => {}
        }
    }
}
