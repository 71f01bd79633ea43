//! Conversations with the real program through pipes, as its duke has them.

mod talk;

use distwasm_proto::{failure::FailureKind, limits::STDERR_BYTES_MAX};
use talk::{Peasant, guest};

#[test]
fn a_kept_instance_answers_inputs_of_any_size() {
    let mut peasant = Peasant::start(guest("upper.wat"), &[]);
    assert_eq!(peasant.ask(b"Hello {World} `az` \xe4"), Ok(b"HELLO {WORLD} `AZ` \xe4".to_vec()));
    assert_eq!(peasant.ask(b""), Ok(Vec::new()));
    for size in [1, 15, 16, 17, 65_535, 65_536, 200_000, 20 << 20] {
        let input: Vec<u8> = (0..size).map(|i| b'a' + (i % 26) as u8).collect();
        assert!(peasant.ask(&input) == Ok(input.to_ascii_uppercase()), "{size} bytes");
    }
    peasant.ends_well();
}

#[test]
fn commands_get_a_fresh_instance_for_each_unit() {
    let mut peasant = Peasant::start(guest("echo.wat"), &[]);
    for size in [0, 1, 61_440, 61_441, 5 << 20] {
        let input = vec![b'x'; size];
        assert!(peasant.ask(&input) == Ok(input), "{size} bytes");
    }
    peasant.ends_well();
}

#[test]
fn many_inputs_at_once_are_answered_in_order() {
    for name in ["upper.wat", "echo.wat"] {
        let mut peasant = Peasant::start(guest(name), &[]);
        let inputs: Vec<Vec<u8>> = (0..3000).map(|i| format!("#{i}").into_bytes()).collect();
        peasant.send_all(&inputs);
        for input in inputs {
            assert_eq!(peasant.receive(), Ok(input));
        }
        peasant.ends_well();
    }
}

#[test]
fn state_lives_from_unit_to_unit_until_a_failure() {
    let mut peasant = Peasant::start(guest("count.wat"), &[]);
    assert_eq!(peasant.ask(b""), Ok(vec![1]));
    assert_eq!(peasant.ask(b""), Ok(vec![2]));
    let failure = peasant.ask(b"!").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Trap);
    assert_eq!(peasant.ask(b""), Ok(vec![1]), "a fresh instance, initialised again");
    peasant.ends_well();
}

#[test]
fn every_end_of_a_command_has_its_verdict() {
    let mut peasant = Peasant::start(guest("trouble.wat"), &["--memory-bytes", "67108864"]);
    let expect: [(&[u8], FailureKind, &str); 7] = [
        (b"x", FailureKind::Exit, "exited with status 3"),
        (b"o", FailureKind::Exit, "exited with status 4: last words"),
        (b"t", FailureKind::Trap, "wasm `unreachable` instruction executed"),
        (b"r", FailureKind::Trap, "recursed deeper than its stack of 1 MiB allows"),
        (b"m", FailureKind::Memory, "wanted more than 64 MiB of memory, which is what its slot has"),
        (b"e", FailureKind::Exit, "exited with status 1"),
        (b"a", FailureKind::LongAnswer, "answer is longer than 67108864 bytes"),
    ];
    for (input, kind, message) in expect {
        let failure = peasant.ask(input).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.starts_with(message), "{failure:?}");
        assert_eq!(peasant.ask(b"f"), Ok(b"fine".to_vec()), "after {message}");
    }
    assert_eq!(peasant.ask(b"0"), Ok(b"some output".to_vec()), "exit status 0 is not a failure");
    // FAULT, FAULT, FAULT, FAULT, BADF, NOENT.
    assert_eq!(peasant.ask(b"p"), Ok(vec![21, 21, 21, 21, 8, 44]));
    peasant.ends_well();
}

#[test]
fn stderr_is_kept_at_both_ends() {
    let mut peasant = Peasant::start(guest("trouble.wat"), &[]);
    assert_eq!(peasant.ask(b"o").unwrap_err().stderr, b"last words\n");
    let stderr = peasant.ask(b"e").unwrap_err().stderr;
    assert!(stderr.len() <= STDERR_BYTES_MAX);
    assert!(stderr.starts_with(b"last words\n"));
    let note = format!("[... {} bytes left out ...]", (4 << 20) - 65_536);
    assert!(stderr.windows(note.len()).any(|part| part == note.as_bytes()), "{note}");
    peasant.ends_well();
}

