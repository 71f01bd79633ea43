//! Inputs and outputs in open files, which a duke hands over to the real program.

#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod talk;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use distwasm_process::{handed, handover};
use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::FILE_BUFFER_BYTES;
use rustix::process::{Resource, Rlimit, setrlimit};
use talk::{FileUnit, PEASANT, Peasant, frame, guest, hand};

/// A command that counts its input, a mebibyte at a time, and answers the 64-bit number.
const COUNT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 18)
  (func (export "_start")
    (loop $next
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 1048576))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i64.store (i32.const 16) (i64.add (i64.load (i32.const 16)) (i64.load32_u (i32.const 8))))
      (br_if $next (i32.load (i32.const 8))))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// A command that answers its input, with one call for reading 100,000 bytes in two parts and one for writing them.
const PARTS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (func (export "_start")
    (loop $next
      (i32.store (i32.const 0) (i32.const 1000))
      (i32.store (i32.const 4) (i32.const 10))
      (i32.store (i32.const 8) (i32.const 1010))
      (i32.store (i32.const 12) (i32.const 99990))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 16)))
      (i32.store (i32.const 4) (i32.load (i32.const 16)))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
      (br_if $next (i32.load (i32.const 16))))))"#;

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

/// The answer to one unit, wherever it is.
fn ask(peasant: &mut Peasant, socket: &OwnedFd, input: &[u8], files: (bool, bool)) -> Result<Vec<u8>, Failure> {
    let (in_file, mut out_file) = (file(input), tempfile::tempfile().unwrap());
    let input = if files.0 { Err((&in_file, input.len() as u64)) } else { Ok(input) };
    let unit = FileUnit { input, output: files.1.then_some(&out_file) };
    peasant.send_all(&hand(socket, &[unit]));
    let answer = peasant.receive()?;
    if !files.1 {
        return Ok(answer);
    }
    assert_eq!(answer, b"", "the answer is in the file");
    let mut content = Vec::new();
    out_file.rewind().unwrap();
    out_file.read_to_end(&mut content).unwrap();
    Ok(content)
}

const WAYS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

#[test]
fn programs_of_every_kind_take_files() {
    let same: fn(&[u8]) -> Vec<u8> = <[u8]>::to_vec;
    let upper: fn(&[u8]) -> Vec<u8> = <[u8]>::to_ascii_uppercase;
    let small: fn(&[u8]) -> Vec<u8> = |_| b"5\n".to_vec();
    let sizes = [1, FILE_BUFFER_BYTES - 1, FILE_BUFFER_BYTES, FILE_BUFFER_BYTES + 1, 200_000, 3 << 20];
    let text: Vec<u8> = (0..sizes[5]).map(|i| b'a' + (i % 26) as u8).collect();
    for (program, args, sizes, answer) in [
        (guest("echo.wat"), &[][..], &sizes[..], same),
        (PARTS.as_bytes().to_vec(), &[], &sizes, same),
        (guest("upper.wat"), &[], &sizes, upper),
        (guest("upper.wat"), &["--fresh"], &sizes[..2], upper),
        (guest("echo.wat"), &["--dir", "/::/"], &sizes, same),
        (guest("component-echo.wat"), &[], &sizes, same),
        (guest("component-upper.wat"), &[], &sizes[..2], upper),
        (guest("call.wat"), &["--call", "add"], &[], small),
        (guest("component-call.wat"), &["--call", "add"], &[], small),
    ] {
        let (mut peasant, socket) = Peasant::start_with_files(program, args);
        for files in WAYS {
            for input in sizes.iter().map(|size| &text[..*size]) {
                let got = ask(&mut peasant, &socket, input, files);
                assert!(got.as_deref() == Ok(&answer(input)[..]), "{args:?}, {files:?}, {} bytes", input.len());
            }
            if sizes.is_empty() {
                assert_eq!(ask(&mut peasant, &socket, b"2, 3", files), Ok(answer(b"")));
            }
        }
        peasant.ends_well();
    }
}

#[test]
fn an_empty_input_is_an_input() {
    for name in ["echo.wat", "upper.wat"] {
        let (mut peasant, socket) = Peasant::start_with_files(guest(name), &[]);
        for files in WAYS {
            assert_eq!(ask(&mut peasant, &socket, b"", files), Ok(Vec::new()), "{name}");
        }
        peasant.ends_well();
    }
}

#[test]
fn an_input_may_be_larger_than_a_frame() {
    let large = tempfile::tempfile().unwrap();
    large.set_len((2 << 30) + 5).unwrap();
    let (mut peasant, socket) = Peasant::start_with_files(COUNT.as_bytes().to_vec(), &[]);
    let unit = || [FileUnit { input: Err((&large, (2 << 30) + 5)), output: None }];
    peasant.send_all(&hand(&socket, &unit()));
    assert_eq!(peasant.receive(), Ok(((2_u64 << 30) + 5).to_le_bytes().to_vec()));
    peasant.ends_well();
    let (mut peasant, socket) = Peasant::start_with_files(guest("upper.wat"), &[]);
    peasant.send_all(&hand(&socket, &unit()));
    let failure = peasant.receive().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Input);
    assert!(failure.message.contains("is longer than 2 GiB - 1; a program that reads it from stdin"), "{failure:?}");
    peasant.ends_well();
}

