//! Checks that no lint can do: each file says what it is for, and none is too long to be read.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use distwasm_tests::real::root;

/// The longest a source file may be.
const LINES_MAX: usize = 500;

/// Words that mark unfinished work.
const UNFINISHED: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// Words for people. Every process is "it".
const PEOPLE: [&str; 8] = ["he", "she", "him", "his", "her", "hers", "himself", "herself"];

fn sources() -> Vec<PathBuf> {
    let folders = [
        "proto",
        "transport",
        "process",
        "store",
        "king",
        "duke",
        "peasant",
        "jobs",
        "queen",
        "guest",
        "tests",
        "bench",
        "examples",
    ];
    files_of(&folders, "rs")
}

/// All files in these folders that end in this.
fn files_of(folders: &[&str], ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                files.push(path);
            }
        }
    }
    files
}

fn complaints(check: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let complain = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        check(path, &text).map(|complaint| format!("{}: {complaint}", path.display()))
    };
    sources().iter().filter_map(complain).collect()
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let found =
        complaints(|_, text| (!text.starts_with("//! ")).then(|| "does not open with what it is for".to_owned()));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let found = complaints(|_, text| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("has {lines} lines"))
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn nothing_is_left_unfinished() {
    let found = complaints(|path, text| {
        let word = UNFINISHED.iter().find(|word| text.contains(*word))?;
        (!path.ends_with("tests/tests/tidy.rs")).then(|| format!("says {word}"))
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_process_is_it() {
    let mut files = sources();
    files.extend(files_of(&["docs", "examples", "queen/templates", "bench/results"], "md"));
    files.extend(["README.md", "ARCHITECTURE.md"].map(|name| root().join(name)));
    let mut found = Vec::new();
    for path in files.iter().filter(|path| !path.ends_with("tests/tests/tidy.rs")) {
        let text = fs::read_to_string(path).unwrap().to_lowercase();
        let words = text.split(|letter: char| !letter.is_alphabetic());
        found.extend(words.filter(|word| PEOPLE.contains(word)).map(|word| format!("{}: {word}", path.display())));
    }
    assert_eq!(found, Vec::<String>::new());
}

/// A reactor and its borders run in the simulation: only the loop that drives a reactor may wait or look at the clock.
#[test]
fn reactors_wait_for_nothing() {
    let found = complaints(|path, text| {
        let path = path.to_string_lossy();
        let sync = ["king/src/reactor/", "king/src/border/", "duke/src/reactor/", "duke/src/border.rs"];
        let is_sync = sync.iter().any(|sync| path.contains(sync)) && !path.ends_with("run.rs");
        let word = ["async ", "Instant", "SystemTime", "Clock", "std::fs", "spawn"];
        let word = word.iter().find(|word| text.contains(*word))?;
        is_sync.then(|| format!("is to wait for nothing, and says {word}"))
    });
    assert_eq!(found, Vec::<String>::new());
}

/// Pure code stays pure: no clock, no I/O, no async, no maps whose order differs from run to run.
#[test]
fn the_pure_parts_are_pure() {
    let pure = [
        "king/src/scheduler",
        "duke/src/roster",
        "duke/src/cache/supplies.rs",
        "jobs/src/submission.rs",
        "jobs/src/inputs/plan.rs",
        "jobs/src/inputs/numbers.rs",
        "jobs/src/king_link/border.rs",
        "jobs/src/king_link/words.rs",
        "jobs/src/reactor",
    ];
    let impure =
        ["tokio", "async ", "std::fs", "Instant", "SystemTime", "HashMap", "HashSet", "fastrand", "tracing", "Mutex"];
    let found = complaints(|path, text| {
        let is_pure = pure.iter().any(|pure| path.to_string_lossy().contains(pure));
        let word = impure.iter().find(|word| text.contains(*word))?;
        is_pure.then(|| format!("is to be pure, and says {word}"))
    });
    assert_eq!(found, Vec::<String>::new());
}
