//! What strangers send, what broken brokers answer, and what neither may do to the others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::fake::{FakeBroker, Step, is_flood};
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw, until};
use harness::{pki, ports};
use serde_json::Value;

/// A proxy that sends everybody to one fake broker.
fn in_front_of(broker: &FakeBroker) -> Result<Routes> {
    Ok(Routes::new()?.cluster("legacy", &broker.address()).route("all", "*", "legacy"))
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_default()
}

/// Checks the line at the end of a connection.
fn ended(proxy: &Proxy, client: &Raw, cause: &str, detail: &str) -> Result<Value> {
    let line = proxy.closed(client)?;
    ensure!(text(&line, "cause") == cause && text(&line, "detail").contains(detail), "not {cause} with {detail:?}: {line}");
    Ok(line)
}

#[test]
fn what_is_no_kafka_is_closed_at_once_and_the_log_says_what_it_looks_like() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    let mut unharmed = Raw::connect(proxy.port())?;
    unharmed.ask(&raw::api_versions(1, Some("unharmed")))?;

    let strangers: [(&[u8], &str); 13] = [
        (b"\xde\xad\xbe\xef, and more garbage", "its frame would have -559038737 bytes"),
        (
            b"GET /metrics HTTP/1.1\r\nHost: kafka\r\n\r\n",
            "an HTTP request; this port speaks Kafka, metrics and health are on the [admin] address",
        ),
        (b"POST / HTTP/1.1\r\n\r\n", "an HTTP request"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "a TLS handshake on a plaintext listener; set the client's security.protocol to PLAINTEXT",
        ),
        (b"\x7f\xff\xff\xff", "its frame would have 2147483647 bytes"),
        (b"\xff\xff\xff\xff", "its frame would have -1 bytes"),
        (b"\0\0\0\x08\0\x12\0\x03\0\0\0\x07", "a frame of 8 bytes is too short for a request header"),
        (b"\0\0\0\x20\x30\x39\0\0", "there is no API with the key 12345"),
        (b"\0\0\0\x20\xff\xff\0\0", "there is no API with the key -1"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 9092\r\n", "a PROXY protocol header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "name the load balancer in its proxy_protocol_from"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "an SSH client"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "a PostgreSQL client"),
    ];
    for (bytes, looks_like) in strangers {
        let mut stranger = Raw::connect(proxy.port())?;
        stranger.send(bytes)?;
        ensure!(stranger.rest()?.is_empty(), "{bytes:?} was answered");
        let line = ended(&proxy, &stranger, "not_kafka", looks_like)?;
        assert_eq!((text(&line, "level"), text(&line, "listener")), ("WARN", "plain"));
        assert!(line["seconds"].as_f64().is_some_and(|open_for| open_for < 5.0), "garbage is not waited for: {line}");
    }
    assert_eq!(proxy.closed_count("not_kafka")?, strangers.len() as u64);
    assert_eq!(broker.connections(), 1, "nothing of it reached the broker");
    assert_eq!(proxy.clients()?.len(), 1, "and no row came of it");
    unharmed.ask(&raw::metadata(2, Some("unharmed")))?;
    // Brokers close a connection with a body that breaks off. That says nothing about the brokers, so nobody asks them.
    let mut cut_off = Raw::connect(proxy.port())?;
    cut_off.send(b"\0\0\0\x0f\0\x12\0\x03\0\0\0\x07\0\x01c\0\x05kf")?;
    ensure!(cut_off.rest()?.is_empty(), "it was answered");
    ended(&proxy, &cut_off, "not_kafka", "the body of its ApiVersions breaks off")?;
    assert_eq!(broker.connections(), 1, "it reached the broker");
    assert_eq!(proxy.closed_count("cluster_unreachable")?, 0);
    Ok(())
}

/// Brokers take any bytes for a client.id, and show what is not UTF-8 as U+FFFD.
#[test]
fn a_client_id_that_is_not_utf_8_is_routed_and_shown_as_brokers_show_it() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&Routes::new()?.cluster("legacy", &broker.address()).route("orders", "orders-*", "legacy"))?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::frame(b"\0\x12\0\0\0\0\0\x07\0\x09orders-\xc3\x28"))?;
    let rows = proxy.clients()?;
    assert_eq!((&rows[0]["client_id"], &rows[0]["route"]), (&"orders-\u{fffd}(".into(), &"orders".into()), "{rows:?}");
    Ok(())
}

