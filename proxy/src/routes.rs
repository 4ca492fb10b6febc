//! The table in force, and how `routes.toml` gets into it.
//!
//! The file is the order, the table is what holds: a file with an error changes nothing. What a running process cannot change (where it
//! listens) is said, and the rest of the file is taken over.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use kferry_wire::config::diagnostic::{self, Invalid, Severity};
use kferry_wire::config::{BrokerRange, Cluster, Config, Listener, Mode, SaslMechanism};
use kferry_wire::security::tls::{SecurityError, server_config};
use kferry_wire::security::users::{UserError, Users};
use kferry_wire::tell;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::servers::BootstrapServers;
use crate::{messages, metrics};

/// How often the file is read. Reading it is all there is to watching it: it sees an edit in place, a rename over it, a ConfigMap's swapped
/// symlink and a bind mount alike, of which inotify misses some; ten kilobytes twice a second cost nothing.
const POLL: Duration = Duration::from_millis(500);

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file has errors.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file is right, but has mirrors only.
    #[error("{}: no [[listeners]] and [[routes]]: as it is the file is for kferry-mirror only; write where clients connect, and which land where", .0.display())]
    OnlyMirrors(PathBuf),
    /// The file is right, but the password of a user that it names is not.
    #[error("{}: {source}", path.display())]
    User {
        /// `routes.toml`
        path: PathBuf,
        /// Which user, and what is wrong with it.
        source: UserError,
    },
    /// The file is right, but a certificate or key that it names is not.
    #[error("{}: {source}", path.display())]
    Security {
        /// `routes.toml`
        path: PathBuf,
        /// Which file, and what is wrong with it.
        source: SecurityError,
    },
}

/// What a reload did.
#[derive(Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The text is the one in force. Certificates were read again.
    Unchanged,
    /// The new table is in force.
    Changed {
        /// What only holds after a restart, a clause each.
        after_restart: Vec<String>,
    },
}

/// A table, ready to use: the file and what was made of it.
#[derive(Debug)]
pub struct InForce {
    /// The checked file.
    pub config: Config,
    /// Who may log in at the proxy.
    pub users: Arc<Users>,
    /// Since when it is in force.
    pub loaded_at: Timestamp,
    text: String,
    servers: HashMap<Arc<str>, Arc<BootstrapServers>>,
    tls: HashMap<Arc<str>, Arc<ServerConfig>>,
}

impl InForce {
    fn build(text: String, config: Config, path: &Path, before: Option<&Self>) -> Result<Self, LoadError> {
        if config.listeners.is_empty() {
            return Err(LoadError::OnlyMirrors(path.to_owned()));
        }
        let users = Users::load(&config.users).map_err(|source| LoadError::User { path: path.to_owned(), source })?;
        let security = |source| LoadError::Security { path: path.to_owned(), source };
        let mut servers = HashMap::new();
        for cluster in &config.clusters {
            let made = Arc::new(BootstrapServers::new(cluster.clone()).map_err(security)?);
            servers.insert(cluster.name.clone(), made);
        }
        // A listener that the file has dropped is bound until the restart, and goes on as it was.
        let mut tls = before.map(|before| before.tls.clone()).unwrap_or_default();
        for listener in &config.listeners {
            tls.remove(&listener.name);
            if let Some(settings) = &listener.tls {
                tls.insert(listener.name.clone(), server_config(settings).map_err(security)?);
            }
        }
        Ok(Self { config, users: Arc::new(users), loaded_at: Timestamp::now(), text, servers, tls })
    }

    fn warn(&self, path: &Path) {
        let warnings = &self.config.warnings;
        if !warnings.is_empty() {
            let places = diagnostic::render(path, &self.text, Severity::Warning, warnings, false);
            tell!(messages::PROBABLY_NOT_MEANT: "\n{places}");
        }
    }

    /// The bootstrap servers of a cluster of this table.
    pub fn servers(&self, cluster: &Cluster) -> &Arc<BootstrapServers> {
        &self.servers[&cluster.name]
    }

