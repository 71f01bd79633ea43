//! Programs that dukes call unfit. One duke's word ends no job, because the duke may lie or be broken.
//!
//! A duke that calls a program unfit gives the job up, and the job goes on at others. It is over when a second duke says
//! so, too. If there is no other duke for it, the first is asked again, and gets the program anew; its second word
//! counts. Dukes that may be trusted, because they belong to the queen's own process, are believed at once.

use distwasm_proto::{
    ids::{DukeId, JobId},
    limits::UNFIT_WORDS_MAX,
};

use super::{
    Action, JobEnd, Scheduler,
    job::Job,
    ledger::{Duke, Lease},
};

/// What a duke has said against a program.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubt {
    /// How often it called the program unfit.
    words: u32,
    /// It was asked again since then, and has not answered.
    pub(super) is_asked_again: bool,
}

impl Scheduler {
    pub(super) fn on_program_unfit(&mut self, duke: DukeId, id: JobId, actions: &mut Vec<Action>) {
        // Another duke may have said so before.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match self.ledger.lease(duke, id).map(Lease::is_closed) {
            Some(false) => {}
            // It has said so before, over a link that broke.
            Some(true) => return,
            None => {
                actions.push(Action::ExpelDuke { duke, why: "it judged the program of a job that it was never given" });
                return;
            }
        }
        let doubt = job.doubts.entry(duke).or_default();
        *doubt = Doubt { words: doubt.words + 1, is_asked_again: false };
        let (words, dukes) = (doubt.words, job.doubts.len());
        self.look_for_other_dukes(id);
        let has_others = self.jobs.get(&id).is_some_and(|job| job.has_other_dukes);
        let is_enough = dukes > 1 || (words > 1 && !has_others) || words >= UNFIT_WORDS_MAX;
        if is_enough || self.rules.trusts_dukes {
            return self.end_job(id, JobEnd::Unfit, actions);
        }
        let attempts = self.take_attempts(self.ledger.attempts_of_lease(duke, id));
        self.put_all_back(attempts);
        self.ledger.close(duke, id);
        self.look_at_link(duke);
        self.forget_links(duke, vec![id]);
        actions.push(Action::CloseLease { duke, job: id });
        self.deal = true;
    }

    /// Whether a duke has an open lease for a job, so that it may complain about the job.
    pub fn serves(&self, duke: DukeId, job: JobId) -> bool {
        self.ledger.lease(duke, job).is_some_and(|lease| !lease.is_closed())
    }

    /// Finds out, for each job whose program a duke called unfit, whether another duke may try it.
    pub(super) fn look_for_all_other_dukes(&mut self) {
        let doubted: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| !job.doubts.is_empty()).map(|(id, _)| *id).collect();
        doubted.into_iter().for_each(|id| self.look_for_other_dukes(id));
    }

    fn look_for_other_dukes(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let may_try = |(duke_id, duke): (DukeId, &Duke)| {
            let is_broken = duke.leases.get(&id).is_some_and(|lease| lease.broken_until.is_some());
            !job.doubts.contains_key(&duke_id) && !duke.draining && !is_broken && duke.capacity(&job.spec).is_some()
        };
        job.has_other_dukes = self.ledger.dukes().any(may_try);
    }

    /// A duke is back under another number: what it said counts as its word.
    pub(super) fn carry_doubts(&mut self, was: DukeId, now: DukeId) {
        for job in self.jobs.values_mut() {
            if let Some(doubt) = job.doubts.remove(&was) {
                job.doubts.insert(now, doubt);
            }
        }
    }

    /// A duke is gone, and its word with it.
    pub(super) fn forget_doubts(&mut self, duke: DukeId) {
        for job in self.jobs.values_mut() {
            job.doubts.remove(&duke);
        }
    }
}

impl Job {
    /// Whether a duke goes on with a lease that it had when its link broke: not after it called the program unfit, unless
    /// it was asked again.
    pub(super) fn may_keep_lease(&self, duke: DukeId) -> bool {
        self.doubts.get(&duke).is_none_or(|doubt| doubt.is_asked_again)
    }

