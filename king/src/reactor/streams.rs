//! Streamed inputs: a duke asks for a part, the king asks the queen for it, and passes it on when it comes. Streamed
//! results are in `outputs.rs`.

use std::collections::BTreeSet;

use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{DukeId, JobId, UnitNo},
    limits::{TRANSFER_WINDOW_BYTES, TRANSFERS_AT_DUKE_MAX, TRANSFERS_LOOKED_AT},
    wire::{self, DukeOrder, duke_order::Order, queen_news::News},
};

use super::Reactor;
use crate::{
    inbox::{InputWanted, LinkId, UnitPart},
    payloads::Inputs,
    scheduler::Event,
    transfers::{Key, Transfer, Transfers},
};

impl Reactor {
    /// A duke asks for a part of the input of an attempt.
    pub(super) fn on_input_wanted(&mut self, duke: DukeId, InputWanted { attempt, from, until }: InputWanted) {
        // An earlier event of this batch may have ended the attempt.
        self.run_core();
        // The attempt was given up, and the duke has not heard it yet.
        let Some((job, unit)) = self.scheduler.unit_at(duke, attempt) else { return };
        let key = (duke, attempt);
        if self.transfers.get_mut(key).is_none() {
            if self.transfers.count_at(duke, job) >= TRANSFERS_AT_DUKE_MAX {
                return self.expel_duke(duke, "it asks for more inputs at a time than it may");
            }
            self.transfers.begin(key, (job, unit), from);
        }
        let wanted = self.transfers.get_mut(key).map_or(Ok(()), |transfer| transfer.wants(from, until));
        if let Err(why) = wanted {
            return self.expel_duke(duke, why);
        }
        self.go_on_with(key);
    }

    /// Asks the queen for the next part, if there is room for it. If there is no queen, or it has not sent the unit
    /// again, that waits until it has.
    fn go_on_with(&mut self, key: Key) {
        let Some(&mut Transfer { job, unit, until, result, .. }) = self.transfers.get_mut(key) else { return };
        if result.is_some() {
            return self.go_on_with_result(key);
        }
        let Some(queen) = self.queens.get(&job).filter(|queen| queen.link.is_some()) else { return };
        let Some(input) = queen.inputs.get(unit) else { return };
        let Some(bytes) = input.streamed_bytes().filter(|bytes| until <= *bytes) else {
            return self.expel_duke(key.0, "it asks for a part of an input that has none");
        };
        if self.transfers.get_mut(key).is_some_and(|transfer| transfer.is_over(bytes)) {
            self.transfers.end(key);
            return;
        }
        widen(&mut self.transfers, key, &queen.inputs);
        if self.transfers.get_mut(key).is_some_and(|transfer| transfer.room_bytes() == 0) {
            return self.transfers.wait(key);
        }
        if let Some((transfer, part)) = self.transfers.next_part(key) {
            let wanted = wire::UnitPartWanted { unit: unit.0, transfer, from: part.start, until: part.end };
            queen.peer.outbox.push(News::UnitPartWanted(wanted));
        }
    }

    /// Looks at transfers that wait for room.
    pub(super) fn go_on_with_waiting(&mut self) {
        for _ in 0..self.transfers.count_waiting().min(TRANSFERS_LOOKED_AT) {
            let Some(key) = self.transfers.next_waiting() else { return };
            self.go_on_with(key);
        }
    }

    /// A queen has sent a unit again whose input a duke may have asked for.
    pub(super) fn go_on_with_unit(&mut self, job: JobId, unit: UnitNo) {
        self.transfers.of_unit(job, unit).into_iter().for_each(|key| self.go_on_with(key));
    }

    /// A queen has another link.
    pub(super) fn go_on_with_job(&mut self, job: JobId) {
        self.transfers.ask_again(job).into_iter().for_each(|key| self.go_on_with(key));
        self.transfers.fetched_of(job).into_iter().for_each(|key| self.offer_output(key));
    }

    /// A part of a streamed input has come, or the reason why there is none.
    pub(super) fn on_unit_part(&mut self, link: LinkId, job: JobId, part: UnitPart) {
        let UnitPart { transfer, offset, data } = part;
        let key = match self.transfers.numbered(transfer) {
            Ok(Some(key)) => key,
            // The duke or its attempt is gone, or the part was asked for over an earlier link.
            Ok(None) => return,
            Err(_) => return self.expel_queen(job, "it sent a part that nobody asked for"),
        };
        let Some(transfer) = self.transfers.get_mut(key) else { return };
        if transfer.job != job || transfer.result.is_some() || self.links.get(&link) != Some(&job) {
            return self.expel_queen(job, "it sent a part of another job");
        }
        let unit = transfer.unit;
        let data = match data {
            Ok(data) => data,
            Err(reason) => return self.on_input_broken(job, unit, reason),
        };
        if let Err(why) = transfer.pass(offset, data.len() as u64) {
            return self.expel_queen(job, why);
        }
        self.totals.input_bytes += data.len() as u64;
        let (duke, attempt) = key;
        if let Some(duke) = self.dukes.get(&duke) {
            duke.peer.outbox.push_behind(Order::InputPart(wire::InputPart { attempt: attempt.0, offset, data }));
        }
        self.events.push(Event::InputMoved { attempt });
        self.go_on_with(key);
    }

    /// A queen cannot read a streamed input any more.
    fn on_input_broken(&mut self, job: JobId, unit: UnitNo, reason: String) {
        // An earlier event of this batch may have given the unit its verdict.
        self.run_core();
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| queen.inputs.get(unit).is_some()) else { return };
        let failure = Failure::new(FailureKind::Input, reason);
        self.events.push(Event::InputBroken { job, unit, bytes: failure.bytes() });
        queen.broken.insert(unit, failure);
        self.run_core();
    }

    /// Ends transfers, and takes back parts of them that were not sent.
    pub(super) fn end_transfers(&mut self, duke: DukeId, is_over: impl Fn(Key, &Transfer) -> bool) {
        let over = self.transfers.end_all(|key, transfer| key.0 == duke && is_over(key, transfer));
        let Some(duke) = self.dukes.get(&duke).filter(|_| !over.is_empty()) else { return };
        let over: BTreeSet<u64> = over.into_iter().map(|(_, attempt)| attempt.0).collect();
        duke.peer.outbox.take_back(
            |word: &DukeOrder| matches!(&word.order, Some(Order::InputPart(part)) if over.contains(&part.attempt)),
        );
    }
}

/// Gives a transfer the room that it lacks, if there is some: all together have half of that for inputs, so that peers that
/// do not go on take it from no others. Each job has a little for one transfer, however little is left: its other units
/// may need the slot for which this one waits.
pub(super) fn widen(transfers: &mut Transfers, key: Key, inputs: &Inputs) {
    let Some(lacks) = transfers.get_mut(key).map(|transfer| TRANSFER_WINDOW_BYTES - transfer.room_bytes()) else {
        return;
    };
    if lacks == 0 {
        return;
    }
    let is_within = transfers.room_bytes().saturating_add(lacks) <= inputs.held().longest() / 2;
    let Some(transfer) = transfers.get_mut(key) else { return };
    let (job, room) = (transfer.job, transfer.room.get_or_insert_with(|| inputs.held().arriving()));
    if is_within && room.add(lacks).is_ok() || room.bytes() > 0 || transfers.has_room(job) {
        return;
    }
    if let Some(room) = transfers.get_mut(key).and_then(|transfer| transfer.room.as_mut()) {
        room.force(inputs.held().reserve());
    }
}