#[test]
fn tls_listeners_tell_plaintext_from_broken_tls() -> Result<()> {
    let broker = FakeBroker::start()?;
    let routes = in_front_of(&broker)?.tls_listener(&pki::authority()?.server(&[])?)?.limit("handshake_timeout_ms", 400);
    let proxy = Proxy::start(&routes)?;
    let stranger = |bytes: &[u8]| {
        let mut stranger = Raw::connect(proxy.tls_port()?)?;
        stranger.send(bytes)?;
        stranger.rest()?;
        anyhow::Ok(stranger)
    };

    let plaintext = "a plaintext request on a TLS listener; set the client's security.protocol to SSL or SASL_SSL";
    let line = ended(&proxy, &stranger(&raw::api_versions(1, Some("plain")))?, "tls_failed", plaintext)?;
    assert_eq!(text(&line, "listener"), "tls");
    ended(&proxy, &stranger(b"\x16\x03\x01\x00\x05garbage, no hello")?, "tls_failed", "")?;
    // The hello announces 512 bytes that never come.
    ended(&proxy, &stranger(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")?, "handshake_timeout", "no request")?;
    assert_eq!((proxy.closed_count("tls_failed")?, proxy.closed_count("handshake_timeout")?), (2, 1));
    assert_eq!(broker.connections(), 0);
    Raw::connect(proxy.port())?.ask(&raw::api_versions(2, Some("on the other listener")))?;
    Ok(())
}

#[test]
fn who_does_not_finish_its_first_request_is_closed_after_the_handshake_time() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?.limit("handshake_timeout_ms", 400))?;
    let request = raw::api_versions(1, Some("slow"));

    let mut silent = Raw::connect(proxy.port())?;
    let mut half = Raw::connect(proxy.port())?;
    half.send(&request[..request.len() / 2])?;
    let mut dripping = Raw::connect(proxy.port())?;
    // Each byte alone is in time; the request isn't.
    let mut sent = 0;
    for byte in request.chunks(1) {
        if dripping.send(byte).is_err() {
            break;
        }
        sent += 1;
        thread::sleep(Duration::from_millis(25));
    }
    assert!(sent < request.len(), "the connection was still open after {} ms", sent * 25);

    for stranger in [&mut silent, &mut half, &mut dripping] {
        assert!(stranger.rest()?.is_empty());
    }
    let seconds = |line: &Value| line["seconds"].as_f64().unwrap_or_default();
    let line = ended(&proxy, &silent, "handshake_timeout", "it sent no request before limits.handshake_timeout_ms")?;
    assert!((0.4..5.0).contains(&seconds(&line)), "{line}");
    ended(&proxy, &half, "handshake_timeout", &format!("only {} bytes of its first request arrived", request.len() / 2))?;
    let line = ended(&proxy, &dripping, "handshake_timeout", "of its first request arrived before limits.handshake_timeout_ms")?;
    assert!((0.4..5.0).contains(&seconds(&line)), "{line}");
    assert_eq!((proxy.closed_count("handshake_timeout")?, broker.connections()), (3, 0));
    Ok(())
}

