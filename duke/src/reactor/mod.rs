//! The duke's one loop while a link stands: takes what the king and the barons say, has the roster decide, and does
//! what it decided. Holds the payload bytes; the roster knows only their sizes.

mod provide;

use std::{collections::HashMap, sync::Arc, time::Duration};

use distwasm_proto::{
    failure::{Failure, FailureKind},
    guest::GuestSettings,
    ids::{AttemptId, BaronId, JobId},
    limits::{GOODBYE_WITHIN, REACTOR_BATCH, REACTOR_QUEUE, START_WITHIN},
    payload::Payload,
    stop::Stop,
    time::{Clock, Time},
    wire::{self, duke_word::Word},
};
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    baron::{self, Answer, HeldResult, HeldRoom, News, What},
    cache::Cache,
    king_link::{KingLink, LinkError, Told},
    roster::{Action, AnswerId, Event, Outcome, Roster},
    spawn::Spawner,
    supplies::{Made, Supplies, Supply},
    work::Input,
};

use provide::{Tried, needs};

/// What outlives a link.
#[derive(Clone, Debug)]
pub(crate) struct Household {
    pub(crate) clock: Clock,
    pub(crate) cache: Cache,
    pub(crate) spawner: Spawner,
}

/// See the module's documentation.
pub(crate) struct Reactor {
    household: Household,
    roster: Roster,
    jobs: HashMap<JobId, Job>,
    supplies: Supplies,
    /// Inputs of attempts that have not ended.
    inputs: HashMap<AttemptId, (JobId, Input)>,
    /// Results that wait until the king wants them.
    offered: HashMap<AttemptId, (JobId, u64, HeldResult)>,
    barons: HashMap<BaronId, baron::Handle>,
    news: mpsc::Sender<News>,
    tried: mpsc::Sender<Tried>,
    tasks: TaskTracker,
    stop: CancellationToken,
    events: Vec<Event>,
    /// What peasants said in this batch, until the roster has decided what it means.
    answers: HashMap<AnswerId, Answer>,
    answers_made: u64,
    /// How the peasants ended that ended in this batch.
    endings: HashMap<BaronId, String>,
    /// The duke is to leave: by then at the latest.
    drained_at: Option<Time>,
}

struct Job {
    /// The program, and then the shared directories.
    needs: Vec<Supply>,
    slot_bytes: u64,
    guest: Arc<GuestSettings>,
    /// All that it needs, when it is there.
    made: Option<Vec<Made>>,
    unfit: Option<Failure>,
    last_ending: String,
    room: HeldRoom,
    /// The king has not closed it yet.
    open: bool,
}

/// Works for the king until the link ends or `stop` says so; no peasant is left afterwards.
pub(crate) async fn work(household: Household, mut link: KingLink, stop: &Stop) -> Result<(), LinkError> {
    let (news_sender, mut news) = mpsc::channel(REACTOR_QUEUE);
    let (tried_sender, mut tried) = mpsc::channel(REACTOR_QUEUE);
    let mut reactor = Reactor::new(household, news_sender, tried_sender);
    let ending = reactor.run(&mut link, &mut news, &mut tried, stop).await;
    drop((news, tried));
    reactor.dismiss_all().await;
    // Results that are on their way get the time that is left; goodbye gets a little in any case.
    let clock = reactor.household.clock;
    let left = reactor.drained_at.map_or(0, |at| at.micros_since(clock.now()));
    let patience = Duration::from_micros(left).max(GOODBYE_WITHIN);
    tokio::select! {
        () = link.leave(if ending.is_ok() { patience } else { GOODBYE_WITHIN }) => {}
        () = async { stop.ends().cancelled().await; sleep(GOODBYE_WITHIN).await } => {}
    }
    ending
}

impl Reactor {
    fn new(household: Household, news: mpsc::Sender<News>, tried: mpsc::Sender<Tried>) -> Reactor {
        Reactor {
            household,
            roster: Roster::default(),
            jobs: HashMap::new(),
            supplies: Supplies::default(),
            inputs: HashMap::new(),
            offered: HashMap::new(),
            barons: HashMap::new(),
            news,
            tried,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: Vec::new(),
            answers: HashMap::new(),
            answers_made: 0,
            endings: HashMap::new(),
            drained_at: None,
        }
    }

