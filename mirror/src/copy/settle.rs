//! A look at both logs before a partition is copied: at the start, after a lost response, and whenever the follower's log end is not what our
//! own writes made it.
//!
//! Equal offsets with different records would be the worst lie. So the records are compared, from the last offset at which both logs are
//! known to agree up to the follower's log end; only then is that log end the place to go on from. A fresh partition is first filled up to
//! the leader's log start.
//!
//! Where offsets are translated the follower's log says the same in another way: the mirror's own batches in it, known by their producer id, are
//! the leader's records in their order. From the last offset that is known to agree they are followed to the log end ([`Retrace`]), which finds
//! everything that was not kept before a crash, and whatever others wrote in between.
//!
//! # References
//! - `DescribeProducersRequest.json` (KIP-664): the last sequence of our producer id
//! - `OffsetForLeaderEpochRequest.json` (KIP-101): the log end; ListOffsets has the high watermark only

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode as _;
use kferry_config::{Offsets, OnError, OnLost};
use kferry_wire::admin::partitions::Position;
use kferry_wire::batch::{self, Sequence};
use kferry_wire::client::{ClientError, TopicPartition, Topics};
use kferry_wire::connection::RequestError;
use kferry_wire::log::{LogReader, ReadError, produce};
use kferry_wire::tell;

use super::cut::{Cutter, next_sequence};
use super::decisions::{self, AfterPadding, FollowerEnd, Found, Kept, WayOn};
use super::job::PartitionJob;
use super::replicate::{PRODUCE_TIMEOUT_MS, ReadyPartition};
use super::retrace::{self, Begin, Reached, Retrace, Retraced};
use super::{events, holes};
use crate::log::{Allowed, FollowerReader, View, Written, compare, visit, written};
use crate::messages;
use crate::own_topics::state_topic;
use crate::partition::{Handback, Phase, Refusal, Side};
use crate::state::PartitionState;

/// About how many bytes of each log a Fetch response may have, while they are compared.
const COMPARED: i32 = 1 << 20;
/// Bytes of each log in one response, where only the tail of what was agreed on is compared.
const TAIL_BYTES: i32 = 64 << 10;
/// The most empty records in a batch of padding. More of them in one cost the broker more, not less.
const FILLER: u32 = 100_000;
/// Offsets at the end of a follower's log that are looked through for batches of the mirror's, where nothing is kept of it.
const LAST_BATCHES: i64 = 10_000;
/// The most batches of padding that are sent and not answered.
const IN_FLIGHT: usize = 4;

/// How often log ends that cannot be are looked at before they are believed.
const LOOKS: usize = 4;
/// Between two of these looks. After all of them every broker knows which one leads the partition.
const DOUBT: Duration = Duration::from_secs(2);

/// What a look at both logs needs to know besides the partition.
#[derive(Debug, Clone)]
pub(crate) struct SettleContext {
    /// What was kept of the partition in the mirror's state; `None` is nothing.
    pub(crate) state: Option<PartitionState>,
    /// The topic's id on each cluster as it is now, by the cluster's name in the file.
    pub(crate) topic_ids: BTreeMap<String, String>,
    /// The most offsets that may be padded.
    pub(crate) max_padding: i64,
    /// Whether records that were copied and are lost on the follower are copied again.
    pub(crate) on_error: OnError,
    /// What becomes of the partition when records were lost on the leader before they were copied.
    pub(crate) on_lost: OnLost,
    /// Whether several small batches are put into one.
    pub(crate) coalesce: bool,
    /// Whether the file says that offsets are preserved or translated.
    pub(crate) offsets: Offsets,
    /// Whether both logs are to be compared from their beginning: `--accept` names the partition.
    pub(crate) from_start: bool,
}

/// Looks at both logs of a partition, pads the follower where it has to be, and says from where to copy.
///
/// # Errors
/// The partition, and why it [goes back](Handback) to the run. What was padded until then stays.
pub(crate) async fn settle(job: PartitionJob, context: SettleContext) -> Result<ReadyPartition, (PartitionJob, Handback)> {
    // Of padding that is under way then, each batch lands where it belongs or not at all.
    let looked = tokio::select! {
        looked = look(&job, &context) => looked,
        () = job.stop.cancelled() => Err(Handback::Cancelled),
    };
    // An offset says something only of the topic that it is of.
    let looked = match looked {
        Err(Handback::Diverged(reason)) => Err(created_since(&job, &context).await.unwrap_or(Handback::Diverged(reason))),
        looked => looked,
    };
    match looked {
        Ok(mut cutter) => {
            job.status.phase(Phase::Copying, None);
            let leap = job.caution.leap.clone().filter(|leap| leap.start == cutter.at());
            let first = leap.map(|leap| cutter.leap(leap.end));
            Ok(ReadyPartition { job, cutter, first })
        }
        Err(handback) => Err((job, handback)),
    }
}

