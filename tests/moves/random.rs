//! Moves, and kills at random: of proxies, of the mirror, of brokers on both sides.
//!
//! `KFERRY_MOVES` is how many moves there are, and `KFERRY_SEED` repeats a run's choices, though not its timing. The seed is printed.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use harness::chaos::{Random, setting};
use harness::clients::Client;
use harness::stage::Side;

use crate::decisions::Phase;
use crate::{ORDERS, STAYS, Stage, Strikes, go_on, on_stage};

/// Moves, unless `KFERRY_MOVES` says so.
const FEW: u64 = 6;
/// After the edit: before, while and after a move holds.
const STRIKES_MS: (u64, u64) = (0, 3_000);
/// What was killed stays away so long; what is frozen stands still so long.
const AWAY_MS: (u64, u64) = (0, 9_000);
/// As long as what was sent may still arrive, and longer.
const LONG_MS: (u64, u64) = (35_000, 45_000);

/// One blow, and what it needs to come back.
fn strike(stage: &mut Stage, random: &mut Random, after: i64, strikes: &mut Strikes) -> Result<()> {
    random.pause(STRIKES_MS);
    let away = if random.below(20) == 0 { LONG_MS } else { AWAY_MS };
    let (proxy, side) = (random.below(2) as usize, random.one(&Side::BOTH));
    let phase = Phase::of(&stage.decisions.state()?, after);
    let cluster = side.of(&stage.clusters);
    let node = random.one(&cluster.node_ids());
    let from = now_ms()?;
    let what = match random.below(6) {
        0 => {
            stage.proxies[proxy].kill();
            random.pause(away);
            stage.proxies[proxy].start_again()?;
            "proxy killed"
        }
        1 => {
            stage.proxies[proxy].freeze()?;
            random.pause(away);
            stage.proxies[proxy].thaw()?;
            "proxy frozen"
        }
        2 => {
            stage.mirroring.kill();
            random.pause(AWAY_MS);
            stage.mirror_runs()?;
            "mirror killed"
        }
        3 => {
            stage.mirroring.freeze()?;
            random.pause(away);
            stage.mirroring.thaw()?;
            "mirror frozen"
        }
        4 => {
            cluster.kill(node)?;
            random.pause(AWAY_MS);
            cluster.restart(node)?;
            "broker killed"
        }
        _ => {
            cluster.freeze(node)?;
            random.pause(AWAY_MS);
            cluster.thaw(node)?;
            "broker frozen"
        }
    };
    strikes.count(what, phase);
    println!("{what}, node {node} of {side:?} or proxy {proxy}, while {phase:?}, from {from} to {}", now_ms()?);
    Ok(())
}

/// As in the timestamps of records.
fn now_ms() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

#[test]
#[ignore = "`make soak` runs it: a move after each kill takes a third of a minute"]
fn moves_among_random_kills() -> Result<()> {
    let seed = setting("KFERRY_SEED")?.unwrap_or(now_ms()? as u64);
    let moves = setting("KFERRY_MOVES")?.unwrap_or(FEW);
    println!("KFERRY_SEED={seed} KFERRY_MOVES={moves}");
    on_stage(|stage| {
        stage.has_proxies(2)?;
        let mut random = Random(seed);
        let mut going = vec![
            stage.going(0, Client::Rdkafka, "random-one")?,
            stage.going(1, Client::Rdkafka, "random-two")?,
            stage.going(1, Client::Java4, "random-java")?,
            stage.plain(0, Client::Java4, ORDERS, "random")?,
            // The same kills without moves.
            stage.plain(0, Client::Java4, STAYS, "random")?,
        ];
        go_on(&going)?;
        let mut strikes = Strikes::default();
        let mut home = Side::Legacy;
        for n in 0..moves {
            home = home.other();
            let after = stage.edit(home)?;
            strike(stage, &mut random, after, &mut strikes).with_context(|| format!("move {n}"))?;
            let took = stage.leads(home, &going).with_context(|| format!("move {n} to {home:?}"))?;
            go_on(&going).with_context(|| format!("after move {n} to {home:?}"))?;
            println!("move {n}: {took:.2?} until {home:?} leads");
        }
        if home == Side::New {
            stage.move_to(Side::Legacy, &going)?;
        }
        print!("{strikes}");
        let [stays, moves] = [4, 3].map(|at| stage.ends(going.split_off(at), true));
        let (stays, moves) = (stays?, moves?);
        stage.ends(going, true)?;
        println!(
            "plain producers: {} of {} sent again in {} batches to a topic that moves, {} of {} in {} to one that does not",
            moves.doubled, moves.records, moves.batches, stays.doubled, stays.records, stays.batches
        );
        Ok(())
    })
}
