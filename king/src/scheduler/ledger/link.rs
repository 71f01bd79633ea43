//! What is on its way to a duke, and how fast its link has carried inputs so far.
//!
//! A link is measured as in BBR (N. Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016): the highest rate
//! at which inputs arrived, and the shortest time that one took, each of the last seconds. Their product is what the link
//! holds; a little more than that may be on its way, and what is more would only wait in its buffers. The bytes of a
//! unit are those of its input and of the result that is expected: the word that inputs have arrived comes behind
//! results, so a duke whose results wait gets fewer units, too.

use std::collections::VecDeque;

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId},
    limits::{LINK_AHEAD, LINK_BYTES_FIRST, LINK_BYTES_MIN, LINK_FLIGHT_BYTES, LINK_MEMORY},
    time::{Time, micros},
};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Link {
    /// What has not arrived, in the order in which it was sent.
    flights: VecDeque<Flight>,
    /// The bytes of all flights.
    bytes: u64,
    /// Bytes that have arrived, and when the last of them did, or when the first was sent of those on their way.
    arrived: u64,
    arrived_at: Time,
    /// Bytes that arrive in a second.
    rate: Best,
    /// The time from when something is sent until the king hears that it has arrived, in microseconds.
    trip_us: Best,
}

/// Attempts of one job that were sent together and arrive together.
#[derive(Clone, Copy, Debug)]
struct Flight {
    job: JobId,
    first: AttemptId,
    last: AttemptId,
    bytes: u64,
    sent: Time,
    /// What had arrived when it was sent, and when.
    before: (u64, Time),
}

/// The best of what was measured lately: of the present period, and of the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Best {
    began: Time,
    now: Option<u64>,
    before: Option<u64>,
}

impl Link {
    /// Notes an attempt that is handed to the duke.
    pub(super) fn send(&mut self, id: AttemptId, job: JobId, bytes: u64, now: Time) {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.flights.back_mut() {
            Some(flight) if flight.takes(job, bytes, now) => {
                flight.last = id;
                flight.bytes += bytes;
            }
            back => {
                if back.is_none() {
                    self.arrived_at = now;
                }
                let before = (self.arrived, self.arrived_at);
                self.flights.push_back(Flight { job, first: id, last: id, bytes, sent: now, before });
            }
        }
    }

    /// All attempts up to this one have arrived.
    pub(in crate::scheduler) fn arrive(&mut self, attempt: AttemptId, now: Time) {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.last <= attempt) {
            self.bytes = self.bytes.saturating_sub(flight.bytes);
            self.arrived = self.arrived.saturating_add(flight.bytes);
            let (arrived, arrived_at) = flight.before;
            let (bytes, took_us) = (self.arrived.saturating_sub(arrived), now.micros_since(arrived_at));
            self.rate.measure(now, bytes.saturating_mul(1_000_000) / took_us.max(1), u64::max);
            self.trip_us.measure(now, now.micros_since(flight.sent), u64::min);
            self.arrived_at = now;
        }
    }

    /// What was sent for this job has been taken back, or matters no more.
    pub(super) fn forget_job(&mut self, job: JobId) {
        self.flights.retain(|flight| flight.job != job);
        self.bytes = self.flights.iter().map(|flight| flight.bytes).fold(0, u64::saturating_add);
    }

    pub(in crate::scheduler) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many bytes more may be on their way. The last unit may have more: one always finds a way.
    pub(in crate::scheduler) fn room(&self) -> u64 {
        self.window().saturating_sub(self.bytes)
    }

    /// How many bytes may be on their way.
    fn window(&self) -> u64 {
        let (Some(rate), Some(trip_us)) = (self.rate.best(u64::max), self.trip_us.best(u64::min)) else {
            return LINK_BYTES_FIRST;
        };
        let time_us = trip_us.saturating_add(trip_us.max(micros(LINK_AHEAD)));
        (rate.saturating_mul(time_us) / 1_000_000).max(LINK_BYTES_MIN)
    }

    /// How long `bytes` more would take to arrive, in microseconds; `None` if nothing is known.
    pub(in crate::scheduler) fn takes_us(&self, bytes: u64) -> Option<u64> {
        let (rate, trip_us) = (self.rate.best(u64::max)?, self.trip_us.best(u64::min)?);
        Some(trip_us.saturating_add(carries_us(rate, self.bytes.saturating_add(bytes))))
    }

    /// Whether so many bytes more arrive later than a slot that has work should need them, or nothing is known.
    pub(in crate::scheduler) fn is_slow_for(&self, bytes: u64) -> bool {
        self.takes_us(bytes).is_none_or(|takes_us| takes_us > micros(LINK_AHEAD))
    }

    /// The attempts of a job that are on their way and take longer than this, all from the first of them on; and how long
    /// the first takes. What is behind something that has been on its way for long takes as long, too.
    pub(in crate::scheduler) fn late(&self, job: JobId, now: Time, than_us: u64) -> Option<Late> {
        let age_us = now.micros_since(self.flights.front()?.sent);
        let rate = self.rate.best(u64::max);
        let mut bytes: u64 = 0;
        self.flights.iter().find_map(|flight| {
            bytes = bytes.saturating_add(flight.bytes);
            let takes_us = rate.map_or(0, |rate| carries_us(rate, bytes)).max(age_us);
            (flight.job == job && takes_us > than_us).then_some(Late { from: flight.first, takes_us })
        })
    }

    /// Whether attempts of this job are on their way.
    pub(in crate::scheduler) fn carries(&self, job: JobId) -> bool {
        self.flights.iter().any(|flight| flight.job == job)
    }

    /// The first attempt that has not arrived, if there is one.
    pub(in crate::scheduler) fn first_on_its_way(&self) -> Option<AttemptId> {
        self.flights.front().map(|flight| flight.first)
    }

    pub(super) fn check(&self, id: DukeId) {
        let bytes: u64 = self.flights.iter().map(|flight| flight.bytes).sum();
        assert_eq!(self.bytes, bytes, "link_counts_what_is_on_its_way: {id}");
        let is_ordered = self.flights.iter().is_sorted_by(|one, next| one.last < next.first);
        assert!(is_ordered, "attempts_are_on_their_way_in_order: {id}");
    }
}

