//! How queens read news: at their own speed, and at times not at all.

use std::collections::VecDeque;

use distwasm_proto::{ids::JobId, time::Time, wire::QueenNews};

use super::{
    wires::Parcel,
    world::{Due, World},
};

/// News that a queen has yet to read, with the links over which they came.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<(u64, Parcel<QueenNews>)>,
    /// The queen reads nothing before this.
    reads_at: Time,
}

impl World {
    /// News arrives at a queen, which reads it at once if it is quick.
    pub(super) fn queen_gets(&mut self, job: JobId, link: u64, news: Parcel<QueenNews>) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        if queen.inbox.waiting.is_empty() && queen.inbox.reads_at <= self.now {
            return self.queen_takes(job, link, news);
        }
        queen.inbox.waiting.push_back((link, news));
        if queen.inbox.waiting.len() == 1 {
            let reads_at = queen.inbox.reads_at;
            self.at(reads_at, Due::QueenReads(job));
        }
    }

    /// The queen reads its oldest news.
    pub(super) fn queen_reads(&mut self, job: JobId) {
        let Some((link, news)) = self.queens.get_mut(&job).and_then(|queen| queen.inbox.waiting.pop_front()) else {
            return;
        };
        self.queen_takes(job, link, news);
        let Some(inbox) = self.queens.get(&job).map(|queen| &queen.inbox) else { return };
        if !inbox.waiting.is_empty() {
            let reads_at = inbox.reads_at;
            self.at(reads_at, Due::QueenReads(job));
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
}
