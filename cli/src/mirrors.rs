//! The file's mirrors, and which of them a command is about.

use std::path::PathBuf;
use std::sync::Arc;

use kferry_config::{Config, Mirror};
use kferry_wire::exit::Exit;

use crate::check::{read, refuse};

/// What every command about mirrors takes.
#[derive(clap::Args)]
pub(crate) struct Chosen {
    /// The file
    #[arg(long, value_name = "FILE", env = "KFERRY_CONFIG", default_value = "routes.toml")]
    config: PathBuf,
    /// Only this mirror. May be given several times
    #[arg(long, value_name = "NAME")]
    mirror: Vec<String>,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl Chosen {
    /// Reads the file. `Err`: it has errors, or no such mirror, and that is said.
    pub(crate) fn read(&self) -> Result<(Config, Vec<Arc<Mirror>>), Exit> {
        let (_, config) = read(&self.config, self.json)?;
        let known: Vec<&str> = config.mirrors.iter().map(|mirror| &*mirror.name).collect();
        let problem = match self.mirror.iter().find(|name| !known.contains(&name.as_str())) {
            _ if known.is_empty() => Some("it has no [[mirrors]]; see docs/routes.md for what one looks like".to_owned()),
            Some(name) => Some(format!("it has no mirror {name:?}; it has {}", known.join(", "))),
            None => None,
        };
        if let Some(problem) = problem {
            return Err(refuse(self.json, &format!("{}: {problem}", self.config.display())));
        }
        let is_chosen = |mirror: &&Arc<Mirror>| self.mirror.is_empty() || self.mirror.iter().any(|name| **name == *mirror.name);
        let chosen = config.mirrors.iter().filter(is_chosen).cloned().collect();
        Ok((config, chosen))
    }
}
