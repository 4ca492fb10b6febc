//! The logs of both sides, as a consumer with `read_committed` sees them, and their comparison.
//!
//! | file | what it is |
//! |---|---|
//! | `batches` | who wrote a range of a log, and what its batches are like |
//! | `view` | a follower's log by its leader's offsets |
//! | `compare` | two logs, record for record |
//! | `keys` | the latest record of each key in two compacted logs |

mod batches;
mod compare;
mod keys;
mod view;

pub(crate) use batches::visit;
pub use batches::{Sample, Written, sample, written};
pub use compare::{Allowed, Compared, Difference, compare, compare_keys};
pub use keys::{Keys, Owner, Unmatched};
pub use view::{FollowerReader, View};
