//! How a duke or a queen speaks to the king: over a connection, or within one process.

use std::{error::Error, io::ErrorKind, sync::Mutex};

use distwasm_proto::{
    error_text::chain,
    limits::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES},
    wire::{FromDuke, FromQueen, ToDuke, ToQueen},
};
use futures_core::Stream;
use http::{HeaderValue, header::AUTHORIZATION};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt, service_fn};

use crate::{
    address::Address,
    byte_stream::ByteStream,
    credentials::Credentials,
    dial::{ConnectError, dial},
    stream::{self, Incoming, StreamError},
};

/// The address of the king.
#[derive(Clone, Debug)]
pub enum KingAddress {
    /// On this machine or another one.
    Remote(Address, Credentials),
    /// In this process.
    Local(LocalDoor),
}

/// A king that answers. Clones share the connection.
#[derive(Clone, Debug)]
pub enum King {
    /// Over a connection.
    Remote(Remote),
    /// In this process.
    Local(LocalDoor),
}

/// A connection to a king.
#[derive(Clone, Debug)]
pub struct Remote {
    channel: Channel,
    /// What each request says about the peer.
    bearer: Option<HeaderValue>,
}

/// The way to a king in the same process: streams are handed over as they are.
#[derive(Clone, Debug)]
pub struct LocalDoor {
    visits: mpsc::Sender<Visitor>,
}

/// A peer that came through the door, and the channel for the king's answer.
pub enum Visitor {
    /// A duke.
    Duke(Incoming<FromDuke>, oneshot::Sender<Incoming<ToDuke>>),
    /// A queen.
    Queen(Incoming<FromQueen>, oneshot::Sender<Incoming<ToQueen>>),
}

/// A door, and the receiver of its visitors, for the king.
pub fn local_door() -> (LocalDoor, mpsc::Receiver<Visitor>) {
    // A duke and a queen come once each, and again after a failure.
    let (visits, visitors) = mpsc::channel(8);
    (LocalDoor { visits }, visitors)
}

impl LocalDoor {
    async fn enter<M, A>(
        &self,
        words: impl Stream<Item = M> + Send + 'static,
        visitor: impl FnOnce(Incoming<M>, oneshot::Sender<Incoming<A>>) -> Visitor,
    ) -> Result<Incoming<A>, StreamError>
    where
        M: Message + Default + 'static,
    {
        let gone = || StreamError::Broken("the king of this process has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        self.visits.send(visitor(Incoming::local(words), answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// The methods that are streams.
pub const VOLUNTEER: &str = "/distwasm.v1.King/Volunteer";
#[expect(missing_docs, reason = "described with the method above")]
pub const SUBMIT_JOB: &str = "/distwasm.v1.King/SubmitJob";

impl KingAddress {
    /// Connects once.
    ///
    /// # Errors
    ///
    /// When no king answers in time, or none that the credentials are for.
    pub async fn connect(&self) -> Result<King, ConnectError> {
        match self {
            KingAddress::Remote(address, credentials) => connect(address, credentials).await.map(King::Remote),
            KingAddress::Local(door) => Ok(King::Local(door.clone())),
        }
    }
}

impl King {
    /// Offers a machine's slots: sends `words` to the king, and returns its orders.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the answer is not from a king.
    pub async fn volunteer(
        self,
        words: impl Stream<Item = FromDuke> + Send + 'static,
    ) -> Result<Incoming<ToDuke>, StreamError> {
        match self {
            King::Remote(remote) => open(remote, VOLUNTEER, words).await,
            King::Local(door) => door.enter(words, Visitor::Duke).await,
        }
    }

    /// Submits a job: sends `words` to the king, and returns its news.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the answer is not from a king.
    pub async fn submit_job(
        self,
        words: impl Stream<Item = FromQueen> + Send + 'static,
    ) -> Result<Incoming<ToQueen>, StreamError> {
        match self {
            King::Remote(remote) => open(remote, SUBMIT_JOB, words).await,
            King::Local(door) => door.enter(words, Visitor::Queen).await,
        }
    }
}

async fn open<M: Message, A: Message + Default + 'static>(
    Remote { mut channel, bearer }: Remote,
    path: &'static str,
    words: impl Stream<Item = M> + Send + 'static,
) -> Result<Incoming<A>, StreamError> {
    let broken = |error: tonic::transport::Error| StreamError::Broken(chain(&error));
    let mut request = stream::request(path, words);
    request.headers_mut().extend(bearer.map(|bearer| (AUTHORIZATION, bearer)));
    let response = channel.ready().await.map_err(broken)?.call(request).await.map_err(broken)?;
    Incoming::of_response(response)
}

impl Remote {
    /// The connection, for calls that are not streams.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request for such a call.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let headers = self.bearer.clone().map(|bearer| (AUTHORIZATION, bearer)).into_iter().collect();
        tonic::Request::from_parts(MetadataMap::from_headers(headers), tonic::Extensions::new(), message)
    }
}

impl std::fmt::Display for KingAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KingAddress::Remote(address, _) => address.fmt(f),
            KingAddress::Local(_) => f.write_str("this process"),
        }
    }
}

/// Connects once. A connection that breaks is not made again, because it would have to be checked again.
///
/// # Errors
///
/// When no king answers in time, or none that the credentials are for.
pub async fn connect(address: &Address, credentials: &Credentials) -> Result<Remote, ConnectError> {
    let stream = dial(address, credentials).await?;
    let bearer = match (&stream, credentials) {
        // Only this king may hear the secret, and nobody on the way.
        (ByteStream::Tls(_), Credentials::Token(token)) => Some(token.bearer().clone()),
        _ => None,
    };
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = service_fn(move |_| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        std::future::ready(stream.ok_or_else(|| std::io::Error::from(ErrorKind::NotConnected)))
    });
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(Remote { channel, bearer })
}

/// Why a king could not be reached, with a likely cause.
pub fn why_unreached(error: &(dyn Error + 'static)) -> String {
    let mut is_refused = false;
    let mut cause = Some(error);
    while let Some(error) = cause {
        let system = error.downcast_ref::<std::io::Error>();
        is_refused |= system.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        cause = error.source();
    }
    let hint = "; nobody listens there: is the king running, and does its --listen let other machines in?";
    chain(error) + if is_refused { hint } else { "" }
}
