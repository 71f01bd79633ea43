//! The simulated king: the real reactor with the real borders of its links, and an eye on what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use distwasm_king::{
    Reign,
    authority::Identity,
    border::{Border, duke::DukeBorder, queen::QueenBorder},
    budget::Budget,
    inbox::{DukeWord, Happening, LinkError, LinkId, Peer},
    reactor::Reactor,
    scheduler::Rules,
};
use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId},
    limits::{HEARD_BYTES, JOB_RESERVE_BYTES, REACTOR_BATCH, RESULT_PATIENCE, RESULTS_BYTES},
    secret::Mark,
    time::Time,
    wire::{self, DukeOrder, QueenNews, duke_order::Order, queen_news::News},
};
use distwasm_transport::transfer::OutboxStream;
use tokio_util::sync::CancellationToken;

use super::{
    halts::Process,
    weather::Weather,
    wires::{Parcel, Said, drain},
    world::{Due, Sender, World},
};

/// The king.
pub(super) struct King {
    pub(super) reactor: Reactor,
    /// When the next tick is due.
    ticks_at: Option<Time>,
    links: BTreeMap<Sender, KingLink>,
    /// Links that have ended.
    gone: BTreeSet<Sender>,
    /// The memory for payloads.
    budget: Budget,
    /// What happens with the next batch.
    pub(super) batch: Vec<Happening>,
    /// Which dukes have a part in which jobs of which queens, as the king gave it or as the dukes claimed.
    pub(super) leases: BTreeMap<(DukeId, JobId), JobId>,
    /// Jobs that were replaced, or are with the next batch.
    replaced: Vec<Mark>,
    /// Jobs that are open, and whether their queens have a link; and jobs that are over.
    open: BTreeMap<JobId, bool>,
    over: BTreeSet<JobId>,
    /// When results were fetched.
    fetched: BTreeMap<AttemptId, Time>,
    /// Attempts whose results were in transit for too long.
    overdue: BTreeSet<AttemptId>,
}

/// The king's side of a link.
struct KingLink {
    /// Until the link has ended.
    border: Option<PeerBorder>,
    ended: CancellationToken,
    words: Words,
}

enum PeerBorder {
    Duke(Box<DukeBorder>),
    Queen(Box<QueenBorder>),
}

/// The king's words that wait in the outbox of a link.
enum Words {
    Duke(OutboxStream<DukeOrder>),
    Queen(OutboxStream<QueenNews>),
}

impl King {
    pub(super) fn new(now: Time, began: u64, weather: &Weather) -> King {
        let after_us = Some(weather.preempt_after_us).filter(|after_us| *after_us > 0);
        let rules = Rules { preempt_after: after_us.map(Duration::from_micros), ..Rules::default() };
        let Weather { window_units, memory_bytes, .. } = *weather;
        King {
            reactor: Reactor::new(now, Reign { rules, began, window_units, ..Reign::with_memory(memory_bytes) }),
            ticks_at: None,
            links: BTreeMap::new(),
            gone: BTreeSet::new(),
            budget: Budget::new(memory_bytes),
            batch: Vec::new(),
            leases: BTreeMap::new(),
            replaced: Vec::new(),
            open: BTreeMap::new(),
            over: BTreeSet::new(),
            fetched: BTreeMap::new(),
            overdue: BTreeSet::new(),
        }
    }

    /// Checks that no job that is over comes back, though a duke may still name it.
    fn check_over(&self) {
        let is_left = self.replaced.iter().flat_map(|mark| self.reactor.scheduler().jobs_of(*mark)).next();
        assert!(is_left.is_none(), "job_that_was_replaced_is_over: {is_left:?}");
        let comes_again = self.over.iter().find(|job| self.reactor.scheduler().has_job(**job));
        assert!(comes_again.is_none(), "job_that_ended_is_over: {comes_again:?}");
    }

