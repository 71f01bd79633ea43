//! All timers of the scheduler. Each purpose has at most one: setting it again moves it.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{DukeId, JobId},
    time::Time,
};

/// The purpose of a timer. Those that are due at the same time ring in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A duke has been away for as long as it may.
    DukeAway(DukeId),
    /// A queen has been away for as long as it may, or no queen has claimed a job that dukes brought.
    QueenAway(JobId),
    /// Units that no duke has claimed may run.
    Unpark(JobId),
    /// Something may have been running for too long.
    Stragglers(JobId),
    /// A job whose room for results was full may have idle slots, or want more slots again.
    Results(JobId),
    /// Slots may have to be dealt out again, even without an event.
    Deal,
    /// Slots that are owed to a job have not come back in time.
    Preempt,
    /// The units that run longest may have changed.
    Longest,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Time, Alarm)>,
    by_alarm: BTreeMap<Alarm, Time>,
}

impl Timers {
    pub(super) fn set(&mut self, alarm: Alarm, at: Time) {
        self.stop(alarm);
        self.by_alarm.insert(alarm, at);
        self.by_time.insert((at, alarm));
    }

    /// Has the alarm ring at `at`, or earlier if it is set so.
    pub(super) fn set_by(&mut self, alarm: Alarm, at: Time) {
        if self.by_alarm.get(&alarm).is_none_or(|set| at < *set) {
            self.set(alarm, at);
        }
    }

    pub(super) fn stop(&mut self, alarm: Alarm) {
        if let Some(at) = self.by_alarm.remove(&alarm) {
            self.by_time.remove(&(at, alarm));
        }
    }

    pub(super) fn is_set(&self, alarm: Alarm) -> bool {
        self.by_alarm.contains_key(&alarm)
    }

    /// When the first alarm rings.
    pub(super) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes off the first alarm that is due.
    pub(super) fn ring(&mut self, now: Time) -> Option<Alarm> {
        let (_, alarm) = *self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.stop(alarm);
        Some(alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_at_the_time_it_was_set_to_last() {
        let mut timers = Timers::default();
        timers.set(Alarm::Deal, Time(5));
        timers.set(Alarm::Deal, Time(9));
        timers.set_by(Alarm::Longest, Time(7));
        timers.set_by(Alarm::Longest, Time(8));
        timers.set(Alarm::Results(JobId(1)), Time(1));
        timers.stop(Alarm::Results(JobId(1)));
        assert_eq!((timers.next(), timers.ring(Time(6))), (Some(Time(7)), None));
        assert_eq!((timers.ring(Time(9)), timers.ring(Time(9))), (Some(Alarm::Longest), Some(Alarm::Deal)));
        assert_eq!((timers.next(), timers.is_set(Alarm::Deal)), (None, false));
    }
}
