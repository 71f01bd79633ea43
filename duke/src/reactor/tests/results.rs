//! Results in files of the duke's own.

use super::*;

/// A result of this many bytes in a file.
fn kept(bytes: u64) -> PeasantEvent {
    PeasantEvent::Answered(vec![Answer::Kept(KeptResult::new(bytes, None))])
}

fn part_wanted(attempt: u64, transfer: u64, from: u64, until: u64) -> KingOrder {
    KingOrder::ResultPartWanted { attempt: AttemptId(attempt), transfer, from, until }
}

fn read(number: u64, pieces: Result<Vec<Bytes>, String>) -> Happening {
    Happening::ResultRead { read: Read { attempt: AttemptId(5), number }, pieces }
}

/// The parts that were said: transfer, offset, size.
fn parts(said: &[Word]) -> Vec<(u64, u64, usize)> {
    let parts = said.iter().filter_map(|word| match word {
        Word::ResultPart(part) => Some((part.transfer, part.offset, part.data.len())),
        _ => None,
    });
    parts.collect()
}

/// Whether a streamed result of this size was offered.
fn offered(said: &[Word]) -> Option<u64> {
    said.iter().find_map(|word| match word {
        Word::ResultOffered(offer) if offer.streamed => Some(offer.result_bytes),
        _ => None,
    })
}

/// A duke that has offered a result of 100 bytes.
fn offering() -> Duke {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.peasant(BARON, kept(100));
    assert_eq!(offered(&duke.said()), Some(100));
    duke.deeds();
    duke
}

#[test]
fn a_result_in_a_file_is_sent_in_the_parts_that_are_wanted() {
    let mut duke = offering();
    duke.hears([part_wanted(5, 7, 40, 60)]);
    let attempt = AttemptId(5);
    assert_eq!(duke.deeds(), [Deed::Read(Read { attempt, number: 1 }, 40..60)]);
    duke.handle(read(1, Ok(vec![vec![0; 12].into(), vec![0; 8].into()])));
    assert_eq!(parts(&duke.said()), [(7, 40, 12), (7, 52, 8)]);
    // Over another link it is offered again, and what was read for the last one is not sent.
    duke.hears([part_wanted(5, 7, 60, 70)]);
    duke.is_cut_off();
    assert_eq!(offered(&duke.connects()), Some(100));
    duke.hears([part_wanted(5, 1, 0, 10)]);
    duke.handle(read(2, Ok(vec![vec![0; 10].into()])));
    assert_eq!(parts(&duke.said()), []);
    duke.handle(read(3, Ok(vec![vec![0; 10].into()])));
    assert_eq!(parts(&duke.said()), [(1, 0, 10)]);
    // What is forgotten is not sent.
    duke.hears([part_wanted(5, 1, 10, 20)]);
    duke.handle(read(4, Ok(vec![vec![0; 10].into()])));
    duke.hears([forget(5)]);
    assert_eq!(parts(&duke.said()), []);
    duke.handle(read(4, Ok(vec![vec![0; 10].into()])));
    assert_eq!(parts(&duke.said()), []);
}

#[test]
fn a_result_that_cannot_be_read_is_a_failure() {
    let mut duke = offering();
    duke.hears([part_wanted(5, 7, 0, 10)]);
    duke.handle(read(1, Err("the disk is broken".to_owned())));
    assert_eq!((ended(&duke.said()), duke.deeds().len()), (vec![(5, wire::Outcome::Failed)], 1));
    // The king has not heard it when it asks on.
    duke.hears([part_wanted(5, 7, 10, 20)]);
    assert!(duke.reactor.is_linked() && duke.deeds().is_empty());
}

#[test]
fn a_part_that_no_result_has_ends_the_link() {
    for wanted in
        [part_wanted(5, 7, 90, 101), part_wanted(6, 7, 0, 1), KingOrder::ResultWanted { attempt: AttemptId(5) }]
    {
        let mut duke = offering();
        duke.hears([wanted]);
        assert!(!duke.reactor.is_linked());
    }
}

#[test]
fn a_unit_whose_result_needs_a_file_runs_again_with_another_peasant() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    assert_eq!(duke.deeds(), [Deed::Fed(BARON, UnitNo(5))]);
    let failure = Failure::new(FailureKind::LongAnswer, "it is too long");
    duke.peasant(BARON, PeasantEvent::Answered(vec![Answer::NeedsFile(failure)]));
    assert!(duke.said().is_empty());
    assert_eq!(duke.deeds(), [Deed::Retired(BARON)]);
    duke.peasant(BARON, PeasantEvent::Gone("ended".to_owned()));
    assert_eq!(duke.deeds(), [Deed::Buried(BARON), Deed::HiredForFiles(BARON)]);
    duke.peasant(BARON, PeasantEvent::Ready);
    assert_eq!(duke.deeds(), [Deed::FedWithFile(BARON, UnitNo(5))]);
    duke.peasant(BARON, kept(1 << 40));
    assert_eq!(offered(&duke.said()), Some(1 << 40));
}
