//! Topics with transactions do not move yet, also where nothing of one is in a log.

use anyhow::{Context as _, Result, ensure};
use harness::kafka::Listener;
use harness::raw::{Raw, ask, until};
use harness::stage::Side;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use crate::on_stage;

const CLIENT: &str = "orders-transactions";

/// `FindCoordinatorRequest.KeyType`
const TRANSACTION: i8 = 1;

/// A transaction of a client.
struct Transaction {
    client: Raw,
    id: TransactionalId,
    producer: (i64, i16),
}

impl Transaction {
    /// `port`: of any broker.
    fn of(port: u16, id: &str) -> Result<Self> {
        let mut any = Raw::connect(port)?;
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

/// Nothing of it is in a log, so no partition tells of it; but its marker will be, on the broker that led the topic when the transaction was begun.
#[test]
fn a_topic_does_not_move_from_under_a_transaction_that_has_written_nothing() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let legacy = stage.cluster(Side::Legacy);
        let node_id = legacy.node_ids()[0];
        let by_the_proxy = stage.files[0].virtual_broker(Side::Legacy.name(), node_id)?.1;
        let past_the_relay = legacy.address(node_id, Listener::Plaintext)?.rsplit(':').next().context("a port")?.parse()?;
        for (whose, port) in [("by-the-proxy", by_the_proxy), ("past-the-relay", past_the_relay)] {
            let (topic, id) = (format!("orders.in-a-transaction-{whose}"), format!("{CLIENT}-{whose}"));
            stage.create(&topic)?;
            let mut transaction = Transaction::of(port, &id)?;
            until("the transaction begins", || Ok(transaction.add(&topic)? == 0))?;
            stage.edit(Side::New)?;
            let mut why = String::new();
            until("it is said why the topic stays", || {
                why = stage.moves(0)?["waits"]["orders"].to_string();
                Ok(why.contains(&topic))
            })?;
            println!("{why}");
            ensure!(why.contains(&format!("transactional.id {id} has a transaction open in it")), "{why}");
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
