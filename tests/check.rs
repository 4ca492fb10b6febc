//! `kferry check` against real clusters: what it says of them, and how it ends. Its exit codes are what scripts stand on.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::kafka::{ADMIN, ALICE, Acl, BOB, Builder, Cluster, Commit, Listener, Operation, Resource, User};
use harness::process::Process;
use harness::proxy::{Proxy, Routes, executable, http};
use harness::raw::until;
use harness::scenario::Pair;
use harness::{LIMIT, pki, run};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::{Value, json};

/// What check gives a server; behind it is the time of a loaded machine.
const DEADLINE: Duration = Duration::from_secs(10);

const MECHANISMS: [&str; 3] = ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"];

/// A finished `kferry check`: its exit code, and both outputs together.
#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    text: String,
}

fn check(routes: &Routes, arguments: &[&str]) -> Result<Checked> {
    check_by(Command::new(executable("kferry")?), routes, arguments)
}

fn check_by(mut command: Command, routes: &Routes, arguments: &[&str]) -> Result<Checked> {
    let folder = run::folder("check")?;
    let (config, output) = (folder.join("routes.toml"), folder.join("output"));
    fs::write(&config, routes.text())?;
    command.arg("check").arg("--config").arg(&config).args(arguments);
    let status = Process::spawn("kferry check", &command, &output)?.wait(LIMIT)?;
    Ok(Checked { code: status.code(), text: fs::read_to_string(&output)? })
}

impl Checked {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| self.text.clone())
    }

    /// The cells of a server's row.
    fn row(&self, address: &str) -> Result<Vec<&str>> {
        let row = self.text.lines().map(cells).find(|cells| cells.get(1) == Some(&address));
        row.with_context(|| format!("no row of {address}:\n{}", self.text))
    }
}

/// Two spaces or more are between cells, one may be in them.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// The report's part on a server.
fn server<'a>(report: &'a Value, address: &str) -> Result<&'a Value> {
    let servers = report["brokers"]["servers"].as_array().context("no servers")?;
    servers.iter().find(|server| server["address"] == address).with_context(|| format!("no {address} in {report}"))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A file with one cluster, by name `new`.
fn one(bootstrap_servers: &str, security: &str) -> Result<Routes> {
    Ok(Routes::new()?.cluster_with("new", bootstrap_servers, security).route("all", "*", "new"))
}

fn protocol(protocol: &str) -> String {
    format!("security_protocol = \"{protocol}\"\n")
}

fn login(mechanism: &str, user: User) -> String {
    format!("sasl_mechanism = \"{mechanism}\"\nsasl_username = \"{}\"\nsasl_password = \"{}\"\n", user.name, user.password)
}

fn authority() -> Result<String> {
    Ok(format!("ssl_ca_location = \"{}\"\n", pki::authority()?.ca_path.display()))
}

fn certificate(name: &str) -> Result<String> {
    let identity = pki::authority()?.client(name)?;
    let (certificate, key) = (identity.certificate_path.display(), identity.key_path.display());
    Ok(format!("ssl_certificate_location = \"{certificate}\"\nssl_key_location = \"{key}\"\n"))
}

/// Runs `kferry init` in a folder of its own: how it ended, what it said, and the file if there is one.
fn init(legacy: &str, new: &str, arguments: &[&str]) -> Result<(Checked, PathBuf)> {
    let config = run::folder("init")?.join("routes.toml");
    Ok((init_to(&config, legacy, new, arguments)?, config))
}

fn init_to(config: &Path, legacy: &str, new: &str, arguments: &[&str]) -> Result<Checked> {
    let output = config.with_file_name("output");
    let mut command = Command::new(executable("kferry")?);
    command.args(["init", "--legacy", legacy, "--new", new, "--config"]).arg(config).args(arguments);
    let status = Process::spawn("kferry init", &command, &output)?.wait(LIMIT)?;
    Ok(Checked { code: status.code(), text: fs::read_to_string(&output)? })
}

/// KEY=VALUE of a user, a file with the password, and the authority.
fn settings_of_the_admin() -> Result<[String; 3]> {
    let password = run::folder("secrets")?.join("password");
    fs::write(&password, ADMIN.password)?;
    let ca = &pki::authority()?.ca_path;
    let user = format!("sasl_username={}", ADMIN.name);
    Ok([user, format!("sasl_password_file={}", password.display()), format!("ssl_ca_location={}", ca.display())])
}

