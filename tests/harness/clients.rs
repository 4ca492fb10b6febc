//! Real clients, unmodified, with their usual settings; `tests/clients/README.md` says what each of them does.
//!
//! All but [`Client::Rdkafka`] are programs in `tests/clients`: given one JSON object, they print one JSON line. They're built on first use
//! into `.work/clients/<name>` of the workspace, and again when their sources change.

mod rdkafka;
mod rdkafka_soak;
pub mod soak;

use std::fs::{self, File};
use std::iter;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kafka::User;
use crate::pki::Identity;
use crate::process::Process;
use crate::{jars, process, run};

/// How much longer than its own limit a driver may take, to start and to report.
const GRACE: Duration = Duration::from_secs(10);

/// A client library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// Kafka's own, 4.4.0.
    Java4,
    /// Kafka's own, 2.8.2.
    Java28,
    /// librdkafka, by confluent-kafka-python.
    ConfluentPython,
    /// The same, 2.6.1, which does not come over from dead brokers by itself.
    ConfluentPython26,
    /// librdkafka, by the Rust crate rdkafka; runs in this process.
    Rdkafka,
    /// franz-go (Go).
    FranzGo,
    /// sarama (Go).
    Sarama,
    /// kafkajs (Node).
    Kafkajs,
    /// Confluent's own for Node, which is librdkafka.
    KafkaJavascript,
    /// segmentio's (Go).
    KafkaGo,
    /// aiokafka (Python).
    Aiokafka,
    /// kafka-python, a newer one than that of [`sasl_v0`].
    KafkaPython,
    /// The same, 2.3.3, which asks for no versions where it is told which Kafka it is.
    KafkaPython23,
    /// Platformatic's (Node), which knows only newer versions. It brings a Node of its own.
    Platformatic,
}

impl Client {
    /// Those of the matrix.
    pub const ALL: [Self; 7] =
        [Self::Java4, Self::Java28, Self::ConfluentPython, Self::Rdkafka, Self::FranzGo, Self::Sarama, Self::Kafkajs];

    /// Others, whose drivers are for PLAINTEXT only.
    pub const OTHERS: [Self; 4] = [Self::KafkaJavascript, Self::KafkaGo, Self::Aiokafka, Self::KafkaPython];

    /// Whether the library has idempotent producers.
    pub fn can_be_idempotent(self) -> bool {
        self != Self::KafkaGo
    }

    /// For tables, error messages and names of topics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Java4 => "java-4",
            Self::Java28 => "java-2.8",
            Self::ConfluentPython => "confluent-kafka-python",
            Self::ConfluentPython26 => "confluent-kafka-python-2.6",
            Self::Rdkafka => "rdkafka",
            Self::FranzGo => "franz-go",
            Self::Sarama => "sarama",
            Self::Kafkajs => "kafkajs",
            Self::KafkaJavascript => "kafka-javascript",
            Self::KafkaGo => "kafka-go",
            Self::Aiokafka => "aiokafka",
            Self::KafkaPython => "kafka-python",
            Self::KafkaPython23 => "kafka-python-2.3",
            Self::Platformatic => "platformatic",
        }
    }

    /// The folder of its driver in `tests/clients`, unless that is a part of this crate.
    fn language(self) -> Option<&'static str> {
        match self {
            Self::Java4 | Self::Java28 => Some("java"),
            Self::ConfluentPython | Self::ConfluentPython26 | Self::Aiokafka | Self::KafkaPython | Self::KafkaPython23 => Some("python"),
            Self::FranzGo | Self::Sarama | Self::KafkaGo => Some("go"),
            Self::Kafkajs | Self::KafkaJavascript | Self::Platformatic => Some("node"),
            Self::Rdkafka => None,
        }
    }

    /// The folder in `.work/clients` of what is built for it.
    fn folder(self) -> &'static str {
        match self {
            // Little, and nothing that gets in each other's way.
            Self::Aiokafka | Self::KafkaPython => "pure-python",
            _ => self.name(),
        }
    }
}

