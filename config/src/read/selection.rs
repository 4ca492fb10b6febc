//! Which topics and groups are meant: what `[[mirrors]]` copy, and what `[[routes]]` own.

use std::collections::HashMap;

use super::table::{At, Field, Reported, Table, Value, quoted};
use crate::matcher::BadPattern;
use crate::names::{self, Pattern, Selection, is_internal};

/// What a route owns, of topics or of groups, and where it is written.
pub(crate) struct OwnedDraft<'t> {
    /// The first of its two keys that is there, and the place of its value. `None`: it owns none.
    pub(crate) key: Option<At<&'static str>>,
    /// The names that are written out, and are no globs.
    pub(crate) names: Vec<At<&'t str>>,
    pub(crate) selection: Selection,
}

/// One of `topics` or `groups` of a route.
enum Owned<'t> {
    Name(&'t str),
    Glob(Pattern),
}

/// What a route owns by two of its keys: names and globs are in the one, regexes in the other. `name` reads what is no glob.
pub(crate) fn owned<'t>(
    t: &mut Table<'t>,
    [names_key, regex_key]: [&'static str; 2],
    name: impl Fn(Value<'t>) -> Field<&'t str>,
) -> Field<OwnedDraft<'t>> {
    let read = |value: Value<'t>| match value.text()? {
        glob if names_key == "topics" && Pattern::is_glob(glob) && has_comma(glob) => Err(value.error(
            format!("no topic has a comma in its name, as {} has", quoted(glob)),
            r#"write a list: topics = ["orders", "order-*"]"#,
        )),
        glob if Pattern::is_glob(glob) && is_meant_as_regex(glob) => {
            let hint = format!(
                "in a glob . is a dot, and `+ ^ $ ( ) |` are themselves: write it into `{regex_key}`, or without the dot, as \"order-*\""
            );
            value.findings.warn(value.span(), format!("{} looks like a regex, and is read as a glob", quoted(glob)), hint);
            Pattern::glob(glob).map(Owned::Glob).map_err(|bad| bad_pattern(value, bad))
        }
        glob if Pattern::is_glob(glob) => Pattern::glob(glob).map(Owned::Glob).map_err(|bad| bad_pattern(value, bad)),
        _ => name(value).map(Owned::Name),
    };
    let owned = t.optional(names_key, |v| names(v, read));
    let regexes = t.optional(regex_key, patterns);
    let (owned, regexes) = (owned?, regexes?);
    let keys = [
        owned.as_ref().map(|owned| At { span: owned.span.clone(), value: names_key }),
        regexes.as_ref().map(|regexes| At { span: regexes.span.clone(), value: regex_key }),
    ];
    let mut draft = OwnedDraft {
        key: keys.into_iter().flatten().min_by_key(|key| key.span.start),
        names: Vec::new(),
        selection: Selection { patterns: regexes.map(|regexes| regexes.value).unwrap_or_default(), ..Selection::default() },
    };
    for At { span, value } in owned.map(|owned| owned.value).unwrap_or_default() {
        match value {
            Owned::Name(name) => {
                draft.selection.names.insert(name.to_owned());
                draft.names.push(At { span, value: name });
            }
            Owned::Glob(pattern) => draft.selection.patterns.push(pattern),
        }
    }
    Ok(draft)
}

/// Whether a glob has a comma where it is none between alternatives.
fn has_comma(glob: &str) -> bool {
    let mut depth = 0;
    glob.chars().any(|char| {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        char == ',' && depth == 0
    })
}

/// Whether a glob has what is in no name of a topic, and in regexes; or `.*` where no word ends with the dot.
fn is_meant_as_regex(glob: &str) -> bool {
    let dots =
        glob.match_indices(".*").any(|(at, _)| !glob[..at].ends_with(|before: char| before.is_alphanumeric() || "]}?*".contains(before)));
    dots || glob.contains(['+', '^', '$', '(', ')', '|'])
}

/// Names that are there once each.
pub(crate) fn names<'t, T>(value: Value<'t>, read: impl Fn(Value<'t>) -> Field<T>) -> Field<Vec<At<T>>> {
    let mut seen = HashMap::new();
    let names = value.strings()?.into_iter().map(|value| {
        let name = At { span: value.span(), value: read(value)? };
        let written = value.string()?;
        match seen.insert(written, name.span.clone()) {
            Some(first) => {
                let hint = format!("line {} has it already: drop this one", value.findings.line(&first));
                Err(value.error(format!("{} is there twice", quoted(written)), hint))
            }
            None => Ok(name),
        }
    });
    all(names)
}

/// All of them, also behind one that failed.
pub(crate) fn all<T>(fields: impl Iterator<Item = Field<T>>) -> Field<Vec<T>> {
    fields.collect::<Vec<_>>().into_iter().collect()
}

/// The name of a topic that may be copied.
pub(crate) fn topic(value: Value<'_>) -> Field<&str> {
    let topic = value.text()?;
    match names::legal(topic) {
        Ok(()) => Ok(topic),
        Err(_) if is_internal(topic) => {
            let hint = "it belongs to Kafka or kferry, on each cluster: drop it";
            Err(value.error(format!("{} is an internal topic", quoted(topic)), hint))
        }
        Err(reason) => {
            Err(value.error(format!("{} is not a topic", quoted(topic)), format!("{reason}; a regex belongs in `topics_regex`")))
        }
    }
}

pub(crate) fn patterns(value: Value<'_>) -> Field<Vec<Pattern>> {
    all(value.strings()?.into_iter().map(pattern))
}

pub(crate) fn pattern(value: Value<'_>) -> Field<Pattern> {
    let pattern = value.text()?;
    Pattern::new(pattern).map_err(|bad| bad_pattern(value, bad))
}

/// Says what is wrong with a pattern, at the part of it that is.
pub(crate) fn bad_pattern(value: Value<'_>, BadPattern { part, message, hint }: BadPattern) -> Reported {
    value.findings.error(value.part(part), message, hint)
}
