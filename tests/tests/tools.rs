//! The tools of the queen: `queen check` says whether a program would run, `queen new` writes a new project, and
//! `queen jobs` asks a king.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where its expectation does")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use distwasm_proto::{PROTOCOL, VERSION};
use distwasm_tests::real::{Finished, Place, Process, guest, peasants_of, programs, root, runs, until};
use rustix::process::Signal;

const LANGS: [&str; 9] = ["rust", "c", "c++", "go", "zig", "assemblyscript", "python", "javascript", "typescript"];

/// Runs `queen check` on a program until it ends.
fn check(place: &Place, program: impl AsRef<Path>, args: &[&str]) -> Finished {
    Finished::of(place.command("queen").arg("check").arg(program.as_ref()).args(args))
}

/// A file with this input.
fn input(place: &Place, content: &str) -> String {
    place.write("input", content);
    place.input().join("input").to_str().unwrap().to_owned()
}

#[test]
fn every_kind_of_program_is_known_and_tried() {
    let place = Place::default();
    let (one_instance, fresh) = ("ProcessStdio, one instance for many units", "ProcessStdio, a fresh instance");
    let cases: [(&str, &[&str], &str, i32, &str); 14] = [
        ("summer.wasm", &[], "20 + 22", 0, ":\n42\n"),
        ("summer.wasm", &[], "20 + two", 1, one_instance),
        ("upper.wat", &["--fresh"], "abc", 0, fresh),
        ("count.wat", &["--deterministic"], "", 0, fresh),
        ("summer-command.wasm", &[], "20 + 22", 0, "Command, a fresh instance"),
        ("echo.wat", &["--min-ram", "2"], "", 0, "may grow to 2 MiB"),
        ("loop.wat", &["--timeout", "200ms"], "loop", 1, "Command"),
        ("trouble.wat", &[], "t", 1, "Command"),
        ("component-echo.wat", &[], "here", 0, ":\nhere\n"),
        ("component-upper.wat", &[], "here", 0, ":\nHERE\n"),
        ("component-upper.wat", &[], "!", 1, "of the world distwasm:guest/program"),
        ("call.wat", &["--call", "add"], "40, 2", 0, "Call of `add`"),
        ("call.wat", &["--call", "add"], "40", 1, "Call of `add`"),
        ("component-call.wat", &["--call", "half"], "10", 0, ":\nok(5)\n"),
    ];
    for (name, args, content, status, said) in cases {
        let input = input(&place, content);
        let finished = check(&place, guest(name), &[&["--input", &input], args].concat());
        assert_eq!(finished.status, Some(status), "{name} {args:?} {content:?}: {finished:?}");
        assert!(finished.stdout.contains(said), "{name} {args:?}: no {said:?} in {finished:?}");
        // The output uses the name that was given.
        let path = guest(name);
        assert!(finished.stdout.starts_with(path.to_str().unwrap()), "{finished:?}");
        if status == 1 {
            finished.expect(1, &[path.to_str().unwrap()]);
        }
    }
}

#[test]
fn without_an_input_a_program_is_only_initialised() {
    let place = Place::default();
    let finished = check(&place, guest("summer.wasm"), &[]);
    finished.expect(0, &[]);
    assert!(finished.stdout.contains("ready") && !finished.stdout.contains("answered"), "{finished:?}");
}

#[test]
fn check_says_why_a_program_would_not_run() {
    let place = Place::default();
    let cases = [
        ("unfit-exports.wat", "exports neither `ProcessStdio` nor `_start`"),
        ("unfit-import.wat", "imports `env.foo`"),
        ("unfit-init.wat", "cannot be initialised"),
        ("unfit-signature.wat", "signature"),
        ("call.wat", "exports neither"),
    ];
    for (name, said) in cases {
        check(&place, guest(name), &[]).expect(2, &[guest(name).to_str().unwrap(), said]);
    }
    check(&place, guest("unfit-memory.wat"), &["--min-ram", "1"]).expect(2, &["memory"]);
    check(&place, guest("call.wat"), &["--call", "sub"]).expect(2, &["sub"]);
}

