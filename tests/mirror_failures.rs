//! What the mirror does when something is wrong, on real clusters: it stops before it lies, says where and what to do, and goes on with the rest.
//!
//! The tests share two clusters and run side by side, each with topics and a mirror process of its own. Only those that kill or freeze brokers have
//! sources of their own.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::LIMIT;
use harness::kafka::{ALICE, Acl, BOB, Cluster, Listener, Operation, Record, Resource};
use harness::mirror::Mirror;
use harness::scenario::{Pair, comes, identical, lines_of, mirror_of, records, same_last_records, says, stops, transactions};
use kferry_config::{HostPort, Security};
use kferry_wire::client::{Client, TopicPartition};
use kferry_wire::connection::ConnectOptions;

/// For a member whose librdkafka hangs (30 s) to be put out of its group and to join it again.
const REJOINED: Duration = Duration::from_mins(2);
/// A pass over the topics every 5 s, and one more for what was just created.
const FOLLOWED: Duration = Duration::from_secs(15);
/// What the mirror `unkept` keeps.
const UNKEPT: &str = "__kferry.mirror.unkept";

static CLUSTERS: Pair = Pair::new(|| {
    [
        Cluster::version("3.9.1").name("source").set("log.cleaner.backoff.ms", "100"),
        Cluster::version("4.3.0").name("target").first_node_id(11).listen(Listener::SaslPlaintext).acls(),
    ]
});

#[test]
fn a_foreign_record_is_found() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("foreign.between", 2, &[])?;
    source.create_topic("foreign.longer", 1, &[])?;
    source.create_topic("foreign.none", 1, &[])?;
    for topic in ["foreign.between", "foreign.longer", "foreign.none"] {
        source.produce(topic, &records(0, 100, "first"))?;
    }
    source.produce("foreign.between", &records(1, 150, "first"))?;
    let mut mirror = mirror_of(source, target, "foreign", "")?;
    mirror.copy()?;

    target.produce("foreign.between", &records(1, 1, "foreign"))?;
    target.produce("foreign.longer", &records(0, 1, "foreign"))?;
    source.produce("foreign.between", &[records(0, 50, "second"), records(1, 50, "second")].concat())?;
    source.produce("foreign.none", &records(0, 50, "second"))?;
    stops(&mut mirror, &["foreign.between-1", "differ at offset 150", "--accept foreign.between"])?;
    identical(source, target, "foreign.none")?;
    ensure!(target.log_ends("foreign.between")? == [150, 151], "the ends are {:?}", target.log_ends("foreign.between")?);

    source.produce("foreign.none", &records(0, 50, "third"))?;
    stops(&mut mirror, &["foreign.longer-0", "ends at offset 101", "the end 100 of", "--accept foreign.longer"])
        .context("the next start")?;
    stops(&mut mirror, &["foreign.between-1", "differ at offset 150"]).context("the start after that")?;
    identical(source, target, "foreign.none")?;
    ensure!(target.log_ends("foreign.between")? == [150, 151], "something was written to what had diverged");

    target.delete_topic("foreign.between")?;
    target.delete_topic("foreign.longer")?;
    mirror.arguments(&["--accept", "foreign.between", "--accept", "foreign.longer-0"]);
    mirror.copy().context("accepted")?;
    mirror.arguments(&[]);
    source.produce("foreign.between", &records(1, 50, "third"))?;
    mirror.copy().context("afterwards")?;
    ["foreign.between", "foreign.longer", "foreign.none"].iter().try_for_each(|topic| identical(source, target, topic))
}

/// A list of servers of two clusters, and a source that is the target.
#[test]
fn servers_of_another_cluster_are_not_used() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("mixed.a", 1, &[])?;
    source.produce("mixed.a", &records(0, 10, "first"))?;
    let servers = |cluster: &Cluster| cluster.bootstrap_servers(Listener::Plaintext);
    let file = |servers_of_source: &str| -> Result<String> {
        let clusters = [("source", 1, servers_of_source), ("target", 2, &*servers(target)?)];
        let clusters = clusters.map(|(name, id, servers)| format!("[clusters.{name}]\nid = {id}\nbootstrap_servers = \"{servers}\"\n"));
        let mirror = lines_of("mixed", "");
        Ok(format!("{}[[mirrors]]\nname = \"mixed\"\nsource = \"source\"\ntarget = \"target\"\n{mirror}", clusters.concat()))
    };
    let (both, same) = (format!("{},{}", servers(source)?, servers(target)?), servers(target)?);
    for (servers_of_source, words) in
        [(&both, "cluster source: its bootstrap_servers are of different Kafka clusters"), (&same, "are one and the same Kafka cluster")]
    {
        let mut mirror = Mirror::of(&file(servers_of_source)?)?;
        for command in ["plan", "verify"] {
            let ended = mirror.kferry(&[command])?;
            ensure!(ended.code == Some(1) && ended.log.contains(words), "{command} ended with {:?}:\n{}", ended.code, ended.log);
        }
        let mut running = mirror.start(&[])?;
        comes(LIMIT, &mirror, || says(&mirror, &[words]))?;
        running.kill();
        let once = mirror.once()?;
        ensure!(once.code == Some(1), "--once ended with {:?}", once.code);
    }
    let written: Vec<_> = target.list_topics()?.into_iter().filter(|topic| topic.contains("mixed")).collect();
    ensure!(written.is_empty(), "created all the same: {written:?}");
    Ok(())
}

#[test]
fn a_foreign_record_is_found_while_it_runs() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    for topic in ["live.foreign", "live.none"] {
        source.create_topic(topic, 1, &[])?;
        source.produce(topic, &records(0, 100, "first"))?;
    }
    let mut mirror = mirror_of(source, target, "live", "")?;
    let running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || ["live.foreign", "live.none"].iter().try_for_each(|topic| identical(source, target, topic)))?;
    target.produce("live.foreign", &records(0, 1, "foreign"))?;
    for topic in ["live.foreign", "live.none"] {
        source.produce(topic, &records(0, 100, "second"))?;
    }
    comes(LIMIT, &mirror, || says(&mirror, &["diverged", "live.foreign-0", "101", "--accept live.foreign"]))?;
    comes(LIMIT, &mirror, || identical(source, target, "live.none"))?;
    drop(running);
    stops(&mut mirror, &["live.foreign-0", "--accept live.foreign"])
}

