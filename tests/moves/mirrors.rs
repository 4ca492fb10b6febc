//! The mirror fails.

use std::iter::zip;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::stage::Side;

use crate::decisions::Phase;
use crate::edits::NEVER_AGAIN;
use crate::{Going, ORDERS, Strikes, go_on, on_stage};

#[test]
fn what_the_mirror_does_not_copy_does_not_move_until_it_does() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going(0, Client::Rdkafka, "given-up")?];
        go_on(&going)?;
        // Nobody else of the mirror's processes is there to say anything.
        stage.mirroring.terminate(crate::LIMIT)?;
        let after = stage.edit(Side::New)?;
        stage.comes("it is told that no mirror runs", || {
            let moves = stage.moves(0)?;
            let why = moves["waits"]["orders"][0].as_str().unwrap_or_default();
            ensure!(why.contains("no kferry-mirror of mirror over runs"), "{moves:#}");
            Ok(())
        })?;
        go_on(&going).context("while the mirror is away")?;
        let decided = stage.decisions.state()?.last_decision();
        ensure!(decided == after, "something was decided at {decided}");
        stage.mirror_runs()?;
        stage.leads(Side::New, &going).context("once the mirror runs again")?;
        go_on(&going)?;
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        let seen = going[0].soak.seen();
        println!("{:.2?} without acknowledgements, {:.2?} without reads", seen.longest_ack_pause, seen.longest_consume_pause);
        ensure!(seen.errors.is_empty() && seen.again == 0, "{seen:?}");
        stage.ends(going.into(), false).map(drop)
    })
}

#[test]
fn a_mirror_that_is_killed_during_a_move_and_runs_again() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [
            stage.going_with(0, Client::Rdkafka, ORDERS, "mirror-killed", |job| job.settings[1] = NEVER_AGAIN)?,
            stage.plain(0, Client::Rdkafka, ORDERS, "mirror-killed-plain")?,
        ];
        go_on(&going)?;
        let mut strikes = Strikes::default();
        for (phase, home) in [(Phase::Flipped, Side::New), (Phase::Held, Side::Legacy)] {
            let after = stage.edit(home)?;
            stage.decisions.is_at(phase, after)?;
            stage.mirroring.kill();
            strikes.count("mirror killed", Phase::of(&stage.decisions.state()?, after));
            if phase == Phase::Flipped {
                stage.leads(home, &going)?;
                waits_at_the_copy(&going[0])?;
            }
            stage.mirror_runs()?;
            let took = stage.leads(home, &going).with_context(|| format!("killed at {phase:?}"))?;
            go_on(&going).with_context(|| format!("killed at {phase:?}"))?;
            println!("the mirror was killed at {phase:?}: {took:.2?} until {home:?} leads");
        }
        println!("{strikes}");
        stage.ends(going.into(), false).map(drop)
    })
}

/// A reader that does not ask for metadata is given what the copy has, and no error, while the producer goes on at the leader.
fn waits_at_the_copy(going: &Going) -> Result<()> {
    let reads = || Ok::<_, anyhow::Error>(going.soak.counts()?.consumed.iter().sum::<u64>());
    // What the mirror had copied until it was killed is on its way.
    thread::sleep(Duration::from_secs(2));
    let (read, acked) = (reads()?, going.soak.counts()?.acked);
    thread::sleep(Duration::from_secs(3));
    let (after, acked_after) = (reads()?, going.soak.counts()?.acked);
    ensure!(after == read, "{} records came to a reader at the copy without a mirror", after - read);
    ensure!(zip(&acked, &acked_after).all(|(before, after)| after > before), "the producer does not go on: {acked:?}, {acked_after:?}");
    let seen = going.soak.seen();
    ensure!(seen.errors.is_empty() && seen.again == 0, "{seen:?}");
    Ok(())
}

/// A partition that has diverged cannot be closed: the mirror says so at once, and those that go on are not held until the time of the move is over.
#[test]
fn a_move_of_what_has_diverged_is_given_up_at_once() -> Result<()> {
    const TOPIC: &str = "orders.diverged";
    on_stage(|stage| {
        stage.has_proxies(1)?;
        stage.create(TOPIC)?;
        stage.is_copied(TOPIC)?;
        let going = [stage.going(0, Client::Rdkafka, "beside-diverged")?];
        go_on(&going)?;
        // The mirror makes it anew.
        stage.cluster(Side::New).delete_topic(TOPIC)?;
        stage.comes("it has diverged", || {
            let logs = stage.mirror.logs()?;
            ensure!(logs.contains("orders.diverged on new, which follows, was deleted and created anew"), "{logs}");
            Ok(())
        })?;
        let after = stage.edit(Side::New)?;
        let why = stage.decisions.is_given_up(after)?;
        println!("given up: {why}");
        ensure!(why.contains("of topic orders.diverged has diverged") && why.contains("deleted and created anew"), "{why}");
        go_on(&going)?;
        stage.edit(Side::Legacy)?;
        stage.leads(Side::Legacy, &going)?;
        for side in [Side::New, Side::Legacy] {
            stage.cluster(side).delete_topic(TOPIC)?;
        }
        let seen = going[0].soak.seen();
        println!("{:.2?} without acknowledgements", seen.longest_ack_pause);
        ensure!(seen.errors.is_empty() && seen.longest_ack_pause < Duration::from_secs(4), "{seen:?}");
        stage.ends(going.into(), false).map(drop)
    })
}
