//! Queens that lie: they submit a job as other queens do, but also send invalid words. Only the liars themselves may
//! suffer from it.

use distwasm_jobs::king_link::words;
use distwasm_proto::{
    ids::{JobId, UnitNo},
    limits::{TRANSFER_WINDOW_BYTES, WINDOW_BYTES},
    time::Time,
    wire::{self, queen_word::Word},
};

use super::{
    wires::{part_of, payload},
    world::{Due, QueenDue, World},
};

impl World {
    /// Makes this queen lie from now on, until the faults end.
    pub(super) fn queen_begins_to_lie(&mut self, job: JobId) {
        let in_us = self.dice.below(1_000_000);
        self.later(in_us, Due::Queen(job, QueenDue::Lies));
        self.at(Time(self.weather.faults_end_us), Due::Queen(job, QueenDue::Lies));
    }

    pub(super) fn queen_lies(&mut self, job: JobId) {
        if !self.faults_go_on() {
            return self.queen_leaves(job);
        }
        let Some(queen) = self.queens.get(&job).filter(|queen| !queen.is_over()) else { return };
        let sent = queen.units.len() as u64;
        let next = queen.lied_to.max(sent);
        let in_us = self.dice.below(2_000_000);
        self.later(in_us, Due::Queen(job, QueenDue::Lies));
        self.tally.lies += 1;
        let small = self.dice.below(1000);
        let (unit, bytes) = match self.dice.below(10) {
            0 => {
                let verdicts = self.dice.pick(&[1, 2, 1000, u64::MAX]);
                return self.queen_says(0, job, Word::VerdictsHeard(wire::VerdictsHeard { verdicts }));
            }
            1 => (self.dice.below(sent + 1), Some(small)),
            2 => (next, Some(2 * WINDOW_BYTES)),
            3 | 4 => (next, self.dice.pick(&[Some(small), None])),
            5 => {
                let units = self.dice.pick(&[next, sent, u64::MAX]);
                return self.queen_says(0, job, Word::CloseJob(wire::CloseJob { units }));
            }
            6 => {
                let transfer = self.dice.pick(&[0, 1, 2, 3, 5, 8, u64::MAX]);
                let (offset, bytes) = (self.dice.pick(&[0, 1, small, u64::MAX]), 1 + self.dice.below(100));
                let word = match self.dice.permille(700) {
                    true => words::unit_part(transfer, offset, part_of(UnitNo(0), 0, bytes)),
                    false => words::broken_part(transfer, offset, "it lies".to_owned()),
                };
                return self.queen_says(0, job, word);
            }
            7 => {
                let transfer = self.dice.pick(&[0, 1, 2, 3, 5, 8, u64::MAX]);
                let from = self.dice.pick(&[0, 1, small, 1 << 30, u64::MAX]);
                let until = from.saturating_add(self.dice.pick(&[0, 1, 100, TRANSFER_WINDOW_BYTES + 1]));
                let gives_up = self.dice.permille(200);
                return self.queen_says(0, job, words::output_wanted(transfer, from, until, gives_up));
            }
            // It comes back with false claims.
            _ => return self.queen_cut_off(job),
        };
        if let Some(queen) = self.queens.get_mut(&job) {
            queen.lied_to = queen.lied_to.max(unit + 1);
        }
        // Of a size that it makes up, it has no byte.
        let streamed = self.dice.permille(200);
        let size = self.dice.pick(&[small + 1, 100_000, 1 << 60]);
        let content = if streamed { Some(size.to_le_bytes().to_vec().into()) } else { bytes.map(payload) };
        self.tell_king_unit(job, UnitNo(unit), b"", content, streamed);
    }

    /// Makes up the state of its job, or names another queen's job.
    pub(super) fn claim_falsely(&mut self, job: JobId, opening: &mut wire::OpenJob) {
        if !self.faults_go_on() || self.dice.permille(300) {
            return;
        }
        let place = self.dice.below(self.queens.len() as u64);
        let another = self.queens.values().nth(place as usize).map_or(job, |queen| queen.number);
        let mut claim = opening.resumes.take().unwrap_or_else(|| wire::Resumption { job: job.0, ..Default::default() });
        let less = self.dice.below(claim.sent + 1);
        let sent = self.dice.pick(&[claim.sent, less, claim.sent + 3, 1 << 40]);
        match self.dice.below(4) {
            0 => claim.lacking.clear(),
            1 => claim.lacking = (0..sent.min(50)).collect(),
            2 => claim.lacking.push(sent.saturating_sub(1)),
            _ => {}
        }
        // The border refuses more than that at once.
        claim.lacking.retain(|unit| *unit < sent);
        claim.dukes = self.dice.pick(&[0, claim.dukes, u32::MAX]);
        let next = self.next_number();
        claim.job = self.dice.pick(&[JobId(claim.job), JobId(claim.job), JobId(claim.job), another, next]).0;
        if let Some(queen) = self.queens.get_mut(&job) {
            queen.lied_to = sent;
        }
        opening.resumes = Some(wire::Resumption { sent, ..claim });
    }
}
