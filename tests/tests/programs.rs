//! Programs that a king keeps by name, with real processes.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use distwasm_tests::real::{Death, Finished, King, Place, die_at, fail_while, guest, until};
use rustix::process::Signal;

const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// A king that remembers, in a place.
struct Kingdom {
    place: Place,
    king: King,
}

fn data(place: &Place) -> PathBuf {
    place.path().canonicalize().unwrap().join("data")
}

fn remembering_king(place: &Place, args: &[&str]) -> King {
    place.king_with(&[&["--data", data(place).to_str().unwrap()], args].concat())
}

/// Runs a command of the queen about the programs of a king.
fn queen(place: &Place, address: &str, args: &[&str]) -> Finished {
    Finished::of(place.command("queen").args(args).args(["--king-address", address]))
}

impl Kingdom {
    fn new(args: &[&str]) -> Kingdom {
        let place = Place::default();
        let king = remembering_king(&place, args);
        Kingdom { place, king }
    }

    fn queen(&self, args: &[&str]) -> Finished {
        queen(&self.place, &self.king.address, args)
    }

    fn push(&self, name: &str, program: &Path) -> Finished {
        self.queen(&["push", name, program.to_str().unwrap()])
    }

    fn token(&self, args: &[&str]) -> String {
        let data = data(&self.place);
        let mut command = self.place.command("king");
        let made = Finished::of(command.args(["token", "create", "--data"]).arg(data).args(args));
        made.expect(0, &[]);
        made.stdout.trim().to_owned()
    }
}

/// The programs of a king, as `NAME:VERSION DIGEST`.
fn listed(place: &Place, address: &str) -> Vec<String> {
    let list = queen(place, address, &["programs", "--json"]);
    list.expect(0, &[]);
    let lines = list.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let show = |line: serde_json::Value| {
        format!("{}:{} {}", line["name"].as_str().unwrap(), line["version"], &line["sha256"].as_str().unwrap()[..12])
    };
    lines.map(show).collect()
}

/// A small program that differs from others.
fn program(place: &Place, number: u32) -> PathBuf {
    let path = place.path().join(format!("program-{number}.wat"));
    fs::write(&path, format!("(module (func (export \"_start\")) (global i32 (i32.const {number})))")).unwrap();
    path
}

#[test]
fn a_program_is_pushed_listed_run_pulled_and_removed() {
    let kingdom = Kingdom::new(&[]);
    let Kingdom { place, king } = &kingdom;
    let _duke = place.duke(king, &[]);
    let summer = guest("summer.wasm");
    let pushed = kingdom.push("summer", &summer);
    pushed.expect(0, &[]);
    assert_eq!(pushed.stdout, "summer:1\n");
    let again = kingdom.push("summer", &summer);
    again.expect(0, &["summer:1 has these bytes already"]);
    assert_eq!(again.stdout, "summer:1\n");
    assert_eq!(kingdom.push("summer", &guest("summer-command.wasm")).stdout, "summer:2\n");
    assert_eq!(kingdom.push("echo", &guest("echo.wat")).stdout, "echo:1\n");
    let table = kingdom.queen(&["programs"]).stdout;
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(2).unwrap().starts_with("summer:2 "), "the newest comes first: {table}");
    place.write_sums(20);
    let digest = listed(place, &king.address)[2].split_once(' ').unwrap().1.to_owned();
    for named in ["@summer", "@summer:1", "@summer@1", &format!("@sha256:{digest}")] {
        let run = place.start_queen(king, named, &["--force"]).finish();
        run.expect(0, &["20 done"]);
        place.expect_sums(20);
        fs::remove_dir_all(place.output()).unwrap();
    }
    // It is the same program, by whatever way it comes: what it did is done.
    place.start_queen(king, "@summer:1", &[]).finish().expect(0, &["20 done"]);
    place.start_queen(king, &summer, &["--project", "summer"]).finish().expect(0, &["0 done, 20 skipped"]);
    let file = place.path().join("pulled.wasm");
    let pull = |program: &str| kingdom.queen(&["pull", program, file.to_str().unwrap()]);
    let pulled = pull("summer:1");
    pulled.expect(0, &[]);
    assert_eq!(pulled.stdout, "summer:1\n");
    assert_eq!(fs::read(&file).unwrap(), fs::read(&summer).unwrap());
    pull("summer").expect(2, &["exists: name another file"]);
    fs::remove_file(&file).unwrap();
    pull("summer@7").expect(2, &["there is no program summer:7: there are versions 1-2"]);
    assert!(!file.exists());
    kingdom.queen(&["programs", "rm", "summer:1"]).expect(0, &["removed summer:1"]);
    kingdom
        .queen(&["programs", "rm", "none", "summer", "echo"])
        .expect(2, &["there is no program none", "removed summer:2", "removed echo:1"]);
    assert_eq!(kingdom.queen(&["programs"]).stdout, "no programs\n");
    assert_eq!(fs::read_dir(data(place).join("blobs")).unwrap().count(), 0);
    place.start_queen(king, "@summer", &[]).finish().expect(2, &["there is no program summer that this peer may see"]);
}

