//! The king: the one coordinator of a kingdom. He takes jobs from queens and spreads their units over dukes.
//!
//! [`run`] is the whole king on connections of any kind. What he decides is decided by the pure [`scheduler`].

pub mod accept;
mod http;
mod metrics;
pub mod options;
mod payloads;
mod reactor;
pub mod scheduler;
mod service;

use std::time::{Duration, SystemTime};

use distwasm_proto::{
    limits::{
        CONNECTION_WINDOW_BYTES, FRAME_BYTES, GRACE, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, REACTOR_QUEUE,
        SHUTDOWN_WITHIN, STREAM_WINDOW_BYTES,
    },
    link::Visitor,
    stop::Stop,
    time::{Clock, time_of_day},
    wire::{DESCRIPTORS, king_server::KingServer},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::Stream;
use tokio_util::task::TaskTracker;
use tonic::transport::{Server, server::Connected};
use tracing::warn;

/// Why a king could not go on.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KingError {
    #[error("failed to serve gRPC")]
    Grpc(#[from] tonic::transport::Error),
    #[error("failed to describe the gRPC services")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("failed to serve HTTP")]
    Http(#[source] std::io::Error),
}

/// What a king begins with.
#[derive(Clone, Copy, Debug)]
pub struct Reign {
    /// How long a duke or a queen whose link broke may take to come back.
    pub grace: Duration,
    /// No job of a king before him has a higher number: his own are numbered from there.
    pub began: u64,
}

impl Reign {
    /// A king beside whom there was none before.
    pub fn first() -> Reign {
        Reign { grace: GRACE, began: 0 }
    }

    /// A king who may stand in the place of another: his jobs are numbered by the milliseconds of the wall clock, so
    /// that kings need not remember anything. A clock that was set back makes a king take the place of none.
    pub fn now(grace: Duration) -> Reign {
        let since = time_of_day().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Reign { grace, began: u64::try_from(since.as_millis().saturating_sub(EPOCH_MS)).unwrap_or(0) }
    }
}

/// The year 2025 began, by the wall clock, in milliseconds: numbers of jobs are shorter so.
const EPOCH_MS: u128 = 1_735_689_600_000;

/// Serves the connections of `incoming`, and HTTP if there is a listener for it, until `stop` says so: in peace, when
/// the jobs that he has have ended, or at once.
///
/// # Errors
///
/// When a server fails; peers cannot bring that about.
pub async fn run<C, E>(
    incoming: impl Stream<Item = Result<C, E>>,
    http: Option<TcpListener>,
    reign: Reign,
    stop: Stop,
) -> Result<(), KingError>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (shutdown, drains) = (stop.ends().clone(), stop.drains().clone());
    let (sender, inputs) = mpsc::channel(REACTOR_QUEUE);
    let reactor = reactor::Reactor::new(Clock::start(), reign).run(inputs, stop);
    let links = TaskTracker::new();
    let service = service::Methods::new(service::Service::new(sender.clone(), links.clone()));
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<KingServer<service::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let grpc = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let grpc = async {
        let patience = async {
            shutdown.cancelled().await;
            // The server waits for its streams without an end of its own.
            tokio::time::sleep(SHUTDOWN_WITHIN).await;
        };
        let served = tokio::select! {
            served = grpc => served.map_err(KingError::from),
            () = patience => {
                warn!("some peers did not close their streams; leaving without them");
                Ok(())
            }
        };
        // Whatever ended the server ends the rest of the king.
        shutdown.cancel();
        served
    };
    let http = async {
        match http {
            Some(listener) => http::serve(listener, sender.clone(), shutdown.clone()).await.map_err(KingError::Http),
            None => Ok(()),
        }
    };
    let health = async {
        // Whoever looks for a king to give a job to is to find another.
        tokio::select! {
            () = drains.cancelled() => health_reporter.set_not_serving::<KingServer<service::Service>>().await,
            () = shutdown.cancelled() => {}
        }
    };
    let ((), grpc, http, ()) = tokio::join!(reactor, grpc, http, health);
    wait_for(links).await;
    grpc.and(http)
}

/// The same for those who come from the same process, and nobody else.
pub async fn run_local(visitors: mpsc::Receiver<Visitor>, reign: Reign, stop: Stop) {
    let (sender, inputs) = mpsc::channel(REACTOR_QUEUE);
    let links = TaskTracker::new();
    let service = service::Service::new(sender, links.clone());
    tokio::select! {
        () = reactor::Reactor::new(Clock::start(), reign).run(inputs, stop) => {}
        () = async { service.receive(visitors).await; std::future::pending().await } => {}
    }
    wait_for(links).await;
}

async fn wait_for(links: TaskTracker) {
    links.close();
    if timeout(SHUTDOWN_WITHIN, links.wait()).await.is_err() {
        warn!("some links did not end; leaving without them");
    }
}
