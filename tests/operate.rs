//! What an operator sees and does: metrics, health, clients, reloads in all their forms, limits, a drain, a start that fails.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::fake::{FakeBroker, Step};
use harness::proxy::{self, Proxy, Routes, executable, http};
use harness::raw::{self, Raw, until};
use harness::{ports, run};
use kferry_wire::operators::PROCESS;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Two clusters, and a proxy in front of them whose file says where `orders-*` goes.
struct Bed {
    legacy: FakeBroker,
    new: FakeBroker,
    routes: Routes,
}

impl Bed {
    fn start() -> Result<Self> {
        let (legacy, new) = (FakeBroker::start()?, FakeBroker::start()?);
        let routes = Routes::new()?.cluster("legacy", &legacy.address()).cluster("new", &new.address());
        Ok(Self { legacy, new, routes })
    }

    fn orders_to(&self, cluster: &str) -> Routes {
        self.routes.clone().route("orders", "orders-*", cluster)
    }

    /// Where the next connection of `orders-1` goes.
    fn lands(&self, proxy: &Proxy) -> Result<&'static str> {
        let before = (self.legacy.connections(), self.new.connections());
        ask_once(proxy, "orders-1")?;
        match (self.legacy.connections() - before.0, self.new.connections() - before.1) {
            (1, 0) => Ok("legacy"),
            (0, 1) => Ok("new"),
            other => anyhow::bail!("connections to legacy and new: {other:?}"),
        }
    }
}

/// A connection's whole life: one request, one answer, the end. Returns the bytes of both.
fn ask_once(proxy: &Proxy, client_id: &str) -> Result<(u64, u64)> {
    let mut client = Raw::connect(proxy.port())?;
    let request = raw::api_versions(1, Some(client_id));
    let answer = client.ask(&request)?;
    client.half_close()?;
    ensure!(client.rest()?.is_empty(), "more than one answer");
    proxy.closed(&client)?;
    Ok((request.len() as u64, answer.len() as u64 + 4))
}

fn in_force(proxy: &Proxy) -> Result<bool> {
    Ok(proxy.metric("kferry_proxy_config_last_reload_successful", &[])? as u64 == 1)
}

#[test]
fn metrics_count_exactly_what_happened() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("new").route("billing", "billing-*", "legacy"))?;
    let mut bytes = (0, 0);
    for n in 0..3 {
        let (requests, responses) = ask_once(&proxy, &format!("orders-{n}"))?;
        bytes = (bytes.0 + requests, bytes.1 + responses);
    }
    let mut open = Raw::connect(proxy.port())?;
    open.ask(&raw::api_versions(1, Some("billing-1")))?;
    let mut refused = Raw::connect(proxy.port())?;
    refused.send(&raw::api_versions(1, Some("nobody")))?;
    assert!(refused.rest()?.is_empty());
    let mut http = Raw::connect(proxy.port())?;
    http.send(b"GET / HTTP/1.1\r\n\r\n")?;
    http.rest()?;
    proxy.closed(&refused)?;
    proxy.closed(&http)?;

    let count = |name: &str, labels: &[(&str, &str)]| Ok::<_, anyhow::Error>(proxy.metric(&format!("kferry_proxy_{name}"), labels)? as u64);
    assert_eq!(count("connections_accepted_total", &[("listener", "plain")])?, 6);
    assert_eq!(count("connections", &[("listener", "plain")])?, 1);
    assert_eq!(count("connections_routed_total", &[("route", "orders"), ("cluster", "new")])?, 3);
    assert_eq!(count("connections_routed_total", &[("route", "billing"), ("cluster", "legacy")])?, 1);
    assert_eq!(count("connections_routed_total", &[])?, 4);
    assert_eq!(count("broker_connect_seconds_count", &[("cluster", "new")])?, 3);
    for (cause, times) in [("client_closed", 3), ("no_route", 1), ("not_kafka", 1)] {
        assert_eq!(count("connections_closed_total", &[("cause", cause), ("listener", "plain")])?, times, "{cause}");
    }
    assert_eq!(count("connections_closed_total", &[])?, 5);
    assert_eq!(count("request_bytes_total", &[("route", "orders"), ("cluster", "new")])?, bytes.0);
    assert_eq!(count("response_bytes_total", &[("route", "orders"), ("cluster", "new")])?, bytes.1);
    assert_eq!(count("bootstrap_server_up", &[("cluster", "new"), ("server", &bed.new.address())])?, 1);
    assert_eq!(count("config_last_reload_successful", &[])?, 1);
    Ok(())
}

