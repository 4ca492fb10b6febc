//! `[[mirrors]]` and the tables in it to drafts of the checked types, and what one mirror can tell by itself.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::time::Duration;

use regex_automata::util::interpolate;

use super::selection::{all, names, pattern, patterns, topic};
use super::table::{At, Field, Findings, Reported, Table, Value, listed, quoted};
use crate::names::{self, Naming, NamingError, Pattern, Rule, Selection};
use crate::types::mirror::{Mirror, Offsets, OnError, OnLost};

/// How the tables are written.
pub(crate) const MIRROR: &str = "[[mirrors]]";
const TOPIC_CONFIG: &str = "[mirrors.topic_config]";
const RENAME: &str = "[mirrors.rename]";
pub(crate) const RENAME_REGEX: &str = "[[mirrors.rename_regex]]";

pub(crate) struct MirrorDraft<'t> {
    pub(crate) name: Field<At<&'t str>>,
    pub(crate) source: Field<At<&'t str>>,
    pub(crate) target: Field<At<&'t str>>,
    pub(crate) topics: Field<Named<'t>>,
    pub(crate) groups: Field<Named<'t>>,
    pub(crate) groups_interval: Field<Duration>,
    pub(crate) offsets: Field<Offsets>,
    pub(crate) on_error: Field<OnError>,
    pub(crate) on_lost: Field<OnLost>,
    pub(crate) naming: Field<NamingDraft<'t>>,
    pub(crate) topic_config: Field<BTreeMap<String, String>>,
    pub(crate) sync_topic_configs: Field<bool>,
    pub(crate) replication_factor: Field<Option<u16>>,
    pub(crate) max_padding: Field<i64>,
    pub(crate) max_bytes_per_second: Field<Option<NonZeroU64>>,
}

/// A selection, and where its names are written.
pub(crate) struct Named<'t> {
    pub(crate) names: Vec<At<&'t str>>,
    /// The place of the regexes, of which there are some where it has no name.
    pub(crate) patterns: Range<usize>,
    pub(crate) selection: Selection,
}

/// How topics are renamed, and where the exact names are written: the old one and the new one.
pub(crate) struct NamingDraft<'t> {
    pub(crate) renames: Vec<(At<&'t str>, At<&'t str>)>,
    pub(crate) naming: Naming,
}

