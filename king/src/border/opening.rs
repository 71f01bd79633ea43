//! The words with which a queen opens a job, checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use distwasm_proto::{
    digest::Digest,
    guest::GuestSettings,
    ids::{JobId, UnitNo},
    limits::{PROGRAM_BYTES_MAX, REPLACED_MAX, SHARES_BYTES_MAX, UNITS_MAX, WINDOW_UNITS},
    secret::{Mark, Purpose, Secret},
    wire::{self, queen_word::Word},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Arrived, Word as _},
};
use prost::Message as _;

use super::{check_protocol, job_spec::check_job_spec};
use crate::{
    authority::Identity,
    budget::Claim,
    inbox::{JobRequest, LinkError},
    scheduler::Resumption,
};

/// The words that open a job, until all of them are there.
#[derive(Debug)]
pub(super) struct Opening {
    request: Option<JobRequest>,
    /// Archives that have not come.
    missing: BTreeSet<Digest>,
    /// The program is among those that the king keeps, and has not been fetched from there.
    lacks_program: bool,
    /// The room for what is announced.
    pub(super) claim: Claim,
}

impl Opening {
    pub(super) fn new(claim: Claim) -> Opening {
        Opening { request: None, missing: BTreeSet::new(), lacks_program: false, claim }
    }

    /// Checks the first part of a word, before the rest of the word's payload is taken in.
    pub(super) fn check_begun(&mut self, word: &mut wire::QueenWord, identity: &Identity) -> Result<(), LinkError> {
        match (&word.word, &self.request) {
            (Some(Word::Piece(_)), _) => return Ok(()),
            (Some(Word::OpenJob(request)), None) => {
                check_protocol(request.protocol)?;
                identity.check_project(&request.project).map_err(LinkError::Refused)?;
            }
            (Some(Word::ShareData(share)), Some(_)) => {
                let digest = Digest::from_wire(&share.digest);
                if !digest.is_some_and(|digest| self.missing.contains(&digest)) {
                    return Err(LinkError::Nonsense("a share that its job does not need"));
                }
            }
            (_, None) => return Err(LinkError::Nonsense("its first word opens no job")),
            (_, Some(_)) => return Err(LinkError::Nonsense("a share of its job is missing")),
        }
        // Sizes that are too large are refused for that.
        let payload = word.payload().and_then(|payload| payload.as_ref());
        let bytes = payload.map_or(0, |payload| payload.bytes_total.min(PROGRAM_BYTES_MAX));
        self.admit(bytes + word.encoded_len() as u64)
    }

    /// Takes the room for a part of the job.
    pub(super) fn admit(&mut self, bytes: u64) -> Result<(), LinkError> {
        if self.claim.bytes() + bytes > self.claim.most() {
            return Err(LinkError::TooMuch(self.claim.most()));
        }
        Ok(self.claim.add(bytes)?)
    }

    /// Takes in a word; returns the request when nothing is missing any more.
    pub(super) fn check_word(
        &mut self,
        (word, payload): Arrived<wire::QueenWord>,
    ) -> Result<Option<JobRequest>, LinkError> {
        let payload = payload.map_err(|_| LinkError::Nonsense("it broke off in its program or in a share"))?;
        match (word.word, &mut self.request) {
            (Some(Word::OpenJob(request)), None) => {
                self.lacks_program = request.program_is_kept;
                let request = check_request(*request, payload)?;
                self.missing.extend(request.guest.shares.iter().map(|share| share.digest));
                self.request = Some(request);
            }
            (Some(Word::ShareData(share)), Some(request)) => {
                let digest = Digest::of(payload.chunks().map(AsRef::as_ref));
                if Digest::from_wire(&share.digest) != Some(digest) {
                    return Err(LinkError::Nonsense("a share is not the one whose digest it sent"));
                }
                if !self.missing.remove(&digest) {
                    return Err(LinkError::Nonsense("a share that its job does not need"));
                }
                request.archives.insert(digest, payload);
            }
            (_, None) => return Err(LinkError::Nonsense("its first word opens no job")),
            (_, Some(_)) => return Err(LinkError::Nonsense("a share of its job is missing")),
        }
        Ok(self.take_whole())
    }

    /// The program that is to be fetched from those that the king keeps.
    pub(super) fn wanted_program(&self) -> Option<Digest> {
        self.request.as_ref().filter(|_| self.lacks_program).map(|request| request.digest)
    }

    /// Takes in the program that was fetched; returns the request when nothing is missing any more.
    pub(super) fn provide_program(&mut self, program: Payload) -> Option<JobRequest> {
        self.request.as_mut()?.program = program;
        self.lacks_program = false;
        self.take_whole()
    }

    /// The request, if nothing is missing.
    fn take_whole(&mut self) -> Option<JobRequest> {
        if self.missing.is_empty() && !self.lacks_program { self.request.take() } else { None }
    }

    /// How large the next share may be.
    pub(super) fn room_bytes(&self) -> u64 {
        let archives = self.request.iter().flat_map(|request| request.archives.values());
        SHARES_BYTES_MAX.saturating_sub(archives.map(Payload::bytes).sum())
    }
}

fn check_request(mut request: wire::OpenJob, program: Payload) -> Result<JobRequest, LinkError> {
    check_protocol(request.protocol)?;
    let spec = check_job_spec(&mut request)?;
    let guest = GuestSettings::from_wire(request.guest)?;
    let announced = Digest::from_wire(&request.program_digest);
    let digest = match request.program_is_kept {
        true if program.bytes() > 0 => return Err(LinkError::Nonsense("a program that the king is said to have")),
        // The store answers for its bytes.
        true => announced.ok_or(LinkError::Nonsense("a digest has 32 bytes"))?,
        false => Digest::of(program.chunks().map(AsRef::as_ref)),
    };
    if announced != Some(digest) {
        return Err(LinkError::Nonsense("the program is not the one whose digest it sent"));
    }
    let timeout = (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms));
    let ordinal = request.resumes.as_ref().map_or(0, |resumes| resumes.link);
    let resumes = request.resumes.map(check_resumption).transpose()?;
    let mark = check_key(&request.key)?;
    if request.replaces.len() > REPLACED_MAX {
        return Err(LinkError::Nonsense("it replaces more jobs than a queen can"));
    }
    let replaces = request.replaces.iter().map(|key| check_key(key)).collect::<Result<_, _>>()?;
    let archives = BTreeMap::new();
    Ok(JobRequest { spec, digest, program, timeout, guest, archives, mark, resumes, ordinal, replaces })
}

/// The mark of a job's key. The king keeps no key, so that it can tell none.
fn check_key(key: &[u8]) -> Result<Mark, LinkError> {
    let key = Secret::from_wire(key).ok_or(LinkError::Nonsense("the key of a job has 16 bytes"))?;
    Ok(key.mark(Purpose::Job))
}

pub(super) fn check_resumption(resumption: wire::Resumption) -> Result<(JobId, Resumption), LinkError> {
    let wire::Resumption { job, sent, mut lacking, dukes, .. } = resumption;
    lacking.sort_unstable();
    lacking.dedup();
    if sent > UNITS_MAX {
        return Err(LinkError::Nonsense("it has sent more units than anybody can"));
    }
    if lacking.len() > WINDOW_UNITS as usize || lacking.last().is_some_and(|unit| *unit >= sent) {
        return Err(LinkError::Nonsense("it lacks more units than it can have sent"));
    }
    let lacking = lacking.into_iter().map(UnitNo).collect();
    Ok((JobId(job), Resumption { sent, lacking, dukes }))
}
