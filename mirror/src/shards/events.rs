//! What is told of shards: each event once, its log line and its metric.

use kferry_wire::tell;
use metrics::{counter, gauge};

use crate::messages;
use crate::metrics::{REBALANCES, SHARDS};

/// The group has given shards to this process, which has `now` of them.
pub(crate) fn gained(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "gained", now);
    tell!(messages::SHARDS_GAINED, mirror, ?shards, now);
}

/// The group takes shards away from this process, which has `now` of them left.
pub(crate) fn revoked(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "revoked", now);
    tell!(messages::SHARDS_REVOKED, mirror, ?shards, now);
}

/// The group has put this process out, which has `now` shards left.
pub(crate) fn lost(mirror: &str, shards: &[i32], now: usize) {
    rebalanced(mirror, "lost", now);
    tell!(messages::SHARDS_LOST, mirror, ?shards);
}

fn rebalanced(mirror: &str, kind: &'static str, now: usize) {
    counter!(REBALANCES, "mirror" => mirror.to_owned(), "kind" => kind).increment(1);
    gauge!(SHARDS, "mirror" => mirror.to_owned()).set(now as f64);
}
