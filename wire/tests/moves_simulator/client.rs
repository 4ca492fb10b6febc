//! Clients: idempotent and plain producers that have up to five batches under way, change their connection when they like, and send again anywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::PARTITIONS;
use super::world::{Ask, Event, Ms, Reply, World};

/// After so many ms without an answer a client connects to another proxy and sends again.
const TIMEOUT: Ms = 1_500;

#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) is_idempotent: bool,
    /// How many batches it sends to each partition.
    pub(crate) total: u32,
    pub(crate) next: [u32; PARTITIONS],
    pub(crate) acked: [BTreeSet<u32>; PARTITIONS],
    /// What is unanswered, with when it was last sent.
    pub(crate) open: [BTreeMap<u32, Ms>; PARTITIONS],
    /// Whether all that is unanswered is to be sent again.
    pub(crate) again: [bool; PARTITIONS],
    pub(crate) proxy: usize,
    /// The connection: another number for each.
    pub(crate) conn: u64,
    /// When what was last sent on the connection arrives: what is sent later comes later.
    pub(crate) arrives: Ms,
}

impl Client {
    pub(crate) fn is_done(&self) -> bool {
        self.acked.iter().all(|acked| acked.len() == self.total as usize)
    }

    /// The producer id that it has from cluster 1.
    pub(crate) fn producer_id(&self, index: usize) -> i64 {
        if self.is_idempotent { 1 << 40 | (index as i64 + 100) } else { -1 }
    }
}

impl World {
    pub(crate) fn client_acts(&mut self, index: usize) {
        if self.clients[index].is_done() {
            return;
        }
        let next = self.now + self.rng.between(20, 160);
        self.at(next, Event::Client(index));
        let client = &mut self.clients[index];
        if client.open.iter().flat_map(BTreeMap::values).any(|sent| sent + TIMEOUT < self.now) || !self.proxies[client.proxy].is_alive {
            client.again = [true; PARTITIONS];
            self.connect(index);
        } else if self.rng.chance(20) {
            // Another connection, by new metadata: what is under way on the old one stays there.
            self.connect(index);
        }
        for partition in 0..PARTITIONS {
            let client = &mut self.clients[index];
            if std::mem::take(&mut client.again[partition]) {
                let open: Vec<_> = client.open[partition].keys().copied().collect();
                for n in open {
                    self.send(index, partition, n);
                }
            }
            let client = &mut self.clients[index];
            // As on one cluster: only the very first batch must not be overtaken, because a broker takes any first sequence.
            let most = if client.acked[partition].is_empty() { 1 } else { 5 };
            let n = client.next[partition];
            if client.open[partition].len() < most && n < client.total && self.rng.chance(700) && !self.is_behind(index, partition) {
                self.clients[index].next[partition] += 1;
                self.send(index, partition, n);
            }
        }
    }

    /// Whether five batches have been sent since the oldest one that is unanswered: a broker would not know it any more.
    fn is_behind(&self, index: usize, partition: usize) -> bool {
        let client = &self.clients[index];
        client.open[partition].keys().next().is_some_and(|oldest| client.next[partition] >= oldest + 5)
    }

    fn connect(&mut self, index: usize) {
        let proxy = self.rng.below(self.proxies.len());
        self.conns += 1;
        let client = &mut self.clients[index];
        (client.proxy, client.conn, client.arrives) = (proxy, self.conns, self.now);
    }

    fn send(&mut self, index: usize, partition: usize, n: u32) {
        let delay = if self.rng.chance(15) { self.rng.between(10, 1_500) } else { self.rng.between(1, 8) };
        let client = &mut self.clients[index];
        client.open[partition].insert(n, self.now);
        client.arrives = client.arrives.max(self.now + delay);
        let (proxy, boot) = (client.proxy, self.proxies[client.proxy].boot);
        let ask = Ask { client: index, partition, n, conn: client.conn };
        let arrives = client.arrives;
        self.at(arrives, Event::Ask { proxy, boot, ask });
    }

    pub(crate) fn client_hears(&mut self, index: usize, partition: usize, n: u32, reply: Reply) {
        let client = &mut self.clients[index];
        if !client.open[partition].contains_key(&n) {
            return;
        }
        let is_passed = client.acked[partition].last().is_some_and(|last| *last > n);
        match reply {
            // librdkafka takes a batch before one that is acknowledged for one that is there.
            Reply::OutOfOrder if !is_passed => client.again[partition] = true,
            Reply::Appended | Reply::OutOfOrder => {
                client.open[partition].remove(&n);
                client.acked[partition].insert(n);
            }
            Reply::NotLeader => client.again[partition] = true,
        }
    }

    pub(crate) fn client_loses(&mut self, index: usize, proxy: usize) {
        if self.clients[index].proxy == proxy {
            self.clients[index].again = [true; PARTITIONS];
            self.connect(index);
        }
    }
}
