//! Moves in a simulated world: the rules of the log of decisions, the proxy's reconciliation, the first-batch rule and the mirror's closing rule run as they
//! run for real, between two clusters, one to three proxies, one or two processes of the mirror and clients, with crashes, pauses, cut links, old files,
//! and copies of records that come late. One seed is one schedule.
//!
//! | file | what it is |
//! |---|---|
//! | `world` | time, the log of decisions, faults, and what must hold |
//! | `cluster` | the logs of a cluster, and Kafka's check of sequences |
//! | `proxy`, `mirror`, `client`, `group` | who acts |
//! | `rng` | chance from a seed |
//!
//! What must hold: a record never lands on a cluster that does not lead its topic at that moment; at a flip both logs are equal; the mirror writes nothing but
//! what the leader has; what was acknowledged is there, of idempotent producers once and in order; every reader of the log knows the same; an abort restores
//! who leads; a group lives on one cluster: nobody commits on the other one, and its last offsets are there before; no old file begins a move; and when faults end, every move ends, nobody holds, and the last file is in force.
//!
//! `KFERRY_SEEDS=1000000` runs more seeds than 1,000 (`make soak`). A seed that fails prints its schedule; `KFERRY_SEED=7` runs that one again.

mod client;
mod cluster;
mod group;
mod mirror;
mod proxy;
mod rng;
mod world;

use std::num::NonZero;

use world::World;

/// A rule that is left out, to see that the simulator would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    /// A process that starts anew in the same place says that it is the one from before.
    Incarnation,
    /// The mirror's closing word names what it has read when it speaks, not when it began to measure.
    AsOf,
    /// A proxy serves before it has read its own `joined`.
    ReadAfterJoin,
    /// Nothing that is unanswered is waited for.
    ThirtySeconds,
    /// The first-batch rule is not told what the old leader knows.
    Strict,
    /// Records count for whichever move is open.
    LastDecision,
    /// A proxy that leaves does not say that something of it may still arrive.
    LeftLate,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|error| panic!("{name}={number}: {error}")))
}

/// Runs a seed, and prints its schedule if something does not hold.
fn run(seed: u64) -> u32 {
    World::new(seed, None, false).run().unwrap_or_else(|_| {
        let (wrong, schedule) = World::new(seed, None, true).run().err().unwrap_or_default();
        panic!("{}\nseed {seed}: {wrong}\nagain: KFERRY_SEED={seed} cargo test -p kferry-wire --test moves_simulator", schedule.join("\n"));
    })
}

#[test]
fn every_move_ends_well_whatever_fails() {
    if let Some(seed) = number("KFERRY_SEED") {
        println!("seed {seed}: {} flips", run(seed));
        return;
    }
    let seeds = number("KFERRY_SEEDS").unwrap_or(1_000);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let flips: u64 = std::thread::scope(|scope| {
        let share = |first| scope.spawn(move || (first..seeds).step_by(threads).map(|seed| u64::from(run(seed))).sum::<u64>());
        let shares: Vec<_> = (0..threads as u64).map(share).collect();
        shares.into_iter().map(|share| share.join().expect("its schedule is printed above")).sum()
    });
    println!("{seeds} seeds, {flips} flips");
    assert!(flips >= seeds, "{flips} flips in {seeds} seeds: too few to say anything");
}

#[test]
fn each_rule_that_is_left_out_is_noticed() {
    for mutation in [
        Mutation::Incarnation,
        Mutation::AsOf,
        Mutation::ReadAfterJoin,
        Mutation::ThirtySeconds,
        Mutation::Strict,
        Mutation::LastDecision,
        Mutation::LeftLate,
    ] {
        let noticed = (0..10_000).find_map(|seed| Some((seed, World::new(seed, Some(mutation), false).run().err()?.0)));
        let Some((seed, wrong)) = noticed else { panic!("nobody notices that {mutation:?} is left out") };
        println!("{mutation:?}: seed {seed}, {wrong}");
    }
}
