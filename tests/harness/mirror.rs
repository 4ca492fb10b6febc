//! The real `kferry-mirror`: its file and its process.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::exported;
use crate::kafka::{Cluster, Listener, User};
use crate::process::Process;
use crate::proxy::{Answer, executable, http};
use crate::{LIMIT, pki, ports, run};

/// A file with two clusters, `source` and `target`, and a mirror between them, named `m` unless it needs another name: several with one name and
/// one target are processes that share their work.
pub struct Mirror {
    name: String,
    admin: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    /// Who it is on the target, and through which listener.
    user: Option<(User, Listener)>,
    runs: usize,
}

/// How a run with `--once` ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub code: Option<i32>,
    /// What it logged.
    pub log: String,
}

impl Mirror {
    /// `lines` are more lines of the mirror, `topics_regex = [...]` among them.
    pub fn new(source: &Cluster, target: &Cluster, lines: &str) -> Result<Self> {
        Self::named("m", source, target, lines)
    }

    /// The same, with a name.
    pub fn named(name: &str, source: &Cluster, target: &Cluster, lines: &str) -> Result<Self> {
        Self::prepared(name, None)?.written(source, target, lines)
    }

    /// The same, logged in as a user on the target through a listener with a login.
    pub fn new_through(listener: Listener, user: User, source: &Cluster, target: &Cluster, lines: &str) -> Result<Self> {
        Self::prepared("m", Some((user, listener)))?.written(source, target, lines)
    }

    /// The same, logged in as a user on the target, which has the listener `SASL_PLAINTEXT`.
    pub fn new_as(user: User, source: &Cluster, target: &Cluster, lines: &str) -> Result<Self> {
        Self::new_through(Listener::SaslPlaintext, user, source, target, lines)
    }

    fn prepared(name: &str, user: Option<(User, Listener)>) -> Result<Self> {
        let admin = ports::take(1)?.start;
        Ok(Self { name: name.to_owned(), admin, folder: run::folder("mirror")?, arguments: Vec::new(), user, runs: 0 })
    }

    /// The port of its admin address.
    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    /// With a file of the test's own.
    pub fn of(text: &str) -> Result<Self> {
        let mirror = Self::prepared("m", None)?;
        fs::write(mirror.config(), text)?;
        Ok(mirror)
    }

    fn written(self, source: &Cluster, target: &Cluster, lines: &str) -> Result<Self> {
        self.write(source, target, lines)?;
        Ok(self)
    }

    /// Writes the file anew.
    pub fn write(&self, source: &Cluster, target: &Cluster, lines: &str) -> Result<()> {
        let mut text = String::new();
        for (id, name, cluster, user) in [(1, "source", source, None), (2, "target", target, self.user)] {
            let listener = user.map_or(Listener::Plaintext, |(_, listener)| listener);
            writeln!(text, "[clusters.{name}]\nid = {id}\nbootstrap_servers = \"{}\"", cluster.bootstrap_servers(listener)?)?;
            if let Some((User { name, password }, listener)) = user {
                if listener == Listener::SaslSsl {
                    writeln!(text, "ssl_ca_location = \"{}\"", pki::authority()?.ca_path.display())?;
                }
                writeln!(text, "security_protocol = \"{}\"\nsasl_mechanism = \"SCRAM-SHA-512\"", listener.security_protocol())?;
                writeln!(text, "sasl_username = \"{name}\"\nsasl_password = \"{password}\"")?;
            }
        }
        writeln!(text, "[admin]\nmirror_bind = \"127.0.0.1:{}\"\n", self.admin)?;
        writeln!(text, "[[mirrors]]\nname = \"{}\"\nsource = \"source\"\ntarget = \"target\"\n{lines}", self.name)?;
        fs::write(self.config(), text)?;
        Ok(())
    }

    /// More arguments of each run from here on, instead of those before.
    pub fn arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// Its file, for other programs.
    pub fn config(&self) -> PathBuf {
        self.folder.join("routes.toml")
    }

    /// Starts it.
    pub fn start(&mut self, arguments: &[&str]) -> Result<Process> {
        self.runs += 1;
        let mut command = Command::new(executable("kferry-mirror")?);
        command.arg("--config").arg(self.config()).args(&self.arguments).args(arguments);
        command.env("RUST_LOG", "info,kferry_mirror=debug,kferry_wire::decisions=debug");
        Process::spawn("kferry-mirror", &command, &self.log())
    }

    /// Copies to the present end; says how that ended.
    pub fn once(&mut self) -> Result<Ended> {
        let mut process = self.start(&["--once"])?;
        let status = process.wait(LIMIT)?;
        Ok(Ended { code: status.code(), log: fs::read_to_string(self.log())? })
    }

    /// Copies to the present end, all of it.
    pub fn copy(&mut self) -> Result<()> {
        let ended = self.once()?;
        ensure!(ended.code == Some(0), "kferry-mirror --once ended with {:?}:\n{}", ended.code, ended.log);
        Ok(())
    }

    /// Copies to the present end, all but the records that `on_error` leaves out, and says that.
    pub fn copy_but_for_what_was_left_out(&mut self) -> Result<()> {
        let ended = self.once()?;
        ensure!(ended.code == Some(3), "kferry-mirror --once ended with {:?}:\n{}", ended.code, ended.log);
        Ok(())
    }

    /// Runs `kferry` with the same file; says how that ended, and what it printed, errors too.
    pub fn kferry(&self, arguments: &[&str]) -> Result<Ended> {
        let output = run::folder("kferry")?.join("output");
        let mut command = Command::new(executable("kferry")?);
        command.args(arguments).arg("--config").arg(self.folder.join("routes.toml"));
        let status = Process::spawn("kferry", &command, &output)?.wait(LIMIT)?;
        Ok(Ended { code: status.code(), log: fs::read_to_string(&output)? })
    }

    /// Asks its admin address. An error if something is in `/metrics` that the mirror does not say that it exports.
    pub fn http(&self, method: &str, path: &str) -> Result<Answer> {
        let file = fs::read_to_string(self.folder.join("routes.toml"))?;
        let port = file.split("bind = \"127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
        let answer = http(port.context("the file has an admin address")?, method, path)?;
        if path == "/metrics" {
            exported::check(&answer.body, &exported::by_mirror())?;
        }
        Ok(answer)
    }

    /// What all runs so far have logged.
    pub fn logs(&self) -> Result<String> {
        (1..=self.runs).map(|run| Ok(fs::read_to_string(self.folder.join(format!("{run}.log")))?)).collect()
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.runs))
    }
}
