//! Text to TOML tables, and what of it is not TOML.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::table::quoted_key;
use crate::diagnostic::{Diagnostic, Lines};

/// Where a text is not TOML.
#[derive(Default)]
pub(crate) struct Torn {
    /// In the order of the file.
    pub(crate) errors: Vec<Diagnostic>,
    /// Lines whose values are the parser's guess, in their order.
    lines: Vec<usize>,
    /// A header is broken: keys may have ended up in another table.
    pub(crate) headers: bool,
}

impl Torn {
    /// Whether there are lines that could not be read.
    pub(crate) fn is_torn(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Whether what is in this place is a guess.
    pub(crate) fn touches(&self, lines: &Lines<'_>, span: &Range<usize>) -> bool {
        let (first, last) = (lines.at(span.start), lines.at(span.end));
        self.lines.get(self.lines.partition_point(|line| *line < first)).is_some_and(|line| *line <= last)
    }
}

/// The tables of a text, as far as they can be read.
pub(crate) fn parse<'t>(text: &'t str, lines: &Lines<'_>) -> (Spanned<DeTable<'t>>, Torn) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut torn = Torn::default();
    let headers: Vec<usize> = (0..lines.count()).filter(|&line| text[lines.range(line)].trim_start().starts_with('[')).collect();
    let header_of = |line: usize| headers[..headers.partition_point(|&header| header <= line)].last().copied();
    let mut errors: Vec<_> = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut twice = None;
    for (span, message) in errors {
        let line = lines.at(span.start);
        let header = header_of(line);
        if message == "duplicate key" {
            // A table that is there twice is merged, and then each of its keys is there twice too.
            if header.is_some() && header == twice {
                continue;
            }
            if header == Some(line) {
                twice = header;
            }
        } else {
            if torn.lines.last() == Some(&line) {
                continue;
            }
            torn.lines.push(line);
            torn.headers |= header == Some(line);
        }
        let (message, hint) = explained(message, text.get(span.clone()).unwrap_or_default());
        torn.errors.push(Diagnostic { span, message, hint: Some(hint) });
    }
    (root, torn)
}

fn explained(message: &str, written: &str) -> (String, String) {
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let hint = match what {
        "duplicate key" => return (format!("{} is there twice", quoted_key(written)), "keep one of them".to_owned()),
        "string values must be quoted" => r#"write it in quotes: key = "value""#.to_owned(),
        "key with no value" => "write key = value".to_owned(),
        _ if what.contains("escape") => r"write \\ for a backslash, or the whole string in single quotes: 'a\d+'".to_owned(),
        _ if expected.is_empty() || expected == "nothing" => "see the TOML specification".to_owned(),
        _ => format!("here should be {expected}"),
    };
    (format!("not TOML: {what}"), hint)
}
