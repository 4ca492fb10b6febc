//! The topics of a mirror.
//!
//! | file | what it is |
//! |---|---|
//! | `plan` | which topics are copied, and what the follower's must be like |
//! | `collide` | topics that would get in each other's way |
//! | `born` | topics that were born on the target |
//! | `pass` | one look at both clusters' topics, and what is done about them |

pub(crate) mod born;
pub mod collide;
pub(crate) mod pass;
mod plan;

pub use plan::{Action, Cluster, Drift, Overridden, SettingChange, TopicPlan, apply, awaits_compaction, plan};
pub(crate) use plan::{TIMESTAMP_TYPE, alter, of_its_own};
