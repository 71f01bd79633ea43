//! The gRPC service: reads the streams of peers, and passes on what their borders make of them to the reactor.

use std::{
    convert::Infallible,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use distwasm_proto::{
    ids::{DukeId, JobId},
    limits::{HELLO_WITHIN, REQUEST_BYTES_MAX},
    wire::{self, DukeOrder, QueenNews},
};
use distwasm_transport::{
    link::{SUBMIT_JOB, VOLUNTEER, Visitor},
    payload::Payload,
    service::king_server::{King, KingServer},
    stream::{self, Incoming},
    transfer::{OutboxStream, Word},
    weight::Gate,
};
use http::{Extensions, Request, Response};
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, server::NamedService};
use tracing::{debug, warn};

use crate::{
    authority::{Authority, Identity, Origin},
    border::{
        Border,
        duke::DukeBorder,
        queen::QueenBorder,
        weights::{FROM_DUKE, FROM_QUEEN},
    },
    budget::{Budget, MessageMeter},
    connection::Caller,
    inbox::{Arrival, Happening, Leaving, LinkError, LinkId, Peer},
    programs::{Programs, ProgramsError},
    reactor::CancelError,
    view::Viewer,
};

/// The gRPC service. It owns a task for each link, which ends with the link.
#[derive(Clone)]
pub(crate) struct Service {
    reactor: mpsc::Sender<Arrival>,
    viewer: Viewer,
    links: Arc<AtomicU64>,
    authority: Authority,
    budget: Budget,
    /// The room for messages that wait for the reactor.
    gate: Gate,
    programs: Programs,
    tasks: TaskTracker,
}

/// Who a peer is, and where.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    identity: Identity,
    /// `None` for those in this process or over the king's socket.
    address: Option<SocketAddr>,
}

impl Visit {
    /// A visit of a peer in this process.
    fn of_own_process() -> Visit {
        Visit { identity: Identity::Trusted, address: None }
    }

    /// A visit of a peer that the guard let in; `None` if there was no guard, so that nothing is served without one.
    fn of_request(extensions: &Extensions) -> Option<Visit> {
        let address = extensions.get::<Caller>().and_then(|caller| caller.address);
        Some(Visit { identity: extensions.get::<Identity>()?.clone(), address })
    }

    /// A visit of a peer that asks something over gRPC.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Visit, Status> {
        Visit::of_request(request.extensions()).ok_or_else(unguarded)
    }

    /// What the peer may do.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The king's side of its link, and the words to it.
    fn peer<W: Word>(&self) -> (Peer<W>, OutboxStream<W>) {
        Peer::new(self.identity.clone(), self.address.map(|address| address.ip()))
    }

    /// Under which name the peer is counted.
    pub(crate) fn origin(&self) -> Origin {
        Origin::of(&self.identity, self.address.map(|address| address.ip()))
    }

    /// Logs why a link ended, if the peer is to blame. The reactor logs the consequences for a duke or a job.
    fn tell(&self, leaving: &Leaving, authority: &Authority) {
        let Err(error) = leaving else { return };
        if let LinkError::Refused(refusal) = error {
            return authority.tell(self.address, refusal);
        }
        let address = self.address.map_or_else(|| "this machine".to_owned(), |address| address.to_string());
        if error.may_come_back() && !matches!(error, LinkError::Busy(_)) {
            debug!(peer = address, %error, "a link ended");
        } else {
            warn!(peer = address, %error, "a peer is refused");
        }
    }
}

impl Service {
    pub(crate) fn new(
        reactor: mpsc::Sender<Arrival>,
        viewer: Viewer,
        authority: Authority,
        programs: Programs,
        tasks: TaskTracker,
        budget: Budget,
    ) -> Service {
        let gate = Gate::new(budget.decoded_bytes);
        Service { reactor, viewer, links: Arc::default(), authority, budget, gate, programs, tasks }
    }

    /// Counts the long messages of a peer.
    fn meter(&self, visit: &Visit) -> MessageMeter {
        MessageMeter::new(self.budget.inputs.account(visit.origin()))
    }

    /// A number that no other link has.
    fn next_link(&self) -> u64 {
        1 + self.links.fetch_add(1, Ordering::Relaxed)
    }

    /// Listens to a duke; returns the king's orders to it.
    fn volunteer(&self, words: Incoming<wire::FromDuke>, visit: Visit) -> OutboxStream<DukeOrder> {
        let (peer, orders) = visit.peer();
        let duke = DukeId(self.next_link());
        self.listen(words, visit, peer.ended.clone(), DukeBorder::new(duke, peer, &self.budget));
        orders
    }

    /// Listens to a queen; returns the king's news to it.
    fn submit_job(&self, words: Incoming<wire::FromQueen>, visit: Visit) -> OutboxStream<QueenNews> {
        let (peer, news) = visit.peer();
        let link = LinkId(self.next_link());
        self.listen(words, visit, peer.ended.clone(), QueenBorder::new(link, peer, &self.budget));
        news
    }