/// The look itself: everything but what becomes of the job.
async fn look(job: &PartitionJob, context: &SettleContext) -> Result<Cutter, Handback> {
    let (leader, follower) = (&job.leader, &job.follower);
    let first = job.status.lock().first();
    let agreed = same_topics(job, context)?.max(first);
    let producer_id = job.producer_id();

    let leader_start = log_start(leader, job.partition).await?;
    let follower_start = log_start(follower, job.partition).await?;
    let ends = ends(job, context, agreed, follower_start).await?;
    let (end, leader_end, mut sequence) = (ends.follower, ends.leader, ends.sequence);
    let Reached { mut at, mut begins_segment } = ends.reached;
    // In this order: what is below the high watermark and not stable then is of a transaction that is open, and not of one that came since.
    let high_watermark = offset(leader, job.partition, Position::HighWatermark).await?;
    let stable_end = offset(leader, job.partition, Position::LastStable).await?;
    let (mut map, direction) = {
        let mut progress = job.status.lock();
        (progress.leader_log_start_offset, progress.follower_log_start_offset) = (leader_start, follower_start);
        progress.goal.get_or_insert(high_watermark);
        (progress.map.clone(), progress.direction)
    };
    job.status.leader_has(leader_start, stable_end, high_watermark);

    let found = Found {
        agreed,
        at,
        leader_log_start: leader_start,
        leader_log_end: leader_end,
        follower_log_start: follower_start,
        kept: match &context.state {
            Some(state) if state.agreed == 0 => Kept::Nothing,
            Some(state) if state.only_padding => Kept::Padding,
            Some(_) => Kept::Records,
            None => Kept::Nothing,
        },
        on_error: context.on_error,
        on_lost: context.on_lost,
        from_start: context.from_start,
    };
    check_follower_end(job, &found, end)?;
    let mut only_padding = found.kept == Kept::Padding && at == agreed;
    let way = if map.translates() {
        decisions::way_on_translated(&found, map.first(direction).is_some())
    } else {
        match decisions::way_on(&found, context.max_padding, None) {
            WayOn::AskWhoWrote => decisions::way_on(&found, context.max_padding, Some(who_wrote(job, at).await?)),
            way => way,
        }
    };
    match way {
        WayOn::Go => {}
        WayOn::Pad(offsets) => {
            (at, sequence) = pad(job, offsets, sequence).await?;
            only_padding = true;
        }
        WayOn::PadLost(offsets) => {
            (at, sequence) = pad(job, offsets.clone(), sequence).await?;
            events::lost_on_leader(job, &offsets);
        }
        WayOn::Jump | WayOn::JumpLost(_) => {
            if let WayOn::JumpLost(offsets) = way {
                events::lost_on_leader(job, &offsets);
            }
            at = leader_start;
            map.begin(direction, at, end);
            begins_segment = true;
        }
        WayOn::LostOnLeader(offsets) => return Err(lost_on_leader(job, offsets)),
        WayOn::TooMuchPadding(offsets) => return Err(too_much_padding(&offsets, context.max_padding)),
        WayOn::AskWhoWrote => unreachable!("who wrote it was asked"),
        WayOn::Foreign => return Err(foreign_records(job, end)),
    }
    if map.first(direction).is_none() {
        if map.translates() && !context.from_start && wrote_there(job, follower_start..end).await? {
            return Err(forgotten(job));
        }
        map.begin(direction, at, end);
        begins_segment = true;
    }
    if let Some(segment) = map.last().filter(|_| begins_segment) {
        job.status.lock().map = map.clone();
        job.state.keep_segment(&job.topic_partition(), segment, &job.shard).await.map_err(|error| Handback::unkept(&error))?;
    }

    // What the follower had before the mirror wrote there does not count.
    let both_have = map.leader(direction, follower_start).unwrap_or(0);
    let compared = decisions::to_compare(&found, first, both_have, at);
    if !compared.is_empty() {
        let max_bytes = if compared.end - compared.start > decisions::TAIL { COMPARED } else { TAIL_BYTES };
        same_records(job, compared, max_bytes, View { map, direction, term: job.term }).await?;
    }
    job.status.agree(at);
    job.status.lock().only_padding = only_padding;
    Ok(Cutter::new(at, producer_id, sequence)
        .coalesce(context.coalesce, job.max_message_bytes)
        .careful(job.caution.single_until, job.caution.skip.clone()))
}