#[test]
fn a_topic_that_was_created_anew_is_another_one() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    let topics = ["anew.source", "anew.target"];
    for topic in topics {
        source.create_topic(topic, 1, &[])?;
        source.produce(topic, &records(0, 100, "first"))?;
    }
    let mut mirror = mirror_of(source, target, "anew", "")?;
    mirror.copy()?;
    source.delete_topic("anew.source")?;
    source.create_topic("anew.source", 1, &[])?;
    // As long as the first one: no log end would tell.
    source.produce("anew.source", &records(0, 200, "another"))?;
    target.delete_topic("anew.target")?;
    stops(&mut mirror, &["anew.source on source, which leads, was deleted and created anew", "--accept anew.source"])?;
    stops(&mut mirror, &["anew.target on target, which follows, was deleted and created anew", "--accept anew.target"])?;
    ensure!(target.log_ends("anew.source")? == [100] && target.log_ends("anew.target")? == [0], "something was written");
    target.delete_topic("anew.source")?;
    mirror.arguments(&["--accept", "anew.source", "--accept", "anew.target"]);
    mirror.copy()?;
    topics.iter().try_for_each(|topic| identical(source, target, topic))
}

#[test]
fn records_that_are_gone_before_they_were_copied() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("lost.records", 1, &[])?;
    source.create_topic("lost.none", 1, &[])?;
    source.produce("lost.records", &records(0, 100, "first"))?;
    let mut mirror = mirror_of(source, target, "lost", "on_error = 'fail'")?;
    mirror.copy()?;
    source.produce("lost.records", &records(0, 100, "second"))?;
    source.delete_records("lost.records", 0, 150)?;
    source.produce("lost.none", &records(0, 100, "second"))?;
    stops(&mut mirror, &["lost.records-0", "100 to 149", "begins at 150", "on_lost"])?;
    identical(source, target, "lost.none")?;
    ensure!(target.log_ends("lost.records")? == [100], "something was written");
    mirror.write(source, target, &lines_of("lost", "on_lost = 'follow'"))?;
    mirror.copy().context("with follow")?;
    says(&mirror, &["deleted offsets before they were copied", "lost.records-0", "offset=100", "count=50"])?;
    identical(source, target, "lost.records")?;
    ensure!(target.log_starts("lost.records")? == [150], "the log starts at {:?}", target.log_starts("lost.records")?);
    source.produce("lost.records", &records(0, 100, "third"))?;
    mirror.write(source, target, &lines_of("lost", "on_error = 'fail'"))?;
    mirror.copy().context("afterwards")?;
    identical(source, target, "lost.records")
}

/// Retention is faster than the mirror, but nothing was copied yet: there is only padding, which is made longer.
#[test]
fn a_log_start_that_moves_on_before_anything_was_copied() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("early.records", 1, &[])?;
    let mut mirror = mirror_of(source, target, "early", "")?;
    for (round, start) in [100, 200, 300].into_iter().enumerate() {
        source.produce("early.records", &records(0, 100, "gone"))?;
        source.delete_records("early.records", 0, start)?;
        mirror.copy().with_context(|| format!("round {round}"))?;
        let (starts, ends) = (target.log_starts("early.records")?, target.log_ends("early.records")?);
        ensure!((&starts[..], &ends[..]) == (&[start], &[start]), "round {round}: the copy is from {starts:?} to {ends:?}");
    }
    source.produce("early.records", &records(0, 100, "copied"))?;
    mirror.copy().context("with records")?;
    identical(source, target, "early.records")?;
    // From now on something would be missing.
    source.produce("early.records", &records(0, 100, "lost"))?;
    source.delete_records("early.records", 0, 450)?;
    stops(&mut mirror, &["early.records-0", "400 to 449", "on_lost"])
}

fn has(cluster: &Cluster, topic: &str, key: &str, value: &str) -> Result<()> {
    let settings = cluster.topic_settings(topic)?;
    ensure!(settings.get(key).is_some_and(|is| is == value), "{key} is not {value} in {settings:?}");
    Ok(())
}

#[test]
fn settings_follow_the_leaders() -> Result<()> {
    /// They are asked for each minute.
    const ASKED: Duration = Duration::from_secs(90);
    let (source, target) = CLUSTERS.started()?;
    let topic = "set.topic";
    source.create_topic(topic, 1, &[("segment.ms", "3600000")])?;
    source.produce(topic, &records(0, 50, "small"))?;
    let mut mirror = mirror_of(source, target, "set", "[mirrors.topic_config]\n'retention.bytes' = '1000000000'")?;
    mirror.copy()?;
    // What would delete the copy is the source's, although the source has only its cluster's default.
    has(target, topic, "retention.ms", "604800000")?;
    says(&mirror, &["keeps less than the leader", "retention.bytes = 1000000000"])?;

    source.alter_topic(topic, &[("max.message.bytes", "2000000"), ("retention.ms", "-1")], &[])?;
    let large = Record { value: Some(vec![b'x'; 1_500_000]), ..Record::new("large", "") };
    let settings_of_large = [("message.max.bytes", "2000000"), ("batch.size", "2000000")];
    source.produce_with(topic, &[large.to_partition(0)], &settings_of_large)?;
    mirror.copy().context("a larger record")?;
    identical(source, target, topic)?;
    has(target, topic, "retention.ms", "-1")?;
    has(target, topic, "retention.bytes", "1000000000")?;

    let running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || says(&mirror, &["partition=set.topic-0", "compared"]))?;
    // What is set no more goes from the copy where this process has seen it set.
    source.alter_topic(topic, &[("retention.ms", "90000000")], &[])?;
    comes(ASKED, &mirror, || has(target, topic, "retention.ms", "90000000"))?;
    source.alter_topic(topic, &[("retention.ms", "86400000")], &["segment.ms"])?;
    comes(ASKED, &mirror, || {
        has(target, topic, "retention.ms", "86400000")?;
        let gone = target.topic_settings(topic)?;
        ensure!(gone.get("segment.ms").is_none_or(|is| is != "3600000"), "what the source sets no more is still there: {gone:?}");
        Ok(())
    })?;
    drop(running);

    // Without it only a word is said.
    mirror.write(source, target, &lines_of("set", "sync_topic_configs = false"))?;
    target.alter_topic(topic, &[("retention.ms", "3600000")], &[])?;
    mirror.copy().context("without following")?;
    says(&mirror, &["keeps less than the leader", "retention.ms = 3600000"])?;
    has(target, topic, "retention.ms", "3600000")
}

