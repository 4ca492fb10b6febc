//! The text of a first routes.toml.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::ask::Found;
use super::section::{LEGACY, NEW, commented, quoted};
use crate::check::printable;

/// What clients connect to, and operators.
pub(super) struct Listener {
    pub(super) port: u16,
    /// And the port behind it.
    pub(super) admin_port: u16,
    pub(super) advertised_host: String,
    /// Certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
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
        // What a broker says is no line of its own.
        let told = [found.summary(), format!("Its brokers: {}", brokers.join(", "))].map(|line| printable(&line));
        let _ = write!(text, "\n# {}\n# {}\n{}", told[0], told[1], found.section.text());
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kferry_config::{Config, HostPort, Mode};
    use kferry_wire::cluster::Broker;
    use kferry_wire::versions::Release;

    use super::super::ports::Ports;
    use super::super::section::{Section, Setting};
    use super::*;

    fn found(name: &'static str, id: u8, settings: &[(&str, &str)], node_ids: &[i32]) -> Found {
        let settings = settings.iter().map(|(key, value)| Setting { key: (*key).to_owned(), value: (*value).to_owned() }).collect();
        let section = Section { name, id, bootstrap_servers: format!("{name}:9092"), settings, brokers: None };
        let broker = |node_id: &i32| Broker { node_id: *node_id, advertised: HostPort { host: format!("{name}-{node_id}"), port: 9092 } };
        let brokers = node_ids.iter().map(broker).collect();
        Found { section, tls: false, release: Release::AtLeast("4.4"), cluster_id: Some(name.to_owned()), brokers, topics: 7 }
    }

    fn listener() -> Listener {
        Listener { port: 9092, admin_port: 9190, advertised_host: "kafka.internal".to_owned(), identity: None }
    }

    fn parsed(text: &str) -> Config {
        Config::parse(text, Path::new("routes.toml")).unwrap_or_else(|invalid| panic!("{invalid}\n{text}"))
    }

    fn uncommented(text: &str) -> String {
        text.lines().flat_map(|line| [line.strip_prefix("#: ").unwrap_or(line), "\n"]).collect()
    }

    #[test]
    fn the_file_is_right_and_so_is_what_comes_next() {
        let plain = [("security_protocol", "PLAINTEXT")];
        let secure = [
            ("security_protocol", "SASL_SSL"),
            ("sasl_mechanism", "SCRAM-SHA-256"),
            ("sasl_username", "a \"user\"\u{7f}"),
            ("sasl_password_file", "secrets/new"),
        ];
        for (new, warnings) in [(&plain[..], 0), (&secure[..], 1)] {
            let (mut legacy, mut new) = (found(LEGACY, 1, &plain, &[1001, 1042]), found(NEW, 2, new, &[0, 1, 2]));
            let mut ports = Ports::new(|port| port != 9250);
            legacy.choose_ports(&mut ports);
            new.choose_ports(&mut ports);
            let text = file(&legacy, &new, &listener());
            let config = parsed(&text);
            // That no route leads to the new cluster yet.
            assert_eq!(config.warnings.len(), warnings, "{text}");
            let ranges: Vec<_> = config.clusters.iter().map(|cluster| cluster.brokers.clone().unwrap()).collect();
            assert_eq!((&ranges[0].node_ids, &ranges[0].ports), (&(1000..=1099), &(9251..=9350)), "42 leaves fewer than ten");
            assert_eq!((&ranges[1].node_ids, &ranges[1].ports), (&(0..=49), &(9200..=9249)));
            let on = parsed(&uncommented(&text));
            assert_eq!((on.mirrors.len(), on.routes.len()), (1, 2));
            let mode = if warnings == 0 { Mode::Bootstrap } else { Mode::Relay };
            assert_eq!((on.routes[0].mode, &*on.routes[0].cluster.name), (mode, NEW));
        }
    }

    #[test]
    fn node_ids_that_lie_far_apart_have_no_ports() {
        let (mut legacy, new) = (found(LEGACY, 1, &[], &[1, 40_001]), found(NEW, 2, &[], &[1]));
        legacy.choose_ports(&mut Ports::new(|_| true));
        let text = file(&legacy, &new, &listener());
        assert!(legacy.section.brokers.is_none() && text.contains("its node ids lie too far apart"), "{text}");
        parsed(&text);
    }

    #[test]
    fn what_a_broker_says_is_no_line_of_the_file() {
        let (mut legacy, mut new) = (found(LEGACY, 1, &[], &[1]), found(NEW, 2, &[], &[1]));
        legacy.cluster_id = Some("x\n[clusters.other]\nid = 3".to_owned());
        new.brokers[0].advertised.host = "y\n[clusters.another]".to_owned();
        let text = file(&legacy, &new, &listener());
        assert_eq!(parsed(&text).clusters.len(), 2, "{text}");
    }

    #[test]
    fn a_listener_with_tls_has_its_certificate() {
        let tls = [("security_protocol", "SSL")];
        let identity = Some((PathBuf::from("proxy.pem"), PathBuf::from("proxy.key")));
        let text = file(&found(LEGACY, 1, &tls, &[1]), &found(NEW, 2, &tls, &[1]), &Listener { identity, ..listener() });
        assert!(parsed(&text).listeners[0].tls.is_some(), "{text}");
    }
}
