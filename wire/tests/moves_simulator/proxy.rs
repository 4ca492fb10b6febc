//! Proxies: `kferry_wire::decisions::Proxy` and the first-batch rule as they run for real, between clients that come and clusters that answer late.

use std::collections::BTreeMap;
use std::time::Duration;

use kferry_wire::admin::partitions::ActiveProducer;
use kferry_wire::batch::stamp::stamped;
use kferry_wire::batch::{Sequence, Sequences};
use kferry_wire::decisions::{Member, Place, Proxy, Serves, Wished};
use kferry_wire::log::first_batch::{ASK_AGAIN, Flipped, Producers, Verdict, judge};

use super::Mutation;
use super::cluster::Answer;
use super::group::Come;
use super::world::{Ask, CLUSTERS, Event, LATE, Ms, Reply, World, ms, topic};

/// How long a batch waits for those before it.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) rules: Proxy,
    pub(crate) me: Member,
    pub(crate) is_alive: bool,
    /// Whether it takes nothing new, and until when at the most it waits until all is answered, before it ends.
    pub(crate) leaves: Option<Ms>,
    pub(crate) boot: u32,
    /// The host that it runs on: another number for each.
    pub(crate) host: u64,
    pub(crate) paused: Ms,
    /// Until when it does not reach the log of decisions.
    pub(crate) cut: Ms,
    /// The file on its disk, and the one that it has taken.
    pub(crate) disk: usize,
    pub(crate) file: usize,
    /// What was read of clients and is not at a broker, with since when.
    waiting: Vec<(Ask, Ms)>,
    /// What is at a broker, unanswered, by a number: what, the cluster, and the term.
    pub(crate) sent: BTreeMap<u64, (Ask, usize, i32)>,
    /// What is known of the group that is held, what its members commit and waits, and what of that is at a coordinator, by a number: whose, and where.
    pub(crate) come: Come,
    pub(crate) held_commits: Vec<(usize, i64)>,
    pub(crate) commits: BTreeMap<u64, (usize, usize)>,
    /// Until when something may arrive that was unanswered when its connection broke.
    pub(crate) unanswered: Ms,
    /// By partition and term, what the old leader knows.
    old: BTreeMap<(usize, i32), Producers>,
    /// By partition and term, what the new leader knew, and when.
    new: BTreeMap<(usize, i32), (Ms, Producers)>,
    /// By client connection and cluster, when what was last sent arrives there.
    arrives: BTreeMap<(u64, usize), Ms>,
}

impl World {
    /// A process that starts on a host with a file.
    pub(crate) fn started(&mut self, index: usize, boot: u32, host: u64, disk: usize, file: usize) -> Process {
        let incarnation = if self.mutation == Some(Mutation::Incarnation) { 0 } else { boot };
        let me = Member { name: format!("p{index}"), incarnation: incarnation.to_string() };
        let place = Place { boot: host.to_string(), ..Place::default() };
        let mut rules = Proxy::new(me.clone(), place, None, self.settings);
        // Without incarnations its files go on where those of the one before ended.
        let takes = if self.mutation == Some(Mutation::Incarnation) { boot * 50 } else { 0 };
        (0..=takes).for_each(|_| take(&mut rules, self.files[file]));
        self.taken.insert(file);
        Process {
            rules,
            me,
            is_alive: true,
            leaves: None,
            boot,
            host,
            paused: 0,
            cut: 0,
            disk,
            file,
            waiting: Vec::new(),
            sent: BTreeMap::new(),
            come: Come::default(),
            held_commits: Vec::new(),
            commits: BTreeMap::new(),
            unanswered: 0,
            old: BTreeMap::new(),
            new: BTreeMap::new(),
            arrives: BTreeMap::new(),
        }
    }

