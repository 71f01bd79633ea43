//! A queen's link: its words, checked.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use distwasm_proto::{
    digest::Digest,
    ids::UnitNo,
    limits::{
        BROKEN_REASON_BYTES_MAX, COPIED_BYTES_MAX, FILE_BYTES_MAX, OPENING_WITHIN, PART_BYTES_MAX, PROGRAM_BYTES_MAX,
        TRANSFER_WINDOW_BYTES, UNIT_BYTES_MAX, UNIT_NAME_BYTES_MAX, UNITS_MAX, WINDOW_BYTES,
    },
    wire::{self, FromQueen, QueenNews, queen_word::Word},
};
use distwasm_transport::{
    payload::{Payload, Shelf},
    transfer::{Arrived, Assembler},
};

use super::{Border, Heard, check_words, opening::Opening};
use crate::{
    budget::{Budget, Claim},
    inbox::{Happening, JobRequest, Leaving, LinkError, LinkId, Peer, QueenWord, UnitPart},
    payloads::{HeldBytes, QueenRoom, UnitInput},
};

/// The border of a queen's link.
pub struct QueenBorder {
    link: LinkId,
    peer: Peer<QueenNews>,
    assembler: Assembler<wire::QueenWord>,
    /// The job that is being opened, until it is open.
    opening: Option<Opening>,
    progress: Progress,
}

/// The progress of the stream so far, which the next word must fit.
struct Progress {
    units: u64,
    /// Units that may be sent again.
    again: BTreeSet<u64>,
    closed: bool,
    names: Shelf,
    /// The bytes of inputs that the reactor holds for the job.
    held: HeldBytes,
    /// The room that is taken for inputs which the reactor does not have yet.
    arriving: Claim,
    /// The bytes of the input that began last, if it comes in parts.
    begun: u64,
}

impl QueenBorder {
    /// A link on which nothing was said.
    pub fn new(link: LinkId, peer: Peer<QueenNews>, budget: &Budget) -> QueenBorder {
        let opening = Some(Opening::new(Claim::new(budget.programs.account(peer.origin))));
        let assembler = Assembler::new(PROGRAM_BYTES_MAX);
        let progress = Progress::new(HeldBytes::new(budget.inputs.account(peer.origin)));
        QueenBorder { link, peer, assembler, opening, progress }
    }

    /// Takes in a word of the opening; returns the queen with its job when it was the last one.
    fn open(&mut self, arrived: Arrived<wire::QueenWord>) -> Result<Option<Happening>, LinkError> {
        let Some(mut opening) = self.opening.take() else { return Ok(None) };
        match opening.check_word(arrived)? {
            Some(request) => Ok(Some(self.opened(opening, request))),
            None => {
                self.assembler = Assembler::new(opening.room_bytes());
                self.opening = Some(opening);
                Ok(None)
            }
        }
    }

    /// The program that its job lacks, and that is among those that the king keeps.
    pub fn wanted_program(&self) -> Option<Digest> {
        self.opening.as_ref().and_then(Opening::wanted_program)
    }

    /// Takes the room for that program, before it is read.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn admit_program(&mut self, bytes: u64) -> Result<(), LinkError> {
        self.opening.as_mut().map_or(Ok(()), |opening| opening.admit(bytes))
    }

    /// Takes in that program; returns the queen with its job if that was the last of it.
    pub fn provide_program(&mut self, program: Payload) -> Option<Happening> {
        let mut opening = self.opening.take()?;
        match opening.provide_program(program) {
            Some(request) => Some(self.opened(opening, request)),
            None => {
                self.opening = Some(opening);
                None
            }
        }
    }

    /// All of the job is here.
    fn opened(&mut self, opening: Opening, mut request: JobRequest) -> Happening {
        request.spec.payer = self.peer.origin;
        self.assembler = Assembler::new(UNIT_BYTES_MAX);
        if let Some((_, resumption)) = &request.resumes {
            self.progress.units = resumption.sent;
            self.progress.again = resumption.lacking.iter().map(|unit| unit.0).collect();
        }
        let (request, peer, held) = (Box::new(request), self.peer.clone(), self.progress.held.clone());
        let room = QueenRoom { held, claim: opening.claim };
        Happening::QueenJoined { link: self.link, request, peer, room }
    }
}

impl Border for QueenBorder {
    type Message = FromQueen;

    const INTRODUCED_WITHIN: Duration = OPENING_WITHIN;

