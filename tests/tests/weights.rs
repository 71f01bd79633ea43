//! Small messages that are large in memory: what the king expects of each is not less than what it takes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where its expectation does, and says what it measured"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    iter,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use distwasm_king::{
    authority::Identity,
    border::{
        Border,
        duke::DukeBorder,
        queen::QueenBorder,
        weights::{FROM_DUKE, FROM_QUEEN},
    },
    budget::Budget,
    inbox::{LinkId, Peer},
};
use distwasm_proto::{
    PROTOCOL,
    ids::DukeId,
    limits::{MESSAGE_BYTES_MAX, MESSAGE_DECODED_BYTES_MAX},
    wire::{self, FromDuke, FromQueen, duke_word},
};
use distwasm_transport::weight::{Kind, weigh};
use prost::Message;

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all memory is that of the system's allocator, which keeps what the trait promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the memory is from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most bytes that were allocated at a time meanwhile, besides those that were before.
fn peak_of(run: impl FnOnce()) -> usize {
    let before = ALLOCATED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    run();
    PEAK.load(Ordering::Relaxed) - before
}

fn number(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field with this number and content.
fn field(tag: u64, content: &[u8]) -> Vec<u8> {
    [number(tag << 3 | 2), number(content.len() as u64), content.to_vec()].concat()
}

/// A message whose one word has a field of this number, in which this stands so many times.
fn within(tags: &[u64], count: usize, content: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let many: Vec<u8> = (0..count).flat_map(content).collect();
    tags.iter().rev().fold(many, |inner, tag| field(*tag, &inner))
}

/// An entry of a map, each with a name of its own.
fn entry(tag: u64) -> impl Fn(usize) -> Vec<u8> {
    move |at| field(tag, &field(1, &at.to_le_bytes()[..3].iter().map(|byte| byte & 0x7f).collect::<Vec<u8>>()))
}

/// Makes a message that has this many of something.
type Make = Box<dyn Fn(usize) -> Vec<u8>>;

/// What a message has many of, and the message.
type Case = (&'static str, Make);

/// Messages of dukes, by what they have many of.
fn of_dukes() -> Vec<Case> {
    let words = |content: Vec<u8>| -> Make { Box::new(move |count| field(1, &content).repeat(count)) };
    let hello = wire::DukeHello {
        protocol: PROTOCOL,
        cpus: 1,
        held_leases: 1,
        seat: vec![0; 16].into(),
        ..wire::DukeHello::default()
    };
    let hello = FromDuke { words: vec![duke_word::Word::Hello(Box::new(hello)).into()] }.encode_to_vec();
    let attempts = move |count| {
        let lease = [field(8, &[0; 16]), field(6, &[]).repeat(count)].concat();
        [hello.clone(), field(1, &field(8, &lease))].concat()
    };
    let mut cases = vec![
        ("words", words(Vec::new())),
        ("hellos", words(field(1, &[]))),
        ("leases", words(field(8, &[]))),
        ("failures", words(field(4, &field(5, &[])))),
        ("words about leaving", words(field(20, &[]))),
        ("attempts of a lease", Box::new(attempts)),
        ("labels", Box::new(|count| within(&[1, 1], count, entry(6)))),
        ("walls", Box::new(|count| within(&[1, 1], count, |_| field(16, &[])))),
    ];
    cases.extend((1..=20).map(|tag| ("words of each kind", words(field(tag, &[])))));
    cases
}

/// Messages of queens, by what they have many of.
fn of_queens() -> Vec<Case> {
    let words = |content: Vec<u8>| -> Make { Box::new(move |count| field(1, &content).repeat(count)) };
    let mut cases: Vec<Case> = vec![
        ("words", words(Vec::new())),
        ("jobs", words(field(1, &[]))),
        ("arguments", Box::new(|count| within(&[1, 1, 11], count, |_| field(1, &[])))),
        ("variables", Box::new(|count| within(&[1, 1, 11], count, |_| field(2, &[])))),
        ("shares", Box::new(|count| within(&[1, 1, 11], count, |_| field(7, &[])))),
        ("named shares", Box::new(|count| within(&[1, 1, 11], count, |_| field(7, &field(2, b"/"))))),
        ("labels", Box::new(|count| within(&[1, 1], count, entry(23)))),
        ("lacking units", Box::new(|count| within(&[1, 1, 26, 3], count, |_| vec![1]))),
        ("lacking units, one by one", Box::new(|count| within(&[1, 1, 26], count, |_| vec![0x18, 1]))),
        ("jobs to replace", Box::new(|count| within(&[1, 1], count, |_| field(29, &[])))),
    ];
    cases.extend((1..=20).map(|tag| ("words of each kind", words(field(tag, &[])))));
    cases
}

/// Measures the worst message of each kind that is let in, and checks that larger ones are not.
fn measure(kind: &'static Kind, cases: Vec<Case>, take: impl Fn(Bytes)) -> Vec<(f64, &'static str)> {
    let mut ratios = Vec::new();
    for (what, message) in cases {
        let mut count = MESSAGE_BYTES_MAX / 2;
        let (bytes, weight) = loop {
            let bytes = message(count);
            let weight = weigh(kind, iter::once(&bytes[..]), bytes.len());
            let over =
                (bytes.len() as f64 / MESSAGE_BYTES_MAX as f64).max(weight as f64 / MESSAGE_DECODED_BYTES_MAX as f64);
            if over <= 1.0 {
                break (Bytes::from(bytes), weight);
            }
            count = (count as f64 / over) as usize - 1;
        };
        let peak = peak_of(|| take(bytes.clone()));
        let expected = usize::try_from(weight).unwrap() + bytes.len();
        let ratio = peak as f64 / bytes.len() as f64;
        println!("{what}: {} bytes take {peak} ({ratio:.0} times as much), expected {expected}", bytes.len());
        assert!(peak <= expected + 4096, "{what}: {} bytes take {peak}, expected {expected}", bytes.len());
        ratios.push((ratio, what));
    }
    ratios.sort_by(|one, other| other.0.total_cmp(&one.0));
    ratios
}

// One test: others would allocate meanwhile.
#[test]
fn no_message_takes_more_memory_than_it_is_let_in_for() {
    let budget = Budget::new(8 << 30);
    let duke = |bytes| {
        let mut border = DukeBorder::new(DukeId(1), Peer::new(Identity::Trusted, None).0, &budget);
        // Most of these messages break the protocol, and are refused when they are decoded.
        let _heard = FromDuke::decode(bytes).map(|message| border.take(message));
    };
    let queen = |bytes| {
        let mut border = QueenBorder::new(LinkId(1), Peer::new(Identity::Trusted, None).0, &budget);
        let _heard = FromQueen::decode(bytes).map(|message| border.take(message));
    };
    let dukes = measure(&FROM_DUKE, of_dukes(), duke);
    let queens = measure(&FROM_QUEEN, of_queens(), queen);
    println!("the worst of dukes: {:?}, of queens: {:?}", dukes.first(), queens.first());
    for ratios in [dukes, queens] {
        // A short message is decoded whatever it takes.
        assert!(ratios.iter().all(|(ratio, _)| *ratio < 250.0), "{ratios:?}");
    }
}
