//! Accepts connections within their bounds, retries when one cannot be accepted, and ends silent ones.
//!
//! Without a free descriptor, accepting fails at once each time; a pause keeps the king from spinning. Some descriptors
//! are kept for the king itself, and no address takes all connections.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use distwasm_process::{allowance::descriptors_left, clock::Clock, repeats::Repeats};
use distwasm_proto::limits::{ACCEPT_PAUSE_FIRST, ACCEPT_PAUSE_MAX, DESCRIPTORS_KEPT, HTTP_CONNECTIONS_MAX};
use distwasm_transport::own_socket::{OwnSocket, is_trusted};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    time::{Sleep, sleep},
};
use tracing::{debug, warn};

/// The connections of a listener, and of the king's socket beside it.
#[derive(Debug)]
pub struct Connections {
    /// Closed before the listener: a king that takes the port next finds no other with the socket.
    socket: Option<OwnSocket>,
    listener: TcpListener,
    places: Places,
    clock: Clock,
    repeats: Repeats,
    /// The pause after the next error.
    pause: Duration,
    pausing: Option<Pin<Box<Sleep>>>,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// Over the king's socket, from a process of its user or of root.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream, SocketAddr),
}

impl Connections {
    /// Nothing has been accepted yet. There are at most `connections_max` connections at a time.
    pub fn new(listener: TcpListener, connections_max: usize) -> Connections {
        let (clock, repeats) = (Clock::start(), Repeats::default());
        let places = Places { max: connections_max, taken: Arc::default() };
        Connections { socket: None, listener, places, clock, repeats, pause: ACCEPT_PAUSE_FIRST, pausing: None }
    }

    /// The connections of a socket, too.
    pub fn with_socket(self, socket: Option<OwnSocket>) -> Connections {
        Connections { socket, ..self }
    }

    /// How many dukes and queens may be connected at a time: as many as there are descriptors for, without those that
    /// the king keeps for itself and for HTTP.
    pub fn max_for_peers() -> usize {
        let Some(left) = descriptors_left() else { return usize::MAX };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        left.saturating_sub(HTTP_CONNECTIONS_MAX + DESCRIPTORS_KEPT).max(left / 2)
    }

    /// Waits for a connection, and takes a place for it.
    pub(crate) fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<(Accepted, Place)> {
        loop {
            if let Some(pausing) = &mut self.pausing {
                ready!(pausing.as_mut().poll(context));
                self.pausing = None;
            }
            if self.places.are_taken(context) {
                self.tell("all connections that there are descriptors for (`ulimit -n`) are taken", None);
                return Poll::Pending;
            }
            match ready!(self.poll_listeners(context)) {
                Ok(accepted) => {
                    if self.pause > ACCEPT_PAUSE_FIRST {
                        self.pause = ACCEPT_PAUSE_FIRST;
                        self.repeats.forget();
                    }
                    if let Accepted::Unix(stream) = &accepted
                        && !is_trusted(stream).unwrap_or(false)
                    {
                        self.tell("the socket is for this user and for root alone", None);
                        continue;
                    }
                    // The king's own user is not counted with those who share its address.
                    let address = match &accepted {
                        Accepted::Unix(_) => None,
                        Accepted::Tcp(_, address) => Some(address.ip().to_canonical()),
                    };
                    let Some(place) = self.places.take(address) else {
                        self.tell("one address may not have more of the connections", address);
                        continue;
                    };
                    return Poll::Ready((accepted, place));
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection broke before it was accepted");
                }
                Err(error) => {
                    self.tell(&format!("{error} (`ulimit -n` bounds them); trying again"), None);
                    self.pausing = Some(Box::pin(sleep(self.pause)));
                    self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }

    fn poll_listeners(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        if let Some(socket) = &self.socket
            && let Poll::Ready(accepted) = socket.poll_accept(context)
        {
            return Poll::Ready(accepted.map(Accepted::Unix));
        }
        let (stream, address) = ready!(self.listener.poll_accept(context))?;
        // Otherwise small messages wait until earlier ones are acknowledged. Fails if the connection has ended already.
        let _set = stream.set_nodelay(true);
        Poll::Ready(Ok(Accepted::Tcp(stream, address)))
    }

    fn tell(&mut self, why: &str, address: Option<IpAddr>) {
        if let Some(refusals) = self.repeats.count(self.clock.now(), why) {
            let address = address.map(|address| address.to_string());
            warn!(why, address, refusals, "no connection can be accepted");
        }
    }
}

/// Whether an error concerns one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

/// The connections that there may be at a time.
#[derive(Debug)]
struct Places {
    max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Option<IpAddr>, usize>,
    /// Waits for a place.
    waker: Option<Waker>,
}

/// The place of one connection, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    address: Option<IpAddr>,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// Whether none is free; then `context` is woken when one is.
    fn are_taken(&self, context: &Context<'_>) -> bool {
        let mut taken = lock(&self.taken);
        let is_full = taken.all >= self.max;
        if is_full {
            taken.waker = Some(context.waker().clone());
        }
        is_full
    }

    /// Takes a place, unless the address has three quarters of them.
    fn take(&self, address: Option<IpAddr>) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let of_peer = taken.by.entry(address).or_default();
        if address.is_some() && *of_peer >= self.max - self.max / 4 {
            return None;
        }
        *of_peer += 1;
        taken.all += 1;
        Some(Place { address, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = &mut *lock(&self.taken);
        taken.all -= 1;
        if let Some(of_peer) = taken.by.get_mut(&self.address) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.by.remove(&self.address);
            }
        }
        if let Some(waker) = taken.waker.take() {
            waker.wake();
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // Nothing in here can panic half-way through a change.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_all_places() {
        let places = Places { max: 8, taken: Arc::default() };
        let context = Context::from_waker(Waker::noop());
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let mut kept: Vec<Place> = (0..10).map_while(|_| places.take(address(1))).collect();
        assert_eq!(kept.len(), 6);
        assert!(!places.are_taken(&context));
        kept.extend((0..2).map(|_| places.take(address(2)).unwrap()));
        assert!(places.are_taken(&context));
        kept.clear();
        assert!(!places.are_taken(&context) && lock(&places.taken).by.is_empty());
    }
}
