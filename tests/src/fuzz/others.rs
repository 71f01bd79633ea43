//! What dukes and queens read: words that are almost a king's.

use distwasm_duke::border::Border as DukeSide;
use distwasm_jobs::king_link::Border as QueenSide;
use distwasm_proto::{
    digest::Digest,
    wire::{self, DukeOrder, QueenNews, ToDuke, ToQueen, duke_order::Order, queen_news::News},
};
use fastrand::Rng;
use prost::Message;

use super::fields::{self, Seen};

/// Words of each kind to each of them, changed, until one of them is refused.
pub(super) fn episode(rng: &mut Rng) {
    to_duke(rng);
    to_queen(rng);
}

fn orders() -> Vec<Order> {
    let digest = Digest::of([b"program".as_slice()]).to_wire();
    let payload = || Some(wire::Payload { bytes_total: 5, data: b"input".as_slice().into() });
    vec![
        Order::Welcome(wire::DukeWelcome::default()),
        Order::OpenLease(Box::new(wire::OpenLease {
            job: 1,
            program_digest: digest.clone(),
            slot_bytes: 1 << 20,
            timeout_ms: 1000,
            guest: Some(wire::GuestSettings { args: vec!["a".to_owned()], ..Default::default() }),
            ..Default::default()
        })),
        Order::GrantSlots(wire::GrantSlots { job: 1, slots: 1 }),
        Order::StartAttempt(wire::StartAttempt { job: 1, unit: 1, attempt: 1, input: payload(), ..Default::default() }),
        Order::SendResult(wire::SendResult { attempt: 1 }),
        Order::Blob(wire::Blob { digest, payload: payload() }),
        Order::Forget(wire::Forget { attempts: vec![1], unused: vec![2] }),
        Order::ReleaseSlots(wire::ReleaseSlots { job: 1, slots: 1 }),
        Order::CloseLease(wire::CloseLease { job: 1 }),
        Order::Piece(wire::Piece { data: b"piece".as_slice().into(), broken: String::new() }),
        Order::End(wire::End::default()),
    ]
}

fn to_duke(rng: &mut Rng) {
    let mut border = DukeSide::default();
    let words = orders().into_iter().map(|order| ToDuke { orders: vec![DukeOrder::from(order)] }.encode_to_vec());
    for bytes in changed(&words.collect::<Vec<_>>(), rng) {
        if let Ok(message) = ToDuke::decode(bytes.as_slice())
            && border.take(message).is_err()
        {
            return;
        }
    }
}

fn to_queen(rng: &mut Rng) {
    let payload = || Some(wire::Payload { bytes_total: 6, data: b"result".as_slice().into() });
    let failure = wire::Failure { kind: 2, message: "it failed".to_owned(), ..Default::default() };
    let news = [
        News::Welcome(wire::QueenWelcome { job: 1, window_units: 10, window_bytes: 1000, ..Default::default() }),
        News::Verdict(wire::Verdict { unit: 1, done: true, result: payload(), ..Default::default() }),
        News::Verdict(wire::Verdict { unit: 2, failure: Some(Box::new(failure.clone())), ..Default::default() }),
        News::JobState(wire::JobState { slots: 1, longest: Some(wire::LongestUnit::default()), ..Default::default() }),
        News::Piece(wire::Piece { data: b"piece".as_slice().into(), broken: String::new() }),
        News::JobEnded(wire::JobEnded { failure: Some(failure), cancelled: false }),
        News::End(wire::End::default()),
    ];
    let mut border = QueenSide::default();
    let words = news.into_iter().map(|news| ToQueen { news: vec![QueenNews::from(news)] }.encode_to_vec());
    for bytes in changed(&words.collect::<Vec<_>>(), rng) {
        if let Ok(message) = ToQueen::decode(bytes.as_slice())
            && border.take(message).is_err()
        {
            return;
        }
    }
}

/// Some of these messages, most of them in their order, some of them changed.
fn changed(messages: &[Vec<u8>], rng: &mut Rng) -> Vec<Vec<u8>> {
    let trees: Vec<_> = messages.iter().filter_map(|bytes| fields::read(bytes)).collect();
    let mut seen = Seen::default();
    trees.iter().for_each(|tree| seen.learn(tree, rng));
    let mut said = Vec::new();
    for place in 0..trees.len() {
        let place = if rng.u8(..4) == 0 { rng.usize(..trees.len()) } else { place };
        let mut tree = trees[place].clone();
        if rng.u8(..3) == 0 {
            let other = &trees[rng.usize(..trees.len())];
            fields::mutate(&mut tree, other, &seen, rng);
        }
        said.push(fields::write(&tree));
    }
    said
}
