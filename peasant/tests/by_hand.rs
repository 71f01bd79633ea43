//! The peasant as people use it: from a shell, and by its subcommands.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its expectation does")]

mod talk;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use talk::{PEASANT, Peasant, frame, guest, guest_path};

fn run(args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(PEASANT);
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    let sender = std::thread::spawn(move || pipe.write_all(&stdin));
    let output = child.wait_with_output().unwrap();
    let _ = sender.join().unwrap();
    output
}

#[test]
fn a_shell_can_talk_to_it() {
    let script = r#"
        size=$(wc -c < "$GUEST")
        {
            printf "\\$(printf %03o $((size % 256)))\\$(printf %03o $((size / 256)))\000\000"; cat "$GUEST"
            printf '\005\000\000\000hello'
            printf '\000\000\000\000'
            printf '\003\000\000\000you'
        } | "$PEASANT" | od -An -c | tr -s ' '
    "#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("GUEST", guest_path("upper.wat")).env("PEASANT", PEASANT);
    let mut shown = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    shown.retain(|letter| letter != '\n');
    // Ready, then three answers.
    assert_eq!(shown, r" \0 \0 \0 \0 005 \0 \0 \0 H E L L O \0 \0 \0 \0 003 \0 \0 \0 Y O U");
}

#[test]
fn answers_may_go_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers");
    let mut stdin = frame(&guest("echo.wat"));
    stdin.extend_from_slice(&frame(&[b'x'; 100_000]));
    let inputs = folder.path().join("inputs");
    std::fs::write(&inputs, stdin).unwrap();
    let status = Command::new(PEASANT)
        .stdin(std::fs::File::open(inputs).unwrap())
        .stdout(std::fs::File::create(&path).unwrap())
        .status()
        .unwrap();
    assert_eq!((status.code(), std::fs::metadata(path).unwrap().len()), (Some(0), 4 + 4 + 100_000));
}

#[test]
fn a_program_is_compiled_once_and_mapped() {
    let folder = tempfile::tempdir().unwrap();
    for (name, answer) in [("upper.wat", b"HI"), ("echo.wat", b"hi")] {
        let compiled = folder.path().join(name);
        let compiled = compiled.to_str().unwrap();
        let output = run(&["compile", "--output", compiled], &guest(name));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let mut peasant = Peasant::start_compiled(&["--compiled", compiled]);
        assert_eq!(peasant.ask(b"hi"), Ok(answer.to_vec()));
        peasant.ends_well();
    }
}

#[test]
fn a_compiled_program_is_private_and_must_stay_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let compiled = folder.path().join("program");
    // An earlier file that somebody may have opened.
    std::fs::write(&compiled, "old").unwrap();
    std::fs::set_permissions(&compiled, std::fs::Permissions::from_mode(0o666)).unwrap();
    let script = r#"umask 000; "$PEASANT" compile --output "$OUT" < "$GUEST""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("PEASANT", PEASANT).env("OUT", &compiled).env("GUEST", guest_path("echo.wat"));
    assert!(shell.status().unwrap().success());
    let mode = || std::fs::metadata(&compiled).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let flags = ["--compiled", compiled.to_str().unwrap()];
    let mut peasant = Peasant::start_compiled(&flags);
    assert_eq!(peasant.ask(b"hi"), Ok(b"hi".to_vec()));
    peasant.ends_well();
    for mode in [0o606, 0o660] {
        std::fs::set_permissions(&compiled, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = run(&flags, b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("others may write to it"), "{mode:o} {said}");
    }
}

#[test]
fn compile_reports_an_unfit_program() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let compile = ["compile", "--output", output.to_str().unwrap()];
    for (program, text) in [
        (
            guest("unfit-exports.wat"),
            "exports neither `ProcessStdio` nor `_start`; found: `memory`, `main`; --call NAME calls any function of numbers\n",
        ),
        (
            b"\x7fELF\x02\x01".to_vec(),
            "not a WebAssembly program: it is an ELF executable or library; it runs on one kind of machine; build the \
             program for WASI (the target wasm32-wasip1)\n",
        ),
    ] {
        let output = run(&compile, &program);
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(2), text.to_owned()));
    }
    assert_eq!(output.metadata().unwrap().len(), 0, "it is created before the program is read");
    let nowhere = folder.path().join("not/at/all");
    let output = run(&["compile", "--output", nowhere.to_str().unwrap()], &guest("echo.wat"));
    assert_eq!(output.status.code(), Some(1), "not the program's fault: {output:?}");
}