#[test]
fn a_program_sees_the_environment_and_the_directories_of_the_check() {
    let place = Place::default();
    let nothing = input(&place, "");
    let finished = check(&place, guest("world.wat"), &["--input", &nothing, "--env", "A=1", "--env=A=2,3"]);
    assert!(finished.stdout.contains("A=2,3\\x00") && !finished.stdout.contains("A=1"), "{finished:?}");
    let dir = format!("{}::/data", place.path().join("shared").display());
    fs::create_dir(place.path().join("shared")).unwrap();
    fs::write(place.path().join("shared/some"), "what is in it").unwrap();
    let some = input(&place, "some");
    let finished = check(&place, guest("files.wat"), &["--input", &some, "--dir", &dir]);
    finished.expect(0, &[]);
    assert!(finished.stdout.ends_with(":\nwhat is in it\n"), "{finished:?}");
}

#[test]
fn a_deterministic_check_answers_the_same_again() {
    let place = Place::default();
    let input = input(&place, "");
    let answer = |args: &[&str]| {
        let finished = check(&place, guest("world.wat"), &[&["--input", &input], args].concat());
        finished.stdout.lines().last().unwrap().to_owned()
    };
    let told = answer(&["--deterministic"]);
    assert!(told.starts_with("DISTWASM_INPUT=input"), "{told}");
    assert_eq!(answer(&["--deterministic"]), told);
    assert_ne!(answer(&[]), told);
}

#[test]
fn check_says_in_a_sentence_what_it_cannot_check() {
    let place = Place::default();
    let summer = guest("summer.wasm");
    let here = place.path().to_str().unwrap().to_owned();
    let picture = place.path().join("picture.wasm");
    fs::write(&picture, b"\x89PNG\r\n\x1a\n").unwrap();
    let nowhere = place.path().join("nowhere").to_str().unwrap().to_owned();
    let no_program = PathBuf::from(format!("{nowhere}/x.wasm"));
    let no_dir = format!("{nowhere}::/x");
    let said = |before: &str, after: &str| format!("error: failed to {before} {nowhere}{after}");
    let cases: [(&Path, &[&str], &str); 13] = [
        (&no_program, &[], &said("read the program", "/x.wasm: No such file")),
        (place.path(), &[], "error: failed to read the program"),
        (&picture, &[], "not a WebAssembly program: it is a PNG picture"),
        (&summer, &["--input", &nowhere], &said("find the input", "")),
        (&summer, &["--input", "/dev/null"], "is neither a folder nor a file"),
        (&summer, &["--input", &here, "--exclude", "*"], "or none that the flags leave"),
        (&summer, &["--env", "A"], "this process has no variable of that name"),
        (&summer, &["--env", "DISTWASM_UNIT=1"], "are set by distwasm"),
        (&summer, &["--dir", &here], "is not HOST::GUEST"),
        (&summer, &["--dir", &no_dir], &said("read", " to share it")),
        (&summer, &["--timeout", "0s"], "must be longer than 0 s"),
        (&summer, &["--output", "x"], "unexpected argument '--output'"),
        (&summer, &["--peasant", &nowhere], &said("start the peasant program", "")),
    ];
    for (program, args, said) in cases {
        check(&place, program, args).expect(2, &[said]);
    }
    let mut before = place.command("queen");
    before.args(["--binary", "x.wasm", "check", "x.wasm"]);
    Finished::of(&mut before).expect(2, &["--binary <PROGRAM> is for a job"]);
}

