//! All kinds of guests and their grants, from the queen's command line to the outputs.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use distwasm_tests::real::{King, Place, guest, peasants_of, until};
use rustix::process::{Pid, Signal, kill_process};

/// Makes a directory to share. Returns the flag for it.
fn directory(place: &Place, name: &str, word: &str) -> String {
    let folder = place.path().join(name);
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/word"), word).unwrap();
    symlink("sub/word", folder.join("link")).unwrap();
    format!("--dir={}::/{name}/", folder.display())
}

#[test]
fn every_kind_of_program_runs_over_a_folder() {
    let kinds: [(&str, &[&str], &str, &str); 6] = [
        ("upper.wat", &[], "1, 2 a", "1, 2 A"),
        ("upper.wat", &["--fresh"], "1, 2 a", "1, 2 A"),
        ("component-upper.wat", &[], "1, 2 a", "1, 2 A"),
        ("component-echo.wat", &[], "1, 2 a", "1, 2 a"),
        ("call.wat", &["--call", "add"], "1, 2", "3\n"),
        ("component-call.wat", &["--call", "add"], "1, 2", "3\n"),
    ];
    for (program, flags, input, output) in kinds {
        let place = Place::default();
        for number in 0..50 {
            place.write(number.to_string(), input);
        }
        place.queen(guest(program), flags).expect(0, &["50 done"]);
        let outputs = place.outputs();
        assert_eq!(outputs.len(), 50, "{program}");
        assert!(outputs.values().all(|found| found == output.as_bytes()), "{program}: {outputs:?}");
    }
}

#[test]
fn an_input_that_does_not_fit_a_call_fails_its_unit() {
    let place = Place::default();
    for (name, input) in [("good", "40 2"), ("few", "40"), ("word", "40 two")] {
        place.write(name, input);
    }
    place.queen(guest("call.wat"), &["--call=add"]).expect(
        1,
        &[
            "1 done",
            "few: cannot call `add`: it takes 2 arguments (i64, i64), and the input has 1",
            "word: cannot call `add`: argument 2 at byte 4, `two`, is not an i64",
        ],
    );
    // A different call is still checked if the compiled program is in the cache.
    place.queen(guest("call.wat"), &["--call=nothing"]).expect(2, &["exports no `nothing` to call"]);
    place.queen(guest("call.wat"), &[]).expect(2, &["exports neither `ProcessStdio` nor `_start`", "--call NAME"]);
}

#[test]
fn guests_are_told_of_their_unit() {
    let place = Place::default();
    place.write("sub/a b", "");
    place.queen(guest("world.wat"), &["--env=A=b c", "--env", "B=--x"]).expect(0, &["1 done"]);
    let told = String::from_utf8_lossy(&place.outputs()[Path::new("sub/a b")]).replace('\0', ";");
    let expected = "A=b c;B=--x;DISTWASM_JOB=1;DISTWASM_INPUT=sub/a b;DISTWASM_UNIT=0;DISTWASM_ATTEMPT=1;";
    assert!(told.starts_with(expected), "{told}");
}

/// Answers of `world.wat` to forty inputs from two dukes. The peasants of one duke are killed meanwhile.
fn troubled_answers(place: &Place, king: &King, flags: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
    let dukes =
        ["cache-a", "cache-b"].map(|cache| place.duke(king, &["--cache", place.path().join(cache).to_str().unwrap()]));
    king.expect_metric("distwasm_dukes", |dukes| dukes == 2);
    let queen = place.start_queen(king, guest("world.wat"), &[&["--project=world"], flags].concat());
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    let peasants = peasants_of(dukes[0].id());
    assert!(!peasants.is_empty());
    for peasant in peasants {
        // The peasant may have ended meanwhile.
        let _killed = kill_process(Pid::from_raw(peasant.cast_signed()).unwrap(), Signal::KILL);
    }
    queen.finish().expect(0, &["40 done", "0 failed"]);
    place.outputs()
}

