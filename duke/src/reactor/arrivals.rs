//! Streamed inputs on their way to this duke: pure, like the roster. An attempt whose input is streamed waits here until
//! its bytes are in a file, and only then does the roster hear of it.
//!
//! The duke asks for the bytes in windows: what it has asked for and not stored is in its memory or on its way, and never
//! more than a window. A job has at most one such file for each of its slots, and one more for the next unit, so that
//! its inputs take a bounded part of the disk.
//!
//! If an attempt is given back, because its slot is wanted elsewhere, its file is kept as long as no other input needs the
//! place: the next attempt of the unit here goes on from there. Otherwise inputs that take longer than jobs take turns
//! would never come.

use std::{collections::BTreeMap, time::Duration};

use distwasm_proto::{
    ids::{AttemptId, JobId, UnitNo},
    limits::TRANSFERS_AT_DUKE_MAX,
};

use crate::peasant::{InputNo, UnitInput};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Arrivals {
    window_bytes: u64,
    /// Attempts whose inputs have not come.
    arriving: BTreeMap<AttemptId, Arrival>,
    /// The files of inputs, also of those that have come.
    files: BTreeMap<InputNo, StoredFile>,
    files_made: u64,
}

/// An attempt whose input has not come.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) job: JobId,
    pub(super) input: UnitInput,
    pub(super) alone: bool,
    pub(super) spared: Duration,
    /// The size of its input.
    pub(super) bytes: u64,
    /// Once its input is on its way.
    file: Option<InputNo>,
}

/// An input as far as it has come.
#[derive(Debug)]
struct StoredFile {
    job: JobId,
    unit: UnitNo,
    /// `None` if it is kept for the next attempt.
    attempt: Option<AttemptId>,
    /// Bytes that have come, and those of them that are in the file.
    got: u64,
    stored: u64,
    /// The king was asked for all before this.
    asked: u64,
    /// How much the king was told to have come.
    told: u64,
    /// The king was told that all has come.
    is_told: bool,
}

/// A part that the king is to be asked for: all before `from` has come, and what is before `until` is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) attempt: AttemptId,
    pub(super) from: u64,
    pub(super) until: u64,
}

/// A part that was not asked for.
#[derive(Debug)]
pub(super) struct Unasked;

impl Arrivals {
    /// None yet, with windows of this size.
    pub(super) fn new(window_bytes: u64) -> Arrivals {
        let (arriving, files) = (BTreeMap::new(), BTreeMap::new());
        Arrivals { window_bytes: window_bytes.max(1), arriving, files, files_made: 0 }
    }

    /// An attempt begins whose input of this size is streamed.
    pub(super) fn add(
        &mut self,
        attempt: AttemptId,
        job: JobId,
        input: UnitInput,
        bytes: u64,
        (alone, spared): (bool, Duration),
    ) {
        self.arriving.insert(attempt, Arrival { job, input, alone, spared, bytes, file: None });
    }

    /// Begins with the inputs of jobs that may have this many files. Returns files that have to go for that.
    pub(super) fn begin(&mut self, files_max: impl Fn(JobId) -> u32) -> Vec<InputNo> {
        let mut gone = Vec::new();
        let waiting = self.arriving.iter().filter(|(_, arrival)| arrival.file.is_none());
        let waiting: Vec<(AttemptId, JobId, UnitNo)> =
            waiting.map(|(attempt, arrival)| (*attempt, arrival.job, arrival.input.unit)).collect();
        // Jobs for which no more can begin.
        let mut full = Vec::new();
        for (attempt, job, unit) in waiting {
            if full.contains(&job) {
                continue;
            }
            let of_job = || self.files.iter().filter(|(_, file)| file.job == job);
            let active = self.arriving.values().filter(|arrival| arrival.job == job && arrival.file.is_some()).count();
            let kept = || of_job().filter(|(_, file)| file.attempt.is_none());
            let own = kept().find(|(_, file)| file.unit == unit).map(|(number, _)| *number);
            let has_place = of_job().count() < files_max(job) as usize;
            let oldest = kept().next().map(|(number, _)| *number);
            if active >= TRANSFERS_AT_DUKE_MAX || (own.is_none() && !has_place && oldest.is_none()) {
                full.push(job);
                continue;
            }
            if own.is_none()
                && !has_place
                && let Some(oldest) = oldest
            {
                self.files.remove(&oldest);
                gone.push(oldest);
            }
            let number = own.unwrap_or_else(|| {
                self.files_made += 1;
                InputNo(self.files_made)
            });
            let file = self.files.entry(number).or_insert(StoredFile {
                job,
                unit,
                attempt: None,
                got: 0,
                stored: 0,
                asked: 0,
                told: 0,
                is_told: true,
            });
            (file.attempt, file.asked, file.told, file.is_told) = (Some(attempt), file.got, 0, false);
            if let Some(arrival) = self.arriving.get_mut(&attempt) {
                arrival.file = Some(number);
            }
        }
        gone
    }