#[test]
fn the_peasant_is_found_beside_the_queen_or_in_path() {
    let place = Place::default();
    let alone = place.path().join("queen");
    fs::copy(programs().join("queen"), &alone).unwrap();
    place.write_sums(3);
    let queen = |path: &Path, is_check: bool| {
        let mut command = place.command(alone.to_str().unwrap());
        if is_check {
            command.arg("check").arg(guest("summer.wasm"));
        } else {
            command.arg("--binary").arg(guest("summer.wasm")).arg("--output").arg(place.output());
            command.arg("--input").arg(place.input());
        }
        Finished::of(command.env("PATH", path))
    };
    for is_check in [true, false] {
        queen(&place.input(), is_check).expect(2, &["peasant", "--peasant names another"]);
        queen(programs(), is_check).expect(0, &[]);
    }
    place.expect_sums(3);
}

#[test]
fn no_peasant_outlives_its_check() {
    let place = Place::default();
    let input = input(&place, "loop");
    for signal in [Signal::INT, Signal::KILL] {
        let mut command = place.command("queen");
        command.arg("check").arg(guest("loop.wat")).args(["--timeout", "1h", "--input", &input]);
        let queen = Process::start(&mut command, "queen", place.path());
        let peasant = until("a peasant", || peasants_of(queen.id()).first().copied(), || queen.log());
        queen.signal(signal);
        let status = queen.finish().status;
        assert_eq!(status, if signal == Signal::INT { Some(130) } else { None });
        until("the end of the peasant", || (!runs(peasant)).then_some(()), String::new);
    }
}

/// Runs `queen new` in this place.
fn new(place: &Place, args: &[&str]) -> Finished {
    Finished::of(place.command("queen").current_dir(place.path()).arg("new").args(args))
}

#[test]
fn a_new_program_has_all_that_it_needs_in_every_language() {
    for lang in LANGS {
        let place = Place::default();
        let finished = new(&place, &["--lang", lang, "words"]);
        finished.expect(0, &["wrote words"]);
        let lines: Vec<&str> = finished.stdout.lines().collect();
        let queen = programs().join("queen").canonicalize().unwrap();
        assert_eq!(lines, ["cd words", "sh build.sh", &format!("{} --binary words.wasm", queen.display())]);
        let folder = place.path().join("words");
        for path in ["README.md", "build.sh", ".gitignore", "input/greeting", "input/poem"] {
            assert!(folder.join(path).is_file(), "{lang}: no {path}");
        }
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(readme.starts_with("# words\n"), "{readme}");
        let parsed = Command::new("sh").args(["-n", "build.sh"]).current_dir(&folder).status().unwrap();
        assert!(parsed.success(), "{lang}: build.sh is not a script");
        // A second one does not disturb the first.
        fs::write(folder.join("README.md"), "mine").unwrap();
        new(&place, &["--lang", lang, "words"]).expect(2, &["there is a words already"]);
        assert_eq!(fs::read_to_string(folder.join("README.md")).unwrap(), "mine");
    }
}

#[test]
fn an_invalid_name_of_a_program_is_refused() {
    let place = Place::default();
    for name in ["Words", "1word", "two words", ".", "..", "wörter", ""] {
        new(&place, &["--lang", "c", name]).expect(2, &[]);
    }
    new(&place, &["--lang", "c", "Words"]).expect(2, &["\"Words\" does not end in a name for a program"]);
    new(&place, &["--lang", "c", "no/such/words"]).expect(2, &["failed to write the new folder no/such/words"]);
    new(&place, &["--lang", "cobol", "words"])
        .expect(2, &["possible values: rust, c, c++, go, zig, assemblyscript, python"]);
    new(&place, &["words"]).expect(2, &["--lang <LANG>"]);
    std::os::unix::fs::symlink("nowhere", place.path().join("link")).unwrap();
    new(&place, &["--lang", "c", "link"]).expect(2, &["there is a link already"]);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "only the input folder and the link are there");
}

