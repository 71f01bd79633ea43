//! The queen's submission: a pure state machine that decides how many units may be open, and how the job ends.
//!
//! Like the king's scheduler it takes events with a time and returns actions, without a clock, I/O or payload bytes. In
//! their order, inputs are listed, handed to the readers, sent (and get their unit numbers then), open until their
//! verdicts arrive, and then settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use distwasm_proto::{
    ids::UnitNo,
    limits::{LISTED_MAX, READING_MAX},
    time::Time,
};

use crate::run_limits::RunLimits;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Event {
    /// The king took the job; this many units and bytes may be without a verdict.
    Welcomed { window_units: u32, window_bytes: u64 },
    /// The link broke; the queen tries to come back.
    LinkLost,
    /// The king said how many bytes may be without a verdict from now on.
    WindowChanged { bytes: u64 },
    /// After the link broke, the queen was welcomed again, by a king that has these units or their verdicts.
    CameBack { known: Vec<UnitNo> },
    /// An input was found that has no output yet. `bytes` is its size in the window, here and below.
    InputListed { bytes: u64 },
    /// An input, or a folder of inputs, was found that cannot be processed.
    InputUnusable,
    /// All inputs were found.
    ListingEnded,
    /// An input was read and sent, and is this unit.
    UnitSent { unit: UnitNo, bytes: u64 },
    /// An input could not be read, and was not sent.
    InputFailed { bytes: u64 },
    /// The king said how a unit ended.
    VerdictArrived { unit: UnitNo, done: bool },
    /// A unit's output is in its place.
    OutputWritten { unit: UnitNo },
    /// A unit's output could not be written, but others may.
    OutputFailed { unit: UnitNo },
    /// No outputs can be written any more.
    OutputsImpossible,
    /// The king said that all units have their verdicts.
    JobEnded,
    /// The king said that the job cannot run.
    JobFailed,
    /// The king said that somebody has cancelled the job.
    JobCancelled,
    /// The link to the king ended before the job did.
    KingLost,
    /// The user wants to stop.
    Interrupted,
    /// Time passed; sent when [`Submission::next_deadline`] is reached.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Action {
    /// Give the next listed inputs to the readers.
    ReadInputs { count: usize },
    /// Send these units again.
    SendAgain { units: Vec<UnitNo> },
    /// Tell the king that there are no more units.
    CloseJob { units: u64 },
    /// The run is over.
    Finish { end: End },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every input has its output, or failed.
    Complete,
    /// The program cannot run.
    Unfit,
    /// Somebody has cancelled the job.
    Cancelled,
    /// The king was lost.
    KingLost,
    /// No outputs can be written.
    NoOutputs,
    /// The user stopped it.
    Interrupted,
    /// More units failed than the limit allows.
    TooManyFailed {
        /// How many failed.
        failed: u64,
        /// How many were finished, including the failed ones.
        finished: u64,
    },
    /// The time for the run is over.
    OutOfTime,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Submission {
    limits: RunLimits,
    window: Option<Window>,
    /// Sizes of inputs that the readers have not got yet.
    listed: VecDeque<u64>,
    listing_ended: bool,
    /// How many inputs the readers have.
    reading: usize,
    /// How many units were sent.
    sent: u64,
    /// Units without a verdict, with the sizes of their inputs.
    open: BTreeMap<UnitNo, u64>,
    /// Bytes of the inputs that are being read or are without a verdict.
    open_bytes: u64,
    /// The window by which they were opened, which may have been larger than it is now.
    opened_by: u64,
    /// Units whose outputs are being written.
    writing: BTreeSet<UnitNo>,
    /// Inputs that have their output.
    done: u64,
    /// Inputs that have no output, and will not get one.
    failed: u64,
    closed: bool,
    job_ended: bool,
    /// Set once; nothing is decided afterwards.
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    units: usize,
    bytes: u64,
}

impl Submission {
    /// A submission within these limits.
    pub fn new(limits: RunLimits) -> Submission {
        Submission { limits, ..Submission::default() }
    }

    /// When [`Event::Tick`] is due, if the run does not end before.
    pub fn next_deadline(&self) -> Option<Time> {
        self.limits.ends_at.filter(|_| self.end.is_none())
    }

    /// Handles one event, and appends the resulting actions to `actions`.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        // The run is over; later events do not matter any more.
        if self.end.is_some() {
            return;
        }
        match event {
            Event::Welcomed { window_units, window_bytes } => {
                let units = usize::try_from(window_units).unwrap_or(usize::MAX);
                self.window = Some(Window { units, bytes: window_bytes });
            }
            Event::WindowChanged { bytes } => {
                if let Some(window) = &mut self.window {
                    window.bytes = bytes;
                }
            }
            Event::LinkLost => {
                self.window = None;
                // Nobody knows whether the king has heard of it.
                self.closed = false;
            }
            Event::CameBack { known } => {
                let known: BTreeSet<UnitNo> = known.into_iter().collect();
                let units: Vec<UnitNo> = self.open.keys().copied().filter(|unit| !known.contains(unit)).collect();
                if !units.is_empty() {
                    actions.push(Action::SendAgain { units });
                }
            }
            Event::InputListed { bytes } => self.listed.push_back(bytes),
            Event::InputUnusable => self.failed += 1,
            Event::ListingEnded => self.listing_ended = true,
            Event::UnitSent { unit, bytes } => {
                self.reading -= 1;
                self.sent += 1;
                self.open.insert(unit, bytes);
            }
            Event::InputFailed { bytes } => {
                self.reading -= 1;
                self.open_bytes -= bytes;
                self.failed += 1;
            }
            Event::VerdictArrived { unit, done } => {
                // The border lets only verdicts of open units through.
                let Some(bytes) = self.open.remove(&unit) else { return };
                self.open_bytes -= bytes;
                if done {
                    self.writing.insert(unit);
                } else {
                    self.failed += 1;
                }
            }
            Event::OutputWritten { unit } => self.done += u64::from(self.writing.remove(&unit)),
            Event::OutputFailed { unit } => self.failed += u64::from(self.writing.remove(&unit)),
            Event::OutputsImpossible => return self.finish(End::NoOutputs, actions),
            Event::JobEnded => self.job_ended = true,
            Event::JobFailed => return self.finish(End::Unfit, actions),
            Event::JobCancelled => return self.finish(End::Cancelled, actions),
            Event::KingLost => return self.finish(End::KingLost, actions),
            Event::Interrupted => return self.finish(End::Interrupted, actions),
            Event::Tick => {}
        }
        let (failed, finished) = (self.failed, self.failed + self.done);
        if self.limits.failures.is_some_and(|limit| limit.is_exceeded(failed, finished)) {
            return self.finish(End::TooManyFailed { failed, finished }, actions);
        }
        if self.is_out_of_time(now) {
            // This very event may have completed the run.
            let complete = if self.is_complete() { End::Complete } else { End::OutOfTime };
            return self.finish(complete, actions);
        }
        self.go_on(actions);
    }

    /// Whether more inputs should be listed.
    pub fn wants_inputs(&self) -> bool {
        self.listed.len() < LISTED_MAX && self.end.is_none()
    }

    /// Whether a verdict on this unit is expected.
    pub fn expects(&self, unit: UnitNo) -> bool {
        self.open.contains_key(&unit)
    }

    /// How many units were numbered, and those of them that have no verdict: a king needs both to resume the job.
    pub fn lacking(&self) -> (u64, Vec<UnitNo>) {
        (self.sent, self.open.keys().copied().collect())
    }

    fn is_out_of_time(&self, now: Time) -> bool {
        self.limits.ends_at.is_some_and(|ends_at| now >= ends_at)
    }

    fn is_complete(&self) -> bool {
        let all_sent = self.listing_ended && self.listed.is_empty() && self.reading == 0;
        let all_settled = self.job_ended && self.open.is_empty() && self.writing.is_empty();
        // If there was nothing to do, or nothing could be read, the run does not wait for the king.
        all_sent && (self.sent == 0 || all_settled)
    }

    fn go_on(&mut self, actions: &mut Vec<Action>) {
        let count = self.readable();
        if count > 0 {
            actions.push(Action::ReadInputs { count });
        }
        let all_sent = self.listing_ended && self.listed.is_empty() && self.reading == 0;
        if all_sent && self.sent > 0 && !self.closed && self.window.is_some() {
            self.closed = true;
            actions.push(Action::CloseJob { units: self.sent });
        }
        if self.is_complete() {
            self.finish(End::Complete, actions);
        }
    }

    /// Takes as many inputs from the list as the window has room for. One may always be open, however large it is.
    fn readable(&mut self) -> usize {
        let Some(window) = self.window else { return 0 };
        let mut count = 0;
        while let Some(bytes) = self.listed.front().copied() {
            let open = self.open.len() + self.reading;
            let fits = open < window.units && self.open_bytes.saturating_add(bytes) <= window.bytes;
            if self.reading >= READING_MAX || !(fits || open == 0) {
                break;
            }
            self.listed.pop_front();
            self.reading += 1;
            self.open_bytes += bytes;
            self.opened_by = window.bytes;
            count += 1;
        }
        count
    }

    fn finish(&mut self, end: End, actions: &mut Vec<Action>) {
        self.end = Some(end);
        actions.push(Action::Finish { end });
    }

    /// Asserts every invariant, by name.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        let open_bytes: u64 = self.open.values().sum();
        if self.reading == 0 {
            assert_eq!(self.open_bytes, open_bytes, "open_bytes_are_counted");
        }
        assert!(self.open_bytes >= open_bytes, "open_bytes_are_counted");
        if let Some(window) = self.window {
            let open = self.open.len() + self.reading;
            assert!(open <= window.units.max(1), "window_of_units_is_kept");
            assert!(self.open_bytes <= self.opened_by || open <= 1, "window_of_bytes_is_kept");
        }
        if self.end == Some(End::Complete) {
            let nothing_left = self.open.is_empty() && self.writing.is_empty() && self.listed.is_empty();
            assert!(nothing_left && self.reading == 0, "complete_run_has_nothing_left");
        }
        if self.end.is_none()
            && let Some(limit) = self.limits.failures
        {
            assert!(!limit.is_exceeded(self.failed, self.failed + self.done), "limit_of_failures_is_kept");
        }
        assert!(!self.closed || (self.listing_ended && self.listed.is_empty()), "closed_job_has_all_its_units");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(submission: &mut Submission, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        for event in events {
            submission.handle(Time::default(), event, &mut actions);
            submission.check();
        }
        actions
    }

    fn failing(limit: &str) -> Submission {
        let mut submission = Submission::new(RunLimits { failures: Some(limit.parse().unwrap()), ends_at: None });
        let welcome = Event::Welcomed { window_units: 1000, window_bytes: 1000 };
        handle(&mut submission, std::iter::once(welcome).chain(listed(&[1; 300])));
        handle(&mut submission, (0..300).map(|unit| Event::UnitSent { unit: UnitNo(unit), bytes: 1 }));
        submission
    }

    fn verdict(unit: u64, done: bool) -> Event {
        Event::VerdictArrived { unit: UnitNo(unit), done }
    }

    fn listed(sizes: &[u64]) -> Vec<Event> {
        sizes.iter().map(|bytes| Event::InputListed { bytes: *bytes }).collect()
    }

    #[test]
    fn nothing_to_do_is_done_without_a_king() {
        let actions = handle(&mut Submission::default(), [Event::ListingEnded]);
        assert_eq!(actions, [Action::Finish { end: End::Complete }]);
    }

    #[test]
    fn the_window_bounds_units_and_bytes_but_lets_one_large_input_through() {
        let mut submission = Submission::default();
        handle(&mut submission, listed(&[10, 60, 50, 1000, 5]));
        let welcome = Event::Welcomed { window_units: 3, window_bytes: 100 };
        assert_eq!(handle(&mut submission, [welcome]), [Action::ReadInputs { count: 2 }]);
        let sent = |unit, bytes| Event::UnitSent { unit: UnitNo(unit), bytes };
        let verdict = |unit| Event::VerdictArrived { unit: UnitNo(unit), done: false };
        assert_eq!(handle(&mut submission, [sent(0, 10), sent(1, 60)]), []);
        assert_eq!(handle(&mut submission, [verdict(1)]), [Action::ReadInputs { count: 1 }]);
        assert_eq!(handle(&mut submission, [sent(2, 50), verdict(2)]), []);
        assert_eq!(handle(&mut submission, [verdict(0)]), [Action::ReadInputs { count: 1 }]);
        assert_eq!(handle(&mut submission, [sent(3, 1000)]), []);
        assert_eq!(handle(&mut submission, [verdict(3)]), [Action::ReadInputs { count: 1 }]);
    }

    #[test]
    fn a_run_is_complete_when_the_last_output_is_in_its_place() {
        let mut submission = Submission::default();
        let welcome = Event::Welcomed { window_units: 9, window_bytes: 9 };
        let unit = UnitNo(0);
        handle(&mut submission, listed(&[1, 2]));
        handle(&mut submission, [welcome, Event::UnitSent { unit, bytes: 1 }, Event::InputFailed { bytes: 2 }]);
        assert_eq!(handle(&mut submission, [Event::ListingEnded]), [Action::CloseJob { units: 1 }]);
        let verdict = Event::VerdictArrived { unit, done: true };
        assert_eq!(handle(&mut submission, [verdict, Event::JobEnded]), []);
        let written = Event::OutputWritten { unit };
        assert_eq!(handle(&mut submission, [written]), [Action::Finish { end: End::Complete }]);
    }

    #[test]
    fn nothing_is_decided_after_the_end() {
        let mut submission = Submission::default();
        let actions = handle(&mut submission, [Event::Interrupted, Event::KingLost, Event::ListingEnded]);
        assert_eq!(actions, [Action::Finish { end: End::Interrupted }]);
    }

    #[test]
    fn every_kind_of_failure_counts_and_one_too_many_ends_the_run() {
        let mut submission = failing("3");
        assert_eq!(handle(&mut submission, [verdict(0, false), Event::InputUnusable]), []);
        let output = [verdict(1, true), Event::OutputFailed { unit: UnitNo(1) }];
        assert_eq!(handle(&mut submission, output), []);
        let written = [verdict(2, true), Event::OutputWritten { unit: UnitNo(2) }];
        assert_eq!(handle(&mut submission, written), []);
        let end = End::TooManyFailed { failed: 4, finished: 5 };
        assert_eq!(handle(&mut submission, [verdict(3, false)]), [Action::Finish { end }]);
        assert_eq!(handle(&mut submission, [verdict(4, false), Event::Interrupted]), []);
    }

    #[test]
    fn a_share_of_failures_is_judged_from_the_hundredth_finished_unit_on() {
        let mut submission = failing("10%");
        assert_eq!(handle(&mut submission, (0..99).map(|unit| verdict(unit, false))), []);
        let end = End::TooManyFailed { failed: 99, finished: 100 };
        let hundredth = [verdict(99, true), Event::OutputWritten { unit: UnitNo(99) }];
        assert_eq!(handle(&mut submission, hundredth), [Action::Finish { end }]);
    }

    #[test]
    fn a_run_ends_when_its_time_is_over_unless_it_is_complete_then() {
        let limits = RunLimits { failures: None, ends_at: Some(Time(100)) };
        let mut submission = Submission::new(limits);
        assert_eq!(submission.next_deadline(), Some(Time(100)));
        let mut actions = Vec::new();
        submission.handle(Time(99), Event::Tick, &mut actions);
        assert_eq!(actions, []);
        submission.handle(Time(100), Event::Tick, &mut actions);
        assert_eq!(actions, [Action::Finish { end: End::OutOfTime }]);
        assert_eq!(submission.next_deadline(), None);
        let mut actions = Vec::new();
        Submission::new(limits).handle(Time(100), Event::ListingEnded, &mut actions);
        assert_eq!(actions, [Action::Finish { end: End::Complete }]);
    }
}