#[test]
fn what_a_load_balancer_says_is_read_to_its_end_and_no_further() -> Result<()> {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\x0a\x4d\x01\x02\x0a\x09\0\x07\x9c\x40\x23\x84\xea\0\x02vp";
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?.limit("max_connections_per_ip", 2).listener("proxy_protocol_from = \"127.0.0.0/24\""))?;
    // A health check of the load balancer's, as version 2 has it, and one that only opens a port.
    for bytes in [LOCAL, b""] {
        let mut check = Raw::connect(proxy.port())?;
        check.send(bytes)?;
        check.half_close()?;
        assert!(check.rest()?.is_empty());
    }
    until("both are told", || Ok(proxy.closed_count("no_request")? == 2))?;

    let headers = [(V2, "10.77.1.2"), (b"PROXY TCP6 fd00::5 fd00::7 40000 9092\r\n", "fd00::5"), (LOCAL, "127.0.0.1")];
    for (n, (header, address)) in headers.into_iter().enumerate() {
        let request = raw::api_versions(1, Some(address));
        // All at once, and byte by byte.
        let mut at_once = Raw::connect(proxy.port())?;
        at_once.send(&[header, &request].concat())?;
        at_once.frame()?;
        let mut dripping = Raw::connect(proxy.port())?;
        for byte in header.chunks(1) {
            dripping.send(byte)?;
        }
        dripping.ask(&request)?;
        assert_eq!((broker.received(2 * n), broker.received(2 * n + 1)), (request.clone(), request.clone()));
        let rows = proxy.clients()?;
        let row = rows.iter().find(|row| row["client_id"] == address).context("a row")?;
        assert_eq!((text(row, "address"), row["connections"].as_u64()), (address, Some(2)));

        // The third of one address, whichever the load balancers' is.
        let mut third = Raw::connect(proxy.port())?;
        third.send(&[header, &request].concat())?;
        assert!(third.rest()?.is_empty());
        until("it is told", || Ok(proxy.closed_count("max_connections_per_ip")? == n as u64 + 1))?;
    }
    let told: Vec<_> = proxy.log()?.into_iter().filter(|line| line["cause"] == "max_connections_per_ip").collect();
    assert_eq!((text(&told[0], "peer"), text(&told[1], "peer")), ("10.77.1.2:40000", "[fd00::5]:40000"));
    assert!(told.iter().all(|line| text(line, "load_balancer").starts_with("127.0.0.1:")), "{told:?}");
    Ok(())
}

#[test]
fn who_is_no_load_balancer_or_says_nothing_sensible_is_closed_and_the_log_says_why() -> Result<()> {
    let broker = FakeBroker::start()?;
    let routes = in_front_of(&broker)?.limit("handshake_timeout_ms", 400);
    let routes = |from: &str| routes.clone().listener(&format!("proxy_protocol_from = {from}"));
    let proxy = Proxy::start(&routes("\"127.0.0.1\""))?;
    let request = raw::api_versions(1, Some("c"));
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let half = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x4d";
    let ends: [(&[u8], &str); 9] = [
        (&request, "no PROXY protocol header: turn send-proxy or proxy_protocol on in the load balancer"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no PROXY protocol header"),
        (b"GET / HTTP/1.1\r\n\r\n", "no PROXY protocol header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\x0a\x4d\x01\x02\x0a\x09\0\x07\x9c\x40\x23\x84", "family and protocol 0x12"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "of 65551 bytes or more, which is too long"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x0c\x0a\x4d\x01\x02\x0a\x09\0\x07\x9c\x40\x23\x84", "too short for its addresses"),
        (&long, "of 107 bytes or more, which is too long"),
        // It never comes, or never to its end.
        (half, "no whole PROXY protocol header arrived before limits.handshake_timeout_ms"),
        (b"", "no whole PROXY protocol header arrived before limits.handshake_timeout_ms"),
    ];
    for (bytes, detail) in ends {
        let mut balancer = Raw::connect(proxy.port())?;
        balancer.send(bytes)?;
        assert!(balancer.rest()?.is_empty(), "{bytes:?} was answered");
        ended(&proxy, &balancer, "no_proxy_header", detail)?;
    }
    let mut cut = Raw::connect(proxy.port())?;
    cut.send(half)?;
    cut.half_close()?;
    cut.rest()?;
    ended(&proxy, &cut, "no_proxy_header", "the connection ended within its PROXY protocol header")?;

    // A reload says who is one, from the next connection on; what a stranger says is not read.
    proxy.edit(&routes("[\"10.9.0.0/24\", \"fd00:9::/64\"]"))?;
    let mut stranger = Raw::connect(proxy.port())?;
    assert!(stranger.rest()?.is_empty());
    ended(&proxy, &stranger, "not_a_load_balancer", "proxy_protocol_from does not have this address")?;
    assert_eq!((proxy.closed_count("no_proxy_header")?, proxy.closed_count("not_a_load_balancer")?, broker.connections()), (10, 1, 0));
    Ok(())
}

#[test]
fn a_first_request_is_relayed_whole_however_it_arrives() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;

    let request = raw::api_versions(1, Some("byte-by-byte"));
    let mut client = Raw::connect(proxy.port())?;
    for byte in request.chunks(1) {
        client.send(byte)?;
    }
    client.frame()?;
    client.ask(&raw::metadata(2, Some("byte-by-byte")))?;
    assert_eq!(broker.received(0), [request, raw::metadata(2, Some("byte-by-byte"))].concat());

    // Two requests in one segment: the second one waits for nothing.
    let both = [raw::api_versions(3, Some("pipelined")), raw::metadata(4, Some("pipelined"))].concat();
    let mut client = Raw::connect(proxy.port())?;
    client.send(&both)?;
    let answers = [client.frame()?, client.frame()?];
    assert_eq!(answers.map(|answer| answer[3]), [3, 4]);
    assert_eq!(broker.received(1), both);

    // Larger than what the proxy keeps of a first request. librdkafka too sends bytes behind the last field, which brokers don't mind.
    let mut large = raw::metadata(5, Some("large")).split_off(4);
    large.resize(300_000, 7);
    let large = raw::frame(&large);
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&large)?;
    assert_eq!(broker.received(2), large);
    Ok(())
}

