//! The king's HTTP port, for people and monitors: `/healthz` and `/metrics`.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::{accept::Connections, reactor::Input};

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    reactor: mpsc::Sender<Input>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let pages = Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state(reactor);
    axum::serve(Connections::new(listener), pages).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// The king is healthy if its reactor answers.
async fn healthz(State(reactor): State<mpsc::Sender<Input>>) -> impl IntoResponse {
    match ask(&reactor).await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}

async fn metrics(State(reactor): State<mpsc::Sender<Input>>) -> impl IntoResponse {
    match ask(&reactor).await {
        Some(metrics) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.to_text()).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response(),
    }
}

async fn ask(reactor: &mpsc::Sender<Input>) -> Option<crate::metrics::Metrics> {
    let (answer, answered) = oneshot::channel();
    reactor.send(Input::Asked(answer)).await.ok()?;
    answered.await.ok()
}
