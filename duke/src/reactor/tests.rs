//! Tests of the reactor through its door, with hands that only pretend.

mod leaving;
mod results;

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use distwasm_proto::{
    digest::Digest,
    ids::UnitNo,
    secret::{Purpose, Secret},
    wire::AttemptEnded,
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Assembler, OutboxStream},
};
use futures_core::Stream;

use super::*;
use crate::{
    cache::Recipe,
    peasant::{KeptResult, PeasantSettings},
};

const JOB: JobId = JobId(1);
const BARON: BaronId = BaronId(1);
const GRACE: Duration = Duration::from_secs(30);

/// What the reactor does to the world.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Hired(BaronId),
    HiredForFiles(BaronId),
    Fed(BaronId, UnitNo),
    FedWithFile(BaronId, UnitNo),
    Stored(InputNo, usize),
    Read(Read, Range<u64>),
    Discarded(InputNo),
    Retired(BaronId),
    Killed(BaronId),
    Buried(BaronId),
    Making(Supply),
    Stopped(Supply),
    Removed,
    MemoryGivenBack,
}

#[derive(Default)]
struct PretendedHands {
    deeds: Vec<Deed>,
    /// Nothing is in the cache.
    finds_nothing: bool,
}

impl Hands for PretendedHands {
    fn hire(&mut self, baron: BaronId, _job: JobId, settings: PeasantSettings, _room: HeldRoom) {
        assert_eq!(settings.supplies.len(), 1);
        self.deeds.push(if settings.takes_files { Deed::HiredForFiles(baron) } else { Deed::Hired(baron) });
    }

    fn feed(&mut self, baron: BaronId, _: Option<InputNo>, input: UnitInput) {
        let (unit, is_kept) = (input.unit, input.is_kept);
        self.deeds.push(if is_kept { Deed::FedWithFile(baron, unit) } else { Deed::Fed(baron, unit) });
    }

    fn store(&mut self, input: InputNo, part: Bytes) {
        self.deeds.push(Deed::Stored(input, part.len()));
    }

    fn read(&mut self, result: &KeptResult, read: Read, part: Range<u64>) {
        assert!(part.end <= result.bytes);
        self.deeds.push(Deed::Read(read, part));
    }

    fn discard(&mut self, input: InputNo) {
        self.deeds.push(Deed::Discarded(input));
    }

    fn retire(&mut self, baron: BaronId) {
        self.deeds.push(Deed::Retired(baron));
    }

    fn kill(&mut self, baron: BaronId) {
        self.deeds.push(Deed::Killed(baron));
    }

    fn bury(&mut self, baron: BaronId) {
        self.deeds.push(Deed::Buried(baron));
    }

    fn find(&mut self, _supply: &Supply) -> Option<Made> {
        (!self.finds_nothing).then(made)
    }

    fn make(&mut self, supply: Supply, _blob: Payload) {
        self.deeds.push(Deed::Making(supply));
    }

    fn stop(&mut self, supply: &Supply) {
        self.deeds.push(Deed::Stopped(supply.clone()));
    }

    fn remove(&mut self, _recipe: &Recipe) {
        self.finds_nothing = true;
        self.deeds.push(Deed::Removed);
    }

    fn give_memory_back(&mut self) {
        self.deeds.push(Deed::MemoryGivenBack);
    }
}

/// A duke whose clock, machine and king are the test's.
struct Duke {
    reactor: Reactor<PretendedHands>,
    now: Time,
    to_king: Option<(OutboxStream<DukeWord>, Assembler<DukeWord>)>,
}

impl Duke {
    fn new() -> Duke {
        let introduction = Introduction {
            hostname: "here".to_owned(),
            cpus: 2,
            ram_bytes: 1 << 30,
            labels: BTreeMap::new(),
            walls: Vec::new(),
            boot: 1,
            seat: Secret::new([1; 16]),
        };
        let (grace, parallel, window_bytes) = (GRACE, 1, 10);
        let settings = ReactorSettings { introduction, grace, parallel, is_alone: false, window_bytes };
        Duke { reactor: Reactor::new(settings, PretendedHands::default()), now: Time(1), to_king: None }
    }

