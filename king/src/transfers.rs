//! Streamed inputs and results on their way through the king: which parts the receiver has asked for, which of them the
//! king has asked the sender for, and which were passed on. An input goes from a queen to a duke, a result from a duke to a
//! queen. No byte of them is held here: a part goes into the receiver's outbox at once, and no more are on their way than
//! the room that is claimed for the transfer.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use distwasm_proto::ids::{AttemptId, DukeId, JobId, UnitNo};

use crate::budget::Claim;

/// Which transfer: an attempt at a duke, over the duke's link.
pub(crate) type Key = (DukeId, AttemptId);

/// All transfers.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    transfers: BTreeMap<Key, Transfer>,
    /// The transfers that their queens know, by the numbers that they were told.
    numbers: BTreeMap<u64, Key>,
    /// The last of these numbers.
    last: u64,
    /// Transfers for which there was no room when they were looked at, the first to be looked at again first.
    waiting: VecDeque<Key>,
    /// Results that go nowhere any more, some parts of which may wait for their queens.
    given_up: Vec<(JobId, u64)>,
}

/// One streamed input on its way to one duke, or one streamed result on its way from there.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) job: JobId,
    pub(crate) unit: UnitNo,
    /// Set for a result.
    pub(crate) result: Option<OfferedResult>,
    /// Its number over the link of its sender; 0 before the sender was asked for anything.
    number: u64,
    /// The receiver has all before this.
    has: u64,
    /// The receiver takes what is before this.
    pub(crate) until: u64,
    /// All before this was passed on to the receiver.
    passed: u64,
    /// The sender was asked for all before this. It is asked for the next part when that has come, because the threads
    /// that read its files may overtake each other.
    asked: u64,
    /// The room for what is on its way, once there is some.
    pub(crate) room: Option<Claim>,
    /// It is among those that wait for room.
    waits: bool,
}

/// A streamed result, as its duke has offered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfferedResult {
    pub(crate) bytes: u64,
    pub(crate) run_us: u64,
    /// The scheduler has found room for it.
    is_fetched: bool,
    /// The queen has asked for it over its link.
    is_asked_for: bool,
}

