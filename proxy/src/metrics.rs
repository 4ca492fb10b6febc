//! Every event once: its log line and its metric come from the same place.
//!
//! It knows nothing of the proxy's types, so that everything else may tell it of events. What a connection tells at its end is in `summary.rs`.
//!
//! Label values are bounded: listeners, routes and clusters are names of the file, causes are an enum. A `client.id` is never a label.

use std::time::Duration;

use kferry_config::{CertificateFile, HostPort};
use kferry_wire::operators::Metric;
use kferry_wire::tell;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::debug;

use crate::messages;

const BUILD_INFO: &str = "kferry_proxy_build_info";
const OPEN: &str = "kferry_proxy_connections";
const LIMIT: &str = "kferry_proxy_connections_limit";
const CERTIFICATE: &str = "kferry_proxy_certificate_not_after_timestamp_seconds";
const ACCEPTED: &str = "kferry_proxy_connections_accepted_total";
const ROUTED: &str = "kferry_proxy_connections_routed_total";
const CLOSED: &str = "kferry_proxy_connections_closed_total";
const REQUEST_BYTES: &str = "kferry_proxy_request_bytes_total";
const RESPONSE_BYTES: &str = "kferry_proxy_response_bytes_total";
const CONNECT_SECONDS: &str = "kferry_proxy_broker_connect_seconds";
const SERVER_UP: &str = "kferry_proxy_bootstrap_server_up";
const SERVER_FAILURES: &str = "kferry_proxy_bootstrap_server_failures_total";
const LOGGED_IN_AGAIN: &str = "kferry_proxy_logins_renewed_total";
const OUTSIDE: &str = "kferry_proxy_node_ids_outside_total";
const SEEN: &str = "kferry_proxy_cluster_seen";
const BODY_BYTES: &str = "kferry_proxy_body_bytes_total";
const CARRIED: &str = "kferry_proxy_carried_bytes_total";
const CARRYING: &str = "kferry_proxy_carrying_bytes";
const MOVES_OPEN: &str = "kferry_proxy_moves_open";
const ROUTES_WAITING: &str = "kferry_proxy_routes_waiting";
const PIPES: &str = "kferry_proxy_pipes_in_use";
const PIPES_LIMIT: &str = "kferry_proxy_pipes_limit";
const RELOADS: &str = "kferry_proxy_config_reloads_total";
const RELOAD_OK: &str = "kferry_proxy_config_last_reload_successful";
const LOADED_AT: &str = "kferry_proxy_config_loaded_timestamp_seconds";

/// The values of the label `result` of `kferry_proxy_config_reloads_total`.
pub const RELOAD_RESULTS: [&str; 3] = ["changed", "unchanged", "invalid"];

/// The metrics that go up and down: name, labels and help.
pub const GAUGES: &[Metric] = &[
    (OPEN, &["listener"], "Open client connections, by listener"),
    (SERVER_UP, &["cluster", "server"], "Whether the last attempt at a bootstrap server succeeded"),
    (LIMIT, &[], "Client connections that there may be: max_connections, or what the limit of open files allows"),
    (CERTIFICATE, &["table", "key"], "When the certificates of a file are over, in seconds since 1970, by table and key of routes.toml"),
    (SEEN, &["cluster"], "Whether a cluster that clients see beside another one says what it has"),
    (
        CARRYING,
        &[],
        "Bytes of Produce requests that are carried to a leader on another cluster than the one of their connection, or wait to be",
    ),
    (MOVES_OPEN, &[], "Live moves that are open: what goes to their topics and groups is held; 0 or 1"),
    (ROUTES_WAITING, &[], "Routes that the file moves live and that do not move, or not whole, with a reason in kferry status"),
    (PIPES, &[], "Pipes that have a body on its way"),
    (PIPES_LIMIT, &[], "Pipes that there may be"),
    (RELOAD_OK, &[], "Whether the file as it is now is in force"),
    (LOADED_AT, &[], "When the table in force was loaded"),
    (BUILD_INFO, &["version"], "1; which kferry-proxy this is"),
];

