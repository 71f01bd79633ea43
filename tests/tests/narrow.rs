//! Narrow machines: few descriptors, few processes, a hidden `/proc`, users without a home.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where its expectation does, and says that it was skipped"
)]

use std::{fs, net::TcpStream, os::unix::process::CommandExt, path::Path, process::Command};

use distwasm_tests::real::{Finished, Place, Process, behind_shell, guest, king_address, stranger, until};

#[test]
fn a_low_soft_limit_of_descriptors_is_raised() {
    let place = Place::default();
    place.write_sums(200);
    let queen = place.queen_command(guest("summer.wasm"));
    let finished = Finished::of(behind_shell("ulimit -Sn 64", &queen).args(["--num-cpus", "24"]));
    finished.expect(0, &["200 done"]);
    assert!(!finished.stderr.contains("offering"), "{}", finished.stderr);
    place.expect_sums(200);
}

#[test]
fn no_more_slots_are_promised_than_there_are_descriptors_for() {
    let place = Place::default();
    place.write_sums(400);
    let queen = place.queen_command(guest("summer.wasm"));
    let finished = Finished::of(behind_shell("ulimit -n 100", &queen).args(["--num-cpus", "300"]));
    finished.expect(0, &["400 done", "of 300 slots", "(`ulimit -n`)"]);
    assert_eq!(finished.stderr.matches("WARN").count(), 1, "one word about it: {}", finished.stderr);
    place.expect_sums(400);
}

/// Runs a queen as a user without rights, under limits.
fn run_as_stranger(place: &Place, user: u32, shell: &str, args: &[&str]) -> Finished {
    let folder = place.programs_for_all();
    let program = folder.join("queen");
    let mut queen = place.command(program.to_str().unwrap());
    queen.args(["--output", place.output().to_str().unwrap()]);
    queen.arg("--input").arg(place.input()).arg("--binary").arg(guest_for_all(place)).args(args);
    let mut command = behind_shell(shell, &queen);
    place.run_as(user, &mut command);
    Finished::of(&mut command)
}

fn guest_for_all(place: &Place) -> std::path::PathBuf {
    let copy = place.path().join("summer.wasm");
    fs::copy(guest("summer.wasm"), &copy).unwrap();
    copy
}

#[test]
fn no_more_slots_are_promised_than_there_are_processes_for() {
    let Some(user) = stranger() else { return println!("==== SKIPPED: only root becomes another user") };
    let place = Place::default();
    place.write_sums(200);
    let finished = run_as_stranger(&place, user, "ulimit -u 60", &["--num-cpus", "64"]);
    finished.expect(0, &["200 done", "of 64 slots", "(`ulimit -u`"]);
    place.expect_sums(200);
}

#[test]
fn a_process_that_cannot_have_its_threads_says_so() {
    let Some(user) = stranger() else { return println!("==== SKIPPED: only root becomes another user") };
    for processes in 1..=6 {
        let place = Place::default();
        let limit = format!("ulimit -u {processes}");
        run_as_stranger(&place, user, &limit, &[]).expect(2, &["error: this process needs", "threads", "(`ulimit -u`"]);
    }
}

#[test]
fn a_machine_that_hides_its_resources_is_used_all_the_same() {
    let place = Place::default();
    place.write_sums(3);
    let queen = place.queen_command(guest("summer.wasm"));
    let hide = "mount -t proc -o subset=pid proc /proc 2>/dev/null || { echo HIDES NOTHING >&2; exit 99; }";
    let hidden = behind_shell(hide, &queen);
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount").arg(hidden.get_program()).args(hidden.get_args());
    unshare.env("DISTWASM_CACHE", place.path().join("cache"));
    match unshare.output() {
        Ok(output) if output.status.code() == Some(0) => {}
        other => {
            let said = format!("{other:?}");
            assert!(said.contains("HIDES NOTHING") || said.contains("unshare"), "{said}");
            return println!("==== SKIPPED: /proc cannot be hidden here");
        }
    }
    place.expect_sums(3);
}

/// The processor time that a process has used, in clock ticks.
fn ticks(process: &Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_king_without_descriptors_waits_and_goes_on() {
    let place = Place::default();
    place.write_sums(3);
    let port_file = place.path().join("port");
    let mut king = place.command("king");
    king.args(["--port", "0", "--http", "none", "--port-file"]).arg(&port_file);
    let king = Process::start(&mut behind_shell("ulimit -n 30", &king), "king", place.path());
    let address = king_address(&port_file, || king.log());
    let connections: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&address).unwrap()).collect();
    king.expect_log("no connection can be accepted");
    let before = ticks(&king);
    std::thread::park_timeout(std::time::Duration::from_secs(1));
    let taken = ticks(&king) - before;
    assert!(taken < 30, "it took {taken} hundredths of a second for nothing");
    assert_eq!(king.log().matches("no connection can be accepted").count(), 1, "{}", king.log());
    drop(connections);
    let _duke = place.duke_at(&address, &[]);
    place.start_queen_at(&address, guest("summer.wasm"), &[]).finish().expect(0, &["3 done"]);
}

