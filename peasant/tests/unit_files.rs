//! The files of a unit: what guests make of them, and that nothing is left of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where its expectation does")]

mod talk;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};

use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::UnitNo,
    pipe::{Description, HEADER_BYTES},
};
use talk::{FileUnit, Peasant, guest, hand};

/// A scratch of 1 MiB.
const SMALL: [&str; 2] = ["--scratch", "1MB"];

/// Starts a guest of `busy.wat` with these flags, which are followed by `--` and its arguments.
fn busy(args: &[&str]) -> Peasant {
    let args: Vec<_> = ["--described"].into_iter().chain(args.iter().copied()).collect();
    Peasant::start(guest("busy.wat"), &args)
}

/// Its answer to a unit of this name.
fn ask(peasant: &mut Peasant, name: &str, input: &[u8]) -> Result<String, Failure> {
    let mut frame = Vec::new();
    Description { unit: UnitNo(7), attempt: 1, name: name.as_bytes() }.append(|part| frame.extend_from_slice(part));
    peasant.send_all(&[frame.split_off(HEADER_BYTES), input.to_vec()]);
    peasant.receive().map(|answer| String::from_utf8(answer).unwrap())
}

/// The answer, and what is on stderr, of a unit that ends with status 9.
fn log(args: &[&str]) -> String {
    let args: Vec<_> = args.iter().copied().chain(["e9"]).collect();
    let mut peasant = busy(&args);
    let failure = ask(&mut peasant, "a", b"input").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Exit, "{}", failure.message);
    peasant.ends_well();
    String::from_utf8(failure.stderr).unwrap()
}

#[test]
fn the_input_is_a_file_with_its_own_name() {
    let mut peasant = busy(&["--", "p{name} ", "p{stem} ", "p{ext} ", "p{dir} ", "p{number} ", "p{} ", "r{}", "c"]);
    let answer = ask(&mut peasant, "some/dir/report.txt", b"its text").unwrap();
    assert_eq!(answer, "report.txt report txt some/dir 7 in/report.txt its text", "and nothing is on stdin");
    let answer = ask(&mut peasant, "next", b"other").unwrap();
    assert_eq!(answer, "next next  . 7 in/next other");
    peasant.ends_well();
}

#[test]
fn a_guest_may_change_its_input_and_changes_nothing_else() {
    let mut peasant = busy(&["--", "o{}", "r{}", "p ", "w{}", "r{}", "p ", "x{}", "r{}"]);
    for _ in 0..2 {
        assert_eq!(ask(&mut peasant, "a", b"text").unwrap(), "!ext new ");
    }
    peasant.ends_well();
}

#[test]
fn a_file_that_was_handed_over_is_the_input() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![b'x'; 200_000]).unwrap();
    let output = tempfile::tempfile().unwrap();
    let (mut peasant, socket) = Peasant::start_with_files(guest("busy.wat"), &["--", "r{}", "r{}", "o{}"]);
    let unit = FileUnit { input: Err((&file, 200_000)), output: Some(&output) };
    let bodies = hand(&socket, &[unit]);
    peasant.send_all(&bodies);
    assert_eq!(peasant.receive(), Ok(Vec::new()));
    assert_eq!(output.metadata().unwrap().len(), 400_000);
    file.seek(SeekFrom::Start(0)).unwrap();
    assert!(io::read_to_string(&file).unwrap().bytes().all(|byte| byte == b'x'), "the guest changed a copy");
    peasant.ends_well();
}

#[test]
fn the_result_may_be_a_file() {
    let mut peasant = busy(&["--", "w{out.png}", "pnot the result"]);
    assert_eq!(ask(&mut peasant, "a.txt", b"").unwrap(), "new");
    peasant.ends_well();
    let output = tempfile::tempfile().unwrap();
    let (mut peasant, socket) = Peasant::start_with_files(guest("busy.wat"), &["--", "w{out}"]);
    let bodies = hand(&socket, &[FileUnit { input: Ok(b""), output: Some(&output) }]);
    peasant.send_all(&bodies);
    assert_eq!((peasant.receive(), output.metadata().unwrap().len()), (Ok(Vec::new()), 3));
    peasant.ends_well();
}

