//! The log of decisions: who leads which topic, and how that changes. It is one partition of a Kafka topic that proxies, mirrors and operators write.
//!
//! Every record is a request. Each reader decides from the state at that point of the log whether it counts, by one pure function, the same for all:
//! so there is no lock, no lease and no elected leader, and a record that comes twice or too late is void for everybody alike.
//!
//! | file | what it is |
//! |---|---|
//! | `record` | the records, as JSON |
//! | `state` | what the log says at one point of it, and which record counts there |
//! | `witness` | whether a log is the one that it should be |
//! | `proxy` | what a proxy does next |
//! | `log` | the topic: how it is created, followed and written |
//! | `place` | where this process runs |
//! | `closing` | from where the mirror copies, and when it may say that a partition is closed |
//!
//! Nothing here reads a clock, waits, or asks anybody: the simulator in `tests/moves_simulator.rs` runs it as it runs for real.

mod closing;
mod log;
mod place;
mod proxy;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod witness;

use std::time::Duration;

pub use closing::{Measured, NotYet, closing, copies_from};
pub use log::{Log, LogError, ReadRecord, TOPIC, Update, ask, decided};
pub use proxy::{Gathering, Known, Owned, OwnedGroup, Plan, Proxy, Serves, Settings, Wanted};
pub use record::{Led, MAX_BYTES, Member, Place, RULES, Request, Topic, Unknown, Unwritable, Waited, Wished, decode, encode};
pub use state::{Birth, Disagreement, Flipped, Joined, LAST_TERM, Leader, Life, Move, Outcome, Receipt, State, Stays, Verdict, Void, Wish};
pub use witness::{Refused, Witness, check};

/// How long what was sent to a broker, whose connection broke before it had answered, may still be appended: the request may wait in the broker's queue
/// when its sender has gone.
pub const LATE: Duration = Duration::from_secs(30);

/// Why a group stays whose consumers commit in transactions, whoever finds out.
pub const TRANSACTIONAL: &str = "it commits in transactions, and such groups cannot move yet: stop it, or drop it from the route";

/// How long the members of groups may take until each was heard, and again until they join, if none of them has told how long it may be away: they are told
/// at a heartbeat, and come with their next poll.
pub const GATHER: Duration = Duration::from_secs(10);
