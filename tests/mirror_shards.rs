//! Several processes share a mirror, and one broker that hangs holds up nobody else.
//!
//! `KFERRY_KILLS` is how many processes are killed, frozen or stopped at random (not less than [`FEW`]), and `KFERRY_SEED` repeats a run's choices, though not its
//! timing. The seed is printed, and the times that it took the others to take over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use harness::LIMIT;
use harness::chaos::{Found, Random, divergences, produce, setting, transact};
use harness::kafka::{ALICE, Acl, Cluster, Listener, Operation, Record, Resource};
use harness::mirror::Mirror;
use harness::process::Process;
use serde_json::Value;

/// One of each kind.
const FEW: usize = 3;
const PROCESSES: usize = 3;
/// A member that says nothing is put out of the group after 15 s; the rest is for a loaded machine.
const TAKEN_OVER: Duration = Duration::from_secs(45);
/// So long frozen is longer than the session.
const FROZEN: Duration = Duration::from_secs(18);
/// One test at a time: each has several clusters, brokers and processes.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed() -> Result<u64> {
    let seed = setting("KFERRY_SEED")?;
    Ok(seed.unwrap_or(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64))
}

/// Asks a process's admin address: the status and the body.
fn get(mirror: &Mirror, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, mirror.admin_port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok((head.split(' ').nth(1).context("no HTTP status")?.parse()?, body.to_owned()))
}

/// A process's partitions that it copies, and up to where they are the same on both sides.
fn copying(mirror: &Mirror) -> Result<BTreeMap<String, i64>> {
    let all: Value = serde_json::from_str(&get(mirror, "/partitions")?.1)?;
    let rows = all["partitions"].as_array().context("no rows")?.iter().filter(|row| row["phase"] == "copying");
    Ok(rows.filter_map(|row| Some((format!("{}-{}", row["topic"].as_str()?, row["partition"]), row["agreed"].as_i64()?))).collect())
}

fn until(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let looked = look();
        if matches!(looked, Ok(true)) {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < limit, "not within {limit:?}: {what} ({looked:?})");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Processes of one mirror.
struct Processes {
    mirrors: Vec<Mirror>,
    running: Vec<Process>,
}

impl Processes {
    fn start(source: &Cluster, target: &Cluster, count: usize, lines: &str) -> Result<Self> {
        let mut mirrors = (0..count).map(|_| Mirror::new(source, target, lines)).collect::<Result<Vec<_>>>()?;
        mirrors[0].copy()?;
        let running = mirrors.iter_mut().map(|mirror| mirror.start(&[])).collect::<Result<_>>()?;
        Ok(Self { mirrors, running })
    }

    /// Each partition is copied by one of these processes, and none by two.
    fn share(&self, partitions: usize, among: &[usize]) -> Result<bool> {
        let rows = among.iter().map(|at| copying(&self.mirrors[*at])).collect::<Result<Vec<_>>>()?;
        let all: BTreeSet<_> = rows.iter().flat_map(BTreeMap::keys).collect();
        Ok(all.len() == partitions && rows.iter().map(BTreeMap::len).sum::<usize>() == partitions)
    }

    fn await_shared(&self, partitions: usize) -> Result<Duration> {
        let all: Vec<_> = (0..self.mirrors.len()).collect();
        until(TAKEN_OVER, "all share the work", || {
            // The group is stable when nobody is left without work.
            let working = all.iter().map(|at| Ok(!copying(&self.mirrors[*at])?.is_empty())).collect::<Result<Vec<_>>>()?;
            Ok(working.into_iter().all(|works| works) && self.share(partitions, &all)?)
        })
    }

    fn logs(&self) -> Result<String> {
        self.mirrors.iter().map(Mirror::logs).collect()
    }

    fn tails(&self) -> String {
        self.running.iter().map(|process| process.log_tail(25) + "\n\n").collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    Terminate,
    Kill,
    Freeze,
}

#[test]
fn one_of_three_processes_at_a_time_is_stopped_killed_or_frozen_and_nothing_is_misplaced() -> Result<()> {
    let _turn = turn();
    let (blows, seed) = (setting("KFERRY_KILLS")?.map_or(FEW, |kills| (kills as usize).max(FEW)), seed()?);
    println!("KFERRY_KILLS={blows} KFERRY_SEED={seed}");
    fight(blows, seed).with_context(|| format!("KFERRY_KILLS={blows} KFERRY_SEED={seed}"))
}

fn fight(count: usize, seed: u64) -> Result<()> {
    const PLAIN: i32 = 24;
    const TRANSACTIONS: i32 = 6;
    const PARTITIONS: usize = (PLAIN + TRANSACTIONS) as usize;
    let target = Cluster::version("4.3.0").name("target").first_node_id(11);
    let clusters = Cluster::start_all(vec![Cluster::version("3.9.1").name("source"), target])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("s.plain", PLAIN, &[])?;
    source.create_topic("s.transactions", TRANSACTIONS, &[])?;
    let mut processes = Processes::start(source, target, PROCESSES, "topics_regex = ['s\\..*']")?;
    let stop = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        let load = [
            scope.spawn(|| produce(source, "s.plain", PLAIN, &stop)),
            scope.spawn(|| transact(source, "s.transactions", TRANSACTIONS, Random(seed), &stop)),
        ];
        let fought = blows(&mut processes, PARTITIONS, Random(!seed), count).map_err(|error| error.context(processes.tails()));
        stop.store(true, Ordering::Relaxed);
        for load in load {
            load.join().expect("it does not panic")?;
        }
        fought
    })?;
    for process in &mut processes.running {
        process.terminate(LIMIT)?;
    }
    let ended = processes.mirrors[0].once()?;
    let found = Found::look(source, target, &["s.plain", "s.transactions"])?;
    for (kind, mut times) in taken {
        times.sort();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{kind}: {} times, taken over after {median:.1?} (median), {longest:.1?} at most", times.len());
    }
    println!("{found:?}");
    let logs = processes.logs()?;
    let diverged = divergences(&logs);
    ensure!(diverged.is_empty(), "it found that both sides differ:\n{}", diverged.join("\n"));
    ensure!(found.is_perfect(), "both sides differ: {found:?}");
    ensure!(ended.code == Some(0), "kferry-mirror --once ended with {:?}:\n{}", ended.code, ended.log);
    Ok(())
}

