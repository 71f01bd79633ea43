//! Compilers: how many run at a time, what they may take, and that none runs for which no job waits.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{fs, path::PathBuf};

use distwasm_tests::real::{King, Place, Process, guest, peasants_of, until};
use rustix::process::Signal;

/// A number as WebAssembly writes it (LEB128).
fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&number(bytes.len()), bytes].concat()
}

/// A program with one long function of many blocks: it takes minutes to compile, and far more memory than its size.
/// Those with another `variant` differ.
fn slow_to_compile(place: &Place, blocks: usize, variant: u8) -> PathBuf {
    // A block: leave it if local 0 is 0, otherwise multiply local 0 by a constant.
    let block = [0x02, 0x40, 0x20, 0, 0x0D, 0, 0x20, 0, 0x41, variant, 0x6C, 0x21, 0, 0x0B];
    let body = [[0].as_slice(), &block.repeat(blocks), &[0x20, 0, 0x0B]].concat();
    let section = |id: u8, content: &[u8]| [[id].as_slice(), &counted(content)].concat();
    let program = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[2, 0x60, 1, 0x7F, 1, 0x7F, 0x60, 0, 0]),
        section(3, &[2, 0, 1]),
        // A program without an entry would not be compiled.
        section(7, b"\x01\x06_start\0\x01"),
        section(10, &[[2].as_slice(), &counted(&body), &counted(&[0, 0x0B])].concat()),
    ];
    let path = place.path().join(format!("slow-{variant}.wasm"));
    fs::write(&path, program.concat()).unwrap();
    path
}

/// The compilers that a duke runs.
fn compilers_of(duke: &Process) -> Vec<u32> {
    let compiles = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"compile")
    };
    peasants_of(duke.id()).into_iter().filter(compiles).collect()
}

/// Starts a queen with a slow program of its own, and waits until the duke has its job.
fn open_job(place: &Place, king: &King, duke: &Process, variant: u8) -> Process {
    let output = place.path().join(format!("output-{variant}"));
    let mut queen = place.command("queen");
    queen.args(["--king-address", &king.address, "--binary"]).arg(slow_to_compile(place, 100_000, variant));
    queen.arg("--input").arg(place.input()).arg("--output").arg(output);
    let queen = place.start(&mut queen, "queen");
    let is_known = || duke.log().matches("working for a job").count() == usize::from(variant);
    until("a job at the duke", || is_known().then_some(()), || duke.log());
    queen
}

fn cancel_job(queen: Process) {
    queen.signal(Signal::TERM);
    queen.finish();
}

#[test]
fn no_compiler_runs_for_which_no_job_waits() {
    let place = Place::default();
    place.write_sums(1);
    let king = place.king();
    let duke = place.duke(&king, &["--num-cpus", "1"]);
    let mut most = 0;
    let mut watch = || {
        let compilers = compilers_of(&duke);
        most = most.max(compilers.len());
        compilers
    };
    for variant in 1..=8 {
        let queen = open_job(&place, &king, &duke, variant);
        if variant % 2 == 0 {
            let compiler = until("a compiler", || watch().first().copied(), || duke.log());
            let is_nice = || niceness(compiler) > niceness(duke.id());
            until("a compiler that lets others go first", || is_nice().then_some(()), || duke.log());
        }
        cancel_job(queen);
        watch();
    }
    until("the end of all compilers", || watch().is_empty().then_some(()), || duke.log());
    assert_eq!(most, 1, "a duke with one slot compiles one program at a time");
    let is_unfinished = |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == "tmp");
    let is_clean = || !fs::read_dir(place.path().join("cache")).unwrap().flatten().any(is_unfinished);
    // The duke removes it when it has seen the compiler's end.
    until("a cache without what was compiled", || is_clean().then_some(()), || duke.log());
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["1 done"]);
}

fn niceness(id: u32) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
}

#[test]
fn a_program_waits_until_the_compilers_of_earlier_ones_have_ended() {
    let place = Place::default();
    place.write_sums(1);
    let king = place.king();
    let duke = place.duke(&king, &["--num-cpus", "4"]);
    let slow: Vec<Process> = (1..=3).map(|variant| open_job(&place, &king, &duke, variant)).collect();
    let quick = place.start_queen(&king, guest("summer.wasm"), &[]);
    until("four jobs", || duke.log().matches("working for a job").count().eq(&4).then_some(()), || duke.log());
    let mut before = None;
    for queen in slow {
        let another = || {
            let compilers = compilers_of(&duke);
            assert!(compilers.len() <= 1, "a duke with four slots compiles one program at a time");
            compilers.first().copied().filter(|id| Some(*id) != before)
        };
        before = Some(until("the compiler of the next job", another, || duke.log()));
        cancel_job(queen);
    }
    quick.finish().expect(0, &["1 done"]);
}

#[test]
fn a_program_that_takes_too_much_memory_to_compile_is_refused_with_the_flag_that_allows_more() {
    let place = Place::default();
    place.write_sums(1);
    let said =
        ["the program cannot run: compiling it takes more than 256 MB of memory; a larger --ram-limit allows more"];
    place.queen(slow_to_compile(&place, 500_000, 1), &["--ram-limit", "64MB"]).expect(2, &said);
}

#[test]
fn a_compiler_that_has_used_its_processor_time_is_ended_by_the_signal_that_says_so() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::default();
    let program = fs::File::open(slow_to_compile(&place, 100_000, 1)).unwrap();
    let mut compile = place.command("peasant");
    compile.args(["compile", "--cpu-seconds", "1", "--output"]).arg(place.path().join("compiled"));
    let ended = compile.stdin(program).status().unwrap();
    assert_eq!(ended.signal(), Some(Signal::XCPU.as_raw()), "{ended}");
}
