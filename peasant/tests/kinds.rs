//! All kinds of guests, and what they may have, over the real program's pipes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where its expectation does")]

mod talk;

use std::fs;

use distwasm_proto::{
    failure::FailureKind,
    ids::UnitNo,
    pipe::{Description, HEADER_BYTES},
};
use talk::{PEASANT, Peasant, guest};

fn description(unit: u64, attempt: u32, name: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    Description { unit: UnitNo(unit), attempt, name: name.as_bytes() }.append(|part| frame.extend_from_slice(part));
    frame.split_off(HEADER_BYTES)
}

/// What `world.wat` reports about its environment and its randomness.
#[derive(Debug, PartialEq)]
struct World {
    environment: String,
    random: [u8; 16],
    clocks: [u64; 2],
    no_number: [u8; 4],
}

/// Asks a guest of `world.wat` that was started with `--described`.
fn world(peasant: &mut Peasant, unit: u64, attempt: u32, name: &str) -> World {
    peasant.send_all(&[description(unit, attempt, name), Vec::new()]);
    let answer = peasant.receive().unwrap();
    let (environment, rest) = answer.split_at(answer.len() - 36);
    let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
    World {
        environment: String::from_utf8(environment.to_vec()).unwrap().replace('\0', ";"),
        random: rest[..16].try_into().unwrap(),
        clocks: [number(16), number(24)],
        no_number: rest[32..].try_into().unwrap(),
    }
}

#[test]
fn a_component_of_the_own_world_answers_refuses_and_traps() {
    let mut peasant = Peasant::start(guest("component-upper.wat"), &[]);
    for size in [0, 1, 65_536, 5 << 20] {
        let input = vec![b'x'; size];
        assert!(peasant.ask(&input) == Ok(vec![b'X'; size]), "{size} bytes");
    }
    let refused = peasant.ask(b"!").unwrap_err();
    assert_eq!((refused.kind, &*refused.message), (FailureKind::Exit, "answered with an error: this one is refused"));
    let trapped = peasant.ask(b"?").unwrap_err();
    assert_eq!(trapped.kind, FailureKind::Trap);
    assert!(trapped.message.contains("unreachable"), "{}", trapped.message);
    assert_eq!(peasant.ask(b"on it goes"), Ok(b"ON IT GOES".to_vec()));
    peasant.ends_well();
}

#[test]
fn a_component_that_is_a_command_answers_on_its_stdout() {
    let mut peasant = Peasant::start(guest("component-echo.wat"), &["--answer-bytes", "100000"]);
    for size in [1, 4096, 4097, 100_000] {
        let input = vec![b'x'; size];
        assert!(peasant.ask(&input) == Ok(input), "{size} bytes");
    }
    let too_long = peasant.ask(&vec![b'x'; 100_001]).unwrap_err();
    assert_eq!(too_long.kind, FailureKind::LongAnswer);
    assert!(too_long.message.starts_with("answer is longer than 100000 bytes"), "{}", too_long.message);
    let empty = peasant.ask(b"").unwrap_err();
    assert_eq!((empty.kind, &*empty.message), (FailureKind::Exit, "exited with status 1"));
    peasant.ends_well();
}

#[test]
fn a_components_memory_is_bounded() {
    let mut peasant = Peasant::start(guest("component-upper.wat"), &["--memory-bytes", "1048576"]);
    assert_eq!(peasant.ask(&vec![b'x'; 2 << 20]).unwrap_err().kind, FailureKind::Memory);
    assert_eq!(peasant.ask(b"x"), Ok(b"X".to_vec()));
    peasant.ends_well();
}

#[test]
fn functions_are_called_with_the_numbers_in_the_input() {
    let ask = |name: &str, input: &str| {
        let mut peasant = Peasant::start(guest("call.wat"), &["--call", name]);
        let answers = [(); 2].map(|()| peasant.ask(input.as_bytes()).map(|text| String::from_utf8(text).unwrap()));
        peasant.ends_well();
        let [first, second] = answers;
        assert_eq!(first, second, "a fresh instance for each unit");
        first
    };
    assert_eq!(ask("add", "40, 2\n").unwrap(), "42\n");
    assert_eq!(ask("both", "0.5 -2e300").unwrap(), "-2e300 0.5\n");
    assert_eq!(ask("count", "").unwrap(), "1\n");
    let failure = ask("div", "1 0").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("integer divide by zero"), "{}", failure.message);
    let failure = ask("add", "1 two").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Input);
    assert_eq!(failure.message, "cannot call `add`: argument 2 at byte 3, `two`, is not an i64");
}

