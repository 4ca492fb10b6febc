//! What live moves need: `[state]` and `[moves]`.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;

/// Where what is decided about moves is kept, `[state]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `cluster`: the one that has the log of decisions. kferry can log in there by itself.
    pub cluster: Arc<Cluster>,
}

/// How a move goes, `[moves]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// `hold_ms`: from a move's hold until it is given up. Default 3 s. At most 10 s: what is held must go on before its client takes the broker for
    /// dead, which is after 30 s in Java (`request.timeout.ms`).
    pub hold: Duration,
}
