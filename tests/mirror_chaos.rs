//! The mirror when everything is killed at random: the mirror itself, and brokers of both clusters, which are also frozen. Afterwards both
//! logs are the same, offset for offset.
//!
//! `KFERRY_KILLS` is how many kills and freezes there are (more than [`FEW`] of them also hit a source of three brokers), and `KFERRY_SEED`
//! repeats a run's choices, though not its timing. The seed is printed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use harness::chaos::{Found, Random, divergences, intrude, produce, setting, transact};
use harness::kafka::{Cluster, Record};
use harness::mirror::Mirror;
use harness::process::Process;
use harness::translated::{FOREIGN, Found as Translated};

/// Kills and freezes in each test, unless `KFERRY_KILLS` says so: a third to a half of them of brokers.
const FEW: usize = 8;
/// A broker that is frozen for longer than its session loses what it leads, and does not know that when it thaws.
const FROZEN_MS: (u64, u64) = (200, 9_000);
/// A killed broker stays away so long.
const AWAY_MS: (u64, u64) = (0, 5_000);
/// Between two kills of a mirror: within its start, its comparison, and while it copies.
const RUNS_MS: (u64, u64) = (50, 3_000);
/// Between two blows to brokers.
const CALM_MS: (u64, u64) = (0, 2_000);

/// One test at a time: each has clusters of several brokers.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kills() -> Result<usize> {
    Ok(setting("KFERRY_KILLS")?.map_or(FEW, |kills| kills as usize))
}

fn seed() -> Result<u64> {
    let seed = setting("KFERRY_SEED")?;
    Ok(seed.unwrap_or(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64))
}

/// One broker after the other is killed or frozen, and comes back.
fn strike(clusters: &[&Cluster], mut random: Random, count: usize) -> Result<()> {
    for _ in 0..count {
        random.pause(CALM_MS);
        let cluster = random.one(clusters);
        let node = random.one(&cluster.node_ids());
        if random.below(2) == 0 {
            cluster.kill(node)?;
            random.pause(AWAY_MS);
            cluster.restart(node)?;
        } else {
            cluster.freeze(node)?;
            random.pause(FROZEN_MS);
            cluster.thaw(node)?;
        }
    }
    Ok(())
}

/// A mirror runs, is killed and runs again, `count` times and until `over`. Each run is by itself: as a member of the mirror's group it would wait for
/// the session of the one that was killed, and be killed before it has copied anything.
fn kill_and_restart(mirror: &mut Mirror, mut random: Random, count: usize, over: &AtomicBool) -> Result<usize> {
    let mut killed = 0;
    while killed < count || !over.load(Ordering::Relaxed) {
        let mut process = mirror.start(&["--once"])?;
        random.pause(RUNS_MS);
        killed += usize::from(is_killed(&mut process)?);
    }
    Ok(killed)
}

/// Kills it, unless it came to the end of what there was, or to partitions whose brokers are away.
fn is_killed(process: &mut Process) -> Result<bool> {
    match process.exited() {
        None => process.kill(),
        Some(status) => {
            ensure!(matches!(status.code(), Some(0 | 1)), "the mirror ended with {status}:\n{}", process.log_tail(30));
            return Ok(false);
        }
    }
    Ok(true)
}

/// Two mirrors that both copy everything, since neither is in the group, each of which is killed or frozen in turn: one that thaws is a zombie, and
/// sends what it had in mind when the other has gone on.
fn fight(mirrors: &mut [Mirror; 2], mut random: Random, count: usize, over: &AtomicBool) -> Result<usize> {
    let mut blows = 0;
    let mut running: Vec<Process> = mirrors.iter_mut().map(|mirror| mirror.start(&["--once"])).collect::<Result<_>>()?;
    while blows < count || !over.load(Ordering::Relaxed) {
        random.pause(RUNS_MS);
        let which = random.below(2) as usize;
        if random.below(2) == 0 && running[which].exited().is_none() {
            running[which].freeze()?;
            random.pause(RUNS_MS);
            running[which].thaw()?;
            blows += 1;
        } else {
            blows += usize::from(is_killed(&mut running[which])?);
            running[which] = mirrors[which].start(&["--once"])?;
        }
    }
    Ok(blows)
}

