//! The table of APIs is an excerpt of Kafka's own message schemas. Kafka's jars have these as JSON: field by field, version by version, for every
//! release that the test bed knows, the excerpt is right, and nothing that names a broker is missing in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter::Peekable;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::{jars, kafka, process};
use kafka_protocol::messages::ApiKey;
use kferry_wire::api::{APIS, Api, FETCH_RESPONSE, Field, Kind, PRODUCE_REQUEST, PRODUCE_RESPONSE};
use serde::Deserialize;

/// Fields that sound like a broker and pass as they are.
const REVIEWED: &[(&str, &str)] = &[
    // Consumers are no replicas: -1.
    ("FetchRequest", "replica_id"),
    ("ListOffsetsRequest", "replica_id"),
    // Only controllers among themselves name the cluster.
    ("FetchRequest", "cluster_id"),
    // A rack is a name that the broker of this connection compares with those of its own replicas.
    ("FetchRequest", "rack_id"),
    // Tagged fields that controllers have from version 12 on, and brokers tell clients from 16 on only (KIP-951; `KafkaApis.handleFetchRequest`).
    ("FetchResponse", "responses.partition_responses.current_leader.leader_epoch"),
    ("FetchResponse", "responses.partition_responses.current_leader.leader_id"),
    ("FetchResponse", "responses.partitions.current_leader.leader_epoch"),
    ("FetchResponse", "responses.partitions.current_leader.leader_id"),
    // The rack of a broker or a member is a name that means the same on either side; the group's coordinator assigns partitions by it.
    ("MetadataResponse", "brokers.rack"),
    ("DescribeClusterResponse", "brokers.rack"),
    ("ConsumerGroupHeartbeatRequest", "rack_id"),
    ("ConsumerGroupDescribeResponse", "groups.members.rack_id"),
    // Where a member of a group came from.
    ("DescribeGroupsResponse", "groups.members.client_host"),
    ("ConsumerGroupDescribeResponse", "groups.members.client_host"),
    // A member of the group.
    ("JoinGroupResponse", "leader"),
    // Permissions bound to clients' hosts. No resource of an ACL is a broker.
    ("DescribeAclsRequest", "resource_type_filter"),
    ("DescribeAclsRequest", "resource_name_filter"),
    ("DescribeAclsRequest", "host_filter"),
    ("DescribeAclsResponse", "resources.resource_type"),
    ("DescribeAclsResponse", "resources.resource_name"),
    ("DescribeAclsResponse", "resources.acls.host"),
    ("CreateAclsRequest", "creations.resource_type"),
    ("CreateAclsRequest", "creations.resource_name"),
    ("CreateAclsRequest", "creations.resource_pattern_type"),
    ("CreateAclsRequest", "creations.host"),
    ("DeleteAclsRequest", "filters.resource_type_filter"),
    ("DeleteAclsRequest", "filters.resource_name_filter"),
    ("DeleteAclsRequest", "filters.host_filter"),
    ("DeleteAclsResponse", "filter_results.matching_acls.resource_type"),
    ("DeleteAclsResponse", "filter_results.matching_acls.resource_name"),
    ("DeleteAclsResponse", "filter_results.matching_acls.host"),
    // Booleans and bit fields.
    ("MetadataRequest", "include_cluster_authorized_operations"),
    ("MetadataResponse", "cluster_authorized_operations"),
    ("DescribeClusterRequest", "include_cluster_authorized_operations"),
    ("DescribeClusterRequest", "include_fenced_brokers"),
    ("DescribeClusterRequest", "endpoint_type"),
    ("DescribeClusterResponse", "endpoint_type"),
    ("DescribeClusterResponse", "cluster_authorized_operations"),
];

/// What the name of a field says when it is about brokers. UUIDs are told by their type.
const TELLTALE: &[&str] = &[
    "broker",
    "brokers",
    "node",
    "nodes",
    "replica",
    "replicas",
    "isr",
    "leader",
    "controller",
    "cluster",
    "host",
    "port",
    "endpoint",
    "endpoints",
    "rack",
    "resource",
    "resources",
];