/// Says how long it took the others to copy again, from the blow on until each partition has got on.
fn blows(processes: &mut Processes, partitions: usize, mut random: Random, count: usize) -> Result<BTreeMap<String, Vec<Duration>>> {
    let mut taken: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    println!("shared after {:.1?}", processes.await_shared(partitions)?);
    for n in 0..count {
        let all = [Blow::Terminate, Blow::Kill, Blow::Freeze];
        let blow = if n < all.len() { all[n] } else { random.one(&all) };
        random.pause((500, 3_000));
        let which = random.below(PROCESSES as u64) as usize;
        let others: Vec<_> = (0..PROCESSES).filter(|at| *at != which).collect();
        let had = copying(&processes.mirrors[which])?;
        let began = Instant::now();
        match blow {
            Blow::Terminate => drop(processes.running[which].terminate(LIMIT)?),
            Blow::Kill => processes.running[which].kill(),
            Blow::Freeze => processes.running[which].freeze()?,
        }
        until(TAKEN_OVER, "the others have taken over", || {
            let mut rows = BTreeMap::new();
            for at in &others {
                rows.extend(copying(&processes.mirrors[*at])?);
            }
            // Transactions may leave a partition out for a while; the plain load does not.
            let goes_on = |(partition, before): (&String, &i64)| {
                rows.get(partition).is_some_and(|now| now > before || partition.starts_with("s.transactions"))
            };
            Ok(rows.len() == partitions && had.iter().all(goes_on))
        })?;
        taken.entry(format!("{blow:?}")).or_default().push(began.elapsed());
        match blow {
            Blow::Freeze => {
                thread::sleep(FROZEN.saturating_sub(began.elapsed()));
                processes.running[which].thaw()?;
            }
            Blow::Terminate | Blow::Kill => processes.running[which] = processes.mirrors[which].start(&[])?,
        }
        processes.await_shared(partitions).context("it comes back")?;
    }
    Ok(taken)
}