#[test]
fn a_client_that_ends_before_its_first_request_is_told_from_one_that_ends_in_it() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;

    let mut health_check = Raw::connect(proxy.port())?;
    health_check.half_close()?;
    assert!(health_check.rest()?.is_empty());
    let line = ended(&proxy, &health_check, "no_request", "")?;
    assert_eq!(text(&line, "level"), "DEBUG", "a health check every second is not to fill the log");

    let mut cut = Raw::connect(proxy.port())?;
    cut.send(&raw::api_versions(1, Some("cut"))[..10])?;
    cut.half_close()?;
    assert!(cut.rest()?.is_empty());
    ended(&proxy, &cut, "client_closed", "")?;
    assert_eq!((proxy.closed_count("no_request")?, proxy.closed_count("client_closed")?, broker.connections()), (1, 1, 0));
    Ok(())
}

#[test]
fn a_client_id_cannot_write_log_lines_metrics_or_rows_of_any_length() -> Result<()> {
    let forged = "\nWARN forged \"line\"\r\n{\"message\":\"forged\"}\u{1b}[31m";
    let client_id: String = forged.chars().cycle().take(32_000).collect();
    let request = raw::api_versions(1, Some(&client_id));
    for format in ["json", "text"] {
        let broker = FakeBroker::start()?;
        let routes = in_front_of(&broker)?;
        let config = harness::run::folder("proxy")?.join("routes.toml");
        std::fs::write(&config, routes.text())?;
        let proxy = Proxy::start_with(&routes, &config, &["--log-format", format])?;
        let mut client = Raw::connect(proxy.port())?;
        client.ask(&request)?;
        assert_eq!(broker.received(0), request, "the broker gets it as it is");

        let rows = proxy.clients()?;
        let row = rows[0]["client_id"].as_str().context("a client_id")?;
        assert!(row.len() <= 256 && client_id.starts_with(row) && row.len() > 200, "{row:?}");
        assert!(!proxy.metrics()?.contains("forged"));
        client.half_close()?;
        client.rest()?;
        if format == "json" {
            // That all lines are JSON is what `log` holds.
            let line = ended(&proxy, &client, "client_closed", "")?;
            assert_eq!(text(&line, "client_id"), row);
        } else {
            until("the log tells the end", || Ok(proxy.log_text().contains("connection closed")))?;
            let log = proxy.log_text();
            assert_eq!(log.lines().filter(|line| line.contains("forged")).count(), 1, "{log}");
            assert!(!log.lines().any(|line| line.starts_with("WARN forged") || line.contains('\u{1b}')), "{log}");
        }
    }
    Ok(())
}

