//! What is told of a pass over the groups: each event once, its log line and its metric.

use std::collections::HashMap;

use kferry_wire::tell;
use metrics::{counter, gauge};
use tracing::debug;

use super::{GroupOffset, GroupReport, OffsetState};
use crate::messages;
use crate::metrics::{GROUP_COMMITS, GROUP_OFFSETS, GROUP_PASSES, GROUP_SECONDS};

/// The most offsets that one pass writes log lines about. `GET /groups` has all of them.
const GROUPS_TOLD: usize = 20;

/// A pass over the groups has ended: tells what has changed since the pass before.
pub(crate) fn groups(mirror: &str, before: &GroupReport, now: &GroupReport) {
    let result = if now.error.is_some() { "failed" } else { "ok" };
    counter!(GROUP_PASSES, "mirror" => mirror.to_owned(), "result" => result).increment(1);
    counter!(GROUP_COMMITS, "mirror" => mirror.to_owned()).increment(now.written as u64);
    gauge!(GROUP_SECONDS, "mirror" => mirror.to_owned()).set(now.seconds);
    if let Some(error) = &now.error {
        return tell!(messages::OFFSETS_UNKNOWN, mirror, error);
    }
    for state in OffsetState::ALL {
        let count = now.offsets.iter().filter(|offset| offset.state == state).count();
        gauge!(GROUP_OFFSETS, "mirror" => mirror.to_owned(), "state" => state.name()).set(count as f64);
    }
    debug!(mirror, groups = now.groups, offsets = now.offsets.len(), written = now.written, seconds = now.seconds, "groups");
    if before.offsets.is_empty() && !now.offsets.is_empty() {
        tell!(messages::OFFSETS_COPIED, mirror, groups = now.groups, offsets = now.offsets.len(), written = now.written);
    }
    let states: HashMap<_, _> = before.offsets.iter().map(|offset| (offset.key(), offset.state)).collect();
    let is_new = |offset: &&GroupOffset| {
        let is_quiet = matches!(offset.state, OffsetState::InSync | OffsetState::Waiting);
        !is_quiet && states.get(&offset.key()) != Some(&offset.state)
    };
    let news: Vec<_> = now.offsets.iter().filter(is_new).collect();
    for offset in news.iter().take(GROUPS_TOLD) {
        let (what, state, reason) = (offset.to_string(), offset.state.name(), offset.reason.as_deref().unwrap_or_default());
        match offset.state {
            OffsetState::Refused => tell!(messages::OFFSET_REFUSED, mirror, what, reason),
            _ => tell!(messages::OFFSET_NOT_COPIED, mirror, what, state, reason),
        }
    }
    if news.len() > GROUPS_TOLD {
        tell!(messages::MORE_OFFSETS_NOT_COPIED, mirror, more = news.len() - GROUPS_TOLD);
    }
}
