//! Some hundreds of simulated kingdoms; `simulate` runs thousands.
#![allow(clippy::panic, reason = "an unexpected result fails the test")]

use distwasm_tests::sim::{Tally, run_seed};

#[test]
fn every_invariant_holds_in_five_hundred_kingdoms() {
    let mut tally = Tally::default();
    for seed in 1..=500 {
        match run_seed(seed) {
            Ok(seen) => tally.add(seen),
            Err(broken) => panic!("{broken}"),
        }
    }
    for (what, count) in tally.counts() {
        assert!(count > 10, "the weather has too few {what}: {count}");
    }
}

#[test]
fn the_same_seed_is_the_same_kingdom() {
    let log = |seed| {
        let mut world = distwasm_tests::sim::World::new(seed, true);
        world.run();
        world.log().join("\n")
    };
    for seed in [3, 14, 15] {
        assert_eq!(log(seed), log(seed));
    }
}

/// `scripts/planted` plants the bugs; this test only checks that it can.
#[test]
fn there_are_bugs_to_be_planted() {
    let bugs = distwasm_tests::planted::bugs();
    assert!(bugs.len() > 20);
    for bug in bugs {
        let text = bug.planted(&distwasm_tests::real::root());
        assert!(!text.is_empty(), "{}", bug.what);
    }
}
