//! Hostile programs: mutated ones, and random ones. `queen check` and a peasant refuse each or run it, in bounded time
//! and memory, and leave no process behind. And hostile peers, which flood a king: it keeps its bounds, and serves others.
//!
//! `DISTWASM_HOSTILE` is the number of programs of each sort; `scripts/fuzz` sets it to thousands.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a failed expectation ends the test, and says what it found"
)]

use std::{
    fs,
    io::{Read, Seek, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use distwasm_peasant::inputs::Inputs;
use distwasm_proto::{
    PROTOCOL,
    digest::Digest,
    limits::{MESSAGE_WORDS_MAX, PROGRAM_BYTES_MAX},
    wire::{self, duke_word, queen_news::News, queen_word},
};
use distwasm_tests::real::{
    King, Place, guest, peak_memory_bytes, peak_memory_of_children, programs, root, within_seconds,
};
use distwasm_transport::{credentials::Credentials, link, stream::Incoming, transfer::Outbox};
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// The memory of guests here, in MB.
const GUEST_MB: &str = "64";

/// The bound on the peak memory of each process: the engine, the compiler and the guest together.
const PEAK_BYTES_MAX: u64 = 1 << 30;

/// How long initialising and answering may take.
const WITHIN: &str = "2s";

/// How many programs of each sort to try.
fn count(otherwise: usize) -> usize {
    std::env::var("DISTWASM_HOSTILE").map_or(otherwise, |count| count.parse().expect("DISTWASM_HOSTILE is a number"))
}

/// Tries programs on two threads. `make` makes each from its number.
fn try_all(count: usize, make: impl Fn(u64) -> Vec<u8> + Sync) {
    let place = Place::default();
    place.write("input", "1 2");
    let next = AtomicUsize::new(0);
    let statuses = Mutex::new([0; 3]);
    thread::scope(|scope| {
        for worker in 0..2 {
            let (place, next, statuses, make) = (&place, &next, &statuses, &make);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let path = place.path().join(format!("program-{worker}"));
                    fs::write(&path, make(number as u64)).unwrap();
                    let status = checked(place, &path, number);
                    served(&path, number);
                    statuses.lock().unwrap_or_else(PoisonError::into_inner)[status] += 1;
                }
            });
        }
    });
    let [answered, failed, unfit] = statuses.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{answered} answered, {failed} failed, {unfit} were refused");
    let peak = peak_memory_of_children();
    assert!(peak < PEAK_BYTES_MAX, "a process had {peak} bytes");
}

/// Runs `queen check` on a program. Returns its status, which is one of three.
fn checked(place: &Place, program: &PathBuf, number: usize) -> usize {
    let mut command = place.command("queen");
    command.args(["check", "--min-ram", GUEST_MB, "--timeout", WITHIN, "--input"]);
    let output = command.arg(place.input().join("input")).arg(program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let status = plain(output.status).unwrap_or_else(|| panic!("program {number}: {}: {said}", output.status));
    assert!(status == 0 || !said.trim().is_empty(), "program {number}: not a word with status {status}");
    status
}

/// Runs a peasant with a program and two inputs. It ends by itself, or is killed as a duke would kill it.
fn served(program: &PathBuf, number: usize) {
    let mut command = Command::new(programs().join("peasant"));
    command.args(["--memory-bytes", &format!("{GUEST_MB}000000")]);
    let program = fs::read(program).unwrap();
    let mut input = tempfile::tempfile().unwrap();
    for frame in [program.as_slice(), b"1 2", b""] {
        input.write_all(&u32::try_from(frame.len()).unwrap().to_le_bytes()).unwrap();
        input.write_all(frame).unwrap();
    }
    input.rewind().unwrap();
    let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut answers = Vec::new();
        stdout.read_to_end(&mut answers).map(|_| answers)
    });
    // The program was checked already: if the peasant has not ended by now, it would not end in an hour.
    let ended = within_seconds(2, || child.try_wait().unwrap());
    if let Some(status) = ended {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(plain(status).is_some(), "program {number}: {status}: {said}");
    } else {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let answers = reader.join().unwrap().unwrap();
    assert!(ended.is_none() || answers.len() >= 4, "program {number}: it ended without an answer");
}

/// The status of a process that ended as it should: 0, 1 or 2.
fn plain(status: ExitStatus) -> Option<usize> {
    status.code().and_then(|code| usize::try_from(code).ok()).filter(|code| *code <= 2)
}

