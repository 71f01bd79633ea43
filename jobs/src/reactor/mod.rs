//! The reactor of a run, without the world around it: takes what happened, has the submission decide, performs its
//! actions as [`Command`]s, and keeps count for the report.
//!
//! It reads no clock, waits for nothing and starts nothing, so that a simulation can run it. [`crate::run()`] is the loop
//! around it.
//!
//! When the link breaks, the readers are stopped first, so that every unit that has a number is known. Then the queen
//! reconnects, tells the king how many units have numbers and which of them have no verdict, and learns which of those
//! the king knows. The other units are read and sent again, and the readers go on.

mod arriving;
mod ending;
mod results;
mod state;
#[cfg(test)]
mod tests;
mod words;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::UnitNo,
    limits::{HEARD_BYTES, HEARD_TOGETHER, READERS},
    time::Time,
    wire,
};
use distwasm_transport::payload::Payload;

use crate::{
    inputs::{Finding, FirstSeen, Input, ReadOrder, Sent, Tally, numbers::LinkNo},
    king_link::{self, JobEnd, KingNews, LinkError, PartWanted, Verdict, Welcome},
    outputs::{Arrived, Output, Stored, WriteOrder, Written},
    report::{Counts, FailedUnit, Reporter, Tried},
    request::InPlaces,
    run_limits::RunLimits,
    submission::{Action, End, Event, Submission},
};

use arriving::Arriving;

pub use ending::{CutShort, Ending};
pub use words::{Command, Happening};

/// See the module's documentation.
#[derive(Debug)]
pub struct Reactor<R> {
    limits: RunLimits,
    /// For which inputs dukes use the folders of the job.
    in_places: InPlaces,
    submission: Submission,
    reporter: R,
    counts: Counts,
    /// When the happenings that it handles happened.
    now: Time,
    /// Inputs that the submission has not given to the readers.
    listed: VecDeque<Input>,
    /// Inputs of units without a verdict.
    open: BTreeMap<UnitNo, Input>,
    /// Those of which a part was asked for.
    seen: BTreeMap<UnitNo, FirstSeen>,
    /// The unit that the king named last as the longest running.
    longest: Option<UnitNo>,
    job: Job,
    /// Streamed results on their way.
    arriving: Arriving,
    /// Outputs that the writers get next.
    outputs: Vec<Output>,
    /// Events for the submission.
    events: Vec<Event>,
    commands: Vec<Command>,
    why: Option<CutShort>,
    end: Option<End>,
}

/// The job as the king knows it, and the link to the king.
#[derive(Debug, Default)]
struct Job {
    /// Its number at the king; 0 before it has one.
    number: u64,
    /// How many dukes the king had.
    dukes: u32,
    /// Whether a link has been asked for.
    sought: bool,
    /// The link that was opened last; 0 before the first.
    link: LinkNo,
    /// Whether that link stands.
    linked: bool,
    /// Verdicts that arrived over this link and that the king has not been told of, and the bytes of their results.
    heard: u64,
    heard_bytes: u64,
    /// One of these results is large.
    heard_large: bool,
}

impl<R: Reporter> Reactor<R> {
    /// The reactor of a run that begins now, and whose dukes see the folders of these inputs.
    pub fn new(limits: RunLimits, in_places: InPlaces, reporter: R) -> Reactor<R> {
        Reactor {
            limits,
            in_places,
            submission: Submission::new(limits),
            reporter,
            counts: Counts::default(),
            now: Time::default(),
            listed: VecDeque::new(),
            open: BTreeMap::new(),
            seen: BTreeMap::new(),
            longest: None,
            job: Job::default(),
            arriving: Arriving::new(),
            outputs: Vec::new(),
            events: Vec::new(),
            commands: Vec::new(),
            why: None,
            end: None,
        }
    }

    /// Handles what has happened, in its order, and returns what is to be done. Once the run has an end, only outputs
    /// that were still being written count.
    pub fn handle(&mut self, now: Time, happenings: impl IntoIterator<Item = Happening>) -> Vec<Command> {
        self.now = now;
        for happening in happenings {
            self.on_happening(happening);
        }
        self.run_core();
        // Without anything to do, no king is needed.
        if self.counts.found > 0 && !self.job.sought && self.end.is_none() {
            self.job.sought = true;
            self.reporter.waits("no king has answered yet");
            self.commands.push(Command::Seek(None));
        }
        self.go_on_with_results();
        if !self.outputs.is_empty() {
            let outputs = std::mem::take(&mut self.outputs).into_iter();
            self.commands.push(Command::Write(outputs.map(WriteOrder::Output).collect()));
        }
        std::mem::take(&mut self.commands)
    }

