//! Words as honest peers say them, to begin with.

use distwasm_proto::{
    PROTOCOL,
    digest::Digest,
    wire::{self, duke_word, queen_word},
};

/// The label of the honest duke, which the honest queen requires.
const LABEL: (&str, &str) = ("honest", "yes");

const PROGRAM: &[u8] = b"program";

fn secret(number: u8) -> Vec<u8> {
    vec![number; 16]
}

pub(super) fn hello(is_honest: bool) -> duke_word::Word {
    let labels = is_honest.then(|| (LABEL.0.to_owned(), LABEL.1.to_owned())).into_iter().collect();
    let (cpus, ram_bytes, boot) = (2, 4 << 30, 1 + u64::from(is_honest));
    duke_word::Word::Hello(Box::new(wire::DukeHello {
        protocol: PROTOCOL,
        hostname: "host".to_owned(),
        cpus,
        ram_bytes,
        labels,
        boot,
        seat: secret(u8::from(is_honest)).into(),
        link: 1,
        ..Default::default()
    }))
}

pub(super) fn open_job(is_honest: bool) -> queen_word::Word {
    let requires = is_honest.then(|| (LABEL.0.to_owned(), LABEL.1.to_owned())).into_iter().collect();
    queen_word::Word::OpenJob(Box::new(wire::OpenJob {
        protocol: PROTOCOL,
        project: if is_honest { "honest" } else { "other" }.to_owned(),
        program_digest: Digest::of([PROGRAM]).to_wire(),
        program: Some(payload(PROGRAM)),
        key: secret(2 + u8::from(is_honest)).into(),
        requires,
        weight: 1,
        ..Default::default()
    }))
}

fn payload(data: &'static [u8]) -> wire::Payload {
    wire::Payload { bytes_total: data.len() as u64, data: data.into() }
}

pub(super) fn unit(unit: u64) -> queen_word::Word {
    queen_word::Word::Unit(wire::Unit {
        unit,
        input: Some(payload(b"input")),
        name: b"name".as_slice().into(),
        in_places: false,
        streamed: false,
    })
}

pub(super) fn close(units: u64) -> queen_word::Word {
    queen_word::Word::CloseJob(wire::CloseJob { units })
}

pub(super) fn done(attempt: u64) -> duke_word::Word {
    duke_word::Word::AttemptEnded(wire::AttemptEnded {
        attempt,
        outcome: wire::Outcome::Done.into(),
        run_us: 1000,
        result: Some(payload(b"result")),
        failure: None,
    })
}

pub(super) fn offered(attempt: u64) -> duke_word::Word {
    duke_word::Word::ResultOffered(wire::ResultOffered {
        attempt,
        result_bytes: 1 << 20,
        run_us: 1000,
        streamed: false,
    })
}

pub(super) fn released(job: u64, slots: u32) -> duke_word::Word {
    duke_word::Word::SlotsReleased(wire::SlotsReleased { job, slots })
}

/// At least one word of each kind that a duke says.
pub(super) fn of_duke() -> Vec<duke_word::Word> {
    use duke_word::Word;
    let failure = Some(wire::Failure {
        kind: 2,
        message: "it failed".to_owned(),
        stderr: b"why".as_slice().into(),
        stdout: b"what".as_slice().into(),
    });
    let attempts = vec![wire::HeldAttempt { attempt: 1, unit: 0, bytes: 5, number: 1 }];
    vec![
        hello(false),
        Word::BlobWanted(wire::BlobWanted { digest: Digest::of([PROGRAM]).to_wire() }),
        Word::ProgramUnfit(wire::ProgramUnfit { job: 1, failure: failure.clone() }),
        done(1),
        Word::AttemptEnded(wire::AttemptEnded {
            attempt: 1,
            outcome: wire::Outcome::Killed.into(),
            failure: failure.clone().map(Box::new),
            ..Default::default()
        }),
        Word::AttemptEnded(wire::AttemptEnded {
            attempt: 1,
            result: Some(wire::Payload { bytes_total: 1 << 20, data: b"begun".as_slice().into() }),
            outcome: wire::Outcome::Done.into(),
            ..Default::default()
        }),
        offered(1),
        released(1, 1),
        Word::SlotsBroken(wire::SlotsBroken { job: 1, slots: 1, reason: "it broke".to_owned() }),
        Word::HeldLease(Box::new(wire::HeldLease {
            job: 1,
            slot_bytes: 1 << 20,
            slots: 1,
            attempts,
            ..Default::default()
        })),
        Word::Piece(wire::Piece { data: b"piece".as_slice().into(), broken: String::new() }),
        Word::End(wire::End::default()),
        Word::Draining(wire::Draining {}),
        Word::InputsArrived(wire::InputsArrived { attempt: 1 }),
        Word::InputWanted(wire::InputWanted { attempt: 1, from: 0, until: 100 }),
        Word::ResultOffered(wire::ResultOffered { attempt: 1, result_bytes: 100, run_us: 1, streamed: true }),
        Word::ResultPart(wire::ResultPart { transfer: 1, offset: 0, data: b"part".as_slice().into() }),
    ]
}

/// At least one word of each kind that a queen says.
pub(super) fn of_queen() -> Vec<queen_word::Word> {
    use queen_word::Word;
    let archive = b"archive".as_slice();
    let digest = Digest::of([archive]).to_wire();
    let share = wire::Share { digest: digest.clone(), guest_path: "/data".to_owned() };
    let Word::OpenJob(plain) = open_job(false) else { return Vec::new() };
    let guest = wire::GuestSettings { args: vec!["a".to_owned()], env: vec!["A=b".to_owned()], ..Default::default() };
    let with_share = wire::OpenJob {
        guest: Some(wire::GuestSettings { shares: vec![share], ..guest }),
        timeout_ms: 1000,
        max_parallel: 2,
        speculate: true,
        ..(*plain).clone()
    };
    let resumes = wire::Resumption { job: 1, sent: 3, lacking: vec![1, 2], dukes: 1, link: 2 };
    vec![
        open_job(false),
        Word::OpenJob(Box::new(with_share)),
        Word::OpenJob(Box::new(wire::OpenJob { resumes: Some(resumes), ..*plain })),
        unit(0),
        Word::Unit(wire::Unit {
            unit: 1,
            input: Some(wire::Payload { bytes_total: 10 << 20, data: b"begun".as_slice().into() }),
            ..Default::default()
        }),
        Word::Unit(wire::Unit {
            unit: 2,
            input: Some(payload(&[0, 0, 1, 0, 0, 0, 0, 0])),
            streamed: true,
            ..Default::default()
        }),
        Word::UnitPart(wire::UnitPart {
            transfer: 1,
            offset: 0,
            data: b"part".as_slice().into(),
            broken: String::new(),
        }),
        Word::OutputWanted(wire::OutputWanted { transfer: 1, from: 0, until: 100, gives_up: false }),
        close(3),
        Word::ShareData(wire::ShareData { digest, archive: Some(payload(archive)) }),
        Word::VerdictsHeard(wire::VerdictsHeard { verdicts: 1 }),
        Word::Piece(wire::Piece { data: b"piece".as_slice().into(), broken: String::new() }),
        Word::Piece(wire::Piece { data: Default::default(), broken: "it broke".to_owned() }),
        Word::End(wire::End::default()),
    ]
}