impl Transfers {
    /// The transfer of this attempt.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Transfer> {
        self.transfers.get_mut(&key)
    }

    /// The transfer of this attempt.
    pub(crate) fn get(&self, key: Key) -> Option<&Transfer> {
        self.transfers.get(&key)
    }

    /// How many inputs of a job go to a duke.
    pub(crate) fn count_at(&self, duke: DukeId, job: JobId) -> usize {
        let at_duke = self.transfers.range((duke, AttemptId(0))..=(duke, AttemptId(u64::MAX)));
        at_duke.filter(|(_, transfer)| transfer.job == job && transfer.result.is_none()).count()
    }

    /// The room of all transfers together.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.transfers.values().map(Transfer::room_bytes).sum()
    }

    /// The transfer with the number that its sender was told. An error if no transfer ever had it.
    pub(crate) fn numbered(&self, number: u64) -> Result<Option<Key>, Unknown> {
        if number == 0 || number > self.last { Err(Unknown) } else { Ok(self.numbers.get(&number).copied()) }
    }

    /// Begins the transfer of an input of which the duke has all before `from`.
    pub(crate) fn begin(&mut self, key: Key, (job, unit): (JobId, UnitNo), from: u64) {
        let (has, until, passed, asked) = (from, from, from, from);
        let (result, number, room, waits) = (None, 0, None, false);
        self.transfers.insert(key, Transfer { job, unit, result, number, has, until, passed, asked, room, waits });
    }

    /// A duke offers a streamed result.
    pub(crate) fn offer(&mut self, key: Key, unit: (JobId, UnitNo), bytes: u64, run_us: u64) {
        self.begin(key, unit, 0);
        if let Some(transfer) = self.transfers.get_mut(&key) {
            transfer.result = Some(OfferedResult { bytes, run_us, is_fetched: false, is_asked_for: false });
        }
    }

    /// There is room for a result. Returns whether it is streamed.
    pub(crate) fn fetch(&mut self, key: Key) -> bool {
        let result = self.transfers.get_mut(&key).and_then(|transfer| transfer.result.as_mut());
        result.map(|result| result.is_fetched = true).is_some()
    }

    /// The results of a job for which there is room.
    pub(crate) fn fetched_of(&self, job: JobId) -> Vec<Key> {
        let is_fetched = |transfer: &Transfer| transfer.result.is_some_and(|result| result.is_fetched);
        let fetched = self.transfers.iter().filter(|(_, transfer)| transfer.job == job && is_fetched(transfer));
        fetched.map(|(key, _)| *key).collect()
    }

    /// The next part that the sender is to be asked for, and the number of the transfer.
    pub(crate) fn next_part(&mut self, key: Key) -> Option<(u64, Range<u64>)> {
        let part = self.transfers.get_mut(&key)?.next_part()?;
        Some((self.number(key)?, part))
    }

    /// The number of a transfer; it gets one if it has none.
    pub(crate) fn number(&mut self, key: Key) -> Option<u64> {
        let transfer = self.transfers.get_mut(&key)?;
        if transfer.number == 0 {
            self.last += 1;
            transfer.number = self.last;
            self.numbers.insert(self.last, key);
        }
        Some(transfer.number)
    }

    /// The queen of a job has another link: what it was asked for over the last one is asked for again. What was on its way
    /// to it is lost, and it will say what it has. Returns the transfers of inputs.
    pub(crate) fn ask_again(&mut self, job: JobId) -> Vec<Key> {
        let mut keys = Vec::new();
        for (key, transfer) in self.transfers.iter_mut().filter(|(_, transfer)| transfer.job == job) {
            self.numbers.remove(&transfer.number);
            transfer.number = 0;
            if let Some(result) = &mut transfer.result {
                result.is_asked_for = false;
                (transfer.has, transfer.until, transfer.passed, transfer.asked) = (0, 0, 0, 0);
            } else {
                transfer.asked = transfer.passed;
                keys.push(*key);
            }
        }
        keys
    }

    /// The transfers of a unit.
    pub(crate) fn of_unit(&self, job: JobId, unit: UnitNo) -> Vec<Key> {
        let is_of_unit = |(_, transfer): &(&Key, &Transfer)| transfer.job == job && transfer.unit == unit;
        self.transfers.iter().filter(is_of_unit).map(|(key, _)| *key).collect()
    }

    /// Whether a transfer of the job has room.
    pub(crate) fn has_room(&self, job: JobId) -> bool {
        self.transfers.values().any(|transfer| transfer.job == job && transfer.room_bytes() > 0)
    }

    /// Notes that there is no room for a transfer.
    pub(crate) fn wait(&mut self, key: Key) {
        if let Some(transfer) = self.transfers.get_mut(&key)
            && !std::mem::replace(&mut transfer.waits, true)
        {
            self.waiting.push_back(key);
        }
    }

    /// Takes out the transfer that has waited longest for a look.
    pub(crate) fn next_waiting(&mut self) -> Option<Key> {
        while let Some(key) = self.waiting.pop_front() {
            if let Some(transfer) = self.transfers.get_mut(&key).filter(|transfer| transfer.waits) {
                transfer.waits = false;
                return Some(key);
            }
        }
        None
    }

    /// How many wait, or have waited and are over.
    pub(crate) fn count_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Ends the transfer of an attempt.
    pub(crate) fn end(&mut self, key: Key) {
        if let Some(transfer) = self.transfers.remove(&key) {
            self.numbers.remove(&transfer.number);
            if transfer.passed > transfer.has {
                self.given_up.extend(transfer.result.map(|_| (transfer.job, transfer.number)));
            }
        }
    }

    /// Takes out the numbers of the results of which some parts may wait for their queens in vain.
    pub(crate) fn take_given_up(&mut self) -> Vec<(JobId, u64)> {
        std::mem::take(&mut self.given_up)
    }

    /// Ends all transfers of this kind; returns them.
    pub(crate) fn end_all(&mut self, is_over: impl Fn(Key, &Transfer) -> bool) -> Vec<Key> {
        let over = self.transfers.iter().filter(|(key, transfer)| is_over(**key, transfer));
        let over: Vec<Key> = over.map(|(key, _)| *key).collect();
        over.iter().for_each(|key| self.end(*key));
        over
    }

    /// All transfers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &Transfer)> {
        self.transfers.iter().map(|(key, transfer)| (*key, transfer))
    }

    /// Asserts every invariant.
    pub(crate) fn check(&self) {
        for (key, transfer) in &self.transfers {
            let Transfer { has, passed, asked, until, number, waits, .. } = *transfer;
            assert!(has <= passed && passed <= asked && asked <= until.max(passed), "parts_are_in_order: {key:?}");
            assert!(asked - has <= transfer.room_bytes(), "parts_are_asked_for_with_room: {key:?}");
            assert!(number == 0 || self.numbers.get(&number) == Some(key), "transfer_is_found_by_its_number: {key:?}");
            assert!(!waits || self.waiting.contains(key), "transfer_that_waits_is_looked_at: {key:?}");
            let is_wanted = |result: OfferedResult| result.is_fetched && result.is_asked_for && until <= result.bytes;
            let is_on_its_way = transfer.result.is_none_or(is_wanted);
            assert!(is_on_its_way || asked == 0, "results_go_to_queens_that_want_them: {key:?}");
        }
        assert!(self.given_up.is_empty(), "parts_that_nobody_wants_are_taken_back");
        let numbered = self.transfers.values().filter(|transfer| transfer.number > 0).count();
        assert_eq!(numbered, self.numbers.len(), "numbers_are_those_of_transfers");
    }
}

