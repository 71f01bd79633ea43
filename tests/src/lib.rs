//! Tests of the whole system: the kingdom in one thread from seeds, and helpers for tests of the real processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "an unexpected result fails the test"
)]

pub mod chaos;
pub mod fuzz;
pub mod planted;
pub mod pure;
pub mod real;
pub mod remembering;
pub mod sim;