    /// Checks that large results are held within their bound, except a single larger one beside those that the queen need
    /// not have named yet. Overdue results have room of their own.
    fn check_results(&self) {
        for (job, _) in self.reactor.jobs() {
            let in_time = |by: Option<AttemptId>| by.is_none_or(|attempt| !self.overdue.contains(&attempt));
            let large = || {
                let large = self.reactor.unheard(job).filter(|(_, bytes)| wire::is_offered(*bytes));
                large.filter(|(by, _)| in_time(*by)).map(|(_, bytes)| bytes)
            };
            let (all, largest) = (large().sum::<u64>(), large().max().unwrap_or(0));
            let is_within = all <= RESULTS_BYTES || all - largest < HEARD_BYTES;
            assert!(is_within, "results_are_held_within_the_bound: {job}");
        }
    }

    /// Checks that inputs and programs of all jobs together keep to the king's memory. A job that has very little may
    /// always have it.
    fn check_budget(&self) {
        let (Budget { programs, inputs, .. }, links) = (&self.budget, self.links.len() as u64);
        assert!(programs.taken() <= programs.most(), "programs_of_all_jobs_have_a_bound: {}", programs.taken());
        // Some of it for its inputs, and some for one that is streamed.
        let reserved = links * 2 * JOB_RESERVE_BYTES;
        assert!(inputs.taken() <= inputs.most() + reserved, "inputs_of_all_jobs_have_a_bound: {}", inputs.taken());
    }

    /// Checks that, with nothing left to happen, every job has ended and every slot is free.
    pub(super) fn check_rest(&self) {
        let census = self.reactor.scheduler().census();
        assert_eq!((census.jobs, census.units_running), (0, 0), "every_job_ends");
        assert_eq!((census.slots_granted, census.results_bytes), (0, 0), "everything_is_free_at_the_end");
        assert!(self.reactor.is_at_rest(), "nothing_is_held_at_the_end");
        let Budget { programs, inputs, .. } = &self.budget;
        assert_eq!((programs.taken(), inputs.taken()), (0, 0), "all_room_is_given_back");
    }
}

impl KingLink {
    fn new(sender: Sender, number: u64, budget: &Budget) -> KingLink {
        match sender {
            Sender::Duke(link) => {
                let (peer, orders) = Peer::new(Identity::Trusted, None);
                let (ended, border) = (peer.ended.clone(), Box::new(DukeBorder::new(link, peer, budget)));
                KingLink { border: Some(PeerBorder::Duke(border)), ended, words: Words::Duke(orders) }
            }
            Sender::Queen(..) => {
                let (peer, news) = Peer::new(Identity::Trusted, None);
                let (ended, border) = (peer.ended.clone(), Box::new(QueenBorder::new(LinkId(number), peer, budget)));
                KingLink { border: Some(PeerBorder::Queen(border)), ended, words: Words::Queen(news) }
            }
        }
    }
}

impl World {
    /// The king dies, and another takes its place, which knows nothing.
    pub(super) fn king_falls(&mut self) {
        if !self.faults_go_on() {
            return;
        }
        self.tally.kings_fallen += 1;
        let began = self.next_number().0;
        self.last_job = began;
        self.king = King::new(self.now, began, &self.weather);
        self.halted.remove(&Process::King);
        // The next king knows nothing of jobs that this one has cancelled.
        self.queens.values_mut().for_each(|queen| queen.cancelled = false);
        let dukes: Vec<DukeId> = self.dukes.keys().copied().collect();
        for duke in dukes {
            self.duke_loses_king(duke);
        }
        let queens: Vec<JobId> = self.queens.keys().copied().collect();
        for queen in queens {
            self.queen_loses_king(queen);
        }
        // The next king has none of the old king's links.
        self.lose_what_was_cut_off();
        self.take_dues(|_, due| matches!(due, Due::ToKing(..)));
        let in_us = self.dice.below(2 * self.weather.king_falls_us);
        self.later(in_us, Due::KingFalls);
    }

    /// The king hears a parcel, and perhaps others that arrive at this very moment, as one batch.
    pub(super) fn king_hears(&mut self, sender: Sender, said: Said) {
        self.king_takes(sender, said);
        let mut inputs = 1;
        while inputs < REACTOR_BATCH && self.dice.permille(self.weather.king_is_busy) {
            match self.take_due_now(|due| matches!(due, Due::ToKing(..) | Due::KingMisses(_))) {
                Some(Due::ToKing(sender, said)) if !self.is_cut(sender, true) => self.king_takes(sender, said),
                Some(Due::KingMisses(sender)) => self.king_misses(sender),
                Some(_) => {}
                None => break,
            }
            inputs += 1;
        }
        self.tally.words_batched += inputs as u64 - 1;
        self.king_runs();
    }