#[test]
fn init_writes_a_file_that_check_takes_and_a_proxy_serves() -> Result<()> {
    let (legacy, new) = CLUSTERS.started()?;
    let old = legacy.bootstrap_servers(Listener::Plaintext)?;
    let [user, password, ca] = settings_of_the_admin()?;
    // How the new cluster is spoken to, what init is told of it, and what it finds out by itself.
    let ways: [(Listener, &[&str], &[&str]); 4] = [
        (Listener::Plaintext, &[], &["security_protocol = \"PLAINTEXT\""]),
        (Listener::SaslPlaintext, &[&user, &password], &["\"SASL_PLAINTEXT\"", "sasl_mechanism = \"SCRAM-SHA-512\""]),
        (Listener::SaslSsl, &[&user, &password, &ca], &["security_protocol = \"SASL_SSL\"", "sasl_mechanism = \"SCRAM-SHA-512\""]),
        (Listener::SaslSsl, &[&user, &password, &ca, "sasl_mechanism=PLAIN"], &["sasl_mechanism = \"PLAIN\""]),
    ];
    for (listener, settings, found) in ways {
        let settings: Vec<_> = settings.iter().flat_map(|setting| ["--new-set", setting]).collect();
        let (made, config) = init(&old, &new.bootstrap_servers(listener)?, &settings)?;
        assert_eq!(made.code, Some(0), "{}", made.text);
        let summary = format!("legacy: Kafka 2.8, cluster id {}, 1 broker (node ids 1001), ", legacy.cluster_id()?);
        assert!(made.text.contains(&summary) && made.text.contains("(node ids 1, 2)"), "{}", made.text);
        let text = fs::read_to_string(&config)?;
        assert!(found.iter().all(|found| text.contains(found)), "{text}");
        assert!(text.contains("node_ids = \"1000-1049\"") && text.contains("node_ids = \"0-49\""), "{text}");
        assert!(!text.contains(ADMIN.password), "{text}");
        for on in [text.clone(), text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect()] {
            fs::write(&config, on)?;
            let mut command = Command::new(executable("kferry")?);
            command.args(["check", "--connect", "--config"]).arg(&config);
            let output = config.with_file_name("check");
            let status = Process::spawn("kferry check", &command, &output)?.wait(LIMIT)?;
            assert_eq!(status.code(), Some(0), "{}\n{text}", fs::read_to_string(&output)?);
        }
        fs::write(&config, &text)?;
        let admin =
            text.split_once("[admin]\nbind = \"127.0.0.1:").and_then(|(_, rest)| rest.split('"').next()).context("no admin port")?;
        let mut command = Command::new(executable("kferry-proxy")?);
        command.arg("--config").arg(&config);
        let mut proxy = Process::spawn("kferry-proxy", &command, &config.with_file_name("log"))?;
        until("the proxy is ready", || Ok(http(admin.parse()?, "GET", "/readyz").is_ok_and(|answer| answer.status == 200)))?;
        assert_eq!(proxy.terminate(LIMIT)?.code(), Some(0), "{}", proxy.log_tail(10));

        // What is there stays.
        let again = init_to(&config, &old, &new.bootstrap_servers(listener)?, &settings)?;
        assert!(again.code == Some(2) && again.text.contains("is there, and stays as it is"), "{}", again.text);
        assert_eq!(fs::read_to_string(&config)?, text);
    }
    Ok(())
}

#[test]
fn init_says_what_it_lacks_and_writes_nothing() -> Result<()> {
    let (legacy, new) = CLUSTERS.started()?;
    let (old, next) = (legacy.bootstrap_servers(Listener::Plaintext)?, new.bootstrap_servers(Listener::SaslPlaintext)?);
    let (tls, tls_and_sasl) = (new.bootstrap_servers(Listener::Ssl)?, new.bootstrap_servers(Listener::SaslSsl)?);
    let [user, password, ca] = settings_of_the_admin()?;
    let cases: [(&str, &str, &[&str], i32, &str); 11] = [
        (&old, &next, &[], 1, "cluster new: its brokers want a login ("),
        (&old, &next, &["--new-set", "sasl_username=admin"], 2, "cluster new: "),
        (&old, &next, &["--new-set", "sasl_password=admin"], 2, "a password on the command line can be seen by everybody"),
        (&old, &next, &["--new-set", "ssl_ca_locatoin=ca.pem"], 2, "did you mean `ssl_ca_location`?"),
        (&old, &next, &["--new-set", "bootstrap_servers=a:1"], 2, "bootstrap_servers is not set so"),
        (&old, &tls, &[], 1, "TLS failed"),
        (&old, &old, &[], 2, "--legacy and --new are one and the same cluster"),
        (&old, "127.0.0.1:1", &[], 1, "cluster new: 127.0.0.1:1: cannot connect"),
        (&old, "new", &[], 2, "has no port"),
        (
            &tls_and_sasl,
            &old,
            &["--legacy-set", &ca, "--legacy-set", &user, "--legacy-set", &password],
            2,
            "clients of the legacy cluster speak TLS",
        ),
        ("127.0.0.1:1", "127.0.0.1:1", &[], 1, "cluster legacy: 127.0.0.1:1: cannot connect"),
    ];
    for (legacy, new, arguments, code, told) in cases {
        let (made, config) = init(legacy, new, arguments)?;
        assert!(made.code == Some(code) && made.text.contains(told), "{legacy} {new} {arguments:?}: {:?}\n{}", made.code, made.text);
        assert!(!config.exists(), "{arguments:?}");
    }
    Ok(())
}

