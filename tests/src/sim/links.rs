//! Links of simulated dukes and queens: how they begin, break, and begin again.

use std::sync::atomic::Ordering;

use distwasm_duke::{border::LinkError as DukeLinkError, reactor::Happening as DukeHappening};
use distwasm_jobs::{king_link::LinkError, reactor::Happening};
use distwasm_proto::{
    ids::{DukeId, JobId},
    limits::{GRACE, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT},
};

use super::{
    duke::Duke,
    halts::Process,
    queen::Queen,
    weather::{DUKE_BYTES_MIN, Slowness},
    world::{Due, QueenDue, Sender, World},
};

/// The time after which a silent link is given up.
pub(super) const SILENCE_US: u64 = (KEEPALIVE_EVERY.as_micros() + KEEPALIVE_TIMEOUT.as_micros()) as u64;

impl World {
    // ---- Dukes ----------------------------------------------------------------------------------------------------

    /// A duke starts, perhaps in the place of one that is gone.
    pub(super) fn duke_comes(&mut self, after: Option<DukeId>) {
        let cpus = 1 + self.dice.below(4) as u32;
        let ram_bytes = DUKE_BYTES_MIN * (1 + self.dice.below(3));
        self.new_duke(cpus, ram_bytes, after);
    }

    pub(super) fn new_duke(&mut self, cpus: u32, ram_bytes: u64, after: Option<DukeId>) {
        let machine = DukeId(self.next_link());
        let lies = self.faults_go_on() && self.dice.permille(self.weather.duke_lies);
        let (cpus, ram_bytes) = if lies { self.begin_to_lie(machine, cpus, ram_bytes) } else { (cpus, ram_bytes) };
        // Jobs that require the first zone get a duke there in the end.
        let first_zone_is_empty = self.dukes.values().all(|duke| duke.zone != 0);
        let zone = if first_zone_is_empty { 0 } else { self.dice.below(2) };
        let is_slow = self.weather.slow_links != Slowness::default() && self.dice.permille(300);
        let slowness = is_slow.then_some(self.weather.slow_links);
        let seat = after.unwrap_or(machine);
        // Some dukes wait longer than the king does, and some give up before they are back.
        let grace_us = self.dice.pick(&[GRACE.as_micros() as u64, 100_000_000]);
        let mut duke = Duke::new(machine, seat, (cpus, ram_bytes), zone, (grace_us, self.weather.window_bytes));
        duke.slowness = slowness;
        self.dukes.insert(machine, duke);
        self.link_duke(machine);
    }

    fn link_duke(&mut self, machine: DukeId) {
        let link = DukeId(self.next_link());
        if let Some(slowness) = self.dukes.get(&machine).and_then(|duke| duke.slowness) {
            self.slow_links.insert(link, slowness);
        }
        self.machines.insert(link, machine);
        self.duke_connects(machine, link);
    }

    /// Removes a duke, and all that it had yet to do.
    pub(super) fn take_duke(&mut self, machine: DukeId) -> Option<Duke> {
        self.halted.remove(&Process::Duke(machine));
        self.dukes.remove(&machine)
    }

    /// The same for a duke that does not put anything in order before.
    pub(super) fn remove_duke(&mut self, machine: DukeId) -> Option<Duke> {
        let duke = self.take_duke(machine)?;
        duke.is_killed.store(true, Ordering::Relaxed);
        Some(duke)
    }

    /// The duke is gone at once. The king notices it a little later, or when the next one takes its place.
    pub(super) fn duke_dies(&mut self, machine: DukeId) {
        let Some(duke) = self.remove_duke(machine) else { return };
        self.tally.dukes_lost += 1;
        if let Some(link) = duke.link() {
            self.cut(Sender::Duke(link));
            let seen_in = self.weather.delay_us_max;
            self.later(seen_in, Due::KingMisses(Sender::Duke(link)));
        }
        let back_in = self.dice.below(5_000_000);
        let after = self.dice.permille(500).then_some(duke.seat);
        self.later(back_in, Due::DukeComes(after));
    }

    /// The duke falls silent without closing its connection. Keepalive detects it.
    pub(super) fn duke_falls_silent(&mut self, machine: DukeId) {
        let Some(duke) = self.remove_duke(machine) else { return };
        self.tally.dukes_lost += 1;
        if let Some(link) = duke.link() {
            self.cut(Sender::Duke(link));
            self.later(SILENCE_US, Due::KingMisses(Sender::Duke(link)));
        }
        self.later(SILENCE_US + 5_000_000, Due::DukeComes(None));
    }

