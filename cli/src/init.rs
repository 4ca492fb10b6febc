//! `kferry init`: a first routes.toml, from what two clusters say of themselves.
//!
//! | file | what it is |
//! |---|---|
//! | `init` | the command |
//! | [`ask`] | how a cluster wants to be spoken to, and what it says then |
//! | [`ports`] | ports that are free on this machine, and stay free |
//! | [`section`] | a cluster as the file has it |
//! | [`text`] | the text of the file |

mod ask;
mod ports;
mod section;
mod text;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use kferry_config::Config;
use kferry_wire::exit::{self, Exit};

use crate::check::{printable, refuse, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};
use ask::Found;
use ports::Ports;
pub(crate) use section::quoted;
use section::{LEGACY, NEW, Section, Setting};

/// Writes a first routes.toml: asks two clusters how they want to be spoken to, and sends every client to the first of them
///
/// KEY=VALUE are keys of [clusters.NAME] as the file has them. A cluster that wants a login:
/// --new-set sasl_username=kferry --new-set sasl_password_file=secrets/new. One whose certificate no authority of this machine has signed:
/// --new-set ssl_ca_location=ca.pem. The rest is found out.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry init"]))]
pub(crate) struct Args {
    /// Bootstrap servers of the cluster where the clients are
    #[arg(long, value_name = "HOST:PORT,...")]
    legacy: String,
    /// Bootstrap servers of the cluster where they are to go
    #[arg(long, value_name = "HOST:PORT,...")]
    new: String,
    /// How kferry connects to the legacy cluster. May be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = Setting::parse)]
    legacy_set: Vec<Setting>,
    /// How kferry connects to the new cluster. May be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = Setting::parse)]
    new_set: Vec<Setting>,
    /// The name that clients have for the proxy's machine; without this option it is the machine's own
    #[arg(long, value_name = "HOST")]
    advertised_host: Option<String>,
    /// The certificate that the proxy shows to clients (PEM), where those of the legacy cluster speak TLS
    #[arg(long, value_name = "FILE", requires = "ssl_key_location")]
    ssl_certificate_location: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "ssl_certificate_location")]
    ssl_key_location: Option<PathBuf>,
    /// The file to write. It must not be there yet
    #[arg(long, value_name = "FILE", env = "KFERRY_CONFIG", default_value = "routes.toml")]
    config: PathBuf,
}

/// What clients connect to, and operators of the proxy; those of the mirror have the port behind that.
const PORT: u16 = 9092;
const ADMIN_PORT: u16 = 9190;

/// Why there is no file.
struct Failed {
    reason: String,
    exit: Exit,
}

impl Failed {
    /// The command line is wrong.
    fn refused(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), exit: Exit::Refused }
    }

    /// A cluster does not say what must be known.
    fn not_done(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), exit: Exit::NotDone }
    }

    fn and(self, other: &Self) -> Self {
        Self { reason: format!("{}\n{}", self.reason, other.reason), exit: self.exit.max(other.exit) }
    }
}

pub(crate) fn run(args: &Args) -> Exit {
    let path = &args.config;
    if path.exists() {
        return refuse(false, &format!("{} is there, and stays as it is; name another file with --config FILE", path.display()));
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let made = runtime.block_on(make(args));
    runtime.shutdown_background();
    let (text, config) = match made {
        Ok(made) => made,
        Err(failed) => {
            for reason in failed.reason.lines() {
                to_stderr(&labelled(Severity::Error, &printable(reason)));
            }
            return failed.exit;
        }
    };
    // Nothing is written over, also where somebody else has made the file meanwhile.
    let written = OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        let advice = if error.kind() == ErrorKind::NotFound { "; make its folder first" } else { "" };
        to_stderr(&labelled(Severity::Error, &format!("cannot write {}: {error}{advice}", path.display())));
        return Exit::NotDone;
    }
    let (port, admin_port) = (config.listeners[0].bind.port(), config.admin.bind.port());
    if (port, admin_port) != (PORT, ADMIN_PORT) {
        to_stderr(&labelled(
            Severity::Note,
            &format!(
                "of the ports {PORT}, {ADMIN_PORT} and {} not all are free on this machine: the file has {port} for clients, {admin_port} and {} for operators",
                ADMIN_PORT + 1,
                admin_port + 1
            ),
        ));
    }
    let option = if path == Path::new("routes.toml") { String::new() } else { format!(" --config {}", path.display()) };
    to_stdout(&format!(
        "{} is written: whoever has {}:{} as bootstrap.servers goes to {LEGACY}, as without kferry. Now:\n  kferry check --connect{option}\n  \
         kferry-proxy{option}\n",
        path.display(),
        config.listeners[0].advertised_host.as_deref().unwrap_or("localhost"),
        config.listeners[0].bind.port(),
    ));
    Exit::Done
}

