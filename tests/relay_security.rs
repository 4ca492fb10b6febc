//! Who a relayed client is, to the proxy and to the broker: certificates, users, tokens, and logins that must be done again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use harness::LIMIT;
use harness::clients::{self, Client, Job, Security};
use harness::fake::FakeBroker;
use harness::kafka::{ADMIN, ALICE, Acl, BOB, Cluster, Listener, Operation, Resource, User};
use harness::pki;
use harness::proxy::{Proxy, Routes};
use harness::raw::{self, Raw, until};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, MetadataRequest, SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

/// Kafka's `UNSUPPORTED_SASL_MECHANISM`, `ILLEGAL_SASL_STATE`, `SASL_AUTHENTICATION_FAILED`
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const ILLEGAL_SASL_STATE: i16 = 34;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// A user of the proxy's own, whom no broker knows.
const APP: User = User { name: "orders-app", password: "orders-app-secret" };
const OTHER_APP: User = User { name: "other-app", password: "other-app-secret" };

/// Which client logs in at the proxy, with what, and whether over TLS.
const CLIENTS: [(Client, &str, bool); 6] = [
    (Client::Java4, "SCRAM-SHA-512", false),
    (Client::Java28, "PLAIN", true),
    (Client::Rdkafka, "SCRAM-SHA-256", false),
    (Client::Sarama, "SCRAM-SHA-512", true),
    (Client::FranzGo, "SCRAM-SHA-256", false),
    (Client::Kafkajs, "PLAIN", true),
];

/// Keeps what went wrong with records.
#[derive(Debug, Default, Clone)]
struct Acks(Arc<Mutex<(usize, Vec<KafkaError>)>>);

impl Acks {
    /// How many were acknowledged, and the errors of the others.
    fn so_far(&self) -> (usize, Vec<KafkaError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl rdkafka::ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut acks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => acks.0 += 1,
            Err((error, _)) => acks.1.push(error.clone()),
        }
    }
}

fn config(bootstrap_servers: &str, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("client.id", client_id);
    config
}

fn with_login(config: &mut ClientConfig, mechanism: &str, user: User) -> ClientConfig {
    config.set("security.protocol", "SASL_PLAINTEXT").set("sasl.mechanism", mechanism);
    config.set("sasl.username", user.name).set("sasl.password", user.password).clone()
}

/// Produces one record; the error that its sender sees.
fn produce_one(config: &ClientConfig, topic: &str) -> Result<Option<RDKafkaErrorCode>> {
    let mut config = config.clone();
    let producer: BaseProducer<Acks> = config.set("message.timeout.ms", "6000").create_with_context(Acks::default())?;
    producer.send(BaseRecord::<str, str>::to(topic).payload("by whom?")).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    let (_, errors) = producer.context().so_far();
    Ok(errors.first().and_then(KafkaError::rdkafka_error_code))
}

/// `[routes.credentials.secure]` with a password.
fn credentials(user: User) -> String {
    format!(
        "[routes.credentials.secure]\nsasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"{}\"\nsasl_password = \"{}\"\n",
        user.name, user.password
    )
}

