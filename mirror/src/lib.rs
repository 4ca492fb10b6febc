//! Copies topics between clusters, each record at the same offset.
//!
//! The path of a batch, top-down: [`run`] finds the partitions and looks after them, `copy::settle` compares both logs and says from where to go
//! on, and `copy::replicate` fetches, cuts, produces and checks.
//!
//! | folder | what it is |
//! |---|---|
//! | [`run`] | a mirror at work: passes over the topics, partitions, lanes, what becomes of failures |
//! | `copy` | a look at both logs, and the lanes between brokers |
//! | [`topics`] | which topics, what the follower's must be like, and the pass that sees to it |
//! | [`groups`] | committed offsets of consumer groups |
//! | [`shards`] | several processes: who works on what, and until when it may write |
//! | [`state`] | what is kept of partitions and groups, in a compacted topic on the target |
//! | [`log`] | both sides' logs as a consumer sees them, and their comparison |
//! | [`partition`] | a mirrored partition: its two sides, what is known of it, what allows it to be written |
//! | [`plan`] | what a mirror would do, what is in its way, which ACLs are missing |
//! | [`security`] | what the source's ACLs, users and quotas become on the target |
//!
//! | file | what it is |
//! |---|---|
//! | [`args`] | the command line |
//! | [`dead_letters`] | records that the follower will not take |
//! | [`named`] | what the file names and is not there |
//! | [`own_topics`] | topics of the mirror's own |
//! | [`transactions`] | open transactions on the leader, and what they hold up |
//! | [`overview`] | partitions and groups of this process, for everybody to see |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz`, `/partitions` |
//! | [`certificates`] | until when those of the clusters are good |
//! | [`progress`] | bars on a terminal, lines elsewhere |
//! | [`metrics`] | the names of the metrics |
//!
//! The feature `librdkafka` (on by default) is the one file that knows it, `shards::member`: how a process of `kferry-mirror` becomes a member of its
//! mirror's consumer group. Whoever only looks, as the command line does, needs none of it.

pub mod admin;
pub mod args;
pub mod certificates;
mod copy;
pub mod dead_letters;
pub mod finish;
pub mod groups;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod named;
pub mod overview;
pub mod own_topics;
pub mod partition;
pub mod plan;
pub mod progress;
pub mod run;
pub mod security;
pub mod shards;
pub mod state;
pub mod topics;
pub mod transactions;

/// How a batch came to be on the follower: the labels of the metric's `path`.
pub const PATHS: &[&str] = copy::cut::Path::LABELS;

use std::time::Duration;

use kferry_config::Mirror;
use kferry_wire::client::Client;
use kferry_wire::connection::ConnectOptions;

/// How long a cluster may take to answer a question, retries included, where somebody sits and waits for the answer.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The clients of a mirror's source and target, which must be two Kafka clusters.
pub fn clients(mirror: &Mirror) -> (Client, Client) {
    Client::pair(mirror.source.clone(), mirror.target.clone(), &connect_options(&mirror.name))
}

/// The same, for a command that somebody waits for: each question has [`PATIENCE`].
pub fn patient_clients(mirror: &Mirror) -> (Client, Client) {
    let (source, target) = clients(mirror);
    (source.within(PATIENCE), target.within(PATIENCE))
}

/// How the mirror of this name connects to both clusters.
pub fn connect_options(mirror: &str) -> ConnectOptions {
    ConnectOptions { client_id: format!("kferry-mirror-{mirror}"), request_timeout: Duration::from_secs(40), ..ConnectOptions::default() }
}
