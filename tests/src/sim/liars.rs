//! Dukes that lie: they answer their units as other dukes do, but also send false words, some of which pass the king's
//! border. Only the liars themselves may suffer from it.
//!
//! Wrong answers to units that the duke was given are left out, because no king can detect them.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_king::budget::Shares;
use distwasm_king::scheduler::JobSpec;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{DUKE_CPUS_MAX, TRANSFER_WINDOW_BYTES, UNFIT_WORDS_MAX, UNIT_BYTES_MAX},
    time::Time,
    wire::{self, DukeWord, HeldAttempt, HeldLease, duke_word::Word},
};
use distwasm_transport::payload::Payload;

use super::{
    duke::Duke,
    keys::mark_of,
    queen::Queen,
    wires::{part_of, payload},
    world::{Due, Sender, World},
};

/// A number that no queen's job has.
const NO_JOB: JobId = JobId(500_000);

impl World {
    /// Makes this duke lie from now on, until the faults end. Returns the machine size that it claims.
    pub(super) fn begin_to_lie(&mut self, machine: DukeId, cpus: u32, ram_bytes: u64) -> (u32, u64) {
        self.liars.insert(machine);
        let in_us = self.dice.below(1_000_000);
        self.later(in_us, Due::DukeLies(machine));
        self.at(Time(self.weather.faults_end_us), Due::DukeLies(machine));
        (self.dice.pick(&[cpus, cpus, 16, DUKE_CPUS_MAX]), self.dice.pick(&[ram_bytes, ram_bytes, 0, 1 << 40]))
    }

    pub(super) fn duke_lies(&mut self, machine: DukeId) {
        if !self.faults_go_on() {
            return self.duke_dies(machine);
        }
        if !self.dukes.contains_key(&machine) {
            return;
        }
        let pause_us = self.dice.pick(&[10_000, 1_000_000, 10_000_000]);
        let in_us = self.dice.below(pause_us);
        self.later(in_us, Due::DukeLies(machine));
        self.tally.lies += 1;
        match self.dice.below(14) {
            0..3 => self.lies_of_others(machine),
            3..5 => self.lies_of_its_own(machine),
            5..8 => self.lies_of_slots(machine),
            8 => self.duke_says(machine, Word::Draining(wire::Draining {})),
            9 if self.dice.permille(300) => {
                let (JobId(job), _) = self.any_job();
                let link = self.dukes.get(&machine).and_then(Duke::link);
                let is_given = link.is_some_and(|link| self.king.leases.contains_key(&(link, JobId(job))));
                // If it has no part in the job, it may say so as often as it likes.
                for _ in 0..if is_given { 1 } else { UNFIT_WORDS_MAX } {
                    let failure = Some(Failure::new(FailureKind::Program, "it is unfit").into());
                    self.duke_says(machine, Word::ProgramUnfit(wire::ProgramUnfit { job, failure }));
                }
            }
            10 => {
                let attempt = self.dice.pick(&[0, 1, 100, u64::MAX]);
                self.duke_says(machine, Word::InputsArrived(wire::InputsArrived { attempt }));
            }
            11 => self.lies_of_inputs(machine),
            12 => self.lies_of_results(machine),
            // It comes back with a false hello.
            _ => self.duke_cut_off(machine),
        }
    }

    /// Answers attempts that it never got.
    fn lies_of_others(&mut self, machine: DukeId) {
        let Some(attempt) = self.foreign_attempt(machine) else { return };
        let small = self.dice.below(1000);
        let bytes = self.dice.pick(&[small, small, 100_000, 1 << 20]);
        let outcome = self.any_outcome();
        let run_us = self.dice.pick(&[0, u64::MAX]);
        if self.dice.permille(300) {
            self.say_offered(machine, attempt, bytes, run_us);
        }
        if self.dice.permille(700) {
            self.say_ended(machine, attempt, (outcome, bytes), run_us);
        }
    }

