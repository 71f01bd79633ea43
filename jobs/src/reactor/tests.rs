//! Runs the reactor as a simulation does: messages of a king come in at the border, and commands are looked at.

use std::path::Path;

use distwasm_proto::{
    limits::RESULT_UNASKED_BYTES_MAX,
    secret::Secret,
    wire::{QueenNews, QueenWelcome, ToQueen, queen_news::News, queen_word::Word},
};

use super::*;
use crate::{
    inputs::numbers::Numbers,
    king_link::{Border, words},
    outputs::WriteError,
    report::{Compiling, LongestInput},
    request::JobRequest,
};

/// Remembers which inputs failed.
#[derive(Debug, Default)]
struct Told(Vec<PathBuf>);

impl Reporter for Told {
    fn skipped(&mut self, _: &Path, _: &str) {}

    fn failed(&mut self, unit: FailedUnit) {
        self.0.push(unit.path);
    }

    fn waits(&mut self, _: &str) {}

    fn longest(&mut self, _: Option<LongestInput>) {}

    fn compiling(&mut self, _: Option<Compiling>) {}

    fn listed(&mut self, _: &Counts) {}

    fn progress(&mut self, _: &Counts) {}
}

/// A queen without a world: its readers are instant, and its king says what the test says.
struct Queen {
    reactor: Reactor<Told>,
    numbers: Numbers,
    border: Border,
    resumptions: Vec<wire::Resumption>,
    /// How many verdicts the king was told of over each link.
    heard: BTreeMap<LinkNo, u64>,
    written: Vec<UnitNo>,
    again: Vec<u64>,
    closed: Vec<u64>,
    left: bool,
}

impl Queen {
    /// A queen whose inputs have been listed.
    fn with_inputs(count: usize) -> Queen {
        let mut queen = Queen {
            reactor: Reactor::new(RunLimits::default(), InPlaces::default(), Told::default()),
            numbers: Numbers::default(),
            border: Border::default(),
            resumptions: Vec::new(),
            heard: BTreeMap::new(),
            written: Vec::new(),
            again: Vec::new(),
            closed: Vec::new(),
            left: false,
        };
        let input = |number: usize| Input::new(number.to_string(), 1);
        queen.happens([Happening::Found(Finding::Inputs((0..count).map(input).collect())), Happening::ListingEnded]);
        queen
    }

    fn happens(&mut self, happenings: impl IntoIterator<Item = Happening>) {
        let mut commands = self.reactor.handle(Time::default(), happenings);
        while !commands.is_empty() {
            self.reactor.check();
            let happenings: Vec<Happening> = commands.drain(..).filter_map(|command| self.perform(command)).collect();
            commands = self.reactor.handle(Time::default(), happenings);
        }
    }

    fn perform(&mut self, command: Command) -> Option<Happening> {
        match command {
            Command::Seek(resumes) => self.resumptions.extend(resumes),
            Command::DropLink => self.border = Border::default(),
            Command::StopReaders => {
                self.numbers.close();
                return Some(Happening::ReadersStopped);
            }
            Command::OpenReaders(link, _) => self.numbers.open(link),
            Command::Read(orders) => {
                let mut inputs = Vec::new();
                for order in orders {
                    match order {
                        ReadOrder::Input(input) => inputs.push(input),
                        ReadOrder::Again(link, units) if self.numbers.carries(link) => {
                            self.again.extend(units.iter().map(|(unit, _)| unit.0));
                        }
                        ReadOrder::Close(link, units) if self.numbers.carries(link) => self.closed.push(units),
                        ReadOrder::Again(..) | ReadOrder::Part(..) | ReadOrder::Close(..) => {}
                    }
                }
                return Some(Happening::Sent(Sent::Units(self.numbers.number(inputs))));
            }
            Command::Write(orders) => {
                for order in orders {
                    match order {
                        WriteOrder::Output(output) => self.written.push(output.unit),
                        WriteOrder::Parts(_, parts) => panic!("{parts:?}"),
                    }
                }
            }
            Command::Say(Word::VerdictsHeard(heard)) => {
                *self.heard.entry(self.reactor.job.link).or_default() += heard.verdicts;
            }
            Command::Say(word) => panic!("{word:?}"),
            Command::NoteJob(job) => assert_eq!(job, 7),
            Command::Leave => self.left = true,
        }
        None
    }

    /// The king says this.
    fn hears(&mut self, news: impl IntoIterator<Item = News>) {
        let news = news.into_iter().map(|news| QueenNews { news: Some(news) }).collect();
        let news = self.border.take(ToQueen { news }).unwrap();
        self.happens([Happening::News(news)]);
    }

    fn is_welcomed(&mut self, known: impl IntoIterator<Item = u64>) {
        let known = known.into_iter().collect();
        let welcome =
            QueenWelcome { job: 7, window_units: 100_000, window_bytes: 1 << 30, known, ..QueenWelcome::default() };
        self.hears([News::Welcome(welcome)]);
    }

    fn loses_link(&mut self) {
        self.happens([Happening::LinkLost(LinkError::Silent)]);
    }

    fn why(self) -> String {
        let (ending, _) = self.reactor.finish();
        ending.cut_short.map(|why| why.to_string()).unwrap_or_default()
    }
}

fn failure(message: &str) -> wire::Failure {
    Failure::new(FailureKind::Trap, message).into()
}

fn fails(unit: u64) -> News {
    let failure = Some(Box::new(failure("trap")));
    News::Verdict(wire::Verdict { unit, failure, ..wire::Verdict::default() })
}

fn succeeds(unit: u64) -> News {
    News::Verdict(wire::Verdict { unit, done: true, ..wire::Verdict::default() })
}

