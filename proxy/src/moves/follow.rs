//! The loop: reads the log, does what it says, asks for what is next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kferry_config::{Cluster, Mode};
use kferry_wire::client::Client;
use kferry_wire::decisions::{self, Log, LogError, RULES, ReadRecord, Request, State, Update, Verdict, ask};
use kferry_wire::places::{Decisions, Led};
use kferry_wire::tell;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::place::place;
use super::preflight::{self, Between};
use super::{Moves, Part};
use crate::identity::own_options;
use crate::messages;
use crate::proxy::Proxy;

/// How often it is looked at what is due.
const TICK: Duration = Duration::from_millis(50);

/// How long a request may take until it stands in the log; after that it is asked for again, and whichever comes second does not count.
const ASKING: Duration = Duration::from_secs(5);

/// Between two attempts to find the log.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at whether topics can move.
const PREFLIGHT: Duration = Duration::from_secs(2);

/// How long such a look may take.
const LOOK: Duration = Duration::from_secs(10);