    /// The parts that the king is to be asked for now.
    pub(super) fn ask(&mut self) -> Vec<Ask> {
        let (window, arriving) = (self.window_bytes, &self.arriving);
        let asks = self.files.values_mut().filter_map(|file| {
            let attempt = file.attempt?;
            let (bytes, from) = (arriving.get(&attempt)?.bytes, file.got);
            if from == bytes {
                let is_told = std::mem::replace(&mut file.is_told, true);
                return (!is_told).then_some(Ask { attempt, from, until: bytes });
            }
            let until = file.stored.saturating_add(window).min(bytes);
            // Fewer words, each for half a window or more. But the king may have less room than a window, and goes on when
            // it hears that something has come.
            let is_worth_it = until > file.asked && (until == bytes || until - file.asked >= window / 2);
            let is_news = file.got > file.told && file.stored == file.got;
            (is_worth_it || is_news).then(|| {
                (file.asked, file.told) = (until, from);
                Ask { attempt, from, until }
            })
        });
        asks.collect()
    }

    /// The link is gone: what was asked for does not come any more.
    pub(super) fn lose_link(&mut self) {
        self.files.values_mut().for_each(|file| (file.asked, file.told) = (file.got, 0));
    }

    /// A part has come. Returns the file that it belongs to, unless the attempt is over.
    pub(super) fn take(&mut self, attempt: AttemptId, offset: u64, bytes: u64) -> Result<Option<InputNo>, Unasked> {
        let Some(arrival) = self.arriving.get(&attempt) else { return Ok(None) };
        let number = arrival.file.ok_or(Unasked)?;
        let file = self.files.get_mut(&number).ok_or(Unasked)?;
        let end = offset.checked_add(bytes).filter(|end| offset == file.got && *end <= file.asked);
        file.got = end.ok_or(Unasked)?;
        Ok(Some(number))
    }

    /// This many bytes of an input are in its file.
    pub(super) fn store(&mut self, number: InputNo, stored: u64) {
        // The attempt may be over.
        if let Some(file) = self.files.get_mut(&number) {
            file.stored = stored;
        }
    }

    /// Takes out an attempt whose input has come as a whole.
    pub(super) fn next_whole(&mut self) -> Option<(AttemptId, Arrival)> {
        let is_whole = |(_, arrival): &(&AttemptId, &Arrival)| {
            let file = arrival.file.and_then(|number| self.files.get(&number));
            file.is_some_and(|file| file.stored >= arrival.bytes)
        };
        let attempt = *self.arriving.iter().find(is_whole)?.0;
        self.arriving.remove(&attempt).map(|arrival| (attempt, arrival))
    }

    /// No more of an input can be stored: its file goes. Returns the attempt that waits for it, if one does.
    pub(super) fn fail(&mut self, number: InputNo) -> Option<(AttemptId, Arrival)> {
        let attempt = self.files.remove(&number)?.attempt?;
        self.arriving.remove(&attempt).map(|arrival| (attempt, arrival))
    }

