//! The topics of a mirror.
//!
//! | file | what it is |
//! |---|---|
//! | `plan` | which topics are copied, and what the follower's must be like |
//! | `collide` | topics that would get in each other's way |
//! | `pass` | one look at both clusters' topics, and what is done about them |

pub mod collide;
pub(crate) mod pass;
mod plan;

pub(crate) use plan::SettingChange;
pub(crate) use plan::TIMESTAMP_TYPE;
pub use plan::{Action, Cluster, Drift, Overridden, TopicPlan, apply, awaits_compaction, plan};
