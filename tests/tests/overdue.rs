//! Units that loop: the king bounds their time, and takes the slots that they hold from others.

use distwasm_tests::real::{Place, guest};

/// A folder with one input, for which `loop.wat` never ends.
fn endless() -> Place {
    let place = Place::default();
    place.write("a", "loop for ever");
    place
}

#[test]
fn a_king_bounds_the_time_of_every_unit() {
    let place = endless();
    let king = place.king_with(&["--timeout-max", "1s"]);
    let _duke = place.duke(&king, &[]);
    let told = place.start_queen(&king, guest("loop.wat"), &["--timeout=2s"]).finish();
    told.expect(2, &["a unit may take 1s at most here (king --timeout-max), and --timeout is 2s"]);
    let told = place.start_queen(&king, guest("loop.wat"), &[]).finish();
    told.expect(1, &["took longer than the time-out of 1s"]);
}

#[test]
fn a_job_that_is_owed_slots_gets_them_from_one_that_loops() {
    let (loops, owed) = (endless(), Place::default());
    owed.write("b", "fine");
    let king = loops.king_with(&["--preempt-after", "500ms"]);
    let _duke = loops.duke(&king, &["--num-cpus", "1"]);
    let _looping = loops.start_queen(&king, guest("loop.wat"), &["--project", "loops", "--priority", "100"]);
    king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
    owed.start_queen(&king, guest("loop.wat"), &["--project", "owed"]).finish().expect(0, &["1 done"]);
    // The unit that lost its slot is tried again, and has not failed.
    king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 1);
    king.expect_metric("distwasm_verdicts_total{verdict=\"failed\"}", |failed| failed == 0);
}