#[test]
fn a_broker_that_cuts_its_answer_is_told_as_such() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    broker.on_request(&[Step::Cut(11), Step::Close]);
    let mut client = Raw::connect(proxy.port())?;
    client.send(&raw::api_versions(1, Some("cut")))?;
    assert_eq!(client.rest()?.len(), 11, "what came is passed on, nothing is made up");
    let line = ended(&proxy, &client, "broker_closed", "")?;
    assert_eq!((line["response_bytes"].as_u64(), text(&line, "server")), (Some(11), &*broker.address()));
    Ok(())
}

#[test]
fn a_broker_that_never_answers_is_overtaken_and_the_client_gets_one_answer() -> Result<()> {
    let (silent, good) = (FakeBroker::start()?, FakeBroker::start()?);
    silent.on_request(&[]);
    let servers = format!("{},{}", silent.address(), good.address());
    let proxy = Proxy::start(&Routes::new()?.cluster("legacy", &servers).route("all", "*", "legacy"))?;

    // The first connection tries the servers in the order of the file.
    let asked = Instant::now();
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::api_versions(1, Some("patient")))?;
    let took = asked.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!((silent.requests().len(), good.requests().len()), (1, 1));
    until("the connection to the silent one is closed", || Ok(silent.open_connections() == 0))?;
    client.is_quiet(Duration::from_millis(200)).context("a second answer?")?;
    client.ask(&raw::metadata(2, Some("patient")))?;
    assert_eq!((silent.requests().len(), good.requests().len()), (1, 2));

    // From then on it is asked last, and nobody waits for it.
    for n in 0..4 {
        let asked = Instant::now();
        Raw::connect(proxy.port())?.ask(&raw::api_versions(n, Some("next")))?;
        assert!(asked.elapsed() < Duration::from_millis(450), "{:?}", asked.elapsed());
    }
    assert_eq!(silent.connections(), 1);
    let up = |server: &FakeBroker| proxy.metric("kferry_proxy_bootstrap_server_up", &[("server", &server.address())]);
    let failures = |server: &FakeBroker| proxy.metric("kferry_proxy_bootstrap_server_failures_total", &[("server", &server.address())]);
    assert_eq!((up(&silent)?, up(&good)?, failures(&silent)?, failures(&good)?), (0.0, 1.0, 1.0, 0.0));
    Ok(())
}

#[test]
fn a_request_that_may_not_be_asked_twice_goes_to_one_server() -> Result<()> {
    let (first, second) = (FakeBroker::start()?, FakeBroker::start()?);
    first.on_request(&[Step::Wait(Duration::from_millis(800)), Step::Close]);
    let servers = format!("{},{}", first.address(), second.address());
    let proxy = Proxy::start(&Routes::new()?.cluster("legacy", &servers).route("all", "*", "legacy"))?;
    // Produce
    let mut client = Raw::connect(proxy.port())?;
    client.send(&raw::frame(b"\0\0\0\x09\0\0\0\x01\xff\xff, and its body"))?;
    assert!(client.rest()?.is_empty());
    assert_eq!((first.requests().len(), second.requests().len()), (1, 0));
    Ok(())
}

/// Whatever it was that the broker did not like, it is not down.
#[test]
fn a_broker_that_closes_at_a_clients_request_is_not_down() -> Result<()> {
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    Raw::connect(proxy.port())?.ask(&raw::api_versions(1, Some("good")))?;
    broker.closes_at("bad");
    let mut client = Raw::connect(proxy.port())?;
    client.send(&raw::api_versions(1, Some("bad")))?;
    ensure!(client.rest()?.is_empty(), "it was answered");
    let line = ended(&proxy, &client, "first_request_refused", "closed the connection at the client's first request, but answers kferry")?;
    assert_eq!(text(&line, "level"), "WARN");
    let address = broker.address();
    let metric = |name: &str| proxy.metric(&format!("kferry_proxy_bootstrap_server_{name}"), &[("server", &address)]);
    assert_eq!((metric("up")?, metric("failures_total")?), (1.0, 0.0));
    Raw::connect(proxy.port())?.ask(&raw::api_versions(2, Some("good")))?;
    Ok(())
}

