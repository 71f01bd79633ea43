//! What people read before a run: dry runs, and refusals of flags that say which inputs there are and what outputs are
//! called. `UPDATE_EXPECT=1 cargo test -p distwasm-tests --test front_screens` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::fs;

use distwasm_tests::real::{Finished, Place, guest, screen};
use expect_test::{Expect, expect, expect_file};

fn expect_run(place: &Place, args: &[&str], expected: &Expect) {
    expected.assert_eq(&screen(place, &place.queen(guest("summer.wasm"), args)));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_why() {
    let place = Place::default();
    place.write_sums(3);
    place.write("bad", "one + two");
    place.write(".hidden", "1 + 1");
    place.queen(guest("summer.wasm"), &["--exclude", ".*", "--exclude", "3"]);
    place.write("4", "4 + 4");
    let other = ["--exclude", ".*", "--dry-run", "--", "more"];
    expect_run(
        &place,
        &["--dry-run"],
        &expect![[r#"
        run   new                .hidden
        skip  done               1
        skip  done               2
        run   new                3
        run   new                4
        run   failed before      bad
        4 to run, 2 done
        status 0
    "#]],
    );
    expect_run(
        &place,
        &other,
        &expect![[r#"
        skip  arguments changed  1
        skip  arguments changed  2
        run   new                3
        run   new                4
        run   failed before      bad
        3 to run, 2 done, 2 of the done made otherwise, 1 left out by --exclude
        status 0
    "#]],
    );
    expect_run(
        &place,
        &[&["--update", "--json"], &other[..]].concat(),
        &expect![[r#"
        {"action":"run","reason":"arguments changed","input":"1","bytes":5}
        {"action":"run","reason":"arguments changed","input":"2","bytes":5}
        {"action":"run","reason":"new","input":"3","bytes":5}
        {"action":"run","reason":"new","input":"4","bytes":5}
        {"action":"run","reason":"failed before","input":"bad","bytes":9}
        {"run":5,"skip":0,"fail":0,"prune":0,"newer":0,"outdated":0,"left_out":{"exclude":1}}
        status 0
    "#]],
    );
    fs::remove_file(place.input().join("1")).unwrap();
    fs::create_dir_all(place.output().join("4")).unwrap();
    let prune = ["--prune", "--dry-run", "--force", "--include", "[0-9]", "--output-name", "{dir}/{stem}{ext}"];
    expect_run(
        &place,
        &prune,
        &expect![[r#"
            fail  4: its output cannot be written: something that is not a file has that name (remove it, or name another --output)
            run   forced             2
            run   new                3
            prune of no input        1
            2 to run, 0 done, 1 to fail, 1 to prune, 2 left out by --include
            status 0
        "#]],
    );
}

/// Flags that are refused, each with a word that says why.
const REFUSED: &[&str] = &[
    "--include a[",
    "--exclude-from globs",
    "--exclude-from nowhere",
    "--newer-than tomorrow",
    "--input-list empty",
    "--input-list nul",
    "--input-list outside",
    "--input-list up",
    "--input-list long",
    "--input-list nowhere",
    "--output-name all.txt",
    "--output-name {steam}.txt",
    "--output-name ../{name}",
    "--output-name {stem}",
    "--output -",
    "--prune",
    "--prune --input-list nul -0",
    "--retry-failed --output-name {number}",
    "--shard 3/2",
    "--sample 0",
    "--limit x",
    "--update --force",
    "-0",
];

#[test]
fn flags_of_inputs_and_outputs_that_cannot_be_used_are_refused() {
    let place = Place::default();
    place.write("a.x", "1 + 1");
    place.write("a.y", "1 + 1");
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    write("empty", "");
    write("nul", "a.x\0a.y\0");
    write("outside", "a.x\n/etc/passwd\n");
    write("up", "../a.x\n");
    write("long", &"n".repeat(300));
    write("globs", "*.x\n{a\n");
    let mut screens = String::new();
    for args in REFUSED {
        let mut queen = place.command("queen");
        queen.arg("-b").arg(guest("summer.wasm")).args(args.split(' ')).current_dir(place.path());
        if !args.contains("--output ") {
            fs::create_dir_all(place.output()).unwrap();
        }
        let screen = screen(&place, &Finished::of(&mut queen));
        let errors = screen.lines().filter(|line| !line.is_empty() && !line.starts_with("For more information"));
        let usage = |line: &&str| !line.starts_with("Usage: ") && !line.starts_with("       queen");
        screens += &format!("$ queen {args}\n");
        errors.filter(usage).for_each(|line| screens += &format!("{line}\n"));
    }
    expect_file!["screens/refusals.txt"].assert_eq(&screens);
}
