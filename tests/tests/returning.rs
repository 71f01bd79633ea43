//! Kings, dukes and queens that come back: finished units stay finished, and running units keep running.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use distwasm_tests::{
    chaos::Proxy,
    real::{Place, Process, guest, peasants_of, until},
};
use rustix::process::Signal;

/// Inputs for `slow.wat`, which takes some milliseconds for each and echoes it.
fn slow_inputs(count: usize) -> Place {
    let place = Place::default();
    for number in 0..count {
        place.write(number.to_string(), format!("slow {number}"));
    }
    place
}

fn expect_slow_outputs(place: &Place, count: usize) {
    let outputs = place.outputs();
    assert_eq!(outputs.len(), count);
    for (name, output) in outputs {
        assert_eq!(output, format!("slow {}", name.display()).into_bytes());
    }
}

fn wait_for_outputs(place: &Place, count: usize, queen: &Process) {
    until("outputs", || (place.outputs_count() >= count).then_some(()), || queen.log());
}

fn duke_with_cache(place: &Place, address: &str, cache: &str) -> Process {
    place.duke_at(address, &["--insecure", "--cache", place.path().join(cache).to_str().unwrap()])
}

#[test]
fn killed_kings_lose_nothing() {
    let place = slow_inputs(300);
    let mut king = place.insecure_king();
    let ways = [(); 3].map(|()| Proxy::start(&king.address));
    let _dukes = ["one", "two"].map(|cache| {
        let way = if cache == "one" { &ways[0] } else { &ways[1] };
        duke_with_cache(&place, &way.address, cache)
    });
    king.expect_metric("distwasm_dukes", |dukes| dukes == 2);
    let queen = place.start_queen_at(&ways[2].address, guest("slow.wat"), &["--insecure"]);
    let mut attempts = 0;
    for outputs in [40, 110, 180] {
        wait_for_outputs(&place, outputs, &queen);
        attempts += king.metric("distwasm_attempts_total");
        king.process.signal(Signal::KILL);
        king = place.insecure_king();
        ways.iter().for_each(|way| way.lead_to(&king.address));
    }
    queen.finish().expect(0, &["300 done", "0 failed"]);
    expect_slow_outputs(&place, 300);
    attempts += king.metric("distwasm_attempts_total");
    // Units that ran when a king was killed kept running; only orders that no duke had read were repeated.
    assert!(attempts <= 345, "{attempts} attempts for 300 units");
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
}

#[test]
fn a_duke_that_was_cut_off_brings_its_results_back() {
    let place = slow_inputs(120);
    let king = place.insecure_king();
    let way = Proxy::start(&king.address);
    let duke = place.duke_at(&way.address, &["--insecure"]);
    let queen = place.start_queen(&king, guest("slow.wat"), &[]);
    for outputs in [10, 40, 70] {
        wait_for_outputs(&place, outputs, &queen);
        let before = duke.log().matches("serving the king").count();
        way.cut();
        until(
            "the duke's return",
            || (duke.log().matches("serving the king").count() > before).then_some(()),
            || duke.log(),
        );
    }
    queen.finish().expect(0, &["120 done", "0 failed"]);
    expect_slow_outputs(&place, 120);
    king.process.expect_log("a duke came back");
    // Orders in transit when the link was cut are repeated; units that ran are not run again.
    let attempts = king.metric("distwasm_attempts_total");
    assert!(attempts <= 138, "{attempts} attempts for 120 units");
    king.expect_metric("distwasm_units{state=\"running\"}", |running| running == 0);
}

#[test]
fn a_queen_that_was_cut_off_resumes_its_job() {
    let place = slow_inputs(120);
    let king = place.insecure_king();
    let _duke = place.duke(&king, &[]);
    let way = Proxy::start(&king.address);
    let queen = place.start_queen_at(&way.address, guest("slow.wat"), &["--insecure"]);
    for (times, outputs) in [10, 40, 70].into_iter().enumerate() {
        wait_for_outputs(&place, outputs, &queen);
        way.cut();
        let came_back = || king.process.log().matches("a queen came back").count() > times;
        until("the queen's return", || came_back().then_some(()), || queen.log());
    }
    queen.finish().expect(0, &["120 done", "0 failed"]);
    expect_slow_outputs(&place, 120);
    assert_eq!(king.metric("distwasm_attempts_total"), 120);
}

#[test]
fn a_queen_whose_king_stays_away_says_so_and_keeps_its_outputs() {
    let place = slow_inputs(100);
    let king = place.king();
    let duke = place.duke(&king, &["--grace", "1s"]);
    let queen = place.start_queen(&king, guest("slow.wat"), &["--grace", "1s"]);
    wait_for_outputs(&place, 5, &queen);
    let peasants = peasants_of(duke.id());
    drop(king);
    queen.finish().expect(2, &["the king went away, and none was back", "--grace", "run the same command again"]);
    duke.expect_log("its jobs are given up");
    until(
        "the peasants' end",
        || (!peasants.iter().any(|peasant| peasants_of(duke.id()).contains(peasant))).then_some(()),
        || duke.log(),
    );
    // The rest can be done in local mode, without a king.
    place.queen(guest("slow.wat"), &[]).expect(0, &["0 failed"]);
    expect_slow_outputs(&place, 100);
}

