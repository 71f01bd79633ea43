//! Folders that dukes see: inputs and results that no king carries.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{fs, path::Path};

use distwasm_process::unfinished::is_unfinished;
use distwasm_tests::real::{King, Place, Process, guest, until};
use rustix::process::Signal;

/// Whether nothing is left of outputs that have no name.
fn is_clean(output: &Path) -> bool {
    let own = fs::read_dir(output.join(".distwasm")).unwrap();
    !own.flatten().any(|entry| is_unfinished(&entry.file_name()))
}

/// A duke that lets jobs use the folders of a place.
fn duke(place: &Place, king: &King) -> Process {
    place.duke(king, &["--allow-dir", place.path().to_str().unwrap()])
}

#[test]
fn nothing_goes_through_a_king_if_dukes_see_both_folders() {
    let place = Place::default();
    for number in 0..300 {
        place.write(format!("a/b/{number}"), "x".repeat(number));
    }
    let king = place.king();
    let _duke = duke(&place, &king);
    for (shared, inputs, results) in
        [("--shared", false, false), ("--shared=input", false, true), ("--shared=output", true, false)]
    {
        let carried =
            || ["inputs", "results"].map(|what| king.metric(&format!("distwasm_bytes_total{{kind=\"{what}\"}}")));
        let before = carried();
        place.start_queen(&king, guest("upper.wat"), &[shared, "--force"]).finish().expect(0, &["300 done"]);
        // A carried job has 44,850 bytes. Otherwise a size or a name stands for each unit.
        let carried = [carried()[0] - before[0], carried()[1] - before[1]];
        assert_eq!(carried.map(|bytes| bytes == 44_850), [inputs, results], "{shared}: {carried:?}");
        assert_eq!(place.outputs()[Path::new("a/b/299")], "X".repeat(299).into_bytes(), "{shared}");
        assert_eq!((place.outputs().len(), is_clean(&place.output())), (300, true), "{shared}");
    }
}

#[test]
fn a_duke_that_may_not_use_the_folders_gets_no_unit_and_says_why() {
    let place = Place::default();
    place.write_sums(3);
    let king = place.king();
    let _other = place.duke(&king, &["--hostname", "other", "--cache", place.path().join("c").to_str().unwrap()]);
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--shared"]);
    queen.expect_log("waiting: duke other cannot start peasants: jobs may not use the folder");
    let _duke = duke(&place, &king);
    queen.finish().expect(0, &["3 done"]);
}

#[test]
fn what_cannot_be_shared_is_carried_with_a_word() {
    let place = Place::default();
    place.write_sums(3);
    let king = place.king();
    let _duke = duke(&place, &king);
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--shared", "--follow-links"]);
    queen.finish().expect(0, &["3 done", "--shared: inputs are carried to the dukes, because links"]);
    // Without a king small files are shared only if that is wanted.
    place.queen(guest("summer.wasm"), &["--shared", "--force"]).expect(0, &["3 done"]);
}

#[test]
fn an_interrupted_run_leaves_nothing_without_a_name() {
    let place = Place::default();
    for number in 0..2000 {
        place.write(number.to_string(), "some text");
    }
    let queen = place.start(place.queen_command(guest("upper.wat")).args(["--num-cpus", "2"]), "queen");
    until("an output", || (!place.outputs().is_empty()).then_some(()), || queen.log());
    queen.signal(Signal::INT);
    queen.finish();
    assert!(is_clean(&place.output()));
    assert!(place.outputs().values().all(|output| output == b"SOME TEXT"));
    place.queen(guest("upper.wat"), &[]).expect(0, &[]);
    assert_eq!(place.outputs().len(), 2000);
}

#[test]
fn an_input_that_changed_since_it_was_listed_fails_and_the_others_do_not() {
    let place = Place::default();
    place.write_sums(2);
    let input = place.input().join("changes");
    fs::write(&input, "1 + 1").unwrap();
    let king = place.king();
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--shared"]);
    queen.expect_log("waiting: there is no duke");
    fs::write(&input, "1 + 1 + 1").unwrap();
    let _duke = duke(&place, &king);
    queen.finish().expect(1, &["2 done", "changes: cannot read changes: it had 5 bytes when it was listed, and has 9"]);
}
