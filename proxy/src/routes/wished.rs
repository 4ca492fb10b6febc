//! `routes.toml` as the operator wrote it: what is wished for, right or wrong, and whether that has changed since it was last judged.
//!
//! What connections are routed by is another thing, the table in force.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use kferry_config::diagnostic::{self, Invalid, Severity};
use kferry_config::{Config, read_file};
use kferry_wire::tell;

use crate::messages;

/// A file without errors, as it was read.
#[derive(Debug)]
pub(super) struct Wish {
    /// Its text, which says whether another wish is the same.
    pub text: String,
    /// What the text says.
    pub config: Config,
}

impl Wish {
    /// Checks a text. `path` names it in messages, and its folder is where relative paths start.
    pub(super) fn parse(text: String, path: &Path) -> Result<Self, Invalid> {
        Ok(Self { config: Config::parse(&text, path)?, text })
    }

    /// Tells the log what is allowed and probably not meant.
    pub(super) fn warn(&self, path: &Path) {
        let warnings = &self.config.warnings;
        if !warnings.is_empty() {
            let places = diagnostic::render(path, &self.text, Severity::Warning, warnings, false);
            tell!(messages::PROBABLY_NOT_MEANT: "\n{places}");
        }
    }
}

/// What was on the disk at one moment, as far as a table is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// `None` if there was none to be read.
    text: Option<String>,
    /// The certificates, keys and passwords that the text names, or an earlier one if it cannot be understood.
    files: Vec<PathBuf>,
    /// A hash of all that is in the files: they hold keys and passwords.
    contents: u64,
}

/// One reading of the file.
#[derive(Debug)]
pub(super) struct Reading {
    /// Its text, or why there is none.
    pub text: Result<String, Invalid>,
    /// What is compared with other readings.
    pub snapshot: Snapshot,
}

impl Reading {
    /// Reads `path`, and the files that the text before it named.
    pub(super) fn of(path: &Path, files: Vec<PathBuf>) -> Self {
        let text = Config::read_again(path);
        let snapshot = Snapshot { text: text.as_ref().ok().cloned(), contents: contents(&files), files };
        Self { text, snapshot }
    }
}

impl Snapshot {
    /// With the files that `wish` names, before anybody has used them: what changes after that is seen at the next look.
    pub(super) fn of(self, wish: &Wish) -> Self {
        let files: Vec<_> = wish.config.files().into_iter().map(Path::to_owned).collect();
        Self { contents: contents(&files), files, ..self }
    }

    /// The files that a reading has to look at beside the text.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// Whether this reading is to be judged, after `last`, the one before it, and `judged`, the one that was judged last. An editor may write a file in
    /// several steps, and half a file can be a valid one with half the routes: so a text counts once it was read twice in a row.
    pub(super) fn is_new(&self, last: &Self, judged: &Self) -> bool {
        // Other files are judged now: this reading has looked at the wrong ones.
        let comparable = self.files == judged.files;
        self == last && comparable && self != judged
    }
}

fn contents(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        read_file(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_judged_once_it_was_the_same_twice_and_is_not_the_judged_one() {
        let snapshot =
            |text: &str, file: &str, contents| Snapshot { text: Some(text.to_owned()), files: vec![PathBuf::from(file)], contents };
        let judged = snapshot("whole", "tls.pem", 1);
        let unreadable = Snapshot { text: None, ..judged.clone() };
        for (now, last, new) in [
            (&judged, &judged, false),
            (&snapshot("half", "tls.pem", 1), &judged, false),
            (&snapshot("other", "tls.pem", 1), &snapshot("half", "tls.pem", 1), false),
            (&snapshot("other", "tls.pem", 1), &snapshot("other", "tls.pem", 1), true),
            (&snapshot("whole", "tls.pem", 2), &judged, false),
            (&snapshot("whole", "tls.pem", 2), &snapshot("whole", "tls.pem", 2), true),
            (&unreadable, &unreadable, true),
            // Somebody has reloaded in between.
            (&snapshot("whole", "old.pem", 2), &snapshot("whole", "old.pem", 2), false),
        ] {
            assert_eq!(now.is_new(last, &judged), new, "{now:?} after {last:?}");
        }
    }
}
