//! The documents say what the code does: where both list the same things, the lists are the same. What the code lists, the crates have as public items;
//! no source is read as text.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::proxy::executable;
use harness::run;
use kferry_config::{Config, Limits};
use kferry_wire::api::{APIS, Field, Kind, Use};
use kferry_wire::operators::{Metric, PROCESS};

fn text(path: &str) -> Result<String> {
    fs::read_to_string(run::workspace().join(path)).with_context(|| path.to_owned())
}

/// What is under a heading.
fn section<'t>(text: &'t str, heading: &str) -> Result<&'t str> {
    let (_, section) = text.split_once(heading).with_context(|| format!("there is no {heading:?}"))?;
    Ok(section.split_once("\n## ").map_or(section, |(section, _)| section))
}

/// The first column of a table under a heading: what is in backquotes at the beginning of its lines.
fn first_column<'t>(text: &'t str, heading: &str) -> Result<BTreeSet<&'t str>> {
    Ok(section(text, heading)?.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect())
}

/// Metrics as the documents write them: the name, and the labels in braces.
fn written(metrics: &[Metric]) -> BTreeSet<String> {
    let labels = |labels: &[&str]| if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    metrics.iter().map(|(name, names, _)| format!("{name}{}", labels(names))).collect()
}

/// The first column of a table of metrics.
fn metrics(text: &str, heading: &str) -> Result<BTreeSet<String>> {
    Ok(first_column(text, heading)?.into_iter().map(str::to_owned).collect())
}

fn set<'t>(names: impl IntoIterator<Item = &'t &'t str>) -> BTreeSet<&'t str> {
    names.into_iter().copied().collect()
}

#[test]
fn every_metric_and_every_cause_is_in_operating_md() -> Result<()> {
    use kferry_proxy::CAUSES;
    use kferry_proxy::metrics::{COUNTERS, GAUGES, HISTOGRAMS};
    let operating = text("docs/operating.md")?;
    assert_eq!(metrics(&operating, "## Metrics\n")?, written(&[COUNTERS, GAUGES, HISTOGRAMS].concat()));
    assert_eq!(first_column(&operating, "## Metrics of a process")?, set(&PROCESS));
    assert_eq!(first_column(&operating, "## Why a connection ended")?, set(CAUSES));
    Ok(())
}

#[test]
fn every_metric_and_every_phase_of_a_mirror_is_in_operating_md() -> Result<()> {
    use kferry_mirror::groups::OffsetState;
    use kferry_mirror::metrics::{COUNTERS, ERROR_KINDS, GAUGES};
    use kferry_mirror::partition::Phase;
    let operating = text("docs/operating.md")?;
    assert_eq!(metrics(&operating, "## Metrics of kferry-mirror")?, written(&[COUNTERS, GAUGES].concat()));
    let errors = operating.lines().find(|line| line.starts_with("| `kferry_mirror_errors_total")).context("the row of the errors")?;
    for kind in ERROR_KINDS {
        assert!(errors.contains(&format!("`{kind}`")), "{kind} is not in: {errors}");
    }
    assert_eq!(first_column(&operating, "## What a partition is doing")?, Phase::ALL.map(Phase::name).into());
    assert_eq!(first_column(&operating, "## How a group's offset is")?, OffsetState::ALL.map(OffsetState::name).into());
    Ok(())
}

/// What the log may say, and at which levels: the first two columns of a table of messages, each row with one or more of them in backquotes.
fn told<'t>(text: &'t str, heading: &str) -> Result<BTreeSet<(&'t str, &'t str)>> {
    let mut told = BTreeSet::new();
    let table = section(text, heading)?.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    for row in table.filter(|line| line.starts_with("| `")) {
        let mut cells = row.split(" | ");
        let (messages, levels) = (cells.next().context("messages")?, cells.next().with_context(|| row.to_owned())?);
        for message in messages.split('`').skip(1).step_by(2) {
            for level in levels.split(", ") {
                assert!(told.insert((message, level)), "{heading}: {message:?} is there twice");
            }
        }
    }
    Ok(told)
}

