//! Which clients the running proxy has seen, and which of them this file would send to another cluster.

use std::collections::HashSet;
use std::net::IpAddr;

use kferry_config::{Application, Config, default_of};
use serde::Serialize;

use super::{count, printable};
use crate::clients::{Answer, Row};
use crate::http::reachable;

/// Lines for people; `--json` has them all.
const SHOWN: usize = 30;

/// What the proxy said.
#[derive(Serialize)]
pub(super) struct Clients {
    /// Why there is nothing: the proxy does not run, or not here.
    note: Option<String>,
    seen: usize,
    moves: Vec<Move>,
    /// Those that may stay with the brokers of their cluster when all of them are dead.
    stays: Vec<Seen>,
    /// Those whose `client.id` nobody has set.
    defaults: Vec<Unnamed>,
    /// Those whose application this file may split.
    splits: Vec<Split>,
}

/// A client, as a sentence names it.
#[derive(Debug, Clone, Serialize)]
struct Seen {
    client_id: String,
    software_name: Option<String>,
    software_version: Option<String>,
    address: IpAddr,
}

/// A client that this file sends elsewhere.
#[derive(Debug, Serialize)]
struct Move {
    #[serde(flatten)]
    client: Seen,
    /// Where its latest connection went, `null` if it was refused.
    from: Option<String>,
    /// Where its next one goes, `null` if no route matches.
    to: Option<String>,
    /// By which route.
    route: Option<String>,
}

/// A client whose `client.id` nobody has set.
#[derive(Debug, Serialize)]
struct Unnamed {
    #[serde(flatten)]
    client: Seen,
    /// Whose default it is.
    default_of: &'static str,
}

/// A client that goes to one cluster, while another id of its application goes to another one.
#[derive(Debug, Serialize)]
struct Split {
    #[serde(flatten)]
    client: Seen,
    to: String,
    /// What the same application may send as well.
    other: String,
    /// Where that goes, `null` if no route matches.
    other_to: Option<String>,
    /// What to write.
    advice: String,
}

impl Clients {
    pub(super) async fn ask(config: &Config) -> Self {
        let address = reachable(config.admin.bind);
        match Answer::ask(&address.to_string()).await {
            Ok(answer) => Self::judge(config, answer),
            Err(reason) => {
                let note = format!("no proxy at http://{address} ([admin] bind), so which clients would move is not known: {reason}");
                Self { note: Some(note), seen: 0, moves: Vec::new(), stays: Vec::new(), defaults: Vec::new(), splits: Vec::new() }
            }
        }
    }

    fn judge(config: &Config, answer: Answer) -> Self {
        // A client that has been on several clusters has a row for each, the latest first.
        let mut latest = HashSet::new();
        let rows: Vec<Row> = answer.clients.into_iter().filter(|row| latest.insert((row.client_id.clone(), row.address))).collect();
        let stays = rows.iter().filter(|row| row.stays_with_dead_brokers).map(Row::client).collect();
        let moves = rows.iter().filter_map(|row| Move::of(config, row)).collect();
        let defaults =
            rows.iter().filter_map(|row| Some(Unnamed { client: row.client(), default_of: default_of(&row.client_id)? })).collect();
        let splits = rows.iter().filter_map(|row| Split::of(config, row)).collect();
        Self { note: None, seen: rows.len(), moves, stays, defaults, splits }
    }

