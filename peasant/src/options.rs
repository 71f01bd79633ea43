//! The command line of `peasant`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{BoolishValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use distwasm_proto::limits::{CHECK_WITHIN, GUEST_MEMORY_BYTES, UNIT_BYTES_MAX};

use crate::guest::{Grants, SharedDir};

/// Runs one WebAssembly program over the inputs that arrive on stdin, and writes the answers to stdout.
///
/// Every message is a 32-bit little-endian length and that many bytes. The first message is the program (unless
/// --compiled names one); when it is ready, the peasant writes an empty message (four zero bytes). Every later message
/// is an input (with --described, each input is preceded by a message that describes its unit). Inputs are answered in
/// order by one message each: the result, or, with the top bit of its length set, a failure.
#[derive(Debug, Parser)]
#[command(name = "peasant", version, subcommand_negates_reqs = true)]
pub struct Options {
    /// A subcommand, instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// The subcommands of `peasant`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile the program on stdin, check that it can run here, and write the compiled form to a file.
    ///
    /// Exit status 2 means that the program is unfit, and stderr says why; 1 means that something else went wrong.
    Compile {
        /// Where to write the compiled program.
        #[arg(long, env = "DISTWASM_COMPILE_OUTPUT", value_name = "FILE")]
        output: PathBuf,
        /// How the program is called.
        #[command(flatten)]
        calling: Calling,
    },
    /// Say whether the program on stdin can run here, and what it is.
    ///
    /// Exit status 2 means that it cannot run, and stderr says why.
    Check {
        /// The program's name in messages.
        #[arg(long, value_name = "TEXT", default_value = "the program")]
        name: String,
        /// Answer this input, and show the answer.
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// How long initialising and answering may take, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = CHECK_WITHIN.as_millis() as u64)]
        within_ms: u64,
        /// The guest's grants.
        #[command(flatten)]
        guest: Guest,
    },
    /// Print a word that differs between peasants that cannot load each other's compiled programs.
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
    /// Each input is preceded by a message that describes its unit to the guest.
    ///
    /// It holds the unit's number (64 bits), the attempt's number (32 bits; both little-endian), and the unit's name.
    #[arg(long, env = "DISTWASM_DESCRIBED", value_parser = BoolishValueParser::new())]
    pub described: bool,
    /// The guest's grants.
    #[command(flatten)]
    pub guest: Guest,
}

/// How a program is called.
#[derive(Args, Clone, Debug)]
pub struct Calling {
    /// Call this export with the values found in each input, and answer with its results.
    #[arg(long, env = "DISTWASM_CALL", value_name = "NAME")]
    pub call: Option<String>,
    /// Give the same answer to the same input everywhere: fixed clock, seeded randomness, canonical NaNs, no state
    /// between inputs.
    #[arg(long, env = "DISTWASM_DETERMINISTIC", value_parser = BoolishValueParser::new())]
    pub deterministic: bool,
}

/// The guest's grants, and how it is called.
#[derive(Args, Clone, Debug)]
pub struct Guest {
    /// How it is called.
    #[command(flatten)]
    pub calling: Calling,
    /// Each input gets an instance of its own.
    #[arg(long, env = "DISTWASM_FRESH", value_parser = BoolishValueParser::new())]
    pub fresh: bool,
    /// With --deterministic: the seed of randomness, combined with the unit's name.
    #[arg(long, env = "DISTWASM_SEED", value_name = "TEXT", default_value = "")]
    pub seed: String,
    /// The job's id, for the guest's environment.
    #[arg(long, env = "DISTWASM_JOB", value_name = "ID")]
    pub job: Option<String>,
    /// A variable of the guest's environment.
    #[arg(long, value_name = "K=V", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// A directory that the guest may read.
    #[arg(long, value_name = "HOST_DIR::GUEST_DIR", value_parser = OsStringValueParser::new().try_map(|text| parse_dir(&text)))]
    pub dir: Vec<SharedDir>,
    /// The most bytes of all linear memories of the guest together.
    #[arg(long, env = "DISTWASM_MEMORY_BYTES", value_name = "N", default_value_t = GUEST_MEMORY_BYTES)]
    pub memory_bytes: u64,
    /// The longest answer of the guest to one input. [default: the same as --memory-bytes]
    #[arg(long, env = "DISTWASM_ANSWER_BYTES", value_name = "N")]
    pub answer_bytes: Option<u64>,
    /// The guest's own arguments.
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a variable is given as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Split at the last pair of colons: a folder of the host may have some in its name.
fn parse_dir(text: &OsStr) -> Result<SharedDir, &'static str> {
    let bytes = text.as_encoded_bytes();
    let cut = || {
        let middle = bytes.windows(2).rposition(|two| two == b"::")?;
        let guest_path = std::str::from_utf8(bytes.get(middle + 2..)?).ok()?.to_owned();
        let host_path = PathBuf::from(OsStr::from_bytes(bytes.get(..middle)?));
        Some(SharedDir { host_path, guest_path })
    };
    cut().ok_or("a directory is given as HOST_DIR::GUEST_DIR")
}

impl Calling {
    /// The grants that compiling needs.
    pub fn grants(&self) -> Grants {
        Grants { call: self.call.clone(), seed: self.deterministic.then(String::new), ..Grants::default() }
    }
}

impl Guest {
    /// These flags as the guest's grants.
    pub fn grants(&self) -> Grants {
        let Calling { call, deterministic } = self.calling.clone();
        // The longest answer is never above what a frame can carry.
        let answer_bytes = self.answer_bytes.unwrap_or(self.memory_bytes).min(UNIT_BYTES_MAX);
        Grants {
            args: self.args.clone(),
            env: self.env.clone(),
            dirs: self.dir.clone(),
            call,
            // State that an instance keeps depends on the units before, so a deterministic guest is always fresh.
            fresh: self.fresh || deterministic,
            seed: deterministic.then(|| self.seed.clone()),
            job: self.job.clone(),
            memory_bytes_max: usize::try_from(self.memory_bytes).unwrap_or(usize::MAX),
            output_bytes_max: usize::try_from(answer_bytes).unwrap_or(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_after_two_dashes_are_the_guests() {
        let options = Options::parse_from(["peasant", "--memory-bytes", "5", "--", "compile", "--output"]);
        assert!(options.command.is_none());
        assert_eq!(options.serve.guest.args, ["compile", "--output"]);
        assert_eq!(options.serve.guest.grants().output_bytes_max, 5);
    }

    #[test]
    fn the_flags_of_a_command_are_its_own() {
        let options = Options::parse_from(["peasant", "compile", "--output", "x"]);
        assert!(matches!(options.command, Some(Command::Compile { output, .. }) if output.as_os_str() == "x"));
    }

    #[test]
    fn a_folder_and_a_variable_are_cut_in_the_right_place() {
        let options = Options::parse_from(["peasant", "--env", "A=b=c", "--env=D=", "--dir", "/a::b::/c"]);
        let grants = options.serve.guest.grants();
        assert_eq!(grants.env, [("A".to_owned(), "b=c".to_owned()), ("D".to_owned(), String::new())]);
        assert_eq!(grants.dirs, [SharedDir { host_path: "/a::b".into(), guest_path: "/c".to_owned() }]);
    }

    #[test]
    fn deterministic_guests_are_fresh() {
        let grants = Options::parse_from(["peasant", "--deterministic", "--seed", "s"]).serve.guest.grants();
        assert_eq!((grants.fresh, grants.seed.as_deref()), (true, Some("s")));
        assert_eq!(Options::parse_from(["peasant", "--seed", "s"]).serve.guest.grants().seed, None);
    }
}