#[test]
fn a_king_that_starts_again_has_its_programs() {
    let Kingdom { place, king } = Kingdom::new(&[]);
    queen(&place, &king.address, &["push", "summer", guest("summer.wasm").to_str().unwrap()]).expect(0, &[]);
    let before = listed(&place, &king.address);
    drop(king);
    let king = remembering_king(&place, &[]);
    assert_eq!(listed(&place, &king.address), before);
    let _duke = place.duke(&king, &[]);
    place.write_sums(3);
    place.start_queen(&king, "@summer", &[]).finish().expect(0, &["3 done"]);
    place.expect_sums(3);
    // A second king has no place there.
    let second = ["--port", "0", "--http", "none", "--data", data(&place).to_str().unwrap()].map(str::to_owned);
    let told = format!("another king (process {})", king.process.id());
    Finished::of(place.command("king").args(second)).expect(2, &[&told, "end it first"]);
    let check = |place: &Place| Finished::of(place.command("king").args(["check", "--data"]).arg(data(place)));
    check(&place).expect(2, &[&told]);
    king.process.signal(Signal::TERM);
    king.process.finish().expect(0, &[]);
    let whole = check(&place);
    whole.expect(0, &[]);
    assert!(whole.stdout.contains(": 3 values, 1 blobs of "), "{}", whole.stdout);
    // What is damaged is named.
    let blobs = data(&place).join("blobs");
    let blob = fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path();
    fs::write(&blob, "other bytes").unwrap();
    let damaged = check(&place);
    damaged.expect(2, &["1 problems were found"]);
    assert!(damaged.stdout.contains("does not have the bytes whose digest is its name"), "{}", damaged.stdout);
    let king = remembering_king(&place, &[]);
    let pulled = place.path().join("pulled");
    queen(&place, &king.address, &["pull", "summer", pulled.to_str().unwrap()])
        .expect(2, &["the king has lost the bytes of this program"]);
    assert!(!pulled.exists());
    place.start_queen(&king, "@summer", &["--force"]).finish().expect(2, &["the king has lost the bytes"]);
    drop(king);
    fs::write(data(&place).join("store.db"), vec![b'x'; 4096]).unwrap();
    let second = ["--port", "0", "--http", "none", "--data", data(&place).to_str().unwrap()].map(str::to_owned);
    Finished::of(place.command("king").args(second)).expect(2, &["store.db is damaged: `king check --data "]);
}