#[test]
fn every_line_of_the_log_is_in_operating_md_with_its_level() -> Result<()> {
    let operating = text("docs/operating.md")?;
    for (heading, messages) in
        [("## What kferry-proxy says", kferry_proxy::messages::MESSAGES), ("## What kferry-mirror says", kferry_mirror::messages::MESSAGES)]
    {
        let levels: Vec<_> = messages.iter().map(|message| (message.text, message.level.as_str().to_lowercase())).collect();
        let expected: BTreeSet<_> = levels.iter().map(|(text, level)| (*text, level.as_str())).collect();
        assert_eq!(expected.len(), messages.len(), "two events have one text and one level");
        assert_eq!(told(&operating, heading)?, expected);
    }
    Ok(())
}

#[test]
fn every_path_of_a_batch_is_in_life_of_a_batch_md() -> Result<()> {
    let told = text("docs/life-of-a-batch.md")?;
    assert_eq!(first_column(&told, "## 5. The cut")?, set(kferry_mirror::PATHS));
    Ok(())
}

#[test]
fn the_tables_of_exit_codes_are_those_of_the_code() -> Result<()> {
    use kferry_wire::exit::{ENDINGS, Exit};
    let operating = text("docs/operating.md")?;
    let rows: Vec<_> = section(&operating, "## Exit codes")?.lines().filter(|line| line.starts_with("| ")).map(str::to_owned).collect();
    let codes = Exit::ALL.map(|exit| format!("| {} | {} |", exit.code(), exit.meaning()));
    let of = |endings: &kferry_wire::exit::Endings| {
        format!("| `{}` | {} | {} | {} |", endings.command, endings.done, endings.not_done, endings.lacking.unwrap_or("-"))
    };
    let heads = ["| exit code | meaning |".to_owned(), "| command | 0 | 1 | 3 |".to_owned()];
    let [codes_head, commands_head] = heads;
    let expected: Vec<_> = [codes_head].into_iter().chain(codes).chain([commands_head]).chain(ENDINGS.iter().map(of)).collect();
    assert_eq!(rows, expected);
    for program in ["kferry-mirror", "kferry-proxy"] {
        let help = String::from_utf8(Command::new(executable(program)?).arg("--help").output()?.stdout)?;
        assert!(help.contains("Exit code"), "{help}");
    }
    Ok(())
}

/// What a command of ours takes, as its `--help` says.
struct Takes {
    /// Such as `--config`.
    flags: BTreeSet<String>,
    subcommands: BTreeSet<String>,
}

impl Takes {
    /// `command` is a program and perhaps its subcommands.
    fn of(command: &[String]) -> Result<Self> {
        let (program, subcommands) = command.split_first().context("a command has a name")?;
        let output = Command::new(executable(program)?).args(subcommands).arg("--help").output()?;
        let help = String::from_utf8(output.stdout)?;
        let flags =
            help.lines().filter_map(|line| line.trim_start().trim_start_matches("-h, ").trim_start_matches("-V, ").strip_prefix("--"));
        let flags = flags.map(|name| format!("--{}", name.split([' ', '.']).next().unwrap_or(name))).collect();
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let subcommands = listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        Ok(Self { flags, subcommands })
    }
}

/// What a program says that it takes, such as `--config`.
fn arguments(program: &str) -> Result<BTreeSet<String>> {
    let mut flags = Takes::of(&[program.to_owned()])?.flags;
    flags.retain(|name| name != "--help" && name != "--version");
    Ok(flags)
}

