//! Lists the jobs and counts what the kingdom has, for requests; tells queens how their jobs are.

use std::{cmp::Reverse, collections::BTreeMap};

use distwasm_proto::ids::JobId;

use super::{
    Action, Census, JobStatus, Scheduler, WaitsFor,
    job::Job,
    ledger::{Duke, Ledger},
};

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
        for (_, attempt) in self.ledger.attempts() {
            *running.entry(attempt.job).or_default() += 1;
        }
        let ahead = self.jobs_ahead();
        let claimed = self.jobs.iter().filter(|(_, job)| !job.unclaimed);
        let describe = |(id, job): (&JobId, &Job)| {
            let overview = Overview {
                status: JobStatus {
                    longest: job.longest.filter(|longest| self.ledger.attempt(longest.attempt).is_some()),
                    ..status(*id, job, &self.ledger, staying)
                },
                priority: job.spec.priority,
                units_waiting: job.units_waiting(),
                units_running: running.get(id).copied().unwrap_or(0),
                jobs_ahead: ahead.get(id).copied().unwrap_or(0),
            };
            (*id, overview)
        };
        claimed.map(describe).collect()
    }

    /// Counts of jobs, dukes, slots and units.
    pub fn census(&self) -> Census {
        let here = || self.ledger.dukes().map(|(_, duke)| duke).filter(|duke| duke.away_since.is_none());
        Census {
            jobs: self.jobs.len(),
            dukes: here().count(),
            slots: here().map(|duke| u64::from(duke.cpus)).sum(),
            slots_granted: self.ledger.accounts().map(|(_, account)| u64::from(account.slots)).sum(),
            units_waiting: self.jobs.values().map(|job| job.units_waiting() as u64).sum(),
            units_running: self.ledger.attempts().len() as u64,
            results_bytes: self.jobs.values().map(|job| job.results.bytes()).sum(),
        }
    }

    /// The slots that each project has, including those that are being given back.
    pub fn slots_of_projects(&self) -> BTreeMap<&str, u32> {
        let mut slots = BTreeMap::new();
        for (id, job) in &self.jobs {
            *slots.entry(job.spec.project.as_str()).or_insert(0) += self.ledger.account(*id).taken();
        }
        slots
    }

    /// Tells each queen the status of its job, if it has changed.
    pub(super) fn tell_states(&mut self, actions: &mut Vec<Action>) {
        let staying = self.staying();
        for (id, job) in &mut self.jobs {
            let status = status(*id, job, &self.ledger, staying);
            if job.told != Some(status) {
                job.told = Some(status);
                actions.push(Action::TellStatus { job: *id, status });
            }
        }
    }

    /// Dukes that take work.
    fn staying(&self) -> u32 {
        u32::try_from(staying(&self.ledger).count()).unwrap_or(u32::MAX)
    }

    /// For each job, how many jobs of its project come before it and want slots.
    fn jobs_ahead(&self) -> BTreeMap<JobId, usize> {
        let rank = |(id, job): (&JobId, &Job)| (job.project, Reverse(job.spec.priority), *id);
        let mut ranked: Vec<_> = self.jobs.iter().map(rank).collect();
        ranked.sort_unstable();
        let (mut ahead, mut of_project) = (BTreeMap::new(), (None, 0));
        for (project, _, id) in ranked {
            if of_project.0 != Some(project) {
                of_project = (Some(project), 0);
            }
            ahead.insert(id, of_project.1);
            let wants_slots = self.jobs.get(&id).is_some_and(|job| job.need(self.ledger.account(id)) > 0);
            of_project.1 += usize::from(wants_slots);
        }
        ahead
    }
}

/// The slots of a job, and why it has none. `staying` is the number of dukes that take work, which is equal for every
/// job.
fn status(id: JobId, job: &Job, ledger: &Ledger, staying: u32) -> JobStatus {
    let account = ledger.account(id);
    let waits_for = match (account.slots, job.need(account)) {
        (0, 0) if job.results.slots_max() == Some(0) => Some(WaitsFor::Queen),
        (0, 1..) => Some(waits_for(job, ledger)),
        _ => None,
    };
    JobStatus { slots: account.slots, dukes: staying, waits_for, longest: job.longest }
}

fn waits_for(job: &Job, ledger: &Ledger) -> WaitsFor {
    let fitting = staying(ledger).filter(|duke| duke.has_labels(&job.spec.requires));
    match fitting.map(|duke| duke.ram_bytes).max() {
        None if staying(ledger).next().is_none() => WaitsFor::Duke,
        None => WaitsFor::Labels,
        Some(largest_bytes) if largest_bytes < job.spec.min_ram_bytes => WaitsFor::Memory { largest_bytes },
        Some(_) => WaitsFor::Slot,
    }
}

/// Dukes that take work.
fn staying(ledger: &Ledger) -> impl Iterator<Item = &Duke> {
    ledger.dukes().map(|(_, duke)| duke).filter(|duke| !duke.draining)
}
