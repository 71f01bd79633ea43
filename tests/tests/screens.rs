//! What people read: whole screens, compared with those written here. `UPDATE_EXPECT=1 cargo test -p distwasm-tests
//! --test screens` writes them anew; the change is then reviewed as text.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::path::Path;

use distwasm_tests::real::{Finished, Place, guest, screen};
use expect_test::{Expect, expect};

fn expect_run(place: &Place, program: impl AsRef<Path>, args: &[&str], expected: &Expect) {
    expected.assert_eq(&screen(place, &place.queen(program, args)));
}

fn expect_queen(place: &Place, args: &[&str], expected: &Expect) {
    expected.assert_eq(&screen(place, &Finished::of(place.command("queen").args(args))));
}

#[test]
fn a_run_ends_with_a_summary() {
    let place = Place::default();
    place.write_sums(3);
    expect_run(
        &place,
        guest("summer.wasm"),
        &[],
        &expect![[r#"
        3 done, 0 skipped (done before), 0 failed in N s (N units/s)
        status 0
    "#]],
    );
    expect_run(
        &place,
        guest("summer.wasm"),
        &[],
        &expect![[r#"
        0 done, 3 skipped (done before), 0 failed in N s (N units/s)
        status 0
    "#]],
    );
    place.write("bad", "20 + two");
    expect_run(
        &place,
        guest("summer.wasm"),
        &[],
        &expect![[r#"
        failed: bad: exited with status 1: `two` is not an integer: invalid digit found in string (on HOST)
            stderr: `two` is not an integer: invalid digit found in string
        all failures: output.failures.jsonl
        0 done, 3 skipped (done before), 1 failed in N s (N units/s)
        run the same command again to retry the failed units
        status 1
    "#]],
    );
    expect_run(
        &place,
        guest("summer.wasm"),
        &["--max-failures", "0"],
        &expect![[r#"
        error: stopped: 1 of 1 finished units failed, which is more than --max-failures 0 allows
        failed: bad: exited with status 1: `two` is not an integer: invalid digit found in string (on HOST)
            stderr: `two` is not an integer: invalid digit found in string
        all failures: output.failures.jsonl
        0 done, 3 skipped (done before), 1 failed in N s (N units/s)
        finished outputs are kept; run the same command again to go on, with --retry-failed to try only the
        failed units, or with a higher --max-failures to let more fail
        status 1
    "#]],
    );
}

#[test]
fn a_wrong_program_or_folder_is_refused() {
    let place = Place::default();
    place.write_sums(1);
    place.write("picture", b"\x89PNG\r\n\x1a\n");
    expect_run(
        &place,
        place.input().join("picture"),
        &[],
        &expect![[r#"
        error: input/picture: not a WebAssembly program: it is a PNG picture
        status 2
    "#]],
    );
    expect_run(
        &place,
        place.path().join("nothing.wasm"),
        &[],
        &expect![[r#"
        error: failed to read the program nothing.wasm: No such file or directory (os error 2)
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--input", "nowhere", "--output", "o"],
        &expect![[r#"
        error: failed to read the program x.wasm: No such file or directory (os error 2)
        status 2
    "#]],
    );
    let folder = place.input().display().to_string();
    let program = guest("summer.wasm").display().to_string();
    expect_queen(
        &place,
        &["--binary", &program, "--input", &folder, "--output", &folder],
        &expect![[r#"
            error: the folders overlap: input input and output input; outputs would be taken for inputs, unless --exclude leaves out the folder of outputs
            status 2
        "#]],
    );
}

#[test]
fn wrong_flags_are_refused() {
    let place = Place::default();
    expect_queen(
        &place,
        &["--bnary", "x.wasm"],
        &expect![[r#"
            error: unexpected argument '--bnary' found

              tip: a similar argument exists: '--binary'

            Usage: queen --binary <PROGRAM> [-- <ARGS>...]

            For more information, try '--help'.
            status 2
        "#]],
    );
    expect_queen(
        &place,
        &["jobs"],
        &expect![[r#"
        error: the following required arguments were not provided:
          --king-address <HOST:PORT>

        Usage: queen jobs --king-address <HOST:PORT>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--timeout", "soon"],
        &expect![[r#"
        error: invalid value 'soon' for '--timeout <DURATION>': it must be a number with a unit (ms, s, min, h, days), such as 30s, 5min or 2h 30min

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--weight", "0"],
        &expect![[r#"
        error: invalid value '0' for '--weight <N>': it must be a whole number from 1 to 1000

        For more information, try '--help'.
        status 2
    "#]],
    );
}

#[test]
fn a_program_is_named_with_its_flag() {
    let place = Place::default();
    expect_queen(
        &place,
        &[],
        &expect![[r#"
        error: no program is named; --binary names it: queen --binary prog.wasm --input input --output output

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["summer.wasm"],
        &expect![[r#"
        error: a program is named with --binary: queen --binary summer.wasm

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["run", "--local", "summer.wasm"],
        &expect![[r#"
        error: there is no `queen run`; a program is named with --binary: queen --binary summer.wasm

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["chek", "summer.wasm"],
        &expect![[r#"
        error: there is no `queen chek`; did you mean `queen check`?

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["something"],
        &expect![[r#"
        error: unexpected argument 'something' found

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
}

#[test]
fn a_flag_that_contradicts_another_is_refused() {
    let place = Place::default();
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--input", "a", "--input", "b"],
        &expect![[r#"
            error: the argument '--input <DIR|FILE|->' cannot be used multiple times

            Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
                   queen [OPTIONS] <COMMAND>

            For more information, try '--help'.
            status 2
        "#]],
    );
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--local", "--king-address", "king"],
        &expect![[r#"
        error: --local runs the job on this machine, and cannot be used with --king-address

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
}

#[test]
fn labels_that_no_duke_can_have_are_refused() {
    let place = Place::default();
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--require", "zone=eu"],
        &expect![[r#"
        error: --require needs a king; --king-address names one

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--local", "--require", "zone=eu"],
        &expect![[r#"
        error: --require needs a king, and --local takes none

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--king-address", "king", "--require", "zone=eu", "--require", "zone=us"],
        &expect![[r#"
        error: --require zone=eu and --require zone=us: no duke has both

        Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
               queen [OPTIONS] <COMMAND>

        For more information, try '--help'.
        status 2
    "#]],
    );
}

#[test]
fn a_wrong_size_and_an_unknown_page_are_answered_by_right_ones() {
    let place = Place::default();
    expect_queen(
        &place,
        &["--binary", "x.wasm", "--min-ram", "8 gigs"],
        &expect![[r#"
        error: invalid value '8 gigs' for '--min-ram <SIZE>': it must be a size of at most 256T, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576 bytes)

        For more information, try '--help'.
        status 2
    "#]],
    );
    expect_queen(
        &place,
        &["help", "failure"],
        &expect![[r#"
            error: there is no help on `failure`; there is help on failures, admin, cancel, pull, kinds, outputs, programs, new, jobs, job, dukes, check, push

            Usage: queen [OPTIONS] --binary <PROGRAM> [-- <ARGS>...]
                   queen [OPTIONS] <COMMAND>

            For more information, try '--help'.
            status 2
        "#]],
    );
}

#[test]
fn a_king_is_told_what_an_address_is() {
    let place = Place::default();
    let king = |address: &str, expected: &Expect| {
        let finished = Finished::of(place.command("king").args(["--listen", address]));
        expected.assert_eq(&screen(&place, &finished));
    };
    king(
        "localhost",
        &expect![[r#"
        error: invalid value 'localhost' for '--listen <ADDRESS[:PORT]>': it must be an IP address and a port, such as 127.0.0.1:1900 (this machine only) or 0.0.0.0:1900 (every machine that can reach this one)

        For more information, try '--help'.
        status 2
    "#]],
    );
    king(
        "::1:1900",
        &expect![[r#"
        error: invalid value '::1:1900' for '--listen <ADDRESS[:PORT]>': ::1:1900 may be read in two ways: write [::1]:1900 for port 1900, or [::1:1900] for the address

        For more information, try '--help'.
        status 2
    "#]],
    );
}

#[test]
fn a_check_describes_a_program() {
    let place = Place::default();
    place.write("input", "20 + 22");
    let input = place.input().join("input").display().to_string();
    let check = |name: &str, args: &[&str], expected: &Expect| {
        let mut command = place.command("queen");
        command.arg("check").arg(guest(name)).args(args);
        expected.assert_eq(&screen(&place, &Finished::of(&mut command)));
    };
    check(
        "summer.wasm",
        &["--input", &input],
        &expect![[r#"
        EXAMPLES/summer.wasm: ProcessStdio, one instance for many units
          exports   memory, ProcessStdio, _initialize
          imports   wasi_snapshot_preview1: environ_get, environ_sizes_get, fd_read, fd_write, proc_exit (all there)
          memory    1088 KiB at the start; may grow to 1 GiB, which is what it is given
          compiled  in N ms
          ready     in N ms
          answered  7 bytes with 3 bytes in N ms:
        42
        it is not compiled yet: the first job on this machine compiles it, and keeps it
        status 0
    "#]],
    );
    check(
        "trouble.wat",
        &[],
        &expect![[r#"
        GUESTS/trouble.wat: Command, a fresh instance for each unit
          exports   memory, _start
          imports   wasi_snapshot_preview1: fd_read, fd_write, path_open, proc_exit (all there)
          memory    128 KiB at the start; may grow to 1 GiB, which is what it is given
          compiled  in N ms
          ready     in N ms
        it is not compiled yet: the first job on this machine compiles it, and keeps it
        status 0
    "#]],
    );
    check(
        "loop.wat",
        &["--timeout", "200ms", "--input", &input],
        &expect![[r#"
        GUESTS/loop.wat: Command, a fresh instance for each unit
          exports   memory, _start
          imports   wasi_snapshot_preview1: fd_read, fd_write (all there)
          memory    64 KiB at the start; may grow to 1 GiB, which is what it is given
          compiled  in N ms
          ready     in N ms
          answered  7 bytes with 7 bytes in N ms:
        20 + 22
        it is not compiled yet: the first job on this machine compiles it, and keeps it
        status 0
    "#]],
    );
}

#[test]
fn a_king_lists_its_jobs() {
    let place = Place::default();
    let king = place.king();
    let jobs = |expected: &Expect| expect_queen(&place, &["jobs", "--king-address", &king.address], expected);
    jobs(&expect![[r#"
        no jobs, 0 dukes
        status 0
    "#]]);
    place.write_sums(3);
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--project", "sums"]);
    queen.expect_log("there is no duke");
    king.expect_metric("distwasm_units{state=\"waiting\"}", |units| units == 3);
    let listed = Finished::of(place.command("queen").args(["jobs", "--king-address", &king.address]));
    let job = listed.stdout.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap().to_owned();
    let expected = expect![[r#"
        JOB            PROJECT              SLOTS  WAITING  RUNNING     DONE   FAILED  WAITS FOR
        JOB    sums                     0        3        0        0        0  there is no duke; start one with `duke --king-address ...`
        status 0
    "#]];
    expected.assert_eq(&screen(&place, &listed).replace(&job, "JOB"));
}