    /// A duke that serves a king, has slots of a job, and in each a peasant that is ready.
    fn serving(slots: u32) -> Duke {
        let mut duke = Duke::new();
        duke.connects();
        duke.hears([opened(), KingOrder::SlotsGranted { job: JOB, slots }]);
        (1..=u64::from(slots)).for_each(|baron| duke.peasant(BaronId(baron), PeasantEvent::Ready));
        duke.deeds();
        duke
    }

    fn handle(&mut self, happening: Happening) {
        let mut happenings = vec![happening];
        self.reactor.handle(self.now, &mut happenings);
        assert!(happenings.is_empty());
        self.reactor.check();
    }

    /// Connects to a king that welcomes it, and returns what it said before the welcome.
    fn connects(&mut self) -> Vec<Word> {
        let (outbox, stream) = Outbox::new();
        self.to_king = Some((stream, Assembler::new(u64::MAX)));
        self.handle(Happening::Connected(outbox));
        let said = self.said();
        self.hears([KingOrder::Welcome]);
        said
    }

    fn is_cut_off(&mut self) {
        self.to_king = None;
        self.handle(Happening::Disconnected(LinkError::Silent));
    }

    fn hears<const N: usize>(&mut self, orders: [KingOrder; N]) {
        self.handle(Happening::Ordered(orders.into()));
    }

    fn peasant(&mut self, baron: BaronId, event: PeasantEvent) {
        self.handle(Happening::Peasants(vec![PeasantNews { baron, job: JOB, event }]));
    }

    fn answers(&mut self, bytes: usize) {
        let result = Answer::Result(Payload::from(vec![7; bytes]).into());
        self.peasant(BARON, PeasantEvent::Answered(vec![result]));
    }

    /// What it has said to the king, besides what has arrived.
    fn said(&mut self) -> Vec<Word> {
        self.messages().0.into_iter().filter(|word| !matches!(word, Word::InputsArrived(_))).collect()
    }

    /// The attempts that it has said to have arrived.
    fn arrived(&mut self) -> Vec<u64> {
        let words = self.messages().0.into_iter();
        words.filter_map(|word| if let Word::InputsArrived(last) = word { Some(last.attempt) } else { None }).collect()
    }

    /// What it has said to the king, and whether its stream ended after that.
    fn messages(&mut self) -> (Vec<Word>, bool) {
        let Some((stream, assembler)) = &mut self.to_king else { return (Vec::new(), true) };
        let mut said = Vec::new();
        loop {
            match Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(message)) => {
                    let arrived = message.words.into_iter().filter_map(|word| assembler.accept(word).unwrap());
                    said.extend(arrived.filter_map(|(word, payload)| payload.ok().and(word.word)));
                }
                Poll::Ready(None) => return (said, true),
                Poll::Pending => return (said, false),
            }
        }
    }

    fn deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.reactor.hands().deeds)
    }
}

fn made() -> Made {
    Made::Program("there".into())
}

fn digest() -> Digest {
    Digest::of([b"program".as_slice()])
}

fn opened() -> KingOrder {
    opened_as(JOB, false)
}

fn opened_as(job: JobId, fresh: bool) -> KingOrder {
    let (mark, slot_bytes) = (Secret::new([1; 16]).mark(Purpose::Job), 1 << 20);
    KingOrder::LeaseOpened {
        job,
        mark,
        digest: digest(),
        slot_bytes,
        timeout: None,
        start_within: Duration::from_secs(60),
        guest: Arc::default(),
        fresh,
    }
}

fn started(attempt: u64) -> KingOrder {
    let content = Content::Carried(Payload::default());
    let input =
        UnitInput { unit: UnitNo(attempt), number: 1, name: "name".into(), content, is_left: false, is_kept: false };
    let (attempt, spared) = (AttemptId(attempt), Duration::ZERO);
    KingOrder::AttemptArrived { job: JOB, attempt, alone: false, spared, input, in_places: false }
}