    /// Repeats its words, gives back units that it keeps, or offers results that it does not have.
    fn lies_of_its_own(&mut self, machine: DukeId) {
        let place = self.dice.roll();
        let suspect = self.dice.permille(500);
        let run_us = self.dice.pick(&[0, 1_000, u64::MAX]);
        // A longer result would fail its unit, which no peer that tells the truth deserves.
        let longest = UNIT_BYTES_MAX.min(Shares::of(self.weather.memory_bytes).results);
        let bytes = self.dice.pick(&[100_000, longest, 1]);
        let offers = self.dice.permille(400);
        let outcome = self.any_outcome();
        let Some(Duke { reactor, .. }) = self.dukes.get(&machine) else { return };
        let any_of =
            |attempts: BTreeSet<AttemptId>| attempts.iter().nth(place as usize % attempts.len().max(1)).copied();
        let (again, running) = (any_of(reactor.said().collect()), any_of(reactor.running().collect()));
        match (again, running) {
            // The king has heard how it ended before.
            (Some(attempt), _) if suspect => self.say_ended(machine, attempt, (outcome, 100), run_us),
            (_, Some(attempt)) if offers => self.say_offered(machine, attempt, bytes, run_us),
            // Nobody has offered a result of this size.
            (_, Some(attempt)) if suspect && run_us == 0 => {
                self.say_ended(machine, attempt, (wire::Outcome::Done, 70_000), run_us);
            }
            (_, Some(attempt)) => {
                let outcome = if suspect { wire::Outcome::Suspected } else { wire::Outcome::Returned };
                self.say_ended(machine, attempt, (outcome, 0), run_us);
            }
            _ => {}
        }
    }

    /// Asks for inputs that it has, or that are not streamed, or that are of others.
    fn lies_of_inputs(&mut self, machine: DukeId) {
        let place = self.dice.roll() as usize;
        let Some(duke) = self.dukes.get(&machine) else { return };
        let own = duke.reactor.arriving().chain(duke.reactor.running()).collect::<BTreeSet<_>>();
        let own = own.iter().nth(place % own.len().max(1)).copied();
        let attempt = if self.dice.permille(700) { own } else { self.foreign_attempt(machine) };
        let Some(AttemptId(attempt)) = attempt else { return };
        let from = self.dice.pick(&[0, 0, 1, 50, 1 << 20, u64::MAX]);
        let until = from.saturating_add(self.dice.pick(&[0, 1, 10, 1 << 20, TRANSFER_WINDOW_BYTES + 1]));
        self.duke_says(machine, Word::InputWanted(wire::InputWanted { attempt, from, until }));
    }

    /// Sends parts that nobody asked for, or offers results in parts that it does not have.
    fn lies_of_results(&mut self, machine: DukeId) {
        let place = self.dice.roll() as usize;
        if self.dice.permille(500) {
            let transfer = self.dice.pick(&[0, 1, 2, 3, 5, 8, u64::MAX]);
            // No king can see that another part is wrong.
            let offset = self.dice.pick(&[1 << 40, u64::MAX]);
            let data = part_of(UnitNo(0), 0, 1 + self.dice.below(100));
            return self.duke_says(machine, Word::ResultPart(wire::ResultPart { transfer, offset, data }));
        }
        let Some(duke) = self.dukes.get(&machine) else { return };
        let own: Vec<AttemptId> = duke.reactor.running().collect::<BTreeSet<_>>().into_iter().collect();
        let own = own.get(place % own.len().max(1)).copied();
        let attempt = if self.dice.permille(500) { own } else { self.foreign_attempt(machine) };
        let Some(AttemptId(attempt)) = attempt else { return };
        let (result_bytes, run_us) =
            (self.dice.pick(&[0, 1, 100_000, 1 << 60, u64::MAX]), self.dice.pick(&[0, u64::MAX]));
        let offered = wire::ResultOffered { attempt, result_bytes, run_us, streamed: true };
        self.duke_says(machine, Word::ResultOffered(offered));
    }

    fn any_outcome(&mut self) -> wire::Outcome {
        use wire::Outcome::{Done, Failed, Killed, Suspected};
        self.dice.pick(&[Done, Failed, Killed, Suspected])
    }

