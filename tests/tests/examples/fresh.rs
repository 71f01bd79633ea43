//! Checks that no committed program is older than its sources, and that a fresh build gives the same answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::PathBuf,
    process::Command,
};

use distwasm_tests::real::root;
use sha2::{Digest, Sha256};

use crate::run::{answers, files, skipped};

const REBUILD: &str = "run scripts/build-examples, and commit its changes";

/// Endings of sources and programs.
const ENDINGS: [&str; 11] = ["rs", "toml", "lock", "wasm", "h", "c", "cc", "zig", "ts", "json", "wit"];

/// Folders that are not committed, or of languages whose programs are not committed.
const OTHER_FOLDERS: [&str; 5] = ["target", "node_modules", "go", "python", "javascript"];

/// The digests that `scripts/build-examples` wrote: list, digest, path.
fn digests() -> Vec<(String, String, String)> {
    let mut digests = Vec::new();
    for (list, text) in files(&root().join("examples/built")) {
        for line in String::from_utf8(text).unwrap().lines() {
            let (digest, path) = line.split_once("  ").unwrap();
            digests.push((list.clone(), digest.to_owned(), path.to_owned()));
        }
    }
    digests
}

#[test]
fn no_program_is_older_than_its_sources() {
    for (list, digest, path) in digests() {
        let content = fs::read(root().join(&path)).unwrap_or_default();
        let mut hex = String::new();
        for byte in Sha256::digest(content) {
            write!(hex, "{byte:02x}").unwrap();
        }
        assert_eq!(hex, digest, "examples/built/{list} does not fit {path}: {REBUILD}");
    }
}

#[test]
fn every_source_and_every_program_is_in_a_list() {
    let mut present = BTreeSet::new();
    let mut folders = vec![PathBuf::from("guest"), PathBuf::from("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.extend((!OTHER_FOLDERS.iter().any(|other| path.ends_with(other))).then_some(path));
            } else if path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known)) {
                present.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    let listed: BTreeSet<String> = digests().into_iter().map(|(_, _, path)| path).collect();
    assert_eq!(present, listed, "{REBUILD}");
}

#[test]
fn the_programs_are_small() {
    for (_, _, path) in digests() {
        let size = fs::metadata(root().join(&path)).unwrap().len();
        assert!(size < 200 << 10, "{path} has {size} bytes");
    }
}

#[test]
fn a_fresh_build_gives_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut build = Command::new(root().join("scripts/build-examples"));
    let built = build.arg("--output").arg(folder.path()).arg("rust").output().unwrap();
    if built.status.code() == Some(3) {
        skipped("no Rust here compiles for WebAssembly; rustup target add wasm32-wasip1 installs what is missing");
        return;
    }
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for (name, inputs) in [
        ("summer", &["1 + 2\n", "-7 + 3", "1++2", "", "1 + ", "one + two", "1 + 2 + 3", "99999999999 + 1"][..]),
        ("wordcount", &["", "one", "one two\n", "\n\n"]),
        ("hash", &["0 3", "1 3", "", "1", "1 x", "1 65"]),
    ] {
        let inputs = inputs.iter().map(|input| (format!("({})", input.trim()), input.as_bytes().to_vec()));
        let inputs: BTreeMap<String, Vec<u8>> = inputs.collect();
        for program in [format!("{name}/{name}.wasm"), format!("{name}/{name}-command.wasm")] {
            let kept = answers(&root().join("examples").join(&program), &inputs, &[]);
            assert_eq!(kept, answers(&folder.path().join(&program), &inputs, &[]), "{program}: {REBUILD}");
        }
    }
}