#[test]
fn every_schema_is_kafkas_and_nothing_that_names_a_broker_is_missing() -> Result<()> {
    let mut passing = BTreeSet::new();
    let mut known: BTreeMap<i16, BTreeSet<i16>> = BTreeMap::new();
    for release in kafka::VERSIONS {
        let messages = messages(release)?;
        for api in APIS {
            let Some((min, max)) = api.versions() else { continue };
            let (request, response) = match api.key {
                // What streams has a schema, though not in its row.
                ApiKey::Produce => (PRODUCE_REQUEST, PRODUCE_RESPONSE),
                ApiKey::Fetch => (api.request, FETCH_RESPONSE),
                _ => (api.request, api.response),
            };
            for (kind, fields) in [("request", request), ("response", response)] {
                let Some(message) = messages.iter().find(|message| message.api_key == Some(api.key as i16) && message.kind == kind) else {
                    continue;
                };
                let newest = release == *kafka::VERSIONS.last().context("a release")?;
                for version in (min..=max).filter(|version| message.valid_versions.contains(*version)) {
                    known.entry(api.key as i16).or_default().insert(version);
                    let place = format!("Kafka {release}, {} v{version}", message.name);
                    let flexible = message.flexible_versions.as_ref().is_some_and(|versions| versions.contains(version));
                    ensure!(flexible == api.is_flexible(version), "{place}: flexible is {flexible}");
                    let mut comparing = Comparing { message, version, names: newest, rewritten: BTreeSet::new() };
                    comparing.fields(fields, &message.fields, "").with_context(|| place.clone())?;
                    for path in message.telltales(version) {
                        if !comparing.rewritten.contains(&path) {
                            passing.insert((message.name.clone(), path));
                        }
                    }
                }
            }
            let carried = messages.iter().find(|message| message.api_key == Some(api.key as i16)).map(|message| message.valid_versions);
            let beyond = carried.is_some_and(|valid| valid.max > max) && !api.limit.contains(&(max + 1).to_string());
            ensure!(!beyond, "Kafka {release} knows {:?} v{}: the row does not say why it is not carried", api.key, max + 1);
        }
    }
    let reviewed = REVIEWED.iter().map(|(message, field)| ((*message).to_owned(), (*field).to_owned())).collect::<BTreeSet<_>>();
    let unseen: Vec<_> = passing.difference(&reviewed).collect();
    assert!(unseen.is_empty(), "these pass as they are: put them into a schema, or, if that is right, into REVIEWED: {unseen:#?}");
    let stale: Vec<_> = reviewed.difference(&passing).collect();
    assert!(stale.is_empty(), "REVIEWED names what is not in a carried version: {stale:#?}");

    for api in APIS {
        let Some((min, max)) = api.versions() else { continue };
        let known = known.remove(&(api.key as i16)).unwrap_or_default();
        assert_eq!(known, (min..=max).collect(), "the versions of {:?} that a broker knows", api.key);
    }
    Ok(())
}

#[test]
fn what_clients_may_ask_of_the_newest_release_is_in_the_table() -> Result<()> {
    let newest = kafka::VERSIONS.last().context("a release")?;
    let mut missing = BTreeSet::new();
    for message in messages(newest)? {
        let for_clients = message.kind == "request" && message.listeners.iter().any(|listener| listener == "broker");
        if for_clients && message.api_key.is_some_and(|key| Api::of(key).is_none()) {
            missing.insert(message.name);
        }
    }
    // kafka-protocol has no names for these; `docs/apis.md` says that they are hidden.
    assert_eq!(missing.iter().map(String::as_str).collect::<Vec<_>>(), ["StreamsGroupDescribeRequest", "StreamsGroupHeartbeatRequest"]);
    Ok(())
}