/// What the source took under the settings before, the target must take too.
#[test]
fn settings_that_become_stricter_wait_for_what_was_there() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    let (large, keyless) = ("strict.large", "strict.keyless");
    source.create_topic(large, 1, &[("max.message.bytes", "2000000")])?;
    source.create_topic(keyless, 1, &[])?;
    let mut mirror = mirror_of(source, target, "strict", "")?;
    mirror.copy()?;
    let of_large = [("message.max.bytes", "2000000"), ("batch.size", "2000000")];
    source.produce_with(large, &[Record { value: Some(vec![b'x'; 1_500_000]), ..Record::new("large", "") }.to_partition(0)], &of_large)?;
    source.produce(keyless, &[Record { key: None, ..Record::new("", "no key") }.to_partition(0)])?;
    source.alter_topic(large, &[("max.message.bytes", "1000000")], &[])?;
    source.alter_topic(keyless, &[("cleanup.policy", "compact")], &[])?;
    source.produce(keyless, &records(0, 10, "with a key"))?;
    for run in ["with what was there", "and then the settings"] {
        mirror.copy().context(run)?;
    }
    ensure!(target.log_ends(large)? == [1] && target.log_ends(keyless)? == [11], "not all is there");
    has(target, large, "max.message.bytes", "1000000")?;
    has(target, keyless, "cleanup.policy", "compact")?;

    // Padding obeys a limit too.
    source.create_topic("tiny.late", 1, &[])?;
    source.produce("tiny.late", &records(0, 5_000, "gone"))?;
    source.delete_records("tiny.late", 0, 4_990)?;
    let mut tiny = mirror_of(source, target, "tiny", "[mirrors.topic_config]\n'max.message.bytes' = '500'")?;
    tiny.copy()?;
    identical(source, target, "tiny.late")
}

/// What only a copy needs goes, and so does what the mirror keeps; not while something is missing or a mirror runs.
#[test]
fn a_mirror_is_finished() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("over.stamped", 1, &[("message.timestamp.type", "LogAppendTime"), ("compression.type", "zstd")])?;
    source.create_topic("over.plain", 1, &[])?;
    for topic in ["over.stamped", "over.plain"] {
        source.produce(topic, &records(0, 20, "first"))?;
    }
    let mut mirror = mirror_of(source, target, "over", "[mirrors.topic_config]\n'message.timestamp.after.max.ms' = '86400000'")?;
    mirror.copy()?;
    let finish = |mirror: &Mirror, arguments: &[&str], code: i32, words: &[&str]| -> Result<()> {
        let ended = mirror.kferry(&[&["finish"], arguments].concat())?;
        let said = words.iter().all(|word| ended.log.contains(word));
        ensure!(
            ended.code == Some(code) && said,
            "{arguments:?} ended with {:?}, and {words:?} are not all in:\n{}",
            ended.code,
            ended.log
        );
        Ok(())
    };
    source.produce("over.plain", &records(0, 5, "second"))?;
    finish(&mirror, &["--apply"], 1, &["over.plain-0 (5)", "--leave-behind"])?;
    // By the logs as they are, and not by what was kept: a topic that was never copied, one that is gone, one that is another now.
    mirror.copy()?;
    for topic in ["over.gone", "over.emptied", "over.anew"] {
        source.create_topic(topic, 1, &[])?;
        source.produce(topic, &records(0, 7, "first"))?;
    }
    finish(&mirror, &["--apply"], 1, &["over.gone-0 (7)", "over.emptied-0 (7)", "over.anew-0 (7)"])?;
    mirror.copy()?;
    target.delete_topic("over.gone")?;
    target.delete_topic("over.emptied")?;
    target.create_topic("over.emptied", 1, &[])?;
    source.delete_topic("over.anew")?;
    source.create_topic("over.anew", 1, &[])?;
    source.produce("over.anew", &records(0, 7, "other"))?;
    finish(
        &mirror,
        &["--apply"],
        1,
        &["over.gone-0 (7)", "over.emptied-0 (7)", "over.anew-0: the topic was deleted and created anew on source"],
    )?;
    for topic in ["over.gone", "over.emptied", "over.anew"] {
        source.delete_topic(topic)?;
    }
    let running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || identical(source, target, "over.plain"))?;
    comes(LIMIT, &mirror, || finish(&mirror, &["--apply"], 1, &["1 process of kferry-mirror: stop"]))?;
    drop(running);
    // It was killed before it had kept how far it was.
    mirror.copy()?;
    comes(LIMIT, &mirror, || {
        finish(&mirror, &[], 1, &["to do: over.stamped: compression.type = zstd", "__kferry.mirror.over: is deleted"])
    })?;
    has(target, "over.stamped", "message.timestamp.type", "CreateTime")?;
    // One that was killed is a member of its group for 15 s.
    comes(LIMIT, &mirror, || finish(&mirror, &["--apply", "--json"], 0, &["\"ok\": true"]))?;
    has(target, "over.stamped", "message.timestamp.type", "LogAppendTime")?;
    has(target, "over.stamped", "compression.type", "zstd")?;
    let plain = target.topic_settings("over.plain")?;
    let left = plain.keys().find(|key| *key == "compression.type" || key.contains("timestamp.before"));
    ensure!(left.is_none(), "{left:?} is still in {plain:?}");
    has(target, "over.plain", "message.timestamp.after.max.ms", "86400000").context("what the file sets stays")?;
    comes(LIMIT, &mirror, || {
        ensure!(!target.list_topics()?.contains(&"__kferry.mirror.over".to_owned()), "the state is still there");
        Ok(())
    })?;
    finish(&mirror, &["--apply"], 0, &["nothing of it is left on target"])
}

/// A broker that throttles answers at once, and then does not read for longer than any request may take.
#[test]
fn a_quota_makes_it_slower_and_is_no_broker_that_hangs() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    let bootstrap = target.bootstrap_servers(Listener::Plaintext)?;
    let of_the_mirror = ["--bootstrap-server", &bootstrap, "--alter", "--entity-type", "clients", "--entity-name", "kferry-mirror-slow"];
    target.tool("kafka.admin.ConfigCommand", &[&of_the_mirror[..], &["--add-config", "producer_byte_rate=15000"]].concat())?;
    source.create_topic("slow.topic", 1, &[])?;
    for n in 0..2 {
        source.produce("slow.topic", &[Record::new(n.to_string(), vec![b'x'; 900_000]).to_partition(0)])?;
    }
    let mut mirror = mirror_of(source, target, "slow", "")?;
    let running = mirror.start(&[])?;
    comes(2 * LIMIT, &mirror, || identical(source, target, "slow.topic"))?;
    drop(running);
    says(&mirror, &["a broker throttles the mirror by a quota", "cluster=\"target\""])?;
    let logs = mirror.logs()?;
    ensure!(
        !logs.contains("slow.topic-0") || !logs.contains("no answer to Produce"),
        "it gave up before the broker's time was over:\n{logs}"
    );
    Ok(())
}