#[test]
fn every_metric_is_there_with_its_help_and_no_label_grows_with_the_clients() -> Result<()> {
    let bed = Bed::start()?;
    bed.legacy.on_request(&[Step::Close]);
    let proxy = Proxy::start(&bed.orders_to("new").route("others", "*", "legacy"))?;
    // One of each kind, so that each metric has a series: routed, a server that fails, a reload.
    let once = |n: u32| {
        ask_once(&proxy, &format!("orders-{n}"))?;
        let mut failed = Raw::connect(proxy.port())?;
        failed.send(&raw::api_versions(1, Some(&format!("other-{n}"))))?;
        failed.rest()?;
        proxy.closed(&failed)?;
        proxy.reload()
    };
    once(0)?;
    let series = || {
        let lines = proxy.metrics()?;
        anyhow::Ok(
            lines
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
                .collect::<BTreeSet<_>>(),
        )
    };
    let before = series()?;
    for n in 1..40 {
        once(n)?;
    }
    assert_eq!(series()?, before, "40 clients make the series of one");

    let names: BTreeSet<&str> =
        before.iter().map(|series| series.split('{').next().unwrap_or_default()).filter(|name| !name.contains("_seconds_")).collect();
    let expected = [
        "kferry_proxy_body_bytes_total",
        "kferry_proxy_bootstrap_server_failures_total",
        "kferry_proxy_bootstrap_server_up",
        "kferry_proxy_build_info",
        "kferry_proxy_carrying_bytes",
        "kferry_proxy_config_last_reload_successful",
        "kferry_proxy_config_loaded_timestamp_seconds",
        "kferry_proxy_config_reloads_total",
        "kferry_proxy_connections",
        "kferry_proxy_connections_accepted_total",
        "kferry_proxy_connections_closed_total",
        "kferry_proxy_connections_limit",
        "kferry_proxy_connections_routed_total",
        "kferry_proxy_pipes_in_use",
        "kferry_proxy_pipes_limit",
        "kferry_proxy_request_bytes_total",
        "kferry_proxy_response_bytes_total",
    ];
    let expected: Vec<_> = expected.into_iter().chain(PROCESS.into_iter().filter(|name| !name.contains("_seconds_"))).collect();
    assert_eq!(names, expected.iter().copied().collect());
    let metrics = proxy.metrics()?;
    for name in expected.into_iter().chain(["kferry_proxy_broker_connect_seconds"]) {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "{name} has no type");
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} does not say what it is");
    }
    Ok(())
}

#[test]
fn the_log_tells_a_connections_whole_story_in_one_line() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("new"))?;
    let mut client = Raw::connect(proxy.port())?;
    let request = raw::api_versions(1, Some("orders-1"));
    let answer = client.ask(&request)?;
    client.half_close()?;
    client.rest()?;
    let mut line = proxy.closed(&client)?;
    let about = line.as_object_mut().context("an object")?;
    assert!(about.remove("timestamp").is_some() && about.remove("seconds").is_some());
    let story = json!({
        "level": "INFO", "message": "connection closed", "cause": "client_closed", "detail": "",
        "client_id": "orders-1", "software": raw::SOFTWARE.0, "software_version": raw::SOFTWARE.1,
        "peer": format!("127.0.0.1:{}", client.local_port()?), "listener": "plain",
        "route": "orders", "cluster": "new", "server": bed.new.address(),
        "request_bytes": request.len(), "response_bytes": answer.len() + 4,
    });
    assert_eq!(line, story);

    let mut refused = Raw::connect(proxy.port())?;
    refused.send(&raw::api_versions(1, None))?;
    assert!(refused.rest()?.is_empty());
    let line = proxy.closed(&refused)?;
    assert_eq!((&line["level"], &line["cause"]), (&json!("WARN"), &json!("no_route")));
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("add one to routes.toml")), "{line}");
    Ok(())
}

#[test]
fn clients_tell_who_went_where_also_after_they_left() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::api_versions(1, Some("orders-1")))?;
    let rows = proxy.clients()?;
    let [row] = &rows[..] else { anyhow::bail!("not one row: {rows:?}") };
    let mut who = row.clone();
    let times = who.as_object_mut().context("an object")?;
    let (since, last) = (times.remove("since").context("since")?, times.remove("last_connected").context("last_connected")?);
    assert_eq!(since, last);
    let expected = json!({
        "client_id": "orders-1", "software_name": raw::SOFTWARE.0, "software_version": raw::SOFTWARE.1, "address": "127.0.0.1",
        "tls_subject": null, "listener": "plain", "route": "orders", "cluster": "legacy", "connections": 1,
        "stays_with_dead_brokers": false, "default_of": null, "topics_produced": [], "groups_joined": [], "carried": null,
    });
    assert_eq!(who, expected);

    // A client without a name, and without ApiVersions v3, that no route is for.
    let mut nameless = Raw::connect(proxy.port())?;
    nameless.send(&raw::metadata(1, None))?;
    nameless.rest()?;
    fs::write(proxy.config(), bed.orders_to("new").text())?;
    assert_eq!(proxy.reload()?.status, 200);
    ask_once(&proxy, "orders-1")?;
    let rows = proxy.clients()?;
    let told: Vec<_> = rows.iter().map(|row| (&row["client_id"], &row["software_name"], &row["cluster"], &row["connections"])).collect();
    let (new, legacy, null) = (json!("new"), json!("legacy"), Value::Null);
    let (id, none, software) = (json!("orders-1"), json!(""), json!(raw::SOFTWARE.0));
    let expected = [(&none, &null, &null, &json!(0)), (&id, &software, &new, &json!(0)), (&id, &software, &legacy, &json!(1))];
    assert_eq!(told, expected);
    Ok(())
}