#[test]
fn deterministic_units_give_the_same_bytes_on_every_machine_and_attempt() {
    let places = [(); 3].map(|()| Place::default());
    for place in &places {
        for number in 0..40 {
            place.write(number.to_string(), "sleep");
        }
    }
    let [local, troubled, other] = &places;
    local.queen(guest("world.wat"), &["--deterministic", "--project=world"]).expect(0, &["40 done"]);
    let king = troubled.king();
    assert_eq!(troubled_answers(troubled, &king, &["--deterministic"]), local.outputs());
    let king = other.king();
    let outputs = troubled_answers(other, &king, &[]);
    let is_other_attempt = |output: &Vec<u8>| String::from_utf8_lossy(output).contains("DISTWASM_ATTEMPT=2");
    assert!(outputs.values().any(is_other_attempt), "no unit was tried again");
    assert_ne!(outputs, local.outputs());
}

#[test]
fn shares_are_seen_by_guests_and_kept() {
    let place = Place::default();
    for number in 0..20 {
        place.write(number.to_string(), "sub/word");
    }
    let (one, two) = (directory(&place, "one", "first"), directory(&place, "two", "second"));
    let run = |flags: &[&str], expected: &str| {
        fs::remove_dir_all(place.output()).unwrap_or_default();
        place.queen(guest("files.wat"), flags).expect(0, &["20 done"]);
        assert!(place.outputs().values().all(|output| output == expected.as_bytes()), "{flags:?}");
    };
    run(&[&one, &two], "first");
    run(&[&two, &one, "--deterministic"], "second");
    run(&[&two], "second");
    let kept = |folder: &str| fs::read_dir(place.path().join("cache").join(folder)).unwrap().count();
    assert_eq!(
        (kept(""), kept("shares")),
        (4, 2),
        "two compiled programs, the marker, and the folder of shares, two of them"
    );
}

#[test]
fn shares_go_through_a_king_to_every_duke() {
    let place = Place::default();
    for number in 0..200 {
        place.write(number.to_string(), if number % 50 == 0 { "large" } else { "link" });
    }
    let king = place.king();
    let caches = ["cache-a", "cache-b"].map(|name| place.path().join(name));
    let dukes = caches.each_ref().map(|cache| place.duke(&king, &["--cache", cache.to_str().unwrap()]));
    king.expect_metric("distwasm_dukes", |dukes| dukes == 2);
    // Larger than a message, so that it comes in pieces.
    let one = directory(&place, "one", "first");
    let large = vec![b'x'; 5 << 20];
    fs::write(place.path().join("one/large"), &large).unwrap();
    place.start_queen(&king, guest("files.wat"), &[&one]).finish().expect(0, &["200 done"]);
    let outputs = place.outputs();
    assert_eq!(outputs.len(), 200);
    for (path, output) in outputs {
        assert!(output == b"first" || output == large, "{}", path.display());
    }
    king.expect_metric("distwasm_bytes_in_flight{kind=\"shares\"}", |bytes| bytes == 0);
    drop(dukes);
    let shares = caches.iter().flat_map(|cache| fs::read_dir(cache.join("shares")).unwrap());
    assert!(shares.count() > 0);
}

#[test]
fn invalid_settings_end_with_status_2() {
    let place = Place::default();
    place.write_sums(1);
    let one = directory(&place, "one", "first");
    let deeper = one.replace("::/one/", "::one/deeper");
    let missing = one.replace("one::", "none::");
    symlink("/proc/self/status", place.path().join("one/sub/out")).unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["--env", "A"], "--env A: this process has no variable of that name"),
        (&["--env", "=A"], "is not KEY=VALUE"),
        (&["--env", "DISTWASM_A=1"], "names that begin with DISTWASM_ are set by distwasm"),
        (&["--dir", "one"], "--dir one is not HOST::GUEST"),
        (&["--dir", "one::../one"], "\"../one\" is not a place for a shared directory"),
        (&[&one, &deeper], "or one is inside the other"),
        (&[&missing], "none to share it: No such file"),
        (&[&one], "sub/out: it is a link that leads out of the shared directory, to /proc/"),
    ];
    for (flags, said) in cases {
        place.queen(guest("summer.wasm"), flags).expect(2, &[said]);
    }
    assert!(place.outputs().is_empty());
}