#[test]
fn a_duke_that_replaces_a_dead_one_is_recognised() {
    let place = slow_inputs(40);
    let king = place.king();
    let dead = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("slow.wat"), &[]);
    wait_for_outputs(&place, 5, &queen);
    // Dropping the duke kills it.
    drop(dead);
    let _next = place.duke(&king, &[]);
    queen.finish().expect(0, &["40 done", "0 failed"]);
    king.expect_metric("distwasm_dukes", |dukes| dukes == 1);
}

#[test]
fn a_unit_that_hangs_on_one_duke_is_done_on_another() {
    let place = Place::default();
    place.write("hangs", "h");
    for number in 0..60 {
        place.write(number.to_string(), "q");
    }
    let king = place.insecure_king();
    let _dukes = ["one", "two"].map(|cache| duke_with_cache(&place, &king.address, cache));
    king.expect_metric("distwasm_dukes", |dukes| dukes == 2);
    let queen = place.start_queen(&king, guest("straggler.wat"), &[]);
    queen.finish().expect(0, &["61 done", "0 failed"]);
    // Units that waited behind it in the pipe were tried elsewhere, too.
    let attempts = king.metric("distwasm_attempts_total");
    assert!((62..=100).contains(&attempts), "{attempts} attempts");
    // The peasant that hangs was ended, and its slot is free.
    king.expect_metric("distwasm_slots{state=\"granted\"}", |slots| slots == 0);
    let place = Place::default();
    place.write("hangs", "h");
    let queen = place.start_queen(&king, guest("straggler.wat"), &["--no-speculation", "--time-limit=2s"]);
    queen.finish().expect(2, &["--time-limit"]);
}

#[test]
fn the_job_of_a_killed_queen_ends_when_the_queen_is_started_again() {
    let place = Place::default();
    place.write("a", "loop for ever");
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let first = place.start_queen(&king, guest("loop.wat"), &[]);
    king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
    first.signal(Signal::KILL);
    assert_eq!(first.finish().status, None);
    assert!(place.path().join("output/.distwasm/job").exists());
    place.write("a", "fine");
    // The king and the folder may be spelled differently.
    let port = king.address.rsplit_once(':').unwrap().1;
    let mut again = place.command("queen");
    again.args(["--king-address", &format!("localhost:{port}"), "--binary"]).arg(guest("loop.wat"));
    again.arg("--input").arg(place.input()).arg("--output").arg(place.path().join("input/../output/."));
    distwasm_tests::real::Finished::of(&mut again).expect(0, &["1 done"]);
    king.process.expect_log("its queen was started again as another job");
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
    assert_eq!(place.outputs().keys().collect::<Vec<_>>(), [std::path::Path::new("a")]);
    assert!(!place.path().join("output/.distwasm/job").exists());
}

#[test]
fn the_job_of_a_killed_queen_ends_at_a_new_king_too() {
    let place = Place::default();
    place.write("a", "loop for ever");
    let king = place.insecure_king();
    let way = Proxy::start(&king.address);
    let _duke = duke_with_cache(&place, &way.address, "cache");
    let first = place.start_queen(&king, guest("loop.wat"), &[]);
    king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
    first.signal(Signal::KILL);
    assert_eq!(first.finish().status, None);
    king.process.signal(Signal::KILL);
    let king = place.insecure_king();
    way.lead_to(&king.address);
    place.write("a", "fine");
    // The duke may bring the job of the killed queen before or after the next queen comes.
    place.start_queen(&king, guest("loop.wat"), &[]).finish().expect(0, &["1 done"]);
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
}

#[test]
fn the_unit_that_runs_longest_is_named() {
    let place = Place::default();
    place.write("hangs/here", "loop for ever");
    place.write("b", "fine");
    let king = place.king();
    let _duke = place.duke(&king, &["--hostname", "tower"]);
    let queen = place.start_queen(&king, guest("loop.wat"), &[]);
    let job = || {
        let asked = |args: &[&str]| {
            let mut ask = place.command("queen");
            ask.args(args).args(["--king-address", &king.address]);
            distwasm_tests::real::Finished::of(&mut ask).stdout
        };
        let jobs = asked(&["jobs", "--json"]);
        let job: serde_json::Value = serde_json::from_str(jobs.lines().next()?).ok()?;
        Some(asked(&["job", &job["job"].to_string()]))
    };
    let sheet = until("the unit that hangs", || job().filter(|sheet| sheet.contains("longest ")), || queen.log());
    assert!(sheet.contains("longest   hangs/here, on tower for "), "{sheet}");
}
