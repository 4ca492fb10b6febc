//! The real `kferry-proxy`: its file, its process, its admin address.
//!
//! ```no_run
//! use harness::fake::FakeBroker;
//! use harness::proxy::{Proxy, Routes};
//!
//! let broker = FakeBroker::start()?;
//! let routes = Routes::new()?.cluster("legacy", &broker.address()).route("all", "*", "legacy");
//! let mut proxy = Proxy::start(&routes)?;
//! println!("bootstrap.servers={}", proxy.bootstrap_servers());
//! proxy.stop()?;
//! # anyhow::Ok(())
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

use crate::exported;
use crate::kafka::{Cluster, Listener, User};
use crate::ordinary::OrdinaryUser;
use crate::pki::{self, Identity};
use crate::process::Process;
use crate::raw::{Raw, until};
use crate::{LIMIT, ports, run};

/// Ports for the virtual brokers of all clusters of a file, on each listener.
const BROKERS: u16 = 20;

/// Virtual node ids carry the cluster's id in front of this many.
const NODE_IDS: i32 = 10_000_000;

/// A `routes.toml` with an `[admin]` and a plaintext listener named `plain`, on ports that no other test has.
#[derive(Debug, Clone)]
pub struct Routes {
    port: u16,
    tls_port: Option<u16>,
    admin_port: u16,
    broker_ports: Range<u16>,
    clusters: u8,
    served: BTreeMap<String, Served>,
    listener: String,
    limits: String,
    sections: String,
}

/// The virtual brokers of a cluster.
#[derive(Debug, Clone)]
struct Served {
    cluster_id: u8,
    first_node_id: i32,
    first_port: u16,
}

impl Routes {
    /// Without clusters and routes yet.
    pub fn new() -> Result<Self> {
        let ports = ports::take(2 + 2 * BROKERS)?;
        Ok(Self {
            port: ports.start,
            tls_port: None,
            admin_port: ports.start + 1,
            broker_ports: ports.start + 2..ports.start + 2 + BROKERS,
            clusters: 0,
            served: BTreeMap::new(),
            listener: String::new(),
            limits: String::new(),
            sections: String::new(),
        })
    }

    /// Adds `[clusters.NAME]`, reached in plaintext.
    #[must_use]
    pub fn cluster(self, name: &str, bootstrap_servers: &str) -> Self {
        self.cluster_with(name, bootstrap_servers, "")
    }

    /// Adds `[clusters.NAME]` with more lines, such as `security_protocol = "SSL"`.
    #[must_use]
    pub fn cluster_with(mut self, name: &str, bootstrap_servers: &str, lines: &str) -> Self {
        self.clusters += 1;
        let id = self.clusters;
        self.section(&format!("[clusters.{name}]\nid = {id}\nbootstrap_servers = \"{bootstrap_servers}\"\n{lines}"))
    }

    /// Adds `[clusters.NAME]`: a real cluster, reached through a listener of its, with a virtual broker for each of its brokers. `user` is kferry's
    /// own login; clients bring theirs without it.
    pub fn kafka(mut self, name: &str, cluster: &Cluster, listener: Listener, user: Option<User>) -> Result<Self> {
        let mut lines = format!("security_protocol = \"{}\"\n", listener.security_protocol());
        let nodes = cluster.node_ids();
        let (first, last) = (nodes.iter().min().context("a cluster has brokers")?, nodes.iter().max().context("a cluster has brokers")?);
        let port = self.broker_ports.start;
        let end = port + (last - first) as u16 + 1;
        ensure!(end <= self.broker_ports.end, "{BROKERS} virtual brokers are all that there are ports for");
        self.broker_ports.start = end;
        // Clusters are numbered as they come.
        self.served.insert(name.to_owned(), Served { cluster_id: self.clusters + 1, first_node_id: *first, first_port: port });
        let _ = writeln!(lines, "node_ids = \"{first}-{last}\"\nbroker_ports = \"{port}-{}\"", end - 1);
        if matches!(listener, Listener::Ssl | Listener::SaslSsl) {
            let _ = writeln!(lines, "ssl_ca_location = \"{}\"", pki::authority()?.ca_path.display());
        }
        if let Some(user) = user {
            let _ = writeln!(
                lines,
                "sasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"{}\"\nsasl_password = \"{}\"",
                user.name, user.password
            );
        }
        Ok(self.cluster_with(name, &cluster.bootstrap_servers(listener)?, &lines))
    }

