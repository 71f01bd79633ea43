//! The gRPC border: checks the words of peers, turns them into types that cannot be wrong, and passes them to the
//! reactor.

pub(crate) mod submit;
pub(crate) mod volunteer;
mod wishes;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use distwasm_proto::{
    PROTOCOL,
    guest::GuestError,
    ids::DukeId,
    limits::{LABELS_MAX, NAME_BYTES_MAX},
    wire::{self, DukeOrder, QueenNews},
};
use distwasm_transport::{
    link::{SUBMIT_JOB, VOLUNTEER, Visitor},
    service::king_server::{King, KingServer},
    stream::{self, Incoming, StreamError},
    transfer::{Outbox, OutboxStream, TransferError},
};
use http::{Request, Response};
use prost::Message;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, server::NamedService, transport::server::TcpConnectInfo};
use tracing::{debug, warn};

use crate::reactor::Input;

/// One link of a queen. A queen that comes back gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(u64);

/// The gRPC service. It owns a task for each link, which ends with the link.
#[derive(Clone)]
pub(crate) struct Service {
    reactor: mpsc::Sender<Input>,
    links: Arc<AtomicU64>,
    tasks: TaskTracker,
}

/// Why a link ended without the word `end`.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the connection ended without a word")]
    Silent,
    #[error("it said nothing within {0:?} of connecting")]
    NoHello(std::time::Duration),
    #[error("it speaks protocol {0}, and this king speaks {PROTOCOL}: use the same version of distwasm everywhere")]
    Protocol(u32),
    #[error(transparent)]
    Garbled(StreamError),
    #[error("its words do not fit together: {0}")]
    Transfer(#[from] TransferError),
    #[error("its guest settings are not valid: {0}")]
    Guest(#[from] GuestError),
    #[error("it broke the protocol: {0}")]
    Nonsense(&'static str),
    #[error("the king ended the link")]
    Ended,
}

/// The address of a peer, if the peer is not in this process.
#[derive(Clone, Copy, Debug)]
struct Peer(Option<SocketAddr>);

impl Peer {
    /// Logs why a link ended, if the peer is to blame. The reactor logs the consequences for a duke or a job.
    fn tell(self, leaving: &Leaving) {
        let Err(error) = leaving else { return };
        let address = self.0.map(|address| address.to_string()).unwrap_or_default();
        match error {
            LinkError::Broken(_) | LinkError::Silent | LinkError::Ended => {
                debug!(peer = address, %error, "a link ended");
            }
            LinkError::NoHello(_)
            | LinkError::Protocol(_)
            | LinkError::Garbled(_)
            | LinkError::Transfer(_)
            | LinkError::Guest(_)
            | LinkError::Nonsense(_) => warn!(peer = address, %error, "a peer is refused"),
        }
    }
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> LinkError {
        match error {
            // A connection may break in the middle of a message, too.
            StreamError::Broken(_) | StreamError::CutOff => LinkError::Broken(error.to_string()),
            StreamError::NotGrpc(_)
            | StreamError::Refused(_)
            | StreamError::TooLarge { .. }
            | StreamError::Compressed
            | StreamError::Undecodable(_) => LinkError::Garbled(error),
        }
    }
}

impl LinkError {
    /// Whether the peer did nothing wrong, and may come back with what it has.
    pub(crate) fn may_come_back(&self) -> bool {
        matches!(self, LinkError::Broken(_) | LinkError::Silent | LinkError::Ended)
    }
}

/// How a peer left.
pub(crate) type Leaving = Result<(), LinkError>;

impl Service {
    pub(crate) fn new(reactor: mpsc::Sender<Input>, tasks: TaskTracker) -> Service {
        Service { reactor, links: Arc::default(), tasks }
    }

    /// A number that no other link has.
    fn next_link(&self) -> u64 {
        1 + self.links.fetch_add(1, Ordering::Relaxed)
    }

    /// Listens to a duke; returns the king's orders to it.
    fn volunteer(&self, words: Incoming<wire::FromDuke>, peer: Peer) -> OutboxStream<DukeOrder> {
        let (outbox, orders) = Outbox::new();
        let duke = DukeId(self.next_link());
        let link = volunteer::Link { duke, reactor: self.reactor.clone(), outbox, peer };
        self.tasks.spawn(link.serve(words));
        orders
    }

    /// Listens to a queen; returns the king's news to it.
    fn submit_job(&self, words: Incoming<wire::FromQueen>, peer: Peer) -> OutboxStream<QueenNews> {
        let (outbox, news) = Outbox::new();
        let link = LinkId(self.next_link());
        let link = submit::Link { link, reactor: self.reactor.clone(), outbox, peer };
        self.tasks.spawn(link.serve(words));
        news
    }

    /// Lets in the dukes and queens of this process.
    pub(crate) async fn receive(&self, mut visitors: mpsc::Receiver<Visitor>) {
        while let Some(visitor) = visitors.recv().await {
            // The visitor may have gone again.
            match visitor {
                Visitor::Duke(words, answer) => {
                    let _there = answer.send(Incoming::local(self.volunteer(words, Peer(None))));
                }
                Visitor::Queen(words, answer) => {
                    let _there = answer.send(Incoming::local(self.submit_job(words, Peer(None))));
                }
            }
        }
    }
}

#[tonic::async_trait]
impl King for Service {
    async fn list_jobs(
        &self,
        _: tonic::Request<wire::ListJobsRequest>,
    ) -> Result<tonic::Response<wire::JobList>, Status> {
        let jobs = ask_for_jobs(&self.reactor).await;
        jobs.map(tonic::Response::new).ok_or_else(|| Status::unavailable("the king is shutting down"))
    }
}

/// The gRPC service as a whole: streams are carried by [`distwasm_transport::stream`], and the rest by tonic.
#[derive(Clone)]
pub(crate) struct Methods {
    service: Service,
    others: KingServer<Service>,
}

impl Methods {
    pub(crate) fn new(service: Service) -> Methods {
        Methods { others: KingServer::new(service.clone()), service }
    }
}

impl NamedService for Methods {
    const NAME: &'static str = <KingServer<Service> as NamedService>::NAME;
}

impl tower_service::Service<Request<Body>> for Methods {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<TcpConnectInfo>();
        let peer = Peer(connection.and_then(TcpConnectInfo::remote_addr));
        let response = match request.uri().path() {
            VOLUNTEER => stream::response(self.service.volunteer(Incoming::of_request(request), peer)),
            SUBMIT_JOB => stream::response(self.service.submit_job(Incoming::of_request(request), peer)),
            _ => return self.others.call(request),
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}

/// The jobs, as the reactor tells them.
async fn ask_for_jobs(reactor: &mpsc::Sender<Input>) -> Option<wire::JobList> {
    let (answer, answered) = oneshot::channel();
    reactor.send(Input::JobsAsked(answer)).await.ok()?;
    answered.await.ok()
}

/// The next message of a peer, or why there is none.
async fn next_message<M: Message + Default + 'static>(
    stream: &mut Incoming<M>,
    ended: &CancellationToken,
) -> Result<M, LinkError> {
    let message = tokio::select! {
        message = stream.message() => message,
        () = ended.cancelled() => return Err(LinkError::Ended),
    };
    match message {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(LinkError::Silent),
        Err(error) => Err(error.into()),
    }
}

fn check_protocol(protocol: u32) -> Result<(), LinkError> {
    if protocol == PROTOCOL { Ok(()) } else { Err(LinkError::Protocol(protocol)) }
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// Whether a duke may have these labels, and a job require them.
fn are_labels(labels: &HashMap<String, String>) -> bool {
    labels.len() <= LABELS_MAX && labels.iter().all(|(key, value)| is_name(key) && is_name(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_cut_off_within_a_message_may_come_back_and_who_sends_nonsense_may_not() {
        let may_come_back = |error: StreamError| LinkError::from(error).may_come_back();
        assert!(may_come_back(StreamError::CutOff));
        assert!(may_come_back(StreamError::Broken("reset".to_owned())));
        assert!(!may_come_back(StreamError::TooLarge { bytes: usize::MAX }));
        assert!(!may_come_back(StreamError::Compressed));
    }
}
