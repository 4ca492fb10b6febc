//! Edits that come before the last one is done.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use harness::clients::Client;
use harness::kafka::Record;
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw};
use harness::stage::Side;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use kafka_protocol::protocol::StrBytes;
use kferry_wire::batch::{self, Codec, Sequence};
use kferry_wire::decisions::{Joined, State};

use crate::decisions::Phase;
use crate::proxies::name;
use crate::there_and_back::Took;
use crate::{LATE, LIMIT, ORDERS, STAYS, go_on, on_stage, with_home};

/// A reader that asks for metadata once, and then when a broker refuses it.
pub(crate) const NEVER_AGAIN: &[(&str, &str)] = &[("topic.metadata.refresh.interval.ms", "-1"), ("metadata.max.age.ms", "86400000")];

#[test]
fn the_last_wish_wins_and_a_reader_that_never_asks_for_metadata_goes_on() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [
            stage.going_with(0, Client::Rdkafka, ORDERS, "edits", |job| job.settings[1] = NEVER_AGAIN)?,
            stage.plain(0, Client::Rdkafka, ORDERS, "edits-plain")?,
        ];
        go_on(&going)?;
        let wins = |home, what: &str| {
            let took = stage.leads(home, &going).context(what.to_owned())?;
            // Nothing else comes of what was wished before.
            let settled = stage.decisions.state()?.last_decision();
            std::thread::sleep(Duration::from_secs(2));
            let state = stage.decisions.state()?;
            let decided = || format!("open: {:?}, the last receipt: {:?}", state.open(), state.receipts().next());
            ensure!(state.last_decision() == settled, "{what}: something was decided after {settled}: {}", decided());
            go_on(&going).context(what.to_owned())?;
            println!("{what}: {took:.2?} until {home:?} leads");
            anyhow::Ok(())
        };
        for home in [Side::New, Side::Legacy, Side::New] {
            stage.edit(home)?;
        }
        wins(Side::New, "three edits in a row")?;
        for (home, phase) in [(Side::Legacy, Phase::Held), (Side::Legacy, Phase::AllHold)] {
            let after = stage.edit(home)?;
            let at = stage.decisions.is_at(phase, after)?;
            stage.edit(home.other())?;
            wins(home.other(), &format!("reverted at {at:?}"))?;
        }
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        for going in &going {
            let seen = going.soak.seen();
            ensure!(seen.again == 0, "{}: {seen:?}", going.soak.name());
        }
        stage.ends(going.into(), false).map(drop)
    })
}

