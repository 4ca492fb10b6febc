//! `kferry`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kferry::run()
}
