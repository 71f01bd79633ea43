//! Every program in every language: the expected answers, and clear messages for bad inputs.

use std::{collections::BTreeMap, path::Path};

use distwasm_tests::real::root;

use crate::run::{Answers, answers, built, files};

/// Inputs that summer refuses, each with a part of the text that says why.
const NO_SUMS: &[(&str, &str)] = &[
    ("", "expected `A + B`"),
    ("+ 2", "expected `A + B`"),
    ("1 - 2", "expected `A + B`"),
    ("1 + ", "is not an integer"),
    ("1 + x", "is not an integer"),
    ("1 + 2 + 3", "is not an integer"),
    ("+-1 + 2", "is not an integer"),
    ("170141183460469231731687303715884105727 + 1", "fit"),
    ("1 + 170141183460469231731687303715884105728", "fit"),
    ("-170141183460469231731687303715884105729 + 1", "fit"),
];

/// Inputs that summer also refuses if its integers have 64 bits.
const NO_SUMS_OF_64_BITS: &[(&str, &str)] = &[
    ("9223372036854775807 + 1", "does not fit into 64 bits"),
    ("-9223372036854775808 + -1", "does not fit into 64 bits"),
    ("1 + 9223372036854775808", "does not fit into 64 bits"),
    ("-9223372036854775809 + 1", "does not fit into 64 bits"),
];

/// Sums at the borders, and with odd spaces and signs.
const SUMS: &[(&str, &str)] = &[
    ("9223372036854775807 + 0", "9223372036854775807"),
    ("-9223372036854775808 + 0", "-9223372036854775808"),
    ("-9223372036854775808 + 9223372036854775807", "-1"),
    ("-1+1", "0"),
    ("1++2", "3"),
    ("+1 + +2", "3"),
    ("\t007\n+\r\n8\u{b}\u{c}", "15"),
];

/// Sums that do not fit into 64 bits.
const SUMS_OF_128_BITS: &[(&str, &str)] = &[
    ("9223372036854775807 + 1", "9223372036854775808"),
    ("-170141183460469231731687303715884105728 + 0", "-170141183460469231731687303715884105728"),
    ("170141183460469231731687303715884105727 + -170141183460469231731687303715884105728", "-1"),
];

/// Inputs that hash refuses.
const NO_HASHES: &[(&str, &str)] = &[
    ("", "expected `A difficulty`"),
    ("1", "expected `A difficulty`"),
    ("1 2 3", "expected `A difficulty`"),
    ("one 1", "`one` is not an integer of 64 bits"),
    ("1 1.5", "`1.5` is not an integer of 64 bits"),
    ("1 9223372036854775808", "is not an integer of 64 bits"),
    ("1 -1", "a difficulty of -1 is not between 0 and 64"),
    ("1 65", "a difficulty of 65 is not between 0 and 64"),
];

/// The expected answers of a program: the line, or a part of the message that says why there is none.
struct Expected {
    inputs: BTreeMap<String, Vec<u8>>,
    answers: Answers,
}

impl Expected {
    /// Expects the files in `expected` for those in `input`, except for these.
    fn of_files(example: &str, except: &[&str]) -> Expected {
        let folder = root().join("examples").join(example);
        let mut inputs = files(&folder.join("input"));
        let mut outputs = files(&folder.join("expected"));
        assert!(inputs.keys().eq(outputs.keys()), "{example} has an input without an expected output, or the reverse");
        inputs.retain(|name, _| !except.contains(&name.as_str()));
        outputs.retain(|name, _| !except.contains(&name.as_str()));
        Expected { inputs, answers: outputs.into_iter().map(|(name, output)| (name, Ok(output))).collect() }
    }

    fn and(mut self, lines: &[(&str, &str)]) -> Expected {
        lines.iter().for_each(|(input, line)| self.add(input, Ok(format!("{line}\n").into_bytes())));
        self
    }

    fn but_not(mut self, refused: &[(&str, &str)]) -> Expected {
        refused.iter().for_each(|(input, why)| self.add(input, Err((*why).to_owned())));
        self
    }

    fn add(&mut self, input: &str, answer: Result<Vec<u8>, String>) {
        let name = format!("({})", self.inputs.len());
        self.inputs.insert(name.clone(), input.into());
        self.answers.insert(name, answer);
    }

    /// Runs all inputs together: bad ones must not disturb good ones.
    fn from(&self, program: &Path, args: &[&str]) {
        for (name, answer) in answers(program, &self.inputs, args) {
            let is_expected = match (&answer, &self.answers[&name]) {
                (Ok(answer), Ok(expected)) => answer == expected,
                (Err(error), Err(part)) => error.contains(part),
                _ => false,
            };
            let input = self.inputs[&name].escape_ascii();
            assert!(is_expected, "{}: `{input}` gives {answer:?}", program.display());
        }
    }
}

fn summer_of_128_bits() -> Expected {
    Expected::of_files("summer", &[]).and(SUMS).and(SUMS_OF_128_BITS).but_not(NO_SUMS)
}

fn summer_of_64_bits() -> Expected {
    Expected::of_files("summer", &["large"]).and(SUMS).but_not(NO_SUMS).but_not(NO_SUMS_OF_64_BITS)
}

/// All three programs, as ProcessStdio and as a command, in the subfolder of a language.
fn expect_all(subfolder: &str, language: &str) {
    for (example, expected) in [
        ("summer", summer_of_128_bits()),
        ("wordcount", Expected::of_files("wordcount", &[])),
        ("hash", Expected::of_files("hash", &[]).but_not(NO_HASHES)),
    ] {
        for ending in ["", "-command"] {
            expect_built(&format!("{example}/{subfolder}{example}{ending}.wasm"), language, &expected);
        }
    }
}

fn expect_built(path: &str, language: &str, expected: &Expected) {
    if let Some(program) = built(path, language) {
        expected.from(&program, &[]);
    }
}

#[test]
fn rust() {
    expect_all("", "rust");
}

#[test]
fn c() {
    expect_all("c/", "c");
}

#[test]
fn cpp() {
    for ending in ["", "-command"] {
        expect_built(&format!("summer/cpp/summer{ending}.wasm"), "cpp", &summer_of_128_bits());
    }
}

#[test]
fn zig() {
    for ending in ["", "-command"] {
        expect_built(&format!("summer/zig/summer{ending}.wasm"), "zig", &summer_of_128_bits());
    }
}

#[test]
fn go() {
    expect_all("go/", "go");
}

#[test]
fn assemblyscript() {
    expect_built("summer/assemblyscript/summer.wasm", "assemblyscript", &summer_of_64_bits());
}

#[test]
fn webassembly_text() {
    summer_of_64_bits().from(&root().join("examples/summer/wat/summer.wat"), &[]);
}

#[test]
fn rust_as_a_component() {
    expect_built("summer/component/summer.wasm", "component", &summer_of_128_bits());
}

#[test]
fn python() {
    expect_built("summer/python/summer.wasm", "python", &summer_of_128_bits());
}

#[test]
fn javascript() {
    expect_built("summer/javascript/summer.wasm", "javascript", &summer_of_128_bits());
}

#[test]
fn a_function_of_integers() {
    let program = root().join("examples/hash/hash-call.wasm");
    Expected::of_files("hash", &[]).from(&program, &["--call", "run"]);
}
