//! A TOML table read key by key.
//!
//! serde's `deny_unknown_fields` stops at the first error. Here each key is taken by its name and each failure recorded with its place; what
//! nobody took at the end is unknown. A key that failed is [`Reported`]: whoever needs it stops there, so that one slip is one error.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Lines};

/// An error was recorded, and there is nothing to add to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reported;

/// What came of a key.
pub(crate) type Field<T> = Result<T, Reported>;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) span: Range<usize>,
    pub(crate) value: T,
}

impl<T> At<T> {
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> At<U> {
        At { span: self.span, value: map(self.value) }
    }
}

/// What is wrong with a text, so far.
pub(crate) struct Findings<'t> {
    pub(crate) text: &'t str,
    lines: &'t Lines<'t>,
    /// The text is not TOML: what is missing may only have been lost.
    torn: bool,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
    unknown: RefCell<Vec<Unknown>>,
    /// The keys of each kind of table, as they are asked for.
    keys: RefCell<BTreeMap<&'static str, Vec<&'static str>>>,
}

/// A key that nobody took and that looks like nothing else in its table.
struct Unknown {
    span: Range<usize>,
    key: String,
    kind: &'static str,
}

impl<'t> Findings<'t> {
    pub(crate) fn new(text: &'t str, lines: &'t Lines<'t>, torn: bool) -> Self {
        Self {
            text,
            lines,
            torn,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            unknown: RefCell::default(),
            keys: RefCell::default(),
        }
    }

    /// Something is wrong here, whatever the rest of the file says.
    pub(crate) fn error(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Reported {
        self.errors.borrow_mut().push(Diagnostic { span, message: message.into(), hint: Some(hint.into()) });
        Reported
    }

    /// Something is wrong in view of other lines, or because one is missing: not worth saying of a torn file.
    pub(crate) fn mismatch(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Reported {
        if self.torn { Reported } else { self.error(span, message, hint) }
    }

    pub(crate) fn warn(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.borrow_mut().push(Diagnostic { span, message: message.into(), hint: Some(hint.into()) });
    }

    /// The number of the line, as a reader counts.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.lines.at(span.start) + 1
    }

    /// The text of the line around a place.
    pub(crate) fn line_text(&self, span: &Range<usize>) -> &'t str {
        &self.text[self.lines.range(self.lines.at(span.start))]
    }

    /// Errors and warnings in the order of the file.
    pub(crate) fn into_diagnostics(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let keys = self.keys.take();
        for Unknown { span, key, kind } in self.unknown.take() {
            let elsewhere: Vec<_> = keys.iter().filter(|(_, known)| known.contains(&key.as_str())).map(|(other, _)| *other).collect();
            let hint = match &elsewhere[..] {
                [] => format!("the keys here are {}", keys[kind].join(", ")),
                others => format!("it belongs in {}", listed(others, "or")),
            };
            self.error(span, format!("unknown key {}", quoted_key(&key)), hint);
        }
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        errors.sort_by_key(|error| error.span.start);
        warnings.sort_by_key(|warning| warning.span.start);
        (errors, warnings)
    }

    /// The keys of each kind of table that was read.
    pub(crate) fn keys(&self) -> BTreeMap<&'static str, Vec<&'static str>> {
        self.keys.borrow().clone()
    }
}

/// A key or name of the file in a message: short, and in one line.
pub(crate) fn quoted_key(key: &str) -> String {
    format!("`{}`", clipped(key))
}

/// A value of the file in a message: short, and in one line.
pub(crate) fn quoted(value: &str) -> String {
    format!("\"{}\"", clipped(value))
}

fn clipped(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut clipped: String =
        text.chars().take(LONGEST).flat_map(|char| if char == '"' { vec![char] } else { char.escape_debug().collect() }).collect();
    if text.chars().nth(LONGEST).is_some() {
        clipped.push('…');
    }
    clipped
}

/// The one of `known` that was most probably meant.
pub(crate) fn meant<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let score = |known: &str| strsim::normalized_damerau_levenshtein(&written.to_lowercase(), &known.to_lowercase());
    known
        .into_iter()
        .map(|known| (score(known), known))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed<T: AsRef<str>>(items: &[T], conjunction: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [most @ .., last] => format!("{} {conjunction} {}", most.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "), last.as_ref()),
    }
}

/// A table whose keys are being taken.
pub(crate) struct Table<'t> {
    pub(crate) findings: &'t Findings<'t>,
    /// Its header, or the whole of an inline table.
    pub(crate) span: Range<usize>,
    kind: &'static str,
    entries: Vec<Entry<'t>>,
    asked: Vec<&'static str>,
    missing: Vec<Missing>,
}

