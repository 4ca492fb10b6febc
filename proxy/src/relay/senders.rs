//! Whose records they are: the connections of a client come from one address under one `client.id`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// How long a client's first Metadata after a change of leaders may wait for what it has sent before.
const LONGEST: Duration = Duration::from_millis(500);

/// Before connections are asked whether they have anything: tokio looks at its sockets before its timers, so that when this is over it knows of all that had
/// arrived when it began.
const SHORTEST: Duration = Duration::from_millis(1);

/// How long who sends a topic to another cluster than before may wait for what was sent before: shorter than clients wait for an answer, mostly 30 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a connection that has something may stand still: its client has stopped in the middle of a request, or its broker hangs, and that must not keep others
/// waiting.
pub(super) const STILL: Duration = Duration::from_secs(5);

/// How long after the last batch of a topic that was sent to a cluster others may still be on their way there.
const RECENTLY: Duration = Duration::from_secs(5);

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
    inflows: Mutex<Vec<Arc<Inflow>>>,
    /// Told when a connection has nothing that is to be read, if it was asked, and when it has ended.
    told: Notify,
    /// The change of leaders at which a Metadata has waited last.
    waited: AtomicU64,
    /// To which clusters something of each topic was sent lately, and when it was last.
    sent: Mutex<HashMap<Box<str>, Vec<Sent>>>,
}

/// A cluster, and when something was sent there last.
type Sent = (Arc<str>, Instant);

/// What a client sends on one of its connections.
#[derive(Debug)]
struct Inflow {
    /// To which cluster.
    cluster: Arc<str>,
    /// Who reads it.
    reader: AtomicWaker,
    /// How often it was asked whether there is anything to be read.
    asked: AtomicU64,
    /// Of these questions, the last one at which there was nothing.
    empty: AtomicU64,
    /// How many requests were read.
    requests: AtomicU64,
    /// It was waited for, in vain, and has not been empty since: nobody waits for it again before it is.
    is_given_up: AtomicBool,
}

/// A connection that was asked, by which question, and how many requests had been read by then.
struct Asked {
    inflow: Arc<Inflow>,
    question: u64,
    requests: u64,
}

impl Inflow {
    fn ask(self: &Arc<Self>) -> Asked {
        let requests = self.requests.load(Ordering::Relaxed);
        let question = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.reader.wake();
        Asked { inflow: self.clone(), question, requests }
    }
}

impl PartialEq for Sender {
    fn eq(&self, other: &Self) -> bool {
        self.client_id == other.client_id && self.address == other.address
    }
}

impl Sender {
    pub(crate) fn new(client_id: &str, address: IpAddr) -> Self {
        Self {
            client_id: client_id.to_owned(),
            address,
            inflows: Mutex::default(),
            told: Notify::new(),
            waited: AtomicU64::new(0),
            sent: Mutex::default(),
        }
    }

    /// One more connection of the client to a cluster, until what is returned is dropped.
    pub(super) fn connected(self: &Arc<Self>, cluster: &Arc<str>) -> Sending {
        let inflow = Inflow {
            cluster: cluster.clone(),
            reader: AtomicWaker::new(),
            asked: AtomicU64::new(0),
            empty: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            is_given_up: AtomicBool::new(false),
        };
        let sending = Sending { sender: self.clone(), inflow: Arc::new(inflow) };
        self.lock().push(sending.inflow.clone());
        sending
    }

    /// Waits, once for each change of leaders, until what the client has sent on all of its connections is on its way: who hears of the new leader before
    /// that may send it something that overtakes. `change`: the number of the last one, 0 before the first.
    pub(super) async fn caught_up(&self, change: u64) {
        if self.waited.swap(change, Ordering::SeqCst) != change {
            self.read_empty(LONGEST, |_| true).await;
        }
    }

