//! Streamed results on their way to this queen: pure, like the submission. Their bytes go to files that get their names when
//! the units have their verdicts.
//!
//! The queen asks for the bytes in windows: what it has asked for and not stored is in its memory or on its way, and never
//! more than a window. Several attempts at a unit may have results that come at the same time; which of them counts is
//! known when all of it is here.

use std::collections::BTreeMap;

use bytes::Bytes;
use distwasm_proto::{
    ids::{AttemptId, UnitNo},
    limits::TRANSFER_WINDOW_BYTES,
};

use crate::{
    king_link::OutputOffered,
    outputs::{Arrived, Parts, ResultFile, WriteError},
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Arriving {
    window_bytes: u64,
    results: BTreeMap<AttemptId, ArrivingResult>,
}

/// A result as far as it has come.
#[derive(Debug)]
struct ArrivingResult {
    unit: UnitNo,
    bytes: u64,
    /// The king's number for the transfer; 0 if it has none over the current link.
    transfer: u64,
    /// Bytes that have come, and those of them that are in the file.
    got: u64,
    stored: u64,
    /// The king was asked for all before this.
    asked: u64,
    /// How much the king was told to have come.
    told: u64,
    /// The king was told that no more is wanted.
    is_told: bool,
    /// Parts that have come and go to the file next.
    parts: Vec<Bytes>,
    /// Some parts are being written.
    is_storing: bool,
    file: ResultFile,
    /// Why it cannot be kept.
    lost: Option<WriteError>,
}

/// What the king is to be told of a result: all before `from` has come, and what is before `until` is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) transfer: u64,
    pub(super) from: u64,
    pub(super) until: u64,
    /// It cannot be kept.
    pub(super) gives_up: bool,
}

/// A part that was not asked for, or a verdict on what has not come.
#[derive(Debug)]
pub(super) struct Unasked;

impl Arriving {
    pub(super) fn new() -> Arriving {
        Arriving { window_bytes: TRANSFER_WINDOW_BYTES, results: BTreeMap::new() }
    }

    /// How much of each may be on its way.
    pub(super) fn set_window(&mut self, bytes: u64) {
        self.window_bytes = bytes.clamp(1, TRANSFER_WINDOW_BYTES);
    }

    /// A result may be had. What has come of other attempts at its unit that are over is dropped.
    pub(super) fn offer(&mut self, offered: OutputOffered) {
        let OutputOffered { unit, attempt, transfer, bytes, attempts } = offered;
        self.results.retain(|of, result| result.unit != unit || attempts.contains(of));
        let is_another = |result: &ArrivingResult| (result.unit, result.bytes) != (unit, bytes);
        if self.results.get(&attempt).is_some_and(is_another) {
            self.results.remove(&attempt);
        }
        let result = self.results.entry(attempt).or_insert_with(|| ArrivingResult::new(unit, bytes));
        (result.transfer, result.asked, result.told, result.is_told) = (transfer, result.got, 0, false);
    }

    /// What the king is to be told now.
    pub(super) fn ask(&mut self) -> Vec<Ask> {
        let window = self.window_bytes;
        self.results.values_mut().filter_map(|result| result.ask(window)).collect()
    }

    /// The link is gone: what was asked for does not come any more.
    pub(super) fn lose_link(&mut self) {
        self.results.values_mut().for_each(|result| (result.transfer, result.asked) = (0, result.got));
    }

    /// A part has come. What belongs to a result that is not wanted any more is dropped.
    pub(super) fn take(&mut self, transfer: u64, offset: u64, data: Bytes) -> Result<(), Unasked> {
        let Some(result) = self.results.values_mut().find(|result| result.transfer == transfer) else { return Ok(()) };
        let end = offset.checked_add(data.len() as u64);
        let end = end.filter(|end| offset == result.got && *end <= result.asked);
        result.got = end.ok_or(Unasked)?;
        if result.lost.is_none() {
            result.parts.push(data);
        }
        Ok(())
    }

