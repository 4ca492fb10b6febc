//! Systems that are built on Kafka, unmodified, through the proxy in both modes: Kafka Connect, Kafka Streams, MirrorMaker 2, what a user interface
//! asks, kcat, and clients that are not in the matrix. Each does its work and is looked at on the clusters: what is missing, doubled or on the wrong
//! cluster fails. docs/systems.md has the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::clients::{self, Client, Job};
use harness::kafka::{Cluster, Listener, Record};
use harness::process::Process;
use harness::proxy::{Proxy, Routes};
use harness::systems::{self, STRING, Worker};
use harness::{process, run};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

/// How a system comes to its cluster; each system is run in both modes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// To the legacy cluster.
    Bootstrap,
    /// To the new one.
    Relay,
}

impl Mode {
    /// What the names of its clients, topics and groups begin with; the name of its route too.
    fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Relay => "relay",
        }
    }

    fn named(self, what: &str) -> String {
        format!("{}-{what}", self.name())
    }
}

/// Two clusters and a proxy for all tests of this program. They end with it.
struct Stage {
    legacy: Cluster,
    new: Cluster,
    proxy: Proxy,
}

impl Stage {
    fn set() -> Result<Self> {
        let legacy = Cluster::version("3.9.1").name("legacy").first_node_id(1001);
        // No broker is killed here, and a busy machine is no reason to lose one.
        let builders = [legacy, Cluster::version("4.3.0").name("new")].map(|cluster| cluster.set("broker.session.timeout.ms", "30000"));
        let [legacy, new] = Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))?;
        let routes = Routes::new()?
            .kafka("legacy", &legacy, Listener::Plaintext, None)?
            .kafka("new", &new, Listener::Plaintext, None)?
            // MirrorMaker 2 has clients on both clusters, which are told apart by the `client.id` of each cluster in its file.
            .route("bootstrap-mm2", "bootstrap-*mm2-new*", "new")
            .relay("relay-mm2", "relay-*mm2-legacy*", "legacy", "")
            // What a Connect worker runs for a connector has the connector's name.
            .route("bootstrap", "{bootstrap-*,connector-*-bootstrap-*}", "legacy")
            .relay("relay", "{relay-*,connector-*-relay-*}", "new", "");
        let proxy = Proxy::start(&routes)?;
        Ok(Self { legacy, new, proxy })
    }

    fn cluster(&self, mode: Mode) -> &Cluster {
        match mode {
            Mode::Bootstrap => &self.legacy,
            Mode::Relay => &self.new,
        }
    }

    fn other(&self, mode: Mode) -> &Cluster {
        match mode {
            Mode::Bootstrap => &self.new,
            Mode::Relay => &self.legacy,
        }
    }

    /// These topics are on the cluster of the route, and the other one has nothing of this mode and system.
    fn landed(&self, mode: Mode, system: &str, topics: &[String]) -> Result<()> {
        let there: BTreeSet<String> = self.cluster(mode).list_topics()?.into_iter().collect();
        for topic in topics {
            ensure!(there.contains(topic), "{topic} is not on the cluster: {there:?}");
        }
        let strayed: Vec<String> =
            self.other(mode).list_topics()?.into_iter().filter(|topic| topic.contains(&mode.named(system))).collect();
        ensure!(strayed.is_empty(), "on the other cluster are {strayed:?}");
        Ok(())
    }

    /// The `client.id`s with this part that the proxy has seen; each was sent to the cluster of the route.
    fn client_ids(&self, mode: Mode, part: &str) -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for row in self.proxy.clients()? {
            let id = row["client_id"].as_str().unwrap_or_default();
            if id.contains(&mode.named(part)) {
                let cluster = if mode == Mode::Bootstrap { "legacy" } else { "new" };
                ensure!(row["route"] == mode.name() && row["cluster"] == cluster, "{row}");
                ids.insert(id.to_owned());
            }
        }
        Ok(ids)
    }
}