/// Attempts of one duke that arrive late.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheduler) struct Late {
    /// The first of them.
    pub(in crate::scheduler) from: AttemptId,
    /// How long that takes from now on, in microseconds.
    pub(in crate::scheduler) takes_us: u64,
}

impl Flight {
    /// Whether an attempt that is sent now is measured with it.
    fn takes(&self, job: JobId, bytes: u64, now: Time) -> bool {
        self.job == job && self.sent == now && self.bytes.saturating_add(bytes) <= LINK_FLIGHT_BYTES
    }
}

impl Best {
    fn measure(&mut self, now: Time, value: u64, better: fn(u64, u64) -> u64) {
        if self.began.after(LINK_MEMORY) <= now {
            (self.began, self.before) = (now, self.now.take());
        }
        self.now = Some(self.now.map_or(value, |best| better(best, value)));
    }

    fn best(&self, better: fn(u64, u64) -> u64) -> Option<u64> {
        self.now.into_iter().chain(self.before).reduce(better)
    }
}

fn carries_us(rate: u64, bytes: u64) -> u64 {
    bytes.saturating_mul(1_000_000) / rate.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(1);

    /// Sends units of this size over a link of this rate and latency whenever there is room, for some seconds. Returns
    /// the link, and what has arrived.
    fn busy(bytes: u64, rate: u64, latency_us: u64) -> (Link, u64) {
        let (mut link, mut due, mut sent, mut free_at) = (Link::default(), VecDeque::new(), 0, 0);
        for now_us in (0..5_000_000).step_by(100) {
            while due.front().is_some_and(|(at, _)| *at <= now_us) {
                let (_, attempt) = due.pop_front().unwrap();
                link.arrive(AttemptId(attempt), Time(now_us));
            }
            while link.has_room() {
                sent += 1;
                link.send(AttemptId(sent), JOB, bytes, Time(now_us));
                free_at = now_us.max(free_at) + carries_us(rate, bytes);
                due.push_back((free_at + latency_us, sent));
            }
        }
        let arrived = link.arrived;
        (link, arrived)
    }

    #[test]
    fn a_link_is_kept_busy_and_no_pile_gathers_in_it() {
        for rate in [30_000, 250_000, 12_500_000] {
            for latency_us in [0, 1_000, 100_000, 400_000] {
                let (link, arrived) = busy(9_000, rate, latency_us);
                // The window has doubled from round trip to round trip, and that was not the time that the rest took.
                assert!(arrived >= 2 * rate, "{rate}, {latency_us}: {arrived}");
                // Half of the first bytes, what is ahead, and one unit more.
                let most = rate * (2 * latency_us + 300_000) / 1_000_000 + LINK_BYTES_FIRST;
                assert!(link.bytes <= most, "{rate}, {latency_us}: {}", link.bytes);
            }
        }
    }

    #[test]
    fn what_stands_still_is_late_and_so_is_what_comes_behind_it() {
        let mut link = Link::default();
        link.send(AttemptId(1), JOB, 100, Time(0));
        link.send(AttemptId(2), JOB, 10, Time(5_000));
        let late = |link: &Link, now_us| link.late(JOB, Time(now_us), 10_000).map(|late| late.from);
        assert_eq!(late(&link, 10_000), None);
        assert_eq!(late(&link, 10_001), Some(AttemptId(1)));
        link.arrive(AttemptId(1), Time(11_000));
        assert_eq!(late(&link, 11_000), None);
    }

    #[test]
    fn there_is_room_again_when_what_was_sent_has_arrived_or_its_job_is_over() {
        let full = || {
            let mut link = Link::default();
            link.send(AttemptId(1), JOB, 2 * LINK_BYTES_FIRST, Time(0));
            assert!(!link.has_room());
            link
        };
        let mut link = full();
        link.arrive(AttemptId(0), Time(1));
        assert!(!link.has_room());
        link.arrive(AttemptId(1), Time(1));
        assert!(link.has_room());
        let mut link = full();
        link.forget_job(JobId(2));
        assert!(!link.has_room());
        link.forget_job(JOB);
        assert!(link.has_room());
    }

    #[test]
    fn whatever_a_duke_claims_gives_a_window() {
        let mut link = Link::default();
        for (attempt, at) in [(1, 0), (2, 0), (3, u64::MAX)] {
            link.send(AttemptId(attempt), JOB, u64::MAX / 2, Time(at));
            link.arrive(AttemptId(u64::MAX), Time(at));
            assert!(link.has_room() && link.takes_us(u64::MAX).is_some());
        }
    }
}
