//! Chooses the jobs to ask for slots, so that a job that has less gets one.

use std::cmp::{Ordering, Reverse};

use distwasm_proto::{
    ids::{DukeId, JobId},
    limits::{SLOT_TENURE, TURNS_BELOW_SLOTS},
    time::Time,
};

use super::{
    Alarm, Scheduler,
    job::Job,
    ledger::{Account, Duke, Lease},
    projects::Project,
};

/// A plan to make room for a job on a duke by asking these jobs for one slot each.
pub(super) struct Eviction {
    pub(super) duke: DukeId,
    pub(super) victims: Vec<JobId>,
}

/// The job that asks.
struct Asker<'a> {
    job: &'a Job,
    account: &'a Account,
    project: Project,
}

/// A job that has slots on a duke, counted as if the jobs to be asked before it had given theirs.
struct Holder<'a> {
    id: JobId,
    job: &'a Job,
    lease: &'a Lease,
    project: Project,
    slots: u32,
    /// It has more slots than it needs, or some of its slots here are idle because the duke is blocked.
    has_spare: bool,
    /// `Greater` if its queen is away and that of the asking job is not, `Less` if it is the other way round.
    standing: Ordering,
}

/// Whether a job may ask another for a slot.
enum Claim {
    Now,
    Later(Time),
    No,
}

impl Scheduler {
    /// The way to make room for a job that costs the fewest slots.
    pub(super) fn best_eviction(&mut self, id: JobId) -> Option<Eviction> {
        let mut wait_until = None;
        let shuns = |duke| self.jobs.get(&id).is_some_and(|job| job.shuns(duke));
        let evictions = self.ledger.dukes().filter(|(duke, _)| !shuns(*duke)).filter_map(|(duke_id, duke)| {
            let victims = self.victims(id, duke, &mut wait_until)?;
            Some(Eviction { duke: duke_id, victims })
        });
        let best = evictions.min_by_key(|eviction| eviction.victims.len());
        if let Some(at) = wait_until.filter(|_| best.is_none()) {
            self.timers.set_by(Alarm::Deal, at);
        }
        best
    }

    /// The jobs to ask for slots so that this job gets one on this duke; `None` if too few may be asked. `wait_until`
    /// becomes the time at which more may be asked, if that is earlier.
    fn victims(&self, id: JobId, duke: &Duke, wait_until: &mut Option<Time>) -> Option<Vec<JobId>> {
        let job = self.jobs.get(&id)?;
        let asker = Asker { job, account: self.ledger.account(id), project: *self.projects.get(job.project)? };
        let slot = duke.slot_for(id, &job.spec)?;
        let mut room = duke.uncommitted()?;
        let mut victims = Vec::new();
        while room.minus(slot).is_none() {
            let mut best: Option<Holder<'_>> = None;
            for holder in self.holders(duke, job, &victims).filter(|holder| holder.id != id) {
                match asker.claim(self.now, &holder) {
                    Claim::Now if best.as_ref().is_none_or(|best| holder.is_better_than(best)) => best = Some(holder),
                    Claim::Later(at) => *wait_until = Some(wait_until.map_or(at, |until| until.min(at))),
                    Claim::Now | Claim::No => {}
                }
            }
            let Holder { id: victim, lease, .. } = best?;
            room = room.plus(lease.slot);
            victims.push(victim);
        }
        Some(victims)
    }

    /// The jobs that still have slots here when those in `asked` have given one each.
    fn holders<'a>(&'a self, duke: &'a Duke, asker: &'a Job, asked: &'a [JobId]) -> impl Iterator<Item = Holder<'a>> {
        let count = |matches: &dyn Fn(&JobId) -> bool| {
            u32::try_from(asked.iter().filter(|asked| matches(asked)).count()).unwrap_or(u32::MAX)
        };
        duke.leases.iter().filter_map(move |(id, lease)| {
            let job = self.jobs.get(id)?;
            let project = *self.projects.get(job.project)?;
            let own = count(&|asked| asked == id);
            let of_project = count(&|asked| self.jobs.get(asked).is_some_and(|other| other.project == job.project));
            let project = Project { share: project.share.saturating_sub(of_project), ..project };
            let account = self.ledger.account(*id);
            let slots = account.slots.saturating_sub(own);
            let has_spare = lease.has_blocked_slots(own) || slots > job.need(account);
            let standing = job.yields(self.now).cmp(&asker.yields(self.now));
            (lease.slots > own).then_some(Holder { id: *id, job, lease, project, slots, has_spare, standing })
        })
    }
}

