//! Moves of groups that are given up, and moves in which something is killed: members stay where they are, or come to where the group lives then.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::Client;
use harness::clients::soak::{self, Soak};
use harness::kafka::{Cluster, Listener};
use harness::stage::{self, Side};
use kferry_wire::decisions::{Life, Move, State};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::decisions::Phase;
use crate::{Going, LIMIT, PARTITIONS, Stage, go_on};

/// A step of a group's move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its members are waited for.
    Held,
    /// One of them at least waits to join.
    Parked,
    /// All commits wait.
    AllHold,
    /// It lives there.
    Flipped,
}

/// What a group has.
struct Has {
    members: Vec<String>,
    generation: i32,
    committed: BTreeMap<(String, i32), i64>,
}

impl Stage {
    /// The topics of the route have moved, and its groups are at this step. Returns the last decision before them.
    fn groups_are_at(&self, step: Step, home: Side) -> Result<i64> {
        let after = self.decisions.says("that the topics lead there", LIMIT, |state| {
            (state.homes().get("orders").is_some_and(|at| **at == *home.name()) && state.open().is_none_or(Move::is_of_groups))
                .then(|| state.open().map_or(state.last_decision(), |open| open.id - 1))
        })?;
        let has_parked = |state: &State| state.open().is_some_and(|open| open.parked.values().any(|groups| !groups.is_empty()));
        match step {
            Step::Held => self.decisions.is_at(Phase::Held, after).map(drop),
            Step::AllHold => self.decisions.is_at(Phase::AllHold, after).map(drop),
            Step::Flipped => self.decisions.is_at(Phase::Flipped, after).map(drop),
            Step::Parked => self.decisions.says("that a member waits to join", LIMIT, |state| has_parked(state).then_some(())),
        }?;
        Ok(after)
    }

    /// Nothing is in the way: else groups may move before the topics, and the steps come in another order.
    fn can_move(&self, home: Side) -> Result<()> {
        self.comes("nothing is in the way", || self.file(home)?.kferry(&["move", "--dry-run"])?.ends_with(0).map(drop))
    }

    /// Each group is on one cluster, with all of its members; who reads has read nothing twice, and goes on.
    fn are_all_at(&self, side: Side, going: &[Going], why: &str) -> Result<()> {
        go_on(going).with_context(|| why.to_owned())?;
        for going @ Going { soak, group, members } in going {
            if going.is_classic() {
                self.comes(why, || {
                    let (here, there) = (self.cluster(side).group(group)?, self.cluster(side.other()).group(group)?);
                    let state = if *members > 0 { "Stable" } else { "Empty" };
                    ensure!(
                        here.state == state && here.client_ids.len() == *members && there.client_ids.is_empty(),
                        "{group} on {side:?}: {here:?}, {there:?} on the other one"
                    );
                    Ok(())
                })?;
            }
            let seen = soak.seen();
            println!(
                "  {why}: {}: {:.2?} without reads, {} read once more, {:?}",
                soak.name(),
                seen.longest_consume_pause,
                seen.again,
                seen.errors
            );
            ensure!(seen.errors.is_empty() && seen.again == 0, "{why}: {}: {seen:?}", soak.name());
        }
        Ok(())
    }

    /// What each group has where it lives.
    fn has(&self, side: Side, going: &[Going]) -> Result<Vec<Has>> {
        let cluster = self.cluster(side);
        let has = |Going { group, .. }: &Going| {
            let members = cluster.group(group)?.member_ids;
            Ok(Has { generation: cluster.generation(group, &members)?, members, committed: cluster.committed_offsets(group)? })
        };
        going.iter().map(has).collect()
    }

    /// Nobody was thrown out, and no commit was taken back: there was one rebalance at the most.
    fn have_stayed(&self, side: Side, going: &[Going], before: &[Has], why: &str) -> Result<()> {
        self.are_all_at(side, going, why)?;
        for ((going, before), now) in going.iter().zip(before).zip(self.has(side, going)?) {
            let Going { group, .. } = going;
            ensure!(now.members == before.members, "{why}: {group} had members {:?}, and has {:?}", before.members, now.members);
            let times = now.generation - before.generation;
            println!("  {why}: {group}: {times} rebalances");
            ensure!(times <= 1, "{why}: {group} had {times} rebalances");
            let lost = before.committed.iter().find(|(partition, offset)| now.committed.get(*partition).is_none_or(|now| now < offset));
            ensure!(lost.is_none(), "{why}: {group} had committed {lost:?}, and has {:?}", now.committed);
        }
        Ok(())
    }

