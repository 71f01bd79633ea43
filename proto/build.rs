//! Generates the messages from `distwasm/v1/*.proto`, without an installed `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// Fields that are large and seldom sent. They are boxed, so that frequent words stay small.
const SELDOM: [&str; 6] = [
    "AttemptEnded.failure",
    "DukeOrder.order.open_lease",
    "DukeWord.word.hello",
    "DukeWord.word.held_lease",
    "QueenWord.word.open_job",
    "Verdict.failure",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=distwasm");
    let descriptors =
        protox::compile(["king", "programs", "admin"].map(|name| format!("distwasm/v1/{name}.proto")), ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut configuration = prost_build::Config::new();
    configuration.bytes(["."]);
    for field in SELDOM {
        configuration.boxed(format!(".distwasm.v1.{field}"));
    }
    configuration.compile_fds(descriptors)?;
    Ok(())
}
