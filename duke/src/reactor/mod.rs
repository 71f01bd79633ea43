//! The duke's one loop: takes what the king and the barons say, lets the roster decide, and performs its actions. Holds
//! the payload bytes; the roster knows only their sizes.

mod away;
mod provide;

use std::{sync::Arc, time::Duration};

use distwasm_process::{clock::Clock, repeats::Repeats, shutdown::Stop};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    guest::GuestSettings,
    ids::{AttemptId, BaronId, JobId},
    limits::{BROKEN_SLOTS_REST, GOODBYE_WITHIN, REACTOR_BATCH, REACTOR_QUEUE, START_WITHIN, STARTS_GIVEN_UP_MAX},
    time::Time,
    wire::{self, duke_word::Word},
};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    cache::{Cache, Made, Supplies, Supply},
    king_link::{KingOrder, LinkError, Machine, Way},
    peasant::{self, Answer, HeldRoom, PeasantEvent, PeasantNews, Spawner, UnitInput},
    roster::{Action, AnswerId, Event, Outcome, Roster},
};

use away::{Left, Remains};
use provide::Tried;

/// The environment of a duke: its clock, its cache and its machine.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) clock: Clock,
    pub(crate) cache: Cache,
    pub(crate) spawner: Spawner,
    pub(crate) machine: Machine,
    /// How long it keeps its work when the link to the king has broken.
    pub(crate) grace: Duration,
    /// This is the only duke (local mode): if it cannot start peasants, the job fails.
    pub(crate) is_alone: bool,
}

/// See the module's documentation.
pub(crate) struct Reactor {
    environment: Environment,
    way: Way,
    /// When the link broke, if there is no link now and jobs may be left from it.
    away_since: Option<Time>,
    roster: Roster,
    jobs: FxHashMap<JobId, Job>,
    supplies: Supplies,
    /// Inputs of attempts that have not ended.
    inputs: FxHashMap<AttemptId, (JobId, UnitInput)>,
    /// Results and failures of attempts that have ended, until the king says that they are not needed any more.
    left: FxHashMap<AttemptId, Left>,
    barons: FxHashMap<BaronId, peasant::Handle>,
    news: mpsc::Sender<PeasantNews>,
    tried: mpsc::Sender<Tried>,
    tasks: TaskTracker,
    stop: CancellationToken,
    events: Vec<Event>,
    /// Answers of peasants in this batch, until the roster has decided about them.
    answers: FxHashMap<AnswerId, Answer>,
    answers_made: u64,
    /// How peasants ended, for those that ended in this batch.
    endings: FxHashMap<BaronId, String>,
    /// Set when the duke is to leave: the latest time for it.
    drained_at: Option<Time>,
    /// How often in a row, with no peasant ready in between, slots were given back because no peasant could be started;
    /// and when this was last counted.
    given_up: (u32, Time),
    /// Why the only duke gives up.
    hopeless: Option<String>,
    /// Peasants that became ready and have not ended.
    ready: FxHashSet<BaronId>,
    /// Bounds how often the log says that peasants cannot be started.
    repeats: Repeats,
}

struct Job {
    /// A number that its queen made up.
    key: u64,
    /// The program, and then the shared directories.
    needs: Vec<Supply>,
    slot_bytes: u64,
    guest: Arc<GuestSettings>,
    /// The supplies that it needs, once all are there.
    made: Option<Vec<Made>>,
    unfit: Option<Failure>,
    /// How often its compiled program could not be loaded.
    spoiled: u32,
    last_ending: String,
    room: HeldRoom,
    /// The king has not closed it yet.
    open: bool,
}

/// Works for the king until `stop` ends it; no peasant is left afterwards. Returns the reason if the only duke gives
/// up.
pub(crate) async fn serve_king(environment: Environment, way: Way, stop: &Stop) -> Result<(), String> {
    let (news_sender, mut news) = mpsc::channel(REACTOR_QUEUE);
    let (tried_sender, mut tried) = mpsc::channel(REACTOR_QUEUE);
    let mut reactor = Reactor::new(environment, way, news_sender, tried_sender);
    reactor.run(&mut news, &mut tried, stop).await;
    drop((news, tried));
    reactor.dismiss_all().await;
    // Results in transit get the time that is left; goodbye gets a little in any case.
    let mut patience = GOODBYE_WITHIN;
    if let Some(until) = reactor.drained_at.filter(|_| !reactor.left.is_empty()) {
        info!(results = reactor.left.len(), "waiting until the king has all results");
        patience = Duration::from_micros(until.micros_since(reactor.environment.clock.now())).max(GOODBYE_WITHIN);
    }
    tokio::select! {
        () = reactor.way.leave(patience) => {}
        () = async { stop.ends().cancelled().await; sleep(GOODBYE_WITHIN).await } => {}
    }
    reactor.hopeless.map_or(Ok(()), Err)
}