    fn king_takes(&mut self, sender: Sender, said: Said) {
        if self.king.gone.contains(&sender) {
            return;
        }
        if !self.king.links.contains_key(&sender) {
            let number = self.next_link();
            self.king.links.insert(sender, KingLink::new(sender, number, &self.king.budget));
        }
        let Some(link) = self.king.links.get_mut(&sender) else { return };
        let heard = match (&mut link.border, said) {
            (Some(PeerBorder::Duke(border)), Said::Duke(Parcel(words))) => border.take(wire::FromDuke { words }),
            (Some(PeerBorder::Queen(border)), Said::Queen(Parcel(words))) => border.take(wire::FromQueen { words }),
            // The king has ended this link.
            (None, _) => return,
            (Some(_), said) => panic!("dukes say what dukes say: {sender:?}: {said:?}"),
        };
        match heard {
            Ok(heard) => {
                self.watch(sender, &heard.happenings);
                self.king.batch.extend(heard.happenings);
                if heard.leaves {
                    self.king_loses(sender, Ok(()));
                }
            }
            Err(error) => {
                let has_no_room = matches!(error, LinkError::Busy(_));
                self.tally.had_no_room += u64::from(has_no_room);
                assert!(has_no_room || self.lies(sender), "honest_peer_is_not_turned_away: {sender:?}: {error}");
                self.king_loses(sender, Err(error));
            }
        }
    }