/// A round trip to be made: list topics, produce, consume in a group of two.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    /// `bootstrap.servers`.
    pub bootstrap_servers: String,
    /// `client.id` of all connections.
    pub client_id: String,
    /// Must exist, with two partitions or more.
    pub topic: String,
    /// `group.id`.
    pub group_id: String,
    /// How many records.
    pub count: u32,
    /// The limit for all of it, in milliseconds.
    pub timeout_ms: u64,
    /// None for PLAINTEXT.
    pub security: Option<Security>,
    /// `group.protocol`, for [`Client::Java4`]. None for the client's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_protocol: Option<&'static str>,
    /// Every other record goes there, and the group reads both. Must exist, too. For the clients of kafka-python and Platformatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_topic: Option<String>,
    /// A topic to be created, seen, and deleted before the trip. For the clients of kafka-python and Platformatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creates: Option<String>,
    /// `api_version` of kafka-python: which Kafka it is told that it talks to. None: it asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<(u8, u8)>,
}

impl Job {
    /// 1,000 records within a minute, without security, in a group that has the name of the client.
    pub fn new(bootstrap_servers: &str, client_id: &str, topic: &str) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.to_owned(),
            client_id: client_id.to_owned(),
            topic: topic.to_owned(),
            group_id: client_id.to_owned(),
            count: 1_000,
            timeout_ms: 60_000,
            security: None,
            group_protocol: None,
            second_topic: None,
            creates: None,
            api_version: None,
        }
    }
}

/// What a client needs to be let in. Paths are of PEM files.
#[derive(Debug, Clone, Serialize)]
pub struct Security {
    protocol: &'static str,
    #[serde(flatten)]
    login: Option<Login>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(flatten)]
    identity: Option<IdentityFiles>,
}

#[derive(Debug, Clone, Serialize)]
struct Login {
    mechanism: &'static str,
    username: &'static str,
    password: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct IdentityFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl Security {
    /// TLS with a server that this authority vouches for.
    pub fn ssl(ca: &Path) -> Self {
        Self { protocol: "SSL", login: None, ca: Some(ca.to_owned()), identity: None }
    }

    /// As [`Security::ssl`], and a login.
    pub fn sasl_ssl(ca: &Path, mechanism: &'static str, user: User) -> Self {
        Self { protocol: "SASL_SSL", ca: Some(ca.to_owned()), ..Self::sasl_plaintext(mechanism, user) }
    }

    /// A login, no TLS. Mechanisms: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub fn sasl_plaintext(mechanism: &'static str, user: User) -> Self {
        let login = Login { mechanism, username: user.name, password: user.password };
        Self { protocol: "SASL_PLAINTEXT", login: Some(login), ca: None, identity: None }
    }

    /// The client shows this certificate (mTLS).
    #[must_use]
    pub fn identity(mut self, identity: &Identity) -> Self {
        self.identity = Some(IdentityFiles { certificate: identity.certificate_path.clone(), key: identity.key_path.clone() });
        self
    }
}

/// What a round trip did; neither duplicates nor reordered records, those are errors.
#[derive(Debug, Clone, Deserialize)]
pub struct Outcome {
    /// The library.
    pub client: String,
    /// The library's own word for its version.
    pub version: String,
    /// How many topics it listed; some clients leave out Kafka's internal ones.
    pub topics: u32,
    /// How many records were acknowledged.
    pub produced: u32,
    /// How many different records were consumed.
    pub consumed: u32,
    /// How many records each member of the group got.
    pub members: [u32; 2],
    /// How long it took.
    pub seconds: f64,
    duplicates: u32,
    reordered: u32,
}

/// Builds what `client` needs, unless that is there already; `run` does it too. Several processes may ask at once.
///
/// The first call needs the language's tools and the network.
pub fn prepare(client: Client) -> Result<()> {
    let Some(language) = client.language() else { return Ok(()) };
    let sources = run::workspace().join("tests/clients").join(language);
    built_once(client.folder(), &sources, |folder| build(client, &sources, folder)).map(drop)
}

