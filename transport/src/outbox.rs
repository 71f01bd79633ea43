//! Outgoing words: where a reactor puts them, and how they become messages.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use distwasm_proto::{
    limits::{MESSAGE_FILL_BYTES, MESSAGE_WORDS, PIECE_BYTES, UNCOUNTED_BYTES_MAX},
    wire,
};
use futures_core::Stream;

use crate::{payload::Payload, transfer::Word};

/// Outgoing words. The scheduler's windows count most of the words that wait here; those that no window counts have a
/// bound of their own.
pub struct Outbox<W> {
    state: Arc<Mutex<State<W>>>,
}

/// More words wait than a peer that reads ever lets gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// A payload on its way out of an [`Outbox`].
#[derive(Debug)]
pub struct Sending(Weak<()>);

impl Sending {
    /// Whether the connection has taken all of it, or is gone.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

struct State<W> {
    words: VecDeque<Waiting<W>>,
    /// Words that others may overtake, and the bytes that have overtaken the first of them.
    behind: VecDeque<W>,
    overtaken_bytes: usize,
    /// How many words were taken out of `words`.
    taken: u64,
    /// A word that the next of its kind replaces, and how many words go before it.
    latest: Option<(u64, W)>,
    /// The payload whose first part was sent.
    rest: Rest,
    /// The size of the words that no window counts.
    uncounted_bytes: usize,
    closed: bool,
    waker: Option<Waker>,
}

struct Waiting<W> {
    word: W,
    payload: Payload,
    /// Its size, if no window counts it.
    uncounted_bytes: usize,
    /// Dropped when all of the payload is sent.
    sending: Option<Arc<()>>,
}

/// The parts of a payload that have not been sent.
#[derive(Default)]
struct Rest {
    payload: Payload,
    /// The number of the chunk, and how much of the chunk was sent.
    chunk: usize,
    sent: usize,
    _sending: Option<Arc<()>>,
}

impl<W> Clone for Outbox<W> {
    fn clone(&self) -> Self {
        Outbox { state: Arc::clone(&self.state) }
    }
}

impl<W> fmt::Debug for Outbox<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

fn lock<W>(state: &Mutex<State<W>>) -> MutexGuard<'_, State<W>> {
    // Nothing in here can panic half-way through a change; a poisoned lock still guards a whole state.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Word> Outbox<W> {
    /// An empty outbox and the stream that empties it.
    pub fn new() -> (Outbox<W>, OutboxStream<W>) {
        let state = State {
            words: VecDeque::new(),
            behind: VecDeque::new(),
            overtaken_bytes: 0,
            taken: 0,
            latest: None,
            rest: Rest::default(),
            uncounted_bytes: 0,
            closed: false,
            waker: None,
        };
        let state = Arc::new(Mutex::new(state));
        (Outbox { state: Arc::clone(&state) }, OutboxStream { state })
    }

    /// Appends a word without a payload.
    pub fn push(&self, word: impl Into<W>) {
        self.push_with(word, Payload::default());
    }

    /// Appends a word with its payload. A word for a connection that is gone is dropped.
    pub fn push_with(&self, word: impl Into<W>, payload: Payload) {
        lock(&self.state).push(Waiting { word: word.into(), payload, uncounted_bytes: 0, sending: None });
    }

    /// Appends a word with its payload, and tells how long it is on its way.
    pub fn push_watched(&self, word: impl Into<W>, payload: Payload) -> Sending {
        let on_its_way = Arc::new(());
        let sending = Sending(Arc::downgrade(&on_its_way));
        lock(&self.state).push(Waiting { word: word.into(), payload, uncounted_bytes: 0, sending: Some(on_its_way) });
        sending
    }

    /// Appends a word without a payload that other words may overtake, but not more than a message of them.
    pub fn push_behind(&self, word: impl Into<W>) {
        let mut state = lock(&self.state);
        if !state.closed {
            state.behind.push_back(word.into());
            state.wake();
        }
    }