/// A version of a message against its excerpt.
struct Comparing<'a> {
    message: &'a Message,
    version: i16,
    /// Names as well: some of them have changed over time.
    names: bool,
    /// Paths of what the excerpt rewrites.
    rewritten: BTreeSet<String>,
}

impl Comparing<'_> {
    fn fields(&mut self, excerpt: &[Field], theirs: &[MessageField], path: &str) -> Result<()> {
        let version = self.version;
        let mut theirs = theirs.iter().filter(|field| field.versions.contains(version) && field.tag.is_none()).peekable();
        for field in excerpt.iter().filter(|field| field.is_in(version)) {
            let (kinds, special): (&[&str], bool) = match field.kind {
                Kind::Fixed(1) => (&["int8|bool"], false),
                Kind::Fixed(2) | Kind::PartitionError => (&["int16"], false),
                Kind::Fixed(4) | Kind::Partition => (&["int32"], false),
                Kind::Fixed(8) => (&["int64"], false),
                Kind::Text | Kind::TopicName | Kind::GroupId => (&["string"], false),
                Kind::Records => (&["records", "bytes"], false),
                Kind::FixedArray(4) | Kind::Partitions => (&["[]int32"], false),
                Kind::FixedArray(8) => (&["[]int64"], false),
                Kind::TextArray | Kind::GroupIds => (&["[]string"], false),
                Kind::ReplicaIds => (&["[]int32"], true),
                Kind::NodeId | Kind::LeaderEpoch => (&["int32"], true),
                Kind::Address => (&["string", "int32"], true),
                Kind::ClusterId | Kind::ConfigName | Kind::ConfigValue | Kind::ErrorMessage => (&["string"], true),
                Kind::ProducerId => (&["int64"], true),
                Kind::Resource => (&["int8", "string"], true),
                Kind::TopicId => (&["uuid"], true),
                Kind::NameAndTopicId => (&["string", "uuid"], true),
                Kind::TopicIdAndName => (&["uuid", "string"], true),
                Kind::Array(excerpt) | Kind::Structure(excerpt) | Kind::NullableStructure(excerpt) => {
                    let their = self.next(&mut theirs, path, field.name)?;
                    let is_array = matches!(field.kind, Kind::Array(_));
                    ensure!(their.kind.starts_with("[]") == is_array, "{path}{} is {} for Kafka", field.name, their.kind);
                    // An array is null by its length, a structure by a byte of its own.
                    let nullable = their.nullable_versions.is_some_and(|versions| versions.contains(version));
                    ensure!(is_array || nullable == matches!(field.kind, Kind::NullableStructure(_)), "{path}{}: null?", field.name);
                    let within = format!("{path}{}.", snake_case(&their.name));
                    self.fields(excerpt, self.message.within(their), &within)?;
                    continue;
                }
                kind @ (Kind::Fixed(_) | Kind::FixedArray(_)) => anyhow::bail!("{path}{}: {kind:?} is no kind of Kafka's", field.name),
            };
            for (kind, name) in kinds.iter().zip(field.name.split(", ")) {
                let their = self.next(&mut theirs, path, name)?;
                ensure!(kind.split('|').any(|kind| kind == their.kind), "{path}{name} is {} for Kafka, not {kind}", their.kind);
                if special {
                    self.rewritten.insert(format!("{path}{}", snake_case(&their.name)));
                }
            }
        }
        // A message may be left early, an element of an array may not.
        let next = theirs.next().filter(|_| !path.is_empty());
        ensure!(next.is_none(), "{path} goes on with {next:?}");
        Ok(())
    }

    fn next<'a>(&self, theirs: &mut Peekable<impl Iterator<Item = &'a MessageField>>, path: &str, name: &str) -> Result<&'a MessageField> {
        let their = theirs.next().with_context(|| format!("{path}{name} is behind Kafka's last field"))?;
        let same = snake_case(&their.name) == name;
        ensure!(same || !self.names, "{path}{name} is {} for Kafka", their.name);
        Ok(their)
    }
}

