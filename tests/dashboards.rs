//! Dashboards and alerts ask for what the programs export: each metric, label and label value is looked up in the programs' own lists, and each alert has
//! its place in the documents and in the tests of the rules.
//!
//! That an expression is PromQL at all, and when an alert fires, is promtool's to say (`make lint`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::exported::{self, Exported};
use harness::run;
use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::Value;

/// The dashboards, and the heading of the section of docs/dashboards.md that has the panels of each.
const DASHBOARDS: [(&str, &str); 3] = [
    ("deploy/grafana/proxy.json", "## Panels of kferry-proxy"),
    ("deploy/grafana/mirror.json", "## Panels of kferry-mirror"),
    ("deploy/grafana/migration.json", "## Panels of a migration"),
];

const RULES: &str = "deploy/prometheus/rules.yaml";
const DOCUMENT: &str = "docs/dashboards.md";

/// What Prometheus puts on each series that it fetches.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// The jobs of prometheus.yaml.
const JOBS: [&str; 2] = ["kferry-mirror", "kferry-proxy"];

fn text(path: &str) -> Result<String> {
    fs::read_to_string(run::workspace().join(path)).with_context(|| path.to_owned())
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Names of metrics, each with its matchers: label and value.
    selectors: Vec<(String, Vec<(String, String)>)>,
    /// Labels after `by`, `on` and the like.
    grouped: BTreeSet<String>,
}

impl Asked {
    /// Reads an expression. Grafana's own variables are durations in it.
    fn by(expression: &str) -> Result<Self> {
        const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
        const WORDS: [&str; 17] = [
            "and",
            "or",
            "unless",
            "bool",
            "offset",
            "sum",
            "min",
            "max",
            "avg",
            "count",
            "topk",
            "bottomk",
            "quantile",
            "stddev",
            "stdvar",
            "group",
            "count_values",
        ];
        let mut asked = Self::default();
        let mut rest = expression;
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '[' => rest.split_once(']').context("a [ without its ]")?.1,
                '"' | '\'' => string(rest)?.1,
                _ if first.is_ascii_digit() => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.'),
                _ if is_name(first) => {
                    let (name, behind) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
                    let behind = behind.trim_start();
                    if GROUPING.contains(&name) {
                        let (labels, behind) = behind.strip_prefix('(').and_then(|list| list.split_once(')')).context("labels in ( )")?;
                        asked.grouped.extend(labels.split(',').map(|label| label.trim().to_owned()));
                        behind
                    } else if WORDS.contains(&name) || behind.starts_with('(') {
                        behind
                    } else {
                        let (matchers, behind) = matchers(behind)?;
                        asked.selectors.push((name.to_owned(), matchers));
                        behind
                    }
                }
                _ => &rest[first.len_utf8()..],
            };
        }
        Ok(asked)
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// A string in quotes, and what is behind it.
fn string(text: &str) -> Result<(&str, &str)> {
    let quote = text.chars().next().filter(|c| ['"', '\''].contains(c)).with_context(|| format!("no string: {text}"))?;
    text[1..].split_once(quote).context("a string without an end")
}

/// `{label="value", ...}` if there is one, and what is behind it.
fn matchers(text: &str) -> Result<(Vec<(String, String)>, &str)> {
    let mut found = Vec::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Ok((found, text)) };
    loop {
        rest = rest.trim_start_matches([' ', '\n', ',']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((found, behind));
        }
        let (label, behind) = rest.split_at(rest.find(|c| !is_name(c)).context("a { without its }")?);
        let (value, behind) = string(behind.trim_start_matches(['=', '!', '~', ' ']))?;
        found.push((label.to_owned(), value.to_owned()));
        rest = behind;
    }
}

