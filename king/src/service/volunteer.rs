//! A duke's link: its words, checked.

use std::collections::BTreeMap;

use distwasm_proto::{
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{
        DUKE_CPUS_MAX, DUKE_RAM_BYTES_MAX, HELD_ATTEMPTS_MAX, HELLO_WITHIN, JOBS_MAX, OFFERS_MAX, UNIT_BYTES_MAX,
        UNIT_NAME_BYTES_MAX, UNITS_MAX,
    },
    wire::{self, DukeOrder, DukeWord, duke_word::Word, is_offered},
};
use distwasm_transport::{
    payload::Payload,
    stream::Incoming,
    transfer::{Arrived, Assembler, Outbox},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Leaving, LinkError, Peer, are_labels, check_protocol, is_name, next_message};
use crate::{
    reactor::Input,
    scheduler::{HeldAttempt, HeldLease},
};

/// A duke's machine, as its first word describes it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    pub(crate) cpus: u32,
    pub(crate) ram_bytes: u64,
    pub(crate) labels: BTreeMap<String, String>,
    /// The number of its process.
    pub(crate) boot: u64,
    /// The number of its place on the machine.
    pub(crate) seat: u64,
    /// Which of its links this is.
    pub(crate) link: u64,
}

/// A duke's later words.
#[derive(Debug)]
pub(crate) enum Said {
    BlobWanted(Digest),
    ProgramUnfit { job: JobId, failure: Failure },
    AttemptDone { attempt: AttemptId, run_us: u64, result: Payload },
    AttemptFailed { attempt: AttemptId, run_us: u64, killed: bool, failure: Failure },
    AttemptReturned { attempt: AttemptId, suspect: bool },
    ResultOffered { attempt: AttemptId, bytes: u64, run_us: u64 },
    SlotsReleased { job: JobId, slots: u32 },
    SlotsBroken { job: JobId, slots: u32, reason: String },
    Draining,
}

/// The reader of a duke's stream.
pub(super) struct Link {
    pub(super) duke: DukeId,
    pub(super) reactor: mpsc::Sender<Input>,
    pub(super) outbox: Outbox<DukeOrder>,
    pub(super) peer: Peer,
}

impl Link {
    /// Reads until the duke leaves or is told to, and tells the reactor when the duke joins and when it is gone.
    pub(super) async fn serve(self, mut stream: Incoming<wire::FromDuke>) {
        let ended = CancellationToken::new();
        let _cancel_with_task = ended.clone().drop_guard();
        let leaving = self.listen(&mut stream, &ended).await;
        self.peer.tell(&leaving);
        // The reactor is gone only when the king ends.
        let _sent = self.reactor.send(Input::DukeGone { duke: self.duke, outbox: self.outbox, leaving }).await;
    }

    async fn listen(&self, stream: &mut Incoming<wire::FromDuke>, ended: &CancellationToken) -> Leaving {
        let hello = timeout(HELLO_WITHIN, next_message(stream, ended));
        let mut words = hello.await.map_err(|_| LinkError::NoHello(HELLO_WITHIN))??.words.into_iter();
        let Some(Word::Hello(hello)) = words.next().and_then(|word| word.word) else {
            return Err(LinkError::Nonsense("its first word is not a hello"));
        };
        let held_leases = hello.held_leases;
        let machine = check_hello(*hello)?;
        let mut holdings = Holdings::default();
        for _ in 0..held_leases {
            while words.len() == 0 {
                let message = timeout(HELLO_WITHIN, next_message(stream, ended));
                words = message.await.map_err(|_| LinkError::NoHello(HELLO_WITHIN))??.words.into_iter();
            }
            let Some(Word::HeldLease(held)) = words.next().and_then(|word| word.word) else {
                return Err(LinkError::Nonsense("it does not name all the leases that it says it holds"));
            };
            holdings.add(*held)?;
        }
        let (outbox, ended_too) = (self.outbox.clone(), ended.clone());
        let holds = holdings.leases.into_values().collect();
        self.send(Input::DukeJoined { duke: self.duke, machine, holds, outbox, ended: ended_too }).await?;
        let mut assembler = Assembler::new(UNIT_BYTES_MAX);
        let mut offers = Offers::default();
        loop {
            let mut said = Vec::with_capacity(words.len());
            let mut leaves = false;
            for word in words {
                // A duke may leave in the middle of a payload.
                leaves |= matches!(word.word, Some(Word::End(_)));
                if leaves {
                    break;
                }
                offers.check(&word)?;
                let Some(arrived) = assembler.accept(word)? else { continue };
                said.push(check_word(arrived)?);
            }
            if !said.is_empty() {
                self.send(Input::DukeSaid { duke: self.duke, said }).await?;
            }
            if leaves {
                return Ok(());
            }
            words = next_message(stream, ended).await?.words.into_iter();
        }
    }

