//! What live moves need of the file, and what has no effect because something else is not there.

use super::owners::{called, first_key};
use super::relayed_at;
use crate::read::mirrors::MirrorDraft;
use crate::read::table::{At, Findings, quoted};
use crate::read::{Draft, RouteDraft};
use crate::types::proxy::Mode;

/// Looks at everything that could be read. A field that could not is left out: its error is told already.
pub(super) fn moves(findings: &Findings<'_>, draft: &Draft<'_>) {
    let routes = draft.routes.as_deref().unwrap_or_default();
    for route in routes {
        stopped_and_relayed(findings, route);
    }
    match &draft.state {
        Ok(Some(state)) => {
            login(findings, draft, routes);
            // No error: what has moved leads where the log says, also once its mirror is gone.
            if draft.mirrors.as_ref().is_ok_and(Vec::is_empty) {
                let hint = "only what a mirror copies can move: write [[mirrors]]; after moves leave it so: without [state] no proxy starts beside their log";
                findings.warn(state.span.clone(), "[state] without a mirror: nothing can move", hint);
            }
        }
        // Who takes [state] out turns moves off: that edit counts, whatever is left of them.
        Ok(None) => without_state(findings, draft, routes),
        Err(_) => {}
    }
}

/// Relayed producers are held for a move. Nobody needs to stop them.
fn stopped_and_relayed(findings: &Findings<'_>, route: &RouteDraft<'_>) {
    if let (Ok(Mode::Relay), Ok(Some(stopped))) = (&route.mode, &route.stopped) {
        let hint = "it is for bootstrap mode, where clients are with the brokers by themselves: drop this line, the proxy holds what relayed \
                    clients produce";
        findings.mismatch(stopped.span.clone(), format!("`stopped` of {} in relay mode", called(route)), hint);
    }
}

/// The log of decisions is kferry's own. Where a mirror or a relayed route asks for the same login, the error is told there.
fn login(findings: &Findings<'_>, draft: &Draft<'_>, routes: &[RouteDraft<'_>]) {
    let Some(name) = draft.state_cluster() else { return };
    let Some(cluster) = draft.clusters.iter().flatten().find(|cluster| cluster.name.value == name.value) else { return };
    let by_mirror = draft.mirrors.iter().flatten().flat_map(MirrorDraft::named_clusters).any(|named| named.value == name.value);
    let lacks = cluster.security.as_ref().is_ok_and(|security| security.sasl == Some(None));
    if lacks && !by_mirror && relayed_at(routes, name.value).is_none() {
        let line = findings.line(&cluster.name.span);
        let hint = format!("below line {line} write sasl_mechanism, sasl_username and sasl_password_file");
        findings.mismatch(name.span.clone(), format!("[state] needs kferry's own login at cluster {}", quoted(name.value)), hint);
    }
}

fn without_state(findings: &Findings<'_>, draft: &Draft<'_>, routes: &[RouteDraft<'_>]) {
    let hint = "nothing moves live without [state]: write it, with the cluster that is to have the log of decisions, or drop this";
    if let Ok(moves) = &draft.moves
        && !moves.span.is_empty()
    {
        findings.warn(moves.span.clone(), "[moves] has no effect", hint);
    }
    for route in routes {
        if let (Ok(Mode::Bootstrap), Ok(Some(stopped))) = (&route.mode, &route.stopped)
            && stopped.value
        {
            findings.warn(stopped.span.clone(), format!("`stopped` of {} has no effect", called(route)), hint);
        }
        // In bootstrap mode it is an error already.
        if let (Ok(Mode::Relay), Some(key)) = (&route.mode, first_key(route)) {
            findings.warn(key.span.clone(), format!("`{}` of {} has no effect", key.value, called(route)), hint);
        }
    }
}

impl<'t> Draft<'t> {
    /// Where `[state]` names its cluster.
    pub(super) fn state_cluster(&self) -> Option<&At<&'t str>> {
        self.state.as_ref().ok()?.as_ref()?.cluster.as_ref().ok()
    }
}
