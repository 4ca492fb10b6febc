//! Sentences for standard error, with what they are in front, coloured on a terminal.

use std::io::IsTerminal;

/// How bad something is.
#[derive(Clone, Copy)]
pub(crate) enum Severity {
    Error,
    Warning,
    /// Nothing is wrong.
    Note,
}

/// A sentence for standard error.
pub(crate) fn labelled(severity: Severity, sentence: &str) -> String {
    let (name, code) = match severity {
        Severity::Error => ("error", 31),
        Severity::Warning => ("warning", 33),
        Severity::Note => ("note", 36),
    };
    if is_coloured() { format!("\x1b[1;{code}m{name}\x1b[0m: {sentence}") } else { format!("{name}: {sentence}") }
}

pub(crate) fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
