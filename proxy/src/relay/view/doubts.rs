//! Whether a topic that a mirror would copy, and that only the mirror's target names, is the target's own or a copy.
//!
//! A cluster is asked for its topics at one broker. One that is cut off from its controller goes on to answer, with what it knew before: a topic that was
//! made since is missing in what it says, and its copy would be taken for a topic of the target's own, and be written. Nothing in an answer tells that
//! its broker lags, clients cannot ask a KRaft controller, and the mirror is another process. So in doubt several brokers of the source are asked, each for
//! these topics alone: whoever has one, it is a copy; only if more than half of them answer and none has it, it is the target's own. A broker that lags is
//! alone with it, or with few: those that are cut off from most others cannot outvote them. Until then the source is taken to have the topic.
//!
//! What no source has may still be a copy, whose topic was deleted: it is one if a mirror has written it ([`whose`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kferry_wire::client::{Client, Topics};
use kferry_wire::log::{Whose, whose};
use kferry_wire::places::Exists;
use tokio::time::{Instant, timeout};

use super::leaders::{Doubt, Settled};
use super::{Directory, Parts, View};

/// Brokers of a source that are asked, at most.
const MOST: usize = 10;

/// How long a broker has for its answer. Clients wait meanwhile.
const ANSWER: Duration = Duration::from_secs(2);

/// When the same is asked again, if too few have answered.
const AGAIN: Duration = Duration::from_secs(5);

/// What was asked, and when.
#[derive(Debug, Default)]
pub(super) struct Asked {
    at: Option<Instant>,
    doubts: HashSet<Doubt>,
}

impl Asked {
    fn is_due(&self, doubts: &HashSet<Doubt>, now: Instant) -> bool {
        let is_old = self.at.is_none_or(|at| now.duration_since(at) >= AGAIN);
        !doubts.is_empty() && (is_old || !doubts.is_subset(&self.doubts))
    }
}

impl View {
    /// Asks the sources about what is in doubt, unless somebody has a moment ago.
    pub(super) async fn look_into_doubts(&self, parts: &Parts) {
        let mut looked_into = self.looked_into.lock().await;
        // Whoever was first may have settled them.
        let leaders = self.leaders.load_full();
        let (doubts, began) = (leaders.doubts(), Instant::now());
        if !looked_into.is_due(doubts, began) {
            return;
        }
        let said = parts.ask_about(doubts).await;
        let mut settled = settle(doubts, &said);
        parts.find_copies(&mut settled).await;
        if !settled.copied.is_empty() {
            // Their source is about to be shown as their leader.
            join_all(parts.directories().map(Directory::ask_again)).await;
        }
        *looked_into = Asked { at: Some(began), doubts: doubts.clone() };
        self.work_out(|now| now.clone().and(&settled));
    }
}

/// What sources have of the topics that they were asked for, by the cluster's name.
type Said = BTreeMap<Arc<str>, Brokers>;

/// What the brokers of a source say that were asked for the same topics.
#[derive(Debug)]
struct Brokers {
    asked: usize,
    /// What those have that have answered.
    have: Vec<HashSet<Arc<str>>>,
}

impl Brokers {
    fn exists(&self, topic: &str) -> Exists {
        if self.have.iter().any(|has| has.contains(topic)) {
            Exists::Yes
        } else if self.have.len() * 2 > self.asked {
            Exists::No
        } else {
            Exists::Unknown
        }
    }
}

/// What is certain now of each topic: where several mirrors would copy it, it is the target's own only if no source has it.
fn settle(doubts: &HashSet<Doubt>, said: &Said) -> Settled {
    let mut topics: BTreeMap<&Arc<str>, Vec<Exists>> = BTreeMap::new();
    for Doubt { source, topic } in doubts {
        topics.entry(topic).or_default().push(said.get(source).map_or(Exists::Unknown, |brokers| brokers.exists(topic)));
    }
    let mut settled = Settled::default();
    for (topic, exists) in topics {
        if exists.contains(&Exists::Yes) {
            settled.copied.insert(topic.clone());
        } else if exists.iter().all(|exists| *exists == Exists::No) {
            settled.born.insert(topic.clone());
        }
    }
    settled
}

impl Parts {
    async fn ask_about(&self, doubts: &HashSet<Doubt>) -> Said {
        let mut topics: BTreeMap<&Arc<str>, Vec<&str>> = BTreeMap::new();
        for Doubt { source, topic } in doubts {
            topics.entry(source).or_default().push(topic);
        }
        let asking = topics.into_iter().map(async |(source, topics)| {
            let own = self.own(source)?;
            let listing = own.last().filter(|_| !own.is_away())?;
            let brokers: Vec<i32> = listing.metadata.brokers.iter().take(MOST).map(|broker| broker.node_id).collect();
            let have = join_all(brokers.iter().map(|node_id| has(own.client(), *node_id, &topics))).await;
            Some((source.clone(), Brokers { asked: brokers.len(), have: have.into_iter().flatten().collect() }))
        });
        join_all(asking).await.into_iter().flatten().collect()
    }