/// An old cluster and a new one. What costs a broker has a new one of its own.
static CLUSTERS: Pair = Pair::new(|| [Cluster::version("2.8.2").name("legacy").first_node_id(1001), two_brokers("new")]);

fn two_brokers(name: &str) -> Builder {
    // More connections of one address than any test makes, fewer than a proxy may make.
    let cluster = Cluster::version("4.3.0").name(name).brokers(2).acls().set("max.connections.per.ip", "5000");
    // The least that is too little for live moves.
    let cluster = cluster.set("producer.id.expiration.ms", "3600000");
    cluster.listen(Listener::Ssl).listen(Listener::SaslSsl).listen(Listener::SaslPlaintext)
}

#[test]
fn every_way_in_works_and_says_as_whom() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    let mut ways = vec![
        (Listener::Plaintext, protocol("PLAINTEXT"), "User:ANONYMOUS"),
        (Listener::Ssl, protocol("SSL") + &authority()? + &certificate(ADMIN.name)?, "User:CN=admin"),
        (Listener::SaslPlaintext, protocol("SASL_PLAINTEXT") + &login("SCRAM-SHA-256", ADMIN), "User:admin"),
    ];
    for mechanism in MECHANISMS {
        ways.push((Listener::SaslSsl, protocol("SASL_SSL") + &authority()? + &login(mechanism, ADMIN), "User:admin"));
    }
    let id = new.cluster_id()?;
    for (listener, security, principal) in ways {
        let routes = one(&new.bootstrap_servers(listener)?, &security)?;
        let table = check(&routes, &["--connect"])?;
        assert_eq!(table.code, Some(0), "{security}\n{}", table.text);
        let report = check(&routes, &["--connect", "--json"])?;
        assert_eq!(report.code, Some(0), "{security}\n{}", report.text);
        let report = report.json()?;
        assert_eq!((&report["ok"], &report["brokers"]["errors"]), (&json!(true), &json!([])), "{report}");
        for node_id in new.node_ids() {
            let address = new.address(node_id, listener)?;
            // Node 1 has the only vote. To know that, one must be allowed to: so the broker knows us as whom check says.
            assert_eq!(table.row(&address)?[..7], ["new", &address, "4.3", &id, "2", "1", principal], "{security}");
            let mut server = server(&report, &address)?.clone();
            let took = server["took_ms"].take();
            assert!(took.as_u64().is_some_and(|ms| ms < 10_000), "{took}");
            let expected = json!({
                "cluster": "new", "address": address, "took_ms": null, "state": "ok", "kafka": "4.3", "metadata_version": 30,
                "cluster_id": id, "node_ids": [1, 2], "controller": 1, "principal": principal,
            });
            assert_eq!(server, expected, "{security}");
        }
    }
    Ok(())
}

/// No finalized features in the answer, and the controller elsewhere.
#[test]
fn zookeeper_clusters_are_known_too() -> Result<()> {
    let (legacy, _) = CLUSTERS.started()?;
    let address = legacy.bootstrap_servers(Listener::Plaintext)?;
    let routes = one(&address, "")?;
    let table = check(&routes, &["--connect"])?;
    assert_eq!(table.code, Some(0), "{}", table.text);
    assert_eq!(table.row(&address)?[..7], ["new", &address, "2.8", &legacy.cluster_id()?, "1", "1001", "User:ANONYMOUS"]);
    let report = check(&routes, &["--connect", "--json"])?.json()?;
    assert_eq!(server(&report, &address)?["metadata_version"], Value::Null);
    Ok(())
}

#[test]
fn a_principal_that_may_nothing_is_enough() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    let address = new.address(1, Listener::SaslSsl)?;
    let routes = one(&address, &(protocol("SASL_SSL") + &authority()? + &login("SCRAM-SHA-512", ALICE)))?;
    let table = check(&routes, &["--connect"])?;
    assert_eq!(table.code, Some(0), "{}", table.text);
    // Who the controller is, alice may not know: that takes Describe on the cluster.
    assert_eq!(table.row(&address)?[..7], ["new", &address, "4.3", &new.cluster_id()?, "2", "-", "User:alice"]);
    let report = check(&routes, &["--connect", "--json"])?.json()?;
    assert_eq!((&report["ok"], &server(&report, &address)?["controller"]), (&json!(true), &Value::Null), "{report}");
    Ok(())
}

#[test]
fn who_relays_must_know_the_topics() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    for (user, warned) in [(ADMIN, false), (ALICE, true)] {
        let routes = Routes::new()?.kafka("new", new, Listener::SaslPlaintext, Some(user))?.relay("all", "*", "new", "");
        let checked = check(&routes, &["--connect"])?;
        assert_eq!(checked.code, Some(0), "{}", checked.text);
        let warning = format!("warning: cluster new: User:{} may not Describe every topic", user.name);
        assert_eq!(checked.text.contains(&warning), warned, "{}", checked.text);
    }
    Ok(())
}

