//! The wires between the king and its peers: words leave their outboxes, travel late but in order, in parcels that may
//! end in the middle of a payload, and are lost when a wire breaks.

use std::{
    fmt,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use distwasm_proto::{
    ids::{DukeId, UnitNo},
    limits::{PART_BYTES_MAX, UNIT_BYTES_MAX},
    time::Time,
    wire::{DukeOrder, DukeWord, QueenNews, QueenWord},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Outbox, OutboxStream, Word},
};
use tokio_stream::Stream;

use super::{
    weather::Slowness,
    world::{Due, Sender, World},
};

/// Words that travel together. An empty parcel is the end of a stream.
#[derive(Clone)]
pub(super) struct Parcel<W>(pub(super) Vec<W>);

/// Words for the king.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Duke(Parcel<DukeWord>),
    Queen(Parcel<QueenWord>),
}

/// A word whose messages can be opened.
pub(super) trait Carried: Word + Clone + fmt::Debug {
    fn of_message(message: Self::Message) -> Vec<Self>;
}

macro_rules! carried {
    ($($word:ident in $field:ident),+) => {
        $(impl Carried for $word {
            fn of_message(message: Self::Message) -> Vec<Self> {
                message.$field
            }
        })+
    };
}

carried!(DukeWord in words, DukeOrder in orders, QueenWord in words, QueenNews in news);

impl<W: Carried> Parcel<W> {
    /// Its size.
    fn bytes(&self) -> u64 {
        self.0.iter().map(|word| word.encoded_len() as u64).sum()
    }
}

impl<W: Carried> fmt::Debug for Parcel<W> {
    /// Leaves out the payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for word in &self.0 {
            match word.clone().into_piece() {
                Ok(piece) => list.entry(&format_args!("piece of {} bytes", piece.data.len())),
                Err(mut word) => {
                    let payload = word.payload().and_then(Option::take);
                    if word.encoded_len() > WORD_SHOWN_BYTES {
                        list.entry(&format_args!("part of {} bytes", word.encoded_len()));
                        continue;
                    }
                    let bytes = payload.map_or(0, |payload| payload.bytes_total);
                    list.entry(&format_args!("{word:?} + {bytes} bytes"))
                }
            };
        }
        list.finish()
    }
}

/// Longer words, without their payloads, are parts of streamed inputs or failures.
const WORD_SHOWN_BYTES: usize = 1000;

/// A part of the streamed input of a unit.
pub(super) fn part_of(unit: UnitNo, offset: u64, bytes: u64) -> Bytes {
    const PERIOD: usize = 251;
    static PATTERN: LazyLock<Bytes> =
        LazyLock::new(|| (0..PERIOD + PART_BYTES_MAX).map(|place| (place % PERIOD) as u8).collect());
    // Parts of others, and those of another place, are different.
    let begin = (offset.wrapping_add(7 * unit.0) % PERIOD as u64) as usize;
    PATTERN.slice(begin..begin + bytes as usize)
}

/// Takes all words out of an outbox. Returns whether it is closed.
pub(super) fn drain<W: Carried>(stream: &mut OutboxStream<W>) -> (Vec<W>, bool) {
    let mut words = Vec::new();
    loop {
        match Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(message)) => words.extend(W::of_message(message)),
            Poll::Ready(None) => return (words, true),
            Poll::Pending => return (words, false),
        }
    }
}

/// A payload of this size. Its contents do not matter to anybody.
pub(super) fn payload(bytes: u64) -> Payload {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    let mut payload = Payload::default();
    let mut missing = usize::try_from(bytes).unwrap_or(usize::MAX);
    while missing > 0 {
        let chunk = missing.min(ZEROS.len());
        payload.push(Bytes::from_static(&ZEROS[..chunk]));
        missing -= chunk;
    }
    payload
}

impl World {
    /// A new wire from a duke to the king.
    pub(super) fn wire_duke(&mut self, link: DukeId) -> Outbox<DukeWord> {
        let (outbox, stream) = Outbox::new();
        self.duke_wires.insert(link, stream);
        outbox
    }

