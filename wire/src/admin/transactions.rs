//! Transactions, as far as a coordinator is asked: an empty one leaves exactly one marker in each of its partitions; and whose are open.
//!
//! # References
//! - KIP-98, KIP-360 (InitProducerId v3), KIP-890 (AddPartitionsToTxn from version 4 on is for brokers; EndTxn v5 hands out the next epoch)
//! - KIP-664 (ListTransactions, DescribeTransactions)

use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, ApiKey, DescribeTransactionsRequest, EndTxnRequest, InitProducerIdRequest, ListTransactionsRequest,
    ProducerId, TransactionalId,
};
use kafka_protocol::protocol::VersionRange;

use super::{by_topic, text, topic_name};
use crate::client::{Answers, Client, ClientError, CoordinatorKind, Coordinators, Resend, Subject, TopicPartition, Topics};

const INIT_PRODUCER_ID: VersionRange = VersionRange { min: 0, max: 4 };
const ADD_PARTITIONS_TO_TXN: VersionRange = VersionRange { min: 0, max: 3 };
const END_TXN: VersionRange = VersionRange { min: 0, max: 4 };
const LIST_TRANSACTIONS: VersionRange = VersionRange { min: 0, max: 0 };
const DESCRIBE_TRANSACTIONS: VersionRange = VersionRange { min: 0, max: 0 };

/// A producer id and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: i64,
    /// Its epoch: one with a lower epoch is fenced.
    pub epoch: i16,
}

/// A transactional id that its coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTransaction {
    /// `transactional.id`
    pub transactional_id: String,
    /// The producer id that it has now.
    pub producer_id: i64,
}

/// A transactional id's latest transaction, as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedTransaction {
    /// `Ongoing`, `PrepareCommit`, `CompleteAbort`, …
    pub state: String,
    /// When it began, in milliseconds since 1970; `None` if there was none. It stays behind its end.
    pub began: Option<i64>,
    /// `transaction.timeout.ms`: after it the coordinator aborts the transaction.
    pub timeout: Duration,
    /// Whose it is.
    pub producer: Producer,
    /// The partitions in it; while it is being ended, those that have no marker yet.
    pub partitions: Vec<TopicPartition>,
}