/// What is printed for a right that is missing is what Kafka's own tool takes; then nothing is missing.
#[test]
fn the_commands_that_are_printed_grant_what_is_missing() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    let missing = || -> Result<Vec<String>> {
        let routes = Routes::new()?.kafka("new", new, Listener::SaslPlaintext, Some(BOB))?.limit("max_connections", 100);
        let checked = check(&routes.relay("all", "*", "new", ""), &["--connect"])?;
        assert_eq!(checked.code, Some(0), "{}", checked.text);
        let commands = checked.text.lines().filter_map(|line| Some(line.split_once("kafka-acls.sh ")?.1.split(';').next()?.to_owned()));
        Ok(commands.collect())
    };
    let settings = run::folder("admin")?.join("admin.properties");
    let login = format!(
        "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{}\" password=\"{}\";",
        ADMIN.name, ADMIN.password
    );
    fs::write(&settings, format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={login}\n"))?;
    let commands = missing()?;
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
        let settings = settings.to_string_lossy();
        let words: Vec<_> = words.into_iter().map(|word| if word == "admin.properties" { &settings } else { word }).collect();
        new.tool("org.apache.kafka.tools.AclCommand", &words)?;
    }
    // Brokers go by it a moment later.
    until("nothing is missing", || Ok(missing()?.is_empty()))
}

/// A relayed client is offered what all clusters of relayed routes know.
#[test]
fn a_cluster_without_the_consumer_protocol_is_told_where_another_has_it() -> Result<()> {
    let (legacy, new) = CLUSTERS.started()?;
    for (relayed, warned) in [(true, true), (false, false)] {
        let routes = Routes::new()?.kafka("legacy", legacy, Listener::Plaintext, None)?.kafka("new", new, Listener::Plaintext, None)?;
        let routes = routes.relay("new", "new-*", "new", "");
        let routes = if relayed { routes.relay("legacy", "*", "legacy", "") } else { routes.route("legacy", "*", "legacy") };
        let checked = check(&routes, &["--connect"])?;
        assert_eq!(checked.code, Some(0), "{}", checked.text);
        let warning = "warning: cluster legacy: Kafka 2.8 does not know ConsumerGroupHeartbeat in version 1, so relayed clients are not offered it on new";
        assert_eq!(checked.text.matches("ConsumerGroupHeartbeat").count(), usize::from(warned), "{}", checked.text);
        assert_eq!(checked.text.contains(warning), warned, "{}", checked.text);
    }
    Ok(())
}

/// Brokers see the proxy's address for all relayed clients.
#[test]
fn what_a_cluster_decides_by_the_clients_address_is_told() -> Result<()> {
    const HOST: &str = "10.9.9.9";
    let (_, new) = CLUSTERS.started()?;
    new.add_acls(&[Acl::allow(ALICE.name, Operation::Read, Resource::Topic("by-host".to_owned())).from_host(HOST)])?;
    let credentials = |user: User| format!("[routes.credentials.new]\n{}", login("SCRAM-SHA-512", user));
    let warnings = |kferry: User, route: &str, max_connections: u64| -> Result<Vec<String>> {
        let routes = Routes::new()?.kafka("new", new, Listener::SaslPlaintext, Some(kferry))?;
        let routes = routes.limit("max_connections", max_connections).relay("all", "*", "new", route);
        let checked = check(&routes, &["--connect"])?;
        assert_eq!(checked.code, Some(0), "{}", checked.text);
        Ok(checked.text.lines().filter_map(|line| line.strip_prefix("warning: cluster new: ")).map(str::to_owned).collect())
    };
    let by_host = format!("ACL of principals of relayed clients name a host (Allow User:alice from {HOST} Read on Literal Topic by-host)");
    let has = |warnings: &[String], part: &str| warnings.iter().any(|warning| warning.contains(part));
    // The clients' own logins, a route's login, another one's.
    for (route, told) in [(String::new(), true), (credentials(ALICE), true), (credentials(BOB), false)] {
        let warnings = warnings(ADMIN, &route, 100)?;
        assert_eq!(has(&warnings, &by_host), told, "{route}: {warnings:?}");
        assert!(!has(&warnings, "max.connections.per.ip") && !has(&warnings, "may not see"), "{warnings:?}");
    }
    let few = warnings(ADMIN, "", 5001)?;
    assert!(has(&few, "limits.max_connections = 5001") && has(&few, "broker 2: max.connections.per.ip is 5000"), "{few:?}");
    let blind = warnings(ALICE, "", 5001)?;
    let told = "--add --allow-principal 'User:alice' --operation Describe --operation DescribeConfigs --cluster";
    assert!(has(&blind, told) && !has(&blind, &by_host), "{blind:?}");
    Ok(())
}