    pub(crate) fn proxy_acts(&mut self, index: usize) {
        let next = self.now + self.rng.between(10, 80);
        self.at(next, Event::Proxy(index));
        if !self.proxies[index].is_alive {
            return;
        }
        let now = ms(self.now);
        if self.proxies[index].cut <= self.now {
            let most = self.reads();
            let (log, rules) = (&self.log, &mut self.proxies[index].rules);
            for (offset, request) in (0..).zip(log).skip(rules.state().end() as usize).take(most) {
                rules.apply(offset, request, now);
            }
        }
        if self.proxies[index].rules.serves() == Serves::Cut {
            self.note(|| format!("p{index} reads that it is gone"));
            return self.proxy_dies(index, true);
        }
        self.pump(index);
        self.commits_go_on(index);
        let known = self.known_of(index);
        let process = &mut self.proxies[index];
        let is_cut = process.cut > self.now;
        let is_open = known.open.is_some() || known.unanswered;
        let is_served = process.waiting.is_empty() && process.held_commits.is_empty() && !is_open;
        if process.leaves.is_some_and(|until| is_served || self.now >= until) {
            let left = process.rules.leave(is_open && self.mutation != Some(Mutation::LeftLate), now);
            self.known = known;
            if let Some(left) = left {
                self.append(left, is_cut);
            }
            return self.proxy_dies(index, false);
        }
        let request = process.rules.next(&known, now);
        self.known = known;
        if let Some(request) = request {
            if self.crashes() {
                return self.proxy_dies(index, false);
            }
            self.append(request, is_cut);
            if self.crashes() {
                self.proxy_dies(index, false);
            }
        }
    }

    pub(crate) fn proxy_reads(&mut self, index: usize, boot: u32, ask: Ask) {
        let process = &mut self.proxies[index];
        if process.boot != boot || !process.is_alive || process.leaves.is_some() {
            return self.client_loses(ask.client, index);
        }
        process.waiting.push((ask, self.now));
        self.pump(index);
        if self.crashes() {
            self.proxy_dies(index, false);
        }
    }

