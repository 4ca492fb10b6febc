//! The mirror and consumer groups, on real clusters: a group that was stopped on the source goes on exactly there on the target, and a group that
//! lives on the target is left alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::LIMIT;
use harness::kafka::{ALICE, Acl, Cluster, Commit, Fill, Listener, Operation, Record, Resource};
use harness::mirror::Mirror;
use harness::process::Process;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

/// What a group committed in a topic, by partition.
fn commits(cluster: &Cluster, group: &str, topic: &str) -> Result<Vec<(i32, Commit)>> {
    let commits = cluster.commits(group)?.into_iter().filter(|((committed, _), _)| committed == topic);
    Ok(commits.map(|((_, partition), commit)| (partition, commit)).collect())
}

fn offsets(cluster: &Cluster, group: &str, topic: &str) -> Result<Vec<(i32, i64)>> {
    Ok(commits(cluster, group, topic)?.into_iter().map(|(partition, commit)| (partition, commit.offset)).collect())
}

/// As the source has it, but for the leader epoch: it would mean nothing on another cluster.
fn copied(source: Vec<(i32, Commit)>) -> Vec<(i32, Commit)> {
    source.into_iter().map(|(partition, commit)| (partition, Commit { leader_epoch: -1, ..commit })).collect()
}

/// Offsets of records, in the order in which they came, by partition.
type Read = BTreeMap<i32, Vec<i64>>;

fn consumer(cluster: &Cluster, group: &str, settings: &[(&str, &str)]) -> Result<BaseConsumer> {
    let mut config: ClientConfig = cluster.client_config(Listener::Plaintext)?;
    config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    // A little of each partition at a time: so it is stopped in the middle of all of them.
    config.set("max.partition.fetch.bytes", "10000");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    Ok(config.create()?)
}

/// Reads until there is enough, and commits where it stopped.
fn read(consumer: &BaseConsumer, enough: impl Fn(&Read) -> bool) -> Result<Read> {
    let (mut read, deadline) = (Read::new(), Instant::now() + LIMIT);
    while !enough(&read) {
        ensure!(Instant::now() < deadline, "{:?} records came within {} s", counts(&read), LIMIT.as_secs());
        if let Some(message) = consumer.poll(Duration::from_millis(300)) {
            let message = message?;
            read.entry(message.partition()).or_default().push(message.offset());
        }
    }
    let mut next = TopicPartitionList::new();
    for (partition, offsets) in &read {
        let topic = consumer.assignment()?.elements().first().map(|one| one.topic().to_owned()).context("an assignment")?;
        next.add_partition_offset(&topic, *partition, Offset::Offset(offsets.last().context("a record")? + 1))?;
    }
    consumer.commit(&next, CommitMode::Sync)?;
    Ok(read)
}

fn counts(read: &Read) -> Vec<(i32, usize)> {
    read.iter().map(|(partition, offsets)| (*partition, offsets.len())).collect()
}

/// Each partition was read from its offset on, without a gap and nothing twice.
fn goes_on_at(read: &Read, from: &[(i32, i64)]) -> Result<()> {
    for (partition, from) in from {
        let read = read.get(partition).with_context(|| format!("nothing of partition {partition}"))?;
        let expected: Vec<i64> = (*from..*from + read.len() as i64).collect();
        ensure!(*read == expected, "partition {partition} goes on at {:?}, not at {from}, or with a gap", read.first());
    }
    Ok(())
}

