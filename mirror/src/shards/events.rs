//! What is told of shards: each event once, its log line and its metric.

use metrics::{counter, gauge};
use tracing::{info, warn};

use crate::metrics::{REBALANCES, SHARDS};

/// The group has given shards to this process, which has `now` of them.
pub(crate) fn gained(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "gained", now);
    info!(mirror, ?shards, now, "shards gained");
}

/// The group takes shards away from this process, which has `now` of them left.
pub(crate) fn revoked(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "revoked", now);
    info!(mirror, ?shards, now, "shards go to another process");
}

/// The group has put this process out, which has `now` shards left.
pub(crate) fn lost(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "lost", now);
    warn!(mirror, ?shards, "shards lost: the group went on without this process");
}

fn rebalanced(mirror: &str, kind: &'static str, now: usize) {
    counter!(REBALANCES, "mirror" => mirror.to_owned(), "kind" => kind).increment(1);
    gauge!(SHARDS, "mirror" => mirror.to_owned()).set(now as f64);
}
