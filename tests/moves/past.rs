//! Somebody writes past the relay.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::clients::Client;
use harness::kafka::{Cluster, Listener};
use harness::stage::Side;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::{LIMIT, go_on, on_stage};

/// Records, 200 a second, until `stop`. Returns how many there are: all of them were acknowledged.
fn write(cluster: &Cluster, topic: &str, stop: &AtomicBool) -> Result<u64> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    // Brokers do not remember who writes without idempotence: nobody sees it in time.
    config.set("enable.idempotence", "false").set("linger.ms", "0").set("message.timeout.ms", LIMIT.as_millis().to_string());
    let producer: BaseProducer = config.create()?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = count.to_string();
        producer.send(BaseRecord::<str, _>::to(topic).partition(0).payload(&value)).map_err(|(error, _)| error)?;
        producer.poll(Duration::from_millis(5));
        count += 1;
    }
    producer.flush(LIMIT)?;
    Ok(count)
}

#[test]
fn a_move_of_what_somebody_writes_past_the_relay_is_given_up_and_nothing_is_lost() -> Result<()> {
    const TOPIC: &str = "orders.past";
    on_stage(|stage| {
        stage.has_proxies(1)?;
        stage.create(TOPIC)?;
        let going = [stage.going(0, Client::Rdkafka, "beside-past")?];
        go_on(&going)?;
        let stop = AtomicBool::new(false);
        let (why, count) = thread::scope(|scope| {
            let writing = scope.spawn(|| write(stage.cluster(Side::Legacy), TOPIC, &stop));
            let why = stage.edit(Side::New).and_then(|after| stage.decisions.is_given_up(after));
            stop.store(true, Ordering::Relaxed);
            anyhow::Ok((why?, writing.join().expect("it does not panic")?))
        })?;
        println!("given up after {count} records that were written past the relay: {why}");
        ensure!(why.contains("past the relay"), "{why}");
        go_on(&going)?;
        stage.leads(Side::New, &going)?;
        go_on(&going)?;
        stage.is_copied(TOPIC)?;
        let numbers = stage.cluster(Side::New).read_all(TOPIC)?.into_iter().filter_map(|record| record.value);
        ensure!(numbers.collect::<BTreeSet<_>>() == (0..count).map(|n| n.to_string().into_bytes()).collect(), "{TOPIC} has lost records");
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        stage.ends(going.into(), false).map(drop)
    })
}