#[test]
fn a_new_program_in_rust_builds_offline_and_runs() {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-wasip1"]).output();
    let libraries = libraries.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if !libraries.is_ok_and(|folder| Path::new(&folder).is_dir()) {
        eprintln!("SKIPPED: Rust has no target wasm32-wasip1 here; `rustup target add wasm32-wasip1` adds it");
        return;
    }
    let place = Place::default();
    // A name that is a keyword of the language, in a folder with a space in its name.
    fs::create_dir(place.path().join("my programs")).unwrap();
    let lines = new(&place, &["--lang", "rust", "my programs/fn"]).stdout;
    let mut sh = place.command("/bin/sh");
    sh.args(["-euc", &lines]).current_dir(place.path()).env("CARGO_NET_OFFLINE", "true");
    Finished::of(&mut sh).expect(0, &["2 done, 0 skipped"]);
    let folder = place.path().join("my programs/fn");
    assert_eq!(fs::read_to_string(folder.join("output/greeting")).unwrap(), "2 words\n");
    assert_eq!(fs::read_to_string(folder.join("output/poem")).unwrap(), "15 words\n");
    let nothing = input(&place, " ");
    check(&place, folder.join("fn.wasm"), &["--input", &nothing]).expect(1, &["there is no word in it"]);
}

#[test]
fn a_king_says_what_its_jobs_wait_for() {
    let place = Place::default();
    place.write_sums(3);
    let king = place.king();
    let ask = |args: &[&str]| Finished::of(place.command("queen").args(args).args(["--king-address", &king.address]));
    let told = ask(&["jobs"]);
    told.expect(0, &[]);
    assert_eq!(told.stdout, "no jobs, 0 dukes\n");
    let _queens = ["eu", "us"].map(|zone| {
        let place = Place::default();
        place.write_sums(3);
        let require = format!("zone={zone}");
        let queen = place.start_queen(&king, guest("summer.wasm"), &["--project", "sums", "--require", &require]);
        king.expect_metric("distwasm_units{state=\"waiting\"}", |units| units == if zone == "eu" { 3 } else { 6 });
        (queen, place)
    });
    let _duke = place.duke(&king, &["--label", "zone=asia"]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 1);
    let told = ask(&["jobs"]);
    told.expect(0, &[]);
    assert!(told.stdout.contains("no duke has label zone=eu"), "{}", told.stdout);
    let lines = ask(&["jobs", "--json"]).stdout;
    let numbers: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["job"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.len(), 2);
    let told = ask(&["job", &numbers[1].to_string()]);
    told.expect(0, &[]);
    let expected = "waits     no duke has label zone=us; 1 job is ahead in its project";
    assert!(told.stdout.contains(expected), "{}", told.stdout);
    ask(&["job", "12"]).expect(2, &["has no job 12", "queen jobs"]);
    let nobody = place.command("queen").args(["jobs", "-k", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(2));
}

#[test]
fn a_version_names_protocol_and_engine() {
    let place = Place::default();
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let engine = lock.split("name = \"wasmtime\"\nversion = \"").nth(1).unwrap().split('"').next().unwrap();
    for program in ["king", "duke", "queen", "peasant"] {
        for flag in ["-V", "--version"] {
            let said = Finished::of(place.command(program).arg(flag));
            said.expect(0, &[]);
            assert!(said.stdout.starts_with(&format!("{program} {VERSION} (")), "{said:?}");
            assert!(said.stdout.ends_with(&format!("protocol {PROTOCOL}, wasmtime {engine})\n")), "{said:?}");
        }
    }
}

#[test]
fn a_page_of_the_documents_is_data() {
    let place = Place::default();
    let help = |args: &[&str]| Finished::of(place.command("queen").arg("help").args(args));
    let page = help(&["Failures"]);
    assert!(page.stdout.starts_with("## Failures\n") && page.stderr.is_empty(), "{page:?}");
    let tool = help(&["check"]);
    assert_eq!(tool.stdout, Finished::of(place.command("queen").args(["check", "--help"])).stdout);
    assert_eq!(help(&[]).stdout, Finished::of(place.command("queen").arg("--help")).stdout);
    help(&["chek"]).expect(2, &["there is help on check, "]);
}