    /// For people. `admin` is where the proxy was looked for.
    pub(super) fn text(&self, admin: &str) -> String {
        if let Some(note) = &self.note {
            return format!("note: {}\n", printable(note));
        }
        let seen = count(self.seen, "client");
        let mut parts = if self.moves.is_empty() {
            vec![format!("the proxy at {admin} has seen {seen}, and this file changes the cluster of none\n")]
        } else {
            let changes = format!(
                "the proxy at {admin} has seen {seen}, and this file changes the cluster of {}, each when it next connects.\n\
                 If one produces, stop all of its instances before the edit and start them after it:\n",
                self.moves.len()
            );
            vec![changes, shown(&self.moves, Move::text)]
        };
        if !self.stays.is_empty() {
            parts.push(format!(
                "{} in bootstrap mode with librdkafka 2.4 to 2.9, which may stay with the brokers of a cluster when all of them are dead.\n\
                 Send these elsewhere while their brokers live and restart them, or relay them (mode = \"relay\"):\n",
                count(self.stays.len(), "client")
            ));
            parts.push(shown(&self.stays, Seen::text));
        }
        if !self.defaults.is_empty() {
            parts.push(format!(
                "{} with an id that nobody has set: others with the same library have it too. Give each application a client.id of its own; \
                 docs/client-ids.md has what each library sends:\n",
                count(self.defaults.len(), "client")
            ));
            parts.push(shown(&self.defaults, |unnamed| format!("{}: the default of {}", unnamed.client.text(), unnamed.default_of)));
        }
        if !self.splits.is_empty() {
            parts.push(format!("{} whose application this file may split:\n", count(self.splits.len(), "client")));
            parts.push(shown(&self.splits, Split::text));
        }
        parts.concat()
    }
}

/// Lines of a list, as many as are shown.
fn shown<T>(all: &[T], text: impl Fn(&T) -> String) -> String {
    let mut lines: Vec<String> = all.iter().take(SHOWN).map(|one| format!("  {}\n", printable(&text(one)))).collect();
    if let Some(more) = all.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        lines.push(format!("  and {more} more (--json lists them all)\n"));
    }
    lines.concat()
}

impl Row {
    fn client(&self) -> Seen {
        Seen {
            client_id: self.client_id.clone(),
            software_name: self.software_name.clone(),
            software_version: self.software_version.clone(),
            address: self.address,
        }
    }
}

impl Seen {
    /// `orders-7 (apache-kafka-java 4.3.0, 10.1.2.3)`
    fn text(&self) -> String {
        let name = if self.client_id.is_empty() { "without client.id" } else { &self.client_id };
        let software: Vec<&str> = [&self.software_name, &self.software_version].into_iter().flatten().map(String::as_str).collect();
        let software = if software.is_empty() { String::new() } else { format!("{}, ", software.join(" ")) };
        format!("{name} ({software}{})", self.address)
    }
}

impl Move {
    fn of(config: &Config, row: &Row) -> Option<Self> {
        let route = config.route(&row.client_id, row.address, row.tls_subject.as_deref());
        let to = route.map(|route| route.cluster.name.to_string());
        if to == row.cluster {
            return None;
        }
        Some(Self { client: row.client(), from: row.cluster.clone(), to, route: route.map(|route| route.name.to_string()) })
    }

    /// `orders-7 (apache-kafka-java 4.3.0, 10.1.2.3): legacy -> new by the route orders`
    fn text(&self) -> String {
        let cluster = |name: &Option<String>| name.clone().unwrap_or_else(|| "refused".to_owned());
        let by = self.route.as_ref().map_or_else(|| ", as no route matches".to_owned(), |route| format!(" by the route {route}"));
        format!("{}: {} -> {}{by}", self.client.text(), cluster(&self.from), cluster(&self.to))
    }
}

impl Split {
    fn of(config: &Config, row: &Row) -> Option<Self> {
        let cluster = |client_id: &str| {
            let route = config.route(client_id, row.address, row.tls_subject.as_deref());
            route.map(|route| route.cluster.name.to_string())
        };
        let (application, to) = (Application::of(&row.client_id)?, cluster(&row.client_id)?);
        let (other, other_to) = application.others.into_iter().find_map(|other| {
            let other_to = cluster(&other);
            (other_to.as_ref() != Some(&to)).then_some((other, other_to))
        })?;
        Some(Self { client: row.client(), to, other, other_to, advice: application.advice })
    }

