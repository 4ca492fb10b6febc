//! How the programs end: the one table of their exit codes. `docs/operating.md` has it too, and `tests/docs.rs` holds the two together.

use std::process::ExitCode;

/// How a program has ended. Of two endings the later one in this order is the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// All is well, or done.
    Done,
    /// It is done, but a copy lacks records that its source has: `on_error` left them out, or a transaction holds them up.
    Lacking,
    /// Something is not as it should be, or was not done.
    NotDone,
    /// Nothing was tried: the file or the command line has errors.
    Refused,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Done, Self::Lacking, Self::NotDone, Self::Refused];

    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotDone => 1,
            Self::Refused => 2,
            Self::Lacking => 3,
        }
    }

    /// [`Done`](Self::Done), or [`NotDone`](Self::NotDone).
    pub const fn done(is_done: bool) -> Self {
        if is_done { Self::Done } else { Self::NotDone }
    }

    /// What it means for every command.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "all is well, or done",
            Self::Lacking => "done, but the copy lacks records that the source has",
            Self::NotDone => {
                "something is not as it should be, or was not done; what was asked for by name and is not there counts as that"
            }
            Self::Refused => "nothing was tried: a file or the command line has errors",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What the exit codes of a command mean, but for 2, which is the same for all.
#[derive(Debug, Clone, Copy)]
pub struct Endings {
    /// The command, such as `kferry plan`.
    pub command: &'static str,
    /// [`Exit::Done`]
    pub done: &'static str,
    /// [`Exit::NotDone`]
    pub not_done: &'static str,
    /// [`Exit::Lacking`]; `None` does not happen.
    pub lacking: Option<&'static str>,
}

const fn endings(command: &'static str, done: &'static str, not_done: &'static str) -> Endings {
    Endings { command, done, not_done, lacking: None }
}

impl Endings {
    const fn lacking(self, lacking: &'static str) -> Self {
        Self { lacking: Some(lacking), ..self }
    }
}

/// The endings of all commands.
pub const ENDINGS: &[Endings] = &[
    endings("kferry init", "the file is written", "it is not: a cluster does not answer, wants a login, or no port is free"),
    endings(
        "kferry check",
        "the file is right; with --connect the clusters are as it says",
        "with --connect: a cluster is not as the file says, or does not answer",
    ),
    endings(
        "kferry plan",
        "it can be done",
        "something is in the way: a topic, a right, a collision, a name that is not there, a cluster that does not answer",
    ),
    endings(
        "kferry verify",
        "identical up to the follower's end",
        "a difference, something that could not be compared, a name that is not there, or nothing in common at all",
    )
    .lacking("identical but for what on_error left out, or what waits for a transaction that is open for a minute"),
    endings(
        "kferry offsets",
        "answered",
        "that offset is not on the other side (yet), nothing is known of the partition, or the target does not answer",
    ),
    endings(
        "kferry acls",
        "nothing is left to do",
        "something is: a + that was not added, a ?, an error, a name that is not there, a cluster that does not answer. A ! alone is 0",
    ),
    endings(
        "kferry finish",
        "nothing is left of the mirror, or with --apply was",
        "something is: run it with --apply; or it cannot be finished now, or a cluster does not answer",
    ),
    endings("kferry dlt list", "all is read", "something could not be read, or a name is not there"),
    endings("kferry dlt show", "all is read", "something could not be read, or a name is not there"),
    endings("kferry dlt replay", "nothing is left to replay", "something is, or failed; a name is not there, or nobody said yes"),
    endings("kferry decisions", "all is read", "the log cannot be read, or has a record that this kferry does not know"),
    endings(
        "kferry status",
        "what is wished is so, and nothing is in the way",
        "something is not where it is wished, or in the way; a move is open; or the log, or a cluster, cannot be read",
    ),
    endings("kferry move", "nothing is in the way of what the file wishes", "something is, or a cluster does not answer"),
    endings("kferry move abort", "the move is aborted", "no move is open, or it had ended before"),
    endings(
        "kferry move forget",
        "the proxy is forgotten",
        "it is not: it lives, or may live; there is no such proxy; or the log cannot be written",
    ),
    endings("kferry move log", "the log has moved", "it has not, or not wholly: it says what to do"),
    endings("kferry-mirror", "stopped by SIGTERM or SIGINT", "it could not start: the admin port is taken. The log says what"),
    endings("kferry-mirror --once", "all is copied", "something is not copied, or a name is not there. The log says what")
        .lacking("all is copied but for what on_error left out"),
    endings(
        "kferry-proxy",
        "stopped by SIGTERM or SIGINT",
        "it could not start: a port is taken; or it ended by itself: another process took its place, or the log of decisions is not what it was. The log says which",
    ),
];

/// What `--help` says of the exit codes of these commands, which are in [`ENDINGS`].
///
/// # Panics
/// A command is not there.
pub fn help(commands: &[&str]) -> String {
    let of = |command: &&str| {
        let found = ENDINGS.iter().find(|endings| endings.command == *command);
        let Endings { done, not_done, lacking, .. } = found.expect("a command that is in the table");
        let name = if commands.len() > 1 { format!("{command}: ") } else { String::new() };
        let lacking = lacking.map_or_else(String::new, |lacking| format!("; {}: {lacking}", Exit::Lacking.code()));
        format!("Exit code: {name}{}: {done}; {}: {not_done}{lacking}\n", Exit::Done.code(), Exit::NotDone.code())
    };
    let each: String = commands.iter().map(of).collect();
    format!("{each}Exit code {}: {}", Exit::Refused.code(), Exit::Refused.meaning())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_endings_the_worse_one_counts() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 3, 1, 2]);
        assert_eq!(Exit::Done.max(Exit::Lacking).max(Exit::NotDone), Exit::NotDone);
        assert_eq!(Exit::done(true).max(Exit::Lacking), Exit::Lacking);
    }

    #[test]
    fn help_is_the_tables() {
        assert_eq!(
            help(&["kferry plan"]),
            format!("Exit code: 0: it can be done; 1: {}\nExit code 2: {}", ENDINGS[2].not_done, Exit::Refused.meaning())
        );
        assert!(help(&["kferry-mirror", "kferry-mirror --once"]).contains("Exit code: kferry-mirror --once: 0: all is copied; 1: "));
    }
}