/// An unsecured JWT (`alg` is none): what Kafka's own validator for tests takes.
fn token(subject: &str, lifetime: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = format!(r#"{{"sub":"{subject}","iat":{},"exp":{}}}"#, now - 10, now + lifetime.as_secs());
    let [header, claims] = [r#"{"alg":"none"}"#, claims.as_str()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    Ok(format!("{header}.{claims}."))
}

/// Checks the line at the end of a connection.
fn ended(proxy: &Proxy, client: &mut Raw, cause: &str, detail: &str) -> Result<()> {
    client.rest()?;
    let line = proxy.closed(client)?;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    ensure!(text("cause") == cause && text("detail").contains(detail), "not {cause} with {detail:?}: {line}");
    Ok(())
}

fn no_secrets(proxy: &Proxy) -> Result<()> {
    let told = proxy.log_text() + &proxy.metrics()? + &proxy.get("/clients")?.body;
    for user in [ADMIN, ALICE, BOB, APP, OTHER_APP] {
        ensure!(!told.contains(user.password), "the password of {} is told", user.name);
    }
    // Of every token.
    ensure!(!told.contains(&BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)), "a token is told");
    Ok(())
}

#[test]
fn certificates_users_and_tokens_say_who_a_client_is() -> Result<()> {
    let oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";";
    let cluster = Cluster::version("4.3.0")
        .name("secure")
        .listen(Listener::SaslPlaintext)
        .acls()
        .set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER")
        .set("listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config", oauth)
        .start()?;
    for name in ["alices", "bobs", "old"].into_iter().chain(CLIENTS.map(|(client, _, _)| client.name())) {
        cluster.create_topic(name, 2, &[])?;
    }
    cluster.add_acls(&[
        Acl::allow(ALICE.name, Operation::All, Resource::Topic("*".to_owned())),
        Acl::deny(ALICE.name, Operation::Write, Resource::Topic("bobs".to_owned())),
        Acl::allow(ALICE.name, Operation::All, Resource::Group("*".to_owned())),
        Acl::allow(BOB.name, Operation::All, Resource::Topic("bobs".to_owned())),
        Acl::allow(BOB.name, Operation::Describe, Resource::Topic("alices".to_owned())),
    ])?;
    let server = pki::authority()?.server(&[])?;
    let client_auth = format!("ssl_client_auth = \"requested\"\nssl_ca_location = \"{}\"\n", pki::authority()?.ca_path.display());
    let token_file = harness::run::folder("token")?.join("token");
    fs::write(&token_file, token(BOB.name, Duration::from_hours(1))?)?;
    let with_token = format!(
        "client_address = \"127.0.0.1\"\n[routes.credentials.secure]\nsasl_mechanism = \"OAUTHBEARER\"\nsasl_oauthbearer_token_file = \"{}\"\n",
        token_file.display()
    );
    let password_file = token_file.with_file_name("password");
    fs::write(&password_file, OTHER_APP.password)?;
    let routes = Routes::new()?
        .kafka("secure", &cluster, Listener::SaslPlaintext, Some(ADMIN))?
        .tls_listener_with(&server, &client_auth)?
        .section(&format!("[users.{}]\nsasl_password = \"{}\"\n", APP.name, APP.password))
        .section(&format!("[users.{}]\nsasl_password_file = \"{}\"\n", OTHER_APP.name, password_file.display()))
        .relay("by-certificate", "cert-*", "secure", &format!("tls_subject = \"CN=orders\"\n{}", credentials(ALICE)))
        .relay("without-certificate", "cert-*", "secure", &format!("client_address = \"127.0.0.1\"\n{}", credentials(BOB)))
        .relay("by-user", "user-*", "secure", &format!("sasl_users = [\"{}\"]\n{}", APP.name, credentials(ALICE)))
        .relay("by-other-user", "other-*", "secure", &format!("sasl_users = \"{}\"\n{}", OTHER_APP.name, credentials(ALICE)))
        .relay("end-to-end", "end-*", "secure", "")
        .relay("by-token", "token-*", "secure", &with_token);
    let proxy = Proxy::start(&routes)?;

    a_certificate_narrows_the_match(&proxy)?;
    real_clients_log_in_at_the_proxy(&proxy)?;
    nobody_else_gets_through(&proxy)?;
    logins_of_the_old_kind_pass(&proxy)?;
    a_changed_password_of_a_user_counts_at_once(&proxy, &password_file)?;
    a_token_is_read_at_each_login(&proxy, &token_file)?;
    no_secrets(&proxy)
}

fn a_certificate_narrows_the_match(proxy: &Proxy) -> Result<()> {
    let authority = pki::authority()?;
    let tls = |client_id: &str, common_name: Option<&str>| -> Result<ClientConfig> {
        let mut config = config(&format!("127.0.0.1:{}", proxy.tls_port()?), client_id);
        config.set("security.protocol", "SSL").set("ssl.ca.location", authority.ca_path.to_string_lossy());
        if let Some(name) = common_name {
            let identity = authority.client(name)?;
            config.set("ssl.certificate.location", identity.certificate_path.to_string_lossy());
            config.set("ssl.key.location", identity.key_path.to_string_lossy());
        }
        Ok(config)
    };
    // The right one acts as Alice, every other one as Bob.
    assert_eq!(produce_one(&tls("cert-1", Some("orders"))?, "alices")?, None);
    assert_eq!(produce_one(&tls("cert-1", Some("orders"))?, "bobs")?, Some(RDKafkaErrorCode::TopicAuthorizationFailed));
    for other in [Some("order"), None] {
        assert_eq!(produce_one(&tls("cert-2", other)?, "bobs")?, None, "{other:?}");
        assert_eq!(produce_one(&tls("cert-2", other)?, "alices")?, Some(RDKafkaErrorCode::TopicAuthorizationFailed), "{other:?}");
    }
    let seen: BTreeSet<(String, Option<String>)> = proxy
        .clients()?
        .iter()
        .map(|row| (row["route"].as_str().unwrap_or_default().to_owned(), row["tls_subject"].as_str().map(str::to_owned)))
        .collect();
    let without = || "without-certificate".to_owned();
    let expected =
        [("by-certificate".to_owned(), Some("CN=orders".to_owned())), (without(), Some("CN=order".to_owned())), (without(), None)];
    assert_eq!(seen, BTreeSet::from(expected));
    Ok(())
}

fn real_clients_log_in_at_the_proxy(proxy: &Proxy) -> Result<()> {
    let ca = &pki::authority()?.ca_path;
    let tls = format!("127.0.0.1:{}", proxy.tls_port()?);
    for (client, mechanism, over_tls) in CLIENTS {
        let bootstrap_servers = if over_tls { tls.clone() } else { proxy.bootstrap_servers() };
        let security = if over_tls { Security::sasl_ssl(ca, mechanism, APP) } else { Security::sasl_plaintext(mechanism, APP) };
        let mut job = Job::new(&bootstrap_servers, &format!("user-{}", client.name()), client.name());
        job.count = 200;
        job.security = Some(security);
        clients::run(client, &job).with_context(|| format!("{mechanism}\n{}", proxy.log_text()))?;
    }
    until("the log tells who it was", || {
        Ok(proxy.log()?.iter().any(|line| line["route"] == "by-user" && line["sasl_user"] == APP.name && line["cause"] == "client_closed"))
    })?;
    // To the application it is a login that failed, as it would be at a broker.
    let wrong = User { password: "guessed", ..APP };
    for (mechanism, user) in [("SCRAM-SHA-256", wrong), ("SCRAM-SHA-512", OTHER_APP), ("SCRAM-SHA-256", BOB)] {
        let consumer: BaseConsumer = with_login(&mut config(&proxy.bootstrap_servers(), "user-wrong"), mechanism, user).create()?;
        assert!(consumer.fetch_metadata(None, Duration::from_secs(3)).is_err(), "{mechanism} {user:?}");
    }
    let details = |text: &str| -> Result<bool> {
        Ok(proxy.log()?.iter().any(|line| line["cause"] == "not_logged_in" && line["detail"].as_str().is_some_and(|it| it.contains(text))))
    };
    assert!(details("its password is wrong")? && details("it is not among the route's sasl_users")? && details("there is no such user")?);
    Ok(())
}

fn handshake(client: &mut Raw, mechanism: &str) -> Result<(i16, Vec<String>)> {
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(mechanism.to_owned()));
    let answer = raw::ask(client, 1, "user-raw", &request)?;
    Ok((answer.error_code, answer.mechanisms.iter().map(ToString::to_string).collect()))
}

