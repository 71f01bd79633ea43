//! Fixed work for the pure parts. It is measured in instructions, which do not depend on what else the machine does.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use distwasm_duke::roster::{self, AnswerId, Roster};
use distwasm_jobs::submission::{self, Submission};
use distwasm_king::scheduler::{self, JobSpec, Outcome, Resumption, Scheduler};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    limits::JOBS_MAX,
    pipe::{self, Description, Header},
    secret::{Mark, Purpose, Secret},
    time::Time,
    wire::{self, FromQueen, QueenWord, queen_word::Word},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Assembler, Outbox},
};
use prost::Message;
use tokio_stream::Stream;

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The king's scheduler, with ten dukes of four slots.
    Scheduler,
    /// The king's scheduler, with 1,024 jobs of one project each, of which only a few get a slot.
    Jobs,
    /// The duke's roster, with four peasants.
    Roster,
    /// The queen's submission.
    Submission,
    /// Encoding of units as messages, and as frames in a pipe.
    Frames,
}

/// Units of each part.
const UNITS: u64 = 20_000;
/// Units in one batch of events.
const BATCH: usize = 64;
const JOB: JobId = JobId(1);

/// The mark of every job.
fn mark() -> Mark {
    Secret::new([1; 16]).mark(Purpose::Job)
}

/// Runs the work of a part. Returns how many units it handled.
///
/// # Panics
///
/// When the work was not completed.
pub fn work(part: Part) -> u64 {
    let done = match part {
        Part::Scheduler => schedule(),
        Part::Jobs => open_jobs(),
        Part::Roster => enrol(),
        Part::Submission => submit(),
        Part::Frames => frame(),
    };
    assert_eq!(done, UNITS, "{part:?}");
    done
}

fn schedule() -> u64 {
    let (mut scheduler, mut actions) = (Scheduler::default(), Vec::new());
    let joined = |duke| {
        let (labels, holds) = (BTreeMap::new(), Vec::new());
        scheduler::Event::DukeJoined { duke: DukeId(duke), cpus: 4, ram_bytes: 1 << 30, labels, was: None, holds }
    };
    let mut events: Vec<_> = (1..=10).map(joined).collect();
    let resumes = Resumption::default();
    events.push(scheduler::Event::JobOpened { job: JOB, mark: mark(), spec: JobSpec::default(), resumes });
    let (mut added, mut unheard, mut done, mut now_us) = (0, 0, 0, 0);
    let mut running: VecDeque<(DukeId, AttemptId)> = VecDeque::new();
    let mut arrived: BTreeMap<DukeId, AttemptId> = BTreeMap::new();
    loop {
        now_us += 100;
        scheduler.handle(Time(now_us), std::mem::take(&mut events), &mut actions);
        for action in actions.drain(..) {
            match action {
                scheduler::Action::StartAttempt { duke, attempt, .. } => {
                    running.push_back((duke, attempt));
                    arrived.insert(duke, attempt);
                }
                scheduler::Action::Report { .. } => unheard += 1,
                scheduler::Action::EndJob { .. } => return done,
                _ => {}
            }
        }
        let arrivals = std::mem::take(&mut arrived).into_iter();
        events.extend(arrivals.map(|(duke, attempt)| scheduler::Event::InputsArrived { duke, attempt }));
        let more = (added..UNITS).take(BATCH).map(UnitNo);
        events.extend(more.map(|unit| scheduler::Event::UnitAdded { job: JOB, unit, bytes: 15 }));
        if added < UNITS && added + BATCH as u64 >= UNITS {
            events.push(scheduler::Event::JobClosed { job: JOB });
        }
        added = UNITS.min(added + BATCH as u64);
        let ended = running.drain(..running.len().min(BATCH)).map(|(duke, attempt)| {
            let outcome = Outcome::Done { bytes: 10 };
            scheduler::Event::AttemptEnded { duke, attempt, outcome, run_us: 10 }
        });
        events.extend(ended);
        if unheard > 0 {
            events.push(scheduler::Event::VerdictsHeard { job: JOB, verdicts: unheard, bytes: 10 * unheard });
            done += std::mem::take(&mut unheard);
        }
    }
}

/// Opens as many jobs as allowed, each in a batch of its own, and gives each its units.
fn open_jobs() -> u64 {
    let (mut scheduler, mut actions) = (Scheduler::default(), Vec::new());
    let (labels, holds) = (BTreeMap::new(), Vec::new());
    let joined =
        scheduler::Event::DukeJoined { duke: DukeId(1), cpus: 2, ram_bytes: 1 << 30, labels, was: None, holds };
    scheduler.handle(Time(0), [joined], &mut actions);
    let jobs = JOBS_MAX as u64;
    for number in 0..jobs {
        let job = JobId(number + 1);
        let spec = JobSpec { project: format!("project {number}"), ..JobSpec::default() };
        let opened = scheduler::Event::JobOpened { job, mark: mark(), spec, resumes: Resumption::default() };
        let units = (0..UNITS / jobs + u64::from(number < UNITS % jobs)).map(UnitNo);
        let added = units.map(|unit| scheduler::Event::UnitAdded { job, unit, bytes: 15 });
        scheduler.handle(Time(number * 100), std::iter::once(opened).chain(added), &mut actions);
    }
    let census = scheduler.census();
    census.units_waiting + census.units_running
}