/// Two names become one: nothing is written where it would be mixed, and the topic that was there first goes on.
#[test]
fn names_that_become_one_are_refused() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    for offsets in ["preserve", "translate"] {
        let rename = format!("offsets = '{offsets}'\n[[mirrors.rename_regex]]\nmatch = '{offsets}\\.(.)-.*'\nto = '{offsets}.$1.one'");
        let name = |topic: &str| format!("{offsets}.{topic}");
        for topic in ["a-1", "a-2", "b-1"] {
            source.create_topic(&name(topic), 1, &[])?;
            source.produce(&name(topic), &records(0, 20, topic))?;
        }
        let mut mirror = mirror_of(source, target, offsets, &rename)?;
        for topic in ["a-1", "a-2"] {
            stops(&mut mirror, &[&format!("partition={:?} ", name(topic)), &name("a-1"), &name("a-2"), &name("a.one")])?;
        }
        ensure!(!target.list_topics()?.contains(&name("a.one")), "{offsets}: it was created");
        ensure!(target.read_all(&name("b.one"))?.len() == 20, "{offsets}: the other one was not copied");
        source.delete_topic(&name("a-2"))?;
        mirror.copy().context("one of the two is gone")?;

        // One more comes later, stopped and running.
        source.create_topic(&name("b-2"), 1, &[])?;
        source.produce(&name("b-2"), &records(0, 20, "later"))?;
        source.produce(&name("b-1"), &records(0, 20, "second"))?;
        stops(&mut mirror, &[&format!("partition={:?} ", name("b-2")), &name("b-1"), &name("b.one")])?;
        let running = mirror.start(&[])?;
        source.create_topic(&name("a-3"), 1, &[])?;
        source.produce(&name("a-3"), &records(0, 20, "later"))?;
        source.produce(&name("a-1"), &records(0, 20, "second"))?;
        comes(LIMIT, &mirror, || says(&mirror, &["the topic cannot be copied", &format!("topic={:?}", name("a-3")), &name("a.one")]))?;
        comes(LIMIT, &mirror, || {
            for one in ["a", "b"] {
                let read = target.read_all(&name(&format!("{one}.one")))?;
                let values: Vec<_> = read.iter().filter_map(|record| record.value.clone()).collect();
                let expected = source.read_all(&name(&format!("{one}-1")))?;
                let expected: Vec<_> = expected.iter().filter_map(|record| record.value.clone()).collect();
                ensure!(values == expected, "{offsets}: {one} has {} records, the source {}", values.len(), expected.len());
            }
            Ok(())
        })?;
        let partitions = mirror.http("GET", "/partitions")?.body;
        ensure!(partitions.contains(&name("a-3")) && partitions.contains("would both be"), "/partitions: {partitions}");
        drop(running);
    }
    Ok(())
}

/// A right that is missing for one topic is that topic's trouble alone.
#[test]
fn a_right_that_is_missing_for_one_topic_stops_no_other() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    target.add_acls(&[
        Acl::allow(BOB.name, Operation::All, Resource::Topic("*".to_owned())),
        Acl::allow(BOB.name, Operation::Read, Resource::Group("*".to_owned())),
        Acl::deny(BOB.name, Operation::AlterConfigs, Resource::Topic("denied.compacted".to_owned())),
    ])?;
    source.create_topic("denied.compacted", 1, &[])?;
    source.create_topic("denied.other", 1, &[])?;
    for topic in ["denied.compacted", "denied.other"] {
        source.produce(topic, &records(0, 30, "first"))?;
    }
    source.delete_records("denied.compacted", 0, 10)?;
    source.alter_topic("denied.compacted", &[("cleanup.policy", "compact")], &[])?;
    let mut mirror = Mirror::new_as(BOB, source, target, &lines_of("denied", ""))?;
    let running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || says(&mirror, &["cannot go after the leader's", "denied.compacted", "ALTER_CONFIGS"]))?;
    source.create_topic("denied.later", 1, &[])?;
    source.produce("denied.later", &records(0, 30, "later"))?;
    for topic in ["denied.other", "denied.later"] {
        comes(LIMIT, &mirror, || identical(source, target, topic))?;
    }
    comes(LIMIT, &mirror, || {
        ensure!(target.log_ends("denied.compacted")? == [30], "it is not copied");
        Ok(())
    })?;
    drop(running);
    stops(&mut mirror, &["partition=\"denied.compacted\" ", "cleanup.policy", "ALTER_CONFIGS"])
}