#[test]
fn output_of_a_called_function_is_dropped() {
    let program = br#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\00\10\00\00")
        (func (export "f") (result i32) (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"#;
    let mut peasant = Peasant::start(program.to_vec(), &["--call", "f", "--answer-bytes", "100"]);
    assert_eq!(peasant.ask(b""), Ok(b"0\n".to_vec()));
    peasant.ends_well();
}

#[test]
fn any_exit_status_is_reported() {
    let program = br#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (func (export "_start") (call $proc_exit (i32.const 255))))"#;
    let mut peasant = Peasant::start(program.to_vec(), &[]);
    let failure = peasant.ask(b"").unwrap_err();
    assert_eq!((failure.kind, &*failure.message), (FailureKind::Exit, "exited with status 255"));
    peasant.ends_well();
}

#[test]
fn functions_of_components_are_called_with_wave() {
    let ask = |name: &str, input: &str| {
        let mut peasant = Peasant::start(guest("component-call.wat"), &["--call", name]);
        let answer = peasant.ask(input.as_bytes()).map(|text| String::from_utf8(text).unwrap());
        peasant.ends_well();
        answer
    };
    assert_eq!(ask("add", "40, 2\n").unwrap(), "42\n");
    assert_eq!(ask("half", "10 // even").unwrap(), "ok(5)\n");
    assert_eq!(ask("test:greeter/greeter@1.0.0#greet", "\"you\"").unwrap(), "\"hello, you\"\n");
    let odd = ask("half", "11").unwrap_err();
    assert_eq!((odd.kind, &*odd.message), (FailureKind::Exit, "answered with err(\"an odd number\")"));
    for (input, why) in [
        ("1, x", "the input is not (a: s32, b: s32) in WAVE's notation: "),
        ("1, x", " at byte 4"),
        ("1", "missing required param(s) at byte 2"),
        ("1, 2, 3", "more param(s) than expected at byte 7"),
        ("1, 99999999999", " at byte 4"),
    ] {
        let failure = ask("add", input).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Input);
        assert!(failure.message.contains(why), "{input}: {}", failure.message);
    }
}

#[test]
fn a_missing_function_is_reported_before_any_input() {
    let (failure, status) = Peasant::fails_to_start(guest("call.wat"), &["--call", "nothing"]);
    assert_eq!((failure.kind, status), (FailureKind::Program, Some(2)));
}

#[test]
fn a_guest_is_told_of_its_unit() {
    let mut peasant = Peasant::start(guest("world.wat"), &["--described", "--env", "A=b c", "--job", "7"]);
    let told = world(&mut peasant, 3, 2, "sub/x.txt").environment;
    assert_eq!(told, "A=b c;DISTWASM_JOB=7;DISTWASM_INPUT=sub/x.txt;DISTWASM_UNIT=3;DISTWASM_ATTEMPT=2;");
    peasant.ends_well();
}

#[test]
fn deterministic_guests_answer_the_same_in_every_process_and_attempt() {
    let args = ["--described", "--deterministic", "--seed", "s", "--job", "7"];
    let mut first = Peasant::start(guest("world.wat"), &args);
    let mut second = Peasant::start(guest("world.wat"), &args);
    let answer = world(&mut first, 0, 1, "a");
    assert_eq!(answer.environment, "DISTWASM_INPUT=a;");
    assert_eq!(answer.clocks, [946_684_800_000_000_000, 1000]);
    assert_eq!(answer.no_number, [0, 0, 0xc0, 0x7f]);
    let other = world(&mut second, 0, 1, "b");
    assert_ne!(other.random, answer.random);
    assert_eq!(world(&mut second, 9, 2, "a"), answer);
    let mut of_other_seed = Peasant::start(guest("world.wat"), &["--described", "--deterministic", "--seed", "t"]);
    assert_ne!(world(&mut of_other_seed, 0, 1, "a").random, answer.random);
    for peasant in [first, second, of_other_seed] {
        peasant.ends_well();
    }
}

#[test]
fn other_guests_answer_differently() {
    let mut peasant = Peasant::start(guest("world.wat"), &["--described"]);
    let (first, second) = (world(&mut peasant, 0, 1, "a"), world(&mut peasant, 0, 1, "a"));
    assert_ne!(first.random, second.random);
    assert_ne!(first.clocks, second.clocks);
    peasant.ends_well();
}

#[test]
fn fresh_guests_remember_nothing() {
    for args in [&["--fresh"][..], &["--deterministic"]] {
        let mut peasant = Peasant::start(guest("count.wat"), args);
        assert_eq!([peasant.ask(b""), peasant.ask(b"")], [Ok(vec![1]), Ok(vec![1])]);
        peasant.ends_well();
    }
}

#[test]
fn shared_files_can_be_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, private) = (folder.path().join("shared"), folder.path().join("private"));
    fs::create_dir_all(shared.join("sub")).unwrap();
    fs::create_dir(&private).unwrap();
    fs::write(shared.join("sub/word"), "found\n").unwrap();
    fs::write(shared.join("large"), vec![b'x'; 1 << 20]).unwrap();
    fs::write(private.join("secret"), "secret\n").unwrap();
    let dir = format!("{}::/words", shared.display());
    let mut peasant = Peasant::start(guest("files.wat"), &["--dir", &dir]);
    assert_eq!(peasant.ask(b"sub/word"), Ok(b"found\n".to_vec()));
    assert_eq!(peasant.ask(b"large").map(|answer| answer.len()), Ok(1 << 20));
    // NOENT, PERM or NOTCAPABLE, by their numbers in WASI.
    for (input, errno) in [("missing", 44), ("../private/secret", 63), ("/etc/passwd", 63), ("+new", 63)] {
        let failure = peasant.ask(input.as_bytes()).unwrap_err();
        let may_be = [errno, 76].map(|errno| format!("exited with status {errno}"));
        assert!(may_be.iter().any(|text| failure.message.starts_with(text)), "{input}: {}", failure.message);
    }
    assert!(!shared.join("+new").exists());
    peasant.ends_well();
    // NOENT in its own files, BADF without any.
    for (args, errno) in [(&[][..], 44), (&["--scratch", "0"], 8)] {
        let mut without = Peasant::start(guest("files.wat"), args);
        let message = without.ask(b"sub/word").unwrap_err().message;
        assert!(message.starts_with(&format!("exited with status {errno}")), "{message}");
        without.ends_well();
    }
}