pub(crate) fn mirror(mut t: Table<'_>) -> MirrorDraft<'_> {
    let name = t.required("name", r#"write name = "legacy-to-new", as it shall be called in logs, metrics and topics"#, mirror_name);
    let source = t.required("source", "write the NAME of a [clusters.NAME]: where topics are copied from", Value::string);
    let target = t.required("target", "write the NAME of a [clusters.NAME]: where topics are copied to", Value::string);
    let target = match (&source, target) {
        (Ok(source), Ok(target)) if source.value == target.value => {
            let message = format!("source and target are both cluster {}", quoted(target.value));
            Err(t.findings.mismatch(target.span, message, "a mirror copies from one cluster to another: write another one"))
        }
        (_, target) => target,
    };
    let topics = topics(&mut t);
    let groups = groups(&mut t);
    let groups_interval = t.optional("groups_interval_seconds", |v| v.integer(1..=3_600));
    let offsets = t.optional("offsets", |v| v.one_of(&Offsets::ALL.map(|offsets| (offsets.name(), offsets))));
    let on_error = t.optional("on_error", |v| v.one_of(&OnError::ALL.map(|on_error| (on_error.name(), on_error))));
    let on_lost = t.optional("on_lost", |v| v.one_of(&OnLost::ALL.map(|on_lost| (on_lost.name(), on_lost))));
    let replication_factor = t.optional("replication_factor", |v| v.integer(1..=i16::MAX as u64));
    let max_padding = t.optional("max_padding", |v| v.integer(0..=1_000_000_000_000));
    let max_bytes_per_second = t.optional("max_bytes_per_second", |v| v.integer(0..=1_000_000_000_000));
    let sync_topic_configs = t.optional("sync_topic_configs", Value::boolean);
    let topic_config = t.optional("topic_config", topic_config);
    let naming = naming(&mut t);
    if let (Ok(topics), Ok(naming)) = (&topics, &naming) {
        called(t.findings, topics, naming);
    }
    t.finish();
    let on_error = on_error.map(|on_error| on_error.map_or(OnError::Fail, |on_error| on_error.value));
    let by_on_error = if matches!(on_error, Ok(OnError::Fail)) { OnLost::Fail } else { OnLost::Follow };
    MirrorDraft {
        name,
        source,
        target,
        topics,
        groups,
        groups_interval: groups_interval
            .map(|seconds| seconds.map_or(Mirror::GROUPS_INTERVAL, |seconds| Duration::from_secs(seconds.value))),
        offsets: offsets.map(|offsets| offsets.map_or(Offsets::Preserve, |offsets| offsets.value)),
        on_error,
        on_lost: on_lost.map(|on_lost| on_lost.map_or(by_on_error, |on_lost| on_lost.value)),
        naming,
        topic_config: topic_config.map(|config| config.map(|config| config.value).unwrap_or_default()),
        sync_topic_configs: sync_topic_configs.map(|sync| sync.is_none_or(|sync| sync.value)),
        replication_factor: replication_factor.map(|factor| factor.map(|factor| factor.value as u16)),
        max_padding: max_padding.map(|offsets| offsets.map_or(Mirror::MAX_PADDING, |offsets| offsets.value as i64)),
        max_bytes_per_second: max_bytes_per_second.map(|bytes| bytes.and_then(|bytes| NonZeroU64::new(bytes.value))),
    }
}

fn mirror_name(value: Value<'_>) -> Field<&str> {
    let name = value.text()?;
    if let Some((at, char)) = name.char_indices().find(|(_, char)| !names::is_legal(*char)) {
        let span = value.part(at..at + char.len_utf8());
        let hint = "it is part of topic names and metrics: write letters, digits, `.`, `_` and `-` only";
        return Err(value.findings.error(span, format!("{} is not a mirror's name", quoted(name)), hint));
    }
    if name.len() > Mirror::LONGEST_NAME {
        let hint = format!("it is part of topic names: write at most {} characters", Mirror::LONGEST_NAME);
        return Err(value.error(format!("a mirror's name of {} characters", name.len()), hint));
    }
    Ok(name)
}

fn topics<'t>(t: &mut Table<'t>) -> Field<Named<'t>> {
    let named = t.optional("topics", |v| names(v, topic));
    let regexes = t.optional("topics_regex", patterns);
    let excluded = t.optional("exclude_regex", patterns);
    let topics = Named::new(named?, regexes?, excluded?);
    if topics.selection.is_empty() {
        let hint = r#"write topics = ["orders"], or topics_regex = [".*"] for every topic"#;
        return Err(t.missing(&["topics", "topics_regex"], t.span.clone(), "a mirror without topics", hint));
    }
    warn_of_excluded(t.findings, &topics, ("topic", "exclude_regex"));
    Ok(topics)
}

fn warn_of_excluded(findings: &Findings<'_>, named: &Named<'_>, (what, key): (&str, &str)) {
    for name in named.names.iter().filter(|name| named.selection.excludes(name.value)) {
        let hint = "what is excluded is not copied: drop it here, or write a narrower regex there";
        findings.warn(name.span.clone(), format!("{what} {} is excluded by `{key}`", quoted(name.value)), hint);
    }
}

