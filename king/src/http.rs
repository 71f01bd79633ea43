//! The king's HTTP port, for people and monitors: `/healthz` and `/metrics`.
//!
//! Each connection is for one request, and ends with the answer, or when the request does not come whole in time. Tokens
//! are taken over TLS, and in plaintext only within this machine.

use std::io;

use axum::{
    Router,
    extract::{ConnectInfo, State, connect_info::Connected},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use distwasm_proto::limits::HTTP_CONNECTIONS_MAX;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    accept::Connections,
    authority::{Authority, Refusal, Request, Wire},
    connection::Caller,
    guard::bearer,
    handshakes::Handshakes,
    key::Key,
    view::Viewer,
};

/// The pages, and where they are served.
#[derive(Debug)]
pub struct Pages {
    incoming: Handshakes,
    access: Access,
}

/// Who may see the metrics.
#[derive(Clone, Copy, Debug)]
struct Access {
    /// Only processes of this machine can reach the port.
    is_local: bool,
    /// Everybody who reaches the port may see the metrics.
    is_open: bool,
}

#[derive(Clone)]
struct Pager {
    viewer: Viewer,
    authority: Authority,
    access: Access,
}

impl Pages {
    /// The pages on this listener, over plaintext and over TLS with this key. If they are `open`, everybody may see the
    /// metrics.
    ///
    /// # Errors
    ///
    /// When the listener has no address.
    pub fn new(listener: TcpListener, key: &Key, is_open: bool) -> io::Result<Pages> {
        let is_local = listener.local_addr()?.ip().is_loopback();
        let incoming = Handshakes::for_http(Connections::new(listener, HTTP_CONNECTIONS_MAX), key);
        Ok(Pages { incoming, access: Access { is_local, is_open } })
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(
        self,
        viewer: Viewer,
        authority: Authority,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let Pages { incoming, access } = self;
        let pages = Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics));
        let pages = pages.layer(map_response(close)).with_state(Pager { viewer, authority, access });
        axum::serve(incoming, pages.into_make_service_with_connect_info::<Caller>())
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
    }
}

impl Connected<IncomingStream<'_, Handshakes>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Handshakes>) -> Caller {
        stream.io().caller().clone()
    }
}

/// The connection ends with this answer.
async fn close(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The king is healthy if its reactor answers.
async fn healthz(State(pager): State<Pager>) -> impl IntoResponse {
    match pager.viewer.look().await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}

async fn metrics(State(pager): State<Pager>, ConnectInfo(caller): ConnectInfo<Caller>, headers: HeaderMap) -> Response {
    if let Err(refused) = pager.check(&caller, &headers).await {
        return refused;
    }
    match pager.viewer.look().await {
        Some(view) => {
            let text = view.to_text(pager.authority.refusals());
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response(),
    }
}

impl Pager {
    /// Whether a caller may see the metrics; if not, the answer.
    async fn check(&self, caller: &Caller, headers: &HeaderMap) -> Result<(), Response> {
        let Access { is_local, is_open } = self.access;
        if is_open {
            return Ok(());
        }
        if caller.wire == Wire::Plain && !is_local {
            let text = "tokens do not travel in plaintext: ask by https://\n";
            return Err((StatusCode::FORBIDDEN, text).into_response());
        }
        let judged = self.authority.judge_patiently(caller.wire, bearer(headers), Request::Metrics).await;
        let Err(refusal) = judged else { return Ok(()) };
        self.authority.tell(caller.address, &refusal);
        let text = match &refusal {
            Refusal::NoToken => {
                "the metrics want a token (`king token create --role observer`), as Authorization: Bearer TOKEN; king \
                 --metrics-open shows them to everybody\n"
                    .to_owned()
            }
            refusal => format!("{refusal}\n"),
        };
        if refusal.is_about_rights() {
            return Err((StatusCode::FORBIDDEN, text).into_response());
        }
        Err((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response())
    }
}
