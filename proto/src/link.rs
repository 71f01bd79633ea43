//! How a duke or a queen reaches the king: over TCP, or within one process.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{
    limits::{
        CONNECT_WITHIN, CONNECTION_WINDOW_BYTES, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX,
        STREAM_WINDOW_BYTES,
    },
    wire::king_client::KingClient,
};

/// Where the king is.
#[derive(Clone, Debug)]
pub enum KingAddress {
    /// At `HOST:PORT`.
    Tcp(String),
    /// In this process.
    Local(LocalDoor),
}

/// The way to a king in the same process. Each knock makes a pair of connected sockets without a name.
#[derive(Clone, Debug)]
pub struct LocalDoor {
    knocks: mpsc::Sender<UnixStream>,
}

/// A door, and the connections of those who knocked, for the king.
pub fn local_door() -> (LocalDoor, impl Stream<Item = io::Result<UnixStream>>) {
    // A duke and a queen knock once each, and once more after a failure.
    let (knocks, connections) = mpsc::channel(8);
    (LocalDoor { knocks }, ReceiverStream::new(connections).map(Ok))
}

impl LocalDoor {
    async fn knock(self) -> io::Result<TokioIo<UnixStream>> {
        let (inside, outside) = UnixStream::pair()?;
        let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the king of this process has ended");
        self.knocks.send(inside).await.map_err(gone)?;
        Ok(TokioIo::new(outside))
    }
}

impl KingAddress {
    /// Connects once.
    ///
    /// # Errors
    ///
    /// When the address is none, or nobody answers there in time.
    pub async fn connect(&self) -> Result<KingClient<Channel>, tonic::transport::Error> {
        let channel = match self {
            KingAddress::Tcp(address) => endpoint(&format!("http://{address}"))?.connect().await?,
            KingAddress::Local(door) => {
                let door = door.clone();
                // The name is needed for the form; nobody looks it up.
                let connector = service_fn(move |_| door.clone().knock());
                endpoint("http://king.local")?.connect_with_connector(connector).await?
            }
        };
        Ok(KingClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

impl std::fmt::Display for KingAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KingAddress::Tcp(address) => f.write_str(address),
            KingAddress::Local(_) => f.write_str("this process"),
        }
    }
}

fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Checks what a user typed as the address of a king.
///
/// # Errors
///
/// When it is not `HOST:PORT`, in words.
pub fn parse_address(text: &str) -> Result<String, String> {
    let is_host = |host: &str| !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c));
    match text.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        _ => Err("the address of a king is HOST:PORT, such as king-host:1900".to_owned()),
    }
}

/// The text of an error with its causes, as one line: gRPC errors say nothing without them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
