//! A transaction has topics of one cluster only; what is foreign to it reaches no coordinator.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use harness::kafka::Commit;
use harness::raw::{ask, until};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, InitProducerIdRequest,
    ListTransactionsRequest, TransactionalId,
};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::{LIMIT, Names, Side, Stage, TRANSACTION, calm, group_id, text, topic_name};

/// A transaction as its coordinator has it: its state, and its partitions.
fn transaction(stage: &Stage, side: Side, id: &str) -> Result<(String, BTreeSet<(String, i32)>)> {
    let mut broker = stage.directly_at(side, stage.coordinator(side, id, TRANSACTION)?)?;
    let answer =
        ask(&mut broker, 0, "direct", &DescribeTransactionsRequest::default().with_transactional_ids(vec![TransactionalId(text(id))]))?;
    let is_now = answer.transaction_states.first().context("an answer without the transaction")?;
    let partitions = is_now.topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.to_string(), *partition)));
    Ok((is_now.transaction_state.to_string(), partitions.collect()))
}

#[test]
fn a_transaction_stays_on_its_cluster() -> Result<()> {
    calm(|stage| {
        for side in Side::BOTH {
            stage.create_copied(side, &side.leads("transactions"), 2)?;
            // Where both topics are, so that the group could be part of either's transaction.
            stage.cluster(side).commit(&side.lives("transactions"), &side.leads("transactions"), [(0, Commit::at(0))])?;
        }
        for home in Side::BOTH {
            nothing_foreign_reaches_the_coordinator(stage, home).with_context(|| format!("home {home:?}"))?;
            librdkafka_aborts_and_goes_on(stage, home).with_context(|| format!("home {home:?}"))?;
        }
        for side in Side::BOTH {
            stage.is_copied(side, &side.leads("transactions"))?;
            let values: Vec<_> =
                stage.cluster(side).read_all(&side.leads("transactions"))?.into_iter().filter_map(|record| record.value).collect();
            ensure!(values == [b"first".to_vec(), b"third".to_vec()], "{side:?} has {} records", values.len());
        }
        for home in Side::BOTH {
            each_is_listed_once_and_described(stage, home).with_context(|| format!("home {home:?}"))?;
        }
        stage.no_copy_has_diverged(".transactions")
    })
}

/// Kafka's `TRANSACTIONAL_ID_NOT_FOUND`
const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;

/// Those of both homes, whoever asks: by broker, as `kafka-transactions.sh list` does; at any broker, wherever they are coordinated.
fn each_is_listed_once_and_described(stage: &Stage, home: Side) -> Result<()> {
    let ids = Side::BOTH.map(|side| (side, format!("{}-v0", side.client("transactions"))));
    let client_id = home.client("hanging");
    let mut listed = BTreeMap::<String, Vec<Side>>::new();
    for side in Side::BOTH {
        for node_id in stage.cluster(side).node_ids() {
            let answer = ask(&mut stage.at(side, node_id)?, 0, &client_id, &ListTransactionsRequest::default())?;
            ensure!(answer.error_code == 0, "ListTransactions at {node_id} of {side:?}: {answer:?}");
            for state in answer.transaction_states {
                listed.entry(state.transactional_id.to_string()).or_default().push(side);
            }
        }
    }
    for (side, id) in &ids {
        ensure!(listed.get(id) == Some(&vec![*side]), "{id} is listed by {:?}", listed.get(id));
    }
    for side in Side::BOTH {
        let mut client = stage.at(side, stage.cluster(side).node_ids()[0])?;
        let names = ids.iter().map(|(_, id)| id.as_str()).chain(["nobodys"]);
        let request = DescribeTransactionsRequest::default().with_transactional_ids(names.map(|id| TransactionalId(text(id))).collect());
        let answer = ask(&mut client, 0, &client_id, &request)?;
        let told: BTreeMap<&str, (i16, &str)> = answer
            .transaction_states
            .iter()
            .map(|state| (state.transactional_id.as_str(), (state.error_code, state.transaction_state.as_str())))
            .collect();
        for (_, id) in &ids {
            // `PrepareAbort` for a moment.
            let is_ended = told.get(id.as_str()).is_some_and(|(error, state)| *error == 0 && state.ends_with("Abort"));
            ensure!(is_ended, "DescribeTransactions at {side:?}: {id} in {told:?}");
        }
        ensure!(told.get("nobodys").is_some_and(|(error, _)| *error == TRANSACTIONAL_ID_NOT_FOUND), "at {side:?}: {told:?}");
    }
    Ok(())
}