/// Who sees one cluster is not held, and who saw several and sees them no more is told of no decision. Nobody hears of a file before what such clients have sent
/// can arrive no more.
#[test]
fn clients_that_come_to_see_more_clusters_or_fewer_are_cut_and_come_again() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(2)?;
        stage.create(ALONE)?;
        let (stopped_name, name) = (name(stage, 1)?, name(stage, 0)?);
        let legacy = stage.cluster(Side::Legacy);
        let partitions = legacy.partitions(ALONE)?;
        // Of four partitions on three brokers.
        let pair = |large: &usize| Some((partitions[..*large].iter().position(|small| small.leader == partitions[*large].leader)?, *large));
        let (small, large) = (0..partitions.len()).find_map(|large| pair(&large)).context("two partitions of one broker")?;
        let (leader, small, large) = (partitions[small].leader, small as i32, large as i32);
        let record = Record::new("", vec![b'x'; 900_000]).to_partition(large);
        // An idempotent producer that does not come by the relay would keep the topic where it is.
        legacy.produce_with(ALONE, &vec![record; 4], &[("enable.idempotence", "false")])?;
        let ([proxy, stopped], [base, other]) = (&mut stage.proxies[..], &stage.files) else { bail!("there are two proxies") };
        let state = "[state]\ncluster = \"new\"\n";
        let alone = |base: &Routes| base.clone().limit("drain_timeout_ms", 2_000).relay("orders", "orders-*", "legacy", "").section(state);
        // They belong to another route, which comes before their own, and see no more by it.
        let first = base.clone().relay("first", "orders-raw", "legacy", "").relay("orders", "orders-*", "legacy", "").section(state);
        let come = |base: &Routes| -> Result<Raw> {
            let mut client = Raw::connect(base.virtual_broker(Side::Legacy.name(), leader)?.1)?;
            client.ask(&raw::api_versions(1, Some("orders-raw")))?;
            Ok(client)
        };
        // What it has asked is answered before: once no record has come for two seconds, or whole, though the client reads late. It has sent more by then, which
        // nobody reads.
        let is_cut = |proxy: &Proxy, mut client: Raw| -> Result<()> {
            std::thread::sleep(Duration::from_millis(700));
            client.send(&asks(small, SHORT)?)?;
            raw::answer::<FetchRequest>(&mut client, 4, WAITS)?;
            client.ends().context("behind its last answer")?;
            let closed = proxy.closed(&client)?;
            ensure!(closed["cause"] == "cut", "{closed}");
            Ok(())
        };
        let mut client = come(base)?;
        client.send(&asks(small, SHORT)?)?;
        proxy.edit(&alone(base))?;
        is_cut(proxy, client)?;
        let mut client = come(base)?;
        proxy.edit(&first)?;
        client.is_quiet(Duration::from_secs(3))?;
        client.ask(&raw::api_versions(2, Some("orders-raw")))?;
        client.send(&asks(large, SHORT)?)?;
        proxy.edit(&with_home(base, Side::Legacy))?;
        is_cut(proxy, client)?;
        let cut = Instant::now();
        // One that is stopped, and ends the connection of a client that has asked for something, says that this may still arrive.
        stopped.edit(&alone(other))?;
        let mut client = come(other)?;
        client.send(&asks(small, LONG)?)?;
        stopped.stop()?;
        let left = stage.decisions.state()?.left_late().map(|(member, _)| member.name.clone());
        ensure!(left.as_ref() == Some(&stopped_name), "the last one that has left late is {left:?}, not {stopped_name}");
        let wishes = |joined: &Joined| joined.wish.as_ref().is_some_and(|wish| wish.routes.contains_key(STAYS));
        let said = |state: &State| state.joined().iter().any(|(member, joined)| member.name == name && wishes(joined)).then_some(());
        stage.decisions.says("what the last file wishes", LIMIT, said)?;
        let after = cut.elapsed();
        ensure!(after + Duration::from_secs(5) > LATE && after < LATE + Duration::from_secs(15), "it was said after {after:.1?}");
        stage.have_joined(1, LIMIT)?;
        std::fs::write(stage.proxies[1].config(), with_home(other, Side::Legacy).text())?;
        stage.proxies[1].start_again()?;
        stage.have_joined(2, LIMIT)
    })
}

/// A topic with a partition that has large records, and the number of a request for records.
const ALONE: &str = "orders.alone";
const WAITS: i32 = 3;
/// Shorter than what a client has asked is waited for before it is cut, and longer than a proxy that is stopped waits for its clients, in ms.
const SHORT: i32 = 2_000;
const LONG: i32 = 20_000;

fn asks(partition: i32, max_wait_ms: i32) -> Result<Vec<u8>> {
    let topic = StrBytes::from_static_str(ALONE).into();
    let partition = FetchPartition::default().with_partition(partition).with_partition_max_bytes(10_000_000);
    let topic = FetchTopic::default().with_topic(topic).with_partitions(vec![partition]);
    let request =
        FetchRequest::default().with_max_wait_ms(max_wait_ms).with_min_bytes(1).with_max_bytes(10_000_000).with_topics(vec![topic]);
    raw::request(4, WAITS, "orders-raw", &request)
}

/// A Produce request with one record, the number, to partition 0.
pub(crate) fn numbered(topic: &str, number: i32) -> Result<Vec<u8>> {
    numbered_with(-1, topic, number)
}

