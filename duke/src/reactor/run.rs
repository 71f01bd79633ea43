//! The loop that drives a duke's reactor: waits until something happens, and passes it on.

use distwasm_process::{clock::Clock, shutdown::Stop};
use distwasm_proto::limits::{GOODBYE_WITHIN, REACTOR_BATCH};
use tokio::time::sleep;
use tracing::warn;

use super::{Ending, Happening, Reactor};
use crate::{
    DukeError,
    king_link::KingLink,
    local_hands::{LocalHands, Reports},
};

/// Works for the king until `stop` ends it; no peasant is left afterwards.
///
/// # Errors
///
/// When the only duke gives up, or the king does not let this duke in.
pub(crate) async fn run(
    mut reactor: Reactor<LocalHands>,
    mut reports: Reports,
    mut link: KingLink,
    clock: Clock,
    stop: &Stop,
) -> Result<(), DukeError> {
    let ending = drive(&mut reactor, &mut reports, &mut link, clock, stop).await;
    drop(reports);
    reactor.hands().dismiss_all().await;
    let patience = reactor.leave(clock.now());
    tokio::select! {
        () = link.closed(patience) => {}
        () = async { stop.ends().cancelled().await; sleep(GOODBYE_WITHIN).await } => {}
    }
    match ending {
        Some(Ending::Hopeless(reason)) => Err(DukeError::Hopeless(reason)),
        Some(Ending::Refused(reason)) => Err(DukeError::Refused(reason)),
        Some(Ending::Drained | Ending::OutOfTime) | None => Ok(()),
    }
}

/// Returns why the reactor is done, or `None` if the duke is to end at once.
async fn drive(
    reactor: &mut Reactor<LocalHands>,
    Reports { news, tried, stored, read }: &mut Reports,
    link: &mut KingLink,
    clock: Clock,
    stop: &Stop,
) -> Option<Ending> {
    let (mut happenings, mut batch) = (Vec::new(), Vec::new());
    loop {
        let happening = tokio::select! {
            happening = link.next() => happening,
            _ = news.recv_many(&mut batch, REACTOR_BATCH) => Happening::Peasants(std::mem::take(&mut batch)),
            Some((supply, result)) = tried.recv() => Happening::SupplyTried { supply, result },
            Some((input, stored)) = stored.recv() => Happening::InputStored { input, stored },
            Some((read, pieces)) = read.recv() => Happening::ResultRead { read, pieces },
            () = clock.sleep_until(reactor.next_deadline()) => Happening::Tick,
            () = stop.drains().cancelled(), if !reactor.is_draining() => {
                Happening::Draining { patience: stop.patience() }
            }
            () = stop.ends().cancelled() => return None,
        };
        // A king in the same process says goodbye when both are to end.
        if stop.ends().is_cancelled() {
            return None;
        }
        happenings.push(happening);
        reactor.handle(clock.now(), &mut happenings);
        if !reactor.is_linked() {
            link.hang_up();
        }
        if !reactor.is_in_haste() {
            link.give_up_haste();
        }
        match reactor.ending() {
            Some(Ending::OutOfTime) => {
                warn!("not all units were done in time; they run again elsewhere");
                return Some(Ending::OutOfTime);
            }
            Some(ending) => return Some(ending),
            None => {}
        }
    }
}
