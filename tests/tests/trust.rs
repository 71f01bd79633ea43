//! Files that others may have planted: links among inputs and outputs, compiled programs, files with names of ours.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use distwasm_tests::real::{Finished, Place, guest};

#[test]
fn a_link_out_of_the_input_folder_is_followed_only_if_the_user_says_so() {
    let place = Place::default();
    place.write("a", "a");
    fs::create_dir(place.path().join("elsewhere")).unwrap();
    fs::write(place.path().join("elsewhere/secret"), "secret").unwrap();
    symlink("../elsewhere/secret", place.input().join("out")).unwrap();
    symlink("/proc/self/environ", place.input().join("proc")).unwrap();
    symlink("../elsewhere", place.input().join("folder")).unwrap();
    let list = place.path().join("list");
    fs::write(&list, "a\nout\nfolder/secret\n").unwrap();
    let flags = ["--input-list", list.to_str().unwrap()];
    let said = [
        "failed: out: it is a link that leads out of the input folder (--follow-links follows it)",
        "failed: folder/secret: it is a link that leads out",
        "1 done",
        "2 failed",
    ];
    place.queen(guest("echo.wat"), &flags).expect(1, &said);
    assert_eq!(place.outputs_count(), 1);
    // What is not an input is not a failure of one, and its output would stay.
    place.queen(guest("echo.wat"), &["--retry-failed"]).expect(0, &["2 of the earlier failures are skipped"]);
    place.queen(guest("echo.wat"), &[flags[0], flags[1], "--follow-links"]).expect(0, &["2 done"]);
    assert_eq!(place.outputs()[Path::new("folder/secret")], b"secret");
    place.queen(guest("echo.wat"), &["--prune"]).expect(0, &["skipped out: ", "skipped proc: "]);
    assert_eq!(place.outputs()[Path::new("out")], b"secret");
    // A file that is named may be a link.
    let mut queen = place.command("queen");
    queen.arg("-b").arg(guest("echo.wat")).arg("--input").arg(place.input().join("out")).args(["--output", "-"]);
    let finished = Finished::of(&mut queen);
    finished.expect(0, &["1 done"]);
    assert_eq!(finished.stdout, "secret");
}

#[test]
fn a_link_that_another_user_planted_leads_no_output_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can give a link to another user");
        return;
    }
    let place = Place::default();
    let victim = place.path().join("victim");
    fs::create_dir(&victim).unwrap();
    for folder in ["a", "b", "c"] {
        place.write(format!("{folder}/x"), "x");
    }
    fs::create_dir(place.output()).unwrap();
    for (target, link) in [("../victim", "a"), ("../victim", "b")] {
        symlink(target, place.output().join(link)).unwrap();
    }
    lchown(place.output().join("a"), Some(4711), None).unwrap();
    let said =
        ["failed: a: its outputs cannot be written: a is a link that belongs to another user", "2 done", "1 failed"];
    place.queen(guest("echo.wat"), &[]).expect(1, &said);
    let found: Vec<PathBuf> = fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found, [victim.join("x")], "the user's own link is followed");
}

#[test]
fn a_link_in_the_place_of_a_file_of_ours_is_not_followed() {
    let place = Place::default();
    place.write("bad", "bad");
    let victim = place.path().join("victim");
    let beside = |ending: &str| place.path().join(format!("output{ending}"));
    fs::create_dir_all(victim.join("folder")).unwrap();
    // An empty file passes for a file of failures.
    fs::write(victim.join("file"), "").unwrap();
    fs::create_dir(place.output()).unwrap();
    symlink(victim.join("file"), beside(".failures.jsonl")).unwrap();
    symlink(victim.join("folder"), place.output().join(".distwasm")).unwrap();
    let said = ["failures cannot be kept in", "it is a link", "failed to read the record of earlier runs"];
    place.queen(guest("summer.wasm"), &[]).expect(2, &said);
    assert_eq!(fs::read(victim.join("file")).unwrap(), b"");
    place.queen(guest("summer.wasm"), &["--shard", "1/1"]).expect(2, &["as the output folder"]);
    assert_eq!(fs::read_dir(victim.join("folder")).unwrap().count(), 0);
}

#[test]
fn a_compiled_program_to_which_others_could_write_is_not_run() {
    let place = Place::default();
    place.write("a", "a");
    let cache = place.path().join("cache");
    // The folder was there, and others may look into it.
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    let queen = |guest: PathBuf| {
        let command = place.queen_command(guest);
        let mut shell = place.command("/bin/sh");
        shell.args(["-c", "umask 000; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
        Finished::of(shell.arg("--force"))
    };
    let compiled = || {
        let entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "cwasm")).collect::<Vec<_>>()
    };
    queen(guest("echo.wat")).expect(0, &["1 done"]);
    let [echo] = &compiled()[..] else { panic!("{:?}", compiled()) };
    queen(guest("upper.wat")).expect(0, &["1 done"]);
    assert_eq!(place.outputs()[Path::new("a")], b"A");
    for path in fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o022, 0, "{path:?}");
    }
    let upper = compiled().into_iter().find(|path| path != echo).unwrap();
    for path in compiled() {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Somebody could write to it, and did.
    fs::set_permissions(echo, fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(echo, fs::read(&upper).unwrap()).unwrap();
    queen(guest("echo.wat")).expect(0, &["1 done"]);
    assert_eq!(place.outputs()[Path::new("a")], b"a");
    assert_eq!(fs::metadata(echo).unwrap().permissions().mode() & 0o777, 0o600, "it was compiled again");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o775)).unwrap();
    queen(guest("echo.wat")).expect(2, &["others may write to the folder", "`chmod go-w ", "--cache"]);
}