fn forget(attempt: u64) -> KingOrder {
    KingOrder::Forget { attempts: vec![AttemptId(attempt)], unused: Vec::new() }
}

/// How attempts ended, as the king was told.
fn ended(said: &[Word]) -> Vec<(u64, wire::Outcome)> {
    let ended = said.iter().filter_map(|word| match word {
        Word::AttemptEnded(ended) => Some((ended.attempt, AttemptEnded::outcome(ended))),
        _ => None,
    });
    ended.collect()
}

/// The attempts that a hello names.
fn named(said: &[Word]) -> Vec<u64> {
    let leases = said.iter().filter_map(|word| match word {
        Word::HeldLease(lease) => Some(lease.attempts.iter().map(|held| held.attempt)),
        _ => None,
    });
    leases.flatten().collect()
}

#[test]
fn the_king_is_told_once_what_has_arrived_over_this_link() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5), started(6)]);
    assert_eq!(duke.arrived(), [6]);
    // An attempt that was called back before it was sent never comes.
    duke.hears([forget(5), forget(9)]);
    assert_eq!(duke.arrived(), [9]);
    duke.hears([forget(6)]);
    assert_eq!(duke.arrived(), [0; 0]);
    duke.hears([started(10)]);
    duke.hears([started(11)]);
    assert_eq!(duke.arrived(), [11]);
}

#[test]
fn a_result_is_said_on_each_link_until_it_is_forgotten() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    assert_eq!(duke.deeds(), [Deed::Fed(BARON, UnitNo(5))]);
    duke.answers(3);
    let done = [(5, wire::Outcome::Done)];
    assert_eq!(ended(&duke.said()), done);
    duke.is_cut_off();
    let said = duke.connects();
    assert_eq!((named(&said), ended(&said)), (vec![5], done.into()));
    duke.hears([forget(5)]);
    duke.is_cut_off();
    let said = duke.connects();
    assert_eq!((named(&said), ended(&said)), (vec![], vec![]));
    assert!(matches!(said.first(), Some(Word::Hello(hello)) if hello.held_leases == 1 && hello.link == 3), "{said:?}");
}

#[test]
fn a_large_result_waits_until_it_is_wanted() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.answers(1 << 20);
    let said = duke.said();
    assert!(matches!(said.last(), Some(Word::ResultOffered(offer)) if offer.result_bytes == 1 << 20), "{said:?}");
    duke.hears([KingOrder::ResultWanted { attempt: AttemptId(5) }]);
    assert_eq!(ended(&duke.said()), [(5, wire::Outcome::Done)]);
    // It was sent already, so no king asks for it again over this link.
    duke.hears([KingOrder::ResultWanted { attempt: AttemptId(5) }]);
    assert!(!duke.reactor.is_linked());
}

#[test]
fn a_large_result_that_is_forgotten_before_it_is_sent_is_taken_back() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.answers(1 << 20);
    duke.said();
    duke.hears([KingOrder::ResultWanted { attempt: AttemptId(5) }, forget(5)]);
    assert_eq!(ended(&duke.said()), []);
}

#[test]
fn an_attempt_that_is_forgotten_while_it_runs_ends_its_peasant() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5), forget(5)]);
    assert_eq!(duke.deeds(), []);
    duke.hears([started(6)]);
    duke.hears([forget(6)]);
    assert_eq!(duke.deeds(), [Deed::Fed(BARON, UnitNo(6)), Deed::Killed(BARON)]);
    duke.peasant(BARON, PeasantEvent::Gone("killed".to_owned()));
    assert_eq!(duke.deeds(), [Deed::Buried(BARON), Deed::Hired(BARON)]);
    assert_eq!(ended(&duke.said()), []);
}

