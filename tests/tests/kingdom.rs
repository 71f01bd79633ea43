//! King, dukes and queens as processes of their own.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use distwasm_tests::real::{Place, guest, peak_memory_bytes, peasants_of, runs, until};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_kingdom_does_what_one_machine_does() {
    let place = Place::default();
    place.write_sums(2000);
    let king = place.king();
    let _duke = place.duke(&king, &["--label", "zone=eu", "--hostname", "farm"]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 1);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["2000 done"]);
    place.expect_sums(2000);
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["2000 skipped"]);
    assert_eq!(king.metric("distwasm_verdicts_total{verdict=\"done\"}"), 2000);
    king.expect_metric("distwasm_slots{state=\"granted\"}", |slots| slots == 0);
    assert_eq!(king.metric("distwasm_bytes_in_flight{kind=\"inputs\"}"), 0);
    assert_eq!(king.metric("distwasm_bytes_in_flight{kind=\"programs\"}"), 0);
    assert_eq!(king.page("/healthz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    assert_eq!(king.page("/else").0, "HTTP/1.1 404 Not Found");
}

#[test]
fn a_duke_killed_in_the_middle_costs_nothing_and_leaves_no_peasant() {
    let place = Place::default();
    for number in 0..300 {
        place.write(number.to_string(), format!("slow {number}"));
    }
    let king = place.king();
    let first = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &[]);
    until("some outputs", || (place.outputs_count() > 10).then_some(()), || queen.log());
    let peasants = peasants_of(first.id());
    assert_eq!(peasants.len(), 2);
    first.signal(Signal::KILL);
    // The kernel kills the peasants with their duke.
    until("the peasants' end", || (!peasants.iter().copied().any(runs)).then_some(()), || format!("{peasants:?}"));
    let _second = place.duke(&king, &[]);
    queen.finish().expect(0, &["300 done", "0 failed"]);
    for (path, output) in place.outputs() {
        assert_eq!(output, format!("slow {}", path.display()).as_bytes());
    }
    assert_eq!(place.outputs_count(), 300);
}

#[test]
fn two_queens_share_and_killing_one_does_not_disturb_the_other() {
    let (one, two) = (Place::default(), Place::default());
    for number in 0..500 {
        one.write(number.to_string(), "one");
        two.write(number.to_string(), "two");
    }
    let king = one.king_with(&["--grace", "1s"]);
    let _duke = one.duke(&king, &[]);
    let first = one.start_queen(&king, guest("slow.wat"), &["--project", "one"]);
    until("some outputs", || (one.outputs_count() > 5).then_some(()), || first.log());
    let second = two.start_queen(&king, guest("slow.wat"), &["--project", "two"]);
    until("the second's outputs", || (two.outputs_count() > 5).then_some(()), || second.log());
    let before = one.outputs_count();
    until("the first's outputs", || (one.outputs_count() > before + 5).then_some(()), || first.log());
    first.signal(Signal::KILL);
    second.finish().expect(0, &["500 done"]);
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
    king.expect_metric("distwasm_slots{state=\"granted\"}", |slots| slots == 0);
}

#[test]
fn a_job_that_cannot_be_placed_waits_and_says_why() {
    let place = Place::default();
    place.write_sums(3);
    let king = place.king();
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--min-ram", "4096"]);
    queen.expect_log("waiting: there is no duke");
    let _duke = place.duke(&king, &[]);
    queen.expect_log("waiting: each slot must have 4096 MB (--min-ram), and the largest duke has 2048 MB");
    let _larger = place.duke(&king, &["--ram-limit", "5000"]);
    queen.finish().expect(0, &["3 done"]);
}

#[test]
fn a_job_runs_only_on_dukes_with_the_labels_that_it_requires() {
    let place = Place::default();
    place.write_sums(3);
    let king = place.king();
    let _elsewhere = place.duke(&king, &["--label", "zone=us"]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 1);
    let queen = place.start_queen(&king, guest("summer.wasm"), &["--require", "zone=eu", "--require", "gpu=no"]);
    queen.expect_log("waiting: no duke has labels gpu=no, zone=eu");
    let _there = place.duke(&king, &["--label", "zone=eu,gpu=no"]);
    queen.finish().expect(0, &["3 done"]);
}

#[test]
fn one_per_machine_means_one() {
    let place = Place::default();
    for number in 0..60 {
        place.write(number.to_string(), "slow");
    }
    let king = place.king();
    let duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &["--one-per-machine"]);
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    assert_eq!(peasants_of(duke.id()).len(), 1);
    queen.finish().expect(0, &["60 done"]);
}

#[test]
fn an_unfit_program_fails_its_own_job_only() {
    let (good, bad) = (Place::default(), Place::default());
    for number in 0..100 {
        good.write(number.to_string(), "slow");
    }
    bad.write_sums(3);
    let king = good.king();
    let _duke = good.duke(&king, &[]);
    let queen = good.start_queen(&king, guest("slow.wat"), &[]);
    until("some outputs", || (good.outputs_count() > 5).then_some(()), || queen.log());
    for (name, said) in [
        ("unfit-import.wat", "`env.foo`"),
        ("unfit-signature.wat", "ProcessStdio"),
        ("unfit-exports.wat", "ProcessStdio"),
        ("unfit-init.wat", "unreachable"),
    ] {
        bad.start_queen(&king, guest(name), &[]).finish().expect(2, &["the program cannot run", said]);
    }
    queen.finish().expect(0, &["100 done"]);
}