    /// The node id under which clients know a broker of a cluster of [`Routes::kafka`], and its port on 127.0.0.1.
    pub fn virtual_broker(&self, cluster: &str, node_id: i32) -> Result<(i32, u16)> {
        let served = self.served.get(cluster).with_context(|| format!("the file has no cluster {cluster}"))?;
        let port = served.first_port + (node_id - served.first_node_id) as u16;
        Ok((i32::from(served.cluster_id) * NODE_IDS + node_id, port))
    }

    /// Adds a TLS listener named `tls`.
    pub fn tls_listener(self, identity: &Identity) -> Result<Self> {
        self.tls_listener_with(identity, "")
    }

    /// Adds a TLS listener named `tls` with more lines, such as `ssl_client_auth = "required"`.
    pub fn tls_listener_with(mut self, identity: &Identity, lines: &str) -> Result<Self> {
        let port = ports::take(1)?.start;
        self.tls_port = Some(port);
        let (certificate, key) = (identity.certificate_path.display(), identity.key_path.display());
        Ok(self.section(&format!(
            "[[listeners]]\nname = \"tls\"\nbind = \"127.0.0.1:{port}\"\nsecurity_protocol = \"SSL\"\n\
             ssl_certificate_location = \"{certificate}\"\nssl_key_location = \"{key}\"\nbroker_port_offset = {BROKERS}\n{lines}"
        )))
    }

    /// Adds a route, after those that are there.
    #[must_use]
    pub fn route(self, name: &str, client_id: &str, cluster: &str) -> Self {
        self.section(&format!("[[routes]]\nname = \"{name}\"\nclient_id = \"{client_id}\"\ncluster = \"{cluster}\"\n"))
    }

    /// Adds a route in relay mode; `lines` are more of its lines, such as `[routes.credentials.new]` and what follows.
    #[must_use]
    pub fn relay(self, name: &str, client_id: &str, cluster: &str, lines: &str) -> Self {
        self.section(&format!(
            "[[routes]]\nname = \"{name}\"\nclient_id = \"{client_id}\"\ncluster = \"{cluster}\"\nmode = \"relay\"\n{lines}"
        ))
    }

    /// Adds a line to the listener `plain`.
    #[must_use]
    pub fn listener(mut self, line: &str) -> Self {
        let _ = writeln!(self.listener, "{line}");
        self
    }

    /// Sets a key of `[limits]`.
    #[must_use]
    pub fn limit(mut self, key: &str, value: u64) -> Self {
        let _ = writeln!(self.limits, "{key} = {value}");
        self
    }

    /// Adds any text.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        let _ = write!(self.sections, "\n{text}");
        self
    }

    /// The port of the listener `plain`, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of `[admin]`, on 127.0.0.1.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// The file.
    pub fn text(&self) -> String {
        format!(
            "[admin]\nbind = \"127.0.0.1:{}\"\n\n[[listeners]]\nname = \"plain\"\nbind = \"127.0.0.1:{}\"\n{}\n[limits]\n{}{}",
            self.admin_port, self.port, self.listener, self.limits, self.sections
        )
    }
}

/// A running proxy. Killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    log: PathBuf,
    config: PathBuf,
    port: u16,
    tls_port: Option<u16>,
    admin_port: u16,
}

/// An answer of the admin address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// Its text.
    pub body: String,
}

impl Proxy {
    /// Starts one with this file and waits until it is ready.
    pub fn start(routes: &Routes) -> Result<Self> {
        let config = run::folder("proxy")?.join("routes.toml");
        fs::write(&config, routes.text())?;
        Self::start_with(routes, &config, &[])
    }

    /// Starts one with a file that is there already, `routes` or what a link to it says, and more arguments; waits until it is ready.
    /// Its folder is where the log goes.
    pub fn start_with(routes: &Routes, config: &Path, arguments: &[&str]) -> Result<Self> {
        Self::launch(routes, config, arguments)?.ready()
    }

    /// Starts one that this user runs, and waits until it is ready.
    pub fn start_as(user: &OrdinaryUser, routes: &Routes) -> Result<Self> {
        let config = user.file("routes.toml", &routes.text())?;
        let program = user.command(&executable("kferry-proxy")?)?;
        Self::launch_program(program, routes, &config, &["--log-format", "text"])?.ready()
    }

    /// Starts one that may have so many open files, and waits until it is ready.
    pub fn start_with_open_files(routes: &Routes, open_files: u64) -> Result<Self> {
        let config = run::folder("proxy")?.join("routes.toml");
        fs::write(&config, routes.text())?;
        let mut program = Command::new("prlimit");
        program.arg(format!("--nofile={open_files}:{open_files}")).arg("--").arg(executable("kferry-proxy")?);
        Self::launch_program(program, routes, &config, &[])?.ready()
    }

