//! `kferry check`: is the file right, and what is behind it?
//!
//! | file | what it is |
//! |---|---|
//! | `check` | the command: the file itself, the report and how it is shown |
//! | [`brokers`] | `--connect`: what each bootstrap server says |
//! | `producers` | `--connect`: how long brokers remember idempotent producers |
//! | `addresses` | `--connect`: what brokers do by a client's address, which is the proxy's for all relayed clients |
//! | `owners` | `--connect`: what routes own by a pattern, topics on both clusters, clients that may write into a copy |
//! | `machine` | what the file asks of the machine that the proxy runs on |
//! | [`clients`] | `--connect`: which clients the running proxy has seen, and where this file would send them |
//!
//! The report for people goes to standard output, errors and warnings to standard error; `--json` is one object on standard output.

mod addresses;
mod brokers;
mod clients;
mod machine;
mod owners;
mod producers;

use std::borrow::Borrow;
use std::io::Write;
use std::path::{Path, PathBuf};

use kferry_config::diagnostic::{self, Diagnostic, Invalid, Severity};
use kferry_config::{Config, Mode, Route};
use kferry_wire::exit::{self, Exit};
use serde::Serialize;

use brokers::Brokers;
use clients::Clients;

use crate::labels::{Severity as Labelled, is_coloured, labelled};

/// Names in one sentence.
const LISTED: usize = 5;

/// Checks routes.toml, and with --connect the clusters and the proxy behind it
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry check"]))]
pub(crate) struct Args {
    /// The file
    #[arg(long, value_name = "FILE", env = "KFERRY_CONFIG", default_value = "routes.toml")]
    config: PathBuf,
    /// Also asks every bootstrap server, and the running proxy which clients this file would send elsewhere
    #[arg(long)]
    connect: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    file: String,
    /// Nothing in `errors`, here and in `brokers`.
    ok: bool,
    errors: Vec<Place>,
    warnings: Vec<Place>,
    /// What an edit of the file can do to clients that produce.
    split: Option<String>,
    /// What it does to those that stay connected.
    live: Option<String>,
    /// What it does not do, where relayed clients see several clusters and nothing moves live.
    home: Option<String>,
    /// Routes that own by patterns what an earlier one owns.
    shared: Option<String>,
    /// What this machine does not have of what the file asks for. kferry-proxy may run on another.
    machine: Vec<String>,
    brokers: Option<Brokers>,
    clients: Option<Clients>,
}

/// A diagnostic for machines. Lines and columns start at 1, columns are characters; what is not about a place in the file has none.
#[derive(Serialize)]
pub(crate) struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    message: String,
    hint: Option<String>,
}

/// What `--json` prints where nothing was tried.
#[derive(Serialize)]
struct Refused {
    ok: bool,
    errors: Vec<Place>,
}

impl Place {
    pub(crate) fn all(text: &str, diagnostics: &[Diagnostic]) -> Vec<Self> {
        let place = |diagnostic: &Diagnostic| {
            let before = &text[..text.floor_char_boundary(diagnostic.span.start)];
            let line_start = before.rfind('\n').map_or(0, |end| end + 1);
            Self {
                line: Some(before.matches('\n').count() + 1),
                column: Some(before[line_start..].chars().count() + 1),
                message: diagnostic.message.clone(),
                hint: diagnostic.hint.clone(),
            }
        };
        diagnostics.iter().map(place).collect()
    }
}

pub(crate) fn run(args: &Args) -> Exit {
    let colour = is_coloured();
    let (text, config) = match read(&args.config, args.json) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let (brokers, clients) = if args.connect { ask(&config) } else { (None, None) };
    let report = Report {
        file: args.config.display().to_string(),
        ok: brokers.as_ref().is_none_or(|brokers| brokers.errors.is_empty()),
        errors: Vec::new(),
        warnings: Place::all(&text, &config.warnings),
        split: split(&config),
        live: live(&config),
        home: home(&config),
        shared: shared(&config),
        machine: machine::lacks(&config),
        brokers,
        clients,
    };
    if args.json {
        print_json(&report);
    } else {
        print(&args.config, &text, &config, &report, colour);
    }
    Exit::done(report.ok)
}

/// Reads the file. `Err`: it has errors, and all of them are said.
pub(crate) fn read(path: &Path, json: bool) -> Result<(String, Config), Exit> {
    let read = Config::read(path).and_then(|text| Config::parse(&text, path).map(|config| (text, config)));
    read.map_err(|invalid: Invalid| {
        if json {
            print_json(&Refused { ok: false, errors: Place::all(&invalid.text, &invalid.errors) });
        } else {
            to_stderr(&invalid.render(is_coloured()));
        }
        Exit::Refused
    })
}

/// Says why nothing is tried: what is wrong with the command line, or with another file than `routes.toml`.
pub(crate) fn refuse(json: bool, message: &str) -> Exit {
    if json {
        let place = Place { line: None, column: None, message: message.to_owned(), hint: None };
        print_json(&Refused { ok: false, errors: vec![place] });
    } else {
        to_stderr(&labelled(Labelled::Error, &printable(message)));
    }
    Exit::Refused
}

