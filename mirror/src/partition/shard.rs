//! A shard that this process has, and the lease under which it may write: see [`crate::shards`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How long a process may write after it has sent a commit that the group's coordinator took. It is a second less than the session: for what is sent at
/// the lease's end and lies in a queue, and for clocks that do not run alike.
pub const LEASE: Duration = Duration::from_secs(14);

/// Until when a process may write. Its times are in ms since the lease was made.
pub struct Lease {
    began: Instant,
    /// When the lease runs out, in ms since `began`.
    until: AtomicU64,
}

impl Lease {
    /// A lease that runs out in `until` ms: at once with 0, never with `u64::MAX`.
    pub fn new(until: u64) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), until: AtomicU64::new(until) })
    }

    /// How long the process may still write; zero when the lease has run out.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.until.load(Ordering::Acquire)).saturating_sub(self.began.elapsed())
    }

    /// The present, in ms since the lease was made.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Prolongs the lease to [`LEASE`] after `sent`, a time of [`now`](Self::now) at which a commit was sent that the coordinator took.
    pub fn renew(&self, sent: u64) {
        self.until.fetch_max(sent + LEASE.as_millis() as u64, Ordering::AcqRel);
    }
}

/// A shard that this process has.
pub struct Shard {
    number: i32,
    lease: Arc<Lease>,
    /// Cancelled when the shard is over.
    over: CancellationToken,
}

impl Shard {
    /// The shard of this number, which this process has from now on and may write to while the lease lasts.
    pub fn new(number: i32, lease: Arc<Lease>) -> Arc<Self> {
        Arc::new(Self { number, lease, over: CancellationToken::new() })
    }

    /// Ends the shard for this process: from here on nothing is sent for it.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// Which partition of the state's topic the shard is, from 0 on.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Whether something may be written for the shard just now. A lease that has run out may be renewed; a shard that [is over](Self::is_over) is so
    /// for good.
    pub fn may_write(&self) -> bool {
        !self.is_over() && self.lease.left() > Duration::ZERO
    }

    /// Whether no lease keeps other processes away, since this one [is alone](crate::shards::Owned::all), or believes to be.
    pub fn is_for_ever(&self) -> bool {
        self.lease.until.load(Ordering::Acquire) == u64::MAX
    }

    /// Whether the shard is being given up and the lease still lasts: then the state of its partitions may be kept, and nothing else written.
    pub fn may_be_left(&self) -> bool {
        self.is_over() && self.lease.left() > Duration::ZERO
    }

    /// Whether the shard is being given up, or was lost. If this process gets it again, that is another `Shard`.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// A token that is cancelled when the shard is over, or before that by whoever has the token.
    pub fn child(&self) -> CancellationToken {
        self.over.child_token()
    }
}
