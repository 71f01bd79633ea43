//! The king's one loop: waits for the next things to happen, and hands them to the reactor.

use distwasm_process::{clock::Clock, memory, shutdown::Stop};
use distwasm_proto::limits::REACTOR_BATCH;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Reactor;
use crate::{
    Reign,
    inbox::{Arrival, Happening},
    view::Publisher,
};

/// Runs until `stop` says so, then says goodbye to every peer. A graceful shutdown is over when the jobs have ended, or
/// when their time is up.
pub(crate) async fn run(reign: Reign, mut inbox: mpsc::Receiver<Arrival>, publisher: Publisher, stop: Stop) {
    let clock = Clock::start();
    let mut reactor = Reactor::new(clock.now(), reign);
    let mut drained_at = None;
    let (mut batch, mut happenings): (Vec<Arrival>, _) = (Vec::with_capacity(REACTOR_BATCH), Vec::new());
    loop {
        tokio::select! {
            _ = inbox.recv_many(&mut batch, REACTOR_BATCH) => {}
            () = clock.sleep_until(reactor.next_deadline()) => batch.push(Happening::Tick.into()),
            () = publisher.wanted() => publisher.publish(reactor.view()),
            () = stop.drains().cancelled(), if drained_at.is_none() => {
                if stop.ends().is_cancelled() {
                    break;
                }
                drained_at = Some(clock.now().after(stop.patience()));
                batch.push(Happening::Draining.into());
            }
            () = clock.sleep_until(drained_at) => {
                warn!("some jobs have not ended in time");
                break;
            }
            () = stop.ends().cancelled() => break,
        }
        // Room for more messages is given back when these are handled.
        let mut admissions = Vec::new();
        for Arrival { happening, admission } in batch.drain(..) {
            happenings.push(happening);
            admissions.extend(admission);
        }
        reactor.handle(clock.now(), &mut happenings);
        drop(admissions);
        if reactor.may_shrink() {
            memory::give_back();
        }
        if reactor.is_over() {
            break;
        }
    }
    stop.end();
    info!("the king is shutting down");
    reactor.say_goodbye();
}
