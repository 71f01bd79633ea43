//! Simulated dukes: links with slots but without peasants, which answer each attempt when its time is over.
//!
//! Each has a connection of its own, and all live in one thread. A slot takes the next attempt at the very moment when
//! the one before should end, even if this thread handles it later, as a duke with its own processors would. So a slot
//! is idle only if the king did not supply it. Every second it prints how many attempts have begun.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    process::ExitCode,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use distwasm_process::{clock::Clock, token_flags::TokenFlags};
use distwasm_proto::{
    PROTOCOL, VERSION,
    time::Time,
    wire::{self, DukeOrder, DukeWord, duke_order::Order, duke_word::Word},
};
use distwasm_transport::{credentials::Credentials, link::KingAddress, payload::Payload, transfer::Outbox};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{options::EchoDuke, say};

/// The resolution of the timer.
const TICK_US: u64 = 1000;
/// How many messages may wait.
const QUEUE: usize = 1024;
const REPORT_EVERY_US: u64 = 1_000_000;

/// Serves until the king ends or this process is killed.
///
/// # Errors
///
/// When no king can be reached.
pub fn run(options: &EchoDuke) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(options))?;
    Ok(ExitCode::SUCCESS)
}

/// A duke's number and its orders; `None` at the end of its link.
type Heard = (usize, Option<Vec<DukeOrder>>);

async fn serve(options: &EchoDuke) -> Result<()> {
    let (sender, mut heard) = mpsc::channel(QUEUE);
    let mut listening = JoinSet::new();
    let mut dukes = Vec::new();
    for number in 0..options.dukes {
        dukes.push(join(number, options, &sender, &mut listening).await?);
    }
    drop(sender);
    say::result("ready");
    let mut world = World { clock: Clock::start(), unit_us: options.unit_us, dukes, wheel: Wheel::default(), began: 0 };
    let (mut batch, mut report_us) = (Vec::new(), None);
    loop {
        let now = world.clock.now();
        world.answer_due(now);
        if world.began > 0 && report_us.is_none_or(|at| now.0 >= at) {
            say::result(&format!("began {} {}", now.0, world.began));
            report_us = Some(now.0 + REPORT_EVERY_US);
        }
        let due = world.wheel.next_us().map(|us| Instant::from_std(world.clock.instant(Time(us))));
        tokio::select! {
            count = heard.recv_many(&mut batch, QUEUE) => {
                if count == 0 {
                    return Ok(());
                }
                batch.drain(..).for_each(|(duke, orders)| world.on_heard(duke, orders));
            }
            () = wait_for(due) => {}
        }
    }
}

/// Waits until this time. Without one, it never returns.
async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn join(
    number: usize,
    options: &EchoDuke,
    sender: &mpsc::Sender<Heard>,
    listening: &mut JoinSet<()>,
) -> Result<Duke> {
    let TokenFlags { token_file, insecure } = &options.token;
    let credentials = Credentials::find(&options.king_address, token_file.as_deref(), *insecure)?;
    let king = KingAddress::Remote(options.king_address.clone(), credentials).connect().await.context("no king")?;
    let (outbox, words) = Outbox::new();
    outbox.push(Word::Hello(Box::new(wire::DukeHello {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        hostname: format!("echo-{number}"),
        cpus: options.cpus,
        ram_bytes: 1 << 44,
        boot: fastrand::u64(..),
        seat: (number as u128 + 1).to_be_bytes().to_vec().into(),
        link: 1,
        ..wire::DukeHello::default()
    })));
    let mut orders = king.volunteer(words).await?;
    let sender = sender.clone();
    listening.spawn(async move {
        while let Ok(Some(message)) = orders.message().await {
            if sender.send((number, Some(message.orders))).await.is_err() {
                return;
            }
        }
        let _sent = sender.send((number, None)).await;
    });
    Ok(Duke { outbox: Some(outbox), slots: BTreeMap::new(), free_at: BinaryHeap::new() })
}

struct World {
    clock: Clock,
    unit_us: u64,
    dukes: Vec<Duke>,
    wheel: Wheel,
    /// Attempts so far.
    began: u64,
}

struct Duke {
    outbox: Option<Outbox<DukeWord>>,
    /// Slots by job.
    slots: BTreeMap<u64, u32>,
    /// When each slot is free, in microseconds.
    free_at: BinaryHeap<Reverse<u64>>,
}