#[test]
fn an_input_stays_the_input_wherever_it_is_moved() {
    let mut peasant = busy(&["--", "m{}", "r/moved", "w{out}"]);
    assert_eq!(ask(&mut peasant, "a", b"text").unwrap(), "new");
    peasant.ends_well();
    let mut peasant = busy(&["--", "m{}", "r/moved", "p."]);
    assert_eq!(ask(&mut peasant, "a", b"text").unwrap(), "text.");
    peasant.ends_well();
    // The file that is moved gets the name of the result.
    let mut peasant = busy(&["--", "M{}", "M{out}"]);
    assert_eq!(ask(&mut peasant, "a", b"text").unwrap(), "text");
    peasant.ends_well();
}

#[test]
fn the_log_of_a_unit_without_its_result_is_kept() {
    let mut peasant = busy(&["--", "pwords", "r{}", "{out}"]);
    let failure = ask(&mut peasant, "a", b" and input").unwrap_err();
    assert!(failure.stderr.starts_with(b"words and input"), "{:?}", String::from_utf8_lossy(&failure.stderr));
    peasant.ends_well();
}

#[test]
fn a_result_that_is_not_a_file_is_a_failure() {
    for (args, wanted) in [
        (&["p{out}"][..], "/out/a, its result by the arguments, was not written"),
        (&["d{out}"], "/out/a, its result by the arguments, is not a file"),
        (&["s{out}"], "/out/a, its result by the arguments, is a link, and not a file"),
        (&["w{out}", "m{out}"], "/out/a, its result by the arguments, was not written"),
        (&["wout/../../x{out}"], "/out/a, its result by the arguments, was not written"),
    ] {
        let args: Vec<_> = ["--"].iter().chain(args).copied().collect();
        let mut peasant = busy(&args);
        let failure = ask(&mut peasant, "a", b"").unwrap_err();
        assert_eq!((failure.kind, &*failure.message), (FailureKind::Answer, wanted), "{args:?}");
        peasant.ends_well();
    }
    let mut peasant = busy(&["--answer-bytes", "2", "--", "w{out}"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap_err().message, "answer is longer than 2 bytes");
}

#[test]
fn devices_and_streams_are_there_by_name() {
    let mut peasant =
        busy(&["--", "r/dev/stdin", "w/dev/stdout", "w/dev/null", "r/dev/null", "p.", "w/dev/stderr", "e9"]);
    let failure = ask(&mut peasant, "a", b"input").unwrap_err();
    assert_eq!(failure.stderr, b"new");
    peasant.ends_well();
    let mut peasant = busy(&["--", "r/dev/stdin", "w/dev/stdout", "w/dev/null", "r/dev/null", "p."]);
    assert_eq!(ask(&mut peasant, "a", b"input ").unwrap(), "input new.");
    peasant.ends_well();
    // Removing and making devices is refused, and random bytes differ from run to run.
    assert_eq!(log(&["--", "x/dev/null", "w/dev/sda", "k/dev/urandom"]), "x02\nw02\n");
    assert_eq!(log(&["--deterministic", "--", "k/dev/urandom", "k/dev/zero"]), "k44\n");
}

#[test]
fn a_stream_keeps_its_place_when_it_gets_another_number() {
    let mut peasant = busy(&["--", "pfirst ", "2tmp/log", "pinto the file", "Plog"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap(), "first ");
    peasant.ends_well();
}

#[test]
fn nothing_is_left_for_the_next_unit() {
    let arguments =
        ["w/tmp/a", "dtmp/d", "wtmp/d/b", "dtmp/d/e", "stmp/l", "wtop", "mtmp", "dtmp", "wtmp/c", "k/tmp/c"];
    let mut peasant = busy(&[&["--"], &arguments[..], &["ktmp/a", "e9"]].concat());
    for round in 0..3 {
        let failure = ask(&mut peasant, "a", b"").unwrap_err();
        // A file that is there already would be opened; a directory could not be made.
        assert_eq!(String::from_utf8(failure.stderr).unwrap(), "k44\n", "round {round}: {}", failure.message);
    }
    peasant.ends_well();
}

#[test]
fn a_full_scratch_is_told_and_emptied() {
    let mut peasant = busy(&[&SMALL[..], &["--", "ftmp/x", "e9"]].concat());
    for _ in 0..2 {
        let failure = ask(&mut peasant, "a", b"").unwrap_err();
        assert_eq!(String::from_utf8_lossy(&failure.stderr), "f51\n", "{}", failure.message);
        let wanted = "exited with status 9: f51; its scratch of 1 MiB was full (--scratch SIZE gives more)";
        assert_eq!(failure.message, wanted);
    }
    peasant.ends_well();
}

#[test]
fn a_result_that_filled_the_scratch_is_not_taken_for_whole() {
    let mut peasant = busy(&[&SMALL[..], &["--", "f{out}"]].concat());
    let failure = ask(&mut peasant, "a", b"").unwrap_err();
    let wanted = "its result may be cut; its scratch of 1 MiB was full (--scratch SIZE gives more)";
    assert_eq!((failure.kind, &*failure.message), (FailureKind::Answer, wanted));
    peasant.ends_well();
}

#[test]
fn the_number_of_open_files_is_bounded() {
    let many = vec!["k/dev/null"; 800];
    let mut peasant = busy(&[&["--"], &many[..], &["e9"]].concat());
    let failure = ask(&mut peasant, "a", b"").unwrap_err();
    assert!(failure.stderr.starts_with(b"k33\n"), "{}", failure.message);
    peasant.ends_well();
}

#[test]
fn the_number_of_files_is_bounded() {
    let mut peasant = busy(&[&SMALL[..], &["--", "ntmp/x", "e9"]].concat());
    for _ in 0..2 {
        let failure = ask(&mut peasant, "a", b"").unwrap_err();
        assert_eq!(String::from_utf8_lossy(&failure.stderr), "n51\n");
        assert!(failure.message.contains("was full"), "{}", failure.message);
    }
    peasant.ends_well();
}

#[test]
fn what_is_not_there_is_named_if_it_may_be_the_reason() {
    let mut peasant = busy(&["--", "petc/passwd", "k/etc/passwd", "Pno passwd", "e1"]);
    let failure = ask(&mut peasant, "a", b"").unwrap_err();
    let wanted = "which is not there (--dir HOST::GUEST shares a folder with it)";
    assert!(failure.message.contains(&format!("it looked for \"etc/passwd\", {wanted}")), "{}", failure.message);
    peasant.ends_well();
}

#[test]
fn without_a_scratch_there_is_nothing() {
    let mut peasant = busy(&["--scratch", "0", "--", "w/tmp/x", "e9"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap_err().stderr, b"w08\n");
    peasant.ends_well();
}

#[test]
fn a_shared_directory_stands_beside_the_scratch() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shared"), "here").unwrap();
    let shared = |guest_path| format!("{}::{guest_path}", folder.path().display());
    // The last directory is the root.
    let mut peasant = busy(&["--dir", &shared("/data"), "--", "wtmp/x", "rtmp/x"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap(), "new");
    peasant.ends_well();
    // The last directory is that of devices.
    let mut peasant = busy(&["--dir", &shared("/"), "--", "knull", "kshared", "e9"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap_err().stderr, b"k44\n");
    peasant.ends_well();
}

#[test]
fn statuses_that_are_results_are_chosen() {
    for (list, status, is_result) in
        [("0,1,10-20", 1, true), ("0,1", 2, false), ("1", 0, false), ("1", 1, true), ("0", 0, true)]
    {
        let mut peasant = busy(&["--ok-status", list, "--", "panswer", &format!("e{status}")]);
        let answer = ask(&mut peasant, "a", b"");
        assert_eq!(answer.is_ok(), is_result, "{status} of {list}: {answer:?}");
        peasant.ends_well();
    }
    // To return is to exit with 0.
    let mut peasant = busy(&["--ok-status", "1", "--", "panswer"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap_err().message, "exited with status 0");
}

#[test]
fn raw_arguments_are_not_filled_in() {
    let mut peasant = busy(&["--raw-args", "--", "p{name}{}"]);
    assert_eq!(ask(&mut peasant, "a", b"").unwrap(), "{name}{}");
    peasant.ends_well();
}

/// What is in the archive of a result: paths with the text of a file, or with a slash for a folder.
fn entries(archive: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let is_folder = entry.header().entry_type().is_dir();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let text = if is_folder { "/".to_owned() } else { io::read_to_string(&mut entry).unwrap() };
        (path, text)
    });
    entries.collect()
}

#[test]
fn all_files_of_a_folder_may_be_the_result() {
    let long = "n".repeat(200);
    let args = ["--", "d{outdir}/sub", "w{outdir}/sub/b", "w{outdir}/a", &format!("w{{outdir}}/{long}")];
    let mut peasant = busy(&args);
    for _ in 0..2 {
        let answer = ask(&mut peasant, "x", b"").unwrap();
        let wanted = [("a", "new"), (&*long, "new"), ("sub", "/"), ("sub/b", "new")];
        assert_eq!(entries(answer.as_bytes()), wanted.map(|(path, text)| (path.to_owned(), text.to_owned())));
    }
    peasant.ends_well();
    let mut peasant = busy(&["--", "p{outdir}"]);
    assert_eq!(entries(ask(&mut peasant, "x", b"").unwrap().as_bytes()), [], "an empty folder is a result, too");
    peasant.ends_well();
}

#[test]
fn a_folder_with_anything_but_files_and_folders_is_a_failure() {
    for (args, why) in [
        (&["s{outdir}/link"][..], "/out/link, its result by the arguments, is a link, and not a file"),
        (
            &["w{outdir}/a", "M{outdir}", "Melsewhere"],
            "/out, its result by the arguments, cannot be read: No such file",
        ),
    ] {
        let mut peasant = busy(&[&["--"][..], args].concat());
        let failure = ask(&mut peasant, "x", b"").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Answer, "{}", failure.message);
        assert!(failure.message.contains(why), "{}", failure.message);
        peasant.ends_well();
    }
    // As deep as the paths of a guest can be.
    let deep: Vec<_> = (1..=70).map(|depth| format!("d{{outdir}}{}", "/d".repeat(depth))).collect();
    let args: Vec<_> = ["--"].into_iter().chain(deep.iter().map(String::as_str)).collect();
    let mut peasant = busy(&args);
    let failure = ask(&mut peasant, "x", b"").unwrap_err();
    assert!(failure.message.contains("lies deeper than 64 levels"), "{}", failure.message);
    peasant.ends_well();
}

#[test]
fn a_folder_with_too_many_files_is_a_failure() {
    let mut peasant = busy(&["--scratch", "512MB", "--", "n{outdir}/f", "x{outdir}/f0000000"]);
    let failure = ask(&mut peasant, "x", b"").unwrap_err();
    assert!(
        failure.message.contains("/out, its result by the arguments, has more than 100000 files"),
        "{}",
        failure.message
    );
    peasant.ends_well();
}

#[test]
fn a_folder_that_does_not_fit_into_memory_is_left_in_a_file() {
    let args = ["--answer-bytes=4096", "--max-output-bytes=200000", "--", "M{}", "M{outdir}/x"];
    let mut peasant = busy(&args);
    let large = vec![b'x'; 100_000];
    assert_eq!(ask(&mut peasant, "a", &large).unwrap_err().kind, FailureKind::LongAnswer);
    assert_eq!(entries(ask(&mut peasant, "a", b"small").unwrap().as_bytes()), [("x".to_owned(), "small".to_owned())]);
    peasant.ends_well();
    let mut output = tempfile::tempfile().unwrap();
    let (mut peasant, socket) = Peasant::start_with_files(guest("busy.wat"), &args);
    let bodies = hand(&socket, &[FileUnit { input: Ok(&large), output: Some(&output) }]);
    peasant.send_all(&bodies);
    assert_eq!(peasant.receive(), Ok(Vec::new()));
    output.seek(SeekFrom::Start(0)).unwrap();
    let mut archive = Vec::new();
    output.read_to_end(&mut archive).unwrap();
    assert_eq!(entries(&archive)[0].1.len(), large.len());
    let bodies = hand(&socket, &[FileUnit { input: Ok(&[b'x'; 300_000]), output: Some(&output) }]);
    peasant.send_all(&bodies);
    let failure = peasant.receive().unwrap_err();
    assert_eq!((failure.kind, &*failure.message), (FailureKind::Answer, "answer is longer than 200000 bytes"));
    peasant.ends_well();
}
