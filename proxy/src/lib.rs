//! The address that every client has as `bootstrap.servers`.
//!
//! The path of a connection, top-down: `server` accepts, `session` peeks at the first request, asks the table in force (`routes`) for the cluster, has
//! `bootstrap_servers` open a connection there, and `bootstrap` or `relay` moves bytes until one side ends. A file imports only those below it.
//!
//! | file | what it is |
//! |---|---|
//! | [`Args`] | the command line |
//! | `server` | opens the ports, accepts, keeps the limits, drains |
//! | `admin` | `/metrics`, `/healthz`, `/readyz`, `/clients`, `/reload` |
//! | `session` | one client connection, from accept to its end |
//! | `endpoint` | where clients come in: a listener's port, or one of its virtual brokers' |
//! | `load_balancer` | clients that come by a load balancer: who may speak for others, and what it says |
//! | `proxy` | what all connections share |
//! | `summary` | what is known of a connection, told at its end |
//! | `routes/` | `wished`: the file as the operator wrote it; `table`: what connections are routed by; `ports`: what only a restart changes |
//! | `moves/` | follows the log of decisions: gives the table in force its homes, and `relay/view` its leaders |
//! | `bootstrap/` | bootstrap mode: bytes both ways, unchanged; `direction`: one of the two ways |
//! | `relay/` | relay mode: frames both ways, what names a broker is rewritten; its own map is in `relay/mod.rs` |
//! | `quiet` | when a connection on which nothing moves is ended |
//! | `admission` | how many connections may be open |
//! | `clients` | who is and was connected, bounded |
//! | `ending` | why a connection ended, and what had moved |
//! | `identity` | which Kafka cluster answers at an address: servers of another one are not used |
//! | `bootstrap_servers` | a cluster's bootstrap servers: which of them answers |
//! | `metrics` | every event once: its log line and its metric |
//!
//! Where a topic leads and where a group lives, `relay/view` works out of the file, of what exists, and of what was decided.

mod admin;
mod admission;
mod alone;
mod args;
mod bootstrap;
mod bootstrap_servers;
mod clients;
mod ending;
mod endpoint;
mod identity;
mod load_balancer;
pub mod messages;
pub mod metrics;
mod moves;
mod proxy;
mod quiet;
mod relay;
mod routes;
mod server;
mod session;
mod summary;

/// What fuzz targets reach of the inside.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::relay::view::fuzzed::view_request;
}

/// Why connections end: the labels of the metric's `cause`.
pub const CAUSES: &[&str] = ending::Cause::LABELS;

pub use args::{Args, LogFormat};
pub use metrics::install as install_metrics;
pub use routes::{LoadError, Reloaded, Routes};
pub use server::{BindError, Server};