#[test]
fn every_argument_is_in_operating_md() -> Result<()> {
    let operating = text("docs/operating.md")?;
    for (program, heading) in [("kferry-proxy", "## Start\n"), ("kferry-mirror", "## Start kferry-mirror")] {
        let told = first_column(&operating, heading)?;
        let told = told.iter().filter(|name| name.starts_with("--")).map(|name| name.split(' ').next().unwrap_or(name).to_owned());
        assert_eq!(told.collect::<BTreeSet<_>>(), arguments(program)?, "{program}");
    }
    Ok(())
}

/// What `make dist` puts into its tarball.
#[test]
fn every_command_has_a_man_page_and_every_program_its_completions() -> Result<()> {
    let folder = run::folder("manual")?;
    let ended = Command::new(executable("kferry-manual")?).arg(&folder).status()?;
    assert!(ended.success(), "{ended}");
    let is_there = |path: String| fs::metadata(folder.join(&path)).is_ok_and(|file| file.len() > 100);
    for endings in kferry_wire::exit::ENDINGS {
        let page = endings.command.trim_end_matches(" --once").replace(' ', "-");
        assert!(is_there(format!("share/man/man1/{page}.1")), "{page}");
    }
    for program in ["kferry", "kferry-proxy", "kferry-mirror"] {
        assert!(is_there(format!("share/bash-completion/completions/{program}")), "{program}");
        assert!(is_there(format!("share/zsh/site-functions/_{program}")), "{program}");
        assert!(is_there(format!("share/fish/vendor_completions.d/{program}.fish")), "{program}");
    }
    Ok(())
}

#[test]
fn every_limit_is_in_operating_md_with_its_default() -> Result<()> {
    let operating = text("docs/operating.md")?;
    let keys = kferry_config::keys().remove("[limits]").context("a file may have [limits]")?;
    assert_eq!(first_column(&operating, "## Limits")?, set(&keys));
    let cluster = "[clusters.a]\nid = 1\nbootstrap_servers = \"a:1\"\n";
    let rest = "[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:2\"\n[[routes]]\nname = \"r\"\nclient_id = \"*\"\ncluster = \"a\"\n";
    let Limits {
        max_connections,
        max_connections_per_ip,
        socket_request_max_bytes,
        queued_max_request_bytes,
        handshake_timeout,
        connections_max_idle,
        drain_timeout,
    } = Config::parse(&format!("{cluster}{rest}"), Path::new("routes.toml"))?.limits;
    let defaults = [
        ("max_connections", max_connections as u128),
        ("max_connections_per_ip", max_connections_per_ip as u128),
        ("socket_request_max_bytes", socket_request_max_bytes as u128),
        ("queued_max_request_bytes", queued_max_request_bytes as u128),
        ("handshake_timeout_ms", handshake_timeout.as_millis()),
        ("connections_max_idle_ms", connections_max_idle.as_millis()),
        ("drain_timeout_ms", drain_timeout.as_millis()),
    ];
    for (key, default) in defaults {
        let row = format!("| `{key}` | {default} |");
        assert!(section(&operating, "## Limits")?.lines().any(|line| line.starts_with(&row)), "there is no row {row}");
    }
    assert_eq!(defaults.len(), keys.len());
    Ok(())
}

/// The commands that a document shows, each with its line: those in blocks of code for a shell, and what is within backquotes.
fn commands(text: &str) -> Vec<(usize, Vec<String>)> {
    let (mut prose, mut shell) = (String::new(), Vec::new());
    let (mut fence, mut begun) = (None, String::new());
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language) };
        } else if fence.is_none() {
            prose.push_str(line);
        } else if matches!(fence, Some("sh" | "")) {
            let line = line.split_once(" #").map_or(line, |(command, _)| command);
            match line.trim_end().strip_suffix('\\') {
                Some(first) => begun += first,
                None => shell.push((number, std::mem::take(&mut begun) + line)),
            }
        }
        prose.push('\n');
    }
    let mut line = 1;
    for (n, piece) in prose.split('`').enumerate() {
        if n % 2 == 1 {
            // What may be left out is in brackets.
            shell.push((line, piece.replace(['[', ']', '…'], " ").replace("...", " ")));
        }
        line += piece.matches('\n').count();
    }
    let is_set = |word: &&str| word.contains('=') && !word.starts_with('-');
    let each = shell.iter().flat_map(|(number, line)| line.split(['|', ';', '&', '(', ')']).map(move |command| (*number, command)));
    each.map(|(number, command)| (number, command.split_whitespace().skip_while(is_set).map(str::to_owned).collect())).collect()
}

