//! Time as the pure parts know it: an argument, counted from an arbitrary origin.

use std::time::Duration;

/// A point in time, in microseconds since its clock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The time `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(micros(duration)))
    }

    /// Microseconds from `earlier` to this time; 0 if it is not earlier.
    pub fn micros_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How long a unit of a job takes, or a mebibyte in transit: a moving average, by which king and duke size their
/// queues.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnitTime {
    micros: Option<u64>,
}

impl UnitTime {
    /// Takes in how long a unit took, in microseconds; any number is valid.
    pub fn measure(&mut self, run_us: u64) {
        self.micros = Some(match self.micros {
            None => run_us,
            Some(average) => average - average / 8 + run_us / 8,
        });
    }

    /// How long a unit takes, in microseconds; `None` before the first was measured.
    pub fn average_us(&self) -> Option<u64> {
        self.micros
    }

    /// How many units make this much work; `None` before the first was measured.
    pub fn units_in(&self, work: Duration) -> Option<u64> {
        Some(micros(work) / self.micros?.max(1))
    }
}