    /// Reads until the peer leaves or its link is ended, and tells the reactor all that happens on the link.
    fn listen<B>(&self, mut messages: Incoming<B::Message>, visit: Visit, ended: CancellationToken, mut border: B)
    where
        B: Supplied<Message: Message + Default + 'static> + Send + 'static,
    {
        let (reactor, authority) = (self.reactor.clone(), self.authority.clone());
        let programs = self.programs.clone();
        self.tasks.spawn(async move {
            let _cancel_with_task = ended.clone().drop_guard();
            let leaving = tokio::select! {
                biased;
                leaving = listen(&mut messages, &mut border, (&programs, &visit.identity), &reactor, &ended) => leaving,
                refusal = authority.withdrawn(&visit.identity) => Err(LinkError::Refused(refusal)),
            };
            visit.tell(&leaving, &authority);
            // The reactor is gone only when the king ends.
            let _sent = reactor.send(border.end(leaving).into()).await;
        });
    }

    /// Lets in the dukes and queens of this process.
    pub(crate) async fn receive(&self, mut visitors: mpsc::Receiver<Visitor>) {
        while let Some(visitor) = visitors.recv().await {
            // The visitor may have gone again.
            match visitor {
                Visitor::Duke(words, answer) => {
                    let _there = answer.send(Incoming::local(self.volunteer(words, Visit::of_own_process())));
                }
                Visitor::Queen(words, answer) => {
                    let _there = answer.send(Incoming::local(self.submit_job(words, Visit::of_own_process())));
                }
            }
        }
    }
}

#[tonic::async_trait]
impl King for Service {
    async fn list_jobs(
        &self,
        request: tonic::Request<wire::ListJobsRequest>,
    ) -> Result<tonic::Response<wire::JobList>, Status> {
        let Some(Visit { identity, .. }) = Visit::of_request(request.extensions()) else { return Err(unguarded()) };
        let view = self.viewer.look().await.ok_or_else(|| Status::unavailable("the king is shutting down"))?;
        Ok(tonic::Response::new(view.to_wire(&identity)))
    }

    async fn list_dukes(
        &self,
        _: tonic::Request<wire::ListDukesRequest>,
    ) -> Result<tonic::Response<wire::DukeList>, Status> {
        let view = self.viewer.look().await.ok_or_else(|| Status::unavailable("the king is shutting down"))?;
        Ok(tonic::Response::new(view.dukes_to_wire()))
    }

