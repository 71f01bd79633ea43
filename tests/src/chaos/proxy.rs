//! A TCP proxy between a duke or a queen and the king that cuts, freezes, delays and throttles what goes through it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// How bytes go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// At once.
    #[default]
    Fine,
    /// Each piece so many milliseconds later.
    Delayed(u64),
    /// At most so many bytes a second.
    Throttled(u64),
    /// Not at all, though the connections stand: what a lost cable looks like.
    Frozen,
}

/// A proxy that listens as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    /// Where to connect instead.
    pub address: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    weather: Weather,
    /// Who listens behind it.
    target: String,
    /// Both ends of each connection.
    streams: Vec<TcpStream>,
    over: bool,
}

impl Proxy {
    /// A proxy for what listens at `target`.
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
                // A king who is not there refuses; so does his proxy.
                let target = lock(&theirs).target.clone();
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    // Small messages must not wait for more of them.
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

    /// Changes how bytes go through.
    pub fn set(&self, weather: Weather) {
        lock(&self.shared).weather = weather;
    }

    /// From now on somebody else listens behind it.
    pub fn lead_to(&self, target: &str) {
        lock(&self.shared).target = target.to_owned();
    }

    /// Ends all connections, at once and without a word.
    pub fn cut(&self) {
        for stream in lock(&self.shared).streams.drain(..) {
            // It may have ended by itself.
            let _shut = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.shared).over = true;
        self.cut();
        // Wakes the listener, who then ends.
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
    // The other direction learns of it from its own end.
    let _shut = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
