//! Peers that flood the reactor, or that read nothing: what waits for them stays within its bounds.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use distwasm_proto::{
    PROTOCOL,
    limits::{PEER_DUKES_MAX, PEER_JOBS_MAX, UNIT_BYTES_MAX, WINDOW_BYTES},
    wire::{DukeWord, FromDuke, FromQueen, QueenWord, ToDuke, ToQueen, duke_word, queen_word},
};
use distwasm_transport::transfer::OutboxStream;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    authority::{Identity, Refusal},
    border::{Border, duke::DukeBorder, queen::QueenBorder},
    budget::Budget,
    inbox::LinkError,
    tokens::{
        Role, Tokens,
        tests::{FINGERPRINT, at, wish},
    },
};

fn next<W: Word>(stream: &mut OutboxStream<W>) -> Option<W::Message> {
    match Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => message,
        Poll::Pending => None,
    }
}

fn address(last: u8) -> Option<IpAddr> {
    Some(IpAddr::from([10, 0, 0, last]))
}

/// A link of a peer, with what the king has put into it.
struct Link<B, W> {
    border: B,
    words: OutboxStream<W>,
    ended: CancellationToken,
}

/// A king of tests, and the links that it has had.
struct King {
    reactor: Reactor,
    budget: Budget,
    links: u64,
}

impl King {
    fn new() -> King {
        King::with_memory(32 << 30)
    }

    fn with_memory(memory_bytes: u64) -> King {
        let reign = Reign::with_memory(memory_bytes);
        King { reactor: Reactor::new(Time::default(), reign), budget: Budget::new(memory_bytes), links: 0 }
    }

    fn hear<B: Border, W>(&mut self, link: &mut Link<B, W>, message: B::Message) {
        let mut happenings = link.border.take(message).unwrap().happenings;
        self.reactor.handle(Time::default(), &mut happenings);
    }

    fn duke(&mut self, from: Option<IpAddr>) -> Link<DukeBorder, DukeOrder> {
        let seat = self.links + 1;
        self.duke_of(Identity::Trusted, from, seat)
    }

    fn duke_of(&mut self, identity: Identity, from: Option<IpAddr>, seat: u64) -> Link<DukeBorder, DukeOrder> {
        self.links += 1;
        let (peer, words) = Peer::new(identity, from);
        let mut link =
            Link { ended: peer.ended.clone(), border: DukeBorder::new(DukeId(self.links), peer, &self.budget), words };
        let hello = wire::DukeHello {
            protocol: PROTOCOL,
            cpus: 1,
            boot: self.links,
            seat: u128::from(seat).to_be_bytes().to_vec().into(),
            ..Default::default()
        };
        self.hear(&mut link, from_duke(vec![duke_word::Word::Hello(Box::new(hello))]));
        link
    }

    fn queen(&mut self, from: Option<IpAddr>, program: &'static [u8]) -> Link<QueenBorder, QueenNews> {
        self.queen_of(Identity::Trusted, from, program, |_| ())
    }

    /// A queen whose first word is changed like this.
    fn queen_of(
        &mut self,
        identity: Identity,
        from: Option<IpAddr>,
        program: &'static [u8],
        change: impl FnOnce(&mut wire::OpenJob),
    ) -> Link<QueenBorder, QueenNews> {
        self.links += 1;
        let (peer, words) = Peer::new(identity, from);
        let ended = peer.ended.clone();
        let border = QueenBorder::new(LinkId(self.links), peer, &self.budget);
        let mut link = Link { border, words, ended };
        let mut open = wire::OpenJob {
            protocol: PROTOCOL,
            project: "p".to_owned(),
            key: u128::from(self.links).to_be_bytes().to_vec().into(),
            program_digest: Digest::of([program]).to_wire(),
            program: Some(wire::Payload { bytes_total: program.len() as u64, data: Bytes::from_static(program) }),
            ..Default::default()
        };
        change(&mut open);
        let words = vec![QueenWord::from(queen_word::Word::OpenJob(Box::new(open)))];
        self.hear(&mut link, FromQueen { words });
        link
    }

    fn leave<B: Border, W>(&mut self, link: Link<B, W>) {
        self.reactor.handle(Time::default(), &mut vec![link.border.end(Ok(()))]);
    }
}

