//! Waiting and the clock to wait by.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use wasmtime_wasi::clocks::HostMonotonicClock;

use super::{BADF, FAULT, INVAL, Stop, get, put};

/// Waits for the first of `count` subscriptions. The standard streams are always ready, so only a call that asks for
/// nothing but clocks sleeps. Layouts: `__wasi_subscription_t` (48 bytes) and `__wasi_event_t` (32 bytes).
pub fn poll_oneoff(bytes: &mut [u8], subscriptions: u32, events: u32, count: u32, out: u32) -> Result<(), Stop> {
    if count == 0 {
        return Err(Stop::Errno(INVAL));
    }
    loop {
        let mut wait = Duration::MAX;
        for index in 0..count {
            wait = wait.min(Subscription::read(bytes, subscriptions, index)?.wait);
        }
        #[allow(clippy::disallowed_methods, reason = "the guest asked for it; its duke keeps the time")]
        std::thread::sleep(wait);
        let written = put_events(bytes, subscriptions, events, count, wait)?;
        // None only if a clock was set back meanwhile.
        if written > 0 {
            return put(bytes, out, written.to_le_bytes());
        }
    }
}

/// Writes an event for each subscription that is due after sleeping for `slept`; returns how many.
fn put_events(bytes: &mut [u8], subscriptions: u32, events: u32, count: u32, slept: Duration) -> Result<u32, Stop> {
    let mut written = 0_u32;
    for index in 0..count {
        let subscription = Subscription::read(bytes, subscriptions, index)?;
        if subscription.is_due(slept) {
            let at = written.checked_mul(32).and_then(|offset| events.checked_add(offset)).ok_or(Stop::Errno(FAULT))?;
            let mut event = [0; 32];
            event[..8].copy_from_slice(&subscription.userdata);
            event[8] = subscription.errno;
            event[10] = subscription.kind;
            put(bytes, at, event)?;
            written += 1;
        }
    }
    Ok(written)
}

/// One thing that a guest waits for.
struct Subscription {
    userdata: [u8; 8],
    kind: u8,
    errno: u8,
    wait: Duration,
    is_absolute: bool,
}

impl Subscription {
    fn read(bytes: &[u8], subscriptions: u32, index: u32) -> Result<Subscription, Stop> {
        let at = index.checked_mul(48).and_then(|offset| subscriptions.checked_add(offset));
        let at = at.ok_or(Stop::Errno(FAULT))?;
        let field = |offset: u32| at.checked_add(offset).ok_or(Stop::Errno(FAULT));
        let userdata = get(bytes, at)?;
        let [kind] = get(bytes, field(8)?)?;
        let word = u32::from_le_bytes(get(bytes, field(16)?)?);
        let timeout = Duration::from_nanos(u64::from_le_bytes(get(bytes, field(24)?)?));
        let is_absolute = u16::from_le_bytes(get(bytes, field(40)?)?) & 1 != 0;
        let (errno, wait) = match (kind, word) {
            (0, 0 | 1) if !is_absolute => (0, timeout),
            (0, 0) => (0, timeout.saturating_sub(wall_time())),
            (0, 1) => (0, timeout.saturating_sub(process_time())),
            (0, _) => (INVAL as u8, Duration::ZERO),
            (1 | 2, 0..=2) => (0, Duration::ZERO),
            (1 | 2, _) => (BADF as u8, Duration::ZERO),
            _ => return Err(Stop::Errno(INVAL)),
        };
        Ok(Subscription { userdata, kind, errno, wait, is_absolute })
    }

    /// Whether it is due after a sleep. An absolute time has been measured again since.
    fn is_due(&self, slept: Duration) -> bool {
        if self.is_absolute { self.wait.is_zero() } else { self.wait <= slept }
    }
}

/// The monotonic clock of guests. It starts with the process, so that an absolute time to wait for can be compared.
pub struct ProcessClock;

impl HostMonotonicClock for ProcessClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(process_time().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the guests' clock; the peasant decides nothing by it")]
fn process_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

#[allow(clippy::disallowed_methods, reason = "this is the guests' clock; the peasant decides nothing by it")]
fn wall_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
