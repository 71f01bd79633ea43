//! Results that are too large to be sent unasked, and the room for all results of a job: back-pressure from its queen
//! and from slow dukes.
//!
//! Such a result is first *offered*: it waits at its duke. When there is room for it, the king fetches it, and it is
//! *in transit*. It is *overdue* if it is in transit for far longer than others. Then it is *held* until the queen has
//! it.
//!
//! - At most `RESULTS_BYTES` of a job are in transit or held, overdue results not counted, so a queen that takes none
//!   gets no more; or less, if other jobs take much (`room.rs`). While that room is full, its slots are counted that are
//!   busy nevertheless: the others may serve other jobs.
//! - At most `FETCHED_BYTES` are in transit from one duke, or as many as its link carries in `FETCHED_AHEAD`. If a duke
//!   offers more, it is *blocked*: its further offers wait, it gets no more units, and its idle slots may serve others.
//! - A *streamed* result goes to the queen in parts, and is never held. It counts for what may be on its way of it, and is
//!   overdue when none of it has moved for long.
//! - Overdue results are counted separately, up to `OVERDUE_BYTES`, so that they take no room from the others: they are
//!   behind a slow link, or will never come. Their units may be tried elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId},
    limits::{
        FETCHED_AHEAD, FETCHED_BYTES, FETCHED_BYTES_FIRST, FETCHED_BYTES_MIN, FULL_LOOK, HEARD_BYTES, MEBIBYTE_WITHIN,
        OVERDUE_BYTES, RESULT_PATIENCE, RESULTS_BYTES, STRAGGLER_FACTOR, STRAGGLER_PATIENCE, TRANSFER_WINDOW_BYTES,
    },
    time::{Time, UnitTime, micros},
};

use super::room::Allowance;

/// The results of one job.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Those that are offered or in transit, by their attempts.
    large: BTreeMap<AttemptId, LargeResult>,
    /// Offers in the order in which they will be fetched, without those of blocked dukes.
    offers: VecDeque<AttemptId>,
    /// There is no room for the first of them.
    waits_for_room: bool,
    /// There would be if other jobs had less.
    is_short: bool,
    /// Bytes that are in transit or held, without overdue ones.
    bytes: u64,
    overdue_bytes: u64,
    links: BTreeMap<DukeId, Link>,
    /// How long a mebibyte takes from when it is fetched until it is here, without overdue results.
    mebibyte_time: UnitTime,
    /// Observations since the room was last found full; `None` if it was not full lately.
    pace: Option<Pace>,
}

/// A large result that is not here yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct LargeResult {
    duke: DukeId,
    /// How much it counts for.
    bytes: u64,
    /// It goes to the queen in parts.
    streamed: bool,
    stage: Stage,
    /// When it was offered, or fetched, or moved.
    pub(super) since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offered,
    InTransit,
    Overdue,
}

/// The results that come from one duke.
#[derive(Debug, Default)]
struct Link {
    /// Bytes in transit, overdue ones among them.
    bytes: u64,
    /// Offers that wait until fewer bytes are in transit. The duke is blocked while there are any.
    blocked: VecDeque<AttemptId>,
    /// How long a mebibyte takes from when it is fetched until it is here.
    mebibyte_time: UnitTime,
    /// A result on it was hopeless, and none has come in time since then.
    is_slow: bool,
}

/// How fast a job works whose queen takes results more slowly than its slots make them.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// As many slots as were busy at the last look; `None` before the first look.
    busy: Option<u32>,
    /// The run time of attempts that ended since then, in microseconds.
    worked_us: u64,
}

/// What follows from new room for results.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// Results that are to be fetched, in this order.
    pub(super) wanted: Vec<(DukeId, AttemptId, u64)>,
    /// Dukes that are blocked from now on.
    pub(super) blocked: BTreeSet<DukeId>,
}

impl Results {
    // ---- Offered, in transit, held --------------------------------------------------------------------------------

    pub(super) fn offer(&mut self, id: AttemptId, duke: DukeId, (bytes, streamed): (u64, bool), now: Time) {
        // However long it is, no more than this is on its way.
        let bytes = if streamed { bytes.min(TRANSFER_WINDOW_BYTES) } else { bytes };
        self.large.insert(id, LargeResult { duke, bytes, streamed, stage: Stage::Offered, since: now });
        self.offers.push_back(id);
    }