impl Reactor {
    fn new(environment: Environment, way: Way, news: mpsc::Sender<PeasantNews>, tried: mpsc::Sender<Tried>) -> Reactor {
        Reactor {
            environment,
            way,
            away_since: None,
            roster: Roster::default(),
            jobs: FxHashMap::default(),
            supplies: Supplies::default(),
            inputs: FxHashMap::default(),
            left: FxHashMap::default(),
            barons: FxHashMap::default(),
            news,
            tried,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: Vec::new(),
            answers: FxHashMap::default(),
            answers_made: 0,
            endings: FxHashMap::default(),
            drained_at: None,
            given_up: (0, Time::default()),
            hopeless: None,
            ready: FxHashSet::default(),
            repeats: Repeats::default(),
        }
    }

    async fn run(&mut self, news: &mut mpsc::Receiver<PeasantNews>, tried: &mut mpsc::Receiver<Tried>, stop: &Stop) {
        let clock = self.environment.clock;
        let mut batch = Vec::with_capacity(REACTOR_BATCH);
        loop {
            let deadline = self.roster.next_deadline();
            let given_up_at = self.away_since.map(|since| since.after(self.environment.grace));
            tokio::select! {
                // A king in the same process says goodbye when both are to end.
                arrival = self.way.next() => if stop.ends().is_cancelled() { return } else { self.on_arrival(arrival) },
                _ = news.recv_many(&mut batch, REACTOR_BATCH) => batch.drain(..).for_each(|news| self.on_news(news)),
                Some(tried) = tried.recv() => self.on_tried(tried),
                () = clock.sleep_until(deadline) => self.events.push(Event::Tick),
                () = clock.sleep_until(given_up_at) => self.give_up_jobs(),
                () = stop.drains().cancelled(), if self.drained_at.is_none() => {
                    if stop.ends().is_cancelled() {
                        return;
                    }
                    info!("the duke takes no new units, and leaves when its running units are done");
                    self.drained_at = Some(clock.now().after(stop.patience()));
                    self.way.say(Word::Draining(wire::Draining {}));
                }
                () = clock.sleep_until(self.drained_at) => {
                    warn!("not all units were done in time; they run again elsewhere");
                    return;
                }
                () = stop.ends().cancelled() => return,
            }
            self.run_core();
            if self.hopeless.is_some() || (self.drained_at.is_some() && self.is_idle()) {
                return;
            }
        }
    }

    fn run_core(&mut self) {
        let mut actions = Vec::new();
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.roster.handle(self.environment.clock.now(), events, &mut actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
        }
        self.answers.clear();
        self.endings.clear();
    }

    /// Whether all units that the duke took have ended and been reported.
    fn is_idle(&self) -> bool {
        self.roster.is_idle() && self.inputs.is_empty() && self.left.values().all(|left| left.said)
    }

    /// Ends all child processes, and waits until they have ended.
    async fn dismiss_all(&mut self) {
        self.stop.cancel();
        self.barons.values().for_each(peasant::Handle::kill);
        self.tasks.close();
        self.tasks.wait().await;
    }

    // ---- What comes in --------------------------------------------------------------------------------------------

