//! Chooses the jobs to ask for slots, so that a job that has less gets one.

use std::cmp::Reverse;

use distwasm_proto::{
    ids::{DukeId, JobId},
    limits::{SLOT_TENURE, TURNS_BELOW_SLOTS},
    time::Time,
};

use super::{
    Alarm, Scheduler,
    duke::{Duke, Lease, Room},
    job::Job,
    projects::Project,
};

/// A plan to make room for a job on a duke by asking these jobs for one slot each.
pub(super) struct Eviction {
    pub(super) duke: DukeId,
    pub(super) victims: Vec<JobId>,
}

/// A job that has slots on a duke, counted as if the jobs to be asked before it had given theirs.
struct Holder<'a> {
    id: JobId,
    job: &'a Job,
    lease: &'a Lease,
    project: Project,
    slots: u32,
    /// Some of its slots here are idle because the duke is blocked.
    has_blocked: bool,
    /// Its queen is away, and the queen of the asking job is not.
    yields_to_asker: bool,
    /// The queen of the asking job is away, and its own is not.
    precedes_asker: bool,
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
        let evictions = self.dukes.iter().filter_map(|(duke_id, duke)| {
            let victims = self.victims(id, duke, &mut wait_until)?;
            Some(Eviction { duke: *duke_id, victims })
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
        let project = self.projects.get(job.project)?;
        let slot = duke.slot_for(id, job)?;
        let mut room: Room = self.uncommitted(duke)?;
        let mut victims = Vec::new();
        while room.minus(slot).is_none() {
            let mut best: Option<Holder<'_>> = None;
            for mut holder in self.holders(duke, &victims).filter(|holder| holder.id != id) {
                holder.yields_to_asker = holder.job.yields(self.now) && !job.yields(self.now);
                holder.precedes_asker = job.yields(self.now) && !holder.job.yields(self.now);
                match holder.claim(self.now, job, project) {
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
    fn holders<'a>(&'a self, duke: &'a Duke, asked: &'a [JobId]) -> impl Iterator<Item = Holder<'a>> {
        let count = |matches: &dyn Fn(&JobId) -> bool| {
            u32::try_from(asked.iter().filter(|asked| matches(asked)).count()).unwrap_or(u32::MAX)
        };
        duke.leases.iter().filter_map(move |(id, lease)| {
            let job = self.jobs.get(id)?;
            let project = *self.projects.get(job.project)?;
            let own = count(&|asked| asked == id);
            let of_project = count(&|asked| self.jobs.get(asked).is_some_and(|other| other.project == job.project));
            let project = Project { share: project.share.saturating_sub(of_project), ..project };
            let (slots, has_blocked) = (job.slots.saturating_sub(own), lease.has_blocked_slots(own));
            let holder = Holder {
                id: *id,
                job,
                lease,
                project,
                slots,
                has_blocked,
                yields_to_asker: false,
                precedes_asker: false,
            };
            (lease.slots > own).then_some(holder)
        })
    }
}

impl Holder<'_> {
    /// Whether a job of this project may ask for one slot.
    fn claim(&self, now: Time, claimant: &Job, claimants: &Project) -> Claim {
        if self.is_spare() {
            return Claim::Now;
        }
        if self.precedes_asker {
            return Claim::No;
        }
        if self.job.project == claimant.project {
            let is_without = claimant.slots + claimant.reserved == 0;
            let may_ask = match claimant.spec.priority.cmp(&self.job.spec.priority) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => self.slots >= 2 && is_without,
                std::cmp::Ordering::Less => false,
            };
            return if may_ask { Claim::Now } else { Claim::No };
        }
        if claimants.evens_out(&self.project) {
            return Claim::Now;
        }
        let take_turns = claimants.compare_levels(&self.project).is_lt() && claimants.share < TURNS_BELOW_SLOTS;
        let tenure_ends = self.lease.since.after(SLOT_TENURE);
        match (take_turns, now >= tenure_ends, claimants.pass < self.project.pass) {
            (false, ..) => Claim::No,
            (true, false, _) => Claim::Later(tenure_ends),
            (true, true, true) => Claim::Now,
            // Its turn comes when the other has had more; look again after a while.
            (true, true, false) => Claim::Later(now.after(SLOT_TENURE)),
        }
    }

    fn is_spare(&self) -> bool {
        self.has_blocked || self.yields_to_asker || self.slots > self.job.need()
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
    use std::{collections::BTreeMap, time::Duration};

    use distwasm_proto::{
        ids::{AttemptId, UnitNo},
        limits::AWAY_PATIENCE,
    };

    use super::*;
    use crate::scheduler::{Action, Event, JobSpec, Outcome, Resumption};

    fn handle(scheduler: &mut Scheduler, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        scheduler.handle(Time::default(), events, &mut actions);
        scheduler.check();
        actions
    }

    fn opened(job: u64) -> Event {
        let spec = JobSpec { project: format!("project {job}"), ..JobSpec::default() };
        Event::JobOpened { job: JobId(job), key: job, spec, resumes: Resumption::default() }
    }

    fn unit(job: u64, unit: u64) -> Event {
        Event::UnitAdded { job: JobId(job), unit: UnitNo(unit), bytes: 1 }
    }

    #[test]
    fn the_slots_of_a_job_whose_queen_is_away_serve_others() {
        let (duke, mut scheduler) = (DukeId(1), Scheduler::default());
        let (labels, holds) = (BTreeMap::new(), Vec::new());
        let joined = Event::DukeJoined { duke, cpus: 2, ram_bytes: 1 << 30, labels, was: None, holds };
        // Both jobs are in one project, where a job that has a slot gets no slot from another.
        let open = |job| Event::JobOpened {
            job: JobId(job),
            key: job,
            spec: JobSpec::default(),
            resumes: Resumption::default(),
        };
        let mut handle = |now: Time, events: Vec<Event>| {
            let mut actions = Vec::new();
            scheduler.handle(now, events, &mut actions);
            scheduler.check();
            let asked = Action::ReleaseSlots { duke, job: JobId(1), slots: 1 };
            (actions.iter().filter(|action| **action == asked).count(), scheduler.next_deadline())
        };
        let start = Time::default();
        let units = |job| (0..4).map(move |number| unit(job, number));
        handle(start, [joined, open(1)].into_iter().chain(units(1)).collect());
        assert_eq!(handle(start, [open(2)].into_iter().chain(units(2)).collect()).0, 1, "one slot for each job");
        let released = Event::SlotsReleased { duke, job: JobId(1), slots: 1 };
        let (asked, deadline) = handle(start, vec![released, Event::QueenAway { job: JobId(1) }]);
        assert_eq!((asked, deadline.is_some_and(|at| at <= start.after(AWAY_PATIENCE))), (0, true));
        let mut asked = 0;
        for second in 1..=4 {
            asked += handle(start.after(Duration::from_secs(second)), vec![Event::Tick]).0;
            assert_eq!(asked, usize::from(second >= 2), "after {second} s");
        }
    }

    #[test]
    fn a_slot_whose_queen_sends_nothing_serves_others() {
        let (duke, mut scheduler) = (DukeId(1), Scheduler::default());
        let (labels, holds) = (BTreeMap::new(), Vec::new());
        let joined = Event::DukeJoined { duke, cpus: 1, ram_bytes: 1 << 30, labels, was: None, holds };
        handle(&mut scheduler, [joined, opened(1), unit(1, 0)]);
        let asked_back = Action::ReleaseSlots { duke, job: JobId(1), slots: 1 };
        // Job 1 keeps its slot while it has something to do, and while no other job has.
        assert!(!handle(&mut scheduler, [opened(2), unit(2, 0)]).contains(&asked_back));
        let done = Outcome::Done { bytes: 1 };
        let ended = Event::AttemptEnded { duke, attempt: AttemptId(1), outcome: done, run_us: 1 };
        assert!(handle(&mut scheduler, [ended]).contains(&asked_back));
    }
}