/// Runs a system in both modes at once.
fn both(system: impl Fn(&'static Stage, Mode) -> Result<()> + Sync) -> Result<()> {
    static STAGE: OnceLock<Result<Stage, String>> = OnceLock::new();
    let stage = STAGE.get_or_init(|| Stage::set().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow!("{error}"))?;
    let results = thread::scope(|scope| {
        let system = &system;
        let running = [Mode::Bootstrap, Mode::Relay].map(|mode| (mode, scope.spawn(move || system(stage, mode))));
        running.map(|(mode, running)| (mode, running.join().unwrap_or_else(|_| Err(anyhow!("panicked")))))
    });
    for (mode, result) in results {
        result.with_context(|| format!("in mode {}", mode.name()))?;
    }
    // A task that panics is caught by its runtime: from outside it looks like a closed connection.
    ensure!(!stage.proxy.log_text().contains("panicked at"), "kferry-proxy panicked:\n{}", stage.proxy.log_text());
    Ok(())
}

fn values(cluster: &Cluster, topic: &str) -> Result<Vec<String>> {
    Ok(cluster.read_all(topic)?.into_iter().map(|record| text(record.value.as_deref())).collect())
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// The lines of a file that may not be there yet.
fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn append(file: &Path, lines: &[String]) -> Result<()> {
    use std::io::Write as _;
    let text: String = lines.join("\n") + "\n";
    fs::File::options().create(true).append(true).open(file)?.write_all(text.as_bytes())?;
    Ok(())
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("line {n}")).collect()
}

/// As JSON: what the source's connector writes, and the sink's reads.
fn as_json(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| Value::from(line.as_str()).to_string()).collect()
}

const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";
const FILE_SOURCE: &str = "org.apache.kafka.connect.file.FileStreamSourceConnector";
const FILE_SINK: &str = "org.apache.kafka.connect.file.FileStreamSinkConnector";

/// A source reads a file into a topic, a sink writes that into another file; a line that is no JSON goes to the dead-letter queue. The worker is
/// stopped and started again in between.
#[test]
fn connect_distributed() -> Result<()> {
    both(|stage, mode| {
        let (cluster, folder) = (stage.cluster(mode), run::folder("connect")?);
        let named = |what: &str| mode.named(&format!("connect-{what}"));
        let (source, sink, topic, dead) = (named("source"), named("sink"), named("lines"), named("dead"));
        let (configs, offsets, statuses) = (named("configs"), named("offsets"), named("statuses"));
        let (group, worker_id, servers) = (mode.named("connect"), named("worker"), stage.proxy.bootstrap_servers());
        let (input, output) = (folder.join("input"), folder.join("output"));
        let properties: Vec<(&str, &str)> = vec![
            ("bootstrap.servers", &servers),
            ("group.id", &group),
            ("client.id", &worker_id),
            ("config.storage.topic", &configs),
            ("offset.storage.topic", &offsets),
            ("status.storage.topic", &statuses),
        ];
        let (first, second) = (numbered(0..100), numbered(100..200));
        let bad = "this is no JSON".to_owned();
        append(&input, &as_json(&first))?;
        append(&input, std::slice::from_ref(&bad))?;

        let mut worker = Worker::distributed(&folder, &properties)?;
        worker.configure(
            &source,
            &[
                ("connector.class", FILE_SOURCE),
                ("file", &input.to_string_lossy()),
                ("topic", &topic),
                // By the connector's own admin client (KIP-158): brokers of the test bed create no topics by themselves.
                ("topic.creation.default.partitions", "1"),
                ("topic.creation.default.replication.factor", "1"),
            ],
        )?;
        worker.configure(
            &sink,
            &[
                ("connector.class", FILE_SINK),
                ("file", &output.to_string_lossy()),
                ("topics", &topic),
                ("value.converter", JSON),
                ("value.converter.schemas.enable", "false"),
                ("errors.tolerance", "all"),
                ("errors.deadletterqueue.topic.name", &dead),
                ("errors.deadletterqueue.topic.replication.factor", "1"),
                ("errors.deadletterqueue.context.headers.enable", "true"),
            ],
        )?;
        let has = |expected: &[String]| {
            let found = lines(&output);
            ensure!(found == expected, "the sink's file has {} lines: {:?}", found.len(), found.last());
            Ok(())
        };
        worker.comes(|_| has(&first))?;
        worker.stop()?;

        append(&input, &as_json(&second))?;
        let mut worker = Worker::distributed(&folder, &properties)?;
        worker.comes(|_| has(&[&first[..], &second[..]].concat()))?;
        worker.comes(|worker| {
            for connector in [&source, &sink] {
                let status = worker.ask("GET", &format!("/connectors/{connector}/status"), "")?;
                ensure!(status["connector"]["state"] == "RUNNING" && status["tasks"][0]["state"] == "RUNNING", "{status}");
            }
            Ok(())
        })?;
        worker.stop()?;

        let expected = [as_json(&first), vec![bad.clone()], as_json(&second)].concat();
        assert_eq!(values(cluster, &topic)?, expected);
        let letters = cluster.read_all(&dead)?;
        let [letter] = &letters[..] else { panic!("{} dead letters: {letters:?}", letters.len()) };
        let headers: BTreeMap<&str, String> = letter.headers.iter().map(|(name, value)| (name.as_str(), text(value.as_deref()))).collect();
        assert_eq!(text(letter.value.as_deref()), bad);
        let header = |name: &str| headers.get(format!("__connect.errors.{name}").as_str()).map(String::as_str);
        assert_eq!(
            (header("topic"), header("offset"), header("connector.name")),
            (Some(&*topic), Some("100"), Some(&*sink)),
            "{headers:?}"
        );
        assert!(header("exception.class.name").is_some_and(|class| class.ends_with("DataException")), "{headers:?}");
        assert_eq!(cluster.committed_offsets(&format!("connect-{sink}"))?, BTreeMap::from([((topic.clone(), 0), 201)]));
        stage.landed(mode, "connect", &[topic, dead, configs, offsets, statuses])?;

        // The worker's own clients, and with its `client.id` the admin clients of connectors; what runs for a connector otherwise has its name.
        let of_the_worker = ["offsets", "configs", "statuses", "shared-admin"].map(|what| format!("{group}-{worker_id}-{what}"));
        let of_the_connectors = [("producer", &source), ("consumer", &sink), ("dlq-producer", &sink)];
        let of_the_connectors = of_the_connectors.map(|(what, connector)| format!("connector-{what}-{connector}-0"));
        let expected = of_the_worker.into_iter().chain(of_the_connectors).chain([worker_id]).collect();
        assert_eq!(stage.client_ids(mode, "connect")?, expected);
        Ok(())
    })
}

