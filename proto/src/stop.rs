//! How a king or a duke is told to end: first in peace, then at once.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells a server to end. All clones are one.
#[derive(Clone, Debug)]
pub struct Stop {
    drain: CancellationToken,
    now: CancellationToken,
    patience: Duration,
}

impl Stop {
    /// Nobody is to end yet. What is under way at the beginning of a peaceful end may take so long.
    pub fn new(patience: Duration) -> Stop {
        Stop { drain: CancellationToken::new(), now: CancellationToken::new(), patience }
    }

    /// Asks for an end in peace: nothing new is taken, what is under way is finished.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks for an end at once.
    pub fn end(&self) {
        // In this order nobody begins to end in peace because of it.
        self.now.cancel();
        self.drain.cancel();
    }

    /// What is cancelled when an end is asked for, in peace or at once.
    pub fn drains(&self) -> &CancellationToken {
        &self.drain
    }

    /// What is cancelled when an end at once is asked for.
    pub fn ends(&self) -> &CancellationToken {
        &self.now
    }

    /// How long a peaceful end may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The first SIGINT or SIGTERM asks for an end in peace, the second for one at once. Lasts until that.
    ///
    /// # Errors
    ///
    /// When the system lets nobody listen for signals.
    pub fn on_signals(&self) -> io::Result<impl Future<Output = ()> + use<>> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = self.clone();
        Ok(async move {
            let mut next_signal = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            tokio::select! {
                () = async { next_signal().await; stop.drain(); next_signal().await; stop.end(); } => {}
                () = stop.now.cancelled() => {}
            }
        })
    }
}