    /// Forgets an attempt whose input has not come.
    pub(super) fn forget(&mut self, attempt: AttemptId) -> Option<Arrival> {
        self.arriving.remove(&attempt)
    }

    /// The attempt is over: returns its file, which goes.
    pub(super) fn release(&mut self, attempt: AttemptId) -> Option<InputNo> {
        let number = self.file_of(attempt)?;
        self.files.remove(&number);
        Some(number)
    }

    /// The attempt is given back: its file is kept for the next one.
    pub(super) fn keep(&mut self, attempt: AttemptId) {
        if let Some(file) = self.file_of(attempt).and_then(|number| self.files.get_mut(&number)) {
            file.attempt = None;
        }
    }

    /// The job is over: returns its files, which go.
    pub(super) fn release_job(&mut self, job: JobId) -> Vec<InputNo> {
        self.arriving.retain(|_, arrival| arrival.job != job);
        self.files.extract_if(.., |_, file| file.job == job).map(|(number, _)| number).collect()
    }

    /// The file of an attempt.
    pub(super) fn file_of(&self, attempt: AttemptId) -> Option<InputNo> {
        self.files.iter().find(|(_, file)| file.attempt == Some(attempt)).map(|(number, _)| *number)
    }

    /// Whose input it is.
    pub(super) fn unit_of(&self, number: InputNo) -> Option<(JobId, UnitNo)> {
        self.files.get(&number).map(|file| (file.job, file.unit))
    }