type Entry<'t> = (&'t Spanned<DeString<'t>>, &'t Spanned<DeValue<'t>>);

/// An error that holds unless one of the keys is there in a misspelled form, which is then the error.
struct Missing {
    keys: Vec<&'static str>,
    error: Diagnostic,
}

/// What a key that nobody took is about.
enum Slip {
    /// This key.
    Of(&'static str),
    /// Kafka's name for something that is written in other keys here.
    Foreign(&'static [&'static str], &'static str),
}

/// Settings of Java clients and librdkafka that have no namesake here: what is written instead, and why.
const FOREIGN: [(&str, &[&str], &str); 10] = [
    (
        "sasl_username",
        &["sasl_users"],
        "it belongs in [clusters.NAME] or [routes.credentials.CLUSTER]; who may log in at the proxy is in sasl_users",
    ),
    ("sasl_jaas_config", &["sasl_username", "sasl_password_file"], "write sasl_username and sasl_password_file"),
    ("ssl_truststore_location", &["ssl_ca_location"], "write ssl_ca_location, with a PEM file"),
    ("ssl_truststore_password", &["ssl_ca_location"], "write ssl_ca_location, with a PEM file: it needs no password"),
    ("ssl_truststore_type", &["ssl_ca_location"], "write ssl_ca_location, with a PEM file"),
    (
        "ssl_keystore_location",
        &["ssl_certificate_location", "ssl_key_location"],
        "write ssl_certificate_location and ssl_key_location, with PEM files",
    ),
    (
        "ssl_keystore_password",
        &["ssl_certificate_location", "ssl_key_location"],
        "write ssl_key_location, with a PEM file that is not encrypted",
    ),
    ("ssl_key_password", &["ssl_key_location"], "write ssl_key_location, with a PEM file that is not encrypted"),
    (
        "ssl_keystore_type",
        &["ssl_certificate_location", "ssl_key_location"],
        "write ssl_certificate_location and ssl_key_location, with PEM files",
    ),
    ("enable_ssl_certificate_verification", &["ssl_ca_location"], "write ssl_ca_location: the broker's certificate is always verified"),
];

impl<'t> Table<'t> {
    /// `kind` is how tables like this one are written: `[clusters.NAME]`.
    pub(crate) fn new(findings: &'t Findings<'t>, kind: &'static str, span: Range<usize>, table: Option<&'t DeTable<'t>>) -> Self {
        let mut entries: Vec<Entry<'t>> = table.into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        Self { findings, span, kind, entries, asked: Vec::new(), missing: Vec::new() }
    }

    /// All entries in the order of the file, for a table whose keys are names.
    pub(crate) fn entries(self) -> impl Iterator<Item = (At<&'t str>, Value<'t>)> {
        let findings = self.findings;
        self.entries.into_iter().map(move |(key, raw)| (At { span: key.span(), value: &**key.get_ref() }, Value { findings, raw }))
    }

    /// All entries of a table whose keys are names that may have dots in them. Where such a name is not quoted, TOML has read tables within
    /// tables.
    pub(crate) fn strings_by_name(self) -> Vec<Field<(At<&'t str>, Value<'t>)>> {
        let entry = |&(key, raw): &Entry<'t>| {
            let name = At { span: key.span(), value: &**key.get_ref() };
            let torn_apart = self.written(key, raw).into_iter().filter(|(_, written)| written != name.value);
            let reported = torn_apart.map(|(span, written)| {
                let hint = format!("write {} = \"…\"", quoted(&written));
                self.findings.error(span, format!("{} needs quotes, because of its dots", quoted_key(&written)), hint)
            });
            reported.last().map_or(Ok((name, Value { findings: self.findings, raw })), Err)
        };
        self.entries.iter().map(entry).collect()
    }

