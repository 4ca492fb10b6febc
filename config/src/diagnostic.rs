//! An error or a warning with its place in the file, and how it is shown.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::Renderer;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Snippet};

/// What a secret is shown as.
const MASK: &str = "********";

/// One thing that is wrong, or probably not meant, in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Byte range in the text.
    pub span: Range<usize>,
    /// What is wrong: one line, no full stop.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is not taken.
    Error,
    /// The file is taken.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// All errors of a file. `Display` is what an operator reads, without colours, and so is `Debug`: the text may hold a password.
#[derive(Clone)]
pub struct Invalid {
    /// The file.
    pub path: PathBuf,
    /// Its text, empty if it could not be read.
    pub text: String,
    /// In the order of the file.
    pub errors: Vec<Diagnostic>,
}

impl Invalid {
    pub(crate) fn unreadable(path: &Path, source: &std::io::Error) -> Self {
        let error = Diagnostic {
            span: 0..0,
            message: format!("cannot read {}: {source}", path.display()),
            hint: Some("name the file with --config FILE, or make it readable for this user".to_owned()),
        };
        Self { path: path.to_owned(), text: String::new(), errors: vec![error] }
    }

    pub(crate) fn not_utf8(path: &Path, bytes: &[u8], at: usize) -> Self {
        // Up to `at` it is UTF-8, so offsets in the lossy text are the same.
        let text = String::from_utf8_lossy(bytes).into_owned();
        let error = Diagnostic {
            span: at..at + char::REPLACEMENT_CHARACTER.len_utf8(),
            message: format!("byte 0x{:02X} is not UTF-8", bytes[at]),
            hint: Some("save the file with the encoding UTF-8".to_owned()),
        };
        Self { path: path.to_owned(), text, errors: vec![error] }
    }

    /// Every error with its line, a caret and a hint, and their count; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        render(&self.path, &self.text, Severity::Error, &self.errors, colour)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Invalid {}

/// Every diagnostic as `PATH:LINE:COLUMN` with its line of the text, a caret and its hint, and at the end a line that counts them.
/// Lines and columns start at 1, columns are characters. What may be a password in the text is shown as a mask of always the same length.
pub fn render(path: &Path, text: &str, severity: Severity, diagnostics: &[Diagnostic], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let name = path.display().to_string();
    let lines = Lines::new(text);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&[group(&name, &lines, severity, diagnostic)]));
        out.push_str("\n\n");
    }
    let plural = if diagnostics.len() == 1 { "" } else { "s" };
    out + &format!("{name}: {} {}{plural}", diagnostics.len(), severity.name())
}

fn group<'a>(name: &'a str, lines: &Lines<'_>, severity: Severity, diagnostic: &'a Diagnostic) -> Group<'a> {
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&diagnostic.message);
    let group = if lines.text.is_empty() {
        title.element(Origin::path(name))
    } else {
        let line = lines.at(diagnostic.span.start);
        let (shown, span) = lines.masked(line, &diagnostic.span);
        title.element(Snippet::source(shown).path(name).line_start(line + 1).annotation(AnnotationKind::Primary.span(span)))
    };
    match &diagnostic.hint {
        // The renderer cleans titles and sources of control characters, which may come from the file, but not messages.
        Some(hint) => group.element(Level::HELP.message(hint.replace(char::is_control, "\u{fffd}"))),
        None => group,
    }
}

/// A text by its lines. Numbers count from 0 here.
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
    secrets: Vec<Range<usize>>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts, secrets: crate::secret::ranges(text) }
    }

    /// How many there are; a text without any has one.
    pub(crate) fn count(&self) -> usize {
        self.starts.len()
    }

    /// The number of the line that holds a byte.
    pub(crate) fn at(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset) - 1
    }

    /// The bytes of a line, without its end.
    pub(crate) fn range(&self, line: usize) -> Range<usize> {
        let start = self.starts[line];
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        start..start + self.text[start..end].trim_end_matches('\r').len()
    }

    /// A line with its secrets masked, whatever their length, and where a span is in it: at most to the end of the line.
    fn masked(&self, line: usize, span: &Range<usize>) -> (String, Range<usize>) {
        let range = self.range(line);
        let mut shown = String::with_capacity(range.len());
        let (mut from, mut to) = (None, None);
        let mut show = |part: Range<usize>, mask: Option<&str>| {
            let begin = shown.len();
            shown.push_str(mask.unwrap_or(&self.text[part.clone()]));
            // Behind a mask nothing tells where in it something was.
            let place = |offset: usize| if mask.is_some() { begin } else { begin + (offset - part.start) };
            if from.is_none() && span.start < part.end {
                from = Some(place(span.start.max(part.start)));
            }
            if to.is_none() && span.end <= part.end {
                to = Some(if mask.is_some() { shown.len() } else { place(span.end.max(part.start)) });
            }
        };
        let mut at = range.start;
        for secret in self.secrets.iter().filter(|secret| secret.start < range.end && range.start < secret.end) {
            let secret = secret.start.max(range.start)..secret.end.min(range.end);
            show(at..secret.start, None);
            at = secret.end;
            show(secret, Some(MASK));
        }
        show(at..range.end, None);
        let to = to.unwrap_or(shown.len());
        (shown, from.unwrap_or(to).min(to)..to)
    }
}
