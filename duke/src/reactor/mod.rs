//! The duke's reactor: takes what happens on the link to the king, at the peasants and in the cache, has the roster
//! decide, and performs its actions. Holds the payload bytes; the roster knows only their sizes.
//!
//! It reads no clock and waits for nothing. Words to the king go to the link's outbox, and what it does to its machine
//! goes through [`Hands`]. The loop that drives it is `run`; the simulation drives it with a clock and hands of its
//! own.

mod arrivals;
mod away;
mod check;
mod hands;
mod link;
mod provide;
mod reports;
mod results;
mod run;
mod streams;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use distwasm_process::repeats::Repeats;
use distwasm_proto::{
    digest::Digest,
    failure::{Failure, FailureKind},
    guest::GuestSettings,
    ids::{AttemptId, BaronId, JobId},
    limits::{BROKEN_SLOTS_REST, GOODBYE_WITHIN, START_WITHIN, STARTS_GIVEN_UP_MAX},
    secret::Mark,
    time::Time,
    wire::{self, DukeWord, duke_word::Word},
};
use distwasm_transport::{payload::Payload, transfer::Outbox};
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::{debug, info, warn};

use crate::{
    border::{KingOrder, LinkError},
    cache::{Made, MakeError, Supplies, Supply},
    peasant::{Answer, Content, HeldRoom, InputNo, PeasantEvent, PeasantNews, UnitInput},
    roster::{Action, AnswerId, Event, Roster},
};

use arrivals::Arrivals;
use away::Left;
use link::Link;

pub use hands::{Hands, Read};
pub use link::Introduction;
pub(crate) use run::run;

/// Something that happened to a duke.
#[derive(Debug)]
pub enum Happening {
    /// A connection to a king stands. The words to it go into this outbox.
    Connected(Outbox<DukeWord>),
    /// The king's orders, in order.
    Ordered(Vec<KingOrder>),
    /// The connection is gone, or could not be used.
    Disconnected(LinkError),
    /// News of peasants, those of each in order.
    Peasants(Vec<PeasantNews>),
    /// A supply was made, or could not be.
    SupplyTried {
        /// The supply.
        supply: Supply,
        /// What came of it.
        result: Result<Made, MakeError>,
    },
    /// Parts of a streamed input were stored.
    InputStored {
        /// Which input.
        input: InputNo,
        /// How many bytes of it are stored in all, or why no more can be.
        stored: Result<u64, String>,
    },
    /// A part of a result was read, or cannot be.
    ResultRead {
        /// What the read is called.
        read: Read,
        /// Its pieces, in order, or why there are none.
        pieces: Result<Vec<Bytes>, String>,
    },
    /// The duke is to leave gracefully: it takes no new units, and the units that it has may take as long as this.
    Draining {
        /// See above.
        patience: Duration,
    },
    /// Time passed; due when [`Reactor::next_deadline`] is reached.
    Tick,
}

/// Why a reactor is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Of a graceful shutdown: all units that the duke took have ended and been reported.
    Drained,
    /// Of a graceful shutdown: it may not take any longer.
    OutOfTime,
    /// The only duke cannot start peasants, for this reason.
    Hopeless(String),
    /// The king does not let this duke in, for this reason, and will not do so later.
    Refused(String),
}

/// How a reactor works.
#[derive(Clone, Debug)]
pub struct ReactorSettings {
    /// What the duke says of itself.
    pub introduction: Introduction,
    /// How long it keeps its work when the link to the king has broken.
    pub grace: Duration,
    /// How many programs it compiles at a time, and how many shared directories it unpacks.
    pub parallel: u32,
    /// This is the only duke (local mode): if it cannot start peasants, the job fails.
    pub is_alone: bool,
    /// How much of one streamed input may be on its way or in memory: at most
    /// [`TRANSFER_WINDOW_BYTES`](distwasm_proto::limits::TRANSFER_WINDOW_BYTES).
    pub window_bytes: u64,
}