#[test]
fn it_is_healthy_and_ready_though_all_clusters_are_down() -> Result<()> {
    let dead = ports::take(1)?.start;
    let proxy = Proxy::start(&Routes::new()?.cluster("legacy", &format!("127.0.0.1:{dead}")).route("all", "*", "legacy"))?;
    assert_eq!(proxy.get("/healthz")?, proxy::Answer { status: 200, body: "ok\n".to_owned() });
    assert_eq!(proxy.get("/readyz")?, proxy::Answer { status: 200, body: "ready\n".to_owned() });
    assert_eq!(proxy.get("/reload")?.status, 405, "a browser's GET is no order");
    assert_eq!(proxy.get("/nothing")?.status, 404);
    Ok(())
}

/// A pipe that nobody writes to, in the place of each file that is read while the proxy runs.
#[test]
fn a_read_that_would_never_end_stops_nothing() -> Result<()> {
    const AT_ONCE: Duration = Duration::from_secs(3);
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("new"))?;
    let text = fs::read(proxy.config())?;
    fs::remove_file(proxy.config())?;
    ensure!(Command::new("mkfifo").arg(proxy.config()).status()?.success(), "no pipe was made");
    let began = Instant::now();
    let answer = proxy.reload()?;
    ensure!(answer.status == 422 && answer.body.contains("it is no file, but a pipe"), "{} {}", answer.status, answer.body);
    ensure!(proxy.get("/healthz")?.status == 200, "/healthz");
    ask_once(&proxy, "orders-1")?;
    ensure!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    ensure!(proxy.reloads("invalid")? == 1, "it is counted once, whoever found it");
    // The next file is taken as ever.
    fs::remove_file(proxy.config())?;
    fs::write(proxy.config(), text)?;
    until("the file is read again", || Ok(proxy.reload()?.status == 200))?;
    ask_once(&proxy, "orders-2")?;
    Ok(())
}

#[test]
fn a_reload_by_post_says_what_it_did() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    let posted = |text: &str| {
        fs::write(proxy.config(), text)?;
        let answer = proxy.reload()?;
        anyhow::Ok((answer.status, answer.body))
    };
    assert_eq!(posted(&bed.orders_to("legacy").text())?, (200, "unchanged\n".to_owned()));
    assert_eq!(bed.lands(&proxy)?, "legacy");
    assert_eq!(posted(&bed.orders_to("new").text())?, (200, "in force\n".to_owned()));
    assert_eq!(bed.lands(&proxy)?, "new");

    // Every error of the file at once, and the table stays.
    let bad = bed.orders_to("nowhere").section("[[routes]]\nname = \"bad\"\nclient_idd = \"*\"\ncluster = \"legacy\"\n").text();
    let (status, errors) = posted(&bad)?;
    assert_eq!(status, 422);
    assert!(errors.starts_with("not taken, the table before it stays in force\n"), "{errors}");
    for (wrong, what) in [("\"nowhere\"", "nowhere"), ("client_idd", "client_idd")] {
        let at = bad.find(wrong).context("it is in the text")?;
        let line = bad[..at].matches('\n').count() + 1;
        let column = at - bad[..at].rfind('\n').map_or(0, |end| end + 1) + 1;
        assert!(errors.contains(&format!("routes.toml:{line}:{column}")), "no {what} at {line}:{column}:\n{errors}");
    }
    assert!(errors.contains('^'), "{errors}");
    assert!(!in_force(&proxy)?);
    assert_eq!((proxy.reloads("unchanged")?, proxy.reloads("changed")?, proxy.reloads("invalid")?), (1, 1, 1));
    assert_eq!(bed.lands(&proxy)?, "new");
    let log = proxy.log()?;
    let told = log.iter().find(|line| line["level"] == "ERROR").context("the log says so")?;
    assert!(
        told["message"].as_str().is_some_and(|message| message.contains("routes.toml was not taken") && message.contains("client_idd"))
    );

    assert_eq!(posted(&bed.orders_to("new").text())?.0, 200);
    assert!(in_force(&proxy)?);
    Ok(())
}

