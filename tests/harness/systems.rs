//! Systems that are built on Kafka, as their users get them: `tests/systems/pom.xml` pins those in Java, the two programs beside it are an application
//! of Kafka Streams and what a user interface asks. Built on first use into `.work/clients/systems`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::Process;
use crate::proxy::http_with;
use crate::{LIMIT, clients, ports, process, run};

/// A class of these jars, or of `tests/systems`, with its arguments.
pub fn java<'a>(class: &str, arguments: impl IntoIterator<Item = &'a Path>) -> Result<Command> {
    let sources = run::workspace().join("tests/systems");
    let folder = clients::built_once("systems", &sources, |folder| clients::build_java(None, &sources, folder))?;
    let words = clients::java(&folder, class)?;
    let (java, options) = words.split_first().context("a program")?;
    let mut command = Command::new(java);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]);
    command.args(options).args(arguments);
    Ok(command)
}

/// A file of properties in a folder.
pub fn properties(folder: &Path, name: &str, lines: &[(&str, &str)]) -> Result<PathBuf> {
    let path = folder.join(name);
    let text: String = lines.iter().flat_map(|(key, value)| [key, "=", value, "\n"].map(str::to_owned)).collect();
    fs::write(&path, text)?;
    Ok(path)
}

/// Waits until `look` finds nothing wrong any more; the error is its last objection, with the end of the system's log.
pub fn comes<T>(system: &mut Process, look: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let error = match look() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if let Some(status) = system.exited() {
            return Err(error.context(format!("it ended ({status}):\n{}", system.log_tail(60))));
        }
        if Instant::now() > deadline {
            return Err(error.context(format!("{} s later; the end of its log:\n{}", LIMIT.as_secs(), system.log_tail(60))));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a program prints on stdout, which must end well.
pub fn output(mut command: Command) -> Result<String> {
    let folder = run::folder("output")?;
    let (printed, log) = (folder.join("stdout"), folder.join("stderr"));
    // By a shell: `Process` has one file for both.
    let mut shell = Command::new(process::require("sh", "every system has one")?);
    shell.args(["-c", r#"out=$0; exec "$@" >"$out""#]).arg(&printed).arg(command.get_program()).args(command.get_args());
    command = shell;
    let mut process = Process::spawn("a program", &command, &log)?;
    let status = process.wait(LIMIT)?;
    ensure!(status.success(), "it ended with {status}:\n{}", process.log_tail(60));
    Ok(fs::read_to_string(printed)?)
}

/// A worker of Kafka Connect with a REST address.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    port: u16,
}

/// A converter of Kafka Connect.
pub const STRING: &str = "org.apache.kafka.connect.storage.StringConverter";

impl Worker {
    /// A distributed worker with these properties, whose own topics one broker can have; returns when it answers.
    pub fn distributed(folder: &Path, lines: &[(&str, &str)]) -> Result<Self> {
        let all = [
            ("offset.storage.partitions", "5"),
            ("config.storage.replication.factor", "1"),
            ("offset.storage.replication.factor", "1"),
            ("status.storage.replication.factor", "1"),
            ("key.converter", STRING),
            ("value.converter", STRING),
            ("offset.flush.interval.ms", "1000"),
        ];
        Self::start("org.apache.kafka.connect.cli.ConnectDistributed", folder, &[lines, &all].concat(), &[])
    }

    /// A standalone worker with these properties, and a file of properties for each connector; returns when it answers.
    pub fn standalone(folder: &Path, lines: &[(&str, &str)], connectors: &[PathBuf]) -> Result<Self> {
        Self::start("org.apache.kafka.connect.cli.ConnectStandalone", folder, lines, connectors)
    }

    fn start(class: &str, folder: &Path, lines: &[(&str, &str)], connectors: &[PathBuf]) -> Result<Self> {
        let port = ports::take(1)?.start;
        let address = format!("http://127.0.0.1:{port}");
        let lines = [lines, &[("listeners", &address)]].concat();
        let worker = properties(folder, "worker.properties", &lines)?;
        let command = java(class, [&worker].into_iter().chain(connectors).map(PathBuf::as_path))?;
        let mut worker = Self { process: Process::spawn("a worker of Kafka Connect", &command, &folder.join("log"))?, port };
        worker.comes(|worker| worker.ask("GET", "/connectors", "").map(drop))?;
        Ok(worker)
    }

    /// Sets a connector's configuration.
    pub fn configure(&mut self, connector: &str, lines: &[(&str, &str)]) -> Result<()> {
        let config: Value =
            lines.iter().map(|&(key, value)| (key.to_owned(), Value::from(value))).collect::<serde_json::Map<_, _>>().into();
        // A worker that has just started takes none until it is in its group.
        self.comes(|worker| worker.ask("PUT", &format!("/connectors/{connector}/config"), &config.to_string()).map(drop))
    }

    /// Waits until there is nothing wrong any more.
    pub fn comes(&mut self, look: impl Fn(&Connection) -> Result<()>) -> Result<()> {
        let connection = Connection { port: self.port };
        comes(&mut self.process, || look(&connection))
    }

    /// SIGTERM, and waits until it has ended.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(LIMIT)?;
        // 143 is Java's for a SIGTERM.
        ensure!(status.code() == Some(143), "it ended with {status}:\n{}", self.process.log_tail(60));
        Ok(())
    }
}

/// A worker's REST address.
#[derive(Debug)]
pub struct Connection {
    port: u16,
}

impl Connection {
    /// Asks for something, and gets JSON.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let answer = http_with(self.port, method, path, body)?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        serde_json::from_str(&answer.body).with_context(|| answer.body.clone())
    }
}
