//! Live moves: this process follows the log of decisions, says there what its file wishes and that it holds, and does what was decided.
//!
//! ```text
//!   routes.toml ── wish ──▶ ┌──────────────────┐ ── hold, flip, abort ──▶ holds: Produce requests wait
//!   preflight ── blocked ─▶ │ log of decisions │ ── flip ───────────────▶ views: where topics lead; routes: homes
//!   holds ────── quiet ───▶ └──────────────────┘
//! ```
//!
//! What is asked for, and when, decides [`decisions::next`], a pure function; this is the shell around it.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | what the process knows of the log, for everybody to see |
//! | `follow` | the loop: reads the log, does what it says, asks for what is next |
//! | `preflight` | whether a topic can move |
//! | `place` | where this process runs |

mod follow;
mod place;
mod preflight;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kferry_wire::decisions::{Member, State};
use tokio::sync::watch;

pub(crate) use self::follow::follow;

/// What this process knows of the log of decisions.
#[derive(Debug)]
pub(crate) struct Moves {
    /// The process, as the log knows it.
    me: Member,
    /// Whether the process takes part, or why not.
    part: watch::Sender<Part>,
    seen: Mutex<Seen>,
}

/// Whether a process takes part: only then it serves relayed clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// It has joined.
    Takes,
    /// It has not, for this reason.
    NotYet(String),
}

/// What operators are shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// What the log says.
    pub state: Arc<State>,
    /// Topics that are wished elsewhere and cannot move, and why.
    pub blocked: BTreeMap<Arc<str>, String>,
}

impl Moves {
    /// Nothing is read yet. `name`: of the process, which no other one that lives at the same time has.
    pub(crate) fn new(name: String) -> Self {
        let me = Member { name, incarnation: uuid::Uuid::new_v4().to_string() };
        let part = watch::Sender::new(Part::NotYet("it was not read yet".to_owned()));
        Self { me, part, seen: Mutex::default() }
    }

    /// Waits until the process takes part.
    pub(crate) async fn joined(&self) {
        // It ends only with the process.
        let _ = self.part.subscribe().wait_for(|part| *part == Part::Takes).await;
    }

    /// Why the process does not take part. `None`: it does.
    pub(crate) fn why_not(&self) -> Option<String> {
        match &*self.part.borrow() {
            Part::Takes => None,
            Part::NotYet(why) => Some(why.clone()),
        }
    }

    /// What operators are shown.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
