//! Runs a program over inputs with a queen, and returns the answer or the failure of each.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use distwasm_tests::real::{Place, root};

/// For each input, by name: the answer, or why there is none.
pub type Answers = BTreeMap<String, Result<Vec<u8>, String>>;

/// The files of a folder by their names.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// The answers of a program, run with these arguments of the queen.
pub fn answers(program: &Path, inputs: &BTreeMap<String, Vec<u8>>, args: &[&str]) -> Answers {
    let place = Place::default();
    for (name, input) in inputs {
        place.write(name, input);
    }
    let finished = place.queen(program, args);
    let done = place.outputs().into_iter().map(|(path, output)| (path.to_str().unwrap().to_owned(), Ok(output)));
    let mut answers: Answers = done.collect();
    let failures = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap_or_default();
    for line in failures.lines() {
        let failure: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| failure[key].as_str().unwrap().to_owned();
        answers.insert(text("input"), Err(text("reason")));
    }
    assert_eq!(answers.len(), inputs.len(), "{}: {}", program.display(), finished.stderr);
    answers
}

/// The path of a program below `examples`, if it is built. If not, prints how to build it.
pub fn built(path: &str, language: &str) -> Option<PathBuf> {
    let program = root().join("examples").join(path);
    if !program.is_file() {
        skipped(&format!("{path} is not built; scripts/build-examples {language} builds it"));
        return None;
    }
    Some(program)
}

/// The folder where `scripts/build-examples` keeps programs that are not committed.
pub fn cache() -> PathBuf {
    let folder = |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    folder("DISTWASM_EXAMPLES_CACHE").unwrap_or_else(|| {
        let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        caches.unwrap_or_default().join("distwasm-examples")
    })
}

/// Prints that a test was skipped. Bypasses the test runner's capture, so that it shows although the test passes.
pub fn skipped(why: &str) {
    std::io::stderr().write_all(format!("\n==== SKIPPED: {why}\n").as_bytes()).unwrap();
}
