//! What all lanes together may hold and send.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes of records that all lanes together may hold.
pub(crate) const MEMORY: usize = 256 << 20;

/// How much of a lane's memory is used for what.
pub(crate) struct Limits {
    /// Bytes of a Fetch answer, and of what waits to be produced before the next one is asked for.
    pub(crate) fetch_bytes: usize,
    /// The same of one partition.
    pub(crate) partition_bytes: usize,
    /// Bytes of a Produce request.
    pub(crate) produce_bytes: usize,
    /// Bytes that all lanes together hold: fetched, waiting and in flight.
    pub(crate) memory: usize,
    /// How many lanes there are.
    pub(crate) lanes: AtomicUsize,
    /// `max_bytes_per_second`.
    pub(crate) rate: Rate,
}

impl Limits {
    /// Bytes that one lane may hold. It has its share for itself: what a broker that hangs does not take is no other lane's.
    pub(crate) fn share(&self) -> usize {
        self.memory / self.lanes.load(Ordering::Relaxed).max(1)
    }
}

/// A bound of bytes per second, over all lanes.
pub(crate) struct Rate {
    per_second: Option<f64>,
    next: Mutex<Instant>,
}

impl Rate {
    /// So many; `None` is no bound.
    pub(crate) fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.map(|bytes| bytes as f64), next: Mutex::new(Instant::now()) }
    }

    /// When to go on after so many bytes.
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