#[test]
fn a_broken_cluster_is_said_to_be_so_and_costs_the_others_nothing() -> Result<()> {
    let (hangs_up, not_at_all, good) = (FakeBroker::start()?, FakeBroker::start()?, FakeBroker::start()?);
    hangs_up.on_request(&[Step::Close]);
    not_at_all.on_accept(&[Step::Close])?;
    let nobody = format!("127.0.0.1:{}", ports::take(1)?.start);
    let routes = Routes::new()?
        .cluster("broken", &format!("{},{},{nobody}", hangs_up.address(), not_at_all.address()))
        .cluster("good", &good.address())
        .route("broken", "broken-*", "broken")
        .route("others", "*", "good");
    let proxy = Proxy::start(&routes)?;

    let mut unlucky = Raw::connect(proxy.port())?;
    unlucky.send(&raw::api_versions(1, Some("broken-1")))?;
    assert!(unlucky.rest()?.is_empty());
    let line = ended(&proxy, &unlucky, "cluster_unreachable", "no bootstrap server of cluster broken can be used: ")?;
    let detail = text(&line, "detail");
    for (server, says) in [
        (hangs_up.address(), "closed at the first request"),
        (not_at_all.address(), "closed at the first request"),
        (nobody, "Connection refused"),
    ] {
        let about = detail.split(&format!("{server}: ")).nth(1).and_then(|rest| rest.split(';').next());
        assert!(about.is_some_and(|about| about.contains(says)), "{server} should be said to be {says:?}: {detail}");
    }
    assert!(detail.contains("is its security.protocol PLAINTEXT, as the file says?"), "{detail}");
    assert_eq!((text(&line, "route"), text(&line, "cluster"), text(&line, "level")), ("broken", "broken", "WARN"));

    Raw::connect(proxy.port())?.ask(&raw::api_versions(2, Some("lucky")))?;
    // What heals is found: all three failed a moment ago, and are still asked.
    hangs_up.on_request(&[Step::Answer]);
    Raw::connect(proxy.port())?.ask(&raw::api_versions(3, Some("broken-2")))?;
    Ok(())
}

#[test]
fn tls_settings_that_do_not_fit_the_broker_are_said() -> Result<()> {
    let (authority, stranger) = (pki::authority()?, pki::Pki::new()?);
    let (plain, tls) = (FakeBroker::start()?, FakeBroker::start_tls(&authority.server(&[])?)?);
    let ssl = |ca: &pki::Pki| format!("security_protocol = \"SSL\"\nssl_ca_location = \"{}\"\n", ca.ca_path.display());
    let routes = Routes::new()?
        .cluster("tls-as-plain", &tls.address())
        .cluster_with("plain-as-tls", &plain.address(), &ssl(authority))
        .cluster_with("other-authority", &tls.address(), &ssl(&stranger))
        .cluster_with("right", &tls.address(), &ssl(authority))
        .route("a", "a", "tls-as-plain")
        .route("b", "b", "plain-as-tls")
        .route("c", "c", "other-authority")
        .route("d", "d", "right");
    let proxy = Proxy::start(&routes)?;
    for (client_id, says) in [
        ("a", "answers with TLS: set security_protocol to SSL or SASL_SSL instead of PLAINTEXT"),
        ("b", "as plaintext ports do: compare security_protocol with the broker's listener"),
        ("c", "set ssl_ca_location to the PEM file of the cluster's authority"),
    ] {
        let mut client = Raw::connect(proxy.port())?;
        client.send(&raw::api_versions(1, Some(client_id)))?;
        assert!(client.rest()?.is_empty(), "what is no broker has spoken to the client");
        ended(&proxy, &client, "cluster_unreachable", says)?;
    }
    Raw::connect(proxy.port())?.ask(&raw::api_versions(2, Some("d")))?;
    Ok(())
}

