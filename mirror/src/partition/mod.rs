//! A mirrored partition: the two topics that it is in, how far its copy is, and what allows it to be written.
//!
//! | file | what it is |
//! |---|---|
//! | `side` | a topic on one of the two clusters |
//! | `status` | what a partition is doing and how far its copy is, for everybody to see |
//! | `handback` | why whoever worked on a partition hands it back |
//! | `shard` | the shard that it belongs to, and the lease under which it may be written |
//! | `leadership` | which cluster leads its topic, since which term |
//! | `offsets` | which offset on the target an offset on the source is, and from which cluster to which it is copied |
//! | `skipped` | offsets whose records `on_error` left out |
//! | `producer_id` | the id that the mirror writes under |

mod handback;
mod leadership;
mod offsets;
mod producer_id;
mod shard;
mod side;
mod skipped;
mod status;

pub use handback::{Handback, NotCopied, Refusal};
pub use leadership::Leadership;
pub use offsets::{Direction, OffsetMap, Segment};
pub use producer_id::producer_id;
pub use shard::{LEASE, Lease, Shard};
pub use side::Side;
pub use skipped::Skipped;
pub use status::{Phase, Progress, Status};