/// Whether the follower, whose log end is `end`, may be gone on with from there.
fn check_follower_end(job: &PartitionJob, found: &Found, end: i64) -> Result<(), Handback> {
    let (leader, follower) = (&job.leader, &job.follower);
    let lost = || {
        format!(
            "{} on {} ends at offset {end}, and the leader's records before {} were copied once: it lost records (an unclean leader election, \
             or the topic was emptied)",
            follower.partition(job.partition),
            follower.cluster(),
            found.agreed
        )
    };
    match decisions::follower_end(found) {
        FollowerEnd::Fits => Ok(()),
        FollowerEnd::TooLong => Err(Handback::Diverged(format!(
            "{} on {} ends at offset {end}, behind the end {} of {} on {}: somebody else wrote to it, or the leader lost records \
             (an unclean leader election). Nothing more is written. Stop the mirror; make the two equal, or delete the follower's topic (what only it \
             has is lost with it), and start the mirror with --accept {}",
            follower.partition(job.partition),
            follower.cluster(),
            found.leader_log_end,
            leader.partition(job.partition),
            leader.cluster(),
            job.topic_partition().topic,
        ))),
        FollowerEnd::Lost => Err(Handback::Diverged(format!(
            "{}. To copy them again from the leader, start the mirror with --accept {}",
            lost(),
            job.topic_partition()
        ))),
        FollowerEnd::CopiedAgain => {
            let lost = lost();
            tell!(messages::COPIED_AGAIN: ": {lost}", mirror = &*job.mirror, partition = %job.topic_partition());
            Ok(())
        }
    }
}

/// What becomes of a partition of which one of the logs could not be read.
fn unread(error: &ReadError) -> Handback {
    if error.is_retriable() { Handback::Again(error.to_string()) } else { Handback::Failed(error.to_string()) }
}

/// Whether the end of the follower's log has batches of the mirror's.
async fn wrote_there(job: &PartitionJob, log: Range<i64>) -> Result<bool, Handback> {
    let (producer_id, from, mut is_ours) = (job.producer_id(), log.start.max(log.end - LAST_BATCHES), false);
    let walked =
        visit(&job.follower, job.partition, from..log.end, |batch| is_ours |= batch.producer_id() == producer_id && !batch.is_control());
    walked.await.map_err(|error| unread(&error)).map(|()| is_ours)
}

/// The mirror has copied to the follower before, and nothing is kept of it: nobody knows how far.
fn forgotten(job: &PartitionJob) -> Handback {
    Handback::Failed(format!(
        "{} on {} has records that this mirror has written, and the mirror's topic {} has nothing of it: it was deleted, or has lost records. What is there \
         would be copied a second time. Delete the topic and let it be copied anew, or start the mirror with --accept {} to have all of it copied \
         again behind what is there",
        job.follower.partition(job.partition),
        job.follower.cluster(),
        state_topic(&job.mirror),
        job.topic_partition()
    ))
}

/// Compares the records at these offsets of the leader with the follower's. `Err` is a difference, or that they cannot be compared.
async fn same_records(job: &PartitionJob, offsets: Range<i64>, max_bytes: i32, view: View) -> Result<(), Handback> {
    job.status.phase(Phase::Comparing, None);
    let (leader, follower) = (&job.leader, &job.follower);
    let on_leader = LogReader::new(leader.client.clone(), leader.partition(job.partition), offsets.clone(), max_bytes);
    let on_follower = FollowerReader::new(follower, job.partition, offsets, max_bytes, view);
    let allowed = Allowed { missing: job.compacted, skipped: job.status.lock().skipped.clone() };
    let compared = compare(on_leader, on_follower, &allowed).await.map_err(|error| unread(&error))?;
    events::compared(job, &compared);
    let Some(difference) = compared.difference else { return Ok(()) };
    Err(Handback::Diverged(format!(
        "{} on {} and {} on {} differ at offset {} of the leader: {}. Nothing more is written. Find out who wrote it; stop the mirror, delete the follower's topic (what only it has is lost with it), or \
         its records from there on, and start the mirror with --accept {}",
        leader.partition(job.partition),
        leader.cluster(),
        follower.partition(job.partition),
        follower.cluster(),
        difference.offset,
        difference.what,
        job.topic_partition().topic,
    )))
}