    fn text(&self) -> String {
        let Self { client, to, other, other_to, advice } = self;
        let other_to = other_to.as_ref().map_or_else(|| "is refused".to_owned(), |cluster| format!("goes to {cluster}"));
        format!("{} goes to {to}, and {other} {other_to}: {advice}", client.text())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::two_clusters;
    use super::*;
    use std::collections::BTreeSet;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const ANSWER: &str = r#"{"clients":[
        {"client_id":"orders-7","software_name":"apache-kafka-java","software_version":"4.3.0","address":"10.1.2.3","listener":"internal",
         "route":"orders","cluster":"legacy","since":"2026-01-01T00:00:00Z","last_connected":"2026-01-02T00:00:00Z","connections":2},
        {"client_id":"orders-7","software_name":"apache-kafka-java","software_version":"4.3.0","address":"10.1.2.3","listener":"internal",
         "route":"orders","cluster":"new","since":"2025-01-01T00:00:00Z","last_connected":"2025-01-02T00:00:00Z","connections":0},
        {"client_id":"orders-8","software_name":null,"software_version":null,"address":"10.1.2.4","listener":"internal",
         "route":"orders","cluster":"new","since":"2026-01-01T00:00:00Z","last_connected":"2026-01-02T00:00:00Z","connections":1},
        {"client_id":"","software_name":null,"software_version":null,"address":"10.1.2.5","listener":"internal",
         "route":"all","cluster":"legacy","since":"2026-01-01T00:00:00Z","last_connected":"2026-01-02T00:00:00Z","connections":1},
        {"client_id":"stranger","software_name":null,"software_version":null,"address":"10.1.2.6","listener":"internal",
         "route":null,"cluster":null,"since":"2026-01-01T00:00:00Z","last_connected":"2026-01-02T00:00:00Z","connections":0}]}"#;

    fn config() -> Config {
        two_clusters(&[("orders", "new"), ("billing", "legacy")])
    }

    #[test]
    fn clients_whose_latest_cluster_changes_are_listed_with_the_route_that_does_it() {
        let clients = Clients::judge(&config(), serde_json::from_str(ANSWER).unwrap());
        assert_eq!(
            clients.text("127.0.0.1:9190"),
            "the proxy at 127.0.0.1:9190 has seen 4 clients, and this file changes the cluster of 2, each when it next connects.\n\
             If one produces, stop all of its instances before the edit and start them after it:\n  \
             orders-7 (apache-kafka-java 4.3.0, 10.1.2.3): legacy -> new by the route orders\n  \
             without client.id (10.1.2.5): legacy -> refused, as no route matches\n"
        );
    }

    #[test]
    fn many_moves_are_counted_and_not_all_shown() {
        let row = |n: u8| Row {
            client_id: format!("orders-{n}\n"),
            software_name: None,
            software_version: None,
            address: IpAddr::from([10, 0, 0, n]),
            tls_subject: None,
            cluster: Some("legacy".to_owned()),
            stays_with_dead_brokers: false,
            topics_produced: BTreeSet::new(),
            groups_joined: BTreeSet::new(),
        };
        let clients = Clients::judge(&config(), Answer { clients: (0..40).map(row).collect() });
        let text = clients.text("127.0.0.1:9190");
        assert!(
            text.contains("orders-29\u{fffd}") && !text.contains("orders-30") && text.ends_with("and 10 more (--json lists them all)\n"),
            "{text}"
        );
        assert_eq!(clients.moves.len(), 40);
    }

    #[test]
    fn clients_that_may_stay_with_dead_brokers_are_listed() {
        let old = r#"{"client_id":"orders-9","software_name":"librdkafka","software_version":"2.6.1","address":"10.1.2.7","cluster":"new",
            "stays_with_dead_brokers":true}"#;
        let answer = format!("{}, {old}]}}", ANSWER.trim_end_matches("]}"));
        let clients = Clients::judge(&config(), serde_json::from_str(&answer).unwrap());
        let text = clients.text("127.0.0.1:9190");
        assert!(
            text.ends_with(
                "1 client in bootstrap mode with librdkafka 2.4 to 2.9, which may stay with the brokers of a cluster when all of them are dead.\n\
                 Send these elsewhere while their brokers live and restart them, or relay them (mode = \"relay\"):\n  \
                 orders-9 (librdkafka 2.6.1, 10.1.2.7)\n"
            ),
            "{text}"
        );
        assert!(!Clients::judge(&config(), serde_json::from_str(ANSWER).unwrap()).text("").contains("librdkafka"));
    }

    #[test]
    fn clients_without_an_id_of_their_own_are_listed_and_what_splits_their_application() {
        let row = |client_id: &str| {
            let address = r#""software_name":null,"software_version":null,"address":"10.1.2.3","cluster":"legacy""#;
            format!(r#"{{"client_id":"{client_id}",{address}}}"#)
        };
        let rows = ["billing", "rdkafka", "orders-7-StreamThread-1-consumer", "consumer-billing-1"].map(row);
        let config = two_clusters(&[("orders", "new"), ("consumer-", "new"), ("billing", "legacy")]);
        let clients = Clients::judge(&config, serde_json::from_str(&format!(r#"{{"clients":[{}]}}"#, rows.join(","))).unwrap());
        let defaults: Vec<_> = clients.defaults.iter().map(|unnamed| (unnamed.client.client_id.as_str(), unnamed.default_of)).collect();
        let expected =
            [("rdkafka", "librdkafka"), ("orders-7-StreamThread-1-consumer", "Kafka Streams"), ("consumer-billing-1", "the Java client")];
        assert_eq!(defaults, expected);
        let text = clients.text("127.0.0.1:9190");
        assert!(
            text.contains("3 clients with an id that nobody has set") && text.contains("  rdkafka (10.1.2.3): the default of librdkafka\n")
        );
        // All of `orders-*` goes one way.
        assert!(
            text.contains(
                "1 client whose application this file may split:\n  consumer-billing-1 (10.1.2.3) goes to new, and producer-1 is refused: "
            ),
            "{text}"
        );
    }

    #[test]
    fn nothing_moves_when_nothing_changes() {
        let mut seen: Answer = serde_json::from_str(ANSWER).unwrap();
        seen.clients.retain(|row| row.client_id == "orders-8" || row.client_id == "stranger");
        let clients = Clients::judge(&config(), seen);
        assert_eq!(
            clients.text("127.0.0.1:9190"),
            "the proxy at 127.0.0.1:9190 has seen 2 clients, and this file changes the cluster of none\n"
        );
    }

    #[test]
    fn a_proxy_on_all_addresses_is_asked_on_this_machine() {
        let at = |bind: &str| reachable(bind.parse().unwrap()).to_string();
        assert_eq!([at("0.0.0.0:1"), at("[::]:2"), at("10.1.2.3:3")], ["127.0.0.1:1", "[::1]:2", "10.1.2.3:3"]);
    }

    #[tokio::test]
    async fn the_proxy_is_asked_over_http_and_its_absence_is_only_a_note() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config();
        config.admin.bind = listener.local_addr().unwrap();
        let answers = [
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len()),
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_owned(),
            String::new(),
        ];
        let proxy = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 12];
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(&request, b"GET /clients");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            drop(listener);
        };
        let asked = async {
            let mut asked = Vec::new();
            for _ in 0..4 {
                asked.push(Clients::ask(&config).await);
            }
            asked
        };
        let (asked, ()) = tokio::join!(asked, proxy);
        assert_eq!((asked[0].seen, asked[0].moves.len()), (4, 2));
        for (clients, says) in asked[1..].iter().zip(["404", "not /clients of a proxy", "connection"]) {
            let text = clients.text("");
            assert!(text.starts_with("note: no proxy at http://127.0.0.1:") && text.contains(says), "{text}");
        }
        assert!(Clients::ask(&config).await.note.is_some());
    }
}