/// The same without a group and topics of its own: connectors and offsets are in files.
#[test]
fn connect_standalone() -> Result<()> {
    both(|stage, mode| {
        let (cluster, folder) = (stage.cluster(mode), run::folder("connect-standalone")?);
        let named = |what: &str| mode.named(&format!("standalone-{what}"));
        let (source, sink, topic) = (named("source"), named("sink"), named("lines"));
        let (input, output, offsets) = (folder.join("input"), folder.join("output"), folder.join("offsets"));
        let (worker_id, servers) = (named("worker"), stage.proxy.bootstrap_servers());
        let properties: Vec<(&str, &str)> = vec![
            ("bootstrap.servers", &servers),
            ("client.id", &worker_id),
            ("offset.storage.file.filename", offsets.to_str().context("a path in UTF-8")?),
            ("offset.flush.interval.ms", "1000"),
            ("key.converter", STRING),
            ("value.converter", STRING),
        ];
        let from = [
            ("name", &*source),
            ("connector.class", FILE_SOURCE),
            ("file", &input.to_string_lossy()),
            ("topic", &topic),
            ("topic.creation.default.partitions", "1"),
            ("topic.creation.default.replication.factor", "1"),
        ];
        let to = [("name", &*sink), ("connector.class", FILE_SINK), ("file", &output.to_string_lossy()), ("topics", &topic)];
        let connectors = [systems::properties(&folder, "source", &from)?, systems::properties(&folder, "sink", &to)?];

        let (first, second) = (numbered(0..50), numbered(50..100));
        for so_far in [first.clone(), [&first[..], &second[..]].concat()] {
            append(&input, &so_far[lines(&input).len()..])?;
            let mut worker = Worker::standalone(&folder, &properties, &connectors)?;
            worker.comes(|_| {
                let found = lines(&output);
                ensure!(found == so_far, "the sink's file has {} lines: {:?}", found.len(), found.last());
                Ok(())
            })?;
            worker.stop()?;
            assert_eq!(values(cluster, &topic)?, so_far);
        }
        stage.landed(mode, "standalone", &[topic])?;
        let expected = [worker_id, format!("connector-producer-{source}-0"), format!("connector-consumer-{sink}-0")];
        assert_eq!(stage.client_ids(mode, "standalone")?, BTreeSet::from(expected));
        Ok(())
    })
}

