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

use super::{
    Action, Alarm, Scheduler,
    duke::{Duke, Lease, Room},
    job::Job,
    ranking::Ranking,
};

impl Scheduler {
    /// Deals out slots until no job that wants one can have one.
    pub(super) fn deal_slots(&mut self, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.deal) {
            return;
        }
        self.timers.stop(Alarm::Deal);
        self.end_rests();
        self.schedule_yielding();
        self.drop_needless_reservations();
        self.projects.recount(self.jobs.values());
        for job in self.jobs.values_mut() {
            job.passed_over = false;
        }
        let duke_ids: Vec<DukeId> = self.dukes.keys().copied().collect();
        for duke in duke_ids {
            self.serve_reservations(duke, actions);
        }
        let mut ranking = Ranking::new(self.now, &self.jobs, &self.projects);
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
                job.passed_over = true;
            }
            for id in changed {
                if let Some(job) = self.jobs.get(&id) {
                    ranking.update(self.now, id, job, &self.projects);
                }
            }
        }
    }

    /// Ends the rest of leases whose slots broke long enough ago, and schedules the end of the next rest.
    fn end_rests(&mut self) {
        for lease in self.dukes.values_mut().flat_map(|duke| duke.leases.values_mut()) {
            match lease.broken_until {
                Some(until) if until <= self.now => lease.broken_until = None,
                Some(until) => self.timers.set_by(Alarm::Deal, until),
                None => {}
            }
        }
    }

    /// Schedules the next deal of slots for when a job begins to yield.
    fn schedule_yielding(&mut self) {
        let yielding = self.jobs.values().filter_map(|job| job.yields_from).filter(|from| *from > self.now);
        if let Some(from) = yielding.min() {
            self.timers.set_by(Alarm::Deal, from);
        }
    }

    fn drop_needless_reservations(&mut self) {
        let others_want = self.jobs.values().any(|job| job.wants_slot() && !job.yields(self.now));
        for duke in self.dukes.values_mut() {
            let leases = &duke.leases;
            duke.reserved.retain(|id| {
                let Some(job) = self.jobs.get_mut(id) else { return false };
                let is_broken = leases.get(id).is_some_and(|lease| lease.broken_until.is_some() || lease.is_closed());
                let yields = others_want && job.yields(self.now);
                let keep = job.need() >= job.slots + job.reserved && !is_broken && !duke.draining && !yields;
                job.reserved -= u32::from(!keep);
                keep
            });
        }
    }

    /// The duke with the most processors left among those that have room for one more slot of this job.
    fn roomiest(&self, id: JobId) -> Option<DukeId> {
        let job = self.jobs.get(&id)?;
        let fits = |duke: &Duke| {
            let slot = duke.slot_for(id, job)?;
            self.uncommitted(duke)?.minus(slot)
        };
        let roomy = self.dukes.iter().filter_map(|(id, duke)| Some((*id, fits(duke)?)));
        roomy.max_by_key(|(id, left)| (left.cpus, Reverse(*id))).map(|(id, _)| id)
    }

    /// The part of a machine that is free or will be, less the reservations.
    pub(super) fn uncommitted(&self, duke: &Duke) -> Option<Room> {
        let coming = duke.leases.values().map(|lease| lease.slot.times(lease.releasing));
        let free = coming.fold(duke.free, Room::plus);
        duke.reserved.iter().try_fold(free, |room, id| {
            let slot =
                self.jobs.get(id).and_then(|job| duke.capacity(&job.spec)).map_or_else(Room::default, |(_, slot)| slot);
            room.minus(slot)
        })
    }

    fn reserve(&mut self, job_id: JobId, duke_id: DukeId) {
        if let (Some(job), Some(duke)) = (self.jobs.get_mut(&job_id), self.dukes.get_mut(&duke_id)) {
            job.reserved += 1;
            duke.reserved.push_back(job_id);
            self.projects.give(job.project);
        }
    }

    /// Grants a duke's reserved slots while there is room, in their order.
    fn serve_reservations(&mut self, duke_id: DukeId, actions: &mut Vec<Action>) {
        let Some(duke) = self.dukes.get_mut(&duke_id) else { return };
        let mut granted: BTreeMap<JobId, u32> = BTreeMap::new();
        while let Some(&job_id) = duke.reserved.front() {
            let Some(job) = self.jobs.get_mut(&job_id) else { break };
            let Some((_, slot)) = duke.capacity(&job.spec) else { break };
            if duke.leases.get(&job_id).is_some_and(|lease| !lease.takes_slots()) {
                break;
            }
            let slot = duke.leases.get(&job_id).map_or(slot, |lease| lease.slot);
            let Some(left) = duke.free.minus(slot) else { break };
            duke.free = left;
            duke.reserved.pop_front();
            job.reserved -= 1;
            job.slots += 1;
            let lease = duke.leases.entry(job_id).or_insert_with(|| {
                actions.push(Action::OpenLease { duke: duke_id, job: job_id, slot_bytes: slot.bytes });
                Lease::new(slot)
            });
            job.by_load.remove(&(lease.load(), duke_id));
            lease.slots += 1;
            lease.since = self.now;
            job.by_load.insert((lease.load(), duke_id));
            *granted.entry(job_id).or_insert(0) += 1;
            self.hungry.insert(job_id);
        }
        for (job, slots) in granted {
            actions.push(Action::GrantSlots { duke: duke_id, job, slots });
        }
    }

    /// Asks one slot back; the duke will say when it is free.
    pub(super) fn ask_back(&mut self, job_id: JobId, duke_id: DukeId, actions: &mut Vec<Action>) {
        if let Some(job) = self.jobs.get_mut(&job_id) {
            job.slots -= 1;
            job.releasing += 1;
            self.projects.take(job.project);
        }
        self.change_load(duke_id, job_id, |lease| {
            lease.slots -= 1;
            lease.releasing += 1;
        });
        actions.push(Action::ReleaseSlots { duke: duke_id, job: job_id, slots: 1 });
    }
}

impl Duke {
    /// The room that one more slot for this job would take; `None` if the job may not have one more here.
    pub(super) fn slot_for(&self, id: JobId, job: &Job) -> Option<Room> {
        let (slots_max, slot) = self.capacity(&job.spec)?;
        // A duke that gave the job up gives its slots back first; one that is blocked needs no more.
        let is_unfit = |lease: &Lease| lease.broken_until.is_some() || !lease.takes_slots() || lease.blocked;
        let takes_none = self.leases.get(&id).is_some_and(is_unfit);
        (!takes_none && !self.draining && self.slots_of(id) < slots_max).then_some(slot)
    }
}