#[test]
fn a_broker_that_hangs_holds_up_only_what_it_leads() -> Result<()> {
    let _turn = turn();
    let target = Cluster::version("4.3.0").name("target").first_node_id(11).brokers(2);
    let clusters = Cluster::start_all(vec![Cluster::version("3.9.1").name("source"), target])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("h.plain", 8, &[])?;
    let mut mirror = Mirror::new(source, target, "topics_regex = ['h\\..*']\nreplication_factor = 1")?;
    mirror.copy()?;
    let mut process = mirror.start(&[])?;
    let stop = AtomicBool::new(false);
    let longest = thread::scope(|scope| {
        let load = scope.spawn(|| produce(source, "h.plain", 8, &stop));
        let hung = hang(target, &mirror).map_err(|error| error.context(process.log_tail(40)));
        stop.store(true, Ordering::Relaxed);
        load.join().expect("it does not panic")?;
        hung
    })?;
    println!("one broker of two hangs: {longest:.1?} was the longest time in which a partition of the other one did not get on");
    ensure!(longest < Duration::from_secs(2), "a partition of the broker that does not hang stood still for {longest:?}");
    process.terminate(LIMIT)?;
    mirror.copy()?;
    let found = Found::look(source, target, &["h.plain"])?;
    ensure!(found.is_perfect(), "both sides differ: {found:?}");
    Ok(())
}

/// Freezes the target's second broker, which has no vote, and says for how long a partition that the first one leads did not get on.
fn hang(target: &Cluster, mirror: &Mirror) -> Result<Duration> {
    let [healthy, frozen] = target.node_ids()[..] else { bail!("two brokers were asked for") };
    let leaders: BTreeMap<_, _> =
        target.partitions("h.plain")?.into_iter().enumerate().map(|(n, partition)| (format!("h.plain-{n}"), partition.leader)).collect();
    until(LIMIT, "all partitions are copied", || Ok(copying(mirror)?.values().filter(|agreed| **agreed > 100).count() == 8))?;
    let mut last: BTreeMap<&str, (i64, Instant)> = leaders.keys().map(|partition| (&**partition, (0, Instant::now()))).collect();
    let mut longest = BTreeMap::from([(healthy, Duration::ZERO), (frozen, Duration::ZERO)]);
    target.freeze(frozen)?;
    let until = Instant::now() + Duration::from_secs(20);
    let watched = (|| -> Result<()> {
        while Instant::now() < until {
            let rows = copying(mirror)?;
            for (partition, (agreed, since)) in &mut last {
                let stood = longest.entry(leaders[*partition]).or_default();
                *stood = (*stood).max(since.elapsed());
                if let Some(now) = rows.get(*partition).filter(|now| **now > *agreed) {
                    (*agreed, *since) = (*now, Instant::now());
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })();
    target.thaw(frozen)?;
    watched?;
    ensure!(longest[&frozen] > Duration::from_secs(10), "what the frozen broker leads was copied: {longest:?}");
    Ok(longest[&healthy])
}

#[test]
fn the_group_is_joined_with_a_login_and_the_right_to_do_so() -> Result<()> {
    let _turn = turn();
    let clusters = Cluster::start_all(vec![
        Cluster::version("3.9.1").name("source"),
        Cluster::version("2.8.2").name("target").first_node_id(11).listen(Listener::SaslSsl).acls(),
    ])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    source.create_topic("l.plain", 4, &[])?;
    let records: Vec<_> = (0..200).map(|n| Record::new(format!("key {n}"), n.to_string()).to_partition(n % 4)).collect();
    source.produce("l.plain", &records)?;
    target.add_acls(&[
        Acl::allow(ALICE.name, Operation::All, Resource::Topic("*".to_owned())),
        Acl::allow(ALICE.name, Operation::Alter, Resource::Cluster),
    ])?;
    let mut mirror = Mirror::new_through(Listener::SaslSsl, ALICE, source, target, "topics_regex = ['l\\..*']")?;
    let mut process = mirror.start(&[])?;
    let told = "may not be a member of the group kferry-mirror-m; grant READ";
    until(LIMIT, "that a right is missing is told", || Ok(mirror.logs()?.contains(told)))?;
    ensure!(get(&mirror, "/readyz")?.0 == 503, "it is ready without a membership");
    ensure!(!mirror.logs()?.contains(ALICE.password), "the password is in the log");

    target.add_acls(&[Acl::allow(ALICE.name, Operation::Read, Resource::Group("kferry-mirror-m".to_owned()))])?;
    let ready = until(LIMIT, "it is ready", || Ok(get(&mirror, "/readyz")?.0 == 200));
    ready.with_context(|| process.log_tail(30))?;
    until(LIMIT, "all is copied", || Ok(target.log_ends("l.plain")? == source.log_ends("l.plain")?))?;
    let found = Found::look(source, target, &["l.plain"])?;
    ensure!(found.is_perfect(), "both sides differ: {found:?}");
    process.terminate(LIMIT)?;
    ensure!(target.group("kferry-mirror-m")?.client_ids.is_empty(), "it has not left the group");
    Ok(())
}
