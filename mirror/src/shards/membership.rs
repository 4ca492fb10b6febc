//! A process as a member of its mirror's consumer group, as the rest of the mirror sees it. How one becomes a member is in `member`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use crate::partition::{Lease, Shard};

/// How long partitions may take to come to rest once their shards are [revoked](Change::Revoked): a second less than the group waits for them.
pub const HANDED_OVER: Duration = Duration::from_secs(4);

/// What the group does with the shards of this process.
pub enum Change {
    /// The process has these shards from now on.
    Gained(Vec<Arc<Shard>>),
    /// Some shards, which [are over](Shard::is_over) already, are to be given up: the group waits until this is dropped, at most [`HANDED_OVER`] and
    /// a second.
    Revoked(Handover),
    /// All shards, which [are over](Shard::is_over) already, may be another process's by now.
    Lost,
}

/// Shards that are handed over: the group gives them to another process when this is dropped.
pub struct Handover(#[expect(dead_code, reason = "that it is dropped is what the member waits for")] pub(super) SyncSender<()>);

/// A member of the group, as long as it is kept.
pub struct Member {
    /// What the group does, in order.
    pub changes: mpsc::UnboundedReceiver<Change>,
    /// The lease under which this process writes.
    pub lease: Arc<Lease>,
    /// Whether the coordinator has given the process an assignment, perhaps an empty one, and has not put it out since.
    pub joined: Arc<AtomicBool>,
    /// Keeps the process a member.
    pub(super) thread: thread::JoinHandle<()>,
    /// Ends that thread when it is dropped.
    pub(super) stop: DropGuard,
}

impl Member {
    /// Leaves the group, so that the others take over at once.
    pub async fn leave(self) {
        let Self { changes, thread, stop, .. } = self;
        // Nobody answers a revocation any more.
        drop((changes, stop));
        // It ends within five seconds, whatever librdkafka does.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}