#[test]
fn a_warning_of_the_file_is_logged_with_its_place_at_the_start_and_at_a_reload() -> Result<()> {
    let bed = Bed::start()?;
    let (before, after) = (bed.orders_to("new"), bed.orders_to("legacy"));
    let proxy = Proxy::start(&before)?;
    proxy.edit(&after)?;
    let warnings = told(&proxy, "routes.toml is taken, though something in it is probably not meant")?;
    assert!(warnings.iter().all(|line| line["level"] == "WARN"), "{warnings:?}");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    // Either file leaves one cluster without a route.
    for (warning, (file, unused)) in warnings.iter().zip([(before, "legacy"), (after, "new")]) {
        let message = warning["message"].as_str().context("it has one")?;
        let text = file.text();
        let at = text.find(&format!("[clusters.{unused}]")).context("it is in the file")? + "[clusters.".len();
        let line = text[..at].matches('\n').count() + 1;
        let place = format!("routes.toml:{line}:{}", "[clusters.".len() + 1);
        for part in [place.as_str(), "^", unused, "write a route with it, or drop it"] {
            assert!(message.contains(part), "no {part:?} in:\n{message}");
        }
    }
    Ok(())
}

#[test]
fn what_needs_a_restart_is_said_and_the_rest_is_taken() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    let others = ports::take(3)?;
    let text = bed
        .orders_to("new")
        .section(&format!("[[listeners]]\nname = \"added\"\nbind = \"127.0.0.1:{}\"\n", others.start))
        .text()
        .replace(&format!(":{}\"", proxy.port()), &format!(":{}\"", others.start + 1))
        .replace(&format!(":{}\"", proxy.admin_port()), &format!(":{}\"", others.start + 2));
    fs::write(proxy.config(), &text)?;
    let answer = proxy.reload()?;
    assert_eq!(answer.status, 200);
    let then = "; this needs a restart of kferry-proxy, the rest of the file is in force\n";
    let expected = [
        format!("listener \"plain\" stays bound to 127.0.0.1:{}, the file says 127.0.0.1:{}{then}", proxy.port(), others.start + 1),
        format!("listener \"added\" is new, bind 127.0.0.1:{} is not open{then}", others.start),
        format!("[admin] stays bound to 127.0.0.1:{}, the file says 127.0.0.1:{}{then}", proxy.admin_port(), others.start + 2),
    ];
    for sentence in &expected {
        assert!(answer.body.contains(sentence.as_str()), "not {sentence:?} in:\n{}", answer.body);
    }
    assert_eq!(answer.body.lines().count(), 1 + expected.len(), "{}", answer.body);
    assert_eq!(bed.lands(&proxy)?, "new", "on the port that was open before");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, others.start)).is_err());
    Ok(())
}

#[test]
fn sighup_reads_the_file_at_once() -> Result<()> {
    let bed = Bed::start()?;
    let mut proxy = Proxy::start(&bed.orders_to("legacy"))?;
    proxy.signal(Signal::HUP)?;
    until("SIGHUP was heard", || Ok(proxy.reloads("unchanged")? == 1))?;
    fs::write(proxy.config(), bed.orders_to("new").text())?;
    proxy.signal(Signal::HUP)?;
    until("the file was taken", || Ok(proxy.reloads("changed")? == 1))?;
    assert_eq!(bed.lands(&proxy)?, "new");
    Ok(())
}

#[test]
fn an_edit_is_seen_however_it_is_made() -> Result<()> {
    let bed = Bed::start()?;
    let (to_new, to_legacy) = (bed.orders_to("new").text(), bed.orders_to("legacy").text());

    // In place; then a rename over it, as editors do.
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    proxy.edit(&bed.orders_to("new"))?;
    assert_eq!(bed.lands(&proxy)?, "new");
    let beside = proxy.config().with_extension("tmp");
    fs::write(&beside, &to_legacy)?;
    fs::rename(&beside, proxy.config())?;
    until("the renamed file is in force", || Ok(proxy.reloads("changed")? == 2))?;
    assert_eq!(bed.lands(&proxy)?, "legacy");
    assert_eq!(proxy.reloads("unchanged")?, 0, "what did not change is not read aloud");

    // Kubernetes: the file is a link through `..data`, a link to a folder, which is swapped. Neither the file's link nor any file changes.
    let folder = run::folder("configmap")?;
    let config_map = |version: &str, text: &str| {
        fs::create_dir(folder.join(version))?;
        fs::write(folder.join(version).join("routes.toml"), text)?;
        symlink(version, folder.join("..data_tmp"))?;
        fs::rename(folder.join("..data_tmp"), folder.join("..data"))
    };
    config_map("..2026_01", &to_legacy)?;
    symlink("..data/routes.toml", folder.join("routes.toml"))?;
    drop(proxy);
    let proxy = Proxy::start_with(&bed.orders_to("legacy"), &folder.join("routes.toml"), &[])?;
    assert_eq!(bed.lands(&proxy)?, "legacy");
    config_map("..2026_02", &to_new)?;
    fs::remove_dir_all(folder.join("..2026_01"))?;
    until("the swapped file is in force", || Ok(proxy.reloads("changed")? == 1))?;
    assert_eq!(bed.lands(&proxy)?, "new");
    Ok(())
}

