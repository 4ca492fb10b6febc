//! Relayed clients that see their home alone. Nobody counts or holds what they send. So who would see more by another file is cut before anything moves by
//! it, and comes again.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kferry_wire::decisions::LATE;
use tokio_util::sync::CancellationToken;

use crate::clients::MAX_NAME;

/// How many are kept of those that have gone.
const MOST: usize = 10_000;

/// By which a client finds its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub client_id: String,
    pub address: IpAddr,
    pub tls_subject: Option<String>,
}

/// All of them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alone(Arc<Mutex<Clients>>);

#[derive(Debug, Default)]
struct Clients {
    connected: HashMap<u64, (Who, CancellationToken)>,
    /// Those that went less than [`LATE`] ago, the first one first: what they had sent may still be appended.
    gone: VecDeque<(Instant, Who)>,
    /// When the last one went that had asked for something and got no answer.
    open: Option<Instant>,
    /// When the last one went that was left out of these: there were too many, or its client.id was too long.
    left_out: Option<Instant>,
    /// How many there have been.
    count: u64,
}

impl Alone {
    /// A client has come, and stays until what is returned is dropped.
    pub(crate) fn come(&self, who: Who) -> Connected {
        let mut clients = self.lock();
        clients.count += 1;
        let (number, until) = (clients.count, CancellationToken::new());
        clients.connected.insert(number, (who, until.clone()));
        Connected { alone: self.clone(), number, until, is_open: false }
    }

    /// Cuts all that see more now. Returns whether there was one, connected or gone just before.
    pub(crate) fn cut(&self, sees_more: impl Fn(&Who) -> bool, now: Instant) -> bool {
        let mut clients = self.lock();
        clients.forget(now);
        let is_late = |went: Instant| now.saturating_duration_since(went) < LATE;
        let mut was_one = clients.left_out.is_some_and(is_late) || clients.gone.iter().any(|(_, who)| sees_more(who));
        for (who, until) in clients.connected.values() {
            if !until.is_cancelled() && sees_more(who) {
                until.cancel();
                was_one = true;
            }
        }
        was_one
    }

    /// Whether something that one of them has sent may still arrive.
    pub(crate) fn are_open(&self, now: Instant) -> bool {
        let clients = self.lock();
        !clients.connected.is_empty() || clients.open.is_some_and(|went| now.saturating_duration_since(went) < LATE)
    }

    fn go(&self, number: u64, is_open: bool, now: Instant) {
        let mut clients = self.lock();
        clients.forget(now);
        if is_open {
            clients.open = Some(now);
        }
        if let Some((who, _)) = clients.connected.remove(&number) {
            if clients.gone.len() < MOST && who.client_id.len() <= MAX_NAME {
                clients.gone.push_back((now, who));
            } else {
                clients.left_out = Some(now);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    fn forget(&mut self, now: Instant) {
        while self.gone.front().is_some_and(|(went, _)| now.saturating_duration_since(*went) >= LATE) {
            self.gone.pop_front();
        }
    }
}

/// A client that is connected.
#[derive(Debug)]
pub(crate) struct Connected {
    alone: Alone,
    number: u64,
    until: CancellationToken,
    /// Whether it has asked for something and got no answer, when it goes.
    pub is_open: bool,
}

impl Connected {
    /// Cancelled when the client is cut.
    pub(crate) fn until(&self) -> &CancellationToken {
        &self.until
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.alone.go(self.number, self.is_open, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn who(client_id: &str) -> Who {
        Who { client_id: client_id.to_owned(), address: IpAddr::from([127, 0, 0, 1]), tls_subject: None }
    }

    #[test]
    fn who_sees_more_is_cut_once_and_others_go_on() {
        let (alone, now) = (Alone::default(), Instant::now());
        let [orders, other] = ["orders-1", "other-1"].map(|id| alone.come(who(id)));
        let are_orders = |who: &Who| who.client_id.starts_with("orders-");
        assert!(alone.cut(are_orders, now));
        assert_eq!([&orders, &other].map(|client| client.until().is_cancelled()), [true, false]);
        assert!(!alone.cut(are_orders, now), "it was cut by the file before");
        assert!(!alone.cut(|_| false, now));
    }

    #[test]
    fn who_has_just_gone_counts_as_long_as_something_may_arrive() {
        let alone = Alone::default();
        drop(alone.come(who("orders-1")));
        let now = Instant::now();
        assert!(alone.cut(|_| true, now + LATE.saturating_sub(Duration::from_secs(1))));
        assert!(!alone.cut(|_| true, now + LATE));
        assert!(alone.lock().connected.is_empty() && alone.lock().gone.is_empty());
    }

    #[test]
    fn what_a_client_has_asked_that_has_gone_may_still_arrive() {
        let alone = Alone::default();
        let [mut open, quiet] = ["orders-1", "orders-2"].map(|id| alone.come(who(id)));
        let now = Instant::now();
        assert!(alone.are_open(now));
        drop(quiet);
        open.is_open = true;
        drop(open);
        assert_eq!(
            [now, now + LATE.saturating_sub(Duration::from_secs(1)), now + 2 * LATE].map(|now| alone.are_open(now)),
            [true, true, false]
        );
        let alone = Alone::default();
        drop(alone.come(who("orders-1")));
        assert!(!alone.are_open(Instant::now()));
    }

    #[test]
    fn those_that_have_gone_are_bounded_and_who_is_left_out_counts() {
        let alone = Alone::default();
        for _ in 0..MOST {
            drop(alone.come(who("other-1")));
        }
        assert!(!alone.cut(|who| *who != self::who("other-1"), Instant::now()));
        drop(alone.come(who("orders-1")));
        assert_eq!(alone.lock().gone.len(), MOST);
        let now = Instant::now();
        assert!(alone.cut(|who| *who != self::who("other-1"), now));
        assert!(!alone.cut(|_| true, now + LATE));
        drop(alone.come(who(&"o".repeat(MAX_NAME + 1))));
        assert!(alone.lock().gone.is_empty());
        assert!(alone.cut(|_| false, now + LATE / 2));
    }
}
