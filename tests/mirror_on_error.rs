//! `on_error` on real clusters: batches that are damaged on the source's disk, and records that the target will not take. What can be copied
//! is; what cannot is named, left out, or laid aside, and nothing else is missing.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::kafka::{Cluster, Record};
use harness::mirror::Mirror;
use harness::proxy::executable;
use harness::scenario::{Pair, identical, lines_of, mirror_of, records, says, stops};

/// Batches of each topic, and the one that is damaged.
const BATCHES: usize = 5;
const DAMAGED: usize = 2;
/// Where a batch of magic 2 has its length, its CRC, and its records; the CRC is over all from the attributes on.
const LENGTH_AT: usize = 8;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const RECORDS_AT: usize = 61;

/// What happens to the batch on the disk.
#[derive(Clone, Copy)]
enum Damage {
    /// Its CRC is wrong then.
    Bytes,
    /// The CRC is that of the broken bytes: only who reads the records finds them broken.
    Records,
}

/// A topic, and what is wrong with its batch.
struct Case {
    name: &'static str,
    /// Bytes of a record's value. Batches of small ones are put together.
    value: usize,
    /// Records of a batch.
    count: usize,
    codec: &'static str,
    damage: Damage,
    /// What the mirror says of it, beside topic, offsets and the way out.
    said: &'static str,
}

const CASES: [Case; 5] = [
    Case { name: "crc", value: 400, count: 40, codec: "none", damage: Damage::Bytes, said: "its CRC is" },
    Case { name: "crc-of-small", value: 10, count: 7, codec: "none", damage: Damage::Bytes, said: "its CRC is" },
    Case { name: "records", value: 400, count: 40, codec: "none", damage: Damage::Records, said: "refuses it with" },
    Case { name: "small-records", value: 10, count: 7, codec: "none", damage: Damage::Records, said: "refuses it with" },
    Case { name: "lz4", value: 4_000, count: 40, codec: "lz4", damage: Damage::Records, said: "refuses it with" },
];

impl Case {
    fn damaged(&self) -> Range<i64> {
        let count = self.count as i64;
        DAMAGED as i64 * count..(DAMAGED as i64 + 1) * count
    }
}

/// A topic before and after the damage.
struct Made {
    case: &'static Case,
    topic: String,
    /// All of its records, from before.
    records: Vec<Record>,
    /// The batch as it is now.
    batch: Vec<u8>,
}

impl Made {
    fn expected(&self) -> Vec<&Record> {
        self.records.iter().filter(|record| !self.case.damaged().contains(&record.offset)).collect()
    }
}

