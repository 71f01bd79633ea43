//! The scheduler's view of a job.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use distwasm_proto::{
    ids::{DukeId, UnitNo},
    limits::{LINK_UNIT_BYTES, RESULT_UNASKED_BYTES_MAX, SLOT_QUEUE, SLOT_UNITS_MAX, SLOT_UNITS_MIN},
    secret::Mark,
    time::{Time, UnitTime},
};

use super::{
    events::{JobSpec, JobStatus, LongestAttempt},
    ledger::Account,
    projects::ProjectNo,
    results::Results,
    unfit::Doubt,
    units::Units,
};

/// One job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) project: ProjectNo,
    /// That of the key which its queen made up, so that nobody else can claim the job.
    pub(super) mark: Mark,
    /// Known only from dukes that came back. Its queen has not come back yet, so its spec is still unknown.
    pub(super) unclaimed: bool,
    /// From this time on, its slots serve jobs whose queens are connected.
    pub(super) yields_from: Option<Time>,
    /// Its queen came back to a new king: until this many dukes have come back too, units that may run at one of them
    /// are not started elsewhere.
    pub(super) awaits_dukes: Option<u32>,
    /// Verdicts that the queen has not heard.
    pub(super) unheard: u64,
    pub(super) units: Units,
    /// Units without an attempt, in the order in which they are to run.
    pub(super) waiting: VecDeque<UnitNo>,
    /// Units without an attempt that are to be tried alone, in this order.
    pub(super) suspects: VecDeque<UnitNo>,
    /// The queen will add no more units.
    pub(super) closed: bool,
    /// `waiting` begins with the largest units: all that are left are known, and their sizes differ.
    pub(super) is_by_size: bool,
    /// When units that are late may be given to other dukes again.
    pub(super) late_from: Time,
    /// The bytes of results that come unasked: a moving average.
    pub(super) result_bytes: u64,
    /// No slot could be found for it when slots were last dealt out.
    pub(super) fits_nowhere: bool,
    /// Its results, from when they are offered until its queen has them.
    pub(super) results: Results,
    /// The unit that was running longest when that was last looked for.
    pub(super) longest: Option<LongestAttempt>,
    /// The status that the queen was told last.
    pub(super) told: Option<JobStatus>,
    /// What dukes that are here have said against its program.
    pub(super) doubts: BTreeMap<DukeId, Doubt>,
    /// Others may try it, when that was last looked at.
    pub(super) has_other_dukes: bool,
    /// How long a unit takes in a slot.
    pub(super) unit_time: UnitTime,
}

impl Job {
    pub(super) fn new(mark: Mark, spec: JobSpec, project: ProjectNo) -> Job {
        Job {
            spec,
            project,
            mark,
            unclaimed: false,
            yields_from: None,
            awaits_dukes: None,
            unheard: 0,
            units: Units::default(),
            waiting: VecDeque::new(),
            suspects: VecDeque::new(),
            closed: false,
            is_by_size: false,
            late_from: Time::default(),
            result_bytes: 0,
            fits_nowhere: false,
            results: Results::default(),
            longest: None,
            told: None,
            doubts: BTreeMap::new(),
            has_other_dukes: false,
            unit_time: UnitTime::default(),
        }
    }

    /// How many slots it could use.
    pub(super) fn need(&self, account: &Account) -> u32 {
        let usable = self.results.slots_max().filter(|_| !self.unclaimed);
        usable.into_iter().fold(self.slots_wanted(account), u32::min)
    }

    /// How many slots it could use if its queen took all results at once. An open job that had no units yet could use
    /// one, to have its program compiled meanwhile.
    pub(super) fn slots_wanted(&self, account: &Account) -> u32 {
        if self.unclaimed {
            return account.slots;
        }
        let units = u32::try_from(self.units.open()).unwrap_or(u32::MAX);
        let is_new = !self.closed && self.unit_time.average_us().is_none();
        self.spec.max_parallel.into_iter().fold(units.max(u32::from(is_new)), u32::min)
    }

    /// Units that wait for a slot.
    pub(super) fn units_waiting(&self) -> usize {
        self.waiting.len() + self.suspects.len()
    }

    /// Records the run time of an attempt.
    pub(super) fn record_work(&mut self, run_us: u64) {
        self.unit_time.measure(run_us);
        self.results.record_work(run_us);
    }

    /// Records the size of a result that came unasked.
    pub(super) fn record_result(&mut self, bytes: u64) {
        self.result_bytes = self.result_bytes - self.result_bytes / 8 + bytes.min(RESULT_UNASKED_BYTES_MAX).div_ceil(8);
    }