/// A word count of Kafka Streams with exactly-once. It is killed in the middle and loses its disk: the state comes back from the changelog, and each
/// count is there once.
#[test]
fn streams() -> Result<()> {
    both(|stage, mode| {
        let (cluster, folder) = (stage.cluster(mode), run::folder("streams")?);
        let (application, input, output) = (mode.named("streams"), mode.named("streams-lines"), mode.named("streams-counts"));
        cluster.create_topic(&input, 4, &[])?;
        cluster.create_topic(&output, 4, &[])?;
        let state = folder.join("state");
        let servers = stage.proxy.bootstrap_servers();
        let file = systems::properties(
            &folder,
            "streams.properties",
            &[
                ("bootstrap.servers", &servers),
                ("application.id", &application),
                ("state.dir", &state.to_string_lossy()),
                ("processing.guarantee", "exactly_once_v2"),
                ("num.stream.threads", "2"),
                ("replication.factor", "1"),
                // Each count is to be seen, not only the last one of a transaction.
                ("statestore.cache.max.bytes", "0"),
                ("auto.offset.reset", "earliest"),
                // What a killed instance had is open so long, and its tasks are its own so long.
                ("transaction.timeout.ms", "6000"),
                ("session.timeout.ms", "6000"),
            ],
        )?;
        let log = folder.join("log");
        let start = || {
            let command = systems::java("WordCount", [&*file, Path::new(&input), Path::new(&output)])?;
            Process::spawn("a Streams application", &command, &log)
        };
        // 30 words, each as often as any other.
        let round = |round: usize| -> Vec<Record> {
            let line = |n: usize| format!("word-{} word-{} word-{}", n % 30, (n + 7) % 30, (n + 19) % 30);
            (0..300).map(|n| Record::new(format!("{round}-{n}"), line(n))).collect()
        };
        let counts = || -> Result<BTreeMap<String, Vec<String>>> {
            let mut counts = BTreeMap::<_, Vec<_>>::new();
            for record in cluster.read_all(&output)? {
                counts.entry(text(record.key.as_deref())).or_default().push(text(record.value.as_deref()));
            }
            Ok(counts)
        };
        let found = || -> Result<usize> { Ok(counts()?.values().map(Vec::len).sum()) };

        cluster.produce(&input, &round(1))?;
        let mut application_runs = start()?;
        systems::comes(&mut application_runs, || {
            let found: usize = found()?;
            ensure!(found == 900, "{found} of 900 counts");
            Ok(())
        })?;
        // What is produced now is under way when it is killed, or not begun.
        cluster.produce(&input, &round(2))?;
        application_runs.kill();
        fs::remove_dir_all(&state)?;
        let mut application_runs = start()?;
        cluster.produce(&input, &round(3))?;
        systems::comes(&mut application_runs, || {
            let found: usize = found()?;
            ensure!(found >= 2_700, "{found} of 2,700 counts");
            Ok(())
        })?;
        let status = application_runs.terminate(harness::LIMIT)?;
        ensure!(status.code() == Some(143), "it ended with {status}:\n{}", application_runs.log_tail(60));

        let exact: Vec<String> = (1..=90).map(|count| count.to_string()).collect();
        let counts = counts()?;
        for (word, counts) in &counts {
            assert_eq!(counts, &exact, "{word}");
        }
        assert_eq!(counts.len(), 30);
        let changelog = format!("{application}-counts-changelog");
        let restored = lines(&log)
            .iter()
            .filter_map(|line| line.strip_prefix(&format!("restored {changelog}-"))?.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum::<u64>();
        ensure!(restored >= 30, "{restored} records of the changelog were restored:\n{}", fs::read_to_string(&log)?);
        stage.landed(mode, "streams", &[changelog, format!("{application}-words-repartition")])?;

        // APP-UUID-StreamThread-1-producer and so on; two processes.
        let kinds: BTreeSet<String> =
            stage.client_ids(mode, "streams")?.iter().filter_map(|id| Some(id.get(application.len() + 37..)?.to_owned())).collect();
        let threads = ["1", "2"].into_iter().flat_map(|thread| {
            ["StreamThread-N-consumer", "StreamThread-N-producer", "StateUpdater-N-restore-consumer"]
                .map(|kind| format!("-{}", kind.replace('N', thread)))
        });
        assert_eq!(kinds, threads.chain(["-admin".to_owned()]).collect());
        Ok(())
    })
}

/// Clients that are not in the matrix: each lists topics, produces, and consumes in a group of two.
#[test]
fn other_clients() -> Result<()> {
    for client in Client::OTHERS {
        clients::prepare(client)?;
    }
    both(|stage, mode| {
        for client in Client::OTHERS {
            let id = mode.named(client.name());
            stage.cluster(mode).create_topic(&id, 4, &[])?;
            let job = Job { timeout_ms: 120_000, ..Job::new(&stage.proxy.bootstrap_servers(), &id, &id) };
            let outcome = clients::run(client, &job)?;
            ensure!(outcome.members.iter().all(|&records| records > 0), "a member of the group got nothing: {outcome:?}");
            println!("{} {}, {}: {:.1} s", outcome.client, outcome.version, mode.name(), outcome.seconds);
            assert_eq!(stage.cluster(mode).record_count(&id)?, outcome.produced as usize, "{id}");
            let committed: i64 = stage.cluster(mode).committed_offsets(&id)?.values().sum();
            assert_eq!(committed, i64::from(outcome.produced), "{id}");
            stage.landed(mode, client.name(), std::slice::from_ref(&id))?;
            assert_eq!(stage.client_ids(mode, client.name())?, BTreeSet::from([id]));
        }
        Ok(())
    })
}

/// kcat produces from a file, lists, reads by itself and in a group.
#[test]
fn kcat() -> Result<()> {
    both(|stage, mode| {
        let (cluster, folder, id) = (stage.cluster(mode), run::folder("kcat")?, mode.named("kcat"));
        cluster.create_topic(&id, 2, &[])?;
        let kcat = |arguments: &[&str]| {
            let mut command = Command::new(process::require("kcat", "`apt install kcat`")?);
            command.args(["-q", "-b", &stage.proxy.bootstrap_servers(), "-X", &format!("client.id={id}")]).args(arguments);
            systems::output(command)
        };
        let input = folder.join("input");
        let expected: BTreeSet<String> = (0..100).map(|n| format!("key {n}:value {n}")).collect();
        append(&input, &expected.iter().cloned().collect::<Vec<_>>())?;
        kcat(&["-P", "-t", &id, "-K:", "-l", input.to_str().context("a path in UTF-8")?])?;
        assert_eq!(cluster.record_count(&id)?, 100);

        let listed: Value = serde_json::from_str(&kcat(&["-L", "-J", "-t", &id])?)?;
        let broker = &listed["brokers"][0];
        let (node, address) = (broker["id"].as_i64().context("a node id")?, broker["name"].as_str().context("an address")?);
        let real = (i64::from(cluster.node_ids()[0]), cluster.bootstrap_servers(Listener::Plaintext)?);
        match mode {
            Mode::Bootstrap => assert_eq!((node, address), (real.0, &*real.1)),
            // The second cluster of the file.
            Mode::Relay => assert!(node == 20_000_000 + real.0 && address != real.1, "{listed}"),
        }
        assert_eq!(listed["topics"][0]["partitions"].as_array().map(Vec::len), Some(2), "{listed}");

        let consumes = |arguments: &[&str]| -> Result<()> {
            let found = kcat(arguments)?;
            ensure!(
                found.lines().count() == 100 && found.lines().map(str::to_owned).collect::<BTreeSet<_>>() == expected,
                "{arguments:?}: {found}"
            );
            Ok(())
        };
        consumes(&["-C", "-t", &id, "-K:", "-o", "beginning", "-e"])?;
        consumes(&["-K:", "-c", "100", "-X", "auto.offset.reset=earliest", "-G", &id, &id])?;
        assert_eq!(cluster.committed_offsets(&id)?.values().sum::<i64>(), 100);
        stage.landed(mode, "kcat", std::slice::from_ref(&id))?;
        assert_eq!(stage.client_ids(mode, "kcat")?, BTreeSet::from([id]));
        Ok(())
    })
}

/// MirrorMaker 2 as a program of its own, with both of its clusters behind the proxy: always from the legacy cluster to the new one.
#[test]
fn mirror_maker_2() -> Result<()> {
    both(|stage, mode| {
        let (folder, topic, group) = (run::folder("mirror-maker")?, mode.named("mm2-orders"), mode.named("mm2-group"));
        let (source, target) = (mode.named("legacy"), mode.named("new"));
        let servers = stage.proxy.bootstrap_servers();
        stage.legacy.create_topic(&topic, 2, &[])?;
        let records = |range: std::ops::Range<usize>| -> Vec<Record> {
            range.map(|n| Record::new(format!("key {n}"), format!("value {n}"))).collect()
        };
        stage.legacy.produce(&topic, &records(0..200))?;
        let of = |cluster: &str, key: &str| format!("{cluster}.{key}");
        let flow = |key: &str| format!("{source}->{target}.{key}");
        let settings = [
            ("clusters".to_owned(), format!("{source},{target}")),
            (of(&source, "bootstrap.servers"), servers.clone()),
            (of(&target, "bootstrap.servers"), servers),
            (flow("enabled"), "true".to_owned()),
            (flow("topics"), topic.clone()),
            (flow("groups"), group.clone()),
            (flow("sync.group.offsets.enabled"), "true".to_owned()),
            ("emit.checkpoints.interval.seconds".to_owned(), "1".to_owned()),
            ("sync.group.offsets.interval.seconds".to_owned(), "1".to_owned()),
            ("refresh.groups.interval.seconds".to_owned(), "1".to_owned()),
            ("sync.topic.acls.enabled".to_owned(), "false".to_owned()),
            ("offset.lag.max".to_owned(), "0".to_owned()),
        ];
        let replicated =
            ["", "checkpoints.topic.", "heartbeats.topic.", "offset-syncs.topic.", "config.storage.", "offset.storage.", "status.storage."]
                .map(|topics| (format!("{topics}replication.factor"), "1".to_owned()));
        // By these the proxy tells its clients on the one cluster from those on the other: of the workers, of the connectors, and what they write.
        let ids = [(&source, "mm2-legacy"), (&target, "mm2-new")].map(|(cluster, id)| {
            ["", "admin.", "consumer.", "producer."].map(|kind| (of(cluster, &format!("{kind}client.id")), mode.named(id)))
        });
        let settings: Vec<(&str, &str)> =
            settings.iter().chain(ids.as_flattened()).chain(&replicated).map(|(key, value)| (&**key, &**value)).collect();
        let file = systems::properties(&folder, "mm2.properties", &settings)?;

        // A group that has read everything.
        let mut config = stage.legacy.client_config(Listener::Plaintext)?;
        config.set("group.id", &group);
        let consumer: BaseConsumer = config.create()?;
        let mut committed = TopicPartitionList::new();
        for (partition, end) in stage.legacy.log_ends(&topic)?.into_iter().enumerate() {
            committed.add_partition_offset(&topic, partition as i32, Offset::Offset(end))?;
        }
        consumer.commit(&committed, CommitMode::Sync)?;

        let start = || {
            Process::spawn("MirrorMaker 2", &systems::java("org.apache.kafka.connect.mirror.MirrorMaker", [&*file])?, &folder.join("log"))
        };
        let copied = format!("{source}.{topic}");
        let arrived = |count: usize| {
            let found = stage.new.record_count(&copied)?;
            ensure!(found == count, "{found} of {count} records of {copied}");
            Ok(())
        };
        let mut mirror_maker = start()?;
        systems::comes(&mut mirror_maker, || arrived(200))?;
        systems::comes(&mut mirror_maker, || {
            let synced = stage.new.committed_offsets(&group)?;
            ensure!(synced.values().sum::<i64>() == 200, "the group has {synced:?}");
            Ok(())
        })?;
        mirror_maker.terminate(harness::LIMIT)?;
        stage.legacy.produce(&topic, &records(200..300))?;
        let mut mirror_maker = start()?;
        systems::comes(&mut mirror_maker, || arrived(300))?;
        mirror_maker.terminate(harness::LIMIT)?;

        let all = |cluster: &Cluster, topic: &str| -> Result<Vec<Record>> {
            Ok(cluster.read_all(topic)?.into_iter().map(|record| Record { timestamp: None, ..record }).collect())
        };
        assert_eq!(all(&stage.new, &copied)?, all(&stage.legacy, &topic)?);
        let (on_legacy, on_new) = (stage.legacy.list_topics()?, stage.new.list_topics()?);
        let internal = format!("mm2-offset-syncs.{target}.internal");
        assert!(on_legacy.contains(&internal) && !on_new.contains(&internal), "{internal}: {on_legacy:?}, {on_new:?}");
        for topic in [format!("mm2-offsets.{source}.internal"), format!("{source}.checkpoints.internal"), copied] {
            assert!(on_new.contains(&topic) && !on_legacy.contains(&topic), "{topic}: {on_legacy:?}, {on_new:?}");
        }
        // Every client that belongs to a cluster was on it.
        let mut ids = BTreeMap::<_, BTreeSet<String>>::new();
        for row in stage.proxy.clients()? {
            let id = row["client_id"].as_str().unwrap_or_default();
            if id.contains(&mode.named("mm2")) {
                ids.entry(row["cluster"].to_string()).or_default().insert(id.to_owned());
            }
        }
        println!("{ids:#?}");
        assert!(
            ids["\"legacy\""].iter().all(|id| id.contains("mm2-legacy")) && ids["\"new\""].iter().all(|id| id.contains("mm2-new")),
            "{ids:?}"
        );
        Ok(())
    })
}

/// What a user interface asks: through the proxy it gets the answers that the cluster gives, and in relay mode no broker's own address or node id.
#[test]
// One question after the other.
#[allow(clippy::too_many_lines)]
fn what_a_user_interface_asks() -> Result<()> {
    both(|stage, mode| {
        let (cluster, topic) = (stage.cluster(mode), mode.named("questions"));
        cluster.create_topic(&topic, 3, &[("retention.ms", "86400000")])?;
        cluster.produce(&topic, &(0..30).map(|n| Record::new(format!("{n}"), format!("value {n}"))).collect::<Vec<_>>())?;
        let real = cluster.bootstrap_servers(Listener::Plaintext)?;
        // A group of each kind that the cluster has, with a member. That of the consumer protocol is there without the proxy: librdkafka wants version 1
        // of ConsumerGroupHeartbeat, which a relayed client is not told of where it may be moved to 3.9.
        let protocols: &[&str] = if mode == Mode::Relay { &["classic", "consumer"] } else { &["classic"] };
        let mut members = Vec::new();
        for protocol in protocols {
            let mut config = ClientConfig::new();
            let servers = if *protocol == "consumer" { real.clone() } else { stage.proxy.bootstrap_servers() };
            config.set("bootstrap.servers", servers).set("client.id", mode.named("questioned"));
            config
                .set("group.id", mode.named(&format!("questions-{protocol}")))
                .set("group.protocol", *protocol)
                .set("auto.offset.reset", "earliest");
            let member: BaseConsumer = config.create()?;
            member.subscribe(&[&topic])?;
            let (mut came, deadline) = (0, Instant::now() + harness::LIMIT);
            while came < 30 {
                ensure!(Instant::now() < deadline, "{protocol}: {came} of 30 records came");
                if let Some(record) = member.poll(Duration::from_millis(300)) {
                    record?;
                    came += 1;
                }
            }
            member.commit_consumer_state(CommitMode::Sync)?;
            members.push(member);
        }
        let ask = |servers: &str, client_id: &str| -> Result<Value> {
            let printed = systems::output(systems::java("Questions", [servers, client_id].map(Path::new))?)?;
            serde_json::from_str(&printed).context(printed)
        };
        let (direct, proxied) = (ask(&real, "direct")?, ask(&stage.proxy.bootstrap_servers(), &topic)?);
        drop(members);

        // Other tests use the clusters too: only what is of this one can be compared.
        let ours = |answers: &Value, question: &str| -> BTreeMap<String, Value> {
            let named = answers[question].as_object().into_iter().flatten();
            named.filter(|(name, _)| name.starts_with(&topic)).map(|(name, answer)| (name.clone(), answer.clone())).collect()
        };
        for (question, count) in [
            ("groups", protocols.len()),
            ("group_offsets", protocols.len()),
            ("topic_configs", 1),
            ("log_starts", 3),
            ("log_ends", 3),
            ("latest_timestamps", 3),
            ("producers", 3),
        ] {
            let answer = ours(&proxied, question);
            assert_eq!((&answer, answer.len()), (&ours(&direct, question), count), "{question}: {}", proxied[question]);
        }
        for (question, answer) in [
            ("acls", json!({"error": "SecurityDisabledException"})),
            ("quotas", json!(0)),
            ("users", json!([])),
            ("reassignments", json!([])),
        ] {
            assert_eq!((&direct[question], &proxied[question]), (&answer, &answer), "{question}");
        }
        assert!(proxied["topics"].as_array().is_some_and(|topics| topics.contains(&json!(topic))), "{}", proxied["topics"]);
        let nodes = proxied["cluster"]["nodes"].as_array().context("nodes")?;
        let [node] = nodes.iter().filter_map(Value::as_str).collect::<Vec<_>>()[..] else { panic!("{nodes:?}") };
        let (id, _) = node.split_once('@').context("a node")?;
        // All name the one node of Metadata, by its id and address.
        assert_eq!(proxied["cluster"]["controller"].to_string(), id);
        for group in ours(&proxied, "described_groups").values() {
            assert_eq!((&group["coordinator"], &group["state"]), (&json!(node), &json!("Stable")), "{group}");
            let member = group["members"][0].as_str().unwrap_or_default();
            assert!(member.starts_with(&mode.named("questioned")) && (0..3).all(|n| member.contains(&format!("{topic}-{n}"))), "{group}");
        }
        for partition in proxied["partitions"][&topic].as_array().context("partitions")? {
            assert_eq!(partition, &json!({"leader": node, "replicas": [node], "isr": [node]}));
        }
        let sizes = |answers: &Value, id: &str| -> BTreeMap<String, Value> { ours(&answers["log_dirs"], id) };
        let real_id = cluster.node_ids()[0].to_string();
        assert_eq!((sizes(&proxied, id), sizes(&proxied, id).len()), (sizes(&direct, &real_id), 3));
        let config = |name: &str| proxied["broker_configs"][id][name].as_str().unwrap_or_default().to_owned();
        assert_eq!((config("node.id"), config("num.partitions")), (id.to_owned(), "1".to_owned()));

        let differ = ["cluster", "partitions", "broker_configs", "described_groups", "log_dirs"];
        let only_direct = ["features", "quorum", "config_resources", "tokens"];
        match mode {
            Mode::Bootstrap => {
                for question in differ.into_iter().filter(|question| *question == "cluster").chain(only_direct) {
                    assert_eq!(proxied[question], direct[question], "{question}");
                }
            }
            Mode::Relay => {
                assert_eq!((id, &proxied["cluster"]["id"]), (&*format!("{}", 20_000_000 + cluster.node_ids()[0]), &json!("kferry")));
                let refused = json!({"error": "UnsupportedVersionException"});
                assert_eq!(only_direct.map(|question| &proxied[question]), [&json!({}), &refused, &refused, &refused]);
                assert!(direct["features"].as_object().is_some_and(|features| !features.is_empty()), "{}", direct["features"]);
                // A broker's own address is nowhere but in settings in which the operator wrote it down.
                for (question, answer) in
                    proxied.as_object().context("answers")?.iter().filter(|(question, _)| *question != "broker_configs")
                {
                    assert!(!answer.to_string().contains(&real), "{question}: {answer}");
                }
                let settings = proxied["broker_configs"][id].as_object().context("settings")?.iter();
                let with: Vec<&str> =
                    settings.filter(|(_, value)| value.to_string().contains(&real)).map(|(name, _)| name.as_str()).collect();
                assert_eq!(with, ["advertised.listeners", "listeners"]);
            }
        }
        assert_eq!(stage.client_ids(mode, "questions")?, BTreeSet::from([topic]));
        Ok(())
    })
}