    /// Gives back slots that it keeps or never had.
    fn lies_of_slots(&mut self, machine: DukeId) {
        let slots = self.dice.pick(&[0, 1, 1, 2, 1000, u32::MAX]);
        let (JobId(job), _) = self.any_job();
        if self.dice.permille(500) {
            self.duke_says(machine, Word::SlotsReleased(wire::SlotsReleased { job, slots }));
        } else {
            self.duke_says(machine, Word::SlotsBroken(wire::SlotsBroken { job, slots, reason: String::new() }));
        }
    }

    /// Falsifies a hello, if there is one among these words: claims leases that the duke does not have, or leaves out
    /// some that it has.
    pub(super) fn embellish(&mut self, machine: DukeId, words: Vec<DukeWord>) -> Vec<DukeWord> {
        let (mut hello, mut holds, mut rest) = (None, Vec::new(), Vec::new());
        for word in words {
            match word.word {
                Some(Word::Hello(said)) => hello = Some(said),
                Some(Word::HeldLease(held)) => holds.push(*held),
                _ => rest.push(word),
            }
        }
        let Some(mut hello) = hello else { return rest };
        if self.dice.permille(700) {
            holds = self.made_up_leases(machine, holds);
        }
        hello.held_leases = holds.len() as u32;
        let named = holds.into_iter().map(|held| Word::HeldLease(Box::new(held)));
        std::iter::once(Word::Hello(hello)).chain(named).map(DukeWord::from).chain(rest).collect()
    }

    fn made_up_leases(&mut self, machine: DukeId, holds: Vec<HeldLease>) -> Vec<HeldLease> {
        // The border merges all leases of one job.
        let mut leases: BTreeMap<u64, HeldLease> = holds.into_iter().map(|lease| (lease.job, lease)).collect();
        if self.dice.permille(200) {
            leases.pop_first();
        }
        for _ in 0..self.dice.below(3) {
            let (job, queen) = self.any_job();
            let lease = self.made_up_lease(machine, job, queen);
            match leases.get_mut(&job.0) {
                Some(known) if self.dice.permille(500) => known.attempts.extend(lease.attempts),
                Some(known) => {
                    let attempts = std::mem::take(&mut known.attempts);
                    *known = HeldLease { attempts, ..lease };
                }
                None => drop(leases.insert(job.0, lease)),
            }
        }
        leases.into_values().collect()
    }

    fn made_up_lease(&mut self, machine: DukeId, job: JobId, queen: JobId) -> HeldLease {
        let mut attempts = Vec::new();
        for _ in 0..self.dice.below(4) {
            let Some(attempt) = self.foreign_attempt(machine) else { break };
            let unit = self.dice.pick(&[0, 1, 2, 3, 10, 1 << 40]);
            let bytes = self.dice.pick(&[0, 1000, UNIT_BYTES_MAX]);
            let number = self.dice.pick(&[0, 1, 2, u32::MAX]);
            attempts.push(HeldAttempt { attempt: attempt.0, unit, bytes, number });
        }
        if let Some(duke) = self.dukes.get_mut(&machine) {
            duke.claims.extend(attempts.iter().map(|held| AttemptId(held.attempt)));
        }
        // The slot has the size that the job wants, or another one.
        let spec = self.queens.get(&queen).map(Queen::spec).unwrap_or_default();
        let slot = self.dukes.get(&machine).and_then(|duke| duke.slot_for(&spec));
        let right = slot.unwrap_or_default();
        HeldLease {
            job: job.0,
            mark: mark_of(if self.dice.permille(300) { NO_JOB } else { queen }).to_wire(),
            slot_bytes: self.dice.pick(&[right, right, right, right / 2, 0, u64::MAX]),
            slots: self.dice.pick(&[0, 1, 1, 2, 1000, u32::MAX]),
            leaving: self.dice.pick(&[0, 0, 1, u32::MAX]),
            closed: self.dice.permille(200),
            attempts,
        }
    }