    /// Nothing moves after an abort by hand before somebody says it again.
    fn wish_again(&self) -> Result<()> {
        self.proxies.iter().try_for_each(|proxy| proxy.reload().map(drop))
    }
}

/// A group at each proxy, and one with members at both, of two routes.
fn going(stage: &Stage) -> Result<Vec<Going>> {
    let mut going = Vec::new();
    let both = "orders-both";
    let of = [
        (0, Client::Rdkafka, "orders-eager", None),
        (1, Client::Java4, "orders-java", None),
        (0, Client::Rdkafka, "orders-some", Some(both)),
        (1, Client::Rdkafka, "guests-some", Some(both)),
    ];
    for (proxy, client, name, group) in of {
        let topic = format!("orders.{name}");
        stage.copied_topic(&topic)?;
        let job = soak::Job::plain(stage.proxies[proxy].bootstrap_servers(), name.to_owned(), &topic, PARTITIONS, LIMIT);
        let group = group.map_or(job.client_id.clone(), str::to_owned);
        let members = if group == both { 4 } else { 2 };
        going.push(Going { soak: Soak::start(client, &soak::Job { group_id: Some(group.clone()), ..job })?, group, members });
    }
    Ok(going)
}

#[test]
#[ignore = "`make soak` runs it: minutes, brokers are killed at each step of eight moves"]
fn groups_stay_whole_when_a_move_is_given_up_and_when_coordinators_and_proxies_are_killed() -> Result<()> {
    let mut stage = Stage::on(stage::clusters(&[("group.initial.rebalance.delay.ms", "0")])?, 2)?;
    let going = going(&stage)?;
    let groups: Vec<_> = going.iter().map(|going| going.group.clone()).collect();
    stage.are_all_at(Side::Legacy, &going, "before")?;
    for Going { soak, .. } in &going {
        soak.seen();
    }
    given_up(&mut stage, &going, &[Step::Held, Step::Parked, Step::AllHold]).with_context(|| stage.logs().unwrap_or_default())?;
    killed(&mut stage, &going, &groups).with_context(|| stage.logs().unwrap_or_default())?;
    for Going { soak, .. } in going {
        soak.stop()?;
    }
    Ok(())
}

/// The mirror stands still, so that nobody writes the last offsets: whoever gives it up, and when, members are where they were. Beside the steps at which it
/// is given up by hand, its time ends by itself.
pub(crate) fn given_up(stage: &mut Stage, going: &[Going], by_hand: &[Step]) -> Result<()> {
    let [at_home, there] = [Side::Legacy, Side::New];
    stage.edit(there)?;
    // Topics first, with the mirror; from then on only groups move, again and again.
    stage.groups_are_at(Step::Held, there)?;
    stage.mirroring.freeze()?;
    let moved = stage.decisions.state()?.lives().values().filter(|life| *life.cluster == *there.name()).count();
    ensure!(moved == 0, "{moved} groups have moved before the mirror stood still");
    for (n, step) in by_hand.iter().enumerate() {
        if n > 0 {
            stage.wish_again()?;
        }
        let before = stage.has(at_home, going)?;
        let after = stage.groups_are_at(*step, there)?;
        stage.file(there)?.kferry(&["move", "abort", "--reason", "by hand"])?.ends_with(0)?;
        let reason = stage.decisions.is_given_up(after)?;
        ensure!(reason == "by hand", "at {step:?}: {reason}");
        stage.mirroring.thaw()?;
        stage.have_stayed(at_home, going, &before, &format!("given up by hand at {step:?}"))?;
        stage.mirroring.freeze()?;
    }
    let before = stage.has(at_home, going)?;
    stage.wish_again()?;
    let after = stage.groups_are_at(Step::AllHold, there)?;
    let reason = stage.decisions.is_given_up(after)?;
    ensure!(reason.contains("has not got its last offsets"), "{reason}");
    // Before it is tried again.
    stage.edit(at_home)?;
    stage.mirroring.thaw()?;
    stage.have_stayed(at_home, going, &before, "given up without a mirror")?;
    let lives = |life: &Life| *life.cluster == *there.name();
    ensure!(!stage.decisions.state()?.lives().values().any(lives), "a group has moved without its offsets");
    let groups: Vec<_> = going.iter().map(|going| going.group.clone()).collect();
    stage.live(at_home, &groups).map(drop)
}

