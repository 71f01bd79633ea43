//! Escapes, rehearsed: what a guest might try that has got out of the engine, or a program out of the compiler.
//!
//! `peasant jail --try` enters the jail as a serving peasant or a compiler does, and then tries one thing. A wall that
//! this machine cannot raise is not demanded.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where its expectation does")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    net::TcpListener,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
        unix::process::ExitStatusExt,
    },
    path::Path,
    process::{Command, Stdio, id},
};

use distwasm_proto::walls::Wall;
use distwasm_tests::real::{Place, programs};
use serde::Deserialize;

/// The two kinds of processes that live in the jail.
const INMATES: [&str; 2] = ["peasant", "compiler"];

/// The signal of a process that made a system call which is deadly.
const SIGSYS: i32 = 31;

/// What came of one attempt.
#[derive(Debug)]
struct Tried {
    /// The walls that held.
    walls: Vec<Wall>,
    /// What it said: `refused` and a reason, or `done`.
    said: String,
    /// The signal that ended it.
    signal: Option<i32>,
}

/// What `peasant jail` prints.
#[derive(Debug, Deserialize)]
struct Report {
    walls: Vec<String>,
    missing: BTreeMap<String, String>,
}

fn jail(args: &[&str]) -> Command {
    let mut command = Command::new(programs().join("peasant"));
    command.arg("jail").args(args).stdin(Stdio::null()).env_clear();
    command
}

fn run(command: &mut Command) -> Tried {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let (report, said) = text.split_once('\n').unwrap();
    let report: Report = serde_json::from_str(report).unwrap();
    let walls = report.walls.iter().map(|name| Wall::from_name(name).unwrap()).collect();
    Tried { walls, said: said.to_owned(), signal: output.status.signal() }
}

/// Tries something, as both inmates, and demands that it is refused if one of these walls holds.
fn is_refused(walls: &[Wall], args: &[&str], what: &str, place: &str) {
    for inmate in INMATES {
        let tried = run(jail(&["--as", inmate]).args(args).args(["--try", what, place]));
        if !walls.iter().any(|wall| tried.walls.contains(wall)) {
            println!("SKIPPED: {what} {place}: none of {walls:?} holds here");
            continue;
        }
        let is_refused = tried.said.contains(": refused: ") || tried.signal == Some(SIGSYS);
        assert!(is_refused && !tried.said.contains("nothing is known"), "{inmate}, {what} {place}: {tried:?}");
    }
}

/// Walls that keep files away.
const FILES: [Wall; 3] = [Wall::Seccomp, Wall::LandlockFiles, Wall::EmptyRoot];

#[test]
fn all_walls_are_told_of() {
    for inmate in INMATES {
        let output = jail(&["--as", inmate]).output().unwrap();
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        println!("{inmate}: {report:?}");
        let mut told: Vec<&str> = report.walls.iter().chain(report.missing.keys()).map(String::as_str).collect();
        told.sort_unstable();
        let mut all: Vec<&str> = Wall::all().map(Wall::name).collect();
        all.sort_unstable();
        assert_eq!(told, all);
    }
}

#[test]
fn no_file_can_be_opened() {
    let place = Place::default();
    place.write("secret", "secret");
    let secret = place.input().join("secret");
    let parent = format!("/proc/{}", id());
    for (what, path) in [
        ("read", "/etc/passwd"),
        ("read", secret.to_str().unwrap()),
        ("list", "/"),
        ("list", place.input().to_str().unwrap()),
        ("create", place.input().join("new").to_str().unwrap()),
        ("read", &format!("{parent}/environ")),
        ("read", &format!("{parent}/maps")),
        ("write", &format!("{parent}/mem")),
        ("open", "/proc/self/mem"),
        ("open", "/proc/self/fd/0"),
        ("write", "/dev/tty"),
        ("open", "/dev/kmsg"),
        ("write", "/sys/kernel/mm/transparent_hugepage/enabled"),
    ] {
        is_refused(&FILES, &[], what, path);
    }
    assert!(!place.input().join("new").exists());
}

#[test]
fn of_what_is_shared_nothing_can_be_left() {
    let place = Place::default();
    place.write("data/file", "data");
    place.write("secret", "secret");
    let share = place.input().join("data");
    let flags = ["--share", share.to_str().unwrap()];
    let walls = [Wall::LandlockFiles];
    for inmate in INMATES {
        for (what, path) in [("read", "file"), ("list", ".")] {
            let tried = run(jail(&["--as", inmate]).args(flags).args(["--try", what, path]));
            assert_eq!(tried.said, format!("{what}: done\n"), "{inmate}: {tried:?}");
        }
    }
    let secret = place.input().join("secret");
    for (what, path) in [
        ("read", "../secret"),
        ("list", ".."),
        ("read", secret.to_str().unwrap()),
        ("read", "/etc/passwd"),
        ("write", "file"),
        ("create", "new"),
        ("read", "/proc/self/environ"),
    ] {
        is_refused(&walls, &flags, what, path);
    }
    assert_eq!(fs::read(share.join("file")).unwrap(), b"data");
}