fn enrol() -> u64 {
    let (mut roster, mut actions) = (Roster::default(), Vec::new());
    let mut events = vec![
        roster::Event::LeaseOpened { job: JOB, timeout: None, start_within: Duration::from_secs(60) },
        roster::Event::SlotsGranted { job: JOB, slots: 4 },
        roster::Event::ProgramReady { job: JOB },
    ];
    let mut pipes: BTreeMap<BaronId, u64> = BTreeMap::new();
    let (mut arrived, mut answers, mut done, mut now_us) = (0, 0, 0, 0);
    while done < UNITS {
        now_us += 100;
        roster.handle(Time(now_us), std::mem::take(&mut events), &mut actions);
        for action in actions.drain(..) {
            match action {
                roster::Action::Spawn { baron, .. } => events.push(roster::Event::PeasantReady { baron }),
                roster::Action::Feed { baron, .. } => *pipes.entry(baron).or_default() += 1,
                roster::Action::Report { .. } => done += 1,
                _ => {}
            }
        }
        let more = (arrived..UNITS).take(BATCH).map(AttemptId);
        events.extend(more.map(|attempt| {
            let (job, bytes, alone) = (JOB, 15, false);
            roster::Event::AttemptArrived { job, attempt, bytes, alone, spared: Duration::ZERO }
        }));
        arrived = UNITS.min(arrived + BATCH as u64);
        for (baron, units) in &mut pipes {
            for _ in 0..std::mem::take(units) {
                answers += 1;
                let (baron, answer) = (*baron, AnswerId(answers));
                events.push(roster::Event::Answered { baron, answer });
            }
        }
    }
    done
}

fn submit() -> u64 {
    use submission::{Action, Event};
    let (mut submission, mut actions) = (Submission::default(), Vec::new());
    let welcomed = Event::Welcomed { window_units: 4096, window_bytes: 1 << 20 };
    let mut events: VecDeque<Event> = VecDeque::from([welcomed]);
    let (mut listed, mut sent, mut done) = (0, 0, 0);
    loop {
        let Some(event) = events.pop_front() else {
            let more = UNITS.min(listed + BATCH as u64);
            events.extend((listed..more).map(|_| Event::InputListed { bytes: 15 }));
            if listed < UNITS && more == UNITS {
                events.push_back(Event::ListingEnded);
            }
            listed = more;
            continue;
        };
        submission.handle(Time::default(), event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::ReadInputs { count } => {
                    for unit in (sent..sent + count as u64).map(UnitNo) {
                        events.push_back(Event::UnitSent { unit, bytes: 15 });
                        events.push_back(Event::VerdictArrived { unit, done: true });
                        events.push_back(Event::OutputWritten { unit });
                        done += 1;
                    }
                    sent += count as u64;
                }
                Action::CloseJob { .. } => events.push_back(Event::JobEnded),
                Action::Finish { .. } => return done,
                Action::SendAgain { .. } => {}
            }
        }
    }
}

fn frame() -> u64 {
    let (outbox, mut stream) = Outbox::<QueenWord>::new();
    let mut assembler = Assembler::new(1 << 20);
    let mut context = Context::from_waker(Waker::noop());
    let mut done = 0;
    for first in (0..UNITS).step_by(BATCH) {
        for unit in (first..UNITS).take(BATCH) {
            let name = Bytes::from_static(b"folder/name");
            let input = Payload::from(Bytes::from_static(b"12345 + 6789\n"));
            outbox.push_with(Word::Unit(wire::Unit { unit, name, ..Default::default() }), input);
        }
        let Poll::Ready(Some(message)) = Pin::new(&mut stream).poll_next(&mut context) else { return done };
        let Ok(arrived) = FromQueen::decode(message.encode_to_vec().as_slice()) else { return done };
        let mut pipe = Vec::new();
        for word in arrived.words {
            let Ok(Some((QueenWord { word: Some(Word::Unit(unit)) }, Ok(input)))) = assembler.accept(word) else {
                return done;
            };
            let description = Description { unit: UnitNo(unit.unit), attempt: 1, name: &unit.name };
            description.append(|part| pipe.extend_from_slice(part));
            let body = input.contiguous();
            pipe.extend(Header::of_body(&body).into_iter().flat_map(Header::encode));
            pipe.extend_from_slice(&body);
        }
        let mut rest = pipe.as_slice();
        while let Some(described) = pipe::parse(rest) {
            rest = rest.get(described.header.frame_bytes()..).unwrap_or_default();
            let Some(input) = pipe::parse(rest) else { return done };
            rest = rest.get(input.header.frame_bytes()..).unwrap_or_default();
            done += u64::from(Description::parse(described.body).is_some());
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_handles_all_its_units() {
        for part in [Part::Scheduler, Part::Jobs, Part::Roster, Part::Submission, Part::Frames] {
            assert_eq!(work(part), UNITS);
        }
    }
}