    fn take(&mut self, message: FromQueen) -> Result<Heard, LinkError> {
        check_words(message.words.len())?;
        let mut heard = Heard::default();
        let mut words = Vec::with_capacity(message.words.len());
        for mut word in message.words {
            match word.word {
                // A queen may leave in the middle of a payload.
                Some(Word::End(_)) => {
                    heard.leaves = true;
                    break;
                }
                // It does not wait until a large input has arrived.
                Some(Word::VerdictsHeard(verdicts)) if self.has_joined() => {
                    words.push(QueenWord::VerdictsHeard(verdicts.verdicts));
                    continue;
                }
                _ => {}
            }
            if let Some(opening) = &mut self.opening {
                opening.check_begun(&mut word, &self.peer.identity)?;
            } else {
                self.progress.check_begun(&word)?;
            }
            let Some(arrived) = self.assembler.accept(word)? else { continue };
            if self.has_joined() {
                words.push(self.progress.check_word(arrived)?);
            } else {
                heard.happenings.extend(self.open(arrived)?);
            }
        }
        if !words.is_empty() {
            let stays = if self.assembler.is_within_payload() { self.progress.begun } else { 0 };
            let arriving = &mut self.progress.arriving;
            let arrived = arriving.split(arriving.bytes().saturating_sub(stays));
            heard.happenings.push(Happening::QueenSaid { link: self.link, words, arrived });
        }
        Ok(heard)
    }

    fn has_joined(&self) -> bool {
        self.opening.is_none()
    }

    fn end(self, leaving: Leaving) -> Happening {
        Happening::QueenGone { link: self.link, outbox: self.peer.outbox, leaving }
    }
}

impl Progress {
    fn new(held: HeldBytes) -> Progress {
        let (arriving, names) = (held.arriving(), Shelf::default());
        Progress { units: 0, again: BTreeSet::new(), closed: false, names, held, arriving, begun: 0 }
    }

    /// Checks the first part of an input before the rest is taken in. The queen has not heard of verdicts that the
    /// king does not know, so that it never sees more room than there is.
    fn check_begun(&mut self, word: &wire::QueenWord) -> Result<(), LinkError> {
        let unit = match &word.word {
            Some(Word::Unit(unit)) if unit.name.len() > UNIT_NAME_BYTES_MAX => {
                return Err(LinkError::Nonsense("the name of a unit is too long"));
            }
            Some(Word::Unit(unit)) => unit,
            Some(Word::ShareData(_)) => return Err(LinkError::Nonsense("a share after its job was opened")),
            Some(Word::OpenJob(_)) => return Err(LinkError::Nonsense("a second job on one stream")),
            _ => return Ok(()),
        };
        let Some(input) = &unit.input else { return Ok(()) };
        let (held, is_begun) = (self.held.get(), (input.data.len() as u64) < input.bytes_total);
        if is_begun && held > 0 && held.saturating_add(input.bytes_total) > WINDOW_BYTES {
            return Err(LinkError::Nonsense("it sent more units than its window allows"));
        }
        if input.bytes_total > self.held.longest() {
            return Err(LinkError::Nonsense("it sent an input that is longer than the king takes"));
        }
        self.begun = if is_begun { input.bytes_total } else { 0 };
        Ok(self.held.claim(&mut self.arriving, input.bytes_total)?)
    }

    /// A unit must be the next one, or one that is sent again.
    fn check_number(&mut self, unit: u64) -> Result<(), LinkError> {
        if self.again.remove(&unit) {
            return Ok(());
        }
        if self.closed {
            return Err(LinkError::Nonsense("a unit after the last one"));
        }
        if unit >= UNITS_MAX {
            return Err(LinkError::Nonsense("more units than anybody can send"));
        }
        if unit != self.units {
            return Err(LinkError::Nonsense("units are numbered from 0 without gaps"));
        }
        self.units += 1;
        Ok(())
    }

