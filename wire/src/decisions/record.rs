//! The records of the log, as JSON: `{"v":1,"hold":{...}}`. `v` is the version of the rules under which the record was written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of the rules that this program knows: of the records, and of which of them count. Every change of either is a new version.
pub const RULES: u32 = 1;
/// The most bytes of a record: what a topic takes by default (`max.message.bytes`), less the batch's header. Part of the rules.
pub const MAX_BYTES: usize = 1_048_000;

/// The process of a proxy, as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The proxy's name. The lowest one acts first.
    pub name: String,
    /// Another one for each start of a process, and after each time that it was replaced or forgotten; never used twice.
    pub incarnation: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.incarnation)
    }
}

/// Where a process runs. Two processes of one place cannot live at the same time: they could not bind the same listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The boot id of the kernel.
    pub boot: String,
    /// The network namespace.
    pub network: String,
    /// The addresses that it has bound.
    pub listeners: BTreeSet<String>,
}

/// What a file says of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wished {
    /// The cluster on which its clients are at home, and where what it owns leads.
    pub home: String,
    /// A digest of what else the file says about what it owns (`topics`, `groups`, and the lines before it): equal if and only if that is equal.
    pub owns: String,
}

/// A topic of a move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// How many partitions it has on both clusters.
    pub partitions: u32,
    /// Its id on each cluster, by the cluster's name, where the cluster has ids.
    pub ids: BTreeMap<String, String>,
}

/// What a flip decides of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Led {
    /// The cluster that leads from here on.
    pub leader: String,
    /// Since this term.
    pub term: i32,
    /// The first offset of the term on each partition, the same on both clusters.
    pub ends: Vec<i64>,
}

/// What waited at a proxy for the outcome of a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waited {
    /// How many Produce requests.
    pub requests: u64,
    /// The one that waited longest, in milliseconds.
    pub longest_ms: u64,
}

/// What a record asks for. Which of them count is decided by [`State::apply`](super::State::apply).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The first record: which log this is.
    Identity {
        /// Made at random when the log is created, and kept when it moves to another cluster.
        log: String,
    },
    /// A proxy is about to serve relayed clients. It does so only once it has read this back.
    Joined {
        /// Which.
        proxy: Member,
        /// The version of the rules that it knows. The lowest one of all that have joined applies.
        rules: u32,
        /// Where it runs.
        place: Place,
        /// Its admin address, by which an operator sees whether it is alive.
        admin: Option<String>,
    },
    /// A proxy has closed its last relayed connection.
    Left {
        /// Which.
        proxy: Member,
        /// Whether something that was sent from its place and never answered may still arrive at a broker, within 30 s.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        late: bool,
    },
    /// An operator says that a proxy is dead, for 30 s at least.
    Forgotten {
        /// Which.
        proxy: Member,
        /// Who says so.
        by: String,
    },
    /// A proxy has taken a file.
    Wish {
        /// Which.
        proxy: Member,
        /// Which file of this process it is: 0 for the one that it started with, one more with each that it took while it ran.
        taken: u32,
        /// A digest of all that it says of routes: equal for equal `routes`.
        file: String,
        /// What it wants, by the route's name. Only relay routes stand here.
        routes: BTreeMap<String, Wished>,
    },
    /// A proxy asks all others to hold what goes to these topics. Its offset is the move's id.
    Hold {
        /// Which.
        by: Member,
        /// The last decision that it has read.
        after: i64,
        /// The cluster that leads all these topics.
        from: String,
        /// The cluster that is to lead them.
        to: String,
        /// The routes that want this. Those that have their home on `from` get it on `to`.
        routes: BTreeSet<String>,
        /// The topics, by name.
        topics: BTreeMap<String, Topic>,
        /// The groups. They change no home: their clients may stay where their topics are.
        groups: BTreeSet<String>,
    },
    /// These members of groups have come by a proxy: those that it has heard, and of them those that wait there to join, and go on where the outcome says.
    Parked {
        /// Which.
        proxy: Member,
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// The ids of those that wait, by group: all of them, in the place of what it said before.
        members: BTreeMap<String, BTreeSet<String>>,
        /// The ids of those that it has heard since the hold, likewise.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        heard: BTreeMap<String, BTreeSet<String>>,
    },
    /// Some groups of a move stay where they live, the others go on.
    Without {
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// Who says so: a proxy's name, or which process of the mirror.
        by: String,
        /// Why each stays, as a sentence.
        groups: BTreeMap<String, String>,
    },
    /// A proxy holds, nothing of it is open, and it waits for the outcome, however long.
    Holding {
        /// Which.
        proxy: Member,
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
    },
    /// The mirror writes no more to these partitions of `to`: both ends are equal.
    Closed {
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// The offset of the last record of this log that the mirror had read when it began to measure.
        as_of: i64,
        /// Which process of the mirror.
        by: String,
        /// By topic, the partitions with the ends.
        ends: BTreeMap<String, Vec<(u32, i64)>>,
    },
    /// The committed offsets of these groups on `to` are those on `from`, and the mirror writes no more of them in this direction.
    Synced {
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// The offset of the last record of this log that the mirror had read when it began to look at them.
        as_of: i64,
        /// Which process of the mirror.
        by: String,
        /// Which groups.
        groups: BTreeSet<String>,
    },
    /// The other cluster leads.
    Flip {
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// Which proxy asks for it.
        by: Member,
        /// What it decides of each topic: just what follows from the records before, for those who look only here.
        topics: BTreeMap<String, Led>,
        /// The groups that live there from here on: the same.
        groups: BTreeSet<String>,
    },
    /// What waited at a proxy for the outcome of a move has gone on: for the receipt.
    Waited {
        /// Which.
        proxy: Member,
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// What waited.
        waited: Waited,
    },
    /// Everybody goes on where they were.
    Abort {
        /// The move's id.
        #[serde(rename = "move")]
        id: i64,
        /// Who asks for it: a proxy's name, or an operator.
        by: String,
        /// Why, as a sentence.
        reason: String,
        /// Whether no move begins until a proxy has taken another file: an operator's word.
        until_edit: bool,
    },
    /// Topics that a mirror would copy were born on its target: they lead there, in term 1, and it copies them the other way, once every proxy knows that. One
    /// that did not would take the copy for the leader.
    Born {
        /// Which process of the mirror.
        by: String,
        /// The mirror's target.
        leader: String,
        /// The mirror's source.
        follower: String,
        /// The topics, by name, each with its id on the leader, where that has ids.
        topics: BTreeMap<String, Option<String>>,
    },
    /// A proxy has read a `born`, and goes by it.
    Knows {
        /// Which.
        proxy: Member,
        /// The offset of the `born`.
        born: i64,
    },
    /// An operator moves the log to another cluster: in this one nothing counts from here on.
    Moved {
        /// The cluster that has the log.
        to: String,
        /// Who says so.
        by: String,
    },
    /// The log has come from another cluster: what stands before is a copy, and there `moved` stands in this place. It changes nothing.
    Came {
        /// The cluster that had the log.
        from: String,
        /// Who says so.
        by: String,
    },
}

