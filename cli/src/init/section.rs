//! A cluster as the file has it.

use std::path::{Path, PathBuf};

use kferry_config::BrokerRange;

/// The cluster where the clients are.
pub(super) const LEGACY: &str = "legacy";
/// The cluster where they are to go.
pub(super) const NEW: &str = "new";

/// A key of `[clusters.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
}

/// A cluster as the file has it.
#[derive(Clone)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) id: u8,
    pub(super) bootstrap_servers: String,
    /// How kferry connects.
    pub(super) settings: Vec<Setting>,
    pub(super) brokers: Option<BrokerRange>,
}

impl Setting {
    /// `KEY=VALUE`
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as sasl_username=kferry")?;
        match key.trim() {
            key @ ("id" | "bootstrap_servers" | "node_ids" | "broker_ports") => {
                Err(format!("{key} is not set so: it is found out, or given by itself"))
            }
            "sasl_password" => {
                Err("a password on the command line can be seen by everybody; write sasl_password_file=FILE, or sasl_password_env=NAME"
                    .to_owned())
            }
            key if !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                Ok(Self { key: key.to_owned(), value: value.trim().to_owned() })
            }
            _ => Err("KEY is one of [clusters.NAME] in docs/routes.md, such as sasl_username".to_owned()),
        }
    }

    /// The same, with a path that is right in the file.
    pub(super) fn with_path(mut self, in_file: &impl Fn(&Path) -> PathBuf) -> Self {
        if self.key.ends_with("_location") || self.key.ends_with("_file") {
            self.value = in_file(Path::new(&self.value)).display().to_string();
        }
        self
    }
}

impl Section {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str())
    }

    pub(super) fn insert_first(&mut self, key: &str, value: &str) {
        self.settings.insert(0, Setting { key: key.to_owned(), value: value.to_owned() });
    }

    /// Its table.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            format!("[clusters.{}]", self.name),
            commented(&format!("id = {}", self.id), "never changes, and no other cluster has it"),
            commented(&format!("bootstrap_servers = {}", quoted(&self.bootstrap_servers)), "several with commas"),
        ];
        lines.extend(self.settings.iter().map(|Setting { key, value }| format!("{key} = {}", quoted(value))));
        if let Some(BrokerRange { node_ids, ports }) = &self.brokers {
            let node_ids = format!("node_ids = \"{}-{}\"", node_ids.start(), node_ids.end());
            let ports = format!("broker_ports = \"{}-{}\"", ports.start(), ports.end());
            lines.push(commented(&node_ids, "relay mode: the brokers that may exist, with room for more,"));
            lines.push(commented(&ports, "and a port of the proxy for each; where they begin never changes"));
        }
        lines.join("\n") + "\n"
    }
}

/// A line with a comment, below the one before.
pub(super) fn commented(line: &str, comment: &str) -> String {
    format!("{line:40} # {comment}")
}

/// As TOML writes a string. JSON's escapes are TOML's too, and TOML has one more.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string can be written").replace('\u{7f}', "\\u007f")
}

/// A file that has this cluster and nothing else that matters.
pub(super) fn one_cluster(section: &Section) -> String {
    format!(
        "{}[[listeners]]\nname = \"clients\"\nbind = \"127.0.0.1:9092\"\n[[routes]]\nname = \"all\"\nclient_id = \"*\"\ncluster = \"{}\"\n",
        section.text(),
        section.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_key_and_a_value() {
        let told = |text: &str| Setting::parse(text).map_or_else(|error| error, |setting| setting.value);
        assert_eq!(told("sasl_username = a=b "), "a=b");
        for (text, part) in [
            ("sasl_username", "write KEY=VALUE"),
            ("sasl_password=x", "sasl_password_file=FILE"),
            ("node_ids=1-3", "found out"),
            ("security.protocol=SSL", "one of [clusters.NAME]"),
            ("=x", "one of [clusters.NAME]"),
        ] {
            assert!(told(text).contains(part), "{text}: {}", told(text));
        }
    }
}