fn written(unit: u64, outcome: Result<u64, WriteError>) -> Happening {
    Happening::Written(vec![Written { unit: UnitNo(unit), path: unit.to_string().into(), outcome }])
}

#[test]
fn a_run_is_complete_when_its_outputs_are_in_their_places() {
    let mut queen = Queen::with_inputs(2);
    queen.is_welcomed([]);
    assert_eq!(queen.closed, [2]);
    queen.hears([succeeds(1), fails(0), News::JobEnded(wire::JobEnded::default())]);
    assert_eq!((queen.written.as_slice(), queen.heard[&1], queen.left), (&[UnitNo(1)][..], 2, false));
    queen.happens([written(1, Ok(5))]);
    assert_eq!((queen.reactor.end(), queen.left), (Some(End::Complete), true));
    let (ending, told) = queen.reactor.finish();
    assert_eq!((ending.counts.done, ending.counts.failed, ending.counts.bytes_written), (1, 1, 5));
    assert_eq!(told.0, [PathBuf::from("0")]);
    assert!(ending.cut_short.is_none());
}

#[test]
fn a_lost_link_is_resumed_with_exactly_the_units_without_verdicts() {
    let mut queen = Queen::with_inputs(5);
    queen.is_welcomed([]);
    queen.hears([succeeds(1), fails(3)]);
    queen.loses_link();
    let [resumption] = queen.resumptions.as_slice() else { panic!("{:?}", queen.resumptions) };
    assert_eq!((resumption.job, resumption.sent, resumption.lacking.as_slice()), (7, 5, &[0, 2, 4][..]));
    queen.is_welcomed([2]);
    queen.again.sort_unstable();
    assert_eq!((queen.again.as_slice(), queen.closed.as_slice()), (&[0, 4][..], &[5, 5][..]));
}

#[test]
fn verdicts_are_not_counted_twice_after_a_return() {
    let count = HEARD_TOGETHER as u64 + 10;
    let mut queen = Queen::with_inputs(HEARD_TOGETHER + 10);
    queen.is_welcomed([]);
    // Too few for the king to be told at once.
    queen.hears((0..4).map(fails));
    assert_eq!(queen.heard.get(&1), None);
    queen.loses_link();
    queen.is_welcomed(4..count);
    queen.hears((4..count).map(fails));
    assert_eq!((queen.heard.get(&1), queen.heard.get(&2)), (None, Some(&(count - 4))));
    assert_eq!(queen.reactor.counts().failed, count);
    queen.hears([fails(0)]);
    assert!(queen.why().contains("a verdict on a unit that does not wait for one"));
}

#[test]
fn the_king_is_told_at_once_of_a_result_that_takes_room_at_its_duke() {
    let mut queen = Queen::with_inputs(HEARD_TOGETHER + 10);
    queen.is_welcomed([]);
    queen.hears([fails(0)]);
    assert_eq!(queen.heard.get(&1), None);
    let large = RESULT_UNASKED_BYTES_MAX + 1;
    let result = Some(wire::Payload { bytes_total: large, data: vec![0; large as usize].into() });
    queen.hears([News::Verdict(wire::Verdict { unit: 1, done: true, result, ..wire::Verdict::default() })]);
    assert_eq!(queen.heard.get(&1), Some(&2));
}

#[test]
fn a_program_that_cannot_run_ends_the_run_with_its_reason() {
    let mut queen = Queen::with_inputs(1);
    queen.is_welcomed([]);
    let failure = Failure::new(FailureKind::Trap, "it imports nonsense").with_stderr(b"oh\n");
    queen.hears([News::JobEnded(wire::JobEnded { failure: Some(failure.into()), cancelled: false })]);
    assert_eq!((queen.reactor.end(), queen.left), (Some(End::Unfit), true));
    assert_eq!(queen.why(), "the program cannot run: it imports nonsense\nthe program wrote to stderr:\noh");
}

#[test]
fn outputs_that_cannot_be_written_end_the_run() {
    let mut queen = Queen::with_inputs(3);
    queen.is_welcomed([]);
    queen.hears([succeeds(0), succeeds(1), succeeds(2)]);
    let refused = |hopeless| Err(WriteError { why: "refused".to_owned(), hopeless });
    queen.happens([written(0, refused(false))]);
    assert_eq!((queen.reactor.end(), queen.reactor.counts().failed), (None, 1));
    queen.happens([written(1, refused(true))]);
    assert_eq!(queen.reactor.end(), Some(End::NoOutputs));
    // It was on its way to its place.
    queen.happens([written(2, Ok(1))]);
    assert_eq!((queen.reactor.counts().done, queen.reactor.counts().failed), (1, 2));
    assert_eq!(queen.why(), "no more outputs can be written: 1: refused");
}

#[test]
fn a_link_that_cannot_be_resumed_ends_the_run() {
    let mut queen = Queen::with_inputs(1);
    queen.is_welcomed([]);
    queen.happens([Happening::LinkLost(LinkError::Nonsense("a second welcome"))]);
    assert!(queen.resumptions.is_empty());
    assert_eq!(queen.reactor.end(), Some(End::KingLost));
    assert_eq!(queen.why(), "the king broke the protocol: a second welcome");
}

#[test]
fn the_hello_of_a_returning_queen_holds_its_job_and_what_it_lacks() {
    let request = JobRequest::new("p", vec![1, 2].into(), Secret::new([1; 16]));
    let resumes = wire::Resumption { job: 7, sent: 3, lacking: vec![1], ..wire::Resumption::default() };
    let words = words::hello(&request, Some(resumes.clone()));
    let [(Word::OpenJob(open), program)] = words.as_slice() else { panic!("{words:?}") };
    assert_eq!((open.resumes.as_ref(), program.bytes()), (Some(&resumes), 2));
}
