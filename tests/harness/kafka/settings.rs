//! What the brokers' and ZooKeeper's property files say. Every line that isn't about an address is there because the default is made for
//! a data centre: replication 3, 50 partitions, 18 s until a dead broker is noticed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::{ADMIN, Cluster, Listener, Node, USERS};
use crate::pki;

/// How long the cluster waits for a silent broker before it elects other leaders.
const SESSION_TIMEOUT_MS: u32 = 4_000;
/// The same with ZooKeeper. A broker that begins and hears nothing for two thirds of it ends: on a busy machine that took 2.7 s.
const ZOOKEEPER_SESSION_TIMEOUT_MS: u32 = 2 * SESSION_TIMEOUT_MS;

/// `server.properties` of one node.
pub(super) fn server_properties(cluster: &Cluster, node: &Node) -> Result<String> {
    let spec = &cluster.spec;
    let replication = spec.brokers.min(3).to_string();
    let mut lines = Lines(BTreeMap::new());

    let listeners: Vec<_> =
        node.ports().iter().map(|(listener, port)| format!("{}://127.0.0.1:{port}", listener.security_protocol())).collect();
    lines.set("advertised.listeners", listeners.join(","));
    let controller = node.controller_port.map(|port| format!("CONTROLLER://127.0.0.1:{port}"));
    lines.set("listeners", listeners.into_iter().chain(controller).collect::<Vec<_>>().join(","));
    lines.set("inter.broker.listener.name", Listener::Plaintext.security_protocol());
    let protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT";
    lines.set("listener.security.protocol.map", protocols);

    if let Some(zookeeper) = &cluster.zookeeper {
        lines.set("broker.id", node.id);
        // Ids above 1000 are for this feature otherwise.
        lines.set("broker.id.generation.enable", false);
        lines.set("zookeeper.connect", format!("127.0.0.1:{}", zookeeper.port));
        lines.set("zookeeper.session.timeout.ms", ZOOKEEPER_SESSION_TIMEOUT_MS);
    } else {
        lines.set("node.id", node.id);
        lines.set("process.roles", if node.controller_port.is_some() { "broker,controller" } else { "broker" });
        lines.set("controller.listener.names", "CONTROLLER");
        let voters = cluster.nodes.iter().filter_map(|node| Some(format!("{}@127.0.0.1:{}", node.id, node.controller_port?)));
        lines.set("controller.quorum.voters", voters.collect::<Vec<_>>().join(","));
        // Voters that start together wait once or twice this time before the first of them stands for election.
        lines.set("controller.quorum.election.timeout.ms", 500);
        lines.set("broker.session.timeout.ms", SESSION_TIMEOUT_MS);
        lines.set("broker.heartbeat.interval.ms", SESSION_TIMEOUT_MS / 8);
    }

    lines.set("log.dirs", cluster.folder.join(format!("{}.data", node.id)).display());
    lines.set("default.replication.factor", &replication);
    lines.set("offsets.topic.replication.factor", &replication);
    lines.set("offsets.topic.num.partitions", 5);
    lines.set("transaction.state.log.replication.factor", &replication);
    lines.set("transaction.state.log.min.isr", 1);
    lines.set("transaction.state.log.num.partitions", 5);
    if spec.is_at_least(4, 1) {
        lines.set("share.coordinator.state.topic.replication.factor", &replication);
        lines.set("share.coordinator.state.topic.min.isr", 1);
        lines.set("share.coordinator.state.topic.num.partitions", 5);
    }
    lines.set("auto.create.topics.enable", false);
    lines.set("group.initial.rebalance.delay.ms", 0);
    // The default is 128 MiB: half of the heap.
    lines.set("log.cleaner.dedupe.buffer.size", 8 << 20);

    if spec.listeners.iter().any(|listener| listener.has_tls()) {
        tls(&mut lines)?;
    }
    if spec.has_login() {
        login(&mut lines, spec.listeners.iter().copied());
    }
    if spec.acls {
        let kraft = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
        let zookeeper = "kafka.security.authorizer.AclAuthorizer";
        lines.set("authorizer.class.name", if spec.has_zookeeper() { zookeeper } else { kraft });
        lines.set("super.users", format!("User:ANONYMOUS;User:{}", ADMIN.name));
    }

    for (key, value) in &spec.settings {
        lines.set(key, value);
    }
    Ok(lines.text())
}

fn tls(lines: &mut Lines) -> Result<()> {
    let authority = pki::authority()?;
    let server = authority.server(&[])?;
    // KIP-651, from Kafka 2.7 on. Not as `ssl.keystore.location`: in a file 2.8 takes only a key with a password.
    lines.set("ssl.keystore.type", "PEM");
    lines.set("ssl.keystore.key", server.key_pem);
    lines.set("ssl.keystore.certificate.chain", server.certificate_pem);
    lines.set("ssl.truststore.type", "PEM");
    lines.set("ssl.truststore.location", authority.ca_path.display());
    lines.set("listener.name.ssl.ssl.client.auth", "required");
    // A certificate's principal is otherwise its whole distinguished name, and no ACL could be for a user of both kinds of listener.
    lines.set("ssl.principal.mapping.rules", "RULE:^CN=([^,]+).*$/$1/,DEFAULT");
    Ok(())
}

fn login(lines: &mut Lines, listeners: impl Iterator<Item = Listener>) {
    lines.set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512");
    let mut plain = "org.apache.kafka.common.security.plain.PlainLoginModule required".to_owned();
    for user in USERS {
        let _ = write!(plain, " user_{}=\"{}\"", user.name, user.password);
    }
    for listener in listeners.filter(|listener| listener.has_login()) {
        let listener = listener.security_protocol().to_lowercase();
        lines.set(&format!("listener.name.{listener}.plain.sasl.jaas.config"), format!("{plain};"));
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
            lines.set(&format!("listener.name.{listener}.{mechanism}.sasl.jaas.config"), scram);
        }
    }
}

/// ZooKeeper's configuration: one server, for brokers on this machine.
pub(super) fn zookeeper_properties(data: &Path, port: u16) -> String {
    let mut lines = Lines(BTreeMap::new());
    lines.set("dataDir", data.display());
    lines.set("clientPort", port);
    lines.set("clientPortAddress", "127.0.0.1");
    // Sessions of at least two ticks.
    lines.set("tickTime", SESSION_TIMEOUT_MS / 4);
    lines.set("admin.enableServer", false);
    lines.set("maxClientCnxns", 0);
    lines.text()
}

struct Lines(BTreeMap<String, String>);

impl Lines {
    #[expect(clippy::needless_pass_by_value, reason = "the lines above read better without `&` before each number")]
    fn set(&mut self, key: &str, value: impl ToString) {
        self.0.insert(key.to_owned(), value.to_string());
    }

    fn text(&self) -> String {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('\n', "\\n");
        self.0.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect::<Vec<_>>().join("\n")
    }
}
