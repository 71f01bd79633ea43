//! Programs that read their input from a file, leave their result in one, or end with another status than 0, from the
//! queen's command line to the outputs.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::fs;
use std::path::Path;

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
    place.queen(guest("busy.wat"), &["--", "w{out.png}", "w{out}"]).expect(2, &["name more than one result"]);
    let why = "the arguments name its result as a file ({out}) or a folder ({outdir}), which only a program with _start can have";
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

#[test]
fn a_result_may_be_a_folder_which_is_there_whole_or_not_at_all() {
    // Small and large ones: without a king, those of inputs of 16 KiB and more are left in files.
    let large = "x".repeat(100_000);
    let inputs = [("a", "small"), ("sub/b.txt", &*large)];
    let args = ["--", "d{outdir}/empty", "d{outdir}/deep", "w{outdir}/deep/one", "M{}", "M{outdir}/{name}.input"];
    let wanted = [
        ("a/a.input", "small"),
        ("a/deep/one", "new"),
        ("sub/b.txt/b.txt.input", &large),
        ("sub/b.txt/deep/one", "new"),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()));
    let alone = place(&inputs);
    alone.queen(guest("busy.wat"), &args).expect(0, &["2 done"]);
    assert_eq!(outputs(&alone), wanted);
    assert!(alone.output().join("a/empty").is_dir());
    let carried = place(&inputs);
    let king = carried.king();
    let _duke = carried.duke(&king, &[]);
    carried.start_queen(&king, guest("busy.wat"), &args).finish().expect(0, &["2 done"]);
    assert_eq!(outputs(&carried), wanted);
}

#[test]
fn a_folder_that_is_an_output_is_found_again_and_exchanged_as_a_whole() {
    let place = place(&[("a", "a"), ("b", "b")]);
    let run = |args: &[&str]| place.queen(guest("busy.wat"), args);
    run(&["--", "w{outdir}/old"]).expect(0, &["2 done"]);
    run(&["--", "w{outdir}/new"]).expect(0, &["2 skipped"]);
    run(&["--update", "--", "w{outdir}/new"]).expect(0, &["2 done"]);
    let new = |name: &str| (name.to_owned(), "new".to_owned());
    assert_eq!(outputs(&place), [new("a/new"), new("b/new")]);
    run(&["--force", "--", "w{outdir}/newer"]).expect(0, &["2 done"]);
    assert_eq!(outputs(&place), [new("a/newer"), new("b/newer")]);
    // A failure leaves what was there, and nothing unfinished.
    run(&["--force", "--", "w{outdir}/newest", "e1"]).expect(1, &["2 failed"]);
    assert_eq!(outputs(&place), [new("a/newer"), new("b/newer")]);
    let names = fs::read_dir(place.output()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, [".distwasm", "a", "b"]);
    // Not even what lies there by chance is taken for an output, or replaced.
    place.write("mine", "m");
    fs::create_dir(place.output().join("mine")).unwrap();
    fs::write(place.output().join("mine/notes"), "precious").unwrap();
    let why = "something that is not a folder of results has that name";
    run(&["--force", "--", "w{outdir}/x"]).expect(1, &["2 done", why]);
    assert_eq!(fs::read(place.output().join("mine/notes")).unwrap(), b"precious");
    // What the user adds to an output does not make it newer.
    fs::write(place.output().join("a/thumbnail"), "").unwrap();
    run(&["--update", "--", "w{outdir}/y"]).expect(1, &["2 done"]);
    assert!(!place.output().join("a/thumbnail").exists());
    run(&["--prune", "--", "w{outdir}/x"]).expect(2, &["--prune removes single files"]);
    run(&["--force", "--", "w{out}"]).expect(1, &["something that is not a file has that name"]);
}

#[test]
fn the_archive_of_a_folder_goes_to_stdout() {
    let place = place(&[("a", "text")]);
    let mut queen = place.command("queen");
    queen.arg("--binary").arg(guest("busy.wat")).arg("--input").arg(place.input().join("a")).args(["--output", "-"]);
    let output = queen.args(["--", "w{outdir}/one", "d{outdir}/two"]).output().unwrap();
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    let paths: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(paths, [Path::new("one"), Path::new("two")]);
}