/// One of Kafka's JSON files.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    api_key: Option<i16>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    listeners: Vec<String>,
    name: String,
    valid_versions: Versions,
    flexible_versions: Option<Versions>,
    #[serde(default)]
    fields: Vec<MessageField>,
    #[serde(default)]
    common_structs: Vec<Structure>,
}

#[derive(Debug, Deserialize)]
struct Structure {
    name: String,
    fields: Vec<MessageField>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageField {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    versions: Versions,
    nullable_versions: Option<Versions>,
    tag: Option<serde_json::Value>,
    entity_type: Option<String>,
    #[serde(default)]
    fields: Vec<MessageField>,
}

impl Message {
    /// The fields of a structure or of an array's elements.
    fn within<'a>(&'a self, field: &'a MessageField) -> &'a [MessageField] {
        let name = field.kind.trim_start_matches("[]");
        let common = self.common_structs.iter().find(|structure| structure.name == name);
        common.map_or(&field.fields, |structure| &structure.fields)
    }

    /// The paths of all fields that sound like a broker or are an id of a topic, tagged ones too.
    fn telltales(&self, version: i16) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<(String, &MessageField)> = self.fields.iter().map(|field| (String::new(), field)).collect();
        while let Some((path, field)) = todo.pop() {
            if !field.versions.contains(version) {
                continue;
            }
            let name = format!("{path}{}", snake_case(&field.name));
            let within = self.within(field);
            let sounds = snake_case(&field.name).split('_').any(|word| TELLTALE.contains(&word));
            // Structures tell by their fields.
            if field.entity_type.as_deref() == Some("brokerId") || field.kind == "uuid" || sounds && within.is_empty() {
                found.insert(name.clone());
            }
            todo.extend(within.iter().map(|field| (format!("{name}."), field)));
        }
        found
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Versions {
    min: i16,
    max: i16,
}

impl Versions {
    fn contains(self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl TryFrom<String> for Versions {
    type Error = std::num::ParseIntError;

    /// `0+`, `2-4`, `1`, `none`
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "none" {
            return Ok(Self { min: 0, max: -1 });
        }
        let (min, max) = match (text.strip_suffix('+'), text.split_once('-')) {
            (Some(min), _) => (min, None),
            (None, Some((min, max))) => (min, Some(max)),
            (None, None) => (text.as_str(), Some(text.as_str())),
        };
        Ok(Self { min: min.parse()?, max: max.map_or(Ok(i16::MAX), str::parse)? })
    }
}

/// The messages of a release, from its jar.
fn messages(release: &str) -> Result<Vec<Message>> {
    let jar = jars::kafka(release)?.join(format!("kafka-clients-{release}.jar"));
    let folder = tempfile::tempdir()?;
    let status = Command::new(process::require("jar", "install a JDK, version 17 or later (`apt install openjdk-17-jdk-headless`)")?)
        .args(["-x", "-f"])
        .arg(&jar)
        .arg("common/message")
        .current_dir(folder.path())
        .status()?;
    ensure!(status.success(), "`jar` cannot open {}", jar.display());
    let mut messages = Vec::new();
    for entry in fs::read_dir(folder.path().join("common/message"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = without_comments(&fs::read_to_string(&path)?);
        // Jackson takes what serde does not: a field that says its versions twice (3.9.1), one brace too many (2.8.2).
        let value = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>().next().context("it is empty")?;
        messages.push(value.and_then(serde_json::from_value).with_context(|| path.display().to_string())?);
    }
    Ok(messages)
}

/// Kafka's JSON has comments.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_text = false;
        let comment = line.char_indices().find(|(at, char)| {
            in_text ^= *char == '"';
            !in_text && line[*at..].starts_with("//")
        });
        out.push_str(comment.map_or(line, |(at, _)| &line[..at]));
        out.push('\n');
    }
    out
}

/// `BrokerId` and `timeoutMs` as the table has them.
fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, char) in name.char_indices() {
        if char.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(char.to_ascii_lowercase());
    }
    out
}
