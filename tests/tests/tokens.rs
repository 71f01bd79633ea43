//! Tokens and roles, with real processes: who is let in, for what, and for how long.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where its expectation does, and says that it was skipped"
)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use distwasm_tests::real::{Finished, King, Place, Process, guest, programs, until};

/// A kingdom in which nobody is let in without a token.
struct Kingdom {
    place: Place,
    king: King,
}

impl Kingdom {
    fn new() -> Kingdom {
        let place = Place::default();
        let king = place.king_with(&["--no-socket"]);
        Kingdom { place, king }
    }

    fn token_command(&self, args: &[&str]) -> Finished {
        Finished::of(self.place.command("king").arg("token").args(args))
    }

    /// Makes a token while the king runs.
    fn token(&self, args: &[&str]) -> String {
        let made = self.token_command(&[&["create"], args].concat());
        made.expect(0, &["it is shown only now"]);
        assert_eq!(made.stdout.lines().count(), 1, "only the token is on stdout");
        let token = made.stdout.trim().to_owned();
        assert!(!made.stderr.contains(&token[20..]), "{}", made.stderr);
        token
    }

    /// The ids of the tokens of this name.
    fn id(&self, name: &str) -> String {
        let list = self.token_command(&["list", "--json"]);
        list.expect(0, &[]);
        let lines = list.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let text = |line: &serde_json::Value, key: &str| line.get(key).unwrap().as_str().unwrap().to_owned();
        let mut found = lines.filter(|line| text(line, "name") == name);
        text(&found.next().unwrap(), "id")
    }

    fn revoke(&self, name: &str) {
        self.token_command(&["revoke", &self.id(name)]).expect(0, &["revoked "]);
    }

    fn duke(&self, token: &str, args: &[&str]) -> Process {
        let mut command = self.place.duke_command_at(&self.king.address, args);
        self.place.start(command.env("DISTWASM_TOKEN", token), "duke")
    }

    /// Starts a queen of another place, so that it has its own inputs and outputs.
    fn queen(&self, place: &Place, token: &str, guest: impl AsRef<Path>, args: &[&str]) -> Process {
        let mut command = place.queen_command(guest);
        command.args(["--king-address", &self.king.address]).args(args).env("DISTWASM_TOKEN", token);
        place.start(&mut command, "queen")
    }

    fn jobs(&self, token: &str) -> Finished {
        let mut command = self.place.command("queen");
        Finished::of(command.args(["jobs", "--king-address", &self.king.address]).env("DISTWASM_TOKEN", token))
    }

    fn expect_dukes(&self, count: u64) {
        self.king.expect_metric("distwasm_dukes", |dukes| dukes == count);
    }
}

/// A place whose job takes far longer than a test.
fn endless() -> Place {
    let place = Place::default();
    for number in 0..20_000 {
        place.write(number.to_string(), "slow");
    }
    place
}

fn slow(count: u64) -> Place {
    let place = Place::default();
    for number in 0..count {
        place.write(number.to_string(), format!("slow {number}"));
    }
    place
}

