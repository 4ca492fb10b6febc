//! A topic that is born on the mirror's target, and a copy whose source is deleted.

use anyhow::{Result, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::Record;
use harness::stage::Side;

use crate::{Going, LIMIT, PARTITIONS, go_on, on_stage};

#[test]
fn a_topic_that_is_born_on_the_target_is_copied_the_other_way_and_moves_as_any_other() -> Result<()> {
    on_stage(|stage| {
        // Each of them has to know it before there is a copy.
        stage.has_proxies(2)?;
        let dead = "orders.source-deleted";
        stage.create(dead)?;
        stage.cluster(Side::Legacy).produce(dead, &[Record::new("key", "value").to_partition(0)])?;
        stage.is_copied(dead)?;
        stage.cluster(Side::Legacy).delete_topic(dead)?;

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
        go_on(&going)?;
        stage.ends(going.into(), false)?;

        // Several passes have seen it since.
        ensure!(!stage.cluster(Side::Legacy).list_topics()?.iter().any(|topic| topic == dead), "{dead} has come back to life");
        ensure!(!stage.decisions.state()?.leaders().contains_key(dead), "{dead} is taken for a topic of its own");
        stage.cluster(Side::New).delete_topic(dead)
    })
}
