//! `docs/routes.schema.json`, by which editors complete and check a routes.toml while it is typed: what the keys take is asked of the code, what they
//! mean is read in the reference.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{refused, workspace};
use crate::diagnostic::Diagnostic;
use crate::read::mirrors::{MIRROR, RENAME_REGEX};
use crate::read::{CLUSTER, CREDENTIALS, LISTENER, ROUTE, USER};

/// A table of this kind, with those around it.
fn header(kind: &str) -> String {
    match kind {
        CREDENTIALS => "[[routes]]\n[routes.credentials.a]".to_owned(),
        RENAME_REGEX => "[[mirrors]]\n[[mirrors.rename_regex]]".to_owned(),
        _ => kind.replace("NAME", "a"),
    }
}

/// The errors of a file that has one key, which are about that key's value.
fn told(kind: &str, key: &str, value: &str) -> Vec<Diagnostic> {
    let header = header(kind);
    let before = format!("{header}\n{key} = ");
    let errors = errors(&format!("{before}{value}\n"));
    errors.into_iter().filter(|error| error.span.start >= before.len()).collect()
}

fn errors(text: &str) -> Vec<Diagnostic> {
    refused(text).errors
}

/// What a key takes, as the code says it where a value is wrong.
fn takes(kind: &str, key: &str) -> Value {
    let of_float = told(kind, key, "1.5");
    let [Diagnostic { message, hint: Some(hint), .. }] = &of_float[..] else { panic!("{kind} {key}: {of_float:?}") };
    let expected = message
        .strip_prefix("expected ")
        .and_then(|message| message.strip_suffix(", found a float"))
        .unwrap_or_else(|| panic!("{message}"));
    match expected {
        "true or false" => json!({ "type": "boolean" }),
        "an integer" => {
            let bounds =
                hint.strip_prefix("write a number from ").and_then(|bounds| bounds.split_once(" to ")).unwrap_or_else(|| panic!("{hint}"));
            let [minimum, maximum] = [bounds.0, bounds.1].map(|bound| bound.parse::<u64>().unwrap());
            json!({ "type": "integer", "minimum": minimum, "maximum": maximum })
        }
        "a string" => string(kind, key),
        "a string or an array of strings" => {
            let one = string(kind, key);
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        "an array of tables" => json!({ "type": "array", "items": { "$ref": reference(RENAME_REGEX) } }),
        "a table" if key == "credentials" => json!({ "type": "object", "additionalProperties": { "$ref": reference(CREDENTIALS) } }),
        "a table" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        other => panic!("{kind} {key} takes {other}"),
    }
}

fn string(kind: &str, key: &str) -> Value {
    let of_nonsense = told(kind, key, "\"~\"");
    let named = of_nonsense
        .iter()
        .filter(|error| error.message == "unknown value \"~\"")
        .find_map(|error| error.hint.as_deref()?.strip_prefix("write "));
    match named {
        Some(named) => json!({ "enum": named.split('"').skip(1).step_by(2).collect::<Vec<_>>() }),
        None => json!({ "type": "string", "minLength": 1 }),
    }
}

/// Whether the code says that a table lacks a key.
fn is_missed(kind: &str, key: &str) -> bool {
    errors(&header(kind)).iter().any(|error| error.message.contains(key) || error.hint.as_ref().is_some_and(|hint| hint.contains(key)))
}

fn name(kind: &str) -> String {
    kind.trim_matches(['[', ']']).replace(".NAME", "").replace(".CLUSTER", "")
}

fn reference(kind: &str) -> String {
    format!("#/$defs/{}", name(kind))
}

/// The keys that have this default in the reference.
fn keys_with<'t>(reference: &'t str, kind: &str, default: &'t str) -> impl Iterator<Item = &'t str> {
    rows(reference, kind).filter_map(move |row| {
        let cells: Vec<_> = row.split(" | ").collect();
        (cells[2].trim() == default).then(|| cells[0].trim_matches(['|', ' ', '`']))
    })
}

/// The rows of a table's keys in the reference.
fn rows<'t>(reference: &'t str, kind: &str) -> impl Iterator<Item = &'t str> {
    let section = reference.split("\n## ").find(|section| section.starts_with(&format!("`{kind}`"))).unwrap();
    section.lines().filter(|line| line.starts_with("| `"))
}

