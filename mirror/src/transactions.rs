//! Open transactions on the cluster that leads, and what they hold up.
//!
//! The mirror reads as a consumer with `read_committed` does: up to the *last stable offset*, where the first open transaction begins. Transactions of
//! applications that work are over in a moment. One that was left open, or that *hangs* because no coordinator knows of it any more, holds the last
//! stable offset where it is for as long as nobody ends it, and whatever is written behind it is not copied: without lag, since there is nothing to read.
//! So where the last stable offset stands still below the high watermark for [`LONG`], the cluster is asked whose transaction it is.
//!
//! # References
//! - KIP-664: DescribeProducers tells the producer id (brokers since 2.8), ListTransactions and DescribeTransactions the rest (since 3.0)

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kferry_wire::admin::partitions::ActiveProducer;
use kferry_wire::admin::transactions::DescribedTransaction;
use kferry_wire::client::{Client, TopicPartition};
use serde::Serialize;

/// How long a last stable offset may stand still below the high watermark until somebody should hear of it.
pub const LONG: Duration = Duration::from_mins(1);
/// How long a cluster may take to say whose a transaction is.
const PATIENCE: Duration = Duration::from_secs(15);

/// Offsets of a leader that wait for an open transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unstable {
    /// The last stable offset, where the transaction begins.
    pub from: i64,
    /// The high watermark, where the log ends for consumers with `read_uncommitted`.
    pub to: i64,
    /// Since when this process has found the last stable offset at `from`.
    pub since: Instant,
    /// Whose transaction it is, or why that is not known; `None` before the cluster was asked.
    pub whose: Option<Whose>,
}

/// Whose transaction holds a last stable offset; `Err` is why that is not known.
pub type Whose = Result<OpenTransaction, String>;

/// An open transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenTransaction {
    /// The producer's id, by the partition's leader.
    pub producer_id: i64,
    /// The largest timestamp of what it wrote last to the partition, in ms since 1970; -1 is none.
    pub last_timestamp: i64,
    /// What its coordinator says; `None` if no coordinator tells of it.
    pub coordinator: Option<Coordinated>,
    /// Why nothing more is known of it.
    pub unknown: Option<String>,
}

/// A transaction, as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coordinated {
    /// `transactional.id`
    pub transactional_id: String,
    /// `Ongoing`, `PrepareCommit`, …; `None` if the mirror may not know.
    pub state: Option<String>,
    /// When it began, in ms since 1970.
    pub began: Option<i64>,
    /// `transaction.timeout.ms`, after which the coordinator aborts it.
    pub timeout_ms: Option<u64>,
}

impl Unstable {
    /// What waits in a leader's log after a look at it, where `before` waited until then.
    pub fn after(before: Option<Self>, last_stable_offset: i64, high_watermark: i64, now: Instant) -> Option<Self> {
        if high_watermark <= last_stable_offset {
            return None;
        }
        let same = before.filter(|before| before.from == last_stable_offset);
        let (since, whose) = same.map_or((now, None), |before| (before.since, before.whose));
        Some(Self { from: last_stable_offset, to: high_watermark, since, whose })
    }

    /// How many offsets wait, with or without a record.
    pub fn offsets(&self) -> i64 {
        self.to - self.from
    }

    /// Whether they wait for longer than an application that works lets them.
    pub fn is_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= LONG
    }

    /// What waits and for whom, in words for an operator. `now` is in ms since 1970.
    pub fn told(&self, now: i64) -> String {
        told(self.from, self.to, self.whose.as_ref(), now)
    }
}

impl OpenTransaction {
    /// Whether it is open for longer than an application that works leaves one: so its coordinator says, or nobody knows when it began. `now` is in ms
    /// since 1970.
    pub fn is_long(&self, now: i64) -> bool {
        let began = self.coordinator.as_ref().and_then(|known| known.began);
        began.is_none_or(|began| now.saturating_sub(began) >= LONG.as_millis() as i64)
    }
}

/// What waits in a leader's log from its last stable offset up to its high watermark, and for whom, in words for an operator. `now` is in ms since 1970.
pub fn told(last_stable_offset: i64, high_watermark: i64, whose: Option<&Whose>, now: i64) -> String {
    let whose = match whose {
        None => String::new(),
        Some(Err(why)) => format!(" Whose it is, is not known: {why}."),
        Some(Ok(transaction)) => format!(" {}", of(transaction, last_stable_offset, now)),
    };
    format!(
        "a transaction is open at offset {last_stable_offset} of the leader, and what is behind it, up to {high_watermark}, is copied when it is over.{whose}"
    )
}

fn of(transaction: &OpenTransaction, start: i64, now: i64) -> String {
    let OpenTransaction { producer_id, last_timestamp, coordinator, unknown } = transaction;
    let seconds = |since: i64| now.saturating_sub(since).max(0) / 1_000;
    if let Some(Coordinated { transactional_id, state, began, timeout_ms }) = coordinator {
        let state = state.as_ref().map_or_else(String::new, |state| format!(", {state}"));
        let began = began.map_or_else(String::new, |began| format!(" for {} s", seconds(began)));
        let timeout = timeout_ms.map_or_else(String::new, |timeout| format!("; its coordinator aborts it after {} s", timeout / 1_000));
        return format!(
            "It is of transactional id {transactional_id:?} (producer id {producer_id}{state}), open{began}{timeout}. Have its application end it, or end \
             it with kafka-transactions.sh abort --start-offset {start}"
        );
    }
    let last =
        if *last_timestamp >= 0 { format!(", whose last record there is {} s old", seconds(*last_timestamp)) } else { String::new() };
    let unknown = unknown
        .as_deref()
        .unwrap_or("no coordinator knows of it, so it hangs; or its transactional id needs a grant of Describe to be seen");
    format!("It is of producer id {producer_id}{last}; {unknown}. kafka-transactions.sh abort --start-offset {start} ends it")
}

