//! Passwords of users that are to be created, in a file of their own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Others may read it: group and everybody else.
const OTHERS: u32 = 0o077;

/// Passwords by user. Never printed, so there is no `Debug`.
pub(crate) struct Secrets {
    passwords: BTreeMap<String, String>,
    /// What is not as it should be, though it works.
    pub(crate) warning: Option<String>,
}

impl Secrets {
    /// Reads TOML of lines `user = "password"`. The error is a sentence, without anything that is in the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let unreadable = |error: std::io::Error| format!("cannot read {shown}: {error}; create the file or make it readable for this user");
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
        let passwords: BTreeMap<String, String> = toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| text[..text.floor_char_boundary(span.start)].matches('\n').count() + 1);
            let line = line.map_or_else(String::new, |line| format!(", line {line}"));
            // The error's own words may quote a password.
            format!("{shown}{line}: each line has to be user = \"password\"; put the user in quotes if its name has other characters than letters, digits, - and _")
        })?;
        if let Some((user, _)) = passwords.iter().find(|(_, password)| password.is_empty()) {
            return Err(format!("{shown}: the password of {user:?} is empty, and Kafka takes none"));
        }
        let warning = (mode & OTHERS != 0).then(|| format!("{shown} can be read by other users of this machine: chmod 600 {shown}"));
        Ok(Self { passwords, warning })
    }

    pub(crate) fn of(&self, user: &str) -> Option<&str> {
        self.passwords.get(user).map(String::as_str)
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &str> {
        self.passwords.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn read(text: &str, mode: u32) -> Result<Secrets, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Secrets::read(&path)
    }

    #[test]
    fn users_and_their_passwords() {
        let secrets = read("alice = \"a = 'b'\"\n\"CN=bob,O=x\" = 'secret'\n", 0o600).unwrap();
        assert_eq!((secrets.of("alice"), secrets.of("CN=bob,O=x"), secrets.of("eve")), (Some("a = 'b'"), Some("secret"), None));
        assert_eq!(secrets.users().collect::<Vec<_>>(), ["CN=bob,O=x", "alice"]);
        assert!(secrets.warning.is_none());
        assert!(read("alice = 'x'", 0o640).unwrap().warning.is_some_and(|warning| warning.contains("chmod 600")));
    }

    #[test]
    fn what_is_wrong_is_told_without_a_password() {
        for (text, line) in [
            ("bob = 'x'\nalice = hunter2", "line 2: "),
            ("alice = 4711", "line 1: "),
            ("alice = \"hunter2", "line 1: "),
            ("alice.hunter2 = 'hunter2'", "line 1: "),
        ] {
            let error = read(text, 0o600).err().unwrap();
            assert!(error.contains(line) && !error.contains("hunter2") && !error.contains("4711"), "{error}");
        }
        assert!(read("alice = ''", 0o600).err().unwrap().contains("\"alice\" is empty"));
        assert!(Secrets::read(Path::new("/nowhere/secrets.toml")).err().unwrap().starts_with("cannot read /nowhere/secrets.toml: "));
    }
}
