//! Holds: while a topic changes its leader, Produce requests for it wait, and what has gone to a broker is waited for.
//!
//! A request enters the topic of each of its batches before anything of that batch goes anywhere, and leaves it when it is answered. A topic that is held can
//! be entered only by a request that is in such a topic already: what a broker has got a part of must not wait for the rest.
//!
//! A connection whose request waits is not read. So what waits costs no memory, and stays in its order.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kferry_wire::decisions::{LATE, Waited};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::senders::Sender;
use crate::quiet::LAST_RESPONSES;

/// How long, since a connection was cut of whose requests nobody knows, those may be appended: the last of them has [`LAST_RESPONSES`] to be sent.
pub(crate) const LOST: Duration = LATE.saturating_add(LAST_RESPONSES);

/// How long a transaction that was begun in a topic keeps it from moving: as long as brokers let one be open by default (`transaction.max.timeout.ms`). One
/// that has written is seen by brokers as well (`kferry_wire::preflight`).
const TRANSACTION: Duration = Duration::from_mins(15);

/// In how many topics transactions may have been begun within that time: nobody knows whether there is a topic of a name that a client sends.
const TRANSACTIONS: usize = 100_000;

/// How often those that are over are forgotten, at the most.
const SWEPT: Duration = Duration::from_secs(1);

/// How many clients an operator is shown that keep a hold open.
const SHOWN: usize = 5;

/// Which topics are held, and which have requests under way.
#[derive(Debug)]
pub(crate) struct Holds {
    /// Without a log of decisions no topic is ever held, and nothing is counted.
    counts: AtomicBool,
    topics: Mutex<Topics>,
    /// Told when topics are held or let go, and when nothing is under way any more of one that is held.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Topics {
    held: HashSet<Arc<str>>,
    /// How often topics were let go.
    changes: u64,
    /// How many requests were sent and never answered.
    late: usize,
    /// How often connections were cut of whose requests nobody knows.
    lost: usize,
    /// How many requests wait, and what has waited since topics were held last.
    waiting: usize,
    waited: Waited,
    /// When a transaction was begun in each last.
    transactions: HashMap<Arc<str>, Instant>,
    /// When those that are over were forgotten last.
    swept: Option<Instant>,
    /// Whose requests are in each, and how many.
    entered: HashMap<Arc<str>, Vec<(Arc<Sender>, usize)>>,
}