impl Drop for King {
    fn drop(&mut self) {
        self.reactor.check();
    }
}

fn from_duke(words: Vec<duke_word::Word>) -> FromDuke {
    FromDuke { words: words.into_iter().map(DukeWord::from).collect() }
}

/// All orders that wait for a duke.
fn orders(link: &mut Link<DukeBorder, DukeOrder>) -> Vec<Order> {
    let messages = std::iter::from_fn(|| next(&mut link.words));
    messages.flat_map(|ToDuke { orders }| orders).filter_map(|order| order.order).collect()
}

/// All news that waits for a queen.
fn news(link: &mut Link<QueenBorder, QueenNews>) -> Vec<News> {
    let messages = std::iter::from_fn(|| next(&mut link.words));
    messages.flat_map(|ToQueen { news }| news).filter_map(|news| news.news).collect()
}

#[test]
fn a_queen_that_does_not_read_has_one_state_of_its_job_waiting() {
    let mut king = King::new();
    let mut queen = king.queen(None, b"program");
    for _ in 0..1000 {
        let duke = king.duke(None);
        king.leave(duke);
    }
    let news = news(&mut queen);
    assert!(matches!(news.first(), Some(News::Welcome(_))), "{news:?}");
    assert_eq!(news.iter().filter(|news| matches!(news, News::JobState(_))).count(), 1);
    assert!(!queen.ended.is_cancelled());
}

#[test]
fn a_duke_that_does_not_read_has_one_copy_of_a_blob_waiting_and_gets_it_again_later() {
    let mut king = King::new();
    let queen = king.queen(None, b"program");
    let mut duke = king.duke(None);
    let wanted = || {
        let digest = Digest::of([b"program".as_slice()]).to_wire();
        (0..400).map(|_| duke_word::Word::BlobWanted(wire::BlobWanted { digest: digest.clone() })).collect()
    };
    let blobs = |orders: Vec<Order>| orders.iter().filter(|order| matches!(order, Order::Blob(_))).count();
    for _ in 0..3 {
        king.hear(&mut duke, from_duke(wanted()));
        assert_eq!(blobs(orders(&mut duke)), 1);
    }
    // A queen that leaves takes its program with it.
    king.hear(&mut duke, from_duke(wanted()));
    king.leave(queen);
    assert_eq!(blobs(orders(&mut duke)), 0);
}

#[test]
fn a_duke_that_does_not_read_what_it_may_forget_loses_its_link() {
    let mut king = King::new();
    let mut duke = king.duke(None);
    let ended = |attempt| {
        let outcome = wire::Outcome::Done.into();
        duke_word::Word::AttemptEnded(wire::AttemptEnded { attempt, outcome, ..Default::default() })
    };
    let mut attempts = 1 << 40..;
    let messages = (0..).take_while(|_| {
        king.hear(&mut duke, from_duke(attempts.by_ref().take(4096).map(ended).collect()));
        !duke.ended.is_cancelled()
    });
    assert!((100..1000).contains(&messages.count()), "it has a bound, which is not reached soon");
    let orders = orders(&mut duke);
    assert!(matches!(&orders[..], [Order::End(end)] if end.come_back && end.reason.contains("not read")), "{orders:?}");
}

#[test]
fn units_that_a_duke_has_not_read_go_with_their_job() {
    let mut king = King::new();
    let mut queen = king.queen(None, b"program");
    let mut duke = king.duke(None);
    let unit = |unit| {
        let input = Some(wire::Payload { bytes_total: 5, data: Bytes::from_static(b"input") });
        QueenWord::from(queen_word::Word::Unit(wire::Unit { unit, input, ..Default::default() }))
    };
    king.hear(&mut queen, FromQueen { words: (0..2).map(unit).collect() });
    king.leave(queen);
    let orders = orders(&mut duke);
    assert!(orders.iter().any(|order| matches!(order, Order::CloseLease(_))), "{orders:?}");
    assert!(!orders.iter().any(|order| matches!(order, Order::StartAttempt(_))), "{orders:?}");
}

