//! Man pages and completions of the programs, from what they take on their command lines. `kferry-manual FOLDER` writes them where a system looks for
//! them below `/usr/local`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Where each shell looks for completions.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions"),
    (Shell::Zsh, "share/zsh/site-functions"),
    (Shell::Fish, "share/fish/vendor_completions.d"),
];

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: kferry-manual FOLDER")?);
    let pages = folder.join("share/man/man1");
    fs::create_dir_all(&pages)?;
    for command in [kferry::command(), kferry_proxy::Args::command(), kferry_mirror::args::Args::command()] {
        for (shell, place) in SHELLS {
            let place = folder.join(place);
            fs::create_dir_all(&place)?;
            let program = command.get_name().to_owned();
            let written = clap_complete::generate_to(shell, &mut command.clone(), &program, place)?;
            if shell == Shell::Bash {
                // Bash looks for the name of the program alone.
                fs::rename(&written, written.with_file_name(program))?;
            }
        }
        clap_mangen::generate_to(command, &pages)?;
    }
    Ok(())
}