fn killed(stage: &mut Stage, going: &[Going], groups: &[String]) -> Result<()> {
    let mut home = Side::New;
    for step in [Step::Held, Step::Parked, Step::AllHold, Step::Flipped] {
        for is_old in [true, false] {
            let side = if is_old { home.other() } else { home };
            stage.can_move(home)?;
            let coordinator = stage.cluster(side).coordinator("orders-both")?;
            stage.edit(home)?;
            stage.groups_are_at(step, home)?;
            stage.cluster(side).kill(coordinator)?;
            let what = format!("the {} coordinator killed at {step:?}", if is_old { "old" } else { "new" });
            let [_, took] = stage.live(home, groups).with_context(|| what.clone())?;
            println!("{what}: {took:.2?} until all groups live on {home:?}");
            stage.are_all_at(home, going, &what)?;
            stage.cluster(side).restart(coordinator)?;
            home = home.other();
        }
    }
    stage.can_move(home)?;
    stage.edit(home)?;
    stage.groups_are_at(Step::AllHold, home)?;
    stage.proxies[1].kill();
    stage.proxies[1].start_again()?;
    let [_, took] = stage.live(home, groups).context("a proxy killed")?;
    println!("a proxy killed while it holds: {took:.2?} until all groups live on {home:?}");
    go_on(going)
}

/// Its broker is stopped in order, so the next one comes at once, and says yes to heartbeats and refuses commits for some seconds: nobody is to join then.
#[test]
#[ignore = "`make soak` runs it: a coordinator has six million records to read"]
fn members_of_a_coordinator_that_is_still_reading_lose_no_commit() -> Result<()> {
    let builders = [("3.9.1", Side::Legacy, 3), ("4.3.0", Side::New, 1)].map(|(version, side, brokers)| {
        let cluster = Cluster::version(version).name(side.name()).brokers(brokers);
        cluster.set("group.initial.rebalance.delay.ms", "0").set("offsets.topic.num.partitions", "1")
    });
    let stage = Stage::on(Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?, 1)?;
    let (group, topic, legacy) = ("orders-eager", "orders.eager", stage.cluster(Side::Legacy));
    stage.copied_topic(topic)?;
    let job = soak::Job::plain(stage.proxies[0].bootstrap_servers(), group.to_owned(), topic, PARTITIONS, LIMIT);
    let going = [Going { soak: Soak::start(Client::Rdkafka, &job)?, group: group.to_owned(), members: 2 }];
    go_on(&going)?;
    much_to_read(legacy)?;
    stage.are_all_at(Side::Legacy, &going, "before")?;
    let coordinator = legacy.coordinator(group)?;
    stage.edit(Side::New)?;
    stage.groups_are_at(Step::Held, Side::New)?;
    legacy.stop(coordinator)?;
    let [_, took] = stage.live(Side::New, &[group.to_owned()])?;
    println!("{took:.2?} until the group lives there");
    stage.are_all_at(Side::New, &going, "its coordinator was reading").with_context(|| stage.logs().unwrap_or_default())?;
    for Going { soak, .. } in going {
        soak.stop()?;
    }
    Ok(())
}

/// Offsets of nobody, deleted over and over.
fn much_to_read(cluster: &Cluster) -> Result<()> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    // The one `client.id` that brokers let write there.
    config.set("client.id", "__admin_client").set("compression.type", "lz4").set("linger.ms", "50");
    let producer: BaseProducer = config.create()?;
    // Version 1 of a key: group, topic, partition.
    let key = [&[0, 1, 0, 6][..], b"nobody", &[0, 4], b"none", &[0; 4]].concat();
    for _ in 0..6_000_000 {
        while producer.send(BaseRecord::<_, [u8]>::to("__consumer_offsets").partition(0).key(&key)).is_err() {
            producer.poll(Duration::from_millis(20));
        }
    }
    Ok(producer.flush(LIMIT)?)
}
