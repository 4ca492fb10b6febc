//! How many bytes all lanes together may hold and send.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most bytes of records that all lanes together hold.
pub(crate) const MEMORY: usize = 256 << 20;

/// How many bytes lanes may hold and send.
pub(crate) struct Limits {
    /// The most bytes of a Fetch response, and of what a lane has fetched and not yet produced when it fetches again.
    pub(crate) fetch_bytes: usize,
    /// The most bytes of one partition in a Fetch response, and that it has fetched and not yet produced when it is fetched again.
    pub(crate) partition_bytes: usize,
    /// A Produce request gets no further batch when it has this many bytes.
    pub(crate) produce_bytes: usize,
    /// The most bytes that all lanes together hold: in a Fetch response, waiting to be produced, and in flight.
    pub(crate) memory: usize,
    /// How many lanes run.
    pub(crate) lanes: AtomicUsize,
    /// The mirror's `max_bytes_per_second`.
    pub(crate) rate: Rate,
}

impl Limits {
    /// The most bytes that one lane may hold. It has its share for itself: what a broker that hangs does not take is no other lane's.
    pub(crate) fn share(&self) -> usize {
        self.memory / self.lanes.load(Ordering::Relaxed).max(1)
    }
}

/// A bound of bytes per second, over all lanes.
pub(crate) struct Rate {
    /// `None` is no bound.
    per_second: Option<f64>,
    /// When what was fetched so far is within the bound.
    next: Mutex<Instant>,
}

impl Rate {
    /// A bound of `per_second` bytes a second; `None` is no bound.
    pub(crate) fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.map(|bytes| bytes as f64), next: Mutex::new(Instant::now()) }
    }

    /// When the next Fetch may be sent, after one that brought this many bytes.
    pub(crate) fn after(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let Some(per_second) = self.per_second else { return now };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(now) + Duration::from_secs_f64(bytes as f64 / per_second);
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_share_the_memory() {
        let limits = Limits {
            fetch_bytes: 4 << 20,
            partition_bytes: 1 << 20,
            produce_bytes: 4 << 20,
            memory: MEMORY,
            lanes: AtomicUsize::new(0),
            rate: Rate::new(None),
        };
        assert_eq!(limits.share(), MEMORY);
        limits.lanes.store(100, Ordering::Relaxed);
        assert!(limits.share() * 100 <= MEMORY && limits.share() > limits.partition_bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_spreads_bytes_over_the_time() {
        let (bound, unbound) = (Rate::new(Some(1_000)), Rate::new(None));
        let began = Instant::now();
        assert_eq!(unbound.after(1 << 30), began);
        assert_eq!(bound.after(500), began + Duration::from_millis(500));
        assert_eq!(bound.after(1_000), began + Duration::from_millis(1_500));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(bound.after(1_000), Instant::now() + Duration::from_secs(1));
    }
}