    /// The word as the reactor knows it.
    fn check_word(&mut self, (word, payload): Arrived<wire::QueenWord>) -> Result<QueenWord, LinkError> {
        match word.word {
            Some(Word::Unit(unit)) => {
                self.check_number(unit.unit)?;
                let input = payload.map(|content| UnitInput {
                    name: self.names.keep_bytes(&unit.name),
                    content,
                    in_places: unit.in_places,
                    streamed: unit.streamed,
                });
                let input = input.map_err(shorten);
                if let Ok(input) = &input
                    && unit.streamed
                    && input.streamed_bytes().is_none_or(|bytes| bytes == 0 || bytes > FILE_BYTES_MAX)
                {
                    return Err(LinkError::Nonsense("a streamed input has its size in 8 bytes"));
                }
                Ok(QueenWord::Unit { unit: UnitNo(unit.unit), input })
            }
            Some(Word::UnitPart(wire::UnitPart { transfer, offset, data, broken })) => {
                if data.is_empty() == broken.is_empty() || data.len() > PART_BYTES_MAX {
                    return Err(LinkError::Nonsense("a part without bytes, or with too many"));
                }
                // A short part does not keep the message that it came in.
                let data = if data.len() > COPIED_BYTES_MAX { data } else { Bytes::copy_from_slice(&data) };
                let data = if broken.is_empty() { Ok(data) } else { Err(shorten(broken)) };
                Ok(QueenWord::UnitPart(UnitPart { transfer, offset, data }))
            }
            Some(Word::OutputWanted(wire::OutputWanted { transfer, from, until, gives_up })) => {
                if until.checked_sub(from).is_none_or(|bytes| bytes > TRANSFER_WINDOW_BYTES) {
                    return Err(LinkError::Nonsense("it asks for a part of a result that cannot be"));
                }
                Ok(QueenWord::OutputWanted { transfer, from, until, gives_up })
            }
            Some(Word::CloseJob(_)) if self.closed => Err(LinkError::Nonsense("a second last unit")),
            Some(Word::CloseJob(close)) if close.units != self.units => {
                Err(LinkError::Nonsense("it counts its units wrong"))
            }
            Some(Word::CloseJob(_)) => {
                self.closed = true;
                Ok(QueenWord::Closed)
            }
            Some(_) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
        }
    }
}

/// The reason for which an input cannot be read: that of a file system is short, and that of a liar is cut.
fn shorten(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(BROKEN_REASON_BYTES_MAX));
    reason
}

#[cfg(test)]
mod tests {
    use distwasm_proto::{
        PROTOCOL,
        digest::Digest,
        limits::{SHARES_BYTES_MAX, WINDOW_UNITS},
    };

