//! The command line of `kferry-mirror`.

// Its comments are its help, where brackets are those of the file's tables.
#![allow(rustdoc::broken_intra_doc_links)]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use kferry_wire::exit;

/// Copies topics between Kafka clusters, each record at the same offset.
///
/// Runs the [[mirrors]] of the configuration file until SIGTERM or SIGINT. It may be killed at any moment: the target's logs are the only
/// record of its progress. RUST_LOG sets the log level (default info).
#[derive(Debug, Parser)]
#[command(version, after_help = exit::help(&["kferry-mirror", "kferry-mirror --once"]))]
pub struct Args {
    /// The configuration file.
    #[arg(long, default_value = "routes.toml", env = "KFERRY_CONFIG")]
    pub config: PathBuf,
    /// Run this mirror only. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub mirror: Vec<String>,
    /// Copy up to the end that the leading logs have now, then stop.
    #[arg(long)]
    pub once: bool,
    /// Forget what is kept of a topic (orders) or a partition (orders-3), and compare the whole of both logs: after a divergence was mended.
    #[arg(long, value_name = "TOPIC[-PARTITION]")]
    pub accept: Vec<String>,
    /// Leave small batches as they are, instead of putting several into one when there is more than one to copy.
    #[arg(long)]
    pub no_coalesce: bool,
    /// Where /metrics and the rest are served, instead of [admin] mirror_bind: for several processes with one file on one host.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_bind: Option<SocketAddr>,
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
