//! Which unit of each job has been running longest, for people who wait for the job.
//!
//! Attempts are numbered in the order in which they start, so the first one of a job is the one to look for. Now and
//! then the oldest attempts of all jobs are looked through; no list is kept up to date while units come and go.

use distwasm_proto::limits::{LONG_UNIT, LONGEST_ATTEMPTS_MAX, LONGEST_LOOK_EVERY};

use super::{Alarm, LongestAttempt, Scheduler, ledger::Attempt};

impl Scheduler {
    /// Schedules the next look while anything runs.
    pub(super) fn watch_longest(&mut self) {
        if self.ledger.attempts().len() > 0 && !self.timers.is_set(Alarm::Longest) {
            self.timers.set(Alarm::Longest, self.now.after(LONGEST_LOOK_EVERY));
        }
    }

    pub(super) fn find_longest(&mut self) {
        for job in self.jobs.values_mut() {
            job.longest = None;
        }
        let is_long = |attempt: &Attempt| attempt.since.after(LONG_UNIT) <= self.now;
        for (id, attempt) in self.ledger.attempts().take(LONGEST_ATTEMPTS_MAX) {
            let Attempt { duke, job, unit, since, runs, .. } = *attempt;
            if runs && !is_long(attempt) {
                // All later attempts started later.
                return;
            }
            if let Some(job) = self.jobs.get_mut(&job).filter(|_| runs) {
                job.longest.get_or_insert(LongestAttempt { attempt: id, unit, duke, since });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use distwasm_proto::ids::{AttemptId, DukeId, JobId, UnitNo};

    use crate::scheduler::{
        Action, JobSpec,
        testing::{Kingdom, done},
    };

    #[test]
    fn the_unit_that_runs_longest_is_named_while_it_runs() {
        let (duke, job, second) = (DukeId(1), JobId(1), Duration::from_secs(1));
        let told = |actions: Vec<Action>| {
            actions.iter().find_map(|action| match action {
                Action::TellStatus { status, .. } => Some(status.longest.map(|longest| longest.unit)),
                _ => None,
            })
        };
        let mut kingdom = Kingdom::new().duke(duke, 2);
        assert_eq!(told(kingdom.open(job, JobSpec::default(), 2)), Some(None));
        assert_eq!(told(kingdom.wait(second)), None);
        assert_eq!(told(kingdom.wait(second * 9)), Some(Some(UnitNo(0))));
        assert_eq!(told(kingdom.wait(second)), None, "it is told once");
        kingdom.tell([done(duke, AttemptId(1))]);
        assert_eq!(told(kingdom.wait(second)), Some(Some(UnitNo(1))));
        kingdom.tell([done(duke, AttemptId(2))]);
        assert_eq!(told(kingdom.wait(second)), Some(None));
    }
}