fn target(version: &str) -> harness::kafka::Builder {
    Cluster::version(version).name("target").first_node_id(11).brokers(3).set("min.insync.replicas", "2")
}

fn source(brokers: u16) -> harness::kafka::Builder {
    let source = Cluster::version("3.9.1").name("source").brokers(brokers);
    if brokers == 1 { source } else { source.set("min.insync.replicas", "2") }
}

type Load<'l> = Box<dyn FnOnce(&AtomicBool) -> Result<()> + Send + 'l>;

/// Loads run while brokers are struck and mirrors killed, until both have come to their end.
fn under_load(
    loads: Vec<Load<'_>>,
    strike: impl FnOnce() -> Result<()> + Send,
    kill: impl FnOnce(&AtomicBool) -> Result<usize>,
) -> Result<usize> {
    let (stop, over) = (&AtomicBool::new(false), &AtomicBool::new(false));
    thread::scope(|scope| {
        let loads: Vec<_> = loads.into_iter().map(|load| scope.spawn(move || load(stop))).collect();
        let brokers = scope.spawn(move || {
            let struck = strike();
            over.store(true, Ordering::Relaxed);
            struck
        });
        let killed = kill(over);
        let struck = brokers.join().expect("it does not panic");
        stop.store(true, Ordering::Relaxed);
        let loads: Vec<_> = loads.into_iter().map(|load| load.join().expect("it does not panic")).collect();
        struck?;
        loads.into_iter().collect::<Result<()>>()?;
        killed
    })
}

/// So many kills as are wanted, with choices that can be repeated.
fn seeded(test: impl FnOnce(usize, u64) -> Result<()>) -> Result<()> {
    let _turn = turn();
    let (kills, seed) = (kills()?, seed()?);
    println!("KFERRY_KILLS={kills} KFERRY_SEED={seed}");
    test(kills, seed).with_context(|| format!("KFERRY_KILLS={kills} KFERRY_SEED={seed}"))
}

#[test]
fn kills_lose_and_repeat_nothing() -> Result<()> {
    seeded(|kills, seed| copy_under_kills("4.3.0", kills, seed))
}

/// Another controller, another replication of topics, and brokers that are registered until their session is over.
#[test]
fn kills_lose_and_repeat_nothing_on_a_target_with_zookeeper() -> Result<()> {
    seeded(|kills, seed| copy_under_kills("2.8.2", kills, seed))
}

fn copy_under_kills(version: &str, kills: usize, seed: u64) -> Result<()> {
    let began = Instant::now();
    let clusters = Cluster::start_all(vec![source(if kills > FEW { 3 } else { 1 }), target(version)])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("c.plain", 3, &[])?;
    source.create_topic("c.transactions", 2, &[])?;
    let mut mirror = Mirror::new(source, target, "topics_regex = ['c\\..*']\nreplication_factor = 3")?;
    // Its topics are there before a broker is away: they cannot be created while one is.
    mirror.copy()?;

    let loads: Vec<Load<'_>> = vec![
        Box::new(|stop| produce(source, "c.plain", 3, stop)),
        Box::new(|stop| transact(source, "c.transactions", 2, Random(seed), stop)),
    ];
    let killed = under_load(
        loads,
        || strike(&[target, target, source], Random(!seed), kills / 2),
        |over| kill_and_restart(&mut mirror, Random(seed.rotate_left(32)), kills.div_ceil(2), over),
    )?;
    let told = format!("{killed} kills of the mirror, {} blows to brokers", kills / 2);
    same_in_the_end(std::slice::from_mut(&mut mirror), (source, target), &["c.plain", "c.transactions"], (&told, began))
}

