//! Some hundreds of simulated kingdoms; `simulate` runs thousands.
#![allow(clippy::panic, reason = "a test that finds something odd fails")]

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
    let Tally {
        verdicts,
        failed,
        dukes_lost,
        dukes_drained,
        queens_left,
        queens_stopped,
        peasants_died,
        jobs_unfit,
        slots_asked_back,
        offers,
        words_batched,
        queens_stalled,
        waits_for_room,
        lies,
        dukes_expelled,
        queens_expelled,
        ..
    } = tally;
    for (what, count) in [
        ("verdicts", verdicts),
        ("failed", failed),
        ("dukes_lost", dukes_lost),
        ("dukes_drained", dukes_drained),
        ("queens_left", queens_left),
        ("queens_stopped", queens_stopped),
        ("peasants_died", peasants_died),
        ("jobs_unfit", jobs_unfit),
        ("slots_asked_back", slots_asked_back),
        ("offers", offers),
        ("words_batched", words_batched),
        ("queens_stalled", queens_stalled),
        ("waits_for_room", waits_for_room),
        ("lies", lies),
        ("dukes_expelled", dukes_expelled),
        ("queens_expelled", queens_expelled),
    ] {
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

/// `scripts/planted` plants them; here it is only seen that it can.
#[test]
fn there_are_bugs_to_be_planted() {
    let bugs = distwasm_tests::planted::bugs();
    assert!(bugs.len() > 20);
    for bug in bugs {
        let text = bug.planted(&distwasm_tests::real::root());
        assert!(!text.is_empty(), "{}", bug.what);
    }
}
