//! What a guest is given besides its unit: its stack, its name; and what it is told when it prints where it should not.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod talk;

use distwasm_proto::failure::FailureKind;
use talk::Peasant;

/// A command that calls itself as often as its input has bytes, in the thousands. Each call has some numbers to keep.
fn recursive() -> Vec<u8> {
    br#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $deep (param $n i32) (param i64 i64 i64 i64 i64 i64) (result i64)
    (if (i32.eqz (local.get $n)) (then (return (i64.const 0))))
    (i64.add (i64.add (local.get 1) (local.get 6))
      (call $deep (i32.sub (local.get $n) (i32.const 1))
        (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6) (local.get 1))))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $deep (i32.mul (i32.const 1000) (i32.load (i32.const 8)))
      (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4) (i64.const 5) (i64.const 6)))))"#
        .to_vec()
}

/// A component of our world that calls itself as often as its input has bytes, in the thousands.
fn recursive_component() -> Vec<u8> {
    br#"(component
  (core module $m
    (memory (export "memory") 16)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func $deep (param $n i32) (param i64 i64) (result i64)
      (if (i32.eqz (local.get $n)) (then (return (i64.const 0))))
      (i64.add (local.get 1) (call $deep (i32.sub (local.get $n) (i32.const 1)) (local.get 2) (local.get 1))))
    (func (export "answer") (param i32 i32) (result i32)
      (drop (call $deep (i32.mul (i32.const 1000) (local.get 1)) (i64.const 1) (i64.const 2)))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func (export "answer") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "answer") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
        .to_vec()
}

#[test]
fn a_program_may_have_a_deeper_stack() {
    for program in [recursive(), recursive_component()] {
        let deepest = |flags: &[&str], thousands: usize| {
            let mut peasant = Peasant::start(program.clone(), flags);
            let deep = peasant.ask(&vec![b'x'; thousands]);
            assert_eq!(peasant.ask(b"x"), Ok(Vec::new()), "it goes on");
            peasant.ends_well();
            deep
        };
        let failure = deepest(&[], 300).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Trap);
        let wanted = "recursed deeper than its stack of 1 MiB allows (--stack gives it more)";
        assert!(failure.message.starts_with(wanted), "{}", failure.message);
        assert_eq!(deepest(&["--stack=64MB"], 300), Ok(Vec::new()));
        let failure = deepest(&["--stack=256KB"], 300).unwrap_err();
        assert!(failure.message.contains("its stack of 256 KiB"), "{}", failure.message);
        // To the end of the largest stack: a trap, and not a crash.
        let failure = deepest(&["--stack=64MB"], 20_000).unwrap_err();
        assert!(failure.message.contains("its stack of 64 MiB"), "{}", failure.message);
    }
}

#[test]
fn a_guest_has_the_name_that_it_is_given() {
    let program = br#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    (i32.store (i32.const 0) (i32.const 4096))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    for (flags, args) in [
        (&["--", "-x"][..], &b"program\0-x\0"[..]),
        (&["--argv0=jq.wasm", "--", "-x"], b"jq.wasm\0-x\0"),
        (&["--argv0=--"], b"--\0"),
    ] {
        let mut peasant = Peasant::start(program.to_vec(), flags);
        assert_eq!(peasant.ask(b""), Ok(args.to_vec()), "{flags:?}");
        peasant.ends_well();
    }
}

#[test]
fn text_on_stdout_is_told_from_an_answer() {
    // It writes its input to stdout as it is.
    let program = br#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "ProcessStdio") (param i32)
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (local.get 0))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let mut peasant = Peasant::start(program.to_vec(), &[]);
    for (output, message) in [
        (
            &b"line 1\n"[..],
            "wrote text to stdout, which begins with `line`: stdout is for the answer alone, its length in 4 bytes and then \
             its bytes; print to stderr instead (eprintln!, console.error)",
        ),
        (b"ok\n\x01\0\0\0x", "claims an answer of "),
        (b"\x64\0\0\0x", "claims an answer of 100 bytes, but wrote 1 after the length"),
    ] {
        let failure = peasant.ask(output).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Answer);
        assert!(failure.message.starts_with(message), "{}", failure.message);
    }
    peasant.ends_well();
}
