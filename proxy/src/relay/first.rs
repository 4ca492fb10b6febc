//! The first batch of each producer at a cluster that leads since a decision: [`judge`] says whether it is the one that is due; here the leaders are asked for what that
//! needs to know, once for each partition and term, by whichever connection comes first.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use kferry_wire::batch::stamp::{self, unstamped};
use kferry_wire::batch::{Sequence, Sequences};
use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::log::first_batch::{ASK_AGAIN, Flipped, Missing, Producers, Verdict, WATCHED, judge};
use kferry_wire::places::Led;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::masks::NOT_LEADER_OR_FOLLOWER;

/// How long a batch that is not the one that is due waits for those before it. They may have to come on the same connection, behind it: so not for long.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a leader may take to say what it knows of producers.
const ANSWER: Duration = Duration::from_secs(1);

/// How long at the least, when other batches of the request have waited for that: a leader that hangs must not keep a request with many batches longer than
/// its client waits.
const LEAST: Duration = Duration::from_millis(100);

/// What the proxy knows of producers at leaders that have changed.
#[derive(Debug, Default)]
pub(crate) struct FirstBatches(Arc<Mutex<Partitions>>);

/// Those whose topics have changed their leader within [`WATCHED`].
type Partitions = HashMap<TopicPartition, Arc<Watched>>;

/// A partition, in one term.
#[derive(Debug)]
struct Watched {
    term: i32,
    known: Mutex<Known>,
    /// Told when more is known.
    changed: Notify,
    /// Locked while a leader is asked.
    asking: tokio::sync::Mutex<()>,
}

/// What leaders know of producers.
#[derive(Debug, Default)]
struct Known {
    new_leader: Option<Producers>,
    old_leader: Option<Producers>,
    /// When the new leader was asked last, and the old one.
    asked: Option<Instant>,
    asked_old: Option<Instant>,
    /// Producers of which a first batch is on its way.
    on_its_way: HashSet<i64>,
}

/// The term of a topic that has changed its leader, and the clusters, with kferry's own login.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub led: Led,
    /// Of the cluster that leads, and of the one that led before. `None`: it has left the view, or the old one does not answer.
    pub new_leader: Option<Client>,
    pub old_leader: Option<Client>,
}

/// What becomes of a batch.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It is sent to the leader, stamped.
    Passes,
    /// So is this one, and others wait for the leader's answer.
    IsFirst(First),
    /// It is not sent: the client is told this error, with base offset -1.
    Answered(i16),
}

/// The first batch of a producer on a partition in a term, on its way to the leader until this is dropped. The producer's other batches wait for that: to a leader
/// that does not append this one the next would be the first.
#[derive(Debug)]
pub(super) struct First {
    pub partition: TopicPartition,
    batch: Sequences,
    watched: Arc<Watched>,
}

impl First {
    /// The leader has answered it with 0.
    pub(super) fn appended(&self) {
        if let Some(new_leader) = &mut self.watched.lock().new_leader {
            new_leader.appended(&self.batch, self.watched.term);
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.watched.lock().on_its_way.remove(&self.batch.first.producer_id);
        self.watched.changed.notify_waiters();
    }
}

/// Kafka's `NONE`
const NONE: i16 = 0;
/// Kafka's `INVALID_PRODUCER_EPOCH`
const INVALID_PRODUCER_EPOCH: i16 = 47;

impl Term {
    /// How long ago it began.
    fn since(&self) -> Duration {
        let ms = Timestamp::now().as_millisecond().saturating_sub(self.led.since);
        Duration::from_millis(ms.try_into().unwrap_or(0))
    }