/// Kafka's own console consumer, as a member of a group: reads so many records, commits where it stopped, and ends.
fn java(cluster: &Cluster, group: &str, topic: &str, count: usize, settings: &[&str]) -> Result<Read> {
    let (servers, count) = (cluster.bootstrap_servers(Listener::Plaintext)?, count.to_string());
    let config = cluster.folder().join(format!("{group}.properties"));
    let settings = [settings, &["max.partition.fetch.bytes=1000", "auto.offset.reset=earliest"]].concat();
    std::fs::write(&config, settings.join("\n"))?;
    let config = config.to_string_lossy();
    let what = ["--bootstrap-server", &servers, "--topic", topic, "--group", group, "--max-messages", &count];
    let how = ["--consumer.config", &config, "--property", "print.partition=true", "--property", "print.offset=true"];
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let printed = cluster.tool(class, &[&what[..], &how[..], &["--property", "print.value=false"]].concat())?;
    let mut read = Read::new();
    for line in printed.lines() {
        let Some((partition, rest)) = line.strip_prefix("Partition:").and_then(|line| line.split_once('\t')) else { continue };
        let offset = rest.trim().strip_prefix("Offset:").with_context(|| line.to_owned())?;
        read.entry(partition.parse()?).or_default().push(offset.parse()?);
    }
    ensure!(!read.is_empty(), "it printed\n{printed}");
    Ok(read)
}

/// A mirror that runs.
struct Running {
    mirror: Mirror,
    process: Process,
}

impl Running {
    fn start(mut mirror: Mirror) -> Result<Self> {
        let process = mirror.start(&[])?;
        let running = Self { mirror, process };
        running.until_it_answers()?;
        Ok(running)
    }

    fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = self.mirror.start(&[])?;
        self.until_it_answers()
    }

    fn until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !self.mirror.http("GET", "/readyz").is_ok_and(|answer| answer.status == 200) {
            ensure!(Instant::now() < deadline, "it is not ready:\n{}", self.mirror.logs()?);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A pass on demand, and what it found.
    fn sync(&self) -> Result<Synced> {
        let answer = self.mirror.http("POST", "/groups/sync")?;
        ensure!(answer.status == 200, "{}: {}\n{}", answer.status, answer.body, self.mirror.logs()?);
        Ok(Synced(serde_json::from_str(&answer.body).context(answer.body)?))
    }
}

/// What a pass found.
struct Synced(Value);

impl Synced {
    fn pass(&self) -> &Value {
        &self.0["passes"][0]
    }

    fn rows(&self, group: &str) -> Vec<&Value> {
        self.0["groups"].as_array().into_iter().flatten().filter(|row| row["group"] == group).collect()
    }

    /// The one row of the group is so, and its reason has these words.
    fn is(&self, group: &str, state: &str, source: i64, target: Option<i64>, words: &str) -> Result<()> {
        let rows = self.rows(group);
        let [row] = &rows[..] else { bail!("{group} has not one row but {rows:?}") };
        let reason = row["reason"].as_str().unwrap_or_default();
        let is =
            row["state"] == state && row["source_offset"] == source && row["target_offset"].as_i64() == target && reason.contains(words);
        ensure!(is, "{group} should be {state} at {source} and {target:?} with {words:?}: {row}");
        Ok(())
    }
}

fn clusters(source: &str, target: &str, settings: &[(&str, &str)]) -> Result<[Cluster; 2]> {
    let target = Cluster::version(target).name("target").first_node_id(11);
    let target = settings.iter().fold(target, |target, (key, value)| target.set(key, value));
    let clusters = Cluster::start_all(vec![Cluster::version(source).name("source"), target])?;
    clusters.try_into().map_err(|_| anyhow::anyhow!("two clusters were asked for"))
}

