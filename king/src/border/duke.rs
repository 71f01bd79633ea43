//! A duke's link: its words, checked.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use distwasm_proto::{
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{
        COPIED_BYTES_MAX, DUKE_CPUS_MAX, DUKE_RAM_BYTES_MAX, FILE_BYTES_MAX, HELD_ATTEMPT_BYTES, HELD_ATTEMPTS_MAX,
        INTRODUCTION_WITHIN, JOBS_MAX, MESSAGE_UNCOUNTED_BYTES, PART_BYTES_MAX, TRANSFER_WINDOW_BYTES, UNIT_BYTES_MAX,
        UNIT_NAME_BYTES_MAX, UNITS_MAX, WALLS_MAX,
    },
    secret::{Mark, Purpose, Secret},
    wire::{self, DukeOrder, FromDuke, duke_word::Word, is_offered},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Arrived, Assembler},
};

use super::{Border, Heard, are_labels, check_protocol, check_words, fetches::Fetches, is_name};
use crate::{
    budget::{Budget, Claim},
    inbox::{DukeWord, Happening, InputWanted, Leaving, LinkError, Machine, Peer},
    scheduler::{HeldAttempt, HeldLease},
};

/// The border of a duke's link.
pub struct DukeBorder {
    duke: DukeId,
    peer: Peer<DukeOrder>,
    stage: Stage,
    assembler: Assembler<wire::DukeWord>,
    fetches: Fetches,
    /// The room for the attempts that it brings.
    brought: Claim,
}

/// How far the duke has introduced itself.
enum Stage {
    /// It has said nothing.
    Silent,
    /// It still has to name this many leases.
    Naming(Machine, Holdings, u32),
    Joined,
}

impl DukeBorder {
    /// A link on which nothing was said.
    pub fn new(duke: DukeId, peer: Peer<DukeOrder>, budget: &Budget) -> DukeBorder {
        let (assembler, fetches) = (Assembler::new(UNIT_BYTES_MAX), Fetches::default());
        let brought = Claim::new(budget.inputs.account(peer.origin));
        DukeBorder { duke, peer, stage: Stage::Silent, assembler, fetches, brought }
    }

    /// Takes in a word with which the duke introduces itself; returns the duke when it was the last one.
    fn introduce(&mut self, word: Option<Word>) -> Result<Option<Happening>, LinkError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Joined);
        let (machine, holdings, missing) = match (stage, word) {
            (Stage::Silent, Some(Word::Hello(hello))) => {
                let leases = hello.held_leases;
                (check_hello(*hello)?, Holdings::default(), leases)
            }
            (Stage::Naming(machine, mut holdings, missing), Some(Word::HeldLease(held))) => {
                holdings.add(*held)?;
                let bytes = (holdings.attempts as u64 * HELD_ATTEMPT_BYTES).saturating_sub(MESSAGE_UNCOUNTED_BYTES);
                self.brought.add(bytes.saturating_sub(self.brought.bytes()))?;
                (machine, holdings, missing - 1)
            }
            (Stage::Naming(..), _) => {
                return Err(LinkError::Nonsense("it does not name all the leases that it says it holds"));
            }
            (Stage::Silent | Stage::Joined, _) => return Err(LinkError::Nonsense("its first word is not a hello")),
        };
        if missing > 0 {
            self.stage = Stage::Naming(machine, holdings, missing);
            return Ok(None);
        }
        let (peer, fetches) = (self.peer.clone(), self.fetches.clone());
        let (holds, brought) = (holdings.leases.into_values().collect(), self.brought.split(u64::MAX));
        Ok(Some(Happening::DukeJoined { duke: self.duke, machine, holds, peer, fetches, brought }))
    }
}

impl Border for DukeBorder {
    type Message = FromDuke;

    const INTRODUCED_WITHIN: Duration = INTRODUCTION_WITHIN;

    fn take(&mut self, message: FromDuke) -> Result<Heard, LinkError> {
        check_words(message.words.len())?;
        let mut heard = Heard::default();
        let mut words = Vec::with_capacity(message.words.len());
        for word in message.words {
            // A duke may leave in the middle of a payload.
            if matches!(word.word, Some(Word::End(_))) {
                heard.leaves = true;
                break;
            }
            if !self.has_joined() {
                heard.happenings.extend(self.introduce(word.word)?);
                continue;
            }
            check_wanted(&word, &self.fetches)?;
            if let Some(arrived) = self.assembler.accept(word)? {
                words.push(check_word(arrived)?);
            }
        }
        if !words.is_empty() {
            heard.happenings.push(Happening::DukeSaid { duke: self.duke, words });
        }
        Ok(heard)
    }

