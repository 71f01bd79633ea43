//! A TCP proxy between a duke or a queen and the king. It can cut, freeze, delay and throttle the connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// How the proxy passes bytes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// At once.
    #[default]
    Fine,
    /// Each piece this many milliseconds late.
    Delayed(u64),
    /// At most this many bytes a second.
    Throttled(u64),
    /// Not at all, while the connections stay open, as with an unplugged cable.
    Frozen,
}

/// A proxy that listens as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    /// The address to connect to instead of the target's.
    pub address: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    weather: Weather,
    /// The address behind the proxy.
    target: String,
    /// Both ends of each connection.
    streams: Vec<TcpStream>,
    over: bool,
}

impl Proxy {
    /// Starts a proxy for the listener at `target`.
    pub fn start(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Mutex<Shared>>::default();
        let theirs = Arc::clone(&shared);
        lock(&shared).target = target.to_owned();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if lock(&theirs).over {
                    return;
                }
                // A king that is down refuses connections, and so does its proxy.
                let target = lock(&theirs).target.clone();
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    // Small messages are sent without delay.
                    from.set_nodelay(true).unwrap_or_default();
                    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap_or_default();
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let shared = Arc::clone(&theirs);
                    thread::spawn(move || pass(from, to, &shared));
                }
                lock(&theirs).streams.extend([near, far]);
            }
        });
        Proxy { address, shared }
    }

    /// Changes how bytes are passed on.
    pub fn set(&self, weather: Weather) {
        lock(&self.shared).weather = weather;
    }

    /// Passes new connections on to another target from now on.
    pub fn lead_to(&self, target: &str) {
        lock(&self.shared).target = target.to_owned();
    }

    /// Ends all connections at once, without a goodbye.
    pub fn cut(&self) {
        for stream in lock(&self.shared).streams.drain(..) {
            // It may have ended already.
            let _shut = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.shared).over = true;
        self.cut();
        // Wakes the listening thread, which then ends.
        let _woken = TcpStream::connect(&self.address);
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes bytes on until one of the two ends is gone.
fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Mutex<Shared>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let weather = lock(shared).weather;
        let most = match weather {
            Weather::Frozen => {
                if lock(shared).over {
                    return;
                }
                thread::park_timeout(Duration::from_millis(20));
                continue;
            }
            Weather::Throttled(rate) => usize::try_from(rate / 20).unwrap().clamp(1, buffer.len()),
            Weather::Fine | Weather::Delayed(_) => buffer.len(),
        };
        let count = match from.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        match weather {
            Weather::Delayed(millis) => thread::park_timeout(Duration::from_millis(millis)),
            Weather::Throttled(_) => thread::park_timeout(Duration::from_millis(50)),
            Weather::Fine | Weather::Frozen => {}
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The thread of the other direction notices it on its own end.
    let _shut = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
