//! Several legacy clusters and a new one, as companies have them: what is moved from one of them changes which clusters the clients of its route see, and nothing for
//! those of the others.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::{Cluster, Listener};
use harness::mirror::Mirror;
use harness::ports;
use harness::proxy::{Proxy, Routes};
use harness::scenario::{comes, identical};
use harness::stage;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};

use crate::{GOES_ON, LIMIT, PARTITIONS, moves};

const OLD: [&str; 2] = ["old-1", "old-2"];
const NEW: &str = "new";
/// Each at home on the old cluster of the same place, at first.
const ROUTES: [&str; 2] = ["orders", "payments"];

/// Homes of the routes.
type Homes = [&'static str; 2];

fn file(base: &Routes, homes: Homes) -> Routes {
    let mut file = base.clone();
    for (route, home) in ROUTES.into_iter().zip(homes) {
        file = file.relay(route, &format!("{route}-*"), home, &format!("topics = [\"{route}.*\"]\ngroups = [\"{route}-*\"]\n"));
    }
    file = file.section("[state]\ncluster = \"new\"\n\n[moves]\nhold_ms = 5000\n");
    for old in OLD {
        // Each mirror takes all that its source has.
        let what = "topics_regex = [\".*\"]\ngroups_regex = [\".*\"]\n";
        file = file.section(&format!("[[mirrors]]\nname = \"{old}-over\"\nsource = \"{old}\"\ntarget = \"new\"\n{what}"));
    }
    file
}

/// What became of a record.
#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<Option<RDKafkaErrorCode>>>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        *self.0.lock().expect("nobody panics") = result.as_ref().err().and_then(|(error, _)| error.rdkafka_error_code());
    }
}

/// Why a record was not appended; `None`: it was.
fn delivered(bootstrap_servers: &str, client_id: &str, topic: &str) -> Result<Option<RDKafkaErrorCode>> {
    let delivered = Delivered::default();
    let config = [("bootstrap.servers", bootstrap_servers), ("client.id", client_id), ("enable.idempotence", "false"), ("acks", "all")];
    let config: ClientConfig = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let producer: BaseProducer<_> = config.create_with_context(delivered.clone())?;
    producer.send(BaseRecord::<(), _>::to(topic).payload("v")).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    let why = *delivered.0.lock().expect("nobody panics");
    Ok(why)
}

