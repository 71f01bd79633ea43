//! The ways to call a guest. Each is one file, and one arm in [`start`].

mod command;
mod process_stdio;

use bytes::Bytes;
use distwasm_proto::failure::Failure;

use crate::guest::Grants;
use crate::program::{Kind, Program};

/// A guest that is ready for units.
pub trait Abi {
    /// Answers one unit. After a failure the guest is as good as new.
    fn answer(&mut self, input: Bytes) -> Result<&[u8], Failure>;
}

/// Initialises a program's guest.
pub fn start(program: &Program, grants: Grants) -> Result<Box<dyn Abi>, Failure> {
    let linked = program.linked.clone();
    Ok(match program.kind {
        Kind::ProcessStdio => Box::new(process_stdio::ProcessStdio::start(linked, grants)?),
        Kind::Command => Box::new(command::Command::start(linked, grants)?),
    })
}
