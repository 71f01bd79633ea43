//! How peers reach a king: the socket of its user, TLS, plaintext, and who is let in over each.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where its expectation does, and says that it was skipped"
)]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::{Path, PathBuf},
    time::Duration,
};

use distwasm_tests::{
    chaos::Proxy,
    real::{Finished, King, Place, Process, guest, king_address, stranger, until},
};
use distwasm_transport::{fingerprint::Fingerprint, token::Token};
use rustix::process::Signal;

/// The fingerprint that `king cert show` prints for kings of this place.
fn fingerprint(place: &Place) -> Fingerprint {
    let shown = Finished::of(place.command("king").args(["cert", "show"]));
    shown.expect(0, &[]);
    let line = shown.stdout.lines().find_map(|line| line.strip_prefix("fingerprint ")).unwrap();
    line.trim().parse().unwrap()
}

/// Writes a file that only this user may read, as token files must be.
fn write_private(path: &Path, text: &str) {
    // Written a second time, it has the rights that it had.
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A file with a token for the king with this key, which the king has not made.
fn token_file(place: &Place, fingerprint: Fingerprint) -> String {
    let path = place.path().join("token");
    write_private(&path, &(Token::generate(fingerprint).unwrap().to_bearer() + "\n"));
    path.to_str().unwrap().to_owned()
}

fn ask(place: &Place, king: &King, args: &[&str]) -> Finished {
    Finished::of(place.command("queen").args(["jobs", "--king-address", &king.address]).args(args))
}

#[test]
fn peers_of_the_kings_user_need_nothing_but_its_port() {
    let place = Place::default();
    place.write_sums(20);
    let king = place.king();
    let socket = PathBuf::from(king.process.logged_value("socket=").unwrap());
    assert!(socket.exists());
    let duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["20 done"]);
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let address = format!("{host}:{}", king.address.rsplit_once(':').unwrap().1);
        let asked = Finished::of(place.command("queen").args(["jobs", "--king-address", &address]));
        asked.expect(0, &[]);
        assert!(asked.stdout.contains("1 dukes"), "{}", asked.stdout);
    }
    drop(duke);
    king.process.signal(Signal::TERM);
    king.process.finish().expect(0, &[]);
    assert!(!socket.exists());
}

#[test]
fn a_king_that_was_killed_leaves_its_socket_to_the_next() {
    let place = Place::default();
    let King { process, address, .. } = place.king();
    let socket = PathBuf::from(process.logged_value("socket=").unwrap());
    process.signal(Signal::KILL);
    drop(process);
    assert!(socket.exists());
    let port = address.rsplit_once(':').unwrap().1;
    let king = place.king_with(&["--port", port]);
    ask(&place, &king, &[]).expect(0, &[]);
    // A second king with this port has another address, and no socket.
    let other = format!("127.0.0.2:{port}");
    let mut second = place.command("king");
    let second = Process::start(second.args(["--listen", &other, "--http", "none"]), "king", place.path());
    second.expect_log("another king of this user has the socket");
    second.expect_log("the king is ready");
    ask(&place, &king, &[]).expect(0, &[]);
}

#[test]
fn plaintext_is_refused_with_what_would_do() {
    let place = Place::default();
    place.write_sums(1);
    let king = place.king();
    ask(&place, &king, &["--insecure"]).expect(2, &["this king takes only TLS with a token", "leave --insecure out"]);
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--insecure"]).finish();
    queen.expect(2, &["this king takes only TLS with a token"]);
    let duke = place.duke(&king, &["--insecure"]);
    duke.expect_log("this king takes only TLS with a token");
    king.process.expect_log("a peer is not let in");
    // An insecure king takes plaintext, and says so.
    let king = place.insecure_king();
    king.process.expect_log("everybody who reaches this address can submit programs");
    ask(&place, &king, &["--insecure"]).expect(0, &[]);
    ask(&place, &king, &[]).expect(0, &[]);
}