/// See the module's documentation.
pub struct Reactor<H> {
    settings: ReactorSettings,
    hands: H,
    now: Time,
    link: Link,
    /// When the link broke, if no king has welcomed the duke since and jobs may be left from it.
    away_since: Option<Time>,
    /// A king has welcomed the duke, and its jobs were not given up since.
    is_in_haste: bool,
    roster: Roster,
    jobs: BTreeMap<JobId, Job>,
    supplies: Supplies,
    /// Blobs that have come, until supplies are made from them.
    blobs: BTreeMap<Digest, Payload>,
    /// Attempts whose inputs are streamed, until these have come.
    arrivals: Arrivals,
    /// Inputs of the other attempts that have not ended.
    inputs: FxHashMap<AttemptId, (JobId, UnitInput)>,
    /// Results and failures of attempts that have ended, until the king says that they are not needed any more.
    left: FxHashMap<AttemptId, Left>,
    events: Vec<Event>,
    /// Answers of peasants in this batch, until the roster has decided about them.
    answers: FxHashMap<AnswerId, Answer>,
    answers_made: u64,
    /// How many reads of results there were.
    reads_made: u64,
    /// How peasants ended, for those that ended in this batch.
    endings: FxHashMap<BaronId, String>,
    /// Set when the duke is to leave: the latest time for it.
    drained_at: Option<Time>,
    /// How often in a row, with no peasant ready in between, slots were given back because no peasant could be started;
    /// and when this was last counted.
    given_up: (u32, Time),
    /// Why the only duke gives up.
    hopeless: Option<String>,
    /// Why the king does not let this duke in.
    refused: Option<String>,
    /// Peasants that became ready and have not ended.
    ready: FxHashSet<BaronId>,
    /// Bounds how often the log says that peasants cannot be started.
    repeats: Repeats,
}

struct Job {
    /// To be named when the duke comes back.
    mark: Mark,
    /// The program, and then the shared directories.
    needs: Vec<Supply>,
    slot_bytes: u64,
    guest: Arc<GuestSettings>,
    /// The supplies that it needs, once all are there.
    made: Option<Vec<Made>>,
    unfit: Option<Failure>,
    /// How often its compiled program could not be loaded.
    spoiled: u32,
    /// Its peasants take open files, because some of its inputs are streamed.
    takes_files: bool,
    /// Results go to files of the duke's own, because one of them was too large for the memory of a peasant.
    keeps_results: bool,
    last_ending: String,
    room: HeldRoom,
    /// The king has not closed it yet.
    open: bool,
}

impl<H: Hands> Reactor<H> {
    /// A reactor without a link, a job or a peasant.
    pub fn new(settings: ReactorSettings, hands: H) -> Reactor<H> {
        let supplies = Supplies::new(usize::try_from(settings.parallel).unwrap_or(usize::MAX));
        let arrivals = Arrivals::new(settings.window_bytes);
        Reactor {
            settings,
            hands,
            now: Time::default(),
            link: Link::default(),
            away_since: None,
            is_in_haste: false,
            roster: Roster::default(),
            jobs: BTreeMap::new(),
            supplies,
            blobs: BTreeMap::new(),
            arrivals,
            inputs: FxHashMap::default(),
            left: FxHashMap::default(),
            events: Vec::new(),
            answers: FxHashMap::default(),
            answers_made: 0,
            reads_made: 0,
            endings: FxHashMap::default(),
            drained_at: None,
            given_up: (0, Time::default()),
            hopeless: None,
            refused: None,
            ready: FxHashSet::default(),
            repeats: Repeats::default(),
        }
    }

    /// Handles what has happened, in this order; nothing of it is left in `happenings`.
    pub fn handle(&mut self, now: Time, happenings: &mut Vec<Happening>) {
        self.now = now;
        happenings.drain(..).for_each(|happening| self.on_happening(happening));
        self.run_core();
        self.go_on_with_arrivals();
        self.go_on_making();
        self.tell_compiling();
    }

