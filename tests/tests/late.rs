//! Late errors: a file system reports only when a file is closed that its bytes were lost.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{fs, process::Stdio};

use distwasm_tests::real::{Finished, Place, fail_late, guest, king_address};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// A queen on ten sums, whose outputs are lost when they are closed.
fn losing(place: &Place, error: i32, args: &[&str]) -> Finished {
    fs::create_dir_all(place.output()).unwrap();
    let mut command = place.queen_command(guest("summer.wasm"));
    fail_late(&mut command, &fs::canonicalize(place.output()).unwrap().join(""), error);
    Finished::of(command.args(args))
}

#[test]
fn an_output_that_was_not_kept_is_a_failure_and_runs_again() {
    let place = Place::default();
    place.write_sums(10);
    losing(&place, EIO, &[]).expect(1, &["0 done", "10 failed", "Input/output error"]);
    let failures = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap();
    assert_eq!(failures.matches("\"kind\":\"output\"").count(), 10, "{failures}");
    assert!(place.outputs().is_empty(), "{:?}", place.outputs());
    place.queen(guest("summer.wasm"), &[]).expect(0, &["10 done, 0 skipped"]);
    place.expect_sums(10);
}

#[test]
fn a_full_disk_that_is_reported_late_ends_the_run() {
    for error in [ENOSPC, EDQUOT] {
        let place = Place::default();
        place.write_sums(10);
        losing(&place, error, &[]).expect(2, &["no more outputs can be written", "0 done"]);
        losing(&place, error, &["--sync"]).expect(2, &["no more outputs can be written", "0 done"]);
        assert!(place.outputs().is_empty(), "{:?}", place.outputs());
    }
}

#[test]
fn a_file_of_failures_that_was_not_kept_is_not_called_complete() {
    let place = Place::default();
    place.write("bad", "one + two");
    let mut command = place.queen_command(guest("summer.wasm"));
    fail_late(&mut command, &place.path().canonicalize().unwrap().join("output.failures"), EIO);
    Finished::of(&mut command).expect(2, &["may not be kept in", "Input/output error", "failed: bad"]);
}

#[test]
fn files_made_for_later_are_complete_or_missing() {
    let place = Place::default();
    let here = place.path().canonicalize().unwrap();
    // The answers of a peasant that is used by hand.
    let answers = here.join("answers");
    let mut command = place.command("peasant");
    fail_late(&mut command, &answers, EIO);
    command.stdin(Stdio::null()).stdout(fs::File::create(&answers).unwrap());
    assert_eq!(command.status().unwrap().code(), Some(2));
    fs::remove_file(answers).unwrap();
    // A compiled program. Not through a duke, because a duke clears its peasants' environment.
    let compiled = here.join("compiled");
    let mut command = place.command("peasant");
    command.args(["compile", "--output"]).arg(&compiled).stdin(fs::File::open(guest("echo.wat")).unwrap());
    fail_late(&mut command, &compiled, EIO);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "not the program's fault: {output:?}");
    // The key of a king.
    let data = here.join("state/distwasm/king");
    let mut command = place.command("king");
    command.args(["--port", "0", "--http", "none"]);
    fail_late(&mut command, &data.join(".distwasm"), EIO);
    Finished::of(&mut command).expect(2, &["failed to write the king's key", "Input/output error"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    // The port file of a king.
    let port_file = here.join("port");
    let mut command = place.command("king");
    command.args(["--port", "0", "--http", "none", "--port-file"]).arg(&port_file);
    fail_late(&mut command, &here.join(".distwasm"), EIO);
    Finished::of(&mut command).expect(2, &["failed to write", "Input/output error"]);
    // A new project.
    let mut command = place.command("queen");
    command.args(["new", "--lang", "c"]).arg(here.join("project"));
    fail_late(&mut command, &here, EIO);
    Finished::of(&mut command).expect(2, &["failed to write the new folder"]);
    let left: Vec<_> = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "an input folder, the king's key and an empty compiled file: {left:?}");
    assert_eq!(fs::metadata(compiled).unwrap().len(), 0);
}

#[test]
fn a_shared_directory_that_was_not_kept_is_not_used() {
    let place = Place::default();
    place.write("word", "word");
    let shared = place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("word"), "shared").unwrap();
    let dir = format!("{}::/x", shared.display());
    let mut command = place.queen_command(guest("files.wat"));
    let cache = place.path().canonicalize().unwrap().join("cache/shares");
    fail_late(&mut command, &cache, EIO);
    Finished::of(command.args(["--dir", &dir])).expect(2, &["failed to unpack a shared directory"]);
    assert_eq!(fs::read_dir(cache).unwrap().count(), 0);
    place.queen(guest("files.wat"), &["--dir", &dir]).expect(0, &["1 done"]);
}

#[test]
fn a_stderr_without_a_reader_blocks_nothing() {
    // A log that accepts nothing, and one whose reader went away.
    for reader_stays in [true, false] {
        let place = Place::default();
        place.write_sums(300);
        for number in 0..300 {
            place.write(format!("bad-{number}"), "one + two");
        }
        let deaf = |program: &str, args: &[&str]| {
            let mut command = place.command(program);
            command.args(args).env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let stderr = child.stderr.take().filter(|_| reader_stays);
            (child, stderr)
        };
        let port_file = place.path().join("port");
        let flags = ["--port", "0", "--http", "none", "--port-file", port_file.to_str().unwrap()];
        let (mut king, _king_said) = deaf("king", &flags);
        let address = king_address(&port_file, || port_file.display().to_string());
        let (mut duke, _duke_said) = deaf("duke", &["--king-address", &address, "--num-cpus", "2"]);
        let folders = ["--input", place.input().to_str().unwrap(), "--output", place.output().to_str().unwrap()]
            .map(str::to_owned);
        let binary = guest("summer.wasm");
        let mut args = vec!["-vv", "--king-address", &address, "--binary", binary.to_str().unwrap()];
        args.extend(folders.iter().map(String::as_str));
        let (mut queen, _queen_said) = deaf("queen", &args);
        assert_eq!(queen.wait().unwrap().code(), Some(1));
        place.expect_sums(300);
        assert_eq!((king.try_wait().unwrap(), duke.try_wait().unwrap()), (None, None), "they work on");
        for child in [&mut duke, &mut king] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn a_full_disk_under_the_log_ends_no_process() {
    let place = Place::default();
    place.write_sums(10);
    let mut queen = place.queen_command(guest("summer.wasm"));
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(queen.arg("-v").stderr(full()).status().unwrap().code(), Some(0));
    place.expect_sums(10);
    // Data that cannot be written is an error.
    let mut lines = place.command("queen");
    lines.args(["new", "--lang", "c"]).arg(place.path().join("project")).stdout(full());
    assert_eq!(lines.status().unwrap().code(), Some(2));
}
