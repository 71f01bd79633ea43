//! Streamed inputs, as the reactor sees them: asks the king for parts, has the hands store them, and tells the roster of an
//! attempt when its input is there.

use std::time::Duration;

use bytes::Bytes;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    guest::Places,
    ids::{AttemptId, JobId},
    wire::{self, duke_word::Word},
};

use super::{
    Hands, Reactor,
    arrivals::{Arrival, Ask},
    away::{Left, Remains},
};
use crate::{
    border::LinkError,
    peasant::{Content, InputNo, UnitInput},
    roster::Event,
};

impl<H: Hands> Reactor<H> {
    /// An attempt has come: with its input, or with the size of one that is a file or is streamed.
    pub(super) fn on_attempt_arrived(
        &mut self,
        (job, attempt): (JobId, AttemptId),
        (alone, spared): (bool, Duration),
        mut input: UnitInput,
        in_places: bool,
    ) -> Result<(), LinkError> {
        let places = &self.open_job(job)?.guest.places;
        if in_places {
            refer(places, &mut input);
        }
        let is_here = self.inputs.contains_key(&attempt) || self.arrivals.get(attempt).is_some();
        if is_here || self.left.contains_key(&attempt) {
            return Err(LinkError::Nonsense("an attempt was started twice"));
        }
        self.link.has_arrived(attempt);
        if let Content::Streamed { bytes, .. } = input.content {
            self.on_streamed(job, attempt, input, bytes, (alone, spared));
            return Ok(());
        }
        let bytes = input.bytes();
        self.inputs.insert(attempt, (job, input));
        self.events.push(Event::AttemptArrived { job, attempt, bytes, alone, spared });
        Ok(())
    }

    /// An attempt has come whose input of this size is streamed.
    pub(super) fn on_streamed(
        &mut self,
        job: JobId,
        attempt: AttemptId,
        input: UnitInput,
        bytes: u64,
        terms: (bool, Duration),
    ) {
        self.arrivals.add(attempt, job, input, bytes, terms);
        let Some(state) = self.jobs.get_mut(&job) else { return };
        if !std::mem::replace(&mut state.takes_files, true) && state.guest.places == Places::default() {
            // Peasants that were started before take no open files.
            self.events.push(Event::PeasantsOutdated { job });
        }
    }

    /// A part of an input has come.
    pub(super) fn on_input_part(&mut self, attempt: AttemptId, offset: u64, data: Bytes) -> Result<(), LinkError> {
        let taken = self.arrivals.take(attempt, offset, data.len() as u64);
        if let Some(input) = taken.map_err(|_| LinkError::Nonsense("a part of an input that was not asked for"))? {
            self.hands.store(input, data);
        }
        Ok(())
    }

    /// This many bytes of an input are in its file, or no more can be.
    pub(super) fn on_input_stored(&mut self, input: InputNo, stored: Result<u64, String>) {
        match stored {
            Ok(stored) => {
                self.arrivals.store(input, stored);
                self.go_on_with_whole();
            }
            Err(why) => {
                self.hands.discard(input);
                // The attempt may be over.
                let Some((attempt, Arrival { job, input, .. })) = self.arrivals.fail(input) else { return };
                let failure = Failure::new(FailureKind::Other, format!("its duke cannot keep its input: {why}"));
                self.leave_behind(attempt, Left::new(job, attempt, &input, 0, Remains::Failure(failure)));
            }
        }
    }

    /// Tells the roster of attempts whose inputs have come.
    fn go_on_with_whole(&mut self) {
        while let Some((attempt, arrival)) = self.arrivals.next_whole() {
            let Arrival { job, input, alone, spared, .. } = arrival;
            let bytes = input.bytes();
            self.inputs.insert(attempt, (job, input));
            self.events.push(Event::AttemptArrived { job, attempt, bytes, alone, spared });
        }
    }

    /// Gives attempts back whose inputs would come for no slot, and asks for what is wanted next.
    pub(super) fn go_on_with_arrivals(&mut self) {
        if self.arrivals.is_idle() {
            return;
        }
        let slots = |job| self.roster.slots_of(job).0;
        let orphans = self.arrivals.iter().filter(|(_, arrival)| slots(arrival.job) == 0);
        let orphans: Vec<(AttemptId, bool)> = orphans.map(|(attempt, arrival)| (attempt, arrival.alone)).collect();
        for (attempt, alone) in orphans {
            self.arrivals.forget(attempt);
            let outcome = if alone { wire::Outcome::Suspected } else { wire::Outcome::Returned };
            self.give_back(attempt, outcome, 0);
        }
        let roster = &self.roster;
        for gone in self.arrivals.begin(|job| roster.slots_of(job).0.saturating_add(1)) {
            self.hands.discard(gone);
        }
        // All of an input may have come before its attempt was given back.
        self.go_on_with_whole();
        self.run_core();
        if !self.link.is_up() {
            return;
        }
        for Ask { attempt, from, until } in self.arrivals.ask() {
            self.link.say(Word::InputWanted(wire::InputWanted { attempt: attempt.0, from, until }));
        }
    }

    /// Forgets an attempt whose input has not come; returns whether there is one.
    pub(super) fn drop_arrival(&mut self, attempt: AttemptId) -> bool {
        let is_arriving = self.arrivals.forget(attempt).is_some();
        if is_arriving {
            self.release(attempt);
        }
        is_arriving
    }

    /// The attempt is over: its input is not needed any more.
    pub(super) fn release(&mut self, attempt: AttemptId) {
        if let Some(input) = self.arrivals.release(attempt) {
            self.hands.discard(input);
        }
    }

    /// All attempts of a job are over.
    pub(super) fn release_job(&mut self, id: JobId) {
        self.inputs.retain(|_, (of, _)| *of != id);
        self.arrivals.release_job(id).into_iter().for_each(|input| self.hands.discard(input));
    }
}

/// What comes of a unit for which the folders of its job are used.
fn refer(places: &Places, input: &mut UnitInput) {
    if places.input.is_some()
        && let Content::Carried(content) = &input.content
    {
        // What is not a size is the size of no file.
        let listed_bytes = content.size_of_input().unwrap_or(u64::MAX);
        input.content = Content::Referenced { listed_bytes };
    }
    input.is_left = places.output.is_some();
}
