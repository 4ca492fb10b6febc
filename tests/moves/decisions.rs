//! The log of decisions, as somebody reads it who takes no part.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use harness::kafka::{Cluster, Listener};
use kferry_wire::decisions::{Outcome, State, TOPIC};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::LIMIT;

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It has not begun, or was given up.
    Before,
    /// Proxies are asked to hold.
    Held,
    /// Some do.
    Holding,
    /// All do.
    AllHold,
    /// All partitions are closed.
    Closed,
    /// The other cluster leads.
    Flipped,
}

impl Phase {
    /// Of a move that began after the decision at `after`.
    pub(crate) fn of(state: &State, after: i64) -> Self {
        match state.open() {
            Some(open) if open.id <= after => Self::Before,
            Some(_) if state.outcome().is_ok() => Self::Closed,
            Some(open) if open.quiet_since.is_some() => Self::AllHold,
            Some(open) if !open.holding.is_empty() => Self::Holding,
            Some(_) => Self::Held,
            None => match state.receipts().next() {
                Some(receipt) if receipt.at > after && matches!(receipt.outcome, Outcome::Flipped(_)) => Self::Flipped,
                _ => Self::Before,
            },
        }
    }
}

type Seen = (Mutex<Result<State, String>>, Condvar);

/// What the log says.
pub(crate) struct Decisions(Arc<Seen>);

impl Decisions {
    /// Reads it from here on, in a thread that ends when nobody asks any more.
    pub(crate) fn follow(cluster: &Cluster) -> Result<Self> {
        let mut config = cluster.client_config(Listener::Plaintext)?;
        config.set("group.id", "nobody").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "100");
        // Brokers are killed: a broker that is back is found at once.
        config.set("reconnect.backoff.max.ms", "200").set("fetch.error.backoff.ms", "20");
        let reader: BaseConsumer = config.create()?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(TOPIC, 0, Offset::Beginning)?;
        reader.assign(&from)?;
        let seen = Arc::new((Mutex::new(Ok(State::default())), Condvar::new()));
        let told = Arc::downgrade(&seen);
        thread::spawn(move || read(&reader, &told));
        Ok(Self(seen))
    }

    /// At this moment.
    pub(crate) fn state(&self) -> Result<State> {
        self.0.0.lock().map_err(|_| anyhow!("its reader panicked"))?.clone().map_err(|error| anyhow!(error))
    }

    /// Waits until it says something, at most for so long, and wakes as soon as that was read.
    pub(crate) fn says<T>(&self, what: &str, limit: Duration, mut look: impl FnMut(&State) -> Option<T>) -> Result<T> {
        let (seen, changed) = &*self.0;
        let mut found = None;
        let mut goes_on = |state: &mut Result<State, String>| {
            found = state.as_ref().ok().and_then(&mut look);
            found.is_none() && state.is_ok()
        };
        let seen = seen.lock().map_err(|_| anyhow!("its reader panicked"))?;
        let (seen, _) = changed.wait_timeout_while(seen, limit, &mut goes_on).map_err(|_| anyhow!("its reader panicked"))?;
        let last = match &*seen {
            Ok(state) => format!("open: {:?}, the last receipt: {:?}", state.open(), state.receipts().next()),
            Err(error) => error.clone(),
        };
        found.with_context(|| format!("waited {limit:?} until the log says {what}: {last}"))
    }

    /// Waits until a move that began after the decision at `after` is so far, or farther. Returns where it is.
    pub(crate) fn is_at(&self, phase: Phase, after: i64) -> Result<Phase> {
        self.says(&format!("{phase:?}"), LIMIT, |state| Some(Phase::of(state, after)).filter(|now| *now >= phase))
    }

    /// Waits until a move is given up that began after the decision at `after`. Returns why it was.
    pub(crate) fn is_given_up(&self, after: i64) -> Result<String> {
        self.says("that the move was given up", LIMIT, |state| {
            state.receipts().take_while(|receipt| receipt.at > after).find_map(|receipt| match &receipt.outcome {
                Outcome::Aborted { reason, .. } => Some(reason.clone()),
                Outcome::Flipped(_) => None,
            })
        })
    }
}

fn read(reader: &BaseConsumer, told: &Weak<Seen>) {
    loop {
        let message = reader.poll(Duration::from_millis(200));
        let Some(seen) = told.upgrade() else { return };
        // librdkafka tells of brokers that are away, and tries again.
        let Some(Ok(message)) = message else { continue };
        let Ok(mut state) = seen.0.lock() else { return };
        if let Ok(read) = &mut *state
            && let Err(unknown) = read.read(message.offset(), message.payload())
        {
            *state = Err(format!("the record at {}: {unknown}", message.offset()));
        }
        seen.1.notify_all();
    }
}