#[test]
fn groups_go_on_exactly_where_they_were() -> Result<()> {
    const TOPIC: &str = "orders";
    const EACH: i64 = 100_000;
    let [source, target] = &clusters("3.9.1", "4.3.0", &[])?;
    source.create_topic(TOPIC, 4, &[])?;
    let fill = Fill { records: 4 * EACH as u64, records_per_batch: 100, compression: "lz4" };
    source.fill(TOPIC, fill, |n, value| value.extend(format!("order {n}").bytes()))?;

    // Three ways to consume, each stopped somewhere in the middle of all four partitions.
    let middle = |read: &Read| read.len() == 4 && read.values().all(|offsets| offsets.len() > 20_000);
    let from_start = [("auto.offset.reset", "earliest")];
    let subscribed = consumer(source, "subscribed", &from_start)?;
    subscribed.subscribe(&[TOPIC])?;
    let by_subscribed = read(&subscribed, middle)?;
    drop(subscribed);
    let assigned = consumer(source, "assigned", &from_start)?;
    assign(&assigned, TOPIC, &[(0, 0), (1, 10), (2, 20_000), (3, 30_000)])?;
    read(&assigned, middle)?;
    drop(assigned);
    java(source, "java", TOPIC, 50_001, &[])?;
    source.commit("abandoned", TOPIC, [(2, Commit { metadata: "left here".to_owned(), ..Commit::at(77_777) })])?;

    let mut mirror = Mirror::new(source, target, "topics = \"orders\"\ngroups_regex = \".*\"")?;
    mirror.copy()?;
    let mut exact = 0;
    for group in ["subscribed", "assigned", "java"] {
        let (expected, actual) = (copied(commits(source, group, TOPIC)?), commits(target, group, TOPIC)?);
        ensure!(expected.len() == 4 && expected.iter().all(|(_, commit)| 0 < commit.offset && commit.offset < EACH), "{expected:?}");
        exact += expected.iter().filter(|commit| actual.contains(commit)).count();
    }
    println!("{exact} of 12 offsets of 3 groups on 4 partitions of {EACH} records are exact");
    ensure!(exact == 12);
    ensure!(commits(target, "abandoned", TOPIC)? == copied(commits(source, "abandoned", TOPIC)?));

    // Started again on the target: each goes on exactly there, whatever it is.
    let goes_on = |group: &str| offsets(target, group, TOPIC);
    let (at, to_the_end) = (goes_on("subscribed")?, consumer(target, "subscribed", &[])?);
    to_the_end.subscribe(&[TOPIC])?;
    let left: i64 = at.iter().map(|(_, offset)| EACH - offset).sum();
    let rest = read(&to_the_end, |read| read.values().map(Vec::len).sum::<usize>() as i64 == left)?;
    goes_on_at(&rest, &at)?;
    let all = by_subscribed.values().chain(rest.values()).map(Vec::len).sum::<usize>();
    ensure!(all as i64 == 4 * EACH, "{all} records in both runs");
    // One record more would be one twice.
    ensure!(to_the_end.poll(Duration::from_secs(1)).is_none());
    drop(to_the_end);
    let (at, again) = (goes_on("assigned")?, consumer(target, "assigned", &[])?);
    assign(&again, TOPIC, &[])?;
    goes_on_at(&read(&again, |read| read.len() == 4 && read.values().all(|offsets| offsets.len() > 100))?, &at)?;
    let at = goes_on("java")?;
    goes_on_at(&java(target, "java", TOPIC, 4 * EACH as usize - 50_001, &[])?, &at)?;

    // `OffsetCommitValue` has a time of its own to expire at in version 1 alone. Without it the cluster's rule is in force.
    let stored = target.read_all("__consumer_offsets")?;
    let has = |bytes: &Option<Vec<u8>>, text: &[u8]| bytes.as_ref().is_some_and(|bytes| bytes.windows(text.len()).any(|part| part == text));
    let versions: Vec<_> = stored
        .iter()
        .filter(|record| has(&record.key, b"abandoned"))
        .filter_map(|record| Some(record.value.as_ref()?[..2].to_vec()))
        .collect();
    ensure!(!versions.is_empty() && versions.iter().all(|version| *version != [0, 1]), "the mirror's offsets are stored as {versions:?}");
    Ok(())
}

/// Its own choice of partitions: from these offsets, or without any from what is committed.
fn assign(consumer: &BaseConsumer, topic: &str, from: &[(i32, i64)]) -> Result<()> {
    let mut assignment = TopicPartitionList::new();
    for partition in 0..4 {
        let from = from.iter().find(|(known, _)| *known == partition).map_or(Offset::Stored, |(_, offset)| Offset::Offset(*offset));
        assignment.add_partition_offset(topic, partition, from)?;
    }
    Ok(consumer.assign(&assignment)?)
}

