//! Who is and was connected.
//!
//! A client in bootstrap mode leaves the proxy after its handshake, so what counts for an operator is not only who is connected now, but where
//! the connections of a `client.id` went, and when: one row for each client, address and cluster, kept after the connection has ended, and
//! bounded in number.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
#[cfg(doc)]
use kferry_wire::header::Software;
use serde::Serialize;

/// Rows that are kept at most. Beyond it the one that connected longest ago goes, open ones last.
pub(crate) const MAX_ROWS: usize = 10_000;

/// Topics, and groups, that are kept of a row.
const MAX_SEEN: usize = 50;

/// Bytes of a name that came from a client which are kept. Kafka allows a `client.id` of 32 KiB.
pub(crate) const MAX_NAME: usize = 256;

/// What makes a row.
#[expect(clippy::struct_field_names, reason = "client_id is Kafka's name for it")]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Client {
    /// `client.id`, empty where it has none.
    pub client_id: String,
    /// From ApiVersions v3 on.
    pub software_name: Option<String>,
    /// From ApiVersions v3 on.
    pub software_version: Option<String>,
    /// Its address, without the port.
    pub address: IpAddr,
    /// The subject of its certificate, if it has shown one.
    pub tls_subject: Option<String>,
    /// The listener it came to.
    pub listener: Arc<str>,
    /// `None`: no route matched, it was refused.
    pub route: Option<Arc<str>>,
    /// The cluster of that route.
    pub cluster: Option<Arc<str>>,
    /// It is in bootstrap mode, and may stay with its brokers when all of them are dead ([`Software::stays_with_dead_brokers`]).
    pub stays_with_dead_brokers: bool,
}

impl Client {
    /// Cuts what a client said about itself to a length that is fit to be kept.
    pub(crate) fn name(text: &str) -> String {
        text[..text.floor_char_boundary(MAX_NAME)].to_owned()
    }
}

/// A row of `/clients`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// Who and where to.
    #[serde(flatten)]
    pub client: Client,
    /// Whose default its `client.id` is, if nobody has set it.
    pub default_of: Option<&'static str>,
    /// Its first connection.
    pub since: Timestamp,
    /// Its latest connection.
    pub last_connected: Timestamp,
    /// Open now.
    pub connections: usize,
    /// What it was seen to use.
    #[serde(flatten)]
    pub used: Used,
}

/// What the relayed connections of a row were seen to use, where clients see a view of several clusters: the first 50 of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Used {
    /// Topics that it has produced to.
    pub topics_produced: BTreeSet<String>,
    /// Groups that it has been a member of.
    pub groups_joined: BTreeSet<String>,
    /// What was produced for it at leaders on another cluster than the one of its connection, because it had not asked yet where its topics lead, or does not
    /// ask.
    pub carried: Option<Carried>,
}

/// What was carried for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Carried {
    /// Bytes of batches.
    pub bytes: u64,
    /// The first time.
    pub since: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

/// Shared by the connections of a row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Used>>);

impl Seen {
    /// A client has produced to a topic.
    pub(crate) fn produced(&self, topic: &str) {
        keep(&mut self.used().topics_produced, topic);
    }

    /// A client has joined a group.
    pub(crate) fn joined(&self, group: &str) {
        keep(&mut self.used().groups_joined, group);
    }