/// What the reference says of a key: its meaning without the example, and its default.
fn meaning(reference: &str, kind: &str, key: &str) -> String {
    let row = rows(reference, kind).find(|row| row.starts_with(&format!("| `{key}` |"))).unwrap_or_else(|| panic!("{kind} {key}"));
    let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let [_, _, default, meaning] = cells[..] else { panic!("{row}") };
    // The example is the last piece in backquotes.
    let example = meaning.trim_end_matches('`').rfind('`').unwrap();
    let meaning = meaning[..example].trim();
    let links = regex_automata::meta::Regex::new(r"\[([^\]]+)\]\([^)]+\)").unwrap();
    let mut text = String::new();
    let mut last = 0;
    for found in links.find_iter(meaning) {
        let link = &meaning[found.range()];
        text.push_str(&meaning[last..found.start()]);
        text.push_str(&link[1..link.find("](").unwrap()]);
        last = found.end();
    }
    text.push_str(&meaning[last..]);
    let default = if default == "none" || default == "required" { String::new() } else { format!("Default: {default}.") };
    [text.trim(), &default].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn schema() -> Value {
    let reference_md = std::fs::read_to_string(workspace().join("docs/routes.md")).unwrap();
    let mut definitions = Map::new();
    for (kind, keys) in crate::keys() {
        if kind == "the file" {
            continue;
        }
        let mut properties = Map::new();
        for key in keys {
            let mut property = takes(kind, key);
            property["description"] = meaning(&reference_md, kind, key).into();
            properties.insert(key.to_owned(), property);
        }
        let required: Vec<_> =
            keys_with(&reference_md, kind, "required").inspect(|key| assert!(is_missed(kind, key), "{kind} {key}")).collect();
        definitions
            .insert(name(kind), json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false }));
    }
    let tables = |kind| json!({ "type": "array", "items": { "$ref": reference(kind) } });
    let by_name = |kind| json!({ "type": "object", "additionalProperties": { "$ref": reference(kind) } });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "routes.toml of kferry",
        "description": "Made of the code and of docs/routes.md by a test: config/src/tests/schema.rs",
        "type": "object",
        "properties": {
            "clusters": by_name(CLUSTER),
            "listeners": tables(LISTENER),
            "users": by_name(USER),
            "admin": { "$ref": "#/$defs/admin" },
            "limits": { "$ref": "#/$defs/limits" },
            "routes": tables(ROUTE),
            "mirrors": tables(MIRROR),
            "state": { "$ref": "#/$defs/state" },
            "moves": { "$ref": "#/$defs/moves" },
        },
        "required": ["clusters"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

#[test]
fn the_schema_is_what_the_code_takes() {
    let path = workspace().join("docs/routes.schema.json");
    let rendered = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = rendered.lines().zip(written.lines()).find(|(rendered, written)| rendered != written);
    assert!(
        written == rendered,
        "docs/routes.schema.json is not what the code takes: UPDATE_DOCS=1 cargo test -p kferry-config schema\nthe first line that differs: {differs:#?}"
    );
    let top = crate::keys().remove("the file").unwrap();
    assert_eq!(
        schema()["properties"].as_object().unwrap().keys().collect::<BTreeSet<_>>(),
        top.iter().map(ToString::to_string).collect::<BTreeSet<_>>().iter().collect()
    );
}

#[test]
fn the_schema_takes_the_examples_and_refuses_what_the_code_refuses() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let json = |text: &str| toml::from_str::<Value>(text).unwrap();
    let example = std::fs::read_to_string(workspace().join("routes.toml")).unwrap();
    let on: String = example.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).flat_map(|line| [line, "\n"]).collect();
    for text in [&example, &on] {
        assert!(schema.is_valid(&json(text)), "{:?}", schema.iter_errors(&json(text)).map(|error| error.to_string()).collect::<Vec<_>>());
    }
    for (good, bad) in [
        ("id = 1 ", "id = 16 "),
        ("client_id = \"orders-*\"", "client_id = 7"),
        ("mode = \"relay\"", "mode = \"proxy\""),
        ("topics = [\"invoices\"]", "topics = []"),
        ("security_protocol = \"SASL_SSL\"", "security.protocol = \"SASL_SSL\""),
        ("\"retention.ms\" = \"604800000\"", "\"retention.ms\" = 604800000"),
        ("sasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"billing\"", "sasl_username = \"billing\""),
        ("cluster = \"legacy\"", ""),
    ] {
        let wrong = on.replacen(good, bad, 1);
        assert_ne!(wrong, on, "{good}");
        assert!(!schema.is_valid(&json(&wrong)), "{bad}");
        errors(&wrong);
    }
}