    /// What a unit takes on a link besides its input.
    pub(super) fn link_bytes(&self) -> u64 {
        self.result_bytes + LINK_UNIT_BYTES
    }

    /// Puts the largest units first, now that all are known: a long unit that begins last ends long after the others
    /// (longest processing time first: R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969). Sizes are
    /// compared as powers of two, so that units of about one size keep their order.
    pub(super) fn put_largest_first(&mut self) {
        let units = &self.units;
        let size = |no: &UnitNo| units.get(*no).map_or(0, |unit| unit.bytes.checked_ilog2().map_or(0, |log| log + 1));
        let mut sizes = self.waiting.iter().map(size);
        let Some(first) = sizes.next() else { return };
        if sizes.any(|other| other != first) {
            self.waiting.make_contiguous().sort_by_key(|no| Reverse(size(no)));
            self.is_by_size = true;
        }
    }

    /// Takes out the unit that is to run next. The largest may be first: then a link that is slow for it gets the smallest.
    pub(super) fn next_waiting(&mut self, is_slow_for: impl FnOnce(u64) -> bool) -> Option<UnitNo> {
        if !self.is_by_size {
            return self.waiting.pop_front();
        }
        let bytes = self.units.get(*self.waiting.front()?)?.bytes;
        if is_slow_for(bytes) { self.waiting.pop_back() } else { self.waiting.pop_front() }
    }

    /// Whether jobs with connected queens come first: the queen of this one may have been killed.
    pub(super) fn yields(&self, now: Time) -> bool {
        self.yields_from.is_some_and(|from| from <= now)
    }

    /// Whether it could use one slot more. With a bound, slots that were asked back count until they are free.
    pub(super) fn wants_slot(&self, account: &Account) -> bool {
        let promised = account.promised();
        self.need(account) > promised && self.spec.max_parallel.is_none_or(|max| promised + account.releasing < max)
    }

    /// How many units that wait elsewhere a slot with nothing to do may get at a time.
    pub(super) fn units_in_time(&self) -> u32 {
        self.unit_time.units_in(SLOT_QUEUE).map_or(1, count).clamp(1, SLOT_UNITS_MAX)
    }

    /// How many units each slot should have queued: enough work to hide the link's latency, but not more than its
    /// share of what is left, so that all slots end at about the same time.
    pub(super) fn depth(&self, slots: u32) -> u32 {
        let by_time = self.unit_time.units_in(SLOT_QUEUE).map_or(SLOT_UNITS_MIN, count);
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let by_share = waiting / (2 * slots.max(1));
        by_time.min(by_share).clamp(SLOT_UNITS_MIN, SLOT_UNITS_MAX)
    }
}

fn count(units: u64) -> u32 {
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use distwasm_proto::ids::JobId;

    use super::*;
    use crate::scheduler::testing::mark_of;

    #[test]
    fn whatever_a_duke_claims_of_time_gives_a_depth() {
        let mut job = Job::new(mark_of(JobId(0)), JobSpec::default(), ProjectNo::default());
        job.waiting.extend((0..100_000).map(UnitNo));
        for claims in [[0, 0, 0], [u64::MAX, u64::MAX, 0], [0, u64::MAX, u64::MAX]] {
            claims.into_iter().for_each(|run_us| job.unit_time.measure(run_us));
            assert!((SLOT_UNITS_MIN..=SLOT_UNITS_MAX).contains(&job.depth(1)));
        }
    }

    #[test]
    fn the_largest_units_come_first_if_sizes_differ() {
        let order = |sizes: &[u64]| {
            let mut job = Job::new(mark_of(JobId(0)), JobSpec::default(), ProjectNo::default());
            for (no, bytes) in (0..).map(UnitNo).zip(sizes) {
                job.units.arrive(no, *bytes);
                job.waiting.push_back(no);
            }
            job.put_largest_first();
            job
        };
        let all =
            |mut job: Job| -> Vec<u64> { std::iter::from_fn(|| job.next_waiting(|_| false)).map(|no| no.0).collect() };
        assert_eq!(all(order(&[9, 15, 8, 11])), [0, 1, 2, 3], "they are about equal");
        assert_eq!(all(order(&[0, 5, 100, 4, 127, 1])), [2, 4, 1, 3, 5, 0]);
        // What would take long to arrive leaves room for what does not.
        let mut job = order(&[5, 1000, 70]);
        assert_eq!(job.next_waiting(|bytes| bytes == 1000), Some(UnitNo(0)));
        assert_eq!(job.next_waiting(|bytes| bytes == 1001), Some(UnitNo(1)));
    }
}