/// A record that this program does not know: it may not take part, because it cannot tell what counts from there on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A newer kferry wrote it.
    #[error("it was written under version {0} of the rules, and this kferry knows {RULES}: update this kferry before it takes part")]
    Newer(u32),
    /// It is of a version that this program knows, and says what that does not have.
    #[error("it says what version {version} of the rules does not have ({error}): it was not written by a release of kferry")]
    Malformed {
        /// The version that it names.
        version: u32,
        /// What serde says.
        error: String,
    },
}

/// Why a record is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// It would not be read.
    #[error("a record of {0} bytes is larger than the {MAX_BYTES} that the log of decisions takes: move fewer topics in one edit")]
    Large(usize),
    /// What is in it has no JSON.
    #[error("a record cannot be written as JSON: {0}")]
    Json(String),
}

/// The bytes of a record under version `rules`.
///
/// # Errors
/// [`Unwritable`].
pub fn encode(request: &Request, rules: u32) -> Result<Vec<u8>, Unwritable> {
    let json = serde_json::to_string(request).map_err(|error| Unwritable::Json(error.to_string()))?;
    // It is an object of one key: the version goes in front of it.
    let bytes = format!(r#"{{"v":{rules},{}"#, &json[1..]).into_bytes();
    if bytes.len() > MAX_BYTES { Err(Unwritable::Large(bytes.len())) } else { Ok(bytes) }
}

/// What a record asks for. `None`: no kferry wrote it, and nobody minds it.
///
/// # Errors
/// [`Unknown`].
pub fn decode(bytes: &[u8]) -> Result<Option<Request>, Unknown> {
    if bytes.len() > MAX_BYTES {
        return Ok(None);
    }
    let Ok(mut fields) = serde_json::from_slice::<serde_json::Map<_, _>>(bytes) else { return Ok(None) };
    let version = fields.remove("v").and_then(|version| version.as_u64());
    let Some(version) = version.and_then(|version| u32::try_from(version).ok()) else { return Ok(None) };
    if version > RULES {
        return Err(Unknown::Newer(version));
    }
    let malformed = |error: serde_json::Error| Unknown::Malformed { version, error: error.to_string() };
    serde_json::from_value(fields.into()).map(Some).map_err(malformed)
}