#[test]
fn what_routes_own_is_compared_with_what_is_there() -> Result<()> {
    let (legacy, new) = CLUSTERS.started()?;
    for (cluster, topics) in [(legacy, ["own.copied", "own.both", "own.left"]), (new, ["own.young", "own.both", "own.new"])] {
        for topic in topics {
            cluster.create_topic(topic, 1, &[])?;
        }
    }
    legacy.create_topic("own.old", 1, &[])?;
    legacy.commit("own-group", "own.copied", [(0, Commit::at(0))])?;
    let owning = |listener: Listener, user: Option<User>| -> Result<Checked> {
        let routes = Routes::new()?.kafka("legacy", legacy, Listener::Plaintext, None)?.kafka("new", new, listener, user)?;
        let routes = routes.relay("owner", "a-*", "legacy", "topics = [\"own.*\", \"own.copied\"]\ngroups_regex = \"own-.*\"\n");
        let mirror = "[state]\ncluster = \"new\"\n[[mirrors]]\nname = \"m\"\nsource = \"legacy\"\ntarget = \"new\"\ntopics = [\"own.copied\", \"own.old\"]\n\
                      [mirrors.rename]\n\"own.old\" = \"own.young\"\n";
        let checked = check(&routes.route("rest", "*", "new").section(mirror), &["--connect"])?;
        assert_eq!(checked.code, Some(0), "{}", checked.text);
        Ok(checked)
    };
    let told = owning(Listener::Plaintext, None)?.text;
    for warning in [
        "warning: route owner: its patterns own 3 topics that no mirror copies to or from cluster legacy (own.both, own.left, own.new): ",
        "warning: route owner: its patterns own 2 topics that a mirror renames (own.old, own.young): ",
        "warning: route owner: its patterns own 1 group that no mirror copies to or from cluster legacy (own-group): ",
        "warning: 1 topic of one name on several clusters of relayed clients (legacy, new), and no mirror copies them between all of these (own.both): ",
        "warning: clients of 1 route in bootstrap mode (rest) are on cluster new, where mirror m writes 2 topics (own.copied, own.young): ",
        "warning: cluster new: producer.id.expiration.ms is 3600000: it forgets idempotent producers sooner than an hour",
    ] {
        assert!(told.contains(warning), "{warning}\n{told}");
    }
    let lacks = "warning: `topics` of route \"owner\", which has no credentials for cluster \"new\", where brokers ask for a login";
    assert!(!told.contains(lacks), "{told}");
    let told = owning(Listener::SaslPlaintext, Some(ADMIN))?.text;
    assert!(told.contains(lacks) && told.contains("write [routes.credentials.new]"), "{told}");
    Ok(())
}

#[test]
fn without_credentials_the_release_is_told() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    let address = new.address(1, Listener::SaslSsl)?;
    let checked = check(&one(&address, &(protocol("SASL_SSL") + &authority()?))?, &["--connect"])?;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    assert_eq!(checked.row(&address)?[..7], ["new", &address, "4.3", "-", "-", "-", "nobody: no credentials"]);
    let warning = format!("warning: cluster new: {address} wants a login and kferry has none");
    assert!(checked.text.contains(&warning), "{}", checked.text);
    Ok(())
}

#[test]
fn a_wrong_password_is_told_and_not_shown() -> Result<()> {
    const GUESS: &str = "not-the-right-one";
    let (_, new) = CLUSTERS.started()?;
    for mechanism in MECHANISMS {
        let wrong = login(mechanism, User { password: GUESS, ..ALICE });
        let routes = one(&new.address(1, Listener::SaslSsl)?, &(protocol("SASL_SSL") + &authority()? + &wrong))?;
        // The broker's own words.
        let words = match mechanism {
            "PLAIN" => "Authentication failed: Invalid username or password".to_owned(),
            scram => format!("Authentication failed during authentication due to invalid credentials with SASL mechanism {scram}"),
        };
        for arguments in [&["--connect"][..], &["--connect", "--json"]] {
            let Checked { code, text } = check(&routes, arguments)?;
            assert_eq!(code, Some(1), "{text}");
            let told = format!("the broker refused the user 'alice' with {mechanism}: {words}; check sasl_username and sasl_password");
            assert!(text.contains(&told), "{text}");
            assert!(!text.contains(GUESS) && !text.contains(ALICE.password), "{text}");
        }
    }
    Ok(())
}

