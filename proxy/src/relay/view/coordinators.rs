//! Where groups and transactional ids are coordinated: on the cluster on which a group lives, and at home.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Door, Parts, View};
use crate::ending::Cause;
use crate::relay::request::RequestHead;

/// Kafka's `COORDINATOR_NOT_AVAILABLE`
const COORDINATOR_NOT_AVAILABLE: i16 = 15;

/// `FindCoordinatorRequest.CoordinatorType.GROUP`
const GROUP: i8 = 0;

pub(super) async fn find_coordinator(view: &View, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
    let version = head.version;
    let request: FindCoordinatorRequest = head.decode(head.api.request, body)?;
    let parts = view.parts();
    if version < 4 {
        let number = view.place_of(&parts, &request.key, request.key_type).await;
        let answer = match parts.clusters[number].ask_in_time(version, &request, door).await {
            Some(answer) => answer,
            None => FindCoordinatorResponse::default().with_error_code(COORDINATOR_NOT_AVAILABLE).with_node_id(BrokerId(-1)).with_port(-1),
        };
        return head.encode(&answer);
    }
    let mut keys: BTreeMap<usize, Vec<StrBytes>> = BTreeMap::new();
    for key in &request.coordinator_keys {
        let number = view.place_of(&parts, key, request.key_type).await;
        keys.entry(number).or_default().push(key.clone());
    }
    let asking = keys.into_iter().map(async |(number, keys)| {
        let part = &parts.clusters[number];
        match part.ask_in_time(version, &request.clone().with_coordinator_keys(keys.clone()), door).await {
            Some(answer) => answer,
            None => FindCoordinatorResponse::default().with_coordinators(keys.into_iter().map(not_available).collect()),
        }
    });
    let answers = join_all(asking).await;
    let throttle_time_ms = answers.iter().map(|answer| answer.throttle_time_ms).max().unwrap_or_default();
    let coordinators = answers.into_iter().flat_map(|answer| answer.coordinators).collect();
    head.encode(&FindCoordinatorResponse::default().with_throttle_time_ms(throttle_time_ms).with_coordinators(coordinators))
}

fn not_available(key: StrBytes) -> Coordinator {
    Coordinator::default().with_key(key).with_node_id(BrokerId(-1)).with_port(-1).with_error_code(COORDINATOR_NOT_AVAILABLE)
}

impl View {
    /// The number of the cluster that coordinates a group or a transactional id.
    async fn place_of(&self, parts: &Parts, key: &str, key_type: i8) -> usize {
        if key_type != GROUP {
            return 0;
        }
        if let Some(number) = self.leaders.load().fixed_life(key) {
            return number;
        }
        let groups = join_all(parts.clusters.iter().map(|part| part.own.groups())).await;
        let mut having = (0..groups.len()).filter(|number| groups[*number].as_ref().is_some_and(|groups| groups.contains(key)));
        match (having.next(), having.next()) {
            (Some(number), None) => number,
            _ => 0,
        }
    }
}
