//! The king's HTTP port, for people and monitors: `/healthz` and `/metrics`.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{accept::Connections, view::Viewer};

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, viewer: Viewer, shutdown: CancellationToken) -> std::io::Result<()> {
    let pages = Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state(viewer);
    axum::serve(Connections::new(listener), pages).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// The king is healthy if its reactor answers.
async fn healthz(State(viewer): State<Viewer>) -> impl IntoResponse {
    match viewer.look().await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}

async fn metrics(State(viewer): State<Viewer>) -> impl IntoResponse {
    match viewer.look().await {
        Some(view) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], view.to_text()).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response(),
    }
}
