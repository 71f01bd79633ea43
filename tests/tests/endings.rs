//! How runs end early, what they keep for the next run, and how kings and dukes shut down gracefully.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::fs;

use distwasm_tests::real::{Place, guest, until};
use rustix::process::Signal;

fn failures(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap();
    let name = |line: &str| line.strip_prefix("{\"input\":\"").unwrap().split('"').next().unwrap().to_owned();
    text.lines().map(name).collect()
}

#[test]
fn too_many_failures_stop_a_job() {
    let place = Place::default();
    place.write_sums(20);
    for number in 0..2000 {
        place.write(format!("bad-{number}"), "one + two");
    }
    let finished = place.queen(guest("summer.wasm"), &["--max-failures", "7"]);
    let limit = "finished units failed, which is more than --max-failures 7 allows";
    finished.expect(1, &["error: stopped: 8 of ", limit, "--retry-failed", "higher --max-failures"]);
    let failed = failures(&place).len();
    assert!((8..2000).contains(&failed), "{failed} units failed");
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("summer.wasm"), &["--max-failures", "50%"]).finish().expect(1, &["stopped: "]);
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
    king.expect_metric("distwasm_slots{state=\"granted\"}", |slots| slots == 0);
    king.expect_metric("distwasm_bytes_in_flight{kind=\"inputs\"}", |bytes| bytes == 0);
    place.queen(guest("summer.wasm"), &["--max-failures", "2000"]).expect(1, &["2000 failed"]);
    assert_eq!(place.outputs_count(), 20);
    assert_eq!(failures(&place).len(), 2000);
}

#[test]
fn a_run_that_takes_too_long_is_ended_and_keeps_its_outputs() {
    let place = Place::default();
    place.write("a", "fine");
    place.write("b", "loop for ever");
    let finished = place.queen(guest("loop.wat"), &["--time-limit", "3s", "--num-cpus", "1"]);
    finished.expect(2, &["error: the time for the whole run is over (--time-limit)"]);
    assert!(!place.output().join("b").exists());
    let nobody = place.queen_command(guest("loop.wat")).args(["-k", "127.0.0.1:1", "--time-limit", "1ms"]).status();
    assert_eq!(nobody.unwrap().code(), Some(2));
}

#[test]
fn only_failed_units_are_tried_again() {
    let place = Place::default();
    place.write_sums(3);
    for name in ["bad/one", "bad/two", "gone", "later", "stays"] {
        place.write(name, "one + two");
    }
    place
        .queen(guest("summer.wasm"), &["--retry-failed"])
        .expect(0, &["no failures of earlier runs are known", "0 done"]);
    place.queen(guest("summer.wasm"), &[]).expect(1, &["3 done", "5 failed"]);
    let text = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap();
    assert!(text.lines().all(|line| line.contains("\"run_us\":") && line.contains("\"failed_at\":\"20")), "{text}");
    place.write("new", "1 + 1");
    place.write("bad/one", "2 + 2");
    place.write("later", "3 + 3");
    fs::remove_file(place.input().join("gone")).unwrap();
    fs::write(place.output().join("later"), "by hand").unwrap();
    let finished = place.queen(guest("summer.wasm"), &["--retry-failed", "--json"]);
    finished.expect(1, &["1 of the earlier failures are skipped: they are not inputs any more"]);
    assert!(finished.stdout.contains(r#""done":1,"skipped":1,"failed":2,"empty":0,"gone":1"#), "{}", finished.stdout);
    assert!(!place.output().join("new").exists());
    let mut left = failures(&place);
    left.sort();
    assert_eq!(left, ["bad/two", "stays"]);
    let file = place.path().join("output.failures.jsonl");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "nonsense\n").unwrap();
    place.queen(guest("summer.wasm"), &["--retry-failed"]).expect(2, &["line 3 of ", "is not a failure"]);
}

#[test]
fn failures_that_an_interrupted_retry_has_not_tried_stay_in_the_file() {
    let place = Place::default();
    for name in ["a", "b", "c"] {
        place.write(name, "loop for ever");
    }
    let flags = ["--num-cpus", "1", "--timeout", "50ms"];
    place.queen(guest("loop.wat"), &flags).expect(1, &["3 failed"]);
    let retry = ["--num-cpus", "1", "--retry-failed", "--time-limit", "1500ms"];
    place.queen(guest("loop.wat"), &retry).expect(2, &["(--time-limit)", "all failures: "]);
    assert_eq!(failures(&place).len(), 3);
    place.write("a", "fine");
    place.queen(guest("loop.wat"), &["--retry-failed", "--timeout", "50ms", "--max-failures", "0"]).expect(1, &[]);
    assert!(failures(&place).len() >= 2, "{:?}", failures(&place));
}

#[test]
fn a_duke_that_shuts_down_gracefully_finishes_its_units() {
    let place = Place::default();
    for number in 0..300 {
        place.write(number.to_string(), "slow");
    }
    let king = place.king();
    let first = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &["--json"]);
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    let _second = place.duke(&king, &[]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 2);
    first.signal(Signal::TERM);
    let left = first.finish();
    left.expect(0, &["the duke takes no new units", "the duke has left"]);
    assert!(!left.stderr.contains("WARN"), "{}", left.stderr);
    queen.finish().expect(0, &["300 done"]);
    king.process.expect_log("a duke left");
    let log = king.process.log();
    assert!(log.contains("a duke is going to leave") && !log.contains("is lost"), "{log}");
}

#[test]
fn a_duke_that_is_to_leave_does_not_wait_without_end() {
    let place = Place::default();
    // With one processor, the second runs once the first has its output.
    place.write("0", "fine");
    place.write("1", "loop for ever");
    let king = place.king();
    let queen = place.start_queen(&king, guest("loop.wat"), &[]);
    for (drain, said) in [("200ms", "not all units were done in time"), ("1h", "the duke takes no new units")] {
        let duke = place.duke(&king, &["--num-cpus", "1", "--drain", drain]);
        until("the first output", || (place.outputs_count() == 1).then_some(()), || queen.log());
        king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
        duke.signal(Signal::TERM);
        duke.expect_log("the duke takes no new units");
        if drain == "1h" {
            duke.signal(Signal::INT);
        }
        duke.finish().expect(0, &[said, "the duke has left"]);
        king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 0);
    }
    queen.signal(Signal::INT);
    queen.finish().expect(130, &[]);
}

#[test]
fn a_king_that_shuts_down_gracefully_takes_no_new_jobs_and_ends_with_the_last() {
    let (place, late) = (Place::default(), Place::default());
    for number in 0..200 {
        place.write(number.to_string(), "slow");
    }
    late.write("a", "late");
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &[]);
    until("some outputs", || (place.outputs_count() > 5).then_some(()), || queen.log());
    king.process.signal(Signal::TERM);
    king.process.expect_log("the king takes no new jobs");
    late.start_queen(&king, guest("slow.wat"), &[]).finish().expect(2, &["the king is going to end"]);
    queen.finish().expect(0, &["200 done"]);
    let king = king.process.finish();
    king.expect(0, &["the king is shutting down"]);
    assert!(!king.stderr.contains("have not ended in time"), "{}", king.stderr);
}
