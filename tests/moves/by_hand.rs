//! What an operator sees of moves, and does: `kferry decisions`, `status`, `move`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::Client;
use harness::kafka::{Cluster, Listener, Record};
use harness::kferry::{Done, File};
use harness::mirror::Mirror;
use harness::proxy::{Proxy, Routes};
use harness::raw::until;
use harness::stage::Side;
use harness::{ports, run};
use serde_json::Value;

use crate::{LIMIT, PARTITIONS, Stage, go_on, on_stage, with_home};

/// The file with the route's home on a cluster, as an operator has it beside the one that the proxy has taken.
fn file(stage: &Stage, home: &str) -> Result<File> {
    let text = fs::read_to_string(stage.mirror.config())?;
    let path = run::folder("by-hand")?.join("routes.toml");
    fs::write(&path, text.replacen("cluster = \"legacy\"\nmode = \"relay\"", &format!("cluster = \"{home}\"\nmode = \"relay\""), 1))?;
    Ok(File(path))
}

/// `kferry ... --json`.
fn json(file: &File, arguments: &[&str]) -> Result<(Done, Value)> {
    let done = file.kferry(&[arguments, &["--json"]].concat())?;
    let json = done.json()?;
    ensure!((json["ok"] == true) == (done.code == Some(0)), "{done:?}");
    Ok((done, json))
}

fn row<'j>(json: &'j Value, list: &str, key: &str, name: &str) -> Result<&'j Value> {
    let mut rows = json[list].as_array().context("a list")?.iter();
    rows.find(|row| row[key] == name).with_context(|| format!("{list} has no {name}: {json:#}"))
}

#[test]
fn an_operator_sees_what_moves_and_what_counts() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going(0, Client::Rdkafka, "seen")?];
        let topic = going[0].topic.clone();
        go_on(&going)?;
        let (legacy, new) = (file(stage, "legacy")?, file(stage, "new")?);
        let at_rest = |file: &File| stage.comes("all is where it is wished", || file.kferry(&["status"])?.ends_with(0).map(drop));
        at_rest(&legacy)?;

        // Another file, which no proxy has taken.
        let (_, status) = json(&new, &["status"])?;
        let route = row(&status, "routes", "route", "orders")?;
        ensure!(route["wished"] == "new" && route["home"] == "legacy", "{status:#}");
        ensure!(route["in_the_way"][0].as_str().is_some_and(|why| why.contains("have not taken this file")), "{status:#}");
        let plan = new.kferry(&["move", "--dry-run"])?;
        plan.ends_with(0)?.says("from legacy to new, for orders: ")?.says("the proxies wish it on legacy")?;
        let (_, plan) = json(&new, &["move", "--dry-run"])?;
        let moved = plan["moves"][0]["topics"].as_array().context("topics")?;
        ensure!(plan["moves"][0]["to"] == "new" && moved.contains(&topic.as_str().into()), "{plan:#}");
        legacy.kferry(&["move", "--dry-run"])?.ends_with(0)?.says("nothing is to move")?;

        stage.move_to(Side::New, &going)?;
        go_on(&going)?;
        at_rest(&new)?;
        let (_, status) = json(&new, &["status"])?;
        let led = row(&status, "topics", "topic", &topic)?;
        ensure!(led["leader"] == "new" && led["follower"] == "legacy" && led["term"] == 2 && led["lag"].is_u64(), "{led:#}");
        let receipt = &status["receipts"][0];
        ensure!(receipt["outcome"] == "flipped" && receipt["to"] == "new", "{receipt:#}");
        ensure!(receipt["topics"].as_array().is_some_and(|moved| moved.contains(&topic.as_str().into())), "{receipt:#}");
        let proxy = &status["proxies"][0];
        ensure!(proxy["says"] == "answers" && proxy["admin"] == format!("127.0.0.1:{}", stage.proxies[0].admin_port()), "{proxy:#}");

        let (_, log) = json(&new, &["decisions"])?;
        let records = log["records"].as_array().context("records")?;
        ensure!(records.iter().enumerate().all(|(offset, record)| record["offset"] == offset), "offsets have gaps: {log:#}");
        ensure!(stage.cluster(Side::New).log_ends("__kferry.decisions")? == [records.len() as i64], "it does not end where its log does");
        let is_flip = |record: &&Value| record["counts"] == true && record["asks"]["flip"]["topics"][&topic]["term"] == 2;
        let flip = records.iter().find(is_flip).with_context(|| format!("no flip of {topic} counts: {log:#}"))?;
        let (ends, leader) = (&flip["asks"]["flip"]["topics"][&topic]["ends"], &flip["asks"]["flip"]["topics"][&topic]["leader"]);
        ensure!(leader == "new" && ends.as_array().is_some_and(|ends| ends.len() == PARTITIONS), "{flip:#}");
        let lines = new.kferry(&["decisions"])?;
        lines.ends_with(0)?.says(&format!("counts  proxy {}", proxy["name"].as_str().context("a name")?))?.says("asks to flip move")?;
        ensure!(lines.text.lines().count() == records.len(), "a line for each of {} records: {}", records.len(), lines.text);

        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        at_rest(&legacy)
    })
}

