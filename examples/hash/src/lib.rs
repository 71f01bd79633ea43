//! Hash as a ProcessStdio guest: one instance searches for as long as there are inputs.

mod answer;
mod search;
mod sha256;

distwasm_guest::process_stdio!(answer::answer);
