//! `kferry dlt` on real clusters: records that the target would not take are listed, shown, replayed, and mirrored from there.

use anyhow::{Context as _, Result, bail, ensure};
use harness::kafka::{Cluster, Record};
use harness::kferry::{File, mirror};
use harness::mirror::Mirror;
use serde_json::{Value, json};

const LINES: &str = "topics_regex = ['d\\..*']\non_error = 'dead-letter'\n[mirrors.topic_config]\n'max.message.bytes' = '20000'\n\
                     [mirrors.rename]\n'd.orders' = 'e.orders'";
const LETTERS: &str = "e.orders.DLT";
/// Where the records that are too large are, in partition 1.
const LARGE: [usize; 2] = [5, 8];
const TIME: i64 = 1_700_000_000_000;

#[test]
fn dead_letters_go_back_to_where_they_come_from_and_are_mirrored() -> Result<()> {
    let clusters =
        Cluster::start_all(vec![Cluster::version("2.8.2").name("source"), Cluster::version("4.3.0").name("target").first_node_id(11)])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("d.orders", 2, &[("retention.ms", "-1")])?;
    source.create_topic("d.other", 1, &[])?;
    let mut records: Vec<Record> = (0..10).map(|n| at(n, Record::new(format!("key {n}"), format!("value {n}")))).collect();
    for large in LARGE {
        // What is compressed would be small.
        records[large].value = Some((0..50_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
        records[large].headers = vec![("trace".to_owned(), Some(b"abc".to_vec())), ("null".to_owned(), None)];
    }
    source.produce("d.orders", &records)?;
    let mut copy = Mirror::new(source, target, LINES)?;
    copy.copy_but_for_what_was_left_out()?;
    let file = File::new(source, target, None, &mirror("m", LINES))?;
    they_are_listed_and_shown(&file)?;
    to_another_topic(target, &file).context("to another topic")?;
    they_are_replayed(source, target, &mut copy, &file).context("replay")?;
    what_is_there_twice_or_no_record(source, target, &file)
}

fn at(n: i64, record: Record) -> Record {
    Record { timestamp: Some(TIME + n), ..record.to_partition(1) }
}

/// A run, and what it says of the only topic.
fn ask(file: &File, arguments: &[&str], code: i32) -> Result<Value> {
    let done = file.kferry(&[&["dlt"], arguments, &["--json"]].concat())?;
    let report = done.ends_with(code)?.json()?;
    ensure!(report["topics"].as_array().map(Vec::len) == Some(1), "{report:#}");
    Ok(report["topics"][0].clone())
}

fn they_are_listed_and_shown(file: &File) -> Result<()> {
    let listed = ask(file, &["list"], 0)?;
    let expected = json!({
        "mirror": "m", "topic": "d.orders", "cluster": "target", "dead_letters": LETTERS, "records": 2, "replayed": 0,
        "oldest": "2023-11-14T22:13:20.005Z", "newest": "2023-11-14T22:13:20.008Z", "errors": { "MessageTooLarge": 2 }, "foreign": 0,
    });
    ensure!(listed == expected, "{listed:#}");
    file.kferry(&["dlt", "list"])?.ends_with(0)?.says("e.orders.DLT on target  2        0")?.says("MessageTooLarge 2")?;
    file.kferry(&["dlt", "list", "d.other"])?.ends_with(0)?.says("no dead letters")?;
    file.kferry(&["dlt", "list", "nowhere"])?.ends_with(1)?.says("topic nowhere is not one that these mirrors copy")?;

    let shown = ask(file, &["show", "d.orders", "--bytes", "8"], 0)?["letters"].clone();
    let of = |letter: &Value| {
        (letter["topic"].clone(), letter["partition"].clone(), letter["original_offset"].clone(), letter["offset"].clone())
    };
    let all: Vec<_> = shown.as_array().into_iter().flatten().map(of).collect();
    let place = |original: usize, offset: i64| (json!("d.orders"), json!(1), json!(original), json!(offset));
    ensure!(all == [place(LARGE[0], 0), place(LARGE[1], 1)], "{shown:#}");
    let first = &shown[0];
    ensure!(first["key"] == json!({ "bytes": 5, "text": "key 5" }) && first["value"]["bytes"] == 50_000, "{first:#}");
    ensure!(first["value"]["hex"].as_str().map(str::len) == Some(16) && first["is_record"] == true, "{first:#}");
    ensure!(first["headers"] == json!([["trace", { "bytes": 3, "text": "abc" }], ["null", null]]), "{first:#}");
    let second = ask(file, &["show", LETTERS, "--from", "1", "--limit", "1"], 0)?["letters"].clone();
    ensure!(second.as_array().map(Vec::len) == Some(1) && second[0]["original_offset"] == LARGE[1], "{second:#}");
    let text = file.kferry(&["dlt", "show", "--limit", "1"])?;
    text.ends_with(0)?.says("d.orders-1 offset 5 (e.orders.DLT offset 0)\n  error    MessageTooLarge: ")?.says("  key      \"key 5\"\n")?;
    text.says("… (50000 bytes)\n  header   trace = \"abc\"\n  header   null = null\n1 of 2 dead letters in e.orders.DLT\n")?;
    Ok(())
}

fn to_another_topic(target: &Cluster, file: &File) -> Result<()> {
    let replay = |to: &str| file.kferry(&["dlt", "replay", "--yes", "--to-topic", to]);
    let ends = target.log_ends("e.orders")?;
    replay("e.orders")?.ends_with(1)?.says("mirror m copies to it, and a record from anybody else would take an offset of the copy")?;
    replay(LETTERS)?.ends_with(1)?.says("it belongs to Kafka or kferry")?;
    replay("inspect")?.ends_with(1)?.says("there is no such topic on target; create it first")?;
    target.create_topic("inspect", 1, &[])?;
    for (records, all) in [(2, 2), (0, 2)] {
        replay("inspect")?.ends_with(0)?.says(&format!("{records} dead letters of d.orders replayed to inspect on target"))?;
        ensure!(target.record_count("inspect")? == all, "{} records", target.record_count("inspect")?);
    }
    ensure!(target.log_ends("e.orders")? == ends, "something was written to the copy");
    // It is another replay.
    ensure!(ask(file, &["list"], 0)?["replayed"] == 0, "it counts as replayed");
    Ok(())
}

fn they_are_replayed(source: &Cluster, target: &Cluster, copy: &mut Mirror, file: &File) -> Result<()> {
    file.kferry(&["dlt", "replay"])?
        .ends_with(1)?
        .says("nobody can be asked whether to replay 2 dead letters of d.orders")?
        .says("add --yes")?;
    ensure!(source.log_ends("d.orders")? == [0, 10], "{:?}", source.log_ends("d.orders")?);

    target.alter_topic("e.orders", &[("max.message.bytes", "100000")], &[])?;
    let done = ask(file, &["replay", "d.orders", "--yes"], 0)?;
    let expected = json!({ "cluster": "source", "topic": "d.orders", "records": 2, "twice": 0, "unreadable": 0 });
    ensure!(done["replay"] == expected && done["replayed"] == 2, "{done:#}");
    copy.copy_but_for_what_was_left_out()?;
    let (ours, theirs) = (source.read_all("d.orders")?, target.read_all("e.orders")?);
    let of = |records: &[Record], offset: usize| records.iter().find(|record| record.offset == offset as i64).cloned().context("a record");
    for (large, offset) in LARGE.into_iter().zip([10, 11]) {
        let (original, again) = (of(&ours, large)?, of(&ours, offset)?);
        ensure!(Record { offset: original.offset, ..again.clone() } == original, "{again:?} is not {original:?}");
        ensure!(of(&theirs, offset)? == again, "the copy has another one");
    }
    ensure!(theirs.len() == 10 && target.log_ends("e.orders")? == [0, 12], "{} records on the target", theirs.len());
    file.kferry(&["verify"])?.ends_with(3)?;

    let again = ask(file, &["replay", "--yes"], 0)?;
    ensure!(again["replay"]["records"] == 0 && source.log_ends("d.orders")? == [0, 12], "{again:#}");
    let listed = ask(file, &["list"], 0)?;
    ensure!(listed["records"] == 2 && listed["replayed"] == 2, "{listed:#}");
    file.kferry(&["dlt", "show"])?.ends_with(0)?.says("(e.orders.DLT offset 1, replayed)")?;
    Ok(())
}

/// A mirror that was killed at the wrong moment writes a dead letter again, and a damaged batch is no record.
fn what_is_there_twice_or_no_record(source: &Cluster, target: &Cluster, file: &File) -> Result<()> {
    let letters = target.read_all(LETTERS)?;
    let mut damaged = letters[0].clone();
    for (name, value) in &mut damaged.headers {
        if name == "__connect.errors.stage" {
            *value = Some(b"CONSUME".to_vec());
        }
    }
    let foreign = Record::new("an", "application's");
    target.produce(LETTERS, &[letters[0].clone(), damaged, foreign])?;
    let listed = ask(file, &["list"], 0)?;
    ensure!(listed["records"] == 4 && listed["foreign"] == 1, "{listed:#}");
    file.kferry(&["dlt", "list"])?.says("1 record in e.orders.DLT that mirror m did not write")?;
    let done = ask(file, &["replay", "--yes"], 1)?;
    ensure!(done["replay"]["twice"] == 1 && done["replay"]["unreadable"] == 1 && done["replay"]["records"] == 0, "{done:#}");
    ensure!(source.log_ends("d.orders")? == [0, 12], "{:?}", source.log_ends("d.orders")?);
    ask(file, &["replay", "--yes"], 0).map(drop)
}