    /// Takes a key that may be absent.
    pub(crate) fn optional<T>(&mut self, key: &'static str, read: impl FnOnce(Value<'t>) -> Field<T>) -> Field<Option<At<T>>> {
        self.asked.push(key);
        let Some((_, raw)) = self.entries.iter().find(|(name, _)| name.get_ref() == key) else { return Ok(None) };
        let value = read(Value { findings: self.findings, raw })?;
        Ok(Some(At { span: raw.span(), value }))
    }

    /// Takes a key that must be there; `hint` shows how it is written.
    pub(crate) fn required<T>(&mut self, key: &'static str, hint: &str, read: impl FnOnce(Value<'t>) -> Field<T>) -> Field<At<T>> {
        match self.optional(key, read)? {
            Some(field) => Ok(field),
            None => Err(self.missing(&[key], self.span.clone(), format!("missing key `{key}`"), hint)),
        }
    }

    /// Says that there should be one of these keys.
    pub(crate) fn missing(&mut self, keys: &[&'static str], span: Range<usize>, message: impl Into<String>, hint: &str) -> Reported {
        let error = Diagnostic { span, message: message.into(), hint: Some(hint.to_owned()) };
        self.missing.push(Missing { keys: keys.to_vec(), error });
        Reported
    }

    /// Says which keys nobody took, and which are missing: but not both of one slip. Returns the keys that were meant by slips.
    pub(crate) fn finish(self) -> Vec<&'static str> {
        let mut slips: Vec<&'static str> = Vec::new();
        for &(key, value) in self.entries.iter().filter(|(key, _)| !self.asked.contains(&&**key.get_ref())) {
            for (span, key) in self.written(key, value) {
                let unknown = format!("unknown key {}", quoted_key(&key));
                match self.slip(&key) {
                    Some(Slip::Of(meant)) => {
                        let is_table = match value.get_ref() {
                            DeValue::Table(_) => true,
                            // One more of several, as `[[route]]` beside `[[routes]]`.
                            DeValue::Array(several) => several.iter().all(|one| matches!(one.get_ref(), DeValue::Table(_))),
                            _ => false,
                        };
                        let there = self.entries.iter().find(|(name, _)| name.get_ref() == meant);
                        let hint = match there.filter(|_| !is_table) {
                            Some((name, _)) => format!("`{meant}` is already in line {}: drop this one", self.findings.line(&name.span())),
                            None if normal(&key) == meant => format!("write `{meant}`"),
                            None => format!("did you mean `{meant}`?"),
                        };
                        self.findings.error(span, unknown, hint);
                        slips.push(meant);
                    }
                    Some(Slip::Foreign(keys, hint)) => {
                        self.findings.error(span, unknown, hint);
                        slips.extend(keys);
                    }
                    None => self.findings.unknown.borrow_mut().push(Unknown { span, key, kind: self.kind }),
                }
            }
        }
        for Missing { keys, error } in self.missing {
            if !self.findings.torn && !keys.iter().any(|key| slips.contains(key)) {
                self.findings.errors.borrow_mut().push(error);
            }
        }
        self.findings.keys.borrow_mut().entry(self.kind).or_insert(self.asked);
        slips
    }

    fn slip(&self, key: &str) -> Option<Slip> {
        let normal = normal(key);
        if let Some(&meant) = self.asked.iter().find(|asked| **asked == normal) {
            return Some(Slip::Of(meant));
        }
        let foreign = FOREIGN.iter().find(|(name, keys, _)| *name == normal && self.asked.contains(&keys[0]));
        foreign.map(|&(_, keys, hint)| Slip::Foreign(keys, hint)).or_else(|| meant(&normal, self.asked.iter().copied()).map(Slip::Of))
    }

    /// A key as it is written: `bootstrap.servers = …` is a table `bootstrap` to TOML, but one key of a Java client to its author.
    fn written(&self, key: &'t Spanned<DeString<'t>>, value: &'t Spanned<DeValue<'t>>) -> Vec<(Range<usize>, String)> {
        match value.get_ref() {
            // The place of a dotted table is its key; but a header's too, where only `[a.b]` was written.
            DeValue::Table(table) if value.span() == key.span() && !self.findings.line_text(&key.span()).trim_start().starts_with('[') => {
                table
                    .iter()
                    .flat_map(|(inner, value)| self.written(inner, value))
                    .map(|(span, inner)| {
                        let is_of_key = |char: char| char.is_alphanumeric() || matches!(char, '.' | '_' | '-');
                        let start = self.findings.text[..span.start].trim_end_matches(is_of_key).len();
                        (start..span.end, format!("{}.{inner}", key.get_ref()))
                    })
                    .collect()
            }
            _ => vec![(key.span(), key.get_ref().to_string())],
        }
    }
}

/// A key in this file's spelling.
fn normal(key: &str) -> String {
    key.to_lowercase().replace(['.', '-'], "_")
}

/// A value that is being read.
#[derive(Clone, Copy)]
pub(crate) struct Value<'t> {
    pub(crate) findings: &'t Findings<'t>,
    raw: &'t Spanned<DeValue<'t>>,
}

impl<'t> Value<'t> {
    pub(crate) fn span(self) -> Range<usize> {
        self.raw.span()
    }

    /// Records that this value is wrong.
    pub(crate) fn error(self, message: impl Into<String>, hint: impl Into<String>) -> Reported {
        self.findings.error(self.span(), message, hint)
    }

