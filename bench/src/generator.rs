//! A simulated queen: a link that makes up units and counts verdicts.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use distwasm_process::clock::Clock;
use distwasm_proto::{
    PROTOCOL, VERSION,
    digest::Digest,
    limits::STREAMS_MAX,
    wire::{self, QueenNews, QueenWord, queen_news::News, queen_word::Word},
};
use distwasm_transport::{link::KingAddress, payload::Payload, stream::Incoming, transfer::Outbox};
use tokio::task::JoinSet;

use crate::inputs;

/// A job of made-up units.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where the king is.
    pub king: KingAddress,
    /// The program.
    pub program: Bytes,
    /// The number of units.
    pub units: u64,
    /// If set: stops after this time from the first unit on, with as many units as there was time for.
    pub within: Option<Duration>,
    /// The most units open at a time, even if the king's window is larger.
    pub open_max: u64,
    /// Whether results must be the sums. Otherwise any result that is not empty will do.
    pub are_sums: bool,
}

/// The outcome of a job.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The number of units. Each has a result.
    pub units: u64,
    /// From the first unit to the last verdict, in microseconds.
    pub wall_us: u64,
}

/// Submits the job, and takes all its verdicts.
///
/// # Errors
///
/// When a unit fails, or has two verdicts or a wrong result, or when the link breaks.
pub fn submit(job: &Job) -> Result<Outcome> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(job))
}

/// Has queens open jobs of a project each, and keeps them open until the last is. Each queen opens one job after the
/// other, over as few connections as the king allows. Returns how long each job waited for the king's answer.
///
/// # Errors
///
/// When a job is refused, or a link breaks.
pub fn crowd(king: &KingAddress, queens: usize, jobs_each: usize) -> Result<Vec<Duration>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut opening = JoinSet::new();
        for queen in 0..queens {
            opening.spawn(open_jobs(king.clone(), format!("queen {queen}"), jobs_each));
        }
        let mut answers = Vec::new();
        let mut links = Vec::new();
        while let Some(opened) = opening.join_next().await {
            for (answered, link) in opened?? {
                answers.push(answered);
                links.push(link);
            }
        }
        Ok(answers)
    })
}

/// The two ends of a queen's link.
type Ends = (Outbox<QueenWord>, Incoming<wire::ToQueen>);

async fn open_jobs(address: KingAddress, name: String, jobs: usize) -> Result<Vec<(Duration, Ends)>> {
    let mut king = address.connect().await?;
    let mut opened = Vec::new();
    for number in 0..jobs {
        if number > 0 && number % STREAMS_MAX as usize == 0 {
            // A connection has no more streams.
            king = address.connect().await?;
        }
        let (project, program) = (format!("{name}, job {number}"), Bytes::from_static(b"any"));
        let request = wire::OpenJob { project, ..opening(&program) };
        let (outbox, words) = Outbox::<QueenWord>::new();
        outbox.push_with(Word::OpenJob(Box::new(request)), Payload::from(program));
        outbox.push(Word::Unit(wire::Unit::default()));
        let clock = Clock::start();
        let mut news = king.clone().submit_job(words).await?;
        let first = next(&mut news).await?.into_iter().next().and_then(|word| word.news);
        ensure!(matches!(first, Some(News::Welcome(_))), "no welcome: {first:?}");
        opened.push((Duration::from_micros(clock.now().0), (outbox, news)));
    }
    Ok(opened)
}

async fn run(job: &Job) -> Result<Outcome> {
    let king = job.king.connect().await?;
    let (outbox, words) = Outbox::<QueenWord>::new();
    outbox.push_with(Word::OpenJob(Box::new(opening(&job.program))), Payload::from(job.program.clone()));
    let mut news = king.submit_job(words).await?;
    let mut first = next(&mut news).await?.into_iter();
    let Some(News::Welcome(welcome)) = first.next().and_then(|word| word.news) else { bail!("no welcome") };
    let mut queen = Queen {
        job,
        outbox,
        window: u64::from(welcome.window_units).min(job.open_max),
        clock: Clock::start(),
        sent: 0,
        closed: false,
        seen: Vec::new(),
        heard: 0,
    };
    let mut batch: Vec<QueenNews> = first.collect();
    loop {
        let mut verdicts = 0;
        for word in std::mem::take(&mut batch) {
            match word.news {
                Some(News::Verdict(verdict)) => {
                    queen.check(&verdict)?;
                    verdicts += 1;
                }
                Some(News::JobEnded(ended)) => return queen.leave(ended, news).await,
                Some(News::End(end)) => bail!("the king ended the link: {}", end.reason),
                _ => {}
            }
        }
        queen.go_on(verdicts)?;
        batch = next(&mut news).await?;
    }
}

