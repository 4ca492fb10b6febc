//! Brokers fail.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::kafka::Cluster;
use harness::raw::{self, Raw};
use harness::stage::Side;
use kferry_wire::decisions::TOPIC;

use crate::decisions::Phase;
use crate::edits::{is_appended, numbered};
use crate::{Going, LIMIT, ORDERS, Stage, Strikes, go_on, on_stage, with_home};

/// How long the whole cluster of the log is away: longer than a hold.
const AWAY: Duration = Duration::from_secs(8);

/// Whose plain producers stay in order when another leader is elected: librdkafka's do not always (docs/wire-quirks.md).
const PLAIN: Client = Client::Java4;

/// The broker that leads a partition 0.
fn leader(stage: &Stage, side: Side, topic: &str) -> Result<i32> {
    Ok(stage.cluster(side).partitions(topic)?[0].leader)
}

#[test]
fn brokers_that_are_killed_during_a_move() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going(0, Client::Rdkafka, "broker-killed")?, stage.plain(0, PLAIN, ORDERS, "broker-killed-plain")?];
        go_on(&going)?;
        let mut strikes = Strikes::default();
        let own = going[0].topic.clone();
        for (what, home, phase, side, topic) in [
            ("the log's leader killed", Side::New, Phase::Held, Side::New, TOPIC),
            ("a source broker killed", Side::Legacy, Phase::AllHold, Side::New, &*own),
            ("a target broker killed", Side::New, Phase::Flipped, Side::New, &*own),
        ] {
            let broker = leader(stage, side, topic)?;
            let after = stage.edit(home)?;
            stage.decisions.is_at(phase, after)?;
            stage.cluster(side).kill(broker)?;
            strikes.count(what, Phase::of(&stage.decisions.state()?, after));
            let took = stage.leads(home, &going).with_context(|| format!("{what} at {phase:?}"))?;
            go_on(&going).with_context(|| format!("{what} at {phase:?}"))?;
            println!("{what} at {phase:?}: {took:.2?} until {home:?} leads");
            stage.cluster(side).restart(broker)?;
        }
        println!("{strikes}");
        the_log_is_away(stage, &going)?;
        stage.ends(going.into(), true).map(drop)
    })
}

/// Does something while no broker of a cluster answers.
fn while_away<T>(cluster: &Cluster, does: impl FnOnce() -> Result<T>) -> Result<T> {
    let frozen = cluster.node_ids().into_iter().try_for_each(|node| cluster.freeze(node));
    let done = frozen.and_then(|()| does());
    thread::scope(|scope| {
        let thawing: Vec<_> = cluster.node_ids().into_iter().map(|node| scope.spawn(move || cluster.thaw(node))).collect();
        thawing.into_iter().try_for_each(|thawing| thawing.join().expect("a thaw returns its errors"))
    })?;
    done
}

/// Who holds waits for the outcome.
fn the_log_is_away(stage: &Stage, going: &[Going]) -> Result<()> {
    let (home, phase) = (Side::Legacy, Phase::Held);
    let after = stage.edit(home)?;
    stage.decisions.is_at(phase, after)?;
    while_away(stage.cluster(Side::New), || {
        thread::sleep(AWAY);
        Ok(())
    })?;
    let took = stage.leads(home, going).with_context(|| format!("away at {phase:?}"))?;
    go_on(going).with_context(|| format!("away at {phase:?}"))?;
    println!("the log's cluster was away at {phase:?}, for {AWAY:?}: {took:.2?} until {home:?} leads");
    Ok(())
}

#[test]
fn a_proxy_that_cannot_read_the_log_and_has_not_said_that_it_holds_lets_go() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going(0, Client::Rdkafka, "blind")?, stage.plain(0, PLAIN, ORDERS, "blind-plain")?];
        let topic = "orders.blind-begun";
        stage.create(topic)?;
        go_on(&going)?;
        // A request that has begun and does not end keeps the proxy from saying it.
        let mut begun = stage.at_leader(0, Side::Legacy, topic)?;
        let frame = numbered(topic, 0)?;
        let (front, rest) = frame.split_at(frame.len() - 1);
        begun.send(front)?;
        let after = stage.edit(Side::New)?;
        stage.decisions.is_at(Phase::Held, after)?;
        let held = Instant::now();
        let went_on = while_away(stage.cluster(Side::New), || {
            go_on(&going).context("while the log is away")?;
            let phase = Phase::of(&stage.decisions.state()?, after);
            ensure!(phase == Phase::Held, "the log is read, or the proxy has said that it holds: {phase:?}");
            Ok(held.elapsed())
        })?;
        ensure!(went_on > Duration::from_secs(4), "nobody was held: they went on after {went_on:.1?}");
        ensure!(went_on < Duration::from_secs(15), "held for {went_on:.1?}");
        begun.send(rest)?;
        is_appended(&mut begun, 0).context("what had begun")?;
        let took = stage.leads(Side::New, &going)?;
        println!("the log's cluster was away, and producers went on after {went_on:.1?}; {took:.2?} later it leads");
        stage.is_copied(topic)?;
        ensure!(stage.cluster(Side::New).read_all(topic)?.len() == 1, "what had begun is not in the log, once");
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        stage.ends(going.into(), true).map(drop)
    })
}

#[test]
fn a_client_that_comes_before_its_proxy_has_joined_is_routed_by_the_file_that_is_in_force_then() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(2)?;
        stage.proxies[1].stop()?;
        let without = with_home(&stage.files[1], Side::Legacy);
        fs::write(stage.proxies[1].config(), without.clone().relay("early", "early-*", Side::Legacy.name(), "").text())?;
        let proxy = &mut stage.proxies[1];
        let mut clients = while_away(Side::New.of(&stage.clusters), || {
            proxy.start_again()?;
            let mut clients = [Raw::connect(proxy.port())?, Raw::connect(proxy.port())?];
            for (client, client_id) in clients.iter_mut().zip(["early-bird", "orders-early"]) {
                client.send(&raw::api_versions(0, Some(client_id)))?;
                client.is_quiet(Duration::from_secs(1))?;
            }
            proxy.edit(&without)?;
            Ok(clients)
        })?;
        ensure!(clients[0].rest()?.is_empty(), "a route that is in no file any more serves a client");
        let closed = proxy.closed(&clients[0])?;
        ensure!(closed["cause"] == "no_route", "{closed}");
        clients[1].frame()?;
        stage.have_joined(2, LIMIT)
    })
}