    /// When [`Happening::DeadlineReached`] is due, if the run does not end before.
    pub fn next_deadline(&self) -> Option<Time> {
        self.submission.next_deadline()
    }

    /// Whether the lister is to go on.
    pub fn wants_inputs(&self) -> bool {
        self.submission.wants_inputs()
    }

    /// How the run ended, if it did. Outputs may still be on their way to their places.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The counts so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The reporter.
    pub fn reporter(&self) -> &R {
        &self.reporter
    }

    /// The reporter, for what it is to know from others than this reactor.
    pub fn reporter_mut(&mut self) -> &mut R {
        &mut self.reporter
    }

    /// What decides.
    pub fn submission(&self) -> &Submission {
        &self.submission
    }

    /// The run as it ended. Call it when every output is in its place or has failed.
    pub fn finish(self) -> (Ending, R) {
        let cut_short = match self.end {
            None | Some(End::Complete) => None,
            Some(End::Interrupted) => Some(CutShort::Interrupted),
            Some(End::OutOfTime) => Some(CutShort::OutOfTime),
            Some(End::Cancelled) => Some(CutShort::Cancelled),
            Some(End::TooManyFailed { failed, finished }) => {
                self.limits.failures.map(|limit| CutShort::TooManyFailed { failed, finished, limit })
            }
            Some(End::Unfit | End::KingLost | End::NoOutputs) => self.why,
        };
        (Ending { counts: self.counts, cut_short }, self.reporter)
    }

