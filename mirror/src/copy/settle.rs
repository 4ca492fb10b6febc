//! A look at both logs before a partition is copied: at the start, after a lost answer, and whenever the follower's log end is not what our
//! own writes made it.
//!
//! Equal offsets with different records would be the worst lie. So the records are compared, from the last offset at which both logs are
//! known to agree up to the follower's log end; only then is that log end the place to go on from. A fresh partition is first filled up to
//! the leader's log start.
//!
//! Where offsets are translated the follower's log says the same in another way: the mirror's own batches in it, known by their producer id, are
//! the leader's records in their order. From the last offset that is known to agree they are followed to the log end ([`retrace`]), which finds
//! everything that was not kept before a crash, and whatever others wrote in between.
//!
//! # References
//! - `DescribeProducersRequest.json` (KIP-664): the last sequence of our producer id
//! - `OffsetForLeaderEpochRequest.json` (KIP-101): the log end; ListOffsets has the high watermark only

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Range;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::ProduceRequest;
use kferry_config::{Offsets, OnError};
use kferry_wire::admin::partitions::Position;
use kferry_wire::batch::{self, Stamp};
use kferry_wire::client::{ClientError, TopicPartition};
use kferry_wire::log::{LogReader, produce};

use super::cut::{Cutter, next_sequence};
use super::job::PartitionJob;
use super::replicate::{PRODUCE_TIMEOUT_MS, ReadyPartition};
use super::{events, holes};
use crate::log::{Allowed, FollowerReader, View, Written, compare, visit, written};
use crate::partition::{Handback, Phase, Refusal, Side};
use crate::state::PartitionState;

/// Bytes of each log in one answer, while they are compared.
const COMPARED: i32 = 1 << 20;
/// Offsets before the agreed one that are compared again at each look, and bytes of each log in one answer for that. An unclean leader election takes the
/// last records of a log, and others come in their place: so it always shows in the last ones.
const TAIL: i64 = 100;
const TAIL_BYTES: i32 = 64 << 10;
/// Empty records in a batch. More of them in one cost the broker more, not less.
const FILLER: u32 = 100_000;
/// Batches of padding that the broker may have at a time.
const IN_FLIGHT: usize = 4;

/// Looks at log ends that cannot be, and the time between two of them: then every broker knows who leads.
const LOOKS: usize = 4;
const DOUBT: Duration = Duration::from_secs(2);

/// What a look needs to know besides the partition.
#[derive(Debug, Clone)]
pub(crate) struct SettleContext {
    /// What was kept of it.
    pub(crate) state: Option<PartitionState>,
    /// The topic's ids now, by the cluster's name.
    pub(crate) topic_ids: BTreeMap<String, String>,
    /// The most offsets to fill.
    pub(crate) max_padding: i64,
    /// What becomes of records that are lost.
    pub(crate) on_error: OnError,
    /// Whether small batches are put together.
    pub(crate) coalesce: bool,
    /// What the file says about offsets.
    pub(crate) offsets: Offsets,
    /// Both logs are to be compared from their beginning: `--accept`.
    pub(crate) from_start: bool,
}

/// Looks at both logs, and says from where to copy.
pub(crate) async fn settle(job: PartitionJob, known: SettleContext) -> Result<ReadyPartition, (PartitionJob, Handback)> {
    // Of padding that is under way then, each batch lands where it belongs or not at all.
    let looked = tokio::select! {
        looked = look(&job, &known) => looked,
        () = job.stop.cancelled() => Err(Handback::Cancelled),
    };
    match looked {
        Ok(mut cutter) => {
            job.status.phase(Phase::Copying, None);
            let leap = job.caution.leap.clone().filter(|leap| leap.start == cutter.at());
            let first = leap.map(|leap| cutter.leap(leap.end));
            Ok(ReadyPartition { job, cutter, first })
        }
        Err(leave) => Err((job, leave)),
    }
}