    async fn send(&self, input: Input) -> Result<(), LinkError> {
        self.reactor.send(input).await.map_err(|_| LinkError::Ended)
    }
}

/// The sizes of results that were offered and have not arrived: no other large result may arrive.
#[derive(Default)]
struct Offers(BTreeMap<u64, u64>);

impl Offers {
    fn check(&mut self, word: &DukeWord) -> Result<(), LinkError> {
        match &word.word {
            Some(Word::ResultOffered(offer)) => {
                self.0.insert(offer.attempt, offer.result_bytes);
                if self.0.len() > OFFERS_MAX {
                    // Results that the duke was told to forget never arrive.
                    self.0.pop_first();
                }
                Ok(())
            }
            Some(Word::AttemptEnded(ended)) => {
                let bytes = ended.result.as_ref().map_or(0, |result| result.bytes_total);
                let offered = self.0.remove(&ended.attempt);
                if is_offered(bytes) && offered != Some(bytes) {
                    return Err(LinkError::Nonsense("it sends a large result of another size than it offered"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The leases that a duke brings from an earlier link.
#[derive(Default)]
struct Holdings {
    leases: BTreeMap<u64, HeldLease>,
    attempts: usize,
}

impl Holdings {
    fn add(&mut self, held: wire::HeldLease) -> Result<(), LinkError> {
        self.attempts += held.attempts.len();
        if self.attempts > HELD_ATTEMPTS_MAX || self.leases.len() > JOBS_MAX {
            return Err(LinkError::Nonsense("it holds more than any duke has"));
        }
        let wire::HeldLease { job, key, slot_bytes, slots, leaving, attempts, closed } = held;
        let lease = self.leases.entry(job).or_insert_with(|| {
            let attempts = Vec::with_capacity(attempts.len());
            HeldLease { job: JobId(job), key, slot_bytes, slots, leaving, closed, attempts }
        });
        for wire::HeldAttempt { attempt, unit, bytes, number } in attempts {
            if bytes > UNIT_BYTES_MAX + UNIT_NAME_BYTES_MAX as u64 || unit >= UNITS_MAX {
                return Err(LinkError::Nonsense("it holds a unit that cannot be"));
            }
            let (attempt, unit) = (AttemptId(attempt), UnitNo(unit));
            lease.attempts.push(HeldAttempt { attempt, unit, bytes, number });
        }
        Ok(())
    }
}

fn check_hello(hello: wire::DukeHello) -> Result<Machine, LinkError> {
    check_protocol(hello.protocol)?;
    if hello.ram_bytes > DUKE_RAM_BYTES_MAX {
        return Err(LinkError::Nonsense("it offers more memory than a machine has"));
    }
    if hello.cpus == 0 || hello.cpus > DUKE_CPUS_MAX {
        return Err(LinkError::Nonsense("it offers no processor, or more than a machine has"));
    }
    if !are_labels(&hello.labels) {
        return Err(LinkError::Nonsense("too many labels, or too long ones, or some with control characters"));
    }
    if !is_name(&hello.hostname) {
        return Err(LinkError::Nonsense("the name of its host is too long, or has control characters"));
    }
    let labels = hello.labels.into_iter().collect();
    let wire::DukeHello { hostname, cpus, ram_bytes, boot, seat, link, .. } = hello;
    Ok(Machine { hostname, cpus, ram_bytes, labels, boot, seat, link })
}

/// The word as the reactor knows it.
fn check_word((word, payload): Arrived<DukeWord>) -> Result<Said, LinkError> {
    let Ok(payload) = payload else { return Err(LinkError::Nonsense("it broke off in a result")) };
    let said = match word.word {
        Some(Word::BlobWanted(wanted)) => {
            let digest = Digest::from_wire(&wanted.digest);
            Said::BlobWanted(digest.ok_or(LinkError::Nonsense("a digest has 32 bytes"))?)
        }
        Some(Word::ProgramUnfit(unfit)) => {
            Said::ProgramUnfit { job: JobId(unfit.job), failure: check_failure(unfit.failure)? }
        }
        Some(Word::AttemptEnded(ended)) => check_ended(ended, payload)?,
        Some(Word::ResultOffered(offer)) => {
            let (attempt, bytes) = (AttemptId(offer.attempt), offer.result_bytes);
            if bytes > UNIT_BYTES_MAX || !is_offered(bytes) {
                return Err(LinkError::Nonsense("it offers a result of a size that is not to be offered"));
            }
            Said::ResultOffered { attempt, bytes, run_us: offer.run_us }
        }
        Some(Word::SlotsReleased(released)) => Said::SlotsReleased { job: JobId(released.job), slots: released.slots },
        Some(Word::SlotsBroken(broken)) => {
            let reason = Failure::new(FailureKind::Other, broken.reason).message;
            Said::SlotsBroken { job: JobId(broken.job), slots: broken.slots, reason }
        }
        Some(Word::Draining(wire::Draining {})) => Said::Draining,
        Some(Word::HeldLease(_)) => return Err(LinkError::Nonsense("it names a lease that it holds too late")),
        Some(Word::Hello(_)) => return Err(LinkError::Nonsense("a second hello")),
        Some(Word::Piece(_) | Word::End(_)) | None => {
            return Err(LinkError::Nonsense("a word of a kind that is not known"));
        }
    };
    Ok(said)
}

fn check_ended(ended: wire::AttemptEnded, result: Payload) -> Result<Said, LinkError> {
    let (attempt, run_us) = (AttemptId(ended.attempt), ended.run_us);
    match ended.outcome() {
        wire::Outcome::Done => Ok(Said::AttemptDone { attempt, run_us, result }),
        outcome @ (wire::Outcome::Failed | wire::Outcome::Killed) => {
            let (killed, failure) =
                (outcome == wire::Outcome::Killed, check_failure(ended.failure.map(|failure| *failure))?);
            Ok(Said::AttemptFailed { attempt, run_us, killed, failure })
        }
        wire::Outcome::Returned => Ok(Said::AttemptReturned { attempt, suspect: false }),
        wire::Outcome::Suspected => Ok(Said::AttemptReturned { attempt, suspect: true }),
        wire::Outcome::Unspecified => Err(LinkError::Nonsense("an outcome of a kind that is not known")),
    }
}

fn check_failure(failure: Option<wire::Failure>) -> Result<Failure, LinkError> {
    failure.map(Failure::from).ok_or(LinkError::Nonsense("a failure without a reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(job: u64, attempts: &[u64], bytes: u64) -> wire::HeldLease {
        let attempts =
            attempts.iter().map(|attempt| wire::HeldAttempt { attempt: *attempt, bytes, ..Default::default() });
        wire::HeldLease { job, slots: 1, attempts: attempts.collect(), ..Default::default() }
    }

    #[test]
    fn what_a_duke_brings_is_put_together_and_has_its_bounds() {
        let mut holdings = Holdings::default();
        holdings.add(held(1, &[1, 2], 5)).unwrap();
        holdings.add(held(2, &[3], 5)).unwrap();
        holdings.add(held(1, &[4], 5)).unwrap();
        let leases: Vec<HeldLease> = holdings.leases.into_values().collect();
        assert_eq!(
            leases.iter().map(|lease| (lease.slots, lease.attempts.len())).collect::<Vec<_>>(),
            [(1, 3), (1, 1)]
        );
        assert!(Holdings::default().add(held(1, &[1], u64::MAX)).is_err());
        let many: Vec<u64> = (0..=HELD_ATTEMPTS_MAX as u64).collect();
        assert!(Holdings::default().add(held(1, &many, 1)).is_err());
    }
}
