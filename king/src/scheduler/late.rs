//! Gives units at the end of a job to other dukes that have not arrived at theirs, or wait there behind others.
//!
//! This happens when a job has no waiting units, and a slot of another duke is idle that would begin with such a unit
//! earlier, by `LATE_AFTER` or more. As with stragglers, the first answer wins. So nobody waits for what is still on its
//! way behind a slow link, however much that is: a job takes hardly longer with such a duke than without it.

use std::cmp::Reverse;

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId},
    limits::{LATE_AFTER, LINK_AHEAD},
    time::micros,
};

use super::{
    Action, Alarm, Scheduler,
    job::Job,
    ledger::{Attempt, Lease},
};

/// A duke with slots that have nothing to do.
pub(super) struct Idle {
    /// How long a unit takes to get there, in microseconds.
    pub(super) takes_us: u64,
    pub(super) duke: DukeId,
    slots: u32,
    /// Units that they have, or are given.
    units: u32,
    /// Bytes that its link has room for.
    room: u64,
}

/// How long a unit is assumed to take over a link of which nothing is known.
const UNKNOWN_US: u64 = 1_000_000;

impl Scheduler {
    /// Starts a second attempt elsewhere for each unit that is late at its duke, as far as slots have nothing to do.
    pub(super) fn give_late_units(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let is_at_its_end = job.spec.speculate && job.units_waiting() == 0 && job.units.open() > 0;
        let has_idle = || self.ledger.account(id).by_load.first().is_some_and(|(load, _)| *load == 0);
        if !is_at_its_end || job.results.is_full() || !has_idle() {
            return;
        }
        if self.now < job.late_from {
            return self.timers.set_by(Alarm::Stragglers(id), job.late_from);
        }
        let mut idle = self.idle_leases(id, job);
        let Some(soonest_us) = idle.first().map(|idle| idle.takes_us) else { return };
        let (late, may_be_late) = self.late_attempts(id, job, soonest_us.saturating_add(micros(LATE_AFTER)));
        let best_us = self.soonest_us(id, job).unwrap_or(soonest_us);
        let depth = job.units_in_time();
        for (attempt, takes_us) in late {
            let Some(Attempt { duke, unit, since, .. }) = self.ledger.attempt(attempt).copied() else { continue };
            // A unit is tried twice at most. If a duke that is at work now is far nearer than an idle one, it may be free
            // soon, and is waited for as long as the unit would take to the idle one.
            let is_near = |us: u64| us <= best_us.saturating_mul(2).saturating_add(micros(LINK_AHEAD));
            let may_take = |us: u64| is_near(us) || us <= self.now.micros_since(since);
            let is_sooner = |us: u64| us.saturating_add(micros(LATE_AFTER)) < takes_us;
            let takes = |idle: &&mut Idle| {
                let has_room = idle.units < idle.slots.saturating_mul(depth) && idle.room > 0;
                idle.duke != duke && has_room && is_sooner(idle.takes_us)
            };
            // All slots get one unit before any slot gets a second.
            let idle = idle.iter_mut().filter(takes).filter(|idle| may_take(idle.takes_us));
            if let Some(idle) = idle.min_by_key(|idle| (idle.units / idle.slots.max(1), idle.takes_us, idle.duke)) {
                idle.units += 1;
                idle.room = idle.room.saturating_sub(self.start(id, idle.duke, unit, false, actions));
            }
        }
        let next = self.now.after(LATE_AFTER);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.late_from = next;
        }
        if may_be_late {
            self.timers.set_by(Alarm::Stragglers(id), next);
        }
    }

    /// The dukes of a job with idle slots, the one that a unit reaches first at first.
    pub(super) fn idle_leases(&self, id: JobId, job: &Job) -> Vec<Idle> {
        let by_load = self.ledger.account(id).by_load.iter().take_while(|(load, _)| *load == 0);
        let mut idle: Vec<Idle> = by_load
            .filter_map(|(_, duke)| {
                let (lease, link) = (self.ledger.lease(*duke, id)?, &self.ledger.duke(*duke)?.link);
                let takes_us = link.takes_us(job.link_bytes()).unwrap_or(UNKNOWN_US);
                let room = link.room();
                let may_get = lease.running < lease.slots && room > 0 && !job.results.would_wait(*duke);
                may_get.then_some(Idle { takes_us, duke: *duke, slots: lease.slots, units: lease.running, room })
            })
            .collect();
        idle.sort_by_key(|idle| (idle.takes_us, idle.duke));
        idle
    }

    /// How long a unit takes to the nearest duke of a job, at work or not.
    fn soonest_us(&self, id: JobId, job: &Job) -> Option<u64> {
        let dukes = self.ledger.account(id).least_loaded().filter_map(|duke| self.ledger.duke(duke));
        dukes.filter_map(|duke| duke.link.takes_us(job.link_bytes())).min()
    }

    /// The only attempts of units that do not begin within this time, and how long it takes until they do: the latest
    /// first. Also says whether others may turn out to be among them.
    fn late_attempts(&self, id: JobId, job: &Job, than_us: u64) -> (Vec<(AttemptId, u64)>, bool) {
        let (mut late, mut may_be_late) = (Vec::new(), false);
        let is_only = |attempt: &AttemptId| {
            let unit = self.ledger.attempt(*attempt).filter(|attempt| attempt.runs).map(|attempt| attempt.unit);
            let unit = unit.and_then(|unit| job.units.get(unit));
            unit.is_some_and(|unit| unit.trying == 1 && unit.has_input && !unit.is_suspect())
        };
        let queued_us = job.unit_time.average_us().unwrap_or(0) / 2;
        for (_, duke) in self.ledger.dukes() {
            let Some(lease) = duke.leases.get(&id) else { continue };
            let on_its_way = duke.link.late(id, self.now, than_us);
            may_be_late |= on_its_way.is_none() && duke.link.carries(id);
            if let Some(flying) = on_its_way {
                let from = lease.attempts.partition_point(|attempt| *attempt < flying.from);
                let attempts = lease.attempts.range(from..).filter(|attempt| is_only(attempt));
                late.extend(attempts.map(|attempt| (*attempt, flying.takes_us)));
            }
            if queued_us > than_us {
                let queued = self.queued(lease, duke.link.first_on_its_way()).filter(|attempt| is_only(attempt));
                late.extend(queued.map(|attempt| (*attempt, queued_us)));
            }
        }
        late.sort_by_key(|(attempt, takes_us)| (Reverse(*takes_us), Reverse(*attempt)));
        (late, may_be_late)
    }

    /// The attempts of a lease that have arrived and wait for a slot, as far as can be known: they are not the first.
    fn queued<'a>(
        &'a self,
        lease: &'a Lease,
        first_on_its_way: Option<AttemptId>,
    ) -> impl Iterator<Item = &'a AttemptId> {
        let is_here = move |attempt: &&AttemptId| first_on_its_way.is_none_or(|first| **attempt < first);
        let runs = |attempt: &&AttemptId| self.ledger.attempt(**attempt).is_some_and(|attempt| attempt.runs);
        lease.attempts.iter().take_while(is_here).filter(runs).skip(lease.slots as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use distwasm_proto::{ids::UnitNo, limits::LINK_BYTES_FIRST};

    use super::*;
    use crate::scheduler::{
        Event, JobSpec, Resumption,
        testing::{Kingdom, done, mark_of, started},
    };

    const JOB: JobId = JobId(1);
    const FAR: DukeId = DukeId(1);
    const NEAR: DukeId = DukeId(2);

    fn arrived(duke: DukeId, attempt: AttemptId) -> Event {
        Event::InputsArrived { duke, attempt }
    }

    /// Two dukes of one slot. Of a job of four units, whose inputs have this size, each has one or two.
    fn kingdom(spec: JobSpec, bytes: u64) -> Kingdom {
        let mut kingdom = Kingdom::new().duke(FAR, 1).duke(NEAR, 1);
        let units = (0..4).map(|unit| Event::UnitAdded { job: JOB, unit: UnitNo(unit), bytes });
        let (mark, resumes) = (mark_of(JOB), Resumption::default());
        kingdom.tell(std::iter::once(Event::JobOpened { job: JOB, mark, spec, resumes }).chain(units));
        kingdom
    }

    /// The near duke does all that it gets, a millisecond after each unit was sent. Returns what was started elsewhere
    /// than there.
    fn near_works(kingdom: &mut Kingdom) -> Vec<(DukeId, UnitNo, AttemptId)> {
        let (mut ended, mut elsewhere) = (0, Vec::new());
        while let Some((_, attempt)) = kingdom.started_on(NEAR).get(ended).copied() {
            ended += 1;
            kingdom.wait(Duration::from_millis(1));
            let actions = kingdom.tell([arrived(NEAR, attempt), done(NEAR, attempt)]);
            elsewhere.extend(started(&actions).into_iter().filter(|(duke, ..)| *duke != NEAR));
            kingdom.wait(LATE_AFTER);
            kingdom.wait(LATE_AFTER);
        }
        elsewhere
    }

    #[test]
    fn what_has_not_arrived_goes_to_a_duke_with_nothing_to_do() {
        let mut kingdom = kingdom(JobSpec::default(), 2 * LINK_BYTES_FIRST);
        assert_eq!(kingdom.started_on(FAR).len(), 1, "a link of which nothing is known has little to carry");
        near_works(&mut kingdom);
        let mut near: Vec<UnitNo> = kingdom.started_on(NEAR).into_iter().map(|(unit, _)| unit).collect();
        near.sort_unstable();
        assert_eq!(near, [0, 1, 2, 3].map(UnitNo));
    }

    #[test]
    fn what_is_at_work_or_not_to_be_tried_twice_stays_where_it_is() {
        let mut at_work = kingdom(JobSpec::default(), 2 * LINK_BYTES_FIRST);
        let (_, attempt) = at_work.started_on(FAR)[0];
        at_work.wait(Duration::from_millis(1));
        at_work.tell([arrived(FAR, attempt)]);
        near_works(&mut at_work);
        assert!(at_work.started_on(NEAR).iter().all(|(unit, _)| *unit != at_work.started_on(FAR)[0].0));
        let mut patient = kingdom(JobSpec { speculate: false, ..JobSpec::default() }, 2 * LINK_BYTES_FIRST);
        near_works(&mut patient);
        assert_eq!(patient.started_on(NEAR).len(), 3);
    }

    #[test]
    fn a_duke_gets_more_when_what_it_has_got_has_arrived() {
        let mut kingdom = kingdom(JobSpec::default(), 2 * LINK_BYTES_FIRST);
        let (_, attempt) = kingdom.started_on(FAR)[0];
        kingdom.wait(Duration::from_millis(1));
        let more = started(&kingdom.tell([arrived(FAR, attempt)]));
        assert!(matches!(more[..], [(FAR, ..)]), "{more:?}");
    }
}