#[test]
fn an_operator_aborts_a_move_and_nothing_moves_before_another_edit() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        // Nobody produces meanwhile: what a mirror that is away does not copy would not even begin to move.
        let before = stage.going(0, Client::Rdkafka, "stopped")?;
        go_on(std::slice::from_ref(&before))?;
        stage.ends(vec![before], false)?;
        let new = file(stage, "new")?;
        new.kferry(&["move", "abort"])?.ends_with(1)?.says("no move is open")?;
        // Nobody closes anything.
        stage.mirroring.kill();
        stage.proxies[0].edit(&with_home(&stage.files[0], Side::New))?;
        stage.comes("a move is open", || {
            ensure!(!stage.moves(0)?["open"].is_null(), "none is");
            Ok(())
        })?;
        let (_, status) = json(&new, &["status"])?;
        ensure!(status["open"]["to"] == "new" && status["open"]["not_closed"].as_u64() >= Some(PARTITIONS as u64), "{status:#}");
        new.kferry(&["move", "abort", "--reason", "the mirror is away"])?.ends_with(0)?.says("is aborted")?;
        let (_, status) = json(&new, &["status"])?;
        ensure!(status["open"].is_null() && status["stopped"].is_u64(), "{status:#}");
        let receipt = &status["receipts"][0];
        ensure!(receipt["outcome"] == "aborted" && receipt["reason"] == "the mirror is away", "{receipt:#}");
        ensure!(receipt["by"].as_str().is_some_and(|by| by.starts_with("operator ")), "{receipt:#}");
        stage.mirror_runs()?;
        let going = [stage.going(0, Client::Rdkafka, "stopped-and-goes-on")?];
        go_on(&going)?;
        // Longer than an abort of the proxies' own keeps it.
        thread::sleep(Duration::from_secs(12));
        ensure!(stage.moves(0)?["open"].is_null() && stage.moves(0)?["homes"]["orders"] == "legacy", "{:#}", stage.moves(0)?);
        new.kferry(&["status"])?.ends_with(1)?.says("an operator has aborted move")?;
        stage.move_to(Side::Legacy, &going)?;
        stage.move_to(Side::New, &going).context("after another edit")?;
        go_on(&going)?;
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)
    })
}

#[test]
fn a_proxy_is_forgotten_once_it_is_dead_and_not_before() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going(0, Client::Rdkafka, "forgotten")?];
        go_on(&going)?;
        let legacy = file(stage, "legacy")?;
        let other = Proxy::start(&with_home(&stage.files[1], Side::Legacy))?;
        let admin = format!("127.0.0.1:{}", other.admin_port());
        let mut name = String::new();
        let deadline = Instant::now() + LIMIT;
        while name.is_empty() {
            ensure!(Instant::now() < deadline, "the second proxy does not join:\n{}", other.log_text());
            let (_, status) = json(&legacy, &["status"])?;
            if let Ok(proxy) = row(&status, "proxies", "admin", &admin) {
                ensure!(proxy["says"] == "answers", "{proxy:#}");
                proxy["name"].as_str().context("a name")?.clone_into(&mut name);
            }
        }
        for arguments in [&["move", "forget", &*name] as &[&str], &["move", "forget", &name, "--dead"]] {
            legacy.kferry(arguments)?.ends_with(1)?.says("answers at its admin address: it lives")?;
        }
        legacy.kferry(&["move", "forget", "nobody:1"])?.ends_with(1)?.says("no proxy nobody:1 has joined; these have: ")?.says(&name)?;
        // Killed, so that it says nothing more.
        drop(other);
        legacy.kferry(&["move", "forget", &name, "--dead"])?.ends_with(1)?.says("has said something in the log")?.says("try again in")?;
        stage.proxies[0].edit(&with_home(&stage.files[0], Side::New))?;
        let new = file(stage, "new")?;
        stage.comes("the dead one is told to be in the way", || {
            new.kferry(&["status"])?
                .ends_with(1)?
                .says(&format!("proxy {name}"))?
                .says("kferry move forget")?
                .says("nobody listens at")
                .map(drop)
        })?;
        let began = Instant::now();
        new.kferry(&["move", "forget", &name])?.ends_with(0)?.says("that is waited for")?.says("is forgotten: record")?;
        ensure!(began.elapsed() >= Duration::from_secs(30), "what it has sent may still have arrived: {:?}", began.elapsed());
        stage.leads(Side::New, &going).context("without the dead one")?;
        go_on(&going)?;
        new.kferry(&["move", "forget", &name])?.ends_with(1)?.says("has joined; these have")?;
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)
    })
}

