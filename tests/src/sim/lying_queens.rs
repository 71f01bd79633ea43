//! Queens that lie: they submit a job as other queens do, but also send invalid words. Only the liars themselves may
//! suffer from it.

use distwasm_jobs::submission::Event;
use distwasm_king::scheduler::Resumption;
use distwasm_proto::{
    ids::{JobId, UnitNo},
    limits::WINDOW_BYTES,
    time::Time,
};

use super::world::{Due, KingWord, Opening, Sender, World};

impl World {
    /// Makes this queen lie from now on, until the faults end.
    pub(super) fn queen_begins_to_lie(&mut self, job: JobId) {
        let in_us = self.dice.below(1_000_000);
        self.later(in_us, Due::QueenLies(job));
        self.at(Time(self.weather.faults_end_us), Due::QueenLies(job));
    }

    pub(super) fn queen_lies(&mut self, job: JobId) {
        if !self.faults_go_on() {
            return self.queen_leaves(job);
        }
        let Some(queen) = self.queens.get(&job).filter(|queen| !queen.is_over()) else { return };
        let sender = Sender::Queen(job, queen.link);
        let sent = queen.units.len() as u64;
        let in_us = self.dice.below(2_000_000);
        self.later(in_us, Due::QueenLies(job));
        self.tally.lies += 1;
        let next = self.king.borders.next_unit(sender);
        let small = self.dice.below(1000);
        let word = match self.dice.below(8) {
            0 => KingWord::Heard(self.dice.pick(&[1, 2, 1000, u64::MAX])),
            1 => KingWord::Unit { unit: UnitNo(self.dice.below(sent + 1)), bytes: Some(small) },
            2 => KingWord::Unit { unit: next, bytes: Some(2 * WINDOW_BYTES) },
            3 | 4 => KingWord::Unit { unit: next, bytes: self.dice.pick(&[Some(small), None]) },
            5 => KingWord::Closed(self.dice.pick(&[next.0, sent, u64::MAX])),
            // It comes back with false claims.
            _ => return self.queen_cut_off(job),
        };
        self.tell_king(job, word);
    }

    /// Makes up the state of its job, or names another queen's job.
    pub(super) fn claim_falsely(&mut self, job: JobId, opening: &mut Opening) {
        if !self.faults_go_on() || self.dice.permille(300) {
            return;
        }
        let place = self.dice.below(self.queens.len() as u64);
        let another = self.queens.values().nth(place as usize).map_or(job, |queen| queen.number);
        let (own, true_claim) = opening.resumes.take().unwrap_or_else(|| (job, Resumption::default()));
        let true_sent = true_claim.sent;
        let less = self.dice.below(true_sent + 1);
        let sent = self.dice.pick(&[true_sent, less, true_sent + 3, 1 << 40]);
        let mut lacking = true_claim.lacking;
        match self.dice.below(4) {
            0 => lacking.clear(),
            1 => lacking = (0..sent.min(50)).map(UnitNo).collect(),
            2 => lacking.push(UnitNo(sent.saturating_sub(1))),
            _ => {}
        }
        // The border sorts them, and drops those that were not sent.
        lacking.sort_unstable();
        lacking.dedup();
        lacking.retain(|unit| unit.0 < sent);
        let dukes = self.dice.pick(&[0, true_claim.dukes, u32::MAX]);
        let next = self.next_number(job);
        let number = self.dice.pick(&[own, own, own, another, next]);
        opening.resumes = Some((number, Resumption { sent, lacking, dukes }));
    }

    /// The king has detected its lies, and ends its link for good.
    pub(super) fn queen_is_sent_away(&mut self, job: JobId, link: u64) {
        self.cut(Sender::Queen(job, link));
        if self.queens.get(&job).is_some_and(|queen| queen.linked && queen.link == link) {
            self.queen_handles(job, vec![Event::KingLost]);
        }
    }
}
