//! What a process takes from its first table, and from no other one: the ports that it opens, and the cluster of the log of decisions.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use kferry_config::{BrokerRange, Listener};

use super::table::RoutingTable;

/// The ports that a table asks for, and its log of decisions.
#[derive(Debug)]
pub(super) struct Ports {
    listeners: Vec<Listener>,
    admin: SocketAddr,
    virtual_brokers: Vec<BrokerPorts>,
    /// The cluster that has the log of decisions.
    state: Option<Arc<str>>,
}

/// The ports of a cluster's virtual brokers.
#[derive(Debug, PartialEq, Eq)]
struct BrokerPorts {
    cluster: Arc<str>,
    range: BrokerRange,
}

impl BrokerPorts {
    /// Whether it is the same cluster, and each of its brokers has the same port, if there is one for it.
    fn is_as(&self, other: &Self) -> bool {
        let first = |brokers: &Self| i64::from(*brokers.range.ports.start()) - i64::from(*brokers.range.node_ids.start());
        self.cluster == other.cluster && first(self) == first(other)
    }

    /// Whether all these ports are among its own.
    fn has(&self, other: &Self) -> bool {
        let [mine, others] = [&self.range.ports, &other.range.ports];
        mine.start() <= others.start() && mine.end() >= others.end()
    }
}

impl fmt::Display for BrokerPorts {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, range } = self;
        write!(to, "the virtual brokers of cluster {cluster:?}, ports {} to {},", range.ports.start(), range.ports.end())
    }
}

impl Ports {
    /// Those of a table.
    pub(super) fn of(table: &RoutingTable) -> Self {
        let brokers_of = |(name, range): (&Arc<str>, &BrokerRange)| BrokerPorts { cluster: name.clone(), range: range.clone() };
        let ranges = table.relayed_clusters().filter_map(|cluster| Some((&cluster.name, cluster.brokers.as_ref()?)));
        Self {
            listeners: table.listeners().to_vec(),
            admin: table.admin().bind,
            virtual_brokers: ranges.map(brokers_of).collect(),
            state: table.state().map(|cluster| cluster.name.clone()),
        }
    }

    /// How the ports that are open, these, differ from those that the file asks for now: what only holds after a restart, a sentence each.
    pub(super) fn after_restart(&self, wished: &Self) -> Vec<String> {
        let mut sentences = Vec::new();
        let mut tell = |what: String| sentences.push(what);
        for now in &wished.listeners {
            match self.listeners.iter().find(|bound| bound.name == now.name) {
                None => tell(format!("listener {:?} is new, bind {} is not open", now.name, now.bind)),
                Some(bound) if bound.bind != now.bind => {
                    tell(format!("listener {:?} stays bound to {}, the file says {}", now.name, bound.bind, now.bind));
                }
                Some(_) if wished.virtual_brokers.is_empty() => {}
                Some(bound) if bound.broker_port_offset != now.broker_port_offset => {
                    let (before, wished) = (bound.broker_port_offset, now.broker_port_offset);
                    tell(format!("listener {:?} keeps its brokers' ports, broker_port_offset {before}, the file says {wished}", now.name));
                }
                Some(bound) => {
                    let told = |listener: &Listener| {
                        format!("{}, advertised_port_offset {}", listener.told_host(), listener.advertised_port_offset)
                    };
                    if told(bound) != told(now) {
                        tell(format!("relayed clients of listener {:?} are told {}, the file says {}", now.name, told(bound), told(now)));
                    }
                }
            }
        }
        for bound in &self.listeners {
            if !wished.listeners.iter().any(|now| now.name == bound.name) {
                tell(format!("listener {:?} is no longer in the file, {} stays open", bound.name, bound.bind));
            }
        }
        if wished.admin != self.admin {
            tell(format!("[admin] stays bound to {}, the file says {}", self.admin, wished.admin));
        }
        if wished.state != self.state {
            let [before, wished] = [&self.state, &wished.state].map(|state| state.as_deref().unwrap_or("none"));
            tell(format!("[state] stays as it was, cluster {before}, the file says {wished}"));
        }
        for now in &wished.virtual_brokers {
            // Where none are open the file is not taken.
            if self.open_for(now).is_some_and(|open| !open.has(now)) {
                tell(format!("not all of {now} are open"));
            }
        }
        sentences
    }

    /// What is open of the virtual brokers of a cluster, where each has the port that is wished.
    fn open_for(&self, wished: &BrokerPorts) -> Option<&BrokerPorts> {
        self.virtual_brokers.iter().find(|open| open.is_as(wished))
    }