/// The folder of `.work/clients` that has what `build` makes of a folder of sources; made anew when the sources have changed.
pub(crate) fn built_once(name: &str, sources: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let stamp = content(sources)?;
    let all = run::workspace().join(".work/clients");
    let folder = all.join(name);
    let is_current = || fs::read(folder.join("stamp")).is_ok_and(|then| then == stamp);
    if is_current() {
        return Ok(folder);
    }
    fs::create_dir_all(&all).with_context(|| format!("{} can't be made", all.display()))?;
    let _turn = run::lock(&all.join(format!("{name}.lock")))?;
    if is_current() {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{} can't be removed", folder.display()))?;
    }
    fs::create_dir(&folder)?;
    build(&folder).with_context(|| format!("{name} can't be built"))?;
    // Last: without it, a build that was cut short starts again.
    fs::write(folder.join("stamp"), stamp)?;
    Ok(folder)
}

/// Makes the round trip. An error says what the client said, with the end of its log.
pub fn run(client: Client, job: &Job) -> Result<Outcome> {
    prepare(client)?;
    let limit = Duration::from_millis(job.timeout_ms) + GRACE;
    let outcome = match program(client)? {
        Some(program) => drive(client, program, job, limit),
        None => in_thread(job, limit),
    };
    let outcome: Outcome = outcome.with_context(|| format!("{} as {} at {}", client.name(), job.client_id, job.bootstrap_servers))?;
    ensure!(outcome.duplicates == 0 && outcome.reordered == 0, "{} got records twice or out of order: {outcome:?}", client.name());
    ensure!(outcome.produced == job.count && outcome.consumed == job.count, "{} lost records: {outcome:?}", client.name());
    Ok(outcome)
}

/// Has kafka-python 2.0.2 log in (by SaslHandshake v0), produce and read, without a group. An error says what it said.
pub fn sasl_v0(job: &Job) -> Result<Outcome> {
    let client = Client::ConfluentPython;
    prepare(client)?;
    let program = vec![built(client).join("venv/bin/python"), run::workspace().join("tests/clients/python/sasl_v0.py")];
    let outcome: Outcome = drive(client, program, job, Duration::from_millis(job.timeout_ms) + GRACE)?;
    ensure!(outcome.produced == job.count && outcome.consumed == job.count, "kafka-python lost records: {outcome:?}");
    Ok(outcome)
}

/// A producer of [`Client::ConfluentPython26`] that writes to a partition, `client_id-0` and so on, until it is dropped.
pub fn python_26_producer(bootstrap_servers: &str, client_id: &str, topic: &str, partition: i32) -> Result<Process> {
    let client = Client::ConfluentPython26;
    prepare(client)?;
    let mut command = Command::new(built(client).join("venv/bin/python"));
    command.arg(run::workspace().join("tests/clients/python/produce.py"));
    command.args([bootstrap_servers, client_id, topic, &partition.to_string()]);
    Process::spawn(client.name(), &command, &run::folder(client.name())?.join("log"))
}

fn built(client: Client) -> PathBuf {
    run::workspace().join(".work/clients").join(client.folder())
}

