//! What happens on a connection before its first request: a port is for TLS and for plaintext, and the first byte tells
//! which it is. Slow peers keep nobody waiting.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use distwasm_proto::limits::{HANDSHAKE_WITHIN, HANDSHAKES_MAX};
use distwasm_transport::{byte_stream::ByteStream, tls::HTTP_2};
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_stream::Stream;
use tracing::debug;

use crate::{
    accept::{Accepted, Connections, Place},
    authority::Wire,
    connection::Connection,
    key::Key,
};

/// The first byte of a TLS connection: a handshake record.
const TLS: u8 = 0x16;

/// Connections that are ready for requests. As a stream it never ends and never fails.
#[derive(Debug)]
pub struct Handshakes {
    connections: Connections,
    acceptor: Acceptor,
    protocol: Protocol,
    begun: JoinSet<Option<Connection>>,
    /// Handshakes in the order in which they began. Some have ended.
    in_order: VecDeque<AbortHandle>,
}

/// What is spoken within TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.1, which a client need not name.
    Http,
}

#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Handshakes {
    /// The connections of these listeners, of which those over TLS have this key.
    pub fn new(connections: Connections, key: &Key) -> Handshakes {
        Handshakes::with(connections, key.config(), Protocol::Grpc)
    }

    /// The connections of these listeners for HTTP/1.1.
    pub(crate) fn for_http(connections: Connections, key: &Key) -> Handshakes {
        let mut config = ServerConfig::clone(&key.config());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Handshakes::with(connections, Arc::new(config), Protocol::Http)
    }

    fn with(connections: Connections, config: Arc<ServerConfig>, protocol: Protocol) -> Handshakes {
        let acceptor = Acceptor(TlsAcceptor::from(config));
        Handshakes { connections, acceptor, protocol, begun: JoinSet::new(), in_order: VecDeque::new() }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr, place: Place) {
        while self.begun.len() >= HANDSHAKES_MAX {
            // Some of these have ended, and are about to be taken out of the set.
            match self.in_order.pop_front() {
                Some(oldest) if !oldest.is_finished() => {
                    oldest.abort();
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        if self.in_order.len() >= 2 * HANDSHAKES_MAX {
            self.in_order.retain(|handshake| !handshake.is_finished());
        }
        let (acceptor, protocol) = (self.acceptor.0.clone(), self.protocol);
        let handshake = self.begun.spawn(async move {
            let shaken = timeout(HANDSHAKE_WITHIN, shake(stream, acceptor, protocol)).await;
            let (stream, wire) = shaken
                .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
                .inspect_err(|error| debug!(peer = %address, %error, "a connection ended before its first request"))
                .ok()?;
            Some(Connection::new(stream, Some(address), wire, place))
        });
        self.in_order.push_back(handshake);
    }
}

impl Stream for Handshakes {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Connection>>> {
        loop {
            match self.begun.poll_join_next(context) {
                Poll::Ready(Some(Ok(Some(connection)))) => return Poll::Ready(Some(Ok(connection))),
                // A handshake that failed.
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            match ready!(self.connections.poll_accept(context)) {
                (Accepted::Tcp(stream, address), place) => self.begin(stream, address, place),
                (Accepted::Unix(stream), place) => {
                    let connection = Connection::new(ByteStream::Unix(stream), None, Wire::SameUser, place);
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
        }
    }
}

impl axum::serve::Listener for Handshakes {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await;
            // There is always a next one, and it has not failed.
            if let Some(Ok(connection)) = next {
                return (connection, ());
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

async fn shake(stream: TcpStream, acceptor: TlsAcceptor, protocol: Protocol) -> io::Result<(ByteStream, Wire)> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if first != [TLS] {
        return Ok((ByteStream::Plain(stream), Wire::Plain));
    }
    let stream = acceptor.accept(stream).await?;
    if protocol == Protocol::Grpc && stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
        return Err(io::Error::new(ErrorKind::InvalidData, "the peer did not ask for HTTP/2"));
    }
    Ok((ByteStream::Tls(Box::new(TlsStream::Server(stream))), Wire::Tls))
}
