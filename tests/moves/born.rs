//! A topic that is born on the mirror's target, and a copy whose source is deleted.

use anyhow::{Result, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::Record;
use harness::stage::Side;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::{Going, LIMIT, PARTITIONS, go_on, on_stage};

#[test]
fn a_topic_that_is_born_on_the_target_is_copied_the_other_way_and_moves_as_any_other() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(2)?;
        // Copies whose source is deleted: one that the proxies have seen beside its topic, and one that they may not have seen.
        let dead = ["orders.source-deleted", "orders.source-deleted-at-once"];
        for (topic, is_seen) in dead.into_iter().zip([true, false]) {
            stage.create(topic)?;
            stage.cluster(Side::Legacy).produce(topic, &[Record::new("key", "value").to_partition(0)])?;
            stage.is_copied(topic)?;
            for proxy in stage.proxies.iter().filter(|_| is_seen) {
                let mut client = ClientConfig::new();
                client.set("bootstrap.servers", proxy.bootstrap_servers()).set("client.id", "orders-looks");
                client.create::<BaseConsumer>()?.fetch_metadata(Some(topic), LIMIT)?;
            }
            stage.cluster(Side::Legacy).delete_topic(topic)?;
        }
        // It waits for its first record, and nothing waits for it.
        let empty = "orders.born-empty";
        stage.cluster(Side::New).create_topic(empty, 1, &[])?;

        // No route owns these: they stay. One after the other, without a move between them.
        for topic in ["orders-born-first", "orders-born-second"] {
            stage.cluster(Side::New).create_topic(topic, 1, &[])?;
            stage.cluster(Side::New).produce(topic, &[Record::new("key", "value").to_partition(0)])?;
            stage.decisions.says(&format!("that {topic} was born on new"), LIMIT, |state| {
                state.leaders().get(topic).is_some_and(|leader| leader.term == 1 && &*leader.cluster == "new").then_some(())
            })?;
            stage.comes(&format!("there is a copy of {topic}"), || stage.cluster(Side::Legacy).log_ends(topic).map(drop))?;
            stage.is_copied(topic)?;
        }

        let topic = "orders.born".to_owned();
        stage.cluster(Side::New).create_topic(&topic, PARTITIONS as i32, &[])?;
        let job = soak::Job::plain(stage.proxies[0].bootstrap_servers(), "orders-born".to_owned(), &topic, PARTITIONS, LIMIT);
        let going = [Going { soak: Soak::start(Client::Rdkafka, &job)?, topic: topic.clone(), is_plain: false }];
        stage.decisions.says("that it was born on new", LIMIT, |state| state.leaders().get(&topic).map(drop))?;
        // The route that owns it is on legacy: once it is copied it moves there.
        stage.decisions.says("that it leads on legacy", LIMIT, |state| (state.leaders()[&topic].term == 2).then_some(()))?;
        stage.leads(Side::Legacy, &going)?;
        let state = stage.decisions.state()?;
        let moved = state.receipts().find(|receipt| receipt.of.topics.contains_key(&topic));
        ensure!(moved.is_some_and(|receipt| &*receipt.of.from == "new"), "{moved:?}");
        // Nothing of what has no leader is in the way, there or back.
        for home in [Side::New, Side::Legacy] {
            stage.move_to(home, &going)?;
            go_on(&going)?;
        }
        stage.ends(going.into(), false)?;

        // Several passes have seen them since.
        let on_legacy = stage.cluster(Side::Legacy).list_topics()?;
        ensure!(!on_legacy.iter().any(|topic| dead.contains(&&**topic)), "back to life: {on_legacy:?}");
        let state = stage.decisions.state()?;
        ensure!(!dead.iter().any(|topic| state.leaders().contains_key(*topic)), "taken for topics of their own: {:?}", state.leaders());
        stage.cluster(Side::New).produce(empty, &[Record::new("key", "value").to_partition(0)])?;
        stage.decisions.says("that it was born on new", LIMIT, |state| state.leaders().get(empty).map(drop))?;
        [empty].into_iter().chain(dead).try_for_each(|topic| stage.cluster(Side::New).delete_topic(topic))
    })
}
