//! One connection, which ends when nothing is asked of the king over it.

use std::{
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use distwasm_proto::limits::{HELLO_WITHIN, IDLE_WITHIN};
use distwasm_transport::byte_stream::ByteStream;
use http::{Request, Response};
use http_body::Frame;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::{body::Body, transport::server::Connected};
use tower_service::Service;

use crate::{accept::Place, authority::Wire};

/// A connection of a duke, a queen or a monitor. It fails as timed out when it was without a request for too long.
#[derive(Debug)]
pub struct Connection {
    stream: ByteStream,
    caller: Caller,
    /// When it is looked whether there was a request.
    looks: Pin<Box<Sleep>>,
    /// The requests that had begun when that was looked at last.
    begun: u64,
    _place: Place,
}

/// The peer of a connection, and what it asks for.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it is; `None` on this machine, over the king's socket.
    pub(crate) address: Option<SocketAddr>,
    /// How it reached the king.
    pub(crate) wire: Wire,
    requests: Arc<Requests>,
}

/// The requests of a connection, counted.
#[derive(Debug, Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request that is being answered. Ends when this is dropped.
#[derive(Debug)]
struct Answering(Arc<Requests>);

impl Connection {
    pub(crate) fn new(stream: ByteStream, address: Option<SocketAddr>, wire: Wire, place: Place) -> Connection {
        let caller = Caller { address, wire, requests: Arc::default() };
        Connection { stream, caller, looks: Box::pin(sleep(HELLO_WITHIN)), begun: 0, _place: place }
    }

    /// Its peer.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    fn check_use(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.looks.as_mut().poll(context).is_ready() {
            let ended = self.caller.requests.ended.load(Ordering::Relaxed);
            let begun = self.caller.requests.begun.load(Ordering::Relaxed);
            if begun == self.begun && begun == ended {
                return Err(io::Error::new(ErrorKind::TimedOut, "nothing was asked for over this connection"));
            }
            self.begun = begun;
            self.looks = Box::pin(sleep(IDLE_WITHIN));
        }
        Ok(())
    }
}

impl Caller {
    fn ask(&self) -> Answering {
        self.requests.begun.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(&self.requests))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_use(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_use(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_use(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Counts the requests of each connection until they are answered to the end.
#[derive(Clone)]
pub(crate) struct Counted<S>(pub(crate) S);

/// An answer whose end is counted.
pub(crate) struct CountedBody {
    body: Body,
    _answering: Option<Answering>,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<CountedBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answering = request.extensions().get::<Caller>().map(Caller::ask);
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| CountedBody { body, _answering: answering })) })
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
