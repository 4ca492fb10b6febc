//! What operators and Kubernetes ask: `/metrics`, `/healthz`, `/readyz`, `/partitions`, `/groups`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::join_all;
use kferry_wire::operators::{self, Process};
use kferry_wire::tell;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::groups::GroupReport;
use crate::messages;
use crate::overview::Overview;
use crate::partition::{NotCopied, Phase, Progress};
use crate::transactions::Unstable;

/// The partitions and groups of each mirror of this process, by the mirror's name.
pub type Mirrors = BTreeMap<Arc<str>, Arc<Overview>>;

/// Connections to the admin address at a time.
const OPERATORS: usize = 32;

/// Serves the admin address until `stop`. `state`: the cluster of `[state]`.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, mirrors: Mirrors, state: Option<Arc<str>>, stop: CancellationToken) {
    let mirrors = Arc::new(mirrors);
    let process = Process::described();
    let render = move || {
        process.take();
        metrics.render()
    };
    let router = Router::new()
        .route("/metrics", get(move || async move { render() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/partitions", get(|State(mirrors): State<Arc<Mirrors>>| async move { Json(partitions(&mirrors, state.as_deref())) }))
        .route("/groups", get(|State(mirrors): State<Arc<Mirrors>>| async move { Json(groups(&last(&mirrors))) }))
        .route("/groups/sync", post(sync_groups))
        .with_state(mirrors);
    let failed = |error: &io::Error| tell!(messages::ADMIN_FAILED, %error);
    operators::serve(listener, router, OPERATORS, failed, stop.cancelled_owned()).await;
}

/// Ready when every partition of this process has been looked at: from then on what is behind is lag, and what stands still says why.
async fn ready(State(mirrors): State<Arc<Mirrors>>) -> Response {
    let Some((mirror, overview)) = mirrors.iter().find(|(_, overview)| !overview.is_ready()) else {
        // Ready means that the process is at work. What it cannot do does not go away by a restart.
        let trouble = mirrors.iter().filter_map(|(mirror, overview)| {
            let stands = |progress: &Progress| matches!(progress.phase, Phase::Failed | Phase::Diverged);
            let stand = overview.rows().iter().filter(|(_, progress)| stands(progress)).count();
            let topics = overview.topics().len();
            (topics + stand > 0)
                .then(|| format!("{mirror}: {topics} topics cannot be copied, {stand} partitions stand still: see /partitions\n"))
        });
        return format!("ready\n{}", trouble.collect::<String>()).into_response();
    };
    let rows = overview.rows();
    let waiting = rows.iter().filter(|(_, progress)| matches!(progress.phase, Phase::Waiting | Phase::Comparing | Phase::Padding)).count();
    let told = if rows.is_empty() {
        format!("{mirror}: no partition is known yet, or the process is not in the mirror's group\n")
    } else if waiting == 0 {
        format!("{mirror}: topics are still to be created, or the process has just looked at its last partition\n")
    } else {
        format!("{mirror}: {waiting} partitions are not looked at yet\n")
    };
    (StatusCode::SERVICE_UNAVAILABLE, told).into_response()
}

/// The JSON of `GET /partitions`.
fn partitions(mirrors: &Mirrors, state: Option<&str>) -> Value {
    let (now, timestamp) = (Instant::now(), jiff::Timestamp::now().as_millisecond());
    let rows = mirrors.iter().flat_map(|(mirror, overview)| {
        overview.rows().into_iter().map(move |(partition, progress)| {
            let unstable = progress.unstable.as_ref();
            json!({
                "mirror": &**mirror,
                "topic": &*partition.topic,
                "partition": partition.partition,
                "phase": progress.phase,
                "reason": progress.reason.clone().or_else(|| progress.held_up(now, timestamp)),
                "agreed": progress.agreed,
                "leader_log_start": progress.leader_log_start_offset,
                "leader_end": progress.leader_last_stable_offset,
                "leader_high_watermark": progress.leader_high_watermark(),
                "follower_log_start": progress.follower_log_start_offset,
                "deleted_on_follower": progress.deleted_on_follower(),
                "lag_records": progress.lag(),
                "lag_seconds": progress.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
                "unstable_records": unstable.map_or(0, Unstable::offsets),
                "unstable_seconds": unstable.map_or(0.0, |unstable| now.saturating_duration_since(unstable.since).as_secs_f64()),
                "open_transaction": unstable.and_then(|unstable| unstable.whose.as_ref()?.as_ref().ok()),
                "skipped": progress.skipped,
                "segments": progress.map.segments().len(),
            })
        })
    });
    let topics = mirrors.iter().flat_map(|(mirror, overview)| {
        let row = |topic: NotCopied| json!({ "mirror": &**mirror, "topic": topic.what, "reason": topic.reason });
        overview.topics().into_iter().map(row)
    });
    json!({ "partitions": rows.collect::<Vec<_>>(), "topics": topics.collect::<Vec<_>>(), "state": state })
}

/// The report of each mirror's last pass over the groups.
fn last(mirrors: &Mirrors) -> Vec<(Arc<str>, Arc<GroupReport>)> {
    mirrors.iter().map(|(mirror, overview)| (mirror.clone(), overview.groups.report())).collect()
}

/// `POST /groups/sync`: a pass over the groups of each mirror, and its report.
async fn sync_groups(State(mirrors): State<Arc<Mirrors>>) -> Response {
    let syncs = mirrors.iter().map(async |(mirror, overview)| {
        let report = overview.groups.sync().await;
        report.map(|report| (mirror.clone(), report))
    });
    let Some(reports) = join_all(syncs).await.into_iter().collect::<Option<Vec<_>>>() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no pass over the groups came to an end; the log says why\n").into_response();
    };
    Json(groups(&reports)).into_response()
}

/// The JSON of `GET /groups`.
fn groups(reports: &[(Arc<str>, Arc<GroupReport>)]) -> Value {
    let passes = reports.iter().map(|(mirror, report)| {
        let mut pass = json!(**report);
        pass["mirror"] = json!(&**mirror);
        pass
    });
    let offsets = reports.iter().flat_map(|(mirror, report)| {
        report.offsets.iter().map(move |offset| {
            let mut row = json!(offset);
            row["mirror"] = json!(&**mirror);
            row
        })
    });
    json!({ "passes": passes.collect::<Vec<_>>(), "groups": offsets.collect::<Vec<_>>() })
}
