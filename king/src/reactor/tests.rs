//! Peers that flood the reactor, or that read nothing: what waits for them stays within its bounds.

use std::{
    net::IpAddr,
    pin::Pin,
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
use crate::border::{Border, duke::DukeBorder, openings::Openings, queen::QueenBorder};

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
    links: u64,
}

impl King {
    fn new() -> King {
        King { reactor: Reactor::new(Time::default(), Reign::first()), links: 0 }
    }

    fn hear<B: Border, W>(&mut self, link: &mut Link<B, W>, message: B::Message) {
        let mut happenings = link.border.take(message).unwrap().happenings;
        self.reactor.handle(Time::default(), &mut happenings);
    }

    fn duke(&mut self, from: Option<IpAddr>) -> Link<DukeBorder, DukeOrder> {
        self.links += 1;
        let (peer, words) = Peer::new(from);
        let mut link = Link { ended: peer.ended.clone(), border: DukeBorder::new(DukeId(self.links), peer), words };
        let hello = wire::DukeHello {
            protocol: PROTOCOL,
            cpus: 1,
            boot: 1,
            seat: u128::from(self.links).to_be_bytes().to_vec().into(),
            ..Default::default()
        };
        self.hear(&mut link, from_duke(vec![duke_word::Word::Hello(Box::new(hello))]));
        link
    }

    fn queen(&mut self, from: Option<IpAddr>, program: &'static [u8]) -> Link<QueenBorder, QueenNews> {
        self.links += 1;
        let (peer, words) = Peer::new(from);
        let ended = peer.ended.clone();
        let border = QueenBorder::new(LinkId(self.links), peer, &Openings::default());
        let mut link = Link { border, words, ended };
        let open = wire::OpenJob {
            protocol: PROTOCOL,
            project: "p".to_owned(),
            key: u128::from(self.links).to_be_bytes().to_vec().into(),
            program_digest: Digest::of([program]).to_wire(),
            program: Some(wire::Payload { bytes_total: program.len() as u64, data: Bytes::from_static(program) }),
            ..Default::default()
        };
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