#[test]
fn a_long_input_for_which_there_is_no_room_ends_the_link_with_its_first_part() {
    let mut king = King::new();
    let mut queen = king.queen(None, b"program");
    let unit = |unit, bytes_total, data: &'static [u8]| {
        let input = Some(wire::Payload { bytes_total, data: Bytes::from_static(data) });
        let unit = wire::Unit { unit, input, ..Default::default() };
        FromQueen { words: vec![QueenWord::from(queen_word::Word::Unit(unit))] }
    };
    // A single input may be as large as any.
    let mut other = king.queen(None, b"program");
    king.hear(&mut other, unit(0, UNIT_BYTES_MAX, b"begun"));
    king.hear(&mut queen, unit(0, 5, b"input"));
    assert!(queen.border.take(unit(1, WINDOW_BYTES - 5, b"begun")).is_ok());
    let mut queen = king.queen(None, b"program");
    king.hear(&mut queen, unit(0, 5, b"input"));
    let refused = queen.border.take(unit(1, WINDOW_BYTES - 4, b"begun")).unwrap_err();
    assert!(refused.to_string().contains("than its window allows"), "{refused}");
}

#[test]
fn one_address_does_not_take_all_jobs_or_all_dukes() {
    let mut king = King::new();
    let queens: Vec<_> = (0..=PEER_JOBS_MAX).map(|_| king.queen(address(1), b"")).collect();
    let refused: Vec<usize> =
        (0..).zip(&queens).filter(|(_, queen)| queen.ended.is_cancelled()).map(|(n, _)| n).collect();
    assert_eq!(refused, [PEER_JOBS_MAX]);
    let told = queens.into_iter().last().map(|mut queen| news(&mut queen)).unwrap();
    assert!(matches!(&told[..], [News::End(end)] if end.reason.contains("from this address")), "{told:?}");
    assert!(!king.queen(address(2), b"").ended.is_cancelled());
    let mut king = King::new();
    let dukes: Vec<_> = (0..=PEER_DUKES_MAX).map(|_| king.duke(address(1))).collect();
    assert_eq!(dukes.iter().filter(|duke| duke.ended.is_cancelled()).count(), 1);
    assert!(!king.duke(address(2)).ended.is_cancelled());
    // The king's own machine may have all of it.
    let here = Some(IpAddr::from([127, 0, 0, 1]));
    assert!((0..=PEER_DUKES_MAX - 10).all(|_| !king.duke(here).ended.is_cancelled()));
    let mut king = King::new();
    assert!((0..=PEER_JOBS_MAX).all(|_| !king.queen(here, b"").ended.is_cancelled()));
}

/// A unit with the first bytes of its input.
fn unit(unit: u64, bytes_total: u64, data: &'static [u8]) -> FromQueen {
    let input = Some(wire::Payload { bytes_total, data: Bytes::from_static(data) });
    let unit = wire::Unit { unit, input, ..Default::default() };
    FromQueen { words: vec![QueenWord::from(queen_word::Word::Unit(unit))] }
}

/// The attempts that a duke is to make.
fn attempts(link: &mut Link<DukeBorder, DukeOrder>) -> Vec<u64> {
    let started = |order| if let Order::StartAttempt(start) = order { Some(start.attempt) } else { None };
    orders(link).into_iter().filter_map(started).collect()
}

#[test]
fn a_result_for_which_there_is_never_room_fails_its_unit() {
    let mut king = King::with_memory(64 << 20);
    let (mut duke, mut queen) = (king.duke(None), king.queen(None, b"program"));
    king.hear(&mut queen, unit(0, 5, b"input"));
    let attempt = attempts(&mut duke)[0];
    let offer = wire::ResultOffered { attempt, result_bytes: 1 << 30, run_us: 1, streamed: false };
    king.hear(&mut duke, from_duke(vec![duke_word::Word::ResultOffered(offer)]));
    let told = news(&mut queen);
    let failure = told.iter().find_map(|news| match news {
        News::Verdict(verdict) => verdict.failure.as_ref(),
        _ => None,
    });
    assert!(
        failure.is_some_and(|failure| failure.message.contains("at most 16777216 (its --memory-limit)")),
        "{told:?}"
    );
    let heard = wire::VerdictsHeard { verdicts: 1 };
    king.hear(&mut queen, FromQueen { words: vec![queen_word::Word::VerdictsHeard(heard).into()] });
    assert!(orders(&mut duke).iter().any(|order| matches!(order, Order::Forget(_))));
}

