//! The `client.id` that a library sends when nobody has set one, and what else the same application then sends.
//!
//! `docs/client-ids.md` has each with the place in its library's source.

use std::sync::LazyLock;

use crate::matcher::{ClientMatcher, Ids};

/// How Kafka Streams calls a thread, of which each client's id is made (`StreamThread.create`).
const STREAM_THREAD: &str = "-StreamThread-";

/// What takes the thread's place in the id of its restore consumer since 3.8 (`StreamThread.create`).
const STATE_UPDATER: &str = "-StateUpdater-";

/// What Kafka Streams puts behind a thread's name (`ClientUtils`).
const OF_A_THREAD: [&str; 3] = ["-producer", "-consumer", "-restore-consumer"];

/// What Kafka Connect puts before a connector's name (`Worker`).
const OF_A_CONNECTOR: [&str; 4] = ["connector-producer-", "connector-consumer-", "connector-adminclient-", "connector-dlq-producer-"];

/// The library, framework or program that sends this `client.id` when nobody has set another one. `None`: somebody has, as far as that can be told.
pub fn default_of(client_id: &str) -> Option<&'static str> {
    let exact = match client_id {
        "rdkafka" => "librdkafka",
        "sarama" => "sarama",
        "kgo" => "franz-go",
        "kafkajs" => "kafkajs",
        "ruby-kafka" => "ruby-kafka",
        "karafka" | "waterdrop" => "Karafka",
        "rskafka" => "rskafka",
        "brod_default_client" => "brod",
        "logstash" => "Logstash",
        "Telegraf" => "Telegraf",
        "console-producer" | "console-consumer" | "console-share-consumer" | "GetOffsetShell" => "Kafka's tools",
        _ => "",
    };
    if !exact.is_empty() {
        return Some(exact);
    }
    let number_behind = |prefix: &str| client_id.strip_prefix(prefix).is_some_and(is_number);
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| client_id.starts_with(prefix));
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| client_id.ends_with(suffix));
    let last_is_number = || client_id.rsplit_once('-').is_some_and(|(_, last)| is_number(last));
    if starts(&OF_A_CONNECTOR) || starts(&["connector-dlq-adminclient-"]) {
        Some("Kafka Connect")
    } else if starts(&["connect"]) && ends(&["-offsets", "-configs", "-configs-leader", "-statuses", "-shared-admin"]) {
        // The group.id of the workers, which is `connect-cluster` in the file that comes with Kafka.
        Some("Kafka Connect")
    } else if client_id.strip_prefix("connect-").and_then(|worker| worker.rsplit_once(':')).is_some_and(|(_, port)| is_number(port)) {
        Some("Kafka Connect")
    } else if thread_of(client_id).is_some() || ends(&["-admin", "-global-consumer"]) && application_of(client_id).is_some() {
        Some("Kafka Streams")
    } else if client_id.contains("->") && client_id.contains('|') {
        Some("MirrorMaker 2")
    } else if number_behind("producer-") || number_behind("adminclient-") || starts(&["consumer-"]) && last_is_number() {
        Some("the Java client")
    } else if client_id.contains('@') && ends(&[" (github.com/segmentio/kafka-go)"]) {
        Some("kafka-go")
    } else if starts(&["kafka-python-"]) {
        Some("kafka-python")
    } else if starts(&["aiokafka-"]) {
        Some("aiokafka")
    } else if number_behind("sr-") || starts(&["KafkaStore-reader-"]) {
        Some("Schema Registry")
    } else if starts(&["KafkaSource-"]) && last_is_number() || ends(&["-enumerator-admin-client"]) {
        Some("Flink")
    } else if ends(&["-schemahistory"]) {
        Some("Debezium")
    } else if starts(&["kafka-consumer-", "kafka-producer-"]) {
        Some("SmallRye, Quarkus")
    } else {
        None
    }
}

/// What an application sends that sends one default `client.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Whose ids they are, for a sentence.
    pub library: &'static str,
    /// Other ids that it is likely to send.
    pub others: Vec<String>,
    /// What to write so that all of them go one way.
    pub advice: String,
}

