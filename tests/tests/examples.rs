//! The compiled example guests: none is older than its sources, and a fresh build answers the same.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use distwasm_peasant::guest::Grants;
use distwasm_peasant::work::{self, Source};
use distwasm_proto::pipe::{self, Header};
use sha2::{Digest, Sha256};

const REBUILD: &str = "run scripts/build-examples, and commit what it changes";

/// The example programs, and inputs for each.
const PROGRAMS: [&str; 2] = ["summer.wasm", "summer-command.wasm"];
const SUMMER_INPUTS: [&str; 8] = ["1 + 2\n", "-7 + 3", "1++2", "", "1 + ", "one + two", "1 + 2 + 3", "99999999999 + 1"];

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn no_program_is_older_than_its_sources() {
    let written = std::fs::read_to_string(root().join("examples/built.txt")).unwrap();
    let then: BTreeMap<String, String> = written
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, path)| (path.to_owned(), digest.to_owned()))
        .collect();
    let mut now = BTreeMap::new();
    for folder in ["guest", "examples"] {
        digest_folder(Path::new(folder), &mut now);
    }
    assert_eq!(now, then, "examples/built.txt does not fit: {REBUILD}");
}

/// The digests of what the examples are built from and of what is built, by path.
fn digest_folder(folder: &Path, digests: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if !path.ends_with("target") {
                digest_folder(&path, digests);
            }
        } else if path.extension().is_some_and(|end| ["rs", "toml", "lock", "wasm"].iter().any(|known| end == *known)) {
            let mut hex = String::new();
            for byte in Sha256::digest(std::fs::read(root().join(&path)).unwrap()) {
                write!(hex, "{byte:02x}").unwrap();
            }
            digests.insert(path.to_str().unwrap().to_owned(), hex);
        }
    }
}

#[test]
fn the_programs_are_small() {
    for name in PROGRAMS {
        let size = std::fs::metadata(root().join("examples/summer").join(name)).unwrap().len();
        assert!(size < 200 << 10, "{name} has {size} bytes");
    }
}

#[test]
fn the_inputs_of_the_example_give_what_is_expected() {
    let folder = root().join("examples/summer");
    for name in PROGRAMS {
        for entry in std::fs::read_dir(folder.join("input")).unwrap() {
            let entry = entry.unwrap();
            let input = std::fs::read(entry.path()).unwrap();
            let expected = std::fs::read(folder.join("expected").join(entry.file_name())).unwrap();
            assert_eq!(answers(&folder.join(name), &[&input]), [Ok(expected)], "{name}: {entry:?}");
        }
    }
}

#[test]
fn a_fresh_build_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let built = Command::new(root().join("scripts/build-examples")).arg(folder.path()).output().unwrap();
    if built.status.code() == Some(3) {
        // No compiler for WebAssembly here.
        return;
    }
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for name in PROGRAMS {
        let inputs = SUMMER_INPUTS.map(str::as_bytes);
        let kept = answers(&root().join("examples/summer").join(name), &inputs);
        assert_eq!(kept, answers(&folder.path().join(name), &inputs), "{name}: {REBUILD}");
        assert_eq!(kept.iter().filter(|answer| answer.is_ok()).count(), 4, "{name}: {kept:?}");
    }
}

/// What a peasant in this process answers with a program to some inputs; of failures, the message.
fn answers(program: &Path, inputs: &[&[u8]]) -> Vec<Result<Vec<u8>, String>> {
    let program = std::fs::read(program).unwrap();
    let mut stdin = Vec::new();
    for body in std::iter::once(program.as_slice()).chain(inputs.iter().copied()) {
        stdin.extend_from_slice(&Header::of_body(body).unwrap().encode());
        stdin.extend_from_slice(body);
    }
    let grants = Grants { args: [].into(), memory_bytes_max: 64 << 20, output_bytes_max: 1 << 20 };
    let mut stdout = Vec::new();
    work::serve(Source::FirstFrame, grants, stdin.as_slice(), &mut stdout, || Ok(())).unwrap();
    let mut rest = stdout.as_slice();
    let mut answers = Vec::new();
    while let Some(frame) = pipe::parse(rest) {
        answers.push(match frame.header.is_failure {
            true => Err(distwasm_proto::failure::Failure::decode(frame.body).message),
            false => Ok(frame.body.to_vec()),
        });
        rest = &rest[frame.header.frame_bytes()..];
    }
    // The first is the word that the program is ready.
    answers.split_off(1)
}
