//! Live moves, for operators: the log of decisions as a command reads and writes it.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the log: found, read to its end, asked for something |
//! | [`decisions`] | `kferry decisions`: its records, which of them count, and why not |
//! | [`status`] | `kferry status`: what is wished, what is so, and what is in the way |
//! | [`order`] | `kferry move`: what would move; an abort; a proxy that is dead |
//! | `relocate` | `kferry move log`: the log of decisions on another cluster |
//! | `look` | what the clusters, the proxies and the mirror say of it |

pub(crate) mod decisions;
mod look;
pub(crate) mod order;
mod relocate;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kferry_config::{Cluster, Config};
use kferry_wire::client::Client;
use kferry_wire::connection::ConnectOptions;
use kferry_wire::decisions::{Log, LogError, Move, ReadRecord, Request, State, TOPIC, Verdict, ask, check, decode};
use kferry_wire::exit::Exit;
use kferry_wire::log::AppendError;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::check::{print_json, printable, read, refuse, to_stderr};
use crate::labels::{Severity, labelled};

/// How long a cluster may take for one answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the log may take to be read to its end.
const READING: Duration = Duration::from_mins(1);

/// How long a record that was written may take to be read back.
const READ_BACK: Duration = Duration::from_secs(15);

/// How long a broker waits for the next record.
const POLL: Duration = Duration::from_millis(100);

/// How often it is tried to read on, and how long after the attempt before.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Characters of an incarnation or a digest that people are shown: enough to tell two apart.
const SHORT: usize = 8;

/// Names in one sentence.
const NAMED: usize = 5;

/// A record that was written, and counts.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as the JSON has them")]
struct Done {
    ok: bool,
    /// Its offset in the log.
    offset: i64,
    done: String,
}