#[test]
fn no_other_process_can_be_reached() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let walls = [Wall::Seccomp, Wall::NetworkNamespace, Wall::LandlockNetwork];
    is_refused(&walls, &[], "connect", &tcp.local_addr().unwrap().to_string());
    let name = format!("distwasm-jail-{}", id());
    let _listens = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    is_refused(&[Wall::Seccomp, Wall::NetworkNamespace, Wall::LandlockScope], &[], "abstract", &name);
    for socket in ["socket", "netlink"] {
        is_refused(&[Wall::Seccomp], &[], socket, "");
    }
    let parent = id().to_string();
    is_refused(&[Wall::Seccomp, Wall::LandlockScope, Wall::NotRoot], &[], "kill", &parent);
    for what in ["kill-group", "trace", "memory"] {
        is_refused(&[Wall::Seccomp], &[], what, &parent);
    }
}

#[test]
fn no_pipe_of_another_process_can_be_written() {
    let mut other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    is_refused(&FILES, &[], "write", &format!("/proc/{}/fd/0", other.id()));
    drop(other.stdin.take());
    let mut said = String::new();
    other.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    other.wait().unwrap();
    assert_eq!(said, "");
}

#[test]
fn nothing_else_can_be_started_or_gained() {
    for what in ["fork", "namespaces", "thread"] {
        is_refused(&[Wall::Seccomp, Wall::Limits], &[], what, "");
    }
    is_refused(&[Wall::Seccomp, Wall::EmptyRoot], &[], "execute", "/bin/true");
    is_refused(&[Wall::Limits], &[], "descriptors", "");
    is_refused(&[Wall::Limits], &[], "processes", "");
    for what in [
        "clone3",
        "unshare",
        "mount",
        "chroot",
        "setuid",
        "bpf",
        "io-uring",
        "keys",
        "page-faults",
        "counters",
        "dump",
        "old-calls",
        "terminal",
    ] {
        is_refused(&[Wall::Seccomp], &[], what, "");
    }
}

#[test]
fn a_deadly_call_is_seen_and_an_unknown_one_is_not() {
    let tried = run(jail(&[]).args(["--try", "trace", "1"]));
    assert!(!tried.walls.contains(&Wall::Seccomp) || tried.signal == Some(SIGSYS), "{tried:?}");
    let tried = run(jail(&[]).args(["--try", "socket"]));
    assert!(!tried.walls.contains(&Wall::Seccomp) || tried.signal.is_none(), "{tried:?}");
}

#[test]
fn no_descriptor_of_the_parent_is_inherited() {
    let place = Place::default();
    place.write("secret", "secret");
    let secret = File::open(place.input().join("secret")).unwrap();
    let number = secret.as_raw_fd().to_string();
    for inmate in INMATES {
        // A shell hands on what is not closed when a program is executed.
        let mut command = Command::new("sh");
        let line = format!("exec \"$@\" 9<{}", place.input().join("secret").display());
        command.args(["-c", &line, "sh"]).arg(programs().join("peasant"));
        command.args(["jail", "--as", inmate, "--try", "descriptor", "9"]).stdin(Stdio::null());
        let tried = run(&mut command);
        assert!(tried.said.contains("refused: Bad file descriptor"), "{number}: {tried:?}");
    }
}

#[test]
fn what_was_handed_over_for_reading_cannot_be_written() {
    let place = Place::default();
    place.write("data", "data");
    let path = place.input().join("data");
    let jailed = |what: &str, place: &str| {
        let mut command = jail(&["--try", what, place]);
        run(command.stdin(File::open(&path).unwrap()))
    };
    // Seen by the kernel, whatever walls there are.
    assert_eq!(jailed("descriptor", "0").said, "descriptor: done\n");
    for what in ["overwrite", "truncate"] {
        let tried = jailed(what, "0");
        assert!(tried.said.contains(": refused: "), "{what}: {tried:?}");
    }
    for fd in ["/proc/self/fd/0", "/dev/fd/0", "/dev/stdin"] {
        let tried = jailed("write", fd);
        let is_refused = tried.said.contains(": refused: ");
        assert!(is_refused || !FILES.iter().any(|wall| tried.walls.contains(wall)), "{fd}: {tried:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_wall_that_is_demanded_and_cannot_be_raised_is_told() {
    let place = Place::default();
    let wasm = place.path().join("program.cwasm");
    // In a user namespace that may have no others, the walls of namespaces cannot be raised.
    let line = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", line, "sh"]).arg(programs().join("peasant"));
    command.args(["--walls", "seccomp,user-namespace", "compile", "--output"]).arg(&wasm).stdin(Stdio::null());
    let output = command.output();
    let Ok(output) = output else { return println!("SKIPPED: there is no unshare") };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare:") || said.contains("cannot create") {
        return println!("SKIPPED: {said}");
    }
    assert!(said.contains("the jail lacks user-namespace: "), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert!(Path::new(&wasm).metadata().unwrap().len() == 0);
}
