//! The memory that the king may use for payloads, over all jobs: three pots, each asked before bytes are taken in.
//!
//! - *Programs*, and archives of shared directories: from when a queen announces them until their last job is over. A
//!   queen for whose job there is no room is asked to try again later.
//! - *Inputs*: each queen is told a window, which is smaller the less room is left. An input for which there is no room
//!   nevertheless ends its link, and the queen comes back with it.
//! - *Results*: the scheduler fetches large ones only when there is room (`scheduler/results.rs`).
//!
//! No token, and no address on another machine, has more than half of a pot. What several of them use counts once for the
//! pot, and for each of them as long as it has a job that uses it: nobody is kept out by what others use, and nobody
//! uses what others have brought without its counting. A job that holds very little always has
//! room for a little more, so that small jobs go on beside large ones.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use distwasm_proto::limits::{
    DECODED_DIVISOR, JOB_RESERVE_BYTES, JOBS_MAX, MESSAGE_UNCOUNTED_BYTES, WINDOW_BYTES, WINDOW_PART,
};
use distwasm_transport::stream::{Meter, NoRoom};

use crate::authority::Origin;

/// The memory for payloads of all jobs.
#[derive(Clone, Debug)]
pub struct Budget {
    /// For programs and archives.
    pub programs: Pot,
    /// For inputs.
    pub inputs: Pot,
    /// For messages that are decoded and wait for the reactor.
    pub decoded_bytes: u64,
}

/// The parts of a king's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For programs and archives.
    pub programs: u64,
    /// For inputs.
    pub inputs: u64,
    /// For results.
    pub results: u64,
    /// Inputs of one job, and results of one job, for which there is always room.
    pub reserve: u64,
}

impl Shares {
    /// Divides the memory that the king may use.
    pub fn of(memory_bytes: u64) -> Shares {
        let eighth = memory_bytes / 8;
        // The last eighth is for what is not counted in bytes of payloads.
        let reserve = (eighth / 2 / JOBS_MAX as u64).min(JOB_RESERVE_BYTES);
        Shares { programs: 3 * eighth, inputs: 2 * eighth, results: 2 * eighth, reserve }
    }
}

impl Budget {
    /// A budget of which nothing is taken.
    pub fn new(memory_bytes: u64) -> Budget {
        let Shares { programs, inputs, reserve, .. } = Shares::of(memory_bytes);
        Budget {
            programs: Pot::new(programs, programs / 2, 0),
            inputs: Pot::new(inputs, inputs / 2, reserve),
            decoded_bytes: memory_bytes / DECODED_DIVISOR,
        }
    }
}

/// Bytes that may be taken, and who has taken them.
#[derive(Clone, Debug)]
pub struct Pot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: u64,
    most_of_peer: u64,
    reserve: u64,
    taken: AtomicU64,
    /// Of origins that have a part of the pot.
    accounts: Mutex<HashMap<Origin, Weak<Taken>>>,
}

/// What one peer has taken of a pot. The peers of the king's own machine have one each.
#[derive(Clone, Debug)]
pub struct Account {
    pot: Pot,
    /// `None` for peers that may have all of it.
    of_peer: Option<Arc<Taken>>,
}

#[derive(Debug)]
struct Taken {
    pot: Weak<Inner>,
    origin: Origin,
    bytes: AtomicU64,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All peers together have taken all.
    All,
    /// The peer has taken its part.
    Peer,
}

impl Pot {
    fn new(most: u64, most_of_peer: u64, reserve: u64) -> Pot {
        Pot(Arc::new(Inner { most, most_of_peer, reserve, taken: AtomicU64::new(0), accounts: Mutex::default() }))
    }

    /// The account of a peer of this origin.
    pub fn account(&self, origin: Origin) -> Account {
        if !origin.is_bounded() {
            return Account { pot: self.clone(), of_peer: None };
        }
        let mut accounts = self.0.accounts();
        let known = accounts.get(&origin).and_then(Weak::upgrade);
        let of_peer = known.unwrap_or_else(|| {
            let taken = Taken { pot: Arc::downgrade(&self.0), origin, bytes: AtomicU64::new(0) };
            let taken = Arc::new(taken);
            accounts.insert(origin, Arc::downgrade(&taken));
            taken
        });
        drop(accounts);
        Account { pot: self.clone(), of_peer: Some(of_peer) }
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// The most that may be taken.
    pub fn most(&self) -> u64 {
        self.0.most
    }
}

impl Inner {
    fn accounts(&self) -> MutexGuard<'_, HashMap<Origin, Weak<Taken>>> {
        // Nothing in here can panic half-way through a change.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(inner) = self.pot.upgrade() else { return };
        let mut accounts = inner.accounts();
        // The peer may have come again meanwhile.
        if accounts.get(&self.origin).is_some_and(|taken| taken.strong_count() == 0) {
            accounts.remove(&self.origin);
        }
    }
}

