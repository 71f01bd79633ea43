//! The duke's one loop while a link stands: takes what the king and the barons say, has the roster decide, and does
//! what it decided. Holds the payload bytes; the roster knows only their sizes.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use distwasm_proto::{
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{AttemptId, BaronId, JobId},
    limits::{REACTOR_BATCH, REACTOR_QUEUE, START_WITHIN},
    payload::Payload,
    time::Clock,
    wire::{self, duke_word::Word},
};
use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    baron::{self, Answer, HeldResult, HeldRoom, News, What, Work},
    king_link::{KingLink, LinkError, Told},
    programs::{Cache, CompileError},
    roster::{Action, AnswerId, Event, Outcome, Roster},
    spawn::Spawner,
};

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
    programs: HashMap<Digest, Program>,
    /// Inputs of attempts that have not ended.
    inputs: HashMap<AttemptId, (JobId, Payload)>,
    /// Results that wait until the king wants them.
    offered: HashMap<AttemptId, (JobId, u64, HeldResult)>,
    barons: HashMap<BaronId, baron::Handle>,
    news: mpsc::Sender<News>,
    compiled: mpsc::Sender<Compiled>,
    tasks: TaskTracker,
    stop: CancellationToken,
    events: Vec<Event>,
    /// What peasants said in this batch, until the roster has decided what it means.
    answers: HashMap<AnswerId, Answer>,
    answers_made: u64,
    /// How the peasants ended that ended in this batch.
    endings: HashMap<BaronId, String>,
}

struct Job {
    digest: Digest,
    slot_bytes: u64,
    args: Arc<[String]>,
    compiled: Option<PathBuf>,
    unfit: Option<Failure>,
    last_ending: String,
    room: HeldRoom,
    /// The king has not closed it yet.
    open: bool,
}

/// A program that some job needs.
enum Program {
    /// Wanted from the king, or being compiled, for these jobs.
    Coming(BTreeSet<JobId>),
    Ready(PathBuf),
    Unfit(Failure),
}

struct Compiled {
    digest: Digest,
    result: Result<PathBuf, CompileError>,
}

/// Works for the king until the link ends or `shutdown` comes; no peasant is left afterwards.
pub(crate) async fn work(
    household: Household,
    mut link: KingLink,
    shutdown: &CancellationToken,
) -> Result<(), LinkError> {
    let (news_sender, mut news) = mpsc::channel(REACTOR_QUEUE);
    let (compiled_sender, mut compiled) = mpsc::channel(REACTOR_QUEUE);
    let mut reactor = Reactor::new(household, news_sender, compiled_sender);
    let ending = reactor.run(&mut link, &mut news, &mut compiled, shutdown).await;
    drop((news, compiled));
    reactor.dismiss_all().await;
    link.leave().await;
    ending
}

impl Reactor {
    fn new(household: Household, news: mpsc::Sender<News>, compiled: mpsc::Sender<Compiled>) -> Reactor {
        Reactor {
            household,
            roster: Roster::default(),
            jobs: HashMap::new(),
            programs: HashMap::new(),
            inputs: HashMap::new(),
            offered: HashMap::new(),
            barons: HashMap::new(),
            news,
            compiled,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: Vec::new(),
            answers: HashMap::new(),
            answers_made: 0,
            endings: HashMap::new(),
        }
    }

    async fn run(
        &mut self,
        link: &mut KingLink,
        news: &mut mpsc::Receiver<News>,
        compiled: &mut mpsc::Receiver<Compiled>,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        let clock = self.household.clock;
        let mut batch = Vec::with_capacity(REACTOR_BATCH);
        loop {
            let deadline = self.roster.next_deadline().map(|time| clock.instant(time).into());
            tokio::select! {
                orders = link.next() => {
                    for order in orders? {
                        self.on_told(link, order)?;
                    }
                }
                _ = news.recv_many(&mut batch, REACTOR_BATCH) => batch.drain(..).for_each(|news| self.on_news(news)),
                Some(compiled) = compiled.recv() => self.on_compiled(compiled),
                () = async { sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)).await }, if deadline.is_some() => {
                    self.events.push(Event::Tick);
                }
                () = shutdown.cancelled() => return Ok(()),
            }
            self.settle(link);
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
            Told::LeaseOpened { job, digest, slot_bytes, timeout, args } => {
                let unknown = !self.jobs.contains_key(&job);
                let state = Job {
                    digest,
                    slot_bytes,
                    args: args.into(),
                    compiled: None,
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
            Told::ProgramArrived { digest, program } => self.on_program_arrived(digest, program)?,
        }
        Ok(())
    }