fn handshake_v0(client: &mut Raw, client_id: &str, mechanism: &str) -> Result<i16> {
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(mechanism.to_owned()));
    Ok(raw::ask(client, 0, client_id, &request)?.error_code)
}

/// SaslHandshake v0, and messages without a header: between client and broker, and between client and proxy.
fn logins_of_the_old_kind_pass(proxy: &Proxy) -> Result<()> {
    let ca = &pki::authority()?.ca_path;
    let tls = format!("127.0.0.1:{}", proxy.tls_port()?);
    for (nth, (client_id, user, mechanism, over_tls)) in [
        ("end-old", ALICE, "PLAIN", false),
        ("end-old", ALICE, "SCRAM-SHA-512", true),
        ("user-old", APP, "SCRAM-SHA-256", false),
        ("user-old", APP, "PLAIN", true),
    ]
    .into_iter()
    .enumerate()
    {
        let servers = if over_tls { tls.clone() } else { proxy.bootstrap_servers() };
        let security = if over_tls { Security::sasl_ssl(ca, mechanism, user) } else { Security::sasl_plaintext(mechanism, user) };
        let mut job = Job::new(&servers, &format!("{client_id}-{nth}"), "old");
        (job.count, job.timeout_ms, job.security) = (50, 30_000, Some(security));
        clients::sasl_v0(&job).with_context(|| format!("{client_id} {mechanism}\n{}", proxy.log_text()))?;
    }
    // The broker closes at a wrong password.
    let mut client = Raw::connect(proxy.port())?;
    assert_eq!(handshake_v0(&mut client, "end-raw", "PLAIN")?, 0);
    client.send(&raw::frame(b"\0alice\0guessed"))?;
    ended(proxy, &mut client, "broker_closed", "")?;
    // How long GSSAPI goes on only those know who understand it.
    let mut client = Raw::connect(proxy.port())?;
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("GSSAPI"));
    client.send(&raw::request(0, 7, "end-raw", &request)?)?;
    ended(proxy, &mut client, "bare_login", "with \"GSSAPI\" by SaslHandshake v0")
}

