//! What operators and Kubernetes ask: `/metrics`, `/healthz`, `/readyz`, `/clients`, `/moves`, and `POST /reload`.

use std::io;
use std::iter;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use kferry_wire::operators::{self, Process};
use kferry_wire::tell;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::messages;
use crate::metrics::{self, PipeReadings};
use crate::proxy::Proxy;
use crate::routes::Reloaded;

/// Serves until `stop`. `metrics`: what `/metrics` shows.
pub(crate) async fn serve(proxy: Arc<Proxy>, metrics: PrometheusHandle, listener: TcpListener, stop: CancellationToken) {
    let process = Process::described();
    let router = Router::new()
        .route("/metrics", get(move |State(proxy): State<Arc<Proxy>>| async move { render(&proxy, &process, &metrics) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/clients", get(|State(proxy): State<Arc<Proxy>>| async move { Json(json!({ "clients": proxy.clients.rows() })) }))
        .route("/moves", get(moves))
        .route("/reload", post(reload))
        .with_state(proxy.clone());
    let failed = |error: &io::Error| tell!(messages::ADMIN_FAILED, %error);
    operators::serve(listener, router, proxy.open_files.operators, failed, stop.cancelled_owned()).await;
}

fn render(proxy: &Proxy, process: &Process, metrics: &PrometheusHandle) -> String {
    process.take();
    metrics::most(proxy.most(&proxy.routes.in_force()).all);
    let totals = proxy.pipes.totals();
    let (in_use, limit) = proxy.pipes.in_use();
    metrics::carrying(proxy.carrying.in_use());
    if let Some(moves) = &proxy.moves {
        let seen = moves.seen();
        metrics::moves(usize::from(seen.state.open().is_some()), seen.plan.waits.len());
    }
    metrics::pipes(&PipeReadings { spliced: totals.spliced, copied: totals.copied, tls: totals.tls, in_use, limit });
    metrics.render()
}

/// A cluster that is down is no reason to keep the clients of the others away. But without the log of decisions a process that has just started serves no
/// relayed client: one that serves them must not be replaced by it.
async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if proxy.drain.is_cancelled() {
        return unready("draining\n".to_owned());
    }
    match proxy.moves.as_ref().and_then(|moves| moves.why_not()) {
        Some(why) => unready(format!("relayed clients wait for the log of decisions: {why}\n")),
        None => "ready\n".into_response(),
    }
}

async fn moves(State(proxy): State<Arc<Proxy>>) -> Response {
    match &proxy.moves {
        Some(moves) => Json(moves.shown(&proxy.holds)).into_response(),
        None => (StatusCode::NOT_FOUND, "routes.toml has no [state]: nothing moves while clients run\n").into_response(),
    }
}

async fn reload(State(proxy): State<Arc<Proxy>>) -> Response {
    match proxy.routes.reload().await {
        Ok(Reloaded::Unchanged) => match proxy.moves.as_ref().and_then(|moves| moves.seen().state.stopped()) {
            Some(id) => format!("unchanged, and wished anew: move {id}, which an operator has aborted, may begin again\n").into_response(),
            None => "unchanged\n".into_response(),
        },
        Ok(Reloaded::Changed { after_restart }) => {
            let after_restart = after_restart.into_iter().map(|sentence| format!("{sentence}; {}\n", messages::NEEDS_RESTART.text));
            iter::once("in force\n".to_owned()).chain(after_restart).collect::<String>().into_response()
        }
        Err(error) => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("not taken, the table before it stays in force\n{error}\n")).into_response()
        }
    }
}