/// What was copied is no padding, although the state does not know of it: as after a kill before it was kept.
#[test]
fn records_that_are_gone_although_nothing_was_kept() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("unkept.records", 1, &[])?;
    source.produce("unkept.records", &records(0, 100, "first"))?;
    let mut mirror = mirror_of(source, target, "unkept", "on_error = 'fail'")?;
    mirror.copy()?;
    let forgotten = Record { value: None, ..Record::new(r#"{"topic":"unkept.records","partition":0}"#, "") };
    for partition in 0..target.partitions(UNKEPT)?.len() {
        target.produce(UNKEPT, &[forgotten.clone().to_partition(partition as i32)])?;
    }
    source.produce("unkept.records", &records(0, 100, "second"))?;
    source.delete_records("unkept.records", 0, 150)?;
    stops(&mut mirror, &["unkept.records-0", "100 to 149", "begins at 150", "on_lost"])?;
    let logs = mirror.logs()?;
    ensure!(!logs.contains("Mend it"), "it gives advice that cannot help: {logs}");
    let (starts, ends) = (target.log_starts("unkept.records")?, target.log_ends("unkept.records")?);
    ensure!((&starts[..], &ends[..]) == (&[0], &[100]), "the copy is from {starts:?} to {ends:?} now");
    mirror.write(source, target, &lines_of("unkept", "on_error = 'skip'"))?;
    mirror.copy().context("with skip")?;
    identical(source, target, "unkept.records")
}

/// A record that is too large for the target is mostly larger than what producers put into one batch, and so alone in its own.
fn alone_in_its_batch(source: &Cluster, target: &Cluster, mirror: &mut Mirror, on_error: &str) -> Result<()> {
    let topic = format!("{on_error}.alone");
    source.create_topic(&topic, 1, &[])?;
    for (n, len) in [10, 50_000, 10, 60_000, 70_000, 10].into_iter().enumerate() {
        source.produce(&topic, &[Record::new(n.to_string(), vec![b'x'; len]).to_partition(0)])?;
    }
    mirror.arguments(&[]);
    mirror.copy_but_for_what_was_left_out().context("alone in its batch")?;
    let keys: Vec<_> = target.read_all(&topic)?.into_iter().map(|record| record.key.unwrap_or_default()).collect();
    ensure!(keys == [b"0", b"2", b"5"], "the target has {keys:?}");
    ensure!(source.log_ends(&topic)? == target.log_ends(&topic)?, "the ends are {:?}", target.log_ends(&topic)?);
    if on_error == "dead-letter" {
        let letters: Vec<_> = target.read_all(&format!("{topic}.DLT"))?.into_iter().map(|record| record.key.unwrap_or_default()).collect();
        ensure!(letters == [b"1", b"3", b"4"], "the dead letters are {letters:?}");
    }
    Ok(())
}

/// One record of forty is too large for the target, all in one batch.
#[test]
fn one_record_is_refused_and_the_others_are_copied() -> Result<()> {
    const LARGE: i64 = 17;
    let (source, target) = CLUSTERS.started()?;
    let all = ["fail", "skip", "dead-letter"];
    thread::scope(|scope| {
        let one = |on_error: &'static str| -> Result<()> {
            let topic = format!("{on_error}.refused");
            source.create_topic(&topic, 1, &[])?;
            let mut batch = records(0, 40, "small");
            batch[LARGE as usize].value = Some(vec![b'x'; 50_000]);
            source.produce_with(&topic, &batch, &[("linger.ms", "500")])?;
            let lines = format!("on_error = '{on_error}'\n[mirrors.topic_config]\n'max.message.bytes' = '20000'");
            let mut mirror = mirror_of(source, target, on_error, &lines)?;
            if on_error == "fail" {
                stops(&mut mirror, &["fail.refused-0", "offset 17", "MessageTooLarge", "on_error"])?;
                ensure!(target.log_ends(&topic)? == [LARGE], "the log ends at {:?}", target.log_ends(&topic)?);
                mirror.write(source, target, &lines_of(on_error, "on_error = 'fail'"))?;
                mirror.copy().context("mended")?;
                return identical(source, target, &topic);
            }
            let all_but_one = |records: Vec<Record>| records.into_iter().filter(|record| record.offset != LARGE).collect::<Vec<_>>();
            for (run, arguments) in [("first", &[][..]), ("second", &[]), ("accepted", &["--accept", topic.as_str()])] {
                mirror.arguments(arguments);
                mirror.copy_but_for_what_was_left_out().context(run)?;
                ensure!(all_but_one(source.read_all(&topic)?) == target.read_all(&topic)?, "{run}: the records differ");
                ensure!(source.log_ends(&topic)? == target.log_ends(&topic)?, "{run}: the ends are {:?}", target.log_ends(&topic)?);
                source.produce(&topic, &records(0, 20, run))?;
            }
            says(&mirror, &["left out", "offset=17"])?;
            alone_in_its_batch(source, target, &mut mirror, on_error)?;
            if on_error == "dead-letter" {
                let letters = target.read_all("dead-letter.refused.DLT")?;
                let [letter] = &letters[..] else { bail!("there are {} dead letters", letters.len()) };
                let header = |name: &str| letter.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone());
                ensure!((&letter.key, &letter.value) == (&batch[LARGE as usize].key, &batch[LARGE as usize].value), "another record");
                for (name, value) in
                    [("topic", topic.as_str()), ("partition", "0"), ("offset", "17"), ("exception.class.name", "MessageTooLarge")]
                {
                    let found = header(&format!("__connect.errors.{name}"));
                    ensure!(found.as_deref() == Some(value.as_bytes()), "{name} is {found:?}");
                }
            }
            Ok(())
        };
        let running = all.map(|on_error| (on_error, scope.spawn(move || one(on_error))));
        running.into_iter().try_for_each(|(on_error, one)| one.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))).context(on_error))
    })
}

#[test]
fn without_the_right_to_write_markers() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    for user in [ALICE, BOB] {
        target.add_acls(&[Acl::allow(user.name, Operation::All, Resource::Topic("*".to_owned()))])?;
    }
    target.add_acls(&[Acl::allow(ALICE.name, Operation::Write, Resource::TransactionalId("kferry-mirror-alice.holes-0".to_owned()))])?;
    for user in [ALICE, BOB] {
        let [holes, none] = ["holes", "none"].map(|topic| format!("{}.{topic}", user.name));
        source.create_topic(&holes, 1, &[])?;
        transactions(source, &holes, 20)?;
        source.create_topic(&none, 1, &[])?;
        source.produce(&none, &records(0, 100, "first"))?;
        let mut mirror = Mirror::new_as(user, source, target, &lines_of(user.name, ""))?;
        if user.name == ALICE.name {
            mirror.copy()?;
            identical(source, target, &holes)?;
        } else {
            stops(&mut mirror, &["bob.holes-0", "offset 0 holds no record", "WRITE on the transactional id"])?;
        }
        identical(source, target, &none)?;
    }
    Ok(())
}

/// A mirror that is killed may leave an empty transaction open, whose marker lands when its successor asks for a producer id.
#[test]
fn a_transaction_that_was_left_open_is_ended_before_its_successor_begins() -> Result<()> {
    const TOPIC: &str = "left.open";
    const ID: &str = "kferry-mirror-left.open-0";
    let (source, target) = CLUSTERS.started()?;
    target.add_acls(&[
        Acl::allow(ALICE.name, Operation::All, Resource::Topic("*".to_owned())),
        Acl::allow(ALICE.name, Operation::Write, Resource::TransactionalId(ID.to_owned())),
    ])?;
    source.create_topic(TOPIC, 1, &[])?;
    let mut mirror = Mirror::new_as(ALICE, source, target, &lines_of("left", ""))?;
    mirror.copy()?;
    transactions(source, TOPIC, 60)?;
    let address = target.address(11, Listener::Plaintext)?;
    let (host, port) = address.rsplit_once(':').context("host:port")?;
    let settings = kferry_config::Cluster {
        name: "target".into(),
        id: 2,
        bootstrap_servers: vec![HostPort { host: host.to_owned(), port: port.parse()? }],
        brokers: None,
        security: Security { tls: None, sasl: None },
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = Client::new(Arc::new(settings), ConnectOptions::default());
        let killed = client.init_producer_id(ID, LIMIT).await?;
        client.add_partitions_to_txn(ID, killed, &[TopicPartition::new(TOPIC, 0)]).await
    })?;
    ensure!(target.log_ends(TOPIC)? == [0], "its marker is there already");
    mirror.copy().context("after a transaction was left open")?;
    identical(source, target, TOPIC)?;

    transactions(source, TOPIC, 400)?;
    for _ in 0..6 {
        let mut process = mirror.start(&[])?;
        thread::sleep(Duration::from_millis(700));
        process.kill();
    }
    mirror.copy().context("after kills")?;
    identical(source, target, TOPIC)
}