fn authenticate(client: &mut Raw, version: i16, bytes: &[u8]) -> Result<(i16, Option<String>)> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::copy_from_slice(bytes));
    let answer = raw::ask(client, version, "user-raw", &request)?;
    Ok((answer.error_code, answer.error_message.map(|message| message.to_string())))
}

fn nobody_else_gets_through(proxy: &Proxy) -> Result<()> {
    let scram = ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(str::to_owned).to_vec();
    let enter = || -> Result<Raw> {
        let mut client = Raw::connect(proxy.port())?;
        let (name, version) = raw::SOFTWARE;
        let asked = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(name))
            .with_client_software_version(StrBytes::from_static_str(version));
        let keys = raw::ask(&mut client, 3, "user-raw", &asked)?.api_keys;
        let range = |api: ApiKey| keys.iter().find(|range| range.api_key == api as i16).map(|range| (range.min_version, range.max_version));
        assert_eq!((range(ApiKey::SaslHandshake), range(ApiKey::SaslAuthenticate)), (Some((0, 1)), Some((0, 2))));
        assert!(range(ApiKey::Metadata).is_some());
        Ok(client)
    };
    let mut client = enter()?;
    client.send(&raw::metadata(9, Some("user-raw")))?;
    ended(proxy, &mut client, "not_logged_in", "it sent Metadata v1 before it had logged in")?;
    // And as the very first request.
    let mut client = Raw::connect(proxy.port())?;
    client.send(&raw::metadata(9, Some("user-raw")))?;
    ended(proxy, &mut client, "not_logged_in", "set the client's security.protocol to SASL_PLAINTEXT")?;

    // Without TLS nobody is asked to send a password in the clear.
    for mechanism in ["GSSAPI", "PLAIN"] {
        let mut client = enter()?;
        assert_eq!(handshake(&mut client, mechanism)?, (UNSUPPORTED_SASL_MECHANISM, scram.clone()));
        ended(proxy, &mut client, "not_logged_in", &format!("it wants the mechanism \"{mechanism}\""))?;
    }
    // A login of the old kind: there are no words for a refusal.
    let mut client = enter()?;
    assert_eq!(handshake_v0(&mut client, "user-raw", "SCRAM-SHA-256")?, 0);
    client.send(&raw::frame(b"n,,n=orders-app,r=abc"))?;
    assert!(client.frame()?.starts_with(b"r=abc"));
    client.send(&raw::frame(b"c=biws,r=abc,p=AAAA"))?;
    ended(proxy, &mut client, "not_logged_in", "it tried SCRAM-SHA-256")?;

    let mut client = enter()?;
    assert_eq!(authenticate(&mut client, 2, b"n,,n=orders-app,r=abc")?.0, ILLEGAL_SASL_STATE);
    ended(proxy, &mut client, "not_logged_in", "without SaslHandshake")?;
    let mut client = enter()?;
    assert_eq!(handshake(&mut client, "SCRAM-SHA-256")?.0, 0);
    assert_eq!(handshake(&mut client, "SCRAM-SHA-256")?.0, ILLEGAL_SASL_STATE);
    ended(proxy, &mut client, "not_logged_in", "a second login")?;

    // Whether it was the user or the password, or no SCRAM at all: the client cannot tell.
    let mut told = BTreeSet::new();
    for (version, first, last) in [
        (0, "n,,n=orders-app,r=abc", Some("c=biws,r=abc,p=AAAA")),
        (1, "n,,n=nobody,r=abc", Some("c=biws,r=abc,p=AAAA")),
        (2, "n,,n=nobody,r=abc", Some("nonsense")),
        (2, "nonsense", None),
    ] {
        let mut client = enter()?;
        assert_eq!(handshake(&mut client, "SCRAM-SHA-256")?, (0, scram.clone()));
        let mut answer = authenticate(&mut client, version, first.as_bytes())?;
        if let Some(last) = last {
            assert_eq!(answer, (0, None));
            answer = authenticate(&mut client, version, last.as_bytes())?;
        }
        assert_eq!(answer.0, SASL_AUTHENTICATION_FAILED);
        told.insert(answer.1);
        ended(proxy, &mut client, "not_logged_in", "it tried SCRAM-SHA-256")?;
    }
    let same = "Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-256";
    assert_eq!(told, BTreeSet::from([Some(same.to_owned())]));

    // Where the proxy has a login of the route's, and the client needs none, it has nothing to say.
    let mut client = Raw::connect(proxy.port())?;
    raw::ask(&mut client, 1, "token-1", &MetadataRequest::default())?;
    let answer = raw::ask(&mut client, 1, "token-1", &SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN")))?;
    assert_eq!(answer.error_code, UNSUPPORTED_SASL_MECHANISM);
    Ok(())
}

