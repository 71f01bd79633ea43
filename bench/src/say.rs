//! Where this program talks: results to stdout, all else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for the terminal")]

/// Says a result.
pub fn result(text: &str) {
    println!("{text}");
}

/// Says what is going on.
pub fn note(text: &str) {
    eprintln!("{text}");
}
