//! Which files are inputs, what their outputs are called, and which of them run again: in local mode and on a kingdom.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its expectation does")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use distwasm_process::clock::time_of_day;
use distwasm_tests::real::{Finished, King, Place, Process, guest, until};

/// Where a run happens.
enum Where<'a> {
    Here,
    At(&'a King),
}

/// A queen that echoes inputs into this output folder.
fn command(place: &Place, at: &Where, output: &str, args: &[&str]) -> Command {
    command_of("echo.wat", place, at, output, args)
}

fn command_of(program: &str, place: &Place, at: &Where, output: &str, args: &[&str]) -> Command {
    let mut command = place.command("queen");
    command.arg("--binary").arg(guest(program)).arg("--output").arg(place.path().join(output));
    if !args.iter().any(|arg| arg.starts_with("--input=") || *arg == "--input") {
        command.arg("--input").arg(place.input());
    }
    if let Where::At(king) = at {
        command.args(["--king-address", &king.address]);
    }
    command.args(args).current_dir(place.path());
    command
}

fn run(place: &Place, at: &Where, output: &str, args: &[&str]) -> Finished {
    Finished::of(&mut command(place, at, output, args))
}

/// The files below a folder, without the record, in the order of their names.
fn files(place: &Place, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let Ok(entries) = fs::read_dir(place.path().join(folder).join(&below)) else { continue };
        for entry in entries.flatten() {
            let path = below.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => folders.extend((path != Path::new(".distwasm")).then_some(path)),
                false => found.push(path.display().to_string()),
            }
        }
    }
    found.sort();
    found
}

/// Some files of a small project; `old` is an hour older than the others.
fn project() -> Place {
    let place = Place::default();
    for name in ["a.txt", "b.md", "old", ".hidden", ".git/config", "docs/a.txt", "docs/draft/c.txt"] {
        place.write(name, name);
    }
    let old = fs::File::options().write(true).open(place.input().join("old")).unwrap();
    old.set_modified(time_of_day() - Duration::from_secs(3600)).unwrap();
    fs::write(place.path().join("globs"), "# not these\n*.md\n.*\n").unwrap();
    fs::write(place.path().join("list"), "docs/a.txt\na.txt\n\n./b.md\n").unwrap();
    fs::write(place.path().join("list0"), b"docs/a.txt\0old\0").unwrap();
    let mark = fs::File::create(place.path().join("mark")).unwrap();
    mark.set_modified(time_of_day() - Duration::from_secs(600)).unwrap();
    place
}

#[test]
fn filters_leave_the_same_inputs_here_and_on_a_kingdom() {
    let place = project();
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let all = [".git/config", ".hidden", "a.txt", "b.md", "docs/a.txt", "docs/draft/c.txt", "old"];
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&[], &all, ""),
        (&["--include", "*.txt"], &["a.txt", "docs/a.txt", "docs/draft/c.txt"], "4 left out by --include"),
        (&["--include", "docs/**", "--exclude", "draft/"], &["docs/a.txt"], "1 folder left out by --exclude"),
        (&["--exclude", "docs", "--include", "a.txt"], &["a.txt", "docs/a.txt"], "1 left out by --exclude"),
        (&["--exclude-from", "globs"], &["a.txt", "docs/a.txt", "docs/draft/c.txt", "old"], "2 left out by --exclude"),
        (&["--exclude", ".*", "--exclude", "/docs", "--newer-than", "mark"], &["a.txt", "b.md"], "by --newer-than"),
        (&["--newer-than", "2999-01-01"], &[], "all files are left out"),
        (&["--limit", "2"], &[".hidden", "a.txt"], ""),
        (&["--exclude", ".*", "--limit", "1"], &["a.txt"], ""),
        (&["--input-list", "list"], &["a.txt", "b.md", "docs/a.txt"], ""),
        (&["--input-list", "list", "--exclude", "*.md"], &["a.txt", "docs/a.txt"], "1 left out by --exclude"),
        (&["--input-list", "list", "--limit", "1"], &["docs/a.txt"], ""),
        (&["--input-list", "list0", "-0"], &["docs/a.txt", "old"], ""),
        (&["--input", "input/docs/a.txt"], &["a.txt"], ""),
    ];
    for (number, (args, expected, said)) in cases.iter().enumerate() {
        for (at, output) in [(Where::Here, format!("here-{number}")), (Where::At(&king), format!("at-{number}"))] {
            run(&place, &at, &output, args).expect(0, &[said]);
            assert_eq!(files(&place, &output), *expected, "{args:?}");
            // Given again, the same command finds everything done.
            let again = run(&place, &at, &output, args);
            again.expect(0, &[&format!("0 done, {} skipped", expected.len())]);
        }
    }
}

