//! Groups that are about to change their coordinator: their members are told to join again, and wait with that until it is decided where.
//!
//! ```text
//!  Heartbeat ─▶ broker, and its answer waits until all members have been heard: then it says that the group rebalances ─▶ the member commits, and joins
//!               (one to a coordinator that is still reading its groups is answered as it is, and is not heard)
//!  JoinGroup ─▶ waits here; the proxy sends the heartbeats of the member ─┬ given up: to the broker, where nobody was thrown out
//!                                                                        └ decided: NOT_COORDINATOR; the member leaves the old coordinator
//!  OffsetCommit ─▶ broker; once all members of the group wait it waits, too
//! ```
//!
//! At its new coordinator a member joins as a new one, under the id that it gets there: an error for its old id would cost it all that it owns.
//!
//! So members of a group stop reading at the same time, and none does for the sake of one that does not come by a proxy.
//!
//! Members of the consumer protocol (KIP-848) have no join. They are asked to be heard more often, and once all have been, the answers to their heartbeats
//! give them nothing to read any more, so that they commit and let go of what they own; it is the coordinator alone that thinks that they own it. Given up: they are told to look for their coordinator, say all of
//! themselves, and are told all that they own. Decided: they are unknown at the new one, and join there.
//!
//! # References
//! - `ConsumerHeartbeatRequestManager`, `rd_kafka_cgrp_consumer_group_heartbeat`: after NOT_COORDINATOR the next heartbeat says everything; GROUP_ID_NOT_FOUND
//!   is fatal, UNKNOWN_MEMBER_ID begins anew

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::consumer_group_heartbeat_response::Assignment;
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kferry_wire::api::{Api, By, RewriteError};
use kferry_wire::header::front;
use kferry_wire::stream::Writer;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::frames::send;
use super::holds::{Entered, Holds};
use super::request::{Heard, RequestHead, ResponsePlan};
use super::view::refused_commit;
use super::{Due, FrameRelay, InFlight, Seat};
use crate::ending::Cause;

/// Kafka's `REBALANCE_IN_PROGRESS`
const REBALANCE_IN_PROGRESS: i16 = 27;

/// Kafka's `COORDINATOR_LOAD_IN_PROGRESS`: a member that commits tries again later, and does nothing else.
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;

/// Kafka's `NOT_COORDINATOR`
const NOT_COORDINATOR: i16 = 16;

/// Kafka's `UNKNOWN_MEMBER_ID` and `GROUP_ID_NOT_FOUND`
const UNKNOWN_MEMBER_ID: i16 = 25;
const GROUP_ID_NOT_FOUND: i16 = 69;

/// The epoch of a member of the consumer protocol that leaves.
const LEAVES: i32 = -1;

/// Kafka's `MEMBER_ID_REQUIRED`: the answer has the id under which a new member is to join. From this version of JoinGroup on.
const MEMBER_ID_REQUIRED: i16 = 79;
const NAMES_FIRST: i16 = 4;

/// Bytes of a response's correlation id.
const CORRELATION_ID: usize = 4;

/// Where the answer to a heartbeat of the consumer protocol has its error: behind `throttle_time_ms`.
const ERROR_CODE: std::ops::Range<usize> = 4..6;

/// How soon a member of the consumer protocol is to be heard again while its group is held, in milliseconds, and how long after it was let go: members
/// share the partitions anew, by their heartbeats.
const SOON: i32 = 250;
const SETTLES: Duration = Duration::from_secs(15);

/// So often a member that was told to own nothing may come without saying what it owns, until it is asked: it may be about to let go of it.
const SILENT: u32 = 4;

/// How long a heartbeat, or its answer, waits for the other members of the group: longer than the 3 s that they have by default between two, or one would have
/// its answer just before the last of them is heard; and with a third of the shortest session that brokers allow, 6 s, not for all of it.
const WITH_OTHERS: Duration = Duration::from_millis(3500);

/// How long the heartbeat of a member that owns nothing waits: librdkafka gives one up after a second, and would not hear that it is let go.
const EMPTY: Duration = Duration::from_millis(500);