    /// Appends a word that no window counts. If `merge` adds it to the last word that waits, it takes no place of its
    /// own.
    ///
    /// # Errors
    ///
    /// When such words of more than [`UNCOUNTED_BYTES_MAX`] wait: the peer does not read. The word is dropped.
    pub fn push_uncounted(&self, word: impl Into<W>, merge: impl FnOnce(&mut W, &W) -> bool) -> Result<(), Overflow> {
        let (mut state, word) = (lock(&self.state), word.into());
        if state.closed {
            return Ok(());
        }
        let uncounted_bytes = size_of::<Waiting<W>>() + word.encoded_len();
        if state.uncounted_bytes + uncounted_bytes > UNCOUNTED_BYTES_MAX {
            return Err(Overflow);
        }
        state.uncounted_bytes += uncounted_bytes;
        let last = state.words.back_mut().filter(|last| last.uncounted_bytes + uncounted_bytes <= PIECE_BYTES);
        if let Some(last) = last
            && merge(&mut last.word, &word)
        {
            last.uncounted_bytes += uncounted_bytes;
        } else {
            state.push(Waiting { word, payload: Payload::default(), uncounted_bytes, sending: None });
        }
        Ok(())
    }

    /// Appends a word that replaces the last word that was appended in this way, if that one still waits.
    pub fn push_latest(&self, word: impl Into<W>) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let after = state.taken + state.words.len() as u64;
        let after = state.latest.take().map_or(after, |(after, _)| after);
        state.latest = Some((after, word.into()));
        state.wake();
    }

    /// Takes out the words that are not wanted any more, if no part of them was sent.
    pub fn take_back(&self, is_unwanted: impl Fn(&W) -> bool) {
        let state = &mut *lock(&self.state);
        state.behind.retain(|word| !is_unwanted(word));
        let uncounted_bytes = &mut state.uncounted_bytes;
        state.words.retain(|waiting| {
            let stays = !is_unwanted(&waiting.word);
            *uncounted_bytes -= if stays { 0 } else { waiting.uncounted_bytes };
            stays
        });
    }

    /// Drops all words of which no part was sent: the peer will not read them over this connection.
    pub fn clear(&self) {
        lock(&self.state).clear();
    }

    /// Ends the stream after the words that are in it.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.wake();
    }
}

/// The stream that empties an [`Outbox`].
pub struct OutboxStream<W> {
    state: Arc<Mutex<State<W>>>,
}

impl<W: Word> Stream for OutboxStream<W> {
    type Item = W::Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<W::Message>> {
        let mut state = lock(&self.state);
        let words = state.next_batch();
        if words.is_empty() {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(W::message(words)))
    }
}

impl<W> Drop for OutboxStream<W> {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.clear();
        state.rest = Rest::default();
    }
}