    /// The number of any job, and whose it is.
    fn any_job(&mut self) -> (JobId, JobId) {
        let place = self.dice.below(self.queens.len() as u64 + 1);
        let of_queen = self.queens.iter().nth(place as usize);
        let (job, queen) = of_queen.map_or((NO_JOB, NO_JOB), |(key, queen)| (queen.number, *key));
        (if self.dice.permille(900) { job } else { self.next_number() }, queen)
    }

    /// An attempt that this duke does not have: another duke's, or one that does not exist.
    fn foreign_attempt(&mut self, machine: DukeId) -> Option<AttemptId> {
        let (queen, place) = (self.dice.roll() as usize, self.dice.roll() as usize);
        let of_queen = self.queens.values().nth(queen % self.queens.len().max(1)).map(|queen| &queen.attempts);
        let count = of_queen.map_or(0, BTreeSet::len);
        let nobodys = AttemptId(self.dice.pick(&[0, 1 << 50, u64::MAX]));
        let attempt =
            of_queen.and_then(|attempts| attempts.iter().nth(place % (count + 1)).copied()).unwrap_or(nobodys);
        let duke = self.dukes.get(&machine)?;
        let is_own = duke.reactor.unit_of(attempt).is_some();
        // The attempt may be in transit to this duke.
        let is_given = duke.link().is_some_and(|link| self.king.reactor.scheduler().expects(link, attempt));
        (!is_own && !is_given && !duke.claims.contains(&attempt)).then_some(attempt)
    }

    /// Says something that its reactor knows nothing of.
    fn duke_says(&mut self, machine: DukeId, word: Word) {
        self.duke_says_with(machine, word, Payload::default());
    }

    fn duke_says_with(&mut self, machine: DukeId, word: Word, payload: Payload) {
        let Some(link) = self.dukes.get(&machine).and_then(|duke| duke.link.as_ref()) else { return };
        let number = link.number;
        link.outbox.push_with(word, payload);
        self.carry_to_king(0, Sender::Duke(number));
    }

    /// Says that an attempt ended in this way, with a result of this size if it is done.
    fn say_ended(
        &mut self,
        machine: DukeId,
        AttemptId(attempt): AttemptId,
        (outcome, bytes): (wire::Outcome, u64),
        run_us: u64,
    ) {
        let is_failure = matches!(outcome, wire::Outcome::Failed | wire::Outcome::Killed);
        let failure = is_failure.then(|| Box::new(Failure::new(FailureKind::Exit, "it lies").into()));
        let mut ended = wire::AttemptEnded { attempt, run_us, failure, ..Default::default() };
        ended.set_outcome(outcome);
        let result = if outcome == wire::Outcome::Done { bytes } else { 0 };
        self.duke_says_with(machine, Word::AttemptEnded(ended), payload(result));
    }

    fn say_offered(&mut self, machine: DukeId, AttemptId(attempt): AttemptId, result_bytes: u64, run_us: u64) {
        self.duke_says(
            machine,
            Word::ResultOffered(wire::ResultOffered { attempt, result_bytes, run_us, streamed: false }),
        );
    }

    /// The king has detected its lies, and ends its link for good.
    pub(super) fn liar_is_sent_away(&mut self, machine: DukeId) {
        if let Some(link) = self.remove_duke(machine).and_then(|duke| duke.link()) {
            self.cut(Sender::Duke(link));
            let back_in = self.dice.below(5_000_000);
            self.later(back_in, Due::DukeComes(None));
        }
    }
}

impl Duke {
    /// The memory of a slot of such a job on this machine. `None` if the job does not fit.
    fn slot_for(&self, spec: &JobSpec) -> Option<u64> {
        let has_labels = spec.requires.values().all(|zone| *zone == self.zone.to_string());
        let by_ram = self.ram_bytes.checked_div(spec.min_ram_bytes).unwrap_or(u64::MAX);
        let slots = by_ram.min(if spec.one_per_machine { 1 } else { u64::from(self.cpus) });
        self.ram_bytes.checked_div(slots).filter(|_| has_labels)
    }
}
