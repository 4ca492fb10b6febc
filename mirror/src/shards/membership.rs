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

/// What the group does with our shards.
pub enum Change {
    /// They are ours.
    Gained(Vec<Arc<Shard>>),
    /// They are to be given up; the group waits until this is dropped, which is to be within [`HANDED_OVER`]. They [are over](Shard::is_over) already.
    Revoked(Handover),
    /// They may be somebody else's by now.
    Lost,
}

/// The group waits until it is dropped.
pub struct Handover(#[expect(dead_code, reason = "that it is dropped is what the member waits for")] pub(super) SyncSender<()>);

/// A member of the group, as long as it is kept.
pub struct Member {
    /// What happens.
    pub changes: mpsc::UnboundedReceiver<Change>,
    /// Under which it writes.
    pub lease: Arc<Lease>,
    /// The coordinator has given it an assignment, perhaps an empty one, and has not put it out since.
    pub joined: Arc<AtomicBool>,
    pub(super) thread: thread::JoinHandle<()>,
    pub(super) stop: DropGuard,
}

impl Member {
    /// Leaves the group, so that the others take over at once.
    pub async fn leave(self) {
        let Self { changes, thread, stop, .. } = self;
        // Nobody answers a revocation any more.
        drop((changes, stop));
        // It ends within [`HANDING_OVER`].
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}
