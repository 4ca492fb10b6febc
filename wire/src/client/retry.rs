//! How long something is tried, and how often.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Client, ClientError};

/// A topic that was just created is unknown to some brokers for a moment. One that is still unknown then does not exist.
const PROPAGATION: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// After which errors a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resend {
    /// After all that may pass: to do it twice is to do it once.
    Always,
    /// Only where the broker said that it did nothing: with a lost answer nobody knows.
    IfRefused,
    /// What was sent once stays with the caller.
    Never,
}

/// The attempts of one operation.
pub(super) struct Retry {
    started: Instant,
    pub(super) deadline: Instant,
    attempts: u32,
}

impl Retry {
    pub(super) fn new(deadline: Duration) -> Self {
        let started = Instant::now();
        Self { started, deadline: started + deadline, attempts: 0 }
    }

    /// Whether the error may pass, and the operation still has the time.
    pub(super) fn may_pass(&self, error: &ClientError, resend: Resend) -> bool {
        let now = Instant::now();
        error.is_retriable()
            && now < self.deadline
            && (!error.is_unknown_topic() || now < self.started + PROPAGATION)
            && match resend {
                Resend::Always => true,
                Resend::IfRefused => !error.may_have_executed(),
                Resend::Never => false,
            }
    }

    /// Waits for the next attempt; false if that would be past the deadline.
    pub(super) async fn pause(&mut self) -> bool {
        let at = Instant::now() + backoff(self.attempts, random());
        self.attempts += 1;
        if at >= self.deadline {
            return false;
        }
        sleep_until(at).await;
        true
    }
}

/// Doubles with each attempt; `random`, from 0 to 1, takes up to half of it away: clients that failed together do not come back together.
fn backoff(attempts: u32, random: f64) -> Duration {
    let full = FIRST.saturating_mul(1 << attempts.min(10)).min(LONGEST);
    full.mul_f64(1.0 - random / 2.0)
}

/// A random number from 0 to 1, such as processes that do the same at the same time need to do it one after the other. Each `RandomState` has other keys, and
/// that is random enough for it.
pub fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

impl Client {
    pub(super) fn attempts(&self) -> Retry {
        Retry::new(self.deadline)
    }

    /// Does something until it succeeds, fails for good, or the deadline is over.
    pub(crate) async fn retry<T, F>(&self, resend: Resend, attempt: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut retry = self.attempts();
        let mut last = None;
        loop {
            let error = match self.until(retry.deadline, attempt()).await {
                Ok(done) => return Ok(done),
                Err(error) => error.after(last.as_ref()),
            };
            if !retry.may_pass(&error, resend) || !retry.pause().await {
                return Err(error);
            }
            last = Some(error);
        }
    }

    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        attempt: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let elapsed = |_| Err(ClientError::Deadline { cluster: self.name().clone(), after: self.deadline, before: String::new() });
        timeout_at(deadline, attempt).await.unwrap_or_else(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_a_second_and_spreads_over_its_upper_half() {
        let millis = |attempts, random| backoff(attempts, random).as_millis();
        assert_eq!([0, 1, 2, 4, 5, 99].map(|attempts| millis(attempts, 0.0)), [50, 100, 200, 800, 1_000, 1_000]);
        assert_eq!([0.0, 0.5, 1.0].map(|random| millis(10, random)), [1_000, 750, 500]);
        assert!((0.0..=1.0).contains(&random()));
    }
}