async fn next(news: &mut Incoming<wire::ToQueen>) -> Result<Vec<QueenNews>> {
    Ok(news.message().await?.context("the link ended without a word")?.news)
}

/// The first word of a queen with this program.
pub(crate) fn opening(program: &Bytes) -> wire::OpenJob {
    wire::OpenJob {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        project: "bench".to_owned(),
        program_digest: Digest::of([program.as_ref()]).to_wire(),
        guest: Some(wire::GuestSettings::default()),
        key: fastrand::u128(..).to_be_bytes().to_vec().into(),
        ..wire::OpenJob::default()
    }
}

struct Queen<'a> {
    job: &'a Job,
    outbox: Outbox<QueenWord>,
    window: u64,
    clock: Clock,
    sent: u64,
    closed: bool,
    /// One bit for each unit that has a verdict.
    seen: Vec<u64>,
    heard: u64,
}

impl Queen<'_> {
    fn check(&mut self, verdict: &wire::Verdict) -> Result<()> {
        let unit = verdict.unit;
        ensure!(unit < self.sent, "a verdict of a unit that was not sent");
        let result = verdict.result.as_ref().filter(|_| verdict.done).with_context(|| {
            let why = verdict.failure.as_ref().map_or("no reason", |failure| failure.message.as_str());
            format!("unit {unit} failed: {why}")
        })?;
        let (at, bit) = (usize::try_from(unit / 64)?, 1 << (unit % 64));
        if self.seen.len() <= at {
            self.seen.resize(at + 1, 0);
        }
        let seen = self.seen.get_mut(at).context("a verdict of a unit beyond the record")?;
        ensure!(*seen & bit == 0, "unit {unit} has two verdicts");
        *seen |= bit;
        let is_right = if self.job.are_sums {
            let (left, right) = inputs::summands(unit);
            format!("{}\n", left + right).as_bytes() == result.data
        } else {
            !result.data.is_empty()
        };
        ensure!(is_right, "the result of unit {unit} is wrong");
        Ok(())
    }

    /// Acknowledges verdicts, and sends as many units as the window allows.
    fn go_on(&mut self, verdicts: u64) -> Result<()> {
        if verdicts > 0 {
            self.outbox.push(Word::VerdictsHeard(wire::VerdictsHeard { verdicts }));
            self.heard += verdicts;
        }
        if self.closed {
            return Ok(());
        }
        let is_over = self.job.within.is_some_and(|within| Duration::from_micros(self.clock.now().0) > within);
        let end = if is_over { self.sent } else { self.job.units.min(self.heard + self.window) };
        let mut text = BytesMut::new();
        for unit in self.sent..end {
            write!(text, "{unit}")?;
            let name = text.split().freeze();
            let (left, right) = inputs::summands(unit);
            writeln!(text, "{left} + {right}")?;
            let content = text.split().freeze();
            self.outbox.push_with(Word::Unit(wire::Unit { unit, name, ..Default::default() }), Payload::from(content));
        }
        self.sent = end;
        if is_over || end == self.job.units {
            self.closed = true;
            self.outbox.push(Word::CloseJob(wire::CloseJob { units: end }));
        }
        Ok(())
    }

    /// Checks the end of the job, and says goodbye.
    async fn leave(mut self, ended: wire::JobEnded, mut news: Incoming<wire::ToQueen>) -> Result<Outcome> {
        let wall_us = self.clock.now().0;
        if let Some(failure) = ended.failure {
            bail!("the job failed: {}", failure.message);
        }
        let units: u64 = self.seen.drain(..).map(|bits| u64::from(bits.count_ones())).sum();
        ensure!(self.closed && units == self.sent, "{units} verdicts for {} units", self.sent);
        self.outbox.push(Word::End(wire::End {
            reason: "the queen is leaving".to_owned(),
            come_back: false,
            refused: false,
        }));
        self.outbox.close();
        while let Ok(Some(_)) = news.message().await {}
        Ok(Outcome { units, wall_us })
    }
}