fn groups<'t>(t: &mut Table<'t>) -> Field<Named<'t>> {
    let named = t.optional("groups", |v| names(v, Value::text));
    let regexes = t.optional("groups_regex", patterns);
    let excluded = t.optional("groups_exclude_regex", patterns);
    let groups = Named::new(named?, regexes?, excluded?);
    warn_of_excluded(t.findings, &groups, ("group", "groups_exclude_regex"));
    // A route's may be globs, and a group may be called anything.
    for name in groups.names.iter().filter(|name| Pattern::is_glob(name.value)) {
        let hint = "in a mirror it is a whole name: for a pattern write a regular expression in `groups_regex`, [\"orders-.*\"]";
        t.findings.warn(name.span.clone(), format!("group {} looks like a glob", quoted(name.value)), hint);
    }
    Ok(groups)
}

impl<'t> Named<'t> {
    fn new(names: Option<At<Vec<At<&'t str>>>>, patterns: Option<At<Vec<Pattern>>>, excluded: Option<At<Vec<Pattern>>>) -> Self {
        let names = names.map(|names| names.value).unwrap_or_default();
        let place = patterns.as_ref().map_or(0..0, |patterns| patterns.span.clone());
        let selection = Selection {
            names: names.iter().map(|name| name.value.to_owned()).collect(),
            patterns: patterns.map(|patterns| patterns.value).unwrap_or_default(),
            excluded: excluded.map(|excluded| excluded.value).unwrap_or_default(),
        };
        Self { names, patterns: place, selection }
    }
}

/// Settings by Kafka's names. Which there are is the target's to know.
fn topic_config(value: Value<'_>) -> Field<BTreeMap<String, String>> {
    let settings = value.table(TOPIC_CONFIG)?.strings_by_name();
    let settings = settings.into_iter().map(|setting| {
        let (name, value) = setting?;
        if name.value.contains('_') {
            let hint = format!("Kafka's names of topic settings have dots: write \"{}\"", name.value.replace('_', "."));
            return Err(value.findings.error(name.span, format!("{} is not a topic setting", quoted(name.value)), hint));
        }
        Ok((name.value.to_owned(), value.string()?.to_owned()))
    });
    all(settings).map(|settings| settings.into_iter().collect())
}

fn naming<'t>(t: &mut Table<'t>) -> Field<NamingDraft<'t>> {
    let renames = t.optional("rename", renames);
    let rules = t.optional("rename_regex", |v| all(v.tables(RENAME_REGEX)?.into_iter().map(rule)));
    let convention = t.optional("topic_naming", pattern);
    let renames = renames?.map(|renames| renames.value).unwrap_or_default();
    let naming = Naming {
        exact: renames.iter().map(|(old, new)| (old.value.to_owned(), new.value.to_owned())).collect(),
        rules: rules?.map(|rules| rules.value).unwrap_or_default(),
        convention: convention?.map(|convention| convention.value),
    };
    Ok(NamingDraft { renames, naming })
}

/// Old names and new ones.
fn renames(value: Value<'_>) -> Field<Vec<(At<&str>, At<&str>)>> {
    let renames = value.table(RENAME)?.strings_by_name().into_iter().map(|rename| {
        let (old, value) = rename?;
        let is_old = names::legal(old.value).map_err(|reason| {
            let hint = format!("{reason}; a regex belongs in {RENAME_REGEX}");
            value.findings.error(old.span.clone(), format!("{} is not a topic", quoted(old.value)), hint)
        });
        let new = value.text()?;
        names::legal(new).map_err(|reason| {
            let hint = format!("write another one: {reason}");
            value.error(format!("topic {} cannot be called {}", quoted(old.value), quoted(new)), hint)
        })?;
        is_old?;
        Ok((old, At { span: value.span(), value: new }))
    });
    all(renames)
}

fn rule(mut t: Table<'_>) -> Field<Rule> {
    let pattern = t.required("match", r"write match = '^payment\.(.+)$', a regex of names on the source", pattern);
    let to = t.required("to", "write to = 'billing.$1', the name on the target; $1 is the first group of the regex", |v| {
        v.text()?;
        Ok(v)
    });
    t.finish();
    let (pattern, to) = (pattern?.value, to?.value);
    let written = to.text()?;
    references(&pattern, written, to)?;
    Ok(Rule { pattern, to: written.to_owned() })
}

