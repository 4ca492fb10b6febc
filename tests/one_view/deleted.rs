//! A topic that is gone at its source, and a copy that has another name: neither is a place to write to.

use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::kafka::Record;
use harness::mirror::Mirror;
use harness::ports;
use harness::raw::ask;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::writes::{batch_of, outcomes, produce};
use crate::{LIMIT, Names, Side, Stage, calm};

/// Kafka's `TOPIC_AUTHORIZATION_FAILED`
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
/// For a producer that may not find a topic at all.
const SHORT: Duration = Duration::from_secs(5);

fn first_records(partitions: i32) -> Vec<Record> {
    (0..40).map(|n| Record::new(n.to_string(), format!("first {n}")).to_partition(n % partitions)).collect()
}

/// Everything that a copy is made of.
fn log(stage: &Stage, side: Side, topic: &str) -> Result<(Vec<i64>, Vec<Record>)> {
    Ok((stage.cluster(side).log_ends(topic)?, stage.cluster(side).read_all(topic)?))
}

/// Frames at the brokers that lead the partitions of a copy, as clients of both homes, all at once; the errors that came.
fn write_to_the_copy(stage: &Stage, side: Side, topic: &str) -> Result<Vec<i16>> {
    let leaders: Vec<_> = stage.cluster(side).partitions(topic)?.into_iter().map(|partition| partition.leader).collect();
    thread::scope(|scope| {
        let mut writing = Vec::new();
        for (index, &leader) in (0..).zip(&leaders) {
            for (home, version) in Side::BOTH.into_iter().flat_map(|home| [(home, 3), (home, 9)]) {
                writing.push(scope.spawn(move || {
                    let request = produce(-1, &[(topic, index, batch_of("not here", None)?)]);
                    let answer = ask(&mut stage.at(side, leader)?, version, &home.client("raw"), &request)?;
                    outcomes(&answer)?.into_values().map(|(error, _)| error).next().context("an answer without the partition")
                }));
            }
        }
        writing.into_iter().map(|writing| writing.join().map_err(|_| anyhow!("panicked"))?).collect()
    })
}

/// Producers of both homes at once; what was acknowledged, and the errors of the rest.
fn both_homes(stage: &Stage, topic: &str, what: &str, limit: Duration) -> Result<(Vec<String>, Vec<KafkaError>)> {
    thread::scope(|scope| {
        let sending = Side::BOTH.map(|home| scope.spawn(move || stage.send(home, topic, what, 20, limit)));
        let (mut acknowledged, mut errors) = (Vec::new(), Vec::new());
        for sending in sending {
            let outcome = sending.join().map_err(|_| anyhow!("panicked"))??;
            acknowledged.extend(outcome.acknowledged);
            errors.extend(outcome.errors);
        }
        Ok((acknowledged, errors))
    })
}

#[test]
fn the_copy_of_a_deleted_topic_is_not_the_topic() -> Result<()> {
    calm(|stage| {
        for side in Side::BOTH {
            stage.create_copied(side, &side.leads("deleted"), 4)?;
        }
        let ended = thread::scope(|scope| {
            let sides = Side::BOTH.map(|side| scope.spawn(move || deleted(stage, side).with_context(|| side.leads("deleted"))));
            sides.map(|side| side.join().map_err(|_| anyhow!("panicked")).and_then(|ended| ended))
        });
        ended.into_iter().collect()
    })
}