    /// When [`Happening::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.roster.next_deadline(), self.given_up_at(), self.drained_at].into_iter().flatten().min()
    }

    /// Why the duke is to [leave](Reactor::leave) now, if it is.
    pub fn ending(&self) -> Option<Ending> {
        if let Some(reason) = &self.hopeless {
            return Some(Ending::Hopeless(reason.clone()));
        }
        if let Some(reason) = &self.refused {
            return Some(Ending::Refused(reason.clone()));
        }
        let until = self.drained_at?;
        if self.is_idle() {
            return Some(Ending::Drained);
        }
        (until <= self.now).then_some(Ending::OutOfTime)
    }

    /// Whether it was told to leave gracefully.
    pub fn is_draining(&self) -> bool {
        self.drained_at.is_some()
    }

    /// Whether words go to a king. If not although the connection stands, the king said what no king may say, and the
    /// connection is to be closed when the outbox is empty.
    pub fn is_linked(&self) -> bool {
        self.link.is_up()
    }

    /// Whether the king is to be reached often, because jobs may wait for this duke.
    pub fn is_in_haste(&self) -> bool {
        self.is_in_haste
    }

    /// Says goodbye to the king, after everything else. Returns how long the king may take to hear all of it.
    pub fn leave(&mut self, now: Time) -> Duration {
        self.link.end("the duke is leaving".to_owned());
        self.leave_outputs();
        // Results in transit get the time that is left; goodbye gets a little in any case.
        let Some(until) = self.drained_at.filter(|_| !self.left.is_empty()) else { return GOODBYE_WITHIN };
        info!(results = self.left.len(), "waiting until the king has all results");
        Duration::from_micros(until.micros_since(now)).max(GOODBYE_WITHIN)
    }

    /// Its hands.
    pub fn hands(&mut self) -> &mut H {
        &mut self.hands
    }

    fn on_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Connected(outbox) => self.on_connected(outbox),
            Happening::Ordered(orders) => self.on_ordered(orders),
            Happening::Disconnected(error) => self.on_lost(&error),
            Happening::Peasants(news) => news.into_iter().for_each(|news| self.on_news(news)),
            Happening::InputStored { input, stored } => self.on_input_stored(input, stored),
            Happening::ResultRead { read, pieces } => self.on_result_read(read, pieces),
            Happening::SupplyTried { supply, result } => self.on_supply_tried(&supply, &result),
            Happening::Draining { patience } => {
                info!("the duke takes no new units, and leaves when its running units are done");
                self.drained_at = Some(self.now.after(patience));
                self.link.say(Word::Draining(wire::Draining {}));
            }
            Happening::Tick => {
                self.events.push(Event::Tick);
                if self.given_up_at().is_some_and(|at| at <= self.now) {
                    self.give_up_jobs();
                }
            }
        }
    }

    /// Has the roster handle the events, and performs its actions, until there are no more events.
    fn run_core(&mut self) {
        let mut actions = Vec::new();
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.roster.handle(self.now, events, &mut actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
        }
        self.answers.clear();
        self.endings.clear();
    }

    /// Whether all units that the duke took have ended and been reported.
    fn is_idle(&self) -> bool {
        self.roster.is_idle()
            && self.inputs.is_empty()
            && self.arrivals.is_idle()
            && self.left.values().all(|left| left.said)
    }

    // ---- What comes in --------------------------------------------------------------------------------------------

    fn on_order(&mut self, order: KingOrder) -> Result<(), LinkError> {
        match order {
            KingOrder::Welcome => self.on_welcome(),
            KingOrder::LeaseOpened { job, mark, digest, slot_bytes, timeout, start_within, guest, fresh } => {
                if self.jobs.contains_key(&job) {
                    return Err(LinkError::Nonsense("a job was opened twice"));
                }
                let state = Job {
                    mark,
                    needs: Supply::of_job(digest, &guest),
                    slot_bytes,
                    guest,
                    made: None,
                    unfit: None,
                    spoiled: 0,
                    takes_files: false,
                    keeps_results: false,
                    last_ending: String::new(),
                    room: HeldRoom::default(),
                    open: true,
                };
                if fresh {
                    self.renew(&state.needs);
                }
                self.jobs.insert(job, state);
                info!(job = job.0, slot_mb = slot_bytes >> 20, "working for a job");
                self.events.push(Event::LeaseOpened { job, timeout, start_within });
            }
            KingOrder::LeaseClosed { job } => self.close_job(job),
            KingOrder::SlotsGranted { job, slots } => {
                self.open_job(job)?;
                self.events.push(Event::SlotsGranted { job, slots });
            }
            KingOrder::SlotsAskedBack { job, slots } => {
                self.open_job(job)?;
                self.events.push(Event::SlotsAskedBack { job, slots });
            }
            KingOrder::SlotsTaken { job, slots } => {
                self.open_job(job)?;
                self.events.push(Event::SlotsTaken { job, slots });
            }
            KingOrder::AttemptArrived { job, attempt, alone, spared, input, in_places } => {
                self.on_attempt_arrived((job, attempt), (alone, spared), input, in_places)?;
            }
            KingOrder::InputPart { attempt, offset, data } => self.on_input_part(attempt, offset, data)?,
            KingOrder::ResultWanted { attempt } => {
                let left = self.left.get_mut(&attempt).filter(|left| !left.said);
                let left = left.filter(|left| !left.is_kept());
                let left = left.ok_or(LinkError::Nonsense("a result was wanted that was not offered"))?;
                left.say_ended(&self.link);
            }
            KingOrder::ResultPartWanted { attempt, transfer, from, until } => {
                self.on_result_part_wanted(attempt, transfer, from..until)?;
            }
            KingOrder::Forget { attempts, unused } => {
                // The king may have taken it out of its outbox: then it never arrives.
                attempts.iter().chain(&unused).for_each(|attempt| self.link.has_arrived(*attempt));
                self.forget_attempts(attempts, false);
                self.forget_attempts(unused, true);
            }
            KingOrder::BlobArrived { digest, blob } => self.on_blob_arrived(digest, blob)?,
        }
        Ok(())
    }

    fn open_job(&mut self, job: JobId) -> Result<&mut Job, LinkError> {
        let job = self.jobs.get_mut(&job).filter(|job| job.open);
        job.ok_or(LinkError::Nonsense("a word about a job that is not open"))
    }

    fn on_news(&mut self, PeasantNews { baron, job, event }: PeasantNews) {
        match event {
            PeasantEvent::Ready => {
                self.given_up.0 = 0;
                self.ready.insert(baron);
                self.events.push(Event::PeasantReady { baron });
            }
            PeasantEvent::Unfit(failure) => self.on_unfit(job, failure),
            PeasantEvent::Unloadable(why) => self.on_unloadable(job, &why),
            PeasantEvent::AnswerBegun { waits } => self.events.push(Event::AnswerBegun { baron, waits }),
            PeasantEvent::Answered(answers) => {
                for said in answers {
                    self.answers_made += 1;
                    let answer = AnswerId(self.answers_made);
                    self.answers.insert(answer, said);
                    self.events.push(Event::Answered { baron, answer });
                }
            }
            PeasantEvent::Gone(ending) => {
                debug!(baron = baron.0, job = job.0, ending, "a peasant ended");
                self.hands.bury(baron);
                self.ready.remove(&baron);
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.last_ending.clone_from(&ending);
                }
                self.endings.insert(baron, ending);
                self.events.push(Event::PeasantGone { baron });
            }
        }
    }

    // ---- What goes out --------------------------------------------------------------------------------------------

    fn perform(&mut self, action: Action) {
        match action {
            Action::PrepareProgram { job } => self.provide(job),
            Action::Spawn { baron, job } => self.hire(baron, job),
            Action::Feed { baron, attempt } => {
                if let Some((job, input)) = self.inputs.get(&attempt) {
                    let keeps = self.jobs.get(job).is_some_and(|job| job.keeps_results);
                    // What comes of a large input may be large, too.
                    let is_kept = !input.is_left && (keeps || matches!(input.content, Content::Streamed { .. }));
                    let input = UnitInput { is_kept, ..input.clone() };
                    self.hands.feed(baron, self.arrivals.file_of(attempt), input);
                }
            }
            Action::Retire { baron } => self.hands.retire(baron),
            Action::Kill { baron } => self.hands.kill(baron),
            Action::Drop { attempt } => {
                self.inputs.remove(&attempt);
                self.release(attempt);
            }
            Action::Report { attempt, outcome, run_us } => self.report(attempt, outcome, run_us),
            Action::TellUnfit { job } => self.tell_unfit(job),
            Action::TellReleased { job, slots } => {
                self.link.say(Word::SlotsReleased(wire::SlotsReleased { job: job.0, slots }));
            }
            Action::TellBroken { job, slots } => {
                let reason = self.jobs.get(&job).map(|job| job.last_ending.clone()).unwrap_or_default();
                self.on_given_up(job, slots, &reason);
                self.link.say(Word::SlotsBroken(wire::SlotsBroken { job: job.0, slots, reason }));
            }
            Action::Forget { job } => self.forget(job),
        }
    }

    /// Slots were given back because no peasant can be started. Slots given back at about the same time count once.
    fn on_given_up(&mut self, job: JobId, slots: u32, reason: &str) {
        let (times, last) = self.given_up;
        if let Some(before) = self.repeats.count(self.now, reason) {
            let running = self.ready.len();
            warn!(job = job.0, slots, running, before, reason, "no more peasants can be started; retrying");
        }
        // While some peasants run, they do the work with fewer slots.
        if !self.ready.is_empty() {
            return;
        }
        if times == 0 || last.after(BROKEN_SLOTS_REST / 2) <= self.now {
            self.given_up = (times + 1, self.now);
        }
        if self.settings.is_alone && self.given_up.0 >= STARTS_GIVEN_UP_MAX {
            self.hopeless = Some(reason.to_owned());
        }
    }

    fn tell_unfit(&self, job: JobId) {
        let known = self.jobs.get(&job).and_then(|job| job.unfit.clone());
        let failure = known.unwrap_or_else(|| {
            let message = format!("the program was not initialised within {START_WITHIN:?}");
            Failure::new(FailureKind::Program, message)
        });
        let failure = Some(failure.into());
        self.link.say(Word::ProgramUnfit(wire::ProgramUnfit { job: job.0, failure }));
    }
}
