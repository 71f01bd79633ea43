//! The options of a run, as they are parsed from the command line. [`crate::prepare`] checks them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, builder::BoolishValueParser};
use distwasm_duke::jail::RequiredJail;
use distwasm_jobs::{
    output_name::OutputName,
    run_limits::{FailureLimit, RunLimits},
};
use distwasm_process::{flags, guest_flags::GuestFlags, logging::LogFormat, token_flags::TokenFlags, version::version};
use distwasm_proto::{limits::DUKE_CPUS_MAX, time::Time};
use distwasm_transport::{
    address::Address,
    credentials::{Credentials, CredentialsError},
    link::KingAddress,
};

use crate::{
    input_place::STANDARD, scheduling_options::SchedulingOptions, selection_options::SelectionOptions,
    shared_folders::Shared,
};

/// Runs one WebAssembly program over every file below a folder, and writes a folder of results.
///
/// Without --king-address everything happens on this machine. An input whose output exists is done: run the same
/// command again to resume.
///
/// Exit status: 0 all done, 1 some units failed, 2 the job could not run, or not to its end, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "queen", version = version(), after_help = "More to read: queen help kinds|outputs|failures")]
pub struct Options {
    /// The program: a WebAssembly module or component, binary or text; @NAME, @NAME:VERSION or @sha256:DIGITS is one that
    /// the king keeps (queen push)
    #[arg(short, long, value_name = "PROGRAM", env = "DISTWASM_BINARY")]
    pub binary: PathBuf,

    /// The king to submit to [default: none; everything runs on this machine]
    #[arg(short, long, value_name = "HOST:PORT", env = "DISTWASM_KING_ADDRESS")]
    pub king_address: Option<Address>,

    /// How the king lets this queen in.
    #[command(flatten)]
    pub token: TokenFlags,

    /// Run on this machine, even if DISTWASM_KING_ADDRESS names a king
    #[arg(long, env = "DISTWASM_LOCAL", value_parser = BoolishValueParser::new())]
    pub local: bool,

    /// A label for the job; slots are shared fairly between projects [default: the program's name without extension]
    #[arg(short, long, value_name = "NAME", env = "DISTWASM_PROJECT")]
    pub project: Option<String>,

    /// Folder of inputs (every file below it is one, hidden ones too), a single file, or `-` for one input from stdin
    #[arg(short, long, value_name = "DIR|FILE|-", default_value = "input", env = "DISTWASM_INPUT")]
    pub input: PathBuf,

    /// Folder of outputs, which get the names of their inputs; created if missing. With a single input, `-` writes its
    /// result to stdout
    #[arg(short, long, value_name = "DIR|-", default_value = "output", env = "DISTWASM_OUTPUT")]
    pub output: PathBuf,

    /// What an output is called, such as {dir}/{stem}.png: {path} of the input, its {dir}, {name}, {stem} and {ext},
    /// and its {number} in the order of the inputs, which must stay the same [default: {path}]
    #[arg(long, value_name = "TEMPLATE", env = "DISTWASM_OUTPUT_NAME")]
    pub output_name: Option<OutputName>,

    /// Which files are inputs.
    #[command(flatten)]
    pub selection: SelectionOptions,

    /// The dukes see the folders of inputs and outputs, or one of them, at the same paths, and may use them (`duke
    /// --allow-dir`): they read and write there themselves, and nothing goes through the king. Without a king that is done
    /// for inputs of 16 KiB and more; with this flag for all
    #[arg(long, value_name = "FOLDERS", num_args = 0..=1, require_equals = true, default_missing_value = "both", value_enum, env = "DISTWASM_SHARED")]
    pub shared: Option<Shared>,

    /// Print what would be done with each input, and why, and run nothing
    #[arg(short = 'n', long, env = "DISTWASM_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,

    /// Run inputs again that are newer than their outputs, or whose outputs were made by another program, or with other
    /// arguments or settings
    #[arg(long, env = "DISTWASM_UPDATE", value_parser = BoolishValueParser::new())]
    pub update: bool,

    /// Run all inputs, also those that have outputs
    #[arg(long)]
    pub force: bool,

    /// Before the run, remove files from the output folder that are outputs of no input; --dry-run shows which
    #[arg(long)]
    pub prune: bool,

    /// Memory that each slot must have, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576 bytes)
    #[arg(short, long, value_name = "SIZE", default_value_t = 0, env = "DISTWASM_MIN_RAM", value_parser = flags::megabytes)]
    pub min_ram: u64,

    /// Run at most one unit at a time on each machine, with all its memory
    #[arg(long, env = "DISTWASM_ONE_PER_MACHINE", value_parser = BoolishValueParser::new())]
    pub one_per_machine: bool,

    /// How this job is scheduled among others.
    #[command(flatten)]
    pub scheduling: SchedulingOptions,

    /// How long one unit may take, such as 30s or 5min [default: no limit, or the longest that the king allows]
    #[arg(long, value_name = "DURATION", env = "DISTWASM_TIMEOUT", value_parser = flags::positive_duration)]
    pub timeout: Option<Duration>,

    /// How often a failed unit is tried again
    #[arg(long, value_name = "N", default_value_t = 0, env = "DISTWASM_RETRIES", value_parser = flags::whole_number(0..=u32::MAX))]
    pub retries: u32,

