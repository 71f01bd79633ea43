//! Clocks and randomness: the machine's, or deterministic ones that are the same everywhere.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng;
use sha2::{Digest, Sha256};
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};

/// The start of the fixed clock, 2000-01-01 00:00:00 UTC, as time since the Unix epoch.
const FIXED_BEGINNING: Duration = Duration::from_secs(946_684_800);

/// How far the fixed clock advances each time it is read, so that a loop that waits for it to advance ends.
const FIXED_STEP: Duration = Duration::from_micros(1);

/// The clocks of one guest, or of the peasant itself. All copies show the same time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clocks. The monotonic one starts with the process, so that absolute times to wait for can be
    /// compared.
    Real,
    /// Starts anew with each guest, and advances only when it is read or slept by. Holds the nanoseconds since its
    /// start.
    Fixed(Arc<AtomicU64>),
}

impl Clock {
    /// A fixed clock at its start.
    pub fn fixed() -> Clock {
        Clock::Fixed(Arc::default())
    }

    /// Time since the Unix epoch.
    pub fn wall_time(&self) -> Duration {
        match self {
            Clock::Real => real_wall_time(),
            Clock::Fixed(nanos) => FIXED_BEGINNING + advance(nanos, FIXED_STEP),
        }
    }

    /// Time since some fixed moment.
    pub fn monotonic_time(&self) -> Duration {
        match self {
            Clock::Real => process_time(),
            Clock::Fixed(nanos) => advance(nanos, FIXED_STEP),
        }
    }

    /// Sleeps. A fixed clock advances by the same time.
    pub fn sleep(&self, time: Duration) {
        #[allow(clippy::disallowed_methods, reason = "the guest asked for it; its duke keeps the time")]
        std::thread::sleep(time);
        if let Clock::Fixed(nanos) = self {
            advance(nanos, time);
        }
    }
}

/// Advances a fixed clock, and returns the time that it showed before.
fn advance(nanos: &AtomicU64, by: Duration) -> Duration {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos.fetch_add(by, Ordering::Relaxed))
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        match self {
            Clock::Real => Duration::from_nanos(1),
            Clock::Fixed(_) => FIXED_STEP,
        }
    }

    fn now(&self) -> Duration {
        self.wall_time()
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        match self {
            Clock::Real => 1,
            Clock::Fixed(_) => 1000,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.monotonic_time().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the peasant's only clock: guests read it, and it decides when answers are written"
)]
fn process_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

#[allow(clippy::disallowed_methods, reason = "guests read it; the peasant decides nothing by it")]
fn real_wall_time() -> Duration {
    // A clock that is set before 1970 counts as 1970.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Random numbers that depend only on the job's seed, the unit's name, and their purpose.
pub fn seeded_random(seed: &str, unit: &[u8], purpose: &str) -> ChaCha12Rng {
    let mut hasher = Sha256::new();
    for part in [purpose.as_bytes(), seed.as_bytes(), unit] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ChaCha12Rng::from_seed(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::rand_core::Rng;

    #[test]
    fn a_fixed_clock_moves_by_being_used_and_copies_agree() {
        let clock = Clock::fixed();
        let copy = clock.clone();
        assert_eq!(clock.monotonic_time(), Duration::ZERO);
        assert_eq!(copy.monotonic_time(), FIXED_STEP);
        copy.sleep(Duration::from_nanos(5));
        assert_eq!(clock.wall_time(), FIXED_BEGINNING + 2 * FIXED_STEP + Duration::from_nanos(5));
    }

    #[test]
    fn random_numbers_differ_by_all_that_they_depend_on() {
        let first = |seed, unit: &[u8], purpose| seeded_random(seed, unit, purpose).next_u64();
        let all = [first("a", b"b", "c"), first("ab", b"", "c"), first("a", b"x", "c"), first("a", b"b", "d")];
        assert_eq!(first("a", b"b", "c"), all[0]);
        assert!((1..all.len()).all(|at| !all[..at].contains(&all[at])), "{all:?}");
    }
}
