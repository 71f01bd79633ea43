//! How queens read news: at their own speed, and not at all at times, or while too many results are unwritten.

use distwasm_jobs::king_link::{JobEnd, KingNews};
use std::collections::VecDeque;

use distwasm_proto::{ids::JobId, limits::UNWRITTEN_BYTES, time::Time, wire::QueenNews};

use super::{
    queen::Queen,
    wires::Parcel,
    world::{Due, QueenDue, World},
};

/// News that a queen has yet to read, with the links over which they came.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<(u64, Parcel<QueenNews>)>,
    /// The queen reads nothing before this.
    reads_at: Time,
    /// It is about to read.
    is_due: bool,
}

impl Queen {
    /// Whether results that are not written yet leave room for others.
    fn has_room(&self) -> bool {
        self.unwritten.iter().map(|(result, _)| result.bytes()).sum::<u64>() < u64::from(UNWRITTEN_BYTES)
    }
}

impl World {
    /// News arrives at a queen, which reads it at once if it is quick.
    pub(super) fn queen_gets(&mut self, job: JobId, link: u64, news: Parcel<QueenNews>) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        if queen.inbox.waiting.is_empty() && queen.inbox.reads_at <= self.now && queen.has_room() {
            return self.queen_takes(job, link, news);
        }
        queen.inbox.waiting.push_back((link, news));
        self.queen_reads_later(job);
    }

    /// The queen reads its oldest news when it can.
    pub(super) fn queen_reads_later(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let is_due = queen.inbox.is_due || queen.inbox.waiting.is_empty() || !queen.has_room();
        if !is_due {
            queen.inbox.is_due = true;
            let reads_at = queen.inbox.reads_at;
            self.at(reads_at, Due::Queen(job, QueenDue::Hears));
        }
    }

    /// The queen reads its oldest news.
    pub(super) fn queen_reads(&mut self, job: JobId) {
        let Some(inbox) = self.queens.get_mut(&job).map(|queen| &mut queen.inbox) else { return };
        inbox.is_due = false;
        if let Some((link, news)) = inbox.waiting.pop_front() {
            self.queen_takes(job, link, news);
            self.queen_reads_later(job);
        }
    }

    fn queen_takes(&mut self, job: JobId, link: u64, news: Parcel<QueenNews>) {
        if !self.queen_hears(job, link, news) {
            return;
        }
        let stalls = self.faults_go_on() && self.dice.permille(self.weather.queen_stalls);
        let pause_us = if stalls { self.dice.pick(&[100_000, 2_000_000, 60_000_000]) } else { 0 };
        self.tally.queens_stalled += u64::from(stalls);
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let stalls_until = Time(self.now.0 + pause_us).min(Time(self.weather.faults_end_us));
        queen.inbox.reads_at = stalls_until.max(Time(self.now.0 + queen.plan().reads_every_us));
    }

    /// Takes note of what a queen is about to hear.
    pub(super) fn watch_queens_news(&mut self, job: JobId, news: &[KingNews]) {
        let Some(queen) = self.queens.get(&job) else { return };
        for news in news {
            match news {
                KingNews::Verdict(verdict) => {
                    self.tally.verdicts += 1;
                    self.tally.failed += u64::from(verdict.outcome.is_err());
                    let was_sent = queen.plan().lies || (verdict.unit.0 as usize) < queen.units.len();
                    assert!(was_sent, "verdict_is_on_a_unit: {job}, {}", verdict.unit);
                }
                KingNews::JobEnded(JobEnd::Unfit(_)) => self.tally.jobs_unfit += 1,
                KingNews::JobEnded(JobEnd::Complete | JobEnd::Cancelled)
                | KingNews::Welcome(_)
                | KingNews::PartWanted(_)
                | KingNews::OutputOffered(_)
                | KingNews::OutputPart { .. }
                | KingNews::JobState(_) => {}
            }
        }
    }
}