fn a_changed_password_of_a_user_counts_at_once(proxy: &Proxy, password_file: &Path) -> Result<()> {
    let as_user = |user| with_login(&mut config(&proxy.bootstrap_servers(), "other-1"), "SCRAM-SHA-512", user);
    let changed = User { password: "orders-app-secret", ..OTHER_APP };
    assert_eq!(produce_one(&as_user(OTHER_APP), "alices")?, None);
    let before = proxy.reloads("unchanged")?;
    fs::write(password_file, changed.password)?;
    until("the file was seen", || Ok(proxy.reloads("unchanged")? == before + 1))?;
    assert_eq!(produce_one(&as_user(changed), "alices")?, None);
    assert!(produce_one(&as_user(OTHER_APP), "alices")?.is_some());
    Ok(())
}

fn a_token_is_read_at_each_login(proxy: &Proxy, token_file: &Path) -> Result<()> {
    let plain = |client_id: &str| config(&proxy.bootstrap_servers(), client_id);
    assert_eq!(produce_one(&plain("token-bob"), "bobs")?, None);
    assert_eq!(produce_one(&plain("token-bob"), "alices")?, Some(RDKafkaErrorCode::TopicAuthorizationFailed));
    fs::write(token_file, token(ALICE.name, Duration::from_hours(1))?)?;
    assert_eq!(produce_one(&plain("token-alice"), "alices")?, None);

    let expired = token(ALICE.name, Duration::ZERO)?;
    for (content, says) in [(expired.as_str(), "invalid_token"), ("", "holds no token: it is empty")] {
        fs::write(token_file, content)?;
        let mut client = Raw::connect(proxy.port())?;
        client.send(&raw::metadata(1, Some("token-refused")))?;
        ended(proxy, &mut client, "cluster_unreachable", says)?;
    }
    fs::write(token_file, token(ALICE.name, Duration::from_hours(1))?)?;
    Ok(())
}

