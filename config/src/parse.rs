//! From a file to a [`Config`]: its text, its TOML, drafts of its tables, what only several of them together can tell, the checked types. Each step
//! goes on behind the errors of the one before, so that all of them are reported together.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Invalid, Lines};
use crate::file::{read_file, read_once};
use crate::read::mirrors::MIRROR;
use crate::read::table::Findings;
use crate::read::{CLUSTER, LISTENER, ROUTE};
use crate::types::Config;
use crate::{build, check, read};

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Invalid`] holds all errors of the file at once; its `Display` is what an operator reads.
    pub fn load(path: &Path) -> Result<Self, Invalid> {
        Self::parse(&Self::read(path)?, path)
    }

    /// Reads the text of a file, without a byte order mark: for those who need it besides [`Config::parse`], to compare it or to
    /// [render](crate::diagnostic::render) warnings.
    ///
    /// # Errors
    /// [`Invalid`] says why it is not readable, or where it is not UTF-8.
    pub fn read(path: &Path) -> Result<String, Invalid> {
        Self::decode(path, read_once(path))
    }

    /// The same for a process that reads it again and again: only what is a file is read.
    ///
    /// # Errors
    /// [`Invalid`] says why it is not readable, or where it is not UTF-8.
    pub fn read_again(path: &Path) -> Result<String, Invalid> {
        Self::decode(path, read_file(path))
    }

    fn decode(path: &Path, bytes: std::io::Result<Vec<u8>>) -> Result<String, Invalid> {
        let bytes = bytes.map_err(|source| Invalid::unreadable(path, &source))?;
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        str::from_utf8(bytes).map(str::to_owned).map_err(|error| Invalid::not_utf8(path, bytes, error.valid_up_to()))
    }

    /// Checks a text. `path` names it in messages, and its folder is where relative paths start.
    ///
    /// # Errors
    /// [`Invalid`] has everything that is wrong with the text, each with its place.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Invalid> {
        // Editors on Windows start a file with a byte order mark; positions are counted without it, as editors do.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let invalid = |errors| Invalid { path: path.to_owned(), text: text.to_owned(), errors };
        if text.is_empty() {
            let hint = format!("write at least one each of {CLUSTER}, {LISTENER} and {ROUTE}, or of {CLUSTER} and {MIRROR}");
            return Err(invalid(vec![Diagnostic { span: 0..0, message: "the file is empty".to_owned(), hint: Some(hint) }]));
        }
        let lines = Lines::new(text);
        let (root, torn) = read::syntax::parse(text, &lines);
        if torn.headers {
            return Err(invalid(torn.errors));
        }
        let findings = Findings::new(text, &lines, torn.is_torn());
        let draft = read::file(&findings, root.get_ref(), path.parent().unwrap_or(Path::new("")));
        check::across_tables(&findings, &draft);
        let built = build::config(draft);

        let (mut errors, warnings) = findings.into_diagnostics();
        errors.retain(|error| !torn.touches(&lines, &error.span));
        errors.extend(torn.errors);
        errors.sort_by_key(|error| error.span.start);
        match built {
            Ok(config) if errors.is_empty() => Ok(Config { warnings, ..config }),
            _ => Err(invalid(errors)),
        }
    }
}
