//! The command line of `peasant`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use distwasm_process::guest_flags::{CallFlags, GuestFlags, UnknownImports};
use distwasm_process::version::version;
use distwasm_proto::limits::{
    CHECK_WITHIN, COMPILE_DATA_BYTES_MAX, COMPILE_WITHIN, FILE_OUTPUT_BYTES_MAX, GUEST_MEMORY_BYTES, SCRATCH_BYTES,
    UNIT_BYTES_MAX,
};
use distwasm_proto::walls::{Wall, names};

use crate::guest::{Grants, SharedDir};

/// Runs one WebAssembly program over the inputs that arrive on stdin, and writes the answers to stdout.
///
/// Every message is a 32-bit little-endian length and that many bytes. The first message is the program (unless
/// --compiled names one); when it is ready, the peasant writes an empty message (four zero bytes). Every later message
/// is an input (with --described, each input is preceded by a message that describes its unit). Inputs are answered in
/// order by one message each: the result, or, with the top bit of its length set, a failure.
#[derive(Debug, Parser)]
#[command(name = "peasant", version = version(), subcommand_negates_reqs = true)]
pub struct Options {
    /// A subcommand, instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
    /// Start only if these walls of the jail hold, named as by `peasant jail` and separated by commas.
    #[arg(long, value_name = "WALLS", global = true, value_delimiter = ',', value_parser = parse_wall)]
    pub walls: Vec<Wall>,
    /// Read more flags from this open descriptor, each ended by a zero byte, as if they stood here.
    ///
    /// Other users see a command line, but not what comes this way.
    #[arg(long, value_name = "N")]
    pub args_fd: Option<u32>,
}

fn parse_wall(name: &str) -> Result<Wall, String> {
    Wall::from_name(name).ok_or_else(|| format!("there is no wall with this name; there are {}", names(Wall::all())))
}

/// What compiling a program may take.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompileLimits {
    /// The processor time that compiling may take, in seconds.
    #[arg(long, env = "DISTWASM_COMPILE_CPU_SECONDS", value_name = "N", default_value_t = COMPILE_WITHIN.as_secs())]
    pub cpu_seconds: u64,

    /// The memory that compiling may take, in bytes.
    #[arg(long, env = "DISTWASM_COMPILE_DATA_BYTES", value_name = "N", default_value_t = COMPILE_DATA_BYTES_MAX)]
    pub data_bytes: u64,
}

impl Default for CompileLimits {
    fn default() -> CompileLimits {
        CompileLimits { cpu_seconds: COMPILE_WITHIN.as_secs(), data_bytes: COMPILE_DATA_BYTES_MAX }
    }
}

/// The subcommands of `peasant`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile the program on stdin, check that it can run here, and write the compiled form to a file.
    ///
    /// Exit status 2 means that the program is unfit, and stderr says why; 1 means that something else went wrong.
    Compile {
        /// Where to write the compiled program. The file stays empty if the program is unfit.
        #[arg(long, env = "DISTWASM_COMPILE_OUTPUT", value_name = "FILE")]
        output: PathBuf,
        /// What compiling may take.
        #[command(flatten)]
        limits: CompileLimits,
        /// How the program is called.
        #[command(flatten)]
        calling: CallFlags,
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
        /// The name of the input, if it is not that of its file.
        #[arg(long, value_name = "NAME", requires = "input")]
        input_name: Option<String>,
        /// How long initialising and answering may take, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = CHECK_WITHIN.as_millis() as u64)]
        within_ms: u64,
        /// The guest's grants.
        #[command(flatten)]
        guest: Box<Guest>,
    },
    /// Enter the jail and say which of its walls hold here, and why others do not, as one line of JSON; and a word that
    /// differs between peasants that cannot load each other's compiled programs.
    Jail {
        /// Whose jail.
        #[arg(long = "as", value_name = "WHO", value_enum, default_value_t)]
        of: Inmate,
        /// A folder that may be read in it, as a shared directory may.
        #[arg(long, value_name = "DIR", hide = true)]
        share: Option<PathBuf>,
        /// Then try to get out, and say what came of it.
        #[arg(long = "try", value_names = ["WHAT", "WHERE"], hide = true, num_args = 1..=2)]
        attempt: Vec<String>,
    },
}

/// A process that lives in the jail.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Inmate {
    /// A peasant that serves.
    #[default]
    Peasant,
    /// A compiler.
    Compiler,
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
    /// Take open files of inputs and outputs from this Unix socket, which is open as this descriptor.
    ///
    /// Implies --described. Before each description, in the same message, are a byte that says whether the input (1) and
    /// the output (2) of the unit are files, and the input's size (64 bits, little-endian). Their descriptors come over
    /// the socket in this order, those of many units in a message, whose one byte is their number. An input that is a
    /// file has no message of its own, and the answer to a unit whose output is a file is empty if it is good.
    #[arg(long, value_name = "N")]
    pub descriptors: Option<i32>,
    /// The guest's grants.
    #[command(flatten)]
    pub guest: Guest,
}