    /// The place of a part of this string. Behind an escape nobody knows, and it is the whole string.
    pub(crate) fn part(self, part: Range<usize>) -> Range<usize> {
        let span = self.span();
        let inner = span.start + 1..span.end.saturating_sub(1);
        match (self.raw.get_ref(), self.findings.text.get(inner.clone())) {
            (DeValue::String(value), Some(written)) if value == written => inner.start + part.start..inner.start + part.end,
            _ => span,
        }
    }

    fn wrong_type(self, expected: &str, hint: &str) -> Reported {
        let found = match self.raw.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.error(format!("expected {expected}, found {found}"), hint)
    }

    pub(crate) fn string(self) -> Field<&'t str> {
        match self.raw.get_ref() {
            DeValue::String(value) => Ok(value),
            DeValue::Array(_) => Err(self.wrong_type("a string", "write one string; where it is a list, with commas in it")),
            _ => Err(self.wrong_type("a string", "write it in quotes")),
        }
    }

    /// A string that has something in it.
    pub(crate) fn text(self) -> Field<&'t str> {
        let value = self.string()?;
        if value.trim().is_empty() { Err(self.error("an empty string", "write a value, or drop the line")) } else { Ok(value) }
    }

    /// A name that is shown in logs and metrics.
    pub(crate) fn name(self) -> Field<&'t str> {
        let value = self.text()?;
        if value.contains(char::is_control) {
            return Err(self.error("a name with control characters in it", "it is shown in logs and metrics: write a plain one"));
        }
        Ok(value)
    }

    pub(crate) fn integer(self, range: RangeInclusive<u64>) -> Field<u64> {
        let hint = || format!("write a number from {} to {}", range.start(), range.end());
        match self.raw.get_ref() {
            DeValue::Integer(value) => match u64::from_str_radix(value.as_str(), value.radix()) {
                Ok(value) if range.contains(&value) => Ok(value),
                _ => Err(self.error(format!("{} is out of range", clipped(&value.to_string())), hint())),
            },
            DeValue::String(value) if value.parse::<u64>().is_ok() => Err(self.wrong_type("an integer", "write the number without quotes")),
            _ => Err(self.wrong_type("an integer", &hint())),
        }
    }

    pub(crate) fn boolean(self) -> Field<bool> {
        match self.raw.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            DeValue::String(value) if value.parse::<bool>().is_ok() => Err(self.wrong_type("true or false", "write it without quotes")),
            _ => Err(self.wrong_type("true or false", "write true or false")),
        }
    }

    /// One of some strings.
    pub(crate) fn one_of<T: Copy>(self, known: &[(&'static str, T)]) -> Field<T> {
        let written = self.string()?;
        if let Some((_, value)) = known.iter().find(|(name, _)| *name == written) {
            return Ok(*value);
        }
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let hint = match meant(written, names.iter().copied()) {
            Some(name) => format!("did you mean {}?", quoted(name)),
            None => format!("write {}", listed(&names.iter().map(|name| quoted(name)).collect::<Vec<_>>(), "or")),
        };
        Err(self.error(format!("unknown value {}", quoted(written)), hint))
    }

    /// One string, or an array of them.
    pub(crate) fn strings(self) -> Field<Vec<Value<'t>>> {
        match self.raw.get_ref() {
            DeValue::Array(values) if values.is_empty() => Err(self.error("an empty array", "write a value, or drop the line")),
            DeValue::Array(values) => Ok(values.iter().map(|raw| Value { findings: self.findings, raw }).collect()),
            DeValue::String(_) => Ok(vec![self]),
            _ => Err(self.wrong_type("a string or an array of strings", "write it in quotes")),
        }
    }

    pub(crate) fn is_table(self) -> bool {
        matches!(self.raw.get_ref(), DeValue::Table(_))
    }

    pub(crate) fn table(self, kind: &'static str) -> Field<Table<'t>> {
        match self.raw.get_ref() {
            DeValue::Table(table) => Ok(Table::new(self.findings, kind, self.span(), Some(table))),
            _ => Err(self.wrong_type("a table", &format!("write it as {kind}"))),
        }
    }

    pub(crate) fn tables(self, kind: &'static str) -> Field<Vec<Table<'t>>> {
        match self.raw.get_ref() {
            DeValue::Array(values) => values.iter().map(|raw| Value { findings: self.findings, raw }.table(kind)).collect(),
            _ => Err(self.wrong_type("an array of tables", &format!("write each as {kind}, with double brackets"))),
        }
    }
}
