//! Results in files of the duke's own: they go to the king in parts, as it asks for them; and units run again with such a
//! file when their results are too large for the memory of a peasant.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use distwasm_proto::{
    guest::Places,
    ids::{AttemptId, JobId},
    wire::{self, duke_word::Word},
};

use super::{Hands, Reactor, hands::Read};
use crate::{border::LinkError, peasant::UnitInput, roster::Event};

/// A part of a result that is being read, or was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    number: u64,
    /// The king's number for the transfer.
    pub(super) transfer: u64,
    from: u64,
}

impl<H: Hands> Reactor<H> {
    /// The king asks for a part of a result.
    pub(super) fn on_result_part_wanted(
        &mut self,
        attempt: AttemptId,
        transfer: u64,
        part: Range<u64>,
    ) -> Result<(), LinkError> {
        let left =
            self.left.get_mut(&attempt).ok_or(LinkError::Nonsense("a part was wanted of a result that is none"))?;
        // It could not be read, and the king has not heard it yet.
        let Some(kept) = left.kept() else { return Ok(()) };
        if part.end > kept.bytes {
            return Err(LinkError::Nonsense("a part was wanted that a result does not have"));
        }
        self.reads_made += 1;
        let read = Read { attempt, number: self.reads_made };
        let reading = Reading { number: read.number, transfer, from: part.start };
        self.hands.read(kept, read, part);
        left.reading = Some(reading);
        Ok(())
    }

    /// A part of a result was read, or cannot be.
    pub(super) fn on_result_read(&mut self, Read { attempt, number }: Read, pieces: Result<Vec<Bytes>, String>) {
        // The king may not need it any more, or has asked for another part over another link.
        let Some(left) = self.left.get_mut(&attempt) else { return };
        let Some(Reading { transfer, from, .. }) = left.reading.filter(|reading| reading.number == number) else {
            return;
        };
        match pieces {
            Ok(pieces) => {
                let mut offset = from;
                for data in pieces {
                    let bytes = data.len() as u64;
                    self.link.say_behind(Word::ResultPart(wire::ResultPart { transfer, offset, data }));
                    offset += bytes;
                }
            }
            Err(why) => left.lose_result(&why, &self.link),
        }
    }

    /// The result of an attempt is too large for the memory of its peasant: it runs again with a file, and all units after
    /// it have one.
    pub(super) fn run_with_file(&mut self, job: JobId, attempt: AttemptId, input: UnitInput) {
        let bytes = input.bytes();
        self.inputs.insert(attempt, (job, input));
        let Some(state) = self.jobs.get_mut(&job) else { return };
        state.keeps_results = true;
        if !std::mem::replace(&mut state.takes_files, true) && state.guest.places == Places::default() {
            // Peasants that were started before take no open files.
            self.events.push(Event::PeasantsOutdated { job });
        }
        let (alone, spared) = (false, Duration::ZERO);
        self.events.push(Event::AttemptArrived { job, attempt, bytes, alone, spared });
    }
}