#[test]
fn settings_that_differ_from_the_listener_say_what_to_set() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    let (tls, password) = (authority()?, login("SCRAM-SHA-512", ADMIN));
    let cases = [
        (Listener::SaslSsl, protocol("PLAINTEXT"), "set security_protocol to SSL or SASL_SSL"),
        (Listener::Ssl, protocol("SASL_PLAINTEXT") + &password, "set security_protocol to SSL or SASL_SSL"),
        (Listener::Plaintext, protocol("SSL") + &tls, "closed the connection during the TLS handshake, as plaintext ports do"),
        (Listener::SaslPlaintext, protocol("PLAINTEXT"), "this connection used PLAINTEXT; compare security_protocol"),
        (Listener::SaslSsl, protocol("SSL") + &tls, "this connection used SSL; compare security_protocol"),
        (
            Listener::Plaintext,
            protocol("SSL") + &tls,
            "compare security_protocol with the broker's listener; or the broker has as many connections as it takes of one address",
        ),
        (Listener::Plaintext, protocol("SASL_PLAINTEXT") + &password, "set security_protocol to PLAINTEXT instead of SASL_PLAINTEXT"),
        (
            Listener::Ssl,
            protocol("SASL_SSL") + &tls + &certificate("admin")? + &password,
            "set security_protocol to SSL instead of SASL_SSL",
        ),
        (Listener::Ssl, protocol("SSL") + &tls, "set ssl_certificate_location and ssl_key_location"),
        (
            Listener::SaslSsl,
            protocol("SASL_SSL") + &format!("ssl_ca_location = \"{}\"\n", pki::Pki::new()?.ca_path.display()) + &password,
            "set ssl_ca_location to the PEM file of the cluster's authority",
        ),
    ];
    for (listener, security, says) in cases {
        let address = new.address(1, listener)?;
        let Checked { code, text } = check(&one(&address, &security)?, &["--connect"])?;
        assert_eq!(code, Some(1), "{listener:?}\n{security}\n{text}");
        let error = text.lines().find(|line| line.starts_with(&format!("error: cluster new: {address}: ")));
        assert!(error.is_some_and(|error| error.contains(says)), "{listener:?}\n{security}\nshould say: {says}\n{text}");
    }
    Ok(())
}

