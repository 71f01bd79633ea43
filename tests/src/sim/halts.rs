//! Processes that are halted for a while (SIGSTOP, a suspended machine), and then continue as if no time had passed:
//! events that were due meanwhile happen then. Peers that hear nothing from a process for long treat its link as
//! broken.

use std::collections::BTreeMap;

use distwasm_proto::{
    ids::{DukeId, JobId},
    time::Time,
};

use super::{
    duke::Duke,
    links::SILENCE_US,
    queen::Queen,
    world::{Due, PeasantDue, QueenDue, Sender, World},
};

/// A process that may be halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Process {
    King,
    Duke(DukeId),
    Queen(JobId),
}

/// Events that wait until a process continues.
#[derive(Debug, Default)]
pub(super) struct Halted {
    dues: Vec<Due>,
    since: Time,
    /// Events of its peasants, if they are halted with it.
    peasants: Vec<(Time, Due)>,
    /// The king has treated its link as broken.
    missed: bool,
}

impl World {
    /// How long a process is halted: from too short to be noticed to longer than any process waits.
    pub(super) fn halt_us(&mut self) -> u64 {
        let max_us = self.dice.pick(&[100_000, 3_000_000, 15_000_000, 60_000_000]);
        1 + self.dice.below(max_us)
    }

    pub(super) fn king_halts_later(&mut self) {
        if self.weather.king_halts_us > 0 && self.faults_go_on() {
            let in_us = self.dice.below(2 * self.weather.king_halts_us);
            let for_us = self.halt_us();
            self.later(in_us, Due::Halts(Process::King, for_us));
        }
    }

    pub(super) fn halts(&mut self, process: Process, for_us: u64) {
        if process == Process::King {
            self.king_halts_later();
        }
        let lives = match process {
            Process::King => true,
            Process::Duke(duke) => self.dukes.contains_key(&duke),
            Process::Queen(queen) => self.queens.get(&queen).is_some_and(|queen| !queen.is_over()),
        };
        if !lives || self.halted.contains_key(&process) {
            return;
        }
        self.tally.halts += 1;
        let mut halted = Halted { since: self.now, ..Halted::default() };
        if let Process::Duke(duke) = process
            && self.dice.permille(500)
        {
            halted.peasants = self.take_dues(|_, due| matches!(due, Due::Peasant(of, ..) if *of == duke));
        }
        if for_us > SILENCE_US {
            let link = match process {
                Process::King => None,
                Process::Duke(duke) => self.dukes.get(&duke).and_then(Duke::link).map(Sender::Duke),
                Process::Queen(job) => {
                    self.queens.get(&job).and_then(Queen::standing_link).map(|link| Sender::Queen(job, link))
                }
            };
            halted.missed = link.is_some();
            match link {
                Some(link) => self.king_misses_later(link),
                None if process == Process::King => self.all_miss_the_king(),
                None => {}
            }
        }
        self.halted.insert(process, halted);
        self.later(for_us, Due::GoesOn(process));
    }

    fn king_misses_later(&mut self, link: Sender) {
        let at = Time(self.now.0 + SILENCE_US);
        for to_king in [true, false] {
            self.cut_at(link, to_king, at);
        }
        self.at(at, Due::KingMisses(link));
    }

    fn all_miss_the_king(&mut self) {
        let dukes: Vec<DukeId> = self.dukes.keys().copied().collect();
        dukes.into_iter().for_each(|duke| self.later(SILENCE_US, Due::DukeCutOff(duke)));
        let queens: Vec<JobId> = self.queens.keys().copied().collect();
        queens.into_iter().for_each(|queen| self.later(SILENCE_US, Due::Queen(queen, QueenDue::CutOff)));
    }

    pub(super) fn goes_on(&mut self, process: Process) {
        // It may have been killed while it was halted.
        let Some(Halted { dues: mut late, since, peasants, missed }) = self.halted.remove(&process) else { return };
        let now = self.now;
        // Events of this very moment come after those that waited.
        let machines = std::mem::take(&mut self.machines);
        late.extend(
            self.take_dues(|at, due| at == now && is_for(&machines, due, process)).into_iter().map(|(_, due)| due),
        );
        self.machines = machines;
        if self.dice.permille(500) {
            // The process may read its clock before it handles messages.
            late.sort_by_key(|due| {
                !matches!(due, Due::KingTick | Due::DukeTick(_) | Due::Queen(_, QueenDue::Deadline))
            });
        }
        late.into_iter().for_each(|due| self.at(now, due));
        self.peasants_go_on(process, peasants, now.micros_since(since));
        match process {
            Process::Duke(duke) if missed => self.later(0, Due::DukeCutOff(duke)),
            Process::Queen(job) if missed => self.later(0, Due::Queen(job, QueenDue::CutOff)),
            Process::King | Process::Duke(_) | Process::Queen(_) => {}
        }
    }

    /// Peasants that were halted have as much left to do as before.
    fn peasants_go_on(&mut self, process: Process, dues: Vec<(Time, Due)>, halt_us: u64) {
        let Process::Duke(duke) = process else { return };
        if dues.is_empty() {
            return;
        }
        dues.into_iter().for_each(|(at, due)| self.at(Time(at.0 + halt_us), due));
        // Keeps their answers in order.
        for peasant in self.dukes.get_mut(&duke).into_iter().flat_map(|duke| duke.peasants.values_mut()) {
            peasant.answers_after.0 += halt_us;
        }
    }

    /// Keeps an event for a halted process until it continues. Returns any other event.
    pub(super) fn put_off(&mut self, due: Due) -> Option<Due> {
        let Some((_, halted)) = self.halted.iter_mut().find(|(process, _)| is_for(&self.machines, &due, **process))
        else {
            return Some(due);
        };
        halted.dues.push(due);
        None
    }
}

/// Whether this process must be running for this event to happen.
fn is_for(machines: &BTreeMap<DukeId, DukeId>, due: &Due, process: Process) -> bool {
    match *due {
        // These events happen to a process whether it is halted or not, and peasants run by themselves.
        Due::Peasant(_, _, _, PeasantDue::Next | PeasantDue::Dies)
        | Due::KingFalls
        | Due::DukeComes(_)
        | Due::DukeDies(_)
        | Due::DukeFallsSilent(_)
        | Due::QueenComes(_)
        | Due::Halts(..)
        | Due::GoesOn(_) => false,
        Due::ToKing(..) | Due::KingMisses(_) | Due::KingTick | Due::JobCancelled(_) => process == Process::King,
        Due::ToDuke(link, _) => machines.get(&link).is_some_and(|duke| process == Process::Duke(*duke)),
        Due::DukeTick(duke)
        | Due::DukeLies(duke)
        | Due::DukeDrains(duke)
        | Due::DukeCutOff(duke)
        | Due::DukeReturns(duke)
        | Due::Peasant(duke, ..)
        | Due::Stored(duke, _)
        | Due::ResultRead(duke, ..)
        | Due::Made(duke, ..) => process == Process::Duke(duke),
        Due::ToQueen(job, ..) | Due::Queen(job, _) => process == Process::Queen(job),
    }
}