/// All files below a folder, names and bytes, as one value to compare.
fn content(folder: &Path) -> Result<Vec<u8>> {
    let mut entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.as_mut().map_err(|error| anyhow::anyhow!("{} can't be read: {error}", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut all = Vec::new();
    for path in entries.iter().map(fs::DirEntry::path) {
        all.extend_from_slice(path.as_os_str().as_encoded_bytes());
        all.push(b'\n');
        all.extend(if path.is_dir() { content(&path)? } else { fs::read(&path)? });
    }
    Ok(all)
}

fn build(client: Client, sources: &Path, folder: &Path) -> Result<()> {
    match client {
        Client::Java4 => build_java(Some("4.4.0"), sources, folder),
        Client::Java28 => build_java(Some("2.8.2"), sources, folder),
        Client::ConfluentPython => build_python("requirements.txt", sources, folder),
        Client::ConfluentPython26 => build_python("requirements-2.6.txt", sources, folder),
        Client::Aiokafka | Client::KafkaPython => build_python("requirements-pure.txt", sources, folder),
        Client::KafkaPython23 => build_python("requirements-kafka-python-2.3.txt", sources, folder),
        Client::FranzGo | Client::Sarama | Client::KafkaGo => build_go(client.name(), sources, folder),
        Client::Kafkajs | Client::Platformatic => build_node(client.name(), &["--ignore-scripts"], sources, folder),
        // Its binary is on a host that CI does not reach: it is built, against the libraries of the machine, with the headers of the machine's Node.
        Client::KafkaJavascript => build_node(client.name(), &[], sources, folder),
        Client::Rdkafka => Ok(()),
    }
}

/// The jars of the folder's `pom.xml`, with Kafka of `version` instead of the one that it names, and the classes of all sources beside it.
pub(crate) fn build_java(version: Option<&str>, sources: &Path, folder: &Path) -> Result<()> {
    let mvn = process::require("mvn", "it fetches the Java client; install Maven (`apt install maven`)")?;
    let javac = process::require("javac", "install a JDK, version 17 or later (`apt install openjdk-17-jdk-headless`)")?;
    {
        // The lock of `jars`: Maven's own cache isn't made for several writers.
        let jars = run::workspace().join(".work/kafka");
        fs::create_dir_all(&jars)?;
        let _turn = run::lock(&jars.join("lock"))?;
        let mut fetch = Command::new(mvn);
        fetch.args(["-q", "-B", "-f"]).arg(sources.join("pom.xml")).arg("dependency:copy-dependencies");
        fetch.args(version.map(|version| format!("-Dkafka.version={version}")));
        fetch.arg(format!("-DoutputDirectory={}", folder.join("jars").display()));
        execute(fetch)?;
    }
    let files = fs::read_dir(sources)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut compile = Command::new(javac);
    compile.arg("-Xlint:all").arg("-Werror").arg("-cp").arg(folder.join("jars/*")).arg("-d").arg(folder.join("classes"));
    compile.args(files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "java")));
    execute(compile)
}

fn build_python(requirements: &str, sources: &Path, folder: &Path) -> Result<()> {
    let python = process::require("python3", "install Python with venv (`apt install python3-venv`)")?;
    let venv = folder.join("venv");
    let mut make = Command::new(python);
    make.args(["-m", "venv"]).arg(&venv);
    execute(make)
        .context("Python can't make a virtual environment; Debian has that in a package of its own (`apt install python3-venv`)")?;
    let mut install = Command::new(venv.join("bin/python"));
    // A wheel has librdkafka in it, a build from source would take whatever the machine has.
    install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary=:all:", "-r"]);
    install.arg(sources.join(requirements));
    execute(install)
}

fn build_go(name: &str, sources: &Path, folder: &Path) -> Result<()> {
    let go =
        process::require("go", "install Go, version 1.21 or later, see the Go project's downloads: it fetches the one that go.mod names")?;
    let mut build = Command::new(go);
    build.args(["build", "-buildvcs=false", "-o"]).arg(folder.join("driver")).arg(format!("./{name}")).current_dir(sources);
    build.env("GOFLAGS", "-mod=readonly").env("CGO_ENABLED", "0");
    execute(build)
}

fn build_node(name: &str, options: &[&str], sources: &Path, folder: &Path) -> Result<()> {
    let node = process::require("node", "install Node, version 18 or later (`apt install nodejs`)")?.canonicalize()?;
    let npm = process::require("npm", "it fetches clients for Node (`apt install npm`)")?;
    // Node looks for packages beside the program, so the program moves, with what it shares with the other one.
    for entry in [sources.join(name), sources.to_owned()].iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let file = entry?.path();
        if file.is_file() {
            fs::copy(&file, folder.join(file.file_name().context("it is a file")?))
                .with_context(|| format!("{} can't be copied", file.display()))?;
        }
    }
    let mut install = Command::new(npm);
    install.args(["ci", "--no-audit", "--no-fund"]).args(options).current_dir(folder);
    // For kafka-javascript. It brings the sources of librdkafka, and would fetch those of others to link them statically: not from a registry.
    install.env("CKJS_LINKING", "dynamic").env("npm_config_build_from_source", "true");
    install.env("npm_config_nodedir", node.ancestors().nth(2).context("node is in PREFIX/bin")?);
    execute(install)
}

