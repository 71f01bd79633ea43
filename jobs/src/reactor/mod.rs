//! The queen's one loop: takes messages from the lister, the readers, the king and the writers, has the submission
//! decide, performs its actions, and keeps count for the report.

mod link;
mod threads;

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use distwasm_process::clock::{Clock, time_of_day};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::UnitNo,
    limits::{GOODBYE_WITHIN, HEARD_BYTES, HEARD_TOGETHER, MESSAGES_WAITING},
    time::Time,
};
use distwasm_transport::link::KingAddress;
use rustc_hash::FxHashMap;
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    inputs::{
        Finding, Input,
        readers::{ReadOrder, Sent},
    },
    job_note::JobNote,
    king_link::{self, Incoming, KingNews, LinkError, Verdict},
    outputs::{Output, Written},
    report::{Counts, FailedUnit, LongestInput, PROGRESS_DRAWN_EVERY, Reporter, Tried},
    request::JobRequest,
    run_limits::{FailureLimit, RunLimits},
    submission::{Action, End, Event, Submission},
    work_queue::Giver,
};

use link::{Job, LinkState, Step};
use threads::{Channels, Readers, start_lister, start_readers, start_writers};

/// Where a run reads and writes.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The inputs.
    pub input: PathBuf,
    /// The outputs.
    pub output: PathBuf,
    /// Whether fsync is called for each output before it counts as done.
    pub sync: bool,
    /// Only these inputs, and inputs below these folders; `None` means all inputs.
    pub only: Option<Arc<[PathBuf]>>,
}

/// The terms of a run, which may end it early.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Was at zero when the run began.
    pub clock: Clock,
    /// The limits of the run.
    pub limits: RunLimits,
    /// How long the queen tries to reach a king that went away.
    pub grace: Duration,
    /// The note about the job, if one is kept.
    pub note: Option<&'a JobNote>,
    /// Cancelled when the user wants the run to end.
    pub interrupted: &'a CancellationToken,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ending {
    /// The counts of inputs and bytes.
    pub counts: Counts,
    /// Why it ended before everything was done, if it did.
    pub cut_short: Option<CutShort>,
}

/// Why a run ended before everything was done.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CutShort {
    #[error("interrupted")]
    Interrupted,
    #[error("stopped: {failed} of {finished} finished units failed, which is more than --max-failures {limit} allows")]
    TooManyFailed { failed: u64, finished: u64, limit: FailureLimit },
    #[error("the time for the whole run is over (--time-limit)")]
    OutOfTime,
    #[error("the program cannot run: {0}")]
    Unfit(String),
    #[error(transparent)]
    King(#[from] LinkError),
    #[error("no more outputs can be written: {0}")]
    NoOutputs(String),
    #[error("{0}")]
    LocalKingdom(String),
}

/// See the module's documentation.
struct Reactor<'a> {
    limits: RunLimits,
    clock: Clock,
    submission: Submission,
    reporter: &'a mut dyn Reporter,
    counts: Counts,
    /// Inputs that the submission has not given to the readers.
    listed: VecDeque<Input>,
    /// Inputs of units without a verdict.
    open: FxHashMap<UnitNo, Input>,
    /// The unit that the king named last as the longest running.
    longest: Option<UnitNo>,
    readers: Readers,
    job: Job,
    grace: Duration,
    note: Option<&'a JobNote>,
    listening: JoinSet<()>,
    writers: Giver<Output>,
    /// Outputs that the writers get next.
    outputs: Vec<Output>,
    events: Vec<Event>,
    why: Option<CutShort>,
    end: Option<End>,
}