/// A subcommand, a flag or a target of make that is changed has to be changed in the documents too.
#[test]
fn commands_in_documents_exist() -> Result<()> {
    let makefile = text("Makefile")?;
    let targets: BTreeSet<_> = makefile.lines().filter_map(|line| line.split_once(':')).map(|(target, _)| target).collect();
    let mut known: BTreeMap<Vec<String>, Takes> = BTreeMap::new();
    let (mut checked, mut wrong) = (0, Vec::new());
    for folder in [".", "docs", "tests/clients"] {
        for entry in fs::read_dir(run::workspace().join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|is| is != "md") {
                continue;
            }
            for (line, words) in commands(&fs::read_to_string(&path)?) {
                let mut say = |what: String| wrong.push(format!("{}:{line}: {what}", path.display()));
                match words.first().map(String::as_str) {
                    Some("make") => {
                        let asked = words[1..].iter().filter(|word| !word.contains('=') && !targets.contains(word.as_str()));
                        asked.for_each(|target| say(format!("make has no target {target}")));
                    }
                    Some("kferry" | "kferry-proxy" | "kferry-mirror") => {
                        let mut command = Vec::new();
                        for word in &words {
                            let takes = match known.entry(command.clone()) {
                                _ if command.is_empty() => None,
                                Entry::Occupied(there) => Some(&*there.into_mut()),
                                Entry::Vacant(there) => Some(&*there.insert(Takes::of(&command)?)),
                            };
                            let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
                            match takes {
                                None => command.push(word.clone()),
                                Some(takes) if takes.subcommands.contains(word) => command.push(word.clone()),
                                Some(takes) if flag.starts_with("--") && !takes.flags.contains(flag) => {
                                    say(format!("{} has no {flag}", command.join(" ")));
                                }
                                Some(takes) if !flag.starts_with('-') && !takes.subcommands.is_empty() => {
                                    say(format!("{} has no {word}", command.join(" ")));
                                    break;
                                }
                                Some(_) => {}
                            }
                        }
                    }
                    _ => continue,
                }
                checked += 1;
            }
        }
    }
    assert!(checked >= 150, "{checked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Links are looked at by `scripts/book check`.
#[test]
fn documents_name_files_that_exist() -> Result<()> {
    /// What names of files begin with; other folders hold what is built or fetched.
    const FOLDERS: [&str; 9] = ["proxy/", "mirror/", "wire/", "cli/", "tests/", "deploy/", "docker/", "docs/", "scripts/"];
    let mut documents = ["README.md", "tests/clients/README.md", "deploy/examples/strimzi/README.md", "deploy/examples/argocd/README.md"]
        .map(PathBuf::from)
        .to_vec();
    for entry in fs::read_dir(run::workspace().join("docs"))? {
        let name = entry?.file_name();
        documents.extend(Path::new(&name).extension().is_some_and(|is| is == "md").then(|| Path::new("docs").join(&name)));
    }
    assert!(documents.len() >= 6, "{documents:?}");
    for document in documents {
        let text = fs::read_to_string(run::workspace().join(&document))?;
        // Every other piece is within backquotes; those of a block of code are three at each end.
        for name in text.split('`').skip(1).step_by(2) {
            let is_name = FOLDERS.iter().any(|folder| name.starts_with(folder)) && !name.contains([' ', '*', '<', '\n']);
            assert!(!is_name || run::workspace().join(name).exists(), "{} names {name}, which is not there", document.display());
        }
    }
    Ok(())
}

#[test]
fn apis_md_is_the_table_of_apis() -> Result<()> {
    let rendered = apis_md();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(run::workspace().join("docs/apis.md"), &rendered)?;
    }
    let written = text("docs/apis.md").unwrap_or_default();
    let differs = rendered.lines().zip(written.lines()).find(|(rendered, written)| rendered != written);
    assert!(
        written == rendered,
        "docs/apis.md is not the table of wire/src/api/mod.rs; run with UPDATE_DOCS=1 to write it anew: \
         UPDATE_DOCS=1 cargo test -p kferry-tests --test docs apis_md\nthe first line that differs: {differs:#?}"
    );
    Ok(())
}

