//! What operators and Kubernetes ask: `/metrics`, `/healthz`, `/readyz`, `/clients`, and `POST /reload`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use kferry_wire::tell;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::routes::Reloaded;
use crate::server::Shared;
use crate::{messages, metrics};

/// Serves until `stop`.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/clients", get(|State(shared): State<Arc<Shared>>| async move { Json(json!({ "clients": shared.clients.rows() })) }))
        .route("/reload", post(reload))
        .with_state(shared);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tell!(messages::ADMIN_FAILED, %error);
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    metrics::pipes(&shared.pipes);
    shared.metrics.render()
}

/// Ready from the start: a cluster that is down is no reason to keep the clients of the others away.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.drain.is_cancelled() { (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response() } else { "ready\n".into_response() }
}

async fn reload(State(shared): State<Arc<Shared>>) -> Response {
    match shared.table.reload().await {
        Ok(Reloaded::Unchanged) => "unchanged\n".into_response(),
        Ok(Reloaded::Changed { after_restart }) => {
            let mut text = "in force\n".to_owned();
            for what in after_restart {
                text.push_str(&format!("{what}; {}\n", messages::NEEDS_RESTART.text));
            }
            text.into_response()
        }
        Err(error) => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("not taken, the table before it stays in force\n{error}\n")).into_response()
        }
    }
}