    /// Sends what may be sent.
    fn pump(&mut self, index: usize) {
        let serves = self.proxies[index].rules.serves();
        let may_serve = serves == Serves::Yes || (serves == Serves::NotYet && self.mutation == Some(Mutation::ReadAfterJoin));
        if !may_serve || self.proxies[index].waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.proxies[index].waiting);
        for (ask, since) in waiting {
            if !self.proxy_sends(index, &ask, since) {
                self.proxies[index].waiting.push((ask, since));
            }
        }
    }

    /// Whether it has sent or answered a batch.
    fn proxy_sends(&mut self, index: usize, ask: &Ask, since: Ms) -> bool {
        let process = &mut self.proxies[index];
        let Ask { partition, n, conn, client } = *ask;
        if process.rules.holds().is_some_and(|held| held.topics.contains_key(topic(partition))) {
            return false;
        }
        let (leader, term) = World::led(process.rules.state(), partition);
        let id = self.clients[client].producer_id(client);
        if id >= 0 && term > 1 {
            let known = |cluster: usize| {
                let active = |(producer_id, last_sequence)| ActiveProducer {
                    producer_id,
                    producer_epoch: 0,
                    last_sequence,
                    last_timestamp: 0,
                    coordinator_epoch: -1,
                    current_txn_start_offset: None,
                };
                let active: Vec<_> = self.clusters[cluster].logs[partition].producers().map(active).collect();
                active.iter().collect::<Producers>()
            };
            let new = process.new.entry((partition, term)).or_insert_with(|| (self.now, known(leader)));
            if ms(self.now - new.0) >= ASK_AGAIN {
                *new = (self.now, known(leader));
            }
            let old = process.old.entry((partition, term)).or_insert_with(|| match self.mutation {
                Some(Mutation::Strict) => Producers::default(),
                _ => known(1 - leader),
            });
            let first = Sequence { producer_id: id, producer_epoch: 0, base_sequence: n as i32 };
            let flipped = self.flipped[partition];
            let partition = Flipped { term, since: ms(self.now - flipped), new_leader: Some(&new.1), old_leader: Some(old) };
            match judge(&Sequences { first, last: n as i32 }, &partition, ms(self.now - since), PATIENCE) {
                Verdict::Pass => {}
                Verdict::IsThere => return self.reply(index, ask, Reply::Appended),
                Verdict::Wait { .. } => return false,
                Verdict::NotLeaderOrFollower(_) | Verdict::InvalidProducerEpoch => return self.reply(index, ask, Reply::NotLeader),
            }
            // Those behind a first batch wait for its answer.
            let is_first = !self.clusters[leader].logs[ask.partition].producers().any(|(other, _)| Some(other) == stamped(id, term));
            let process = &self.proxies[index];
            let is_under_way = |(other, ..): &(Ask, usize, i32)| (other.client, other.partition) == (client, ask.partition);
            if is_first && process.sent.values().any(is_under_way) {
                return false;
            }
        }
        let delay = self.delay(12);
        let process = &mut self.proxies[index];
        let arrives = process.arrives.entry((conn, leader)).or_default();
        *arrives = (*arrives).max(self.now + delay);
        let arrives = *arrives;
        self.numbers += 1;
        let number = self.numbers;
        let process = &mut self.proxies[index];
        process.sent.insert(number, (ask.clone(), leader, term));
        let boot = process.boot;
        let id = stamped(id, term).unwrap_or(-1);
        self.at(arrives, Event::Arrives { proxy: index, boot, number, cluster: leader, id, ask: ask.clone() });
        true
    }

    fn reply(&mut self, index: usize, ask: &Ask, reply: Reply) -> bool {
        let delay = self.rng.between(1, 8);
        let (Ask { client, partition, n, .. }, boot) = (ask.clone(), self.proxies[index].boot);
        self.at(self.now + delay, Event::Reply { proxy: index, boot, client, partition, n, reply });
        true
    }

    pub(crate) fn proxy_is_answered(&mut self, index: usize, boot: u32, number: u64, answer: Answer) {
        let process = &mut self.proxies[index];
        if process.boot != boot || !process.is_alive {
            return;
        }
        let Some((ask, _, term)) = process.sent.remove(&number) else { return };
        let reply = match answer {
            Answer::Appended | Answer::Duplicate => {
                let first = Sequence {
                    producer_id: self.clients[ask.client].producer_id(ask.client),
                    producer_epoch: 0,
                    base_sequence: ask.n as i32,
                };
                if let Some((_, new)) = process.new.get_mut(&(ask.partition, term)) {
                    new.appended(&Sequences { first, last: ask.n as i32 }, term);
                }
                Reply::Appended
            }
            Answer::OutOfOrder => Reply::OutOfOrder,
        };
        self.reply(index, &ask, reply);
        self.pump(index);
    }

    /// All connections to a cluster break; what is on its way may arrive or not, soon or late.
    pub(crate) fn proxy_loses(&mut self, index: usize, cluster: usize) {
        let process = &mut self.proxies[index];
        let mut broken: Vec<u64> = process.sent.iter().filter(|(_, (_, at, _))| *at == cluster).map(|(number, _)| *number).collect();
        broken.extend(self.commits_lost(index, Some(cluster)));
        if broken.is_empty() {
            return;
        }
        if self.mutation != Some(Mutation::ThirtySeconds) {
            self.proxies[index].unanswered = self.now + LATE;
        }
        for number in broken {
            if let Some((ask, ..)) = self.proxies[index].sent.remove(&number) {
                self.client_loses(ask.client, index);
            }
            self.arrives_late(number);
        }
    }

    fn arrives_late(&mut self, number: u64) {
        if self.rng.chance(500) {
            let mut until = self.now + self.rng.between(0, LATE * 95 / 100);
            if self.freezes && self.rng.chance(500) {
                until += LATE;
                self.frozen.insert(number);
            }
            self.late.insert(number, until);
        }
    }

    pub(crate) fn proxy_dies(&mut self, index: usize, is_cut: bool) {
        let process = &mut self.proxies[index];
        if !process.is_alive {
            return;
        }
        process.is_alive = false;
        process.waiting.clear();
        process.paused = 0;
        let (sent, me, boot, host, disk) =
            (std::mem::take(&mut process.sent), process.me.clone(), process.boot, process.host, process.disk);
        let lost = self.commits_lost(index, None);
        for number in sent.into_keys().chain(lost) {
            self.arrives_late(number);
        }
        self.dead.insert(me, self.now);
        let is_here = is_cut || self.mutation == Some(Mutation::Incarnation) || self.rng.chance(850);
        let host = if is_here { host } else { host + 100 };
        if !is_here {
            // An operator forgets those that are dead, when nothing of them can arrive any more.
            let dead = self.now + LATE + self.rng.between(0, 3_000);
            self.at(dead, Event::Forget);
        }
        let file = if self.rng.chance(250) && !is_cut { self.rng.below(disk + 1) } else { disk };
        let up = self.now + self.rng.between(50, 5_000);
        self.note(|| format!("p{index} ({boot}) is dead until {up}, then on host {host} with file {file}"));
        self.at(up, Event::ProxyStarts { proxy: index, boot: boot + 1, host, file });
        for client in 0..self.clients.len() {
            self.client_loses(client, index);
        }
    }
}

/// It takes a file that has the home of the route.
pub(crate) fn take(rules: &mut Proxy, home: usize) {
    let home = CLUSTERS[home].to_owned();
    rules.take(home.clone(), [("orders".to_owned(), Wished { home, owns: "t0, t1".to_owned() })].into());
}