fn execute(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{} can't be started", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}); is the network there?\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The program of a driver and its arguments, but for the job.
fn program(client: Client) -> Result<Option<Vec<PathBuf>>> {
    let folder = built(client);
    Ok(Some(match client {
        Client::Java4 | Client::Java28 => java_class(client, "RoundTrip")?,
        Client::ConfluentPython | Client::ConfluentPython26 => python(client, "round_trip.py"),
        Client::Aiokafka => python(client, "aiokafka_trip.py"),
        Client::KafkaPython | Client::KafkaPython23 => python(client, "kafka_python_trip.py"),
        Client::FranzGo | Client::Sarama | Client::KafkaGo => vec![folder.join("driver")],
        Client::Kafkajs | Client::KafkaJavascript => vec![node()?, folder.join("round-trip.js")],
        Client::Platformatic => {
            let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
            vec![folder.join(format!("node_modules/node-linux-{architecture}/bin/node")), folder.join("round-trip.js")]
        }
        Client::Rdkafka => return Ok(None),
    }))
}

/// The program of a driver's soak and its arguments, but for the job.
fn soak_program(client: Client) -> Result<Option<Vec<PathBuf>>> {
    let python = |program| Ok(Some(python(client, program)));
    match client {
        Client::Java4 | Client::Java28 => java_class(client, "Soak").map(Some),
        Client::FranzGo | Client::Sarama | Client::KafkaGo => Ok(Some(vec![built(client).join("driver"), PathBuf::from("soak")])),
        Client::ConfluentPython => python("confluent_soak.py"),
        Client::Aiokafka => python("aiokafka_soak.py"),
        Client::KafkaPython => python("kafka_python_soak.py"),
        Client::Kafkajs | Client::KafkaJavascript => Ok(Some(vec![node()?, built(client).join("soak.js")])),
        Client::Rdkafka => Ok(None),
        Client::ConfluentPython26 | Client::KafkaPython23 | Client::Platformatic => {
            bail!("the driver of {} makes round trips only", client.name())
        }
    }
}

fn python(client: Client, program: &str) -> Vec<PathBuf> {
    vec![built(client).join("venv/bin/python"), run::workspace().join("tests/clients/python").join(program)]
}

fn node() -> Result<PathBuf> {
    process::require("node", "install Node, version 18 or later (`apt install nodejs`)")
}

fn java_class(client: Client, class: &str) -> Result<Vec<PathBuf>> {
    java(&built(client), class)
}

/// How a class of a folder that `build_java` has made is run.
pub(crate) fn java(folder: &Path, class: &str) -> Result<Vec<PathBuf>> {
    let java = jars::java()?;
    let class_path = format!("{}:{}", folder.join("classes").display(), folder.join("jars/*").display());
    // Lives for seconds, or does little: no use in the second compiler, or in a collector with threads of its own.
    let options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &class_path, class];
    let words = iter::once(java.get_program()).chain(java.get_args()).map(PathBuf::from);
    Ok(words.chain(options.map(PathBuf::from)).collect())
}