#[test]
fn a_king_without_a_folder_keeps_nothing_and_says_what_does() {
    let place = Place::default();
    let king = place.king();
    let says = "this king keeps no programs: one that is started with `king --data DIR` does";
    let program = program(&place, 1);
    for args in [
        &["push", "summer", program.to_str().unwrap()][..],
        &["programs"],
        &["programs", "rm", "summer"],
        &["pull", "summer", "file"],
    ] {
        queen(&place, &king.address, args).expect(2, &[says]);
    }
    place.write_sums(1);
    place.start_queen(&king, "@summer", &[]).finish().expect(2, &[says]);
    place
        .queen("@summer", &[])
        .expect(2, &["@summer is a program that a king keeps, and --king-address names no king"]);
    place.queen("@Summer", &[]).expect(2, &["\"Summer\" is not the name of a program", "./@NAME is a file"]);
    let made: Vec<_> = fs::read_dir(place.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["key.der"], "it remembers nothing in the folder of its key");
}

#[test]
fn a_program_that_would_not_run_is_refused_in_the_words_of_a_check() {
    let kingdom = Kingdom::new(&[]);
    let place = &kingdom.place;
    let unfit = place.path().join("unfit.wat");
    fs::write(&unfit, "(module (import \"env\" \"gone\" (func)) (func (export \"_start\")))").unwrap();
    let check = Finished::of(place.command("queen").arg("check").arg(&unfit));
    check.expect(2, &[]);
    let words = check.stderr.lines().next().unwrap().to_owned();
    kingdom.push("unfit", &unfit).expect(2, &[&words, "unfit is not pushed: the program would not run"]);
    let text = place.path().join("text");
    fs::write(&text, "%PDF-1.7").unwrap();
    kingdom.push("text", &text).expect(2, &["not a WebAssembly program"]);
    kingdom.push("text", &place.path().join("none")).expect(2, &["failed to read the program"]);
    kingdom.push("Text", &unfit).expect(2, &["is not the name of a program"]);
    // With the flag that makes it fit, it is.
    let fits = ["push", "unfit", unfit.to_str().unwrap(), "--unknown-imports", "trap"];
    assert_eq!(kingdom.queen(&fits).stdout, "unfit:1\n");
}

#[test]
fn tokens_decide_who_may_do_what_with_programs() {
    let kingdom = Kingdom::new(&["--no-socket"]);
    let place = &kingdom.place;
    let lab = kingdom.token(&["--role", "queen", "--project", "lab"]);
    let field = kingdom.token(&["--role", "queen", "--project", "field"]);
    let observer = kingdom.token(&["--role", "observer"]);
    let duke = kingdom.token(&["--role", "duke"]);
    let admin = kingdom.token(&["--role", "admin"]);
    let ask = |token: &str, args: &[&str]| {
        let mut command = place.command("queen");
        command.env("DISTWASM_TOKEN", token).args(args).args(["--king-address", &kingdom.king.address]);
        Finished::of(&mut command)
    };
    let program = program(place, 1);
    let program = program.to_str().unwrap();
    let file = place.path().join("file");
    let file = file.to_str().unwrap();
    ask(&lab, &["push", "summer", program]).expect(2, &["is for other projects (lab)", "(--project says"]);
    ask(&lab, &["push", "summer", program, "--project", "lab"]).expect(0, &[]);
    ask(&field, &["push", "summer", program, "--project", "field"]).expect(2, &["of another project"]);
    for (token, seen) in [(&lab, 2), (&field, 1), (&observer, 2), (&admin, 2)] {
        let list = ask(token, &["programs"]);
        list.expect(0, &[]);
        assert_eq!(list.stdout.lines().count(), seen, "{}", list.stdout);
    }
    ask(&duke, &["programs"]).expect(2, &["does not allow seeing jobs, dukes and programs"]);
    for token in [&observer, &duke] {
        ask(token, &["pull", "summer", file]).expect(2, &["does not allow using the programs that a king keeps"]);
        ask(token, &["push", "x", program]).expect(2, &["does not allow using the programs"]);
        ask(token, &["programs", "rm", "summer"]).expect(2, &["does not allow using the programs"]);
    }
    ask(&field, &["pull", "summer", file]).expect(2, &["there is no program summer that this peer may see"]);
    ask(&field, &["programs", "rm", "summer"]).expect(2, &["there is no program summer"]);
    let run = |token: &str, project: &str| {
        place.write_sums(1);
        let mut command = place.queen_command("@summer");
        let command = command.env("DISTWASM_TOKEN", token).args(["--king-address", &kingdom.king.address]);
        Finished::of(command.args(["--dry-run", "--project", project]))
    };
    run(&lab, "lab").expect(0, &[]);
    run(&field, "field").expect(2, &["there is no program summer"]);
    ask(&admin, &["pull", "summer", file]).expect(0, &[]);
    ask(&admin, &["programs", "rm", "summer"]).expect(0, &["removed summer:1"]);
}

