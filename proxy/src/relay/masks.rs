//! What keeps requests about topics that lead elsewhere from the broker of a client's connection.
//!
//! The frame's size and its first topics have gone when such a topic is found further in, and cannot be taken back. So the number of the partition is
//! changed in place: it becomes one that no topic has, and the broker refuses that entry alone with `UNKNOWN_TOPIC_OR_PARTITION`, appends the others, and
//! remembers nothing of its producer (`KafkaApis.handleProduceRequest`; measured on 2.8.2, 3.9.1 and 4.3.0). In the answer the number is changed back, and
//! the error becomes the one with which clients look for the leader.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kafka_protocol::messages::ApiKey;
use kferry_wire::api::Rewrite;

use super::holds::Holds;
use super::view::leaders::{Leaders, Stance};

/// Added to the number of a partition.
pub(super) const MASK: i32 = 1 << 30;

/// Kafka's `OFFSET_OUT_OF_RANGE`
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Kafka's `NOT_LEADER_OR_FOLLOWER`
pub(super) const NOT_LEADER_OR_FOLLOWER: i16 = 6;
/// Kafka's `REQUEST_TIMED_OUT`
pub(super) const REQUEST_TIMED_OUT: i16 = 7;
/// Kafka's `TOPIC_AUTHORIZATION_FAILED`: nobody tries again after it, and a transaction can be aborted.
pub(super) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// Where topics lead, seen from one cluster of a view.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// As it is now.
    pub leaders: Arc<ArcSwap<Leaders>>,
    /// The cluster's name.
    pub at: Arc<str>,
    /// Topics that are about to change their leader.
    pub holds: Arc<Holds>,
}

/// For one message: where topics lead at its time, and the cluster that is asked.
#[derive(Debug)]
pub(super) struct Now(Option<(Arc<Leaders>, Arc<str>)>);

impl Now {
    pub(super) fn of(place: Option<&Place>) -> Self {
        Self(place.map(|place| (place.leaders.load_full(), place.at.clone())))
    }

    /// What the cluster is to a topic.
    pub(super) fn stance(&self, topic: &str) -> Stance {
        let Some((leaders, at)) = &self.0 else { return Stance::Leads };
        match leaders.number(at) {
            Some(at) => leaders.stance_to_records(topic, at),
            None => leaders.stance_of_outsider(topic, at),
        }
    }
}

/// Masks, in one request, what must not get through.
#[derive(Debug)]
pub(super) struct Masking<'a> {
    api: ApiKey,
    now: Now,
    place: Option<&'a Place>,
    /// Partitions of the topic that came last must not.
    masks: bool,
}

impl<'a> Masking<'a> {
    pub(super) fn new(place: Option<&'a Place>, api: ApiKey) -> Self {
        Self { api, now: Now::of(place), place, masks: false }
    }

    /// Whether the broker must not have what is said of a topic although it leads there, or did when the request came.
    fn waits(&self, topic: &str) -> bool {
        let Some(place) = self.place else { return false };
        match self.api {
            // No transaction begins in what is held: its markers would come after the last record that is copied. Where it was let go since the
            // request came, another cluster may lead it.
            ApiKey::AddPartitionsToTxn => !place.holds.begin_transaction(topic) || Now::of(Some(place)).stance(topic).refuses(self.api),
            // The mirror would not delete what is deleted after the last record that it copies.
            ApiKey::DeleteRecords => place.holds.are_held(topic),
            _ => false,
        }
    }
}

impl Rewrite for Masking<'_> {
    fn topic(&mut self, name: &str) {
        self.masks = self.now.stance(name).refuses(self.api) || self.waits(name);
    }

    fn partition(&mut self, partition: i32) -> i32 {
        if self.masks { partition | MASK } else { partition }
    }
}

/// Takes the masks off again, in one answer.
#[derive(Debug)]
pub(super) struct Unmasking {
    api: ApiKey,
    now: Now,
    /// What the cluster is to the topic that came last.
    stance: Stance,
    /// The partition that came last was masked.
    masked: bool,
    topic: String,
    /// The first topic for which the client gets an error after which it does not try again.
    refused: Option<(Refused, String)>,
}

/// Why a client gets an error after which it does not try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A transaction has a topic or a group of another cluster than its coordinator's.
    Transaction,
    /// The topic is a copy under another name.
    Copy,
}

impl Unmasking {
    pub(super) fn new(place: Option<&Place>, api: ApiKey) -> Self {
        Self { api, now: Now::of(place), stance: Stance::Leads, masked: false, topic: String::new(), refused: None }
    }

    /// The first topic for which the client gets an error after which it does not try again.
    pub(super) fn take_refused(&mut self) -> Option<(Refused, String)> {
        self.refused.take()
    }

    fn refuse(&mut self, why: Refused) -> i16 {
        self.refused.get_or_insert_with(|| (why, self.topic.clone()));
        TOPIC_AUTHORIZATION_FAILED
    }
}

impl Rewrite for Unmasking {
    fn topic(&mut self, name: &str) {
        self.stance = self.now.stance(name);
        if self.stance != Stance::Leads {
            name.clone_into(&mut self.topic);
        }
    }

    fn partition(&mut self, partition: i32) -> i32 {
        self.masked = self.now.0.is_some() && partition & MASK != 0 && partition > 0;
        if self.masked { partition & !MASK } else { partition }
    }

    fn partition_error(&mut self, error_code: i16) -> i16 {
        match self.stance {
            _ if self.masked && self.api == ApiKey::AddPartitionsToTxn => self.refuse(Refused::Transaction),
            Stance::HasCopy if self.masked => self.refuse(Refused::Copy),
            _ if self.masked => NOT_LEADER_OR_FOLLOWER,
            // The copy may not have come so far. A client that took its end for the topic's would begin anew, or pass over records.
            Stance::Follows(_) if self.api == ApiKey::Fetch && error_code == OFFSET_OUT_OF_RANGE => NOT_LEADER_OR_FOLLOWER,
            _ => error_code,
        }
    }
}
