//! A mirror that translates offsets, on real clusters: every record is on the target once, in its order, and the offset map says where, whatever
//! was there before, whoever else writes to it, and whatever the source lacks.
//!
//! The tests share two clusters and run side by side, each with topics and a mirror process of its own. Only the one with an older source has its own.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use harness::LIMIT;
use harness::kafka::{Acl, BOB, Cluster, Commit, Fill, Listener, Operation, Record, Resource};
use harness::mirror::Mirror;
use harness::scenario::{self, Pair, records};
use harness::translated::{FOREIGN, Found, segments};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

static CLUSTERS: Pair = Pair::new(|| {
    [
        Cluster::version("3.9.1").name("source"),
        Cluster::version("4.3.0").name("target").first_node_id(11).listen(Listener::SaslPlaintext).acls(),
    ]
});

/// What somebody else writes to the target.
fn foreign(partition: i32, count: usize) -> Vec<Record> {
    (0..count).map(|n| Record::new(FOREIGN, format!("{n}")).to_partition(partition)).collect()
}

fn lines_of(prefix: &str, lines: &str) -> String {
    scenario::lines_of(prefix, &format!("offsets = \"translate\"\n{lines}"))
}

fn mirror_of(source: &Cluster, target: &Cluster, prefix: &str) -> Result<Mirror> {
    Mirror::named(prefix, source, target, &lines_of(prefix, ""))
}

/// One transaction on partition 0.
fn transaction(cluster: &Cluster, topic: &str, count: usize, commit: bool) -> Result<()> {
    let producer = transactional(cluster, topic)?;
    send(&producer, topic, count)?;
    if commit {
        producer.commit_transaction(LIMIT)?;
    } else {
        producer.abort_transaction(LIMIT)?;
    }
    Ok(())
}

fn transactional(cluster: &Cluster, topic: &str) -> Result<BaseProducer> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    config.set("transactional.id", topic);
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT)?;
    producer.begin_transaction()?;
    Ok(producer)
}

fn send(producer: &BaseProducer, topic: &str, count: usize) -> Result<()> {
    for n in 0..count {
        let value = format!("transaction {n}");
        producer.send(BaseRecord::<str, _>::to(topic).partition(0).payload(&value)).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(LIMIT)?)
}

fn perfect(mirror: &Mirror, source: &Cluster, target: &Cluster, topic: &str, on_target: &str) -> Result<Found> {
    let found = Found::look(mirror, source, target, topic, on_target)?;
    ensure!(found.is_perfect(), "{topic}: {found:?}");
    Ok(found)
}

fn says(mirror: &Mirror, code: i32, arguments: &[&str], words: &[&str]) -> Result<()> {
    let ended = mirror.kferry(arguments)?;
    let said = words.iter().all(|word| ended.log.contains(word));
    ensure!(ended.code == Some(code) && said, "{arguments:?} ended with {:?}, and {words:?} are not all in:\n{}", ended.code, ended.log);
    Ok(())
}

#[test]
fn the_copy_goes_behind_what_is_there() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("there.old", 3, &[])?;
    target.create_topic("there.new", 3, &[])?;
    target.produce("there.new", &[foreign(0, 40), foreign(1, 7)].concat())?;
    for partition in 0..3 {
        source.produce("there.old", &records(partition, 500, "first"))?;
    }
    // Far too much to fill up, if offsets were preserved.
    source.delete_records("there.old", 1, 123)?;
    let lines = lines_of("there", "max_padding = 0\n[mirrors.rename]\n\"there.old\" = \"there.new\"");
    let mut mirror = Mirror::new(source, target, &lines)?;
    says(&mirror, 0, &["plan"], &["translate", "2 of its partitions on target have data already"])?;
    mirror.copy()?;
    ensure!(segments(&mirror, "there.old", 0)? == [(0, 40)] && segments(&mirror, "there.old", 1)? == [(123, 7)]);
    let found = perfect(&mirror, source, target, "there.old", "there.new")?;
    ensure!(found.equal == 1_500 - 123 && found.foreign == 47, "{found:?}");
    says(&mirror, 0, &["verify"], &["3 of 3 partitions identical", "1,377 records equal"])?;

    let ask = |code, arguments: &[&str], words: &[&str]| {
        let topic = ["offsets", "--topic", "there.old", "--partition"];
        says(&mirror, code, &[&topic[..], arguments].concat(), words)
    };
    ask(0, &["0", "--at", "100"], &["there.old-0 on source, offset 100, is there.new-0 on target, offset 140"])?;
    ask(0, &["1", "--at-target", "8"], &["there.old-1 on source, offset 124, is there.new-1 on target, offset 8"])?;
    ask(0, &["0", "--at", "500"], &["offset 540"])?;
    ask(1, &["0", "--at", "501"], &["offset 501 of source is not on the other side yet: the copy is at the leader's offset 500"])?;
    ask(
        1,
        &["1", "--at", "122"],
        &["lies before the first record that was copied, which is offset 123 of the source and 7 of the target"],
    )?;
    ask(1, &["7"], &["nothing is known of there.old-7 yet"])?;

    source.produce("there.old", &records(0, 300, "second"))?;
    target.produce("there.new", &foreign(0, 5))?;
    mirror.copy()?;
    ensure!(segments(&mirror, "there.old", 0)? == [(0, 40), (500, 545)]);
    perfect(&mirror, source, target, "there.old", "there.new")?;
    says(&mirror, 0, &["verify"], &["identical"])?;
    // All of it again, behind what was there before.
    mirror.arguments(&["--accept", "there.old"]);
    let ended = mirror.once()?;
    for compared in ["there.old-0 equal=800", "there.old-1 equal=377", "there.old-2 equal=500"] {
        ensure!(ended.code == Some(0) && ended.log.contains(compared), "{compared:?} is not in:\n{}", ended.log);
    }
    Ok(())
}

