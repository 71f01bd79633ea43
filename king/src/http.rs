//! The king's HTTP port, for people and monitors: `/healthz` and `/metrics`.
//!
//! Each connection is for one request, and ends with the answer, or when the request does not come whole in time.

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use distwasm_proto::limits::HTTP_CONNECTIONS_MAX;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{accept::Connections, view::Viewer};

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, viewer: Viewer, shutdown: CancellationToken) -> std::io::Result<()> {
    let pages = Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics));
    let pages = pages.layer(map_response(close)).with_state(viewer);
    axum::serve(Connections::new(listener, HTTP_CONNECTIONS_MAX), pages)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

/// The connection ends with this answer.
async fn close(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
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
