//! A few seconds of what `scripts/soak` does for minutes.

#[test]
fn jobs_come_to_their_end_in_the_midst_of_trouble() {
    distwasm_tests::chaos::run(7, 5);
}