fn ask(config: &Config) -> (Option<Brokers>, Option<Clients>) {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let (brokers, clients) = runtime.block_on(async {
        let (mut brokers, clients) = tokio::join!(Brokers::ask(config), Clients::ask(config));
        let mut owners = owners::ask(config, &brokers).await;
        brokers.warnings.append(&mut owners);
        (brokers, clients)
    });
    // Dropped, it would wait for look-ups in the DNS, which can go on for a minute after they have been given up.
    runtime.shutdown_background();
    (Some(brokers), Some(clients))
}

fn print(path: &Path, text: &str, config: &Config, report: &Report, colour: bool) {
    let parts = [
        (config.clusters.len(), "cluster"),
        (config.listeners.len(), "listener"),
        (config.routes.len(), "route"),
        (config.mirrors.len(), "mirror"),
    ];
    // A file is for proxies, for mirrors, or for both.
    let parts: Vec<_> = parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, noun)| count(number, noun)).collect();
    let mut out = format!("{}: ok ({})\n", report.file, parts.join(", "));
    if let Some(brokers) = &report.brokers {
        out.push('\n');
        out.push_str(&brokers.table());
    }
    if let Some(clients) = &report.clients {
        out.push('\n');
        out.push_str(&clients.text(&config.admin.bind.to_string()));
    }
    to_stdout(&out);

    if !config.warnings.is_empty() {
        to_stderr(&diagnostic::render(path, text, Severity::Warning, &config.warnings, colour));
    }
    for sentence in report.brokers.iter().flat_map(|brokers| &brokers.warnings).chain(&report.machine) {
        to_stderr(&labelled(Labelled::Warning, &printable(sentence)));
    }
    for sentence in report.split.iter().chain(&report.live).chain(&report.home).chain(&report.shared) {
        to_stderr(&labelled(Labelled::Note, &printable(sentence)));
    }
    for sentence in report.brokers.iter().flat_map(|brokers| &brokers.errors) {
        to_stderr(&labelled(Labelled::Error, &printable(sentence)));
    }
}