/// A proxy that passes on what a queen says up to a number of bytes, and then nothing more, without closing.
fn stalling_proxy(king: String, bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut queen, _) = listener.accept().unwrap();
        let mut king = TcpStream::connect(king).unwrap();
        let (mut from_king, mut to_queen) = (king.try_clone().unwrap(), queen.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from_king, &mut to_queen));
        let (mut passed, mut buffer) = (0, [0; 4096]);
        while let Ok(read) = queen.read(&mut buffer) {
            if read == 0 {
                return;
            }
            if passed < bytes {
                king.write_all(&buffer[..read]).unwrap();
            }
            passed += read;
        }
    });
    address
}

#[test]
fn a_push_that_stops_in_the_middle_leaves_nothing() {
    let place = Place::default();
    let king = remembering_king(&place, &["--insecure"]);
    let address = stalling_proxy(king.address.clone(), 300_000);
    // Large enough that the middle of it is on its way when the proxy stops.
    let large = place.path().join("large.wat");
    let data_segment = "x".repeat(4 << 20);
    fs::write(
        &large,
        format!("(module (memory 80) (data (i32.const 0) \"{data_segment}\") (func (export \"_start\")))"),
    )
    .unwrap();
    let mut command = place.command("queen");
    command.args(["push", "large", large.to_str().unwrap(), "--insecure", "--king-address", &address]);
    let push = place.start(&mut command, "queen");
    let blobs = data(&place).join("blobs");
    let is_begun = || fs::read_dir(&blobs).unwrap().next().map(drop);
    until("an unfinished blob", is_begun, || push.log() + &king.process.log());
    drop(push);
    let is_gone = || fs::read_dir(&blobs).unwrap().next().is_none().then_some(());
    until("the end of the unfinished blob", is_gone, || king.process.log());
    let list = Finished::of(place.command("queen").args(["programs", "--insecure", "-k", &king.address]));
    assert_eq!(list.stdout, "no programs\n", "{}", list.stderr);
}

/// Starts a king that remembers, with a library that stands between it and its disk. `None` if it was killed before it
/// listened.
fn king_on(place: &Place, meddle: impl FnOnce(&mut Command)) -> Option<King> {
    let port_file = place.path().join(format!("port-{}", fs::read_dir(place.path()).unwrap().count()));
    let mut command = place.command("king");
    command.args(["--port", "0", "--http", "none", "--port-file"]).arg(&port_file).arg("--data").arg(data(place));
    meddle(&mut command);
    let mut process = place.start(&mut command, "king");
    let address = || fs::read_to_string(&port_file).ok().map(|text| text.trim().to_owned());
    let is_over = || address().map(Some).or_else(|| (!process.is_running()).then_some(None));
    let address = until("a king that listens, or is killed", is_over, || "it does neither".to_owned())?;
    Some(King { process, address, http: String::new() })
}

