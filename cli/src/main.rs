//! `kferry`: the operator's command line.
//!
//! | file | what it is |
//! |---|---|
//! | [`check`] | `kferry check`: is the file right, and what is behind it |

mod check;

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
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
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
