//! What tests of both clusters at once stand on: two of three brokers each, the old one and the new one, and one file for proxies and mirrors.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::kafka::{Cluster, Listener};
use crate::proxy::Routes;
use crate::run;

/// A cluster, as the leader of a topic or as the home of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The old one.
    Legacy,
    /// The new one.
    New,
}

impl Side {
    /// The old one first.
    pub const BOTH: [Self; 2] = [Self::Legacy, Self::New];

    /// In the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::New => "new",
        }
    }

    /// The one that it is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Legacy => Self::New,
            Self::New => Self::Legacy,
        }
    }

    /// Its cluster, of both.
    pub fn of(self, [legacy, new]: &[Cluster; 2]) -> &Cluster {
        match self {
            Self::Legacy => legacy,
            Self::New => new,
        }
    }
}

/// Both clusters; `settings` are more of every broker. Their node ids are the same on purpose.
pub fn clusters(settings: &[(&str, &str)]) -> Result<[Cluster; 2]> {
    clusters_of([3, 3], settings)
}

/// The same with so many brokers.
pub fn clusters_of(brokers: [u16; 2], settings: &[(&str, &str)]) -> Result<[Cluster; 2]> {
    let builders = [("3.9.1", Side::Legacy, brokers[0]), ("4.3.0", Side::New, brokers[1])].map(|(version, side, brokers)| {
        let cluster = Cluster::version(version).name(side.name()).brokers(brokers).set("min.insync.replicas", &brokers.min(2).to_string());
        // A busy machine is no reason to lose a broker that nobody has killed.
        let cluster = cluster.set("broker.session.timeout.ms", "8000");
        // Nor is it one to elect controllers over and over: beside compilers a cluster got to epoch 95 within two minutes.
        let cluster = cluster.set("controller.quorum.fetch.timeout.ms", "6000").set("controller.quorum.election.timeout.ms", "2000");
        settings.iter().fold(cluster, |cluster, (key, value)| cluster.set(key, value))
    });
    Cluster::start_all(builders.into())?.try_into().map_err(|_| anyhow!("two clusters were asked for"))
}

/// A file with both, on ports of its own.
pub fn routes(clusters: &[Cluster; 2]) -> Result<Routes> {
    Side::BOTH.into_iter().try_fold(Routes::new()?, |routes, side| routes.kafka(side.name(), side.of(clusters), Listener::Plaintext, None))
}

/// Writes the file for a proxy and for mirrors, whose admin address gets this port. Returns where it is, and what it says.
pub fn shared(routes: &Routes, mirror_port: u16) -> Result<(PathBuf, String)> {
    let text = routes.text().replacen("[admin]\n", &format!("[admin]\nmirror_bind = \"127.0.0.1:{mirror_port}\"\n"), 1);
    let config = run::folder("shared")?.join("routes.toml");
    fs::write(&config, &text)?;
    Ok((config, text))
}
