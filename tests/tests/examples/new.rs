//! What `queen new` writes: built with the compilers that `scripts/build-examples` installed, and run.

use std::{env, fs, os::unix::fs::symlink, process::Command};

use distwasm_tests::real::{Finished, Place};

use crate::run::{cache, skipped};

/// Each language, what must be in the cache to build it, and the name by which `scripts/build-examples` installs that.
const COMPILERS: [(&str, &str, &str); 8] = [
    ("c", "python/bin/python-zig", "c"),
    ("c++", "python/bin/python-zig", "cpp"),
    ("zig", "python/bin/python-zig", "zig"),
    ("go", "python/bin/go", "go"),
    ("python", "python/bin/componentize-py", "python"),
    ("assemblyscript", "assemblyscript/node_modules/assemblyscript", "assemblyscript"),
    ("javascript", "javascript/node_modules/@bytecodealliance/componentize-js", "javascript"),
    ("typescript", "javascript/node_modules/typescript", "javascript"),
];

/// Builds and runs a new program by the three lines that `queen new` prints.
fn expect_words(lang: &str) {
    let (_, compiler, installed_by) = COMPILERS.into_iter().find(|(known, ..)| *known == lang).unwrap();
    if !cache().join(compiler).exists() {
        skipped(&format!("no compiler for {lang}; scripts/build-examples {installed_by} installs it"));
        return;
    }
    let place = Place::default();
    let run = |command: &mut Command| {
        let path = format!("{}:{}", cache().join("python/bin").display(), env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("GOCACHE", cache().join("go")).env("ZIG_GLOBAL_CACHE_DIR", cache().join("zig"));
        Finished::of(command.current_dir(place.path()))
    };
    let made = run(place.command("queen").args(["new", "--lang", lang, "words"]));
    made.expect(0, &["wrote words"]);
    let folder = place.path().join("words");
    if let Some((packages, _)) = compiler.split_once("/node_modules/") {
        // Otherwise its script would fetch them.
        symlink(cache().join(packages).join("node_modules"), folder.join("node_modules")).unwrap();
    }
    fs::write(folder.join("input/nothing"), " \n").unwrap();
    let finished = run(place.command("/bin/sh").args(["-euc", &made.stdout]));
    finished.expect(1, &["2 done, 0 skipped", "1 failed", "there is no word in it"]);
    assert_eq!(fs::read_to_string(folder.join("output/greeting")).unwrap(), "2 words\n");
    assert_eq!(fs::read_to_string(folder.join("output/poem")).unwrap(), "15 words\n");
}

#[test]
fn a_new_program_in_c_runs() {
    expect_words("c");
}

#[test]
fn a_new_program_in_cpp_runs() {
    expect_words("c++");
}

#[test]
fn a_new_program_in_zig_runs() {
    expect_words("zig");
}

#[test]
fn a_new_program_in_go_runs() {
    expect_words("go");
}

#[test]
fn a_new_program_in_python_runs() {
    expect_words("python");
}

#[test]
fn a_new_program_in_assemblyscript_runs() {
    expect_words("assemblyscript");
}

#[test]
fn a_new_program_in_javascript_runs() {
    expect_words("javascript");
}

#[test]
fn a_new_program_in_typescript_runs() {
    expect_words("typescript");
}