    /// Takes note of what the king is about to hear.
    fn watch(&mut self, sender: Sender, happenings: &[Happening]) {
        for happening in happenings {
            match happening {
                Happening::DukeJoined { duke, holds, .. } => {
                    self.tally.attempts_kept += holds.iter().map(|lease| lease.attempts.len() as u64).sum::<u64>();
                    let owner = |mark| self.queen_of(mark).unwrap_or(JobId(0));
                    let leases: Vec<_> = holds.iter().map(|lease| ((*duke, lease.job), owner(lease.mark))).collect();
                    self.king.leases.extend(leases);
                }
                Happening::QueenJoined { request, .. } if !self.lies(sender) => {
                    self.king.replaced.extend(&request.replaces);
                }
                Happening::DukeSaid { duke, words } => {
                    for word in words {
                        match word {
                            DukeWord::ProgramUnfit { job, .. } if self.lies(sender) => {
                                // What it says of a job without a lease counts for nothing.
                                let of_lease = self.king.leases.get(&(*duke, *job));
                                if let Some(queen) = of_lease.and_then(|queen| self.queens.get_mut(queen)) {
                                    queen.slanders += 1;
                                }
                            }
                            DukeWord::AttemptDone { attempt, .. } => {
                                let fetched = self.king.fetched.remove(attempt);
                                if fetched.is_some_and(|at| at.after(RESULT_PATIENCE) <= self.now) {
                                    self.king.overdue.insert(*attempt);
                                }
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A link has ended, as far as the king knows.
    fn king_loses(&mut self, sender: Sender, leaving: Result<(), LinkError>) {
        let border = self.king.links.get_mut(&sender).and_then(|link| link.border.take());
        let gone = match border {
            Some(PeerBorder::Duke(border)) => border.end(leaving),
            Some(PeerBorder::Queen(border)) => border.end(leaving),
            None => return,
        };
        self.king.batch.push(gone);
    }

    /// The king notices that a link is broken.
    pub(super) fn king_misses(&mut self, sender: Sender) {
        self.king_loses(sender, Err(LinkError::Broken("it is cut".to_owned())));
    }

    /// Lets the reactor handle what has happened, and sends off what it says.
    pub(super) fn king_runs(&mut self) {
        while !self.king.batch.is_empty() {
            let mut batch = std::mem::take(&mut self.king.batch);
            self.king.reactor.handle(self.now, &mut batch);
            self.king.reactor.check();
            self.count_jobs();
            self.carry_from_king();
            self.king.check_over();
            self.king.check_results();
            self.king.check_budget();
            // The tasks of links that the king has ended say so.
            let links = self.king.links.iter();
            let ended: Vec<Sender> =
                links.filter(|(_, link)| link.ended.is_cancelled()).map(|(sender, _)| *sender).collect();
            ended.into_iter().for_each(|sender| self.king_loses(sender, Err(LinkError::Ended)));
        }
        if let Some(deadline) = self.king.reactor.next_deadline()
            && self.king.ticks_at.is_none_or(|at| deadline < at)
        {
            self.king.ticks_at = Some(deadline);
            self.at(deadline, Due::KingTick);
        }
    }

    pub(super) fn king_ticks(&mut self) {
        // The tick may be an earlier king's.
        if self.king.ticks_at.is_some_and(|at| at <= self.now) {
            self.king.ticks_at = None;
            self.king.batch.push(Happening::Tick);
            self.king_runs();
        }
    }

    /// Notes which jobs are over.
    fn count_jobs(&mut self) {
        let King { reactor, open, over, .. } = &mut self.king;
        let before = std::mem::replace(open, reactor.jobs().collect());
        for (job, had_link) in before.into_iter().filter(|(job, _)| !open.contains_key(job)) {
            over.insert(job);
            self.tally.jobs_abandoned += u64::from(!had_link);
        }
    }

    /// Sends off what the king has put into its outboxes.
    fn carry_from_king(&mut self) {
        let senders: Vec<Sender> = self.king.links.keys().copied().collect();
        for sender in senders {
            let Some(link) = self.king.links.get_mut(&sender) else { continue };
            let is_closed = match &mut link.words {
                Words::Duke(orders) => {
                    let Sender::Duke(duke) = sender else { continue };
                    let (orders, is_closed) = drain(orders);
                    orders.iter().for_each(|order| self.watch_order(duke, order));
                    for parcel in self.parcels(orders) {
                        self.send(sender, false, Due::ToDuke(duke, parcel));
                    }
                    if is_closed {
                        self.send(sender, false, Due::ToDuke(duke, Parcel(Vec::new())));
                    }
                    is_closed
                }
                Words::Queen(news) => {
                    let Sender::Queen(queen, link) = sender else { continue };
                    let (news, is_closed) = drain(news);
                    news.iter().for_each(|news| self.watch_news(sender, news));
                    for parcel in self.parcels(news) {
                        self.send(sender, false, Due::ToQueen(queen, link, parcel));
                    }
                    if is_closed {
                        self.send(sender, false, Due::ToQueen(queen, link, Parcel(Vec::new())));
                    }
                    is_closed
                }
            };
            if is_closed {
                // The last words of the peer lead nowhere.
                self.king_loses(sender, Err(LinkError::Ended));
                self.king.links.remove(&sender);
                self.king.gone.insert(sender);
            }
        }
    }

    fn watch_order(&mut self, duke: DukeId, order: &DukeOrder) {
        match &order.order {
            Some(Order::OpenLease(lease)) => {
                let queen = Mark::from_wire(&lease.mark).and_then(|mark| self.queen_of(mark));
                self.king.leases.insert((duke, JobId(lease.job)), queen.unwrap_or(JobId(0)));
            }
            Some(Order::TakeSlots(take)) => {
                assert!(self.weather.preempt_after_us > 0, "slots_are_taken_only_if_that_is_wanted: {duke}");
                self.tally.slots_taken += u64::from(take.slots);
            }
            Some(Order::ReleaseSlots(release)) => self.tally.slots_asked_back += u64::from(release.slots),
            Some(Order::StartAttempt(start)) => {
                let (job, attempt) = (JobId(start.job), AttemptId(start.attempt));
                let queen = self.king.leases.get(&(duke, job)).and_then(|queen| self.queens.get_mut(queen));
                let Some(queen) = queen else { panic!("jobs_are_of_queens: {job}") };
                self.spared.insert(attempt, start.spared_us);
                assert!(start.number > 0, "attempts_are_numbered_from_1: {job}, {}", start.unit);
                assert!(queen.attempts.insert(attempt), "attempt_has_a_number_of_its_own: {attempt}");
            }
            Some(Order::InputPart(part)) => {
                self.tally.parts_passed += 1;
                self.check_window(duke, part);
            }
            Some(Order::SendResult(wanted)) => {
                self.king.fetched.insert(AttemptId(wanted.attempt), self.now);
            }
            Some(Order::End(end)) => self.check_end(Sender::Duke(duke), end),
            _ => {}
        }
    }

    /// Checks that no more of a streamed input is on its way than a window, as far as the duke has it.
    fn check_window(&self, link: DukeId, part: &wire::InputPart) {
        let Some(machine) = self.machines.get(&link).filter(|machine| !self.liars.contains(machine)) else { return };
        let Some(duke) = self.dukes.get(machine) else { return };
        let attempt = AttemptId(part.attempt);
        let is_arriving = duke.reactor.unit_of(attempt).is_some() && duke.link() == Some(link);
        let input = duke.reactor.input_of(attempt);
        let stored = input.and_then(|input| duke.stored.get(&input).copied()).unwrap_or(0);
        let until = part.offset + part.data.len() as u64;
        let is_within = until <= stored + self.weather.window_bytes;
        assert!(is_within || !is_arriving, "no_more_than_a_window_is_on_its_way: {link}, {attempt}");
    }

    fn watch_news(&mut self, sender: Sender, news: &QueenNews) {
        match &news.news {
            Some(News::Welcome(welcome)) => self.last_job = self.last_job.max(welcome.job),
            Some(News::OutputOffered(offered)) => {
                self.tally.outputs_offered += 1;
                let Sender::Queen(queen, _) = sender else { return };
                let Some(queen) = self.queens.get_mut(&queen) else { return };
                let attempt = AttemptId(offered.attempt);
                self.tally.outputs_offered_again += u64::from(queen.offered.values().any(|of| *of == attempt));
                queen.offered.insert(offered.transfer, attempt);
            }
            Some(News::OutputPart(part)) => {
                self.tally.outputs_passed += 1;
                self.check_output_window(sender, part);
            }
            Some(News::End(end)) => self.check_end(sender, end),
            _ => {}
        }
    }

    /// Checks that only a liar is turned away.
    fn check_end(&mut self, sender: Sender, end: &wire::End) {
        let reason = end.reason.as_str();
        let is_broken = reason.starts_with("the connection broke") || reason == "the king ended the link";
        let is_fair = reason.is_empty() || end.come_back || is_replaced(reason) || is_broken;
        assert!(is_fair || self.lies(sender), "honest_peer_is_not_turned_away: {sender:?}: {}", end.reason);
        let is_heard_in_time = is_late(reason) && !self.has_newer_link(sender);
        assert!(!is_heard_in_time || self.lies(sender), "only_a_late_link_is_refused_as_late: {sender:?}");
        match sender {
            Sender::Duke(_) if !is_fair => self.tally.dukes_expelled += 1,
            Sender::Queen(..) if !is_fair => self.tally.queens_expelled += 1,
            _ => {}
        }
    }

    /// Whether the peer has opened another link since it opened this one.
    fn has_newer_link(&self, sender: Sender) -> bool {
        match sender {
            Sender::Duke(link) => {
                let machine = self.machines.get(&link);
                self.machines.iter().any(|(other, of)| *other > link && Some(of) == machine)
            }
            Sender::Queen(job, link) => self.queens.get(&job).is_some_and(|queen| queen.link.number > link),
        }
    }

    /// Whether this peer is a liar.
    fn lies(&self, sender: Sender) -> bool {
        match sender {
            Sender::Duke(link) => self.machines.get(&link).is_some_and(|machine| self.liars.contains(machine)),
            Sender::Queen(queen, _) => self.queens.get(&queen).is_some_and(|queen| queen.plan().lies),
        }
    }
}

/// Whether the peer has another link.
fn is_replaced(reason: &str) -> bool {
    is_late(reason) || reason == "the queen was started again"
}

/// Whether the hello of this link came after that of the peer's next one.
fn is_late(reason: &str) -> bool {
    reason.ends_with("has a newer link")
}