#[test]
fn an_expression_is_read() -> Result<()> {
    let read = Asked::by(r#"sum by (a, b) (rate(x_total{c=~"1|2", d!="}"}[5m])) / on (e) y:z > 2e3 and max(up) offset 1h"#)?;
    let matcher = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let selectors = vec![
        ("x_total".to_owned(), vec![matcher("c", "1|2"), matcher("d", "}")]),
        ("y:z".to_owned(), Vec::new()),
        ("up".to_owned(), Vec::new()),
    ];
    assert_eq!(read, Asked { selectors, grouped: ["a", "b", "e"].map(str::to_owned).into() });
    assert!(Asked::by("x{").is_err() && Asked::by("x[5m").is_err() && Asked::by(r#"x{a="}"#).is_err());
    Ok(())
}

/// What there is to ask for.
struct Known {
    /// Of each metric its labels.
    labels: Exported,
    /// Of labels whose values the programs choose these values, by metric and label.
    values: BTreeMap<(&'static str, &'static str), Vec<&'static str>>,
}

impl Known {
    fn new(recorded: &BTreeMap<String, String>) -> Result<Self> {
        use kferry_mirror::{groups::OffsetState, metrics::ERROR_KINDS, partition::Phase};
        let mut labels = exported::by_proxy();
        labels.extend(exported::by_mirror());
        labels.insert("up".to_owned(), BTreeSet::new());
        for (name, expression) in recorded {
            // What is left of the labels is what the outermost `by` names.
            let asked = Asked::by(expression)?;
            ensure!(asked.grouped.iter().all(|label| OF_PROMETHEUS.contains(&label.as_str())), "{name} has labels of its own");
            labels.insert(name.clone(), BTreeSet::new());
        }
        let values = [
            (("kferry_proxy_connections_closed_total", "cause"), kferry_proxy::CAUSES.to_vec()),
            (("kferry_proxy_config_reloads_total", "result"), kferry_proxy::metrics::RELOAD_RESULTS.to_vec()),
            (("kferry_mirror_partitions", "phase"), Phase::ALL.map(Phase::name).to_vec()),
            (("kferry_mirror_group_offsets", "state"), OffsetState::ALL.map(OffsetState::name).to_vec()),
            (("kferry_mirror_errors_total", "kind"), ERROR_KINDS.to_vec()),
            (("kferry_mirror_batches_total", "path"), kferry_mirror::PATHS.to_vec()),
            (("kferry_mirror_passes_total", "result"), vec!["failed", "ok"]),
            (("kferry_mirror_group_passes_total", "result"), vec!["failed", "ok"]),
        ];
        Ok(Self { labels, values: values.into() })
    }

    /// Fails for what nobody exports. Returns the labels of all that the expression asks for, with those of Prometheus.
    fn check(&self, expression: &str) -> Result<BTreeSet<&str>> {
        let asked = Asked::by(expression)?;
        ensure!(!asked.selectors.is_empty(), "it asks for nothing");
        let mut all: BTreeSet<&str> = OF_PROMETHEUS.into();
        for (name, matchers) in &asked.selectors {
            let labels = self.labels.get(name).with_context(|| format!("nobody exports {name}"))?;
            all.extend(labels);
            for (label, value) in matchers {
                ensure!(labels.contains(label.as_str()) || OF_PROMETHEUS.contains(&label.as_str()), "{name} has no label {label}");
                let known = self.values.iter().find(|((metric, of), _)| metric == name && of == label).map(|(_, values)| &values[..]);
                let known = if label == "job" { Some(&JOBS[..]) } else { known };
                // A variable of the dashboard has only values that there are.
                let unknown = value.split('|').find(|one| !one.starts_with('$') && known.is_some_and(|known| !known.contains(one)));
                ensure!(unknown.is_none(), "{name} is never with {label}={unknown:?}");
            }
        }
        let unknown = asked.grouped.iter().find(|label| !all.contains(label.as_str()));
        ensure!(unknown.is_none(), "nothing in it has the label {unknown:?}");
        Ok(all)
    }
}

/// The rules of the file; `kind` is `alert` or `record`.
fn rules(kind: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let text = text(RULES)?;
    let documents = Yaml::load_from_str(&text)?;
    let groups = documents.first().and_then(|document| document.as_mapping_get("groups")?.as_sequence()).context("groups")?;
    let mut found = Vec::new();
    for rule in groups.iter().filter_map(|group| group.as_mapping_get("rules")?.as_sequence()).flatten() {
        if rule.as_mapping_get(kind).is_none() {
            continue;
        }
        let tables = [Some(rule), rule.as_mapping_get("labels"), rule.as_mapping_get("annotations")];
        let pairs = tables.into_iter().flatten().filter_map(Yaml::as_mapping).flatten();
        found.push(pairs.filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()))).collect());
    }
    Ok(found)
}