/// Values that no codec makes small.
fn value(n: usize, len: usize) -> Vec<u8> {
    let mut state = n as u64 + 1;
    let byte = || {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(byte).take(len).collect()
}

/// One batch a call.
fn make(source: &Cluster, on_error: &str, case: &'static Case) -> Result<Made> {
    let topic = format!("{on_error}.{}", case.name);
    source.create_topic(&topic, 1, &[])?;
    for batch in 0..BATCHES {
        let record = |n| Record::new(format!("{n}"), value(batch * case.count + n, case.value)).to_partition(0);
        let records: Vec<_> = (0..case.count).map(record).collect();
        source.produce_with(&topic, &records, &[("linger.ms", "500"), ("compression.type", case.codec)])?;
    }
    Ok(Made { case, records: source.read_all(&topic)?, topic, batch: Vec::new() })
}

fn segment(source: &Cluster, topic: &str) -> PathBuf {
    source.folder().join(format!("1.data/{topic}-0/00000000000000000000.log"))
}

fn number<const N: usize>(log: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(log.get(at..at + N).context("the log ends in a header")?.try_into()?)
}

/// Damages the batch with this base offset, and returns it.
fn damage(path: &PathBuf, base_offset: i64, damage: Damage) -> Result<Vec<u8>> {
    let mut log = fs::read(path).with_context(|| path.display().to_string())?;
    let mut at = 0;
    loop {
        let end = at + LENGTH_AT + 4 + u32::from_be_bytes(number(&log, at + LENGTH_AT)?) as usize;
        if i64::from_be_bytes(number(&log, at)?) != base_offset {
            at = end;
            continue;
        }
        let batch = log.get_mut(at..end).context("the log ends in a batch")?;
        // The length of the first record, or the magic of the codec.
        for byte in &mut batch[RECORDS_AT..RECORDS_AT + 3] {
            *byte ^= 0x55;
        }
        if matches!(damage, Damage::Records) {
            let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
            batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        }
        let batch = batch.to_vec();
        fs::write(path, log)?;
        return Ok(batch);
    }
}

const ALL: [&str; 3] = ["fail", "skip", "dead-letter"];

static CLUSTERS: Pair =
    Pair::new(|| [Cluster::version("3.9.1").name("source"), Cluster::version("4.3.0").name("target").first_node_id(11)]);

/// Both clusters, and the topics whose batches are damaged on the source: those of one `on_error`. The first test that asks damages all of them.
fn damaged(on_error: &str) -> Result<(&'static Cluster, &'static Cluster, Vec<&'static Made>)> {
    static MADE: OnceLock<Result<Vec<Made>, String>> = OnceLock::new();
    let (source, target) = CLUSTERS.started()?;
    let made = MADE.get_or_init(|| make_and_damage(source).map_err(|error| format!("{error:#}")));
    let made = made.as_ref().map_err(|error| anyhow!("{error}"))?;
    Ok((source, target, made.iter().filter(|made| made.topic.starts_with(&format!("{on_error}."))).collect()))
}

/// A broker that stopped cleanly believes its own log when it starts, and sends it without a look at the CRCs.
fn make_and_damage(source: &Cluster) -> Result<Vec<Made>> {
    let cases = ALL.iter().flat_map(|on_error| CASES.iter().map(move |case| (on_error, case)));
    let mut made: Vec<_> = thread::scope(|scope| {
        let making: Vec<_> = cases.map(|(on_error, case)| scope.spawn(|| make(source, on_error, case))).collect();
        making.into_iter().map(|making| making.join().unwrap_or_else(|_| Err(anyhow!("it panicked")))).collect::<Result<_>>()
    })?;
    for on_error in ALL {
        let none = format!("{on_error}.none");
        source.create_topic(&none, 1, &[])?;
        source.produce(&none, &records(0, 100, "first"))?;
    }
    source.stop(1)?;
    for made in &mut made {
        made.batch = damage(&segment(source, &made.topic), made.case.damaged().start, made.case.damage).context(made.topic.clone())?;
    }
    source.restart(1)?;
    Ok(made)
}

#[test]
fn damaged_batches_stop_their_partition() -> Result<()> {
    let (source, target, made) = damaged("fail")?;
    let mut mirror = mirror_of(source, target, "fail", "")?;
    for Made { case, topic, .. } in &made {
        let damaged = case.damaged();
        let (partition, offsets) = (format!("{topic}-0 on source"), format!("offsets {} to {}", damaged.start, damaged.end - 1));
        stops(&mut mirror, &[&partition, &offsets, case.said, "set on_error = ", "that batch is left out"])?;
        let end = target.log_ends(topic)?;
        ensure!(end == [damaged.start], "{topic} ends at {end:?}");
    }
    for Made { case, topic, records, .. } in &made {
        let before: Vec<_> = records.iter().take_while(|record| record.offset < case.damaged().start).collect();
        ensure!(before == target.read_all(topic)?.iter().collect::<Vec<_>>(), "{topic}: what is before the damage differs");
    }
    identical(source, target, "fail.none")
}

#[test]
fn damaged_batches_are_skipped() -> Result<()> {
    left_out("skip")
}

#[test]
fn damaged_batches_become_dead_letters() -> Result<()> {
    left_out("dead-letter")
}

fn left_out(on_error: &str) -> Result<()> {
    let (source, target, made) = damaged(on_error)?;
    let mut mirror = mirror_of(source, target, on_error, &format!("on_error = '{on_error}'"))?;
    let accepted: Vec<_> = made.iter().flat_map(|made| ["--accept", &made.topic]).collect();
    for (run, arguments) in [("first", &[][..]), ("second", &[]), ("compared as a whole", &accepted)] {
        mirror.arguments(arguments);
        mirror.copy_but_for_what_was_left_out().context(run)?;
        for made in &made {
            let (expected, actual) = (made.expected(), target.read_all(&made.topic)?);
            ensure!(expected == actual.iter().collect::<Vec<_>>(), "{run}: {}: {} records differ", made.topic, actual.len());
            let (expected, actual) = (source.log_ends(&made.topic)?, target.log_ends(&made.topic)?);
            ensure!(expected == actual, "{run}: {} ends at {actual:?}, not at {expected:?}", made.topic);
        }
    }
    for made in &made {
        let damaged = made.case.damaged();
        let (offset, count) = (format!("offset={}", damaged.start), format!("count={}", made.case.count));
        says(&mirror, &["left out", &made.topic, &offset, &count])?;
        if on_error == "dead-letter" {
            let letters = target.read_all(&format!("{}.DLT", made.topic))?;
            let [letter] = &letters[..] else { bail!("{} has {} dead letters", made.topic, letters.len()) };
            let value = letter.value.as_deref().unwrap_or_default();
            // What the target refused has the mirror's header already.
            let from = if matches!(made.case.damage, Damage::Bytes) { 0 } else { RECORDS_AT };
            ensure!(value.get(from..) == made.batch.get(from..), "{}: the letter is not the batch", made.topic);
            let header = |name: &str| letter.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone());
            let offset = header("__connect.errors.offset");
            ensure!(offset.as_deref() == Some(damaged.start.to_string().as_bytes()), "{}: offset {offset:?}", made.topic);
        }
    }
    identical(source, target, &format!("{on_error}.none"))?;
    mirror.write(source, target, &lines_of(on_error, "on_error = 'fail'"))?;
    mirror.arguments(&[]);
    mirror.copy_but_for_what_was_left_out().context("with on_error = fail, when it is done")?;
    let verified = Command::new(executable("kferry")?).arg("verify").arg("--config").arg(mirror.config()).output()?;
    let told = String::from_utf8_lossy(&verified.stdout);
    ensure!(verified.status.code() == Some(3), "kferry verify: {told} {}", String::from_utf8_lossy(&verified.stderr));
    Ok(())
}

