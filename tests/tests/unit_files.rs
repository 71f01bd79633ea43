//! Programs that read their input from a file, leave their result in one, or end with another status than 0, from the
//! queen's command line to the outputs.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::fs;

use distwasm_tests::real::{Place, guest};

/// A place with these inputs.
fn place(inputs: &[(&str, &str)]) -> Place {
    let place = Place::default();
    for (name, text) in inputs {
        place.write(name, text);
    }
    place
}

fn outputs(place: &Place) -> Vec<(String, String)> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    place.outputs().iter().map(|(name, bytes)| (name.to_string_lossy().into_owned(), text(bytes))).collect()
}

#[test]
fn an_input_is_a_file_whether_it_is_carried_or_read_by_the_duke() {
    // Without a king, those of 16 KiB and more are opened by the duke.
    let large = "x".repeat(100_000);
    let inputs = [("a.txt", "small"), ("sub/b.txt", &large), ("c", "")];
    let wanted: Vec<_> = [("a.txt", "a.txt:", "small"), ("c", "c:", ""), ("sub/b.txt", "b.txt:", &large)]
        .map(|(name, head, text)| (name.to_owned(), format!("{head}{text}")))
        .into();
    let args = ["--", "p{name}:", "r{}"];
    let alone = place(&inputs);
    alone.queen(guest("busy.wat"), &args).expect(0, &["3 done"]);
    assert_eq!(outputs(&alone), wanted);
    let carried = place(&inputs);
    let king = carried.king();
    let _duke = carried.duke(&king, &[]);
    carried.start_queen(&king, guest("busy.wat"), &args).finish().expect(0, &["3 done"]);
    assert_eq!(outputs(&carried), wanted);
}

#[test]
fn a_result_may_be_a_file_whose_ending_the_output_gets() {
    let place = place(&[("a.svg", "a"), ("sub/b.svg", "b"), ("c", "c")]);
    place.queen(guest("busy.wat"), &["--", "w{out.png}", "plogged"]).expect(0, &["3 done"]);
    let named = |name: &str| (name.to_owned(), "new".to_owned());
    assert_eq!(outputs(&place), [named("a.png"), named("c.png"), named("sub/b.png")]);
    // The outputs are found again, and another name can be chosen.
    place.queen(guest("busy.wat"), &["--", "w{out.png}", "plogged"]).expect(0, &["3 skipped"]);
    place.queen(guest("busy.wat"), &["--output-name", "{path}", "--", "w{out.png}"]).expect(0, &["3 done"]);
    assert_eq!(outputs(&place).len(), 6);
}

#[test]
fn inputs_whose_results_would_have_one_name_are_told_before_the_run() {
    let place = place(&[("a.svg", "a"), ("a.txt", "a")]);
    place.queen(guest("busy.wat"), &["--", "w{out.png}"]).expect(2, &["a.png: the output of a.svg and of a.txt"]);
}

#[test]
fn placeholders_for_results_must_agree_and_belong_to_commands() {
    let place = place(&[("a", "a")]);
    place.queen(guest("busy.wat"), &["--", "w{out.png}", "w{out}"]).expect(2, &["have more than one ending"]);
    let why = "the arguments name its result as a file ({out}), which only a program with _start can have";
    place.queen(guest("upper.wat"), &["--", "{out}"]).expect(2, &[why]);
    let why = "it imports no function that opens files";
    place.queen(guest("upper.wat"), &["--", "{}"]).expect(2, &[why]);
    place.queen(guest("upper.wat"), &["--raw-args", "--", "{out}"]).expect(0, &["1 done"]);
}

#[test]
fn other_statuses_may_be_results_and_the_output_of_failures_is_kept() {
    let place = place(&[("a", "a")]);
    let args = ["--", "pseen so far", "e9"];
    place.queen(guest("busy.wat"), &args).expect(1, &["failed: a: exited with status 9"]);
    let failures = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap();
    assert!(failures.contains(r#""stdout":"seen so far""#), "{failures}");
    let args = [&["--ok-status", "0,9"][..], &args].concat();
    place.queen(guest("busy.wat"), &args).expect(0, &["1 done"]);
    assert_eq!(outputs(&place), [("a".to_owned(), "seen so far".to_owned())]);
    place.queen(guest("busy.wat"), &["--ok-status", "1-x"]).expect(2, &["\"1-x\" is neither an exit status nor two"]);
}

#[test]
fn a_run_with_nothing_but_empty_outputs_is_told_loudly() {
    let place = place(&[("a", "a"), ("b", "b")]);
    let warning = "warning: all outputs are empty";
    place.queen(guest("busy.wat"), &["--force"]).expect(0, &["2 done", warning, "--ok-empty"]);
    for args in [&["--force", "--ok-empty"][..], &["--force", "--", "p."]] {
        let finished = place.queen(guest("busy.wat"), args);
        finished.expect(0, &["2 done"]);
        assert!(!finished.stderr.contains(warning), "{}", finished.stderr);
    }
}