    /// The clusters that a relayed client may come to.
    pub fn relayed_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let relayed = |cluster: &Cluster| {
            let mut routes = self.config.routes.iter().filter(|route| route.mode == Mode::Relay);
            routes.any(|route| route.cluster.name == cluster.name || route.credentials.contains_key(&cluster.name))
        };
        self.config.clusters.iter().filter(move |cluster| relayed(cluster))
    }

    fn virtual_brokers(&self) -> Vec<(Arc<str>, BrokerRange)> {
        self.relayed_clusters().filter_map(|cluster| Some((cluster.name.clone(), cluster.brokers.clone()?))).collect()
    }

    /// What clients of a listener may log in with at the proxy. One that the file has dropped goes on as it was.
    pub fn sasl_mechanisms<'a>(&'a self, listener: &'a Listener) -> &'a [SaslMechanism] {
        let now = self.config.listeners.iter().find(|now| now.name == listener.name);
        &now.unwrap_or(listener).sasl_mechanisms
    }

    /// How the listener of that name does TLS, if it does.
    pub fn tls(&self, listener: &str) -> Option<&Arc<ServerConfig>> {
        self.tls.get(listener)
    }
}

/// The ports of a process, which are opened once.
#[derive(Debug)]
struct Bound {
    listeners: Vec<Listener>,
    admin: SocketAddr,
    virtual_brokers: Vec<(Arc<str>, BrokerRange)>,
}

/// `routes.toml` and the table that was made of it.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    in_force: ArcSwap<InForce>,
    /// What was bound at the start: a reload is compared with it.
    bound: Bound,
    /// What was judged last, taken or not. Locked by a reload: one at a time.
    judged: Mutex<Judged>,
}

/// What a table is made of, as it was on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Judged {
    /// `None` if there was none to be read.
    text: Option<String>,
    /// Those that the text names, or an earlier one if it cannot be understood.
    files: Vec<PathBuf>,
    /// A hash of all that is in them: they hold keys and passwords.
    contents: u64,
}

impl Judged {
    /// As it is now.
    fn read(path: &Path, files: Vec<PathBuf>) -> (Result<String, Invalid>, Self) {
        let text = Config::read(path);
        let judged = Self { text: text.as_ref().ok().cloned(), contents: contents(&files), files };
        (text, judged)
    }

    /// With the files that `config` names, before anybody has used them: what changes after that is seen at the next look.
    fn of(self, config: &Config) -> Self {
        let files: Vec<_> = config.files().into_iter().map(Path::to_owned).collect();
        Self { contents: contents(&files), files, ..self }
    }
}