fn apis_md() -> String {
    let mut md = "\
# APIs of a relayed client

Rendered from the table in `wire/src/api/mod.rs` by a test (`tests/docs.rs`); change it there.

What a relayed client gets as the answer to ApiVersions is what is left of this table when every cluster that its route may bring it to has taken away what it
does not know. What the table does not name is not advertised either: what brokers spoke among themselves before 4.0 (keys 4 to 7), streams groups (KIP-1071, keys 88
and 89), and whatever later versions of Kafka bring.

- **Node ids** are those of virtual brokers, and so are the names of brokers in configurations. -1 stays. One that belongs to no broker of the cluster goes to the broker as 1900000000 and the
  id, which no broker has, so that it refuses it with its own error; where the broker names it in its answer, the client reads what it wrote.
- **Node ids in settings** are the same: `leader.replication.throttled.replicas`, `follower.replication.throttled.replicas`, `node.id`, `broker.id`. A list of replicas that has no room for
  virtual ids (32,767 bytes) is shown as null.
- **Error messages** are as the broker wrote them. Only where one has such an id of no broker, it has the client's number for it, and says which ids the cluster's brokers have for clients.
- **Addresses** are those of virtual brokers.
- **Leader epochs** are -1 in both directions: epochs of two clusters cannot be compared.
- **The cluster id** is the same whichever cluster it is.
- **The preferred read replica** of a partition, in the middle of an answer to Fetch, is that of a virtual broker: so reading from the nearest replica (KIP-392) works.
- **Topic ids** follow from the topics' names: a client sees the same id for a topic whichever cluster it is on, and also after the topic was deleted and created again.
- **The producer id** of an idempotent producer carries the cluster's `id`; a transactional one is its coordinator's and stays.

Other values in which clusters or operators have written node ids or addresses down as text pass as they are: `advertised.listeners` or `controller.quorum.voters` of a broker.

Two things that tools ask for cannot be had through the relay:

- **A broker by its real node id**, such as `kafka-configs --entity-type brokers --entity-name 1`. Clients know the brokers of a cluster by `id` × 10,000,000 + node id: with `id = 2` broker 1 is
  20000001, as `kafka-broker-api-versions` shows them. Clients look for broker 1 among these by themselves, so the proxy never hears of it: Kafka's tool says that it doesn't exist, others wait for it until their time is over. Where a
  request does name it, the broker's error says which ids there are.
- **The features of a cluster**: `kafka-features describe` shows none, and changes none. Clients are told of none, because a cluster with `transaction.version` 2 would turn on a protocol that the
  other cluster may not have (KIP-890), and a client does not ask again when it is moved. Ask the cluster itself.

## Carried

*Answered by* is for routes whose clients see a view of several clusters: **connection**, the cluster of the virtual broker that was asked; **topic's leader**, the same, and a partition that leads
on another cluster is refused with NOT_LEADER_OR_FOLLOWER (in a transaction with TOPIC_AUTHORIZATION_FAILED), and a Produce to it carried to its leader; **group's life**, the same, and a group that lives on another cluster is refused with
NOT_COORDINATOR; **home**, the client's home whichever virtual broker was asked; **view**, the proxy, which asks each cluster for its part.

| API | key | versions | answered by | rewritten | why no others |
|---|---|---|---|---|---|
"
    .to_owned();
    for api in APIS {
        let (Some((min, max)), Use::Carried(..)) = (api.versions(), api.usage) else { continue };
        let mut rewritten = Vec::new();
        for (side, fields) in [("request", api.request), ("answer", api.response)] {
            let mut found = Vec::new();
            collect(fields, min, &mut found);
            let found: Vec<_> = found.iter().map(|rewritten| rewritten.text(min)).collect();
            if !found.is_empty() {
                rewritten.push(format!("{side}: {}", found.join(", ")));
            }
        }
        row(
            &mut md,
            &[
                &format!("{:?}", api.key),
                &(api.key as i16).to_string(),
                &versions(min, max),
                api.by.name(),
                &rewritten.join("; "),
                api.limit,
            ],
        );
    }
    md.push_str(
        "
## Between client and proxy

| API | key | versions | why no others |
|---|---|---|---|
",
    );
    for api in APIS {
        let Use::Handshake(min, max) = api.usage else { continue };
        row(&mut md, &[&format!("{:?}", api.key), &(api.key as i16).to_string(), &versions(min, max), api.limit]);
    }
    md.push_str(
        "
## Not advertised

| API | key | why |
|---|---|---|
",
    );
    for api in APIS {
        let Use::Hidden(why) = api.usage else { continue };
        row(&mut md, &[&format!("{:?}", api.key), &(api.key as i16).to_string(), why]);
    }
    md
}