    /// Writes the term into the producer id of a batch of which this is the front. Returns whether anything has changed.
    pub(super) fn stamp(&self, front: &mut [u8; Sequence::FRONT]) -> bool {
        stamp::stamp(front, self.led.term)
    }
}

/// Records with the topic's term in their producer id.
pub(super) fn stamped(term: Option<&Term>, records: Bytes) -> Bytes {
    let (Some(term), Some(mut front)) = (term, records.first_chunk().copied()) else { return records };
    if !term.stamp(&mut front) {
        return records;
    }
    let mut stamped = BytesMut::with_capacity(records.len());
    stamped.extend_from_slice(&front);
    stamped.extend_from_slice(&records[front.len()..]);
    stamped.freeze()
}

impl FirstBatches {
    /// Says whether a batch goes to the leader of its partition, and waits as long as that may take. `front`: of the batch, as the client has it. `before`: how
    /// long batches of its request have waited here. This one has waited as long; but what is known of its partition may be old, or nothing yet, so the
    /// leaders are asked once for each, and have less time the longer the others have waited.
    pub(super) async fn admit(&self, partition: &TopicPartition, term: &Term, front: &[u8], before: Duration) -> Admitted {
        let since = term.since();
        let Some(batch) = Sequences::peek(front).filter(|_| since < WATCHED) else { return Admitted::Passes };
        let watched = self.watched(partition, term.led.term, WATCHED.saturating_sub(since));
        let (began, mut is_asked) = (Instant::now(), false);
        let so_far = || before + began.elapsed();
        loop {
            let changed = watched.changed.notified();
            let waited = if is_asked { so_far() } else { Duration::ZERO };
            let verdict = {
                let mut known = watched.lock();
                let flipped =
                    Flipped { term: term.led.term, since, new_leader: known.new_leader.as_ref(), old_leader: known.old_leader.as_ref() };
                let has_begun =
                    |producers: &Producers| unstamped(batch.first.producer_id).is_some_and(|(id, _)| producers.know(id, term.led.term));
                let is_known = known.new_leader.as_ref().is_some_and(has_begun);
                match judge(&batch, &flipped, waited, PATIENCE) {
                    Verdict::Pass if !is_known && known.on_its_way.contains(&batch.first.producer_id) => {
                        if waited >= PATIENCE {
                            Verdict::NotLeaderOrFollower(Missing::Earlier)
                        } else {
                            Verdict::Wait { what: Missing::Earlier, until: PATIENCE }
                        }
                    }
                    Verdict::Pass if !is_known => {
                        known.on_its_way.insert(batch.first.producer_id);
                        drop(known);
                        return Admitted::IsFirst(First { partition: partition.clone(), batch, watched: watched.clone() });
                    }
                    verdict => verdict,
                }
            };
            match verdict {
                Verdict::Pass => return Admitted::Passes,
                Verdict::IsThere => return Admitted::Answered(NONE),
                Verdict::InvalidProducerEpoch => return Admitted::Answered(INVALID_PRODUCER_EPOCH),
                Verdict::NotLeaderOrFollower(missing) => {
                    debug!(%partition, ?missing, producer_id = batch.first.producer_id, "a batch is not the one that is due");
                    return Admitted::Answered(NOT_LEADER_OR_FOLLOWER);
                }
                Verdict::Wait { what, until } => {
                    let limit = PATIENCE.saturating_sub(so_far()).clamp(LEAST, ANSWER);
                    let is_news = watched.ask(partition, term, what, limit).await;
                    // Of the old leader only when the new one is known.
                    is_asked |= what != Missing::NewLeader || !is_news;
                    if is_news {
                        continue;
                    }
                    tokio::select! {
                        () = changed => {}
                        () = sleep(until.saturating_sub(so_far())) => {}
                    }
                }
            }
        }
    }

    /// What is known of a partition in a term, which is watched for `left`.
    fn watched(&self, partition: &TopicPartition, term: i32, left: Duration) -> Arc<Watched> {
        let mut partitions = lock(&self.0);
        if let Some(watched) = partitions.get(partition).filter(|watched| watched.term == term) {
            return watched.clone();
        }
        let (known, changed, asking) = (Mutex::default(), Notify::new(), tokio::sync::Mutex::default());
        let watched = Arc::new(Watched { term, known, changed, asking });
        // What is known of the term before is forgotten.
        partitions.insert(partition.clone(), watched.clone());
        let (partitions, partition) = (self.0.clone(), partition.clone());
        tokio::spawn(async move {
            sleep(left).await;
            if let Entry::Occupied(last) = lock(&partitions).entry(partition)
                && last.get().term == term
            {
                last.remove();
            }
        });
        watched
    }
}

fn lock(partitions: &Mutex<Partitions>) -> MutexGuard<'_, Partitions> {
    partitions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    /// Asks a leader for what is missing, unless somebody has a moment ago. Returns whether something is known now that was not. `limit`: for the answer.
    async fn ask(&self, partition: &TopicPartition, term: &Term, missing: Missing, limit: Duration) -> bool {
        let began = Instant::now();
        let Ok(_asking) = timeout(limit, self.asking.lock()).await else { return false };
        {
            let known = self.lock();
            let has_come = match missing {
                Missing::OldLeader => known.old_leader.is_some(),
                Missing::NewLeader | Missing::Earlier | Missing::Any => {
                    known.asked.is_some_and(|asked| asked > began && known.new_leader.is_some())
                }
            };
            if has_come {
                return true;
            }
            let asked = if missing == Missing::OldLeader { known.asked_old } else { known.asked };
            if asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
                return false;
            }
        }
        let client = if missing == Missing::OldLeader { &term.old_leader } else { &term.new_leader };
        let Some(client) = client else { return false };
        let answered = timeout(limit, client.describe_producers(&partition.topic, partition.partition)).await;
        let mut known = self.lock();
        let asked = if missing == Missing::OldLeader { &mut known.asked_old } else { &mut known.asked };
        *asked = Some(Instant::now());
        let producers: Producers = match answered {
            Ok(Ok(producers)) => producers.iter().collect(),
            Ok(Err(error)) => {
                debug!(%partition, cluster = &*client.cluster().name, %error, "the producers of a partition are not known");
                return false;
            }
            Err(_) => return false,
        };
        let of = if missing == Missing::OldLeader { &mut known.old_leader } else { &mut known.new_leader };
        let is_news = of.as_ref() != Some(&producers);
        *of = Some(producers);
        drop(known);
        self.changed.notify_waiters();
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_leaders_know_is_forgotten_when_it_is_watched_no_more() {
        let (firsts, orders) = (FirstBatches::default(), TopicPartition::new("orders", 0));
        firsts.watched(&orders, 2, Duration::from_secs(10));
        let watched = firsts.watched(&orders, 3, Duration::from_secs(20));
        sleep(Duration::from_secs(15)).await;
        // The term before had its end; this one has not.
        assert!(Arc::ptr_eq(&watched, &firsts.watched(&orders, 3, Duration::from_secs(5))));
        sleep(Duration::from_secs(6)).await;
        assert!(lock(&firsts.0).is_empty());
    }
}
