//! The topics of a mirror.
//!
//! | file | what it is |
//! |---|---|
//! | `plan` | which topics are copied, and what the follower's must be like |
//! | `pass` | one look at both clusters' topics, and what is done about them |

pub(crate) mod pass;
mod plan;

pub use plan::{Action, Cluster, TopicPlan, apply, awaits_compaction, compact, plan};