    /// So many bytes of its batches are carried.
    pub(crate) fn carried(&self, bytes: usize, now: Timestamp) {
        let mut used = self.used();
        let carried = used.carried.get_or_insert(Carried { bytes: 0, since: now, last: now });
        (carried.bytes, carried.last) = (carried.bytes + bytes as u64, now);
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(names: &mut BTreeSet<String>, name: &str) {
    if names.len() < MAX_SEEN && !names.contains(name) {
        names.insert(Client::name(name));
    }
}

#[derive(Debug, Clone)]
struct Times {
    since: Timestamp,
    last_connected: Timestamp,
    connections: usize,
    seen: Seen,
}

/// All rows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clients(Arc<Mutex<HashMap<Arc<Client>, Times>>>);

impl Clients {
    /// Counts a connection until what is returned is dropped.
    pub(crate) fn connected(&self, client: Client, now: Timestamp) -> Connected {
        let client = Arc::new(client);
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() >= MAX_ROWS && !rows.contains_key(&client) {
            // Only a proxy with ten thousand clients comes here, once for each new one.
            let oldest = rows.iter().min_by_key(|(_, times)| (times.connections > 0, times.last_connected));
            if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
                rows.remove(&oldest);
            }
        }
        let times =
            rows.entry(client.clone()).or_insert_with(|| Times { since: now, last_connected: now, connections: 0, seen: Seen::default() });
        times.last_connected = now;
        times.connections += 1;
        let seen = times.seen.clone();
        Connected { clients: self.clone(), client, seen }
    }

    /// Every row, by `client.id`, then the latest first.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<Row> = rows
            .iter()
            .map(|(client, times)| Row {
                client: Client::clone(client),
                default_of: kferry_config::default_of(&client.client_id),
                since: times.since,
                last_connected: times.last_connected,
                connections: times.connections,
                used: times.seen.used().clone(),
            })
            .collect();
        rows.sort_by(|a, b| (&a.client.client_id, b.last_connected).cmp(&(&b.client.client_id, a.last_connected)));
        rows
    }
}

/// An open connection of a row.
#[derive(Debug)]
pub(crate) struct Connected {
    clients: Clients,
    client: Arc<Client>,
    seen: Seen,
}

impl Connected {
    /// Where to tell what it uses.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whose connection it is.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut rows = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = rows.get_mut(&self.client) {
            times.connections = times.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str, cluster: &str) -> Client {
        Client {
            client_id: id.to_owned(),
            software_name: None,
            software_version: None,
            address: IpAddr::from([127, 0, 0, 1]),
            tls_subject: None,
            listener: "internal".into(),
            route: Some("all".into()),
            cluster: Some(cluster.into()),
            stays_with_dead_brokers: false,
        }
    }

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(n).unwrap()
    }

    #[test]
    fn a_client_that_went_to_two_clusters_has_two_rows_that_outlive_its_connections() {
        let clients = Clients::default();
        let old = clients.connected(client("orders-1", "legacy"), second(1));
        let again = clients.connected(client("orders-1", "legacy"), second(2));
        drop((old, again));
        let new = clients.connected(client("orders-1", "new"), second(3));
        let told: Vec<_> =
            clients.rows().into_iter().map(|row| (row.client.cluster.unwrap(), row.since, row.last_connected, row.connections)).collect();
        assert_eq!(told, [("new".into(), second(3), second(3), 1), ("legacy".into(), second(1), second(2), 0)]);
        drop(new);
    }

    #[test]
    fn rows_are_bounded_and_open_ones_stay() {
        let clients = Clients::default();
        let open = clients.connected(client("first", "legacy"), second(0));
        for n in 0..MAX_ROWS as i64 + 5 {
            drop(clients.connected(client(&format!("c{n}"), "legacy"), second(n + 1)));
        }
        let rows = clients.rows();
        assert_eq!(rows.len(), MAX_ROWS);
        assert!(rows.iter().any(|row| row.client.client_id == "first"));
        assert!(!rows.iter().any(|row| row.client.client_id == "c0"));
        drop(open);
    }

    #[test]
    fn what_a_client_uses_is_kept_for_its_row_and_bounded() {
        let clients = Clients::default();
        let (one, other) = (clients.connected(client("a", "new"), second(1)), clients.connected(client("b", "new"), second(1)));
        drop(clients.connected(client("a", "new"), second(2)));
        for n in 0..MAX_SEEN + 5 {
            one.seen().produced(&format!("topic-{n:03}"));
            one.seen().produced("topic-000");
        }
        other.seen().joined("shop");
        drop((one, other));
        let rows = clients.rows();
        assert_eq!((rows[0].used.topics_produced.len(), rows[0].used.groups_joined.len()), (MAX_SEEN, 0));
        assert_eq!(rows[1].used.groups_joined, BTreeSet::from(["shop".to_owned()]));
    }

    #[test]
    fn a_long_name_is_cut_between_two_characters() {
        assert_eq!(Client::name(&"가".repeat(1000)).len(), 255);
    }
}