#[test]
fn jobs_are_given_up_when_no_king_comes_back_in_time() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.deeds();
    assert!(duke.reactor.is_in_haste());
    duke.is_cut_off();
    duke.now = duke.now.after(GRACE);
    assert_eq!(duke.reactor.next_deadline(), Some(duke.now));
    duke.now.0 -= 1;
    duke.handle(Happening::Tick);
    assert_eq!((duke.deeds(), duke.reactor.is_in_haste()), (vec![], true));
    duke.now.0 += 1;
    duke.handle(Happening::Tick);
    assert_eq!((duke.deeds(), duke.reactor.is_in_haste()), (vec![Deed::Killed(BARON)], false));
    duke.peasant(BARON, PeasantEvent::Gone("killed".to_owned()));
    assert_eq!(duke.deeds(), [Deed::Buried(BARON), Deed::MemoryGivenBack]);
    let said = duke.connects();
    assert!(matches!(said.as_slice(), [Word::Hello(hello)] if hello.held_leases == 0), "{said:?}");
}

#[test]
fn jobs_that_were_named_to_a_king_are_not_given_up_before_it_answers() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.deeds();
    duke.is_cut_off();
    let (outbox, _stream) = Outbox::new();
    duke.handle(Happening::Connected(outbox));
    duke.now = duke.now.after(GRACE);
    duke.handle(Happening::Tick);
    assert_eq!((duke.deeds(), duke.reactor.next_deadline()), (vec![], None));
    duke.is_cut_off();
    assert_eq!(duke.reactor.next_deadline(), Some(duke.now));
    duke.handle(Happening::Tick);
    assert_eq!(duke.deeds(), [Deed::Killed(BARON)]);
}

#[test]
fn a_blob_with_another_digest_ends_the_link() {
    let mut duke = Duke::new();
    duke.reactor.hands().finds_nothing = true;
    duke.connects();
    duke.hears([opened()]);
    assert!(matches!(duke.said().as_slice(), [Word::BlobWanted(_)]));
    let lie = KingOrder::BlobArrived { digest: digest(), blob: b"another program".to_vec().into() };
    duke.hears([lie, KingOrder::SlotsGranted { job: JOB, slots: 1 }]);
    let (said, is_closed) = duke.messages();
    assert!(matches!(said.as_slice(), [Word::End(end)] if end.reason.contains("digest")), "{said:?}");
    assert!(is_closed && !duke.reactor.is_linked());
    let said = duke.connects();
    assert!(matches!(said.as_slice(), [Word::Hello(_), Word::HeldLease(_), Word::BlobWanted(_)]), "{said:?}");
    duke.hears([KingOrder::BlobArrived { digest: digest(), blob: b"program".to_vec().into() }]);
    let supply = Supply::of_job(digest(), &GuestSettings::default()).remove(0);
    assert_eq!(duke.deeds(), [Deed::Making(supply.clone())]);
    duke.hears([KingOrder::SlotsGranted { job: JOB, slots: 1 }]);
    duke.handle(Happening::SupplyTried { supply, result: Ok(made()) });
    assert_eq!(duke.deeds(), [Deed::Hired(BARON)]);
}

#[test]
fn a_compiler_is_stopped_when_no_job_needs_its_program_any_more() {
    let mut duke = Duke::new();
    duke.reactor.hands().finds_nothing = true;
    duke.connects();
    duke.hears([opened()]);
    duke.hears([KingOrder::BlobArrived { digest: digest(), blob: b"program".to_vec().into() }]);
    let supply = Supply::of_job(digest(), &GuestSettings::default()).remove(0);
    assert_eq!(duke.deeds(), [Deed::Making(supply.clone())]);
    duke.hears([KingOrder::LeaseClosed { job: JOB }]);
    assert_eq!(duke.deeds(), [Deed::MemoryGivenBack, Deed::Stopped(supply.clone())]);
    assert!(!duke.reactor.is_at_rest(), "its compiler has not ended");
    duke.handle(Happening::SupplyTried { supply, result: Err(MakeError::Stopped) });
    assert_eq!((duke.deeds(), duke.reactor.is_at_rest()), (vec![Deed::MemoryGivenBack], true));
}

