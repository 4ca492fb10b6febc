//! Programs run by an ordinary user, whoever runs the benchmark. Root has no limit of pipes (`fs.pipe-user-pages-soft`) and so would measure what
//! nobody should have in production.

use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Debian's `nobody`; any id that owns nothing would do.
const NOBODY: u32 = 65_534;

/// Whoever runs this process; in place of root, a user without rights.
#[derive(Debug)]
pub struct OrdinaryUser {
    /// What that user needs, where anybody can read it: the project may be in a home directory.
    folder: TempDir,
    in_place_of_root: bool,
}

impl OrdinaryUser {
    /// Its folder goes with it.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kferry-bench-").tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Self { folder, in_place_of_root: rustix::process::getuid().is_root() })
    }

    /// A file that this user can read.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// To run a program, given by its path, as this user.
    pub fn command(&self, program: &Path) -> Result<Command> {
        if !self.in_place_of_root {
            return Ok(Command::new(program));
        }
        let copy = self.folder.path().join(program.file_name().context("a program has a name")?);
        // What runs already cannot be written.
        if !copy.exists() {
            fs::copy(program, &copy).with_context(|| format!("{} can't be copied to {}", program.display(), copy.display()))?;
        }
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        // The signal once more: the one that `Process` has asked for is forgotten when the user changes (PR_SET_PDEATHSIG, prctl(2)).
        command.args([&user, &group, "--clear-groups", "--pdeathsig", "KILL", "--"]).arg(copy);
        Ok(command)
    }
}

impl fmt::Display for OrdinaryUser {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = rustix::process::getuid();
        if self.in_place_of_root { write!(to, "user {NOBODY}, in place of root") } else { write!(to, "user {id}") }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::{Process, require};

    #[test]
    fn its_programs_are_not_run_by_root_and_end_with_this_process() {
        let user = OrdinaryUser::new().unwrap();
        let file = user.file("greeting", "hello").unwrap();
        let mut command = user.command(&require("sh", "").unwrap()).unwrap();
        command.args(["-c", r#"cat "$0"; echo; id -u; exec setpriv --dump"#]).arg(file);
        let log = tempfile::NamedTempFile::new().unwrap();
        assert!(Process::spawn("sh", &command, log.path()).unwrap().wait(Duration::from_secs(10)).unwrap().success());
        let said = fs::read_to_string(log.path()).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "hello");
        assert_ne!(lines[1], "0");
        assert!(said.contains("Parent death signal: KILL"), "{said}");
    }
}