async fn make(args: &Args) -> Result<(String, Config), Failed> {
    let path = &args.config;
    // Paths of the command line start where we are, those of a file in its folder.
    let moves = path.parent().is_some_and(|folder| folder != Path::new(""));
    let in_file = |path: &Path| if moves { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() };
    let section = |name, id, servers: &str, settings: &[Setting]| Section {
        name,
        id,
        bootstrap_servers: servers.to_owned(),
        settings: settings.iter().map(|setting| setting.clone().with_path(&in_file)).collect(),
        brokers: None,
    };
    let legacy = section(LEGACY, 1, &args.legacy, &args.legacy_set);
    let new = section(NEW, 2, &args.new, &args.new_set);
    // What is wrong with what was typed is said before anybody is asked.
    let (legacy, new) = both(Found::checked(legacy, path), Found::checked(new, path))?;
    let (legacy, new) = tokio::join!(Found::ask(legacy, path), Found::ask(new, path));
    let (mut legacy, mut new) = both(legacy, new)?;
    if let Some(id) = legacy.is_the_same_as(&new) {
        return Err(Failed::refused(format!("--legacy and --new are one and the same cluster, {id}; give the servers of two")));
    }
    let identity = args.ssl_certificate_location.as_deref().zip(args.ssl_key_location.as_deref());
    if legacy.tls && identity.is_none() {
        return Err(Failed::refused(
            "clients of the legacy cluster speak TLS, and so they will with the proxy: give it a certificate for the name that they connect to \
             (--ssl-certificate-location FILE) and its key (--ssl-key-location FILE), both PEM",
        ));
    }
    let mut ports = Ports::of_this_machine();
    let chosen = (ports.take(PORT..=9099, 1), ports.take(ADMIN_PORT..=9199, 2));
    let (Some(clients), Some(admin)) = chosen else {
        return Err(Failed::not_done(
            "of the ports 9092-9099 and 9190-9199 none is free on this machine; write the file by hand (docs/routes.md)",
        ));
    };
    for found in [&mut legacy, &mut new] {
        found.choose_ports(&mut ports);
    }
    let listener = text::Listener {
        port: *clients.start(),
        admin_port: *admin.start(),
        advertised_host: args.advertised_host.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned()),
        identity: identity.map(|(certificate, key)| (in_file(certificate), in_file(key))),
    };
    let text = text::file(&legacy, &new, &listener);
    let config = parse(&text, path)?;
    for found in [&legacy, &new] {
        to_stdout(&format!("{}: {}\n", found.section.name, printable(&found.summary())));
    }
    Ok((text, config))
}

fn both<T>(one: Result<T, Failed>, other: Result<T, Failed>) -> Result<(T, T), Failed> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => Err(one.and(&other)),
        (Err(failed), Ok(_)) | (Ok(_), Err(failed)) => Err(failed),
    }
}

/// Reads a text as the file that it is going to be.
fn parse(text: &str, path: &Path) -> Result<Config, Failed> {
    Config::parse(text, path).map_err(|invalid| {
        let told = invalid.errors.iter().map(|error| match &error.hint {
            Some(hint) => format!("{}; {hint}", error.message),
            None => error.message.clone(),
        });
        Failed::refused(told.collect::<Vec<_>>().join("\n"))
    })
}