async fn look(job: &PartitionJob, known: &SettleContext) -> Result<Cutter, Handback> {
    let (leader, follower) = (&job.leader, &job.follower);
    let first = job.status.lock().first();
    let agreed = same_topics(job, known)?.max(first);
    let producer_id = job.producer_id();

    let leader_start = earliest(leader, job.partition).await?;
    let follower_start = earliest(follower, job.partition).await?;
    let (Ends { mut at, mut jumps, end, mut sequence }, leader_end) = ends(job, known, agreed, follower_start).await?;
    let stable_end = offset(leader, job.partition, Position::LastStable).await?;
    let (mut map, direction) = {
        let mut status = job.status.lock();
        (status.leader_log_start_offset, status.follower_log_start_offset) = (leader_start, follower_start);
        status.goal.get_or_insert(stable_end);
        (status.map.clone(), status.direction)
    };
    job.status.leader(leader_start, stable_end);

    possible(job, known, (agreed, at), (end, leader_end))?;
    if at < leader_start {
        if map.translates() {
            if map.first(direction).is_some() && known.on_error == OnError::Fail {
                return Err(lost_on_leader(job, at, leader_start));
            }
            at = leader_start;
            map.begin(direction, at, end);
            jumps = true;
        } else {
            // Half of the padding may be there, from before a crash.
            let unknown = known.state.as_ref().is_none_or(|state| state.agreed == 0) && follower_start == 0;
            let fresh = unknown && (at == 0 || only_padding(job, at).await?);
            (at, sequence) = pad(job, known, fresh, (at, sequence), leader_start).await?;
        }
    }
    if map.first(direction).is_none() {
        map.begin(direction, at, end);
        jumps = true;
    }
    if let Some(segment) = map.last().filter(|_| jumps) {
        job.status.lock().map = map.clone();
        job.state.keep_segment(&job.topic_partition(), segment, &job.shard).await.map_err(|error| Handback::unkept(&error))?;
    }

    // What the follower had before the mirror wrote there does not count.
    let both_have = map.leader(direction, follower_start).unwrap_or(0);
    let agreed = agreed.min(at);
    let from = leader_start.max(both_have).max(if known.from_start { first } else { compared_from(agreed, first, job.compacted) });
    if from < at {
        let bytes = if from + TAIL < at { COMPARED } else { TAIL_BYTES };
        same_records(job, from..at, bytes, View { map, direction, term: job.term }).await?;
    }
    job.status.agree(at);
    Ok(Cutter::new(at, producer_id, sequence)
        .coalesce(known.coalesce, job.max_message_bytes)
        .careful(job.caution.single_until, job.caution.skip.clone()))
}

/// From which offset on both logs are compared, when the records before `agreed` were equal once and the first of them is `first`. In a compacted log the
/// last records may all be gone, and a reader would wait for them.
fn compared_from(agreed: i64, first: i64, compacted: bool) -> i64 {
    if compacted { agreed } else { (agreed - TAIL).max(first) }
}

/// Whether the follower, which has the leader's records up to `at`, is neither longer than its leader nor shorter than it was.
fn possible(job: &PartitionJob, known: &SettleContext, (agreed, at): (i64, i64), (end, leader_end): (i64, i64)) -> Result<(), Handback> {
    let (leader, follower) = (&job.leader, &job.follower);
    if at > leader_end {
        return Err(Handback::Diverged(format!(
            "{} on {} ends at offset {end}, behind the end {leader_end} of {} on {}: somebody else wrote to it, or the leader lost records \
             (an unclean leader election). Nothing more is written. Make the two equal, or delete the follower's topic, and start the mirror with \
             --accept {}",
            follower.partition(job.partition),
            follower.cluster(),
            leader.partition(job.partition),
            leader.cluster(),
            job.topic_partition(),
        )));
    }
    if at < agreed {
        let lost = format!(
            "{} on {} ends at offset {end}, and the leader's records before {agreed} were copied once: it lost records (an unclean leader election, \
             or the topic was emptied)",
            follower.partition(job.partition),
            follower.cluster()
        );
        if known.on_error == OnError::Fail && !known.from_start {
            return Err(Handback::Diverged(format!(
                "{lost}. To copy them again from the leader, start the mirror with --accept {}",
                job.topic_partition()
            )));
        }
        kferry_wire::tell!(crate::messages::COPIED_AGAIN: ": {lost}", mirror = &*job.mirror, partition = %job.topic_partition());
    }
    Ok(())
}