impl Account {
    /// Whether there is room for `bytes` more.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn check(&self, bytes: u64) -> Result<(), Full> {
        let inner = &self.pot.0;
        let has_room = |taken: &AtomicU64, most| taken.load(Ordering::Relaxed).saturating_add(bytes) <= most;
        if !has_room(&inner.taken, inner.most) {
            return Err(Full::All);
        }
        match &self.of_peer {
            Some(of_peer) if !has_room(&of_peer.bytes, inner.most_of_peer) => Err(Full::Peer),
            _ => Ok(()),
        }
    }

    /// Takes bytes, whether there is room for them or not.
    pub(crate) fn take(&self, bytes: u64) {
        self.counters().for_each(|taken| _ = taken.fetch_add(bytes, Ordering::Relaxed));
    }

    /// Gives back bytes that were taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.counters().for_each(|taken| _ = taken.fetch_sub(bytes, Ordering::Relaxed));
    }

    fn counters(&self) -> impl Iterator<Item = &AtomicU64> {
        let of_peer = self.of_peer.iter().map(|taken| &taken.bytes);
        std::iter::once(&self.pot.0.taken).chain(of_peer)
    }

    /// Bytes of one payload for which there may be room at all.
    pub(crate) fn most(&self) -> u64 {
        if self.of_peer.is_some() { self.pot.0.most_of_peer } else { self.pot.0.most }
    }

    /// Bytes that a job may take without asking.
    pub(crate) fn reserve(&self) -> u64 {
        self.pot.0.reserve
    }

    /// The window for a job that has taken `own` bytes: a part of what the others leave, as a power of two.
    ///
    /// Each job has the same part of what is left, so that a job alone has much, many have little, and there is always
    /// some room for one more (A. K. Choudhury, E. L. Hahne, Dynamic queue length thresholds for shared-memory packet
    /// switches, 1998).
    pub(crate) fn window(&self, own: u64) -> u64 {
        let left = |taken: &AtomicU64, most: u64| {
            most.saturating_sub(taken.load(Ordering::Relaxed).saturating_sub(own)) / WINDOW_PART
        };
        let inner = &self.pot.0;
        let of_peer = self.of_peer.iter().map(|taken| left(&taken.bytes, inner.most_of_peer));
        let left = of_peer.fold(left(&inner.taken, inner.most), u64::min);
        let bytes = left.clamp(inner.reserve.max(1), WINDOW_BYTES.max(inner.reserve));
        1 << bytes.ilog2()
    }
}

/// Counts the parts of long messages among the inputs of their peer.
#[derive(Debug)]
pub(crate) struct MessageMeter(Claim);

impl MessageMeter {
    pub(crate) fn new(account: Account) -> MessageMeter {
        MessageMeter(Claim::new(account))
    }
}

impl Meter for MessageMeter {
    fn hold(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let bytes = (bytes as u64).saturating_sub(MESSAGE_UNCOUNTED_BYTES);
        let held = self.0.bytes();
        if bytes > held {
            return self.0.add(bytes - held).map_err(|_| NoRoom);
        }
        if bytes < held {
            drop(self.0.split(held - bytes));
        }
        Ok(())
    }
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub struct Claim {
    account: Account,
    bytes: u64,
}

impl Claim {
    /// Nothing is claimed yet.
    pub fn new(account: Account) -> Claim {
        Claim { account, bytes: 0 }
    }

    /// Takes more bytes.
    ///
    /// # Errors
    ///
    /// When there is no room for them; then nothing changes.
    pub fn add(&mut self, bytes: u64) -> Result<(), Full> {
        // Others may take the same room at the same time: then each of them may go over by the one payload.
        self.account.check(bytes)?;
        self.force(bytes);
        Ok(())
    }

    /// Takes more bytes, whether there is room for them or not.
    pub(crate) fn force(&mut self, bytes: u64) {
        self.account.take(bytes);
        self.bytes += bytes;
    }

    /// How many bytes are claimed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes may be claimed at all.
    pub(crate) fn most(&self) -> u64 {
        self.account.most()
    }

    /// Divides it into what counts for all together and what counts for its origin, which may then end at different
    /// times: several origins can have the same bytes.
    pub(crate) fn into_parts(mut self) -> (WholePart, OriginPart) {
        let (bytes, account) = (std::mem::take(&mut self.bytes), self.account.clone());
        (WholePart { pot: account.pot, bytes }, OriginPart { of_peer: account.of_peer, bytes })
    }