/// Asks the cluster that leads these partitions whose transaction is the first open one of each.
pub async fn whose(client: &Client, partitions: &[TopicPartition]) -> BTreeMap<TopicPartition, Whose> {
    let client = client.within(PATIENCE);
    let producers = client.producers_of(partitions).await;
    let first: BTreeMap<_, _> = producers.into_iter().map(|(partition, producers)| (partition, producers.map(|all| first(&all)))).collect();
    let ids: BTreeSet<i64> = first.values().flatten().flatten().map(|producer| producer.producer_id).collect();
    let coordinators = if ids.is_empty() { Ok(BTreeMap::new()) } else { coordinators(&client, &ids).await };
    let whose = first.into_iter().map(|(partition, first)| {
        let whose = match first {
            Err(error) => Err(error.to_string()),
            Ok(None) => Err("its leader knows of no open transaction there".to_owned()),
            Ok(Some(producer)) => Ok(OpenTransaction {
                producer_id: producer.producer_id,
                last_timestamp: producer.last_timestamp,
                coordinator: coordinators.as_ref().ok().and_then(|known| known.get(&producer.producer_id)).cloned(),
                unknown: coordinators.as_ref().err().cloned(),
            }),
        };
        (partition, whose)
    });
    whose.collect()
}

/// The producer whose open transaction began first.
fn first(producers: &[ActiveProducer]) -> Option<ActiveProducer> {
    let open = producers.iter().filter(|producer| producer.current_txn_start_offset.is_some());
    open.min_by_key(|producer| producer.current_txn_start_offset).copied()
}

/// What coordinators say of the transactions of these producer ids. `Err` is why none was asked.
async fn coordinators(client: &Client, producer_ids: &BTreeSet<i64>) -> Result<BTreeMap<i64, Coordinated>, String> {
    let ids: Vec<i64> = producer_ids.iter().copied().collect();
    let listed = client.list_transactions(&[], &ids).await.map_err(|error| error.to_string())?;
    let names: Vec<&str> = listed.iter().map(|listed| listed.transactional_id.as_str()).collect();
    let mut described = client.describe_transactions(&names).await;
    let known = listed.iter().map(|listed| {
        let described: Option<DescribedTransaction> = described.remove(&listed.transactional_id).and_then(Result::ok);
        let coordinated = Coordinated {
            transactional_id: listed.transactional_id.clone(),
            state: described.as_ref().map(|described| described.state.clone()),
            began: described.as_ref().and_then(|described| described.began),
            timeout_ms: described.as_ref().map(|described| described.timeout.as_millis() as u64),
        };
        (listed.producer_id, coordinated)
    });
    Ok(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_counts_from_where_the_last_stable_offset_stands_still() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(Unstable::after(None, 10, 10, began), None);
        let first = Unstable::after(None, 10, 20, began).unwrap();
        assert_eq!((first.from, first.to, first.offsets(), first.since), (10, 20, 10, began));
        // More is written behind it: it stands still all the same, and who was found to hold it does so still.
        let known = Unstable { whose: Some(Err("nobody".to_owned())), ..first };
        let longer = Unstable::after(Some(known), 10, 500, at(59)).unwrap();
        assert_eq!((longer.offsets(), longer.since, longer.whose.is_some()), (490, began, true));
        assert!(!longer.is_long(at(59)) && longer.is_long(at(60)));
        // Another transaction holds it now.
        let other = Unstable::after(Some(longer.clone()), 400, 500, at(61)).unwrap();
        assert_eq!((other.since, other.whose), (at(61), None));
        assert_eq!(Unstable::after(Some(longer), 500, 500, at(61)), None);
    }

    #[test]
    fn the_first_open_transaction_holds_the_offset() {
        let producer = |producer_id, current_txn_start_offset| ActiveProducer {
            producer_id,
            producer_epoch: 0,
            last_sequence: 0,
            last_timestamp: 0,
            coordinator_epoch: 0,
            current_txn_start_offset,
        };
        let producers = [producer(1, None), producer(2, Some(30)), producer(3, Some(20))];
        assert_eq!(first(&producers).map(|producer| producer.producer_id), Some(3));
        assert_eq!(first(&producers[..1]), None);
    }

    #[test]
    fn what_is_known_of_it_is_told_and_what_to_do() {
        let known = Coordinated {
            transactional_id: "payments-1".to_owned(),
            state: Some("Ongoing".to_owned()),
            began: Some(5_000),
            timeout_ms: Some(900_000),
        };
        let mut transaction = OpenTransaction { producer_id: 7, last_timestamp: 10_000, coordinator: Some(known), unknown: None };
        assert_eq!(
            told(100, 300, Some(&Ok(transaction.clone())), 80_000),
            "a transaction is open at offset 100 of the leader, and what is behind it, up to 300, is copied when it is over. It is of transactional id \
             \"payments-1\" (producer id 7, Ongoing), open for 75 s; its coordinator aborts it after 900 s. Have its application end it, or end it with \
             kafka-transactions.sh abort --start-offset 100"
        );
        assert!(transaction.is_long(65_000) && !transaction.is_long(64_999));
        transaction.coordinator = None;
        let text = told(100, 300, Some(&Ok(transaction.clone())), 80_000);
        assert!(text.contains("producer id 7, whose last record there is 70 s old; no coordinator knows of it"), "{text}");
        assert!(transaction.is_long(0), "nobody knows when it began");
        let text = told(100, 300, Some(&Err("brokers before 2.8".to_owned())), 80_000);
        assert!(text.ends_with("is copied when it is over. Whose it is, is not known: brokers before 2.8."), "{text}");
    }
}
