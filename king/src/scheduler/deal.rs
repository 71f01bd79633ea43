//! Deals out the slots of dukes to jobs.
//!
//! Projects get slots by their weights, as far as they have use for them (weighted max-min fairness); where slots
//! cannot be divided like that, they take turns. Within a project a higher priority comes first; among equals every job
//! gets one slot before any gets a second, then the oldest comes first. Slots of a job that has more are asked back,
//! one for one, for a job that has less: their peasants finish the units that they run, and no peasant is killed
//! (`preemption` is the exception). A
//! slot that is being asked back is reserved for the job that it is meant for, so that a job which needs much of a
//! machine is not overtaken forever by jobs which need little.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use distwasm_proto::ids::{DukeId, JobId};

use super::{
    Action, Alarm, JobSpec, Scheduler,
    job::Job,
    ledger::Granted,
    projects::{Project, ProjectNo},
    ranking::Ranking,
};

/// All that decides whether a job without leases may have a slot. If none can be found for one job, none is looked for
/// for others of its kind until something has changed: many jobs may wait for few slots.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    size: (u64, bool),
    requires: BTreeMap<String, String>,
    yields: bool,
    has_slots: bool,
    /// Dukes that get no slots for it.
    shunned: Vec<DukeId>,
    /// With the priority within it. Without slots, one project is like another of these figures.
    project: Option<(ProjectNo, i32)>,
    figures: (u32, u32, u128),
}

impl Scheduler {
    /// Deals out slots until no job that wants one can have one.
    pub(super) fn deal_slots(&mut self, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.deal) {
            return;
        }
        self.schedule_deal();
        self.look_for_all_other_dukes();
        self.drop_needless_reservations();
        self.jobs.values_mut().for_each(|job| job.fits_nowhere = false);
        let count = |(id, job): (&JobId, &Job)| {
            let account = self.ledger.account(*id);
            (job.project, account.promised(), job.wants_slot(account))
        };
        self.projects.recount(self.jobs.iter().map(count));
        let dukes: Vec<DukeId> = self.ledger.dukes().map(|(id, _)| id).collect();
        dukes.into_iter().for_each(|duke| self.serve_reservations(duke, actions));
        let mut ranking = Ranking::new(self.now, &self.jobs, &self.ledger, &self.projects);
        let mut hopeless: BTreeSet<Kind> = BTreeSet::new();
        while let Some(id) = ranking.first(&self.projects) {
            let mut changed = vec![id];
            let kind = self.kind_of(id);
            if kind.as_ref().is_some_and(|kind| hopeless.contains(kind)) {
                self.set_fits_nowhere(id);
            } else if let Some(duke) = self.roomiest(id) {
                hopeless.clear();
                self.reserve(id, duke);
                self.serve_reservations(duke, actions);
            } else if let Some(eviction) = self.best_eviction(id) {
                hopeless.clear();
                for victim in eviction.victims {
                    self.ask_back(victim, eviction.duke, actions);
                    changed.push(victim);
                }
                self.reserve(id, eviction.duke);
            } else {
                self.set_fits_nowhere(id);
                // A lease may be what keeps this job from more slots.
                hopeless.extend(kind.filter(|_| self.ledger.leases_of(id).next().is_none()));
            }
            for id in changed {
                if let Some(job) = self.jobs.get(&id) {
                    ranking.update(self.now, id, job, self.ledger.account(id), &self.projects);
                }
            }
        }
        self.take_overdue_slots(actions);
    }

    /// Schedules the next deal of slots for when a lease with broken slots may have slots again, or a job begins to
    /// yield.
    fn schedule_deal(&mut self) {
        let rested = self.ledger.end_rests(self.now);
        let yielding = self.jobs.values().filter_map(|job| job.yields_from).filter(|from| *from > self.now);
        match yielding.chain(rested).min() {
            Some(at) => self.timers.set(Alarm::Deal, at),
            None => self.timers.stop(Alarm::Deal),
        }
    }

    fn drop_needless_reservations(&mut self) {
        let Scheduler { jobs, ledger, now, .. } = self;
        let wants = |(id, job): (&JobId, &Job)| job.wants_slot(ledger.account(*id)) && !job.yields(*now);
        let others_want = jobs.iter().any(wants);
        ledger.drop_reservations(|id, account| {
            let is_needed = |job: &Job| job.need(account) >= account.promised() && !(others_want && job.yields(*now));
            jobs.get(&id).is_some_and(is_needed)
        });
    }

    fn set_fits_nowhere(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.fits_nowhere = true;
        }
    }

    fn kind_of(&self, id: JobId) -> Option<Kind> {
        let job = self.jobs.get(&id)?;
        let Project { weight, share, pass } = *self.projects.get(job.project)?;
        let JobSpec { min_ram_bytes, one_per_machine, priority, .. } = job.spec;
        Some(Kind {
            size: (min_ram_bytes, one_per_machine),
            requires: job.spec.requires.clone(),
            yields: job.yields(self.now),
            has_slots: self.ledger.account(id).promised() > 0,
            shunned: job.doubts.keys().copied().filter(|duke| job.shuns(*duke)).collect(),
            project: (share > 0).then_some((job.project, priority)),
            figures: (weight, share, pass),
        })
    }

    /// The duke with the most processors left among those that have room for one more slot of this job.
    fn roomiest(&self, id: JobId) -> Option<DukeId> {
        let job = self.jobs.get(&id)?;
        let dukes = self.ledger.dukes().filter(|(duke, _)| !job.shuns(*duke));
        let left = dukes.filter_map(|(duke_id, duke)| {
            let slot = duke.slot_for(id, &job.spec)?;
            Some((duke_id, duke.uncommitted()?.minus(slot)?))
        });
        left.max_by_key(|(id, left)| (left.cpus, Reverse(*id))).map(|(id, _)| id)
    }

    fn reserve(&mut self, job_id: JobId, duke_id: DukeId) {
        let (Some(job), Some(duke)) = (self.jobs.get(&job_id), self.ledger.duke(duke_id)) else { return };
        if let Some((_, slot)) = duke.capacity(&job.spec) {
            self.ledger.reserve(duke_id, job_id, slot, self.now);
            self.projects.give(job.project);
        }
    }

    fn serve_reservations(&mut self, duke: DukeId, actions: &mut Vec<Action>) {
        let mut granted: BTreeMap<JobId, u32> = BTreeMap::new();
        for Granted { job, opened } in self.ledger.serve_reservations(duke, self.now) {
            let doubt = self.jobs.get_mut(&job).and_then(|job| job.doubts.get_mut(&duke)).filter(|_| opened.is_some());
            let fresh = doubt.map(|doubt| doubt.is_asked_again = true).is_some();
            actions.extend(opened.map(|slot_bytes| Action::OpenLease { duke, job, slot_bytes, fresh }));
            *granted.entry(job).or_default() += 1;
            self.hungry.insert(job);
        }
        actions.extend(granted.into_iter().map(|(job, slots)| Action::GrantSlots { duke, job, slots }));
    }

    /// Asks one slot back; the duke will say when it is free.
    pub(super) fn ask_back(&mut self, job: JobId, duke: DukeId, actions: &mut Vec<Action>) {
        self.ledger.ask_back(duke, job, self.now);
        if let Some(job) = self.jobs.get(&job) {
            self.projects.take(job.project);
        }
        actions.push(Action::ReleaseSlots { duke, job, slots: 1 });
    }
}