#[test]
fn shards_and_samples_are_parts_of_the_inputs() {
    let place = Place::default();
    place.write_sums(200);
    let shards: Vec<Process> = ["1/3", "2/3", "3/3"]
        .map(|shard| place.start(&mut command(&place, &Where::Here, "output", &["--shard", shard]), "queen"))
        .into();
    let mut done = 0;
    for shard in shards {
        let ended = shard.finish();
        ended.expect(0, &["left out by --shard", "0 skipped"]);
        done += ended.stderr.lines().find_map(|line| line.split_once(" done, ")?.0.parse::<u32>().ok()).unwrap();
    }
    assert_eq!((done, place.outputs_count()), (200, 200));
    let sample = |output: &str, seed: &str| {
        run(&place, &Where::Here, output, &["--sample", "20", "--sample-seed", seed]).expect(0, &["20 done"]);
        files(&place, output)
    };
    let (one, same, other) = (sample("one", "0"), sample("same", "0"), sample("other", "1"));
    assert!(one == same && one != other, "{one:?} {same:?} {other:?}");
}

#[test]
fn shards_share_outputs_without_clashes() {
    let place = Place::default();
    for name in ["b", "d"] {
        place.write(format!("{name}.x"), name);
        place.write(format!("{name}.y"), name);
    }
    for shard in ["1/2", "2/2"] {
        let clash = run(&place, &Where::Here, "output", &["--output-name", "{stem}", "--shard", shard]);
        clash.expect(2, &["b: the output of b.x and of b.y"]);
    }
}

#[test]
fn outputs_are_called_as_the_template_says() {
    let place = project();
    place.write(OsStr::from_bytes(b"docs/\xff.txt"), "odd");
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let txt = ["--include", "*.txt"];
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&txt, "{dir}/{stem}.png", &["a.png", "docs/a.png", "docs/draft/c.png", "docs/\u{fffd}.png"]),
        (&txt, "flat/{number}-{name}", &["flat/1-a.txt", "flat/2-a.txt", "flat/3-\u{fffd}.txt", "flat/4-c.txt"]),
        (
            &txt,
            "{ext}/{path}.x",
            &["txt/a.txt.x", "txt/docs/a.txt.x", "txt/docs/draft/c.txt.x", "txt/docs/\u{fffd}.txt.x"],
        ),
        (&["--input", "input/b.md"], "one", &["one"]),
    ];
    for (number, (args, template, expected)) in cases.iter().enumerate() {
        for (at, output) in [(Where::Here, format!("here-{number}")), (Where::At(&king), format!("at-{number}"))] {
            let args = [args, &["--output-name", template][..]].concat();
            run(&place, &at, &output, &args).expect(0, &["0 skipped"]);
            assert_eq!(files(&place, &output), *expected, "{template}");
            let again = run(&place, &at, &output, &args);
            again.expect(0, &[&format!("0 done, {} skipped", expected.len())]);
        }
    }
}

#[test]
fn clashes_are_found_before_anything_runs() {
    let place = project();
    let clash = run(&place, &Where::Here, "output", &["--output-name", "{stem}"]);
    clash.expect(2, &["keeps inputs of several folders apart", "a: the output of a.txt and of docs/a.txt"]);
    assert!(!place.output().exists());
    run(&place, &Where::Here, "output", &["--output-name", "{stem}", "--exclude", "docs"]).expect(0, &["5 done"]);
    // An output that cannot be is one failure; all others are there.
    place.write("...", "odd");
    let odd = run(&place, &Where::Here, "output", &["--output-name", "{stem}", "--exclude", "docs"]);
    odd.expect(1, &["failed: ...: its output would lead out of the output folder", "5 skipped", "1 failed"]);
}

