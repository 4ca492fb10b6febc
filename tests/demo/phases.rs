//! What happens in a move, as the log of decisions and the mirror's own log say it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use console::style;
use harness::kafka::{Cluster, Listener};
use jiff::Timestamp;
use kferry_wire::decisions::{Move, Request, State, TOPIC, Verdict, decode};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Wish,
    Hold,
    Holding,
    Closed,
    Flip,
    /// Groups live on the other cluster.
    Live,
    Abort,
    Turned,
}

#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) kind: Kind,
    /// In ms since 1970.
    at: i64,
    text: String,
}

impl Phase {
    /// `edited`: when the file was.
    pub(crate) fn show(&self, edited: i64) {
        let name = match self.kind {
            Kind::Wish => "wish",
            Kind::Hold => "hold",
            Kind::Holding => "holding",
            Kind::Closed => "closed",
            Kind::Flip | Kind::Live => "flip",
            Kind::Abort => "abort",
            Kind::Turned => "turned",
        };
        let name = format!("{name:8}");
        let name = if self.kind == Kind::Abort { style(name).red().bold() } else { style(name).cyan().bold() };
        println!("{} {name} {}", style(format!("{:+6} ms", self.at - edited)).dim(), self.text);
    }
}

/// Reads both logs.
pub(crate) struct Phases {
    log: BaseConsumer,
    state: State,
    /// Since when producers are held.
    held: i64,
    /// The flip that the mirror has not followed yet, and when it was.
    flipped: Option<(Move, i64)>,
}

impl Phases {
    /// What comes after what has been decided so far.
    pub(crate) fn from_here_on(cluster: &Cluster, limit: Duration) -> Result<Self> {
        let mut config = cluster.client_config(Listener::Plaintext)?;
        config.set("group.id", "demo").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "10");
        let log: BaseConsumer = config.create()?;
        let mut beginning = TopicPartitionList::new();
        beginning.add_partition_offset(TOPIC, 0, Offset::Beginning)?;
        log.assign(&beginning)?;
        let mut phases = Self { log, state: State::default(), held: 0, flipped: None };
        let (end, deadline) = (cluster.log_ends(TOPIC)?[0], Instant::now() + limit);
        while phases.state.end() < end {
            phases.read()?;
            ensure!(Instant::now() < deadline, "the log of decisions is not read within {limit:?}");
        }
        Ok(phases)
    }

    /// The home of the applications' route.
    pub(crate) fn home(&self) -> Option<&str> {
        self.state.homes().get("shop").map(|home| &**home)
    }

    /// Whether these groups live on a cluster.
    pub(crate) fn live_on(&self, cluster: &str, groups: &[&str]) -> bool {
        groups.iter().all(|group| self.state.lives().get(*group).map_or("legacy", |life| &life.cluster) == cluster)
    }

    /// Waits a moment for the next one.
    pub(crate) fn next(&mut self, mirror_log: &Path) -> Result<Option<Phase>> {
        if let Some((flipped, at)) = &self.flipped
            && let Some(phase) = turned(flipped, *at, mirror_log)?
        {
            self.flipped = None;
            return Ok(Some(phase));
        }
        self.read()
    }

    /// A record of the log of decisions. Those that do not count are none.
    fn read(&mut self) -> Result<Option<Phase>> {
        let Some(message) = self.log.poll(Duration::from_millis(20)) else { return Ok(None) };
        let message = message?;
        let (value, at) = (message.payload().context("a record without a value")?, message.timestamp().to_millis().unwrap_or_default());
        let open = self.state.open().cloned();
        if self.state.read(message.offset(), Some(value))? != Verdict::Counts {
            return Ok(None);
        }
        let request = decode(value)?.context("what counts is known")?;
        let phase = self.phase(request, open, at);
        Ok(phase.map(|(kind, text)| Phase { kind, at, text }))
    }

    /// `open`: the move that was open before.
    fn phase(&mut self, request: Request, open: Option<Move>, at: i64) -> Option<(Kind, String)> {
        let homes = self.state.homes();
        Some(match request {
            Request::Wish { routes, .. } => {
                let differs = |(route, home): &(&String, &str)| homes.get(*route).is_some_and(|now| **now != **home);
                let wishes = routes.iter().map(|(route, wished)| (route, &*wished.home)).filter(differs);
                let wishes: Vec<_> = wishes.map(|(route, home)| format!("the route {route} to {home}")).collect();
                if wishes.is_empty() {
                    return None;
                }
                (Kind::Wish, format!("the proxy has taken the file: {}", wishes.join(", ")))
            }
            Request::Hold { topics, groups, .. } => {
                self.held = at;
                if topics.is_empty() {
                    let groups = groups.into_iter().collect::<Vec<_>>().join(", ");
                    return Some((Kind::Hold, format!("the members of {groups} are told to join anew, and wait at the proxy")));
                }
                let partitions: u32 = topics.values().map(|topic| topic.partitions).sum();
                let topics = topics.into_keys().collect::<Vec<_>>().join(", ");
                (Kind::Hold, format!("what is produced to {topics} ({partitions} partitions) waits at the proxy"))
            }
            Request::Holding { .. } => (Kind::Holding, "everything that was sent before is answered".to_owned()),
            Request::Synced { .. } => (Kind::Closed, "the mirror: the offsets that were committed are on both".to_owned()),
            Request::Closed { .. } => {
                let open = self.state.open()?;
                let all: usize = open.topics.values().map(|topic| topic.partitions as usize).sum();
                if open.closed.values().map(BTreeMap::len).sum::<usize>() < all {
                    return None;
                }
                (Kind::Closed, format!("the mirror: on {} and {} all {all} partitions end at the same offset", open.from, open.to))
            }
            Request::Flip { topics, groups, .. } if topics.is_empty() => {
                let groups = groups.into_iter().collect::<Vec<_>>().join(", ");
                let to = open?.to;
                (Kind::Live, format!("{groups} live on {to}: their members join there together, {} ms after the hold", at - self.held))
            }
            Request::Flip { topics, .. } => {
                let term = topics.values().map(|led| led.term).max()?;
                let flipped = open?;
                let text = format!("{} leads, in term {term}: what waited goes there, {} ms after the hold", flipped.to, at - self.held);
                self.flipped = Some((flipped, at));
                (Kind::Flip, text)
            }
            Request::Abort { reason, .. } => (Kind::Abort, format!("everybody goes on where they were: {reason}")),
            _ => return None,
        })
    }
}

/// Whether the mirror copies all topics of a move the other way.
fn turned(flipped: &Move, at: i64, mirror_log: &Path) -> Result<Option<Phase>> {
    let mut turned = BTreeMap::new();
    for line in fs::read_to_string(mirror_log)?.lines() {
        // The last one may just be under way.
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if line["message"] == "another cluster leads the topic: it is copied the other way from here on" {
            let said: Timestamp = line["timestamp"].as_str().context("a timestamp")?.parse()?;
            turned.insert(line["topic"].to_string(), said.as_millisecond());
        }
    }
    turned.retain(|_, said| *said >= at);
    let is_all = turned.len() == flipped.topics.len();
    let text = format!("the mirror copies from {} to {}", flipped.to, flipped.from);
    Ok(turned.into_values().max().filter(|_| is_all).map(|at| Phase { kind: Kind::Turned, at, text }))
}
