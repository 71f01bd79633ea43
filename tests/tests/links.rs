//! What a duke on a slow link costs a job, in simulated time. `DISTWASM_LINK_SEEDS` says with how many kingdoms.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use distwasm_tests::sim::{QueenPlan, Slowness, a_duke_more_makes_no_job_slower, takes_us};

#[test]
fn a_duke_behind_two_megabits_costs_a_job_of_small_files_nothing() {
    for result_bytes in [100, 9 << 10] {
        let mut plan = QueenPlan::steady("job", 5000, 100);
        for unit in &mut plan.units {
            (unit.input_bytes, unit.result_bytes) = (9 << 10, result_bytes);
        }
        let good = (2, Slowness { delay_us_max: 0, us_per_kib: 10 });
        let slow = (2, Slowness { delay_us_max: 200_000, us_per_kib: 4_000 });
        let (alone, both) = (takes_us(&[good], &plan), takes_us(&[good, slow], &plan));
        // What has arrived there may take as long as a straggler.
        assert!(both <= alone + alone / 10 + 700_000, "{result_bytes}: {both} instead of {alone}");
    }
}

#[test]
fn a_duke_more_makes_no_job_slower_whatever_its_link() {
    let seeds = std::env::var("DISTWASM_LINK_SEEDS").map_or(20, |seeds| seeds.parse().unwrap());
    (0..seeds).for_each(a_duke_more_makes_no_job_slower);
}