    /// Parts of a streamed result move: it is not late, however long it takes as a whole.
    pub(super) fn set_moved(&mut self, id: AttemptId, now: Time) {
        if let Some(result) = self.large.get_mut(&id).filter(|result| result.streamed) {
            result.since = now;
        }
    }

    /// Fetches offered results while there is room.
    pub(super) fn fetch(&mut self, now: Time, allowance: Allowance) -> Fetching {
        let mut fetching = Fetching::default();
        (self.waits_for_room, self.is_short) = (false, false);
        while let Some(id) = self.offers.front().copied() {
            let Some(result) = self.large.get_mut(&id) else { break };
            let link = self.links.entry(result.duke).or_default();
            if !has_room(link.bytes, result.bytes, link.bytes_max()) {
                self.offers.pop_front();
                link.blocked.push_back(id);
                fetching.blocked.insert(result.duke);
                continue;
            }
            // A queen that has less of them may not say so at once, and would wait for this result.
            let fits_alone = self.bytes < HEARD_BYTES && result.bytes <= allowance.alone;
            let fits = fits_alone || self.bytes.saturating_add(result.bytes) <= allowance.most;
            if !fits {
                self.waits_for_room = true;
                self.is_short = self.bytes < HEARD_BYTES || has_room(self.bytes, result.bytes, RESULTS_BYTES);
                break;
            }
            self.offers.pop_front();
            self.bytes += result.bytes;
            link.bytes += result.bytes;
            (result.stage, result.since) = (Stage::InTransit, now);
            fetching.wanted.push((result.duke, id, result.bytes));
        }
        fetching
    }

    /// Records how long a result that just arrived was in transit, together with the others from its duke.
    pub(super) fn measure(&mut self, id: AttemptId, now: Time) {
        let is_measured = |result: &&LargeResult| result.stage != Stage::Offered && !result.streamed;
        let Some(result) = self.large.get(&id).filter(is_measured) else { return };
        let is_slow = self.takes_long(result, now);
        let Some(link) = self.links.get_mut(&result.duke) else { return };
        link.is_slow = is_slow;
        let took_us = u128::from(now.micros_since(result.since)) << 20;
        let mebibyte_us = u64::try_from(took_us / u128::from(link.bytes.max(1))).unwrap_or(u64::MAX);
        link.mebibyte_time.measure(mebibyte_us);
        // One slow link says nothing about the others.
        if result.stage != Stage::Overdue || self.mebibyte_time.average_us().is_none() {
            self.mebibyte_time.measure(mebibyte_us);
        }
    }

    /// Takes out a result that is offered or in transit: it is here, or not wanted. If at most half of what a duke may
    /// have in transit is left, the duke is not blocked any more.
    pub(super) fn remove(&mut self, id: AttemptId) {
        let Some(LargeResult { duke, bytes, stage, .. }) = self.large.remove(&id) else { return };
        let Results { links, offers, .. } = self;
        let link = links.entry(duke).or_default();
        if stage == Stage::Offered {
            offers.retain(|offer| *offer != id);
            link.blocked.retain(|offer| *offer != id);
            return;
        }
        link.bytes -= bytes;
        if link.bytes <= link.bytes_max() / 2 {
            offers.append(&mut link.blocked);
        }
        let counted = if stage == Stage::Overdue { &mut self.overdue_bytes } else { &mut self.bytes };
        *counted = counted.saturating_sub(bytes);
    }

    /// Takes out all results of a duke that is away: it will offer them again. Returns their attempts.
    pub(super) fn recall(&mut self, duke: DukeId) -> Vec<AttemptId> {
        let recalled: Vec<AttemptId> =
            self.large.iter().filter(|(_, result)| result.duke == duke).map(|(id, _)| *id).collect();
        recalled.iter().for_each(|id| self.remove(*id));
        recalled
    }

    /// Forgets the link of a duke that works for the job no more.
    pub(super) fn forget_duke(&mut self, duke: DukeId) {
        self.links.remove(&duke);
    }