impl Client {
    /// A producer id for a transactional id. Whoever had one for it is fenced, and its open transaction aborted. `timeout` is the
    /// `transaction.timeout.ms` of transactions to come.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn init_producer_id(&self, transactional_id: &str, timeout: Duration) -> Result<Producer, ClientError> {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        self.ask_coordinator(CoordinatorKind::Transaction, transactional_id, Resend::Always, |connection| async move {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(Some(TransactionalId(text(transactional_id))))
                .with_transaction_timeout_ms(timeout_ms);
            let (asked, answer) = self.send(&connection, INIT_PRODUCER_ID, |_| request).await?;
            // A coordinator that loads answers with an error and the id -1, which brokers would take, and protect nothing by it.
            asked.check(&Subject::transactional_id(transactional_id), answer.error_code, None)?;
            Ok(Producer { id: answer.producer_id.0, epoch: answer.producer_epoch })
        })
        .await
    }

    /// Adds partitions to the producer's transaction, which begins with the first. All are added or none.
    ///
    /// # Errors
    /// [`ClientError`], the first of those that the partitions have
    pub async fn add_partitions_to_txn(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Result<(), ClientError> {
        self.ask_coordinator(CoordinatorKind::Transaction, transactional_id, Resend::Always, |connection| async move {
            let topics = by_topic(partitions.iter().map(|partition| (partition.clone(), ()))).into_iter().map(|(topic, partitions)| {
                let indexes = partitions.into_iter().map(|(index, ())| index).collect();
                AddPartitionsToTxnTopic::default().with_name(topic_name(&topic)).with_partitions(indexes)
            });
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(TransactionalId(text(transactional_id)))
                .with_v3_and_below_producer_id(ProducerId(producer.id))
                .with_v3_and_below_producer_epoch(producer.epoch)
                .with_v3_and_below_topics(topics.collect());
            let (asked, answer) = self.send(&connection, ADD_PARTITIONS_TO_TXN, |_| request).await?;
            let mut not_attempted = Ok(());
            let mut added = 0;
            for topic in &answer.results_by_topic_v3_and_below {
                for result in &topic.results_by_partition {
                    let partition = TopicPartition::new(topic.name.as_str(), result.partition_index);
                    let subject = Subject::partition(&partition).in_transaction(transactional_id);
                    match asked.check(&subject, result.partition_error_code, None) {
                        Ok(()) => added += 1,
                        // Said of those that have no fault of their own: another has it.
                        Err(error) if error.code() == Some(ResponseError::OperationNotAttempted) => not_attempted = Err(error),
                        Err(error) => return Err(error),
                    }
                }
            }
            not_attempted?;
            if added < partitions.len() {
                return Err(self.incomplete(ApiKey::AddPartitionsToTxn, &format!("transactional id {transactional_id}")));
            }
            Ok(())
        })
        .await
    }

    /// Commits or aborts the producer's transaction. Its markers may land a moment after the answer.
    ///
    /// # Errors
    /// [`ClientError`]; `INVALID_TXN_STATE` if nothing was added to it.
    pub async fn end_txn(&self, transactional_id: &str, producer: Producer, commit: bool) -> Result<(), ClientError> {
        self.ask_coordinator(CoordinatorKind::Transaction, transactional_id, Resend::Always, |connection| async move {
            let request = EndTxnRequest::default()
                .with_transactional_id(TransactionalId(text(transactional_id)))
                .with_producer_id(ProducerId(producer.id))
                .with_producer_epoch(producer.epoch)
                .with_committed(commit);
            let (asked, answer) = self.send(&connection, END_TXN, |_| request).await?;
            asked.check(&Subject::transactional_id(transactional_id), answer.error_code, None)
        })
        .await
    }

    /// The transactional ids that are in one of these states and have one of these producer ids, as far as we may describe them: each broker lists those that
    /// it coordinates. None of either: all. Brokers know the API since 3.0.
    ///
    /// # Errors
    /// [`ClientError`]: with one broker missing the list would be too.
    pub async fn list_transactions(&self, states: &[&str], producer_ids: &[i64]) -> Result<Vec<ListedTransaction>, ClientError> {
        let list = async |node_id| {
            let connection = self.broker(node_id).await?;
            let ids = producer_ids.iter().map(|id| ProducerId(*id)).collect();
            let states = states.iter().map(|state| text(state)).collect();
            let request = ListTransactionsRequest::default().with_state_filters(states).with_producer_id_filters(ids);
            let (asked, answer) = self.send(&connection, LIST_TRANSACTIONS, |_| request).await?;
            asked.check(&Subject::cluster(), answer.error_code, None)?;
            let listed = answer
                .transaction_states
                .iter()
                .map(|state| ListedTransaction { transactional_id: state.transactional_id.to_string(), producer_id: state.producer_id.0 });
            Ok(listed.collect::<Vec<_>>())
        };
        self.retry(Resend::Always, || async {
            let brokers = self.metadata(Topics::Named(&[])).await?.brokers;
            let lists = join_all(brokers.iter().map(|broker| list(broker.node_id))).await;
            Ok(lists.into_iter().collect::<Result<Vec<_>, ClientError>>()?.concat())
        })
        .await
    }

    /// The latest transactions of transactional ids. Brokers know the API since 3.0.
    pub async fn describe_transactions(&self, transactional_ids: &[&str]) -> Answers<String, DescribedTransaction> {
        let asked = transactional_ids.iter().map(|id| ((*id).to_owned(), ())).collect();
        let kind = Coordinators(CoordinatorKind::Transaction);
        self.spread(ApiKey::DescribeTransactions, kind, Resend::Always, asked, |connection, batch: Vec<(String, ())>| async move {
            let ids = batch.iter().map(|(id, ())| TransactionalId(text(id))).collect();
            let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
            let (asked, answer) = self.send(&connection, DESCRIBE_TRANSACTIONS, |_| request).await?;
            let described = answer.transaction_states.iter().map(|state| {
                let checked = asked.check(&Subject::transactional_id(&state.transactional_id), state.error_code, None);
                let partitions = state
                    .topics
                    .iter()
                    .flat_map(|topic| topic.partitions.iter().map(|partition| TopicPartition::new(topic.topic.as_str(), *partition)));
                let described = DescribedTransaction {
                    state: state.transaction_state.to_string(),
                    began: (state.transaction_start_time_ms >= 0).then_some(state.transaction_start_time_ms),
                    timeout: Duration::from_millis(state.transaction_timeout_ms.max(0) as u64),
                    producer: Producer { id: state.producer_id.0, epoch: state.producer_epoch },
                    partitions: partitions.collect(),
                };
                (state.transactional_id.to_string(), checked.map(|()| described))
            });
            Ok(described.collect())
        })
        .await
    }
}