    /// The virtual brokers that a file needs and that are not open, a sentence. With such a file clients would be told of ports at which nobody is.
    pub(super) fn not_open(&self, wished: &Self) -> Option<String> {
        let missing = wished.virtual_brokers.iter().filter(|wished| self.open_for(wished).is_none());
        let told: Vec<_> = missing.map(|brokers| format!("{brokers} are not open")).collect();
        (!told.is_empty()).then(|| {
            format!(
                "{}: this file needs a restart of kferry-proxy, before a kferry-mirror is started with it; to edit something else first, take back what \
                 needs them",
                told.join(", and ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_config::Config;

    use super::*;

    const FILE: &str = r#"
[clusters.new]
id = 1
bootstrap_servers = "new-1:9092"
node_ids = "1-50"
broker_ports = "9100-9149"

[[listeners]]
name = "internal"
bind = "127.0.0.1:9092"
advertised_host = "kafka.internal"

[[routes]]
name = "all"
client_id = "*"
cluster = "new"
mode = "relay"
"#;

    fn ports(text: &str) -> Ports {
        let config = Config::parse(text, Path::new("routes.toml")).unwrap();
        let brokers =
            |cluster: &Arc<kferry_config::Cluster>| Some(BrokerPorts { cluster: cluster.name.clone(), range: cluster.brokers.clone()? });
        let virtual_brokers = config.relayed_clusters().filter_map(brokers).collect();
        let state = config.state.map(|state| state.cluster.name.clone());
        Ports { listeners: config.listeners, admin: config.admin.bind, virtual_brokers, state }
    }

    #[test]
    fn the_log_of_decisions_changes_with_a_restart() {
        let wished = ports(&format!("{FILE}[state]\ncluster = \"new\"\n"));
        let sentence = "[state] stays as it was, cluster none, the file says new";
        assert_eq!(ports(FILE).after_restart(&wished), [sentence]);
        assert_eq!(wished.after_restart(&wished), Vec::<String>::new());
    }

    #[test]
    fn a_cluster_to_which_relayed_clients_came_never_before_needs_a_restart() {
        let more = r#"
[clusters.old]
id = 2
bootstrap_servers = "old-1:9092"
node_ids = "1-3"
broker_ports = "9201-9203"
"#;
        let mirror = "[[mirrors]]\nname = \"over\"\nsource = \"old\"\ntarget = \"new\"\ntopics = \"orders\"\n";
        let open = ports(FILE);
        assert_eq!(open.not_open(&ports(&format!("{FILE}{more}"))), None);
        let said = open.not_open(&ports(&format!("{FILE}{more}{mirror}"))).unwrap();
        assert!(
            said.starts_with("the virtual brokers of cluster \"old\", ports 9201 to 9203, are not open: this file needs a restart"),
            "{said}"
        );
        let moved = open.not_open(&ports(&FILE.replace("9100-9149", "9300-9349"))).unwrap();
        assert!(moved.contains("ports 9300 to 9349"), "{moved}");
        // Who has a port keeps it.
        let of = |node_ids: &str, broker_ports: &str| ports(&FILE.replace("1-50", node_ids).replace("9100-9149", broker_ports));
        let [fewer, more] = [of("1-30", "9100-9129"), of("1-60", "9100-9159")];
        assert_eq!((open.not_open(&fewer), open.after_restart(&fewer)), (None, Vec::new()));
        let sentence = "not all of the virtual brokers of cluster \"new\", ports 9100 to 9159, are open";
        assert_eq!((open.not_open(&more), open.after_restart(&more)), (None, vec![sentence.to_owned()]));
    }

    #[test]
    fn what_relayed_clients_are_told_holds_after_a_restart() {
        let open = ports(FILE);
        assert_eq!(open.after_restart(&ports(FILE)), Vec::<String>::new());
        for (line, sentence) in [
            ("broker_port_offset = 1000", "listener \"internal\" keeps its brokers' ports, broker_port_offset 0, the file says 1000"),
            (
                "advertised_port_offset = 21000",
                "relayed clients of listener \"internal\" are told kafka.internal, advertised_port_offset 0, the file says kafka.internal, \
                 advertised_port_offset 21000",
            ),
        ] {
            let wished = FILE.replace("advertised_host =", &format!("{line}\nadvertised_host ="));
            assert_eq!(open.after_restart(&ports(&wished)), [sentence]);
            // Nobody is told anything in bootstrap mode.
            let direct = |text: &str| text.replace("mode = \"relay\"\n", "");
            assert_eq!(ports(&direct(FILE)).after_restart(&ports(&direct(&wished))), Vec::<String>::new());
        }
    }
}
