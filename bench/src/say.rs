//! The output of this program: results to stdout, everything else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for the terminal")]

/// Prints a result.
pub fn result(text: &str) {
    println!("{text}");
}

/// Prints progress.
pub fn note(text: &str) {
    eprintln!("{text}");
}
