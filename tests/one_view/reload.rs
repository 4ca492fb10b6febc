//! An edit of the file while clients work.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::Listener;
use harness::proxy::{Proxy, Routes};

use crate::failures::{PARTITIONS, go_on};
use crate::{LIMIT, MIRRORS, Names, Side, calm};

#[test]
fn an_edit_under_load_loses_doubles_and_reorders_nothing() -> Result<()> {
    calm(|stage| {
        let mut base = Routes::new()?;
        for side in Side::BOTH {
            base = base.kafka(side.name(), stage.cluster(side), Listener::Plaintext, None)?;
        }
        // Each client is at the home of its name, or at the other one.
        let routes = |home_of_legacy: Side, more: &str| {
            let routes = base.clone().section(more).relay("at-legacy", "at-legacy-*", home_of_legacy.name(), "");
            routes.relay("at-new", "at-new-*", home_of_legacy.other().name(), "").section(MIRRORS)
        };
        let proxy = Proxy::start(&routes(Side::Legacy, ""))?;
        let mut soaks = Vec::new();
        for home in Side::BOTH {
            for side in Side::BOTH {
                let topic = side.leads(&format!("reload.{}", home.name()));
                stage.create_copied(side, &topic, PARTITIONS as i32)?;
                let client_id = home.client(&format!("reload-{}", side.name()));
                let job = soak::Job::plain(proxy.bootstrap_servers(), client_id, &topic, PARTITIONS, LIMIT);
                soaks.push((side, topic, Soak::start(Client::Rdkafka, &job)?));
            }
        }
        let all = || soaks.iter().map(|(.., soak)| soak);
        go_on(all())?;
        let bystander = "[[routes]]\nname = \"other\"\nclient_id = \"other-*\"\ncluster = \"new\"\n";
        for (what, edited) in [
            ("a route more", routes(Side::Legacy, bystander)),
            ("a limit", routes(Side::Legacy, "").limit("max_connections", 900)),
            ("the homes change places", routes(Side::New, "")),
            ("and back", routes(Side::Legacy, bystander)),
        ] {
            proxy.edit(&edited).context(what)?;
            go_on(all()).context(what)?;
        }
        for (side, topic, soak) in soaks {
            let (name, seen) = (soak.name().to_owned(), soak.seen());
            println!("{name}: {:.1?} without acknowledgements, {:.1?} without reads", seen.longest_ack_pause, seen.longest_consume_pause);
            ensure!(seen.errors.is_empty() && seen.again == 0, "{name}: {seen:?}");
            let counts = soak.stop()?;
            let mut log = BTreeMap::<usize, Vec<u64>>::new();
            for record in stage.cluster(side).read_all(&topic)? {
                log.entry(record.partition as usize).or_default().push(str::from_utf8(&record.value.context("a value")?)?.parse()?);
            }
            for (partition, acked) in counts.acked.iter().enumerate() {
                let numbers = log.remove(&partition).unwrap_or_default();
                ensure!(numbers.iter().copied().eq(0..*acked), "{topic}-{partition}: {acked} acknowledged, {} in the log", numbers.len());
            }
            stage.is_copied(side, &topic)?;
        }
        stage.no_copy_has_diverged(".reload.")
    })
}
