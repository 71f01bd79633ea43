//! `poll_oneoff`: waiting for clocks and streams.

use std::time::Duration;

use super::{BADF, FAULT, INVAL, Stop, get, put};
use crate::determinism::Clock;

/// Waits for the first of `count` subscriptions. Streams and files are always ready, so only a call that asks for
/// nothing but clocks sleeps. Layouts: `__wasi_subscription_t` (48 bytes) and `__wasi_event_t` (32 bytes).
pub fn poll_oneoff(
    bytes: &mut [u8],
    world: &World<'_>,
    subscriptions: u32,
    events: u32,
    count: u32,
    out: u32,
) -> Result<(), Stop> {
    if count == 0 {
        return Err(Stop::Errno(INVAL));
    }
    loop {
        let mut wait = Duration::MAX;
        for index in 0..count {
            wait = wait.min(Subscription::read(bytes, world, subscriptions, index)?.wait);
        }
        world.clock.sleep(wait);
        let written = put_events(bytes, world, subscriptions, events, count, wait)?;
        // `written` is 0 only if a clock was set back meanwhile.
        if written > 0 {
            return put(bytes, out, written.to_le_bytes());
        }
    }
}

/// The clocks and descriptors that a guest can wait for.
pub struct World<'a> {
    /// The guest's clocks.
    pub clock: &'a Clock,
    /// Whether there are descriptors beyond the standard streams.
    pub has_files: bool,
}

/// Writes an event for each subscription that is due after sleeping for `slept`. Returns how many.
fn put_events(
    bytes: &mut [u8],
    world: &World<'_>,
    subscriptions: u32,
    events: u32,
    count: u32,
    slept: Duration,
) -> Result<u32, Stop> {
    let mut written = 0_u32;
    for index in 0..count {
        let subscription = Subscription::read(bytes, world, subscriptions, index)?;
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
    fn read(bytes: &[u8], world: &World<'_>, subscriptions: u32, index: u32) -> Result<Subscription, Stop> {
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
            (0, 0) => (0, timeout.saturating_sub(world.clock.wall_time())),
            (0, 1) => (0, timeout.saturating_sub(world.clock.monotonic_time())),
            (0, _) => (INVAL as u8, Duration::ZERO),
            (1 | 2, 0..=2) => (0, Duration::ZERO),
            (1 | 2, _) if world.has_files => (0, Duration::ZERO),
            (1 | 2, _) => (BADF as u8, Duration::ZERO),
            _ => return Err(Stop::Errno(INVAL)),
        };
        Ok(Subscription { userdata, kind, errno, wait, is_absolute })
    }

    /// Whether it is due after a sleep. The wait for an absolute time has been measured again since.
    fn is_due(&self, slept: Duration) -> bool {
        if self.is_absolute { self.wait.is_zero() } else { self.wait <= slept }
    }
}