/// Compares what is at these offsets of the leader, record for record.
async fn same_records(job: &PartitionJob, offsets: Range<i64>, max_bytes: i32, view: View) -> Result<(), Handback> {
    job.status.phase(Phase::Comparing, None);
    let (leader, follower) = (&job.leader, &job.follower);
    let on_leader = LogReader::new(leader.client.clone(), leader.partition(job.partition), offsets.clone(), max_bytes);
    let on_follower = FollowerReader::new(follower, job.partition, offsets, max_bytes, view);
    let allowed = Allowed { missing: job.compacted, skipped: job.status.lock().skipped.clone() };
    let compared = match compare(on_leader, on_follower, &allowed).await {
        Ok(compared) => compared,
        Err(error) if error.is_retriable() => return Err(Handback::Again(error.to_string())),
        Err(error) => return Err(Handback::Failed(error.to_string())),
    };
    events::compared(job, &compared);
    let Some(difference) = compared.difference else { return Ok(()) };
    Err(Handback::Diverged(format!(
        "{} on {} and {} on {} differ at offset {} of the leader: {}. Nothing more is written. Find out who wrote it; delete the follower's topic, or \
         its records from there on, and start the mirror with --accept {}",
        leader.partition(job.partition),
        leader.cluster(),
        follower.partition(job.partition),
        follower.cluster(),
        difference.offset,
        difference.what,
        job.topic_partition(),
    )))
}

/// The offset up to which both logs were equal when that was kept, if the topics are still the same.
fn same_topics(job: &PartitionJob, known: &SettleContext) -> Result<i64, Handback> {
    let agreed = job.status.lock().agreed;
    let Some(state) = &known.state else { return Ok(agreed) };
    for (side, role) in [(&job.leader, "leads"), (&job.follower, "follows")] {
        let cluster = side.cluster().to_string();
        if let (Some(then), Some(now)) = (state.topic_ids.get(&cluster), known.topic_ids.get(&cluster))
            && then != now
        {
            return Err(Handback::Diverged(format!(
                "topic {} on {cluster}, which {role}, was deleted and created anew (its id was {then} and is {now}): its offsets mean other records now. \
                 Delete the topic on {} too, and start the mirror with --accept {}",
                side.topic,
                job.follower.cluster(),
                job.topic_partition(),
            )));
        }
    }
    let status = job.status.lock();
    let map = &status.map;
    if map.translates() && known.offsets == Offsets::Preserve {
        return Err(Handback::Failed(format!(
            "the offsets of {} on {} were translated before, and cannot be the leader's any more; set offsets = \"translate\", or delete the topic \
             there and start the mirror with --accept {}",
            job.follower.partition(job.partition),
            job.follower.cluster(),
            job.topic_partition(),
        )));
    }
    Ok(state.agreed(job.leader.cluster(), map, status.direction).max(agreed))
}

/// Where the follower's log ends.
struct Ends {
    /// The offset of the leader up to which the follower has its records.
    at: i64,
    /// What comes next is the first of a segment.
    jumps: bool,
    /// The follower's log end.
    end: i64,
    /// What our producer id goes on with.
    sequence: i32,
}

/// Both log ends. A broker that was frozen or cut off believes for a moment that it still leads, with a log that is too short: so what looks
/// like lost records is looked at again before anybody believes it.
async fn ends(job: &PartitionJob, known: &SettleContext, agreed: i64, follower_start: i64) -> Result<(Ends, i64), Handback> {
    let mut looks = 0;
    loop {
        let (end, sequence) = writable(&job.follower, job.partition, job.producer_id()).await?;
        let (at, jumps) = retrace(job, known, agreed, (follower_start, end)).await?;
        // Read after the follower's: a log that grows meanwhile is the leader's, and it only grows.
        let leader_end = log_end(&job.leader, job.partition).await?;
        looks += 1;
        if (agreed..=leader_end).contains(&at) || looks == LOOKS {
            return Ok((Ends { at, jumps, end, sequence }, leader_end));
        }
        for side in [&job.leader, &job.follower] {
            side.client.forget_leader(&side.partition(job.partition));
        }
        tokio::time::sleep(DOUBT).await;
    }
}

