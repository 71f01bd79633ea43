//! Runs the trouble of `scripts/soak` for a few seconds.

#[test]
fn jobs_end_well_amid_trouble() {
    distwasm_tests::chaos::run(7, 5);
}
