//! A hundred routes and a thousand partitions in one edit.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::{Cluster, Listener};
use harness::mirror::Mirror;
use harness::ports;
use harness::proxy::{Proxy, Routes};
use harness::raw::{Raw, ask};
use harness::stage::{self, Side};
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::protocol::StrBytes;

use crate::there_and_back::Took;
use crate::{GOES_ON, LIMIT, MIRRORS};

const ROUTES: usize = 100;
/// Of each route, with one partition each.
const TOPICS: usize = 10;
/// Moves each way.
const MOVES: usize = 3;

fn topic(route: usize, n: usize) -> String {
    format!("orders.{route:03}.{n}")
}

fn with_homes(base: &Routes, home: Side) -> Routes {
    let route = |routes: Routes, route: usize| {
        let topics = format!("topics = [\"orders.{route:03}.*\"]\n");
        routes.relay(&format!("orders-{route:03}"), &format!("orders-{route:03}-*"), home.name(), &topics)
    };
    (0..ROUTES).fold(base.clone(), route).section(MIRRORS)
}

#[test]
#[ignore = "`make soak` runs it: brokers take a minute to make so many partitions"]
fn a_thousand_partitions_move_at_once() -> Result<()> {
    let builders = [("3.9.1", Side::Legacy), ("4.3.0", Side::New)].map(|(version, side)| {
        // Each partition is a folder with files that are open.
        let cluster = Cluster::version(version).name(side.name()).heap_mib(512).set("log.index.size.max.bytes", "4096");
        cluster.set("group.initial.rebalance.delay.ms", "0")
    });
    let clusters: [Cluster; 2] = Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
    let port = Side::Legacy.of(&clusters).address(1, Listener::Plaintext)?;
    let port = port.rsplit(':').next().context("a port")?.parse()?;
    let name = |route, n| StrBytes::from_string(topic(route, n)).into();
    for route in 0..ROUTES {
        let new =
            (0..TOPICS).map(|n| CreatableTopic::default().with_name(name(route, n)).with_num_partitions(1).with_replication_factor(1));
        let request = CreateTopicsRequest::default().with_topics(new.collect()).with_timeout_ms(60_000);
        let answer = ask(&mut Raw::connect(port)?, 5, "direct", &request)?;
        ensure!(answer.topics.iter().all(|topic| topic.error_code == 0), "{answer:?}");
    }
    let base = stage::routes(&clusters)?;
    let (config, text) = stage::shared(&with_homes(&base, Side::Legacy), ports::take(1)?.start)?;
    let mut mirror = Mirror::of(&text)?;
    let _mirroring = mirror.start(&[])?;
    // What a copy does not exist of yet would move later than the rest.
    let began = Instant::now();
    let copied = || mirror.http("GET", "/partitions").map_or(0, |answer| answer.body.matches("\"topic\"").count());
    while copied() < ROUTES * TOPICS {
        ensure!(began.elapsed() < LIMIT, "there are copies of {}: {}", copied(), mirror.logs()?);
        thread::sleep(Duration::from_millis(200));
    }
    let proxy = Proxy::start_with(&with_homes(&base, Side::Legacy), &config, &[])?;
    // Those of ten routes are used.
    let going = (0..ROUTES).step_by(10).map(|route| {
        let job = soak::Job::plain(proxy.bootstrap_servers(), format!("orders-{route:03}-a"), &topic(route, 0), 1, LIMIT);
        Soak::start(Client::Rdkafka, &soak::Job { records_per_second: 20, ..job })
    });
    let going = going.collect::<Result<Vec<_>>>()?;
    soak::go_on(&going, 1, GOES_ON, LIMIT)?;
    let mut table = String::new();
    let mut flips = 0;
    for n in 0..MOVES {
        for home in [Side::New, Side::Legacy] {
            for going in &going {
                going.seen();
            }
            let began = Instant::now();
            proxy.edit(&with_homes(&base, home))?;
            // The first time the mirror may still make topics.
            flips += 1;
            while flipped(&proxy)? < flips {
                ensure!(began.elapsed() < LIMIT, "nothing has moved to {home:?}: {}\n{}", proxy.log_text(), mirror.logs()?);
                thread::sleep(Duration::from_millis(200));
            }
            soak::go_on(&going, 1, GOES_ON, LIMIT).with_context(|| format!("after move {n} to {home:?}"))?;
            let seen: Vec<_> = going.iter().map(Soak::seen).collect();
            ensure!(seen.iter().all(|seen| seen.errors.is_empty() && seen.again == 0), "{seen:?}");
            let acks = seen.iter().map(|seen| seen.longest_ack_pause).max().unwrap_or_default();
            let reads = seen.iter().map(|seen| seen.longest_consume_pause).max().unwrap_or_default();
            let took = Took::by(&proxy, &mirror)?;
            writeln!(table, "move {n} to {home:?}: {took}; {acks:.0?} without acknowledgements, {reads:.0?} without reads")?;
        }
    }
    println!("{ROUTES} routes, {} partitions:\n{table}", ROUTES * TOPICS);
    going.into_iter().try_for_each(|going| going.stop().map(drop))
}

/// How many moves have flipped; all that one edit moves is one move.
fn flipped(proxy: &Proxy) -> Result<usize> {
    Ok(proxy.log()?.iter().filter(|line| line["message"] == "a move: the other cluster leads").count())
}