#[test]
#[ignore = "two minutes; make soak"]
fn routes_of_two_old_clusters_move_to_a_third_there_and_back() -> Result<()> {
    let builders = [("3.9.1", OLD[0]), ("2.8.2", OLD[1]), ("4.3.0", NEW)]
        .map(|(version, name)| Cluster::version(version).name(name).set("group.initial.rebalance.delay.ms", "0"));
    let clusters = Cluster::start_all(builders.into())?;
    let cluster = |name: &str| &clusters[[OLD[0], OLD[1], NEW].iter().position(|of| *of == name).expect("one of three")];
    let mut base = Routes::new()?;
    for name in [OLD[0], OLD[1], NEW] {
        base = base.kafka(name, cluster(name), Listener::Plaintext, None)?;
    }
    let at_home: Homes = [OLD[0], OLD[1]];
    let (config, text) = stage::shared(&file(&base, at_home), ports::take(1)?.start)?;
    let proxy = Proxy::start_with(&file(&base, at_home), &config, &[])?;
    let mut mirror = Mirror::of(&text)?;
    let _mirroring = mirror.start(&[])?;
    let (mut going, mut topics) = (Vec::new(), Vec::new());
    for (n, route) in ROUTES.into_iter().enumerate() {
        for (client, idempotent) in [(Client::Rdkafka, true), (Client::Java4, true), (Client::FranzGo, true), (Client::Java28, false)] {
            let (name, topic) = (format!("{route}-{}", client.name()), format!("{route}.{}", client.name()));
            cluster(OLD[n]).create_topic(&topic, PARTITIONS as i32, &[])?;
            comes(LIMIT, &mirror, || cluster(NEW).log_ends(&topic).map(drop))?;
            let job = soak::Job { idempotent, ..soak::Job::plain(proxy.bootstrap_servers(), name, &topic, PARTITIONS, LIMIT) };
            going.push(Soak::start(client, &job)?);
            topics.push((n, topic));
        }
    }
    // What the other old cluster has is on new a copy, which nobody writes. A topic of new's own is as any other.
    let writes = |topic: &str| delivered(&proxy.bootstrap_servers(), "payments-guest", topic);
    cluster(OLD[0]).create_topic("orders.guest", 1, &[])?;
    cluster(NEW).create_topic("here", 1, &[])?;
    comes(LIMIT, &mirror, || cluster(NEW).log_ends("orders.guest").map(drop))?;
    ensure!(writes("orders.guest")? == Some(RDKafkaErrorCode::TopicAuthorizationFailed), "{:?}", writes("orders.guest")?);
    ensure!(writes("here")?.is_none(), "{:?}", writes("here")?);
    ensure!(cluster(NEW).read_all("orders.guest")?.is_empty(), "a copy was written");
    let logs = || Ok::<_, anyhow::Error>(format!("the proxy:\n{}\nthe mirror:\n{}", proxy.log_text(), mirror.logs()?));
    let go_on = |going: &[Soak], when: &str| {
        soak::go_on(going, PARTITIONS, GOES_ON, LIMIT).with_context(|| format!("{when}: {}", logs().unwrap_or_default()))
    };
    let moved = |going: &[Soak], homes: Homes| -> Result<Vec<String>> {
        let began = Instant::now();
        proxy.edit(&file(&base, homes))?;
        loop {
            let told = moves(&proxy)?;
            if told["open"].is_null() && ROUTES.iter().zip(homes).all(|(route, home)| told["homes"][route] == home) {
                break;
            }
            ensure!(began.elapsed() < LIMIT, "not at {homes:?}: {told:#}\n{}", logs()?);
            thread::sleep(Duration::from_millis(20));
        }
        let (took, mut wrong) = (began.elapsed(), Vec::new());
        go_on(going, &format!("at {homes:?}"))?;
        println!("{homes:?} after {took:.2?}");
        for soak in going {
            let seen = soak.seen();
            println!("  {}: {:.2?} without acks, {:.2?} without reads", soak.name(), seen.longest_ack_pause, seen.longest_consume_pause);
            if !seen.errors.is_empty() || seen.again > 0 {
                wrong.push(format!("{} at {homes:?}: {seen:?}", soak.name()));
            }
        }
        Ok(wrong)
    };
    let ends = |going: Vec<Soak>, route: usize| -> Result<()> {
        going.into_iter().try_for_each(|soak| soak.stop().map(drop))?;
        let mut topics = topics.iter().filter(|(of, _)| *of == route);
        topics.try_for_each(|(_, topic)| comes(LIMIT, &mirror, || identical(cluster(OLD[route]), cluster(NEW), topic)))
    };
    go_on(&going, "at first")?;
    for soak in &going {
        soak.seen();
    }
    let mut wrong = Vec::new();
    for homes in [[NEW, OLD[1]], [NEW, NEW], [OLD[0], NEW], [NEW, NEW], [NEW, OLD[1]], at_home] {
        wrong.extend(moved(&going, homes)?);
    }
    let payments = going.split_off(going.len() / 2);
    ends(payments, 1)?;
    // What is the matter with one old cluster is nothing to the other.
    cluster(OLD[1]).kill(1)?;
    for homes in [[NEW, OLD[1]], at_home] {
        wrong.extend(moved(&going, homes)?);
    }
    ends(going, 0)?;
    let cut: Vec<_> = proxy.log()?.into_iter().filter(|line| line["cause"] == "cut").collect();
    ensure!(wrong.is_empty() && cut.is_empty(), "{}\n{cut:#?}\n{}", wrong.join("\n"), logs()?);
    Ok(())
}
