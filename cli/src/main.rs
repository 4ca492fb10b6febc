//! `kferry`: the operator's command line.
//!
//! | file | what it is |
//! |---|---|
//! | [`check`] | `kferry check`: is the file right, and what is behind it |
//! | [`plan`] | `kferry plan`: what the mirrors would do, and what is in their way |
//! | [`verify`] | `kferry verify`: are both sides of a mirror the same |
//! | [`offsets`] | `kferry offsets`: which offset on the target an offset on the source is |
//! | [`acls`] | `kferry acls`: ACLs, SCRAM users and quotas that the target lacks |
//! | [`secrets`] | passwords of users that are to be created |
//! | [`dlt`] | `kferry dlt`: dead letters, listed, shown, replayed |
//! | [`mirrors`] | the mirrors that a command is about |

mod acls;
mod check;
mod dlt;
mod mirrors;
mod offsets;
mod plan;
mod secrets;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Moves applications from one Kafka cluster to another while they run.
#[derive(Parser)]
#[command(name = "kferry", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Args),
    Offsets(offsets::Args),
    Plan(plan::Args),
    Verify(verify::Args),
    Acls(acls::Args),
    Dlt(dlt::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Offsets(args) => offsets::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Acls(args) => acls::run(&args),
        Command::Dlt(args) => dlt::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
