//! How a king or a duke is told to end: first gracefully, then at once.

use std::{io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signals that ask a program to end: SIGINT, SIGTERM, and SIGHUP where it is not ignored, as under `nohup`.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Begins to listen; from now on these signals do nothing else.
    ///
    /// # Errors
    ///
    /// When the system does not allow listening for signals.
    pub fn listen() -> io::Result<Signals> {
        let hangup = if is_ignored(libc::SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Signals { interrupt, terminate, hangup })
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether this process was started with a signal ignored, as `nohup` does.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only fills in the present one, which is valid when it is all zeroes.
    let action = unsafe {
        if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Tells a server to end. All clones share one state.
#[derive(Clone, Debug)]
pub struct Stop {
    drain: CancellationToken,
    now: CancellationToken,
    patience: Duration,
}

impl Stop {
    /// No end is asked for yet. In a graceful shutdown, work that has begun may take as long as `patience`.
    pub fn new(patience: Duration) -> Stop {
        Stop { drain: CancellationToken::new(), now: CancellationToken::new(), patience }
    }

    /// Asks for a graceful shutdown: nothing new is taken, and work that has begun is finished.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks for an end at once.
    pub fn end(&self) {
        // In this order, no server begins a graceful shutdown because of it.
        self.now.cancel();
        self.drain.cancel();
    }

    /// The token that is cancelled when an end is asked for, gracefully or at once.
    pub fn drains(&self) -> &CancellationToken {
        &self.drain
    }

    /// The token that is cancelled when an end at once is asked for.
    pub fn ends(&self) -> &CancellationToken {
        &self.now
    }

    /// How long a graceful shutdown may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The first signal asks for a graceful end, the second for an end at once. Resolves once the server is told to end
    /// at once.
    ///
    /// # Errors
    ///
    /// When the system does not allow listening for signals.
    pub fn on_signals(&self) -> io::Result<impl Future<Output = ()> + use<>> {
        let mut signals = Signals::listen()?;
        let stop = self.clone();
        Ok(async move {
            tokio::select! {
                () = async { signals.next().await; stop.drain(); signals.next().await; stop.end(); } => {}
                () = stop.now.cancelled() => {}
            }
        })
    }
}
