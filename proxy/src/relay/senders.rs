//! Whose records they are: the connections of a client come from one address under one `client.id`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How long a client's first Metadata after a change of leaders may wait for what it has sent before.
const LONGEST: Duration = Duration::from_millis(500);

/// How long it waits at least: what had arrived on other connections by then has woken their tasks, and these have had their turn.
const SHORTEST: Duration = Duration::from_millis(2);

/// The clients that are connected.
#[derive(Debug, Default)]
pub(crate) struct Senders(Mutex<HashMap<(String, IpAddr), Weak<Sender>>>);

impl Senders {
    /// The one with this `client.id`, as the log shows it, at this address.
    pub(crate) fn of(&self, client_id: &str, address: IpAddr) -> Arc<Sender> {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (client_id.to_owned(), address);
        if let Some(sender) = senders.get(&key).and_then(Weak::upgrade) {
            return sender;
        }
        // Those that have gone are left out when there would be no room without them: each once in a while.
        if senders.len() == senders.capacity() {
            senders.retain(|_, sender| sender.strong_count() > 0);
        }
        let sender = Arc::new(Sender::new(client_id, address));
        senders.insert(key, Arc::downgrade(&sender));
        sender
    }
}

/// A client, with all of its connections.
#[derive(Debug)]
pub(crate) struct Sender {
    pub client_id: String,
    pub address: IpAddr,
    /// How many connections have sent something that is not on its way yet.
    busy: AtomicUsize,
    /// Told when there is none any more.
    idle: Notify,
    /// The change of leaders at which a Metadata has waited last.
    waited: AtomicU64,
}

impl PartialEq for Sender {
    fn eq(&self, other: &Self) -> bool {
        self.client_id == other.client_id && self.address == other.address
    }
}

impl Sender {
    pub(crate) fn new(client_id: &str, address: IpAddr) -> Self {
        Self { client_id: client_id.to_owned(), address, busy: AtomicUsize::new(0), idle: Notify::new(), waited: AtomicU64::new(0) }
    }

    /// A connection of the client has sent something, which is on its way once this is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self.clone())
    }

    /// Waits, once for each change of leaders, until what the client has sent on all of its connections is on its way: who hears of the new leader before
    /// that may send it something that overtakes. `change`: the number of the last one, 0 before the first.
    pub(super) async fn caught_up(&self, change: u64) {
        if self.waited.swap(change, Ordering::SeqCst) == change {
            return;
        }
        sleep(SHORTEST).await;
        let all = async {
            loop {
                let idle = self.idle.notified();
                if self.busy.load(Ordering::SeqCst) == 0 {
                    return;
                }
                idle.await;
            }
        };
        // After that it is as at an election.
        let _ = timeout(LONGEST, all).await;
    }
}

/// See [`Sender::busy`].
#[derive(Debug)]
pub(super) struct Busy(Arc<Sender>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::Instant;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn connections_of_one_client_have_one_sender_for_as_long_as_there_is_one() {
        let senders = Senders::default();
        let one = senders.of("one", ADDRESS);
        assert!(Arc::ptr_eq(&one, &senders.of("one", ADDRESS)) && !Arc::ptr_eq(&one, &senders.of("other", ADDRESS)));
        for n in 0..10_000 {
            senders.of(&format!("short-{n}"), ADDRESS);
        }
        assert!(senders.0.lock().unwrap().len() < 100);
        assert!(Arc::ptr_eq(&one, &senders.of("one", ADDRESS)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_metadata_after_a_change_waits_for_what_was_sent_before_and_not_for_ever() {
        let sender = Senders::default().of("one", ADDRESS);
        let waits = async |change| {
            let began = Instant::now();
            sender.caught_up(change).await;
            began.elapsed()
        };
        assert_eq!(waits(0).await, Duration::ZERO);
        let busy = [sender.busy(), sender.busy()];
        tokio::spawn(async move {
            sleep(Duration::from_millis(80)).await;
            drop(busy);
        });
        assert_eq!(waits(1).await, Duration::from_millis(80));
        let _busy = sender.busy();
        assert_eq!(waits(1).await, Duration::ZERO);
        assert_eq!(waits(2).await, LONGEST + SHORTEST);
    }
}
