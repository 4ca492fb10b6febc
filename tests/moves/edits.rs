//! Edits that come before the last one is done.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use harness::clients::Client;
use harness::raw::{self, Raw};
use harness::stage::Side;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::StrBytes;
use kferry_wire::batch::{self, Codec, Sequence};

use crate::decisions::Phase;
use crate::there_and_back::Took;
use crate::{go_on, on_stage};

/// A reader that asks for metadata once, and then when a broker refuses it.
const NEVER_AGAIN: &[(&str, &str)] = &[("topic.metadata.refresh.interval.ms", "-1"), ("metadata.max.age.ms", "86400000")];

#[test]
fn the_last_wish_wins_and_a_reader_that_never_asks_for_metadata_goes_on() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going_with(0, Client::Rdkafka, "edits", |job| job.settings[1] = NEVER_AGAIN)?, stage.plain(0, "edits-plain")?];
        go_on(&going)?;
        let wins = |home, what: &str| {
            let took = stage.leads(home, &going).context(what.to_owned())?;
            // Nothing else comes of what was wished before.
            let settled = stage.decisions.state()?.last_decision();
            std::thread::sleep(Duration::from_secs(2));
            ensure!(stage.decisions.state()?.last_decision() == settled, "{what}: something was decided afterwards");
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

/// A Produce request with one record, the number, to partition 0.
fn numbered(topic: &str, number: i32) -> Result<Vec<u8>> {
    let value = Some(Bytes::from(number.to_string()));
    let record = batch::Record { offset: 0, timestamp: 0, key: None, value, headers: Vec::new() };
    let records = batch::encode(&[record], Codec::None, Sequence::NONE)?;
    let data = PartitionProduceData::default().with_index(0).with_records(Some(records.into()));
    let data = TopicProduceData::default().with_name(StrBytes::from_string(topic.to_owned()).into()).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data]);
    raw::request(7, number, "orders-ahead", &request)
}

#[test]
fn a_client_that_has_sent_far_ahead_keeps_nothing_from_moving() -> Result<()> {
    const TOPIC: &str = "orders.ahead";
    const FRAMES: i32 = 3_000;
    on_stage(|stage| {
        stage.has_proxies(1)?;
        stage.create(TOPIC)?;
        let going = [stage.going(0, Client::Rdkafka, "beside-ahead")?];
        stage.move_to(Side::New, &going)?;
        // It does not know that the topic leads elsewhere: what it sends is carried, one request after the other.
        let (_, port) = stage.files[0].virtual_broker("legacy", stage.cluster(Side::Legacy).node_ids()[0])?;
        let mut client = Raw::connect(port)?;
        let frames: Vec<u8> = (0..FRAMES).map(|number| numbered(TOPIC, number)).collect::<Result<Vec<_>>>()?.concat();
        client.send(&frames)?;
        let before = stage.decisions.state()?.receipts().count();
        stage.move_to(Side::Legacy, &going)?;
        let moved = stage.decisions.state()?.receipts().count() - before;
        let held = Took::by(&stage.proxies[0], &stage.mirror)?.held;
        ensure!(moved == 1 && held < Duration::from_secs(2), "moved at the {moved}. time, held for {held:?}");
        for number in 0..FRAMES {
            let answer = raw::answer::<ProduceRequest>(&mut client, 7, number)?;
            let error = answer.responses[0].partition_responses[0].error_code;
            ensure!(error == 0, "{number}: error {error}");
        }
        stage.is_copied(TOPIC)?;
        let read = stage.cluster(Side::Legacy).read_all(TOPIC)?.into_iter().filter_map(|record| record.value);
        ensure!(read.eq((0..FRAMES).map(|number| number.to_string().into_bytes())), "{TOPIC} is not in order");
        go_on(&going)?;
        stage.ends(going.into(), false).map(drop)
    })
}