fn of<'r>(rule: &'r BTreeMap<String, String>, key: &str) -> Result<&'r str> {
    rule.get(key).map(String::as_str).with_context(|| format!("no {key}: {rule:?}"))
}

fn known() -> Result<Known> {
    let recorded = rules("record")?;
    Known::new(&recorded.iter().map(|rule| Ok((of(rule, "record")?.to_owned(), of(rule, "expr")?.to_owned()))).collect::<Result<_>>()?)
}

#[test]
fn what_nobody_exports_is_refused() -> Result<()> {
    let known = known()?;
    let says = |expression: &str| known.check(expression).map_err(|error| error.to_string());
    assert!(says("sum by (cause) (kferry_proxy_connections_closed_total{cause=~\"idle|cut\",job=~\"$job\"})").is_ok());
    assert!(says("kferry_proxy_connection").unwrap_err().contains("nobody exports"));
    assert!(says("kferry_proxy_connections{cluster=\"a\"}").unwrap_err().contains("no label cluster"));
    assert!(says("kferry_proxy_connections_closed_total{cause=~\"idle|busy\"}").unwrap_err().contains("never with cause"));
    assert!(says("up{job=\"proxy\"}").unwrap_err().contains("never with job"));
    assert!(says("sum by (topic) (kferry_proxy_connections)").unwrap_err().contains("nothing in it has the label"));
    assert!(says("1").unwrap_err().contains("asks for nothing"));
    Ok(())
}

#[test]
fn rules_ask_for_what_is_exported() -> Result<()> {
    let known = known()?;
    let (records, alerts) = (rules("record")?, rules("alert")?);
    ensure!(records.len() >= 7 && alerts.len() >= 15, "{} and {} rules were found", records.len(), alerts.len());
    for rule in records.iter().chain(&alerts) {
        let labels = known.check(of(rule, "expr")?).with_context(|| format!("{rule:?}"))?;
        for text in rule.values() {
            for label in text.split("$labels.").skip(1) {
                let label = &label[..label.find(|c| !is_name(c)).unwrap_or(label.len())];
                ensure!(labels.contains(label), "nothing has the label {label}: {rule:?}");
            }
        }
    }
    Ok(())
}

/// The anchor that a heading has on a page.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_read_on_and_is_tested() -> Result<()> {
    let (document, tests) = (text(DOCUMENT)?, text("deploy/prometheus/rules_test.yaml")?);
    let alerts = rules("alert")?;
    for alert in &alerts {
        let name = of(alert, "alert")?;
        ensure!(["critical", "warning"].contains(&of(alert, "severity")?), "{name}: how bad is it?");
        ensure!(!of(alert, "summary")?.is_empty() && !of(alert, "description")?.is_empty(), "{name} says nothing");
        assert_eq!(of(alert, "runbook")?, format!("{DOCUMENT}#{}", anchor(name)));
        ensure!(document.contains(&format!("\n### {name}\n")), "{DOCUMENT} has no ### {name}");
        let fires = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\",severity=");
        ensure!(tests.contains(&fires), "no test in which {name} fires");
        let silent = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}'\n        eval_time: ");
        let is_silent = |test: &str| test.lines().nth(1).is_some_and(|line| line == "        exp_samples: []");
        ensure!(tests.split(&silent).skip(1).any(is_silent), "no test in which {name} does not fire");
    }
    let names: BTreeSet<_> = alerts.iter().filter_map(|alert| alert.get("alert")).collect();
    for told in document.lines().filter_map(|line| line.strip_prefix("### Kferry")) {
        ensure!(names.contains(&format!("Kferry{told}")), "{DOCUMENT} has an alert Kferry{told} that there is not");
    }
    // Every link of the page into another one.
    for (path, fragment) in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()?.split_once('#')) {
        let page = if path.is_empty() { document.clone() } else { text(&format!("docs/{path}"))? };
        let is_there = page.lines().any(|line| line.starts_with('#') && anchor(line) == fragment);
        ensure!(is_there, "{DOCUMENT} links to {path}#{fragment}, which is not there");
    }
    Ok(())
}

