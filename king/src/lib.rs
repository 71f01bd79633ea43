//! The king: the one coordinator of a kingdom. It takes jobs from queens and spreads their units over dukes.
//!
//! [`run`] is the whole king, on connections of any kind. The pure [`scheduler`] makes its decisions. The [`reactor`] and
//! the [`border`]s around it need no runtime: the simulation runs them as they are.

pub mod accept;
mod admin;
pub mod advertise;
pub mod authority;
pub mod border;
pub mod budget;
pub mod check;
pub mod connection;
pub mod data;
mod guard;
pub mod handshakes;
pub mod http;
pub mod inbox;
pub mod key;
mod metrics;
pub mod options;
pub mod payloads;
pub mod programs;
pub mod reactor;
pub mod restore;
pub mod scheduler;
mod service;
pub mod tokens;
mod transfers;
pub mod view;

use std::time::{Duration, SystemTime};

use distwasm_process::{clock::time_of_day, memory, shutdown::Stop};
use distwasm_proto::{
    limits::{
        CONNECTION_WINDOW_BYTES, FRAME_BYTES, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, KING_MEMORY_BYTES_MIN, REACTOR_QUEUE,
        REQUEST_BYTES_MAX, SHUTDOWN_WITHIN, STREAM_WINDOW_BYTES, STREAMS_MAX, UNKNOWN_MEMORY_KING_BYTES, WINDOW_UNITS,
    },
    wire::DESCRIPTORS,
};
use distwasm_transport::{link::Visitor, service::king_server::KingServer};
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tracing::warn;

use crate::{
    authority::Authority, budget::Budget, connection::Counted, guard::Guarded, handshakes::Handshakes, http::Pages,
    programs::Programs, scheduler::Rules,
};

/// Why a king failed.
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

/// The settings that a king starts with.
#[derive(Clone, Copy, Debug)]
pub struct Reign {
    /// What its scheduler is to do.
    pub rules: Rules,
    /// No job of an earlier king has a higher number. This king numbers its jobs from there.
    pub began: u64,
    /// The longest timeout of a unit, which is also that of jobs without one; `None` for no limit.
    pub timeout_max: Option<Duration>,
    /// How many units of a job may be without a verdict.
    pub window_units: u32,
    /// The memory for payloads, in bytes: see [`budget`].
    pub memory_bytes: u64,
}

impl Reign {
    /// The first king: no jobs of an earlier one can exist.
    pub fn first() -> Reign {
        Reign::with_memory(default_memory_bytes())
    }

    /// The first king, with this memory for payloads, in bytes.
    pub fn with_memory(memory_bytes: u64) -> Reign {
        Reign { rules: Rules::default(), began: 0, timeout_max: None, window_units: WINDOW_UNITS, memory_bytes }
    }

    /// The king of the queen's own process, with a duke in the same process. Its one job may use all memory.
    pub fn local() -> Reign {
        let rules = Rules { trusts_dukes: true, ..Rules::default() };
        Reign { rules, ..Reign::with_memory(memory_bytes()) }
    }

    /// A king that may replace an earlier one: its jobs are numbered from the milliseconds of the wall clock, so that
    /// kings need not remember anything. If the clock was set back, the new king recognises no jobs of the previous
    /// one.
    pub fn now(rules: Rules, timeout_max: Option<Duration>, memory_bytes: u64) -> Reign {
        let since = time_of_day().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let began = u64::try_from(since.as_millis().saturating_sub(EPOCH_MS)).unwrap_or(0);
        Reign { rules, began, timeout_max, ..Reign::with_memory(memory_bytes) }
    }
}

/// The memory for payloads by default, in bytes: half of what this process may use.
pub fn default_memory_bytes() -> u64 {
    memory_bytes() / 2
}

/// The memory that this process may use, in bytes.
fn memory_bytes() -> u64 {
    memory::usable_bytes().unwrap_or(UNKNOWN_MEMORY_KING_BYTES).max(2 * KING_MEMORY_BYTES_MIN)
}

/// The start of the year 2025 by the wall clock, in milliseconds. Counting from there keeps the numbers of jobs short.
const EPOCH_MS: u128 = 1_735_689_600_000;

/// Serves those connections of `incoming` that the authority lets in, the programs that the king keeps, and pages over
/// HTTP if there are any, until `stop` says so: gracefully, when the king's jobs have ended, or at once.
///
/// # Errors
///
/// When a server fails; peers cannot cause that.
pub async fn run(
    incoming: Handshakes,
    http: Option<Pages>,
    (authority, programs): (Authority, Programs),
    reign: Reign,
    stop: Stop,
) -> Result<(), KingError> {
    let (shutdown, drains) = (stop.ends().clone(), stop.drains().clone());
    let (sender, inputs) = mpsc::channel(REACTOR_QUEUE);
    let (publisher, viewer) = view::viewers();
    let reactor = reactor::run(reign, inputs, publisher, stop);
    let (links, budget) = (TaskTracker::new(), Budget::new(reign.memory_bytes));
    let kept = programs::Methods::server(programs.clone(), authority.clone(), links.clone());
    let admin = admin::Methods::server(programs.clone(), authority.clone(), links.clone());
    let service = service::Service::new(sender, viewer.clone(), authority.clone(), programs, links.clone(), budget);
    let service = service::Methods::new(service);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<KingServer<service::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let guarding = authority.clone();
    let grpc = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .layer(tower::layer::layer_fn(move |service| Counted(Guarded { authority: guarding.clone(), service })))
        .add_service(service)
        .add_service(kept)
        .add_service(admin)
        .add_service(health.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(reflection.max_decoding_message_size(REQUEST_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let grpc = async {
        let patience = async {
            shutdown.cancelled().await;
            // The server waits for its streams without a time limit.
            tokio::time::sleep(SHUTDOWN_WITHIN).await;
        };
        let served = tokio::select! {
            served = grpc => served.map_err(KingError::from),
            () = patience => {
                warn!("some peers did not close their streams; leaving without them");
                Ok(())
            }
        };
        // The rest of the king ends with the server, for whatever reason the server ended.
        shutdown.cancel();
        served
    };
    let http = async {
        match http {
            Some(pages) => pages.serve(viewer, authority.clone(), shutdown.clone()).await.map_err(KingError::Http),
            None => Ok(()),
        }
    };
    let health = async {
        // A client that looks for a king to submit a job to should find another one.
        tokio::select! {
            () = drains.cancelled() => health_reporter.set_not_serving::<KingServer<service::Service>>().await,
            () = shutdown.cancelled() => {}
        }
    };
    let tokens = async {
        tokio::select! {
            () = authority.keep_watch() => {}
            () = shutdown.cancelled() => {}
        }
    };
    let ((), grpc, http, (), ()) = tokio::join!(reactor, grpc, http, health, tokens);
    wait_for(links).await;
    grpc.and(http)
}

/// Serves only the dukes and queens of this process, until `stop` says so.
pub async fn run_local(visitors: mpsc::Receiver<Visitor>, reign: Reign, stop: Stop) {
    let (sender, inputs) = mpsc::channel(REACTOR_QUEUE);
    let (links, budget) = (TaskTracker::new(), Budget::new(reign.memory_bytes));
    let (publisher, viewer) = view::viewers();
    let authority = Authority::without_tokens(false);
    let service = service::Service::new(sender, viewer, authority, Programs::none(), links.clone(), budget);
    tokio::select! {
        () = reactor::run(reign, inputs, publisher, stop) => {}
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
