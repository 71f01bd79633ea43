//! The jail of live peasants and compilers, compared with docs/jail.md; and secrets, which nobody finds on a command line.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where its expectation does")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    process::{Child, Command, Stdio, id},
};

use distwasm_proto::walls::Wall;
use distwasm_tests::real::{Finished, Place, guest, peasants_of, programs, root, until};

/// A value that must not be seen.
const SECRET: &str = "hunter2-of-the-test";

/// The lines of `/proc/PID/status` by their keys.
fn status(id: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = |line: &str| line.split_once(":\t").map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(line).collect()
}

/// The hard limit of a process.
fn limit(id: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().nth(1).unwrap().to_owned()
}

/// The walls that hold on this machine, by their own account.
fn walls() -> Vec<Wall> {
    let output = Command::new(programs().join("peasant")).arg("jail").output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["walls"].as_array().unwrap().iter().map(|name| Wall::from_name(name.as_str().unwrap()).unwrap()).collect()
}

/// Compares what the kernel says of a process, and of its threads, with the walls that hold here.
fn expect_jail(process: u32, walls: &[Wall]) {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    for thread in threads {
        let thread = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let status = status(thread);
        let is = |key: &str, value: &str| assert_eq!(status[key], value, "{key} of {thread}: {status:?}");
        for wall in walls {
            match wall {
                Wall::NotRoot => assert!(!status["Uid"].split_whitespace().any(|uid| uid == "0"), "{status:?}"),
                Wall::NoNewPrivileges => is("NoNewPrivs", "1"),
                Wall::NoCapabilities => {
                    ["CapInh", "CapPrm", "CapEff", "CapAmb"].iter().for_each(|set| is(set, "0000000000000000"));
                }
                Wall::Seccomp => is("Seccomp", "2"),
                Wall::Limits => {
                    assert_eq!(["Max processes", "Max core file size"].map(|name| limit(process, name)), ["0", "0"]);
                    assert!(limit(process, "Max open files").parse::<u64>().unwrap() <= 1024);
                }
                // Rehearsed in jail.rs, or compared below.
                _ => {}
            }
        }
    }
    let namespaces = [
        (Wall::UserNamespace, "user"),
        (Wall::NetworkNamespace, "net"),
        (Wall::MountNamespace, "mnt"),
        (Wall::IpcNamespace, "ipc"),
        (Wall::UtsNamespace, "uts"),
    ];
    for (wall, name) in namespaces {
        let namespace = |process| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
        // Only root may look at a process that is not dumpable.
        if let (true, Some(theirs)) = (walls.contains(&wall), namespace(process)) {
            assert_ne!(Some(theirs), namespace(id()), "{wall}");
        }
    }
    if let (true, Ok(entries)) = (walls.contains(&Wall::EmptyRoot), fs::read_dir(format!("/proc/{process}/root"))) {
        assert_eq!(entries.count(), 0, "the root of {process}");
    }
    if walls.contains(&Wall::NotDumpable) && !rustix::process::geteuid().is_root() {
        assert!(fs::read(format!("/proc/{process}/environ")).is_err());
    }
}

/// Whether the jail of a process is locked, which is the last step before it reads its program.
fn is_locked(process: u32) -> bool {
    status(process).get("Seccomp").is_some_and(|mode| mode == "2")
}

/// A compiler that waits for its program.
fn waiting_compiler(place: &Place) -> Child {
    let mut compiler = Command::new(programs().join("peasant"));
    compiler.args(["compile", "--output"]).arg(place.path().join("compiled"));
    compiler.stdin(Stdio::piped()).spawn().unwrap()
}

#[test]
fn live_peasants_and_compilers_are_behind_the_walls_that_were_told() {
    let walls = walls();
    if !walls.contains(&Wall::Seccomp) {
        return println!("SKIPPED: without seccomp nothing tells that the jail is locked");
    }
    let place = Place::default();
    let mut compiler = waiting_compiler(&place);
    until("a locked jail", || is_locked(compiler.id()).then_some(()), || format!("{:?}", status(compiler.id())));
    expect_jail(compiler.id(), &walls);
    assert_eq!(limit(compiler.id(), "Max cpu time"), "301");
    assert_eq!(limit(compiler.id(), "Max data size"), (8_u64 << 30).to_string());
    let mut stdin = compiler.stdin.take().unwrap();
    stdin.write_all(&fs::read(guest("echo.wat")).unwrap()).unwrap();
    drop(stdin);
    assert!(compiler.wait().unwrap().success());
    let share = place.path().join("share");
    fs::create_dir(&share).unwrap();
    for dir in [None, Some(format!("--dir={}::/data", share.display()))] {
        let mut peasant = Command::new(programs().join("peasant"));
        peasant.arg("--compiled").arg(place.path().join("compiled")).args(["--scratch", "0"]).args(dir);
        let mut peasant = peasant.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut ready = [1; 4];
        peasant.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(ready, [0; 4]);
        expect_jail(peasant.id(), &walls);
        assert_eq!(limit(peasant.id(), "Max file size"), "0");
        drop(peasant.stdin.take());
        assert!(peasant.wait().unwrap().success());
    }
}