    /// Whether a duke gets no slots because it called the program unfit, and others may try it.
    pub(super) fn shuns(&self, duke: DukeId) -> bool {
        self.has_other_dukes && self.doubts.contains_key(&duke)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{
        Event, JobSpec, Rules,
        testing::{Kingdom, joined, started},
    };

    const JOB: JobId = JobId(1);
    const LIAR: DukeId = DukeId(1);
    const OTHER: DukeId = DukeId(2);
    const ENDED: Action = Action::EndJob { job: JOB, end: JobEnd::Unfit };

    /// A duke calls the program unfit, and gives its slots back when it is told to.
    fn accuse(kingdom: &mut Kingdom, duke: DukeId) -> Vec<Action> {
        let mut actions = kingdom.tell([Event::ProgramUnfit { duke, job: JOB }]);
        if actions.contains(&Action::CloseLease { duke, job: JOB }) && !actions.contains(&ENDED) {
            actions.extend(kingdom.tell([Event::SlotsReleased { duke, job: JOB, slots: 1 }]));
        }
        actions
    }

    fn opened(actions: &[Action], at: DukeId) -> Option<bool> {
        actions.iter().find_map(|action| match action {
            Action::OpenLease { duke, fresh, .. } if *duke == at => Some(*fresh),
            _ => None,
        })
    }

    #[test]
    fn one_duke_alone_ends_no_job_and_is_left_alone() {
        let mut kingdom = Kingdom::new().duke(LIAR, 1).duke(OTHER, 1).job(JOB, JobSpec::default(), 8);
        let actions = accuse(&mut kingdom, LIAR);
        assert!(!actions.contains(&ENDED), "{actions:?}");
        assert_eq!(opened(&actions, LIAR), None, "the other duke has the job");
        // Its units run again elsewhere; it may repeat its word as often as it likes.
        assert!(started(&actions).iter().all(|(duke, ..)| *duke == OTHER));
        let again = kingdom.tell([Event::ProgramUnfit { duke: LIAR, job: JOB }]);
        assert!(matches!(again[..], [Action::ExpelDuke { duke: LIAR, .. }]), "{again:?}");
        assert!(kingdom.scheduler.has_job(JOB));
    }

    #[test]
    fn a_second_duke_is_believed() {
        let mut kingdom = Kingdom::new().duke(LIAR, 1).duke(OTHER, 1).job(JOB, JobSpec::default(), 8);
        accuse(&mut kingdom, LIAR);
        assert!(accuse(&mut kingdom, OTHER).contains(&ENDED));
    }

    #[test]
    fn the_only_duke_is_asked_again_and_gets_the_program_anew() {
        let mut kingdom = Kingdom::new().duke(LIAR, 1).job(JOB, JobSpec::default(), 8);
        let actions = accuse(&mut kingdom, LIAR);
        assert_eq!((opened(&actions, LIAR), actions.contains(&ENDED)), (Some(true), false));
        assert!(accuse(&mut kingdom, LIAR).contains(&ENDED));
    }

    #[test]
    fn a_duke_that_comes_meanwhile_is_asked_before_the_second_word_counts() {
        let mut kingdom = Kingdom::new().duke(LIAR, 1).job(JOB, JobSpec::default(), 8);
        accuse(&mut kingdom, LIAR);
        kingdom.tell([joined(OTHER, 1, None, Vec::new())]);
        assert!(!accuse(&mut kingdom, LIAR).contains(&ENDED));
        // If the other leaves again, the first has its third word, which ends the job in any case.
        let actions = kingdom.tell([Event::DukeLost { duke: OTHER }]);
        assert_eq!(opened(&actions, LIAR), Some(true));
        kingdom.tell([joined(OTHER, 1, None, Vec::new())]);
        assert!(accuse(&mut kingdom, LIAR).contains(&ENDED));
    }

    #[test]
    fn the_word_of_a_duke_that_comes_back_counts_once_and_goes_with_it() {
        let (back, stranger) = (DukeId(3), DukeId(4));
        let mut kingdom = Kingdom::new().duke(LIAR, 1).duke(OTHER, 1).job(JOB, JobSpec::default(), 8);
        accuse(&mut kingdom, LIAR);
        let actions = kingdom.tell([joined(back, 1, Some(LIAR), Vec::new())]);
        assert_eq!(opened(&actions, back), None);
        kingdom.tell([Event::DukeLost { duke: back }, joined(stranger, 1, None, Vec::new())]);
        // Nobody has said a word who is here.
        assert!(!accuse(&mut kingdom, OTHER).contains(&ENDED));
    }

    #[test]
    fn the_duke_of_ones_own_process_is_believed_at_once() {
        let rules = Rules { trusts_dukes: true, ..Rules::default() };
        let mut kingdom = Kingdom::under(rules).duke(LIAR, 1).job(JOB, JobSpec::default(), 8);
        assert!(accuse(&mut kingdom, LIAR).contains(&ENDED));
    }
}