#[test]
fn tls_leads_to_the_king_of_the_token_and_to_no_other() {
    let place = Place::default();
    let king = place.king_with(&["--no-socket"]);
    let fingerprint = fingerprint(&place);
    assert_eq!(king.process.logged_value("fingerprint=").unwrap(), fingerprint.to_string());
    ask(&place, &king, &[]).expect(2, &["no king of this user", "there is no token"]);
    // The king answers over TLS, and does not know this token.
    let token = token_file(&place, fingerprint);
    ask(&place, &king, &["--token-file", &token]).expect(2, &["the king at", "does not know token"]);
    let mut other = place.command("queen");
    other.args(["jobs", "--king-address", &king.address]);
    other.env("DISTWASM_TOKEN", Token::generate(Fingerprint([7; 32])).unwrap().to_bearer());
    Finished::of(&mut other).expect(2, &["this is not the king of the token", &format!("its key is {fingerprint}")]);
    other.env("DISTWASM_TOKEN", "K10");
    Finished::of(&mut other).expect(2, &["DISTWASM_TOKEN holds no token"]);
    let missing = ask(&place, &king, &["--token-file", "/nonexistent"]);
    missing.expect(2, &["failed to read the token in /nonexistent (--token-file)"]);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    ask(&place, &king, &["--token-file", &token]).expect(2, &["other users may read the token", "`chmod 600 /"]);
    let mut far = place.command("duke");
    let far = Finished::of(far.args(["--king-address", "king.example"]));
    far.expect(2, &["there is no token for the king at king.example:1900"]);
}

#[test]
fn a_king_that_comes_back_with_another_key_is_not_served() {
    let place = Place::default();
    let King { process, address, .. } = place.king_with(&["--no-socket"]);
    let [flag, token] = with_token(&place);
    let duke = place.duke_at(&address, &[&flag, &token]);
    duke.expect_log("serving the king");
    assert!(!duke.log().contains("not the king of the token"));
    drop(process);
    let data = place.path().join("another");
    let port = address.rsplit_once(':').unwrap().1;
    let _king = place.king_with(&["--no-socket", "--port", port, "--data", data.to_str().unwrap()]);
    duke.expect_log("this is not the king of the token");
}

/// The flags of a peer with a token that the king of this place has made.
fn with_token(place: &Place) -> [String; 2] {
    let made = Finished::of(place.command("king").args(["token", "create", "--role", "admin"]));
    made.expect(0, &[]);
    let path = place.path().join("admin-token");
    write_private(&path, &made.stdout);
    ["--token-file".to_owned(), path.to_str().unwrap().to_owned()]
}

#[test]
fn links_over_tls_that_are_cut_lose_nothing() {
    let place = Place::default();
    for number in 0..120 {
        place.write(number.to_string(), format!("slow {number}"));
    }
    let king = place.king_with(&["--no-socket"]);
    let token = with_token(&place);
    let token = [token[0].as_str(), token[1].as_str()];
    let ways = [(); 2].map(|()| Proxy::start(&king.address));
    let _duke = place.duke_at(&ways[0].address, &token);
    let queen = place.start_queen_at(&ways[1].address, guest("slow.wat"), &token);
    for (times, outputs) in [10, 40, 70].into_iter().enumerate() {
        until("outputs", || (place.outputs_count() >= outputs).then_some(()), || queen.log());
        ways.iter().for_each(Proxy::cut);
        for who in ["a queen came back", "a duke came back"] {
            let came_back = || king.process.log().matches(who).count() > times;
            until(who, || came_back().then_some(()), || queen.log());
        }
    }
    queen.finish().expect(0, &["120 done", "0 failed"]);
    for (name, output) in place.outputs() {
        assert_eq!(output, format!("slow {}", name.display()).as_bytes());
    }
}

#[test]
fn large_units_are_the_same_over_tls() {
    let place = Place::default();
    let text = |number: usize| format!("{number} is a line of text\n").repeat(100_000);
    for number in 0..8 {
        place.write(number.to_string(), text(number));
    }
    let king = place.king_with(&["--no-socket"]);
    let token = with_token(&place);
    let token = [token[0].as_str(), token[1].as_str()];
    let _duke = place.duke(&king, &token);
    place.start_queen(&king, guest("upper.wat"), &token).finish().expect(0, &["8 done"]);
    for (name, output) in place.outputs() {
        let number = name.to_str().unwrap().parse().unwrap();
        assert!(output == text(number).to_uppercase().as_bytes(), "{number}");
    }
    assert_eq!(place.outputs_count(), 8);
}