/// The first mirror copies the rest. Then both sides are the same, and none of the mirrors has ever found anything else.
fn same_in_the_end(
    mirrors: &mut [Mirror],
    (source, target): (&Cluster, &Cluster),
    topics: &[&str],
    (told, began): (&str, Instant),
) -> Result<()> {
    let ended = mirrors[0].once()?;
    let found = Found::look(source, target, topics)?;
    println!("{told}, {:?}: {found:?}", began.elapsed());
    let logs = mirrors.iter().map(Mirror::logs).collect::<Result<String>>()?;
    let diverged = divergences(&logs);
    ensure!(diverged.is_empty(), "it found that both sides differ:\n{}", diverged.join("\n"));
    ensure!(found.is_perfect(), "both sides differ: {found:?}");
    ensure!(ended.code == Some(0), "kferry-mirror --once ended with {:?}:\n{}", ended.code, ended.log);
    Ok(())
}

#[test]
fn two_mirrors_of_the_same_partitions_put_nothing_in_a_wrong_place() -> Result<()> {
    seeded(two)
}

fn two(kills: usize, seed: u64) -> Result<()> {
    let began = Instant::now();
    let clusters = Cluster::start_all(vec![source(1), target("4.3.0")])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("f.plain", 4, &[])?;
    source.create_topic("f.transactions", 2, &[])?;
    let topics = "topics_regex = ['f\\..*']\nreplication_factor = 3";
    let mut mirrors = [Mirror::new(source, target, topics)?, Mirror::new(source, target, topics)?];
    mirrors[0].copy()?;

    let loads: Vec<Load<'_>> = vec![
        Box::new(|stop| produce(source, "f.plain", 4, stop)),
        Box::new(|stop| transact(source, "f.transactions", 2, Random(seed), stop)),
    ];
    let killed = under_load(
        loads,
        || strike(&[target], Random(!seed), kills / 3),
        |over| fight(&mut mirrors, Random(seed.rotate_left(32)), kills, over),
    )?;
    let told = format!("{killed} blows to two mirrors, {} blows to brokers", kills / 3);
    same_in_the_end(&mut mirrors, (source, target), &["f.plain", "f.transactions"], (&told, began))
}

#[test]
fn translated_offsets_are_exact_whatever_is_killed() -> Result<()> {
    seeded(translate)
}

fn translate(kills: usize, seed: u64) -> Result<()> {
    let began = Instant::now();
    let clusters = Cluster::start_all(vec![source(1), target("4.3.0")])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    let topics = [("t.plain", 2), ("t.transactions", 2)];
    for (topic, partitions) in topics {
        source.create_topic(topic, partitions, &[])?;
        target.create_topic(topic, partitions, &[])?;
        target.produce(topic, &[Record::new(FOREIGN, "there already").to_partition(0)])?;
    }
    let mut mirror = Mirror::new(source, target, "topics_regex = ['t\\..*']\noffsets = \"translate\"")?;
    mirror.copy()?;

    let loads: Vec<Load<'_>> = vec![
        Box::new(|stop| produce(source, "t.plain", 2, stop)),
        Box::new(|stop| transact(source, "t.transactions", 2, Random(seed), stop)),
        Box::new(|stop| intrude(target, "t.plain", 2, Random(seed ^ 1), stop)),
        Box::new(|stop| intrude(target, "t.transactions", 2, Random(seed ^ 2), stop)),
    ];
    let killed = under_load(
        loads,
        || strike(&[target], Random(!seed), kills / 3),
        |over| kill_and_restart(&mut mirror, Random(seed.rotate_left(32)), kills, over),
    )?;
    let ended = mirror.once()?;
    ensure!(ended.code == Some(0), "kferry-mirror --once ended with {:?}:\n{}", ended.code, ended.log);
    for (topic, _) in topics {
        let found = Translated::look(&mirror, source, target, topic, topic)?;
        println!("{topic}: {killed} kills of the mirror, {} blows to brokers, {:?}: {found:?}", kills / 3, began.elapsed());
        ensure!(found.is_perfect() && found.segments > 1, "{topic}: {found:?}");
    }
    let logs = mirror.logs()?;
    let diverged = divergences(&logs);
    ensure!(diverged.is_empty(), "it found that both sides differ:\n{}", diverged.join("\n"));
    let verified = mirror.kferry(&["verify"])?;
    ensure!(verified.code == Some(0), "kferry verify: {verified:?}");
    Ok(())
}