/// A shorter retention would delete what others have there, and without what the mirror keeps all would be there twice.
#[test]
fn what_others_keep_stays_and_nothing_is_copied_twice() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    let topic = "keeps.topic";
    target.create_topic(topic, 1, &[("retention.ms", "-1")])?;
    target.produce(topic, &foreign(0, 20))?;
    source.create_topic(topic, 1, &[("retention.ms", "86400000"), ("max.message.bytes", "2000000")])?;
    source.produce(topic, &records(0, 30, "first"))?;
    let mut mirror = mirror_of(source, target, "keeps")?;
    says(&mirror, 0, &["plan"], &["retention.ms should be 86400000 and is -1: it stays so"])?;
    mirror.copy()?;
    mirror.copy()?;
    let settings = target.topic_settings(topic)?;
    let is = |key: &str| settings.get(key).map(String::as_str);
    ensure!((is("retention.ms"), is("max.message.bytes")) == (Some("-1"), Some("2000000")), "{settings:?}");

    target.delete_topic("__kferry.mirror.keeps")?;
    source.produce(topic, &records(0, 5, "second"))?;
    scenario::stops(&mut mirror, &["keeps.topic-0", "has records that this mirror has written", "--accept keeps.topic-0"])?;
    ensure!(target.log_ends(topic)? == [50], "it was copied a second time: {:?}", target.log_ends(topic)?);
    mirror.arguments(&["--accept", "keeps.topic"]);
    mirror.copy().context("accepted")?;
    ensure!(target.log_ends(topic)? == [85], "the end is {:?}", target.log_ends(topic)?);
    Ok(())
}

#[test]
fn others_write_in_between() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("between.topic", 2, &[])?;
    target.create_topic("between.topic", 2, &[])?;
    let mut mirror = mirror_of(source, target, "between")?;
    let mut running = mirror.start(&[])?;
    for part in 0..30 {
        source.produce("between.topic", &[records(0, 20, &format!("{part}")), records(1, 30, &format!("{part}"))].concat())?;
        target.produce("between.topic", &[foreign(0, 3), foreign(1, 2)].concat())?;
    }
    running.terminate(LIMIT)?;
    // A transaction of others that stays open holds no consumer's view of the mirror's own records up: they are read before it ends.
    let open = transactional(target, "between.topic")?;
    let value = b"open".to_vec();
    open.send(BaseRecord::to("between.topic").partition(0).key(FOREIGN).payload(&value)).map_err(|(error, _)| error)?;
    open.flush(LIMIT)?;
    source.produce("between.topic", &records(0, 50, "last"))?;
    mirror.copy()?;
    open.commit_transaction(LIMIT)?;
    let found = perfect(&mirror, source, target, "between.topic", "between.topic")?;
    ensure!(found.equal == 30 * 50 + 50 && found.foreign == 30 * 5 + 1 && found.segments > 2, "{found:?}");
    says(&mirror, 0, &["verify"], &["identical"])
}

#[test]
fn gaps_are_filled_or_left_out() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("gaps.topic", 1, &[])?;
    target.create_topic("gaps.topic", 1, &[])?;
    target.produce("gaps.topic", &foreign(0, 10))?;
    for _ in 0..5 {
        transaction(source, "gaps.topic", 3, true)?;
        transaction(source, "gaps.topic", 4, false)?;
    }
    let mut mirror = mirror_of(source, target, "gaps")?;
    mirror.copy()?;
    ensure!(segments(&mirror, "gaps.topic", 0)? == [(0, 10)], "small gaps are filled");
    // More than a thousand offsets without a record are not worth it.
    transaction(source, "gaps.topic", 1_500, false)?;
    source.produce("gaps.topic", &records(0, 10, "after"))?;
    mirror.copy()?;
    let found = perfect(&mirror, source, target, "gaps.topic", "gaps.topic")?;
    let gap = 5 * (3 + 1 + 4 + 1);
    ensure!(segments(&mirror, "gaps.topic", 0)? == [(0, 10), (gap + 1_501, gap + 10)] && found.equal == 25, "{found:?}");
    says(&mirror, 0, &["verify"], &["identical"])
}