    /// Of what no source has: what a mirror has written is a copy. Nothing else makes it one, nor that kferry may not read it: then it is there to be used.
    async fn find_copies(&self, settled: &mut Settled) {
        let Settled { born, copied } = settled;
        let asking = self.clusters.iter().map(async |part| {
            let listing = part.own.last()?;
            let topics = listing.metadata.topics.iter().filter(|topic| born.contains(&topic.name));
            timeout(ANSWER, whose(part.own.client(), topics)).await.ok()
        });
        for (topic, whose) in join_all(asking).await.into_iter().flatten().flatten() {
            if matches!(whose, Ok(Whose::Copy)) {
                born.remove(&topic);
                copied.insert(topic);
            }
        }
    }
}

/// Which of these topics a broker has. One that kferry may not see is none that its mirror could copy. `None`: it does not answer.
async fn has(client: &Client, node_id: i32, topics: &[&str]) -> Option<HashSet<Arc<str>>> {
    let metadata = timeout(ANSWER, client.metadata_at(node_id, Topics::Named(topics))).await.ok()?.ok()?;
    let there = metadata.topics.into_iter().filter(|topic| {
        let is_missing = |error: &kferry_wire::client::ClientError| error.is_unknown_topic() || error.is_authorization();
        !topic.error.as_ref().is_some_and(is_missing)
    });
    Some(there.map(|topic| topic.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> HashSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn doubts(doubts: &[(&str, &str)]) -> HashSet<Doubt> {
        doubts.iter().map(|(source, topic)| Doubt { source: Arc::from(*source), topic: Arc::from(*topic) }).collect()
    }

    #[test]
    fn a_topic_is_the_targets_own_if_most_brokers_answer_and_none_has_it() {
        let cases: [(usize, &[&[&str]], Exists); 12] = [
            (1, &[&[]], Exists::No),
            (1, &[], Exists::Unknown),
            (0, &[], Exists::Unknown),
            // One that lags is not enough, and cannot outvote who knows better.
            (3, &[&[]], Exists::Unknown),
            (3, &[&[], &[]], Exists::No),
            (3, &[&[], &["orders"]], Exists::Yes),
            (3, &[&[], &[], &["orders", "other"]], Exists::Yes),
            (3, &[&["orders"]], Exists::Yes),
            (3, &[&["other"], &[]], Exists::No),
            (2, &[&[]], Exists::Unknown),
            (4, &[&[], &[]], Exists::Unknown),
            (10, &[&[], &[], &[], &[], &[], &[]], Exists::No),
        ];
        for (asked, have, expected) in cases {
            let brokers = Brokers { asked, have: have.iter().map(|has| names(has)).collect() };
            assert_eq!(brokers.exists("orders"), expected, "{brokers:?}");
        }
    }

    #[test]
    fn what_no_source_has_was_born_and_what_one_has_is_a_copy() {
        let lacks = || Brokers { asked: 1, have: vec![HashSet::new()] };
        let has = || Brokers { asked: 1, have: vec![names(&["orders"])] };
        let silent = || Brokers { asked: 1, have: Vec::new() };
        let [nothing, orders]: [&[&str]; 2] = [&[], &["orders"]];
        for (said, born, copied) in [
            (vec![("one", lacks()), ("two", lacks())], orders, nothing),
            (vec![("one", lacks()), ("two", has())], nothing, orders),
            (vec![("one", silent()), ("two", has())], nothing, orders),
            (vec![("one", lacks()), ("two", silent())], nothing, nothing),
            (vec![("one", lacks())], nothing, nothing),
        ] {
            let said: Said = said.into_iter().map(|(source, brokers)| (Arc::from(source), brokers)).collect();
            let settled = settle(&doubts(&[("one", "orders"), ("two", "orders")]), &said);
            assert_eq!((settled.born, settled.copied), (names(born), names(copied)), "{said:?}");
        }
        let settled = settle(&doubts(&[("one", "orders"), ("one", "payments")]), &BTreeMap::from([(Arc::from("one"), has())]));
        assert_eq!((settled.born, settled.copied), (names(&["payments"]), names(&["orders"])));
    }

    #[test]
    fn the_same_is_asked_again_only_after_a_while() {
        let now = Instant::now();
        let (one, both) = (doubts(&[("one", "orders")]), doubts(&[("one", "orders"), ("one", "payments")]));
        assert!(Asked::default().is_due(&one, now) && !Asked::default().is_due(&HashSet::new(), now));
        let asked = Asked { at: Some(now), doubts: one.clone() };
        assert!(!asked.is_due(&one, now + AGAIN - Duration::from_millis(1)) && asked.is_due(&one, now + AGAIN));
        assert!(asked.is_due(&both, now));
    }
}
