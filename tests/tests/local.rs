//! A queen in local mode: its outputs, and its messages when something is wrong.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use distwasm_tests::real::{Finished, Place, Process, guest, peasants_of, until};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn every_sum_is_right_and_a_second_run_finds_nothing_to_do() {
    let place = Place::default();
    place.write_sums(500);
    place.queen(guest("summer.wasm"), &[]).expect(0, &["500 done, 0 skipped", "0 failed"]);
    place.expect_sums(500);
    place.queen(guest("summer.wasm"), &[]).expect(0, &["0 done, 500 skipped"]);
    place.write("501", "501 + 501");
    place.queen(guest("summer-command.wasm"), &[]).expect(0, &["1 done, 500 skipped"]);
    place.expect_sums(501);
}

#[test]
fn any_file_name_and_any_depth_will_do() {
    let place = Place::default();
    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b"a b",
        b"new\nline",
        b"-b",
        b"\xff\xfe",
        long.as_bytes(),
        b"deep/er/and deeper/file",
        b".hidden",
        b"*",
        b".distwasm-1-1.unfinished",
    ];
    for name in names {
        place.write(OsStr::from_bytes(name), name);
    }
    place.write("empty", "");
    let elsewhere = place.path().join("elsewhere");
    fs::write(&elsewhere, "linked").unwrap();
    symlink(&elsewhere, place.input().join("link out")).unwrap();
    symlink("../a b", place.input().join("deep/link")).unwrap();
    symlink(place.input().join("a b"), place.input().join("link")).unwrap();
    symlink(place.path(), place.input().join("folder link")).unwrap();
    symlink("nowhere", place.input().join("dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(place.input().join("pipe")).status().unwrap().success());
    let said =
        ["skipped pipe: it is a named pipe", "skipped folder link: it is a link to a folder", "skipped dangling"];
    let leads_out = "skipped link out: it is a link that leads out of the input folder (--follow-links follows it)";
    place.queen(guest("echo.wat"), &[]).expect(0, &[&said[..], &[leads_out]].concat());
    let outputs = place.outputs();
    assert_eq!(outputs.len(), names.len() + 3);
    for name in names {
        assert_eq!(outputs[Path::new(OsStr::from_bytes(name))], name, "{name:?}");
    }
    assert_eq!(outputs[Path::new("empty")], b"");
    assert!(outputs[Path::new("link")] == b"a b" && outputs[Path::new("deep/link")] == b"a b");
    place.queen(guest("echo.wat"), &["--follow-links"]).expect(0, &[&said[..], &["1 done"]].concat());
    assert_eq!(place.outputs()[Path::new("link out")], b"linked");
}

#[test]
fn bad_inputs_fail_with_their_reasons_and_good_ones_are_done() {
    let place = Place::default();
    place.write_sums(20);
    place.write("bad/apples", "one and one");
    place.write("bad/pears", "1 + ");
    let finished = place.queen(guest("summer.wasm"), &["--json"]);
    finished.expect(1, &["failed: bad/apples: ", "20 done", "2 failed", "stderr: ", "output.failures.jsonl"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&summary["done"], &summary["failed"], &summary["status"]), (&20.into(), &2.into(), &1.into()));
    let failures = fs::read_to_string(summary["failures_file"].as_str().unwrap()).unwrap();
    let first: serde_json::Value = serde_json::from_str(failures.lines().next().unwrap()).unwrap();
    assert_eq!(first["kind"], "exit", "{failures}");
    assert_eq!(place.outputs().len(), 20);
    fs::remove_dir_all(place.input().join("bad")).unwrap();
    place.queen(guest("summer.wasm"), &["--quiet"]).expect(0, &[]);
    assert!(!place.path().join("output.failures.jsonl").exists(), "a clean run leaves no old failures behind");
}

#[test]
fn guests_that_misbehave_fail_alone_each_with_its_reason() {
    let place = Place::default();
    let troubles = [
        ("x", "exited with status 3"),
        ("t", "unreachable"),
        ("r", "stack"),
        ("m", "memory"),
        ("e", "exited with status 1"),
        ("a", "longer than"),
    ];
    for (letter, _) in troubles {
        place.write(letter, letter);
    }
    place.write("good", "good");
    let said: Vec<String> = troubles.iter().map(|(letter, _)| format!("failed: {letter}: ")).collect();
    let mut said: Vec<&str> = said.iter().map(String::as_str).collect();
    said.extend(troubles.iter().map(|(_, reason)| *reason));
    // Little memory, so that a guest does not need long to take all of it.
    place.queen(guest("trouble.wat"), &["--ram-limit", "128", "--max-output", "32MB"]).expect(1, &said);
    assert_eq!(place.outputs().into_iter().collect::<Vec<_>>(), [(PathBuf::from("good"), b"fine".to_vec())]);
}

#[test]
fn answers_that_break_the_abi_are_failures() {
    let place = Place::default();
    for letter in ["n", "s", "g", "c", "l", "z"] {
        place.write(letter, letter);
    }
    place.write("good", "fine");
    place.queen(guest("answers.wat"), &[]).expect(1, &["6 failed", "1 done"]);
    assert_eq!(place.outputs()[Path::new("good")], b"good");
}

#[test]
fn only_the_unit_that_hangs_is_blamed() {
    let place = Place::default();
    for number in 0..200 {
        place.write(number.to_string(), "fine");
    }
    place.write("100-hangs", "loop");
    place.write("77-hangs", "loop");
    let finished = place.queen(guest("loop.wat"), &["--timeout", "300ms", "--num-cpus", "2"]);
    finished.expect(1, &["failed: 100-hangs: took longer than the time-out of 300ms", "failed: 77-hangs", "200 done"]);
    assert_eq!(place.outputs().len(), 200);
}

#[test]
fn a_unit_whose_peasants_are_killed_fails_with_the_evidence() {
    let place = Place::default();
    place.write("victim", "loop");
    let mut queen = Process::start(&mut place.queen_command(guest("loop.wat")), "queen", place.path());
    let mut killed = Vec::new();
    while queen.is_running() {
        for peasant in peasants_of(queen.id()) {
            // Once the peasant has used some processor time, its one unit is in its pipe.
            let burns = fs::read_to_string(format!("/proc/{peasant}/schedstat")).is_ok_and(|stat| {
                stat.split_whitespace().next().is_some_and(|ns| ns.parse::<u64>().is_ok_and(|ns| ns > 200_000_000))
            });
            if burns && !killed.contains(&peasant) {
                killed.push(peasant);
                kill_process(Pid::from_raw(peasant.cast_signed()).unwrap(), Signal::KILL).unwrap();
            }
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let said = ["failed: victim: its peasant died: it was killed by signal 9 (SIGKILL)", "after 3 attempts"];
    queen.finish().expect(1, &said);
    assert_eq!(killed.len(), 3);
}

#[test]
fn a_failed_unit_is_tried_again_as_often_as_the_flag_says() {
    let place = Place::default();
    place.write("bad", "nonsense");
    place.queen(guest("summer.wasm"), &["--retries", "2"]).expect(1, &["after 3 attempts"]);
}

#[test]
fn a_run_that_cannot_begin_says_why_with_status_2() {
    let place = Place::default();
    place.write_sums(3);
    let cases: [(&[u8], &str); 7] = [
        (b"\x7fELF\x02\x01", "not a WebAssembly program: it is an ELF executable or library"),
        (b"", "not a WebAssembly program: it is empty"),
        (b"(module (func", "not WebAssembly's text format"),
        (b"(module)", "ProcessStdio"),
        (b"(module (func (export \"ProcessStdio\") (param i64)))", "i64"),
        (b"(module (import \"env\" \"foo\" (func)) (func (export \"_start\")))", "`env.foo`"),
        (
            b"(module (func $trap unreachable) (start $trap) (func (export \"ProcessStdio\") (param i32)))",
            "unreachable",
        ),
    ];
    for (program, said) in cases {
        let path = place.path().join("program");
        fs::write(&path, program).unwrap();
        place.queen(&path, &[]).expect(2, &[said]);
    }
    let summer = guest("summer.wasm");
    let missing = place.path().join("missing");
    place.queen(&missing, &[]).expect(2, &["failed to read the program", "No such file"]);
    place.queen("/dev/zero", &[]).expect(2, &["has more than 256 MB"]);
    place.queen(&summer, &["--king-address", "a b:1"]).expect(2, &["HOST:PORT"]);
    place.queen(&summer, &["--king-address", "king:0"]).expect(2, &["HOST:PORT"]);
    place.queen(&summer, &["--min-ram", "99999999"]).expect(2, &["this machine gives its guests"]);
    place.queen(&summer, &["--timeout", "0s"]).expect(2, &["it must be longer than 0 s"]);
    place.queen(&summer, &["--peasant", "/bin/false"]).expect(2, &["failed to use /bin/false as a peasant"]);
    place
        .queen(&summer, &["--peasant", "/no/where"])
        .expect(2, &["failed to use /no/where as a peasant", "No such file"]);
    assert_eq!(place.outputs_count(), 0);
}

#[test]
fn unusable_folders_are_refused() {
    let place = Place::default();
    place.write_sums(3);
    let run = |input: &Path, output: &Path| {
        let mut queen = place.command("queen");
        queen.arg("-b").arg(guest("summer.wasm")).arg("--input").arg(input).arg("--output").arg(output);
        Finished::of(&mut queen)
    };
    let (input, output) = (place.input(), place.output());
    run(&place.path().join("missing"), &output).expect(2, &["failed to find the input ", "--input names another"]);
    run(Path::new("/dev/null"), &output).expect(2, &["is neither a folder nor a file"]);
    run(&input, &input).expect(2, &["the folders overlap"]);
    run(&input, &input.join("deeper")).expect(2, &["the folders overlap"]);
    run(&input, place.path()).expect(2, &["the folders overlap"]);
    run(&input, &input.join("1")).expect(2, &["the folders overlap"]);
    fs::write(place.path().join("file"), "").unwrap();
    run(&input, &place.path().join("file")).expect(2, &["is not a folder (--output names another"]);
    assert!(!input.join("deeper").exists());
    fs::create_dir(place.path().join("none")).unwrap();
    run(&place.path().join("none"), &output).expect(0, &["there is no file among the inputs", "0 done"]);
}

#[test]
fn an_input_that_cannot_be_read_is_a_failed_unit() {
    let place = Place::default();
    place.write_sums(3);
    // The reader's own memory: a regular file that cannot be read at its beginning.
    symlink("/proc/self/mem", place.input().join("unreadable")).unwrap();
    fs::create_dir_all(place.output().join("1")).unwrap();
    let said = ["failed: unreadable: ", "failed: 1: its output cannot be written", "2 done", "2 failed"];
    place.queen(guest("summer.wasm"), &["--follow-links"]).expect(1, &said);
    fs::remove_dir_all(place.output().join("1")).unwrap();
    place.queen(guest("summer.wasm"), &[]).expect(0, &["skipped unreadable: ", "1 done, 2 skipped"]);
}

#[test]
fn an_interrupted_run_keeps_its_outputs_and_resumes_later() {
    let place = Place::default();
    for number in 0..400 {
        place.write(number.to_string(), "slow");
    }
    let queen = Process::start(&mut place.queen_command(guest("slow.wat")), "queen", place.path());
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    let peasants = peasants_of(queen.id());
    assert!(!peasants.is_empty());
    queen.signal(Signal::INT);
    queen.finish().expect(130, &["interrupted", "run the same command again to go on"]);
    let done = place.outputs_count();
    assert!(done < 400, "it was interrupted too late to show anything");
    assert!(place.outputs().values().all(|output| output == b"slow"), "an output is complete or missing");
    // Two files: an earlier run's leftover is removed, a stranger's file stays.
    fs::write(place.output().join(".distwasm-99999-1.unfinished"), "half").unwrap();
    fs::write(place.output().join(".distwasm-stranger"), "mine").unwrap();
    let skipped = format!("{done} skipped");
    place.queen(guest("slow.wat"), &["--sync"]).expect(0, &[&skipped]);
    let outputs = place.outputs();
    assert_eq!(outputs.len(), 401);
    assert_eq!(outputs[Path::new(".distwasm-stranger")], b"mine");
}

#[test]
fn two_queens_do_not_write_into_one_folder() {
    let place = Place::default();
    place.write("endless", "loop");
    let queen = Process::start(&mut place.queen_command(guest("loop.wat")), "queen", place.path());
    until("the first queen's peasant", || peasants_of(queen.id()).first().copied(), || queen.log());
    place.queen(guest("loop.wat"), &[]).expect(2, &["another queen is writing to the output folder"]);
    queen.signal(Signal::TERM);
    queen.finish().expect(130, &[]);
}

#[test]
fn a_full_disk_ends_the_run_and_keeps_complete_outputs() {
    let place = Place::default();
    let disk = place.output();
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        println!("SKIPPED: a small file system cannot be mounted here, so a full disk cannot be tried");
        return;
    }
    let content = vec![b'x'; 100_000];
    for number in 0..40 {
        place.write(number.to_string(), &content);
    }
    let finished = place.queen(guest("upper.wat"), &[]);
    let outputs = place.outputs();
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    finished.expect(2, &["no more outputs can be written", "No space left", "finished outputs are kept"]);
    assert!(!outputs.is_empty());
    assert!(outputs.values().all(|output| output.len() == content.len()), "half an output was left");
}

#[test]
fn large_answers_and_large_inputs_go_through() {
    let place = Place::default();
    place.write("a", "");
    place.write("b", "");
    place.queen(guest("big.wat"), &[]).expect(0, &["2 done"]);
    assert!(place.outputs().values().all(|output| output.len() == 100 << 20));
    let place = Place::default();
    let content: Vec<u8> = (b'a'..=b'z').cycle().take(150 << 20).collect();
    place.write("large", &content);
    place.queen(guest("upper.wat"), &[]).expect(0, &["1 done"]);
    let output = fs::read(place.output().join("large")).unwrap();
    assert!(output == content.to_ascii_uppercase(), "the output is not the input in capitals");
}

#[test]
fn arguments_reach_the_guest_and_flags_come_from_the_environment() {
    let place = Place::default();
    place.write("x", "x");
    let mut queen = place.command("queen");
    queen.env("DISTWASM_BINARY", guest("clocks.wat")).env("DISTWASM_INPUT", place.input());
    queen.env("DISTWASM_OUTPUT", place.output()).env("DISTWASM_JSON", "true").env("DISTWASM_PROJECT", "from the air");
    let finished = Finished::of(queen.args(["--", "one", "--two"]));
    finished.expect(0, &["1 done"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(summary["project"], "from the air");
}

#[test]
fn a_damaged_cache_is_compiled_again() {
    let place = Place::default();
    place.write_sums(3);
    place.queen(guest("summer.wasm"), &[]).expect(0, &["3 done"]);
    let cached: Vec<PathBuf> =
        fs::read_dir(place.path().join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let is_program = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cwasm");
    let cached: Vec<PathBuf> = cached.into_iter().filter(is_program).collect();
    assert_eq!(cached.len(), 1, "{cached:?}");
    fs::write(&cached[0], "rubbish").unwrap();
    place.write("4", "4 + 4");
    place.queen(guest("summer.wasm"), &[]).expect(0, &["cannot be loaded; it will be compiled again", "1 done"]);
    assert!(fs::metadata(&cached[0]).unwrap().len() > 1000, "it was compiled again");
    place.expect_sums(4);
}

#[test]
fn two_inputs_never_share_an_output() {
    let place = Place::default();
    place.write("x/a", "first");
    place.write("y/a", "second");
    place.write("y/b", "third");
    fs::create_dir_all(place.output().join("x")).unwrap();
    symlink("x", place.output().join("y")).unwrap();
    for _ in 0..2 {
        let said = ["failed: y: its outputs would lie in", "those of x belong", "1 failed"];
        place.queen(guest("echo.wat"), &[]).expect(1, &said);
        place.queen(guest("echo.wat"), &["--retry-failed"]).expect(1, &["1 failed"]);
        assert_eq!(fs::read_to_string(place.output().join("x/a")).unwrap(), "first");
        assert!(!place.output().join("x/b").exists());
    }
    let failures = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap();
    assert!(failures.contains("\"kind\":\"output\""), "{failures}");
    // Without the link, both inputs have outputs of their own.
    fs::remove_file(place.output().join("y")).unwrap();
    place.queen(guest("echo.wat"), &[]).expect(0, &["2 done"]);
    assert_eq!(fs::read_to_string(place.output().join("y/a")).unwrap(), "second");
}

#[test]
fn an_output_that_another_program_writes_meanwhile_stays() {
    let place = Place::default();
    for number in 0..100 {
        place.write(format!("{number:02}"), "slow");
    }
    let queen = Process::start(place.queen_command(guest("slow.wat")).args(["--num-cpus", "1"]), "queen", place.path());
    until("the first outputs", || (place.outputs_count() > 3).then_some(()), || queen.log());
    fs::write(place.output().join("99"), "mine").unwrap();
    queen.finish().expect(1, &["failed: 99: its output 99 is there already", "99 done", "1 failed"]);
    assert_eq!(fs::read_to_string(place.output().join("99")).unwrap(), "mine");
}

#[test]
fn failures_are_kept_where_the_user_says_or_reported_as_lost() {
    let place = Place::default();
    place.write_sums(2);
    for number in 0..25 {
        place.write(format!("bad-{number:02}"), "one + two");
    }
    // Root may write everywhere, but not into a folder.
    fs::create_dir(place.path().join("output.failures.jsonl")).unwrap();
    let finished = place.queen(guest("summer.wasm"), &[]);
    let said =
        ["warning: failures cannot be kept in", "25 of the failures could not be kept", "--failures names another"];
    finished.expect(2, &said);
    for number in 0..25 {
        assert!(finished.stderr.contains(&format!("failed: bad-{number:02}: ")), "{}", finished.stderr);
    }
    let elsewhere = place.path().join("elsewhere");
    let flags = ["--failures", elsewhere.to_str().unwrap()];
    place.queen(guest("summer.wasm"), &flags).expect(1, &["25 failed", "all failures: "]);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap().lines().count(), 25);
    place
        .queen(guest("summer.wasm"), &["--retry-failed", flags[0], flags[1]])
        .expect(1, &["0 done, 0 skipped", "25 failed"]);
    symlink("nowhere", place.path().join("link")).unwrap();
    let other = Place::default();
    other.write("bad", "one + two");
    let said = "those of another output folder";
    other.queen(guest("summer.wasm"), &["--failures", flags[1]]).expect(2, &[said]);
    for (path, said) in [
        (place.path().to_owned(), "failed to open the file of failures"),
        (place.input().join("failures"), "is in the input folder"),
        (place.output().join("bad-01"), "has the name of an output"),
        (PathBuf::from("/dev/null"), "is not a regular file"),
        (guest("loop.wat"), "there is something else in it than failures"),
        (place.path().join("link"), "it is a link to nothing"),
    ] {
        place.queen(guest("summer.wasm"), &["--failures", path.to_str().unwrap()]).expect(2, &[said]);
    }
    assert!(!place.input().join("failures").exists());
}

#[test]
fn a_run_with_nothing_to_do_reports_newer_inputs_and_a_bad_program() {
    let place = Place::default();
    place.write_sums(3);
    place.queen(guest("summer.wasm"), &[]).expect(0, &["3 done"]);
    let finished = place.queen(guest("summer.wasm"), &["--json"]);
    finished.expect(0, &["0 done, 3 skipped"]);
    assert!(!finished.stderr.contains("newer") && finished.stdout.contains("\"newer\":0"), "{finished:?}");
    let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000);
    for name in ["1", "2"] {
        fs::File::options().append(true).open(place.input().join(name)).unwrap().set_modified(later).unwrap();
    }
    let said = "2 of the skipped inputs are newer than their outputs";
    let finished = place.queen(guest("summer.wasm"), &["--json"]);
    finished.expect(0, &[said]);
    assert!(finished.stdout.contains("\"newer\":2"), "{finished:?}");
    place.queen(guest("summer.wasm"), &["--call", "nope"]).expect(2, &["the program cannot run", "exports no `nope`"]);
    place.queen(guest("unfit-import.wat"), &[]).expect(2, &["the program cannot run"]);
    place.queen(guest("unfit-init.wat"), &[]).expect(2, &["the program cannot run"]);
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure_of_that_kind() {
    let place = Place::default();
    place.write("a", "x");
    fs::create_dir_all(place.output().join("a")).unwrap();
    place.queen(guest("echo.wat"), &[]).expect(1, &["failed: a: its output cannot be written"]);
    let failures = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap();
    assert!(failures.contains("\"kind\":\"output\""), "{failures}");
}

#[test]
fn a_local_run_asks_no_king_that_the_environment_names() {
    let place = Place::default();
    place.write_sums(3);
    let mut queen = place.queen_command(guest("summer.wasm"));
    queen.env("DISTWASM_KING_ADDRESS", "127.0.0.1:1").env("DISTWASM_REQUIRE", "zone=eu").args(["--local", "-j", "1"]);
    Finished::of(&mut queen).expect(0, &["3 done"]);
    assert_eq!(place.outputs_count(), 3);
}
