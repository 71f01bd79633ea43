//! How a duke leaves its king.

use super::*;

#[test]
fn a_duke_that_is_told_to_leave_finishes_its_units_first() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.handle(Happening::Draining { patience: GRACE });
    assert!(matches!(duke.said().as_slice(), [Word::Draining(_)]));
    duke.hears([KingOrder::SlotsAskedBack { job: JOB, slots: 1 }]);
    assert_eq!((duke.reactor.ending(), duke.reactor.next_deadline()), (None, Some(duke.now.after(GRACE))));
    duke.answers(3);
    assert_eq!(duke.reactor.ending(), None);
    duke.peasant(BARON, PeasantEvent::Gone("ended".to_owned()));
    assert_eq!(duke.reactor.ending(), Some(Ending::Drained));
    assert_eq!(duke.reactor.leave(duke.now), GRACE);
    let (said, is_closed) = duke.messages();
    assert!(matches!(said.as_slice(), [Word::AttemptEnded(_), Word::SlotsReleased(_), Word::End(_)]), "{said:?}");
    assert!(is_closed);
}

#[test]
fn a_duke_that_is_told_to_leave_does_not_wait_longer_than_it_may() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.handle(Happening::Draining { patience: GRACE });
    duke.now = duke.now.after(GRACE);
    duke.handle(Happening::Tick);
    assert_eq!(duke.reactor.ending(), Some(Ending::OutOfTime));
    assert_eq!(duke.reactor.leave(duke.now), GOODBYE_WITHIN);
}

#[test]
fn a_duke_that_is_told_to_leave_while_its_link_is_broken_says_its_results_first() {
    let mut duke = Duke::serving(1);
    duke.hears([started(5)]);
    duke.is_cut_off();
    duke.handle(Happening::Draining { patience: GRACE });
    duke.answers(3);
    duke.hears([KingOrder::SlotsAskedBack { job: JOB, slots: 1 }]);
    duke.peasant(BARON, PeasantEvent::Gone("ended".to_owned()));
    assert_eq!(duke.reactor.ending(), None);
    let said = duke.connects();
    assert_eq!((ended(&said), duke.reactor.ending()), (vec![(5, wire::Outcome::Done)], Some(Ending::Drained)));
}

#[test]
fn a_duke_that_the_king_does_not_let_in_gives_up() {
    let mut duke = Duke::new();
    duke.handle(Happening::Disconnected(LinkError::Silent));
    assert_eq!(duke.reactor.ending(), None);
    duke.handle(Happening::Disconnected(LinkError::Refused("no".to_owned())));
    assert_eq!(duke.reactor.ending(), Some(Ending::Refused("no".to_owned())));
}
