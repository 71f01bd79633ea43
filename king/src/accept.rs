//! Accepts connections, and goes on when one cannot be accepted.
//!
//! A king with no descriptor left cannot accept, and is asked again at once: without a pause it would do nothing else.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use distwasm_proto::{
    limits::{ACCEPT_PAUSE_FIRST, ACCEPT_PAUSE_MAX},
    repeats::Repeats,
    time::Clock,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tracing::{debug, warn};

/// The connections of a listener. As a stream it has no end and no errors.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    clock: Clock,
    told: Repeats,
    /// The next pause, and the one that lasts.
    pause: Duration,
    pausing: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// Nobody was accepted yet.
    pub fn new(listener: TcpListener) -> Connections {
        let (clock, told) = (Clock::start(), Repeats::default());
        Connections { listener, clock, told, pause: ACCEPT_PAUSE_FIRST, pausing: None }
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<(TcpStream, SocketAddr)> {
        loop {
            if let Some(pausing) = &mut self.pausing {
                ready!(pausing.as_mut().poll(context));
                self.pausing = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok(accepted) => {
                    self.pause = ACCEPT_PAUSE_FIRST;
                    return Poll::Ready(accepted);
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection broke before it was accepted");
                }
                Err(error) => {
                    if let Some(refusals) = self.told.note(self.clock.now(), &error.to_string()) {
                        warn!(%error, refusals, "no connection can be accepted (`ulimit -n` bounds them); trying again");
                    }
                    self.pausing = Some(Box::pin(sleep(self.pause)));
                    self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }
}

/// Whether an error says nothing of the next connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

impl Stream for Connections {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (connection, _) = ready!(self.poll_accept(context));
        // Without it small messages wait for the answers to those before them; a connection that has ended needs none.
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