impl Application {
    /// Of a default id with which others go along. `None`: it stands alone, or is no default.
    pub fn of(client_id: &str) -> Option<Self> {
        if let Some((process, suffix)) = thread_of(client_id) {
            let thread = client_id.strip_suffix(suffix)?.replacen(STATE_UPDATER, STREAM_THREAD, 1);
            let updater = thread.replacen(STREAM_THREAD, STATE_UPDATER, 1);
            let of_it = OF_A_THREAD.map(|other| format!("{thread}{other}")).into_iter().chain([format!("{updater}-restore-consumer")]);
            let mut others: Vec<String> = of_it.filter(|other| other != client_id).collect();
            others.extend(["-admin", "-global-consumer"].map(|other| format!("{process}{other}")));
            let name = strip_uuid(process).unwrap_or(process);
            let advice = format!(
                "each of its clients has an id of its own, which begins with its application.id (or its client.id): write that and a star, \
                 like client_id = \"{name}-*\", for all of them"
            );
            return Some(Self { library: "Kafka Streams", others, advice });
        }
        if let Some((kind, connector)) = OF_A_CONNECTOR.iter().find_map(|kind| Some((*kind, client_id.strip_prefix(kind)?))) {
            let others = OF_A_CONNECTOR.iter().filter(|other| **other != kind).map(|other| format!("{other}{connector}")).collect();
            let name = connector.trim_end_matches(|char: char| char.is_ascii_digit()).trim_end_matches('-');
            let behind = if name.is_empty() { "*".to_owned() } else { format!("{name}-*") };
            let advice = format!(
                "write client_id = \"connector-{{producer,consumer,adminclient,dlq-producer}}-{behind}\" for what a connector sends, and give its \
                 workers a client.id, without which some of its admin clients cannot be told by that: docs/client-ids.md"
            );
            return Some(Self { library: "Kafka Connect", others, advice });
        }
        let java = ["consumer-", "producer-", "adminclient-"];
        if default_of(client_id) == Some("the Java client") && java.iter().any(|kind| client_id.starts_with(kind)) {
            let others = ["producer-1", "adminclient-1"].into_iter().filter(|other| !client_id.starts_with(&other[..other.len() - 1]));
            let advice =
                "what a Java application sends without a client.id is numbered in each process, and is the same in all applications: \
                          give this one a client.id, in its consumers, producers and admin clients, and write that here"
                    .to_owned();
            return Some(Self { library: "the Java client", others: others.map(str::to_owned).collect(), advice });
        }
        None
    }
}

/// The process and the suffix of a Kafka Streams thread's client: `APP-UUID` and `-producer`. With transactions of each task
/// (`exactly_once`, before 4.0) a task's name is before `-producer`.
fn thread_of(client_id: &str) -> Option<(&str, &'static str)> {
    let (process, rest) = client_id.split_once(STREAM_THREAD).or_else(|| client_id.split_once(STATE_UPDATER))?;
    // `-consumer` is the end of `-restore-consumer` too.
    let suffix = *OF_A_THREAD.iter().rev().find(|suffix| rest.ends_with(**suffix))?;
    rest.starts_with(|char: char| char.is_ascii_digit()).then_some((process, suffix))
}

/// The `application.id` of a Kafka Streams client that belongs to no thread: `APP-UUID-admin`.
fn application_of(client_id: &str) -> Option<&str> {
    let process = client_id.strip_suffix("-admin").or_else(|| client_id.strip_suffix("-global-consumer"))?;
    strip_uuid(process)
}