/// Runs a driver with `argument` as JSON and reads the line that it prints.
fn drive<T: DeserializeOwned>(client: Client, program: Vec<PathBuf>, argument: &impl Serialize, limit: Duration) -> Result<T> {
    process::require("setpriv", "install util-linux (`apt install util-linux`)")?;
    let folder = run::folder(client.name())?;
    let (result, log) = (folder.join("result"), folder.join("log"));
    // The death signal is sent when this *thread* ends; it waits here as long as the driver runs.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(program).arg(serde_json::to_string(argument)?);
    command.stdin(Stdio::null()).stdout(File::create(&result)?).stderr(File::create(&log)?).process_group(0);
    let mut child = command.spawn().context("setpriv can't be started")?;
    let status = wait(&mut child, limit)?;
    let tail = || format!("the end of {}:\n{}", log.display(), process::log_tail(&log, 30));

    let Some(status) = status else { bail!("killed after {limit:?}; {}", tail()) };
    let line = fs::read_to_string(&result)?;
    let value: serde_json::Value =
        serde_json::from_str(&line).with_context(|| format!("ended ({status}) with {line:?} instead of a line of JSON; {}", tail()))?;
    if let Some(error) = value["error"].as_str() {
        bail!("{error}; {}", tail());
    }
    serde_json::from_value(value).with_context(|| format!("ended ({status}) with another result than expected: {line}"))
}

/// None if it took longer; then it and its children are dead.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(10));
    }
    kill_process_group(Pid::from_child(child), Signal::KILL).context("a driver can't be killed")?;
    child.wait()?;
    Ok(None)
}

/// librdkafka may hang in a close, which takes no limit: then its thread is left behind.
fn in_thread(job: &Job, limit: Duration) -> Result<Outcome> {
    let (sender, receiver) = mpsc::channel();
    let job = job.clone();
    thread::Builder::new().name("rdkafka".to_owned()).spawn(move || {
        // The receiver is gone only after the limit: nobody wants the result any more.
        let _ = sender.send(rdkafka::round_trip(&job));
    })?;
    receiver.recv_timeout(limit).with_context(|| format!("no end after {limit:?}, or a panic"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive_script(script: &str, limit: Duration) -> Result<Outcome> {
        let program = ["sh", "-c", script].map(PathBuf::from).to_vec();
        drive(Client::Sarama, program, &Job::new("127.0.0.1:1", "a-client", "a-topic"), limit)
    }

    #[test]
    fn a_driver_gets_the_job_and_its_line_is_the_outcome() {
        let job = serde_json::to_string(&Job::new("127.0.0.1:1", "a-client", "a-topic")).unwrap();
        let script = format!(
            r#"test "$0" = '{job}' && echo '{{"client":"c","version":"1","topics":1,"produced":2,"consumed":2,"duplicates":0,"members":[1,1],"reordered":0,"seconds":0.5}}'"#
        );
        let outcome = drive_script(&script, GRACE).unwrap();
        assert_eq!((outcome.produced, outcome.members), (2, [1, 1]));
    }

    #[test]
    fn a_failed_driver_says_why_with_the_end_of_its_log() {
        let error = drive_script(r#"echo from the log >&2; echo '{"client":"c","error":"producing: no"}'; exit 1"#, GRACE).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with("producing: no; the end of ") && error.ends_with("\nfrom the log"), "{error}");
        let error = format!("{:#}", drive_script("echo from the log >&2; exit 3", GRACE).unwrap_err());
        assert!(error.contains("exit status: 3") && error.contains("from the log"), "{error}");
    }

    #[test]
    fn a_driver_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
        let error = drive_script(&script, Duration::from_millis(500)).unwrap_err();
        assert!(format!("{error:#}").starts_with("killed after 500ms"), "{error:#}");
        // SIGKILL is sent, not awaited: on a busy machine the child dies a moment later.
        let status = format!("/proc/{}/status", fs::read_to_string(pid).unwrap().trim());
        let gone = || fs::read_to_string(&status).map_or(true, |status| status.contains("\nState:\tZ"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(Instant::now() < deadline, "its child still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_a_client_needs_to_be_let_in() {
        let user = User { name: "alice", password: "secret" };
        let json = serde_json::to_value(Security::sasl_ssl(Path::new("/ca.pem"), "PLAIN", user)).unwrap();
        let expected = r#"{"protocol":"SASL_SSL","mechanism":"PLAIN","username":"alice","password":"secret","ca":"/ca.pem"}"#;
        assert_eq!(json, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }
}