    fn ready(mut self) -> Result<Self> {
        self.listens()?;
        Ok(self)
    }

    /// Waits until it listens. Whether it is ready is another question: without the log of decisions it is not.
    fn listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        // Refused until the admin address is open, which is after the listeners.
        while !self.get("/healthz").is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = self.process.exited() {
                bail!("kferry-proxy ended at its start ({status}):\n{}", self.log_text());
            }
            ensure!(Instant::now() < deadline, "kferry-proxy does not listen after {LIMIT:?}:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// A new process in the place of one that is gone: the same file, ports and log. Returns when it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = spawn(Command::new(executable("kferry-proxy")?), &self.config, &[], &self.log)?;
        self.listens()
    }

    /// SIGSTOP: its connections stay open and the kernel accepts new ones for it, but nothing answers.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.freeze()
    }

    /// SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.thaw()
    }

    /// As [`Proxy::start_with`], but returns as soon as its process runs: for what is to be measured from there.
    pub fn launch(routes: &Routes, config: &Path, arguments: &[&str]) -> Result<Self> {
        Self::launch_program(Command::new(executable("kferry-proxy")?), routes, config, arguments)
    }

    fn launch_program(program: Command, routes: &Routes, config: &Path, arguments: &[&str]) -> Result<Self> {
        let log = run::folder("proxy-log")?.join("stderr");
        let process = spawn(program, config, arguments, &log)?;
        let config = config.to_owned();
        Ok(Self { process, log, config, port: routes.port, tls_port: routes.tls_port, admin_port: routes.admin_port })
    }

    /// The port of the listener `plain`, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the listener `tls`, on 127.0.0.1.
    pub fn tls_port(&self) -> Result<u16> {
        self.tls_port.context("this file has no TLS listener: Routes::tls_listener")
    }

    /// The port of `[admin]`, on 127.0.0.1.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// What clients are given.
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its `routes.toml`.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The file with its log.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Files and sockets that it has open.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// Sets how many files it may have open from now on. `None`: as many as this process may.
    pub fn limit_open_files(&self, open_files: Option<u64>) -> Result<()> {
        let id = Pid::from_raw(self.id().cast_signed()).context("process 0")?;
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(Some(id), Resource::Nofile, Rlimit { current: open_files.or(maximum), maximum })?;
        Ok(())
    }

    /// Memory that it has in RAM (`VmRSS`), in bytes.
    pub fn resident_memory(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most that it ever had there (`VmHWM`).
    pub fn peak_memory(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no {field}"))? * 1024)
    }

    /// Writes its file anew, in place, and waits until it has been seen and taken. An error if it was not taken.
    pub fn edit(&self, routes: &Routes) -> Result<()> {
        let before = (self.reloads("changed")?, self.reloads("invalid")?);
        fs::write(&self.config, routes.text())?;
        until("the edited file is in force", || {
            ensure!(self.reloads("invalid")? <= before.1, "the edited file was not taken:\n{}", self.log_text());
            Ok(self.reloads("changed")? > before.0)
        })
    }

    /// How often the file was read again with that result: `changed`, `unchanged`, `invalid`.
    pub fn reloads(&self, result: &str) -> Result<u64> {
        Ok(self.metric("kferry_proxy_config_reloads_total", &[("result", result)])? as u64)
    }

    /// `POST /reload`.
    pub fn reload(&self) -> Result<Answer> {
        http(self.admin_port, "POST", "/reload")
    }

    /// Asks the admin address.
    pub fn get(&self, path: &str) -> Result<Answer> {
        http(self.admin_port, "GET", path)
    }

    /// The rows of `/clients`.
    pub fn clients(&self) -> Result<Vec<Value>> {
        let answer = self.get("/clients")?;
        let mut all: Value = serde_json::from_str(&answer.body).context(answer.body)?;
        match all["clients"].take() {
            Value::Array(rows) => Ok(rows),
            other => bail!("/clients has {other} as clients"),
        }
    }

    /// `/metrics` as it came. An error if something is in it that the proxy does not say that it exports.
    pub fn metrics(&self) -> Result<String> {
        let text = self.get("/metrics")?.body;
        exported::check(&text, &exported::by_proxy())?;
        Ok(text)
    }

    /// The sum of the metric's series that have all of these labels; 0 if there is none yet.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut sum = 0.0;
        for line in self.metrics()?.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (its_name, its_labels) = series.split_once('{').unwrap_or((series, ""));
            if its_name == name && labels.iter().all(|(key, value)| its_labels.contains(&format!("{key}=\"{value}\""))) {
                sum += value.parse::<f64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(sum)
    }

    /// What it wrote to stderr so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The log lines so far. An error if one is no JSON.
    pub fn log(&self) -> Result<Vec<Value>> {
        let text = self.log_text();
        // A line is written at once, but may just be under way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON in the log: {line}"))).collect()
    }

    /// Waits for the line at the end of this connection. An earlier one may have had the same port.
    pub fn closed(&self, client: &Raw) -> Result<Value> {
        let peer = format!("127.0.0.1:{}", client.local_port()?);
        let of_it = |line: &Value| {
            let at = line["timestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            line["message"] == "connection closed" && line["peer"] == *peer && at.is_some_and(|at| at >= client.opened())
        };
        let mut found = None;
        until(&format!("the log tells the end of {peer}"), || {
            found = self.log()?.into_iter().find(of_it);
            Ok(found.is_some())
        })
        .with_context(|| self.log_text())?;
        Ok(found.expect("until returns when it is there"))
    }

    /// How many connections ended for this cause.
    pub fn closed_count(&self, cause: &str) -> Result<u64> {
        Ok(self.metric("kferry_proxy_connections_closed_total", &[("cause", cause)])? as u64)
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.process.exited() {
            bail!("kferry-proxy has ended ({status}):\n{}", self.log_text());
        }
        let id = Pid::from_raw(self.process.id().cast_signed()).context("process 0")?;
        Ok(kill_process(id, signal)?)
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait(LIMIT)
    }

    /// SIGTERM, and waits until it has drained. An error if its exit code is not 0.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait()?;
        ensure!(status.success(), "kferry-proxy ended with {status}:\n{}", self.log_text());
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A task that panics is caught by its runtime: from outside it looks like a closed connection.
        let log = self.log_text();
        assert!(std::thread::panicking() || !log.contains("panicked at"), "kferry-proxy panicked:\n{log}");
    }
}