/// The offset of the leader up to which both logs were equal, by this process or by what was kept. `Err` if one of the topics is another one by now.
fn same_topics(job: &PartitionJob, context: &SettleContext) -> Result<i64, Handback> {
    let agreed = job.status.lock().agreed;
    let Some(state) = &context.state else { return Ok(agreed) };
    for (side, role) in [(&job.leader, "leads"), (&job.follower, "follows")] {
        let cluster = side.cluster().to_string();
        if let (Some(then), Some(now)) = (state.topic_ids.get(&cluster), context.topic_ids.get(&cluster))
            && then != now
        {
            return Err(created_anew(job, side, role, then, now));
        }
    }
    let progress = job.status.lock();
    let map = &progress.map;
    if map.translates() && context.offsets == Offsets::Preserve {
        return Err(Handback::Failed(format!(
            "the offsets of {} on {} were translated before, and cannot be the leader's any more; set offsets = \"translate\", or delete the topic \
             there and start the mirror with --accept {}",
            job.follower.partition(job.partition),
            job.follower.cluster(),
            job.topic_partition(),
        )));
    }
    Ok(state.agreed(job.leader.cluster(), map, progress.direction).max(agreed))
}

/// Whether one of the topics is another one by now than the pass before the look has seen. Where its cluster does not tell, nothing follows.
async fn created_since(job: &PartitionJob, context: &SettleContext) -> Option<Handback> {
    for (side, role) in [(&job.leader, "leads"), (&job.follower, "follows")] {
        let Some(then) = context.topic_ids.get(&**side.cluster()) else { continue };
        let Ok(metadata) = side.client.metadata(Topics::Named(&[&side.topic])).await else { continue };
        let now = metadata.topic(&side.topic).and_then(|topic| topic.id).map(|id| id.to_string());
        if let Some(now) = now.filter(|now| now != then) {
            return Some(created_anew(job, side, role, then, &now));
        }
    }
    None
}

fn created_anew(job: &PartitionJob, side: &Side, role: &str, then: &str, now: &str) -> Handback {
    Handback::Diverged(format!(
        "topic {} on {}, which {role}, was deleted and created anew (its id was {then} and is {now}): its offsets mean other records now. {}",
        side.topic,
        side.cluster(),
        after_created_anew(side.cluster(), job.follower.cluster(), &job.topic_partition()),
    ))
}

/// What an operator does about a topic that was created anew on `cluster`. What was copied before is of no use if that one leads. If it follows there is nothing
/// to be deleted: what it has by now is compared.
pub(crate) fn after_created_anew(cluster: &str, follower: &str, TopicPartition { topic, .. }: &TopicPartition) -> String {
    if cluster == follower {
        format!("Start the mirror anew with --accept {topic}: it compares both logs, and copies what is missing")
    } else {
        format!("Stop the mirror, delete the topic on {follower}, which follows, and start the mirror with --accept {topic}")
    }
}

/// Where both logs end.
struct Ends {
    /// What the follower's log end stands for.
    reached: Reached,
    /// The follower's log end offset.
    follower: i64,
    /// The leader's log end offset.
    leader: i64,
    /// The sequence with which the mirror's producer id goes on there.
    sequence: i32,
}

/// Both log ends. A broker that was frozen or cut off believes for a moment that it still leads, with a log that is too short: so what looks
/// like lost records is looked at again before anybody believes it.
async fn ends(job: &PartitionJob, context: &SettleContext, agreed: i64, follower_start: i64) -> Result<Ends, Handback> {
    let mut looks = 0;
    loop {
        let (follower, sequence) = writable(&job.follower, job.partition, job.producer_id()).await?;
        let reached = retrace(job, context, agreed, follower_start..follower).await?;
        // Read after the follower's: a log that grows meanwhile is the leader's, and it only grows.
        let leader = log_end(&job.leader, job.partition).await?;
        looks += 1;
        if (agreed..=leader).contains(&reached.at) || looks == LOOKS {
            return Ok(Ends { reached, follower, leader, sequence });
        }
        for side in [&job.leader, &job.follower] {
            side.client.forget_leader(&side.partition(job.partition));
        }
        tokio::time::sleep(DOUBT).await;
    }
}

