//! `kferry`: the operator's command line.
//!
//! | file | what it is |
//! |---|---|
//! | [`init`] | `kferry init`: a first routes.toml |
//! | [`check`] | `kferry check`: is the file right, and what is behind it |
//! | [`clients`] | which clients a proxy has seen |
//! | [`plan`] | `kferry plan`: what the mirrors would do, what is in their way, and which routes own what they copy |
//! | [`verify`] | `kferry verify`: are both sides of a mirror the same |
//! | [`offsets`] | `kferry offsets`: which offset on the target an offset on the source is |
//! | [`acls`] | `kferry acls`: ACLs, SCRAM users and quotas that the target lacks |
//! | [`secrets`] | passwords of users that are to be created |
//! | [`finish`] | `kferry finish`: the end of a mirror |
//! | [`dlt`] | `kferry dlt`: dead letters, listed, shown, replayed |
//! | [`moves`] | `kferry decisions`, `status`, `move`: live moves |
//! | [`http`] | asks admin addresses |
//! | [`labels`] | sentences for standard error, with what they are in front |
//! | [`mirrors`] | the mirrors that a command is about |

// Comments of arguments are their help, where brackets are those of the file's tables.
#![allow(rustdoc::broken_intra_doc_links)]

mod acls;
mod check;
mod clients;
mod dlt;
mod finish;
mod http;
mod init;
mod labels;
mod mirrors;
mod moves;
mod offsets;
mod plan;
mod secrets;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use kferry_wire::exit::Exit;

/// Moves applications from one Kafka cluster to another while they run.
#[derive(Parser)]
#[command(name = "kferry", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Check(check::Args),
    Offsets(offsets::Args),
    Plan(plan::Args),
    Verify(verify::Args),
    Acls(acls::Args),
    Finish(finish::Args),
    Dlt(dlt::Args),
    Decisions(moves::decisions::Args),
    Status(moves::status::Args),
    Move(moves::order::Args),
}

/// What `kferry` takes, for its man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return told(&error).into(),
    };
    let ended = match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Offsets(args) => offsets::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Acls(args) => acls::run(&args),
        Command::Finish(args) => finish::run(&args),
        Command::Dlt(args) => dlt::run(&args),
        Command::Decisions(args) => moves::decisions::run(&args),
        Command::Status(args) => moves::status::run(&args),
        Command::Move(args) => moves::order::run(&args),
    };
    ended.into()
}

/// Says what is wrong with the command line, or what it asks for itself: `--help`, `--version`.
fn told(error: &clap::Error) -> Exit {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        return check::refuse(true, &error.to_string());
    }
    let _ = error.print();
    if error.use_stderr() { Exit::Refused } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use kferry_wire::exit::ENDINGS;

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }

    /// The commands that end by themselves, by their full names.
    fn commands(command: &clap::Command, name: &str, found: &mut Vec<(String, String)>) {
        if !command.is_subcommand_required_set() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((name.to_owned(), help));
        }
        for inner in command.get_subcommands() {
            commands(inner, &format!("{name} {}", inner.get_name()), found);
        }
    }

    #[test]
    fn every_command_is_in_the_table_of_exit_codes_and_says_so() {
        let mut found = Vec::new();
        commands(&super::command(), "kferry", &mut found);
        let named: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        let mut expected: Vec<_> = ENDINGS.iter().map(|endings| endings.command).filter(|name| name.starts_with("kferry ")).collect();
        let mut sorted = named.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        for (name, help) in &found {
            assert_eq!(*help, kferry_wire::exit::help(&[name]), "{name}");
        }
    }
}