fn contents(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

impl Table {
    /// Loads the file for the first time.
    ///
    /// # Errors
    /// [`LoadError`]: there is nothing to fall back to.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let (text, judged) = Judged::read(path, Vec::new());
        let text = text?;
        let config = Config::parse(&text, path)?;
        let judged = judged.of(&config);
        let in_force = InForce::build(text, config, path, None)?;
        in_force.warn(path);
        metrics::loaded(in_force.loaded_at);
        Ok(Self {
            path: path.to_owned(),
            bound: Bound {
                listeners: in_force.config.listeners.clone(),
                admin: in_force.config.admin.bind,
                virtual_brokers: in_force.virtual_brokers(),
            },
            judged: Mutex::new(judged),
            in_force: ArcSwap::from_pointee(in_force),
        })
    }

    /// The table as it is now.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Reads the file again and puts it in force. Tells the log and the metrics, whoever asked.
    ///
    /// # Errors
    /// [`LoadError`]: nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut judged = self.judged.lock().await;
        let (text, now) = Judged::read(&self.path, judged.files.clone());
        self.judge(&mut judged, text, now).await
    }

    async fn judge(&self, judged: &mut Judged, text: Result<String, Invalid>, now: Judged) -> Result<Reloaded, LoadError> {
        let (path, before) = (self.path.clone(), self.in_force());
        // Files to read, and passwords to hash.
        let built = spawn_blocking(move || {
            let parsed = text.and_then(|text| Ok((Config::parse(&text, &path)?, text)));
            match parsed {
                Ok((config, text)) => (now.of(&config), InForce::build(text, config, &path, Some(&before))),
                Err(invalid) => (now, Err(invalid.into())),
            }
        });
        let (now, built) = built.await.expect("reading a file does not panic");
        *judged = now;
        let result = built.map(|after| self.put_in_force(after));
        match &result {
            Ok(Reloaded::Unchanged) => {
                metrics::reloaded("unchanged");
                tell!(messages::READ_AGAIN, path = %self.path.display());
            }
            Ok(Reloaded::Changed { after_restart }) => {
                metrics::reloaded("changed");
                let table = self.in_force();
                let config = &table.config;
                tell!(messages::IN_FORCE, path = %self.path.display(), clusters = config.clusters.len(), routes = config.routes.len());
                for what in after_restart {
                    tell!(messages::NEEDS_RESTART: ": {what}");
                }
            }
            Err(reason) => {
                metrics::reloaded("invalid");
                let before = self.in_force().loaded_at;
                tell!(messages::NOT_TAKEN: ", the table of {before} stays in force\n{reason}");
            }
        }
        result
    }

    fn put_in_force(&self, after: InForce) -> Reloaded {
        if after.text == self.in_force().text {
            self.in_force.store(Arc::new(after));
            return Reloaded::Unchanged;
        }
        after.warn(&self.path);
        metrics::loaded(after.loaded_at);
        let after_restart = self.after_restart(&after);
        self.in_force.store(Arc::new(after));
        Reloaded::Changed { after_restart }
    }

    fn after_restart(&self, after: &InForce) -> Vec<String> {
        let Bound { listeners, admin, virtual_brokers } = &self.bound;
        let config = &after.config;
        let mut sentences = Vec::new();
        let mut tell = |what: String| sentences.push(what);
        for now in &config.listeners {
            match listeners.iter().find(|bound| bound.name == now.name) {
                None => tell(format!("listener {:?} is new, bind {} is not open", now.name, now.bind)),
                Some(bound) if bound.bind != now.bind => {
                    tell(format!("listener {:?} stays bound to {}, the file says {}", now.name, bound.bind, now.bind));
                }
                Some(_) => {}
            }
        }
        for bound in listeners {
            if !config.listeners.iter().any(|now| now.name == bound.name) {
                tell(format!("listener {:?} is no longer in the file, {} stays open", bound.name, bound.bind));
            }
        }
        if config.admin.bind != *admin {
            tell(format!("[admin] stays bound to {admin}, the file says {}", config.admin.bind));
        }
        for (cluster, range) in after.virtual_brokers() {
            if !virtual_brokers.contains(&(cluster.clone(), range.clone())) {
                tell(format!(
                    "the virtual brokers of cluster {cluster:?}, ports {} to {}, are not open",
                    range.ports.start(),
                    range.ports.end()
                ));
            }
        }
        sentences
    }

    /// Reloads whenever the file has changed, or a certificate, a key or a user's password that it names, until `stop`. An editor may write a file in
    /// several steps, and half a file can be a valid one with half the routes: so a text counts once it was read twice in a row.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = self.judged.lock().await.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let (path, files) = (self.path.clone(), self.judged.lock().await.files.clone());
            let Ok((text, now)) = spawn_blocking(move || Judged::read(&path, files)).await else { continue };
            let mut judged = self.judged.lock().await;
            if now == last && now.files == judged.files && now != *judged {
                // The outcome is in the log and the metrics.
                let _ = self.judge(&mut judged, text, now.clone()).await;
            }
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_mirrors_alone_is_not_for_the_proxy() {
        let text = r#"
            clusters.a = { id = 1, bootstrap_servers = "a:9092" }
            clusters.b = { id = 2, bootstrap_servers = "b:9092" }
            mirrors = [{ name = "a-b", source = "a", target = "b", topics = "x" }]
        "#;
        let path = Path::new("routes.toml");
        let refused = InForce::build(text.to_owned(), Config::parse(text, path).unwrap(), path, None).unwrap_err();
        let said = "routes.toml: no [[listeners]] and [[routes]]: as it is the file is for kferry-mirror only; write where clients connect, \
                    and which land where";
        assert_eq!(refused.to_string(), said);
    }
}