/// A pipe that is closed early (`kferry check | head`) is no reason for a panic, and the exit code says it all.
pub(crate) fn to_stdout(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub(crate) fn to_stderr(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(crate) fn print_json(report: &impl Serialize) {
    let json = serde_json::to_string_pretty(report).expect("a report has nothing that JSON cannot carry");
    to_stdout(&(json + "\n"));
}

/// Whether clients of a route stay connected while its cluster is edited, and what the route owns moves under them.
pub(crate) fn moves_live(config: &Config, route: &Route) -> bool {
    config.state.is_some() && route.mode == Mode::Relay
}

/// The clients of other routes are not moved together: each instance goes over when it next connects. While that lasts, one that produces writes to both
/// clusters.
fn split(config: &Config) -> Option<String> {
    let routes = names(config, |route| !moves_live(config, route) && !sees_several(config, route))?;
    Some(format!(
        "an edit of a route moves its clients one by one, each when it next connects: until then, the instances of a client that \
         produces write to both clusters. Stop its producers before you change its cluster and start them after it. Routes: {routes}"
    ))
}

fn live(config: &Config) -> Option<String> {
    let routes = names(config, |route| moves_live(config, route))?;
    Some(format!(
        "when the cluster of a relay route is edited its clients stay connected, and the topics that it owns move under them; `kferry move --dry-run` \
         says before what would move. Routes: {routes}"
    ))
}

/// Whether clients of a route see several clusters as one, whichever their home is.
fn sees_several(config: &Config, route: &Route) -> bool {
    config.view(route, &route.cluster).len() > 1
}

/// Without a log of decisions nothing leads anywhere because of an edit of a route.
fn home(config: &Config) -> Option<String> {
    let routes = names(config, |route| !moves_live(config, route) && sees_several(config, route))?;
    Some(format!(
        "an edit of the cluster of such a route changes the home of its clients, and moves nothing that a mirror copies: that leads on the mirror's source, \
         whatever the route says. To move topics while clients run write [state] (docs/moves.md). Routes: {routes}"
    ))
}

/// What two routes would own is the first one's.
fn shared(config: &Config) -> Option<String> {
    let routes: Vec<_> = config.routes.iter().filter(|route| route.mode == Mode::Relay).collect();
    let mut shared = Vec::new();
    for (n, later) in routes.iter().enumerate() {
        for first in &routes[..n] {
            for (what, overlap) in
                [("topics", first.owns_topics.overlap(&later.owns_topics)), ("groups", first.owns_groups.overlap(&later.owns_groups))]
            {
                shared.extend(overlap.map(|name| format!("{what} as {name:?} by {} and {}", first.name, later.name)));
            }
        }
    }
    (!shared.is_empty()).then(|| format!("patterns of several routes match the same, and the first route owns it: {}", listed(&shared)))
}

/// The routes of which something holds. With one cluster there is none to move to.
fn names(config: &Config, holds: impl Fn(&Route) -> bool) -> Option<String> {
    let routes: Vec<&str> = config.routes.iter().filter(|route| holds(route)).map(|route| &*route.name).collect();
    (config.clusters.len() > 1 && !routes.is_empty()).then(|| listed(&routes))
}

pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn listed(names: &[impl Borrow<str>]) -> String {
    listed_up_to(LISTED, names)
}

fn listed_up_to(most: usize, names: &[impl Borrow<str>]) -> String {
    match names.split_at_checked(most) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

/// What brokers and clients say goes to a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config(text: &str) -> Config {
        Config::parse(text, Path::new("routes.toml")).unwrap()
    }

    /// Two clusters, and routes of these names, each for the client of its name.
    pub(super) fn two_clusters(routes: &[(&str, &str)]) -> Config {
        let head = r#"
            [clusters.legacy]
            id = 1
            bootstrap_servers = "legacy-1:9092,legacy-2:9092"
            node_ids = "1-3"
            broker_ports = "9100-9102"
            [clusters.new]
            id = 2
            bootstrap_servers = "new-1:9092"
            [[listeners]]
            name = "internal"
            bind = "127.0.0.1:9092"
        "#;
        let route = |(client, cluster): &(&str, &str)| {
            format!("[[routes]]\nname = \"{client}\"\nclient_id = \"{client}*\"\ncluster = \"{cluster}\"\n")
        };
        config(&(head.to_owned() + "\n" + &routes.iter().map(route).collect::<Vec<_>>().concat()))
    }

    #[test]
    fn a_possible_split_names_the_routes_and_what_to_do() {
        let text = split(&two_clusters(&[("orders", "new"), ("billing", "legacy")])).unwrap();
        assert!(text.contains("Stop its producers before") && text.ends_with("Routes: orders, billing"), "{text}");
        let text = split(&two_clusters(&["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, "new")))).unwrap();
        assert!(text.ends_with("a, b, c, d, e and 2 more"), "{text}");
    }

    #[test]
    fn what_moves_live_is_told_apart() {
        let text = r#"
            clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092", node_ids = "1-3", broker_ports = "9200-9202" }
            clusters.new = { id = 2, bootstrap_servers = "new:9092", node_ids = "1-3", broker_ports = "9203-9205" }
            state.cluster = "new"
            [[listeners]]
            name = "clients"
            bind = "0.0.0.0:9092"
            advertised_host = "kafka"
            [[routes]]
            name = "orders"
            client_id = "orders-*"
            cluster = "legacy"
            mode = "relay"
            [[routes]]
            name = "all"
            client_id = "*"
            cluster = "legacy"
        "#;
        let config = config(text);
        assert!(split(&config).unwrap().ends_with("Routes: all"));
        assert!(live(&config).unwrap().ends_with("Routes: orders"));
        assert_eq!(live(&two_clusters(&[("orders", "new")])), None);
    }

    #[test]
    fn where_clients_see_both_clusters_an_edit_moves_their_home_alone() {
        let text = r#"
            clusters.legacy = { id = 1, bootstrap_servers = "legacy:9092", node_ids = "1-3", broker_ports = "9200-9202" }
            clusters.new = { id = 2, bootstrap_servers = "new:9092", node_ids = "1-3", broker_ports = "9203-9205" }
            [[listeners]]
            name = "clients"
            bind = "0.0.0.0:9092"
            advertised_host = "kafka"
            [[mirrors]]
            name = "over"
            source = "legacy"
            target = "new"
            topics_regex = ".*"
            [[routes]]
            name = "orders"
            client_id = "orders-*"
            cluster = "legacy"
            mode = "relay"
            topics = ["order-*"]
            [[routes]]
            name = "all"
            client_id = "*"
            cluster = "legacy"
            mode = "relay"
            topics = ["*"]
        "#;
        let config = config(text);
        assert_eq!((split(&config), live(&config)), (None, None));
        assert!(home(&config).unwrap().ends_with("Routes: orders, all"));
        assert!(
            shared(&config).unwrap().ends_with("the first route owns it: topics as \"order-\" by orders and all"),
            "{:?}",
            shared(&config)
        );
    }

    #[test]
    fn with_one_cluster_nothing_can_be_split() {
        let text = "[clusters.only]\nid = 1\nbootstrap_servers = \"a:9092\"\n[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n\
                    [[routes]]\nname = \"all\"\nclient_id = \"*\"\ncluster = \"only\"\n";
        assert_eq!(split(&config(text)), None);
    }

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let at = |start| {
            let diagnostic = Diagnostic { span: start..start, message: String::new(), hint: None };
            let place = &Place::all("a = 1\nü = 2\n", &[diagnostic])[0];
            (place.line.unwrap(), place.column.unwrap())
        };
        assert_eq!([at(0), at(4), at(6), at(8), at(13)], [(1, 1), (1, 5), (2, 1), (2, 2), (3, 1)]);
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let rows = [["CLUSTER", "ID"], ["a", "b"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "CLUSTER  ID\na        b\n");
    }
}