#[test]
fn a_queen_is_told_how_much_room_others_leave() {
    let mut king = King::with_memory(512 << 20);
    let (mut duke, mut queen) = (king.duke(None), king.queen(None, b"program"));
    let windows = |queen: &mut Link<QueenBorder, QueenNews>| -> Vec<u64> {
        let window = |news| match news {
            News::Welcome(welcome) => Some(welcome.window_bytes),
            News::JobState(state) => Some(state.window_bytes),
            _ => None,
        };
        news(queen).into_iter().filter_map(window).collect()
    };
    assert_eq!(windows(&mut queen)[0], 16 << 20, "an eighth of a quarter");
    let mut other = king.queen(None, b"program");
    other.border.take(unit(0, 120 << 20, b"begun")).unwrap();
    king.hear(&mut queen, unit(0, 5, b"input"));
    let (attempt, outcome) = (attempts(&mut duke)[0], wire::Outcome::Done.into());
    let done = wire::AttemptEnded { attempt, outcome, ..Default::default() };
    king.hear(&mut duke, from_duke(vec![duke_word::Word::AttemptEnded(done)]));
    let heard = wire::VerdictsHeard { verdicts: 1 };
    king.hear(&mut queen, FromQueen { words: vec![queen_word::Word::VerdictsHeard(heard).into()] });
    assert_eq!(windows(&mut queen).pop(), Some(1 << 20));
    // An input for which there is no room ends the link, and the queen may come back with it.
    let full = queen.border.take(unit(1, 32 << 20, b"begun")).unwrap_err();
    assert!(full.may_come_back(), "{full}");
    king.leave(other);
    assert_eq!(king.budget.inputs.taken(), 0);
}

#[test]
fn a_token_is_counted_wherever_it_is_used() {
    let [one, two] = identities([Role::Admin, Role::Admin]);
    let mut king = King::new();
    let places = [address(1), address(2), None, Some(IpAddr::from([127, 0, 0, 1]))];
    let from = |number: usize| places[number % places.len()];
    let queens: Vec<_> =
        (0..=PEER_JOBS_MAX).map(|number| king.queen_of(one.clone(), from(number), b"", |_| ())).collect();
    assert_eq!(queens.iter().filter(|queen| queen.ended.is_cancelled()).count(), 1);
    let told = queens.into_iter().last().map(|mut queen| news(&mut queen)).unwrap();
    assert!(matches!(&told[..], [News::End(end)] if end.reason.contains("with this token")), "{told:?}");
    assert!(!king.queen_of(two.clone(), from(0), b"", |_| ()).ended.is_cancelled());
    let mut king = King::new();
    let dukes: Vec<_> = (0..=PEER_DUKES_MAX)
        .map(|number| king.duke_of(one.clone(), from(number), number as u64))
        .filter(|duke| duke.ended.is_cancelled())
        .collect();
    assert_eq!(dukes.len(), 1);
    assert!(!king.duke_of(two, from(0), u64::MAX).ended.is_cancelled());
}

/// A peer for each of these roles, with a token of its own.
fn identities<const N: usize>(roles: [Role; N]) -> [Identity; N] {
    let mut tokens = Tokens::default();
    roles.map(|role| {
        let token = tokens.create(FINGERPRINT, wish(role, &[], None), at(0)).unwrap();
        Identity::Token(Arc::clone(tokens.get(token.id()).unwrap()))
    })
}

fn secret(number: u8) -> Bytes {
    vec![number; 16].into()
}

/// The number of the job that a queen was welcomed to.
fn job_of(link: &mut Link<QueenBorder, QueenNews>) -> u64 {
    let welcomed = news(link).into_iter().find_map(|news| match news {
        News::Welcome(welcome) => Some(welcome.job),
        _ => None,
    });
    welcomed.unwrap()
}