/// What `to` refers to must be groups of the regex: others would be replaced by nothing. And what stands between must be of a topic name.
fn references(pattern: &Pattern, written: &str, to: Value<'_>) -> Field<()> {
    let known = pattern.group_names();
    let unknown = std::cell::RefCell::new(Vec::new());
    let mut literal = String::new();
    interpolate::string(
        written,
        |index, _| {
            if index >= known.len() {
                unknown.borrow_mut().push(index.to_string());
            }
        },
        |name| {
            let index = known.iter().position(|known| known.as_deref() == Some(name));
            if index.is_none() {
                unknown.borrow_mut().push(name.to_owned());
            }
            index
        },
        &mut literal,
    );
    let unknown = unknown.into_inner();
    for name in &unknown {
        let reference = [format!("${{{name}}}"), format!("${name}")].into_iter().find(|reference| written.contains(reference));
        let part = reference.and_then(|reference| Some((written.find(&reference)?, reference.len())));
        let span = part.map_or_else(|| to.span(), |(at, length)| to.part(at..at + length));
        let digits = name.len() - name.trim_start_matches(|char: char| char.is_ascii_digit()).len();
        let (number, rest) = name.split_at(digits);
        let hint = match number.parse::<usize>() {
            Ok(index) if index < known.len() && !rest.is_empty() => {
                format!("write ${{{number}}}{rest}: without the braces the name goes on")
            }
            _ if known.len() == 1 => "put parentheses around the part of the regex that is meant".to_owned(),
            _ => {
                let named = known.iter().enumerate().skip(1);
                let groups: Vec<_> =
                    named.map(|(index, name)| name.as_ref().map_or(format!("${index}"), |name| format!("${{{name}}}"))).collect();
                format!("the groups of the regex are {}", listed(&groups, "and"))
            }
        };
        to.findings.error(span, format!("the regex has no group {}", quoted(name)), hint);
    }
    if let Some(char) = literal.chars().find(|char| !names::is_legal(*char)) {
        return Err(to.error(
            format!("`{}` in a topic name", char.escape_debug()),
            "a topic name has only ASCII letters, digits, `.`, `_` and `-`; groups are $1 or ${name}",
        ));
    }
    if unknown.is_empty() { Ok(()) } else { Err(Reported) }
}

/// The names on the target of all topics that are named must be as the convention has them. A rename of what is not copied is a slip.
fn called(findings: &Findings<'_>, topics: &Named<'_>, draft: &NamingDraft<'_>) {
    for (old, _) in draft.renames.iter().filter(|(old, _)| !topics.selection.matches(old.value)) {
        let hint = "name it in `topics`, or drop the line";
        findings.warn(old.span.clone(), format!("topic {} is renamed, but this mirror does not copy it", quoted(old.value)), hint);
    }
    let is_renamed = |name: &&At<&str>| draft.naming.exact.contains_key(name.value);
    let named =
        topics.names.iter().filter(|name| topics.selection.matches(name.value) && !is_renamed(name)).map(|name| (name.value, &name.span));
    for (topic, span) in named.chain(draft.renames.iter().map(|(old, new)| (old.value, &new.span))) {
        match draft.naming.target(topic) {
            Ok(_) => {}
            Err(NamingError::Illegal { target, reason, .. }) => {
                let hint = format!("correct {RENAME_REGEX}, or give it a name in {RENAME}: {reason}");
                findings.error(span.clone(), format!("topic {} cannot be called {}", quoted(topic), quoted(&target)), hint);
            }
            Err(NamingError::Unconventional { target, convention, .. }) => {
                let message = if target == topic {
                    format!("topic {} is not named as `topic_naming` wants it", quoted(topic))
                } else {
                    format!("topic {} would be called {}, not as `topic_naming` wants it", quoted(topic), quoted(&target))
                };
                findings.error(span.clone(), message, format!("it wants {convention}: write another name in {RENAME}"));
            }
        }
    }
}