#[test]
fn handshakes_that_never_end_hold_nobody_up() {
    let place = Place::default();
    let king = place.king_with(&["--no-socket"]);
    let silent: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = TcpStream::connect(&king.address).unwrap();
            // Half of them say nothing, and the others begin.
            let said: &[u8] = if number % 2 == 0 { b"" } else { b"\x16\x03\x01" };
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    let token = token_file(&place, fingerprint(&place));
    ask(&place, &king, &["--token-file", &token]).expect(2, &["does not know token"]);
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        match stream.read(&mut [0; 16]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

#[test]
fn another_user_of_the_machine_gets_nothing() {
    let Some(user) = stranger() else { return println!("==== SKIPPED: only root becomes another user") };
    let place = Place::default();
    let king = place.king();
    let socket = king.process.logged_value("socket=").unwrap();
    let queen = place.programs_for_all().join("queen");
    let ask = |args: &[&str]| {
        let mut queen = place.command(queen.to_str().unwrap());
        queen.args(["jobs", "--king-address", &king.address]).args(args);
        place.run_as(user, &mut queen);
        Finished::of(&mut queen)
    };
    ask(&[]).expect(2, &["no king of this user", "there is no token"]);
    ask(&["--insecure"]).expect(2, &["this king takes only TLS with a token"]);
    let mut look = std::process::Command::new("stat");
    Finished::of(look.arg(&socket).uid(user).gid(user)).expect(1, &["Permission denied"]);
    // Its own folder of this name is not taken for the king's.
    let folder = place.path().join("run");
    fs::create_dir_all(folder.join("distwasm")).unwrap();
    fs::set_permissions(folder.join("distwasm"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(folder.join("distwasm"), Some(user), None).unwrap();
    let mut ours = place.command("queen");
    ours.args(["jobs", "--king-address", "127.0.0.1:1"]).env("XDG_RUNTIME_DIR", &folder);
    Finished::of(&mut ours).expect(2, &["no king of this user"]);
}

/// A folder that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_for_sockets_that_somebody_else_made_is_not_used_and_tcp_goes_on() {
    let Some(user) = stranger() else { return println!("==== SKIPPED: only root becomes another user") };
    let place = Place::default();
    let programs = place.programs_for_all();
    let planted = Removed(PathBuf::from(format!("/tmp/distwasm-{user}")));
    fs::create_dir(&planted.0).unwrap();
    fs::set_permissions(&planted.0, fs::Permissions::from_mode(0o755)).unwrap();
    let told = format!("{}: it belongs to another user (uid 0)", planted.0.display());
    let command = |program: &str, args: &[&str]| {
        let mut command = place.command(programs.join(program).to_str().unwrap());
        command.args(args).env_remove("XDG_RUNTIME_DIR");
        place.run_as(user, &mut command);
        command
    };
    let port_file = place.path().join("port");
    let args = ["--port", "0", "--http", "none", "--port-file", port_file.to_str().unwrap()];
    let king = place.start(&mut command("king", &args), "king");
    let address = king_address(&port_file, || king.log());
    king.expect_log("no socket for this user's processes on this machine");
    king.expect_log(&told);
    // Whoever made the folder listens there, for peers who do not look.
    let port = address.rsplit_once(':').unwrap().1;
    let listener = UnixListener::bind(planted.0.join(format!("{port}.sock"))).unwrap();
    listener.set_nonblocking(true).unwrap();
    let jobs = ["jobs", "--king-address", &address];
    Finished::of(&mut command("queen", &jobs)).expect(2, &["no king of this user", "was not looked for in", &told]);
    let made = Finished::of(&mut command("king", &["token", "create", "--role", "admin"]));
    let token = place.path().join("token-of-user");
    write_private(&token, &made.stdout);
    std::os::unix::fs::chown(&token, Some(user), None).unwrap();
    let with_token = ["--king-address", &address, "--token-file", token.to_str().unwrap()];
    let duke = place.start(&mut command("duke", &[&with_token[..], &["--num-cpus", "1"]].concat()), "duke");
    for told in ["going over TCP with the token", &told, "serving the king"] {
        duke.expect_log(told);
    }
    let asked = Finished::of(&mut command("queen", &[&["jobs"], &with_token[..]].concat()));
    asked.expect(0, &[]);
    assert!(asked.stdout.contains("1 dukes"), "{}", asked.stdout);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_king_whose_key_is_not_safe_does_not_start() {
    let place = Place::default();
    fingerprint(&place);
    let data = place.data();
    let start = || Finished::of(place.command("king").args(["--port", "0", "--http", "none"]));
    fs::set_permissions(data.join("key.der"), fs::Permissions::from_mode(0o644)).unwrap();
    start().expect(2, &["key.der is not safe", "`chmod 600` it"]);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    start().expect(2, &["is not safe for the king's key", "`chmod 700` it"]);
    let mut homeless = place.command("king");
    homeless.env_remove("XDG_STATE_HOME").env("HOME", place.path().join("none"));
    Finished::of(&mut homeless).expect(2, &["HOME is not a folder (--data names one)"]);
    assert!(!place.path().join("none").exists());
}
