//! A proxy fails, or has another file than the other one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::raw::{self, until};
use harness::stage::Side;
use kafka_protocol::messages::ProduceRequest;
use kferry_wire::decisions::State;
use rustix::process::Signal;

use crate::decisions::Phase;
use crate::edits::{is_appended, numbered, numbered_with};
use crate::{Going, LATE, LIMIT, ORDERS, Stage, Strikes, go_on, on_stage, with_home};

/// How long it is waited for what must not happen.
const NOTHING: Duration = Duration::from_secs(3);

/// An idempotent client and a plain one, each at a proxy of its own.
fn two(stage: &mut Stage, name: &str) -> Result<[Going; 2]> {
    stage.has_proxies(2)?;
    let going = [stage.going(0, Client::Rdkafka, name)?, stage.plain(1, Client::Rdkafka, ORDERS, &format!("{name}-plain"))?];
    go_on(&going)?;
    Ok(going)
}

/// Nothing is decided, and this proxy says why.
fn nothing_moves(stage: &Stage, proxy: usize, after: i64, why: &str) -> Result<()> {
    thread::sleep(NOTHING);
    let last = stage.decisions.state()?.last_decision();
    ensure!(last == after, "something was decided at {last}");
    let said = stage.moves(proxy)?["waits"]["orders"].to_string();
    ensure!(said.contains(why), "it does not say {why:?}: {said}");
    let waiting = stage.proxies[proxy].metric("kferry_proxy_routes_waiting", &[])?;
    ensure!(waiting >= 1.0, "{waiting} routes wait, by the metric");
    Ok(())
}

/// The name of a proxy in the log.
pub(crate) fn name(stage: &Stage, proxy: usize) -> Result<String> {
    Ok(stage.moves(proxy)?["proxy"].as_str().context("a proxy has a name")?.to_owned())
}

#[test]
fn nothing_moves_before_all_proxies_wish_it_and_an_old_file_orders_nothing() -> Result<()> {
    on_stage(|stage| {
        let going = two(stage, "two-proxies")?;
        for (home, first) in [(Side::New, 0), (Side::Legacy, 1)] {
            let (after, other) = (stage.decisions.state()?.last_decision(), 1 - first);
            stage.edit_one(first, home)?;
            let mut wishes = [(name(stage, first)?, home), (name(stage, other)?, home.other())];
            wishes.sort_by(|one, other| one.0.cmp(&other.0));
            let [(one, one_home), (two, two_home)] = wishes;
            let why = format!("proxy {one} wants it on {}, proxy {two} on {}", one_home.name(), two_home.name());
            nothing_moves(stage, first, after, &why)?;
            go_on(&going).context("while the files differ")?;
            stage.edit_one(other, home)?;
            let took = stage.leads(home, &going)?;
            println!("{home:?} leads {took:.2?} after the second proxy has the file");
            go_on(&going)?;
        }
        let seen = going.iter().map(|going| going.soak.seen()).find(|seen| !seen.errors.is_empty() || seen.again > 0);
        ensure!(seen.is_none(), "{seen:?}");
        let [one, two] = going;
        stage.ends(vec![two], false)?;
        // The second one is away while its file is put back to what it was.
        stage.proxies[1].stop()?;
        let after = stage.decisions.state()?.last_decision();
        fs::write(stage.proxies[1].config(), with_home(&stage.files[1], Side::New).text())?;
        stage.proxies[1].start_again()?;
        stage.have_joined(2, LIMIT)?;
        // Of two reasons the one that concerns the first proxy by name is said.
        let [there, back] = [name(stage, 0)?, name(stage, 1)?];
        let differs = format!("proxy {there} wants it on legacy, proxy {back} on new");
        let why = if back < there { "still has the file with which it has started" } else { &differs };
        nothing_moves(stage, 1, after, why)?;
        let log = stage.proxies[1].log_text();
        ensure!(log.lines().any(|line| line.contains("a route does not move as routes.toml wishes") && line.contains(why)), "{why}: {log}");
        let going = [one];
        go_on(&going).context("with an old file")?;
        stage.edit_one(1, Side::Legacy)?;
        stage.leads(Side::Legacy, &going)?;
        ensure!(stage.decisions.state()?.last_decision() == after, "something was decided");
        stage.ends(going.into(), false).map(drop)
    })
}