#[test]
fn one_input_goes_through_a_pipe() {
    let place = Place::default();
    place.write("x", "from a file");
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    for at in [Where::Here, Where::At(&king)] {
        let piped = |args: &[&str], input: &[u8]| {
            let mut command = place.command("queen");
            command.arg("--binary").arg(guest("echo.wat")).args(args).current_dir(place.path());
            if let Where::At(king) = &at {
                command.args(["--king-address", &king.address]);
            }
            fs::write(place.path().join("stdin"), input).unwrap();
            let output = command
                .stdin(fs::File::open(place.path().join("stdin")).unwrap())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
        };
        let large = vec![b'x'; 3 << 20];
        let (status, stdout, stderr) = piped(&["--input", "-", "--output", "-"], &large);
        assert_eq!((status, stdout == large), (Some(0), true), "{stderr}");
        let (status, stdout, _) = piped(&["--input", "input/x", "--output", "-"], b"");
        assert_eq!((status, stdout), (Some(0), b"from a file".to_vec()));
        for input in [b"z", b"u"] {
            // What comes from stdin is another input each time.
            let (status, stdout, _) = piped(&["--input", "-", "--output", "named", "--output-name", "y"], input);
            let output = fs::read(place.path().join("named/y")).unwrap();
            assert_eq!((status, stdout, output), (Some(0), vec![], input.to_vec()));
        }
        let (status, stdout, stderr) = piped(&["--input", "input/x", "--output", "-", "--exclude", "*"], b"");
        assert_eq!((status, stdout), (Some(2), b"".to_vec()), "{stderr}");
    }
    assert!(!files(&place, ".").iter().any(|name| name.contains("failures") || name.contains("unfinished")));
}

#[test]
fn a_list_is_run_as_far_as_it_can_be() {
    let place = project();
    let inside = place.input().join("b.md");
    fs::write(place.path().join("list"), format!("a.txt\nnowhere\ndocs\na.txt\n{}\n", inside.display())).unwrap();
    let ended = run(&place, &Where::Here, "output", &["--input-list", "list"]);
    ended.expect(
        1,
        &["1 line of the list", "skipped docs: it is a folder", "failed: nowhere: it is not there", "2 done"],
    );
    assert_eq!(files(&place, "output"), ["a.txt", "b.md"]);
    // Outputs may stand beside inputs that were named, but not take their places.
    let beside = ["--input-list", "list", "--output-name", "{dir}/{stem}.out"];
    run(&place, &Where::Here, "input", &beside).expect(1, &["2 done"]);
    assert!(place.input().join("a.out").is_file());
    run(&place, &Where::Here, "input", &["--input-list", "list"]).expect(2, &["would take the place of an input"]);
    assert_eq!(fs::read_to_string(place.input().join("a.txt")).unwrap(), "a.txt");
}

fn touch(path: &Path) {
    fs::File::options().append(true).open(path).unwrap().set_modified(time_of_day() + Duration::from_secs(5)).unwrap();
}

#[test]
fn what_changed_is_told_and_runs_again_if_that_is_wanted() {
    let place = Place::default();
    place.write_sums(4);
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    for (at, output) in [(Where::Here, "here"), (Where::At(&king), "there")] {
        let queen = |args: &[&str]| run(&place, &at, output, args);
        queen(&[]).expect(0, &["4 done"]);
        touch(&place.input().join("1"));
        queen(&[])
            .expect(0, &["1 of the skipped inputs is newer than its output; --update runs it again", "4 skipped"]);
        queen(&["--update"]).expect(0, &["1 done, 3 skipped"]);
        let old = fs::metadata(place.path().join(output).join("1")).unwrap().modified().unwrap();
        fs::File::open(place.input().join("1")).unwrap().set_modified(old).unwrap();
        queen(&["--update"]).expect(0, &["0 done, 4 skipped"]);
        let other = queen(&["--", "x"]);
        other.expect(
            0,
            &[
                "4 of the skipped inputs have outdated outputs (of another program, folder, arguments or settings)",
                "4 skipped",
            ],
        );
        queen(&["--", "x"]).expect(0, &["--update runs them again"]);
        queen(&["--update", "--env", "A=1"]).expect(0, &["4 done"]);
        assert!(!queen(&["--env", "A=1"]).stderr.contains("--update"));
        queen(&["--force", "--env", "A=1"]).expect(0, &["4 done, 0 skipped"]);
        fs::write(place.path().join(output).join("5"), "of an input that is gone").unwrap();
        fs::create_dir_all(place.path().join(output).join("6/7")).unwrap();
        fs::write(place.path().join(output).join("6/7/8"), "too").unwrap();
        queen(&["--limit", "1"]).expect(0, &["1 skipped"]);
        let pruned = queen(&["--prune", "--limit", "1"]);
        pruned.expect(0, &["2 files among the outputs were removed"]);
        assert_eq!(files(&place, output), ["1", "2", "3", "4"]);
        assert!(!place.path().join(output).join("6").exists());
    }
}