fn strip_uuid(text: &str) -> Option<&str> {
    let at = text.len().checked_sub(36)?;
    let (name, uuid) = (text.get(..at)?, text.get(at..)?);
    let is_uuid = uuid.char_indices().all(|(at, char)| if matches!(at, 8 | 13 | 18 | 23) { char == '-' } else { char.is_ascii_hexdigit() });
    name.strip_suffix('-').filter(|_| is_uuid)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A default id for whose application a route was written, though it may not take all of it.
pub(crate) fn meant_by(clients: &ClientMatcher) -> Option<String> {
    // Whoever writes a pattern for these alone has seen them somewhere.
    static WRITTEN: LazyLock<[Ids; 4]> =
        LazyLock::new(|| ["(?s)consumer-.*", "producer-[0-9]+", "adminclient-[0-9]+", "(?s)connector-.*"].map(known));
    // A pattern like `*-producer` may be meant for others, and takes these all the same. Any of a thread's ids will do: it tells of the others.
    static THREAD: LazyLock<Ids> = LazyLock::new(|| {
        let suffixes = OF_A_THREAD.join("|");
        known(&format!("[A-Za-z][0-9A-Za-z._-]*{STREAM_THREAD}[1-9][0-9]*({suffixes})"))
    });
    if WRITTEN.iter().any(|ids| clients.is_within(ids)) {
        let shortest = clients.shortest_id();
        // `consumer-orders-*` takes `consumer-orders-1`.
        let numbered = format!("{shortest}1");
        return [shortest, numbered].into_iter().find(|id| clients.has_id(id) && Application::of(id).is_some());
    }
    clients.first_id_in(&THREAD)
}

fn known(regex: &str) -> Ids {
    Ids::regex(regex).expect("it is small and right")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

    #[test]
    fn ids_that_nobody_has_set_tell_whose_they_are() {
        let streams = |behind: &str| format!("billing-{UUID}{behind}");
        let cases = [
            ("rdkafka".to_owned(), "librdkafka"),
            ("sarama".to_owned(), "sarama"),
            ("producer-1".to_owned(), "the Java client"),
            ("consumer-3".to_owned(), "the Java client"),
            ("consumer-orders-1".to_owned(), "the Java client"),
            ("consumer-null-12".to_owned(), "the Java client"),
            ("adminclient-1".to_owned(), "the Java client"),
            ("connector-producer-jdbc-0".to_owned(), "Kafka Connect"),
            ("connector-dlq-adminclient-".to_owned(), "Kafka Connect"),
            ("connect-cluster-1-offsets".to_owned(), "Kafka Connect"),
            ("connect-10.1.2.3:8083".to_owned(), "Kafka Connect"),
            (streams("-StreamThread-1-producer"), "Kafka Streams"),
            (streams("-StreamThread-12-restore-consumer"), "Kafka Streams"),
            (streams("-StreamThread-1-0_3-producer"), "Kafka Streams"),
            (streams("-StateUpdater-1-restore-consumer"), "Kafka Streams"),
            (streams("-admin"), "Kafka Streams"),
            ("old->new|MirrorSourceConnector-0|replication-consumer".to_owned(), "MirrorMaker 2"),
            ("kgo".to_owned(), "franz-go"),
            ("orders@host (github.com/segmentio/kafka-go)".to_owned(), "kafka-go"),
            ("kafkajs".to_owned(), "kafkajs"),
            ("kafka-python-2.0.2".to_owned(), "kafka-python"),
            ("aiokafka-producer-1".to_owned(), "aiokafka"),
            ("sr-1".to_owned(), "Schema Registry"),
            ("KafkaStore-reader-_schemas".to_owned(), "Schema Registry"),
            ("KafkaSource--8812345-3".to_owned(), "Flink"),
            ("inventory-schemahistory".to_owned(), "Debezium"),
            ("console-consumer".to_owned(), "Kafka's tools"),
        ];
        for (client_id, library) in cases {
            assert_eq!(default_of(&client_id), Some(library), "{client_id}");
        }
        let chosen = [
            "",
            "orders",
            "orders-1",
            "producer-orders",
            "consumer-orders",
            "orders-admin",
            "orders-StreamThread-x-producer",
            "connect-orders",
            "rdkafka-1",
            "Rdkafka",
            "my-sarama",
            "sr-",
            "orders-offsets",
            "producer-",
        ];
        for client_id in chosen {
            assert_eq!(default_of(client_id), None, "{client_id}");
        }
    }

    #[test]
    fn an_application_is_known_by_one_of_its_ids() {
        let process = format!("billing-{UUID}");
        let streams = Application::of(&format!("{process}-StreamThread-2-consumer")).expect("it is one");
        let others = [
            "-StreamThread-2-producer",
            "-StreamThread-2-restore-consumer",
            "-StateUpdater-2-restore-consumer",
            "-admin",
            "-global-consumer",
        ];
        assert_eq!(streams.others, others.map(|behind| format!("{process}{behind}")));
        let updater = Application::of(&format!("{process}-StateUpdater-2-restore-consumer")).expect("it is one");
        assert!(updater.others.contains(&format!("{process}-StreamThread-2-consumer")), "{updater:?}");
        assert!(streams.advice.contains("client_id = \"billing-*\""), "{}", streams.advice);

        let connector = Application::of("connector-consumer-jdbc-sink-3").expect("it is one");
        assert_eq!(
            connector.others,
            ["connector-producer-jdbc-sink-3", "connector-adminclient-jdbc-sink-3", "connector-dlq-producer-jdbc-sink-3"]
        );
        assert!(connector.advice.contains("dlq-producer}-jdbc-sink-*"), "{}", connector.advice);

        let java = |client_id: &str| Application::of(client_id).map(|application| application.others);
        assert_eq!(java("consumer-orders-1"), Some(vec!["producer-1".to_owned(), "adminclient-1".to_owned()]));
        assert_eq!(java("producer-7"), Some(vec!["adminclient-1".to_owned()]));
        for alone in ["rdkafka", "sarama", "orders-1", "", "sr-1"] {
            assert_eq!(java(alone), None, "{alone}");
        }
    }

    #[test]
    fn a_pattern_is_meant_for_an_application_if_it_was_written_for_its_ids_or_takes_a_stream_thread() {
        let glob = |pattern: &str| meant_by(&ClientMatcher::new(Ids::glob(pattern).unwrap(), None, None));
        assert_eq!(glob("consumer-orders-1").as_deref(), Some("consumer-orders-1"));
        assert_eq!(glob("consumer-orders-*").as_deref(), Some("consumer-orders-1"));
        assert_eq!(glob("producer-1").as_deref(), Some("producer-1"));
        assert_eq!(glob("connector-producer-*").as_deref(), Some("connector-producer-"));
        assert_eq!(glob("*-producer").as_deref(), Some("A-StreamThread-1-producer"));
        assert_eq!(glob("billing-*-consumer").as_deref(), Some("billing-StreamThread-1-consumer"));
        for other in ["producer-orders", "orders", "rdkafka", "consumer-orders", ""] {
            assert_eq!(glob(other), None, "{other}");
        }
    }
}
