//! Summer as a ProcessStdio guest: one instance adds for as long as there are inputs.

mod sum;

distwasm_guest::process_stdio!(sum::answer);