/// Which offset of the leader the follower's log end is: from the last one that is known the mirror's own batches and markers are counted. The
/// map has all of them then; and whether a segment begins at that end.
async fn retrace(
    job: &PartitionJob,
    known: &SettleContext,
    agreed: i64,
    (follower_start, end): (i64, i64),
) -> Result<(i64, bool), Handback> {
    let (mut map, direction) = {
        let status = job.status.lock();
        (status.map.clone(), status.direction)
    };
    if !map.translates() {
        return Ok((end, false));
    }
    let whole = map.clone();
    let mut announced = map.cut_off(direction, agreed).into_iter().peekable();
    // Without a segment the mirror has written nothing here.
    let Some(from) = map.follower(direction, agreed) else { return Ok((agreed, false)) };
    if end < from {
        let at = map.leader(direction, end).unwrap_or(0);
        map.cut_off(direction, at);
        job.status.lock().map = map;
        return Ok((at, false));
    }
    let producer_id = job.producer_id();
    // Where the next one belongs on both sides, if it goes on as the one before.
    let (mut at, mut next) = (agreed, from);
    let (mut is_known, mut others) = (from >= follower_start, None);
    let walked = visit(&job.follower, job.partition, from.max(follower_start)..end, |batch| {
        let ours = batch.producer_id() == producer_id && !batch.is_control();
        let there = batch.base_offset();
        if !ours && !holes::is_marker(batch) {
            others.get_or_insert(there);
            return;
        }
        if !is_known {
            // What comes before is deleted. Whether it was as the map has it, the comparison of the records says.
            (at, next) = (whole.leader(direction, there).unwrap_or(at), there);
            is_known = true;
        }
        let gap = behind_gaps(&mut announced, there).filter(|leader| *leader > at);
        if let Some(leader) = gap {
            at = leader;
            map.begin(direction, at, next);
        }
        if there != next {
            map.begin(direction, at, there);
        }
        let count = i64::from(batch.last_offset_delta()) + 1;
        (at, next) = (at + count, there + count);
    });
    walked
        .await
        .map_err(|error| if error.is_retriable() { Handback::Again(error.to_string()) } else { Handback::Failed(error.to_string()) })?;
    let turned = known.state.as_ref().is_some_and(|state| state.term < job.term);
    if let Some(others) = others.filter(|_| turned) {
        return Err(Handback::Diverged(format!(
            "{} on {} has records from offset {others} on that are not known to be on {}: it led until the direction turned, and they would be lost there, or \
             their copies be copied back. Turn it back and start the mirror with --accept {}; when it has caught up stop it with SIGTERM, and turn it then",
            job.follower.partition(job.partition),
            job.follower.cluster(),
            job.leader.cluster(),
            job.topic_partition(),
        )));
    }
    let gap = behind_gaps(&mut announced, end).filter(|leader| *leader > at);
    if let Some(leader) = gap {
        at = leader;
        map.begin(direction, at, next);
    }
    if end != next {
        map.begin(direction, at, end);
    }
    let jumps = gap.is_some() || end != next;
    let mut status = job.status.lock();
    status.unsaved |= status.map != map;
    status.map = map;
    Ok((at, jumps))
}

/// A gap of the leader's is kept before anything behind it is written: where it ends, if it lies before this offset of the follower.
fn behind_gaps(announced: &mut Peekable<std::vec::IntoIter<(i64, i64)>>, follower: i64) -> Option<i64> {
    let mut end = None;
    while let Some((leader, _)) = announced.next_if(|(_, there)| *there <= follower) {
        end = Some(leader);
    }
    end
}

