//! Accepts connections, and retries when one cannot be accepted.
//!
//! Without a free descriptor, accepting fails at once each time; a pause keeps the king from spinning.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use distwasm_process::{clock::Clock, repeats::Repeats};
use distwasm_proto::limits::{ACCEPT_PAUSE_FIRST, ACCEPT_PAUSE_MAX};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tracing::{debug, warn};

/// The connections of a listener. As a stream it never ends and never fails.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    clock: Clock,
    repeats: Repeats,
    /// The pause after the next error.
    pause: Duration,
    pausing: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// Nothing has been accepted yet.
    pub fn new(listener: TcpListener) -> Connections {
        let (clock, repeats) = (Clock::start(), Repeats::default());
        Connections { listener, clock, repeats, pause: ACCEPT_PAUSE_FIRST, pausing: None }
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<(TcpStream, SocketAddr)> {
        loop {
            if let Some(pausing) = &mut self.pausing {
                ready!(pausing.as_mut().poll(context));
                self.pausing = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok(accepted) => {
                    if self.pause > ACCEPT_PAUSE_FIRST {
                        self.pause = ACCEPT_PAUSE_FIRST;
                        self.repeats.forget();
                    }
                    return Poll::Ready(accepted);
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection broke before it was accepted");
                }
                Err(error) => {
                    if let Some(refusals) = self.repeats.count(self.clock.now(), &error.to_string()) {
                        warn!(%error, refusals, "no connection can be accepted (`ulimit -n` bounds them); trying again");
                    }
                    self.pausing = Some(Box::pin(sleep(self.pause)));
                    self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }
}

/// Whether an error concerns one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

impl Stream for Connections {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (connection, _) = ready!(self.poll_accept(context));
        // Otherwise small messages wait until earlier ones are acknowledged. Fails if the connection has ended already.
        let _set = connection.set_nodelay(true);
        Poll::Ready(Some(Ok(connection)))
    }
}

impl axum::serve::Listener for Connections {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        std::future::poll_fn(|context| self.poll_accept(context)).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