fn row(md: &mut String, cells: &[&str]) {
    writeln!(md, "| {} |", cells.join(" | ")).expect("a string grows");
}

fn versions(min: i16, max: i16) -> String {
    if min == max { min.to_string() } else { format!("{min}–{max}") }
}

/// One kind of what is rewritten in a message.
struct Rewritten {
    what: &'static str,
    /// Fields, each with the first version that has it.
    fields: Vec<(&'static str, i16)>,
}

impl Rewritten {
    fn text(&self, min: i16) -> String {
        let from = |since: i16| if since > min { format!(" from {since}") } else { String::new() };
        let fields: Vec<_> = self.fields.iter().map(|(name, since)| format!("`{name}`{}", from(*since))).collect();
        format!("{} ({})", self.what, fields.join(", "))
    }
}

/// What is rewritten in these fields, which the message has from `min` on.
fn collect(fields: &[Field], min: i16, found: &mut Vec<Rewritten>) {
    for field in fields {
        let since = field.since.max(min);
        let what = match field.kind {
            // The name of a setting says whether its value is one of them.
            Kind::Fixed(_) | Kind::Text | Kind::FixedArray(_) | Kind::TextArray | Kind::Records | Kind::ConfigName
            // Only where the topic leads elsewhere.
            | Kind::TopicName | Kind::Partition | Kind::Partitions | Kind::PartitionError | Kind::GroupId | Kind::GroupIds => continue,
            Kind::Array(fields) | Kind::Structure(fields) | Kind::NullableStructure(fields) => {
                collect(fields, since, found);
                continue;
            }
            Kind::NodeId | Kind::ReplicaIds => "node ids",
            Kind::Address => "addresses",
            Kind::LeaderEpoch => "leader epochs",
            Kind::ClusterId => "cluster id",
            Kind::ProducerId => "producer id",
            Kind::TopicId | Kind::NameAndTopicId | Kind::TopicIdAndName => "topic ids",
            Kind::Resource => "names of brokers",
            Kind::ConfigValue => "node ids in settings",
            Kind::ErrorMessage => "error messages",
        };
        let at = found.iter().position(|rewritten| rewritten.what == what).unwrap_or_else(|| {
            found.push(Rewritten { what, fields: Vec::new() });
            found.len() - 1
        });
        // OffsetFetch has the same field in two places, one after the other.
        if found[at].fields.iter().all(|(name, _)| *name != field.name) {
            found[at].fields.push((field.name, since));
        }
    }
}