    fn on_order(&mut self, order: KingOrder) -> Result<(), LinkError> {
        match order {
            KingOrder::Welcome => self.on_welcome(),
            KingOrder::LeaseOpened { job, key, digest, slot_bytes, timeout, guest } => {
                let unknown = !self.jobs.contains_key(&job);
                let state = Job {
                    key,
                    needs: Supply::of_job(digest, &guest),
                    slot_bytes,
                    guest: Arc::new(guest),
                    made: None,
                    unfit: None,
                    spoiled: 0,
                    last_ending: String::new(),
                    room: HeldRoom::default(),
                    open: true,
                };
                self.jobs.insert(job, state);
                info!(job = job.0, slot_mb = slot_bytes >> 20, "working for a job");
                self.events.push(Event::LeaseOpened { job, timeout });
                return if unknown { Ok(()) } else { Err(LinkError::Nonsense("a job was opened twice")) };
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
            KingOrder::AttemptArrived { job, attempt, alone, input } => {
                self.open_job(job)?;
                let bytes = input.bytes();
                if self.inputs.insert(attempt, (job, input)).is_some() {
                    return Err(LinkError::Nonsense("an attempt was started twice"));
                }
                self.events.push(Event::AttemptArrived { job, attempt, bytes, alone });
            }
            KingOrder::ResultWanted { attempt } => {
                let left = self.left.get_mut(&attempt).filter(|left| !left.said);
                let left = left.ok_or(LinkError::Nonsense("a result was wanted that was not offered"))?;
                left.say_ended(&self.way);
            }
            KingOrder::Forget { attempts } => self.forget_attempts(attempts),
            KingOrder::BlobArrived { digest, blob } => self.on_blob_arrived(digest, &blob)?,
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
            PeasantEvent::Unfit(failure) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.unfit = Some(failure);
                }
                self.events.push(Event::ProgramUnfit { job });
            }
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
                self.barons.remove(&baron);
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
            Action::Spawn { baron, job } => self.spawn(baron, job),
            Action::Feed { baron, attempt } => {
                if let (Some(handle), Some((_, input))) = (self.barons.get(&baron), self.inputs.get(&attempt)) {
                    handle.feed(input.clone());
                }
            }
            Action::Retire { baron } => {
                if let Some(handle) = self.barons.get_mut(&baron) {
                    handle.retire();
                }
            }
            Action::Kill { baron } => {
                if let Some(handle) = self.barons.get(&baron) {
                    handle.kill();
                }
            }
            Action::Drop { attempt } => drop(self.inputs.remove(&attempt)),
            Action::Report { attempt, outcome, run_us } => self.report(attempt, outcome, run_us),
            Action::TellUnfit { job } => self.tell_unfit(job),
            Action::TellReleased { job, slots } => {
                self.way.say(Word::SlotsReleased(wire::SlotsReleased { job: job.0, slots }));
            }
            Action::TellBroken { job, slots } => {
                let reason = self.jobs.get(&job).map(|job| job.last_ending.clone()).unwrap_or_default();
                self.on_given_up(job, slots, &reason);
                self.way.say(Word::SlotsBroken(wire::SlotsBroken { job: job.0, slots, reason }));
            }
            Action::Forget { job } => self.forget(job),
        }
    }

    /// Slots were given back because no peasant can be started. Slots given back at about the same time count once.
    fn on_given_up(&mut self, job: JobId, slots: u32, reason: &str) {
        let (times, last) = self.given_up;
        let now = self.environment.clock.now();
        if let Some(before) = self.repeats.count(now, reason) {
            let running = self.ready.len();
            warn!(job = job.0, slots, running, before, reason, "no more peasants can be started; retrying");
        }
        // While some peasants run, they do the work with fewer slots.
        if !self.ready.is_empty() {
            return;
        }
        if times == 0 || last.after(BROKEN_SLOTS_REST / 2) <= now {
            self.given_up = (times + 1, now);
        }
        if self.environment.is_alone && self.given_up.0 >= STARTS_GIVEN_UP_MAX {
            self.hopeless = Some(reason.to_owned());
        }
    }

    fn report(&mut self, attempt: AttemptId, outcome: Outcome, run_us: u64) {
        // The attempt may have been forgotten.
        let Some((job, input)) = self.inputs.remove(&attempt) else { return };
        let remains = match outcome {
            Outcome::Returned { suspect } => return self.give_back(attempt, suspect, run_us),
            Outcome::Killed(baron) => {
                let ending = self.endings.get(&baron).map_or("how it ended is not known", String::as_str);
                Remains::Killed(Failure::new(FailureKind::Killed, format!("its peasant died: {ending}")))
            }
            Outcome::TimedOut(timeout) => {
                let message = format!("took longer than the time-out of {timeout:?}");
                Remains::Failure(Failure::new(FailureKind::Timeout, message))
            }
            Outcome::Answered(answer) => match self.answers.remove(&answer) {
                Some(Answer::Result(held)) => Remains::Result(held),
                Some(Answer::Failure(failure)) => Remains::Failure(failure),
                // The answer was put there with the event that leads here.
                None => return self.give_back(attempt, false, run_us),
            },
        };
        self.leave_behind(attempt, Left::new(job, attempt, &input, run_us, remains));
    }

    fn give_back(&self, attempt: AttemptId, suspect: bool, run_us: u64) {
        let outcome = if suspect { wire::Outcome::Suspected } else { wire::Outcome::Returned };
        let mut ended = wire::AttemptEnded { attempt: attempt.0, run_us, ..wire::AttemptEnded::default() };
        ended.set_outcome(outcome);
        self.way.say(Word::AttemptEnded(ended));
    }

    /// Tells the king how an attempt ended, and keeps its result or failure until the king does not need it any more.
    fn leave_behind(&mut self, attempt: AttemptId, mut left: Left) {
        left.say(&self.way);
        self.left.insert(attempt, left);
    }

    fn tell_unfit(&self, job: JobId) {
        let known = self.jobs.get(&job).and_then(|job| job.unfit.clone());
        let failure = known.unwrap_or_else(|| {
            let message = format!("the program was not initialised within {START_WITHIN:?}");
            Failure::new(FailureKind::Program, message)
        });
        let failure = Some(failure.into());
        self.way.say(Word::ProgramUnfit(wire::ProgramUnfit { job: job.0, failure }));
    }
}