fn nothing_foreign_reaches_the_coordinator(stage: &Stage, home: Side) -> Result<()> {
    let (own, foreign, client_id) = (home.leads("transactions"), home.other().leads("transactions"), home.client("transactions"));
    for version in 0..=3 {
        let id = format!("{client_id}-v{version}");
        stage.is_found(home, home, &id, TRANSACTION)?;
        let mut client = stage.at(home, stage.coordinator(home, &id, TRANSACTION)?)?;
        let transactional_id = TransactionalId(text(&id));
        let init =
            InitProducerIdRequest::default().with_transactional_id(Some(transactional_id.clone())).with_transaction_timeout_ms(60_000);
        let mut producer = None;
        until("there is a producer id", || {
            let answer = ask(&mut client, 3, &client_id, &init)?;
            producer = Some((answer.producer_id, answer.producer_epoch));
            Ok(answer.error_code == 0)
        })?;
        let (producer_id, epoch) = producer.context("a producer id")?;
        let mut add = |topics: &[(&str, i32)]| -> Result<BTreeMap<(String, i32), i16>> {
            let topics = topics.iter().map(|(topic, partition)| {
                AddPartitionsToTxnTopic::default().with_name(topic_name(topic)).with_partitions(vec![*partition])
            });
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(transactional_id.clone())
                .with_v3_and_below_producer_id(producer_id)
                .with_v3_and_below_producer_epoch(epoch)
                .with_v3_and_below_topics(topics.collect());
            let answer = ask(&mut client, version, &client_id, &request)?;
            let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| {
                topic
                    .results_by_partition
                    .iter()
                    .map(|result| ((topic.name.to_string(), result.partition_index), result.partition_error_code))
            });
            Ok(results.collect())
        };
        let alone = add(&[(&foreign, 0)])?;
        ensure!(alone.len() == 1 && alone.values().all(|error| *error > 0), "v{version}: {alone:?}");
        let is_now = transaction(stage, home, &id)?;
        ensure!(is_now == ("Empty".to_owned(), BTreeSet::new()), "v{version}: {is_now:?}");
        let mixed = add(&[(&own, 0), (&foreign, 0)])?;
        ensure!(mixed.len() == 2 && mixed.get(&(foreign.clone(), 0)).is_some_and(|error| *error > 0), "v{version}: {mixed:?}");
        let (_, partitions) = transaction(stage, home, &id)?;
        ensure!(partitions.iter().all(|(topic, _)| *topic == own), "v{version}, mixed: {partitions:?}");
        let own_alone = add(&[(&own, 0)])?;
        ensure!(own_alone.len() == 1 && own_alone.values().all(|error| *error == 0), "v{version}: {own_alone:?}");
        println!("{home:?}: AddPartitionsToTxn v{version} answers {alone:?} and {mixed:?}");

        // Offsets of a group that lives elsewhere.
        let offsets = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional_id.clone())
            .with_producer_id(producer_id)
            .with_producer_epoch(epoch)
            .with_group_id(group_id(&home.other().lives("transactions")));
        let answer = ask(&mut client, version, &client_id, &offsets)?;
        ensure!(answer.error_code > 0, "AddOffsetsToTxn v{version}: {answer:?}");
        let is_now = transaction(stage, home, &id)?;
        ensure!(is_now == ("Ongoing".to_owned(), BTreeSet::from([(own.clone(), 0)])), "v{version}, with offsets: {is_now:?}");
        let end = EndTxnRequest::default()
            .with_transactional_id(transactional_id)
            .with_producer_id(producer_id)
            .with_producer_epoch(epoch)
            .with_committed(false);
        let answer = ask(&mut client, version, &client_id, &end)?;
        ensure!(answer.error_code == 0, "EndTxn v{version}: {answer:?}");
    }
    Ok(())
}

/// As an application is meant to: what can be aborted is aborted, and the producer goes on.
fn librdkafka_aborts_and_goes_on(stage: &Stage, home: Side) -> Result<()> {
    let (own, foreign, id) = (home.leads("transactions"), home.other().leads("transactions"), home.client("librdkafka"));
    let timeout = LIMIT.as_millis().to_string();
    let producer: BaseProducer = stage.client(&id).set("transactional.id", &id).set("transaction.timeout.ms", timeout).create()?;
    producer.init_transactions(LIMIT)?;
    let send = |topic: &str, value: &str| -> Result<()> {
        producer.send(BaseRecord::<str, str>::to(topic).partition(0).payload(value)).map_err(|(error, _)| error)?;
        Ok(())
    };
    producer.begin_transaction()?;
    send(&own, "first")?;
    producer.commit_transaction(LIMIT)?;

    producer.begin_transaction()?;
    send(&own, "second")?;
    send(&foreign, "second")?;
    match producer.commit_transaction(LIMIT) {
        Err(KafkaError::Transaction(error)) => {
            ensure!(error.txn_requires_abort() && !error.is_fatal(), "it cannot be aborted: {error}");
            println!("{home:?}: librdkafka's transaction of both clusters: {error}");
        }
        other => bail!("a transaction of both clusters ended with {other:?}"),
    }
    producer.abort_transaction(LIMIT)?;

    producer.begin_transaction()?;
    send(&own, "third")?;
    producer.commit_transaction(LIMIT)?;
    Ok(())
}