#[test]
fn a_program_that_the_duke_called_unfit_is_fetched_anew_although_it_has_one() {
    let mut duke = Duke::new();
    duke.connects();
    duke.hears([opened()]);
    assert_eq!((duke.said(), duke.deeds()), (vec![], vec![]), "it is in the cache");
    duke.hears([opened_as(JobId(2), true)]);
    assert!(matches!(duke.said().as_slice(), [Word::BlobWanted(_)]));
    assert_eq!(duke.deeds(), [Deed::Removed]);
}

#[test]
fn a_job_that_is_over_at_once_needs_no_program() {
    let mut duke = Duke::new();
    duke.reactor.hands().finds_nothing = true;
    duke.connects();
    duke.hears([opened(), KingOrder::LeaseClosed { job: JOB }]);
    assert_eq!((duke.said(), duke.reactor.is_at_rest()), (vec![], true));
}

#[test]
fn a_peasant_that_ends_when_its_program_is_found_spoiled_is_replaced_later() {
    let mut duke = Duke::serving(2);
    let (other, ended) = (BaronId(2), || PeasantEvent::Gone("ended".to_owned()));
    let unloadable = PeasantEvent::Unloadable("it is broken".to_owned());
    let news = [(BARON, ended()), (other, unloadable), (other, ended())];
    let news = news.map(|(baron, event)| PeasantNews { baron, job: JOB, event });
    duke.handle(Happening::Peasants(news.into()));
    assert_eq!(duke.deeds(), [Deed::Buried(BARON), Deed::Removed, Deed::Buried(other)]);
    let supply = Supply::of_job(digest(), &GuestSettings::default()).remove(0);
    duke.hears([KingOrder::BlobArrived { digest: digest(), blob: b"program".to_vec().into() }]);
    duke.handle(Happening::SupplyTried { supply: supply.clone(), result: Ok(made()) });
    assert_eq!(duke.deeds(), [Deed::Making(supply), Deed::Hired(BARON), Deed::Hired(other)]);
}

#[test]
fn what_is_opened_or_started_twice_ends_the_link_and_changes_nothing() {
    for twice in [opened(), started(5), started(6)] {
        let mut duke = Duke::serving(1);
        duke.hears([started(5)]);
        duke.answers(3);
        duke.hears([started(6)]);
        duke.said();
        duke.deeds();
        duke.hears([twice]);
        let (said, is_closed) = duke.messages();
        assert!(matches!(said.as_slice(), [Word::End(end)] if end.reason.contains("twice")), "{said:?}");
        assert!(is_closed && duke.deeds().is_empty());
        let said = duke.connects();
        assert_eq!((named(&said), ended(&said)), (vec![5, 6], vec![(5, wire::Outcome::Done)]));
    }
}

#[test]
fn it_tells_for_which_jobs_it_compiles_and_tells_it_again_after_a_break() {
    let compiles = |said: Vec<Word>| -> Vec<Vec<u64>> {
        let told = said.into_iter().filter_map(|word| match word {
            Word::CompilesFor(wire::CompilesFor { jobs }) => Some(jobs),
            _ => None,
        });
        told.collect()
    };
    let mut duke = Duke::new();
    duke.reactor.hands().finds_nothing = true;
    duke.connects();
    duke.hears([opened()]);
    assert_eq!(compiles(duke.said()), Vec::<Vec<u64>>::new(), "it has nothing to compile yet");
    duke.hears([KingOrder::BlobArrived { digest: digest(), blob: b"program".to_vec().into() }]);
    assert_eq!(compiles(duke.said()), [[JOB.0]]);
    duke.is_cut_off();
    assert_eq!(compiles(duke.connects()), [[JOB.0]]);
    let supply = Supply::of_job(digest(), &GuestSettings::default()).remove(0);
    duke.handle(Happening::SupplyTried { supply, result: Ok(made()) });
    assert_eq!(compiles(duke.said()), [Vec::<u64>::new()]);
}