/// The guest's grants, and how it is called.
#[derive(Args, Clone, Debug)]
pub struct Guest {
    /// How it is called, and what it gets.
    #[command(flatten)]
    pub flags: GuestFlags,
    /// With --deterministic: the seed of randomness, combined with the unit's name.
    #[arg(long, env = "DISTWASM_SEED", value_name = "TEXT", default_value = "")]
    pub seed: String,
    /// The job's id, for the guest's environment.
    #[arg(long, env = "DISTWASM_JOB", value_name = "ID")]
    pub job: Option<String>,
    /// The most bytes of all linear memories of the guest together.
    #[arg(long, env = "DISTWASM_MEMORY_BYTES", value_name = "N", default_value_t = GUEST_MEMORY_BYTES)]
    pub memory_bytes: u64,
    /// The longest answer of the guest to one input. [default: the same as --memory-bytes]
    #[arg(long, env = "DISTWASM_ANSWER_BYTES", value_name = "N")]
    pub answer_bytes: Option<u64>,
    /// The longest answer to one input, also where that goes to a file. [default: --answer-bytes, or 16 GiB in a file]
    #[arg(long, value_name = "N")]
    pub max_output_bytes: Option<u64>,
}

/// The grants that compiling needs.
pub fn grants_to_compile(calling: &CallFlags) -> Grants {
    Grants {
        call: calling.call.clone(),
        seed: calling.deterministic.then(String::new),
        traps_unknown_imports: calling.unknown_imports == UnknownImports::Trap,
        ..Grants::default()
    }
}

impl Guest {
    /// These flags as the guest's grants. Ends the process if a variable or a directory is not written as one.
    pub fn grants(&self) -> Grants {
        let refused = |why| Options::command().error(ErrorKind::ValueValidation, why).exit();
        self.checked().unwrap_or_else(refused)
    }

    fn checked(&self) -> Result<Grants, String> {
        let Guest { flags, seed, job, memory_bytes, answer_bytes, max_output_bytes } = self;
        let CallFlags { call, deterministic, unknown_imports } = flags.calling.clone();
        let variable = |text: &String| {
            let (key, value) = text.split_once('=').ok_or_else(|| format!("--env {text} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let env = flags.variables().map_err(|error| error.to_string())?;
        let dirs = flags.directories().map_err(|error| error.to_string())?;
        let dirs = dirs.into_iter().map(|(host_path, guest_path)| SharedDir::new(host_path, guest_path));
        // The longest answer is never above what a frame can carry.
        let answer_bytes = answer_bytes.unwrap_or(*memory_bytes).min(UNIT_BYTES_MAX);
        let answer_bytes = answer_bytes.min(max_output_bytes.unwrap_or(u64::MAX));
        Ok(Grants {
            args: flags.arguments(),
            env: env.iter().map(variable).collect::<Result<_, String>>()?,
            dirs: dirs.collect(),
            call,
            fresh: flags.is_fresh(),
            argv0: flags.argv0.clone(),
            stack_bytes: flags.stack.and_then(|bytes| usize::try_from(bytes).ok()),
            traps_unknown_imports: unknown_imports == UnknownImports::Trap,
            seed: deterministic.then(|| seed.clone()),
            job: job.clone(),
            memory_bytes_max: usize::try_from(*memory_bytes).unwrap_or(usize::MAX),
            output_bytes_max: usize::try_from(answer_bytes).unwrap_or(usize::MAX),
            file_bytes_max: max_output_bytes.unwrap_or(FILE_OUTPUT_BYTES_MAX),
            ok_statuses: flags.ok_status.clone().unwrap_or_default(),
            scratch_bytes: flags.scratch.unwrap_or_else(|| SCRATCH_BYTES.min(memory_bytes / 2)).min(*memory_bytes),
            files: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_after_two_dashes_are_the_guests() {
        let options = Options::parse_from(["peasant", "--memory-bytes", "5", "--", "compile", "--output"]);
        assert!(options.command.is_none());
        assert_eq!(options.serve.guest.flags.args, ["compile", "--output"]);
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
        let dirs: Vec<_> = grants.dirs.into_iter().map(|dir| (dir.host_path, dir.guest_path)).collect();
        assert_eq!(dirs, [("/a::b".into(), "/c".to_owned())]);
        for wrong in [["--env", "DISTWASM_NO_SUCH_NAME"], ["--dir", "/a"]] {
            let options = Options::parse_from(["peasant"].into_iter().chain(wrong));
            assert!(options.serve.guest.checked().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn deterministic_guests_are_fresh() {
        let grants = Options::parse_from(["peasant", "--deterministic", "--seed", "s"]).serve.guest.grants();
        assert_eq!((grants.fresh, grants.seed.as_deref()), (true, Some("s")));
        assert_eq!(Options::parse_from(["peasant", "--seed", "s"]).serve.guest.grants().seed, None);
    }
}
