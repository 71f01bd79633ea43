//! The scheduler's view of the units of a job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use distwasm_proto::ids::{DukeId, UnitNo};

/// One unit, in as few bytes as it takes: a job may have millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) bytes: u64,
    pub(super) state: UnitState,
    pub(super) attempts: u32,
    pub(super) failures: u32,
    pub(super) kills: u32,
    /// How long it had run when it was last preempted, in milliseconds; 0 if it never was.
    pub(super) preempted_ms: u32,
    /// Attempts that have not ended: two where a second was made because the first took long.
    pub(super) trying: u8,
    /// It was in a pipe with others when its peasant died or hung.
    pub(super) suspect: bool,
    /// The king has its input.
    pub(super) has_input: bool,
    /// The duke where it last killed its peasant.
    pub(super) avoid: Option<DukeId>,
}

/// The state of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnitState {
    /// Its queen has not sent it again yet.
    Missing,
    /// It may run at a duke that has not come back yet.
    Parked,
    /// In one of the queues of its job.
    Waiting,
    /// It has an attempt.
    Trying,
    /// It has its verdict.
    Reported,
}

impl Unit {
    /// A unit that has arrived.
    pub(super) fn new(bytes: u64) -> Unit {
        Unit { bytes, has_input: true, state: UnitState::Waiting, ..Unit::missing() }
    }

    /// A unit that is wanted, and whose input has not arrived.
    fn missing() -> Unit {
        Unit {
            bytes: 0,
            state: UnitState::Missing,
            attempts: 0,
            failures: 0,
            kills: 0,
            preempted_ms: 0,
            trying: 0,
            suspect: false,
            has_input: false,
            avoid: None,
        }
    }

    /// Whether it must not share a pipe with another unit.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect || self.kills > 0
    }
}

/// The units of a job from the first that is without a verdict. Numbers are dense, so a unit's place is its number.
#[derive(Debug, Default)]
pub(super) struct Units {
    first: u64,
    units: VecDeque<Unit>,
    /// Units without a verdict that were numbered before the queen came back.
    earlier: BTreeMap<UnitNo, Unit>,
    /// Those of them that have got their verdict since, so that no duke claims them.
    closed: BTreeSet<UnitNo>,
    open: u64,
}

impl Units {
    /// Takes in a unit that arrived: the next one, or one that was missing. Returns it, unless it was here already.
    pub(super) fn arrive(&mut self, no: UnitNo, bytes: u64) -> Option<&mut Unit> {
        if no.0 == self.first + self.units.len() as u64 {
            self.units.push_back(Unit::new(bytes));
            self.open += 1;
            return self.units.back_mut();
        }
        let unit = self.earlier.get_mut(&no).filter(|unit| !unit.has_input)?;
        unit.has_input = true;
        unit.bytes = bytes;
        if unit.state == UnitState::Missing {
            unit.state = UnitState::Waiting;
        }
        Some(unit)
    }

    /// Adds a unit that a returning queen or duke names, if this king has not heard of it. Returns the unit, unless it
    /// has its verdict.
    pub(super) fn claim(&mut self, no: UnitNo) -> Option<&mut Unit> {
        if self.closed.contains(&no) {
            return None;
        }
        let open = &mut self.open;
        let unit = self.earlier.entry(no).or_insert_with(|| {
            *open += 1;
            Unit::missing()
        });
        Some(unit)
    }

    /// The queen came back: it has numbered `sent` units, and lacks the verdicts of `lacking`. Returns units that are
    /// being tried although the queen already has their verdict.
    pub(super) fn resume(&mut self, sent: u64, lacking: &[UnitNo]) -> Vec<UnitNo> {
        let lacking: BTreeSet<UnitNo> = lacking.iter().copied().collect();
        let unwanted = |(no, unit): (&UnitNo, &Unit)| (!unit.has_input && !lacking.contains(no)).then_some(*no);
        let unwanted = self.earlier.iter().filter_map(unwanted).collect();
        let next = self.first + self.units.len() as u64;
        if sent > next {
            let open = self.iter().filter(|(_, unit)| unit.state != UnitState::Reported);
            let earlier = open.map(|(no, unit)| (no, *unit)).collect();
            *self = Units { first: sent, earlier, open: self.open, ..Units::default() };
            for no in lacking.range(UnitNo(next)..UnitNo(sent)) {
                self.claim(*no);
            }
        }
        unwanted
    }

    /// A unit that is still kept: all units without a verdict are, and some with one.
    pub(super) fn get_mut(&mut self, no: UnitNo) -> Option<&mut Unit> {
        match self.place(no) {
            Some(place) => self.units.get_mut(place),
            None => self.earlier.get_mut(&no),
        }
    }

    /// A unit that is still kept, read-only.
    pub(super) fn get(&self, no: UnitNo) -> Option<&Unit> {
        match self.place(no) {
            Some(place) => self.units.get(place),
            None => self.earlier.get(&no),
        }
    }

    fn place(&self, no: UnitNo) -> Option<usize> {
        usize::try_from(no.0.checked_sub(self.first)?).ok().filter(|place| *place < self.units.len())
    }

    /// Marks a unit as reported, and says how often it was tried.
    pub(super) fn close(&mut self, no: UnitNo) -> u32 {
        if let Some(unit) = self.earlier.remove(&no) {
            self.open -= 1;
            self.closed.insert(no);
            return unit.attempts;
        }
        let Some(closed) = self.get_mut(no) else { return 0 };
        debug_assert!(closed.state != UnitState::Reported, "a unit has one verdict");
        closed.state = UnitState::Reported;
        let attempts = closed.attempts;
        self.open -= 1;
        while self.units.front().is_some_and(|unit| unit.state == UnitState::Reported) {
            self.units.pop_front();
            self.first += 1;
        }
        attempts
    }

    /// Whether it was numbered before the queen came back.
    pub(super) fn is_earlier(&self, no: UnitNo) -> bool {
        self.earlier.contains_key(&no)
    }

    /// Forgets an earlier unit that is not wanted any more.
    pub(super) fn drop_earlier(&mut self, no: UnitNo) {
        self.open -= u64::from(self.earlier.remove(&no).is_some());
    }

    /// How many units are without a verdict.
    pub(super) fn open(&self) -> u64 {
        self.open
    }

    /// All units that are kept, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UnitNo, &Unit)> {
        let earlier = self.earlier.iter().map(|(no, unit)| (*no, unit));
        earlier.chain((self.first..).map(UnitNo).zip(&self.units))
    }

    /// Units that were numbered before the queen came back.
    pub(super) fn earlier_mut(&mut self) -> impl Iterator<Item = (UnitNo, &mut Unit)> {
        self.earlier.iter_mut().map(|(no, unit)| (*no, unit))
    }
}
