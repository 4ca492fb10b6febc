//! Logs: a partition read as a consumer reads it, and records appended to it.
//!
//! | file | what it is |
//! |---|---|
//! | [`fetch`] | Fetch requests and responses, fetch sessions |
//! | `transactions` | what a consumer with `read_committed` does not see |
//! | [`produce`] | Produce requests and responses |
//! | [`first_batch`] | the first batch of a producer on a partition whose topic has changed its leader |
//! | `reader` | the records of a partition, from one offset to another |
//! | `follow` | the records of a partition, as they come |
//! | `append` | records of kferry's own |
//! | `whose` | whether a topic was born where it is, or is a copy |

mod append;
pub mod fetch;
pub mod first_batch;
mod follow;
pub mod produce;
mod reader;
mod transactions;
mod whose;

pub use append::{AppendError, append, append_compressed};
pub use follow::{Followed, Follower};
pub use reader::{Isolation, LogReader, ReadError, fetch_once, read_on};
pub use transactions::{AbortedTransaction, Transactions};
pub use whose::{Whose, whose};
