//! A thousand groups in one edit.

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::Commit;
use harness::stage::Side;

use crate::{Going, LIMIT, PARTITIONS, Stage, go_on};

const GROUPS: usize = 1_000;

#[test]
#[ignore = "`make soak` runs it: a thousand groups"]
fn a_thousand_groups_move_in_one_edit() -> Result<()> {
    let stage = Stage::small("3.9.1", "0")?;
    let topic = "orders.many";
    stage.copied_topic(topic)?;
    let job = soak::Job::plain(stage.proxies[0].bootstrap_servers(), "orders-one".to_owned(), topic, PARTITIONS, LIMIT);
    let going = [Going { soak: Soak::start(Client::Rdkafka, &job)?, group: job.client_id, members: 2 }];
    go_on(&going)?;
    // Without members, but for one: their offsets are what takes its time.
    let idle: Vec<String> = (0..GROUPS).map(|n| format!("orders-{n}")).collect();
    for (n, group) in (0..).zip(&idle) {
        stage.cluster(Side::Legacy).commit(group, topic, (0..PARTITIONS as i32).map(|partition| (partition, Commit::at(n % 10))))?;
    }
    going[0].soak.seen();
    let groups: Vec<_> = idle.iter().chain([&going[0].group]).cloned().collect();
    for side in [Side::New, Side::Legacy] {
        stage.edit(side)?;
        let [led, took] = stage.live(side, &groups)?;
        go_on(&going).with_context(|| stage.logs().unwrap_or_default())?;
        let seen = going[0].soak.seen();
        println!(
            "{} groups to {side:?}: topics {led:.2?} after the edit, groups {took:.2?}; {:.2?} without reads",
            groups.len(),
            seen.longest_consume_pause
        );
        ensure!(seen.errors.is_empty() && seen.again == 0, "{seen:?}");
        for (n, group) in (0..).zip(&idle) {
            let offsets: Vec<_> = stage.cluster(side).committed_offsets(group)?.into_values().collect();
            ensure!(offsets == [n % 10; PARTITIONS], "{group} has {offsets:?} on {side:?}");
        }
    }
    let [Going { soak, .. }] = going;
    soak.stop().map(drop)
}