#[test]
fn only_the_same_token_comes_back_to_a_job_or_replaces_it() {
    let [one, two, admin] = identities([Role::Queen, Role::Queen, Role::Admin]);
    for (identity, is_taken_over) in [(&one, true), (&two, false), (&admin, true), (&Identity::Trusted, true)] {
        let mut king = King::new();
        let mut first = king.queen_of(one.clone(), address(1), b"", |open| open.key = secret(7));
        let job = job_of(&mut first);
        let resumes = wire::Resumption { job, link: 1, ..Default::default() };
        let mut second = king.queen_of(identity.clone(), address(1), b"", |open| {
            open.key = secret(7);
            open.resumes = Some(resumes);
        });
        assert_eq!((job_of(&mut second) == job, first.ended.is_cancelled()), (is_taken_over, is_taken_over));
        let mut king = King::new();
        let first = king.queen_of(one.clone(), address(1), b"", |open| open.key = secret(7));
        let second = king.queen_of(identity.clone(), address(1), b"", |open| open.replaces = vec![secret(7)]);
        assert_eq!((first.ended.is_cancelled(), second.ended.is_cancelled()), (is_taken_over, false));
    }
}

#[test]
fn only_the_same_token_takes_the_place_of_a_duke() {
    let [one, two, admin] = identities([Role::Duke, Role::Duke, Role::Admin]);
    for (identity, is_taken_over) in [(&one, true), (&two, false), (&admin, true), (&Identity::Trusted, true)] {
        let mut king = King::new();
        let first = king.duke_of(one.clone(), address(1), 5);
        let mut second = king.duke_of(identity.clone(), address(1), 5);
        assert_eq!((first.ended.is_cancelled(), second.ended.is_cancelled()), (is_taken_over, !is_taken_over));
        if !is_taken_over {
            let told = orders(&mut second);
            assert!(matches!(&told[..], [Order::End(end)] if !end.refused && end.reason.contains("another token")));
            // When the first one has left, the place is free.
            king.leave(first);
            assert!(!king.duke_of(identity.clone(), address(1), 5).ended.is_cancelled());
        }
    }
}

#[test]
fn a_peer_whose_token_ends_is_told_so_and_loses_what_it_had() {
    let [duke, queen] = identities([Role::Duke, Role::Queen]);
    let mut king = King::new();
    let (mut duke, mut queen) = (king.duke_of(duke, address(1), 1), king.queen_of(queen, address(1), b"", |_| ()));
    let refused = || Err(LinkError::Refused(Refusal::NoToken));
    let mut ends = vec![duke.border.end(refused()), queen.border.end(refused())];
    king.reactor.handle(Time::default(), &mut ends);
    let census = king.reactor.view().census;
    assert_eq!((census.dukes, census.jobs), (0, 0));
    let told = std::iter::from_fn(|| next(&mut duke.words)).flat_map(|message| message.orders).last().unwrap();
    assert!(matches!(told.order, Some(Order::End(end)) if end.refused && !end.come_back));
    let told = std::iter::from_fn(|| next(&mut queen.words)).flat_map(|message| message.news).last().unwrap();
    assert!(matches!(told.news, Some(News::End(end)) if end.refused && !end.come_back));
}

#[test]
fn a_queen_hears_who_compiles_its_program_until_that_ends() {
    let mut king = King::new();
    let mut queen = king.queen(None, b"program");
    let job = job_of(&mut queen);
    let mut duke = king.duke(None);
    assert!(orders(&mut duke).iter().any(|order| matches!(order, Order::OpenLease(_))));
    let compiles =
        |jobs: &[u64]| from_duke(vec![duke_word::Word::CompilesFor(wire::CompilesFor { jobs: jobs.into() })]);
    let told = |queen: &mut Link<QueenBorder, QueenNews>| {
        let states = news(queen).into_iter().filter_map(|news| match news {
            News::JobState(state) => Some(state.compiling.is_some()),
            _ => None,
        });
        states.last()
    };
    told(&mut queen);
    king.hear(&mut duke, compiles(&[job, job + 1]));
    assert_eq!(told(&mut queen), Some(true));
    king.hear(&mut duke, compiles(&[]));
    assert_eq!(told(&mut queen), Some(false));
    king.hear(&mut duke, compiles(&[job]));
    assert_eq!(told(&mut queen), Some(true));
    king.leave(duke);
    assert_eq!(told(&mut queen), Some(false));
}