    /// A new wire from a queen to the king.
    pub(super) fn wire_queen(&mut self, sender: Sender) -> Outbox<QueenWord> {
        let (outbox, stream) = Outbox::new();
        self.queen_wires.insert(sender, stream);
        outbox
    }

    /// Sends off what a peer has put into its outbox, after a pause.
    pub(super) fn carry_to_king(&mut self, in_us: u64, sender: Sender) {
        match sender {
            Sender::Duke(link) => {
                let Some((words, _)) = self.duke_wires.get_mut(&link).map(drain) else { return };
                let words = self.watch_duke(link, words);
                for parcel in self.parcels(words) {
                    self.send_later(in_us, sender, true, Due::ToKing(sender, Said::Duke(parcel)));
                }
            }
            Sender::Queen(..) => {
                let Some((words, _)) = self.queen_wires.get_mut(&sender).map(drain) else { return };
                for parcel in self.parcels(words) {
                    self.send_later(in_us, sender, true, Due::ToKing(sender, Said::Queen(parcel)));
                }
            }
        }
    }

    /// Divides words into parcels: seldom more than one.
    pub(super) fn parcels<W: Carried>(&mut self, mut words: Vec<W>) -> Vec<Parcel<W>> {
        let mut parcels = Vec::new();
        while words.len() > 1 && self.dice.permille(200) {
            let rest = words.split_off(1 + self.dice.below(words.len() as u64 - 1) as usize);
            parcels.push(Parcel(std::mem::replace(&mut words, rest)));
        }
        if !words.is_empty() {
            parcels.push(Parcel(words));
        }
        parcels
    }

    /// Sends something over a link: late, but in order.
    pub(super) fn send(&mut self, link: Sender, to_king: bool, due: Due) {
        self.send_later(0, link, to_king, due);
    }

    /// Sends something over a link after a pause of the sender: late, but in order.
    fn send_later(&mut self, in_us: u64, link: Sender, to_king: bool, due: Due) {
        let mut at = self.now.0 + in_us + self.dice.below(self.weather.delay_us_max);
        let mut transfer_us = 0;
        if let Sender::Duke(link) = link
            && let Some(Slowness { delay_us_max, us_per_kib }) = self.slow_links.get(&link).copied()
        {
            at += self.dice.below(delay_us_max + 1);
            let bytes = match &due {
                Due::ToKing(_, Said::Duke(parcel)) => parcel.bytes(),
                Due::ToDuke(_, parcel) => parcel.bytes(),
                _ => 0,
            };
            transfer_us = (bytes.min(UNIT_BYTES_MAX) * us_per_kib) >> 10;
        }
        let arrival = self.arrivals.get(&(link, to_king)).copied().unwrap_or_default();
        let mut at = arrival.0.max(at) + transfer_us;
        if to_king {
            at = at.next_multiple_of(self.weather.king_listens_us);
        }
        self.arrivals.insert((link, to_king), Time(at));
        self.at(Time(at), due);
    }

    /// Breaks a link: messages in transit may be lost, in both directions. The king notices it separately.
    pub(super) fn cut(&mut self, link: Sender) {
        for to_king in [true, false] {
            let in_us = self.dice.below(self.weather.delay_us_max);
            self.cut_at(link, to_king, Time(self.now.0 + in_us));
        }
        match link {
            Sender::Duke(link) => drop(self.duke_wires.remove(&link)),
            Sender::Queen(..) => drop(self.queen_wires.remove(&link)),
        }
    }

    /// Breaks a link in one direction at this time, unless it was broken before.
    pub(super) fn cut_at(&mut self, link: Sender, to_king: bool, at: Time) {
        let cut = self.cuts.entry((link, to_king)).or_insert(at);
        *cut = at.min(*cut);
    }

    /// Loses all messages in transit over broken links.
    pub(super) fn lose_what_was_cut_off(&mut self) {
        for cut in self.cuts.values_mut() {
            *cut = self.now.min(*cut);
        }
    }

    pub(super) fn is_cut(&self, link: Sender, to_king: bool) -> bool {
        self.cuts.get(&(link, to_king)).is_some_and(|cut| *cut <= self.now)
    }
}