/// Programs of all kinds that run, in binary form.
fn whole_programs() -> Vec<Vec<u8>> {
    let mut programs: Vec<Vec<u8>> =
        ["summer.wasm", "summer-command.wasm"].map(|name| fs::read(guest(name)).unwrap()).into();
    for entry in fs::read_dir(root().join("tests/guests")).unwrap() {
        programs.push(wat::parse_file(entry.unwrap().path()).unwrap());
    }
    programs
}

/// A program with some of its bytes flipped, cut off, removed, doubled, or replaced.
fn mutated(programs: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(number);
    let mut bytes = programs[random.usize(..programs.len())].clone();
    for _ in 0..random.usize(1..3) {
        let at = random.usize(..bytes.len());
        let part = at..bytes.len().min(at + random.usize(1..40));
        match random.u8(..6) {
            0 | 1 => bytes[at] ^= 1 << random.u8(..8),
            2 => bytes[at] = random.u8(..),
            3 => bytes.truncate(at.max(8)),
            4 => drop(bytes.drain(part)),
            _ => {
                let doubled = bytes[part].to_vec();
                bytes.splice(at..at, doubled);
            }
        }
    }
    bytes
}

/// A random command that is valid.
fn generated(number: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(number);
    let exports = wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"_start\")))").unwrap();
    loop {
        let length = random.usize(100..4000);
        let seed: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let config = wasm_smith::Config {
            exports: Some(exports.clone()),
            max_imports: 0,
            min_imports: 0,
            memory64_enabled: true,
            multi_value_enabled: true,
            relaxed_simd_enabled: true,
            simd_enabled: true,
            tail_call_enabled: true,
            // Some programs use proposals that are switched off here.
            gc_enabled: number.is_multiple_of(10),
            reference_types_enabled: number.is_multiple_of(10),
            exceptions_enabled: number % 10 == 1,
            threads_enabled: number % 10 == 2,
            ..wasm_smith::Config::default()
        };
        let Ok(mut module) = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(&seed)) else {
            continue;
        };
        // Most programs end; some may not.
        if number % 20 != 3 && module.ensure_termination(100_000).is_err() {
            continue;
        }
        return module.to_bytes();
    }
}

#[test]
fn mutated_programs() {
    let programs = whole_programs();
    try_all(count(250), |number| mutated(&programs, number));
}

#[test]
fn generated_programs() {
    try_all(count(250).div_ceil(5), generated);
}

/// Frames on the stdin of a peasant: each is read whole, or the reader says why not.
#[test]
fn frames_that_were_changed() {
    for number in 0..count(250) as u64 {
        let mut rng = Rng::with_seed(number);
        let mut bytes = Vec::new();
        for _ in 0..rng.usize(..6) {
            let body = vec![7; rng.usize(..600_000) >> rng.u32(..20)];
            bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend(body);
        }
        for _ in 0..rng.usize(..3).min(bytes.len()) {
            let place = rng.usize(..bytes.len());
            bytes[place] ^= 1 << rng.u8(..8);
        }
        let mut inputs = Inputs::new(bytes.as_slice());
        let most = rng.u64(1..1 << 20);
        while let Ok(Some(body)) = inputs.next(most) {
            assert!(body.len() as u64 <= most);
        }
    }
}

// ---- Floods --------------------------------------------------------------------------------------------------------

async fn connect(king: &King) -> link::King {
    let remote = link::connect(&king.address.parse().unwrap(), &Credentials::Insecure).await.unwrap();
    link::King::Remote(remote)
}

/// Sends these messages as a queen, and stays connected as long as the outbox is kept.
async fn submit(
    king: &link::King,
    messages: Vec<wire::FromQueen>,
) -> (Outbox<wire::QueenWord>, Incoming<wire::ToQueen>) {
    let (words, stream) = Outbox::new();
    let messages = tokio_stream::iter(messages).chain(stream);
    (words, king.clone().submit_job(messages).await.unwrap())
}

/// A word with a payload in pieces of one byte, as messages.
fn bytewise(payload: &[u8], word: impl FnOnce(Option<wire::Payload>) -> queen_word::Word) -> Vec<wire::FromQueen> {
    let begun = wire::Payload { bytes_total: payload.len() as u64, ..Default::default() };
    let piece = |byte: &u8| {
        let data = vec![*byte].into();
        queen_word::Word::Piece(wire::Piece { data, broken: String::new() }).into()
    };
    let pieces = payload.chunks(10_000).map(|bytes| wire::FromQueen { words: bytes.iter().map(piece).collect() });
    std::iter::once(wire::FromQueen { words: vec![word(Some(begun)).into()] }).chain(pieces).collect()
}

