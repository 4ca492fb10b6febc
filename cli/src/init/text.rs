//! The text of a first routes.toml.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kferry_config::BrokerRange;

use super::ask::Found;

/// The cluster where the clients are.
pub(super) const LEGACY: &str = "legacy";
/// The cluster where they are to go.
pub(super) const NEW: &str = "new";

/// A key of `[clusters.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
}

/// A cluster as the file has it.
#[derive(Clone)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) id: u8,
    pub(super) bootstrap_servers: String,
    /// How kferry connects.
    pub(super) settings: Vec<Setting>,
    pub(super) brokers: Option<BrokerRange>,
}

/// What clients connect to, and operators.
pub(super) struct Listener {
    pub(super) port: u16,
    /// And the port behind it.
    pub(super) admin_port: u16,
    pub(super) advertised_host: String,
    /// Certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Setting {
    /// `KEY=VALUE`
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as sasl_username=kferry")?;
        match key.trim() {
            key @ ("id" | "bootstrap_servers" | "node_ids" | "broker_ports") => {
                Err(format!("{key} is not set so: it is found out, or given by itself"))
            }
            "sasl_password" => {
                Err("a password on the command line can be seen by everybody; write sasl_password_file=FILE, or sasl_password_env=NAME"
                    .to_owned())
            }
            key if !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                Ok(Self { key: key.to_owned(), value: value.trim().to_owned() })
            }
            _ => Err("KEY is one of [clusters.NAME] in docs/routes.md, such as sasl_username".to_owned()),
        }
    }

    /// The same, with a path that is right in the file.
    pub(super) fn with_path(mut self, in_file: &impl Fn(&Path) -> PathBuf) -> Self {
        if self.key.ends_with("_location") || self.key.ends_with("_file") {
            self.value = in_file(Path::new(&self.value)).display().to_string();
        }
        self
    }
}

impl Section {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str())
    }

    pub(super) fn insert_first(&mut self, key: &str, value: &str) {
        self.settings.insert(0, Setting { key: key.to_owned(), value: value.to_owned() });
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("[clusters.{}]", self.name),
            commented(&format!("id = {}", self.id), "never changes, and no other cluster has it"),
            commented(&format!("bootstrap_servers = {}", quoted(&self.bootstrap_servers)), "several with commas"),
        ];
        lines.extend(self.settings.iter().map(|Setting { key, value }| format!("{key} = {}", quoted(value))));
        if let Some(BrokerRange { node_ids, ports }) = &self.brokers {
            let node_ids = format!("node_ids = \"{}-{}\"", node_ids.start(), node_ids.end());
            let ports = format!("broker_ports = \"{}-{}\"", ports.start(), ports.end());
            lines.push(commented(&node_ids, "relay mode: the brokers that may exist, with room for more,"));
            lines.push(commented(&ports, "and a port of the proxy for each; where they begin never changes"));
        }
        lines.join("\n") + "\n"
    }
}

/// A line with a comment, below the one before.
fn commented(line: &str, comment: &str) -> String {
    format!("{line:40} # {comment}")
}

/// As TOML writes a string. JSON's escapes are TOML's too, and TOML has one more.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string can be written").replace('\u{7f}', "\\u007f")
}

/// A file that has this cluster and nothing else that matters.
pub(super) fn one_cluster(section: &Section) -> String {
    format!(
        "{}[[listeners]]\nname = \"clients\"\nbind = \"127.0.0.1:9092\"\n[[routes]]\nname = \"all\"\nclient_id = \"*\"\ncluster = \"{}\"\n",
        section.text(),
        section.name
    )
}