#[test]
fn a_file_that_is_being_written_is_not_taken() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    let half = bed.orders_to("new").text();
    let whole = bed.orders_to("new").route("others", "*", "legacy").text();
    assert!(whole.starts_with(&half), "half of the file is valid, and would refuse most clients");
    // Much longer than the 0.5 s between two looks; each time it is another text, and mostly half of one.
    let began = Instant::now();
    for n in 0.. {
        if began.elapsed() > Duration::from_millis(2200) {
            break;
        }
        fs::write(proxy.config(), format!("# {n}\n{half}"))?;
        thread::sleep(Duration::from_millis(60));
        fs::write(proxy.config(), format!("# {n}\n{whole}"))?;
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((proxy.reloads("changed")?, proxy.reloads("invalid")?), (0, 0));
    assert_eq!(bed.lands(&proxy)?, "legacy");
    until("the last text is in force", || Ok(proxy.reloads("changed")? > 0))?;
    assert_eq!((proxy.reloads("changed")?, proxy.reloads("invalid")?), (1, 0));
    assert_eq!(bed.lands(&proxy)?, "new");
    Ok(())
}

#[test]
fn a_file_that_is_gone_or_bad_leaves_the_table_and_its_return_is_seen() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    fs::remove_file(proxy.config())?;
    until("the loss is seen", || Ok(proxy.reloads("invalid")? == 1))?;
    assert!(!in_force(&proxy)?);
    assert_eq!(bed.lands(&proxy)?, "legacy");
    let says = format!("cannot read {}", proxy.config().display());
    assert!(proxy.log()?.iter().any(|line| line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains(&says))));
    fs::write(proxy.config(), bed.orders_to("legacy").text())?;
    until("the file as it is now is in force", || in_force(&proxy))?;

    fs::write(proxy.config(), "[[routes")?;
    until("the bad file is seen", || Ok(proxy.reloads("invalid")? == 2))?;
    assert_eq!(bed.lands(&proxy)?, "legacy");
    fs::write(proxy.config(), bed.orders_to("legacy").text())?;
    until("the file as it is now is in force", || in_force(&proxy))?;
    assert_eq!(proxy.reloads("changed")?, 0);
    Ok(())
}

#[test]
fn sigterm_ends_what_is_quiet_and_lets_the_busy_finish() -> Result<()> {
    let bed = Bed::start()?;
    let mut proxy = Proxy::start(&bed.orders_to("legacy"))?;
    let mut quiet = Raw::connect(proxy.port())?;
    quiet.ask(&raw::api_versions(1, Some("orders-quiet")))?;
    let mut nothing_yet = Raw::connect(proxy.port())?;
    let mut busy = Raw::connect(proxy.port())?;
    busy.ask(&raw::api_versions(2, Some("orders-busy")))?;
    // 1.4 s in all, each pause shorter than what counts as quiet.
    let piece = || [Step::Send(b"a piece, ".to_vec()), Step::Wait(Duration::from_millis(200))];
    let mut answer = vec![Step::Send(b"begun, ".to_vec())];
    answer.extend((0..7).flat_map(|_| piece()));
    answer.push(Step::Send(b"done".to_vec()));
    bed.legacy.on_request(&answer);
    busy.send(&raw::metadata(3, Some("orders-busy")))?;
    until("the answer has begun", || Ok(bed.legacy.requests().len() == 3))?;

    let told = Instant::now();
    proxy.signal(Signal::TERM)?;
    until("it is no longer ready", || Ok(proxy.get("/readyz")? == proxy::Answer { status: 503, body: "draining\n".to_owned() }))?;
    assert_eq!(proxy.get("/healthz")?.status, 200);
    assert!(Raw::connect(proxy.port()).is_err(), "new clients go elsewhere");
    assert!(quiet.rest()?.is_empty());
    assert!(nothing_yet.rest()?.is_empty());
    // A client sees the end of its connection a moment before it is counted.
    until("both are counted", || Ok(proxy.closed_count("drained")? == 2))?;
    assert_eq!(String::from_utf8(busy.rest()?)?, format!("begun, {}done", "a piece, ".repeat(7)));
    assert!(proxy.wait()?.success());
    // The answer, the quiet moment after it, and no more.
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert_eq!(proxy.closed(&busy)?["cause"], "drained");
    let log = proxy.log()?;
    for sentence in ["SIGTERM", "draining", "drained: every connection ended at a quiet moment"] {
        assert!(log.iter().any(|line| line["message"] == sentence), "{sentence}");
    }
    Ok(())
}