#[test]
fn four_thousand_silent_connections_cost_little_and_harm_nobody() -> Result<()> {
    const SILENT: usize = 4_000;
    // What the kernel holds for a socket is not the proxy's memory. Its own part is a task that waits for a first request, the first bytes'
    // buffer of half a kilobyte, a timer, and its place in the runtime's tables: less than this, whatever arrives first.
    const EACH: u64 = 8 * 1024;
    raw::open_many_files()?;
    let broker = FakeBroker::start()?;
    let limits = in_front_of(&broker)?.limit("handshake_timeout_ms", 6_000).limit("max_connections_per_ip", 100_000);
    let proxy = Proxy::start(&limits)?;
    let mut unharmed = Raw::connect(proxy.port())?;
    unharmed.ask(&raw::api_versions(1, Some("unharmed")))?;

    let before = proxy.resident_memory()?;
    let began = Instant::now();
    let mut silent = (0..SILENT).map(|_| Raw::connect(proxy.port())).collect::<Result<Vec<_>>>()?;
    let open = || proxy.metric("kferry_proxy_connections", &[("listener", "plain")]);
    until("all are open", || Ok(open()? as usize == SILENT + 1))?;
    let each = proxy.resident_memory()?.saturating_sub(before) / SILENT as u64;
    println!("{SILENT} silent connections: {each} bytes each, opened within {:?}", began.elapsed());
    assert!(each < EACH, "{each} bytes for each silent connection");

    let asked = Instant::now();
    unharmed.ask(&raw::metadata(2, Some("unharmed")))?;
    Raw::connect(proxy.port())?.ask(&raw::api_versions(3, Some("newcomer")))?;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(proxy.closed_count("handshake_timeout")?, 0, "they were all still there meanwhile");

    for stranger in &mut silent {
        assert!(stranger.rest()?.is_empty());
    }
    until("all are counted", || Ok(proxy.closed_count("handshake_timeout")? as usize == SILENT))?;
    until("only the unharmed one is open", || Ok(open()? as usize == 1))?;
    unharmed.ask(&raw::metadata(4, Some("unharmed")))?;

    // The log is not filled by them, and says how many it left out.
    let told: Vec<Value> = proxy.log()?.into_iter().filter(|line| line["cause"] == "handshake_timeout").collect();
    assert!((1..SILENT / 2).contains(&told.len()), "{} lines", told.len());
    let left_out: u64 = told.iter().filter_map(|line| line["more_not_logged"].as_u64()).sum();
    assert!(told.len() as u64 + left_out <= SILENT as u64, "{} lines and {left_out} left out", told.len());
    Ok(())
}

#[test]
fn a_client_that_does_not_read_holds_the_broker_back_and_not_the_proxys_memory() -> Result<()> {
    const FLOOD: u64 = 200 << 20;
    // One buffer for each direction of the connection, and what the runtime may have touched for the first time meanwhile.
    const MOST: u64 = 2 << 20;
    let broker = FakeBroker::start()?;
    let proxy = Proxy::start(&in_front_of(&broker)?)?;
    let mut client = Raw::connect(proxy.port())?;
    client.ask(&raw::api_versions(1, Some("slow-reader")))?;
    let (memory, sent) = (proxy.resident_memory()?, broker.sent());

    broker.on_request(&[Step::Flood(FLOOD)]);
    client.send(&raw::metadata(2, Some("slow-reader")))?;
    // The kernel's buffers take some megabytes, then it must stop.
    let (mut last, mut since) = (0, Instant::now());
    until("the broker is held back", || {
        if broker.sent() != last {
            (last, since) = (broker.sent(), Instant::now());
        }
        Ok(last > sent && since.elapsed() > Duration::from_millis(400))
    })?;
    assert!(last - sent < FLOOD / 2, "{} bytes were taken though nobody read one", last - sent);
    let grown = proxy.resident_memory()?.saturating_sub(memory);
    assert!(grown < MOST, "{grown} bytes for one slow reader");
    broker.on_request(&[Step::Answer]);
    Raw::connect(proxy.port())?.ask(&raw::api_versions(3, Some("unharmed")))?;

    let (mut got, mut buf) = (0, vec![0; 1 << 20]);
    while got < FLOOD {
        let n = client.read(&mut buf)?;
        ensure!(n > 0, "the connection ended after {got} bytes");
        ensure!(is_flood(got, &buf[..n]), "wrong bytes within {n} after {got}");
        got += n as u64;
    }
    assert_eq!(got, FLOOD);
    client.is_quiet(Duration::from_millis(100))?;
    let grown = proxy.resident_memory()?.saturating_sub(memory);
    assert!(grown < MOST, "{grown} bytes after it");
    Ok(())
}