#[test]
fn answers_that_break_the_abi_are_reported_with_numbers() {
    let mut peasant = Peasant::start(guest("answers.wat"), &[]);
    let expect: [(&[u8], FailureKind, &str); 7] = [
        (b"n", FailureKind::Answer, "wrote 0 bytes to stdout, where the answer's length alone takes 4"),
        (b"s", FailureKind::Answer, "wrote 2 bytes to stdout, where the answer's length alone takes 4"),
        (b"g", FailureKind::Answer, "wrote text to stdout, which begins with `Hell`: stdout is for the answer alone"),
        (b"c", FailureKind::Answer, "claims an answer of 100 bytes, but wrote 4 after the length"),
        (b"l", FailureKind::Answer, "claims an answer of 2 bytes, but wrote 4 after the length"),
        (b"z", FailureKind::Answer, "exited with status 0 and wrote 0 bytes to stdout"),
        (b"x", FailureKind::Exit, "exited with status 7"),
    ];
    for (input, kind, message) in expect {
        let failure = peasant.ask(input).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.starts_with(message), "{failure:?}");
        assert_eq!(peasant.ask(b"f"), Ok(b"good".to_vec()), "after {message}");
    }
    assert_eq!(peasant.ask(b"y"), Ok(b"good".to_vec()), "an answer before exit status 0 counts");
    assert_eq!(peasant.ask(b""), Ok(b"good".to_vec()));
    peasant.ends_well();
}

#[test]
fn an_answer_of_100_mib_goes_through_or_is_too_long() {
    let mut peasant = Peasant::start(guest("big.wat"), &[]);
    for _ in 0..2 {
        assert!(peasant.ask(b"") == Ok(vec![b'x'; 100 << 20]));
    }
    peasant.ends_well();
    let mut peasant = Peasant::start(guest("big.wat"), &["--answer-bytes", "104857599"]);
    assert_eq!(peasant.ask(b"").unwrap_err().kind, FailureKind::LongAnswer);
    peasant.ends_well();
    let mut peasant = Peasant::start(guest("big.wat"), &["--answer-bytes", "104857600"]);
    assert!(peasant.ask(b"").is_ok());
    peasant.ends_well();
}

#[test]
fn clocks_randomness_and_arguments_work_in_the_closed_sandbox() {
    let mut peasant = Peasant::start(guest("clocks.wat"), &["--", "one", "--two"]);
    // Five calls without error, one event with the user data 5, three arguments, no environment.
    assert_eq!(peasant.ask(b""), Ok(vec![0, 0, 0, 0, 1, 5, 3, 0]));
    peasant.ends_well();
}

#[test]
fn a_guest_that_hangs_hangs_only_its_own_unit() {
    let mut peasant = Peasant::start(guest("loop.wat"), &[]);
    assert_eq!(peasant.ask(b"fast"), Ok(b"fast".to_vec()));
    peasant.send_all(&[b"slow".to_vec()]);
    assert_eq!(peasant.receive(), Ok(b"slow".to_vec()));
    peasant.send_all(&[b"loop".to_vec()]);
    // The duke keeps the timeout and kills the peasant.
    peasant.kill();
}

#[test]
fn programs_that_cannot_run_say_why_instead_of_ready() {
    let expect = [
        (
            "unfit-import.wat",
            "imports `env.foo`, `wasi_snapshot_preview1.fd_dance`, which do not exist here: guests get WASI preview 1 only",
        ),
        ("unfit-signature.wat", "exports `ProcessStdio` with the signature (i64, i32) -> i32, which must be (i32)"),
        ("unfit-exports.wat", "exports neither `ProcessStdio` nor `_start`; found: `memory`, `main`"),
        ("unfit-init.wat", "cannot be initialised: wasm `unreachable` instruction executed"),
        ("unfit-memory.wat", "cannot be initialised: wanted more than 64 MiB of memory, which is what its slot has"),
    ];
    for (name, message) in expect {
        let (failure, status) = Peasant::fails_to_start(guest(name), &["--memory-bytes", "67108864"]);
        assert_eq!((failure.kind, status), (FailureKind::Program, Some(2)), "{failure:?}");
        assert!(failure.message.starts_with(message), "{name}: {failure:?}");
    }
}

#[test]
fn a_program_with_128_mib_runs_where_it_may() {
    let mut peasant = Peasant::start(guest("unfit-memory.wat"), &["--memory-bytes", "134217728"]);
    assert_eq!(peasant.ask(b""), Ok(Vec::new()));
    peasant.ends_well();
}