impl<W> State<W> {
    fn push(&mut self, waiting: Waiting<W>) {
        if !self.closed {
            self.words.push_back(waiting);
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn clear(&mut self) {
        (self.words, self.latest, self.uncounted_bytes) = (VecDeque::new(), None, 0);
        self.behind.clear();
    }

    /// The next of the words that others may overtake, if it is its turn.
    fn take_behind(&mut self) -> Option<W> {
        if !self.words.is_empty() && self.overtaken_bytes < MESSAGE_FILL_BYTES {
            return None;
        }
        self.overtaken_bytes = 0;
        self.behind.pop_front()
    }

    /// The latest word of its kind, if it is that word's turn.
    fn take_latest(&mut self) -> Option<W> {
        self.latest.take_if(|(after, _)| *after <= self.taken || self.words.is_empty()).map(|(_, word)| word)
    }
}

impl<W: Word> State<W> {
    /// Takes words and pieces until a message is full.
    fn next_batch(&mut self) -> Vec<W> {
        let mut words = Vec::new();
        let mut room = MESSAGE_FILL_BYTES;
        while room > 0 && words.len() < MESSAGE_WORDS {
            let word = if let Some(data) = self.rest.take_part(PIECE_BYTES.min(room)) {
                W::of_piece(wire::Piece { data, broken: String::new() })
            } else if let Some(word) = self.take_latest().or_else(|| self.take_behind()) {
                word
            } else if let Some(Waiting { mut word, payload, uncounted_bytes, sending }) = self.words.pop_front() {
                self.taken += 1;
                self.uncounted_bytes -= uncounted_bytes;
                if let Some(place) = word.payload() {
                    let bytes_total = payload.bytes();
                    let data = if bytes_total > 0 {
                        self.rest = Rest { payload, _sending: sending, ..Rest::default() };
                        self.rest.take_part(PIECE_BYTES.min(room)).unwrap_or_default()
                    } else {
                        Bytes::new()
                    };
                    *place = Some(wire::Payload { bytes_total, data });
                }
                word
            } else {
                break;
            };
            let bytes = word.encoded_len();
            room = room.saturating_sub(bytes);
            self.overtaken_bytes += if self.behind.is_empty() { 0 } else { bytes };
            words.push(word);
        }
        words
    }
}

impl Rest {
    /// The rest of the chunk, or as much of it as there is room for.
    fn take_part(&mut self, room: usize) -> Option<Bytes> {
        let chunk = self.payload.chunk(self.chunk)?;
        let rest = chunk.slice(self.sent.min(chunk.len())..);
        if rest.len() > room {
            self.sent += room;
            return Some(rest.slice(..room));
        }
        (self.chunk, self.sent) = (self.chunk + 1, 0);
        if self.payload.chunk(self.chunk).is_none() {
            *self = Rest::default();
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use distwasm_proto::wire::{DukeOrder, Forget, GrantSlots, JobState, QueenNews, Verdict};
    use wire::{duke_order::Order, queen_news::News};

    use super::*;

    fn next<W: Word>(stream: &mut OutboxStream<W>) -> Option<W::Message> {
        match Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        }
    }

    fn verdict(unit: u64) -> News {
        News::Verdict(Verdict { unit, ..Verdict::default() })
    }

    fn state(slots: u32) -> News {
        News::JobState(JobState { slots, ..JobState::default() })
    }

    #[test]
    fn only_the_newest_state_of_a_job_waits_and_keeps_its_place() {
        let (outbox, mut stream) = Outbox::<QueenNews>::new();
        outbox.push(verdict(1));
        (0..1_000_000).for_each(|slots| outbox.push_latest(state(slots)));
        outbox.push(verdict(2));
        outbox.push_latest(state(7));
        let kind_of = |news: QueenNews| match news.news {
            Some(News::Verdict(verdict)) => ("verdict", verdict.unit),
            Some(News::JobState(state)) => ("state", state.slots.into()),
            other => panic!("{other:?}"),
        };
        let news: Vec<_> = next(&mut stream).unwrap().news.into_iter().map(kind_of).collect();
        assert_eq!(news, [("verdict", 1), ("state", 7), ("verdict", 2)]);
        outbox.push_latest(state(8));
        assert_eq!(next(&mut stream).unwrap().news, [state(8).into()]);
    }

    #[test]
    fn a_state_does_not_come_between_the_parts_of_a_payload() {
        let (outbox, mut stream) = Outbox::<QueenNews>::new();
        outbox.push_with(verdict(1), Payload::from(vec![0; 3 * MESSAGE_FILL_BYTES]));
        let first = next(&mut stream).unwrap();
        outbox.push_latest(state(1));
        let words = std::iter::once(first).chain(std::iter::from_fn(|| next(&mut stream)));
        let words: Vec<QueenNews> = words.flat_map(|message| message.news).collect();
        assert_eq!(words.last(), Some(&state(1).into()));
        assert!(words.len() > 10);
    }

    #[test]
    fn words_overtake_those_that_go_behind_but_not_for_ever() {
        let part = |offset| {
            let data = Bytes::from(vec![0; PIECE_BYTES]);
            Order::InputPart(wire::InputPart { attempt: 1, offset, data })
        };
        let kind_of = |order: &DukeOrder| match &order.order {
            Some(Order::InputPart(part)) => Some(part.offset),
            _ => None,
        };
        let (outbox, mut stream) = Outbox::<DukeOrder>::new();
        (0..3).for_each(|offset| outbox.push_behind(part(offset)));
        outbox.push(Order::GrantSlots(GrantSlots { job: 1, slots: 1 }));
        let orders = next(&mut stream).unwrap().orders;
        assert_eq!(orders.iter().map(kind_of).collect::<Vec<_>>(), [None, Some(0), Some(1), Some(2)]);
        (0..3).for_each(|offset| outbox.push_behind(part(offset)));
        let blob = || Order::Blob(wire::Blob::default());
        (0..9).for_each(|_| outbox.push_with(blob(), Payload::from(vec![0; MESSAGE_FILL_BYTES])));
        let orders: Vec<DukeOrder> = std::iter::from_fn(|| next(&mut stream)).flat_map(|to| to.orders).collect();
        let places: Vec<usize> = (0..orders.len()).filter(|place| kind_of(&orders[*place]).is_some()).collect();
        assert!(places.len() == 3 && places[0] < 12 && places[2] < 30, "{places:?}");
        // They do not come within the payload of another word.
        let is_piece = |place: usize| matches!(orders[place + 1].order, Some(Order::Piece(_)));
        assert!(places.iter().all(|place| !is_piece(*place)), "{places:?}");
        outbox.push_behind(part(0));
        outbox.take_back(|_| true);
        assert!(next(&mut stream).is_none());
    }

    #[test]
    fn words_that_no_window_counts_are_merged_and_have_a_bound() {
        let merge = |last: &mut DukeOrder, next: &DukeOrder| match (&mut last.order, &next.order) {
            (Some(Order::Forget(last)), Some(Order::Forget(next))) => {
                last.attempts.extend(&next.attempts);
                true
            }
            _ => false,
        };
        let (outbox, mut stream) = Outbox::<DukeOrder>::new();
        let forget = |attempt| Order::Forget(Forget { attempts: vec![attempt], unused: Vec::new() });
        (0..100).for_each(|attempt| outbox.push_uncounted(forget(attempt), merge).unwrap());
        let orders = next(&mut stream).unwrap().orders;
        assert!(matches!(&orders[..], [DukeOrder { order: Some(Order::Forget(all)) }] if all.attempts.len() == 100));
        let grant = || Order::GrantSlots(GrantSlots { job: 1, slots: 1 });
        for _ in 0..3 {
            let waiting = (0..).take_while(|_| outbox.push_uncounted(grant(), merge) == Ok(())).count();
            assert!((10_000..UNCOUNTED_BYTES_MAX).contains(&waiting), "{waiting}");
            // What was taken makes room again, in whatever way it was taken.
            while next(&mut stream).is_some() {}
            (0..10_000).for_each(|_| outbox.push_uncounted(grant(), merge).unwrap());
            outbox.take_back(|_| true);
        }
    }

    #[test]
    fn a_payload_is_on_its_way_until_its_last_part_is_taken() {
        let order = || Order::Blob(wire::Blob::default());
        let (outbox, mut stream) = Outbox::<DukeOrder>::new();
        let sending = outbox.push_watched(order(), Payload::from(vec![0; 3 * MESSAGE_FILL_BYTES]));
        let mut messages = 0;
        while !sending.is_over() {
            messages += 1;
            next(&mut stream).unwrap();
        }
        assert!(messages >= 3 && next(&mut stream).is_none());
        assert!(!outbox.push_watched(order(), Payload::default()).is_over());
        let dropped = outbox.push_watched(order(), Payload::from(vec![0; 5]));
        drop(stream);
        assert!(dropped.is_over() && outbox.push_watched(order(), Payload::default()).is_over());
    }
}
