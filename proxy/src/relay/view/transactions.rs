//! Transactional ids, described where they are known.
//!
//! A transactional id is coordinated at the home of whoever uses it. So each broker lists those that it coordinates, whichever home asks, and a
//! description is looked for on all clusters: `kafka-transactions.sh find-hanging` takes an open transaction whose id nobody lists or describes for one
//! that hangs, and what an operator then aborts would have been committed.
//!
//! # References
//! - `TransactionsCommand.FindHangingTransactionsCommand`; KIP-664

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TopicName, TransactionalId};
use kafka_protocol::protocol::StrBytes;
use kferry_wire::admin::transactions::DescribedTransaction;
use kferry_wire::client::{Answers, ClientError};

use super::directory::PATIENCE;
use super::{Part, View};
use crate::ending::Cause;
use crate::relay::request::RequestHead;

/// Of one cluster: `None` if it does not answer.
type Known<'a> = Option<&'a Result<DescribedTransaction, ClientError>>;

pub(super) async fn describe(view: &View, head: RequestHead, body: &[u8]) -> Result<Vec<u8>, Cause> {
    let request: DescribeTransactionsRequest = head.decode(head.api.request, body)?;
    let ids: BTreeSet<&str> = request.transactional_ids.iter().map(|id| id.as_str()).collect();
    let ids: Vec<&str> = ids.into_iter().collect();
    let parts = view.parts();
    let known = join_all(parts.clusters.iter().map(|part| part.transactions(&ids))).await;
    let states = ids.iter().map(|id| told(id, known.iter().map(|known| known.get(*id)))).collect();
    head.encode(&DescribeTransactionsResponse::default().with_transaction_states(states))
}

impl Part {
    /// With the route's login. What is not there was not answered.
    async fn transactions(&self, ids: &[&str]) -> Answers<String, DescribedTransaction> {
        if self.shown.is_away() { Answers::new() } else { self.shown.client().within(PATIENCE).describe_transactions(ids).await }
    }
}

/// What a client is told of a transactional id by what each cluster says, home first: the transaction that is open, if one is; else home's. No cluster
/// knows it only if all of them say so.
fn told<'a>(id: &str, known: impl Iterator<Item = Known<'a>>) -> TransactionState {
    let rank = |known: &Known<'_>| match known {
        // The time when it began stays behind its end (`TransactionMetadata.prepareComplete`).
        Some(Ok(described)) if !described.partitions.is_empty() => 0,
        Some(Ok(_)) => 1,
        Some(Err(error)) if error.code() == Some(ResponseError::TransactionalIdNotFound) => 3,
        Some(Err(_)) | None => 2,
    };
    let told = TransactionState::default().with_transactional_id(TransactionalId(StrBytes::from_string(id.to_owned())));
    let described = match known.min_by_key(rank).flatten() {
        Some(Ok(described)) => described,
        why => {
            let code = why.and_then(|why| why.as_ref().err()).and_then(ClientError::code);
            return told.with_error_code(code.unwrap_or(ResponseError::CoordinatorNotAvailable).code());
        }
    };
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in &described.partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicData::default().with_topic(TopicName(StrBytes::from_string(topic.to_owned()))).with_partitions(partitions)
    });
    told.with_transaction_state(StrBytes::from_string(described.state.clone()))
        .with_transaction_timeout_ms(i32::try_from(described.timeout.as_millis()).unwrap_or(i32::MAX))
        .with_transaction_start_time_ms(described.began.unwrap_or(-1))
        .with_producer_id(ProducerId(described.producer.id))
        .with_producer_epoch(described.producer.epoch)
        .with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use kferry_wire::admin::transactions::Producer;
    use kferry_wire::client::TopicPartition;

    fn described(id: i64, state: &str, partitions: &[(&str, i32)]) -> DescribedTransaction {
        DescribedTransaction {
            state: state.to_owned(),
            began: Some(1_700_000_000_000),
            timeout: Duration::from_mins(1),
            producer: Producer { id, epoch: 3 },
            partitions: partitions.iter().map(|(topic, index)| TopicPartition::new(*topic, *index)).collect(),
        }
    }

    fn refused(code: ResponseError) -> Result<DescribedTransaction, ClientError> {
        let what = "DescribeTransactions of transactional id t".to_owned();
        Err(ClientError::Kafka { cluster: "new".into(), what, code, message: String::new(), advice: String::new() })
    }

    #[test]
    fn an_id_is_told_where_its_transaction_is_open_and_nowhere_only_if_all_say_so() {
        let not_found = || Some(refused(ResponseError::TransactionalIdNotFound));
        let denied = || Some(refused(ResponseError::TransactionalIdAuthorizationFailed));
        let idle = |id| Some(Ok(described(id, "CompleteCommit", &[])));
        let open = |id| Some(Ok(described(id, "Ongoing", &[("orders", 0)])));
        for (home, other, expected) in [
            (idle(1), not_found(), Ok(1)),
            (not_found(), idle(2), Ok(2)),
            (idle(1), idle(2), Ok(1)),
            (open(1), open(2), Ok(1)),
            (idle(1), open(2), Ok(2)),
            (open(1), idle(2), Ok(1)),
            (idle(1), None, Ok(1)),
            (None, open(2), Ok(2)),
            (not_found(), not_found(), Err(105)),
            (not_found(), None, Err(15)),
            (None, not_found(), Err(15)),
            (denied(), not_found(), Err(53)),
            (not_found(), denied(), Err(53)),
            (None, None, Err(15)),
        ] {
            let told = told("t", [home.as_ref(), other.as_ref()].into_iter());
            let is = if told.error_code == 0 { Ok(told.producer_id.0) } else { Err(told.error_code) };
            assert_eq!((is, told.transactional_id.as_str()), (expected, "t"), "{home:?}, {other:?}");
        }
    }

    #[test]
    fn all_that_a_coordinator_says_is_told() {
        let known = Ok(described(7, "Ongoing", &[("orders", 1), ("payments", 0), ("orders", 0)]));
        let told = told("t", [Some(&known)].into_iter());
        let topics: Vec<_> = told.topics.iter().map(|topic| (topic.topic.as_str(), topic.partitions.clone())).collect();
        assert_eq!(topics, [("orders", vec![1, 0]), ("payments", vec![0])]);
        assert_eq!(
            (told.transaction_state.as_str(), told.transaction_timeout_ms, told.transaction_start_time_ms, told.producer_epoch),
            ("Ongoing", 60_000, 1_700_000_000_000, 3)
        );
    }
}
