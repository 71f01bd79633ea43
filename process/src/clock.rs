//! Where a process reads the time, and waits for it.

use std::time::{Duration, Instant, SystemTime};

use distwasm_proto::time::Time;

/// The time of day, to be shown to people; no decision may depend on it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// Where a process reads the time. Monotonic: a change of the wall clock is not seen.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that stands at zero.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    /// Sleeps until `time`; without one, forever. For an arm of a `select!`.
    pub async fn sleep_until(&self, time: Option<Time>) {
        match time {
            Some(time) => tokio::time::sleep_until(self.instant(time).into()).await,
            None => std::future::pending().await,
        }
    }

    /// The instant of `time`, for timers of the runtime.
    pub fn instant(&self, time: Time) -> Instant {
        self.origin.checked_add(Duration::from_micros(time.0)).unwrap_or(self.origin + Duration::from_secs(1 << 30))
    }
}