    /// The link breaks: the duke notices it now, the king perhaps much later.
    pub(super) fn duke_cut_off(&mut self, machine: DukeId) {
        let Some(link) = self.dukes.get(&machine).and_then(Duke::link) else { return };
        self.tally.dukes_cut_off += 1;
        self.cut(Sender::Duke(link));
        let seen_in = self.dice.pick(&[self.weather.delay_us_max, 1_000_000, SILENCE_US]);
        self.later(seen_in, Due::KingMisses(Sender::Duke(link)));
        self.duke_is_alone(machine, DukeLinkError::Silent);
    }

    /// The king is gone. A duke that is halted notices it when it continues.
    pub(super) fn duke_loses_king(&mut self, machine: DukeId) {
        if self.put_off(Due::DukeCutOff(machine)).is_some() {
            self.duke_is_alone(machine, DukeLinkError::Silent);
        } else if let Some(link) = self.dukes.get(&machine).and_then(Duke::link) {
            self.cut(Sender::Duke(link));
        }
    }

    /// The duke has no link any more, and will get another one some time.
    pub(super) fn duke_is_alone(&mut self, machine: DukeId, error: DukeLinkError) {
        let Some(link) = self.dukes.get_mut(&machine).and_then(|duke| duke.link.take()) else { return };
        self.cut(Sender::Duke(link.number));
        self.duke_returns_later(machine);
        self.duke_handles(machine, DukeHappening::Disconnected(error));
    }

    pub(super) fn duke_returns_later(&mut self, machine: DukeId) {
        let back_in = self.dice.pick(&[1_000, 100_000, 1_000_000, 5_000_000, 40_000_000]);
        let back_in = 1 + self.dice.below(back_in);
        self.later(back_in, Due::DukeReturns(machine));
    }

    pub(super) fn duke_returns(&mut self, machine: DukeId) {
        if self.dukes.get(&machine).is_some_and(|duke| duke.link.is_none()) {
            self.link_duke(machine);
        }
    }

    // ---- Queens ---------------------------------------------------------------------------------------------------

    /// The link breaks: the queen notices it now, the king perhaps much later.
    pub(super) fn queen_cut_off(&mut self, job: JobId) {
        if self.queens.get(&job).and_then(Queen::standing_link).is_some() {
            self.tally.queens_cut_off += 1;
            self.strike_job(job, 20 * self.weather.job_cancelled);
            self.queen_loses_link(job, LinkError::Silent);
        }
    }

    /// The king is gone. A queen that is halted notices it when it continues.
    pub(super) fn queen_loses_king(&mut self, job: JobId) {
        if self.put_off(Due::Queen(job, QueenDue::CutOff)).is_some() {
            self.queen_loses_link(job, LinkError::Silent);
        }
        // Nothing that it said or says over the link arrives, whether it has noticed or not.
        if let Some(link) = self.queens.get(&job).map(|queen| queen.link.number) {
            self.cut(Sender::Queen(job, link));
        }
    }

    /// The queen's link has ended. A queen that has not been welcomed tries again, if that may help.
    pub(super) fn queen_loses_link(&mut self, job: JobId, error: LinkError) {
        let Some(queen) = self.queens.get(&job).filter(|queen| queen.standing_link().is_some()) else { return };
        match &queen.link.seeks {
            // Nobody listens any more.
            None if queen.link.border.is_over() => self.drop_queens_link(job),
            None => self.queen_happens(job, Happening::LinkLost(error)),
            Some(resumes) if error.may_pass(resumes.is_some()) => {
                self.drop_queens_link(job);
                self.queen_returns_later(job);
            }
            Some(_) => self.queen_happens(job, Happening::NoLink(error)),
        }
    }

    /// The queen gives up its link. The king notices it some time, if it did not end the link itself.
    pub(super) fn drop_queens_link(&mut self, job: JobId) {
        let Some(link) = self.queens.get_mut(&job).map(|queen| &mut queen.link) else { return };
        if link.outbox.take().is_some() {
            let sender = Sender::Queen(job, link.number);
            self.cut(sender);
            let seen_in = self.dice.pick(&[self.weather.delay_us_max, 1_000_000, SILENCE_US]);
            self.later(seen_in, Due::KingMisses(sender));
        }
    }

    /// A queen without a link gets another one some time, or gives up.
    pub(super) fn queen_returns_later(&mut self, job: JobId) {
        let back_in = self.dice.pick(&[1_000, 100_000, 1_000_000, 5_000_000, 120_000_000]);
        let back_in = 1 + self.dice.below(back_in);
        let gives_up = back_in > GRACE.as_micros() as u64 && self.dice.permille(500);
        self.later(back_in, Due::Queen(job, if gives_up { QueenDue::GivesUp } else { QueenDue::Returns }));
    }

    pub(super) fn queen_gives_up(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| !queen.is_over()) else { return };
        queen.gave_up = true;
        self.tally.queens_gave_up += 1;
        let (address, why) = ("nowhere".to_owned(), "it is gone".to_owned());
        self.queen_happens(job, Happening::NoLink(LinkError::Gone { address, tried: GRACE, why }));
    }
}
