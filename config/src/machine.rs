//! What a file asks of the machine that it is for: open files, and ports that nobody else is given.

use std::fs;
use std::ops::RangeInclusive;
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
            routes.any(|route| {
                route.credentials.contains_key(&cluster.name)
                    || self.view(route, &route.cluster).iter().any(|seen| seen.name == cluster.name)
            })
        };
        self.clusters.iter().filter(move |cluster| relayed(cluster))
    }

    /// The ports that the file has kferry's programs listen on, each range with the part of the file that asks for it.
    pub fn ports(&self) -> Vec<(String, RangeInclusive<u16>)> {
        let mut ports = Vec::new();
        for listener in &self.listeners {
            let (name, port) = (&listener.name, listener.bind.port());
            ports.push((format!("bind of listener {name:?}"), port..=port));
            for cluster in self.relayed_clusters() {
                let Some(brokers) = &cluster.brokers else { continue };
                let (first, last) =
                    (brokers.ports.start() + listener.broker_port_offset, brokers.ports.end() + listener.broker_port_offset);
                let offset = if listener.broker_port_offset == 0 { "" } else { " with broker_port_offset" };
                ports.push((format!("broker_ports of cluster {:?} on listener {name:?}{offset}", cluster.name), first..=last));
            }
        }
        if !self.listeners.is_empty() {
            ports.push(("[admin] bind".to_owned(), self.admin.bind.port()..=self.admin.bind.port()));
        }
        if !self.mirrors.is_empty() {
            ports.push(("[admin] mirror_bind".to_owned(), self.admin.mirror_bind.port()..=self.admin.mirror_bind.port()));
        }
        ports
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

/// The ports that a machine gives to outgoing connections. One of them that a program wants to listen on may be taken whenever it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralPorts {
    range: RangeInclusive<u16>,
    /// Those within that are given to nobody.
    reserved: Vec<RangeInclusive<u16>>,
}

impl EphemeralPorts {
    /// Those of the machine that this runs on; `None` where it doesn't say.
    pub fn of_this_machine() -> Option<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
        Self::parse(&read("ip_local_port_range")?, &read("ip_local_reserved_ports").unwrap_or_default())
    }

    /// `range`: two numbers, as in Linux's `ip_local_port_range`. `reserved`: numbers and ranges with commas, as in `ip_local_reserved_ports`.
    fn parse(range: &str, reserved: &str) -> Option<Self> {
        let (first, last) = range.trim().split_once(char::is_whitespace)?;
        let reserved = reserved.split(',').filter_map(|ports| {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        });
        Some(Self { range: first.trim().parse().ok()?..=last.trim().parse().ok()?, reserved: reserved.collect() })
    }

    /// The first and the last of these ports that an outgoing connection may be given, if there are any.
    pub fn among(&self, ports: &RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
        let given = |port: &u16| self.range.contains(port) && !self.reserved.iter().any(|reserved| reserved.contains(port));
        let mut given = ports.clone().filter(given);
        let first = given.next()?;
        Some(first..=given.next_back().unwrap_or(first))
    }

    /// What can be done about it, after "it lies in ".
    pub fn way_out(&self) -> String {
        let (first, last) = (self.range.start(), self.range.end());
        format!(
            "{first}-{last} (net.ipv4.ip_local_port_range): write a port outside of that, or reserve it with net.ipv4.ip_local_reserved_ports"
        )
    }
}

/// Who may have a port that is in use, and what to do.
pub fn who_may_have(port: u16, ephemeral: Option<&EphemeralPorts>) -> String {
    match ephemeral.filter(|ephemeral| ephemeral.among(&(port..=port)).is_some()) {
        None => format!("another program listens there; ss -ltnp 'sport = :{port}' names it"),
        Some(ephemeral) => format!(
            "another program listens there, or an outgoing connection was given the port by chance (ss -tanp 'sport = :{port}' names it), since it \
             lies in {}",
            ephemeral.way_out()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_reserved_are_given_to_nobody() {
        let ephemeral = EphemeralPorts::parse("32768\t60999\n", "40000-40009,40020\n").unwrap();
        for (ports, given) in [
            (9100..=9149, None),
            (32_700..=32_800, Some(32_768..=32_800)),
            (40_000..=40_009, None),
            (40_005..=40_020, Some(40_010..=40_019)),
            (40_020..=40_020, None),
            (60_999..=61_100, Some(60_999..=60_999)),
        ] {
            assert_eq!(ephemeral.among(&ports), given, "{ports:?}");
        }
        assert_eq!(EphemeralPorts::parse("32768 60999\n", "\n").unwrap().reserved, []);
        assert_eq!(EphemeralPorts::parse("", ""), None);
        assert!(who_may_have(9092, Some(&ephemeral)).starts_with("another program listens there; ss "));
        assert!(
            who_may_have(40_010, Some(&ephemeral)).contains("lies in 32768-60999 (net.ipv4.ip_local_port_range): write a port outside")
        );
    }

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
