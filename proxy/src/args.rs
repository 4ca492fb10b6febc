//! The command line of `kferry-proxy`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use kferry_wire::exit;

/// The bootstrap address of every Kafka client: routes each by its client.id to a cluster.
///
/// Reload: edit the file, SIGHUP, or POST /reload to the admin address. Stop: SIGTERM or SIGINT, then it drains.
/// RUST_LOG sets the log level (default info).
#[derive(Debug, Parser)]
#[command(version, after_help = exit::help(&["kferry-proxy"]))]
pub struct Args {
    /// The configuration file.
    #[arg(long, default_value = "routes.toml", env = "KFERRY_CONFIG")]
    pub config: PathBuf,
    /// How log lines are written to standard error.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: an object a line.
    Json,
}