#[test]
fn dukes_wait_for_a_missing_king_and_queens_give_up() {
    let place = Place::default();
    place.write_sums(3);
    let mut command = place.queen_command(guest("summer.wasm"));
    // Port 1 needs rights that no process here has used.
    let finished = distwasm_tests::real::Finished::of(command.args(["-k", "127.0.0.1:1"]));
    finished.expect(2, &["no king answers at 127.0.0.1:1 (tried for 10s)", "no king of this user", "`king --port 1`"]);
    let king = place.king();
    let address = king.address.clone();
    drop(king);
    let duke = place.duke_at(&address, &[]);
    duke.expect_log("no link to the king; trying again");
    let mut command = place.command("king");
    command.args(["--http", "127.0.0.1:0", "--listen", &address]);
    let king = distwasm_tests::real::Process::start(&mut command, "king", place.path());
    king.expect_log("a duke joined");
}

#[test]
fn garbage_on_the_kings_port_does_no_harm() {
    let place = Place::default();
    place.write_sums(100);
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let mut held = Vec::new();
    for nonsense in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff"]
    {
        let mut stream = TcpStream::connect(&king.address).unwrap();
        stream.write_all(nonsense).unwrap();
        held.push(stream);
    }
    place.start_queen(&king, guest("summer.wasm"), &[]).finish().expect(0, &["100 done"]);
    place.expect_sums(100);
    for mut stream in held {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The king closes the connection, in one way or another.
        let _read = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_king_that_stops_tells_dukes_and_queens() {
    let place = Place::default();
    for number in 0..1000 {
        place.write(number.to_string(), "slow");
    }
    let king = place.king();
    let duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &["--grace", "1s"]);
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    king.process.signal(Signal::TERM);
    king.process.expect_log("the king takes no new jobs");
    king.process.signal(Signal::TERM);
    queen.finish().expect(2, &["the king is shutting down", "run the same command again to go on"]);
    king.process.finish().expect(0, &["the king is shutting down"]);
    duke.expect_log("the king is shutting down");
    duke.signal(Signal::INT);
    duke.finish().expect(0, &["the duke has left"]);
}

#[test]
fn memory_stays_bounded_however_many_megabytes_go_through() {
    let place = Place::default();
    let content = vec![b'a'; 1 << 20];
    for number in 0..300 {
        place.write(number.to_string(), &content);
    }
    let king = place.king();
    let duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("upper.wat"), &[]);
    let mut queen_peak = 0;
    until(
        "all outputs",
        || {
            // The queen may have ended between the two checks.
            if fs::exists(format!("/proc/{}/stat", queen.id())).unwrap() && place.outputs_count() < 300 {
                queen_peak = queen_peak.max(peak_memory_bytes(queen.id()));
                return None;
            }
            Some(())
        },
        || queen.log(),
    );
    queen.finish().expect(0, &["300 done"]);
    assert!(place.outputs().values().all(|output| output.len() == 1 << 20 && output.iter().all(|byte| *byte == b'A')));
    // The bounds of ARCHITECTURE.md, and as much again for the allocator.
    let megabytes = |bytes: u64| bytes >> 20;
    let (king, duke) = (peak_memory_bytes(king.process.id()), peak_memory_bytes(duke.id()));
    assert!(megabytes(king) < 300, "the king had {} MB", megabytes(king));
    assert!(megabytes(duke) < 200, "the duke had {} MB", megabytes(duke));
    assert!(megabytes(queen_peak) < 200, "the queen had {} MB", megabytes(queen_peak));
}

#[test]
fn dukes_may_die_over_and_over() {
    let place = Place::default();
    for number in 0..150 {
        place.write(number.to_string(), "slow");
    }
    let king = place.king();
    let mut duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &[]);
    for target in [10, 40, 80] {
        until("some outputs", || (place.outputs_count() > target).then_some(()), || queen.log());
        kill_process(Pid::from_raw(duke.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        duke = place.duke(&king, &[]);
    }
    queen.finish().expect(0, &["150 done"]);
}

#[test]
fn a_queen_may_leave_in_the_middle_of_a_large_input() {
    let place = Place::default();
    let large = fs::File::create(place.input().join("large")).unwrap();
    // Larger than all buffers on the way, so that the queen is still sending it when it is stopped.
    large.set_len(500 << 20).unwrap();
    // Sent before it, and alone: a queen that has its result was welcomed, and is at the large one.
    place.write("a", "small");
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("upper.wat"), &[]);
    until("the first output", || (place.outputs_count() == 1).then_some(()), || queen.log());
    queen.signal(Signal::INT);
    queen.finish().expect(130, &["interrupted"]);
    king.process.expect_log("the queen left; its job is over");
}

#[test]
fn a_king_hears_that_a_duke_leaves() {
    let place = Place::default();
    let king = place.king();
    let duke = place.duke(&king, &[]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 1);
    duke.signal(Signal::TERM);
    duke.finish().expect(0, &["the duke has left"]);
    king.process.expect_log("a duke left");
}