/// Says in the mirror's state who leads a topic.
fn turn(target: &Cluster, topic: &str, leader: &str, term: i32) -> Result<()> {
    let (key, value) = (format!("{{\"topic\":\"{topic}\"}}"), format!("{{\"leader\":\"{leader}\",\"term\":{term}}}"));
    let mirror = topic.split('.').next().unwrap_or_default();
    target.produce(&format!("__kferry.mirror.{mirror}"), &[Record::new(key, value)])
}

/// Who leads in the terms after the first.
const TERMS: [(&str, i32); 3] = [("target", 2), ("source", 3), ("target", 4)];

#[test]
fn the_direction_turns() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("turn.topic", 2, &[])?;
    source.create_topic("turn.none", 1, &[])?;
    source.produce("turn.topic", &[records(0, 70, "first"), records(1, 80, "first")].concat())?;
    let mut mirror = mirror_of(source, target, "turn", "")?;
    mirror.copy()?;
    for (leader, term) in TERMS {
        turn(target, "turn.topic", leader, term)?;
        let leader = if leader == "source" { source } else { target };
        leader.produce("turn.topic", &[records(0, 30, &format!("term {term}")), records(1, 40, &format!("term {term}"))].concat())?;
        transactions(leader, "turn.topic", 5)?;
        source.produce("turn.none", &records(0, 10, "always"))?;
        mirror.copy().with_context(|| format!("term {term}"))?;
        for topic in ["turn.topic", "turn.none"] {
            identical(source, target, topic).with_context(|| format!("term {term}"))?;
        }
    }
    // Whoever leads no more and is written to has diverged.
    source.produce("turn.topic", &records(1, 1, "foreign"))?;
    stops(&mut mirror, &["turn.topic-1 on source ends at", "turn.topic-1 on target", "--accept turn.topic"])
}

#[test]
fn the_direction_turns_while_it_runs() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("turning.topic", 2, &[])?;
    source.create_topic("turning.none", 1, &[])?;
    source.produce("turning.topic", &[records(0, 70, "first"), records(1, 80, "first")].concat())?;
    let mut mirror = mirror_of(source, target, "turning", "")?;
    let _running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || identical(source, target, "turning.topic"))?;
    for (leader, term) in TERMS {
        turn(target, "turning.topic", leader, term)?;
        let leader = if leader == "source" { source } else { target };
        for part in 0..5 {
            leader.produce(
                "turning.topic",
                &[records(0, 30, &format!("{term} {part}")), records(1, 40, &format!("{term} {part}"))].concat(),
            )?;
            source.produce("turning.none", &records(0, 10, "always"))?;
        }
        for topic in ["turning.topic", "turning.none"] {
            comes(LIMIT, &mirror, || identical(source, target, topic)).with_context(|| format!("term {term}"))?;
        }
    }
    Ok(())
}

/// A topic of one partition whose leader is, or is not, this broker. Which one leads it the cluster decides.
fn led_by(cluster: &Cluster, prefix: &str, wanted: impl Fn(i32) -> bool) -> Result<(String, i32)> {
    for n in 0..50 {
        let topic = format!("{prefix}.{n}");
        cluster.create_topic(&topic, 1, &[("min.insync.replicas", "1")])?;
        let leader = cluster.partitions(&topic)?[0].leader;
        if wanted(leader) {
            return Ok((topic, leader));
        }
        cluster.delete_topic(&topic)?;
    }
    bail!("no topic of {prefix} is led by a broker that is wanted");
}

/// A source of two brokers, for one test: the second one, which has no vote in the quorum, can be killed or frozen.
fn source_of_two(name: &str) -> Result<(Cluster, i32)> {
    Ok((Cluster::version("3.9.1").name(name).brokers(2).set("default.replication.factor", "1").start()?, 2))
}