fn dashboard(path: &str) -> Result<Value> {
    serde_json::from_str(&text(path)?).with_context(|| path.to_owned())
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// With durations in place of Grafana's own variables.
fn plain(expression: &str) -> String {
    expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
}

#[test]
fn panels_ask_for_what_is_exported() -> Result<()> {
    let known = known()?;
    let mut uids = BTreeSet::new();
    for (path, _) in DASHBOARDS {
        let dashboard = dashboard(path)?;
        ensure!(uids.insert(dashboard["uid"].to_string()), "{path}: another one has this uid");
        let variables = list(&dashboard["templating"], "list");
        let names: BTreeSet<_> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            let query = variable["query"]["query"].as_str().with_context(|| format!("{path}: {variable}"))?;
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).context("label_values(...)")?;
            let (metric, label) = inner.rsplit_once(", ").context("a metric and a label")?;
            let labels = known.check(metric).with_context(|| format!("{path}: {query}"))?;
            ensure!(labels.contains(label), "{path}: {query}: there is no such label");
        }
        let panels = list(&dashboard, "panels");
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].to_string()).collect();
        assert_eq!(ids.len(), panels.len(), "{path}: two panels have one id");
        let mut asked = 0;
        for panel in panels {
            let title = panel["title"].as_str().with_context(|| format!("{path}: a panel without a title"))?;
            for target in list(panel, "targets") {
                let expression = plain(target["expr"].as_str().with_context(|| format!("{path}: {title}"))?);
                let labels = known.check(&expression).with_context(|| format!("{path}: {title}: {expression}"))?;
                for label in target["legendFormat"].as_str().unwrap_or_default().split("{{").skip(1) {
                    let label = label.split("}}").next().unwrap_or_default();
                    ensure!(labels.contains(label), "{path}: {title}: nothing has the label {label}");
                }
                for variable in expression.split("\"$").skip(1).filter_map(|rest| rest.split('"').next()) {
                    ensure!(names.contains(variable), "{path}: {title}: there is no variable {variable}");
                }
                asked += 1;
            }
        }
        ensure!(asked >= 15, "{path}: {asked} expressions were found");
    }
    Ok(())
}

/// The panels of a dashboard as the document has them.
fn panels_md(dashboard: &Value) -> Result<String> {
    let mut md = String::new();
    for panel in list(dashboard, "panels") {
        let title = panel["title"].as_str().context("a title")?;
        match panel["type"].as_str() {
            Some("row") => writeln!(md, "\n**{title}**\n\n| panel | what it shows |\n|---|---|")?,
            _ => {
                let description = panel["description"].as_str().filter(|text| !text.is_empty());
                writeln!(md, "| {title} | {} |", description.with_context(|| format!("{title} does not say what it shows"))?)?;
            }
        }
    }
    Ok(md)
}

#[test]
fn the_panels_are_in_dashboards_md() -> Result<()> {
    let mut document = text(DOCUMENT)?;
    for (path, heading) in DASHBOARDS {
        let panels = panels_md(&dashboard(path)?)?;
        let (before, rest) = document.split_once(&format!("{heading}\n")).with_context(|| format!("no {heading}"))?;
        let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
        document = format!("{before}{heading}\n{panels}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(run::workspace().join(DOCUMENT), &document)?;
    }
    let written = text(DOCUMENT)?;
    let differs = document.lines().zip(written.lines()).find(|(rendered, written)| rendered != written);
    assert!(
        written == document,
        "{DOCUMENT} does not have the panels of the dashboards; UPDATE_DOCS=1 cargo test -p kferry-tests --test dashboards writes them\n\
         the first line that differs: {differs:#?}"
    );
    Ok(())
}