/// The metrics that only grow: name, labels and help.
pub const COUNTERS: &[Metric] = &[
    (ACCEPTED, &["listener"], "Client connections accepted, by listener"),
    (ROUTED, &["route", "cluster"], "Client connections that a route sent to a cluster"),
    (CLOSED, &["cause", "listener"], "Client connections that ended, by cause"),
    (REQUEST_BYTES, &["route", "cluster"], "Bytes from clients to brokers, counted when a connection ends"),
    (RESPONSE_BYTES, &["route", "cluster"], "Bytes from brokers to clients, counted when a connection ends"),
    (SERVER_FAILURES, &["cluster", "server"], "Failed attempts at a bootstrap server"),
    (LOGGED_IN_AGAIN, &["cluster"], "Logins of the proxy that were done again in the middle of a connection, by cluster"),
    (OUTSIDE, &["cluster"], "Brokers seen whose node id is outside of node_ids, by cluster"),
    (BODY_BYTES, &["way"], "Bytes of large bodies that relayed connections have moved, by the way they went"),
    (
        CARRIED,
        &["cluster"],
        "Bytes of batches that were produced for clients at leaders on another cluster than the one of their connection, by that cluster",
    ),
    (RELOADS, &["result"], "Reloads of routes.toml, by result"),
];

/// The metrics of durations: name, labels and help.
pub const HISTOGRAMS: &[Metric] =
    &[(CONNECT_SECONDS, &["cluster"], "From a client's first request to the first byte of a broker's answer")];

/// Sets the process's recorder and says what each metric means.
///
/// # Errors
/// If the process has a recorder already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Full(CONNECT_SECONDS.to_owned()), &SECONDS)?
        .install_recorder()?;
    for (name, _, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, _, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, _, help) in HISTOGRAMS {
        describe_histogram!(*name, *help);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for result in RELOAD_RESULTS {
        counter!(RELOADS, "result" => result).increment(0);
    }
    Ok(handle)
}

/// A connection was accepted; counts it as open until it is dropped.
#[derive(Debug)]
pub(crate) struct Open(metrics::Gauge);

