//! Real, unmodified clients through kferry-proxy: each lists topics, produces, and consumes in a group of two, on each cluster.

use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use harness::clients::{self, Client, Job, Outcome, Security};
use harness::kafka::{ADMIN, ALICE, Cluster, Listener};
use harness::pki;
use harness::proxy::{Proxy, Routes};

/// A column of the matrix: the cluster's name in the file, its Kafka, and how clients come.
#[derive(Debug, Clone, Copy)]
struct Way {
    cluster: &'static str,
    version: &'static str,
    /// How the cluster is reached.
    listener: Listener,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bootstrap,
    Relay,
    /// Relay, with credentials: clients come in plaintext and without a login, the proxy logs in for them.
    LogIn,
}

const WAYS: [Way; 8] = [
    Way { cluster: "zookeeper", version: "2.8.2", listener: Listener::Plaintext, mode: Mode::Bootstrap },
    Way { cluster: "legacy", version: "3.9.1", listener: Listener::Plaintext, mode: Mode::Bootstrap },
    Way { cluster: "new", version: "4.3.0", listener: Listener::Plaintext, mode: Mode::Bootstrap },
    Way { cluster: "secure", version: "4.3.0", listener: Listener::SaslSsl, mode: Mode::Bootstrap },
    Way { cluster: "zookeeper", version: "2.8.2", listener: Listener::Plaintext, mode: Mode::Relay },
    Way { cluster: "new", version: "4.3.0", listener: Listener::Plaintext, mode: Mode::Relay },
    Way { cluster: "secure", version: "4.3.0", listener: Listener::SaslSsl, mode: Mode::Relay },
    Way { cluster: "secure", version: "4.3.0", listener: Listener::SaslSsl, mode: Mode::LogIn },
];

#[test]
fn every_client_works_on_every_cluster() -> Result<()> {
    let builders = vec![
        Cluster::version("2.8.2").name("zookeeper"),
        Cluster::version("3.9.1").name("legacy").first_node_id(1001),
        // Both `new` and `secure` are this one, by two doors.
        Cluster::version("4.3.0").name("new").listen(Listener::SaslSsl),
    ];
    let [zookeeper, legacy, new] = Cluster::start_all(builders)?.try_into().map_err(|_| anyhow!("as many clusters as were asked for"))?;
    let mut routes = Routes::new()?.tls_listener(&pki::authority()?.server(&[])?)?;
    for (way, cluster) in WAYS.iter().zip([&zookeeper, &legacy, &new, &new]) {
        let kferry = (way.listener == Listener::SaslSsl).then_some(ADMIN);
        routes = routes.kafka(way.cluster, cluster, way.listener, kferry)?;
    }
    for way in WAYS {
        routes = way.route(routes);
    }
    let proxy = Proxy::start(&routes)?;

    let mut matrix = Table::new();
    matrix.load_style(ASCII_MARKDOWN);
    matrix.set_header(["client".to_owned()].into_iter().chain(WAYS.map(Way::heading)));
    for client in Client::ALL {
        clients::prepare(client)?;
        for way in WAYS {
            let cluster = [&zookeeper, &legacy, &new].into_iter().find(|cluster| cluster.kafka_version() == way.version);
            cluster.context("a cluster for each way")?.create_topic(&way.topic(client), 4, &[])?;
        }

        let outcomes = thread::scope(|scope| {
            let proxy = &proxy;
            let running = WAYS.map(|way| scope.spawn(move || way.run(client, proxy)));
            running.map(|running| running.join().map_err(|_| anyhow!("panicked")).and_then(|outcome| outcome))
        });
        let mut row = vec![client.name().to_owned()];
        for (way, outcome) in WAYS.iter().zip(outcomes) {
            let outcome = outcome.with_context(|| format!("{}: {}", client.name(), way.heading()))?;
            row[0] = format!("{} {}", client.name(), outcome.version);
            row.push(format!("{:.1} s", outcome.seconds));
        }
        matrix.add_row(row);

        // Where the file says, and as often as was produced: a record on the wrong cluster would be missing here.
        let count = Job::new("", "", "").count as usize;
        for way in WAYS {
            let cluster = [&zookeeper, &legacy, &new].into_iter().find(|cluster| cluster.kafka_version() == way.version);
            let found = cluster.context("a cluster for each way")?.record_count(&way.topic(client))?;
            ensure!(found == count, "{}: {}: {found} records on the cluster", client.name(), way.heading());
        }
    }
    println!("{matrix}");

    // A client that says what it is, is known by it (KIP-511).
    let known = proxy.clients()?;
    for (client, software) in [(Client::Java4, "apache-kafka-java"), (Client::Rdkafka, "librdkafka"), (Client::FranzGo, "kgo")] {
        let id = format!("legacy-bootstrap-{}", client.name());
        let row = known.iter().find(|row| row["client_id"] == id.as_str()).with_context(|| format!("{id} is not in {known:?}"))?;
        assert_eq!(
            (row["software_name"].as_str(), row["route"].as_str(), row["cluster"].as_str()),
            (Some(software), Some("legacy-bootstrap"), Some("legacy"))
        );
    }
    Ok(())
}

impl Way {
    fn heading(self) -> String {
        let mode = match self.mode {
            Mode::Bootstrap => "bootstrap",
            Mode::Relay => "relay",
            Mode::LogIn => "relay, logged in",
        };
        format!("{} {}, {mode}", self.version, self.listener.security_protocol())
    }

    /// Of the route, and what its clients' ids begin with.
    fn name(self) -> String {
        format!("{}-{:?}", self.cluster, self.mode).to_lowercase()
    }

    fn topic(self, client: Client) -> String {
        format!("{}-{}", client.name(), self.name())
    }

    fn route(self, routes: Routes) -> Routes {
        let (name, clients, cluster) = (self.name(), format!("{}-*", self.name()), self.cluster);
        match self.mode {
            Mode::Bootstrap => routes.route(&name, &clients, cluster),
            Mode::Relay => routes.relay(&name, &clients, cluster, ""),
            Mode::LogIn => {
                let (user, password) = (ALICE.name, ALICE.password);
                let credentials = format!(
                    "client_address = \"127.0.0.1\"\n[routes.credentials.{cluster}]\nsasl_mechanism = \"SCRAM-SHA-512\"\n\
                     sasl_username = \"{user}\"\nsasl_password = \"{password}\"\n"
                );
                routes.relay(&name, &clients, cluster, &credentials)
            }
        }
    }

    fn run(self, client: Client, proxy: &Proxy) -> Result<Outcome> {
        let client_id = format!("{}-{}", self.name(), client.name());
        let job = match (self.listener, self.mode) {
            (Listener::SaslSsl, Mode::Bootstrap | Mode::Relay) => Job {
                security: Some(Security::sasl_ssl(&pki::authority()?.ca_path, "SCRAM-SHA-512", ALICE)),
                ..Job::new(&format!("localhost:{}", proxy.tls_port()?), &client_id, &self.topic(client))
            },
            _ => Job::new(&proxy.bootstrap_servers(), &client_id, &self.topic(client)),
        };
        let outcome = clients::run(client, &job)?;
        ensure!(outcome.members.iter().all(|&records| records > 0), "a member of the group got nothing: {outcome:?}");
        Ok(outcome)
    }
}