#[test]
fn proxies_that_are_killed_during_a_move_and_run_again() -> Result<()> {
    on_stage(|stage| {
        let going = two(stage, "proxy-killed")?;
        let mut strikes = Strikes::default();
        // The first one by name asks for what is next; the other one stands by.
        for (home, blows) in [(Side::New, &[(1, Phase::Held)][..]), (Side::Legacy, &[(0, Phase::Closed), (1, Phase::Flipped)])] {
            let after = stage.edit(home)?;
            let (began, mut hit) = (Instant::now(), Phase::Before);
            for (proxy, phase) in blows {
                stage.decisions.is_at(*phase, after)?;
                stage.proxies[*proxy].kill();
                hit = Phase::of(&stage.decisions.state()?, after);
                strikes.count("proxy killed", hit);
            }
            for (proxy, _) in blows {
                stage.proxies[*proxy].start_again()?;
            }
            if home == Side::New {
                // One that ends in good order has nothing under way; the one before it may have, and the next one waits for that, too.
                let joined = |state: &State| state.joined().values().any(|joined| joined.replaces).then_some(());
                stage.decisions.says("that a proxy has taken the place of another", LIMIT, joined)?;
                stage.proxies[1].stop()?;
                stage.proxies[1].start_again()?;
            }
            let took = stage.leads(home, &going).with_context(|| format!("killed at {blows:?}"))?;
            ensure!(hit == Phase::Flipped || began.elapsed() > LATE, "it has not waited for what was sent: {:?}", began.elapsed());
            go_on(&going).with_context(|| format!("killed at {blows:?}"))?;
            println!("proxies were killed at {blows:?}: {took:.2?} until {home:?} leads");
        }
        println!("{strikes}");
        stage.ends(going.into(), true).map(drop)
    })
}

#[test]
fn a_proxy_that_stands_still_during_a_move() -> Result<()> {
    on_stage(|stage| {
        let going = two(stage, "proxy-frozen")?;
        let mut strikes = Strikes::default();
        for (home, phase) in [(Side::New, Phase::Held), (Side::Legacy, Phase::AllHold)] {
            let after = stage.edit(home)?;
            stage.decisions.is_at(phase, after)?;
            stage.proxies[0].freeze()?;
            strikes.count("proxy frozen", Phase::of(&stage.decisions.state()?, after));
            // Whoever waits for the outcome waits for the other one to ask for it; whoever does not hold is not waited for longer than `hold_ms`.
            let began = Instant::now();
            stage
                .decisions
                .says("that no move is open", LIMIT, |state| (state.last_decision() > after && state.open().is_none()).then_some(()))?;
            go_on(&going[1..]).context("at the proxy that runs")?;
            thread::sleep(Duration::from_secs(7).saturating_sub(began.elapsed()));
            stage.proxies[0].thaw()?;
            let took = stage.leads(home, &going).with_context(|| format!("frozen at {phase:?}"))?;
            go_on(&going).with_context(|| format!("frozen at {phase:?}"))?;
            println!("a proxy was frozen at {phase:?}: {took:.2?} until {home:?} leads");
        }
        println!("{strikes}");
        stage.ends(going.into(), true).map(drop)
    })
}

