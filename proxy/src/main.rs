//! `kferry-proxy`: logs, file, ports, run, drain.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use kferry_proxy::messages;
use kferry_proxy::{Args, LoadError, LogFormat, Routes, Server, install_metrics};
use kferry_wire::exit::Exit;
use kferry_wire::files::Reads;
use kferry_wire::tell;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    write_logs(args.log_format);
    let ended = run(args).await.unwrap_or_else(|error| {
        tell!(messages::CANNOT_START: ": {error:#}");
        Exit::NotDone
    });
    ended.into()
}

async fn run(args: Args) -> anyhow::Result<Exit> {
    let metrics = install_metrics()?;
    let path = args.config.clone();
    let loaded = Reads::new(1).run(move || Routes::load(&path)).await;
    let loaded = loaded.unwrap_or_else(|source| Err(LoadError::NotRead { path: args.config.clone(), source }));
    let routes = match loaded {
        Ok(routes) => Arc::new(routes),
        Err(error) => {
            eprintln!("{error}");
            return Ok(Exit::Refused);
        }
    };
    let files = allow_open_files();
    let server = Server::bind(routes.clone(), metrics, files.unwrap_or(u64::MAX))?;
    tell!(messages::READY, version = env!("CARGO_PKG_VERSION"), config = %args.config.display(), open_files = files);

    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signals(stop.clone())?);
    tokio::spawn(reload_on_sighup(routes)?);
    Ok(Exit::done(server.run(stop).await))
}

fn write_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Where standard error cannot be written (its reader has gone), telling of it there would panic, in whichever task has a line to write.
    let logs = logs.log_internal_errors(false);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// Two sockets a connection: the soft limit of 1,024 that shells start with would be used up by some 400 clients.
fn allow_open_files() -> Option<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current
}

fn stop_on_signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => tell!(messages::SIGTERM),
            _ = int.recv() => tell!(messages::SIGINT),
        }
        stop.cancel();
    })
}

fn reload_on_sighup(routes: Arc<Routes>) -> std::io::Result<impl Future<Output = ()>> {
    let mut hup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hup.recv().await.is_some() {
            // The outcome is in the log and the metrics.
            let _ = routes.reload().await;
        }
    })
}