#[test]
fn a_log_that_cannot_be_read_is_said_and_what_stands_before_is_shown() -> Result<()> {
    on_stage(|stage| {
        let legacy = stage.cluster(Side::Legacy);
        let path = file(stage, "legacy")?.0;
        let text = fs::read_to_string(&path)?;
        let here = run::folder("by-hand")?.join("routes.toml");
        fs::write(&here, text.replacen("[state]\ncluster = \"new\"", "[state]\ncluster = \"legacy\"", 1))?;
        let file = File(here);
        for command in [&["decisions"] as &[&str], &["status"], &["move", "--dry-run"], &["move", "abort"], &["move", "forget", "a:1"]] {
            file.kferry(command)?.ends_with(1)?.says("cluster legacy has no topic __kferry.decisions")?;
        }
        legacy.create_topic("__kferry.decisions", 1, &[])?;
        let write = |value: &str| legacy.produce("__kferry.decisions", &[Record::new("", value)]);
        write(r#"{"v":1,"identity":{"log":"0123456789"}}"#)?;
        write("hello")?;
        file.kferry(&["decisions"])?.ends_with(0)?.says("counts  the log is 01234567")?.says("void    5 bytes (no kferry wrote it)")?;
        write(r#"{"v":2,"elect":{}}"#)?;
        let shown = file.kferry(&["decisions"])?;
        shown
            .ends_with(1)?
            .says("counts  the log is 01234567")?
            .says("the record at offset 2 of the log of decisions")?
            .says("update this kferry")?;
        file.kferry(&["status"])?.ends_with(1)?.says("update this kferry")?;
        file.kferry(&["move", "abort"])?.ends_with(1)?.says("update this kferry")?;
        fs::write(&file.0, text.replacen("[state]\ncluster = \"new\"\n", "", 1))?;
        file.kferry(&["status"])?.ends_with(2)?.says("it has no [state]")?;
        legacy.delete_topic("__kferry.decisions")
    })
}

/// With clusters of its own: what the other tests follow stays where it is.
#[test]
fn a_log_moves_to_another_cluster_and_goes_on_there() -> Result<()> {
    let builders = [("3.9.1", "legacy"), ("4.3.0", "new")].map(|(version, name)| Cluster::version(version).name(name).brokers(1));
    let [legacy, new]: [Cluster; 2] =
        Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
    let base = Routes::new()?.kafka("legacy", &legacy, Listener::Plaintext, None)?.kafka("new", &new, Listener::Plaintext, None)?;
    let bind = format!("[admin]\nmirror_bind = \"127.0.0.1:{}\"\n", ports::take(1)?.start);
    let (log, topic) = ("__kferry.decisions", "orders.a");
    let text = |home: Side, state: &str| {
        let text = with_home(&base, home).text().replacen("[admin]\n", &bind, 1);
        text.replacen("[state]\ncluster = \"new\"", &format!("[state]\ncluster = \"{state}\""), 1)
    };
    legacy.create_topic(topic, PARTITIONS as i32, &[])?;
    let config = run::folder("by-hand")?.join("routes.toml");
    let at = |home: Side, state: &str| fs::write(&config, text(home, state));
    let file = File(config.clone());
    let leads = |home: &str| {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = file.kferry(&["status"])?;
            if status.code == Some(0) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "it is not on {home}:\n{}", status.text);
            thread::sleep(Duration::from_millis(200));
        }
    };

    at(Side::Legacy, "legacy")?;
    let start = || -> Result<_> {
        let proxy = Proxy::start_with(&base, &config, &[])?;
        let mut mirror = Mirror::of(&fs::read_to_string(&config)?)?;
        let mirroring = mirror.start(&[])?;
        Ok((proxy, mirror, mirroring))
    };
    let running = start()?;
    leads("legacy")?;
    at(Side::New, "legacy")?;
    leads("new")?;
    file.kferry(&["move", "log", "nowhere"])?.ends_with(2)?.says("the file has no cluster \"nowhere\"")?;
    file.kferry(&["move", "log", "legacy"])?.ends_with(1)?.says("the log of decisions is on cluster legacy already")?;
    file.kferry(&["move", "log", "new"])?.ends_with(0)?.says("has moved from legacy to new")?;
    let (was, is) = (legacy.read_all(log)?, new.read_all(log)?);
    let [values, copies] = [&was, &is].map(|records| records.iter().map(|record| record.value.clone()).collect::<Vec<_>>());
    ensure!(values.len() == copies.len() && values.len() > 8, "{} records, copied {}", values.len(), copies.len());
    ensure!(values[..values.len() - 1] == copies[..values.len() - 1], "the copy differs");
    // It ends once, and who comes too late is told where it goes on.
    file.kferry(&["move", "log", "new"])?.ends_with(0)?;
    ensure!(new.log_ends(log)? == [copies.len() as i64], "it was written again");
    file.kferry(&["status"])?.ends_with(1)?.says("has moved to cluster new: write cluster = \"new\" in [state]")?;
    file.kferry(&["decisions"])?.ends_with(1)?.says("moves the log to new: nothing counts here from now on")?;

    // Nothing moves before the restart, and everything after it.
    at(Side::Legacy, "legacy")?;
    thread::sleep(Duration::from_secs(8));
    ensure!(running.0.log_text().contains("the log of decisions has moved to cluster new"), "{}", running.0.log_text());
    ensure!(legacy.log_ends(log)? == [values.len() as i64] && new.log_ends(log)? == [copies.len() as i64], "something was written");
    at(Side::Legacy, "new")?;
    let left = "was not restarted since the log of decisions came to new";
    file.kferry(&["status"])?.ends_with(1)?.says(left)?.says("was started with cluster = \"legacy\" in [state]")?;
    drop(running);
    at(Side::New, "new")?;
    let running = start()?;
    leads("new")?;
    at(Side::Legacy, "new")?;
    leads("legacy")?;
    let (_, status) = json(&file, &["status"])?;
    let led = row(&status, "topics", "topic", topic)?;
    ensure!(led["leader"] == "legacy" && led["term"] == 3, "it goes on where it was: {led:#}");
    ensure!(legacy.log_ends(log)? == [values.len() as i64], "the old log was written");
    file.kferry(&["decisions"])?.ends_with(0)?.says("the log has come from legacy")?;

    // A process that cannot read the log serves no relayed client, and so takes nobody's place.
    drop(running);
    new.freeze(1)?;
    let proxy = Proxy::start_with(&base, &config, &[])?;
    let unready = proxy.get("/readyz")?;
    ensure!(
        unready.status == 503 && unready.body.contains("relayed clients wait for the log of decisions"),
        "{} {}",
        unready.status,
        unready.body
    );
    new.thaw(1)?;
    until("it is ready", || Ok(proxy.get("/readyz")?.status == 200))?;
    drop(proxy);

    // A file that names another log, or none: nobody is served by it. Nor is anybody by a log of a kferry that is yet to come.
    let without = text(Side::Legacy, "new").replacen("[state]\ncluster = \"new\"", "", 1);
    let another = text(Side::Legacy, "legacy");
    let leads_there = [
        "cluster new: its topic __kferry.decisions says where topics lead",
        "the log of decisions on cluster new says where topic orders.a is",
    ];
    let newer = ["cluster new: [state] does not name this cluster", "cluster new has a log of decisions"];
    for (text, [checked, mirrored]) in [(&another, leads_there), (&without, leads_there), (&without, newer)] {
        if mirrored == newer[1] {
            new.produce(log, &[Record::new("", r#"{"v":99,"what":"is not known yet"}"#)])?;
        }
        fs::write(&config, text)?;
        file.kferry(&["check", "--connect"])?.ends_with(1)?.says(checked)?;
        let refused = Proxy::start_with(&base, &config, &[]).err().context("it serves")?;
        let said = format!("{refused:#}");
        ensure!(said.contains("topics lead where another log of decisions says") && said.contains("exit status: 1"), "{said}");
        let mut mirror = Mirror::of(&fs::read_to_string(&config)?)?;
        let ended = mirror.start(&["--once"])?.wait(LIMIT)?;
        let said = mirror.logs()?;
        ensure!(ended.code() == Some(1) && said.contains(mirrored), "{ended:?}: {said}");
    }
    Ok(())
}
