//! `kferry move log`: the log of decisions goes on on another cluster.
//!
//! ```text
//!   old log   0 1 2 ... n-1  moved     nothing counts behind it
//!   new log   0 1 2 ... n-1  came      and it goes on
//! ```
//!
//! All that stood in the old log stands at the same offsets in the new one, byte for byte. So the proxies that have joined are the same in both, and a move in
//! the new log waits for each of them: one that still follows the old log is not passed over, and a process that is started anew takes its own place.

use std::sync::Arc;

use bytes::Bytes;
use kferry_config::{Cluster, Config};
use kferry_wire::batch::Record;
use kferry_wire::client::TopicPartition;
use kferry_wire::decisions::{Log, ReadRecord, Request, TOPIC, Verdict, decode, encode};
use kferry_wire::exit;
use kferry_wire::log::append;

use super::{DecisionLog, Done, FileArgs, client, operator, told};

/// About how many bytes of records are written at once: less than a topic takes by default.
const BATCH: usize = 512 << 10;

/// Moves the log of decisions to another cluster
///
/// For when the cluster that has it goes. All records are copied at their offsets, nothing counts in the old log any more, and the new one goes on. Clients
/// go on meanwhile, and nothing moves before [state] names the other cluster in every file, and every proxy and mirror was restarted. Change [state] only
/// when this has succeeded. If it was interrupted run it again: it goes on.
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry move log"]))]
pub(super) struct Relocate {
    #[command(flatten)]
    pub(super) file: FileArgs,
    /// The cluster that is to have it, by its name in the file
    #[arg(value_name = "CLUSTER")]
    cluster: String,
}

/// A record, as it stands in both logs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    offset: i64,
    timestamp: i64,
    value: Option<Bytes>,
}

impl Kept {
    fn of(record: &ReadRecord) -> Self {
        Self { offset: record.offset, timestamp: record.timestamp, value: record.value.clone() }
    }
}

impl Relocate {
    /// The cluster that is to have it.
    pub(super) fn to<'a>(&self, config: &'a Config) -> Result<&'a Arc<Cluster>, String> {
        config.cluster(&self.cluster).ok_or_else(|| format!("the file has no cluster {:?}", self.cluster))
    }
}

pub(super) async fn relocate(from: Arc<Cluster>, to: &Arc<Cluster>) -> Result<Done, String> {
    if to.name == from.name {
        return Err(match DecisionLog::read(from).await {
            Ok(_) => format!("the log of decisions is on cluster {} already, and goes on there: nothing is to be moved", to.name),
            Err(why) => format!(
                "[state] names cluster {to} already, which has to stay the one that has the log until `kferry move log {to}` has moved it: {why}",
                to = to.name
            ),
        });
    }
    let mut records = Vec::new();
    let mut old = DecisionLog::find(from.clone()).await?;
    old.catch_up(|record| records.push(Kept::of(record))).await?;
    if old.state().moved() != Some(&*to.name) {
        old.is_whole()?;
        if let Some(open) = old.state().open() {
            return Err(format!("move {} is open: wait for its end, or end it with `kferry move abort`", open.id));
        }
        // What goes wrong on the other cluster does so while this log still counts.
        bring(to, &records).await?;
        let moved = Request::Moved { to: to.name.to_string(), by: operator() };
        let back = old.ask(&moved, |record| records.push(Kept::of(record))).await?;
        if let Verdict::Void(void) = back.verdict {
            return Err(format!("it does not count: {void}"));
        }
    }
    let moved = records.pop().map(|moved| came(&moved, &from.name)).transpose()?;
    records.extend(moved);
    let end = bring(to, &records).await?;
    Ok(Done {
        ok: true,
        offset: end - 1,
        done: format!(
            "the log of decisions has moved from {} to {to}. Now write cluster = \"{to}\" in [state] of every file, and restart every proxy and every mirror, \
             one after the other: nothing moves before. It goes on on {to}",
            from.name,
            to = to.name
        ),
    })
}

/// What stands in the new log where `moved` stands in the old one. It says the same whoever runs this again.
fn came(moved: &Kept, from: &str) -> Result<Kept, String> {
    let Some(Request::Moved { by, .. }) = moved.value.as_deref().and_then(|value| decode(value).ok().flatten()) else {
        return Err("the old log does not end with the record by which it has moved".to_owned());
    };
    let value = encode(&Request::Came { from: from.to_owned(), by }, 1).map_err(|error| error.to_string())?;
    Ok(Kept { value: Some(value.into()), ..*moved })
}

/// Writes what the log on `to` lacks of these records, and sees to it that it has just these. Returns its end.
async fn bring(to: &Arc<Cluster>, records: &[Kept]) -> Result<i64, String> {
    if let Some((at, record)) = (0_i64..).zip(records).find(|(at, record)| *at != record.offset) {
        return Err(format!(
            "the log of decisions has nothing at offset {at}, and a record at {}: it cannot be copied at its offsets",
            record.offset
        ));
    }
    let client = client(to.clone());
    let there = if Log::find(client.clone(), None).await.map_err(|error| told(&error, &client))?.is_some() {
        let there = read(to).await?;
        // It may have other settings than a log of decisions: who made it is not known.
        if there.is_empty() { Err(other(to, "it is empty")) } else { Ok(there) }?
    } else {
        Log::find_or_create(client.clone()).await.map_err(|error| told(&error, &client))?;
        Vec::new()
    };
    let mut rest = &records[is_copy(&there, records).map_err(|why| other(to, &why))?..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|record| {
            bytes += record.value.as_ref().map_or(0, Bytes::len);
            bytes <= BATCH
        });
        let (batch, behind) = rest.split_at(fits.count().max(1));
        let of =
            |record: &Kept| Record { offset: 0, timestamp: record.timestamp, key: None, value: record.value.clone(), headers: Vec::new() };
        let written = append(&client, &TopicPartition::new(TOPIC, 0), batch.iter().map(of).collect(), || true).await;
        written.map_err(|error| format!("{}; run this again", told(&error.into(), &client)))?;
        rest = behind;
    }
    let there = read(to).await?;
    match is_copy(&there, records) {
        Ok(_) if there.len() == records.len() => Ok(there.len() as i64),
        Ok(_) => Err(other(to, &format!("it has {} records, and the log {}", there.len(), records.len()))),
        Err(why) => Err(other(to, &why)),
    }
}

/// All that stands in the log on a cluster.
async fn read(cluster: &Arc<Cluster>) -> Result<Vec<Kept>, String> {
    let mut records = Vec::new();
    DecisionLog::find(cluster.clone()).await?.catch_up(|record| records.push(Kept::of(record))).await?;
    Ok(records)
}

/// How many records of a log are there already, if what is there is its beginning.
fn is_copy(there: &[Kept], records: &[Kept]) -> Result<usize, String> {
    match there.iter().zip(records).find(|(there, record)| there != record) {
        Some((there, _)) => Err(format!("its record at offset {} is another one", there.offset)),
        None => Ok(there.len().min(records.len())),
    }
}

fn other(to: &Cluster, why: &str) -> String {
    format!(
        "topic {TOPIC} on {} is not a copy of the log: {why}. If nothing follows it, so that no [state] names that cluster, delete the topic, and run this again",
        to.name
    )
}