/// The file.
pub(super) fn file(legacy: &Found, new: &Found, listener: &Listener) -> String {
    let mut text = String::from(
        "# Which client lands on which Kafka cluster, and what is copied between them. Made by `kferry init`; from here on it is yours.\n\
         # All keys: docs/routes.md. An edit counts while the proxy runs; `kferry check --connect` says before what it would do.\n\
         # Lines that begin with \"#:\" are what comes next.\n",
    );
    for found in [legacy, new] {
        let brokers: Vec<_> = found.brokers.iter().map(|broker| broker.advertised.to_string()).collect();
        let _ = write!(text, "\n# {}\n# Its brokers: {}\n{}", found.summary(), brokers.join(", "), found.section.text());
        if found.section.brokers.is_none() {
            text.push_str(
                "# No node_ids and broker_ports: its node ids lie too far apart for a port each, or there are not so many free ports. Relay mode\n\
                 # needs them.\n",
            );
        }
    }
    text.push_str(&listeners(listener));
    text.push_str(&routes(legacy, new));
    let _ = write!(
        text,
        r#"
# What kferry-mirror copies, each record at the same offset, and the offsets of consumer groups. `kferry plan` says before what it would do.
#: [[mirrors]]
#: name = "{LEGACY}-to-{NEW}"
#: source = "{LEGACY}"
#: target = "{NEW}"
#: topics = ["orders"]
#: groups_regex = [".*"]
"#
    );
    text
}

fn listeners(listener: &Listener) -> String {
    let Listener { port, admin_port, advertised_host, identity } = listener;
    let mut text = String::from("\n# What clients have as bootstrap.servers.\n[[listeners]]\nname = \"clients\"\n");
    let _ = writeln!(text, "bind = \"0.0.0.0:{port}\"");
    let host = format!("advertised_host = {}", quoted(advertised_host));
    let _ = writeln!(text, "{}", commented(&host, "relay mode: under which name clients reach this machine"));
    if let Some((certificate, key)) = identity {
        let [certificate, key] = [certificate, key].map(|path| quoted(&path.display().to_string()));
        let _ = write!(text, "security_protocol = \"SSL\"\nssl_certificate_location = {certificate}\nssl_key_location = {key}\n");
    }
    let _ = write!(
        text,
        "\n# /metrics, /healthz, /readyz, /clients: for operators, without a login. mirror_bind is kferry-mirror's.\n[admin]\nbind = \
         \"127.0.0.1:{admin_port}\"\nmirror_bind = \"127.0.0.1:{}\"\n",
        admin_port + 1
    );
    text
}

fn routes(legacy: &Found, new: &Found) -> String {
    let security = |found: &Found| found.section.get("security_protocol").unwrap_or("PLAINTEXT").to_owned();
    let (old, next) = (security(legacy), security(new));
    // In bootstrap mode a client goes on to the brokers with the settings that it has.
    let route = if old == next {
        "[[routes]]\nname = \"trial\"\nclient_id = \"kferry-trial*\"              # nobody's: to see with a tool of Kafka's that the new cluster can be reached\n\
         cluster = \"new\"\n"
            .to_owned()
    } else {
        let mut route = format!(
            "# The new cluster wants {next}, clients have {old}: they keep that in relay mode only, where the proxy stays in their path.\n\
             #: [[routes]]\n#: name = \"orders\"\n#: client_id = \"orders-*\"\n#: cluster = \"new\"\n#: mode = \"relay\"\n"
        );
        if next.starts_with("SASL") && !old.starts_with("SASL") {
            let mechanism = new.section.get("sasl_mechanism").unwrap_or("SCRAM-SHA-512");
            let _ = write!(
                route,
                "#: client_address = \"10.1.0.0/16\"        # a client.id can be claimed by anybody\n\
                 #: [routes.credentials.{NEW}]              # as whom the proxy logs in for them\n\
                 #: sasl_mechanism = \"{mechanism}\"\n#: sasl_username = \"orders\"\n#: sasl_password_file = \"secrets/orders\"\n"
            );
        }
        route
    };
    format!(
        "\n# The first route that matches wins. So what moves comes first, one route for each application:\n{route}\n[[routes]]\nname = \
         \"everybody-else\"\nclient_id = \"*\"                          # also clients without a client.id\ncluster = \"{LEGACY}\"\n"
    )
}
