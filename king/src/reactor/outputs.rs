//! Streamed results: a duke offers one, the queen asks for a part, the king asks the duke for it, and passes it on when it
//! comes. The unit has its verdict when the queen has all of it.

use std::ops::Range;

use bytes::Bytes;
use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId},
    wire::{self, QueenNews, duke_order::Order, queen_news::News},
};
use distwasm_transport::payload::Payload;

use super::{Evidence, Reactor, streams::widen};
use crate::{
    scheduler::{Event, Outcome},
    transfers::{Key, OfferedResult, Transfer},
};

impl Reactor {
    /// A duke has a result in a file.
    pub(super) fn on_result_streamed(&mut self, duke: DukeId, attempt: AttemptId, bytes: u64, run_us: u64) {
        // An earlier event of this batch may have ended the attempt.
        self.run_core();
        // If it was offered before, the scheduler finds that.
        if let Some(unit) = self.scheduler.unit_at(duke, attempt) {
            self.transfers.offer((duke, attempt), unit, bytes, run_us);
        }
        self.events.push(Event::ResultOffered { duke, attempt, bytes, run_us, streamed: true });
        self.run_core();
    }

    /// Tells a queen of a result for which there is room. If it has no link, that waits until it has.
    pub(super) fn offer_output(&mut self, key: Key) {
        let Some(&Transfer { job, unit, result: Some(result), .. }) = self.transfers.get(key) else { return };
        let Some(queen) = self.queens.get(&job).filter(|queen| queen.link.is_some()) else { return };
        let Some(transfer) = self.transfers.number(key) else { return };
        let attempts = self.scheduler.attempts_at(job, unit).into_iter().map(|attempt| attempt.0).collect();
        let (unit, attempt, bytes) = (unit.0, key.1.0, result.bytes);
        let offered = wire::OutputOffered { unit, attempt, transfer, bytes, attempts };
        queen.peer.outbox.push(News::OutputOffered(offered));
    }

    /// A queen has all of a result before `wanted`, and asks for what is there; or it cannot keep the result.
    pub(super) fn on_output_wanted(&mut self, job: JobId, transfer: u64, wanted: Range<u64>, gives_up: bool) {
        // An earlier event of this batch may have ended the attempt.
        self.run_core();
        let key = match self.transfers.numbered(transfer) {
            Ok(Some(key)) => key,
            // The duke or its attempt is gone, and the queen has not heard it yet.
            Ok(None) => return,
            Err(_) => return self.expel_queen(job, "it asks for a result that it was not offered"),
        };
        let Some(transfer) = self.transfers.get_mut(key) else { return };
        if transfer.job != job || transfer.result.is_none() {
            return self.expel_queen(job, "it asks for a result of another job");
        }
        if let Err(why) = transfer.wants(wanted.start, wanted.end) {
            return self.expel_queen(job, why);
        }
        if gives_up {
            return self.conclude(key);
        }
        self.events.push(Event::ResultMoved { attempt: key.1 });
        self.go_on_with_result(key);
    }

    /// Asks the duke for the next part, if there is room for it; or gives the unit its verdict, if the queen has all.
    pub(super) fn go_on_with_result(&mut self, key: Key) {
        let Some(&Transfer { job, result: Some(result), .. }) = self.transfers.get(key) else { return };
        let Some(queen) = self.queens.get(&job).filter(|queen| queen.link.is_some()) else { return };
        if self.transfers.get(key).is_some_and(|transfer| transfer.is_over(result.bytes)) {
            return self.conclude(key);
        }
        widen(&mut self.transfers, key, &queen.inputs);
        if self.transfers.get(key).is_some_and(|transfer| transfer.room_bytes() == 0) {
            return self.transfers.wait(key);
        }
        if let Some((transfer, part)) = self.transfers.next_part(key) {
            let (attempt, from, until) = (key.1.0, part.start, part.end);
            self.tell_duke(key.0, Order::ResultPartWanted(wire::ResultPartWanted { attempt, transfer, from, until }));
        }
    }

    /// The queen needs nothing more of a result: its unit is done.
    fn conclude(&mut self, key: Key) {
        let Some(&Transfer { result: Some(result), .. }) = self.transfers.get(key) else { return };
        let ((duke, attempt), OfferedResult { run_us, .. }) = (key, result);
        self.transfers.end(key);
        self.evidence.insert(attempt, Evidence { duke, run_us, outcome: Ok(Payload::default()), stored: true });
        self.events.push(Event::AttemptEnded { duke, attempt, outcome: Outcome::Done { bytes: 0 }, run_us });
    }

    /// A part of a streamed result has come.
    pub(super) fn on_result_part(&mut self, duke: DukeId, transfer: u64, offset: u64, data: Bytes) {
        let key = match self.transfers.numbered(transfer) {
            Ok(Some(key)) => key,
            // The queen or the attempt is gone, or the part was asked for on behalf of an earlier link of the queen.
            Ok(None) => return,
            Err(_) => return self.expel_duke(duke, "it sent a part that nobody asked for"),
        };
        let number = transfer;
        let Some(transfer) = self.transfers.get_mut(key) else { return };
        if key.0 != duke || transfer.result.is_none() {
            return self.expel_duke(duke, "it sent a part of what it was not asked for");
        }
        if let Err(why) = transfer.pass(offset, data.len() as u64) {
            return self.expel_duke(duke, why);
        }
        let (job, attempt) = (transfer.job, key.1);
        self.totals.result_bytes += data.len() as u64;
        if let Some(queen) = self.queens.get(&job) {
            let part = wire::OutputPart { transfer: number, offset, data };
            queen.peer.outbox.push_behind(News::OutputPart(part));
        }
        self.events.push(Event::ResultMoved { attempt });
        self.go_on_with_result(key);
    }

    /// Takes back the parts that were not sent of results that go nowhere any more.
    pub(super) fn take_back_parts(&mut self) {
        for (job, transfer) in self.transfers.take_given_up() {
            let Some(queen) = self.queens.get(&job) else { continue };
            queen.peer.outbox.take_back(
                |word: &QueenNews| matches!(&word.news, Some(News::OutputPart(part)) if part.transfer == transfer),
            );
        }
    }
}
