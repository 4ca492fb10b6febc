//! The settings of topics and brokers.
//!
//! # References
//! - KIP-133 (DescribeConfigs), KIP-226 (where a value comes from), KIP-339 (IncrementalAlterConfigs)

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::VersionRange;

use super::text;
use crate::client::{Answers, Client, Node, Nodes, Resend, Subject};

const DESCRIBE_CONFIGS: VersionRange = VersionRange { min: 1, max: 4 };
const INCREMENTAL_ALTER_CONFIGS: VersionRange = VersionRange { min: 0, max: 1 };

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(Arc<str>),
    /// One broker, by node id.
    Broker(i32),
    /// All brokers: what was set for them together at run time, not their files.
    AllBrokers,
}

impl ConfigResource {
    fn wire(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (TOPIC, name.to_string()),
            Self::Broker(node_id) => (BROKER, node_id.to_string()),
            Self::AllBrokers => (BROKER, String::new()),
        }
    }

    fn read(resource_type: i8, name: &str) -> Option<Self> {
        match (resource_type, name) {
            (TOPIC, name) => Some(Self::Topic(Arc::from(name))),
            (BROKER, "") => Some(Self::AllBrokers),
            (BROKER, node_id) => Some(Self::Broker(node_id.parse().ok()?)),
            _ => None,
        }
    }

    /// A broker knows its own settings only.
    fn node(&self) -> Node {
        if let Self::Broker(node_id) = self { Node::Id(*node_id) } else { Node::Any }
    }

    fn subject(&self) -> Subject<'_> {
        if let Self::Topic(name) = self { Subject::topic(name) } else { Subject::other(self) }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Broker(node_id) => write!(f, "broker {node_id}"),
            Self::AllBrokers => f.write_str("all brokers"),
        }
    }
}

/// A setting as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its key, such as `cleanup.policy`.
    pub name: String,
    /// Its value; `None` if it has none, and always for a sensitive one.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// A password or key: brokers never tell it.
    pub sensitive: bool,
    /// It cannot be changed at run time.
    pub read_only: bool,
}

/// Where the value of a setting comes from, `DescribeConfigsResponse.ConfigSource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set for this topic.
    Topic,
    /// Set for this broker at run time.
    Broker,
    /// Set for all brokers at run time.
    AllBrokers,
    /// In the broker's file.
    File,
    /// Kafka's default.
    Default,
    /// Something else, by Kafka's number.
    Other(i8),
}

impl From<i8> for ConfigSource {
    fn from(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::AllBrokers,
            4 => Self::File,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// A change of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// To this value.
    Set(String),
    /// Back to what it would be without.
    Delete,
    /// Adds to a list.
    Append(String),
    /// Takes from a list.
    Subtract(String),
}

impl Client {
    /// The settings of topics and brokers. For `keys` of `None` all of them, otherwise those of these names that there are.
    pub async fn describe_configs(&self, resources: &[ConfigResource], keys: Option<&[&str]>) -> Answers<ConfigResource, Vec<ConfigEntry>> {
        let asked = resources.iter().map(|resource| (resource.clone(), ())).collect();
        self.spread(ApiKey::DescribeConfigs, Nodes(ConfigResource::node), Resend::Always, asked, |connection, batch| async move {
            let resources = batch.iter().map(|(resource, ())| {
                let (resource_type, name) = resource.wire();
                DescribeConfigsResource::default()
                    .with_resource_type(resource_type)
                    .with_resource_name(text(&name))
                    .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()))
            });
            let request = DescribeConfigsRequest::default().with_resources(resources.collect());
            let (asked, answer) = self.send(&connection, DESCRIBE_CONFIGS, |_| request).await?;
            let results = answer.results.iter().filter_map(|result| {
                let resource = ConfigResource::read(result.resource_type, &result.resource_name)?;
                let checked = asked.check(&resource.subject(), result.error_code, result.error_message.as_ref());
                let entries = result.configs.iter().map(|config| ConfigEntry {
                    name: config.name.to_string(),
                    value: config.value.as_ref().map(ToString::to_string),
                    source: config.config_source.into(),
                    sensitive: config.is_sensitive,
                    read_only: config.read_only,
                });
                let entries = checked.map(|()| entries.collect());
                Some((resource, entries))
            });
            Ok(results.collect())
        })
        .await
    }

    /// Changes settings, or only says whether it could; those that are not named stay. Brokers go by them a moment later.
    ///
    /// Tried again only where the broker did nothing: to append twice is to append twice.
    pub async fn incremental_alter_configs(
        &self,
        changes: &BTreeMap<ConfigResource, Vec<(String, ConfigChange)>>,
        validate_only: bool,
    ) -> Answers<ConfigResource, ()> {
        let api = ApiKey::IncrementalAlterConfigs;
        let asked = changes.iter().map(|(resource, changes)| (resource.clone(), changes)).collect();
        self.spread(api, Nodes(ConfigResource::node), Resend::IfRefused, asked, |connection, batch| async move {
            let resources = batch.iter().map(|(resource, changes)| {
                let (resource_type, name) = resource.wire();
                let configs = changes.iter().map(|(name, change)| alterable(name, change)).collect();
                AlterConfigsResource::default().with_resource_type(resource_type).with_resource_name(text(&name)).with_configs(configs)
            });
            let request = IncrementalAlterConfigsRequest::default().with_resources(resources.collect()).with_validate_only(validate_only);
            let (asked, answer) = self.send(&connection, INCREMENTAL_ALTER_CONFIGS, |_| request).await?;
            let results = answer.responses.iter().filter_map(|result| {
                let resource = ConfigResource::read(result.resource_type, &result.resource_name)?;
                let checked = asked.check(&resource.subject(), result.error_code, result.error_message.as_ref());
                Some((resource, checked))
            });
            Ok(results.collect())
        })
        .await
    }
}

fn alterable(name: &str, change: &ConfigChange) -> AlterableConfig {
    let (operation, value) = match change {
        ConfigChange::Set(value) => (0, Some(text(value))),
        ConfigChange::Delete => (1, None),
        ConfigChange::Append(value) => (2, Some(text(value))),
        ConfigChange::Subtract(value) => (3, Some(text(value))),
    };
    AlterableConfig::default().with_name(text(name)).with_config_operation(operation).with_value(value)
}