    /// Asserts every invariant, by name, also those of the submission.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        self.submission.check();
        if self.end.is_none() {
            let (_, lacking) = self.submission.lacking();
            assert!(self.open.keys().eq(&lacking), "inputs_of_open_units_are_kept");
            assert!(self.seen.keys().all(|unit| self.open.contains_key(unit)), "parts_are_of_open_units");
            self.arriving.check(|unit| self.open.contains_key(&unit));
            assert!(self.job.linked || self.job.heard == 0, "verdicts_are_heard_over_one_link");
        }
    }

    fn on_happening(&mut self, happening: Happening) {
        if self.end.is_some() && !matches!(happening, Happening::Written(_) | Happening::ProgressDue) {
            return;
        }
        match happening {
            Happening::Found(finding) => self.on_found(finding),
            Happening::ListingEnded => {
                self.counts.all_found = true;
                self.reporter.listed(&self.counts);
                self.events.push(Event::ListingEnded);
            }
            Happening::Sent(sent) => self.on_sent(sent),
            Happening::News(news) => self.on_news(news),
            Happening::LinkLost(error) => self.on_link_lost(error),
            Happening::ReadersStopped => self.on_readers_stopped(),
            Happening::NoLink(error) => self.lose_king(error.into()),
            Happening::Written(written) => self.on_written(written),
            Happening::Stored(Stored { attempt, file, outcome }) => self.arriving.store(attempt, &file, outcome),
            Happening::LocalKingdomFailed(why) => self.lose_king(CutShort::LocalKingdom(why)),
            Happening::Interrupted => self.events.push(Event::Interrupted),
            Happening::DeadlineReached => self.events.push(Event::Tick),
            Happening::ProgressDue => self.reporter.progress(&self.counts),
        }
    }

    /// Lets the submission handle its events, and performs its actions.
    fn run_core(&mut self) {
        let mut actions = Vec::new();
        for event in self.events.drain(..) {
            self.submission.handle(self.now, event, &mut actions);
        }
        for action in actions {
            match action {
                Action::ReadInputs { count } => self.read_inputs(count),
                Action::SendAgain { units } => self.send_again(&units),
                Action::CloseJob { units } => {
                    self.commands.push(Command::Read(vec![ReadOrder::Close(self.job.link, units)]));
                }
                Action::Finish { end } => {
                    self.end = Some(end);
                    self.commands.push(Command::Leave);
                }
            }
        }
    }

    // ---- The link -------------------------------------------------------------------------------------------------

    /// The king accepted the job, or resumed it.
    fn on_welcome(&mut self, welcome: Welcome) {
        let Welcome { job, window_units, window_bytes, input_bytes_max, known } = welcome;
        if self.job.number != job {
            self.commands.push(Command::NoteJob(job));
        }
        self.job.number = job;
        self.job.linked = true;
        self.job.link += 1;
        self.reporter.waits("");
        self.events.push(Event::Welcomed { window_units, window_bytes });
        self.commands.push(Command::OpenReaders(self.job.link, input_bytes_max));
        if self.job.link > 1 {
            self.events.push(Event::CameBack { known });
        }
    }

    /// The link broke: the queen reconnects, if that may help.
    fn on_link_lost(&mut self, error: LinkError) {
        self.commands.push(Command::DropLink);
        self.job.linked = false;
        // The queen's first word on the next link names the missing verdicts, so the king will know of the others.
        (self.job.heard, self.job.heard_bytes, self.job.heard_large) = (0, 0, false);
        if !error.may_pass(true) {
            return self.lose_king(error.into());
        }
        self.events.push(Event::LinkLost);
        self.arriving.lose_link();
        self.reporter.waits(&format!("{error}; coming back"));
        self.on_longest(None);
        self.on_compilation(None);
        self.commands.push(Command::StopReaders);
    }

    /// With the readers stopped, every unit that they numbered is known: the queen connects to the king again.
    fn on_readers_stopped(&mut self) {
        self.run_core();
        if self.end.is_some() {
            return;
        }
        let (sent, lacking) = self.submission.lacking();
        let lacking = lacking.into_iter().map(|unit| unit.0).collect();
        let resumes = wire::Resumption { job: self.job.number, sent, lacking, dukes: self.job.dukes, link: 0 };
        self.commands.push(Command::Seek(Some(resumes)));
    }

    fn lose_king(&mut self, why: CutShort) {
        self.why.get_or_insert(why);
        self.events.push(Event::KingLost);
    }

    // ---- Incoming -------------------------------------------------------------------------------------------------

    fn on_found(&mut self, found: Finding) {
        match found {
            Finding::Inputs(inputs) => {
                self.counts.found += inputs.len() as u64;
                for input in inputs {
                    self.events.push(Event::InputListed { bytes: self.window_bytes(&input) });
                    self.listed.push_back(input);
                }
            }
            Finding::Tally(Tally { done, newer, outdated, left_out, .. }) => {
                self.counts.done_before += done;
                self.counts.newer += newer;
                self.counts.outdated += outdated;
                self.counts.left_out.add(left_out);
            }
            Finding::Gone => self.counts.gone += 1,
            Finding::Skipped { path, why } => self.reporter.skipped(&path, &why),
            Finding::Unusable { path, failure } => {
                self.counts.found += 1;
                self.events.push(Event::InputUnusable);
                self.fail(path, failure, Tried::default());
            }
        }
    }

    fn on_sent(&mut self, sent: Sent) {
        match sent {
            Sent::Units(units) => {
                for (unit, input) in units {
                    self.counts.bytes_sent += input.bytes;
                    self.events.push(Event::UnitSent { unit, bytes: self.window_bytes(&input) });
                    self.open.insert(unit, input);
                }
            }
            Sent::Unreadable(input, why) => {
                self.events.push(Event::InputFailed { bytes: self.window_bytes(&input) });
                self.fail(input.path, Failure::new(FailureKind::Input, why), Tried::default());
            }
        }
    }

    fn on_news(&mut self, news: Vec<KingNews>) {
        for item in news {
            match item {
                KingNews::Welcome(welcome) => self.on_welcome(welcome),
                KingNews::Verdict(verdict) => self.on_verdict(verdict),
                KingNews::JobState(state) => self.on_job_state(state),
                KingNews::PartWanted(part) => self.on_part_wanted(part),
                KingNews::OutputOffered(offered) => self.on_output_offered(offered),
                KingNews::OutputPart { transfer, offset, data } => {
                    if self.arriving.take(transfer, offset, data).is_err() {
                        self.lose_king(LinkError::Nonsense("a part of a result that was not asked for").into());
                    }
                }
                KingNews::JobEnded(JobEnd::Complete) => self.events.push(Event::JobEnded),
                KingNews::JobEnded(JobEnd::Cancelled) => self.events.push(Event::JobCancelled),
                KingNews::JobEnded(JobEnd::Unfit(failure)) => {
                    self.why = Some(CutShort::unfit(&failure));
                    self.events.push(Event::JobFailed);
                }
            }
        }
        self.tell_heard();
    }

    /// The king asks for a part of a streamed input.
    fn on_part_wanted(&mut self, part: PartWanted) {
        let input =
            self.open.get(&part.unit).filter(|input| self.in_places.streams(input) && part.until <= input.bytes);
        let Some(input) = input.cloned() else {
            return self.lose_king(LinkError::Nonsense("it asks for a part of an input that has none").into());
        };
        let seen = self.seen.entry(part.unit).or_default().clone();
        self.commands.push(Command::Read(vec![ReadOrder::Part(self.job.link, part, input, seen)]));
    }

    fn on_verdict(&mut self, Verdict { unit, outcome, stored, room, attempts, duke, run_us }: Verdict) {
        let Some(input) = self.open.remove(&unit) else {
            return self.lose_king(LinkError::Nonsense("a verdict on a unit that does not wait for one").into());
        };
        self.seen.remove(&unit);
        let Ok(arrived) = self.arriving.conclude(unit, stored.filter(|_| outcome.is_ok())) else {
            return self.lose_king(LinkError::Nonsense("a result that has not come as a whole").into());
        };
        self.events.push(Event::VerdictArrived { unit, done: outcome.is_ok() });
        if self.longest == Some(unit) {
            // The king names the next one soon.
            self.on_longest(None);
        }
        self.job.heard += 1;
        let bytes = outcome.as_ref().map_or_else(Failure::bytes, Payload::bytes);
        self.job.heard_bytes += bytes;
        // Its duke keeps a large result, and has no room for others meanwhile.
        self.job.heard_large |= wire::is_offered(bytes) || arrived.is_some();
        match outcome {
            Ok(result) => {
                let result = arrived.unwrap_or(Arrived::Whole(result));
                self.outputs.push(Output { unit, input, result, room });
            }
            Err(failure) => {
                if failure.kind == FailureKind::NoOutputs {
                    self.lose_outputs(&input.path, &failure.message);
                }
                self.fail(input.path, failure, Tried { attempts, duke, run_us });
            }
        }
    }

    /// No output can be written any more.
    fn lose_outputs(&mut self, path: &Path, why: &str) {
        self.why = Some(CutShort::NoOutputs(format!("{}: {why}", path.display())));
        self.events.push(Event::OutputsImpossible);
    }

    /// Tells the king how many verdicts it may forget: for many units in one message, or at once when the king may be
    /// waiting for it, because few units are left or their results are large.
    fn tell_heard(&mut self) {
        let Job { heard, heard_bytes, heard_large, linked: true, .. } = &mut self.job else { return };
        let few_are_left = self.open.len() <= HEARD_TOGETHER;
        let is_worth_it =
            few_are_left || *heard_large || *heard >= HEARD_TOGETHER as u64 || *heard_bytes >= HEARD_BYTES;
        if *heard > 0 && is_worth_it {
            (*heard_bytes, *heard_large) = (0, false);
            self.commands.push(Command::Say(king_link::words::verdicts_heard(std::mem::take(heard))));
        }
    }

    fn on_written(&mut self, written: Vec<Written>) {
        for Written { unit, path, outcome } in written {
            match outcome {
                Ok(bytes) => {
                    self.counts.done += 1;
                    self.counts.bytes_written += bytes;
                    self.counts.empty += u64::from(bytes == 0);
                    self.events.push(Event::OutputWritten { unit });
                }
                Err(error) => {
                    if error.hopeless {
                        self.lose_outputs(&path, &error.why);
                    }
                    self.events.push(Event::OutputFailed { unit });
                    let tried = Tried { attempts: 1, ..Tried::default() };
                    self.fail(path, Failure::new(FailureKind::Output, error.why), tried);
                }
            }
        }
    }

    /// The bytes that an input takes in the window.
    fn window_bytes(&self, input: &Input) -> u64 {
        input.name().len() as u64 + if self.in_places.tells_size(input) { size_of::<u64>() as u64 } else { input.bytes }
    }

    fn fail(&mut self, path: PathBuf, failure: Failure, tried: Tried) {
        self.counts.failed += 1;
        self.reporter.failed(FailedUnit { path, failure, tried });
    }

    // ---- Outgoing -------------------------------------------------------------------------------------------------

    fn read_inputs(&mut self, count: usize) {
        let inputs = self.listed.drain(..count.min(self.listed.len()));
        self.commands.push(Command::Read(inputs.map(ReadOrder::Input).collect()));
    }

    /// Has the readers send units again, each reader a share of them.
    fn send_again(&mut self, units: &[UnitNo]) {
        let share = units.len().div_ceil(READERS).max(1);
        for units in units.chunks(share) {
            let inputs = units.iter().filter_map(|unit| Some((*unit, self.open.get(unit)?.clone()))).collect();
            self.commands.push(Command::Read(vec![ReadOrder::Again(self.job.link, inputs)]));
        }
    }
}