/// Runs a job to its end. `local_kingdom` ends with a reason when the king or duke of this process fails.
pub async fn run(
    folders: &Folders,
    address: &KingAddress,
    request: &JobRequest,
    reporter: &mut dyn Reporter,
    terms: &Terms<'_>,
    local_kingdom: impl Future<Output = String>,
) -> Ending {
    let mut threads = JoinSet::new();
    let (readers, sent) = start_readers(&mut threads, folders);
    let (writers, written) = start_writers(&mut threads, folders);
    let found = start_lister(&mut threads, folders);
    let (news, told) = mpsc::channel(MESSAGES_WAITING);
    let mut channels = Channels { found, sent, written, told };
    let mut reactor = Reactor {
        limits: terms.limits,
        clock: terms.clock,
        submission: Submission::new(terms.limits),
        reporter,
        counts: Counts::default(),
        listed: VecDeque::new(),
        open: FxHashMap::default(),
        longest: None,
        readers,
        job: Job::default(),
        grace: terms.grace,
        note: terms.note,
        listening: JoinSet::new(),
        writers,
        outputs: Vec::new(),
        events: Vec::new(),
        why: None,
        end: None,
    };
    let link_terms = LinkTerms { address, request, news };
    reactor.run(&mut channels, link_terms, terms.interrupted, local_kingdom).await;
    // Queued words are still sent; inputs that were not yet read are not. If none could be read, the job is still open.
    reactor.job.outgoing = None;
    let (post, mut listening) = (Arc::clone(&reactor.readers.post), std::mem::take(&mut reactor.listening));
    let ending = reactor.finish(channels).await;
    // Readers that are sending stop once the link is closed. On a frozen link that can take a while.
    threads.spawn_blocking(move || post.end());
    // The king closes the link when it has heard of the end. The queen waits for that only for a short time.
    let closed = async { while listening.join_next().await.is_some() {} };
    let _closed = timeout(GOODBYE_WITHIN, closed).await;
    listening.shutdown().await;
    let ended = async { while threads.join_next().await.is_some() {} };
    if timeout(GOODBYE_WITHIN, ended).await.is_err() {
        tracing::debug!("a thread still waits for a link that does not move; leaving without it");
        threads.detach_all();
    }
    ending
}

/// Everything that a run needs to open its link.
struct LinkTerms<'a> {
    address: &'a KingAddress,
    request: &'a JobRequest,
    news: mpsc::Sender<Result<Vec<KingNews>, LinkError>>,
}

/// Passes on the king's words. This task waits for room for results, so that the loop never does.
async fn listen(mut incoming: Incoming, news: mpsc::Sender<Result<Vec<KingNews>, LinkError>>) {
    while let Some(told) = incoming.next().await.transpose() {
        let is_last = told.is_err();
        // The reactor ends before the link when the user interrupts the run.
        if news.send(told).await.is_err() || is_last {
            return;
        }
    }
}