    /// The parts that go to their files now, those of each result one after the other.
    pub(super) fn next_parts(&mut self) -> Vec<(UnitNo, Parts)> {
        let ready = self.results.iter_mut().filter(|(_, result)| !result.is_storing && !result.parts.is_empty());
        let parts = ready.map(|(attempt, result)| {
            result.is_storing = true;
            let data = std::mem::take(&mut result.parts);
            let (file, is_last) = (result.file.clone(), result.got == result.bytes);
            (result.unit, Parts { attempt: *attempt, data, is_last, file })
        });
        parts.collect()
    }

    /// This many bytes of a result are in its file, or it cannot be kept.
    pub(super) fn store(&mut self, attempt: AttemptId, file: &ResultFile, outcome: Result<u64, WriteError>) {
        // The attempt may be over, or its result have begun anew.
        let result = self.results.get_mut(&attempt).filter(|result| result.file.is_same(file));
        let Some(result) = result else { return };
        result.is_storing = false;
        match outcome {
            Ok(stored) => result.stored = stored,
            Err(why) => {
                result.parts.clear();
                result.lost = Some(why);
            }
        }
    }

    /// The unit has its verdict: the result of this attempt counts, if it is one of these; nothing else of the unit is kept.
    pub(super) fn conclude(&mut self, unit: UnitNo, stored: Option<AttemptId>) -> Result<Option<Arrived>, Unasked> {
        let counts = stored.and_then(|attempt| self.results.remove(&attempt));
        self.results.retain(|_, result| result.unit != unit);
        match (stored, counts) {
            (None, _) => Ok(None),
            (Some(_), Some(ArrivingResult { lost: Some(why), unit: of, .. })) if of == unit => {
                Ok(Some(Arrived::Lost(why)))
            }
            (Some(_), Some(ArrivingResult { stored, bytes, file, unit: of, .. })) if of == unit && stored == bytes => {
                Ok(Some(Arrived::InFile(file)))
            }
            (Some(_), _) => Err(Unasked),
        }
    }

    /// Asserts every invariant.
    pub(super) fn check(&self, is_open: impl Fn(UnitNo) -> bool) {
        for (attempt, result) in &self.results {
            let ArrivingResult { got, stored, asked, bytes, .. } = *result;
            assert!(stored <= got && got <= asked && asked <= bytes, "parts_of_results_come_in_order: {attempt}");
            let in_memory = asked - stored;
            let is_within = in_memory <= self.window_bytes || result.lost.is_some();
            assert!(is_within, "no_more_of_a_result_than_a_window_is_on_its_way: {attempt}");
            let held: u64 = result.parts.iter().map(|part| part.len() as u64).sum();
            assert!(held <= got - stored, "parts_wait_for_their_file: {attempt}");
            assert!(is_open(result.unit), "results_come_for_open_units: {attempt}");
        }
    }
}

impl ArrivingResult {
    fn new(unit: UnitNo, bytes: u64) -> ArrivingResult {
        ArrivingResult {
            unit,
            bytes,
            transfer: 0,
            got: 0,
            stored: 0,
            asked: 0,
            told: 0,
            is_told: false,
            parts: Vec::new(),
            is_storing: false,
            file: ResultFile::default(),
            lost: None,
        }
    }