fn deleted(stage: &Stage, side: Side) -> Result<()> {
    let (topic, source) = (side.leads("deleted"), stage.cluster(side));
    source.produce(&topic, &first_records(4))?;
    stage.is_copied(side, &topic)?;
    for home in Side::BOTH {
        stage.is_shown(home, side, &topic)?;
    }
    let copy = log(stage, side.other(), &topic)?;
    let is_untouched = |when: &str| {
        let is = log(stage, side.other(), &topic)?;
        ensure!(is == copy, "{when} the copy ends at {:?}, before at {:?}", is.0, copy.0);
        Ok(())
    };
    source.delete_topic(&topic)?;
    let errors = write_to_the_copy(stage, side.other(), &topic)?;
    ensure!(errors.len() == 16 && errors.iter().all(|error| *error > 0), "frames at the copy are answered {errors:?}");
    is_untouched("after raw frames")?;
    // Clients of one home may create it again by asking for it: brokers of this stage do so.
    let (mut acknowledged, errors) = both_homes(stage, &topic, "gone", SHORT)?;
    println!("{topic} is deleted: {} records are acknowledged, {} are not", acknowledged.len(), errors.len());
    is_untouched("after producers")?;
    if source.list_topics()?.contains(&topic) {
        stage.has_exactly(side, &topic, &acknowledged).context("a topic that was created by being asked for")?;
    } else {
        ensure!(acknowledged.is_empty(), "there is no topic, and {acknowledged:?} were acknowledged");
        source.create_topic(&topic, 4, &[])?;
    }
    for home in Side::BOTH {
        stage.is_shown(home, side, &topic).context("created anew")?;
    }
    let (more, errors) = both_homes(stage, &topic, "anew", LIMIT)?;
    ensure!(errors.is_empty(), "records for the new topic are not acknowledged: {errors:?}");
    acknowledged.extend(more);
    stage.has_exactly(side, &topic, &acknowledged)?;
    is_untouched("with a new topic at the source")
}

/// What came until so many were there.
fn read(stage: &Stage, home: Side, topic: &str, partitions: i32, count: usize) -> Result<Vec<String>> {
    let mut config = stage.client(&home.client("renamed"));
    let consumer: BaseConsumer = config.set("group.id", "none").set("enable.auto.commit", "false").create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut values = Vec::new();
    while values.len() < count {
        let message = consumer.poll(LIMIT).with_context(|| format!("{} of {count} records came", values.len()))??;
        values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
    }
    values.sort();
    Ok(values)
}

#[test]
fn a_copy_with_another_name_can_be_read_and_not_written() -> Result<()> {
    calm(|stage| {
        let (topic, copy) = ("plain.topic", "renamed.plain.topic");
        stage.cluster(Side::Legacy).create_topic(topic, 3, &[])?;
        stage.cluster(Side::Legacy).produce(topic, &first_records(3))?;
        let mut mirror = Mirror::of(&fs::read_to_string(stage.mirror.config())?)?;
        mirror.arguments(&["--mirror", "renamed", "--admin-bind", &format!("127.0.0.1:{}", ports::take(1)?.start)]);
        mirror.copy()?;
        for home in Side::BOTH {
            stage.is_shown(home, Side::Legacy, topic)?;
            stage.is_shown(home, Side::New, copy)?;
        }
        let before = log(stage, Side::New, copy)?;
        let mut expected: Vec<_> = (0..40).map(|n| format!("first {n}")).collect();
        expected.sort();
        for home in Side::BOTH {
            let came = read(stage, home, copy, 3, 40)?;
            ensure!(came == expected, "{home:?} reads {came:?}");
        }
        let errors = write_to_the_copy(stage, Side::New, copy)?;
        ensure!(errors.len() == 12 && errors.iter().all(|error| *error == TOPIC_AUTHORIZATION_FAILED), "frames are answered {errors:?}");
        let (acknowledged, errors) = both_homes(stage, copy, "renamed", LIMIT)?;
        let refused = |error: &KafkaError| matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::TopicAuthorizationFailed));
        ensure!(acknowledged.is_empty() && errors.iter().all(refused), "{acknowledged:?} were acknowledged, the rest is {errors:?}");
        ensure!(log(stage, Side::New, copy)? == before, "the copy has changed");
        let log_text = stage.proxy.log_text();
        ensure!(log_text.lines().any(|line| line.contains("WARN") && line.contains(copy)), "the log does not name {copy}");

        // By its own name it is written where it is.
        let (acknowledged, errors) = both_homes(stage, topic, "plain", LIMIT)?;
        ensure!(acknowledged.len() == 40 && errors.is_empty(), "{errors:?}");
        mirror.copy()?;
        let all = stage.cluster(Side::Legacy).record_count(topic)?;
        ensure!(all == 80 && stage.cluster(Side::New).record_count(copy)? == all, "{all} records where it leads");
        ensure!(!stage.cluster(Side::New).list_topics()?.contains(&topic.to_owned()), "{topic} is on {:?}, too", Side::New);
        Ok(())
    })
}