/// A topic without a leader, its only broker being down, is tried again and again; all others are copied, also those that come later.
#[test]
fn a_topic_without_a_leader_stops_no_other() -> Result<()> {
    /// Two minutes without getting on, and the question that is under way then.
    const GIVEN_UP: Duration = Duration::from_mins(4);
    let (_, target) = CLUSTERS.started()?;
    let (source, killed) = &source_of_two("down")?;
    let killed = *killed;
    let (down, _) = led_by(source, "down.a", |leader| leader == killed)?;
    let (other, _) = led_by(source, "down.b", |leader| leader != killed)?;
    for topic in [&down, &other] {
        source.produce(topic, &records(0, 50, "first"))?;
    }
    source.kill(killed)?;
    let mut once = mirror_of(source, target, "down", "")?;
    let mut copied_once = once.start(&["--once"])?;
    let mut mirror = Mirror::named("down2", source, target, &lines_of("down", "[[mirrors.rename_regex]]\nmatch = '(.*)'\nto = '$1.2'"))?;
    let _running = mirror.start(&[])?;
    let copied = |topic: &str, on_target: &str| -> Result<()> {
        let (expected, actual) = (source.log_ends(topic)?, target.log_ends(on_target)?);
        ensure!(expected == actual, "{topic} ends at {expected:?}, {on_target} at {actual:?}");
        Ok(())
    };
    comes(LIMIT, &mirror, || copied(&other, &format!("{other}.2")))?;
    let (later, _) = led_by(source, "down.c", |leader| leader != killed)?;
    source.produce(&later, &records(0, 50, "later"))?;
    comes(LIMIT, &mirror, || copied(&later, &format!("{later}.2")))?;
    let status = copied_once.wait(GIVEN_UP)?;
    let logs = once.logs()?;
    let told = logs.lines().any(|line| line.contains("not copied") && line.contains(&format!("partition=\"{down}-0\"")));
    ensure!(status.code() == Some(1) && told, "--once ended with {status:?}: {logs}");
    comes(GIVEN_UP, &mirror, || {
        let partitions = mirror.http("GET", "/partitions")?.body;
        ensure!(partitions.contains(r#""phase":"failed""#), "/partitions: {partitions}");
        // That was the first look at the partition: from then on the process is ready.
        let ready = mirror.http("GET", "/readyz")?;
        ensure!(ready.status == 200 && ready.body.contains("1 partitions stand still"), "/readyz: {} {}", ready.status, ready.body);
        Ok(())
    })?;
    source.restart(killed)?;
    comes(LIMIT, &mirror, || copied(&down, &format!("{down}.2")))
}

/// What a hung broker has in flight takes 40 s to be given up. Only its own partitions wait for that, also when another topic changes its leader.
#[test]
fn a_topic_that_turns_leaves_the_others_alone_though_a_broker_hangs() -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(6);
    let (_, target) = CLUSTERS.started()?;
    let (source, hanging) = &source_of_two("apart")?;
    let hanging = *hanging;
    let (turned, _) = led_by(source, "apart.turned", |leader| leader != hanging)?;
    let (hung, _) = led_by(source, "apart.hung", |leader| leader == hanging)?;
    let (other, _) = led_by(source, "apart.other", |other| other != hanging)?;
    for topic in [&turned, &hung, &other] {
        source.produce(topic, &records(0, 50, "first"))?;
    }
    let mut mirror = mirror_of(source, target, "apart", "")?;
    let _running = mirror.start(&[])?;
    for topic in [&turned, &hung, &other] {
        comes(LIMIT, &mirror, || identical(source, target, topic))?;
    }
    source.freeze(hanging)?;
    let (mut turns, mut longest) = (false, Duration::ZERO);
    let (began, mut end, mut grew) = (Instant::now(), 0, Instant::now());
    while began.elapsed() < Duration::from_secs(12) {
        let began_to_produce = Instant::now();
        source.produce(&other, &records(0, 1, "meanwhile"))?;
        // A new producer that begins with the broker that hangs may take half a minute to find another one.
        grew += began_to_produce.elapsed();
        let now = target.log_ends(&other)?[0];
        if now > end {
            longest = longest.max(grew.elapsed());
            (end, grew) = (now, Instant::now());
        }
        if !turns && began.elapsed() > Duration::from_secs(1) {
            turn(target, &turned, "target", 2)?;
            turns = true;
        }
    }
    longest = longest.max(grew.elapsed());
    println!("the longest pause of a partition beside one that turns and one whose broker hangs: {longest:.2?}");
    ensure!(longest < PAUSE, "{other} paused for {longest:?}: {}", mirror.logs()?);
    target.produce(&turned, &records(0, 30, "backwards"))?;
    comes(LIMIT, &mirror, || {
        let ends = (source.log_ends(&turned)?, target.log_ends(&turned)?);
        ensure!(ends.0 == [80] && ends.1 == [80], "{turned} ends at {ends:?}");
        Ok(())
    })?;
    source.thaw(hanging)?;
    source.produce(&hung, &records(0, 10, "later"))?;
    comes(LIMIT, &mirror, || identical(source, target, &hung))
}

#[test]
fn what_the_leader_deletes_and_adds() -> Result<()> {
    let (source, target) = CLUSTERS.started()?;
    source.create_topic("grow.starts", 1, &[])?;
    source.create_topic("grow.partitions", 1, &[])?;
    let compact = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.bytes", "50000")];
    source.create_topic("grow.compacted", 1, &compact)?;
    for topic in ["grow.starts", "grow.partitions", "grow.compacted"] {
        source.produce(topic, &records(0, 300, "first"))?;
    }
    let mut mirror = mirror_of(source, target, "grow", "")?;
    let running = mirror.start(&[])?;
    comes(LIMIT, &mirror, || {
        ["grow.starts", "grow.partitions", "grow.compacted"].iter().try_for_each(|topic| identical(source, target, topic))
    })?;

    source.delete_records("grow.starts", 0, 50)?;
    let servers = source.bootstrap_servers(Listener::Plaintext)?;
    source.tool(
        "org.apache.kafka.tools.TopicCommand",
        &["--bootstrap-server", &servers, "--alter", "--topic", "grow.partitions", "--partitions", "3"],
    )?;
    source.produce("grow.partitions", &[records(1, 40, "second"), records(2, 50, "second")].concat())?;
    source.create_topic("grow.new", 2, &[])?;
    source.produce("grow.new", &records(1, 60, "new"))?;
    // What is still one segment on the target is compacted on the source.
    let mut sizes = (0, 0);
    for round in 0..20 {
        let more = records(0, 300, &format!("round {round} {}", "lorem ipsum ".repeat(20)));
        source.produce_with("grow.compacted", &more, &[("batch.size", "10000")])?;
    }
    comes(FOLLOWED, &mirror, || {
        let starts = target.log_starts("grow.starts")?;
        ensure!(starts == [50], "the log starts at {starts:?}");
        Ok(())
    })?;
    comes(FOLLOWED, &mirror, || ["grow.partitions", "grow.new"].iter().try_for_each(|topic| identical(source, target, topic)))?;
    let deadline = Instant::now() + LIMIT;
    while sizes.0 == sizes.1 || sizes.0 > 2_000 {
        ensure!(Instant::now() < deadline, "the source has {} records and the target {}: no side was compacted alone", sizes.0, sizes.1);
        thread::sleep(Duration::from_millis(200));
        sizes = (source.record_count("grow.compacted")?, target.record_count("grow.compacted")?);
    }
    drop(running);

    // Each log lives its own life: what only one of them still has is no difference.
    target.delete_records("grow.starts", 0, 100)?;
    source.produce("grow.starts", &records(0, 10, "third"))?;
    mirror.arguments(&["--accept", "grow.starts", "--accept", "grow.compacted"]);
    mirror.copy().context("compared as a whole")?;
    same_last_records(source, target, "grow.compacted")?;
    source.delete_records("grow.starts", 0, 120)?;
    mirror.copy().context("once more")
}

/// Topics of the formats before magic 2, and what they hold.
fn make_old_formats(old: &Cluster) -> Result<Vec<(String, Vec<Record>)>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let mut of_old_formats = Vec::new();
    for (format, codec) in [("0.9.0", "gzip"), ("0.9.0", "uncompressed"), ("0.10.0", "gzip"), ("0.10.0", "uncompressed")] {
        let topic = format!("old.{format}.{codec}");
        old.create_topic(&topic, 1, &[("message.format.version", format), ("compression.type", codec)])?;
        let mut batch = records(0, 100, "first");
        (batch[3].value, batch[5].key) = (None, None);
        for (offset, record) in (0..).zip(&mut batch) {
            (record.offset, record.timestamp) = (offset, Some(now + offset));
        }
        // These formats have no room for a producer id.
        old.produce_with(&topic, &batch, &[("enable.idempotence", "false"), ("linger.ms", "5"), ("batch.num.messages", "7")])?;
        if format == "0.9.0" {
            for record in &mut batch {
                record.timestamp = None;
            }
        }
        of_old_formats.push((topic, batch));
    }
    // One letter over and over: a wrapper of a few KB holds 2 MB of records, more than the target takes in a batch.
    let one_letter: Vec<_> = (0..2_000)
        .map(|offset| Record {
            offset,
            timestamp: Some(now + offset),
            ..Record::new(format!("{offset}"), vec![b'x'; 1_000]).to_partition(0)
        })
        .collect();
    old.create_topic("old.letters", 1, &[("message.format.version", "0.10.0"), ("compression.type", "producer")])?;
    let wrapped = [
        ("enable.idempotence", "false"),
        ("compression.type", "gzip"),
        ("linger.ms", "1000"),
        ("batch.num.messages", "2000"),
        ("batch.size", "4000000"),
        ("message.max.bytes", "4000000"),
    ];
    old.produce_with("old.letters", &one_letter, &wrapped)?;
    let leader = old.partitions("old.letters")?[0].leader;
    let stored = fs::metadata(old.folder().join(format!("{leader}.data/old.letters-0/00000000000000000000.log")))?.len();
    ensure!(stored < 100_000, "{stored} bytes are no wrapper of gzip");
    of_old_formats.push(("old.letters".to_owned(), one_letter));
    Ok(of_old_formats)
}