    async fn cancel_job(
        &self,
        request: tonic::Request<wire::CancelJobRequest>,
    ) -> Result<tonic::Response<wire::CancelJobReply>, Status> {
        let gone = || Status::unavailable("the king is shutting down");
        let Some(Visit { identity: caller, .. }) = Visit::of_request(request.extensions()) else {
            return Err(unguarded());
        };
        let job = JobId(request.get_ref().job);
        let (answer, answered) = oneshot::channel();
        self.reactor.send(Happening::JobCancelled { job, caller, answer }.into()).await.map_err(|_| gone())?;
        match answered.await.map_err(|_| gone())? {
            Ok(project) => Ok(tonic::Response::new(wire::CancelJobReply { project })),
            Err(error @ CancelError::NoJob(_)) => Err(Status::not_found(error.to_string())),
            Err(error @ CancelError::NotAllowed(_)) => Err(Status::permission_denied(error.to_string())),
        }
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
        let others = KingServer::new(service.clone()).max_decoding_message_size(REQUEST_BYTES_MAX);
        Methods { others, service }
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
        let response = match (request.uri().path(), Visit::of_request(request.extensions())) {
            (VOLUNTEER, Some(visit)) => {
                let words = Incoming::of_request(request).metered(self.service.meter(&visit));
                let words = words.gated(self.service.gate.clone(), &FROM_DUKE);
                stream::response(self.service.volunteer(words, visit))
            }
            (SUBMIT_JOB, Some(visit)) => {
                let words = Incoming::of_request(request).metered(self.service.meter(&visit));
                let words = words.gated(self.service.gate.clone(), &FROM_QUEEN);
                stream::response(self.service.submit_job(words, visit))
            }
            (VOLUNTEER | SUBMIT_JOB, None) => unguarded().into_http(),
            _ => return self.others.call(request),
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}

/// A request that no guard has seen is not served.
fn unguarded() -> Status {
    Status::unauthenticated("nobody has looked at who asks")
}

/// Passes on what a peer says, until it leaves or its link ends.
async fn listen<B>(
    messages: &mut Incoming<B::Message>,
    border: &mut B,
    (programs, identity): (&Programs, &Identity),
    reactor: &mpsc::Sender<Arrival>,
    ended: &CancellationToken,
) -> Leaving
where
    B: Supplied<Message: Message + Default + 'static>,
{
    let mut introduced = pin!(sleep(B::INTRODUCED_WITHIN));
    loop {
        let message = next_message(messages, ended);
        let message = if border.has_joined() {
            message.await?
        } else {
            // The timeout of one message: large payloads over a slow network may take longer, as long as they flow.
            tokio::select! {
                message = timeout(HELLO_WITHIN, message) => message.map_err(|_| LinkError::NoHello(HELLO_WITHIN))??,
                () = &mut introduced => return Err(LinkError::SlowHello(B::INTRODUCED_WITHIN)),
            }
        };
        // A message that the king stumbles over ends this link, and nothing else.
        let taken = catch_unwind(AssertUnwindSafe(|| border.take(message)));
        let mut heard = taken.unwrap_or(Err(LinkError::Stumbled))?;
        heard.happenings.extend(border.supply(programs, identity).await?);
        let mut admission = messages.take_admission();
        let mut happenings = heard.happenings.into_iter().peekable();
        while let Some(happening) = happenings.next() {
            let admission = if happenings.peek().is_none() { admission.take() } else { None };
            reactor.send(Arrival { happening, admission }).await.map_err(|_| LinkError::Ended)?;
        }
        if heard.leaves {
            return Ok(());
        }
    }
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

/// A border that may need what only the store has.
trait Supplied: Border {
    /// Gets it what it needs now, if that is anything.
    fn supply(
        &mut self,
        _programs: &Programs,
        _identity: &Identity,
    ) -> impl Future<Output = Result<Option<Happening>, LinkError>> + Send {
        std::future::ready(Ok(None))
    }
}

impl Supplied for DukeBorder {}

impl Supplied for QueenBorder {
    /// The program of a job that names one which the king keeps.
    async fn supply(&mut self, programs: &Programs, identity: &Identity) -> Result<Option<Happening>, LinkError> {
        let Some(digest) = self.wanted_program() else { return Ok(None) };
        let failed = |error: ProgramsError| match error.may_pass() {
            true => LinkError::Busy(""),
            false => LinkError::NoProgram(error.for_peer()),
        };
        let mut reader = programs.open(identity, digest).await.map_err(failed)?;
        self.admit_program(reader.bytes())?;
        let mut program = Payload::default();
        while let Some(piece) = reader.next().await.map_err(|error| failed(error.into()))? {
            program.push(piece);
        }
        Ok(self.provide_program(program))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::border::Heard;

    use super::*;

    /// A border with a fault.
    struct Faulty;

    impl Supplied for Faulty {}

    impl Border for Faulty {
        type Message = wire::FromQueen;

        const INTRODUCED_WITHIN: Duration = Duration::from_secs(20);

        fn take(&mut self, _: wire::FromQueen) -> Result<Heard, LinkError> {
            panic!("a fault")
        }

        fn has_joined(&self) -> bool {
            true
        }

        fn end(self, _: Leaving) -> Happening {
            Happening::Tick
        }
    }

    #[tokio::test]
    async fn a_message_over_which_the_king_stumbles_ends_its_link() {
        let (reactor, _inbox) = mpsc::channel(1);
        let mut messages = Incoming::local(tokio_stream::iter([wire::FromQueen::default()]));
        let supply = (&Programs::none(), &Identity::Trusted);
        let leaving = listen(&mut messages, &mut Faulty, supply, &reactor, &CancellationToken::new()).await;
        assert!(matches!(leaving, Err(LinkError::Stumbled)), "{leaving:?}");
    }

    /// A border whose peer never gets to the end of its introduction.
    struct Endless;

    impl Supplied for Endless {}

    impl Border for Endless {
        type Message = wire::FromQueen;

        const INTRODUCED_WITHIN: Duration = Duration::from_millis(20);

        fn take(&mut self, _: wire::FromQueen) -> Result<Heard, LinkError> {
            Ok(Heard::default())
        }

        fn has_joined(&self) -> bool {
            false
        }

        fn end(self, _: Leaving) -> Happening {
            Happening::Tick
        }
    }

    #[tokio::test]
    async fn messages_do_not_renew_the_time_of_an_introduction() {
        let (sender, words) = mpsc::channel(1);
        let (reactor, _inbox) = mpsc::channel(1);
        let mut messages = Incoming::local(tokio_stream::wrappers::ReceiverStream::new(words));
        let (ended, mut border) = (CancellationToken::new(), Endless);
        let supply = (&Programs::none(), &Identity::Trusted);
        let says = async {
            while sender.send(wire::FromQueen::default()).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let leaving = tokio::select! {
            leaving = listen(&mut messages, &mut border, supply, &reactor, &ended) => leaving,
            () = says => Ok(()),
        };
        assert!(matches!(leaving, Err(LinkError::SlowHello(_))), "{leaving:?}");
    }
}
