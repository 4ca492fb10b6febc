//! Brokers fail.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::clients::Client;
use harness::stage::Side;
use kferry_wire::decisions::TOPIC;

use crate::decisions::Phase;
use crate::{Going, Stage, Strikes, go_on, on_stage};

/// How long the whole cluster of the log is away: longer than a hold.
const AWAY: Duration = Duration::from_secs(8);

/// The broker that leads a partition 0.
fn leader(stage: &Stage, side: Side, topic: &str) -> Result<i32> {
    Ok(stage.cluster(side).partitions(topic)?[0].leader)
}

#[test]
fn brokers_that_are_killed_in_any_phase_of_a_move() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going(0, Client::Rdkafka, "broker-killed")?, stage.plain(0, "broker-killed-plain")?];
        go_on(&going)?;
        let mut strikes = Strikes::default();
        let own = going[0].topic.clone();
        for (what, home, phase, side, topic) in [
            ("the log's leader killed", Side::New, Phase::Held, Side::New, TOPIC),
            ("a source broker killed", Side::Legacy, Phase::Held, Side::New, &*own),
            ("a target broker killed", Side::New, Phase::AllHold, Side::New, &*own),
            ("a source broker killed", Side::Legacy, Phase::Closed, Side::New, &*own),
            ("a target broker killed", Side::New, Phase::Flipped, Side::New, &*own),
            ("a target broker killed", Side::Legacy, Phase::Held, Side::Legacy, &*own),
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

/// Who holds waits for the outcome.
fn the_log_is_away(stage: &Stage, going: &[Going]) -> Result<()> {
    let cluster = stage.cluster(Side::New);
    for (home, phase) in [(Side::New, Phase::Held), (Side::Legacy, Phase::Holding)] {
        let after = stage.edit(home)?;
        stage.decisions.is_at(phase, after)?;
        let frozen = cluster.node_ids().into_iter().try_for_each(|node| cluster.freeze(node));
        thread::sleep(AWAY);
        thread::scope(|scope| {
            let thawing: Vec<_> = cluster.node_ids().into_iter().map(|node| scope.spawn(move || cluster.thaw(node))).collect();
            thawing.into_iter().try_for_each(|thawing| thawing.join().expect("a thaw returns its errors"))
        })?;
        frozen?;
        let took = stage.leads(home, going).with_context(|| format!("away at {phase:?}"))?;
        go_on(going).with_context(|| format!("away at {phase:?}"))?;
        println!("the log's cluster was away at {phase:?}, for {AWAY:?}: {took:.2?} until {home:?} leads");
    }
    Ok(())
}