    async fn run(
        &mut self,
        link: &mut KingLink,
        news: &mut mpsc::Receiver<News>,
        tried: &mut mpsc::Receiver<Tried>,
        stop: &Stop,
    ) -> Result<(), LinkError> {
        let clock = self.household.clock;
        let mut batch = Vec::with_capacity(REACTOR_BATCH);
        loop {
            let deadline = self.roster.next_deadline().map(|time| clock.instant(time).into());
            let drained_at = self.drained_at.map(|time| clock.instant(time).into());
            tokio::select! {
                orders = link.next() => {
                    for order in orders? {
                        self.on_told(link, order)?;
                    }
                }
                _ = news.recv_many(&mut batch, REACTOR_BATCH) => batch.drain(..).for_each(|news| self.on_news(news)),
                Some(tried) = tried.recv() => self.on_tried(tried),
                () = async { sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)).await }, if deadline.is_some() => {
                    self.events.push(Event::Tick);
                }
                () = stop.drains().cancelled(), if self.drained_at.is_none() => {
                    if stop.ends().is_cancelled() {
                        return Ok(());
                    }
                    info!("the duke takes nothing new, and leaves when what runs is done");
                    self.drained_at = Some(clock.now().after(stop.patience()));
                    link.outbox.push(Word::Draining(wire::Draining {}));
                }
                () = async { sleep_until(drained_at.unwrap_or_else(tokio::time::Instant::now)).await }, if drained_at.is_some() => {
                    warn!("not all was done in time; it runs again elsewhere");
                    return Ok(());
                }
                () = stop.ends().cancelled() => return Ok(()),
            }
            self.settle(link);
            if self.drained_at.is_some() && self.is_idle() {
                return Ok(());
            }
        }
    }

    fn settle(&mut self, link: &KingLink) {
        let mut actions = Vec::new();
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.roster.handle(self.household.clock.now(), events, &mut actions);
            for action in actions.drain(..) {
                self.perform(link, action);
            }
        }
        self.answers.clear();
        self.endings.clear();
    }

    /// Whether everything that was taken was handed over.
    fn is_idle(&self) -> bool {
        self.roster.is_idle() && self.inputs.is_empty() && self.offered.is_empty()
    }

    /// Ends all children, and waits until they have ended.
    async fn dismiss_all(&mut self) {
        self.stop.cancel();
        self.barons.values().for_each(baron::Handle::kill);
        self.tasks.close();
        self.tasks.wait().await;
    }

    // ---- What comes in --------------------------------------------------------------------------------------------

    fn on_told(&mut self, link: &KingLink, told: Told) -> Result<(), LinkError> {
        match told {
            Told::LeaseOpened { job, digest, slot_bytes, timeout, guest } => {
                let unknown = !self.jobs.contains_key(&job);
                let state = Job {
                    needs: needs(digest, &guest),
                    slot_bytes,
                    guest: Arc::new(guest),
                    made: None,
                    unfit: None,
                    last_ending: String::new(),
                    room: HeldRoom::default(),
                    open: true,
                };
                self.jobs.insert(job, state);
                info!(job = job.0, slot_mb = slot_bytes >> 20, "working for a job");
                self.events.push(Event::LeaseOpened { job, timeout });
                return if unknown { Ok(()) } else { Err(LinkError::Nonsense("a job was opened twice")) };
            }
            Told::LeaseClosed { job } => {
                self.open_job(job)?.open = false;
                self.supplies.cancel(job);
                self.inputs.retain(|_, (of, _)| *of != job);
                self.offered.retain(|_, (of, _, _)| *of != job);
                self.events.push(Event::LeaseClosed { job });
            }
            Told::SlotsGranted { job, slots } => {
                self.open_job(job)?;
                self.events.push(Event::SlotsGranted { job, slots });
            }
            Told::SlotsAskedBack { job, slots } => {
                self.open_job(job)?;
                self.events.push(Event::SlotsAskedBack { job, slots });
            }
            Told::AttemptArrived { job, attempt, alone, input } => {
                self.open_job(job)?;
                let bytes = input.bytes();
                if self.inputs.insert(attempt, (job, input)).is_some() {
                    return Err(LinkError::Nonsense("an attempt was started twice"));
                }
                self.events.push(Event::AttemptArrived { job, attempt, bytes, alone });
            }
            Told::ResultWanted { attempt } => {
                let offer = self.offered.remove(&attempt);
                let (_, run_us, held) = offer.ok_or(LinkError::Nonsense("a result was wanted that was not offered"))?;
                say_ended(link, attempt, wire::Outcome::Done, run_us, None, held.result);
            }
            Told::BlobArrived { digest, blob } => self.on_blob_arrived(digest, &blob)?,
        }
        Ok(())
    }

    fn open_job(&mut self, job: JobId) -> Result<&mut Job, LinkError> {
        let job = self.jobs.get_mut(&job).filter(|job| job.open);
        job.ok_or(LinkError::Nonsense("a word about a job that is not open"))
    }

    fn on_news(&mut self, News { baron, job, what }: News) {
        match what {
            What::Ready => self.events.push(Event::PeasantReady { baron }),
            What::Unfit(failure) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.unfit = Some(failure);
                }
                self.events.push(Event::ProgramUnfit { job });
            }
            What::Unloadable(why) => self.on_unloadable(job, &why),
            What::AnswerBegun => self.events.push(Event::AnswerBegun { baron }),
            What::Answered(answers) => {
                for said in answers {
                    self.answers_made += 1;
                    let answer = AnswerId(self.answers_made);
                    let (done, bytes) = match &said {
                        Answer::Result(held) => (true, held.result.bytes()),
                        Answer::Failure(_) => (false, 0),
                    };
                    self.answers.insert(answer, said);
                    self.events.push(Event::Answered { baron, answer, done, bytes });
                }
            }
            What::Gone(ending) => {
                debug!(baron = baron.0, job = job.0, ending, "a peasant ended");
                self.barons.remove(&baron);
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.last_ending.clone_from(&ending);
                }
                self.endings.insert(baron, ending);
                self.events.push(Event::PeasantGone { baron });
            }
        }
    }

    // ---- What goes out --------------------------------------------------------------------------------------------

    fn perform(&mut self, link: &KingLink, action: Action) {
        match action {
            Action::PrepareProgram { job } => self.provide(link, job),
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
            Action::Report { attempt, outcome, run_us } => self.report(link, attempt, outcome, run_us),
            Action::Offer { attempt, answer, bytes, run_us } => {
                let Some((job, _)) = self.inputs.remove(&attempt) else { return };
                if let Some(Answer::Result(held)) = self.answers.remove(&answer) {
                    self.offered.insert(attempt, (job, run_us, held));
                    let offer = wire::ResultOffered { attempt: attempt.0, result_bytes: bytes, run_us };
                    link.outbox.push(Word::ResultOffered(offer));
                }
            }
            Action::TellUnfit { job } => {
                let known = self.jobs.get(&job).and_then(|job| job.unfit.clone());
                let failure = known.unwrap_or_else(|| {
                    let message = format!("the program was not initialised within {START_WITHIN:?}");
                    Failure::new(FailureKind::Program, message)
                });
                let failure = Some(failure.into());
                link.outbox.push(Word::ProgramUnfit(wire::ProgramUnfit { job: job.0, failure }));
            }
            Action::TellReleased { job, slots } => {
                link.outbox.push(Word::SlotsReleased(wire::SlotsReleased { job: job.0, slots }));
            }
            Action::TellBroken { job, slots } => {
                let reason = self.jobs.get(&job).map(|job| job.last_ending.clone()).unwrap_or_default();
                warn!(job = job.0, slots, reason, "no peasant can be started");
                link.outbox.push(Word::SlotsBroken(wire::SlotsBroken { job: job.0, slots, reason }));
            }
            Action::Forget { job } => self.forget(job),
        }
    }

    fn report(&mut self, link: &KingLink, attempt: AttemptId, outcome: Outcome, run_us: u64) {
        self.inputs.remove(&attempt);
        let answer = match outcome {
            Outcome::Returned { suspect } => {
                let outcome = if suspect { wire::Outcome::Suspected } else { wire::Outcome::Returned };
                return say_ended(link, attempt, outcome, run_us, None, Payload::default());
            }
            Outcome::Killed(baron) => {
                let ending = self.endings.get(&baron).map_or("nobody saw how", String::as_str);
                let failure = Failure::new(FailureKind::Killed, format!("its peasant died: {ending}"));
                return say_ended(link, attempt, wire::Outcome::Killed, run_us, Some(failure), Payload::default());
            }
            Outcome::TimedOut(timeout) => {
                let message = format!("took longer than the time-out of {timeout:?}");
                Some(Answer::Failure(Failure::new(FailureKind::Timeout, message)))
            }
            Outcome::Answered(answer) => self.answers.remove(&answer),
        };
        match answer {
            Some(Answer::Result(held)) => say_ended(link, attempt, wire::Outcome::Done, run_us, None, held.result),
            Some(Answer::Failure(failure)) => {
                say_ended(link, attempt, wire::Outcome::Failed, run_us, Some(failure), Payload::default());
            }
            // The answer was put there with the event that leads here.
            None => say_ended(link, attempt, wire::Outcome::Returned, run_us, None, Payload::default()),
        }
    }
}

fn say_ended(
    link: &KingLink,
    attempt: AttemptId,
    outcome: wire::Outcome,
    run_us: u64,
    failure: Option<Failure>,
    result: Payload,
) {
    let mut ended = wire::AttemptEnded { attempt: attempt.0, run_us, ..wire::AttemptEnded::default() };
    ended.set_outcome(outcome);
    ended.failure = failure.map(wire::Failure::from);
    link.outbox.push_with(Word::AttemptEnded(ended), result);
}