#[test]
fn without_the_right_to_write_markers_gaps_are_left_out() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    target.add_acls(&[Acl::allow(BOB.name, Operation::All, Resource::Topic("*".to_owned()))])?;
    source.create_topic("bob.topic", 1, &[])?;
    for _ in 0..5 {
        transaction(source, "bob.topic", 3, true)?;
        transaction(source, "bob.topic", 4, false)?;
    }
    let mut mirror = Mirror::new_as(BOB, source, target, &lines_of("bob", ""))?;
    mirror.copy()?;
    let found = perfect(&mirror, source, target, "bob.topic", "bob.topic")?;
    ensure!(found.equal == 15 && found.segments >= 5 && target.log_ends("bob.topic")? == [15], "{found:?}");
    Ok(())
}

#[test]
fn what_is_lost_is_asked_about() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("lost.topic", 1, &[])?;
    source.produce("lost.topic", &records(0, 100, "first"))?;
    let mut mirror = mirror_of(source, target, "lost")?;
    mirror.copy()?;
    source.produce("lost.topic", &records(0, 100, "second"))?;
    source.delete_records("lost.topic", 0, 150)?;
    let ended = mirror.once()?;
    let said = ended.log.contains("source has deleted the offsets 100 to 149 before they were copied");
    ensure!(ended.code == Some(1) && said, "{ended:?}");
    mirror.write(source, target, &lines_of("lost", "on_error = \"skip\""))?;
    mirror.copy()?;
    ensure!(segments(&mirror, "lost.topic", 0)? == [(0, 0), (150, 100)]);
    ensure!(target.read_all("lost.topic")?.len() == 150);
    // Both an offset in the gap and the first one behind it go on with the first record that is left.
    for at in ["100", "149", "150"] {
        says(&mirror, 0, &["offsets", "--topic", "lost.topic", "--partition", "0", "--at", at], &["on target, offset 100"])?;
    }
    Ok(())
}

#[test]
fn offsets_that_were_preserved_may_be_translated_from_then_on() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("change.topic", 1, &[])?;
    source.produce("change.topic", &records(0, 100, "first"))?;
    let mut mirror = Mirror::new(source, target, "topics_regex = ['change\\..*']")?;
    mirror.copy()?;
    target.produce("change.topic", &foreign(0, 1))?;
    source.produce("change.topic", &records(0, 100, "second"))?;
    let ended = mirror.once()?;
    ensure!(ended.code == Some(1) && ended.log.contains("differ at offset 100"), "{ended:?}");
    mirror.write(source, target, &lines_of("change", ""))?;
    mirror.arguments(&["--accept", "change.topic"]);
    mirror.copy()?;
    ensure!(segments(&mirror, "change.topic", 0)? == [(0, 0), (100, 101)]);
    perfect(&mirror, source, target, "change.topic", "change.topic")?;
    // And not back.
    mirror.write(source, target, "topics_regex = ['change\\..*']")?;
    mirror.arguments(&[]);
    for _ in 0..2 {
        let ended = mirror.once()?;
        ensure!(ended.code == Some(1) && ended.log.contains("were translated before"), "{ended:?}");
    }
    ensure!(segments(&mirror, "change.topic", 0)? == [(0, 0), (100, 101)]);
    Ok(())
}

#[test]
fn the_direction_turns() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("turn.topic", 1, &[])?;
    target.create_topic("turn.topic", 1, &[])?;
    target.produce("turn.topic", &foreign(0, 25))?;
    source.produce("turn.topic", &records(0, 70, "first"))?;
    let mut mirror = mirror_of(source, target, "turn")?;
    mirror.copy()?;
    let turn = |name: &str, term: i32| {
        let (key, value) = ("{\"topic\":\"turn.topic\"}", format!("{{\"leader\":\"{name}\",\"term\":{term}}}"));
        target.produce("__kferry.mirror.turn", &[Record::new(key, value)])
    };
    for (name, term) in [("target", 2), ("source", 3), ("target", 4)] {
        turn(name, term)?;
        let leader = if name == "source" { source } else { target };
        leader.produce("turn.topic", &records(0, 30, &format!("term {term}")))?;
        transaction(leader, "turn.topic", 4, term != 3)?;
        leader.produce("turn.topic", &records(0, 10, &format!("end of term {term}")))?;
        mirror.copy().with_context(|| format!("term {term}"))?;
        perfect(&mirror, source, target, "turn.topic", "turn.topic").with_context(|| format!("term {term}"))?;
        says(&mirror, 0, &["verify"], &["identical"]).with_context(|| format!("term {term}"))?;
    }
    // What the leader has and the follower has not would be lost by another turn.
    target.produce("turn.topic", &records(0, 5, "not copied"))?;
    turn("source", 5)?;
    let ended = mirror.once()?;
    let said = ended.log.contains("it led until the direction turned") && ended.log.contains("--accept turn.topic-0");
    ensure!(ended.code == Some(1) && said, "{ended:?}");
    Ok(())
}

