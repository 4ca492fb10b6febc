//! Copying: a look at both logs, and the lanes between brokers.
//!
//! | file | what it is |
//! |---|---|
//! | `job` | a partition to be mirrored, as it wanders from the run to a look, to a lane and back |
//! | `settle` | a look at both logs: from where to copy; padding |
//! | `retrace` | where offsets are translated: what the follower's log end stands for, by the batches in it; pure |
//! | `decisions` | what follows from such a look, and from a broker's responses: pure functions |
//! | `replicate` | the data path: one broker to one broker |
//! | `cut` | a log's bytes into batches to append and offsets to fill |
//! | `holes` | offsets without records |
//! | `limits` | what all lanes together may hold and send |
//! | `on_error` | records that cannot be copied: which one, and what becomes of it |
//! | `events` | what is told of all this |

pub(crate) mod cut;
mod decisions;
pub(crate) mod events;
pub(crate) mod holes;
pub(crate) mod job;
pub(crate) mod limits;
pub(crate) mod on_error;
pub(crate) mod replicate;
mod retrace;
pub(crate) mod settle;

pub(crate) use decisions::TAIL;