impl Open {
    /// Counts it.
    pub(crate) fn new(listener: &str) -> Self {
        counter!(ACCEPTED, "listener" => listener.to_owned()).increment(1);
        let gauge = gauge!(OPEN, "listener" => listener.to_owned());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A cluster that clients see beside another one has said what it has, or not.
pub(crate) fn seen(cluster: &str, seen: bool) {
    gauge!(SEEN, "cluster" => cluster.to_owned()).set(if seen { 1.0 } else { 0.0 });
}

/// A client was sent to a cluster, and a broker there has answered, `took` after the client's first request was read.
pub(crate) fn routed(route: &str, cluster: &str, took: Duration) {
    counter!(ROUTED, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(1);
    histogram!(CONNECT_SECONDS, "cluster" => cluster.to_owned()).record(took.as_secs_f64());
}

/// A route is in force that sends clients to a cluster. All of them come at once after an edit, and a rate misses what a series begins with.
pub(crate) fn may_route(route: &str, cluster: &str) {
    counter!(ROUTED, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(0);
}

/// Connections of a listener will end, each for one of these causes. An alert on a rate misses the first one of a series that begins with it.
pub(crate) fn may_close(listener: &str, causes: &[&'static str]) {
    for cause in causes {
        counter!(CLOSED, "cause" => *cause, "listener" => listener.to_owned()).increment(0);
    }
}

/// A connection has ended, or was refused.
pub(crate) fn closed(cause: &'static str, listener: &str) {
    counter!(CLOSED, "cause" => cause, "listener" => listener.to_owned()).increment(1);
}

/// Bytes of requests and of responses went through a connection that has ended.
pub(crate) fn moved(route: &str, cluster: &str, requests: u64, responses: u64) {
    counter!(REQUEST_BYTES, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(requests);
    counter!(RESPONSE_BYTES, "route" => route.to_owned(), "cluster" => cluster.to_owned()).increment(responses);
}

/// The proxy has logged in again on a connection whose login was good for a time only.
pub(crate) fn logged_in_again(cluster: &str) {
    counter!(LOGGED_IN_AGAIN, "cluster" => cluster.to_owned()).increment(1);
}

/// A cluster has a broker that has no virtual one.
pub(crate) fn node_id_outside(cluster: &str, node_id: i32) {
    counter!(OUTSIDE, "cluster" => cluster.to_owned()).increment(1);
    tell!(messages::NODE_ID_OUTSIDE, cluster, node_id);
}

/// Batches were appended, or refused, at a leader on a cluster that is not the one of the client's connection.
pub(crate) fn carried(cluster: &str, bytes: usize) {
    counter!(CARRIED, "cluster" => cluster.to_owned()).increment(bytes as u64);
}

/// Somebody asks for the metrics: bytes of frames that are carried now.
pub(crate) fn carrying(bytes: usize) {
    gauge!(CARRYING).set(bytes as f64);
}

/// Somebody asks for the metrics: live moves that are open, and routes that wait for theirs.
pub(crate) fn moves(open: usize, waiting: usize) {
    gauge!(MOVES_OPEN).set(open as f64);
    gauge!(ROUTES_WAITING).set(waiting as f64);
}

/// What is known of the pipes and of the large bodies that relayed connections have moved.
#[derive(Debug)]
pub(crate) struct PipeReadings {
    /// Bytes that the kernel moved through a pipe, since the start.
    pub spliced: u64,
    /// Bytes that were copied for want of a pipe, since the start.
    pub copied: u64,
    /// Bytes that were copied because there is TLS on a side, since the start.
    pub tls: u64,
    /// Pipes that have a body on its way.
    pub in_use: usize,
    /// Pipes that there may be.
    pub limit: usize,
}

/// Somebody asks for the metrics: what the pipes count themselves.
pub(crate) fn pipes(readings: &PipeReadings) {
    let &PipeReadings { spliced, copied, tls, in_use, limit } = readings;
    for (way, bytes) in [("spliced", spliced), ("copied", copied), ("tls", tls)] {
        counter!(BODY_BYTES, "way" => way).absolute(bytes);
    }
    gauge!(PIPES).set(in_use as f64);
    gauge!(PIPES_LIMIT).set(limit as f64);
}

/// Somebody asks for the metrics: how many client connections there may be now.
pub(crate) fn most(connections: usize) {
    gauge!(LIMIT).set(connections as f64);
}

/// Until when the certificates of the table in force are good. Those of the table `before` that are not among them are not a number from here on: a
/// series cannot be taken back, and no comparison with that is true.
pub(crate) fn certificates(before: &[(CertificateFile, i64)], now: &[(CertificateFile, i64)]) {
    let tell = |file: &CertificateFile, value| gauge!(CERTIFICATE, "table" => file.table.clone(), "key" => file.holds.key()).set(value);
    let is_named = |gone: &CertificateFile| now.iter().any(|(file, _)| (&file.table, file.holds) == (&gone.table, gone.holds));
    for (file, _) in before.iter().filter(|(file, _)| !is_named(file)) {
        tell(file, f64::NAN);
    }
    for (file, not_after) in now {
        tell(file, *not_after as f64);
    }
}

/// A bootstrap server was tried. `error`: why it does not count as good.
pub(crate) fn server_tried(cluster: &str, server: &HostPort, error: Option<&str>) {
    let up = gauge!(SERVER_UP, "cluster" => cluster.to_owned(), "server" => server.to_string());
    match error {
        None => up.set(1.0),
        Some(error) => {
            up.set(0.0);
            counter!(SERVER_FAILURES, "cluster" => cluster.to_owned(), "server" => server.to_string()).increment(1);
            debug!(cluster, %server, error, "bootstrap server failed");
        }
    }
}

/// `routes.toml` was loaded at start, or loaded again: the table in force is the one made at `now`.
pub(crate) fn loaded(now: jiff::Timestamp) {
    gauge!(LOADED_AT).set(now.as_millisecond() as f64 / 1000.0);
    gauge!(RELOAD_OK).set(1.0);
}

/// A reload ended: `changed`, `unchanged` or `invalid`.
pub(crate) fn reloaded(result: &'static str) {
    counter!(RELOADS, "result" => result).increment(1);
    gauge!(RELOAD_OK).set(if result == "invalid" { 0.0 } else { 1.0 });
}

#[cfg(test)]
mod tests {
    use kferry_config::Certificates;

    use super::*;

    #[test]
    fn a_certificate_that_the_file_names_no_more_is_not_a_number() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let file = |table: &str, holds| CertificateFile { table: table.to_owned(), holds, path: format!("/{table}.pem").into() };
        let [own, authorities] = [Certificates::Own, Certificates::Authorities].map(|holds| (file("clusters.a", holds), 7));
        metrics::with_local_recorder(&recorder, || {
            certificates(&[], &[own.clone(), authorities.clone()]);
            certificates(&[own.clone(), authorities], &[(own.0, 8)]);
        });
        let text = recorder.handle().render();
        let series = |key: &str, value: &str| format!("{CERTIFICATE}{{table=\"clusters.a\",key=\"{key}\"}} {value}\n");
        assert!(text.contains(&series("ssl_certificate_location", "8")) && text.contains(&series("ssl_ca_location", "NaN")), "{text}");
    }
}
