//! Streamed results: how dukes read them, how queens store them, and what must hold on the way.

use std::ops::Range;

use distwasm_duke::{
    peasant::{Answer, KeptResult},
    reactor::{Happening as DukeHappening, Read},
};
use distwasm_jobs::{
    inputs::Input,
    outputs::{Parts, ResultFile, Stored, WriteError},
    reactor::Happening,
};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::PART_BYTES_MAX,
    wire,
};

use super::{
    oracle::place_of,
    weather::Nature,
    wires::part_of,
    world::{Due, QueenDue, Sender, World},
};

/// A streamed result at a queen.
#[derive(Debug, Default)]
pub(super) struct SimResult {
    pub(super) file: ResultFile,
    pub(super) bytes: u64,
    pub(super) is_whole: bool,
}

impl World {
    /// What a peasant answers whose result is in a file, or needs one.
    pub(super) fn answer_in_file(&mut self, queen: JobId, unit: Option<UnitNo>) -> Answer {
        let Some(unit) = unit else {
            self.tally.files_needed += 1;
            return Answer::NeedsFile(Failure::new(FailureKind::LongAnswer, "it is too long"));
        };
        self.tally.results_kept += 1;
        Answer::Kept(KeptResult::new(self.queens[&queen].result_bytes(unit), None))
    }

    /// A duke begins to read a part of a result.
    pub(super) fn duke_reads(&mut self, id: DukeId, bytes: u64, read: Read, part: Range<u64>) {
        assert!(part.start < part.end && part.end <= bytes, "what_a_result_has_is_read: {id}: {part:?}");
        let us_max = self.dice.pick(&[1, 100, 20_000]);
        let in_us = self.dice.below(us_max);
        self.later(in_us, Due::ResultRead(id, read, part));
    }

    /// A part of a result is read. Those of units that fail cannot be.
    pub(super) fn result_read(&mut self, id: DukeId, read: Read, part: Range<u64>) {
        let Some(duke) = self.dukes.get(&id) else { return };
        let of_unit = duke.reactor.unit_of(read.attempt);
        let owner = of_unit.and_then(|(job, unit)| Some((self.queen_of(duke.reactor.mark_of(job)?)?, unit)));
        // It may have been forgotten meanwhile.
        let Some((queen, unit)) = owner else { return };
        let pieces = if self.queens[&queen].unit(unit).nature == Nature::Fails {
            self.tally.parts_unreadable += 1;
            Err("the disk is broken".to_owned())
        } else {
            let mut pieces = Vec::new();
            let mut next = part.start;
            while next < part.end {
                let most = (part.end - next).min(PART_BYTES_MAX as u64);
                let bytes = if self.dice.permille(800) { most } else { 1 + self.dice.below(most) };
                pieces.push(part_of(unit, next, bytes));
                self.tally.parts_read += 1;
                next += bytes;
            }
            Ok(pieces)
        };
        self.duke_handles(id, DukeHappening::ResultRead { read, pieces });
    }

    /// Parts of a streamed result go to its file, and are there some time later.
    pub(super) fn queen_stores(&mut self, job: JobId, input: &Input, parts: Parts) {
        let Parts { attempt, data, is_last, file } = parts;
        let fails = self.faults_go_on() && self.dice.permille(self.weather.outputs_fail);
        let hopeless = self.dice.permille(300);
        let (honest, in_us) = (self.liars.is_empty(), self.disk_us(job));
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let place = place_of(&input.path);
        let unit = queen.units.iter().position(|of| *of == place).map_or(UnitNo(u64::MAX), |unit| UnitNo(unit as u64));
        let is_right = honest && !queen.plan().lies;
        let result = queen.results.entry(attempt).or_default();
        if !result.file.is_same(&file) {
            *result = SimResult { file: file.clone(), ..SimResult::default() };
        }
        assert!(!result.is_whole, "nothing_comes_after_the_last_part: {job}, {attempt}");
        for part in data {
            let expected = part_of(unit, result.bytes, part.len() as u64);
            assert!(!is_right || part == expected, "parts_of_results_come_in_order_and_once: {job}, {attempt}");
            result.bytes += part.len() as u64;
        }
        result.is_whole = is_last;
        self.tally.outputs_given_up += u64::from(fails);
        let outcome = if fails { Err(WriteError { why: "it is full".to_owned(), hopeless }) } else { Ok(result.bytes) };
        let before = queen.storing.insert(attempt, Stored { attempt, file: file.clone(), outcome });
        let is_one = before.is_none_or(|before| !before.file.is_same(&file));
        assert!(is_one, "parts_of_a_result_are_stored_one_after_the_other: {job}, {attempt}");
        self.later(in_us, Due::Queen(job, QueenDue::Stores(attempt)));
    }

    /// Parts of a streamed result are in its file.
    pub(super) fn writers_store(&mut self, job: JobId, attempt: AttemptId) {
        let Some(stored) = self.queens.get_mut(&job).and_then(|queen| queen.storing.remove(&attempt)) else { return };
        self.queen_happens(job, Happening::Stored(stored));
        self.queen_reads_later(job);
    }

    /// Checks that no more of a streamed result is on its way than a window, as far as the queen has it.
    pub(super) fn check_output_window(&self, sender: Sender, part: &wire::OutputPart) {
        let Sender::Queen(queen, link) = sender else { return };
        let Some(queen) = self.queens.get(&queen).filter(|queen| queen.link.number == link) else { return };
        let Some(attempt) = queen.offered.get(&part.transfer) else { panic!("results_are_offered_first: {sender:?}") };
        let stored = queen.results.get(attempt).map_or(0, |result| result.bytes);
        let until = part.offset + part.data.len() as u64;
        assert!(
            until <= stored + self.weather.window_bytes,
            "no_more_of_a_result_than_a_window_is_on_its_way: {attempt}"
        );
    }
}