/// The follower's log end and the sequence that our producer id goes on with, in accord: the last sequence is the same before and after
/// the log end was read. Any other order puts records in wrong places after a crash.
async fn writable(follower: &Side, partition: i32, producer_id: i64) -> Result<(i64, i32), Handback> {
    let last = async || -> Result<Option<i32>, Handback> {
        let producers = follower.client.describe_producers(&follower.topic, partition).await.map_err(|error| told(&error))?;
        Ok(producers.iter().find(|producer| producer.producer_id == producer_id).map(|producer| producer.last_sequence))
    };
    let mut before = last().await?;
    for _ in 0..50 {
        let end = log_end(follower, partition).await?;
        let after = last().await?;
        if before == after {
            // A producer id that the broker does not know, or no longer, may begin with any sequence.
            let sequence = after.filter(|last| *last >= 0).map_or(next_sequence(0, end), |last| next_sequence(last, 1));
            return Ok((end, sequence));
        }
        before = after;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Handback::Again(format!(
        "somebody writes to {} on {} under the mirror's producer id",
        follower.partition(partition),
        follower.cluster()
    )))
}

/// Before anything is deleted: what is there is padding of ours, or a copy that was never kept in the state; nobody else's records.
async fn only_padding(job: &PartitionJob, end: i64) -> Result<bool, Handback> {
    match written(&job.follower, job.partition, 0..end, job.producer_id()).await {
        Ok(written @ (Written::Filler | Written::Mirror)) => Ok(written == Written::Filler),
        Ok(Written::Others) => Err(Handback::Failed(format!(
            "{} on {} has {end} records that the mirror did not write, and the leader's log begins behind them: their offsets cannot be the same. \
             Delete the topic there, or set offsets = \"translate\"",
            job.follower.partition(job.partition),
            job.follower.cluster()
        ))),
        Err(error) => Err(Handback::Again(error.to_string())),
    }
}

/// Fills the follower up to the leader's log start with empty records, and deletes them. A fresh partition is filled before anything is
/// copied; in one that was copied before, the leader has lost what the follower did not have yet, and `on_error` decides.
async fn pad(
    job: &PartitionJob,
    known: &SettleContext,
    fresh: bool,
    (at, sequence): (i64, i32),
    leader_start: i64,
) -> Result<(i64, i32), Handback> {
    if !fresh && known.on_error == OnError::Fail {
        return Err(lost_on_leader(job, at, leader_start));
    }
    if leader_start - at > known.max_padding {
        return Err(Handback::Failed(format!(
            "the leader's log begins at offset {leader_start}, and filling {} offsets is more than max_padding = {} allows; raise it, or set \
             offsets = \"translate\"",
            leader_start - at,
            known.max_padding
        )));
    }
    job.status.phase(Phase::Padding, None);
    let follower = job.follower.partition(job.partition);
    let (end, sequence) = fill(job, (at, sequence), leader_start).await?;
    if !job.shard.may_write() {
        return Err(Handback::no_lease());
    }
    let deleted = job.follower.client.delete_records(&follower.topic, job.partition, leader_start).await;
    deleted.map_err(|error| Handback::Failed(format!("the padding of {follower} cannot be deleted: {error}")))?;
    job.status.lock().follower_log_start_offset = leader_start;
    Ok((end, sequence))
}

/// The leader has deleted what was not copied yet.
fn lost_on_leader(job: &PartitionJob, at: i64, leader_start: i64) -> Handback {
    Handback::Refused(Refusal {
        offsets: at..leader_start,
        code: Some(ResponseError::OffsetOutOfRange),
        reason: format!(
            "{} has deleted the offsets {at} to {} before they were copied: its log begins at {leader_start} now. With on_error = \"skip\" or \
             \"dead-letter\" the mirror goes on behind them",
            job.leader.cluster(),
            leader_start - 1
        ),
        bytes: bytes::Bytes::new(),
    })
}