    fn open_job(&mut self, job: JobId) -> Result<&mut Job, LinkError> {
        let job = self.jobs.get_mut(&job).filter(|job| job.open);
        job.ok_or(LinkError::Nonsense("a word about a job that is not open"))
    }

    fn on_program_arrived(&mut self, digest: Digest, program: Payload) -> Result<(), LinkError> {
        if !matches!(self.programs.get(&digest), Some(Program::Coming(_))) {
            return Err(LinkError::Nonsense("a program came that was not wanted"));
        }
        if Digest::of(program.chunks().map(AsRef::as_ref)) != digest {
            return Err(LinkError::Nonsense("a program is not the one whose digest came with it"));
        }
        let Household { cache, spawner, .. } = self.household.clone();
        let (compiled, stop) = (self.compiled.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let compile = cache.compile(digest, program, spawner);
            let Some(result) = stop.run_until_cancelled(compile).await else { return };
            // The reactor may have ended.
            let _sent = compiled.send(Compiled { digest, result }).await;
        });
        Ok(())
    }

    fn on_compiled(&mut self, Compiled { digest, result }: Compiled) {
        let program = match result {
            Ok(path) => Program::Ready(path),
            Err(CompileError::Unfit(failure)) => Program::Unfit(failure),
            Err(CompileError::Trouble(why)) => {
                if let Some(Program::Coming(jobs)) = self.programs.remove(&digest) {
                    jobs.into_iter().for_each(|job| self.on_program_broken(job, &why));
                }
                return;
            }
        };
        if let Some(Program::Coming(jobs)) = self.programs.insert(digest, program) {
            jobs.into_iter().for_each(|job| self.on_program_known(job, digest));
        }
    }

    /// Tells the roster how it stands with the program of a job.
    fn on_program_known(&mut self, id: JobId, digest: Digest) {
        // The job may be over.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match self.programs.get(&digest) {
            Some(Program::Ready(path)) => {
                job.compiled = Some(path.clone());
                self.events.push(Event::ProgramReady { job: id });
            }
            Some(Program::Unfit(failure)) => {
                job.unfit = Some(failure.clone());
                self.events.push(Event::ProgramUnfit { job: id });
            }
            Some(Program::Coming(_)) | None => {}
        }
    }

    fn on_program_broken(&mut self, id: JobId, why: &str) {
        // The job may be over.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        why.clone_into(&mut job.last_ending);
        self.events.push(Event::ProgramBroken { job: id });
    }

    fn on_unloadable(&mut self, id: JobId, why: &str) {
        // The job may be over, or another of its peasants have said the same.
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.compiled.is_some()) else { return };
        job.compiled = None;
        let digest = job.digest;
        self.household.cache.remove(digest);
        if matches!(self.programs.get(&digest), Some(Program::Ready(_))) {
            self.programs.remove(&digest);
        }
        self.on_program_broken(id, why);
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
            Action::PrepareProgram { job } => self.prepare_program(link, job),
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

    fn prepare_program(&mut self, link: &KingLink, id: JobId) {
        let Some(digest) = self.jobs.get(&id).map(|job| job.digest) else { return };
        match self.programs.get_mut(&digest) {
            Some(Program::Coming(jobs)) => {
                jobs.insert(id);
                return;
            }
            Some(Program::Ready(_) | Program::Unfit(_)) => {}
            None => match self.household.cache.find(digest) {
                Some(path) => {
                    self.programs.insert(digest, Program::Ready(path));
                }
                None => {
                    self.programs.insert(digest, Program::Coming(BTreeSet::from([id])));
                    link.outbox.push(Word::ProgramWanted(wire::ProgramWanted { digest: digest.to_wire() }));
                    return;
                }
            },
        }
        self.on_program_known(id, digest);
    }

    fn spawn(&mut self, baron: BaronId, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(compiled) = job.compiled.clone() else { return };
        let work = Work { compiled, memory_bytes: job.slot_bytes, args: Arc::clone(&job.args) };
        let spawner = self.household.spawner.clone();
        let (handle, life) = baron::hire(baron, id, work, spawner, job.room.clone(), self.news.clone());
        self.barons.insert(baron, handle);
        self.tasks.spawn(life);
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

    fn forget(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        debug!(job = id.0, "done with a job");
        if self.jobs.values().any(|other| other.digest == job.digest) {
            return;
        }
        // A program that is still on its way is kept in mind until it is compiled.
        if matches!(self.programs.get(&job.digest), Some(Program::Ready(_) | Program::Unfit(_))) {
            self.programs.remove(&job.digest);
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