fn numbered(partition: i32, count: usize) -> Vec<Record> {
    (0..count).map(|n| Record::new("key", n.to_string()).to_partition(partition)).collect()
}

const LINES: &str = "topics = \"orders\"
groups = \"plain\"
groups_regex = ['.*-.*']
groups_exclude_regex = 'not-.*'
groups_interval_seconds = 3600
[mirrors.rename]
orders = \"renamed.orders\"
";

#[test]
fn a_group_that_lives_on_the_target_is_left_alone() -> Result<()> {
    const TARGET: &str = "renamed.orders";
    let [source, target] = &clusters("2.8.2", "4.3.0", &[])?;
    source.create_topic("orders", 2, &[])?;
    source.create_topic("others", 1, &[])?;
    source.produce("orders", &[numbered(0, 300), numbered(1, 300)].concat())?;
    source.delete_records("orders", 1, 50)?;
    let commit = |group: &str, partition: i32, offset: i64| source.commit(group, "orders", [(partition, Commit::at(offset))]);
    source.commit("plain", "orders", [(0, Commit { offset: 10, leader_epoch: 3, metadata: "by hand".to_owned() }), (1, Commit::at(60))])?;
    commit("too-late", 1, 49)?;
    commit("just-there", 1, 50)?;
    commit("at-the-end", 0, 300)?;
    commit("beyond-it", 0, 301)?;
    commit("it-moves", 0, 100)?;
    commit("not-copied", 0, 1)?;
    commit("unmentioned", 0, 1)?;
    source.commit("somewhere-else", "others", [(0, Commit::at(0))])?;
    commit("live-member", 0, 20)?;
    commit("self-moved", 0, 30)?;
    commit("own-commits", 0, 5)?;
    target.create_topic(TARGET, 2, &[])?;
    target.commit("own-commits", TARGET, [(0, Commit::at(3))])?;
    let member = consumer(target, "live-member", &[("auto.offset.reset", "earliest")])?;
    member.subscribe(&[TARGET])?;
    let deadline = Instant::now() + LIMIT;
    while member.assignment()?.count() < 2 {
        ensure!(Instant::now() < deadline, "the member has no assignment");
        member.poll(Duration::from_millis(100)).transpose()?;
    }

    let mut running = Running::start(Mirror::new(source, target, LINES)?)?;
    let deadline = Instant::now() + LIMIT;
    while target.log_ends(TARGET)? != [300, 300] {
        ensure!(Instant::now() < deadline, "the topic is not copied:\n{}", running.mirror.logs()?);
        thread::sleep(Duration::from_millis(50));
    }
    let found = running.sync()?;
    let kept = Commit { offset: 10, leader_epoch: -1, metadata: "by hand".to_owned() };
    ensure!(commits(target, "plain", TARGET)? == [(0, kept), (1, Commit::at(60))], "{:?}", commits(target, "plain", TARGET)?);
    found.is("too-late", "below-log-start", 49, None, "renamed.orders-1 on target begins at offset 50")?;
    found.is("just-there", "in-sync", 50, Some(50), "")?;
    found.is("at-the-end", "in-sync", 300, Some(300), "")?;
    found.is("beyond-it", "waiting", 301, None, "its offset is 301, and the leader's log ends at 300")?;
    found.is("it-moves", "in-sync", 100, Some(100), "")?;
    found.is("self-moved", "in-sync", 30, Some(30), "")?;
    found.is("live-member", "lives-on-target", 20, None, "it has members on target")?;
    found.is("own-commits", "lives-on-target", 5, Some(3), "its offset on target is 3, which this mirror did not write")?;
    for group in ["not-copied", "unmentioned", "somewhere-else"] {
        ensure!(found.rows(group).is_empty() && target.commits(group)?.is_empty(), "{group}");
    }
    for group in ["too-late", "beyond-it", "live-member"] {
        ensure!(target.commits(group)?.is_empty(), "{group}: {:?}", target.commits(group)?);
    }

    transaction(source, &running)?;

    // Wherever the source goes, the target goes with it; but not where somebody else has committed meanwhile.
    commit("it-moves", 0, 200)?;
    commit("self-moved", 0, 31)?;
    target.commit("self-moved", TARGET, [(0, Commit::at(33))])?;
    let found = running.sync()?;
    found.is("it-moves", "in-sync", 200, Some(200), "")?;
    found.is("self-moved", "lives-on-target", 31, Some(33), "did not write")?;
    found.is("own-commits", "lives-on-target", 5, Some(3), "did not write")?;

    // What the member has read is its own, also when it has gone; deleted there, it is copied again.
    read(&member, |read| read.values().map(Vec::len).sum::<usize>() == 550)?;
    drop(member);
    let deadline = Instant::now() + LIMIT;
    while target.group("live-member")?.state != "Empty" {
        ensure!(Instant::now() < deadline, "the member is still there");
        thread::sleep(Duration::from_millis(50));
    }
    running.sync()?.is("live-member", "lives-on-target", 20, Some(300), "did not write")?;
    target.delete_group("live-member")?;
    running.sync()?.is("live-member", "in-sync", 20, Some(20), "")?;

    // What it wrote it knows after a kill too; backwards is a move like any other, and new metadata a change.
    running.kill_and_restart()?;
    source.commit("it-moves", "orders", [(0, Commit { metadata: "new".to_owned(), ..Commit::at(7) })])?;
    source.commit("just-there", "orders", [(1, Commit { metadata: "also new".to_owned(), ..Commit::at(50) })])?;
    commit("plain", 0, 11)?;
    let found = running.sync()?;
    found.is("it-moves", "in-sync", 7, Some(7), "")?;
    found.is("self-moved", "lives-on-target", 31, Some(33), "did not write")?;
    ensure!(commits(target, "just-there", TARGET)?[0].1.metadata == "also new");
    ensure!(offsets(target, "plain", TARGET)? == [(0, 11), (1, 60)]);
    let again = running.sync()?;
    ensure!(again.pass()["written"] == 0 && again.pass()["error"].is_null(), "{}", again.pass());
    let shown = running.mirror.http("GET", "/groups")?.body;
    ensure!(serde_json::from_str::<Value>(&shown)?["groups"] == again.0["groups"], "{shown}");
    let metrics = running.mirror.http("GET", "/metrics")?.body;
    for line in
        ["kferry_mirror_group_offsets{mirror=\"m\",state=\"lives-on-target\"} 2", "state=\"below-log-start\"} 1", "state=\"refused\"} 0"]
    {
        ensure!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    thousand_groups(source, target, &running)
}

/// Whenever it is killed, it knows afterwards what it has written, or was about to write: it never takes that for somebody else's.
fn killed_again_and_again(source: &Cluster, target: &Cluster, running: &mut Running) -> Result<()> {
    const KILLS: u64 = 3;
    let (stopped, at) = (AtomicBool::new(false), AtomicI64::new(0));
    thread::scope(|scope| {
        let committing = scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                let next = at.load(Ordering::Relaxed) % 9_000 + 1;
                source.commit("restless", "orders", (0..4).map(|partition| (partition, Commit::at(next))))?;
                at.store(next, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        let killing = (0..KILLS).try_for_each(|kill| {
            running.kill_and_restart()?;
            let (before, deadline) = (target.committed_offsets("restless")?, Instant::now() + LIMIT);
            while target.committed_offsets("restless")? == before {
                ensure!(Instant::now() < deadline, "nothing is written after {kill} kills:\n{}", running.mirror.logs()?);
                thread::sleep(Duration::from_millis(10));
            }
            // Passes begin each second: so each time at another place of one.
            thread::sleep(Duration::from_millis(900 + kill * 20));
            Ok(())
        });
        stopped.store(true, Ordering::Relaxed);
        committing.join().map_err(|_| anyhow::anyhow!("committing panicked"))??;
        killing
    })?;
    let (found, at) = (running.sync()?, at.load(Ordering::Relaxed));
    ensure!(offsets(target, "restless", "orders")? == [(0, at), (1, at), (2, at), (3, at)], "{at}: {:?}", found.rows("restless"));
    Ok(())
}

/// What a transaction is about to commit is copied when it has.
fn transaction(source: &Cluster, running: &Running) -> Result<()> {
    source.commit("in-transaction", "orders", [(0, Commit::at(10))])?;
    let reader = consumer(source, "in-transaction", &[])?;
    let producer: BaseProducer = source.client_config(Listener::Plaintext)?.set("transactional.id", "t").create()?;
    producer.init_transactions(LIMIT)?;
    producer.begin_transaction()?;
    let mut next = TopicPartitionList::new();
    next.add_partition_offset("orders", 0, Offset::Offset(40))?;
    producer.send_offsets_to_transaction(&next, &reader.group_metadata().context("a group")?, LIMIT)?;
    running.sync()?.is("in-transaction", "in-sync", 10, Some(10), "")?;
    producer.commit_transaction(LIMIT)?;
    let deadline = Instant::now() + LIMIT;
    // The marker lands in the group's log a moment later.
    while source.committed_offsets("in-transaction")?.into_values().ne([40]) {
        ensure!(Instant::now() < deadline, "the transaction's offset is not there");
        thread::sleep(Duration::from_millis(50));
    }
    running.sync()?.is("in-transaction", "in-sync", 40, Some(40), "")
}

fn thousand_groups(source: &Cluster, target: &Cluster, running: &Running) -> Result<()> {
    const GROUPS: usize = 1_000;
    for n in 0..GROUPS {
        let at = n as i64 % 200 + 60;
        source.commit(&format!("many-{n}"), "orders", [(0, Commit::at(at)), (1, Commit::at(at))])?;
    }
    let (first, second) = (running.sync()?, running.sync()?);
    let seconds = |synced: &Synced| synced.pass()["seconds"].as_f64().unwrap_or(f64::MAX);
    println!(
        "{GROUPS} groups, 2 offsets each: {:.2} s to write all of them, {:.2} s to find them in sync",
        seconds(&first),
        seconds(&second)
    );
    ensure!(first.pass()["written"] == 2 * GROUPS && second.pass()["written"] == 0, "{} {}", first.pass(), second.pass());
    for n in (0..GROUPS).step_by(97) {
        let at = n as i64 % 200 + 60;
        ensure!(offsets(target, &format!("many-{n}"), "renamed.orders")? == [(0, at), (1, at)], "many-{n}");
    }
    ensure!(seconds(&first) < 30.0 && seconds(&second) < 30.0);
    Ok(())
}

#[test]
fn groups_of_the_consumer_protocol_and_a_direction_that_turns() -> Result<()> {
    const TOPIC: &str = "orders";
    const PROTOCOL: &str = "group.protocol=consumer";
    let builders = vec![
        Cluster::version("4.3.0").name("source"),
        Cluster::version("4.3.0").name("target").first_node_id(11).listen(Listener::SaslPlaintext).acls(),
    ];
    let [source, target] = &Cluster::start_all(builders)?[..] else { bail!("two clusters were asked for") };
    source.create_topic(TOPIC, 4, &[])?;
    let fill = Fill { records: 40_000, records_per_batch: 100, compression: "lz4" };
    source.fill(TOPIC, fill, |n, value| value.extend(format!("order {n}").bytes()))?;
    java(source, "java", TOPIC, 8_001, &[PROTOCOL])?;
    // One that lives on the source all the time, and one that lives on the target.
    let stays = consumer(source, "stays", &[("group.protocol", "consumer"), ("auto.offset.reset", "earliest")])?;
    stays.subscribe(&[TOPIC])?;
    read(&stays, |read| read.len() == 4)?;
    let mut running =
        Running::start(Mirror::new(source, target, "topics = \"orders\"\ngroups_regex = \".*\"\ngroups_interval_seconds = 1\n")?)?;
    let deadline = Instant::now() + LIMIT;
    while offsets(target, "java", TOPIC)? != offsets(source, "java", TOPIC)? || offsets(target, "stays", TOPIC)?.len() < 4 {
        ensure!(Instant::now() < deadline, "the groups are not copied:\n{}", running.mirror.logs()?);
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(copied(commits(source, "stays", TOPIC)?) == commits(target, "stays", TOPIC)?);

    let at = offsets(target, "java", TOPIC)?;
    goes_on_at(&java(target, "java", TOPIC, 40_000 - 8_001, &[PROTOCOL])?, &at)?;
    let there = offsets(target, "java", TOPIC)?;
    ensure!(there.iter().all(|(_, offset)| *offset == 10_000), "{there:?}");
    source.commit("java", TOPIC, [(0, Commit::at(9_999))])?;
    let member = consumer(target, "stays", &[("group.protocol", "consumer")])?;
    member.subscribe(&[TOPIC])?;
    let (before, deadline) = (offsets(target, "stays", TOPIC)?, Instant::now() + LIMIT);
    while member.assignment()?.count() < 4 {
        ensure!(Instant::now() < deadline, "the member has no assignment");
        member.poll(Duration::from_millis(100)).transpose()?;
    }
    read(&stays, |read| read.values().map(Vec::len).sum::<usize>() > 400)?;
    let found = running.sync()?;
    for row in found.rows("stays") {
        ensure!(row["state"] == "lives-on-target" && row["reason"] == "it has members on target", "{row}");
    }
    ensure!(found.rows("stays").len() == 4 && offsets(target, "stays", TOPIC)? == before && offsets(target, "java", TOPIC)? == there);
    drop((stays, member));

    killed_again_and_again(source, target, &mut running)?;

    // The target leads the group from here on: what it commits there comes back, where the source still has what went over.
    source.commit("back", TOPIC, [(0, Commit::at(100)), (1, Commit::at(200))])?;
    running.sync()?;
    ensure!(offsets(target, "back", TOPIC)? == [(0, 100), (1, 200)]);
    let leader = Record::new(r#"{"group":"back"}"#, r#"{"leader":"target","term":2}"#).to_partition(0);
    target.produce("__kferry.mirror.m", &[leader])?;
    running.kill_and_restart()?;
    // In this order: a pass may come between the two.
    source.commit("back", TOPIC, [(1, Commit::at(201))])?;
    target.commit("back", TOPIC, [(0, Commit::at(150)), (1, Commit::at(250))])?;
    let found = running.sync()?;
    ensure!(offsets(source, "back", TOPIC)? == [(0, 150), (1, 201)], "{:?}", found.rows("back"));
    ensure!(offsets(target, "back", TOPIC)? == [(0, 150), (1, 250)], "{:?}", found.rows("back"));
    drop(running);
    a_missing_right_is_named(source, target)
}

fn a_missing_right_is_named(source: &Cluster, target: &Cluster) -> Result<()> {
    source.create_topic("rights", 1, &[])?;
    source.produce("rights", &numbered(0, 10))?;
    source.commit("readers", "rights", [(0, Commit::at(7))])?;
    let allow = |operation, resource| Acl::allow(ALICE.name, operation, resource);
    let topics = ["rights", "__kferry.mirror.m"].map(|topic| allow(Operation::All, Resource::Topic(topic.to_owned())));
    let group = |operation| allow(operation, Resource::Group("readers".to_owned()));
    target.add_acls(&[&topics[..], &[allow(Operation::Alter, Resource::Cluster), group(Operation::Describe)]].concat())?;
    let mut mirror = Mirror::new_as(ALICE, source, target, "topics = \"rights\"\ngroups = \"readers\"\n")?;
    let ended = mirror.once()?;
    let named = ended.log.contains("an ACL must allow User:alice the operation Read on group readers");
    ensure!(ended.code == Some(1) && named && target.commits("readers")?.is_empty(), "{ended:?}");
    target.add_acls(&[group(Operation::Read)])?;
    mirror.copy()?;
    ensure!(offsets(target, "readers", "rights")? == [(0, 7)]);
    Ok(())
}