    /// A claim of its own for `bytes` of these, or for all of them if there are fewer.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Claim {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Claim { account: self.account.clone(), bytes }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

/// Bytes that are taken of a pot, and count for no origin, until this is dropped.
#[derive(Debug)]
pub(crate) struct WholePart {
    pot: Pot,
    bytes: u64,
}

/// Bytes that count for an origin, and not for the pot, until this is dropped.
#[derive(Debug)]
pub(crate) struct OriginPart {
    of_peer: Option<Arc<Taken>>,
    bytes: u64,
}

impl Drop for WholePart {
    fn drop(&mut self) {
        self.pot.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for OriginPart {
    fn drop(&mut self) {
        self.of_peer.iter().for_each(|taken| _ = taken.bytes.fetch_sub(self.bytes, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 8 << 30;

    fn address(last: u8) -> Origin {
        Origin::Address([10, 0, 0, last].into())
    }

    #[test]
    fn a_pot_has_its_bound_and_each_origin_has_half_of_it() {
        let Budget { programs: pot, .. } = Budget::new(LIMIT);
        let claim = |last, bytes| {
            let mut claim = Claim::new(pot.account(address(last)));
            claim.add(bytes).map(|()| claim)
        };
        let half = pot.most() / 2;
        let first = claim(1, half).unwrap();
        assert_eq!(claim(1, 1).err(), Some(Full::Peer));
        let second = claim(2, half).unwrap();
        assert_eq!(claim(3, 1).err(), Some(Full::All));
        drop(first);
        let again = claim(1, half).unwrap();
        drop((second, again));
        assert_eq!((pot.taken(), pot.0.accounts().len()), (0, 0));
    }

    #[test]
    fn the_own_machine_may_have_all_of_a_pot() {
        let pot = Budget::new(LIMIT).programs;
        let mut claim = Claim::new(pot.account(Origin::Here));
        claim.add(pot.most()).unwrap();
        assert_eq!(claim.add(1), Err(Full::All));
    }

    #[test]
    fn a_claim_can_be_divided() {
        let pot = Budget::new(LIMIT).programs;
        let mut claim = Claim::new(pot.account(Origin::Here));
        claim.add(10).unwrap();
        let (part, rest) = (claim.split(4), claim.split(100));
        drop(claim);
        assert_eq!(pot.taken(), 10);
        drop(rest);
        assert_eq!(pot.taken(), 4);
        drop(part);
        assert_eq!(pot.taken(), 0);
    }

    #[test]
    fn a_window_is_smaller_the_more_the_others_have() {
        let pot = Budget::new(LIMIT / 8).inputs;
        let (most, account) = (pot.most(), pot.account(Origin::Here));
        let windows_of = |jobs: usize| {
            // Each fills its window again and again.
            let mut windows = vec![0; jobs];
            for _ in 0..20 {
                for own in &mut windows {
                    account.give_back(*own);
                    *own = account.window(0);
                    account.take(*own);
                    assert!(pot.taken() <= most + jobs as u64 * account.reserve());
                }
            }
            windows.iter().for_each(|own| account.give_back(*own));
            windows
        };
        assert_eq!(windows_of(1), [most / 8]);
        let windows = windows_of(8);
        assert!(windows.iter().all(|window| (most / 32..=most / 8).contains(window)), "{windows:?}");
        assert!(windows_of(300).iter().all(|window| *window >= account.reserve() / 2));
        account.take(LIMIT);
        assert_eq!(account.window(LIMIT), most / 8, "what the job has itself does not count");
        assert!(account.window(0) > 0);
    }

    #[test]
    fn parts_of_long_messages_are_counted_until_the_messages_are_here() {
        let pot = Budget::new(64 << 20).inputs;
        let meter = || MessageMeter::new(pot.account(Origin::Here));
        let mut meters: Vec<MessageMeter> = (0..100).map(|_| meter()).collect();
        let begun = meters.iter_mut().map_while(|meter| meter.hold(1 << 20).ok()).count() as u64;
        assert_eq!(begun, pot.most() / ((1 << 20) - MESSAGE_UNCOUNTED_BYTES));
        // Short messages are not held up.
        assert_eq!(meter().hold(10_000), Ok(()));
        assert_eq!(meters[0].hold(0), Ok(()));
        assert_eq!(meter().hold(1 << 20), Ok(()));
        drop(meters);
        assert_eq!(pot.taken(), 0);
    }
}