impl Asker<'_> {
    /// Whether it may ask this job for one slot.
    fn claim(&self, now: Time, holder: &Holder<'_>) -> Claim {
        if holder.is_spare() {
            return Claim::Now;
        }
        if holder.standing.is_lt() {
            return Claim::No;
        }
        if holder.job.project == self.job.project {
            let may_ask = match self.job.spec.priority.cmp(&holder.job.spec.priority) {
                Ordering::Greater => true,
                Ordering::Equal => holder.slots >= 2 && self.account.promised() == 0,
                Ordering::Less => false,
            };
            return if may_ask { Claim::Now } else { Claim::No };
        }
        if self.project.evens_out(&holder.project) {
            return Claim::Now;
        }
        let has_less = self.project.compare_levels(&holder.project).is_lt();
        let take_turns = has_less && self.project.share < TURNS_BELOW_SLOTS;
        let tenure_ends = holder.lease.since.after(SLOT_TENURE);
        match (take_turns, now >= tenure_ends, self.project.pass < holder.project.pass) {
            (false, ..) => Claim::No,
            (true, false, _) => Claim::Later(tenure_ends),
            (true, true, true) => Claim::Now,
            // Its turn comes when the other has had more; look again after a while.
            (true, true, false) => Claim::Later(now.after(SLOT_TENURE)),
        }
    }
}

impl Holder<'_> {
    fn is_spare(&self) -> bool {
        self.has_spare || self.standing.is_gt()
    }

    /// Spare slots come first, then those of the project that has most.
    fn is_better_than(&self, other: &Holder<'_>) -> bool {
        let rank =
            |holder: &Holder<'_>| (holder.project.pass, Reverse(holder.job.spec.priority), holder.slots, holder.id);
        let by_level = || self.project.compare_levels(&other.project);
        self.is_spare().cmp(&other.is_spare()).then_with(by_level).then_with(|| rank(self).cmp(&rank(other))).is_gt()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use distwasm_proto::limits::AWAY_PATIENCE;

    use super::*;
    use crate::scheduler::{
        Action, Event, JobSpec,
        testing::{Kingdom, done},
    };

    const DUKE: DukeId = DukeId(1);
    const FIRST: JobId = JobId(1);
    const SECOND: JobId = JobId(2);
    const ASKED_BACK: Action = Action::ReleaseSlots { duke: DUKE, job: FIRST, slots: 1 };

    #[test]
    fn the_slots_of_a_job_whose_queen_is_away_serve_others() {
        // Both jobs are in one project, where a job that has a slot gets no slot from another.
        let mut kingdom = Kingdom::new().duke(DUKE, 2).job(FIRST, JobSpec::default(), 4);
        assert!(kingdom.open(SECOND, JobSpec::default(), 4).contains(&ASKED_BACK), "one slot for each job");
        let released = Event::SlotsReleased { duke: DUKE, job: FIRST, slots: 1 };
        assert!(!kingdom.tell([released, Event::QueenAway { job: FIRST }]).contains(&ASKED_BACK));
        let yields_from = Time::default().after(AWAY_PATIENCE);
        assert!(kingdom.scheduler.next_deadline().is_some_and(|at| at <= yields_from));
        let asked_back = [1, 2, 3, 4].map(|_| kingdom.wait(Duration::from_secs(1)).contains(&ASKED_BACK));
        assert_eq!(asked_back, [false, true, false, false]);
    }

    #[test]
    fn a_slot_whose_queen_sends_nothing_serves_others() {
        let spec = |project: &str| JobSpec { project: project.to_owned(), ..JobSpec::default() };
        let mut kingdom = Kingdom::new().duke(DUKE, 1).job(FIRST, spec("a"), 1);
        // The first job keeps its slot while it has something to do, and while no other job has.
        assert!(!kingdom.open(SECOND, spec("b"), 1).contains(&ASKED_BACK));
        let (_, attempt) = kingdom.started_on(DUKE)[0];
        assert!(kingdom.tell([done(DUKE, attempt)]).contains(&ASKED_BACK));
    }
}
