//! Files that are not programs: each is reported as what it is, and no input makes the compiler panic or hang.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its expectation does")]

mod talk;

use distwasm_peasant::guest::Grants;
use distwasm_peasant::program::Program;
use distwasm_peasant::serving::{self, Framing, Intake, ProgramSource, ServeError};
use talk::{frame, guest};

/// Why `bytes` cannot run.
fn refusal(bytes: &[u8]) -> String {
    refusal_of_call(bytes, None)
}

/// Why `bytes` cannot run with `--call`.
fn refusal_of_call(bytes: &[u8], call: Option<&str>) -> String {
    let grants = Grants { call: call.map(str::to_owned), ..Grants::default() };
    Program::compile(bytes, &grants).err().map(|unfit| unfit.to_string()).expect("the file to be refused")
}

#[test]
fn wrong_files_are_reported_as_what_they_are() {
    let table: [(&[u8], &str); 16] = [
        (b"", "not a WebAssembly program: it is empty"),
        (b"\x7fELF\x02\x01\x01", "it is an ELF executable"),
        (b"\x1f\x8b\x08\0", "it is a gzip file"),
        (b"PK\x03\x04\x14", "it is a zip file"),
        (b"\x89PNG\r\n\x1a\n\0", "it is a PNG picture"),
        (b"MZ\x90\0", "it is a Windows executable"),
        (b"\xcf\xfa\xed\xfe\x07", "it is a Mach-O executable"),
        (b"#!/bin/sh\necho hi\n", "it is a shell script"),
        (b"<!DOCTYPE html><html>", "it is a page of HTML"),
        (b"\x01\x02\x03\xff\xfe", "it is a binary file that begins with 01 02 03 ff fe"),
        (b"hello world", "it is text, but not WebAssembly's text format"),
        (b"(module (func (export \"_start\") i32.add))", "not valid WebAssembly"),
        (b"(module (func (export \"_start\") oops))", "unknown operator or unexpected token"),
        (b"(component)", "exports neither `answer` nor `wasi:cli/run@0.2`; found: nothing"),
        (b"\0asm\x0d\0\x01\0", "exports neither `answer` nor `wasi:cli/run@0.2`; found: nothing"),
        (b"\0asm\x07\0\0\0", "not valid WebAssembly"),
    ];
    for (bytes, text) in table {
        let refusal = refusal(bytes);
        assert!(refusal.contains(text), "{:?}: {refusal}", String::from_utf8_lossy(bytes));
    }
    assert!(refusal(b"(module\n  (func (export \"_start\") oops))").contains(":2:"), "the place of the error is shown");
}

#[test]
fn wrong_exports_are_reported() {
    for (text, message) in [
        ("(module (memory (export \"ProcessStdio\") 1))", "exports `ProcessStdio`, but not as a function"),
        (
            "(module (func (export \"_start\") (param i32)))",
            "exports `_start` with the signature (i32), which must be ()",
        ),
        (
            "(module (func (export \"_initialize\") (result f32) f32.const 0) (func (export \"ProcessStdio\") (param i32)))",
            "exports `_initialize` with the signature () -> f32, which must be ()",
        ),
        ("(module)", "exports neither `ProcessStdio` nor `_start`; found: nothing"),
        (
            "(module (import \"wasi_snapshot_preview1\" \"fd_close\" (func (param f64))) (func (export \"_start\")))",
            "imports something as what it is not",
        ),
        (
            "(module (import \"env\" \"memory\" (memory 1)) (func (export \"_start\")))",
            "imports `env.memory`, which does not exist here",
        ),
    ] {
        let refusal = refusal(text.as_bytes());
        assert!(refusal.contains(message), "{text}: {refusal}");
    }
}

#[test]
fn an_export_that_cannot_be_called_is_reported() {
    let module = guest("call.wat");
    let component = guest("component-call.wat");
    for (program, name, message) in [
        (&module, "nothing", "exports no `nothing` to call; functions that it exports: `add`, `div`"),
        (&module, "number", "exports `number`, but not as a function"),
        (&module, "vector", "exports `vector` with the signature (v128); only i32, i64, f32 and f64 can be written"),
        (&component, "nothing", "exports no `nothing` to call; found: "),
        (&component, "x#greet", "exports no interface `x`; found: `test:greeter/greeter@1.0.0#greet`"),
        (&component, "test:greeter/greeter@1.0.0", "but not as a function; one within an interface is called by"),
    ] {
        let refusal = refusal_of_call(program, Some(name));
        assert!(refusal.contains(message), "{name}: {refusal}");
    }
}

#[test]
fn a_module_is_refused_wherever_it_is_cut() {
    // Without names and data: their sections stand last, and a module without them is still valid.
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (memory (export "memory") 1)
        (table 1 funcref)
        (elem (i32.const 0) 0)
        (func (export "_start") (if (i32.load (i32.const 5)) (then (call 0 (i32.const 3))))))"#;
    let whole = wat::parse_str(text).unwrap();
    assert!(Program::compile(&whole, &Grants::default()).is_ok());
    for cut in 1..whole.len() {
        assert!(!refusal(&whole[..cut]).is_empty(), "cut at {cut}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = fastrand::Rng::with_seed(2);
    let grants = || Grants { memory_bytes_max: 1 << 24, output_bytes_max: 1 << 20, ..Grants::default() };
    for name in ["upper.wat", "count.wat", "trouble.wat", "component-upper.wat", "component-echo.wat"] {
        let whole = binary(name);
        for round in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u32(..8);
            }
            // A program that still compiles is only initialised: without a timeout, a flipped loop could run without
            // end.
            let mut answers = Vec::new();
            let intake = Ok(Intake { source: ProgramSource::FirstFrame, grants: grants() });
            let ended = serving::serve(intake, Framing::Inputs, &frame(&bytes)[..], &mut answers, None);
            match ended {
                Ok(()) => assert_eq!(answers, [0; 4], "{name}, round {round}"),
                Err(ServeError::Program(reason)) => assert!(!reason.is_empty(), "{name}, round {round}"),
                Err(error) => panic!("{name}, round {round}: {error:?}"),
            }
        }
    }
}

/// The guest in binary form.
fn binary(name: &str) -> Vec<u8> {
    wat::parse_bytes(&guest(name)).unwrap().into_owned()
}