#[test]
fn secrets_of_a_job_are_in_no_command_line() {
    let place = Place::default();
    place.write("a", "loop");
    let mut queen = place.queen_command(guest("loop.wat"));
    queen.args(["--env", "TOKEN", "--deterministic", "--project", "quiet", "--", SECRET]).env("TOKEN", SECRET);
    let queen = place.start(&mut queen, "queen");
    let serving = || {
        let peasants = peasants_of(queen.id()).into_iter();
        peasants.map(|id| (id, command_line(id))).find(|(_, line)| line.contains("--compiled"))
    };
    let (peasant, line) = until("a serving peasant", serving, || queen.log());
    assert!(line.contains("--args-fd") && !line.contains(SECRET), "{line}");
    let environment = fs::read(format!("/proc/{peasant}/environ")).unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(&environment), "");
    drop(queen);
}

fn command_line(process: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

#[test]
fn values_from_the_queens_environment_reach_the_guest() {
    let place = Place::default();
    place.write("a", "");
    let mut queen = place.queen_command(guest("world.wat"));
    Finished::of(queen.args(["--env", "TOKEN"])).expect(2, &["--env TOKEN: this process has no variable"]);
    let mut check = place.command("queen");
    check.arg("check").arg(guest("world.wat")).args(["--input"]).arg(place.input().join("a"));
    let checked = Finished::of(check.args(["--env", "TOKEN", "--", "word"]).env("TOKEN", SECRET));
    checked.expect(0, &[]);
    assert!(checked.stdout.contains(SECRET), "{}", checked.stdout);
}

#[test]
fn a_king_tells_which_walls_its_dukes_have() {
    let place = Place::default();
    let king = place.king();
    let ask = |args: &[&str]| Finished::of(place.command("queen").args(args).args(["--king-address", &king.address]));
    assert_eq!(ask(&["dukes"]).stdout, "no dukes\n");
    let _duke = place.duke(&king, &["--label", "zone=eu", "--hostname", "there"]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 1);
    let told = ask(&["dukes"]).stdout;
    assert!(told.contains("there") && told.contains("2048 MB") && told.contains("zone=eu"), "{told}");
    let told: serde_json::Value = serde_json::from_str(&ask(&["dukes", "--json"]).stdout).unwrap();
    let walls: Vec<&str> = walls().into_iter().map(Wall::name).collect();
    assert_eq!(told["walls"], serde_json::json!(walls));
    assert_eq!((&told["host"], &told["slots"]), (&"there".into(), &2.into()));
}

#[test]
fn a_duke_and_a_queen_insist_on_walls() {
    let place = Place::default();
    place.write_sums(1);
    // A peasant on a machine that cannot raise one of the walls.
    let peasant = place.path().join("peasant");
    let real = programs().join("peasant");
    let report = r#"{"engine":"a1","walls":["not-root","no-new-privileges","no-capabilities","limits","seccomp"],"missing":{"not-dumpable":"no moat"}}"#;
    let script =
        format!("#!/bin/sh\ncase \"$1\" in jail) echo '{report}';; *) exec {} \"$@\";; esac\n", real.display());
    fs::write(&peasant, script).unwrap();
    fs::set_permissions(&peasant, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let flags = ["--peasant", peasant.to_str().unwrap(), "--require-jail"];
    let said = "the jail of peasants lacks not-dumpable, which --require-jail demands: no moat";
    for level in ["basic", "full"] {
        let queen = place.queen(guest("summer.wasm"), &[&flags[..], &[level]].concat());
        assert_ne!(queen.status, Some(0));
        assert!(queen.stderr.contains("the jail of peasants lacks "), "{queen:?}");
    }
    place.queen(guest("summer.wasm"), &[&flags[..], &["basic"]].concat()).expect(2, &[said]);
    let mut duke = place.duke_command_at("127.0.0.1:1", &[&flags[..], &["basic"]].concat());
    Finished::of(&mut duke).expect(2, &[said]);
    place.queen(guest("summer.wasm"), &[&flags[..], &["none"]].concat()).expect(0, &["1 done"]);
}

#[test]
fn the_page_about_the_jail_has_every_wall() {
    let page = fs::read_to_string(root().join("docs/jail.md")).unwrap();
    let row = |wall: Wall| page.lines().filter(|line| line.starts_with(&format!("| `{wall}` |"))).collect::<Vec<_>>();
    for wall in Wall::all() {
        let level = if Wall::BASIC.contains(&wall) { "basic" } else { "full" };
        let rows = row(wall);
        assert!(
            matches!(rows[..], [row] if row.starts_with(&format!("| `{wall}` | {level} | peasant, compiler |"))),
            "{wall}: {rows:?}"
        );
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), Wall::all().count());
}