/// Which offset of the leader the end of the follower's log stands for. The partition's map has a segment for each run of the mirror's batches then.
async fn retrace(job: &PartitionJob, context: &SettleContext, agreed: i64, log: Range<i64>) -> Result<Reached, Handback> {
    let end = log.end;
    let begin = {
        let progress = job.status.lock();
        Retrace::begin(progress.map.clone(), progress.direction, agreed, log)
    };
    let (mut retrace, offsets) = match begin {
        Begin::Known(map, reached) => {
            job.status.lock().map = map;
            return Ok(reached);
        }
        Begin::Read(retrace, offsets) => (retrace, offsets),
    };
    let producer_id = job.producer_id();
    let walked = visit(&job.follower, job.partition, offsets, |batch| {
        let first = batch.base_offset();
        let is_ours = batch.producer_id() == producer_id && !batch.is_control() || holes::is_marker(batch);
        retrace.batch(&retrace::Found { offsets: first..first + i64::from(batch.last_offset_delta()) + 1, is_ours });
    });
    walked.await.map_err(|error| unread(&error))?;
    let Retraced { map, reached, others } = retrace.end(end);
    let turned = context.state.as_ref().is_some_and(|state| state.term < job.term);
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
    let mut progress = job.status.lock();
    progress.unsaved |= progress.map != map;
    progress.map = map;
    Ok(reached)
}

/// The follower's log end and the sequence with which the mirror's producer id goes on, in accord: the last sequence is the same before and after
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

/// Who wrote what the follower has from offset 0 up to `end`.
async fn who_wrote(job: &PartitionJob, end: i64) -> Result<Written, Handback> {
    written(&job.follower, job.partition, 0..end, job.producer_id()).await.map_err(|error| Handback::Again(error.to_string()))
}

/// The follower has records of others before the leader's log start.
fn foreign_records(job: &PartitionJob, end: i64) -> Handback {
    Handback::Failed(format!(
        "{} on {} has {end} records that the mirror did not write, and the leader's log begins behind them: their offsets cannot be the same. \
         Delete the topic there, or set offsets = \"translate\"",
        job.follower.partition(job.partition),
        job.follower.cluster()
    ))
}

/// These offsets would have to be padded.
fn too_much_padding(offsets: &Range<i64>, max_padding: i64) -> Handback {
    Handback::Failed(format!(
        "the leader's log begins at offset {}, and filling {} offsets is more than max_padding = {max_padding} allows; raise it, or set \
         offsets = \"translate\"",
        offsets.end,
        offsets.end - offsets.start
    ))
}

/// Fills these offsets, up to the leader's log start, with empty records, and deletes them. `sequence` is the one with which the mirror's producer id
/// goes on. Gives the follower's log end and the sequence that comes next.
async fn pad(job: &PartitionJob, offsets: Range<i64>, sequence: i32) -> Result<(i64, i32), Handback> {
    job.status.phase(Phase::Padding, None);
    let (follower, leader_start) = (job.follower.partition(job.partition), offsets.end);
    let (end, sequence) = fill(job, offsets, sequence).await?;
    if !job.shard.may_write() {
        return Err(Handback::no_lease());
    }
    let deleted = job.follower.client.delete_records(&follower.topic, job.partition, leader_start).await;
    deleted.map_err(|error| Handback::Failed(format!("the padding of {follower} cannot be deleted: {error}")))?;
    job.status.lock().follower_log_start_offset = leader_start;
    Ok((end, sequence))
}

/// The leader has deleted these offsets, up to its log start, before they were copied.
fn lost_on_leader(job: &PartitionJob, offsets: Range<i64>) -> Handback {
    let Range { start: at, end: leader_start } = offsets;
    Handback::Refused(Refusal {
        offsets,
        code: Some(ResponseError::OffsetOutOfRange),
        reason: format!(
            "{} has deleted the offsets {at} to {} before they were copied: its log begins at {leader_start} now, because its retention is faster than the \
             mirror. With on_lost = \"follow\" the mirror goes on behind them",
            job.leader.cluster(),
            leader_start - 1
        ),
        bytes: bytes::Bytes::new(),
    })
}

