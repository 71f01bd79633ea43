//! How a duke or a queen reaches the king: over TCP, or within one process.

use std::{error::Error, io::ErrorKind};

use distwasm_proto::{
    error_text::chain,
    limits::{
        CONNECT_WITHIN, CONNECTION_WINDOW_BYTES, FRAME_BYTES, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
    },
    wire::{FromDuke, FromQueen, ToDuke, ToQueen},
};
use futures_core::Stream;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use crate::{
    address::Address,
    stream::{self, Incoming, StreamError},
};

/// The address of the king.
#[derive(Clone, Debug)]
pub enum KingAddress {
    /// Over TCP.
    Tcp(Address),
    /// In this process.
    Local(LocalDoor),
}

/// A king that answers.
#[derive(Debug)]
pub enum King {
    /// Over a connection.
    Remote(Channel),
    /// In this process.
    Local(LocalDoor),
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
    /// When the address is not valid, or there is no answer in time.
    pub async fn connect(&self) -> Result<King, tonic::transport::Error> {
        match self {
            KingAddress::Tcp(address) => connect(address).await.map(King::Remote),
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
            King::Remote(channel) => open(channel, VOLUNTEER, words).await,
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
            King::Remote(channel) => open(channel, SUBMIT_JOB, words).await,
            King::Local(door) => door.enter(words, Visitor::Queen).await,
        }
    }
}

async fn open<M: Message, A: Message + Default + 'static>(
    mut channel: Channel,
    path: &'static str,
    words: impl Stream<Item = M> + Send + 'static,
) -> Result<Incoming<A>, StreamError> {
    let broken = |error: tonic::transport::Error| StreamError::Broken(chain(&error));
    let response = channel.ready().await.map_err(broken)?.call(stream::request(path, words)).await.map_err(broken)?;
    Incoming::of_response(response)
}

impl std::fmt::Display for KingAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KingAddress::Tcp(address) => address.fmt(f),
            KingAddress::Local(_) => f.write_str("this process"),
        }
    }
}

/// Connects once.
///
/// # Errors
///
/// When there is no answer in time.
pub async fn connect(address: &Address) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
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