#[test]
fn repeated_warnings_are_logged_once() {
    let place = Place::default();
    // A peasant that compiles but never serves.
    let peasant = place.path().join("peasant");
    let real = distwasm_tests::real::programs().join("peasant");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in fingerprint|jail|compile) exec {} \"$@\";; esac\necho no room for this >&2\nexit 9\n",
        real.display()
    );
    fs::write(&peasant, script).unwrap();
    fs::set_permissions(&peasant, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let king = place.king();
    let duke = place.duke(&king, &["--peasant", peasant.to_str().unwrap()]);
    let places: Vec<Place> = (0..4).map(|_| Place::default()).collect();
    let queens: Vec<Process> = places
        .iter()
        .enumerate()
        .map(|(number, place)| {
            place.write_sums(1);
            place.start_queen(&king, guest("summer.wasm"), &["--project", &number.to_string()])
        })
        .collect();
    for queen in &queens {
        // The line that says why the job waits includes the cause.
        queen.expect_log("no room for this");
    }
    let line = "no more peasants can be started";
    duke.expect_log(line);
    assert!(duke.log().matches(line).count() <= 2, "{}", duke.log());
    assert!(king.process.log().matches("a duke cannot start more peasants").count() <= 2, "{}", king.process.log());
}

#[test]
fn a_home_that_does_not_exist_is_not_made() {
    let place = Place::default();
    place.write_sums(3);
    let (home, temporary) = (place.path().join("home"), place.path().join("tmp"));
    fs::create_dir(&temporary).unwrap();
    let mut queen = place.queen_command(guest("summer.wasm"));
    queen.env_remove("DISTWASM_CACHE").env_remove("XDG_CACHE_HOME").env("HOME", &home).env("TMPDIR", &temporary);
    Finished::of(queen.arg("-v")).expect(0, &["3 done", "HOME is not a folder"]);
    assert!(!home.exists());
    let user = rustix::process::geteuid().as_raw();
    assert!(temporary.join(format!("distwasm-cache-{user}")).is_dir());
    // An existing home gets the cache.
    fs::create_dir(&home).unwrap();
    place.write("4", "4 + 4");
    Finished::of(&mut queen).expect(0, &["1 done"]);
    assert!(home.join(".cache/distwasm").is_dir());
}

#[test]
fn a_folder_with_other_files_is_not_used_as_a_cache() {
    let place = Place::default();
    place.write_sums(3);
    let folder = place.path().join("documents");
    fs::create_dir_all(folder.join("shares")).unwrap();
    fs::write(folder.join("shares/photo"), "mine").unwrap();
    let flags = ["--cache", folder.to_str().unwrap()];
    place
        .queen(guest("summer.wasm"), &flags)
        .expect(2, &["is not marked as a cache, and holds \"shares\"", "with --cache"]);
    assert_eq!(fs::read_to_string(folder.join("shares/photo")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_hangup_ends_gracefully_unless_it_is_ignored() {
    use rustix::process::Signal;
    let place = Place::default();
    for number in 0..200 {
        place.write(number.to_string(), "slow");
    }
    // The parent of the tests may ignore this signal, and a shell cannot undo that.
    let deaf = "trap '' HUP";
    let mut heard = place.queen_command(guest("slow.wat"));
    // SAFETY: between fork and exec one system call is made, which is async-signal-safe.
    unsafe {
        heard.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    let queen = Process::start(&mut heard, "queen", place.path());
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    queen.signal(Signal::HUP);
    queen.finish().expect(130, &["error: interrupted", "finished outputs are kept"]);
    let queen = Process::start(&mut behind_shell(deaf, &place.queen_command(guest("slow.wat"))), "queen", place.path());
    let before = place.outputs_count();
    until("more outputs", || (place.outputs_count() > before + 5).then_some(()), || queen.log());
    queen.signal(Signal::HUP);
    queen.finish().expect(0, &["0 failed"]);
    assert_eq!(place.outputs_count(), 200);
}

#[test]
fn invalid_flags_are_reported_with_a_valid_form() {
    let place = Place::default();
    place.write_sums(1);
    let queen: [(&[&str], &str); 6] = [
        (&["-k", "::1:1900"], "write [::1]:1900"),
        (&["--timeout", "22x"], "such as 30s, 5min"),
        (&["--ram-limit", "4X"], "such as 512MB or 8G"),
        (&["--num-cpus", "0"], "a whole number from 1 to 4096"),
        (&["--retries", "many"], "a whole number from 0"),
        (&["--max-parallel", "0"], "a whole number from 1"),
    ];
    for (args, said) in queen {
        let finished = place.queen(guest("summer.wasm"), args);
        finished.expect(2, &[said]);
        assert!(!finished.stderr.contains("invalid digit"), "{}", finished.stderr);
    }
    for (program, args, said) in [
        ("queen", ["job", "abc"], "as `queen jobs` shows it"),
        ("king", ["--listen", ":1900"], "write 0.0.0.0:1900"),
        ("king", ["--http", "1901"], "or `none`"),
        ("king", ["--grace", "soon"], "such as 30s"),
        ("duke", ["--king-address", "a:b:1"], "HOST:PORT"),
    ] {
        Finished::of(place.command(program).args(args)).expect(2, &[said]);
    }
    let idle = ["--num-cpus", "1", "-k", "127.0.0.1:1"];
    place.queen(guest("summer.wasm"), &idle).expect(2, &["--num-cpus has no effect with --king-address"]);
    let mut queen = place.queen_command(guest("summer.wasm"));
    queen.env("DISTWASM_KING_ADDRESS", "").env("DISTWASM_QUIET", "").args(["--ram-limit", "95T"]);
    let said = ["1 done", "guests may take more memory than this machine has"];
    Finished::of(&mut queen).expect(0, &said);
}

#[test]
fn a_port_file_goes_with_its_king() {
    use rustix::process::Signal;
    let place = Place::default();
    let king = place.king();
    king.process.expect_log("only this machine can reach it");
    let is_port_file = |name: &Path| name.to_string_lossy().contains("/port-");
    let port_files = || {
        let entries = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| is_port_file(path)).count()
    };
    assert_eq!(port_files(), 1);
    king.process.signal(Signal::TERM);
    king.process.finish().expect(0, &[]);
    assert_eq!(port_files(), 0);
}