#[test]
fn a_file_that_is_not_a_compiled_program_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonsense");
    std::fs::write(&path, b"nonsense").unwrap();
    for path in [path, folder.path().join("missing")] {
        let output = run(&["--compiled", path.to_str().unwrap()], b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot load"), "{output:?}");
    }
}

#[test]
fn the_engine_is_one_word_and_always_the_same() {
    let [one, two] = [(); 2].map(|()| {
        let told: serde_json::Value = serde_json::from_slice(&run(&["jail"], b"").stdout).unwrap();
        told["engine"].as_str().unwrap().to_owned()
    });
    assert_eq!(one, two);
    assert_eq!(one.len(), 16, "{one}");
    assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn stdin_must_end_between_frames() {
    let program = frame(&guest("echo.wat"));
    let cases: [(&[u8], Option<i32>, &str); 4] = [
        (b"", Some(0), ""),
        (b"\x01\0", Some(2), "stdin ended in the middle of a frame: 2 bytes of 4 were there"),
        (b"\x05\0\0\0abc", Some(2), "stdin ended in the middle of a frame: 7 bytes of 9 were there"),
        (b"\xff\xff\xff\xff", Some(2), "has the top bit of its length set"),
    ];
    for (tail, status, message) in cases {
        let output = run(&[], &[program.as_slice(), &frame(b"hi"), tail].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), status, "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        assert_eq!(output.stdout, b"\0\0\0\0\x02\0\0\0hi", "complete inputs are answered");
    }
    assert_eq!(run(&[], b"").status.code(), Some(2), "no program");
    assert_eq!(run(&[], b"\xff\xff\xff\x7f").status.code(), Some(2), "a program of 2 GiB");
}

#[test]
#[cfg(target_os = "linux")]
fn it_works_behind_walls() {
    let mut peasant = Peasant::start(guest("echo.wat"), &[]);
    assert_eq!(peasant.ask(b"hi"), Ok(b"hi".to_vec()));
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", peasant.id())).unwrap();
    assert!(read("status").contains("NoNewPrivs:\t1"));
    expect_no_room(&read("limits"), &["Max core file size", "Max processes"]);
    // The fields after the name in parentheses: state, parent, process group.
    let stat = read("stat");
    let group = stat.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap();
    assert_eq!(group, peasant.id().to_string());
    assert_eq!(read("task/../comm").trim(), "peasant");
    peasant.ends_well();
}

#[cfg(target_os = "linux")]
fn expect_no_room(limits: &str, names: &[&str]) {
    for name in names {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_scratch_it_cannot_write_files() {
    let mut peasant = Peasant::start(guest("echo.wat"), &["--scratch", "0"]);
    assert_eq!(peasant.ask(b"hi"), Ok(b"hi".to_vec()));
    expect_no_room(&std::fs::read_to_string(format!("/proc/{}/limits", peasant.id())).unwrap(), &["Max file size"]);
    peasant.ends_well();
}

#[test]
#[cfg(target_os = "linux")]
fn descriptors_do_not_leak_into_it() {
    // The shell opens descriptor 9, which the peasant would inherit.
    let script = format!("exec 9<\"{PEASANT}\"; exec \"{PEASANT}\"");
    let mut child =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&frame(&guest("upper.wat"))).unwrap();
    let mut ready = [0; 4];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    // It has opened something else under this number.
    let opened = std::fs::read_link(format!("/proc/{}/fd/9", child.id()));
    assert!(opened.as_ref().map_or(true, |opened| !opened.ends_with("peasant")), "{opened:?}");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
