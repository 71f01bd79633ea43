//! Deals out the slots of dukes to jobs.
//!
//! Projects get slots by their weights, as far as they have use for them (weighted max-min fairness); where slots
//! cannot be divided like that, they take turns. Within a project a higher priority comes first; among equals every job
//! gets one slot before any gets a second, then the oldest comes first. Slots of a job that has more are asked back,
//! one for one, for a job that has less: their peasants finish the units that they run, and no peasant is killed. A
//! slot that is being asked back is reserved for the job that it is meant for, so that a job which needs much of a
//! machine is not overtaken forever by jobs which need little.

use std::{cmp::Reverse, collections::BTreeMap};

use distwasm_proto::ids::{DukeId, JobId};

use super::{Action, Alarm, Scheduler, job::Job, ledger::Granted, ranking::Ranking};

impl Scheduler {
    /// Deals out slots until no job that wants one can have one.
    pub(super) fn deal_slots(&mut self, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.deal) {
            return;
        }
        self.schedule_deal();
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
        while let Some(id) = ranking.first(&self.projects) {
            let mut changed = vec![id];
            if let Some(duke) = self.roomiest(id) {
                self.reserve(id, duke);
                self.serve_reservations(duke, actions);
            } else if let Some(eviction) = self.best_eviction(id) {
                for victim in eviction.victims {
                    self.ask_back(victim, eviction.duke, actions);
                    changed.push(victim);
                }
                self.reserve(id, eviction.duke);
            } else if let Some(job) = self.jobs.get_mut(&id) {
                job.fits_nowhere = true;
            }
            for id in changed {
                if let Some(job) = self.jobs.get(&id) {
                    ranking.update(self.now, id, job, self.ledger.account(id), &self.projects);
                }
            }
        }
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

    /// The duke with the most processors left among those that have room for one more slot of this job.
    fn roomiest(&self, id: JobId) -> Option<DukeId> {
        let job = self.jobs.get(&id)?;
        let left = self.ledger.dukes().filter_map(|(duke_id, duke)| {
            let slot = duke.slot_for(id, &job.spec)?;
            Some((duke_id, duke.uncommitted()?.minus(slot)?))
        });
        left.max_by_key(|(id, left)| (left.cpus, Reverse(*id))).map(|(id, _)| id)
    }

    fn reserve(&mut self, job_id: JobId, duke_id: DukeId) {
        let (Some(job), Some(duke)) = (self.jobs.get(&job_id), self.ledger.duke(duke_id)) else { return };
        if let Some((_, slot)) = duke.capacity(&job.spec) {
            self.ledger.reserve(duke_id, job_id, slot);
            self.projects.give(job.project);
        }
    }

    fn serve_reservations(&mut self, duke: DukeId, actions: &mut Vec<Action>) {
        let mut granted: BTreeMap<JobId, u32> = BTreeMap::new();
        for Granted { job, opened } in self.ledger.serve_reservations(duke, self.now) {
            actions.extend(opened.map(|slot_bytes| Action::OpenLease { duke, job, slot_bytes }));
            *granted.entry(job).or_default() += 1;
            self.hungry.insert(job);
        }
        actions.extend(granted.into_iter().map(|(job, slots)| Action::GrantSlots { duke, job, slots }));
    }

    /// Asks one slot back; the duke will say when it is free.
    pub(super) fn ask_back(&mut self, job: JobId, duke: DukeId, actions: &mut Vec<Action>) {
        self.ledger.ask_back(duke, job);
        if let Some(job) = self.jobs.get(&job) {
            self.projects.take(job.project);
        }
        actions.push(Action::ReleaseSlots { duke, job, slots: 1 });
    }
}
