//! Requests to a view of fixed clusters that may be anything.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use kferry_wire::api::{Api, By};
use tokio::runtime::{Builder, Runtime};

use super::leaders::Leaders;
use super::{Door, Parts, View, changes, fixed, groups_of, refusal};
use crate::ending::Cause;
use crate::relay::holds::Holds;
use crate::relay::request::RequestHead;

/// A view that nobody is asked for: no cluster answers just now.
struct Fixed {
    runtime: Runtime,
    view: View,
    parts: Arc<Parts>,
    leaders: Leaders,
    holds: Holds,
    door: Door,
}

impl Fixed {
    fn new() -> Self {
        let (parts, leaders) = fixed::parts("new", Some(&["orders", "logs"]), Some(&["orders", "payments"]));
        for part in &parts.clusters {
            part.own.silent_for(Duration::ZERO);
        }
        let view = View::new(parts);
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
        Self { runtime, parts: view.parts(), view, leaders, holds: Holds::default(), door: fixed::door() }
    }

    fn answer(&self, head: RequestHead, body: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        match (head.api.key, head.api.by) {
            (
                ApiKey::Metadata
                | ApiKey::DescribeCluster
                | ApiKey::FindCoordinator
                | ApiKey::DescribeTransactions
                | ApiKey::ListPartitionReassignments,
                _,
            ) => self.runtime.block_on(self.view.answer(head, body, &self.door, &self.holds)).map(Some),
            (_, By::View) if head.is_for_view() => {
                changes::refused(&self.parts, &self.leaders, &self.holds, head, body, &self.door).map(|(_, answer)| Some(answer))
            }
            (_, By::Group(_)) => {
                let groups = groups_of(head, body)?;
                for at in ["legacy", "new"] {
                    refusal(&self.leaders, at, &groups, head, body)?;
                }
                refusal(&self.leaders, "elsewhere", &groups, head, body)
            }
            _ => Ok(None),
        }
    }
}

/// How long the answer is that a view has to the body of a request, whose version is any number; `None` if there is none.
pub fn view_request(key: i16, version: u8, body: &[u8]) -> Option<usize> {
    thread_local! {
        static FIXED: Fixed = Fixed::new();
    }
    let api = Api::of(key)?;
    let (min, max) = api.versions()?;
    let head = RequestHead { api, version: min + i16::from(version % 32) % (max - min + 1), correlation_id: 0 };
    FIXED.with(|fixed| fixed.answer(head, body)).ok().flatten().map(|answer| answer.len())
}
