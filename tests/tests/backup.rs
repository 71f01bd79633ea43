//! Backups of what a king remembers, made while it works, and restored for another king.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use distwasm_tests::real::{Finished, King, Place, guest};

fn data(place: &Place, name: &str) -> PathBuf {
    place.path().join(name)
}

fn remembering_king(place: &Place, name: &str, args: &[&str]) -> King {
    place.king_with(&[&["--data", data(place, name).to_str().unwrap()], args].concat())
}

fn queen(place: &Place, king: &King, args: &[&str]) -> Finished {
    Finished::of(place.command("queen").args(args).args(["--king-address", &king.address]))
}

#[test]
fn a_backup_is_made_while_a_job_runs_and_restored_for_another_king() {
    let place = Place::default();
    let king = remembering_king(&place, "data", &[]);
    let _duke = place.duke(&king, &[]);
    queen(&place, &king, &["push", "summer", guest("summer.wasm").to_str().unwrap()]).expect(0, &[]);
    queen(&place, &king, &["push", "echo", guest("echo.wat").to_str().unwrap()]).expect(0, &[]);
    let list = queen(&place, &king, &["programs", "--json"]).stdout;
    place.write_sums(2000);
    let job = place.start_queen(&king, "@summer", &[]);
    let file = place.path().join("backup.tar");
    let backup = || queen(&place, &king, &["admin", "backup", file.to_str().unwrap()]);
    backup().expect(0, &[]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    backup().expect(2, &["exists: name another file"]);
    job.finish().expect(0, &["2000 done"]);
    let restore = |name: &str, file: &str| {
        Finished::of(
            place.command("king").args(["restore", "--data"]).arg(data(&place, name)).arg(place.path().join(file)),
        )
    };
    restore("data", "backup.tar").expect(2, &["another king (process "]);
    let restored = restore("new", "backup.tar");
    restored.expect(0, &[]);
    assert!(restored.stdout.contains(": 6 values, 2 blobs of "), "{}", restored.stdout);
    restore("new", "backup.tar").expect(2, &["keeps something already"]);
    restore("other", "none").expect(2, &["failed to open "]);
    fs::write(place.path().join("nonsense"), "x".repeat(2000)).unwrap();
    restore("other", "nonsense").expect(2, &["it is not a backup of a king"]);
    drop(king);
    let king = remembering_king(&place, "new", &[]);
    assert_eq!(queen(&place, &king, &["programs", "--json"]).stdout, list);
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, "@summer", &["--force"]).finish().expect(0, &["2000 done"]);
    place.expect_sums(2000);
}

#[test]
fn only_an_admin_makes_a_backup_and_only_of_a_king_that_remembers() {
    let place = Place::default();
    let king = remembering_king(&place, "data", &["--no-socket"]);
    let backup = |role: &str| {
        let mut made = place.command("king");
        let made = Finished::of(made.args(["token", "create", "--role", role, "--data"]).arg(data(&place, "data")));
        let file = place.path().join(role);
        let mut command = place.command("queen");
        command.env("DISTWASM_TOKEN", made.stdout.trim()).args(["admin", "backup"]).arg(&file);
        let finished = Finished::of(command.args(["--king-address", &king.address]));
        assert_eq!(file.exists(), finished.status == Some(0));
        finished
    };
    for role in ["queen", "observer", "duke"] {
        backup(role).expect(2, &["does not allow administering a king: use one for admins"]);
    }
    backup("admin").expect(0, &[]);
    let forgetful = place.king();
    let file = place.path().join("nothing");
    queen(&place, &forgetful, &["admin", "backup", file.to_str().unwrap()]).expect(2, &["this king keeps no programs"]);
    assert!(!file.exists());
}
