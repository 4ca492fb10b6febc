//! Topics with transactions do not move yet, also where nothing of one is in a log.

use anyhow::{Context as _, Result, ensure};
use harness::raw::{Raw, ask, until};
use harness::stage::Side;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use crate::proxies::name;
use crate::{Stage, on_stage};

const CLIENT: &str = "orders-transactions";

/// `FindCoordinatorRequest.KeyType`
const TRANSACTION: i8 = 1;

/// A transaction of a client that comes by a proxy.
struct Transaction {
    client: Raw,
    id: TransactionalId,
    producer: (i64, i16),
}

impl Transaction {
    fn of(stage: &Stage, proxy: usize, id: &str) -> Result<Self> {
        let cluster = stage.cluster(Side::Legacy);
        let at = |node_id: i32| Raw::connect(stage.files[proxy].virtual_broker(Side::Legacy.name(), node_id)?.1);
        let mut any = at(cluster.node_ids()[0])?;
        let id = TransactionalId(StrBytes::from_string(id.to_owned()));
        let question = FindCoordinatorRequest::default().with_key(id.0.clone()).with_key_type(TRANSACTION);
        let mut port = 0;
        // The topic of transactions is made by the first question.
        until("there is a coordinator", || {
            let found = ask(&mut any, 3, CLIENT, &question)?;
            port = found.port;
            Ok(found.error_code == 0)
        })?;
        let mut client = Raw::connect(u16::try_from(port)?)?;
        let init = InitProducerIdRequest::default().with_transactional_id(Some(id.clone())).with_transaction_timeout_ms(60_000);
        let mut producer = None;
        until("there is a producer id", || {
            let begun = ask(&mut client, 3, CLIENT, &init)?;
            producer = Some((begun.producer_id.0, begun.producer_epoch));
            Ok(begun.error_code == 0)
        })?;
        Ok(Self { client, id, producer: producer.context("a producer id")? })
    }

    /// The error.
    fn add(&mut self, topic: &str) -> Result<i16> {
        let name = TopicName(StrBytes::from_string(topic.to_owned()));
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id.clone())
            .with_v3_and_below_producer_id(self.producer.0.into())
            .with_v3_and_below_producer_epoch(self.producer.1)
            .with_v3_and_below_topics(vec![AddPartitionsToTxnTopic::default().with_name(name).with_partitions(vec![0])]);
        let answer = ask(&mut self.client, 3, CLIENT, &request)?;
        let results = &answer.results_by_topic_v3_and_below[0].results_by_partition;
        Ok(results[0].partition_error_code)
    }

    fn commit(&mut self) -> Result<()> {
        let end = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer.0.into())
            .with_producer_epoch(self.producer.1)
            .with_committed(true);
        let answer = ask(&mut self.client, 3, CLIENT, &end)?;
        ensure!(answer.error_code == 0, "the transaction cannot end: error {}", answer.error_code);
        Ok(())
    }
}

/// Nothing of it is in a log, so no broker tells of it; but its marker will be, on the broker that led the topic when the transaction was begun. One proxy
/// decides what moves, and it may be the other one that knows.
#[test]
fn a_topic_does_not_move_from_under_a_transaction_that_has_written_nothing() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(2)?;
        for proxy in 0..2 {
            let topic = format!("orders.in-a-transaction-{proxy}");
            stage.create(&topic)?;
            let mut transaction = Transaction::of(stage, proxy, &format!("{CLIENT}-{proxy}"))?;
            let added = transaction.add(&topic)?;
            ensure!(added == 0, "the transaction cannot begin: error {added}");
            let after = stage.edit(Side::New)?;
            let decides = name(stage, proxy)? < name(stage, 1 - proxy)?;
            let why = if decides {
                let mut why = String::new();
                until("it is said why the topic stays", || {
                    why = stage.moves(proxy)?["waits"]["orders"].to_string();
                    Ok(why.contains(&topic))
                })?;
                why
            } else {
                stage.decisions.is_given_up(after)?
            };
            ensure!(why.contains("has begun a transaction"), "{why}");
            println!("{why}");
            transaction.commit()?;
            let state = stage.decisions.state()?;
            ensure!(state.leaders().get(&topic).is_none_or(|leader| *leader.cluster == *Side::Legacy.name()), "{topic} has moved");
            stage.edit(Side::Legacy)?;
            stage.leads(Side::Legacy, &[])?;
            stage.is_copied(&topic)?;
            for side in [Side::Legacy, Side::New] {
                stage.cluster(side).delete_topic(&topic)?;
            }
        }
        Ok(())
    })
}