pub(crate) fn numbered_with(acks: i16, topic: &str, number: i32) -> Result<Vec<u8>> {
    let value = Some(Bytes::from(number.to_string()));
    // What is older than retention.ms brokers may delete at any time.
    let timestamp = jiff::Timestamp::now().as_millisecond();
    let record = batch::Record { offset: 0, timestamp, key: None, value, headers: Vec::new() };
    let records = batch::encode(&[record], Codec::None, Sequence::NONE)?;
    let data = PartitionProduceData::default().with_index(0).with_records(Some(records));
    let data = TopicProduceData::default().with_name(StrBytes::from_string(topic.to_owned()).into()).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![data]);
    raw::request(7, number, "orders-ahead", &request)
}

/// What [`numbered`] makes was sent, and is appended.
pub(crate) fn is_appended(client: &mut Raw, number: i32) -> Result<()> {
    let answer = raw::answer::<ProduceRequest>(client, 7, number)?;
    let error = answer.responses[0].partition_responses[0].error_code;
    ensure!(error == 0, "{number}: error {error}");
    Ok(())
}

#[test]
fn a_client_that_has_sent_far_ahead_keeps_nothing_from_moving() -> Result<()> {
    const FRAMES: i32 = 3_000;
    const FEWER: i32 = 600;
    on_stage(|stage| {
        stage.has_proxies(1)?;
        // One comes to the leader. The other one does not know that its topic leads elsewhere: what it sends is carried, one request after the other.
        let topics = [("orders.ahead", Side::New), ("orders.ahead-carried", Side::Legacy)];
        let both = "orders.ahead-both";
        topics.iter().map(|(topic, _)| *topic).chain([both]).try_for_each(|topic| stage.create(topic))?;
        let going = [stage.going(0, Client::Rdkafka, "beside-ahead")?];
        stage.move_to(Side::New, &going)?;
        let ahead = |topic: &str, side: Side, frames: i32| -> Result<Raw> {
            let mut client = stage.at_leader(0, side, topic)?;
            client.send(&(0..frames).map(|number| numbered(topic, number)).collect::<Result<Vec<_>>>()?.concat())?;
            Ok(client)
        };
        let all_answered = |topic: &str, frames: i32, mut client: Raw| -> Result<()> {
            (0..frames).try_for_each(|number| is_appended(&mut client, number)).with_context(|| topic.to_owned())
        };
        let given_up = || -> Result<usize> {
            let log = stage.proxies[0].log()?;
            Ok(log.iter().filter(|line| line["message"] == "a move was given up: everybody goes on where they were").count())
        };
        let clients = topics.map(|(topic, side)| ahead(topic, side, FRAMES));
        let (before, began) = (given_up()?, Instant::now());
        stage.move_to(Side::Legacy, &going)?;
        let (times, held) = (given_up()? - before, Took::by(&stage.proxies[0], &stage.mirror)?.held);
        for ((topic, _), client) in topics.into_iter().zip(clients) {
            all_answered(topic, FRAMES, client?)?;
        }
        // The broker answers one request of a connection after the other: how long that takes is the machine's. A hold that waited for all that was
        // sent would last as long as all answers take together.
        let bound = Duration::from_secs(3).max(began.elapsed() / 3);
        println!("held for {held:.0?}, all is answered after {:.0?}", began.elapsed());
        ensure!(times == 0 && held < bound, "given up {times} times, held for {held:?}");
        for (topic, _) in topics {
            stage.is_copied(topic)?;
            let read = stage.cluster(Side::Legacy).read_all(topic)?.into_iter().filter_map(|record| record.value);
            ensure!(read.eq((0..FRAMES).map(|number| number.to_string().into_bytes())), "{topic} is not in order");
        }
        // One that sends to both, and whose batches at the leader wait for those on the other connection: a hold must not wait for what waits for the hold.
        let clients = Side::BOTH.map(|side| ahead(both, side, FEWER));
        let before = given_up()?;
        stage.move_to(Side::New, &going)?;
        let times = given_up()? - before;
        ensure!(times == 0, "given up {times} times");
        clients.into_iter().try_for_each(|client| all_answered(both, FEWER, client?))?;
        stage.is_copied(both)?;
        ensure!(stage.cluster(Side::New).read_all(both)?.len() == 2 * FEWER as usize, "{both} is not whole");
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        stage.ends(going.into(), false).map(drop)
    })
}
