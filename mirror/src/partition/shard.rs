//! A shard that this process has, and the lease under which it may write: see [`crate::shards`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// From the moment on at which a commit was sent. It ends a second before the session: for what is sent at its end and lies in a queue, and for
/// clocks that do not run alike.
pub const LEASE: Duration = Duration::from_secs(14);

/// Until when a process may write.
pub struct Lease {
    began: Instant,
    /// In ms from then on.
    until: AtomicU64,
}

impl Lease {
    /// A lease that runs out so many ms from now on.
    pub fn new(until: u64) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), until: AtomicU64::new(until) })
    }

    /// How much of it is left; nothing when it has run out.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.until.load(Ordering::Acquire)).saturating_sub(self.began.elapsed())
    }

    /// The present, in ms.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The coordinator took us for a member at that time.
    pub fn renew(&self, sent: u64) {
        self.until.fetch_max(sent + LEASE.as_millis() as u64, Ordering::AcqRel);
    }
}

/// A shard that this process has.
pub struct Shard {
    number: i32,
    lease: Arc<Lease>,
    over: CancellationToken,
}

impl Shard {
    /// A shard that is ours from now on, under a lease.
    pub fn new(number: i32, lease: Arc<Lease>) -> Arc<Self> {
        Arc::new(Self { number, lease, over: CancellationToken::new() })
    }

    /// From here on nothing is sent for it.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// Which partition of the state's topic it is.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Whether something may be sent for it just now. If not, it may be so again, unless the shard [is over](Self::is_over).
    pub fn may_write(&self) -> bool {
        !self.is_over() && self.lease.left() > Duration::ZERO
    }

    /// Whether what is known of it may still be kept, now that it is being given up; nothing else may be sent.
    pub fn may_be_left(&self) -> bool {
        self.is_over() && self.lease.left() > Duration::ZERO
    }

    /// It is being given up, or was lost. If it comes back, it does so as another one.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// A token that is cancelled when the shard is over, or before, by whoever has it.
    pub fn child(&self) -> CancellationToken {
        self.over.child_token()
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}