fn job(program: &[u8], payload: Option<wire::Payload>) -> queen_word::Word {
    let program_digest = Digest::of([program]).to_wire();
    let job = wire::OpenJob {
        protocol: PROTOCOL,
        program_digest,
        project: "p".to_owned(),
        key: vec![1; 16].into(),
        ..Default::default()
    };
    queen_word::Word::OpenJob(Box::new(wire::OpenJob { program: payload, ..job }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_in_pieces_of_one_byte_take_no_more_memory_than_others() {
    let place = Place::default();
    let king = place.insecure_king();
    let (program, input) = (vec![7; 1_000_000], vec![7; 2_000_000]);
    let mut messages = bytewise(&program, |payload| job(&program, payload));
    messages.extend(bytewise(&input, |input| queen_word::Word::Unit(wire::Unit { input, ..Default::default() })));
    let _queen = submit(&connect(&king).await, messages).await;
    king.expect_metric("distwasm_bytes_in_flight{kind=\"inputs\"}", |bytes| bytes == 2_000_000);
    // A duke asks for the program again and again, and takes none of it.
    let (duke, stream) = Outbox::<wire::DukeWord>::new();
    let _orders = connect(&king).await.volunteer(stream).await.unwrap();
    let hello = wire::DukeHello {
        protocol: PROTOCOL,
        cpus: 1,
        ram_bytes: 1 << 30,
        seat: vec![1; 16].into(),
        ..Default::default()
    };
    duke.push(duke_word::Word::Hello(Box::new(hello)));
    let digest = Digest::of([program.as_slice()]).to_wire();
    for _ in 0..400 {
        duke.push(duke_word::Word::BlobWanted(wire::BlobWanted { digest: digest.clone() }));
    }
    duke.push(duke_word::Word::Draining(wire::Draining {}));
    king.process.expect_log("a duke is going to leave");
    let peak = peak_memory_bytes(king.process.id()) >> 20;
    assert!(peak < 80, "the king had {peak} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_never_opened_have_one_budget_of_memory() {
    let place = Place::default();
    let king = place.king_with(&["--insecure", "--memory-limit", "2G"]);
    let channel = connect(&king).await;
    let mut refused = 0;
    let mut begun = Vec::new();
    for _ in 0..14 {
        let (words, mut news) = submit(&channel, vec![begun_opening()]).await;
        // The king says nothing to a queen that has room.
        let said = tokio::time::timeout(std::time::Duration::from_millis(300), news.message()).await;
        if let Ok(said) = said {
            let end = said.unwrap().unwrap().news.remove(0);
            let Some(News::End(end)) = end.news else { panic!("{end:?}") };
            assert!(end.come_back && end.reason.contains("try again later"), "{end:?}");
            refused += 1;
        }
        begun.push((words, news));
    }
    // Three eighths of the limit are for programs, and a job is a little more than its program.
    assert_eq!(14 - refused, (768 << 20) / PROGRAM_BYTES_MAX - 1);
    // What was given up makes room.
    begun.clear();
    place.write_sums(1);
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["1 done"]);
    let peak = peak_memory_bytes(king.process.id()) >> 20;
    assert!(peak < 80, "the king had {peak} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_king_keeps_to_its_memory_however_much_is_sent_to_it() {
    const LIMIT_MB: u64 = 256;
    let place = Place::default();
    let king = place.king_with(&["--insecure", "--memory-limit", &LIMIT_MB.to_string()]);
    let mut kept = Vec::new();
    for flood in 0..40_u8 {
        // Programs of 20 MB that differ from each other.
        let program = vec![flood; 20 << 20];
        let messages = pieces(&program, |payload| job(&program, Some(payload)));
        kept.push((connect(&king).await, submit(&connect(&king).await, messages).await));
        // Inputs that no duke takes.
        let input = vec![flood; 4 << 20];
        let mut messages = pieces(b"any", |payload| job(b"any", Some(payload)));
        for unit in 0..16 {
            let of_unit = |input| queen_word::Word::Unit(wire::Unit { unit, input: Some(input), ..Default::default() });
            messages.extend(pieces(&input, of_unit));
        }
        kept.push((connect(&king).await, submit(&connect(&king).await, messages).await));
    }
    place.write_sums(200);
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["200 done"]);
    let peak = peak_memory_bytes(king.process.id()) >> 20;
    // What a king takes without any job, with so many connections.
    let base = 40;
    assert!(peak < base + LIMIT_MB * 12 / 10, "the king had {peak} MiB");
    drop(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_that_are_large_in_memory_are_let_in_one_after_the_other_or_not_at_all() {
    const LIMIT_MB: u64 = 256;
    let place = Place::default();
    let king = place.king_with(&["--insecure", "--memory-limit", &LIMIT_MB.to_string()]);
    // Words without anything take two bytes each, and a hundred times as much in memory.
    let empty = || wire::FromDuke { words: vec![wire::DukeWord { word: None }; 1 << 20] };
    let mut orders = connect(&king).await.volunteer(tokio_stream::iter([empty()])).await.unwrap();
    let said = format!("{:?}", orders.message().await.unwrap());
    assert!(said.contains("bytes in memory, more than the"), "{said}");
    // Words that the king takes, about attempts that it does not know.
    let returned = wire::AttemptEnded { attempt: 1, outcome: wire::Outcome::Returned.into(), ..Default::default() };
    let words = vec![duke_word::Word::AttemptEnded(returned).into(); MESSAGE_WORDS_MAX];
    let mut floods = JoinSet::new();
    for number in 1..=40_u8 {
        let (king, words) = (connect(&king).await, words.clone());
        floods.spawn(async move {
            let seat = vec![number; 16].into();
            let hello = wire::DukeHello { protocol: PROTOCOL, cpus: 1, seat, ..Default::default() };
            let hello = wire::FromDuke { words: vec![duke_word::Word::Hello(Box::new(hello)).into()] };
            let end = wire::FromDuke { words: vec![duke_word::Word::End(wire::End::default()).into()] };
            let floods = std::iter::repeat_with(move || wire::FromDuke { words: words.clone() }).take(20);
            let messages = tokio_stream::iter(std::iter::once(hello).chain(floods).chain([end]));
            let mut orders = king.volunteer(messages).await.unwrap();
            // Until the king has taken all of it.
            while orders.message().await.is_ok_and(|message| message.is_some()) {}
        });
    }
    place.write_sums(200);
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["200 done"]);
    while let Some(flood) = floods.join_next().await {
        flood.unwrap();
    }
    let peak = peak_memory_bytes(king.process.id()) >> 20;
    println!("the king had {peak} MiB");
    assert!(peak < 40 + LIMIT_MB / 2, "the king had {peak} MiB");
}

/// A word with its payload, as messages of a megabyte.
fn pieces(payload: &[u8], word: impl FnOnce(wire::Payload) -> queen_word::Word) -> Vec<wire::FromQueen> {
    let mut parts = payload.chunks(1 << 20).map(bytes::Bytes::copy_from_slice);
    let begun = wire::Payload { bytes_total: payload.len() as u64, data: parts.next().unwrap_or_default() };
    let piece = |data| queen_word::Word::Piece(wire::Piece { data, broken: String::new() });
    let words = std::iter::once(word(begun)).chain(parts.map(piece));
    words.map(|word| wire::FromQueen { words: vec![word.into()] }).collect()
}

/// The first message of a queen with the largest program.
fn begun_opening() -> wire::FromQueen {
    let program = wire::Payload { bytes_total: PROGRAM_BYTES_MAX, data: vec![0; 1 << 20].into() };
    wire::FromQueen { words: vec![job(b"", Some(program)).into()] }
}

/// Whether a page of the king's HTTP port can be read.
fn is_healthy(king: &King) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(&king.http)?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: king\r\n\r\n")?;
        let mut answer = String::new();
        // The connection ends with the answer, though nothing asks for that.
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.ends_with("ok\n"))
}

#[test]
fn silent_connections_end_and_leave_room_for_others() {
    let place = Place::default();
    place.write_sums(1);
    let king = place.king_behind_shell("ulimit -n 100", &[]);
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&king.address).unwrap()).collect();
    king.process.expect_log("no connection can be accepted");
    assert!(is_healthy(&king), "{}", king.process.log());
    let halves: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&king.http).unwrap()).collect();
    for mut half in &halves {
        // The king may have refused it.
        let _sent = half.write_all(b"GET /healthz HTTP/1.1\r\n");
    }
    assert!(within_seconds(60, || is_healthy(&king).then_some(())).is_some(), "{}", king.process.log());
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["1 done"]);
    assert!(king.process.log().matches("no connection can be accepted").count() <= 4, "{}", king.process.log());
    drop((silent, halves));
}
