//! Clients that know newer versions only, and clients that are told by hand which Kafka it is: they send what they were not offered, or do not even ask.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::{self, Client, Job};
use harness::kafka::Listener;
use harness::proxy::{Proxy, Routes};
use harness::raw::{Forward, Raw};
use kafka_protocol::messages::ApiKey;

use crate::behind::advertised;
use crate::{Names, Side, Stage, calm, matrix};

const RECORDS: u32 = 200;

/// A client and which Kafka it is told that it talks to.
type Told = (Client, Option<(u8, u8)>);

/// Platformatic has Fetch from 12, CreateTopics from 7 and DeleteTopics from 6 on. kafka-python 2.3 asks for no versions when it is told one, 3.0 takes
/// the older of what it is told and what the versions that it is offered look like.
const CLIENTS: [Told; 4] = [
    (Client::Platformatic, None),
    (Client::KafkaPython23, Some((4, 0))),
    (Client::KafkaPython, Some((3, 3))),
    (Client::KafkaPython, Some((4, 3))),
];

fn name((client, version): Told) -> String {
    version.map_or_else(|| client.name().to_owned(), |(major, minor)| format!("{}-as-{major}.{minor}", client.name()))
}

/// Creates a topic and deletes it, writes to topics of both clusters, reads them in a group of two.
fn trip(stage: &Stage, home: Side, told: Told) -> Result<()> {
    let client_id = home.client(&name(told));
    let topics = topics(home, told);
    let created = format!("created.versions.{client_id}");
    let job = Job {
        count: RECORDS,
        timeout_ms: 90_000,
        second_topic: Some(topics[1].clone()),
        creates: Some(created.clone()),
        api_version: told.1,
        ..Job::new(&stage.proxy.bootstrap_servers(), &client_id, &topics[0])
    };
    let outcome = clients::run(told.0, &job)?;
    ensure!(outcome.members.iter().all(|&records| records > 0), "a member of the group got nothing: {outcome:?}");
    println!("{} {} at {home:?}: {:.1} s", name(told), outcome.version, outcome.seconds);
    for (first, (side, topic)) in (0..).zip(Side::BOTH.into_iter().zip(&topics)) {
        matrix::is_in_the_log(stage, side, topic, &client_id, &(first..RECORDS).step_by(2).collect())?;
        ensure!(!stage.cluster(side).list_topics()?.contains(&created), "{created} is still on {side:?}");
    }
    let committed: i64 = stage.cluster(home).committed_offsets(&client_id)?.values().sum();
    ensure!(committed == i64::from(RECORDS), "{client_id} has committed {committed} records at home");
    let elsewhere = stage.cluster(home.other()).committed_offsets(&client_id)?;
    ensure!(elsewhere.is_empty(), "{client_id} has committed {elsewhere:?} on {:?}", home.other());
    Ok(())
}

fn topics(home: Side, told: Told) -> [String; 2] {
    Side::BOTH.map(|side| side.leads(&format!("versions.{}.{}", name(told), home.name())))
}

#[test]
fn clients_that_send_versions_of_their_own_choice() -> Result<()> {
    calm(|stage| {
        for told in CLIENTS {
            clients::prepare(told.0)?;
            for home in Side::BOTH {
                for (side, topic) in Side::BOTH.into_iter().zip(topics(home, told)) {
                    stage.cluster(side).create_topic(&topic, 2, &[])?;
                }
            }
        }
        for told in CLIENTS {
            for home in Side::BOTH {
                for (side, topic) in Side::BOTH.into_iter().zip(topics(home, told)) {
                    stage.has_copy(side, &topic)?;
                }
            }
        }
        // Two at a time: with more, clients wait for the machine.
        let trips = thread::scope(|scope| {
            let homes = Side::BOTH.map(|home| {
                scope.spawn(move || {
                    CLIENTS.into_iter().try_for_each(|told| trip(stage, home, told).with_context(|| format!("{} at {home:?}", name(told))))
                })
            });
            homes.map(|home| home.join().map_err(|_| anyhow!("panicked")).and_then(|trips| trips))
        });
        trips.into_iter().collect::<Result<Vec<()>>>()?;
        stage.no_copy_has_diverged(".versions.")?;
        a_version_that_was_not_offered(stage)
    })
}

/// Where all clusters of a view are of 4.0 or later, kafka-python goes by what it was told: Metadata 13, which is carried for those who do not ask.
fn a_version_that_was_not_offered(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(Side::New);
    let routes = Routes::new()?.kafka("new", cluster, Listener::Plaintext, None)?.relay("alone", "alone-*", "new", "");
    let proxy = Proxy::start(&routes)?;
    let (client_id, topic) = ("alone-kafka-python", "versions.alone");
    let offered = advertised(&mut Raw::connect(proxy.port())?, client_id, ApiKey::Metadata)?;
    ensure!(offered == Some(12), "Metadata is offered up to {offered:?}");
    cluster.create_topic(topic, 2, &[])?;
    let between = Forward::to(&proxy.bootstrap_servers())?;
    let job = Job {
        count: RECORDS,
        creates: Some("created.versions.alone".to_owned()),
        api_version: Some((4, 0)),
        ..Job::new(&between.address(), client_id, topic)
    };
    let outcome = clients::run(Client::KafkaPython, &job)?;
    println!("{} {} at a cluster alone: {:.1} s", name((Client::KafkaPython, job.api_version)), outcome.version, outcome.seconds);
    ensure!(between.requests().contains(&(ApiKey::Metadata as i16, 13)), "it asked for {:?}", between.requests());
    let values: BTreeSet<_> = cluster.read_all(topic)?.into_iter().map(|record| record.value).collect();
    ensure!(values.len() == RECORDS as usize && cluster.record_count(topic)? == values.len(), "{} different records", values.len());
    Ok(())
}