    fn has_joined(&self) -> bool {
        matches!(self.stage, Stage::Joined)
    }

    fn end(self, leaving: Leaving) -> Happening {
        Happening::DukeGone { duke: self.duke, outbox: self.peer.outbox, leaving }
    }
}

/// A large result must be one that the king has asked for; nothing else of it is taken in.
fn check_wanted(word: &wire::DukeWord, fetches: &Fetches) -> Result<(), LinkError> {
    let Some(Word::AttemptEnded(ended)) = &word.word else { return Ok(()) };
    let (bytes, begun) = ended.result.as_ref().map_or((0, 0), |result| (result.bytes_total, result.data.len() as u64));
    // A small result may come in parts, too, where a message is full; nothing else of its word may wait for the rest.
    if begun < bytes && ended.failure.is_some() {
        return Err(LinkError::Nonsense("it sends a failure with a result"));
    }
    if is_offered(bytes) && fetches.take(AttemptId(ended.attempt)) != Some(bytes) {
        return Err(LinkError::Nonsense("it sends a large result that the king did not ask for"));
    }
    Ok(())
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
        let wire::HeldLease { job, mark, slot_bytes, slots, leaving, attempts, closed } = held;
        let mark = Mark::from_wire(&mark).ok_or(LinkError::Nonsense("the mark of a job has 16 bytes"))?;
        let lease = self.leases.entry(job).or_insert_with(|| {
            let attempts = Vec::with_capacity(attempts.len());
            HeldLease { job: JobId(job), mark, slot_bytes, slots, leaving, closed, attempts }
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
    if hello.walls.len() > WALLS_MAX || !hello.walls.iter().all(|wall| is_name(wall)) {
        return Err(LinkError::Nonsense("too many walls, or too long names of walls"));
    }
    let labels = hello.labels.into_iter().collect();
    let wire::DukeHello { hostname, cpus, ram_bytes, walls, boot, seat, link, .. } = hello;
    let seat = Secret::from_wire(&seat).ok_or(LinkError::Nonsense("the secret of a seat has 16 bytes"))?;
    let seat = seat.mark(Purpose::Seat);
    Ok(Machine { hostname, cpus, ram_bytes, labels, walls, boot, seat, link })
}

/// The word as the reactor knows it.
fn check_word((word, payload): Arrived<wire::DukeWord>) -> Result<DukeWord, LinkError> {
    let Ok(payload) = payload else { return Err(LinkError::Nonsense("it broke off in a result")) };
    let said = match word.word {
        Some(Word::BlobWanted(wanted)) => {
            let digest = Digest::from_wire(&wanted.digest);
            DukeWord::BlobWanted(digest.ok_or(LinkError::Nonsense("a digest has 32 bytes"))?)
        }
        Some(Word::ProgramUnfit(unfit)) => {
            DukeWord::ProgramUnfit { job: JobId(unfit.job), failure: check_failure(unfit.failure)? }
        }
        Some(Word::AttemptEnded(ended)) => check_ended(ended, payload)?,
        Some(Word::ResultOffered(offer)) => {
            let (attempt, bytes) = (AttemptId(offer.attempt), offer.result_bytes);
            if offer.streamed {
                if !(1..=FILE_BYTES_MAX).contains(&bytes) {
                    return Err(LinkError::Nonsense("it offers a streamed result of a size that cannot be"));
                }
                return Ok(DukeWord::ResultStreamed { attempt, bytes, run_us: offer.run_us });
            }
            if bytes > UNIT_BYTES_MAX || !is_offered(bytes) {
                return Err(LinkError::Nonsense("it offers a result of a size that is not to be offered"));
            }
            DukeWord::ResultOffered { attempt, bytes, run_us: offer.run_us }
        }
        Some(Word::SlotsReleased(released)) => {
            DukeWord::SlotsReleased { job: JobId(released.job), slots: released.slots }
        }
        Some(Word::SlotsBroken(broken)) => {
            let reason = Failure::new(FailureKind::Other, broken.reason).message;
            DukeWord::SlotsBroken { job: JobId(broken.job), slots: broken.slots, reason }
        }
        Some(Word::CompilesFor(wire::CompilesFor { jobs })) => {
            if jobs.len() > JOBS_MAX {
                return Err(LinkError::Nonsense("it compiles for more jobs than there may be"));
            }
            DukeWord::Compiling(jobs.into_iter().map(JobId).collect())
        }
        Some(Word::InputsArrived(arrived)) => DukeWord::InputsArrived { attempt: AttemptId(arrived.attempt) },
        Some(Word::InputWanted(wire::InputWanted { attempt, from, until })) => {
            if until.checked_sub(from).is_none_or(|bytes| bytes > TRANSFER_WINDOW_BYTES) {
                return Err(LinkError::Nonsense("it asks for a part of an input that cannot be"));
            }
            DukeWord::InputWanted(InputWanted { attempt: AttemptId(attempt), from, until })
        }
        Some(Word::ResultPart(wire::ResultPart { transfer, offset, data })) => {
            if data.is_empty() || data.len() > PART_BYTES_MAX {
                return Err(LinkError::Nonsense("a part of a result without bytes, or with too many"));
            }
            // A short part does not keep the message that it came in.
            let data = if data.len() > COPIED_BYTES_MAX { data } else { Bytes::copy_from_slice(&data) };
            DukeWord::ResultPart { transfer, offset, data }
        }
        Some(Word::Draining(wire::Draining {})) => DukeWord::Draining,
        Some(Word::HeldLease(_)) => return Err(LinkError::Nonsense("it names a lease that it holds too late")),
        Some(Word::Hello(_)) => return Err(LinkError::Nonsense("a second hello")),
        Some(Word::Piece(_) | Word::End(_)) | None => {
            return Err(LinkError::Nonsense("a word of a kind that is not known"));
        }
    };
    Ok(said)
}

fn check_ended(ended: wire::AttemptEnded, result: Payload) -> Result<DukeWord, LinkError> {
    let (attempt, run_us) = (AttemptId(ended.attempt), ended.run_us);
    match ended.outcome() {
        wire::Outcome::Done => Ok(DukeWord::AttemptDone { attempt, run_us, result }),
        outcome @ (wire::Outcome::Failed | wire::Outcome::Killed) => {
            let (killed, failure) =
                (outcome == wire::Outcome::Killed, check_failure(ended.failure.map(|failure| *failure))?);
            Ok(DukeWord::AttemptFailed { attempt, run_us, killed, failure })
        }
        wire::Outcome::Returned => Ok(DukeWord::AttemptReturned { attempt, suspect: false }),
        wire::Outcome::Suspected => Ok(DukeWord::AttemptReturned { attempt, suspect: true }),
        wire::Outcome::Preempted => Ok(DukeWord::AttemptPreempted { attempt, run_us }),
        wire::Outcome::Unspecified => Err(LinkError::Nonsense("an outcome of a kind that is not known")),
    }
}

fn check_failure(failure: Option<wire::Failure>) -> Result<Failure, LinkError> {
    failure.map(Failure::from).ok_or(LinkError::Nonsense("a failure without a reason"))
}

#[cfg(test)]
mod tests {
    use distwasm_proto::{PROTOCOL, limits::RESULT_UNASKED_BYTES_MAX};

    use super::*;
    use crate::authority::Identity;

    fn held(job: u64, attempts: &[u64], bytes: u64) -> wire::HeldLease {
        let attempts =
            attempts.iter().map(|attempt| wire::HeldAttempt { attempt: *attempt, bytes, ..Default::default() });
        wire::HeldLease { job, mark: vec![0; 16].into(), slots: 1, attempts: attempts.collect(), ..Default::default() }
    }

    #[test]
    fn a_small_result_may_come_in_parts() {
        let (mut border, _) = border();
        let result = Some(wire::Payload { bytes_total: 100, data: vec![0; 40].into() });
        let outcome = wire::Outcome::Done.into();
        let ended = wire::AttemptEnded { attempt: 1, outcome, result, ..Default::default() };
        let rest = wire::Piece { data: vec![0; 60].into(), broken: String::new() };
        let mut hear = |word: Word| border.take(FromDuke { words: vec![word.into()] });
        assert!(hear(Word::AttemptEnded(ended.clone())).unwrap().happenings.is_empty());
        assert_eq!(hear(Word::Piece(rest)).unwrap().happenings.len(), 1);
        let failure = Some(wire::Failure::default());
        let both = wire::AttemptEnded { failure: failure.map(Into::into), ..ended };
        assert!(hear(Word::AttemptEnded(both)).is_err());
    }

    fn border() -> (DukeBorder, Fetches) {
        let mut border = DukeBorder::new(DukeId(1), Peer::new(Identity::Trusted, None).0, &Budget::new(8 << 30));
        let hello = wire::DukeHello { protocol: PROTOCOL, cpus: 1, seat: vec![0; 16].into(), ..Default::default() };
        border.take(FromDuke { words: vec![Word::Hello(Box::new(hello)).into()] }).unwrap();
        let fetches = border.fetches.clone();
        (border, fetches)
    }

    /// The first part of a result.
    fn begun(attempt: u64, bytes_total: u64) -> FromDuke {
        let result = Some(wire::Payload { bytes_total, data: vec![0; 10].into() });
        let mut ended = wire::AttemptEnded { attempt, result, ..Default::default() };
        ended.set_outcome(wire::Outcome::Done);
        FromDuke { words: vec![Word::AttemptEnded(ended).into()] }
    }

    #[test]
    fn a_large_result_is_taken_in_only_if_the_king_has_asked_for_it() {
        let offer = |bytes| {
            let offer = wire::ResultOffered { attempt: 7, result_bytes: bytes, run_us: 1, streamed: false };
            FromDuke { words: vec![Word::ResultOffered(offer).into()] }
        };
        let large = RESULT_UNASKED_BYTES_MAX + 1;
        let (mut duke, _) = border();
        duke.take(offer(large)).unwrap();
        assert!(duke.take(begun(7, large)).unwrap_err().to_string().contains("did not ask for"));
        let (mut duke, fetches) = border();
        fetches.add(AttemptId(7), large);
        assert!(duke.take(begun(7, large + 1)).is_err(), "it has another size");
        let (mut duke, fetches) = border();
        fetches.add(AttemptId(7), large);
        duke.take(begun(7, large)).unwrap();
        let (mut duke, _) = border();
        duke.take(begun(8, 10)).unwrap();
    }

    #[test]
    fn a_streamed_result_has_a_byte_and_comes_in_parts() {
        let offer = |result_bytes| {
            let offer = wire::ResultOffered { attempt: 7, result_bytes, run_us: 1, streamed: true };
            border().0.take(FromDuke { words: vec![Word::ResultOffered(offer).into()] })
        };
        assert!(offer(1).is_ok() && offer(1 << 50).is_ok() && offer(0).is_err() && offer(u64::MAX).is_err());
        let part = |bytes| {
            let part = wire::ResultPart { transfer: 1, offset: 0, data: vec![0; bytes].into() };
            border().0.take(FromDuke { words: vec![Word::ResultPart(part).into()] })
        };
        assert!(part(1).is_ok() && part(PART_BYTES_MAX).is_ok());
        assert!(part(0).is_err() && part(PART_BYTES_MAX + 1).is_err());
    }

    #[test]
    fn what_dukes_bring_has_one_budget_of_memory() {
        let budget = Budget::new(64 << 20);
        let address = |last| Some([10, 0, 0, last].into());
        let brings = |number: u64, last| {
            let peer = Peer::new(Identity::Trusted, address(last)).0;
            let mut border = DukeBorder::new(DukeId(number), peer, &budget);
            let seat = vec![0; 16].into();
            let hello = wire::DukeHello { protocol: PROTOCOL, cpus: 1, seat, held_leases: 3, ..Default::default() };
            let mut words = vec![Word::Hello(Box::new(hello)).into()];
            words.extend((0..2).map(|job| Word::HeldLease(Box::new(held(job, &[1; 10_000], 1))).into()));
            border.take(FromDuke { words }).map(|heard| (border, heard))
        };
        let mut kept: Vec<_> = (0..1000).map_while(|number| brings(number, 1).ok()).collect();
        let each = 20_000 * HELD_ATTEMPT_BYTES - MESSAGE_UNCOUNTED_BYTES;
        assert_eq!(kept.len() as u64, budget.inputs.most() / 2 / each);
        let full = brings(1000, 1).err().unwrap();
        assert!(full.may_come_back() && full.to_string().contains("with this token or address"), "{full}");
        assert!(brings(1001, 2).is_ok());
        // It is counted until the reactor gives it up.
        let (mut border, _) = kept.pop().unwrap();
        let last = FromDuke { words: vec![Word::HeldLease(Box::new(held(7, &[], 1))).into()] };
        let joined = border.take(last).unwrap();
        assert!(brings(1002, 1).is_err());
        drop(border);
        assert!(brings(1003, 1).is_err());
        drop(joined);
        assert!(brings(1004, 1).is_ok());
        kept.clear();
        assert_eq!(budget.inputs.taken(), 0);
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