/// Such a part of what a member may be away for its group waits for the others at the most, and no longer than this.
const PART: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(20);

/// The version of the proxy's own Heartbeat and LeaveGroup: all brokers know it, and it has no tagged fields.
const OWN_VERSION: i16 = 1;

/// The version of its own OffsetFetch: the first one that has an error of the group.
const SAYS_ITS_STATE: i16 = 2;

/// Between two heartbeats for a member that waits, at the most; otherwise a part of its session.
const BEATS: Duration = Duration::from_secs(2);

/// So many heartbeats in a session.
const BEATS_IN_SESSION: u32 = 4;

/// The groups of the move that is held.
#[derive(Debug)]
pub(crate) struct Parking {
    /// What changes the committed offsets of groups: it waits once they are complete.
    pub(crate) commits: Arc<Holds>,
    /// Whether there is anything at all in `groups`.
    is_used: AtomicBool,
    groups: Mutex<Groups>,
    /// Told when groups are let go, or somebody has come to wait.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Groups {
    held: HashMap<Arc<str>, Held>,
    /// Whether the members of those are called to join, because all of them have been heard.
    called: bool,
    /// The ids that members of groups that have moved had before.
    moved: HashMap<Arc<str>, HashSet<String>>,
    /// Groups that have committed in transactions.
    transactional: HashSet<String>,
    /// Groups of the consumer protocol that were held: members keep their ids.
    new_protocol: HashSet<String>,
    /// Members of the consumer protocol that own nothing, of a group that was held and is not any more.
    emptied: HashSet<(String, String)>,
    /// Groups of the consumer protocol that were held, and until when their members are to be heard more often.
    settling: HashMap<Arc<str>, Instant>,
}

/// A group that is held.
#[derive(Debug, Default)]
struct Held {
    /// Members that were heard.
    heard: BTreeSet<String>,
    /// By member, the generation of its last heartbeat.
    generations: HashMap<String, i32>,
    /// How long the others may take to come to the join, by those that wait.
    patience: Option<Duration>,
    /// By member, how many of its requests wait: one, unless it has come again.
    parked: HashMap<String, usize>,
    /// Members of the consumer protocol that were told to own nothing, and whether they do.
    emptied: HashMap<String, bool>,
    /// Of those, how often they have come since without a word of what they own.
    silent: HashMap<String, u32>,
}

/// Who has come of a group that is held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Come {
    /// Who was heard.
    pub(crate) heard: BTreeSet<String>,
    /// Who waits.
    pub(crate) parked: BTreeSet<String>,
    /// How long the others may take, by those that wait.
    pub(crate) patience: Option<Duration>,
}

/// What a member of a group that is held is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing: it is not held.
    Nothing,
    /// To be heard soon again.
    Soon,
    /// To join, or to own nothing.
    ToJoin,
}