#[test]
fn a_drain_ends_in_time_whoever_does_not() -> Result<()> {
    let bed = Bed::start()?;
    let mut proxy = Proxy::start(&bed.orders_to("legacy").limit("drain_timeout_ms", 800))?;
    let drip = || [Step::Send(b"more and more ".to_vec()), Step::Wait(Duration::from_millis(50))];
    bed.legacy.on_request(&(0..1000).flat_map(|_| drip()).collect::<Vec<_>>());
    let mut endless = Raw::connect(proxy.port())?;
    endless.send(&raw::api_versions(1, Some("orders-1")))?;
    endless.read(&mut [0; 4])?;
    // And on the admin address somebody who never finishes a request.
    let mut unfinished = Raw::connect(proxy.admin_port())?;
    unfinished.send(b"GET /metr")?;

    let told = Instant::now();
    proxy.signal(Signal::TERM)?;
    assert!(proxy.wait()?.success());
    let took = told.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let late = |line: &Value| line["message"] == "drain_timeout_ms is over: the connections left are cut" && line["connections"] == 1;
    assert!(proxy.log()?.iter().any(late), "{}", proxy.log_text());
    // It has its own line like all others.
    let line = proxy.closed(&endless)?;
    assert!(line["cause"] == "cut" && line["response_bytes"].as_u64() > Some(100), "{line}");
    Ok(())
}

#[test]
fn sigint_stops_it_too() -> Result<()> {
    let bed = Bed::start()?;
    let mut proxy = Proxy::start(&bed.orders_to("legacy"))?;
    proxy.signal(Signal::INT)?;
    assert!(proxy.wait()?.success());
    Ok(())
}

#[test]
fn limits_close_what_is_too_much_and_what_ends_makes_room() -> Result<()> {
    for key in ["max_connections", "max_connections_per_ip"] {
        let bed = Bed::start()?;
        let proxy = Proxy::start(&bed.orders_to("legacy").limit(key, 2))?;
        let open = |n| {
            let mut client = Raw::connect(proxy.port())?;
            client.ask(&raw::api_versions(n, Some("orders-1")))?;
            anyhow::Ok(client)
        };
        let (mut first, _second) = (open(1)?, open(2)?);
        let mut third = Raw::connect(proxy.port())?;
        assert!(third.rest()?.is_empty());
        let line = proxy.closed(&third)?;
        assert_eq!(line["cause"], *key);
        assert!(line["detail"].as_str().is_some_and(|detail| detail.contains(&format!("raise limits.{key}"))), "{line}");
        assert_eq!(proxy.closed_count(key)?, 1);
        first.half_close()?;
        first.rest()?;
        proxy.closed(&first)?;
        // It is told a moment before its place is free.
        until("there is room again", || Ok(open(3).is_ok()))?;

        // A reload raises it.
        fs::write(proxy.config(), bed.orders_to("legacy").limit(key, 4).text())?;
        assert_eq!(proxy.reload()?.status, 200);
        let _more = (open(4)?, open(5)?);
    }
    Ok(())
}

#[test]
fn four_thousand_routed_connections_cost_little() -> Result<()> {
    const ROUTED: usize = 4_000;
    // Two sockets and their places in the runtime's tables, a task, a timer, and no buffer: see `proxy/src/bootstrap/direction.rs`.
    const EACH: u64 = 8 * 1024;
    raw::open_many_files()?;
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy").limit("max_connections_per_ip", 100_000))?;
    ask_once(&proxy, "orders-0")?;
    let before = proxy.resident_memory()?;
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..ROUTED {
        let mut client = Raw::connect(proxy.port())?;
        client.ask(&raw::api_versions(1, Some("orders-1")))?;
        clients.push(client);
    }
    let took = began.elapsed();
    let each = proxy.resident_memory()?.saturating_sub(before) / ROUTED as u64;
    println!("{ROUTED} routed connections: {each} bytes each, {took:?} one after the other");
    assert!(each < EACH, "{each} bytes for each routed connection");
    for client in &mut clients {
        client.ask(&raw::metadata(2, Some("orders-1")))?;
    }
    assert_eq!(proxy.clients()?[1]["connections"], ROUTED);
    Ok(())
}

/// Asks the admin address for what a liveness probe asks for, with a probe's patience.
fn is_alive(proxy: &Proxy) -> Result<()> {
    let asked = Instant::now();
    let answer = proxy.get("/healthz")?;
    ensure!(answer.status == 200 && asked.elapsed() < Duration::from_secs(1), "{answer:?} after {:?}", asked.elapsed());
    Ok(())
}

fn told(proxy: &Proxy, message: &str) -> Result<Vec<Value>> {
    Ok(proxy.log()?.into_iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect())
}