    /// Something of a topic was sent to a cluster. Returns whether something of it was sent to another one not long ago.
    pub(super) fn sends(&self, topic: &str, cluster: &Arc<str>) -> bool {
        let now = Instant::now();
        let is_recent = |(_, last): &Sent| now.duration_since(*last) < RECENTLY;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clusters) = sent.get_mut(topic) {
            match clusters.iter_mut().find(|(name, _)| name == cluster) {
                Some((_, last)) => *last = now,
                None => clusters.push((cluster.clone(), now)),
            }
            return clusters.iter().any(|one| one.0 != *cluster && is_recent(one));
        }
        if sent.len() == sent.capacity() {
            sent.retain(|_, clusters| clusters.iter().any(is_recent));
        }
        sent.insert(topic.into(), vec![(cluster.clone(), now)]);
        false
    }

    /// Waits, for as long as [`PATIENCE`], until what the client has sent to other clusters by now is on its way. After that it is as at an election.
    pub(super) async fn others_read(&self, cluster: &Arc<str>) {
        let waits = |inflow: &Inflow| inflow.cluster != *cluster && !inflow.is_given_up.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.read_empty(STILL, waits).await;
            if left.is_empty() {
                return;
            }
            for Asked { inflow, requests, .. } in left {
                let stands = inflow.requests.load(Ordering::Relaxed) == requests;
                inflow.is_given_up.store(stands || Instant::now() >= deadline, Ordering::Relaxed);
            }
        }
    }

    /// Waits, for as long as `time`, until all that has arrived on some of the client's connections by now was read and is on its way. Returns those where it was not.
    async fn read_empty(&self, time: Duration, of: impl Fn(&Inflow) -> bool) -> Vec<Asked> {
        if !self.lock().iter().any(|inflow| of(inflow)) {
            return Vec::new();
        }
        sleep(SHORTEST).await;
        let mut asked: Vec<_> = self.lock().iter().filter(|inflow| of(inflow)).map(Inflow::ask).collect();
        let all_empty = async {
            loop {
                let told = self.told.notified();
                asked.retain(|Asked { inflow, question, .. }| inflow.empty.load(Ordering::SeqCst) < *question);
                if asked.is_empty() {
                    return;
                }
                told.await;
            }
        };
        let _ = timeout(time, all_empty).await;
        asked
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Inflow>>> {
        self.inflows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Sender::connected`].
#[derive(Debug)]
pub(super) struct Sending {
    sender: Arc<Sender>,
    inflow: Arc<Inflow>,
}

impl Sending {
    /// A request was read.
    pub(super) fn reads(&self) {
        self.inflow.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Told by who reads the connection, of whose task this is the context: it has passed on all that it has read, and there is nothing more. The task is woken
    /// when this is asked again.
    pub(super) fn is_empty(&self, context: &Context<'_>) {
        let Inflow { reader, asked, empty, is_given_up, .. } = &*self.inflow;
        is_given_up.store(false, Ordering::Relaxed);
        reader.register(context.waker());
        let question = asked.load(Ordering::SeqCst);
        if empty.swap(question, Ordering::SeqCst) != question {
            self.sender.told.notify_waiters();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.sender.lock().retain(|inflow| !Arc::ptr_eq(inflow, &self.inflow));
        self.inflow.empty.store(u64::MAX, Ordering::SeqCst);
        self.sender.told.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::task::Poll;

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

    /// Reads a connection on which there is something until `busy` is over, and nothing from then on.
    async fn read(sending: Sending, busy: Duration) {
        sleep(busy).await;
        poll_fn(|context| {
            sending.is_empty(context);
            Poll::<()>::Pending
        })
        .await;
    }

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_first_metadata_after_a_change_waits_for_what_was_sent_before_and_not_for_ever() {
        let sender = Senders::default().of("one", ADDRESS);
        let waits = async |change| {
            let began = Instant::now();
            sender.caught_up(change).await;
            began.elapsed()
        };
        assert_eq!(waits(0).await, Duration::ZERO);
        assert_eq!(waits(1).await, Duration::ZERO, "it has no connections");
        let readers = ["legacy", "new"].map(|cluster| tokio::spawn(read(sender.connected(&cluster.into()), 80 * MS)));
        assert_eq!(waits(2).await, 80 * MS);
        assert_eq!((waits(2).await, waits(3).await), (Duration::ZERO, SHORTEST));
        let stuck = sender.connected(&"legacy".into());
        assert_eq!((waits(4).await, waits(4).await), (LONGEST + SHORTEST, Duration::ZERO));
        tokio::spawn(async move {
            sleep(30 * MS).await;
            drop(stuck);
        });
        assert_eq!(waits(5).await, 30 * MS);
        for reader in readers {
            reader.abort();
        }
        assert_eq!(waits(6).await, SHORTEST);
        assert!(sender.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_topic_to_another_cluster_waits_for_what_was_sent_before() {
        let sender = Senders::default().of("one", ADDRESS);
        let (legacy, new): (Arc<str>, Arc<str>) = ("legacy".into(), "new".into());
        let waits = async || {
            let began = Instant::now();
            sender.others_read(&new).await;
            began.elapsed()
        };
        let _itself = sender.connected(&new);
        assert_eq!(waits().await, Duration::ZERO);
        let reader = tokio::spawn(read(sender.connected(&legacy), 80 * MS));
        assert_eq!((waits().await, waits().await), (80 * MS, SHORTEST));
        reader.abort();
        // Its client has stopped in the middle of a request, or is very far ahead: others wait for that once, until it has been empty.
        let stuck = sender.connected(&legacy);
        assert_eq!((waits().await, waits().await), (STILL + SHORTEST, Duration::ZERO));
        let reader = tokio::spawn(read(stuck, Duration::ZERO));
        sleep(MS).await;
        assert_eq!(waits().await, SHORTEST);
        reader.abort();
        let busy = sender.connected(&legacy);
        tokio::spawn(async move {
            loop {
                busy.reads();
                sleep(STILL / 2).await;
            }
        });
        sleep(MS).await;
        let (first, second) = (waits().await, waits().await);
        assert!(first >= PATIENCE && first < PATIENCE + 2 * STILL && second == Duration::ZERO, "{first:?} {second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn to_which_clusters_a_topic_was_sent_lately_is_known() {
        let sender = Sender::new("one", ADDRESS);
        let (legacy, new): (Arc<str>, Arc<str>) = ("legacy".into(), "new".into());
        assert!(!sender.sends("orders", &legacy) && !sender.sends("orders", &legacy) && !sender.sends("payments", &new));
        assert!(sender.sends("orders", &new) && sender.sends("orders", &legacy));
        sleep(RECENTLY).await;
        assert!(!sender.sends("orders", &new) && !sender.sends("orders", &new));
        for n in 0..1_000 {
            sender.sends(&format!("orders-{n}"), &new);
            sleep(RECENTLY / 10).await;
        }
        assert!(sender.sent.lock().unwrap().len() < 50);
    }
}
