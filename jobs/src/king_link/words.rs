//! The words of a queen, made from what it decided: no other file builds them.

use bytes::Bytes;
use distwasm_proto::{
    PROTOCOL, VERSION,
    ids::UnitNo,
    secret::Secret,
    wire::{self, queen_word::Word},
};
use distwasm_transport::payload::Payload;

use crate::request::{JobRequest, Program};

/// The first words of a link, with their payloads: the job and its shares, and, if the queen comes back to its job,
/// which verdicts it lacks.
pub fn hello(request: &JobRequest, resumes: Option<wire::Resumption>) -> Vec<(Word, Payload)> {
    let scheduling = &request.scheduling;
    let (program, program_is_kept) = match &request.program {
        Program::Carried(program) => (program.clone(), false),
        Program::Kept { .. } => (Payload::default(), true),
    };
    let open = wire::OpenJob {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        project: request.project.clone(),
        program_digest: request.program.digest().to_wire(),
        program: None,
        program_is_kept,
        min_ram_bytes: request.min_ram_bytes,
        one_per_machine: request.one_per_machine,
        timeout_ms: request.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)),
        retries: request.retries,
        guest: Some(request.guest.to_wire()),
        key: request.key.to_wire(),
        replaces: request.replaces.iter().map(Secret::to_wire).collect(),
        resumes,
        weight: scheduling.weight,
        priority: scheduling.priority,
        speculate: scheduling.speculate,
        max_parallel: scheduling.max_parallel.unwrap_or(0),
        requires: scheduling.requires.clone().into_iter().collect(),
    };
    let shares = request.archives.iter().map(|(digest, archive)| {
        let share = wire::ShareData { digest: digest.to_wire(), archive: None };
        (Word::ShareData(share), archive.clone())
    });
    std::iter::once((Word::OpenJob(Box::new(open)), program)).chain(shares).collect()
}

/// How the bytes of a unit travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The folders of the job are used.
    pub in_places: bool,
    /// The input in the word is its size.
    pub streamed: bool,
}

/// A unit whose input is in this one word.
pub fn unit(unit: UnitNo, name: Bytes, data: Bytes, way: Way) -> Word {
    unit_of(unit, name, (data.len() as u64, data), way)
}

/// A unit whose input of this many bytes follows in pieces.
pub fn begin_unit(unit: UnitNo, name: Bytes, bytes_total: u64, way: Way) -> Word {
    unit_of(unit, name, (bytes_total, Bytes::new()), way)
}

/// A unit that the king waits for, and whose input cannot be read any more.
pub fn broken_unit(unit: UnitNo, name: Bytes, why: String) -> [Word; 2] {
    [begin_unit(unit, name, 1, Way::default()), broken_piece(why)]
}

/// The next piece of an input.
pub fn piece(data: Bytes) -> Word {
    Word::Piece(wire::Piece { data, broken: String::new() })
}

/// Says why the rest of an input cannot be read.
pub fn broken_piece(why: String) -> Word {
    Word::Piece(wire::Piece { data: Bytes::new(), broken: why })
}

/// A part of a streamed input, which the king has asked for.
pub fn unit_part(transfer: u64, offset: u64, data: Bytes) -> Word {
    Word::UnitPart(wire::UnitPart { transfer, offset, data, broken: String::new() })
}

/// Says why a streamed input cannot be read.
pub fn broken_part(transfer: u64, offset: u64, why: String) -> Word {
    Word::UnitPart(wire::UnitPart { transfer, offset, data: Bytes::new(), broken: why })
}

/// All of an offered result before `from` has come, and what is before `until` is wanted; or it cannot be kept.
pub fn output_wanted(transfer: u64, from: u64, until: u64, gives_up: bool) -> Word {
    Word::OutputWanted(wire::OutputWanted { transfer, from, until, gives_up })
}

/// There are no more than this many units.
pub fn close_job(units: u64) -> Word {
    Word::CloseJob(wire::CloseJob { units })
}

/// The king may forget this many verdicts more.
pub fn verdicts_heard(verdicts: u64) -> Word {
    Word::VerdictsHeard(wire::VerdictsHeard { verdicts })
}

/// The last word: the queen does not come back.
pub fn leaving() -> Word {
    Word::End(wire::End { reason: "the queen is leaving".to_owned(), come_back: false, refused: false })
}

fn unit_of(unit: UnitNo, name: Bytes, (bytes_total, data): (u64, Bytes), way: Way) -> Word {
    let Way { in_places, streamed } = way;
    Word::Unit(wire::Unit { unit: unit.0, input: Some(wire::Payload { bytes_total, data }), name, in_places, streamed })
}