/// Sends a record every few milliseconds until told to stop, and says how many.
fn keep_sending(producer: &BaseProducer<Acks>, topic: &str, until: Instant) -> Result<usize> {
    let mut sent = 0;
    while Instant::now() < until {
        producer.send(BaseRecord::<str, str>::to(topic).payload("on and on")).map_err(|(error, _)| error)?;
        sent += 1;
        producer.poll(Duration::from_millis(20));
    }
    producer.flush(LIMIT)?;
    Ok(sent)
}

/// KIP-368.
#[test]
fn logins_that_run_out_are_renewed_and_nobody_notices() -> Result<()> {
    // Java renews after 85 to 95 % of it, and the broker closes the connection of one that comes too late: a busy machine is not to make anybody late.
    const PERIOD: Duration = Duration::from_secs(10);
    let period = PERIOD.as_millis().to_string();
    let cluster =
        Cluster::version("4.3.0").name("secure").listen(Listener::SaslPlaintext).set("connections.max.reauth.ms", &period).start()?;
    for topic in ["java", "end", "plain", "guarded"] {
        cluster.create_topic(topic, 1, &[])?;
    }
    let anywhere = format!("client_address = \"127.0.0.1\"\n{}", credentials(ALICE));
    let routes = Routes::new()?
        .kafka("secure", &cluster, Listener::SaslPlaintext, Some(ADMIN))?
        .section(&format!("[users.{}]\nsasl_password = \"{}\"\n", APP.name, APP.password))
        .relay("end-to-end", "end-*", "secure", "")
        .relay("plain", "plain-*", "secure", &anywhere)
        .relay("guarded", "guarded-*", "secure", &format!("sasl_users = \"{}\"\n{}", APP.name, credentials(ALICE)));
    let proxy = Proxy::start(&routes)?;
    let servers = proxy.bootstrap_servers();

    let properties = harness::run::folder("java")?.join("client.properties");
    fs::write(
        &properties,
        format!(
            "bootstrap.servers={servers}\nclient.id=end-java\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\n\
             sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{}\" password=\"{}\";\n",
            BOB.name, BOB.password
        ),
    )?;
    let producer = |config: &mut ClientConfig| -> Result<BaseProducer<Acks>> {
        Ok(config.set("linger.ms", "0").set("message.timeout.ms", LIMIT.as_millis().to_string()).create_with_context(Acks::default())?)
    };
    let clients = [
        ("end", producer(&mut with_login(&mut config(&servers, "end-rdkafka"), "SCRAM-SHA-256", BOB))?),
        ("plain", producer(&mut config(&servers, "plain-rdkafka"))?),
        ("guarded", producer(&mut with_login(&mut config(&servers, "guarded-rdkafka"), "SCRAM-SHA-512", APP))?),
    ];
    let properties = properties.to_string_lossy().into_owned();
    thread::scope(|scope| -> Result<()> {
        let java = scope.spawn(|| {
            let (records, rate) = ("1600", "40");
            let arguments = [
                "--topic",
                "java",
                "--num-records",
                records,
                "--record-size",
                "100",
                "--throughput",
                rate,
                "--producer.config",
                &properties,
            ];
            cluster.tool("org.apache.kafka.tools.ProducerPerformance", &arguments)
        });
        until("the Java client has begun", || Ok(cluster.record_count("java")? > 0))?;
        let end = Instant::now() + PERIOD * 7 / 2;
        let sending: Vec<_> = clients
            .iter()
            .map(|(topic, producer)| scope.spawn(move || keep_sending(producer, topic, end).with_context(|| (*topic).to_owned())))
            .collect();
        // Bootstrap connections and metadata are settled; from here on, nobody has a reason to connect again.
        thread::sleep(PERIOD / 2);
        let accepted = || Ok::<_, anyhow::Error>(proxy.metric("kferry_proxy_connections_accepted_total", &[])? as u64);
        let before = accepted()?;
        let mut sent = Vec::new();
        for sending in sending {
            sent.push(sending.join().map_err(|_| anyhow!("a sender panicked"))??);
        }
        let printed = java.join().map_err(|_| anyhow!("the Java client panicked"))??;
        ensure!(printed.contains("1600 records sent") && !printed.contains("Exception") && !printed.contains("ERROR"), "{printed}");
        assert_eq!(accepted()?, before, "somebody had to connect again:\n{}", proxy.log_text());
        for ((topic, producer), sent) in clients.iter().zip(sent) {
            let (acked, errors) = producer.context().so_far();
            ensure!(acked == sent && sent > 100 && errors.is_empty(), "{topic}: {acked} of {sent}, {errors:?}");
        }
        Ok(())
    })?;
    // Two clients of each at least, three times or more: librdkafka keeps its bootstrap connection idle, and that needs nothing.
    let renewed = proxy.metric("kferry_proxy_logins_renewed_total", &[("cluster", "secure")])?;
    assert!(renewed >= 6.0, "{renewed}");
    assert_eq!(proxy.closed_count("broker_closed")? + proxy.closed_count("broker_error")?, 0, "{}", proxy.log_text());
    assert_eq!(cluster.record_count("java")?, 1600);
    no_secrets(&proxy)
}

