//! What a file asks of the machine that the proxy runs on. Functions of what the machine says: whoever calls them asks it.

use std::sync::Arc;

use crate::types::Config;
use crate::types::cluster::Cluster;
use crate::types::proxy::Mode;

/// File descriptors that a proxy has whatever its file says: standard input, output and error, and those of the runtime, its timers and signals.
const ALWAYS: usize = 16;

/// Descriptors of a client's connection: its socket, and the one to its broker.
const OF_A_CLIENT: usize = 2;

/// Descriptors of a pipe: its two ends.
const OF_A_PIPE: usize = 2;

/// How the proxy shares out the files that its process may have open. Clients get what is left, so that however many come, operators are answered, and a
/// file can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit of the process (`ulimit -n`).
    pub limit: usize,
    /// Clients that may be connected, each with the connection to its broker.
    pub clients: usize,
    /// Pipes through which large bodies are spliced.
    pub pipes: usize,
    /// Connections to bootstrap servers that are made while a slower one has not answered yet, for all clients together.
    pub overtaking: usize,
    /// Connections to the admin address.
    pub operators: usize,
}

impl OpenFiles {
    /// Shares out the files of a process that may have `limit` of them open, and whose own sockets ([`Config::own_sockets`]) are so many.
    pub fn share(limit: u64, own_sockets: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let spare = limit.saturating_sub(ALWAYS + own_sockets);
        let part = spare / 16;
        // 64 pipes are what an ordinary user gets of the kernel.
        let (pipes, overtaking, operators) = (part.min(64), part, part.clamp(4, 32));
        // Certificates and passwords that are read, names that are looked up, a client that is turned away.
        let passing = part.clamp(8, 64);
        let clients = spare.saturating_sub(pipes * OF_A_PIPE + overtaking + operators + passing) / OF_A_CLIENT;
        Self { limit, clients, pipes, overtaking, operators }
    }
}

impl Config {
    /// The clusters that relayed clients may come to, in the order of the file.
    pub fn relayed_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let relayed = |cluster: &Cluster| {
            let mut routes = self.routes.iter().filter(|route| route.mode == Mode::Relay);
            routes.any(|route| route.cluster.name == cluster.name || route.credentials.contains_key(&cluster.name))
        };
        self.clusters.iter().filter(move |cluster| relayed(cluster))
    }

    /// Sockets of the proxy itself: the ports that it listens on, and of each cluster of relayed clients two connections, one to ask for its brokers and
    /// one to ask for its topics.
    pub fn own_sockets(&self) -> usize {
        let brokers = |cluster: &Arc<Cluster>| cluster.brokers.as_ref().map_or(0, |brokers| brokers.ports.clone().count());
        let (clusters, brokers) = self.relayed_clusters().map(brokers).fold((0, 0), |(n, sum), brokers| (n + 1, sum + brokers));
        let admin = 1;
        self.listeners.len() * (1 + brokers) + admin + 2 * clusters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_is_left_and_nobody_gets_more_than_there_is() {
        for limit in (0..2000).chain([4096, 20_000, 65_536, 1 << 20, u64::from(u32::MAX)]) {
            for own_sockets in [2, 9, 50] {
                let OpenFiles { limit, clients, pipes, overtaking, operators } = OpenFiles::share(limit, own_sockets);
                let used = ALWAYS + own_sockets + OF_A_CLIENT * clients + OF_A_PIPE * pipes + overtaking + operators;
                assert!(clients == 0 || used + 8 <= limit, "{limit} {own_sockets}: {used} and what is read");
            }
        }
        assert_eq!(OpenFiles::share(u64::MAX, 9).pipes, 64);
        let told = [64, 1024, 4096, 65_536].map(|limit| OpenFiles::share(limit, 6).clients);
        assert_eq!(told, [12, 361, 1798, 30_598]);
    }
}