/// Empty records from one offset to another, a few batches in flight. All have the same bytes but for their stamp.
async fn fill(job: &PartitionJob, (mut at, mut sequence): (i64, i32), to: i64) -> Result<(i64, i32), Handback> {
    let follower = job.follower.partition(job.partition);
    let broker = job.follower.client.leader_of(&follower).await.map_err(|error| told(&error))?;
    let version = broker.version_for::<ProduceRequest>(produce::VERSIONS).map_err(|error| Handback::Failed(error.to_string()))?;
    let full = batch::filler(FILLER).map_err(|error| Handback::Failed(error.to_string()))?;
    let mut in_flight = futures_util::stream::FuturesOrdered::new();
    loop {
        while at < to && in_flight.len() < IN_FLIGHT {
            let count = (to - at).min(i64::from(FILLER));
            let last;
            let batch = if count == i64::from(FILLER) {
                &full
            } else {
                last = batch::filler(count as u32).map_err(|error| Handback::Failed(error.to_string()))?;
                &last
            };
            let mut bytes = BytesMut::with_capacity(batch.len());
            batch.rewrite(Stamp { producer_id: job.producer_id(), producer_epoch: 0, base_sequence: sequence }, &mut bytes);
            let request = produce::request([(follower.clone(), bytes.freeze())], PRODUCE_TIMEOUT_MS);
            if !job.shard.may_write() {
                return Err(Handback::no_lease());
            }
            let (broker, expected) = (broker.clone(), at);
            let mut answer = Box::pin(async move { (expected, broker.request(&request, version).await) });
            // Sent in this order, whoever is awaited first.
            let answer = match futures_util::poll!(&mut answer) {
                std::task::Poll::Ready(answer) => futures_util::future::Either::Left(std::future::ready(answer)),
                std::task::Poll::Pending => futures_util::future::Either::Right(answer),
            };
            in_flight.push_back(answer);
            at += count;
            sequence = next_sequence(sequence, count);
        }
        let Some((expected, answer)) = futures_util::StreamExt::next(&mut in_flight).await else { return Ok((at, sequence)) };
        let answer = answer.map_err(|error| Handback::Again(error.to_string()))?;
        match produce::only(answer).map(|answer| (answer.error_code.err(), answer.base_offset)) {
            Some((None, offset)) if offset == expected => {}
            Some((None, offset)) => {
                return Err(Handback::Diverged(format!(
                    "padding for offset {expected} landed at {offset}: somebody else writes to {follower}"
                )));
            }
            Some((Some(ResponseError::InvalidRecord), _)) => {
                return Err(Handback::Failed(format!(
                    "{follower} on {} is compacted, and padding has no keys; set its cleanup.policy to delete until it is padded",
                    job.follower.cluster()
                )));
            }
            Some((Some(error), _)) if error.is_retriable() => return Err(Handback::Again(format!("padding of {follower}: {error:?}"))),
            Some((Some(error), _)) => return Err(Handback::Failed(format!("padding of {follower}: {error:?}"))),
            None => return Err(Handback::Again("the answer to Produce has no word of the partition".to_owned())),
        }
    }
}

async fn earliest(side: &Side, partition: i32) -> Result<i64, Handback> {
    offset(side, partition, Position::LogStart).await
}

async fn offset(side: &Side, partition: i32, position: Position) -> Result<i64, Handback> {
    one(side.client.list_offsets(&[side.partition(partition)], position).await, &side.partition(partition))
}

async fn log_end(side: &Side, partition: i32) -> Result<i64, Handback> {
    side.client.log_end(&side.topic, partition).await.map_err(|error| told(&error))
}

fn one<T>(mut answers: BTreeMap<TopicPartition, Result<T, ClientError>>, partition: &TopicPartition) -> Result<T, Handback> {
    answers.remove(partition).expect("what was asked for is answered").map_err(|error| told(&error))
}

/// What may pass is tried again soon, the rest waits for somebody to mend it.
fn told(error: &ClientError) -> Handback {
    if error.is_retriable() || error.is_unknown_topic() { Handback::Again(error.to_string()) } else { Handback::Failed(error.to_string()) }
}
