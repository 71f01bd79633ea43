//! Wordcount as a ProcessStdio guest: one instance counts for as long as there are inputs.

mod count;

distwasm_guest::process_stdio!(count::answer);
