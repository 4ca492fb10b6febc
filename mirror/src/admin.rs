//! What operators and Kubernetes ask: `/metrics`, `/healthz`, `/readyz`, `/partitions`, `/groups`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::groups::Report;
use crate::overview::Overview;
use crate::partition::Phase;

/// Each mirror's partitions, by the mirror's name.
pub type Mirrors = BTreeMap<Arc<str>, Arc<Overview>>;

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, mirrors: Mirrors, stop: CancellationToken) {
    let mirrors = Arc::new(mirrors);
    let router = Router::new()
        .route("/metrics", get(move || async move { metrics.render() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/partitions", get(|State(mirrors): State<Arc<Mirrors>>| async move { Json(partitions(&mirrors)) }))
        .route("/groups", get(|State(mirrors): State<Arc<Mirrors>>| async move { Json(groups(&last(&mirrors))) }))
        .route("/groups/sync", post(sync_groups))
        .with_state(mirrors);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        kferry_wire::tell!(crate::messages::ADMIN_FAILED, %error);
    }
}

/// Ready when every partition of this process has been looked at: from then on what is behind is lag, and what stands still says why.
async fn ready(State(mirrors): State<Arc<Mirrors>>) -> Response {
    let Some((mirror, table)) = mirrors.iter().find(|(_, table)| !table.is_ready()) else { return "ready\n".into_response() };
    let rows = table.rows();
    let waiting = rows.iter().filter(|(_, known)| matches!(known.phase, Phase::Waiting | Phase::Comparing | Phase::Padding)).count();
    let told = if rows.is_empty() {
        format!("{mirror}: no partition is known yet, or the process is not in the mirror's group\n")
    } else {
        format!("{mirror}: {waiting} partitions are not looked at yet\n")
    };
    (StatusCode::SERVICE_UNAVAILABLE, told).into_response()
}

fn partitions(mirrors: &Mirrors) -> Value {
    let rows = mirrors.iter().flat_map(|(mirror, table)| {
        table.rows().into_iter().map(move |(partition, known)| {
            json!({
                "mirror": &**mirror,
                "topic": &*partition.topic,
                "partition": partition.partition,
                "phase": known.phase,
                "reason": known.reason,
                "agreed": known.agreed,
                "leader_log_start": known.leader_log_start_offset,
                "leader_end": known.leader_last_stable_offset,
                "follower_log_start": known.follower_log_start_offset,
                "lag_records": known.lag(),
                "lag_seconds": known.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
                "skipped": known.skipped,
                "segments": known.map.segments().len(),
            })
        })
    });
    json!({ "partitions": rows.collect::<Vec<_>>() })
}

/// What each mirror's last pass over the groups found.
fn last(mirrors: &Mirrors) -> Vec<(Arc<str>, Arc<Report>)> {
    mirrors.iter().map(|(mirror, table)| (mirror.clone(), table.groups.report())).collect()
}

/// A pass over the groups of each mirror, and what it found.
async fn sync_groups(State(mirrors): State<Arc<Mirrors>>) -> Response {
    let syncs = mirrors.iter().map(async |(mirror, table)| {
        let report = table.groups.sync().await;
        report.map(|report| (mirror.clone(), report))
    });
    let Some(reports) = join_all(syncs).await.into_iter().collect::<Option<Vec<_>>>() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no pass over the groups came to an end; the log says why\n").into_response();
    };
    Json(groups(&reports)).into_response()
}

fn groups(reports: &[(Arc<str>, Arc<Report>)]) -> Value {
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