    use super::super::opening::check_resumption;
    use crate::authority::{Identity, Origin};

    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::of([bytes])
    }

    /// The first word of a queen whose guests share these archives.
    fn open(shares: &[&[u8]]) -> wire::OpenJob {
        let share = |(number, archive): (usize, &&[u8])| wire::Share {
            digest: digest(archive).to_wire(),
            guest_path: format!("/{number}"),
        };
        let shares = shares.iter().enumerate().map(share).collect();
        wire::OpenJob {
            protocol: PROTOCOL,
            project: "p".to_owned(),
            program_digest: digest(b"program").to_wire(),
            guest: Some(wire::GuestSettings { shares, ..wire::GuestSettings::default() }),
            key: vec![0; 16].into(),
            ..wire::OpenJob::default()
        }
    }

    fn arrived(word: Word, payload: &[u8]) -> Arrived<wire::QueenWord> {
        (word.into(), Ok(payload.to_vec().into()))
    }

    fn share(archive: &[u8]) -> Arrived<wire::QueenWord> {
        arrived(Word::ShareData(wire::ShareData { digest: digest(archive).to_wire(), archive: None }), archive)
    }

    fn budget() -> Budget {
        Budget::new(8 << 30)
    }

    fn opening() -> Opening {
        Opening::new(Claim::new(budget().programs.account(Origin::Here)))
    }

    fn progress() -> Progress {
        progress_of(&budget())
    }

    #[test]
    fn a_program_is_not_taken_in_without_room_for_it() {
        let budget = budget();
        let address = Some([10, 0, 0, 1].into());
        let begun = |budget: &Budget| {
            let program = Some(wire::Payload { bytes_total: PROGRAM_BYTES_MAX, data: vec![1].into() });
            let word = Word::OpenJob(wire::OpenJob { program, ..open(&[]) }.into()).into();
            let mut border = QueenBorder::new(LinkId(1), Peer::new(Identity::Trusted, address).0, budget);
            border.take(FromQueen { words: vec![word] }).map(|_| border)
        };
        let mut unfinished: Vec<QueenBorder> = (0..100).map_while(|_| begun(&budget).ok()).collect();
        assert_eq!(unfinished.len() as u64, budget.programs.most() / 2 / PROGRAM_BYTES_MAX - 1);
        let refused = begun(&budget).err().unwrap();
        assert!(refused.may_come_back() && refused.to_string().contains("try again later"), "{refused}");
        unfinished.pop();
        assert!(begun(&budget).is_ok());
        // What never has room is not asked to come again.
        let refused = begun(&Budget::new(512 << 20)).err().unwrap();
        assert!(!refused.may_come_back() && refused.to_string().contains("--memory-limit"), "{refused}");
    }

    #[test]
    fn inputs_are_taken_in_while_there_is_room_and_very_little_always_is() {
        let budget = Budget::new(64 << 20);
        let most = budget.inputs.most();
        let mut hears = {
            let mut progress = progress_of(&budget);
            move |bytes: u64, data: usize| {
                let input = Some(wire::Payload { bytes_total: bytes, data: vec![0; data].into() });
                progress.check_begun(&Word::Unit(wire::Unit { input, ..Default::default() }).into())
            }
        };
        assert!(hears(most / 2, 1).is_ok());
        assert!(hears(most / 2, 1).is_ok());
        let full = hears(1, 1).unwrap_err();
        assert!(full.may_come_back() && full.to_string().contains("try again later"), "{full}");
        let mut other = progress_of(&budget);
        let small = wire::Payload { bytes_total: 100, data: vec![0; 100].into() };
        let unit = wire::Unit { input: Some(small), ..Default::default() };
        assert!(other.check_begun(&Word::Unit(unit).into()).is_ok());
        drop((hears, other));
        assert_eq!(budget.inputs.taken(), 0);
    }

    fn progress_of(budget: &Budget) -> Progress {
        Progress::new(HeldBytes::new(budget.inputs.account(Origin::Here)))
    }

    #[test]
    fn the_first_word_of_a_queen_is_checked_before_its_payload_is_taken_in() {
        let refusal = |begun: &[Word]| {
            let mut border = QueenBorder::new(LinkId(1), Peer::new(Identity::Trusted, None).0, &budget());
            let words = begun.iter().cloned().map(Into::into).collect();
            border.take(FromQueen { words }).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let payload = || Some(wire::Payload { bytes_total: 1000, data: vec![1].into() });
        let old = wire::OpenJob { protocol: PROTOCOL - 1, program: payload(), ..open(&[]) };
        assert!(refusal(&[Word::OpenJob(old.into())]).contains("it speaks protocol"));
        assert!(refusal(&[Word::Unit(wire::Unit { input: payload(), ..Default::default() })]).contains("opens no job"));
        let program = Some(wire::Payload { bytes_total: 7, data: b"program".to_vec().into() });
        let job = Word::OpenJob(wire::OpenJob { program, ..open(&[b"a"]) }.into());
        let share = wire::ShareData { digest: digest(b"b").to_wire(), archive: payload() };
        assert!(refusal(&[job, Word::ShareData(share)]).contains("does not need"));
    }

    #[test]
    fn only_units_have_payloads_once_the_job_is_open() {
        let payload = || Some(wire::Payload { bytes_total: 1 << 30, data: vec![1].into() });
        let digest = digest(b"b").to_wire();
        let share = Word::ShareData(wire::ShareData { digest, archive: payload() });
        let job = Word::OpenJob(wire::OpenJob { program: payload(), ..open(&[]) }.into());
        for (word, why) in [(share, "a share after"), (job, "a second job")] {
            let refused = progress().check_begun(&word.into()).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
        let name = vec![b'x'; UNIT_NAME_BYTES_MAX + 1].into();
        let unit = wire::Unit { name, input: payload(), ..Default::default() };
        assert!(progress().check_begun(&Word::Unit(unit).into()).is_err());
    }

    /// The outcome of these words: the number of the job's archives, nothing yet, or why its link ends.
    fn opened(words: Vec<Arrived<wire::QueenWord>>) -> Result<Option<usize>, String> {
        let mut opening = opening();
        let mut request = None;
        for word in words {
            request = opening.check_word(word).map_err(|error| error.to_string())?;
        }
        Ok(request.map(|request| request.archives.len()))
    }

    #[test]
    fn a_job_is_open_when_its_last_share_has_come() {
        let first = |shares: &[&[u8]]| arrived(Word::OpenJob(open(shares).into()), b"program");
        assert_eq!(opened(vec![first(&[])]), Ok(Some(0)));
        assert_eq!(opened(vec![first(&[b"a", b"b"]), share(b"b")]), Ok(None));
        assert_eq!(opened(vec![first(&[b"a", b"b"]), share(b"b"), share(b"a")]), Ok(Some(2)));
        assert_eq!(opened(vec![first(&[b"a", b"a"]), share(b"a")]), Ok(Some(1)), "each archive comes once");
    }

    #[test]
    fn shares_that_do_not_belong_to_the_job_end_the_link() {
        let first = |shares: &[&[u8]]| arrived(Word::OpenJob(open(shares).into()), b"program");
        let told = |words| opened(words).unwrap_err();
        assert!(told(vec![share(b"a")]).contains("opens no job"));
        assert!(told(vec![first(&[b"a"]), share(b"b")]).contains("does not need"));
        assert!(told(vec![first(&[b"a", b"b"]), share(b"a"), share(b"a")]).contains("does not need"));
        let lie = Word::ShareData(wire::ShareData { digest: digest(b"a").to_wire(), archive: None });
        assert!(told(vec![first(&[b"a"]), arrived(lie, b"b")]).contains("not the one"));
        let unit = arrived(Word::Unit(wire::Unit::default()), b"");
        assert!(told(vec![first(&[b"a"]), unit]).contains("missing"));
        let broken = (share(b"a").0, Err("cut".to_owned()));
        assert!(told(vec![first(&[b"a"]), broken]).contains("broke off"));
        assert!(told(vec![first(&[b"x".as_slice(); 65])]).contains("65 directories"));
    }

    #[test]
    fn shares_have_room_up_to_their_bound() {
        let mut opening = opening();
        let first = arrived(Word::OpenJob(open(&[b"abc", b"d"]).into()), b"program");
        assert!(opening.check_word(first).unwrap().is_none());
        assert_eq!(opening.room_bytes(), SHARES_BYTES_MAX);
        assert!(opening.check_word(share(b"abc")).unwrap().is_none());
        assert_eq!(opening.room_bytes(), SHARES_BYTES_MAX - 3);
    }

    #[test]
    fn guest_settings_are_checked() {
        let with = |guest: wire::GuestSettings| {
            let request = wire::OpenJob { guest: Some(guest), ..open(&[]) };
            opened(vec![arrived(Word::OpenJob(request.into()), b"program")]).unwrap_err()
        };
        let empty = wire::GuestSettings::default();
        let bad_env = wire::GuestSettings { env: vec!["DISTWASM_X=1".to_owned()], ..empty.clone() };
        assert!(with(bad_env).contains("are set by distwasm"));
        let long = wire::GuestSettings { args: vec!["x".repeat(1 << 20)], ..empty.clone() };
        assert!(with(long).contains("the arguments for the program have more than 128 KB"));
        let out = wire::Share { digest: digest(b"a").to_wire(), guest_path: "../a".to_owned() };
        assert!(with(wire::GuestSettings { shares: vec![out], ..empty }).contains("not a place for a shared"));
    }

    #[test]
    fn names_of_units_have_their_bound() {
        let unit = |name: Vec<u8>| {
            let unit = wire::Unit { name: name.into(), ..wire::Unit::default() };
            progress().check_word(arrived(Word::Unit(unit), b"input"))
        };
        let longest = unit(vec![0xff; UNIT_NAME_BYTES_MAX]).unwrap();
        assert!(matches!(longest, QueenWord::Unit { input: Ok(input), .. } if input.bytes() == 4096 + 5));
    }

    #[test]
    fn a_queen_that_comes_back_sends_what_is_lacking_once_and_goes_on() {
        let resumption =
            |sent, lacking: &[u64]| wire::Resumption { sent, lacking: lacking.to_vec(), ..Default::default() };
        let (_, resumes) = check_resumption(resumption(9, &[7, 3, 3])).unwrap();
        assert_eq!(resumes.lacking, [UnitNo(3), UnitNo(7)]);
        assert!(check_resumption(resumption(9, &[9])).is_err());
        let many: Vec<u64> = (0..=u64::from(WINDOW_UNITS)).collect();
        assert!(check_resumption(resumption(1 << 40, &many)).is_err());
        let mut progress = Progress { units: 9, again: [3, 7].into(), ..progress() };
        let mut said = |unit| progress.check_number(unit).is_ok();
        assert_eq!([7, 7, 9, 3, 10, 8].map(&mut said), [true, false, true, true, true, false]);
    }
}