    /// Stop the job when more than N units have failed, or more than P% of the finished ones, judged from the 100th
    /// finished unit on [default: never]
    #[arg(long, value_name = "N|P%", env = "DISTWASM_MAX_FAILURES")]
    pub max_failures: Option<FailureLimit>,

    /// How long the whole run may take, such as 30min or 8h; finished outputs are kept [default: no limit]
    #[arg(long, value_name = "DURATION", env = "DISTWASM_TIME_LIMIT", value_parser = flags::positive_duration)]
    pub time_limit: Option<Duration>,

    /// How long to try to reconnect to the job when the connection to the king breaks, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "DISTWASM_GRACE", value_parser = flags::duration)]
    pub grace: Duration,

    /// Send only the inputs that are named in the failures file of an earlier run into this output folder
    #[arg(long, env = "DISTWASM_RETRY_FAILED", value_parser = BoolishValueParser::new())]
    pub retry_failed: bool,

    /// File of failures, one JSON object per line; must not be in the input folder [default: OUTPUT.failures.jsonl]
    #[arg(long, value_name = "FILE", env = "DISTWASM_FAILURES")]
    pub failures: Option<PathBuf>,

    /// How long an output may be, such as 100MB or 50G; a longer one is a failure [default: 16G for what is written to
    /// stdout, the memory of its slot for other answers]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_MAX_OUTPUT", value_parser = flags::positive_megabytes)]
    pub max_output: Option<u64>,

    /// Say nothing if all outputs are empty
    #[arg(long, env = "DISTWASM_OK_EMPTY", value_parser = BoolishValueParser::new())]
    pub ok_empty: bool,

    /// The settings of the guest program
    #[command(flatten)]
    pub guest: GuestFlags,

    /// Call fsync for each output before it counts as done
    #[arg(long, env = "DISTWASM_SYNC", value_parser = BoolishValueParser::new())]
    pub sync: bool,

    /// Print a summary as JSON to stdout
    #[arg(long, env = "DISTWASM_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Print only errors and failures
    #[arg(short, long, env = "DISTWASM_QUIET", conflicts_with = "verbose", value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// Print more: each failure as it happens, and the logs of king and duke; give it twice for even more
    #[arg(short, long, action = clap::ArgAction::Count, env = "DISTWASM_VERBOSE")]
    pub verbose: u8,

    /// Without a king: peasants to run at a time [default: the processors that this process may use]
    #[arg(visible_short_alias = 'j', long, visible_alias = "jobs", value_name = "N", env = "DISTWASM_NUM_CPUS", value_parser = flags::whole_number(1..=DUKE_CPUS_MAX))]
    pub num_cpus: Option<u32>,

    /// Without a king: memory for all guests together, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576
    /// bytes) [default: half of this machine's memory]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_RAM_LIMIT", value_parser = flags::positive_megabytes)]
    pub ram_limit: Option<u64>,

    /// Without a king: processor time for compiling the program, such as 300s or 20min; it may take 10 times as long on a
    /// busy machine
    #[arg(long, value_name = "DURATION", default_value = "300s", env = "DISTWASM_COMPILE_TIMEOUT", value_parser = flags::positive_duration)]
    pub compile_timeout: Duration,

    /// Without a king: the peasant program [default: `peasant` beside this program, else in PATH]
    #[arg(long, value_name = "PATH", env = "DISTWASM_PEASANT")]
    pub peasant: Option<PathBuf>,

    /// Without a king: refuse to run unless the jail of peasants has these walls; `peasant jail` tells which hold here
    #[arg(long, value_name = "WALLS", value_enum, default_value_t, env = "DISTWASM_REQUIRE_JAIL")]
    pub require_jail: RequiredJail,

    /// Without a king: folder for compiled programs [default: distwasm in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "DISTWASM_CACHE")]
    pub cache: Option<PathBuf>,

    /// Flags that were typed and have no effect, with the reason.
    #[arg(skip)]
    pub idle_flags: Vec<String>,

    /// Format of log lines; RUST_LOG selects which lines are printed
    #[arg(long, value_enum, default_value_t, env = "DISTWASM_LOG_FORMAT")]
    pub log_format: LogFormat,
}

impl Options {
    /// Where the king is, and what it is told; `None` without a king.
    ///
    /// # Errors
    ///
    /// When there is no token, and there must be one.
    pub fn king(&self) -> Result<Option<KingAddress>, CredentialsError> {
        let Some(address) = &self.king_address else { return Ok(None) };
        let credentials = Credentials::find(address, self.token.token_file.as_deref(), self.token.insecure)?;
        Ok(Some(KingAddress::Remote(address.clone(), credentials)))
    }

    /// What outputs are called. If the program leaves results in files with an ending (`{out.png}`), outputs in a folder
    /// get that ending, too.
    pub fn output_name(&self) -> Option<OutputName> {
        let ending = self.guest.arguments().ending().filter(|_| self.output != Path::new(STANDARD)).map(str::to_owned);
        let by_ending = || ending.and_then(|ending| format!("{{dir}}/{{stem}}.{ending}").parse().ok());
        self.output_name.clone().or_else(by_ending)
    }

    /// The limits of the run; its time counts from zero of the run's clock.
    pub fn limits(&self) -> RunLimits {
        let ends_at = self.time_limit.map(|limit| Time::default().after(limit));
        RunLimits { failures: self.max_failures, ends_at }
    }
}