#[test]
fn relayed_clients_leave_open_files_for_operators() -> Result<()> {
    const FILES: u64 = 64;
    let broker = FakeBroker::start()?;
    let ports = ports::take(3)?;
    let relayed = format!("node_ids = \"1-3\"\nbroker_ports = \"{}-{}\"\n", ports.start, ports.end - 1);
    let routes = Routes::new()?.cluster_with("legacy", &broker.address(), &relayed).relay("all", "*", "legacy", "");
    let proxy = Proxy::start_with_open_files(&routes, FILES)?;
    let capped = told(&proxy, "limits.max_connections is more than the limit of open files allows")?;
    let [line] = &capped[..] else { anyhow::bail!("not said once:\n{}", proxy.log_text()) };
    let allowed = line["allowed"].as_u64().context("allowed")? as usize;
    assert_eq!((&line["max_connections"], &line["open_files"]), (&json!(10_000), &json!(FILES)));
    assert!((8..=24).contains(&allowed), "{allowed} clients of {FILES} files");

    // Each is answered over its own connection to the broker, or turned away; all of them stay.
    let mut clients = (0..60).map(|_| Raw::connect(proxy.port())).collect::<Result<Vec<_>>>()?;
    let mut served = Vec::new();
    for client in &mut clients {
        served.push(client.ask(&raw::api_versions(1, Some("app"))).is_ok());
    }
    assert_eq!(served.iter().filter(|served| **served).count(), allowed);
    let first = served.iter().position(|served| !served).context("one was turned away")?;
    let line = proxy.closed(&clients[first])?;
    assert_eq!(line["cause"], "max_connections");
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("limit of open files")), "{line}");
    assert!(proxy.open_files()? as u64 <= FILES);
    is_alive(&proxy)?;
    fs::write(proxy.config(), routes.route("more", "more", "legacy").text().replace("client_id = \"*\"", "client_id = \"a*\""))?;
    assert_eq!(proxy.reload()?.status, 200);
    assert_eq!(told(&proxy, "cannot accept")?, Vec::<Value>::new());

    drop(clients);
    until("there is room again", || Ok(Raw::connect(proxy.port())?.ask(&raw::api_versions(1, Some("app"))).is_ok()))
}

#[test]
fn clients_of_silent_servers_leave_open_files_for_operators() -> Result<()> {
    const FILES: u64 = 64;
    let silent = [FakeBroker::start()?, FakeBroker::start()?, FakeBroker::start()?];
    for server in &silent {
        server.on_request(&[]);
    }
    let servers = silent.each_ref().map(FakeBroker::address).join(",");
    let proxy = Proxy::start_with_open_files(&Routes::new()?.cluster("legacy", &servers).route("all", "*", "legacy"), FILES)?;
    let mut clients = (0..60).map(|_| Raw::connect(proxy.port())).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        let _ = client.send(&raw::api_versions(1, Some("app")));
    }
    // Meanwhile two more servers would have been tried for each client.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        is_alive(&proxy)?;
        assert!(proxy.open_files()? as u64 <= FILES);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(silent[0].connections() + silent[1].connections() + silent[2].connections() > 8);
    assert_eq!(told(&proxy, "cannot accept")?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn half_sent_requests_to_the_admin_address_lock_nobody_out() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start_with_open_files(&bed.orders_to("legacy"), 200)?;
    let mut strangers = Vec::new();
    for _ in 0..250 {
        let mut stranger = Raw::connect(proxy.admin_port())?;
        // It may be closed already, for one that came later.
        let _ = stranger.send(b"GET /metr");
        strangers.push(stranger);
    }
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = Raw::connect(proxy.port())?;
        client.ask(&raw::api_versions(n, Some("orders-1"))).with_context(|| format!("client {n}"))?;
        clients.push(client);
    }
    is_alive(&proxy)?;
    // They are closed by themselves as well.
    for stranger in &mut strangers {
        assert!(!String::from_utf8_lossy(&stranger.rest()?).contains("200 OK"));
    }
    Ok(())
}

#[test]
fn connections_that_cannot_be_accepted_are_told_once_and_served_later() -> Result<()> {
    let bed = Bed::start()?;
    let proxy = Proxy::start(&bed.orders_to("legacy"))?;
    // Those that are open stay open; there is no number left for another.
    proxy.limit_open_files(Some(3))?;
    let mut client = Raw::connect(proxy.port())?;
    client.send(&raw::api_versions(1, Some("orders-1")))?;
    thread::sleep(Duration::from_secs(2));
    let lines = told(&proxy, "cannot accept")?;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0]["error"].as_str().is_some_and(|error| error.contains("Too many open files")), "{lines:?}");
    proxy.limit_open_files(None)?;
    client.frame()?;
    Ok(())
}

