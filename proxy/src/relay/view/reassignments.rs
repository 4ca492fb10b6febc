//! Partitions that are on their way to other brokers: each cluster tells of the topics that lead on it. On another one there may be a copy, whose
//! partitions are no client's to see.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};
use kafka_protocol::protocol::StrBytes;

use super::leaders::Leaders;
use super::{Broker, Door, View};
use crate::ending::Cause;
use crate::relay::masks::REQUEST_TIMED_OUT;
use crate::relay::request::RequestHead;

pub(super) async fn list(view: &View, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
    let request: ListPartitionReassignmentsRequest = head.decode(head.api.request, body)?;
    let (parts, leaders) = view.fresh().await;
    let asked = asked(&request, parts.clusters.len(), &leaders).into_iter().map(async |(number, request)| {
        let part = &parts.clusters[number];
        (number, part.ask_in_time(Broker::Controller, head.version, &request, door).await)
    });
    head.encode(&merged(join_all(asked).await, &leaders))
}

/// What each cluster is asked for. No topics at all are those of all clusters.
fn asked(
    request: &ListPartitionReassignmentsRequest,
    clusters: usize,
    leaders: &Leaders,
) -> BTreeMap<usize, ListPartitionReassignmentsRequest> {
    let Some(topics) = &request.topics else {
        return (0..clusters).map(|number| (number, request.clone())).collect();
    };
    let mut asked = BTreeMap::<usize, Vec<_>>::new();
    for topic in topics {
        asked.entry(leaders.leader(&topic.name)).or_default().push(topic.clone());
    }
    asked.into_iter().map(|(number, topics)| (number, request.clone().with_topics(Some(topics)))).collect()
}

/// All that the clusters `told`, each of its own topics. That one of them did not answer is an error: "none" would say what nobody knows.
fn merged(
    told: impl IntoIterator<Item = (usize, Option<ListPartitionReassignmentsResponse>)>,
    leaders: &Leaders,
) -> ListPartitionReassignmentsResponse {
    let mut all = ListPartitionReassignmentsResponse::default().with_error_message(None);
    for (number, answer) in told {
        let mut answer = answer.unwrap_or_else(|| {
            let why = format!(
                "kferry: the cluster {} does not answer, and which of its partitions are being moved is not known",
                leaders.name(number)
            );
            let why = Some(StrBytes::from_string(why));
            ListPartitionReassignmentsResponse::default().with_error_code(REQUEST_TIMED_OUT).with_error_message(why)
        });
        all.throttle_time_ms = all.throttle_time_ms.max(answer.throttle_time_ms);
        if all.error_code == 0 {
            all.error_code = answer.error_code;
            all.error_message = answer.error_message;
        }
        answer.topics.retain(|topic| leaders.leader(&topic.name) == number);
        all.topics.append(&mut answer.topics);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::view::fixed::parts;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
    use kafka_protocol::messages::list_partition_reassignments_response::OngoingTopicReassignment;

    const HOME: usize = 0;
    const ELSEWHERE: usize = 1;

    /// Home is `new`: `orders` and `logs` lead elsewhere.
    fn leaders() -> Leaders {
        parts("new", Some(&["orders", "logs"]), Some(&["orders", "payments"])).1
    }

    fn name(name: &str) -> TopicName {
        TopicName(StrBytes::from_string(name.to_owned()))
    }

    fn tells(topics: &[&str]) -> ListPartitionReassignmentsResponse {
        let topics = topics.iter().map(|topic| OngoingTopicReassignment::default().with_name(name(topic))).collect();
        ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
    }

    #[test]
    fn each_cluster_is_asked_for_what_leads_on_it() {
        let of = |topics: Option<&[&str]>| {
            let topic = |topic: &&str| ListPartitionReassignmentsTopics::default().with_name(name(topic)).with_partition_indexes(vec![3]);
            let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(7);
            let request = request.with_topics(topics.map(|topics| topics.iter().map(topic).collect()));
            let names = |request: ListPartitionReassignmentsRequest| {
                assert_eq!(request.timeout_ms, 7);
                request.topics.map(|topics| topics.iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>())
            };
            asked(&request, 2, &leaders()).into_iter().map(|(number, request)| (number, names(request))).collect::<Vec<_>>()
        };
        let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of(None), [(HOME, None), (ELSEWHERE, None)]);
        let each = [(HOME, names(&["payments", "unknown"])), (ELSEWHERE, names(&["orders", "logs"]))];
        assert_eq!(of(Some(&["orders", "payments", "logs", "unknown"])), each);
        assert_eq!(of(Some(&["logs"])), [(ELSEWHERE, names(&["logs"]))]);
        assert_eq!(of(Some(&[])), []);
    }

    #[test]
    fn each_cluster_tells_of_its_own_topics_and_one_that_does_not_answer_is_an_error() {
        let told = |home, elsewhere| {
            let all = merged([(HOME, home), (ELSEWHERE, elsewhere)], &leaders());
            let names: Vec<_> = all.topics.iter().map(|topic| topic.name.to_string()).collect();
            (all.error_code, all.error_message.map(|message| message.to_string()), names.join(" "))
        };
        let of_home = Some(tells(&["orders", "payments"]));
        let of_other = Some(tells(&["orders", "payments", "logs"]));
        assert_eq!(told(of_home.clone(), of_other.clone()), (0, None, "payments orders logs".to_owned()));
        let (code, message, topics) = told(of_home, None);
        assert!(message.is_some_and(|message| message.contains("the cluster legacy does not answer")));
        assert_eq!((code, topics.as_str()), (REQUEST_TIMED_OUT, "payments"));
        let refused = ListPartitionReassignmentsResponse::default().with_error_code(31).with_error_message(None);
        assert_eq!(told(Some(refused), of_other), (31, None, "orders logs".to_owned()));
    }
}
