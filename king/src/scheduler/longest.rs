//! Which unit of each job has been running longest, for people who wait for the job.
//!
//! Attempts are numbered in the order in which they start, so the first one of a job is the one to look for. Now and
//! then the oldest attempts of all jobs are looked through; no list is kept up to date while units come and go.

use distwasm_proto::limits::{LONG_UNIT, LONGEST_ATTEMPTS_MAX, LONGEST_LOOK_EVERY};

use super::{Alarm, Attempt, LongestAttempt, Scheduler};

impl Scheduler {
    /// Schedules the next look while anything runs.
    pub(super) fn watch_longest(&mut self) {
        if !self.attempts.is_empty() && !self.timers.is_set(Alarm::Longest) {
            self.timers.set(Alarm::Longest, self.now.after(LONGEST_LOOK_EVERY));
        }
    }

    pub(super) fn find_longest(&mut self) {
        for job in self.jobs.values_mut() {
            job.longest = None;
        }
        let is_long = |attempt: &Attempt| attempt.since.after(LONG_UNIT) <= self.now;
        for (id, attempt) in self.attempts.iter().take(LONGEST_ATTEMPTS_MAX) {
            let Attempt { duke, job, unit, since, runs, .. } = *attempt;
            if runs && !is_long(attempt) {
                // All later attempts started later.
                return;
            }
            if let Some(job) = self.jobs.get_mut(&job).filter(|_| runs) {
                job.longest.get_or_insert(LongestAttempt { attempt: *id, unit, duke, since });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use distwasm_proto::{
        ids::{AttemptId, DukeId, JobId, UnitNo},
        time::Time,
    };

    use super::*;
    use crate::scheduler::{Action, Event, JobSpec, Outcome, Resumption};

    #[test]
    fn the_unit_that_runs_longest_is_named_while_it_runs() {
        let (duke, job) = (DukeId(1), JobId(1));
        let mut scheduler = Scheduler::default();
        let mut handle = |seconds: u64, events: Vec<Event>| {
            let mut actions = Vec::new();
            scheduler.handle(Time(seconds * 1_000_000), events, &mut actions);
            scheduler.check();
            let told = |action: &Action| match action {
                Action::TellStatus { status, .. } => Some(status.longest.map(|longest| longest.unit)),
                _ => None,
            };
            (actions.iter().find_map(told), scheduler.next_deadline().is_some())
        };
        let unit = |unit| Event::UnitAdded { job, unit: UnitNo(unit), bytes: 1 };
        let ended = |attempt| {
            let outcome = Outcome::Done { bytes: 1 };
            Event::AttemptEnded { duke, attempt: AttemptId(attempt), outcome, run_us: 1 }
        };
        let joined =
            Event::DukeJoined { duke, cpus: 2, ram_bytes: 1 << 30, labels: BTreeMap::new(), was: None, holds: vec![] };
        let opened = Event::JobOpened { job, key: 1, spec: JobSpec::default(), resumes: Resumption::default() };
        assert_eq!(handle(0, vec![joined, opened, unit(0), unit(1)]), (Some(None), true));
        assert_eq!(handle(1, vec![Event::Tick]).0, None);
        assert_eq!(handle(10, vec![Event::Tick]).0, Some(Some(UnitNo(0))));
        assert_eq!(handle(11, vec![Event::Tick]).0, None, "it is told once");
        assert_eq!(handle(12, vec![ended(1)]).0, Some(Some(UnitNo(1))));
        assert_eq!(handle(13, vec![ended(2)]).0, Some(None));
    }
}