#[test]
fn outputs_are_pruned_under_the_names_that_they_have() {
    let place = project();
    let name = ["--output-name", "{dir}/{stem}.out", "--exclude", ".*"];
    let prune = [&name[..], &["--prune"]].concat();
    run(&place, &Where::Here, "output", &name).expect(0, &["5 done"]);
    fs::remove_file(place.input().join("docs/a.txt")).unwrap();
    run(&place, &Where::Here, "output", &prune).expect(0, &["1 file among the outputs was removed"]);
    assert_eq!(files(&place, "output"), ["a.out", "b.out", "docs/draft/c.out", "old.out"]);
    // A folder that is no output folder, and one whose inputs are all gone, keep their files.
    run(&place, &Where::Here, "list", &["--prune"]).expect(2, &["is not a folder"]);
    fs::create_dir(place.path().join("strange")).unwrap();
    fs::write(place.path().join("strange/file"), "").unwrap();
    run(&place, &Where::Here, "strange", &["--prune"]).expect(2, &["has no record of a run"]);
    fs::remove_dir_all(place.input()).unwrap();
    fs::create_dir(place.input()).unwrap();
    run(&place, &Where::Here, "output", &["--prune"]).expect(2, &["there is no input at all"]);
    assert_eq!(files(&place, "output").len(), 4);
    assert!(place.path().join("strange/file").exists());
}

#[test]
fn a_run_that_was_killed_is_taken_up_under_all_flags() {
    const UNITS: usize = 300;
    let place = Place::default();
    for number in 0..UNITS {
        place.write(format!("{number}.in"), format!("{number}"));
        place.write(format!("{number}.no"), "");
    }
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let flags = ["--include", "*.in", "--output-name", "{dir}/{stem}.out"];
    for (at, output) in [(Where::Here, "here"), (Where::At(&king), "there")] {
        let slow = |args: &[&str]| command_of("slow.wat", &place, &at, output, args);
        for more in [&[][..], &["--update", "--", "other"]] {
            let args = [&flags[..], more].concat();
            let mark = time_of_day();
            let queen = place.start(&mut slow(&args), "queen");
            // Some outputs are new, and then the queen is killed.
            let new = || {
                let fresh = |name: &String| {
                    let path = place.path().join(output).join(name);
                    name.ends_with(".out") && fs::metadata(path).is_ok_and(|found| found.modified().unwrap() > mark)
                };
                files(&place, output).iter().filter(|name| fresh(name)).count()
            };
            until("a few outputs", || (new() > 5).then_some(()), || format!("{} outputs", new()));
            drop(queen);
            let ended = Finished::of(&mut slow(&args));
            ended.expect(0, &["0 failed", &format!("{UNITS} left out by --include")]);
            let outputs = files(&place, output);
            assert_eq!(outputs.len(), UNITS, "{outputs:?}");
            assert!(outputs.iter().all(|name| name.ends_with(".out")), "{outputs:?}");
            Finished::of(&mut slow(&args)).expect(0, &[&format!("0 done, {UNITS} skipped")]);
        }
    }
}