/// The brokers of the older cluster lose what only one of them had. ZooKeeper keeps the others going whichever is killed.
#[test]
fn an_unclean_election_is_told_and_old_formats_are_copied() -> Result<()> {
    let clusters = Cluster::start_all(vec![
        Cluster::version("2.8.2").name("old").brokers(2).set("unclean.leader.election.enable", "true"),
        Cluster::version("4.3.0").name("new").first_node_id(11),
    ])?;
    let [old, new] = &clusters[..] else { bail!("two clusters were asked for") };
    let of_old_formats = make_old_formats(old)?;
    for (topic, policy) in [("old.unclean", "delete"), ("old.overtaken", "delete"), ("old.keyed", "compact")] {
        old.create_topic(topic, 1, &[("cleanup.policy", policy)])?;
        old.produce(topic, &records(0, 100, "first"))?;
    }
    let mut from_old = mirror_of(old, new, "old", "")?;
    from_old.copy()?;
    identical(old, new, "old.unclean")?;
    // librdkafka gets no end of such a log from Kafka 2.8, so the target is compared with what was produced.
    for (topic, expected) in of_old_formats {
        let actual = new.read_all(&topic)?;
        let differ = expected.iter().zip(&actual).find(|(expected, actual)| expected != actual);
        ensure!(differ.is_none() && actual.len() == expected.len(), "{topic}: {} records, {differ:?}", actual.len());
    }

    let mut to_old = Vec::new();
    for on_error in ["fail", "skip"] {
        let topic = format!("{on_error}.unclean");
        new.create_topic(&topic, 1, &[])?;
        new.produce(&topic, &records(0, 100, "first"))?;
        let mut mirror = mirror_of(new, old, on_error, &format!("on_error = '{on_error}'\nreplication_factor = 2"))?;
        let running = mirror.start(&[])?;
        comes(LIMIT, &mirror, || identical(new, old, &topic))?;
        to_old.push((on_error, topic, mirror, running));
    }

    let topics = ["old.unclean", "old.overtaken", "old.keyed", "fail.unclean", "skip.unclean"];
    old.kill(2)?;
    for topic in topics {
        comes(LIMIT, &from_old, || {
            let isr = old.partitions(topic)?.swap_remove(0).isr;
            ensure!(isr == [1], "{topic} has {isr:?} in sync");
            Ok(())
        })?;
    }
    for topic in ["old.unclean", "old.overtaken", "old.keyed"] {
        old.produce(topic, &records(0, 50, "lost"))?;
    }
    from_old.copy().context("one broker is left")?;
    for (on_error, topic, mirror, _) in &to_old {
        new.produce(topic, &records(0, 50, "lost"))?;
        comes(LIMIT, mirror, || identical(new, old, topic)).context("one broker is left")?;
        // What is not kept yet, nobody can miss.
        comes(LIMIT, mirror, || {
            let kept = old.read_all(&format!("__kferry.mirror.{on_error}"))?;
            let is_kept =
                |record: &Record| record.value.as_deref().is_some_and(|value| String::from_utf8_lossy(value).contains(r#""agreed":150"#));
            ensure!(kept.iter().any(is_kept), "it is not kept that 150 records were copied");
            Ok(())
        })?;
    }
    old.kill(1)?;
    old.restart(2)?;
    comes(LIMIT, &from_old, || {
        let ends = [old.log_ends("old.unclean")?, old.log_ends("old.overtaken")?, old.log_ends("old.keyed")?].concat();
        ensure!(ends == [100; 3], "no unclean election: the logs end at {ends:?}");
        Ok(())
    })?;
    // Longer than the copy by now, so the ends tell nothing.
    for topic in ["old.overtaken", "old.keyed"] {
        old.produce(topic, &records(0, 80, "other"))?;
    }
    // What the mirror keeps there is led by nobody else: what was copied is not forgotten with it.
    old.restart(1)?;

    let plan = from_old.kferry(&["plan"])?;
    for topic in ["old.overtaken", "old.keyed"] {
        let said = format!("{topic}-0 on source and {topic}-0 on target were the same and differ at offset 100 of the leader");
        ensure!(plan.code == Some(1) && plan.log.contains(&said), "{plan:?}");
    }
    stops(
        &mut from_old,
        &["old.unclean-0 on target ends at offset 150", "the end 100 of old.unclean-0 on source", "--accept old.unclean"],
    )?;
    stops(&mut from_old, &["old.overtaken-0 on source and old.overtaken-0 on target differ at offset 100"])?;
    stops(&mut from_old, &["old.keyed-0 on source and old.keyed-0 on target differ at offset 100"])?;
    for (on_error, topic, mirror, running) in &mut to_old {
        if *on_error == "skip" {
            comes(REJOINED, mirror, || identical(new, old, topic))?;
            says(mirror, &["lost records", "copied again"])?;
            continue;
        }
        comes(REJOINED, mirror, || {
            says(
                mirror,
                &[
                    "diverged",
                    "fail.unclean-0 on target ends at offset 100, and the leader's records before 150 were copied once",
                    "--accept",
                ],
            )
        })?;
        running.kill();
        mirror.arguments(&["--accept", topic.as_str()]);
        mirror.copy().context("accepted")?;
        identical(new, old, topic)?;
    }
    Ok(())
}