/// Appends an empty record at each of these offsets, a few batches in flight: all have the same bytes but for their sequence. Gives the follower's log
/// end and the sequence that comes next.
async fn fill(job: &PartitionJob, offsets: Range<i64>, mut sequence: i32) -> Result<(i64, i32), Handback> {
    let Range { start: mut at, end: to } = offsets;
    let follower = job.follower.partition(job.partition);
    let broker = job.follower.client.leader_of(&follower).await.map_err(|error| told(&error))?;
    let of = |count: u32| batch::filler(count).map_err(|error| Handback::Failed(error.to_string()));
    let (mut most, mut full) = (FILLER, of(FILLER)?);
    while full.len() > job.max_message_bytes && most > 1 {
        most /= 2;
        full = of(most)?;
    }
    let mut in_flight = futures_util::stream::FuturesOrdered::new();
    loop {
        while at < to && in_flight.len() < IN_FLIGHT {
            let count = (to - at).min(i64::from(most));
            let last;
            let batch = if count == i64::from(most) {
                &full
            } else {
                last = of(count as u32)?;
                &last
            };
            let mut bytes = BytesMut::with_capacity(batch.len());
            batch.rewrite(Sequence { producer_id: job.producer_id(), producer_epoch: 0, base_sequence: sequence }, &mut bytes);
            let batches = [(follower.clone(), bytes.freeze())];
            if !job.shard.may_write() {
                return Err(Handback::no_lease());
            }
            let (broker, expected) = (broker.clone(), at);
            let mut response = Box::pin(async move { (expected, produce::send(&broker, batches, PRODUCE_TIMEOUT_MS).await) });
            // Polled once, so that the requests are sent in this order.
            let response = match futures_util::poll!(&mut response) {
                std::task::Poll::Ready(response) => futures_util::future::Either::Left(std::future::ready(response)),
                std::task::Poll::Pending => futures_util::future::Either::Right(response),
            };
            in_flight.push_back(response);
            at += count;
            sequence = next_sequence(sequence, count);
        }
        let Some((expected, response)) = futures_util::StreamExt::next(&mut in_flight).await else { return Ok((at, sequence)) };
        let response = response.map_err(|error| match error {
            RequestError::Version { .. } => Handback::Failed(error.to_string()),
            _ => Handback::Again(error.to_string()),
        })?;
        let response = produce::only(response).map(|partition| partition.error_code.err().map_or(Ok(partition.base_offset), Err));
        match decisions::after_padding(response, expected) {
            AfterPadding::Landed => {}
            AfterPadding::LandedElsewhere(offset) => {
                return Err(Handback::Diverged(format!(
                    "padding for offset {expected} landed at {offset}: somebody else writes to {follower}"
                )));
            }
            AfterPadding::Compacted => {
                return Err(Handback::Failed(format!(
                    "{follower} on {} is compacted, and padding has no keys; set its cleanup.policy to delete until it is padded",
                    job.follower.cluster()
                )));
            }
            AfterPadding::Again(error) => return Err(Handback::Again(format!("padding of {follower}: {error:?}"))),
            AfterPadding::Failed(error) => return Err(Handback::Failed(format!("padding of {follower}: {error:?}"))),
            AfterPadding::Unanswered => return Err(Handback::Again("the answer to Produce has no word of the partition".to_owned())),
        }
    }
}

async fn log_start(side: &Side, partition: i32) -> Result<i64, Handback> {
    offset(side, partition, Position::LogStart).await
}

async fn offset(side: &Side, partition: i32, position: Position) -> Result<i64, Handback> {
    one(side.client.list_offsets(&[side.partition(partition)], position).await, &side.partition(partition))
}

async fn log_end(side: &Side, partition: i32) -> Result<i64, Handback> {
    side.client.log_end(&side.topic, partition).await.map_err(|error| told(&error))
}

/// What a cluster says of the one partition that it was asked about.
fn one<T>(mut answers: BTreeMap<TopicPartition, Result<T, ClientError>>, partition: &TopicPartition) -> Result<T, Handback> {
    answers.remove(partition).expect("what was asked for is answered").map_err(|error| told(&error))
}

/// The handback for an error of a cluster: what may pass is tried again soon, the rest waits for somebody to mend it.
fn told(error: &ClientError) -> Handback {
    if error.is_retriable() || error.is_unknown_topic() { Handback::Again(error.to_string()) } else { Handback::Failed(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_delete_the_topic_that_leads() {
        let partition = TopicPartition::new("orders", 0);
        let of_leader = after_created_anew("legacy", "new", &partition);
        assert_eq!(of_leader, "Stop the mirror, delete the topic on new, which follows, and start the mirror with --accept orders");
        let of_follower = after_created_anew("new", "new", &partition);
        assert!(of_follower.contains("--accept orders") && !of_follower.contains("delete"), "{of_follower}");
    }
}