/// Who runs this command.
fn operator() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_else(|| "somebody".to_owned());
    format!("operator {user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

/// What every command about moves takes.
#[derive(clap::Args)]
pub(crate) struct FileArgs {
    /// The file
    #[arg(long, value_name = "FILE", env = "KFERRY_CONFIG", default_value = "routes.toml")]
    config: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

impl FileArgs {
    /// Reads the file. `Err`: it has errors, or no `[state]`, and that is said.
    fn read(&self) -> Result<(Config, Arc<Cluster>), Exit> {
        let (_, config) = read(&self.config, self.json)?;
        match cluster_of(&config, &self.config) {
            Ok(cluster) => Ok((config, cluster)),
            Err(problem) => Err(refuse(self.json, &problem)),
        }
    }
}

/// The cluster that has the log.
fn cluster_of(config: &Config, path: &Path) -> Result<Arc<Cluster>, String> {
    let state = config.state.as_ref().map(|state| state.cluster.clone());
    state.ok_or_else(|| {
        format!(
            "{}: it has no [state], so there is no log of decisions, and nothing moves while clients run; see docs/moves.md for what it takes",
            path.display()
        )
    })
}

/// A client of a cluster, with kferry's own login.
fn client(cluster: Arc<Cluster>) -> Client {
    Client::new(cluster, ConnectOptions { client_id: "kferry-moves".to_owned(), ..ConnectOptions::default() }).within(DEADLINE)
}

/// The log of decisions, as a command reads and writes it.
struct DecisionLog {
    client: Client,
    log: Log,
    /// When each record was written, by its offset: in milliseconds since 1970, by its author's clock.
    written: BTreeMap<i64, i64>,
}

/// What a record came to, once it was read back.
struct ReadBack {
    offset: i64,
    verdict: Verdict,
}

impl DecisionLog {
    /// Finds it. Nothing is read yet.
    ///
    /// # Errors
    /// A sentence for people; so it is with all functions here.
    async fn find(cluster: Arc<Cluster>) -> Result<Self, String> {
        let client = client(cluster);
        let found = Log::find(client.clone(), None).await.map_err(|error| told(&error, &client))?;
        let log = found.ok_or_else(|| {
            format!(
                "cluster {} has no topic {TOPIC}, which is the log of decisions: kferry-proxy makes it when it starts with [state]. If it has run, correct \
                 the cluster in [state]",
                client.cluster().name
            )
        })?;
        Ok(Self { client, log, written: BTreeMap::new() })
    }

    /// Finds it, and reads it to its end.
    async fn read(cluster: Arc<Cluster>) -> Result<Self, String> {
        let mut log = Self::find(cluster).await?;
        log.catch_up(|_| {}).await?;
        log.is_whole()?;
        Ok(log)
    }

    /// Reads to the end. `each` is given every record, also those before one that cannot be read.
    async fn catch_up(&mut self, mut each: impl FnMut(&ReadRecord)) -> Result<(), String> {
        let reading = async {
            loop {
                self.next(&mut each).await?;
                if self.log.is_at_end() {
                    return Ok(());
                }
            }
        };
        timeout(READING, reading)
            .await
            .unwrap_or_else(|_elapsed| Err(format!("the log of decisions was not read to its end within {READING:?}")))
    }

    async fn next(&mut self, mut each: impl FnMut(&ReadRecord)) -> Result<(), String> {
        let mut attempts = 1..ATTEMPTS;
        let records = loop {
            match self.log.next(POLL).await {
                Ok(records) => break records,
                // A broker that has gone, or a partition that has another leader.
                Err(error) if !error.is_over() && attempts.next().is_some() => sleep(PAUSE).await,
                Err(error) => return Err(told(&error, &self.client)),
            }
        };
        for record in &records {
            self.written.insert(record.offset, record.timestamp);
            each(record);
        }
        Ok(())
    }

    /// Whether it is one that kferry has begun, and that goes on here.
    fn is_whole(&self) -> Result<(), String> {
        if let Some(to) = self.state().moved() {
            return Err(LogError::Moved { to: to.to_owned() }.to_string());
        }
        check(0, self.state(), None).map_err(|refused| refused.to_string())
    }

    fn state(&self) -> &State {
        self.log.state()
    }

    /// When the record at an offset was written.
    fn written(&self, offset: i64) -> Option<Timestamp> {
        self.written.get(&offset).and_then(|at| Timestamp::from_millisecond(*at).ok())
    }

    /// Writes a record, and waits until it is read back: only that says whether it counts. `each` is given what is read meanwhile, and the record.
    async fn ask(&mut self, request: &Request, mut each: impl FnMut(&ReadRecord)) -> Result<ReadBack, String> {
        let now = Timestamp::now().as_millisecond();
        let rules = self.state().rules();
        ask(&self.client, std::slice::from_ref(request), rules, now).await.map_err(|error| {
            format!("{}; it may stand in the log all the same: `kferry decisions` shows it", told(&error, &self.client))
        })?;
        let until = Instant::now() + READ_BACK;
        while Instant::now() < until {
            let mut back = None;
            self.next(|record| {
                each(record);
                let is_it = record.value.as_deref().is_some_and(|value| decode(value).is_ok_and(|read| read.as_ref() == Some(request)));
                if is_it && back.is_none() {
                    back = Some(ReadBack { offset: record.offset, verdict: record.verdict.clone() });
                }
            })
            .await?;
            if let Some(back) = back {
                return Ok(back);
            }
        }
        Err(format!("it was written, and did not come back within {READ_BACK:?}: `kferry decisions` shows whether it counts"))
    }
}

/// What is wrong with the log, and what to do where an ACL is missing.
fn told(error: &LogError, client: &Client) -> String {
    let is_authorization = match error {
        LogError::Client(error) | LogError::Append(AppendError::Client(error)) => error.is_authorization(),
        LogError::Read(error) => error.is_authorization(),
        LogError::Append(AppendError::Refused { error, .. }) => error.contains("AuthorizationFailed"),
        _ => false,
    };
    if is_authorization {
        let cluster = &client.cluster().name;
        format!("{error}: let kferry's login of cluster {cluster} Describe, Read and Write topic {TOPIC}")
    } else {
        error.to_string()
    }
}

/// What `--json` prints where something could not be done.
#[derive(Serialize)]
struct Failed<'e> {
    ok: bool,
    errors: [&'e str; 1],
}

/// Says why something could not be done.
fn failed(json: bool, error: &str) -> Exit {
    if json {
        print_json(&Failed { ok: false, errors: [error] });
    } else {
        to_stderr(&labelled(Severity::Error, &printable(error)));
    }
    Exit::NotDone
}

/// What a verdict is to people: nothing, or why it does not count.
fn why_not(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Counts => None,
        Verdict::Void(void) => Some(void.to_string()),
    }
}

/// The beginning of what a program has made at random.
fn short(random: &str) -> &str {
    random.get(..SHORT).unwrap_or(random)
}

/// Names, but for those that would make the sentence too long.
fn names<'n>(all: impl IntoIterator<Item = &'n String>) -> String {
    let all: Vec<&str> = all.into_iter().map(String::as_str).collect();
    match all.split_at_checked(NAMED) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => all.join(", "),
    }
}

/// The proxies that do not hold the open move yet.
fn not_holding(state: &State, open: &Move) -> Vec<String> {
    state.joined().keys().filter(|member| !open.holding.contains(*member)).map(|member| member.name.clone()).collect()
}
