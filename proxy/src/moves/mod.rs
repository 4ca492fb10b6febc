//! Live moves: this process follows the log of decisions, says there what its file wishes and that it holds, and does what was decided.
//!
//! ```text
//!   routes.toml ── wish ──▶ ┌──────────────────┐ ── hold, flip, abort ──▶ holds: Produce requests wait
//!   preflight ── blocked ─▶ │ log of decisions │ ── flip ───────────────▶ views: where topics lead; routes: homes
//!   holds ────── quiet ───▶ └──────────────────┘
//! ```
//!
//! What is asked for, and when, decides [`Proxy`](kferry_wire::decisions::Proxy), which has no clock and no socket; this is the shell around it.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | what the process knows of the log, for everybody to see |
//! | `follow` | the loop: reads the log, does what it says, asks for what is next |
//! | `wish` | what the file wants, and what its routes own |
//! | `groups` | which groups a route owns, and whether they can move |
//! | `barrier` | the members of a group join at its new coordinator together |

mod barrier;
mod follow;
mod groups;
mod wish;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use kferry_wire::client::Client;
use kferry_wire::decisions::{LogError, Member, Plan, State, Wish, decided};
use kferry_wire::tell;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::identity::own_options;
use crate::messages;
use crate::relay::holds::{Holds, LOST};
use crate::routes::RoutingTable;

pub(crate) use self::follow::follow;

/// How long a cluster may take to say whether it has another log, before anybody is served.
const ASKING: Duration = Duration::from_secs(2);

/// What this process knows of the log of decisions.
#[derive(Debug)]
pub(crate) struct Moves {
    /// The process, as the log knows it.
    me: Member,
    /// Whether the process takes part, or why not.
    part: watch::Sender<Part>,
    seen: Mutex<Seen>,
    /// What was told last, by what is done.
    trouble: Mutex<[Option<String>; 2]>,
}

/// What is done with the log.
#[derive(Debug, Clone, Copy)]
enum Doing {
    Reading,
    Writing,
}

/// Whether a process takes part: only then it serves relayed clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// It has joined.
    Takes,
    /// It has not, for this reason.
    NotYet(String),
}

/// The cluster with a log of decisions that is not the one of `[state]`, and by which topics lead: a file from which `[state]` was taken, or in which it names
/// another cluster, would have clients write to followers. A cluster that cannot be asked has none, one whose log this version cannot read has one.
pub(crate) async fn another_log(table: &RoutingTable) -> Option<AnotherLog> {
    let ours = table.state().map(|cluster| &cluster.name);
    let others = table.relayed_clusters().filter(|cluster| Some(&cluster.name) != ours);
    let asked = others.map(async |cluster| {
        let decided = timeout(ASKING, decided(Client::new(cluster.clone(), own_options()).within(ASKING))).await;
        let unknown = decided.ok()??.err();
        Some(AnotherLog { cluster: cluster.name.clone(), unknown })
    });
    join_all(asked).await.into_iter().flatten().next()
}

/// A log of decisions that is not the one of `[state]`.
pub(crate) struct AnotherLog {
    /// The cluster that has it.
    pub cluster: Arc<str>,
    /// Why this version cannot read it.
    pub unknown: Option<LogError>,
}

/// What operators are shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// What the log says.
    pub state: Arc<State>,
    /// What the files want and the log does not say yet, and why not.
    pub plan: Plan,
    /// What this process wishes.
    pub wish: Option<Wish>,
}

impl Moves {
    /// Nothing is read yet. The process is called by its host and its first port, which no other one has at the same time.
    pub(crate) fn new(table: &RoutingTable) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = format!("{host}:{}", table.listeners().first().map_or(0, |listener| listener.bind.port()));
        let me = Member { name, incarnation: uuid::Uuid::new_v4().to_string() };
        let part = watch::Sender::new(Part::NotYet("it was not read yet".to_owned()));
        Self { me, part, seen: Mutex::default(), trouble: Mutex::default() }
    }

    /// Waits until the process takes part.
    pub(crate) async fn joined(&self) {
        // It ends only with the process.
        let _ = self.part.subscribe().wait_for(|part| *part == Part::Takes).await;
    }

    /// The process has joined.
    fn is_in(&self) {
        let joins = |part: &mut Part| std::mem::replace(part, Part::Takes) != Part::Takes;
        if self.part.send_if_modified(joins) {
            tell!(messages::JOINED, proxy = %self.me);
        }
    }

    /// The log cannot be read, or written, just now, or it can. The same trouble is told once, until it is over. A process that has not joined has not for
    /// this reason.
    fn has_trouble(&self, what: Doing, why: Option<&str>) {
        let before = {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut trouble[what as usize], why.map(str::to_owned))
        };
        if let Some(why) = why.filter(|why| before.as_deref() != Some(why)) {
            tell!(messages::LOG_TROUBLE: ": {why}");
            self.part.send_if_modified(|part| {
                let is_out = *part != Part::Takes;
                if is_out {
                    *part = Part::NotYet(why.to_owned());
                }
                is_out
            });
        }
    }

    /// Why the log cannot be read, or cannot be written, just now.
    fn troubles(&self) -> Vec<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect()
    }

    /// Whether the log cannot be read just now.
    fn is_blind(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)[Doing::Reading as usize].is_some()
    }

    /// Why the process does not take part yet. `None`: it does, and from then on also while the log cannot be read.
    pub(crate) fn why_not(&self) -> Option<String> {
        match &*self.part.borrow() {
            Part::Takes => None,
            Part::NotYet(why) => Some(why.clone()),
        }
    }

    /// For `/moves`: what is wished and what is so, and what is in the way.
    pub(crate) fn shown(&self, holds: &Holds) -> serde_json::Value {
        let Seen { state, mut plan, wish } = self.seen();
        self.troubles().iter().for_each(|why| plan.wait(why));
        let wished: BTreeMap<_, _> = wish.iter().flat_map(|wish| &wish.routes).map(|(route, wished)| (route, &wished.home)).collect();
        let open = state.open().map(|open| {
            let holding: Vec<_> = open.holding.iter().map(|member| &member.name).collect();
            json!({ "id": open.id, "from": &*open.from, "to": &*open.to, "topics": open.topics.keys().collect::<Vec<_>>(), "groups": open.groups, "holding": holding })
        });
        let said = state.joined().get(&self.me).and_then(|joined| joined.wish.as_ref()).map(|wish| wish.taken);
        let not_said = (holds.have_lost() && said != wish.as_ref().map(|wish| wish.taken)).then(|| {
            format!(
                "clients of proxy {} that saw their home alone were cut, and what they had sent may still arrive: it says what its file wishes once {LOST:?} are over",
                self.me.name
            )
        });
        let lives: BTreeMap<_, _> = state.lives().iter().map(|(group, life)| (group, &life.cluster)).collect();
        let leaders: BTreeMap<_, _> =
            state.leaders().iter().map(|(topic, led)| (topic, json!({ "cluster": &*led.cluster, "term": led.term }))).collect();
        json!({
            "proxy": self.me.name,
            "incarnation": self.me.incarnation,
            "not_joined": self.why_not(),
            "wished": wished,
            "not_said": not_said,
            "homes": state.homes(),
            "leaders": leaders,
            "groups": lives,
            "waits": plan.waits,
            "open": open,
        })
    }

    /// What operators are shown.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