#[test]
fn a_proxy_that_is_stopped_during_a_hold_lets_go_with_the_others() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(2)?;
        let topic = "orders.drained";
        stage.create(topic)?;
        let [mut held, mut begun] = [stage.at_leader(0, Side::Legacy, topic)?, stage.at_leader(1, Side::Legacy, topic)?];
        // What has begun at the other one and does not end keeps the hold open for as long as a hold may take.
        let frame = numbered(topic, 0)?;
        let (front, rest) = frame.split_at(frame.len() - 1);
        begun.send(front)?;
        let patient = with_home(&stage.files[0], Side::New).text().replace("drain_timeout_ms = 2000", "drain_timeout_ms = 25000");
        let after = stage.decisions.state()?.last_decision();
        fs::write(stage.proxies[0].config(), patient)?;
        stage.proxies[0].reload()?;
        stage.edit_one(1, Side::New)?;
        stage.decisions.is_at(Phase::Held, after)?;
        until("the proxy holds", || Ok(!stage.moves(0)?["open"].is_null()))?;
        ensure!(stage.proxies[0].metric("kferry_proxy_moves_open", &[])? > 0.0, "no move is open, by the metric");
        held.send(&numbered(topic, 1)?)?;
        held.is_quiet(Duration::from_secs(1))?;
        stage.proxies[0].signal(Signal::TERM)?;
        let stopped = Instant::now();
        is_appended(&mut held, 1)?;
        ensure!(stopped.elapsed() < Duration::from_secs(12), "it was held for {:.1?}", stopped.elapsed());
        ensure!(stage.proxies[0].wait()?.success(), "it has not ended in good order");
        begun.send(rest)?;
        is_appended(&mut begun, 0)?;
        stage.edit_one(1, Side::Legacy)?;
        fs::write(stage.proxies[0].config(), with_home(&stage.files[0], Side::Legacy).text())?;
        stage.proxies[0].start_again()?;
        stage.have_joined(2, LIMIT)?;
        stage.leads(Side::Legacy, &[])?;
        stage.is_copied(topic)?;
        ensure!(stage.cluster(Side::New).read_all(topic)?.len() == 2, "what was held is not in the log, once");
        Ok(())
    })
}

/// A client that is never quiet: all that was appended is acknowledged, or it would send that again, and a plain producer's would be there twice. One with
/// acks=0 reads nothing: it must not go on writing to nobody.
#[test]
fn a_proxy_that_is_stopped_under_load_tells_what_was_appended_and_leaves_nothing_behind() -> Result<()> {
    // A broker answers one request of a connection after the other, and what has no answer 5 s after the stop is not told: two of 20, on a machine that
    // stood still for seconds.
    const AHEAD: i32 = 8;
    const ON_ITS_WAY: usize = 20;
    on_stage(|stage| {
        stage.has_proxies(2)?;
        let (topic, unanswered) = ("orders.ended", "orders.ended-unanswered");
        let connect = |topic: &str| stage.create(topic).and_then(|()| stage.at_leader(0, Side::Legacy, topic));
        let (mut client, mut deaf, mut written) = (connect(topic)?, connect(unanswered)?, 0);
        let mut writes = || {
            let is_open = deaf.send(&numbered_with(0, unanswered, written)?).is_ok();
            written += i32::from(is_open);
            Ok::<_, anyhow::Error>(is_open)
        };
        let before = stage.decisions.state()?.left_late().cloned();
        (0..AHEAD).try_for_each(|number| client.send(&numbered(topic, number)?))?;
        let mut acked = 0;
        while let Ok(answer) = raw::answer::<ProduceRequest>(&mut client, 7, acked) {
            let error = answer.responses[0].partition_responses[0].error_code;
            ensure!(error == 0, "{acked}: error {error}");
            acked += 1;
            if acked == 100 {
                stage.proxies[0].signal(Signal::TERM)?;
            }
            writes()?;
            // Once it is closed nobody reads it.
            let _ = client.send(&numbered(topic, acked + AHEAD - 1)?);
        }
        for _ in 0..1_000 {
            if !writes()? {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        ensure!(stage.proxies[0].wait()?.success(), "it has not ended in good order");
        let taken = stage.cluster(Side::Legacy).read_all(unanswered)?.len();
        println!("of {written} with acks=0 {taken} are in the log");
        ensure!(taken > 100 && written as usize <= taken + ON_ITS_WAY, "of {written} with acks=0 {taken} are in the log");
        let log = stage.cluster(Side::Legacy).read_all(topic)?.len();
        ensure!(log == acked as usize && acked > 100, "{acked} were acknowledged, and {log} are in the log");
        let left = stage.decisions.state()?.left_late().cloned();
        ensure!(left == before, "something of {left:?} may still arrive");
        stage.proxies[0].start_again()?;
        stage.have_joined(2, LIMIT)
    })
}