#[test]
fn units_that_fail_do_not_lose_the_files_of_others() {
    let (mut peasant, socket) = Peasant::start_with_files(guest("trouble.wat"), &["--memory-bytes", "1048576"]);
    let inputs: Vec<File> = [b"t", b"f", b"x", b"f"].iter().map(|text| file(*text)).collect();
    let outputs: Vec<File> = inputs.iter().map(|_| tempfile::tempfile().unwrap()).collect();
    let units = inputs.iter().zip(&outputs).map(|(input, output)| (Err((input, 1)), Some(output)));
    let mut units: Vec<_> = units.map(|(input, output)| FileUnit { input, output }).collect();
    units.insert(2, FileUnit { input: Ok(b"f"), output: None });
    peasant.send_all(&hand(&socket, &units));
    let kinds: Vec<_> = (0..5).map(|_| peasant.receive().map_err(|failure| failure.kind)).collect();
    let (trap, exit) = (Err(FailureKind::Trap), Err(FailureKind::Exit));
    assert_eq!(kinds, [trap, Ok(Vec::new()), Ok(b"fine".to_vec()), exit, Ok(Vec::new())]);
    let sizes: Vec<_> = outputs.iter().map(|output| output.metadata().unwrap().len()).collect();
    assert_eq!((sizes[1], sizes[3]), (4, 4));
    peasant.ends_well();
}

#[test]
fn an_input_that_shrinks_is_a_failure() {
    let shrunk = file(&[b'x'; 10]);
    for (name, claimed) in
        [("echo.wat", 11), ("echo.wat", 1 << 20), ("upper.wat", 1 << 20), ("component-echo.wat", 1 << 20)]
    {
        let (mut peasant, socket) = Peasant::start_with_files(guest(name), &[]);
        (&shrunk).rewind().unwrap();
        peasant.send_all(&hand(&socket, &[FileUnit { input: Err((&shrunk, claimed)), output: None }]));
        let failure = peasant.receive().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Input, "{failure:?}");
        assert!(failure.message.starts_with("cannot read the input: it had"), "{failure:?}");
        peasant.ends_well();
    }
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure_of_its_unit() {
    let most = Rlimit { current: Some(4 << 20), maximum: Some(4 << 20) };
    let (ours, theirs) = handover::pair().unwrap();
    handed::keep_open(theirs.as_raw_fd()).unwrap();
    for name in ["echo.wat", "upper.wat", "component-echo.wat"] {
        let mut command = Command::new(PEASANT);
        command.args([handover::FLAG, &theirs.as_raw_fd().to_string()]);
        // SAFETY: only a system call is made between fork and exec.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Fsize, most)?)) };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let full = tempfile::tempfile().unwrap();
        let small = tempfile::tempfile().unwrap();
        let long = vec![b'x'; 5 << 20];
        let units =
            [(&long[..], &full), (b"y", &small)].map(|(bytes, out)| FileUnit { input: Ok(bytes), output: Some(out) });
        let mut bodies = vec![guest(name)];
        bodies.extend(hand(&ours, &units));
        let mut stdin = child.stdin.take().unwrap();
        bodies.iter().for_each(|body| stdin.write_all(&frame(body)).unwrap());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        let failure = Failure::decode(&output.stdout[8..output.stdout.len() - 4]);
        assert_eq!(failure.kind, FailureKind::Output, "{name}: {failure:?}");
        assert!(failure.message.starts_with("cannot write the output: File too large"), "{name}: {failure:?}");
        assert_eq!(output.stdout[output.stdout.len() - 4..], [0; 4], "{name}");
    }
}

#[test]
fn descriptors_that_do_not_come_end_the_peasant_with_a_word() {
    let few = Rlimit { current: Some(12), maximum: Some(12) };
    for (is_limited, word) in [(true, "was cut short"), (false, "ended before the descriptors of a unit")] {
        let (ours, theirs) = handover::pair().unwrap();
        handed::keep_open(theirs.as_raw_fd()).unwrap();
        let mut command = Command::new(PEASANT);
        command.args([handover::FLAG, &theirs.as_raw_fd().to_string()]);
        if is_limited {
            // SAFETY: only a system call is made between fork and exec.
            unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, few)?)) };
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(theirs);
        let input = file(b"x");
        let units: Vec<_> = (0..20).map(|_| FileUnit { input: Err((&input, 1)), output: None }).collect();
        let mut bodies = vec![guest("echo.wat")];
        let described = hand(&ours, &units);
        bodies.extend(described.clone());
        if !is_limited {
            bodies.extend(described);
        }
        let mut stdin = child.stdin.take().unwrap();
        // The peasant may end before it has read everything.
        bodies.iter().for_each(|body| drop(stdin.write_all(&frame(body))));
        drop((stdin, ours));
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(word) && output.status.code() == Some(2), "{said}");
    }
}