impl Default for Parking {
    fn default() -> Self {
        Self { commits: Arc::default(), is_used: AtomicBool::new(false), groups: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Parking {
    /// Holds these groups and no others.
    pub(crate) fn hold<'a>(&self, groups: impl Iterator<Item = &'a String>) {
        let mut all = self.lock();
        let mut before = std::mem::take(&mut all.held);
        all.held =
            groups.map(|group| before.remove_entry(group.as_str()).unwrap_or_else(|| (group.as_str().into(), Held::default()))).collect();
        let until = Instant::now() + SETTLES;
        let of_new_protocol = before.keys().filter(|group| all.new_protocol.contains(&***group)).map(|group| (group.clone(), until));
        let of_new_protocol: Vec<_> = of_new_protocol.collect();
        all.settling.retain(|_, until| *until > Instant::now());
        all.settling.extend(of_new_protocol);
        all.called &= !all.held.is_empty();
        let let_go = before.into_iter().flat_map(|(group, held)| held.emptied.into_keys().map(move |member| (group.to_string(), member)));
        all.emptied.extend(let_go);
        self.is_used.store(all.are_used(), Ordering::Relaxed);
        drop(all);
        self.changed.send_replace(());
    }

    /// Calls the members of the held groups to join, or does not yet.
    pub(crate) fn call(&self, is_called: bool) {
        let mut all = self.lock();
        if std::mem::replace(&mut all.called, is_called) != is_called {
            drop(all);
            self.changed.send_replace(());
        }
    }

    /// The ids under which the members of groups that have moved were known before.
    pub(crate) fn has_moved(&self, moved: HashMap<Arc<str>, HashSet<String>>) {
        let mut all = self.lock();
        all.moved = moved;
        self.is_used.store(all.are_used(), Ordering::Relaxed);
    }

    /// The members that have come, by their groups.
    pub(crate) fn come(&self) -> HashMap<String, Come> {
        let all = self.lock();
        let of = |held: &Held| {
            let emptied = held.emptied.iter().filter(|(_, is_empty)| **is_empty).map(|(member, _)| member);
            let parked = held.parked.keys().filter(|member| !member.is_empty()).chain(emptied).cloned().collect();
            Come { heard: held.heard.clone(), parked, patience: held.patience }
        };
        all.held.iter().map(|(group, held)| (group.to_string(), of(held))).collect()
    }

    /// Whether a group has committed in a transaction, since this process runs.
    pub(crate) fn is_transactional(&self, group: &str) -> bool {
        self.lock().transactional.contains(group)
    }

    /// Waits until somebody has come to wait, or groups are let go.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// A member's heartbeat has come. Whether its group is held.
    fn heard(&self, group: &str, member: &str, generation: i32) -> bool {
        let mut all = self.lock();
        let Some(held) = all.held.get_mut(group) else { return false };
        held.generations.insert(member.to_owned(), generation);
        if held.heard.insert(member.to_owned()) {
            drop(all);
            self.changed.send_replace(());
        }
        true
    }

    /// A member waits from now on, if its group is held. `away`: how long it may be away by itself.
    fn park(self: &Arc<Self>, group: &str, member: &str, away: Duration) -> Option<Parked> {
        let mut all = self.lock();
        let held = all.held.get_mut(group)?;
        let patience = (away / PART).min(PATIENCE);
        held.patience = Some(held.patience.map_or(patience, |other| other.min(patience)));
        *held.parked.entry(member.to_owned()).or_default() += 1;
        let generation = held.generations.get(member).copied();
        drop(all);
        self.changed.send_replace(());
        Some(Parked { parking: self.clone(), group: group.to_owned(), member: member.to_owned(), generation })
    }

    /// A heartbeat of the consumer protocol has come, from a member that says whether it owns something, or that this is as it was. Whether its group is held.
    fn heard_new(&self, group: &str, member: &str, owns: Option<bool>) -> bool {
        let mut all = self.lock();
        let Some(held) = all.held.get_mut(group) else { return false };
        let mut has_changed = held.heard.insert(member.to_owned());
        match (held.emptied.get_mut(member), owns) {
            (Some(is_empty), Some(owns)) => {
                *is_empty = !owns;
                held.silent.remove(member);
                has_changed = true;
            }
            (Some(false), None) => *held.silent.entry(member.to_owned()).or_default() += 1,
            _ => {}
        }
        all.new_protocol.insert(group.to_owned());
        drop(all);
        if has_changed {
            self.changed.send_replace(());
        }
        true
    }

    /// Whether a member is to say everything of itself: for a while it has not said what it owns, and one that owned nothing before has nothing to say.
    fn is_to_say_all(&self, group: &str, member: &str) -> bool {
        let mut all = self.lock();
        let Some(held) = all.held.get_mut(group) else { return false };
        held.silent.get(member).is_some_and(|times| *times >= SILENT) && held.silent.remove(member).is_some()
    }

    /// What a member is told that was heard. One of the consumer protocol is to own nothing from now on.
    fn tell(&self, group: &str, member: &str, api: ApiKey) -> Told {
        let mut all = self.lock();
        let Groups { held, called, settling, .. } = &mut *all;
        match held.get_mut(group) {
            Some(held) if *called => {
                if api == ApiKey::ConsumerGroupHeartbeat {
                    held.emptied.entry(member.to_owned()).or_default();
                }
                Told::ToJoin
            }
            Some(_) => Told::Soon,
            None if settling.get(group).is_some_and(|until| *until > Instant::now()) => Told::Soon,
            None => Told::Nothing,
        }
    }

    /// Whether a member owns nothing, as it was told to, and its group is held.
    fn is_emptied(&self, group: &str, member: &str) -> bool {
        self.lock().held.get(group).is_some_and(|held| held.emptied.get(member) == Some(&true))
    }

    /// Returns once `is_so` is not any more, or `limit` is over.
    async fn wait_while(&self, limit: Duration, is_so: impl Fn(&Self) -> bool) {
        let mut changed = self.changed();
        let waiting = async {
            while is_so(self) {
                // It ends only with the process.
                let _ = changed.changed().await;
            }
        };
        let _ = timeout(limit, waiting).await;
    }

    /// Whether a member was told to own nothing, of a group that is not held any more: said once.
    fn was_emptied(&self, group: &str, member: &str) -> bool {
        let mut all = self.lock();
        !all.emptied.is_empty() && all.emptied.remove(&(group.to_owned(), member.to_owned()))
    }

    fn is_held(&self, group: &str) -> bool {
        self.lock().held.contains_key(group)
    }

    /// Whether a member that joins under this id had it at the coordinator before.
    fn is_old(&self, group: &str, member: &str) -> bool {
        let all = self.lock();
        !all.new_protocol.contains(group) && all.moved.get(group).is_some_and(|moved| moved.contains(member))
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Groups {
    fn are_used(&self) -> bool {
        !(self.held.is_empty() && self.moved.is_empty() && self.emptied.is_empty() && self.settling.is_empty())
    }
}

/// A member waits, until this is dropped.
struct Parked {
    parking: Arc<Parking>,
    group: String,
    member: String,
    generation: Option<i32>,
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut all = self.parking.lock();
        let Some(held) = all.held.get_mut(self.group.as_str()) else { return };
        if let Some(count) = held.parked.get_mut(&self.member) {
            *count -= 1;
            if *count == 0 {
                held.parked.remove(&self.member);
            }
        }
    }
}

/// What a request about a group is when it has waited.
#[derive(Default)]
pub(super) struct Gated {
    /// Until it is answered.
    pub entered: Option<Entered>,
    /// What the client gets.
    pub response: Option<ResponsePlan>,
    /// The body that goes on instead.
    pub body: Option<Vec<u8>>,
    /// The body of the proxy's own answer: nothing goes on.
    pub answer: Option<Vec<u8>>,
}

impl FrameRelay {
    /// Waits as long as a request about groups has to.
    pub(super) async fn gate(
        &self,
        head: RequestHead,
        body: &[u8],
        groups: &[String],
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
    ) -> Result<Gated, Cause> {
        let mut gated = Gated::default();
        let (Some(seat), [group]) = (&self.terms.view, groups) else { return Ok(gated) };
        match head.api.key {
            ApiKey::AddOffsetsToTxn | ApiKey::TxnOffsetCommit if !seat.parking.is_transactional(group) => {
                seat.parking.lock().transactional.insert(group.clone());
                gated.entered = seat.parking.commits.enter(group, &seat.from, &[]).await;
            }
            ApiKey::OffsetCommit | ApiKey::AddOffsetsToTxn | ApiKey::TxnOffsetCommit | ApiKey::OffsetDelete => {
                gated.entered = seat.parking.commits.enter(group, &seat.from, &[]).await;
                if head.api.key == ApiKey::OffsetCommit && seat.parking.is_used() {
                    let request: OffsetCommitRequest = head.decode(head.api.request, body)?;
                    if self.is_to_join(seat, group, &request.member_id) {
                        gated.answer = Some(refused_commit(head, body, COORDINATOR_LOAD_IN_PROGRESS)?);
                    }
                }
            }
            ApiKey::Heartbeat if seat.parking.is_used() => {
                let request: HeartbeatRequest = head.decode(&[], body)?;
                if seat.parking.is_held(group) && !self.has_loaded(group, to, queue).await? {
                    return Ok(gated);
                }
                if seat.parking.heard(group, &request.member_id, request.generation_id) {
                    gated.response =
                        Some(ResponsePlan::Heard(Box::new(Heard { group: group.clone(), member: request.member_id.to_string() })));
                } else if self.is_to_join(seat, group, &request.member_id) {
                    gated.answer = Some(head.encode(&HeartbeatResponse::default().with_error_code(REBALANCE_IN_PROGRESS))?);
                }
            }
            ApiKey::JoinGroup if seat.parking.is_used() => self.join(seat, head, body, to, queue, &mut gated).await?,
            ApiKey::ConsumerGroupHeartbeat if seat.parking.is_used() => {
                let request: ConsumerGroupHeartbeatRequest = head.decode(head.api.request, body)?;
                let member = request.member_id.as_str();
                // Who leaves, leaves.
                if request.member_epoch < 0 {
                    return Ok(gated);
                }
                let owns = request.topic_partitions.as_ref().map(|owned| !owned.is_empty());
                tracing::debug!(group, member, epoch = request.member_epoch, ?owns, at = &*self.terms.world.cluster.name, "heartbeat");
                let mut is_held = seat.parking.heard_new(group, member, owns);
                if seat.parking.is_emptied(group, member) {
                    seat.parking.wait_while(EMPTY, |parking| parking.is_held(group)).await;
                    is_held = seat.parking.is_held(group);
                }
                if is_held && seat.parking.is_to_say_all(group, member) {
                    gated.answer = Some(head.encode(&ConsumerGroupHeartbeatResponse::default().with_error_code(NOT_COORDINATOR))?);
                } else if !is_held && seat.parking.was_emptied(group, member) {
                    if lives_elsewhere(seat, group, &self.terms.world.cluster.name) {
                        let leave = ConsumerGroupHeartbeatRequest::default().with_group_id(request.group_id.clone());
                        let leave = leave.with_member_id(request.member_id.clone()).with_member_epoch(LEAVES).with_rebalance_timeout_ms(-1);
                        let leave = leave.with_subscribed_topic_names(None).with_topic_partitions(None);
                        self.ask_broker(ApiKey::ConsumerGroupHeartbeat, 0, &leave, to, queue).await?;
                    }
                    let answer = ConsumerGroupHeartbeatResponse::default().with_error_code(NOT_COORDINATOR);
                    gated.answer = Some(head.encode(&answer)?);
                } else {
                    gated.response = Some(ResponsePlan::Heard(Box::new(Heard { group: group.clone(), member: member.to_owned() })));
                }
            }
            _ => {}
        }
        Ok(gated)
    }

    /// The body of the answer to the heartbeat of a member that was heard. `None`: as it is.
    pub(super) async fn told(&self, head: RequestHead, Heard { group, member }: &Heard, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let Some(seat) = &self.terms.view else { return Ok(None) };
        if head.api.key == ApiKey::Heartbeat {
            seat.parking.wait_while(WITH_OTHERS, |parking| parking.tell(group, member, head.api.key) == Told::Soon).await;
        }
        let told = seat.parking.tell(group, member, head.api.key);
        tracing::debug!(group, member, ?told, api = ?head.api.key, "a member is told");
        if head.api.key == ApiKey::Heartbeat {
            return if told == Told::ToJoin { told_to_join(head, body) } else { Ok(None) };
        }
        let rewritten = if told == Told::ToJoin { told_to_own_nothing(head, body)? } else { self.for_client(head, body).await? };
        if told == Told::Nothing {
            return Ok(rewritten);
        }
        told_to_be_heard(head, rewritten.as_deref().unwrap_or(body)).map(Some)
    }

    /// A member joins: it waits where its group is held, and where it has moved to it joins as a new one.
    async fn join(
        &self,
        seat: &Seat,
        head: RequestHead,
        body: &[u8],
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
        gated: &mut Gated,
    ) -> Result<(), Cause> {
        let By::Group(fields) = head.api.by else { return Ok(()) };
        let request: JoinGroupRequest = head.decode(fields, body)?;
        let (group, member) = (request.group_id.as_str(), request.member_id.as_str());
        let [session, rebalance] = [request.session_timeout_ms, request.rebalance_timeout_ms]
            .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
        // Before version 1 the session is all that there is.
        let away = if rebalance.is_zero() { session } else { session.min(rebalance) };
        if let Some(parked) = seat.parking.park(group, member, away) {
            self.wait_to_join(&parked, session / BEATS_IN_SESSION, to, queue).await?;
            drop(parked);
            if lives_elsewhere(seat, group, &self.terms.world.cluster.name) && !member.is_empty() {
                let leave = LeaveGroupRequest::default().with_group_id(request.group_id.clone()).with_member_id(request.member_id.clone());
                // It may have left, or was thrown out: then it is gone all the same.
                self.ask_broker(ApiKey::LeaveGroup, OWN_VERSION, &leave, to, queue).await?;
            }
            return Ok(());
        }
        if !self.is_to_join(seat, group, member) {
            return Ok(());
        }
        let request = request.with_member_id(StrBytes::default());
        if head.version < NAMES_FIRST || request.group_instance_id.is_some() {
            gated.body = Some(head.encode(&request)?);
            return Ok(());
        }
        // A member that is told by the coordinator to come again under a new id gives up what it owns (librdkafka, cooperative): so the proxy asks for the id.
        let frame = self.ask_broker(ApiKey::JoinGroup, head.version, &request, to, queue).await?;
        let body_at = CORRELATION_ID + usize::from(head.api.key.response_header_version(head.version) >= 1);
        let mut named = frame.get(body_at..).unwrap_or_default();
        let named = JoinGroupResponse::decode(&mut named, head.version).map_err(|_| Cause::WrongResponse(head.api.key))?;
        if named.error_code == MEMBER_ID_REQUIRED {
            gated.body = Some(head.encode(&request.with_member_id(named.member_id))?);
        } else {
            gated.answer = Some(head.encode(&named)?);
        }
        Ok(())
    }

    /// Whether a member of a group that lives here now has still the id that it had before: it has to join first.
    fn is_to_join(&self, seat: &Seat, group: &str, member: &str) -> bool {
        seat.parking.is_old(group, member) && !lives_elsewhere(seat, group, &self.terms.world.cluster.name)
    }

    /// Whether the coordinator knows the group already. One that is still reading it says yes to each heartbeat and refuses all commits: a member that was
    /// told to join then would lose its last one.
    async fn has_loaded(&self, group: &str, to: &mut Writer, queue: &mpsc::Sender<InFlight>) -> Result<bool, Cause> {
        let request =
            OffsetFetchRequest::default().with_group_id(StrBytes::from_string(group.to_owned()).into()).with_topics(Some(Vec::new()));
        let frame = self.ask_broker(ApiKey::OffsetFetch, SAYS_ITS_STATE, &request, to, queue).await?;
        let mut answer = frame.get(CORRELATION_ID..).unwrap_or_default();
        let answer = OffsetFetchResponse::decode(&mut answer, SAYS_ITS_STATE).map_err(|_| Cause::WrongResponse(ApiKey::OffsetFetch))?;
        Ok(answer.error_code == 0)
    }

    /// Waits until the group is let go, and keeps the member in it until then.
    async fn wait_to_join(
        &self,
        parked: &Parked,
        part_of_session: Duration,
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
    ) -> Result<(), Cause> {
        let mut changed = parked.parking.changed();
        let mut beat = Instant::now();
        while parked.parking.is_held(&parked.group) {
            if let Some(generation) = parked.generation.filter(|_| Instant::now() >= beat) {
                let (group, member) = (StrBytes::from_string(parked.group.clone()), StrBytes::from_string(parked.member.clone()));
                let heartbeat =
                    HeartbeatRequest::default().with_group_id(group.into()).with_member_id(member).with_generation_id(generation);
                // Whatever it says, the member hears it when it joins.
                self.ask_broker(ApiKey::Heartbeat, OWN_VERSION, &heartbeat, to, queue).await?;
                beat = Instant::now() + part_of_session.min(BEATS);
            }
            tokio::select! {
                // It ends only with the process.
                _ = changed.changed() => {}
                () = sleep_until(beat), if parked.generation.is_some() => {}
            }
        }
        Ok(())
    }

    /// Asks the broker of this connection for something of the proxy's own, between the requests of the client.
    async fn ask_broker(
        &self,
        api: ApiKey,
        version: i16,
        request: &impl Encodable,
        to: &mut Writer,
        queue: &mpsc::Sender<InFlight>,
    ) -> Result<Bytes, Cause> {
        let client_id = self.terms.view.as_ref().map(|seat| &*seat.from.client_id).unwrap_or_default();
        let head = RequestHead { api: Api::of(api as i16).expect("the table has it"), version, correlation_id: 0 };
        let body = head.encode(request)?;
        let client_id = StrBytes::from_string(client_id.to_owned());
        let front = front(api, version, head.correlation_id, &client_id, body.len());
        let mut frame = front.map_err(|_| head.not_rewritten(RewriteError::TooLong("client_id")))?;
        frame.extend(body);
        let (response, responded) = oneshot::channel();
        self.expect(queue, head, Some(Due::Own(response))).await?;
        send(to, &frame).await.map_err(Cause::BrokerError)?;
        responded.await.map_err(|_| Cause::BrokerClosed)
    }
}

fn lives_elsewhere(seat: &Seat, group: &str, at: &str) -> bool {
    let leaders = seat.view.leaders().load();
    leaders.lives_elsewhere(group, at)
}

/// The body of the answer to a heartbeat, to a member that is to join again. `None`: as it is, for any other error has a reason of its own.
fn told_to_join(head: RequestHead, mut body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
    let answer = HeartbeatResponse::decode(&mut body, head.version).map_err(|_| Cause::WrongResponse(head.api.key))?;
    if answer.error_code == 0 { head.encode(&answer.with_error_code(REBALANCE_IN_PROGRESS)).map(Some) } else { Ok(None) }
}

/// The same, to a member of the consumer protocol that is to own nothing.
fn told_to_own_nothing(head: RequestHead, mut body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
    let answer = ConsumerGroupHeartbeatResponse::decode(&mut body, head.version).map_err(|_| Cause::WrongResponse(head.api.key))?;
    if answer.error_code == 0 { head.encode(&answer.with_assignment(Some(Assignment::default()))).map(Some) } else { Ok(None) }
}

/// The same, to one that is to be heard soon again.
fn told_to_be_heard(head: RequestHead, mut body: &[u8]) -> Result<Vec<u8>, Cause> {
    let answer = ConsumerGroupHeartbeatResponse::decode(&mut body, head.version).map_err(|_| Cause::WrongResponse(head.api.key))?;
    let soon = answer.heartbeat_interval_ms.min(SOON);
    head.encode(&answer.with_heartbeat_interval_ms(soon))
}

/// The body of the answer to a heartbeat of the consumer protocol, if the coordinator does not know the group: it has moved, and its members begin anew.
pub(super) fn unknown_there(body: &[u8]) -> Option<Vec<u8>> {
    let error_code = body.get(ERROR_CODE)?;
    (error_code == GROUP_ID_NOT_FOUND.to_be_bytes()).then(|| {
        let mut body = body.to_vec();
        body[ERROR_CODE].copy_from_slice(&UNKNOWN_MEMBER_ID.to_be_bytes());
        body
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Duration = Duration::from_secs(6);

    #[tokio::test]
    async fn members_wait_as_long_as_their_group_is_held() {
        let parking = Arc::new(Parking::default());
        assert!(parking.park("shop", "a", AWAY).is_none() && !parking.is_used() && !parking.heard("shop", "a", 3));
        parking.hold([&"shop".to_owned()].into_iter());
        assert!(parking.heard("shop", "a", 3) && !parking.heard("other", "a", 3));
        let park = |member| parking.park("shop", member, AWAY).unwrap();
        let (a, again, new) = (park("a"), park("a"), park(""));
        assert_eq!((a.generation, new.generation), (Some(3), None));
        assert_eq!(parking.come()["shop"].patience, Some(AWAY / 2), "a group of short sessions waits less for those that do not come");
        assert_eq!(parking.tell("shop", "a", ApiKey::Heartbeat), Told::Soon, "not all have been heard");
        parking.call(true);
        assert_eq!(parking.tell("shop", "a", ApiKey::Heartbeat), Told::ToJoin);
        let parked = |parking: &Parking| parking.come().remove("shop").map(|come| come.parked.into_iter().collect::<Vec<_>>());
        assert_eq!(parked(&parking), Some(vec!["a".to_owned()]));
        drop(again);
        // Another group joins the held ones: those that wait go on waiting.
        parking.hold([&"shop".to_owned(), &"other".to_owned()].into_iter());
        assert_eq!(parked(&parking), Some(vec!["a".to_owned()]));
        drop(a);
        assert_eq!(parked(&parking), Some(Vec::new()));
        parking.hold([].into_iter());
        assert!(!parking.is_held("shop"));
        drop(new);
        parking.has_moved([("shop".into(), ["a".to_owned()].into())].into());
        assert!(parking.is_old("shop", "a") && !parking.is_old("shop", "b") && parking.is_used());
    }

    #[test]
    fn members_of_the_consumer_protocol_wait_when_they_own_nothing() {
        let parking = Arc::new(Parking::default());
        assert!(!parking.heard_new("shop", "a", Some(false)));
        parking.hold([&"shop".to_owned()].into_iter());
        let api = ApiKey::ConsumerGroupHeartbeat;
        assert!(parking.heard_new("shop", "a", Some(true)) && parking.heard_new("shop", "b", None));
        assert_eq!((parking.tell("shop", "a", api), parking.come()["shop"].heard.len()), (Told::Soon, 2));
        parking.call(true);
        assert_eq!([parking.tell("shop", "a", api), parking.tell("shop", "b", api)], [Told::ToJoin; 2]);
        assert!(parking.heard_new("shop", "a", None) && parking.come()["shop"].parked.is_empty());
        assert!(parking.heard_new("shop", "a", Some(false)) && parking.heard_new("shop", "a", None));
        assert_eq!(parking.come()["shop"].parked.iter().collect::<Vec<_>>(), ["a"], "what has not changed is not said again");
        assert!(!parking.was_emptied("shop", "a") && parking.is_emptied("shop", "a") && !parking.is_emptied("shop", "b"));
        parking.hold([].into_iter());
        assert_eq!((parking.tell("shop", "a", api), parking.tell("other", "a", api)), (Told::Soon, Told::Nothing));
        // Both were told, also the one that has not done it yet.
        assert!(
            parking.is_used() && parking.was_emptied("shop", "a") && parking.was_emptied("shop", "b") && !parking.was_emptied("shop", "a")
        );
        parking.has_moved([("shop".into(), ["a".to_owned()].into())].into());
        assert!(!parking.is_old("shop", "a"), "they keep their ids");
    }

    #[test]
    fn a_member_that_owned_nothing_before_is_asked() {
        let parking = Arc::new(Parking::default());
        parking.hold([&"shop".to_owned()].into_iter());
        parking.call(true);
        assert!(parking.heard_new("shop", "a", None) && !parking.is_to_say_all("shop", "a"));
        assert_eq!(parking.tell("shop", "a", ApiKey::ConsumerGroupHeartbeat), Told::ToJoin);
        let comes = || parking.heard_new("shop", "a", None) && parking.is_to_say_all("shop", "a");
        assert_eq!([comes(), comes(), comes(), comes(), comes()], [false, false, false, true, false], "once, and later again");
        assert!(parking.heard_new("shop", "a", Some(false)) && parking.is_emptied("shop", "a"));
        assert_eq!([comes(), comes(), comes(), comes()], [false; 4], "it has said it");
    }

    #[test]
    fn who_is_of_no_group_there_begins_anew() {
        let body = |error_code: i16| [&[0; 4][..], &error_code.to_be_bytes(), &[1, 2]].concat();
        assert_eq!(unknown_there(&body(GROUP_ID_NOT_FOUND)), Some(body(UNKNOWN_MEMBER_ID)));
        assert_eq!((unknown_there(&body(0)), unknown_there(&[0; 3])), (None, None));
    }
}