/// A target that has no data yet and a source that nobody reads from the beginning any more: what a restarted consumer needs.
#[test]
fn a_position_goes_on_exactly_on_the_other_side() -> Result<()> {
    let clusters =
        Cluster::start_all(vec![Cluster::version("2.8.2").name("source"), Cluster::version("4.3.0").name("target").first_node_id(11)])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("position.topic", 1, &[])?;
    target.create_topic("position.topic", 1, &[])?;
    target.produce("position.topic", &foreign(0, 1_000))?;
    source.produce("position.topic", &records(0, 5_000, "record"))?;
    let mut mirror = mirror_of(source, target, "position")?;
    mirror.copy()?;
    let (left, right) = (source.read_all("position.topic")?, target.read_all("position.topic")?);
    for at in [0, 1, 2_500, 4_999] {
        let ended = mirror.kferry(&["offsets", "--json", "--topic", "position.topic", "--partition", "0", "--at", &at.to_string()])?;
        let answer: serde_json::Value = serde_json::from_str(&ended.log)?;
        let there = answer["target_offset"].as_i64().context("no offset")?;
        let value =
            |records: &[Record], offset| records.iter().find(|record| record.offset == offset).and_then(|record| record.value.clone());
        ensure!(value(&left, at).is_some() && value(&left, at) == value(&right, there), "offset {at} is not {there}: {answer}");
    }
    Ok(())
}

/// Committed offsets of three groups on four partitions of 100,000 records, somewhere in the log, where others wrote before and in between.
#[test]
fn groups_go_on_at_the_same_records() -> Result<()> {
    const EACH: i64 = 100_000;
    const TOPIC: &str = "groups.topic";
    let (source, target) = CLUSTERS.started()?;
    let fill = Fill { records: 2 * EACH as u64, records_per_batch: 100, compression: "lz4" };
    source.create_topic(TOPIC, 4, &[])?;
    target.create_topic(TOPIC, 4, &[])?;
    let others: Vec<_> = (0..4).flat_map(|partition| foreign(partition, 1_000 * (partition as usize + 1))).collect();
    target.produce(TOPIC, &others)?;
    let mut mirror = Mirror::named("groups", source, target, &lines_of("groups", "groups_regex = '.*'"))?;
    for half in ["first", "second"] {
        source.fill(TOPIC, fill, |n, value| value.extend(format!("{half} {n}").bytes()))?;
        if half == "second" {
            target.produce(TOPIC, &others)?;
            // At the beginning and the end, on both sides of where others wrote, and anywhere.
            let committed =
                [("one", [12_345, 77_777, 50_000, 99_999]), ("two", [0, 1, EACH, 49_999]), ("three", [50_001, 33_333, 66_666, 5])];
            for (group, offsets) in committed {
                source.commit(group, TOPIC, (0..4).zip(offsets).map(|(partition, offset)| (partition, Commit::at(offset))))?;
            }
        }
        mirror.copy()?;
    }
    let by_place = |records: Vec<Record>| -> BTreeMap<(i32, i64), Option<Vec<u8>>> {
        records.into_iter().map(|record| ((record.partition, record.offset), record.value)).collect()
    };
    let (on_source, on_target) = (by_place(source.read_all(TOPIC)?), by_place(target.read_all(TOPIC)?));
    let (mut exact, ends) = (0, target.log_ends(TOPIC)?);
    for group in ["one", "two", "three"] {
        let (there, here) = (source.committed_offsets(group)?, target.committed_offsets(group)?);
        ensure!(there.len() == 4 && here.len() == 4, "{group}: {there:?}, {here:?}");
        for ((topic, partition), offset) in there {
            let moved = here[&(topic, partition)];
            let same = match on_source.get(&(partition, offset)) {
                Some(value) => on_target.get(&(partition, moved)) == Some(value),
                // At the end of one log is at the end of the other.
                None => offset == EACH && moved == ends[partition as usize],
            };
            ensure!(same, "{group}: {offset} of partition {partition} became {moved}");
            exact += 1;
        }
    }
    println!("{exact} of 12 translated offsets of 3 groups on 4 partitions of {EACH} records are exact");
    ensure!(exact == 12);
    Ok(())
}