/// The record with a timestamp of tomorrow, in a topic that lets no record be later than a second from now.
const LATE: i64 = 17;
const DAY_MS: i64 = 86_400_000;

/// A topic with such a record among others, what was produced with it in one batch, and its mirror.
fn late(source: &Cluster, target: &Cluster, on_error: &str) -> Result<(String, Vec<Record>, Mirror)> {
    let topic = format!("{on_error}-clock.topic");
    source.create_topic(&topic, 1, &[])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let mut batch = records(0, 40, "today");
    for record in &mut batch {
        record.timestamp = Some(now);
    }
    batch[LATE as usize].timestamp = Some(now + DAY_MS);
    source.produce_with(&topic, &batch, &[("linger.ms", "500")])?;
    source.produce(&topic, &records(0, 10, "today too"))?;
    // Its settings on the target are the test's to change.
    let lines =
        format!("on_error = '{on_error}'\nsync_topic_configs = false\n[mirrors.topic_config]\n'message.timestamp.after.max.ms' = '1000'");
    let mirror = mirror_of(source, target, &format!("{on_error}-clock"), &lines)?;
    Ok((topic, batch, mirror))
}

#[test]
fn a_record_with_a_rejected_timestamp_stops_its_partition() -> Result<()> {
    let (source, target, _) = damaged("fail")?;
    let (topic, _, mut mirror) = late(source, target, "fail")?;
    stops(&mut mirror, &["fail-clock.topic-0 on source, offset 17", "InvalidTimestamp", "that record is left out"])?;
    ensure!(target.log_ends(&topic)? == [LATE], "the log ends at {:?}", target.log_ends(&topic)?);
    target.alter_topic(&topic, &[], &["message.timestamp.after.max.ms"])?;
    // The default is an hour, so only tomorrow is still too late.
    stops(&mut mirror, &["fail-clock.topic-0 on source, offset 17", "InvalidTimestamp"])?;
    target.alter_topic(&topic, &[("message.timestamp.after.max.ms", "9223372036854775807")], &[])?;
    mirror.copy().context("mended")?;
    identical(source, target, &topic)
}

#[test]
fn a_record_with_a_rejected_timestamp_is_skipped() -> Result<()> {
    all_but_the_late_one("skip").map(|_| ())
}

#[test]
fn a_record_with_a_rejected_timestamp_becomes_a_dead_letter() -> Result<()> {
    let (batch, letters) = all_but_the_late_one("dead-letter")?;
    let [letter] = &letters[..] else { bail!("there are {} dead letters", letters.len()) };
    let header = |name: &str| letter.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone());
    let late = &batch[LATE as usize];
    ensure!((&letter.key, &letter.value) == (&late.key, &late.value), "another record");
    let (offset, timestamp) = (header("__connect.errors.offset"), header("__connect.errors.timestamp"));
    ensure!(offset.as_deref() == Some(b"17"), "offset {offset:?}");
    let expected = late.timestamp.context("it has one")?.to_string();
    ensure!(timestamp.as_deref() == Some(expected.as_bytes()), "timestamp {timestamp:?}");
    Ok(())
}

/// Copied twice, the second time compared as a whole: what was produced in the batch, and the dead letters.
fn all_but_the_late_one(on_error: &str) -> Result<(Vec<Record>, Vec<Record>)> {
    let (source, target, _) = damaged(on_error)?;
    let (topic, batch, mut mirror) = late(source, target, on_error)?;
    for (run, arguments) in [("first", &[][..]), ("compared as a whole", &["--accept", topic.as_str()])] {
        mirror.arguments(arguments);
        mirror.copy_but_for_what_was_left_out().context(run)?;
        let expected: Vec<_> = source.read_all(&topic)?.into_iter().filter(|record| record.offset != LATE).collect();
        ensure!(expected == target.read_all(&topic)?, "{run}: the records differ");
        ensure!(source.log_ends(&topic)? == target.log_ends(&topic)?, "{run}: the ends are {:?}", target.log_ends(&topic)?);
        source.produce(&topic, &records(0, 20, run))?;
    }
    says(&mirror, &["left out", "offset=17", "count=1", "InvalidTimestamp"])?;
    let letters = if on_error == "dead-letter" { target.read_all(&format!("{topic}.DLT"))? } else { Vec::new() };
    Ok((batch, letters))
}
