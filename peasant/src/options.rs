//! The command line of `peasant`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use distwasm_proto::limits::{GUEST_MEMORY_BYTES, UNIT_BYTES_MAX};

/// Runs one WebAssembly program over the inputs that arrive on stdin, and writes the answers to stdout.
///
/// Every message is a 32-bit little-endian length and that many bytes. The first is the program (unless --compiled names
/// one); when it is ready, an empty message (four zero bytes) says so. Every later message is an input, answered in order
/// by one message: the result, or, with the top bit of its length set, a failure.
#[derive(Debug, Parser)]
#[command(name = "peasant", version, subcommand_negates_reqs = true)]
pub struct Options {
    /// Something else than serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// What `peasant` does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile the program on stdin, check that it can run here, and write the compiled form to a file.
    ///
    /// Exit status 2 says that the program is unfit, and stderr why; 1 that something else went wrong.
    Compile {
        /// Where to write the compiled program.
        #[arg(long, env = "DISTWASM_COMPILE_OUTPUT", value_name = "FILE")]
        output: PathBuf,
    },
    /// Print a word that differs between peasants that cannot use each other's compiled programs.
    Fingerprint,
}

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Map this program, compiled by `peasant compile`, instead of reading one from stdin.
    ///
    /// The file is trusted: it must come from a peasant with the same fingerprint.
    #[arg(long, env = "DISTWASM_COMPILED", value_name = "FILE")]
    pub compiled: Option<PathBuf>,
    /// What the guest's linear memories may take, all together.
    #[arg(long, env = "DISTWASM_MEMORY_BYTES", value_name = "N", default_value_t = GUEST_MEMORY_BYTES)]
    pub memory_bytes: u64,
    /// The longest answer of the guest to one input. [default: the same as --memory-bytes]
    #[arg(long, env = "DISTWASM_ANSWER_BYTES", value_name = "N")]
    pub answer_bytes: Option<u64>,
    /// The guest's own arguments.
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

impl Serve {
    /// The longest answer, never above what a frame can carry.
    pub fn answer_bytes_max(&self) -> usize {
        let wanted = self.answer_bytes.unwrap_or(self.memory_bytes).min(UNIT_BYTES_MAX);
        usize::try_from(wanted).unwrap_or(usize::MAX)
    }

    /// The bound of all linear memories together.
    pub fn memory_bytes_max(&self) -> usize {
        usize::try_from(self.memory_bytes).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_two_dashes_is_the_guests() {
        let options = Options::parse_from(["peasant", "--memory-bytes", "5", "--", "compile", "--output"]);
        assert!(options.command.is_none());
        assert_eq!(options.serve.args, ["compile", "--output"]);
        assert_eq!(options.serve.answer_bytes_max(), 5);
    }

    #[test]
    fn the_flags_of_a_command_are_its_own() {
        let options = Options::parse_from(["peasant", "compile", "--output", "x"]);
        assert!(matches!(options.command, Some(Command::Compile { output }) if output.as_os_str() == "x"));
    }
}