#[test]
fn tokens_that_are_made_while_the_king_runs_let_in_dukes_and_queens() {
    let kingdom = Kingdom::new();
    kingdom.place.write_sums(200);
    let duke = kingdom.token(&["--role", "duke", "--name", "farm"]);
    let queen = kingdom.token(&["--role", "queen", "--expires", "1day", "--project", "sums"]);
    let _duke = kingdom.duke(&duke, &[]);
    kingdom.expect_dukes(1);
    let job = kingdom.queen(&kingdom.place, &queen, guest("summer.wasm"), &["--project", "sums"]);
    job.finish().expect(0, &["200 done"]);
    kingdom.place.expect_sums(200);
    let list = kingdom.token_command(&["list"]);
    for text in ["farm", "sums", "duke", "queen", "valid", "never"] {
        assert!(list.stdout.contains(text), "{text}: {}", list.stdout);
    }
    // From a file, with whitespace around it, and nobody without one.
    let file = kingdom.place.path().join("token");
    fs::write(&file, format!("\n{queen}\n\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let ask = |command: &mut Command| Finished::of(command.args(["jobs", "--king-address", &kingdom.king.address]));
    ask(kingdom.place.command("queen").env("DISTWASM_TOKEN_FILE", &file)).expect(0, &[]);
    ask(&mut kingdom.place.command("queen")).expect(2, &["king token create"]);
    let king = kingdom.king.process.log();
    for text in [king, list.stdout, fs::read_to_string(kingdom.place.data().join("tokens.jsonl")).unwrap()] {
        assert!(![&duke, &queen].iter().any(|token| text.contains(&token[70..90])), "a secret is in: {text}");
    }
}

#[test]
fn a_role_allows_nothing_but_what_it_is_for() {
    let kingdom = Kingdom::new();
    kingdom.place.write_sums(1);
    let [duke, queen, observer, admin] =
        ["duke", "queen", "observer", "admin"].map(|role| kingdom.token(&["--role", role]));
    for token in [&queen, &observer] {
        let ended = kingdom.duke(token, &[]).finish();
        ended.expect(2, &["the king does not let this duke in", "does not allow offering slots"]);
    }
    for token in [&duke, &observer] {
        let ended = kingdom.queen(&kingdom.place, token, guest("summer.wasm"), &[]).finish();
        ended.expect(2, &["does not allow submitting jobs: use one for queens or admins"]);
    }
    kingdom.jobs(&duke).expect(2, &["does not allow seeing jobs"]);
    for token in [&queen, &observer, &admin] {
        kingdom.jobs(token).expect(0, &[]);
    }
    let _duke = kingdom.duke(&admin, &[]);
    kingdom.queen(&kingdom.place, &admin, guest("summer.wasm"), &[]).finish().expect(0, &["1 done"]);
    kingdom.token_command(&["create", "--role", "duke", "--project", "a"]).expect(2, &["leave --project out"]);
    kingdom.king.process.expect_log("a peer is not let in");
    assert!(kingdom.king.metric("distwasm_refusals_total") >= 5);
}

#[test]
fn a_token_for_some_projects_opens_and_shows_no_others() {
    let kingdom = Kingdom::new();
    let queen = kingdom.token(&["--role", "queen", "--project", "red", "--project", "lab-*"]);
    let observer = kingdom.token(&["--role", "observer", "--project", "blue"]);
    let all = kingdom.token(&["--role", "queen"]);
    let places = ["red", "blue", "lab-7"].map(|project| (project, slow(3)));
    let refused = kingdom.queen(&places[1].1, &queen, guest("slow.wat"), &["--project", "blue"]).finish();
    refused.expect(2, &["is for other projects (red, lab-*), and does not allow jobs of project blue"]);
    let _jobs = places.each_ref().map(|(project, place)| {
        let token = if *project == "blue" { &all } else { &queen };
        kingdom.queen(place, token, guest("slow.wat"), &["--project", project])
    });
    kingdom.king.expect_metric("distwasm_jobs", |jobs| jobs == 3);
    let seen = |token: &str| {
        let list = kingdom.jobs(token);
        list.expect(0, &[]);
        places.each_ref().map(|(project, _)| list.stdout.contains(project))
    };
    assert_eq!(seen(&queen), [true, false, true]);
    assert_eq!(seen(&observer), [false, true, false]);
    assert_eq!(seen(&all), [true; 3]);
}

#[test]
fn a_token_that_is_revoked_in_the_middle_ends_its_links_and_no_others() {
    let kingdom = Kingdom::new();
    let tokens = [("duke", "one"), ("duke", "two"), ("queen", "three"), ("queen", "four")];
    let [one, two, three, four] = tokens.map(|(role, name)| kingdom.token(&["--role", role, "--name", name]));
    let cache = kingdom.place.path().join("second");
    let flags = ["--cache", cache.to_str().unwrap()];
    let (first, mut second) = (kingdom.duke(&one, &[]), kingdom.duke(&two, &flags));
    kingdom.expect_dukes(2);
    let (endless, slow) = (endless(), slow(300));
    let unlucky = kingdom.queen(&endless, &three, guest("slow.wat"), &[]);
    let lucky = kingdom.queen(&slow, &four, guest("slow.wat"), &["--project", "lucky"]);
    until("some outputs", || (endless.outputs_count() > 5 && slow.outputs_count() > 5).then_some(()), || lucky.log());
    kingdom.revoke("three");
    unlucky.finish().expect(2, &["was revoked: the king's user makes a new one"]);
    kingdom.revoke("one");
    first.finish().expect(2, &["the king does not let this duke in", "was revoked"]);
    lucky.finish().expect(0, &["300 done", "0 failed"]);
    assert!(second.is_running());
    kingdom.expect_dukes(1);
    // They are not let in again, either.
    kingdom.jobs(&three).expect(2, &["was revoked"]);
    let list = kingdom.token_command(&["list"]).stdout;
    assert_eq!(list.lines().filter(|line| line.contains("revoked")).count(), 2, "{list}");
}

#[test]
fn a_token_that_expires_in_the_middle_ends_its_links() {
    let kingdom = Kingdom::new();
    let duke = kingdom.token(&["--role", "duke"]);
    let _duke = kingdom.duke(&duke, &[]);
    kingdom.expect_dukes(1);
    let endless = endless();
    // Long enough for the queen to begin, also on a loaded machine; if not, it is refused with the same words.
    let queen = kingdom.token(&["--role", "queen", "--expires", "5s"]);
    let ended = kingdom.queen(&endless, &queen, guest("slow.wat"), &[]).finish();
    ended.expect(2, &["has expired: the king's user makes a new one"]);
    kingdom.king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
}

#[test]
fn a_token_of_one_kingdom_is_worth_nothing_in_another() {
    let (ours, theirs) = (Kingdom::new(), Kingdom::new());
    let token = theirs.token(&["--role", "admin"]);
    ours.jobs(&token).expect(2, &["this is not the king of the token"]);
}

#[test]
fn metrics_want_a_token_and_health_wants_none() {
    let place = Place::default();
    let king = place.king_behind_shell("unset DISTWASM_METRICS_OPEN", &["--no-socket"]);
    let kingdom = Kingdom { place, king };
    let king = &kingdom.king;
    let status = |page: &str, token: Option<&str>| {
        let (status, body) = king.page_with(page, token);
        (status.split(' ').nth(1).unwrap().to_owned(), body)
    };
    assert_eq!(status("/healthz", None), ("200".to_owned(), "ok\n".to_owned()));
    let (code, body) = status("/metrics", None);
    assert!(code == "401" && body.lines().count() == 1 && body.contains("--role observer"), "{code} {body}");
    let [duke, observer] = ["duke", "observer"].map(|role| kingdom.token(&["--role", role, "--name", role]));
    assert_eq!(status("/metrics", Some(&observer)).0, "200");
    let (code, body) = status("/metrics", Some(&duke));
    assert!(code == "403" && body.contains("does not allow seeing metrics"), "{code} {body}");
    assert_eq!(status("/metrics", Some("nonsense")).0, "401");
    let other = Kingdom::new().token(&["--role", "admin"]);
    let (code, body) = status("/metrics", Some(&other));
    assert!(code == "401" && body.contains("the token is for another king"), "{code} {body}");
    kingdom.revoke("observer");
    until("401", || (status("/metrics", Some(&observer)).0 == "401").then_some(()), || kingdom.king.process.log());
    assert!(status("/metrics", Some(&observer)).1.contains("was revoked"));
}

#[test]
fn a_king_that_other_machines_can_reach_prints_two_lines_to_paste_once() {
    let place = Place::default();
    let args = ["--listen", "0.0.0.0", "--no-socket", "--advertise", "king-host"];
    let king = place.king_with(&args);
    let lines = until(
        "the two lines",
        || Some(king.process.stdout()).filter(|out| out.lines().count() == 2),
        || king.process.log(),
    );
    let port = king.address.rsplit_once(':').unwrap().1.to_owned();
    let mut tokens = lines.lines().zip(["duke", "queen"]).map(|(line, program)| {
        let (token, command) = line.strip_prefix("DISTWASM_TOKEN=").unwrap().split_once(' ').unwrap();
        assert!(command.starts_with(&format!("{program} --king-address king-host:{port}")), "{line}");
        token.to_owned()
    });
    let (duke, queen) = (tokens.next().unwrap(), tokens.next().unwrap());
    assert!(!king.process.log().contains(&duke[70..90]));
    let address = format!("127.0.0.1:{port}");
    let _duke = place.start(place.duke_command_at(&address, &[]).env("DISTWASM_TOKEN", &duke), "duke");
    place.write_sums(20);
    let mut command = place.queen_command(guest("summer.wasm"));
    command.args(["--king-address", &address]).env("DISTWASM_TOKEN", &queen);
    place.start(&mut command, "queen").finish().expect(0, &["20 done"]);
    drop(king);
    let king = place.king_with(&args);
    king.process.expect_log("the king is ready");
    assert_eq!(king.process.stdout(), "");
    king.process.expect_log("--advertise has no effect why=\"this king has tokens");
}

#[test]
fn where_no_lines_are_printed_advertise_has_no_effect_and_the_king_says_so() {
    let place = Place::default();
    let said = |args: &[&str]| {
        let king = place.king_with(args);
        king.process.expect_log("the king is ready");
        king.process.expect_log("--advertise has no effect");
        king.process.log()
    };
    assert!(said(&["--advertise", "king-host"]).contains("other machines cannot reach this king"));
    assert!(said(&["--advertise", "king-host", "--insecure"]).contains("with --insecure there are no tokens"));
    let asked = Finished::of(place.command("king").args(["--advertise", "king-host", "token", "list"]));
    asked.expect(0, &["--advertise has no effect"]);
    // A setting for all starts of a king is not a mistake.
    let mut king = place.command("king");
    king.args(["token", "list"]).env("DISTWASM_ADVERTISE", "king-host");
    assert_eq!(Finished::of(&mut king).stderr, "");
}

#[test]
fn a_token_that_is_written_to_a_file_for_all_comes_with_a_word() {
    let place = Place::default();
    let path = place.path().join("token");
    let made = |mode: u32| {
        let file = fs::File::create(&path).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        let mut command = place.command("king");
        command.args(["token", "create", "--role", "duke"]).stdout(file).stderr(std::process::Stdio::piped());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(made(0o644).contains("others may read the file"));
    assert!(!made(0o600).contains("others may read the file"));
}

#[test]
fn metrics_beyond_loopback_are_shown_over_tls_alone() {
    if Finished::of(Command::new("sh").args(["-c", "command -v curl xxd base64"])).status != Some(0) {
        return println!("==== SKIPPED: this needs curl, xxd and base64");
    }
    let place = Place::default();
    let args = ["--listen", "0.0.0.0", "--http", "0.0.0.0:0", "--no-socket"];
    let king = place.king_behind_shell("unset DISTWASM_METRICS_OPEN", &args);
    let kingdom = Kingdom { place, king };
    let observer = kingdom.token(&["--role", "observer"]);
    let port = kingdom.king.http.rsplit_once(':').unwrap().1;
    // As the reference shows it.
    let pin = "pin=$(king cert show | sed -n 's/^fingerprint *//p' | xxd -r -p | base64)";
    let ask = |scheme: &str, pin: &str| {
        let script = format!(
            "{pin}\ncurl --silent --insecure --pinnedpubkey \"sha256//$pin\" --oauth2-bearer \"$TOKEN\" \
             {scheme}://127.0.0.1:{port}/metrics"
        );
        let mut path = programs().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut command = kingdom.place.command("/bin/bash");
        Finished::of(command.args(["-c", &script]).env("TOKEN", &observer).env("PATH", path))
    };
    let seen = ask("https", pin);
    assert!(seen.stdout.contains("distwasm_refusals_total 0"), "{seen:?}");
    let plain = ask("http", pin);
    assert_eq!(plain.stdout, "tokens do not travel in plaintext: ask by https://\n");
    let other = ask("https", "pin=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert!(other.status != Some(0) && other.stdout.is_empty(), "{other:?}");
}

#[test]
fn a_damaged_store_of_tokens_stops_a_start_with_the_line() {
    let place = Place::default();
    let made = Finished::of(place.command("king").args(["token", "create", "--role", "duke"]));
    made.expect(0, &[]);
    let file = place.data().join("tokens.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"role\":\"duke\"", "\"role\":\"dike\"")).unwrap();
    let king = Finished::of(place.command("king").args(["--port", "0", "--http", "none"]));
    king.expect(2, &["tokens.jsonl are damaged in line 2: unknown variant `dike`", "king token create"]);
}
