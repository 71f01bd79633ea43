//! Lists the jobs and counts what the kingdom has, for requests.

use std::collections::BTreeMap;

use distwasm_proto::ids::{DukeId, JobId};

use super::{Census, JobStatus, Scheduler, WaitsFor, duke::Duke, job::Job};

/// One job at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Its slots, and the reason why it waits.
    pub status: JobStatus,
    /// Within its project: a job of a higher priority comes first.
    pub priority: i32,
    /// Units that wait for a slot.
    pub units_waiting: usize,
    /// Units at dukes.
    pub units_running: usize,
    /// Jobs of its project that come before it and want slots, too.
    pub jobs_ahead: usize,
}

impl Scheduler {
    /// All jobs that queens have opened.
    pub fn overview(&self) -> BTreeMap<JobId, Overview> {
        let staying = self.staying();
        let mut running: BTreeMap<JobId, usize> = BTreeMap::new();
        for attempt in self.attempts.values() {
            *running.entry(attempt.job).or_default() += 1;
        }
        let claimed = self.jobs.iter().filter(|(_, job)| !job.unclaimed);
        let describe = |(id, job): (&JobId, &Job)| {
            let overview = Overview {
                status: JobStatus {
                    longest: job.longest.filter(|longest| self.attempts.contains_key(&longest.attempt)),
                    ..job.status(&self.dukes, staying)
                },
                priority: job.spec.priority,
                units_waiting: job.waiting.len() + job.suspects.len(),
                units_running: running.get(id).copied().unwrap_or(0),
                jobs_ahead: self.jobs.iter().filter(|(other, ahead)| ahead.comes_before(**other, job, *id)).count(),
            };
            (*id, overview)
        };
        claimed.map(describe).collect()
    }

    /// Counts of jobs, dukes, slots and units.
    pub fn census(&self) -> Census {
        let here = || self.dukes.values().filter(|duke| duke.away_since.is_none());
        Census {
            jobs: self.jobs.len(),
            dukes: here().count(),
            slots: here().map(|duke| u64::from(duke.cpus)).sum(),
            slots_granted: self.jobs.values().map(|job| u64::from(job.slots)).sum(),
            units_waiting: self.jobs.values().map(|job| (job.waiting.len() + job.suspects.len()) as u64).sum(),
            units_running: self.attempts.len() as u64,
            results_bytes: self.jobs.values().map(|job| job.results.bytes()).sum(),
        }
    }

    /// The slots that each project has, including those that are being given back.
    pub fn slots_of_projects(&self) -> BTreeMap<&str, u32> {
        let mut slots = BTreeMap::new();
        for job in self.jobs.values() {
            *slots.entry(job.spec.project.as_str()).or_insert(0) += job.slots + job.releasing;
        }
        slots
    }

    /// Dukes that take work.
    pub(super) fn staying(&self) -> u32 {
        u32::try_from(self.dukes.values().filter(|duke| !duke.draining).count()).unwrap_or(u32::MAX)
    }
}

impl Job {
    /// Its slots, and why it has none. `staying` is the number of dukes that do not drain, which is equal for every
    /// job.
    pub(super) fn status(&self, dukes: &BTreeMap<DukeId, Duke>, staying: u32) -> JobStatus {
        let no_use = self.results.slots_max() == Some(0);
        let waits_for = match (self.slots, self.need()) {
            (0, 0) if no_use => Some(WaitsFor::Queen),
            (0, 1..) => Some(self.waits_for(dukes)),
            _ => None,
        };
        JobStatus { slots: self.slots, dukes: staying, waits_for, longest: self.longest }
    }

    fn waits_for(&self, dukes: &BTreeMap<DukeId, Duke>) -> WaitsFor {
        let staying = || dukes.values().filter(|duke| !duke.draining);
        let fitting = staying().filter(|duke| duke.has_labels(&self.spec.requires));
        match fitting.map(|duke| duke.ram_bytes).max() {
            None if staying().next().is_none() => WaitsFor::Duke,
            None => WaitsFor::Labels,
            Some(largest_bytes) if largest_bytes < self.spec.min_ram_bytes => WaitsFor::Memory { largest_bytes },
            Some(_) => WaitsFor::Slot,
        }
    }

    fn comes_before(&self, id: JobId, other: &Job, other_id: JobId) -> bool {
        let rank = |job: &Job, id: JobId| (std::cmp::Reverse(job.spec.priority), id);
        let of_project = self.project == other.project && self.need() > 0;
        of_project && rank(self, id) < rank(other, other_id)
    }
}