#[test]
fn a_king_whose_disk_is_full_or_read_only_keeps_nothing_new_and_goes_on() {
    let place = Place::default();
    // The folder is made before, so that the start is as usual.
    drop(remembering_king(&place, &[]));
    for (error, why) in [(ENOSPC, "the king's disk is full"), (EROFS, "the king")] {
        let full = place.path().join("full");
        let king = king_on(&place, |command| fail_while(command, &data(&place).join("blobs/"), &full, error)).unwrap();
        let _duke = place.duke(&king, &[]);
        let push = |name: &str, number| {
            let program = program(&place, number);
            queen(&place, &king.address, &["push", name, program.to_str().unwrap()])
        };
        push("one", 1).expect(0, &[]);
        fs::write(&full, "").unwrap();
        push("two", 2).expect(2, &[why, "keeps nothing new"]);
        assert_eq!(listed(&place, &king.address).len(), 1, "reads go on");
        place.write_sums(3);
        place.start_queen(&king, guest("summer.wasm"), &["--force"]).finish().expect(0, &["3 done"]);
        fs::remove_file(&full).unwrap();
        push("two", 2).expect(0, &[]);
        queen(&place, &king.address, &["programs", "rm", "one", "two"]).expect(0, &[]);
    }
    // The database alone.
    let full = place.path().join("full");
    let king = king_on(&place, |command| fail_while(command, &data(&place).join("store.db"), &full, ENOSPC)).unwrap();
    let program = program(&place, 1);
    fs::write(&full, "").unwrap();
    let pushed = queen(&place, &king.address, &["push", "one", program.to_str().unwrap()]);
    pushed.expect(2, &["the king's disk is full, so it keeps nothing new"]);
    king.process.expect_log("there is no space left for ");
    assert!(listed(&place, &king.address).is_empty());
    fs::remove_file(&full).unwrap();
    queen(&place, &king.address, &["push", "one", program.to_str().unwrap()]).expect(0, &[]);
}

/// Each of these either is acknowledged, or the king is killed meanwhile.
fn push_until_killed(place: &Place, king: &King) -> Vec<Finished> {
    let program = [1, 2].map(|number| program(place, number));
    let program = program.each_ref().map(|program| program.to_str().unwrap());
    let steps: [&[&str]; 4] = [
        &["push", "a", program[0]],
        &["push", "a", program[1]],
        &["push", "b", program[0]],
        &["programs", "rm", "a:1"],
    ];
    let asked = steps.iter().map(|args| queen(place, &king.address, args));
    let mut done = Vec::new();
    for finished in asked {
        let is_over = finished.status != Some(0);
        done.push(finished);
        if is_over {
            break;
        }
    }
    done
}

#[test]
fn a_king_that_is_killed_at_a_write_has_what_it_acknowledged() {
    // What is listed after each step.
    let after: [&[&str]; 5] = [&[], &["a:1"], &["a:2", "a:1"], &["a:2", "a:1", "b:1"], &["a:2", "b:1"]];
    let mut killed = 0;
    for at in (1..).step_by(7) {
        let place = Place::default();
        drop(remembering_king(&place, &[]));
        let king = king_on(&place, |command| die_at(command, &data(&place).join(""), Death::Within(at)));
        let done = king.as_ref().map(|king| push_until_killed(&place, king)).unwrap_or_default();
        let acknowledged = done.iter().filter(|finished| finished.status == Some(0)).count();
        drop(king);
        let king = remembering_king(&place, &[]);
        let names: Vec<String> =
            listed(&place, &king.address).iter().map(|line| line.split_once(' ').unwrap().0.to_owned()).collect();
        let is_right = |steps: usize| after.get(steps).is_some_and(|expected| names == *expected);
        assert!(is_right(acknowledged) || is_right(acknowledged + 1), "killed at {at}: {acknowledged}, {names:?}");
        drop(king);
        Finished::of(place.command("king").args(["check", "--data"]).arg(data(&place))).expect(0, &[]);
        if acknowledged == after.len() - 1 {
            break;
        }
        killed += 1;
    }
    assert!(killed > 3, "the king was killed {killed} times only");
}