impl Default for Holds {
    fn default() -> Self {
        Self { counts: AtomicBool::new(false), topics: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Holds {
    /// From now on requests are counted: a process says so before it serves the first client.
    pub(crate) fn count(&self) {
        self.counts.store(true, Ordering::Relaxed);
    }

    /// Enters a topic for a client, once it is not held or if one of `entered`, which this request has entered before, is held too. `None`: nothing is counted.
    pub(super) async fn enter(self: &Arc<Self>, topic: &str, from: &Arc<Sender>, entered: &[&[Entered]]) -> Option<Entered> {
        if !self.counts.load(Ordering::Relaxed) {
            return None;
        }
        let mut changed = self.changed.subscribe();
        let mut waits = None;
        loop {
            {
                let mut topics = self.lock();
                let is_begun = || entered.iter().copied().flatten().any(|entered| topics.held.contains(&entered.topic));
                if !topics.held.contains(topic) || is_begun() {
                    let topic = match topics.entered.get_key_value(topic) {
                        Some((topic, _)) => topic.clone(),
                        None => topic.into(),
                    };
                    let clients = topics.entered.entry(topic.clone()).or_default();
                    match clients.iter_mut().find(|(client, _)| Arc::ptr_eq(client, from)) {
                        Some((_, count)) => *count += 1,
                        None => clients.push((from.clone(), 1)),
                    }
                    return Some(Entered { holds: self.clone(), topic, from: from.clone(), is_sent: false });
                }
                waits.get_or_insert_with(|| {
                    topics.waiting += 1;
                    Waits { holds: self, since: Instant::now() }
                });
            }
            // It ends only with the process.
            let _ = changed.changed().await;
        }
    }

    /// Holds these topics and no others.
    pub(crate) fn hold(&self, topics: impl IntoIterator<Item = Arc<str>>) {
        let mut held = self.lock();
        held.held = topics.into_iter().collect();
        if !held.held.is_empty() {
            held.waited = Waited::default();
        }
        held.changes += u64::from(held.held.is_empty());
        drop(held);
        self.changed.send_replace(());
    }

    /// What has waited since topics were held last, once nothing waits any more.
    pub(crate) fn waited(&self) -> Option<Waited> {
        let topics = self.lock();
        (topics.waiting == 0).then_some(topics.waited)
    }

    /// How often topics were let go.
    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Whether a topic is held.
    pub(super) fn are_held(&self, topic: &str) -> bool {
        self.lock().held.contains(topic)
    }

    /// A client adds partitions of a topic to its transaction. Returns whether it may: once it has, the coordinator writes a marker to the broker that led the
    /// topic then, also if nothing else is ever written, and after a flip that would be to the copy.
    pub(super) fn begin_transaction(&self, topic: &str) -> bool {
        if !self.counts.load(Ordering::Relaxed) {
            return true;
        }
        let mut topics = self.lock();
        if topics.held.contains(topic) {
            return false;
        }
        if let Some(begun) = topics.transactions.get_mut(topic) {
            *begun = Instant::now();
            return true;
        }
        // Not each time: Produce requests wait for the lock.
        if topics.swept.is_none_or(|swept| swept.elapsed() >= SWEPT) {
            topics.swept = Some(Instant::now());
            topics.transactions.retain(|_, begun| begun.elapsed() < TRANSACTION);
        }
        let may = topics.transactions.len() < TRANSACTIONS;
        if may {
            topics.transactions.insert(topic.into(), Instant::now());
        }
        may
    }

    /// Whether a transaction was begun in a topic of late.
    pub(crate) fn has_transaction(&self, topic: &str) -> bool {
        self.lock().has_transaction(topic)
    }

    /// A topic that is held although a transaction was begun in it before.
    pub(crate) fn held_with_transaction(&self) -> Option<Arc<str>> {
        let topics = self.lock();
        topics.held.iter().find(|topic| topics.has_transaction(topic)).cloned()
    }

    /// Returns once any topic is held.
    pub(super) async fn begun(&self) {
        let mut changed = self.changed.subscribe();
        while self.lock().held.is_empty() {
            let _ = changed.changed().await;
        }
    }

    /// Returns once nothing of the held topics is under way.
    pub(crate) async fn quiet(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_quiet() {
            let _ = changed.changed().await;
        }
    }

    /// Whether nothing is under way at all.
    pub(crate) fn is_empty(&self) -> bool {
        let topics = self.lock();
        topics.entered.is_empty() && topics.lost == 0
    }

    /// Connections were cut of whose requests nobody knows: they may still be appended within [`LOST`].
    pub(crate) fn lost(self: &Arc<Self>) {
        // Without a runtime there are no connections.
        let Ok(runtime) = Handle::try_current() else { return };
        self.lock().lost += 1;
        let holds = self.clone();
        runtime.spawn(async move {
            sleep(LOST).await;
            holds.lock().lost -= 1;
        });
    }

    /// Whether what such a connection has sent may still be appended.
    pub(crate) fn have_lost(&self) -> bool {
        self.lock().lost > 0
    }

    /// Whether something was sent to a broker and never answered, that may still be appended.
    pub(crate) fn are_late(&self) -> bool {
        self.lock().late > 0
    }

    /// Whether nothing of the held topics is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        let topics = self.lock();
        topics.held.iter().all(|topic| !topics.entered.contains_key(topic))
    }

    /// Whose requests of the held topics are under way, for people to read. `None`: nobody's.
    pub(crate) fn open(&self) -> Option<String> {
        let topics = self.lock();
        let of_topic = |topic| topics.entered.get(topic).into_iter().flatten().map(move |(from, count)| (topic, from, *count));
        let mut clients: Vec<(&Arc<str>, &Arc<Sender>, usize)> = topics.held.iter().flat_map(of_topic).collect();
        clients.sort_unstable_by_key(|(topic, from, _)| (*topic, &from.client_id, from.address));
        // Requests wait for the lock: no more is written than is shown.
        let shown = clients.iter().take(SHOWN);
        let mut open: Vec<_> =
            shown.map(|(topic, from, count)| format!("{count} of client {} at {} to {topic}", from.client_id, from.address)).collect();
        let more = clients.len() - open.len();
        open.extend((more > 0).then(|| format!("and those of {more} more")));
        (!open.is_empty()).then(|| open.join(", "))
    }

    fn leave(&self, topic: &Arc<str>, from: &Arc<Sender>) {
        let mut topics = self.lock();
        let Some(clients) = topics.entered.get_mut(topic) else { return };
        let Some(at) = clients.iter().position(|(client, _)| Arc::ptr_eq(client, from)) else { return };
        clients[at].1 -= 1;
        if clients[at].1 > 0 {
            return;
        }
        clients.swap_remove(at);
        if !clients.is_empty() {
            return;
        }
        topics.entered.remove(topic);
        if topics.held.contains(topic) {
            drop(topics);
            self.changed.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Topics {
    fn has_transaction(&self, topic: &str) -> bool {
        self.transactions.get(topic).is_some_and(|begun| begun.elapsed() < TRANSACTION)
    }
}

/// A request waits for a topic, until this is dropped.
struct Waits<'a> {
    holds: &'a Holds,
    since: Instant,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let longest_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut topics = self.holds.lock();
        topics.waiting -= 1;
        topics.waited.requests += 1;
        topics.waited.longest_ms = topics.waited.longest_ms.max(longest_ms);
    }
}

/// A request is in a topic, until this is dropped; if it is dropped between [`Entered::sent`] and [`Entered::answered`], for another [`LATE`].
#[derive(Debug)]
pub(super) struct Entered {
    holds: Arc<Holds>,
    topic: Arc<str>,
    from: Arc<Sender>,
    is_sent: bool,
}

impl Entered {
    /// A broker has got the whole request.
    pub(super) fn sent(&mut self) {
        self.is_sent = true;
    }

    /// The broker has answered, or has not got the whole.
    pub(super) fn answered(&mut self) {
        self.is_sent = false;
    }

    /// The same, and that was all.
    pub(super) fn ended(mut self) {
        self.answered();
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (holds, topic, from) = (self.holds.clone(), self.topic.clone(), self.from.clone());
        match Handle::try_current() {
            Ok(runtime) if self.is_sent => {
                holds.lock().late += 1;
                runtime.spawn(async move {
                    sleep(LATE).await;
                    holds.lock().late -= 1;
                    holds.leave(&topic, &from);
                });
            }
            _ => holds.leave(&topic, &from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn soon<T>(what: impl Future<Output = T>) -> Option<T> {
        timeout(Duration::from_millis(1), what).await.ok()
    }

    fn holds() -> (Arc<Holds>, Arc<Sender>) {
        let holds = Arc::new(Holds::default());
        holds.count();
        (holds, client())
    }

    fn client() -> Arc<Sender> {
        Arc::new(Sender::new("shop", Ipv4Addr::LOCALHOST.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_waits_and_the_others_go_on() {
        let (holds, client) = holds();
        holds.hold(["orders".into()]);
        assert!(soon(holds.quiet()).await.is_some());
        let mut waits = pin!(holds.enter("orders", &client, &[]));
        assert!(soon(&mut waits).await.is_none());
        assert!(soon(holds.enter("payments", &client, &[])).await.is_some());
        holds.hold([]);
        assert_eq!(holds.waited(), None);
        let entered = soon(waits).await.unwrap();
        assert_eq!(holds.waited().map(|waited| waited.requests), Some(1));
        holds.hold(["orders".into()]);
        assert!(soon(holds.quiet()).await.is_none());
        drop(entered);
        assert!(soon(holds.quiet()).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_that_was_begun_before_a_hold_is_seen_and_none_begins_in_one() {
        let (holds, _) = holds();
        assert!(holds.begin_transaction("orders"));
        holds.hold(["orders".into(), "items".into()]);
        assert_eq!(holds.held_with_transaction().as_deref(), Some("orders"));
        assert!(!holds.begin_transaction("items") && !holds.has_transaction("items"));
        assert!(holds.begin_transaction("logs") && holds.has_transaction("logs"));
        sleep(TRANSACTION).await;
        assert_eq!(holds.held_with_transaction(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn topics_of_transactions_are_forgotten_and_have_a_bound() {
        let (holds, _) = holds();
        let begun = |from: usize, to: usize| (from..to).filter(|number| holds.begin_transaction(&number.to_string())).count();
        assert_eq!(begun(0, TRANSACTIONS + 10), TRANSACTIONS);
        assert!(holds.begin_transaction("7"), "it is among them");
        sleep(TRANSACTION).await;
        assert_eq!(begun(TRANSACTIONS, 2 * TRANSACTIONS), TRANSACTIONS, "the others are over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_begun_in_a_held_topic_goes_on_to_its_end() {
        let (holds, client) = holds();
        let (orders, logs) =
            (soon(holds.enter("orders", &client, &[])).await.unwrap(), soon(holds.enter("logs", &client, &[])).await.unwrap());
        holds.hold(["orders".into(), "items".into()]);
        let (orders, logs) = ([orders.unwrap()], [logs.unwrap()]);
        assert!(soon(holds.enter("items", &client, &[&logs])).await.is_none());
        let items = soon(holds.enter("items", &client, &[&logs, &orders])).await.unwrap();
        assert_eq!(holds.open().unwrap(), "1 of client shop at 127.0.0.1 to items, 1 of client shop at 127.0.0.1 to orders");
        drop(orders);
        assert!(soon(holds.quiet()).await.is_none());
        drop(items);
        assert_eq!((holds.open(), soon(holds.quiet()).await), (None, Some(())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_and_never_answered_may_be_appended_late() {
        let (holds, client) = holds();
        let mut lost = holds.enter("orders", &client, &[]).await.unwrap();
        let mut answered = holds.enter("orders", &client, &[]).await.unwrap();
        lost.sent();
        answered.sent();
        answered.answered();
        holds.hold(["orders".into()]);
        drop((lost, answered));
        let waited = Instant::now();
        holds.quiet().await;
        assert_eq!(waited.elapsed().as_secs(), LATE.as_secs());
    }

    #[tokio::test]
    async fn without_decisions_nothing_is_counted() {
        let holds = Arc::new(Holds::default());
        assert!(holds.enter("orders", &client(), &[]).await.is_none());
    }
}
