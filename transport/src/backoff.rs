//! How long to wait before trying a peer again.

use std::time::Duration;

use distwasm_proto::limits::{BACKOFF_FIRST, BACKOFF_MAX};

/// Exponential back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): each wait is drawn
/// evenly from zero to a bound that doubles, so that a thousand dukes do not come back at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    bound: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::up_to(BACKOFF_MAX)
    }
}

impl Backoff {
    /// Waits that are never longer than this.
    pub fn up_to(max: Duration) -> Backoff {
        Backoff { bound: BACKOFF_FIRST, max }
    }

    /// The next wait. `draw` is a number in `0.0..1.0`, drawn by the caller.
    pub fn next(&mut self, draw: f64) -> Duration {
        let wait = self.bound.mul_f64(draw.clamp(0.0, 1.0));
        self.bound = (self.bound * 2).min(self.max);
        wait
    }

    /// Starts from the shortest wait again, after a success.
    pub fn reset(&mut self) {
        self.bound = BACKOFF_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[0], BACKOFF_FIRST);
        assert_eq!(waits[1], BACKOFF_FIRST * 2);
        assert_eq!(waits[11], BACKOFF_MAX);
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(1.0), BACKOFF_FIRST * 2);
    }
}
