//! The example guests: every program in every language gives the expected answers, and none is older than its sources.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test ends where its expectation does"
)]

mod fresh;
mod languages;
mod markdown;
mod new;
mod run;
