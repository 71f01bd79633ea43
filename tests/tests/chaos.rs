//! Runs the trouble of `scripts/soak` for a few seconds.

use distwasm_tests::chaos::{Way, run};

#[test]
fn jobs_end_well_amid_trouble() {
    run(7, 5, &[Way::Carried]);
}

#[test]
fn jobs_whose_files_are_not_carried_end_well_amid_trouble() {
    run(8, 5, &[Way::Shared("--shared"), Way::Here]);
}