/// Runs the proxy with a file that it should not start with; returns how it ended and what it said.
pub fn refused(config: &Path) -> Result<(ExitStatus, String)> {
    let log = run::folder("proxy-log")?.join("stderr");
    let status = spawn(Command::new(executable("kferry-proxy")?), config, &[], &log)?.wait(LIMIT)?;
    Ok((status, fs::read_to_string(&log)?))
}

/// Asks an admin address on 127.0.0.1.
pub fn http(port: u16, method: &str, path: &str) -> Result<Answer> {
    http_with(port, method, path, "")
}

/// The same of any server, with a body of JSON.
pub fn http_with(port: u16, method: &str, path: &str, body: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    // Some answer when something is done, and a busy machine needs longer for that than for a start.
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    // 1.0: the answer ends with the connection, and is not in chunks.
    let head =
        if body.is_empty() { String::new() } else { format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()) };
    write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n{body}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok(Answer { status, body: body.to_owned() })
}

fn spawn(mut command: Command, config: &Path, arguments: &[&str], log: &Path) -> Result<Process> {
    command.arg("--config").arg(config);
    if !arguments.contains(&"--log-format") {
        command.args(["--log-format", "json"]);
    }
    command.args(arguments).env("RUST_LOG", "info,kferry_proxy=debug,kferry_wire::decisions=debug").env_remove("KFERRY_CONFIG");
    Process::spawn("kferry-proxy", &command, log)
}

/// One of the workspace's own programs, as built: beside the running test, in the same profile. An old build is an error: it would be what is
/// tested.
pub fn executable(name: &str) -> Result<PathBuf> {
    const REMEDY: &str = "run: cargo build --workspace --bins";
    let running = std::env::current_exe()?;
    let mut folder = running.parent().context("a program is in a folder")?;
    // Tests are in `deps` or `examples`.
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("those are in a folder")?;
    }
    let program = folder.join(name);
    let built = fs::metadata(&program)
        .and_then(|program| program.modified())
        .with_context(|| format!("there is no {}; {REMEDY}", program.display()))?;
    // Cargo's list of the files that it was made of: `program: file file`, spaces in names as `\ `.
    let list = fs::read_to_string(program.with_extension("d")).with_context(|| format!("{}; {REMEDY}", program.display()))?;
    let sources = list.split_once(": ").map(|(_, sources)| sources.trim().replace("\\ ", "\0")).unwrap_or_default();
    for source in sources.split(' ').map(|source| source.replace('\0', " ")) {
        // One that is gone has been renamed or removed since.
        let changed = fs::metadata(&source).and_then(|source| source.modified());
        ensure!(changed.is_ok_and(|changed| changed <= built), "{} is older than {source}; {REMEDY}", program.display());
    }
    Ok(program)
}