#[test]
fn a_shared_directory_that_is_not_there_is_not_the_programs_fault() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").display().to_string();
    let (failure, _) = Peasant::fails_to_start(guest("files.wat"), &["--dir", &format!("{missing}::/x")]);
    assert_eq!(failure.kind, FailureKind::Other);
    let said = format!("cannot open the shared directory {missing}");
    assert!(failure.message.contains(&said), "{}", failure.message);
}

/// Runs `peasant check` on a guest: its exit status, and what it said.
fn check(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(PEASANT);
    command.arg("check").args(args).stdin(fs::File::open(talk::guest_path(program)).unwrap());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn check_says_what_a_program_is() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, "1 2").unwrap();
    let trap = folder.path().join("trap");
    fs::write(&trap, "t").unwrap();
    let loops = folder.path().join("loop");
    fs::write(&loops, "loop").unwrap();
    let missing = folder.path().join("missing");
    let [input, trap, loops, missing] = [&input, &trap, &loops, &missing].map(|path| path.to_str().unwrap());
    let no_input = format!("cannot check: the input {missing}: ");
    for (program, args, status, said) in [
        ("upper.wat", &["--input", input][..], 0, &["ProcessStdio", "wasi_snapshot_preview1: ", ":\n1 2\n"][..]),
        ("echo.wat", &["--fresh"], 0, &["Command", "memory    64 KiB at the start", "ready     in "]),
        ("component-echo.wat", &["--input", input], 0, &["a command of WASI 0.2", "wasi:cli/stdin@0.2.0", ":\n1 2\n"]),
        ("component-upper.wat", &[], 0, &["of the world distwasm:guest/program"]),
        ("call.wat", &["--call", "add", "--input", input], 0, &["Call of `add`", "with 2 bytes in ", ":\n3\n"]),
        ("call.wat", &["--call", "div", "--input", missing], 1, &[&no_input]),
        ("call.wat", &["--name", "x"], 2, &["x: exports neither `ProcessStdio` nor `_start`", "--call NAME"]),
        ("upper.wat", &["--call", "_start"], 2, &["exports no `_start` to call"]),
        ("trouble.wat", &["--input", trap], 1, &["the program failed on the input: ", "unreachable", "(trap)"]),
        ("unfit-init.wat", &[], 2, &["cannot be initialised: "]),
        ("loop.wat", &["--input", loops, "--within-ms", "100"], 1, &["did not answer within 100ms"]),
    ] {
        let (ended, text) = check(program, args);
        assert_eq!(ended, Some(status), "{program}: {text}");
        for part in said {
            assert!(text.contains(part), "{program}: {text}");
        }
    }
}