    /// Counts a result that arrived, and that the king holds until the queen has it.
    pub(super) fn hold(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The queen has results of this size.
    pub(super) fn let_go(&mut self, bytes: u64) {
        debug_assert!(self.bytes >= bytes, "more was heard than was said");
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    // ---- Overdue --------------------------------------------------------------------------------------------------

    /// Counts overdue results separately, as far as there is room for them; returns whether there were any.
    pub(super) fn set_overdue(&mut self, now: Time) -> bool {
        let is_overdue = |result: &LargeResult| result.stage == Stage::InTransit && self.takes_long(result, now);
        let overdue: Vec<AttemptId> =
            self.large.iter().filter(|(_, result)| is_overdue(result)).map(|(id, _)| *id).collect();
        let mut were_any = false;
        for id in overdue {
            if let Some(result) = self.large.get_mut(&id)
                && has_room(self.overdue_bytes, result.bytes, OVERDUE_BYTES)
            {
                result.stage = Stage::Overdue;
                self.overdue_bytes += result.bytes;
                self.bytes = self.bytes.saturating_sub(result.bytes);
                (self.waits_for_room, self.is_short, were_any) = (false, false, true);
            }
        }
        were_any
    }

    /// Remembers that a result behind this duke's link was hopeless. Others would be, too, even if the hopeless one is
    /// not wanted any more: the king does not see what the link still carries.
    pub(super) fn distrust(&mut self, duke: DukeId) {
        self.links.entry(duke).or_default().is_slow = true;
    }

    /// Whether a result from this duke would have to wait for others, as far as can be known.
    pub(super) fn would_wait(&self, duke: DukeId) -> bool {
        self.links.get(&duke).is_some_and(|link| link.bytes > 0 || link.is_slow)
    }

    /// Whether another attempt may have its result here earlier than this one.
    pub(super) fn is_hopeless(&self, result: &LargeResult, now: Time) -> bool {
        // If there is no room for an offered result, there is no room for that of another attempt either.
        let waits_for_room = result.stage == Stage::Offered && self.waits_for_room;
        !waits_for_room && self.takes_longer_than(STRAGGLER_PATIENCE, result, now)
    }

    /// Whether it has been offered or in transit for far longer than others.
    fn takes_long(&self, result: &LargeResult, now: Time) -> bool {
        self.takes_longer_than(RESULT_PATIENCE, result, now)
    }

    fn takes_longer_than(&self, patience: Duration, result: &LargeResult, now: Time) -> bool {
        let average = self.mebibyte_time.average_us().map(Duration::from_micros);
        let typical = average.map_or(MEBIBYTE_WITHIN, |time| time.saturating_mul(STRAGGLER_FACTOR));
        let bytes = self.in_transit_from(result.duke).max(result.bytes);
        let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let within = typical.saturating_mul(mebibytes.saturating_add(1));
        result.since.after(within).after(patience) <= now
    }

    // ---- A full room ----------------------------------------------------------------------------------------------

    /// Whether the job can take no more results before its queen has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= RESULTS_BYTES || self.waits_for_room
    }

    /// Begins to observe the job if its room is full; returns whether it was not observed before.
    pub(super) fn observe(&mut self) -> bool {
        let begins = self.is_full() && self.pace.is_none();
        if begins {
            self.pace = Some(Pace::default());
        }
        begins
    }

    /// An attempt ran for this long.
    pub(super) fn record_work(&mut self, run_us: u64) {
        if let Some(pace) = &mut self.pace {
            pace.worked_us = pace.worked_us.saturating_add(run_us);
        }
    }

    /// Counts the slots that the job can keep busy: those that were if its room is full, and more with every look at
    /// which there is room, up to `slots_wanted`. `long_at_work` slots were busy with unfinished units. Returns whether
    /// to look again.
    pub(super) fn look(&mut self, long_at_work: u32, slots_wanted: u32) -> bool {
        let Some(Pace { busy, worked_us }) = self.pace.take() else { return false };
        let look_us = micros(FULL_LOOK);
        let at_work = u32::try_from((worked_us.saturating_add(look_us / 2)) / look_us).unwrap_or(u32::MAX);
        let busy = match busy {
            _ if self.is_full() => Some(at_work.max(long_at_work)),
            // It may be full again very soon.
            Some(slots) if self.bytes >= RESULTS_BYTES / 2 => Some(slots),
            Some(slots) => Some(slots.saturating_mul(2).saturating_add(1)).filter(|slots| *slots < slots_wanted),
            None => None,
        };
        self.pace = busy.map(|_| Pace { busy, worked_us: 0 });
        busy.is_some()
    }

    // ---- Queries --------------------------------------------------------------------------------------------------

    /// The slots that the job can keep busy; `None` if its results do not limit them.
    pub(super) fn slots_max(&self) -> Option<u32> {
        self.pace.and_then(|pace| pace.busy)
    }

    /// The result of an attempt that is offered or in transit.
    pub(super) fn get(&self, id: AttemptId) -> Option<&LargeResult> {
        self.large.get(&id)
    }

    /// Whether results are made on this duke faster than its link carries them away.
    pub(super) fn is_blocked(&self, duke: DukeId) -> bool {
        self.links.get(&duke).is_some_and(|link| !link.blocked.is_empty())
    }

    /// Bytes in transit from a duke.
    pub(super) fn in_transit_from(&self, duke: DukeId) -> u64 {
        self.links.get(&duke).map_or(0, |link| link.bytes)
    }

    /// Bytes that are in transit or held, without overdue ones.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are in transit or held.
    pub(super) fn bytes_in_all(&self) -> u64 {
        self.bytes.saturating_add(self.overdue_bytes)
    }

    /// Bytes of large results that are in transit.
    pub(super) fn bytes_in_transit(&self) -> u64 {
        self.links.values().map(|link| link.bytes).sum()
    }

    /// Whether it could fetch more if other jobs had less room.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Asserts the invariants of the results of one job.
    pub(super) fn check(&self, id: JobId) {
        let bytes_of =
            |stage| self.large.values().filter(move |result| result.stage == stage).map(|result| result.bytes);
        let blocked: usize = self.links.values().map(|link| link.blocked.len()).sum();
        assert_eq!(self.offers.len() + blocked, bytes_of(Stage::Offered).count(), "offer_is_queued: {id}");
        assert!(self.bytes >= bytes_of(Stage::InTransit).sum::<u64>(), "results_in_transit_are_counted: {id}");
        assert_eq!(self.overdue_bytes, bytes_of(Stage::Overdue).sum::<u64>(), "overdue_results_are_counted: {id}");
        let is_within = self.overdue_bytes <= OVERDUE_BYTES || bytes_of(Stage::Overdue).count() == 1;
        assert!(is_within, "overdue_results_are_bounded: {id}");
        assert!(!self.is_full() || self.pace.is_some(), "full_job_is_looked_at: {id}");
        assert!(self.offers.is_empty() || self.waits_for_room, "offer_waits_for_room_alone: {id}");
        let is_something_here = self.bytes > 0 || self.is_short;
        assert!(!self.waits_for_room || is_something_here, "something_is_here_while_something_waits: {id}");
        for (duke, link) in &self.links {
            let is_under_way = |result: &&LargeResult| result.duke == *duke && result.stage != Stage::Offered;
            let in_transit: Vec<u64> = self.large.values().filter(is_under_way).map(|result| result.bytes).collect();
            assert_eq!(link.bytes, in_transit.iter().sum::<u64>(), "link_counts_what_is_in_transit: {duke}, {id}");
            let is_within = link.bytes <= FETCHED_BYTES || in_transit.len() == 1;
            assert!(is_within, "no_duke_takes_all_the_room: {duke}, {id}");
            assert!(link.blocked.is_empty() || link.bytes > 0, "blocked_offer_is_considered_again: {duke}, {id}");
        }
    }
}

impl LargeResult {
    /// Whether it waits at its duke.
    pub(super) fn is_offered(&self) -> bool {
        self.stage == Stage::Offered
    }

    /// Whether it goes to the queen in parts.
    pub(super) fn is_streamed(&self) -> bool {
        self.streamed
    }
}

impl Link {
    /// Bytes of results that may be in transit.
    fn bytes_max(&self) -> u64 {
        let carried = self.mebibyte_time.units_in(FETCHED_AHEAD).map(|mebibytes| mebibytes.saturating_mul(1 << 20));
        carried.map_or(FETCHED_BYTES_FIRST, |bytes| bytes.clamp(FETCHED_BYTES_MIN, FETCHED_BYTES))
    }
}

/// Whether `bytes` fit beside those already taken. A result that is larger than all the room gets all of it.
fn has_room(taken: u64, bytes: u64, room: u64) -> bool {
    taken == 0 || taken.saturating_add(bytes) <= room
}
