//! Which dukes compile the programs of which jobs, for people who wait.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{DukeId, JobId},
    time::Time,
    wire,
};

use super::Reactor;

/// Since when each duke has been compiling the program of a job.
#[derive(Debug, Default)]
pub(super) struct Compilations(BTreeMap<DukeId, BTreeMap<JobId, Time>>);

impl Compilations {
    /// A duke compiles for these jobs, and for no others. Returns the jobs for which that has changed.
    fn replace(&mut self, now: Time, duke: DukeId, jobs: &BTreeSet<JobId>) -> BTreeSet<JobId> {
        let before = self.0.remove(&duke).unwrap_or_default();
        let since = |job: &JobId| before.get(job).copied().unwrap_or(now);
        if !jobs.is_empty() {
            self.0.insert(duke, jobs.iter().map(|job| (*job, since(job))).collect());
        }
        before.keys().copied().collect::<BTreeSet<_>>().symmetric_difference(jobs).copied().collect()
    }

    /// A job is over.
    pub(super) fn forget_job(&mut self, job: JobId) {
        self.0.retain(|_, jobs| {
            jobs.remove(&job);
            !jobs.is_empty()
        });
    }

    /// The duke that has been compiling longest for a job.
    fn longest(&self, job: JobId) -> Option<(DukeId, Time)> {
        let of_job = self.0.iter().filter_map(|(duke, jobs)| Some((*duke, *jobs.get(&job)?)));
        of_job.min_by_key(|(_, since)| *since)
    }

    /// The dukes that compile, and for which jobs.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DukeId, JobId)> {
        self.0.iter().flat_map(|(duke, jobs)| jobs.keys().map(|job| (*duke, *job)))
    }
}

impl Reactor {
    /// A duke compiles for these jobs now. It says nothing of jobs that it does not serve.
    pub(super) fn on_compiling(&mut self, duke: DukeId, jobs: &[JobId]) {
        // Its lease may have ended in this batch.
        self.run_core();
        let served = jobs.iter().copied().filter(|job| self.scheduler.serves(duke, *job)).collect();
        self.set_compilations(duke, &served);
    }

    /// A duke is gone, and compiles nothing any more.
    pub(super) fn forget_compilations(&mut self, duke: DukeId) {
        self.set_compilations(duke, &BTreeSet::new());
    }

    fn set_compilations(&mut self, duke: DukeId, jobs: &BTreeSet<JobId>) {
        let changed = self.compilations.replace(self.now, duke, jobs);
        changed.into_iter().for_each(|job| self.tell_state(job));
    }

    /// Describes what is compiled for a job, for people.
    pub(super) fn describe_compilation(&self, job: JobId) -> Option<wire::Compilation> {
        let (duke, since) = self.compilations.longest(job)?;
        let duke = self.dukes.get(&duke)?.machine.hostname.clone();
        Some(wire::Compilation { duke, running_ms: self.now.micros_since(since) / 1000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_duke_that_has_compiled_longest_is_named_until_it_has_ended() {
        let mut compilations = Compilations::default();
        let [job, other] = [JobId(1), JobId(2)];
        let [one, two] = [DukeId(1), DukeId(2)];
        let both = BTreeSet::from([job, other]);
        assert_eq!(compilations.replace(Time(10), one, &both), both);
        assert_eq!(compilations.replace(Time(20), two, &BTreeSet::from([job])), BTreeSet::from([job]));
        assert_eq!(compilations.replace(Time(30), two, &BTreeSet::from([job])), BTreeSet::new());
        assert_eq!(compilations.longest(job), Some((one, Time(10))));
        assert_eq!(compilations.replace(Time(40), one, &BTreeSet::from([other])), BTreeSet::from([job]));
        assert_eq!(compilations.longest(job), Some((two, Time(20))));
        compilations.forget_job(job);
        assert_eq!((compilations.longest(job), compilations.longest(other)), (None, Some((one, Time(10)))));
    }
}