#[test]
fn an_idle_connection_is_closed_after_its_time() -> Result<()> {
    let bed = Bed::start()?;
    let routes = bed.orders_to("legacy").limit("connections_max_idle_ms", 500).limit("socket_request_max_bytes", 2000);
    let proxy = Proxy::start(&routes)?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::api_versions(1, Some("orders-1")))?;
    thread::sleep(Duration::from_millis(300));
    client.ask(&raw::metadata(2, Some("orders-1")))?;
    let last = Instant::now();
    assert!(client.rest()?.is_empty());
    assert!(last.elapsed() > Duration::from_millis(400), "it was not idle for long enough: {:?}", last.elapsed());
    assert_eq!(proxy.closed(&client)?["cause"], "idle");
    until("the broker's side is closed too", || Ok(bed.legacy.open_connections() == 0))?;

    let mut large = Raw::connect(proxy.port())?;
    large.send(&2001i32.to_be_bytes())?;
    assert!(large.rest()?.is_empty());
    assert_eq!(proxy.closed(&large)?["cause"], "not_kafka");
    Ok(())
}

#[test]
fn a_port_in_use_ends_the_start_with_1_and_says_which() -> Result<()> {
    let bed = Bed::start()?;
    for (port, what) in [(bed.routes.port(), "listener \"plain\""), (bed.routes.admin_port(), "[admin]")] {
        let _in_use = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let config = run::folder("proxy")?.join("routes.toml");
        fs::write(&config, bed.orders_to("legacy").text())?;
        let (status, said) = proxy::refused(&config)?;
        assert_eq!(status.code(), Some(1), "{said}");
        let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).with_context(|| said.clone())?;
        let message = last["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("cannot listen on 127.0.0.1:{port} ({what} of the file)")), "{said}");
        assert_eq!(message.matches("Address already in use").count(), 1, "{said}");
        assert!(message.contains(&format!("another program listens there; ss -ltnp 'sport = :{port}' names it")), "{said}");
    }

    // Nobody listens on this one: the kernel gave it to a connection.
    let outgoing = TcpStream::connect(("127.0.0.1", bed.legacy.port()))?;
    let port = outgoing.local_addr()?.port();
    let config = run::folder("proxy")?.join("routes.toml");
    fs::write(&config, bed.orders_to("legacy").text().replace(&format!(":{}\"", bed.routes.port()), &format!(":{port}\"")))?;
    let (status, said) = proxy::refused(&config)?;
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches("Address already in use").count(), 1, "{said}");
    for part in ["or an outgoing connection was given the port by chance", "net.ipv4.ip_local_port_range", "write a port outside of that"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    Ok(())
}

#[test]
fn a_file_with_errors_ends_the_start_with_2_and_all_of_them() -> Result<()> {
    let bed = Bed::start()?;
    let config = run::folder("proxy")?.join("routes.toml");
    fs::write(&config, bed.orders_to("nowhere").section("[surprise]\nkey = 1\n").text())?;
    let (status, said) = proxy::refused(&config)?;
    assert_eq!(status.code(), Some(2), "{said}");
    for what in ["nowhere", "surprise", "routes.toml:", "2 errors"] {
        assert!(said.contains(what), "{what}:\n{said}");
    }
    let (status, said) = proxy::refused(Path::new("/nowhere/routes.toml"))?;
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("cannot read /nowhere/routes.toml"), "{said}");
    Ok(())
}

/// `kferry-proxy 2> >(head)`, or a collector of logs that has died.
#[test]
fn a_standard_error_that_nobody_reads_any_more_stops_nothing() -> Result<()> {
    let broker = FakeBroker::start()?;
    let routes = Routes::new()?.cluster("legacy", &broker.address());
    let config = run::folder("unread")?.join("routes.toml");
    fs::write(&config, routes.clone().route("all", "*", "legacy").text())?;
    let mut proxy = Command::new(executable("kferry-proxy")?).arg("--config").arg(&config).stderr(Stdio::piped()).spawn()?;
    drop(proxy.stderr.take());
    let ended = (|| {
        until("it is ready", || Ok(http(routes.admin_port(), "GET", "/readyz").is_ok_and(|answer| answer.status == 200)))?;
        // Each of these writes a line.
        for name in ["orders", "payments"] {
            fs::write(&config, routes.clone().route(name, name, "legacy").route("all", "*", "legacy").text())?;
            let reloaded = http(routes.admin_port(), "POST", "/reload")?;
            ensure!(reloaded.status == 200, "{reloaded:?}");
            Raw::connect(routes.port())?.ask(&raw::api_versions(1, Some(name)))?;
        }
        kill_process(Pid::from_child(&proxy), Signal::TERM)?;
        let mut ended = None;
        until("it ends", || {
            ended = proxy.try_wait()?;
            Ok(ended.is_some())
        })?;
        Ok(ended)
    })();
    let _ = proxy.kill();
    ensure!(ended?.is_some_and(|status| status.success()), "it did not end well");
    Ok(())
}
