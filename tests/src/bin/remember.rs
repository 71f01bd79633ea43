//! A process that a test kills: takes the steps of `remembering.rs` in the store of a folder, and writes a line to stdout
//! when a step is acknowledged.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "this is a part of a test")]

use std::{env, io::Write, path::PathBuf};

use distwasm_tests::remembering::take_all;

fn main() {
    let folder = PathBuf::from(env::args_os().nth(1).expect("the folder of a store"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(take_all(&folder, |steps| {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{steps}").and_then(|()| stdout.flush()).expect("stdout is read");
    }));
}