    fn ask(&mut self, window: u64) -> Option<Ask> {
        let ArrivingResult { transfer, bytes, got, stored, .. } = *self;
        if transfer == 0 || self.is_told {
            return None;
        }
        let gives_up = self.lost.is_some();
        if gives_up || stored == bytes {
            self.is_told = true;
            let from = got;
            return Some(Ask { transfer, from, until: self.asked.max(from), gives_up });
        }
        let until = stored.saturating_add(window).min(bytes);
        // Fewer words, each for half a window or more. But the king may have less room than a window, and goes on when it
        // hears that something has come. That all has come is said when all is in the file.
        let is_worth_it = until > self.asked && (until == bytes || until - self.asked >= window / 2);
        let is_news = got > self.told && stored == got;
        (got < bytes && (is_worth_it || is_news)).then(|| {
            (self.asked, self.told) = (until, got);
            Ask { transfer, from: got, until, gives_up }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: UnitNo = UnitNo(7);
    const ATTEMPT: AttemptId = AttemptId(1);

    fn offered(attempt: AttemptId, transfer: u64, attempts: &[u64]) -> OutputOffered {
        let attempts = attempts.iter().copied().map(AttemptId).collect();
        OutputOffered { unit: UNIT, attempt, transfer, bytes: 22, attempts }
    }

    fn arriving() -> Arriving {
        let mut arriving = Arriving::new();
        arriving.set_window(10);
        arriving.offer(offered(ATTEMPT, 5, &[1]));
        arriving
    }

    fn asks(arriving: &mut Arriving) -> Vec<(u64, u64, u64)> {
        let asks = arriving.ask().into_iter().map(|ask| (ask.transfer, ask.from, ask.until)).collect();
        arriving.check(|unit| unit == UNIT);
        asks
    }

    /// A part of this many bytes comes, and is stored.
    fn get(arriving: &mut Arriving, transfer: u64, offset: u64, bytes: usize) {
        arriving.take(transfer, offset, vec![0; bytes].into()).unwrap();
        for (_, Parts { attempt, file, .. }) in arriving.next_parts() {
            arriving.store(attempt, &file, Ok(offset + bytes as u64));
        }
    }

    #[test]
    fn a_result_is_asked_for_window_by_window_and_counts_when_all_of_it_is_stored() {
        let mut arriving = arriving();
        assert_eq!(asks(&mut arriving), [(5, 0, 10)]);
        get(&mut arriving, 5, 0, 10);
        assert_eq!(asks(&mut arriving), [(5, 10, 20)]);
        assert!(arriving.take(5, 11, Bytes::from_static(b"x")).is_err());
        get(&mut arriving, 5, 10, 10);
        assert_eq!(asks(&mut arriving), [(5, 20, 22)]);
        arriving.take(5, 20, Bytes::from_static(b"xy")).unwrap();
        assert!(asks(&mut arriving).is_empty(), "it is not stored yet");
        let (_, Parts { is_last, file, .. }) = arriving.next_parts().remove(0);
        assert!(is_last && arriving.next_parts().is_empty());
        arriving.store(ATTEMPT, &file, Ok(22));
        assert_eq!(asks(&mut arriving), [(5, 22, 22)]);
        assert!(asks(&mut arriving).is_empty());
        assert!(matches!(arriving.conclude(UNIT, Some(ATTEMPT)), Ok(Some(Arrived::InFile(_)))));
        assert!(arriving.conclude(UNIT, Some(ATTEMPT)).is_err());
    }

    #[test]
    fn over_another_link_the_rest_of_the_same_attempt_is_asked_for() {
        let mut arriving = arriving();
        assert_eq!(asks(&mut arriving), [(5, 0, 10)]);
        get(&mut arriving, 5, 0, 7);
        arriving.lose_link();
        assert!(asks(&mut arriving).is_empty());
        arriving.offer(offered(ATTEMPT, 6, &[1, 2]));
        assert_eq!(asks(&mut arriving), [(6, 7, 17)]);
        // What was on its way for the first transfer is not taken for the second.
        arriving.take(5, 7, Bytes::from_static(b"x")).unwrap();
        arriving.offer(offered(AttemptId(2), 8, &[1, 2]));
        assert_eq!(asks(&mut arriving), [(8, 0, 10)]);
        // The first attempt is over.
        arriving.offer(offered(AttemptId(2), 9, &[2]));
        assert_eq!(asks(&mut arriving), [(9, 0, 10)]);
        assert!(matches!(arriving.conclude(UNIT, None), Ok(None)) && arriving.results.is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_given_up_and_its_output_fails() {
        let mut arriving = arriving();
        asks(&mut arriving);
        arriving.take(5, 0, Bytes::from_static(b"abc")).unwrap();
        let (_, Parts { file, .. }) = arriving.next_parts().remove(0);
        arriving.take(5, 3, Bytes::from_static(b"d")).unwrap();
        arriving.store(ATTEMPT, &file, Err(WriteError { why: "full".to_owned(), hopeless: true }));
        assert!(arriving.next_parts().is_empty());
        let expected = Ask { transfer: 5, from: 4, until: 10, gives_up: true };
        assert_eq!(arriving.ask(), [expected]);
        arriving.take(5, 4, Bytes::from_static(b"e")).unwrap();
        assert!(matches!(arriving.conclude(UNIT, Some(ATTEMPT)), Ok(Some(Arrived::Lost(why))) if why.hopeless));
    }
}
