//! Jobs that are cancelled: they end at once, and their queens say so, also when they were away.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use distwasm_tests::{
    chaos::Proxy,
    real::{Finished, King, Place, guest, peasants_of, until},
};
use rustix::process::Signal;

/// The output of a command of the queen about this king.
fn ask(place: &Place, king: &King, args: &[&str]) -> Finished {
    let mut ask = place.command("queen");
    ask.args(args).args(["--king-address", &king.address]);
    Finished::of(&mut ask)
}

/// The number of the only job.
fn job_of(place: &Place, king: &King) -> String {
    let listed = ask(place, king, &["jobs", "--json"]).stdout;
    let job: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    job.get("job").unwrap().to_string()
}

/// A job whose only unit runs for ever, on a duke with one slot.
fn endless() -> (Place, King) {
    let place = Place::default();
    place.write("a", "loop for ever");
    let king = place.king();
    (place, king)
}

#[test]
fn a_cancelled_job_ends_at_once_and_its_peasants_with_it() {
    let (place, king) = endless();
    let duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("loop.wat"), &[]);
    king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
    let job = job_of(&place, &king);
    let cancelled = ask(&place, &king, &["cancel", "1", &job]);
    cancelled.expect(2, &["there is no job 1", &format!("job {job} of project loop is cancelled")]);
    queen.finish().expect(2, &["the job was cancelled (queen cancel)"]);
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
    king.expect_metric("distwasm_slots{state=\"granted\"}", |slots| slots == 0);
    until("no peasant", || peasants_of(duke.id()).is_empty().then_some(()), || duke.log());
    assert!(!place.path().join("output/.distwasm/job").exists());
    ask(&place, &king, &["cancel", &job]).expect(2, &["it may have ended"]);
}

#[test]
fn a_queen_that_is_away_hears_later_that_its_job_was_cancelled() {
    let place = Place::default();
    place.write("a", "loop for ever");
    let king = place.insecure_king();
    let way = Proxy::start(&king.address);
    let _duke = place.duke(&king, &[]);
    let queen = place.start_queen_at(&way.address, guest("loop.wat"), &["--insecure"]);
    king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
    let job = job_of(&place, &king);
    // It cannot come back before its job is cancelled.
    queen.signal(Signal::STOP);
    way.cut();
    king.process.expect_log("the queen is away");
    ask(&place, &king, &["cancel", &job]).expect(0, &["is cancelled"]);
    king.expect_metric("distwasm_jobs", |jobs| jobs == 0);
    queen.signal(Signal::CONT);
    queen.finish().expect(2, &["the job was cancelled (queen cancel)"]);
    king.expect_metric("distwasm_jobs_total", |jobs| jobs == 1);
}
