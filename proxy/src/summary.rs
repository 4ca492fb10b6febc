//! What is known of a connection, gathered while it is open, and told at its end: one log line, and the metrics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kferry_config::HostPort;
use kferry_wire::tell;

use crate::clients::Connected;
use crate::ending::{Cause, Moved};
use crate::messages;
use crate::metrics;

/// What is known of a connection so far.
#[derive(Debug)]
pub(crate) struct ConnectionSummary {
    listener: Arc<str>,
    /// The client.
    peer: SocketAddr,
    /// The load balancer that the client came by.
    load_balancer: Option<SocketAddr>,
    /// Who the client is and where it was routed. `None` until its first request has been read.
    pub client: Option<Connected>,
    /// The user as whom the client logged in at the proxy, on routes with `sasl_users`.
    pub sasl_user: Option<Arc<str>>,
    /// The broker or bootstrap server that the client is connected to.
    pub server: Option<HostPort>,
    /// Bytes that went through.
    pub moved: Moved,
}

impl ConnectionSummary {
    /// Of a connection from `peer` that a listener has just accepted.
    pub(crate) fn new(listener: &Arc<str>, peer: SocketAddr) -> Self {
        Self { listener: listener.clone(), peer, load_balancer: None, client: None, sasl_user: None, server: None, moved: Moved::default() }
    }

    /// The connection is a load balancer's, which has said that it is for this client.
    pub(crate) fn came_by(&mut self, load_balancer: SocketAddr, client: SocketAddr) {
        self.load_balancer = Some(load_balancer);
        self.peer = client;
    }

    /// The connection has ended, after it was open for `open_for`: writes its log line and moves its metrics.
    pub(crate) fn closed(&self, cause: &Cause, open_for: Duration, bursts: &Bursts) {
        let label = cause.label();
        metrics::closed(label, &self.listener);
        let client = self.client.as_ref().map(Connected::client);
        let route = client.and_then(|client| client.route.as_deref()).unwrap_or_default();
        let cluster = client.and_then(|client| client.cluster.as_deref()).unwrap_or_default();
        if self.moved != Moved::default() {
            metrics::moved(route, cluster, self.moved.requests, self.moved.responses);
        }
        let Some(left_out) = bursts.allow(label, Instant::now()) else { return };
        macro_rules! closed {
            ($message:ident) => {
                tell!(
                    messages::$message,
                    cause = label,
                    detail = cause.detail(),
                    // Debug: a client chooses its own name, and may choose one with line breaks.
                    client_id = client.map(|client| client.client_id.as_str()),
                    software = client.and_then(|client| client.software_name.as_deref()),
                    software_version = client.and_then(|client| client.software_version.as_deref()),
                    tls_subject = client.and_then(|client| client.tls_subject.as_deref()),
                    sasl_user = self.sasl_user.as_deref(),
                    peer = %self.peer,
                    load_balancer = self.load_balancer.as_ref().map(tracing::field::display),
                    listener = &*self.listener,
                    route,
                    cluster,
                    server = self.server.as_ref().map(tracing::field::display),
                    request_bytes = self.moved.requests,
                    response_bytes = self.moved.responses,
                    seconds = (open_for.as_secs_f64() * 1000.0).round() / 1000.0,
                    more_not_logged = (left_out > 0).then_some(left_out)
                )
            };
        }
        match cause {
            Cause::NoRequest => closed!(CLOSED_WITHOUT_A_WORD),
            cause if cause.is_trouble() => closed!(CLOSED_IN_TROUBLE),
            _ => closed!(CLOSED),
        }
    }
}

/// Keeps a burst of the same event (a port scan, a thousand clients of a dead cluster) from filling the disk: the log tells so many of a kind in
/// so much time, and then how many it left out.
#[derive(Debug)]
pub(crate) struct Bursts {
    lines: u32,
    within: Duration,
    kinds: Mutex<HashMap<&'static str, Burst>>,
}

#[derive(Debug)]
struct Burst {
    /// When the time began in which the lines are counted.
    began: Instant,
    /// Lines written in this time.
    told: u32,
    /// Lines not written since the last one that was.
    left_out: u64,
}

impl Bursts {
    /// At most `lines` of a kind in `within`.
    pub(crate) fn new(lines: u32, within: Duration) -> Self {
        Self { lines, within, kinds: Mutex::default() }
    }

    /// `None`: it is not told. `Some(n)`: tell it, and that `n` were left out before.
    pub(crate) fn allow(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let burst = kinds.entry(kind).or_insert(Burst { began: now, told: 0, left_out: 0 });
        if now.duration_since(burst.began) >= self.within {
            burst.began = now;
            burst.told = 0;
        }
        if burst.told == self.lines {
            burst.left_out += 1;
            return None;
        }
        burst.told += 1;
        Some(std::mem::take(&mut burst.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_and_then_counted() {
        let bursts = Bursts::new(50, Duration::from_secs(1));
        let start = Instant::now();
        let told = (0..1000).filter(|_| bursts.allow("idle", start).is_some()).count();
        assert_eq!(told, 50);
        assert_eq!(bursts.allow("no_route", start), Some(0));
        let later = start + Duration::from_secs(1);
        assert_eq!(bursts.allow("idle", later), Some(950));
        assert_eq!(bursts.allow("idle", later), Some(0));
    }
}