impl World {
    fn on_heard(&mut self, number: usize, orders: Option<Vec<DukeOrder>>) {
        let now_us = self.clock.now().0;
        let Some(duke) = self.dukes.get_mut(number) else { return };
        let Some(orders) = orders else {
            duke.outbox = None;
            return;
        };
        for order in orders {
            match order.order {
                Some(Order::GrantSlots(grant)) => {
                    *duke.slots.entry(grant.job).or_default() += grant.slots;
                    duke.free_at.extend((0..grant.slots).map(|_| Reverse(now_us)));
                }
                Some(Order::ReleaseSlots(release)) => duke.release(release.job, release.slots),
                Some(Order::CloseLease(close)) => duke.release(close.job, u32::MAX),
                Some(Order::StartAttempt(start)) => {
                    let Some(Reverse(free_us)) = duke.free_at.pop() else {
                        duke.answer(start.attempt, wire::Outcome::Returned, 0);
                        continue;
                    };
                    self.began += 1;
                    let end_us = free_us.max(now_us) + self.unit_us;
                    duke.free_at.push(Reverse(end_us));
                    if self.unit_us == 0 {
                        duke.answer(start.attempt, wire::Outcome::Done, 0);
                    } else {
                        self.wheel.push(end_us, (number, start.attempt));
                    }
                }
                // These dukes keep no results to forget, and need no program.
                _ => {}
            }
        }
    }

    fn answer_due(&mut self, now: Time) {
        while let Some(due) = self.wheel.pop(now.0) {
            for (number, attempt) in due {
                if let Some(duke) = self.dukes.get(number) {
                    duke.answer(attempt, wire::Outcome::Done, self.unit_us);
                }
            }
        }
    }
}

impl Duke {
    fn answer(&self, attempt: u64, outcome: wire::Outcome, run_us: u64) {
        let ended = wire::AttemptEnded { attempt, outcome: outcome.into(), run_us, result: None, failure: None };
        let result = if outcome == wire::Outcome::Done { Bytes::from_static(b"12345\n") } else { Bytes::new() };
        if let Some(outbox) = &self.outbox {
            outbox.push_with(Word::AttemptEnded(ended), Payload::from(result));
        }
    }

    /// Gives slots back at once, even busy ones; their attempts are still answered.
    fn release(&mut self, job: u64, slots: u32) {
        let held = self.slots.entry(job).or_default();
        let slots = slots.min(*held);
        *held -= slots;
        for _ in 0..slots {
            self.free_at.pop();
        }
        if let Some(outbox) = &self.outbox {
            outbox.push(Word::SlotsReleased(wire::SlotsReleased { job, slots }));
        }
    }
}

/// A timer wheel: one place for each tick, so that inserting and removing cost the same for any number of entries.
#[derive(Default)]
struct Wheel {
    /// The tick of the first place.
    first: u64,
    places: VecDeque<Vec<(usize, u64)>>,
}

impl Wheel {
    fn push(&mut self, us: u64, what: (usize, u64)) {
        let tick = us.div_ceil(TICK_US);
        if self.places.is_empty() {
            self.first = tick;
        }
        while tick < self.first {
            self.first -= 1;
            self.places.push_front(Vec::new());
        }
        let at = usize::try_from(tick - self.first).unwrap_or(usize::MAX);
        while self.places.len() <= at {
            self.places.push_back(Vec::new());
        }
        if let Some(place) = self.places.get_mut(at) {
            place.push(what);
        }
    }

    /// Takes the entries of the first place, if its time has come.
    fn pop(&mut self, now_us: u64) -> Option<Vec<(usize, u64)>> {
        if self.first * TICK_US > now_us {
            return None;
        }
        let place = self.places.pop_front()?;
        self.first += 1;
        Some(place)
    }

    /// The time of the first entry.
    fn next_us(&self) -> Option<u64> {
        let empty = self.places.iter().position(|place| !place.is_empty())?;
        Some((self.first + empty as u64) * TICK_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_returns_every_entry_in_time() {
        let mut wheel = Wheel::default();
        for us in [5000, 1000, 1500, 9000] {
            wheel.push(us, (0, us));
        }
        let mut taken = Vec::new();
        while let Some(us) = wheel.next_us() {
            while let Some(place) = wheel.pop(us) {
                taken.extend(place.into_iter().map(|(_, pushed)| (us, pushed)));
            }
        }
        assert_eq!(taken, [(1000, 1000), (2000, 1500), (5000, 5000), (9000, 9000)]);
    }
}