/// What a TLS listener shows: the certificate's bytes.
fn shown(port: u16) -> Result<Vec<u8>> {
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let mut roots = RootCertStore::empty();
    let authority = pki_types_of(&pki::authority()?.ca_pem)?;
    roots.add(authority)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
        let chain = stream.get_ref().1.peer_certificates().context("it showed nothing")?;
        Ok(chain[0].to_vec())
    })
}

fn pki_types_of(pem: &str) -> Result<tokio_rustls::rustls::pki_types::CertificateDer<'static>> {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    tokio_rustls::rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| anyhow!("{error}"))
}

#[test]
fn renewed_certificates_are_picked_up_and_broken_ones_are_not() -> Result<()> {
    let broker = FakeBroker::start()?;
    let authority = pki::authority()?;
    let (first, second) = (authority.server(&["first.example"])?, authority.server_until(2048, &["second.example"])?);
    let der = |identity: &pki::Identity| pki_types_of(&identity.certificate_pem).map(|certificate| certificate.to_vec());
    let routes = Routes::new()?.cluster("fake", &broker.address()).tls_listener(&first)?.route("all", "*", "fake");
    let proxy = Proxy::start(&routes)?;
    let port = proxy.tls_port()?;
    assert!(shown(port)? == der(&first)?);
    let labels = [("table", "listeners.tls"), ("key", "ssl_certificate_location")];
    let not_after = || Ok::<_, anyhow::Error>(proxy.metric("kferry_proxy_certificate_not_after_timestamp_seconds", &labels)? as u64);
    assert_eq!(not_after()?, 2_524_521_600, "the last day of 2049");
    let healthy = || -> Result<bool> { Ok(proxy.metric("kferry_proxy_config_last_reload_successful", &[])? as u64 == 1) };

    // A renewal is two files, one after the other, where a file of each is there before.
    fs::write(&first.certificate_path, "-----BEGIN CERTIFICATE-----\nnothing of the kind\n-----END CERTIFICATE-----\n")?;
    until("the broken file is seen", || Ok(!healthy()?))?;
    assert!(shown(port)? == der(&first)?, "the old one stays");
    let path = first.certificate_path.to_string_lossy();
    let says = |line: &serde_json::Value| line["level"] == "ERROR" && line["message"].as_str().is_some_and(|it| it.contains(&*path));
    until("the log says which file, and why", || Ok(proxy.log()?.iter().any(says)))?;
    assert_eq!(proxy.reloads("invalid")?, 1, "once, not at every look");

    fs::write(&first.key_path, &second.key_pem)?;
    fs::write(&first.certificate_path, &second.certificate_pem)?;
    until("the renewed certificate is shown", || Ok(shown(port)? == der(&second)?))?;
    until("all is well again", healthy)?;
    assert_eq!(not_after()?, 2_492_985_600, "the last day of 2048");
    assert_eq!((proxy.reloads("changed")?, proxy.reloads("unchanged")?), (0, 1));
    Ok(())
}