#[test]
fn a_record_that_cannot_be_used_is_told_and_is_not_in_the_way() {
    let place = Place::default();
    place.write_sums(2);
    let record = place.output().join(".distwasm/run.json");
    for (text, said, done) in
        [("{", "is damaged; it begins anew", "2 done"), (r#"{"format":99}"#, "newer version of distwasm", "2 skipped")]
    {
        fs::create_dir_all(record.parent().unwrap()).unwrap();
        fs::write(&record, text).unwrap();
        run(&place, &Where::Here, "output", &[]).expect(0, &["warning: the record of earlier runs", said, done]);
    }
    fs::remove_dir_all(record.parent().unwrap()).unwrap();
    fs::write(record.parent().unwrap(), "a file of the user").unwrap();
    run(&place, &Where::Here, "output", &[]).expect(0, &["failed to read the record of earlier runs", "2 skipped"]);
}

#[test]
fn the_outputs_of_one_run_are_the_inputs_of_the_next() {
    let place = project();
    run(&place, &Where::Here, "one", &["--exclude", ".*"]).expect(0, &["5 done"]);
    run(&place, &Where::Here, "two", &["--input", "one"]).expect(0, &["5 done", "0 failed"]);
    assert_eq!(files(&place, "one"), files(&place, "two"));
}

#[test]
fn no_input_gets_the_result_of_another() {
    let place = project();
    let number = ["--output-name", "{number}", "--exclude", ".*"];
    run(&place, &Where::Here, "numbered", &number).expect(0, &["5 done"]);
    run(&place, &Where::Here, "numbered", &number).expect(0, &["5 skipped"]);
    place.write("0", "comes first");
    run(&place, &Where::Here, "numbered", &number).expect(2, &["the inputs have other numbers than in the run before"]);
    assert_eq!(fs::read_to_string(place.path().join("numbered/1")).unwrap(), "a.txt");
    let again = [&number[..], &["--force"]].concat();
    run(&place, &Where::Here, "numbered", &again).expect(0, &["6 done"]);
    assert_eq!(fs::read_to_string(place.path().join("numbered/1")).unwrap(), "comes first");
    // Another folder of inputs with the same names.
    fs::create_dir(place.path().join("other")).unwrap();
    fs::write(place.path().join("other/a.txt"), "another").unwrap();
    run(&place, &Where::Here, "output", &[]).expect(0, &[]);
    let other = ["--input", "other"];
    run(&place, &Where::Here, "output", &other).expect(0, &["1 of the skipped inputs has an outdated output"]);
    let pruned = run(&place, &Where::Here, "output", &["--input", "other", "--prune"]);
    assert!(!pruned.stderr.contains("removed"), "{}", pruned.stderr);
    run(&place, &Where::Here, "output", &["--input", "other", "--update"]).expect(0, &["1 done"]);
    assert_eq!(fs::read_to_string(place.path().join("output/a.txt")).unwrap(), "another");
}

#[test]
fn what_the_user_did_not_mean_is_noticed_before_anything_runs() {
    let place = project();
    let failures = place.output().join("failures");
    let named = ["--failures", failures.to_str().unwrap()];
    // Paths as `find` writes them.
    fs::write(place.path().join("found"), "input/a.txt\ninput/b.md\n").unwrap();
    run(&place, &Where::Here, "output", &["--input-list", "found"])
        .expect(2, &["input -printf '%P\\n'` writes them so"]);
    // A folder of outputs inside the folder of inputs, left out or not.
    run(&place, &Where::Here, "input/out", &[]).expect(2, &["unless --exclude leaves out the folder of outputs"]);
    run(&place, &Where::Here, "input/out", &["--exclude", "/out"]).expect(0, &["7 done"]);
    run(&place, &Where::Here, "input/out", &["--exclude", "/out"]).expect(0, &["0 done, 7 skipped"]);
    // The file of failures is no output.
    fs::create_dir_all(place.output()).unwrap();
    run(&place, &Where::Here, "output", &["--exclude", "out"]).expect(0, &["7 done"]);
    fs::write(&failures, "{\"input\":\"a.txt\",\"output\":\"x\"}\n").unwrap();
    let prune = [&named[..], &["--prune", "--dry-run", "--exclude", "out"]].concat();
    let pruned = run(&place, &Where::Here, "output", &prune);
    assert!(!pruned.stdout.contains("prune"), "{}", pruned.stdout);
    // A flag of another program, and a word alone.
    for (args, said) in [
        (&["--delete"][..], "--prune removes outputs of no input"),
        (&["logs"], "arguments for the program come after `--`"),
        (&["-output=x"], "long flags have two"),
    ] {
        let refused = run(&place, &Where::Here, "output", args);
        refused.expect(2, &[said]);
        assert!(!refused.stderr.contains("tip:"), "{}", refused.stderr);
    }
}

#[test]
fn nothing_is_removed_or_replaced_that_no_run_wrote() {
    let place = Place::default();
    for name in ["1.x", "2.x", "bad.x"] {
        place.write(name, if name == "bad.x" { "one + two" } else { "1 + 1" });
    }
    let summer =
        |output: &str, args: &[&str]| Finished::of(&mut command_of("summer.wasm", &place, &Where::Here, output, args));
    let named = ["--output-name", "{stem}.sum"];
    summer("output", &named).expect(1, &["2 done"]);
    // All inputs are there, though only one failed before; a link that leads nowhere for now is an input, too.
    summer("output", &[&named[..], &["--prune", "--retry-failed"]].concat()).expect(1, &["0 done", "1 failed"]);
    fs::rename(place.input().join("1.x"), place.path().join("1.x")).unwrap();
    symlink("../nowhere", place.input().join("1.x")).unwrap();
    summer("output", &[&named[..], &["--prune"]].concat()).expect(1, &["skipped 1.x: it is a link to nothing"]);
    assert_eq!(files(&place, "output"), ["1.sum", "2.sum"]);
    // Files of a folder that outputs were once written beside, but not by these runs.
    fs::create_dir(place.path().join("mine")).unwrap();
    for name in ["thesis", "2.x", "2.sum"] {
        fs::write(place.path().join("mine").join(name), "3 + 3").unwrap();
    }
    until("another tick of the clock", || is_later(&place).then_some(()), String::new);
    let mine = ["--input", "mine/2.x", "--output-name", "{stem}.sum", "--force"];
    summer("mine", &mine).expect(1, &["its output would replace a file that no run in the record wrote"]);
    summer("mine", &["--prune"]).expect(1, &[]);
    for name in ["thesis", "2.x", "2.sum"] {
        assert_eq!(fs::read_to_string(place.path().join("mine").join(name)).unwrap(), "3 + 3", "{name}");
    }
}

/// Whether the clock of files has gone on.
fn is_later(place: &Place) -> bool {
    let time = |name: &str| fs::metadata(place.path().join(name)).unwrap().modified().unwrap();
    fs::write(place.path().join("now"), "").unwrap();
    time("now") > time("mine/2.sum")
}

#[test]
fn links_among_the_outputs_lead_to_no_input() {
    let place = Place::default();
    place.write("sub/x", "1 + 1");
    fs::create_dir(place.output()).unwrap();
    symlink("../input/sub", place.output().join("sub")).unwrap();
    for args in [&[][..], &["--force"]] {
        run(&place, &Where::Here, "output", args).expect(1, &["its outputs would lie among the inputs"]);
    }
    assert_eq!(fs::read_to_string(place.input().join("sub/x")).unwrap(), "1 + 1");
    // A lock is not made through a link, either.
    fs::create_dir_all(place.output().join(".distwasm")).unwrap();
    fs::write(place.path().join("precious"), "precious").unwrap();
    symlink("../../precious", place.output().join(".distwasm/shard-1-of-1.lock")).unwrap();
    run(&place, &Where::Here, "output", &["--shard", "1/1"]).expect(2, &["failed to use"]);
    assert_eq!(fs::read_to_string(place.path().join("precious")).unwrap(), "precious");
}

#[test]
fn failures_stay_until_their_inputs_are_done() {
    let place = Place::default();
    place.write("a", "1 + 1");
    place.write("bad", "one + two");
    let summer = |args: &[&str]| Finished::of(&mut command_of("summer.wasm", &place, &Where::Here, "output", args));
    let kept = || fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap_or_default().lines().count();
    summer(&[]).expect(1, &["1 failed"]);
    fs::write(place.path().join("elsewhere"), "2 + 2").unwrap();
    summer(&["--input", "elsewhere"]).expect(0, &["1 done"]);
    summer(&["--limit", "1"]).expect(0, &["1 skipped"]);
    assert_eq!(kept(), 1);
    // An input that fails anew keeps its old output, and stays a failure.
    place.write("a", "one + one");
    touch(&place.input().join("a"));
    summer(&["--update"]).expect(1, &["2 failed"]);
    summer(&["--retry-failed"]).expect(1, &["2 failed"]);
    assert_eq!(kept(), 2);
}