impl Reactor<'_> {
    async fn run(
        &mut self,
        channels: &mut Channels,
        link_terms: LinkTerms<'_>,
        interrupted: &CancellationToken,
        local_kingdom: impl Future<Output = String>,
    ) {
        tokio::pin!(local_kingdom);
        let LinkTerms { address, request, news } = link_terms;
        let mut link = LinkState::Unsought;
        let mut listing = true;
        let mut ticks = interval(PROGRESS_DRAWN_EVERY);
        while self.end.is_none() {
            let deadline = self.submission.next_deadline();
            tokio::select! {
                found = channels.found.recv(), if listing && self.submission.wants_inputs() => match found {
                    Some(found) => self.on_found(found),
                    None => {
                        listing = false;
                        self.counts.all_found = true;
                        self.events.push(Event::ListingEnded);
                    }
                },
                Some(sent) = channels.sent.recv() => self.on_sent(sent),
                Some(written) = channels.written.recv() => self.on_written(written),
                Some(told) = channels.told.recv() => {
                    // Units must be known before the answers to them are handled.
                    while let Ok(sent) = channels.sent.try_recv() {
                        self.on_sent(sent);
                    }
                    match told {
                        Ok(told) => self.on_told(told),
                        Err(error) => self.on_link_lost(error, &mut link),
                    }
                }
                step = link.next() => match step {
                    Step::Opened(found) => {
                        link = LinkState::Standing;
                        self.on_link_opened(*found, &news);
                    }
                    Step::Failed(error) => {
                        link = LinkState::Standing;
                        self.lose_king(error.into());
                    }
                    Step::ReadersStopped => link = self.on_readers_stopped(channels, address, request),
                },
                why = &mut local_kingdom => self.lose_king(CutShort::LocalKingdom(why)),
                () = interrupted.cancelled() => self.events.push(Event::Interrupted),
                () = self.clock.sleep_until(deadline) => self.events.push(Event::Tick),
                _ = ticks.tick() => self.reporter.progress(&self.counts),
            }
            self.run_core();
            // Without anything to do, no king is needed.
            if self.counts.found > 0 && matches!(link, LinkState::Unsought) {
                self.reporter.waits("no king has answered yet");
                link = Self::seek(address, request);
            }
        }
    }

    fn run_core(&mut self) {
        let mut actions = Vec::new();
        for event in std::mem::take(&mut self.events) {
            self.submission.handle(self.clock.now(), event, &mut actions);
        }
        for action in actions {
            match action {
                Action::ReadInputs { count } => self.read_inputs(count),
                Action::SendAgain { units } => self.send_again(&units),
                Action::CloseJob { units } => self.readers.orders.give([ReadOrder::Close(self.job.link, units)]),
                Action::Finish { end } => self.end = Some(end),
            }
        }
        if !self.outputs.is_empty() {
            self.writers.give(self.outputs.drain(..));
        }
    }

    /// Counts outputs that are still being written after the end was decided.
    async fn finish(mut self, mut channels: Channels) -> Ending {
        drop((channels.found, channels.sent, channels.told));
        // The writers end when the last output is in its place. Results that have arrived are kept at any end of a run.
        self.writers.give(self.outputs.drain(..));
        self.writers.close();
        while let Some(written) = channels.written.recv().await {
            self.on_written(written);
        }
        self.reporter.progress(&self.counts);
        let cut_short = match self.end {
            None | Some(End::Complete) => None,
            Some(End::Interrupted) => Some(CutShort::Interrupted),
            Some(End::OutOfTime) => Some(CutShort::OutOfTime),
            Some(End::TooManyFailed { failed, finished }) => {
                self.limits.failures.map(|limit| CutShort::TooManyFailed { failed, finished, limit })
            }
            Some(End::Unfit | End::KingLost | End::NoOutputs) => self.why,
        };
        Ending { counts: self.counts, cut_short }
    }

    // ---- Incoming -------------------------------------------------------------------------------------------------

    fn on_found(&mut self, found: Finding) {
        match found {
            Finding::Inputs(inputs) => {
                self.counts.found += inputs.len() as u64;
                self.events.extend(inputs.iter().map(|input| Event::InputListed { bytes: input.window_bytes() }));
                self.listed.extend(inputs);
            }
            Finding::Done { count, newer } => {
                self.counts.done_before += count;
                self.counts.newer += newer;
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
                    self.events.push(Event::UnitSent { unit, bytes: input.window_bytes() });
                    self.open.insert(unit, input);
                }
            }
            Sent::Unreadable(input, why) => {
                self.events.push(Event::InputFailed { bytes: input.window_bytes() });
                self.fail(input.path, Failure::new(FailureKind::Input, why), Tried::default());
            }
        }
    }

    fn on_told(&mut self, told: Vec<KingNews>) {
        for word in told {
            match word {
                KingNews::Verdict(verdict) => self.on_verdict(verdict),
                KingNews::JobState { slots, dukes, waits_for, longest } => {
                    self.counts.slots = slots;
                    self.job.dukes = dukes;
                    self.reporter.waits(&waits_for);
                    self.on_longest(longest);
                }
                KingNews::Ended(None) => self.events.push(Event::JobEnded),
                KingNews::Ended(Some(failure)) => {
                    self.why = Some(CutShort::Unfit(describe(&failure)));
                    self.events.push(Event::JobFailed);
                }
            }
        }
        self.tell_heard();
    }

    fn on_longest(&mut self, longest: Option<king_link::LongestUnit>) {
        let named = longest.and_then(|longest| {
            // Its verdict may have arrived meanwhile.
            let input = self.open.get(&longest.unit)?;
            let running_us = u64::try_from(longest.running.as_micros()).unwrap_or(u64::MAX);
            let since = Time(self.clock.now().0.saturating_sub(running_us));
            Some((longest.unit, LongestInput { path: input.path.clone(), duke: longest.duke, since }))
        });
        self.longest = named.as_ref().map(|(unit, _)| *unit);
        self.reporter.longest(named.map(|(_, longest)| longest));
    }

    /// Tells the king how many verdicts it may forget: for many units in one message, or at once when the king may be
    /// waiting for it, because few units are left or their results are large.
    fn tell_heard(&mut self) {
        let Job { heard, heard_bytes, outgoing: Some(outgoing), .. } = &mut self.job else { return };
        let few_are_left = self.open.len() <= HEARD_TOGETHER;
        let is_worth_it = few_are_left || *heard >= HEARD_TOGETHER as u64 || *heard_bytes >= HEARD_BYTES;
        if *heard > 0 && is_worth_it {
            outgoing.heard(std::mem::take(heard));
            *heard_bytes = 0;
        }
    }

    fn on_verdict(&mut self, Verdict { unit, outcome, attempts, duke, run_us }: Verdict) {
        let Some(input) = self.open.remove(&unit) else {
            return self.lose_king(LinkError::Nonsense("a verdict on a unit that does not wait for one").into());
        };
        self.events.push(Event::VerdictArrived { unit, done: outcome.is_ok() });
        if self.longest == Some(unit) {
            // The king names the next one soon.
            self.on_longest(None);
        }
        self.job.heard += 1;
        self.job.heard_bytes += outcome.as_ref().map_or(0, |(result, _)| result.bytes());
        match outcome {
            Ok((result, room)) => self.outputs.push(Output { unit, path: input.path, result, room }),
            Err(failure) => self.fail(input.path, failure, Tried { attempts, duke, run_us }),
        }
    }

    fn on_written(&mut self, written: Vec<Written>) {
        for Written { unit, path, outcome } in written {
            match outcome {
                Ok(bytes) => {
                    self.counts.done += 1;
                    self.counts.bytes_written += bytes;
                    self.events.push(Event::OutputWritten { unit });
                }
                Err(error) => {
                    if error.hopeless {
                        self.why = Some(CutShort::NoOutputs(format!("{}: {}", path.display(), error.why)));
                        self.events.push(Event::OutputsImpossible);
                    }
                    self.events.push(Event::OutputFailed { unit });
                    let tried = Tried { attempts: 1, ..Tried::default() };
                    self.fail(path, Failure::new(FailureKind::Output, error.why), tried);
                }
            }
        }
    }

    fn lose_king(&mut self, why: CutShort) {
        self.why.get_or_insert(why);
        self.events.push(Event::KingLost);
    }

    fn fail(&mut self, path: PathBuf, failure: Failure, tried: Tried) {
        self.counts.failed += 1;
        self.reporter.failed(FailedUnit { path, failure, tried, failed_at: time_of_day() });
    }

    // ---- Outgoing -------------------------------------------------------------------------------------------------

    fn read_inputs(&mut self, count: usize) {
        let inputs = self.listed.drain(..count.min(self.listed.len()));
        self.readers.orders.give(inputs.map(ReadOrder::Input));
    }
}

/// Why a program cannot run, with its stderr.
pub fn describe(failure: &Failure) -> String {
    let stderr = String::from_utf8_lossy(&failure.stderr);
    match stderr.trim() {
        "" => failure.message.clone(),
        stderr => format!("{}\nthe program wrote to stderr:\n{stderr}", failure.message),
    }
}