    /// The attempts whose inputs have not come, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (AttemptId, &Arrival)> {
        self.arriving.iter().map(|(attempt, arrival)| (*attempt, arrival))
    }

    /// The attempt, if its input has not come.
    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Arrival> {
        self.arriving.get(&attempt)
    }

    /// Whether no input is on its way, and none is wanted.
    pub(super) fn is_idle(&self) -> bool {
        self.arriving.is_empty()
    }

    /// Whether nothing is left of any input.
    pub(super) fn is_empty(&self) -> bool {
        self.arriving.is_empty() && self.files.is_empty()
    }

    /// Asserts every invariant. Of the other attempts, those with streamed inputs are in files.
    pub(super) fn check(&self, is_stored: impl Fn(AttemptId) -> bool, is_open: impl Fn(JobId) -> bool) {
        for (attempt, arrival) in &self.arriving {
            let file = arrival.file.map(|number| self.files.get(&number));
            let is_its_own = |file: &StoredFile| file.attempt == Some(*attempt) && file.stored < arrival.bytes;
            assert!(file.is_none_or(|file| file.is_some_and(is_its_own)), "arriving_input_has_a_file: {attempt}");
        }
        for (number, file) in &self.files {
            let StoredFile { got, stored, asked, attempt, job, .. } = *file;
            assert!(stored <= got && got <= asked, "parts_come_in_order: {number:?}");
            assert!(asked - stored <= self.window_bytes, "no_more_than_a_window_is_on_its_way: {number:?}");
            let is_needed = attempt.is_none_or(|attempt| self.arriving.contains_key(&attempt) || is_stored(attempt));
            assert!(is_needed && is_open(job), "files_are_of_attempts: {number:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use distwasm_proto::ids::UnitNo;

    use super::*;
    use crate::peasant::Content;

    const JOB: JobId = JobId(1);

    fn arrivals(window_bytes: u64, attempts: u64, bytes: u64) -> Arrivals {
        let mut arrivals = Arrivals::new(window_bytes);
        for attempt in 1..=attempts {
            let (unit, content) = (UnitNo(attempt), Content::Streamed { bytes, file: None });
            let input = UnitInput { unit, number: 1, name: Bytes::new(), content, is_left: false, is_kept: false };
            arrivals.add(AttemptId(attempt), JOB, input, bytes, (false, Duration::ZERO));
        }
        arrivals
    }

    fn asks(arrivals: &mut Arrivals) -> Vec<(u64, u64, u64)> {
        let asks = arrivals.ask();
        arrivals.check(|_| true, |_| true);
        asks.into_iter().map(|ask| (ask.attempt.0, ask.from, ask.until)).collect()
    }

    #[test]
    fn an_input_is_asked_for_window_by_window() {
        let (mut arrivals, attempt, file) = (arrivals(10, 1, 22), AttemptId(1), InputNo(1));
        assert!(arrivals.take(attempt, 0, 1).is_err());
        arrivals.begin(|_| 1);
        assert_eq!(asks(&mut arrivals), [(1, 0, 10)]);
        assert!(arrivals.take(attempt, 0, 4).unwrap() == Some(file) && arrivals.take(attempt, 5, 1).is_err());
        assert!(asks(&mut arrivals).is_empty());
        arrivals.store(file, 4);
        assert_eq!(asks(&mut arrivals), [(1, 4, 14)]);
        assert!(arrivals.take(attempt, 4, 2).is_ok());
        arrivals.store(file, 6);
        assert_eq!(asks(&mut arrivals), [(1, 6, 16)]);
        // What was asked for over a link that broke is asked for again.
        arrivals.lose_link();
        assert_eq!(asks(&mut arrivals), [(1, 6, 16)]);
        assert!(arrivals.take(attempt, 6, 11).is_err() && arrivals.take(attempt, 6, 10).is_ok());
        assert!(asks(&mut arrivals).is_empty());
        arrivals.store(file, 16);
        assert_eq!(asks(&mut arrivals), [(1, 16, 22)]);
        assert!(arrivals.take(attempt, 16, 6).is_ok());
        assert_eq!(asks(&mut arrivals), [(1, 22, 22)]);
        assert!(asks(&mut arrivals).is_empty() && arrivals.next_whole().is_none());
        arrivals.store(file, 22);
        assert_eq!(arrivals.next_whole().unwrap().0, attempt);
        assert!(arrivals.take(attempt, 22, 1).unwrap().is_none());
        assert!(arrivals.release(attempt) == Some(file) && arrivals.release(attempt).is_none() && arrivals.is_empty());
    }

    #[test]
    fn few_inputs_come_at_a_time() {
        let mut arrivals = arrivals(10, 40, 5);
        arrivals.begin(|_| 2);
        assert_eq!(asks(&mut arrivals).len(), 2);
        arrivals.begin(|_| 40);
        assert_eq!(asks(&mut arrivals).len(), TRANSFERS_AT_DUKE_MAX - 2);
        arrivals.forget(AttemptId(1));
        arrivals.release(AttemptId(1));
        arrivals.begin(|_| 40);
        assert_eq!(asks(&mut arrivals), [(TRANSFERS_AT_DUKE_MAX as u64 + 1, 0, 5)]);
    }

    #[test]
    fn the_next_attempt_goes_on_where_one_was_given_back_unless_another_input_needed_the_place() {
        let mut arrivals = arrivals(10, 2, 22);
        let first = arrivals.forget(AttemptId(2)).unwrap();
        arrivals.begin(|_| 1);
        arrivals.ask();
        assert!(arrivals.take(AttemptId(1), 0, 7).is_ok());
        arrivals.store(InputNo(1), 7);
        let again = arrivals.forget(AttemptId(1)).unwrap();
        arrivals.keep(AttemptId(1));
        // What was on its way to the first attempt is not taken for the next.
        assert!(arrivals.take(AttemptId(1), 7, 1).unwrap().is_none());
        arrivals.add(AttemptId(3), JOB, again.input.clone(), 22, (false, Duration::ZERO));
        assert!(arrivals.begin(|_| 1).is_empty());
        assert_eq!(asks(&mut arrivals), [(3, 7, 17)]);
        arrivals.forget(AttemptId(3));
        arrivals.keep(AttemptId(3));
        arrivals.add(AttemptId(4), JOB, first.input, 22, (false, Duration::ZERO));
        assert_eq!(arrivals.begin(|_| 1), [InputNo(1)]);
        assert_eq!(asks(&mut arrivals), [(4, 0, 10)]);
        assert_eq!(arrivals.release_job(JOB), [InputNo(2)]);
        assert!(arrivals.is_empty());
    }
}