/// No transfer ever had this number.
#[derive(Debug)]
pub(crate) struct Unknown;

impl Transfer {
    /// The receiver has all before `from`, and takes what is before `until`. An error if that cannot be.
    pub(crate) fn wants(&mut self, from: u64, until: u64) -> Result<(), &'static str> {
        if let Some(result) = &mut self.result {
            if until > result.bytes {
                return Err("it asks for more of a result than there is");
            }
            if !std::mem::replace(&mut result.is_asked_for, true) {
                // It has this from an earlier link.
                (self.has, self.passed, self.asked) = (from, from, from);
            }
        }
        if from < self.has || from > self.passed || until < self.until {
            return Err("it says that it has what it does not have");
        }
        (self.has, self.until) = (from, until);
        Ok(())
    }

    /// Whether the receiver has all of what has this size.
    pub(crate) fn is_over(&self, bytes: u64) -> bool {
        self.has == bytes
    }

    /// The receiver gets this part next. An error if it is not the next part that the sender was asked for.
    pub(crate) fn pass(&mut self, offset: u64, bytes: u64) -> Result<(), &'static str> {
        let end = offset.checked_add(bytes).filter(|end| offset == self.passed && *end <= self.asked);
        self.passed = end.ok_or("it sent a part that it was not asked for")?;
        Ok(())
    }

    /// The bytes that may be on their way.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.room.as_ref().map_or(0, Claim::bytes)
    }

    fn next_part(&mut self) -> Option<Range<u64>> {
        let asked = self.asked;
        let most = self.until.min(self.has.saturating_add(self.room_bytes()));
        if self.passed < asked || most <= asked {
            return None;
        }
        self.asked = most;
        Some(asked..most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authority::Origin, budget::Budget};

    const KEY: Key = (DukeId(1), AttemptId(1));

    /// A transfer with room for this many bytes.
    fn begun(room: u64) -> Transfers {
        let mut claim = Claim::new(Budget::new(1 << 40).inputs.account(Origin::Here));
        claim.add(room).unwrap();
        let mut transfers = Transfers::default();
        transfers.begin(KEY, (JobId(1), UnitNo(1)), 0);
        transfers.get_mut(KEY).unwrap().room = Some(claim);
        transfers
    }

    #[test]
    fn no_more_is_on_its_way_than_there_is_room() {
        let mut transfers = begun(10);
        transfers.get_mut(KEY).unwrap().wants(0, 100).unwrap();
        assert_eq!(transfers.next_part(KEY), Some((1, 0..10)));
        assert_eq!(transfers.next_part(KEY), None);
        transfers.get_mut(KEY).unwrap().pass(0, 6).unwrap();
        assert_eq!(transfers.next_part(KEY), None);
        transfers.get_mut(KEY).unwrap().wants(6, 100).unwrap();
        assert_eq!(transfers.next_part(KEY), None);
        transfers.get_mut(KEY).unwrap().pass(6, 4).unwrap();
        assert_eq!(transfers.next_part(KEY), Some((1, 10..16)));
        transfers.get_mut(KEY).unwrap().pass(10, 1).unwrap();
        transfers.check();
    }

    #[test]
    fn what_was_not_asked_for_is_not_passed_on() {
        let mut transfers = begun(10);
        let transfer = transfers.get_mut(KEY).unwrap();
        transfer.wants(0, 5).unwrap();
        assert!(transfer.next_part() == Some(0..5) && transfer.pass(1, 1).is_err() && transfer.pass(0, 6).is_err());
        assert!(transfer.pass(0, u64::MAX).is_err() && transfer.pass(0, 5).is_ok() && transfer.pass(5, 1).is_err());
        assert!(transfer.wants(6, 7).is_err() && transfer.wants(5, 4).is_err() && transfer.wants(5, 9).is_ok());
        assert!(transfer.wants(4, 9).is_err());
        assert!(transfers.numbered(0).is_err() && transfers.numbered(1).is_err());
    }

    #[test]
    fn over_another_link_of_the_queen_the_rest_is_asked_for_under_another_number() {
        let mut transfers = begun(10);
        transfers.get_mut(KEY).unwrap().wants(0, 10).unwrap();
        assert_eq!(transfers.next_part(KEY), Some((1, 0..10)));
        transfers.get_mut(KEY).unwrap().pass(0, 3).unwrap();
        assert_eq!(transfers.ask_again(JobId(1)), [KEY]);
        assert_eq!(transfers.next_part(KEY), Some((2, 3..10)));
        assert!(matches!(transfers.numbered(1), Ok(None)) && matches!(transfers.numbered(2), Ok(Some(KEY))));
        transfers.end(KEY);
        assert!(matches!(transfers.numbered(2), Ok(None)));
        transfers.check();
    }

    #[test]
    fn a_queen_with_another_link_says_what_it_has_of_a_result() {
        let mut transfers = Transfers::default();
        transfers.offer(KEY, (JobId(1), UnitNo(1)), 30, 1);
        assert!(transfers.fetched_of(JobId(1)).is_empty() && transfers.fetch(KEY));
        assert_eq!((transfers.fetched_of(JobId(1)), transfers.number(KEY)), (vec![KEY], Some(1)));
        let mut claim = Claim::new(Budget::new(1 << 40).inputs.account(Origin::Here));
        claim.add(10).unwrap();
        transfers.get_mut(KEY).unwrap().room = Some(claim);
        let wants = |transfers: &mut Transfers, from, until| {
            transfers.get_mut(KEY).unwrap().wants(from, until).map(|()| transfers.next_part(KEY))
        };
        assert!(wants(&mut transfers, 0, 31).is_err(), "it has no more bytes");
        assert_eq!(wants(&mut transfers, 4, 30), Ok(Some((1, 4..14))));
        transfers.get_mut(KEY).unwrap().pass(4, 10).unwrap();
        assert!(wants(&mut transfers, 15, 30).is_err() && wants(&mut transfers, 3, 30).is_err());
        assert!(transfers.ask_again(JobId(1)).is_empty());
        assert_eq!((transfers.number(KEY), wants(&mut transfers, 9, 30)), (Some(2), Ok(Some((2, 9..19)))));
        transfers.check();
        transfers.get_mut(KEY).unwrap().pass(9, 1).unwrap();
        transfers.end(KEY);
        assert_eq!(transfers.take_given_up(), [(JobId(1), 2)], "what was passed on waits in vain");
    }
}