#[test]
fn a_certificate_for_another_host_is_refused_unless_the_file_says_otherwise() -> Result<()> {
    let (_, new) = CLUSTERS.started()?;
    // One more way to write 127.0.0.1 (inet_aton), which every resolver knows and no certificate names.
    let address = new.address(1, Listener::SaslSsl)?.replace("127.0.0.1", "0x7f000001");
    let security = protocol("SASL_SSL") + &authority()? + &login("SCRAM-SHA-512", ADMIN);
    let Checked { code, text } = check(&one(&address, &security)?, &["--connect"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("127.0.0.1") && text.contains("not for 0x7f000001; use one of its names"), "{text}");

    let forgiving = security + "ssl_endpoint_identification_algorithm = \"none\"\n";
    let checked = check(&one(&address, &forgiving)?, &["--connect"])?;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    assert_eq!(checked.row(&address)?[6], "User:admin");
    Ok(())
}

#[test]
fn clusters_and_names_must_agree() -> Result<()> {
    let (legacy, new) = CLUSTERS.started()?;
    let old = legacy.bootstrap_servers(Listener::Plaintext)?;
    let (first, second) = (new.address(1, Listener::Plaintext)?, new.address(2, Listener::Plaintext)?);
    let (old_id, new_id) = (legacy.cluster_id()?, new.cluster_id()?);
    let same = format!("the clusters one, other are one and the same, {new_id}; correct the bootstrap_servers, or keep only one of them");
    let mixed = format!(
        "cluster one: its bootstrap_servers are of different clusters ({first} is of {new_id}, {old} is of {old_id}); \
         list the servers of one only"
    );
    for (servers, errors) in [(first.clone(), vec![same.clone()]), (format!("{first},{old}"), vec![mixed])] {
        let routes = Routes::new()?.cluster("one", &servers).cluster("other", &second).route("all", "*", "one");
        let report = check(&routes, &["--connect", "--json"])?;
        assert_eq!(report.code, Some(1), "{}", report.text);
        let report = report.json()?;
        assert_eq!((&report["ok"], strings(&report["brokers"]["errors"])), (&json!(false), errors.iter().map(String::as_str).collect()));

        let Checked { code, text } = check(&routes, &["--connect"])?;
        assert_eq!(code, Some(1), "{text}");
        for error in errors {
            assert!(text.contains(&format!("error: {error}")), "{text}");
        }
    }
    Ok(())
}

#[test]
fn clients_that_an_edit_moves_are_listed() -> Result<()> {
    let (legacy, new) = CLUSTERS.started()?;
    let base = Routes::new()?.kafka("legacy", legacy, Listener::Plaintext, None)?.kafka("new", new, Listener::Plaintext, None)?;
    let routes = |orders: &str| base.clone().route("orders", "orders-*", orders).route("rest", "*", "new");
    let proxy = Proxy::start(&routes("legacy"))?;
    for client_id in ["orders-1", "billing"] {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", proxy.bootstrap_servers()).set("client.id", client_id);
        let client: BaseConsumer = config.create()?;
        client.fetch_metadata(None, LIMIT)?;
    }

    let unchanged = check(&routes("legacy"), &["--connect"])?;
    assert_eq!(unchanged.code, Some(0), "{}", unchanged.text);
    let seen = format!("the proxy at 127.0.0.1:{} has seen 2 clients, and this file changes the cluster of", proxy.admin_port());
    assert!(unchanged.text.contains(&format!("{seen} none\n")), "{}", unchanged.text);

    let edited = check(&routes("new"), &["--connect"])?;
    assert_eq!(edited.code, Some(0), "{}", edited.text);
    assert!(edited.text.contains(&format!("{seen} 1, ")), "{}", edited.text);
    let version = rdkafka::util::get_rdkafka_version().1;
    let line = format!("\n  orders-1 (librdkafka {version}, 127.0.0.1): legacy -> new by the route orders\n");
    assert!(edited.text.contains(&line), "{}", edited.text);

    let report = check(&routes("new"), &["--connect", "--json"])?.json()?;
    let expected = json!({
        "note": null,
        "seen": 2,
        "moves": [{
            "client_id": "orders-1", "software_name": "librdkafka", "software_version": version, "address": "127.0.0.1",
            "from": "legacy", "to": "new", "route": "orders",
        }],
        "stays": [],
        "defaults": [],
        "splits": [],
    });
    assert_eq!(report["clients"], expected);

    // One that says of itself what librdkafka 2.6.1 says.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", proxy.bootstrap_servers()).set("client.id", "billing").set("client.software.version", "2.6.1");
    let client: BaseConsumer = config.create()?;
    client.fetch_metadata(None, LIMIT)?;
    let checked = check(&routes("legacy"), &["--connect"])?;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    let line = "or relay them (mode = \"relay\"):\n  billing (librdkafka 2.6.1, 127.0.0.1)\n";
    assert!(checked.text.contains(line), "{}", checked.text);

    // And one that nobody has given an id.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", proxy.bootstrap_servers());
    let client: BaseConsumer = config.create()?;
    client.fetch_metadata(None, LIMIT)?;
    let checked = check(&routes("legacy"), &["--connect"])?;
    let line = format!("\n  rdkafka (librdkafka {version}, 127.0.0.1): the default of librdkafka\n");
    assert!(checked.text.contains(&line), "{}", checked.text);
    let rows = proxy.clients()?;
    let default_of = |client_id: &str| rows.iter().find(|row| row["client_id"] == client_id).map(|row| row["default_of"].clone());
    assert_eq!((default_of("rdkafka"), default_of("orders-1")), (Some(json!("librdkafka")), Some(Value::Null)));

    // A glob that takes one half of a Kafka Streams application.
    let halved = base.clone().route("producers", "*-producer", "legacy").route("rest", "*", "new");
    let checked = check(&halved, &[])?;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    assert!(checked.text.contains("this may split an application of Kafka Streams"), "{}", checked.text);
    Ok(())
}

#[test]
fn a_broker_that_is_frozen_and_one_that_is_dead_are_told() -> Result<()> {
    let (legacy, _) = CLUSTERS.started()?;
    let new = two_brokers("costs-a-broker").start()?;
    a_frozen_server_costs_ten_seconds_and_the_others_nothing(legacy, &new)?;
    a_dead_server_is_an_error_and_the_other_is_told_in_full(&new)
}

fn a_frozen_server_costs_ten_seconds_and_the_others_nothing(legacy: &Cluster, new: &Cluster) -> Result<()> {
    new.freeze(2)?;
    // Twice, by two doors: one after the other, they would cost twenty.
    let (frozen, frozen_too) = (new.address(2, Listener::Plaintext)?, new.address(2, Listener::SaslSsl)?);
    let routes = Routes::new()?
        .cluster("frozen", &frozen)
        .kafka("legacy", legacy, Listener::Plaintext, None)?
        .kafka("new", new, Listener::SaslSsl, Some(ADMIN))?
        .route("all", "*", "new");
    let start = Instant::now();
    let checked = check(&routes, &["--connect", "--json"])?;
    let took = start.elapsed();
    assert_eq!(checked.code, Some(1), "{}", checked.text);
    assert!((DEADLINE..DEADLINE + Duration::from_secs(4)).contains(&took), "{took:?}");

    let report = checked.json()?;
    // The kernel accepts for it: so it is not the TCP connection that hangs.
    let hangs = "took longer than 10s; the broker hangs, a firewall drops packets, or this is no Kafka port";
    assert_eq!(
        strings(&report["brokers"]["errors"]),
        [
            format!("cluster frozen: {frozen}: the first request (ApiVersions) {hangs}"),
            format!("cluster new: {frozen_too}: the TLS handshake {hangs}"),
        ]
    );
    for (cluster, address) in [(legacy, legacy.address(1001, Listener::Plaintext)?), (new, new.address(1, Listener::SaslSsl)?)] {
        let server = server(&report, &address)?;
        assert_eq!((&server["state"], &server["cluster_id"]), (&json!("ok"), &json!(cluster.cluster_id()?)), "{report}");
        assert!(server["took_ms"].as_u64().is_some_and(|ms| ms < 5_000), "{report}");
    }
    Ok(())
}

fn a_dead_server_is_an_error_and_the_other_is_told_in_full(new: &Cluster) -> Result<()> {
    new.kill(2)?;
    let (alive, dead) = (new.address(1, Listener::Plaintext)?, new.address(2, Listener::Plaintext)?);
    let checked = check(&one(&format!("{dead},{alive}"), "")?, &["--connect"])?;
    assert_eq!(checked.code, Some(1), "{}", checked.text);
    assert_eq!(checked.row(&dead)?[..7], ["new", &dead, "-", "-", "-", "-", "failed, see below"]);
    assert!(checked.text.contains(&format!("error: cluster new: {dead}: cannot connect: Connection refused")), "{}", checked.text);
    // Frozen for ten seconds before, the dead one is no member any more.
    assert_eq!(checked.row(&alive)?[..7], ["new", &alive, "4.3", &new.cluster_id()?, "1", "1", "User:ANONYMOUS"]);
    Ok(())
}

#[test]
fn a_valid_file_is_checked_without_touching_the_network() -> Result<()> {
    let broker = TcpListener::bind("127.0.0.1:0")?;
    broker.set_nonblocking(true)?;
    // So few that any machine has the files for them.
    let routes = one(&broker.local_addr()?.to_string(), "")?.limit("max_connections", 10);
    let checked = check(&routes, &[])?;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    assert!(checked.text.ends_with("routes.toml: ok (1 cluster, 1 listener, 1 route)\n"), "{}", checked.text);
    assert_eq!(broker.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody came");

    // With --connect somebody does come, though this one never answers.
    let connected = check(&routes, &["--connect"])?;
    assert_eq!(connected.code, Some(1), "{}", connected.text);
    broker.accept().context("nobody came")?;
    Ok(())
}

#[test]
fn what_the_machine_does_not_have_is_a_warning() -> Result<()> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut range = range.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (range.next().context("two numbers")??, range.next().context("two numbers")??);
    let brokers = format!("node_ids = \"1-3\"\nbroker_ports = \"{first}-{}\"\n", first + 2);
    let routes = Routes::new()?.cluster_with("new", "127.0.0.1:1", &brokers).limit("max_connections", 10).relay("all", "*", "new", "");
    let checked = check(&routes, &[])?;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    let told = format!("warning: ports {first}-{} (broker_ports of cluster \"new\" on listener \"plain\"): ", first + 2);
    let way_out = format!("it lies in {first}-{last} (net.ipv4.ip_local_port_range): write a port outside of that");
    assert!(checked.text.contains(&told) && checked.text.contains(&way_out), "{}", checked.text);
    assert_eq!(checked.text.matches("warning: ").count(), 1, "{}", checked.text);

    let mut few = Command::new("prlimit");
    few.args(["--nofile=4096:4096", "--"]).arg(executable("kferry")?);
    let report = check_by(few, &one("127.0.0.1:1", "")?, &["--json"])?;
    assert_eq!(report.code, Some(0), "{}", report.text);
    let report = report.json()?;
    let [told] = strings(&report["machine"])[..] else { anyhow::bail!("{report}") };
    assert!(told.starts_with("limits.max_connections is 10000, and a process may have 4096 open files here (ulimit -Hn)"), "{told}");
    Ok(())
}

#[test]
fn an_invalid_file_ends_with_2_and_all_of_its_errors() -> Result<()> {
    let routes = Routes::new()?
        .cluster_with("new", "localhost:none", "color = \"blue\"\nsecurity_protocol = \"TLS\"")
        .route("all", "*", "old")
        .route("orders", "orders-*", "new");
    let text = routes.text();
    // Each is told where it stands.
    let at = |part: &str| -> Result<String> {
        let before = text.split_once(part).with_context(|| part.to_owned())?.0;
        let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1) + 1;
        Ok(format!("routes.toml:{}:{column}", before.matches('\n').count() + 1))
    };
    let places = [at("localhost:none")?, at("color")?, at("\"TLS\"")?, at("\"old\"")?, at("\"orders-*\"")?];
    for arguments in [&[][..], &["--connect"]] {
        let Checked { code, text } = check(&routes, arguments)?;
        assert_eq!(code, Some(2), "{text}");
        for place in &places {
            assert!(text.contains(place), "no {place}:\n{text}");
        }
    }
    let report = check(&routes, &["--json"])?;
    assert_eq!(report.code, Some(2), "{}", report.text);
    let errors = report.json()?["errors"].take();
    assert_eq!(errors.as_array().map(Vec::len), Some(places.len()), "{errors}");
    Ok(())
}
