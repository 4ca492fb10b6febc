//! `kferry-mirror`: logs, file, mirrors, run, stop.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use kferry_config::diagnostic::{self, Severity};
use kferry_config::{Config, EphemeralPorts, Mirror, who_may_have};
use kferry_mirror::admin::{self, Mirrors};
use kferry_mirror::args::{Args, LogFormat};
use kferry_mirror::certificates;
use kferry_mirror::messages;
use kferry_mirror::metrics;
use kferry_mirror::overview::Overview;
use kferry_mirror::partition::NotCopied;
use kferry_mirror::progress;
use kferry_mirror::run::{Options, Outcome, Run, is_stuck};
use kferry_mirror::shards::Member;
use kferry_wire::exit::Exit;
use kferry_wire::tell;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
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
    let metrics = metrics::install()?;
    let (text, config) = match Config::read(&args.config).and_then(|text| Config::parse(&text, &args.config).map(|config| (text, config))) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("{error}");
            return Ok(Exit::Refused);
        }
    };
    if !config.warnings.is_empty() {
        eprintln!("{}", diagnostic::render(&args.config, &text, Severity::Warning, &config.warnings, false));
    }
    let chosen = match chosen(&config, &args.mirror, &args.accept) {
        Ok(chosen) => chosen,
        Err(sentence) => {
            eprintln!("error: {}: {sentence}", args.config.display());
            return Ok(Exit::Refused);
        }
    };
    let state = config.state.as_ref().map(|state| state.cluster.clone());
    let log = state.as_ref().map(|cluster| cluster.name.clone());
    let options =
        Options { once: args.once, accept: args.accept, coalesce: !args.no_coalesce, mirrors: config.mirrors.clone().into(), state };
    let stop = CancellationToken::new();
    let mirrors: Vec<_> = chosen.into_iter().map(|mirror| (mirror, Arc::new(Overview::default()))).collect();

    let admin = args.admin_bind.unwrap_or(config.admin.mirror_bind);
    let listener = tokio::net::TcpListener::bind(admin).await;
    let listener = listener.map_err(|error| {
        let who = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(": {}", who_may_have(admin.port(), EphemeralPorts::of_this_machine().as_ref())),
            _ => String::new(),
        };
        anyhow!(
            "cannot listen on {admin}, [admin] mirror_bind: {error}{who}; if another kferry-mirror is on it, start this one with --admin-bind \
             127.0.0.1:PORT"
        )
    })?;
    let named: Mirrors = mirrors.iter().map(|(mirror, overview)| (mirror.name.clone(), overview.clone())).collect();
    let serving = tokio::spawn(admin::serve(listener, metrics, named.clone(), log, stop.clone()));
    let showing = tokio::spawn(progress::show(named, options.once, stop.clone()));
    tokio::spawn(certificates::watch(mirrors.iter().map(|(mirror, _)| mirror.clone()).collect::<Vec<_>>(), stop.clone()));
    tokio::spawn(stop_on_signals(stop.clone())?);
    tell!(messages::READY, version = env!("CARGO_PKG_VERSION"), config = %args.config.display(), mirrors = mirrors.len(), %admin);

    let mut running = JoinSet::new();
    for (mirror, overview) in mirrors {
        let (options, stop) = (options.clone(), stop.clone());
        running.spawn(async move { (mirror.name.clone(), one(mirror, options, overview, stop).await) });
    }
    let mut exit = Exit::Done;
    // Those that no mirror has.
    let mut not_accepted: Option<BTreeSet<String>> = None;
    while let Some(ended) = running.join_next().await {
        let (name, outcome) = ended.context("a mirror ended by a bug")?;
        if outcome.is_refused {
            // It has said why. The other mirrors follow the same log.
            exit = exit.max(Exit::NotDone);
            stop.cancel();
        }
        for NotCopied { what, reason } in &outcome.left {
            tell!(messages::NOT_COPIED, mirror = &*name, partition = what, reason);
        }
        for NotCopied { what, reason } in &outcome.groups_left {
            tell!(messages::OFFSET_LEFT, mirror = &*name, what, reason);
        }
        if options.once {
            tell!(messages::DONE, mirror = &*name, copied = outcome.copied, not_copied = outcome.left.len(), left_out = outcome.left_out);
            if outcome.left_out > 0 {
                exit = exit.max(Exit::Lacking);
            }
            exit = exit.max(Exit::done(outcome.left.is_empty() && outcome.groups_left.is_empty()));
        }
        let before = not_accepted.take().unwrap_or_else(|| outcome.not_accepted.clone());
        not_accepted = Some(&before & &outcome.not_accepted);
    }
    for name in not_accepted.into_iter().flatten().filter(|_| options.once) {
        tell!(messages::NOT_ACCEPTED, name);
        exit = exit.max(Exit::NotDone);
    }
    stop.cancel();
    let _ = tokio::join!(serving, showing);
    Ok(exit)
}

/// One mirror, from the moment that its target can be reached.
async fn one(mirror: Arc<Mirror>, options: Options, overview: Arc<Overview>, stop: CancellationToken) -> Outcome {
    let mut pause = std::time::Duration::from_secs(1);
    let since = Instant::now();
    loop {
        let begun = tokio::select! {
            begun = Run::begin(mirror.clone(), options.clone(), overview.clone(), Member::join) => begun,
            () = stop.cancelled() => return Outcome::default(),
        };
        match begun {
            Ok(run) => return run.run(stop).await,
            // Who waits for the end of a job is told that there is something to mend.
            Err(error) if options.once && (error.is_wrong() || is_stuck(since, Instant::now())) => {
                let left = vec![NotCopied { what: "all topics".to_owned(), reason: error.to_string() }];
                return Outcome { left, ..Outcome::default() };
            }
            Err(error) => tell!(messages::CANNOT_BEGIN, mirror = &*mirror.name, %error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(std::time::Duration::from_secs(30)),
            () = stop.cancelled() => return Outcome::default(),
        }
    }
}

/// The mirrors that the command line names. `Err` is what it names that the file does not have.
fn chosen(config: &Config, names: &[String], accept: &[String]) -> Result<Vec<Arc<Mirror>>, String> {
    if config.mirrors.is_empty() {
        return Err("it has no [[mirrors]]; see docs/routes.md for what one looks like".to_owned());
    }
    if let Some(unknown) = names.iter().find(|name| config.mirrors.iter().all(|mirror| *mirror.name != ***name)) {
        let known: Vec<_> = config.mirrors.iter().map(|mirror| &*mirror.name).collect();
        return Err(format!("it has no mirror {unknown:?}; it has {}", known.join(", ")));
    }
    let chosen: Vec<_> =
        config.mirrors.iter().filter(|mirror| names.is_empty() || names.iter().any(|name| **name == *mirror.name)).cloned().collect();
    let matches = |name: &str| chosen.iter().any(|mirror| mirror.topics.matches(name));
    // A topic, or one of its partitions.
    let is_selected = |name: &&String| matches(name) || name.rsplit_once('-').is_some_and(|(topic, _)| matches(topic));
    if let Some(unknown) = accept.iter().find(|name| !is_selected(name)) {
        return Err(format!(
            "--accept {unknown}: no mirror copies such a topic; it takes TOPIC or TOPIC-PARTITION, by the name on the source"
        ));
    }
    Ok(chosen)
}

fn write_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(progress::stderr).with_target(false);
    // Where standard error cannot be written (its reader has gone), telling of it there would panic, in whichever task has a line to write.
    let logs = logs.log_internal_errors(false);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
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
