//! Hostile programs: mutated ones, and random ones. `queen check` and a peasant refuse each or run it, in bounded time
//! and memory, and leave no process behind.
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
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use distwasm_tests::real::{Place, guest, peak_memory_of_children, programs, root, within_seconds};
use fastrand::Rng;

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
