//! Plants one bug after another into a copy of the cores, and reports which seed finds it.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, reason = "it is a program for the terminal")]

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Output},
};

use clap::Parser;
use distwasm_tests::{planted::bugs, real::root};

/// Plants each bug of `tests/planted/bugs.txt` into a copy of the workspace, and lets the simulation look for it. The
/// exit status is 0 if it finds all of them.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds to try for each
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// Only bugs whose sentences or files contain this
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let root = fs::canonicalize(root()).unwrap();
    let copy = root.join("target/planted");
    for name in ["Cargo.toml", "Cargo.lock", "clippy.toml", "rustfmt.toml"] {
        copy_file(&root.join(name), &copy.join(name));
    }
    // The queen prints parts of the documents.
    for folder in
        ["docs", "proto", "transport", "process", "king", "duke", "peasant", "jobs", "queen", "guest", "tests", "bench"]
    {
        // Files that have been moved since the last time must not stay.
        let _there = fs::remove_dir_all(copy.join(folder));
        copy_folder(&root.join(folder), &copy.join(folder));
    }
    let mut missed = 0;
    for bug in bugs().iter().filter(|bug| bug.what.contains(&options.only) || bug.file.contains(&options.only)) {
        let file = copy.join(&bug.file);
        let whole = fs::read_to_string(&file).unwrap();
        fs::write(&file, bug.planted(&copy)).unwrap();
        let found = find(&copy, options.seeds);
        fs::write(&file, whole).unwrap();
        match found {
            Some(how) => println!("found   {}\n        {how}", bug.what),
            None => {
                missed += 1;
                println!("MISSED  {}", bug.what);
            }
        }
    }
    println!("{missed} missed");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How the simulation finds the bug in the copy: the invariant that fails, and the seed.
fn find(copy: &Path, seeds: u64) -> Option<String> {
    let cargo = |args: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO"));
        // Cargo cannot distinguish the packages of the copy from the real ones, so the copy has its own target folder.
        command.args(args).current_dir(copy).env("CARGO_TARGET_DIR", copy.join("target")).output().unwrap()
    };
    let built = cargo(&["build", "--quiet", "-p", "distwasm-tests", "--bin", "simulate"]);
    assert!(built.status.success(), "it does not build: {}", String::from_utf8_lossy(&built.stderr));
    let seeds = seeds.to_string();
    let run = cargo(&["run", "--quiet", "-p", "distwasm-tests", "--bin", "simulate", "--", "--seeds", &seeds]);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    (!run.status.success()).then(|| {
        let seed = said.split_once("--first ").and_then(|(_, rest)| rest.split_whitespace().next());
        // Warnings of the compiler about the bug come first, and the two sides of an equation last.
        let is_side = |line: &&str| line.starts_with("  left: ") || line.starts_with(" right: ");
        let what =
            said.split("replay:").next().and_then(|said| said.trim_end().lines().rev().find(|line| !is_side(line)));
        format!("seed {}: {}", seed.unwrap_or("?"), what.unwrap_or_default().trim())
    })
}

fn copy_file(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if !path.is_dir() {
            copy_file(&path, &to);
        } else if entry.file_name() != "target" && entry.file_name() != "built" {
            copy_folder(&path, &to);
        }
    }
}
