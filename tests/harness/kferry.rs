//! The real `kferry`, and a file for it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::LIMIT;
use crate::kafka::{Cluster, Listener, User};
use crate::process::Process;
use crate::proxy::executable;
use crate::run;

/// A finished `kferry`: its exit code, and both outputs together.
#[derive(Debug)]
pub struct Done {
    /// The exit code.
    pub code: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
}

impl Done {
    /// The one object of `--json`.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| self.text.clone())
    }

    /// It has this exit code.
    pub fn ends_with(&self, code: i32) -> Result<&Self> {
        ensure!(self.code == Some(code), "{code} was expected: {self:?}");
        Ok(self)
    }

    /// These words are in it.
    pub fn says(&self, text: &str) -> Result<&Self> {
        ensure!(self.text.contains(text), "it does not say {text:?}:\n{}", self.text);
        Ok(self)
    }
}

/// A file with the clusters `source` and `target`, and what is made of it.
pub struct File(pub PathBuf);

impl File {
    /// `mirrors` are its `[[mirrors]]`. With a user kferry is logged in on both clusters, which have the listener `SASL_PLAINTEXT`.
    pub fn new(source: &Cluster, target: &Cluster, user: Option<User>, mirrors: &str) -> Result<Self> {
        let listener = if user.is_some() { Listener::SaslPlaintext } else { Listener::Plaintext };
        let mut text = String::new();
        for (id, name, cluster) in [(1, "source", source), (2, "target", target)] {
            let (servers, protocol) = (cluster.bootstrap_servers(listener)?, listener.security_protocol());
            writeln!(text, "[clusters.{name}]\nid = {id}\nbootstrap_servers = \"{servers}\"\nsecurity_protocol = \"{protocol}\"")?;
            if let Some(User { name, password }) = user {
                writeln!(text, "sasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"{name}\"\nsasl_password = \"{password}\"")?;
            }
        }
        let path = run::folder("plan")?.join("routes.toml");
        fs::write(&path, text + mirrors)?;
        Ok(Self(path))
    }

    /// Runs `kferry` to its end.
    pub fn kferry(&self, arguments: &[&str]) -> Result<Done> {
        let output = run::folder("kferry")?.join("output");
        let mut command = Command::new(executable("kferry")?);
        command.args(arguments).arg("--config").arg(&self.0);
        let status = Process::spawn("kferry", &command, &output)?.wait(LIMIT)?;
        Ok(Done { code: status.code(), text: fs::read_to_string(&output)? })
    }
}

/// A mirror between the two clusters of a [`File`].
pub fn mirror(name: &str, lines: &str) -> String {
    format!("[[mirrors]]\nname = \"{name}\"\nsource = \"source\"\ntarget = \"target\"\n{lines}\n")
}
