//! A mirrored partition: the two topics that it is in, what is known of it, and what allows it to be written.
//!
//! | file | what it is |
//! |---|---|
//! | `side` | a topic on one of the two clusters |
//! | `status` | what everybody may see of a partition |
//! | `handback` | why whoever worked on a partition hands it back |
//! | `shard` | the shard that it belongs to, and the lease under which it may be written |
//! | `leadership` | which cluster leads its topic, since which term |
//! | `offsets` | which offset on the target an offset on the source is |
//! | `producer_id` | the id that the mirror writes under |

mod handback;
mod leadership;
mod offsets;
mod producer_id;
mod shard;
mod side;
mod status;

pub use handback::{Handback, Refusal};
pub use leadership::Leadership;
pub use offsets::{Direction, OffsetMap, Segment};
pub use producer_id::producer_id;
pub use shard::{LEASE, Lease, Shard};
pub use side::Side;
pub use status::{Phase, Progress, Status};
