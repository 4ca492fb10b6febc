//! Copies topics between clusters, each record at the same offset.
//!
//! The path of a batch, top-down: [`run`] finds the partitions and looks after them, [`settle`] compares both logs and says from where to go
//! on, and [`replicate`] fetches, [`cut`]s, produces and checks.
//!
//! | file | what it is |
//! |---|---|
//! | [`run`] | a mirror at work: passes over the topics, jobs, lanes, what becomes of failures |
//! | [`shards`] | several processes: who works on what, and until when it may write |
//! | [`pass`] | a look at both clusters' topics |
//! | [`topics`] | which topics, and what the follower's must be like |
//! | [`job`] | a partition to be mirrored, and what is known of it |
//! | [`settle`] | a look at both logs, padding |
//! | [`replicate`] | the data path: one broker to one broker |
//! | [`fetch`] | Fetch requests and answers, sessions |
//! | [`produce`] | Produce requests and answers |
//! | [`cut`] | a log's bytes into batches to append and offsets to fill |
//! | [`holes`] | offsets without records |
//! | [`log`] | a log as a consumer sees it, the comparison of two |
//! | [`offsets`] | which offset on the target an offset on the source is |
//! | [`keys`] | the latest record of each key in two compacted logs |
//! | [`groups`] | committed offsets of consumer groups |
//! | [`group_state`] | what is kept of groups |
//! | [`group_plan`] | what would become of groups |
//! | [`plan`] | what a mirror would do, and what is in its way |
//! | [`rights`] | which ACLs are missing |
//! | [`state`] | what is kept of each partition, in a compacted topic on the target |
//! | [`acls`] | what the source's ACLs become on the target |
//! | [`users`] | SCRAM users, which have to be created anew |
//! | [`quotas`] | quotas of users and clients |
//! | [`append`] | records of the mirror's own |
//! | [`on_error`] | records that cannot be copied: which one, and what becomes of it |
//! | [`dead_letters`] | records that the follower will not take |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz`, `/partitions` |
//! | [`progress`] | bars on a terminal, lines elsewhere |
//! | [`metrics`] | every event once: its log line and its metric |
//! | [`messages`] | the lines of the log, by their text |

pub mod acls;
pub mod admin;
pub mod append;
pub mod cut;
pub mod dead_letters;
pub mod fetch;
pub mod group_plan;
pub mod group_state;
pub mod groups;
pub mod holes;
pub mod job;
pub mod keys;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod offsets;
pub mod on_error;
pub mod pass;
pub mod plan;
pub mod produce;
pub mod progress;
pub mod quotas;
pub mod replicate;
pub mod rights;
pub mod run;
pub mod settle;
pub mod shards;
pub mod state;
pub mod topics;
pub mod users;
