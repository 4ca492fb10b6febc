//! Where groups and transactional ids are coordinated: on the cluster on which a group lives, and at home.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::directory::Groups;
use super::{Broker, Door, Parts, View};
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
        let answer = match view.place_of(&parts, &request.key, request.key_type).await {
            Some(number) => parts.clusters[number].ask_in_time(Broker::Any, version, &request, door).await,
            None => None,
        };
        let answer = match answer {
            Some(answer) => answer,
            None => FindCoordinatorResponse::default().with_error_code(COORDINATOR_NOT_AVAILABLE).with_node_id(BrokerId(-1)).with_port(-1),
        };
        return head.encode(&answer);
    }
    let mut keys: BTreeMap<Option<usize>, Vec<StrBytes>> = BTreeMap::new();
    for key in &request.coordinator_keys {
        let number = view.place_of(&parts, key, request.key_type).await;
        keys.entry(number).or_default().push(key.clone());
    }
    let asking = keys.into_iter().map(async |(number, keys)| {
        let request = request.clone().with_coordinator_keys(keys.clone());
        let answer = match number {
            Some(number) => parts.clusters[number].ask_in_time(Broker::Any, version, &request, door).await,
            None => None,
        };
        match answer {
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
    /// The number of the cluster that coordinates a group or a transactional id. `None`: nobody can say, because a cluster does not.
    async fn place_of(&self, parts: &Parts, key: &str, key_type: i8) -> Option<usize> {
        if key_type != GROUP {
            return Some(0);
        }
        let among = self.leaders.load().lives_among(key);
        if let [number] = among[..] {
            return Some(number);
        }
        // A file may have made the view smaller just now.
        let asking = among.into_iter().filter_map(|number| Some((number, parts.clusters.get(number)?)));
        place_among(&join_all(asking.map(async |(number, part)| (number, part.own.groups().await))).await, key)
    }
}

/// The number of the cluster on which a group lives, by the groups of each on which it may. On the first of them (home, if it may live anywhere) it begins only
/// if none has it: if it began there because another one does not answer, its members would lose their offsets, and be two groups afterwards.
fn place_among(groups: &[(usize, Groups)], key: &str) -> Option<usize> {
    let mut having = groups.iter().filter(|(_, groups)| groups.groups.contains(key)).map(|(number, _)| *number);
    let first = groups.first().map(|(number, _)| *number);
    match (having.next(), having.next()) {
        (Some(number), None) => Some(number),
        (Some(_), Some(_)) => first,
        (None, _) => first.filter(|_| groups.iter().all(|(_, groups)| groups.is_fresh)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_begins_at_home_only_if_no_cluster_has_it() {
        let of =
            |names: &[&str], is_fresh| Groups { groups: std::sync::Arc::new(names.iter().map(ToString::to_string).collect()), is_fresh };
        for (home, other, expected) in [
            (of(&[], true), of(&[], true), Some(0)),
            (of(&[], true), of(&["shop"], true), Some(1)),
            (of(&["shop"], true), of(&[], true), Some(0)),
            (of(&["shop"], true), of(&["shop"], true), Some(0)),
            // A cluster that does not answer has what it had; what it had not it may have now.
            (of(&[], true), of(&["shop"], false), Some(1)),
            (of(&["shop"], true), of(&[], false), Some(0)),
            (of(&[], true), of(&[], false), None),
            (of(&[], false), of(&[], true), None),
            (of(&[], false), of(&["shop"], true), Some(1)),
        ] {
            assert_eq!(place_among(&[(0, home.clone()), (1, other.clone())], "shop"), expected, "{home:?} {other:?}");
            // The sources of two mirrors that name it.
            assert_eq!(
                place_among(&[(1, home.clone()), (2, other.clone())], "shop"),
                expected.map(|number| number + 1),
                "{home:?} {other:?}"
            );
        }
    }
}
