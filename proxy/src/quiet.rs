//! When a connection on which nothing moves is ended. The decision of both modes, from what has moved and when: it reads no clock and no socket.

use std::time::Duration;

use tokio::time::Instant;

use crate::ending::Cause;

/// How long nothing must have moved on a draining connection before it is closed: then nothing is on its way.
const DRAIN_QUIET: Duration = Duration::from_millis(500);

/// How long the broker may take for its last responses after the client has closed its side.
pub(crate) const LAST_RESPONSES: Duration = Duration::from_secs(5);

/// For how long a connection may be quiet, and why it ends then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Both sides are there: `connections_max_idle_ms`.
    Idle(Duration),
    /// The proxy is stopping: 500 ms with nothing in flight.
    Draining,
    /// No more requests can go out, the broker's last responses may still come: 5 s.
    LastResponses,
}

impl Patience {
    /// The patience with a connection whose two sides are there.
    pub(crate) fn with(draining: bool, max_idle: Duration) -> Self {
        if draining { Self::Draining } else { Self::Idle(max_idle) }
    }

    fn limit(self) -> Duration {
        match self {
            Self::Idle(max_idle) => max_idle,
            Self::Draining => DRAIN_QUIET,
            Self::LastResponses => LAST_RESPONSES,
        }
    }

    /// Why a connection ends that was quiet for so long.
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::Idle(_) => Cause::Idle,
            Self::Draining => Cause::Drained,
            // Nothing more comes, and it is the client who has closed.
            Self::LastResponses => Cause::ClientClosed,
        }
    }
}

/// What a connection's counters say at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Activity {
    /// Bytes moved since the connection was opened, both directions together.
    pub bytes: u64,
    /// Requests whose responses are to come. 0 in bootstrap mode, which does not know.
    pub in_flight: usize,
}

/// Since when a connection is quiet.
#[derive(Debug)]
pub(crate) struct Quiet {
    /// Bytes that had moved at the last look.
    bytes: u64,
    since: Instant,
}

impl Quiet {
    /// Of a connection that begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { bytes: 0, since: now }
    }

    /// When the connection ends if nothing moves until then.
    pub(crate) fn deadline(&self, patience: Patience) -> Instant {
        self.since + patience.limit()
    }

    /// Looks at the counters. True: the connection was quiet for too long.
    pub(crate) fn look(&mut self, activity: Activity, patience: Patience, now: Instant) -> bool {
        let Activity { bytes, in_flight } = activity;
        if bytes != self.bytes || patience == Patience::Draining && in_flight > 0 {
            *self = Self { bytes, since: now };
        }
        now >= self.deadline(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_IDLE: Patience = Patience::Idle(Duration::from_mins(10));

    #[test]
    fn a_connection_ends_when_it_was_quiet_for_as_long_as_it_may() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        // Quiet since the start, or since 100 ms; in flight; what it is; the first moment at which it ends.
        let cases = [
            (0, 0, MAX_IDLE, Some(600_000)),
            (1, 0, MAX_IDLE, Some(600_100)),
            // A long poll of a Fetch is no reason to keep a connection open for ever.
            (1, 1, MAX_IDLE, Some(600_100)),
            (0, 0, Patience::Draining, Some(500)),
            (1, 0, Patience::Draining, Some(600)),
            (0, 1, Patience::Draining, None),
            (0, 0, Patience::LastResponses, Some(5000)),
            (0, 1, Patience::LastResponses, Some(5000)),
        ];
        for (bytes, in_flight, patience, ends) in cases {
            let mut quiet = Quiet::new(start);
            let activity = Activity { bytes, in_flight };
            assert!(!quiet.look(activity, patience, at(100)), "{activity:?} {patience:?}");
            match ends {
                Some(ends) => {
                    assert!(!quiet.look(activity, patience, at(ends - 1)), "{activity:?} {patience:?}");
                    assert!(quiet.look(activity, patience, at(ends)), "{activity:?} {patience:?}");
                }
                None => assert!(!quiet.look(activity, patience, at(1_000_000)), "{activity:?} {patience:?}"),
            }
        }
    }

    #[test]
    fn a_drain_counts_what_was_quiet_before_it() {
        let start = Instant::now();
        let mut quiet = Quiet::new(start);
        let now = start + Duration::from_mins(1);
        assert!(!quiet.look(Activity::default(), MAX_IDLE, now));
        assert!(quiet.look(Activity::default(), Patience::Draining, now));
    }
}
